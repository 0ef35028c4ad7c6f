"""Residual networks for faces of 112 px: normalisation first, PReLU, no activation after the sum.

Two layouts of nearly the same network are in use, and public checkpoints come in both:

- `IR` is face.evoLVe's (IR-50, IR-101): ``input_layer``, ``body``, ``output_layer``. A unit has normalisation,
  convolution, PReLU, strided convolution, normalisation; where its channels stay, the shortcut is a strided picking of
  pixels without parameters.
- `IResNet` is InsightFace's (18, 34, 50, 100 layers): ``conv1``, ``layer1`` to ``layer4``, ``fc``, ``features``. Its
  units have one normalisation more, between the convolutions, and the shortcut of a strided unit is always a
  convolution.

Deng et al., "ArcFace", CVPR 2019, section 3.1, gives the unit and the last layers (normalisation, dropout, linear,
normalisation). State-dict keys are those of the released code, so that its checkpoints fit as they are.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mien.errors import OptionError

__all__ = [
    "DEPTHS", "IR", "IR_DEPTHS", "IResNet", "ir_50", "ir_101", "iresnet", "iresnet18", "iresnet34", "iresnet50",
    "iresnet100",
]  # fmt: skip

PLANES = (64, 128, 256, 512)
"""Channels of the four stages, each of which halves the side."""

DEPTHS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
}
"""Units of the four stages of `IResNet` by the number of layers."""

IR_DEPTHS: dict[int, tuple[int, int, int, int]] = {50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}
"""Units of the four stages of `IR`. The second is named 101 and has the units of InsightFace's 100."""


def _planes(width: float, depths: tuple[int, ...]) -> tuple[int, ...]:
    if len(depths) != len(PLANES) or min(depths) < 1:
        raise OptionError("a stage has no unit", got=depths, expected="four numbers, each at least 1")
    return tuple(max(1, round(width * planes)) for planes in PLANES)


def _side(size: int) -> int:
    """Side of the last map: four strided convolutions that round up."""
    if size < 1:
        raise OptionError("the side of the input is out of range", got=size, expected="at least 1 px")
    return -(-size // 16)


def _conv(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


# ------------------------------------------------------------------------------------------- face.evoLVe's layout


class IRUnit(nn.Module):
    """One unit of `IR`: (B, before, H, W) -> (B, after, H / stride, W / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)  # a window of one pixel: every stride-th one is kept
            if before == after
            else nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            _conv(before, after),
            nn.PReLU(after),
            _conv(after, after, stride=stride),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.res_layer(x) + self.shortcut_layer(x))


class IR(nn.Module):
    """face.evoLVe's IR network: (B, 3, size, size) -> (B, dim), not normalised to unit length.

    Parameters
    ----------
    depths
        Units of the four stages.
    dim
        Length of the embedding.
    size
        Side of the input, px. The linear layer is made for it.
    dropout
        Share of the last map that is dropped in training.
    width
        Factor of all channels.
    """

    def __init__(
        self, depths: tuple[int, ...], *, dim: int = 512, size: int = 112, dropout: float = 0.5, width: float = 1.0
    ) -> None:
        super().__init__()
        planes = _planes(width, tuple(depths))
        self.input_layer = nn.Sequential(_conv(3, planes[0]), nn.BatchNorm2d(planes[0]), nn.PReLU(planes[0]))
        units, before = [], planes[0]
        for after, depth in zip(planes, depths, strict=True):
            for index in range(depth):
                units.append(IRUnit(before, after, 1 if index else 2))
                before = after
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(before * _side(size) ** 2, dim),
            nn.BatchNorm1d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.output_layer(self.body(self.input_layer(x))))


def ir_50(
    *,
    dim: int = 512,
    size: int = 112,
    dropout: float = 0.5,
    width: float = 1.0,
    depths: tuple[int, ...] = IR_DEPTHS[50],
) -> IR:
    """IR-50: 43.6 M parameters, 6.3 GMAC at 112 px."""
    return IR(depths, dim=dim, size=size, dropout=dropout, width=width)


def ir_101(
    *,
    dim: int = 512,
    size: int = 112,
    dropout: float = 0.5,
    width: float = 1.0,
    depths: tuple[int, ...] = IR_DEPTHS[101],
) -> IR:
    """IR-101: 65.1 M parameters, 12.1 GMAC at 112 px."""
    return IR(depths, dim=dim, size=size, dropout=dropout, width=width)


# ------------------------------------------------------------------------------------------- InsightFace's layout


class IResNetUnit(nn.Module):
    """One unit of `IResNet`: (B, before, H, W) -> (B, after, H / stride, W / stride)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = _conv(before, after)
        self.bn2 = nn.BatchNorm2d(after)
        self.prelu = nn.PReLU(after)
        self.conv2 = _conv(after, after, stride=stride)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample = (
            nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))
            if stride != 1 or before != after
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return cast(Tensor, y + (x if self.downsample is None else self.downsample(x)))


class IResNet(nn.Module):
    """InsightFace's residual network: (B, 3, size, size) -> (B, dim), not normalised to unit length.

    Parameters
    ----------
    depths
        Units of the four stages.
    dim
        Length of the embedding.
    size
        Side of the input, px. The linear layer is made for it.
    dropout
        Share of the last map that is dropped in training.
    width
        Factor of all channels.
    """

    def __init__(
        self, depths: tuple[int, ...], *, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0
    ) -> None:
        super().__init__()
        planes = _planes(width, tuple(depths))
        self.conv1 = _conv(3, planes[0])
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.prelu = nn.PReLU(planes[0])
        before = planes[0]
        for number, (after, depth) in enumerate(zip(planes, depths, strict=True), 1):
            units = [IResNetUnit(before if index == 0 else after, after, 1 if index else 2) for index in range(depth)]
            self.add_module(f"layer{number}", nn.Sequential(*units))
            before = after
        self.bn2 = nn.BatchNorm2d(before)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(before * _side(size) ** 2, dim)
        self.features = nn.BatchNorm1d(dim)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, len(PLANES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return cast(Tensor, self.features(self.fc(self.dropout(self.bn2(x)).flatten(1))))


def iresnet(
    layers: int, *, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0,
    depths: tuple[int, ...] | None = None,
) -> IResNet:  # fmt: skip
    """`IResNet` of 18, 34, 50 or 100 layers.

    Raises
    ------
    OptionError
        Another number of layers.
    """
    if layers not in DEPTHS:
        raise OptionError("there is no such network", got=layers, expected=f"layers of {sorted(DEPTHS)}")
    return IResNet(depths or DEPTHS[layers], dim=dim, size=size, dropout=dropout, width=width)


def iresnet18(*, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0) -> IResNet:
    """24.0 M parameters, 2.6 GMAC at 112 px."""
    return iresnet(18, dim=dim, size=size, dropout=dropout, width=width)


def iresnet34(*, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0) -> IResNet:
    """34.1 M parameters, 4.5 GMAC at 112 px."""
    return iresnet(34, dim=dim, size=size, dropout=dropout, width=width)


def iresnet50(*, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0) -> IResNet:
    """43.6 M parameters, 6.3 GMAC at 112 px."""
    return iresnet(50, dim=dim, size=size, dropout=dropout, width=width)


def iresnet100(*, dim: int = 512, size: int = 112, dropout: float = 0.0, width: float = 1.0) -> IResNet:
    """65.2 M parameters, 12.1 GMAC at 112 px."""
    return iresnet(100, dim=dim, size=size, dropout=dropout, width=width)
