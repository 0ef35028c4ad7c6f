"""What a claim is, how it is run, and how its verdict is computed.

A paper's claim module states its experiments; everything else is here, once:

    def selection(setting: Setting) -> Measured:
        ...                                            # baseline and idea: same data, same budget, same seed
        return Measured(baseline=val_random, idea=val_semi_hard, details={"auc": auc})

    CLAIMS = (
        Claim(
            slug="facenet", name="semi-hard-negatives", metric="VAL at FAR 1e-3", better="higher", margin=0.10,
            says="At equal steps, semi-hard negatives give a better embedding than random ones.",
            data=("heads", "celeba10k"), run=selection,
        ),
    )

`run` computes one seed at a time and keeps each, so that an interrupted run goes on where it stopped; `judge` computes
the verdict from the seeds' paired differences; `mien.papers.results` holds the table of what came of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import math
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from mien._version import __version__
from mien.errors import OptionError, ShapeError, ValueRangeError
from mien.papers import paper
from mien.papers.results import Row, Scale, Verdict, checkout
from mien.weights import store
from mien.weights.declare import BUNDLED

Better = Literal["higher", "lower"]

CONFIDENCE = 0.95
"""Of the one-sided bounds from which a verdict is computed."""

Progress = Callable[[float, float | None, str], None]
"""Called as ``progress(done, total, what)``."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one run of a claim is given: it must depend on nothing else.

    Parameters
    ----------
    seed
        Of everything that is drawn; baseline and idea use the same.
    scale
        "small": minutes on two cores. "paper": the recipe in the paper's own size.
    data
        Name of the data, one of those the claim declares.
    data_root
        Folder with one sub-folder a set, where the data is not made by mien itself.
    device
        "cpu", "cuda", "cuda:1" or "mps"; resolved, never "auto".
    out
        Folder for whatever the run writes; it is this seed's alone.
    progress
        Called as ``progress(done, total, what)``; use `told`.
    steps
        Stop each training after so many steps (for tests of the paper's scale); None: none.
    """

    seed: int
    scale: Scale = "small"
    data: str = "heads"
    data_root: Path | None = None
    device: str = "cpu"
    out: Path = field(default_factory=Path)
    progress: Progress | None = None
    steps: int | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What figures depend on: claims that look at the same networks keep theirs under it."""
        return self.seed, self.scale, self.data, self.data_root, self.device, self.steps

    @property
    def folder(self) -> Path | None:
        """Where the set `data` lies, for the readers of `mien.data.sets`; None: where these look by themselves."""
        return None if self.data_root is None else self.data_root / self.data

    def told(self, done: float, total: float | None = None, what: str = "") -> None:
        """Reports progress, if anybody listens."""
        if self.progress is not None:
            self.progress(done, total, what)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one seed gave.

    Parameters
    ----------
    baseline, idea
        The claim's metric, without and with the paper's idea.
    details
        Further numbers worth keeping; they have no say in the verdict.

    Raises
    ------
    ValueRangeError
        A number is NaN or infinite.
    """

    baseline: float
    idea: float
    details: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", float(self.baseline))
        object.__setattr__(self, "idea", float(self.idea))
        object.__setattr__(self, "details", MappingProxyType({str(k): float(v) for k, v in self.details.items()}))
        for name, value in {"baseline": self.baseline, "idea": self.idea, **self.details}.items():
            if not math.isfinite(value):
                raise ValueRangeError(
                    "a measured number is not finite",
                    got=f"{name} = {value}",
                    hint="look for a division by nothing, or for a training that diverged",
                )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One central statement of a paper, as an experiment.

    Parameters
    ----------
    slug
        The paper's.
    name
        Short, in kebab case: "semi-hard-negatives".
    says
        The statement, in one sentence.
    metric
        What is measured, in the field's term: "VAL at FAR 1e-3", "NME, inter-ocular, %".
    better
        Whether a "higher" or a "lower" value of the metric is the better one.
    margin
        How much better than the baseline the idea must be for the statement to hold at this scale, in units of the
        metric and counted in its better direction. Written down before the first run; negative for "no worse than".
    data
        Names of the data it can run on; the first is the default, but "heads" wherever it is among them.
    run
        The experiment for one seed.
    seeds
        At least three.
    paper_data
        Names of the data that the paper's own scale runs on, the first being the default. Default: as `data`.
    """

    slug: str
    name: str
    says: str
    metric: str
    better: Better
    margin: float
    data: tuple[str, ...]
    run: Callable[[Setting], Measured]
    seeds: tuple[int, ...] = (0, 1, 2)
    paper_data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def refuse(what: str, got: object, expected: object) -> None:
            raise OptionError(f"The claim {self.slug}/{self.name} is wrong: {what}", got=got, expected=expected)

        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", self.slug):
            refuse("the slug", self.slug, "that of the paper, with underscores")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            refuse("the name", self.name, "lower-case words joined by hyphens")
        if not self.says.strip().endswith("."):
            refuse("what it says", self.says, "one sentence")
        if not self.metric.strip():
            refuse("the metric", self.metric, "a term of the field")
        if self.better not in get_args(Better):
            refuse("the better direction", self.better, get_args(Better))
        if not math.isfinite(self.margin):
            refuse("the margin", self.margin, "a finite difference in the metric")
        if not self.data or len(set(self.data)) != len(self.data):
            refuse("the data", self.data, "at least one name, each once")
        if len(self.seeds) < 3 or len(set(self.seeds)) != len(self.seeds):
            refuse("the seeds", self.seeds, "at least three, all different")

    def data_of(self, scale: Scale) -> tuple[str, ...]:
        """Names of the data it can run on at that scale, the default first."""
        names = self.paper_data if scale == "paper" and self.paper_data else self.data
        return tuple(sorted(names, key=lambda name: name != "heads"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the code."""
        return {name: value for name, value in self.__dict__.items() if name != "run"}


# --- The verdict -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict and the numbers it follows from.

    Parameters
    ----------
    baseline, idea
        Means over the seeds.
    difference
        Mean over the seeds of idea minus baseline, in the metric's better direction.
    spread
        Standard deviation of that difference over the seeds (with n - 1).
    low, high
        One-sided 95 % bounds of the mean difference.
    verdict
        "holds", "does not hold" or "inconclusive".
    """

    baseline: float
    idea: float
    difference: float
    spread: float
    low: float
    high: float
    verdict: Verdict


def judge(baseline: Sequence[float], idea: Sequence[float], *, better: Better, margin: float) -> Judgement:
    """The verdict on paired runs: the i-th value of `baseline` and of `idea` come of the same seed.

    Let d be the mean of the paired differences in the better direction, s their standard deviation with n - 1, and
    t the 95 % quantile of Student's distribution with n - 1 degrees of freedom. The mean difference is bounded by
    ``d - t s / sqrt(n)`` from below and ``d + t s / sqrt(n)`` from above, with 95 % confidence each. The claim
    holds if the lower bound is above `margin`, it does not hold if the upper bound is below, and it is inconclusive
    otherwise: more seeds, or a larger run, would be needed to tell.

    Parameters
    ----------
    baseline, idea
        One value a seed, at least two.
    better
        Whether a "higher" or a "lower" value is the better one.
    margin
        See `Claim`.

    Raises
    ------
    ShapeError
        The two differ in length, or hold fewer than two values.
    ValueRangeError
        A value is NaN or infinite.
    OptionError
        No such direction.
    """
    from scipy.stats import t

    if better not in get_args(Better):
        raise OptionError.unknown("unknown direction", better, get_args(Better))
    if len(baseline) != len(idea) or len(baseline) < 2:
        raise ShapeError("a verdict needs pairs", got=(len(baseline), len(idea)), expected="two or more of each")
    if not all(map(math.isfinite, [*baseline, *idea, margin])):
        raise ValueRangeError("a verdict needs finite numbers", got=[*baseline, *idea, margin])
    n, sign = len(baseline), 1.0 if better == "higher" else -1.0
    differences = [sign * (with_idea - without) for without, with_idea in zip(baseline, idea, strict=True)]
    mean = math.fsum(differences) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1))
    reach = float(t.ppf(CONFIDENCE, n - 1)) * spread / math.sqrt(n)
    low, high = mean - reach, mean + reach
    verdict: Verdict = "holds" if low > margin else "does not hold" if high < margin else "inconclusive"
    return Judgement(
        baseline=math.fsum(baseline) / n, idea=math.fsum(idea) / n, difference=mean, spread=spread,
        low=low, high=high, verdict=verdict,
    )  # fmt: skip


# --- Finding claims --------------------------------------------------------------------------------------------------


def slugs() -> tuple[str, ...]:
    """The papers that have a module of claims, sorted; none of them is imported for it."""
    import mien.claims

    names = {module.name for module in pkgutil.iter_modules(mien.claims.__path__)}
    return tuple(sorted(name for name in names if name != "harness" and name[0] != "_"))


def claims_of(slug: str) -> tuple[Claim, ...]:
    """The claims of a paper, in the order of its module.

    Raises
    ------
    OptionError
        There is no paper of that slug, or no module of claims for it; or the module defines none, or claims of
        another paper, or two of one name.
    """
    if slug not in slugs():
        title = paper(slug).title
        raise OptionError(
            f"{title} has no claims that can be run yet", got=slug, hint="`mien papers` shows the state of all"
        )
    found = getattr(importlib.import_module(f"mien.claims.{slug}"), "CLAIMS", ())
    names = [claim.name for claim in found if claim.slug == slug]
    if not found or len(set(names)) != len(found):
        raise OptionError(
            f"mien.claims.{slug} does not say what the paper claims",
            got=[f"{claim.slug}/{claim.name}" for claim in found],
            expected=f"CLAIMS = (Claim(slug={slug!r}, …), …), each with a name of its own",
        )
    return tuple(found)


# --- Running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a claim: the row for the table, and what each seed gave.

    Parameters
    ----------
    claim
        The claim.
    row
        Its row for ``results/claims.csv``.
    measured
        One entry a seed, in the order of `row.seeds`.
    low, high
        One-sided 95 % bounds of the mean difference.
    """

    claim: Claim
    row: Row
    measured: tuple[Measured, ...]
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the row, what was claimed, the bounds, and what each seed gave."""
        per_seed = [
            {"seed": seed, "baseline": one.baseline, "idea": one.idea, "details": dict(one.details)}
            for seed, one in zip(self.row.seeds, self.measured, strict=True)
        ]
        claimed = {"says": self.claim.says, "better": self.claim.better, "margin": self.claim.margin}
        return {**self.row.to_dict(), **claimed, "low": self.low, "high": self.high, "per_seed": per_seed}


def run(
    claim: Claim,
    *,
    scale: Scale = "small",
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    steps: int | None = None,
) -> Outcome:
    """Runs a claim for each of its seeds and judges it; nothing is written to the table of results.

    What a seed gave is kept in `out`, under a key of everything it depends on: the setting, the versions of mien and
    torch, the bundled weights, and the source of the claim and of every module of mien it imports. A second call
    computes what is not there yet.

    Parameters
    ----------
    claim
        The claim.
    scale
        "small" or "paper".
    data
        One of the names that the claim can run on at this scale. Default: the first of them, "heads" before others.
    data_root
        Folder with one sub-folder a set.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    out
        Folder for what is kept, and for whatever the experiment writes. Default: ``claims`` in the folder of mien
        (MIEN_HOME), where only the seeds' results stay.
    progress
        Called as ``progress(seeds done, seeds, what)``, with fractions.
    steps
        Stop each training after so many steps: for a test that it runs at all.

    Raises
    ------
    OptionError
        No such scale, or the claim cannot run on that data.
    ValueRangeError
        The experiment gave a number that is not finite.
    DeviceUnavailable
        The device asked for is not there.
    """
    from mien.weights import device as find_device

    if scale not in get_args(Scale):
        raise OptionError.unknown("unknown scale", scale, get_args(Scale))
    known = claim.data_of(scale)
    data = known[0] if data is None else data
    if data not in known:
        raise OptionError(f"{claim.slug}/{claim.name} cannot run on that data", got=data, expected=known)
    found = str(find_device(device))
    where = (store.folder("claims") if out is None else Path(out)).absolute() / claim.slug / claim.name
    source, version = _source_key(claim), commit()  # now: the source may be edited while this runs
    seconds, measured = 0.0, list[Measured]()
    for number, seed in enumerate(claim.seeds):
        setting = Setting(
            seed=seed, scale=scale, data=data, data_root=None if data_root is None else Path(data_root).absolute(),
            device=found, steps=steps, progress=_share(progress, claim, number, seed),
        )  # fmt: skip
        setting.told(0, None, "")
        one, took = _one(claim, setting, where, source, keep=out is not None)
        measured.append(one)
        seconds += took
    if progress is not None:
        progress(len(claim.seeds), len(claim.seeds), f"{claim.slug}, {claim.name}")
    judged = judge(
        [one.baseline for one in measured], [one.idea for one in measured], better=claim.better, margin=claim.margin
    )
    row = Row(
        slug=claim.slug, claim=claim.name, scale=scale, data=data, metric=claim.metric, baseline=judged.baseline,
        idea=judged.idea, difference=judged.difference, spread=judged.spread, seeds=claim.seeds,
        verdict=judged.verdict, seconds=seconds, commit=version, machine=machine(found),
        date=datetime.now(UTC).date().isoformat(),
    )  # fmt: skip
    return Outcome(claim=claim, row=row, measured=tuple(measured), low=judged.low, high=judged.high)


def _share(progress: Progress | None, claim: Claim, number: int, seed: int) -> Progress | None:
    """Turns the progress of one seed into that of all of them."""
    if progress is None:
        return None
    listener = progress

    def told(done: float, total: float | None = None, what: str = "") -> None:
        part = min(done / total, 1.0) if total else 0.0
        about = f"{claim.slug}, {claim.name}, seed {seed}" + (f": {what}" if what else "")
        listener(number + part, len(claim.seeds), about)

    return told


def _one(claim: Claim, setting: Setting, where: Path, source: str, *, keep: bool) -> tuple[Measured, float]:
    """What one seed gives, and the seconds it took: from the folder `where`, or computed now and kept there."""
    import torch

    told = [
        source, __version__, torch.__version__, claim.slug, claim.name, claim.metric, setting.seed, setting.scale,
        setting.data, str(setting.data_root), setting.device.partition(":")[0], setting.steps,
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    name = f"{setting.scale}-{setting.data}-seed{setting.seed}-{key}"
    kept, scratch = where / f"{name}.json", where / name
    with store.writing(kept):
        scratch.mkdir(parents=True, exist_ok=True)
    with store.locked(kept):  # of two processes that want the same seed, one computes it and the other waits
        noted = _noted(kept)
        if noted is None:
            start = time.perf_counter()
            one = claim.run(replace(setting, out=scratch))
            noted = one, time.perf_counter() - start
            values = {"baseline": one.baseline, "idea": one.idea, "details": dict(one.details), "seconds": noted[1]}
            with store.writing(kept):
                store.write_whole(kept, json.dumps(values).encode())
    if not keep:
        shutil.rmtree(scratch, ignore_errors=True)
    return noted


def _noted(kept: Path) -> tuple[Measured, float] | None:
    """What the file says; None where there is none, or it is damaged."""
    try:
        found = json.loads(kept.read_bytes())
        one = Measured(baseline=found["baseline"], idea=found["idea"], details=found["details"])
        return one, float(found["seconds"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _source_key(claim: Claim) -> str:
    """A hash of the code that a claim's result depends on: its module, and all of mien that this imports."""
    function: Any = claim.run
    while isinstance(function, partial):
        function = function.func
    todo = [function.__module__, f"mien.claims.{claim.slug}"]
    files: dict[str, bytes] = {"weights": (BUNDLED / "manifest.json").read_bytes()}
    seen = set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file = _source_file(name)
        if file is not None:
            files[name] = file.read_bytes()
            todo += _imported(files[name], name if file.name == "__init__.py" else name.rpartition(".")[0])
    if function.__module__ not in files:
        # Written at a prompt: nothing tells whether it has changed, so nothing is taken from a former run.
        files["nowhere"] = os.urandom(16)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])} ".encode() + files[name])
    return digest.hexdigest()


def _source_file(name: str) -> Path | None:
    """The source of a module; None for what is no module or has no source."""
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # a name in a module, say
            return None
        file = spec.origin if spec is not None else None
    return Path(file) if file is not None and file.endswith(".py") and Path(file).is_file() else None


def _imported(source: bytes, package: str) -> Iterator[str]:
    """What a module of that package imports of mien, also inside of functions: modules, and names that may be some."""
    for node in ast.walk(ast.parse(source)):
        names = list[str]()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            words = name.split(".")
            if words[0] == "mien":
                # `mien` itself says nothing of what is used of it; the packages on the way are run.
                yield from (".".join(words[:length]) for length in range(2, len(words) + 1))


# --- Where and by what -----------------------------------------------------------------------------------------------


def commit() -> str:
    """Twelve digits of the code's commit, and "-dirty" where the source differs; "unknown" outside of a checkout."""
    root = checkout()

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    try:
        if root is None or Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return "unknown"  # installed inside of somebody else's repository
        head = git("rev-parse", "--short=12", "HEAD")
        # Only what computes has a say: the table of results itself changes with every run.
        return f"{head}-dirty" if git("status", "--porcelain", "--", "src") else head
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine(device: str = "cpu") -> str:
    """CPU, cores that this process may use, and the device: ``AMD EPYC 7B13, 2 cores, cpu``."""
    try:
        named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        named = None
    processor = named[1].strip() if named else platform.processor() or platform.machine() or "unknown CPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.startswith("cuda"):
        import torch

        device = torch.cuda.get_device_name(device)
    return f"{processor}, {cores} core{'s' if cores != 1 else ''}, {device}"
