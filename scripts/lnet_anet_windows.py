"""Draws where LNets look: scenes with one head, LNet_o's response, its window and LNet_s's.

    python scripts/lnet_anet_windows.py docs/img/lnet_anet-windows.png

The networks are those of the claims, of a seed that they do not use; shown are the first scene of each of the first
people that were not learnt. Two minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mien.claims import lnet_anet as claims
from mien.claims.harness import Setting
from mien.data.pixels import Picture
from mien.nn.anet import GROW
from mien.papers.lnet_anet import overlay
from mien.papers.lnet_anet.look import heat

SEED, SHOWN, SIDE = 7, 8, 120


def framed(image: Picture, box: NDArray[np.floating], colour: tuple[int, int, int]) -> Picture:
    """A picture at `SIDE` px with a box (shares of its side)."""
    drawn = np.ascontiguousarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    low, high = (tuple(np.rint(part * SIDE).astype(int).tolist()) for part in (box[:2], box[2:]))
    return np.asarray(cv2.rectangle(drawn, low, high, colour, 2, cv2.LINE_AA), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    setting = Setting(seed=SEED)
    found = claims.found(setting)
    assert found.lnet_o is not None
    assert found.lnet_s is not None
    scenes = claims.world(setting).tested
    scenes = scenes.take(np.unique(scenes.identity, return_index=True)[1][:SHOWN])
    truth = scenes.boxes / claims.SIZE
    heads, _ = claims.looked(found.lnet_o, claims.reduced(scenes.image, claims.SEEN), "cpu")
    crops = claims.cut_out(scenes.image, heads * claims.SIZE, claims.SEEN, grow=GROW)
    inner, _ = claims.looked(found.lnet_s, crops, "cpu", sides=claims.CROP_SIDES)
    middle, wide = (heads[:, :2] + heads[:, 2:]) / 2, (heads[:, 2:] - heads[:, :2]).max(1, keepdims=True) * GROW
    faces = np.tile(middle - wide / 2, 2) + inner * wide
    columns = []
    for row, picture in enumerate(scenes.image):
        answers = overlay(picture, heat(found.lnet_o, picture, size=claims.SEEN))
        tiles = (
            framed(picture, heads[row], (255, 200, 0)),
            framed(answers, truth[row], (90, 160, 255)),
            framed(picture, faces[row], (120, 230, 120)),
        )
        columns.append(np.concatenate(tiles))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(columns, 1)).quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main()
