"""The scans of a search: which rows are worth an exact score.

    codes, one query       faiss, IndexScalarQuantizer over the mapped file        n D bytes read
    codes, many queries    oneDNN's int8 product through torch, block by block     n D bytes read, once for all
    coarse codes           faiss, IndexPQFastScan: 4 bits for 4 numbers            n D / 8 bytes read

The first two find the best rows by all bytes of the codes, the last by an eighth as many; `docs/gallery_search.md` has
the measurements by which these libraries were chosen. None holds more than a block of scores at a time.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from mien.gallery.index.files import ZERO, Frame, Rows

__all__ = ["Coarse", "coarse_codes", "scan_many", "scan_one"]

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

A = TypeVar("A")
B = TypeVar("B")

SEGMENT: Final = 1 << 19
"""Rows whose coarse codes are packed and scanned together."""

LOOSE: Final = 1 << 14
"""Newest rows that need not be packed yet: until there are so many, all of their codes are scanned."""

LEAST: Final = 1024
"""Rows that a segment is asked for, at least."""

STALE: Final = 512
"""Rows of a segment that may have been removed since it was packed."""

BLOCK: Final = 1 << 17
"""Scores of a product with many queries, half a second-level cache of them."""

SHARE: Final = 1 << 15
"""Rows that are worth a thread."""

LOWEST: Final = np.iinfo(np.int32).min


def faiss() -> Any:
    """The library, imported when it is first needed."""
    import faiss

    return faiss


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mien-search")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool but not its threads


def _side_by_side(work: Callable[[A], B], items: Sequence[A], threads: int) -> list[B]:
    """What `work` gives of each item, in as many threads; the caller is one of them and need not be woken."""
    if threads < 2 or len(items) < 2:
        return [work(item) for item in items]
    left = iter(items)
    lock = threading.Lock()
    told: dict[int, B] = {}

    def some() -> None:
        while True:
            with lock:
                number, item = len(taken), next(left, None)
                if item is None:
                    return
                taken.append(number)
            told[number] = work(item)

    taken: list[int] = []
    others = [_pool(threads).submit(some) for _ in range(min(threads, len(items)) - 1)]
    some()
    for other in others:
        other.result()
    return [told[number] for number in range(len(items))]


# ---------------------------------------------------------------------------------------------- all bytes


def _lent(index: Any, codes: Bytes) -> Any:
    """A faiss index of codes that stay where they are; the caller keeps `codes` for as long as the index lives."""
    library = faiss()
    address = library.cast_integer_to_void_ptr(codes.ctypes.data)
    index.codes = library.MaybeOwnedVectorUInt8.create_view(address, codes.nbytes, index.codes.owner)
    index.ntotal = len(codes)
    return index


def scan_one(codes: Bytes, query: Int8, count: int, *, threads: int, alive: npt.NDArray[np.bool_] | None) -> Int64:
    """The `count` rows of codes (n, D) with the greatest products with a query (D,), or all there are.

    Parameters
    ----------
    alive
        Rows that may be found; None for all.
    """
    library = faiss()
    kind = library.ScalarQuantizer.QT_8bit_direct_signed
    parts = max(1, min(threads, len(codes) // SHARE))
    edges = [len(codes) * i // parts for i in range(parts + 1)]
    whole = query[None].astype(np.float32)  # faiss makes whole numbers of it again

    def share(part: int) -> tuple[Float32, Int64]:
        first, last = edges[part], edges[part + 1]
        index = library.IndexScalarQuantizer(codes.shape[1], kind, library.METRIC_INNER_PRODUCT)
        _lent(index, codes[first:last])
        wanted = min(count, last - first)
        if alive is None:
            scores, rows = index.search(whole, wanted)
        else:
            chosen = library.IDSelectorBitmap(np.packbits(alive[first:last], bitorder="little"))
            scores, rows = index.search(whole, wanted, params=library.SearchParameters(sel=chosen))
        found = rows[0] >= 0
        return scores[0, found], rows[0, found] + first

    told = _side_by_side(share, range(parts), threads)
    return _best(np.concatenate([s for s, _ in told]), np.concatenate([r for _, r in told]), count)


def scan_many(codes: Bytes, queries: Int8, count: int) -> list[Int64]:
    """For each of queries (q, D), the rows of codes (n, D) with the greatest products: `count`, or all there are.

    The threads are torch's.
    """
    import torch

    left, n, height = torch.from_numpy(queries), len(codes), len(queries)
    step = max(256, BLOCK // height)
    best_scores: Int32 = np.full((height, 0), LOWEST, np.int32)
    best_rows: Int64 = np.full((height, 0), -1, np.int64)
    edges: Int32 = np.full(height, LOWEST, np.int32)
    waiting: list[tuple[Int64, Int64, Int32]] = []
    held = 0

    def settle() -> None:
        """Merges what waits into the best, query by query."""
        nonlocal best_scores, best_rows, held, edges
        if not waiting:
            return
        who, rows, scores = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        order = np.lexsort((rows, -scores.astype(np.int64), who))
        who, rows, scores = who[order], rows[order], scores[order]
        place = np.arange(len(who)) - np.searchsorted(who, np.arange(height))[who]
        kept = place < count
        width = min(count, int(np.bincount(who, minlength=height).max()))
        more_scores = np.full((height, width), LOWEST, np.int32)
        more_rows = np.full((height, width), -1, np.int64)
        more_scores[who[kept], place[kept]] = scores[kept]
        more_rows[who[kept], place[kept]] = rows[kept]
        best_scores = np.concatenate([best_scores, more_scores], 1)
        best_rows = np.concatenate([best_rows, more_rows], 1)
        if best_scores.shape[1] > count:
            order = np.argsort(-best_scores.astype(np.int64), 1, kind="stable")[:, :count]
            best_scores = np.take_along_axis(best_scores, order, 1)
            best_rows = np.take_along_axis(best_rows, order, 1)
        if best_scores.shape[1] == count:
            edges = best_scores[:, -1].copy()
        waiting.clear()
        held = 0

    room = np.empty((min(step, n), codes.shape[1]), np.uint8)
    for start in range(0, n, step):
        block = room[: min(step, n - start)]
        np.bitwise_xor(codes[start : start + step], np.uint8(ZERO), out=block)  # to signed bytes
        scores = _product(left, torch.from_numpy(block.view(np.int8)))
        # Once the best are found there are few blocks, and few queries of a block, with something better.
        above = np.flatnonzero(scores.numpy().max(1) > edges)
        if not len(above):
            continue
        some = scores.numpy()[above] if len(above) < height else scores.numpy()
        hits = some > edges[above, None]
        many = int(np.count_nonzero(hits))
        if many > 4 * count * len(above):
            top, rows = scores.topk(min(count, len(block)), 1)
            waiting.append(
                (np.repeat(np.arange(height), rows.shape[1]), rows.numpy().ravel() + start, top.numpy().ravel())
            )
        else:
            who, rows_ = np.nonzero(hits)
            waiting.append((above[who], rows_ + start, some[who, rows_]))
        held += many
        if held >= count * height:
            settle()
    settle()
    return [rows[rows >= 0] for rows in best_rows]


def _product(left: Any, right: Any) -> Any:
    """left (q, D) int8 times right (n, D) int8, transposed: (q, n) int32."""
    import torch

    if _exact_products():
        return torch._int_mm(left, right.T)
    return (left.float() @ right.float().T).round().int()  # exact: |sum| < 2^24 up to D = 1040, and nearly so beyond


@functools.cache
def _exact_products() -> bool:
    """Whether int8 products are whole on this processor; those without VNNI may cut intermediate sums."""
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    one = torch.full((8, 256), 127, dtype=torch.int8)
    other = torch.cat([one, -one])
    return bool((torch._int_mm(one, other.T) == (one.int() @ other.T.int())).all())


def _best(scores: Float32, rows: Int64, count: int) -> Int64:
    if len(rows) <= count:
        return rows
    kept: Int64 = rows[np.argpartition(scores, len(scores) - count)[-count:]]
    return kept


# ---------------------------------------------------------------------------------------------- coarse codes


def _quantiser(frame: Frame) -> Any:
    """faiss's product quantiser with the codebook of the frame, for groups of four numbers."""
    library = faiss()
    width = frame.width
    index = library.IndexPQ(width, width // 4, 4, library.METRIC_INNER_PRODUCT)
    library.copy_array_to_vector(np.ascontiguousarray(frame.centroids()).ravel(), index.pq.centroids)
    index.is_trained = True
    return index


def coarse_codes(frame: Frame, turned: Float32) -> Bytes:
    """Codes (n, D / 8) of turned vectors (n, D): for each four numbers the nearest of sixteen points, two a byte."""
    if not len(turned):
        return np.empty((0, frame.width // 8), np.uint8)
    codes: Bytes = _kept(frame).pq.compute_codes(np.ascontiguousarray(turned))
    return codes


def _kept(frame: Frame) -> Any:
    """The quantiser of a frame, made once."""
    kept = getattr(frame, "_quantiser", None)
    if kept is None:
        kept = _quantiser(frame)
        object.__setattr__(frame, "_quantiser", kept)
    return kept


class Coarse:
    """The coarse codes of an index in memory, packed for the scan, segment by segment as they are needed.

    Safe to use from several threads.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._segments: list[tuple[int, int, Any]] = []
        """Rows packed, rows dead at that time, index."""
        self._seen: npt.NDArray[np.bool_] | None = None
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory that is held."""
        return sum(int(index.codes.size()) for _, _, index in self._segments)

    def pack(self, rows: Rows, alive: npt.NDArray[np.bool_] | None) -> list[tuple[int, int, Any]]:
        """First row, last row and index of each segment; the last rows may belong to none."""
        with self._lock:
            told = []
            changed = alive is not None and alive is not self._seen
            self._seen = alive
            for number, first in enumerate(range(0, len(rows), SEGMENT)):
                last = min(first + SEGMENT, len(rows))
                packed, dead, index = self._segments[number] if number < len(self._segments) else (0, 0, None)
                now = int(np.count_nonzero(~alive[first : first + packed])) if changed and alive is not None else dead
                if (last - first - packed >= (LOOSE if last == len(rows) else 1)) or now - dead > STALE:
                    packed, index = last - first, self._packed(rows.coarse[first:last])
                    dead = 0 if alive is None else int(np.count_nonzero(~alive[first:last]))
                    self._segments[number : number + 1] = [(packed, dead, index)]
                if packed:
                    told.append((first, first + packed, index))
            return told

    def _packed(self, codes: Bytes) -> Any:
        library = faiss()
        flat = _quantiser(self.frame)
        _lent(flat, codes)
        return library.IndexPQFastScan(flat, 32)  # a copy

    def scan(
        self, rows: Rows, alive: npt.NDArray[np.bool_] | None, queries: Float32, coded: Int8, count: int, wanted: int,
        *, threads: int,
    ) -> list[Int64]:  # fmt: skip
        """For each of turned queries (q, D), the `count` rows that seem to have the greatest products.

        `coded` are the same queries in 8 bits. Rows that are not packed yet are scanned by all of their codes, and the
        `wanted` best of them come on top of `count`.
        """
        segments = self.pack(rows, alive)
        packed = segments[-1][1] if segments else 0
        near: list[list[tuple[Float32, Int64]]] = [[] for _ in queries]
        # Those that seem best need not be spread evenly over the segments; hundreds from each do for all but the worst.
        each = max(LEAST, -(-count // max(1, len(segments))))

        def share(segment: tuple[int, int, Any]) -> list[tuple[Float32, Int64]]:
            first, last, index = segment
            told = []
            for query in queries:  # one by one: faiss packs several into one pass, which takes longer here
                scores, found = index.search(query[None], min(each, last - first))
                told.append((scores[0], found[0] + first))
            return told

        for told in _side_by_side(share, segments, threads):
            for query, pair in enumerate(told):
                near[query].append(pair)
        loose = rows.codes[packed:]
        found = []
        for query, parts in enumerate(near):
            best = np.empty(0, np.int64)
            if parts:
                best = _best(np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts]), count)
            if len(loose):
                more = None if alive is None else alive[packed:]
                best = np.concatenate([best, packed + scan_one(loose, coded[query], wanted, threads=1, alive=more)])
            found.append(best)
        return found
