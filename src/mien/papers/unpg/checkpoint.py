"""Released checkpoints into ours: what may be read of them, strictly, and a file for the verbs.

The released ``.pt`` are pickled modules, which run their maker's code when they are read; mien does not read such
files. In a checkout of the authors' repository one line makes of it what can be read (`CONVERSION`):

    python -c "import torch; torch.save(torch.load('IN.pt', 'cpu', weights_only=False)['backbone'].state_dict(), 'OUT.pt')"

The TorchScript file of the `facetorch` project is read without running what is in it (`torchscript.py`).
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.count import count_macs, count_parameters
from mien.nn.iresnet import DEPTHS, iresnet
from mien.papers.unpg.network import INPUT, Mirrored
from mien.papers.unpg.torchscript import is_torchscript, read_torchscript
from mien.weights import EmbeddingContract, Weights
from mien.weights.converted import on_disk
from mien.weights.load import fill, read_state

__all__ = ["CONVERSION", "Mirror", "convert_official", "declaration", "import_official", "layers_of", "read_official"]

Mirror = Literal["joined", "mean", "none"]

CONVERSION = (
    'python -c "import torch; torch.save(torch.load(\'{file}\', \'cpu\', weights_only=False)'
    "['backbone'].state_dict(), '{out}')\""
)  # fmt: skip
"""Run in a checkout of the authors' repository, by whoever trusts the file: it runs code."""

SIDE = 112


def layers_of(state: Mapping[str, Tensor]) -> int:
    """34, 50, 100 (or 18): the network whose units a state dict has.

    Raises
    ------
    CheckpointError
        None of them.
    """
    depths = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    )
    for layers, known in DEPTHS.items():
        if depths == known:
            return layers
    raise CheckpointError(
        "these are not the tensors of an IResNet",
        got=f"{len(state)} tensors, {', '.join(map(str, depths))} units in the four stages",
        expected=", ".join(f"{'-'.join(map(str, known))} ({layers} layers)" for layers, known in DEPTHS.items()),
    )


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `mien.nn.iresnet.IResNet` from that of a released backbone; unknown or missing is an error.

    Both are InsightFace's layout, so that its files fit, too (but want other pixels: ``(x - 127.5) / 127.5``).

    Parameters
    ----------
    state
        Tensors by name: ``conv1.weight``, ``layer1.0.bn1.weight`` …, ``fc.weight``, ``features.weight``; all of them
        may have one prefix in common ("module." of DataParallel).

    Raises
    ------
    CheckpointError
        Another network, other shapes, or what is no tensor.
    """
    odd = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            "this is no state dict of a backbone", got=f"{', '.join(odd[:4])} that are no tensors",
            expected="tensors by name", hint="save what backbone.state_dict() gives",
        )  # fmt: skip
    plain = dict(state)
    while len(first := {name.partition(".")[0] for name in plain}) == 1 and all("." in name for name in plain):
        (prefix,) = first
        plain = {name.removeprefix(f"{prefix}."): value for name, value in plain.items()}
    layers = layers_of(plain)
    with torch.device("meta"):
        network = iresnet(layers, dim=len(plain["fc.weight"]) if "fc.weight" in plain else 512, size=SIDE)
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    troubles = {
        "missing": sorted(own.keys() - plain.keys() - counters),
        "unknown": sorted(plain.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(plain[name].shape)}" for name in own if name in plain
            and plain[name].shape != own[name].shape
        ],
    }  # fmt: skip
    if any(troubles.values()):
        told = "; ".join(f"{len(names)} {kind} ({', '.join(names[:4])})" for kind, names in troubles.items() if names)
        raise CheckpointError(
            f"the tensors do not fit an IResNet of {layers} layers: {told}",
            got=f"{len(plain)} tensors",
            expected=f"{len(own) - len(counters)}",
        )
    return {name: plain[name] if name in plain else torch.zeros((), dtype=torch.int64) for name in own}


def read_official(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a backbone's state dict (``.pt``, ``.safetensors``) or of a TorchScript archive, as they are.

    Raises
    ------
    CheckpointError
        The file cannot be read without running code of its maker, as the released ones cannot; or it is damaged.
    """
    path = Path(file)
    if is_torchscript(path):
        return read_torchscript(path)
    try:
        return read_state(path)
    except CheckpointError as error:
        if "pickled" not in _kind_of(path):
            raise
        raise CheckpointError(
            f"{path} holds pickled modules, not a state dict",
            got="a file that runs its maker's code when it is read, which mien does not do",
            expected="the state dict of the backbone, or a TorchScript archive",
            hint="in a checkout of the authors' repository, if you trust the file: "
            + CONVERSION.format(file=path, out=path.with_suffix(".state.pt")),
        ) from error


def _kind_of(path: Path) -> str:
    """ "pickled modules" where torch refuses a global of a readable pickle, "damaged" otherwise."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # whatever a damaged file makes torch raise
        return "damaged"
    return "pickled modules" if unsafe else "tensors"


def import_official(file: str | Path, out: str | Path, *, name: str = "unpg", mirror: Mirror = "joined") -> Weights:
    """Converts a released checkpoint into a safetensors file, and declares it.

    ``mien weights import unpg FILE --name X`` keeps both for all later sessions.

    Parameters
    ----------
    file
        See `read_official`.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    mirror
        How a face and its mirror image become one vector: "joined" to twice the length, as the paper compares; their
        "mean", of half the length and as quick; or "none", half the work, as the paper has it on IJB.

    Returns
    -------
    Weights
        See `declaration`.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of an IResNet.
    OptionError
        Another ending of `out`, or an unknown `mirror`.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if mirror not in get_args(Mirror):
        raise OptionError.unknown("unknown mirror", mirror, get_args(Mirror))
    state = convert_official(read_official(file))
    network: nn.Module = iresnet(layers_of(state), dim=len(state["fc.weight"]), size=SIDE)
    fill(network, state, source=str(file))
    if mirror == "joined":
        network = Mirrored(network)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "unpg", "source": file.name, "mirror": mirror})
    return declaration(out, name=name)


def declaration(file: str | Path, *, name: str = "unpg") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    No licence has been stated for the weights themselves, whose training pictures were collected from the web; whether
    they may be used is the user's to know.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file).absolute()
    try:
        with safe_open(path, framework="pt") as tensors:
            told = tensors.metadata() or {}
            prefix = "network." if told.get("mirror") == "joined" else ""
            names = [key.removeprefix(prefix) for key in tensors.keys()]  # noqa: SIM118  # a file, not a mapping
            dim = tensors.get_slice(f"{prefix}fc.weight").get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read", got=error, expected="a file of import_official") from error
    layers, joined = layers_of(dict.fromkeys(names, torch.empty(0))), bool(prefix)
    place = on_disk(path)
    with torch.device("meta"):
        network = iresnet(layers, dim=dim, size=SIDE)
    shape = (1, 3, SIDE, SIDE)
    return Weights(
        name=name,
        task="embedding",
        **place,
        licence="none stated for the weights (code: Apache-2.0)",
        source=f"{told.get('source', path.name)}, converted",
        build="mien.papers.unpg:iresnet_with_mirror" if joined else "mien.nn.iresnet:iresnet",
        arguments={"layers": layers, "dim": dim},
        input=INPUT,
        paper="unpg",
        embedding=EmbeddingContract(dim=2 * dim if joined else dim, flip=told.get("mirror") == "mean"),
        macs=count_macs(network, shape) * (2 if joined else 1),
        macs_input=shape,
        parameters=count_parameters(network),
        notes="Wants ImageNet's mean and deviation; a file of InsightFace fits in shape and is wrong here. Calibrate "
        "before you judge people by it.",
    )
