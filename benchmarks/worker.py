"""The process that measures: ``python -m benchmarks.worker`` reads a job as JSON and writes what it finds line by line.

Thread counts are settled when OpenMP, MKL and OpenCV load, and two systems that share a process share its settings; so
each thread count gets a fresh process, bound to as many cores, with its settings made before the first import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.limits import GEMM_SIZES, TRIAD_BYTES, Limits, Work, decode_run, gemm_runs, times, triad_run
from benchmarks.pictures import Album
from benchmarks.rows import Row, cores
from benchmarks.systems import SYSTEMS, NotLoadable, System, load
from benchmarks.timing import Timing, interleave, summarise
from mien.errors import OptionError

Say = Callable[[str], None]
T = TypeVar("T")

TIMED = ("decode", "detect", "landmarks", "crop", "embed", "end to end")
TASKS = ("speed", "accuracy")
NETWORKS = "networks"
STAGES = (*TIMED, NETWORKS)
"""What can be timed; "networks" are the networks alone."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process is to do.

    Parameters
    ----------
    task
        One of `TASKS`.
    threads
        Cores and threads.
    systems, stages
        Which of `SYSTEMS` and of `STAGES`.
    albums
        What to time on.
    batches
        Pictures (crops) in one call.
    singles
        Pictures that are timed one by one.
    repeats, least, budget_s
        As in `timing.interleave`.
    gemm_sizes, triad_bytes
        As in `limits`.
    pictures, pairs_a_fold
        Most pictures of each set, and pairs of each LFW fold, for the accuracy.
    """

    task: str
    threads: int
    systems: tuple[str, ...] = SYSTEMS
    stages: tuple[str, ...] = STAGES
    albums: tuple[Album, ...] = ()
    batches: tuple[int, ...] = (1, 32)
    singles: int = 16
    repeats: int = 7
    least: int = 2
    budget_s: float = 8.0
    gemm_sizes: tuple[int, ...] = GEMM_SIZES
    triad_bytes: int = TRIAD_BYTES
    pictures: int = 1000
    pairs_a_fold: int = 100

    def to_json(self) -> str:
        """The job as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of a line."""
        plain: dict[str, Any] = json.loads(text)
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
        plain["albums"] = tuple(
            Album(**{**album, "paths": tuple(album["paths"]), "batches": tuple(album["batches"])})
            for album in plain["albums"]
        )
        return cls(**plain)


# ---------------------------------------------------------------------------------------------- from outside


def settings(threads: int) -> dict[str, str]:
    """Environment of a process that may use so many threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
    # PYTHONWARNINGS: peers made for older packages warn on every import; their warnings are not our result.
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"}


def run(job: Job, *, say: Say) -> list[Row]:
    """Rows of a job, done in a process of its own.

    A process that dies (out of memory, a peer that crashes in native code) gives a row with the reason besides what it
    had found until then.
    """
    # A file, not a pipe: nobody reads it while the process runs, and a full pipe would stop the process.
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker"], env=settings(job.threads), cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    rows: list[Row] = []
    try:
        process.stdin.write(job.to_json())
        process.stdin.close()
        for line in process.stdout:
            message = json.loads(line)
            if "row" in message:
                rows.append(Row(**message["row"]))
            else:
                say(message["say"])
        if process.wait():
            errors.seek(0)
            note = f"the process ended early: {last_words(errors.read(), process.returncode)}"
            rows.append(
                Row(
                    threads=job.threads,
                    system="machine",
                    stage=job.task,
                    metric="failed",
                    value=None,
                    unit="",
                    note=note,
                )
            )
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        errors.close()
    return rows


def last_words(errors: str, code: int) -> str:
    """Why a process ended, by the last line of what it wrote."""
    return (errors.strip().splitlines() or [f"exit code {code}"])[-1]


# ----------------------------------------------------------------------------------------------- from inside


def main() -> None:
    """Does the job on stdin."""
    job = Job.from_json(sys.stdin.read())
    if job.task not in TASKS:  # before the heavy imports
        raise OptionError("there is no such task", got=job.task, expected=", ".join(TASKS))
    # What systems print must not mix with what is written here; C code prints to the descriptor, so that is moved.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    bind(job.threads)
    for row in do(job, say=lambda text: write({"say": text})):
        write({"row": asdict(row)})


def bind(threads: int) -> None:
    """Keeps this process to so many cores and threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def do(job: Job, *, say: Say, loader: Callable[[str], System] = load) -> Iterator[Row]:
    """The rows of a job. Systems that cannot be loaded are rows too."""
    systems = []
    for name in job.systems:
        say(f"{name}: loading")
        try:
            systems.append(loader(name))
        except NotLoadable as error:
            yield Row(
                threads=job.threads, system=name, stage="loading", metric="not loadable", value=None, unit="",
                note=" ".join(str(error).split()),
            )  # fmt: skip
    yield from (_speed if job.task == "speed" else _accuracy)(job, systems, say)


def _accuracy(job: Job, systems: Sequence[System], say: Say) -> Iterator[Row]:
    from benchmarks.accuracy import detection_rows, verification_rows

    for system in systems:
        if "detect" in job.stages:
            yield from detection_rows(system, pictures=job.pictures, say=say)
        # dlib at twice the size has the same embedder.
        if "embed" in job.stages and "embed" in system.stages and system.name != "dlib x2":
            yield from verification_rows(system, pairs_a_fold=job.pairs_a_fold, say=say)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to time: `run` handles `items` (counted in `unit`), and `work` is what it must do at least."""

    system: System
    pictures: str
    stage: str
    batch: int
    items: dict[str, float]
    run: Callable[[], object]
    work: Work | None
    decodes: str = ""
    """Name of the decoding to add to the work: whose time is known only after it was measured."""
    note: str = ""


def _speed(job: Job, systems: Sequence[System], say: Say) -> Iterator[Row]:
    gemm = gemm_runs(job.gemm_sizes)
    triad, triad_bytes = triad_run(job.triad_bytes)
    machine: dict[str, Callable[[], object]] = {f"gemm {n}": run for n, (run, _) in gemm.items()} | {"triad": triad}
    cells: list[Cell] = []
    decoded: dict[str, int] = {}
    for album in job.albums:
        files = [Path(path).read_bytes() for path in album.paths]
        for batch in job.batches:
            if batch not in album.batches:
                continue
            part = slice(0, min(job.singles, len(files)) if batch == 1 else batch)
            name = f"decode {album.name} {batch}"
            # One picture cannot be decoded by two cores; a batch can.
            machine[name] = decode_run(files[part], threads=1 if batch == 1 else job.threads)
            decoded[name] = len(files[part])
            for system in systems:
                say(f"{system.name}: getting ready for {album.name}, batch {batch}")
                cells += _cells(system, album, files[part], part, batch, job.stages, name)
    if NETWORKS in job.stages:
        for system in systems:
            for network in system.networks():
                for batch in job.batches:
                    cells.append(
                        Cell(
                            system=system, pictures="", stage=network.stage, batch=batch,
                            items={network.unit: batch}, run=network.make(batch), work=network.work(batch),
                            note=network.note,
                        )
                    )  # fmt: skip

    runs: dict[Any, Callable[[], object]] = dict(machine) | {index: cell.run for index, cell in enumerate(cells)}
    seconds = interleave(
        runs, repeats=job.repeats, least=job.least, budget_s=job.budget_s,
        progress=lambda done, total: say(f"{job.threads} threads: run {done} of {total}"),
    )  # fmt: skip
    timings = {name: summarise(taken) for name, taken in seconds.items()}

    rates = {n: flops / timings[f"gemm {n}"].best for n, (_, flops) in gemm.items()}
    best = max(rates, key=lambda n: rates[n])
    limits = Limits(flops=rates[best], bandwidth=triad_bytes / timings["triad"].best)
    yield _machine_row(job, "GEMM, fp32", timings[f"gemm {best}"], gemm[best][1] / 1e9, "GFLOP/s", f"{best} x {best}")
    yield _machine_row(job, "triad", timings["triad"], triad_bytes / 1e9, "GB/s", f"3 x {job.triad_bytes >> 20} MiB")
    for name, count in decoded.items():
        _, pictures, size = name.rsplit(" ", 2)
        row = _machine_row(job, "decode", timings[name], count, "images/s", "cv2.imdecode")
        yield replace(row, pictures=pictures, batch=int(size))
    for index, cell in enumerate(cells):
        yield from _rows_of(cell, timings[index], limits, timings, job.threads)


def _cells(
    system: System, album: Album, files: Sequence[bytes], part: slice, batch: int, stages: Sequence[str], decodes: str
) -> list[Cell]:
    """The stages of a system over the pictures of an album, `batch` in one call."""
    paths = album.paths[part]
    pictures = [system.decode(data) for data in files]
    groups = list(_groups(pictures, batch))
    found = [system.detect(group) for group in groups]
    faces = sum(len(boxes) for group, at in zip(groups, found, strict=True) for boxes in system.boxes(group, at))
    pointed = found
    if "landmarks" in system.stages:
        pointed = [system.points(group, at) for group, at in zip(groups, found, strict=True)]

    def over(step: Callable[[Any, Any], object], finds: Sequence[Any]) -> Callable[[], object]:
        return lambda: [step(group, at) for group, at in zip(groups, finds, strict=True)]

    step: Any = system
    runs: dict[str, Callable[[], object]] = {
        "decode": (lambda: [system.decode(d) for d in files]) if batch == 1 else (lambda: system.decode_many(files)),
        "detect": lambda: [system.detect(group) for group in groups],
        "end to end": lambda: [system.end_to_end(chunk) for chunk in _groups(paths, batch)],
    }
    runs |= {name: over(getattr(step, name), pointed) for name in ("crop", "embed") if name in system.stages}
    if "landmarks" in system.stages:
        runs["landmarks"] = over(system.points, found)
    cells = []
    for stage in TIMED:
        if stage not in stages or stage not in system.stages:
            continue
        by_picture = {"images/s": float(len(files))}
        by_face = {"faces/s": float(faces)}
        items = {"decode": by_picture, "detect": by_picture, "end to end": by_picture | by_face}.get(stage, by_face)
        if stage in ("landmarks", "crop", "embed") and not faces:
            continue  # a rate of no faces says nothing
        parts = [system.work(stage, group) for group in groups]
        known = [part for part in parts if part is not None]
        cells.append(
            Cell(
                system=system, pictures=album.name, stage=stage, batch=batch, items=items, run=runs[stage],
                work=sum(known, Work()) if len(known) == len(parts) else None,
                decodes=decodes if stage in ("decode", "end to end") else "",
                note=f"{faces} faces in {len(files)} pictures" if stage == "end to end" else "",
            )
        )  # fmt: skip
    return cells


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _rows_of(cell: Cell, timing: Timing, limits: Limits, timings: Mapping[Any, Timing], threads: int) -> Iterator[Row]:
    work = cell.work
    if work is not None and cell.decodes:
        work += Work(decode_s=timings[cell.decodes].best)
    for unit, items in cell.items.items():
        value, spread = timing.rate(items)
        limit = None if work is None or work.seconds(limits) <= 0 else items / work.seconds(limits)
        yield Row(
            threads=threads, system=cell.system.name, version=cell.system.version, pictures=cell.pictures,
            stage=cell.stage, batch=cell.batch, metric="rate", value=value, unit=unit, spread=spread,
            repeats=timing.repeats, limit=limit, limited_by="" if work is None else work.limited_by(limits),
            times_from_limit=times(limit, value), note=cell.note or cell.system.note,
        )  # fmt: skip


def _machine_row(job: Job, stage: str, timing: Timing, items: float, unit: str, note: str) -> Row:
    """A denominator: its best run is the limit, since a limit that noise lowered would flatter what is under it."""
    _, spread = timing.rate(items)
    return Row(
        threads=job.threads, system="machine", stage=stage, metric="rate", value=items / timing.best, unit=unit,
        spread=spread, repeats=timing.repeats, note=f"{note}; best run",
    )  # fmt: skip


if __name__ == "__main__":
    main()
