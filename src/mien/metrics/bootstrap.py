"""Bootstrap intervals: how far a figure would move if other pairs, pictures or people had been drawn.

A statistic is a function of *counts*: how often each row of the set was drawn. Counts of many repeats come
as one array (r, n), so a statistic computes r figures at once. Intervals are percentiles (Efron 1979) and
are the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ValueRangeError
from mien.geometry.checks import Ints, check_shape, doubles, labels, number

CHUNK = 4_000_000
"""Counts held at a time: 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval.

    Parameters
    ----------
    value
        The figure on the set as it is.
    low, high
        The middle `level` of the resampled figures.
    level
        Between 0 and 1, such as 0.95.
    repeats
        How many resampled sets.
    """

    value: float
    low: float
    high: float
    level: float
    repeats: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(
    statistic: Callable[[NDArray[Any]], ArrayLike],
    size: int,
    *,
    strata: ArrayLike | None = None,
    people: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of any statistic of a set of `size` rows.

    Parameters
    ----------
    statistic
        Counts (r, size) to r figures; a plain mean is ``lambda c: c @ values / c.sum(1)``.
    size
        Number of rows.
    strata : (size,), optional
        Rows are redrawn within each stratum, whose size so stays the same (genuine and impostor pairs, say).
    people : (size,) or (size, 2), optional
        Who is on each row, names or numbers; then people are redrawn, not rows. A row counts as often as
        its person was drawn; a row of two different people, the product of both (the vertex bootstrap).
        Rows that share people are not independent, so this interval is wider, and the honest one, where
        people recur.
    repeats, level, seed
        Number of resampled sets, the middle part that the interval holds, and the seed of the draws.

    Raises
    ------
    ValueRangeError
        An empty set, options out of range, or a statistic that is NaN on every resampled set.
    """
    if size < 1:
        raise ValueRangeError("there is nothing to draw from", got=f"{size} rows", expected="at least 1")
    value = float(np.asarray(statistic(np.ones((1, size), np.int64)))[0])
    draws = [np.asarray(statistic(c)) for c in counts(size, strata=strata, people=people, repeats=repeats, seed=seed)]
    return percentile_interval(value, np.concatenate(draws), level=level)


def percentile_interval(value: float, draws: ArrayLike, *, level: float = 0.95) -> Interval:
    """The interval of a figure from its resampled figures (r,). Undefined ones (NaN) are left out.

    A resampled set on which a figure has no value (no genuine pair was drawn, say) tells nothing about it;
    only when there is no other does this raise.
    """
    level = number("level", level, 0, 1, open_low=True, open_high=True)
    figures = np.asarray(draws, np.float64)
    figures = figures[~np.isnan(figures)]
    if not figures.size:
        raise ValueRangeError(
            "the figure is undefined on every resampled set",
            hint="the set is too small, or all its rows belong to one person; take more data",
        )
    # 'linear' between -inf and -inf is NaN; the nearest draw is always a figure that occurred.
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2], method="closest_observation")
    return Interval(float(value), float(low), float(high), level, len(np.asarray(draws)))


def counts(
    size: int,
    *,
    strata: ArrayLike | None = None,
    people: ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn, in blocks (r, size) that sum up to `repeats` rows; see `bootstrap`."""
    check_repeats(repeats)
    if strata is not None and people is not None:
        raise ValueRangeError("strata and people exclude each other", hint="give one of them")
    rng = np.random.default_rng(seed)
    pair = _people(people, size) if people is not None else None
    groups = _strata(strata, size)
    step = max(1, CHUNK // max(size, 1))
    for start in range(0, repeats, step):
        r = min(step, repeats - start)
        if pair is not None:
            drawn = _draw(rng, r, pair.max() + 1)
            first, second = drawn[:, pair[:, 0]], drawn[:, pair[:, 1]]
            yield np.where(pair[:, 0] == pair[:, 1], first, first * second)
            continue
        block = np.empty((r, size), np.int64)
        for rows in groups:
            block[:, rows] = _draw(rng, r, len(rows))
        yield block


def check_repeats(repeats: int) -> None:
    """Raise ValueRangeError unless something is redrawn."""
    if repeats < 1:
        raise ValueRangeError("a bootstrap needs repeats", got=repeats, expected="at least 1")


def _draw(rng: np.random.Generator, r: int, n: int) -> NDArray[np.int64]:
    """Counts (r, n) of n draws with replacement out of n, r times."""
    picks = rng.integers(0, n, (r, n)) + np.arange(r)[:, None] * n
    return np.bincount(picks.ravel(), minlength=r * n).reshape(r, n)


def _strata(strata: ArrayLike | None, size: int) -> list[Ints]:
    if strata is None:
        return [np.arange(size)]
    names, codes = labels("strata", strata, str(size))
    return [np.flatnonzero(codes == i) for i in range(len(names))]


def _people(people: ArrayLike, size: int) -> Ints:
    array = np.asarray(people)
    if array.ndim == 1:
        array = np.stack([array, array], axis=1)
    check_shape("people", array, f"{size} 2")
    return labels("people", array, "n 2")[1]


def mean_interval(
    values: ArrayLike,
    *,
    people: ArrayLike | None = None,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The interval of the mean of values (n,): an NME over faces, a rate over pictures."""
    v = doubles("values", values, "n")
    return bootstrap(lambda c: c @ v / c.sum(1), len(v), people=people, repeats=repeats, level=level, seed=seed)
