"""Verification figures derived again by plain loops, on scores with many ties."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien import metrics
from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.metrics import verification
from mien.metrics.bootstrap import counts as counts_of
from mien.metrics.verification import USUAL_FMRS

Scores = NDArray[np.float64]
Same = NDArray[np.bool_]


@st.composite
def comparisons(draw: st.DrawFn, most: int = 30) -> tuple[Scores, Same]:
    """Scores on a grid, so that many are equal, with some comparisons of both kinds."""
    n = draw(st.integers(2, most))
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    same = draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))
    return np.array(scores) / 8, np.array([True, False, *same])


def normal(n: int, m: int, *, seed: int = 0, apart: float = 2.0) -> tuple[Scores, Same]:
    """n genuine and m impostor scores of two normal distributions, in any order."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(apart, 1, n), rng.normal(0, 1, m)])
    order = rng.permutation(n + m)
    return scores[order], (np.arange(n + m) < n)[order]


def naive_rates(scores: Scores, same: Same, threshold: float) -> tuple[float, float]:
    """FMR and FNMR by counting."""
    genuine = [s for s, g in zip(scores, same, strict=True) if g]
    impostor = [s for s, g in zip(scores, same, strict=True) if not g]
    return (
        sum(s >= threshold for s in impostor) / len(impostor),
        sum(s < threshold for s in genuine) / len(genuine),
    )


def naive_curve(scores: Scores, same: Same) -> list[tuple[float, float, float]]:
    """Threshold, FMR and FNMR from "accept nothing" on."""
    thresholds = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    return [(t, *naive_rates(scores, same, t)) for t in thresholds]


# ------------------------------------------------------------------------------------------- the curve


@given(comparisons())
def test_roc_is_the_count_at_every_threshold(case: tuple[Scores, Same]) -> None:
    curve = metrics.roc(*case)
    expected = np.array(naive_curve(*case))
    np.testing.assert_array_equal(curve.thresholds, expected[:, 0])
    np.testing.assert_allclose(curve.fmr, expected[:, 1], atol=1e-15)
    np.testing.assert_allclose(curve.fnmr, expected[:, 2], atol=1e-15)
    np.testing.assert_allclose(curve.tar, 1 - expected[:, 2], atol=1e-15)


@given(comparisons())
def test_corners_bend_the_same_curve(case: tuple[Scores, Same]) -> None:
    """Every point left out lies on the line between its neighbours that stayed."""
    curve = metrics.roc(*case)
    corners = curve.corners()
    assert set(corners.thresholds) <= set(curve.thresholds)
    assert (corners.fmr[0], corners.fnmr[0], corners.fmr[-1], corners.fnmr[-1]) == (0, 1, 1, 0)
    kept = list(zip(corners.fmr, corners.fnmr, strict=True))
    for x, y in zip(curve.fmr, curve.fnmr, strict=True):
        on_a_piece = [
            min(a[0], b[0]) <= x <= max(a[0], b[0])
            and min(a[1], b[1]) <= y <= max(a[1], b[1])
            and abs((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) < 1e-12
            for a, b in itertools.pairwise(kept)
        ]
        assert any(on_a_piece)
    area = verification._auc_of
    assert area(corners.fmr[None], corners.fnmr[None])[0] == pytest.approx(metrics.auc(*case))


@given(comparisons())
def test_auc_is_how_often_a_genuine_score_wins(case: tuple[Scores, Same]) -> None:
    scores, same = case
    genuine, impostor = scores[same], scores[~same]
    wins = sum(1.0 if g > i else 0.5 if g == i else 0.0 for g in genuine for i in impostor)
    assert metrics.auc(scores, same) == pytest.approx(wins / len(genuine) / len(impostor))


@given(comparisons())
def test_eer_is_where_the_lines_between_the_points_cross(case: tuple[Scores, Same]) -> None:
    curve = naive_curve(*case)
    for (_, fmr0, fnmr0), (_, fmr1, fnmr1) in itertools.pairwise(curve):
        if fmr1 >= fnmr1:
            # fmr0 + s (fmr1 - fmr0) = fnmr0 + s (fnmr1 - fnmr0), solved for s
            s = (fnmr0 - fmr0) / ((fmr1 - fmr0) - (fnmr1 - fnmr0))
            crossing = fmr0 + s * (fmr1 - fmr0)
            break
    assert metrics.eer(*case) == pytest.approx(crossing)
    assert 0 <= metrics.eer(*case) <= 1


@pytest.mark.parametrize(
    ("genuine", "impostor", "eer", "auc"),
    [
        ([3, 4], [1, 2], 0.0, 1.0),
        ([1, 2], [3, 4], 1.0, 0.0),
        ([1, 1], [1, 1], 0.5, 0.5),
        ([1, 2, 3, 4], [0, 1, 2, 3], 0.375, 0.71875),
        ([5, 1], [3, 0], 0.5, 0.75),
    ],
)
def test_eer_and_auc_by_hand(genuine: list[float], impostor: list[float], eer: float, auc: float) -> None:
    scores, same = [*genuine, *impostor], [1] * len(genuine) + [0] * len(impostor)
    assert metrics.eer(scores, same) == pytest.approx(eer)
    assert metrics.auc(scores, same) == pytest.approx(auc)


def test_eer_and_auc_of_normal_distributions() -> None:
    """Two normals d apart: EER is the tail beyond d/2, AUC the normal distribution at d / sqrt 2."""
    scores, same = normal(40_000, 40_000, apart=2)
    beyond = 0.5 * math.erfc(1 / math.sqrt(2))
    assert metrics.eer(scores, same) == pytest.approx(beyond, abs=0.004)
    assert metrics.auc(scores, same) == pytest.approx(1 - 0.5 * math.erfc(1), abs=0.003)


@given(comparisons(), st.sampled_from([1.0, 0.25, 3.0]), st.integers(-2, 2))
def test_rates_do_not_change_with_the_scale_of_the_scores(case: tuple[Scores, Same], scale: float, shift: int) -> None:
    scores, same = case
    for figure in (metrics.eer, metrics.auc):
        assert figure(scores * scale + shift, same) == pytest.approx(figure(scores, same))
        assert figure(scores[::-1], same[::-1]) == pytest.approx(figure(scores, same))
    # The other way round, what was accepted is refused.
    assert metrics.auc(-scores, same) == pytest.approx(1 - metrics.auc(scores, same))


def test_det_is_a_straight_line_of_slope_minus_one_for_equal_normals() -> None:
    x, y = metrics.roc(*normal(30_000, 30_000)).det()
    inner = (np.abs(x) < 2) & (np.abs(y) < 2)
    slope, intercept = np.polyfit(x[inner], y[inner], 1)
    assert slope == pytest.approx(-1, abs=0.05)
    assert intercept == pytest.approx(-2, abs=0.05)
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()


# ------------------------------------------------------------------------------------------- thresholds


def naive_threshold(scores: Scores, same: Same, fmr: float) -> float:
    """Of all thresholds that decide differently, the lowest that keeps the rate."""
    candidates = sorted({*scores.tolist(), *np.nextafter(scores, np.inf).tolist()})
    return next(t for t in candidates if naive_rates(scores, same, t)[0] <= fmr + 1e-12)


@given(comparisons(), st.floats(0.01, 1))
def test_threshold_at_fmr_is_the_lowest_that_keeps_the_rate(case: tuple[Scores, Same], fmr: float) -> None:
    scores, same = case
    if fmr * int((~same).sum()) < 1:
        with pytest.raises(ValueRangeError, match="too few impostor comparisons"):
            metrics.threshold_at_fmr(scores, same, fmr)
        return
    threshold = metrics.threshold_at_fmr(scores, same, fmr)
    assert threshold == naive_threshold(scores, same, fmr)
    rates = metrics.error_rates(scores, same, threshold)
    assert rates.fmr <= fmr + 1e-12
    assert metrics.fnmr_at_fmr(scores, same, fmr) == pytest.approx(rates.fnmr)
    assert metrics.tar_at_far(scores, same, fmr) == pytest.approx(1 - rates.fnmr)
    if threshold > scores.min():
        lower = np.nextafter(threshold, -np.inf)
        assert naive_rates(scores, same, float(lower))[0] > fmr - 1e-12


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_threshold_refuses_what_it_should_in_the_scores_own_type(kind: type) -> None:
    """0.1 in float32 lies above 0.1 in float64: a threshold between them would refuse nothing."""
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], kind)
    same = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    threshold = metrics.threshold_at_fmr(scores, same, 0.25)
    accepted = scores >= threshold  # a Python number takes the array's type here
    assert (accepted & ~same).sum() == 1
    assert (accepted & same).sum() == 2


@pytest.mark.parametrize("fmr", [1e-1, 1e-2, 1e-3])
def test_a_rate_that_is_no_binary_fraction_still_allows_its_number(fmr: float) -> None:
    """1e-3 of 3,000 are 3, not 2.9999."""
    m = round(3 / fmr)
    scores, same = normal(500, m, seed=3)
    threshold = metrics.threshold_at_fmr(scores, same, fmr)
    assert ((scores >= threshold) & ~same).sum() == 3


def test_all_impostors_equal() -> None:
    scores, same = [0.5, 0.5, 0.5, 0.9, 0.4], [0, 0, 0, 1, 1]
    assert metrics.threshold_at_fmr(scores, same, 0.5) == np.nextafter(0.5, 1)
    assert metrics.fnmr_at_fmr(scores, same, 0.5) == 0.5
    assert metrics.threshold_at_fmr(scores, same, 1.0) == 0.4
    assert metrics.fnmr_at_fmr(scores, same, 1.0) == 0.0


@given(comparisons(), st.integers(-5, 5))
def test_error_rates_are_counts(case: tuple[Scores, Same], at: int) -> None:
    scores, same = case
    threshold = at / 8
    rates = metrics.error_rates(scores, same, threshold)
    fmr, fnmr = naive_rates(scores, same, threshold)
    assert (rates.fmr, rates.fnmr) == (pytest.approx(fmr), pytest.approx(fnmr))
    assert rates.false_matches == sum(s >= threshold and not g for s, g in zip(scores, same, strict=True))
    assert rates.false_non_matches == sum(s < threshold and g for s, g in zip(scores, same, strict=True))
    assert rates.genuine + rates.impostor == len(scores)
    right = sum((s >= threshold) == g for s, g in zip(scores, same, strict=True))
    assert rates.accuracy == pytest.approx(right / len(scores))
    assert json.loads(json.dumps(rates.to_dict()))["threshold"] == threshold


# ------------------------------------------------------------------------------------------- folds


def naive_kfold(scores: Scores, same: Same, folds: NDArray[Any]) -> list[float]:
    """Of each fold, the accuracy at the threshold that is best on the others, all thresholds tried."""
    accuracies = []
    for fold in sorted(set(folds.tolist())):
        others = folds != fold
        ranked = sorted(set(scores[others].tolist()))
        candidates = [-math.inf, *((a + b) / 2 for a, b in itertools.pairwise(ranked)), math.inf]
        right = [int(((scores[others] >= t) == same[others]).sum()) for t in candidates]
        best = [t for t, r in zip(candidates, right, strict=True) if r == max(right)]
        # Falling order, the middle one, as the docstring says.
        threshold = best[::-1][len(best) // 2]
        held = folds == fold
        accuracies.append(float(((scores[held] >= threshold) == same[held]).mean()))
    return accuracies


@given(comparisons(), st.integers(2, 4), st.integers(0, 99))
def test_kfold_is_the_protocol_of_lfw(case: tuple[Scores, Same], k: int, seed: int) -> None:
    scores, same = case
    folds = np.random.default_rng(seed).integers(0, k, len(scores))
    if len(set(folds.tolist())) < 2:
        return
    result = metrics.kfold_accuracy(scores, same, folds)
    expected = naive_kfold(scores, same, folds)
    assert result.accuracies == pytest.approx(expected)
    assert result.accuracy == pytest.approx(sum(expected) / len(expected))
    mean = sum(expected) / len(expected)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in expected) / (len(expected) - 1))
    assert result.standard_error == pytest.approx(deviation / math.sqrt(len(expected)))
    assert result.folds == tuple(str(f) for f in sorted(set(folds.tolist())))


def test_kfold_by_hand() -> None:
    """Fold b has its best threshold elsewhere: what is right for the others is wrong for it."""
    scores = [0.9, 0.8, 0.2, 0.1, 0.45, 0.40, 0.35, 0.30]
    same = [1, 1, 0, 0, 1, 1, 0, 0]
    folds = ["a"] * 4 + ["b"] * 4
    result = metrics.kfold_accuracy(scores, same, folds)
    # On a the middle of 0.8 and 0.2 is best, which refuses all of b; on b that of 0.40 and 0.35.
    assert result.thresholds == (pytest.approx(0.375), pytest.approx(0.5))
    assert result.accuracies == (1.0, 0.5)
    assert result.accuracy == 0.75
    assert result.standard_error == pytest.approx(0.25)
    assert json.loads(json.dumps(result.to_dict()))["folds"] == ["a", "b"]


def test_kfold_never_looks_at_the_fold_it_measures() -> None:
    scores, same = normal(200, 200, seed=5)
    folds = np.arange(400) % 5
    before = metrics.kfold_accuracy(scores, same, folds)
    changed = np.where(folds == 2, -scores, scores)
    after = metrics.kfold_accuracy(changed, same, folds)
    assert after.thresholds[2] == before.thresholds[2]
    assert after.accuracies[2] != before.accuracies[2]


def test_neighbouring_floats_are_told_apart() -> None:
    """Half way between two neighbouring numbers is no number; it must not round down to the impostor."""
    high = 0.3
    low = float(np.nextafter(high, 0))
    scores, same, folds = [high, low] * 4, [1, 0] * 4, [0, 0, 1, 1, 2, 2, 3, 3]
    assert metrics.kfold_accuracy(scores, same, folds).accuracy == 1.0


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueRangeError, match="no others"):
        metrics.kfold_accuracy([0.1, 0.9], [0, 1], [3, 3])


# ------------------------------------------------------------------------------------------- intervals


METRICS = ("auc", "eer", "threshold_at_fmr", "fnmr_at_fmr", "tar_at_far")
DIRECT = {
    "auc": lambda s, g, f: metrics.auc(s, g),
    "eer": lambda s, g, f: metrics.eer(s, g),
    "threshold_at_fmr": metrics.threshold_at_fmr,
    "fnmr_at_fmr": metrics.fnmr_at_fmr,
    "tar_at_far": metrics.tar_at_far,
}


def naive_draws(metric: str, scores: Scores, same: Same, fmr: float, repeats: int, seed: int) -> Scores:
    """The figure on sets in which genuine and impostor comparisons are drawn apart, with replacement."""
    rng = np.random.default_rng(seed)
    genuine, impostor = scores[same], scores[~same]
    labels = np.arange(len(scores)) < len(genuine)
    draws = []
    for _ in range(repeats):
        redrawn = np.concatenate([rng.choice(genuine, len(genuine)), rng.choice(impostor, len(impostor))])
        draws.append(DIRECT[metric](redrawn, labels, fmr))
    return np.array(draws)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_the_quick_bootstrap_has_the_distribution_of_the_plain_one(metric: str, ties: bool) -> None:
    """Quantiles of 2,000 redrawn figures agree within the noise of the comparison."""
    scores, same = normal(150, 300, seed=1)
    scores = scores.round(0 if ties else 9)
    interval = metrics.verification_interval(metric, scores, same, fmr=0.05, repeats=2000, level=0.8, seed=2)
    naive = naive_draws(metric, scores, same, 0.05, 2000, 3)
    assert interval.value == pytest.approx(DIRECT[metric](scores, same, 0.05))
    # Rates go in steps of one comparison, so a quantile may fall on the next step.
    noise = 0.15 * float(naive.std()) + 1 / 300
    assert interval.low == pytest.approx(float(np.quantile(naive, 0.1)), abs=noise)
    assert interval.high == pytest.approx(float(np.quantile(naive, 0.9)), abs=noise)


@pytest.mark.parametrize("metric", METRICS)
def test_people_are_redrawn_by_weights(metric: str) -> None:
    """Each person once in every set: the figure itself, and a person drawn twice counts twice."""
    rng = np.random.default_rng(4)
    people = np.array([(a, b) for a in range(12) for b in range(a, 12)])
    same = people[:, 0] == people[:, 1]
    scores = rng.normal(np.where(same, 1.5, 0), 1)
    got = metrics.verification_interval(metric, scores, same, fmr=0.1, people=people, repeats=400, level=0.9, seed=5)

    def figure(rows: NDArray[np.intp]) -> float:
        if not same[rows].any() or same[rows].all():
            return math.nan
        try:
            return float(DIRECT[metric](scores[rows], same[rows], 0.1))
        except ValueRangeError:  # fewer impostors than the rate can be measured on
            return math.nan

    draws = []
    for counts in counts_of(len(scores), people=people, repeats=400, seed=5):
        draws += [figure(np.repeat(np.arange(len(scores)), row)) for row in counts]
    naive = np.array(draws)
    naive = naive[~np.isnan(naive)]
    assert got.value == pytest.approx(DIRECT[metric](scores, same, 0.1))
    low, high = np.quantile(naive, [0.05, 0.95], method="closest_observation")
    assert got.low == pytest.approx(low)
    assert got.high == pytest.approx(high)


@pytest.mark.parametrize("metric", ["eer", "fnmr_at_fmr"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(metric: str) -> None:
    """On sets drawn from known distributions; 150 sets leave a standard error of 3 % on a share of 80 %."""
    # Two normals 2 apart. EER: beyond 1. FNMR at FMR 0.1: the threshold is 1.2816, so the tail below -0.7184.
    truth = {"eer": 0.15866, "fnmr_at_fmr": 0.23625}[metric]
    inside = 0
    for seed in range(150):
        scores, same = normal(150, 150, seed=seed)
        got = metrics.verification_interval(metric, scores, same, fmr=0.1, repeats=150, level=0.8, seed=seed)
        inside += got.low <= truth <= got.high
    assert 0.68 <= inside / 150 <= 0.91


def test_recurring_people_make_wider_intervals() -> None:
    """A hundred pictures each of six people are no 600 independent tries."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(6), 200)
    same = np.arange(1200) % 2 == 0
    scores = rng.normal(np.where(same, 1.5, 0) + rng.normal(0, 1, 6)[who], 0.3)
    pairs = np.stack([who, who], axis=1)
    rows = metrics.verification_interval("eer", scores, same, seed=1)
    people = metrics.verification_interval("eer", scores, same, people=pairs, seed=1)
    assert people.value == rows.value
    assert people.high - people.low > 2 * (rows.high - rows.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores, same = normal(50, 100)
    for metric in METRICS:
        one, two, other = (
            metrics.verification_interval(metric, scores, same, fmr=0.1, repeats=50, seed=s) for s in (7, 7, 8)
        )
        assert one == two
        assert (one.low, one.high) != (other.low, other.high)
        assert one.repeats == 50


# ------------------------------------------------------------------------------------------- calibrate


def test_calibrate_gives_what_the_single_figures_give() -> None:
    scores, same = normal(400, 2000)
    table = metrics.calibrate(scores, same, repeats=100)
    assert [point.fmr for point in table.points] == [1e-2, 1e-3]
    assert (table.genuine, table.impostor, table.drawn) == (400, 2000, "comparisons")
    for point in table.points:
        assert point.threshold.value == metrics.threshold_at_fmr(scores, same, point.fmr)
        assert point.fnmr.value == pytest.approx(metrics.fnmr_at_fmr(scores, same, point.fmr))
        assert point.measured_fmr <= point.fmr
        assert point.false_matches == round(point.measured_fmr * 2000)
        assert point.threshold.low <= point.threshold.value <= point.threshold.high
    assert table.points[0].threshold.value < table.points[1].threshold.value
    assert table.at(1e-3) is table.points[1]
    with pytest.raises(ValueRangeError, match=r"0\.01, 0\.001"):
        table.at(0.5)


def test_calibrations_travel_as_json() -> None:
    scores, same = normal(50, 400)
    table = metrics.calibrate(scores, same, fmrs=[0.1, 0.02], repeats=20)
    assert metrics.Calibration.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_calibrate_with_people_says_so() -> None:
    people = np.array([(a, b) for a in range(20) for b in range(a, 20)])
    same = people[:, 0] == people[:, 1]
    scores = np.random.default_rng(0).normal(np.where(same, 2.0, 0), 1)
    table = metrics.calibrate(scores, same, fmrs=[0.1], people=people, repeats=50)
    assert table.drawn == "people"
    assert table.points[0].threshold.low < table.points[0].threshold.high


def test_rates_that_cannot_be_measured() -> None:
    scores, same = normal(50, 99)
    with pytest.raises(ValueRangeError, match="too few impostor comparisons") as caught:
        metrics.calibrate(scores, same)
    # Doddington's rule of 30 is told: so many for an estimate within 30 %.
    assert "at least 100, better 3,000" in str(caught.value)
    with pytest.raises(ValueRangeError):
        metrics.calibrate(scores, same, fmrs=[1e-3])
    assert max(USUAL_FMRS) == 1e-2


# ------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "figure",
    [
        metrics.roc,
        metrics.auc,
        metrics.eer,
        metrics.calibrate,
        lambda s, g: metrics.threshold_at_fmr(s, g, 0.5),
        lambda s, g: metrics.error_rates(s, g, 0.5),
        lambda s, g: metrics.kfold_accuracy(s, g, [0, 1]),
        lambda s, g: metrics.verification_interval("eer", s, g),
    ],
)
@pytest.mark.parametrize(
    ("scores", "same", "error"),
    [
        ([0.1, 0.2], [1, 1], ValueRangeError),
        ([0.1, 0.2], [0, 0], ValueRangeError),
        ([], [], ValueRangeError),
        ([0.1, np.nan], [0, 1], ValueRangeError),
        ([0.1, np.inf], [0, 1], ValueRangeError),
        ([0.1, 0.2, 0.3], [0, 1], ShapeError),
        ([[0.1, 0.2]], [0, 1], ShapeError),
        ([0.1, 0.2], [0, 2], DtypeError),
        (["a", "b"], [0, 1], DtypeError),
        ([True, False], [0, 1], DtypeError),
    ],
)
def test_what_is_no_set_of_comparisons(figure: Any, scores: Any, same: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        figure(scores, same)


def test_wrong_options() -> None:
    scores, same = normal(20, 40)
    with pytest.raises(OptionError, match="did you mean 'eer'"):
        metrics.verification_interval("err", scores, same)
    with pytest.raises(ValueRangeError, match="needs a false match rate"):
        metrics.verification_interval("fnmr_at_fmr", scores, same)
    for fmr in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueRangeError):
            metrics.threshold_at_fmr(scores, same, fmr)
    with pytest.raises(ValueRangeError):
        metrics.verification_interval("eer", scores, same, level=1.0)
    with pytest.raises(ValueRangeError):
        metrics.verification_interval("eer", scores, same, repeats=0)
    with pytest.raises(ShapeError):
        metrics.verification_interval("eer", scores, same, people=[[1, 2]])


def test_scikit_learn_agrees_where_it_is_installed() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is no dependency")
    scores, same = normal(300, 500, seed=9)
    scores = scores.round(1)
    assert metrics.auc(scores, same) == pytest.approx(sklearn.roc_auc_score(same, scores))
    fpr, tpr, _ = sklearn.roc_curve(same, scores, drop_intermediate=False)
    curve = metrics.roc(scores, same)
    np.testing.assert_allclose(curve.fmr, fpr)
    np.testing.assert_allclose(curve.tar, tpr)
