"""The audit's claims start at both scales; what is planted is planted, and what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.claims import fer_xai
from mien.claims.harness import Setting, claims_of
from mien.errors import OptionError
from mien.nn.expression import EKMAN

pytest.importorskip("skimage", reason="the extra audit is not installed")

TINY = fer_xai.Numbers(side=48, train=24, test=18, epochs=1, samples=12, pictures=2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few heads, which are noise around a face's landmarks."""
    from mien.papers.fer_xai import template

    def noise(count: int, side: int, seed: int) -> fer_xai.Drawn:
        rng = np.random.default_rng([seed, count])
        points = template()[None] * np.float32(side / 300) + rng.normal(0, 0.3, (count, 68, 2)) + 0.1 * side
        return fer_xai.Drawn(
            rng.integers(0, 256, (count, side, side, 3), np.uint8), points.astype(np.float32),
            np.arange(count, dtype=np.int64) % 6, rng.integers(0, 2, (count, 5)).astype(np.float32),
        )  # fmt: skip

    monkeypatch.setattr(fer_xai, "drawn", noise)
    monkeypatch.setattr(fer_xai, "SIZES", {"small": TINY, "paper": TINY})
    monkeypatch.setattr(fer_xai, "GROUP_SAMPLES", 12)
    monkeypatch.setattr(fer_xai, "GROUP_PICTURES", 2)
    fer_xai._found.clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("fer_xai")
    assert {claim.name: claim.margin for claim in claims} == {
        "finds-what-was-planted": 0.2, "tells-regions-apart": 0.5, "normalisation-matters": 0.05, "two-groups": 0.0,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


def test_planted_regions_do_not_overlap_and_lie_in_the_face() -> None:
    from mien.papers.fer_xai import face_mask

    masks = fer_xai.region_masks()
    assert len(masks) == 6
    # They have edges in common.
    assert sum(mask.sum() for mask in masks.values()) < 1.05 * np.any(list(masks.values()), 0).sum()
    assert all(0.02 < mask.mean() < 0.15 and (mask & face_mask()).sum() > 0.95 * mask.sum() for mask in masks.values())


@pytest.mark.usefixtures("tiny")
def test_only_the_region_of_the_class_is_changed_and_faces_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fer_xai.drawn(12, 48, 0)
    monkeypatch.setattr(fer_xai, "SHIFT", 0.0)
    monkeypatch.setattr(fer_xai, "ROLL", 0.0)
    images, points, labels = fer_xai.planted(data, 3)
    assert sorted(labels.tolist()) == sorted(list(range(6)) * 2)
    assert np.allclose(points, data.points, atol=1e-4)
    for row, label in enumerate(labels):
        changed = np.abs(images[row].astype(int) - data.images[row]).sum(2) > 3
        own = [int(name) - 1 for name in list(fer_xai.REGIONS.values())[label].split()]
        inside = data.points[row, own]
        y, x = np.nonzero(changed)
        assert len(x) > 5
        low, high = inside.min(0) - 4, inside.max(0) + 4
        assert (x >= low[0]).all()
        assert (y >= low[1]).all()
        assert (x <= high[0]).all()
        assert (y <= high[1]).all()
    monkeypatch.setattr(fer_xai, "SHIFT", 0.15)
    monkeypatch.setattr(fer_xai, "ROLL", 15.0)
    _, moved, again = fer_xai.planted(data, 3)
    assert np.array_equal(again, labels)
    assert np.abs((moved - data.points).mean(1)).max() < 0.35 * 48
    assert np.abs((moved - data.points).mean(1)).max() > 2


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_claims_about_regions_look_at_the_same_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: Any
) -> None:
    if scale == "paper":  # its full size is a matter of hours
        monkeypatch.setattr(fer_xai, "resnet50", lambda classes: fer_xai.ARCHITECTURES["plain"](classes))
    told: list[str] = []
    setting = Setting(seed=1, scale=scale, out=tmp_path, steps=2, progress=lambda d, t, what: told.append(what))
    one = fer_xai.finds(setting)
    monkeypatch.setattr(fer_xai, "_fitted", None)  # a second training would fail
    two, three = fer_xai.tells_apart(setting), fer_xai.normalised(setting)
    assert one.idea == three.idea == one.details["iou, trained"]
    assert one.baseline == max(one.details["iou, untrained"], one.details["iou, shuffled"])
    assert two.idea == one.details["fitting, trained"]
    assert two.baseline == max(one.details["fitting, untrained"], one.details["fitting, shuffled"])
    assert three.baseline == one.details["iou, without warp"]
    assert all(0 <= value <= 1 for value in one.details.values())
    assert {what.partition(",")[0] for what in told} >= {"heads", "trained", "shuffled", "maps"}


@pytest.mark.usefixtures("tiny")
def test_groups_are_compared_within_and_across(tmp_path: Path) -> None:
    found = fer_xai.groups(Setting(seed=1, out=tmp_path, steps=2))
    assert found.idea == found.details["within"]
    assert found.baseline == found.details["across"]
    gaps = [found.details[f"gap, {name}"] for name in EKMAN]
    assert np.mean(gaps) == pytest.approx(found.idea - found.baseline)
    assert len([name for name in found.details if name.startswith("accuracy")]) == 6
    assert {"within, pretrained", "within, scratch"} <= found.details.keys()


@pytest.mark.usefixtures("tiny")
def test_the_papers_groups_start_on_a_folder_of_expressions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mien.nn import expression as nets
    from mien.train.checkpoint import save_weights

    monkeypatch.setattr(fer_xai, "PAPER_NETWORKS", ("songnet", "weinet", "mobilenetv3", "vgg16"))
    numbers = {"width": 0.125, "side": 32, "batch_size": 4, "workers": 0, "threads": 1, "folds": 2}
    monkeypatch.setattr(fer_xai, "PAPER_NUMBERS", numbers)
    monkeypatch.setattr(fer_xai, "PAPER_LIME", {"samples": 8, "segments": 6})
    monkeypatch.setattr(fer_xai, "PAPER_PICTURES", 1)
    rng = np.random.default_rng(0)
    for name in EKMAN:
        (tmp_path / "data" / "expressions" / name).mkdir(parents=True)
        for person in range(4):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "expressions" / name / f"S{person:03d}_{name}.png")
    setting = Setting(
        seed=0, scale="paper", data="expressions", data_root=tmp_path / "data", out=tmp_path / "out", steps=1
    )
    with pytest.raises(OptionError, match="ImageNet"):
        fer_xai.groups(setting)
    (tmp_path / "data" / "imagenet").mkdir()
    for name in ("mobilenetv3", "vgg16"):
        torch.manual_seed(0)
        save_weights(tmp_path / "data" / "imagenet" / f"{name}.safetensors", nets.CLASSIFIERS[name](width=0.125))
    found = fer_xai.groups(setting)
    assert found.details["within, pretrained"] <= 1
    assert len([name for name in found.details if name.startswith("accuracy")]) == 4
    with pytest.raises(OptionError, match="no folder"):
        fer_xai._paper_groups(Setting(seed=0, scale="paper", data="expressions"))


@pytest.mark.slow
def test_heads_are_drawn_with_their_landmarks() -> None:
    data = fer_xai.drawn(6, 64, 0)
    assert data.images.shape == (6, 64, 64, 3)
    assert data.expressions.tolist() == list(range(6))
    crops, points = fer_xai.upright(data)
    eyes = points[:, 36:48].mean(1)
    assert crops.shape == data.images.shape
    assert np.abs(eyes - eyes.mean(0)).max() < 3
