"""FaceXFormer's claims start at both scales; what they compare is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.claims import facexformer
from mien.claims.harness import Setting, claims_of
from mien.data.formats.landmarks import write_pts
from mien.errors import OptionError
from mien.geometry.landmarks import FLIP68
from mien.geometry.mean_shape import MEAN70
from mien.train.recipes.face_tasks import FaceTasksRecipe
from mien.train.tasks import ATTRIBUTES


class Noise:
    """Pictures of noise, with labels, in the place of heads: drawing these takes longer than training."""

    def __init__(self, count: int, *, seed: int, size: int, **controls: Any) -> None:
        rng = np.random.default_rng(seed)
        self.image = rng.integers(0, 256, (count, size, size, 3), np.uint8)
        self.mask = rng.integers(0, 11, (count, size, size), np.uint8)
        self.points = (np.asarray(MEAN70)[:68, :2] * size * 0.3 + size / 2 + rng.normal(size=(count, 68, 2))).astype(
            np.float32
        )
        self.attributes = rng.integers(0, 2, (count, 40)).astype(np.float32)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of pictures, and no former results."""
    monkeypatch.setattr(facexformer, "COUNTS", (12, 6))
    monkeypatch.setattr(facexformer, "BATCH", 4)
    monkeypatch.setattr(facexformer, "Heads", Noise)
    facexformer._found.clear()
    facexformer._world.cache_clear()


def test_claims_have_the_margins_that_were_written_down() -> None:
    claims = claims_of("facexformer")
    assert {claim.name: (claim.better, claim.margin) for claim in claims} == {
        "four-scales-parse-better": ("higher", 0.04), "four-scales-find-points-better": ("lower", 0.10),
        "two-way-attention-parses-better": ("higher", 0.0), "one-network-for-all-tasks": ("higher", -0.02),
    }  # fmt: skip
    assert all(claim.data_of("small") == ("heads",) and len(claim.seeds) == 3 for claim in claims)


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    setting = Setting(seed=1, out=tmp_path, steps=2, progress=lambda done, total, what: told.append(what))
    one = facexformer.unified(setting)
    two = facexformer.scales_parse(setting)
    four = facexformer.two_way(setting)
    monkeypatch.setattr(facexformer, "trained", None)  # a second training would fail
    three = facexformer.scales_point(setting)
    assert two.idea == four.idea == one.details["parsing_f1_joint"]
    assert (two.baseline, four.baseline) == (two.details["parsing_f1_last"], four.details["parsing_f1_one_way"])
    assert three.baseline == one.baseline == 1
    assert three.idea == pytest.approx(three.details["landmarks_nme_joint"] / three.details["landmarks_nme_last"])
    ratios = [one.details[f"ratio_{task}"] for task in facexformer.TASKS]
    assert one.idea == min(ratios)
    points = one.details["landmarks_nme_alone"] / one.details["landmarks_nme_joint"]
    assert one.details["ratio_landmarks"] == pytest.approx(points)
    assert {what.partition(",")[0] for what in told} >= {"drawing heads", *facexformer.ARMS}


@pytest.mark.usefixtures("tiny")
def test_measured_heads_are_in_no_training_set_and_mirrored_ones_keep_their_labels() -> None:
    first, second = facexformer.world(Setting(seed=0))
    assert not {image.tobytes() for image in first.image} & {image.tobytes() for image in second.image}
    assert (len(first), len(second)) == (12, 6)
    rows = np.arange(4)
    plain, mirrored = first.batch(rows), first.batch(rows, np.array([True, False, True, False]))
    for name, value in plain.items():
        assert np.array_equal(value[1], mirrored[name][1], equal_nan=True)
    points = mirrored["landmarks"][0].reshape(68, 2).numpy()
    np.testing.assert_allclose(points[FLIP68] * [-1, 1], plain["landmarks"][0].reshape(68, 2).numpy(), atol=1e-5)
    turned = mirrored["parsing"][0].numpy()[:, ::-1]
    swapped = np.array([0, 1, 3, 2, 5, 4, 6, 7, 8, 9, 10])[turned]
    assert np.array_equal(swapped, plain["parsing"][0].numpy())


def test_the_paper_s_scale_starts_on_three_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sets = tmp_path / "sets"
    masks, heads = sets / "celebamask_hq" / "CelebAMask-HQ-mask-anno" / "0", sets / "celebamask_hq" / "CelebA-HQ-img"
    celeba, points = sets / "celeba" / "img_align_celeba", sets / "300w"
    for folder in (masks, heads, celeba, points):
        folder.mkdir(parents=True)
    lines = [str(12), " ".join(ATTRIBUTES)]
    for number in range(12):
        picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8))
        picture.save(heads / f"{number}.jpg")
        picture.save(celeba / f"{number + 1:06d}.jpg")
        picture.save(points / f"{number}.png")
        write_pts(points / f"{number}.pts", np.asarray(MEAN70)[:68, :2] * 14 + 24)
        for name, (top, left) in {"skin": (4, 4), "l_eye": (12, 12), "hair": (0, 0)}.items():
            drawn = np.zeros((24, 24, 3), np.uint8)
            drawn[top // 2 : top // 2 + 6, left // 2 : left // 2 + 6] = 255
            Image.fromarray(drawn).save(masks / f"{number:05d}_{name}.png")
        lines.append(f"{number + 1:06d}.jpg " + " ".join(str(v) for v in rng.choice([-1, 1], len(ATTRIBUTES))))
    (sets / "celeba" / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    small: dict[str, Any] = {
        **facexformer.PAPER, "backbone": "conv", "widths": (8, 8, 16, 16), "size": 32, "dim": 32, "attention": 2,
        "hidden": 32, "batch_size": 6, "workers": 0, "threads": 1, "precision": "32-true", "held": 0.4,
    }  # fmt: skip
    monkeypatch.setattr(facexformer, "PAPER", small)
    monkeypatch.setattr("mien.train.loop.gemm_rate", lambda device, *, dtype: 1e10)
    facexformer._found.clear()
    setting = Setting(
        seed=0, scale="paper", data="celebamask_hq", data_root=sets, out=tmp_path / "out", steps=2,
    )  # fmt: skip
    found = facexformer.unified(setting)
    assert {"ratio_parsing", "ratio_landmarks", "ratio_attributes"} <= set(found.details)
    assert facexformer.scales_parse(setting).idea == found.details["parsing_f1_joint"]
    assert np.isfinite(facexformer.two_way(setting).baseline)
    with pytest.raises(OptionError, match="CelebAMask-HQ"):
        facexformer.unified(Setting(seed=5, scale="paper", data="celebamask_hq", out=tmp_path))


def test_the_paper_s_scale_is_the_recipe_s_preset(tmp_path: Path) -> None:
    setting = Setting(seed=3, scale="paper", data="celebamask_hq", data_root=tmp_path, out=tmp_path / "out")
    joint, alone, last = (facexformer.recipe(setting, name) for name in ("joint", "only_parsing", "last"))
    preset = FaceTasksRecipe.PRESETS["paper"]
    assert (joint.steps, joint.lr, joint.backbone, joint.size) == (preset["steps"], 1e-4, "swin_b", 224)
    # As many samples of each task a step, alone or joined.
    assert joint.batch_size == 3 * alone.batch_size == preset["batch_size"] // 2
    assert (joint.groups, alone.groups) == (("parsing", "landmarks", "attributes"), ("parsing",))
    assert (joint.scales, last.scales, joint.two_way) == (4, 1, True)
    assert not facexformer.recipe(setting, "one_way").two_way
