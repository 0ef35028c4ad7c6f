"""The loop: what it computes, that it resumes exactly, and that it refuses what would silently spoil a run."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, TrainingError
from mien.train import checkpoint
from mien.train.draws import Draws, StepSampler
from mien.train.loop import Progress, Recipe, fit, gemm_rate
from mien.train.schedule import rate


class Line:
    """Noisy points of one line; the noise comes from the draw."""

    def __len__(self) -> int:
        return 37

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        x = np.linspace(-1, 1, 37, dtype=np.float32)[index]
        return {
            "x": np.array([x], np.float32),
            "y": np.array([3 * x + 0.01 * rng.standard_normal()], np.float32),
        }


@dataclass(kw_only=True)
class LineRecipe(Recipe):
    """Fits the line, with dropout so that randomness inside the network is covered too."""

    hidden: int = 16
    spoil_at: int = -1
    widths: tuple[int, ...] = (4, 8)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"small": {"steps": 12, "hidden": 4}}

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(1, self.hidden), nn.BatchNorm1d(self.hidden), nn.Dropout(0.2), nn.Linear(self.hidden, 1)
        )

    def source(self) -> Line:
        return Line()

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (module(batch["x"]) - batch["y"]).square().mean()
        if step == self.spoil_at:
            loss = loss * float("nan")
        return loss, {"rmse": loss.sqrt()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        x = torch.linspace(-1, 1, 9)[:, None]
        return {"error": float((network(x) - 3 * x).abs().mean())}

    def input_shape(self) -> tuple[int, ...]:
        return (1, 1)


def recipe(out: Path, **options: Any) -> LineRecipe:
    numbers = {
        "steps": 40,
        "batch_size": 8,
        "lr": 0.05,
        "warmup": 5,
        "ema": 0.9,
        "workers": 0,
        "log_every": 10,
        "save_every": 7,
        "threads": 1,
    }
    return LineRecipe(out=str(out), **{**numbers, "tensorboard": "no", "half": False, **options})


def test_training_lowers_the_error_and_leaves_a_complete_folder(tmp_path: Path) -> None:
    untrained = recipe(tmp_path).evaluate(recipe(tmp_path).build().eval())["error"]
    seen: list[Progress] = []
    result = fit(recipe(tmp_path, steps=200), progress=seen.append)
    assert result.figures["error"] < 0.5 * untrained
    assert {p.name for p in tmp_path.iterdir()} >= {
        "config.json",
        "log.csv",
        "last.ckpt",
        "weights.safetensors",
    }
    assert json.loads((tmp_path / "config.json").read_text())["hidden"] == 16
    assert [p.step for p in seen] == list(range(10, 201, 10))
    assert all(p.samples_per_s > 0 and p.from_limit > 0 for p in seen)


@pytest.mark.parametrize("cut", [1, 7, 20, 39])
def test_a_run_cut_at_any_step_ends_bit_equal_to_an_unbroken_one(tmp_path: Path, cut: int) -> None:
    fit(recipe(tmp_path / "whole"))
    fit(recipe(tmp_path / "cut"), stop_at=cut)
    assert checkpoint.load(tmp_path / "cut" / "last.ckpt")["step"] == cut
    fit(recipe(tmp_path / "cut"))
    whole, cut_ = (checkpoint.load(tmp_path / name / "last.ckpt") for name in ("whole", "cut"))
    for part in ("module", "average"):
        for key, value in whole[part].items():
            assert torch.equal(value, cut_[part][key]), (part, key)
    rows = [list(csv.reader((tmp_path / name / "log.csv").open())) for name in ("whole", "cut")]
    losses = [[row for row in table if row[1] == "loss"] for table in rows]
    assert losses[0] == losses[1]


def test_killed_between_checkpoints_repeats_the_lost_steps(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 30:
            raise Killed

    fit(recipe(tmp_path / "whole"))
    with pytest.raises(Killed):
        fit(recipe(tmp_path / "killed"), progress=kill)
    assert checkpoint.load(tmp_path / "killed" / "last.ckpt")["step"] == 28
    fit(recipe(tmp_path / "killed"))
    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_workers_draw_what_the_main_process_draws(tmp_path: Path) -> None:
    a = fit(recipe(tmp_path / "none", steps=6))
    b = fit(recipe(tmp_path / "two", steps=6, workers=2))
    assert all(torch.equal(v, load_file(b.weights)[k]) for k, v in load_file(a.weights).items())


def test_other_numbers_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    fit(recipe(tmp_path), stop_at=10)
    with pytest.raises(TrainingError, match="other numbers.*lr"):
        fit(recipe(tmp_path, lr=0.01))
    assert fit(recipe(tmp_path, lr=0.01, resume=False)).steps == 40


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite.*lower lr"):
        fit(recipe(tmp_path, spoil_at=19))


def test_average_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    fit(recipe(tmp_path, steps=1, ema=0.9))
    start = torch.manual_seed(0) and recipe(tmp_path).build().state_dict()
    state = checkpoint.load(tmp_path / "last.ckpt")
    keep = 1 / 11  # the average starts fast: min(ema, step / (step + 10))
    for key, first in start.items():
        if first.is_floating_point():
            torch.testing.assert_close(state["average"][key], keep * first + (1 - keep) * state["module"][key])


def test_half_weights_are_float16_without_counters(tmp_path: Path) -> None:
    tensors = load_file(fit(recipe(tmp_path, steps=1, half=True)).weights)
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert not any("num_batches" in key for key in tensors)


def test_options_from_text_become_the_fields_types(tmp_path: Path) -> None:
    made = LineRecipe.make(preset="small", out=str(tmp_path), lr="1e-3", widths="8,16,32", resume="false", steps="2e1")
    assert (made.lr, made.widths, made.resume, made.steps, made.hidden) == (1e-3, (8, 16, 32), False, 20, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lrr": "1"}, "unknown recipe option.*lr"), ({"lr": "fast"}, "wrong type.*float"), ({"optimizer": "lion"}, "wrong type"), ({"preset": "huge"}, "unknown preset.*small"), ({}, "needs more options.*out")],
)  # fmt: skip
def test_wrong_options_teach(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    needed = {"out": str(tmp_path)} if options else {}
    with pytest.raises(OptionError, match=message):
        LineRecipe.make(**{**needed, **options})


def test_every_epoch_is_a_permutation_and_processes_share_a_batch() -> None:
    draws = Draws(Line(), seed=3)
    epochs = [[draws.index(p) for p in range(e * 37, (e + 1) * 37)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(37))
    assert epochs[0] != epochs[1]
    shares = [list(StepSampler(3, 8, start=1, rank=r, world=2)) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [list(range(8, 16)), list(range(16, 24))]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_schedules_warm_up_and_fall_to_the_final_rate(kind: str) -> None:
    values = [rate(s, 100, kind=kind, warmup=10, final=0.1) for s in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == pytest.approx(1.0)
    assert values[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False))
    with pytest.raises(OptionError, match="cosine"):
        rate(0, 1, kind="step")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match="last.ckpt"):
        checkpoint.load(path)


def test_checkpoints_that_would_run_code_are_not_loaded(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("executed",)

    torch.save({"x": Code()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "evil.ckpt")


def test_gemm_rate_is_a_plausible_number_of_flops() -> None:
    assert 1e8 < gemm_rate(torch.device("cpu"), size=256, seconds=0.01) < 1e15
