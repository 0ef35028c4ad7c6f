"""Questions, and who answers them: an oracle that knows the truth, or a human behind a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from mien.errors import OptionError


@dataclass(frozen=True)
class Question:
    """What a human is asked.

    Parameters
    ----------
    row
        The picture.
    why
        "unclear" (nobody is sure), "near" (near somebody new) or "again" (a label that the classifiers contradict).
    suggestions
        Names with their decisions, the highest first; at most five.
    said
        The name that it has now, where it is asked again.
    """

    row: int
    why: Literal["unclear", "near", "again"]
    suggestions: tuple[tuple[str, float], ...] = ()
    said: str | None = None


@dataclass(frozen=True)
class Answer:
    """A human's answer: a name; or None with `reject` for "nobody that matters", without for "cannot say"."""

    name: str | None = None
    reject: bool = False


REJECT, SKIP = Answer(reject=True), Answer()


class Annotator(Protocol):
    """Answers questions, one by one or all at once."""

    def __call__(self, questions: Sequence[Question]) -> Iterable[Answer]:
        """An answer for each question, in order; a generator is taken as far as its answers come."""
        ...


class Oracle:
    """Knows the truth, and errs now and then.

    Parameters
    ----------
    truth
        (n,) names of all pictures of the pool; "" is nobody that matters, which is rejected.
    error
        Share of answers that name another person, drawn by picture: the same error comes again when asked again,
        unless `wavering`.
    wavering
        Whether every answer is drawn anew.
    seed
        Of the errors.
    """

    def __init__(self, truth: Sequence[str], *, error: float = 0.0, wavering: bool = False, seed: int = 0) -> None:
        if not 0 <= error <= 1:
            raise OptionError("the share of wrong answers is out of range", got=error, expected="0 to 1")
        self.truth = [str(name) for name in truth]
        self.people = sorted({name for name in self.truth if name})
        self.error, self.wavering, self.seed = error, wavering, seed
        self.asked = 0

    def __call__(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            yield self.answer(question.row)

    def answer(self, row: int) -> Answer:
        """What is said of one picture."""
        name = self.truth[row]
        rng = np.random.default_rng([self.seed, row, self.asked if self.wavering else 0])
        self.asked += 1
        if name and len(self.people) > 1 and rng.random() < self.error:
            name = str(rng.choice([other for other in self.people if other != name]))
        return Answer(name) if name else REJECT


class Interactive:
    """A human behind a function: ``ask(question)`` gives a name, "" to reject, or None to skip."""

    def __init__(self, ask: Callable[[Question], str | None]) -> None:
        self.ask = ask

    def __call__(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            said = self.ask(question)
            yield SKIP if said is None else REJECT if not said.strip() else Answer(" ".join(said.split()))
