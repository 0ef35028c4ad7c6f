"""Similarities: round trips, invariances, and agreement with Umeyama's SVD solution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry import (
    TEMPLATES,
    angle_of,
    apply,
    apply3d,
    compose,
    invert,
    pose_from_landmarks3d,
    rotation_from_euler,
    scale_of,
    similarity_from_points,
    template,
)
from mien.geometry.pose import MEAN70
from mien.geometry.similarity import identity

Array = NDArray[np.float64]

similarities = st.builds(
    lambda scale, angle, x, y: similarity(scale, angle, x, y),
    st.floats(0.05, 20),
    st.floats(-180, 180),
    st.floats(-500, 500),
    st.floats(-500, 500),
)
seeds = st.integers(0, 2**32 - 1)


def similarity(scale: float, angle: float, x: float, y: float) -> Array:
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    return np.array([[c, -s, x], [s, c, y]])


def points(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).uniform(-100, 100, (*shape, 2))


def umeyama(src: Array, dst: Array) -> Array:
    """Umeyama 1991, equations 40 to 43, for one pair of point sets."""
    mean_src, mean_dst = src.mean(0), dst.mean(0)
    a, b = src - mean_src, dst - mean_dst
    u, d, vt = np.linalg.svd(b.T @ a / len(src))
    s = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / a.var(0).sum()
    return np.column_stack([scale * rotation, mean_dst - scale * rotation @ mean_src])


@given(seeds, st.integers(2, 8))
def test_equals_umeyama_by_svd(seed: int, k: int) -> None:
    src, dst = points(seed, 4, k), points(seed + 1, k)
    ours = similarity_from_points(src, dst)
    for row, one in zip(ours, src, strict=True):
        np.testing.assert_allclose(row, umeyama(one, dst), atol=1e-7)


@given(similarities, seeds)
def test_finds_the_similarity_that_was_applied(m: Array, seed: int) -> None:
    src = points(seed, 5)
    np.testing.assert_allclose(similarity_from_points(src, apply(m, src)), m, atol=1e-6)


@given(similarities, seeds)
def test_noise_has_no_better_fit_nearby(m: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    src = points(seed, 5)
    dst = apply(m, src) + rng.normal(0, 3, src.shape)
    best = similarity_from_points(src, dst)
    error = ((apply(best, src) - dst) ** 2).sum()
    turn, grow = rng.normal(0, 0.1), 1 + rng.normal(0, 0.05)
    other = compose(best, similarity(grow, turn, *rng.normal(0, 0.1, 2)))
    assert error <= ((apply(other, src) - dst) ** 2).sum() * (1 + 1e-9)


@given(seeds)
def test_never_mirrors(seed: int) -> None:
    src = points(seed, 6, 5)
    mirrored = src * [-1, 1]
    m = similarity_from_points(src, mirrored)
    assert (np.linalg.det(m[..., :2]) >= 0).all()
    np.testing.assert_allclose(m[:, 0, 0], m[:, 1, 1])
    np.testing.assert_allclose(m[:, 0, 1], -m[:, 1, 0])


@given(similarities, similarities, seeds)
def test_compose_and_invert(a: Array, b: Array, seed: int) -> None:
    p = points(seed, 7)
    np.testing.assert_allclose(apply(compose(a, b), p), apply(b, apply(a, p)), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(apply(invert(a), apply(a, p)), p, atol=1e-6)
    np.testing.assert_allclose(invert(invert(a)), a, rtol=1e-7, atol=1e-7)


@given(st.floats(0.05, 20), st.floats(-179.9, 179.9))
def test_scale_and_angle(scale: float, angle: float) -> None:
    m = similarity(scale, angle, 3, 4)
    assert scale_of(m) == pytest.approx(scale)
    assert angle_of(m) == pytest.approx(angle, abs=1e-6)
    assert scale_of(invert(m)) == pytest.approx(1 / scale)


def test_a_positive_angle_turns_clockwise_as_seen() -> None:
    turned = apply(similarity(1, 90, 0, 0), [[1.0, 0.0]])  # a point to the right ...
    np.testing.assert_allclose(turned, [[0, 1]], atol=1e-12)  # ... comes to lie below (y grows downwards)


def test_stacks_are_rows_of_single_calls_and_dst_may_be_per_face() -> None:
    src, dst = points(0, 6, 5), points(1, 6, 5)
    stacked = similarity_from_points(src, dst)
    assert stacked.shape == (6, 2, 3)
    for i in range(6):
        np.testing.assert_array_equal(stacked[i], similarity_from_points(src[i], dst[i]))


def test_none_gives_none() -> None:
    assert similarity_from_points(np.zeros((0, 5, 2)), TEMPLATES["arcface112"]).shape == (0, 2, 3)
    assert apply(np.zeros((0, 2, 3)), np.zeros((0, 5, 2))).shape == (0, 5, 2)
    assert invert(np.zeros((0, 2, 3))).shape == (0, 2, 3)


def test_float32_stays_float32_and_stays_exact() -> None:
    src = (TEMPLATES["arcface112"] * 30 + 20_000).astype(np.float32)  # a face in a huge scan
    m = similarity_from_points(src[None], TEMPLATES["arcface112"])
    assert m.dtype == np.float32
    exact = similarity_from_points(src[None].astype(np.float64), TEMPLATES["arcface112"].astype(np.float64))
    np.testing.assert_allclose(m, exact, rtol=1e-6)
    assert similarity_from_points(src[None].astype(np.float64), TEMPLATES["arcface112"]).dtype == np.float64


def test_identity() -> None:
    p = points(3, 2, 4)
    np.testing.assert_array_equal(apply(identity(2), p), p)


def test_arcface_template_is_the_published_one() -> None:
    published = [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
    np.testing.assert_allclose(TEMPLATES["arcface112"], published, atol=1e-5)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_hold_an_upright_face(name: str) -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = TEMPLATES[name]
    side = int(name[-3:])
    assert (TEMPLATES[name] > 0).all()
    assert (TEMPLATES[name] < side - 1).all()
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_template_of_another_size_keeps_the_place_in_the_picture() -> None:
    """A template at twice the size, shrunk 2 to 1, is the template: pixels (0, 1) -> 0, (2, 3) -> 1 ..."""
    double = template("arcface112", size=224)
    np.testing.assert_allclose((double - 0.5) / 2, TEMPLATES["arcface112"], atol=1e-4)


def test_templates_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TEMPLATES["chip112"][0, 0] = 1


def test_landmarks_in_3d_keep_their_pose_when_only_the_scale_changes() -> None:
    face = (MEAN70 @ rotation_from_euler([20.0, 10.0, 5.0]).T * 80)[None]
    moved = apply3d(similarity(2.5, 0, 40, -7)[None], face)
    np.testing.assert_allclose(pose_from_landmarks3d(moved), pose_from_landmarks3d(face), atol=1e-6)
    np.testing.assert_allclose(np.ptp(moved[..., 2]), 2.5 * np.ptp(face[..., 2]))


def test_landmarks_in_3d_roll_with_the_picture() -> None:
    moved = apply3d(similarity(0.5, 30, 0, 0)[None], MEAN70[None] * 80)
    np.testing.assert_allclose(pose_from_landmarks3d(moved), [[0, 0, 30]], atol=1e-3)


@pytest.mark.parametrize(
    ("src", "dst", "error"),
    [
        (np.zeros((1, 5, 2)), np.zeros((4, 2)), ShapeError),
        (np.zeros((1, 1, 2)), np.zeros((1, 2)), ShapeError),
        (np.zeros((3, 5, 2)), np.zeros((2, 5, 2)), ShapeError),
        (np.zeros((5, 3)), np.zeros((5, 3)), ShapeError),
        (np.array([["a"] * 2] * 5), np.zeros((5, 2)), DtypeError),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), ValueRangeError),
        (np.full((5, 2), 7.0), np.zeros((5, 2)), ValueRangeError),
        (np.full((1, 5, 2), 7.0e6, np.float32), np.zeros((5, 2)), ValueRangeError),
    ],
)
def test_bad_points(src: Array, dst: Array, error: type[Exception]) -> None:
    with pytest.raises(error):
        similarity_from_points(src, dst)


def test_bad_names_and_matrices() -> None:
    with pytest.raises(OptionError, match="did you mean 'arcface112'"):
        template("arcface")
    with pytest.raises(ValueRangeError, match="no inverse"):
        invert([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]])
    with pytest.raises(ValueRangeError):
        template("chip112", size=0)
