"""RTNet's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mien.claims import rtnet
from mien.claims.harness import Setting, claims_of
from mien.data.crowds import Crowds
from mien.data.parsed import LAPA, Parsed
from mien.errors import OptionError
from mien.faces import PARSING


def scenes(count: int, seed: int, size: int = 60) -> Crowds:
    """A square of skin with a bar of hair on it, and an eye."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, size, size, 3), dtype=np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    boxes = np.empty((count, 4), np.float32)
    for row in range(count):
        x, y = rng.integers(12, 28, 2)
        for name, top, bottom, colour in (("skin", 0, 18, 220), ("hair", -8, 0, 140), ("l_eye", 6, 9, 30)):
            images[row, y + top : y + bottom, x : x + 16] = colour
            masks[row, y + top : y + bottom, x : x + 16] = PARSING.index(name)
        boxes[row] = (x, y, x + 16, y + 18)
    return Crowds(images, masks, boxes, np.zeros(count, np.float32))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def world(seed: int) -> rtnet.World:
        return rtnet.World(*(rtnet._grouped(scenes(6, 10 * seed + part)) for part in range(3)))

    monkeypatch.setattr(rtnet, "_world", world)
    monkeypatch.setattr(rtnet, "BATCH", 4)
    rtnet._found.clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("rtnet")
    assert {claim.name: claim.margin for claim in claims} == {
        "finds-the-hair": 0.3, "better-than-a-tight-crop": 0.05, "better-than-a-wide-crop": 0.08, "rolled-faces": 0.1,
        "padding-that-knows-the-circle": 0.03,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, steps=2, progress=lambda done, total, what: told.append(what))
    one = rtnet.hair(setting)
    monkeypatch.setattr(rtnet, "trained", None)  # a second training would fail
    two, three, four, five = (run(setting) for run in (rtnet.context, rtnet.resolution, rtnet.rotation, rtnet.circle))
    found = one.details
    assert (one.baseline, one.idea) == (found["upright_tight_hair"], found["upright_polar_hair"])
    assert two.idea == three.idea == found["upright_polar_f1"]
    assert (two.baseline, three.baseline) == (found["upright_tight_f1"], found["upright_wide_f1"])
    assert four.idea == five.idea == found["rolled_polar_f1"]
    assert four.baseline == max(found[f"rolled_{kind}_f1"] for kind in ("tight", "wide", "tanh"))
    assert five.baseline == found["rolled_polar_zeros_f1"]
    assert all(0 <= value <= 1 for value in found.values())
    assert {what.partition(",")[0] for what in told} >= set(rtnet.KINDS)


def test_people_who_are_measured_are_not_learnt_and_lie_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtnet, "TRAIN", 5)
    monkeypatch.setattr(rtnet, "TEST", 4)
    rtnet._world.cache_clear()
    data = rtnet._world(0)
    rtnet._world.cache_clear()
    assert (len(data.learnt), len(data.upright), len(data.rolled)) == (5, 4, 4)
    assert np.abs(data.upright.roll).max() <= 14 < np.abs(data.rolled.roll).max()
    assert set(np.unique(data.learnt.masks)) <= set(range(6))
    assert not {image.tobytes() for image in data.learnt.images} & {image.tobytes() for image in data.upright.images}


class Truth(nn.Module):
    """Classes by the grey value that `scenes` painted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = (x.mean(1) + 1) * 127.5
        values = torch.tensor([0.0, 220.0, -99.0, 30.0, -99.0, 140.0]).view(1, -1, 1, 1)
        return -((grey[:, None] - values).square()) / 10


def test_figures_see_the_hair_where_the_map_holds_it() -> None:
    data = rtnet._grouped(scenes(5, 0))
    hair = {name: rtnet.measured(Truth(), name, data, "cpu")["hair"] for name in rtnet.KINDS}
    assert hair["tight"] < 0.1
    assert min(hair["wide"], hair["tanh"], hair["polar"]) > 0.6
    images, masks = rtnet.warped(rtnet.KINDS["polar"][0], data)
    assert images.shape == (5, 3, rtnet.SIDE, rtnet.SIDE)
    assert int(masks.max()) == 5
    assert float(images.min()) >= -1


def test_the_circle_is_in_every_convolution() -> None:
    network = rtnet.UShaped(6, circle=True).eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 48, 48)
        gap = network(x.roll(12, 2)) - network(x).roll(12, 2)
        plain = rtnet.UShaped(6, circle=False).eval()
        plain.load_state_dict(network.state_dict())
        other = plain(x.roll(12, 2)) - plain(x).roll(12, 2)
    # Only the enlargement between the levels knows the first row from the others.
    assert float(gap.abs()[:, :, 18:30].max()) < 1e-5
    assert float(gap.abs().mean()) < 0.5 * float(other.abs().mean())


def lapa(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for part in ("images", "labels", "landmarks"):
            (folder / split / part).mkdir(parents=True)
        for number in range(2):
            image = rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / split / "images" / f"{number}.jpg")
            mask = (np.arange(2500).reshape(50, 50) // 50 % 11).astype(np.uint8)
            Image.fromarray(mask).save(folder / split / "labels" / f"{number}.png")
            points = rng.uniform(10, 40, (106, 2))
            words = "\n".join(f"{x:.1f} {y:.1f}" for x, y in points)
            (folder / split / "landmarks" / f"{number}.txt").write_text(f"106\n{words}\n")


def test_the_paper_s_scale_starts_on_lapa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.train import loop

    monkeypatch.setattr(loop, "gemm_rate", lambda device, *, dtype: 1e10)
    lapa(tmp_path / "LaPa")
    narrow = {"size": 33, "batch_size": 2, "workers": 0, "threads": 1, "precision": "32-true"}
    monkeypatch.setattr(rtnet, "PAPER", {**rtnet.PAPER, **narrow})
    monkeypatch.setattr(rtnet, "SMALLER", ("width=8", "layers=(1,1,1,1)"))
    rtnet._found.clear()
    setting = Setting(seed=0, scale="paper", data="LaPa", data_root=tmp_path, out=tmp_path / "out", steps=1)
    found = rtnet.rotation(setting)
    assert set(found.details) == {
        f"{part}_{name}_{key}" for part in ("upright", "rolled") for name in rtnet.RUNS for key in ("f1", "hair")
    }
    run = rtnet.recipe(setting, "wide", tmp_path)
    assert (run.network, run.frame, run.crop_margin, run.names) == ("mien.papers.rtnet:resnet50", "crop", 2.0, LAPA)
    assert (run.optimizer, run.lr, run.schedule) == ("sgd", 0.01, "poly")
    rtnet._found.clear()
    with pytest.raises(OptionError, match="needs a set of masks"):
        rtnet.hair(Setting(seed=0, scale="paper", data="LaPa", out=tmp_path))


def test_turned_pictures_keep_the_face_in_the_box() -> None:
    image = np.zeros((80, 80, 3), np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    yy, xx = np.mgrid[:80, :80]
    face = ((xx - 40) / 12) ** 2 + ((yy - 38) / 18) ** 2 <= 1
    image[face], mask[face] = 200, 1
    one: Any = Parsed([lambda: image] * 6, [lambda: mask] * 6, np.tile([[28.0, 20, 52, 56]], (6, 1)), LAPA)
    turned = rtnet.turned(one, seed=0)
    for row in range(6):
        rows, columns = np.nonzero(turned.masks[row]())
        got = [columns.min(), rows.min(), columns.max(), rows.max()]
        np.testing.assert_allclose(turned.boxes[row], got, atol=1.6)
        assert ((turned.pictures[row]()[..., 0] > 100) == (turned.masks[row]() > 0)).mean() > 0.98
    assert len({tuple(box) for box in turned.boxes.tolist()}) > 1
