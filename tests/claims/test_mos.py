"""MOS's claims start at both scales; all compare with one network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mien.claims import mos
from mien.claims.harness import Setting, claims_of
from mien.data.posed_faces import HeadScenes
from mien.errors import OptionError


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mos, "SCENES", (6, 4))
    monkeypatch.setattr(mos, "HEADS", (4, 3))
    monkeypatch.setattr(mos, "BATCH", 2)
    mos._found.clear()
    mos._scenes.cache_clear()


def test_every_claim_names_its_data_and_the_sheet_s_margin() -> None:
    claims = claims_of("mos")
    assert [(claim.name, claim.margin) for claim in claims] == [
        ("feedback-finds-small-faces", 0.02), ("feedback-keeps-the-rest", -0.01),
        ("always-stitching-loses-large-faces", 0.0), ("learned-weights-save-a-bad-sum", 0.0),
        ("learned-weights-match-tuned-ones", -0.01), ("pose-helps-landmarks", 0.0), ("cross-stitch-adds", 0.0),
    ]  # fmt: skip
    assert all(claim.data_of("small")[0] == "heads" and len(claim.seeds) == 3 for claim in claims)
    assert mos.SCALED[3] == 100 * mos.TUNED[3]


@pytest.mark.usefixtures("tiny")
def test_claims_share_their_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    small = mos._small

    def counted(setting: Setting, name: str) -> dict[str, float]:
        names.append(name)
        return small(setting, name)

    monkeypatch.setattr(mos, "_small", counted)
    setting = Setting(seed=0, out=tmp_path, steps=2)
    found = {claim.name: claim.run(setting) for claim in claims_of("mos")}
    assert sorted(names) == sorted(mos.ARMS)
    assert all(np.isfinite(one.baseline) and np.isfinite(one.idea) for one in found.values())
    one = found["feedback-finds-small-faces"]
    assert (one.idea, one.baseline) == (one.details["ap_small_whole"], one.details["ap_small_single"])
    assert found["always-stitching-loses-large-faces"].details["stitchings_always"] == 1.0
    assert found["feedback-keeps-the-rest"].details["stitchings_single"] == 0.0
    assert "weight_pose_no_pose" not in found["pose-helps-landmarks"].details
    assert "weight_class_scaled" not in found["learned-weights-save-a-bad-sum"].details
    mos._found.clear()
    again = mos.feedback_small(setting)
    assert dict(again.details) == dict(one.details)


@pytest.mark.usefixtures("tiny")
def test_test_heads_are_other_heads() -> None:
    training, test = mos._scenes(0)
    assert training.images.shape == (6, 64, 64, 3)
    assert test.images.shape == (4, 64, 64, 3)
    assert not any(np.array_equal(a, b) for a in training.images for b in test.images)


def test_batches_are_mirrored_and_stitched_with_their_faces() -> None:
    scenes = HeadScenes(4, heads=3, size=64, seed=2, smallest=10, largest=24, most=12)
    data = mos.Arrays.of(scenes)
    batch = data.batch(np.array([0, 1, 2, 3]), np.random.default_rng(0))
    for row in range(4):
        same = torch.equal(batch.images[row], data.images[row])
        assert same or torch.equal(batch.images[row], data.images[row].flip(1))
        faces = scenes.faces[row] if same else scenes.faces[row].mirrored(64)
        wanted = faces.padded(12)
        np.testing.assert_allclose(batch.boxes[row], wanted["boxes"] if same else np.where(
            wanted["present"][:, None], wanted["boxes"], batch.boxes[row].numpy()), atol=1e-4)  # fmt: skip
        np.testing.assert_allclose(batch.points[row][wanted["present"]], wanted["points"][wanted["present"]], atol=1e-4)
    tiles = data.stitched()
    assert tiles.images.shape == (1, 64, 64, 3)
    half = data.images[1].view(32, 2, 32, 2, 3).float().mean((1, 3))
    torch.testing.assert_close(tiles.images[0, :32, 32:].float(), half, atol=0.51, rtol=0)
    torch.testing.assert_close(tiles.boxes[0, 12:24], data.boxes[1] / 2 + torch.tensor([32.0, 0, 32, 0]))
    kept = tiles.present[0, 12:24]
    sides = (data.boxes[1, :, 2:] - data.boxes[1, :, :2]).amin(1) / 2
    assert kept.tolist() == (data.present[1] & (sides > mos.TINY)).tolist()


def test_the_paper_s_scale_starts_on_wider_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = tmp_path / "sets" / "widerface"
    scenes = HeadScenes(4, heads=3, size=96, seed=0, smallest=20, largest=40)
    lines: list[str] = []
    for part in ("train", "val"):
        folder = sets / f"WIDER_{part}" / "images" / "0--Parade"
        folder.mkdir(parents=True)
        for k, image in enumerate(scenes.images[: 4 if part == "train" else 1]):
            Image.fromarray(image).save(folder / f"p{k}.jpg")
    for k, faces in enumerate(scenes.faces):
        lines.append(f"# 0--Parade/p{k}.jpg")
        for box, points, pose in zip(faces.boxes, faces.points, faces.pose, strict=True):
            numbers = [*box[:2], *(box[2:] - box[:2]), *(v for p in points for v in (*p, 0.0)), 0.9]
            lines.append(" ".join(map(str, [*numbers, pose[1], pose[0], pose[2]])))
    (sets / "label.txt").write_text("\n".join(lines))
    (sets / "ground_truth").mkdir()

    def cell(value: Any) -> Any:
        made = np.empty((1, 1), object)
        made[0, 0] = value
        return made

    boxes = scenes.faces[0].boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    savemat(sets / "ground_truth" / "wider_face_val.mat", {
        "event_list": cell("0--Parade"), "file_list": cell(cell("p0")), "face_bbx_list": cell(cell(boxes)),
    })  # fmt: skip
    for name in ("easy", "medium", "hard"):
        kept = np.arange(1, len(boxes) + 1)[:, None]
        savemat(sets / "ground_truth" / f"wider_{name}_val.mat", {"gt_list": cell(cell(kept))})
    small = {
        "batch_size": 2, "size": 64, "workers": 0, "threads": 1, "precision": "32-true", "held": 0.0,
        "arguments": ("repeats=(1,1,1)", "widths=(16,32,32,32,32)", "channels=32", "pose=16"),
    }  # fmt: skip
    monkeypatch.setattr(mos, "PAPER", {**mos.PAPER, **small})
    monkeypatch.setattr(mos, "SIDES", (80,))
    mos._found.clear()
    setting = Setting(seed=0, scale="paper", data="widerface", data_root=tmp_path / "sets", out=tmp_path, steps=1)
    found = mos.stitch_helps(setting)
    assert {"easy_whole", "medium_whole", "hard_branches"} <= set(found.details)
    assert mos.recipe(setting, "scaled").weights == mos.SCALED
    assert mos.recipe(setting, "always").sampling == "stitched"
    assert mos.recipe(setting, "no_pose").pose is False
    assert (tmp_path / "branches" / "weights.safetensors").is_file()
    mos._found.clear()
    with pytest.raises(OptionError, match="needs WIDER FACE"):
        mos.recipe(Setting(seed=0, scale="paper", data="widerface", out=tmp_path), "whole")
