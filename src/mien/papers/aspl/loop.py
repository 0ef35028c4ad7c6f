"""The whole loop: classifiers, names for free, questions to a human, second looks, a looser pace, new features.

    pool = ActiveSelfPaced(features, numbers=EMBEDDINGS)
    pool.label(rows, names)                        # a few pictures of each person
    for _ in range(20):
        pool.turn(Oracle(truth))                   # or a person: Interactive(ask)
    names = pool.predict(other_features)

One picture is in one of four states: named by a human (v = 1), rejected by a human (v = 0: no face, or nobody that
matters), named for free (v by its loss, made anew every round), or open. The first two are the curriculum, which no
formula may change.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mien.errors import CheckpointError, OptionError, ShapeError, ValueRangeError
from mien.papers.aspl.annotator import Annotator, Answer, Oracle, Question
from mien.papers.aspl.refresh import Refresh
from mien.papers.aspl.selfpaced import Selection, Weighting, calibrated_pace, contradicted, joined, loosened, select
from mien.papers.aspl.svm import OneVsRest, Solver, fit_one_vs_rest

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

Rule = Literal["lowest", "random", "margin", "entropy"]
"""What is asked: "lowest" is the paper's (the smallest highest decision), the others are there to compare with."""
RULES: tuple[Rule, ...] = get_args(Rule)
Second = Literal["return", "ask", "off"]
"""What becomes of human labels that the classifiers go on contradicting: back into the pool, as the published code
does; shown to the human again, as the paper means it; nothing."""
SECONDS: tuple[Second, ...] = get_args(Second)

ROWS = 1 << 15
"""Pictures of which decisions are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Every constant of the loop. Defaults are the published code's; `EMBEDDINGS` suits unit vectors.

    Parameters
    ----------
    cost, positive, negative, bias, solver
        Of the classifiers, see `mien.papers.aspl.svm.fit_one_vs_rest`.
    min_positives
        Human labels that a person needs to get a classifier.
    pace
        First lambda of each classifier; "calibrated": a quantile of the loss of the labelled pictures, found when the
        first classifiers are there (see `mien.papers.aspl.selfpaced.calibrated_pace`).
    pace_step, pace_most
        What lambda grows by after each question round, times acc, and where it ends.
    accuracy
        acc: "contested", one less the share of a person's candidates that somebody else claims too; "one", always 1.
    weighting, floor
        Soft or hard weights of names for free, and their least value.
    self_paced
        Whether there are names for free at all.
    query_every
        Rounds from one question round to the next.
    queries
        Questions in a question round.
    scan
        Most pictures that are looked at for questions, drawn at random.
    rule
        Which are asked.
    diversity
        Candidates per question: of so many times as many, those that lie far from each other are asked. 1: just the
        first by the rule, as in the published code.
    neighbours, nearness
        When a picture shows somebody new, so many unclear pictures are asked too that lie nearer to it by `nearness`
        times than unclear pictures do on average. 0: none.
    second, miss_limit
        What happens to a human label that has been contradicted more than `miss_limit` times.
    refresh_every
        Rounds from one refresh of features to the next, where there is a refresh.
    """

    cost: float = 1e-3
    positive: float = 5.0
    negative: float = 1.0
    bias: float = -1.0
    solver: Solver = "newton"
    min_positives: int = 4
    pace: float | Literal["calibrated"] = 0.12
    pace_step: float = 0.08
    pace_most: float = 0.9
    accuracy: Literal["contested", "one"] = "contested"
    weighting: Weighting = "soft"
    floor: float = 0.0
    self_paced: bool = True
    query_every: int = 5
    queries: int = 1000
    scan: int = 40_000
    rule: Rule = "lowest"
    diversity: int = 1
    neighbours: int = 5
    nearness: float = 3.0
    second: Second = "return"
    miss_limit: int = 3
    refresh_every: int = 1

    def __post_init__(self) -> None:
        choices = {"rule": RULES, "second": SECONDS, "accuracy": ("contested", "one"), "weighting": ("soft", "hard")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise OptionError.unknown(f"unknown {name}", getattr(self, name), known)
        if isinstance(self.pace, str) and self.pace != "calibrated":
            raise OptionError("the first pace has no usable value", got=self.pace, expected='a number, or "calibrated"')
        least: dict[str, float] = {
            "min_positives": 1, "query_every": 1, "scan": 1, "diversity": 1, "refresh_every": 1, "queries": 0,
            "neighbours": 0, "miss_limit": 0, "pace_step": 0, "floor": 0, "nearness": 0,
        }  # fmt: skip
        for name, low in least.items():
            if not low <= getattr(self, name) < np.inf:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), expected=f"at least {low}")
        for name in ("pace", "pace_most", "cost", "positive", "negative"):
            value = getattr(self, name)
            if not isinstance(value, str) and not 0 < value < np.inf:
                raise OptionError(f"{name} is out of range", got=value, expected="a finite number above 0")
        if self.floor > 1:
            raise OptionError("floor is out of range", got=self.floor, expected="0 to 1")


CACD = Numbers(accuracy="one", weighting="hard")
"""As the published code runs on CACD (500 persons)."""
WEBFACE = replace(CACD, queries=5000)
"""And on the subset of CASIA-WebFace (925 persons)."""
EMBEDDINGS = Numbers(
    cost=1.0,
    bias=1.0,
    min_positives=1,
    pace="calibrated",
    floor=0.05,
    query_every=1,
    queries=20,
    scan=40_000,
    neighbours=0,
)
"""For unit vectors of a network that is not fine-tuned, and a human who answers some questions at a time.

Unit vectors lie on all sides of the origin, and a border through it cannot keep the others on the far side: with three
labels of each of 40 people, the bias term turned an accuracy of 0.78 into 0.86.
"""


# --- The loop --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a round did. Counts of pictures, unless said otherwise.

    Parameters
    ----------
    turn
        Its number, from 0.
    labels
        Named by a human, at its beginning.
    answers
        Given by a human so far, the first labels and rejections too.
    persons, classifiers
        Names known, and those with a classifier.
    free
        Named for free in this round.
    unclear, ambiguous
        Without a candidate, and with several.
    asked, expelled
        Questions of this round, and human labels that were taken back.
    pace
        Mean lambda in this round.
    score
        What `evaluate` gave with the classifiers of this round; NaN without one.
    """

    turn: int
    labels: int
    answers: int
    persons: int
    classifiers: int
    free: int
    unclear: int
    ambiguous: int
    asked: int
    expelled: int
    pace: float
    score: float = float("nan")


class ActiveSelfPaced:
    """The state of the loop over n pictures.

    Parameters
    ----------
    features
        (n, d) of all pictures that may get a name.
    numbers
        The constants.
    seed
        Of the random scan and of random questions.

    Attributes
    ----------
    persons
        Names, in the order in which they came up.
    labels
        (n,) person by a human; -1: none.
    asked
        (n,) bool: was labelled or asked about by a human, ever. What is so is never asked again by the rule.
    rejected
        (n,) bool: a human said that it shows nobody that matters.
    misses
        (n,) how often its human label was contradicted.
    free, weights
        (n,) person by the self-paced step, -1 for none; and v.
    pace
        (k,) lambda of each person; NaN until the person has a classifier.
    classifiers
        The present ones.
    history
        A `Turn` for each round.
    """

    def __init__(self, features: NDArray[np.floating], *, numbers: Numbers | None = None, seed: int = 0) -> None:
        self.numbers = Numbers() if numbers is None else numbers
        self.seed = seed
        self.turns = 0
        n = len(features)
        self.persons: list[str] = []
        self.labels = np.full(n, -1, np.int64)
        self.asked = np.zeros(n, np.bool_)
        self.rejected = np.zeros(n, np.bool_)
        self.misses = np.zeros(n, np.int64)
        self.free = np.full(n, -1, np.int64)
        self.weights = np.zeros(n)
        self.pace = np.zeros(0)
        self.again: list[int] = []
        """Rows of human labels that wait for a second look."""
        self.history: list[Turn] = []
        self.selection: Selection | None = None
        self._index: dict[str, int] = {}
        self._denied: dict[tuple[int, int], None] = {}
        self._done = {"certified": -1, "asked": -1, "expelled": 0, "questions": 0}
        self.set_features(features)

    def set_features(self, features: NDArray[np.floating]) -> None:
        """New features of the same pictures; classifiers of the old ones no longer count."""
        x = np.ascontiguousarray(features)
        if x.ndim != 2 or len(x) != len(self.labels):
            raise ShapeError("features have a row for each picture", got=x.shape, expected=f"({len(self.labels)}, d)")
        if not np.isfinite(x).all():
            raise ValueRangeError("a feature is NaN or infinite", got=x)
        self.features = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
        self.classifiers = OneVsRest.untrained(len(self.persons), x.shape[1])
        self.selection = None
        self._fitted = False

    # ------------------------------------------------------------------------------------------ what a human says

    def person(self, name: str) -> int:
        """Number of a person; whoever is new gets one."""
        if not name.strip():
            raise ValueRangeError("a person needs a name", got=repr(name))
        if name not in self._index:
            self._index[name] = len(self.persons)
            self.persons.append(name)
            self.pace = np.append(self.pace, np.nan)
            old = self.classifiers
            self.classifiers = OneVsRest(
                np.vstack([old.weights, np.zeros((1, old.weights.shape[1]))]), np.append(old.bias, 0.0),
                np.append(old.trained, False),
            )  # fmt: skip
        return self._index[name]

    def label(self, rows: Sequence[int] | Ints, names: Sequence[str]) -> None:
        """A human names pictures."""
        for row, name in zip(rows, names, strict=True):
            self.answer(int(row), Answer(str(name)))

    def answer(self, row: int, answer: Answer) -> bool:
        """Takes a human's answer about a picture; says whether it named somebody new."""
        self._fitted = False
        self.asked[row] = True
        if row in self.again:
            self.again.remove(row)
        self.misses[row] = 0
        if answer.name is None:
            if answer.reject:
                self.labels[row], self.free[row], self.weights[row] = -1, -1, 0.0
                self.rejected[row] = True
            return False
        new = answer.name not in self._index
        person = self.person(answer.name)
        self._denied.pop((row, person), None)
        self.labels[row], self.free[row], self.weights[row], self.rejected[row] = person, -1, 0.0, False
        return new

    def deny(self, row: int, name: str) -> None:
        """A human says who it is not: the person is no candidate for the picture any more."""
        person = self.person(name)
        self._denied[row, person] = None
        if self.free[row] == person:
            self.free[row], self.weights[row] = -1, 0.0
            self._fitted = False

    def allow(self, row: int, name: str) -> None:
        """Takes `deny` back."""
        self._denied.pop((row, self.person(name)), None)

    def withdraw(self, row: int) -> None:
        """Takes every answer about a picture back, as if it had not been asked."""
        self.labels[row], self.asked[row], self.rejected[row], self.misses[row] = -1, False, False, 0
        if row in self.again:
            self.again.remove(row)
        self._fitted = False

    @property
    def denied(self) -> tuple[Ints, Ints]:
        """Rows and persons of all that was denied."""
        pairs = np.array(list(self._denied), np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    @property
    def open(self) -> Mask:
        """(n,) bool: neither named nor rejected by a human."""
        return (self.labels < 0) & ~self.rejected

    # ------------------------------------------------------------------------------------------ the steps of a round

    def fit(self) -> OneVsRest:
        """Trains the classifiers on human labels (weight 1) and names for free (weight v)."""
        if self._fitted:
            return self.classifiers
        named = np.where(self.labels >= 0, self.labels, self.free)
        rows = np.flatnonzero(named >= 0)
        weights = np.where(self.labels[rows] >= 0, 1.0, self.weights[rows])
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.persons))
        trained = counts >= self.numbers.min_positives
        n = self.numbers
        self.classifiers = fit_one_vs_rest(
            self.features[rows], named[rows], persons=len(self.persons), cost=n.cost, positive=n.positive,
            negative=n.negative, sample_weights=weights, trained=trained, bias=n.bias, start=self.classifiers,
            solver=n.solver,
        )  # fmt: skip
        self._fitted = True
        fresh = self.classifiers.trained & np.isnan(self.pace)
        if fresh.any():
            self.pace[fresh] = self._first_pace()
        return self.classifiers

    def _first_pace(self) -> float:
        if not isinstance(self.numbers.pace, str):
            return float(self.numbers.pace)
        rows = np.flatnonzero(self.labels >= 0)
        rows = rows[self.classifiers.trained[self.labels[rows]]]
        own = self.classifiers.decisions(self.features[rows])[np.arange(len(rows)), self.labels[rows]]
        return calibrated_pace(own.astype(np.float64), most=self.numbers.pace_most)

    def certify(self) -> Ints:
        """Counts contradictions of human labels, and gives the rows that have had too many.

        They are back in the pool, or wait in `again`, as `Numbers.second` says. A person without a classifier
        contradicts nobody.
        """
        if self.numbers.second == "off" or not self.classifiers.trained.any():
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.labels >= 0)
        rows = rows[self.classifiers.trained[self.labels[rows]]]
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            wrong = contradicted(self.classifiers.decisions(self.features[part]), self.labels[part])
            self.misses[part[wrong]] += 1
        tired = rows[self.misses[rows] > self.numbers.miss_limit]
        if self.numbers.second == "ask":
            self.again += [int(row) for row in tired if int(row) not in self.again]
        elif len(tired):
            self.labels[tired], self.misses[tired] = -1, 0  # `asked` stays: they are never asked again
            self._fitted = False
        return tired

    def select(self) -> Selection:
        """Names for free, from scratch; where the loop is not self-paced, only who is unclear."""
        eligible, pace = self.open, np.where(np.isnan(self.pace), 1e-9, self.pace)
        denied_rows, denied_persons = self.denied
        parts = []
        for start in range(0, max(1, len(self.features)), ROWS):
            stop = min(start + ROWS, len(self.features))
            inside = (denied_rows >= start) & (denied_rows < stop)
            parts.append(
                select(
                    self.classifiers.decisions(self.features[start:stop]), pace, eligible=eligible[start:stop],
                    denied=(denied_rows[inside] - start, denied_persons[inside]), weighting=self.numbers.weighting,
                    floor=self.numbers.floor, entropy=self.numbers.rule == "entropy",
                )
            )  # fmt: skip
        self.selection = joined(parts)
        before = self.free, self.weights
        if self.numbers.self_paced:
            self.free, self.weights = self.selection.person.astype(np.int64), self.selection.weight
        else:
            self.free, self.weights = np.full_like(self.free, -1), np.zeros_like(self.weights)
        if not (np.array_equal(before[0], self.free) and np.array_equal(before[1], self.weights)):
            self._fitted = False
        return self.selection

    def pool(self) -> Ints:
        """Rows that may be asked about: never asked, not rejected, no name for free; at most `Numbers.scan`."""
        rows = np.flatnonzero(self.open & ~self.asked & (self.free < 0))
        if len(rows) > self.numbers.scan:
            rng = np.random.default_rng([self.seed, 5, self.turns])
            rows = np.sort(rng.choice(rows, self.numbers.scan, replace=False))
        return rows

    def rank(self, count: int, rows: Ints | None = None) -> Ints:
        """The `count` rows to ask about next, the most wanted first, by the rule and for diversity."""
        rows = self.pool() if rows is None else rows
        count = min(count, len(rows))
        if not count:
            return np.zeros(0, np.int64)
        key = self._keys(rows)
        # Equal keys (nobody has a classifier yet) are drawn, or the first rows would be asked in file order.
        order = np.lexsort((np.random.default_rng([self.seed, 7, self.turns]).random(len(rows)), key))
        many = min(len(rows), count * self.numbers.diversity)
        candidates = rows[order[:many]]
        return candidates[:count] if many == count else candidates[_spread(self.features[candidates], count)]

    def _keys(self, rows: Ints) -> NDArray[np.float64]:
        """What the rule sorts by, the smallest first."""
        if self.numbers.rule == "random":
            return np.zeros(len(rows))
        found = self._decided(rows)
        if self.numbers.rule == "lowest":
            return found.top
        if self.numbers.rule == "margin":
            with np.errstate(invalid="ignore"):
                return np.asarray(np.nan_to_num(found.top - found.second, nan=0.0, posinf=np.inf))
        return -found.entropy

    def _decided(self, rows: Ints) -> Selection:
        pace = np.where(np.isnan(self.pace), 1e-9, self.pace)
        parts = [
            select(
                self.classifiers.decisions(self.features[rows[s : s + ROWS]]), pace,
                entropy=self.numbers.rule == "entropy",
            )
            for s in range(0, len(rows), ROWS)
        ]  # fmt: skip
        return joined(parts)

    def near(self, row: int) -> Ints:
        """Unclear rows near a picture that shows somebody new: nearer by `nearness` times than they are on average."""
        rows = self.pool()
        if self.selection is not None:
            rows = rows[self.selection.unclear[rows]]
        rows = rows[rows != row]
        if not len(rows) or not self.numbers.neighbours:
            return np.zeros(0, np.int64)
        distances = np.linalg.norm(self.features[rows] - self.features[row], axis=1)
        order = np.argsort(distances, kind="stable")
        close = order[self.numbers.nearness * distances[order] < distances.mean()]
        return np.asarray(rows[close[: self.numbers.neighbours]])

    def question(self, row: int, why: Literal["unclear", "near", "again"] = "unclear") -> Question:
        """A picture as a question, with the names that the classifiers think of."""
        suggestions: list[tuple[str, float]] = []
        if self.classifiers.trained.any():
            decided = self.classifiers.decisions(self.features[row : row + 1])[0].astype(np.float64)
            suggestions = [
                (self.persons[person], float(decided[person]))
                for person in np.argsort(-decided, kind="stable")[:5]
                if np.isfinite(decided[person]) and (row, int(person)) not in self._denied
            ]
        said = self.persons[self.labels[row]] if self.labels[row] >= 0 else None
        return Question(row, why, tuple(suggestions), said)

    def loosen(self) -> None:
        """A looser pace for everybody who has a classifier."""
        accuracy: Any = 1.0
        if self.numbers.accuracy == "contested" and self.selection is not None:
            accuracy = np.ones(len(self.persons))
            accuracy[: len(self.selection.accuracy)] = self.selection.accuracy
        known = ~np.isnan(self.pace)
        grown = loosened(
            np.where(known, self.pace, 0), accuracy, step=self.numbers.pace_step, most=self.numbers.pace_most
        )
        self.pace = np.where(known, grown, np.nan)

    # ------------------------------------------------------------------------------------------ rounds

    def turn(
        self,
        annotator: Annotator | None = None,
        *,
        refresh: Refresh | None = None,
        evaluate: Callable[[ActiveSelfPaced], float] | None = None,
        folder: Path | None = None,
    ) -> Turn:
        """One round.

        Parameters
        ----------
        annotator
            Who answers; None asks nothing, and the pace still grows.
        refresh
            Gives new features at the end of the round.
        evaluate
            A score with the classifiers that the round begins with.
        folder
            Where the state is written after every answer and at the end; a round that was interrupted goes on from
            there, without asking anything twice.
        """
        n, number = self.numbers, self.turns
        self.fit()
        score = evaluate(self) if evaluate is not None else float("nan")
        labels, pace = int((self.labels >= 0).sum()), self.pace[~np.isnan(self.pace)]
        if self._done["certified"] < number:
            self._done.update(certified=number, expelled=len(self.certify()), questions=0)
            self.fit()
            self._saved(folder)
        if (number + 1) % n.query_every == 0 and self._done["asked"] < number:
            if annotator is not None:
                self._ask(annotator, folder)
            self._done["asked"] = number
            self.loosen()
        self.select()
        found = self.selection
        assert found is not None
        free = int((self.free >= 0).sum())
        if refresh is not None and (number + 1) % n.refresh_every == 0:
            self._refresh(refresh)
            self.selection = found  # of this round, whatever the features are now: acc follows from it
        self.history.append(
            Turn(
                turn=number, labels=labels, answers=int(self.asked.sum()), persons=len(self.persons),
                classifiers=int(self.classifiers.trained.sum()), free=free, unclear=int(found.unclear.sum()),
                ambiguous=int(found.ambiguous.sum()), asked=self._done["questions"], expelled=self._done["expelled"],
                pace=float(pace.mean()) if len(pace) else float("nan"), score=score,
            )
        )  # fmt: skip
        self.turns += 1
        self._saved(folder, refresh)
        return self.history[-1]

    def _ask(self, annotator: Annotator, folder: Path | None) -> None:
        """Second looks first, then what the rule wants, then what lies near somebody new."""
        left = max(0, self.numbers.queries - self._done["questions"])
        questions = [self.question(row, "again") for row in list(self.again)]
        questions += [self.question(int(row)) for row in self.rank(left)]
        new = self._answered(annotator, questions, folder)
        for row in new:
            near = self.near(row)
            if len(near):
                self._answered(annotator, [self.question(int(one), "near") for one in near], folder)

    def _answered(self, annotator: Annotator, questions: Sequence[Question], folder: Path | None) -> list[int]:
        new = []
        for question, answer in zip(questions, annotator(questions), strict=False):
            if self.answer(question.row, answer):
                new.append(question.row)
            self._done["questions"] += 1
            if folder is not None and not isinstance(annotator, Oracle):
                self.save(folder)
        return new

    def _refresh(self, refresh: Refresh) -> None:
        """Fine-tunes on what has a name, of persons who have a classifier, with labels numbered anew."""
        self.fit()
        named = np.where(self.labels >= 0, self.labels, self.free)
        rows = np.flatnonzero((named >= 0) & np.append(self.classifiers.trained, False)[named])
        if not len(rows):
            return
        persons = np.flatnonzero(self.classifiers.trained)
        place = np.full(len(self.persons), -1)
        place[persons] = np.arange(len(persons))
        weights = np.where(self.labels[rows] >= 0, 1.0, self.weights[rows])
        self.set_features(
            refresh(
                rows, place[named[rows]], weights, persons=tuple(self.persons[p] for p in persons), turn=self.turns
            )
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ results

    def predict(self, features: NDArray[np.floating], *, threshold: float = -np.inf) -> list[str | None]:
        """Names by the highest decision; None where that is below `threshold` (0 is natural for strangers)."""
        self.fit()
        if not self.classifiers.trained.any():
            return [None] * len(features)
        decided = self.classifiers.decisions(features)
        best = decided.argmax(1)
        sure = decided[np.arange(len(decided)), best] >= threshold
        return [self.persons[person] if good else None for person, good in zip(best, sure, strict=True)]

    def accuracy(self, features: NDArray[np.floating], names: Sequence[str]) -> float:
        """Share of pictures that get their name, over all persons, also those who have no classifier yet."""
        found = self.predict(features)
        return float(np.mean([one == str(name) for one, name in zip(found, names, strict=True)]))

    def precision(self, truth: Sequence[str]) -> float:
        """Share of the names for free that are right; NaN if there are none."""
        rows = np.flatnonzero(self.free >= 0)
        if not len(rows):
            return float("nan")
        return float(np.mean([self.persons[self.free[row]] == str(truth[int(row)]) for row in rows]))

    # ------------------------------------------------------------------------------------------ on the disk

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything but the features, as arrays for `numpy.savez`."""
        rows, persons = self.denied
        plain = {
            "version": 1, "numbers": asdict(self.numbers), "seed": self.seed, "turns": self.turns,
            "persons": self.persons, "again": self.again, "done": self._done,
            "history": [asdict(turn) for turn in self.history],
        }  # fmt: skip
        return {
            "json": np.frombuffer(json.dumps(plain).encode(), np.uint8), "labels": self.labels, "asked": self.asked,
            "rejected": self.rejected, "misses": self.misses, "free": self.free, "weights": self.weights,
            "pace": self.pace, "denied": np.stack([rows, persons], 1), "svm": self.classifiers.weights,
            "svm_bias": self.classifiers.bias, "svm_trained": self.classifiers.trained,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """``state.npz`` in `folder`, replaced whole."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "state.npz.part"
        with partial.open("wb") as file:
            np.savez(file, **self.state())  # type: ignore[arg-type]
        partial.replace(folder / "state.npz")

    def _saved(self, folder: Path | None, refresh: Refresh | None = None) -> None:
        if folder is None:
            return
        keep = getattr(refresh, "save", None)
        if keep is not None:
            folder.mkdir(parents=True, exist_ok=True)
            keep(folder / "network.safetensors")
        self.save(folder)

    @classmethod
    def load(cls, folder: Path, features: NDArray[np.floating]) -> ActiveSelfPaced:
        """The loop that was saved, over the same pictures. With a refresh, `features` are those of its loaded network.

        Raises
        ------
        CheckpointError
            There is no such state, it is damaged, or of another number of pictures.
        """
        path = folder / "state.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            plain = json.loads(arrays["json"].tobytes())
            if plain["version"] != 1:
                raise ValueError(f"version {plain['version']}")
            numbers = Numbers(**{f.name: plain["numbers"][f.name] for f in fields(Numbers)})
            made = cls(features, numbers=numbers, seed=plain["seed"])
            for name in ("labels", "asked", "rejected", "misses", "free", "weights"):
                if arrays[name].shape != (len(features),):
                    raise ValueError(f"{len(arrays[name])} pictures, not {len(features)}")
                setattr(made, name, arrays[name])
            for name in plain["persons"]:
                made.person(name)
            made.pace, made.again, made.turns = arrays["pace"], list(plain["again"]), plain["turns"]
            made._done = dict(plain["done"])
            made._denied = {(int(row), int(person)): None for row, person in arrays["denied"]}
            made.history = [Turn(**turn) for turn in plain["history"]]
            if arrays["svm"].shape == made.classifiers.weights.shape:
                made.classifiers = OneVsRest(arrays["svm"], arrays["svm_bias"], arrays["svm_trained"])
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                "the state of the loop cannot be read", got=f"{path}: {error}",
                expected="what save() wrote of these pictures",
            ) from error  # fmt: skip
        return made


def _spread(x: NDArray[np.floating], count: int) -> Ints:
    """Places of `count` rows that lie far from each other, begun with the first: the farthest next, again and again."""
    chosen = [0]
    nearest = np.linalg.norm(x - x[0], axis=1)
    while len(chosen) < count:
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(x - x[chosen[-1]], axis=1))
    return np.array(chosen, np.int64)
