"""Pixels to numbers by the statistics of each picture, as older networks of the TensorFlow world want them."""

from __future__ import annotations

import torch
from torch import Tensor


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
