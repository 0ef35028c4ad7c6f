"""Draws docs/img/petalface_alpha.jpg: rendered heads as if they had been a few pixels wide, and the alpha they get.

    python scripts/petalface_alpha.py

Alpha is that of a sharpness score centred on all pictures shown, as ``mien train adapters weighting=standardised`` has
it; and of the gradient score, likewise.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from mien.claims._people import rendered
from mien.data.low_resolution import at_pixels
from mien.nn.iqa import Gradient, QualityWeight, Sharpness

SIDES = (112, 56, 28, 20, 14, 7)
SEEN = 112
FOOT = 34


def main() -> None:
    heads, _ = rendered(people=4, pictures=1, size=SEEN, seed=11, yaw=25.0)
    grid = np.stack([at_pixels(heads, side, kernel="linear") for side in SIDES], 1)
    images = (torch.from_numpy(grid.reshape(-1, SEEN, SEEN, 3)).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    alphas = []
    for score in (Sharpness(), Gradient()):
        weight = QualityWeight(score, clamp=True)
        quality = weight.quality(images)
        weight.centre(quality, standardise=True)
        alphas.append(weight.alpha(quality).reshape(len(heads), len(SIDES)).numpy())
    rows = []
    for person, pictures in enumerate(grid):
        tiles = []
        for column, picture in enumerate(pictures):
            tile = np.full((SEEN + FOOT, SEEN + 4, 3), 255, np.uint8)
            tile[:SEEN, 2:-2] = picture
            texts = (f"{SIDES[column]} px", f"a {alphas[0][person, column]:.2f} / {alphas[1][person, column]:.2f}")
            for line, text in enumerate(texts):
                place = (4, SEEN + 13 + 15 * line)
                cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (30, 30, 30), 1, cv2.LINE_AA)
            tiles.append(tile)
        rows.append(np.concatenate(tiles, 1))
    out = Path(__file__).parents[1] / "docs" / "img" / "petalface_alpha.jpg"
    cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
