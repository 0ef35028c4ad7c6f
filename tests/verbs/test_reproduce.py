"""``reproduce``: what is run, what is recorded, what cannot be run, and all of it on the command line."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mien
import mien.claims
from mien.cli import build
from mien.errors import MediaNotFound, OptionError, TableError
from mien.papers.results import read
from mien.verbs.reproduce import reproduce

MODULE = """
from mien.claims.harness import Claim, Measured
from mien.errors import MediaNotFound


def better(setting):
    setting.told(1, 2, "half")
    if setting.folder is not None:
        assert setting.folder.name == setting.data
    return Measured(baseline=setting.seed, idea=setting.seed + 0.5, details={"steps": setting.steps or 0})


def absent(setting):
    raise MediaNotFound("the set is not there", got=setting.data)


ABOUT = dict(slug="SLUG", says="It is better.", metric="TAR at FAR 1e-3", better="higher", margin=0.25)
CLAIMS = (
    Claim(name="idea", data=("heads", "lfw"), run=better, **ABOUT),
    Claim(name="other", data=("lfw",), run=RUN, **ABOUT),
)
"""


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Claims of two papers and no others: all of `mos` can be run, one of the two of `fan`."""
    folder = tmp_path / "claims"
    folder.mkdir()
    for slug, second in (("mos", "better"), ("fan", "absent")):
        (folder / f"{slug}.py").write_text(MODULE.replace("SLUG", slug).replace("RUN", second))
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(mien.claims, "__path__", [str(folder)])

    def forget() -> None:
        for slug in ("mos", "fan"):
            sys.modules.pop(f"mien.claims.{slug}", None)
            vars(mien.claims).pop(slug, None)
        importlib.invalidate_caches()

    forget()
    yield
    forget()


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(tmp_path / "results" / "claims.csv")


def names(result: Any) -> list[str]:
    return [f"{one.row.slug}/{one.row.claim}" for one in result.outcomes]


def test_the_claims_of_a_paper(table: str) -> None:
    result = reproduce("mos", device="cpu", results=table)
    assert result.ok
    assert names(result) == ["mos/idea", "mos/other"]
    assert [one.row.data for one in result.outcomes] == ["heads", "lfw"]
    assert {one.row.verdict for one in result.outcomes} == {"holds"}
    assert [row.claim for row in read(table)] == ["idea", "other"]
    reproduce("mos", device="cpu", results=table)
    assert len(read(table)) == 4, "each run is a row"


def test_which_claims_are_run(table: str, tmp_path: Path) -> None:
    def run(*slugs: str, **more: Any) -> list[str]:
        return names(reproduce(slugs or None, device="cpu", results=table, **more))

    assert run("mos", "fan", "mos") == ["mos/idea", "mos/other", "fan/idea"]
    assert run() == ["fan/idea", "mos/idea", "mos/other"]
    assert run("mos", claim="other") == ["mos/other"]
    assert run(data="heads") == ["fan/idea", "mos/idea"], "those that do not know the data are left out"
    assert run("mos", data="lfw", data_root=str(tmp_path)) == ["mos/idea", "mos/other"]
    assert run("mos", claim="idea", scale="paper") == ["mos/idea"]
    assert read(table)[-1].scale == "paper"


def test_of_several_those_that_fail_are_told_at_the_end(table: str) -> None:
    result = reproduce(device="cpu", results=table)
    assert not result.ok
    (failed,) = result.failed
    assert (failed.claim, failed.code) == ("fan/other", "media_not_found")
    assert "lfw" in failed.error
    assert len(read(table)) == 3
    with pytest.raises(MediaNotFound):
        reproduce("fan", claim="other", device="cpu", results=table)
    result = reproduce("mos", data="heads", device="cpu", results=table)
    assert [one.claim for one in result.failed] == ["mos/other"], "it was named, so it is told"


def test_what_is_not_there(table: str) -> None:
    for wrong, why in (
        ({"slugs": "facennet"}, "did you mean 'facenet'"),
        ({"slugs": "webface260m"}, "has no claims that can be run yet"),
        ({"slugs": "mos", "claim": "ide"}, "did you mean 'idea'"),
        ({"slugs": "mos", "claim": "idea", "scale": "papers"}, "did you mean 'paper'"),
        ({"slugs": "mos", "claim": "idea", "data": "cfp"}, "cannot run on that data"),
        ({"data": "cfp"}, "no claim to run"),
    ):
        with pytest.raises(OptionError, match=why):
            reproduce(**wrong, device="cpu", results=table)  # type: ignore[arg-type]
    assert not Path(table).exists()


def test_a_table_that_cannot_be_added_to_is_told_of_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "claims.csv"
    path.write_text("a,b\n")
    with pytest.raises(TableError, match="other columns"):
        reproduce("mos", device="cpu", results=str(path), out=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_progress_is_in_per_cent_of_all(table: str) -> None:
    seen: list[tuple[int, int | None, str]] = []
    reproduce("mos", device="cpu", results=table, progress=lambda *given: seen.append(given))
    done = [one for one, _, _ in seen]
    assert done[0] == 0
    assert done[-1] == 100
    assert done == sorted(done)
    assert {total for _, total, _ in seen} == {100}
    assert "mos, idea, seed 0: half" in {what for _, _, what in seen}


def test_without_a_checkout_the_table_is_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.papers import results

    monkeypatch.setattr(results, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    reproduce("mos", device="cpu")
    assert len(read(tmp_path / "results" / "claims.csv")) == 2


@pytest.fixture
def program() -> Callable[..., Any]:
    return lambda *words: CliRunner().invoke(build(), ["reproduce", *words, "--device", "cpu"])


def test_on_the_command_line(program: Callable[..., Any], table: str) -> None:
    done = program("mos", "--results", table)
    assert done.exit_code == 0, done.output
    for word in ("mos/idea", "TAR at FAR 1e-3 ↑", "+0.5", "> 0.25", "holds", "It is better.", "claims.csv", "3 seeds"):
        assert word in done.stdout, word
    done = program("mos", "fan", "--results", table, "--json")
    assert done.exit_code == 1, "one could not be run"
    found = json.loads(done.stdout)
    assert [one["verdict"] for one in found["claims"]] == ["holds"] * 3
    assert found["claims"][0]["per_seed"][2] == {"seed": 2, "baseline": 2.0, "idea": 2.5, "details": {"steps": 0.0}}
    assert found["failed"][0]["claim"] == "fan/other"
    done = program("mos", "fan", "--results", table)
    assert "could not be run: the set is not there" in " ".join(done.stdout.split())
    done = program("facennet", "--results", table)
    assert done.exit_code == 1
    assert "facenet" in done.output


def test_it_is_a_verb_of_mien() -> None:
    assert mien.reproduce is reproduce
