"""FaceNet's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.claims import _people, facenet
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError

TINY: dict[str, Any] = {"batch_size": 8, "images": 2, "workers": 0, "threads": 1}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people, few pictures of 32 px, small batches; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        means = rng.integers(40, 216, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 20, (people, pictures, size, size, 3))
        labels = np.repeat(np.arange(people), pictures)
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), labels

    monkeypatch.setattr(_people, "rendered", noise)
    monkeypatch.setattr(facenet, "PEOPLE", 40)
    monkeypatch.setattr(facenet, "PICTURES", 6)
    monkeypatch.setattr(facenet, "SMALL", {**facenet.SMALL, **TINY, "size": 32})
    monkeypatch.setattr(facenet, "SIZE", 32)
    facenet._harmonic.clear()
    facenet._compared.clear()
    facenet._drawn.cache_clear()


def test_every_claim_names_its_data_and_a_margin() -> None:
    claims = claims_of("facenet")
    assert [claim.name for claim in claims] == [
        "semi-hard-negatives", "a-byte-a-number", "harmonic-compatible", "harmonic-intermediate", "harmonic-needed",
    ]  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_the_rules_are_compared_on_the_same_people(tmp_path: Path) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, steps=3, progress=lambda done, total, what: told.append(what))
    found = facenet.negatives(setting)
    assert 0 <= found.baseline <= 1
    assert set(found.details) == {"auc_random", "auc_semi_hard"}
    assert any(what.startswith("semi_hard") for what in told)
    facenet._compared.clear()
    again = facenet.negatives(Setting(seed=1, out=tmp_path / "again", steps=3))
    assert (again.baseline, again.idea) == (found.baseline, found.idea)


@pytest.mark.usefixtures("tiny")
def test_bytes_are_nearly_the_floats(tmp_path: Path) -> None:
    found = facenet.bytes_for_floats(Setting(seed=0, out=tmp_path, steps=3))
    assert found.details["auc_bytes"] == pytest.approx(found.details["auc_floats"], abs=0.01)
    assert found.baseline != found.idea or found.details["auc_bytes"] != found.details["auc_floats"]


@pytest.mark.usefixtures("tiny")
def test_the_harmonic_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(seed=0, out=tmp_path, steps=2)
    one = facenet.compatible(setting)
    monkeypatch.setattr(facenet, "trained", None)  # a second training would fail
    two, three = facenet.intermediate(setting), facenet.incomparable(setting)
    assert one.idea == two.baseline == one.details["val_harmonic_old"]
    assert three.baseline == one.details["auc_alone_old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "alone", "last", "old", "people"]


def test_the_paper_s_scale_starts_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (40 * 4, 112, 112, 3), dtype=np.uint8)
    _people.write(tmp_path / "sets" / "faces_emore", crops, np.repeat(np.arange(40), 4))
    small = {"batch_size": 10, "images": 4, "others": 2, "held": 0.4, "arguments": ("width=0.125",)}
    monkeypatch.setattr(facenet, "PAPER", {**facenet.PAPER, **small, "workers": 0})
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    run = facenet.recipe(setting, facenet.records(setting), "random", rule="random")
    assert (run.network, run.size, run.optimizer) == ("mien.papers.facenet:nn2", 224, "adagrad")
    network = facenet.trained(setting, run)
    crops, labels = facenet.compared_people(setting, run)
    assert facenet.vectors(network, crops[:4]).shape == (4, 128)
    assert len(np.unique(labels)) < 40
    with pytest.raises(OptionError, match="needs a large set"):
        facenet.records(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path))


def test_crops_of_photographs_have_the_eyes_where_the_template_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.data import sets

    class People:
        identity = np.array(["a", "a", "b"])

        def __len__(self) -> int:
            return 3

        def picture(self, row: int) -> Any:
            image = np.zeros((100, 100, 3), np.uint8)
            image[38:42, 33:37] = image[38:42, 63:67] = 255  # eyes
            return image

    def points(pictures: Any) -> Any:
        face = np.array([[34.5, 39.5], [64.5, 39.5], [49.5, 56.0], [37.0, 73.0], [62.0, 73.0]], np.float32)
        return np.tile(face, (len(pictures), 1, 1))

    monkeypatch.setattr(sets, "lfw", lambda root: People())
    monkeypatch.setattr(_people, "_central", points)
    _people.photographed.cache_clear()
    crops, who = _people.photographed("lfw", None, size=112)
    _people.photographed.cache_clear()
    assert crops.shape == (3, 112, 112, 3)
    assert who.tolist() == [0, 0, 1]
    bright = np.argwhere(crops[0, ..., 0] > 128)
    left, right = bright[bright[:, 1] < 56].mean(0), bright[bright[:, 1] > 56].mean(0)
    assert np.abs(left - [51.7, 38.3]).max() < 2.5
    assert np.abs(right - [51.5, 73.5]).max() < 2.5
