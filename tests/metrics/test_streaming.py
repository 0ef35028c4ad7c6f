"""All pairs counted by blocks, against all scores at once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien import metrics
from mien.errors import DeviceUnavailable, ShapeError, ValueRangeError
from mien.metrics import streaming
from mien.metrics.streaming import BINS, STEPS, WIDTH, ZERO, PairCounts, compare_all, exact_scores, unit_rows
from mien.verbs._score import similarity

Rows = NDArray[np.float32]


def made_up(n: int, people: int, seed: int = 0, d: int = 16) -> tuple[Rows, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    who = rng.integers(0, people, n)
    centres = rng.standard_normal((people, d))
    return (centres[who] + 0.8 * rng.standard_normal((n, d))).astype(np.float32), who


def all_pairs(rows: Rows, who: Any) -> tuple[Rows, NDArray[np.bool_], list[tuple[int, int]]]:
    """Scores, whether they are genuine, and the rows of every pair, one after the other."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    unit = unit_rows("rows", rows)
    scores = np.array([exact_scores(unit[i : i + 1], unit[j : j + 1])[0] for i, j in pairs])
    return scores, np.array([who[i] == who[j] for i, j in pairs]), pairs


@pytest.mark.parametrize("block", [(1, 1), (7, 5), (16, 64), (200, 200)])
@pytest.mark.parametrize("threads", [1, 3])
def test_counts_are_those_of_all_pairs(block: tuple[int, int], threads: int) -> None:
    rows, who = made_up(60, 12)
    scores, same, pairs = all_pairs(rows, who)
    told = compare_all(rows, who, top=50, block=block, threads=threads)
    assert (told.pairs, int(told.genuine.sum())) == (len(scores), int(same.sum()))
    # A score on an edge may fall to either side of it, by its rounding; this set has none.
    for counted, kind in ((told.genuine, same), (told.impostor, ~same)):
        np.testing.assert_array_equal(
            counted, np.bincount(np.floor(scores[kind] * STEPS).astype(int) + ZERO, minlength=BINS)
        )
    assert told.genuine_scores is not None
    np.testing.assert_array_equal(told.genuine_scores, np.sort(scores[same]))
    best = np.sort(scores[~same])[::-1][:50]
    np.testing.assert_array_equal(told.best_impostors, best)
    of_pair = dict(zip(pairs, scores, strict=True))
    for score, (i, j) in zip(told.best_impostors, told.best_pairs.tolist(), strict=True):
        assert of_pair[i, j] == score
        assert who[i] != who[j]


def test_exact_scores_are_those_of_the_verbs() -> None:
    rows, _ = made_up(40, 5)
    unit = unit_rows("rows", rows)
    np.testing.assert_array_equal(exact_scores(unit[:20], unit[20:]), similarity(unit[:20], unit[20:]))


@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(2, 6), st.integers(0, 2**32 - 1), st.sampled_from([0, 3, 1000]))
def test_figures_lie_within_a_bin_of_the_exact_ones(n: int, people: int, seed: int, top: int) -> None:
    rows, who = made_up(n, people, seed)
    scores, same, _ = all_pairs(rows, who)
    if same.all() or not same.any():
        with pytest.raises(ValueRangeError, match="one kind"):
            compare_all(rows, who).roc()
        return
    told = compare_all(rows, who, top=top, block=(8, 16))
    impostors, genuine = scores[~same], scores[same]
    for fmr in (0.5, 0.2, 1.5 / len(impostors)):
        if not 1 <= fmr * len(impostors) < len(impostors):
            continue
        exact, point = metrics.threshold_at_fmr(scores, same, fmr), told.at_fmr(fmr)
        assert point.exact == (int(fmr * len(impostors)) < min(top, len(impostors)))
        if point.exact:
            assert point.threshold == exact
        else:
            assert -1e-6 <= point.threshold - exact < WIDTH + 1e-6
        assert point.measured_fmr <= fmr
        # At an edge, rounding may take a score to the other side.
        accepted, refused = (impostors >= np.float32(point.threshold)).sum(), (genuine < point.threshold).sum()
        assert abs(point.false_matches - accepted) <= (0 if point.exact else 1)
        assert point.fnmr * len(genuine) == pytest.approx(refused, abs=1e-9)
    assert told.at_fmr(1.0).false_matches == len(impostors)
    assert told.at_fmr(1.0).fnmr == 0
    assert abs(told.auc() - metrics.auc(scores, same)) <= told.auc_error() + 1e-9
    curve = told.roc()
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.fmr) >= 0).all()
    assert (np.diff(curve.fnmr) <= 0).all()
    assert (curve.fmr[0], curve.fnmr[0], curve.fmr[-1], curve.fnmr[-1]) == (0, 1, 1, pytest.approx(0))
    for threshold, fmr, fnmr in zip(curve.thresholds[1:], curve.fmr[1:], curve.fnmr[1:], strict=True):
        assert abs(fmr * len(impostors) - (impostors >= threshold).sum()) < 1.01
        assert abs(fnmr * len(genuine) - (genuine < threshold).sum()) < 1.01


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_and_the_names_of_people_do_not_matter(seed: int) -> None:
    rows, who = made_up(30, 6, seed)
    order = np.random.default_rng(seed).permutation(30)
    plain = compare_all(rows, who, top=20, block=(8, 8))
    turned = compare_all(rows[order], np.array([f"person {w}" for w in who[order]]), top=20, block=(8, 8))
    # The product's rounding depends on where in a block a pair lies, so that a score at an edge may change its bin.
    for one, other in ((plain.genuine, turned.genuine), (plain.impostor, turned.impostor)):
        assert one.sum() == other.sum()
        assert np.abs(np.cumsum(one) - np.cumsum(other)).max() <= 1
    np.testing.assert_array_equal(plain.best_impostors, turned.best_impostors)
    assert {tuple(sorted(pair)) for pair in order[turned.best_pairs].tolist()} == {
        tuple(p) for p in plain.best_pairs.tolist()
    }


def test_equal_pictures_and_opposite_ones_have_their_bins() -> None:
    rows = np.array([[1, 0], [1, 0], [-1, 0], [0, 1]], np.float32)
    told = compare_all(rows, [0, 1, 2, 0])
    assert told.impostor[ZERO + STEPS] == 1  # cosine 1
    assert told.impostor[ZERO - STEPS] == 2  # cosine -1
    assert (told.genuine[ZERO], told.impostor[ZERO]) == (1, 2)  # cosine 0
    assert told.impostor[0] == 0
    assert told.best_impostors.tolist() == [1, 0, 0, -1, -1]
    assert told.best_pairs[0].tolist() == [0, 1]
    assert told.edges[ZERO] == 0
    assert told.edges[ZERO + STEPS] == 1


def test_ties_are_accepted_or_refused_together() -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    told = compare_all(rows, [0, 0, 1, 1, 2, 3])
    # Impostors: one pair with cosine 1 (rows 4 and 5), the others with 0.
    assert told.at_fmr(0.5).false_matches == 1
    assert told.at_fmr(1.0).false_matches == int(told.impostor.sum())


def test_two_different_sides() -> None:
    rows, who = made_up(25, 5, 1)
    others, whose = made_up(17, 7, 2)
    told = compare_all(rows, who, others=others, other_identities=whose, top=10, block=(4, 6))
    left, right = unit_rows("a", rows), unit_rows("b", others)
    pairs = list(itertools.product(range(25), range(17)))
    scores = np.array([exact_scores(left[i : i + 1], right[j : j + 1])[0] for i, j in pairs])
    same = np.array([who[i] == whose[j] for i, j in pairs])
    assert told.pairs == 25 * 17
    np.testing.assert_array_equal(told.genuine_scores, np.sort(scores[same]))
    np.testing.assert_array_equal(told.best_impostors, np.sort(scores[~same])[::-1][:10])
    for score, (i, j) in zip(told.best_impostors, told.best_pairs.tolist(), strict=True):
        assert exact_scores(left[i : i + 1], right[j : j + 1])[0] == score


def test_genuine_scores_that_are_too_many_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, who = made_up(40, 4)
    kept = compare_all(rows, who, top=0)
    monkeypatch.setattr(streaming, "KEPT_GENUINE", 3)
    told = compare_all(rows, who, top=0)
    assert told.genuine_scores is None
    np.testing.assert_array_equal(told.genuine, kept.genuine)
    # Thresholds are edges of bins, where counts are exact.
    assert told.at_fmr(0.1) == kept.at_fmr(0.1)


def test_progress_ends_at_all_pairs() -> None:
    rows, who = made_up(50, 5)
    seen: list[tuple[int, int]] = []
    compare_all(rows, who, block=(8, 8), threads=2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50 * 49 // 2, 50 * 49 // 2)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_settings_of_torch_are_put_back() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    compare_all(*made_up(10, 3), threads=2)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_what_cannot_be_compared() -> None:
    rows, who = made_up(6, 2)
    with pytest.raises(ValueRangeError, match="at least 2"):
        compare_all(rows[:1], who[:1])
    with pytest.raises(ValueRangeError, match="without a direction"):
        compare_all(np.zeros((3, 4)), [0, 1, 2])
    with pytest.raises(ShapeError):
        compare_all(rows, who[:3])
    with pytest.raises(ShapeError, match="different length"):
        compare_all(rows, who, others=np.ones((2, 3)), other_identities=[0, 1])
    with pytest.raises(ValueRangeError, match="belong together"):
        compare_all(rows, who, others=rows)
    with pytest.raises(ValueRangeError, match="too few impostor"):
        compare_all(rows, who).at_fmr(1e-3)
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable):
            compare_all(rows, who, device="cuda")


def test_only_one_kind_of_pairs_has_no_figures() -> None:
    told = compare_all(np.eye(3), [0, 0, 0])
    assert isinstance(told, PairCounts)
    with pytest.raises(ValueRangeError, match="one kind"):
        told.eer()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_counts_the_same() -> None:
    rows, who = made_up(3000, 300, d=128)
    here, there = compare_all(rows, who, top=500), compare_all(rows, who, top=500, device="cuda", block=(512, 1024))
    np.testing.assert_array_equal(here.best_impostors, there.best_impostors)
    np.testing.assert_array_equal(here.genuine_scores, there.genuine_scores)
    assert np.abs(np.cumsum(here.impostor) - np.cumsum(there.impostor)).max() <= 1e-5 * here.pairs
