"""Draws docs/img/fan_points.jpg: turned heads with both kinds of points, and what a network sees and learns of them.

    python scripts/fan_points.py

Upper row: the points of the visible contour (yellow) and those of the head (red) in the paper's crop. Lower row: the
guidance that 2D-to-3D-FAN is shown (green) and the targets it learns (red), over the same crops.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from mien.data.heads import render, sample
from mien.data.heads.contour import visible_contour
from mien.geometry import similarity, warp_images
from mien.geometry.centre_scale import centre_scale, crop_matrices
from mien.nn.heatmaps import draw_gaussians
from mien.papers.fan import guidance

YAWS = (-75.0, -45.0, 0.0, 45.0, 75.0)
DRAWN, SEEN = 320, 208


def main() -> None:
    some = sample(len(YAWS), seed=21, occluder="none", hat=0, hair_style="short", glasses=0)
    some = some.with_(pose=np.array([[yaw, 0, yaw / 12] for yaw in YAWS], np.float32))
    heads = render(some, size=DRAWN)
    flat, head = visible_contour(some, size=DRAWN), heads.landmarks_2d
    box = np.concatenate([head.min(1), head.max(1)], 1).astype(np.float64) + 0.5
    matrices = crop_matrices(*centre_scale(box), SEEN)
    crops = np.stack([warp_images(image, one[None], SEEN)[0] for image, one in zip(heads.image, matrices, strict=True)])
    placed = [np.asarray(similarity.apply(matrices, points), np.float32) for points in (flat, head)]
    above = crops.copy()
    for picture, visible, own in zip(above, *placed, strict=True):
        for points, colour, radius in ((own, (230, 40, 40), 3), (visible, (255, 225, 60), 2)):
            for x, y in points:
                place = (round(float(x) * 16), round(float(y) * 16))
                cv2.circle(picture, place, radius * 16, colour, -1, cv2.LINE_AA, 4)
    shown = guidance(torch.from_numpy(placed[0] + 0.5), SEEN).amax(1)
    cells = torch.from_numpy(placed[1] + 0.5) / 4
    taught = draw_gaussians(cells, SEEN // 4).amax(1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    below = crops * 0.35
    below[..., 1] += 0.65 * 255 * shown.numpy()
    below[..., 0] += 0.65 * 255 * taught.numpy()
    rows = [np.concatenate(list(row), 1) for row in (above, below.clip(0, 255).astype(np.uint8))]
    out = Path(__file__).parents[1] / "docs" / "img" / "fan_points.jpg"
    cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
