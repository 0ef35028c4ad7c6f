"""ASPL's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.claims import _people, aspl
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError

TINY = {
    "others": 8,
    "pictures": 6,
    "people": 6,
    "pool": 12,
    "tested": 4,
    "size": 32,
    "dim": 16,
    "steps": 3,
    "rounds": 2,
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people and pictures; heads are noise with a mean of its own for each person."""

    def noise(*, people: int, pictures: int, size: int, seed: int, **_: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(seed)
        means = rng.integers(40, 216, (people, 1, 1, 1, 3))
        crops = means + rng.normal(0, 20, (people, pictures, size, size, 3))
        return np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, 3), np.repeat(
            np.arange(people), pictures
        )

    monkeypatch.setattr(_people, "rendered", noise)
    monkeypatch.setattr(aspl, "SMALL", {**aspl.SMALL, **TINY})
    aspl._worlds.clear()
    aspl._curves.clear()


def test_every_claim_names_its_data_and_a_margin() -> None:
    claims = claims_of("aspl")
    assert [(claim.name, claim.margin) for claim in claims] == [
        ("fewer-labels", 0.01), ("right-names", 0.01), ("second-looks", 0.0),
    ]  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("data", ["heads", "patterns"])
def test_the_ways_are_compared_at_equal_labels(data: str, tmp_path: Path) -> None:
    setting = Setting(seed=1, data=data, out=tmp_path)
    found = aspl.fewer_labels(setting)
    assert 0 <= found.baseline <= 1
    ways = {way: aspl.curve(setting, way, **aspl._budget(setting)) for way in ("aspl", "al")}
    assert [row["labels"] for row in ways["aspl"]] == [18, 24, 30]
    assert [row["labels"] for row in ways["al"]] == [18, 24, 30]
    assert all(row["free"] == 0 for row in ways["al"])
    assert [row["labels"] for row in aspl.curve(setting, "spl")] == [18, 18, 18]
    named = aspl.right_names(setting)
    assert 0 <= named.idea <= 1
    again = aspl.right_names(Setting(seed=1, data=data, out=tmp_path / "again"))
    assert (again.baseline, again.idea) == (named.baseline, named.idea)


@pytest.mark.usefixtures("tiny")
def test_everything_is_split_by_picture_and_the_first_labels_lie_in_the_pool(tmp_path: Path) -> None:
    here = aspl.world(Setting(seed=0, data="patterns", out=tmp_path))
    assert len(here.truth) == 6 * 12
    assert len(here.tested_truth) == 6 * 4
    assert sorted(here.truth[row] for row in here.first) == sorted(name for name in set(here.truth) for _ in range(3))
    assert not {row.tobytes() for row in here.features} & {row.tobytes() for row in here.tested}


@pytest.mark.usefixtures("tiny")
def test_a_tenth_of_the_first_labels_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    told = aspl.ActiveSelfPaced.label
    setting = Setting(seed=0, data="patterns", out=tmp_path)
    truth = aspl.world(setting).truth

    def label(self: Any, rows: Any, names: Any) -> None:
        seen.append(float(np.mean([truth[row] != name for row, name in zip(rows, names, strict=True)])))
        told(self, rows, names)

    monkeypatch.setattr(aspl.ActiveSelfPaced, "label", label)
    found = aspl.second_looks(setting)
    assert seen == [pytest.approx(2 / 18)] * 2
    assert found.details["expelled"] >= 0


def test_pictures_have_the_four_resolutions() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    worse = aspl.worsened(crops, 0)
    roughness = np.abs(np.diff(worse.astype(float), axis=1)).mean((1, 2, 3)).round(0)
    assert (worse == crops).all((1, 2, 3)).any()
    assert len(np.unique(roughness)) > 3
    assert (aspl.worsened(crops, 0) == worse).all()


@pytest.mark.usefixtures("tiny")
def test_photographs_are_cut_for_the_bundled_embedder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (30, 112, 112, 3), np.uint8)
    monkeypatch.setattr(aspl, "_faces", lambda root: (crops, np.repeat(np.arange(3), 10)))
    here = aspl.world(Setting(seed=0, data="celeb24", out=tmp_path))
    assert here.features.shape == (3 * 6, 128)


def test_the_paper_s_scale_starts_on_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5 * 12, 112, 112, 3), dtype=np.uint8)
    _people.write(tmp_path / "sets" / "faces_emore", crops, np.repeat(np.arange(5), 12))
    small = {"people": 4, "rounds": 4, "network": {"width": 0.05, "hidden": 16, "init": "he"}, "side": 72, "crop": 67}
    monkeypatch.setattr(aspl, "PAPER", {**aspl.PAPER, **small})
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    found = aspl.fewer_labels(setting)
    assert 0 <= found.idea <= 1
    here = aspl.world(setting)
    assert here.features.shape == (4 * 10, 16)
    assert len(here.first) == 4 * 4  # a tenth, but no fewer than a classifier needs
    assert len({len(row) for row in (here.truth, here.features)}) == 1
    assert len(aspl.curve(setting, "aspl")) == 5
    with pytest.raises(OptionError, match="needs a large set"):
        aspl.world(Setting(seed=1, scale="paper", data="faces_emore", out=tmp_path))


@pytest.mark.data
def test_the_real_set_is_read(tmp_path: Path) -> None:
    from mien.data import sets

    try:
        people = sets.celeb24()
    except Exception as error:  # whatever is wrong with a set that need not be there
        pytest.skip(f"celeb24 is not here: {error}")
    assert len(people) > 2000
