"""The one noun of all formats: pictures as coded bytes, and what is known of each, one row a picture.

    samples.fetch([3, 4])       # the bytes of two picture files, decoded by nobody yet
    samples.labels              # (n,) int64 number of the person, or None
    samples.points              # (n, k, 2) float32 pixels, or None
    samples.pairs["FP"].same    # pairs to verify, by the name of their protocol
    samples.columns["Smiling"]  # whatever else the format holds

Where the bytes lie (files of a folder, spans of one large file, row groups of a table) is told by `coded`; nothing
is read before it is asked for.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mien.data.sets import Boxes, Pairs
from mien.errors import CorruptMedia, EmptyMedia, MediaNotFound, MienError, ShapeError
from mien.media.files import of_os_error

__all__ = ["Coded", "Files", "FlaggedBoxes", "InMemory", "Samples", "Spans", "Tell", "mapped", "strict"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Rows = Ints | Sequence[int]

ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif", "AVIF": "avif"}
"""Ending of a file of each format that `mien.media.formats.sniff` tells."""


class Tell(Protocol):
    """What a reader does about something broken: `strict` raises it, a check collects it and reads on.

    `kind` is one of `mien.data.formats.check.KINDS`; `where` names file, line or record.
    """

    def __call__(self, kind: str, where: str, error: MienError) -> None: ...


def strict(kind: str, where: str, error: MienError) -> None:
    """Raises what is broken: what readers do unless they are told otherwise."""
    raise error


class Coded(Protocol):
    """Pictures as the bytes of their files. Must be safe to call from several threads."""

    @property
    def blocks(self) -> Ints | None:
        """(k + 1,) rows at which parts begin that are read as a whole; None where every row can be read alone."""
        ...

    def __len__(self) -> int: ...

    def fetch(self, rows: Rows) -> list[Bytes]:
        """(b,) uint8 arrays, one a row, read-only where they are views."""
        ...

    def take(self, rows: Ints) -> Coded:
        """The pictures of some rows."""
        ...


class InMemory:
    """Pictures whose bytes are in memory already."""

    blocks = None

    def __init__(self, data: Sequence[bytes | Bytes]) -> None:
        self.data = [part if isinstance(part, np.ndarray) else np.frombuffer(part, np.uint8) for part in data]

    def __len__(self) -> int:
        return len(self.data)

    def fetch(self, rows: Rows) -> list[Bytes]:
        return [self.data[row] for row in _listed(rows)]

    def take(self, rows: Ints) -> InMemory:
        return InMemory([self.data[row] for row in _listed(rows)])


class Files:
    """Pictures in files of their own, read when asked for."""

    blocks = None

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, rows: Rows) -> list[Bytes]:
        return [_whole(self.paths[row]) for row in _listed(rows)]

    def take(self, rows: Ints) -> Files:
        return Files([self.paths[row] for row in _listed(rows)])


def _whole(path: str) -> Bytes:
    # open() and its layers cost as much again as the reading of 5 kB, so the system's calls themselves.
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            size, parts = os.fstat(handle).st_size, list[bytes]()
            while size > 0 and (part := os.read(handle, size)):
                parts.append(part)
                size -= len(part)
        finally:
            os.close(handle)
    except OSError as error:
        raise of_os_error(error, path) from error
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def mapped(path: str | os.PathLike[str]) -> Bytes:
    """(n,) uint8, read-only: a file's bytes as memory, brought from the disk when they are looked at.

    Raises
    ------
    MediaNotFound, MediaForbidden, NotAFile
        It cannot be opened.
    EmptyMedia
        It has no bytes.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise EmptyMedia("the file holds no bytes", got=path)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise of_os_error(error, path) from error


class Spans:
    """Pictures that are spans of large files: records, members of archives.

    Parameters
    ----------
    files
        The large files; opened (as memory maps) when a picture of theirs is asked for first.
    start, size
        (n,) int64 first byte and number of bytes.
    part
        (n,) number of the file; None where there is only one.
    apart
        Pictures by row whose bytes do not lie together.
    """

    blocks = None

    def __init__(
        self, files: Sequence[str], start: Ints, size: Ints, part: Ints | None = None,
        apart: Mapping[int, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.files, self.start, self.size, self.part = tuple(files), start, size, part
        self.apart = dict(apart or {})
        self._data: dict[int, Bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": {}}  # a memory map cannot go to another process

    def __len__(self) -> int:
        return len(self.start)

    def fetch(self, rows: Rows) -> list[Bytes]:
        index = np.asarray(rows, np.int64)
        start = self.start[index]
        stop = (start + self.size[index]).tolist()
        if self.part is None:
            data = self._of(0)
            found = [data[a:b] for a, b in zip(start.tolist(), stop, strict=True)]
        else:
            parts = self.part[index].tolist()
            found = [self._of(p)[a:b] for p, a, b in zip(parts, start.tolist(), stop, strict=True)]
        if self.apart:
            for place, row in enumerate(index.tolist()):
                if row in self.apart:
                    found[place] = np.frombuffer(self.apart[row], np.uint8)
        return found

    def take(self, rows: Ints) -> Spans:
        apart = {place: self.apart[row] for place, row in enumerate(rows.tolist()) if row in self.apart}
        part = None if self.part is None else self.part[rows]
        return Spans(self.files, self.start[rows], self.size[rows], part, apart)

    def _of(self, part: int) -> Bytes:
        data = self._data.get(part)
        if data is None:  # two threads may both open it; one of the two maps is then dropped
            data = self._data[part] = mapped(self.files[part])
        return data


class Kept:
    """The last few of some large parts, made by `make(number)` when first asked for.

    Safe for threads: one makes a part, others that want the same wait for it, and others still are not held up.
    """

    def __init__(self, make: Callable[[int], Any], most: int) -> None:
        self.make, self.most = make, most
        self._lock = threading.Lock()
        self._kept: dict[int, Future[Any]] = {}

    def __call__(self, number: int) -> Any:
        with self._lock:
            part = self._kept.pop(number, None)
            mine = part is None
            if part is None:
                part = Future()
                while len(self._kept) >= self.most:
                    del self._kept[next(iter(self._kept))]
            self._kept[number] = part  # the last used is dropped last
        if mine:
            try:
                part.set_result(self.make(number))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(number, None)
                part.set_exception(error)
        return part.result()


@dataclass(frozen=True, eq=False)
class FlaggedBoxes(Boxes):
    """Boxes with numbers beside them: `flags` (m, f) int64, columns `flag_names`."""

    flags: Ints
    flag_names: tuple[str, ...]

    def _moved(self, rows: Ints, count: int) -> FlaggedBoxes:
        order, image = _followed(self.image, rows)
        return FlaggedBoxes(self.xyxy[order], image, self.label[order], self.flags[order], self.flag_names)


def _followed(image: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Which boxes belong to `rows` of pictures, in that order, and the picture of each in the new numbering.

    `image` must be sorted.
    """
    first, last = np.searchsorted(image, rows, "left"), np.searchsorted(image, rows, "right")
    count = last - first
    new = np.repeat(np.arange(len(rows)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + within, new


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples:
    """Pictures of one set in one format. Arrays have one row a picture; boxes and pairs point to rows.

    Parameters
    ----------
    format
        Name of the format, one of `mien.data.formats.FORMATS`.
    root
        File or folder that was read.
    keys
        Name of every picture: its path below `root`, the key of its record.
    coded
        Where the bytes are.
    labels
        (n,) int64 number of the person (or class), -1 where nobody knows; None if the format has no such thing.
    label_names
        Name of each number, where there are names.
    points
        (n, k, 2) float32 pixels, NaN where unknown; or None.
    boxes
        Boxes, sorted by their picture; or None.
    pairs
        Pairs to verify by the name of their protocol.
    columns
        All else, (n, …) arrays by name.
    facts
        Numbers about the whole: pairs of templates, people in a gallery …
    """

    format: str
    root: Path
    keys: Sequence[str]
    coded: Coded
    labels: Ints | None = None
    label_names: tuple[str, ...] = ()
    points: Floats | None = None
    boxes: Boxes | None = None
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows: dict[str, int] = {"keys": len(self.keys)}
        rows |= {name: len(column) for name, column in self.columns.items()}
        rows |= {"labels": len(self.labels)} if self.labels is not None else {}
        rows |= {"points": len(self.points)} if self.points is not None else {}
        for name, count in rows.items():
            if count != len(self):
                raise ShapeError(f"{name} must have one row a picture", got=count, expected=len(self))

    def __len__(self) -> int:
        return len(self.coded)

    @property
    def blocks(self) -> Ints | None:
        """Rows at which parts begin that are read as a whole; None where every row can be read alone."""
        return self.coded.blocks

    def fetch(self, rows: Rows) -> list[Bytes]:
        """The bytes of some picture files, (b,) uint8 each.

        Raises
        ------
        MediaNotFound, MediaForbidden, CorruptMedia
            A file is gone or cannot be read any more.
        """
        return self.coded.fetch(rows)

    def picture(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, read and decoded now; errors as `mien.media.load_image`, and they name the picture."""
        from mien.media import load_image

        data = self.fetch([row])[0]
        try:
            return load_image(data.data)
        except MienError as error:
            error.got = f"{self.keys[row]} of {self.root}"
            raise

    @property
    def people(self) -> int:
        """How many different people (or classes) the labels name."""
        return 0 if self.labels is None else len(np.unique(self.labels[self.labels >= 0]))

    def label_name(self, label: int) -> str:
        """Name of a number: the set's own, or the number itself with leading zeros."""
        return self.label_names[label] if 0 <= label < len(self.label_names) else f"{label:07d}"

    def take(self, rows: NDArray[Any] | Sequence[int] | slice) -> Self:
        """The set of some rows, given as a mask, as numbers or as a slice.

        Pairs with a picture that was left out are left out; boxes follow their picture. `facts` are those of the
        whole and are dropped.
        """
        index = np.arange(len(self))[np.asarray(rows, np.int64) if isinstance(rows, list | tuple) else rows]
        keys = np.asarray(self.keys, object)[index]
        return dataclasses.replace(
            self,
            keys=tuple(keys),
            coded=self.coded.take(index),
            labels=None if self.labels is None else self.labels[index],
            points=None if self.points is None else self.points[index],
            boxes=None if self.boxes is None else self.boxes._moved(index, len(self)),
            pairs={name: pairs._moved(index, len(self)) for name, pairs in self.pairs.items()},
            columns={name: column[index] for name, column in self.columns.items()},
            facts={},
        )


def _listed(rows: Rows) -> list[int]:
    return rows.tolist() if isinstance(rows, np.ndarray) else list(rows)


def numbered(names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Numbers of names, in their sorted order, and the names."""
    unique, inverse = np.unique(np.asarray(names, str), return_inverse=True)
    return inverse.astype(np.int64).reshape(-1), tuple(unique.tolist())


def picked(
    paths: Sequence[Path], names: Sequence[str], tell: Tell, *, among: frozenset[str] | None = None
) -> NDArray[np.bool_]:
    """(n,) which files exist; those that do not are told."""
    there = np.ones(len(paths), bool)
    for row, path in enumerate(paths):
        if (str(path) not in among) if among is not None else not path.is_file():
            there[row] = False
            tell("missing_file", names[row], MediaNotFound("a listed picture is not there", got=path))
    return there


def unique_rows(names: Sequence[str], where: Path, tell: Tell) -> NDArray[np.bool_]:
    """(n,) which names are seen for the first time; repetitions are told."""
    from mien.errors import TableError

    first, seen = np.ones(len(names), bool), set[str]()
    for row, name in enumerate(names):
        if name in seen:
            first[row] = False
            tell("duplicate", name, TableError("a picture is listed twice", got=f"{name} in {where.name}"))
        seen.add(name)
    return first


def truncated(what: str, where: object) -> CorruptMedia:
    """The error for a file that ends too early."""
    return CorruptMedia(what, got=where, hint="copy or download the file again; what comes before is whole")
