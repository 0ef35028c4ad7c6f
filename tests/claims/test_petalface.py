"""PETALface's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mien.claims import _people, petalface
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people and pictures; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, seed: int) -> tuple[Any, Any]:
        size = petalface.SIZE
        rng = np.random.default_rng(seed)
        means = rng.integers(40, 216, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 20, (people, pictures, size, size, 3))
        return (np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3),
                np.repeat(np.arange(people), pictures))  # fmt: skip

    monkeypatch.setattr(petalface, "heads", noise)
    monkeypatch.setattr(petalface, "COUNTS", dict.fromkeys(petalface.COUNTS, ((6, 4), (4, 6), (12, 4))))
    petalface._found.clear()
    petalface._world.cache_clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("petalface")
    assert {claim.name: claim.margin for claim in claims} == {
        "forgets-less-than-full-fine-tuning": 0.15, "keeps-high-resolution": -0.06, "learns-low-resolution": 0.0,
        "learns-more-than-full-fine-tuning": 0.15,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, data=data, steps=2, progress=lambda done, total, what: told.append(what))
    one = petalface.remembers(setting)
    monkeypatch.setattr(petalface, "_fit", None)  # a second training would fail
    two, three, four = (run(setting) for run in (petalface.keeps, petalface.learns, petalface.learns_more))
    assert one.idea == two.idea == one.details["hr_twin"]
    assert three.idea == four.idea == one.details["lr_twin"]
    best = {kind: max(one.details[f"{kind}_full"], one.details[f"{kind}_full_slow"]) for kind in ("hr", "lr")}
    assert (one.baseline, two.baseline) == (best["hr"], one.details["hr_pretrained"])
    assert (three.baseline, four.baseline) == (one.details["lr_pretrained"], best["lr"])
    assert all(0 <= value <= 1 for value in one.details.values())
    assert one.details["alpha_gap"] > 0.2  # good pictures and probes go through different encoders
    assert {what.partition(",")[0] for what in told} >= {"pretraining", *petalface.ADAPTED}


@pytest.mark.usefixtures("tiny")
def test_compared_people_are_in_no_training_set_and_probes_are_small() -> None:
    data = petalface.world(Setting(seed=0, data="heads"))
    assert len(data.good) == len(data.low) == 48
    flat = {crop.tobytes() for crop in [*data.learnt, *data.adapted]}
    assert not flat & {crop.tobytes() for crop in data.good}
    steps = [np.abs(np.diff(crops.astype(float), axis=2)).mean() for crops in (data.good, data.low)]
    assert steps[1] < 0.5 * steps[0]
    few = {len(np.unique(crop)) for crop in data.adapted}
    assert len(few) > 1


def test_heads_are_turned_little_and_are_people() -> None:
    crops, labels = petalface.heads(people=3, pictures=4, seed=1)
    assert crops.shape == (12, petalface.SIZE, petalface.SIZE, 3)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    again, _ = petalface.heads(people=2, pictures=4, seed=1)
    assert np.array_equal(crops[:8], again)
    assert not np.array_equal(petalface.heads(people=1, pictures=1, seed=2)[0], crops[:1])


def test_figures_are_those_of_loops() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(6), 3)
    z = rng.normal(size=(18, 5)).astype(np.float32) + 2 * rng.normal(size=(6, 5)).astype(np.float32)[people]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    right = 0
    for probe in range(18):
        if probe % 3:
            nearest = max(range(6), key=lambda who: float(z[probe] @ z[3 * who]))
            right += nearest == people[probe]
    assert petalface.low_resolution(z, z, people) == pytest.approx(right / 12)
    assert petalface.high_resolution(z, people) <= 1


@pytest.mark.usefixtures("tiny")
def test_photographs_of_different_people_are_learnt_adapted_to_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def photographed(name: str, root: Any, *, size: int) -> tuple[Any, Any]:
        people, each = {"cfp": (250, 14), "celeba10k": (30, 2)}[name]
        labels = np.repeat(np.arange(people), each)
        if name == "celeba10k":
            labels = np.concatenate([labels, np.arange(10)])  # ten people have three
        crops = np.zeros((len(labels), size, size, 3), np.uint8)
        crops[..., 0], crops[..., 1] = labels[:, None, None] % 251, 7 if name == "cfp" else 9
        return crops, labels

    monkeypatch.setattr(_people, "photographed", photographed)
    data = petalface._world(0, "cfp", None)
    sets = [{int(crop[0, 0, 0]) for crop in crops} for crops in (data.learnt, data.adapted, data.good)]
    assert [len(one) for one in sets] == [150, 40, 60]
    assert not sets[0] & sets[1]
    assert not (sets[0] | sets[1]) & sets[2]
    assert len(data.adapted) == 40 * 12
    assert sorted(set(data.learnt_people.tolist())) == list(range(150))
    petalface._world.cache_clear()
    other = petalface._world(0, "celeba10k", None)
    assert len(other.learnt) == 30
    assert len(np.unique(other.learnt_people)) == 10
    petalface._world.cache_clear()


def test_the_paper_s_scale_starts_on_records_and_tinyface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (40 * 4, 112, 112, 3), dtype=np.uint8)
    sets = tmp_path / "sets"
    _people.write(sets / "faces_emore", crops, np.repeat(np.arange(40), 4))
    tests = sets / "tinyface" / "Testing_Set"
    for folder in ("Probe", "Gallery_Match", "Gallery_Distractor"):
        (tests / folder).mkdir(parents=True)
        for who in range(3):
            Image.fromarray(crops[who]).save(tests / folder / f"{who}.png")
    for who in range(3):
        (sets / "tinyface" / "Training_Set" / str(who)).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(crops[3 * who + number]).save(
                sets / "tinyface" / "Training_Set" / str(who) / f"{number}.png"
            )
    for part in ("probe", "gallery_match"):
        key = part.removesuffix("_match")
        names = np.array([[f"{who}.png"] for who in range(3)], dtype=object)
        savemat(tests / f"{part}_img_ID_pairs.mat", {f"{key}_set": names, f"{key}_ids": np.arange(3)[:, None]})
    narrow: dict[str, Any] = {
        "size": 40, "dim": 16, "batch_size": 4, "workers": 0, "threads": 1, "precision": "32-true",
        "arguments": ("size=40", "patch=2", "embed_dim=16", "depths=(2,2,2)", "heads=(2,2,4)"),
    }  # fmt: skip
    monkeypatch.setattr(petalface, "PRETRAIN", {**petalface.PRETRAIN, **narrow, "held": 0.3})
    monkeypatch.setattr(petalface, "ADAPT", {**petalface.ADAPT, **narrow})
    petalface._found.clear()
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=sets, out=tmp_path / "out", steps=1)
    found = petalface.remembers(setting)
    assert {"hr_pretrained", "lr_pretrained", "lr_full", "lr_everywhere", "lr_twin", "rank20_twin"} <= set(
        found.details
    )
    run = petalface.recipe(setting, "x", Path("data"), {**petalface.ADAPT}, base="b")
    assert (run.network, run.rank, run.weight_decay, run.s) == ("mien.papers.petalface:swin_256new", 8, 0.1, 64.0)
    petalface._found.clear()
    with pytest.raises(OptionError, match="needs a large set"):
        petalface.keeps(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path))
