"""All pairs of a set: counted as they come (`mien.metrics.compare_all`), beside the matrix of all scores, sorted.

    rate          pairs a second, from embeddings to a ROC curve; by processor time, what it would be on a machine that
                  does nothing else
    memory        the most that the process held beyond embeddings and libraries
    limit         pairs a second if nothing but the product were done: GEMM rate / (2 d), the rate measured in the
                  same process before and after, on blocks of the shape that is counted
    histograms    ways to count a block of scores into bins, one after the other, nanoseconds a score

Every measurement has a process of its own, since the most that a process held cannot be set back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.limits import times
from benchmarks.rows import Row
from benchmarks.worker import bind, settings

WIDTH = 128
"""Numbers of an embedding."""

PICTURES = 9
"""Pictures of a person, on average."""

STAGE = "pairs"
"""What this is called in the results and on the command line."""

WAYS = ("streamed", "score matrix")
MATRIX_AT_MOST = 20_000
"""Rows up to which the matrix of all scores is tried; what it needs beyond that, few machines have."""

LEAST_S = 0.4
"""How long the product is timed."""


def rows(sizes: Sequence[int], *, threads: int, repeats: int, say: Callable[[str], None]) -> list[Row]:
    """Rate, memory and distance from the limit of both ways at each number of embeddings, and the histograms."""
    made: list[Row] = []
    for size in sizes:
        for way in WAYS:
            if way == "score matrix" and size > MATRIX_AT_MOST:
                continue
            say(f"all pairs of {size:,}, {way}")
            told = _apart("measure", size, way, threads, repeats)
            system = "mien" if way == "streamed" else way
            common: dict[str, Any] = {
                "threads": threads, "system": system, "stage": STAGE, "repeats": repeats,
                "pictures": f"{size:,} x {WIDTH}",
            }  # fmt: skip
            limit = told["flops"] / (2 * WIDTH)
            for metric, seconds in (
                ("rate", told["seconds"]),
                ("rate by processor time", told["processor_s"] / threads),
            ):
                made.append(
                    Row(
                        **common, metric=metric, value=told["pairs"] / seconds, unit="pairs/s", limit=limit,
                        limited_by="FLOPs", times_from_limit=times(limit, told["pairs"] / seconds),
                        note=f"{told['pairs']:,} pairs in {seconds:.2f} s",
                    )
                )  # fmt: skip
            made.append(Row(**common, metric="memory", value=told["bytes"] / 1e6, unit="MB"))
    say("ways to count")
    for name, nanoseconds in _apart("histograms", 0, "", threads, repeats).items():
        made.append(
            Row(
                threads=1, system=name, stage="histogram", metric="time", value=nanoseconds, unit="ns/score",
                repeats=repeats,
            )
        )  # fmt: skip
    return made


def _apart(task: str, size: int, way: str, threads: int, repeats: int) -> dict[str, Any]:
    """What a fresh process tells."""
    words = [sys.executable, "-m", "benchmarks.streaming", task, str(size), way, str(threads), str(repeats)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(words, cwd=root, env=settings(threads), capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


# ------------------------------------------------------------------------------------------------ from inside


def made_up(size: int, seed: int = 0) -> tuple[Any, Any]:
    """Embeddings (size, WIDTH) of people with `PICTURES` pictures each on average, and who each is."""
    import numpy as np

    rng = np.random.default_rng(seed)
    who = rng.integers(0, max(2, size // PICTURES), size)
    centres = rng.standard_normal((who.max() + 1, WIDTH), np.float32)
    return centres[who] + rng.standard_normal((size, WIDTH), np.float32), who


def streamed(embeddings: Any, who: Any, threads: int) -> tuple[float, int]:
    """FNMR at an FMR of 1e-4, all pairs counted as they come, and the number of pairs."""
    from mien.metrics import compare_all

    told = compare_all(embeddings, who, threads=threads)
    return told.at_fmr(1e-4).fnmr, told.pairs


def score_matrix(embeddings: Any, who: Any, threads: int) -> tuple[float, int]:
    """The same by all scores at once: one product, its upper half, and a sorted ROC curve."""
    import numpy as np
    import torch

    from mien import metrics
    from mien.metrics.streaming import unit_rows

    unit = torch.from_numpy(unit_rows("embeddings", embeddings))
    first, second = np.triu_indices(len(unit), 1)
    scores = (unit @ unit.T).numpy()[first, second]
    curve = metrics.roc(scores, who[first] == who[second])
    return float(curve.fnmr[np.searchsorted(curve.fmr, 1e-4, "right") - 1]), len(scores)


def measure(size: int, way: str, threads: int, repeats: int) -> dict[str, float]:
    """Best seconds of the repeats, the most memory beyond that at the start, and the rate of the product alone."""
    bind(threads)
    embeddings, who = made_up(size)
    run = {"streamed": streamed, "score matrix": score_matrix}[way]
    run(embeddings[:600], who[:600], threads)  # loads what loads late
    rates = [product_rate(threads)]
    before = _held()
    taken, used = [], []
    pairs = 0
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        _, pairs = run(embeddings, who, threads)
        taken.append(time.perf_counter() - began)
        used.append(time.process_time() - spent)
    most = _most()
    rates.append(product_rate(threads))
    return {
        "seconds": min(taken),
        "processor_s": min(used),
        "pairs": pairs,
        "bytes": max(most - before, 0),
        "flops": max(rates),
    }


def product_rate(threads: int) -> float:
    """FLOP/s of the product of a block of rows, of the shape that is counted, on `threads` threads at a time."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from mien.metrics.streaming import BLOCK

    height, width = BLOCK["cpu"]

    def run(_: int) -> float:
        torch.set_num_threads(1)
        left, right, into = torch.rand(height, WIDTH), torch.rand(width, WIDTH).T, torch.empty(height, width)
        best, until = 0.0, time.perf_counter() + LEAST_S
        while time.perf_counter() < until:
            began = time.perf_counter()
            for _ in range(8):
                torch.mm(left, right, out=into)
            best = max(best, 8 * 2.0 * height * width * WIDTH / (time.perf_counter() - began))
        return best

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))


def histograms(repeats: int) -> dict[str, float]:
    """Nanoseconds a score of ways to count a block into the same bins, the conversion that each needs included."""
    import cv2
    import numpy as np
    import torch

    from mien.metrics.streaming import BINS, BLOCK, STEPS, ZERO, unit_rows

    bind(1)
    height, width = BLOCK["cpu"]
    unit = torch.from_numpy(unit_rows("embeddings", made_up(height + width)[0]))
    cosine = unit[:height] @ unit[height:].T
    scaled = cosine * STEPS + ZERO
    whole, wide = torch.empty(height, width, dtype=torch.int32), torch.empty(height, width, dtype=torch.int64)
    # 384 + cosine has the bin in its last 16 bits: two bytes, which OpenCV counts as two channels of a picture.
    biased = (cosine + 384).numpy()
    channels = biased.view(np.uint8).reshape(height, width, 4)
    plain, flat = cosine.numpy(), cosine.ravel()
    ends = (-ZERO / STEPS, (BINS - ZERO) / STEPS)
    ways: dict[str, Callable[[], object]] = {
        "torch.bincount, int32": lambda: torch.bincount(whole.copy_(scaled).view(-1), minlength=BINS),
        "torch.bincount, int64": lambda: torch.bincount(wide.copy_(scaled).view(-1), minlength=BINS),
        "numpy.bincount, int64": lambda: np.bincount(wide.copy_(scaled).view(-1).numpy(), minlength=BINS),
        "cv2.calcHist, two bytes": lambda: cv2.calcHist([channels], [1, 0], None, [256, 256], [0, 256, 0, 256]),
        "cv2.calcHist, float32": lambda: cv2.calcHist([plain], [0], None, [BINS], list(ends)),
        "torch.histc": lambda: torch.histc(flat, BINS, *ends),
        "numpy.histogram": lambda: np.histogram(plain, BINS, ends),
        "numpy.sort": lambda: np.sort(plain, axis=None),
    }
    told = {}
    for name, run in ways.items():
        taken = []
        for _ in range(max(5, 3 * repeats)):
            began = time.perf_counter()
            run()
            taken.append(time.perf_counter() - began)
        told[name] = 1e9 * min(taken) / (height * width)
    return told


def _held() -> int:
    """Bytes that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    return _most()


def _most() -> int:
    """The most bytes that this process has held; Linux tells it in KiB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """One measurement, as a line of JSON."""
    task, size, way, threads, repeats = sys.argv[1:]
    told = histograms(int(repeats)) if task == "histograms" else measure(int(size), way, int(threads), int(repeats))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
