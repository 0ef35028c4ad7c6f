"""Draws docs/img/mos_batches.jpg: rendered scenes as they are trained on, whole and stitched, with their labels.

    python scripts/mos_batches.py

Boxes and five points; the line from the nose shows where the face looks (yaw and pitch).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.data.posed_faces import HeadScenes
from mien.geometry.pose import rotation_from_euler
from mien.geometry.pose_300wlp import pose_from_300wlp

SIDE, ZOOM, GAP = 160, 2, 8


def drawn(sample: dict[str, Any]) -> Any:
    picture = cv2.resize(sample["image"], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
    present = sample["present"]
    noses = rotation_from_euler(pose_from_300wlp(sample["pose"][present])) @ np.array([0, 0, -1], np.float32)
    for box, points, nose in zip(sample["boxes"][present], sample["points"][present], noses, strict=True):
        a, b = (tuple(int(v) for v in np.round(corner * ZOOM)) for corner in (box[:2], box[2:]))
        cv2.rectangle(picture, a, b, (60, 255, 60), 1, cv2.LINE_AA)
        for point in points:
            cv2.circle(picture, tuple(int(v) for v in np.round(point * ZOOM)), 1, (255, 230, 0), -1, cv2.LINE_AA)
        tip = points[2] + nose[:2] * 0.6 * (box[3] - box[1])
        start, end = (tuple(int(v) for v in np.round(p * ZOOM)) for p in (points[2], tip))
        cv2.line(picture, start, end, (255, 60, 60), 1, cv2.LINE_AA)
    return picture


def main() -> None:
    scenes = HeadScenes(24, heads=24, size=SIDE, seed=5, smallest=14, largest=64, most_heads=4)
    rows = []
    for first, stitch in ((0, False), (8, True)):
        tiles = [drawn(scenes.drawn(first + k, np.random.default_rng(k), stitch=stitch)) for k in range(4)]
        gap = np.full((SIDE * ZOOM, GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], 1))
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    page = np.concatenate([rows[0], gap, rows[1]])
    out = Path(__file__).parents[1] / "docs" / "img" / "mos_batches.jpg"
    cv2.imwrite(str(out), page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 74])


if __name__ == "__main__":
    main()
