"""VAL@FAR by folds, and folds that share people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien import metrics
from mien.errors import ValueRangeError


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.sampled_from([0.5, 0.1, 0.05]))
def test_rates_by_folds_are_what_one_counts_by_hand(seed: int, folds: int, fmr: float) -> None:
    rng = np.random.default_rng(seed)
    n = 40 * folds
    fold, same = np.arange(n) % folds, np.arange(n) // folds % 2 == 0
    scores = np.round(rng.standard_normal(n) + 1.5 * same, 1)  # many ties
    told = metrics.kfold_tar_at_fmr(scores, same, fold, fmr)
    tars, fmrs = [], []
    for k in range(folds):
        others = sorted(scores[(fold != k) & ~same])
        # The lowest of all thresholds that keep the rate.
        levels = [np.nextafter(s, np.inf) for s in others] + [min(scores)]
        kept = [t for t in levels if np.mean([s >= t for s in others]) <= fmr]
        threshold = min(kept)
        assert told.thresholds[k] == threshold
        tars.append(np.mean([s >= threshold for s in scores[(fold == k) & same]]))
        fmrs.append(np.mean([s >= threshold for s in scores[(fold == k) & ~same]]))
    assert told.tars == pytest.approx(tars)
    assert told.fmrs == pytest.approx(fmrs)
    assert told.tar == pytest.approx(np.mean(tars))
    assert told.measured_fmr == pytest.approx(np.mean(fmrs))
    assert told.standard_error == pytest.approx(np.std(tars, ddof=1) / np.sqrt(folds))
    assert told.to_dict()["folds"] == tuple(str(k) for k in range(folds))


def test_the_threshold_of_a_fold_does_not_see_it() -> None:
    rng = np.random.default_rng(0)
    fold, same = np.arange(400) % 4, np.arange(400) // 4 % 2 == 0
    scores = rng.standard_normal(400) + same
    before = metrics.kfold_tar_at_fmr(scores, same, fold, 0.1).thresholds[1]
    scores[fold == 1] += 5
    assert metrics.kfold_tar_at_fmr(scores, same, fold, 0.1).thresholds[1] == before


def test_what_folds_cannot_measure() -> None:
    with pytest.raises(ValueRangeError, match="one fold"):
        metrics.kfold_tar_at_fmr([0, 1], [0, 1], [1, 1], 0.5)
    with pytest.raises(ValueRangeError, match="too few impostor"):
        metrics.kfold_tar_at_fmr([0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 2, 2], 0.5)


def test_people_across_folds() -> None:
    people = [["a", "b"], ["c", "c"], ["a", "d"], ["e", "b"]]
    assert metrics.people_across_folds(people, [1, 1, 2, 1]) == ["a"]
    assert metrics.people_across_folds(people, [1, 2, 1, 1]) == []
