"""The detector around its network: decoding undoes encoding, candidates and suppression as plain loops, two passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mien.errors import ShapeError
from mien.nn.detector import (
    OUTPUTS,
    STRIDES,
    Detections,
    Detector,
    candidates,
    cells,
    decode,
    decode_boxes,
    decode_points,
    detect,
    detector_base,
    fit_scale,
)


def encode(box: Tensor, points: Tensor, centre: Tensor, stride: float, logit: float) -> Tensor:
    """The raw prediction (15,) of a face at a cell: from the words of the module's docstring."""
    middle, extent = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    offsets = ((points - centre) / stride).flatten()
    return torch.cat([torch.tensor([logit]), (middle - centre) / stride, (extent / stride).log(), offsets])


def silent(batch: int, height: int, width: int) -> Tensor:
    """Raw predictions of a network that sees nothing."""
    raw = torch.zeros(batch, len(cells(height, width)[0]), OUTPUTS)
    raw[..., 0] = -20
    return raw


def test_cells_follow_the_output_of_the_network() -> None:
    centres, strides = cells(64, 96)
    expected = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in STRIDES
        for row in range(64 // stride)
        for column in range(96 // stride)
    ]
    assert torch.cat([centres, strides], 1).tolist() == [list(cell) for cell in expected]
    assert Detector()(torch.zeros(1, 3, 64, 96)).shape == (1, len(expected), OUTPUTS)


def test_a_cell_sees_the_picture_around_its_centre() -> None:
    """The order of cells and that of the outputs agree: a change of the picture moves the cells about it most."""
    torch.manual_seed(0)
    network = Detector(depths=(0, 0, 0)).eval()
    plain = torch.zeros(1, 3, 128, 192)
    touched = plain.clone()
    touched[:, :, 80:84, 24:28] = 3.0
    with torch.no_grad():
        moved = (network(touched) - network(plain)).abs().sum(2)[0]
    centres, strides = cells(128, 192)
    for stride in STRIDES:
        level = strides[:, 0] == stride
        at = centres[level][moved[level].argmax()]
        assert (at - torch.tensor([26.0, 82.0])).abs().max() <= 1.5 * stride


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cell=st.integers(0, 125))
def test_decoding_undoes_encoding(seed: int, cell: int) -> None:
    rng = np.random.default_rng(seed)
    centres, strides = cells(64, 96)
    corner = rng.uniform(-50, 100, 2)
    box = torch.tensor([*corner, *(corner + np.exp(rng.uniform(0, 6, 2)))], dtype=torch.float32)
    points = torch.tensor(rng.uniform(-50, 150, (5, 2)), dtype=torch.float32)
    raw = encode(box, points, centres[cell], float(strides[cell]), 0.0)[None]
    torch.testing.assert_close(
        decode_boxes(raw, centres[cell, None], strides[cell, None])[0], box, rtol=1e-4, atol=1e-2
    )
    found = decode_points(raw, centres[cell, None], strides[cell, None])[0]
    torch.testing.assert_close(found, points, rtol=1e-4, atol=1e-3)


def test_absurd_sizes_stay_finite() -> None:
    centres, strides = cells(32, 32)
    raw = torch.full((1, len(centres), OUTPUTS), 1e4)
    boxes = decode_boxes(raw, centres, strides)
    assert boxes.isfinite().all()
    assert (boxes[..., 2] >= boxes[..., 0]).all()


def test_candidates_are_the_best_above_the_threshold() -> None:
    rng = np.random.default_rng(0)
    raw = torch.from_numpy(rng.normal(0, 2, (3, 84, OUTPUTS)).astype(np.float32))
    raw[2, :, 0] = -9
    centres, strides = cells(64, 64)
    found = candidates(raw, 64, 64, threshold=0.6, top_k=10)
    for k, faces in enumerate(found):
        scores = [1 / (1 + math.exp(-v)) for v in raw[k, :, 0].tolist()]
        best = sorted((c for c in range(84) if scores[c] > 0.6), key=lambda c: -scores[c])[:10]
        assert len(faces) == len(best) == (0 if k == 2 else 10)
        torch.testing.assert_close(faces.scores, torch.tensor([scores[c] for c in best]))
        for row, c in enumerate(best):
            torch.testing.assert_close(faces.boxes[row], decode_boxes(raw[k, c], centres[c], strides[c]))
            torch.testing.assert_close(
                faces.landmarks5[row], decode_points(raw[k, c : c + 1], centres[c : c + 1], strides[c : c + 1])[0]
            )


@pytest.mark.parametrize("shape", [(1, 83, 15), (1, 84, 14), (84, 15)])
def test_raw_output_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="84, 15"):
        candidates(torch.zeros(shape), 64, 64, threshold=0.5)


def naive_nms(boxes: list[list[float]], scores: list[float], limit: float) -> list[int]:
    """Greedy suppression: the best that is left is kept, those that overlap it more than `limit` go."""
    left = sorted(range(len(boxes)), key=lambda k: -scores[k])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [k for k in left if overlap(boxes[best], boxes[k]) <= limit]
    return kept


def overlap(a: list[float], b: list[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("seed", range(5))
def test_decoding_with_suppression_is_that_of_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = torch.from_numpy(rng.normal(0, 1, (2, 84, OUTPUTS)).astype(np.float32))
    raw[..., 3:5] += 1.0  # large enough to overlap
    before = candidates(raw, 64, 64, threshold=0.3)
    after = decode(raw, 64, 64, threshold=0.3, iou=0.4, max_faces=20)
    for every, kept in zip(before, after, strict=True):
        expected = naive_nms(every.boxes.tolist(), every.scores.tolist(), 0.4)[:20]
        assert 0 < len(expected) < len(every)
        torch.testing.assert_close(kept.boxes, every.boxes[expected])
        torch.testing.assert_close(kept.scores, every.scores[expected])
        torch.testing.assert_close(kept.landmarks5, every.landmarks5[expected])


# --- Two passes -------------------------------------------------------------------------------------------------------


class Painted:
    """A network that sees faces in the colours of the picture: every pixel of value above 0.5 in the red channel marks
    the middle of a face, its green channel the side (in units of 100 px), its blue channel the logit.

    In the small pass nothing of the marks is left, so it has its own faces, given when it is made.
    """

    def __init__(self, *, small: Callable[[int, int], list[tuple[float, float, float, float]]] | None = None) -> None:
        self.small = small
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        height, width = images.shape[2:]
        raw = silent(len(images), height, width)
        centres, strides = cells(height, width)
        for k, image in enumerate(images):
            if len(self.shapes) > 1 and self.small is not None:
                faces = self.small(height, width)
            else:
                marks = (image[0] > 0.5).nonzero().tolist()
                faces = [(x + 0.5, y + 0.5, float(image[1, y, x]) * 100, float(image[2, y, x])) for y, x in marks]
            for x, y, side, logit in faces:
                middle = torch.tensor([x, y])
                at = int((centres - middle).abs().sum(1).argmin())
                box = torch.cat([middle - side / 2, middle + side / 2])
                raw[k, at] = encode(box, middle.repeat(5, 1), centres[at], float(strides[at]), logit)
        return raw


def canvas(height: int, width: int, *faces: tuple[int, int, float, float]) -> Tensor:
    image = torch.zeros(1, 3, height, width)
    for x, y, side, logit in faces:
        image[0, :, y, x] = torch.tensor([1.0, side / 100, logit])
    return image


def test_small_faces_come_from_the_first_pass_and_large_ones_from_both() -> None:
    image = canvas(480, 640, (100, 200, 40.0, 2.0))
    scale = 160 / 640
    small = [(80.0, 60.0, 70.0, 3.0), (30.0, 30.0, 20.0, 3.0)]  # px of the small pass; the second is too small there
    network = Painted(small=lambda height, width: small)
    found = detect(network, image)[0]
    assert network.shapes == [(1, 3, 480, 640), (1, 3, 128, 160)]  # 120 rows, padded to a multiple of 32
    assert len(found) == 2
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0]).sigmoid())
    expected = torch.tensor([[80 - 35, 60 - 35, 80 + 35, 60 + 35.0]]) / scale
    torch.testing.assert_close(found.boxes[:1], expected, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.landmarks5[0, 0], torch.tensor([80, 60.0]) / scale, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.boxes[1], torch.tensor([80.5, 180.5, 120.5, 220.5]), rtol=1e-4, atol=1e-2)


def test_a_face_that_both_passes_see_is_given_once_and_by_the_better_score() -> None:
    image = canvas(480, 640, (320, 240, 280.0, 1.0))
    network = Painted(small=lambda height, width: [(80.1, 60.1, 71.0, 4.0)])
    found = detect(network, image)[0]
    assert len(found) == 1
    assert float(found.scores[0]) == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize(
    ("size", "options", "passes"),
    [
        ((480, 640), {}, 2),
        ((480, 640), {"small_side": 0}, 1),
        ((128, 318), {}, 1),  # the small pass would be hardly smaller
        ((128, 322), {}, 2),
        ((1, 1), {}, 1),
        ((33, 500), {}, 2),
    ],
)
def test_when_there_is_a_second_pass(size: tuple[int, int], options: dict[str, Any], passes: int) -> None:
    network = Painted()
    assert len(detect(network, torch.zeros(1, 3, *size), **options)[0]) == 0
    assert len(network.shapes) == passes
    assert all(height % 32 == width % 32 == 0 for _, _, height, width in network.shapes)


def test_padding_shifts_nothing() -> None:
    found = detect(Painted(), canvas(100, 150, (149, 99, 20.0, 2.0)), small_side=0)[0]
    torch.testing.assert_close(found.boxes[0], torch.tensor([139.5, 89.5, 159.5, 109.5]), rtol=1e-4, atol=1e-2)


def test_a_batch_of_one_equals_a_batch_of_many() -> None:
    torch.manual_seed(0)
    network = detector_base().eval()
    with torch.no_grad():
        for head in network.heads:
            head[1].bias[0] = 0.0  # type: ignore[index, union-attr]
            torch.nn.init.normal_(head[1].weight)  # type: ignore[index, arg-type]
    images = torch.rand(4, 3, 130, 330) * 2 - 1  # large enough for two passes
    together = detect(network, images, threshold=0.5)
    assert all(len(found) > 3 for found in together)
    for k, found in enumerate(together):
        alone = detect(network, images[k : k + 1], threshold=0.5)[0]
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(found.landmarks5, alone.landmarks5, rtol=1e-3, atol=1e-2)


def test_no_pictures_and_wrong_pictures() -> None:
    assert detect(Painted(), torch.zeros(0, 3, 64, 64)) == []
    for shape in ((3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64)):
        with pytest.raises(ShapeError, match=r"\(B, 3, H, W\)"):
            detect(Painted(), torch.zeros(shape))


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(480, 640, 1.0), (1280, 960, 0.5), (200, 320, 2.0), (50, 40, 2.0)]
)
def test_pictures_are_fitted_to_640_and_enlarged_at_most_twice(height: int, width: int, scale: float) -> None:
    assert fit_scale(height, width) == scale


def test_a_new_detector_expects_faces_to_be_rare() -> None:
    torch.manual_seed(0)
    scores = detector_base().eval()(torch.zeros(1, 3, 64, 64))[..., 0].sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01), rtol=0.2, atol=0)


def test_detections_know_their_number() -> None:
    assert len(Detections(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 5, 2))) == 3
