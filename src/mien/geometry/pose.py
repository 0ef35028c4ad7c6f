"""Head pose from 3D landmarks: the rotation between a frontal mean face and the face at hand.

Axes are those of the picture: x to the right, y down, z away from the camera. Angles, in degrees:

========  ==========================================  =====================
angle     positive when                               zero
========  ==========================================  =====================
yaw       the face turns to the picture's right side  facing the camera
pitch     the face looks up                           facing the camera
roll      the head leans clockwise as seen            eyes level
========  ==========================================  =====================

From a frontal head the rotations are done in the order roll, pitch, yaw, each about an axis of the picture,
which is the order of ISO/IEC 19794-5. So yaw and pitch alone say where the nose points, ``(sin yaw cos
pitch, -sin pitch, -cos yaw cos pitch)``, up to full profile and beyond; only straight up or down leaves
roll undetermined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Floats, doubles, floats
from mien.geometry.mean_shape import MEAN70

__all__ = ["MEAN70", "euler_from_rotation", "pose_from_landmarks3d", "rotation_from_euler", "rotation_to"]


def rotation_from_euler(angles: ArrayLike) -> Floats:
    """Rotations (..., 3, 3) of angles (..., 3) yaw, pitch, roll in degrees: ``points @ rotation.T``."""
    a = floats("angles", angles, "... 3")
    yaw, pitch, roll = np.moveaxis(np.radians(a.astype(np.float64)), -1, 0)
    sy, cy, sp, cp, sr, cr = (
        np.sin(yaw),
        np.cos(yaw),
        np.sin(pitch),
        np.cos(pitch),
        np.sin(roll),
        np.cos(roll),
    )
    # Ry(-yaw) @ Rx(-pitch) @ Rz(roll), multiplied out
    rows = [
        [cy * cr + sy * sp * sr, -cy * sr + sy * sp * cr, -sy * cp],
        [cp * sr, cp * cr, sp],
        [sy * cr - cy * sp * sr, -sy * sr - cy * sp * cr, cy * cp],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(a.dtype, copy=False)


def euler_from_rotation(rotation: ArrayLike) -> Floats:
    """Yaw, pitch, roll (..., 3) in degrees of rotations (..., 3, 3); yaw and roll -180 to 180, pitch -90 to
    90.

    A face that looks straight up or down has no yaw of its own; roll is then given as 0.

    Raises
    ------
    ValueRangeError
        Matrices that are not rotations (not orthonormal, or mirroring).
    """
    given = floats("rotation", rotation, "... 3 3")
    r = given.astype(np.float64)
    off = np.abs(r @ r.swapaxes(-1, -2) - np.eye(3)).max((-1, -2), initial=0)
    if (off > 1e-3).any() or (np.linalg.det(r) < 0).any():
        raise ValueRangeError(
            "not a rotation",
            got=f"R @ R.T up to {off.max():.3g} from 1",
            expected="orthonormal, determinant 1",
        )
    level = np.hypot(r[..., 1, 0], r[..., 1, 1])
    pitch = np.arctan2(r[..., 1, 2], level)
    locked = level < 1e-6
    yaw = np.where(locked, np.arctan2(r[..., 2, 0], r[..., 0, 0]), np.arctan2(-r[..., 0, 2], r[..., 2, 2]))
    roll = np.where(locked, 0, np.arctan2(r[..., 1, 0], r[..., 1, 1]))
    angles: Floats = np.degrees(np.stack([yaw, pitch, roll], -1))
    return angles.astype(given.dtype, copy=False)


def rotation_to(shape: ArrayLike, points: ArrayLike) -> tuple[Floats, Floats]:
    """The rotation and scale that take `shape` nearest to each of `points`, least squares, never a
    reflection.

    Orthogonal Procrustes with scale (Kabsch 1976; Umeyama 1991) on centred points, all faces in one batched
    SVD.

    Parameters
    ----------
    shape : (k, 3)
        One face, k >= 3, not all on a line.
    points : (n, k, 3)
        Faces with the same k points.

    Returns
    -------
    rotation (n, 3, 3), scale (n,): ``points ~ scale * shape @ rotation.T + shift``.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Arrays that do not fit, or points of a face that all coincide.
    """
    given = floats("points", points, "n k 3")
    source, target = doubles("shape", shape, "k 3"), given.astype(np.float64)
    if target.shape[1] != len(source) or len(source) < 3:
        raise ShapeError("shape and points differ in number", got=f"{source.shape}, {given.shape}", expected="k >= 3")
    source = source - source.mean(0)
    target = target - target.mean(1, keepdims=True)
    size = np.sqrt((target**2).sum((1, 2)))
    if (size <= 1e-6 * (np.abs(given).max(initial=0) + 1e-30)).any():
        raise ValueRangeError("the landmarks of a face coincide", got=f"row {int(size.argmin())}", expected="a face")
    u, s, vt = np.linalg.svd(target.swapaxes(-1, -2) @ source)
    # Where the best orthogonal matrix would mirror the face, its weakest axis turns round.
    handed = np.sign(np.linalg.det(u @ vt))
    s[:, 2] *= handed
    u[:, :, 2] *= handed[:, None]
    scale = s.sum(1) / (source**2).sum()
    return (u @ vt).astype(given.dtype, copy=False), scale.astype(given.dtype, copy=False)


def pose_from_landmarks3d(landmarks3d: ArrayLike, shape: ArrayLike = MEAN70) -> Floats:
    """Yaw, pitch and roll of faces from their 3D landmarks.

    All points take part. Without mouth and chin, which move, pitch would shift by about a degree on wide open
    mouths, but its noise would grow by 1.6 (simulated on `fairface_faces` with 4 % of the eye distance).

    Parameters
    ----------
    landmarks3d : (n, k, 3)
        Landmarks in pixels of the picture, z in the same unit, smaller is nearer.
    shape : (k, 3)
        The same points of a face that looks at the camera, in any unit; by default the mean of 28,594 faces.

    Returns
    -------
    (n, 3) degrees: yaw, pitch, roll.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Arrays that do not fit, or points of a face that all coincide.
    """
    rotation, _ = rotation_to(shape, landmarks3d)
    return euler_from_rotation(rotation)
