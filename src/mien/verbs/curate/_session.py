"""One person labelling one folder: what is asked next, what is certain, what was said, and taking it back.

The state of `mien.papers.aspl` follows from the labels file alone, so that a killed session goes on from it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from mien.errors import OptionError
from mien.papers.aspl import EMBEDDINGS, REJECT, ActiveSelfPaced, Answer
from mien.verbs.curate._answers import Answers, Key, Line, Verdict, now
from mien.verbs.curate._faces import Found

NAME = 120
"""Longest name, characters."""
GROUP, STARTS = 3, 30
"""Least faces of a group of whom nobody is named yet that is asked about first, and most of these questions."""
BATCH = 24
"""Faces that are shown together for one confirmation."""
QUICK_S = 0.15
"""Training that takes less is done after every answer; otherwise after several."""

Why = Literal["first", "unclear", "again", "doubt", "skipped"]


@dataclass(frozen=True)
class Suggestion:
    """A name for a face.

    Parameters
    ----------
    name
        The person.
    confidence
        0 to 1: 0.5 lies on the classifier's border, 1 at its margin.
    face
        A face that a person has said is hers or his, to compare.
    """

    name: str
    confidence: float
    face: int


@dataclass(frozen=True)
class Ask:
    """A question to the person.

    Parameters
    ----------
    face
        Row of the face.
    why
        "first" (a group without a name), "unclear" (nobody's classifier is sure), "again" (what was said does not fit
        the others), "doubt" (it was taken out of a batch), "skipped" (it was skipped before, and all else is done).
    file, box, size
        The picture, the face's corners in its pixels, and its width and height.
    suggestions
        Names, the likeliest first.
    said
        The name it bears, where it is asked again.
    """

    face: int
    why: Why
    file: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    suggestions: tuple[Suggestion, ...]
    said: str | None


class Session:
    """The state behind the page. Every method may be called by several threads.

    Parameters
    ----------
    found
        The faces.
    answers
        The labels file.
    rule
        Which faces are asked about, one of `mien.papers.aspl.RULES`.
    questions
        Answers to a round: then the pace grows and answers that do not fit the others are asked about again.
    alike
        Similarity from which two faces are of one group.
    seed
        Of what is drawn.
    """

    def __init__(
        self, found: Found, answers: Answers, *, rule: str = "lowest", questions: int = 10, alike: float = 0.5,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.found, self.answers, self.questions, self.alike = found, answers, questions, alike
        self.row: dict[Key, int] = {key: row for row, key in enumerate(found.keys)}
        x = found.embeddings if len(found) else np.zeros((0, 1), np.float32)
        numbers = replace(EMBEDDINGS, rule=cast(Any, rule), second="ask", diversity=3)
        self.pool = ActiveSelfPaced(x, numbers=numbers, seed=seed)
        self.lock = threading.RLock()
        self.doubts: list[int] = []
        """Faces that were taken out of a batch: asked first."""
        self.rounds = 0
        self.purpose: str | None = None
        self._stale, self._seconds = 1, 0.0
        self._front: int | None = None
        self._groups = self._grouped()
        self._moved_keys()
        for row in range(len(found)):
            self._replay(row)
        said = sum(line.by == "person" and line.verdict != "undo" for line in answers.lines)
        self.pool.turns = said // questions
        self._refit(rounds=said // questions)

    def _moved_keys(self) -> None:
        """Answers about boxes that another detector, or another size, has found a little elsewhere."""
        lost = [key for key in self.answers.standing if key not in self.row]
        by_file: dict[str, list[int]] = {}
        for row, key in enumerate(self.found.keys):
            by_file.setdefault(key[0], []).append(row)
        for key in lost:
            rows = [row for row in by_file.get(key[0], ()) if self.found.keys[row] not in self.answers.standing]
            overlap = [_overlap(key[1:], self.found.keys[row][1:]) for row in rows]
            if overlap and max(overlap) > 0.5:
                row = rows[int(np.argmax(overlap))]
                self.row[key] = row
                self.found = replace(self.found, keys=(*self.found.keys[:row], key, *self.found.keys[row + 1 :]))

    def _grouped(self) -> NDArray[np.int64]:
        """(n,) how many faces of the folder look alike."""
        x = self.pool.features
        counts = np.zeros(len(x), np.int64)
        for start in range(0, len(x), 2048):
            counts[start : start + 2048] = (x[start : start + 2048] @ x.T >= self.alike).sum(1)
        return counts

    def _replay(self, row: int) -> None:
        """Brings the loop's state of a face to what the labels file says."""
        key = self.found.keys[row]
        self.pool.withdraw(row)
        line = self.answers.said(key)
        if line is not None:
            self.pool.answer(row, Answer(line.name) if line.verdict == "is" else REJECT)
        elif self.answers.skipped(key):
            self.pool.answer(row, Answer())
        for name in [*self.pool.persons]:
            self.pool.allow(row, name)
        for name in self.answers.denied(key):
            self.pool.deny(row, name)

    # ------------------------------------------------------------------------------------------ training

    def _refit(self, rounds: int = 0) -> None:
        """Classifiers, names for free, and, at the end of a round, second looks and a looser pace."""
        began = time.perf_counter()
        pool = self.pool
        pool.fit()
        pool.select()
        if pool.classifiers.trained.any():
            for _ in range(min(rounds, 10)):
                pool.loosen()
                pool.select()
            if rounds:
                pool.certify()
                pool.turns += 1
            pool.fit()
            pool.select()
        self._stale, self._seconds = 0, time.perf_counter() - began

    def settle(self) -> None:
        """Trains if something was said since; at once where that is quick, else after some answers."""
        patience = 1 if self._seconds < QUICK_S else self.questions
        if self._stale >= patience:
            ended = self.rounds >= self.questions
            if ended:
                self.rounds = 0
            self._refit(rounds=int(ended))

    # ------------------------------------------------------------------------------------------ what is shown

    def next(self) -> Ask | None:
        """The next question; None where there is none left."""
        with self.lock:
            self.settle()
            row, why = self._choose()
            return None if row is None else self.ask(row, why)

    def _choose(self) -> tuple[int | None, Why]:
        pool = self.pool
        if self._front is not None:
            return self._front, "unclear"
        self.doubts = [row for row in self.doubts if pool.open[row]]
        if self.doubts:
            return self.doubts[0], "doubt"
        if pool.again:
            return pool.again[0], "again"
        first = self._first()
        if first is not None:
            return first, "first"
        ranked = pool.rank(1)
        if not len(ranked) and self._stale:
            self._stale = self.questions
            self.settle()
            ranked = pool.rank(1)
        if len(ranked):
            return int(ranked[0]), "unclear"
        # What has a name for free is in the batches; what was skipped comes last.
        left = np.flatnonzero(pool.open & pool.asked & (pool.free < 0))
        return (int(left[0]), "skipped") if len(left) else (None, "unclear")

    def _first(self) -> int | None:
        """The face with most others alike, of a group of whom nobody has been asked about yet."""
        if len(self.pool.persons) and int(self.pool.asked.sum()) >= max(STARTS, 3 * len(self.pool.persons)):
            return None
        rows = np.flatnonzero(self.pool.open & ~self.pool.asked & (self.pool.free < 0) & (self._groups >= GROUP))
        asked = np.flatnonzero(self.pool.asked)
        if len(rows) and len(asked):
            x = self.pool.features
            rows = rows[(x[rows] @ x[asked].T).max(1) < self.alike]
        return int(rows[self._groups[rows].argmax()]) if len(rows) else None

    def ask(self, row: int, why: Why = "unclear") -> Ask:
        """A face as a question."""
        key, pool = self.found.keys[row], self.pool
        said = pool.persons[pool.labels[row]] if pool.labels[row] >= 0 else None
        return Ask(row, why, key[0], key[1:], self.found.sizes[key[0]], tuple(self._suggest(row)), said)

    def _suggest(self, row: int) -> list[Suggestion]:
        """At most five names: by the classifiers, then, of people who have none, by the most similar face."""
        pool = self.pool
        labelled = np.flatnonzero(pool.labels >= 0)
        labelled = labelled[labelled != row]
        if not len(labelled):
            return []
        alike = pool.features[labelled] @ pool.features[row]
        nearest: dict[int, tuple[float, int]] = {}
        for place in np.argsort(-alike, kind="stable"):
            nearest.setdefault(int(pool.labels[labelled[place]]), (float(alike[place]), int(labelled[place])))
        decided = pool.classifiers.decisions(pool.features[row : row + 1])[0].astype(np.float64)
        denied = set(self.answers.denied(self.found.keys[row]))

        def confidence(person: int) -> float:
            # Of who has no classifier: the similarity, with the limit of a group on the border.
            value = decided[person] if np.isfinite(decided[person]) else 2 * (nearest[person][0] - self.alike)
            return float(np.clip((1 + value) / 2, 0, 1))

        found = [
            Suggestion(pool.persons[person], confidence(person), nearest[person][1])
            for person in nearest
            if pool.persons[person] not in denied
        ]
        return sorted(found, key=lambda one: -one.confidence)[:5]

    def batches(self) -> list[dict[str, Any]]:
        """People with certain faces nobody has confirmed: name, how many, and the surest BATCH of them."""
        with self.lock:
            self.settle()
            pool, found = self.pool, []
            for person in np.unique(pool.free[pool.free >= 0]):
                rows = np.flatnonzero(pool.free == person)
                rows = rows[np.argsort(-pool.weights[rows], kind="stable")]
                own = np.flatnonzero(pool.labels == person)
                found.append(
                    {
                        "name": pool.persons[person], "count": len(rows), "compare": [int(r) for r in own[:4]],
                        "faces": [{"face": int(r), "confidence": float(pool.weights[r])} for r in rows[:BATCH]],
                    }
                )  # fmt: skip
            return sorted(found, key=lambda one: -one["count"])

    def people(self) -> list[dict[str, Any]]:
        """Everybody named, by name: how many faces by a person and by the machine, and one of them."""
        pool, found = self.pool, []
        for person, name in enumerate(pool.persons):
            own = np.flatnonzero(pool.labels == person)
            if len(own):
                count = int((pool.free == person).sum())
                found.append({"name": name, "count": len(own), "certain": count, "face": int(own[0])})
        return sorted(found, key=lambda one: str(one["name"]).casefold())

    def counts(self) -> dict[str, int]:
        """Faces in all, named by the person, certain by the machine, rejected, skipped, and open."""
        pool = self.pool
        named, certain, rejected = (int(m.sum()) for m in (pool.labels >= 0, pool.free >= 0, pool.rejected))
        skipped = int((pool.open & pool.asked & (pool.free < 0)).sum())
        total = len(self.found)
        return {
            "faces": total, "pictures": len(self.found.sizes), "named": named, "certain": certain, "rejected": rejected,
            "skipped": skipped, "open": total - named - certain - rejected - skipped,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """All that the page shows."""
        with self.lock:
            self.settle()
            ask, batches = self.next(), self.batches()
            return {
                "folder": self.found.folder.name or str(self.found.folder), "labels": str(self.answers.path),
                "purpose": self.purpose, "counts": self.counts(), "people": self.people(),
                "question": None if ask is None else asdict(ask), "batches": batches,
                "can_undo": bool(self.answers.last_said()),
                "failures": [asdict(failure) for failure in self.found.failures],
            }  # fmt: skip

    # ------------------------------------------------------------------------------------------ what is said

    def answer(self, face: int, verdict: str, name: str = "") -> None:
        """Takes an answer about one face, and writes it down.

        Raises
        ------
        OptionError
            There is no such face or verdict, or a name is missing or too long.
        """
        with self.lock:
            self._known([face])
            if verdict not in ("is", "stranger", "not a face", "skip"):
                raise OptionError.unknown("unknown verdict", verdict, ("is", "stranger", "not a face", "skip"))
            name = cleaned(name) if verdict == "is" else ""
            self._say([(face, cast(Verdict, verdict), name)])
            self.doubts = [row for row in self.doubts if row != face]
            self._front = None

    def confirm(self, name: str, yes: Sequence[int], no: Sequence[int] = ()) -> None:
        """Takes a batch: `yes` are the person, `no` are not, and are asked about next.

        Raises
        ------
        OptionError
            There is no such face, or one is in both, or the name is missing or too long.
        """
        with self.lock:
            self._known([*yes, *no])
            if set(yes) & set(no) or len(set(yes)) < len(yes):
                raise OptionError("a face stands twice in the batch", got=sorted(set(yes) & set(no)) or list(yes))
            name = cleaned(name)
            said: list[tuple[int, Verdict, str]] = [(face, "is", name) for face in yes]
            self._say(said + [(face, "not", name) for face in no])
            self.doubts += [face for face in no if face not in self.doubts]

    def rename(self, old: str, new: str) -> int:
        """Gives everybody called `old` the name `new`; says how many faces that were. Two names become one so, too."""
        with self.lock:
            new = cleaned(new)
            if old not in self.pool.persons:
                raise OptionError.unknown("nobody has that name", old, [p["name"] for p in self.people()])
            rows = np.flatnonzero(self.pool.labels == self.pool.persons.index(old))
            if old != new:
                self._say([(int(row), "is", new) for row in rows])
            return len(rows)

    def _say(self, said: Iterable[tuple[int, Verdict, str]]) -> None:
        at = now()
        lines = [Line(self.found.keys[face], name, verdict, "person", 1.0, at) for face, verdict, name in said]
        self.answers.say(lines)
        for line in lines:
            self._replay(self.row[line.key])
        self._stale += max(1, len(lines))
        self.rounds += len(lines)

    def undo(self) -> list[int]:
        """Takes back what was said last, one answer or one batch, and gives the faces; a single one is asked again."""
        with self.lock:
            last = self.answers.last_said()
            at = now()
            self.answers.say([Line(line.key, "", "undo", "person", 1.0, at) for line in last])
            rows = [self.row[line.key] for line in last if line.key in self.row]
            for row in rows:
                self._replay(row)
            self.doubts = [row for row in self.doubts if row not in rows]
            self._front = rows[0] if len(rows) == 1 else None
            self._stale += max(1, len(rows))
            self.rounds = max(0, self.rounds - len(rows))
            return rows

    def _known(self, faces: Sequence[int]) -> None:
        for face in faces:
            if not 0 <= face < len(self.found):
                raise OptionError("there is no such face", got=face, expected=f"0 to {len(self.found) - 1}")

    def finish(self) -> int:
        """Writes down what the machine is certain of and nobody has confirmed; gives how many names that are.

        A line of the machine that no longer holds is taken back.
        """
        with self.lock:
            self._stale = max(self._stale, self.questions if self._stale else 0)
            self.settle()
            at, lines = now(), []
            for row, key in enumerate(self.found.keys):
                before = self.answers.said(key, "machine")
                person = int(self.pool.free[row])
                name = self.pool.persons[person] if person >= 0 else ""
                if before is not None and before.name != name:
                    lines.append(Line(key, "", "undo", "machine", 0.0, at))
                if name and (before is None or before.name != name):
                    lines.append(Line(key, name, "is", "machine", float(self.pool.weights[row]), at))
            self.answers.say(lines)
            return int((self.pool.free >= 0).sum())


def cleaned(name: str) -> str:
    """A name with single blanks; OptionError if it is empty, too long, or holds what cannot be printed."""
    name = " ".join(name.split())
    if not name or len(name) > NAME or not name.isprintable():
        raise OptionError("this is no name", got=name, expected=f"1 to {NAME} characters that can be printed")
    return name


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / area if area > 0 else 0.0
