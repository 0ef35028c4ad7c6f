"""From one format to another: the pictures' bytes go over as they are, nothing is coded anew."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.formats.samples import ENDINGS, Samples
from mien.data.formats.verification_bin import chosen_pairs, write_bin
from mien.data.sets import Pairs
from mien.errors import MediaError, MienError, OptionError, TableError
from mien.faces import Failure
from mien.media.files import of_os_error, write_whole
from mien.media.formats import HEAD, sniff

__all__ = ["Converted", "convert"]

Told = Callable[[int, "int | None", str], None]
AT_ONCE = 64
"""Pictures that are fetched together."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written.

    Parameters
    ----------
    source, source_format
        What was read.
    path, format
        What was written.
    images, identities, pairs
        How many of each were written.
    dropped
        What the new format has no place for: columns, points, pairs.
    failures
        Pictures and rows that could not be read and are left out.
    """

    source: str
    source_format: str
    path: str
    format: str
    images: int
    identities: int
    pairs: int
    dropped: tuple[str, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from dataclasses import asdict

        return {"ok": self.ok, **asdict(self)}


def convert(
    path: str | os.PathLike[str], target: str | os.PathLike[str], *, to: str, format: str | None = None,
    pairs: str | None = None, shard: int = 10_000, overwrite: bool = False, progress: Told | None = None,
) -> Converted:  # fmt: skip
    """Writes the set at `path` to `target` in another format; what cannot be read is left out and listed.

    The new set appears whole or not at all.

    Parameters
    ----------
    path
        File or folder of one set.
    target
        Folder that is made; a file for "bin".
    to
        One of the formats that are written: "rec", "bin", "parquet", "webdataset", "folder".
    format
        Format of `path`; told from the files by default.
    pairs
        For "bin": which pairs, where the set has several protocols ("FF", "FP" …).
    shard
        For "parquet" and "webdataset": pictures in a file.
    overwrite
        Replace what is at `target`.
    progress
        Called as ``progress(done, total, what)``.

    Raises
    ------
    OptionError
        No such format, the format is not written, or `target` is there already.
    TableError
        The set lacks what the format needs: pairs for "bin", labels for "folder".
    MediaError
        There is no set at `path`, there are several, or `target` cannot be written.
    """
    from mien.data.formats import FORMATS, find

    writers = [name for name, known in FORMATS.items() if known.writes]
    if to not in writers:
        raise OptionError.unknown("no such format to write", to, writers)
    if shard < 1:
        raise OptionError("shard must be at least 1", got=shard)
    target = Path(target)
    if target.exists() and not overwrite:
        raise OptionError(
            "there is something at the target already", got=target, hint="name another, or overwrite=True (--overwrite)"
        )
    found = find(path, format=format)
    if len(found) != 1:
        # A training folder holds its verification files too: the training set is meant.
        found = [one for one in found if one[0] != "bin"] or found
    if len(found) != 1:
        raise OptionError("several sets lie there", got=[f"{kind}: {place}" for kind, place in found],
                          hint="name the file of one, or its format=")  # fmt: skip
    failures: list[Failure] = []

    def told(kind: str, where: str, error: MienError) -> None:
        failures.append(Failure.of(where, error))

    kind, place = found[0]
    if target.resolve() in (place.resolve(), *place.resolve().parents):
        raise OptionError("the target is the set itself, or holds it", got=target, hint="name another place")
    samples = FORMATS[kind].read(place, tell=told)
    if not len(samples):
        raise TableError("the set holds no picture that can be read", got=place)
    rows = _Rows(samples, _order(samples, to), failures, progress)
    if to == "bin":
        protocol = chosen_pairs(samples, pairs)
        _folder_for(target)
        kept = _to_bin(samples, target, rows, protocol)
        written = {"images": 2 * kept, "identities": 0, "pairs": kept}
    else:
        _folder_for(target)
        _whole_folder(target, lambda folder: _written(samples, folder, rows, to, shard))
        people = set() if samples.labels is None else set(samples.labels[rows.written].tolist()) - {-1}
        written = {"images": len(rows.written), "identities": len(people), "pairs": 0}
    return Converted(
        source=str(place), source_format=kind, path=str(target), format=to, dropped=_dropped(samples, to),
        failures=tuple(failures), **written,
    )  # fmt: skip


def _folder_for(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise of_os_error(error, target.parent) from error


def _whole_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a folder beside `target`, which then takes its place; nothing is left behind if it fails."""
    partial = target.with_name(f".{target.name[:32]}-{secrets.token_hex(4)}")
    try:
        partial.mkdir()
        write(partial)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        partial.rename(target)
    except OSError as error:
        raise of_os_error(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _order(samples: Samples, to: str) -> NDArray[np.int64]:
    """Rows in the order in which they are written: a .rec wants those of one person together."""
    rows = np.arange(len(samples))
    return np.argsort(samples.labels, kind="stable") if to == "rec" and samples.labels is not None else rows


class _Rows:
    """(row, bytes) of pictures in order, fetched some at a time; those that cannot be read are noted and left out."""

    def __init__(
        self, samples: Samples, order: NDArray[np.int64], failures: list[Failure], progress: Told | None
    ) -> None:
        self.samples, self.order, self.failures, self.progress = samples, order, failures, progress
        self.written: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for begin in range(0, len(self.order), AT_ONCE):
            for row, data in self.fetched(self.order[begin : begin + AT_ONCE].tolist()):
                if data:
                    self.written.append(row)
                    yield row, data
            if self.progress is not None:
                self.progress(min(begin + AT_ONCE, len(self.order)), len(self.order), "pictures")

    def fetched(self, rows: list[int]) -> Iterator[tuple[int, bytes]]:
        """Bytes of some rows, empty where they cannot be had."""
        try:
            found = [data.tobytes() for data in self.samples.fetch(rows)]
        except MienError:
            found = [self._alone(row) for row in rows]
        for row, data in zip(rows, found, strict=True):
            if not data or sniff(data[:HEAD]) is None:
                error = MediaError("this is no picture", got=f"{self.samples.keys[row]}, {len(data)} bytes")
                self.failures.append(Failure.of(self.samples.keys[row], error))
                data = b""
            yield row, data

    def _alone(self, row: int) -> bytes:
        try:
            return self.samples.fetch([row])[0].tobytes()
        except MienError:
            return b""


def _to_bin(samples: Samples, target: Path, rows: _Rows, pairs: Pairs) -> int:
    """Writes the pairs whose two pictures can be read, and says how many they are."""
    used, inverse = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    data = [
        bytes_
        for begin in range(0, len(used), AT_ONCE)
        for _, bytes_ in rows.fetched(used[begin : begin + AT_ONCE].tolist())
    ]
    first, second = inverse.reshape(2, -1)
    there = np.array([bool(one) for one in data], bool)
    keep = np.flatnonzero(there[first] & there[second]) if len(data) else np.zeros(0, np.int64)
    keep = keep[np.argsort(pairs.fold[keep], kind="stable")]  # readers tell folds by the order alone
    chosen = Pairs(pairs.first[keep], pairs.second[keep], pairs.same[keep], pairs.fold[keep])
    pictures = [data[place] for row in keep.tolist() for place in (int(first[row]), int(second[row]))]
    write_whole(target, lambda partial: write_bin(chosen, partial, pictures))
    return len(keep)


def _written(samples: Samples, target: Path, rows: Iterable[tuple[int, bytes]], to: str, shard: int) -> None:
    from mien.data.formats.parquet import write_parquet
    from mien.data.formats.record import write_records
    from mien.data.formats.webdataset import write_webdataset

    if to == "rec":
        write_records(samples, target, rows)
    elif to == "parquet":
        write_parquet(samples, target, rows, shard=shard)
    elif to == "webdataset":
        write_webdataset(samples, target, rows, shard=shard)
    else:
        _to_folder(samples, target, rows)


def _to_folder(samples: Samples, target: Path, rows: Iterable[tuple[int, bytes]]) -> None:
    if samples.labels is None:
        raise TableError("a folder a person needs people, and this set has none", got=samples.root)
    count: dict[str, int] = {}
    names: dict[str, int] = {}
    for row, data in rows:
        label = int(samples.labels[row])
        # A name of the set is no path: it must not lead out of the folder, nor may two people share one.
        name = "".join(c if c.isalnum() or c in "-_. " else "_" for c in samples.label_name(label)).strip(". ") or "_"
        if names.setdefault(name, label) != label:
            name = f"{name}-{label}"
        home = target / ("unknown" if label < 0 else name)
        number = count[home.name] = count.get(home.name, 0) + 1
        home.mkdir(exist_ok=True)
        (home / f"{number:04d}.{ENDINGS.get(sniff(data[:HEAD]) or '', 'jpg')}").write_bytes(data)


def _dropped(samples: Samples, to: str) -> tuple[str, ...]:
    from mien.data.formats.parquet import kept_columns

    has = {f"column {name}" for name in samples.columns}
    has |= {"points"} if samples.points is not None else set()
    has |= {"boxes"} if samples.boxes is not None else set()
    has |= {f"pairs {name}" for name in samples.pairs}
    has |= {"labels"} if samples.labels is not None else set()
    has |= {"names of the labels"} if samples.label_names else set()
    keeps = {
        "rec": {"labels"},
        "bin": {f"pairs {name}" for name in samples.pairs},
        "folder": {"labels", "names of the labels"},
    }.get(to)
    if keeps is None:
        kept = kept_columns(samples)
        keeps = {f"column {name}" for name in kept} | {"points", "labels", "names of the labels"}
    return tuple(sorted(has - keeps))
