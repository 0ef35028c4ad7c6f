"""Risk against coverage, by accepting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import ShapeError
from mien.metrics.risk_coverage import risk_coverage


def areas(wrong: list[bool], quality: list[float]) -> list[float]:
    """The area under every order that the quality allows."""
    n = len(wrong)
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(quality[a] >= quality[b] for a, b in itertools.pairwise(order))
    ]
    return [float(np.mean([sum(wrong[i] for i in order[:k]) / k for k in range(1, n + 1)])) for order in orders]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6))
def test_the_area_is_the_mean_over_all_orders_of_equal_scores(rows: list[tuple[bool, int]]) -> None:
    wrong, quality = [w for w, _ in rows], [float(q) for _, q in rows]
    curve = risk_coverage(wrong, quality)
    assert curve.area == pytest.approx(np.mean(areas(wrong, quality)))
    assert curve.random == pytest.approx(np.mean(wrong))
    assert curve.ideal == pytest.approx(min(areas(wrong, [-float(w) for w in wrong])))
    assert curve.ideal <= curve.area + 1e-12


def test_a_score_that_says_nothing_gives_the_share_of_errors() -> None:
    curve = risk_coverage([True, False, False, True], np.ones(4))
    np.testing.assert_allclose(curve.risk, 0.5)
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])


def test_nothing_has_no_risk() -> None:
    with pytest.raises(ShapeError, match="needs pictures"):
        risk_coverage(np.zeros(0, bool), np.zeros(0))
    with pytest.raises(ShapeError):
        risk_coverage([True], [0.1, 0.2])
