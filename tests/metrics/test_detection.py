"""Detection figures against plain loops, on crowded boxes with many equal scores."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien import metrics
from mien.errors import DtypeError, ShapeError, ValueRangeError

Array = NDArray[Any]


@dataclass
class Set:
    boxes: Array
    scores: Array
    image: Array
    truth: Array
    truth_image: Array
    ignore: Array
    images: int

    def judged(self, **more: Any) -> metrics.Detections:
        return metrics.judge_detections(
            self.boxes, self.scores, self.image, self.truth, self.truth_image,
            images=self.images, ignore=self.ignore, **more,
        )  # fmt: skip


def some(seed: int, *, ties: bool = True, most: int = 12) -> Set:
    """Annotated faces on a coarse grid, detections near them or anywhere, one picture without anything."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(1, 4))
    m, k = int(rng.integers(1, 6)), int(rng.integers(0, most))
    corner = rng.integers(0, 4, (m, 2)) * 10.0
    truth = np.concatenate([corner, corner + rng.integers(1, 3, (m, 1)) * 10.0], axis=1)
    near = truth[rng.integers(0, m, k)] + rng.integers(-1, 2, (k, 4)) * 2.0
    scores = rng.integers(0, 4, k) / 4 if ties else rng.random(k)
    ignore = rng.random(m) < 0.3
    ignore[0] = False
    return Set(near, scores, rng.integers(0, images, k), truth, rng.integers(0, images, m), ignore, images + 1)


def naive_iou(a: Array, b: Array) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = w * h if w > 0 and h > 0 else 0.0
    return float(common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common))


def naive_match(s: Set, iou: float) -> list[int | None]:
    """For each detection its annotation, -1 for none, best score first; None on an ignored annotation."""
    taken: set[int] = set()
    result: dict[int, int | None] = {}
    for i in sorted(range(len(s.boxes)), key=lambda i: -s.scores[i]):
        best, found = -1.0, -1
        for j in range(len(s.truth)):
            if s.truth_image[j] == s.image[i] and not s.ignore[j] and j not in taken:
                overlap = naive_iou(s.boxes[i], s.truth[j])
                if overlap >= iou and overlap > best:
                    best, found = overlap, j
        if found >= 0:
            taken.add(found)
            result[i] = found
            continue
        on_ignored = any(
            s.ignore[j] and s.truth_image[j] == s.image[i] and naive_iou(s.boxes[i], s.truth[j]) >= iou
            for j in range(len(s.truth))
        )
        result[i] = None if on_ignored else -1
    return [result[i] for i in range(len(s.boxes))]


def naive_curve(s: Set, iou: float) -> list[tuple[float, float, float, float]]:
    """Threshold, recall, precision and false detections per picture, thresholds falling."""
    match = naive_match(s, iou)
    counted = [i for i, m in enumerate(match) if m is not None]
    faces = int((~s.ignore).sum())
    rows = []
    for t in sorted({float(s.scores[i]) for i in counted}, reverse=True):
        taken = [i for i in counted if s.scores[i] >= t]
        hits = sum(match[i] >= 0 for i in taken)  # type: ignore[operator]
        rows.append((t, hits / faces, hits / len(taken), (len(taken) - hits) / s.images))
    return rows


def naive_ap(curve: list[tuple[float, float, float, float]]) -> float:
    """From one recall to the next, the best precision at this or a higher recall."""
    area, before = 0.0, 0.0
    for _, recall, _, _ in curve:
        best = max(p for _, r, p, _ in curve if r >= recall)
        area += (recall - before) * best
        before = recall
    return area


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.3, 0.5, 0.75]))
def test_curve_and_average_precision_are_those_of_the_loop(seed: int, ties: bool, iou: float) -> None:
    s = some(seed, ties=ties)
    judged = s.judged(iou=iou)
    expected = np.array(naive_curve(s, iou)).reshape(-1, 4)
    curve = judged.curve()
    np.testing.assert_allclose(curve.thresholds, expected[:, 0])
    np.testing.assert_allclose(curve.recall, expected[:, 1])
    np.testing.assert_allclose(curve.precision, expected[:, 2])
    np.testing.assert_allclose(curve.false_positives_per_image, expected[:, 3])
    assert judged.average_precision() == pytest.approx(naive_ap([tuple(row) for row in expected]))
    direct = metrics.average_precision(s.boxes, s.scores, s.image, s.truth, s.truth_image, iou=iou, ignore=s.ignore)
    assert direct == pytest.approx(judged.average_precision())


@given(st.integers(0, 10_000))
def test_each_annotation_is_found_once_and_by_the_best(seed: int) -> None:
    s = some(seed, ties=False)
    match = s.judged().match
    expected = naive_match(s, 0.5)
    for got, want in zip(match.tolist(), expected, strict=True):
        if want is None:
            assert s.ignore[got]
        else:
            assert got == want
    found = [m for m in match.tolist() if m >= 0 and not s.ignore[m]]
    assert len(found) == len(set(found))


@given(st.integers(0, 10_000), st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(seed: int, shuffle: int) -> None:
    s = some(seed, ties=False)
    order = np.random.default_rng(shuffle).permutation(len(s.boxes))
    other = Set(s.boxes[order], s.scores[order], s.image[order], s.truth, s.truth_image, s.ignore, s.images)
    assert other.judged().average_precision() == pytest.approx(s.judged().average_precision())
    # Only the order of the scores matters, not their values.
    other = Set(s.boxes, np.exp(3 * s.scores) - 7, s.image, s.truth, s.truth_image, s.ignore, s.images)
    assert other.judged().average_precision() == pytest.approx(s.judged().average_precision())


FACE, ELSEWHERE = [0, 0, 10, 10], [50, 50, 60, 60]


def ap(boxes: list[list[float]], scores: list[float], truth: list[list[float]], **more: Any) -> float:
    return metrics.average_precision(
        np.reshape(boxes, (-1, 4)), scores, [0] * len(boxes), truth, [0] * len(truth), **more
    )


def test_average_precision_by_hand() -> None:
    assert ap([FACE], [0.9], [FACE]) == 1
    assert ap([], [], [FACE]) == 0
    assert ap([ELSEWHERE], [0.9], [FACE]) == 0
    # A false one above the true one halves the precision at every recall.
    assert ap([ELSEWHERE, FACE], [0.9, 0.8], [FACE]) == 0.5
    # Below it costs nothing; and at the same score neither goes first.
    assert ap([ELSEWHERE, FACE], [0.7, 0.8], [FACE]) == 1
    assert ap([ELSEWHERE, FACE], [0.8, 0.8], [FACE]) == 0.5
    # One of two faces found.
    assert ap([FACE], [0.9], [FACE, ELSEWHERE]) == 0.5
    # The same face twice: the second is false.
    assert ap([FACE, FACE, ELSEWHERE], [0.9, 0.8, 0.7], [FACE, ELSEWHERE]) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_overlap_must_reach_the_bound() -> None:
    half = [0, 0, 10, 5]
    assert ap([half], [0.9], [FACE], iou=0.5) == 1
    assert ap([half], [0.9], [FACE], iou=0.51) == 0


def test_detections_on_ignored_annotations_count_neither_way() -> None:
    assert ap([ELSEWHERE, FACE], [0.9, 0.8], [FACE, ELSEWHERE], ignore=[0, 1]) == 1
    assert ap([FACE], [0.8], [FACE, ELSEWHERE], ignore=[0, 1]) == 1


def test_a_face_in_another_picture_does_not_match() -> None:
    assert metrics.average_precision([FACE], [0.9], [1], [FACE], [0]) == 0


def test_curve_at_a_threshold_and_at_a_rate() -> None:
    boxes, scores = [FACE, ELSEWHERE, [20, 0, 30, 10]], [0.9, 0.6, 0.3]
    judged = metrics.judge_detections(boxes, scores, [0, 1, 1], [FACE, boxes[2]], [0, 1], images=4)
    curve = judged.curve()
    assert curve.at(0.95) == metrics.DetectionRates(0.95, 0.0, 1.0, 0.0)
    assert curve.at(0.9) == metrics.DetectionRates(0.9, 0.5, 1.0, 0.0)
    assert curve.at(0.5) == metrics.DetectionRates(0.5, 0.5, 0.5, 0.25)
    assert curve.at(0.0) == metrics.DetectionRates(0.0, 1.0, pytest.approx(2 / 3), 0.25)
    assert curve.recall_at(0) == 0.5
    assert curve.recall_at(0.24) == 0.5
    assert curve.recall_at(0.25) == 1
    assert json.loads(json.dumps(curve.at(0.5).to_dict()))["precision"] == 0.5
    with pytest.raises(ValueRangeError):
        curve.recall_at(-1)


@given(st.integers(0, 10_000))
def test_log_average_miss_rate_is_the_geometric_mean_of_nine(seed: int) -> None:
    s = some(seed)
    rows = naive_curve(s, 0.5)
    product = 1.0
    for i in range(9):
        rate = 10 ** (-2 + i / 4)
        recall = max([r for _, r, _, f in rows if f <= rate * (1 + 1e-9)], default=0.0)
        product *= max(1 - recall, 1e-10) ** (1 / 9)
    assert s.judged().curve().log_average_miss_rate() == pytest.approx(product)


def test_nothing_detected() -> None:
    judged = metrics.judge_detections(np.zeros((0, 4)), [], [], [FACE], [0])
    assert judged.average_precision() == 0
    assert len(judged.curve().thresholds) == 0
    assert judged.curve().at(0.5) == metrics.DetectionRates(0.5, 0.0, 1.0, 0.0)
    assert judged.curve().log_average_miss_rate() == 1
    assert judged.average_precision_interval(repeats=10).high == 0


def test_the_interval_redraws_pictures() -> None:
    """Against sets of pictures that are written out, with the same draws."""
    rng = np.random.default_rng(0)
    n = 12
    truth = np.tile(np.array([FACE], float), (n, 1))
    boxes = np.concatenate([truth, truth + 40])
    scores = rng.random(2 * n)
    image = np.tile(np.arange(n), 2)
    boxes[:n][rng.random(n) < 0.4] += 20  # some miss
    judged = metrics.judge_detections(boxes, scores, image, truth, np.arange(n))
    got = judged.average_precision_interval(repeats=200, level=0.9, seed=1)
    draws = []
    for counts in (c for block in _counts(n, repeats=200, seed=1) for c in block):
        pictures = np.repeat(np.arange(n), counts)
        rows = [np.flatnonzero(image == p) for p in pictures]
        new = np.concatenate([np.full(len(r), at) for at, r in enumerate(rows)])
        flat = np.concatenate(rows)
        draws.append(metrics.average_precision(boxes[flat], scores[flat], new, truth[pictures], np.arange(n)))
    assert got.value == pytest.approx(judged.average_precision())
    low, high = np.quantile(draws, [0.05, 0.95], method="closest_observation")
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))


def _counts(size: int, **more: Any) -> Any:
    from mien.metrics.bootstrap import counts

    return counts(size, **more)


def test_false_positives_per_image() -> None:
    assert metrics.false_positives_per_image([0.9, 0.5, 0.1], 10, 0.5) == 0.2
    assert metrics.false_positives_per_image([], 10, 0.5) == 0
    with pytest.raises(ValueRangeError, match="needs pictures"):
        metrics.false_positives_per_image([0.9], 0, 0.5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"boxes": [[0, 0, 1]]}, ShapeError),
        ({"scores": [0.5, 0.5]}, ShapeError),
        ({"scores": [math.nan]}, ValueRangeError),
        ({"image": [0.0]}, DtypeError),
        ({"image": [-1]}, ValueRangeError),
        ({"image": [7], "images": 3}, ValueRangeError),
        ({"truth_image": [5], "images": 3}, ValueRangeError),
        ({"truth": np.zeros((0, 4)), "truth_image": []}, ValueRangeError),
        ({"ignore": [1]}, ValueRangeError),
        ({"ignore": [0, 0]}, ShapeError),
        ({"iou": 0.0}, ValueRangeError),
        ({"iou": 1.5}, ValueRangeError),
    ],
)
def test_wrong_input(change: dict[str, Any], error: type[Exception]) -> None:
    given = {"boxes": [FACE], "scores": [0.5], "image": [0], "truth": [FACE], "truth_image": [0], **change}
    with pytest.raises(error):
        metrics.judge_detections(**given)
