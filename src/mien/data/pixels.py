"""OpenCV's pictures as typed arrays: decoding for training sources, and JPEG's traces.

`mien.media` is the door for files that people bring: it sniffs, limits and turns. Training sources hold the bytes of a
set that was checked once and decode some hundred pictures a second, so here is the short way. OpenCV's own types are
wider than what it gives (any number type, perhaps None); `as_picture` narrows them without a copy.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import CorruptMedia, OptionError

__all__ = ["Picture", "as_picture", "decode", "read", "recoded"]

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB unless said otherwise."""


def as_picture(array: Any) -> Picture:
    """`array` as uint8: itself when it is uint8 already, as all that OpenCV makes from uint8 is."""
    return np.asarray(array, np.uint8)


def decode(coded: NDArray[np.uint8], *, halvings: int = 0) -> Picture:
    """(H, W, 3) uint8 RGB of the bytes of a picture file.

    Parameters
    ----------
    coded
        (n,) uint8: the file's bytes.
    halvings
        How often the sides are halved, 0 to 3. JPEG is then decoded at that size, which costs less than decoding whole
        and averages the pixels.

    Raises
    ------
    CorruptMedia
        The bytes are no picture that OpenCV can decode.
    """
    import cv2

    flags = (cv2.IMREAD_COLOR, cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_8)
    if not 0 <= halvings < len(flags):
        raise OptionError("a picture cannot be halved so often", got=halvings, expected="0 to 3")
    found = cv2.imdecode(coded, flags[halvings]) if len(coded) else None
    if found is None:
        raise CorruptMedia("a picture of a training set cannot be decoded", got=coded, expected="a whole JPEG or PNG")
    return as_picture(cv2.cvtColor(found, cv2.COLOR_BGR2RGB))


def read(file: str | os.PathLike[str]) -> Picture:
    """(H, W, 3) uint8 RGB of a file; CorruptMedia names it when it cannot be decoded."""
    try:
        return decode(np.fromfile(file, np.uint8))
    except CorruptMedia as error:
        raise CorruptMedia(error.what, got=os.fspath(file), expected=error.expected) from None


def recoded(picture: Picture, quality: int) -> Picture:
    """`picture` after it was coded as JPEG of `quality` (0 to 100) and decoded again, colour at half size.

    The first channel is coded as if it were blue, which saves turning the channels twice: JPEG's traces are kept, but
    blue is blurred as red would be. `mien.data.degrade.jpeg` is the exact one.
    """
    import cv2

    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return as_picture(cv2.imdecode(coded, cv2.IMREAD_COLOR))
