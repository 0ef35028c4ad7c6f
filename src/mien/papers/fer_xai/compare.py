"""Global maps against masks, with what chance would give, and against each other.

    binary = heat > otsu(heat)
    figures = against(heat, masks, "anger")       IoU, F1, precision, recall, AUC, and four controls
    r = correlations([heat_a, heat_b, …])         between networks, for one expression
    tree(r)                                       average linkage on 1 - r

The controls are ours. The paper reports IoU with the right mask only; with the five wrong ones it is about as high in
its own figures, since whatever lies within the face overlaps with whatever lies within the face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mien.errors import OptionError, ShapeError
from mien.papers.fer_xai.masks import Mask, face_mask

Map = NDArray[np.floating]

SHIFTS = 199
"""Displacements of the mask that the p-value is counted over."""


def otsu(values: Map, *, bins: int = 256) -> float:
    """Otsu's threshold (1979) of `values`: the centre of the bin after which the variance between the two sides is
    greatest. What is above it is foreground. A flat map has its own value.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts, edges = np.histogram(values, bins, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts).astype(np.float64)
    above = np.cumsum(counts[::-1])[::-1].astype(np.float64)
    sums = np.cumsum(counts * centres)
    mean_below = sums / below
    mean_above = np.cumsum((counts * centres)[::-1])[::-1] / above
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centres[int(between.argmax())])


def binary(heat: Map) -> Mask:
    """(H, W) what of a map is above Otsu's threshold; nothing of a flat one."""
    return np.asarray(heat > otsu(heat), np.bool_)


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks; 0 of two empty ones."""
    union = np.count_nonzero(first | second)
    return int(np.count_nonzero(first & second)) / int(union) if union else 0.0


def auc(heat: Map, mask: Mask) -> float:
    """Chance that a pixel of the mask is hotter than one outside, ties counting half; NaN where there are none."""
    from scipy.stats import rankdata

    inside = int(mask.sum())
    outside = mask.size - inside
    if not inside or not outside:
        return float("nan")
    ranks = rankdata(heat, axis=None)
    return float((ranks[mask.ravel()].sum() - inside * (inside + 1) / 2) / (inside * outside))


def chance_iou(first: float, second: float) -> float:
    """Expected IoU, for many pixels, of two independent masks that cover these shares."""
    both = first * second
    union = first + second - both
    return both / union if union else 0.0


def shifted_ious(found: Mask, mask: Mask, *, seed: int = 0, count: int = SHIFTS) -> NDArray[np.float64]:
    """(count,) IoU of `found` with copies of `mask` displaced at random, around the edges: its shape at other places.

    All displacements at once cost two Fourier transforms.
    """
    overlap = np.fft.irfft2(np.fft.rfft2(found) * np.conj(np.fft.rfft2(mask)), s=found.shape)
    rng = np.random.default_rng([seed, 31])
    height, width = found.shape
    flat = rng.choice(np.arange(1, height * width), size=min(count, height * width - 1), replace=False)
    both = np.rint(overlap.ravel()[flat])
    union = np.count_nonzero(found) + np.count_nonzero(mask) - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0), np.float64)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A map against the mask of its expression.

    Parameters
    ----------
    coverage
        Share of the canvas that is hot.
    iou, f1, precision, recall
        Of the hot pixels with the mask.
    auc
        Of the map itself with the mask, without a threshold.
    wrong_iou, wrong_auc
        Means over the masks of the other expressions.
    rank
        Place of the right mask among all by IoU; 1 is the best.
    chance_iou
        Of an independent mask of the same size.
    face_iou
        Of a random mask of the same size within the face: "it looks at the face" gives this.
    shift_iou, shift_p
        Mean IoU with the mask at random places, and the share of places where it is as high as at the right one.
    """

    coverage: float
    iou: float
    f1: float
    precision: float
    recall: float
    auc: float
    wrong_iou: float
    wrong_auc: float
    rank: int
    chance_iou: float
    face_iou: float
    shift_iou: float
    shift_p: float

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def against(heat: Map, masks: Mapping[str, Mask], right: str, *, seed: int = 0, face: Mask | None = None) -> Overlap:
    """What a map (H, W) has in common with the mask `right` and with those of the other expressions.

    Raises
    ------
    OptionError
        No such mask.
    ShapeError
        Map and masks differ in shape.
    """
    if right not in masks:
        raise OptionError.unknown("no mask of that expression", right, masks)
    if any(mask.shape != heat.shape for mask in masks.values()):
        raise ShapeError("masks have another shape than the map", got=heat.shape, expected=masks[right].shape)
    found, mask = binary(heat), masks[right]
    hot, size, both = (int(np.count_nonzero(one)) for one in (found, mask, found & mask))
    others = [other for name, other in masks.items() if name != right]
    ious = {name: iou(found, other) for name, other in masks.items()}
    inside = face_mask() if face is None and heat.shape == face_mask().shape else face
    face_iou = float("nan")
    if inside is not None:
        # A random mask of its size within the face meets what is hot there in proportion.
        expected = size * int(np.count_nonzero(found & inside)) / max(1, int(np.count_nonzero(inside)))
        face_iou = expected / (hot + size - expected) if hot + size else 0.0
    moved = shifted_ious(found, mask, seed=seed)
    return Overlap(
        coverage=hot / heat.size, iou=ious[right], f1=2 * both / (hot + size) if hot + size else 0.0,
        precision=both / hot if hot else 0.0, recall=both / size if size else 0.0, auc=auc(heat, mask),
        wrong_iou=float(np.mean([iou(found, other) for other in others])) if others else float("nan"),
        wrong_auc=float(np.mean([auc(heat, other) for other in others])) if others else float("nan"),
        rank=1 + sum(value > ious[right] for value in ious.values()),
        chance_iou=chance_iou(hot / heat.size, size / heat.size), face_iou=face_iou,
        shift_iou=float(moved.mean()), shift_p=float((1 + np.count_nonzero(moved >= ious[right])) / (1 + len(moved))),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- between networks


def correlations(maps: Sequence[Map] | Map) -> NDArray[np.float64]:
    """(n, n) Pearson correlation of maps (n, H, W) over their pixels; a flat map correlates with none, itself aside."""
    flat = np.asarray(maps, np.float64).reshape(len(maps), -1)
    flat = flat - flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
    r = np.asarray(np.clip(unit @ unit.T, -1, 1), np.float64)
    np.fill_diagonal(r, 1)
    return r


def tree(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average linkage on 1 - r: (n - 1, 4) as scipy has it; of fewer than two networks (0, 4)."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(r) < 2:
        return np.zeros((0, 4))
    away = 1 - r
    np.fill_diagonal(away, 0)
    return np.asarray(linkage(squareform((away + away.T) / 2, checks=False), "average"), np.float64)


def within_and_across(r: NDArray[np.float64], groups: Sequence[object]) -> tuple[float, float]:
    """Mean correlation of pairs of one group, the mean over the groups, and of pairs of two groups.

    Raises
    ------
    OptionError
        There are no two groups, or none has two members.
    """
    names = [str(group) for group in groups]
    pairs = [(i, j) for i in range(len(r)) for j in range(i)]
    across = [r[i, j] for i, j in pairs if names[i] != names[j]]
    within = [
        float(np.mean(own))
        for group in dict.fromkeys(names)
        if (own := [r[i, j] for i, j in pairs if names[i] == names[j] == group])
    ]
    if not across or not within:
        raise OptionError("two groups are compared, one with two members or more", got=names)
    return float(np.mean(within)), float(np.mean(across))
