"""The bundled landmark network: 70 points in 3D by direct regression from a 112 px crop.

    (B, 3, 112, 112) RGB, (x - 127.5) / 128, the detected box times 1.2
      -> stem 7x7/4 -> residual stages at 28, 14, 7 px -> 1x1 to `head` channels -> linear
      -> (B, 70, 3) pixels of the crop: the 68 of iBUG, then the iris centres, image-left first

Depth has the unit of x and y, smaller is nearer; its zero is the middle of the head. Regression from the flattened
map, in place of heatmaps, costs a tenth and gives points that the picture does not show: those under a mask, behind
the nose of a turned head, or outside of the crop.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.geometry.mean_shape import MEAN70
from mien.nn.blocks import ResidualTrunk, conv_bn_act

POINTS = 70
SIDE = 112
MARGIN = 1.2
"""Side of the crop in units of the box's longer side."""

UNIT = 10.0
"""Pixels that an output of 1 of the last layer stands for: near one, so that it learns as fast as the others."""


class Landmarks(nn.Module):
    """Points of faces: (B, 3, 112, 112) -> (B, 70, 3) pixels of the crop.

    Parameters
    ----------
    widths, depths
        Channels and residual blocks of the stages at 28, 14 and 7 px.
    head
        Channels of the 7 x 7 map that the points are read from.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (32, 64, 128),
        depths: tuple[int, ...] = (1, 2, 2),
        head: int = 64,
    ) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(tuple(widths), tuple(depths))
        self.reduce = conv_bn_act(widths[-1], head, 1)
        self.project = nn.Linear(head * 7 * 7, POINTS * 3)
        nn.init.normal_(self.project.weight, std=0.01)
        with torch.no_grad():
            self.project.bias.copy_(torch.from_numpy(_mean_in_crop().ravel() / UNIT))

    def forward(self, x: Tensor) -> Tensor:
        points: Tensor = self.project(self.reduce(self.trunk(x)).flatten(1)).unflatten(1, (POINTS, 3))
        return points * UNIT


def _mean_in_crop() -> NDArray[np.float32]:
    """The mean face (70, 3) where a frontal face lies in the crop: what an untrained network answers."""
    mean = np.asarray(MEAN70, np.float32)
    low, high = mean[:68, :2].min(0), mean[:68, :2].max(0)
    # The box reaches from the hairline to the chin: above the brows by a sixth of the points' height.
    low = low - np.array([0, (high - low)[1] / 6], np.float32)
    scale = SIDE / MARGIN / float((high - low).max())
    centred = mean - np.append((low + high) / 2, 0).astype(np.float32)
    return np.asarray(centred * scale + np.array([SIDE / 2, SIDE / 2, 0]), np.float32)


def landmarks_base() -> Landmarks:
    """The bundled network."""
    return Landmarks()
