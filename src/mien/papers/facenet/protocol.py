"""Evaluation and clustering: VAL at FAR, LFW, YouTube Faces, agglomerative clustering. All on squared distances.

Distances are 0 (the same) to 4; two faces are taken for one person where D <= d. Field terms elsewhere in mien: FAR is
FMR, VAL is 1 - FNMR, and scores are ``-D`` or the cosine ``1 - D / 2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import OptionError, ValueRangeError
from mien.geometry.checks import Double, Ints, bools, doubles, indices, labels, number, same_length
from mien.metrics import KFold, kfold_accuracy

LFW_THRESHOLD = 1.242
"""The paper's own on LFW in nine of ten splits (1.256 in the eighth), for NN1; as a cosine, 0.379."""

ACCURACY_GRID = np.arange(0, 4, 0.01)
VAL_GRID = np.arange(0, 4, 0.001)
"""Thresholds that the reimplementation by D. Sandberg tries."""


# ------------------------------------------------------------------------------------------- rates


@dataclass(frozen=True, slots=True)
class Validation:
    """VAL at a FAR over folds or splits.

    Parameters
    ----------
    val, standard_error
        Mean over folds, and the standard deviation over folds divided by the root of their number.
    far
        Mean of the rates that were met on the folds themselves.
    thresholds, vals : (k,)
        Of each fold.
    """

    val: float
    standard_error: float
    far: float
    thresholds: tuple[float, ...]
    vals: tuple[float, ...]


def rates(distances: ArrayLike, same: ArrayLike, thresholds: ArrayLike) -> tuple[Double, Double]:
    """VAL and FAR (t,) at `thresholds`: shares of the same and of the different pairs (n,) with D <= d (section 4)."""
    d, genuine, at = (
        doubles("distances", distances, "n"),
        bools("same", same, "n"),
        doubles("thresholds", thresholds, "t"),
    )
    same_length(distances=d, same=genuine)
    if genuine.all() or not genuine.any():
        raise ValueRangeError("pairs of one kind only", got=f"{int(genuine.sum())} of {len(d)} of one person")
    val, far = (np.searchsorted(np.sort(d[kind]), at, "right") / kind.sum() for kind in (genuine, ~genuine))
    return val, far


def folds_of(n: int, folds: int = 10) -> Ints:
    """Fold (n,) of each of `n` pairs in their order: consecutive runs, as equal as they can be."""
    if not 2 <= folds <= n:
        raise ValueRangeError("so many folds cannot be made", got=f"{folds} of {n} pairs", expected="2 to n")
    sizes = np.full(folds, n // folds)
    sizes[: n % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def lfw_accuracy(
    distances: ArrayLike, same: ArrayLike, folds: ArrayLike | None = None, *, grid: ArrayLike | None = None
) -> KFold:
    """Accuracy on LFW: each fold at the threshold that is best on the nine others.

    Parameters
    ----------
    distances, same : (n,)
        Pairs in the set's order.
    folds : (n,)
        Fold of each pair; by default ten consecutive runs (`folds_of`).
    grid : (t,)
        Thresholds to try, the lowest of equally good ones being taken, and pairs accepted below it: with
        `ACCURACY_GRID`, the protocol of the reimplementations. By default all that make a difference are tried and the
        middle one is taken.

    Returns
    -------
    KFold
        Accuracy, its standard error, and the thresholds in squared distance.
    """
    d, genuine = doubles("distances", distances, "n"), bools("same", same, "n")
    given = folds_of(len(d)) if folds is None else folds
    if grid is None:
        found = kfold_accuracy(-d, genuine, given)
        thresholds = tuple(-threshold for threshold in found.thresholds)
        return KFold(found.accuracy, found.standard_error, found.folds, found.accuracies, thresholds)
    names, codes = _folds(d, genuine, given)
    at = doubles("grid", grid, "t")
    right = np.stack([_right(d[codes == k], genuine[codes == k], at) for k in range(len(names))])
    others = right.sum(0) - right
    best = others.argmax(1)
    accuracies = right[np.arange(len(names)), best] / np.bincount(codes)
    return KFold(
        float(accuracies.mean()), _standard_error(accuracies), tuple(map(str, names.tolist())),
        tuple(accuracies.tolist()), tuple(at[best].tolist()),
    )  # fmt: skip


def _right(distances: Double, genuine: NDArray[np.bool_], thresholds: Double) -> Ints:
    """How many pairs are judged rightly (t,), accepted where D < threshold."""
    accepted, false = (np.searchsorted(np.sort(distances[kind]), thresholds) for kind in (genuine, ~genuine))
    return np.asarray(accepted + (~genuine).sum() - false, np.intp)


def lfw_validation(
    distances: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike | None = None,
    *,
    far: float = 1e-3,
    grid: ArrayLike = VAL_GRID,
) -> Validation:
    """VAL of each fold at the threshold that has FAR `far` on the others, as the reimplementations measure it.

    The threshold is interpolated between those of `grid`; parameters otherwise as in `lfw_accuracy`.
    """
    d, genuine = doubles("distances", distances, "n"), bools("same", same, "n")
    names, codes = _folds(d, genuine, folds_of(len(d)) if folds is None else folds)
    at, far = doubles("grid", grid, "t"), number("far", far, 0, 1)
    thresholds, vals, fars = [], [], []
    for fold in range(len(names)):
        held = codes == fold
        _, found = rates(d[~held], genuine[~held], at)
        last = int(np.searchsorted(found, far, "right")) - 1
        if last < 0:
            threshold = 0.0  # even the lowest threshold accepts too many
        elif last + 1 == len(at):
            threshold = float(at[last])
        else:
            share = (far - found[last]) / (found[last + 1] - found[last])
            threshold = float(at[last] + share * (at[last + 1] - at[last]))
        val, reached = rates(d[held], genuine[held], [threshold])
        thresholds.append(threshold)
        vals.append(float(val[0]))
        fars.append(float(reached[0]))
    return Validation(
        float(np.mean(vals)), _standard_error(np.array(vals)), float(np.mean(fars)), tuple(thresholds), tuple(vals)
    )


def _folds(distances: Double, genuine: NDArray[np.bool_], folds: ArrayLike) -> tuple[NDArray[np.generic], Ints]:
    names, codes = labels("folds", folds, "n")
    same_length(distances=distances, same=genuine, folds=codes)
    if len(names) < 2:
        raise ValueRangeError("one fold leaves no others to set the threshold on", got=names.tolist())
    return names, codes


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


# ------------------------------------------------------------------------------------------- hold-out


def val_at_far(
    embeddings: ArrayLike, identity: ArrayLike, *, far: float = 1e-3, step: float = 1e-4
) -> tuple[float, float, float]:
    """VAL, FAR met and threshold over all pairs of a set: the largest threshold whose FAR is at most `far`.

    Distances are counted in bins of width `step`, in blocks: memory does not grow with the number of pairs, and the
    threshold is exact to `step`.

    Parameters
    ----------
    embeddings : (n, d)
        Unit vectors.
    identity : (n,)
        Who is on each.
    """
    vectors = np.asarray(doubles("embeddings", embeddings, "n d"), np.float32)
    _, codes = labels("identity", identity, "n")
    same_length(embeddings=vectors, identity=codes)
    far = number("far", far, 0, 1)
    bins = int(np.ceil(4 / step)) + 1
    counts = np.zeros((2, bins), np.int64)
    rows = max(1, 2**23 // max(1, len(vectors)))
    for start in range(0, len(vectors), rows):
        block = slice(start, start + rows)
        bin_of = np.clip((2 - 2 * vectors[block] @ vectors[start:].T) / step, 0, bins - 1).astype(np.int64)
        genuine = codes[block, None] == codes[start:]
        later = np.arange(len(vectors) - start) > np.arange(len(bin_of))[:, None]
        for kind in (0, 1):
            counts[kind] += np.bincount(bin_of[later & (genuine == bool(kind))], minlength=bins)
    total = counts.sum(1)
    if not total.all():
        raise ValueRangeError("pairs of one kind only", got=f"{total[1]:,} of one person, {total[0]:,} of two")
    reached = counts[0].cumsum() / total[0]
    last = int(np.searchsorted(reached, far * (1 + 1e-12), "right"))  # bins before it keep the rate
    below = counts[:, :last].sum(1)
    return float(below[1] / total[1]), float(below[0] / total[0]), last * step


def hold_out(
    embeddings: ArrayLike, identity: ArrayLike, *, splits: int = 5, far: float = 1e-3, seed: int = 0
) -> Validation:
    """VAL at FAR on a hold-out set: mean and standard error over `splits` disjoint random parts (section 4.1).

    The paper has a million pictures in five parts of 200,000; nobody in them was trained on.
    """
    vectors, who = doubles("embeddings", embeddings, "n d"), np.asarray(identity)
    if not 2 <= splits <= len(vectors):
        raise ValueRangeError("so many splits cannot be made", got=splits, expected=f"2 to {len(vectors)}")
    order = np.random.default_rng(seed).permutation(len(vectors))
    found = np.array([val_at_far(vectors[part], who[part], far=far) for part in np.array_split(order, splits)])
    vals, fars, thresholds = found.T
    return Validation(
        float(vals.mean()), _standard_error(vals), float(fars.mean()), tuple(thresholds.tolist()), tuple(vals.tolist())
    )


# ------------------------------------------------------------------------------------------- videos


def video_distances(
    embeddings: ArrayLike, video: ArrayLike, first: ArrayLike, second: ArrayLike, *, frames: int = 100
) -> Double:
    """Squared distance (m,) of pairs of videos: the mean over all pairs of their first `frames` frames (section 4.7).

    The mean over pairs is ``mean ||a||^2 + mean ||b||^2 - 2 mean a . mean b``, so each video is summed up once.

    Parameters
    ----------
    embeddings : (n, d)
        Of frames in which a face was found, in order.
    video : (n,)
        Which video each frame is of: 0, 1, 2 …
    first, second : (m,)
        The pairs of videos.
    frames
        How many of a video count; the paper gives 100, and 1,000 for a little more accuracy.
    """
    vectors, of = doubles("embeddings", embeddings, "n d"), indices("video", video, "n")
    a, b = indices("first", first, "m"), indices("second", second, "m")
    same_length(embeddings=vectors, video=of)
    same_length(first=a, second=b)
    if frames < 1:
        raise ValueRangeError("at least one frame must count", got=frames)
    order = np.argsort(of, kind="stable")
    vectors, of = vectors[order], of[order]
    count = np.bincount(of, minlength=int(max([*a, *b, -1])) + 1)
    early = np.arange(len(of)) - (count.cumsum() - count)[of] < frames
    vectors, of = vectors[early], of[early]
    used = np.minimum(count, frames)
    empty = np.flatnonzero(used[np.union1d(a, b)] == 0) if len(a) else np.zeros(0, np.intp)
    if len(empty):
        raise ValueRangeError("a video has no frame", got=f"video {int(np.union1d(a, b)[empty[0]])}")
    mean = np.zeros((len(used), vectors.shape[1]))
    np.add.at(mean, of, vectors)
    mean /= np.maximum(used, 1)[:, None]
    square = np.bincount(of, (vectors**2).sum(1), minlength=len(used)) / np.maximum(used, 1)
    return np.asarray(square[a] + square[b] - 2 * (mean[a] * mean[b]).sum(1))


# ------------------------------------------------------------------------------------------- clustering

Linkage = Literal["average", "complete", "single"]


def cluster(embeddings: ArrayLike, *, threshold: float = LFW_THRESHOLD, linkage: Linkage = "average") -> Ints:
    """Agglomerative clustering of photographs (section 4.8): who belongs together, (n,) numbers from 0 on.

    Starting from single faces, the two nearest clusters are joined until the nearest are farther apart than
    `threshold`. The paper says no more; the distance of two clusters is here the mean of the squared distances of their
    faces ("average"), which neither chains nor splits as readily as "single" and "complete".

    Parameters
    ----------
    embeddings : (n, d)
        Unit vectors.
    threshold
        Squared distance, 0 to 4.
    linkage
        "average", "complete" or "single".

    Returns
    -------
    Numbers in the order of each cluster's first face. Memory grows as n^2 / 2 distances of 8 bytes: 1 GB for 16,000.
    """
    from scipy.cluster.hierarchy import fcluster
    from scipy.cluster.hierarchy import linkage as join
    from scipy.spatial.distance import pdist

    vectors = doubles("embeddings", embeddings, "n d")
    threshold = number("threshold", threshold, 0, 4)
    if linkage not in get_args(Linkage):
        raise OptionError.unknown("unknown linkage", linkage, get_args(Linkage))
    if len(vectors) < 2:
        return np.zeros(len(vectors), np.intp)
    found = fcluster(join(pdist(vectors, "sqeuclidean"), linkage), threshold, "distance")
    _, first, codes = np.unique(found, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[codes]
