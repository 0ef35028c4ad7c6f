"""Tables of pairs and of people: read strictly, with errors that say which row is wrong."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien.errors import MediaNotFound, TableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRUE, _FALSE = {"1", "true", "yes", "same"}, {"0", "false", "no", "different"}


def read_table(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has at least `columns`.

    Raises
    ------
    MediaNotFound, TableError
        No such file; a column is missing, or there is no row.
    """
    file = Path(path)
    if not file.is_file():
        raise MediaNotFound("there is no such table", got=str(path), hint="check the path; a folder is not a table")
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [name for name in columns if name not in header]
            if missing:
                near = {name: difflib.get_close_matches(name, header, 1) for name in missing}
                hint = "; ".join(f"rename {n[0]!r} to {name!r}" for name, n in near.items() if n)
                raise TableError(
                    f"{file.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
                    got=", ".join(header) or "an empty file",
                    expected=", ".join(columns),
                    hint=hint or f"the first line must be a header such as {','.join(columns)}",
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"{file.name} is not a CSV file in UTF-8", got=str(error), hint="save it as CSV, UTF-8"
        ) from error
    if not rows:
        raise TableError(f"{file.name} has a header but no row", expected=", ".join(columns))
    for number, row in enumerate(rows, 2):
        for name in columns:
            if not (row[name] or "").strip():
                raise TableError(f"line {number} of {file.name} has no value for {name}", got=dict(row))
    return rows


def header_of(path: str | os.PathLike[str]) -> list[str]:
    """Column names of a CSV file; empty if it cannot be read (`read_table` then says why)."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            return [name.strip() for name in next(csv.reader(stream), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def number(row: dict[str, str], name: str, line: int, file: str) -> float:
    """A finite number of a row."""
    try:
        value = float(row[name])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise TableError(f"line {line} of {file}: {name} is not a number", got=row[name])
    return value


def column(rows: Sequence[dict[str, str]], name: str) -> NDArray[np.str_]:
    """The texts (n,) of a column, without the blanks around them; an empty cell is ""."""
    return np.array([(row.get(name) or "").strip() for row in rows], np.str_)


def check_columns(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """TableError unless the table has columns of these names; their cells may be empty."""
    header = header_of(path)
    missing = [name for name in names if name not in header]
    if missing:
        raise TableError(
            f"{Path(path).name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            got=", ".join(header) or "an empty file",
            expected=", ".join(names),
            hint="name columns that the table has",
        )


@dataclass(frozen=True)
class Pairs:
    """Pairs of pictures.

    Parameters
    ----------
    files, names
        The pictures, and what the table calls them.
    a, b
        (n,) index into `files`.
    same
        (n,) whether they show the same person.
    fold
        (n,) where the table has folds.
    labels
        {name: (n,)} other columns that were asked for, as text.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None
    labels: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.same)


def read_pairs(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    labels: Sequence[str] = (),
    exist: bool = True,
) -> Pairs:
    """A table of pairs ``a,b,same[,fold]``; file names are relative to `images`, by default to the table's
    folder. `labels` are further columns that are wanted, whose cells may be empty. Without `exist` no picture need
    be there: the embeddings are, or the names are those of templates.

    Raises
    ------
    MediaNotFound, TableError
        No such table or folder, missing columns, a row that cannot be read, pairs of one kind only, or none
        of the pictures is there.
    """
    table = Path(path)
    rows = read_table(table, ("a", "b", "same"))
    check_columns(table, labels)
    folder = folder_of(images, table)
    index: dict[str, int] = {}
    a, b, same, fold = [], [], [], []
    folds = "fold" in rows[0]
    for line, row in enumerate(rows, 2):
        said = row["same"].strip().lower()
        if said not in _TRUE | _FALSE:
            raise TableError(
                f"line {line} of {table.name}: same is neither 1 nor 0", got=row["same"], expected="1 or 0"
            )
        same.append(said in _TRUE)
        a.append(index.setdefault(row["a"].strip(), len(index)))
        b.append(index.setdefault(row["b"].strip(), len(index)))
        if folds:
            fold.append(int(number(row, "fold", line, table.name)))
    if all(same) or not any(same):
        raise TableError(
            f"{table.name} has only {'same' if same[0] else 'different'} pairs",
            got=f"{len(same)} rows",
            expected="pairs of the same person and of different people",
        )
    files = existing(folder, list(index), table) if exist else tuple(folder / name for name in index)
    return Pairs(
        files, tuple(index), np.array(a), np.array(b), np.array(same), np.array(fold) if folds else None,
        {name: column(rows, name) for name in labels},
    )  # fmt: skip


def read_people(
    path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    """A table of people ``file,identity``: the files, and a number for the person of each."""
    table = Path(path)
    rows = read_table(table, ("file", "identity"))
    names = sorted({row["identity"].strip() for row in rows})
    if len(names) < 2:
        raise TableError(f"{table.name} names one person only", expected="two people at least")
    number_of = {name: i for i, name in enumerate(names)}
    files = existing(folder_of(images, table), [row["file"].strip() for row in rows], table)
    return files, np.array([number_of[row["identity"].strip()] for row in rows])


def folder_of(images: str | os.PathLike[str] | None, table: Path) -> Path:
    """The folder that file names of a table are relative to, by default the table's own."""
    folder = table.parent if images is None else Path(images)
    if not folder.is_dir():
        raise MediaNotFound("there is no such folder of pictures", got=str(folder), hint="give images= the folder")
    return folder


def existing(folder: Path, names: Sequence[str], table: Path) -> tuple[Path, ...]:
    """Paths of all `names`; TableError if there is none of them, which means the wrong folder."""
    files = tuple(folder / name for name in names)
    if not any(file.exists() for file in files):
        raise TableError(
            f"none of the pictures that {table.name} names is in {folder}",
            got=f"{names[0]} and {len(names) - 1} more",
            hint="give images= the folder that the names are relative to",
        )
    return files
