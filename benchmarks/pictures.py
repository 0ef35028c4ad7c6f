"""What the systems look at. Albums that need the real sets are left out where ``MIEN_DATA`` does not have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaNotFound, MissingExtra

MEGAPIXELS_12 = (3000, 4000)
"""Height and width of an ordinary phone's photo."""


@dataclass(frozen=True)
class Album:
    """Pictures to time on.

    Parameters
    ----------
    name
        Word for tables: "lfw", "scenes", "portrait", "photo".
    paths
        JPEG files.
    what
        What they are, for captions.
    batches
        Pictures in one call that make sense for this album.
    """

    name: str
    paths: tuple[str, ...]
    what: str
    batches: tuple[int, ...] = (1, 32)


def albums(folder: Path, *, count: int, names: Sequence[str] | None = None) -> tuple[list[Album], list[str]]:
    """The albums that can be had here, and why others cannot.

    Parameters
    ----------
    folder
        Where the self-made pictures are written.
    count
        Pictures of an album (one picture repeated, where there is only one).
    names
        Only these albums.

    Raises
    ------
    MissingExtra
        scikit-image, which carries the portrait, is not installed.
    """
    from mien.data.sets import detection, lfw

    found: list[Album] = []
    missing: list[str] = []

    def wanted(name: str) -> bool:
        return names is None or name in names

    try:
        if wanted("lfw"):
            people = lfw()
            files = tuple(str(people.files[row]) for row in spread(len(people), count))
            found.append(Album("lfw", files, "Labeled Faces in the Wild, 144 x 144 px, one central face each"))
        if wanted("scenes"):
            scenes = detection(split="test")
            files = tuple(str(scenes.files[row]) for row in spread(len(scenes), count))
            found.append(Album("scenes", files, "scenes of up to 400 px with one face to crowds, never trained on"))
    except MediaNotFound as error:
        missing.append(str(error))
    if wanted("portrait"):
        files = (str(write_portrait(folder)),) * count
        found.append(Album("portrait", files, "the public-domain portrait of an astronaut, 512 x 512 px"))
    if wanted("photo"):
        # 32 decoded photos of 12 megapixels are 1.2 GB: nobody batches those.
        files = (str(write_photo(folder)),)
        found.append(Album("photo", files, "that portrait tiled to 12 megapixels, 12 large faces", batches=(1,)))
    return found, missing


def spread(total: int, count: int) -> list[int]:
    """`count` row numbers (fewer if there are fewer) at even distances over `total` rows."""
    count = min(total, count)
    return [index * total // count for index in range(count)]


def write_portrait(folder: Path) -> Path:
    """The astronaut as a JPEG of 512 x 512 px."""
    from mien.media import save_image

    return save_image(folder / "portrait.jpg", _astronaut())


def write_photo(folder: Path) -> Path:
    """A JPEG of 12 megapixels: the astronaut at twice its size, tiled."""
    import cv2

    from mien.media import save_image

    tile = cv2.resize(_astronaut(), (1000, 1000), interpolation=cv2.INTER_CUBIC)
    height, width = MEGAPIXELS_12
    photo = np.tile(tile, (height // 1000, width // 1000, 1))
    return save_image(folder / "photo.jpg", np.ascontiguousarray(photo))


def _astronaut() -> NDArray[np.uint8]:
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise MissingExtra("scikit-image", extra="bench") from error
    return np.asarray(astronaut(), np.uint8)  # type: ignore[no-untyped-call]
