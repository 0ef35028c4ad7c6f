"""Negative pairs of a batch inside a margin softmax: the unified loss, its filter, and the second terms it beats.

A classifier over people compares each face with the learned vector of every other person. Those negatives are many and
easy, since a class vector lies near the middle of its person; pairs of two faces in a batch are few and hard. The
unified loss (Jung et al., "Unified Negative Pair Generation toward Well-discriminative Feature Space for Face
Recognition", BMVC 2022) puts both into one denominator: with c_i the cosine of sample i to its own class after the
margin, and V the cosines of *all* pairs (p, q) of the batch that show two people,

    loss_i = -log  exp(s c_i) / ( exp(s c_i) + sum_{j != y_i} exp(s cos_ij) + sum_{v in V} exp(s v) )

V is the same for every i, also where a pair has nothing to do with i. So nothing of size B x |V| is needed: with
``L = logsumexp(s V)`` the loss is ``logaddexp(logsumexp_j(s cos_ij), L) - s c_i``, which is exact.

    cosines = head(z, labels)                              # (B, classes), the own class's with its margin
    pairs = box_whisker(negative_pairs(z, labels), 1.5)    # (M,)
    loss = unified_loss(cosines, labels, pairs, scale=64.0)

Gradients go through the pairs to both of their members; only which pairs the filter leaves is not differentiated. With
several processes the pairs have to be those of the whole batch: `gathered` fetches the others' embeddings, and brings
the gradient back to whoever made them.

`triplet_term` and `contrastive_term` are the same kind of pairs as a *second* loss beside the classifier's, which is
what the paper compares with.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mien.errors import OptionError, ShapeError

__all__ = [
    "TRIPLET_MARGIN",
    "WHISKER",
    "box_whisker",
    "contrastive_term",
    "gathered",
    "negative_pairs",
    "pairs_logsumexp",
    "triplet_term",
    "unified_loss",
    "whiskers",
]

WHISKER = 1.5
"""Reach of the whiskers, in interquartile ranges: the paper's for large sets (1.0 for K-FACE)."""

TRIPLET_MARGIN = 0.5
"""The margin of the paper's triplet baseline, in distance of unit vectors."""

EPS = 1e-12
"""Squared distances up to this are 0, without a gradient: that of the root is infinite there."""

Reduction = Literal["mean", "none"]


# ------------------------------------------------------------------------------------------- pairs and filter


def negative_pairs(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Cosines (M,) of all pairs of a batch that show two people, each pair once (step 2 of the method).

    Parameters
    ----------
    embeddings
        (B, d), need not be normalised. What is narrower than float32 is widened first.
    labels
        (B,) people.

    Returns
    -------
    Tensor
        Float, with the graph of both members of each pair: M = B (B - 1) / 2 less the pairs of one person.

    Raises
    ------
    ShapeError
        Embeddings and labels that do not fit together.
    """
    _check(embeddings, labels)
    with torch.autocast(embeddings.device.type, enabled=False):
        z = F.normalize(_wide(embeddings), dim=1)
        different = (labels[:, None] != labels[None]).triu(1)
        return (z @ z.T)[different]


@torch.no_grad()
def whiskers(values: Tensor, reach: float = WHISKER) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value (scalars) that are no outliers: ``Q1 - r IQR`` and ``Q3 + r IQR``.

    Quartiles are members of the values, those at floor(l / 4) and floor(3 l / 4) of the l sorted ones, as in the
    released code; an interpolated quantile gives others where l is small.

    Parameters
    ----------
    values
        (l,), at least one, in any order.
    reach
        r, at least 0. Infinity leaves everything.

    Raises
    ------
    OptionError
        A reach below 0.
    ShapeError
        Not a vector, or an empty one.
    """
    if not reach >= 0:
        raise OptionError("the reach of the whiskers is out of range", got=reach, expected="at least 0")
    if values.ndim != 1 or not len(values):
        raise ShapeError("quartiles need a vector of values", got=tuple(values.shape), expected="(l,), l at least 1")
    if math.isinf(reach):
        return values.new_tensor(-math.inf), values.new_tensor(math.inf)
    count = len(values)
    first = values.kthvalue(count // 4 + 1).values
    third = values.kthvalue(3 * count // 4 + 1).values
    return first - reach * (third - first), third + reach * (third - first)


def box_whisker(values: Tensor, reach: float = WHISKER) -> Tensor:
    """The values (l,) -> those (m,) inside the whiskers, both ends included, in their order (step 3 of the method).

    What lies above is suspected to be one person under two labels; what lies below teaches nothing. Survivors keep
    their gradient. A `reach` of 0.5 removes the hardest honest pairs too, and with them the benefit.

    Raises
    ------
    OptionError, ShapeError
        As `whiskers`.
    """
    if values.ndim == 1 and not len(values):
        return values
    low, high = whiskers(values, reach)
    return values[(values >= low) & (values <= high)]


def pairs_logsumexp(
    embeddings: Tensor, labels: Tensor, *, scale: float, reach: float = WHISKER, group: dist.ProcessGroup | None = None,
    gather: bool = True,
) -> Tensor:  # fmt: skip
    """``log sum_v exp(s v)`` (a scalar) over the filtered negative pairs of the batch; -inf where there is none.

    All that a class layer needs of the pairs, however its classes are held.

    Parameters
    ----------
    embeddings, labels
        (B, d) and (B,), of this process.
    scale
        s.
    reach
        See `whiskers`.
    group
        Process group; by default the whole world.
    gather
        Whether the pairs are those of all processes (`gathered`). False where `embeddings` are everybody's already.
    """
    if gather:
        embeddings, labels = gathered(embeddings, group), gathered(labels, group)
    return _logsumexp(box_whisker(negative_pairs(embeddings, labels), reach), scale)


# ------------------------------------------------------------------------------------------- the loss


def unified_loss(
    cosines: Tensor, labels: Tensor, pairs: Tensor, *, scale: float = 64.0, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy over classes and negative pairs together (the loss of the method, step 4).

    Parameters
    ----------
    cosines
        (B, C) to every class, that of the own class with its margin. Not scaled.
    labels
        (B,) int64 classes.
    pairs
        (M,) cosines of the negative pairs, not scaled, of `box_whisker`; empty: the plain cross-entropy.
    scale
        s, the inverse temperature of both.
    reduction
        "mean" over the batch, or "none".

    Returns
    -------
    Tensor
        Scalar, or (B,).

    Raises
    ------
    ShapeError, OptionError
        What does not fit together, or another reduction.
    """
    if cosines.ndim != 2 or labels.shape != cosines.shape[:1] or pairs.ndim != 1:
        raise ShapeError(
            "cosines, labels and pairs do not fit together",
            got=f"{tuple(cosines.shape)}, {tuple(labels.shape)}, {tuple(pairs.shape)}",
            expected="(B, C), (B,), (M,)",
        )
    if reduction not in ("mean", "none"):
        raise OptionError.unknown("unknown reduction", reduction, ("mean", "none"))
    with torch.autocast(cosines.device.type, enabled=False):
        logits = scale * _wide(cosines)
        own = logits.gather(1, labels[:, None]).squeeze(1)
        both = torch.logaddexp(logits.logsumexp(1), _logsumexp(pairs, scale).to(logits.dtype))
        loss = both - own
    return loss.mean() if reduction == "mean" else loss


def _logsumexp(pairs: Tensor, scale: float) -> Tensor:
    # torch's logsumexp of nothing has no gradient to give; a batch of one person is rare, not wrong.
    return (scale * _wide(pairs)).logsumexp(0) if len(pairs) else _wide(pairs).new_tensor(-math.inf)


# ------------------------------------------------------------------------------------------- several processes


def gathered(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows (b, ...) of all processes, (world b, ...), in the order of their ranks; itself where there is one.

    The gradient of a row is the sum of what all processes found for it, and goes to the process that made the row. So
    with DDP, which takes the mean over processes, a loss that is the mean of each process's own rows has the gradient
    of the mean over the whole batch. All processes must have the same b.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return tensor
    if not tensor.is_floating_point():
        return _all(tensor, group)
    found: Tensor = _Gather.apply(tensor, group)
    return found


def _all(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.rows = group, len(tensor)
        return _all(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.rows
        return total[first : first + ctx.rows], None


# ------------------------------------------------------------------------------------------- second terms


def triplet_term(embeddings: Tensor, labels: Tensor, *, margin: float = TRIPLET_MARGIN) -> Tensor:
    """``relu(d(a, p) - d(a, n) + margin)``, the mean over all triplets of the batch that have a loss.

    d is the distance of unit vectors, not squared: the baseline of the paper, with the defaults of
    pytorch-metric-learning. (FaceNet's loss, `mien.nn.triplet`, is of squared distances and mined.)

    Parameters
    ----------
    embeddings, labels
        (B, d) and (B,).
    margin
        In distance, 0 to 2.

    Returns
    -------
    Tensor
        Scalar; 0 where no triplet has a loss.
    """
    _check(embeddings, labels)
    distance = _distances(embeddings)
    same = labels[:, None] == labels[None]
    anchor, positive = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(as_tuple=True)
    gap = (distance[anchor, positive][:, None] - distance[anchor] + margin)[~same[anchor]]
    return _mean_active(F.relu(gap))


def contrastive_term(embeddings: Tensor, labels: Tensor, *, near: float = 0.0, far: float = 1.0) -> Tensor:
    """``relu(d - near)`` of pairs of one person plus ``relu(far - d)`` of pairs of two, each its mean where not 0.

    d as in `triplet_term`; the defaults are those of pytorch-metric-learning.

    Parameters
    ----------
    embeddings, labels
        (B, d) and (B,).
    near, far
        Distances, 0 to 2.
    """
    _check(embeddings, labels)
    distance = _distances(embeddings)
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    d, same = distance[first, second], labels[first] == labels[second]
    return _mean_active(F.relu(d[same] - near)) + _mean_active(F.relu(far - d[~same]))


def _distances(embeddings: Tensor) -> Tensor:
    with torch.autocast(embeddings.device.type, enabled=False):
        z = F.normalize(_wide(embeddings), dim=1)
        squared = 2 - 2 * z @ z.T
        return torch.where(squared > EPS, squared.clamp_min(EPS).sqrt(), 0.0)


def _mean_active(losses: Tensor) -> Tensor:
    return losses.sum() / (losses > 0).sum().clamp_min(1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check(embeddings: Tensor, labels: Tensor) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ShapeError(
            "embeddings and labels do not fit together",
            got=f"{tuple(embeddings.shape)}, {tuple(labels.shape)}",
            expected="(B, d), (B,)",
        )
