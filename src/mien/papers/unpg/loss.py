"""The head: class vectors with a margin, and the negatives of the batch beside them.

`UnifiedHead` holds the vectors of all classes in one place and is what the released code calls head and loss. Training
on more people than one machine holds is the recipe's (``mien train margin``), whose class layer takes the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError
from mien.nn.negatives import (
    WHISKER,
    box_whisker,
    contrastive_term,
    gathered,
    negative_pairs,
    triplet_term,
    unified_loss,
)
from mien.train.classes import MagFace, Margin, NormMargin, arcface, cosface, softmax

__all__ = ["HEADS", "Aux", "Head", "UnifiedHead", "arcface_unguarded", "convert_head"]

Head = Literal["softmax", "cosface", "arcface", "magface"]
Aux = Literal["unpg", "triplet", "contrastive", "none"]

HEADS: Mapping[str, float | MagFace] = MappingProxyType(
    {"softmax": 0.0, "cosface": 0.5, "arcface": 0.5, "magface": MagFace()}
)
"""Margin of each head in the shipped configuration. (0.35 is CosFace's default in the code, which is not used.)"""


def arcface_unguarded(m: float = 0.5) -> Margin:
    """``cos(t + m)`` for every angle, also beyond ``t + m = pi``, where it rises again.

    The released code has it so, with the true derivative ``sin(t + m) / sin(t)``; `mien.train.classes.arcface`
    continues the falling branch instead.
    """
    return lambda cosine: torch.cos(torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7)) + m)


class UnifiedHead(nn.Module):
    """Embeddings and people -> loss: a margin softmax, with or without pairs of the batch.

    Parameters
    ----------
    dim
        Length of an embedding.
    classes
        Number of people.
    head
        "softmax" (normalised, no margin), "cosface", "arcface" or "magface".
    aux
        "unpg": negative pairs in the denominator. "triplet" or "contrastive": a second loss of the same batch, added
        with weight 1, which is what the paper compares with. "none": the head alone.
    scale
        s of classes and pairs.
    margin
        Of the head; None takes `HEADS`. For "magface" a `MagFace`, whose margin grows with the length of a vector.
    whisker
        Reach r of the filter's whiskers.
    guard
        False leaves ArcFace without the continuation beyond pi, as the released code does.

    Attributes
    ----------
    weight
        (classes, dim), not normalised.

    Raises
    ------
    OptionError
        An unknown head or second term, a margin of another head, or a number out of its range.
    """

    def __init__(
        self, dim: int, *, classes: int, head: Head = "arcface", aux: Aux = "unpg", scale: float = 64.0,
        margin: float | MagFace | None = None, whisker: float = WHISKER, guard: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if head not in get_args(Head):
            raise OptionError.unknown("unknown head", head, get_args(Head))
        if aux not in get_args(Aux):
            raise OptionError.unknown("unknown second term", aux, get_args(Aux))
        if not whisker >= 0 or not scale > 0:
            raise OptionError("a number is out of range", got=f"whisker {whisker}, scale {scale}", expected=">= 0, > 0")
        self.head, self.aux, self.scale, self.whisker = head, aux, scale, whisker
        self.margin = _margin(head, HEADS[head] if margin is None else margin, guard)
        self.weight = nn.Parameter(torch.empty(classes, dim))
        if head == "magface":
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight.uniform_(-1, 1), dim=1))
        else:
            nn.init.xavier_uniform_(self.weight)

    def extra_repr(self) -> str:
        classes, dim = self.weight.shape
        return f"{dim}, classes={classes}, head={self.head}, aux={self.aux}, scale={self.scale}, whisker={self.whisker}"

    def cosines(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(B, classes) cosines to all classes, that of the own class with its margin; not scaled."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.weight.shape[1] or labels.shape != embeddings.shape[:1]:
            raise ShapeError(
                "embeddings and labels do not fit the head",
                got=f"{tuple(embeddings.shape)}, {tuple(labels.shape)}",
                expected=f"(B, {self.weight.shape[1]}), (B,)",
            )
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(self.weight, dim=1).T
        own = cosines.gather(1, labels[:, None]).squeeze(1)
        moved = self.margin(own, embeddings.norm(dim=1)) if isinstance(self.margin, NormMargin) else self.margin(own)
        return cosines.scatter(1, labels[:, None], moved[:, None])

    def regulariser(self, embeddings: Tensor) -> Tensor:
        """``lambda_g mean(a / u_a^2 + 1 / a)`` of MagFace, a being the lengths; 0 for the other heads."""
        if not isinstance(self.margin, NormMargin):
            return embeddings.new_zeros(())
        return self.margin.penalty(embeddings.norm(dim=1)).mean()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Loss (a scalar) of (B, dim) embeddings and (B,) people; with several processes, of this one's rows.

        Pairs are those of all processes: wrap this module in DDP with the network, and the gradient is that of one
        process on the whole batch. `aux` "triplet" and "contrastive" see all processes' rows, too.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            z = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
            cosines = self.cosines(z, labels)
            pairs = z.new_zeros(0)
            second = self.regulariser(z)
            if self.aux != "none":
                everybody, who = gathered(z), gathered(labels)
                if self.aux == "unpg":
                    pairs = box_whisker(negative_pairs(everybody, who), self.whisker)
                elif self.aux == "triplet":
                    second = second + triplet_term(everybody, who)
                else:
                    second = second + contrastive_term(everybody, who)
            return unified_loss(cosines, labels, pairs, scale=self.scale) + second


def _margin(head: Head, m: float | MagFace, guard: bool) -> Margin | NormMargin:
    if isinstance(m, MagFace) != (head == "magface"):
        raise OptionError("the margin is of another head", got=f"{m} for {head}", expected="a MagFace for magface")
    if isinstance(m, MagFace):
        return m
    if head == "arcface":
        return arcface(m) if guard else arcface_unguarded(m)
    return cosface(m) if head == "cosface" else softmax()


def convert_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `UnifiedHead` from that of the released head: ``head.weight`` (C, d), MagFace's ``head.fc.weight``
    (d, C), which is turned. What is unknown or missing is an error.

    Raises
    ------
    CheckpointError
        Other keys than one of the two, or no matrix.
    """
    keys = set(state)
    if keys not in ({"head.weight"}, {"head.fc.weight"}) or next(iter(state.values())).ndim != 2:
        raise CheckpointError(
            "these are not the tensors of a released head",
            got=sorted(keys),
            expected="one matrix, head.weight or, of MagFace, head.fc.weight",
        )
    if "head.weight" in state:
        return {"weight": state["head.weight"]}
    return {"weight": state["head.fc.weight"].T.contiguous()}
