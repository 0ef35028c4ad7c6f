"""Pictures as if a few pixels wide."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mien.data import degrade
from mien.data.low_resolution import at_pixels, drawn_sides, squared
from mien.errors import MienError

CROPS = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def test_reduced_by_area_and_enlarged_by_one_kernel() -> None:
    out = at_pixels(CROPS, [3, 8, 32, 40])
    for row, side in enumerate((3, 8)):
        small = cv2.resize(CROPS[row], (side, side), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(out[row], cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC))
    np.testing.assert_array_equal(out[2:], CROPS[2:])
    np.testing.assert_array_equal(at_pixels(CROPS, 8)[1], out[1])


def test_linearly_it_is_the_degradation_of_the_same_side() -> None:
    rng = np.random.default_rng(0)
    for side in (4, 8, 16):
        severity = np.log(32 / side) / np.log(8)
        want = np.stack([degrade.resolution(crop, severity, rng) for crop in CROPS])
        np.testing.assert_array_equal(at_pixels(CROPS, side, kernel="linear"), want)


def test_pictures_are_squashed_to_squares() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert squared(picture, 40).shape == (40, 40, 3)
    np.testing.assert_array_equal(squared(picture, 10), cv2.resize(picture, (10, 10), interpolation=cv2.INTER_AREA))
    same = CROPS[0]
    assert squared(same, 32) is same


def test_sides_are_drawn_evenly_from_both_ends() -> None:
    drawn = drawn_sides(np.random.default_rng(0), 6000, (3, 5))
    assert np.abs(np.bincount(drawn)[3:] / 6000 - 1 / 3).max() < 0.03
    assert set(drawn) == {3, 4, 5}


@pytest.mark.parametrize(
    ("crops", "sides", "kernel"),
    [
        (CROPS.astype(float), 3, "cubic"), (CROPS[:, :20], 3, "cubic"), (CROPS, [3, 4], "cubic"), (CROPS, 0, "cubic"),
        (CROPS, 2.5, "cubic"), (CROPS, 3, "lanczos"),
    ],
)  # fmt: skip
def test_what_cannot_be_reduced_is_refused(crops: object, sides: object, kernel: object) -> None:
    with pytest.raises(MienError):
        at_pixels(crops, sides, kernel=kernel)  # type: ignore[arg-type]
