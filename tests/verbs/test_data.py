"""``mien data``: the verbs over the formats, as functions and as commands."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mien
from mien.cli import FAILED, OK, PARTLY, USAGE, build
from mien.data.formats import FORMATS
from mien.errors import OptionError
from mien.verbs.data import check_data, convert_data, list_formats

_HERE = Path(__file__).parents[1] / "data" / "formats" / "conftest.py"


@pytest.fixture(scope="module")
def made() -> Any:
    """The makers of sets of the tests of formats; test folders are no packages, so they are loaded by path."""
    spec = importlib.util.spec_from_file_location("formats_made", _HERE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Made


def run(*words: str) -> Any:
    return CliRunner().invoke(build(), ["data", *words])


def test_formats_are_listed() -> None:
    assert [known.name for known in list_formats()] == list(FORMATS)
    (one,) = list_formats("rec")
    assert one.written
    with pytest.raises(OptionError, match="webdataset"):
        list_formats("webdatasets")
    assert json.loads(run("formats", "--json").stdout)[0]["name"] == "rec"


def test_a_whole_set(made: Any, tmp_path: Path) -> None:
    made.lfw(tmp_path)
    report = check_data(str(tmp_path))
    assert report.ok
    done = run("check", str(tmp_path))
    assert done.exit_code == OK
    assert "whole" in done.stdout
    assert "view2 (60)" in done.stdout
    assert "24 x 24 (44)" in done.stdout


def test_a_broken_set_is_told_by_the_exit_code(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path)
    made.write(tmp_path / "person_00/1.jpg", made.jpeg(1)[:70])
    made.write(tmp_path / "person_01/1.jpg", b"")
    done = run("check", str(tmp_path), "--most", "1")
    assert done.exit_code == FAILED
    assert "2 problems" in done.stdout
    assert "person_00/1.jpg" in done.stdout
    assert "1 shown" in done.stdout
    as_json = run("check", str(tmp_path), "--json")
    assert as_json.exit_code == FAILED
    (one,) = json.loads(as_json.stdout)["sets"]
    assert one["found"] == {"undecodable": 2}
    assert one["counts"]["images"] == 12
    assert {problem["where"] for problem in one["problems"]} == {"person_00/1.jpg", "person_01/1.jpg"}


def test_converting_and_its_exit_codes(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path / "a")
    done = run("convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "rec", "--json")
    assert done.exit_code == OK
    assert json.loads(done.stdout)["images"] == 12
    again = run("convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "rec")
    assert again.exit_code == FAILED
    made.write(tmp_path / "a/person_00/1.jpg", b"")
    partly = run("convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "webdataset", "--overwrite")
    assert partly.exit_code == PARTLY
    assert run("convert", str(tmp_path / "a"), str(tmp_path / "c")).exit_code == USAGE
    assert convert_data(str(tmp_path / "b"), str(tmp_path / "d"), to="parquet").images == 11


def test_a_place_without_a_set(tmp_path: Path) -> None:
    done = run("check", str(tmp_path / "none"), "--json")
    assert done.exit_code == FAILED
    assert json.loads(done.stdout)["error"]["code"] == "media_not_found"
    done = run("check", str(tmp_path), "--json")
    assert json.loads(done.stdout)["error"]["code"] == "unknown_format"


def test_the_package_has_the_verbs_functions(made: Any, tmp_path: Path) -> None:
    made.folder(tmp_path)
    assert mien.data.check(tmp_path).ok
    assert len(mien.data.read(tmp_path)) == 12
    assert mien.data.find(tmp_path)[0][0] == "folder"
