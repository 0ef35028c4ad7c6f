"""Negative pairs: the shared sum equals the written-out one and a double loop, quartiles are members, both learn."""

from __future__ import annotations

import itertools
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError
from mien.nn.negatives import (
    box_whisker,
    contrastive_term,
    gathered,
    negative_pairs,
    pairs_logsumexp,
    triplet_term,
    unified_loss,
    whiskers,
)


def batch(n: int = 14, d: int = 5, classes: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings that crowd, class vectors, and people, in float64."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, d, generator=g, dtype=torch.float64)
    weight = torch.randn(classes, d, generator=g, dtype=torch.float64)
    return x, weight, torch.randint(classes, (n,), generator=g)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def loop_pairs(x: Tensor, labels: Tensor) -> list[Tensor]:
    return [cosine(x[p], x[q]) for p, q in itertools.combinations(range(len(x)), 2) if labels[p] != labels[q]]


def loop_filter(values: list[Tensor], reach: float) -> list[Tensor]:
    ordered = sorted(float(v.detach()) for v in values)
    first, third = ordered[math.floor(0.25 * len(ordered))], ordered[math.floor(0.75 * len(ordered))]
    low, high = first - reach * (third - first), third + reach * (third - first)
    return [v for v in values if low <= float(v.detach()) <= high]


def loop_loss(x: Tensor, weight: Tensor, labels: Tensor, *, scale: float, reach: float, m: float) -> Tensor:
    """The formula, sample by sample and term by term, with CosFace's margin."""
    shared = loop_filter(loop_pairs(x, labels), reach)
    total = x.new_zeros(())
    for i in range(len(x)):
        own = cosine(x[i], weight[labels[i]]) - m
        below = torch.exp(scale * own)
        for j in range(len(weight)):
            if j != labels[i]:
                below = below + torch.exp(scale * cosine(x[i], weight[j]))
        for v in shared:
            below = below + torch.exp(scale * v)
        total = total - torch.log(torch.exp(scale * own) / below)
    return total / len(x)


def with_margin(x: Tensor, weight: Tensor, labels: Tensor, m: float) -> Tensor:
    cosines = F.normalize(x, dim=1) @ F.normalize(weight, dim=1).T
    return cosines - m * F.one_hot(labels, len(weight)).to(x.dtype)


@pytest.mark.parametrize("reach", [0.0, 0.5, 1.5, math.inf])
def test_the_loss_is_that_of_the_double_loop_and_of_the_concatenation_with_gradients(reach: float) -> None:
    x, weight, labels = batch()
    found = []
    for how in ("loop", "concatenated", "shared"):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if how == "loop":
            loss = loop_loss(a, w, labels, scale=16.0, reach=reach, m=0.35)
        else:
            cosines = with_margin(a, w, labels, 0.35)
            pairs = box_whisker(negative_pairs(a, labels), reach)
            if how == "concatenated":
                logits = torch.cat([cosines, pairs[None].expand(len(a), -1)], 1)
                loss = F.cross_entropy(16.0 * logits, labels)
            else:
                loss = unified_loss(cosines, labels, pairs, scale=16.0)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, w))))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-13)


def test_every_positive_must_exceed_every_negative() -> None:
    """The other form of the loss, ``log(1 + sum exp(s (n - c_i)))``; pairs count for samples that are not in them."""
    cosines = torch.tensor([[0.9, -0.2], [0.1, 0.7]], dtype=torch.float64)
    labels, pairs = torch.tensor([0, 1]), torch.tensor([0.8, -0.5], dtype=torch.float64)
    loss = unified_loss(cosines, labels, pairs, scale=8.0, reduction="none")
    for row, (own, others) in enumerate(((0.9, (-0.2, 0.8, -0.5)), (0.7, (0.1, 0.8, -0.5)))):
        assert float(loss[row]) == pytest.approx(math.log1p(sum(math.exp(8 * (v - own)) for v in others)))


def test_the_gradient_of_a_pair_reaches_both_members_and_nobody_else() -> None:
    x, _, labels = batch()
    x.requires_grad_()
    pairs = negative_pairs(x, labels)
    different = [(p, q) for p, q in itertools.combinations(range(len(x)), 2) if labels[p] != labels[q]]
    assert len(pairs) == len(different)
    for value, (p, q) in zip(pairs, different, strict=True):
        torch.testing.assert_close(value, cosine(x[p], x[q]))
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert gradient.abs().sum(1).nonzero().squeeze(1).tolist() == [p, q]


def test_what_the_filter_removes_has_no_gradient_and_the_rest_has() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 9.0, -9.0], dtype=torch.float64, requires_grad=True)
    kept = box_whisker(values, 1.5)
    assert kept.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    kept.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 1, 1, 1, 0, 0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.5, 1.0, 1.5]),
)
def test_survivors_are_those_of_the_index_quartiles(values: list[float], reach: float) -> None:
    given_ = torch.tensor(values, dtype=torch.float64)
    want = torch.stack(kept) if (kept := loop_filter(list(given_), reach)) else given_[:0]
    assert torch.equal(box_whisker(given_, reach), want)


def test_quartiles_are_not_interpolated() -> None:
    values = torch.tensor([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])  # places 1 and 4 of the sorted six: 2 and 5
    low, high = whiskers(values, 1.0)
    assert (float(low), float(high)) == (2 - 3, 5 + 3)
    assert float(torch.quantile(values, 0.25)) != 2


def test_nothing_to_compare_leaves_the_plain_cross_entropy() -> None:
    x, weight, _ = batch()
    labels = torch.full((len(x),), 2)
    w = weight.clone().requires_grad_()
    cosines = with_margin(x, w, labels, 0.2)
    pairs = box_whisker(negative_pairs(x, labels), 1.5)
    assert pairs.shape == (0,)
    loss = unified_loss(cosines, labels, pairs, scale=8.0)
    torch.testing.assert_close(loss, F.cross_entropy(8 * cosines, labels))
    (gradient,) = torch.autograd.grad(loss, w)
    assert torch.isfinite(gradient).all()
    assert float(pairs_logsumexp(x, labels, scale=8.0)) == -math.inf


def test_the_scalar_for_class_layers_is_the_sum_of_the_pairs() -> None:
    x, _, labels = batch()
    kept = loop_filter(loop_pairs(x, labels), 1.5)
    want = math.log(sum(math.exp(16 * float(v)) for v in kept))
    assert float(pairs_logsumexp(x, labels, scale=16.0, reach=1.5)) == pytest.approx(want)


def test_narrow_numbers_are_widened_and_large_scales_stay_finite() -> None:
    x, weight, labels = batch(n=40, classes=9)
    wide = negative_pairs(x.float(), labels)
    narrow = negative_pairs(x.bfloat16(), labels)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, atol=0.02, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(negative_pairs(x.float(), labels), wide)
    a = x.bfloat16().requires_grad_()
    loss = unified_loss(with_margin(a.float(), weight.float(), labels, 0.5), labels, negative_pairs(a, labels))
    loss.backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_the_triplet_term_is_that_of_three_loops(margin: float) -> None:
    x, _, labels = batch()
    found = []
    for naive in (True, False):
        a = x.clone().requires_grad_()
        if naive:
            z = a / a.norm(dim=1, keepdim=True)
            losses = []
            for i, p, n in itertools.product(range(len(x)), repeat=3):
                if i != p and labels[i] == labels[p] and labels[i] != labels[n]:
                    gap = (z[i] - z[p]).norm() - (z[i] - z[n]).norm() + margin
                    losses += [gap] if gap > 0 else []
            loss = torch.stack(losses).mean()
        else:
            loss = triplet_term(a, labels, margin=margin)
        found.append((loss.detach(), *torch.autograd.grad(loss, a)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)


def test_the_contrastive_term_is_that_of_two_loops() -> None:
    x, _, labels = batch()
    found = []
    for naive in (True, False):
        a = x.clone().requires_grad_()
        if naive:
            z = a / a.norm(dim=1, keepdim=True)
            near, far = [], []
            for p, q in itertools.combinations(range(len(x)), 2):
                d = (z[p] - z[q]).norm()
                (near if labels[p] == labels[q] else far).append(d if labels[p] == labels[q] else 1 - d)
            loss = torch.stack([v for v in near if v > 0]).mean() + torch.stack([v for v in far if v > 0]).mean()
        else:
            loss = contrastive_term(a, labels)
        found.append((loss.detach(), *torch.autograd.grad(loss, a)))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)


def test_equal_pictures_have_distance_nought_and_no_infinite_gradient() -> None:
    x = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    for loss in (
        triplet_term(x, torch.tensor([0, 0, 1]), margin=0.5),
        contrastive_term(x, torch.tensor([0, 0, 1])),
    ):
        (gradient,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(gradient).all()
    assert float(triplet_term(x, torch.tensor([0, 0, 1]), margin=0.5).detach()) == 0.5
    assert float(contrastive_term(x, torch.tensor([0, 0, 0])).detach()) == 0


# ------------------------------------------------------------------------------------------- several processes

PROGRAM = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_negatives import Whole, steps
torch.set_num_threads(1)
rank, world, port, out = *map(int, sys.argv[1:4]), sys.argv[4]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
for second in ("unpg", "triplet", "contrastive"):
    whole = Whole(second)
    losses = steps(whole, DistributedDataParallel(whole), rank, world)
    torch.save({"losses": losses, **whole.state_dict()}, f"{out}/{second}-{rank}.pt")
dist.barrier()  # nobody leaves while another still talks to it
dist.destroy_process_group()
"""


class Whole(nn.Module):
    """A network and a normalised softmax, with pairs of everybody's embeddings in its denominator or beside it."""

    def __init__(self, second: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.people, self.second = nn.Linear(6, 5), nn.Parameter(torch.randn(7, 5)), second
        self.double()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        z = self.trunk(x)
        cosines = F.normalize(z, dim=1) @ F.normalize(self.people, dim=1).T
        everybody, who = gathered(z), gathered(labels)
        pairs = box_whisker(negative_pairs(everybody, who), 1.5) if self.second == "unpg" else z.new_zeros(0)
        loss = unified_loss(cosines, labels, pairs, scale=10.0)
        term = {"triplet": triplet_term, "contrastive": contrastive_term}.get(self.second)
        return loss if term is None else loss + term(everybody, who)


def steps(whole: Whole, wrapped: nn.Module, rank: int, world: int) -> Tensor:
    """Losses (3,) of three steps, this process seeing its share of each batch."""
    sgd = torch.optim.SGD(whole.parameters(), lr=0.1)
    losses = []
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        x, labels = torch.randn(10, 6, generator=g, dtype=torch.float64), torch.randint(7, (10,), generator=g)
        mine = slice(rank * 10 // world, (rank + 1) * 10 // world)
        loss = wrapped(x[mine], labels[mine])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_two_processes_see_the_pairs_of_the_whole_batch(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = [
        subprocess.Popen(
            [sys.executable, tmp_path / "program.py", *map(str, (rank, 2, port, tmp_path))],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    for second in ("unpg", "triplet", "contrastive"):
        whole = Whole(second)
        losses = steps(whole, whole, 0, 1)
        parts = [torch.load(tmp_path / f"{second}-{rank}.pt", weights_only=True) for rank in range(2)]
        torch.testing.assert_close((parts[0]["losses"] + parts[1]["losses"]) / 2, losses, rtol=1e-12, atol=0)
        for part in parts:
            for name, value in whole.state_dict().items():
                torch.testing.assert_close(part[name], value, rtol=1e-11, atol=1e-14)
    first = [Whole("unpg"), Whole("unpg"), Whole("unpg")]
    apart = [steps(first[rank], first[rank], rank, 2)[0] for rank in range(2)]
    together = steps(first[2], first[2], 0, 1)[0]
    assert float((apart[0] + apart[1]) / 2) < float(together) - 1e-3  # pairs of one's own share alone are another loss


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3, 2)
    assert gathered(x) is x


# ------------------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused() -> None:
    x, weight, labels = batch()
    cosines = with_margin(x, weight, labels, 0.0)
    with pytest.raises(OptionError, match="reach"):
        box_whisker(torch.ones(3), -0.1)
    with pytest.raises(OptionError, match="reach"):
        whiskers(torch.ones(3), math.nan)
    with pytest.raises(ShapeError, match="vector"):
        whiskers(torch.ones(2, 2))
    with pytest.raises(ShapeError, match="vector"):
        whiskers(torch.ones(0))
    for call in (negative_pairs, triplet_term, contrastive_term):
        with pytest.raises(ShapeError, match="do not fit"):
            call(x, labels[1:])
    with pytest.raises(ShapeError, match="do not fit"):
        unified_loss(cosines, labels, torch.ones(2, 2))
    with pytest.raises(OptionError, match="reduction"):
        unified_loss(cosines, labels, torch.ones(2), reduction="sum")  # type: ignore[arg-type]
