"""Inception: blocks of parallel branches, and Inception-ResNet-v1, the network behind most public FaceNet checkpoints.

Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (`InceptionBlock`); "Inception-v4, Inception-ResNet and the
Impact of Residual Connections on Learning", AAAI 2017 (`ResidualBranches`, `InceptionResnetV1`).

It stands here and not with a paper because several need it: FaceNet as its own network, others as the recogniser that
is attacked or compared with. State-dict keys of `InceptionResnetV1` are those of the PyTorch port by T. Esler
(facenet-pytorch), so that its checkpoints fit as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError

Norm = Literal["bn", "lrn"]
"""How a network is normalised: batch normalisation after every convolution, which then has no bias; or local response
normalisation at two places of the stem, and biases."""

EPS = 1e-3
"""Of every batch normalisation, as in the TensorFlow originals; torch's own default is 1e-5."""


def conv_unit(
    channels_in: int,
    channels_out: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    *,
    padding: int | tuple[int, int] | None = None,
    norm: Norm = "bn",
) -> nn.Sequential:
    """Convolution ``conv``, batch normalisation ``bn`` (with norm="bn" only) and ReLU: (B, C, H, W) -> (B, C', H', W').

    `padding` is by default half the kernel, so that the output has size ``ceil(size / stride)``.
    """
    if norm not in ("bn", "lrn"):
        raise OptionError.unknown("unknown normalisation", norm, ("bn", "lrn"))
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if padding is None:
        padding = (height // 2, width // 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels_in, channels_out, (height, width), stride, padding, bias=norm == "lrn")
    if norm == "bn":
        layers["bn"] = nn.BatchNorm2d(channels_out, eps=EPS)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def response_norm(norm: Norm) -> nn.Module:
    """Local response normalisation over five channels (Krizhevsky et al., 2012); nothing where "bn" is used instead."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75) if norm == "lrn" else nn.Identity()


class L2Pool2d(nn.Module):
    """Root of the sum of squares over 3 x 3 windows, stride 1: (B, C, H, W) -> (B, C, H, W).

    A small number under the root keeps its gradient finite where a window is all zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        return (9 * F.avg_pool2d(x.square(), 3, 1, 1) + 1e-6).sqrt()


class Row(NamedTuple):
    """One line of an Inception table: output channels of each branch, 0 where there is none.

    `one` is the 1 x 1 branch; `reduce3` and `reduce5` are the 1 x 1 convolutions before `three` and `five`; `project`
    is the 1 x 1 after the pooling, 0 for a pooling that passes its input's channels through. `stride` is that of the
    last layer of every branch.
    """

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: Literal["max", "l2"]
    project: int
    stride: int = 1

    def channels(self, before: int) -> int:
        """Channels that leave the block when `before` enter it."""
        return self.one + self.three + self.five + (self.project or before)

    def scaled(self, width: float) -> Row:
        """The line with all its channels times `width`, each at least 1 where it was not 0."""
        return self._replace(
            one=_scaled(self.one, width), reduce3=_scaled(self.reduce3, width), three=_scaled(self.three, width),
            reduce5=_scaled(self.reduce5, width), five=_scaled(self.five, width), project=_scaled(self.project, width),
        )  # fmt: skip


class InceptionBlock(nn.Module):
    """Branches 1x1 | 1x1, 3x3 | 1x1, 5x5 | pool, 1x1, their outputs joined in this order.

    (B, C, H, W) -> (B, ``row.channels(C)``, H / stride, W / stride).
    """

    def __init__(self, channels: int, row: Row, *, norm: Norm = "bn") -> None:
        super().__init__()
        branches: list[nn.Module] = []
        if row.one:
            branches.append(conv_unit(channels, row.one, 1, row.stride, norm=norm))
        for kernel, reduce, out in ((3, row.reduce3, row.three), (5, row.reduce5, row.five)):
            if out:
                branches.append(
                    nn.Sequential(
                        conv_unit(channels, reduce, 1, norm=norm),
                        conv_unit(reduce, out, kernel, row.stride, norm=norm),
                    )
                )
        if row.pool == "l2" and row.stride != 1:
            raise OptionError("L2 pooling has stride 1", got=row.stride, expected="pool='max' in a strided block")
        pool = L2Pool2d() if row.pool == "l2" else nn.MaxPool2d(3, row.stride, 1)
        branches.append(nn.Sequential(pool, conv_unit(channels, row.project, 1, norm=norm)) if row.project else pool)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


# ------------------------------------------------------------------------------------------- Inception-ResNet-v1

Layer = tuple[int, int | tuple[int, int], int]
"""Output channels, kernel, stride."""
Branches = Sequence[Sequence[Layer]]


def _chain(channels: int, layers: Sequence[Layer]) -> nn.Sequential:
    """Convolution units in a row: padded where they keep the size, "valid" where they halve it; one stands alone."""
    units = []
    for out, kernel, stride in layers:
        units.append(conv_unit(channels, out, kernel, stride, padding=None if stride == 1 else 0))
        channels = out
    return units[0] if len(units) == 1 else nn.Sequential(*units)


class ResidualBranches(nn.Module):
    """``relu(x + scale * W [branch0(x), branch1(x), …])``: (B, C, H, W) -> (B, C, H, W).

    Parameters
    ----------
    channels
        C.
    branches
        Layers of each branch.
    scale
        Of the residual (Szegedy et al., 2017, section 3.3): it keeps the sum from growing over many blocks.
    relu
        False leaves the rectifier out, as in the last block of the network.
    """

    def __init__(self, channels: int, branches: Branches, *, scale: float, relu: bool = True) -> None:
        super().__init__()
        self.scale, self.relu = scale, relu
        self._count = len(branches)
        for index, layers in enumerate(branches):
            self.add_module(f"branch{index}", _chain(channels, layers))
        self.conv2d = nn.Conv2d(sum(layers[-1][0] for layers in branches), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self._count)], 1)
        x = x + self.scale * self.conv2d(joined)
        return torch.relu(x) if self.relu else x


class ReducingBranches(nn.Module):
    """Branches of convolutions and, last, a 3 x 3 max pooling, each halving the size without padding; joined."""

    def __init__(self, channels: int, branches: Branches) -> None:
        super().__init__()
        self._count = len(branches) + 1
        for index, layers in enumerate(branches):
            self.add_module(f"branch{index}", _chain(channels, layers))
        self.add_module(f"branch{len(branches)}", nn.MaxPool2d(3, 2))
        self.channels = channels + sum(layers[-1][0] for layers in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(f"branch{index}")(x) for index in range(self._count)], 1)


BLOCK35: Branches = (((32, 1, 1),), ((32, 1, 1), (32, 3, 1)), ((32, 1, 1), (32, 3, 1), (32, 3, 1)))
MIXED_6A: Branches = (((384, 3, 2),), ((192, 1, 1), (192, 3, 1), (256, 3, 2)))
BLOCK17: Branches = (((128, 1, 1),), ((128, 1, 1), (128, (1, 7), 1), (128, (7, 1), 1)))
MIXED_7A: Branches = (((256, 1, 1), (384, 3, 2)), ((256, 1, 1), (256, 3, 2)), ((256, 1, 1), (256, 3, 1), (256, 3, 2)))
BLOCK8: Branches = (((192, 1, 1),), ((192, 1, 1), (192, (1, 3), 1), (192, (3, 1), 1)))
"""Layers of the branches of each kind of block; the number in the name is the size of its map for 299 px inputs."""


class InceptionResnetV1(nn.Module):
    """Face embedding: (B, 3, H, W) RGB -> (B, dim), unit length. H and W from 75 px; published weights want 160.

    Parameters
    ----------
    dim
        Length of the embedding; 512 in the public checkpoints.
    classes
        Rows of the classifier that `classify` uses; None builds none.
    dropout
        Share of pooled features that training drops; the public checkpoints were trained with 0.6.
    repeats
        Blocks of the three sizes.
    width
        Factor on the channels of all convolutions.
    """

    def __init__(
        self,
        *,
        dim: int = 512,
        classes: int | None = None,
        dropout: float = 0.6,
        repeats: tuple[int, int, int] = (5, 10, 5),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        stem = [_scaled(channels, width) for channels in (32, 32, 64, 80, 192, 256)]
        self.conv2d_1a = conv_unit(3, stem[0], 3, 2, padding=0)
        self.conv2d_2a = conv_unit(stem[0], stem[1], 3, padding=0)
        self.conv2d_2b = conv_unit(stem[1], stem[2], 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = conv_unit(stem[2], stem[3], 1)
        self.conv2d_4a = conv_unit(stem[3], stem[4], 3, padding=0)
        self.conv2d_4b = conv_unit(stem[4], stem[5], 3, 2, padding=0)
        self.repeat_1 = _repeated(stem[5], BLOCK35, repeats[0], scale=0.17, width=width)
        self.mixed_6a = ReducingBranches(stem[5], _narrowed(MIXED_6A, width))
        middle = self.mixed_6a.channels
        self.repeat_2 = _repeated(middle, BLOCK17, repeats[1], scale=0.10, width=width)
        self.mixed_7a = ReducingBranches(middle, _narrowed(MIXED_7A, width))
        last = self.mixed_7a.channels
        self.repeat_3 = _repeated(last, BLOCK8, repeats[2], scale=0.20, width=width)
        self.block8 = ResidualBranches(last, _narrowed(BLOCK8, width), scale=1.0, relu=False)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(last, dim, bias=False)
        self.last_bn = nn.BatchNorm1d(dim, eps=EPS)
        self.logits = None if classes is None else nn.Linear(dim, classes)

    def trunk(self, x: Tensor) -> Tensor:
        """The last feature map, (B, 1792, h, w)."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        out: Tensor = self.block8(self.repeat_3(x))
        return out

    def features(self, x: Tensor) -> Tensor:
        """The embedding before it is normalised, (B, dim)."""
        out: Tensor = self.last_bn(self.last_linear(self.dropout(self.trunk(x).mean((2, 3)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(x), dim=1)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (B, classes), of the features and not of the unit vector; OptionError where there is no classifier."""
        if self.logits is None:
            raise OptionError("this network has no classifier", expected="classes=N when it is built")
        out: Tensor = self.logits(self.features(x))
        return out


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width)) if channels else 0


def _narrowed(branches: Branches, width: float) -> Branches:
    return tuple(tuple((_scaled(out, width), kernel, stride) for out, kernel, stride in layers) for layers in branches)


def _repeated(channels: int, branches: Branches, count: int, *, scale: float, width: float) -> nn.Sequential:
    layers = _narrowed(branches, width)
    return nn.Sequential(*(ResidualBranches(channels, layers, scale=scale) for _ in range(count)))
