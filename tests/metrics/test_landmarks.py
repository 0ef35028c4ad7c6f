"""Landmark errors by hand and by plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien import metrics
from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError

Points = NDArray[np.float64]


def points(n: int, k: int = 68, seed: int = 0) -> tuple[Points, Points]:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 100, (n, k, 2))
    return true + rng.normal(0, 3, (n, k, 2)), true


def naive_size(true: Points, normaliser: str) -> float:
    """iBUG numbers from 0: outer corners 36 and 45, right eye's points 36 to 41 and left's 42 to 47."""
    if normaliser == "interocular":
        a, b = true[36], true[45]
    elif normaliser == "interpupil":
        a = np.array([sum(true[i][c] for i in range(36, 42)) / 6 for c in (0, 1)])
        b = np.array([sum(true[i][c] for i in range(42, 48)) / 6 for c in (0, 1)])
    else:
        xs, ys = [p[0] for p in true], [p[1] for p in true]
        return math.sqrt((max(xs) - min(xs)) * (max(ys) - min(ys)))
    return math.hypot(a[0] - b[0], a[1] - b[1])


@pytest.mark.parametrize("k", [68, 70])
@pytest.mark.parametrize("normaliser", ["interocular", "interpupil", "box"])
def test_nme_is_that_of_the_loop(normaliser: str, k: int) -> None:
    predicted, true = points(5, k)
    expected = []
    for p, t in zip(predicted, true, strict=True):
        apart = [math.hypot(p[i][0] - t[i][0], p[i][1] - t[i][1]) for i in range(k)]
        expected.append(sum(apart) / k / naive_size(t, normaliser))
    np.testing.assert_allclose(metrics.nme(predicted, true, normaliser=normaliser), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.face_size(true, normaliser), [naive_size(t, normaliser) for t in true])


def test_nme_by_hand() -> None:
    """Eyes 50 px apart and every point 5 px off: 10 %."""
    true = np.zeros((1, 68, 2))
    true[0, 45, 0] = 50
    assert metrics.nme(true + np.array([3, 4]), true) == pytest.approx([0.1])
    assert metrics.nme(true, true) == pytest.approx([0])
    only_one = true.copy()
    only_one[0, 8] += [0, 68]
    assert metrics.nme(only_one, true) == pytest.approx([1 / 50])
    assert metrics.nme(only_one, true, points=[8]) == pytest.approx([68 / 50])
    assert metrics.nme(only_one, true, points=[7, 9]) == pytest.approx([0])


def test_sizes_can_be_given_for_any_points() -> None:
    predicted, true = points(3, 5)
    apart = np.linalg.norm(predicted - true, axis=-1).mean(1)
    np.testing.assert_allclose(metrics.nme(predicted, true, normaliser=[1, 2, 4]), apart / [1, 2, 4])
    np.testing.assert_allclose(metrics.nme(predicted, true, normaliser="box"), apart / metrics.face_size(true, "box"))


@given(st.floats(0.1, 10), st.floats(0, 360), st.integers(0, 99))
def test_nme_does_not_change_with_scale_turn_and_place(scale: float, degrees: float, seed: int) -> None:
    predicted, true = points(2, seed=seed)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = scale * np.array([[c, -s], [s, c]])
    for normaliser in ("interocular", "interpupil"):
        np.testing.assert_allclose(
            metrics.nme(predicted @ turn + 7, true @ turn + 7, normaliser=normaliser),
            metrics.nme(predicted, true, normaliser=normaliser),
        )


errors = st.lists(st.floats(0, 0.3), min_size=1, max_size=30)


@given(errors, st.floats(0.01, 0.2))
def test_auc_is_the_area_under_the_steps(values: list[float], limit: float) -> None:
    """Summed piece by piece: from one error to the next, the share of faces that are no worse."""
    edges = sorted({0.0, limit, *(e for e in values if e < limit)})
    area = sum((b - a) * sum(e <= a for e in values) / len(values) for a, b in itertools.pairwise(edges))
    assert metrics.auc_at(values, limit) == pytest.approx(area / limit, abs=1e-12)
    assert metrics.failure_rate(values, limit) == pytest.approx(sum(e > limit for e in values) / len(values))


@given(errors)
def test_cumulative_errors_are_shares(values: list[float]) -> None:
    at, share = metrics.cumulative_errors(values)
    assert at.tolist() == sorted(values)
    assert share[-1] == 1
    for error, part in zip(at, share, strict=True):
        # With equal errors, the last of them stands for all.
        assert part <= sum(e <= error for e in values) / len(values) + 1e-12


def test_perfect_and_useless() -> None:
    assert metrics.auc_at([0, 0]) == 1
    assert metrics.auc_at([0.08, 1]) == 0
    assert metrics.failure_rate([0.08, 0.09], 0.08) == 0.5


def test_wrong_input() -> None:
    predicted, true = points(2)
    with pytest.raises(ShapeError, match="differ in shape"):
        metrics.nme(predicted[:1], true)
    with pytest.raises(ShapeError):
        metrics.nme(predicted[..., :1], true[..., :1])
    with pytest.raises(ShapeError, match="68- or 70-point"):
        metrics.nme(predicted[:, :5], true[:, :5])
    with pytest.raises(ShapeError, match="one size for each face"):
        metrics.nme(predicted, true, normaliser=[1.0])
    with pytest.raises(ValueRangeError, match="no size"):
        metrics.nme(predicted, np.zeros_like(true))
    with pytest.raises(OptionError, match="interocular"):
        metrics.nme(predicted, true, normaliser="interocullar")
    with pytest.raises(ValueRangeError, match="not finite"):
        metrics.nme(np.full_like(predicted, np.nan), true)
    with pytest.raises(DtypeError):
        metrics.nme(predicted.astype(str), true)
    for figure in (metrics.auc_at, metrics.failure_rate, metrics.cumulative_errors):
        for wrong in ([], [-0.1], [np.nan]):
            with pytest.raises(ValueRangeError):
                figure(wrong)
    with pytest.raises(ValueRangeError):
        metrics.auc_at([0.1], 0)


def test_the_sampled_area_is_the_mean_of_the_curve_at_its_thresholds() -> None:
    errors = np.random.default_rng(0).uniform(0, 0.1, 57)
    curve = [sum(e < i * 0.07 / 70 for e in errors) / 57 for i in range(70)]
    assert metrics.auc_sampled(errors) == pytest.approx(sum(curve) / 70)
    assert metrics.auc_sampled(errors, thresholds=70_000) == pytest.approx(metrics.auc_at(errors, 0.07), abs=1e-4)
    assert metrics.auc_sampled([0.0]) == pytest.approx(69 / 70)  # the first threshold is 0
    assert metrics.auc_sampled([0.5]) == 0
    for wrong in ({"limit": 0.0}, {"thresholds": 0}):
        with pytest.raises(ValueRangeError):
            metrics.auc_sampled(errors, **wrong)
