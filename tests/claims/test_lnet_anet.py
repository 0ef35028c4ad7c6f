"""The claims of LNets and ANet start at both scales; what they compare is what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mien.claims import lnet_anet
from mien.claims.harness import Setting, claims_of
from mien.data.head_scenes import HeadScenes
from mien.errors import OptionError

CLAIMS = (
    lnet_anet.points, lnet_anet.often, lnet_anet.frames, lnet_anet.knows_people, lnet_anet.crops_help,
    lnet_anet.boxes_hardly, lnet_anet.more_tags,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few scenes, in which a bright square stands for a face."""

    def drawn(count: int, *, seed: int, size: int, per_identity: int, scale: Any) -> HeadScenes:
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 80, (count, size, size, 3), dtype=np.uint8)
        corner = rng.integers(0, size - 30, (count, 2))
        for picture, (x, y) in zip(image, corner, strict=True):
            picture[y : y + 30, x : x + 24] += 150
        boxes = np.concatenate([corner, corner + np.array([24, 30])], 1).astype(np.float32)
        return HeadScenes(image, rng.random((count, 36)) < 0.5, boxes, np.arange(count) // per_identity)

    monkeypatch.setattr(lnet_anet, "head_scenes", drawn)
    monkeypatch.setattr(lnet_anet, "LEARNT", (6, 4))
    monkeypatch.setattr(lnet_anet, "TESTED", (5, 2))
    monkeypatch.setattr(lnet_anet, "LABELLED", 8)
    lnet_anet._found.clear()
    lnet_anet._world.cache_clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("lnet_anet")
    assert {claim.name: claim.margin for claim in claims} == {
        "tags-find-faces": 0.3, "seven-in-ten": 0.0, "windows-by-tags": 0.3, "identities-help": 0.02,
        "windows-beat-pictures": 0.03, "windows-nearly-boxes": -0.03, "more-tags-sharpen": 0.05,
    }  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, steps=2, progress=lambda done, total, what: told.append(what))
    first = lnet_anet.points(setting)
    monkeypatch.setattr(lnet_anet, "_trained", None)  # a second training would fail
    found = [run(setting) for run in CLAIMS]
    d = first.details
    baselines = ("centre", "random", "shuffled")
    assert first.baseline == max(d[f"hit_{name}"] for name in baselines)
    assert first.idea == found[1].idea == found[6].idea == d["hit_tags"]
    assert found[1].baseline == 0.7
    assert (found[2].baseline, found[2].idea) == (max(d[f"iou30_{name}"] for name in baselines), d["iou30_tags"])
    assert (found[3].baseline, found[3].idea) == (d["accuracy_scratch"], d["accuracy_pretrained"])
    assert (found[4].baseline, found[4].idea) == (d["accuracy_whole"], d["accuracy_cascade"])
    assert (found[5].baseline, found[5].idea) == (d["accuracy_boxes"], d["accuracy_cascade"])
    assert found[6].baseline == d["hit_two"]
    assert all(0 <= value <= 1 for value in d.values())
    assert {what.partition(", loss")[0] for what in told} >= {
        "LNet, tags", "LNet, shuffled", "LNet, two", "LNet_s", "ANet, whole", "ANet, cascade", "ANet, boxes",
        "ANet, scratch", "ANet, people", "ANet, pretrained",
    }  # fmt: skip


@pytest.mark.usefixtures("tiny")
def test_baselines_and_ideas_begin_alike_and_tested_people_are_not_learnt() -> None:
    setting = Setting(seed=3)
    one, two = lnet_anet.first_lnet(setting, 10), lnet_anet.first_lnet(setting, 2)
    for name, tensor in one.convs.state_dict().items():
        assert torch.equal(tensor, two.convs.state_dict()[name])
    assert torch.equal(lnet_anet.first_anet(setting).fc.weight, lnet_anet.first_anet(setting).fc.weight)
    data = lnet_anet.world(setting)
    assert data.learnt.tags.shape == (24, 10)
    learnt = {picture.tobytes() for picture in data.learnt.image}
    assert not learnt & {picture.tobytes() for picture in data.tested.image}


def test_figures_are_those_of_loops() -> None:
    peaks = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)
    boxes = np.array([[0.4, 0.4, 0.6, 0.6], [0.4, 0.4, 0.6, 0.6]], np.float32)
    assert lnet_anet.pointing(peaks, boxes) == 0.5
    windows = np.array([[0.4, 0.4, 0.8, 0.6], [0.0, 0.0, 0.2, 0.2]], np.float32)
    assert lnet_anet.overlaps(windows, boxes).tolist() == pytest.approx([0.5, 0.0])
    reduced = lnet_anet.reduced(np.full((2, 96, 96, 3), 7, np.uint8), 64)
    assert reduced.shape == (2, 64, 64, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    cut = lnet_anet.cut_out(images, np.array([[10, 20, 50, 60], [0, 0, 40, 40]], np.float32), 40, grow=1.0)
    assert np.array_equal(cut[0], images[0, 20:60, 10:50])


def test_photographs_lie_in_clutter_with_the_face_in_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faces:
        identity = np.repeat(np.arange(12), [6] * 4 + [1] * 8)
        attribute_names = lnet_anet.TEN
        attributes = np.random.default_rng(0).random((32, 10)) < 0.5

        def __len__(self) -> int:
            return 32

        def picture(self, row: int) -> Any:
            face = np.full((109, 89, 3), 10, np.uint8)
            x0, y0, x1, y1 = (int(v) for v in lnet_anet.ALIGNED)
            face[y0:y1, x0:x1] = 250
            return face

    monkeypatch.setattr("mien.data.sets.celeba10k", lambda folder: Faces())
    monkeypatch.setattr(lnet_anet, "LEARNT", (4, 5))
    monkeypatch.setattr(lnet_anet, "TESTED", (4, 2))
    lnet_anet._world.cache_clear()
    data = lnet_anet._world(0, "celeba10k", None)
    assert (len(data.learnt), len(data.tested)) == (20, 8)
    assert not set(data.learnt.identity.tolist()) & set(data.tested.identity.tolist())
    for scenes in (data.learnt, data.tested):
        for picture, box in zip(scenes.image, scenes.boxes, strict=True):
            x0, y0, x1, y1 = np.rint(box + np.array([2, 2, -2, -2])).astype(int)
            assert (picture[y0:y1, x0:x1] > 200).mean() > 0.95
    lnet_anet._world.cache_clear()


def test_the_paper_s_scale_starts_on_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(__file__).parents[1] / "train" / "test_attributes.py"
    spec = importlib.util.spec_from_file_location("attributes_of_celeba", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.celeba(tmp_path / "sets" / "celeba")
    assert Image.open(tmp_path / "sets" / "celeba" / "img_celeba" / "000001.jpg").size == (64, 80)
    numbers = {
        "batch_size": 4, "images": 2, "workers": 0, "threads": 1, "precision": "32-true", "variant": "small", "fc": 16,
        "size": 64, "anet_size": 40, "channels": (8, 8, 8, 8), "checked": 6,
    }  # fmt: skip
    monkeypatch.setattr(lnet_anet, "NUMBERS", {**lnet_anet.NUMBERS, **numbers})
    from mien.train import loop

    monkeypatch.setattr(loop, "gemm_rate", lambda device, *, dtype: 1e10)
    lnet_anet._found.clear()
    setting = Setting(seed=0, scale="paper", data="celeba", data_root=tmp_path / "sets", out=tmp_path / "out", steps=1)
    found = [run(setting) for run in CLAIMS]
    details = found[0].details
    assert {"hit_centre", "hit_random", "hit_shuffled", "hit_two", "iou30_tags", "accuracy_svm", "auc_identities",
            "accuracy_pretrained", "accuracy_whole", "accuracy_boxes"} <= set(details)  # fmt: skip
    monkeypatch.setattr(lnet_anet, "NUMBERS", {"preset": "celeba"})
    run = lnet_anet.recipe(setting, "x", "lnet_o")
    assert (run.variant, run.size, run.batch_size, run.optimizer, run.anet_size) == ("alexnet", 227, 128, "sgd", 64)
    lnet_anet._found.clear()
    with pytest.raises(OptionError, match="needs CelebA"):
        lnet_anet.points(Setting(seed=0, scale="paper", data="celeba", out=tmp_path))
