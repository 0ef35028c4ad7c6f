"""UNPG's claims start at both scales; two of them look at the same networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien.claims import _people, unpg
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people, few pictures; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        means = rng.integers(40, 216, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 20, (people, pictures, size, size, 3))
        labels = np.repeat(np.arange(people), pictures)
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), labels

    monkeypatch.setattr(_people, "rendered", noise)
    for name, value in (("PEOPLE", 8), ("PICTURES", 4), ("OTHERS", 20), ("OF_OTHERS", 4), ("BATCH", 16)):
        monkeypatch.setattr(unpg, name, value)
    unpg._found.clear()
    unpg._made.cache_clear()


def test_every_claim_names_its_data_and_the_sheet_s_margin() -> None:
    claims = claims_of("unpg")
    assert [(claim.name, claim.margin) for claim in claims] == [
        ("pairs-after-arcface", 0.0), ("hard-pairs-needed", 0.0), ("pairs-without-margin", 0.03),
    ]  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)
    assert (unpg.STEPS, unpg.MORE_STEPS, unpg.SOFTMAX_STEPS) == (210, 75, 112)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_two_claims_look_at_the_same_networks(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, data=data, out=tmp_path, steps=3, progress=lambda done, total, what: told.append(what))
    one = unpg.continued(setting)
    monkeypatch.setattr(unpg, "trained", None)  # a second training would fail
    two = unpg.over_filtered(setting)
    assert one.idea == two.idea == one.details["tar_unpg"]
    assert one.baseline == one.details["tar_arcface"]
    assert two.baseline == one.details["tar_over_filtered"]
    assert one.details["ahead"] == float(one.idea >= one.baseline)
    assert any(what.startswith("over_filtered") for what in told)


@pytest.mark.usefixtures("tiny")
def test_the_same_seed_gives_the_same_figures_and_pairs_change_them(tmp_path: Path) -> None:
    setting = Setting(seed=0, out=tmp_path, steps=4)
    found = unpg.without_margin(setting)
    unpg._found.clear()
    again = unpg.without_margin(setting)
    assert dict(found.details) == dict(again.details)
    assert found.details["auc_softmax"] != found.details["auc_unpg"]


@pytest.mark.usefixtures("tiny")
def test_ways_to_go_on_begin_at_the_same_state_and_leave_it_alone(tmp_path: Path) -> None:
    setting = Setting(seed=0, out=tmp_path, steps=2)
    start = unpg.State(0, 8, "arcface", "cpu")
    before = {name: value.clone() for name, value in start.network.state_dict().items()}
    ends = [
        unpg.trained(setting, start, name, whisker=whisker, steps=2, batch=16, lr=0.02)
        for name, whisker in unpg.REACHES.items()
    ]
    assert all(torch.equal(value, before[name]) for name, value in start.network.state_dict().items())
    assert start.head.aux == "none"
    assert [(end.head.aux, end.head.whisker) for end in ends] == [("none", 0.0), ("unpg", 1.5), ("unpg", 0.5)]
    assert not torch.equal(ends[0].head.weight, ends[1].head.weight)


def test_the_paper_s_scale_starts_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (40 * 3, 112, 112, 3), dtype=np.uint8)
    _people.write(tmp_path / "sets" / "faces_emore", crops, np.repeat(np.arange(40), 3))
    # 16 channels at least: torch 2.14 crashes on a CPU in the backward pass of narrower PReLU units, channels last.
    small = {
        "batch_size": 8, "held": 0.5, "network": "mien.nn.iresnet:iresnet18", "arguments": ("width=0.25",), "dim": 16,
        "workers": 0, "threads": 1, "tensorboard": "no", "save_every": 10, "precision": "32-true",
    }  # fmt: skip
    monkeypatch.setattr(unpg, "PAPER", {**unpg.PAPER, **small})
    unpg._found.clear()
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    first = unpg.recipe(setting, "start", negatives="none")
    assert (first.head, first.standardise, first.batch_size, first.lr) == ("arcface", "imagenet", 8, 0.1)
    found = unpg.continued(setting)
    assert set(found.details) >= {"tar_start", "tar_arcface", "tar_unpg", "tar_over_filtered"}
    assert 0 <= unpg.without_margin(setting).idea <= 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "sets") == [
        "arcface", "over_filtered", "softmax", "softmax_unpg", "start", "unpg",
    ]  # fmt: skip
    with pytest.raises(OptionError, match="needs a large set"):
        unpg.recipe(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path), "start")
