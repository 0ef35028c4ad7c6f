"""The picture of docs/papers/rtnet.md: scenes, what each kind of map shows of them, and what a small run finds.

    python scripts/rtnet_maps.py [runs/polar/weights.safetensors]

With the weights of a run of ``mien train polar_parser`` the last column shows what it finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from mien.data.crowds import compose, heads
from mien.faces import PARSING
from mien.geometry.tanh_polar import Frame
from mien.media.masks import OPACITY, PARSING_COLOURS

OUT = Path(__file__).parents[1] / "docs" / "img" / "rtnet_maps.jpg"
SIDE = 160


def coloured(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with its parts in the colours of the verbs."""
    out = image.astype(np.float32)
    for name, colour in PARSING_COLOURS.items():
        there = mask == PARSING.index(name)
        out[there] += (np.array(colour) - out[there]) * OPACITY
    return np.rint(out).astype(np.uint8)


def main() -> None:
    drawn = heads(12, seed=4)
    scenes = [compose(drawn, seed=4, size=SIDE, face=(36, 52), roll=roll) for roll in (0.0, 180.0)]
    rows = []
    for some, row in ((scenes[0], 2), (scenes[0], 5), (scenes[1], 5)):
        image, box = some.images[row], some.boxes[row : row + 1]
        shown = image.copy()
        x1, y1, x2, y2 = (round(float(v)) for v in box[0])
        cv2.rectangle(shown, (x1, y1), (x2, y2), (255, 255, 255), 1)
        cells = [shown]
        frames = (Frame("crop", SIDE), Frame("crop", SIDE, margin=2.0), Frame("tanh", SIDE), Frame("polar", SIDE))
        cells += [frame.images(image, box)[0] for frame in frames]
        frame = Frame("polar", SIDE)
        cells.append(coloured(frame.images(image, box)[0], frame.images(some.masks[row], box, mode="nearest")[0]))
        if len(sys.argv) > 1:
            cells.append(coloured(image, found(Path(sys.argv[1]), image, box)))
        rows.append(np.concatenate([np.pad(cell, ((2, 2), (2, 2), (0, 0)), constant_values=255) for cell in cells], 1))
    picture = np.concatenate(rows)
    OUT.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(OUT), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def found(file: Path, image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Classes of the picture by a run's weights."""
    import json

    from mien.papers.rtnet import parse
    from mien.train import checkpoint
    from mien.train.recipes.polar_parser import PolarParserRecipe

    config = json.loads(file.with_name("config.json").read_text("utf-8"))
    config.pop("recipe")
    recipe = PolarParserRecipe.make(**config)
    network = recipe.build()
    checkpoint.fill(network, file)
    with torch.no_grad():
        classes: np.ndarray = parse(network.eval(), image, box, size=recipe.size, colour="RGB")[0]
    return classes


if __name__ == "__main__":
    main()
