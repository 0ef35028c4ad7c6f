"""RTNet: a residual network that convolves a tanh-polar map in its own space and in the tanh-Cartesian one.

    (B, 3, 513, 513) map of a picture around a box, rows are angles, columns radii; (B, 4) boxes
      -> 7 x 7 of stride 2, pool -> four stages of strides 4, 8, 8, 8, the last two dilated
      -> a head on the last map (FCN), or on the last and the first (DeepLabV3+)
      -> logits (B, classes, 513, 513) of the same map

The first block of every stage, and all blocks of stages 2 to 4, have two branches of half the usual width. Blocks with
a stride convolve both in the polar map; in all others the second goes to the tanh-Cartesian map and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.geometry.tanh_polar import conversion_points, pad_polar, sample

EXPANSION = 4
Branch = Literal["polar", "tanh", "plain"]
"""Where a branch convolves: in the polar map, padded as a circle; in the tanh-Cartesian one; in the polar map as in any
picture, padded with zeros."""
BRANCHES: tuple[Branch, ...] = ("polar", "tanh", "plain")
Padding = Literal["zeros", "mixed"]
Grids = tuple[Tensor, Tensor]


class MixedPadding(nn.Module):
    """(B, C, H, W) -> (B, C, H + 2 n, W + 2 n): rows (angles) go on around the circle, columns (radii) repeat."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        if self.n > x.shape[2]:
            raise ShapeError("the map is too small for the dilation", got=tuple(x.shape), expected=f"{self.n} rows")
        around = torch.cat([x[:, :, -self.n :], x, x[:, :, : self.n]], 2)
        return F.pad(around, (self.n, self.n, 0, 0), mode="replicate")


def _conv3(wide: int, out: int, *, stride: int, dilation: int, padding: Padding) -> list[nn.Module]:
    """Padding, 3 x 3 convolution and normalisation."""
    inside = dilation if padding == "zeros" else 0
    pad: nn.Module = nn.Identity() if padding == "zeros" else MixedPadding(dilation)
    return [pad, nn.Conv2d(wide, out, 3, stride, inside, dilation, bias=False), nn.BatchNorm2d(out)]


def _conv1(wide: int, out: int, *, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)]


def _shortcut(wide: int, out: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 and wide == out else nn.Sequential(*_conv1(wide, out, stride=stride))


class Bottleneck(nn.Module):
    """The block of ResNet-50: 1 x 1 to `planes`, 3 x 3, 1 x 1 to four times as many channels."""

    def __init__(self, wide: int, planes: int, *, stride: int, dilation: int, padding: Padding = "zeros") -> None:
        super().__init__()
        out = EXPANSION * planes
        self.enter = nn.Sequential(*_conv1(wide, planes), nn.ReLU(inplace=True))
        self.middle = nn.Sequential(
            *_conv3(planes, planes, stride=stride, dilation=dilation, padding=padding), nn.ReLU(inplace=True)
        )
        self.leave = nn.Sequential(*_conv1(planes, out))
        self.shortcut = _shortcut(wide, out, stride)

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        del grids
        return torch.relu(self.leave(self.middle(self.enter(x))) + self.shortcut(x))


class HybridBlock(nn.Module):
    """Two branches of half the width of a bottleneck, each in a space of its own; what they give is joined by a 1 x 1.

    Parameters
    ----------
    wide, planes
        Channels that come in; each branch has half of `planes`, and four times as many go out.
    stride, dilation
        Of both 3 x 3 convolutions. A branch in the tanh-Cartesian map has no stride.
    branches
        Where either convolves; the paper's are "polar" and "tanh", "polar" and "plain" under a stride.
    """

    def __init__(self, wide: int, planes: int, *, stride: int, dilation: int, branches: tuple[Branch, Branch]) -> None:
        super().__init__()
        half, out = planes // 2, EXPANSION * planes
        self.branches = branches
        if "tanh" in branches and stride > 1:
            raise OptionError("a branch in the tanh-Cartesian map keeps its size", got=f"stride {stride}", expected=1)
        enter, middle = [], []
        for branch in branches:
            padding: Padding = "mixed" if branch == "polar" else "zeros"
            enter.append(nn.Sequential(*_conv1(wide, half), nn.ReLU(inplace=True)))
            middle.append(nn.Sequential(*_conv3(half, half, stride=stride, dilation=dilation, padding=padding)))
        self.enter, self.middle = nn.ModuleList(enter), nn.ModuleList(middle)
        self.leave = nn.Sequential(*_conv1(2 * half, out))
        self.shortcut = _shortcut(wide, out, stride)

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        found = []
        for branch, enter, middle in zip(self.branches, self.enter, self.middle, strict=True):
            part = enter(x)
            if branch == "tanh":
                assert grids is not None
                to_plane, to_polar = grids
                part = sample(middle(sample(pad_polar(part), to_plane)), to_polar)
            else:
                part = middle(part)
            found.append(torch.relu(part))
        return torch.relu(self.leave(torch.cat(found, 1)) + self.shortcut(x))


class Encoder(nn.Module):
    """(B, 3, H, W), boxes (B, 4) -> maps of strides 4, 8, 8, 8 with 4, 8, 16, 32 times `width` channels.

    Parameters
    ----------
    layers
        Blocks of the stages.
    width
        Of the stem; 64 in the paper.
    branches
        Of the blocks with two branches; None: an ordinary dilated ResNet, which sees no boxes.
    padding
        Of an ordinary ResNet: "zeros", or "mixed" as in the polar branches.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        width: int = 64,
        branches: tuple[Branch, Branch] | None = ("polar", "tanh"),
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        if branches is not None and [branch in BRANCHES for branch in branches] != [True, True]:
            raise OptionError("unknown branches", got=branches, expected=f"two of {BRANCHES}, or None")
        if padding not in ("zeros", "mixed"):
            raise OptionError.unknown("unknown padding", padding, ("zeros", "mixed"))
        self.branches = branches
        self.channels = tuple(EXPANSION * width * 2**stage for stage in range(4))
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        stages: list[nn.Module] = []
        wide = width
        for stage, count in enumerate(layers):
            planes, dilation = width * 2**stage, (1, 1, 2, 4)[stage]
            blocks: list[nn.Module] = []
            for number in range(count):
                first = number == 0
                stride, apart = (2 if stage == 1 and first else 1), (max(1, dilation // 2) if first else dilation)
                if branches is None or (stage == 0 and not first):
                    # The plain blocks of RTNet's first stage are ordinary ones, zeros around the map included.
                    own = padding if branches is None else "zeros"
                    blocks.append(Bottleneck(wide, planes, stride=stride, dilation=apart, padding=own))
                else:
                    here: tuple[Branch, Branch] = branches
                    if first:
                        one, two = ("plain" if branch == "tanh" else branch for branch in branches)
                        here = (cast(Branch, one), cast(Branch, two))
                    blocks.append(HybridBlock(wide, planes, stride=stride, dilation=apart, branches=here))
                wide = EXPANSION * planes
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, Bottleneck | HybridBlock):
                # Every block starts as its shortcut.
                nn.init.zeros_(layer.leave.get_parameter("1.weight"))

    def forward(self, x: Tensor, rois: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Maps of the four stages; without boxes they are taken for squares.

        Raises
        ------
        ShapeError
            There is not one box for each map.
        """
        hybrid = self.branches is not None and "tanh" in self.branches
        if rois is None:
            rois = torch.cat([torch.zeros_like(x[:, :2, 0, 0]), torch.ones_like(x[:, :2, 0, 0])], 1)
        elif rois.ndim != 2 or rois.shape[1] != 4 or rois.shape[0] != x.shape[0]:
            raise ShapeError("there is not one box for each map", got=tuple(rois.shape), expected=f"({x.shape[0]}, 4)")
        x = self.stem(x)
        maps: list[Tensor] = []
        made: dict[tuple[int, int], Grids] = {}
        for stage in cast(Sequence[nn.ModuleList], self.stages):
            for block in stage:
                grids: Grids | None = None
                if hybrid and isinstance(block, HybridBlock) and "tanh" in block.branches:
                    size = (int(x.shape[2]), int(x.shape[3]))
                    if size not in made:
                        made[size] = conversion_points(rois, size, size)
                    grids = made[size]
                x = block(x, grids)
            maps.append(x)
        return maps[0], maps[1], maps[2], maps[3]


class FCNHead(nn.Sequential):
    """Logits of the last map: 3 x 3 to a quarter of the channels, dropout of a tenth, 1 x 1."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        inner = channels[3] // 4
        super().__init__(
            nn.Conv2d(channels[3], inner, 3, 1, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True),
            nn.Dropout(0.1), nn.Conv2d(inner, classes, 1),
        )  # fmt: skip

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:  # of four maps, not of one
        x = maps[3]
        for layer in self:
            x = layer(x)
        return x


def _unit(wide: int, out: int, kernel: int, *, dilation: int = 1, padding: int | None = None) -> nn.Sequential:
    """Convolution with bias, normalisation, ReLU."""
    inside = dilation * (kernel // 2) if padding is None else padding
    conv = nn.Conv2d(wide, out, kernel, 1, inside, dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class DeepLabHead(nn.Module):
    """DeepLabV3+ (Chen et al., 2018) as released: no branch that pools everything, and a 1 x 1 padded by one pixel.

    The padding makes the joined map two pixels larger (65 to 67); its rim is what the normalisation makes of zeros.
    """

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        inner, low = channels[0], max(8, 3 * channels[0] // 16)
        rates = (1, 6, 12, 18)
        self.aspp = nn.ModuleList([_unit(channels[3], inner, 1 if rate == 1 else 3, dilation=rate) for rate in rates])
        self.gather = _unit(4 * inner, inner, 1, padding=1)
        self.low = _unit(channels[0], low, 1)
        self.refine = nn.Sequential(_unit(inner + low, inner, 3), _unit(inner, inner, 3))
        self.classes = nn.Conv2d(inner, classes, 1, bias=False)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        joined = self.gather(torch.cat([branch(maps[3]) for branch in self.aspp], 1))
        larger = F.interpolate(joined, size=maps[0].shape[2:], mode="bilinear", align_corners=True)
        return cast(Tensor, self.classes(self.refine(torch.cat([self.low(maps[0]), larger], 1))))


HEADS: Mapping[str, type[nn.Module]] = {"fcn": FCNHead, "deeplabv3plus": DeepLabHead}


class FaceSegmenter(nn.Module):
    """Encoder and head: map (B, 3, H, W) and boxes (B, 4) -> logits (B, classes, H, W) of the same map.

    Boxes are those in the picture that the map was made of; only their ratio of width to height matters, and without
    any they are taken for squares.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor, rois: Tensor | None = None) -> Tensor:
        logits = self.head(self.encoder(x, rois))
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


def _made(
    layers: Sequence[int], classes: int, decoder: str, width: int, branches: tuple[Branch, Branch] | None,
    padding: Padding = "zeros",
) -> FaceSegmenter:  # fmt: skip
    if decoder not in HEADS:
        raise OptionError.unknown("unknown decoder", decoder, HEADS)
    encoder = Encoder(layers, width=width, branches=branches, padding=padding)
    return FaceSegmenter(encoder, HEADS[decoder](encoder.channels, classes))


def rtnet50(
    *,
    classes: int = 11,
    decoder: str = "fcn",
    layers: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    branches: tuple[Branch, Branch] = ("polar", "tanh"),
) -> FaceSegmenter:
    """RTNet-50: 27.3 M parameters with the FCN head and 11 classes, 118.6 GMAC at 513 px."""
    return _made(layers, classes, decoder, width, branches)


def rtnet101(
    *,
    classes: int = 14,
    decoder: str = "fcn",
    layers: tuple[int, ...] = (3, 4, 23, 3),
    width: int = 64,
    branches: tuple[Branch, Branch] = ("polar", "tanh"),
) -> FaceSegmenter:
    """RTNet-101: 41.3 M parameters with the FCN head and 14 classes, 177.5 GMAC at 513 px."""
    return _made(layers, classes, decoder, width, branches)


def resnet50(
    *,
    classes: int = 14,
    decoder: str = "fcn",
    layers: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    padding: Padding = "zeros",
) -> FaceSegmenter:
    """The released baselines, dilated, too: 33.0 M parameters with the FCN head and 14 classes, 142.6 GMAC."""
    return _made(layers, classes, decoder, width, None, padding)
