"""Classifiers of expressions: folders, folds, changes, starts from trunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mien.errors import CheckpointError, MediaNotFound, OptionError, TableError
from mien.nn.expression import CLASSIFIERS, EKMAN, Prepared
from mien.train.checkpoint import save_weights
from mien.train.recipes import expression
from mien.train.recipes.expression import ExpressionRecipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six people, two pictures each of "Happy" and "anger", and of what is left out."""
    rng = np.random.default_rng(0)
    for name in ("Happy", "anger", "neutral"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for person, number in np.ndindex(6, 2):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"S{person:03d}_{number}.png")
    (tmp_path / "faces" / "anger" / "readme.txt").write_text("no picture")
    return tmp_path / "faces"


def small(**more: Any) -> ExpressionRecipe:
    return ExpressionRecipe.make(preset="small", out="unused", **more)


def test_a_folder_is_read_in_order_by_the_names_of_its_folders(folder: Path) -> None:
    data = expression.read_folder(folder)
    assert len(data) == 24
    assert data.labels.tolist() == [EKMAN.index("happiness")] * 12 + [EKMAN.index("anger")] * 12
    assert len(np.unique(data.people)) == 6
    with pytest.raises(MediaNotFound):
        expression.files_of(folder / "none")
    with pytest.raises(TableError, match="expressions"):
        expression.files_of(folder / "anger")


def test_people_are_kept_apart_in_folds_of_about_one_size(folder: Path) -> None:
    data = expression.read_folder(folder)
    fold = expression.fold_of(data.people, 3)
    assert np.bincount(fold).tolist() == [8, 8, 8]
    assert all(len(set(fold[data.people == who])) == 1 for who in data.people)
    recipe = small(data=str(folder), fold=1, folds=3)
    held, rest = recipe.part(held=True), recipe.part(held=False)
    assert not set(held.people) & set(rest.people)
    assert len(held) + len(rest) == 24
    with pytest.raises(TableError, match="people"):
        small(data=str(folder), fold=8, folds=9).part(held=True)


def test_epochs_decide_the_steps(folder: Path) -> None:
    recipe = small(data=str(folder), epochs=3, folds=3, batch_size=4)
    assert recipe.steps == 3 * 16 / 4
    assert small(epochs=2, heads=50, folds=5, batch_size=10).steps == 8
    assert small(steps=7).steps == 7


def test_the_papers_runs_are_those_of_its_table() -> None:
    epochs = {"alexnet": 10, "weinet": 10, "songnet": 25, "silnet": 10, "mobilenetv3": 15, "efficientnetv2b0": 10}
    for name, (preset, numbers) in expression.RUNS.items():
        recipe = ExpressionRecipe.make(
            preset=preset, **{**numbers, "network": name, "data": "nowhere", "out": "unused"}
        )
        assert recipe.epochs == epochs.get(name, 2)
        assert recipe.lr == (1e-6 if name in ("mobilenetv3", "efficientnetv2b0") else 1e-4)
        assert recipe.momentum == (0 if name in ("alexnet", "weinet", "songnet") else 0.9)
        assert recipe.batch_size == 128
    assert set(expression.RUNS) == set(CLASSIFIERS)


def test_adam_without_momentum_is_rmsprop_after_some_steps() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(5, dtype=torch.float64) for _ in range(60)]
    ends = []
    for late in (False, True):
        p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
        if late:
            update: torch.optim.Optimizer = torch.optim.RMSprop([p], lr=1e-4, alpha=0.9, eps=1e-8)
        else:
            update = torch.optim.AdamW([p], lr=1e-4, betas=(0.0, 0.9), eps=1e-8, weight_decay=0)
        for number, gradient in enumerate(gradients):
            if number == 30:
                before = p.detach().clone()
            p.grad = gradient.clone()
            update.step()
        ends.append(p.detach() - before)
    assert torch.allclose(ends[0], ends[1], rtol=0.05, atol=1e-5)


def test_changes_keep_shape_and_colour() -> None:
    rng = np.random.default_rng(0)
    image = np.full((40, 40, 3), (200, 120, 60), np.uint8)
    image[10:20, 5:15] = 20
    seen = [expression.changed(image, rng) for _ in range(20)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in seen)
    assert max(np.abs(one.mean((0, 1)) - image.mean((0, 1))).max() for one in seen) < 12
    sides = [one[:, :20].mean() < one[:, 20:].mean() for one in seen]
    assert 0 < sum(sides) < 20  # mirrored half of the time
    source = expression.Faces(
        expression.Labelled([image], np.zeros(1, np.int64), np.zeros(1, np.int64)), 40, augment=False
    )
    assert np.array_equal(source.sample(0, rng)["image"], image)


def test_images_are_prepared_for_the_trunk() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    found = expression.prepare(images, Prepared(4, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "BGR"))
    for channel, (mean, std) in enumerate(((1.0, 4.0), (2.0, 5.0), (3.0, 6.0))):
        assert torch.allclose(found[:, channel], (images[..., 2 - channel].float() - mean) / std)


def test_macro_f1_is_that_of_counting() -> None:
    found, truth = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    each = []
    for k in range(3):
        hit = ((found == k) & (truth == k)).sum()
        each.append(2 * hit / ((found == k).sum() + (truth == k).sum()))
    assert expression.macro_f1(found, truth) == pytest.approx(np.mean(each))


def test_a_trunk_is_taken_and_the_top_is_left(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = CLASSIFIERS["songnet"](size=64, width=0.25)
    save_weights(tmp_path / "trained.safetensors", trained)
    recipe = small(trunk=str(tmp_path / "trained.safetensors"))
    torch.manual_seed(2)
    module = recipe.build()
    top = module.get_submodule("top").state_dict()["0.weight"].clone()
    recipe.begin(module)
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in module.state_dict().items() if k.startswith("trunk"))
    assert torch.equal(module.state_dict()["top.0.weight"], top)
    with pytest.raises(CheckpointError):
        small(trunk=str(tmp_path / "none.h5")).begin(module)


@pytest.mark.parametrize("wrong", [{"network": "vgg17"}, {"fold": 5}, {"folds": 1}, {"width": 0.0}, {"heads": 3}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        small(**wrong)
