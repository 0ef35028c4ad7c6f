"""Classes, attributes, numbers and masks: how often right, how well ranked, and whether the probabilities are true.

Arrays have one row a picture. `scores` of attributes are of any scale, higher for yes; probabilities lie in 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry.checks import Double, Floats, Ints, bools, check_shape, doubles, number, same_length

__all__ = [
    "Calibrated",
    "attribute_precision",
    "ccc",
    "class_recalls",
    "confusion",
    "expected_calibration_error",
    "f1_of_masks",
    "fit_temperature",
    "mask_counts",
]


def confusion(found: ArrayLike, truth: ArrayLike, *, classes: int) -> Ints:
    """(classes, classes): how many pictures of each true class (row) were given each class (column)."""
    mine, true = _classes("found", found), _classes("truth", truth)
    same_length(found=mine, truth=true)
    if len(true) and not (min(mine.min(), true.min()) >= 0 and max(mine.max(), true.max()) < classes):
        raise ValueRangeError("a class is out of range", got=(mine.max(), true.max()), expected=f"0 to {classes - 1}")
    counts: Ints = np.bincount(true * classes + mine, minlength=classes * classes).reshape(classes, classes)
    return counts


def _classes(name: str, value: ArrayLike) -> Ints:
    array = np.asarray(value)
    check_shape(name, array, "n")
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name} must be numbers of classes", got=f"dtype {array.dtype}", expected="integers")
    return array.astype(np.intp)


def class_recalls(found: ArrayLike, truth: ArrayLike, *, classes: int) -> Double:
    """(classes,) share of each class's pictures that were recognised; NaN for classes without any.

    The mean of it is the balanced accuracy.
    """
    counts = confusion(found, truth, classes=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.diag(counts) / counts.sum(1), np.float64)


def attribute_precision(scores: ArrayLike, truth: ArrayLike) -> Double:
    """Average precision of each column: (n, k) scores and truths (0 or 1) -> (k,).

    The mean over the positives of the precision at their rank; equal scores share one rank, as a threshold sees them.
    NaN where a column has no positive.
    """
    s, t = doubles("scores", scores, "n k"), bools("truth", truth, "n k")
    same_length(scores=s, truth=t)
    found = np.full(s.shape[1], np.nan)
    for column in range(s.shape[1]):
        order = np.argsort(-s[:, column], kind="stable")
        ranked, yes = s[order, column], t[order, column]
        if not yes.any():
            continue
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # a threshold takes all equal scores or none
        hits = np.cumsum(yes)[last]
        gained = np.diff(hits, prepend=0)
        found[column] = (gained * hits / (last + 1)).sum() / yes.sum()
    return found


def ccc(found: ArrayLike, truth: ArrayLike) -> float:
    """Concordance correlation coefficient (Lin, 1989) of numbers (n,), with biased moments; 1 is perfect."""
    f, t = doubles("found", found, "n"), doubles("truth", truth, "n")
    same_length(found=f, truth=t)
    spread = f.var() + t.var() + (f.mean() - t.mean()) ** 2
    return float(2 * ((f - f.mean()) * (t - t.mean())).mean() / spread) if spread > 0 else 1.0


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over `bins` equal parts of 0 to 1 (Guo et al., ICML 2017, equation 5).

    Parameters
    ----------
    confidence
        (n,) probability of the answer that was given.
    correct
        (n,) whether it was right; or the share, 0 to 1, of several annotators who gave it.
    bins
        Number of parts.
    """
    p, right = doubles("confidence", confidence, "n"), doubles("correct", np.asarray(correct, float), "n")
    same_length(confidence=p, correct=right)
    number("bins", bins, 1, np.inf)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ValueRangeError("confidences are probabilities", got=(p.min(), p.max()), expected="0 to 1")
    if len(right) and not (right.min() >= 0 and right.max() <= 1):
        raise ValueRangeError("what was right is a share", got=(right.min(), right.max()), expected="0 to 1")
    place = np.minimum((p * bins).astype(np.intp), bins - 1)
    said, so = np.bincount(place, p, bins), np.bincount(place, right, bins)
    return float(np.abs(said - so).sum() / max(1, len(p)))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A temperature, and the mean negative log likelihood in nats before and with it."""

    temperature: float
    before: float
    after: float


def fit_temperature(
    logits: ArrayLike, truth: ArrayLike, *, kind: Literal["softmax", "sigmoid"] = "softmax"
) -> Calibrated:
    """The number to divide logits by so that their probabilities are most likely (Guo et al., ICML 2017, 4.2).

    Parameters
    ----------
    logits
        (n, k).
    truth
        "softmax": (n, k) shares that add up to 1 (a class is a row with one 1); "sigmoid": (n, k) of 0 and 1.
    kind
        What makes probabilities of the logits.

    Raises
    ------
    OptionError
        No such kind.
    ShapeError
        There is no row, or the two differ in shape.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    z, t = doubles("logits", logits, "n k"), doubles("truth", truth, "n k")
    if z.shape != t.shape or not len(z):
        raise ShapeError("logits and truth do not fit", got=(z.shape, t.shape), expected="two equal, with a row")
    if kind not in ("softmax", "sigmoid"):
        raise OptionError.unknown("unknown kind of probability", kind, ("softmax", "sigmoid"))

    def cost(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        if kind == "softmax":
            return float(-(t * log_softmax(scaled, axis=1)).sum(1).mean())
        return float((np.logaddexp(0, scaled) - t * scaled).mean())

    best = minimize_scalar(cost, bounds=(-3.0, 3.0), method="bounded")
    return Calibrated(float(np.exp(best.x)), cost(0.0), float(best.fun))


def mask_counts(found: ArrayLike, truth: ArrayLike, *, classes: int, ignore: int | None = None) -> Ints:
    """(classes, 3) pixels of masks of one size: right, said, and true of each class; those of `ignore` don't count."""
    mine, true = np.asarray(found).ravel(), np.asarray(truth).ravel()
    if mine.shape != true.shape:
        raise ShapeError("the masks differ in size", got=np.shape(found), expected=np.shape(truth))
    if ignore is not None:
        known = true != ignore
        mine, true = mine[known], true[known]
    counts = confusion(mine.astype(np.intp), true.astype(np.intp), classes=classes)
    return np.stack([np.diag(counts), counts.sum(0), counts.sum(1)], 1)


def f1_of_masks(counts: ArrayLike) -> Floats:
    """(classes,) F1 of each class from the sums of `mask_counts`; NaN for a class that neither side has."""
    right, said, true = np.asarray(counts, np.float64).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * right / (said + true), np.float64)
