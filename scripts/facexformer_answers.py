"""What the small joint network of FaceXFormer's claims answers about heads that it has not seen.

    python scripts/facexformer_answers.py       # a minute or two on one core, then docs/img/facexformer_answers.jpg

The network is that of `mien.claims.facexformer`, seed 0: 6 epochs of 1,000 rendered heads, 48 px. From top to bottom:
the picture, its true parsing, the parsing found, and the true points (white) under those found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from mien.claims import facexformer
from mien.claims.harness import Setting
from mien.nn.facex import pixels
from mien.train.recipes.face_tasks import normalised

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "img" / "facexformer_answers.jpg"
COLOURS = np.array(
    [(24, 26, 32), (224, 172, 138), (96, 60, 44), (128, 84, 60), (66, 135, 245), (110, 165, 250), (240, 200, 120),
     (204, 62, 92), (90, 20, 40), (230, 100, 130), (72, 56, 120)], np.uint8,
)  # fmt: skip
"""Of the eleven classes."""
SCALE, GAP = 3, 4
HEADS = 7


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    setting = Setting(seed=0)
    first, second = facexformer.world(setting)
    network = facexformer.trained(setting, first, "joint")
    batch = second.batch(np.arange(HEADS))
    with torch.inference_mode():
        found = network(normalised(batch["image"]))
    points = pixels(found["landmarks"], facexformer.SIZE).numpy()
    classes = found["parsing"].argmax(1).numpy()
    columns = []
    for row in range(HEADS):
        cells = [second.image[row], COLOURS[second.mask[row]], COLOURS[classes[row]]]
        large = [cv2.resize(cell, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_NEAREST) for cell in cells]
        dotted = cv2.resize(second.image[row], None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR) // 2
        for dots, colour in ((second.points[row], (235, 235, 235)), (points[row], (90, 230, 110))):
            for x, y in (dots + 0.5) * SCALE * 16:
                cv2.circle(dotted, (round(float(x)), round(float(y))), 18, colour, -1, cv2.LINE_AA, 4)
        large.append(dotted)
        columns.append(
            np.concatenate([np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for cell in large])
        )
    sheet = np.concatenate(columns, 1)[:-GAP, :-GAP]
    FILE.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(FILE), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    figures = facexformer.measured(network, second, "cpu")
    print(FILE, f"{FILE.stat().st_size / 1000:.0f} kB", {name: round(value, 3) for name, value in figures.items()})


if __name__ == "__main__":
    main()
