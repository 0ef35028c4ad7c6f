"""Search among the embeddings of a gallery: over 8 bits a number, or over one bit first and 8 for the few left.

An index is a projection of the gallery's store and can be thrown away at any time: it holds codes of the vectors, their
ids, and the number of the last change of the store that it contains.

    file         bytes a face, D = 512      what for
    coarse       64                         which few thousand rows are worth a look; also held in memory, packed
    codes        512                        which few dozen of them, or of all, are worth a score
    fine         512                        8 more bits a number, for the scores; of few rows, so seldom in memory
    ids, sums    12                         who, and whether the row is whole

Vectors are turned by a random rotation before they are stored. After it the numbers of every unit vector are spread
like N(0, 1/D), whatever the embedder was: so one step serves all 8-bit codes, and one codebook, that of four Gaussian
numbers, all coarse ones. Nothing is trained, and an index that starts empty is as good as one built of millions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mien.errors import DtypeError, IndexDamaged, OptionError, ShapeError, ValueRangeError
from mien.gallery.index.files import LOCK, ZERO, Frame, Rows, Version, checksums, current, publish
from mien.gallery.index.scan import Coarse, coarse_codes, scan_many, scan_one

__all__ = ["METHODS", "Index"]

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

METHODS: Final = ("exact", "two-stage")
TWO_STAGE_FROM: Final = 100_000
"""Rows from which the coarse codes are looked at first."""

MANY, VERY_MANY = 5, 48
"""Queries from which one product for all is faster than a scan of all bytes for each, and than two stages for each."""

CANDIDATES, PORTION = 2048, 512
"""Rows that are scored in the second stage: so many, or one out of so many where that is more."""

REACH: Final = 5.5
"""Standard deviations that codes reach to; what lies beyond, 4 numbers in 100 million, is cut there."""

FINER: Final = 254
"""Steps of the fine codes in one of the codes."""

SPARE: Final = 16
"""Rows that are scored beyond twice k, since the order of a scan by 8 bits is not quite that of the scores."""

BATCH: Final = 1 << 14


@dataclass(frozen=True)
class _View:
    """What a search looks at: never changed, only replaced."""

    rows: Rows
    frame: Frame
    generation: int
    removals: int
    alive: npt.NDArray[np.bool_] | None
    count: int
    packed: Coarse


class Index:
    """Embeddings on disk, mapped and searched; `open` or `build` make one.

    Several processes may have the same index open, and several threads may use one object. Writing takes a lock and
    first looks at what others have written; readers see what has been committed at their next search.
    """

    def __init__(self, folder: Path, dim: int, *, read_only: bool, threads: int | None) -> None:
        self.folder = folder
        self.dim = dim
        self.read_only = read_only
        self.threads = threads
        """Threads of a search; None for as many as torch uses."""
        self._writing = threading.RLock()
        self._file_lock = None if read_only else FileLock(folder / LOCK, thread_local=False)
        self._looking = threading.RLock()
        """Held for moments only: a search need not wait for a writer's disk."""
        self._version: Version | None = None
        self._view: _View | None = None
        self._order: _Order | None = None

    # ------------------------------------------------------------------------------------ open and build

    @classmethod
    def open(cls, folder: Path, *, dim: int, read_only: bool = False, threads: int | None = None) -> Index:
        """The index in a folder; an empty one where there is none.

        Parameters
        ----------
        folder
            Usually ``<gallery>.index``.
        dim
            Numbers of a vector.
        read_only
            Never write, not even an empty index.
        threads
            Threads of a search; None for as many as torch uses.

        Raises
        ------
        IndexDamaged
            The files are torn, of another kind or of another `dim`; build it again from the store.
        """
        if dim < 1:
            raise OptionError("an index needs vectors", got=f"dim {dim}", expected="1 or more")
        self = cls(Path(folder), dim, read_only=read_only, threads=threads)
        if current(self.folder) is None and not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.lock():
                if current(self.folder) is None:
                    publish(self.folder, lambda new: Version.create(new, Frame.made(dim), dim)).close()
        self._refresh()
        return self

    @classmethod
    def build(
        cls, folder: Path, batches: Iterable[tuple[Int64, Float32]], *, dim: int, generation: int,
        threads: int | None = None,
    ) -> Index:  # fmt: skip
        """A new index of all vectors, in place of the one there may be; readers see the old one until it is whole.

        Parameters
        ----------
        batches
            Ids (n,) and unit vectors (n, dim), as for `add`; an id must not come twice.
        generation
            Last change of the store that is contained.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self = cls(folder, dim, read_only=False, threads=threads)

        def make(new: Path) -> Version:
            made: Version | None = None
            for ids, vectors in batches:
                ids, vectors = self._checked(ids, vectors)
                if made is None:
                    made = Version.create(new, _centred(Frame.made(dim), vectors), dim)
                for at in range(0, len(ids), BATCH):
                    part = slice(at, at + BATCH)
                    made.append(_encode(made.frame, ids[part], vectors[part]))
            if made is None:
                made = Version.create(new, Frame.made(dim), dim)
            made.commit(generation=generation)
            return made

        with self.lock():
            publish(folder, make).close()
        self._refresh()
        return self

    # ------------------------------------------------------------------------------------ what is in it

    @property
    def generation(self) -> int:
        """The last change of the store that is contained; 0 for an empty index."""
        view = self._refresh()
        return 0 if view is None else view.generation

    def __len__(self) -> int:
        view = self._refresh()
        return 0 if view is None else view.count

    @property
    def disk_bytes(self) -> int:
        """Bytes of the rows, removed ones included."""
        view = self._refresh()
        return 0 if view is None else sum(getattr(view.rows, name).nbytes for name in Version.NAMES)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the coarse codes that are held in memory besides the mapped files."""
        view = self._refresh()
        return 0 if view is None else view.packed.bytes

    def verify(self) -> None:
        """Compares the checksum of every row; `open` looks at the last rows only.

        Raises
        ------
        IndexDamaged
            Some are wrong.
        """
        view = self._refresh()
        if view is not None and self._version is not None:
            self._version.check(last=len(view.rows))

    def _refresh(self) -> _View | None:
        """Looks whether others have written; what to search in."""
        with self._looking:
            for _ in range(20):
                folder = current(self.folder)
                try:
                    return self._looked(folder)
                except (IndexDamaged, OSError):
                    # Another process may have built it anew and removed what we were about to open.
                    self._version = self._view = None
                    if current(self.folder) == folder:
                        raise
            raise IndexDamaged("the index changes faster than it can be opened", got=self.folder)

    def _looked(self, folder: Path | None) -> _View | None:
        if folder is None:
            self._version = self._view = None
            return None
        version, view = self._version, self._view
        if version is None or version.folder != folder:
            version, view = Version(folder, writable=not self.read_only), None
            if version.header.dim != self.dim:
                raise IndexDamaged(
                    "the index is of other vectors", got=f"{version.header.dim} numbers", expected=f"{self.dim}"
                )
            self._version = version
        elif not version.refresh() and view is not None:
            return view
        self._view = _seen(version, view)
        return self._view

    # ------------------------------------------------------------------------------------ writing

    @contextmanager
    def lock(self) -> Iterator[Index]:
        """Keeps other writers out; for several steps that belong together. May be nested.

        Raises
        ------
        OptionError
            The index was opened to be read only.
        """
        if self._file_lock is None:
            raise OptionError("the index was opened to be read only", hint="open it with read_only=False")
        with self._writing, self._file_lock:
            yield self

    def add(self, ids: Int64, vectors: Float32, *, generation: int) -> None:
        """Appends vectors; when it returns they are on disk and the next search, of any process, sees them.

        Parameters
        ----------
        ids
            (n,) int64, none negative. One that is there already is replaced.
        vectors
            (n, dim) float32 of length 1.
        generation
            Last change of the store that is then contained; an index never goes back to an earlier one.
        """
        ids, vectors = self._checked(ids, vectors)
        with self.lock():
            version, view = self._ready()
            old = self._where(version, view, ids)
            if len(old):
                self._erase(version, old)
            start = version.header.rows
            for at in range(0, len(ids), BATCH):
                part = slice(at, at + BATCH)
                version.append(_encode(version.frame, ids[part], vectors[part]))
            version.commit(generation=max(generation, version.header.generation))
            if self._order is not None:
                self._order.append(ids, start)
            self._committed()

    def remove(self, ids: Int64, *, generation: int) -> None:
        """Removes vectors: they are overwritten on disk at once; their room is given back by `compact`.

        Parameters
        ----------
        ids
            (n,) int64; those that are not there are passed over.
        generation
            As for `add`.
        """
        ids = _ids(ids)
        with self.lock():
            version, view = self._ready()
            rows = self._where(version, view, ids)
            if len(rows):
                self._erase(version, rows)
            version.commit(generation=max(generation, version.header.generation))
            self._committed()

    def compact(self) -> None:
        """Writes the index anew without the room of removed vectors, its coarse codes around what is in it."""
        with self.lock():
            version, view = self._ready()
            old, kept = view.rows, np.flatnonzero(view.rows.ids >= 0)

            def make(new: Path) -> Version:
                made = Version.create(new, _recentred(version.frame, old.codes, kept), self.dim)
                for at in range(0, len(kept), BATCH):
                    part = kept[at : at + BATCH]
                    made.append(_packed(made.frame, old.ids[part], old.codes[part], old.fine[part]))
                made.commit(generation=version.header.generation)
                return made

            publish(self.folder, make).close()
            self._refresh()

    def _ready(self) -> tuple[Version, _View]:
        """What to write to, as it is now; the lock is held."""
        view, version = self._refresh(), self._version
        if view is None or version is None:
            raise IndexDamaged("the index has gone", got=self.folder)
        version.begin()
        if version.header.unfinished:
            self._erase(version, np.flatnonzero(version.rows.ids < 0))
        return version, view

    def _erase(self, version: Version, rows: Int64) -> None:
        version.commit(unfinished=1)
        version.erase(np.sort(rows))
        version.commit(unfinished=0, removals=version.header.removals + 1)
        if self._order is not None:
            self._order.removals = version.header.removals
        self._committed()

    def _committed(self) -> None:
        """Lets the next search see what this object has written."""
        with self._looking:
            if self._version is not None:
                self._view = _seen(self._version, self._view)

    def _where(self, version: Version, view: _View, ids: Int64) -> Int64:
        """Rows of those of the ids that are there; the lock is held."""
        if not len(view.rows) or not len(ids):
            return np.empty(0, np.int64)
        order, now = self._order, view.rows.ids
        if order is None or order.full or (order.folder, order.removals) != (version.folder, version.header.removals):
            order = self._order = _Order(version.folder, version.header.removals, np.array(now))
        elif order.rows < len(now):
            order.append(np.array(now[order.rows :]), order.rows)
        found = order.find(ids)
        return found[now[found] >= 0]

    # ------------------------------------------------------------------------------------ searching

    def search(
        self, queries: Float32, k: int, *, method: str | None = None, candidates: int | None = None
    ) -> tuple[Float32, Int64]:
        """The k nearest of each query.

        Parameters
        ----------
        queries
            (q, dim) float32 of length 1.
        k
            How many.
        method
            "exact" looks at all bytes of every row, "two-stage" at those of the `candidates` whose coarse codes are
            nearest; None for what is faster for so many faces and queries.
        candidates
            Rows that the second stage looks at. Default: 2048, or a 512th of the gallery where that is more.

        Returns
        -------
        tuple
            Cosines (q, k) float32, the greatest first, and ids (q, k); where there are fewer, both are -1. Of equal
            scores the smaller id comes first.
        """
        queries = _vectors(queries, self.dim)
        if k < 1:
            raise OptionError("nothing to search for", got=f"k {k}", expected="1 or more")
        if method is not None and method not in METHODS:
            raise OptionError.unknown("unknown method", method, METHODS)
        view = self._refresh()
        scores = np.full((len(queries), k), -1, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        if view is None or view.count == 0 or len(queries) == 0:
            return scores, ids
        if method is None:
            method = "exact" if view.count < TWO_STAGE_FROM or len(queries) >= VERY_MANY else "two-stage"
        threads = _threads() if self.threads is None else max(1, self.threads)
        turned = view.frame.turn(queries)
        coded = _query_codes(turned)
        wanted = 2 * k + SPARE
        rows = view.rows
        if method == "two-stage":
            at_most = max(CANDIDATES, view.count // PORTION) if candidates is None else candidates
            found = view.packed.scan(rows, view.alive, turned, coded, max(at_most, wanted), wanted, threads=threads)
        elif len(turned) >= MANY:
            found = scan_many(rows.codes, coded, wanted)
        else:
            found = [scan_one(rows.codes, query, wanted, threads=threads, alive=None) for query in coded]
        for query, near in enumerate(found):
            if len(near) > wanted:
                near = np.sort(near)  # memory likes it
                found[query] = near[scan_one(rows.codes[near], coded[query], wanted, threads=1, alive=None)]
        counts = _score(rows, found, turned, scores, ids)
        for query in np.flatnonzero(counts < min(k, view.count)).tolist():  # removed rows took the room
            near = scan_one(rows.codes, coded[query], wanted, threads=threads, alive=view.alive)
            part = slice(query, query + 1)
            _score(rows, [near], turned[part], scores[part], ids[part])
        return scores, ids

    def _checked(self, ids: Any, vectors: Any) -> tuple[Int64, Float32]:
        ids, vectors = _ids(ids), _vectors(vectors, self.dim)
        if len(ids) != len(vectors):
            raise ShapeError("ids and vectors differ in number", got=f"{len(ids)} and {len(vectors)}")
        if len(ids) and ids.min() < 0:
            raise ValueRangeError("an id is negative", got=int(ids.min()), expected="0 or more")
        if len(np.unique(ids)) != len(ids):
            raise ValueRangeError("an id comes twice", got=f"{len(ids) - len(np.unique(ids))} repeats")
        return ids, vectors


class _Order:
    """Finds the rows of ids: the sorted ids of most rows, and a dictionary of those that came since."""

    RECENT: Final = 1 << 16

    def __init__(self, folder: Path, removals: int, ids: Int64) -> None:
        self.folder, self.removals = folder, removals
        self._order = np.argsort(ids, kind="stable")  # nearly sorted they are, and so quickly done
        self._sorted = ids[self._order]
        self._recent: dict[int, int] = {}
        self.rows = len(ids)

    @property
    def full(self) -> bool:
        """Whether it is time to make another."""
        return len(self._recent) > self.RECENT

    def append(self, ids: Int64, start: int) -> None:
        """Takes in new rows from `start` on."""
        self._recent.update(zip(ids.tolist(), range(start, start + len(ids)), strict=True))
        self.rows = start + len(ids)

    def find(self, ids: Int64) -> Int64:
        """Rows that have, or had, one of the ids."""
        at = np.searchsorted(self._sorted, ids)
        at = np.minimum(at, max(len(self._sorted) - 1, 0))
        there = self._sorted[at] == ids if len(self._sorted) else np.zeros(len(ids), bool)
        rows = self._order[at[there]] if len(self._sorted) else np.empty(0, np.int64)
        recent = [self._recent[i] for i in ids.tolist() if i in self._recent]
        return np.unique(np.concatenate([rows, np.array(recent, np.int64)]).astype(np.int64))


# ---------------------------------------------------------------------------------------------- codes


def _step(width: int) -> float:
    """What one unit of a code is worth."""
    return min(1.0, REACH / float(np.sqrt(width))) / 127


def _codes(turned: Float32) -> tuple[Bytes, Bytes]:
    """Codes and fine codes."""
    scaled = turned * np.float32(1 / _step(turned.shape[1]))
    whole = np.clip(np.rint(scaled), -127, 127)
    left = np.clip(np.rint((scaled - whole) * FINER), -127, 127)
    return (whole + ZERO).astype(np.uint8), (left + ZERO).astype(np.uint8)


def _decoded(codes: Bytes, fine: Bytes | None = None) -> Float32:
    """Numbers in units of a step."""
    numbers = codes.astype(np.float32)
    numbers -= ZERO
    if fine is not None:
        numbers += (fine.astype(np.float32) - ZERO) * np.float32(1 / FINER)
    return numbers


def _query_codes(turned: Float32) -> Int8:
    """A query's largest number is 127: its scale does not matter to the order of its scores."""
    largest = np.maximum(np.abs(turned).max(1, keepdims=True), np.float32(1e-12))
    codes: Int8 = np.rint(turned * (127 / largest)).astype(np.int8)
    return codes


def _score(rows: Rows, found: list[Int64], turned: Float32, scores: Float32, ids: Int64) -> Int64:
    """Writes cosines, the greatest first, and ids of the best found of each query, without those that were removed
    meanwhile, into scores and ids (q, k); how many there were of each."""
    counts = np.zeros(len(found), np.int64)
    at_once = max(1, (1 << 22) // max(1, rows.codes.shape[1] * max(len(near) for near in found)))
    for start in range(0, len(found), at_once):
        some = found[start : start + at_once]
        who = np.repeat(np.arange(start, start + len(some)), [len(near) for near in some])
        near = np.concatenate(some)
        named = rows.ids[near]
        near, who, named = near[named >= 0], who[named >= 0], named[named >= 0]
        numbers = _decoded(rows.codes[near], rows.fine[near])
        # Divided by their length, vectors that were rounded are unit vectors again.
        length = np.sqrt(np.einsum("nd,nd->n", numbers, numbers))
        # Not a matrix product, in which equal rows may differ in the last bit.
        cosines = (numbers * turned[who]).sum(1) / np.maximum(length, np.float32(1))
        order = np.lexsort((named, -cosines, who))
        who, named, cosines = who[order], named[order], cosines[order]
        place = np.arange(len(who)) - np.searchsorted(who, who)
        kept = place < scores.shape[1]
        scores[who[kept], place[kept]] = cosines[kept]
        ids[who[kept], place[kept]] = named[kept]
        counts += np.bincount(who, minlength=len(found))
    return np.minimum(counts, scores.shape[1])


def _packed(frame: Frame, ids: Int64, codes: Bytes, fine: Bytes) -> Rows:
    """Rows from codes: coarse codes and checksums follow from them."""
    coarse = coarse_codes(frame, _decoded(codes) * np.float32(_step(frame.width)))
    ids = np.array(ids)
    return Rows(ids, codes, fine, coarse, checksums(ids, codes, fine, coarse))


def _encode(frame: Frame, ids: Int64, vectors: Float32) -> Rows:
    return _packed(frame, ids, *_codes(frame.turn(vectors)))


def _centred(frame: Frame, vectors: Float32) -> Frame:
    """The frame around the middle of the vectors, if these are enough to tell where it is."""
    if len(vectors) < 1000:
        return frame
    return replace(frame, centre=frame.turn(vectors[: 1 << 16]).mean(0, dtype=np.float32))


def _recentred(frame: Frame, codes: Bytes, rows: Int64) -> Frame:
    if len(rows) < 1000:
        return frame
    some = rows[:: max(1, len(rows) >> 16)]
    centre = _decoded(codes[some]).mean(0) * np.float32(_step(frame.width))
    return replace(frame, centre=centre)


def _seen(version: Version, before: _View | None) -> _View:
    """What there is to search in now; `before` is an older view of the same version."""
    header, rows = version.header, version.rows
    alive: npt.NDArray[np.bool_] | None
    if before is None or before.removals != header.removals:
        alive = rows.ids >= 0
    elif before.alive is None:
        alive = None
    else:
        alive = np.concatenate([before.alive, np.ones(len(rows) - len(before.rows), bool)])
    count = len(rows) if alive is None else int(np.count_nonzero(alive))
    return _View(
        rows, version.frame, header.generation, header.removals, None if count == len(rows) else alive, count,
        Coarse(version.frame) if before is None else before.packed,
    )  # fmt: skip


def _ids(ids: Any) -> Int64:
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise ShapeError("ids are a row of numbers", got=ids, expected="shape (n,)")
    if ids.dtype.kind not in "iu" and ids.size:
        raise DtypeError("ids are whole numbers", got=ids, expected="int64")
    whole: Int64 = ids.astype(np.int64)
    return whole


def _vectors(vectors: Any, dim: int) -> Float32:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ShapeError("vectors of another shape", got=vectors, expected=f"(n, {dim})")
    if vectors.dtype.kind != "f":
        raise DtypeError("vectors are real numbers", got=vectors, expected="float32")
    vectors = np.ascontiguousarray(vectors, np.float32)
    length = np.einsum("nd,nd->n", vectors, vectors)
    if not np.all(np.abs(length - 1) < 0.02):
        worst = length[np.argmax(np.abs(np.nan_to_num(length, nan=np.inf) - 1))] ** 0.5
        raise ValueRangeError("vectors must have length 1", got=f"a length of {worst:.4g}", hint="divide by the norm")
    checked: Float32 = vectors
    return checked


def _threads() -> int:
    import torch

    return min(torch.get_num_threads(), os.cpu_count() or 1)
