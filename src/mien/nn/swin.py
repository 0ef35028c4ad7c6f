"""Blocks of Swin transformers: attention in shifted windows, merging of patches, stages.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021. Names of tensors are
those of its released code, which networks of several papers keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

__all__ = [
    "Mlp",
    "PatchEmbedding",
    "PatchMerging",
    "Stage",
    "SwinBlock",
    "WindowAttention",
    "linear",
    "relative_positions",
    "shift_mask",
    "stages",
    "start",
]


def linear(before: int, after: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer without numbers; `start` draws them, once and not twice."""
    place = torch.get_default_device()
    made: nn.Linear = nn.utils.skip_init(nn.Linear, before, after, bias=bias, device=place)  # type: ignore[no-untyped-call]
    return made


def start(network: nn.Module) -> None:
    """First numbers: linear layers N(0, 0.02), biases 0. (The released code cuts at +-2, a hundred deviations away.)"""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Mlp(nn.Module):
    """Linear, activation, linear: (…, dim) -> (…, dim)."""

    def __init__(self, dim: int, hidden: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = linear(dim, hidden), act(), linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(self.act(self.fc1(x))))


class WindowAttention(nn.Module):
    """Attention inside of windows, with a learned bias for each relative position and head.

    Parameters
    ----------
    dim, heads
        Width, and number of heads.
    window
        Side of a window, tokens.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.qkv, self.proj = linear(dim, 3 * dim), linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, windows, window², dim) -> the same; `mask` (windows, window², window²) is added to the logits."""
        batch, windows, tokens, dim = x.shape
        shape = (batch, windows, tokens, 3, self.heads, dim // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(3, 0, 1, 4, 2, 5).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask[:, None]
        # Written out: fused kernels gain nothing on 25 tokens, and exporters know them for four dimensions only.
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.to(q.dtype)
        mixed = logits.softmax(-1) @ v
        return cast(Tensor, self.proj(mixed.transpose(2, 3).reshape(batch, windows, tokens, dim)))


def relative_positions(window: int) -> Tensor:
    """Row of the bias table (window², window²) for each pair of places in a window."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    apart = place[:, :, None] - place[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, window², window²): -100 between places of a shifted window that are not neighbours in the picture."""
    region = torch.zeros(side, side)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
        region[rows, columns] = number
    number_of = region.view(side // window, window, side // window, window).transpose(1, 2).reshape(-1, window**2)
    return -100.0 * (number_of[:, None, :] != number_of[:, :, None])


class SwinBlock(nn.Module):
    """Attention in (shifted) windows and an MLP, each after a layer normalisation and added to what came in.

    Parameters
    ----------
    dim, heads, window
        Of the attention.
    side
        Side of the map, tokens.
    shift
        By how many tokens the windows are shifted.
    mlp
        Hidden width of the MLP, in widths.
    drop_path
        Chance that a branch is left out, for each picture, in training.
    masked
        Whether the parts of a shifted window that do not belong together ignore each other.
    """

    attn_mask: Tensor | None

    def __init__(
        self, dim: int, heads: int, window: int, side: int, *, shift: int, mlp: float, drop_path: float, masked: bool
    ) -> None:
        super().__init__()
        self.side, self.window, self.shift, self.masked = side, window, shift, masked
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp), nn.GELU)
        self.drop_path = StochasticDepth(drop_path, "row")
        self.register_buffer("attn_mask", shift_mask(side, window, shift) if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, side², dim) -> the same."""
        batch, tokens, dim = x.shape
        count, shift = self.side // self.window, self.shift
        seen = self.norm1(x).view(batch, self.side, self.side, dim)
        if shift:
            seen = torch.roll(seen, (-shift, -shift), (1, 2))
        seen = seen.view(batch, count, self.window, count, self.window, dim).transpose(2, 3)
        seen = self.attn(seen.reshape(batch, count**2, self.window**2, dim), self.attn_mask if self.masked else None)
        seen = seen.view(batch, count, count, self.window, self.window, dim).transpose(2, 3)
        seen = seen.reshape(batch, self.side, self.side, dim)
        if shift:
            seen = torch.roll(seen, (shift, shift), (1, 2))
        x = x + self.drop_path(seen.reshape(batch, tokens, dim))
        return x + cast(Tensor, self.drop_path(self.mlp(self.norm2(x))))


class PatchMerging(nn.Module):
    """Each 2 x 2 tokens become one of twice the width: (B, side², C) -> (B, side² / 4, 2 C)."""

    def __init__(self, side: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.reduction = linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.shape[0], self.side, self.side, x.shape[2])
        # Places (row, column) in this order: (0, 0), (1, 0), (0, 1), (1, 1).
        joined = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], 3).flatten(1, 2)
        return cast(Tensor, self.reduction(self.norm(joined)))


class Stage(nn.Module):
    """Blocks at one resolution, then the merging of patches where there is another stage."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class PatchEmbedding(nn.Module):
    """Patches into tokens: (B, 3, S, S) -> (B, (S / patch)², dim), normalised."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, dim, patch, patch), nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.proj(images).flatten(2).transpose(1, 2)))


def stages(
    side: int, *, embed_dim: int, depths: Sequence[int], heads: Sequence[int], window: int, mlp: float,
    drop_path: float, masked: bool,
) -> tuple[nn.ModuleList, int, int]:  # fmt: skip
    """The stages of a Swin transformer, and side and width of the last one's map.

    Patches are merged after every stage but the last, so that stage i gives the map that stage i + 1 works on.

    Parameters
    ----------
    side
        Side of the first map, tokens.
    embed_dim, depths, heads
        Width of the first stage, which each following one doubles; blocks and heads of each stage.
    window
        Side of the windows, tokens; a smaller map is one window. Windows of odd blocks are shifted by its half, except
        where one fills the map.
    mlp, drop_path
        Hidden width of MLPs in widths; stochastic depth of the last block, rising from 0.
    masked
        Whether shifted windows are masked.
    """
    rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
    layers: list[Stage] = []
    width = embed_dim
    for number, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        own = min(window, side)
        blocks = [
            SwinBlock(
                width, count, own, side, shift=own // 2 if block % 2 and side > own else 0, mlp=mlp,
                drop_path=next(rates), masked=masked,
            )
            for block in range(depth)
        ]  # fmt: skip
        last = number == len(depths) - 1
        layers.append(Stage(blocks, None if last else PatchMerging(side, width)))
        if not last:
            side, width = side // 2, 2 * width
    return nn.ModuleList(layers), side, width
