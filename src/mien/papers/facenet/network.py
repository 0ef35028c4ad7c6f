"""The networks of the paper: NN1 to NN4, the two small ones, and the nets of the reimplementations.

All map (B, 3, H, W) RGB to unit vectors (B, dim), and `features` gives the vector before it is normalised. Layer tables
are the paper's tables 1 and 2. ``norm="lrn"`` is the paper to the letter; the default ``"bn"`` is what every
reimplementation does, since without batch normalisation networks of this depth do not start to learn in the minutes or
days that anybody but the authors has (they trained for 1,000 to 2,000 hours).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import ShapeError
from mien.nn.inception import InceptionBlock, InceptionResnetV1, Norm, Row, conv_unit, response_norm

# ------------------------------------------------------------------------------------------- NN1


class Maxout(nn.Module):
    """Linear layer with two pieces a unit, the larger of which counts (Goodfellow et al., 2013): (B, i) -> (B, o)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        pieces: Tensor = self.linear(x)
        return torch.maximum(*pieces.chunk(2, 1))


class ZeilerFergus(nn.Module):
    """NN1 (table 1): a Zeiler and Fergus network with 1 x 1 convolutions between the others.

        220  conv1 7x7/2 -> 110  pool, norm -> 55  conv2a 1x1, conv2 3x3, norm, pool -> 28  conv3a, conv3, pool
        -> 14  conv4a, conv4, conv5a, conv5, conv6a, conv6, pool -> 7  flatten, fc1, fc2 (maxout), linear

    Parameters
    ----------
    size
        Side of the input, px; the fully connected layers are made for it.
    dim
        Length of the embedding.
    hidden
        Units of the two maxout layers.
    width
        Factor on the channels of all convolutions.
    norm
        "bn" or "lrn".
    """

    def __init__(self, *, size: int, dim: int, hidden: int, width: float, norm: Norm) -> None:
        super().__init__()
        c = {channels: max(1, round(channels * width)) for channels in (64, 192, 256, 384)}
        self.trunk = nn.Sequential(
            conv_unit(3, c[64], 7, 2, norm=norm),
            nn.MaxPool2d(3, 2, 1),
            response_norm(norm),
            conv_unit(c[64], c[64], 1, norm=norm),
            conv_unit(c[64], c[192], 3, norm=norm),
            response_norm(norm),
            nn.MaxPool2d(3, 2, 1),
            conv_unit(c[192], c[192], 1, norm=norm),
            conv_unit(c[192], c[384], 3, norm=norm),
            nn.MaxPool2d(3, 2, 1),
            conv_unit(c[384], c[384], 1, norm=norm),
            conv_unit(c[384], c[256], 3, norm=norm),
            conv_unit(c[256], c[256], 1, norm=norm),
            conv_unit(c[256], c[256], 3, norm=norm),
            conv_unit(c[256], c[256], 1, norm=norm),
            conv_unit(c[256], c[256], 3, norm=norm),
            nn.MaxPool2d(3, 2, 1),
        )
        self.size = size
        self.hidden = nn.Sequential(Maxout(c[256] * _side(size) ** 2, hidden), Maxout(hidden, hidden))
        self.embedding = nn.Linear(hidden, dim)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """The embedding before it is normalised, (B, dim)."""
        _check_size(x, (self.size, self.size))
        out: Tensor = self.embedding(self.hidden(self.trunk(x).flatten(1)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(x), dim=1)


# ------------------------------------------------------------------------------------------- NN2 and its kin

NN2: Mapping[str, Row] = MappingProxyType(
    {
        "3a": Row(64, 96, 128, 16, 32, "max", 32),
        "3b": Row(64, 96, 128, 32, 64, "l2", 64),
        "3c": Row(0, 128, 256, 32, 64, "max", 0, 2),
        "4a": Row(256, 96, 192, 32, 64, "l2", 128),
        "4b": Row(224, 112, 224, 32, 64, "l2", 128),
        "4c": Row(192, 128, 256, 32, 64, "l2", 128),
        "4d": Row(160, 144, 288, 32, 64, "l2", 128),
        "4e": Row(0, 160, 256, 64, 128, "max", 0, 2),
        "5a": Row(384, 192, 384, 48, 128, "l2", 128),
        "5b": Row(384, 192, 384, 48, 128, "max", 128),
    }
)
"""Table 2: the blocks of NN2 and NN3."""

NN4: Mapping[str, Row] = MappingProxyType(
    {**NN2, "5a": Row(384, 192, 384, 0, 0, "l2", 128), "5b": Row(384, 192, 384, 0, 0, "max", 128)}
)
"""NN2 without 5 x 5 convolutions on the last map, which has 3 x 3 px for a 96 px input (layout of OpenFace)."""

NN4_SMALL2: Mapping[str, Row] = MappingProxyType(
    {
        **{name: NN2[name] for name in ("3a", "3b", "3c", "4a", "4e")},
        "5a": Row(256, 96, 384, 0, 0, "l2", 96),
        "5b": Row(256, 96, 384, 0, 0, "max", 96),
    }
)
"""OpenFace's net for processors."""

NNS: Mapping[str, Row] = MappingProxyType({name: NN2[name] for name in ("3a", "3b", "3c", "4a", "4e", "5a", "5b")})
"""Our blocks of the two small nets, whose tables the paper does not print."""


class Inception(nn.Module):
    """NN2, NN3, NN4 and the small nets: stem, Inception blocks, embedding.

        conv 7x7/2 -> max pool, norm -> conv 1x1, conv 3x3 -> norm, max pool -> blocks of `rows`
        -> average over the map, or flatten and a hidden layer -> linear -> unit length

    Parameters
    ----------
    rows
        The blocks.
    size
        Height and width of the input, px. Other sizes do as well where `hidden` is 0.
    dim
        Length of the embedding.
    hidden
        Units of a layer on the flattened map, with ReLU; 0 averages the map instead.
    width
        Factor on all channels.
    norm
        "bn" or "lrn".
    """

    def __init__(
        self, rows: Sequence[Row], *, size: tuple[int, int], dim: int, hidden: int = 0, width: float, norm: Norm
    ) -> None:
        super().__init__()
        stem = [max(1, round(channels * width)) for channels in (64, 64, 192)]
        self.stem = nn.Sequential(
            conv_unit(3, stem[0], 7, 2, norm=norm),
            nn.MaxPool2d(3, 2, 1),
            response_norm(norm),
            conv_unit(stem[0], stem[1], 1, norm=norm),
            conv_unit(stem[1], stem[2], 3, norm=norm),
            response_norm(norm),
            nn.MaxPool2d(3, 2, 1),
        )
        channels, blocks = stem[2], []
        for row in (row.scaled(width) for row in rows):
            blocks.append(InceptionBlock(channels, row, norm=norm))
            channels = row.channels(channels)
        self.blocks = nn.Sequential(*blocks)
        self.size = size
        if hidden:
            flat = channels * _side(size[0]) * _side(size[1])
            self.hidden: nn.Module | None = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU(inplace=True))
        else:
            self.hidden = None
        self.embedding = nn.Linear(hidden or channels, dim)
        _initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """The embedding before it is normalised, (B, dim)."""
        if self.hidden is not None:
            _check_size(x, self.size)
        x = self.blocks(self.stem(x))
        x = x.mean((2, 3)) if self.hidden is None else self.hidden(x.flatten(1))
        out: Tensor = self.embedding(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(x), dim=1)


def _side(size: int) -> int:
    """Side of the last map: five halvings, each rounded up, by padded strided layers."""
    return math.ceil(size / 32)


def _check_size(x: Tensor, size: tuple[int, int]) -> None:
    if x.shape[2:] != size:
        raise ShapeError(
            "the input has another size than the fully connected layers were made for",
            got=tuple(x.shape),
            expected=f"(B, 3, {size[0]}, {size[1]})",
            hint="scale the crops, or build the network with size=",
        )


def _initialise(network: nn.Module) -> None:
    """He et al., 2015, for layers before a rectifier: the paper says "random" only."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


# ------------------------------------------------------------------------------------------- builders


def nn1(*, dim: int = 128, size: int = 220, hidden: int = 4096, width: float = 1.0, norm: Norm = "bn") -> ZeilerFergus:
    """140 M parameters, 1.6 GMAC at 220 px."""
    return ZeilerFergus(size=size, dim=dim, hidden=hidden, width=width, norm=norm)


def nn2(*, dim: int = 128, width: float = 1.0, norm: Norm = "bn") -> Inception:
    """7.5 M parameters, 1.6 GMAC at 224 px."""
    return Inception(tuple(NN2.values()), size=(224, 224), dim=dim, width=width, norm=norm)


def nn3(*, dim: int = 128, width: float = 1.0, norm: Norm = "bn") -> Inception:
    """NN2 for 160 px: 7.5 M parameters, 0.81 GMAC."""
    return Inception(tuple(NN2.values()), size=(160, 160), dim=dim, width=width, norm=norm)


def nn4(*, dim: int = 128, width: float = 1.0, norm: Norm = "bn") -> Inception:
    """7.0 M parameters, 0.29 GMAC at 96 px."""
    return Inception(tuple(NN4.values()), size=(96, 96), dim=dim, width=width, norm=norm)


def nn4_small2(*, dim: int = 128, width: float = 1.0, norm: Norm = "bn") -> Inception:
    """3.7 M parameters, 0.21 GMAC at 96 px."""
    return Inception(tuple(NN4_SMALL2.values()), size=(96, 96), dim=dim, width=width, norm=norm)


def nns1(*, dim: int = 128, size: int = 165, hidden: int = 1328, width: float = 0.5, norm: Norm = "bn") -> Inception:
    """Our table: 26 M parameters, 0.22 GMAC at 165 px, as the paper says of its own."""
    return Inception(tuple(NNS.values()), size=(size, size), dim=dim, hidden=hidden, width=width, norm=norm)


def nns2(
    *,
    dim: int = 128,
    size: tuple[int, int] = (140, 116),
    hidden: int = 1232,
    width: float = 0.16,
    norm: Norm = "bn",
) -> Inception:
    """Our table: 4.3 M parameters, 0.02 GMAC at 140 x 116 px, as the paper says of its own."""
    return Inception(tuple(NNS.values()), size=size, dim=dim, hidden=hidden, width=width, norm=norm)


def inception_resnet_v1(
    *,
    dim: int = 512,
    classes: int | None = None,
    dropout: float = 0.6,
    repeats: tuple[int, int, int] = (5, 10, 5),
    width: float = 1.0,
) -> InceptionResnetV1:
    """The net of the public checkpoints: 23.5 M parameters, 1.4 GMAC at 160 px."""
    return InceptionResnetV1(dim=dim, classes=classes, dropout=dropout, repeats=repeats, width=width)
