"""From a file of weights to a network that answers: built, filled strictly, folded, frozen, on its device."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from mien.errors import CheckpointError, DeviceUnavailable, OptionError, WeightsError
from mien.weights.declare import SAFE, Weights, info
from mien.weights.store import path

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Network = Callable[[torch.Tensor], torch.Tensor]
    """What `load` gives: (B, 3, H, W) as the input contract says -> the network's output, a row for each picture."""

BACKENDS = ("torch", "onnx")
DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")
SHOWN = 4
"""Keys of each kind that an error spells out."""


# ------------------------------------------------------------------------------------------- devices


def device(name: str | torch.device = "auto", *, backend: str = "torch") -> torch.device:
    """The device of that name, if it is there; "auto" is the best there is: CUDA, then MPS, then the CPU.

    Parameters
    ----------
    name
        "auto", "cpu", "cuda" (the current one), "cuda:1" or "mps".
    backend
        "torch" or "onnx": on what the networks will run. onnxruntime has fewer devices than torch.

    Raises
    ------
    DeviceUnavailable
        It was asked for by name and is not there. mien never takes another instead.
    OptionError
        No device, or no backend, bears such a name.
    MissingExtra
        The backend is "onnx", and onnxruntime is not installed.
    """
    import torch

    _check_backend(backend)
    wanted = str(name)
    there = _devices(backend)
    if wanted == "auto":
        return torch.device(next(iter(there)))
    found = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", wanted)
    if found is None:
        raise OptionError.unknown("unknown device", wanted, DEVICES)
    if int(found[2] or 0) >= there.get(found[1], 0):
        names = [kind if count == 1 else f"{kind}:{index}" for kind, count in there.items() for index in range(count)]
        raise DeviceUnavailable(
            f"the device {wanted} is not there" if backend == "torch" else f"onnxruntime cannot run on {wanted} here",
            got=_why_not(found[1], backend),
            expected=names,
        )
    return torch.device(wanted)


def _devices(backend: str) -> dict[str, int]:
    """Kinds of devices and how many there are of each, the best first."""
    import torch

    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if backend == "onnx":
        from mien.weights.onnx import kinds

        there = {kind: count for kind, count in there.items() if kind in kinds()}
    return {kind: count for kind, count in there.items() if count}


def _why_not(kind: str, backend: str) -> str | None:
    import torch

    if backend == "onnx" and _devices("torch").get(kind):
        return "an onnxruntime without it; the package onnxruntime-gpu has CUDA" if kind == "cuda" else None
    if kind == "cuda" and torch.version.cuda is None:
        return f"torch {torch.__version__}, which was built without CUDA"
    if kind == "cuda":
        return f"torch {torch.__version__} for CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs"
    return None


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise OptionError.unknown("unknown backend", backend, BACKENDS)


# ------------------------------------------------------------------------------------------- networks


@overload
def load(
    name: str | Weights, *, device: str | torch.device = ..., backend: Literal["torch"] = ..., fold: bool = ...
) -> nn.Module: ...
@overload
def load(name: str | Weights, *, device: str | torch.device = ..., backend: str, fold: bool = ...) -> Network: ...
def load(
    name: str | Weights, *, device: str | torch.device = "auto", backend: str = "torch", fold: bool = True
) -> Network:
    """The network of those weights, ready to be called: (B, 3, H, W) -> a row for each picture.

    The input is what the declaration's contract makes of pictures (`InputContract.tensor`). Nothing is downloaded.

    Parameters
    ----------
    name
        Name or declaration of the weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch": an ``nn.Module`` in eval mode, without gradients, in channels-last memory. "onnx" (extra ``onnx``):
        the same network by onnxruntime; results agree to 1e-4 of the largest output. The first use exports it into
        ``MIEN_HOME/onnx``, which takes some seconds. A network that was published as an ONNX file
        (`mien.nn.onnx_graph`) is run by onnxruntime in either case.
    fold
        Fold batch normalisations into the convolutions before them: 5 to 10 % faster on a CPU, and the state dict is
        no longer that of the file. False where the network is to be trained further. The onnx backend always folds.

    Raises
    ------
    WeightsUnavailable, HashMismatch
        The file is not on this disk, or is another one.
    CheckpointError
        The file does not fit the network, or would run code when it is read.
    DeviceUnavailable
        The device was asked for and is not there.
    MissingExtra
        The backend is "onnx", and its packages are not installed.
    """
    import torch

    weights, place = info(name), _place(device, backend=backend)
    if backend == "onnx" and getattr(_resolve(weights.build), "runtime", "torch") != "onnx":
        from mien.weights.onnx import load_onnx

        return load_onnx(weights, device=place)
    # Tensors that are made in inference mode can never be exported, trained or saved by a hook afterwards.
    with torch.inference_mode(False):
        network = build(weights)
        fill(network, read_state(path(weights), convert=weights.convert), source=weights.name)
        network.eval().requires_grad_(False)
        if fold:
            fold_normalisation(network)
        network.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


_place = device  # `load` has an option of that name


def build(name: str | Weights) -> nn.Module:
    """The network that the declaration names, with numbers drawn at random; the caller's generator is left alone.

    Raises
    ------
    WeightsError
        The declaration names code that is not there or does not take its arguments.
    """
    import torch

    weights = info(name)
    with torch.random.fork_rng(devices=[]):
        try:
            network: nn.Module = _resolve(weights.build)(**weights.arguments)
        except TypeError as error:
            raise WeightsError(
                f"{weights.build} does not build the network of {weights.name}",
                got=f"{dict(weights.arguments)}: {error}",
                hint="the weights may be of another version of mien: update it",
            ) from error
    return network


def decoder(name: str | Weights) -> Callable[..., Any] | None:
    """The function that the declaration names in `Weights.decode`, or None: the layout is that of mien's own networks.

    What it takes and gives depends on the task:

    detection
        ``(network, images (B, 3, H, W), *, threshold) -> list[mien.nn.detector.Detections]``, one a picture, in pixels
        of `images`.
    reading
        ``(raw (n, k) float32, temperatures) -> {column: array}``: columns of `mien.faces.Faces`, any of age,
        age_groups, expressions, affect, appearance, covers and pose.

    Raises
    ------
    WeightsError
        The declaration names code that is not there.
    """
    weights = info(name)
    return None if weights.decode is None else _resolve(weights.decode)


def _resolve(reference: str) -> Callable[..., Any]:
    module, _, attribute = reference.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (AttributeError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # a package that the module needs is missing, not the module
        raise WeightsError(
            "a declaration of weights names code that is not there",
            got=reference,
            hint="the weights may be of another version of mien: update it",
        ) from error
    return found


def read_state(file: Path, *, convert: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or a pickled checkpoint of nothing but tensors and plain values.

    Parameters
    ----------
    file
        The file; what is in it is decided by its ending.
    convert
        ``module:function`` that turns the content of a foreign file into the network's own state dict.

    Raises
    ------
    CheckpointError
        Damaged, not of that kind, or a pickle that holds anything but tensors and plain values: such a file runs its
        maker's code when it is read, and is refused.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix.lower() == SAFE:
        try:
            state: Any = load_file(file)
        except (SafetensorError, ValueError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read", got=error, expected="a safetensors file") from error
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … for what it refuses
            raise CheckpointError(
                f"{file} cannot be read without running code of its maker, or is damaged",
                got=str(error).partition("\n")[0],
                expected="a checkpoint of tensors and plain values (weights_only=True)",
                hint="ask its makers for a safetensors file",
            ) from error
    if convert is not None:
        state = _resolve(convert)(state)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        odd = [key for key, value in state.items() if not isinstance(value, torch.Tensor)] if state else state
        raise CheckpointError(
            f"{file} holds no state dict",
            got=odd if isinstance(state, Mapping) else type(state).__name__,
            expected="tensors by name",
            hint="declare convert='module:function' that takes the tensors out of it",
        )
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copies `state` into `network`, strictly: every tensor has a place of its shape, every place a finite tensor.

    Narrower floats (float16) are widened to the network's own. The counters of batch normalisation may be absent:
    nothing is computed from them.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, of another shape or kind, or not finite. The network is then left as it was.
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    both = [key for key in own if key in state]
    troubles = {
        "missing": sorted(own.keys() - state.keys() - counters),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in both
            if state[key].shape != own[key].shape
        ],
        "of another kind of numbers": [
            f"{key} {state[key].dtype} for {own[key].dtype}"
            for key in both
            if state[key].is_floating_point() != own[key].is_floating_point()
        ],
        "not finite": [key for key in both if not state[key].isfinite().all()],
    }
    if any(troubles.values()):
        told = "; ".join(_few(kind, keys) for kind, keys in troubles.items() if keys)
        raise CheckpointError(
            f"the tensors of {source} do not fit the network: {told}",
            got=f"{len(state)} tensors",
            expected=f"{len(own) - len(counters)} tensors of {type(network).__name__}",
            hint="the file and the network are of different versions, or the declaration builds another network",
        )
    network.load_state_dict({**own, **state})


def _few(kind: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{more})"


def fold_normalisation(network: nn.Module) -> nn.Module:
    """Folds every batch normalisation that follows a convolution in an ``nn.Sequential`` into it, in place.

    In eval mode both are affine, and so is the one after the other: y = g (W x + b - m) / sqrt(v + e) + h is a
    convolution with the kernel W g / sqrt(v + e). An identity stands where the normalisation stood.

    Raises
    ------
    ValueError
        The network is in training mode, where the statistics are those of the batch.
    """
    from torch import nn
    from torch.nn.utils import fuse_conv_bn_eval

    if network.training:
        raise ValueError("a network in training mode has no fixed statistics to fold; call eval() first")
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        layers = list(sequence.named_children())
        for (first, conv), (second, norm) in pairwise(layers):
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
                setattr(sequence, first, fuse_conv_bn_eval(conv, norm).requires_grad_(False))
                setattr(sequence, second, nn.Identity())
    return network
