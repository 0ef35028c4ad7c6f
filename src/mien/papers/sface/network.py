"""The backbones of the released code, their first weights, and what goes in and comes out.

The layouts are `mien.nn.iresnet.IR` (face.evoLVe's) and `mien.nn.mobilefacenet.MobileFaceNet`. Pictures of these
networks are 112 px, aligned by five points, and become ``(x - 127.5) * 0.078125``: ten times the usual numbers, in the
released PyTorch code inside of the network's forward pass, here outside of it (`normalise`, and ``standardise=tenfold``
of the recipe).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.nn import iresnet
from mien.nn.iresnet import IR, IR_DEPTHS
from mien.nn.mobilefacenet import MobileFaceNet

GAIN = 2.0
"""Of the first weights."""

MEAN, FACTOR = 127.5, 0.078125
"""Taken from grey values, and multiplied with the rest: 10 / 128. With one zero more it would be the usual 1 / 128."""


def normalise(images: Tensor) -> Tensor:
    """Grey values 0 … 255 (B, 3, H, W), RGB, as floats -> what the networks see."""
    return (images - MEAN) * FACTOR


@torch.no_grad()
def initialise(network: nn.Module) -> nn.Module:
    """First weights of the released training, in place: N(0, ``2 sqrt(2 / fan_out)``); PReLU starts as the identity.

    Biases and normalisations start as everywhere, at 0 and 1.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows, _, *kernel = layer.weight.shape
            # Of a grouped convolution, an output channel is fan-out to its group alone.
            fan_out = rows * math.prod(kernel) / (layer.groups if isinstance(layer, nn.Conv2d) else 1)
            layer.weight.normal_(0, GAIN * math.sqrt(2 / fan_out))
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.PReLU):
            layer.weight.fill_(1.0)
    return network


def ir_50(
    *,
    dim: int = 512,
    size: int = 112,
    dropout: float = 0.5,
    width: float = 1.0,
    depths: tuple[int, ...] = IR_DEPTHS[50],
) -> IR:
    """IR-50 with the paper's first weights: 43.6 M parameters, 6.3 GMAC at 112 px."""
    network = iresnet.ir_50(dim=dim, size=size, dropout=dropout, width=width, depths=depths)
    initialise(network)
    return network


def ir_101(
    *,
    dim: int = 512,
    size: int = 112,
    dropout: float = 0.5,
    width: float = 1.0,
    depths: tuple[int, ...] = IR_DEPTHS[101],
) -> IR:
    """IR-101 with the paper's first weights: 65.1 M parameters, 12.1 GMAC at 112 px."""
    network = iresnet.ir_101(dim=dim, size=size, dropout=dropout, width=width, depths=depths)
    initialise(network)
    return network


def mobilefacenet(
    *, dim: int = 512, size: int = 112, width: float = 1.0, blocks: tuple[int, int, int] = (4, 6, 2)
) -> MobileFaceNet:
    """MobileFaceNet with the paper's first weights: 1.20 M parameters, 0.22 GMAC at 112 px."""
    network = MobileFaceNet(dim=dim, size=size, width=width, blocks=blocks)
    initialise(network)
    return network


def embed_with_mirror(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Unit vectors (B, d) of pictures (B, 3, H, W): outputs for picture and mirror image, added, normalised."""
    return F.normalize(network(x) + network(x.flip(3)), dim=1)
