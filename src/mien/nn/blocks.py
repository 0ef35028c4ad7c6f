"""Convolution blocks shared by the bundled networks.

All are dense convolutions on purpose. Depthwise-separable blocks (MobileNet, MobileFaceNet) need fewer
multiplications but move as many bytes; on a CPU with oneDNN, fp32 and channels-last, dense 3 x 3 blocks with a
multiple of 32 channels train and run at 60 to 90 % of the measured GEMM rate, depthwise ones at 15 to 25 %. At equal
time a dense network is therefore several times larger.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn_act(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    act: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation and, if `act`, ReLU; padded to keep ``size / stride``."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    if act:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity: (B, C, H, W) -> (B, C, H, W).

    The second normalisation starts at scale zero, so that every block starts as the identity (He et al., 2016;
    Goyal et al., 2017, section 5.1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_act(channels, channels)
        self.conv2 = conv_bn_act(channels, channels, act=False)
        last = self.conv2[1]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(self.conv1(x)))


class ResidualTrunk(nn.Sequential):
    """Patch stem and residual stages: (B, 3, H, W) -> (B, widths[-1], H / s, W / s), s = 4 * 2 ** (stages - 1).

    Parameters
    ----------
    widths
        Channels of each stage.
    depths
        Residual blocks of each stage, as many as `widths`.
    stem
        Kernel size of the first convolution, whose stride is 4.
    """

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...], *, stem: int = 7) -> None:
        layers: list[nn.Module] = [conv_bn_act(3, widths[0], stem, 4)]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                layers.append(conv_bn_act(widths[stage - 1], width, 3, 2))
            layers += [ResidualBlock(width) for _ in range(depth)]
        super().__init__(*layers)
