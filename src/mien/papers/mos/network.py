"""The network: a light backbone, a pyramid with deformable convolutions, context, and six cross-stitched branches.

(B, 3, H, W) blue, green, red, minus (104, 117, 123); any H, W
  -> backbone at strides 8, 16, 32 -> pyramid -> context -> stitched branches -> heads
  -> Raw: box (B, A, 4), classes (B, A, 2), landmarks (B, A, 10), yaw, pitch, roll (B, A, 66)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.multibox import BINS, SIZES, STRIDES, Raw, anchors

BODIES: dict[str, dict[str, tuple[int, ...]]] = {
    "shufflenet": {"repeats": (4, 8, 4), "channels": (24, 116, 232, 464, 1024)},
    "mobilenet": {"channels": (32, 96, 320)},
}
BRANCHES = ("box", "class", "landmarks", "yaw", "pitch", "roll")
_OUTPUTS = {"box": 4, "class": 2, "landmarks": 10}

Body = Literal["shufflenet", "mobilenet"]


# ------------------------------------------------------------------------------------------- bricks


class DeformableConv(nn.Conv2d):
    """Modulated deformable 3 x 3 convolution (DCNv2: Zhu et al., 2019): (B, in, H, W) -> (B, out, H, W).

    A plain convolution that starts at zero tells nine offsets (dy, dx) and nine logits of a mask for every place, so
    that training starts at half of the plain convolution. `deformable=False` is the plain one.
    """

    def __init__(self, channels_in: int, channels_out: int, *, deformable: bool = True) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.offset: nn.Conv2d | None = None
        if deformable:
            self.offset = nn.Conv2d(channels_in, 27, 3, padding=1)
            nn.init.zeros_(self.offset.weight)
            assert self.offset.bias is not None
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.offset is None:
            return super().forward(x)
        from torchvision.ops import deform_conv2d

        told = self.offset(x)
        assert self.bias is not None
        # Under mixed precision the offsets come in bfloat16, for which there is no kernel everywhere.
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = deform_conv2d(
                x.float() if x.dtype == torch.bfloat16 else x,
                told[:, :18].to(self.weight.dtype),
                self.weight,
                self.bias,
                padding=1,
                mask=told[:, 18:].sigmoid().to(self.weight.dtype),
            )
        return out


def _deformable(channels_in: int, channels_out: int, *, act: bool = True, deformable: bool = True) -> nn.Sequential:
    layers = [DeformableConv(channels_in, channels_out, deformable=deformable), nn.BatchNorm2d(channels_out)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Context(nn.Module):
    """SSH's context module (Najibi et al., 2017): fields of 3, 5 and 7 cells side by side; (B, C, H, W) -> the same."""

    def __init__(self, channels: int, *, deformable: bool = True) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4

        def conv(i: int, o: int, *, act: bool) -> nn.Sequential:
            return _deformable(i, o, act=act, deformable=deformable)

        self.near = conv(channels, half, act=False)
        self.shared = conv(channels, quarter, act=True)
        self.middle = conv(quarter, quarter, act=False)
        self.between = conv(quarter, quarter, act=True)
        self.far = conv(quarter, quarter, act=False)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        return torch.relu(torch.cat([self.near(x), self.middle(shared), self.far(self.between(shared))], 1))


class Stitched(nn.Module):
    """Six linear branches and the cross-stitch unit that mixes them: (B, C, H, W) -> (B, 6 C, H, W).

    Branch j is a 1 x 1 convolution; branch i leaves as the sum of `mix[i, j]` (C,) times branch j, which starts at 0.9
    for itself and 0.1 for the others (Misra et al., 2016, with a number for each channel). Both are linear, so they are
    multiplied out first, and one convolution does the work; `stitched=False` has the branches alone.
    """

    def __init__(self, channels: int, *, stitched: bool = True) -> None:
        super().__init__()
        count = len(BRANCHES)
        plain = nn.Conv2d(channels, count * channels, 1)
        assert plain.bias is not None
        self.weight: Tensor = nn.Parameter(plain.weight.data.view(count, channels, channels))
        self.bias: Tensor = nn.Parameter(plain.bias.data.view(count, channels))
        self.mix: nn.Parameter | None = None
        if stitched:
            start = torch.full((count, count), 0.1) + 0.8 * torch.eye(count)
            self.mix = nn.Parameter(start[..., None].repeat(1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.mix is not None:
            weight = torch.einsum("ijc,jcd->icd", self.mix, weight)
            bias = torch.einsum("ijc,jc->ic", self.mix, bias)
        return F.conv2d(x, weight.flatten(0, 1)[..., None, None], bias.flatten())


class Heads(nn.Module):
    """Outputs of one stride: (B, 6 C, H, W) -> box, class, landmarks, yaw, pitch, roll, each (B, H W sizes, k)."""

    def __init__(self, channels: int, *, sizes: int = 2, pose: int = 128) -> None:
        super().__init__()
        self.channels, self.sizes = channels, sizes
        self.out = nn.ModuleDict({name: nn.Conv2d(channels, sizes * k, 1) for name, k in _OUTPUTS.items()})
        # The three angles side by side: one grouped convolution instead of three.
        self.pose = nn.Sequential(
            nn.Conv2d(3 * channels, 3 * pose, 3, padding=1, groups=3, bias=False),
            nn.BatchNorm2d(3 * pose),
            nn.ReLU(inplace=True),
            nn.Conv2d(3 * pose, 3 * sizes * BINS, 1, groups=3),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        plain = [
            head(part) for head, part in zip(self.out.values(), x[:, : 3 * self.channels].chunk(3, 1), strict=True)
        ]
        angles = self.pose(x[:, 3 * self.channels :]).chunk(3, 1)
        return [made.permute(0, 2, 3, 1).reshape(len(x), -1, made.shape[1] // self.sizes) for made in (*plain, *angles)]


# ------------------------------------------------------------------------------------------- the network


class ShuffleBody(nn.Module):
    """Stages 2 to 4 of ShuffleNetV2 (Ma et al., 2018); `pooled=False` leaves out the pooling: half of the strides."""

    def __init__(self, repeats: tuple[int, ...], channels: tuple[int, ...], *, pooled: bool = True) -> None:
        from torchvision.models import ShuffleNetV2

        super().__init__()
        made = ShuffleNetV2(list(repeats), list(channels), num_classes=1)
        self.conv1, self.maxpool = made.conv1, made.maxpool if pooled else nn.Identity()
        self.stage2, self.stage3, self.stage4 = made.stage2, made.stage3, made.stage4
        self.channels = channels[1:4]

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [self.stage2(self.maxpool(self.conv1(x)))]
        for stage in (self.stage3, self.stage4):
            levels.append(stage(levels[-1]))
        return levels


class MobileBody(nn.Module):
    """MobileNetV2 (Sandler et al., 2018) up to strides 8, 16 and 32, without its last convolution."""

    CUTS = (0, 7, 14, 18)

    def __init__(self, *, width: float = 1.0) -> None:
        from torchvision.models import MobileNetV2

        super().__init__()
        layers = list(MobileNetV2(num_classes=1, width_mult=width).features)
        self.blocks = nn.ModuleList(
            nn.Sequential(*layers[a:b]) for a, b in zip(self.CUTS[:-1], self.CUTS[1:], strict=True)
        )
        with torch.no_grad():
            probe = [layer.shape[1] for layer in _last_channels(self.blocks)]
        self.channels = tuple(probe)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        return levels


def _last_channels(blocks: nn.ModuleList) -> list[Tensor]:
    """A tensor (1, channels) for the last normalisation of each block, which tells how many channels leave it."""
    last = []
    for block in blocks:
        norms = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
        last.append(norms[-1].weight[None])
    return last


class MOS(nn.Module):
    """Detection, five landmarks and head pose in one pass: (B, 3, H, W) -> `mien.nn.multibox.Raw`.

    Parameters
    ----------
    body
        "shufflenet" (MOS-S) or "mobilenet" (MOS-M).
    repeats, widths
        Blocks and channels of ShuffleNetV2.
    width
        Factor of MobileNetV2's channels.
    channels
        Of pyramid, context and branches, a multiple of 4.
    pose
        Channels in front of the 66 bins of each angle.
    deformable, stitched
        Deformable convolutions, or plain ones; cross-stitch units, or branches alone.
    strides, sizes
        Of the anchors. Strides 4, 8, 16 leave out ShuffleNetV2's pooling.
    """

    def __init__(
        self,
        *,
        body: Body = "shufflenet",
        repeats: tuple[int, ...] = BODIES["shufflenet"]["repeats"],
        widths: tuple[int, ...] = BODIES["shufflenet"]["channels"],
        width: float = 1.0,
        channels: int = 64,
        pose: int = 128,
        deformable: bool = True,
        stitched: bool = True,
        strides: tuple[int, ...] = STRIDES,
        sizes: tuple[tuple[float, ...], ...] = SIZES,
    ) -> None:
        super().__init__()
        if body not in BODIES:
            raise OptionError.unknown("unknown body", body, BODIES)
        strides, sizes = tuple(strides), tuple(tuple(side) for side in sizes)
        if strides not in (STRIDES, (4, 8, 16)) or (strides[0] == 4 and body != "shufflenet"):
            raise OptionError("the body has no such strides", got=strides, expected="8, 16, 32; shufflenet 4, 8, 16")
        if len(sizes) != 3 or len({len(side) for side in sizes}) != 1:
            raise OptionError("sizes of anchors", got=sizes, expected="for each of three strides equally many")
        if channels % 4 or channels < 4:
            raise OptionError("channels of the context module are cut in four", got=channels, expected="4, 8, 12 …")
        self.strides, self.sizes = strides, sizes
        self.body: ShuffleBody | MobileBody = (
            ShuffleBody(tuple(repeats), tuple(widths), pooled=strides[0] == 8)
            if body == "shufflenet"
            else MobileBody(width=width)
        )
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.LeakyReLU(0.1, inplace=True)
            )
            for wide in self.body.channels
        )
        self.merge = nn.ModuleList(_deformable(channels, channels, deformable=deformable) for _ in range(2))
        self.context = nn.ModuleList(Context(channels, deformable=deformable) for _ in range(3))
        self.stitch = nn.ModuleList(Stitched(channels, stitched=stitched) for _ in range(3))
        self.heads = nn.ModuleList(Heads(channels, sizes=len(sizes[0]), pose=pose) for _ in range(3))

    def levels(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Of the three strides: the backbone's, the pyramid's, and the context modules' maps."""
        bodies = self.body(x)
        pyramid = [lateral(level) for lateral, level in zip(self.lateral, bodies, strict=True)]
        for fine in (1, 0):
            up = F.interpolate(pyramid[fine + 1], size=pyramid[fine].shape[2:], mode="nearest")
            pyramid[fine] = self.merge[fine](pyramid[fine] + up)
        return bodies, pyramid, [context(level) for context, level in zip(self.context, pyramid, strict=True)]

    def forward(self, x: Tensor) -> Raw:
        _, _, contexts = self.levels(x)
        made = [heads(stitch(level)) for heads, stitch, level in zip(self.heads, self.stitch, contexts, strict=True)]
        return Raw(*(torch.cat(parts, 1) for parts in zip(*made, strict=True)))

    def anchors(self, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
        """Anchors (A, 4) of pictures of that size, see `mien.nn.multibox.anchors`."""
        return anchors(height, width, strides=self.strides, sizes=self.sizes, device=device)

    def fill_body(self, state: Mapping[str, Tensor]) -> None:
        """Fills the backbone from torchvision's state dict of the classifier (`shufflenet_v2_x1_0`, `mobilenet_v2`).

        The last convolution and the classifier, which a detector has not, are left aside; nothing else is.

        Raises
        ------
        CheckpointError
            Something is missing, unknown or of another shape.
        """
        dropped: tuple[str, ...]
        if isinstance(self.body, ShuffleBody):
            dropped = ("conv5.", "fc.")
            named = {k: v for k, v in state.items() if not k.startswith(dropped)}
        else:
            dropped = ("features.18.", "classifier.")
            named = {}
            for key, value in state.items():
                if key.startswith(dropped):
                    continue
                head, _, rest = key.partition(".")
                number, _, rest = rest.partition(".")
                if head != "features" or not number.isdigit():
                    named[key] = value
                    continue
                block = sum(int(number) >= cut for cut in MobileBody.CUTS[1:])
                named[f"blocks.{block}.{int(number) - MobileBody.CUTS[block]}.{rest}"] = value
        try:
            self.body.load_state_dict(named, strict=True)
        except RuntimeError as error:
            raise CheckpointError(
                "the file is not of this backbone", got=str(error).splitlines()[-1].strip(),
                expected="torchvision's state dict of shufflenet_v2_x1_0 or mobilenet_v2",
            ) from error  # fmt: skip


# ------------------------------------------------------------------------------------------- builders


def mos_s(
    *,
    repeats: tuple[int, ...] = BODIES["shufflenet"]["repeats"],
    widths: tuple[int, ...] = BODIES["shufflenet"]["channels"],
    channels: int = 64,
    pose: int = 128,
    deformable: bool = True,
    stitched: bool = True,
    strides: tuple[int, ...] = STRIDES,
    sizes: tuple[tuple[float, ...], ...] = SIZES,
) -> MOS:
    """MOS-S on ShuffleNetV2 1.0: 2.15 M parameters."""
    return MOS(
        body="shufflenet", repeats=repeats, widths=widths, channels=channels, pose=pose, deformable=deformable,
        stitched=stitched, strides=strides, sizes=sizes,
    )  # fmt: skip


def mos_m(
    *, width: float = 1.0, channels: int = 64, pose: int = 128, deformable: bool = True, stitched: bool = True
) -> MOS:
    """MOS-M on MobileNetV2 1.0: 3.16 M parameters."""
    return MOS(body="mobilenet", width=width, channels=channels, pose=pose, deformable=deformable, stitched=stitched)
