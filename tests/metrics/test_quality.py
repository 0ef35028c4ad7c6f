"""Error versus discard, by discarding."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien import metrics
from mien.errors import DtypeError, ShapeError, ValueRangeError

Array = NDArray[np.float64]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, NDArray[np.bool_], Array, Array]:
    """Scores, kinds and two qualities, all on coarse grids; one genuine comparison at least."""
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    same = rng.random(n) < 0.6
    same[0] = True
    return rng.integers(0, 6, n) / 5, same, rng.integers(0, 5, n) / 4, rng.integers(0, 5, n) / 4


@given(cases(), st.sampled_from([0.3, 0.5, 0.9]))
def test_the_curve_is_what_remains_when_the_poorest_go(case: tuple[Array, ...], threshold: float) -> None:
    scores, same, a, b = case
    curve = metrics.error_versus_discard(scores, same, a, b, threshold=threshold)
    genuine = [(min(x, y), s < threshold) for s, g, x, y in zip(scores, same, a, b, strict=True) if g]
    rows = []
    for least in sorted({q for q, _ in genuine}):
        rest = [wrong for q, wrong in genuine if q >= least]
        rows.append((1 - len(rest) / len(genuine), sum(rest) / len(rest), least))
    expected = np.array(rows)
    np.testing.assert_allclose(curve.discarded, expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(curve.fnmr, expected[:, 1], atol=1e-12)
    np.testing.assert_allclose(curve.minimum_quality, expected[:, 2])
    assert curve.threshold == threshold
    assert curve.discarded[0] == 0
    assert curve.fnmr[0] == pytest.approx(float((scores[same] < threshold).mean()))


@given(cases(), st.floats(0.05, 0.95))
def test_area_is_the_mean_rate_up_to_the_limit(case: tuple[Array, ...], limit: float) -> None:
    curve = metrics.error_versus_discard(*case, threshold=0.5)
    steps = (np.arange(20_000) + 0.5) / 20_000 * limit
    assert curve.area(limit) == pytest.approx(np.mean([curve.at(x) for x in steps[::40]]), abs=0.01)
    exact = curve.fnmr[np.searchsorted(curve.discarded, steps, "right") - 1].mean()
    assert curve.area(limit) == pytest.approx(exact, abs=5e-4)


def test_by_hand() -> None:
    quality = [0.1, 0.2, 0.3, 0.4]
    curve = metrics.error_versus_discard([0.2, 0.9, 0.3, 0.8], [1] * 4, quality, [1] * 4, threshold=0.5)
    assert curve.discarded.tolist() == [0, 0.25, 0.5, 0.75]
    assert curve.fnmr == pytest.approx([1 / 2, 1 / 3, 1 / 2, 0])
    assert curve.at(0) == 0.5
    assert curve.at(0.24) == 0.5
    assert curve.at(0.25) == pytest.approx(1 / 3)
    assert curve.at(0.99) == 0
    assert curve.area(0.5) == pytest.approx((0.25 / 2 + 0.25 / 3) / 0.5)


def test_a_comparison_is_as_good_as_its_worse_picture() -> None:
    one = metrics.error_versus_discard([0.1, 0.9], [1, 1], [0.2, 0.8], [0.9, 0.9], threshold=0.5)
    two = metrics.error_versus_discard([0.1, 0.9], [1, 1], [0.9, 0.9], [0.2, 0.8], threshold=0.5)
    assert one.fnmr.tolist() == two.fnmr.tolist() == [0.5, 0.0]
    assert one.minimum_quality.tolist() == [0.2, 0.8]


def test_gain_is_one_for_an_oracle_and_zero_for_chance() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    scores, same = rng.random(n), np.ones(n)
    wrong = scores < 0.1
    oracle = metrics.error_versus_discard(scores, same, 1.0 - wrong + rng.random(n) * 0.5, [9] * n, threshold=0.1)
    chance = metrics.error_versus_discard(scores, same, rng.random(n), [9] * n, threshold=0.1)
    against = metrics.error_versus_discard(scores, same, wrong + rng.random(n) * 0.5, [9] * n, threshold=0.1)
    for limit in (0.05, 0.3, 0.8):
        assert oracle.gain(limit) == pytest.approx(1, abs=0.01)
        assert chance.gain(limit) == pytest.approx(0, abs=0.08)
        assert against.gain(limit) < -0.02
    # What an oracle leaves, integrated with small steps: (start - x) / (1 - x) until the errors are gone.
    start, x = float(wrong.mean()), (np.arange(100_000) + 0.5) / 100_000 * 0.3
    ideal = np.where(x < start, (start - x) / (1 - x), 0).mean()
    assert oracle.area(0.3) == pytest.approx(ideal, abs=1e-3)


def test_the_threshold_of_a_rate_is_made_on_the_whole_set() -> None:
    rng = np.random.default_rng(1)
    same = np.arange(600) < 300
    scores = rng.normal(np.where(same, 1.5, 0), 1)
    quality = rng.random(600)
    curve = metrics.error_versus_discard(scores, same, quality, quality, fmr=0.05)
    assert curve.threshold == metrics.threshold_at_fmr(scores, same, 0.05)
    assert curve.fnmr[0] == pytest.approx(metrics.fnmr_at_fmr(scores, same, 0.05))


def test_curves_are_plain_in_json() -> None:
    curve = metrics.error_versus_discard([0.1, 0.9], [1, 1], [0.2, 0.8], [1, 1], threshold=0.5)
    assert json.loads(json.dumps(curve.to_dict())) == {
        "discarded": [0, 0.5], "fnmr": [0.5, 0], "minimum_quality": [0.2, 0.8], "threshold": 0.5,
    }  # fmt: skip


def test_wrong_input() -> None:
    with pytest.raises(ValueRangeError, match="either fmr or threshold"):
        metrics.error_versus_discard([0.1], [1], [1], [1])
    with pytest.raises(ValueRangeError, match="either fmr or threshold"):
        metrics.error_versus_discard([0.1], [1], [1], [1], fmr=0.1, threshold=0.5)
    with pytest.raises(ValueRangeError, match="no genuine"):
        metrics.error_versus_discard([0.1], [0], [1], [1], threshold=0.5)
    with pytest.raises(ShapeError):
        metrics.error_versus_discard([0.1, 0.2], [1, 1], [1], [1, 1], threshold=0.5)
    with pytest.raises(DtypeError):
        metrics.error_versus_discard([0.1], ["yes"], [1], [1], threshold=0.5)
    with pytest.raises(ValueRangeError):
        metrics.error_versus_discard([0.1], [1], [np.nan], [1], threshold=0.5)
    curve = metrics.error_versus_discard([0.9], [1], [1], [1], threshold=0.5)
    with pytest.raises(ValueRangeError, match="nothing can be gained"):
        curve.gain()
    for limit in (0, 1, -0.1):
        with pytest.raises(ValueRangeError):
            curve.area(limit)
    with pytest.raises(ValueRangeError):
        curve.at(1)
