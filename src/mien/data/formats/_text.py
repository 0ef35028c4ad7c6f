"""Text lists: lines, and columns of numbers, with errors that name file and line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.formats.samples import Tell
from mien.errors import TableError
from mien.media.files import of_os_error


def text_of(path: Path) -> str:
    """A text file; TableError if it is no UTF-8, MediaError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise of_os_error(error, path) from error
    except UnicodeDecodeError:
        raise TableError(f"{path.name} is no text", got=path, expected="UTF-8") from None


def lines_of(path: Path) -> list[str]:
    """Lines of a text file without the blank ones at its end."""
    return text_of(path).rstrip().splitlines()


def numbers(fields: list[str], kind: type = float) -> list[Any] | None:
    """`fields` as numbers, or None if one of them is none (NaN and infinity are none either)."""
    try:
        values = [kind(field) for field in fields]
    except (ValueError, OverflowError):
        return None
    return values if all(-1e15 < value < 1e15 for value in values) else None


def table_of_ints(path: Path, columns: int, tell: Tell) -> NDArray[np.int64]:
    """(n, columns) of a file of whole numbers between blanks: 15 million lines in some seconds.

    Lines that are not so are told and left out, which costs a slower reading of the whole.
    """
    text = text_of(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            flat = np.fromstring(text, np.int64, sep=" ")
            if len(flat) == columns * sum(1 for line in text.splitlines() if line.strip()):
                return flat.reshape(-1, columns)
        except (ValueError, DeprecationWarning):
            pass
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        row = numbers(line.split(), int)
        if row is None or len(row) != columns:
            if line.strip():
                tell("row", f"{path.name} line {number}", bad_row(path, number, line, f"{columns} whole numbers"))
            continue
        rows.append(row)
    return np.array(rows, np.int64).reshape(-1, columns)


def bad_row(path: Path, number: int, line: str, expected: str) -> TableError:
    """The error for line `number` (from 1)."""
    return TableError(
        f"{path.name} line {number} is not as it should be", got=line or "an empty line", expected=expected
    )


def wrong_count(path: Path, what: str, got: int, expected: int) -> TableError:
    """The error for a file that says how many lines it has, and has others."""
    return TableError(f"{path.name} has another number of {what} than it says", got=got, expected=expected)
