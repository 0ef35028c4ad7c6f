"""Repeats, interleaved so that a busy minute of the machine falls on all that is compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

KEPT_FIRST_S = 1.0
"""A first run longer than this has warmed itself up for nearly all of its length, and is kept as a measurement."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: the median of the repeats, their quartiles, the best, and how many there were."""

    median: float
    low: float
    high: float
    best: float
    repeats: int

    def rate(self, items: float) -> tuple[float, float | None]:
        """Items a second at the median, and half the distance between the quartiles of the rate (None for a single
        repeat, whose spread nobody knows)."""
        spread = None if self.repeats < 2 else (items / self.low - items / self.high) / 2
        return items / self.median, spread


def summarise(seconds: Sequence[float]) -> Timing:
    """Median, quartiles and minimum of repeats."""
    low, median, high = np.percentile(np.asarray(seconds, np.float64), [25, 50, 75])
    return Timing(float(median), float(low), float(high), float(min(seconds)), len(seconds))


def interleave(
    runs: Mapping[Key, Callable[[], object]],
    *,
    repeats: int,
    least: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Key, list[float]]:
    """Seconds of every run of everything.

    Each round runs everything once, in an order that is rotated from round to round, so that nothing always follows
    the same neighbour (who leaves it warm or cold caches). The first round warms up; it counts only for what takes
    longer than `KEPT_FIRST_S`.

    Parameters
    ----------
    runs
        What to time.
    repeats
        Timed runs of each, where `budget_s` suffices.
    least
        Timed runs of each, however long they take.
    budget_s
        Seconds that the timed runs of one of them may take; what is slow is repeated less often.
    clock
        For tests.
    progress
        Called as ``progress(runs done, runs in all)``.
    """
    names = list(runs)
    taken: dict[Key, list[float]] = {}
    wanted: dict[Key, int] = {}
    for name in names:
        first = _seconds(runs[name], clock)
        taken[name] = [first] if first > KEPT_FIRST_S else []
        wanted[name] = max(least, min(repeats, int(budget_s / max(first, 1e-9))))
    total = sum(wanted.values())
    for round_ in range(max(wanted.values(), default=0)):
        gc.collect()  # between the rounds, so that it does not fall into one of them
        shift = round_ * 7 % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            if len(taken[name]) < wanted[name]:
                taken[name].append(_seconds(runs[name], clock))
        if progress is not None:
            progress(sum(map(len, taken.values())), total)
    return taken


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start
