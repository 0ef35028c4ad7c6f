"""Landmarks: 300W's ``.pts`` beside the pictures, and WFLW's lists of 98 points, box and six flags."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.data.formats._text import bad_row, lines_of, numbers, text_of
from mien.data.formats.folders import pictures_below
from mien.data.formats.samples import Files, FlaggedBoxes, Samples, Tell, picked, strict
from mien.errors import EmptyMedia, MediaNotFound, MienError, TableError
from mien.media.formats import PICTURE_SUFFIXES

__all__ = ["read_300w", "read_pts", "read_wflw", "write_pts"]

LOOKED_AT = 20_000
"""Files that are looked at to find points among them."""
WFLW_FLAGS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
_PTS = re.compile(r"\s*version:\s*1\s+n_points:\s*(\d+)\s*\{([^{}]*)\}\s*", re.IGNORECASE)


def read_pts(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """(k, 2) points of a ``.pts`` file, pixels.

    iBUG counts pixels from 1 (Matlab); 1 is subtracted, so that the middle of the first pixel is 0, 0 as everywhere
    in mien.

    Raises
    ------
    TableError
        The file is not of the form, or has not as many points as it says.
    MediaError
        It cannot be opened.
    """
    path = Path(path)
    text = text_of(path)
    form = _PTS.fullmatch(text)
    if form is None:
        raise TableError(f"{path.name} is no file of points", got=text[:80], expected="version: 1, n_points: k, { … }")
    rows = [numbers(line.split()) for line in form[2].strip().splitlines()]
    if any(row is None or len(row) != 2 for row in rows):
        raise TableError(f"{path.name} holds what is no point", got=path, expected="two numbers a line")
    if len(rows) != int(form[1]):
        raise TableError(f"{path.name} has another number of points than it says", got=len(rows), expected=form[1])
    points: NDArray[np.float32] = np.array(rows, np.float64).reshape(-1, 2).astype(np.float32) - 1
    return points


def write_pts(path: str | os.PathLike[str], points: NDArray[np.floating[np.typing.NBitBase]]) -> None:
    """Writes (k, 2) points, pixels, as ``.pts``; 1 is added, as in `read_pts` it is subtracted."""
    lines = "\n".join(f"{x + 1:.6f} {y + 1:.6f}" for x, y in np.asarray(points, np.float64).tolist())
    Path(path).write_text(f"version: 1\nn_points:  {len(points)}\n{{\n{lines}\n}}\n", "ascii")


def _pts_below(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*.pts") if not file.name.startswith(".")) if path.is_dir() else []


def find_300w(path: Path) -> list[Path]:
    """`path`, if a ``.pts`` file is below, among the first `LOOKED_AT` files."""
    if not path.is_dir():
        return []
    seen = 0
    for _, folders, files in os.walk(path):
        folders.sort()
        if any(name.endswith(".pts") for name in files):
            return [path]
        seen += len(files)
        if seen > LOOKED_AT:  # a training set of millions of pictures would be walked for nothing
            break
    return []


def read_300w(path: str | os.PathLike[str], *, tell: Tell = strict) -> Samples:
    """Pictures with a ``.pts`` file of the same name beside them (300W, and the sets it joins).

    Pictures without points are left out and told, and so are points without a picture.

    Raises
    ------
    MediaNotFound
        There are no points, or a picture is not there.
    TableError
        A file of points is broken, or has another number of points than the others.
    """
    path = Path(path)
    listed = _pts_below(path)
    if not listed:
        raise MediaNotFound("there are no points", got=path, expected="files .pts beside the pictures")
    pictures: dict[str, Path] = {}
    for file in pictures_below(path):
        pictures.setdefault(str(file.with_suffix("")), file)
    keys, files, points = [], [], []
    for file in listed:
        name = file.relative_to(path).as_posix()
        picture = pictures.pop(str(file.with_suffix("")), None)
        if picture is None:
            error = MediaNotFound("points without a picture", got=file, hint="put the picture beside its points")
            tell("missing_file", name, error)
            continue
        try:
            found = read_pts(file)
        except MienError as broken:
            tell("wrong_count" if "number of points" in broken.what else "row", name, broken)
            continue
        keys.append(picture.relative_to(path).as_posix())
        files.append(str(picture))
        points.append(found)
    for alone in pictures.values():
        name = alone.relative_to(path).as_posix()
        tell("missing_file", name, MediaNotFound("a picture without points", got=alone))
    counts = [len(one) for one in points]
    usual = max(set(counts), key=counts.count, default=0)
    for key, one in zip(keys, points, strict=True):
        if len(one) != usual:
            error_ = TableError("another number of points than the other pictures have", got=len(one), expected=usual)
            tell("wrong_count", key, error_)
    keep = [row for row, one in enumerate(points) if len(one) == usual]
    return Samples(
        format="300w", root=path, keys=[keys[row] for row in keep], coded=Files([files[row] for row in keep]),
        points=np.array([points[row] for row in keep], np.float32).reshape(-1, usual, 2),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- WFLW


def find_wflw(path: Path) -> list[Path]:
    """The lists ``list_98pt_…`` at or below `path`."""
    if path.is_file():
        return [path] if path.name.startswith("list_98pt") and path.suffix == ".txt" else []
    depths = ("list_98pt*.txt", "*/list_98pt*.txt", "*/*/list_98pt*.txt")
    return sorted(file for depth in depths for file in path.glob(depth)) if path.is_dir() else []


def read_wflw(
    path: str | os.PathLike[str], *, pictures: str | os.PathLike[str] | None = None, tell: Tell = strict
) -> Samples:
    """One list of WFLW: 98 points, a box and six flags a row (``rect_attr``), or 98 points a row.

    A row is a face; a picture with several faces is in several rows.

    Parameters
    ----------
    path
        The list.
    pictures
        Folder of the pictures. Default: ``WFLW_images``, beside the list or in the folders above.

    Raises
    ------
    TableError
        A row is not as it should be.
    MediaNotFound
        A picture, or the folder of the pictures, is not there.
    """
    path = Path(path)
    homes = [path.parent / "WFLW_images", *(folder / "WFLW_images" for folder in list(path.parents)[1:4]), path.parent]
    folder = Path(pictures) if pictures is not None else next(home for home in homes if home.is_dir())
    names, values = [], []
    seen = set[str]()
    for number, line in enumerate(lines_of(path), 1):
        fields = line.split()
        count = len(fields) - 1
        row = numbers(fields[:count])
        if row is None or count not in (196, 206) or Path(fields[-1]).suffix.lower() not in PICTURE_SUFFIXES:
            tell("row", f"{path.name} line {number}", bad_row(path, number, line, "196 or 206 numbers and a picture"))
            continue
        if line in seen:
            tell("duplicate", f"{path.name} line {number}", TableError("a row is there twice", got=fields[-1]))
            continue
        seen.add(line)
        names.append(fields[-1])
        values.append(row if count == 206 else [*row, *[np.nan] * 10])
    if not names:
        raise EmptyMedia("the list holds no face", got=path)
    keep = np.flatnonzero(picked([folder / name for name in names], names, tell))
    table = np.array(values, np.float64)[keep]
    boxed = np.flatnonzero(np.isfinite(table[:, 196]))
    flags = np.nan_to_num(table[boxed, 200:]).astype(np.int64)
    boxes = FlaggedBoxes(
        table[boxed, 196:200].astype(np.float32), boxed, np.full(len(boxed), "face"), flags, WFLW_FLAGS
    )  # fmt: skip
    return Samples(
        format="wflw", root=path, keys=[names[row] for row in keep],
        coded=Files([str(folder / names[row]) for row in keep]),
        points=table[:, :196].astype(np.float32).reshape(-1, 98, 2), boxes=boxes if len(boxed) else None,
    )  # fmt: skip
