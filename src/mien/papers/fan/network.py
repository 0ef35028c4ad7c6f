"""Builders, and the network that the verbs call: from a crop to points in its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien.errors import OptionError
from mien.geometry.landmarks import FLIP68
from mien.nn.fan import FAN, POINTS, DepthNet
from mien.nn.heatmaps import decode, draw_gaussians, draw_official, flip_maps, guidance_kernel

__all__ = ["Landmarker", "depth", "fan", "fan_2d_to_3d", "guidance", "landmarker"]


def fan(*, stacks: int = 4, width: int = 256, levels: int = 4, **more: Any) -> FAN:
    """2D-FAN and 3D-FAN, which differ in what they were taught: (B, 3, 256, 256) -> `stacks` x (B, 68, 64, 64).

    1 stack has 6.25 M parameters, 2 have 12.11 M, 3 have 17.96 M, 4 have 23.82 M. `more` as of `mien.nn.fan.FAN`.
    """
    return FAN(stacks=stacks, width=width, levels=levels, **more)


def fan_2d_to_3d(*, stacks: int = 4, width: int = 256, levels: int = 4, **more: Any) -> FAN:
    """2D-to-3D-FAN: picture and heatmaps of the visible points (B, 71, 256, 256) -> heatmaps of the head's points."""
    return FAN(stacks=stacks, channels=3 + POINTS, width=width, levels=levels, **more)


def depth(*, depths: tuple[int, ...] = (3, 8, 36, 3), width: int = 64, pool: int = 7) -> DepthNet:
    """The depth network, ResNet-152 with 71 channels: (B, 71, 256, 256) -> (B, 68). 58.5 M parameters."""
    return DepthNet(depths=tuple(depths), width=width, pool=pool)


def guidance(points: Tensor, size: int, *, official: bool = False) -> Tensor:
    """Heatmaps (B, 68, size, size) that show points (B, 68, 2), counted in pixels of the crop from its edge.

    The released depth network wants `official` ones, and no blob where a coordinate is not above 0. How large they are:
    `mien.nn.heatmaps.guidance_kernel`.
    """
    kernel = guidance_kernel(size)
    if not official:
        return draw_gaussians(points, size, kernel=kernel)
    shown = (points > 0).all(-1, keepdim=True)
    return draw_official(torch.where(shown, points, torch.nan), size, kernel=kernel)


class Landmarker(nn.Module):
    """Crop to points: (B, 3, S, S) of 0 to 1 -> (B, 68, 2), or (B, 68, 3) with a depth network, pixels of the crop.

    The middle of the crop's first pixel is 0, 0. Depth has the same unit, smaller is nearer.

    Parameters
    ----------
    network
        2D-FAN or 3D-FAN.
    depth
        Depth network, for 3D-FAN.
    mirror
        Whether the heatmaps of the mirrored crop are added, mirrored back; scores are then up to 2.
    official
        Whether the depth network is shown points as the released code draws them.
    towards
        Sign of the depth network's numbers: -1 where they grow towards the camera, as the released ones do.
    """

    order: Tensor

    def __init__(
        self, network: FAN, depth: DepthNet | None = None, *, mirror: bool = True, official: bool = True,
        towards: float = -1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if network.channels != 3:
            raise OptionError("points of a bare crop come from 2D-FAN or 3D-FAN", got=f"{network.channels} channels",
                              expected="3", hint="for 2D-to-3D-FAN see guided()")  # fmt: skip
        self.network, self.depth = network, depth
        self.mirror, self.official, self.towards = mirror, official, towards
        self.register_buffer("order", torch.from_numpy(np.array(FLIP68, np.int64)), persistent=False)

    def heatmaps(self, x: Tensor) -> Tensor:
        """(B, 68, S / 4, S / 4): the last stack's, with those of the mirrored crop added where `mirror` says so."""
        if not self.mirror:
            found: Tensor = self.network(x)[-1]
            return found
        plain, turned = self.network(torch.cat([x, x.flip(3)]))[-1].chunk(2)
        summed: Tensor = plain + flip_maps(turned, self.order)
        return summed

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points in cells of the heatmaps, from their edge, (B, 68, 2), and scores (B, 68)."""
        return decode(self.heatmaps(x))

    def depths(self, x: Tensor, cells: Tensor) -> Tensor:
        """(B, 68) of the depth network as it gives them, for points in cells."""
        if self.depth is None:
            raise OptionError("there is no depth network", expected="depth=…")
        shown = guidance(cells * self.network.stride, x.shape[3], official=self.official)
        found: Tensor = self.depth(torch.cat([x, shown.to(x.dtype)], 1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        cells, _ = self.cells(x)
        # From cells to pixels of the crop, and from its edge to the middle of its first pixel.
        points = cells * self.network.stride - 0.5
        if self.depth is None:
            return points
        return torch.cat([points, self.towards * self.depths(x, cells)[..., None]], -1)


def landmarker(
    *, stacks: int = 4, width: int = 256, levels: int = 4, stride: int = 4, pool: str = "avg", affine: bool = True,
    mirror: bool = True, official: bool = True, towards: float = -1.0, deep: bool = False,
    depths: tuple[int, ...] = (3, 8, 36, 3), depth_width: int = 64, depth_pool: int = 7,
) -> Landmarker:  # fmt: skip
    """The network behind declared weights; `deep` adds the depth network. See `Landmarker`."""
    network = fan(stacks=stacks, width=width, levels=levels, stride=stride, pool=pool, affine=affine)
    above = depth(depths=tuple(depths), width=depth_width, pool=depth_pool) if deep else None
    return Landmarker(network, above, mirror=mirror, official=official, towards=towards)
