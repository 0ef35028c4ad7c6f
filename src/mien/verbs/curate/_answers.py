"""The labels file: one line an answer, appended and synced at once, never rewritten.

    file,x0,y0,x1,y1,name,verdict,by,confidence,time
    a/1.jpg,10.0,12.5,80.0,95.0,Ada,is,person,1,2026-01-02T03:04:05.678Z

`verdict` is "is" (the name), "not" (not that name), "stranger" (a face, but nobody that matters), "not a face", "skip",
or "undo", which takes back the last standing line about the face by whoever says it. `by` is "person" or "machine". A
machine's line never stands against a person's. What a process that was killed left unfinished is one line at most, and
is cut off when the file is opened again.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from mien.errors import MediaError, MediaForbidden, MediaNotFound, NotAFile, TableError

COLUMNS = ("file", "x0", "y0", "x1", "y1", "name", "verdict", "by", "confidence", "time")

Verdict = Literal["is", "not", "stranger", "not a face", "skip", "undo"]
By = Literal["person", "machine"]
Key = tuple[str, float, float, float, float]
"""A face: its file, relative to the folder, and the corners of its box in pixels, to a tenth."""


def key_of(file: str, box: Sequence[float]) -> Key:
    """The key of a face."""
    x0, y0, x1, y1 = (round(float(value), 1) + 0.0 for value in box)
    return file, x0, y0, x1, y1


@dataclass(frozen=True)
class Line:
    """One answer.

    Parameters
    ----------
    key
        The face.
    name
        The person, for "is" and "not"; "" otherwise.
    verdict
        What was said.
    by
        Who said it.
    confidence
        0 to 1; a person's is 1.
    time
        When, UTC, ISO 8601. Lines of one time by one speaker were said, and are taken back, together.
    """

    key: Key
    name: str
    verdict: Verdict
    by: By
    confidence: float
    time: str


def now() -> str:
    """The time as it stands in the file."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Answers:
    """The labels file, open for appending.

    Parameters
    ----------
    path
        The file; made with its header if it is not there.
    writable
        Otherwise an unfinished last line is passed over and left in the file.

    Raises
    ------
    TableError
        It is something else than a labels file.
    MediaForbidden, NotAFile, MediaError
        It cannot be read or written.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        self.path, self.writable = path, writable
        self.lines: list[Line] = []
        if path.is_dir():
            raise NotAFile(
                "a folder stands where the labels should be written", got=str(path), hint="give a file in it"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                self.lines = self._read()
            else:
                self._append(_text([COLUMNS]))
        except OSError as error:
            kind = MediaForbidden if isinstance(error, PermissionError) else MediaError
            raise kind(
                f"the labels cannot be written to {path}", got=error.strerror, hint="give another file with out="
            ) from error
        self.standing: dict[Key, list[Line]] = {}
        for line in self.lines:
            self._stand(line)

    def _read(self) -> list[Line]:
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data) and self.writable:  # the process was killed while it wrote
            with self.path.open("r+b") as file:
                file.truncate(end)
            if not end:
                self._append(_text([COLUMNS]))
                return []
        try:
            rows = list(csv.reader(io.StringIO(data[:end].decode("utf-8-sig"), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._wrong("a table of text", str(error), 1) from None
        if not rows or tuple(rows[0]) != COLUMNS:
            raise self._wrong(f"the columns {', '.join(COLUMNS)}", ", ".join(rows[0]) if rows else "nothing", 1)
        lines = []
        for number, row in enumerate(rows[1:], 2):
            try:
                place, x0, y0, x1, y1, name, verdict, by, confidence, time = row
                if verdict not in get_args(Verdict) or by not in get_args(By):
                    raise ValueError(f"{verdict}, {by}")
                box = [float(value) for value in (x0, y0, x1, y1)]
                lines.append(Line(key_of(place, box), name, verdict, by, float(confidence), time))  # type: ignore[arg-type]
            except ValueError as error:
                raise self._wrong("a line of answers", str(error), number) from None
        return lines

    def _wrong(self, expected: str, got: str, line: int) -> TableError:
        return TableError(
            f"{self.path.name} is no labels file (line {line})", got=got, expected=expected,
            hint="give another file with out=, or repair the line",
        )  # fmt: skip

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def say(self, lines: Sequence[Line]) -> None:
        """Appends answers; they are on the disk when this returns."""
        if not lines:
            return
        rows = [
            (
                file,
                *(f"{value:.1f}" for value in box),
                line.name,
                line.verdict,
                line.by,
                f"{line.confidence:.4g}",
                line.time,
            )
            for line in lines
            for file, *box in [line.key]
        ]
        self._append(_text(rows))
        self.lines += lines
        for line in lines:
            self._stand(line)

    def _stand(self, line: Line) -> None:
        about = self.standing.setdefault(line.key, [])
        if line.verdict != "undo":
            about.append(line)
            return
        for place in range(len(about) - 1, -1, -1):
            if about[place].by == line.by:
                del about[place]
                return

    def said(self, key: Key, by: By = "person") -> Line | None:
        """What stands of one speaker about a face, as far as it decides: the last of "is", "stranger", "not a face"."""
        for line in reversed(self.standing.get(key, ())):
            if line.by == by and line.verdict in ("is", "stranger", "not a face"):
                return line
        return None

    def denied(self, key: Key) -> list[str]:
        """Names that a person says a face is not."""
        return [line.name for line in self.standing.get(key, ()) if line.by == "person" and line.verdict == "not"]

    def skipped(self, key: Key) -> bool:
        """Whether a person skipped it, and has not said anything since."""
        about = [line for line in self.standing.get(key, ()) if line.by == "person"]
        return bool(about) and about[-1].verdict == "skip"

    def last_said(self) -> list[Line]:
        """The standing lines that a person said last, together; by their order in the file, not by the clock."""
        place = {id(line): number for number, line in enumerate(self.lines)}
        standing = [line for about in self.standing.values() for line in about if line.by == "person"]
        if not standing:
            return []
        last = max(standing, key=lambda line: place[id(line)])
        return [line for line in standing if line.time == last.time]


@dataclass(frozen=True)
class Label:
    """A face and its name.

    Parameters
    ----------
    file
        The picture, relative to the folder that was labelled.
    box
        Corners x0, y0, x1, y1 of the face in pixels of the upright picture.
    name
        The person.
    by
        "person" or "machine".
    confidence
        0 to 1; a person's is 1.
    time
        When it was said, UTC, ISO 8601.
    """

    file: str
    box: tuple[float, float, float, float]
    name: str
    by: By
    confidence: float
    time: str


def read_labels(path: str | os.PathLike[str], *, machine: bool = True) -> list[Label]:
    """The names that stand in a labels file of ``mien curate label``, by file and place.

    Parameters
    ----------
    path
        The file; it is only read.
    machine
        Whether names that the machine was certain of, and nobody has confirmed, are among them.

    Raises
    ------
    MediaNotFound, TableError
        There is no such file; it is something else than a labels file.
    """
    if not Path(path).is_file():
        raise MediaNotFound("there is no such labels file", got=str(path), hint="make one with `mien curate label`")
    answers = Answers(Path(path), writable=False)
    found = []
    for key in sorted(answers.standing):
        person = answers.said(key)
        line = person if person is not None or not machine else answers.said(key, "machine")
        if line is not None and line.verdict == "is":
            found.append(Label(key[0], key[1:], line.name, line.by, line.confidence, line.time))
    return found


def _text(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
