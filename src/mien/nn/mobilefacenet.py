"""MobileFaceNet: a face embedding of one million parameters, of inverted residual blocks and a global depthwise end.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", 2018, table 1.
State-dict keys are those of the PyTorch code that SFace and others released (``conv_1``, ``conv_2_dw``, ``dconv_23``,
``res_3`` … ``fc1``), so that its checkpoints fit as they are; so are the two constants of the normalisations.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

from mien.errors import OptionError

EPS, LAST_EPS = 1e-3, 2e-5
"""Of the normalisations after convolutions, and of the last one."""


class Unit(nn.Sequential):
    """Convolution ``conv2d`` without bias, normalisation ``batchnorm`` and, if `act`, PReLU ``relu``."""

    def __init__(
        self, before: int, after: int, kernel: int = 1, stride: int = 1, *, padding: int | None = None,
        groups: int = 1, act: bool = True,
    ) -> None:  # fmt: skip
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv2d"] = nn.Conv2d(
            before, after, kernel, stride, kernel // 2 if padding is None else padding, groups=groups, bias=False
        )
        layers["batchnorm"] = nn.BatchNorm2d(after, eps=EPS)
        if act:
            layers["relu"] = nn.PReLU(after)
        super().__init__(layers)


class DepthWise(nn.Sequential):
    """1 x 1 to `expand` channels, depthwise 3 x 3 of `stride`, 1 x 1 to `after` channels without an activation.

    (B, before, H, W) -> (B, after, H / stride, W / stride).
    """

    def __init__(self, before: int, after: int, *, expand: int, stride: int = 1) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv_sep"] = Unit(before, expand)
        layers["conv_dw"] = Unit(expand, expand, 3, stride, groups=expand)
        layers["conv_proj"] = Unit(expand, after, act=False)
        super().__init__(layers)


class _Shortcut(DepthWise):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.Sequential.forward(self, x)  # type: ignore[no-untyped-call]
        return out + x


class Residual(nn.Module):
    """`blocks` times a `DepthWise` around an identity: (B, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, *, expand: int, blocks: int) -> None:
        super().__init__()
        layers = OrderedDict((f"block{index}", _Shortcut(channels, channels, expand=expand)) for index in range(blocks))
        self.model = nn.Sequential(cast("OrderedDict[str, nn.Module]", layers))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model(x))


class MobileFaceNet(nn.Module):
    """(B, 3, size, size) -> (B, dim), not normalised to unit length.

    Parameters
    ----------
    dim
        Length of the embedding.
    size
        Side of the input, px, a multiple of 16. The global depthwise kernel is made for it.
    width
        Factor of all channels.
    blocks
        Residual blocks at a quarter, an eighth and a sixteenth of the side.
    """

    def __init__(
        self, *, dim: int = 512, size: int = 112, width: float = 1.0, blocks: tuple[int, int, int] = (4, 6, 2)
    ) -> None:
        super().__init__()
        if size < 16 or size % 16:
            raise OptionError("the side of the input is out of range", got=size, expected="a multiple of 16 px")
        c64, c128, c256, c512 = (max(1, round(width * channels)) for channels in (64, 128, 256, 512))
        self.conv_1 = Unit(3, c64, 3, 2)
        self.conv_2_dw = Unit(c64, c64, 3, groups=c64)
        self.dconv_23 = DepthWise(c64, c64, expand=c128, stride=2)
        self.res_3 = Residual(c64, expand=c128, blocks=blocks[0])
        self.dconv_34 = DepthWise(c64, c128, expand=c256, stride=2)
        self.res_4 = Residual(c128, expand=c256, blocks=blocks[1])
        self.dconv_45 = DepthWise(c128, c128, expand=c512, stride=2)
        self.res_5 = Residual(c128, expand=c256, blocks=blocks[2])
        self.conv_6sep = Unit(c128, c512)
        self.conv_6dw7_7 = Unit(c512, c512, size // 16, padding=0, groups=c512, act=False)
        self.pre_fc1 = nn.Linear(c512, dim)
        self.fc1 = nn.BatchNorm1d(dim, eps=LAST_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_3(self.dconv_23(self.conv_2_dw(self.conv_1(x))))
        x = self.res_5(self.dconv_45(self.res_4(self.dconv_34(x))))
        x = self.conv_6dw7_7(self.conv_6sep(x)).flatten(1)
        return cast(Tensor, self.fc1(self.pre_fc1(x)))


def mobilefacenet(
    *, dim: int = 512, size: int = 112, width: float = 1.0, blocks: tuple[int, int, int] = (4, 6, 2)
) -> MobileFaceNet:
    """1.20 M parameters, 0.22 GMAC at 112 px, with 512 numbers."""
    return MobileFaceNet(dim=dim, size=size, width=width, blocks=blocks)
