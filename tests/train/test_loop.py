"""The loop: what it computes, that it resumes exactly, and that it refuses what would silently spoil a run."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mien.errors import CheckpointError, DeviceUnavailable, OptionError, TrainingError
from mien.train import checkpoint
from mien.train.classes import PartialFC, cosface
from mien.train.draws import Draws, StepSampler
from mien.train.loop import Progress, Recipe, fit, gemm_rate
from mien.train.schedule import rate

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


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
    with torch.no_grad():
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
    assert [p.step for p in seen] == list(range(1, 201))
    assert all(p.steps == 200 and p.samples_per_s > 0 and p.from_limit > 0 for p in seen)
    rows = list(csv.reader((tmp_path / "log.csv").open()))
    assert rows[0] == ["step", "name", "value"]
    assert [int(step) for step, name, _ in rows[1:] if name == "loss"] == list(range(10, 201, 10))
    assert {name for _, name, _ in rows[1:]} == {"loss", "rmse", "lr", "samples_per_s", "from_limit", "eval/error"}


def same_state(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same bits: weights, averages, the optimiser's moments, and the log's figures."""
    states = [checkpoint.load(path / "last.ckpt") for path in (a, b)]
    assert states[0]["step"] == states[1]["step"]
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for key, moment in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in moment.items())
    for part in ("module", "average"):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), (part, key)
    measured = ("samples_per_s", "from_limit")  # these are of the moment
    logs = [[row for row in csv.reader((path / "log.csv").open()) if row[1] not in measured] for path in (a, b)]
    assert logs[0] == logs[1]
    weights = [load_file(path / "weights.safetensors") for path in (a, b)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    return True


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("cut", [1, 7, 20, 39, 40])
def test_a_run_cut_at_any_step_ends_bit_equal_to_an_unbroken_one(tmp_path: Path, cut: int, optimizer: str) -> None:
    whole, cut_ = (recipe(tmp_path / name, optimizer=optimizer, eval_every=10) for name in ("whole", "cut"))
    figures = fit(whole).figures
    fit(cut_, stop_at=cut)
    assert checkpoint.load(tmp_path / "cut" / "last.ckpt")["step"] == cut
    assert fit(cut_).figures == figures
    assert same_state(tmp_path / "whole", tmp_path / "cut")


def test_an_exception_between_checkpoints_repeats_the_lost_steps(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 30:
            raise Stopped

    fit(recipe(tmp_path / "whole"))
    with pytest.raises(Stopped):
        fit(recipe(tmp_path / "stopped"), progress=stop)
    assert checkpoint.load(tmp_path / "stopped" / "last.ckpt")["step"] == 28
    fit(recipe(tmp_path / "stopped"))
    assert same_state(tmp_path / "whole", tmp_path / "stopped")


SCRIPT = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("of_the_test", {file!r})
of_the_test = importlib.util.module_from_spec(spec)
sys.modules["of_the_test"] = of_the_test  # dataclasses and worker processes look their module up
spec.loader.exec_module(of_the_test)
"""


def script(tmp_path: Path, body: str) -> list[str]:
    """The command that runs `body` in a new interpreter, with this file's recipes as ``of_the_test``."""
    path = tmp_path / "run.py"
    path.write_text(SCRIPT.format(file=__file__) + body)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_bit_equal_to_an_unbroken_one(tmp_path: Path, workers: int) -> None:
    """SIGKILL, so that nothing can be tidied up; the moment is drawn, so that over time all are tried."""
    numbers: dict[str, Any] = {"steps": 150, "save_every": 2, "eval_every": 5, "workers": workers, "log_every": 3}
    fit(recipe(tmp_path / "whole", **numbers))
    body = f"""
from pathlib import Path
def told(progress):
    print(progress.step, flush=True)
    time.sleep(0.003)
of_the_test.fit(of_the_test.recipe(Path({str(tmp_path / "killed")!r}), **{numbers!r}), progress=told)
"""
    moment = random.SystemRandom().randrange(1, 130)
    with subprocess.Popen(script(tmp_path, body), stdout=subprocess.PIPE, text=True, env=ONE_THREAD) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == str(moment):
                time.sleep(random.SystemRandom().uniform(0, 0.005))
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL
    kept = checkpoint.load(tmp_path / "killed" / "last.ckpt")["step"] if moment > 2 else 0
    assert moment - 2 <= kept < 150 or moment <= 2, moment
    fit(recipe(tmp_path / "killed", **numbers))
    assert same_state(tmp_path / "whole", tmp_path / "killed"), f"killed after step {moment}"
    assert not list((tmp_path / "killed").glob("*.part")), "a stump was left"


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoint.save(path, {"step": 1})

    def broken(state: Any, file: Any) -> None:
        file.write(b"half a checkp")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}


def test_a_log_with_a_stump_of_a_killed_write_is_mended(tmp_path: Path) -> None:
    fit(recipe(tmp_path), stop_at=20)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("30,loss,0.5\r\n30,lr")
    fit(recipe(tmp_path))
    fit(recipe(tmp_path / "whole"))
    assert same_state(tmp_path / "whole", tmp_path)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    figures = fit(recipe(tmp_path)).figures
    before = {name: (tmp_path / name).read_bytes() for name in ("log.csv", "config.json", "weights.safetensors")}
    assert fit(recipe(tmp_path)).figures == figures
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_workers_draw_what_the_main_process_draws(tmp_path: Path) -> None:
    a = fit(recipe(tmp_path / "none", steps=6))
    b = fit(recipe(tmp_path / "two", steps=6, workers=2))
    assert all(torch.equal(v, load_file(b.weights)[k]) for k, v in load_file(a.weights).items())


def test_other_numbers_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    fit(recipe(tmp_path), stop_at=10)
    with pytest.raises(TrainingError, match=r"other numbers.*lr=0\.01"):
        fit(recipe(tmp_path, lr=0.01))
    assert fit(recipe(tmp_path, lr=0.01, resume=False)).steps == 40


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is not finite at step 20.*lower lr.*last\.ckpt"):
        fit(recipe(tmp_path, spoil_at=19))


def test_spoilt_weights_never_replace_a_good_checkpoint(tmp_path: Path) -> None:
    # Spoilt at step 12, between rows of the log: the checkpoint of step 14 must not be written.
    with pytest.raises(TrainingError, match=r"the weights are not finite at step 14.*last\.ckpt"):
        fit(recipe(tmp_path, spoil_at=11, log_every=40))
    state = checkpoint.load(tmp_path / "last.ckpt")
    assert state["step"] == 7
    assert all(value.isfinite().all() for value in state["module"].values())


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    fit(recipe(tmp_path), stop_at=3)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"does not fit.*last\.ckpt|last\.ckpt does not fit"):
        fit(recipe(tmp_path, hidden=8))


def test_a_damaged_config_and_a_folder_that_is_a_file_are_named(tmp_path: Path) -> None:
    fit(recipe(tmp_path), stop_at=3)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TrainingError, match=r"config\.json is damaged"):
        fit(recipe(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"folder cannot be made"):
        fit(recipe(tmp_path / "file"))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"device": "tpu"}, OptionError, "unknown device.*cuda:N"),
        ({"device": "cpu:1"}, OptionError, "unknown device"),
        ({"device": "cuda:0", "processes": 2}, OptionError, "several processes"),
        ({"device": "cuda:99"}, DeviceUnavailable, "device is missing.*100 of cuda"),
    ],
)
def test_devices_that_are_not_there_are_errors_and_never_replaced(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fit(recipe(tmp_path, **options))


def test_the_first_step_is_adamw_s_on_the_clipped_gradient(tmp_path: Path) -> None:
    """One step by hand: clipping by the global norm, no decay of vectors, Adam's first step is lr times the sign."""
    numbers = {"lr": 0.01, "warmup": 0, "weight_decay": 0.5, "clip": 1e-3}
    made = recipe(tmp_path, steps=1, **numbers)
    fit(made)
    after = checkpoint.load(tmp_path / "last.ckpt")
    torch.manual_seed(0)
    before = made.build()
    moment = after["optimizer"]["state"]
    # Adam's first moment is (1 - beta1) times the gradient that was clipped: all of them together have the norm.
    norm = torch.cat([m["exp_avg"].flatten() for m in moment.values()]).norm() / (1 - 0.9)
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    grouped = [p for p in before.named_parameters() if p[1].ndim > 1] + [
        p for p in before.named_parameters() if p[1].ndim <= 1
    ]
    for (name, value), state in zip(grouped, moment.values(), strict=True):
        decay = 0.01 * 0.5 if value.ndim > 1 else 0.0
        gradient = state["exp_avg"] / (1 - 0.9)
        expected = value * (1 - decay) - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after["module"][name], expected.detach())


def test_the_distance_from_the_limit_is_that_of_the_flop_rate(tmp_path: Path, flop_rate: float) -> None:
    seen: list[Progress] = []
    fit(recipe(tmp_path), progress=seen.append)
    macs = 16 + 16  # two linear layers, one input and one output
    for p in seen:
        assert p.from_limit * p.samples_per_s == pytest.approx(flop_rate / (3 * 2 * macs))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_network_computes_in_the_precision_and_the_loss_in_float32(tmp_path: Path, precision: str) -> None:
    seen: dict[str, torch.dtype] = {}

    class Watched(LineRecipe):
        def build(self) -> nn.Module:
            module = super().build()
            # In training only: evaluation is in float32, and so is the pass that counts.
            module[0].register_forward_hook(  # type: ignore[index]
                lambda layer, _, out: seen.update(inner=out.dtype) if layer.training else None
            )
            return module

        def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
            loss, parts = super().loss(module, batch, step)
            seen.update(loss=loss.dtype, output=module(batch["x"]).dtype)
            return loss, parts

    result = fit(Watched(**{**vars(recipe(tmp_path, steps=2)), "precision": precision}))
    assert seen["inner"] == (torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    assert seen["loss"] == seen["output"] == torch.float32
    assert {v.dtype for v in load_file(result.weights).values()} == {torch.float32}


def test_workers_get_along_with_a_parent_that_has_used_its_thread_pools(tmp_path: Path) -> None:
    """OpenMP's and OpenCV's threads do not survive a fork; a worker that waited for them would never answer."""
    body = f"""
import cv2, numpy as np, torch
from pathlib import Path
class Heavy(of_the_test.Line):
    def sample(self, index, rng):
        big = cv2.GaussianBlur(np.ones((900, 900, 3), np.uint8), (0, 0), 5)
        a = torch.ones(300, 300) @ torch.ones(300, 300)
        return {{**super().sample(index, rng), "z": float(a[0, 0]) + float(big[0, 0, 0])}}
class HeavyRecipe(of_the_test.LineRecipe):
    def source(self):
        heavy = Heavy()
        heavy.sample(0, np.random.default_rng(0))
        return heavy
torch.set_num_threads(2)
cv2.setNumThreads(2)
for workers in (0, 1):
    numbers = {{**vars(of_the_test.recipe(Path({str(tmp_path)!r}) / str(workers), steps=3)), "workers": workers}}
    of_the_test.fit(HeavyRecipe(**{{**numbers, "threads": 2}}))
"""
    subprocess.run(script(tmp_path, body), check=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "2"})
    a, b = (load_file(tmp_path / str(workers) / "weights.safetensors") for workers in (0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)


@dataclass(kw_only=True)
class NormedRecipe(LineRecipe):
    """Without batch statistics and dropout, so that a share of a batch is treated as the whole would be."""

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {**vars(recipe(tmp_path / "two", steps=12)), "device": "cpu"}
    body = f"""
made = of_the_test.NormedRecipe(**{{**{numbers!r}, "processes": 2}})
of_the_test.fit(made, stop_at=7)
"""
    again = body.replace(", stop_at=7", "")
    for text in (body, again):  # resumed half-way, by two processes too
        subprocess.run(script(tmp_path, text), check=True, timeout=600, env=ONE_THREAD, cwd=tmp_path)
    fit(NormedRecipe(**{**numbers, "out": str(tmp_path / "one")}))
    one, two = (checkpoint.load(tmp_path / name / "last.ckpt") for name in ("one", "two"))
    assert one["step"] == two["step"] == 12
    for part in ("module", "average"):
        for key, value in one[part].items():
            torch.testing.assert_close(two[part][key], value, rtol=1e-4, atol=1e-6)
    logs = [[r for r in csv.reader((tmp_path / name / "log.csv").open()) if r[1] == "loss"] for name in ("one", "two")]
    assert [row[:2] for row in logs[0]] == [row[:2] for row in logs[1]]
    np.testing.assert_allclose([float(r[2]) for r in logs[0]], [float(r[2]) for r in logs[1]], rtol=1e-4)


@dataclass(kw_only=True)
class ClassesRecipe(NormedRecipe):
    """Tells 40 places on the line apart by a class layer of sampled rows."""

    sample: float = 0.3

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 6))

    def class_layer(self) -> PartialFC:
        return PartialFC(6, classes=40, margin=cosface(0.1), scale=8.0, sample=self.sample)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        label = ((batch["x"][:, 0] + 1) / 2 * 40).long().clamp(0, 39)
        return self.classes(module(batch["x"]), label), {}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_class_layer_is_trained_and_resumed_with_the_rest(tmp_path: Path, optimizer: str) -> None:
    numbers = {**vars(recipe(tmp_path)), "optimizer": optimizer, "device": "cpu"}
    whole, cut = (ClassesRecipe(**{**numbers, "out": str(tmp_path / name)}) for name in ("whole", "cut"))
    fit(whole)
    fit(cut, stop_at=17)
    fit(cut)
    one, two = (checkpoint.load(tmp_path / name / "classes-40-0.ckpt") for name in ("whole", "cut"))
    assert torch.equal(one["weight"], two["weight"])
    assert one["step"] == two["step"] == 40
    assert not torch.equal(one["weight"], whole.class_layer().weight)
    assert [p.name for p in (tmp_path / "cut").glob("classes-*")] == ["classes-40-0.ckpt"]  # the last step's alone
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    if optimizer == "adamw":  # so few steps of SGD at its rate learn nothing
        losses = [float(r[2]) for r in csv.reader((tmp_path / "whole" / "log.csv").open()) if r[1] == "loss"]
        assert losses[-1] < losses[0]


def test_rows_that_are_lost_are_told(tmp_path: Path) -> None:
    numbers = {**vars(recipe(tmp_path)), "device": "cpu"}
    fit(ClassesRecipe(**numbers), stop_at=7)
    (tmp_path / "classes-7-0.ckpt").unlink()
    with pytest.raises(CheckpointError, match="shards of the class layer are missing"):
        fit(ClassesRecipe(**numbers))


def test_without_a_class_layer_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no class layer"):
        _ = recipe(tmp_path).classes


@pytest.mark.slow
def test_two_processes_share_a_class_layer(tmp_path: Path) -> None:
    numbers: dict[str, Any] = {**vars(recipe(tmp_path / "two", steps=12)), "device": "cpu"}
    body = f"of_the_test.fit(of_the_test.ClassesRecipe(**{{**{numbers!r}, 'processes': 2, 'sample': 1.0}}))"
    subprocess.run(script(tmp_path, body), check=True, timeout=600, env=ONE_THREAD, cwd=tmp_path)
    fit(ClassesRecipe(**{**numbers, "out": str(tmp_path / "one"), "sample": 1.0}))
    one = checkpoint.load(tmp_path / "one" / "classes-12-0.ckpt")["weight"]
    two = torch.cat([checkpoint.load(tmp_path / "two" / f"classes-12-{rank}.ckpt")["weight"] for rank in (0, 1)])
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    whole, shared = (checkpoint.load(tmp_path / name / "last.ckpt")["module"] for name in ("one", "two"))
    for key, value in whole.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-6)


def test_tensorboard_gets_the_rows_of_the_log(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(recipe(tmp_path, tensorboard="yes"))
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    written = {name: [e.step for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert written["loss"] == [10, 20, 30, 40]
    assert written["eval/error"] == [40]


def test_average_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    fit(recipe(tmp_path, steps=1, ema=0.9))
    start = torch.manual_seed(0) and recipe(tmp_path).build().state_dict()
    state = checkpoint.load(tmp_path / "last.ckpt")
    keep = 1 / 11  # the average starts fast: min(ema, step / (step + 10))
    for key, first in start.items():
        if first.is_floating_point():
            torch.testing.assert_close(state["average"][key], keep * first + (1 - keep) * state["module"][key])


def test_a_run_starts_from_the_weights_it_is_given(tmp_path: Path) -> None:
    first = fit(LineRecipe(out=str(tmp_path / "first"), steps=5, half=False))
    init = str(first.weights)
    same = fit(LineRecipe(out=str(tmp_path / "same"), steps=1, lr=1e-12, ema=0, half=False, init=init))
    for name, tensor in load_file(first.weights).items():
        if "running" not in name:  # the step's batch moves the statistics
            torch.testing.assert_close(load_file(same.weights)[name], tensor, rtol=0, atol=1e-9)


def test_first_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    fit(LineRecipe(out=str(tmp_path / "first"), steps=1))
    tensors = load_file(tmp_path / "first" / "weights.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(2, 9), "more": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for file, message in (("other", "do not fit the network"), ("noise", "cannot read"), ("none", "cannot read")):
        with pytest.raises(CheckpointError, match=message):
            fit(LineRecipe(out=str(tmp_path / "then"), steps=1, init=str(tmp_path / f"{file}.safetensors")))


def test_half_weights_are_float16_without_counters(tmp_path: Path) -> None:
    tensors = load_file(fit(recipe(tmp_path, steps=1, half=True)).weights)
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert not any("num_batches" in key for key in tensors)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    network = recipe(tmp_path).build()
    about = {"recipe": "LineRecipe", "step": "12", "note": "ä", "a": "b"}
    written = set()
    for k in range(8):
        checkpoint.save_weights(tmp_path / f"{k}.safetensors", network, metadata=about)
        written.add((tmp_path / f"{k}.safetensors").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as opened:
        assert opened.metadata() == about
        for key in opened.keys():  # noqa: SIM118  # it is no mapping
            assert torch.equal(opened.get_tensor(key), network.state_dict()[key])


def test_options_from_text_become_the_fields_types(tmp_path: Path) -> None:
    made = LineRecipe.make(preset="small", out=str(tmp_path), lr="1e-3", widths="8,16,32", resume="false", steps="2e1")
    assert (made.lr, made.widths, made.resume, made.steps, made.hidden) == (1e-3, (8, 16, 32), False, 20, 4)
    same = LineRecipe.make(out=tmp_path, lr=np.float64(1e-3), widths=[8, 16, 32], resume=False, steps=20.0, hidden=4)
    assert same == made  # a path, numbers of numpy, a list: as Python hands them over
    assert json.loads(json.dumps(same.to_dict()))["widths"] == [8, 16, 32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lrr": "1"}, "unknown recipe option.*did you mean 'lr'"),
        ({"lr": "fast"}, "lr has the wrong type.*float"),
        ({"steps": 2.5}, "steps has the wrong type.*int"),
        ({"steps": "1e999"}, "steps has the wrong type.*int"),
        ({"half": "perhaps"}, "half has the wrong type.*bool"),
        ({"widths": "8,x"}, "widths has the wrong type"),
        ({"widths": 8}, "widths has the wrong type"),
        ({"optimizer": "lion"}, "optimizer has the wrong type.*adamw"),
        ({"preset": "huge"}, "unknown preset.*small"),
        ({"precision": "16-mixed"}, "unknown precision.*bf16-mixed"),
        ({"schedule": "cosin"}, "unknown schedule.*did you mean 'cosine'"),
        ({"batch_size": "0"}, "batch_size is out of range.*at least 1"),
        ({"lr": "-1"}, "lr is out of range"),
        ({"lr": "nan"}, "lr is out of range"),
        ({"ema": "1"}, "ema is out of range"),
        ({"processes": "3"}, "share the batch evenly.*multiple"),
        ({}, "needs more options.*out"),
    ],
)
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
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
    with pytest.raises(OptionError, match="cosine"):
        rate(0, 1, kind="step")


def test_the_cosine_is_that_of_the_paper_and_the_line_is_straight() -> None:
    for step in range(10, 101, 9):
        done = (step - 10) / 90
        cosine = rate(step, 100, kind="cosine", warmup=10, final=0.2)
        assert cosine == pytest.approx(0.2 + 0.5 * (1 - 0.2) * (1 + math.cos(done * math.pi)))
        assert rate(step, 100, kind="linear", warmup=10, final=0.2) == pytest.approx(1 - 0.8 * done)
        assert rate(step, 100, kind="constant", warmup=10) == 1
    assert [rate(s, 100, warmup=4) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(500, 100, final=0.2) == pytest.approx(0.2)  # beyond the end


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
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
