"""SwinFace's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mien.claims import _people, swinface
from mien.claims.harness import Setting, claims_of
from mien.errors import MediaNotFound, OptionError
from mien.nn.streams import ATTRIBUTES
from mien.train.streams import Labelled


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few people; heads are noise."""

    def noise(count: int, *, seed: int, size: int, per_identity: int, first: int = 0) -> Labelled:
        rng = np.random.default_rng([seed, first])
        return Labelled(
            rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), (np.arange(count) + first) // per_identity,
            rng.uniform(20, 80, count).astype("f4"), rng.integers(0, 2, (count, 40)).astype("f4"),
            rng.integers(0, 7, count), [str(k) for k in range(count)],
        )  # fmt: skip

    monkeypatch.setattr(swinface, "rendered", noise)
    for name, value in {"PEOPLE": 6, "PICTURES": 4, "OTHERS": 3, "BATCH": 8}.items():
        monkeypatch.setattr(swinface, name, value)
    swinface._found.clear()
    swinface.world.cache_clear()
    yield
    swinface._found.clear()
    swinface.world.cache_clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("swinface")
    assert {claim.name: claim.margin for claim in claims} == {
        "levels-read-local-attributes": 0.01, "levels-leave-recognition-alone": -0.01,
        "tasks-do-not-hurt-recognition": -0.01, "curriculum-forgives-wrong-ages": 0.05,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, data="heads", steps=1, progress=lambda done, total, what: told.append(what))
    one = swinface.reads_locally(setting)
    monkeypatch.setattr(swinface, "_fit", None)  # a second training would fail
    two, three, four = (
        run(setting) for run in (swinface.levels_keep_people, swinface.tasks_keep_people, swinface.forgives)
    )
    found = one.details
    assert (one.baseline, one.idea) == (found["last_local"], found["levels_local"])
    assert (two.baseline, three.baseline) == (found["last_auc"], found["alone_auc"])
    assert two.idea == three.idea == found["levels_auc"]
    assert (four.baseline, four.idea) == (1.0, pytest.approx(found["levels_eps"] / found["square_eps"]))
    assert {what.partition(",")[0] for what in told} >= {"pretraining", *swinface.ARMS}
    assert all(0 <= value <= 1 for name, value in found.items() if not name.endswith("_mae"))


@pytest.mark.usefixtures("tiny")
def test_wrong_ages_are_learnt_from_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = swinface.world(2)
    swinface.world.cache_clear()
    monkeypatch.setattr(swinface, "WRONG", 0.0)
    clean = swinface.world(2)
    assert (spoilt.learnt.age != clean.learnt.age).sum() == round(0.1 * 24)
    assert np.array_equal(spoilt.compared.age, clean.compared.age)
    assert not set(clean.learnt.person.tolist()) & set(clean.compared.person.tolist())


def test_figures_are_those_of_loops() -> None:
    class Known(torch.nn.Module):
        size = 8

        def __init__(self) -> None:
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            grey = images.mean((1, 2, 3))
            attributes = torch.zeros(len(images), 40, 2)
            attributes[:, :, 1] = torch.where(grey > 0, 1.0, -1.0)[:, None]
            return {"recognition": torch.stack([grey, 1 - grey], 1), "age": 40 + 10 * grey[:, None],
                    "attributes": attributes}  # fmt: skip

    shades = np.array([20, 30, 200, 210])
    truth = np.full((4, 40), np.nan, np.float32)
    for name in swinface.LOCAL:
        truth[:, ATTRIBUTES.index(name)] = (0, 1, 1, 1)
    part = Labelled(
        np.tile(shades[:, None, None, None], (1, 8, 8, 3)).astype(np.uint8), np.array([0, 0, 1, 1]),
        np.array([30, np.nan, 45, 50], np.float32), truth, np.zeros(4, np.int64), list("abcd"),
    )  # fmt: skip
    found = swinface.measured(Known(), part)
    away = np.array([40 + 10 * (s - 127.5) / 127.5 - y for s, y in ((20, 30), (200, 45), (210, 50))])
    assert found["mae"] == pytest.approx(np.abs(away).mean(), rel=1e-5)
    assert found["eps"] == pytest.approx(np.mean([1 - np.exp(-(a**2) / 50) for a in away]), rel=1e-5)
    assert found["local"] == pytest.approx(0.75)
    assert found["auc"] == 1
    assert "young" not in found


def test_the_paper_s_scale_starts_on_records_and_the_sets_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (24, 40, 40, 3), dtype=np.uint8)
    sets = tmp_path / "sets"
    _people.write(sets / "faces_emore", crops, np.repeat(np.arange(8), 3))
    setting = Setting(seed=0, scale="paper", data="faces_emore", data_root=sets, out=tmp_path / "out", steps=1)
    swinface._found.clear()
    with pytest.raises(MediaNotFound, match="celeba beside"):
        swinface.reads_locally(setting)
    (sets / "celeba" / "img_align_celeba").mkdir(parents=True)
    for folder in ("happy", "angry", "sad"):
        (sets / "expressions" / folder).mkdir(parents=True)
    rows, ages = [], ["file,age,gender"]
    for k in range(12):
        picture = Image.fromarray(crops[k])
        picture.save(sets / "celeba" / "img_align_celeba" / f"{k:06d}.jpg")
        picture.save(sets / f"{k}.png")
        picture.save(sets / "expressions" / ("happy", "angry", "sad")[k % 3] / f"{k}.png")
        rows.append(f"{k:06d}.jpg " + " ".join("1" if (k + j) % 2 else "-1" for j in range(40)))
        ages.append(f"{k}.png,{20 + k},{'male' if k % 2 else 'female'}")
    (sets / "celeba" / "list_attr_celeba.txt").write_text("\n".join(["12", " ".join(sorted(ATTRIBUTES)), *rows]) + "\n")
    (sets / "ages.csv").write_text("\n".join(ages) + "\n")
    narrow: dict[str, Any] = {
        "size": 32, "dim": 32, "workers": 0, "threads": 1, "precision": "32-true", "held": 0.3, "augment": "flip",
        "arguments": ("size=32", "patch=2", "embed_dim=16", "depths=(1,1,1,1)", "heads=(1,1,1,1)", "window=4"),
    }  # fmt: skip
    monkeypatch.setattr(swinface, "BEFORE", {**swinface.BEFORE, **narrow, "batch_size": 8})
    monkeypatch.setattr(swinface, "AFTER", {**swinface.AFTER, **narrow, "batch_size": 8})
    monkeypatch.setattr(swinface, "ALONE", {**swinface.ALONE, "batch_size": 2})
    found = swinface.forgives(setting).details
    assert {f"{arm}_auc" for arm in swinface.ARMS} <= set(found)
    assert {f"{arm}_{name}" for arm in ("levels", "last", "square") for name in ("local", "eps", "mae")} <= set(found)
    monkeypatch.undo()
    run = swinface.recipe(setting, "x", swinface.AFTER, base="b")
    assert (run.network, run.backbone_pace, run.sample) == ("mien.papers.swinface:swinface", 0.1, 0.3)
    swinface._found.clear()
    with pytest.raises(OptionError, match="needs a large set"):
        swinface.forgives(Setting(seed=0, scale="paper", data="faces_emore", out=tmp_path))
