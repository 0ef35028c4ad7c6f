"""Masks come back from the crop to the pixels of the picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from mien.errors import MissingColumn, OptionError, ValueRangeError
from mien.faces import PARSING, Faces, ImageInfo
from mien.media import annotate, parsing_mask
from mien.media.masks import PARSING_COLOURS

SIDE = 128


def scene(scale: float = 1.5) -> tuple[Faces, Any]:
    """A disc of skin with a nose in a picture of 300 x 240, as it lies there and as a crop saw it."""
    truth = np.zeros((240, 300), np.uint8)
    cv2.circle(truth, (150, 120), 60, PARSING.index("skin"), -1)
    cv2.circle(truth, (150, 125), 12, PARSING.index("nose"), -1)
    matrix = np.array([[1 / scale, 0, 64 - 150 / scale], [0, 1 / scale, 64 - 120 / scale]], np.float32)
    crop = cv2.warpAffine(truth, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    faces = Faces(
        image=[0], boxes=[[90, 60, 210, 180]], parsing=crop[None], parsing_matrix=matrix[None],
        images=[ImageInfo("drawn", 300, 240)],
    )  # fmt: skip
    return faces, truth


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 3.0])
def test_a_mask_lies_where_it_was(scale: float) -> None:
    faces, truth = scene(scale)
    mask = parsing_mask(faces, 0, height=240, width=300)
    seen = np.zeros_like(truth)  # what lies outside of the crop nobody has seen
    reach = round(64 * scale)
    seen[max(0, 120 - reach) : 120 + reach, max(0, 150 - reach) : 150 + reach] = 1
    wrong = (mask != truth) & (seen == 1)
    assert wrong.sum() < 0.06 * (truth > 0).sum()
    assert set(np.unique(mask)) <= set(np.unique(truth))


def test_bad_rows_sizes_and_faces_are_told() -> None:
    faces, _ = scene()
    with pytest.raises(ValueRangeError, match="no such face"):
        parsing_mask(faces, 1, height=240, width=300)
    with pytest.raises(OptionError, match="pixels"):
        parsing_mask(faces, 0, height=0, width=300)
    with pytest.raises(MissingColumn):
        parsing_mask(faces.without_columns("parsing"), 0, height=240, width=300)


def test_parts_are_coloured_and_the_background_is_not() -> None:
    faces, truth = scene()
    grey = np.full((240, 300, 3), 90, np.uint8)
    drawn = annotate(grey, faces, parts=["parsing"])
    assert (drawn[truth == 0][:2000] == 90).all()
    inside = drawn[120, 110].astype(int)
    assert inside == pytest.approx((90 + np.array(PARSING_COLOURS["skin"])) / 2, abs=1)
    assert set(PARSING_COLOURS) == set(PARSING) - {"background"}


def test_an_enlarged_picture_has_its_mask_enlarged() -> None:
    faces, truth = scene()
    drawn = annotate(np.full((240, 300, 3), 90, np.uint8), faces, parts=["parsing"], scale=2.0)
    coloured = (drawn != 90).any(2)
    large = cv2.resize(truth, (600, 480), interpolation=cv2.INTER_NEAREST) > 0
    assert (coloured != large).mean() < 0.01
