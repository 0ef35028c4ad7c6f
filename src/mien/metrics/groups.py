"""Figures by group: is a system as good for everybody? ISO/IEC 19795-10 calls it differential performance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ValueRangeError
from mien.geometry.checks import Double, Ints, labels
from mien.metrics.bootstrap import Interval, check_repeats, percentile_interval


@dataclass(frozen=True, slots=True)
class GroupFigure:
    """One group: its name, how many rows it has, and its figure."""

    group: str
    count: int
    figure: Interval


@dataclass(frozen=True, slots=True)
class GroupTable:
    """A figure for each group, and how far the groups lie apart.

    Parameters
    ----------
    groups
        By name.
    overall
        The figure of all rows together.
    minimum, maximum
        The extreme figures; `lowest` and `highest` name their groups.
    difference, ratio
        Maximum minus minimum, and maximum by minimum (infinite where the minimum is 0), with intervals.
        Even equal groups differ by chance, so look at where the interval begins: a ratio of 1.5 [1.02, 2.4]
        is a difference, but redrawn extremes lie further apart than true ones, so an interval that begins
        near 1 says little.
    """

    groups: tuple[GroupFigure, ...]
    overall: Interval
    difference: Interval
    ratio: Interval

    @property
    def lowest(self) -> GroupFigure:
        """The group with the smallest figure."""
        return min(self.groups, key=lambda g: g.figure.value)

    @property
    def highest(self) -> GroupFigure:
        """The group with the largest figure."""
        return max(self.groups, key=lambda g: g.figure.value)

    @property
    def minimum(self) -> float:
        """The smallest figure."""
        return self.lowest.figure.value

    @property
    def maximum(self) -> float:
        """The largest figure."""
        return self.highest.figure.value

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        extremes = {"minimum": self.minimum, "maximum": self.maximum}
        names = {"lowest": self.lowest.group, "highest": self.highest.group}
        return {**asdict(self), **extremes, **names}


def by_group(
    metric: Callable[[Ints], float],
    groups: ArrayLike,
    *,
    minimum_count: int = 10,
    repeats: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> GroupTable:
    """Any metric for each group of rows, with bootstrap intervals.

    Parameters
    ----------
    metric
        From indices of rows (some repeated, when redrawn) to the figure of these rows:
        ``lambda rows: errors[rows].mean()``, ``lambda rows: fnmr_at_fmr(scores[rows], same[rows], 1e-2)``.
        NaN where a redrawn set has no figure.
    groups : (n,)
        Name or number of each row's group.
    minimum_count
        A smaller group is an error: its figure would be chance.
    repeats, level, seed
        As in `mien.metrics.bootstrap`; rows are redrawn within each group.

    Raises
    ------
    ShapeError
        `groups` is not a list of labels.
    ValueRangeError
        Fewer than two groups, or a group with fewer than `minimum_count` rows.
    """
    check_repeats(repeats)
    names, codes = labels("groups", groups, "n")
    if len(names) < 2:
        raise ValueRangeError("there is nothing to compare", got=f"{len(names)} groups", expected="two or more")
    members = [np.flatnonzero(codes == i) for i in range(len(names))]
    small = [f"{name}: {len(rows)}" for name, rows in zip(names, members, strict=True) if len(rows) < minimum_count]
    if small:
        raise ValueRangeError(
            "a group has too few rows for a figure",
            got=", ".join(small),
            expected=f"at least {minimum_count} in each",
            hint="leave the group out, merge it with another, or lower minimum_count",
        )
    rng = np.random.default_rng(seed)
    figures, draws = [], []
    for rows in members:
        figures.append(float(metric(rows)))
        draws.append(_redrawn(metric, rows, repeats, rng))
    table, values = np.array(draws), np.array(figures)
    every = np.arange(len(codes))
    all_draws = _redrawn(metric, every, repeats, rng)
    return GroupTable(
        groups=tuple(
            GroupFigure(str(name), len(rows), percentile_interval(value, drawn, level=level))
            for name, rows, value, drawn in zip(names.tolist(), members, values, table, strict=True)
        ),
        overall=percentile_interval(float(metric(every)), all_draws, level=level),
        difference=percentile_interval(float(np.ptp(values)), np.ptp(table, axis=0), level=level),
        ratio=percentile_interval(float(_ratio(values[:, None])[0]), _ratio(table), level=level),
    )


def _redrawn(metric: Callable[[Ints], float], rows: Ints, repeats: int, rng: np.random.Generator) -> list[float]:
    """The metric on `repeats` draws of as many rows, with replacement."""
    return [float(metric(rows[rng.integers(0, len(rows), len(rows))])) for _ in range(repeats)]


def _ratio(figures: Double) -> Double:
    """Largest by smallest of each column (g, r): infinite by 0, 1 where all are 0."""
    high, low = figures.max(0), figures.min(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(high == low, 1.0, high / low)
