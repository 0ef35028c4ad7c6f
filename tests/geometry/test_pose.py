"""Pose: known rotations come back, and the signs are those that the words say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry import apply, euler_from_rotation, pose_from_landmarks3d, rotation_from_euler
from mien.geometry.pose import MEAN70, rotation_to

Array = NDArray[np.float64]
angles = st.tuples(st.floats(-179, 179), st.floats(-85, 85), st.floats(-179, 179))

NOSE = 30
LEFT_EYE, RIGHT_EYE = 36, 45


def turned(*pose: float) -> Array:
    """The mean face at yaw, pitch, roll in degrees, 100 px between the outer eye corners."""
    return 100 * MEAN70 @ rotation_from_euler(pose).T


def difference(a: Array, b: Array) -> Array:
    """Angles a - b, on the circle."""
    return (a - b + 180) % 360 - 180


@given(angles, st.floats(0.1, 50), st.tuples(*[st.floats(-500, 500)] * 3))
def test_known_rotations_come_back(pose: tuple[float, ...], scale: float, shift: tuple[float, ...]) -> None:
    face = turned(*pose) * scale + shift
    np.testing.assert_allclose(difference(pose_from_landmarks3d(face[None])[0], np.array(pose)), 0, atol=1e-4)


@given(st.tuples(*[st.floats(-180, 180)] * 3))
def test_euler_round_trip(pose: tuple[float, ...]) -> None:
    rotation = rotation_from_euler(pose)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation_from_euler(euler_from_rotation(rotation)), rotation, atol=2e-6)


@pytest.mark.parametrize("pitch", [90.0, -90.0])
@given(yaw=st.floats(-180, 180), roll=st.floats(-180, 180))
def test_straight_up_and_down(pitch: float, yaw: float, roll: float) -> None:
    rotation = rotation_from_euler([yaw, pitch, roll])
    pose = euler_from_rotation(rotation)
    assert pose[1] == pytest.approx(pitch, abs=1e-4)
    assert pose[2] == 0
    np.testing.assert_allclose(rotation_from_euler(pose), rotation, atol=2e-6)


def test_order_of_rotations() -> None:
    """Roll first, then pitch, then yaw, each about an axis of the picture."""

    def about(axis: int, degrees: float) -> Array:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = [k for k in range(3) if k != axis]
        m = np.eye(3)
        m[i, i] = m[j, j] = c
        m[i, j], m[j, i] = (-s, s) if axis != 1 else (s, -s)
        return m

    expected = about(1, -35) @ about(0, -20) @ about(2, 10)
    np.testing.assert_allclose(rotation_from_euler([35.0, 20.0, 10.0]), expected, atol=1e-12)


def test_yaw_turns_the_nose_to_the_right_of_the_picture() -> None:
    assert turned(30, 0, 0)[NOSE, 0] > MEAN70[NOSE, 0] * 100 + 10


def test_pitch_lifts_the_nose() -> None:
    assert turned(0, 30, 0)[NOSE, 1] < MEAN70[NOSE, 1] * 100 - 10


def test_roll_leans_the_head_clockwise() -> None:
    face = turned(0, 0, 30)
    assert face[RIGHT_EYE, 1] > face[LEFT_EYE, 1] + 10  # the eye at the right of the picture goes down
    np.testing.assert_allclose(face[:, 2], MEAN70[:, 2] * 100)


@given(st.floats(-90, 90), st.floats(-80, 80), st.floats(-180, 180))
def test_yaw_and_pitch_alone_point_the_nose(yaw: float, pitch: float, roll: float) -> None:
    forward = rotation_from_euler([yaw, pitch, roll]) @ [0, 0, -1]
    y, p = np.radians([yaw, pitch])
    np.testing.assert_allclose(forward, [np.sin(y) * np.cos(p), -np.sin(p), -np.cos(y) * np.cos(p)], atol=1e-9)


@given(angles)
def test_a_mirrored_picture_mirrors_yaw_and_roll(pose: tuple[float, float, float]) -> None:
    from mien.geometry import flip_points

    yaw, pitch, roll = pose
    mirrored = flip_points(turned(*pose), 300, "mien70")
    expected = np.array([-yaw, pitch, -roll])
    np.testing.assert_allclose(difference(pose_from_landmarks3d(mirrored[None])[0], expected), 0, atol=1e-4)


@given(st.floats(-60, 60), st.floats(-40, 40), st.floats(-90, 90))
def test_rolling_a_head_before_it_turns_changes_roll_only(yaw: float, pitch: float, roll: float) -> None:
    level, leaning = pose_from_landmarks3d([turned(yaw, pitch, 0), turned(yaw, pitch, roll)])
    np.testing.assert_allclose(leaning - level, [0, 0, roll], atol=1e-4)


def test_a_frontal_face_in_a_turned_picture_has_that_roll() -> None:
    c, s = np.cos(0.4), np.sin(0.4)
    face = turned(0, 0, 0)
    face[:, :2] = apply([[c, -s, 5], [s, c, 9]], face[:, :2])
    np.testing.assert_allclose(pose_from_landmarks3d(face[None]), [[0, 0, np.degrees(0.4)]], atol=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_rotation_is_the_best_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    face = turned(*rng.uniform(-60, 60, 3)) + rng.normal(0, 5, (70, 3))
    rotation, scale = rotation_to(MEAN70, face[None])
    target = face - face.mean(0)
    shape = MEAN70 - MEAN70.mean(0)

    def error(r: Array, s: float) -> float:
        return float(((s * shape @ r.T - target) ** 2).sum())

    best = error(rotation[0], scale[0])
    nudge = rotation_from_euler(rng.normal(0, 1, 3))
    assert best <= error(nudge @ rotation[0], scale[0])
    assert best <= error(rotation[0], scale[0] * (1 + rng.normal(0, 0.01)))


@given(st.integers(0, 2**32 - 1))
def test_a_mirrored_shape_is_never_matched_by_mirroring(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(8, 3))
    assume(np.linalg.svd(shape - shape.mean(0))[1][2] > 0.1)
    rotation, scale = rotation_to(shape, (shape * [-1, 1, 1])[None])
    assert np.linalg.det(rotation[0]) == pytest.approx(1)
    assert scale[0] < 1


def test_flat_landmarks_still_have_a_roll() -> None:
    flat = turned(0, 0, 25) * [1, 1, 0]
    assert pose_from_landmarks3d(flat[None])[0, 2] == pytest.approx(25, abs=0.5)


def test_stacks_and_dtypes() -> None:
    faces = np.stack([turned(10, 0, 0), turned(0, 20, 0)]).astype(np.float32)
    pose = pose_from_landmarks3d(faces)
    assert pose.dtype == np.float32
    np.testing.assert_allclose(pose, [[10, 0, 0], [0, 20, 0]], atol=1e-3)
    assert pose_from_landmarks3d(np.zeros((0, 70, 3))).shape == (0, 3)


def test_the_mean_face_is_frontal_centred_and_of_unit_size() -> None:
    np.testing.assert_allclose(MEAN70.mean(0), 0, atol=1e-4)
    assert np.linalg.norm(MEAN70[RIGHT_EYE] - MEAN70[LEFT_EYE]) == pytest.approx(1, abs=1e-4)
    assert MEAN70[NOSE, 2] == MEAN70[:, 2].min()  # the nose is nearest
    assert MEAN70[[0, 16], 2].min() > MEAN70[17:68, 2].max()  # the ears are farthest


def test_bad_input() -> None:
    with pytest.raises(ShapeError):
        pose_from_landmarks3d(np.zeros((1, 68, 3)))
    with pytest.raises(ShapeError):
        pose_from_landmarks3d(np.zeros((70, 3)))
    with pytest.raises(ValueRangeError, match="coincide"):
        pose_from_landmarks3d(np.full((1, 70, 3), 5.0))
    with pytest.raises(ValueRangeError, match="not a rotation"):
        euler_from_rotation(np.eye(3) * 2)
    with pytest.raises(ValueRangeError, match="not a rotation"):
        euler_from_rotation(np.diag([-1.0, 1.0, 1.0]))
