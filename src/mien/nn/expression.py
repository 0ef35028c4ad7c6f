"""Twelve classifiers of facial expressions, each as Keras has it: four of the field's own, eight made for ImageNet.

    (B, 3, size, size), prepared as `PREPARED` says -> logits (B, classes)

    alexnet, weinet, songnet, silnet      convolutions, then dense layers on the flattened map, as published
    vgg16 … efficientnetv2b0              a trunk without its top, the mean over the map, one dense layer

Each layer that learns bears the name it has in Keras (`keras`), so that published HDF5 files are read name by name
(`mien.nn.keras`), and pads as TensorFlow does: "same" with a stride adds more at the right and the bottom, which no
padding of torch's own layers does. A network is a function of numbers: `width` multiplies all channels (never below
8), `size` is the side of the input.

Sources: the first four as Gaya-Morey et al. 2024 list them; Simonyan and Zisserman 2015; He et al. 2016 (a, b);
Szegedy et al. 2016; Chollet 2017; Howard et al. 2019; Tan and Le 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EKMAN = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""The six expressions, in the order of the networks' outputs."""

SYNONYMS: Mapping[str, str] = {
    "angry": "anger", "disgusted": "disgust", "fearful": "fear", "scared": "fear", "happy": "happiness",
    "joy": "happiness", "sad": "sadness", "surprised": "surprise",
}  # fmt: skip
"""What some models and folders call the six expressions."""


def expression(name: str) -> str:
    """The usual name of an expression: lower case, "happiness" for "Happy".

    >>> expression("Happy"), expression("neutral")
    ('happiness', 'neutral')
    """
    plain = name.strip().lower()
    return SYNONYMS.get(plain, plain)


Padding = Literal["same", "valid"] | int
Act = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prepared:
    """What a network wants of values 0 … 255: ``(x - mean) / std`` in the order `colour`, at `size` px."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour: Literal["RGB", "BGR"] = "RGB"


def _even(size: int, mean: float, std: float) -> Prepared:
    return Prepared(size, (mean,) * 3, (std,) * 3)


def _imagenet(factor: float) -> Prepared:
    """ImageNet's mean and deviation of values 0 … 1, for values `factor` times as large."""
    return Prepared(
        224, (0.485 * factor, 0.456 * factor, 0.406 * factor), (0.229 * factor, 0.224 * factor, 0.225 * factor)
    )


_CAFFE = Prepared(224, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR")

PREPARED: dict[str, Prepared] = {
    "alexnet": _even(224, 0, 255), "weinet": _even(64, 0, 255), "songnet": _even(224, 0, 255),
    "silnet": _even(150, 0, 255), "vgg16": _CAFFE, "vgg19": _CAFFE, "resnet50": _CAFFE,
    "resnet101v2": _even(224, 127.5, 127.5), "inceptionv3": _even(224, 127.5, 127.5),
    "xception": _even(224, 127.5, 127.5), "mobilenetv3": _even(224, 127.5, 127.5),
    "efficientnetv2b0": _imagenet(255),
}  # fmt: skip
"""What each trunk was made for."""

PREPARED_AS_PUBLISHED: dict[str, Prepared] = {
    name: {
        # These two scale 0 … 255 themselves; the authors divide by 255 before that.
        "mobilenetv3": _even(224, 255 * 127.5, 255 * 127.5),
        "efficientnetv2b0": _imagenet(255 * 255),
    }.get(name, _even(one.size, 0, 255))
    for name, one in PREPARED.items()
}
"""What the authors gave every network: pixels through 255, whatever the trunk was made for."""


# ------------------------------------------------------------------------------------------- layers


def same(x: Tensor, kernel: tuple[int, int], stride: int, value: float = 0.0) -> Tensor:
    """`x` (B, C, H, W) with TensorFlow's "same" border: the smaller half of it left and above."""
    pads: list[int] = []
    for size, k in ((x.shape[3], kernel[1]), (x.shape[2], kernel[0])):
        whole = max((-(-size // stride) - 1) * stride + k - size, 0)
        pads += [whole // 2, whole - whole // 2]
    return F.pad(x, pads, value=value) if any(pads) else x


def max_pool(x: Tensor, size: int, stride: int, *, padding: Padding = "same") -> Tensor:
    """Largest value of windows; a "same" border never wins, one given in pixels is of zeros (Keras's ZeroPadding2D)."""
    if padding == "same":
        x = same(x, (size, size), stride, float("-inf"))
    elif padding != "valid":
        x = F.pad(x, [padding] * 4)
    return F.max_pool2d(x, size, stride)


class Conv(nn.Conv2d):
    """Convolution with Keras's name and border."""

    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, *, name: str, bias: bool = True,
        padding: Padding = "same", groups: int = 1,
    ) -> None:  # fmt: skip
        both = (kernel, kernel) if isinstance(kernel, int) else kernel
        even = padding == "same" and stride == 1 and all(side % 2 for side in both)
        plain = (both[0] // 2, both[1] // 2) if even else 0
        given = padding if isinstance(padding, int) else plain
        super().__init__(channels, out, both, stride, given, groups=groups, bias=bias)
        self.keras = name
        self.border = (both, stride) if padding == "same" and not even else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.border is None else same(x, *self.border))


class Depthwise(Conv):
    """One kernel a channel."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, name: str, bias: bool = False) -> None:
        super().__init__(channels, channels, kernel, stride, name=name, bias=bias, groups=channels)


class Separable(nn.Module):
    """One 3 x 3 kernel a channel, then 1 x 1, without bias."""

    def __init__(self, channels: int, out: int, *, name: str) -> None:
        super().__init__()
        self.keras = name
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pointwise(self.depthwise(x)))


class Norm(nn.BatchNorm2d):
    """Batch normalisation; `momentum` is Keras's, the share that stays. Without `scale`, gamma is 1."""

    def __init__(
        self, channels: int, *, name: str, eps: float = 1e-3, momentum: float = 0.99, scale: bool = True
    ) -> None:
        super().__init__(channels, eps=eps, momentum=1 - momentum)
        self.keras = name
        if not scale:
            del self.weight
            self.register_buffer("weight", torch.ones(channels), persistent=False)


class Dense(nn.Linear):
    """Linear layer; `planes` (C, H, W) where it reads a flattened map, which Keras flattens as (H, W, C)."""

    def __init__(self, features: int, out: int, *, name: str, planes: tuple[int, int, int] | None = None) -> None:
        super().__init__(features, out)
        self.keras, self.planes = name, planes


def hard_swish(x: Tensor) -> Tensor:
    return F.hardswish(x)


class Numbered:
    """Names as Keras gives them to layers without one: ``conv2d``, ``conv2d_1``, …"""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def __call__(self, kind: str) -> str:
        number = self._count.get(kind, 0)
        self._count[kind] = number + 1
        return f"{kind}_{number}" if number else kind


class Classifier(nn.Module):
    """`trunk`, then `top`: (B, 3, size, size) -> logits (B, classes).

    Parameters
    ----------
    trunk
        Gives a map.
    top
        Dense layers; of one that is not flattened, the mean over the map goes in.
    """

    def __init__(self, trunk: nn.Module, top: nn.Module, *, flat: bool = False, normal: bool = False) -> None:
        super().__init__()
        self.trunk, self.top, self.flat = trunk, top, flat
        for module in self.modules():  # Keras's first numbers
            if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
                (nn.init.xavier_normal_ if normal else nn.init.xavier_uniform_)(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        found = self.trunk(x)
        return cast(Tensor, self.top(found.flatten(1) if self.flat else found.mean((2, 3))))


def _wide(width: float) -> Callable[[float], int]:
    return lambda channels: int(channels) if width == 1 else max(8, round(channels * width))


def _top(features: int, classes: int) -> Dense:
    return Dense(features, classes, name="dense")


class _Pool(nn.Module):
    def __init__(self, size: int, stride: int, padding: Padding = "same") -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return max_pool(x, self.size, self.stride, padding=self.padding)


# ------------------------------------------------------------------------------------------- the field's own


def _plain(steps: list[tuple[int, ...] | float], width: float, size: int) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Convolutions (channels, kernel, stride), poolings (size, stride) and dropouts (share), and the map's shape."""
    wide, names, layers = _wide(width), Numbered(), list[nn.Module]()
    channels, side = 3, size
    for step in steps:
        if isinstance(step, float):
            layers.append(nn.Dropout(step))
        elif len(step) == 2:
            layers.append(_Pool(*step))
            side = -(-side // step[1])
        else:
            out = wide(step[0])
            layers += [Conv(channels, out, step[1], step[2], name=names("conv2d")), nn.ReLU(inplace=True)]
            channels, side = out, -(-side // step[2])
    return nn.Sequential(*layers), (channels, side, side)


def _flat(planes: tuple[int, int, int], hidden: list[tuple[int, float]], classes: int) -> nn.Sequential:
    names, layers = Numbered(), list[nn.Module]()
    features, first = planes[0] * planes[1] * planes[2], planes
    for wide, drop in hidden:
        layers += [Dense(features, wide, name=names("dense"), planes=first if not layers else None)]
        layers += [nn.ReLU(inplace=True), *([nn.Dropout(drop)] if drop else [])]
        features = wide
    layers.append(Dense(features, classes, name=names("dense"), planes=first if not layers else None))
    return nn.Sequential(*layers)


def alexnet(*, size: int = 224, width: float = 1.0, classes: int = 6) -> Classifier:
    """AlexNet without local normalisation and groups: 88.7 M parameters at 224 px."""
    steps: list[tuple[int, ...] | float] = [
        (96, 11, 4), (3, 2), (256, 5, 1), (3, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1), (3, 2),
    ]  # fmt: skip
    trunk, planes = _plain(steps, width, size)
    dense = _wide(width)(4096)
    return Classifier(trunk, _flat(planes, [(dense, 0.4), (dense, 0.0), (dense, 0.4)], classes), flat=True)


def weinet(*, size: int = 64, width: float = 1.0, classes: int = 6) -> Classifier:
    """WeiNet: three 7 x 7 convolutions; 1.7 M parameters at 64 px."""
    trunk, planes = _plain([(32, 7, 1), (2, 1), (32, 7, 1), (2, 1), (64, 7, 1), (2, 1)], width, size)
    return Classifier(trunk, _flat(planes, [], classes), flat=True)


def songnet(*, size: int = 224, width: float = 1.0, classes: int = 6) -> Classifier:
    """SongNet: four convolutions; 172,678 parameters at 224 px."""
    steps: list[tuple[int, ...] | float] = [
        (64, 5, 1), (3, 2), (64, 5, 1), (3, 2), (32, 3, 1), (3, 2), 0.5, (32, 3, 1), (3, 2), 0.5,
    ]  # fmt: skip
    trunk, planes = _plain(steps, width, size)
    return Classifier(trunk, _flat(planes, [], classes), flat=True)


def silnet(*, size: int = 150, width: float = 1.0, classes: int = 6) -> Classifier:
    """SilNet: five convolutions, two dense layers of 512; 184.9 M parameters at 150 px."""
    steps: list[tuple[int, ...] | float] = [
        (32, 11, 1), (2, 2), (32, 7, 1), (32, 7, 1), (2, 1), (64, 5, 1), (64, 5, 1), (2, 1),
    ]  # fmt: skip
    trunk, planes = _plain(steps, width, size)
    dense = _wide(width)(512)
    return Classifier(trunk, _flat(planes, [(dense, 0.5), (dense, 0.0)], classes), flat=True, normal=True)


# ------------------------------------------------------------------------------------------- VGG


def _vgg(depths: tuple[int, ...], width: float, classes: int) -> Classifier:
    wide, layers, channels = _wide(width), list[nn.Module](), 3
    for block, (out, depth) in enumerate(zip((64, 128, 256, 512, 512), depths, strict=True), 1):
        for number in range(1, depth + 1):
            layers += [Conv(channels, wide(out), 3, name=f"block{block}_conv{number}"), nn.ReLU(inplace=True)]
            channels = wide(out)
        layers.append(_Pool(2, 2, "valid"))
    return Classifier(nn.Sequential(*layers), _top(channels, classes))


def vgg16(*, width: float = 1.0, classes: int = 6) -> Classifier:
    """VGG16 without its top; 14.7 M parameters."""
    return _vgg((2, 2, 3, 3, 3), width, classes)


def vgg19(*, width: float = 1.0, classes: int = 6) -> Classifier:
    """VGG19 without its top; 20.0 M parameters."""
    return _vgg((2, 2, 4, 4, 4), width, classes)


# ------------------------------------------------------------------------------------------- ResNet

_RESNET_EPS = 1.001e-5


class _Bottleneck(nn.Module):
    """The first ResNet's unit, its stride in the first 1 x 1 convolution, as Keras has it."""

    def __init__(self, channels: int, inner: int, stride: int, name: str, *, project: bool) -> None:
        super().__init__()
        out = 4 * inner
        self.project = None
        if project:
            self.project = nn.Sequential(
                Conv(channels, out, 1, stride, name=f"{name}_0_conv", padding="valid"),
                Norm(out, name=f"{name}_0_bn", eps=_RESNET_EPS),
            )
        layers: list[nn.Module] = []
        for number, (have, give, kernel) in enumerate(((channels, inner, 1), (inner, inner, 3), (inner, out, 1)), 1):
            step = stride if number == 1 else 1
            layers.append(Conv(have, give, kernel, step, name=f"{name}_{number}_conv", padding=kernel // 2))
            layers.append(Norm(give, name=f"{name}_{number}_bn", eps=_RESNET_EPS))
            layers += [nn.ReLU(inplace=True)] if number < 3 else []
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu((x if self.project is None else self.project(x)) + self.body(x))


class _Preactivated(nn.Module):
    """The second ResNet's unit: normalised before, its stride in the 3 x 3 convolution."""

    def __init__(self, channels: int, inner: int, stride: int, name: str, *, project: bool) -> None:
        super().__init__()
        out = 4 * inner
        self.before = Norm(channels, name=f"{name}_preact_bn", eps=_RESNET_EPS)
        self.project = (
            Conv(channels, out, 1, stride, name=f"{name}_0_conv", padding="valid") if project else None
        )  # fmt: skip
        self.stride = stride
        self.body = nn.Sequential(
            Conv(channels, inner, 1, name=f"{name}_1_conv", bias=False),
            Norm(inner, name=f"{name}_1_bn", eps=_RESNET_EPS),
            nn.ReLU(inplace=True),
            Conv(inner, inner, 3, stride, name=f"{name}_2_conv", bias=False, padding=1),
            Norm(inner, name=f"{name}_2_bn", eps=_RESNET_EPS),
            nn.ReLU(inplace=True),
            Conv(inner, out, 1, name=f"{name}_3_conv"),
        )

    def forward(self, x: Tensor) -> Tensor:
        ready = torch.relu(self.before(x))
        if self.project is not None:
            short = self.project(ready)
        else:
            short = x if self.stride == 1 else F.max_pool2d(x, 1, self.stride)
        return cast(Tensor, short + self.body(ready))


def resnet50(*, width: float = 1.0, classes: int = 6, depths: tuple[int, ...] = (3, 4, 6, 3)) -> Classifier:
    """ResNet-50 without its top; 23.6 M parameters."""
    wide = _wide(width)
    layers: list[nn.Module] = [
        Conv(3, wide(64), 7, 2, name="conv1_conv", padding=3), Norm(wide(64), name="conv1_bn", eps=_RESNET_EPS),
        nn.ReLU(inplace=True), _Pool(3, 2, 1),
    ]  # fmt: skip
    channels = wide(64)
    for stage, depth in enumerate(depths):
        inner = wide(64 * 2**stage)
        for number in range(depth):
            stride = 2 if stage and not number else 1
            name = f"conv{stage + 2}_block{number + 1}"
            layers.append(_Bottleneck(channels, inner, stride, name, project=not number))
            channels = 4 * inner
    return Classifier(nn.Sequential(*layers), _top(channels, classes))


def resnet101v2(*, width: float = 1.0, classes: int = 6, depths: tuple[int, ...] = (3, 4, 23, 3)) -> Classifier:
    """ResNet-101 v2 without its top; 42.6 M parameters. A stage's last unit strides, and the pooled border is 0."""
    wide = _wide(width)
    layers: list[nn.Module] = [Conv(3, wide(64), 7, 2, name="conv1_conv", padding=3), _Pool(3, 2, 1)]
    channels = wide(64)
    for stage, depth in enumerate(depths):
        inner = wide(64 * 2**stage)
        for number in range(depth):
            stride = 2 if number == depth - 1 and stage < len(depths) - 1 else 1
            name = f"conv{stage + 2}_block{number + 1}"
            layers.append(_Preactivated(channels, inner, stride, name, project=not number))
            channels = 4 * inner
    layers += [Norm(channels, name="post_bn", eps=_RESNET_EPS), nn.ReLU(inplace=True)]
    return Classifier(nn.Sequential(*layers), _top(channels, classes))


# ------------------------------------------------------------------------------------------- InceptionV3


class _Branches(nn.Module):
    """Modules side by side, their maps one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class _Mean3(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def inceptionv3(*, width: float = 1.0, classes: int = 6) -> Classifier:
    """Inception-v3 without its top; 21.8 M parameters. At least 75 px."""
    wide, names = _wide(width), Numbered()

    def unit(channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, padding: Padding = "same",
             ) -> nn.Sequential:  # fmt: skip
        return nn.Sequential(
            Conv(channels, out, kernel, stride, name=names("conv2d"), bias=False, padding=padding),
            Norm(out, name=names("batch_normalization"), scale=False),
            nn.ReLU(inplace=True),
        )

    def chain(channels: int, *steps: tuple[int, int | tuple[int, int]], last: int = 1) -> nn.Sequential:
        """Units (channels, kernel); `last` is the stride of the last one, whose border is "valid" then."""
        made: list[nn.Module] = []
        for number, (out, kernel) in enumerate(steps):
            ends = number == len(steps) - 1 and last > 1
            made.append(unit(channels, wide(out), kernel, last if ends else 1, "valid" if ends else "same"))
            channels = wide(out)
        return nn.Sequential(*made)

    def pooled(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(_Mean3(), unit(channels, wide(out), 1))

    layers: list[nn.Module] = [
        unit(3, wide(32), 3, 2, "valid"), unit(wide(32), wide(32), 3, 1, "valid"), unit(wide(32), wide(64), 3),
        _Pool(3, 2, "valid"), unit(wide(64), wide(80), 1, 1, "valid"), unit(wide(80), wide(192), 3, 1, "valid"),
        _Pool(3, 2, "valid"),
    ]  # fmt: skip
    have = wide(192)
    for last in (32, 64, 64):
        layers.append(
            _Branches(
                chain(have, (64, 1)), chain(have, (48, 1), (64, 5)), chain(have, (64, 1), (96, 3), (96, 3)),
                pooled(have, last),
            )
        )  # fmt: skip
        have = wide(64) * 2 + wide(96) + wide(last)
    layers.append(
        _Branches(
            chain(have, (384, 3), last=2), chain(have, (64, 1), (96, 3), (96, 3), last=2), _Pool(3, 2, "valid")
        )
    )  # fmt: skip
    have = wide(384) + wide(96) + have
    for inner in (128, 160, 160, 192):
        layers.append(
            _Branches(
                chain(have, (192, 1)),
                chain(have, (inner, 1), (inner, (1, 7)), (192, (7, 1))),
                chain(have, (inner, 1), (inner, (7, 1)), (inner, (1, 7)), (inner, (7, 1)), (192, (1, 7))),
                pooled(have, 192),
            )
        )
        have = 4 * wide(192)
    layers.append(
        _Branches(
            chain(have, (192, 1), (320, 3), last=2),
            chain(have, (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), last=2),
            _Pool(3, 2, "valid"),
        )
    )
    have = wide(320) + wide(192) + have
    for _ in range(2):
        first = chain(have, (320, 1))
        second = chain(have, (384, 1))
        split2 = _Branches(chain(wide(384), (384, (1, 3))), chain(wide(384), (384, (3, 1))))
        third = chain(have, (448, 1), (384, 3))
        split3 = _Branches(chain(wide(384), (384, (1, 3))), chain(wide(384), (384, (3, 1))))
        layers.append(
            _Branches(first, nn.Sequential(second, split2), nn.Sequential(third, split3), pooled(have, 192))
        )  # fmt: skip
        have = wide(320) + 4 * wide(384) + wide(192)
    return Classifier(nn.Sequential(*layers), _top(have, classes))


# ------------------------------------------------------------------------------------------- Xception


class _Separables(nn.Module):
    """Separable convolutions with normalisation; pooled and projected by a 1 x 1 convolution, or added to what came."""

    def __init__(self, channels: int, outs: tuple[int, ...], block: int, names: Numbered, *, first: bool,
                 pooled: bool) -> None:  # fmt: skip
        super().__init__()
        self.short = None
        if pooled:
            self.short = nn.Sequential(
                Conv(channels, outs[-1], 1, 2, name=names("conv2d"), bias=False),
                Norm(outs[-1], name=names("batch_normalization")),
            )
        layers: list[nn.Module] = []
        for number, out in enumerate(outs, 1):
            layers += [nn.ReLU()] if first or number > 1 else []
            layers.append(Separable(channels, out, name=f"block{block}_sepconv{number}"))
            layers.append(Norm(out, name=f"block{block}_sepconv{number}_bn"))
            channels = out
        layers += [_Pool(3, 2)] if pooled else []
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x) + (x if self.short is None else self.short(x)))


def xception(*, width: float = 1.0, classes: int = 6, middle: int = 8) -> Classifier:
    """Xception without its top; 20.9 M parameters."""
    wide, names = _wide(width), Numbered()
    layers: list[nn.Module] = [
        Conv(3, wide(32), 3, 2, name="block1_conv1", bias=False, padding="valid"),
        Norm(wide(32), name="block1_conv1_bn"), nn.ReLU(inplace=True),
        Conv(wide(32), wide(64), 3, name="block1_conv2", bias=False, padding="valid"),
        Norm(wide(64), name="block1_conv2_bn"), nn.ReLU(inplace=True),
    ]  # fmt: skip
    have = wide(64)
    for block, out in ((2, 128), (3, 256), (4, 728)):
        layers.append(_Separables(have, (wide(out),) * 2, block, names, first=block > 2, pooled=True))
        have = wide(out)
    layers += [_Separables(have, (have,) * 3, block, names, first=True, pooled=False) for block in range(5, 5 + middle)]
    block = 5 + middle
    layers.append(_Separables(have, (have, wide(1024)), block, names, first=True, pooled=True))
    have = wide(1024)
    for number, out in enumerate((1536, 2048), 1):
        layers += [
            Separable(have, wide(out), name=f"block{block + 1}_sepconv{number}"),
            Norm(wide(out), name=f"block{block + 1}_sepconv{number}_bn"), nn.ReLU(inplace=True),
        ]  # fmt: skip
        have = wide(out)
    return Classifier(nn.Sequential(*layers), _top(have, classes))


# ------------------------------------------------------------------------------------------- for phones


class _Attend(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, inner: int, names: tuple[str, str], act: Act, gate: Act) -> None:
        super().__init__()
        self.reduce, self.expand = Conv(channels, inner, 1, name=names[0]), Conv(inner, channels, 1, name=names[1])
        self.act, self.gate = act, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class _Act(nn.Module):
    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class _Residual(nn.Module):
    """The body, added to what came where the shapes agree."""

    def __init__(self, body: list[nn.Module], *, add: bool) -> None:
        super().__init__()
        self.body, self.add = nn.Sequential(*body), add

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.body(x) if self.add else self.body(x))


def _depth(value: float) -> int:
    """The nearest multiple of 8, never more than a tenth below."""
    near = max(8, int(value + 4) // 8 * 8)
    return near + 8 if near < 0.9 * value else near


_MOBILE: tuple[tuple[float, int, int, int, bool, bool], ...] = (
    (1, 16, 3, 1, False, False), (4, 24, 3, 2, False, False), (3, 24, 3, 1, False, False), (3, 40, 5, 2, True, False),
    (3, 40, 5, 1, True, False), (3, 40, 5, 1, True, False), (6, 80, 3, 2, False, True), (2.5, 80, 3, 1, False, True),
    (2.3, 80, 3, 1, False, True), (2.3, 80, 3, 1, False, True), (6, 112, 3, 1, True, True),
    (6, 112, 3, 1, True, True), (6, 160, 5, 2, True, True), (6, 160, 5, 1, True, True), (6, 160, 5, 1, True, True),
)  # fmt: skip
"""Expansion, channels, kernel, stride, attention, hard swish (else ReLU)."""


def mobilenetv3(*, width: float = 1.0, classes: int = 6) -> Classifier:
    """MobileNetV3-Large without its top; 3.0 M parameters."""

    def norm(channels: int, name: str) -> Norm:
        return Norm(channels, name=f"{name}/BatchNorm", momentum=0.999)

    stem = _depth(16 * width)
    layers: list[nn.Module] = [
        Conv(3, stem, 3, 2, name="Conv", bias=False), norm(stem, "Conv"), _Act(hard_swish)
    ]  # fmt: skip
    have = stem
    for number, (expansion, out, kernel, stride, attend, swish) in enumerate(_MOBILE):
        out = _depth(out * width)
        prefix = f"expanded_conv_{number}" if number else "expanded_conv"
        act: Act = hard_swish if swish else torch.relu
        inner = _depth(have * expansion) if number else have
        body: list[nn.Module] = []
        if number:
            body += [Conv(have, inner, 1, name=f"{prefix}/expand", bias=False), norm(inner, f"{prefix}/expand")]
            body.append(_Act(act))
        body += [Depthwise(inner, kernel, stride, name=f"{prefix}/depthwise"), norm(inner, f"{prefix}/depthwise")]
        body.append(_Act(act))
        if attend:
            names = (f"{prefix}/squeeze_excite/Conv", f"{prefix}/squeeze_excite/Conv_1")
            body.append(_Attend(inner, _depth(0.25 * inner), names, torch.relu, F.hardsigmoid))
        body += [Conv(inner, out, 1, name=f"{prefix}/project", bias=False), norm(out, f"{prefix}/project")]
        layers.append(_Residual(body, add=stride == 1 and have == out))
        have = out
    last = _depth(6 * have)
    layers += [Conv(have, last, 1, name="Conv_1", bias=False), norm(last, "Conv_1"), _Act(hard_swish)]
    return Classifier(nn.Sequential(*layers), _top(last, classes))


_EFFICIENT: tuple[tuple[int, int, int, bool], ...] = (
    (16, 1, 1, True), (32, 4, 2, True), (48, 4, 2, True), (96, 4, 2, False), (112, 6, 1, False), (192, 6, 2, False),
)  # fmt: skip
"""Channels, expansion, stride, fused."""


def efficientnetv2b0(
    *, width: float = 1.0, classes: int = 6, repeats: tuple[int, ...] = (1, 2, 2, 3, 5, 8)
) -> Classifier:
    """EfficientNetV2-B0 without its top; 5.9 M parameters."""

    def norm(channels: int, name: str) -> Norm:
        return Norm(channels, name=name, momentum=0.9)

    wide = _wide(width)
    layers: list[nn.Module] = [
        Conv(3, wide(32), 3, 2, name="stem_conv", bias=False), norm(wide(32), "stem_bn"), nn.SiLU()
    ]  # fmt: skip
    have = wide(32)
    for stage, (channels, expansion, first_stride, fused) in enumerate(_EFFICIENT):
        for number in range(repeats[stage]):
            stride, out = (first_stride if not number else 1), wide(channels)
            name, inner = f"block{stage + 1}{chr(ord('a') + number)}_", have * expansion
            body: list[nn.Module] = []
            if fused and expansion > 1:
                body += [Conv(have, inner, 3, stride, name=f"{name}expand_conv", bias=False)]
                body += [norm(inner, f"{name}expand_bn"), nn.SiLU()]
                body += [Conv(inner, out, 1, name=f"{name}project_conv", bias=False), norm(out, f"{name}project_bn")]
            elif fused:
                body += [Conv(have, out, 3, stride, name=f"{name}project_conv", bias=False)]
                body += [norm(out, f"{name}project_bn"), nn.SiLU()]
            else:
                body += [Conv(have, inner, 1, name=f"{name}expand_conv", bias=False), norm(inner, f"{name}expand_bn")]
                body += [nn.SiLU(), Depthwise(inner, 3, stride, name=f"{name}dwconv2"), norm(inner, f"{name}bn")]
                names = (f"{name}se_reduce", f"{name}se_expand")
                body += [nn.SiLU(), _Attend(inner, max(1, have // 4), names, F.silu, torch.sigmoid)]
                body += [Conv(inner, out, 1, name=f"{name}project_conv", bias=False), norm(out, f"{name}project_bn")]
            layers.append(_Residual(body, add=stride == 1 and have == out))
            have = out
    last = wide(1280)
    layers += [Conv(have, last, 1, name="top_conv", bias=False), norm(last, "top_bn"), nn.SiLU()]
    return Classifier(nn.Sequential(*layers), _top(last, classes))


CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "songnet": songnet, "alexnet": alexnet, "weinet": weinet, "silnet": silnet, "vgg16": vgg16, "vgg19": vgg19,
    "resnet50": resnet50, "resnet101v2": resnet101v2, "inceptionv3": inceptionv3, "xception": xception,
    "mobilenetv3": mobilenetv3, "efficientnetv2b0": efficientnetv2b0,
}  # fmt: skip
"""Builder of each network, by name."""

PRETRAINED = tuple(name for name in CLASSIFIERS if name not in ("songnet", "alexnet", "weinet", "silnet"))
"""Those whose trunks were made for ImageNet."""
