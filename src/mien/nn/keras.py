"""Keras's HDF5 weights into networks whose layers bear Keras's names (`mien.nn.expression`).

A file of ``save_weights`` has a group for each layer, and in its attribute ``weight_names`` what is in it
(``block1_conv1/kernel:0``); a trunk nested in a model keeps its own names. What Keras names by a counter (``conv2d_7``)
counts all layers that a session made, so those names are counted anew from 0, kind by kind.

===========================  =======================================================================
Keras                        torch
===========================  =======================================================================
``kernel`` (h, w, in, out)   (out, in, h, w)
``depthwise_kernel``         (h, w, in, 1) -> (in, 1, h, w)
``kernel`` (in, out)         (out, in); after a flattening its rows go from (H, W, C) to (C, H, W)
``gamma``, ``beta``          ``weight``, ``bias``
``moving_mean``, …           ``running_mean``, ``running_var``
===========================  =======================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, MissingExtra
from mien.nn.expression import Conv, Dense, Depthwise, Norm, Separable

COUNTED = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")
"""Names that Keras makes up."""


# ------------------------------------------------------------------------------------------- names


def renumbered(names: Iterable[str]) -> dict[str, str]:
    """What Keras's counted layer names are when each kind starts at 0; given and returned are weights' names.

    >>> renumbered(["conv2d_8/kernel", "conv2d_5/kernel", "stem/kernel"])
    {'conv2d_8/kernel': 'conv2d_1/kernel', 'conv2d_5/kernel': 'conv2d/kernel', 'stem/kernel': 'stem/kernel'}
    """
    split = {name: name.rpartition("/")[::2] for name in names}
    numbers: dict[str, set[int]] = {}
    for layer, _ in split.values():
        if found := COUNTED.fullmatch(layer):
            numbers.setdefault(found[1], set()).add(int(found[2] or 0))
    order = {kind: {number: place for place, number in enumerate(sorted(seen))} for kind, seen in numbers.items()}
    fresh = {}
    for name, (layer, weight) in split.items():
        if found := COUNTED.fullmatch(layer):
            place = order[found[1]][int(found[2] or 0)]
            layer = f"{found[1]}_{place}" if place else found[1]
        fresh[name] = f"{layer}/{weight}"
    return fresh


def keras_names(network: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """For each of Keras's weights ("conv1_bn/gamma") the name of ours, and the layer that it belongs to."""
    found: dict[str, tuple[str, nn.Module]] = {}
    for path, layer in network.named_modules():
        name = getattr(layer, "keras", None)
        if name is None:
            continue
        pairs: dict[str, str] = {}
        if isinstance(layer, Norm):
            pairs = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            pairs |= {"gamma": "weight"} if "weight" in layer._parameters else {}
        elif isinstance(layer, Separable):
            pairs = {"depthwise_kernel": "depthwise.weight", "pointwise_kernel": "pointwise.weight"}
        elif isinstance(layer, Conv | Dense):
            pairs = {"depthwise_kernel" if isinstance(layer, Depthwise) else "kernel": "weight"}
            pairs |= {"bias": "bias"} if layer.bias is not None else {}
        found |= {f"{name}/{theirs}": (f"{path}.{ours}", layer) for theirs, ours in pairs.items()}
    return found


def _turned(array: ArrayLike, name: str, layer: nn.Module) -> Tensor:
    """A weight of Keras in torch's order of axes."""
    value = torch.from_numpy(np.array(array, np.float32))
    if name.endswith("/depthwise_kernel"):
        return value.permute(2, 3, 0, 1).flatten(0, 1)[:, None].contiguous() if value.ndim == 4 else value
    if name.endswith(("/kernel", "/pointwise_kernel")):
        if value.ndim == 4:
            return value.permute(3, 2, 0, 1).contiguous()
        if isinstance(layer, Dense) and layer.planes is not None and value.shape[0] == np.prod(layer.planes):
            c, h, w = layer.planes
            value = value.view(h, w, c, -1).permute(2, 0, 1, 3).reshape(c * h * w, -1)
        return value.T.contiguous()
    return value


# ------------------------------------------------------------------------------------------- conversion


def told(**lists: list[str]) -> str:
    """What is wrong, in a line: ``2 missing (a, b); 1 unknown (c)``."""
    parts = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in lists.items() if names
    ]  # fmt: skip
    return "; ".join(parts) or "nothing wrong"


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by fresh names, without ``:0``."""
    plain = {str(name).removesuffix(":0"): value for name, value in state.items()}
    fresh = renumbered(plain)
    return {fresh[name]: value for name, value in plain.items()}


def misshapen(names: Mapping[str, Any], wanted: Mapping[str, tuple[str, nn.Module]]) -> list[str]:
    """Weights of both whose shapes differ, with what was given and wanted."""
    wrong = []
    for name in names.keys() & wanted.keys():
        path, layer = wanted[name]
        ours = layer.get_parameter if not path.endswith(("running_mean", "running_var")) else layer.get_buffer
        inner = "depthwise.weight" if name.endswith("/depthwise_kernel") and isinstance(layer, Separable) else (
            "pointwise.weight" if name.endswith("/pointwise_kernel") else path.rpartition(".")[2]
        )  # fmt: skip
        shape = tuple(ours(inner).shape)
        given = tuple(np.shape(names[name]))
        if given != _keras_shape(shape, name):
            wrong.append(f"{name} {given} for {_keras_shape(shape, name)}")
    return sorted(wrong)


def _keras_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    if len(shape) == 4:
        out, have, h, w = shape
        return (h, w, out, have) if name.endswith("/depthwise_kernel") else (h, w, have, out)
    return shape[::-1]


def converted(state: Mapping[str, Any], module: nn.Module, network: str) -> dict[str, Tensor]:
    """The state dict of `module`, which may be on torch's meta device, from Keras's weights, strictly.

    Parameters
    ----------
    state
        Arrays by Keras's names.
    module
        Its layers tell their names by `keras`.
    network
        Its name, for messages.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, or of another shape.
    """
    given, wanted = flat(state), keras_names(module)
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = misshapen(given, wanted)
    if missing or unknown or wrong:
        raise CheckpointError(
            f"the weights are not those of {network}", got=told(missing=missing, unknown=unknown, shape=wrong),
            expected=f"{len(wanted)} weights of Keras",
        )  # fmt: skip
    ours = {path: _turned(given[name], name, layer) for name, (path, layer) in wanted.items()}
    counters = [name for name in module.state_dict() if name.endswith("num_batches_tracked")]
    return ours | {name: torch.zeros((), dtype=torch.int64) for name in counters}


def read_keras(file: str | Path) -> dict[str, NDArray[np.float32]]:
    """Arrays by Keras's names from an HDF5 file of ``save_weights`` (or of ``save``); no code of it is run.

    Raises
    ------
    MissingExtra
        h5py is not installed.
    CheckpointError
        It cannot be read, or is no file of Keras's.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", extra="audit") from error
    try:
        with h5py.File(file, "r") as opened:
            return arrays_of(opened)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read", got=error, expected="a Keras HDF5 file of weights") from error


def arrays_of(root: Any) -> dict[str, NDArray[np.float32]]:
    """What `read_keras` gives, from an opened file: groups with ``attrs`` and datasets by path.

    Raises
    ------
    CheckpointError
        It has not the layout of Keras.
    """
    if "model_weights" in root:
        root = root["model_weights"]
    try:
        found: dict[str, NDArray[np.float32]] = {}
        for layer in _texts(root.attrs, "layer_names"):
            for name in _texts(root[layer].attrs, "weight_names"):
                if name in found:
                    raise CheckpointError("two weights of the file have one name", got=name)
                found[name] = np.asarray(root[layer][name], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the file has not the layout of Keras's weights", got=error, expected="layer_names and weight_names"
        ) from error
    return found


def _texts(attributes: Any, name: str) -> list[str]:
    """A list of names; a long one is cut into ``name0``, ``name1``, …"""
    if name in attributes:
        parts = list(attributes[name])
    else:
        parts, number = [], 0
        while f"{name}{number}" in attributes:
            parts += list(attributes[f"{name}{number}"])
            number += 1
        if not number:
            raise KeyError(name)
    return [one.decode() if isinstance(one, bytes) else str(one) for one in parts]
