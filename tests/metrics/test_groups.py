"""Figures by group: the same figure of each group's rows, and how far the groups lie apart."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mien import metrics
from mien.errors import ShapeError, ValueRangeError

Rows = NDArray[np.intp]


def test_each_group_is_measured_on_its_own_rows() -> None:
    rng = np.random.default_rng(0)
    groups = rng.choice(["b", "a", "c"], 300)
    errors = rng.exponential(1, 300) * np.where(groups == "b", 2, 1)
    table = metrics.by_group(lambda rows: float(errors[rows].mean()), groups, repeats=200)
    assert [group.group for group in table.groups] == ["a", "b", "c"]
    means = {name: errors[groups == name].mean() for name in "abc"}
    for group in table.groups:
        assert group.count == (groups == group.group).sum()
        assert group.figure.value == pytest.approx(means[group.group])
        assert group.figure.low < group.figure.value < group.figure.high
    assert table.overall.value == pytest.approx(errors.mean())
    assert table.highest.group == "b"
    assert table.lowest.group == min(means, key=lambda name: means[name])
    assert table.maximum == pytest.approx(max(means.values()))
    assert table.minimum == pytest.approx(min(means.values()))
    assert table.difference.value == pytest.approx(max(means.values()) - min(means.values()))
    assert table.ratio.value == pytest.approx(max(means.values()) / min(means.values()))


def test_rows_are_redrawn_within_their_group() -> None:
    groups = np.arange(60) % 3
    seen: list[tuple[int, ...]] = []

    def metric(rows: Rows) -> float:
        seen.append((len(rows), *sorted(set(groups[rows].tolist()))))
        return float(len(rows))

    metrics.by_group(metric, groups, repeats=5)
    assert {key for key in seen if len(key) == 2} == {(20, 0), (20, 1), (20, 2)}
    assert all(len(key) == 2 or key[0] == 60 for key in seen)
    assert len(seen) == 4 * 6  # the groups and the whole, as they are and five times redrawn


def test_the_interval_of_a_group_is_the_plain_bootstrap_of_its_rows() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=80), np.repeat([0, 1], 40)
    table = metrics.by_group(lambda rows: float(values[rows].mean()), groups, repeats=4000, level=0.8, seed=2)
    for index, group in enumerate(table.groups):
        mine = values[groups == index]
        draws = [rng.choice(mine, 40).mean() for _ in range(4000)]
        assert group.figure.low == pytest.approx(np.quantile(draws, 0.1), abs=0.02)
        assert group.figure.high == pytest.approx(np.quantile(draws, 0.9), abs=0.02)


def test_equal_groups_lie_apart_by_chance_only() -> None:
    groups = np.repeat([0, 1], 50)
    table = metrics.by_group(lambda rows: 0.25, groups, repeats=20)
    assert (table.difference.value, table.difference.high) == (0, 0)
    assert (table.ratio.value, table.ratio.high) == (1, 1)


@pytest.mark.parametrize(("low", "high", "ratio"), [(0.0, 0.0, 1.0), (0.0, 0.5, math.inf), (0.25, 0.5, 2.0)])
def test_ratio(low: float, high: float, ratio: float) -> None:
    groups = np.repeat([0, 1], 20)
    table = metrics.by_group(lambda rows: low if groups[rows[0]] == 0 else high, groups, repeats=5)
    assert table.ratio.value == ratio


def test_redrawn_sets_without_a_figure_are_left_out() -> None:
    scores = np.tile([0.1, 0.9], 20)
    same = np.tile([False, True], 20)
    same[20:] = scores[20:] = False
    same[21] = True  # one genuine comparison, which many redrawn sets miss
    groups = np.repeat(["many", "one"], 20)

    def eer(rows: Rows) -> float:
        kinds = same[rows]
        return metrics.eer(scores[rows], kinds) if kinds.any() and not kinds.all() else math.nan

    table = metrics.by_group(eer, groups, repeats=100)
    assert np.isfinite([table.groups[1].figure.low, table.groups[1].figure.high, table.difference.high]).all()


def test_the_table_is_plain_in_json() -> None:
    groups = np.repeat(["a", "b"], 20)
    table = metrics.by_group(lambda rows: float(rows.mean()), groups, repeats=10)
    plain = json.loads(json.dumps(table.to_dict()))
    assert plain["lowest"] == "a"
    assert plain["highest"] == "b"
    assert plain["groups"][1]["count"] == 20
    assert plain["maximum"] - plain["minimum"] == pytest.approx(plain["difference"]["value"])


def test_too_few_rows_or_groups() -> None:
    def metric(rows: Rows) -> float:
        return 1.0

    with pytest.raises(ValueRangeError, match="c: 3") as caught:
        metrics.by_group(metric, ["a"] * 20 + ["c"] * 3)
    assert "minimum_count" in str(caught.value)
    metrics.by_group(metric, ["a"] * 20 + ["c"] * 3, minimum_count=3, repeats=2)
    with pytest.raises(ValueRangeError, match="nothing to compare"):
        metrics.by_group(metric, ["a"] * 20)
    with pytest.raises(ShapeError):
        metrics.by_group(metric, [["a", "b"]])
    with pytest.raises(ValueRangeError, match="repeats"):
        metrics.by_group(metric, ["a", "b"] * 20, repeats=0)
