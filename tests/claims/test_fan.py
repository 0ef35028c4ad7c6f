"""FAN's claims: data, networks and figures, tiny; both scales start."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mien.claims import fan
from mien.claims.harness import Setting
from mien.errors import OptionError
from mien.geometry.mean_shape import MEAN70
from mien.geometry.pose import rotation_from_euler


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"TRAIN": 9, "FRONTAL": 4, "TEST": 24, "EPOCHS": 1, "BATCH": 3}.items():
        monkeypatch.setattr(fan, name, value)
    fan._found.clear()
    fan._world.cache_clear()
    yield
    fan._found.clear()
    fan._world.cache_clear()


@pytest.mark.usefixtures("tiny")
def test_all_claims_look_at_the_same_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: list[str] = []
    real = fan.trained

    def trained(setting: Setting, name: str, faces: Any) -> Any:
        trainings.append(name)
        return real(setting, name, faces)

    monkeypatch.setattr(fan, "trained", trained)
    setting = Setting(seed=0, steps=2)
    got = {claim.name: claim.run(setting) for claim in fan.CLAIMS}
    assert trainings == list(fan.NAMES)
    found = got["guides-to-3d"].details
    assert got["guides-to-3d"].baseline == 1
    assert got["guides-to-3d"].idea == pytest.approx(found["nme_guided"] / found["nme_picture"])
    assert got["heatmaps-beat-regression"].idea == pytest.approx(found["large_fine"] / found["large_direct"])
    assert got["flat-over-pose"].baseline == pytest.approx(found["far_frontal"] / found["near_frontal"])
    assert got["flat-over-pose"].idea == pytest.approx(found["far_picture"] / found["near_picture"])


@pytest.mark.usefixtures("tiny")
def test_faces_are_cut_with_their_points_and_mirrored() -> None:
    world = fan._world(1)
    assert len(world.train.crops) == 18
    assert len(world.test.crops) == 24
    assert np.abs(world.frontal.yaw).max() <= 30
    assert np.abs(world.train.yaw).max() > 30
    half = len(world.train.crops) // 2
    assert np.array_equal(world.train.crops[half:], world.train.crops[:half, :, ::-1])
    np.testing.assert_allclose(world.train.head[half:, 16, 0], fan.SIZE - world.train.head[:half, 0, 0])
    np.testing.assert_allclose(world.train.head[half:, 16, 1], world.train.head[:half, 0, 1])
    assert np.array_equal(world.train.yaw[half:], -world.train.yaw[:half])
    moved = np.linalg.norm(world.test.flat - world.test.head, axis=2)
    assert moved[:, 17:].max() < 1e-3
    assert moved[np.abs(world.test.yaw) > 45].max(1).min() > 0.5
    inside = ((world.test.head > 0) & (world.test.head < fan.SIZE)).all((1, 2))
    assert inside.mean() > 0.8


def test_figures_are_those_of_the_ranges_of_yaw() -> None:
    error, yaw = np.array([0.01, 0.02, 0.04, 0.09]), np.array([0.0, -50.0, 61.0, -20.0])
    found = fan.summed_up("x", error, yaw)
    assert found == pytest.approx(
        {"nme_x": 0.04, "auc_x": (6 / 7 + 5 / 7 + 3 / 7) / 4, "large_x": 0.03, "near_x": 0.05, "far_x": 0.04}
    )


def test_networks_of_heatmaps_and_of_points_have_as_many_parameters() -> None:
    counts = {name: sum(p.numel() for p in fan.network_of(name).parameters()) for name in ("picture", "fine", "direct")}
    assert counts["picture"] == counts["fine"]
    assert counts["direct"] / counts["fine"] == pytest.approx(1.07, abs=0.01)
    images = torch.zeros(1, 3, fan.SIZE, fan.SIZE)
    flat = torch.full((1, 68, 2), 20.0)
    assert fan._seen("guided", images, flat).shape == (1, 71, fan.SIZE, fan.SIZE)
    torch.testing.assert_close(fan._seen("picture", images, flat), torch.full_like(images, 0.5))


def test_the_paper_s_scale_starts_on_300w_lp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "300W_LP"
    (root / "AFW").mkdir(parents=True)
    (root / "landmarks" / "AFW").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for who, (turn, yaw) in itertools.product(range(3), enumerate((0.0, 70.0))):
        turned = np.asarray(MEAN70[:68] @ rotation_from_euler(np.array([yaw, 0.0, 0.0])).T)[:, :2] * 100 + [225, 260]
        name = f"AFW_1{who}_1_{turn}"
        Image.fromarray(rng.integers(0, 256, (450, 450, 3), dtype=np.uint8)).save(root / "AFW" / f"{name}.jpg")
        savemat(root / "landmarks" / "AFW" / f"{name}_pts.mat", {"pts_2d": turned + 1, "pts_3d": turned + 1})
    narrow: dict[str, Any] = {
        "stacks": 1, "width": 32, "levels": 2, "size": 64, "batch_size": 2, "workers": 0, "threads": 1, "held": 0.5,
        "precision": "32-true",
    }  # fmt: skip
    monkeypatch.setattr(fan, "PAPER", {**fan.PAPER, **narrow})
    fan._found.clear()
    setting = Setting(seed=0, scale="paper", data="300W_LP", data_root=tmp_path, out=tmp_path / "out", steps=1)
    got = fan.flat(setting)
    assert {"nme_picture", "nme_guided", "far_frontal", "large_direct", "large_fine"} <= set(got.details)
    full = fan.recipe(setting, "guided", Path("data"))
    assert (full.kind, full.lr, full.optimizer) == ("2d-to-3d", 2.5e-4, "rmsprop")
    fan._found.clear()
    with pytest.raises(OptionError, match="300W-LP"):
        fan.guides(Setting(seed=0, scale="paper", data="300W_LP", out=tmp_path))
