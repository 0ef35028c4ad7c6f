"""``papers``: the list, one paper, and both on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mien
from mien.cli import build
from mien.errors import OptionError, TableError
from mien.papers import TASKS, slugs
from mien.papers.results import Row, append
from mien.verbs.papers import Described, Listed, papers


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of claims with one row, of a paper."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    row = Row(
        slug="mos", claim="one-stage", scale="small", data="heads", metric="AP", baseline=0.25, idea=0.5,
        difference=0.25, spread=0.01, seeds=(0, 1, 2), verdict="holds", seconds=60, commit="0123456789ab",
        machine="A CPU, 2 cores, cpu", date="2026-01-02",
    )  # fmt: skip
    return str(append([row], tmp_path / "claims.csv"))


def told(*words: str) -> str:
    done = CliRunner().invoke(build(), ["papers", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_all_forty_with_their_state(table: str) -> None:
    listed = papers(results=table)
    assert isinstance(listed, list)
    assert len(listed) == 40
    (mos,) = [one for one in listed if one.slug == "mos"]
    assert isinstance(mos, Listed)
    assert (mos.venue, mos.year, mos.task, mos.claim) == ("BMVC", 2021, "detection", "holds")
    assert [one.slug for one in listed if one.network == "complete"] == list(slugs())


def test_by_task(table: str) -> None:
    for task in TASKS:
        listed = papers(task=task, results=table)
        assert isinstance(listed, list)
        assert {one.task for one in listed} == {task}
    with pytest.raises(OptionError, match="unknown task"):
        papers(task="faces")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="leave one of them out"):
        papers("mos", task="detection")


def test_one_paper(table: str) -> None:
    one = papers("mos", results=table)
    assert isinstance(one, Described)
    values = json.loads(json.dumps(one.to_dict()))
    assert values["slug"] == "mos"
    assert values["bibtex"].startswith("@inproceedings{mos,")
    assert values["results"][0]["verdict"] == "holds"
    with pytest.raises(OptionError, match="did you mean 'facenet'"):
        papers("facenett")


@pytest.mark.parametrize("slug", slugs())
def test_one_paper_with_code(slug: str) -> None:
    one = papers(slug)
    assert isinstance(one, Described)
    module = mien.papers.get(slug)
    assert [network["name"] for network in one.networks] == list(module.NETWORKS)
    assert all(network["parameters"] > 0 for network in one.networks)
    assert len(one.weights) == len(module.WEIGHTS)
    json.dumps(one.to_dict())


def test_the_package_can_be_called_like_the_verb(table: str) -> None:
    assert mien.papers(results=table) == papers(results=table)
    assert mien.papers.cards(only="mos")[0].paper.slug == "mos"


def test_on_the_command_line(table: str, tmp_path: Path) -> None:
    text = told("--results", table)
    for word in ("facenet", "wsc_swap", "BMVC", "holds", "planned"):
        assert word in text
    listed = json.loads(told("--json", "--task", "audit", "--results", table))
    assert {one["task"] for one in listed} == {"audit"}
    text = told("mos", "--results", table)
    for word in ("@inproceedings{mos,", "Yepeng Liu", "one-stage", "holds"):
        assert word in text
    assert json.loads(told("mos", "--json", "--results", table))["arxiv"] == "2110.10953"
    broken = tmp_path / "other.csv"
    broken.write_text("a,b\n")
    with pytest.raises(TableError):
        papers(results=str(broken))
    done = CliRunner().invoke(build(), ["papers", "--results", str(broken)])
    assert done.exit_code == 1
