"""Are probabilities true? From a similarity to a probability, and how far to trust it.

A similarity becomes a probability by a logistic curve in two numbers (Platt, 1999), fitted with both kinds of pairs
weighing the same, so that 0.5 is where a pair speaks for neither, whatever the share of genuine pairs in the set.
`Reliability` then compares what was said with what was so, and `cllr` is the cost of the likelihood ratios in bits
(Brümmer and du Preez, 2006): 0 for perfect ones, 1 for those that say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ValueRangeError
from mien.geometry.checks import Bools, Double, Ints, bools, doubles, labels, number, same_length

SHRINK = 1e-4
"""Of the slope's square, added to the loss: where scores part the two kinds entirely the slope would have no end."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was said, and what was so, in bins of what was said.

    Parameters
    ----------
    said, so : (m,)
        Mean probability of the bin, and share of genuine pairs in it, both kinds weighing the same. Empty bins are
        left out.
    count : (m,)
        Pairs in it.
    error
        Mean distance of the two over pairs (expected calibration error), 0 to 1.
    cllr
        Cost of the log likelihood ratio, bits.
    """

    said: Double
    so: Double
    count: Ints
    error: float
    cllr: float


def reliability(probabilities: ArrayLike, same: ArrayLike, *, bins: int = 10) -> Reliability:
    """Compares probabilities (n,) that were given with what was so, `same` (n,); both kinds weigh the same."""
    p, genuine = _given(probabilities, same)
    number("bins", bins, 1, np.inf)
    weight = _even(genuine)
    place = np.minimum((p * bins).astype(np.intp), bins - 1)
    mass = np.bincount(place, weight, bins)
    filled = mass > 0
    said = np.bincount(place, weight * p, bins)[filled] / mass[filled]
    so = np.bincount(place, weight * genuine, bins)[filled] / mass[filled]
    error = float((np.abs(said - so) * mass[filled]).sum() / mass.sum())
    return Reliability(said, so, np.bincount(place, minlength=bins)[filled], error, cllr(p, genuine))


def cllr(probabilities: ArrayLike, same: ArrayLike) -> float:
    """Cost of the log likelihood ratio in bits, of probabilities at even odds; infinite for a certain error."""
    p, genuine = _given(probabilities, same)
    with np.errstate(divide="ignore"):
        missed, confused = -np.log2(p[genuine]).mean(), -np.log2(1 - p[~genuine]).mean()
    return float((missed + confused) / 2)


def kfold_probabilities(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> Double:
    """Probability (n,) of "same person" at even odds, for each fold by the curve that was fitted on the others."""
    s, genuine = doubles("scores", scores, "n"), bools("same", same, "n")
    names, codes = labels("folds", folds, "n")
    same_length(scores=s, same=genuine, folds=codes)
    if len(names) < 2:
        raise ValueRangeError("one fold leaves no others to fit the curve on", got=names.tolist())
    out = np.empty(len(s))
    for fold in range(len(names)):
        held = codes == fold
        slope, start = logistic(s[~held], genuine[~held])
        out[held] = _sigmoid(slope * s[held] + start)
    return out


def logistic(scores: ArrayLike, same: ArrayLike) -> tuple[float, float]:
    """Slope and start of the log odds ``slope * score + start`` at even odds, by Newton's method."""
    s, genuine = doubles("scores", scores, "n"), bools("same", same, "n")
    same_length(scores=s, same=genuine)
    if not genuine.any() or genuine.all():
        raise ValueRangeError("pairs of one kind only", got=f"{int(genuine.sum())} genuine of {len(genuine)}")
    weight = _even(genuine)
    middle, spread = float(s.mean()), float(s.std()) or 1.0
    x = np.stack([(s - middle) / spread, np.ones_like(s)], axis=1)
    shrink = np.diag([SHRINK, 0.0])
    at = np.zeros(2)
    for _ in range(100):
        p = _sigmoid(x @ at)
        slope = x.T @ (weight * (p - genuine)) + shrink @ at
        bend = (x * (weight * p * (1 - p))[:, None]).T @ x + shrink + 1e-12 * np.eye(2)
        step = np.linalg.solve(bend, slope)
        # Half of a step that is too long is still downhill; the loss is convex.
        step *= min(1.0, 4 / max(float(np.abs(step).max()), 1e-300))
        at -= step
        if np.abs(step).max() < 1e-10:
            break
    return float(at[0] / spread), float(at[1] - at[0] * middle / spread)


def _given(probabilities: ArrayLike, same: ArrayLike) -> tuple[Double, Bools]:
    p, genuine = doubles("probabilities", probabilities, "n"), bools("same", same, "n")
    same_length(probabilities=p, same=genuine)
    if not genuine.any() or genuine.all():
        raise ValueRangeError("pairs of one kind only", got=f"{int(genuine.sum())} genuine of {len(genuine)}")
    if p.min() < 0 or p.max() > 1:
        raise ValueRangeError("a probability is out of range", got=(float(p.min()), float(p.max())), expected="0 to 1")
    return p, genuine


def _even(genuine: Bools) -> Double:
    """Weights (n,) that add up to 1, one half for either kind."""
    return np.asarray(np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum()), np.float64)


def _sigmoid(x: Double) -> Double:
    from scipy.special import expit

    return np.asarray(expit(x), np.float64)
