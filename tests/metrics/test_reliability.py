"""Probabilities: the fit against scipy's, the bins by hand, and what is known of two normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mien import metrics
from mien.errors import ValueRangeError
from mien.metrics.reliability import SHRINK, logistic


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 8))
def test_the_curve_is_that_of_least_cost(seed: int, apart: float) -> None:
    rng = np.random.default_rng(seed)
    same = np.arange(60) < 15
    scores = rng.standard_normal(60) + apart * same
    slope, start = logistic(scores, same)
    spread, middle = scores.std(), scores.mean()

    def cost(at: np.ndarray) -> float:
        odds = at[0] * (scores - middle) / spread + at[1]
        loss = np.logaddexp(0, np.where(same, -odds, odds))
        return float(loss[same].mean() / 2 + loss[~same].mean() / 2 + SHRINK / 2 * at[0] ** 2)

    best = minimize(cost, np.zeros(2), method="BFGS", options={"gtol": 1e-9})
    mine = np.array([slope * spread, start + slope * middle])
    assert cost(mine) <= best.fun + 1e-9


def test_two_normals_have_the_log_odds_that_theory_says() -> None:
    """Normals of unit spread with means 0 and 2: log odds 2 x - 2."""
    rng = np.random.default_rng(0)
    same = np.arange(40_000) < 10_000
    slope, start = logistic(rng.standard_normal(40_000) + 2 * same, same)
    assert (slope, start) == (pytest.approx(2, abs=0.08), pytest.approx(-2, abs=0.08))


def test_bins_of_an_example() -> None:
    told = metrics.reliability([0.05, 0.15, 0.85, 0.95, 0.95], [0, 0, 1, 1, 0], bins=2)
    # Genuine pairs weigh 1/4 each, impostors 1/6.
    assert told.said.tolist() == pytest.approx([0.1, (0.85 / 4 + 0.95 / 4 + 0.95 / 6) / (2 / 4 + 1 / 6)])
    assert told.so.tolist() == pytest.approx([0, (2 / 4) / (2 / 4 + 1 / 6)])
    assert told.count.tolist() == [2, 3]
    assert told.error == pytest.approx(2 / 6 * 0.1 + 4 / 6 * abs(told.said[1] - 0.75))


def test_cost_in_bits() -> None:
    assert metrics.cllr([0.5, 0.5], [1, 0]) == 1
    assert metrics.cllr([1, 0], [1, 0]) == 0
    assert metrics.cllr([0.25, 0.5], [1, 0]) == 1.5
    assert metrics.cllr([0, 0], [1, 0]) == np.inf


def test_probabilities_of_a_fold_come_from_the_others() -> None:
    rng = np.random.default_rng(1)
    same, folds = np.arange(300) % 3 == 0, np.arange(300) % 5
    scores = rng.standard_normal(300) + 2 * same
    told = metrics.kfold_probabilities(scores, same, folds)
    slope, start = logistic(scores[folds != 2], same[folds != 2])
    np.testing.assert_allclose(told[folds == 2], 1 / (1 + np.exp(-(slope * scores[folds == 2] + start))))
    # What is in the fold does not move its own curve.
    moved = scores.copy()
    moved[folds == 2] = 0
    np.testing.assert_allclose(metrics.kfold_probabilities(moved, same, folds)[folds == 2], 1 / (1 + np.exp(-start)))
    assert metrics.reliability(told, same).cllr < 0.7


def test_scores_that_part_entirely_have_an_end() -> None:
    slope, start = logistic([0.0, 0.1, 0.9, 1.0], [0, 0, 1, 1])
    assert np.isfinite([slope, start]).all()
    assert slope > 0


def test_what_has_no_probability() -> None:
    with pytest.raises(ValueRangeError, match="one kind"):
        logistic([0.1, 0.2], [1, 1])
    with pytest.raises(ValueRangeError, match="out of range"):
        metrics.cllr([1.5, 0], [1, 0])
    with pytest.raises(ValueRangeError, match="one fold"):
        metrics.kfold_probabilities([0, 1], [0, 1], [1, 1])
