"""Parts of the quality on pictures of which one knows what is wrong."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import mien.errors as errors
from mien.verbs import quality

POINTS = np.array([[[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]]], np.float32)


@pytest.fixture(scope="module")
def face() -> NDArray[np.uint8]:
    from skimage.data import astronaut

    return np.asarray(cv2.resize(astronaut()[30:230, 120:320], (112, 112), interpolation=cv2.INTER_AREA), np.uint8)


def part(name: str, *crops: NDArray[Any]) -> list[float]:
    points = np.repeat(POINTS, len(crops), 0)
    return [float(v) for v in quality.components(np.stack(crops).astype(np.uint8), points)[name]]


def test_sharpness_falls_with_blur(face: NDArray[np.uint8]) -> None:
    values = part("Sharpness", face, *(cv2.GaussianBlur(face, (0, 0), s) for s in (1, 2, 4, 8)))
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5
    assert values[-1] < 0.1


def test_sharpness_does_not_hang_on_contrast(face: NDArray[np.uint8]) -> None:
    bright, pale = part("Sharpness", face, face * 0.5 + 60)
    assert pale == pytest.approx(bright, abs=0.1)


def test_exposure(face: NDArray[np.uint8]) -> None:
    normal, dark = part("UnderExposurePrevention", face, face * 0.08)
    assert normal > 0.7
    assert dark < 0.05
    normal, burnt = part("OverExposurePrevention", face, np.clip(face.astype(int) + 200, 0, 255))
    assert normal > 0.95
    assert burnt < 0.5
    normal, flat = part("DynamicRange", face, np.full_like(face, 99))
    assert normal > 0.9
    assert flat == 0


def test_light_from_one_side(face: NDArray[np.uint8]) -> None:
    even = np.concatenate([face[:, :56], face[:, 55::-1]], 1)
    shade = even * np.linspace(0.1, 1, 112)[None, :, None]
    good, bad = part("IlluminationUniformity", even, shade)
    assert good > 0.8
    assert bad < 0.6


def test_eye_distance_and_pose(face: NDArray[np.uint8]) -> None:
    pose = np.array([[0, 0, 0], [60, 0, 0], [-100, 30, 45]], np.float32)
    points = np.concatenate([POINTS, POINTS / 4, POINTS * 5])
    parts = quality.components(np.stack([face] * 3), points, pose=pose)
    np.testing.assert_allclose(parts["InterEyeDistance"], [1, 0.25, 1])
    np.testing.assert_allclose(parts["HeadPoseYaw"], [1, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(parts["HeadPosePitch"], [1, 1, 0.75], atol=1e-6)
    np.testing.assert_allclose(parts["HeadPoseRoll"], [1, 1, 0.5], atol=1e-6)


def test_share_inside_the_picture() -> None:
    whole = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    half = np.array([[[1, 0, 56], [0, 1, 0]]], np.float32)
    sizes = np.array([[112, 112]], np.float32)
    assert quality.inside(whole, sizes)[0] == 1
    assert quality.inside(half, sizes)[0] == pytest.approx(0.5)


def test_a_face_is_no_better_than_its_worst_part() -> None:
    good = {name: np.array([0.9], np.float32) for name in ("Recognisability", "Sharpness", "HeadPoseYaw")}
    whole = quality.unified(good)[0]
    for name in good:
        worse = quality.unified(good | {name: np.array([0.1], np.float32)})[0]
        assert worse < 0.3 < whole
    assert quality.unified({k: v for k, v in good.items() if k != "Recognisability"})[0] == pytest.approx(0.9)


def test_stability_is_high_for_an_embedder_that_sees_through_it_all(face: NDArray[np.uint8]) -> None:
    crops = np.stack([face, face[::-1]])
    constant = np.eye(2, 5, dtype=np.float32)
    steady = quality.from_stability(constant, lambda c: np.tile(constant, (len(c) // 2, 1)), crops)
    np.testing.assert_array_equal(steady, 1)
    turned = quality.from_stability(constant, lambda c: np.tile(constant[::-1], (len(c) // 2, 1)), crops)
    np.testing.assert_array_equal(turned, 0)


def test_stability_worsens_every_face_on_its_own(face: NDArray[np.uint8]) -> None:
    worse = quality.worsened(np.stack([face, face[::-1]]))
    assert worse.shape == (4, 2, 112, 112, 3)
    alone = quality.worsened(face[None])
    np.testing.assert_array_equal(worse[:, :1], alone)
    assert all((copy != face).any() for copy in alone[:, 0])


def test_norms_need_to_have_been_measured() -> None:
    with pytest.raises(errors.OptionError, match="not known"):
        quality.from_norm(np.ones(3, np.float32), "somebody-elses-embedder")


def test_no_faces(fakes: Any) -> None:
    parts = quality.components(np.zeros((0, 112, 112, 3), np.uint8), np.zeros((0, 5, 2), np.float32))
    assert all(value.shape == (0,) for value in parts.values())
    assert quality.unified(parts).shape == (0,)
