"""InsightFace's ``.rec`` with ``.idx`` (MXNet RecordIO): one large file of records, read in place.

A record is the magic number 0xced7230a, a word of 3 bits ``cflag`` and 29 bits length, the data, and zeros up to a
multiple of four bytes. ``cflag`` 0 is a whole record; 1, 2 and 3 are first, middle and last part of one whose data
holds the magic number at a multiple of four, where the writer cuts it out and the reader puts it back
(dmlc-core, ``recordio.h``). The data is an image header (``flag`` uint32, ``label`` float32, ``id`` and ``id2``
uint64), then ``flag`` float32 labels in the place of the one if ``flag`` is not 0, then the picture file.

Face sets begin with record 0, whose two labels are the keys of the first and behind the last *identity record*.
Identity records hold the first key and the one behind the last of a person's pictures, and no picture. ``.idx`` holds
key and offset of every record, a line each. Labels are float32, so numbers beyond 2^24 cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mien.data.formats._text import lines_of
from mien.data.formats.samples import Samples, Spans, Tell, mapped, strict, truncated
from mien.errors import CorruptMedia, MediaNotFound, MienError, TableError, ValueRangeError

__all__ = ["RecordWriter", "read_records"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

MAGIC = 0xCED7230A
HEADER = struct.Struct("<IfQQ")
_WORDS = struct.Struct("<II")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_MOST = 1 << 29
_AT_ONCE = 1 << 16
"""Records whose headers are looked at together: a few megabytes."""


def find_records(path: Path) -> list[Path]:
    """The ``.rec`` files at or in `path`."""
    return [path] if path.suffix == ".rec" and path.is_file() else sorted(path.glob("*.rec")) if path.is_dir() else []


def read_records(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """A ``.rec`` file with its ``.idx``, if there is one; without, the records are walked.

    `labels` are those of the pictures' own headers (the first, where there are several); all of several are
    ``columns["labels"]`` (n, k). `keys` are the records' keys.

    Raises
    ------
    CorruptMedia
        A record is truncated or is none.
    TableError
        The index does not fit the records, or identity ranges do not fit the pictures.
    MediaError
        The file cannot be opened.
    """
    path = Path(path)
    data = mapped(path)
    keys, offsets = _indexed(path.with_suffix(".idx"), data, path, tell)
    start, size, good, apart = _spans(data, offsets, path.name, tell)
    keys, start, size = keys[good], start[good], size[good]
    apart = {int(np.count_nonzero(good[:row])): part for row, part in apart.items()}
    flag, label = _headers(data, start, size, apart)
    fits = 24 + 4 * flag.astype(np.int64) <= size
    for row in np.flatnonzero(~fits).tolist():
        tell("truncated", _record(path, keys[row]), truncated("a record has no room for its header", int(size[row])))
    several = _label_columns(data, start, np.where(fits, flag, 0), label, apart)
    picture = fits.copy()
    facts: dict[str, int] = {}
    if len(keys) and keys[0] == 0 and fits[0] and flag[0] >= 2 and size[0] == 24 + 4 * int(flag[0]):
        begin, end = np.clip(np.nan_to_num(several[:, :2], nan=-1), -1, 1 << 53).T.astype(np.int64)
        ranges = (begin, end)
        first, last = int(ranges[0][0]), int(ranges[1][0])
        identity = (keys >= first) & (keys < last)
        picture &= ~identity & (keys != 0)
        facts["identity records"] = int(identity.sum())
        _check_ranges(path, keys, picture, identity & fits, ranges, (first, last), several[:, 0], tell)
    skip = 24 + 4 * flag.astype(np.int64)
    rows = np.flatnonzero(picture)
    place = {int(row): number for number, row in enumerate(rows) if int(row) in apart} if apart else {}
    coded = Spans(
        [str(path)], start[rows] + skip[rows], size[rows] - skip[rows],
        apart={place[row]: part[int(skip[row]) :] for row, part in apart.items() if row in place},
    )  # fmt: skip
    whole = several[rows, 0]
    odd = ~(np.isfinite(whole) & (np.abs(whole) < 1 << 62))
    most = int(flag[rows].max(initial=0))
    return Samples(
        format="rec", root=path, keys=_Keys(keys[rows]), coded=coded,
        labels=np.where(odd, -1, whole).astype(np.int64), facts=facts,
        columns={"labels": several[rows, :most]} if most > 1 else {},
    )  # fmt: skip


class _Keys(Sequence[str]):
    """Keys as text, made when asked for: as objects, those of a large set would take a third of a gigabyte."""

    def __init__(self, keys: Ints) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> _Keys: ...
    def __getitem__(self, row: int | slice) -> str | _Keys:
        return _Keys(self.keys[row]) if isinstance(row, slice) else str(self.keys[row])


def _record(path: Path, key: object) -> str:
    return f"{path.name} record {key}"


def _indexed(index: Path, data: Bytes, path: Path, tell: Tell) -> tuple[Ints, Ints]:
    """Keys and offsets of the records, in the order of the keys."""
    if not index.is_file():
        offsets = np.array(list(_walk(data, path.name, tell)), np.int64)
        return np.arange(len(offsets)), offsets
    try:
        table = np.array(index.read_bytes().split(), "S24").astype(np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        rows = []
        for number, line in enumerate(lines_of(index), 1):
            try:
                key, offset = map(int, line.split())
                rows.append((key, np.int64(offset)))
            except (ValueError, OverflowError):
                error = TableError(f"{index.name} line {number} is not as it should be", got=line,
                                   expected="key and offset")  # fmt: skip
                tell("index", f"{index.name} line {number}", error)
        table = np.array(rows, np.int64).reshape(-1, 2)
    keys, first, count = np.unique(table[:, 0], return_index=True, return_counts=True)
    for key in keys[count > 1].tolist():
        tell("duplicate", f"{index.name} key {key}", TableError("the index names a key twice", got=key))
    offsets = table[first, 1]
    outside = (offsets < 0) | (offsets > len(data) - 8) | (offsets % 4 != 0)
    for key, offset in zip(keys[outside].tolist(), offsets[outside].tolist(), strict=True):
        error = TableError(
            "the index points to where no record can be", got=f"offset {offset}", expected=f"0 to {len(data) - 8}",
            hint="the two files do not belong together, or the .rec is not whole; make the index anew",
        )  # fmt: skip
        tell("index", f"{index.name} key {key}", error)
    known = np.sort(offsets[~outside])
    _check_covered(data, known, path, tell)
    return keys[~outside], offsets[~outside]


def _check_covered(data: Bytes, known: Ints, path: Path, tell: Tell) -> None:
    """Tells of records that lie behind the last one that the index knows."""
    end = int(known[-1]) if len(known) else 0
    beyond = list(_walk(data[end:], path.name, lambda *_: None))[1 if len(known) else 0 :]
    if beyond:
        error = TableError("the index knows fewer records than there are", got=f"{len(beyond)} more behind its last",
                           hint="make the index anew: convert the .rec without its .idx")  # fmt: skip
        tell("index", f"{path.with_suffix('.idx').name}", error)


def _walk(data: Bytes, name: str, tell: Tell) -> Iterator[int]:
    """Offsets of the records, one after the other."""
    view, at, begun = data.data, 0, False
    while at < len(view):
        if len(view) - at < 8:
            return tell("truncated", f"{name} byte {at}", truncated("a record is cut off", f"{len(view) - at} bytes"))
        magic, word = _WORDS.unpack_from(view, at)
        if magic != MAGIC:
            error = CorruptMedia("there is no record where one should begin", got=f"{magic:#010x}", expected=hex(MAGIC))
            return tell("truncated", f"{name} byte {at}", error)
        cflag = word >> 29
        if cflag in (0, 1):
            begun = cflag == 1
            yield at
        elif not begun:
            tell("truncated", f"{name} byte {at}", CorruptMedia("a part of a record has no beginning", got=cflag))
        at += 8 + (word & (_MOST - 1)) + (-word & 3)
    return None


def _spans(data: Bytes, offsets: Ints, name: str, tell: Tell) -> tuple[Ints, Ints, NDArray[np.bool_], dict[int, bytes]]:
    """First byte and size of every record's data, which are good, and the data of those in several parts."""
    words = _gather(data, offsets, 8).view("<u4").astype(np.int64)
    size, cflag = words[:, 1] & (_MOST - 1), words[:, 1] >> 29
    start = offsets + 8
    good, apart = np.ones(len(offsets), bool), dict[int, bytes]()
    wrong = words[:, 0] != MAGIC
    cut = ~wrong & (start + size > len(data))
    small = ~wrong & ~cut & (cflag == 0) & (size < 24)
    for row in np.flatnonzero(wrong | cut | small | (~wrong & (cflag > 1))).tolist():
        good[row] = False
        where = f"{name} byte {int(offsets[row])}"
        if wrong[row]:
            error = CorruptMedia(
                "there is no record where the index says", got=f"{int(words[row, 0]):#010x}", expected=hex(MAGIC),
                hint="the .idx and the .rec do not belong together; make the index anew",
            )  # fmt: skip
            tell("index", where, error)
        elif cut[row]:
            there = f"{len(data) - int(start[row])} of {int(size[row])} bytes"
            tell("truncated", where, truncated("a record is cut off", there))
        elif small[row]:
            tell("truncated", where, truncated("a record is too short for its header", f"{int(size[row])} bytes"))
        else:
            tell("index", where, CorruptMedia("the index points into the middle of a record", got=int(cflag[row])))
    for row in np.flatnonzero(good & (cflag == 1)).tolist():
        try:
            apart[row] = _joined(data, int(offsets[row]))
            size[row] = len(apart[row])
        except CorruptMedia as error:
            good[row] = False
            tell("truncated", f"{name} byte {int(offsets[row])}", error)
    return start, size, good, apart


def _joined(data: Bytes, at: int) -> bytes:
    """Data of a record in several parts, the magic number between them again."""
    parts = list[bytes]()
    while True:
        if len(data) - at < 8:
            raise truncated("a record in several parts is cut off", f"{len(parts)} parts")
        magic, word = _WORDS.unpack_from(data.data, at)
        size, cflag = word & (_MOST - 1), word >> 29
        if magic != MAGIC or at + 8 + size > len(data) or (cflag != 1) != bool(parts) or cflag == 0:
            raise CorruptMedia("a record in several parts does not go on", got=f"{len(parts)} parts")
        parts.append(data[at + 8 : at + 8 + size].tobytes())
        at += 8 + size + (-size & 3)
        if cflag == 3:
            whole = _MAGIC_BYTES.join(parts)
            if len(whole) < 24:
                raise truncated("a record is too short for its header", f"{len(whole)} bytes")
            return whole


def _gather(data: Bytes, start: Ints, width: int) -> Bytes:
    """(n, width) bytes of `data` from each `start` on, in the order of the file for the disk's sake."""
    found = np.empty((len(start), width), np.uint8)
    steps = np.arange(width)
    order = np.argsort(start, kind="stable")
    for begin in range(0, len(start), _AT_ONCE):
        rows = order[begin : begin + _AT_ONCE]
        found[rows] = data[start[rows, None] + steps]
    return found


def _headers(
    data: Bytes, start: Ints, size: Ints, apart: dict[int, bytes]
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Flag and label of every record."""
    # A first part may end within the header; what is gathered there is not looked at.
    raw = _gather(data, np.minimum(start, max(len(data) - 24, 0)), 24) if len(data) >= 24 else np.zeros(
        (len(start), 24), np.uint8)  # fmt: skip
    for row, part in apart.items():
        raw[row] = np.frombuffer(part[:24], np.uint8)
    return raw[:, :4].copy().view("<u4")[:, 0], raw[:, 4:8].copy().view("<f4")[:, 0].astype(np.float64)


def _label_columns(
    data: Bytes, start: Ints, flag: NDArray[np.uint32], label: NDArray[np.float64], apart: dict[int, bytes]
) -> NDArray[np.float64]:
    """(n, most) labels of every record, NaN beyond its own number of them; at least two columns."""
    # Labels of points (a few hundred) are kept; a damaged flag must not fill the memory.
    most = int(min(max(2, flag.max(initial=0)), max(2, (1 << 27) // max(len(start), 1))))
    found = np.full((len(start), most), np.nan)
    found[:, 0] = label
    for count in np.unique(flag[flag > 0]).tolist():
        rows = np.flatnonzero(flag == count)
        wanted = min(count, most)
        alone = np.array([row not in apart for row in rows.tolist()]) if apart else np.ones(len(rows), bool)
        found[rows[alone], :wanted] = _gather(data, start[rows[alone]] + 24, 4 * wanted).view("<f4")
        for row in rows[~alone].tolist():
            found[row, :wanted] = np.frombuffer(apart[row], "<f4", wanted, 24)
    return found


def _check_ranges(
    path: Path, keys: Ints, picture: NDArray[np.bool_], identity: NDArray[np.bool_], ranges: tuple[Ints, Ints],
    named: tuple[int, int], label: NDArray[np.float64], tell: Tell,
) -> None:  # fmt: skip
    """Tells where record 0, the identity records and the pictures' labels contradict each other."""
    first, last = named
    if int(identity.sum()) != last - first:
        error = TableError("record 0 tells another number of identity records than there are",
                           got=int(identity.sum()), expected=last - first)  # fmt: skip
        tell("wrong_count", _record(path, 0), error)
    pictures = int(picture.sum())
    if pictures != first - 1:
        error = TableError("record 0 tells another number of pictures than there are", got=pictures, expected=first - 1)
        tell("wrong_count", _record(path, 0), error)
    covered = np.zeros(len(keys), np.int64)
    owner = np.full(len(keys), -1)
    for row in np.flatnonzero(identity).tolist():
        begin, end = int(ranges[0][row]), int(ranges[1][row])
        low, high = np.searchsorted(keys, [begin, end])
        inside = slice(int(low), int(high))
        if end < begin or high - low != end - begin or not picture[inside].all():
            error = TableError("an identity record names pictures that are not there", got=f"{begin} to {end - 1}")
            tell("wrong_count", _record(path, keys[row]), error)
        elif end > begin:
            if len(np.unique(label[inside])) > 1:
                error = TableError("pictures of one identity record bear different labels", got=f"{begin} to {end - 1}")
                tell("wrong_count", _record(path, keys[row]), error)
            covered[inside] += 1
            owner[inside] = row
    odd = int(np.count_nonzero(picture & (covered != 1)))
    if odd and identity.any():
        error = TableError("pictures belong to no identity record, or to several", got=f"{odd} pictures")
        tell("wrong_count", _record(path, 0), error)


# ------------------------------------------------------------------------------------------- writing


class RecordWriter:
    """Writes ``.rec`` and ``.idx`` record by record; `name` is their common path without ending."""

    def __init__(self, name: str | os.PathLike[str]) -> None:
        self.rec = Path(f"{os.fspath(name)}.rec")
        if not self.rec.parent.is_dir():
            raise MediaNotFound("there is no such folder", got=self.rec.parent)
        self._rec = self.rec.open("wb")
        self._idx = self.rec.with_suffix(".idx").open("w", encoding="ascii", newline="\n")
        self._at = 0

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._rec.close()
        self._idx.close()

    def write(self, key: int, data: bytes, label: float | Iterable[float]) -> None:
        """One record with one label or several.

        Raises
        ------
        ValueRangeError
            It is larger than a record can be, 512 MiB.
        """
        if isinstance(label, int | float):
            header = HEADER.pack(0, label, key, 0)
        else:
            many = np.asarray(list(label), "<f4")
            header = HEADER.pack(len(many), 0.0, key, 0) + many.tobytes()
        self._idx.write(f"{key}\t{self._at}\n")
        for cflag, part in _parts(header + data):
            self._put(cflag, part)

    def _put(self, cflag: int, part: bytes) -> None:
        if len(part) >= _MOST:
            raise ValueRangeError("a record is too large", got=f"{len(part)} bytes", expected=f"less than {_MOST}")
        whole = _WORDS.pack(MAGIC, cflag << 29 | len(part)) + part + bytes(-len(part) & 3)
        self._rec.write(whole)
        self._at += len(whole)


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The data cut where it holds the magic number at a multiple of four, with the flag of each part."""
    cuts, at = [], data.find(_MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = data.find(_MAGIC_BYTES, at + (4 if at % 4 == 0 else 1))
    if not cuts:
        return [(0, data)]
    begins, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(data)]
    flags = [1, *[2] * (len(cuts) - 1), 3]
    return [(flag, data[a:b]) for flag, a, b in zip(flags, begins, ends, strict=True)]


def write_records(samples: Samples, target: Path, rows: Iterable[tuple[int, bytes]]) -> None:
    """``train.rec``, ``train.idx`` and ``property`` in the folder `target`, with identity records.

    `rows` gives (row, bytes) of the pictures, those of one person one after the other.
    """
    from mien.media import image_size

    spans: dict[int, list[int]] = {}
    size: tuple[int, int] | tuple[()] = ()
    if samples.labels is not None and int(np.abs(samples.labels).max(initial=0)) > 1 << 24:
        raise ValueRangeError(
            "labels are too large for float32", got=int(samples.labels.max()), expected="at most 2^24"
        )
    with RecordWriter(target / "train") as writer:
        writer.write(0, b"", (0, 0))  # its place; the true one is written over it
        key = 1
        for row, data in rows:
            label = -1 if samples.labels is None else int(samples.labels[row])
            writer.write(key, data, float(label))
            span = spans.setdefault(label, [key, key])
            if span[1] != key:
                raise TableError("pictures of one person must follow each other", got=samples.keys[row])
            span[1] = key = key + 1
            if not size:
                with contextlib.suppress(MienError):  # a broken picture is left to the reader
                    size = image_size(data)
        first = key
        for begin, end in spans.values():
            writer.write(key, b"", (begin, end))
            key += 1
        if key > 1 << 24:
            raise ValueRangeError("more records than float32 labels can count", got=key, expected=f"at most {1 << 24}")
    with (target / "train.rec").open("r+b") as file:
        file.seek(8)
        file.write(HEADER.pack(2, 0.0, 0, 0) + np.array([first, key], "<f4").tobytes())
    # What the reference reads its class layer's size from: a number for every label up to the largest.
    width, height = size or (112, 112)
    (target / "property").write_text(f"{max(spans, default=-1) + 1},{height},{width}\n", "ascii")
