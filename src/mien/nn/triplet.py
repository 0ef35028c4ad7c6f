"""Triplets: squared distances, online mining, the triplet loss, and its harmonic form that ties a network to another.

Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, sections 3.1, 3.2 and the appendix on harmonic embeddings; a
brick of its own because recipes train with it and because more than one paper does.

A batch is embedded once. Its distances are mined without gradients, and the loss is taken from the same distances with
gradients, so that what is trained on is what was mined: batch normalisation sees one batch, not two. Everything is a
function of the (n, n) distances. Where negatives are ranked by distance from their anchor, those that a rule allows
for a pair are one interval of the ranking, found by bisection; so the work is that of a sort, n^2 log n, and the memory
n^2, while a batch of 1,800 has 126 million candidate triplets.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError, ValueRangeError

Rule = Literal["semi_hard", "nearest_semi_hard", "hard", "violator", "random", "all"]
"""Which negative a pair (a, p) gets, D being the squared distance and m the margin.

semi_hard: one at random with D(a, p) < D(a, n) < D(a, p) + m; the paper's
nearest_semi_hard: the nearest of those; the other reading of the paper
hard: the nearest of all; the paper warns of it: early in training it can collapse the network to a point
violator: one at random with D(a, n) < D(a, p) + m; what the reimplementation by D. Sandberg does
random: one at random
all: every one with D(a, n) < D(a, p) + m, a triplet each
"""
RULES: tuple[Rule, ...] = get_args(Rule)

Reduction = Literal["active", "mean", "sum"]
"""active: the sum by the number of triplets with a loss; mean: by the number of all that were mined, and with the rule
"all" of all there are; sum: equation 3 itself.

Most triplets soon have no loss, so that their mean would make gradients vanish."""

Kind = Literal["222", "211", "121", "112", "221", "212", "122"]
"""Which network embedded anchor, positive and negative: 1 the old one, 2 the new one."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All but "111", which has no gradient."""

MARGIN = 0.2
"""Alpha of equation 1, on squared distances of unit vectors."""


class Triplets(NamedTuple):
    """Rows (t,) int64 of a batch: `anchor` and `positive` of one person, `negative` of another."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2 of rows (n, d) and (m, d): (n, m), 0 to 4 for unit vectors."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError("embeddings do not fit together", got=f"{tuple(a.shape)}, {tuple(b.shape)}", expected="(n, d)")
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


@torch.no_grad()
def mine(
    positive: Tensor,
    labels: Tensor,
    *,
    rule: Rule = "semi_hard",
    margin: float = MARGIN,
    negative: Tensor | None = None,
    both_orders: bool = True,
    generator: torch.Generator | None = None,
) -> Triplets:
    """Triplets of a batch: all pairs of one person, each with the negative(s) that `rule` allows it; none, no triplet.

    Parameters
    ----------
    positive
        (n, n) squared distances of anchors (rows) from positives.
    labels
        (n,) integers, equal for pictures of one person.
    rule
        See `Rule`.
    margin
        In squared distance.
    negative
        (n, n) squared distances of anchors from negatives, where they are other ones (harmonic triplets).
    both_orders
        Whether (a, p) and (p, a) are two pairs; otherwise a < p only, as in the reimplementation by D. Sandberg.
    generator
        Of random choices; by default torch's own.

    Returns
    -------
    Triplets
        Sorted by anchor, then positive. With "all" there may be very many; `triplet_loss` does without the list.

    Raises
    ------
    OptionError, ShapeError
        An unknown rule, or arrays that do not fit.
    """
    if rule not in RULES:
        raise OptionError.unknown("unknown mining rule", rule, RULES)
    batch = _batch(positive, labels, both_orders)
    anchor, partner = batch.anchor, batch.positive
    ranked, order = (positive if negative is None else negative).masked_fill(batch.same, torch.inf).sort(1)
    start, stop = _allowed(positive, ranked, batch, margin, rule)
    if rule == "all":
        length = stop - start
        anchor, partner, start = (t.repeat_interleave(length) for t in (anchor, partner, start))
        before = (length.cumsum(0) - length).repeat_interleave(length)
        place = start + torch.arange(len(anchor), device=anchor.device) - before
    else:
        found = stop > start
        anchor, partner, start, stop = anchor[found], partner[found], start[found], stop[found]
        share = torch.rand(len(anchor), device=anchor.device, generator=generator)
        place = torch.minimum(start + (share * (stop - start)).long(), stop - 1)
    return Triplets(anchor, partner, order[anchor, place])


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    rule: Rule = "semi_hard",
    margin: float = MARGIN,
    reduction: Reduction = "active",
    both_orders: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 3 over the triplets that `rule` finds in a batch: ``sum max(0, D(a, p) - D(a, n) + margin)``, reduced.

    Parameters
    ----------
    embeddings
        (n, d) unit vectors, with gradients.
    labels
        (n,) integers, equal for pictures of one person.
    rule, margin, both_orders, generator
        As in `mine`.
    reduction
        See `Reduction`.

    Returns
    -------
    loss
        Scalar; 0 (with a gradient of 0) where no triplet was found.
    parts
        Scalars to watch: `active`, triplets with a loss by pairs of one person (by all triplets with "all");
        `distance`, the mean squared distance of two pictures, which goes to 0 when the network collapses (the loss then
        stays at the margin); `positive` and `negative`, the same within and across people.
    """
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    distances = squared_distances(embeddings, embeddings)
    loss, active = _loss(distances, distances, labels, rule, margin, reduction, both_orders, generator)
    return loss, {"active": active, **_spread(distances, labels)}


def harmonic_loss(
    old: Tensor,
    new: Tensor,
    labels: Tensor,
    *,
    kinds: tuple[Kind, ...] = KINDS,
    rule: Rule = "semi_hard",
    margin: float = MARGIN,
    reduction: Reduction = "active",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Harmonic triplet loss (appendix): the mean, over `kinds`, of the triplet loss with slots from two networks.

    Mined anew for each kind, in the distances of that kind. The three pictures of a triplet differ, also where two
    networks embedded them.

    Parameters
    ----------
    old
        (n, d) unit vectors of the frozen network; gradients do not go there.
    new
        (n, d) unit vectors of the network that is trained, of the same pictures.
    labels
        (n,) integers.
    kinds
        See `Kind`; all count the same. Which of them the authors used stands in a figure only.
    rule, margin, reduction, generator
        As in `triplet_loss`; pairs are taken in both orders, which differ here.

    Returns
    -------
    loss, parts
        As `triplet_loss`, and ``cross``: the mean squared distance between the two embeddings of a picture.
    """
    if old.shape != new.shape:
        raise ShapeError("the two networks' embeddings differ", got=f"{tuple(old.shape)}, {tuple(new.shape)}",
                         expected="one shape (n, d)")  # fmt: skip
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise OptionError("unknown kinds of harmonic triplets", got=kinds, expected=KINDS)
    wide = torch.float32 if new.dtype in (torch.float16, torch.bfloat16) else new.dtype
    vectors = {"1": old.detach().to(wide), "2": new.to(wide)}
    between = {a + b: squared_distances(vectors[a], vectors[b]) for a, b in ("11", "12", "22")}
    between["21"] = between["12"].T
    losses, active = [], []
    for a, p, n in kinds:
        loss, share = _loss(between[a + p], between[a + n], labels, rule, margin, reduction, True, generator)
        losses.append(loss)
        active.append(share)
    parts = {"active": torch.stack(active).mean(), "cross": between["12"].detach().diagonal().mean()}
    return torch.stack(losses).mean(), {**parts, **_spread(between["22"], labels)}


# ------------------------------------------------------------------------------------------- how it is done


class _Batch(NamedTuple):
    """Who is who in a batch: masks (n, n) of one person (a picture with itself too) and of pairs; the pairs' rows."""

    same: Tensor
    pairs: Tensor
    anchor: Tensor
    positive: Tensor


def _batch(distances: Tensor, labels: Tensor, both_orders: bool) -> _Batch:
    n = len(labels)
    if labels.ndim != 1 or distances.shape != (n, n):
        raise ShapeError("labels do not fit the distances", got=f"labels {tuple(labels.shape)}, "
                         f"distances {tuple(distances.shape)}", expected="(n,) and (n, n)")  # fmt: skip
    same = labels[:, None] == labels
    pairs = same & ~torch.eye(n, dtype=torch.bool, device=labels.device)
    if not both_orders:
        pairs = pairs.triu()
    return _Batch(same, pairs, *pairs.nonzero(as_tuple=True))


def _allowed(positive: Tensor, ranked: Tensor, batch: _Batch, margin: float, rule: Rule) -> tuple[Tensor, Tensor]:
    """For every pair the interval [start, stop) of its anchor's ranking that the rule allows: (pairs,) int64 each."""
    anchor = batch.anchor
    none = torch.zeros_like(anchor)
    count = (~batch.same).sum(1)[anchor]
    if rule == "random":
        return none, count
    if rule == "hard":
        return none, count.clamp(max=1)
    # Bisection goes by rows, of which anchors fill unlike many: the pairs of each stand at the left of its row.
    many = batch.pairs.sum(1)
    column = torch.arange(len(anchor), device=anchor.device) - (many.cumsum(0) - many)[anchor]
    own = positive.new_zeros(len(ranked), int(many.max()) if len(many) else 0)
    own[anchor, column] = positive[anchor, batch.positive]
    stop = torch.searchsorted(ranked, own + margin)[anchor, column]  # so many are nearer than the pair and the margin
    if rule in ("violator", "all"):
        return none, stop
    start = torch.searchsorted(ranked, own, right=True)[anchor, column]  # so many are not farther than the pair
    return start, torch.minimum(stop, start + 1) if rule == "nearest_semi_hard" else stop


def _loss(
    positive: Tensor,
    negative: Tensor,
    labels: Tensor,
    rule: Rule,
    margin: float,
    reduction: Reduction,
    both_orders: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the share of active triplets."""
    if reduction not in get_args(Reduction):
        raise OptionError.unknown("unknown reduction", reduction, get_args(Reduction))
    if not margin >= 0:
        raise ValueRangeError("the margin is out of range", got=margin, expected="at least 0")
    batch = _batch(positive, labels, both_orders)
    if rule == "all":
        total, active, count = _all(positive, negative, batch, margin)
        share = active / count.clamp_min(1)
    else:
        a, p, n = mine(positive.detach(), labels, rule=rule, margin=margin, negative=negative.detach(),
                       both_orders=both_orders, generator=generator)  # fmt: skip
        each = (positive[a, p] - negative[a, n] + margin).clamp_min(0)
        total, active = each.sum(), (each > 0).sum()
        count = torch.full_like(active, len(a))
        share = active / max(1, len(batch.anchor))
    over = {"active": active, "mean": count, "sum": torch.ones_like(count)}[reduction]
    return total / over.clamp_min(1), share


def _all(positive: Tensor, negative: Tensor, batch: _Batch, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over all triplets with a loss, their number, and that of all triplets; no triplet is ever written down.

    The negatives that a pair's loss comes from are the first k of its anchor's ranking, so their part of the sum is
    ``k (D(a, p) + m)`` less the sum of the first k distances, which is a running sum along the ranking.
    """
    ranked = negative.masked_fill(batch.same, torch.inf).sort(1).values
    with torch.no_grad():
        _, near = _allowed(positive.detach(), ranked.detach(), batch, margin, "all")
    sums = torch.where(ranked.isfinite(), ranked, 0).cumsum(1)
    sums = torch.cat([sums.new_zeros(len(sums), 1), sums], 1)[batch.anchor, near]
    total = (near * (positive[batch.anchor, batch.positive] + margin) - sums).sum()
    return total, near.sum(), (~batch.same).sum(1)[batch.anchor].sum()


@torch.no_grad()
def _spread(distances: Tensor, labels: Tensor) -> dict[str, Tensor]:
    batch = _batch(distances, labels, True)

    def mean(mask: Tensor) -> Tensor:
        return torch.where(mask, distances, 0).sum() / mask.sum().clamp_min(1)

    return {
        "distance": mean(batch.pairs | ~batch.same), "positive": mean(batch.pairs), "negative": mean(~batch.same),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- the embedding layer


def embedding_layers(network: nn.Module) -> list[nn.Linear | nn.BatchNorm1d]:
    """The layers that make the embedding: the last linear one but a classifier ``logits``, and a norm after it."""
    kinds = (nn.Linear, nn.BatchNorm1d)
    layers = [layer for name, layer in network.named_modules()
              if isinstance(layer, kinds) and name.rpartition(".")[2] != "logits"]  # fmt: skip
    linear = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    if not linear:
        raise OptionError("the network has no linear layer that makes an embedding", got=type(network).__name__)
    return layers[linear[-1] :]


def restart_embedding(network: nn.Module) -> None:
    """Gives the embedding layers random weights again: step 2 of the harmonic training (appendix).

    Without it the new network starts from an arbitrary rotation of the old one's space, and may stay there.
    """
    for layer in embedding_layers(network):
        layer.reset_parameters()


def rotation_onto(new: Tensor, old: Tensor) -> Tensor:
    """The orthogonal (d, d) matrix R that takes ``new @ R`` nearest to `old`, rows (n, d) of the same pictures.

    Orthogonal Procrustes (Schoenemann, 1966): a warm start for harmonic training in place of `restart_embedding`. Not
    from the paper.
    """
    if new.shape != old.shape or new.ndim != 2:
        raise ShapeError("embeddings do not fit", got=f"{tuple(new.shape)}, {tuple(old.shape)}", expected="(n, d) each")
    u, _, vh = torch.linalg.svd(new.T @ old)
    rotation: Tensor = u @ vh
    return rotation
