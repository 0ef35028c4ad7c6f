"""Draws the pictures of docs/papers/fer_xai.md: the masks, and the global maps of the planted experiment.

    python scripts/fer_xai_maps.py masks      docs/img/fer_xai-masks.png, seconds
    python scripts/fer_xai_maps.py planted    docs/img/fer_xai-planted.jpg, about a minute on one idle core

Needs the extras audit and evaluate.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from mien.claims import fer_xai
from mien.claims.harness import Setting
from mien.media.plots import save_plot
from mien.papers.fer_xai import HEIGHT, WIDTH, ekman_masks, template
from mien.verbs.audit._draw import grid, overlay

IMAGES = Path(__file__).parents[1] / "docs" / "img"
ROWS = {"trained": "trained", "without warp": "without warp", "shuffled": "shuffled labels", "untrained": "untrained"}
PAPER, LAND, DOT = (246, 247, 248), (138, 190, 214), (27, 39, 48)


def masks() -> None:
    """The six masks on the mean face's landmarks."""
    pictures = {}
    for name, mask in ekman_masks().items():
        picture = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
        picture[mask] = LAND
        for x, y in np.rint(template()).astype(int).tolist():
            cv2.circle(picture, (x, y), 3, DOT, -1, cv2.LINE_AA)
        pictures["", name] = picture
    save_plot(grid(pictures, [""], list(ekman_masks())), IMAGES / "fer_xai-masks.png")


def planted() -> None:
    """Rows: networks; columns: regions, with their outline."""
    maps, accuracy = fer_xai.region_maps(Setting(seed=0))
    regions = fer_xai.region_masks()
    count = sum(one.count for one in maps["trained"].values())
    face = np.rint(np.sum([one.face for one in maps["trained"].values()], 0) / max(1, count)).astype(np.uint8)
    pictures = {
        (title, region): overlay(face, maps[name][region].heat, mask)
        for name, title in ROWS.items()
        for region, mask in regions.items()
    }
    figure = grid(pictures, list(ROWS.values()), list(regions))
    figure.savefig(IMAGES / "fer_xai-planted.jpg", dpi=160, facecolor="white", pil_kwargs={"quality": 88})
    print(f"accuracy {accuracy:.3f}")
    for name, heats in maps.items():
        print(fer_xai._judged({region: one.heat for region, one in heats.items()}, name))


if __name__ == "__main__":
    {"masks": masks, "planted": planted}[sys.argv[1]]()
