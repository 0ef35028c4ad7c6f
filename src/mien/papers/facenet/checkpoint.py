"""Public checkpoints into ours: the PyTorch port's layout, the TensorFlow original's, and a file for the verbs.

Both are of `InceptionResnetV1`, whose state-dict keys are the port's own; so a checkpoint of the port is checked and
passed on, and one of the original is renamed, turned and completed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mien.errors import CheckpointError, OptionError
from mien.nn.inception import BLOCK8, BLOCK17, BLOCK35, MIXED_6A, MIXED_7A, InceptionResnetV1, Layer
from mien.weights import EmbeddingContract, InputContract, Weights
from mien.weights.converted import faults, on_disk
from mien.weights.load import fill, read_state

Classifier = Literal["drop", "keep"]


class Released(NamedTuple):
    """What is known of a released checkpoint: file name of the port, people it was trained on, set."""

    file: str
    classes: int
    data: str


RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        "vggface2": Released("20180402-114759-vggface2.pt", 8631, "VGGFace2"),
        "casia-webface": Released("20180408-102900-casia-webface.pt", 10575, "CASIA-WebFace"),
    }
)
"""The two checkpoints of release v2.2.9 of facenet-pytorch, which are D. Sandberg's of the same dates, converted."""

BOX_MARGIN = 1.25
"""Sides of the detected box that the square crop is wide, for the verbs: 160 px of which 32 are margin."""


def convert_official(state: Mapping[str, Any], *, classifier: Classifier = "drop") -> dict[str, Tensor]:
    """The state dict of `inception_resnet_v1` from a public checkpoint; what is unknown or missing is an error.

    Parameters
    ----------
    state
        Tensors or arrays by name: the state dict of facenet-pytorch's ``InceptionResnetV1`` (``conv2d_1a.conv.weight``
        …), or the variables of D. Sandberg's TensorFlow models (``InceptionResnetV1/Conv2d_1a_3x3/weights`` …), without
        the optimiser's. Embeddings of any length are taken (512, in older models 128).
    classifier
        What becomes of the layer over the training people (8631 rows for VGGFace2, 10575 for CASIA-WebFace): "drop" it,
        or "keep" it for a network built with ``classes=``. A state without one gives none in either case.

    Returns
    -------
    dict
        Float32 tensors; fits ``inception_resnet_v1(dim=…, classes=…)`` strictly.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    if classifier not in get_args(Classifier):
        raise OptionError.unknown("unknown choice for the classifier", classifier, get_args(Classifier))
    tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    if any(name.partition("/")[0] in ("InceptionResnetV1", "Logits") for name in tensors):
        tensors = _from_tensorflow(tensors)
    bottleneck, rows = tensors.get("last_linear.weight"), tensors.get("logits.weight")
    dim = len(bottleneck) if bottleneck is not None else 512
    classes = len(rows) if rows is not None else (1 if "logits.bias" in tensors else None)
    with torch.device("meta"):
        expected = InceptionResnetV1(dim=dim, classes=classes).state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    told = {
        "missing": sorted(expected.keys() - tensors.keys() - counters),
        "unknown": sorted(tensors.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(tensors[name].shape)} for {tuple(expected[name].shape)}"
            for name in tensors.keys() & expected.keys()
            if tensors[name].shape != expected[name].shape
        ),
    }
    _refuse(told, len(tensors))
    kept = [name for name in expected if classifier == "keep" or not name.startswith("logits.")]
    zero = torch.zeros((), dtype=torch.int64)
    return {name: tensors.get(name, zero) if name in counters else tensors[name].float() for name in kept}


def _refuse(told: Mapping[str, Sequence[str]], count: int) -> None:
    """CheckpointError if there is anything to tell."""
    if wrong := faults(told):
        raise CheckpointError(
            f"the checkpoint is not one of Inception-ResNet-v1: {wrong}",
            got=f"{count} tensors",
            expected="a state dict of facenet-pytorch, or the model's variables of davidsandberg/facenet and no others",
            hint="take the model's own tensors out of the file, without an optimiser's or an average's",
        )


# ------------------------------------------------------------------------------------------- TensorFlow's names

STEM = {
    "conv2d_1a": "Conv2d_1a_3x3",
    "conv2d_2a": "Conv2d_2a_3x3",
    "conv2d_2b": "Conv2d_2b_3x3",
    "conv2d_3b": "Conv2d_3b_1x1",
    "conv2d_4a": "Conv2d_4a_3x3",
    "conv2d_4b": "Conv2d_4b_3x3",
}


def _units() -> Iterator[tuple[str, str]]:
    """Every convolution with normalisation: our name, and its scope in TensorFlow."""
    yield from STEM.items()
    blocks: list[tuple[str, str, Sequence[Sequence[Layer]]]] = [
        ("mixed_6a", "Mixed_6a", MIXED_6A),
        ("mixed_7a", "Mixed_7a", MIXED_7A),
        ("block8", "Block8", BLOCK8),
    ]
    for ours, scope, count, branches in _REPEATS:
        blocks += [(f"{ours}.{index}", f"{scope}_{index + 1}", branches) for index in range(count)]
    for ours, scope, branches in blocks:
        for number, layers in enumerate(branches):
            for place, (_, kernel, stride) in enumerate(layers):
                height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
                # Slim's habit: 0a, 0b, 0c along a branch, 1a for the strided end, nothing for a branch of one.
                label = "1a_" if stride == 2 else "" if len(layers) == 1 else f"0{'abc'[place]}_"
                own = f"{ours}.branch{number}" + (f".{place}" if len(layers) > 1 else "")
                yield own, f"{scope}/Branch_{number}/Conv2d_{label}{height}x{width}"


_REPEATS = (
    ("repeat_1", "Repeat/block35", 5, BLOCK35),
    ("repeat_2", "Repeat_1/block17", 10, BLOCK17),
    ("repeat_3", "Repeat_2/block8", 5, BLOCK8),
)


def tensorflow_names() -> dict[str, str]:
    """Names of our tensors by the names of TensorFlow's variables, the classifier's among them."""
    root = "InceptionResnetV1"
    names = {f"{root}/{scope}/weights": f"{ours}.conv.weight" for ours, scope in _units()}
    norms = [(f"{scope}/BatchNorm", f"{ours}.bn") for ours, scope in _units()]
    for scope, ours in [*norms, ("Bottleneck/BatchNorm", "last_bn")]:
        for variable, tensor in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            names[f"{root}/{scope}/{variable}"] = f"{ours}.{tensor}"
    residual = [(f"{scope}_{index + 1}", f"{ours}.{index}") for ours, scope, count, _ in _REPEATS
                for index in range(count)]  # fmt: skip
    for scope, ours in [*residual, ("Block8", "block8")]:
        names[f"{root}/{scope}/Conv2d_1x1/weights"] = f"{ours}.conv2d.weight"
        names[f"{root}/{scope}/Conv2d_1x1/biases"] = f"{ours}.conv2d.bias"
    names[f"{root}/Bottleneck/weights"] = "last_linear.weight"
    names["Logits/weights"], names["Logits/biases"] = "logits.weight", "logits.bias"
    return names


def _from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and layouts: kernels HWIO become OIHW, matrices are transposed, gains, which Slim leaves out, are 1."""
    names = tensorflow_names()
    # A model without its classifier is whole: it is what was frozen for use.
    needed = [name for name in names if not name.startswith("Logits/") or "Logits/weights" in variables]
    _refuse(
        {
            "missing": sorted(set(needed) - variables.keys()),
            "unknown": sorted(variables.keys() - names.keys()),
        },
        len(variables),
    )
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        ours = names[name]
        if value.ndim == 4:
            value = value.permute(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        state[ours] = value.contiguous()
        if ours.endswith(".running_var"):
            state[ours.replace(".running_var", ".weight")] = torch.ones_like(value)
    return state


# ------------------------------------------------------------------------------------------- for the verbs


def import_official(file: str | Path, out: str | Path, *, name: str = "facenet") -> Weights:
    """Converts a public checkpoint into a safetensors file, and declares it.

    ``mien weights import facenet FILE`` keeps both for all later sessions. For one session, at a place of your own:

        from mien import embed
        from mien.papers import facenet
        from mien.weights import register

        register(facenet.import_official("20180402-114759-vggface2.pt", "facenet-vggface2.safetensors"))
        embed("photo.jpg", weights="facenet")

    Parameters
    ----------
    file
        ``.pt`` of facenet-pytorch, read without running code from it; or ``.npz`` or ``.safetensors`` with
        TensorFlow's variables by name.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.

    Returns
    -------
    Weights
        See `declaration`.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of Inception-ResNet-v1.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    state = convert_official(_read(file))
    network = InceptionResnetV1(dim=len(state["last_linear.weight"]))
    fill(network, state, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "facenet", "source": file.name})
    return declaration(out, name=name)


def _read(file: Path) -> dict[str, Any]:
    if file.suffix != ".npz":
        return dict(read_state(file))
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # numpy raises OSError, ValueError, BadZipFile … for a damaged file
        raise CheckpointError(
            f"{file} cannot be read", got=error, expected="arrays by name, as np.savez has it"
        ) from error


def declaration(file: str | Path, *, name: str = "facenet") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    The crop is an upright square, `BOX_MARGIN` times as wide as the longer side of the detected box. The networks were
    trained on MTCNN's boxes with a margin in pixels, squashed to a square (`margin_crops`); so the verbs' crop is
    near, not equal. Nobody has stated a licence of the released weights; it is the user's to know.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file).absolute()
    try:
        with safe_open(path, framework="pt") as tensors:
            dim = tensors.get_slice("last_linear.weight").get_shape()[0]
            source = (tensors.metadata() or {}).get("source", path.name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read", got=error, expected="a file of import_official") from error
    place = on_disk(path)
    known = next((found for found in RELEASED.values() if found.file == source), None)
    return Weights(
        name=name,
        task="embedding",
        **place,
        licence="none stated for the weights (code of the port: MIT)",
        source=f"{source}, converted" + (f"; trained on {known.data}, {known.classes:,} people" if known else ""),
        build="mien.papers.facenet:inception_resnet_v1",
        arguments={"dim": dim},
        input=InputContract(size=160, template="box", margin=BOX_MARGIN),
        paper="facenet",
        embedding=EmbeddingContract(dim=dim),
        macs=1_417_662_304 + 1792 * (dim - 512),
        macs_input=(1, 3, 160, 160),
        notes="Trained by third parties with a softmax over people, not with triplets. Its thresholds are on squared "
        "distances of MTCNN's crops; calibrate before you judge people by it.",
    )
