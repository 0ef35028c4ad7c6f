"""Head pose as 300W-LP, HopeNet and what was trained on them write it, and as `mien.geometry.pose` does.

There a positive yaw looks to the picture's left, pitch and roll have the signs that they have here, and the head turns
about its own axes with pitch outermost. In the axes of `mien.geometry.pose`: R = Rx(-pitch) Ry(yaw) Rz(roll).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mien.geometry.checks import Floats, floats
from mien.geometry.pose import euler_from_rotation, rotation_from_euler

__all__ = ["pose_from_300wlp", "pose_to_300wlp"]


def pose_from_300wlp(angles: ArrayLike) -> Floats:
    """Yaw, pitch, roll (..., 3) in degrees of this project from those of 300W-LP.

    Where one angle alone is not 0, just the sign of yaw changes; in heads that are turned and tilted all of them do.
    """
    a = floats("angles", angles, "... 3").astype(np.float64)
    zero = np.zeros_like(a[..., 0])
    pitch = rotation_from_euler(np.stack([zero, a[..., 1], zero], -1))
    yaw = rotation_from_euler(np.stack([-a[..., 0], zero, zero], -1))
    roll = rotation_from_euler(np.stack([zero, zero, a[..., 2]], -1))
    return euler_from_rotation(pitch @ yaw @ roll).astype(np.float32)


def pose_to_300wlp(pose: ArrayLike) -> Floats:
    """The inverse of `pose_from_300wlp`: yaw -90 to 90, pitch and roll -180 to 180 degrees."""
    r = rotation_from_euler(floats("pose", pose, "... 3").astype(np.float64))
    yaw = np.arcsin(np.clip(r[..., 0, 2], -1, 1))
    pitch = np.arctan2(r[..., 1, 2], r[..., 2, 2])
    roll = np.arctan2(-r[..., 0, 1], r[..., 0, 0])
    return np.asarray(np.degrees(np.stack([yaw, pitch, roll], -1)), np.float32)
