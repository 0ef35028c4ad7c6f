"""Tables of labels: attributes or classes, what is judged, people, and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import OptionError, TableError
from mien.geometry.checks import choice
from mien.verbs import _pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

TASKS = ("auto", "attributes", "classes")
PEOPLE = ("person", "identity")
BOX = ("xmin", "ymin", "xmax", "ymax")
YES, NO = {"1", "true", "yes"}, {"0", "-1", "false", "no"}


@dataclass(frozen=True)
class ProbedLabel:
    """How well one label is told.

    Parameters
    ----------
    label
        The attribute or class.
    figure
        Average precision; of a class the share of its pictures that are right.
    chance
        What scores without a meaning would give: the share of pictures that have it; of classes one by their number.
    trained, tested
        Pictures that have it, among those trained on and those judged.
    """

    label: str
    figure: float
    chance: float
    trained: int
    tested: int


@dataclass(frozen=True, eq=False)
class Table:
    """Pictures and their labels: `truth` (n, a) bool for attributes, (n,) numbers for classes."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    truth: NDArray[Any]
    known: NDArray[np.bool_] | None
    test: NDArray[np.bool_]
    people: NDArray[np.str_] | None
    boxes: NDArray[np.float32] | None

    @property
    def metric(self) -> str:
        return "mean average precision" if self.truth.ndim == 2 else "mean class accuracy"

    def take(self, rows: NDArray[np.int64]) -> Table:
        """The table of some rows."""

        def some(column: Any) -> Any:
            return None if column is None else column[rows]

        return Table(
            tuple(self.files[row] for row in rows), self.names, self.truth[rows], some(self.known), self.test[rows],
            some(self.people), some(self.boxes),
        )  # fmt: skip

    def groups(self, part: NDArray[np.bool_]) -> NDArray[np.str_] | None:
        return None if self.people is None else self.people[part]

    def check(self) -> None:
        """TableError unless there is something to train on and something to judge."""
        if self.test.all() or not self.test.any():
            raise TableError(
                "there must be pictures to train on and others to judge",
                got=f"{int((~self.test).sum())} and {int(self.test.sum())}",
            )

    def rows(self, figures: dict[str, float]) -> tuple[ProbedLabel, ...]:
        rows = []
        for column, name in enumerate(self.names):
            if self.truth.ndim == 1:
                mine = self.truth == column
                chance = 1 / len(self.names)
            else:
                there = np.ones(len(self.truth), bool) if self.known is None else self.known[:, column]
                mine = self.truth[:, column] & there
                judged = there & self.test
                chance = float(mine[judged].mean()) if judged.any() else float("nan")
            trained, tested = int((mine & ~self.test).sum()), int((mine & self.test).sum())
            rows.append(ProbedLabel(name, figures[name], chance, trained, tested))
        return tuple(rows)


def read(path: str, labels: str, columns: Sequence[str], task: str, held: float, seed: int) -> Table:
    """The table of labels, strictly."""
    from mien.data.sets import held_out

    choice("task", task, TASKS)
    if not 0 < held < 1:
        raise OptionError("held is a share", got=held, expected="above 0, below 1")
    rows = _pairs.read_table(labels, ("file",))
    where = Path(labels).name
    person = next((name for name in PEOPLE if name in rows[0] and name not in columns), None)
    if columns:
        _pairs.check_columns(labels, list(columns))
    ours = {"file", "split", *BOX, *filter(None, [person])}
    wanted = [name for name in rows[0] if name and name not in ours] if not columns else list(columns)
    if not wanted:
        raise TableError(f"{where} has no column of labels", got=", ".join(rows[0]), expected="one beside file")
    cells = {name: _pairs.column(rows, name) for name in wanted}
    plain = {name: set(np.char.lower(column).tolist()) <= YES | NO | {""} for name, column in cells.items()}
    if task == "auto":
        task = "attributes" if all(plain.values()) else "classes"
    people = None if person is None else _pairs.column(rows, person)
    known: NDArray[np.bool_] | None = None
    if task == "attributes":
        odd = [name for name, good in plain.items() if not good]
        if odd:
            raise TableError(
                f"a column of {where} holds more than yes and no", got=odd[0], expected="1, 0, -1 or nothing",
                hint="choose with columns=; one column of names makes classes",
            )  # fmt: skip
        text = np.char.lower(np.stack([cells[name] for name in wanted], 1))
        truth: NDArray[Any] = np.isin(text, list(YES))
        names, known = tuple(wanted), text != ""
        known = None if known.all() else known
    else:
        if len(wanted) != 1:
            raise TableError(
                "classes stand in one column", got=wanted, expected="one name", hint="choose with columns="
            )
        column = cells[wanted[0]]
        if (column == "").any():
            raise TableError(f"a picture of {where} has no class", got=f"line {int(np.argmax(column == '')) + 2}")
        unique, truth = np.unique(column, return_inverse=True)
        names, truth = tuple(unique.tolist()), truth.reshape(-1).astype(np.int64)
    if "split" in rows[0]:
        split = _pairs.column(rows, "split")
        odd_ones = sorted(set(split.tolist()) - {"train", "test"})
        if odd_ones:
            raise TableError(f"split of {where} is train or test", got=odd_ones[0])
        test = split == "test"
    else:
        keys = [row["file"] for row in rows] if people is None else people.tolist()
        test = held_out([f"{seed} {key}" for key in keys], held)
    files = tuple(Path(path) / row["file"].strip() for row in rows)
    return Table(files, names, truth, known, test, people, boxes_of(rows, where))


def boxes_of(rows: list[dict[str, str]], where: str) -> NDArray[np.float32] | None:
    if not all(name in rows[0] for name in BOX):
        return None
    return np.array(
        [[_pairs.number(row, name, line, where) for name in BOX] for line, row in enumerate(rows, 2)], np.float32
    )


def mean(values: Sequence[float]) -> float:
    there = [value for value in values if np.isfinite(value)]
    return float(np.mean(there)) if there else float("nan")
