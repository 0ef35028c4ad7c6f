"""CelebA's text lists: attributes, people, partition, points and boxes, beside the pictures.

The aligned pictures (``img_align_celeba``, 178 x 218) go with ``list_landmarks_align_celeba.txt``; boxes and
``list_landmarks_celeba.txt`` go with the uncropped ones (``img_celeba``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.formats._text import bad_row, lines_of, numbers, wrong_count
from mien.data.formats.samples import Files, Samples, Tell, picked, strict
from mien.data.sets import Boxes
from mien.errors import MediaNotFound, TableError

__all__ = ["read_celeba"]

ATTRIBUTES, PEOPLE, PARTITION = "list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt"
ALIGNED, WILD, BOXES = "list_landmarks_align_celeba.txt", "list_landmarks_celeba.txt", "list_bbox_celeba.txt"
_FIELDS = {PEOPLE: 1, PARTITION: 1, ALIGNED: 10, WILD: 10, BOXES: 4}


def _place(path: Path, name: str) -> Path | None:
    """Where a list is: the sets come flat or in the folders Anno and Eval."""
    homes = (path, path / "Anno", path / "Eval", path / "anno", path / "eval")
    return next((home / name for home in homes if (home / name).is_file()), None)


def find_celeba(path: Path) -> list[Path]:
    """`path`, if one of the lists is in it."""
    return [path] if path.is_dir() and any(_place(path, name) for name in (ATTRIBUTES, PEOPLE, PARTITION)) else []


def read_celeba(path: str | os.PathLike[str], *, aligned: bool | None = None, tell: Tell = strict) -> Samples:
    """CelebA. Attributes are columns (bool), `partition` one too (0 training, 1 validation, 2 test).

    Parameters
    ----------
    path
        Folder with the lists, or with Anno, Eval and Img.
    aligned
        The aligned pictures with their points, or the uncropped ones with points and boxes. Default: aligned where
        they are there.

    Raises
    ------
    MediaNotFound
        The pictures or all lists are not there.
    TableError
        A list is not as it says.
    """
    path = Path(path)
    homes = {True: ("img_align_celeba", "img_align_celeba_png"), False: ("img_celeba",)}
    choices = (True, False) if aligned is None else (aligned,)
    found = [
        (kind, home / name)
        for kind in choices
        for name in homes[kind]
        for home in (path, path / "Img", path / "img", path / name)
        if (home / name).is_dir()
    ]
    if not found:
        raise MediaNotFound(
            "CelebA's pictures are not there", got=path, expected=[n for k in choices for n in homes[k]]
        )
    is_aligned, folder = found[0]
    if (folder / folder.name).is_dir():  # as some archives unpack
        folder = folder / folder.name
    wanted = [ATTRIBUTES, PEOPLE, PARTITION, ALIGNED] if is_aligned else [ATTRIBUTES, PEOPLE, PARTITION, WILD, BOXES]
    tables = {name: _table(place, name, tell) for name in wanted if (place := _place(path, name)) is not None}
    if not tables:
        raise MediaNotFound("CelebA's lists are not there", got=path, expected=wanted)
    names = sorted(set().union(*(rows.keys() for _, rows in tables.values())))
    for name, (_, rows) in tables.items():
        lacking = [key for key in names if key not in rows]
        if lacking:
            error = TableError(
                f"{name} lacks pictures that other lists have", got=f"{len(lacking)}, first {lacking[0]}"
            )
            tell("wrong_count", name, error)
    suffix = ".png" if folder.name.endswith("_png") else None
    files = [folder / (name if suffix is None else Path(name).stem + suffix) for name in names]
    there = frozenset(entry.path for entry in os.scandir(folder))
    keep = np.flatnonzero(picked(files, names, tell, among=there)).tolist()
    names, files = [names[k] for k in keep], [files[k] for k in keep]

    def column(name: str, width: int) -> NDArray[Any]:
        rows, unknown = tables[name][1], [np.nan] * width
        return np.array([rows.get(key, unknown) for key in names], np.float64).reshape(len(names), width)

    columns: dict[str, NDArray[Any]] = {}
    if ATTRIBUTES in tables:
        titles = tables[ATTRIBUTES][0]
        columns |= dict(zip(titles, (column(ATTRIBUTES, len(titles)) == 1).T, strict=True))
    if PARTITION in tables:
        columns["partition"] = np.nan_to_num(column(PARTITION, 1)[:, 0], nan=-1).astype(np.int64)
    points_of = ALIGNED if is_aligned else WILD
    return Samples(
        format="celeba", root=path, keys=names, coded=Files([str(file) for file in files]), columns=columns,
        labels=np.nan_to_num(column(PEOPLE, 1)[:, 0], nan=-1).astype(np.int64) if PEOPLE in tables else None,
        points=column(points_of, 10).astype(np.float32).reshape(-1, 5, 2) if points_of in tables else None,
        boxes=_boxes(column(BOXES, 4)) if BOXES in tables else None,
    )  # fmt: skip


def _boxes(xywh: NDArray[np.float64]) -> Boxes:
    known = np.flatnonzero(np.isfinite(xywh).all(1))
    xyxy = np.concatenate([xywh[known, :2], xywh[known, :2] + xywh[known, 2:]], 1).astype(np.float32)
    return Boxes(xyxy, known, np.full(len(known), "face"))


def _table(file: Path, name: str, tell: Tell) -> tuple[list[str], dict[str, list[float]]]:
    """Titles and the numbers of each picture. Lists of attributes, points and boxes begin with count and titles."""
    lines = lines_of(file)
    titles: list[str] = []
    begin = 0
    if name not in (PEOPLE, PARTITION):
        if len(lines) < 2 or not lines[0].strip().isdigit():
            raise TableError(f"{file.name} does not begin as it should", got=lines[0] if lines else "nothing",
                             expected="the number of pictures, then the titles")  # fmt: skip
        titles, begin = [word for word in lines[1].split() if word != "image_id"], 2
        if int(lines[0]) != len(lines) - 2:
            tell("wrong_count", file.name, wrong_count(file, "pictures", len(lines) - 2, int(lines[0])))
    width = _FIELDS.get(name, len(titles))
    rows: dict[str, list[float]] = {}
    for number, line in enumerate(lines[begin:], begin + 1):
        key, *fields = line.split() or [""]
        values = numbers(fields)
        if values is None or len(values) != width or (name == ATTRIBUTES and not set(values) <= {-1.0, 0.0, 1.0}):
            tell("row", f"{file.name} line {number}", bad_row(file, number, line, f"a picture and {width} numbers"))
        elif key in rows:
            tell("duplicate", f"{file.name} line {number}", TableError("a picture is listed twice", got=key))
        else:
            rows[key] = values
    return titles, rows
