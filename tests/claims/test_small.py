"""The small experiments' world and their training."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.claims._patterns import STRONG, patterns
from mien.claims._small import figures, fit_in_memory, four_convolutions, vectors


def test_patterns_follow_from_their_seeds() -> None:
    one, again = patterns(3, 2, world=1), patterns(3, 2, world=1)
    assert one.crops.shape == (6, 32, 32, 3)
    assert one.crops.dtype == np.uint8
    assert np.array_equal(one.crops, again.crops)
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    others = patterns(3, 2, world=1, part=1)
    assert not np.array_equal(one.latent, others.latent)
    assert not np.array_equal(one.crops, patterns(3, 2, world=2).crops)


def test_two_parts_share_the_world() -> None:
    """The mean over many people is the world's mean, whichever people they are."""
    first, second = (patterns(200, 1, world=5, part=part).crops.mean(0) for part in (0, 1))
    elsewhere = patterns(200, 1, world=6).crops.mean(0)
    assert np.abs(first - second).mean() < 0.5 * np.abs(first - elsewhere).mean()


def test_reduced_pictures_have_lost_their_detail() -> None:
    mixed = patterns(40, 4, world=0, pixels=(32, 4))
    assert set(mixed.pixels.tolist()) == {4, 32}
    detail = np.abs(np.diff(mixed.crops.astype(float), axis=2)).mean((1, 2, 3))
    small = patterns(1, 1, world=0, pixels=(2,))
    assert small.pixels.tolist() == [2]
    assert detail[mixed.pixels == 4].mean() < detail[mixed.pixels == 32].mean()


def test_strong_nuisance_moves_more() -> None:
    def apart(crops: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
        pairs = crops.reshape(-1, 2, *crops.shape[1:]).astype(float)
        return float(np.corrcoef(pairs[:, 0].ravel(), pairs[:, 1].ravel())[0, 1])

    assert apart(patterns(60, 2, world=0, nuisance=STRONG).crops) < apart(patterns(60, 2, world=0).crops)


def _trained(seed: int) -> tuple[nn.Module, list[str]]:
    torch.manual_seed(seed)
    network = four_convolutions(dim=16, width=0.5).train()
    head = nn.Linear(16, 20)
    people = patterns(20, 10, world=0)
    told: list[str] = []

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(head(network(images)), labels)

    fit_in_memory(
        people.crops, people.labels, loss, [*network.parameters(), *head.parameters()], steps=60, batch=50, lr=0.05,
        seed=seed, told=lambda done, total, what: told.append(what),
    )  # fmt: skip
    return network.eval(), told


def test_a_training_in_memory_learns_and_repeats() -> None:
    network, told = _trained(0)
    again, _ = _trained(0)
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert float(told[-1].split()[-1]) < float(told[0].split()[-1])
    test = patterns(30, 6, world=0, part=1)
    z = vectors(network, test.crops)
    assert np.allclose((z**2).sum(1), 1, atol=1e-5)
    untrained = vectors(four_convolutions(dim=16, width=0.5).eval(), test.crops)
    assert figures(z, z, test.labels)[1] > figures(untrained, untrained, test.labels)[1] + 0.02
