"""WebDataset shards: tar archives whose members ``key.jpg``, ``key.cls``, ``key.json`` make up one sample.

Shards are mapped into memory and their members' places are noted, so a sample is read at random as it is from a
``.rec``: there is no need to stream, and none for a buffer to shuffle in. The key is a member's path up to the first
dot of its name; members of one key follow each other. Headers are read here and not by `tarfile`, which takes several
times as long for each; its POSIX and GNU long names are understood.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.formats.parquet import kept_columns
from mien.data.formats.samples import ENDINGS, Bytes, Samples, Spans, Tell, mapped, numbered, strict, truncated
from mien.errors import CorruptMedia, MediaNotFound, MienError, TableError, UnknownFormat
from mien.media.formats import PICTURE_SUFFIXES, sniff

__all__ = ["members", "read_webdataset"]

_BLOCK = 512
LABELS = ("label", "identity", "id", "class")


def find_webdataset(path: Path) -> list[Path]:
    """`path`, if it is a tar archive or a folder with some."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return [path] if path.is_dir() and next(path.glob("*.tar"), None) is not None else []


@dataclass
class _Sample:
    key: str
    picture: tuple[int, int] | None = None
    label: bytes | None = None
    about: bytes | None = None


def members(data: Bytes, name: str, *, tell: Tell = strict) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of the files in a tar archive, in order.

    Raises
    ------
    CorruptMedia
        A header is damaged, or the archive ends too early.
    """
    view, at, longer = data.data, 0, ""
    while True:
        head = bytes(view[at : at + _BLOCK])
        if len(head) < _BLOCK:
            # Writers end with two empty blocks; a few end without, which loses nothing.
            if head or at > len(data):
                tell("truncated", f"{name} byte {at}", truncated("the archive is cut off", f"{name} byte {at}"))
            return
        if not any(head):
            return
        size, kind = _checked(head), head[156:157]
        if size is None:
            error = CorruptMedia("there is no header where one should be in the archive", got=f"{name} byte {at}",
                                 hint="if it is compressed, unpack it first (gunzip)")  # fmt: skip
            return tell("truncated", f"{name} byte {at}", error)
        begin, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if begin + size > len(data):
            what = f"{name} byte {begin}: {len(data) - begin} of {size} bytes"
            return tell("truncated", f"{name} byte {begin}", truncated("a file in the archive is cut off", what))
        if kind in (b"L", b"x"):
            longer = _long_name(bytes(view[begin : begin + size]), kind) or longer
            continue
        if kind in (b"0", b"\x00"):
            yield longer or _short_name(head), begin, size
        longer = ""


def _checked(head: bytes) -> int | None:
    """Size of a member, or None if this is no header: its sum of bytes must be the one it states."""
    try:
        stated = int(head[148:156].split(b"\x00")[0].strip() or b"0", 8)
        if head[124] & 0x80:  # base 256, for files beyond 8 GiB
            size = int.from_bytes(head[125:136], "big")
        else:
            size = int(head[124:136].split(b"\x00")[0].strip() or b"0", 8)
    except ValueError:
        return None
    return size if sum(head) - sum(head[148:156]) + 256 == stated and size >= 0 else None


def _text(field_: bytes) -> str:
    return field_.partition(b"\x00")[0].decode("utf-8", "replace")


def _short_name(head: bytes) -> str:
    prefix = _text(head[345:500]) if head[257:263] == b"ustar\x00" else ""
    return f"{prefix}/{_text(head[:100])}" if prefix else _text(head[:100])


def _long_name(body: bytes, kind: bytes) -> str:
    if kind == b"L":
        return _text(body)
    at = 0
    while at < len(body):  # "LENGTH path=NAME\n" among others
        digits, _, _ = body[at : at + 20].partition(b" ")
        if not digits.isdigit() or not int(digits):
            return ""
        record = body[at + len(digits) + 1 : at + int(digits) - 1]
        if record.startswith(b"path="):
            return record[5:].decode("utf-8", "replace")
        at += int(digits)
    return ""


def read_webdataset(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """A shard, or all shards (``*.tar``) of a folder.

    The label is ``.cls``, or `label`, `identity` … of ``.json``; other entries of ``.json`` that every sample has are
    columns, `points` of (k, 2) are points. Samples without a picture are left out and told.

    Raises
    ------
    MediaNotFound
        There is no shard.
    UnknownFormat
        It is compressed.
    CorruptMedia
        A shard is truncated or damaged.
    TableError
        A sample has no picture, a label that is none, or its key comes again.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.tar"))
    if not files:
        raise MediaNotFound("there is no shard", got=path, expected="a .tar, or a folder with some")
    found: list[_Sample] = []
    parts: list[int] = []
    seen = set[str]()
    data: list[Bytes] = []
    for part, file in enumerate(files):
        try:
            shard = mapped(file)
            if sniff(shard[:64].tobytes()) == "ZIP" or shard[:2].tobytes() == b"\x1f\x8b":
                raise UnknownFormat(
                    "the shard is compressed", got=file, expected="tar", hint="unpack it first (gunzip)"
                )
        except MienError as error:
            tell("truncated", file.name, error)
            data.append(np.zeros(0, np.uint8))
            continue
        data.append(shard)
        for sample in _grouped(shard, file.name, tell):
            if sample.picture is None:
                error_ = TableError("a sample has no picture", got=f"{sample.key} in {file.name}")
                tell("missing_file", f"{file.name} {sample.key}", error_)
                continue
            if sample.key in seen:
                error_ = TableError("a key comes twice", got=f"{sample.key} in {file.name}",
                                    hint="members of one key must follow each other")  # fmt: skip
                tell("duplicate", f"{file.name} {sample.key}", error_)
                continue
            seen.add(sample.key)
            found.append(sample)
            parts.append(part)
    places = np.array([sample.picture for sample in found], np.int64).reshape(-1, 2)
    abouts = [_about(sample, files[part].name, tell) for sample, part in zip(found, parts, strict=True)]
    labels, label_names = _labels(found, abouts, tell)
    columns = _columns(abouts)
    if labels is not None and not label_names and "name" in columns:
        label_names = _names(labels, columns)
    points = columns.pop("points", None)
    if points is not None and not (points.ndim == 3 and points.shape[2] == 2 and points.dtype.kind in "fiu"):
        columns["points"], points = points, None
    part_of = np.array(parts, np.int64) if len(files) > 1 else None
    return Samples(
        format="webdataset", root=path, keys=[sample.key for sample in found],
        coded=Spans([str(file) for file in files], places[:, 0], places[:, 1], part_of), labels=labels,
        label_names=label_names, columns=columns, points=None if points is None else points.astype(np.float32),
    )  # fmt: skip


def _grouped(shard: Bytes, name: str, tell: Tell) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member, begin, size in members(shard, name, tell=tell):
        folder, slash, base = member.removeprefix("./").rpartition("/")
        stem, dot, ending = base.partition(".")
        if not dot or not stem or base.startswith("."):
            continue  # neither a part of a sample to the reference implementation
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        last = "." + ending.rpartition(".")[2]
        if last in PICTURE_SUFFIXES and sample.picture is None:
            sample.picture = (begin, size)
        elif ending == "cls":
            sample.label = shard[begin : begin + size].tobytes()
        elif ending == "json":
            sample.about = shard[begin : begin + size].tobytes()
    if sample is not None:
        yield sample


def _about(sample: _Sample, shard: str, tell: Tell) -> dict[str, Any]:
    if sample.about is None:
        return {}
    try:
        value = json.loads(sample.about)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        error = TableError("a sample's JSON is none", got=f"{sample.key} in {shard}", expected="an object")
        tell("row", f"{shard} {sample.key}", error)
        return {}
    return value


def _labels(found: Sequence[_Sample], abouts: Sequence[dict[str, Any]], tell: Tell) -> tuple[
    NDArray[np.int64] | None, tuple[str, ...]
]:  # fmt: skip
    named = next((name for name in LABELS if any(name in about for about in abouts)), None)
    raw: list[Any] = []
    for sample, about in zip(found, abouts, strict=True):
        value = about.get(named) if named is not None else None
        if sample.label is not None:
            text = sample.label.decode("utf-8", "replace").strip()
            value = int(text) if text.lstrip("-").isdecimal() and len(text) < 19 else text
        raw.append(value)
    if all(value is None for value in raw):
        return None, ()
    if all(isinstance(value, str) and value for value in raw):
        return numbered(raw)
    labels = np.full(len(raw), -1, np.int64)
    for row, value in enumerate(raw):
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62:
            labels[row] = value
        else:
            tell("row", found[row].key, TableError("a label is no whole number", got=value))
    return labels, ()


def _names(labels: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    """Names of the labels, if the column `name` gives each label one name of its own; the column is then taken out."""
    numbers, first = np.unique(labels, return_index=True)
    names = columns["name"]
    known = names[first]
    fits = names.dtype.kind == "U" and numbers[0] >= 0 and numbers[-1] < 2 * len(numbers) + 1000
    if not fits or (known[np.searchsorted(numbers, labels)] != names).any():
        return ()
    del columns["name"]
    listed = [f"{number:07d}" for number in range(int(numbers[-1]) + 1)]
    for number, name in zip(numbers.tolist(), known.tolist(), strict=True):
        listed[number] = name
    return tuple(listed)


def _columns(abouts: Sequence[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name in abouts[0] if abouts else ():
        if name in LABELS or not all(name in about for about in abouts):
            continue
        values = [about[name] for about in abouts]
        if all(isinstance(value, str) for value in values):
            columns[name] = np.array(values)
        elif not any(isinstance(value, str | dict) for value in values):
            try:
                column = np.array(values)
                column = np.array(values, np.float64) if column.dtype == object else column  # null is NaN
            except (ValueError, TypeError, OverflowError):  # lists of different lengths
                continue
            if column.dtype.kind in "biuf":
                columns[name] = column
    return columns


# ------------------------------------------------------------------------------------------- writing


@dataclass
class _Shards:
    """Shards of `most` samples in a folder; one is open."""

    folder: Path
    most: int
    count: int = 0
    number: int = 0
    tar: tarfile.TarFile | None = field(default=None)

    def add(self, files: Iterable[tuple[str, bytes]]) -> None:
        if self.tar is None or self.count == self.most:
            self.close()
            file = self.folder / f"train-{self.number:06d}.tar"
            self.tar = tarfile.TarFile(file, "w", format=tarfile.USTAR_FORMAT)
            self.number, self.count = self.number + 1, 0
        self.count += 1
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            self.tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        if self.tar is not None:
            self.tar.close()


def write_webdataset(samples: Samples, target: Path, rows: Iterable[tuple[int, bytes]], *, shard: int) -> None:
    """``train-000000.tar`` … in the folder `target`, `shard` samples each: picture, ``.cls``, ``.json`` of the rest."""
    columns = kept_columns(samples)
    shards = _Shards(target, shard)
    try:
        for row, data in rows:
            key = f"{row:08d}"
            files = [(f"{key}.{ENDINGS.get(sniff(data[:_BLOCK]) or '', 'jpg')}", data)]
            if samples.labels is not None:
                files.append((f"{key}.cls", str(int(samples.labels[row])).encode()))
            about: dict[str, Any] = {"key": samples.keys[row]}
            if samples.labels is not None and samples.label_names:
                about["name"] = samples.label_name(int(samples.labels[row]))
            about |= {name: column[row].tolist() for name, column in columns.items()}
            # NaN is no JSON, and other readers refuse it.
            files.append((f"{key}.json", json.dumps(_finite(about), allow_nan=False).encode()))
            shards.add(files)
    finally:
        shards.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
