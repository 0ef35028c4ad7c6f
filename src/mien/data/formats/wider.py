"""WIDER FACE's lists of boxes: a picture's name, the number of its faces, and ten numbers a face.

A picture without a face has 0 and yet one row, of zeros. The test list has names only.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mien.data.formats._text import bad_row, lines_of, numbers
from mien.data.formats.samples import Files, FlaggedBoxes, Samples, Tell, picked, strict, unique_rows
from mien.errors import EmptyMedia, TableError
from mien.media.formats import PICTURE_SUFFIXES

__all__ = ["read_wider"]

FLAGS = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


def find_wider(path: Path) -> list[Path]:
    """The lists ``wider_face_*_bbx_gt.txt`` and ``wider_face_test_filelist.txt`` at or below `path`."""
    names = ("wider_face_*_bbx_gt.txt", "wider_face_*_filelist.txt")
    if path.is_file():
        return [path] if any(path.match(name) for name in names) else []
    homes = [path, path / "wider_face_split"] if path.is_dir() else []
    found = sorted(file for home in homes for name in names for file in home.glob(name))
    # The list of files of a part that has boxes says nothing more.
    boxed = {part(file) for file in found if "bbx" in file.name}
    return [file for file in found if "bbx" in file.name or part(file) not in boxed]


def part(file: Path) -> str:
    """ "train", "val" or "test"."""
    return file.name.removeprefix("wider_face_").partition("_")[0]


def read_wider(
    path: str | os.PathLike[str], *, pictures: str | os.PathLike[str] | None = None, tell: Tell = strict
) -> Samples:
    """One list of WIDER FACE, with `boxes` xyxy (all of them, also those marked invalid) and their six flags.

    Parameters
    ----------
    path
        ``wider_face_train_bbx_gt.txt`` or the like.
    pictures
        Folder of the pictures. Default: ``WIDER_train/images`` or the like, beside the list or one folder above.

    Raises
    ------
    TableError
        The list does not go on as it should.
    MediaNotFound
        A picture is not there.
    """
    path = Path(path)
    inside = Path(f"WIDER_{part(path)}") / "images"
    homes = [path.parent / inside, path.parent.parent / inside, path.parent / "images", path.parent.parent / "images"]
    folder = Path(pictures) if pictures is not None else next((home for home in homes if home.is_dir()), homes[1])
    names, faces = _listed(path, tell)
    if not names:
        raise EmptyMedia("the list names no picture", got=path)
    keep = unique_rows(names, path, tell)
    rows = np.flatnonzero(keep)
    keep[keep] = picked([folder / names[row] for row in rows], [names[row] for row in rows], tell)
    kept = np.flatnonzero(keep).tolist()
    table = np.array([face for row in kept for face in faces[row]], np.int64).reshape(-1, 10)
    image = np.repeat(np.arange(len(kept)), [len(faces[row]) for row in kept])
    xyxy = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1).astype(np.float32)
    boxes = FlaggedBoxes(xyxy, image, np.full(len(image), "face"), table[:, 4:], FLAGS)
    keys = [names[row] for row in kept]
    return Samples(
        format="wider", root=path, keys=keys, coded=Files([str(folder / key) for key in keys]), boxes=boxes,
        columns={"event": np.array([key.partition("/")[0] for key in keys], str)},
    )  # fmt: skip


def _is_picture(line: str) -> bool:
    return os.path.splitext(line)[1].lower() in PICTURE_SUFFIXES


def _listed(path: Path, tell: Tell) -> tuple[list[str], list[list[list[int]]]]:
    """Names of the pictures, and ten numbers for every face of each."""
    lines = [line.strip() for line in lines_of(path)]
    if "filelist" in path.name:
        return lines, [[] for _ in lines]
    names: list[str] = []
    faces: list[list[list[int]]] = []
    at = 0
    while at < len(lines):
        if not _is_picture(lines[at]):
            tell("row", f"{path.name} line {at + 1}", bad_row(path, at + 1, lines[at], "the name of a picture"))
            at += 1
            continue
        name, begin = lines[at], at + 1
        end = begin
        while end < len(lines) and not _is_picture(lines[end]):
            end += 1
        names.append(name)
        faces.append(_faces(path, name, begin, lines[begin:end], tell))
        at = end
    return names, faces


def _faces(path: Path, name: str, begin: int, lines: list[str], tell: Tell) -> list[list[int]]:
    if not lines or not lines[0].isdigit():
        got = lines[0] if lines else "the end of the list"
        tell("truncated" if not lines else "row", f"{path.name} line {begin + 1}",
             bad_row(path, begin + 1, got, "the number of faces"))  # fmt: skip
        return []
    count = int(lines[0])
    found = []
    for number, line in enumerate(lines[1:], begin + 2):
        row = numbers(line.split(), int)
        if row is None or len(row) != 10:
            tell("row", f"{path.name} line {number}", bad_row(path, number, line, "ten whole numbers"))
        else:
            found.append(row)
    if count == 0 and found == [[0] * 10]:
        return []
    if len(found) != count:
        error = TableError("a picture has another number of faces than its list says", got=len(found), expected=count)
        tell("wrong_count", f"{path.name} {name}", error)
    return found
