"""The networks: a Swin transformer and a plain vision transformer that end in one vector for a face, and adapters.

Both are built plain or with adapters: ``adapters="twin"`` puts two low-rank branches, mixed by alpha, beside every
projection to queries, keys and values, and one beside the final layer; "single" puts one beside each projection and
leaves the final layer plain, as the authors' `swin_256new` does; "everywhere" puts one beside all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from mien.errors import OptionError, ShapeError
from mien.nn.iqa import Quality, QualityWeight, build_quality, usual_gain
from mien.nn.iresnet import iresnet
from mien.nn.lora import Blended, adapt
from mien.nn.lora import adapters as adapters_of
from mien.nn.swin import Mlp, PatchEmbedding, PatchMerging, WindowAttention, linear, shift_mask, stages, start

__all__ = [
    "BACKBONES",
    "CONVOLUTIONS",
    "FINAL",
    "PROJECTIONS",
    "Adapters",
    "FaceSwin",
    "FaceViT",
    "PatchMerging",
    "WindowAttention",
    "iresnet_iqa",
    "iresnet_lora",
    "quality_aware",
    "shift_mask",
    "swin_256new",
    "swin_256new_iqa",
    "vit_b",
    "vit_b_iqa",
]

Adapters = Literal["none", "twin", "single", "everywhere"]

PROJECTIONS = r"(.*\.)?blocks\.\d+\.attn\.qkv"
"""Names of the projections to queries, keys and values, of both transformers."""
CONVOLUTIONS = r"layer\d\.\d+\.conv\d"
"""Names of the convolutions of a residual network that are adapted."""
FINAL = r"feature_layer\.\d+"
"""Names of the layers that make the embedding; only linear ones are adapted."""


# ------------------------------------------------------------------------------------------- Swin


class FaceSwin(nn.Module):
    """A Swin transformer whose last map, flattened, becomes the embedding: (B, 3, size, size) -> (B, dim).

    Parameters
    ----------
    size, patch
        Sides of picture and patch, px.
    embed_dim, depths, heads
        Width of the first stage, which each following one doubles; blocks and heads of each stage.
    window
        Side of the windows, tokens. Windows of odd blocks are shifted by its half, except where one fills the map.
    mlp, drop_path, dropout
        Hidden width of MLPs in widths; stochastic depth of the last block, rising from 0; dropout before the final
        layer.
    dim
        Length of the embedding, which is not normalised.
    masked_shift
        Whether shifted windows are masked. The released weights were trained without.

    Raises
    ------
    OptionError
        The map of a stage cannot be cut into windows.
    """

    def __init__(
        self, *, size: int = 120, patch: int = 6, embed_dim: int = 384, depths: Sequence[int] = (2, 18, 2),
        heads: Sequence[int] = (8, 16, 16), window: int = 5, mlp: float = 4.0, drop_path: float = 0.05,
        dropout: float = 0.25, dim: int = 512, masked_shift: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        count, side = len(depths), size // patch
        if size % patch or side % (window * 2 ** (count - 1)) or len(heads) != count:
            raise OptionError(
                "the map of a stage cannot be cut into windows",
                got=f"{size} px in patches of {patch}, windows of {window}, {count} stages",
                expected="size / patch a multiple of window * 2^(stages - 1)",
            )
        self.size = size
        self.patch_embed = PatchEmbedding(patch, embed_dim)
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, side**2, embed_dim))
        nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.layers, side, width = stages(
            side, embed_dim=embed_dim, depths=depths, heads=heads, window=window, mlp=mlp, drop_path=drop_path,
            masked=masked_shift,
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        flat = side**2 * width
        self.feature_layer = nn.Sequential(
            nn.BatchNorm1d(flat), nn.Dropout(dropout), linear(flat, dim), nn.BatchNorm1d(dim)
        )
        start(self)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "not the network's input", got=tuple(images.shape), expected=f"(B, 3, {self.size}, {self.size})"
            )
        x = self.patch_embed(images) + self.absolute_pos_embed
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, self.feature_layer(self.norm(x).flatten(1)))


# ------------------------------------------------------------------------------------------- ViT


class Attention(nn.Module):
    """Self-attention of all tokens: (B, n, dim) -> (B, n, dim)."""

    def __init__(self, dim: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = linear(dim, 3 * dim, bias=bias), linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        shape = (batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim)))


class ViTBlock(nn.Module):
    """Attention and an MLP, each after a layer normalisation and added to what came in."""

    def __init__(self, dim: int, heads: int, *, mlp: float, drop_path: float, bias: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, bias=bias)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, int(dim * mlp), nn.ReLU6)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


class FaceViT(nn.Module):
    """A vision transformer whose tokens, flattened, become the embedding: (B, 3, size, size) -> (B, embedding).

    Parameters
    ----------
    size, patch
        Sides of picture and patch, px; what is left over at the right and below is not seen.
    dim, depth, heads, mlp
        Width, blocks, heads, hidden width of MLPs in widths.
    embedding
        Length of the vector, which is not normalised.
    bottleneck
        Whether the flattened tokens first go to `dim` numbers, or to the embedding at once.
    drop_path, mask
        Stochastic depth of the last block, rising from 0, and share of the patches that are not seen, in training.
    qkv_bias
        Whether the projections have one.
    """

    def __init__(
        self, *, size: int = 112, patch: int = 9, dim: int = 512, depth: int = 24, heads: int = 8, mlp: float = 4.0,
        embedding: int = 512, bottleneck: bool = True, drop_path: float = 0.1, mask: float = 0.0,
        qkv_bias: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.mask = size, mask
        tokens = (size // patch) ** 2
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if mask else None
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(ViTBlock(dim, heads, mlp=mlp, drop_path=rate, bias=qkv_bias) for rate in rates)
        self.norm = nn.LayerNorm(dim)
        flat, eps = tokens * dim, 2e-5
        last = linear(dim if bottleneck else flat, embedding, bias=False)
        first = [linear(flat, dim, bias=False), nn.BatchNorm1d(dim, eps=eps)] if bottleneck else []
        self.feature_layer = nn.Sequential(*first, last, nn.BatchNorm1d(embedding, eps=eps))
        start(self)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "not the network's input", got=tuple(images.shape), expected=f"(B, 3, {self.size}, {self.size})"
            )
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        if self.training and self.mask_token is not None:
            # Patches that are not seen are not computed; a learned token stands for them at the end.
            seen = max(1, round((1 - self.mask) * x.shape[1]))
            order = torch.rand(x.shape[:2], device=x.device).argsort(1)
            kept = order[:, :seen, None].expand(-1, -1, x.shape[2])
            whole = self.mask_token.expand_as(x).clone()
            x = whole.scatter(1, kept, self.norm(self._blocks(x.gather(1, kept))).to(whole.dtype))
        else:
            x = self.norm(self._blocks(x))
        return cast(Tensor, self.feature_layer(x.flatten(1)))

    def _blocks(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


# ------------------------------------------------------------------------------------------- with adapters


def _adapted(
    network: nn.Module, kind: Adapters, *, rank: int, scale: float, dropout: float, official_init: bool,
    projections: str = PROJECTIONS, final: str = FINAL,
) -> nn.Module:  # fmt: skip
    if kind not in get_args(Adapters):
        raise OptionError.unknown("unknown kind of adapters", kind, get_args(Adapters))
    if kind == "none":
        return network
    patterns = {
        "twin": {"twin": projections, "single": final},
        "single": {"single": projections},
        "everywhere": {"single": f"({projections})|({final})"},
    }[kind]
    adapt(network, **patterns, rank=rank, scale=scale, dropout=dropout)
    if official_init:
        for layer in adapters_of(network).values():
            layer.restart(up_std=0.02, down_std=0.02)
    return Blended(network) if kind == "twin" else network


def swin_256new(
    *, dim: int = 512, size: int = 120, patch: int = 6, embed_dim: int = 384, depths: Sequence[int] = (2, 18, 2),
    heads: Sequence[int] = (8, 16, 16), window: int = 5, drop_path: float = 0.05, dropout: float = 0.25,
    masked_shift: bool = False, adapters: Adapters = "none", rank: int = 8, scale: float = 1.0,
    lora_dropout: float = 0.1, official_init: bool = False,
) -> nn.Module:  # fmt: skip
    """The paper's backbone: 213.7 M parameters, 15.8 GMAC at 120 px; (B, 3, 120, 120) -> (B, 512).

    With ``adapters="single"`` it is the authors' baseline of one branch beside every projection.
    """
    network = FaceSwin(
        size=size, patch=patch, embed_dim=embed_dim, depths=tuple(depths), heads=tuple(heads), window=window,
        drop_path=drop_path, dropout=dropout, dim=dim, masked_shift=masked_shift,
    )  # fmt: skip
    return _adapted(network, adapters, rank=rank, scale=scale, dropout=lora_dropout, official_init=official_init)


def swin_256new_iqa(**options: Any) -> nn.Module:
    """PETALface's network: `swin_256new` with twin adapters; (B, 3, 120, 120), alpha (B, 1) -> (B, 512)."""
    return swin_256new(**{"adapters": "twin", **options})


def vit_b(
    *, dim: int = 512, size: int = 112, patch: int = 9, width: int = 512, depth: int = 24, heads: int = 8,
    bottleneck: bool = True, drop_path: float = 0.1, mask: float = 0.0, qkv_bias: bool = False,
    adapters: Adapters = "none", rank: int = 8, scale: float = 1.0, lora_dropout: float = 0.1,
    official_init: bool = False,
) -> nn.Module:  # fmt: skip
    """A vision transformer of 24 blocks: 113.8 M parameters, 10.9 GMAC at 112 px; (B, 3, 112, 112) -> (B, 512)."""
    network = FaceViT(
        size=size, patch=patch, dim=width, depth=depth, heads=heads, embedding=dim, bottleneck=bottleneck,
        drop_path=drop_path, mask=mask, qkv_bias=qkv_bias,
    )  # fmt: skip
    return _adapted(network, adapters, rank=rank, scale=scale, dropout=lora_dropout, official_init=official_init)


def vit_b_iqa(**options: Any) -> nn.Module:
    """`vit_b` with twin adapters; (B, 3, 112, 112), alpha (B, 1) -> (B, 512)."""
    return vit_b(**{"adapters": "twin", **options})


def iresnet_lora(
    *, layers: int = 100, dim: int = 512, size: int = 112, width: float = 1.0, dropout: float = 0.0,
    depths: tuple[int, ...] | None = None, adapters: Adapters = "none", rank: int = 8, scale: float = 1.0,
    lora_dropout: float = 0.1, official_init: bool = False,
) -> nn.Module:  # fmt: skip
    """InsightFace's residual network: 65.2 M parameters, 12.1 GMAC at 112 px; (B, 3, 112, 112) -> (B, 512).

    With adapters beside both 3 x 3 convolutions of every unit, and the last linear layer.
    """
    network = iresnet(layers, dim=dim, size=size, width=width, dropout=dropout, depths=depths)
    return _adapted(
        network, adapters, rank=rank, scale=scale, dropout=lora_dropout, official_init=official_init,
        projections=CONVOLUTIONS, final="fc",
    )  # fmt: skip


def iresnet_iqa(**options: Any) -> nn.Module:
    """`iresnet_lora` with twin adapters; (B, 3, 112, 112), alpha (B, 1) -> (B, 512)."""
    return iresnet_lora(**{"adapters": "twin", **options})


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "swin_256new": swin_256new,
    "vit_b": vit_b,
    "iresnet": iresnet_lora,
}
"""Builders by name, for `quality_aware`."""


def quality_aware(
    *, network: str = "swin_256new", quality: Quality = "cnniqa", vectors: int = 774, channels: int = 3,
    threshold: float = 0.5, gain: float | None = None, clamp: bool = False, official_alpha: bool = False,
    official_iqa_input: bool = False, **options: Any,
) -> Blended:  # fmt: skip
    """A twin network that finds alpha by itself, for the verbs: (B, 3, S, S) -> (B, 512); alpha may be given too.

    Parameters
    ----------
    network, **options
        Name of the backbone in `BACKBONES`, and its own options.
    quality, vectors, channels
        The score; support vectors of BRISQUE, channels of CNN-IQA.
    threshold
        Quality at which both branches count the same.
    gain
        Factor of the quality; None: 1, and a hundredth for BRISQUE.
    clamp
        Whether alpha is held in 0 … 1.
    official_alpha
        Whether BRISQUE's 0 … 100 are left as they are, as in the authors' code; else they count a hundredth.
    official_iqa_input
        Whether the score sees pixels from -1 to 1, as in the authors' code, instead of 0 to 1.
    """
    if network not in BACKBONES:
        raise OptionError.unknown("unknown backbone", network, BACKBONES)
    inner = BACKBONES[network](**{"adapters": "twin", **options})
    score = build_quality(quality, vectors=vectors, channels=channels).requires_grad_(False)
    weight = QualityWeight(
        score, threshold=threshold, clamp=clamp, official_input=official_iqa_input,
        gain=usual_gain(quality, official=official_alpha) if gain is None else gain,
    )  # fmt: skip
    return Blended(inner.network if isinstance(inner, Blended) else inner, weight)
