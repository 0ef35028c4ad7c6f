"""FaceXFormer's network: one crop in, the answers to many questions out (Narayan et al., 2024, section 3).

    (B, 3, S, S) -> encoder: maps at S/4, S/8, S/16, S/32 -> fusion: one map of `dim` channels at S/4, the face tokens
    learned task tokens <-> face tokens in a two-way transformer -> one multilayer perceptron a task; masks at S

Every task is a learned token. Tokens read from the face tokens and the face tokens read from them, two blocks long;
parsing has a token for each class, which becomes the class's filter on the face map.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import MissingExtra, OptionError, ShapeError
from mien.nn.blocks import ResidualBlock, conv_bn_act

OUTPUTS: Mapping[str, int] = {
    "landmarks": 136, "pose": 3, "attributes": 40, "visibility": 29, "age": 8, "gender": 2, "race": 5,
}  # fmt: skip
"""Tasks with one token each, in the order of the tokens, and how many numbers each answers."""
MASKS = 11
"""Classes of the parsing, each with a token behind those of `OUTPUTS`."""
PARSING = "parsing"

SWINS: Mapping[str, Mapping[str, Any]] = {
    "swin_t": {"embed_dim": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "swin_s": {"embed_dim": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
    "swin_b": {"embed_dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5},
}
"""Liu et al., Swin Transformer (ICCV 2021); shares of dropped paths as in torchvision."""


# ------------------------------------------------------------------------------------------- encoders


class SwinEncoder(nn.Module):
    """A Swin transformer's maps: (B, 3, S, S) -> four of (B, C, S / 4 … S / 32, …), taken before each patch merging.

    Its classifier and last normalisation are left out, since nothing is read behind them.

    Parameters
    ----------
    embed_dim, depths, heads
        Channels of the first stage, blocks and heads of each; channels double from stage to stage.
    window
        Side of the windows, in patches of 4 px.
    drop_path
        Largest share of residual branches that are left out in training.
    """

    def __init__(
        self, *, embed_dim: int, depths: Sequence[int], heads: Sequence[int], window: int = 7, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        from torchvision.models import SwinTransformer

        whole = SwinTransformer(
            patch_size=[4, 4], embed_dim=embed_dim, depths=list(depths), num_heads=list(heads),
            window_size=[window, window], stochastic_depth_prob=drop_path, num_classes=1,
        )  # fmt: skip
        self.features = whole.features
        self.widths = tuple(embed_dim * 2**stage for stage in range(len(depths)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for number, part in enumerate(self.features):  # 0 cuts patches, odd ones are stages, even ones merge patches
            x = part(x)
            if number % 2:
                maps.append(x.permute(0, 3, 1, 2))
        return maps


class ConvEncoder(nn.Module):
    """Four residual stages with batch normalisation: (B, 3, S, S) -> maps at S / 4, S / 8, S / 16 and S / 32.

    Small and quick; for experiments on a processor.
    """

    def __init__(self, *, widths: Sequence[int] = (32, 64, 128, 256), depths: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        stages: list[nn.Module] = []
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            first = conv_bn_act(3, width, 7, 4) if not number else conv_bn_act(widths[number - 1], width, 3, 2)
            stages.append(nn.Sequential(first, *(ResidualBlock(width) for _ in range(depth))))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class TimmEncoder(nn.Module):
    """The last four maps of any of timm's backbones that gives maps, untrained: the paper's ablation has a MobileNet, a
    ResNet and a ConvNeXt."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError:
            raise MissingExtra("timm", extra="backbones") from None

        if not timm.is_model(name):
            raise OptionError("timm has no such backbone", got=name, expected="a name of timm.list_models()")
        body: Any = timm.create_model(name, pretrained=False, features_only=True)
        self.widths = tuple(int(width) for width in body.feature_info.channels()[-4:])
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(x)
        return maps[-4:]


def encoder(name: str, **options: Any) -> SwinEncoder | ConvEncoder | TimmEncoder:
    """The encoder of that name: "swin" with all its numbers, one of `SWINS`, "conv", or "timm:NAME".

    Raises
    ------
    OptionError
        There is no such encoder, or it does not take such options.
    """
    try:
        if name == "swin" or name in SWINS:
            return SwinEncoder(**{**SWINS.get(name, {}), **options})
        if name == "conv":
            return ConvEncoder(**options)
        if name.startswith("timm:"):
            return TimmEncoder(name.removeprefix("timm:"), **options)
    except TypeError as error:
        raise OptionError("the encoder does not take these options", got=error, expected=name) from error
    raise OptionError.unknown("unknown encoder", name, ("swin", *SWINS, "conv", "timm:NAME"))


# ------------------------------------------------------------------------------------------- fusion


class Fusion(nn.Module):
    """Maps of several scales -> one of `dim` channels at the finest scale's size, after SegFormer's decoder.

    Each goes through a linear layer and is enlarged bilinearly; side by side, the deepest first, they go through a
    convolution of one pixel without bias. There is neither normalisation nor activation.

    Parameters
    ----------
    widths
        Channels of the maps, finest first.
    dim
        Channels of the result.
    scales
        How many maps take part, counted from the deepest.
    """

    def __init__(self, widths: Sequence[int], *, dim: int, scales: int) -> None:
        super().__init__()
        if not 1 <= scales <= len(widths):
            raise OptionError("there are not so many scales", got=scales, expected=f"1 to {len(widths)}")
        self.scales = nn.ModuleList(nn.Linear(width, dim) for width in widths[-scales:])
        self.join = nn.Conv2d(scales * dim, dim, 1, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        some = []
        for linear, one in zip(self.scales, maps[-len(self.scales) :], strict=True):
            thin = linear(one.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            same = one.shape[2:] == size
            some.append(thin if same else F.interpolate(thin, size=size, mode="bilinear", align_corners=False))
        return cast(Tensor, self.join(torch.cat(some[::-1], 1)))


class PositionCode(nn.Module):
    """Random Fourier features of pixel places: (H, W) -> (H * W, dim) (Tancik et al., 2020, as in Segment Anything).

    The matrix is drawn once and belongs to the weights: another one is another network.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix: Tensor
        self.register_buffer("matrix", torch.randn(2, dim // 2))

    def forward(self, height: int, width: int) -> Tensor:
        rows, columns = torch.arange(height).to(self.matrix), torch.arange(width).to(self.matrix)
        y, x = (rows + 0.5) / height * 2 - 1, (columns + 0.5) / width * 2 - 1
        places = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], -1)
        turned = 2 * math.pi * (places.reshape(-1, 2) @ self.matrix)
        return torch.cat([turned.sin(), turned.cos()], 1)


# ------------------------------------------------------------------------------------------- decoder


class Attention(nn.Module):
    """Attention with several heads over `inner` channels: q (B, n, dim), k and v (B, m, dim) -> (B, n, dim)."""

    def __init__(self, dim: int, *, heads: int, inner: int) -> None:
        super().__init__()
        if inner % heads:
            raise OptionError("the heads cannot share the channels", got=f"{inner} channels, {heads} heads")
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(self._split(self.q(q)), self._split(self.k(k)), self._split(self.v(v)))
        return cast(Tensor, self.out(found.transpose(1, 2).flatten(2)))


class TwoWayBlock(nn.Module):
    """Task tokens among themselves, from the face, through a perceptron; then the face from the task tokens.

    Tokens and face (B, t, dim), (B, f, dim) -> the same. Queries and keys get the codes of their places: for tokens
    these are the tokens as they were learned, `tokens0`.

    Parameters
    ----------
    dim, heads, hidden
        Channels, attention heads, and hidden numbers of the perceptron.
    reduce
        By how much cross-attention narrows its channels.
    first
        The first block's self-attention has neither codes nor a residual around it (a quirk of Segment Anything).
    two_way
        Without it the face tokens stay as they are.
    """

    def __init__(
        self, dim: int, *, heads: int, hidden: int, reduce: int = 2, first: bool = False, two_way: bool = True
    ) -> None:
        super().__init__()
        self.first = first
        self.itself = Attention(dim, heads=heads, inner=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.from_face = Attention(dim, heads=heads, inner=dim // reduce)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.from_tokens = Attention(dim, heads=heads, inner=dim // reduce) if two_way else None
        self.norm4 = nn.LayerNorm(dim) if two_way else None

    def forward(self, tokens: Tensor, face: Tensor, tokens0: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.itself(tokens, tokens, tokens)
        else:
            coded = tokens + tokens0
            tokens = tokens + self.itself(coded, coded, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.from_face(tokens + tokens0, face + code, face))
        tokens = self.norm3(tokens + self.mlp(tokens))
        if self.from_tokens is not None and self.norm4 is not None:
            face = self.norm4(face + self.from_tokens(face + code, tokens + tokens0, tokens))
        return tokens, face


class Decoder(nn.Module):
    """The FaceX decoder and its unified head: face (B, f, dim), code (f, dim) -> tokens (B, t, dim), face (B, f, dim).

    Parameters
    ----------
    tokens
        How many there are.
    dim, heads, hidden, reduce, two_way
        As in `TwoWayBlock`.
    depth
        Blocks.
    """

    def __init__(
        self, tokens: int, *, dim: int, heads: int, hidden: int, depth: int, reduce: int = 2, two_way: bool = True
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, dim))
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, heads=heads, hidden=hidden, reduce=reduce, first=not number, two_way=two_way)
            for number in range(depth)
        )
        self.last = Attention(dim, heads=heads, inner=dim // reduce)
        self.norm = nn.LayerNorm(dim)

    def forward(self, face: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        tokens0 = self.tokens.expand(face.shape[0], -1, -1)
        tokens = tokens0
        for block in self.blocks:
            tokens, face = block(tokens, face, tokens0, code)
        tokens = self.norm(tokens + self.last(tokens + tokens0, face + code, face))
        return tokens, face


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W), with the epsilon of the parsing head."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


def perceptron(dim: int, out: int) -> nn.Sequential:
    """Three linear layers with ReLU between: (B, dim) -> (B, out)."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out))


class MaskHead(nn.Module):
    """Tokens of classes (B, c, dim) and the face map (B, dim, H, W) -> logits (B, c, 4 H, 4 W).

    The map is enlarged twice by transposed convolutions; one perceptron, the same for all classes, makes of each token
    the filter that its class is found with.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        fine = dim // 8
        self.up = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, 2), LayerNorm2d(dim // 4), nn.GELU(),
            nn.ConvTranspose2d(dim // 4, fine, 2, 2), nn.GELU(),
        )  # fmt: skip
        self.filters = perceptron(dim, fine)

    def forward(self, tokens: Tensor, face: Tensor) -> Tensor:
        fine = self.up(face)
        found: Tensor = self.filters(tokens) @ fine.flatten(2)
        return found.reshape(found.shape[0], found.shape[1], fine.shape[2], fine.shape[3])


class FaceXFormer(nn.Module):
    """All tasks of a face crop: (B, 3, S, S) -> dict of (B, k) by task, and "parsing" (B, masks, S, S).

    Landmarks are x and y in turn, from -1 to 1 over the crop (`pixels`); pose is pitch, yaw and roll in radians, with
    the signs of 300W-LP; all else are logits.

    Parameters
    ----------
    backbone, options
        Name of the encoder and its options, see `encoder`.
    size
        Side of the input in pixels, a multiple of 4.
    dim, heads, hidden, depth, reduce
        Of the decoder, see `Decoder`.
    outputs
        Numbers of each task, in the order of the tokens.
    masks
        Classes of the parsing; 0 leaves it out.
    scales
        How many scales are fused, counted from the deepest.
    two_way
        Whether face tokens read from task tokens.
    """

    def __init__(
        self, *, backbone: str = "swin_b", options: Mapping[str, Any] | None = None, size: int = 224, dim: int = 256,
        heads: int = 8, hidden: int = 2048, depth: int = 2, reduce: int = 2, outputs: Mapping[str, int] = OUTPUTS,
        masks: int = MASKS, scales: int = 4, two_way: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if size < 32 or size % 4 or dim % 8:
            raise OptionError("the network cannot have these sizes", got=f"size {size}, dim {dim}",
                              expected="a size from 32 in steps of 4, a dim in steps of 8")  # fmt: skip
        if masks < 0 or (not outputs and not masks):
            raise OptionError("the network has nothing to answer", got=f"outputs {dict(outputs)}, masks {masks}")
        self.size, self.outputs = size, dict(outputs)
        self.encoder = encoder(backbone, **(options or {}))
        self.fusion = Fusion(self.encoder.widths, dim=dim, scales=scales)
        self.position = PositionCode(dim)
        self.decoder = Decoder(
            len(outputs) + masks, dim=dim, heads=heads, hidden=hidden, depth=depth, reduce=reduce, two_way=two_way
        )
        self.heads = nn.ModuleDict({name: perceptron(dim, count) for name, count in outputs.items()})
        self.masks = MaskHead(dim) if masks else None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all that `forward` answers."""
        return (*self.outputs, *((PARSING,) if self.masks is not None else ()))

    def encode(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps of the encoder, and the fused one (B, dim, S / 4, S / 4)."""
        maps = self.encoder(images)
        return maps, self.fusion(maps)

    def decode(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Task tokens (B, t, dim) and face tokens (B, f, dim) of a fused map."""
        code = self.position(*fused.shape[2:])
        tokens, face = self.decoder(fused.flatten(2).transpose(1, 2), code)
        return tokens, face

    def forward(self, images: Tensor, only: Collection[str] | None = None) -> dict[str, Tensor]:
        """Answers by task; `only` names those that are computed (the masks cost most behind the encoder)."""
        if images.ndim != 4 or images.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "the network wants square crops", got=tuple(images.shape), expected=f"(B, 3, {self.size}, {self.size})"
            )
        if only is not None and (unknown := set(only) - set(self.tasks)):
            raise OptionError("the network does not answer that", got=sorted(unknown), expected=list(self.tasks))
        _, fused = self.encode(images)
        tokens, face = self.decode(fused)
        found = {
            name: head(tokens[:, number])
            for number, (name, head) in enumerate(self.heads.items())
            if only is None or name in only
        }
        if self.masks is not None and (only is None or PARSING in only):
            found[PARSING] = self.masks(tokens[:, len(self.heads) :], face.transpose(1, 2).reshape(fused.shape))
        return found


def pixels(landmarks: Tensor, size: int) -> Tensor:
    """(B, 2 k) from -1 to 1 -> (B, k, 2) pixels of a crop of side `size`: ``((p + 1) size - 1) / 2``."""
    return ((landmarks.reshape(landmarks.shape[0], landmarks.shape[1] // 2, 2) + 1) * size - 1) / 2


def unit_points(points: Tensor, size: int) -> Tensor:
    """The inverse of `pixels`: (B, k, 2) -> (B, 2 k); what lies outside of the crop lies outside of -1 to 1."""
    return ((2 * points + 1) / size - 1).flatten(1)
