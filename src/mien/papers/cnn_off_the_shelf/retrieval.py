"""Instance retrieval with the same features: whitening learnt on the reference side, spatial search, its figures.

    reference (n, patches, d) ── fit_space ──> Space: unit length, PCA to 500, whitening, unit length, signed square
    distance(query, image) = mean over the query's patches of the least distance to a patch of the image

Patches are those of `patches` (spatial search, four levels for references and three for queries), or the sixteen
representations of `paper_views` on both sides, as for Holidays and UKBench.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import bools, doubles, floats
from mien.papers.cnn_off_the_shelf.svm import POWER, Floats, signed_power, unit

REFERENCE_LEVELS, QUERY_LEVELS = 4, 3
"""h_r and h_q: 30 and 14 patches."""

DIM = 500
BLOCK = 1 << 24
"""Distances that are held at a time: 64 MB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Space:
    """The way of a feature into the space in which it is compared.

    Parameters
    ----------
    mean : (d,) float32
        Of unit features.
    axes : (k, d) float32
        Principal axes, divided by the standard deviation along them.
    power
        Of the signed power at the end.
    """

    mean: Floats
    axes: Floats
    power: float

    def __call__(self, x: ArrayLike) -> Floats:
        """Features (…, d) -> (…, k)."""
        rows = np.asarray(x, np.float32)
        if rows.shape[-1] != len(self.mean):
            raise ShapeError("features do not fit the space", got=rows.shape, expected=f"(…, {len(self.mean)})")
        return signed_power(unit((unit(rows) - self.mean) @ self.axes.T), self.power)


def fit_space(reference: ArrayLike, *, dim: int = DIM, power: float = POWER) -> Space:
    """PCA and whitening, learnt on reference features only: queries must have no say.

    Parameters
    ----------
    reference : (…, d)
        Features of the reference pictures' patches.
    dim
        Axes that are kept.
    power
        Of the signed power after whitening.

    Raises
    ------
    ValueRangeError
        Fewer features than `dim` + 1, or fewer dimensions, or too little variation for so many axes.
    """
    rows = unit(np.asarray(reference, np.float32)).astype(np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    if not 1 <= dim < len(rows) or dim > rows.shape[1]:
        raise ValueRangeError(
            "there are too few features to whiten that many dimensions", got=f"{len(rows)} of {rows.shape[1]} numbers",
            expected=f"more than {dim}, better {10 * dim}", hint="lower dim, or take more patches or pictures",
        )  # fmt: skip
    if len(rows) < 4 * dim:
        log.warning("whitening %d dimensions by %d features is mostly noise; lower dim", dim, len(rows))
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False).reshape(rows.shape[1], -1))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    if values[-1] <= 1e-12 * values[0]:
        raise ValueRangeError(
            "features vary along fewer axes than are to be whitened", got=int((values > 1e-12 * values[0]).sum()),
            expected=dim, hint="lower dim",
        )  # fmt: skip
    return Space(mean.astype(np.float32), (vectors / np.sqrt(values)).T.astype(np.float32), power)


def distances(query: ArrayLike, reference: ArrayLike) -> Floats:
    """Distances (q, n) of queries (q, p, k) to images (n, r, k): least over the image's patches, mean over the query's.

    Euclidean; computed in blocks of images by matrix products.
    """
    left, right = floats("query", query, "q p k"), floats("reference", reference, "n r k")
    if left.shape[2] != right.shape[2]:
        raise ShapeError("queries and references are not of one space", got=(left.shape, right.shape))
    (q, p, k), (n, r, _) = left.shape, right.shape
    rows = left.reshape(q * p, k)
    squares = (rows**2).sum(1)[:, None]
    found = np.empty((q, n), np.float32)
    step = max(1, BLOCK // max(1, q * p * r))
    for start in range(0, n, step):
        block = right[start : start + step].reshape(-1, k)
        gap = squares + (block**2).sum(1) - 2 * (rows @ block.T)
        least = np.sqrt(np.maximum(gap.reshape(q, p, -1, r).min(3), 0))
        found[:, start : start + step] = least.mean(1)
    return found


def mean_average_precision(
    found: ArrayLike, relevant: ArrayLike, *, ignored: ArrayLike | None = None, trapezoid: bool = True
) -> float:
    """mAP of queries by their distances (q, n) to all images.

    Parameters
    ----------
    found : (q, n)
        Distances.
    relevant : (q, n)
        Which images are right for a query. A query without any is an error.
    ignored : (q, n)
        Images that are taken out of the ranking: the query itself, or "junk".
    trapezoid
        Between two ranks precision is the mean of both, as in the evaluation of Oxford, Paris and Holidays.
    """
    gaps, right = doubles("found", found, "q n"), bools("relevant", relevant, "q n")
    out = np.zeros_like(right) if ignored is None else bools("ignored", ignored, "q n")
    if not gaps.shape == right.shape == out.shape:
        raise ShapeError("distances and truth differ", got=(gaps.shape, right.shape, out.shape))
    if not (right & ~out).any(1).all():
        raise ValueRangeError("a query has no relevant image", got=f"query {int(np.argmin((right & ~out).any(1)))}")
    order = np.argsort(np.where(out, np.inf, gaps), axis=1, kind="stable")
    hit = np.take_along_axis(right & ~out, order, 1)
    seen = np.cumsum(hit, 1)
    rank = np.arange(1, hit.shape[1] + 1)
    precision = seen / rank
    if trapezoid:
        before = np.where(rank > 1, (seen - hit) / np.maximum(rank - 1, 1), 1.0)
        precision = (precision + before) / 2
    return float(np.mean((precision * hit).sum(1) / hit.sum(1)))


def recall_at(found: ArrayLike, relevant: ArrayLike, count: int = 4) -> float:
    """Mean share of a query's `count` relevant images among its first `count`: UKBench, where the query is one of them.

    Where fewer than `count` are relevant, the share is of these.
    """
    gaps, right = doubles("found", found, "q n"), bools("relevant", relevant, "q n")
    if gaps.shape != right.shape or not right.any(1).all():
        raise ValueRangeError("every query needs a relevant image", got=(gaps.shape, right.shape))
    first = np.argsort(gaps, axis=1, kind="stable")[:, :count]
    hits: NDArray[np.int64] = np.take_along_axis(right, first, 1).sum(1)
    return float(np.mean(hits / np.minimum(right.sum(1), count)))


def all_pairs_truth(labels: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of pictures that all are queries against all: which show the same (n, n), and which are the query itself."""
    names = np.asarray(labels)
    return names[:, None] == names, np.eye(len(names), dtype=bool)
