"""``people``: the verbs and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mien
from mien import cli, errors
from mien.gallery import Batch, Contract, Gallery


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = np.eye(6, 8, dtype=np.float32)
    path = tmp_path / "g.db"
    with Gallery.open(path, contract=Contract(id="made-up@1", dim=8), create=True) as gallery:
        gallery.add(Batch(people=["Ann", "Ann", "Bob", "Cid", "Bobby"], embeddings=rows[:5], basis="consent"))
    return path


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def call(*words: object) -> Any:
    done = CliRunner().invoke(cli.build(), [str(word) for word in words], prog_name="mien")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_list(place: Path) -> None:
    assert [(p.name, p.faces) for p in mien.people.list(gallery=place)] == [
        ("Ann", 2), ("Bob", 1), ("Cid", 1), ("Bobby", 1),
    ]  # fmt: skip
    told = call("people", "list", "--gallery", place, "--match", "bob")
    assert told.exit_code == 0
    assert "Bobby" in told.stdout
    assert "Cid" not in told.stdout
    plain = json.loads(call("people", "list", "--gallery", place, "--json", "--most", 2).stdout)
    assert [person["name"] for person in plain] == ["Ann", "Bob"]
    assert plain[0]["basis"] == ["consent"]


def test_show(place: Path) -> None:
    shown = mien.people.show("Ann", gallery=place)
    assert shown.person.faces == len(shown.faces) == 2
    assert shown.faces[0].basis == "consent"
    assert "embedding" not in json.dumps(json.loads(call("people", "show", "Ann", "--gallery", place, "--json").stdout)[
        "person"
    ])  # fmt: skip


def test_rename_merge_and_retain(place: Path) -> None:
    assert mien.people.rename("Bob", "Robert", gallery=place).person.name == "Robert"
    merged = mien.people.merge("Bobby", "Robert", gallery=place, purpose="the same")
    assert (merged.person.name, merged.person.faces, merged.faces) == ("Robert", 2, 1)
    assert mien.people.retain("#1", gallery=place, until="2999-12-31").person.retain_until == "2999-12-31"
    assert mien.people.retain("Ann", gallery=place).person.retain_until is None
    assert [person.name for person in mien.people.list(gallery=place)] == ["Ann", "Robert", "Cid"]


def test_delete(place: Path) -> None:
    ids = [face.id for face in mien.people.show("Ann", gallery=place).faces]
    told = call("people", "delete", "Ann", "--gallery", place, "--faces", f"{ids[0]}")
    assert told.exit_code == 0, told.stderr
    assert mien.people.show("Ann", gallery=place).person.faces == 1
    gone = mien.people.delete("Ann", gallery=place, purpose="asked")
    assert (gone.people, gone.faces, gone.complete) == (1, 1, True)
    wrong = call("people", "delete", "Anne", "--gallery", place)
    assert wrong.exit_code == 1
    assert "unknown person" in wrong.stderr
    with pytest.raises(errors.UnknownPerson):
        mien.people.show("Ann", gallery=place)


def test_an_open_gallery_is_taken_as_it_is(place: Path) -> None:
    with Gallery.open(place) as gallery:
        assert mien.people.rename("Cid", "Sid", gallery=gallery).person.name == "Sid"
        assert gallery.person("Sid").faces == 1
