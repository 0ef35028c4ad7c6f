"""The landmark schemes: which index is which point of a face, and how indices swap in a mirrored picture.

Left and right are those of the picture, not of the person: the left eye is the one at smaller x in a frontal,
upright face.

==========  ====  ========================================================================================
scheme      k     points
==========  ====  ========================================================================================
``five``    5     left eye, right eye, nose tip, left mouth corner, right mouth corner
``ibug68``  68    jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67 (Sagonas et al., 300-W, 2013)
``mien70``  70    ``ibug68``, then the two iris centres, left and right
==========  ====  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from mien.geometry.checks import Floats, Ints, choice, floats

IBUG68: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "jaw": tuple(range(17)),
        "left_brow": tuple(range(17, 22)),
        "right_brow": tuple(range(22, 27)),
        "nose_bridge": tuple(range(27, 31)),
        "nostrils": tuple(range(31, 36)),
        "left_eye": tuple(range(36, 42)),
        "right_eye": tuple(range(42, 48)),
        "outer_lips": tuple(range(48, 60)),
        "inner_lips": tuple(range(60, 68)),
    }
)
"""The 68 points by part of the face, in drawing order."""

NOSE_TIP = 30
LEFT_EYE_OUTER, LEFT_EYE_INNER = 36, 39
RIGHT_EYE_INNER, RIGHT_EYE_OUTER = 42, 45
LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER = 48, 54
LEFT_IRIS, RIGHT_IRIS = 68, 69


def _frozen(values: list[int]) -> Ints:
    array = np.array(values, np.intp)
    array.setflags(write=False)
    return array


FLIP5 = _frozen([1, 0, 2, 4, 3])
"""Row i of a mirrored face is row FLIP5[i] of the face."""

FLIP68 = _frozen(
    [
        *range(16, -1, -1),  # jaw
        *range(26, 16, -1),  # brows
        *(27, 28, 29, 30),  # nose bridge: on the midline
        *(35, 34, 33, 32, 31),  # nostrils
        *(45, 44, 43, 42, 47, 46),  # left eye from right: outer corner, upper lid, inner corner, lower lid
        *(39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48),  # outer lips: upper, then lower
        *(59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60),  # inner lips
        *(67, 66, 65),
    ]
)
"""Row i of a mirrored face is row FLIP68[i] of the face."""

FLIP70 = _frozen([*FLIP68.tolist(), RIGHT_IRIS, LEFT_IRIS])
"""Row i of a mirrored face is row FLIP70[i] of the face."""

FLIPS: Mapping[str, Ints] = MappingProxyType({"five": FLIP5, "ibug68": FLIP68, "mien70": FLIP70})
"""Index map by the name of the scheme."""


def five_from_68(points: ArrayLike) -> Floats:
    """The five alignment points of 68 (or 70) landmarks: eye centres, nose tip, mouth corners.

    An eye's centre is the mean of its six contour points, not the iris: it does not move with the gaze.

    Parameters
    ----------
    points : (..., 68 | 70, d)
        Landmarks of scheme ``ibug68`` or ``mien70``, d = 2 or 3.

    Returns
    -------
    (..., 5, d) of scheme ``five``.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        `points` is not such an array, or not finite.
    """
    array = floats("points", points, "... k d")
    if array.shape[-2] not in (68, 70):
        floats("points", array, "... 68 d")
    left = array[..., list(IBUG68["left_eye"]), :].mean(-2)
    right = array[..., list(IBUG68["right_eye"]), :].mean(-2)
    rest = [array[..., row, :] for row in (NOSE_TIP, LEFT_MOUTH_CORNER, RIGHT_MOUTH_CORNER)]
    return np.stack([left, right, *rest], axis=-2)


def even_jaw(points: ArrayLike) -> Floats:
    """The landmarks with the 17 points of the jaw moved along it, to equal distances of each other.

    That is how 68 points are annotated (Sagonas et al., 300-W, 2013): the jaw has no corners to go by. Points that
    come from the vertices of a mesh stand where its vertices are. The curve is a cubic spline through the points
    given; its ends stay, and distances are measured along it.

    Parameters
    ----------
    points : (..., 68 | 70, d)
        Landmarks of scheme ``ibug68`` or ``mien70``, d = 2 or 3, in pixels.

    Returns
    -------
    The same shape; every point but 1 to 15 is unchanged.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        `points` is not such an array, or not finite.
    """
    from scipy.interpolate import CubicSpline

    array = floats("points", points, "... k d")
    if array.shape[-2] not in (68, 70):
        floats("points", array, "... 68 d")
    jaw = array[..., list(IBUG68["jaw"]), :].reshape(-1, 17, array.shape[-1]).astype(np.float64)
    knots = np.linspace(0, 16, 16 * _JAW_PIECES + 1)
    curve = CubicSpline(np.arange(17), jaw, axis=1)(knots)
    length = np.concatenate([np.zeros((len(jaw), 1)), np.linalg.norm(np.diff(curve, axis=1), axis=2).cumsum(1)], axis=1)
    wanted = length[:, -1:] * np.linspace(0, 1, 17)
    # The piece of the curve in which each wanted length lies, by counting: lengths only grow.
    piece = ((length[:, None, 1:-1] <= wanted[:, :, None]).sum(2)).astype(np.intp)
    row = np.arange(len(jaw))[:, None]
    whole = length[row, piece + 1] - length[row, piece]
    share = (wanted - length[row, piece]) / np.where(whole > 0, whole, 1)
    even = curve[row, piece] + share[..., None] * (curve[row, piece + 1] - curve[row, piece])
    moved = array.copy()
    moved[..., list(IBUG68["jaw"])[1:-1], :] = even[:, 1:-1].reshape(*array.shape[:-2], 15, array.shape[-1])
    return moved


_JAW_PIECES = 8
"""Straight pieces that stand for the spline between two points when lengths are measured."""


def flip_points(points: ArrayLike, width: float, scheme: str) -> Floats:
    """The landmarks of the mirrored picture ``image[:, ::-1]``.

    Parameters
    ----------
    points : (..., k, d)
        Landmarks in pixels, d = 2 or 3 (depth does not change).
    width
        Width of the picture in pixels.
    scheme
        ``"five"``, ``"ibug68"`` or ``"mien70"``.

    Returns
    -------
    (..., k, d): x becomes ``width - 1 - x``, and rows swap so that left is left again.

    Raises
    ------
    OptionError
        Unknown scheme.
    ShapeError, DtypeError, ValueRangeError
        `points` does not fit the scheme, or is not finite.
    """
    flip = FLIPS[choice("landmark scheme", scheme, tuple(FLIPS))]
    array = floats("points", points, f"... {len(flip)} d")[..., flip, :].copy()
    array[..., 0] = width - 1 - array[..., 0]
    return array
