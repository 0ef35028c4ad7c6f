"""Search among millions: ``python -m benchmarks.gallery`` measures mien's index beside its peers and the limit.

Each gallery is measured in a process of its own, on simulated people (`benchmarks.simulated`) with one picture each.
Mated probes are another picture of somebody enrolled, non-mated ones of strangers. What exact search over float32
finds is the truth.

    mien                 as it chooses: coarse codes, then all bytes of some thousand rows
    mien, all bytes      every row by all bytes of its code
    faiss flat           IndexFlatIP, float32
    usearch exact        its brute force, float32
    NumPy                a matrix product and argpartition, float32
    usearch HNSW         a graph over the first of the people only, since building it takes so long

    searches             queries a second: the median of calls, each with other queries
    limit                bandwidth of a plain sum, measured in the same process, / bytes that must be read
    recall               share of mated probes whose mate comes first, where exact search puts it first
    FPIR difference      share of non-mated probes above the threshold of exact search's FPIR of 1 %, less that 1 %
    score error          the most that a score differs from that of float32
    enrolled, searched   from `add` until another object, opened to read only, has found the face
    opening              `open` and the first search, files in the system's cache
    disk, memory         bytes a face: of the files; and besides them, of what the process holds

Where there are too many for float32 in memory, mien alone is measured, its recall against its own scan of all bytes.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import report, rows
from benchmarks.rows import Row, package_version
from benchmarks.timing import interleave, summarise
from benchmarks.worker import bind, last_words, settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "bench.csv"
STAGE = "gallery"
BATCHES = (1, 64)
FPIR = 0.01
K = 10


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One gallery.

    Parameters
    ----------
    people, dim
        How many, and numbers of a vector.
    floats
        Whether float32 vectors are kept, and peers measured on them.
    mated, strangers
        Probes of each kind.
    graph
        People of the HNSW graph; 0 for none.
    repeats, budget_s
        Timed calls of each system and batch, and seconds that they may take.
    threads
        Of every system.
    """

    people: int
    dim: int
    floats: bool = True
    mated: int = 2000
    strangers: int = 4000
    graph: int = 100_000
    repeats: int = 41
    budget_s: float = 12.0
    threads: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", min(self.graph, self.people))

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"{self.people:,} x {self.dim}"


def settings_of(scale: str, sizes: Sequence[tuple[int, int]], threads: int) -> list[Setting]:
    """Galleries of so many people and numbers each; those of a quick run take seconds."""
    fast: dict[str, Any] = {"mated": 200, "strangers": 200, "graph": 2000, "repeats": 7, "budget_s": 0.5}
    return [
        Setting(people=people, dim=dim, threads=threads, **(fast if scale == "quick" else {})) for people, dim in sizes
    ]


def rows_of(settings_: Sequence[Setting], *, say: Callable[[str], None]) -> list[Row]:
    """What each gallery gives; one that dies gives a row with the reason."""
    made = []
    for setting in settings_:
        say(f"a gallery of {setting.name}")
        words = [sys.executable, "-m", "benchmarks.gallery", "--inside", json.dumps(asdict(setting))]
        done = subprocess.run(
            words, cwd=ROOT, env=settings(setting.threads), capture_output=True, text=True, check=False
        )
        if done.returncode:
            made.append(
                Row(
                    system="mien", stage=STAGE, pictures=setting.name, metric="failed", value=None, unit="",
                    note=last_words(done.stderr, done.returncode),
                )
            )  # fmt: skip
            continue
        made += [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    return made


# ------------------------------------------------------------------------------------------------ from inside


def bandwidth(threads: int, size: int = 512 << 20) -> Callable[[], float]:
    """A function that tells bytes a second of a plain sum: the best of some."""
    import torch

    torch.set_num_threads(threads)
    array = torch.ones(size // 8, dtype=torch.int64)

    def run() -> float:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            array.sum()
            taken.append(time.perf_counter() - began)
        return size / min(taken)

    return run


def inside(setting: Setting, folder: Path) -> list[Row]:
    """The rows of one gallery, measured in this process."""
    import numpy as np

    from benchmarks.simulated import BLOCK, People
    from mien.gallery.index import CANDIDATES, PORTION, Index

    bind(setting.threads)
    people = People.load(setting.dim)
    common: dict[str, Any] = {"threads": setting.threads, "stage": STAGE, "pictures": setting.name}
    made: list[Row] = []

    def tell(metric: str, value: float, unit: str, system: str = "mien", **more: Any) -> None:
        made.append(Row(**common, metric=metric, value=value, unit=unit, system=system, **more))

    read = bandwidth(setting.threads)
    rates = [read()]
    vectors = np.empty((setting.people, setting.dim), np.float32) if setting.floats else None
    drawing = 0.0

    def batches() -> Any:
        nonlocal drawing
        source = people.batches(setting.people)
        while True:
            began = time.perf_counter()
            first, drawn = next(source, (0, None))
            drawing += time.perf_counter() - began
            if drawn is None:
                return
            if vectors is not None:
                vectors[first : first + len(drawn)] = drawn
            yield np.arange(first, first + len(drawn)), drawn

    began = time.perf_counter()
    index = Index.build(folder, batches(), dim=setting.dim, generation=1, threads=setting.threads)
    tell("building", setting.people / (time.perf_counter() - began - drawing), "faces/s")
    del index
    began = time.perf_counter()
    index = Index.open(folder, dim=setting.dim, threads=setting.threads)
    index.search(next(people.batches(1))[1], K)
    tell("opening", time.perf_counter() - began, "s")
    tell("disk", index.disk_bytes / setting.people, "B/face")
    tell("memory", index.memory_bytes / setting.people, "B/face")

    # Mated probes are of people at the beginning and at the end, so that few need be drawn again.
    rng = np.random.default_rng(7)
    last = (setting.people - 1) // BLOCK * BLOCK
    pool = np.unique(np.r_[np.arange(min(BLOCK, setting.people)), np.arange(last, setting.people)])
    who = rng.choice(pool, min(setting.mated, len(pool)), replace=False)
    mated, strangers = people.probes(who), next(people.batches(setting.strangers, seed=1))[1]
    probes = np.concatenate([mated, strangers])

    systems: dict[str, Callable[[Any], Any]] = {"mien": lambda q: index.search(q, K)}
    systems["mien, all bytes"] = lambda q: index.search(q, K, method="exact")
    if vectors is not None:
        peers(systems, vectors, setting)
    # In parts that are small enough for two stages.
    found = {name: in_parts(systems[name], probes, size) for name, size in (("mien", 16), ("mien, all bytes", 256))}
    truth = found["mien, all bytes"] if vectors is None else exact(vectors, probes)
    counts = {"repeats": len(who)}
    for name in found if vectors is not None else ("mien",):
        quality(tell, name, found[name], truth, who, counts)
    if vectors is not None:
        near, ids = found["mien"][0], found["mien"][1]
        error = near - np.einsum("qd,qkd->qk", probes, vectors[np.maximum(ids, 0)])
        tell("score error", float(np.abs(error[ids >= 0]).max()), "cosine", repeats=int((ids >= 0).sum()))
        tell("score error, rms", float(np.sqrt((error[ids >= 0] ** 2).mean())), "cosine")
    first = truth[1][: len(who), 0] == who
    tell("identified by exact search", 100 * float(first.mean()), "%", system="machine", repeats=len(who))
    if "usearch HNSW" in systems:
        some = who[who < setting.graph]
        small = exact(vectors[: setting.graph], people.probes(some))
        quality(tell, "usearch HNSW", in_parts(systems["usearch HNSW"], people.probes(some), 256), small, some,
                {"repeats": len(some), "note": f"a graph of {setting.graph:,} people"})  # fmt: skip

    held = anonymous()
    taken = timed(systems, probes, setting)
    tell("memory growth", (anonymous() - held) / 1e6, "MB", note="while all was timed, peers included")
    rates.append(read())
    rate = max(rates)
    width = 64 * -(-setting.dim // 64)
    at_most = max(CANDIDATES, setting.people // PORTION)
    moved = {
        "mien": setting.people * width / 8 + at_most * width,
        "mien, all bytes": setting.people * width,
        "usearch HNSW": None,
    }
    packages = {"mien": "mien", "faiss": "faiss-cpu", "usearch": "usearch", "NumPy": "numpy"}
    for (name, batch), seconds in taken.items():
        timing = summarise(seconds)
        value, spread = timing.rate(batch)
        bytes_ = moved.get(name, 4.0 * setting.people * setting.dim)
        limit = rate / bytes_ if bytes_ and batch == 1 else None
        made.append(
            Row(
                **common, system=name, version=package_version(packages[name.split()[0].rstrip(",")]), batch=batch,
                metric="searches", value=value, unit="queries/s", spread=spread, repeats=timing.repeats, limit=limit,
                limited_by="memory" if limit else "", times_from_limit=limit / value if limit else None,
                note=f"a graph of {setting.graph:,} people" if name == "usearch HNSW" else "",
            )
        )  # fmt: skip
    tell("reading", rate / 1e9, "GB/s", system="machine", note="a sum over 512 MiB; best run")

    reader = Index.open(folder, dim=setting.dim, read_only=True, threads=setting.threads)
    reader.search(strangers[:1], 1)
    enrolled = []
    for number, vector in enumerate(strangers[:30]):
        began = time.perf_counter()
        index.add(np.array([setting.people + number]), vector[None], generation=2 + number)
        seen = reader.search(vector[None], 1)[1][0, 0]
        enrolled.append(1000 * (time.perf_counter() - began))
        if seen != setting.people + number:
            raise AssertionError(f"enrolled {setting.people + number}, found {seen}")
    tell(
        "enrolled, searched",
        statistics.median(enrolled),
        "ms",
        repeats=len(enrolled),
        note=f"at most {max(enrolled):.0f} ms",
    )
    return made


def peers(systems: dict[str, Callable[[Any], Any]], vectors: Any, setting: Setting) -> None:
    """Adds those that are installed; their vectors stay where they are."""
    import numpy as np

    def product(queries: Any) -> Any:
        scores = queries @ vectors.T
        top = np.argpartition(scores, -K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1)
        top = np.take_along_axis(top, order, 1)
        return np.take_along_axis(scores, top, 1), top

    systems["NumPy"] = product
    try:
        import faiss
    except ImportError:
        pass
    else:
        faiss.omp_set_num_threads(setting.threads)
        flat = faiss.IndexFlatIP(setting.dim)
        address = faiss.cast_integer_to_void_ptr(vectors.ctypes.data)
        flat.codes = faiss.MaybeOwnedVectorUInt8.create_view(address, vectors.nbytes, flat.codes.owner)
        flat.ntotal = len(vectors)
        systems["faiss flat"] = lambda q: flat.search(q, K)
    try:
        from usearch.index import Index as Graph
        from usearch.index import MetricKind, search
    except ImportError:
        return

    def brute(queries: Any) -> Any:
        matches = search(vectors, queries, K, MetricKind.IP, exact=True, threads=setting.threads)
        return 1 - np.atleast_2d(matches.distances), np.atleast_2d(matches.keys).astype(np.int64)

    systems["usearch exact"] = brute
    if setting.graph:
        graph = Graph(ndim=setting.dim, metric="ip")
        count = setting.graph
        graph.add(np.arange(count), vectors[:count], threads=setting.threads)

        def walked(queries: Any) -> Any:
            matches = graph.search(queries, K, threads=setting.threads)
            return 1 - np.atleast_2d(matches.distances), np.atleast_2d(matches.keys).astype(np.int64)

        systems["usearch HNSW"] = walked


def exact(vectors: Any, probes: Any) -> tuple[Any, Any]:
    """Best score and row of each probe over float32, (q, 1) each, block by block."""
    import torch

    left = torch.from_numpy(probes)
    best = torch.full((len(probes),), -2.0)
    rows_ = torch.zeros(len(probes), dtype=torch.int64)
    for start in range(0, len(vectors), 8192):
        scores, at = (left @ torch.from_numpy(vectors[start : start + 8192]).T).max(1)
        better = scores > best
        best[better], rows_[better] = scores[better], at[better] + start
    return best[:, None].numpy(), rows_[:, None].numpy()


def in_parts(search: Callable[[Any], Any], probes: Any, size: int) -> tuple[Any, Any]:
    """Scores and ids of all probes, asked for in parts."""
    import numpy as np

    told = [search(probes[start : start + size]) for start in range(0, len(probes), size)]
    return np.concatenate([scores for scores, _ in told]), np.concatenate([ids for _, ids in told])


def quality(
    tell: Callable[..., None], name: str, found: tuple[Any, Any], truth: tuple[Any, Any], who: Any, more: dict[str, Any]
) -> None:
    """Recall of mated probes and, where there are strangers, the difference of their FPIR."""
    import numpy as np

    n = len(who)
    right = truth[1][:n, 0] == who
    if right.any():
        tell("recall", float((found[1][:n, 0] == who)[right].mean()), "of 1", system=name, **more)
    strangers = truth[0][n:, 0]
    if len(strangers):
        threshold = np.quantile(strangers, 1 - FPIR)
        share = [float((scores >= threshold).mean()) for scores in (found[0][n:, 0], strangers)]
        tell("FPIR difference", share[0] - share[1], "of 1", system=name, repeats=len(strangers))
        same = found[1][n:, 0] == truth[1][n:, 0]
        tell("nearest stranger", float(same.mean()), "of 1", system=name, repeats=len(strangers))


def timed(
    systems: dict[str, Callable[[Any], Any]], probes: Any, setting: Setting
) -> dict[tuple[str, int], list[float]]:
    """Seconds of the calls of every system and batch, in turns; each call has other queries than the last."""
    import numpy as np

    rng = np.random.default_rng(3)

    def run_of(search: Callable[[Any], Any], batch: int) -> Callable[[], object]:
        return lambda: search(np.ascontiguousarray(probes[rng.integers(0, len(probes), batch)]))

    runs = {(name, batch): run_of(search, batch) for batch in BATCHES for name, search in systems.items()}
    return interleave(runs, repeats=setting.repeats, least=3, budget_s=setting.budget_s)


def anonymous() -> int:
    """Bytes that this process holds and that are in no file; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main(
    people: Annotated[list[int] | None, typer.Option(help="People of a gallery; may be repeated.")] = None,
    dim: Annotated[list[int] | None, typer.Option(help="Numbers of a vector; may be repeated.")] = None,
    simulate: Annotated[int, typer.Option(help="People of one more gallery, of 512 numbers, without peers.")] = 0,
    graph: Annotated[int, typer.Option(help="People of the HNSW graph; 0 for none.")] = 100_000,
    threads: Annotated[int, typer.Option(help="Threads of every system.")] = 2,
    quick_: Annotated[bool, typer.Option("--quick", help="One small gallery, in seconds.")] = False,
    out: Annotated[Path, typer.Option(help="CSV file that the results are appended to.")] = RESULTS,
    inside_: Annotated[str, typer.Option("--inside", hidden=True)] = "",
) -> None:
    """Measures search among people: by default 1,000,000 of 128 and of 512 numbers."""
    if inside_:
        with tempfile.TemporaryDirectory(prefix="mien-bench-gallery-") as folder:
            made = inside(Setting(**json.loads(inside_)), Path(folder) / "people.index")
        print(json.dumps([asdict(row) for row in made]))
        return
    asked = (
        settings_of("quick", [(20_000, 128)], threads)
        if quick_
        else [
            Setting(people=n, dim=d, threads=threads, graph=graph)
            for n in people or [1_000_000]
            for d in dim or [128, 512]
        ]
    )
    if simulate:
        asked.append(
            Setting(people=simulate, dim=512, floats=False, mated=300, strangers=300, graph=0, threads=threads)
        )
    if out.exists():
        rows.read(out)  # a file that cannot be appended to is told now
    console = Console()
    if not console.is_terminal:
        console.width = 130
    machine = rows.describe(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), scale="quick" if quick_ else STAGE
    )
    with console.status("starting") as status:
        found = rows_of(asked, say=status.update)
    rows.append(out, machine, found)
    report.show(machine, found, console)
    if any(row.metric == "failed" for row in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.argv[0] = "python -m benchmarks.gallery"
    typer.run(main)
