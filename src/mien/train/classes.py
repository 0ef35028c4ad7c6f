"""Class layers larger than a machine: losses of cosines to class vectors, shared among processes, sampled negatives.

A recogniser trained on a million people has a last layer of a million rows, which is used in training only. Here every
process of a `torch.distributed` group holds a contiguous share of the rows, sees the embeddings of the whole batch, and
computes the logits of its own classes; three small reductions give the loss. With ``sample < 1`` a process computes
only its classes that occur in the batch and a random choice of the others (Partial FC: An et al., "Killing Two Birds
with One Stone", CVPR 2022), and only these rows are updated.

    layer = PartialFC(512, classes=1_000_000, margin=arcface(0.5), scale=64.0, sample=0.1)
    rows = RowSGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loss = layer(trunk(images), labels)     # the same value in every process: the mean over the whole batch
    loss.backward()
    rows.step()

The trunk is to be wrapped by `DistributedDataParallel`, which averages its gradients over the processes. The gradient
that the layer hands to the embeddings is that of the sum over processes of the losses, so that the average is the
gradient of the mean loss. The layer itself must stay outside of DDP: its rows are different in every process.

Without a process group the layer is the ordinary one, of all classes. Its loss can be differentiated once only: the
gradient takes the memory of the probabilities.

`PartialFC` is a softmax with a margin on the own class: `softmax` (none), `cosface`, `arcface`, `combined`, or
`MagFace`, whose margin grows with the length of the embedding. `SFaceLayer` needs no softmax: it pulls and pushes with
forces that fade out (Zhong et al., "SFace", IEEE TIP 2021). Both are `ClassLayer`: rows, sharing and checkpoints are
the same, and a loss of one's own is a subclass with `loss_of`.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError

__all__ = [
    "ClassLayer", "MagFace", "Margin", "Negatives", "NormMargin", "PartialFC", "RowAdamW", "RowSGD", "SFaceLayer",
    "arcface", "combined", "cosface", "sface_factors", "shares", "softmax",
]  # fmt: skip

Margin = Callable[[Tensor], Tensor]
"""Cosines (B,) of samples to their own classes -> the cosines that take their place in the logits."""

Negatives = Callable[[Tensor, Tensor], Tensor]
"""Embeddings (B, dim) and classes (B,) of the whole batch -> a scalar, the logarithm of a sum of exponentials (of
scaled cosines) that joins every sample's denominator. Minus infinity where there is nothing to join."""

_EPS = 1e-7
"""The arc cosine has no slope at +-1, and none at all beyond, where rounding may lead."""


def softmax() -> Margin:
    """No margin: the normalised softmax (Wang et al., NormFace, 2017)."""
    return lambda cosine: cosine


def cosface(m: float = 0.35) -> Margin:
    """``cos t - m`` (Wang et al., CosFace, CVPR 2018, equation 4)."""
    return lambda cosine: cosine - m


def arcface(m: float = 0.5) -> Margin:
    """``cos(t + m)`` (Deng et al., ArcFace, CVPR 2019, equation 3), as `combined`."""
    return combined(1.0, m, 0.0)


def combined(m1: float = 1.0, m2: float = 0.0, m3: float = 0.0) -> Margin:
    """``cos(m1 t + m2) - m3`` (ArcFace, equation 4), continued beyond ``m1 t + m2 = pi`` so that it stays falling.

    There the cosine would rise again and reward a sample for moving away; ``-2 - cos`` takes over, which meets it in
    value and slope (the continuation of SphereFace, one step of it).

    Parameters
    ----------
    m1
        Factor of the angle, at least 1.
    m2
        Added angle in radians, 0 to pi.
    m3
        Taken from the cosine.

    Raises
    ------
    OptionError
        A margin out of its range.
    """
    if not (1 <= m1 <= 2 and 0 <= m2 <= math.pi and math.isfinite(m3)):
        raise OptionError(
            "a margin is out of its range", got=f"m1={m1}, m2={m2}, m3={m3}", expected="m1 1 to 2, m2 0 to pi radians"
        )

    def apply(cosine: Tensor) -> Tensor:
        angle = m1 * torch.acos(cosine.clamp(-1 + _EPS, 1 - _EPS)) + m2
        return torch.where(angle <= math.pi, torch.cos(angle), -2 - torch.cos(angle)) - m3

    return apply


class NormMargin(ABC):
    """A margin that depends on the length of the embedding, too."""

    @abstractmethod
    def __call__(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """Cosines (B,) to the own classes and lengths (B,) of the embeddings -> the cosines that take their place."""

    def penalty(self, norm: Tensor) -> Tensor:
        """What is added to each sample's loss for the length (B,) of its embedding."""
        return torch.zeros_like(norm)


@dataclass(frozen=True, kw_only=True)
class MagFace(NormMargin):
    """``cos(t + m(a))``, a the length of the embedding: easy pictures get long vectors and a large margin.

    Meng et al., "MagFace", CVPR 2021, equations 3 to 5; the numbers are the released ones. The margin is applied where
    the cosine is above 0 only ("easy margin"), and lengths outside of the range count as its ends.

    Parameters
    ----------
    low, high
        Range of lengths, l_a and u_a.
    low_margin, high_margin
        Margins at the two ends in radians, l_m and u_m.
    weight
        Of the penalty ``a / high^2 + 1 / a``, which asks for long vectors; lambda_g.

    Raises
    ------
    OptionError
        A range that is none.
    """

    low: float = 10.0
    high: float = 110.0
    low_margin: float = 0.45
    high_margin: float = 0.8
    weight: float = 35.0

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high < math.inf and 0 <= self.low_margin <= self.high_margin <= math.pi):
            raise OptionError("MagFace's lengths or margins are no range", got=self, expected="0 < low < high")

    def margin(self, norm: Tensor) -> Tensor:
        """Margin (B,) in radians for lengths (B,): linear between the two ends (equation 4)."""
        slope = (self.high_margin - self.low_margin) / (self.high - self.low)
        return self.low_margin + slope * (norm.clamp(self.low, self.high) - self.low)

    def __call__(self, cosine: Tensor, norm: Tensor) -> Tensor:
        angle = torch.acos(cosine.clamp(-1 + _EPS, 1 - _EPS)) + self.margin(norm)
        return torch.where(cosine > 0, torch.cos(angle), cosine)

    def penalty(self, norm: Tensor) -> Tensor:
        a = norm.clamp(self.low, self.high)
        return self.weight * (a / self.high**2 + 1 / a)


def shares(classes: int, world: int) -> list[range]:
    """Which classes each of `world` processes holds: contiguous, and at most one more than another."""
    few, more = divmod(classes, world)
    ends = [rank * few + min(rank, more) for rank in range(world + 1)]
    return [range(ends[rank], ends[rank + 1]) for rank in range(world)]


class ClassLayer(nn.Module, ABC):
    """A loss of the cosines of a batch to class vectors, the rows being shared among the processes of `group`.

    Parameters
    ----------
    dim
        Length of an embedding.
    classes
        Number of classes, of all processes together.
    scale
        Factor of the cosines, the inverse temperature s.
    sample
        Share of a process's classes that take part in a step, 0 < sample <= 1. The classes of the batch always do,
        even where they are more.
    seed
        Of the first rows and of the samples drawn.
    spread
        Standard deviation of the first rows, whose mean is 0. Only their directions count in the loss, but the longer
        rows are, the more slowly they turn.
    group
        Process group; by default the whole world, if there is one.

    Attributes
    ----------
    weight
        (rows, dim) the rows of this process, one class each, not normalised.
    held
        The range of classes of this process.
    told
        Scalars of the last batch that are worth logging; their mean over the processes is that of the whole batch.

    Raises
    ------
    OptionError
        A number out of its range, or more processes than classes.
    """

    def __init__(
        self,
        dim: int,
        *,
        classes: int,
        scale: float = 64.0,
        sample: float = 1.0,
        seed: int = 0,
        spread: float = 0.01,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.group = group
        self.world = dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
        self.rank = dist.get_rank(group) if self.world > 1 else 0
        for name, value, right, expected in (
            ("dim", dim, dim >= 1, "at least 1"),
            ("classes", classes, classes >= self.world, f"at least one for each of {self.world} processes"),
            ("sample", sample, 0 < sample <= 1, "above 0, at most 1"),
            ("scale", scale, 0 < scale < math.inf, "a finite number above 0"),
            ("spread", spread, 0 < spread < math.inf, "a finite number above 0"),
        ):
            if not right:
                raise OptionError(f"{name} is out of range", got=value, expected=expected)
        self.classes, self.scale, self.sample, self.seed, self.spread = classes, scale, sample, seed, spread
        self.held = shares(classes, self.world)[self.rank]
        self.weight = nn.Parameter(self._first_rows(dim))
        self.told: dict[str, Tensor] = {}
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.step: Tensor

    def extra_repr(self) -> str:
        return (
            f"{self.weight.shape[1]}, classes={self.classes}, held={self.held.start}..{self.held.stop - 1}, "
            f"scale={self.scale}, sample={self.sample}"
        )

    def _first_rows(self, dim: int) -> Tensor:
        """Rows that do not depend on the number of processes: drawn in blocks of classes, each by its own seed."""
        rows = torch.empty(len(self.held), dim)
        for block in range(self.held.start // _BLOCK, -(-self.held.stop // _BLOCK)):
            whole = torch.randn(_BLOCK, dim, generator=_generator(self.seed, "rows", block)) * self.spread
            low, high = max(block * _BLOCK, self.held.start), min((block + 1) * _BLOCK, self.held.stop)
            rows[low - self.held.start : high - self.held.start] = whole[low - block * _BLOCK : high - block * _BLOCK]
        return rows

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batches of all processes.

        Parameters
        ----------
        embeddings
            (b, dim) of this process's samples, need not be normalised; the same b in every process.
        labels
            (b,) int64 classes, 0 to ``classes - 1``.

        Returns
        -------
        Scalar, equal in all processes.

        Raises
        ------
        ShapeError, ValueRangeError
            Embeddings and labels that do not fit the layer.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.weight.shape[1] or labels.shape != embeddings.shape[:1]:
            raise ShapeError(
                "embeddings and labels do not fit the class layer",
                got=f"{tuple(embeddings.shape)}, {tuple(labels.shape)}",
                expected=f"(b, {self.weight.shape[1]}), (b,)",
            )
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            raise ValueRangeError(
                "labels are not classes of the layer",
                got=f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "none",
                expected=f"0 to {self.classes - 1}",
            )
        if self.world > 1:
            embeddings, labels = _Gather.apply(embeddings, self.group), _gathered(labels, self.group)
        rows, column = self.chosen(labels)
        # `embedding` gives a gradient of the chosen rows alone, which is what makes sampling cheap.
        weight = self.weight if rows is None else F.embedding(rows, self.weight, sparse=True)
        # Products of 16-bit embeddings stay in 16 bits; what follows is in float32.
        unit = F.normalize(weight.to(embeddings.dtype) if embeddings.dtype != torch.float64 else weight.double(), dim=1)
        cosines = F.linear(F.normalize(embeddings, dim=1), unit)
        if cosines.dtype in (torch.float16, torch.bfloat16):
            cosines = cosines.float()
        # Each figure is of what this process holds; the mean over processes is to be that of the batch.
        row = (column >= 0).nonzero().squeeze(1)
        own = cosines.detach()[row, column[row]].sum() / len(column)
        self.told = {"own_cosine": own * self.world}
        loss = self.loss_of(cosines, column, embeddings, labels)
        if self.training:
            self.step += 1
        return loss

    @abstractmethod
    def loss_of(self, cosines: Tensor, column: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar that is equal in all processes.

        Parameters
        ----------
        cosines
            (B, n) of the whole batch to those classes of this process that take part, float32 or float64.
        column
            (B,) int64 place of each sample's class among these, -1 where another process holds it.
        embeddings, labels
            (B, dim) not normalised, and (B,), of the whole batch.

        Gradients of the processes are summed up: each gives that of what it holds.
        """

    @torch.no_grad()
    def chosen(self, labels: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which rows take part, and where each sample's class stands among them.

        Parameters
        ----------
        labels
            (B,) classes of the whole batch.

        Returns
        -------
        rows, column
            (m,) int64 rows of `weight` in ascending order, None for all of them; (B,) int64 the place of each
            sample's class among them, -1 where another process holds it.
        """
        here = (labels >= self.held.start) & (labels < self.held.stop)
        row = torch.where(here, labels - self.held.start, -1)
        if self.sample == 1 or not self.training:
            return None, row
        # Classes of the batch come first by their key; random keys in [0, 1) choose among the others.
        key = torch.rand(len(self.held), generator=_generator(self.seed, "sample", int(self.step), self.rank))
        key = key.to(labels.device)
        present = torch.unique(row[here])
        key[present] = 2.0
        count = max(len(present), math.ceil(self.sample * len(self.held)))
        rows = torch.topk(key, count, sorted=False).indices.sort().values
        return rows, torch.where(here, torch.searchsorted(rows, row), -1)

    def _reducer(self) -> Callable[[Tensor, str], None]:
        """In-place reduction over the group: "sum" or "max"; nothing to do for a single process."""
        if self.world == 1:
            return lambda tensor, how: None
        kinds = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}

        def reduce(tensor: Tensor, how: str) -> None:
            dist.all_reduce(tensor, op=kinds[how], group=self.group)

        return reduce

    def shard_state(self, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
        """What a checkpoint of this process holds: its rows, which they are, the step, and the optimiser's rows."""
        moments = {} if optimizer is None else optimizer.state.get(self.weight, {})
        return {
            "weight": self.weight.detach().cpu(), "first": self.held.start, "classes": self.classes,
            "step": int(self.step), "moments": {name: rows.cpu() for name, rows in moments.items()},
        }  # fmt: skip

    @torch.no_grad()
    def load_shards(self, states: Iterable[Mapping[str, Any]], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Takes this process's rows from the states of all processes of a run, of whatever number.

        Raises
        ------
        CheckpointError
            The states are of another layer, or leave rows out.
        """
        missing = torch.ones(len(self.held), dtype=torch.bool)
        moments: dict[str, Tensor] = {}
        step = 0
        for state in states:
            weight, first = state["weight"], int(state["first"])
            if state["classes"] != self.classes or weight.shape[1] != self.weight.shape[1]:
                raise CheckpointError(
                    "a shard is of another class layer",
                    got=f"{state['classes']} classes of {weight.shape[1]}",
                    expected=f"{self.classes} classes of {self.weight.shape[1]}",
                )
            low, high = max(first, self.held.start), min(first + len(weight), self.held.stop)
            step = max(step, int(state["step"]))
            if low >= high:
                continue
            here, there = slice(low - self.held.start, high - self.held.start), slice(low - first, high - first)
            self.weight[here] = weight[there].to(self.weight)
            missing[here] = False
            for name, rows in state["moments"].items():
                if name not in moments:
                    moments[name] = rows.new_zeros(len(self.held), *rows.shape[1:]).to(self.weight.device)
                moments[name][here] = rows[there].to(self.weight.device)
        if missing.any():
            raise CheckpointError(
                "shards of the class layer are missing",
                got=f"{int((~missing).sum())} rows",
                expected=f"classes {self.held.start} to {self.held.stop - 1}",
                hint="give the states of all processes of the run",
            )
        self.step.fill_(step)
        if optimizer is not None and moments:
            optimizer.state[self.weight] = moments


class PartialFC(ClassLayer):
    """Margin softmax: cross-entropy of `scale` times the cosines, the own class's with a margin.

    Parameters
    ----------
    dim, classes, scale, sample, seed, spread, group
        See `ClassLayer`.
    margin
        What happens to the cosine of a sample to its own class; `arcface` if none is given.
    negatives
        More negatives beside the classes, the same for every sample; see `Negatives`.
    """

    def __init__(
        self,
        dim: int,
        *,
        classes: int,
        margin: Margin | NormMargin | None = None,
        scale: float = 64.0,
        sample: float = 1.0,
        seed: int = 0,
        spread: float = 0.01,
        group: dist.ProcessGroup | None = None,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__(dim, classes=classes, scale=scale, sample=sample, seed=seed, spread=spread, group=group)
        self.margin = margin if margin is not None else arcface()
        self.negatives = negatives

    def loss_of(self, cosines: Tensor, column: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        if self.negatives is not None and self.rank == 0:
            # One column stands for all of them: e^(s * (L / s)) is their sum. One process is enough to hold it.
            shared = self.negatives(embeddings, labels).to(cosines.dtype) / self.scale
            cosines = torch.cat([cosines, shared.expand(len(cosines), 1)], 1)
        adaptive = isinstance(self.margin, NormMargin)
        norms = embeddings.to(cosines.dtype).norm(dim=1) if adaptive else None
        loss: Tensor = _SharedCrossEntropy.apply(cosines, norms, column, self.margin, self.scale, self._reducer())
        if isinstance(self.margin, NormMargin) and norms is not None:
            penalty = self.margin.penalty(norms).mean()
            self.told |= {"norm": norms.detach().mean(), "penalty": penalty.detach()}
            # Every process sees the whole batch, and what they send back is summed up: each sends its share.
            loss = loss + penalty.detach() + (penalty - penalty.detach()) / self.world
        return loss


class SFaceLayer(ClassLayer):
    """SFace: each cosine is pulled or pushed with a force that fades out as a sigmoid of its angle (`sface_factors`).

    ``L = mean_i ( -r_intra(t_iy) cos_iy + sum_{j != y} r_inter(t_ij) cos_ij )``, the factors r being constants for the
    gradient. There is no common denominator, so that processes need not talk about anything but the loss's value.

    Parameters
    ----------
    dim, classes, scale, seed, spread, group
        See `ClassLayer`. All classes take part: the sum over the others is part of the loss.
    a, b
        Angles in radians at which the pull to the own class and the push from another have half of their force.
    k
        Slope of the sigmoids, 1/radian.

    Raises
    ------
    OptionError
        ``0 < a < b < pi`` and ``k > 0`` do not hold.
    """

    def __init__(
        self,
        dim: int,
        *,
        classes: int,
        scale: float = 64.0,
        a: float = 0.8,
        b: float = 1.23,
        k: float = 80.0,
        seed: int = 0,
        spread: float = 0.01,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(dim, classes=classes, scale=scale, seed=seed, spread=spread, group=group)
        if not (0 < a < b < math.pi and 0 < k < math.inf):
            raise OptionError("SFace's angles or slope are out of range", got=f"a={a}, b={b}, k={k}",
                              expected="0 < a < b < pi radians, k above 0")  # fmt: skip
        self.a, self.b, self.k = a, b, k

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a={self.a}, b={self.b}, k={self.k}"

    def loss_of(self, cosines: Tensor, column: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        del embeddings, labels
        factors = sface_factors(cosines, column, scale=self.scale, a=self.a, b=self.b, k=self.k)
        here: Tensor = (factors * cosines).sum() / len(cosines)
        row = (column >= 0).nonzero().squeeze(1)
        own = column[row]
        intra = (factors[row, own] * cosines.detach()[row, own]).sum() / len(cosines)
        self.told |= {"intra": intra * self.world, "inter": (here.detach() - intra) * self.world}
        total = here.detach().clone()
        self._reducer()(total, "sum")
        return here + (total - here.detach())


@torch.no_grad()
def sface_factors(cosines: Tensor, column: Tensor, *, scale: float, a: float, b: float, k: float) -> Tensor:
    """Factors (B, n) of the cosines in SFace's loss: the gradient itself, but for 1 / B (r_intra and r_inter).

    ``-s / (1 + exp(-k (t - a)))`` at a sample's own class, ``s / (1 + exp(k (t - b)))`` at the others, t being the
    angle in radians.

    Parameters
    ----------
    cosines
        (B, n) float32 or float64.
    column
        (B,) int64 place of the own class, -1 where it is not among the n.
    """
    angle = torch.acos(cosines.clamp(-1 + _EPS, 1 - _EPS))
    row = (column >= 0).nonzero().squeeze(1)
    pull = torch.sigmoid(k * (angle[row, column[row]] - a))
    factors = angle.sub_(b).mul_(-k).sigmoid_().mul_(scale)
    factors[row, column[row]] = -scale * pull
    return factors


_BLOCK = 4096
"""Rows that are drawn together, so that a layer's first rows are the same for any number of processes."""


def _generator(*parts: object) -> torch.Generator:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _gathered(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Embeddings of all processes, (b, d) -> (world b, d); the gradient is summed over them and goes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.rows = group, len(tensor)
        return _gathered(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.rows
        # DDP divides by the number of processes what it sums over them; the loss is already a mean.
        return total[first : first + ctx.rows] * dist.get_world_size(ctx.group), None


class _SharedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``scale * cosines``, the own class's with a margin, over columns held by several processes.

    One (B, n) array is all that is kept: cosines become logits, probabilities and the gradient in the same memory.
    """

    @staticmethod
    def forward(
        ctx: Any, cosines: Tensor, norms: Tensor | None, column: Tensor, margin: Any, scale: float,
        reduce: Callable[[Tensor, str], None],
    ) -> Tensor:  # fmt: skip
        row = (column >= 0).nonzero().squeeze(1)
        own = column[row]
        with torch.enable_grad():
            given = [cosines[row, own].detach().requires_grad_()]
            given += [] if norms is None else [norms[row].detach().requires_grad_()]
            moved = margin(*given)
            slopes = torch.autograd.grad(moved.sum(), given) if len(row) else tuple(given)
        logits = cosines.detach().mul_(scale)
        logits[row, own] = scale * moved.detach()
        largest = logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), -math.inf)
        reduce(largest, "max")
        logits -= largest[:, None]
        # Every sample's class is held by exactly one process; the others add nothing.
        correct = logits.new_zeros(len(logits))
        correct[row] = logits[row, own]
        total = logits.exp_().sum(1)
        both = torch.stack([total, correct])
        reduce(both, "sum")
        logits /= both[0][:, None]
        ctx.save_for_backward(logits, row, own, *slopes)
        ctx.factor = scale / len(logits)
        return (both[0].log() - both[1]).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        probabilities, row, own, *slopes = ctx.saved_tensors
        gradient = probabilities.mul_(gradients[0] * ctx.factor)
        moved = gradient[row, own] - gradients[0] * ctx.factor
        gradient[row, own] = moved * slopes[0]
        by_norm = None
        if len(slopes) > 1:
            by_norm = gradient.new_zeros(len(gradient))
            by_norm[row] = moved * slopes[1]
        return gradient, by_norm, None, None, None, None


class _Rows(torch.optim.Optimizer):
    """Base of optimisers that update, of a parameter with a sparse gradient, only the rows that have one."""

    def _touched(self) -> Iterator[tuple[dict[str, Any], Tensor, Tensor | None, Tensor]]:
        """Group, parameter, touched rows (None: all), and their gradient, of every parameter that has one."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not parameter.grad.is_sparse:
                    yield group, parameter, None, parameter.grad
                    continue
                gradient = parameter.grad.coalesce()
                yield group, parameter, gradient.indices()[0], gradient.values()


class RowSGD(_Rows):
    """SGD with momentum, as `torch.optim.SGD`, on the touched rows alone: others keep value and momentum.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        _check_rates(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; closures are not taken, since a step's sample is drawn by the loss."""
        for group, parameter, rows, gradient in self._touched():
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            value = parameter if rows is None else parameter[rows]
            change = gradient.add(value, alpha=group["weight_decay"]) if group["weight_decay"] else gradient
            if rows is None:
                state["momentum"].mul_(group["momentum"]).add_(change)
                parameter.add_(state["momentum"], alpha=-group["lr"])
            else:
                moved = state["momentum"][rows].mul_(group["momentum"]).add_(change)
                state["momentum"][rows] = moved
                parameter[rows] = value.add_(moved, alpha=-group["lr"])


class RowAdamW(_Rows):
    """AdamW, as `torch.optim.AdamW`, on the touched rows alone; every row counts its own steps for the bias.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        _check_rates(lr=lr, momentum=betas[0], beta2=betas[1], weight_decay=weight_decay)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; closures are not taken, since a step's sample is drawn by the loss."""
        for group, parameter, rows, gradient in self._touched():
            state = self.state[parameter]
            if not state:
                state["steps"] = torch.zeros(len(parameter), 1, dtype=torch.float64, device=parameter.device)
                state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            at: Any = slice(None) if rows is None else rows
            first, second = group["betas"]
            count = state["steps"][at] + 1
            mean = state["mean"][at].lerp(gradient, 1 - first)
            square = (second * state["square"][at]).addcmul_(gradient, gradient, value=1 - second)
            state["steps"][at], state["mean"][at], state["square"][at] = count, mean, square
            size = (square / (1 - second**count).to(square.dtype)).sqrt_().add_(group["eps"])
            value = parameter[at] * (1 - group["lr"] * group["weight_decay"])
            parameter[at] = value - (group["lr"] / (1 - first**count)).to(mean.dtype) * mean / size


def _check_rates(*, lr: float, weight_decay: float, **betas: float) -> None:
    if not (0 < lr < math.inf and 0 <= weight_decay < math.inf and all(0 <= beta < 1 for beta in betas.values())):
        raise OptionError(
            "a number of the optimiser is out of range",
            got={"lr": lr, "weight_decay": weight_decay, **betas},
            expected="lr above 0, weight_decay at least 0, momentum and betas 0 to 1",
        )
