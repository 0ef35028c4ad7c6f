"""What the projection of a head tells of it, where no depth is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Double, doubles
from mien.geometry.mean_shape import MEAN70

__all__ = ["yaw_of"]


def yaw_of(points: ArrayLike) -> Double:
    """Yaw (n,) in degrees of heads, from their points in the 3D convention (n, 68, 2).

    The points are projections of a head, so they are nearly an affine map of the mean head; the rotation in it is read
    off (scaled orthographic projection). Signs as of `mien.geometry.pose`.
    """
    p = doubles("points", points, "n k d")[..., :2]
    shape = np.asarray(MEAN70[:68], np.float64)
    if p.shape[1] != len(shape):
        raise ShapeError("the yaw is that of 68 points", got=p.shape, expected="(n, 68, 2)")
    shape = shape - shape.mean(0)
    centred = p - p.mean(1, keepdims=True)
    affine = np.einsum("jk,nkd->ndj", np.linalg.pinv(shape), centred)  # (n, 2, 3): rows of the scaled rotation
    first, second = affine[:, 0], affine[:, 1]
    if len(p) and min(float(np.linalg.norm(row, axis=1).min()) for row in (first, second)) <= 1e-9:
        raise ValueRangeError("the points of a face coincide or lie on a line", expected="a face")
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second - (second * first).sum(1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    third = np.cross(first, second)
    # Of the rotation of `rotation_from_euler`: r[0, 2] = -sin(yaw) cos(pitch), r[2, 2] = cos(yaw) cos(pitch).
    return np.asarray(np.degrees(np.arctan2(-first[:, 2], third[:, 2])))
