"""The closed forms: which picture gets which name for free, with which weight, and how the pace is loosened.

Decisions are those of `mien.papers.aspl.svm`, with a margin of 1; the hinge loss of "picture i shows person j" is
``max(0, 1 - f_ij)``. A picture whose loss is below person j's pace has j as a candidate. It gets a name iff it has
exactly one candidate: two would mean that one of the classifiers is wrong, none that nobody is sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mien.errors import OptionError, ShapeError, ValueRangeError

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

Weighting = Literal["soft", "hard"]
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def regulariser(v: Floats, pace: Floats | float) -> Floats:
    """f(v, pace) = pace * (v^2 / 2 - v): what makes a weight v in 0 to 1 worth its loss ("linear soft")."""
    return np.asarray(pace * (np.square(v) / 2 - v))


def self_paced_weights(
    loss: Floats, pace: Floats | float, *, cost: float = 1.0, weighting: Weighting = "soft"
) -> Floats:
    """v in 0 to 1 that minimises ``cost * v * loss + regulariser(v, pace)``: max(0, 1 - cost * loss / pace).

    "hard" is 1 wherever "soft" is above 0: what the published code's arithmetic comes to.
    """
    if weighting not in WEIGHTINGS:
        raise OptionError.unknown("unknown weighting", weighting, WEIGHTINGS)
    if not np.all(np.asarray(pace) > 0):
        raise ValueRangeError("a pace must be above 0", got=pace)
    soft = np.clip(1 - cost * loss / pace, 0, 1)
    return np.asarray(soft if weighting == "soft" else (soft > 0).astype(soft.dtype))


@dataclass(frozen=True, eq=False)
class Selection:
    """What the self-paced step makes of n pictures and k persons.

    Parameters
    ----------
    person
        (n,) the name that each gets for free; -1: none.
    weight
        (n,) v of that, 0 where there is no name.
    unclear
        (n,) bool: no candidate, so worth a question.
    ambiguous
        (n,) bool: two candidates or more.
    best, top, second
        (n,) the person with the highest decision (-1 where nobody has a classifier), that decision, and the next.
    entropy
        (n,) of the softmax of the decisions, nats; 0 unless it was asked for.
    confident, contested
        (k,) for how many pictures each is a candidate, and for how many of these somebody else is too.
    """

    person: Ints
    weight: NDArray[np.float64]
    unclear: Mask
    ambiguous: Mask
    best: Ints
    top: NDArray[np.float64]
    second: NDArray[np.float64]
    entropy: NDArray[np.float64]
    confident: Ints
    contested: Ints

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(k,) acc of each person: the share of its candidates that nobody else claims; 1 where it has none."""
        return np.asarray(1 - self.contested / np.maximum(self.confident, 1))


def select(
    decisions: Floats,
    pace: Floats,
    *,
    eligible: Mask | None = None,
    denied: tuple[Ints, Ints] | None = None,
    weighting: Weighting = "soft",
    floor: float = 0.0,
    entropy: bool = False,
) -> Selection:
    """Names and weights for pictures by the exactly-one rule.

    Parameters
    ----------
    decisions
        (n, k); -inf where a person has no classifier.
    pace
        (k,) lambda of each person, above 0.
    eligible
        (n,) what may get a name; the others have neither candidates nor are they unclear. They are the part of the
        curriculum that is fixed: human labels (v = 1) and what a human rejected (v = 0).
    denied
        Pictures and persons, (m,) each, of which a human said "not this one": v is 0 for the pair.
    weighting
        "soft" or "hard", see `self_paced_weights`.
    floor
        Least weight of a picture that gets a name.
    entropy
        Whether the entropy is computed too: only that rule of asking wants it.

    Raises
    ------
    ShapeError, ValueRangeError, OptionError
        Arrays that do not fit each other; a pace or a floor out of range; no such weighting.
    """
    n, k = decisions.shape
    if pace.shape != (k,) or (eligible is not None and eligible.shape != (n,)):
        raise ShapeError("decisions and paces do not fit", got=(decisions.shape, pace.shape), expected="(n, k), (k,)")
    if not 0 <= floor <= 1:
        raise ValueRangeError("the least weight is out of range", got=floor, expected="0 to 1")
    if not k:
        nothing, zeros = np.full(n, -1), np.zeros(n)
        none = np.zeros(0, np.int64)
        free = np.ones(n, np.bool_) if eligible is None else eligible.copy()
        low = np.full(n, -np.inf)
        return Selection(nothing, zeros, free, np.zeros(n, np.bool_), nothing, low, low, zeros, none, none)
    rows = np.arange(n)
    best = decisions.argmax(1)
    top = decisions[rows, best].astype(np.float64)
    second = np.partition(decisions, -2, axis=1)[:, -2].astype(np.float64) if k > 1 else np.full(n, -np.inf)
    best = np.where(np.isfinite(top), best, -1)
    loss = 1 - decisions
    if denied is not None and len(denied[0]):
        loss[denied] = np.inf
    candidate = np.maximum(loss, 0) < pace
    if eligible is not None:
        candidate &= eligible[:, None]
    count = candidate.sum(1)
    only = count == 1
    person = np.where(only, candidate.argmax(1), -1)
    weight = np.zeros(n)
    chosen = person[only]
    found = self_paced_weights(np.maximum(loss[only, chosen], 0).astype(np.float64), pace[chosen], weighting=weighting)
    weight[only] = np.maximum(found, floor)
    allowed = np.ones(n, np.bool_) if eligible is None else eligible
    return Selection(
        person=person, weight=weight, unclear=(count == 0) & allowed, ambiguous=count > 1, best=best, top=top,
        second=second, entropy=_entropy(decisions) if entropy else np.zeros(n), confident=candidate.sum(0),
        contested=(candidate & (count > 1)[:, None]).sum(0),
    )  # fmt: skip


def _entropy(decisions: Floats) -> NDArray[np.float64]:
    """(n,) entropy in nats of the softmax of (n, k) decisions; 0 where nobody has a classifier."""
    top = decisions.max(1, keepdims=True)
    shifted = np.where(np.isfinite(top), decisions - np.where(np.isfinite(top), top, 0), 0.0)
    shares = np.exp(np.minimum(shifted, 0))
    shares = shares / shares.sum(1, keepdims=True)
    logs = np.where(shares > 0, np.log(np.maximum(shares, 1e-300)), 0.0)
    return np.asarray(np.where(np.isfinite(top[:, 0]), -(shares * logs).sum(1), 0.0), np.float64)


def joined(parts: list[Selection]) -> Selection:
    """Selections of consecutive pictures, with the same persons, as one."""
    rows = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("person", "weight", "unclear", "ambiguous", "best", "top", "second", "entropy")
    }
    sums = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in ("confident", "contested")}
    return Selection(**rows, **sums)


def contradicted(decisions: Floats, labels: Ints) -> Mask:
    """(n,) bool: human labels that the classifiers contradict. Another has the highest decision, or the number of
    positive decisions is not one."""
    return np.asarray((decisions.argmax(1) != labels) | ((decisions > 0).sum(1) != 1))


def loosened(pace: Floats, accuracy: Floats | float, *, step: float = 0.08, most: float = 0.9) -> NDArray[np.float64]:
    """The next pace: ``min(most, pace + step * accuracy)``, never below what it was."""
    return np.asarray(np.maximum(pace, np.minimum(most, pace + step * np.asarray(accuracy))), np.float64)


def calibrated_pace(decisions: Floats, *, quantile: float = 0.85, least: float = 0.05, most: float = 0.9) -> float:
    """A first pace from the decisions (n,) of labelled pictures for their own persons: a quantile of the hinge loss.

    The published 0.12 suits long features. Where every decision is small, as with unit vectors and few labels, it would
    select nothing at all.
    """
    if not len(decisions):
        return most
    return float(np.clip(np.quantile(np.maximum(0, 1 - decisions), quantile), least, most))
