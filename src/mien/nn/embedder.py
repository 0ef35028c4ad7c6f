"""The bundled face embedder: a dense residual network of MobileFaceNet's size, with its global depthwise head.

112 px crop, RGB, ``(x - 127.5) / 128``  ->  stem 7x7/4  ->  stages at 28, 14, 7 px  ->  1x1 to `head` channels
->  7x7 depthwise (Chen et al., MobileFaceNets, 2018, section 3.2)  ->  linear  ->  embedding.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mien.nn.blocks import ResidualTrunk, conv_bn_act


class Embedder(nn.Module):
    """Face embedding network: (B, 3, 112, 112) -> (B, dim), not normalised (the norm carries quality).

    Parameters
    ----------
    widths, depths
        Channels and residual blocks of the stages at 28, 14 and 7 px.
    head
        Channels seen by the global depthwise convolution.
    dim
        Length of the embedding.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 96, 160),
        depths: tuple[int, ...] = (1, 3, 3),
        head: int = 512,
        dim: int = 128,
    ) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(tuple(widths), tuple(depths))
        self.expand = conv_bn_act(widths[-1], head, 1)
        self.pool = nn.Sequential(nn.Conv2d(head, head, 7, groups=head, bias=False), nn.BatchNorm2d(head))
        self.project = nn.Linear(head, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.project(self.pool(self.expand(self.trunk(x))).flatten(1)))


def embedder_small(*, dim: int = 128) -> Embedder:
    """0.12 GMAC, 1.1 M parameters at 112 px."""
    return Embedder(widths=(32, 64, 128), depths=(2, 3, 2), dim=dim)


def embedder_base(*, dim: int = 128) -> Embedder:
    """0.25 GMAC, 2.3 M parameters at 112 px."""
    return Embedder(widths=(64, 96, 160), depths=(1, 3, 3), dim=dim)
