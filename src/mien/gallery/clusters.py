"""Who is who in pictures without names: faces are joined while the mean cosine of two groups reaches a threshold.

Average linkage over all pairs of n faces takes n^2 memory. Two groups whose mean cosine reaches the threshold have a
pair that does, and such pairs are found among the nearest neighbours; so only the graph of nearest neighbours is held,
and the mean of all pairs of two groups is had from the sums of their vectors, ``s_a . s_b / (|a| |b|)``, without
listing them. The result is that of average linkage as long as groups that belong together are connected in the graph.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien.errors import OptionError
from mien.gallery.records import unit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]
    Advance = Callable[[int, int | None, str], None]

METHODS = ("average", "connected")
"""Groups are joined while the mean cosine reaches the threshold; or faces that a chain of pairs at or above it connects
are one group, which is faster and runs away where there are many."""

NEIGHBOURS = 64
"""Nearest neighbours of each face that are looked at."""

EXACT = 200_000
"""Faces up to which all cosines are computed, block by block; beyond, an index finds the neighbours. Measured at 30,000
faces, the searches take thirty times as long as the blocks, since all queries are there at once."""

SCORES = 1 << 24
"""Cosines of a block: 64 MB."""


def cluster_faces(
    embeddings: ArrayLike, threshold: float, *, method: str = "average", neighbours: int = NEIGHBOURS,
    progress: Advance | None = None,
) -> Ints:  # fmt: skip
    """Number of the group (n,) of each face: 0 is the largest, then falling; equal ones in the order of their first
    faces. Faces alone are groups of one.

    Parameters
    ----------
    embeddings : (n, d)
        Of any length above zero.
    threshold
        Cosine.
    method
        "average" or "connected".
    neighbours
        Of each face that are looked at.
    progress
        Called as ``progress(done, total, what)``.

    Raises
    ------
    OptionError
        Unknown method; a threshold that is no cosine.
    """
    if method not in METHODS:
        raise OptionError.unknown("unknown method", method, METHODS)
    if not -1 <= threshold <= 1:
        raise OptionError("a threshold is a cosine", got=threshold, expected="-1 to 1")
    vectors = unit(embeddings) if len(np.asarray(embeddings)) else np.zeros((0, 1), np.float32)
    if not len(vectors):
        return np.zeros(0, np.int64)
    left, right, cosines = neighbour_pairs(vectors, threshold, neighbours, progress=progress)
    if method == "connected":
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        graph = coo_matrix((np.ones(len(left), np.bool_), (left, right)), shape=(len(vectors),) * 2)
        groups = np.asarray(connected_components(graph, directed=False)[1], np.int64)
    else:
        groups = _average(vectors, left, right, cosines, threshold)
    return _by_size(groups)


def neighbour_pairs(
    vectors: Floats, threshold: float, neighbours: int = NEIGHBOURS, *, progress: Advance | None = None
) -> tuple[Ints, Ints, Floats]:
    """Pairs (m,), (m,) of neighbours whose cosine (m,) reaches the threshold; each pair once, the smaller row first."""
    n = len(vectors)
    parts: list[tuple[Ints, Ints, Floats]] = []
    with tempfile.TemporaryDirectory(prefix="mien-cluster-") as place:
        index = None
        if n > EXACT:
            from mien.gallery.index import Index

            steps = ((np.arange(a, min(a + 8192, n)), vectors[a : a + 8192]) for a in range(0, n, 8192))
            index = Index.build(Path(place), steps, dim=vectors.shape[1], generation=1)
        step = max(16, min(1024, SCORES // n))
        for start in range(0, n, step):
            rows = np.arange(start, min(start + step, n))
            if index is None:
                a, b, cosine = _above(vectors[rows] @ vectors.T, threshold, neighbours + 1)
                a += start
            else:
                near = index.search(vectors[rows], min(n, neighbours + 1))[1]
                a, b = np.repeat(rows, near.shape[1]), near.reshape(-1)
                cosine = np.einsum("nd,nd->n", vectors[a], vectors[b.clip(min=0)])
            keep = (cosine >= threshold) & (a != b) & (b >= 0)
            parts.append((np.minimum(a, b)[keep], np.maximum(a, b)[keep], cosine[keep].astype(np.float32)))
            if progress is not None:
                progress(int(rows[-1]) + 1, n, "neighbours")
        del index  # before its files go
    left, right, cosines = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Two faces are often neighbours of each other.
    first = np.unique(left.astype(np.int64) * n + right, return_index=True)[1]
    return left[first].astype(np.int64), right[first].astype(np.int64), cosines[first]


def _above(scores: Floats, threshold: float, most: int) -> tuple[Ints, Ints, Floats]:
    """Row (m,), column (m,) and value (m,) of what reaches the threshold, of each row the highest `most`.

    To compare is a tenth of the price of finding the highest of every row, and few rows have too many.
    """
    above = scores >= threshold
    for row in np.flatnonzero(np.count_nonzero(above, axis=1) > most):
        there = np.flatnonzero(above[row])
        above[row] = False
        above[row, there[np.argpartition(-scores[row, there], most - 1)[:most]]] = True
    rows, columns = np.nonzero(above)
    return rows, columns, scores[rows, columns]


def _average(vectors: Floats, left: Ints, right: Ints, cosines: Floats, threshold: float) -> Ints:
    """Average linkage on a graph: always the two connected groups of the highest mean cosine are joined."""
    n, dim = vectors.shape
    # A join makes a new group of a new number; there are at most n - 1 of them.
    sums = np.zeros((2 * n - 1, dim), np.float32)
    sums[:n] = vectors
    sizes = np.ones(2 * n - 1, np.float64)
    parent = np.arange(2 * n - 1)
    near: list[set[int] | None] = [set() for _ in range(n)]
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        near[a].add(b)
        near[b].add(a)
    heap = list(zip((-cosines.astype(np.float64)).tolist(), left.tolist(), right.tolist(), strict=True))
    heapq.heapify(heap)
    new = n
    while heap:
        _, a, b = heapq.heappop(heap)
        mine, its = near[a], near[b]
        if mine is None or its is None:  # one of them has been joined to another since
            continue
        others = (mine | its) - {a, b}
        near[a] = near[b] = None
        parent[a] = parent[b] = new
        sums[new], sizes[new] = sums[a] + sums[b], sizes[a] + sizes[b]
        near.append(others)
        if others:
            there = np.fromiter(others, np.int64, len(others))
            means = (sums[there] @ sums[new]) / (sizes[there] * sizes[new])
            for other, mean in zip(there.tolist(), means.tolist(), strict=True):
                links = near[other]
                assert links is not None
                links.discard(a)
                links.discard(b)
                links.add(new)
                if mean >= threshold:
                    heapq.heappush(heap, (-mean, other, new))
        new += 1
    # From the last to the first, so that each parent knows its root.
    for node in range(new - 1, -1, -1):
        parent[node] = parent[parent[node]]
    return np.unique(parent[:n], return_inverse=True)[1].reshape(-1).astype(np.int64)


def _by_size(groups: Ints) -> Ints:
    names, first, which, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(len(names))
    return number[which.reshape(-1)]
