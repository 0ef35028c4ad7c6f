"""Five points of every picture of FER+, by the bundled networks: ``python scripts/ferplus_points.py``.

The pictures are 48 px wide and cut tightly, so they are enlarged and put into a grey frame first. Where no face is
found, the median of the others stands in: the set's pictures are registered roughly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

ZOOM, FRAME = 3, 48
"""Factor of the size, and pixels of the frame on each side."""


def main(
    data: Annotated[Path, typer.Option(help="Folder of the set.")],
    out: Annotated[Path, typer.Option(help="File that receives files and points5 (n, 5, 2), pixels of the pictures.")],
) -> None:
    """Finds the points and says in how many pictures a face was found."""
    import mien
    from mien.data.sets import ferplus

    faces = ferplus(data)
    points = np.full((len(faces), 5, 2), np.nan, np.float32)
    for start in range(0, len(faces), 256):
        rows = range(start, min(start + 256, len(faces)))
        framed = []
        for row in rows:
            picture = cv2.resize(faces.picture(row), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
            framed.append(np.pad(picture, ((FRAME, FRAME), (FRAME, FRAME), (0, 0)), constant_values=127))
        found = mien.analyze(framed, threshold=0.3, quality="components", read=False, batch_size=32)
        for index in range(len(framed)):
            mine = found.of_image(index)
            if len(mine):
                # A pixel's centre lies at its middle, so sizes scale about half a pixel.
                best = mine.landmarks5[int(np.argmax(mine.scores))]
                points[rows[index]] = (best - FRAME + 0.5) / ZOOM - 0.5
        print(f"{rows.stop} of {len(faces)}, {np.isfinite(points[: rows.stop, 0, 0]).mean():.1%} found", flush=True)
    missing = ~np.isfinite(points).all((1, 2))
    points[missing] = np.median(points[~missing], 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, files=np.array(faces.names), points5=points, found=~missing)


if __name__ == "__main__":
    typer.run(main)
