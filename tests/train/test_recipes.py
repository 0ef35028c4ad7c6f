"""Every recipe builds, does its first steps on data of the real format, and reads its options from text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mien.errors import OptionError
from mien.train.__main__ import main, parse
from mien.train.loop import Progress, fit
from mien.train.recipes import RECIPES, recipe_class
from mien.train.recipes.detector import DetectorRecipe
from mien.train.recipes.embedder import EmbedderRecipe

DATA: dict[str, dict[str, str]] = {
    "adapters": {"data": "celeba10k"},
    "affect": {},
    "attributes": {"data": "celeba10k"},
    "detector": {"faces": "fairface_faces", "scenes": "detection", "textures": "cifar10_test"},
    "embedder": {"data": "fairface_faces", "validation": "celeba10k"},
    "expression": {},
    "face_tasks": {},
    "heatmaps": {},
    "landmarks": {"data": "fairface_faces", "validation": "landmarks68"},
    "margin": {"data": "celeba10k"},
    "parser": {},
    "polar_parser": {},
    "pose_detector": {},
    "reader": {"faces": "fairface_faces", "expressions": "ferplus"},
    "recognizability": {"data": "celeba10k"},
    "streams": {},
    "triplet": {"data": "celeba10k"},
}
"""Options of each recipe that are folders, and the set that each names."""

MORE: dict[str, dict[str, str]] = {
    "affect": {"heads": "14", "checked": "7"},
    "heatmaps": {"heads": "6", "checked": "3", "width": "32"},
    "face_tasks": {"heads": "6", "checked": "2"},
    "expression": {"heads": "16", "folds": "2"},
    "parser": {"heads": "6", "checked": "2"},
    "polar_parser": {"heads": "4", "checked": "4", "size": "49", "scene": "64"},
    "pose_detector": {"heads": "4", "scenes": "6", "checked": "3"},
    "reader": {"heads": "6"},
    "recognizability": {"pretrain_steps": "1", "warm_steps": "0", "held": "0.4", "ui_limit": "1"},
    "streams": {"heads": "8", "checked": "4"},
    "triplet": {"batch_size": "6", "images": "3", "arguments": "width=0.1"},
}
"""What else a recipe needs for so little data."""

FEW = {"steps": "2", "batch_size": "4", "workers": "0", "threads": "1", "tensorboard": "no", "device": "cpu"}


def options(name: str, made_up: Any, out: Path) -> dict[str, str]:
    folders = {key: str(made_up(folder)) for key, folder in DATA[name].items()}
    return {**FEW, **MORE.get(name, {}), "out": str(out), **folders}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_small_preset_does_its_first_steps_on_data_of_the_real_format(
    made_up: Any, tmp_path: Path, name: str
) -> None:
    recipe = recipe_class(name).make(preset="small", **options(name, made_up, tmp_path))
    seen: list[Progress] = []
    result = fit(recipe, progress=seen.append)
    assert [p.step for p in seen] == [1, 2]
    assert all(0 < p.loss < 1e4 for p in seen)
    assert result.figures  # each has something to be chosen by
    # Correlations alone may be negative.
    assert all(value >= 0 or name.startswith("ccc") for name, value in result.figures.items())
    network = recipe.deploy(recipe.build())
    stored = load_file(result.weights)
    missing = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")} - set(stored)
    assert not missing
    network.load_state_dict({k: v.float() for k, v in stored.items()}, strict=False)


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for name in sorted(RECIPES) for preset in recipe_class(name).PRESETS]
)
def test_presets_hold_known_options_and_build_one_network_twice(name: str, preset: str) -> None:
    recipe = recipe_class(name).make(preset=preset, **dict.fromkeys(("out", *DATA[name]), "unused"))
    made = []
    for _ in range(2):
        torch.manual_seed(recipe.seed)
        made.append(recipe.build().state_dict())
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())


def test_the_full_presets_train_the_bundled_networks() -> None:
    from mien.nn.detector import detector_base
    from mien.nn.embedder import embedder_base
    from mien.nn.landmarks import landmarks_base

    for name, base in (("detector", detector_base), ("embedder", embedder_base), ("landmarks", landmarks_base)):
        recipe = recipe_class(name).make(preset="full", **dict.fromkeys(("out", *DATA[name]), "unused"))
        trained = recipe.deploy(recipe.build()).state_dict()
        bundled = base().state_dict()
        assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in bundled.items()}


def test_bf16_trains_a_recipe_on_a_cpu_with_weights_and_loss_in_float32(made_up: Any, tmp_path: Path) -> None:
    numbers = options("embedder", made_up, tmp_path)
    recipe = EmbedderRecipe.make(preset="small", **{**numbers, "precision": "bf16-mixed", "half": "no"})
    result = fit(recipe)
    assert {v.dtype for v in load_file(result.weights).values()} == {torch.float32}


def test_a_run_may_move_its_data_and_may_not_change_its_numbers(made_up: Any, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in DATA["detector"].values():
        (moved / folder).symlink_to(made_up(folder))
    numbers = {**options("detector", made_up, tmp_path / "run"), "size": "64"}
    fit(DetectorRecipe.make(**numbers), stop_at=1)
    elsewhere = {key: str(moved / folder) for key, folder in DATA["detector"].items()}
    assert fit(DetectorRecipe.make(**{**numbers, **elsewhere})).steps == 2
    without = {key: value for key, value in numbers.items() if key != "textures"}
    with pytest.raises(Exception, match="textures=None"):
        fit(DetectorRecipe.make(**without))


# --- Options ----------------------------------------------------------------------------------------------------------


def test_the_command_line_reads_a_recipe() -> None:
    made = parse(["embedder", "preset=small", "data=/there", "out=runs/a=b", "widths=8,16,32", "half=no", "lr=1e-3"])
    assert isinstance(made, EmbedderRecipe)
    assert (made.data, made.out, made.widths, made.half, made.lr) == ("/there", "runs/a=b", (8, 16, 32), False, 1e-3)
    assert (made.steps, made.ema, made.validation) == (450, 0.995, None)
    assert parse(["embedder", "data=d", "out=o", "validation=none"]).to_dict()["validation"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe is named.*embedder"),
        (["embeder"], "no such training recipe.*did you mean 'embedder'"),
        (["embedder", "steps"], "no value.*steps.*key=value"),
        (["embedder", "data=d"], "needs more options.*out"),
        (["embedder", "data=d", "out=o", "width=3"], "unknown recipe option.*did you mean 'widths'"),
        (["embedder", "data=d", "out=o", "preset=ful"], "unknown preset.*did you mean 'full'"),
        (["embedder", "data=d", "out=o", "steps=many"], "steps has the wrong type.*int"),
    ],
)
def test_wrong_command_lines_say_what_to_do(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(arguments)


def test_the_module_s_command_trains_and_tells(made_up: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [f"{key}={value}" for key, value in {**options("embedder", made_up, tmp_path), "log_every": "1"}.items()]
    with caplog.at_level("INFO"):
        main(["embedder", "preset=small", *pairs])
    told = caplog.text
    assert '"batch_size": 4' in told  # the resolved recipe
    assert "1/2 loss" in told
    assert "x from the limit" in told
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_mien_train_is_the_same_command(made_up: Any, tmp_path: Path) -> None:
    pairs = [f"{key}={value}" for key, value in options("embedder", made_up, tmp_path / "run").items()]
    done = subprocess.run(
        [sys.executable, "-m", "mien.cli", "train", "embedder", "--preset", "small", *pairs, "--json"],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert (tmp_path / "run" / "weights.safetensors").is_file()
