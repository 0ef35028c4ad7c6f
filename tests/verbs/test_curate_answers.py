"""The labels file: appended, taken back, cut short, and read again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import mien
from mien.errors import MediaError, MediaNotFound, NotAFile, TableError
from mien.verbs.curate._answers import COLUMNS, Answers, By, Line, Verdict, key_of, now

A, B = key_of("a.jpg", (1, 2, 30.04, 40)), key_of("sub/b, c.jpg", (0, 0, 9, 9))


def line(key: object, verdict: Verdict, name: str = "", by: By = "person", time: str | None = None) -> Line:
    return Line(key, name, verdict, by, 1.0 if by == "person" else 0.4, time or now())  # type: ignore[arg-type]


def test_every_answer_is_on_the_disk_at_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "labels.csv"
    answers = Answers(file)
    answers.say([line(A, "is", "Ada")])
    answers.say([line(B, "is", 'O"Neil, Eve')])
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == ["Ada", 'O"Neil, Eve']
    assert (rows[0]["x1"], rows[0]["by"], rows[0]["confidence"]) == ("30.0", "person", "1")
    assert rows[1]["file"] == "sub/b, c.jpg"
    again = Answers(file)
    assert again.said(A) == answers.said(A)
    assert again.lines == answers.lines


def test_the_last_word_stands_and_can_be_taken_back(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "labels.csv")
    answers.say([line(A, "is", "Ada")])
    answers.say([line(A, "stranger")])
    found = answers.said(A)
    assert found is not None
    assert found.verdict == "stranger"
    answers.say([line(A, "undo")])
    found = answers.said(A)
    assert found is not None
    assert found.name == "Ada"
    answers.say([line(A, "undo"), line(A, "undo")])  # one more than there is
    assert answers.said(A) is None
    assert Answers(answers.path).said(A) is None


def test_person_and_machine_do_not_mix(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "labels.csv")
    answers.say([line(A, "is", "Ada")])
    answers.say([line(A, "is", "Eve", by="machine")])
    person, machine = answers.said(A), answers.said(A, "machine")
    assert person is not None
    assert machine is not None
    assert (person.name, machine.name) == ("Ada", "Eve")
    answers.say([line(A, "undo", by="machine")])
    assert answers.said(A) is not None
    assert answers.said(A, "machine") is None


def test_what_was_said_together_is_taken_back_together(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "labels.csv")
    answers.say([line(A, "is", "Ada", time="2026-01-02T00:00:00Z")])
    at = "2026-01-01T00:00:00Z"  # the clock was set back: the order in the file counts
    answers.say([line(A, "is", "Eve", time=at), line(B, "not", "Eve", time=at)])
    assert [(one.key, one.verdict) for one in answers.last_said()] == [(A, "is"), (B, "not")]
    assert answers.denied(B) == ["Eve"]
    answers.say([line(one.key, "undo") for one in answers.last_said()])
    assert [one.name for one in answers.last_said()] == ["Ada"]
    assert answers.denied(B) == []


def test_skipped_until_something_is_said(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "labels.csv")
    answers.say([line(A, "skip")])
    assert answers.skipped(A)
    assert answers.said(A) is None
    answers.say([line(A, "is", "Ada")])
    assert not answers.skipped(A)


def test_names_are_read_without_touching_the_file(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    answers = Answers(file)
    answers.say([line(A, "is", "Ada"), line(A, "is", "Eve", by="machine"), line(B, "is", "Eve", by="machine")])
    file.write_bytes(file.read_bytes() + b"sub/x")
    before = file.read_bytes()
    found = mien.curate.read_labels(file)
    assert [(one.file, one.name, one.by) for one in found] == [("a.jpg", "Ada", "person"), (B[0], "Eve", "machine")]
    assert found[0].box == A[1:]
    assert [one.name for one in mien.curate.read_labels(file, machine=False)] == ["Ada"]
    assert file.read_bytes() == before
    with pytest.raises(MediaNotFound):
        mien.curate.read_labels(tmp_path / "none.csv")


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "labels.csv"
    answers = Answers(file)
    answers.say([line(A, "is", "Ada")])
    whole = file.read_bytes()
    answers.say([line(B, "is", "Eve")])
    file.write_bytes(file.read_bytes()[:-cut])
    again = Answers(file)
    assert [one.name for one in again.lines] == ["Ada"]
    again.say([line(B, "is", "Zoë")])
    assert file.read_bytes().startswith(whole)
    assert [one.name for one in Answers(file).lines] == ["Ada", "Zoë"]


def test_a_header_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("file,x0,")
    Answers(file).say([line(A, "is", "Ada")])
    assert [one.name for one in Answers(file).lines] == ["Ada"]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", f"{','.join(COLUMNS)}\na,1,2,3,4,Ada,maybe,person,1,now\n", f"{','.join(COLUMNS)}\na,x\n"]
)
def test_what_is_no_labels_file_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(TableError):
        Answers(file)
    assert file.read_text() == text


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(NotAFile):
        Answers(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError):
        Answers(tmp_path / "file" / "labels.csv")
