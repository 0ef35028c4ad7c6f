"""The tanh warps: against loops over pixels, against their own inverses, and the facts that the paper rests on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry.tanh_polar import (
    Frame,
    pad_polar,
    polar_to_tanh,
    restore_polar,
    restore_tanh,
    sample,
    tanh_to_polar,
    warp_polar,
    warp_tanh,
)

BOXES = torch.tensor([[20.0, 18.0, 60.0, 68.0], [31.5, 10.25, 52.0, 40.0]], dtype=torch.float64)


def smooth(height: int = 80, width: int = 90) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    waves = [torch.sin(x / 17 + y / 29), torch.cos(x / 31 - y / 13)]
    return torch.stack([torch.stack(waves), torch.stack(waves[::-1])])


def bilinear(image: Any, x: float, y: float) -> Any:
    """Value at x, y with zeros outside, by hand."""
    total = np.zeros(image.shape[0])
    x0, y0 = math.floor(x), math.floor(y)
    for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < image.shape[1] and 0 <= xx < image.shape[2]:
                total = total + wx * wy * image[:, yy, xx]
    return total


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("angle", [0.0, 25.0])
def test_the_polar_warp_is_that_of_loops(keep: bool, angle: float) -> None:
    images, size = smooth(), (7, 9)
    turn = torch.full((2,), angle, dtype=torch.float64)
    got = warp_polar(images, BOXES, size, keep_aspect=keep, turn=turn)
    for b, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
        rx, ry = (x2 - x1) / math.sqrt(math.pi), (y2 - y1) / math.sqrt(math.pi)
        for i in range(7):
            for j in range(9):
                theta, radius = 2 * math.pi * i / 7, math.atanh(j / 9)
                c, s = math.cos(theta), math.sin(theta)
                unit = rx * ry / math.hypot(ry * c, rx * s)
                dx, dy = (radius * unit * c, radius * unit * s) if keep else (rx * radius * c, ry * radius * s)
                a = math.radians(angle)
                x = (x1 + x2) / 2 + math.cos(a) * dx - math.sin(a) * dy
                y = (y1 + y2) / 2 + math.sin(a) * dx + math.cos(a) * dy
                np.testing.assert_allclose(got[b, :, i, j], bilinear(images[b].numpy(), x, y), atol=1e-9)


@pytest.mark.parametrize("keep", [True, False])
def test_restoring_is_that_of_loops(keep: bool) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    got = restore_polar(maps, BOXES, (20, 24), keep_aspect=keep)
    padded = np.concatenate([maps[:, :, -1:], maps, maps[:, :, :1]], 2)
    padded = np.concatenate([padded[..., :1], padded], 3)
    np.testing.assert_array_equal(pad_polar(maps), padded)
    for b, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
        rx, ry = (x2 - x1) / math.sqrt(math.pi), (y2 - y1) / math.sqrt(math.pi)
        for y in range(0, 20, 3):
            for x in range(0, 24, 3):
                dx, dy = x - (x1 + x2) / 2, y - (y1 + y2) / 2
                c, s = dx / math.hypot(dx, dy), dy / math.hypot(dx, dy)
                if keep:
                    radius, theta = math.hypot(dx, dy) * math.hypot(ry * c, rx * s) / (rx * ry), math.atan2(dy, dx)
                else:
                    radius, theta = math.hypot(dx / rx, dy / ry), math.atan2(dy / ry, dx / rx)
                at = 1 + math.tanh(radius) * 8, 1 + (theta % (2 * math.pi)) / (2 * math.pi) * 6
                np.testing.assert_allclose(got[b, :, y, x], bilinear(padded[b], *at), atol=1e-9)


def test_the_cartesian_warp_and_its_inverse_are_those_of_loops() -> None:
    images = smooth()
    got = warp_tanh(images, BOXES, (5, 6))
    back = restore_tanh(got, BOXES, (30, 40))
    for b, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
        cx, cy, hw, hh = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
        for i in range(5):
            for j in range(6):
                x, y = cx + hw * math.atanh(-1 + (2 * j + 1) / 6), cy + hh * math.atanh(-1 + (2 * i + 1) / 5)
                np.testing.assert_allclose(got[b, :, i, j], bilinear(images[b].numpy(), x, y), atol=1e-9)
        for y in range(0, 30, 7):
            for x in range(0, 40, 7):
                u = (math.tanh((x - cx) / hw) + 1) / 2 * 6 - 0.5, (math.tanh((y - cy) / hh) + 1) / 2 * 5 - 0.5
                np.testing.assert_allclose(back[b, :, y, x], bilinear(got[b].numpy(), *u), atol=1e-9)


@pytest.mark.parametrize("frame", [Frame("polar", 256), Frame("polar", 256, keep_aspect=False), Frame("tanh", 256)])
def test_warp_and_restore_give_the_picture_back_inside_the_box(frame: Frame) -> None:
    images = smooth()
    turn = torch.tensor([0.0, 40.0], dtype=torch.float64)
    back = frame.restore(frame.warp(images, BOXES, turn=turn), BOXES, (80, 90), turn=turn)
    for b, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
        inside = (slice(None), slice(math.ceil(y1), int(y2)), slice(math.ceil(x1), int(x2)))
        assert float((back[b][inside] - images[b][inside]).abs().mean()) < 3e-4


def test_points_and_places_undo_each_other_exactly() -> None:
    for frame in (Frame("polar", 33), Frame("polar", 33, keep_aspect=False), Frame("tanh", 33), Frame("crop", 33)):
        turn = torch.tensor([30.0, -75.0], dtype=torch.float64)
        places = frame.places(BOXES, (80, 90), turn)
        # Where a pixel of the map lies in the picture, rounded to it, is where the picture's pixel lies in the map.
        points = frame.points(BOXES, turn)
        for b, i, j in ((0, 4, 9), (1, 20, 15), (0, 30, 2)):
            x, y = points[b, i, j].tolist()
            if not (0 <= x < 88 and 0 <= y < 78):
                continue
            corner = [places[b, int(y) + dy, int(x) + dx] for dy in (0, 1) for dx in (0, 1)]
            shift = 1.0 if frame.kind == "polar" else 0.0
            want = torch.tensor([j + shift, i + shift], dtype=torch.float64)
            low, high = torch.stack(corner).amin(0), torch.stack(corner).amax(0)
            assert bool(((low - 1e-6 <= want) & (want <= high + 1e-6)).all()), (frame.kind, b, i, j)


def test_three_quarters_of_the_map_are_the_box() -> None:
    box = torch.tensor([[60.0, 50.0, 140.0, 150.0]])
    picture = torch.zeros(1, 1, 200, 200)
    picture[..., 50:151, 60:141] = 1
    polar = Frame("polar", 256).warp(picture, torch.tensor([[60.0, 50.0, 140.0, 150.0]]))
    plane = Frame("tanh", 256).warp(picture, box)
    assert float(polar.mean()) == pytest.approx(0.757, abs=0.01)
    assert float(plane.mean()) == pytest.approx(0.580, abs=0.01)


@pytest.mark.parametrize("size", [(36, 50), (61, 49)])
def test_turning_a_square_box_rolls_the_rows(size: tuple[int, int]) -> None:
    images = smooth()[:1].float()
    box = torch.tensor([[25.0, 20.0, 61.0, 56.0]])
    plain = warp_polar(images, box, size)
    assert tuple(plain.shape[2:]) == size
    for k in (1, 5):
        turned = warp_polar(images, box, size, turn=torch.tensor([360.0 * k / size[0]]))
        assert float((turned - plain.roll(-k, 2)).abs().max()) < 2e-5
    other = torch.tensor([[25.0, 20.0, 61.0, 76.0]])  # the ellipse is turned, too
    turned = warp_polar(images, other, size, turn=torch.tensor([360.0 / size[0]]))
    assert float((turned - warp_polar(images, other, size).roll(-1, 2)).abs().max()) > 1e-2


def test_conversions_depend_on_the_ratio_alone_and_agree_with_the_way_round() -> None:
    images, boxes = smooth().float(), BOXES.float()
    polar, plane = warp_polar(images, boxes, 128), warp_tanh(images, boxes, 128)
    moved = boxes * 7 + 13
    for convert, source, target in ((polar_to_tanh, polar, plane), (tanh_to_polar, plane, polar)):
        assert float((convert(source, boxes) - convert(source, moved)).abs().max()) < 3e-5
        assert float((convert(source, boxes) - target).abs()[..., 32:96, 32:96].mean()) < 5e-3
        assert convert(source, boxes, (40, 50)).shape == (2, 2, 40, 50)


def test_a_batch_is_its_rows() -> None:
    images = smooth()
    for frame in (Frame("polar", (12, 20)), Frame("tanh", 15), Frame("crop", 10, margin=1.5)):
        whole = frame.warp(images, BOXES)
        back = frame.restore(whole, BOXES, (30, 31))
        for row in range(2):
            one = slice(row, row + 1)
            torch.testing.assert_close(frame.warp(images[one], BOXES[one]), whole[one])
            torch.testing.assert_close(frame.restore(whole[one], BOXES[one], (30, 31)), back[one])


def test_gradients_flow_to_pixels_and_boxes() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 1, 9, 9, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[2.1, 1.7, 6.3, 6.9]], dtype=torch.float64, requires_grad=True)
    for frame in (Frame("polar", (5, 6)), Frame("tanh", 5), Frame("polar", (5, 6), keep_aspect=False)):
        assert torch.autograd.gradcheck(lambda i, b, f=frame: f.restore(f.warp(i, b), b, (8, 8)), (images, boxes))
    # A pixel in the very middle has neither radius nor angle; its gradient is still a number.
    middle = torch.tensor([[2.0, 2.0, 6.0, 6.0]], dtype=torch.float64, requires_grad=True)
    maps = torch.rand(1, 1, 5, 6, dtype=torch.float64)
    Frame("polar", (5, 6)).restore(maps, middle, (9, 9)).sum().backward()  # type: ignore[no-untyped-call]
    assert middle.grad is not None
    assert bool(middle.grad.isfinite().all())


def test_what_is_not_known_is_background() -> None:
    probabilities = torch.randn(1, 4, 20, 20).softmax(1)
    box = torch.tensor([[30.0, 30.0, 40.0, 42.0]])
    for frame in (Frame("polar", 20), Frame("tanh", 20), Frame("crop", 20)):
        back = frame.probabilities(probabilities, box, (70, 400), background=2)
        far = back[0, :, 35, 399]
        if frame.kind == "tanh":  # infinity lies half a pixel beyond the last one's centre, in either direction
            assert float(far[2]) >= 0.5
        else:
            torch.testing.assert_close(far, torch.tensor([0.0, 0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(back.sum(1), torch.ones(1, 70, 400), atol=1e-5, rtol=0)


def test_opencv_warps_bytes_in_the_same_way() -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    frame, turn = Frame("polar", (40, 48)), np.array([0.0, 33.0])
    got = frame.images(image, BOXES.numpy(), turn=turn)
    pixels = torch.from_numpy(image).permute(2, 0, 1).double().expand(2, -1, -1, -1)
    want = frame.warp(pixels, BOXES, turn=torch.from_numpy(turn)).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - want).max() <= 6
    assert np.abs(got - want).mean() < 0.4
    labels = frame.images(image[..., 0], BOXES.numpy(), mode="nearest")
    assert labels.shape == (2, 40, 48)
    assert set(np.unique(labels)) <= {0, *np.unique(image[..., 0])}


def test_what_does_not_fit_is_told() -> None:
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(OptionError, match="frame"):
        Frame("round", 8)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="mode"):
        warp_polar(images, BOXES, 8, mode="cubic")
    with pytest.raises(ShapeError, match="fit together"):
        warp_polar(images, BOXES[:1], 8)
    with pytest.raises(ShapeError, match="not of this frame"):
        Frame("polar", 9).restore(images, BOXES, (8, 8))
    with pytest.raises(DtypeError, match="floating"):
        sample(images.byte(), torch.zeros(2, 3, 3, 2))
    with pytest.raises(ValueRangeError, match="size"):
        Frame("tanh", 0)
    with pytest.raises(ValueRangeError, match="margin"):
        Frame("crop", 8, margin=0.0)
    with pytest.raises(ShapeError, match="picture"):
        Frame("polar", 8).images(np.zeros((4, 4), np.int64), BOXES.numpy())
