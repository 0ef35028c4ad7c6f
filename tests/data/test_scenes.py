"""Composed scenes: the same for the same draw, annotated where the faces are, mirrored with what is in them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from mien.data import scenes
from mien.data.scenes import FaceScenes, Scene, face_outline, held_for_choice, paint_glasses, paint_mask

SIZE = 128


@pytest.fixture(scope="module")
def composed(made_up: Any) -> FaceScenes:
    sets = (made_up(name) for name in ("fairface_faces", "detection", "cifar10_test"))
    return FaceScenes(*sets, size=SIZE, most=16)


def draws(source: FaceScenes, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [source.sample(k % len(source), np.random.default_rng((seed, k))) for k in range(count)]


def test_a_scene_is_a_function_of_its_draw(composed: FaceScenes, made_up: Any) -> None:
    again = FaceScenes(*(made_up(n) for n in ("fairface_faces", "detection", "cifar10_test")), size=SIZE, most=16)
    first, second = draws(composed, 12), draws(again, 12)
    composed.sample(3, np.random.default_rng(99))  # what was drawn before leaves no trace
    for a, b, c in zip(first, second, draws(composed, 12), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            np.testing.assert_array_equal(a[key], c[key])
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, draws(composed, 12, seed=1), strict=True))


def test_samples_have_fixed_shapes_and_boxes_inside(composed: FaceScenes) -> None:
    kinds = set()
    for sample in draws(composed, 150):
        assert sample["image"].shape == (SIZE, SIZE, 3)
        assert sample["image"].dtype == np.uint8
        boxes, kind, points = sample["boxes"], sample["kind"], sample["points"]
        assert boxes.shape == (16, 4)
        assert points.shape == (16, 5, 2)
        there = kind >= 0
        assert not there[there.argmin() :].any() or there.all()  # filled from the front
        assert (boxes[there] >= 0).all()
        assert (boxes[there] <= SIZE).all()
        assert (boxes[there, 2:] - boxes[there, :2] > 1).all()
        assert (boxes[~there] == 0).all()
        areas = (boxes[there, 2:] - boxes[there, :2]).prod(1)
        assert (np.diff(areas) <= 0).all()
        sides = np.sqrt(areas)
        assert (sides[kind[there] == 1] >= scenes.SMALLEST).all()
        assert np.isnan(points[~there]).all()
        kinds |= set(kind.tolist())
    assert kinds == {-1, 0, 1}


def test_known_points_lie_at_their_face(composed: FaceScenes) -> None:
    seen = 0
    for sample in draws(composed, 100):
        for box, points in zip(
            sample["boxes"][sample["kind"] == 1], sample["points"][sample["kind"] == 1], strict=True
        ):
            if np.isnan(points).any():
                continue
            seen += 1
            side = (box[2:] - box[:2]).max()
            # Faces at the border are clipped, and their points are not.
            inside = (box[0] > 1) & (box[1] > 1) & (box[2] < SIZE - 1) & (box[3] < SIZE - 1)
            if inside:
                assert (points > box[:2] - 0.05 * side).all()
                assert (points < box[2:] + 0.05 * side).all()
            # Image-left eye and mouth corner first, whether or not mirrored: the face turns clockwise to its own left.
            eyes, mouth = points[1] - points[0], (points[3] + points[4] - points[0] - points[1]) / 2
            assert eyes[0] * mouth[1] - eyes[1] * mouth[0] > 0
    assert seen > 50


class Tossed:
    """A generator whose toss number `at` of `random` falls as told; everything else is the wrapped generator's."""

    def __init__(self, seed: int, *, at: int = -1, mirror: bool = False) -> None:
        self.rng, self.at, self.mirror, self.calls = np.random.default_rng(seed), at, mirror, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rng, name)

    def random(self) -> float:
        self.calls += 1
        drawn = float(self.rng.random())
        return drawn if self.calls != self.at else 0.0 if self.mirror else 1.0


@pytest.mark.parametrize("seed", range(12))
def test_mirrored_scenes_mirror_boxes_and_points(
    composed: FaceScenes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(composed, "_degrade", lambda image, rng: image)
    counter: Any = Tossed(seed)
    composed.compose(seed, counter)
    tosses = counter.calls  # the last toss is the one for the mirror, since nothing is degraded
    made: list[Any] = [Tossed(seed, at=tosses, mirror=mirror) for mirror in (False, True)]
    plain, mirrored = (composed.compose(seed, rng) for rng in made)
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    assert len(mirrored.boxes) == len(plain.boxes)
    for a, b in zip(plain.boxes, mirrored.boxes, strict=True):
        np.testing.assert_allclose(b, [SIZE - a[2], a[1], SIZE - a[0], a[3]], atol=1e-4)
    for p, q in zip(plain.points, mirrored.points, strict=True):
        for here, there in enumerate((1, 0, 2, 4, 3)):
            np.testing.assert_allclose(q[there], [SIZE - p[here, 0], p[here, 1]], atol=1e-3)


def test_pasting_touches_nothing_beyond_the_chip_s_reach(composed: FaceScenes) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scene = Scene(np.full((SIZE, SIZE, 3), 77, np.uint8))
        side = float(rng.uniform(12, 40))
        centre = rng.uniform(40, SIZE - 40, 2)
        composed._paste(
            scene, int(rng.integers(len(composed))), rng, side=side, centre=centre, angle=float(rng.normal(0, 40))
        )
        changed = np.argwhere((scene.image != 77).any(2))[:, ::-1]
        assert len(changed) > 10
        # The drawn shoulders reach furthest: 1.35 sides below the centre, and up to 1.4 sides about that point.
        assert np.linalg.norm(changed - centre, axis=1).max() < 3 * side


def test_faces_do_not_hide_each_other(composed: FaceScenes) -> None:
    scene = Scene(np.zeros((100, 100, 3), np.uint8))
    scene.add(np.array([10, 10, 30, 30], np.float32))
    assert not scene.free(np.array([12, 12, 28, 28], np.float32))
    assert not scene.free(np.array([0, 0, 90, 90], np.float32))  # would cover it
    assert scene.free(np.array([30, 10, 50, 30], np.float32))
    assert scene.free(np.array([29, 10, 49, 30], np.float32))  # a twentieth of it


def test_scenes_clip_drop_and_ignore_faces() -> None:
    scene = Scene(np.zeros((100, 100, 3), np.uint8))
    scene.add(np.array([-10, -10, 30, 30], np.float32))  # 9/16 visible
    scene.add(np.array([-30, 0, 10, 40], np.float32))  # a quarter visible
    scene.add(np.array([50, 50, 54, 54], np.float32))  # smaller than 6 px
    scene.add(np.array([99.5, 0, 140, 40], np.float32))  # half a pixel of it
    scene.add(np.array([120, 0, 140, 40], np.float32))
    scene.add(np.array([40, 60, 90, 95], np.float32), within=(0, 0, 60, 80))
    assert scene.ignored == [False, True, True, True]
    assert [box.tolist() for box in scene.boxes] == [
        [0, 0, 30, 30], [0, 0, 10, 40], [50, 50, 54, 54], [40, 60, 60, 80]
    ]  # fmt: skip
    assert all(np.isnan(points).all() for points in scene.points)


def test_the_real_share_decides_where_scenes_come_from(made_up: Any) -> None:
    sets = [made_up(name) for name in ("fairface_faces", "detection")]
    only_real = FaceScenes(*sets, None, size=SIZE, real=1.0)
    only_drawn = FaceScenes(*sets, None, size=SIZE, real=0.0)
    for seed in range(20):
        drawn = only_drawn.compose(0, np.random.default_rng(seed))
        assert all(np.isfinite(points).all() for points in drawn.points)  # every face was pasted
    unknown = [np.isnan(p).any() for s in range(20) for p in only_real.compose(0, np.random.default_rng(s)).points]
    assert any(unknown)


def test_training_scenes_exclude_the_test_quarter_and_those_for_choosing(made_up: Any) -> None:
    from mien.data.sets import detection

    root = made_up("detection")
    train, test = (detection(root, split=split) for split in ("train", "test"))
    source = FaceScenes(made_up("fairface_faces"), root, scenes_held=1 / 3, size=SIZE)
    held = held_for_choice(train.names, 1 / 3)
    assert held.sum() == 3
    assert len(source.scenes) == len(train) - 3
    shown = {picture.tobytes() for picture in source.scenes}
    assert not shown & {test.picture(k).tobytes() for k in range(len(test))}
    assert not shown & {train.picture(int(k)).tobytes() for k in np.flatnonzero(held)}


def test_an_outline_reaches_from_the_chin_to_above_the_brows(composed: FaceScenes) -> None:
    points = composed.points68[:5]
    outline = face_outline(points)
    assert outline.shape == (5, 27, 2)
    np.testing.assert_array_equal(outline[:, :17], points[:, :17])
    for k in range(5):
        brow = points[k, 17:27].mean(0)
        lifted = points[k, 17:27] + scenes.FOREHEAD * (brow - points[k, 8])
        np.testing.assert_allclose(outline[k, 17:], lifted, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_masks_stay_in_the_chip_and_below_the_eyes(composed: FaceScenes, seed: int) -> None:
    points = composed.points68[5]
    # The chip is a window of a larger array: whatever were drawn beyond its border would be seen there.
    frame = np.full((256, 256, 3), 100, np.uint8)
    chip = frame[64:192, 64:192]
    paint_mask(chip, points, np.random.default_rng(seed))
    outside = frame.copy()
    outside[64:192, 64:192] = 100
    assert (outside == 100).all()
    changed = (chip != 100).any(2)
    assert changed[80:].sum() > 300  # mouth and chin are covered
    eyes = np.zeros((128, 128), np.uint8)
    for eye in (points[36:42], points[42:48]):
        cv2.fillPoly(eyes, [np.round(eye).astype(np.int32)], 1)
    assert not (changed & (eyes == 1)).any()


def test_glasses_cover_both_eyes_and_stay_in_the_chip(composed: FaceScenes) -> None:
    for seed in range(10):
        frame = np.full((256, 256, 3), 200, np.uint8)
        chip = frame[64:192, 64:192]
        paint_glasses(chip, composed.points68[5], np.random.default_rng(seed))
        for eye in (slice(36, 42), slice(42, 48)):
            x, y = composed.points68[5, eye].mean(0).astype(int)
            assert (chip[y, x] < 100).all()
        chip[:] = 200
        assert (frame == 200).all()
