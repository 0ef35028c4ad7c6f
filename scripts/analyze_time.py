"""What reading costs: the time of one `mien.analyze` in units of detection and embedding alone.

    MIEN_DATA=FOLDER python scripts/analyze_time.py

By turns in one process, on pictures in memory: `mien.embed` (boxes, points and embeddings) against `mien.analyze` with
all that it tells (points in 3D, pose, quality, age, expression, appearance, covers, and the parts of the face), with
the quality that asks the embedder once and with the default one, which asks it again about worsened pictures. On LFW
every small picture has a face; photographs of the detection set are larger and have several.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mien
from mien.data import sets
from mien.media import load_image

COUNT, ROUNDS = 64, 7


def main() -> None:
    ways: dict[str, Callable[[list[Any]], Any]] = {
        "detect + embed": lambda pictures: mien.embed(pictures, batch_size=32),
        "analyze, quality of norm": lambda pictures: mien.analyze(pictures, batch_size=32, quality="norm", parse=True),
        "analyze": lambda pictures: mien.analyze(pictures, batch_size=32, parse=True),
        "analyze, not read, not parsed": lambda pictures: mien.analyze(pictures, batch_size=32, read=False),
    }
    print(f"{platform.machine()}, {os.cpu_count()} cores; medians of {ROUNDS} rounds, {COUNT} pictures, batches of 32")
    for name, files in (("lfw", sets.lfw().files), ("detection", sets.detection(split="test").files)):
        step = max(1, len(files) // COUNT)
        pictures = [load_image(file) for file in files[::step][:COUNT]]
        faces = len(mien.detect(pictures))
        for way in ways.values():
            way(pictures)
        taken: dict[str, list[float]] = {label: [] for label in ways}
        for _ in range(ROUNDS):
            for label, way in ways.items():
                start = time.perf_counter()
                way(pictures)
                taken[label].append(time.perf_counter() - start)
        base = statistics.median(taken["detect + embed"])
        size = np.median([max(picture.shape) for picture in pictures])
        print(f"\n{name}: {len(pictures)} pictures of {size:.0f} px, {faces} faces")
        for label, seconds in taken.items():
            middle = statistics.median(seconds)
            print(f"  {label:30s} {1e3 * middle / len(pictures):7.1f} ms a picture   {middle / base:5.2f} x")


if __name__ == "__main__":
    main()
