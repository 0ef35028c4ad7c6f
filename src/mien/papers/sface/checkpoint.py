"""Public files into ours: backbones and heads of the released code and of face.evoLVe, and OpenCV's ONNX file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.count import count_macs, count_parameters
from mien.nn.iresnet import IR, IR_DEPTHS
from mien.nn.mobilefacenet import MobileFaceNet
from mien.nn.onnx_graph import OnnxGraph
from mien.weights import EmbeddingContract, InputContract, Weights
from mien.weights.converted import on_disk
from mien.weights.load import fill, read_state

Scaling = Literal["sface", "evolve"]

SCALINGS: Mapping[str, float] = {"sface": 12.8, "evolve": 127.5}
"""Divisor of ``x - 127.5`` by who trained the backbone: SFace's code, or face.evoLVe's, whose layout is the same."""

TEMPLATE = "arcface112"


class Published(NamedTuple):
    """What is known of a published file."""

    file: str
    sha256: str
    size: int
    licence: str


OPENCV = Published(
    "face_recognition_sface_2021dec.onnx",
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    38_696_353,
    "Apache-2.0",
)
"""OpenCV's model of opencv_zoo: about 9.7 M parameters, 128 numbers; a larger MobileNet, not `MobileFaceNet`."""

OPENCV_THRESHOLD = 0.363
"""Cosine at or above which OpenCV calls two faces the same; the false match rate behind it is not stated."""

OPENCV_DIM = 128


# ------------------------------------------------------------------------------------------- tensors


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `ir_50`, `ir_101`, `mobilefacenet` or `SFaceLoss` from a released one.

    Parameters
    ----------
    state
        Tensors by name: of a ``Backbone_….pth`` (``input_layer.0.weight`` … or ``conv_1.conv2d.weight`` …) or of a
        ``Head_….pth`` (``weight``, one row a person). face.evoLVe's backbones have the first of these layouts.

    Returns
    -------
    dict
        Float32 tensors that fit strictly. Names are the same; what is checked is that nothing is missing or unknown.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    tensors = {name: value if isinstance(value, Tensor) else torch.as_tensor(value) for name, value in state.items()}
    if set(tensors) == {"weight"} and tensors["weight"].ndim == 2:
        return {"weight": tensors["weight"].float()}
    with torch.device("meta"):
        expected = build_for(tensors).state_dict()
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
    if any(told.values()):
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            for kind, names in told.items()
            if names
        ]
        raise _refused("; ".join(parts), tensors)
    zero = torch.zeros((), dtype=torch.int64)
    return {name: tensors.get(name, zero) if name in counters else tensors[name].float() for name in expected}


def _refused(what: str, tensors: Mapping[str, Tensor]) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not one of SFace's networks: {what}",
        got=f"{len(tensors)} tensors, the first {next(iter(tensors), 'none')!r}",
        expected="a state dict of IR-50, IR-101, MobileFaceNet, or of the head",
        hint="take the model's own tensors out of the file, without the prefix of a wrapper",
    )


def described(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Which builder of this paper a backbone's tensors are of, and with which arguments.

    Raises
    ------
    CheckpointError
        Of none.
    """
    try:
        if "input_layer.0.weight" in state:
            units = {int(name.split(".")[1]) for name in state if name.startswith("body.")}
            names = {sum(depths): name for depths, name in zip(IR_DEPTHS.values(), ("ir_50", "ir_101"), strict=True)}
            dim, numbers = state["output_layer.3.weight"].shape
            side = math.isqrt(numbers // len(state["output_layer.0.weight"]))
            return names[len(units)], {"dim": dim, "size": 16 * side}
        if "conv_1.conv2d.weight" in state:
            dim, side = len(state["pre_fc1.weight"]), state["conv_6dw7_7.conv2d.weight"].shape[-1]
            return "mobilefacenet", {"dim": dim, "size": 16 * side}
    except (KeyError, ValueError, IndexError) as error:
        raise _refused(f"its parts do not fit together ({error})", state) from error
    raise _refused("neither of the layouts begins so", state)


def build_for(state: Mapping[str, Tensor]) -> nn.Module:
    """The network that a backbone's tensors are of; its numbers are drawn at random."""
    name, arguments = described(state)
    if name == "mobilefacenet":
        return MobileFaceNet(**arguments)
    return IR(IR_DEPTHS[50 if name == "ir_50" else 101], **arguments)


# ------------------------------------------------------------------------------------------- for the verbs


def import_official(
    file: str | Path, out: str | Path, *, name: str = "sface", scaling: Scaling | None = None
) -> Weights:
    """Converts a public file into safetensors, and declares it.

    ``mien weights import sface FILE`` keeps both for all later sessions.

    Parameters
    ----------
    file
        A backbone, ``.pth`` or ``.safetensors``, read without running code from it; or OpenCV's ``.onnx``, which
        becomes the only tensor of the converted file and is run by onnxruntime.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    scaling
        What the backbone was trained to see: "sface", ``(x - 127.5) * 0.078125``, or "evolve", ``(x - 127.5) / 127.5``.
        By default "evolve" where the file's name begins with ``backbone_`` in lower case or holds "evolve", as
        face.evoLVe's published files do, and "sface" otherwise. Nothing in the file itself tells the two apart.

    Returns
    -------
    Weights
        The declaration.

    Raises
    ------
    CheckpointError
        The file cannot be read, is a head, or is none of these networks.
    MissingExtra
        onnxruntime is not installed, and the file needs it.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if scaling is not None and scaling not in get_args(Scaling):
        raise OptionError.unknown("unknown scaling", scaling, get_args(Scaling))
    out.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".onnx":
        return _import_onnx(file, out, name)
    state = convert_official(read_state(file))
    if set(state) == {"weight"}:
        raise CheckpointError(
            "this is the head, which is used in training only",
            got=f"{file.name}, {len(state['weight']):,} people",
            expected="the backbone that was saved beside it: Backbone_….pth",
        )
    builder, arguments = described(state)
    network = build_for(state)
    fill(network, state, source=str(file))
    if scaling is None:
        scaling = "evolve" if file.name.startswith("backbone_") or "evolve" in file.name.lower() else "sface"
    save_weights(out, network, metadata={"paper": "sface", "source": file.name, "scaling": scaling})
    divisor = SCALINGS[scaling]
    size = arguments["size"]
    return Weights(
        name=name,
        task="embedding",
        **on_disk(out),
        licence="none stated for the weights",
        source=f"{file.name}, converted",
        build=f"mien.papers.sface:{builder}",
        arguments=arguments,
        input=InputContract(size=size, std=(divisor, divisor, divisor), template=TEMPLATE),
        paper="sface",
        embedding=EmbeddingContract(dim=arguments["dim"], flip=True),
        macs=count_macs(network.eval(), (1, 3, size, size)),
        macs_input=(1, 3, size, size),
        parameters=count_parameters(network),
        notes=f"Grey values are seen as (x - 127.5) / {divisor:g}, as "
        f"{'SFace' if scaling == 'sface' else 'face.evoLVe'} trained. Not calibrated: mien calibrate.",
    )


def _import_onnx(file: Path, out: Path, name: str) -> Weights:
    from safetensors.torch import save_file

    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    known = digest == OPENCV.sha256
    graph = OnnxGraph.of(data)
    found = graph.signature()
    shapes = [*found.inputs.values()], [*found.outputs.values()]
    given, made = ([shape[1:] for shape in ends] for ends in shapes)
    if given != [(3, 112, 112)] or made != [(OPENCV_DIM,)]:
        raise CheckpointError(
            "the ONNX file takes or gives something else than OpenCV's SFace",
            got=f"{found.inputs} -> {found.outputs}",
            expected=f"one picture (B, 3, 112, 112) -> one vector (B, {OPENCV_DIM})",
        )
    save_file({"graph": graph.graph}, out, metadata={"paper": "sface", "source": file.name})
    return Weights(
        name=name,
        task="embedding",
        **on_disk(out),
        licence=OPENCV.licence if known else "none stated for the weights",
        source=f"{file.name} (SHA-256 {digest}), "
        + ("opencv/opencv_zoo" if known else "not OpenCV's file of December 2021"),
        build="mien.nn.onnx_graph:OnnxGraph",
        arguments={"size": len(data)},
        # Normalisation is inside of the graph.
        input=InputContract(size=112, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), template=TEMPLATE),
        paper="sface",
        embedding=EmbeddingContract(dim=OPENCV_DIM),
        notes=f"OpenCV calls two faces the same at a cosine of {OPENCV_THRESHOLD} or more; at which false match rate "
        "is not stated. Calibrate before you judge people by it.",
    )
