"""The bundled face parser: which part of a face each pixel shows.

    (B, 3, 128, 128) RGB, (x - 127.5) / 128, the crop of the whole head ("head128")
      -> trunk at 32, 16, 8 px; a shallow branch at 64 px for what is thin
      -> up again, each step joined with the trunk's map of that size -> 19 classes at 64 px, interpolated to 128

The classes are those of CelebAMask-HQ (Lee et al., MaskGAN, CVPR 2020). Left and right are the picture's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.faces import PARSING
from mien.nn.blocks import ResidualTrunk, conv_bn_act

SIDE = 128
CLASSES = PARSING
MIRRORED = (0, 1, 2, 3, 5, 4, 7, 6, 9, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""Class that each becomes in the mirror image."""


class Parser(nn.Module):
    """Classes of pixels: (B, 3, 128, 128) -> logits (B, 19, 128, 128).

    Parameters
    ----------
    widths, depths
        Channels and residual blocks of the trunk's stages at 32, 16 and 8 px.
    fine
        Channels of the branch at 64 px.
    up
        Channels after each step up: at 16, 32 and 64 px.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (32, 64, 128),
        depths: tuple[int, int, int] = (2, 2, 2),
        fine: int = 16,
        up: tuple[int, int, int] = (64, 48, 32),
    ) -> None:
        super().__init__()
        whole = list(ResidualTrunk(tuple(widths), tuple(depths)))
        first, second = 1 + depths[0], 2 + depths[0] + depths[1]
        self.stages = nn.ModuleList(
            [nn.Sequential(*whole[:first]), nn.Sequential(*whole[first:second]), nn.Sequential(*whole[second:])]
        )
        self.fine = conv_bn_act(3, fine, 3, 2)
        joined = (widths[2] + widths[1], up[0] + widths[0], up[1] + fine)
        self.steps = nn.ModuleList([conv_bn_act(wide, out) for wide, out in zip(joined, up, strict=True)])
        self.classes = nn.Conv2d(up[2], len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.fine(x)]
        found = x
        for stage in self.stages:
            found = stage(found)
            maps.append(found)
        for step, beside in zip(self.steps, maps[-2::-1], strict=True):
            larger = F.interpolate(found, size=beside.shape[2:], mode="bilinear", align_corners=False)
            found = step(torch.cat([larger, beside], 1))
        return F.interpolate(cast(Tensor, self.classes(found)), size=x.shape[2:], mode="bilinear", align_corners=False)


def both_ways(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Probabilities (B, 19, H, W): the mean of those for the crops (B, 3, H, W) and for their mirror images."""
    found = network(images).softmax(1)
    mirrored = network(images.flip(3).contiguous(memory_format=torch.channels_last)).softmax(1).flip(3)
    return 0.5 * (found + mirrored[:, list(MIRRORED)])


def parser_base() -> Parser:
    """The bundled network: 0.3 GMAC, 0.9 M parameters at 128 px."""
    return Parser()
