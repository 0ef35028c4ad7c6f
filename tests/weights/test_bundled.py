"""The networks that come with mien: their manifest, their figures, the script that puts them there, the files."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mien.errors import CheckpointError, TrainingError, UnknownWeights, WeightsError
from mien.nn.embedder import embedder_base
from mien.train.checkpoint import save_weights
from mien.train.recipes import recipe_class
from mien.weights import WEIGHTS, load, path, verify
from mien.weights import store as store_module
from mien.weights.bundled import LARGEST, PROSE, declarations
from mien.weights.declare import BUNDLED

from .conftest import lively

ROOT = Path(__file__).parents[2]
FACTS: dict[str, Any] = {
    "sha256": "a" * 64, "size": 7, "parameters": 5, "macs": 9, "macs_input": [1, 3, 112, 112],
    "command": "mien train embedder", "steps": 3, "bundled": "2026-01-31",
}  # fmt: skip


def noted(folder: Path, manifest: Any, figures: Any = None) -> Path:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if figures is not None:
        (folder / "figures.json").write_text(json.dumps(figures))
    return folder


def test_without_a_manifest_nothing_is_declared(tmp_path: Path) -> None:
    assert declarations(tmp_path) == ()
    assert declarations(tmp_path / "none") == ()


def test_a_declaration_joins_prose_manifest_and_figures(tmp_path: Path) -> None:
    figure = {"metric": "accuracy", "value": 96.1, "data": "lfw", "protocol": "folds", "date": "2026-01-31", "n": 3000}
    measured = {
        "sha256": "a" * 64,
        "figures": [figure, {**figure, "group": "women", "low": 95.0, "high": 97.0}],
        "calibration": [{"fmr": 0.001, "threshold": 0.31, "data": "lfw"}],
        "threshold": None,
    }
    (weights,) = declarations(noted(tmp_path, {"mien-embedder": FACTS}, {"mien-embedder": measured, "gone": {}}))
    assert weights.name == "mien-embedder"
    assert weights.file == "mien-embedder.safetensors"
    assert weights.bundled
    assert weights.permissive
    assert (weights.sha256, weights.size, weights.parameters, weights.macs) == ("a" * 64, 7, 5, 9)
    assert weights.macs_input == (1, 3, 112, 112)
    assert weights.embedding is not None
    assert weights.embedding.dim == 128
    assert weights.figure("accuracy", group="women").low == 95.0
    assert weights.calibration[0].threshold == 0.31


def test_figures_of_a_former_file_are_not_shown_with_a_new_one(tmp_path: Path) -> None:
    figure = {"metric": "AP", "value": 0.8, "data": "d", "protocol": "p", "date": "2026-01-31"}
    measured = {"sha256": "b" * 64, "figures": [figure], "threshold": 0.4}
    (weights,) = declarations(noted(tmp_path, {"mien-detector": FACTS}, {"mien-detector": measured}))
    assert weights.figures == ()
    assert weights.threshold is None


@pytest.mark.parametrize(
    ("manifest", "figures", "kind"),
    [
        ({"mien-nobody": FACTS}, None, UnknownWeights),
        ({"mien-detector": {k: v for k, v in FACTS.items() if k != "size"}}, None, WeightsError),
        ({"mien-detector": {**FACTS, "sha256": "short"}}, None, WeightsError),
        ([], None, WeightsError),
        ({"mien-detector": FACTS}, {"mien-detector": {"sha256": "a" * 64, "figures": [{"metric": "x"}]}}, WeightsError),
        ({"mien-detector": FACTS}, ["x"], WeightsError),
    ],
)
def test_damaged_facts_are_told(tmp_path: Path, manifest: Any, figures: Any, kind: type[WeightsError]) -> None:
    with pytest.raises(kind):
        declarations(noted(tmp_path, manifest, figures))


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(WeightsError, match=r"manifest\.json"):
        declarations(tmp_path)


@pytest.mark.parametrize("name", sorted(PROSE))
def test_every_network_says_what_it_learnt_from_and_for_whom_it_is(name: str) -> None:
    prose = PROSE[name]
    assert prose["trained_on"]
    assert all(one.licence and one.source for one in prose["trained_on"])
    assert prose["notes"].endswith(".")
    wanted = "rendered heads" if name == "mien-parser" else "FairFace"
    assert wanted in prose["trained_on"][0].name


# ------------------------------------------------------------------------------------------- scripts/bundle.py


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_script", ROOT / "scripts" / "bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


OPTIONS: dict[str, dict[str, Any]] = {
    "detector": {"faces": "/data/faces", "scenes": "/data/scenes", "textures": "/data/cifar"},
    "embedder": {"data": "/data/faces", "validation": "/elsewhere/celeba"},
}


def a_run(folder: Path, recipe: str, name: str, *, step: int | None = None, **options: Any) -> Path:
    """A folder as the training loop leaves it, with the weights of an untrained network of that name."""
    from mien.weights.load import _resolve

    made = recipe_class(recipe).make(out=str(folder), **{**OPTIONS[recipe], **options})
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(made.to_dict()))
    network = lively(_resolve(PROSE[name]["build"])())
    metadata = {"step": str(made.steps if step is None else step)}
    save_weights(folder / "weights.safetensors", network, half=True, metadata=metadata)
    return folder


def test_a_run_becomes_a_bundled_network(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run, files = a_run(tmp_path / "run", "embedder", "mien-embedder", preset="full", steps=5), tmp_path / "files"
    facts = script.bundle(run, "mien-embedder", folder=files)
    assert facts["parameters"] == sum(p.numel() for p in embedder_base().parameters())
    assert facts["macs_input"] == [1, 3, 112, 112]
    assert 0.2e9 < facts["macs"] < 0.3e9
    assert "steps=5" in facts["command"]
    (weights,) = declarations(files)
    monkeypatch.setattr(store_module, "BUNDLED", files)
    assert path(weights) == files / "mien-embedder.safetensors"
    assert load(weights, device="cpu")(torch.zeros(1, 3, 112, 112)).shape == (1, 128)

    detector = a_run(tmp_path / "run2", "detector", "mien-detector", preset="full")
    facts = script.bundle(detector, "mien-detector", folder=files)
    assert facts["macs_input"] == [1, 3, 480, 640]
    assert [weights.name for weights in declarations(files)] == ["mien-detector", "mien-embedder"]
    assert {file.name for file in files.iterdir()} == {
        "manifest.json", "mien-detector.safetensors", "mien-embedder.safetensors",
    }  # fmt: skip


def test_the_command_is_the_preset_and_every_number_that_differs(script: ModuleType) -> None:
    def told(recipe: str, **options: Any) -> str:
        made = recipe_class(recipe).make(out="/some/run", **{**OPTIONS[recipe], **options})
        return str(script.command(made.to_dict()))

    assert told("embedder", preset="full") == (
        "mien train embedder preset=full data=DATA/faces out=runs/embedder"
    )  # where it was validated changes nothing
    assert told("embedder", preset="full", steps=3200, threads=1, save_every=7) == (
        "mien train embedder preset=full steps=3200 data=DATA/faces out=runs/embedder"
    )
    assert told("detector", preset="full", steps=7000, held=0.1, widths=(32, 64, 96), textures=None) == (
        "mien train detector preset=full steps=7000 held=0.1 widths=32,64,96 faces=DATA/faces scenes=DATA/scenes "
        "out=runs/detector"
    )
    assert told("embedder", seed=3) == "mien train embedder seed=3 data=DATA/faces out=runs/embedder"


def test_a_run_that_went_on_from_another_is_two_commands(tmp_path: Path, script: ModuleType) -> None:
    first = recipe_class("embedder").make(preset="full", out=str(tmp_path), data="/where/faces")
    (tmp_path / "config.json").write_text(json.dumps(first.to_dict()))
    init = str(tmp_path / "weights.safetensors")
    then = recipe_class("embedder").make(preset="full", out="/b", data="/where/faces", strength=0.3, init=init)
    assert script.command(then.to_dict()) == (
        "mien train embedder preset=full data=DATA/faces out=runs/embedder-first && "
        "mien train embedder preset=full strength=0.3 data=DATA/faces init=runs/embedder-first/weights.safetensors "
        "out=runs/embedder"
    )


def test_the_command_makes_the_same_recipe_again(script: ModuleType) -> None:
    made = recipe_class("detector").make(
        preset="small", out="/some/run", lr=1e-3, half=False, precision="bf16-mixed", **OPTIONS["detector"]
    )
    words = script.command(made.to_dict()).split()
    again = recipe_class(words[2]).make(**dict(word.split("=", 1) for word in words[3:]))
    free = made.FREE | made.PLACES
    assert {k: v for k, v in again.to_dict().items() if k not in free} == {
        k: v for k, v in made.to_dict().items() if k not in free
    }


def test_runs_that_cannot_be_bundled(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "files"
    half_way = a_run(tmp_path / "half", "embedder", "mien-embedder", step=10)
    with pytest.raises(TrainingError, match="has not ended"):
        script.bundle(half_way, "mien-embedder", folder=files)
    whole = a_run(tmp_path / "whole", "embedder", "mien-embedder")
    with pytest.raises(CheckpointError, match="do not fit the network"):
        script.bundle(whole, "mien-detector", folder=files)
    with pytest.raises(WeightsError, match="no bundled network has that name"):
        script.bundle(whole, "mien-embeder", folder=files)
    with pytest.raises(TrainingError, match="no folder of a training run"):
        script.bundle(tmp_path, "mien-embedder", folder=files)
    monkeypatch.setattr(script, "LARGEST", 1000)
    with pytest.raises(WeightsError, match="too large together"):
        script.bundle(whole, "mien-embedder", folder=files)
    assert not files.exists()


# ------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", sorted(PROSE))
def test_the_bundled_file_is_the_declared_one_and_loads(name: str) -> None:
    if name not in WEIGHTS:
        pytest.skip("not in the package yet")
    weights = WEIGHTS[name]
    assert verify(name) == BUNDLED / f"{name}.safetensors"
    side = weights.input.size or 64
    out = load(name, device="cpu")(torch.zeros(2, 3, side, side))
    assert len(out) == 2
    assert torch.isfinite(out).all()
    assert weights.command.startswith("mien train ")
    places = re.findall(r"\S*/\S*", weights.command)
    assert all(re.fullmatch(r"\w+=(DATA|runs)/[\w.-]+(/weights\.safetensors)?", place) for place in places), places
    if weights.embedding is not None:
        assert out.shape == (2, weights.embedding.dim)


def test_bundled_files_are_few_small_and_declared() -> None:
    if not BUNDLED.is_dir():
        pytest.skip("no files in the package yet")
    files = [file for file in BUNDLED.iterdir() if file.suffix not in (".json", ".lock")]
    assert {file.name for file in files} == {weights.file for weights in declarations()}
    assert sum(file.stat().st_size for file in files) <= LARGEST
