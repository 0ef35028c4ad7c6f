"""Time and memory of a training step of the class layer: ``python -m benchmarks.classes``.

Each setting runs in a process of its own, so that its peak of memory is its own: 128 embeddings of 512 numbers,
ArcFace, SGD with momentum. The same step is measured beside it as one would write it without this library:
`torch.nn.Linear` on normalised vectors, `cross_entropy`, `torch.optim.SGD` (the peer "plain"). The limit is the larger
of the FLOPs of its three products at the machine's measured rate and of the bytes that it must move at the measured
bandwidth: rows read three times and written once, momentum read and written, the gradient of the rows written and read,
the logits twice.
"""

from __future__ import annotations

import datetime
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.limits import Limits, gemm_runs, triad_run
from benchmarks.rows import Row
from benchmarks.timing import interleave
from benchmarks.worker import last_words, settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench.csv"
BATCH, DIM = 128, 512
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One layer: `classes` of them, the share `sample` of which takes part; "mien" or the "plain" peer."""

    classes: int
    sample: float
    system: str
    threads: int


SETTINGS = (
    (100_000, 1.0, "plain"),
    (100_000, 1.0, "mien"),
    (100_000, 0.1, "mien"),
    (1_000_000, 1.0, "plain"),
    (1_000_000, 1.0, "mien"),
    (1_000_000, 0.1, "mien"),
)


def step_of(setting: Setting) -> Any:
    """A function that does one training step of the layer."""
    import torch
    import torch.nn.functional as F

    from mien.train.classes import PartialFC, RowSGD

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(BATCH, DIM, generator=generator).requires_grad_()
    labels = torch.randint(setting.classes, (BATCH,), generator=generator)
    if setting.system == "mien":
        layer = PartialFC(DIM, classes=setting.classes, sample=setting.sample)
        optimizer: Any = RowSGD(layer.parameters(), lr=0.1, weight_decay=5e-4)

        def loss() -> Any:
            return layer(z, labels)
    else:
        linear = torch.nn.Linear(DIM, setting.classes, bias=False)
        optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

        def loss() -> Any:
            cosines = F.linear(F.normalize(z), F.normalize(linear.weight))
            own = F.one_hot(labels, setting.classes).bool()
            angle = torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7))
            return F.cross_entropy(64 * torch.where(own, torch.cos(angle + 0.5), cosines), labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def inside(setting: Setting, *, repeats: int) -> dict[str, float]:
    """Measured in this process: seconds of a step (median), and the peak of resident memory in MiB."""
    import torch

    torch.set_num_threads(setting.threads)
    step = step_of(setting)
    step()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return {"seconds": statistics.median(taken), "peak_mib": peak / (MIB if sys.platform == "darwin" else 1024)}


def limits_of(threads: int) -> Limits:
    """This machine's rates: the best of some runs of each."""
    import torch

    torch.set_num_threads(threads)
    gemm = gemm_runs()
    triad, moved = triad_run()
    runs = {size: run for size, (run, _) in gemm.items()} | {"triad": triad}
    taken = interleave(runs, repeats=5, least=3, budget_s=3)
    flops = max(work / min(taken[size]) for size, (_, work) in gemm.items())
    return Limits(flops=flops, bandwidth=moved / min(taken["triad"]))


def limit_s(setting: Setting, *, flops: float, bandwidth: float) -> tuple[float, str]:
    """Seconds that a step takes at least, and what sets them."""
    active = setting.sample * setting.classes
    by_flops = 3 * 2 * BATCH * active * DIM / flops
    row_bytes = 4 * active * DIM
    by_bandwidth = (8 * row_bytes + 2 * 4 * BATCH * active) / bandwidth
    return max((by_flops, "FLOPs"), (by_bandwidth, "bandwidth"))


def measure(setting: Setting, *, repeats: int) -> dict[str, float]:
    """`inside`, in a process of its own; a process that dies of memory gives no numbers."""
    job = json.dumps({**setting.__dict__, "repeats": repeats})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.classes", "--inside", job],
        cwd=ROOT, env=settings(setting.threads), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(last_words(done.stderr, done.returncode))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(setting: Setting, found: dict[str, float], *, flops: float, bandwidth: float, repeats: int) -> list[Row]:
    """Two rows of the results: seconds and memory."""
    limit, by = limit_s(setting, flops=flops, bandwidth=bandwidth)
    stage = f"class layer, {setting.classes:,} classes, sample {setting.sample:g}"
    note = "one step of ArcFace, 512 numbers, momentum; weights, momentum and gradient included in the peak"
    common: dict[str, Any] = {
        "threads": setting.threads, "system": setting.system, "stage": stage, "batch": BATCH, "note": note,
    }  # fmt: skip
    return [
        Row(**common, metric="step", value=found["seconds"], unit="s", repeats=repeats, limit=limit, limited_by=by,
            times_from_limit=found["seconds"] / limit),
        Row(**common, metric="peak memory", value=found["peak_mib"], unit="MiB", repeats=1),
    ]  # fmt: skip


def main(
    repeats: Annotated[int, typer.Option(help="Timed steps of each setting.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of a process.")] = 2,
    out: Annotated[Path, typer.Option(help="CSV file that the results are appended to.")] = RESULTS,
    inside_: Annotated[str, typer.Option("--inside", hidden=True)] = "",
) -> None:
    """Measures a training step of the class layer at 100,000 and 1,000,000 classes."""
    if inside_:
        job = json.loads(inside_)
        times = job.pop("repeats")
        print(json.dumps(inside(Setting(**job), repeats=times)))
        return
    limits = limits_of(threads)
    table = Table("layer", "system", "step", "from limit", "peak memory", title="a training step, batch 128")
    made: list[Row] = []
    for classes, sample, system in SETTINGS:
        setting = Setting(classes=classes, sample=sample, system=system, threads=threads)
        name = f"{classes:,} classes, sample {sample:g}"
        try:
            found = measure(setting, repeats=repeats)
        except RuntimeError as error:
            table.add_row(name, system, f"[red]{error}[/]", "", "")
            continue
        pair = rows_of(setting, found, flops=limits.flops, bandwidth=limits.bandwidth, repeats=repeats)
        made += pair
        table.add_row(
            name, system, f"{found['seconds']:.3f} s", f"{pair[0].times_from_limit:.1f}x ({pair[0].limited_by})",
            f"{found['peak_mib']:,.0f} MiB",
        )  # fmt: skip
    machine = rows.describe(date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), scale="classes")
    rows.append(out, machine, made)
    Console().print(table)


if __name__ == "__main__":
    sys.argv[0] = "python -m benchmarks.classes"
    typer.run(main)
