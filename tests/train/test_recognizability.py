"""The recipe of recognizability: its phases, its centre, that it resumes exactly, and what it measures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mien.data.low_resolution import at_pixels
from mien.errors import OptionError, ValueRangeError
from mien.nn.inputs import to_input
from mien.nn.recognizability import Recognizer
from mien.train import checkpoint
from mien.train.loop import fit
from mien.train.recipes.recognizability import (
    Faces,
    RecognizabilityRecipe,
    Trainee,
    embedded,
    searched,
)

SIDE = 32


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a person, eight people with five pictures each: patches of their own, and noise."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for person in range(8):
        patches = rng.integers(40, 216, (4, 4, 3)).astype(np.uint8)
        (root / f"person{person}").mkdir()
        for image in range(5):
            picture = cv2.resize(patches, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
            noisy = np.clip(picture + rng.normal(0, 15, picture.shape), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(root / f"person{person}" / f"{image}.png"), noisy)
    return root


def recipe(people: Path, out: Path, **options: Any) -> RecognizabilityRecipe:
    numbers = {
        "network": "mien.claims._small:four_convolutions", "arguments": ("width=0.25",), "dim": 8, "size": SIDE,
        "pixels": (3, SIDE), "ui_pixels": (2, 2), "ui_batch": 6, "ui_limit": 1.0, "batch_size": 10, "steps": 9,
        "pretrain_steps": 3, "warm_steps": 2, "refresh": 2, "optimizer": "sgd", "lr": 0.02, "weight_decay": 5e-4,
        "scale": 16.0, "margin": 0.2, "warmup": 0, "ema": 0.0, "workers": 0, "threads": 1, "tensorboard": "no",
        "device": "cpu", "half": False, "log_every": 1,
    }  # fmt: skip
    return RecognizabilityRecipe.make(data=str(people), out=str(out), **{**numbers, **options})


def logged(out: Path) -> dict[str, dict[int, float]]:
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = {row["name"] for row in rows}
    return {name: {int(r["step"]): float(r["value"]) for r in rows if r["name"] == name} for name in names}


def test_the_phases_are_those_told(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path / "a")
    fit(run, stop_at=3)
    before = checkpoint.load(tmp_path / "a" / "last.ckpt")["module"]
    assert not before["network.ui_centre"].any()
    fit(run, stop_at=5)
    warm = checkpoint.load(tmp_path / "a" / "last.ckpt")["module"]
    assert float(warm["network.ui_centre"].norm()) == pytest.approx(1, abs=1e-5)
    for name, value in before.items():
        if name.startswith("network.backbone."):
            assert torch.equal(value, warm[name]), name  # class vectors alone were warmed up
    assert not torch.equal(before["head.weight"], warm["head.weight"])
    fit(run)
    after = checkpoint.load(tmp_path / "a" / "last.ckpt")["module"]
    assert torch.equal(after["network.ui_centre"], warm["network.ui_centre"])  # it stays
    assert any(not torch.equal(after[k], warm[k]) for k in after if k.startswith("network.backbone."))
    rows = logged(tmp_path / "a")
    assert set(rows["cls"]) == set(range(1, 10))
    assert set(rows["l1"]) == set(rows["id"]) == set(rows["mse"]) == set(rows["spearman"]) == {6, 7, 8, 9}
    # Told at steps 5 and 7 (counted from 0), and kept in between.
    assert rows["ui_mean"][6] == rows["ui_mean"][7] != rows["ui_mean"][8] == rows["ui_mean"][9]
    for step in (6, 7, 8, 9):
        whole = rows["cls"][step] + rows["l1"][step] + 0.1 * rows["id"][step] + rows["mse"][step]
        assert rows["loss"][step] == pytest.approx(whole, rel=1e-4)


def test_the_centre_is_the_mean_of_unit_vectors_of_reduced_pictures(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path / "a", pretrain_steps=2, steps=3, warm_steps=1)
    fit(run, stop_at=2)
    module = run.build()
    assert isinstance(module, Trainee)
    run.begin(module)
    module.load_state_dict(checkpoint.load(tmp_path / "a" / "last.ckpt")["module"])
    module.eval()
    pictures = at_pixels(run._plain, 2)
    z = F.normalize(module.network.backbone(to_input(torch.from_numpy(pictures))), dim=1)
    fit(run)
    state = checkpoint.load(tmp_path / "a" / "last.ckpt")["module"]
    torch.testing.assert_close(state["network.ui_centre"], F.normalize(z.mean(0), dim=0), atol=1e-5, rtol=1e-5)
    assert state["ui_rows"].tolist() == list(range(6))
    with pytest.raises(ValueRangeError, match="mean of all faces"):
        fit(recipe(people, tmp_path / "b", pretrain_steps=2, steps=3, warm_steps=1, ui_limit=-1.0))


def test_with_faces_of_any_quality_the_largest_cluster_is_taken(people: Path, tmp_path: Path) -> None:
    grey = tmp_path / "any" / "x"
    grey.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for n in range(9):
        picture = np.full((SIDE, SIDE, 3), 128, np.uint8) if n < 6 else rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        cv2.imwrite(str(grey / f"{n}.png"), picture)
    run = recipe(people, tmp_path / "a", ui_data=str(tmp_path / "any"), ui_batch=4, ui_distance=0.001)
    fit(run)
    state = checkpoint.load(tmp_path / "a" / "last.ckpt")["module"]
    pictures = run._unrecognizable[state["ui_rows"].numpy()]
    assert len(pictures) == 4
    assert (pictures == 128).all()


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 1e-3, "centre_every": 2, "backbone_rate": 0.1}])
def test_a_run_cut_in_two_ends_bit_equal_to_an_unbroken_one(
    people: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, cut = (recipe(people, tmp_path / name, **options) for name in "ab")
    fit(whole)
    for stop in (3, 4, 6, None):
        fit(cut, stop_at=stop)
    first, second = (checkpoint.load(tmp_path / name / "last.ckpt")["module"] for name in "ab")
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    assert logged(tmp_path / "a")["loss"] == logged(tmp_path / "b")["loss"]


def test_pictures_are_whole_before_and_reduced_after(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path, flip=False, pixels=(3, 3), pretrain_steps=2)
    source = run.source()
    assert isinstance(source, Faces)
    draws = run.draws(source)
    for position in (0, 19, 20, 89):
        picture = source.picture(draws.index(position))
        want = picture if position < 20 else at_pixels(picture[None], 3)[0]
        np.testing.assert_array_equal(draws[position]["image"], want)
    half = recipe(people, tmp_path, flip=False, pixels=(3, 3), whole=0.5).source()
    kept = [
        np.array_equal(half.sample(0, np.random.default_rng(n))["image"], half.picture(0))  # type: ignore[attr-defined]
        for n in range(200)
    ]
    assert 70 < sum(kept) < 130
    plain = recipe(people, tmp_path, flip=False, pixels=(0, 0)).source()
    assert isinstance(plain, Faces)
    np.testing.assert_array_equal(plain.sample(3, np.random.default_rng(0))["image"], plain.picture(3))


def test_a_run_starts_from_a_backbone_or_from_a_former_run(people: Path, tmp_path: Path) -> None:
    first = recipe(people, tmp_path / "first", steps=3)
    fit(first)
    network = first.deploy(first.build())
    assert isinstance(network, Recognizer)
    checkpoint.fill(network, tmp_path / "first" / "weights.safetensors")
    checkpoint.save_weights(tmp_path / "backbone.safetensors", network.backbone)
    starts = {"init": tmp_path / "first" / "weights.safetensors", "backbone": tmp_path / "backbone.safetensors"}
    for name, file in starts.items():
        run = recipe(people, tmp_path / name, steps=1, pretrain_steps=0, warm_steps=1, **{name: str(file)})
        fit(run)
        state = checkpoint.load(tmp_path / name / "last.ckpt")["module"]
        for key, value in network.backbone.state_dict().items():
            assert torch.equal(value, state[f"network.backbone.{key}"]), key


def test_a_run_needs_a_trained_network(people: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="of a trained network"):
        fit(recipe(people, tmp_path, pretrain_steps=0))


def test_figures_of_held_out_people(people: Path, tmp_path: Path) -> None:
    run = recipe(people, tmp_path, held=0.4, steps=4)
    figures = fit(run).figures
    assert set(figures) == {
        "rank1", "area_index", "area_random", "area_norm", "area_ers", "area_pixels",
    }  # fmt: skip
    assert figures["area_random"] == pytest.approx(1 - figures["rank1"])
    assert fit(recipe(people, tmp_path / "none", steps=3)).figures == {}


def test_searches_are_right_where_vectors_say_so() -> None:
    class Colours(torch.nn.Module):
        """The mean colour is the embedding."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def feature_map(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x

        def from_map(self, m: torch.Tensor) -> torch.Tensor:
            return m.mean((2, 3))

    network = Recognizer(Colours(), dim=3, size=2).eval()
    network.ui_centre.copy_(torch.tensor([1.0, 0, 0]))
    with torch.no_grad():
        network.reg.weight.copy_(12**0.5 * torch.tensor([0.0] * 4 + [0.25] * 4 + [0.0] * 4)[None])  # mean of green
        network.reg.bias.zero_()
    colour = np.array([[255, 128, 128], [128, 255, 128], [128, 128, 255], [200, 128, 128]], np.uint8)
    crops = np.broadcast_to(colour[:, None, None], (4, 2, 2, 3)).copy()
    z, norm, index = embedded(network, crops)
    np.testing.assert_allclose(norm, np.linalg.norm((colour - 127.5) / 128, axis=1), rtol=1e-5)
    np.testing.assert_allclose(z[1], ((colour - 127.5) / 128 / norm[:, None])[1], rtol=1e-4)
    np.testing.assert_allclose(index, (colour[:, 1] - 127.5) / 128, atol=1e-6)
    sides = np.array([4, 9, 6, 2])
    found = searched(network, crops[:3], np.array([0, 1, 2]), crops, np.array([0, 1, 2, 2]), sides)
    assert found["rank1"] == 0.75  # the last is the first person's colour
    assert found["area_random"] == 0.25
    assert found["area_pixels"] == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert found["area_norm"] == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    # The green one first; the others have equal indices, so that each bears a third of the error.
    assert found["area_index"] == pytest.approx((0 + 1 / 3 / 2 + 2 / 3 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "a", "backbone": "b"}, "two networks"),
        ({"processes": 2}, "several processes"),
        ({"pixels": (9, 3)}, "no range of sides"),
        ({"ui_pixels": (0, 0)}, "no range of sides"),
        ({"pretrain_steps": 10}, "out of its range"),
        ({"refresh": 0}, "out of its range"),
        ({"scaled": 40}, "out of its range"),
        ({"weight_id": -1.0}, "out of its range"),
        ({"ri_form": "?"}, "ri_form"),
        ({"kernel": "?"}, "kernel"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(people: Path, tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        recipe(people, tmp_path, **options)


@pytest.mark.parametrize("preset", list(RecognizabilityRecipe.PRESETS))
def test_presets_can_be_made(preset: str, tmp_path: Path) -> None:
    run = RecognizabilityRecipe.make(preset=preset, data="x", out=str(tmp_path))
    assert run.warm_steps + run.pretrain_steps <= run.steps
