"""The one training loop, in plain sight, on Lightning Fabric (devices, precision, several processes).

    recipe = EmbedderRecipe(data="/data/fairface_faces", out="runs/embedder", steps=5000)
    result = fit(recipe)

A recipe is a dataclass: its fields are every number of the run, its methods the things that differ between runs. The
loop writes into `out`:

    config.json         the resolved recipe
    log.csv             figures in long form (step, name, value), TensorBoard events beside it
    last.ckpt           resumable: a run started again with the same `out` goes on from it
    classes-STEP-RANK.ckpt  each process's rows of a class layer, where there is one; they belong to last.ckpt
    weights.safetensors the averaged (EMA) weights of what `deploy` returns

A run may be killed at any moment. What it computes at a step follows from the recipe, the checkpoint and the step's
number alone (`mien.train.draws`, `mien.train.schedule`, one seed a step), and checkpoints replace each other whole. So
a run that is started again ends, on a CPU with the same number of threads, with the same bits as one that never died.

With several processes each takes its share of every batch, and the gradients' mean is followed (DDP). That is one
process on the whole batch up to rounding, except that batch normalisation sees the share and not the batch, and that a
loss which divides by a count found in the batch (faces, say) becomes a mean of such quotients.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import hashlib
import importlib.util
import json
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args, get_origin, get_type_hints

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mien.errors import CheckpointError, DeviceUnavailable, MissingExtra, OptionError, TrainingError
from mien.nn.count import count_macs, count_parameters
from mien.train import checkpoint
from mien.train.draws import Draws, Source, StepSampler
from mien.train.schedule import SCHEDULES, rate

if TYPE_CHECKING:
    from mien.train.classes import ClassLayer

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Recipe(ABC):
    """Base of all recipes: the loop's own numbers as fields, and the methods a recipe must give.

    A subclass adds its fields (data, network, loss) and implements `build`, `source` and `loss`; `evaluate`,
    `deploy` and `input_shape` have defaults. Presets are dicts of numbers in `PRESETS`, never subclasses.

    Parameters
    ----------
    out
        Folder of the run; made if it is not there.
    seed
        Of the first weights, the order of the samples, their augmentation, and dropout.
    steps, batch_size
        Optimiser steps of the run, samples of each (all processes together).
    optimizer, lr, weight_decay, momentum, beta2
        AdamW (`momentum` is its first beta), SGD with momentum (Nesterov's, where `NESTEROV` says so), AdaGrad, whose
        sums start at 0.1 as in TensorFlow, or RMSprop, whose decay is `beta2`; these two have no momentum. Only
        matrices and kernels are decayed.
    schedule, warmup, final_lr
        Shape of the learning rate: "cosine", "linear" or "constant" after `warmup` steps, down to the share `final_lr`.
    ema
        Decay of the averaged weights at each step; smaller at first, ``step / (step + 10)``.
    clip
        Largest norm of the gradient; 0 leaves it as it is.
    precision
        "32-true", or "bf16-mixed": the network's products in bfloat16, weights and loss in float32.
    device, processes
        "auto", "cpu", "cuda", "cuda:1" or "mps", and how many of them, one process each.
    workers, threads
        Processes that make samples (0: the training process itself), and threads of the training process (0: as many
        as torch takes).
    log_every, save_every, eval_every
        Steps between rows of the log, checkpoints, and evaluations (0: at the end only).
    half
        Whether the weights are written as float16.
    init
        File of weights to start from (``weights.safetensors`` of another run, a bundled file), which must fit what
        `deploy` returns; None starts from random ones. The optimiser starts anew.
    resume
        Whether a checkpoint in `out` is gone on from; otherwise the run starts anew.
    tensorboard
        "yes", "no", or "auto": if it is installed.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    out: str
    seed: int = 0
    steps: int = 1000
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd", "adagrad", "rmsprop"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    beta2: float = 0.99
    schedule: str = "cosine"
    warmup: int = 100
    final_lr: float = 0.01
    ema: float = 0.999
    clip: float = 5.0
    precision: str = "32-true"
    device: str = "auto"
    processes: int = 1
    workers: int = 1
    threads: int = 0
    log_every: int = 50
    save_every: int = 500
    eval_every: int = 0
    half: bool = True
    init: str | None = None
    resume: bool = True
    tensorboard: Literal["auto", "yes", "no"] = "auto"

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    """Sets of numbers by name."""
    PLACES: ClassVar[frozenset[str]] = frozenset({"data", "init"})
    """Fields that say where training data or first weights lie: they may move between a run and its resumption."""
    SCHEDULES: ClassVar[tuple[str, ...]] = SCHEDULES
    """Names that `schedule` may have; a recipe with one of its own overrides `pace`."""
    NESTEROV: ClassVar[bool] = True
    """Whether the momentum of SGD is Nesterov's."""
    FREE: ClassVar[frozenset[str]] = frozenset(
        {"out", "device", "processes", "workers", "threads", "log_every", "save_every", "eval_every", "resume",
         "tensorboard"}
    )  # fmt: skip
    """Fields that may differ between a run and its resumption: where and how fast, not what is computed."""

    def __post_init__(self) -> None:
        for names, right, expected in _RANGES:
            for name in names:
                if not right(getattr(self, name)):
                    raise OptionError(f"{name} is out of range", got=getattr(self, name), expected=expected)
        choices = {"schedule": self.SCHEDULES, "precision": PRECISIONS, "tensorboard": ("auto", "yes", "no"),
                   "optimizer": ("adamw", "sgd", "adagrad", "rmsprop")}  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise OptionError.unknown(f"unknown {name}", getattr(self, name), known)
        if self.batch_size % self.processes:
            raise OptionError(
                "the processes cannot share the batch evenly",
                got=f"batch_size {self.batch_size}, processes {self.processes}",
                expected="a batch_size that is a multiple of processes",
            )

    @abstractmethod
    def build(self) -> nn.Module:
        """The module to train. All that learns must be inside and be used in its `forward` (DDP needs that)."""

    @abstractmethod
    def source(self) -> Source:
        """The training samples."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (scalar) and scalars worth logging. Call `module` exactly once."""

    def draws(self, source: Source) -> Draws:
        """Which sample is drawn at which position of the run; every epoch is a permutation of all unless overridden."""
        return Draws(source, seed=self.seed)

    def pace(self, step: int) -> float:
        """Factor on the learning rate at `step`."""
        return rate(step, self.steps, kind=self.schedule, warmup=self.warmup, final=self.final_lr)

    def pace_of(self, name: str) -> float:
        """Factor on the learning rate of the parameter `name` of `build`'s module, beside `pace`."""
        del name
        return 1.0

    def clipped(self, module: nn.Module) -> nn.Module:
        """The part of `build`'s module whose gradient `clip` limits: all of it, unless overridden."""
        return module

    def begin(self, module: nn.Module) -> None:
        """Called once the first weights are in `module`: freezes or starts anew what the run wants so."""
        del module

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures of the averaged network on held-out data; empty when there is nothing to measure."""
        del network
        return {}

    def deploy(self, module: nn.Module) -> nn.Module:
        """The part of the trained module whose weights are kept (without loss heads)."""
        return module

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input with a batch of one, for counting MACs."""
        return (1, 3, 112, 112)

    def class_layer(self) -> ClassLayer | None:
        """The class layer of the loss, if it has one; the loop keeps it as `classes` for `loss` to call.

        It stays outside of `build`'s module: every process holds its own rows, which DDP must not average, no moving
        average is kept of it, and its gradient is not clipped.
        """
        return None

    @property
    def classes(self) -> ClassLayer:
        """The class layer of a run, inside of `loss`."""
        layer = self.__dict__.get("_classes")
        if layer is None:
            raise TrainingError("there is no class layer", hint="return one from class_layer(), and train with fit()")
        return cast("ClassLayer", layer)

    @classmethod
    def make(cls, *, preset: str | None = None, **options: object) -> Self:
        """A recipe from a preset and options; strings are converted to the fields' types (command line).

        Raises
        ------
        OptionError
            Unknown preset or option, a value of the wrong type or out of range, or options that are missing.
        """
        if preset is not None and preset not in cls.PRESETS:
            raise OptionError.unknown("unknown preset", preset, cls.PRESETS or ["none: this recipe has none"])
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise OptionError.unknown("unknown recipe option", name, sorted(known))
        types = get_type_hints(cls)
        values = {**(cls.PRESETS[preset] if preset else {}), **options}
        missing = [
            f.name
            for f in dataclasses.fields(cls)
            if f.default is f.default_factory is dataclasses.MISSING and f.name not in values
        ]
        if missing:
            raise OptionError("the recipe needs more options", got=sorted(values), expected=missing)
        return cls(**{name: _typed(name, value, types[name]) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values, with its class."""
        plain: dict[str, Any] = json.loads(json.dumps({"recipe": type(self).__name__, **dataclasses.asdict(self)}))
        return plain


PRECISIONS = ("32-true", "bf16-mixed")
"""float16 is left out on purpose: its loss scale would be one more state to resume, and bfloat16 needs none."""

_RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("steps", "batch_size", "processes", "log_every", "save_every"), lambda v: v >= 1, "at least 1"),
    (("seed", "warmup", "workers", "threads", "eval_every"), lambda v: v >= 0, "at least 0"),
    (("weight_decay", "clip"), lambda v: 0 <= v < math.inf, "a finite number, at least 0"),
    (("lr",), lambda v: 0 < v < math.inf, "a finite number above 0"),
    (("momentum", "beta2", "ema"), lambda v: 0 <= v < 1, "at least 0 and below 1"),
    (("final_lr",), lambda v: 0 <= v <= 1, "0 to 1"),
)


def _typed(name: str, value: object, kind: Any) -> Any:
    """`value` as the annotation `kind`: numbers, bool, str, Literal, optional, tuples; text (``64,96,160``) is read."""
    try:
        return _converted(value, kind)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        expected = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
        raise OptionError(f"option {name} has the wrong type", got=value, expected=expected) from error


def _converted(value: object, kind: Any) -> Any:
    text = isinstance(value, str)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError
        return value
    if get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_converted(part, get_args(kind)[0]) for part in value)
    if type(None) in get_args(kind):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _converted(value, next(k for k in get_args(kind) if k is not type(None)))
    if kind is str:
        return os.fspath(value)  # type: ignore[call-overload]  # a path is text in the recipe; the rest is a TypeError
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return words[value.lower()] if isinstance(value, str) else {True: True, False: False}[value]  # type: ignore[index]
    if isinstance(value, bool) or not (text or hasattr(value, "__float__")):
        raise TypeError
    if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return int(value)  # exact, however large
    number = float(value)  # type: ignore[arg-type]
    if kind is int:
        if number != int(number):
            raise ValueError
        return int(number)
    return number


@dataclass(frozen=True)
class Progress:
    """What the loop tells its caller after every step.

    `step` of `steps` is done; `loss`, `samples_per_s` and `from_limit` (how many times slower than the measured FLOP
    rate would allow) are those of the log's last row, `figures` those of the last evaluation.
    """

    step: int
    steps: int
    loss: float
    samples_per_s: float
    from_limit: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: last step, final figures of `evaluate`, the written weights, seconds spent."""

    steps: int
    figures: dict[str, float]
    weights: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "steps": self.steps,
            "figures": self.figures,
            "weights": str(self.weights),
            "seconds": self.seconds,
        }


def fit(recipe: Recipe, *, progress: Callable[[Progress], None] | None = None, stop_at: int | None = None) -> Result:
    """Trains `recipe`, from its last checkpoint in `recipe.out` if there is one.

    Parameters
    ----------
    recipe
        The run.
    progress
        Called after every step, in the first process.
    stop_at
        Stop after this step, without finishing: the checkpoint is written, the run can be resumed.

    Raises
    ------
    TrainingError
        `out` cannot be written or holds a run of other numbers; or the loss or the weights are no longer finite.
    CheckpointError
        The checkpoint is damaged, or the weights of `init` cannot be read or do not fit.
    DeviceUnavailable
        The device asked for is not there.
    MissingExtra
        TensorBoard was asked for and is not installed.
    """
    began = time.perf_counter()
    out = Path(recipe.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            "the run's folder cannot be made", got=f"{out}: {error}", hint="give another out="
        ) from None
    fabric = _fabric(recipe)
    fabric.launch()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    _write_config(recipe, out, write=fabric.is_global_zero)

    torch.manual_seed(recipe.seed)
    module = recipe.build()
    if recipe.init is not None:
        checkpoint.fill(recipe.deploy(module), Path(recipe.init))
    recipe.begin(module)
    # On its device before the optimiser is made: AdaGrad makes its sums at once, beside the weights.
    module = module.to(fabric.device).to(memory_format=torch.channels_last)
    average = copy.deepcopy(module).requires_grad_(False).to(fabric.device)
    wrapped, optimizer = fabric.setup(module, _optimizer(recipe, module))
    layer, rows = _class_layer(recipe, fabric)
    step = 0
    last = out / "last.ckpt"
    if recipe.resume and last.exists():
        # After `setup`, so that the optimiser's moments land on the device of the weights.
        step = _restore(checkpoint.load(last), last, module=module, average=average, optimizer=optimizer)
        if layer is not None:
            layer.load_shards(_shards(out, step), rows)
        log.info("resumed at step %d of %d", step, recipe.steps)
    first = step

    macs = count_macs(recipe.deploy(average), recipe.input_shape())
    mixed = torch.bfloat16 if recipe.precision.startswith("bf16") else torch.float32
    # Samples/s of the machine at its FLOP rate: the forward pass is 2 FLOPs a MAC, the backward pass twice as much.
    limit = gemm_rate(fabric.device, dtype=mixed) * fabric.world_size / (6 * max(1, macs))
    if fabric.is_global_zero:
        log.info("%s", json.dumps(recipe.to_dict()))
        log.info(
            "%.3f GMAC, %.2f M parameters, limit %.0f samples/s on %d x %s",
            macs / 1e9, count_parameters(recipe.deploy(average)) / 1e6, limit, fabric.world_size, fabric.device,
        )  # fmt: skip

    loader: Iterable[dict[str, Tensor]] = DataLoader(
        recipe.draws(recipe.source()),
        batch_sampler=StepSampler(
            recipe.steps, recipe.batch_size, start=step, rank=fabric.global_rank, world=fabric.world_size
        ),
        num_workers=recipe.workers,
        pin_memory=fabric.device.type == "cuda",
        prefetch_factor=4 if recipe.workers else None,
        worker_init_fn=_one_thread,
    )
    with _Log(out, recipe.tensorboard, step, active=fabric.is_global_zero) as table:

        def evaluated() -> dict[str, float]:
            """Figures of the averaged network, measured and logged by the first process while the others wait."""
            figures: dict[str, float] = {}
            if fabric.is_global_zero:
                figures = _evaluate(recipe, average)
                table.add(step, {f"eval/{name}": value for name, value in figures.items()})
                log.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in figures.items()) or "not evaluated")
            fabric.barrier()
            return figures

        def due() -> bool:
            return step == recipe.steps or bool(step and recipe.eval_every and step % recipe.eval_every == 0)

        # The checkpoint of a step is written before its evaluation, which a killed run may not have finished.
        figures = evaluated() if due() else {}
        row: dict[str, float] = {}
        wrapped.train()
        since, seen = time.perf_counter(), 0
        for batch in loader:
            # Every step seeds itself (dropout, noise in the loss), so that a resumed run draws the same numbers.
            torch.manual_seed(_step_seed(recipe.seed, step, fabric.global_rank))
            lr = recipe.lr * recipe.pace(step)
            for group in [*optimizer.param_groups, *(rows.param_groups if rows else ())]:
                group["lr"] = lr * group.get("factor", 1.0)
            moved = {name: value.to(fabric.device, non_blocking=True) for name, value in batch.items()}
            loss, parts = recipe.loss(wrapped, moved, step)
            optimizer.zero_grad(set_to_none=True)
            if rows is not None:
                rows.zero_grad(set_to_none=True)
            fabric.backward(loss)
            if recipe.clip:
                part = wrapped if recipe.clipped(module) is module else recipe.clipped(module)
                fabric.clip_gradients(part, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
            optimizer.step()
            if rows is not None:
                rows.step()
            step += 1
            _average(average, module, min(recipe.ema, step / (step + 10)))

            seen += recipe.batch_size
            logged = step % recipe.log_every == 0 or step == recipe.steps
            if logged or step == first + 1:
                row = _scalars(fabric, {"loss": loss, **parts})  # waits for the device: not at every step
                if not math.isfinite(row["loss"]):
                    raise _not_finite("loss", step, lr, last)
                speed = seen / (time.perf_counter() - since)
                row |= {"lr": lr, "samples_per_s": speed, "from_limit": limit / speed}
            if logged:
                table.add(step, row)
                since, seen = time.perf_counter(), 0
            if step % recipe.save_every == 0 or step in (recipe.steps, stop_at):
                # A good checkpoint is never replaced by a spoilt one.
                if not _all_finite(module) or (layer is not None and not _all_finite(layer)):
                    raise _not_finite("weights", step, lr, last)
                if layer is not None:
                    # Named by their step, so that a killed run never mixes rows of two checkpoints.
                    checkpoint.save(out / f"classes-{step}-{fabric.global_rank}.ckpt", layer.shard_state(rows))
                    fabric.barrier()
                if fabric.is_global_zero:
                    state = {"module": module.state_dict(), "average": average.state_dict()}
                    checkpoint.save(last, {**state, "optimizer": optimizer.state_dict(), "step": step})
                    _drop_shards(out, keep=step)
            if progress is not None and fabric.is_global_zero:
                told = (row["loss"], row["samples_per_s"], row["from_limit"])
                progress(Progress(step, recipe.steps, *told, figures))
            if step == stop_at:
                break
            if due():
                figures = evaluated()
                since, seen = time.perf_counter(), 0

    weights = out / "weights.safetensors"
    if fabric.is_global_zero:
        about = {"recipe": type(recipe).__name__, "step": str(step)}
        checkpoint.save_weights(weights, recipe.deploy(average), half=recipe.half, metadata=about)
    fabric.barrier()
    return Result(step, figures, weights, time.perf_counter() - began)


def gemm_rate(
    device: torch.device, *, dtype: torch.dtype = torch.float32, size: int = 2048, seconds: float = 0.3
) -> float:
    """Measured FLOP/s of a matrix product of `dtype` on `device`: the denominator of every "x from the limit"."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def run() -> float:
        began = time.perf_counter()
        torch.matmul(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - began

    run()
    times = [run()]
    while sum(times) < seconds:
        times.append(run())
    return 2 * size**3 / min(times)


def _fabric(recipe: Recipe) -> Fabric:
    """Fabric on the device asked for, or DeviceUnavailable: never on another."""
    name, _, number = recipe.device.partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") or (number and not (name == "cuda" and number.isdigit())):
        raise OptionError("unknown device", got=recipe.device, expected="auto, cpu, cuda, cuda:N or mps")
    if number and recipe.processes > 1:
        raise OptionError(
            "one numbered device cannot serve several processes",
            got=f"device {recipe.device}, processes {recipe.processes}",
            hint="give device=cuda for the first devices, or processes=1",
        )
    wanted = int(number) + 1 if number else recipe.processes
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name in there and there[name] < wanted:
        raise DeviceUnavailable("a device is missing", got=f"{there[name]} of {name}", expected=f"{wanted} of {name}")
    devices = [int(number)] if number else recipe.processes
    return Fabric(accelerator=name, devices=devices, precision=recipe.precision)  # type: ignore[arg-type]


def _optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW, SGD, AdaGrad or RMSprop; biases, normalisation and scalars are not decayed (one-dimensional tensors)."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    for factor in sorted({recipe.pace_of(name) for name, _ in trained} or {1.0}, reverse=True):
        own = [p for name, p in trained if recipe.pace_of(name) == factor]
        more = {} if factor == 1 else {"lr": recipe.lr * factor, "factor": factor}
        groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": recipe.weight_decay, **more})
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, **more})
    if recipe.optimizer == "sgd":
        nesterov = recipe.NESTEROV and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
    if recipe.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=recipe.lr, initial_accumulator_value=0.1)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.lr, alpha=recipe.beta2, eps=1e-8)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2))


def _class_layer(recipe: Recipe, fabric: Fabric) -> tuple[ClassLayer | None, torch.optim.Optimizer | None]:
    """The class layer on the device, and its optimiser, which is of the trunk's kind."""
    layer = recipe.class_layer()
    if layer is None:
        return None, None
    from mien.train.classes import RowAdamW, RowSGD

    layer.to(fabric.device)
    recipe.__dict__["_classes"] = layer
    if recipe.optimizer == "sgd":
        return layer, RowSGD(
            layer.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    betas = (recipe.momentum, recipe.beta2)
    return layer, RowAdamW(layer.parameters(), lr=recipe.lr, betas=betas, weight_decay=recipe.weight_decay)


def _shards(out: Path, step: int) -> Iterable[dict[str, Any]]:
    """The class layer's states of all processes at `step`, one after the other."""
    return (checkpoint.load(path) for path in sorted(out.glob(f"classes-{step}-*.ckpt")))


def _drop_shards(out: Path, *, keep: int) -> None:
    for path in out.glob("classes-*.ckpt"):
        if not path.name.startswith(f"classes-{keep}-"):
            path.unlink()


def _restore(state: dict[str, Any], path: Path, **parts: Any) -> int:
    """Loads the state into `parts` (those with a `load_state_dict`) and returns its step."""
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} does not fit the recipe",
            got=f"{type(error).__name__}: {error}",
            expected=[*parts, "step"],
            hint="give another out=, or resume=false to start anew",
        ) from error


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, keep: float) -> None:
    """Exponential moving average of all floating tensors, running statistics included; counters are copied."""
    for mean, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - keep)
        else:
            mean.copy_(new)


def _scalars(fabric: Fabric, figures: dict[str, Tensor]) -> dict[str, float]:
    """The figures as numbers, their mean over all processes; one transfer for all."""
    stacked: Any = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
    if fabric.world_size > 1:
        stacked = fabric.all_reduce(stacked, reduce_op="mean")
    return dict(zip(figures, stacked.tolist(), strict=True))


def _all_finite(module: nn.Module) -> bool:
    tensors = [value for value in module.state_dict().values() if value.is_floating_point()]
    return bool(torch.stack([value.isfinite().all() for value in tensors]).all()) if tensors else True


def _not_finite(what: str, step: int, lr: float, last: Path) -> TrainingError:
    good = f"; the last good state is {last}" if last.exists() else ""
    return TrainingError(
        f"the {what} {'is' if what == 'loss' else 'are'} not finite at step {step}",
        got="NaN or infinity",
        hint=f"lower lr (now {lr:.2g}) or clip{good}",
    )


def _evaluate(recipe: Recipe, average: nn.Module) -> dict[str, float]:
    network = recipe.deploy(average)
    network.eval()
    with torch.no_grad():
        figures = recipe.evaluate(network)
    network.train()
    return figures


def _one_thread(_: int) -> None:
    """Loader workers compute on one thread each: the training itself has the other cores.

    It also keeps them from waiting for the thread pools of their parent, which a fork does not copy.
    """
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(0)


def _step_seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _write_config(recipe: Recipe, out: Path, *, write: bool) -> None:
    """Saves the resolved recipe; a folder that holds a run of other numbers is refused."""
    config = recipe.to_dict()
    path = out / "config.json"
    if recipe.resume and (out / "last.ckpt").exists() and path.exists():
        try:
            former = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(
                f"{path} is damaged", got=error, hint="give another out=, or resume=false to start anew"
            ) from None
        changed = {}
        for name, value in config.items():
            before = former.get(name)
            same = (before is None) == (value is None) if name in recipe.PLACES else before == value
            if name not in recipe.FREE and not same:
                changed[name] = (before, value)
        if changed:
            raise TrainingError(
                f"{out} holds a checkpoint of a run with other numbers",
                got=", ".join(f"{name}={now}" for name, (_, now) in changed.items()),
                expected=", ".join(f"{name}={before}" for name, (before, _) in changed.items()),
                hint="give another out=, the same numbers, or resume=false to start anew",
            )
    if write:
        partial = path.with_suffix(".json.part")
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


class _Log:
    """log.csv (long form: step, name, value) and TensorBoard events, written by the active process only.

    Of a run that goes on from `step`, the rows after it are dropped, and the evaluation of `step`, which is made anew.
    """

    def __init__(self, out: Path, tensorboard: str, step: int, *, active: bool) -> None:
        self._path, self._step, self._active = out / "log.csv", step, active
        found = importlib.util.find_spec("tensorboard") is not None
        if tensorboard == "yes" and not found:
            raise MissingExtra("tensorboard", extra="train")
        self._board: Any = None
        if active and found and tensorboard != "no":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out), purge_step=step + 1 if step else None)

    def __enter__(self) -> Self:
        if self._active:
            kept = list(self._kept())
            partial = self._path.with_suffix(".csv.part")
            with partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["step", "name", "value"], *kept])
            partial.replace(self._path)
            self._file = self._path.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _kept(self) -> Iterable[list[str]]:
        if not self._step or not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if len(row) == 3 and row[0].isdigit():  # neither the header nor the stump of a killed write
                    at = int(row[0])
                    if at < self._step or (at == self._step and not row[1].startswith("eval/")):
                        yield row

    def add(self, step: int, figures: dict[str, float]) -> None:
        if not self._active:
            return
        csv.writer(self._file).writerows([[step, name, f"{value:.6g}"] for name, value in figures.items()])
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)
