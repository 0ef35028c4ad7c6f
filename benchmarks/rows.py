"""The long form in which results are kept: one number a row, with the machine and the run it comes from."""

from __future__ import annotations

import csv
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mien.errors import TableError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and with what a run was made.

    Parameters
    ----------
    date
        ISO date and time of the run's start, UTC; with `commit` it tells runs apart.
    commit
        Short hash of the checkout; a ``+`` says that files had been changed.
    scale
        "quick", "standard" or "full".
    cpu, cores, memory_gib, os, python, torch
        The machine and what ran on it; `cores` are those this process may use.
    """

    date: str
    commit: str
    scale: str
    cpu: str
    cores: int
    memory_gib: float
    os: str
    python: str
    torch: str

    @property
    def text(self) -> str:
        """One line for captions."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gib:g} GiB, {self.os}, Python {self.python}, "
            f"torch {self.torch}, commit {self.commit}, {self.date[:10]}, {self.scale} run"
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number.

    Parameters
    ----------
    threads
        Cores and threads that the process was given; 0 where that has no meaning.
    system, version
        Who did it.
    pictures
        Album it was done on; "" for a network alone or for the machine.
    stage
        One of `STAGES`, or what `metric` is about.
    batch
        Pictures (for a network alone: crops or pictures) handed over in one call; 0 where that has no meaning.
    metric, value, unit
        What was measured; `value` is None where it could not be, and `note` says why.
    spread
        Half the distance between the quartiles of the repeats (for shares: one standard error), in `unit`.
    repeats
        Timed runs (for shares: cases) behind the value.
    limit, limited_by
        The best that the machine allows, in `unit`, and what sets it.
    times_from_limit
        How many times the limit is better than the value; at least about 1.
    note
        What else must be known.
    """

    threads: int = 0
    system: str
    version: str = ""
    pictures: str = ""
    stage: str
    batch: int = 0
    metric: str
    value: float | None
    unit: str
    spread: float | None = None
    repeats: int = 0
    limit: float | None = None
    limited_by: str = ""
    times_from_limit: float | None = None
    note: str = ""


COLUMNS = tuple(f.name for f in fields(Machine)) + tuple(f.name for f in fields(Row))
"""Header of the CSV file."""

Result = tuple[Machine, Row]


def append(path: Path, machine: Machine, rows: Iterable[Row]) -> None:
    """Adds rows to a CSV file, which is made with its header if it is not there.

    Raises
    ------
    TableError
        The file has other columns: an older benchmark wrote it.
    """
    lines = [{k: _text(v) for k, v in (asdict(machine) | asdict(row)).items()} for row in rows]
    fresh = not path.exists() or path.stat().st_size == 0
    if not fresh:
        with path.open(newline="", encoding="utf-8") as file:
            _check_header(path, next(csv.reader(file), []))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(lines)


def read(path: Path) -> list[Result]:
    """All rows of a CSV file with the machine of each; errors as `append`."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        _check_header(path, list(reader.fieldnames or []))
        try:
            return [(_parsed(Machine, line), _parsed(Row, line)) for line in reader]
        except (ValueError, TypeError, AttributeError) as error:
            raise TableError("a line of the results does not parse", got=f"{path}, line {reader.line_num}") from error


def latest(results: Sequence[Result]) -> tuple[Machine, list[Row]] | None:
    """The newest run worth showing, and what only other runs measured, each from the newest that did.

    Quick runs count only where there are no others; a run that timed the whole goes before one of parts (``--only``).
    Rows of other runs say so in their note.
    """
    runs: dict[Machine, list[Row]] = {}
    for machine, row in results:
        runs.setdefault(machine, []).append(row)
    if not runs:
        return None
    candidates = [machine for machine in runs if machine.scale != "quick"] or list(runs)
    candidates.sort(key=lambda machine: machine.date, reverse=True)
    whole = [machine for machine in candidates if any(row.stage == "end to end" for row in runs[machine])]
    newest = (whole or candidates)[0]
    shown = list(runs[newest])
    known = {(row.stage, row.metric) for row in shown}
    for machine in candidates:
        more = [row for row in runs[machine] if row.value is not None and (row.stage, row.metric) not in known]
        known |= {(row.stage, row.metric) for row in more}
        run = f"run of {machine.date[:10]}, commit {machine.commit}"
        shown += [replace(row, note=f"{row.note}; {run}" if row.note else run) for row in more]
    measured = {row.metric for row in shown if row.value is not None}
    return newest, [row for row in shown if row.metric != "failed" or row.stage not in measured]


def _check_header(path: Path, header: Sequence[str]) -> None:
    if tuple(header) != COLUMNS:
        raise TableError(
            "the results have other columns than this benchmark writes",
            got=f"{path}: {', '.join(header)}",
            expected=", ".join(COLUMNS),
            hint="move the file away, or write to another one with --out",
        )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)


def _parsed(kind: Any, line: dict[str, str]) -> Any:
    read_as: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "str": str,
        "float | None": lambda text: float(text) if text else None,
    }
    return kind(**{f.name: read_as[str(f.type)](line[f.name]) for f in fields(kind)})


# ---------------------------------------------------------------------------------------------- the machine


def describe(*, date: str, scale: str) -> Machine:
    """This machine, this checkout and this Python."""
    return Machine(
        date=date,
        commit=_commit(),
        scale=scale,
        cpu=_cpu(),
        cores=len(cores()),
        memory_gib=_memory_gib(),
        os=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=package_version("torch"),
    )


def cores() -> list[int]:
    """Numbers of the cores that this process may use; containers allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def package_version(name: str) -> str:
    """Installed version of a distribution, "" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    root = Path(__file__).resolve().parents[1]
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""  # a source archive has no history
    return found.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Hardware")):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return float("nan")  # Windows has no sysconf
