"""Derive `mien.geometry.mean_shape.MEAN70` from the landmarks of `fairface_faces`.

    python scripts/mean_shape.py DATA/fairface_faces > src/mien/geometry/mean_shape.py

Generalised Procrustes analysis (Gower 1975): start from the plain mean, turn and scale every face onto it,
average, make the average symmetric, repeat until nothing moves. Then turn it about the ear-to-ear axis
until half of the faces look up and half look down, and measure it in distances between the outer eye
corners. The jaws are spaced evenly first, as in training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.geometry.landmarks import FLIP70, LEFT_EYE_OUTER, RIGHT_EYE_OUTER, even_jaw
from mien.geometry.pose import euler_from_rotation, rotation_from_euler, rotation_to

HEADER = '''"""The mean face: 70 landmarks of a head facing the camera. Written by ``scripts/mean_shape.py``.

Symmetrised mean of the Procrustes-aligned landmarks of {count:,} FairFace portraits of adults (K. Karkkainen,
J. Joo, WACV 2021; pictures CC BY 4.0; landmarks by MediaPipe FaceMesh, Apache-2.0). Frontal means: left and
right mirror each other, and half of the portraits look up from here, half down. Read against it by eyes and
nose, the frontal pose of the ICT face model has a pitch of +2 degrees.
"""

from __future__ import annotations

import numpy as np

from mien.geometry.checks import Double

MEAN70: Double = np.array(
    [
{rows}
    ]
)
"""(70, 3), scheme ``mien70``: x right, y down, z away, centred, 1 = the distance of the outer eye corners."""

MEAN70.setflags(write=False)'''


def mean_shape(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """(70, 3) mean of faces (n, 70, 3): symmetric, frontal, centred, outer eye corners 1 apart."""
    faces = faces - faces.mean(1, keepdims=True)
    mean = symmetric(faces.mean(0))
    for _ in range(100):
        rotation, scale = rotation_to(mean, faces)
        before, mean = mean, symmetric((faces @ rotation / scale[:, None, None]).mean(0))
        # The mean of turned-back faces shrinks a little in every round; its size is free, so it is held.
        mean *= np.linalg.norm(before) / np.linalg.norm(mean)
        if np.abs(mean - before).max() < 1e-9:
            break
    rotation, _ = rotation_to(mean, faces)
    pitch = float(np.median(euler_from_rotation(rotation)[:, 1]))
    mean = mean @ rotation_from_euler([0.0, pitch, 0.0]).T
    return mean / np.linalg.norm(mean[LEFT_EYE_OUTER] - mean[RIGHT_EYE_OUTER])


def symmetric(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of a centred shape (70, 3) and its mirror image."""
    return (shape + shape[FLIP70] * [-1, 1, 1]) / 2


def main(root: Path) -> None:
    points = np.load(root / "points.npz")["xyz"].astype(np.float64)
    faces = even_jaw(points[np.isfinite(points).all((1, 2))])
    mean = mean_shape(faces).round(4) + 0.0  # no -0.0
    rows = "\n".join(f"        [{x:.4f}, {y:.4f}, {z:.4f}],  # {i}" for i, (x, y, z) in enumerate(mean))
    print(HEADER.format(count=len(faces), rows=rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
