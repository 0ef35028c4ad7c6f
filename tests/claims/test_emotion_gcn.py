"""Emotion-GCN's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mien.claims import emotion_gcn
from mien.claims.harness import Setting, claims_of
from mien.data.affect import Drawn
from mien.errors import OptionError
from mien.nn.affect import GraphNetwork, LinearNetwork


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few heads, noise about a colour of each class."""

    def noise(
        count: int, *, seed: int, size: int, prior: tuple[float, ...] | None = None, plain: bool = False
    ) -> Drawn:
        rng = np.random.default_rng(seed)
        labels = np.arange(count) % 7
        means = np.random.default_rng(7).integers(40, 216, (7, 1, 1, 3))[labels]
        crops = np.clip(means + rng.normal(0, 20, (count, size, size, 3)), 0, 255).astype(np.uint8)
        return Drawn(crops, labels, rng.uniform(-1, 1, (count, 2)).astype(np.float32))

    monkeypatch.setattr("mien.data.affect.drawn_heads", noise)
    monkeypatch.setattr(emotion_gcn, "TRAIN", 70)
    monkeypatch.setattr(emotion_gcn, "TEST", 28)
    emotion_gcn._found.clear()


def test_claims_have_the_margins_and_seeds_that_were_written_down() -> None:
    claims = claims_of("emotion_gcn")
    assert {claim.name: claim.margin for claim in claims} == {
        "graph-beats-classes-alone": 0.01, "graph-helps-with-few-classes": 0.02,
        "multi-task-helps-with-few-classes": 0.02,
    }  # fmt: skip
    assert all(len(claim.seeds) == 4 and claim.data_of("small") == ("heads",) for claim in claims)
    assert all(claim.data_of("paper") == ("affectnet", "affwild2") for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, steps=2, progress=lambda done, total, what: told.append(what))
    one = emotion_gcn.graph(setting)
    two = emotion_gcn.multi_with_few(setting)
    monkeypatch.setattr(emotion_gcn, "trained", None)  # a second training would fail
    three = emotion_gcn.graph_with_few(setting)
    assert (one.baseline, one.idea) == (one.details["all_single_accuracy"], one.details["all_graph_accuracy"])
    assert two.baseline == three.baseline == two.details["few_single_accuracy"]
    assert (two.idea, three.idea) == (two.details["few_multi_accuracy"], two.details["few_graph_accuracy"])
    assert {"all_graph_ccc", "all_multi_ccc"} <= set(one.details)
    assert "all_single_ccc" not in one.details
    assert {what.partition(",")[0] for what in told} >= set(emotion_gcn.HEADS)


def test_few_classes_are_known_and_none_is_forgotten() -> None:
    labels = np.repeat(np.arange(7), [300, 500, 90, 50, 30, 1, 80])
    known = emotion_gcn.known_classes(labels, 0.1, seed=0)
    assert np.array_equal(known[known >= 0], labels[known >= 0])
    assert set(known) == {-1, *range(7)}
    assert round(0.1 * len(labels)) <= (known >= 0).sum() <= round(0.1 * len(labels)) + 7
    assert np.array_equal(emotion_gcn.known_classes(labels, 1.0, seed=0), labels)


def test_the_three_differ_in_their_heads_alone() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 60)
    made: dict[str, Any] = {
        head: emotion_gcn.built(head, labels, rng.uniform(-1, 1, (60, 2)), seed=3) for head in emotion_gcn.HEADS
    }
    assert isinstance(made["graph"], GraphNetwork)
    assert all(isinstance(made[head], LinearNetwork) for head in ("single", "multi"))
    trunks = [made[head].backbone.state_dict() for head in emotion_gcn.HEADS]
    assert all(torch.equal(value, trunk[name]) for trunk in trunks for name, value in trunks[0].items())
    x = torch.rand(2, 3, 32, 32)
    assert [made[head](x).shape[1] for head in emotion_gcn.HEADS] == [7, 9, 9]


def test_the_paper_s_scale_starts_on_affectnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for part in ("train_set", "val_set"):
        for folder in ("annotations", "images"):
            (tmp_path / "affectnet" / part / folder).mkdir(parents=True)
        for number in range(14):
            for key, value in {"exp": number % 7, "val": rng.uniform(-1, 1), "aro": rng.uniform(-1, 1)}.items():
                np.save(tmp_path / "affectnet" / part / "annotations" / f"{number}_{key}.npy", np.array(str(value)))
            picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "affectnet" / part / "images" / f"{number}.jpg"), picture)
    narrow = {"growth": 8, "blocks": (1, 1), "width": 8, "hidden": 8, "size": 32, "batch_size": 7, "workers": 0,
              "threads": 1, "precision": "32-true"}  # fmt: skip
    monkeypatch.setattr(emotion_gcn, "PAPER", {**emotion_gcn.PAPER, **narrow})
    emotion_gcn._found.clear()
    setting = Setting(seed=0, scale="paper", data="affectnet", data_root=tmp_path, out=tmp_path / "out", steps=1)
    found = emotion_gcn.graph_with_few(setting)
    assert set(found.details) == {
        "few_single_accuracy", "few_multi_accuracy", "few_graph_accuracy", "few_multi_ccc", "few_graph_ccc",
    }  # fmt: skip
    run = emotion_gcn.recipe(setting, "x", head="graph", known=0.1)
    assert (run.optimizer, run.lr, run.weight_decay, run.graph, run.known) == ("sgd", 1e-3, 1e-3, "affectnet", 0.1)
    wild = emotion_gcn.recipe(Setting(seed=0, scale="paper", data="affwild2", data_root=tmp_path), "x")
    assert (wild.weighted, wild.graph) == (False, "data")
    emotion_gcn._found.clear()
    with pytest.raises(OptionError, match="needs AffectNet"):
        emotion_gcn.graph(Setting(seed=0, scale="paper", data="affectnet", out=tmp_path))
