"""Tensors out of a TorchScript archive, without loading it.

``torch.jit.load`` runs code of the archive (its ``__setstate__`` methods) and is for files that one trusts. All that is
wanted here are the tensors and their names, which lie in a pickle beside the code. That pickle is read by an unpickler
that knows tensors, lists and inert objects; whatever else it names is refused, so that nothing of the archive runs.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.errors import CheckpointError

__all__ = ["is_torchscript", "read_torchscript"]

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip

DEEPEST = 64
"""Levels of modules that are followed."""


def is_torchscript(file: Path) -> bool:
    """Whether the file is an archive of TorchScript: a zip with both tensors and code."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()}
    return "data.pkl" in inner and any(name.startswith("code/") for name in inner)


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """All tensors that the archive's modules hold, by dotted name, on the CPU.

    Raises
    ------
    CheckpointError
        Damaged, no TorchScript, or its pickle names what is no tensor and no plain value.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            whole = _Tensors(archive).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ValueError, TypeError, RuntimeError, EOFError,
            AttributeError, IndexError, OSError) as error:  # fmt: skip
        raise CheckpointError(
            f"{file} cannot be read as TorchScript",
            got=f"{type(error).__name__}: {error}",
            expected="an archive of torch.jit.save with tensors and plain values",
        ) from error
    found: dict[str, Tensor] = {}
    _collect(whole, "", found, 0)
    return found


class _Inert:
    """Stands for every class of the archive: an object that has attributes and does nothing."""


def _collect(value: object, name: str, found: dict[str, Tensor], depth: int) -> None:
    if isinstance(value, Tensor):
        found[name] = value
    elif isinstance(value, _Inert) and depth < DEEPEST:
        for key, inner in vars(value).items():
            _collect(inner, f"{name}.{key}" if name else str(key), found, depth + 1)


class _Tensors(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        (self.folder,) = {name.removesuffix("data.pkl") for name in archive.namelist() if _top(name) == "data.pkl"}
        super().__init__(io.BytesIO(archive.read(f"{self.folder}data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Inert
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return lambda values: values
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, kind: value
        raise pickle.UnpicklingError(f"the archive names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError(f"the archive refers to {pid}")
        data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        if not data:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=int(count))


def _top(name: str) -> str:
    return name.partition("/")[2]


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    # torch checks that nothing outside of the storage is meant.
    return storage.as_strided(size, stride, offset).clone()
