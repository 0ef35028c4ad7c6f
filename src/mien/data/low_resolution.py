"""Faces as if they had been a few pixels wide: reduced by area and enlarged again, always by the same kernel.

What a network makes of an enlarged face depends on the kernel that enlarged it, so training and test must use one.
`mien.data.degrade.resolution` has a dial for "how bad"; here the side is given in pixels, down to one.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.pixels import Picture, as_picture
from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError

__all__ = ["KERNELS", "Kernel", "at_pixels", "squared"]

Kernel = Literal["cubic", "linear"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""By which small pictures are enlarged. Reducing is always by area, as a far camera does it."""


def at_pixels(crops: Picture, sides: ArrayLike, *, kernel: Kernel = "cubic") -> Picture:
    """Square crops as if they had been `sides` pixels wide: (n, S, S, 3) -> (n, S, S, 3) uint8.

    Parameters
    ----------
    crops
        (n, S, S, 3) uint8 RGB.
    sides
        One number of pixels, or one for each crop; at least 1. A crop is left as it is from S on.
    kernel
        "cubic" or "linear".

    Raises
    ------
    DtypeError, ShapeError, ValueRangeError, OptionError
        Other crops, sides that do not fit them, or no such kernel.
    """
    if crops.dtype != np.uint8:
        raise DtypeError("crops must be 8 bit", got=crops.dtype, expected="uint8")
    if crops.ndim != 4 or crops.shape[1] != crops.shape[2] or crops.shape[3] != 3:
        raise ShapeError("crops must be square and RGB", got=crops.shape, expected="(n, S, S, 3)")
    wanted = np.asarray(sides)
    if wanted.ndim not in (0, 1) or (wanted.ndim == 1 and len(wanted) != len(crops)):
        raise ShapeError("the sides do not fit the crops", got=wanted.shape, expected=f"() or ({len(crops)},)")
    if not np.issubdtype(wanted.dtype, np.integer) or (wanted < 1).any():
        raise ValueRangeError("a side is no number of pixels", got=wanted, expected="whole numbers from 1 on")
    full = crops.shape[1]
    out = crops.copy()
    for row, side in enumerate(np.broadcast_to(wanted, len(crops))):
        if side < full:
            out[row] = squared(squared(crops[row], int(side), kernel=kernel), full, kernel=kernel)
    return out


def squared(image: Picture, side: int, *, kernel: Kernel = "cubic") -> Picture:
    """A picture (H, W, 3) squashed to (side, side, 3): by area where it is larger, by `kernel` where it is smaller."""
    import cv2

    if kernel not in KERNELS:
        raise OptionError.unknown("unknown kernel", kernel, KERNELS)
    if image.shape[:2] == (side, side):
        return image
    enlarge: dict[Any, int] = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR}
    kind = cv2.INTER_AREA if min(image.shape[:2]) > side else enlarge[kernel]
    return as_picture(cv2.resize(image, (side, side), interpolation=kind))


def drawn_sides(rng: np.random.Generator, count: int, pixels: tuple[int, int]) -> NDArray[np.int64]:
    """(count,) sides, each as likely as another, from the first of `pixels` to the second."""
    return rng.integers(pixels[0], pixels[1] + 1, count)
