"""BReG-NeXt: a residual network whose shortcuts have bounded gradients (Hasani, Negi, Mahoor, 2020).

    layer:  x -> conv(ELU(BN( conv(ELU(BN(x))) ))) + g(x)        g(x) = atan(a x / sqrt(c^2 + 1)) / (a sqrt(c^2 + 1))

a and c are learned, one of each in a layer, and begin at 1. A layer of stride 2 averages g(x) over 2 x 2 pixels and
pads the new channels with zeros, half of them before the old ones and half behind.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError

DEPTHS, WIDTHS = (7, 8, 7), (32, 64, 128)
"""Layers of one width between the two that halve the map: BReG-NeXt-50."""


class BoundedShortcut(nn.Module):
    """g of the module's docstring, with pooling and zero channels where the layer halves the map."""

    def __init__(self, *, stride: int, more: int) -> None:
        super().__init__()
        self.a, self.c = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        root = (self.c**2 + 1).sqrt()
        bounded = torch.atan(self.a * x / root) / (self.a * root)
        if self.stride > 1:
            bounded = F.avg_pool2d(bounded, self.stride, ceil_mode=True, count_include_pad=False)
        if self.more:
            bounded = F.pad(bounded, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return bounded


class BReGLayer(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride); nothing is rectified at its end."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = BoundedShortcut(stride=stride, more=outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(F.elu(self.norm1(x)))
        branch = self.conv2(F.elu(self.norm2(branch)))
        out: Tensor = branch + self.shortcut(x)
        return out


class BReGNeXt(nn.Module):
    """(B, 3, H, W) -> (B, widths[-1]): stem, layers, BN, ELU, mean. BReG-NeXt-50 has 3.07 M parameters.

    Parameters
    ----------
    widths, depths
        Channels, and number of layers that keep them. Between two widths stands one layer of stride 2.

    Raises
    ------
    OptionError
        The two differ in length, or the widths fall.
    """

    def __init__(self, *, widths: tuple[int, ...] = WIDTHS, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths or list(widths) != sorted(widths) or min(depths) < 0:
            raise OptionError("widths and depths do not fit", got=(widths, depths), expected="as many, rising widths")
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1)
        layers: list[nn.Module] = []
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if number:
                layers.append(BReGLayer(widths[number - 1], width, stride=2))
            layers += [BReGLayer(width, width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.elu(self.norm(self.layers(self.stem(x)))).mean((2, 3))
        return out
