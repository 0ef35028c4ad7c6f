"""The networks: a Swin transformer for faces, attention to its levels and channels for each group of tasks, answers.

    images (B, 3, 112, 112), (x - 127.5) / 127.5
      -> Swin-T: maps of 28, 14, 7 and 7 tokens a side behind its four stages, 192 | 384 | 768 | 768 channels
         -> LayerNorm, mean, Linear, BN, Linear, BN                                    -> embedding (B, 512)
         -> all four at 7 x 7, joined to 2112 channels
            -> for each of 11 branches: attention to levels and channels -> 512, two layers -> 512, its answers

The eleven branches have weights of their own and no other difference, so that they are computed together: one
convolution a level makes the channels of all of them, and their layers are products of stacked matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.nn.streams import AGE, ATTRIBUTES, BRANCHES, EXPRESSION, answers_in
from mien.nn.swin import PatchEmbedding, linear, stages, start

__all__ = [
    "MLCA",
    "Analysis",
    "Feature",
    "Reading",
    "Stacked",
    "SwinFace",
    "SwinT",
    "shares",
    "swin_t",
    "swinface",
    "swinface_reading",
]

Feature = Literal["all", "global", "local"]
"""Which maps the branches see: those of all stages, of the last one alone, or of all but the last."""
EPS = 2e-5
"""Of batch normalisation."""


class SwinT(nn.Module):
    """Swin-T for faces: (B, 3, size, size) -> (B, dim), not normalised.

    Against Swin-T for ImageNet, patches have 2 px, so that 112 px give the usual 56 x 56 tokens, and two linear layers
    with batch normalisation make the embedding of the mean token.

    Parameters
    ----------
    size, patch
        Sides of picture and patch, px.
    embed_dim, depths, heads
        Width of the first stage, which each following one doubles; blocks and heads of each stage.
    window
        Side of the windows, tokens; a smaller map is one window.
    drop_path
        Stochastic depth of the last block, rising from 0.
    dim
        Length of the embedding.
    recognition
        Whether the layers of the embedding are there; without, the network has `maps` alone.

    Raises
    ------
    OptionError
        The map of a stage cannot be halved or cut into windows.
    """

    def __init__(
        self, *, size: int = 112, patch: int = 2, embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, drop_path: float = 0.1, dim: int = 512,
        recognition: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        side, count = size // patch, len(depths)
        sides = [side >> stage for stage in range(count)]
        if size % patch or side % 2 ** (count - 1) or len(heads) != count or any(s % min(window, s) for s in sides):
            raise OptionError(
                "the map of a stage cannot be cut into windows",
                got=f"{size} px in patches of {patch}, windows of {window}, {count} stages, heads {tuple(heads)}",
                expected="size / patch a multiple of 2^(stages - 1), each stage's map of the window or smaller than it",
            )
        self.size, self.dim = size, dim
        self.patch_embed = PatchEmbedding(patch, embed_dim)
        self.layers, self.side, width = stages(
            side, embed_dim=embed_dim, depths=depths, heads=heads, window=window, mlp=4.0, drop_path=drop_path,
            masked=True,
        )  # fmt: skip
        # A stage's map is taken behind the merging of its patches; the last one has none.
        self.widths = tuple(min(2 * embed_dim << stage, width) for stage in range(count))
        if recognition:
            self.norm = nn.LayerNorm(width)
            self.feature = nn.Sequential(
                linear(width, width, bias=False), nn.BatchNorm1d(width, eps=EPS),
                linear(width, dim, bias=False), nn.BatchNorm1d(dim, eps=EPS),
            )  # fmt: skip
        self.recognition = recognition
        start(self)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Tokens (B, side², C) behind each stage, the last ones before the final normalisation."""
        if images.shape[1:] != (3, self.size, self.size):
            raise ShapeError(
                "not the network's input", got=tuple(images.shape), expected=f"(B, 3, {self.size}, {self.size})"
            )
        x = self.patch_embed(images)
        found: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found

    def joined(self, levels: Sequence[Tensor]) -> Tensor:
        """The maps of all stages, pooled to the side of the last one: (B, sum of `widths`, side, side)."""
        maps = []
        for tokens in levels:
            side = math.isqrt(tokens.shape[1])
            chart = tokens.transpose(1, 2).reshape(*tokens.shape[::2], side, side)
            maps.append(F.avg_pool2d(chart, side // self.side) if side > self.side else chart)
        return torch.cat(maps, 1)

    def embedding(self, tokens: Tensor) -> Tensor:
        """The last stage's tokens (B, side², C) -> (B, dim)."""
        return cast(Tensor, self.feature(self.norm(tokens).mean(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding(self.levels(images)[-1])


# ------------------------------------------------------------------------------------------- analysis


class Stacked(nn.Module):
    """A linear layer for each branch, all at once: (B, branches, before) -> (B, branches, after).

    First numbers are those of `torch.nn.Linear`. The bias is flat, so that optimisers know it as one.
    """

    def __init__(self, branches: int, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(branches, after, before))
        self.bias = nn.Parameter(torch.empty(branches * after))
        for tensor in (self.weight, self.bias):
            nn.init.uniform_(tensor, -1 / math.sqrt(before), 1 / math.sqrt(before))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.view(len(self.weight), 1, -1)
        return torch.baddbmm(bias, x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


def shares(total: int, widths: Sequence[int]) -> tuple[int, ...]:
    """`total` channels dealt out in proportion to `widths`, rounded, what is left over to the last."""
    parts = [round(total * width / sum(widths)) for width in widths[:-1]]
    return (*parts, total - sum(parts))


class MLCA(nn.Module):
    """Multi-level channel attention: the maps of all levels -> one vector for each branch, (B, branches, dim).

    Each level has its own 3 x 3 convolution to its share of the channels. A gate, of the channels' means and largest
    values, weighs the channels and so the levels (Woo et al., CBAM, ECCV 2018, equation 2); then the largest value of
    each channel is taken, and normalised.

    Parameters
    ----------
    widths
        Channels of the levels.
    branches
        How many there are; they share nothing.
    dim, hidden
        Channels of a branch, and hidden width of its gate.
    split
        Whether each level has a convolution of its own, or all channels go through one.
    gate
        Whether the channels are weighed.
    spatial
        Whether places are weighed too, by CBAM's 7 x 7 convolution of mean and largest channel (equation 3). The
        released weights are without.
    """

    def __init__(
        self, widths: Sequence[int], *, branches: int = len(BRANCHES), dim: int = 512, hidden: int = 32,
        split: bool = True, gate: bool = True, spatial: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branches, self.dim = branches, dim
        self.parts = tuple(widths) if split else (sum(widths),)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, branches * share, 3, padding=1, bias=False)
            for width, share in zip(self.parts, shares(dim, self.parts), strict=True)
        )
        self.gate = nn.Sequential(Stacked(branches, dim, hidden), nn.ReLU(), Stacked(branches, hidden, dim))
        if not gate:
            self.gate = nn.Sequential()
        self.spatial = nn.ModuleList()
        if spatial:
            places = nn.Conv2d(2 * branches, branches, 7, padding=3, groups=branches, bias=False)
            self.spatial.extend([places, nn.BatchNorm2d(branches)])
        self.norm = nn.BatchNorm1d(branches * dim, eps=EPS)

    def forward(self, maps: Tensor) -> Tensor:
        side = maps.shape[-2:]
        parts = [
            conv(part).unflatten(1, (self.branches, -1))
            for conv, part in zip(self.convs, torch.split(maps, list(self.parts), 1), strict=True)
        ]
        x = torch.cat(parts, 2)  # (B, branches, dim, side, side)
        if len(self.gate):
            weight = self.gate(x.mean((3, 4))) + self.gate(x.amax((3, 4)))
            x = x * torch.sigmoid(weight)[..., None, None]
        for places, norm in zip(self.spatial[::2], self.spatial[1::2], strict=True):
            seen = torch.stack([x.amax(2), x.mean(2)], 2).flatten(1, 2)
            x = x * torch.sigmoid(norm(places(seen))).view(-1, self.branches, 1, *side)
        # The largest of ReLUs is the ReLU of the largest.
        pooled = F.relu(x.amax((3, 4))).flatten(1)
        return cast(Tensor, self.norm(pooled).view(-1, self.branches, self.dim))


class Analysis(nn.Module):
    """All that is told of a face but who it is: joined maps (B, C, side, side) -> (B, 88).

    The columns are age (1, years), the logits of the expressions (7), and those of no and yes for each of `ATTRIBUTES`
    (80).

    Parameters
    ----------
    widths
        Channels of the maps' levels.
    feature
        Which of the levels are seen.
    dim, hidden, split, gate, spatial
        See `MLCA`.
    dropout
        Behind both layers of a branch.
    """

    order: Tensor

    def __init__(
        self, widths: Sequence[int], *, feature: Feature = "all", dim: int = 512, hidden: int = 32,
        dropout: float = 0.5, split: bool = True, gate: bool = True, spatial: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if feature not in get_args(Feature):
            raise OptionError.unknown("unknown choice of maps", feature, get_args(Feature))
        ends = (0, sum(widths[:-1]), sum(widths))
        self.seen = {"all": (0, ends[2]), "local": ends[:2], "global": ends[1:]}[feature]
        chosen = {"all": widths, "local": widths[:-1], "global": widths[-1:]}[feature]
        self.mlca = MLCA(chosen, dim=dim, hidden=hidden, split=split, gate=gate, spatial=spatial)
        self.subnets = nn.Sequential(
            Stacked(len(BRANCHES), dim, dim), nn.ReLU(), nn.Dropout(dropout),
            Stacked(len(BRANCHES), dim, dim), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.answers = nn.ModuleList(nn.Linear(dim, sum(map(answers_in, tasks))) for tasks in BRANCHES)
        self.register_buffer("order", columns(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        first, end = self.seen
        x = self.subnets(self.mlca(maps[:, first:end]))
        told = torch.cat([answer(x[:, branch]) for branch, answer in enumerate(self.answers)], 1)
        return told[:, self.order]


def columns() -> Tensor:
    """Where the answers of `Analysis`, age, expression and `ATTRIBUTES`, stand among those of the branches (88,)."""
    start_of: dict[str, int] = {}
    end = 0
    for task in (task for tasks in BRANCHES for task in tasks):
        start_of[task] = end
        end += answers_in(task)
    order = [start_of[task] + k for task in (AGE, EXPRESSION, *ATTRIBUTES) for k in range(answers_in(task))]
    return torch.tensor(order, device="cpu")


def _split(told: Tensor) -> dict[str, Tensor]:
    expression = answers_in(EXPRESSION)
    age, expressions, attributes = torch.split(told, [1, expression, 2 * len(ATTRIBUTES)], 1)
    return {"age": age, "expression": expressions, "attributes": attributes.reshape(-1, len(ATTRIBUTES), 2)}


# ------------------------------------------------------------------------------------------- whole networks


class SwinFace(nn.Module):
    """All four tasks in one pass: (B, 3, size, size) -> recognition, age, expression, attributes.

    The answers are a mapping: "recognition" (B, dim), not normalised; "age" (B, 1), years; "expression" (B, 7), logits
    in the order of `mien.nn.streams.EXPRESSIONS`; "attributes" (B, 40, 2), logits of no and yes, in that of
    `ATTRIBUTES`.
    """

    def __init__(self, backbone: SwinT, analysis: Analysis) -> None:
        super().__init__()
        self.backbone, self.analysis = backbone, analysis

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.backbone.levels(images)
        told = _split(self.analysis(self.backbone.joined(levels)))
        return {"recognition": self.backbone.embedding(levels[-1]), **told}


class Reading(nn.Module):
    """The answers without the embedding, for the verbs: (B, 3, size, size) -> (B, 88), the columns of `Analysis`."""

    def __init__(self, backbone: SwinT, analysis: Analysis) -> None:
        super().__init__()
        self.backbone, self.analysis = backbone, analysis

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.analysis(self.backbone.joined(self.backbone.levels(images))))


def swin_t(
    *, size: int = 112, patch: int = 2, embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, drop_path: float = 0.1, dim: int = 512,
) -> SwinT:  # fmt: skip
    """The backbone with the embedding alone: 28.5 M parameters, 4.3 GMAC; (B, 3, 112, 112) -> (B, 512)."""
    return SwinT(
        size=size, patch=patch, embed_dim=embed_dim, depths=tuple(depths), heads=tuple(heads), window=window,
        drop_path=drop_path, dim=dim,
    )  # fmt: skip


def _parts(*, recognition: bool, numbers: dict[str, Any]) -> tuple[SwinT, Analysis]:
    own = ("feature", "hidden", "dropout", "split", "gate", "spatial")
    analysis = {name: numbers.pop(name) for name in own}
    backbone = SwinT(recognition=recognition, **{**numbers, "depths": tuple(numbers["depths"])})
    return backbone, Analysis(backbone.widths, dim=numbers["dim"], **analysis)


def swinface(
    *, size: int = 112, patch: int = 2, embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, drop_path: float = 0.1, dim: int = 512,
    feature: Feature = "all", hidden: int = 32, dropout: float = 0.5, split: bool = True, gate: bool = True,
    spatial: bool = False,
) -> SwinFace:  # fmt: skip
    """The paper's network: 67.4 M parameters, 5.9 GMAC; (B, 3, 112, 112) -> a mapping of four tensors.

    `dim` is the length of the embedding and the width of the branches; other options: see `SwinT` and `Analysis`.
    ``feature="global"`` is the ablation that sees the last stage alone, ``split=False`` that of one convolution,
    ``gate=False`` that of levels without attention.
    """
    return SwinFace(*_parts(recognition=True, numbers=dict(locals())))


def swinface_reading(
    *, size: int = 112, patch: int = 2, embed_dim: int = 96, depths: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24), window: int = 7, drop_path: float = 0.1, dim: int = 512,
    feature: Feature = "all", hidden: int = 32, dropout: float = 0.5, split: bool = True, gate: bool = True,
    spatial: bool = False,
) -> Reading:  # fmt: skip
    """`swinface` without the embedding: 66.4 M parameters, 5.9 GMAC; (B, 3, 112, 112) -> (B, 88)."""
    return Reading(*_parts(recognition=False, numbers=dict(locals())))
