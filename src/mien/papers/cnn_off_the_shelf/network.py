"""OverFeat in its two sizes: plain convolutions and poolings, and fully connected layers written as convolutions.

Every layer is a named child (``conv1``, ``relu1``, ``pool1`` … ``fc1``, ``fc1_relu``, ``fc2``, ``fc2_relu``, ``out``),
so that features are taken by name, before or after the rectification. There is no local response normalisation, no
group of channels, and no padding but that of the 3 x 3 convolutions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError

MEAN, STD = 118.380948, 61.896913
"""Subtracted from and divided into channel values of 0 … 255, the same numbers for all three channels."""


class Stage(NamedTuple):
    """A convolution with ReLU: channels, kernel, stride, padding, and the max-pooling after it (0: none)."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 0


class Variant(NamedTuple):
    """The numbers of a size: input side in pixels, convolutions, and units of the two hidden layers."""

    size: int
    stages: tuple[Stage, ...]
    hidden: tuple[int, int]


LARGE = Variant(
    221,
    (Stage(96, 7, 2, 0, 3), Stage(256, 7, 1, 0, 2), Stage(512, 3, 1, 1), Stage(512, 3, 1, 1), Stage(1024, 3, 1, 1),
     Stage(1024, 3, 1, 1, 3)),
    (4096, 4096),
)  # fmt: skip
"""The "accurate" network."""

SMALL = Variant(
    231,
    (
        Stage(96, 11, 4, 0, 2),
        Stage(256, 5, 1, 0, 2),
        Stage(512, 3, 1, 1),
        Stage(1024, 3, 1, 1),
        Stage(1024, 3, 1, 1, 2),
    ),
    (3072, 4096),
)
"""The "fast" network."""

CLASSES = 1000


class OverFeat(nn.Sequential):
    """(B, 3, size, size) -> (B, classes) logits. P. Sermanet et al., "OverFeat", 2014, tables 1 and 3.

    Parameters
    ----------
    variant
        `LARGE` or `SMALL`.
    size
        Side of the input, pixels; the first hidden layer's kernel is what is left of it. None: the variant's.
    width
        Factor on all channels.
    hidden
        Units of both hidden layers. None: the variant's.
    classes
        Units of the last layer.

    Raises
    ------
    OptionError
        Nothing is left of so small an input.
    """

    def __init__(
        self,
        variant: Variant,
        *,
        size: int | None = None,
        width: float = 1.0,
        hidden: int | None = None,
        classes: int = CLASSES,
    ) -> None:
        size = variant.size if size is None else size
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, side = 3, size
        for number, stage in enumerate(variant.stages, 1):
            wide = max(1, round(stage.channels * width))
            layers[f"conv{number}"] = nn.Conv2d(channels, wide, stage.kernel, stage.stride, stage.padding)
            layers[f"relu{number}"] = nn.ReLU()  # not in place: the map before it is a feature too
            side = (side + 2 * stage.padding - stage.kernel) // stage.stride + 1
            if stage.pool:
                layers[f"pool{number}"] = nn.MaxPool2d(stage.pool, stage.pool)
                side //= stage.pool
            channels = wide
        if side < 1:
            raise OptionError("nothing is left of so small a picture", got=f"{size} px", expected=f"{variant.size} px")
        first, second = variant.hidden if hidden is None else (hidden, hidden)
        layers["fc1"], layers["fc1_relu"] = nn.Conv2d(channels, first, side), nn.ReLU()
        layers["fc2"], layers["fc2_relu"] = nn.Conv2d(first, second, 1), nn.ReLU()
        layers["out"] = nn.Conv2d(second, classes, 1)
        super().__init__(layers)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, self.size, self.size):
            raise ShapeError(
                "OverFeat sees pictures of one size", got=tuple(x.shape), expected=f"(B, 3, {self.size}, {self.size})",
                hint="resize them, or use dense() for larger ones",
            )  # fmt: skip
        return self.dense(x).flatten(1)

    def dense(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) of that size or larger -> (B, classes, h, w): the network at every place of a picture."""
        return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]


def overfeat_large(
    *, size: int = LARGE.size, width: float = 1.0, hidden: int | None = None, classes: int = CLASSES
) -> OverFeat:
    """The "accurate" network: 144.7 M parameters, 5.36 GMAC at 221 px; `fc1` and `fc2` have 4096 units."""
    return OverFeat(LARGE, size=size, width=width, hidden=hidden, classes=classes)


def overfeat_small(
    *, size: int = SMALL.size, width: float = 1.0, hidden: int | None = None, classes: int = CLASSES
) -> OverFeat:
    """The "fast" network: 145.9 M parameters, 2.80 GMAC at 231 px; `fc1` has 3072 units, `fc2` 4096."""
    return OverFeat(SMALL, size=size, width=width, hidden=hidden, classes=classes)


def normalised(pixels: Tensor) -> Tensor:
    """RGB values of 0 … 255, any shape, as OverFeat wants them."""
    return (pixels.to(torch.float32) - MEAN) / STD
