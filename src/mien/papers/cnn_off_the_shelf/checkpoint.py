"""OverFeat's released files: one long row of little-endian float32, without names, cut by the known order of tensors.

``net_weight_1`` is the large network's (144,656,488 numbers, 579 MB), ``net_weight_0`` the small one's (145,920,872,
584 MB). For each layer in turn the kernel stands first and then the bias; the two last layers are matrices. Their
licence (New York University: internal research and evaluation) forbids passing the file on, so mien brings none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mien.errors import CheckpointError, OptionError
from mien.papers.cnn_off_the_shelf.network import LARGE, MEAN, SMALL, STD, OverFeat, Variant
from mien.weights import InputContract, Weights
from mien.weights.converted import on_disk
from mien.weights.load import fill

MATRICES = ("fc2.weight", "out.weight")
"""Layers whose kernels are 1 x 1 and stand in the file without these two axes."""


class Slot(NamedTuple):
    """Where a tensor begins in the file, in numbers, and its shape there."""

    offset: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape)


class Released(NamedTuple):
    """A released file: its name, the builder of its network, and the network's numbers."""

    file: str
    build: str
    variant: Variant
    macs: int


RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        "large": Released("net_weight_1", "overfeat_large", LARGE, 5_355_446_784),
        "small": Released("net_weight_0", "overfeat_small", SMALL, 2_801_403_904),
    }
)


def layout(network: OverFeat) -> dict[str, Slot]:
    """Where the tensors of `network` stand in a file of its size; it may be on the ``meta`` device."""
    slots: dict[str, Slot] = {}
    offset = 0
    for name, tensor in network.state_dict().items():
        shape = tuple(tensor.shape[:2]) if name in MATRICES else tuple(tensor.shape)
        slots[name] = Slot(offset, shape)
        offset = slots[name].end
    return slots


def _layout(variant: Variant) -> dict[str, Slot]:
    with torch.device("meta"):
        return layout(OverFeat(variant))


def numbers(slots: Mapping[str, Slot]) -> int:
    """How many numbers a file of that layout holds."""
    return max(slot.end for slot in slots.values())


def read_official(file: str | Path, *, slots: Mapping[str, Slot] | None = None) -> dict[str, NDArray[np.float32]]:
    """The tensors of a released file by name, in the shapes of the file; they are views of it until they are copied.

    Parameters
    ----------
    file
        ``net_weight_0`` or ``net_weight_1``.
    slots
        The layout. Default: that of the two released networks which has the file's length.

    Raises
    ------
    CheckpointError
        There is no such file, or its length is not exactly that of the layout.
    """
    path = Path(file)
    try:
        length = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", got=error.strerror, expected="a file of OverFeat") from error
    known = {name: _layout(released.variant) for name, released in RELEASED.items()} if slots is None else {"": slots}
    for one in known.values():
        if length == 4 * numbers(one):
            flat = np.memmap(path, "<f4", "r")
            return split(flat, one)
    expected = [f"{4 * numbers(one):,} bytes{f' ({name})' if name else ''}" for name, one in known.items()]
    raise CheckpointError(
        f"{path.name} is not as long as a file of OverFeat", got=f"{length:,} bytes", expected=" or ".join(expected),
        hint="fetch it again with OverFeat's own script; the file has no header, so only its length tells",
    )  # fmt: skip


def split(flat: NDArray[np.float32], slots: Mapping[str, Slot]) -> dict[str, NDArray[np.float32]]:
    """A row of numbers cut into tensors; a row of another length is an error."""
    if flat.ndim != 1 or len(flat) != numbers(slots):
        raise CheckpointError("the row of numbers has another length", got=flat.shape, expected=(numbers(slots),))
    return {name: flat[slot.offset : slot.end].reshape(slot.shape) for name, slot in slots.items()}


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `overfeat_large` or `overfeat_small` from what `read_official` gives, strictly.

    Parameters
    ----------
    state
        Arrays or tensors by name. Which of the two networks it is, the number of layers tells.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, or of another shape.
    """
    return arranged(state, _layout(LARGE if "conv6.weight" in state else SMALL))


def arranged(state: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Tensor]:
    """As `convert_official`, for the layout of any network of `OverFeat`'s kind."""
    shapes = {name: tuple(np.shape(value)) for name, value in state.items()}
    told = {
        "missing": sorted(slots.keys() - shapes.keys()),
        "unknown": sorted(shapes.keys() - slots.keys()),
        "of another shape": [
            f"{name} {shapes[name]} for {slot.shape}"
            for name, slot in slots.items()
            if name in shapes and shapes[name] != slot.shape
        ],
    }
    parts = [f"{len(names)} {kind} ({', '.join(names[:4])})" for kind, names in told.items() if names]
    if parts:
        raise CheckpointError(
            f"the tensors are not those of OverFeat: {'; '.join(parts)}", got=f"{len(state)} tensors",
            expected="what read_official gives of net_weight_0 or net_weight_1",
        )  # fmt: skip
    tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}
    return {name: one[..., None, None] if name in MATRICES else one for name, one in tensors.items()}


def import_official(file: str | Path, out: str | Path, *, name: str = "overfeat") -> Weights:
    """Converts a released file into safetensors, and declares it; ``mien weights import`` calls this.

    Parameters
    ----------
    file
        ``net_weight_0`` or ``net_weight_1``, fetched by OverFeat's own script.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.

    Raises
    ------
    CheckpointError
        The file's length is not that of one of the two, or a number in it is not finite.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    arrays = read_official(file)
    released = RELEASED["large" if "conv6.weight" in arrays else "small"]
    network = OverFeat(released.variant)
    fill(network, convert_official(arrays), source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "cnn_off_the_shelf", "source": file.name})
    return declaration(out, released, name=name)


def declaration(file: Path, released: Released, *, name: str) -> Weights:
    """What mien has to know of a file that `import_official` wrote."""
    place = on_disk(file)
    size = released.variant.size
    return Weights(
        name=name,
        task="features",
        **place,
        licence="OverFeat licence of New York University: internal research and evaluation, no redistribution",
        source=f"P. Sermanet et al., OverFeat, {released.file}, converted; trained on ImageNet (ILSVRC 2013)",
        build=f"mien.papers.cnn_off_the_shelf:{released.build}",
        input=InputContract(size=size, mean=(MEAN, MEAN, MEAN), std=(STD, STD, STD)),
        paper="cnn_off_the_shelf",
        macs=released.macs,
        macs_input=(1, 3, size, size),
        notes="Features of whole pictures for `mien probe`; no face embedding.",
    )
