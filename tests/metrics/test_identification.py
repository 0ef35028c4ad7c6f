"""Searches derived again by plain loops, with ties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import metrics
from mien.errors import ShapeError, ValueRangeError
from mien.metrics import identification as module


def case(seed: int, probes: int = 40, stored: int = 25, people: int = 12, d: int = 4) -> tuple[Any, ...]:
    """Probes of 2 d people, some of them not enrolled; coarse directions, so that scores are often equal."""
    rng = np.random.default_rng(seed)
    rows, gallery = (rng.integers(-1, 2, (n, d)).astype(np.float32) for n in (probes, stored))
    for part in (rows, gallery):
        part[~part.any(1)] = 1
    return rows, rng.integers(0, 2 * people, probes), gallery, rng.integers(0, people, stored)


def by_hand(rows: Any, who: Any, gallery: Any, whose: Any) -> list[tuple[bool, int, float, float]]:
    """Mated, rank, score of the mate, best other score of each probe."""
    out = []
    names = sorted(set(whose.tolist()))
    for row, person in zip(rows, who.tolist(), strict=True):
        best = dict.fromkeys(names, -math.inf)
        for other, name in zip(gallery, whose.tolist(), strict=True):
            cosine = float(row @ other / np.linalg.norm(row) / np.linalg.norm(other))
            best[name] = max(best[name], round(cosine, 5))
        if person not in best:
            out.append((False, 0, -math.inf, max(best.values())))
            continue
        others = [score for name, score in best.items() if name != person]
        rank = 1 + sum(score >= best[person] for score in others)
        out.append((True, rank, best[person], max(others, default=-math.inf)))
    return out


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 30, 8_000_000]))
def test_searches_are_what_one_counts_by_hand(seed: int, held: int) -> None:
    rows, who, gallery, whose = case(seed)
    # Products of directions that lie on a grid are equal up to their rounding: rounded here as there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEARCH_SCORES", held)
        found = metrics.search(np.round(rows), who, gallery, whose)
    for index, (mated, rank, score, best) in enumerate(by_hand(rows, who, gallery, whose)):
        assert found.mated[index] == mated
        assert found.score[index] == pytest.approx(score, abs=1e-4)
        assert found.best[index] == pytest.approx(best, abs=1e-4)
        # Rounding may part what is equal; then a tie with the mate counts either way.
        if mated and abs(score - best) > 1e-4:
            assert (found.rank[index] == 1) == (rank == 1)


def searches(mated: list[tuple[int, float, float]], strangers: list[float], people: int = 10) -> metrics.Searches:
    """From (rank, score of the mate, best other), and best scores of strangers."""
    n, m = len(mated), len(strangers)
    return metrics.Searches(
        np.array([True] * n + [False] * m),
        np.array([r for r, _, _ in mated] + [0] * m),
        np.array([s for _, s, _ in mated] + [-np.inf] * m, np.float32),
        np.array([b for _, _, b in mated] + strangers, np.float32),
        np.arange(n + m), people,
    )  # fmt: skip


EXAMPLE = searches(
    [(1, 0.9, 0.3), (1, 0.6, 0.5), (3, 0.4, 0.7), (2, 0.8, 0.85)],
    [0.55, 0.2, 0.75, 0.5, 0.1, 0.3, 0.35, 0.45, 0.15, 0.05],
)


def test_cmc_of_an_example() -> None:
    assert EXAMPLE.cmc(4).tolist() == [0.5, 0.75, 1.0, 1.0]
    assert len(EXAMPLE.cmc(50)) == 10, "no more ranks than people"


def test_open_set_errors_of_an_example() -> None:
    # One of ten strangers may be shown: 0.75 is, and the threshold lies just above 0.55.
    threshold = EXAMPLE.threshold_at_fpir(0.1)
    assert threshold == float(np.nextafter(np.float32(0.55), np.float32(1)))
    assert EXAMPLE.fpir_at(threshold) == 0.1
    assert EXAMPLE.fnir_at(threshold) == 0.5  # ranks 3 and 2 are missed
    assert EXAMPLE.fnir_at(threshold, rank=2) == 0.25
    assert EXAMPLE.fnir_at(0.61, rank=2) == 0.5  # 0.6 is below
    fpir, fnir, thresholds = EXAMPLE.dir_curve()
    assert fpir.tolist() == pytest.approx([i / 10 for i in range(11)])
    assert fnir[:3].tolist() == [0.75, 0.75, 0.5]  # above 0.75, from 0.75 on, from 0.55 on
    assert thresholds[0] == np.inf


def test_a_network_that_says_the_same_of_all_finds_nobody() -> None:
    ones = np.ones((6, 3))
    found = metrics.search(ones, [0, 1, 2, 3, 4, 5], ones[:4], [0, 1, 2, 3])
    assert found.rank.tolist() == [4, 4, 4, 4, 0, 0]
    assert found.cmc(4).tolist() == [0, 0, 0, 1]
    assert found.fnir_at(0.5) == 1
    assert found.fpir_at(0.5) == 1


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_curves_are_monotonic_and_order_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    who, whose = rng.integers(0, 14, 60), np.arange(8)
    centres = rng.standard_normal((14, 6))
    rows, gallery = centres[who] + 0.6 * rng.standard_normal((60, 6)), centres[whose]
    found = metrics.search(rows, who, gallery, whose)
    if found.mated.all() or not found.mated.any():
        return
    assert (np.diff(found.cmc()) >= 0).all()
    assert found.cmc()[-1] == 1
    fpir, fnir, thresholds = found.dir_curve()
    assert (np.diff(fpir) > 0).all()
    assert (np.diff(fnir) <= 0).all()
    assert (np.diff(thresholds) < 0).all()
    assert fpir[-1] == 1
    for a, b, t in zip(fpir[1:], fnir[1:], thresholds[1:], strict=True):
        assert found.fpir_at(t) == pytest.approx(a)
        assert found.fnir_at(t) == pytest.approx(b)
    order, shuffle = rng.permutation(60), rng.permutation(8)
    again = metrics.search(rows[order], who[order], gallery[shuffle], whose[shuffle])
    np.testing.assert_array_equal(again.rank, found.rank[order])
    np.testing.assert_allclose(again.score, found.score[order], atol=1e-6)
    # A larger gallery finds fewer: rank 1 among more people is harder.
    extra = metrics.search(
        rows,
        who,
        np.concatenate([gallery, rng.standard_normal((20, 6))]),
        [*whose, *range(100, 120)],
    )
    assert extra.cmc()[0] <= found.cmc()[0]


def test_intervals_redraw_people() -> None:
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(40), 5)
    centres = rng.standard_normal((40, 8))
    rows = centres[who] + 1.2 * np.repeat(rng.standard_normal((40, 8)), 5, 0) + 0.1 * rng.standard_normal((200, 8))
    found = metrics.search(rows, who, centres[:20], np.arange(20))
    told = found.rank_interval(1, repeats=400)
    assert told.value == found.cmc()[0]
    assert told.low < told.value < told.high
    # Five searches of a person go well or badly together: as if there were 20 and not 100.
    alone = metrics.Searches(found.mated, found.rank, found.score, found.best, np.arange(200), found.people)
    narrow = alone.rank_interval(1, repeats=400)
    assert told.high - told.low > 1.5 * (narrow.high - narrow.low)

    point = found.at_fpir(0.1, repeats=400)
    assert (point.threshold.value, point.fnir.value) == (
        found.threshold_at_fpir(0.1),
        found.fnir_at(point.threshold.value),
    )
    assert point.threshold.low <= point.threshold.value <= point.threshold.high
    assert point.fnir.low <= point.fnir.value <= point.fnir.high
    assert point.measured_fpir == found.fpir_at(point.threshold.value) <= 0.1
    assert point.false_positives == round(100 * point.measured_fpir)
    assert found.at_fpir(0.1, repeats=400) == point, "the same seed, the same interval"


def test_redrawn_points_are_those_of_redrawn_searches() -> None:
    """One redrawn set, made by repeating rows, gives what the bootstrap computes by counting."""
    counts = next(module.counts(len(EXAMPLE), people=EXAMPLE.person, repeats=1, seed=3))[0]
    rows = np.repeat(np.arange(len(EXAMPLE)), counts)
    again = metrics.Searches(
        EXAMPLE.mated[rows], EXAMPLE.rank[rows], EXAMPLE.score[rows], EXAMPLE.best[rows], EXAMPLE.person[rows], 10
    )
    point = EXAMPLE.at_fpir(0.3, repeats=1, seed=3)
    assert point.threshold.low == pytest.approx(again.threshold_at_fpir(0.3))
    assert point.fnir.low == pytest.approx(again.fnir_at(again.threshold_at_fpir(0.3)))


def test_a_search_without_a_face_finds_nobody() -> None:
    found = searches([(11, -np.inf, -np.inf), (1, 0.9, 0.1)], [0.5, -np.inf])
    assert found.cmc(10).tolist() == [0.5] * 10
    assert found.fnir_at(-1) == 0.5
    fpir, fnir, _ = found.dir_curve()
    assert fpir.tolist() == [0, 0.5]
    assert fnir.tolist() == [0.5, 0.5]


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ValueRangeError, match="too few non-mated"):
        EXAMPLE.threshold_at_fpir(0.01)
    assert EXAMPLE.usable_fpirs([0.01, 0.1, 0.5]) == (0.5, 0.1)
    with pytest.raises(ValueRangeError, match="no non-mated"):
        searches([(1, 0.9, 0.1)], []).threshold_at_fpir(0.1)
    with pytest.raises(ValueRangeError, match="no mated"):
        searches([], [0.1]).cmc()
    with pytest.raises(ValueRangeError, match="nothing to search"):
        metrics.search(np.ones((0, 3)), [], np.ones((1, 3)), [0])
    with pytest.raises(ShapeError, match="different length"):
        metrics.search(np.ones((1, 3)), [0], np.ones((1, 4)), [0])


def test_two_galleries_make_one_figure() -> None:
    assert metrics.mean_over_galleries([0.2, 0.4]) == pytest.approx(0.3)
    assert math.isnan(metrics.mean_over_galleries([0.2, math.nan]))
