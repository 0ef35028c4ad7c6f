"""Where people look for an expression: masks from Ekman and Friesen's descriptions, on the canvas's mean face.

Each mask is a union of polygons. A corner is a landmark, counted from 1 as in the paper; ``"19^"`` is its foot at the
upper edge, ``"40_"`` the point at its x on the height of landmark 30 (the bridge of the nose), and ``"mL"``, ``"mR"``
lie halfway between the jaw and the corners of the mouth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mien.nn.expression import EKMAN
from mien.papers.fer_xai.canvas import HEIGHT, WIDTH, template

Mask = NDArray[np.bool_]

_EYES = ("37 38 39 40 41 42", "43 44 45 46 47 48")
_UNDER = ("37 42 41 40 40_ 37_", "43 48 47 46 46_ 43_")
_ROOT = ("28 29 40_", "28 29 43_", "40 28 40_", "43 28 43_")
_CHEEKS = ("37_ 40_ 50 49 mL", "46_ 43_ 54 55 mR")
_BROWS = ("18 19 20 21 22 40 39 38 37", "27 26 25 24 23 43 44 45 46", "22 23 43 28 40")
_FOREHEAD = ("19^ 26^ 26 25 24 23 22 21 20 19",)

POLYGONS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "anger": (*_FOREHEAD, *_BROWS, *_EYES, *_UNDER, "33 34 35 53 57 10 9 8 59 51"),
        "disgust": (
            "37 42 41 40 39 22 28 29 30 31 34 33 32 51 50 49 60 mL",
            "46 47 48 43 44 23 28 29 30 31 34 35 36 53 54 55 56 mR",
            "22 23 28", "37 37_ mL 49", "46 46_ mR 55",
        ),
        "fear": (*_FOREHEAD, *_BROWS, *_EYES, *_UNDER, *_ROOT, *_CHEEKS),
        "happiness": (
            *_EYES, *_UNDER, *_ROOT, *_CHEEKS,
            "32 5 6 7 60 50", "36 13 12 11 56 54",
        ),
        "sadness": (
            "21^ 24^ 24 23 22 21", *_BROWS, *_EYES, *_UNDER, *_CHEEKS, "50 60 mL", "56 54 mR", "1 37 19", "17 46 26",
        ),
        "surprise": (
            "19^ 22^ 22 40 41 42 37 18 19", "23^ 26^ 26 27 46 47 48 43 23",
            "32 33 34 35 36 11 10 9 8 7",
        ),
    }
)  # fmt: skip
"""Corners of the polygons of each expression."""


def corner(name: str, points: NDArray[np.float32] | None = None) -> tuple[float, float]:
    """Place (x, y) of a corner on the canvas, px."""
    at = template() if points is None else points
    if name in ("mL", "mR"):
        first, second = (5, 49) if name == "mL" else (13, 55)
        middle = (at[first - 1] + at[second - 1]) / 2
        return float(middle[0]), float(middle[1])
    x, y = at[int(name.rstrip("^_")) - 1]
    if name.endswith("^"):
        y = 0.0
    elif name.endswith("_"):
        y = at[29, 1]
    return float(x), float(y)


def painted(polygons: Sequence[str], points: NDArray[np.float32] | None = None) -> Mask:
    """(275, 224) the union of filled polygons, each a text of corners.

    Parameters
    ----------
    polygons
        Names of corners, blanks between.
    points
        (68, 2) the mean face; default: `template`.
    """
    import cv2

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polygon in polygons:
        place = np.array([corner(name, points) for name in polygon.split()])
        cv2.fillPoly(mask, [np.rint(place).astype(np.int32)], 1)
    return mask.astype(bool)


@lru_cache(maxsize=1)
def ekman_masks() -> Mapping[str, Mask]:
    """The masks (275, 224) of the six expressions, in the order of `EKMAN`."""
    made = {name: painted(POLYGONS[name]) for name in EKMAN}
    for mask in made.values():
        mask.setflags(write=False)
    return MappingProxyType(made)


@lru_cache(maxsize=1)
def face_mask() -> Mask:
    """(275, 224) the inside of the face: the jaw, and the forehead up to the edge between the brows' outer ends."""
    outline = " ".join(map(str, range(1, 18)))
    mask = painted([f"{outline} 27^ 18^"])
    mask.setflags(write=False)
    return mask
