"""What the bundled networks see: pixels to numbers about zero."""

from __future__ import annotations

from torch import Tensor


def to_input(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), ``(x - 127.5) / 128``.

    The result keeps the order of the pixels, which is torch's channels-last memory format: no copy is made to turn it.
    """
    return (images.permute(0, 3, 1, 2).float() - 127.5) / 128
