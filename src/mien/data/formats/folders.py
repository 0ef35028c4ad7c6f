"""Image folders (one folder a person) and lists of pictures (CSV, TSV, or two columns without a header)."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.data.formats._text import bad_row, text_of
from mien.data.formats.samples import Files, Samples, Tell, numbered, picked, strict, unique_rows
from mien.errors import EmptyMedia, MediaNotFound, TableError
from mien.media.files import of_os_error
from mien.media.formats import PICTURE_SUFFIXES

__all__ = ["read_folder", "read_list"]

FILE_COLUMNS = ("file", "path", "image", "filename", "file_name", "image_path", "img", "name")
LABEL_COLUMNS = ("identity", "label", "person", "subject", "subject_id", "identity_id", "person_id", "class", "id")
LIST_SUFFIXES = (".csv", ".tsv", ".lst", ".txt")


def pictures_below(folder: Path, *, depth: int = 8) -> Iterator[Path]:
    """Picture files below a folder, sorted, hidden ones left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise of_os_error(error, folder) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth:
                yield from pictures_below(Path(entry.path), depth=depth - 1)
        elif os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES:
            yield Path(entry.path)


def find_folders(path: Path) -> list[Path]:
    """`path` itself, if it is a folder with a picture somewhere below."""
    return [path] if path.is_dir() and next(pictures_below(path), None) is not None else []


def read_folder(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """Pictures in folders: the first folder below `path` names the person.

    Pictures that lie in `path` itself belong to nobody; if all do, there are no labels.

    Raises
    ------
    MediaNotFound, MediaForbidden
        There is no such folder, or it must not be read.
    EmptyMedia
        It holds no picture.
    """
    path = Path(path)
    if not path.is_dir():
        raise MediaNotFound("there is no such folder", got=path)
    files = list(pictures_below(path))
    if not files:
        raise EmptyMedia("the folder holds no picture", got=path, hint="check the path; videos are no samples")
    keys = [file.relative_to(path).as_posix() for file in files]
    people = [key.partition("/")[0] if "/" in key else "" for key in keys]
    labels, names = numbered(people)
    if names == ("",):
        return Samples(format="folder", root=path, keys=keys, coded=Files([str(file) for file in files]))
    if names[0] == "":  # sorts first
        labels, names = labels - 1, names[1:]
    for person in sorted(entry.name for entry in os.scandir(path) if entry.is_dir()):
        if person not in set(names) and not person.startswith("."):
            tell("wrong_count", person, EmptyMedia("a person's folder holds no picture", got=path / person))
    return Samples(
        format="folder", root=path, keys=keys, coded=Files([str(file) for file in files]), labels=labels,
        label_names=names,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- lists


def find_lists(path: Path) -> list[Path]:
    """Tables at or in `path` whose rows name pictures."""
    if path.is_file():
        return [path] if path.suffix.lower() in LIST_SUFFIXES and _names_pictures(path) else []
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in LIST_SUFFIXES) if path.is_dir() else []
    found = [file for file in files if _names_pictures(file)]
    # Tables of boxes name pictures too; where there is a list of the pictures, it is the set.
    return [file for file in found if file.stem == "images"] or found


def _names_pictures(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
            head = [opened.readline(65536) for _ in range(3)]
    except OSError:
        return False
    delimiter = _delimiter(head[0])
    rows = [row for row in csv.reader([line for line in head if line.strip()], delimiter=delimiter) if row]
    if not rows:
        return False
    header = [cell.strip().lower() for cell in rows[0]]
    column = _first(header, FILE_COLUMNS)
    if column is not None:
        # Many a table has a column "name" or "id"; only pictures end like pictures.
        return len(rows) == 1 or any(map(_picture, rows[1][header.index(column) :][:1]))
    return 1 < len(rows[0]) < 4 and sum(map(_picture, rows[0])) == 1


def _picture(cell: str) -> bool:
    return os.path.splitext(cell.strip())[1].lower() in PICTURE_SUFFIXES


def _first(header: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in header), None)


def _delimiter(line: str) -> str:
    return "," if "," in line else "\t" if "\t" in line else ";" if ";" in line else " "


def read_list(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, tell: Tell = strict
) -> Samples:
    """A list of pictures.

    With a header: a column `file` (or `path`, `image` …) and perhaps `identity` (or `label`, `person` …); columns
    ``x0 y0 x1 y1 …`` are points, ``x_min y_min x_max y_max`` or the like stay columns as all else. Without:
    ``path label`` or ``number label path`` (MXNet's ``.lst``), between commas, tabs or blanks.

    Parameters
    ----------
    path
        The table.
    root
        Folder of the pictures. Default: that of the table, or `images` in it, whichever has the first picture.

    Raises
    ------
    TableError
        It has no column of pictures, or a row is not whole.
    MediaNotFound
        A picture is not there.
    """
    path = Path(path)
    header, rows, lines = _rows(path, tell)
    file_column = _first([name.lower() for name in header], FILE_COLUMNS)
    if file_column is None:
        raise TableError(
            f"{path.name} has no column of pictures", got=header, expected=f"one of {', '.join(FILE_COLUMNS)}"
        )
    lower = [name.lower() for name in header]
    at = lower.index(file_column)
    names = [row[at].strip() for row in rows]
    empty = [k for k, name in enumerate(names) if not name]
    for k in empty:
        tell("row", f"{path.name} line {lines[k]}", bad_row(path, lines[k], ",".join(rows[k]), "a picture's name"))
    folder = Path(root) if root is not None else _folder(path, names)
    paths = [folder / name for name in names]
    keep = unique_rows(names, path, tell) & np.array([bool(name) for name in names], bool)
    keep[keep] = picked([paths[k] for k in np.flatnonzero(keep)], [names[k] for k in np.flatnonzero(keep)], tell)
    kept = np.flatnonzero(keep).tolist()
    cells = np.array([rows[k] for k in kept], str).reshape(len(kept), len(header))
    columns = {name: _typed(cells[:, k]) for k, name in enumerate(header) if k != at}
    label_column = next((name for name in LABEL_COLUMNS for there in header if there.lower() == name), None)
    labels, label_names, points = None, tuple[str, ...](), None
    if label_column is not None:
        given = columns.pop(next(name for name in header if name.lower() == label_column))
        if given.dtype.kind == "i":
            labels = given.astype(np.int64)
        else:
            labels, label_names = numbered(given.astype(str).tolist())
    count = 0
    while {f"x{count}", f"y{count}"} <= columns.keys():
        count += 1
    if count:
        flat = [columns.pop(f"{axis}{k}") for k in range(count) for axis in "xy"]
        if any(column.dtype.kind not in "fi" for column in flat):
            raise TableError(f"{path.name} holds points that are no numbers", got=f"x0 … y{count - 1}")
        points = np.stack(flat, 1).astype(np.float32).reshape(-1, count, 2)
    return Samples(
        format="list", root=path, keys=[names[k] for k in kept], coded=Files([str(paths[k]) for k in kept]),
        labels=labels, label_names=label_names, points=points, columns=columns,
    )  # fmt: skip


def _rows(path: Path, tell: Tell) -> tuple[list[str], list[list[str]], list[int]]:
    """Header (made up where there is none), whole rows, and the line of each."""
    text = text_of(path)
    delimiter = _delimiter(text.partition("\n")[0])
    found: list[list[str]] = []
    lines: list[int] = []
    try:
        reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=delimiter == " ", strict=False)
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise TableError(f"{path.name} is no table", got=str(error)) from None
    if not found:
        raise TableError("the list is empty", got=path)
    header = [cell.strip() for cell in found[0]]
    if _first([name.lower() for name in header], FILE_COLUMNS) is None and sum(map(_picture, header)) == 1:
        at = next(k for k, cell in enumerate(header) if _picture(cell))
        header = ["identity"] * len(header)
        header[at] = "file"
        if len(header) == 3:
            header = ["number", "identity", "file"] if at == 2 else ["file", "identity", "other"]
    else:
        found, lines = found[1:], lines[1:]
    whole = [len(row) == len(header) for row in found]
    for row, line, fits in zip(found, lines, whole, strict=True):
        if not fits:
            tell("row", f"{path.name} line {line}", bad_row(path, line, delimiter.join(row), f"{len(header)} fields"))
    return header, [r for r, fits in zip(found, whole, strict=True) if fits], [
        n for n, fits in zip(lines, whole, strict=True) if fits
    ]  # fmt: skip


def _folder(path: Path, names: Sequence[str]) -> Path:
    homes = (path.parent, path.parent / "images", path.parent / path.stem)
    for name in list(names)[:20]:
        for home in homes:
            if name and (home / name).is_file():
                return home
    return path.parent


_INTEGER = re.compile(r"\s*[+-]?\d{1,18}(\.0*)?\s*")


def _typed(cells: NDArray[np.str_]) -> NDArray[np.int64] | NDArray[np.float32] | NDArray[np.str_]:
    """Whole numbers, numbers (an empty cell is NaN) or text."""
    if len(cells) and all(map(_INTEGER.fullmatch, cells.tolist())):
        return np.array([int(cell.partition(".")[0]) for cell in cells.tolist()], np.int64)
    try:
        return np.where(cells == "", "nan", cells).astype(np.float32) if len(cells) else cells
    except ValueError:
        return cells
