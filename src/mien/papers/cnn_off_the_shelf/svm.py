"""From features to decisions: unit length, signed power, linear support vector machines, average precision.

    x = transformed(features)                     L2; with power=2 also the signed square, and L2 again
    fit = fit_attributes(x, labels)               one against all: labels that do not exclude each other
    fit = fit_classes(x, labels)                  one against one, with voting: one class a picture
    fit.classifier.scores(x_new)                  responses summed over the representations of a picture

Features are (n, r, d): r representations of each of n pictures, which in training are r samples with the picture's
label, and which no cross-validation takes apart. The solvers are scikit-learn's (extra ``evaluate``): LIBSVM on a
precomputed linear kernel, or LIBLINEAR.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import MissingExtra, OptionError, ShapeError, ValueRangeError
from mien.geometry.checks import bools, doubles

Floats = NDArray[np.float32]
Double = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

Solver = Literal["libsvm", "liblinear", "primal"]
"""Hinge loss, LIBSVM on a precomputed kernel; hinge loss, LIBLINEAR's dual; squared hinge loss, LIBLINEAR's primal."""

Rule = Literal["one-against-all", "one-against-one"]

POWER = 2.0
"""The paper's exponent: sharper, the opposite of the usual square root."""

CS = (0.02, 0.2, 2.0, 20.0)
"""Candidates for C; the paper's cross-validations chose 0.2 (VOC, H3D, UIUC) and 2 (MIT-67, birds, flowers)."""

FOLDS = 5
KERNEL_MOST = 6000
"""Samples up to which a kernel matrix is held: 0.3 GB."""

log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------- features


def unit(x: ArrayLike) -> Floats:
    """Rows (…, d) brought to length one; a row of zeros stays."""
    rows = np.asarray(x, np.float32)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def signed_power(x: ArrayLike, power: float = POWER) -> Floats:
    """``sign(x) |x|^power`` of every component."""
    values = np.asarray(x, np.float32)
    return np.asarray(np.sign(values) * np.abs(values) ** np.float32(power), np.float32)


def transformed(x: ArrayLike, *, power: float = 1.0, again: bool = True) -> Floats:
    """Features (…, d) as the machine sees them: unit length; with a `power` other than 1 that, and unit length again.

    Without `again` squares of a unit vector of 4096 components are some 1e-4, and C must grow by as much.
    """
    rows = unit(x)
    if power == 1.0:
        return rows
    rows = signed_power(rows, power)
    return unit(rows) if again else rows


# ------------------------------------------------------------------------------------------- the machine


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Linear responses and what follows from them.

    Parameters
    ----------
    weights : (k, d) float32
        One row an attribute; or one a pair of classes, in the order (0, 1), (0, 2) … (1, 2) …
    bias : (k,) float32
    names
        Of the attributes or classes.
    rule
        "one-against-all" or "one-against-one".
    """

    weights: Floats
    bias: Floats
    names: tuple[str, ...]
    rule: Rule

    def __post_init__(self) -> None:
        classes = len(self.names)
        rows = classes if self.rule == "one-against-all" else classes * (classes - 1) // 2
        if self.weights.shape[:1] != (rows,) or self.weights.ndim != 2 or self.bias.shape != (rows,):
            raise ShapeError(
                "the numbers of a classifier do not fit its names", got=(self.weights.shape, self.bias.shape),
                expected=f"({rows}, d) and ({rows},) for {classes} names, {self.rule}",
            )  # fmt: skip

    def responses(self, x: ArrayLike) -> Floats:
        """Signed responses (n, k) of features (n, d), or of (n, r, d) summed over the r representations."""
        rows = np.asarray(x, np.float32)
        if rows.ndim not in (2, 3) or rows.shape[-1] != self.weights.shape[1]:
            raise ShapeError(
                "features do not fit the classifier", got=rows.shape, expected=f"(n, [r,] {self.weights.shape[1]})"
            )
        if rows.ndim == 2:
            return np.asarray(rows @ self.weights.T + self.bias, np.float32)
        # The sum of linear responses is the response to the sum.
        return np.asarray(rows.sum(1) @ self.weights.T + rows.shape[1] * self.bias, np.float32)

    def scores(self, x: ArrayLike) -> Floats:
        """A score (n, names) for each name: the response; one against one, votes plus a tie-break below one vote."""
        found = self.responses(x)
        return found if self.rule == "one-against-all" else votes(found, len(self.names))

    def predict(self, x: ArrayLike) -> Ints:
        """The number (n,) of the best name."""
        return np.asarray(self.scores(x).argmax(1), np.int64)


def votes(responses: Floats, classes: int) -> Floats:
    """Votes (n, classes) from pairwise responses (n, pairs); positive is for the first of a pair.

    To each class's votes a share below 1/2 is added, which grows with the sum of its responses, so that ties go to the
    surer class.
    """
    found = np.zeros((len(responses), classes), np.float32)
    sums = np.zeros_like(found)
    for column, (first, second) in enumerate(combinations(range(classes), 2)):
        response = responses[:, column]
        found[:, first] += response > 0
        found[:, second] += response <= 0
        sums[:, first] += response
        sums[:, second] -= response
    return np.asarray(found + sums / (3 * (np.abs(sums) + 1)), np.float32)


@dataclass(frozen=True, eq=False)
class Fit:
    """A trained machine and how its C was found.

    Parameters
    ----------
    classifier
        Trained on everything.
    c
        The chosen C.
    tried
        The cross-validated figure of each candidate: mean average precision, or mean class accuracy. Empty where there
        was only one.
    """

    classifier: LinearClassifier
    c: float
    tried: dict[float, float]


def fit_attributes(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    known: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
    solver: Solver | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Fit:
    """One against all: a machine for each label, for labels that do not exclude each other; one C for all.

    Parameters
    ----------
    x : (n, d) or (n, r, d)
        Features, as `transformed` gives them.
    labels : (n, a)
        Boolean.
    names
        Of the labels. Default: their numbers.
    known : (n, a)
        Where False, that label of that picture is not known and has no say. Default: all are.
    groups : (n,)
        Pictures of one group, a person say, fall into one fold. Default: each picture is its own.
    cs
        Candidates for C; a single one is taken as it is.
    folds
        Of the cross-validation.
    solver
        Default: LIBSVM (hinge) for one representation where there are more dimensions than samples, LIBLINEAR (hinge)
        for one otherwise, and LIBLINEAR's primal (squared hinge) for several.
    bias
        Whether there is a constant. The paper's formula has none; its solvers had.
    seed
        Of the folds.

    Raises
    ------
    ValueRangeError
        A label is the same for all pictures for which it is known.
    MissingExtra
        scikit-learn is not installed.
    """
    rows = _features(x)
    truth = bools("labels", labels, "n a")
    there = np.ones_like(truth) if known is None else bools("known", known, "n a")
    called = _names(names, truth.shape[1])
    if truth.shape[0] != len(rows) or there.shape != truth.shape:
        raise ShapeError(
            "labels and features differ in rows", got=(truth.shape, there.shape), expected=f"({len(rows)}, a)"
        )
    for column, name in enumerate(called):
        some = truth[there[:, column], column]
        if not len(some) or some.all() or not some.any():
            raise ValueRangeError(
                f"the label {name} is the same for all pictures", got=f"{int(some.sum())} of {len(some)} are true",
                hint="leave it out, or add pictures of the other kind",
            )  # fmt: skip
    solve = _solver(solver, rows)

    kernel = _kernel(rows) if solve == "libsvm" else None

    def train(part: Ints, c: float) -> LinearClassifier:
        weights, biases = [], []
        for column in range(len(called)):
            mine = part[there[part, column]]
            w, b = _binary(rows, mine, truth[mine, column], c, solve, bias, seed, kernel)
            weights.append(w)
            biases.append(b)
        return LinearClassifier(np.stack(weights), np.asarray(biases, np.float32), called, "one-against-all")

    def judge(classifier: LinearClassifier, part: Ints) -> float:
        found = classifier.scores(rows[part])
        figures = [
            average_precision(found[there[part, column], column], truth[part, column][there[part, column]])
            for column in range(len(called))
            if truth[part, column][there[part, column]].any()
        ]
        return float(np.mean(figures)) if figures else np.nan

    return _chosen(train, judge, len(rows), groups, cs, folds, seed)


def fit_classes(
    x: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    groups: ArrayLike | None = None,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
    solver: Solver | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Fit:
    """One against one: a machine for each pair of classes, and voting, for classes that exclude each other.

    Parameters
    ----------
    x : (n, d) or (n, r, d)
        Features, as `transformed` gives them.
    labels : (n,)
        The class of each picture: a number from 0 on, less than the number of `names` where these are given.
    names
        Of the classes. Default: their numbers.
    groups, cs, folds, solver, bias, seed
        As in `fit_attributes`.

    Raises
    ------
    ValueRangeError
        A class has no picture, or there are fewer than two classes.
    MissingExtra
        scikit-learn is not installed.
    """
    rows = _features(x)
    codes = np.asarray(labels, np.int64)
    if codes.shape != (len(rows),):
        raise ShapeError("labels and features differ in rows", got=codes.shape, expected=(len(rows),))
    count = int(codes.max(initial=-1)) + 1 if names is None else len(names)
    called = _names(names, count)
    sizes = np.bincount(codes, minlength=count) if codes.min(initial=0) >= 0 else np.zeros(count + 1, np.int64)
    if count < 2 or len(sizes) > count or sizes.min() < 1:
        raise ValueRangeError("every class needs pictures, and there must be two", got=sizes.tolist(), expected=called)
    solve = _solver(solver, rows)

    kernel = _kernel(rows) if solve == "libsvm" else None

    def train(part: Ints, c: float) -> LinearClassifier:
        weights, biases = [], []
        for first, second in combinations(range(count), 2):
            mine = part[(codes[part] == first) | (codes[part] == second)]
            w, b = _binary(rows, mine, codes[mine] == first, c, solve, bias, seed, kernel)
            weights.append(w)
            biases.append(b)
        return LinearClassifier(np.stack(weights), np.asarray(biases, np.float32), called, "one-against-one")

    def judge(classifier: LinearClassifier, part: Ints) -> float:
        return mean_class_accuracy(classifier.predict(rows[part]), codes[part])

    return _chosen(train, judge, len(rows), groups, cs, folds, seed)


def _chosen(
    train: Callable[[Ints, float], LinearClassifier],
    judge: Callable[[LinearClassifier, Ints], float],
    count: int,
    groups: ArrayLike | None,
    cs: Sequence[float],
    folds: int,
    seed: int,
) -> Fit:
    """The C with the best mean over the folds (the smallest of equal ones), and the machine trained with it on all."""
    candidates = sorted({float(c) for c in cs})
    if not candidates or candidates[0] <= 0:
        raise OptionError("C is a number above 0", got=list(cs), expected="such as 0.2, 2")
    everything = np.arange(count)
    if len(candidates) == 1:
        return Fit(train(everything, candidates[0]), candidates[0], {})
    parts = fold_rows(count, folds, groups=groups, seed=seed)
    tried: dict[float, float] = {}
    for c in candidates:
        figures = [judge(train(np.setdiff1d(everything, held), c), held) for held in parts]
        there = [value for value in figures if np.isfinite(value)]
        tried[c] = float(np.mean(there)) if there else 0.0
    best = max(tried, key=lambda c: (tried[c], -c))
    if best == candidates[-1] and tried[best] > tried[candidates[-2]]:
        log.info("C = %g is the largest candidate and the best; larger ones may be better", best)
    return Fit(train(everything, best), best, tried)


def fold_rows(count: int, folds: int = FOLDS, *, groups: ArrayLike | None = None, seed: int = 0) -> list[Ints]:
    """Rows of each fold: scikit-learn's GroupKFold, the groups in an order of the seed.

    Raises
    ------
    OptionError
        Fewer groups than folds, or fewer than two folds.
    """
    GroupKFold = _sklearn("model_selection").GroupKFold
    codes = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(codes) != count:
        raise ShapeError("groups and pictures differ in rows", got=len(codes), expected=count)
    many = int(codes.max(initial=-1)) + 1
    if not 2 <= folds <= many:
        raise OptionError(
            "there are too few pictures, or groups of them, for the folds", got=folds, expected=f"2 to {many}"
        )
    shuffled = np.random.default_rng(seed).permutation(many)[codes]
    return [held for _, held in GroupKFold(folds).split(np.zeros((count, 1)), groups=shuffled)]


# ------------------------------------------------------------------------------------------- solvers


def _binary(
    rows: Floats, part: Ints, positive: Flags, c: float, solver: Solver, bias: bool, seed: int, kernel: Double | None
) -> tuple[Floats, float]:
    """Weights (d,) and bias of ``min 1/2 |w|^2 + C sum max(0, 1 - y (w x + b))`` over all representations of `part`.

    Zeros where `part` has one kind only, as a fold of a rare label may: nothing can be learnt there.
    """
    if len(np.unique(positive)) < 2:
        return np.zeros(rows.shape[2], np.float32), 0.0
    each = rows.shape[1]
    samples, y = rows[part].reshape(-1, rows.shape[2]), np.repeat(positive, each)
    if solver == "libsvm":
        if not bias or kernel is None:
            raise OptionError("LIBSVM always has a bias", got="bias=False", expected="liblinear or primal")
        index = (part[:, None] * each + np.arange(each)).ravel()
        machine = _sklearn("svm").SVC(kernel="precomputed", C=c, cache_size=64, tol=1e-3)
        machine.fit(kernel[np.ix_(index, index)], y)
        # sklearn's classes are sorted: False, True. Positive responses are for True.
        w = machine.dual_coef_[0] @ samples[machine.support_].astype(np.float64)
        return np.asarray(w, np.float32), float(machine.intercept_[0])
    hinge = solver == "liblinear"
    machine = _sklearn("svm").LinearSVC(
        C=c, loss="hinge" if hinge else "squared_hinge", dual=hinge, fit_intercept=bias, tol=1e-3, max_iter=3000,
        random_state=seed,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        machine.fit(samples, y)
    for one in said:
        log.debug("LIBLINEAR, C = %g: %s", c, one.message)
    return np.asarray(machine.coef_[0], np.float32), float(np.ravel(machine.intercept_)[0]) if bias else 0.0


def _kernel(rows: Floats) -> Double:
    """Products (n r, n r) of all samples."""
    samples = rows.reshape(-1, rows.shape[2]).astype(np.float64)
    return np.asarray(samples @ samples.T, np.float64)


def _solver(asked: Solver | None, rows: Floats) -> Solver:
    if asked is not None:
        if asked not in get_args(Solver):
            raise OptionError.unknown("unknown solver", asked, get_args(Solver))
        return asked
    samples = rows.shape[0] * rows.shape[1]
    if rows.shape[1] > 1:
        return "primal"
    return "libsvm" if rows.shape[2] >= samples and samples <= KERNEL_MOST else "liblinear"


def _features(x: ArrayLike) -> Floats:
    rows = np.asarray(x, np.float32)
    if rows.ndim == 2:
        rows = rows[:, None]
    if rows.ndim != 3:
        raise ShapeError("features are rows", got=rows.shape, expected="(n, d), or (n, r, d) for r representations")
    if not np.isfinite(rows).all():
        raise ValueRangeError("a feature is not finite", got=f"{int((~np.isfinite(rows)).sum())} values")
    return rows


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    called = tuple(str(i) for i in range(count)) if names is None else tuple(names)
    if len(called) != count or len(set(called)) != count:
        raise OptionError("there must be one name for each label", got=called, expected=f"{count} different names")
    return called


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtra("scikit-learn", extra="evaluate") from error


# ------------------------------------------------------------------------------------------- figures


def average_precision(scores: ArrayLike, truth: ArrayLike, *, points: int | None = None) -> float:
    """Area under precision over recall, equal scores counted together; NaN where nothing is true.

    Parameters
    ----------
    scores : (n,)
        Higher is surer.
    truth : (n,)
        Boolean.
    points
        Mean of the best precision at or beyond so many evenly spaced recalls: 11 for PASCAL VOC 2007. Default: the sum
        of precisions weighted by steps of recall.
    """
    found, true = doubles("scores", scores, "n"), bools("truth", truth, "n")
    if len(found) != len(true):
        raise ShapeError("scores and truth differ in rows", got=(len(found), len(true)))
    if not true.any():
        return float("nan")
    order = np.argsort(-found, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(found[order]) != 0, True))
    hits = np.cumsum(true[order])[ends]
    precision, recall = hits / (ends + 1), hits / true.sum()
    if points is None:
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, points) - 1e-12)
    return float(np.mean(np.append(best, 0.0)[at]))


def mean_class_accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Mean of the confusion matrix's diagonal: the share that is right of each class, averaged over classes."""
    guess, true = np.asarray(predicted), np.asarray(truth)
    classes, codes = np.unique(true, return_inverse=True)
    if not len(classes):
        return float("nan")
    right = np.bincount(codes.reshape(-1), guess == true, minlength=len(classes))
    return float(np.mean(right / np.bincount(codes.reshape(-1), minlength=len(classes))))
