"""``python -m benchmarks``: measures, prints, and appends to results/bench.csv."""

from __future__ import annotations

import datetime
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status

from benchmarks import first, gallery, loading, pictures, report, rows, streaming, worker
from benchmarks.rows import Row
from benchmarks.systems import SYSTEMS
from benchmarks.worker import STAGES, Job
from mien.errors import MienError, OptionError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench.csv"
PAGE = ROOT / "docs" / "benchmarks.md"

WIDTH = 110
"""Characters a line where the tables go to a file."""

ACCURACY, START, LOADING, PAIRS = "accuracy", "start", loading.STAGE, streaming.STAGE
GALLERY = gallery.STAGE


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured: see `Job` for the names."""

    albums: tuple[str, ...]
    job: dict[str, Any]
    starts: int
    loaded: int
    compared: tuple[int, ...]
    searched: tuple[tuple[int, int], ...]


SCALES = {
    "quick": Scale(
        albums=("lfw", "portrait"),
        job={"singles": 8, "repeats": 3, "least": 1, "budget_s": 1.0, "pictures": 40, "pairs_a_fold": 10},
        starts=1,
        loaded=1000,
        compared=(5000,),
        searched=((20_000, 128),),
    ),
    "standard": Scale(
        albums=("lfw", "scenes", "portrait", "photo"),
        job={"singles": 16, "repeats": 7, "least": 2, "budget_s": 8.0, "pictures": 400, "pairs_a_fold": 60},
        starts=3,
        loaded=4000,
        compared=(10_000, 45_000),
        searched=((200_000, 128), (200_000, 512)),
    ),
    "full": Scale(
        albums=("lfw", "scenes", "portrait", "photo"),
        job={"singles": 32, "repeats": 15, "least": 3, "budget_s": 30.0, "pictures": 100_000, "pairs_a_fold": 600},
        starts=7,
        loaded=20_000,
        compared=(10_000, 20_000, 45_000),
        searched=((1_000_000, 128), (1_000_000, 512)),
    ),
}
"""A quick run looks at LFW only (at the portrait, where LFW is not), a full one at every pair of LFW's folds."""


def main(
    quick: Annotated[bool, typer.Option("--quick", help="About two minutes; few pictures, few repeats.")] = False,
    full: Annotated[bool, typer.Option("--full", help="All of LFW and many repeats: an hour.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"A system ({', '.join(SYSTEMS)}), a stage ({', '.join(STAGES)}), accuracy, start, loading, "
            "pairs or gallery; may be repeated."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV file that the results are appended to.")] = RESULTS,
    page: Annotated[bool, typer.Option("--page", help="Measure nothing; make the page from the results.")] = False,
) -> None:
    """Measures mien beside its peers and beside what this machine can do at most."""
    console, errors = Console(), Console(stderr=True)
    if not console.is_terminal:
        console.width = WIDTH
    try:
        if page:
            write_page(out, PAGE)
            return
        if quick and full:
            raise OptionError("--quick and --full exclude each other")
        made = measure("quick" if quick else "full" if full else "standard", chosen(only or []), out, console)
        if out == RESULTS:
            write_page(out, PAGE)
    except MienError as error:
        errors.print(f"[bold red]error[/]: {error}", highlight=False)
        raise typer.Exit(1) from error
    # A peer may be missing; without mien's own figures there is no benchmark.
    if any(row.system in ("mien", "machine") and row.value is None for row in made):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Chosen:
    """What ``--only`` leaves: systems, stages, and the five parts that are neither."""

    systems: tuple[str, ...] = SYSTEMS
    stages: tuple[str, ...] = STAGES
    speed: bool = True
    accuracy: bool = True
    start: bool = True
    loading: bool = True
    pairs: bool = True
    gallery: bool = True


def chosen(only: list[str]) -> Chosen:
    """Names of systems restrict the systems, all others what is done.

    Raises
    ------
    OptionError
        A name that is neither.
    """
    known = (*SYSTEMS, *STAGES, ACCURACY, START, LOADING, PAIRS, GALLERY)
    for name in only:
        if name not in known:
            raise OptionError("there is no such system or stage", got=name, expected=", ".join(known))
    systems = tuple(name for name in SYSTEMS if name in only) or SYSTEMS
    stages = tuple(name for name in STAGES if name in only)
    parts = [part in only for part in (ACCURACY, START, LOADING, PAIRS, GALLERY)]
    if not (stages or any(parts)):
        return Chosen(systems)
    return Chosen(systems, stages or STAGES, bool(stages), *parts)


def measure(scale: str, what: Chosen, out: Path, console: Console) -> list[Row]:
    """One run: measured, shown, and appended to `out`."""
    settings = SCALES[scale]
    machine = rows.describe(date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), scale=scale)
    if out.exists():
        rows.read(out)  # a file that cannot be appended to is told now, not after ten minutes
    made: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mien-bench-") as folder, console.status("starting") as status:
        albums, missing = pictures.albums(Path(folder), count=max(Job.batches), names=settings.albums)
        if scale == "quick":
            albums = albums[:1]
        made += [_not_here(reason) for reason in missing]
        say = _teller(status)
        job = Job(
            task="speed", threads=1, systems=what.systems, stages=what.stages, albums=tuple(albums), **settings.job
        )
        counts = [n for n in (1, 2) if n <= machine.cores]
        if what.speed:
            for threads in counts:
                made += worker.run(replace(job, threads=threads), say=say)
        if what.accuracy and not missing:
            made += worker.run(replace(job, task="accuracy", threads=counts[-1]), say=say)
        if what.start:
            versions = {row.system: row.version for row in made if row.version}
            names = {name: versions.get(name, "") for name in what.systems}
            portrait = str(pictures.write_portrait(Path(folder)))
            made += first.rows(names, portrait, threads=1, repeats=settings.starts, say=say)
        if what.loading:
            for threads in counts:
                made += loading.run(threads=threads, pictures=settings.loaded, repeats=settings.job["repeats"], say=say)
        if what.pairs:
            made += streaming.rows(
                settings.compared, threads=counts[-1], repeats=min(3, settings.job["repeats"]), say=say
            )
        if what.gallery:
            made += gallery.rows_of(gallery.settings_of(scale, settings.searched, counts[-1]), say=say)
    made = list(dict.fromkeys(made))  # what is not loadable is so in every process
    rows.append(out, machine, made)
    report.show(machine, made, console)
    console.print(f"\n{len(made)} rows appended to {out}", style="dim", highlight=False)
    return made


def write_page(results: Path, to: Path) -> None:
    """The page of the newest run in `results`; says so where there is none yet."""
    newest = rows.latest(rows.read(results)) if results.exists() else None
    to.write_text(report.markdown(None, []) if newest is None else report.markdown(*newest), encoding="utf-8")


def _not_here(reason: str) -> Row:
    note = "accuracy is left out, and so are the albums lfw and scenes: " + " ".join(reason.split())
    return Row(system="pictures", stage="accuracy", metric="sets of real faces", value=None, unit="", note=note)


def _teller(status: Status) -> worker.Say:
    return lambda text: status.update(text)


if __name__ == "__main__":
    # Without a name of its own, the usage line would speak of __main__.py.
    sys.argv[0] = "python -m benchmarks"
    typer.run(main)
