"""SFace's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.claims import _people, sface
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError
from mien.train.classes import PartialFC, SFaceLayer


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people with few pictures; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        means = rng.integers(110, 146, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 90, (people, pictures, size, size, 3))
        labels = np.repeat(np.arange(people), pictures)
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), labels

    monkeypatch.setattr(_people, "rendered", noise)
    for name, value in (("PEOPLE", 10), ("PICTURES", 8), ("OTHERS", 16), ("OF_OTHERS", 4), ("BATCH", 20)):
        monkeypatch.setattr(sface, name, value)
    sface._found.clear()
    sface._made.cache_clear()


def test_every_claim_names_its_data_and_a_margin() -> None:
    claims = {claim.name: claim for claim in claims_of("sface")}
    assert {name: claim.margin for name, claim in claims.items()} == {
        "wrong-labels-arcface": 0.05, "wrong-labels-cosface": 0.05, "wrong-labels-softmax": 0.0, "right-labels": -0.05,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims.values())


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_the_claims_start_and_share_their_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    setting = Setting(seed=1, data=data, out=tmp_path, steps=3)
    first = sface.against_arcface(setting)
    assert set(first.details) == {"tar", "tar_sface", "ahead"}
    second, third = sface.against_cosface(setting), sface.against_softmax(setting)
    assert first.idea == second.idea == third.idea
    assert len({first.baseline, second.baseline, third.baseline}) == 3
    right = sface.clean(setting)
    assert right.details["auc"] != first.baseline  # other labels
    monkeypatch.setattr(sface, "small", None)  # a further training would fail
    assert sface.against_arcface(setting) == first
    monkeypatch.undo()


@pytest.mark.usefixtures("tiny")
def test_a_seed_gives_the_same_again(tmp_path: Path) -> None:
    setting = Setting(seed=0, data="heads", out=tmp_path, steps=2)
    once = sface.small(setting, "sface", 0.4, **sface.WRONG_ANGLES)
    assert once == sface.small(setting, "sface", 0.4, **sface.WRONG_ANGLES)
    assert once != sface.small(Setting(seed=1, data="heads", out=tmp_path, steps=2), "sface", 0.4, **sface.WRONG_ANGLES)


def test_heads_have_the_numbers_of_the_description() -> None:
    layer = sface.head_of("sface", 10, sface.WRONG_ANGLES)
    assert isinstance(layer, SFaceLayer)
    assert (layer.a, layer.b, layer.k, layer.scale) == (1.0, 1.2, 40.0, 32.0)
    for rival in ("arcface", "cosface", "softmax"):
        assert isinstance(sface.head_of(rival, 10, {}), PartialFC)
    assert (sface.MARGIN, sface.NOISE) == (0.3, 0.4)


def test_the_paper_s_scale_starts_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (40 * 4, 112, 112, 3), dtype=np.uint8)
    _people.write(tmp_path / "sets" / "faces_emore", crops, np.repeat(np.arange(40), 4))
    small = {"batch_size": 8, "held": 0.4, "arguments": ("width=0.125", "depths=(1,1,1,1)"), "dim": 32}
    monkeypatch.setattr(sface, "PAPER", {**sface.PAPER, **small, "workers": 0, "threads": 1})
    sface._found.clear()
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    found = sface.against_arcface(setting)
    assert 0 <= found.baseline <= 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "sets") == ["arcface-0.4", "sface-0.4"]
    run = sface.recipe(setting, "sface", 0.0, **sface.PAPER_ANGLES)
    assert (run.network, run.size, run.batch_size, run.a) == ("mien.papers.sface:ir_50", 112, 8, 0.87)
    sface._found.clear()
    with pytest.raises(OptionError, match="needs a large set"):
        sface.recipe(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path), "sface", 0.0)
