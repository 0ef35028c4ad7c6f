"""IJB-B and IJB-C as InsightFace lays them out: pictures, templates and media, pairs of templates, 1:N lists.

A template is a set of pictures of one person, some of them frames of one video (a medium). Comparing is done between
templates, so the pairs here name template numbers and not pictures.

    loose_crop/1.jpg …                    pictures
    meta/ijbc_face_tid_mid.txt            picture, template, medium
    meta/ijbc_name_5pts_score.txt         picture, five points, score of the detector
    meta/ijbc_template_pair_label.txt     template, template, same person
    meta/ijbc_1N_gallery_G1.csv …         TEMPLATE_ID, SUBJECT_ID, …
    meta/ijbc_1N_probe_mixed.csv
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.data.formats._text import bad_row, lines_of, numbers, table_of_ints
from mien.data.formats.samples import Files, Samples, Tell, picked, strict
from mien.errors import MediaNotFound, MienError, TableError

__all__ = ["Enrolled", "TemplatePairs", "Templates", "read_ijb"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TemplatePairs:
    """Pairs of templates by their numbers: `first` and `second` (m,) int64, `same` (m,) bool."""

    first: Ints
    second: Ints
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True, eq=False)
class Enrolled:
    """A gallery or the probes of a 1:N protocol: `template` and `subject` (m,) int64, a template once."""

    template: Ints
    subject: Ints

    def __len__(self) -> int:
        return len(self.template)


@dataclass(frozen=True, eq=False)
class Templates:
    """IJB-B or IJB-C, one row a picture.

    Parameters
    ----------
    name
        "ijbb" or "ijbc".
    samples
        The pictures; `points` (n, 5, 2) float32 pixels, NaN where the list has none.
    template, media
        (n,) int64 numbers of the picture's template and medium.
    score
        (n,) float32 of the detector that gave the points; NaN where the list has none.
    pairs
        The 1:1 protocol.
    galleries, probes
        The 1:N protocols by name: "G1", "G2"; "mixed" …
    """

    name: str
    samples: Samples
    template: Ints
    media: Ints
    score: NDArray[np.float32]
    pairs: TemplatePairs
    galleries: Mapping[str, Enrolled]
    probes: Mapping[str, Enrolled]


def find_ijb(path: Path) -> list[Path]:
    """The lists ``ijb?_face_tid_mid.txt`` at `path`, in its folder `meta`, or in a set's folder below."""
    if path.is_file():
        return [path] if path.match("ijb[bc]_face_tid_mid.txt") else []
    homes = ("", "meta/", "*/meta/")
    return (
        sorted(file for home in homes for file in path.glob(f"{home}ijb[bc]_face_tid_mid.txt")) if path.is_dir() else []
    )


def read_ijb(
    path: str | os.PathLike[str], *, pictures: str | os.PathLike[str] | None = None, tell: Tell = strict
) -> Templates:
    """IJB-B or IJB-C.

    Parameters
    ----------
    path
        ``ijbc_face_tid_mid.txt``, or a folder that has one such list (in `meta`).
    pictures
        Folder of the pictures. Default: ``loose_crop`` beside `meta`.

    Raises
    ------
    MediaNotFound
        There is no such list, or a picture is not there.
    TableError
        Lists are not as they should be, or contradict each other.
    """
    found = find_ijb(Path(path))
    if len(found) != 1:
        raise MediaNotFound(
            "there is not one list of templates", got=found or path, expected="meta/ijbc_face_tid_mid.txt"
        )
    listed = found[0]
    meta, name = listed.parent, listed.name[:4]
    folder = Path(pictures) if pictures is not None else meta.parent / "loose_crop"
    names, members = _named_ints(listed, 2, tell)
    keep = np.flatnonzero(picked([folder / one for one in names], names, tell))
    names, members = [names[row] for row in keep], members[keep]
    points, score = _points(meta / f"{name}_name_5pts_score.txt", names, tell)
    pairs = _template_pairs(meta / f"{name}_template_pair_label.txt", members[:, 0], tell)
    galleries, probes = (
        {
            file.stem.removeprefix(f"{name}_1N_{kind}_"): _enrolled(file, members[:, 0], tell)
            for file in sorted(meta.glob(f"{name}_1N_{kind}*.csv"))
        }
        for kind in ("gallery", "probe")
    )
    facts = {"templates": len(np.unique(members[:, 0])), "template pairs": len(pairs)}
    facts |= {f"gallery {which}": len(one) for which, one in galleries.items()}
    facts |= {f"probe {which}": len(one) for which, one in probes.items()}
    samples = Samples(
        format="ijb", root=listed, keys=names, coded=Files([str(folder / one) for one in names]), points=points,
        columns={"template": members[:, 0], "media": members[:, 1], "score": score}, facts=facts,
    )  # fmt: skip
    return Templates(name, samples, members[:, 0], members[:, 1], score, pairs, galleries, probes)


def _named_ints(path: Path, columns: int, tell: Tell) -> tuple[list[str], Ints]:
    names, rows = list[str](), list[list[int]]()
    for number, line in enumerate(lines_of(path), 1):
        name, *fields = line.split() or [""]
        row = numbers(fields, int)
        if row is None or len(row) != columns:
            tell("row", f"{path.name} line {number}", bad_row(path, number, line, f"a picture and {columns} numbers"))
            continue
        names.append(name)
        rows.append(row)
    # A picture may be in several templates, and is a row in each; the same row twice is a mistake.
    seen = set[tuple[str, ...]]()
    unique = []
    for k, (name, row) in enumerate(zip(names, rows, strict=True)):
        key = (name, *map(str, row))
        if key in seen:
            tell("duplicate", f"{path.name} {name}", TableError("a row is there twice", got=" ".join(key)))
        else:
            unique.append(k)
        seen.add(key)
    return [names[k] for k in unique], np.array([rows[k] for k in unique], np.int64).reshape(-1, columns)


def _points(path: Path, names: list[str], tell: Tell) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    table = np.full((len(names), 11), np.nan, np.float32)
    try:
        lines = lines_of(path)
    except MienError as error:
        tell("missing_file", path.name, error)
        return table[:, :10].reshape(-1, 5, 2), table[:, 10]
    known: dict[str, list[float]] = {}
    for number, line in enumerate(lines, 1):
        name, *fields = line.split() or [""]
        values = numbers(fields)
        if values is None or len(values) != 11:
            tell(
                "row", f"{path.name} line {number}", bad_row(path, number, line, "a picture, ten coordinates, a score")
            )
        else:
            known[name] = values
    lacking = 0
    for row, name in enumerate(names):
        if name in known:
            table[row] = known[name]
        else:
            lacking += 1
    if lacking:
        error_ = TableError(f"{path.name} lacks pictures of the templates", got=lacking, expected=0)
        tell("wrong_count", path.name, error_)
    return table[:, :10].reshape(-1, 5, 2), table[:, 10]


def _template_pairs(path: Path, known: Ints, tell: Tell) -> TemplatePairs:
    try:
        table = table_of_ints(path, 3, tell)
    except MienError as error:
        if isinstance(error, TableError):
            raise
        tell("missing_file", path.name, error)
        table = np.zeros((0, 3), np.int64)
    _check_known(path, table[:, :2], known, tell)
    odd = ~np.isin(table[:, 2], (0, 1))
    if odd.any():
        tell("row", path.name, TableError("pairs are neither same nor different", got=table[odd][0], expected="0 or 1"))
    return TemplatePairs(table[~odd, 0], table[~odd, 1], table[~odd, 2] == 1)


def _check_known(path: Path, templates: Ints, known: Ints, tell: Tell) -> None:
    there = np.zeros(int(max(known.max(initial=-1), templates.max(initial=-1))) + 1, bool) if (
        templates.size and templates.min() >= 0 and templates.max() < 1 << 28 and known.min(initial=0) >= 0
    ) else None  # fmt: skip
    if there is None:  # numbers too large for a table
        missing = np.setdiff1d(templates, known)
    else:
        there[known] = True
        missing = np.unique(templates[~there[templates]])
    if len(missing):
        error = TableError(f"{path.name} names templates without pictures", got=f"{len(missing)}, first {missing[0]}")
        tell("missing_file", path.name, error)


def _enrolled(path: Path, known: Ints, tell: Tell) -> Enrolled:
    header, *rows = list(csv.reader(lines_of(path))) or [[]]
    columns = [name.strip().upper() for name in header]
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(columns):
        raise TableError(f"{path.name} lacks columns", got=header, expected="TEMPLATE_ID and SUBJECT_ID")
    at = columns.index("TEMPLATE_ID"), columns.index("SUBJECT_ID")
    subject_of: dict[int, int] = {}
    for number, row in enumerate(rows, 2):
        two = numbers([row[k] for k in at], int) if len(row) > max(at) else None
        if two is None:
            tell(
                "row",
                f"{path.name} line {number}",
                bad_row(path, number, ",".join(row), "numbers of template and subject"),
            )
        elif subject_of.setdefault(two[0], two[1]) != two[1]:
            error = TableError("a template is given to two people", got=f"template {two[0]}")
            tell("wrong_count", f"{path.name} line {number}", error)
    enrolled = Enrolled(
        np.array(list(subject_of), np.int64), np.array(list(subject_of.values()), np.int64)
    )  # fmt: skip
    _check_known(path, enrolled.template, known, tell)
    return enrolled
