"""Stacked hourglasses for heatmaps of points, and the network that adds their depth (Bulat and Tzimiropoulos, 2017).

    FAN      (B, C, S, S) -> a list of (B, K, S/4, S/4), one a stack; the last is the answer
    DepthNet (B, 3 + K, S, S) -> (B, K)

A block is hierarchical: three 3 x 3 convolutions in a row, of which all three results are kept side by side. Its
normalisation and ReLU come before the convolutions.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError

__all__ = ["FAN", "POINTS", "DepthNet", "HierarchicalBlock", "Hourglass", "PointRegressor"]

POINTS = 68
Pool = Literal["avg", "max"]


class HierarchicalBlock(nn.Module):
    """(B, in, H, W) -> (B, out, H, W): halves, quarters and quarters of the result, one computed from the other.

    ``o1 = conv(relu(bn(x)))``, ``o2 = conv(relu(bn(o1)))``, ``o3 = conv(relu(bn(o2)))``, ``concat(o1, o2, o3)`` plus x,
    which a 1 x 1 convolution brings to size where it must.

    Parameters
    ----------
    channels_in, channels_out
        The latter a multiple of 4.
    affine
        Whether normalisation has gain and shift, as in the released PyTorch networks; the authors' training code has
        none inside of blocks.
    """

    def __init__(self, channels_in: int, channels_out: int, *, affine: bool = True) -> None:
        super().__init__()
        if channels_out % 4:
            raise OptionError("a block's channels are halved twice", got=channels_out, expected="a multiple of 4")
        half, quarter = channels_out // 2, channels_out // 4
        self.bn1 = nn.BatchNorm2d(channels_in, affine=affine)
        self.conv1 = nn.Conv2d(channels_in, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half, affine=affine)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter, affine=affine)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.BatchNorm2d(channels_in, affine=affine),
                nn.ReLU(),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        out: Tensor = torch.cat([first, second, third], 1) + self.skip(x)
        return out


def _halved(x: Tensor, pool: Pool) -> Tensor:
    return F.avg_pool2d(x, 2) if pool == "avg" else F.max_pool2d(x, 2)


class Hourglass(nn.Module):
    """(B, width, H, W) -> the same, H and W multiples of ``2 ** levels``: down to the whole face, and up again.

    A level is ``up(x) + upsampled(back(inside(down(halved(x)))))``; the innermost has one more block inside. Upsampling
    repeats pixels.

    Parameters
    ----------
    levels
        How many times the map is halved.
    width
        Channels.
    pool
        "avg", as in the released networks, or "max", as in the authors' training code.
    """

    def __init__(self, *, levels: int = 4, width: int = 256, pool: Pool = "avg", affine: bool = True) -> None:
        super().__init__()
        if levels < 1:
            raise OptionError("an hourglass has levels", got=levels, expected="at least 1")

        def blocks() -> nn.ModuleList:
            return nn.ModuleList(HierarchicalBlock(width, width, affine=affine) for _ in range(levels))

        self.pool: Pool = pool
        self.up, self.down, self.back = blocks(), blocks(), blocks()
        self.inside = HierarchicalBlock(width, width, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self._level(len(self.up) - 1, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        small = self.down[level](_halved(x, self.pool))
        small = self._level(level - 1, small) if level else self.inside(small)
        large: Tensor = F.interpolate(self.back[level](small), scale_factor=2.0, mode="nearest")
        out: Tensor = large + self.up[level](x)
        return out


class Stack(nn.Module):
    """One hourglass with its heatmaps: features -> (features for the next stack or None, heatmaps)."""

    def __init__(self, *, points: int, levels: int, width: int, pool: Pool, affine: bool, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(levels=levels, width=width, pool=pool, affine=affine)
        self.top = HierarchicalBlock(width, width, affine=affine)
        self.conv = nn.Conv2d(width, width, 1)
        self.bn = nn.BatchNorm2d(width)
        self.heatmaps = nn.Conv2d(width, points, 1)
        self.features_on = None if last else nn.Conv2d(width, width, 1)
        self.heatmaps_on = None if last else nn.Conv2d(points, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = F.relu(self.bn(self.conv(self.top(self.hourglass(x)))))
        maps: Tensor = self.heatmaps(found)
        if self.features_on is not None and self.heatmaps_on is not None:
            x = x + self.features_on(found) + self.heatmaps_on(maps)
        return x, maps


def stem_widths(width: int) -> tuple[int, int, int]:
    """Channels of the stem's convolution, of its first two blocks, and of its last: (64, 128, 256) at 256."""
    return max(8, width // 4), max(8, width // 2), width


class Stem(nn.Module):
    """(B, C, S, S) -> (B, width, S / stride, S / stride).

    7 x 7 convolution of stride 2, block, (halving), block, block; `stride` 2 leaves the halving out.
    """

    def __init__(self, channels: int, *, width: int, stride: int, pool: Pool, affine: bool) -> None:
        super().__init__()
        if stride not in (2, 4):
            raise OptionError("the stem has another stride", got=stride, expected=(2, 4))
        narrow, half, whole = stem_widths(width)
        self.stride, self.pool = stride, pool
        self.conv = nn.Conv2d(channels, narrow, 7, 2, 3)
        self.bn = nn.BatchNorm2d(narrow)
        self.block1 = HierarchicalBlock(narrow, half, affine=affine)
        self.block2 = HierarchicalBlock(half, half, affine=affine)
        self.block3 = HierarchicalBlock(half, whole, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(F.relu(self.bn(self.conv(x))))
        if self.stride == 4:
            x = _halved(x, self.pool)
        out: Tensor = self.block3(self.block2(x))
        return out


class FAN(nn.Module):
    """The face alignment network: (B, C, S, S) of 0 to 1 -> a list of (B, points, S / stride, S / stride).

    Parameters
    ----------
    stacks
        Hourglasses, 1 to 4 in the paper. Each gives heatmaps; only the last one's are used once it is trained.
    channels
        3 for a picture; 3 + points where heatmaps of points are given beside it (2D-to-3D-FAN).
    points, width, levels, stride
        Heatmaps; channels of the hourglasses; how many times they halve; pixels to a cell of the heatmaps (4 or 2).
    pool, affine
        See `Hourglass` and `HierarchicalBlock`.
    """

    def __init__(
        self, *, stacks: int = 4, channels: int = 3, points: int = POINTS, width: int = 256, levels: int = 4,
        stride: int = 4, pool: Pool = "avg", affine: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(stacks, channels, points) < 1:
            raise OptionError("the network is empty", got=(stacks, channels, points), expected="at least 1 each")
        if pool not in ("avg", "max"):
            raise OptionError.unknown("unknown way of halving", pool, ("avg", "max"))
        self.channels, self.points, self.stride, self.multiple = channels, points, stride, stride * 2**levels
        self.stem = Stem(channels, width=width, stride=stride, pool=pool, affine=affine)
        self.stacks = nn.ModuleList(
            Stack(points=points, levels=levels, width=width, pool=pool, affine=affine, last=k == stacks - 1)
            for k in range(stacks)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ShapeError(
                "the network cannot halve this input", got=tuple(x.shape),
                expected=f"(B, {self.channels}, H, W), H and W multiples of {self.multiple}",
            )  # fmt: skip
        x = self.stem(x)
        found = []
        for stack in self.stacks:
            x, maps = stack(x)
            found.append(maps)
        return found


class Bottleneck(nn.Module):
    """Residual block of 1 x 1, 3 x 3 (which has the stride) and 1 x 1 to four times as many channels."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.skip = nn.Sequential(nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.bn1(self.conv1(x)))
        found = F.relu(self.bn2(self.conv2(found)))
        return F.relu(self.bn3(self.conv3(found)) + self.skip(x))


class DepthNet(nn.Module):
    """Depth of points: picture and their heatmaps (B, 3 + points, S, S) -> (B, points), in pixels of the crop.

    A residual network in the layout of ResNet-152.

    Parameters
    ----------
    points
        Heatmaps that go in, numbers that come out.
    depths, width
        Blocks of each stage, and channels of the first one's 3 x 3 convolutions.
    pool
        The features are averaged over the upper left `pool` x `pool` cells: 7 of 8 x 8 in the released network, at an
        input of 256 px. 0 averages all.
    """

    def __init__(
        self, *, points: int = POINTS, depths: tuple[int, ...] = (3, 8, 36, 3), width: int = 64, pool: int = 7
    ) -> None:
        super().__init__()
        self.points, self.pool = points, pool
        self.conv1 = nn.Conv2d(3 + points, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage, count in enumerate(depths):
            wide = width * 2**stage
            blocks = [Bottleneck(channels, wide, 2 if stage else 1)]
            blocks += [Bottleneck(4 * wide, wide, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = 4 * wide
        self.layers = nn.ModuleList(stages)
        self.fc = nn.Linear(channels, points)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 3 + self.points:
            raise ShapeError("the depth network sees picture and heatmaps", got=tuple(x.shape),
                             expected=f"(B, {3 + self.points}, H, W)")  # fmt: skip
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in self.layers:
            x = stage(x)
        if self.pool:
            x = x[:, :, : self.pool, : self.pool]
        depth: Tensor = self.fc(x.mean((2, 3)))
        return depth


class PointRegressor(nn.Module):
    """What heatmaps are compared with: the same stem and encoder, and the points directly. (B, C, S, S) -> (B, K, 2).

    The blocks of one hourglass, those before the way up, end in a linear layer over the innermost map, which sees the
    whole face; a second run of blocks takes the place of those on the way up, so that the number of parameters is that
    of a `FAN` of one stack within a few per cent. The answer is in units of the crop's side, 0 to 1 from its edge.

    Parameters
    ----------
    size
        Side of the crop in pixels.
    channels, points, width, levels, stride, pool, affine
        As of `FAN`.
    hidden
        Channels that the innermost map is reduced to.
    mean
        (points, 2) what an untrained network answers; None: the middle.
    """

    def __init__(
        self, *, size: int, channels: int = 3, points: int = POINTS, width: int = 256, levels: int = 4, stride: int = 4,
        pool: Pool = "avg", affine: bool = True, hidden: int = 16, mean: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        side = size // (stride * 2**levels)
        if side < 1 or size % (stride * 2**levels):
            raise OptionError("the crop cannot be halved so often", got=size,
                              expected=f"a multiple of {stride * 2**levels}")  # fmt: skip
        self.points, self.pool = points, pool
        self.stem = Stem(channels, width=width, stride=stride, pool=pool, affine=affine)
        self.down = nn.ModuleList(
            nn.Sequential(*(HierarchicalBlock(width, width, affine=affine) for _ in range(3))) for _ in range(levels)
        )
        self.inside = nn.Sequential(*(HierarchicalBlock(width, width, affine=affine) for _ in range(2)))
        self.reduce = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, hidden, 1))
        self.project = nn.Linear(hidden * side * side, 2 * points)
        nn.init.normal_(self.project.weight, std=0.01)
        with torch.no_grad():
            self.project.bias.copy_(torch.full((2 * points,), 0.5) if mean is None else mean.flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for blocks in self.down:
            x = blocks(_halved(x, self.pool))
        points: Tensor = self.project(self.reduce(self.inside(x)).flatten(1))
        return points.view(len(points), self.points, 2)
