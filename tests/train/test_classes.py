"""The class layer: loss and gradients against naive ones, shared against whole, sampled rows, and its optimisers."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError
from mien.train.classes import (
    MagFace,
    PartialFC,
    RowAdamW,
    RowSGD,
    SFaceLayer,
    arcface,
    combined,
    cosface,
    shares,
    softmax,
)

MARGINS = {
    "softmax": (softmax(), lambda c: c),
    "cosface": (cosface(0.35), lambda c: c - 0.35),
    "arcface": (
        arcface(0.5),
        lambda c: math.cos(math.acos(c) + 0.5) if math.acos(c) + 0.5 <= math.pi else -2 - math.cos(math.acos(c) + 0.5),
    ),
    "combined": (combined(1.1, 0.2, 0.1), lambda c: math.cos(1.1 * math.acos(c) + 0.2) - 0.1),
}


def batch(count: int, dim: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, dim, generator=generator, dtype=torch.float64),
        torch.randint(classes, (count,), generator=generator),
    )


def naive(z: Tensor, weight: Tensor, labels: Tensor, margin: Any, scale: float) -> float:
    total = 0.0
    for sample, label in zip(z.tolist(), labels.tolist(), strict=True):
        cosines = []
        for row in weight.tolist():
            product = sum(a * b for a, b in zip(sample, row, strict=True))
            cosines.append(product / math.hypot(*sample) / math.hypot(*row))
        cosines[label] = margin(cosines[label])
        total -= scale * cosines[label] - math.log(sum(math.exp(scale * c) for c in cosines))
    return total / len(z)


@pytest.mark.parametrize("name", MARGINS)
def test_the_loss_is_the_one_written_out(name: str) -> None:
    margin, plain = MARGINS[name]
    layer = PartialFC(5, classes=7, margin=margin, scale=8.0).double()
    z, labels = batch(6, 5, 7)
    assert layer(z, labels).item() == pytest.approx(naive(z, layer.weight, labels, plain, 8.0), rel=1e-12)


@pytest.mark.parametrize("name", MARGINS)
def test_gradients_are_those_of_the_plain_formula(name: str) -> None:
    margin = MARGINS[name][0]
    layer = PartialFC(5, classes=7, margin=margin, scale=8.0).double()
    z, labels = batch(6, 5, 7)
    z.requires_grad_()
    layer(z, labels).backward()
    other, weight = z.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    cosines = F.normalize(other, dim=1) @ F.normalize(weight, dim=1).T
    own = F.one_hot(labels, 7).bool()
    moved = torch.where(own, margin(cosines.gather(1, labels[:, None])), cosines)
    F.cross_entropy(8.0 * moved, labels).backward()
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("m", [(1.0, 0.5, 0.0), (1.3, 0.3, 0.1), (2.0, 0.5, 0.0)])
def test_a_margin_never_rises_as_a_sample_moves_away_and_has_no_jump(m: tuple[float, float, float]) -> None:
    cosines = torch.linspace(1, -1, 20001, dtype=torch.float64)
    moved = combined(*m)(cosines)
    if m[0] * math.pi + m[1] <= 2 * math.pi:
        assert (moved.diff() <= 1e-9).all()
    assert moved.diff().abs().max() < 2e-2
    assert torch.isfinite(torch.autograd.functional.jacobian(lambda c: combined(*m)(c).sum(), cosines)).all()


def test_classes_are_shared_evenly_and_wholly() -> None:
    for classes in (1, 7, 10, 1000):
        for world in range(1, min(classes, 9) + 1):
            parts = shares(classes, world)
            assert [c for part in parts for c in part] == list(range(classes))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_first_rows_do_not_depend_on_who_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.train.classes._BLOCK", 16)
    whole = PartialFC(4, classes=50).weight
    part = PartialFC(4, classes=50)
    part.held = range(13, 38)
    torch.testing.assert_close(part._first_rows(4), whole[13:38], rtol=0, atol=0)
    assert 0.005 < whole.std() < 0.02
    assert not torch.equal(PartialFC(4, classes=50, seed=1).weight, whole)


# ------------------------------------------------------------------------------------------- sampled classes


def test_a_sample_has_the_batch_s_classes_and_the_share_asked_for() -> None:
    layer = PartialFC(4, classes=100, sample=0.2)
    labels = torch.tensor([3, 77, 3, 50])
    seen = set()
    for step in range(30):
        layer.step.fill_(step)
        rows, column = layer.chosen(labels)
        assert rows is not None
        assert len(rows) == 20
        assert (rows.diff() > 0).all()
        assert rows[column].tolist() == labels.tolist()
        seen |= set(rows.tolist())
    assert len(seen) > 95  # every class has its turn
    layer.eval()
    assert layer.chosen(labels)[0] is None  # a loss to be reported is the whole one


def test_a_batch_of_more_classes_than_the_sample_takes_them_all() -> None:
    rows, _ = PartialFC(4, classes=100, sample=0.01).chosen(torch.arange(30))
    assert rows is not None
    assert rows.tolist() == list(range(30))


def test_samples_repeat_by_seed_and_step_and_differ_otherwise() -> None:
    labels = torch.tensor([1, 2])
    first, again, other = (PartialFC(4, classes=100, sample=0.1, seed=s) for s in (0, 0, 1))
    drawn = [layer.chosen(labels)[0].tolist() for layer in (first, again, other)]  # type: ignore[union-attr]
    assert drawn[0] == drawn[1] != drawn[2]
    first.step += 1
    assert first.chosen(labels)[0].tolist() != drawn[0]  # type: ignore[union-attr]


def test_the_sampled_loss_is_that_of_the_sampled_rows() -> None:
    layer = PartialFC(5, classes=40, margin=arcface(0.3), scale=8.0, sample=0.25).double()
    z, labels = batch(6, 5, 40)
    rows, column = layer.chosen(labels)
    assert rows is not None
    expected = PartialFC(5, classes=len(rows), margin=arcface(0.3), scale=8.0).double()
    with torch.no_grad():
        expected.weight.copy_(layer.weight[rows])
    loss = layer(z, labels)
    assert loss.item() == pytest.approx(expected(z, column).item(), rel=1e-12)
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_sparse
    assert layer.weight.grad.coalesce().indices()[0].tolist() == rows.tolist()


@pytest.mark.parametrize("optimizer", [RowSGD, RowAdamW])
def test_only_sampled_rows_move(optimizer: Any) -> None:
    layer = PartialFC(5, classes=40, scale=8.0, sample=0.25).double()
    z, labels = batch(6, 5, 40)
    rows, _ = layer.chosen(labels)
    before = layer.weight.detach().clone()
    layer(z, labels).backward()
    optimizer(layer.parameters(), lr=0.1).step()
    moved = (layer.weight != before).any(1).nonzero().squeeze(1)
    assert rows is not None
    assert moved.tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: RowSGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
         lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        (lambda p: RowAdamW(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.05),
         lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.05)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sparse", [False, True])
def test_the_optimisers_do_what_torch_s_do_where_every_row_has_a_gradient(ours: Any, theirs: Any, sparse: bool) -> None:
    start = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, two = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    first, second = ours([one]), theirs([two])
    for step in range(5):
        gradient = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step + 1))
        one.grad = gradient.to_sparse(1) if sparse else gradient.clone()
        two.grad = gradient.clone()
        first.step()
        second.step()
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_a_layer_learns_to_tell_its_classes_apart() -> None:
    layer = PartialFC(8, classes=30, margin=cosface(0.2), scale=16.0, sample=0.4)
    rows = RowAdamW(layer.parameters(), lr=0.01)
    centres = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    for step in range(150):
        labels = torch.randint(30, (32,), generator=torch.Generator().manual_seed(step))
        rows.zero_grad()
        layer(centres[labels], labels).backward()
        rows.step()
    likeness = centres @ F.normalize(layer.weight.detach(), dim=1).T
    assert (likeness.argmax(1) == torch.arange(30)).float().mean() > 0.9


# ------------------------------------------------------------------------------------------- several processes

PROGRAM = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from mien.train.classes import PartialFC, RowSGD, arcface
torch.set_num_threads(1)
rank, world, port, out, sample = *map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5])
if world > 1:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
torch.manual_seed(0)
trunk = torch.nn.Linear(6, 5).double()
layer = PartialFC(5, classes=11, margin=arcface(0.4), scale=10.0, sample=sample).double()
wrapped = DistributedDataParallel(trunk) if world > 1 else trunk
sgd, rows = torch.optim.SGD(trunk.parameters(), lr=0.1), RowSGD(layer.parameters(), lr=0.1)
losses = []
for step in range(4):
    g = torch.Generator().manual_seed(step)
    x, labels = torch.randn(8, 6, generator=g, dtype=torch.float64), torch.randint(11, (8,), generator=g)
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    loss = layer(wrapped(x[mine]), labels[mine])
    sgd.zero_grad(); rows.zero_grad(); loss.backward(); sgd.step(); rows.step()
    losses.append(loss.detach())
torch.save({"losses": torch.stack(losses), "trunk": trunk.weight.detach(), **layer.shard_state()}, f"{out}/{rank}.pt")
if world > 1:
    # Nobody leaves while another still talks to it, and nothing holds on to the group whose threads end here.
    dist.barrier()
    del wrapped
    dist.destroy_process_group()
"""


def processes(folder: Path, world: int, sample: float) -> list[dict[str, Any]]:
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, folder / "program.py", *map(str, (rank, world, port, folder, sample))],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]
    assert [process.wait(timeout=300) for process in running] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    (whole,) = processes(tmp_path / "one", 1, 1.0)
    shared = processes(tmp_path / "two", 2, 1.0)
    for part in shared:
        torch.testing.assert_close(part["losses"], whole["losses"], rtol=1e-13, atol=0)
        torch.testing.assert_close(part["trunk"], whole["trunk"], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.cat([p["weight"] for p in shared]), whole["weight"], rtol=1e-12, atol=1e-15)
    # A run on other numbers of processes goes on from what these left.
    again = PartialFC(5, classes=11).double()
    again.load_shards(reversed(shared))
    torch.testing.assert_close(again.weight.detach(), whole["weight"], rtol=1e-12, atol=1e-15)
    assert int(again.step) == 4


def test_two_sampling_processes_agree_on_the_loss_and_on_the_trunk(tmp_path: Path) -> None:
    one, two = processes(tmp_path / "two", 2, 0.5)
    torch.testing.assert_close(one["losses"], two["losses"], rtol=0, atol=0)
    torch.testing.assert_close(one["trunk"], two["trunk"], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------- what is refused


def test_shards_that_are_missing_or_of_another_layer_are_named() -> None:
    layer = PartialFC(5, classes=11)
    state = layer.shard_state()
    with pytest.raises(CheckpointError, match="missing"):
        layer.load_shards([{**state, "weight": state["weight"][:4]}])
    with pytest.raises(CheckpointError, match="another class layer"):
        layer.load_shards([{**state, "classes": 12}])


@pytest.mark.parametrize(
    "options",
    [{"classes": 0}, {"sample": 0.0}, {"sample": 1.5}, {"scale": math.inf}, {"dim": 0}],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="out of range"):
        PartialFC(**{"dim": 4, "classes": 5, **options})


def test_margins_and_rates_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="margin"):
        combined(0.5)
    parameter = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(OptionError, match="out of range"):
        RowSGD([parameter], lr=0.0)
    with pytest.raises(OptionError, match="out of range"):
        RowAdamW([parameter], lr=1.0, betas=(1.0, 0.9))


def test_batches_that_do_not_fit_are_refused() -> None:
    layer = PartialFC(4, classes=5)
    with pytest.raises(ShapeError):
        layer(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError):
        layer(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    for labels in ([0, 5, 1], [0, -1, 1]):
        with pytest.raises(ValueRangeError, match="labels are not classes"):
            layer(torch.zeros(3, 4), torch.tensor(labels))
    with pytest.raises(ValueRangeError):
        layer(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def test_bfloat16_embeddings_give_nearly_the_same_loss() -> None:
    layer = PartialFC(32, classes=50, scale=16.0)
    z, labels = batch(8, 32, 50)
    whole, half = layer(z.float(), labels), layer(z.bfloat16(), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.02)


# ------------------------------------------------------------------------------------------- margins of length


@pytest.mark.parametrize("length", [3.0, 20.0, 60.0, 150.0])
def test_magface_is_the_one_written_out(length: float) -> None:
    """Loss and gradients of every number against a plain formula in float64, lengths on both sides of the range."""
    magface = MagFace()
    layer = PartialFC(5, classes=7, margin=magface, scale=8.0).double()
    z, labels = batch(6, 5, 7)
    z = F.normalize(z, dim=1) * length
    z.requires_grad_()
    loss = layer(z, labels)
    loss.backward()
    other, weight = z.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    cosines = F.normalize(other, dim=1) @ F.normalize(weight, dim=1).T
    a = other.norm(dim=1).clamp(10, 110)
    m = (0.8 - 0.45) / (110 - 10) * (a - 10) + 0.45
    own = cosines.gather(1, labels[:, None]).squeeze(1)
    moved = torch.where(own > 0, own * m.cos() - (1 - own**2).sqrt() * m.sin(), own)
    want = F.cross_entropy(8.0 * cosines.scatter(1, labels[:, None], moved[:, None]), labels)
    want = want + 35 * (a / 110**2 + 1 / a).mean()
    want.backward()
    assert (own > 0).any()
    assert (own < 0).any()
    torch.testing.assert_close(loss, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-8, atol=1e-12)
    assert layer.told["norm"].item() == pytest.approx(length)
    along = (z.grad * F.normalize(z.detach(), dim=1)).sum(1)  # type: ignore[operator]
    assert (along.abs() > 1e-6).any() == (10 < length < 110)  # within the range, the length itself has a gradient


def test_magface_s_margin_runs_from_end_to_end() -> None:
    margin = MagFace().margin(torch.tensor([1.0, 10.0, 60.0, 110.0, 500.0]))
    torch.testing.assert_close(margin, torch.tensor([0.45, 0.45, 0.625, 0.8, 0.8]))
    with pytest.raises(OptionError, match="no range"):
        MagFace(low=5, high=5)


def test_negatives_join_every_denominator() -> None:
    def pairs(embeddings: Tensor, labels: Tensor) -> Tensor:
        unit = F.normalize(embeddings, dim=1)
        return (8.0 * (unit @ unit.T)[(labels[:, None] != labels[None]).triu(1)]).logsumexp(0)

    layer = PartialFC(5, classes=7, margin=cosface(0.2), scale=8.0, negatives=pairs).double()
    z, labels = batch(6, 5, 7)
    z.requires_grad_()
    loss = layer(z, labels)
    loss.backward()
    other, weight = z.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    unit = F.normalize(other, dim=1)
    logits = 8.0 * unit @ F.normalize(weight, dim=1).T - 8.0 * 0.2 * F.one_hot(labels, 7).double()
    more = 8.0 * (unit @ unit.T)[(labels[:, None] != labels[None]).triu(1)]
    want = F.cross_entropy(torch.cat([logits, more.expand(6, -1)], 1), labels)
    want.backward()
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-9, atol=1e-12)
    nothing = PartialFC(5, classes=7, scale=8.0, negatives=lambda z, _: z.new_tensor(-math.inf)).double()
    plain = PartialFC(5, classes=7, scale=8.0).double()
    x, again = (batch(6, 5, 7)[0].requires_grad_() for _ in range(2))
    (nothing(x, labels) + 0).backward()
    plain(again, labels).backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------- sface


def test_sface_has_the_gradient_of_its_closed_form() -> None:
    a, b, k, s = 0.87, 1.2, 20.0, 8.0
    layer = SFaceLayer(5, classes=7, scale=s, a=a, b=b, k=k).double()
    z, labels = batch(6, 5, 7)
    z.requires_grad_()
    loss = layer(z, labels)
    loss.backward()
    other, weight = z.detach().clone().requires_grad_(), layer.weight.detach().clone().requires_grad_()
    cosines = F.normalize(other, dim=1) @ F.normalize(weight, dim=1).T
    slope, total = torch.zeros_like(cosines), 0.0
    for i, row in enumerate(cosines.tolist()):
        for j, cosine in enumerate(row):
            angle = math.acos(cosine)
            own = j == labels[i]
            r = s / (1 + math.exp(-k * (angle - a))) if own else s / (1 + math.exp(k * (angle - b)))
            slope[i, j] = (-r if own else r) / 6
            total += float(slope[i, j]) * cosine
    cosines.backward(slope)
    assert loss.item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(z.grad, other.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-9, atol=1e-12)
    assert layer.told["intra"] + layer.told["inter"] == pytest.approx(total, rel=1e-12)
    assert layer.told["own_cosine"].item() == pytest.approx(cosines.detach().gather(1, labels[:, None]).mean().item())


def test_sface_stays_finite_where_vectors_coincide_or_are_opposite() -> None:
    layer = SFaceLayer(3, classes=2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    z = torch.tensor([[5.0, 0, 0], [1e-3, 0, 0]], requires_grad=True)
    layer(z, torch.tensor([0, 1])).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("wrong", [{"a": 1.3}, {"a": 0.0}, {"b": 4.0}, {"k": 0.0}, {"spread": 0.0}])
def test_sface_s_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="out of range"):
        SFaceLayer(4, classes=5, **wrong)


LAYERS = (
    "SFaceLayer(5, classes=11, scale=10.0, a=0.87, b=1.2, k=9.0)",
    "PartialFC(5, classes=11, margin=MagFace(low=1.0, high=4.0), scale=10.0)",
    "PartialFC(5, classes=11, scale=10.0, negatives=pairs)",
)

MORE = """
from mien.train.classes import MagFace, SFaceLayer
def pairs(z, labels):
    z = torch.nn.functional.normalize(z, dim=1)
    return (10 * (z @ z.T)[(labels[:, None] != labels[None]).triu(1)]).logsumexp(0)
"""


def test_two_processes_do_what_one_does_with_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's steps come again for each layer; what is saved has the number of the layer."""
    head, steps = PROGRAM.split("torch.manual_seed(0)", 1)
    leave = "if world > 1:\n    # Nobody leaves"
    steps, end = steps.split(leave, 1)
    whole = "PartialFC(5, classes=11, margin=arcface(0.4), scale=10.0, sample=sample)"
    assert whole in steps
    bodies = [
        "torch.manual_seed(0)" + steps.replace(whole, layer).replace("/{rank}.pt", f"/{number}-{{rank}}.pt")
        for number, layer in enumerate(LAYERS)
    ]
    last = 'torch.save({}, f"{out}/{rank}.pt")\n' + leave + end
    monkeypatch.setitem(globals(), "PROGRAM", head + MORE + "".join(bodies) + last)
    processes(tmp_path / "one", 1, 1.0)
    processes(tmp_path / "two", 2, 1.0)
    for number in range(len(LAYERS)):
        one = torch.load(tmp_path / "one" / f"{number}-0.pt", weights_only=True)
        shared = [torch.load(tmp_path / "two" / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
        for part in shared:
            torch.testing.assert_close(part["losses"], one["losses"], rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(part["trunk"], one["trunk"], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.cat([p["weight"] for p in shared]), one["weight"], rtol=1e-12, atol=1e-14)
        assert one["losses"].diff().abs().min() > 0
