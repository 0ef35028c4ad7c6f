"""Boxes ``(x1, y1, x2, y2)`` in pixels: areas, overlap, suppression, matching. A box's width is ``x2 - x1``.

A box with ``x2 < x1`` or ``y2 < y1`` is empty: area 0, overlap 0 with everything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Bools, Floats, Ints, bools, floats, indices, number, same_length

BLOCK = 256
"""Boxes that `nms` settles at a time: 256 x n overlaps fit the cache for the n that detectors give."""


def area(boxes: ArrayLike) -> Floats:
    """Area (...,) in square pixels of boxes (..., 4)."""
    b = floats("boxes", boxes, "... 4")
    return np.asarray(np.maximum(b[..., 2] - b[..., 0], 0) * np.maximum(b[..., 3] - b[..., 1], 0))


def intersection(a: ArrayLike, b: ArrayLike) -> Floats:
    """Common area (n, m) in square pixels of each of a (n, 4) with each of b (m, 4)."""
    first, second = floats("a", a, "n 4"), floats("b", b, "m 4")
    w = np.minimum(first[:, None, 2], second[:, 2]) - np.maximum(first[:, None, 0], second[:, 0])
    h = np.minimum(first[:, None, 3], second[:, 3]) - np.maximum(first[:, None, 1], second[:, 1])
    return np.asarray(np.maximum(w, 0) * np.maximum(h, 0))


def iou(a: ArrayLike, b: ArrayLike) -> Floats:
    """Intersection over union (n, m), 0 to 1, of each of a (n, 4) with each of b (m, 4)."""
    first, second = floats("a", a, "n 4"), floats("b", b, "m 4")
    common = intersection(first, second)
    union = area(first)[:, None] + area(second) - common
    out = np.zeros_like(common)
    # Boxes far smaller than a pixel underflow in float32; they overlap nothing.
    return np.divide(common, union, out=out, where=union > 0)


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> Ints:
    """Greedy non-maximum suppression: of boxes that overlap, the one with the highest score stays.

    Boxes are settled in blocks of `BLOCK`. Within a block, "kept unless a kept, better box overlaps it" is
    iterated on the whole overlap matrix until nothing changes; that fixed point is the greedy answer, so
    the result is exactly that of the textbook loop, at the speed of a few matrix operations.

    Parameters
    ----------
    boxes : (n, 4)
    scores : (n,)
        Higher is better; of equal scores the earlier box wins.
    threshold
        Overlap (IoU, 0 to 1) above which the lesser box goes.

    Returns
    -------
    (k,) indices of the boxes that stay, best first.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Wrong arrays, or a threshold outside 0 to 1.
    """
    b, s = floats("boxes", boxes, "n 4"), floats("scores", scores, "n")
    same_length(boxes=b, scores=s)
    threshold = number("threshold", threshold, 0, 1)
    left = np.argsort(-s, kind="stable")
    kept: list[Ints] = []
    while left.size:
        block, left = left[:BLOCK], left[BLOCK:]
        # beats[i, j]: i comes before j and overlaps it, so j goes if i stays
        beats = np.triu(iou(b[block], b[block]) > threshold, 1)
        stays: Bools = np.ones(len(block), np.bool_)
        while True:
            again = np.asarray(~beats[stays].any(0))
            if (again == stays).all():
                break
            stays = again
        block = block[stays]
        kept.append(block)
        left = left[~(iou(b[block], b[left]) > threshold).any(0)]
    return np.concatenate(kept) if kept else np.zeros(0, np.intp)


def batched_nms(boxes: ArrayLike, scores: ArrayLike, threshold: float, group: ArrayLike) -> Ints:
    """`nms` within each group (the image of each box, or its class): (k,) indices, best score first overall.

    Parameters
    ----------
    boxes : (n, 4)
    scores : (n,)
    threshold
        Overlap (IoU, 0 to 1) above which the lesser box goes.
    group : (n,)
        Integers; boxes of different groups never suppress each other.
    """
    b, s, g = floats("boxes", boxes, "n 4"), floats("scores", scores, "n"), indices("group", group, "n")
    same_length(boxes=b, scores=s, group=g)
    order = np.argsort(g, kind="stable")
    starts = np.flatnonzero(np.diff(g[order])) + 1
    kept = [rows[nms(b[rows], s[rows], threshold)] for rows in np.split(order, starts) if rows.size]
    if not kept:
        return np.zeros(0, np.intp)
    # Sorted first so that equal scores stay in the order of the input, as in `nms`.
    flat = np.sort(np.concatenate(kept))
    return flat[np.argsort(-s[flat], kind="stable")]


def match_greedy(
    boxes: ArrayLike,
    scores: ArrayLike,
    truth: ArrayLike,
    threshold: float = 0.5,
    *,
    ignore: ArrayLike | None = None,
) -> Ints:
    """Give each detection of one picture the annotated box it finds, best score first, each annotation once.

    A detection takes the annotation it overlaps most among those still free (COCO's rule). One that finds
    no free annotation but overlaps an ignored one is given that; an ignored annotation may be given any
    number of times.

    Parameters
    ----------
    boxes : (n, 4)
    scores : (n,)
        Of equal scores the earlier detection chooses first.
    truth : (m, 4)
        Annotated boxes.
    threshold
        Least overlap (IoU, above 0 to 1) that counts.
    ignore : (m,), optional
        True for annotations that need not be found (too small, a crowd).

    Returns
    -------
    (n,) index into `truth`, or -1 for a detection of nothing.
    """
    b, s, t = floats("boxes", boxes, "n 4"), floats("scores", scores, "n"), floats("truth", truth, "m 4")
    skip = np.zeros(len(t), np.bool_) if ignore is None else bools("ignore", ignore, "m")
    same_length(boxes=b, scores=s)
    same_length(truth=t, ignore=skip)
    threshold = number("threshold", threshold, 0, 1, open_low=True)
    match = np.full(len(b), -1, np.intp)
    overlap = iou(b, t)
    row, column = np.nonzero(overlap >= threshold)
    rank = np.empty(len(b), np.intp)
    rank[np.argsort(-s, kind="stable")] = np.arange(len(b))
    # Only pairs that overlap enough are walked: by detection, best first, then by overlap; ignored ones last.
    order = np.lexsort((column, -overlap[row, column], skip[column], rank[row]))
    taken = np.zeros(len(t), np.bool_)
    for i, j in zip(row[order].tolist(), column[order].tolist(), strict=True):
        if match[i] < 0 and not taken[j]:
            match[i] = j
            taken[j] = not skip[j]
    return match


def clip(boxes: ArrayLike, width: float, height: float) -> Floats:
    """Boxes (..., 4) cut to the picture: x to 0..width, y to 0..height."""
    b = floats("boxes", boxes, "... 4")
    limit = np.array([width, height, width, height], b.dtype)
    return np.asarray(np.clip(b, 0, limit))


def expand(boxes: ArrayLike, factor: float) -> Floats:
    """Boxes (..., 4) with sides `factor` times as long about the same centre."""
    b = floats("boxes", boxes, "... 4")
    centre, half = (
        (b[..., :2] + b[..., 2:]) / 2,
        (b[..., 2:] - b[..., :2]) * (number("factor", factor, 0, 1e6) / 2),
    )
    return np.concatenate([centre - half, centre + half], axis=-1).astype(b.dtype, copy=False)


def to_square(boxes: ArrayLike) -> Floats:
    """The square about the centre of each box (..., 4) with the length of its longer side."""
    b = floats("boxes", boxes, "... 4")
    centre = (b[..., :2] + b[..., 2:]) / 2
    half = np.maximum(b[..., 2] - b[..., 0], b[..., 3] - b[..., 1])[..., None] / 2
    return np.concatenate([centre - half, centre + half], axis=-1).astype(b.dtype, copy=False)


def from_points(points: ArrayLike) -> Floats:
    """The tight box (..., 4) of points (..., k, d), d = 2 or 3, k >= 1."""
    p = floats("points", points, "... k d")
    if p.shape[-2] < 1 or p.shape[-1] not in (2, 3):
        raise ShapeError("points cannot be boxed", got=p.shape, expected="(..., k, 2) or (..., k, 3) with k >= 1")
    plane = p[..., :2]
    return np.concatenate([plane.min(-2), plane.max(-2)], axis=-1)


def xyxy_to_xywh(boxes: ArrayLike) -> Floats:
    """(x1, y1, x2, y2) -> (x1, y1, width, height), for boxes (..., 4)."""
    b = floats("boxes", boxes, "... 4")
    return np.concatenate([b[..., :2], b[..., 2:] - b[..., :2]], axis=-1)


def xywh_to_xyxy(boxes: ArrayLike) -> Floats:
    """(x1, y1, width, height) -> (x1, y1, x2, y2), for boxes (..., 4).

    Raises
    ------
    ValueRangeError
        A negative width or height.
    """
    b = floats("boxes", boxes, "... 4")
    if (b[..., 2:] < 0).any():
        raise ValueRangeError("a box has a negative side", got=b[(b[..., 2:] < 0).any(-1)][:1].tolist())
    return np.concatenate([b[..., :2], b[..., :2] + b[..., 2:]], axis=-1)


def inside(boxes: ArrayLike, points: ArrayLike) -> Bools:
    """Whether each of points (m, 2) lies in each of boxes (n, 4), edges included: (n, m)."""
    b, p = floats("boxes", boxes, "n 4"), floats("points", points, "m 2")
    return np.asarray(((p >= b[:, None, :2]) & (p <= b[:, None, 2:])).all(-1))
