"""What the four evaluations share: the base of their results, and figures by group."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mien import metrics
from mien.errors import OptionError
from mien.faces import Failure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.metrics import Interval

SMALLEST_GROUP = 10
"""Rows that a group needs for a figure of its own; fewer give chance, not a figure."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What every evaluation tells.

    Parameters
    ----------
    measured_on
        The table or folder.
    date
        ISO date.
    failures
        Pictures that could not be read.
    """

    measured_on: str
    date: str
    failures: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure without a value (NaN, infinite) is None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def today() -> str:
    """The ISO date that results bear."""
    return datetime.date.today().isoformat()


def check_bootstrap(repeats: int, share: Mapping[str, float]) -> None:
    """OptionError for a bootstrap without repeats, or for options that are no share from 0 to 1."""
    if repeats < 1:
        raise OptionError("a bootstrap needs repeats", got=repeats, expected="at least 1, better 1000")
    for name, value in share.items():
        if not 0 < value < 1:
            raise OptionError(f"{name} lies between 0 and 1", got=value)


# ------------------------------------------------------------------------------------------- by group


@dataclass(frozen=True)
class GroupRow:
    """A figure of one group.

    Parameters
    ----------
    column, group
        The column of the table, and its value.
    figure
        Name of the figure.
    count
        Rows it is the mean of.
    value, low, high
        The figure with its interval.
    """

    column: str
    group: str
    figure: str
    count: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupSpread:
    """How far the groups of a column lie apart in one figure (differential performance, ISO/IEC 19795-10).

    Parameters
    ----------
    column, figure
        As in `GroupRow`.
    lowest, highest
        The groups with the extreme figures.
    difference, difference_low, difference_high
        Highest less lowest. Groups that are equal differ by chance too: look at where the interval begins.
    ratio, ratio_low, ratio_high
        Highest by lowest; infinite (None in JSON) by 0.
    """

    column: str
    figure: str
    lowest: str
    highest: str
    difference: float
    difference_low: float
    difference_high: float
    ratio: float
    ratio_low: float
    ratio_high: float


class ByGroup(NamedTuple):
    """Figures of all columns, their spreads, and the groups that were too small for a figure."""

    rows: tuple[GroupRow, ...] = ()
    spreads: tuple[GroupSpread, ...] = ()
    left_out: tuple[str, ...] = ()


def by_group(
    labels: Mapping[str, NDArray[np.str_]],
    figures: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None]],
    *,
    repeats: int,
    seed: int,
) -> ByGroup:
    """Means by group, with intervals.

    Parameters
    ----------
    labels
        {column: (n,)} the group of each row; rows without one ("") belong to none.
    figures
        {name: (values (n,), counts (n,) or None)}; only rows that count go into the mean.
    repeats, seed
        Of the bootstrap; rows are redrawn within each group.
    """
    rows: list[GroupRow] = []
    spreads: list[GroupSpread] = []
    left_out: list[str] = []
    for column, groups in labels.items():
        for figure, (values, counts) in figures.items():
            mine = np.flatnonzero((groups != "") & (True if counts is None else counts))
            names, sizes = np.unique(groups[mine], return_counts=True)
            small = names[sizes < SMALLEST_GROUP]
            left_out += [f"{column}={name}: {size} rows of {figure}" for name, size in zip(
                small.tolist(), sizes[sizes < SMALLEST_GROUP].tolist(), strict=True)]  # fmt: skip
            mine = mine[~np.isin(groups[mine], small)]
            if len(names) - len(small) < 2:
                continue
            chosen = values[mine].astype(np.float64)
            table = metrics.by_group(
                _mean_of(chosen), groups[mine], minimum_count=SMALLEST_GROUP, repeats=repeats, seed=seed
            )
            rows += [
                GroupRow(column, g.group, figure, g.count, g.figure.value, g.figure.low, g.figure.high)
                for g in table.groups
            ]
            difference, ratio = table.difference, table.ratio
            spreads.append(
                GroupSpread(
                    column, figure, table.lowest.group, table.highest.group,
                    difference.value, difference.low, difference.high, ratio.value, ratio.low, ratio.high,
                )
            )  # fmt: skip
    return ByGroup(tuple(rows), tuple(spreads), tuple(left_out))


def _mean_of(values: NDArray[np.float64]) -> Any:
    return lambda rows: float(values[rows].mean())


def ends(interval: Interval | None) -> tuple[float | None, float | None, float | None]:
    """A figure, and the two ends of its interval; three times None for a figure that there is not."""
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)


def share_interval(hits: NDArray[Any], of: NDArray[Any], *, repeats: int, seed: int) -> Interval | None:
    """``hits.sum() / of.sum()`` with pictures redrawn; None where there is nothing to take a share of."""
    if not of.sum():
        return None

    def share(counts: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray((counts @ hits) / (counts @ of), np.float64)

    return metrics.bootstrap(share, len(hits), repeats=repeats, seed=seed)


def names_of(groups: Sequence[str] | Any) -> tuple[str, ...]:
    """Column names as they were given, each once."""
    return tuple(dict.fromkeys([groups] if isinstance(groups, str) else groups))
