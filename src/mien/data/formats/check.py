"""What a set is, how much is in it, and what is broken. A broken part is listed and the rest is read on."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien.data.formats.samples import Bytes, Samples
from mien.errors import MediaError, MienError, OptionError

__all__ = ["KINDS", "Counts", "Problem", "Report", "SetReport", "check"]

KINDS: Final = {
    "undecodable": "a picture that cannot be decoded",
    "missing_file": "a row that names what is not there",
    "duplicate": "the same row, key or pair twice",
    "wrong_count": "a number that is not as the set itself says, or parts that contradict each other",
    "truncated": "a file or record that ends too early or is damaged",
    "index": "an index that does not fit its records",
    "row": "a line or value that is not as it should be",
}
"""Kinds of problems."""

Told = Callable[[int, "int | None", str], None]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something broken: its kind (one of `KINDS`), where, and what."""

    kind: str
    where: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much is in a set.

    Parameters
    ----------
    images
        Pictures that the set names and has.
    identities
        People (or classes) that the labels name.
    pairs
        Pairs to verify, by their protocol.
    points
        Pictures that have landmarks, and `points_each`, how many.
    boxes
        Boxes.
    bytes
        Of the pictures that were looked at.
    repeated
        Pictures that were looked at and are, byte for byte, the same as an earlier one. That is no problem by itself:
        official sets have some.
    sizes
        The ten most frequent sizes, "112 x 112", and how many pictures have each.
    smallest, largest
        Least and largest width and height in pixels, of all pictures.
    more
        What else the format counts: templates, records of identities …
    """

    images: int
    identities: int = 0
    pairs: Mapping[str, int]
    points: int = 0
    points_each: int = 0
    boxes: int = 0
    bytes: int = 0
    repeated: int = 0
    sizes: Mapping[str, int]
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    more: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """One set.

    Parameters
    ----------
    format, path
        What it is and where.
    counts
        How much is in it; None if nothing of it can be read.
    decoded
        How many pictures were decoded.
    found
        Number of problems by kind.
    problems
        The first of them.
    """

    format: str
    path: str
    counts: Counts | None
    decoded: int
    found: Mapping[str, int]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.found


@dataclass(frozen=True)
class Report:
    """What was found at a place: one set, or several that lie together. `ok` if nothing is broken."""

    sets: tuple[SetReport, ...]

    @property
    def ok(self) -> bool:
        return all(one.ok for one in self.sets)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ok, sets."""
        return {"ok": self.ok, "sets": [_plain(one) for one in self.sets]}


def _plain(one: SetReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {"ok": one.ok, **asdict(one)}


class _Collected:
    """Counts all problems and keeps the first `most` of every kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def __call__(self, kind: str, where: str, error: MienError) -> None:
        self.found[kind] += 1
        if self.found[kind] <= self.most:
            self.problems.append(Problem(kind=kind, where=where, what=str(error)))


def check(
    path: str | os.PathLike[str], *, format: str | None = None, sample: int | None = None, most: int = 20,
    threads: int | None = None, progress: Told | None = None,
) -> Report:  # fmt: skip
    """Reads the sets at `path` as far as they can be read, decodes their pictures, and lists what is broken.

    Parameters
    ----------
    path
        File or folder.
    format
        Name of the format; told from the files by default.
    sample
        Decode only so many pictures, spread evenly; 0 decodes none. Default: all.
    most
        Problems of each kind that are listed; all are counted.
    threads
        That decode. Default: one a core.
    progress
        Called as ``progress(done, total, what)``.

    Raises
    ------
    MediaNotFound
        There is nothing at `path`.
    UnknownFormat
        What is there is of no known format.
    OptionError
        No such format, or a number out of range.
    """
    from mien.data.formats import find

    for name, value in (("sample", sample), ("most", most)):
        if value is not None and value < 0:
            raise OptionError(f"{name} must not be negative", got=value)
    if threads is not None and threads < 1:
        raise OptionError("threads must be at least 1", got=threads)
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Report(
        tuple(_checked(kind, place, sample, most, threads, progress) for kind, place in find(path, format=format))
    )


def _checked(kind: str, place: Path, sample: int | None, most: int, threads: int, progress: Told | None) -> SetReport:
    from mien.data.formats import FORMATS

    told = _Collected(most)
    try:
        samples = FORMATS[kind].read(place, tell=told)
    except MienError as error:
        told("truncated" if isinstance(error, MediaError) else "row", str(place), error)
        return SetReport(format=kind, path=str(place), counts=None, decoded=0, found=dict(told.found),
                         problems=tuple(told.problems))  # fmt: skip
    every = len(samples) if sample is None else min(sample, len(samples))
    rows = np.unique(np.linspace(0, len(samples) - 1, every).astype(np.int64)) if every else np.zeros(0, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    seen = set[bytes]()
    repeated, volume, decoded = 0, 0, 0
    chunks = np.array_split(rows, max(1, -(-len(rows) // 64)))
    with ThreadPoolExecutor(threads) as pool:
        for done, found in enumerate(pool.map(lambda part: [_looked_at(samples, int(row)) for row in part], chunks), 1):
            for row, size, digest, length, broken in found:
                decoded += 1
                volume += length
                repeated += digest in seen
                seen.add(digest)
                if broken is not None:
                    told("undecodable", samples.keys[row], broken)
                else:
                    sizes[size] += 1
            if progress is not None:
                progress(min(done * 64, len(rows)), len(rows), f"{kind}, pictures")
    return SetReport(
        format=kind, path=str(place), counts=_counted(samples, sizes, repeated, volume), decoded=decoded,
        found=dict(told.found), problems=tuple(told.problems),
    )  # fmt: skip


def _looked_at(samples: Samples, row: int) -> tuple[int, tuple[int, int], bytes, int, MienError | None]:
    """Row, width and height, digest, bytes, and what is wrong with a picture."""
    from mien.media import load_image

    data: Bytes = np.zeros(0, np.uint8)
    try:
        data = samples.fetch([row])[0]
        height, width = load_image(data.data).shape[:2]
    except MienError as error:
        return row, (0, 0), _digest(data), len(data), error
    return row, (width, height), _digest(data), len(data), None


def _digest(data: Bytes) -> bytes:
    return hashlib.blake2b(data.data, digest_size=16).digest()


def _counted(samples: Samples, sizes: Counter[tuple[int, int]], repeated: int, volume: int) -> Counts:
    points = samples.points
    pointed = 0 if points is None else int(np.isfinite(points).all((1, 2)).sum())
    widths, heights = [w for w, _ in sizes], [h for _, h in sizes]
    return Counts(
        images=len(samples), identities=samples.people,
        pairs={name: len(pairs) for name, pairs in samples.pairs.items()},
        points=pointed, points_each=0 if points is None else points.shape[1],
        boxes=0 if samples.boxes is None else len(samples.boxes), bytes=volume, repeated=repeated,
        sizes={f"{w} x {h}": count for (w, h), count in sizes.most_common(10)},
        smallest=(min(widths), min(heights)) if sizes else None,
        largest=(max(widths), max(heights)) if sizes else None, more=dict(samples.facts),
    )  # fmt: skip
