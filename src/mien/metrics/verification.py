"""One-to-one comparison: are two faces the same person?

Names and definitions of ISO/IEC 19795-1. A comparison is *genuine* (one person) or *impostor* (two people)
and is accepted when ``score >= threshold``.

* FMR, false match rate: accepted impostor comparisons out of all impostor comparisons.
* FNMR, false non-match rate: rejected genuine comparisons out of all genuine comparisons.
* TAR@FAR, as papers have it: 1 - FNMR at a given FMR.

Everything takes scores (n,) where higher means more alike, and ``same`` (n,), true for genuine comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ValueRangeError
from mien.geometry.checks import Bools, Double, Ints, bools, choice, doubles, labels, number, same_length
from mien.metrics.bootstrap import CHUNK, Interval, check_repeats, counts, percentile_interval

USUAL_FMRS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""The false match rates that `calibrate` gives a threshold for, as far as the impostor comparisons reach."""


@dataclass(frozen=True, slots=True)
class Roc:
    """Error rates at every threshold that makes a difference, from "accept nothing" to "accept all".

    Parameters
    ----------
    thresholds : (m,)
        Falling, the first infinite.
    fmr, fnmr : (m,)
        FMR rises from 0 to 1, FNMR falls from 1 to 0.
    """

    thresholds: Double
    fmr: Double
    fnmr: Double

    @property
    def tar(self) -> Double:
        """True accept rate (m,): 1 - FNMR."""
        return 1 - self.fnmr

    def corners(self) -> Roc:
        """Only the points where the curve bends: the same curve, much shorter where one kind is rare."""
        across, down = np.diff(self.fmr), np.diff(self.fnmr)
        # Collinear steps that are not level or upright are rare and may stay.
        straight = ((across[:-1] == 0) & (across[1:] == 0)) | ((down[:-1] == 0) & (down[1:] == 0))
        keep = np.concatenate([[True], ~straight, [True]])
        return Roc(self.thresholds[keep], self.fmr[keep], self.fnmr[keep])

    def det(self) -> tuple[Double, Double]:
        """The curve on the axes of a DET plot (Martin et al. 1997): normal deviates of FMR and of FNMR.

        Points where a rate is 0 or 1 lie at infinity and are left out.
        """
        from scipy.special import ndtri

        inner = (self.fmr > 0) & (self.fmr < 1) & (self.fnmr > 0) & (self.fnmr < 1)
        return ndtri(self.fmr[inner]), ndtri(self.fnmr[inner])


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Errors at one threshold, with the counts behind them."""

    threshold: float
    fmr: float
    fnmr: float
    accuracy: float
    false_matches: int
    false_non_matches: int
    genuine: int
    impostor: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KFold:
    """Accuracy of each fold at the threshold that is best on the others.

    Parameters
    ----------
    accuracy, standard_error
        Mean over folds, and the standard deviation over folds divided by the root of their number.
    folds, accuracies, thresholds : (k,)
        Name, accuracy and threshold of each fold.
    """

    accuracy: float
    standard_error: float
    folds: tuple[str, ...]
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KFoldRates:
    """Rates of each fold at the threshold that makes a false match rate on the others: VAL@FAR of FaceNet.

    Parameters
    ----------
    fmr
        The rate that thresholds are set for.
    tar, standard_error
        Mean over folds of the share of genuine pairs accepted (FaceNet's VAL), and the standard deviation over folds
        divided by the root of their number.
    measured_fmr
        Mean over folds of the false match rate on the fold itself, which is as near to `fmr` as folds are alike.
    folds, tars, fmrs, thresholds : (k,)
        Name, rates and threshold of each fold.
    """

    fmr: float
    tar: float
    standard_error: float
    measured_fmr: float
    folds: tuple[str, ...]
    tars: tuple[float, ...]
    fmrs: tuple[float, ...]
    thresholds: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, and the errors it makes.

    Parameters
    ----------
    fmr
        The false match rate that was asked for; the measured one is at most this.
    threshold, fnmr
        With their intervals.
    measured_fmr, false_matches
        What the threshold does on the set it was made on.
    """

    fmr: float
    threshold: Interval
    fnmr: Interval
    measured_fmr: float
    false_matches: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds for false match rates, and the set they were measured on.

    Parameters
    ----------
    points
        Falling false match rates, so rising thresholds.
    genuine, impostor
        Number of comparisons.
    drawn
        What the intervals redraw: ``"comparisons"`` or ``"people"``.
    """

    points: tuple[OperatingPoint, ...]
    genuine: int
    impostor: int
    drawn: str

    def at(self, fmr: float) -> OperatingPoint:
        """The operating point of a false match rate.

        Raises
        ------
        ValueRangeError
            There is none for this rate; lists those there are.
        """
        for point in self.points:
            if math.isclose(point.fmr, fmr, rel_tol=1e-6):
                return point
        raise ValueRangeError(
            "this calibration has no threshold for that false match rate",
            got=fmr,
            expected=[f"{point.fmr:g}" for point in self.points],
            hint="take one of these, or calibrate with more impostor pairs",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """The calibration that `to_dict` wrote."""
        points = tuple(
            OperatingPoint(**{**p, "threshold": Interval(**p["threshold"]), "fnmr": Interval(**p["fnmr"])})
            for p in data["points"]
        )
        return cls(**{**data, "points": points})


def roc(scores: ArrayLike, same: ArrayLike) -> Roc:
    """The ROC curve of scores (n,), with a point at every distinct score.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Wrong arrays, scores that are not finite, or comparisons of one kind only.
    """
    s, genuine = _comparisons(scores, same)
    order, ends = _order(s)
    accepted = np.cumsum(genuine[order])[ends]
    n = accepted[-1]
    fmr = (ends + 1 - accepted) / (len(s) - n)
    thresholds = np.concatenate([[np.inf], s[order][ends]])
    return Roc(thresholds, np.concatenate([[0], fmr]), np.concatenate([[1], 1 - accepted / n]))


def auc(scores: ArrayLike, same: ArrayLike) -> float:
    """Area under the ROC curve, 0 to 1: how often a genuine score exceeds an impostor's (equal ones by
    half)."""
    s, genuine = _comparisons(scores, same)
    high, low = np.sort(s[genuine]), np.sort(s[~genuine])
    wins = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
    return float(wins / 2 / len(high) / len(low))


def eer(scores: ArrayLike, same: ArrayLike) -> float:
    """Equal error rate, 0 to 1: where FMR and FNMR cross, linear between the points of the ROC curve."""
    curve = roc(scores, same)
    return float(_eer_of(curve.fmr[None], curve.fnmr[None])[0])


def threshold_at_fmr(scores: ArrayLike, same: ArrayLike, fmr: float) -> float:
    """The lowest threshold whose false match rate is at most `fmr`.

    It lies just above the highest impostor score that may not be accepted, so no lower threshold keeps the
    rate, and none has fewer false non-matches. "Just above" is the next number of the scores' own type, so
    that float32 scores can be compared with it as they are.

    Raises
    ------
    ValueRangeError
        `fmr` is not between 0 and 1, or the impostor comparisons are too few to measure it: fewer than
        ``1 / fmr`` could not contain a single false match.
    """
    s, genuine = _comparisons(scores, same)
    impostors = s[~genuine]
    allowed = _allowed(len(impostors), fmr)
    if allowed == len(impostors):
        return float(s.min())
    kth = len(impostors) - 1 - allowed
    given = np.asarray(scores).dtype
    refused = np.partition(impostors, kth)[kth].astype(given if given.kind == "f" else np.float64)
    return float(np.nextafter(refused, np.inf, dtype=refused.dtype))


def fnmr_at_fmr(scores: ArrayLike, same: ArrayLike, fmr: float) -> float:
    """False non-match rate at the threshold for `fmr`; raises as `threshold_at_fmr` does."""
    threshold = threshold_at_fmr(scores, same, fmr)
    s, genuine = _comparisons(scores, same)
    return float((s[genuine] < threshold).mean())


def tar_at_far(scores: ArrayLike, same: ArrayLike, far: float) -> float:
    """True accept rate at a false accept rate, as papers report it: ``1 - fnmr_at_fmr``."""
    return 1 - fnmr_at_fmr(scores, same, far)


def error_rates(scores: ArrayLike, same: ArrayLike, threshold: float) -> ErrorRates:
    """What a threshold that was fixed beforehand does on a set."""
    s, genuine = _comparisons(scores, same)
    accepted = s >= threshold
    n, m = int(genuine.sum()), int((~genuine).sum())
    false_matches, false_non_matches = int((accepted & ~genuine).sum()), int((~accepted & genuine).sum())
    accuracy = 1 - (false_matches + false_non_matches) / len(s)
    rates = false_matches / m, false_non_matches / n, accuracy
    return ErrorRates(float(threshold), *rates, false_matches, false_non_matches, n, m)


def kfold_accuracy(scores: ArrayLike, same: ArrayLike, folds: ArrayLike) -> KFold:
    """Accuracy of each fold at the threshold that is best on the other folds: the protocol of LFW and its
    kin.

    Thresholds are tried half way between neighbouring scores; of equally good ones the middle one is taken.

    Parameters
    ----------
    scores, same : (n,)
    folds : (n,)
        Name or number of each comparison's fold; at least two.
    """
    s, genuine = _comparisons(scores, same)
    names, codes = labels("folds", folds, "n")
    same_length(scores=s, folds=codes)
    if len(names) < 2:
        raise ValueRangeError("one fold leaves no others to set the threshold on", got=names.tolist())
    order, _ = _order(s)
    s, genuine, codes = s[order], genuine[order], codes[order]
    accuracies, thresholds = [], []
    for fold in range(len(names)):
        held = codes == fold
        threshold = _best_threshold(s[~held], genuine[~held])
        thresholds.append(threshold)
        accuracies.append(float(((s[held] >= threshold) == genuine[held]).mean()))
    spread = float(np.std(accuracies, ddof=1) / np.sqrt(len(names)))
    described = tuple(str(name) for name in names.tolist())
    return KFold(float(np.mean(accuracies)), spread, described, tuple(accuracies), tuple(thresholds))


def kfold_tar_at_fmr(scores: ArrayLike, same: ArrayLike, folds: ArrayLike, fmr: float = 1e-3) -> KFoldRates:
    """True accept rate of each fold at the threshold that makes `fmr` on the other folds.

    This is "VAL@FAR" of FaceNet (Schroff, Kalenichenko, Philbin, CVPR 2015, section 4), cross-validated as its
    accuracy on LFW is. Thresholds are the lowest at which the others keep the rate; nothing is interpolated.

    Parameters
    ----------
    scores, same : (n,)
    folds : (n,)
        Name or number of each comparison's fold; at least two, each with both kinds.
    fmr
        False match rate on the other folds.

    Raises
    ------
    ValueRangeError
        One fold only, a fold with one kind only, or too few impostor comparisons in the others for the rate.
    """
    s, genuine = _comparisons(scores, same)
    names, codes = labels("folds", folds, "n")
    same_length(scores=s, folds=codes)
    if len(names) < 2:
        raise ValueRangeError("one fold leaves no others to set the threshold on", got=names.tolist())
    given = np.asarray(scores)
    rates = []
    for fold in range(len(names)):
        held = codes == fold
        threshold = threshold_at_fmr(given[~held], genuine[~held], fmr)
        there = error_rates(s[held], genuine[held], threshold)
        rates.append((1 - there.fnmr, there.fmr, threshold))
    tars, fmrs, thresholds = (tuple(column) for column in zip(*rates, strict=True))
    return KFoldRates(
        fmr=float(fmr),
        tar=float(np.mean(tars)),
        standard_error=float(np.std(tars, ddof=1) / np.sqrt(len(names))),
        measured_fmr=float(np.mean(fmrs)),
        folds=tuple(str(name) for name in names.tolist()),
        tars=tars,
        fmrs=fmrs,
        thresholds=thresholds,
    )


def people_across_folds(people: ArrayLike, folds: ArrayLike) -> list[str]:
    """Who is compared in more than one fold; none, where folds are disjoint, as a k-fold figure supposes.

    Parameters
    ----------
    people : (n, 2)
        Names of the two people of each comparison.
    folds : (n,)
        Name or number of its fold.
    """
    names, who = labels("people", people, "n 2")
    codes = labels("folds", folds, "n")[1]
    same_length(people=who, folds=codes)
    seen = np.unique(np.stack([who.ravel(), np.repeat(codes, 2)], axis=1), axis=0)[:, 0]
    return [str(name) for name in names[np.bincount(seen, minlength=len(names)) > 1].tolist()]


def verification_interval(
    metric: str,
    scores: ArrayLike,
    same: ArrayLike,
    *,
    fmr: float | None = None,
    people: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A verification figure with its bootstrap interval.

    Parameters
    ----------
    metric
        ``"auc"``, ``"eer"``, ``"threshold_at_fmr"``, ``"fnmr_at_fmr"`` or ``"tar_at_far"``.
    scores, same : (n,)
    fmr
        The false match rate, for the last three.
    people : (n, 2), optional
        Who is compared on each row; then people are redrawn, otherwise genuine and impostor comparisons
        apart. Where people are compared many times, rows are not independent and only the former is honest.
    repeats, level, seed
        As in `bootstrap`.

    Raises
    ------
    OptionError
        Unknown metric.
    ValueRangeError
        No `fmr` where one is needed, or too few impostor comparisons for it.
    """
    choice("metric", metric, tuple(_POINTS) + tuple(_AREAS))
    check_repeats(repeats)
    s, genuine = _comparisons(scores, same)
    if metric in _AREAS:
        curve = roc(s, genuine)
        value = float(_AREAS[metric](curve.fmr[None], curve.fnmr[None])[0])
        draws = _redrawn_areas(_AREAS[metric], s, genuine, people, repeats, seed)
        return percentile_interval(value, draws, level=level)
    if fmr is None:
        raise ValueRangeError(f"{metric} needs a false match rate", hint="give fmr, such as fmr=1e-3")
    value = _POINTS[metric](scores, same, fmr)
    ((thresholds, fnmrs),) = _redrawn_points(s, genuine, [fmr], people, repeats, seed)
    draws = {"threshold_at_fmr": thresholds, "fnmr_at_fmr": fnmrs, "tar_at_far": 1 - fnmrs}[metric]
    return percentile_interval(value, draws, level=level)


def calibrate(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    fmrs: Sequence[float] | None = None,
    people: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Calibration:
    """Thresholds for false match rates, with intervals: what a verdict rests on.

    Parameters
    ----------
    scores, same : (n,)
    fmrs
        The false match rates; by default those of `USUAL_FMRS` that the impostor comparisons can measure.
    people, repeats, level, seed
        As in `verification_interval`.

    Raises
    ------
    ValueRangeError
        Too few impostor comparisons for a rate that was asked for, or fewer than 100 when none was.
    """
    check_repeats(repeats)
    s, genuine = _comparisons(scores, same)
    impostor = int((~genuine).sum())
    if fmrs is None:
        fmrs = [f for f in USUAL_FMRS if _accepted(impostor, f) >= 1]
        _allowed(impostor, max(USUAL_FMRS))
    points = []
    fmrs = sorted(fmrs, reverse=True)
    redrawn = _redrawn_points(s, genuine, fmrs, people, repeats, seed)
    for fmr, (thresholds, fnmrs) in zip(fmrs, redrawn, strict=True):
        threshold = threshold_at_fmr(scores, same, fmr)
        rates = error_rates(s, genuine, threshold)
        points.append(
            OperatingPoint(
                fmr=float(fmr),
                threshold=percentile_interval(threshold, thresholds, level=level),
                fnmr=percentile_interval(rates.fnmr, fnmrs, level=level),
                measured_fmr=rates.fmr,
                false_matches=rates.false_matches,
            )
        )
    drawn = "comparisons" if people is None else "people"
    return Calibration(tuple(points), int(genuine.sum()), impostor, drawn)


def _comparisons(scores: ArrayLike, same: ArrayLike) -> tuple[Double, Bools]:
    s, genuine = doubles("scores", scores, "n"), bools("same", same, "n")
    same_length(scores=s, same=genuine)
    if not genuine.any() or genuine.all():
        raise ValueRangeError(
            "comparisons of one kind only",
            got=f"{int(genuine.sum())} genuine and {int((~genuine).sum())} impostor comparisons",
            expected="some of each",
        )
    return s, genuine


def _order(scores: Double) -> tuple[Ints, Ints]:
    """Indices by falling score, and the last place in that order of each distinct score."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)


def _accepted(impostor: int, fmr: float) -> int:
    # 1e-3 of 3,000 must be 3 although 1e-3 is not a binary fraction.
    return math.floor(impostor * fmr * (1 + 1e-12))


def _allowed(impostor: int, fmr: float) -> int:
    """How many impostor comparisons may be accepted; raises where not even one could be seen."""
    fmr = number("fmr", fmr, 0, 1, open_low=True)
    allowed = _accepted(impostor, fmr)
    if allowed < 1:
        raise ValueRangeError(
            f"too few impostor comparisons to measure a false match rate of {fmr:g}",
            got=f"{impostor:,}",
            # Doddington's rule of 30: so many errors put the true rate within 30 % with 90 % confidence.
            expected=f"at least {_needed(1, fmr):,}, better {_needed(30, fmr):,} for a rate within 30 %",
            hint=f"compare more pairs of different people, or ask for a rate of at least 1/{impostor}",
        )
    return allowed


def _needed(errors: int, fmr: float) -> int:
    """Impostor comparisons in which `errors` false matches are expected."""
    return math.ceil(errors / fmr * (1 - 1e-12))


def _best_threshold(scores: Double, genuine: Bools) -> float:
    """The threshold of the best accuracy, scores falling."""
    last = np.append(scores[1:] != scores[:-1], True)
    gained = np.cumsum(np.where(genuine, 1, -1))[last]
    ranked = scores[last]
    middle = (ranked[:-1] + ranked[1:]) / 2
    # Half way between neighbouring numbers rounds to one of them, and must not accept the lower.
    middle = np.where(middle > ranked[1:], middle, ranked[:-1])
    between = np.concatenate([[np.inf], middle, [-np.inf]])
    right = np.concatenate([[0], gained])
    best = np.flatnonzero(right == right.max())
    return float(between[best[len(best) // 2]])


def _auc_of(fmr: Double, fnmr: Double) -> Double:
    """Areas (r,) under curves (r, m)."""
    return np.asarray((np.diff(fmr) * (2 - fnmr[:, 1:] - fnmr[:, :-1])).sum(1) / 2)


def _eer_of(fmr: Double, fnmr: Double) -> Double:
    """Equal error rates (r,) of curves (r, m)."""
    rows = np.arange(len(fmr))
    after = np.argmax(fmr >= fnmr, axis=1)
    before = after - 1
    gap_before = fnmr[rows, before] - fmr[rows, before]
    gap_after = fmr[rows, after] - fnmr[rows, after]
    part = gap_before / (gap_before + gap_after)
    return np.asarray(fmr[rows, before] + part * (fmr[rows, after] - fmr[rows, before]))


_AREAS: dict[str, Callable[[Double, Double], Double]] = {"auc": _auc_of, "eer": _eer_of}
_POINTS: dict[str, Callable[[ArrayLike, ArrayLike, float], float]] = {
    "threshold_at_fmr": threshold_at_fmr,
    "fnmr_at_fmr": fnmr_at_fmr,
    "tar_at_far": tar_at_far,
}


def _redrawn_areas(
    figure: Callable[[Double, Double], Double],
    scores: Double,
    genuine: Bools,
    people: ArrayLike | None,
    repeats: int,
    seed: int,
) -> Double:
    """The figure (repeats,) of redrawn curves."""
    draws = []
    if people is None:
        # Scores between two bends of the curve can change places without changing it, so only how many of
        # them are drawn matters: one multinomial over the straight pieces instead of a million single
        # draws.
        bends = roc(scores, genuine).corners()
        n, m = int(genuine.sum()), int((~genuine).sum())
        in_piece = np.rint(-np.diff(bends.fnmr) * n) / n, np.rint(np.diff(bends.fmr) * m) / m
        rng = np.random.default_rng(seed)
        step = max(1, CHUNK // len(bends.fmr))
        for start in range(0, repeats, step):
            r = min(step, repeats - start)
            found, confused = (rng.multinomial(k, p, r) / k for k, p in zip((n, m), in_piece, strict=True))
            draws.append(figure(_cumulated(confused), 1 - _cumulated(found)))
        return np.concatenate(draws)
    for fmr, fnmr, _ in _redrawn_curves(scores, genuine, people, repeats, seed):
        draws.append(figure(fmr, fnmr))
    return np.concatenate(draws)


def _redrawn_points(
    scores: Double, genuine: Bools, fmrs: Sequence[float], people: ArrayLike | None, repeats: int, seed: int
) -> list[tuple[Double, Double]]:
    """For each of `fmrs` the threshold and the FNMR there (repeats,), on redrawn sets."""
    allowed = [_allowed(int((~genuine).sum()), fmr) for fmr in fmrs]
    if people is not None:
        return _redrawn_points_of_people(scores, genuine, fmrs, people, repeats, seed)
    # The k-th best of n draws with replacement is the score at place n * U of the list, U being the
    # k-th of n uniform numbers, a Beta variable; and how many genuine scores then fall below it is
    # binomial. So redrawing costs two random numbers, whatever the size of the set, and is exact.
    impostors, mated = np.sort(scores[~genuine])[::-1], np.sort(scores[genuine])
    points = []
    for most in allowed:
        rng = np.random.default_rng(seed)
        if most == len(impostors):
            thresholds = np.full(repeats, scores.min())
        else:
            place = rng.beta(most + 1, len(impostors) - most, repeats) * len(impostors)
            thresholds = np.nextafter(impostors[place.astype(np.intp).clip(max=len(impostors) - 1)], np.inf)
        below = np.searchsorted(mated, thresholds, "left") / len(mated)
        points.append((thresholds, rng.binomial(len(mated), below) / len(mated)))
    return points


def _redrawn_points_of_people(
    scores: Double, genuine: Bools, fmrs: Sequence[float], people: ArrayLike, repeats: int, seed: int
) -> list[tuple[Double, Double]]:
    """As `_redrawn_points`, people redrawn; NaN where no comparison of the kind that is needed was drawn."""
    order, _ = _order(scores)
    falling, rising = order[~genuine[order]], order[genuine[order]][::-1]
    # Every picture against every other makes millions of impostor scores, of which only the best can be a
    # threshold: a redrawn quantile moves by a few times its own rank, and where it moves further, all are ranked.
    tail = min(len(falling), 8 * _allowed(len(falling), max(fmrs)) + 200)
    refused = np.append(np.nextafter(scores[falling], np.inf), scores.min())
    blocks: list[list[tuple[Double, Double]]] = [[] for _ in fmrs]
    for drawn in counts(len(scores), people=people, repeats=repeats, seed=seed):
        mated = _started(np.cumsum(drawn[:, rising], axis=1))
        impostors = drawn.sum(1) - mated[:, -1]
        ranked = np.cumsum(drawn[:, falling[:tail]], axis=1)
        for block, fmr in zip(blocks, fmrs, strict=True):
            most = impostors * fmr * (1 + 1e-12)
            taken = (ranked <= most[:, None]).sum(1)
            for row in np.flatnonzero(taken == tail) if tail < len(falling) else ():
                taken[row] = (np.cumsum(drawn[row, falling]) <= most[row]).sum()
            thresholds = np.where(impostors > 0, refused[taken], np.nan)
            below = np.searchsorted(scores[rising], refused[taken], "left")
            with np.errstate(invalid="ignore"):
                fnmrs = mated[np.arange(len(drawn)), below] / mated[:, -1]
            block.append((thresholds, np.where(impostors > 0, fnmrs, np.nan)))
    return [(np.concatenate([t for t, _ in block]), np.concatenate([f for _, f in block])) for block in blocks]


def _redrawn_curves(scores: Double, genuine: Bools, people: ArrayLike, repeats: int, seed: int) -> Any:
    """Blocks of FMR (r, m), FNMR (r, m), and the scores (m - 1,) of the points after the first, people
    redrawn.

    Curves of sets in which no comparison of one kind was drawn are NaN.
    """
    order, ends = _order(scores)
    ranked, mated = scores[order][ends], genuine[order]
    for drawn in counts(len(scores), people=people, repeats=repeats, seed=seed):
        drawn = drawn[:, order]
        rates = []
        for kind in (~mated, mated):
            taken = np.cumsum(drawn * kind, axis=1)[:, ends]
            with np.errstate(invalid="ignore"):
                rates.append(_started(taken / taken[:, -1:]))
        yield rates[0], 1 - rates[1], ranked


def _cumulated(parts: NDArray[Any]) -> Double:
    """Parts (r, m) summed up from 0: (r, m + 1), ending at exactly 1."""
    total = _started(np.cumsum(parts, axis=1))
    return np.asarray(total / total[:, -1:])


def _started(rates: NDArray[Any]) -> Double:
    return np.concatenate([np.zeros((len(rates), 1)), rates], axis=1)
