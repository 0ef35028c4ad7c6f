"""The networks: InsightFace's residual networks as they are, and one that sees each face and its mirror image.

The loss needs no network of its own; the authors train `mien.nn.iresnet` with 34 and 100 layers, on pixels that are
normalised as ImageNet's (`INPUT`), which is not what InsightFace's own files want.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mien.nn.iresnet import IResNet, iresnet, iresnet34, iresnet50, iresnet100
from mien.weights import InputContract

__all__ = ["INPUT", "Mirrored", "iresnet34", "iresnet50", "iresnet100", "iresnet_with_mirror"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels from 0 to 1, RGB."""

INPUT = InputContract(
    size=112,
    mean=(255 * MEAN[0], 255 * MEAN[1], 255 * MEAN[2]),
    std=(255 * STD[0], 255 * STD[1], 255 * STD[2]),
    template="arcface112",
)
"""What the released networks see: 112 px cut by five points, ImageNet's mean and deviation."""


class Mirrored(nn.Module):
    """(B, 3, S, S) -> (B, 2 dim): the vector of each crop joined with that of its mirror image, not normalised.

    How the paper compares two faces: the cosine of joined vectors is that of both views together, each weighted by the
    lengths. It takes two passes. IJB's templates are of the network alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(x), self.network(x.flip(3))], 1)


def iresnet_with_mirror(
    *,
    layers: int = 100,
    dim: int = 512,
    size: int = 112,
    dropout: float = 0.0,
    width: float = 1.0,
    depths: tuple[int, ...] | None = None,
) -> Mirrored:
    """`Mirrored` of an IResNet: with 100 layers 65.2 M parameters and 24.2 GMAC at 112 px, vectors of 1,024 numbers."""
    network: IResNet = iresnet(layers, dim=dim, size=size, dropout=dropout, width=width, depths=depths)
    return Mirrored(network)
