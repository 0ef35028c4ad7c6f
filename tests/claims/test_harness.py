"""Claims: what may be declared, the verdict derived again, runs that go on where they stopped, and what is recorded."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mien.claims
import mien.papers
from mien.claims import harness
from mien.claims.harness import Claim, Measured, Setting, claims_of, commit, judge, machine, run
from mien.errors import DeviceUnavailable, OptionError, ShapeError, ValueRangeError
from mien.papers.results import checkout


def half(setting: Setting) -> Measured:
    """The idea is better by a half, and a little differently with every seed."""
    seed = setting.seed
    return Measured(baseline=seed, idea=seed + 0.5 + 0.01 * seed, details={"seed": seed})


def claim(**more: Any) -> Claim:
    about: dict[str, Any] = {
        "slug": "mos", "name": "a-claim", "says": "It is better.", "metric": "accuracy", "better": "higher",
        "margin": 0.1, "data": ("heads",), "run": half,
    }  # fmt: skip
    return Claim(**{**about, **more})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# --- Declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("slug", "m-o-s"),
        ("name", "A Claim"),
        ("says", "better"),
        ("metric", " "),
        ("better", "bigger"),
        ("margin", math.nan),
        ("data", ()),
        ("data", ("heads", "heads")),
        ("seeds", (0, 1)),
        ("seeds", (0, 1, 1)),
    ],
)
def test_a_malformed_claim_is_refused_where_it_is_written(field: str, value: Any) -> None:
    with pytest.raises(OptionError, match=r"The claim .* is wrong"):
        claim(**{field: value})


def test_heads_are_the_default_wherever_they_will_do() -> None:
    assert claim(data=("celeba10k", "heads")).data_of("small") == ("heads", "celeba10k")
    assert claim(data=("celeba10k",)).data_of("paper") == ("celeba10k",)
    assert claim(paper_data=("vggface2",)).data_of("paper") == ("vggface2",)
    assert claim(paper_data=("vggface2",)).data_of("small") == ("heads",)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error(value: float) -> None:
    for wrong in ({"baseline": value, "idea": 0.0}, {"baseline": 0.0, "idea": value}):
        with pytest.raises(ValueRangeError, match="not finite"):
            Measured(**wrong)
    with pytest.raises(ValueRangeError, match="loss"):
        Measured(baseline=0, idea=0, details={"loss": value})


def test_what_was_measured_may_come_as_arrays() -> None:
    one = Measured(baseline=np.float32(0.5), idea=np.array(1), details={"n": np.int64(3)})  # type: ignore[arg-type]
    assert (one.baseline, one.idea, dict(one.details)) == (0.5, 1.0, {"n": 3.0})
    assert type(one.baseline) is type(one.details["n"]) is float


# --- The verdict -----------------------------------------------------------------------------------------------------

numbers = st.floats(-100, 100)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3), numbers, st.sampled_from(["higher", "lower"]))
def test_the_verdict_on_three_seeds_derived_again(pairs: list[tuple[float, float]], margin: float, better: Any) -> None:
    """With two degrees of freedom the quantile of Student's distribution has a closed form."""
    quantile = (2 * 0.95 - 1) * math.sqrt(2 / (4 * 0.95 * 0.05))
    differences = [b - a if better == "higher" else a - b for a, b in pairs]
    mean = sum(differences) / 3
    spread = (sum((value - mean) ** 2 for value in differences) / 2) ** 0.5
    low, high = mean - quantile * spread / 3**0.5, mean + quantile * spread / 3**0.5
    got = judge([a for a, _ in pairs], [b for _, b in pairs], better=better, margin=margin)
    near = {"rel": 1e-9, "abs": 1e-9}
    assert got.difference == pytest.approx(mean, **near)
    assert got.spread == pytest.approx(spread, **near)
    assert (got.low, got.high) == (pytest.approx(low, **near), pytest.approx(high, **near))
    assert got.baseline == pytest.approx(sum(a for a, _ in pairs) / 3, **near)
    assert got.idea == pytest.approx(sum(b for _, b in pairs) / 3, **near)
    if abs(low - margin) > 1e-6 and abs(high - margin) > 1e-6:
        assert got.verdict == ("holds" if low > margin else "does not hold" if high < margin else "inconclusive")


def test_verdicts_by_hand() -> None:
    assert judge([0, 0, 0], [1.0, 1.1, 0.9], better="higher", margin=0.5).verdict == "holds"
    assert judge([0, 0, 0], [1.0, 1.1, 0.9], better="lower", margin=0.5).verdict == "does not hold"
    assert judge([0, 0, 0], [1.0, 1.1, 0.9], better="higher", margin=1.0).verdict == "inconclusive"
    assert judge([0, 0, 0], [1.0, 1.1, 0.9], better="higher", margin=1.5).verdict == "does not hold"
    # Only the pairs count: what differs between seeds, but not between baseline and idea, is no spread.
    paired = judge([1, 50, 99], [2, 51, 100], better="higher", margin=0.5)
    assert (paired.verdict, paired.spread) == ("holds", 0.0)
    assert judge([1, 1], [2, 2], better="higher", margin=1.0).verdict == "inconclusive"


@pytest.mark.parametrize("n", [3, 6])
def test_a_claim_that_is_just_not_true_holds_in_one_case_of_twenty(n: int) -> None:
    rng = np.random.default_rng(0)
    verdicts = [
        judge([0.0] * n, rng.normal(0.3, 1.0, n).tolist(), better="higher", margin=0.3).verdict for _ in range(2000)
    ]
    for verdict in ("holds", "does not hold"):
        assert 0.035 < verdicts.count(verdict) / 2000 < 0.065


def test_a_verdict_needs_pairs_of_finite_numbers() -> None:
    for wrong in (([1.0], [2.0]), ([1.0, 2.0, 3.0], [1.0, 2.0])):
        with pytest.raises(ShapeError, match="pairs"):
            judge(*wrong, better="higher", margin=0)
    with pytest.raises(ValueRangeError, match="finite"):
        judge([1.0, math.nan], [1.0, 2.0], better="higher", margin=0)
    with pytest.raises(OptionError, match="direction"):
        judge([1.0, 2.0], [1.0, 2.0], better="more", margin=0)  # type: ignore[arg-type]


# --- Running ---------------------------------------------------------------------------------------------------------


def test_a_run_gives_a_row_and_what_each_seed_gave(tmp_path: Path) -> None:
    outcome = run(claim(seeds=(4, 5, 6)), device="cpu", out=tmp_path / "runs")
    row = outcome.row
    assert (row.slug, row.claim, row.scale, row.data, row.metric) == ("mos", "a-claim", "small", "heads", "accuracy")
    assert row.baseline == pytest.approx(5)
    assert row.idea == pytest.approx(5.55)
    assert row.difference == pytest.approx(0.55)
    assert row.spread == pytest.approx(0.01)
    assert row.verdict == "holds"
    assert row.seeds == (4, 5, 6)
    assert row.machine.endswith(", cpu")
    assert [one.details["seed"] for one in outcome.measured] == [4, 5, 6]
    told = json.loads(json.dumps(outcome.to_dict()))
    assert told["per_seed"][1] == {"seed": 5, "baseline": 5.0, "idea": 5.55, "details": {"seed": 5.0}}
    assert told["low"] < told["difference"] < told["high"]


def test_every_seed_gets_its_setting_and_nothing_else(tmp_path: Path) -> None:
    seen: list[Setting] = []

    def look(setting: Setting) -> Measured:
        assert setting.out.is_dir()
        (setting.out / "file").write_text("x")
        seen.append(setting)
        return half(setting)

    root = tmp_path / "sets"
    run(
        claim(run=look, data=("lfw", "cfp")), scale="paper", data="cfp", data_root=root, device="cpu",
        out=tmp_path / "runs", steps=2,
    )  # fmt: skip
    assert [one.seed for one in seen] == [0, 1, 2]
    assert {(one.scale, one.data, one.folder, one.device, one.steps) for one in seen} == {
        ("paper", "cfp", root / "cfp", "cpu", 2)
    }
    assert len({one.out for one in seen}) == 3
    assert all((one.out / "file").is_file() for one in seen), "what was asked for by out= stays"
    assert Setting(seed=0).folder is None


def test_in_the_default_place_only_results_stay(home: Path) -> None:
    run(claim(), device="cpu")
    left = [path.name for path in (home / "claims" / "mos" / "a-claim").iterdir() if not path.name.startswith(".")]
    assert len(left) == 3
    assert all(name.endswith(".json") for name in left)


def test_what_cannot_be_run_is_said_before_anything_runs() -> None:
    with pytest.raises(OptionError, match="cannot run on that data"):
        run(claim(), data="lfw", device="cpu")
    with pytest.raises(OptionError, match="unknown scale"):
        run(claim(), scale="big", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(DeviceUnavailable):
        run(claim(), device="cuda:99")


def test_progress_goes_from_nothing_to_all() -> None:
    def steps(setting: Setting) -> Measured:
        setting.told(1, 4, "step")
        setting.told(7, None, "who knows")
        return half(setting)

    told: list[tuple[float, float | None, str]] = []
    run(claim(run=steps), device="cpu", progress=lambda *given: told.append(given))
    assert [done for done, _, _ in told] == [0, 0.25, 0, 1, 1.25, 1, 2, 2.25, 2, 3]
    assert {total for _, total, _ in told} == {3}
    assert told[1][2] == "mos, a-claim, seed 0: step"


# --- Resuming --------------------------------------------------------------------------------------------------------

MODULE = """
from mien.claims.harness import Claim, Measured
from mien.papers.made_up import SCALE


def experiment(setting):
    log = setting.out.parent / "log"
    log.write_text((log.read_text() if log.exists() else "") + str(setting.seed))
    if (setting.out.parent / "stop").exists() and setting.seed == 2:
        raise KeyboardInterrupt
    return Measured(baseline=setting.seed, idea=setting.seed + SCALE)


CLAIMS = (
    Claim(slug="made_up", name="first", says="So it is.", metric="m", better="higher", margin=0.0,
          data=("heads", "lfw"), run=experiment),
)
"""
PAPER = '"""A paper."""\n\nSCALE = 1.0\n'


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Claim]]:
    """Writes `mien.claims.made_up` and `mien.papers.made_up` of files in `tmp_path`; gives the claim, loaded anew."""
    for package, text in ((mien.claims, MODULE), (mien.papers, PAPER)):
        folder = tmp_path / package.__name__.rpartition(".")[2]
        folder.mkdir()
        (folder / "made_up.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in ("mien.claims.made_up", "mien.papers.made_up"):
            sys.modules.pop(name, None)
        for package in (mien.claims, mien.papers):
            vars(package).pop("made_up", None)
        importlib.invalidate_caches()

    def load() -> Claim:
        forget()
        (one,) = claims_of("made_up")
        return one

    yield load
    forget()


def ran(out: Path) -> str:
    """The seeds that were computed since the last look."""
    log = out / "made_up" / "first" / "log"
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return text


def test_a_run_goes_on_where_it_stopped(made_up: Callable[[], Claim], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    stop = out / "made_up" / "first" / "stop"
    stop.parent.mkdir(parents=True)
    stop.touch()
    with pytest.raises(KeyboardInterrupt):
        run(made_up(), device="cpu", out=out)
    assert ran(out) == "012"
    stop.unlink()
    first = run(made_up(), device="cpu", out=out)
    assert ran(out) == "2"
    again = run(made_up(), device="cpu", out=out)
    assert ran(out) == ""
    assert again.measured == first.measured
    assert again.row.seconds == first.row.seconds > 0


def test_what_was_computed_in_another_setting_is_not_taken(made_up: Callable[[], Claim], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run(made_up(), device="cpu", out=out)
    ran(out)
    for other in ({"data": "lfw"}, {"scale": "paper"}, {"steps": 3}, {"data_root": tmp_path}):
        run(made_up(), device="cpu", out=out, **other)  # type: ignore[arg-type]
        assert ran(out) == "012", other


def test_other_code_is_another_run(made_up: Callable[[], Claim], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert run(made_up(), device="cpu", out=out).row.difference == 1.0
    ran(out)
    for file, old, new in (("claims", "seed + SCALE", "seed + 2 * SCALE"), ("papers", "1.0", "3.0")):
        path = tmp_path / file / "made_up.py"
        path.write_text(path.read_text().replace(old, new))
        outcome = run(made_up(), device="cpu", out=out)
        assert ran(out) == "012", f"an edit of {path.name} in {file} must count"
    assert outcome.row.difference == 6.0


def test_a_damaged_file_is_computed_anew(made_up: Callable[[], Claim], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    run(made_up(), device="cpu", out=out)
    ran(out)
    for kept, text in zip(sorted((out / "made_up" / "first").glob("*.json")), ["", "{}", "[1]"], strict=True):
        kept.write_text(text)
    run(made_up(), device="cpu", out=out)
    assert ran(out) == "012"


def test_the_key_knows_all_modules_that_are_imported_on_the_way() -> None:
    source = b"import mien.nn.blocks\ndef f():\n    from mien.papers import card\nfrom . import results\nimport numpy\n"
    found = set(harness._imported(source, "mien.papers"))
    assert {"mien.nn", "mien.nn.blocks", "mien.papers.card", "mien.papers.results"} <= found
    assert "mien" not in found
    assert not any(name.startswith("numpy") for name in found)
    assert harness._source_file("mien.errors.OptionError") is None
    assert (
        harness._source_key(claim())
        == harness._source_key(claim(run=partial(half)))
        != harness._source_key(claim(run=checkout))
    )


def test_code_without_a_file_is_never_taken_from_a_former_run() -> None:
    names: dict[str, Any] = {"Measured": Measured, "__name__": "a_prompt"}
    exec("def typed(setting):\n    return Measured(baseline=0, idea=1)", names)
    typed = claim(run=names["typed"])
    assert harness._source_key(typed) != harness._source_key(typed)


# --- Finding claims --------------------------------------------------------------------------------------------------


def test_claims_are_found_by_slug(made_up: Callable[[], Claim], tmp_path: Path) -> None:
    assert made_up().name == "first"
    assert "made_up" in harness.slugs()
    assert "harness" not in harness.slugs()
    with pytest.raises(OptionError, match="did you mean 'facenet'"):
        claims_of("facennet")
    path = tmp_path / "claims" / "made_up.py"
    for wrong in (MODULE.replace('slug="made_up"', 'slug="mos"'), MODULE + "CLAIMS = CLAIMS * 2", "CLAIMS = ()"):
        path.write_text(wrong)
        with pytest.raises(OptionError, match="does not say what the paper claims"):
            made_up()


def test_every_claim_that_is_there_is_sound() -> None:
    for slug in harness.slugs():
        assert claims_of(slug)


# --- Where and by what -----------------------------------------------------------------------------------------------


def test_the_commit_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        about = ("-c", "user.name=a", "-c", "user.email=b@c", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *about, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    monkeypatch.setattr(harness, "checkout", lambda: tmp_path)
    assert commit() == "unknown"
    git("init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "--short=12", "HEAD")
    assert commit() == head
    (tmp_path / "table.csv").write_text("1\n")
    assert commit() == head, "only the source has a say"
    (tmp_path / "src" / "b.py").write_text("b = 1\n")
    assert commit() == f"{head}-dirty"
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(harness, "checkout", lambda: tmp_path / "inner")
    assert commit() == "unknown", "somebody else's repository"
    monkeypatch.setattr(harness, "checkout", lambda: None)
    assert commit() == "unknown"
    monkeypatch.setattr(harness, "checkout", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_the_machine_in_one_line() -> None:
    processor, cores, device = machine("cpu").rsplit(", ", 2)
    assert processor
    assert int(cores.split()[0]) >= 1
    assert device == "cpu"
