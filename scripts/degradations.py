"""Draw ``docs/img/degradations.jpg`` and measure how fast each step is.

    python scripts/degradations.py             the picture
    python scripts/degradations.py --speed     pictures a second on one core, as Markdown

The portrait is scikit-image's astronaut (NASA, public domain), its landmarks those of the bundled weights. The face
that is swapped in is rendered (`mien.data.heads`): nobody's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before the libraries that read it

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import mien
from mien.data import degrade, forgeries, heads, recapture

SHEET = Path(__file__).parents[1] / "docs" / "img" / "degradations.jpg"
TILE, GAP, LABEL, COLUMNS = 168, 8, 20, 7
Picture = NDArray[np.uint8]


def portrait() -> tuple[Picture, NDArray[np.float64]]:
    """The astronaut's head (256, 256, 3) and its 68 landmarks."""
    from skimage import data

    whole = data.astronaut()
    points = mien.analyze(whole, read=False).landmarks[0, :68, :2].astype(np.float64)
    return np.ascontiguousarray(whole[10:266, 96:352]), points - (96, 10)


def rendered() -> tuple[Picture, NDArray[np.float64]]:
    """A made-up head (256, 256, 3), and its 68 landmarks."""
    parameters = heads.sample(
        1, seed=11, pose=[0, 0, 0], glasses="none", beard_style="none", hat="none",
        occluder="none", hair_fringe=0.0,
    )  # fmt: skip
    made = heads.render(parameters, size=256, what=("image", "landmarks"))
    return np.ascontiguousarray(made.image[0]), made.landmarks_2d[0, :68].astype(np.float64)


def rows() -> list[list[tuple[str, Picture]]]:
    """Labelled pictures, row by row."""
    face, points = portrait()
    other, other_points = rendered()

    def rng(seed: int = 0) -> np.random.Generator:
        return np.random.default_rng(seed)

    worse = [("original", face)]
    worse += [(name.replace("_", " "), spoil(face, 0.6, rng(1))) for name, spoil in degrade.ALL.items()]
    clip = np.stack([np.roll(face, k, 1) for k in range(6)])
    worse += [(f"clip, CRF {crf}", degrade.compress_clip(clip, crf=crf)[4]) for crf in (23, 40)]

    place = recapture.Place(yaw=10, pitch=-5, roll=3, fill=0.86)
    paper = recapture.Print(place=place)
    outline = forgeries.face_mask(points, (256, 256), region="face")
    edge = cv2.findContours((outline > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
    cut = recapture.Print(
        place=recapture.Place(fill=1.0),
        screen="photo",
        outline=tuple((float(x), float(y)) for x, y in edge),
        holes=tuple(
            tuple((float(x), float(y)) for x, y in points[a:b].mean(0) + 1.5 * (points[a:b] - points[a:b].mean(0)))
            for a, b in ((36, 42), (42, 48))
        ),
        seed=3,
    )
    bent = replace(place, curvature=0.9)
    glass = recapture.Screen(place=place, pixels=260.0)
    sharp = replace(glass.camera, blur=0.12, bayer=False)
    shot: list[tuple[str, Any]] = [
        ("print, photo", replace(paper, screen="photo")),
        ("print, halftone", replace(paper, screen="halftone", ruling=110.0)),
        ("print, ink-jet", replace(paper, screen="inkjet", ruling=600.0)),
        ("print, bent", replace(paper, screen="photo", place=bent, ambient=0.3)),
        ("print, glossy", replace(paper, screen="photo", place=bent, gloss=0.06, seed=4)),
        ("print, cut out", cut),
        (
            "replay, moire",
            replace(glass, camera=sharp, pixels=255.0, open_x=0.6, place=replace(place, fill=0.95, yaw=4)),
        ),
        ("replay, pentile", replace(glass, layout="pentile", pixels=120.0)),
        ("replay, gloss", replace(glass, gloss=0.06, pixels=600.0, seed=5)),
        ("replay, bands", replace(glass, flicker=0.5, exposure_s=1 / 300, pixels=600.0)),
        ("replay, leak", replace(glass, leak=0.03, tint=(0.85, 0.95, 1.0), gamma=1.8, pixels=600.0)),
    ]
    attacks = [(name, recapture.render(face, setting).image) for name, setting in shot]
    attacks.append(("print, drawn", recapture.print_recapture(face, rng(2), strength=0.9).image))
    attacks.append(("replay, drawn", recapture.replay_recapture(face, rng(1), strength=0.9).image))
    depth = recapture.render(face, replace(paper, place=bent)).depth
    near, far = np.nanmin(depth), np.nanmax(depth)
    shade = np.nan_to_num(230 - 200 * (depth - near) / (far - near), nan=0).astype(np.uint8)
    attacks.append(("bent: depth", np.repeat(shade[..., None], 3, 2)))

    made: list[tuple[str, Picture]] = [("rendered source", other)]

    def forged(name: str, forgery: forgeries.Forgery) -> None:
        edge = np.rint(255 * forgery.boundary).astype(np.uint8)
        made.extend([(name, forgery.image), ("its boundary", np.repeat(edge[..., None], 3, 2))])

    for warp, colour, seam in (
        ("similarity", "none", "alpha"),
        ("thin_plate", "reinhard", "alpha"),
        ("affine_pieces", "covariance", "poisson"),
        ("similarity", "histogram", "pyramid"),
    ):
        recipe = forgeries.Recipe(warp=warp, colour=colour, seam=seam, feather=0.05, bend=0.03, grow=-0.05)
        label = f"{warp.split('_')[0]}, {colour}, {seam}"
        forged(label, forgeries.swap(other, other_points, face, points, rng(), recipe=recipe))
    forged("self-blended", forgeries.self_blended(face, points, rng(5), strength=1.0))
    recipe = forgeries.Recipe(region="mouth", colour="mean", feather=0.03, warp="affine_pieces")
    forged("mouth only", forgeries.swap(other, other_points, face, points, rng(), recipe=recipe))
    lines = []
    for part in (worse, attacks, made):
        lines += [part[k : k + COLUMNS] for k in range(0, len(part), COLUMNS)]
    return lines


def draw() -> None:
    """Writes the sheet."""
    lines = rows()
    width = GAP + COLUMNS * (TILE + GAP)
    sheet = Image.new("RGB", (width, GAP + len(lines) * (TILE + LABEL + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, line in enumerate(lines):
        for column, (name, picture) in enumerate(line):
            x, y = GAP + column * (TILE + GAP), GAP + row * (TILE + LABEL + GAP)
            sheet.paste(Image.fromarray(cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA)), (x, y))
            pen.text((x, y + TILE + 3), name, fill="black", font=font)
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(SHEET, quality=88)
    print(SHEET)


def speed() -> None:
    """Prints pictures a second, the median of single calls, in CPU time of this process."""
    cv2.setNumThreads(1)
    face, points = portrait()
    other, other_points = rendered()

    def rate(call: Callable[[int], object], least: float = 0.6) -> float:
        call(0)
        taken: list[float] = []
        while sum(taken) < least or len(taken) < 12:
            start = time.process_time()
            call(len(taken))
            taken.append(time.process_time() - start)
        return 1 / float(np.median(taken))

    steps: dict[str, Callable[[Any, Any, Any, Any], Callable[[int], object]]] = {}
    for name, spoil in degrade.ALL.items():
        steps[f"`{name}`, severity 0.5"] = lambda a, p, b, q, spoil=spoil: (
            lambda k: spoil(a, 0.5, np.random.default_rng(k))
        )
    steps["`print_recapture`"] = lambda a, p, b, q: lambda k: recapture.print_recapture(a, np.random.default_rng(k))
    steps["`replay_recapture`"] = lambda a, p, b, q: lambda k: recapture.replay_recapture(a, np.random.default_rng(k))
    steps["`self_blended`"] = lambda a, p, b, q: lambda k: forgeries.self_blended(a, p, np.random.default_rng(k))
    steps["`swap`"] = lambda a, p, b, q: lambda k: forgeries.swap(b, q, a, p, np.random.default_rng(k))
    print("| step | 112 px | 256 px |\n|---|---|---|")
    for name, step in steps.items():
        cells = []
        for side in (112, 256):
            a, b = (cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in (face, other))
            cells.append(f"{rate(step(a, points * side / 256, b, other_points * side / 256)):,.0f}")
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    speed() if "--speed" in sys.argv[1:] else draw()
