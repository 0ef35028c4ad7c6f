"""InsightFace's verification ``.bin``: a pickle of (picture files, whether each pair is the same person).

Pickles are programs. This one is read by an interpreter that knows lists, tuples, bytes, booleans, numbers and arrays
of them, and nothing else: every other name in the file is an error, numpy's own constructors are never called, and no
name is imported. Pair i compares pictures 2 i and 2 i + 1; the protocol of the sets is ten folds of pairs in order.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mien.data.formats.samples import InMemory, Samples, Tell, strict, truncated
from mien.data.sets import Pairs
from mien.errors import CorruptMedia, OptionError, TableError, UnknownFormat
from mien.media.files import of_os_error

__all__ = ["read_bin"]

FOLDS = 10


def find_bins(path: Path) -> list[Path]:
    """The verification files at or in `path`: pickles by their first byte, named ``.bin``."""
    files = [path] if path.is_file() else sorted(path.glob("*.bin")) if path.is_dir() else []
    return [file for file in files if file.suffix == ".bin" and _begins_as_pickle(file)]


def _begins_as_pickle(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(2)
    except OSError:
        return False
    # Protocol 2 and later say so; 0 and 1 begin with a mark or an empty list.
    return head[:1] in (b"\x80", b"(", b"]")


def read_bin(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """A verification file, without running what it holds. Its pairs are ``samples.pairs["bin"]``, in ten folds.

    Raises
    ------
    CorruptMedia
        It is truncated or no pickle.
    UnknownFormat
        It names something else than lists, bytes, booleans and arrays: it may be an attack.
    TableError
        There are not two pictures for each pair.
    MediaError
        It cannot be opened.
    """
    path = Path(path)
    pictures, same = _two(load(path), path)
    coded: list[NDArray[np.uint8]] = []
    for number, item in enumerate(pictures):
        data = _bytes_of(item)
        if data is None:
            error = TableError("an entry of the list is no picture file", got=item, expected="bytes")
            tell("undecodable", f"{path.name} picture {number}", error)
        coded.append(np.zeros(0, np.uint8) if data is None else data)
    verdicts = np.zeros(len(same), bool)
    for number, value in enumerate(same):
        if isinstance(value, bool | np.bool_) or (isinstance(value, int | np.integer) and value in (0, 1)):
            verdicts[number] = bool(value)
        else:
            error = TableError("a verdict is neither true nor false", got=value)
            tell("row", f"{path.name} pair {number}", error)
    if len(coded) != 2 * len(verdicts):
        error = TableError("there are not two pictures for each pair", got=f"{len(coded)} pictures",
                           expected=f"{2 * len(verdicts)}")  # fmt: skip
        tell("wrong_count", path.name, error)
    count = min(len(coded) // 2, len(verdicts))
    fold = np.concatenate([np.full(len(part), k) for k, part in enumerate(np.array_split(np.arange(count), FOLDS))])
    first = 2 * np.arange(count)
    return Samples(
        format="bin", root=path, keys=tuple(map(str, range(len(coded)))), coded=InMemory(coded),
        pairs={"bin": Pairs(first, first + 1, verdicts[:count], fold.astype(np.int64))},
    )  # fmt: skip


def load(path: Path) -> Any:
    """What the pickle holds; arrays are arrays of plain numbers. Errors as `read_bin`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise of_os_error(error, path) from error
    try:
        return _Restricted(io.BytesIO(data), encoding="bytes").load()
    except UnknownFormat as error:
        error.got = f"{error.got} in {path}"
        raise
    except EOFError:
        raise truncated("the pickle is cut off", path) from None
    except (
        pickle.UnpicklingError, ValueError, TypeError, IndexError, KeyError, AttributeError, ImportError, OverflowError,
        MemoryError, RecursionError, UnicodeError, struct.error,
    ) as error:  # fmt: skip
        text = str(error)
        if "truncated" in text or "exhausted" in text:
            raise truncated("the pickle is cut off", path) from None
        raise CorruptMedia("this is no whole pickle", got=f"{path}: {text}", hint="copy the file again") from None


# --- The interpreter. Names resolve to objects without attributes, so that a pickle cannot change them either. -------

_KINDS = frozenset("?bBhHiIlLqQefd") | {"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"}


class _Name:
    """Stands for `numpy.ndarray` where it is an argument only."""

    __slots__ = ()


class _Dtype:
    """A type of plain numbers."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2):
            raise pickle.UnpicklingError("an array's type is not as it should be")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|") or any(state[3:5]):
            raise pickle.UnpicklingError("an array is not of plain numbers")
        self.order = order

    def made(self) -> np.dtype[Any]:
        return np.dtype(self.code if self.order in ("=", "|") else self.order + self.code)


class _MakeDtype:
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Dtype:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or text not in _KINDS:
            raise UnknownFormat("the pickle holds an array of something else than numbers", got=code)
        return _Dtype(text)


class _Array:
    """An array that is being rebuilt: shape, type and bytes come as its state."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array is not as it should be")
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        self.value = _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    plain = isinstance(shape, tuple) and all(isinstance(side, int) and 0 <= side < 1 << 40 for side in shape)
    if not (isinstance(dtype, _Dtype) and isinstance(raw, bytes | bytearray) and plain and order in ("C", "F")):
        raise pickle.UnpicklingError("an array is not as it should be")
    return np.frombuffer(raw, dtype.made()).reshape(shape, order=order)


class _Reconstruct:
    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _FromBuffer:
    __slots__ = ()

    def __call__(self, raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> NDArray[Any]:
        return _array(raw, dtype, shape, order)


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any) -> Any:
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        return _array(raw, dtype, (1,), "C")[0]


class _Encode:
    """Python 3 writes bytes as latin-1 text and a call of `_codecs.encode` below protocol 3."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if isinstance(text, bytes):
            return text
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1", b"latin-1"):
            raise pickle.UnpicklingError("text is encoded in another way than bytes are")
        return text.encode("latin-1")


class _MakeBytes:
    __slots__ = ()

    def __call__(self, *arguments: Any) -> bytes:
        if not arguments:
            return b""
        if len(arguments) != 1 or not isinstance(arguments[0], bytes | bytearray):
            raise pickle.UnpicklingError("bytes are made of something else")
        return bytes(arguments[0])


class _Restricted(pickle.Unpickler):
    """The pickle machine with these few names."""

    NAMES: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Name(),
        ("numpy", "dtype"): _MakeDtype(),
        ("_codecs", "encode"): _Encode(),
        **{(home, "bytes"): _MakeBytes() for home in ("builtins", "__builtin__")},
        **{(home, "bytearray"): _MakeBytes() for home in ("builtins", "__builtin__")},
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar() for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str, /) -> Any:
        found = self.NAMES.get((module, name))
        if found is None:
            raise UnknownFormat(
                "the pickle asks for something that a list of pictures does not need",
                got=f"{module}.{name}", expected="lists, bytes, booleans and arrays of numbers",
                hint="do not open it with pickle: it could run any program",
            )  # fmt: skip
        return found


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _two(value: Any, path: Path) -> tuple[list[Any], list[Any]]:
    if isinstance(value, tuple | list) and len(value) == 2:
        pictures, same = map(_plain, value)
        same = same.reshape(-1).tolist() if isinstance(same, np.ndarray) else same
        pictures = list(pictures) if isinstance(pictures, np.ndarray) and pictures.ndim == 2 else pictures
        if isinstance(pictures, list | tuple) and isinstance(same, list | tuple):
            return [_plain(item) for item in pictures], [_plain(item) for item in same]
    raise TableError(
        "the pickle is no verification set", got=path, expected="(list of picture files, list of verdicts)"
    )


def _bytes_of(item: Any) -> NDArray[np.uint8] | None:
    if isinstance(item, bytes | bytearray):
        return np.frombuffer(item, np.uint8)
    if isinstance(item, np.ndarray) and item.dtype.itemsize == 1 and item.ndim == 1:
        return item.view(np.uint8)
    return None


# ------------------------------------------------------------------------------------------- writing


def chosen_pairs(samples: Samples, name: str | None) -> Pairs:
    """The pairs called `name`, or the only ones.

    Raises
    ------
    TableError
        There are none.
    OptionError
        There are several and none, or an unknown one, was named.
    """
    if not samples.pairs:
        raise TableError("a verification file needs pairs, and this set has none", got=samples.root)
    if name is None and len(samples.pairs) == 1:
        return next(iter(samples.pairs.values()))
    if name is None or name not in samples.pairs:
        raise OptionError.unknown("which pairs?", name, samples.pairs)
    return samples.pairs[name]


def write_bin(pairs: Pairs, target: Path, pictures: Iterable[bytes]) -> None:
    """One file of the pairs' pictures, two a pair, in the order of `pairs`."""
    with target.open("wb") as file:
        pickle.dump((list(pictures), [bool(same) for same in pairs.same]), file, protocol=4)
