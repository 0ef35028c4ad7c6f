"""Pixels to numbers in other ways than `mien.nn.inputs.to_input`: what released networks were trained to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from mien.nn.inputs import to_input

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0 ... 1, over the training pictures of ImageNet."""

Standardise = Literal["fixed", "image", "imagenet", "tenfold"]
"""A way from pixels to numbers, by name; see `STANDARDS`."""


def image_standardisation(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), each picture with mean 0 and standard deviation 1.

    Mean and deviation are over all pixels and channels; the deviation is at least 1 / sqrt(their number), so that a
    picture of one colour gives zeros. The order of the pixels is kept, as in `mien.nn.inputs.to_input`.
    """
    pixels = images.permute(0, 3, 1, 2).float()
    if not pixels.numel():
        return pixels
    spread, mean = torch.std_mean(pixels, (1, 2, 3), correction=0, keepdim=True)
    return (pixels - mean) / spread.clamp_min(pixels[0].numel() ** -0.5)


def imagenet_standardisation(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), ``(x / 255 - mean) / std`` with the statistics of ImageNet."""
    mean, std = (
        torch.tensor(values, device=images.device).mul_(255).view(1, 3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images.permute(0, 3, 1, 2).float() - mean) / std


def tenfold_standardisation(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), ``(x - 127.5) * 0.078125``: ten times the usual, as SFace has it."""
    return (images.permute(0, 3, 1, 2).float() - 127.5) * 0.078125


STANDARDS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "fixed": to_input,
        "image": image_standardisation,
        "imagenet": imagenet_standardisation,
        "tenfold": tenfold_standardisation,
    }
)
"""From uint8 pictures (B, H, W, 3) to what a network sees, (B, 3, H, W)."""
