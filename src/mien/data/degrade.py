"""Ways in which a picture gets worse, each with one dial: resolution, blur, noise, JPEG, darkness.

All are pure functions ``(image, severity, rng) -> image`` on (H, W, 3) uint8 RGB of any size; the size stays.
`severity` runs from 0 (the image unchanged, to the bit) to 1 (a person is still to be seen, but hardly to be
known) and each step makes the picture worse. They are the same for augmentation, for the check of the quality
score and for the demo, so that "severity 0.5" means one thing. `rng` is drawn from only where chance belongs
to the matter (noise, and the shot noise of the dark), and always by the same amount, whatever the severity.

    >>> rng = np.random.default_rng(0)
    >>> image = np.full((64, 64, 3), 128, np.uint8)
    >>> worse = DEGRADATIONS["noise"](image, 0.5, rng)
    >>> worse.shape, bool((worse == image).all())
    ((64, 64, 3), False)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import as_picture, decode
from mien.errors import DtypeError, ShapeError, ValueRangeError

__all__ = ["DEGRADATIONS", "blur", "darkness", "jpeg", "noise", "resolution"]

Image = NDArray[np.uint8]


def resolution(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Shrunk by area to ``8 ** -severity`` of its sides (an eighth at 1) and enlarged again linearly.

    At 1 a face of 112 px is left with 14 px.
    """
    import cv2

    _check(image, severity)
    if severity == 0:
        return image.copy()
    height, width = image.shape[:2]
    small = (max(1, round(width * 8.0**-severity)), max(1, round(height * 8.0**-severity)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return as_picture(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR))


def blur(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Gaussian blur; its standard deviation is ``severity * 5 %`` of the shorter side (5.6 px of 112 at 1)."""
    import cv2

    _check(image, severity)
    sigma = 0.05 * severity * min(image.shape[:2])
    # Below a fifth of a pixel the kernel's neighbours weigh less than half of one of 255 levels.
    if sigma < 0.2:
        return image.copy()
    return as_picture(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def noise(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Sensor noise: Gaussian, its variance half constant and half in proportion to the light, independent per
    channel.

    The standard deviation is ``64 * severity`` levels for a mid-grey pixel.
    """
    _check(image, severity)
    normal = rng.standard_normal(image.shape, np.float32)
    if severity == 0:
        return image.copy()
    level = image.astype(np.float32)
    deviation = 64 * severity * np.sqrt(0.5 + 0.5 * level / 127.5)
    return _levels(level + deviation * normal)


def jpeg(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Coded as JPEG, quality from 95 down to 3 in proportion to `severity`, colour at half size; decoded again."""
    import cv2

    _check(image, severity)
    if severity == 0:
        return image.copy()
    quality = round(95 * (1 - severity) + 3 * severity)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    return decode(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])


def darkness(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Underexposed by ``6 * severity`` stops, with the shot noise of the light that is left.

    The exposure is lowered in linear light (sRGB undone), where a white pixel of the full exposure stands for
    4,000 photons; Poisson noise is taken as Gaussian, which it is above some ten photons.
    """
    _check(image, severity)
    normal = rng.standard_normal(image.shape, np.float32)
    if severity == 0:
        return image.copy()
    light = _LINEAR[image] * np.float32(2.0 ** (-6 * severity))
    light = np.clip(light + normal * np.sqrt(light / 4000), 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return _levels(255 * srgb)


DEGRADATIONS: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "resolution": resolution,
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "darkness": darkness,
}
"""Every degradation by its name."""


def _linear_table() -> NDArray[np.float32]:
    """Linear light of each of the 256 sRGB levels (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_table()


def _check(image: Any, severity: float) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise DtypeError(
            "A picture to degrade must be 8 bit", got=getattr(image, "dtype", type(image)), expected="uint8"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError("A picture to degrade must be RGB", got=image.shape, expected="(H, W, 3)")
    if not (math.isfinite(severity) and 0 <= severity <= 1):
        raise ValueRangeError("Severity is out of range", got=severity, expected="0 (unchanged) to 1")


def _levels(values: NDArray[np.floating[Any]]) -> Image:
    return as_picture(np.clip(np.rint(values), 0, 255).astype(np.uint8))
