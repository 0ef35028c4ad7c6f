"""The reader's labels, and its loss derived again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mien.data.heads import ATTRIBUTES
from mien.faces import AGES, APPEARANCE, EXPRESSIONS
from mien.nn.reader import OUTPUTS, Reader, split
from mien.train.recipes import reader
from mien.train.recipes.reader import Joined, age_label, appearance_label, reader_loss

WEIGHTS = {name: 0.5 + 0.25 * k for k, name in enumerate(OUTPUTS)}


def test_an_age_s_neighbours_are_half_right() -> None:
    young, old = age_label("20-29"), age_label("more than 70")
    assert young.sum() == pytest.approx(1)
    assert young.argmax() == 0
    assert old.argmax() == len(AGES) - 1
    middle = age_label("40-49")
    assert middle[1] == pytest.approx(middle[3])
    assert middle[2] > 2 * middle[1] > 4 * middle[0]


def test_a_beard_is_the_opposite_of_no_beard() -> None:
    rows = np.zeros((2, len(ATTRIBUTES)))
    rows[0, ATTRIBUTES.index("No_Beard")] = 1
    rows[1, ATTRIBUTES.index("Smiling")] = 1
    found = appearance_label(rows, ATTRIBUTES)
    beard, smiling = APPEARANCE.index("beard"), APPEARANCE.index("smiling")
    assert found[:, beard].tolist() == [0, 1]
    assert found[:, smiling].tolist() == [0, 1]


def test_the_loss_is_a_mean_over_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = {n: torch.randn(5, len(v), generator=generator, dtype=torch.float64) for n, v in OUTPUTS.items()}
    for value in answers.values():
        value.requires_grad_()
    labels: dict[str, torch.Tensor] = {}
    for name, names in OUTPUTS.items():
        if name in ("appearance", "covers"):
            labels[name] = torch.randint(2, (5, len(names)), generator=generator).double()
        elif name == "affect":
            labels[name] = torch.rand(5, 2, generator=generator, dtype=torch.float64)
        else:
            labels[name] = torch.rand(5, len(names), generator=generator, dtype=torch.float64).softmax(1)
        labels[name][1:3] = torch.nan
    labels["appearance"][0, 3] = torch.nan
    labels["race"][:] = torch.nan
    found = reader_loss(answers, labels, WEIGHTS)
    for name, value in found.items():
        terms = []
        for row in range(5):
            a, truth = answers[name][row].detach().numpy(), labels[name][row].numpy()
            if name in ("appearance", "covers"):
                p = 1 / (1 + np.exp(-a))
                terms += [
                    -(t * np.log(q) + (1 - t) * np.log(1 - q)) for t, q in zip(truth, p, strict=True) if np.isfinite(t)
                ]
            elif name == "affect":
                terms += [(x - t) ** 2 for x, t in zip(a, truth, strict=True) if np.isfinite(t)]
            elif np.isfinite(truth).all():
                terms.append(-(truth * (a - np.log(np.exp(a).sum()))).sum())
        wanted = WEIGHTS[name] * (np.mean(terms) if terms else 0.0)
        assert value.item() == pytest.approx(wanted, rel=1e-12)
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name in OUTPUTS:
        gradient = answers[name].grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert not gradient[1:3].any()
    assert not answers["race"].grad.any()  # type: ignore[union-attr]


def test_sources_follow_one_another() -> None:
    class Numbers:
        def __init__(self, values: list[int]) -> None:
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
            return {"value": self.values[index]}

    joined = Joined([(Numbers([1, 2]), 1), (Numbers([7]), 3), (Numbers([8, 9]), 1)])
    rng = np.random.default_rng(0)
    assert [joined.sample(k, rng)["value"] for k in range(len(joined))] == [1, 2, 7, 7, 7, 8, 9]


def test_rendered_heads_know_what_a_mask_hides() -> None:
    some = reader.rendered(48, seed=3, strength=0.0, size=64)
    masked = some.labels["covers"][:, 0] == 1
    assert 0 < masked.sum() < 48
    assert np.isnan(some.labels["expression"][masked]).all()
    assert np.isfinite(some.labels["expression"][~masked]).all()
    assert np.isnan(some.labels["appearance"][masked][:, APPEARANCE.index("smiling")]).all()
    assert np.isfinite(some.labels["appearance"][masked][:, APPEARANCE.index("eyeglasses")]).all()
    assert np.isnan(some.labels["age"]).all()
    drawn = some.sample(0, np.random.default_rng(0))
    assert drawn["image"].shape == (112, 112, 3)
    assert set(drawn) == {"image", *OUTPUTS}


def test_votes_become_shares(made_up: Any) -> None:
    votes, most = reader.expressions(made_up("ferplus"), None, "train", strength=0.0)
    assert most.tolist() == [0, 1]
    assert votes.labels["expression"][0].tolist() == pytest.approx([0.7, 0.2, 0.1, 0, 0, 0, 0, 0])
    happy = EXPRESSIONS.index("happiness")
    assert votes.labels["affect"][1, 0] > 0.3 > votes.labels["expression"][1, happy] - 0.7
    answers = reader.answers_of(Reader(widths=(8, 8, 8), depths=(1, 1, 1), head=8).eval(), votes)
    assert {name: tuple(value.shape) for name, value in answers.items()} == {n: (2, len(v)) for n, v in OUTPUTS.items()}


def test_the_answers_are_told_apart_in_order() -> None:
    numbers = torch.arange(sum(map(len, OUTPUTS.values())))[None].float()
    parts = split(numbers)
    assert torch.equal(torch.cat(list(parts.values()), 1), numbers)
    assert parts["expression"][0, 0] == len(AGES)
