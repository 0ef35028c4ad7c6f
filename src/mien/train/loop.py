"""The one training loop, in plain sight, on Lightning Fabric (devices, precision, several processes).

    recipe = EmbedderRecipe(data="/data/fairface_faces", out="runs/embedder", steps=5000)
    result = fit(recipe)

A recipe is a dataclass: its fields are every number of the run, its methods the four things that differ between
runs. The loop writes into `out`:

    config.json         the resolved recipe
    log.csv             one row each `log_every` steps (TensorBoard events beside it)
    last.ckpt           resumable; a run started again with the same `out` goes on from it
    weights.safetensors the averaged (EMA) weights of what `deploy` returns
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
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mien.errors import MissingExtra, OptionError, TrainingError
from mien.nn.count import count_macs, count_parameters
from mien.train import checkpoint
from mien.train.draws import Draws, Source, StepSampler
from mien.train.schedule import rate

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Recipe(ABC):
    """Base of all recipes: the loop's own numbers as fields, and the methods a recipe must give.

    A subclass adds its fields (data, network, loss) and implements `build`, `source` and `loss`; `evaluate`,
    `deploy` and `input_shape` have defaults. Presets are dicts of numbers in `PRESETS`, never subclasses.
    """

    out: str
    seed: int = 0
    steps: int = 1000
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
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
    resume: bool = True
    tensorboard: Literal["auto", "yes", "no"] = "auto"

    @abstractmethod
    def build(self) -> nn.Module:
        """The module to train. All that learns must be inside and be used in its `forward` (DDP needs that)."""

    @abstractmethod
    def source(self) -> Source:
        """The training samples."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch (scalar) and figures worth logging. Call `module` exactly once."""

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

    @classmethod
    def make(cls, *, preset: str | None = None, **options: object) -> Self:
        """A recipe from a preset and options; strings are converted to the fields' types (command line)."""
        presets: dict[str, dict[str, Any]] = getattr(cls, "PRESETS", {})
        if preset is not None and preset not in presets:
            raise OptionError("unknown preset", got=preset, expected=", ".join(presets) or "none: this recipe has none")
        known = {f.name for f in dataclasses.fields(cls)}
        for name in options:
            if name not in known:
                raise OptionError("unknown recipe option", got=name, expected=", ".join(sorted(known)))
        types = get_type_hints(cls)
        values = {**(presets[preset] if preset else {}), **options}
        missing = [
            f.name
            for f in dataclasses.fields(cls)
            if f.default is f.default_factory is dataclasses.MISSING and f.name not in values
        ]
        if missing:
            raise OptionError("the recipe needs more options", got=sorted(values), expected=", ".join(missing))
        return cls(**{k: _typed(k, v, types[k]) if isinstance(v, str) else v for k, v in values.items()})


def _typed(name: str, text: str, kind: Any) -> Any:
    """`text` as a value of the annotation `kind`: numbers, bool, str, Literal, optional and tuples (``64,96,160``)."""
    try:
        if get_origin(kind) is Literal:
            if text in get_args(kind):
                return text
            raise ValueError
        if get_origin(kind) is tuple:
            return tuple(
                _typed(name, part, get_args(kind)[0])
                for part in text.replace("(", "").replace(")", "").split(",")
                if part.strip()
            )
        if type(None) in get_args(kind):
            return (
                None
                if text.lower() == "none"
                else _typed(name, text, next(k for k in get_args(kind) if k is not type(None)))
            )
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if kind is int:
            return int(float(text)) if "e" in text.lower() else int(text)
        return kind(text)
    except (ValueError, KeyError) as error:
        raise OptionError(
            f"option {name} has the wrong type", got=text, expected=str(getattr(kind, "__name__", kind))
        ) from error


@dataclass(frozen=True)
class Progress:
    """What the loop tells its caller at every step: position, loss, rate and how far from the FLOP limit."""

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
        Called after every step (rank 0).
    stop_at
        Stop after this step without finishing, checkpoint written; the run can be resumed.

    Raises
    ------
    TrainingError
        The loss is not finite, or `out` holds a run of other numbers.
    """
    began = time.perf_counter()
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    fabric = Fabric(accelerator=_accelerator(recipe.device), devices=recipe.processes, precision=recipe.precision)  # type: ignore[arg-type]
    fabric.launch()
    _write_config(recipe, out)

    torch.manual_seed(recipe.seed)
    module = recipe.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(module).requires_grad_(False).to(fabric.device)
    optimizer = _optimizer(recipe, module)
    macs = count_macs(recipe.deploy(module), recipe.input_shape())
    limit = gemm_rate(fabric.device) * fabric.world_size / (6 * macs)  # samples/s: forward and backward are 3 x 2 MACs
    log.info(
        "%s: %.3f GMAC, %.2f M parameters, limit %.0f samples/s on %s",
        type(recipe).__name__, macs / 1e9, count_parameters(recipe.deploy(module)) / 1e6, limit, fabric.device,
    )  # fmt: skip

    step = 0
    last = out / "last.ckpt"
    if recipe.resume and last.exists():
        state = checkpoint.load(last)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
        log.info("resumed at step %d of %d", step, recipe.steps)
    wrapped, optimizer = fabric.setup(module, optimizer)
    table = _Log(out, recipe.tensorboard, step) if fabric.is_global_zero else None

    def save() -> None:
        if fabric.is_global_zero:
            state = {
                "module": module.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            checkpoint.save(last, {**state, "step": step})

    draws = Draws(recipe.source(), seed=recipe.seed)
    sampler = StepSampler(recipe.steps, recipe.batch_size, start=step, rank=fabric.global_rank, world=fabric.world_size)
    loader: Iterable[dict[str, Tensor]] = DataLoader(
        draws,
        batch_sampler=sampler,
        num_workers=recipe.workers,
        pin_memory=fabric.device.type == "cuda",
        prefetch_factor=4 if recipe.workers else None,
        worker_init_fn=_one_thread,
    )
    figures: dict[str, float] = {}
    wrapped.train()
    since, seen = time.perf_counter(), 0
    for batch in loader:
        # Every step seeds itself (dropout, noise in the loss), so that a resumed run draws the same numbers.
        torch.manual_seed(_step_seed(recipe.seed, step, fabric.global_rank))
        now = rate(step, recipe.steps, kind=recipe.schedule, warmup=recipe.warmup, final=recipe.final_lr)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * now
        moved = {k: v.to(fabric.device, non_blocking=True) for k, v in batch.items()}
        loss, parts = recipe.loss(wrapped, moved, step)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if recipe.clip:
            fabric.clip_gradients(wrapped, optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
        optimizer.step()
        step += 1
        _average(average, module, min(recipe.ema, step / (step + 10)))
        seen += recipe.batch_size
        if step % recipe.log_every == 0 or step == recipe.steps:
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is not finite at step {step}",
                    got=value,
                    hint=f"lower lr (now {recipe.lr * now:.2g}) or clip; the last good state is {last}",
                )
            speed = seen / (time.perf_counter() - since)
            since, seen = time.perf_counter(), 0
            row = {"loss": value, **{k: float(v) for k, v in parts.items()}, "lr": recipe.lr * now,
                   "samples_per_s": speed, "from_limit": limit / speed}  # fmt: skip
            if table is not None:
                table.add(step, row)
                if progress is not None:
                    progress(Progress(step, recipe.steps, value, speed, limit / speed, figures))
        stopping = step == stop_at
        if step % recipe.save_every == 0 or step == recipe.steps or stopping:
            save()
        if stopping:
            break
        if step == recipe.steps or (recipe.eval_every and step % recipe.eval_every == 0):
            if fabric.is_global_zero:
                figures = _evaluate(recipe, average)
                log.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
                if table is not None and figures:
                    table.add(step, {f"eval/{k}": v for k, v in figures.items()})
            fabric.barrier()
            since, seen = time.perf_counter(), 0
    if not figures and stop_at is None and fabric.is_global_zero:  # resumed after its last step
        figures = _evaluate(recipe, average)
    weights = out / "weights.safetensors"
    if fabric.is_global_zero:
        checkpoint.save_weights(
            weights,
            recipe.deploy(average),
            half=recipe.half,
            metadata={"recipe": type(recipe).__name__, "step": str(step)},
        )
    if table is not None:
        table.close()
    return Result(step, figures, weights, time.perf_counter() - began)


def gemm_rate(device: torch.device, *, size: int = 2048, seconds: float = 0.3) -> float:
    """Measured FLOP/s of a float32 matrix product on `device`: the denominator of every "x from the limit"."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)

    def run() -> float:
        began = time.perf_counter()
        torch.matmul(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    run()
    times = [run()]
    while sum(times) < seconds:
        times.append(run())
    return 2 * size**3 / min(times)


def _accelerator(device: str) -> str:
    return {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}.get(device.split(":")[0], device)


def _optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD; biases, normalisation and scalars are not decayed (one-dimensional tensors)."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2))


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, keep: float) -> None:
    """Exponential moving average of all floating tensors, running statistics included; counters are copied."""
    for mean, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - keep)
        else:
            mean.copy_(new)


def _evaluate(recipe: Recipe, average: nn.Module) -> dict[str, float]:
    network = recipe.deploy(average)
    network.eval()
    with torch.no_grad():
        figures = recipe.evaluate(network)
    network.train()
    return figures


def _one_thread(_: int) -> None:
    """Loader workers compute on one thread each: the training itself has the other cores."""
    torch.set_num_threads(1)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(0)


def _step_seed(seed: int, step: int, rank: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


# Fields that may differ between a run and its resumption: they change where and how fast, not what is computed.
_FREE = {
    "out",
    "device",
    "processes",
    "workers",
    "threads",
    "log_every",
    "save_every",
    "eval_every",
    "resume",
    "tensorboard",
    "data",
}


def _write_config(recipe: Recipe, out: Path) -> None:
    """Saves the resolved recipe; a folder that holds a run of other numbers is refused."""
    config = {"recipe": type(recipe).__name__, **dataclasses.asdict(recipe)}
    config = json.loads(json.dumps(config))
    path = out / "config.json"
    if recipe.resume and (out / "last.ckpt").exists() and path.exists():
        former = json.loads(path.read_text())
        changed = {k: (former.get(k), v) for k, v in config.items() if k not in _FREE and former.get(k) != v}
        if changed:
            raise TrainingError(
                f"{out} holds a checkpoint of a run with other numbers",
                got={k: v[1] for k, v in changed.items()},
                expected={k: v[0] for k, v in changed.items()},
                hint="give another out=, the same numbers, or resume=false to start anew",
            )
    path.write_text(json.dumps(config, indent=2) + "\n")


class _Log:
    """log.csv (long form: step, name, value) and TensorBoard events; rows after the resumed step are dropped."""

    def __init__(self, out: Path, tensorboard: str, step: int) -> None:
        path = out / "log.csv"
        kept: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
        self._file = path.open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerows([["step", "name", "value"], *kept])
        self._board: Any = None
        found = importlib.util.find_spec("tensorboard") is not None
        if tensorboard == "yes" and not found:
            raise MissingExtra("tensorboard", extra="train")
        if tensorboard == "yes" or (tensorboard == "auto" and found):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(out), purge_step=step or None)  # type: ignore[no-untyped-call]

    def add(self, step: int, figures: dict[str, float]) -> None:
        self._rows.writerows([[step, name, f"{value:.6g}"] for name, value in figures.items()])
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
