"""The files of an index, and how they stay whole while one process writes and others read.

    <gallery>.index/
        lock                who holds it may write
        current             name of the folder that counts; replaced at once, so that a rebuild is there or not
        v000001/
            header          two slots of 512 bytes, written in turn: what is committed
            frame           rotation (D, d), centre (D,) and codebook (16, 4) of the coarse codes, float32
            ids             int64 (rows,); -1 where a row was removed
            codes           uint8 (rows, D): the rotated vectors, 128 + a signed number
            fine            uint8 (rows, D): what the codes left over, 128 + a signed number of 254ths
            coarse          uint8 (rows, D / 8): two codes of four numbers each in a byte
            sums            uint32 (rows,): a checksum of each row

The data files are longer than what is committed (sparse files, which cost no disk), so that a growing index need not
be mapped anew. Rows count once the header says so, and the header is written after the rows have reached the disk; a
write that is cut short leaves rows that nobody reads and that the next writer writes over. The two slots do for the
header what that does for the rows. Removal overwrites a row where it lies: with codes of nothing but zeros, and with
coarse codes drawn at random, since a row that is alike for all of them could be near a query for all of them.
"""

from __future__ import annotations

import functools
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mien.errors import IndexDamaged

__all__ = ["Frame", "Header", "Rows", "Version", "current", "publish"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Uint32 = npt.NDArray[np.uint32]

MAGIC: Final = b"mienidx3"
SLOT: Final = 512
"""Bytes of a header slot: a sector, which a disk writes whole or not at all."""

FORM: Final = struct.Struct("<8sIIQqQQQI")

CURRENT: Final = "current"
LOCK: Final = "lock"
WORD: Final = 64
"""Rotated vectors have a multiple of so many numbers, so that codes and signs of a row are whole machine words."""

SEED: Final = 0x6D69656E
"""Of the rotation. Any would do but those that others draw vectors from: an axis must not lie along one of them."""

ZERO: Final = 128
"""The code of the number zero."""

GROUP: Final = 4
"""Numbers that share a coarse code of 4 bits."""


@dataclass(frozen=True)
class Header:
    """What is committed.

    Parameters
    ----------
    dim
        Numbers of a vector as it is given.
    width
        Numbers of a rotated vector: `dim` rounded up to a multiple of `WORD`.
    sequence
        How often a header has been written; the slot with the greater one counts.
    generation
        Last change of the store that is contained.
    rows
        Rows that count, removed ones included.
    removals
        How often rows have been removed: tells readers to look at the ids again.
    unfinished
        1 while rows are being removed; a writer that finds it finishes the work of one that died.
    """

    dim: int
    width: int
    sequence: int = 0
    generation: int = 0
    rows: int = 0
    removals: int = 0
    unfinished: int = 0

    def pack(self) -> bytes:
        """The bytes of a slot."""
        fields = (self.dim, self.width, self.sequence, self.generation, self.rows, self.removals, self.unfinished)
        head = FORM.pack(MAGIC, *fields, 0)[:-4]
        return (head + struct.pack("<I", zlib.crc32(head))).ljust(SLOT, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> Header | None:
        """The header in a slot; None if it is not whole."""
        if len(data) < FORM.size:
            return None
        magic, *fields, told = FORM.unpack_from(data)
        if magic != MAGIC or told != zlib.crc32(data[: FORM.size - 4]):
            return None
        return cls(*fields)


@dataclass(frozen=True)
class Frame:
    """How vectors are turned before they are stored, and what the coarse codes mean.

    Parameters
    ----------
    rotation
        (D, d) float32, columns of length 1 at right angles.
    centre
        (D,) float32, the mean of turned vectors as far as it is known.
    codebook
        (16, 4) float32: the points that represent four independent N(0, 1) numbers with the least squared error.
    """

    rotation: Float32
    centre: Float32
    codebook: Float32

    @property
    def width(self) -> int:
        """D."""
        return len(self.rotation)

    def turn(self, vectors: Float32) -> Float32:
        """Vectors (n, d) in the frame of the index, (n, D)."""
        turned: Float32 = vectors @ self.rotation.T
        return turned

    def centroids(self) -> Float32:
        """What each coarse code stands for, (D / 4, 16, 4): the codebook around the centre, as wide as unit vectors
        spread there."""
        spread = (max(1.0 - float(self.centre @ self.centre), 0.05) / self.width) ** 0.5
        return self.centre.reshape(-1, 1, GROUP) + self.codebook * np.float32(spread)

    @classmethod
    def made(cls, dim: int) -> Frame:
        """A random rotation, centre zero."""
        width = WORD * -(-dim // WORD)
        gaussian = np.random.default_rng(SEED).standard_normal((width, width))
        q, r = np.linalg.qr(gaussian)
        q *= np.sign(np.diag(r))  # without it the rotations are not uniform
        return cls(np.ascontiguousarray(q[:, :dim], np.float32), np.zeros(width, np.float32), _gaussian_codebook())

    def save(self, path: Path) -> None:
        """Writes it with a checksum in front."""
        data = self.rotation.tobytes() + self.centre.tobytes() + self.codebook.tobytes()
        _written(path, struct.pack("<I", zlib.crc32(data)) + data)

    @classmethod
    def load(cls, path: Path, dim: int, width: int) -> Frame:
        """Reads what `save` wrote.

        Raises
        ------
        IndexDamaged
            It is not that.
        """
        raw = _read(path)
        data = raw[4:]
        if len(data) != 4 * (width * (dim + 1) + 16 * GROUP) or zlib.crc32(data) != struct.unpack_from("<I", raw)[0]:
            raise IndexDamaged("the frame of the index is torn", got=path)
        numbers = np.frombuffer(data, np.float32)
        turned, around = width * dim, width * (dim + 1)
        return cls(numbers[:turned].reshape(width, dim), numbers[turned:around], numbers[around:].reshape(16, GROUP))


@functools.cache
def _gaussian_codebook(rounds: int = 40, samples: int = 20_000) -> Float32:
    """Sixteen points for four N(0, 1) numbers by Lloyd's algorithm."""
    drawn = np.random.default_rng(0).standard_normal((samples, GROUP))
    points = drawn[:16].copy()
    for _ in range(rounds):
        nearest = ((drawn[:, None] - points) ** 2).sum(2).argmin(1)
        counts = np.bincount(nearest, minlength=16)
        sums = np.stack([np.bincount(nearest, column, 16) for column in drawn.T], 1)
        points = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], points)
    return points.astype(np.float32)


@dataclass(frozen=True)
class Rows:
    """Rows of the data files: mapped ones (read only), or new ones on their way to the disk."""

    ids: Int64
    codes: Bytes
    fine: Bytes
    coarse: Bytes
    sums: Uint32

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Int64) -> Rows:
        return Rows(self.ids[rows], self.codes[rows], self.fine[rows], self.coarse[rows], self.sums[rows])

    def torn(self) -> Int64:
        """Numbers of the rows whose checksum is wrong; removed ones have none."""
        wrong = [
            at
            + np.flatnonzero((checksums(part.ids, part.codes, part.fine, part.coarse) != part.sums) & (part.ids >= 0))
            for at in range(0, len(self), 1 << 14)
            for part in [self[at : at + (1 << 14)]]
        ]
        return np.concatenate(wrong) if wrong else np.empty(0, np.int64)


def checksums(ids: Int64, codes: Bytes, fine: Bytes, coarse: Bytes) -> Uint32:
    """Of each row, 32 bits of a sum of its words by odd weights modulo 2^64; not that of a row of zeros."""
    words = np.concatenate(
        [np.ascontiguousarray(a).view(np.uint64).reshape(len(ids), -1) for a in (ids, codes, fine, coarse)], 1
    )
    weights = np.random.default_rng(words.shape[1]).integers(0, 2**63, words.shape[1], np.uint64) * np.uint64(2)
    total = (words * (weights + np.uint64(1))).sum(1, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    total ^= total >> np.uint64(29)
    total *= np.uint64(0xBF58476D1CE4E5B9)
    told: Uint32 = (total >> np.uint64(32)).astype(np.uint32)
    return told


class Version:
    """One folder of data files.

    Parameters
    ----------
    folder
        The folder.
    writable
        Whether rows may be written.
    """

    NAMES: Final = ("ids", "codes", "fine", "coarse", "sums")

    def __init__(self, folder: Path, *, writable: bool) -> None:
        self.folder = folder
        self.writable = writable
        flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
        self._files: dict[str, int] = {}
        try:
            for name in ("header", *self.NAMES):
                self._files[name] = os.open(folder / name, flags)
        except FileNotFoundError as error:
            self.close()
            raise IndexDamaged("a file of the index is missing", got=error.filename) from error
        self.header = self.committed()
        self.frame = Frame.load(folder / "frame", self.header.dim, self.header.width)
        self._waiting = 0  # rows written and not yet committed
        self._mapped = self._map()
        self.check()

    @classmethod
    def create(cls, folder: Path, frame: Frame, dim: int) -> Version:
        """An empty one in a new folder."""
        folder.mkdir(parents=True)
        header = Header(dim, frame.width)
        for name in cls.NAMES:
            _written(folder / name, b"")
        frame.save(folder / "frame")
        _written(folder / "header", header.pack() + bytes(SLOT))
        return cls(folder, writable=True)

    def close(self) -> None:
        """Closes the files; maps stay until nobody looks at them."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------- reading

    def committed(self) -> Header:
        """The newest whole header on the disk.

        Raises
        ------
        IndexDamaged
            There is none.
        """
        data = _pread(self._files["header"], 2 * SLOT, 0)
        found = [h for h in (Header.unpack(data[:SLOT]), Header.unpack(data[SLOT:])) if h is not None]
        if not found:
            raise IndexDamaged("the header of the index is torn", got=self.folder / "header")
        return max(found, key=lambda h: h.sequence)

    def refresh(self) -> bool:
        """Looks at the header; whether it has changed."""
        header = self.committed()
        # While a slot is written it may not be whole, and the other one counts again for a moment.
        if header.sequence <= self.header.sequence:
            return False
        self._now(header)
        return True

    def _now(self, header: Header) -> None:
        if header.rows > len(self._mapped):
            self._mapped = self._map(header.rows)
        self.header = header

    @property
    def rows(self) -> Rows:
        """What is committed."""
        count = self.header.rows
        return self._mapped[:count]

    def _widths(self) -> dict[str, int]:
        return {
            "ids": 8,
            "codes": self.header.width,
            "fine": self.header.width,
            "coarse": self.header.width // 8,
            "sums": 4,
        }

    def _map(self, rows: int | None = None) -> Rows:
        rows = self.header.rows if rows is None else rows
        widths = self._widths()
        sizes = {name: os.fstat(self._files[name]).st_size for name in self.NAMES}
        whole = min(sizes[name] // widths[name] for name in self.NAMES)
        if whole < rows:
            raise IndexDamaged("the index has been cut short", got=f"{self.folder}, {whole} rows", expected=f"{rows}")

        def of(name: str, kind: Any, shape: tuple[int, ...]) -> Any:
            if whole == 0:
                return np.empty(shape, kind)
            seen = mmap.mmap(self._files[name], whole * widths[name], access=mmap.ACCESS_READ)
            return np.frombuffer(seen, kind).reshape(shape)

        width = self.header.width
        return Rows(
            of("ids", np.int64, (whole,)),
            of("codes", np.uint8, (whole, width)),
            of("fine", np.uint8, (whole, width)),
            of("coarse", np.uint8, (whole, width // 8)),
            of("sums", np.uint32, (whole,)),
        )

    def check(self, last: int = 1024) -> None:
        """Compares the checksums of the last rows, where a write that was cut short shows.

        Raises
        ------
        IndexDamaged
            They differ.
        """
        rows = self.rows
        torn = rows[max(0, len(rows) - last) :].torn()
        if len(torn):
            raise IndexDamaged("rows of the index are torn", got=f"{len(torn)} wrong checksums in {self.folder}")

    # ---------------------------------------------------------------------------------------- writing

    def begin(self) -> None:
        """Forgets what was written and not committed."""
        self._waiting = 0

    def append(self, new: Rows) -> None:
        """Writes rows behind the others; they count after `commit`."""
        widths, start = self._widths(), self.header.rows + self._waiting
        end = start + len(new)
        for name in self.NAMES:
            if os.fstat(self._files[name]).st_size < end * widths[name]:
                os.truncate(self._files[name], (end + max(4096, end // 8)) * widths[name])
            _pwrite(self._files[name], np.ascontiguousarray(getattr(new, name)), start * widths[name])
        self._waiting += len(new)

    def erase(self, rows: Int64) -> None:
        """Overwrites rows, sorted by number."""
        widths = self._widths()
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            if not len(run):
                continue
            blank: dict[str, npt.NDArray[Any]] = {
                "ids": np.full(len(run), -1, np.int64),
                "codes": np.full((len(run), widths["codes"]), ZERO, np.uint8),
                "fine": np.full((len(run), widths["fine"]), ZERO, np.uint8),
                "coarse": np.random.default_rng(int(run[0])).integers(0, 256, (len(run), widths["coarse"]), np.uint8),
                "sums": np.zeros(len(run), np.uint32),
            }
            for name in self.NAMES:
                _pwrite(self._files[name], blank[name], int(run[0]) * widths[name])

    def commit(self, **changes: int) -> None:
        """Waits until all rows are on the disk, then writes a header that counts what was appended, with these fields
        changed, into the slot that does not count."""
        self.sync()
        header = replace(
            self.header, sequence=self.header.sequence + 1, rows=self.header.rows + self._waiting, **changes
        )
        at = SLOT * (header.sequence % 2)
        _pwrite(self._files["header"], np.frombuffer(header.pack(), np.uint8), at)
        _sync(self._files["header"])
        self._waiting = 0
        self._now(header)

    def sync(self) -> None:
        """Waits until all rows are on the disk."""
        for name in self.NAMES:
            _sync(self._files[name])


def current(folder: Path) -> Path | None:
    """The folder of the version that counts; None if there is none yet.

    Raises
    ------
    IndexDamaged
        The name of it is not one.
    """
    try:
        name = (folder / CURRENT).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise IndexDamaged("the index does not say which version counts", got=folder / CURRENT) from error
    if not (name.startswith("v") and name[1:].isdigit()):
        raise IndexDamaged("the index does not say which version counts", got=f"{name!r} in {folder / CURRENT}")
    return folder / name


def publish(folder: Path, make: Callable[[Path], Version]) -> Version:
    """Makes a new version and lets it count; what `make` raises leaves everything as it was.

    The caller holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name[1:]) for path in folder.glob("v*") if path.name[1:].isdigit()]
    new = folder / f"v{max(numbers, default=0) + 1:06d}"
    try:
        made = make(new)
        _written(folder / f"{CURRENT}.new", f"{new.name}\n".encode("ascii"))
        os.replace(folder / f"{CURRENT}.new", folder / CURRENT)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    for path in folder.glob("v*"):
        # Readers that have it mapped keep what they see; a system that forbids removal keeps it until the next time.
        if path != new and path.name[1:].isdigit():
            shutil.rmtree(path, ignore_errors=True)
    return made


# ---------------------------------------------------------------------------------------------- the system


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise IndexDamaged("a file of the index is missing", got=path) from error


def _written(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _pread(file: int, count: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, count, at)
    os.lseek(file, at, os.SEEK_SET)
    return os.read(file, count)


def _pwrite(file: int, data: npt.NDArray[Any], at: int) -> None:
    view = memoryview(data.tobytes() if data.nbytes < SLOT else data.reshape(-1).view(np.uint8).data)
    while len(view):
        if hasattr(os, "pwrite"):
            done = os.pwrite(file, view, at)
        else:
            os.lseek(file, at, os.SEEK_SET)
            done = os.write(file, view)
        view, at = view[done:], at + done


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows has no handle of a folder
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
