"""Checkpoints: all a run needs to go on as if it had not stopped; written atomically, read without running code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts) to `path`; a crash leaves the former file whole."""
    partial = path.with_suffix(path.suffix + ".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote; CheckpointError if it is not that (only tensors and plain values are unpickled)."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError … for a damaged file
        raise CheckpointError(
            f"cannot read the checkpoint {path}",
            got=f"{type(error).__name__}: {error}",
            expected="a file written by this training loop",
            hint="delete it to start anew, or restore an older one",
        ) from error
    return state


def save_weights(path: Path, network: nn.Module, *, half: bool = False, metadata: dict[str, str] | None = None) -> None:
    """Writes the state dict as safetensors; `half` stores floating tensors as float16 (batch counters are dropped).

    The same weights and metadata give the same bytes, so that a hash stands for them.
    """
    from safetensors.torch import save

    def stored(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to("cpu").contiguous()
        return tensor.half() if half and tensor.is_floating_point() else tensor

    tensors = {k: stored(v) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_bytes(_ordered(save(tensors, metadata=metadata)))
    partial.replace(path)


def fill(network: nn.Module, path: Path) -> None:
    """Loads the weights that `save_weights` wrote into `network`; float16 is widened, batch counters start at 0.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of `network`.
    """
    _fill(network, _read(path), path)


def fill_part(network: nn.Module, path: Path, prefix: str) -> None:
    """`fill` with those tensors of the file whose names begin with `prefix`, which is taken off; the rest is left.

    Raises
    ------
    CheckpointError
        As `fill`.
    """
    _fill(network, {k.removeprefix(prefix): v for k, v in _read(path).items() if k.startswith(prefix)}, path)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except Exception as error:  # SafetensorError, OSError …
        raise CheckpointError(
            f"cannot read the weights {path}", got=f"{type(error).__name__}: {error}", expected="a .safetensors file"
        ) from error
    return found


def _fill(network: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    wrong = sorted(k for k in found.keys() | expected.keys() if k not in found or k not in expected
                   or found[k].shape != expected[k].shape)  # fmt: skip
    if wrong:
        raise CheckpointError(
            f"the weights {path} do not fit the network",
            got=", ".join(f"{k} {tuple(found[k].shape) if k in found else 'missing'}" for k in wrong[:5]),
            expected=", ".join(f"{k} {tuple(expected[k].shape) if k in expected else 'absent'}" for k in wrong[:5]),
            hint="start from weights of the same recipe and the same sizes",
        )
    network.load_state_dict(found, strict=False)


def _ordered(stored: bytes) -> bytes:
    """A safetensors file with its metadata in the order of the keys; the library writes them in a random order."""
    end = 8 + int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + stored[end:]
