"""The claims of CNN features off-the-shelf start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mien.claims import _people
from mien.claims import cnn_off_the_shelf as claims
from mien.claims._patterns import Nuisance
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError, WeightsUnavailable
from mien.papers import cnn_off_the_shelf as paper
from mien.papers.cnn_off_the_shelf.checkpoint import numbers


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        means = rng.integers(40, 216, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 20, (people, pictures, size, size, 3))
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), np.repeat(
            np.arange(people), pictures
        )

    monkeypatch.setattr(_people, "rendered", noise)
    for name, value in {"PEOPLE": 12, "PICTURES": 4, "TRAIN": 40, "TEST": 40, "SIZE": 32, "CS": (1.0,)}.items():
        monkeypatch.setattr(claims, name, value)
    claims._found.clear()


def test_the_margins_are_those_that_were_written_down() -> None:
    found = claims_of("cnn_off_the_shelf")
    assert [(claim.name, claim.margin) for claim in found] == [("frozen-features", 0.04), ("jitter", 0.0)]
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in found)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_both_claims_look_at_the_same_networks(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(seed=1, out=tmp_path, steps=3, data=data)
    first = claims.frozen(setting)
    monkeypatch.setattr(claims, "trained", None)  # a second training would fail
    second = claims.jittered(setting)
    assert first.details == second.details
    assert first.baseline == max(first.details[name] for name in ("pixels", "random_conv", "random"))
    assert first.idea == first.details["trained"]
    assert (second.baseline, second.idea) == (first.details["plain"], first.details["jitter"])
    values = {name: value for name, value in first.details.items() if name != "attributes"}
    assert all(0 < value <= 1 for value in values.values())
    assert first.details["attributes"] >= (6 if data == "patterns" else 3)


@pytest.mark.usefixtures("tiny")
def test_a_seed_gives_the_same_again(tmp_path: Path) -> None:
    setting = Setting(seed=0, out=tmp_path, steps=2, data="patterns")
    first = claims.measured(setting)
    claims._found.clear()
    assert claims.measured(setting) == first


@pytest.mark.usefixtures("tiny")
def test_attributes_of_heads_are_those_that_people_keep(tmp_path: Path) -> None:
    from mien.data.heads import ATTRIBUTES, attributes, sample

    data = claims._heads(Setting(seed=0, out=tmp_path))
    assert data.attributes.shape == (80, data.attributes.shape[1])
    assert data.test.sum() == 40
    rates = data.attributes.mean(0)
    assert ((rates >= 0.15) & (rates <= 0.85)).all()
    drawn = attributes(sample(80, seed=1, occluder="none"))
    columns = {tuple(column) for column in data.attributes.T.tolist()}
    assert tuple(drawn[:, ATTRIBUTES.index("Male")].tolist()) in columns
    assert tuple(drawn[:, ATTRIBUTES.index("Eyeglasses")].tolist()) not in columns  # put on and off


def test_shaking_changes_place_and_light_and_nothing_without_a_nuisance() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (6, 24, 24, 3), dtype=np.uint8)
    still = Nuisance(angle=0, scale=0, shift=0, gain=(1.0, 1.0))
    np.testing.assert_array_equal(claims.shaken(crops, 0, still), crops)
    dark = claims.shaken(crops, 0, Nuisance(angle=0, scale=0, shift=0, gain=(0.5, 0.5)))
    np.testing.assert_allclose(dark, crops / 2, atol=0.51)
    assert not np.array_equal(claims.shaken(crops, 0), claims.shaken(crops, 1))


@pytest.mark.usefixtures("tiny")
def test_photographs_are_split_by_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.data import sets

    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 6)

    class Celeba:
        attributes = rng.random((180, 5)) < np.array([0.5, 0.4, 0.01, 0.99, 0.3])

    def photographed(name: str, root: Any, *, size: int) -> tuple[Any, Any]:
        labels = people if name == "celeba10k" else np.arange(48) % 8
        return rng.integers(0, 256, (len(labels), size, size, 3), dtype=np.uint8), labels

    monkeypatch.setattr(_people, "photographed", photographed)
    monkeypatch.setattr(sets, "celeba10k", lambda root: Celeba)
    monkeypatch.setattr(claims, "REAL_TRAIN", 60)
    monkeypatch.setattr(claims, "REAL_TEST", 50)
    data = claims.drawn(Setting(seed=0, out=tmp_path, data="celeba10k"))
    assert (~data.test).sum() == 60
    assert data.test.sum() == 50
    assert not set(data.people[data.test]) & set(data.people[~data.test])
    assert data.attributes.shape[1] == 3
    assert 0 < claims.frozen(Setting(seed=0, out=tmp_path, data="celeba10k", steps=1)).idea <= 1


def celeba(folder: Path, people: int = 24, pictures: int = 2) -> None:
    """A CelebA of noise in its own lists."""
    rng = np.random.default_rng(0)
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{n:06d}.jpg" for n in range(1, people * pictures + 1)]
    for name in names:
        cv2.imwrite(str(folder / "img_align_celeba" / name), rng.integers(0, 256, (54, 44, 3), dtype=np.uint8))
    flags = np.where(rng.random((len(names), 3)) < 0.5, 1, -1)
    rows = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, flags.tolist(), strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(names)), "Bald Male Young", *rows]) + "\n")
    ids = [f"{name} {index // pictures}" for index, name in enumerate(names)]
    (folder / "identity_CelebA.txt").write_text("\n".join(ids) + "\n")


def test_the_paper_s_scale_starts_with_overfeat_on_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba(tmp_path / "celeba")
    small = "mien.papers.cnn_off_the_shelf:overfeat_large?size=77&width=0.0625&hidden=16"
    monkeypatch.setattr(claims, "PAPER", {**claims.PAPER, "network": small, "batch": 20, "pixels": 8})
    monkeypatch.setattr(claims, "FOLDS", 2)
    claims._found.clear()
    setting = Setting(seed=0, scale="paper", data="celeba", data_root=tmp_path, out=tmp_path, steps=1)
    with pytest.raises(WeightsUnavailable, match="OverFeat's own file"):
        claims.frozen(setting)
    slots = paper.layout(paper.overfeat_large(size=77, width=0.0625, hidden=16))
    flat = np.random.default_rng(0).normal(size=numbers(slots)).astype("<f4") * 0.1
    flat.tofile(tmp_path / "net_weight_1")
    found = claims.frozen(setting)
    assert found.details.keys() >= {"pixels", "random", "trained", "jitter", "jitter_no_square"}
    assert claims.jittered(setting).idea == found.details["jitter"]
    with pytest.raises(OptionError, match="needs CelebA"):
        claims._celeba_large(Setting(seed=0, scale="paper", data="celeba", out=tmp_path), 77)
