"""What goes in and comes out: crops and pixels as the reimplementations have them, mirrored pairs, 128 bytes.

Images are RGB uint8 (B, H, W, 3), network inputs float (B, 3, H, W). The paper gives no normalisation of pixels; the
reimplementations have two, and a network works with its own only: `fixed_standardisation` for the two checkpoints of
2018 and all of facenet-pytorch, `image_standardisation` for older models of D. Sandberg and his triplet script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry.checks import doubles
from mien.nn.inputs import to_input
from mien.nn.standardise import image_standardisation

__all__ = [
    "MarginOf",
    "dequantise",
    "embed_with_mirror",
    "fixed_standardisation",
    "image_standardisation",
    "margin_boxes",
    "margin_crops",
    "quantise",
]

MarginOf = Literal["photo", "crop"]


def fixed_standardisation(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), ``(x - 127.5) / 128``."""
    return to_input(images)


def margin_boxes(
    boxes: ArrayLike, *, width: int, height: int, margin: int = 44, size: int = 160, of: MarginOf = "photo"
) -> NDArray[np.int64]:
    """Boxes enlarged by a margin in pixels, half of it on each side, and cut at the picture's edge: (n, 4) whole px.

    Parameters
    ----------
    boxes
        (n, 4) xyxy px, of a detector.
    width, height
        Of the photo, px.
    margin
        Pixels: 44 for training pictures of 182 px, 32 for tests at 160.
    size
        Side of the crop that will be made, px; it matters for ``of="crop"`` only.
    of
        Whether the margin is pixels of the "photo" (davidsandberg/facenet: near faces get relatively less of it) or
        of the "crop" (facenet-pytorch: all get the same share).
    """
    if of not in get_args(MarginOf):
        raise OptionError.unknown("unknown reference of the margin", of, get_args(MarginOf))
    given = doubles("boxes", boxes, "n 4")
    if margin < 0 or (of == "crop" and margin >= size):
        raise ValueRangeError("the margin is out of range", got=margin, expected=f"0 px to less than the crop's {size}")
    around = np.full((len(given), 2), margin / 2)
    if of == "crop":
        around = margin * (given[:, 2:] - given[:, :2]) / (size - margin) / 2
    low = np.maximum(given[:, :2] - around, 0)
    high = np.minimum(given[:, 2:] + around, (width, height))
    return np.concatenate([low, high], 1).astype(np.int64)  # towards zero, as the originals cut it


def margin_crops(
    image: NDArray[np.uint8], boxes: ArrayLike, *, margin: int = 44, size: int = 160, of: MarginOf = "photo"
) -> NDArray[np.uint8]:
    """Crops (n, size, size, 3) of a photo (H, W, 3), squashed to the square bilinearly, whatever their aspect.

    Raises
    ------
    ValueRangeError
        A box has no pixel inside the photo.
    """
    from PIL import Image

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError("not a photo", got=image, expected="(H, W, 3) uint8")
    height, width = image.shape[:2]
    cut = margin_boxes(boxes, width=width, height=height, margin=margin, size=size, of=of)
    if (cut[:, 2:] <= cut[:, :2]).any():
        raise ValueRangeError("a box has no pixel inside the photo", got=f"{cut.tolist()} of {width} x {height} px")
    photo = Image.fromarray(image)
    crops = np.empty((len(cut), size, size, 3), np.uint8)
    for crop, box in zip(crops, cut.tolist(), strict=True):
        crop[...] = np.asarray(photo.crop(tuple(box)).resize((size, size), Image.Resampling.BILINEAR))
    return crops


def embed_with_mirror(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Embeddings of pictures (B, 3, H, W) joined with those of their mirror images: (B, 2 d), unit length.

    The flip test of the reimplementations. There the joined vector has length sqrt(2); here it is divided by that, so
    that squared distances are the mean of the two and thresholds keep their range of 0 to 4.
    """
    return F.normalize(torch.cat([network(x), network(x.flip(3))], 1), dim=1)


# ------------------------------------------------------------------------------------------- 128 bytes


def quantise(embeddings: ArrayLike) -> NDArray[np.int8]:
    """Unit vectors (n, d) as one byte a number: ``round(127 v / max|v|)``, the largest number of each vector being 127.

    The scale need not be stored, since the length is known to be one: 128 numbers take 128 bytes. The error of a number
    is at most max|v| / 254 before the length is restored.
    """
    vectors = doubles("embeddings", embeddings, "n d")
    largest = np.abs(vectors).max(1, keepdims=True) if vectors.shape[1] else np.ones((len(vectors), 1))
    if (largest == 0).any():
        raise ValueRangeError("an embedding is all zero", got=f"row {int(np.argmin(largest))}", expected="unit vectors")
    return np.rint(vectors * (127 / largest)).astype(np.int8)


def dequantise(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """Unit vectors (n, d) of what `quantise` gave."""
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise DtypeError("not quantised embeddings", got=codes, expected="(n, d) int8")
    vectors = codes.astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (length == 0).any():
        raise ValueRangeError("a code is all zero", got=f"row {int(np.argmin(length))}", expected="codes of quantise()")
    return np.asarray(vectors / length, np.float32)
