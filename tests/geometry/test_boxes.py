"""Boxes: agreement with plain loops, and the laws of overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry import boxes as bx

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def random_boxes(rng: np.random.Generator, n: int, *, grid: bool = False) -> Array:
    """Boxes crowded enough to overlap; on a grid, so that many overlaps and scores are equal."""
    corner, sides = rng.uniform(0, 60, (n, 2)), rng.uniform(0, 40, (n, 2))
    if grid:
        corner, sides = corner.round(-1), sides.round(-1)
    return np.concatenate([corner, corner + sides], axis=1)


def naive_iou(a: Array, b: Array) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    common = w * h if w > 0 and h > 0 else 0.0
    both = max(a[2] - a[0], 0) * max(a[3] - a[1], 0) + max(b[2] - b[0], 0) * max(b[3] - b[1], 0)
    return common / (both - common) if both > common else 0.0


def naive_nms(boxes: Array, scores: Array, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(naive_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@given(seeds, st.integers(0, 12), st.integers(0, 12))
def test_iou_is_that_of_the_loop(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, n), random_boxes(rng, m)
    overlap = bx.iou(a, b)
    assert overlap.shape == (n, m)
    expected = [[naive_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(overlap, np.reshape(expected, (n, m)), atol=1e-12)
    np.testing.assert_allclose(overlap, bx.iou(b, a).T, atol=1e-12)


@given(seeds, st.floats(0.1, 10), st.floats(-1000, 1000))
def test_iou_does_not_change_with_scale_and_place(seed: int, scale: float, shift: float) -> None:
    a = random_boxes(np.random.default_rng(seed), 6)
    np.testing.assert_allclose(bx.iou(a * scale + shift, a * scale + shift), bx.iou(a, a), atol=1e-6)


def test_iou_of_empty_and_inverted_boxes_is_zero() -> None:
    odd = [[5, 5, 5, 5], [10, 0, 0, 10], [10, 10, 0, 0]]
    assert not bx.iou(odd, [*odd, [0, 0, 10, 10]]).any()
    assert not bx.area(odd).any()


@given(seeds, st.integers(0, 40), st.floats(0, 1), st.booleans())
def test_nms_is_that_of_the_loop(seed: int, n: int, threshold: float, grid: bool) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, n, grid=grid)
    scores = rng.integers(0, 5, n) / 4 if grid else rng.random(n)
    assert bx.nms(boxes, scores, threshold).tolist() == naive_nms(boxes, scores, threshold)


@pytest.mark.parametrize("n", [bx.BLOCK - 1, bx.BLOCK, bx.BLOCK + 1, 3 * bx.BLOCK])
def test_nms_over_several_blocks(n: int) -> None:
    rng = np.random.default_rng(n)
    boxes, scores = random_boxes(rng, n) * [4, 4, 4, 4], rng.random(n)
    assert bx.nms(boxes, scores, 0.3).tolist() == naive_nms(boxes, scores, 0.3)


def test_nms_of_a_chain_needs_every_round() -> None:
    """Each box suppresses the next only if it stays itself: the longest chain of dependences there is."""
    x = np.arange(100.0)
    boxes = np.stack([x * 5, 0 * x, x * 5 + 10, 0 * x + 10], axis=1)
    assert bx.nms(boxes, -x, 0.3).tolist() == list(range(0, 100, 2))


@given(seeds, st.integers(0, 40))
def test_batched_nms_is_nms_of_each_group(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores, group = random_boxes(rng, n), rng.integers(0, 8, n) / 8, rng.integers(-2, 3, n)
    expected: list[int] = []
    for g in set(group.tolist()):
        rows = np.flatnonzero(group == g)
        expected += rows[naive_nms(boxes[rows], scores[rows], 0.4)].tolist()
    kept = bx.batched_nms(boxes, scores, 0.4, group).tolist()
    assert kept == sorted(expected, key=lambda i: (-scores[i], i))


def naive_match(boxes: Array, scores: Array, truth: Array, threshold: float, ignore: NDArray[np.bool_]) -> list[int]:
    match = [-1] * len(boxes)
    free = [True] * len(truth)
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        overlap = [naive_iou(boxes[i], t) for t in truth]
        real = [j for j in range(len(truth)) if overlap[j] >= threshold and not ignore[j] and free[j]]
        idle = [j for j in range(len(truth)) if overlap[j] >= threshold and ignore[j]]
        if real or idle:
            match[i] = max(real or idle, key=lambda j: overlap[j])
            free[match[i]] = False
    return match


@given(seeds, st.integers(0, 20), st.integers(0, 12), st.floats(0.05, 1), st.booleans())
def test_matching_is_that_of_the_loop(seed: int, n: int, m: int, threshold: float, with_ignored: bool) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores, truth = random_boxes(rng, n), rng.random(n), random_boxes(rng, m)
    ignore = rng.random(m) < (0.4 if with_ignored else 0)
    ours = bx.match_greedy(boxes, scores, truth, threshold, ignore=ignore)
    assert ours.tolist() == naive_match(boxes, scores, truth, threshold, ignore)


def test_a_face_is_found_once_and_the_better_detection_has_it() -> None:
    truth = [[0, 0, 10, 10]]
    assert bx.match_greedy([[0, 0, 9, 10], [0, 0, 10, 10]], [0.9, 0.5], truth).tolist() == [0, -1]
    ignored = bx.match_greedy([[0, 0, 9, 10], [0, 0, 10, 10]], [0.9, 0.5], truth, ignore=[1])
    assert ignored.tolist() == [0, 0]


@given(seeds)
def test_changes_of_form_round_trip(seed: int) -> None:
    b = random_boxes(np.random.default_rng(seed), 9)
    np.testing.assert_allclose(bx.xywh_to_xyxy(bx.xyxy_to_xywh(b)), b)
    np.testing.assert_allclose(bx.expand(bx.expand(b, 1.5), 1 / 1.5), b, atol=1e-9)
    np.testing.assert_allclose(bx.area(bx.expand(b, 2)), 4 * bx.area(b), atol=1e-9)
    square = bx.to_square(b)
    sides = bx.xyxy_to_xywh(square)[:, 2:]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    np.testing.assert_allclose(sides[:, 0], bx.xyxy_to_xywh(b)[:, 2:].max(1))
    np.testing.assert_allclose(square[:, :2] + square[:, 2:], b[:, :2] + b[:, 2:])


@given(seeds)
def test_clipped_boxes_lie_in_the_picture(seed: int) -> None:
    b = random_boxes(np.random.default_rng(seed), 20) - 20
    c = bx.clip(b, 50, 30)
    assert (c >= 0).all()
    assert (c[:, [0, 2]] <= 50).all()
    assert (c[:, [1, 3]] <= 30).all()
    np.testing.assert_allclose(bx.intersection(b, [[0, 0, 50, 30]])[:, 0], bx.area(c), atol=1e-9)


def test_from_points_and_inside() -> None:
    p = np.random.default_rng(0).normal(size=(4, 9, 3))
    b = bx.from_points(p)
    np.testing.assert_array_equal(b[:, 0], p[..., 0].min(1))
    np.testing.assert_array_equal(b[:, 3], p[..., 1].max(1))
    assert bx.inside(b, p[2, :, :2])[2].all()
    edges_and_beside = np.array([[0, 0], [2, 1], [2.1, 1], [1, -1]])
    np.testing.assert_array_equal(bx.inside([[0, 0, 2, 1]], edges_and_beside), [[1, 1, 0, 0]])


def test_dtype_is_kept() -> None:
    b = np.array([[0, 0, 3, 4]], np.float32)
    for result in (bx.area(b), bx.iou(b, b), bx.clip(b, 5, 5), bx.expand(b, 1.3), bx.to_square(b)):
        assert result.dtype == np.float32


@pytest.mark.parametrize(
    "call",
    [
        lambda: bx.iou(np.zeros((2, 3)), np.zeros((2, 4))),
        lambda: bx.nms(np.zeros((2, 4)), np.zeros(3), 0.5),
        lambda: bx.batched_nms(np.zeros((2, 4)), np.zeros(2), 0.5, [0]),
        lambda: bx.match_greedy(np.zeros((2, 4)), np.zeros(2), np.zeros((1, 4)), ignore=[True, False]),
        lambda: bx.from_points(np.zeros((1, 0, 2))),
    ],
)
def test_bad_shapes(call: object) -> None:
    with pytest.raises(ShapeError):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    "call",
    [
        lambda: bx.nms(np.zeros((1, 4)), [np.nan], 0.5),
        lambda: bx.nms(np.zeros((1, 4)), [0.5], 1.5),
        lambda: bx.match_greedy(np.zeros((1, 4)), [0.5], np.zeros((1, 4)), 0),
        lambda: bx.xywh_to_xyxy([[0, 0, -1, 2]]),
        lambda: bx.expand([[0, 0, 1, 2]], -1),
        lambda: bx.area([[0, 0, np.inf, 1]]),
    ],
)
def test_bad_values(call: object) -> None:
    with pytest.raises(ValueRangeError):
        call()  # type: ignore[operator]
