"""``evaluate landmarks``: how far predicted points lie from annotated ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mien import metrics
from mien.errors import NoFaceFound, OptionError
from mien.geometry.boxes import from_points, match_greedy
from mien.geometry.checks import choice
from mien.geometry.landmarks import IBUG68
from mien.metrics.landmarks import NORMALISERS
from mien.verbs import _pairs, _pipeline
from mien.verbs._pipeline import Plan, Progress
from mien.verbs.evaluate._common import (
    Evaluation,
    GroupRow,
    GroupSpread,
    by_group,
    check_bootstrap,
    names_of,
    today,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces

PARTS: Mapping[str, tuple[int, ...]] = {
    "jaw": IBUG68["jaw"],
    "brows": IBUG68["left_brow"] + IBUG68["right_brow"],
    "eyes": IBUG68["left_eye"] + IBUG68["right_eye"],
    "nose": IBUG68["nose_bridge"] + IBUG68["nostrils"],
    "mouth": IBUG68["outer_lips"] + IBUG68["inner_lips"],
}
"""Parts of the face, and the points of iBUG 68 in them."""

SAME_FACE = 0.2
"""Overlap of a detected box with the box around the annotated points from which both are of one face. Low, since the
points reach from brows to chin only, and detectors differ in what they call a face."""

COLUMNS = tuple(f"{axis}{index}" for index in range(68) for axis in "xy")


@dataclass(frozen=True)
class PartError:
    """The error of one part of the face.

    Parameters
    ----------
    part
        "jaw", "brows", "eyes", "nose" or "mouth".
    points
        How many points it has.
    nme, nme_low, nme_high
        Their mean distance by the face's size, with its interval.
    """

    part: str
    points: int
    nme: float
    nme_low: float
    nme_high: float


@dataclass(frozen=True, kw_only=True)
class LandmarkEvaluation(Evaluation):
    """How well the 68 points are placed. Errors are shares of the face's size, by `normaliser`.

    Parameters
    ----------
    weights
        The landmark network.
    faces, missed
        Annotated faces in readable pictures, and those of them that the detector did not find.
    nme, nme_low, nme_high
        Normalised mean error of the found faces, with its interval.
    nme_median
        Half of the found faces have a smaller one.
    limit
        Error from which on a face counts as failed.
    auc
        Area under the cumulative error curve up to `limit`, by `limit`; a missed face adds nothing.
    failure_rate
        Share of faces with an error above `limit`, missed ones among them.
    parts
        By part of the face.
    normaliser
        What stands for the face's size: "interocular" (distance of the outer eye corners), "interpupil" or "box" (root
        of the area of the points' box).
    redrawn
        What intervals redraw: "faces", or "people" where the table has a column identity.
    groups, spreads, left_out
        NME of found faces for each group; how far groups lie apart; groups with fewer than ten faces.
    """

    weights: str
    faces: int
    missed: int
    nme: float
    nme_low: float
    nme_high: float
    nme_median: float
    limit: float
    auc: float
    failure_rate: float
    parts: tuple[PartError, ...]
    redrawn: str
    normaliser: str = "interocular"
    groups: tuple[GroupRow, ...] = ()
    spreads: tuple[GroupSpread, ...] = ()
    left_out: tuple[str, ...] = ()


def landmarks(
    *,
    points: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    groups: Iterable[str] = (),
    limit: float = 0.08,
    normaliser: str = "interocular",
    pad: float = 0.0,
    threshold: float | None = None,
    size: int = 640,
    weights: str = "mien-landmarks",
    detector: str = "mien-detector",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    repeats: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> LandmarkEvaluation:
    """Measures the 68 points on pictures in which they are annotated, from the photo to the points.

    Parameters
    ----------
    points
        CSV file with the columns file,x0,y0 to x67,y67 in pixels: one row a face, iBUG order. A column identity
        makes intervals redraw people, which is the honest way where people recur.
    images
        Folder that the file names are relative to. Default: the folder of the table.
    groups
        Columns of the table by whose values the error is given too.
    limit
        Error, as a share of the face's size, from which on a face counts as failed.
    normaliser
        The face's size: "interocular", "interpupil", or "box", the root of the area of the points' box. 300W's way is
        "interocular" with 0.08, that of LS3D-W and Menpo, where eyes may be hidden, "box" with a limit of 0.07.
    pad
        Grey border that the detector sees around every picture, as a share of its long side: 0.5 for pictures that
        are cropped tightly around the face.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    weights
        Name of the landmark network's weights.
    detector
        Name of the detector's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    repeats
        Of the bootstrap.
    seed
        Of the bootstrap.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    LandmarkEvaluation

    Raises
    ------
    MediaNotFound, TableError
        The table cannot be used, or there is no such folder.
    NoFaceFound
        The detector finds none of the annotated faces.
    """
    check_bootstrap(repeats, {})
    if not limit > 0:
        raise OptionError("limit is a share of the face's size", got=limit, expected="above 0, such as 0.08")
    choice("normaliser", normaliser, NORMALISERS)
    plan = Plan(
        detector=detector, landmarks=weights, threshold=threshold, size=size, min_face=0, pad=pad,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    table, columns = Path(points), names_of(groups)
    rows = _pairs.read_table(table, ("file", *COLUMNS))
    _pairs.check_columns(table, columns)
    true = np.array(
        [[_pairs.number(row, name, line, table.name) for name in COLUMNS] for line, row in enumerate(rows, 2)]
    ).reshape(-1, 68, 2)
    files = _pairs.existing(_pairs.folder_of(images, table), [row["file"].strip() for row in rows], table)
    paths = [str(file) for file in files]
    faces = _pipeline.run(list(dict.fromkeys(paths)), plan, progress=progress)

    known, match = _matched(faces, paths, true)
    found = match >= 0
    if not found.any():
        raise NoFaceFound(
            "the detector finds none of the annotated faces", got=f"{int(known.sum())} faces",
            hint="for pictures that are cropped tightly around the face give pad=0.5",
        )  # fmt: skip
    predicted, true = faces.landmarks[match[found], :68], true[found]
    errors = metrics.nme(predicted, true, normaliser=normaliser)
    recurring = "identity" in rows[0]
    people = _pairs.column(rows, "identity")[found] if recurring else None

    def interval(values: NDArray[np.float64]) -> metrics.Interval:
        return metrics.mean_interval(values, people=people, repeats=repeats, seed=seed)

    overall = interval(errors)
    parts = {
        part: interval(metrics.nme(predicted, true, normaliser=normaliser, points=of)) for part, of in PARTS.items()
    }
    split = by_group(
        {name: _pairs.column(rows, name)[found] for name in columns}, {"nme": (errors, None)},
        repeats=repeats, seed=seed,
    )  # fmt: skip
    share = float(found.sum() / known.sum())
    return LandmarkEvaluation(
        measured_on=table.name,
        date=today(),
        failures=faces.failures,
        weights=weights,
        faces=int(known.sum()),
        missed=int((known & ~found).sum()),
        nme=overall.value,
        nme_low=overall.low,
        nme_high=overall.high,
        nme_median=float(np.median(errors)),
        limit=limit,
        auc=share * metrics.auc_at(errors, limit),
        failure_rate=1 - share * (1 - metrics.failure_rate(errors, limit)),
        parts=tuple(
            PartError(part, len(PARTS[part]), error.value, error.low, error.high) for part, error in parts.items()
        ),
        normaliser=normaliser,
        redrawn="people" if recurring else "faces",
        groups=split.rows,
        spreads=split.spreads,
        left_out=split.left_out,
    )


def _matched(faces: Faces, paths: list[str], true: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """For every annotated face whether its picture was read (m,), and the row of the face found there, or -1 (m,)."""
    index_of = {info.source: index for index, info in enumerate(faces.images)}
    picture = np.array([index_of.get(path, -1) for path in paths], np.int64)
    match = np.full(len(paths), -1, np.int64)
    around = from_points(true)
    for index in range(len(faces.images)):
        mine, wanted = np.flatnonzero(faces.image == index), np.flatnonzero(picture == index)
        given = match_greedy(faces.boxes[mine], faces.scores[mine], around[wanted], SAME_FACE)
        match[wanted[given[given >= 0]]] = mine[given >= 0]
    return picture >= 0, match
