"""Bootstrap intervals: the counts that are drawn, their percentiles, and whether they hold the truth."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import metrics
from mien.errors import ShapeError, ValueRangeError
from mien.metrics.bootstrap import counts, percentile_interval


def all_counts(size: int, **more: Any) -> np.ndarray[Any, Any]:
    return np.concatenate(list(counts(size, **more)))


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_every_set_has_as_many_rows_as_the_first(size: int, repeats: int, seed: int) -> None:
    drawn = all_counts(size, repeats=repeats, seed=seed)
    assert drawn.shape == (repeats, size)
    assert (drawn >= 0).all()
    assert (drawn.sum(1) == size).all()


def test_counts_are_those_of_drawing_with_replacement() -> None:
    """Each is binomial(n, 1/n), and two of one set hold each other back by -1/n."""
    n, repeats = 8, 40_000
    drawn = all_counts(n, repeats=repeats)
    assert drawn.mean(0) == pytest.approx(np.ones(n), abs=0.03)
    assert drawn.var(0) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.04)
    covariance = np.cov(drawn.T)[~np.eye(n, dtype=bool)]
    assert covariance == pytest.approx(np.full(n * (n - 1), -1 / n), abs=0.03)
    never = (drawn == 0).mean()
    assert never == pytest.approx((1 - 1 / n) ** n, abs=0.005)


def test_strata_keep_their_sizes() -> None:
    strata = np.array(["a", "b", "a", "c", "b", "a"])
    drawn = all_counts(6, strata=strata, repeats=200)
    for name, size in (("a", 3), ("b", 2), ("c", 1)):
        assert (drawn[:, strata == name].sum(1) == size).all()
    assert drawn[:, 0].std() > 0


def test_a_person_brings_all_their_rows() -> None:
    drawn = all_counts(5, people=["x", "y", "x", "y", "x"], repeats=300)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, 0] == drawn[:, 4]).all()
    assert (drawn[:, 1] == drawn[:, 3]).all()
    assert (drawn[:, 0] + drawn[:, 1] == 2).all()  # two draws of two people


def test_a_pair_counts_as_the_product_of_its_people() -> None:
    pairs = np.array([["x", "x"], ["y", "y"], ["x", "y"], ["z", "z"]])
    drawn = all_counts(4, people=pairs, repeats=300)
    assert (drawn[:, 2] == drawn[:, 0] * drawn[:, 1]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()


def test_blocks_are_small_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[counts.__module__], "CHUNK", 100)
    assert [block.shape for block in counts(30, repeats=7)] == [(3, 30), (3, 30), (1, 30)]
    assert [block.shape for block in counts(300, repeats=2)] == [(1, 300), (1, 300)]


def test_the_same_seed_gives_the_same_draws() -> None:
    assert (all_counts(9, repeats=5, seed=1) == all_counts(9, repeats=5, seed=1)).all()
    assert (all_counts(9, repeats=5, seed=1) != all_counts(9, repeats=5, seed=2)).any()


def test_a_statistic_of_counts_is_that_of_the_redrawn_set() -> None:
    """The interval by counts equals the one of sets that are written out."""
    values = np.random.default_rng(0).gamma(2.0, size=25)

    def by_counts(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        mean = c @ values / c.sum(1)
        return np.sqrt(c @ values**2 / c.sum(1) - mean**2)

    got = metrics.bootstrap(by_counts, 25, repeats=500, level=0.9, seed=3)
    written = [np.repeat(values, row).std() for row in all_counts(25, repeats=500, seed=3)]
    assert got.value == pytest.approx(values.std())
    low, high = np.quantile(written, [0.05, 0.95], method="closest_observation")
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))
    assert (got.level, got.repeats) == (0.9, 500)


def test_mean_interval_is_about_as_wide_as_theory_has_it() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    got = metrics.mean_interval(values, repeats=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert got.value == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.03)
    assert got.high == pytest.approx(values.mean() + half, abs=0.03)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_the_truth_as_often_as_they_say(level: float) -> None:
    """300 samples of 60 exponential numbers; the standard error of the share is below 3 %."""
    rng = np.random.default_rng(2)
    samples = rng.exponential(1.0, (300, 60))
    inside = [
        (got := metrics.mean_interval(sample, repeats=300, level=level, seed=i)).low <= 1 <= got.high
        for i, sample in enumerate(samples)
    ]
    # Percentile intervals of skewed numbers are a little too narrow; they may not be far off.
    assert level - 0.09 <= float(np.mean(inside)) <= level + 0.07


def test_intervals_of_people_hold_the_truth_where_those_of_rows_do_not() -> None:
    """Ten rows a person that say the same: rows pretend to ten times the evidence."""
    rng = np.random.default_rng(3)
    who = np.repeat(np.arange(30), 10)
    people = rows = 0
    for seed in range(100):
        values = rng.normal(0, 1, 30)[who] + rng.normal(0, 0.1, 300)
        honest = metrics.mean_interval(values, people=who, repeats=200, level=0.8, seed=seed)
        naive = metrics.mean_interval(values, repeats=200, level=0.8, seed=seed)
        people += honest.low <= 0 <= honest.high
        rows += naive.low <= 0 <= naive.high
    assert 66 <= people <= 92
    assert rows < 50


def test_undefined_draws_are_left_out() -> None:
    got = percentile_interval(2.0, [np.nan, 1.0, 2.0, 3.0, np.nan], level=0.99)
    assert (got.low, got.high, got.repeats) == (1.0, 3.0, 5)
    infinite = percentile_interval(1.0, [1.0, np.inf, np.inf], level=0.99)
    assert infinite.high == math.inf
    with pytest.raises(ValueRangeError, match="undefined on every"):
        percentile_interval(math.nan, [math.nan, math.nan])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(0.05, 0.99))
def test_percentiles_are_draws_and_widen_with_the_level(draws: list[float], level: float) -> None:
    got = percentile_interval(0.0, draws, level=level)
    assert got.low in draws
    assert got.high in draws
    wider = percentile_interval(0.0, draws, level=level + (1 - level) / 2)
    assert wider.low <= got.low <= got.high <= wider.high
    inside = sum(got.low <= draw <= got.high for draw in draws) / len(draws)
    assert inside >= level - 2 / len(draws)


def test_intervals_show_and_travel() -> None:
    got = metrics.Interval(0.12345, 0.1, 0.2, 0.95, 1000)
    assert str(got) == "0.1235 [0.1, 0.2]"
    assert metrics.Interval(**json.loads(json.dumps(got.to_dict()))) == got


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"repeats": 0}, ValueRangeError),
        ({"level": 0.0}, ValueRangeError),
        ({"level": 1.0}, ValueRangeError),
        ({"strata": [0, 1, 1], "people": [0, 1, 1]}, ValueRangeError),
        ({"strata": [0, 1]}, ShapeError),
        ({"people": [0, 1]}, ShapeError),
        ({"people": [[0, 1, 2]] * 3}, ShapeError),
        ({"people": [0.5, np.nan, 1]}, ValueRangeError),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        metrics.bootstrap(lambda c: c.sum(1), 3, **options)


def test_there_must_be_something_to_draw_from() -> None:
    with pytest.raises(ValueRangeError, match="nothing to draw from"):
        metrics.bootstrap(lambda c: c.sum(1), 0)
