"""Landmark schemes: the index maps mean what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import OptionError, ShapeError
from mien.geometry import TEMPLATES, five_from_68, flip_points
from mien.geometry.landmarks import FLIP5, FLIP68, FLIP70, FLIPS, IBUG68, even_jaw
from mien.geometry.pose import MEAN70, rotation_from_euler


def test_groups_are_a_partition_of_the_68() -> None:
    assert sorted(i for group in IBUG68.values() for i in group) == list(range(68))


@pytest.mark.parametrize("name", FLIPS)
def test_mirroring_twice_is_nothing(name: str) -> None:
    flip = FLIPS[name]
    np.testing.assert_array_equal(flip[flip], np.arange(len(flip)))


def test_the_maps_agree_with_each_other() -> None:
    np.testing.assert_array_equal(FLIP70[:68], FLIP68)
    index = np.zeros((70, 2))
    index[:, 0] = np.arange(70)
    np.testing.assert_allclose(five_from_68(index[FLIP70]), five_from_68(index)[FLIP5])


def test_a_mirrored_mean_face_is_the_mean_face() -> None:
    """The mean face is symmetric, so this fails for any pair that is swapped wrongly."""
    np.testing.assert_allclose(MEAN70[FLIP70] * [-1, 1, 1], MEAN70, atol=1e-12)
    nearest = np.linalg.norm(MEAN70[:, None] * [-1, 1, 1] - MEAN70, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, FLIP70)


def test_left_is_left_of_right() -> None:
    x = MEAN70[:, 0]
    for part in ("brow", "eye"):
        assert x[list(IBUG68[f"left_{part}"])].max() < 0 < x[list(IBUG68[f"right_{part}"])].min()
    assert x[68] < 0 < x[69]
    assert x[48] < 0 < x[54]


def test_five_points_by_hand() -> None:
    face = np.random.default_rng(0).uniform(0, 112, (3, 68, 2))
    five = five_from_68(face)
    for i in range(3):
        np.testing.assert_allclose(five[i, 0], sum(face[i, 36 + j] for j in range(6)) / 6)
        np.testing.assert_allclose(five[i, 1], sum(face[i, 42 + j] for j in range(6)) / 6)
        np.testing.assert_array_equal(five[i, 2:], face[i, [30, 48, 54]])
    np.testing.assert_array_equal(five_from_68(np.concatenate([face, face[:, :2]], 1)), five)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(FLIPS)), st.integers(1, 2000))
def test_flip_round_trip(seed: int, scheme: str, width: int) -> None:
    face = np.random.default_rng(seed).uniform(0, width, (2, len(FLIPS[scheme]), 3))
    twice = flip_points(flip_points(face, width, scheme), width, scheme)
    np.testing.assert_allclose(twice, face, atol=1e-9)


def test_flip_follows_the_pixels() -> None:
    """A dot painted at each point of a picture lies, in the mirrored picture, at the flipped point."""
    width = 112
    face = TEMPLATES["arcface112"].round()
    image = np.zeros((112, width), np.uint8)
    for label, (x, y) in enumerate(face, 1):
        image[int(y), int(x)] = label
    mirrored = image[:, ::-1]
    names = {int(mirrored[int(y), int(x)]) for x, y in flip_points(face, width, "five")}
    assert names == {1, 2, 3, 4, 5}
    x, y = flip_points(face, width, "five")[0].astype(int)
    assert mirrored[y, x] == 2  # what is now the left eye was the right one


def test_bad_schemes() -> None:
    with pytest.raises(OptionError, match="did you mean 'ibug68'"):
        flip_points(np.zeros((68, 2)), 112, "ibug")
    with pytest.raises(ShapeError):
        flip_points(np.zeros((5, 2)), 112, "ibug68")
    with pytest.raises(ShapeError):
        five_from_68(np.zeros((5, 2)))


@given(angles=st.tuples(*[st.floats(-80, 80)] * 3), scale=st.floats(0.5, 400))
@settings(max_examples=30, deadline=None)
def test_an_even_jaw_is_evenly_spaced_whatever_the_pose(angles: tuple[float, float, float], scale: float) -> None:
    face = MEAN70 @ rotation_from_euler(np.array(angles)).T * scale
    face[5] += 0.3 * (face[6] - face[5])  # a vertex that stands elsewhere on the jaw
    even = even_jaw(face)
    spaces = np.linalg.norm(np.diff(even[:17], axis=0), axis=1)
    assert spaces.max() / spaces.min() < 1.03  # chords of equal arcs
    kept = [0, 16, *range(17, 70)]
    np.testing.assert_array_equal(even[kept], face[kept])
    np.testing.assert_allclose(even_jaw(face[:68, :]), even[:68])
    np.testing.assert_allclose(even_jaw(np.stack([face, face]))[1], even)


def test_an_even_jaw_stays_on_the_curve() -> None:
    angle = np.linspace(0, np.pi, 17) ** 2 / np.pi  # points of a half circle, closer at one end
    face = np.zeros((68, 2))
    face[:17] = np.stack([-np.cos(angle), np.sin(angle)], 1)
    even = even_jaw(face)[:17]
    expected = np.linspace(0, np.pi, 17)
    np.testing.assert_allclose(even, np.stack([-np.cos(expected), np.sin(expected)], 1), atol=2e-3)


def test_even_jaw_refuses_other_points() -> None:
    with pytest.raises(ShapeError):
        even_jaw(np.zeros((5, 2)))
