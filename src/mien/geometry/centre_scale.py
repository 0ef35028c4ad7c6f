"""Squares around a centre, as networks of heatmaps are shown faces: to the crop and back, with every half pixel.

A crop is a square of side ``200 * scale`` pixels around a centre (A. Newell et al., ECCV 2016; A. Bulat and
G. Tzimiropoulos, ICCV 2017). Here centre and points are counted **from the picture's edge**, as boxes are: the middle
of the first pixel is 0.5. Points whose first pixel's middle is 0, as everywhere else in mien, are half a pixel less;
`crop_matrices` maps those, and so fits `mien.geometry.warp_images`.

The released code of FAN truncates to whole pixels, in both directions, and its crop begins one crop pixel late:
``whole=True`` and `official_crop` do as it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Double, doubles

__all__ = ["REFERENCE", "UNIT", "UP", "centre_scale", "crop_matrices", "from_crop", "official_crop", "to_crop"]

UNIT = 200.0
"""Side in pixels of a square of scale 1."""
REFERENCE = 195.0
"""Width plus height, in pixels, of a tight box of scale 1."""
UP = 0.12
"""How far above the box's middle the square's is, as a share of the box's height."""


def centre_scale(boxes: ArrayLike, *, up: float = UP, reference: float = REFERENCE) -> tuple[Double, Double]:
    """Centres (n, 2) and scales (n,) of the squares for tight boxes xyxy (n, 4), pixels.

    Raises
    ------
    ShapeError, ValueRangeError
        No such array, or a box without extent.
    """
    b = doubles("boxes", boxes, "n 4")
    width, height = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
    if len(b) and not (width + height > 0).all():
        raise ValueRangeError("a box has no extent", got=b[int((width + height).argmin())].tolist(), expected="xyxy")
    centre = np.stack([(b[:, 0] + b[:, 2]) / 2, (b[:, 1] + b[:, 3]) / 2 - up * height], axis=1)
    return np.asarray(centre), np.asarray((width + height) / reference)


def to_crop(points: ArrayLike, centre: ArrayLike, scale: ArrayLike, size: float, *, whole: bool = False) -> Double:
    """Points of pictures in crops of `size` pixels: ``size * (p - c) / h + size / 2``.

    Parameters
    ----------
    points : (n, k, 2)
        Pixels of the picture.
    centre, scale : (n, 2), (n,)
        Of the squares.
    size
        Side of the crop (256), or of its heatmaps (64).
    whole
        Truncate to whole pixels, towards zero, as the released code does.

    Returns
    -------
    (n, k, 2)
    """
    p, c, h = _fit(points, centre, scale)
    return _ended(size * (p - c) / h + size / 2, whole=whole)


def from_crop(points: ArrayLike, centre: ArrayLike, scale: ArrayLike, size: float, *, whole: bool = False) -> Double:
    """The way back: ``(q - size / 2) * h / size + c``; parameters as of `to_crop`."""
    q, c, h = _fit(points, centre, scale)
    return _ended((q - size / 2) * h / size + c, whole=whole)


def _fit(points: ArrayLike, centre: ArrayLike, scale: ArrayLike) -> tuple[Double, Double, Double]:
    p, c, s = doubles("points", points, "n k 2"), doubles("centre", centre, "n 2"), doubles("scale", scale, "n")
    if not len(p) == len(c) == len(s):
        raise ShapeError("points and squares do not fit together", got=(p.shape, c.shape, s.shape), expected="n each")
    if (s <= 0).any():
        raise ValueRangeError("a square has no extent", got=float(s.min()), expected="a scale above 0")
    return p, c[:, None], UNIT * s[:, None, None]


def _ended(points: Double, *, whole: bool) -> Double:
    return np.asarray(np.trunc(points) if whole else points)


def crop_matrices(centre: ArrayLike, scale: ArrayLike, size: int) -> Double:
    """Maps (n, 2, 3) from the picture to crops of `size` pixels, for `mien.geometry.warp_images`.

    They map middles of pixels, and the square exactly onto the crop.
    """
    c, s = doubles("centre", centre, "n 2"), doubles("scale", scale, "n")
    if len(c) != len(s) or (s <= 0).any():
        raise ShapeError("there must be one scale above 0 for each centre", got=(c.shape, s.shape), expected="n each")
    factor = size / (UNIT * s)
    matrices = np.zeros((len(c), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = factor
    matrices[:, :, 2] = size / 2 - 0.5 - factor[:, None] * (c - 0.5)
    return matrices


def official_crop(
    image: NDArray[np.uint8], centre: ArrayLike, scale: ArrayLike, *, size: int = 256
) -> NDArray[np.uint8]:
    """Crops (n, size, size, 3) of one picture, to the grey level those of the released code.

    From ``trunc(c - (127 / 256) h)`` to ``trunc(c + h / 2)``, zero outside of the picture, bilinear without averaging.

    Parameters
    ----------
    image : (H, W, 3) uint8
    centre, scale : (n, 2), (n,)
    size
        Side in pixels.
    """
    import cv2

    picture = np.asarray(image)
    if picture.ndim != 3 or picture.dtype != np.uint8:
        raise ShapeError("this is no picture", got=(picture.shape, picture.dtype), expected="(H, W, C) uint8")
    c, s = doubles("centre", centre, "n 2"), doubles("scale", scale, "n")
    ends = np.broadcast_to(np.array([[1.0, 1.0], [size, size]]), (len(c), 2, 2))
    corners = from_crop(ends, c, s, size, whole=True).astype(np.int64)
    height, width = picture.shape[:2]
    crops = np.empty((len(c), size, size, picture.shape[2]), np.uint8)
    for crop, ((left, top), (right, bottom)) in zip(crops, corners.tolist(), strict=True):
        if right <= left or bottom <= top:
            raise ValueRangeError("a square is less than a pixel", got=(right - left, bottom - top), expected="above 0")
        cut: NDArray[Any] = np.zeros((bottom - top, right - left, picture.shape[2]), np.uint8)
        x0, y0, x1, y1 = max(0, left), max(0, top), min(width, right), min(height, bottom)
        if x1 > x0 and y1 > y0:
            cut[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
        crop[...] = cv2.resize(cut, (size, size), interpolation=cv2.INTER_LINEAR).reshape(crop.shape)
    return crops
