"""Recognizability's claims start at both scales; what they measure is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.claims import _people, recognizability
from mien.claims.harness import Setting, claims_of
from mien.data.low_resolution import at_pixels
from mien.errors import OptionError


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people and steps; heads are noise about patches of a person's own colours."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        patches = np.kron(rng.integers(40, 216, (people, 1, 4, 4, 3)), np.ones((1, 1, size // 4, size // 4, 1)))
        crops = patches + rng.normal(0, 20, (people, pictures, size, size, 3))
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), np.repeat(
            np.arange(people), pictures
        )

    monkeypatch.setattr(_people, "rendered", noise)
    for name, value in {"FIRST": 6, "FINE": 5, "CENTRE": 7, "OTHERS": 8, "BATCH": 12}.items():
        monkeypatch.setattr(recognizability, name, value)
    monkeypatch.setattr(recognizability, "PICTURES", {"patterns": (4, 4, 3), "heads": (4, 4, 3)})
    recognizability._stages.clear()
    recognizability._of_heads.cache_clear()
    recognizability._of_patterns.cache_clear()


def test_the_claims_are_those_of_the_description() -> None:
    cluster, foretells = claims_of("recognizability")
    assert (cluster.name, cluster.better, cluster.margin) == ("ui-cluster", "higher", 0.5)
    assert (foretells.name, foretells.better, foretells.margin) == ("index-foretells-errors", "lower", 0.04)
    for claim in (cluster, foretells):
        assert claim.data_of("small") == ("heads", "patterns", "cfp")
        assert len(claim.seeds) == 3


@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_both_look_at_the_same_networks(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, data=data, out=tmp_path, steps=3, progress=lambda done, total, what: told.append(what))
    cluster = recognizability.cluster(setting)
    assert {f"cosine_{side}px" for side in recognizability.SIDES} < set(cluster.details)
    assert (cluster.baseline, cluster.idea) == (cluster.details["cosine_12px"], cluster.details["cosine_2px"])
    for name in ("ArcFace", "all losses", "ArcFace alone"):
        assert any(what.startswith(f"{name}, loss") for what in told)
    monkeypatch.setattr(recognizability, "_small", None)  # a second training would fail
    found = recognizability.foretells(setting)
    assert found.baseline == pytest.approx(1 - found.details["rank1"])
    assert {"area_norm", "area_ers", "area_ers_anew", "area_pixels", "spearman", "rank1_arcface_alone"} < set(
        found.details
    )
    monkeypatch.undo()
    recognizability._stages.clear()


def test_seeds_repeat_and_differ(tmp_path: Path) -> None:
    values = []
    for seed in (0, 0, 1):
        recognizability._stages.clear()
        values.append(recognizability.foretells(Setting(seed=seed, data="patterns", out=tmp_path, steps=2)).idea)
    assert values[0] == values[1]
    assert values[0] != values[2]


@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_nobody_is_in_two_parts_and_only_probes_are_reduced(data: str) -> None:
    world = recognizability.world(Setting(seed=0, data=data))
    assert len(world.first[0]) == 6 * 4
    assert len(world.fine[0]) == 5 * 4
    assert len(world.bad) == 7
    assert len(world.gallery[0]) == 8
    assert sorted(np.unique(world.gallery[1])) == list(range(8))
    assert len(world.probes[0]) == len(world.sides) == 8 * 2
    assert set(world.sides) <= set(recognizability.MIXED)
    if data == "heads":
        two = np.concatenate([world.first[0], world.gallery[0]])
        assert len(np.unique(two.reshape(len(two), -1), axis=0)) == len(two)
        whole = world.others[32]
        np.testing.assert_array_equal(world.others[4], at_pixels(whole, 4, kernel="linear"))


def test_the_gallery_has_the_first_picture_of_who_has_several() -> None:
    gallery, probes = recognizability._searched_for(np.zeros((6, 1)), np.array([4, 2, 4, 9, 2, 2]))
    assert gallery.tolist() == [1, 0]
    assert probes.tolist() == [2, 4, 5]


def test_the_paper_s_scale_starts_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (30 * 3, 112, 112, 3), dtype=np.uint8)
    _people.write(tmp_path / "sets" / "faces_emore", crops, np.repeat(np.arange(30), 3))
    small = {
        "batch_size": 6, "held": 0.3, "arguments": ("width=0.25",), "network": "mien.nn.iresnet:iresnet18", "dim": 16,
        "workers": 0, "threads": 1, "ui_batch": 4, "ui_limit": 1.0, "tensorboard": "no", "precision": "32-true",
    }  # fmt: skip
    monkeypatch.setattr(recognizability, "PAPER", {**recognizability.PAPER, **small})
    monkeypatch.setattr(recognizability, "SIDES", (2, 12, 32))
    monkeypatch.setattr("mien.train.recipes.recognizability.CENTRE_PICTURES", 8)
    monkeypatch.setattr("mien.train.loop.gemm_rate", lambda device, *, dtype: 1e10)
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    first, fine = (
        recognizability.recipe(setting, "a", preset="pretrain"),
        recognizability.recipe(setting, "b", preset="paper", init="a"),
    )
    assert (first.pretrain_steps, first.batch_size, first.lr) == (1, 6, 0.1)
    assert (fine.pretrain_steps, fine.backbone_rate, fine.pixels) == (0, 0.1, (12, 40))
    found = recognizability.cluster(setting)
    assert -1 <= found.baseline <= 1
    assert recognizability.foretells(setting).baseline >= 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "fine", "first", "sets"]
    with pytest.raises(OptionError, match="needs a large set"):
        recognizability.recipe(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path), "x")
