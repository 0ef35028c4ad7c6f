"""``evaluate detection``: are the faces found, and nothing else?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien import metrics
from mien.errors import EmptyMedia, MediaNotFound, OptionError, TableError
from mien.geometry.boxes import inside
from mien.verbs import _pairs, _pipeline
from mien.verbs._pipeline import Plan, Progress
from mien.verbs.evaluate._common import (
    ByGroup,
    Evaluation,
    GroupRow,
    GroupSpread,
    by_group,
    check_bootstrap,
    ends,
    names_of,
    share_interval,
    today,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces

CORNERS = ("xmin", "ymin", "xmax", "ymax")

FROC = (0.01, 0.1, 1.0)
"""False faces per picture at which recall is given."""


@dataclass(frozen=True)
class LabelRecall:
    """Recall of the annotated faces that bear one label.

    Parameters
    ----------
    label
        From the table.
    faces
        How many bear it.
    recall
        Share of them found at the threshold.
    """

    label: str
    faces: int
    recall: float


@dataclass(frozen=True)
class RecallAtRate:
    """A point of the FROC curve.

    Parameters
    ----------
    false_faces_per_picture
        At most so many.
    recall
        The best recall with them.
    """

    false_faces_per_picture: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class DetectionEvaluation(Evaluation):
    """How well faces are found. What cannot be measured without annotations is None.

    Parameters
    ----------
    weights, threshold
        The detector, and the score from which on a detection counts.
    pictures, faces, detections
        Pictures that were looked at, annotated faces that count in them, and detections at the threshold.
    average_precision, average_precision_low, average_precision_high
        Area under the precision-recall curve, with its interval (pictures redrawn).
    iou
        Overlap from which a detection has found an annotated face.
    recall, precision
        At the threshold, with intervals.
    false_faces_per_picture
        At the threshold, over all pictures, with its interval.
    pictures_without_faces, false_faces_per_picture_without_faces
        Pictures without annotated faces, and the rate on those alone.
    log_average_miss_rate
        Geometric mean of the miss rate at nine rates of false faces, 0.01 to 1 per picture.
    recall_at
        Points of the FROC curve.
    labels
        Recall by the label of the annotation.
    central_found
        Share of pictures in which a face covers the centre, with its interval; where that was asked for.
    central_missing
        The other pictures.
    groups, spreads, left_out
        Recall and `central_found` by group.
    """

    weights: str
    threshold: float
    pictures: int
    detections: int
    iou: float
    faces: int = 0
    average_precision: float | None = None
    average_precision_low: float | None = None
    average_precision_high: float | None = None
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    precision: float | None = None
    precision_low: float | None = None
    precision_high: float | None = None
    false_faces_per_picture: float | None = None
    false_faces_per_picture_low: float | None = None
    false_faces_per_picture_high: float | None = None
    pictures_without_faces: int = 0
    false_faces_per_picture_without_faces: float | None = None
    log_average_miss_rate: float | None = None
    recall_at: tuple[RecallAtRate, ...] = ()
    labels: tuple[LabelRecall, ...] = ()
    central_found: float | None = None
    central_found_low: float | None = None
    central_found_high: float | None = None
    central_missing: tuple[str, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    spreads: tuple[GroupSpread, ...] = ()
    left_out: tuple[str, ...] = ()


def detection(
    *,
    images: str | os.PathLike[str],
    boxes: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    one_central: bool = False,
    groups: Iterable[str] = (),
    iou: float = 0.5,
    min_face: float = 0.0,
    pad: float = 0.0,
    threshold: float | None = None,
    lowest: float = 0.02,
    size: int = 640,
    weights: str = "mien-detector",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    repeats: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> DetectionEvaluation:
    """Measures detection on pictures whose faces are boxed, or on pictures without faces.

    Parameters
    ----------
    images
        Folder with the pictures, those in its folders included.
    boxes
        CSV file with the columns file,xmin,ymin,xmax,ymax and, if there is one, label: one row a face, file names
        relative to `images`. A picture without a row shows no face. Without this table no picture does, unless
        `one_central` is set.
    pictures
        CSV file with a column file: the pictures that are looked at. Default: all of the folder.
    one_central
        Also tell in what share of the pictures a face covers the centre.
    groups
        Columns of the table `pictures` by whose values figures are given too.
    iou
        Overlap from which a detection has found an annotated face.
    min_face
        Least side of a face in pixels; smaller annotated ones need not be found, smaller detections do not count.
    pad
        Grey border that the detector sees around every picture, as a share of its long side.
    threshold
        Score from which on a detection counts. Default: the one declared with the weights.
    lowest
        Score down to which the precision-recall curve reaches.
    size
        Long side in pixels at which pictures are looked at.
    weights
        Name of the detector.
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
    DetectionEvaluation

    Raises
    ------
    MediaNotFound, EmptyMedia, TableError
        There is no such folder, it holds no picture, or a table cannot be used.
    """
    from mien.weights import info

    check_bootstrap(repeats, {"lowest": lowest})
    if not 0 < iou <= 1:
        raise OptionError("iou is an overlap", got=iou, expected="above 0, at most 1")
    columns = names_of(groups)
    if columns and pictures is None:
        raise OptionError(
            "groups are columns of a table of pictures", got=", ".join(columns), hint="give pictures= such a table"
        )
    level = threshold if threshold is not None else info(weights).threshold
    level = 0.5 if level is None else level
    if not 0 <= level < 1:
        raise OptionError("threshold is a score", got=level, expected="0 to below 1")
    plan = Plan(
        detector=weights, threshold=min(lowest, level), size=size, min_face=min_face, pad=pad,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    folder = Path(images)
    names, labels = _pictures(folder, pictures, columns)
    annotated, names = _annotated(boxes, folder, names, chosen=pictures is not None)
    faces = _pipeline.run([str(folder / name) for name in names], plan, progress=progress)

    seen = _Seen.of(faces, [str(folder / name) for name in names], level)
    by_picture = {name: values[seen.rows] for name, values in labels.items()}
    figures: dict[str, Any] = {}
    parts: list[ByGroup] = []
    if annotated is not None:
        told, part = _by_boxes(seen, annotated.of(seen.rows), by_picture, iou, min_face, repeats, seed)
        figures |= told
        parts.append(part)
    elif not one_central:
        none = np.zeros(len(faces.images), np.int64)
        figures |= _false_faces(np.bincount(faces.image[seen.taken], minlength=len(none)), none, repeats, seed)
    if one_central:
        covered = _central(seen)
        value, low, high = ends(metrics.mean_interval(covered.astype(np.float64), repeats=repeats, seed=seed))
        missing = tuple(names[row] for row in seen.rows[~covered])
        figures |= {"central_found": value, "central_found_low": low, "central_found_high": high}
        figures["central_missing"] = missing
        parts.append(by_group(by_picture, {"central_found": (covered, None)}, repeats=repeats, seed=seed))
    return DetectionEvaluation(
        measured_on=folder.name if boxes is None else Path(boxes).name,
        date=today(),
        failures=faces.failures,
        weights=weights,
        threshold=level,
        pictures=len(faces.images),
        detections=int(seen.taken.sum()),
        iou=iou,
        groups=tuple(row for part in parts for row in part.rows),
        spreads=tuple(spread for part in parts for spread in part.spreads),
        left_out=tuple(name for part in parts for name in part.left_out),
        **figures,
    )


@dataclass(frozen=True)
class _Seen:
    """Detections of the pictures that could be read, which detections count, and those pictures' rows in the list."""

    faces: Faces
    taken: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, faces: Faces, paths: Sequence[str], level: float) -> _Seen:
        row_of = {path: row for row, path in enumerate(paths)}
        rows = np.array([row_of[info.source] for info in faces.images], np.int64)
        if not len(rows):
            raise EmptyMedia("none of the pictures can be read", got=f"{len(paths)} pictures", hint="see their errors")
        return cls(faces, faces.scores >= level, rows)


@dataclass(frozen=True)
class _Annotated:
    """Boxes (m, 4), the row of each one's picture (m,) in the list of pictures, and its label, "" without."""

    boxes: NDArray[np.float64]
    picture: NDArray[np.int64]
    label: NDArray[np.str_]

    def of(self, rows: NDArray[np.int64]) -> _Annotated:
        """The boxes of those pictures, counted anew in their order."""
        place = np.full(max(self.picture.max(initial=-1), rows.max(initial=-1)) + 1, -1)
        place[rows] = np.arange(len(rows))
        there = place[self.picture] >= 0
        return _Annotated(self.boxes[there], place[self.picture[there]], self.label[there])


def _by_boxes(
    seen: _Seen,
    annotated: _Annotated,
    by_picture: Mapping[str, NDArray[np.str_]],
    iou: float,
    min_face: float,
    repeats: int,
    seed: int,
) -> tuple[dict[str, Any], ByGroup]:
    """The figures that annotated boxes give, under their names in `DetectionEvaluation`."""
    faces, count = seen.faces, len(seen.faces.images)
    boxes = annotated.boxes
    small = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) < min_face
    judged = metrics.judge_detections(
        faces.boxes, faces.scores, faces.image, boxes, annotated.picture, images=count, iou=iou, ignore=small
    )
    found = np.zeros(len(boxes), np.bool_)
    matched = judged.match[seen.taken]
    found[matched[matched >= 0]] = True
    hits = np.bincount(annotated.picture[found & ~small], minlength=count)
    # What lies on a face too small to count is neither right nor wrong.
    wrong = seen.taken & (judged.match < 0)
    false = np.bincount(faces.image[wrong], minlength=count)
    figures: dict[str, Any] = {"faces": int(judged.truths.sum())}
    for name, interval in (
        ("average_precision", judged.average_precision_interval(repeats=repeats, seed=seed)),
        ("recall", share_interval(hits, judged.truths, repeats=repeats, seed=seed)),
        ("precision", share_interval(hits, hits + false, repeats=repeats, seed=seed)),
    ):
        figures |= dict(zip((name, f"{name}_low", f"{name}_high"), ends(interval), strict=True))
    curve = judged.curve()
    figures["log_average_miss_rate"] = curve.log_average_miss_rate()
    figures["recall_at"] = tuple(RecallAtRate(rate, curve.recall_at(rate)) for rate in FROC)
    figures["labels"] = tuple(
        LabelRecall(str(label), int(mine.sum()), float(found[mine].mean()))
        for label in np.unique(annotated.label[~small])
        if label != "" and (mine := (annotated.label == label) & ~small).any()
    )
    figures |= _false_faces(false, np.bincount(annotated.picture, minlength=count), repeats, seed)
    labels = {name: values[annotated.picture] for name, values in by_picture.items()}
    return figures, by_group(labels, {"recall": (found, ~small)}, repeats=repeats, seed=seed)


def _false_faces(false: NDArray[np.int64], annotations: NDArray[np.int64], repeats: int, seed: int) -> dict[str, Any]:
    """False faces per picture, over all pictures and over those without a face."""
    value, low, high = ends(metrics.mean_interval(false, repeats=repeats, seed=seed))
    empty = annotations == 0
    return {
        "false_faces_per_picture": value,
        "false_faces_per_picture_low": low,
        "false_faces_per_picture_high": high,
        "pictures_without_faces": int(empty.sum()),
        "false_faces_per_picture_without_faces": float(false[empty].mean()) if empty.any() else None,
    }


def _central(seen: _Seen) -> NDArray[np.bool_]:
    """Whether a detection covers the centre of each picture (pictures,)."""
    faces = seen.faces
    covered = np.zeros(len(faces.images), np.bool_)
    for index, info in enumerate(faces.images):
        mine = faces.boxes[seen.taken & (faces.image == index)]
        covered[index] = inside(mine, [[info.width / 2, info.height / 2]]).any()
    return covered


# ------------------------------------------------------------------------------------------- tables


def _pictures(
    folder: Path, table: str | os.PathLike[str] | None, columns: Sequence[str]
) -> tuple[list[str], dict[str, NDArray[np.str_]]]:
    """Names of the pictures to look at, relative to the folder, and their labels."""
    from mien.media import expand_sources
    from mien.media.formats import VIDEO_SUFFIXES

    if not folder.is_dir():
        raise MediaNotFound("there is no such folder of pictures", got=str(folder), hint="give images= the folder")
    if table is None:
        files = [Path(file) for file in expand_sources(folder, recursive=True)]
        names = [f.relative_to(folder).as_posix() for f in files if f.suffix.lower() not in VIDEO_SUFFIXES]
        return names, {}
    rows = _pairs.read_table(table, ("file",))
    _pairs.check_columns(table, columns)
    names = [_plain_name(row["file"]) for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TableError(f"{Path(table).name} names a picture twice", got=twice, expected="one row a picture")
    _pairs.existing(folder, names, Path(table))
    return names, {name: _pairs.column(rows, name) for name in columns}


def _annotated(
    table: str | os.PathLike[str] | None, folder: Path, names: list[str], *, chosen: bool
) -> tuple[_Annotated | None, list[str]]:
    """The annotated boxes, and `names` with the pictures that only the boxes name.

    With pictures `chosen` by a table of their own, boxes of other pictures are left out instead.
    """
    if table is None:
        return None, names
    file = Path(table).name
    rows = _pairs.read_table(table, ("file", *CORNERS))
    _pairs.existing(folder, [_plain_name(row["file"]) for row in rows], Path(table))
    row_of = {name: row for row, name in enumerate(names)}
    boxes, picture, label = [], [], []
    for line, row in enumerate(rows, 2):
        name = _plain_name(row["file"])
        if name not in row_of:
            if chosen:
                continue
            row_of[name] = len(row_of)  # not in the folder: it will be told among the failures
        box = [_pairs.number(row, corner, line, file) for corner in CORNERS]
        if box[2] <= box[0] or box[3] <= box[1]:
            raise TableError(
                f"line {line} of {file}: a box without area", got=box, expected="xmin < xmax and ymin < ymax",
                hint="convert from x, y, width, height first",
            )  # fmt: skip
        boxes.append(box)
        picture.append(row_of[name])
        label.append((row.get("label") or "").strip())
    if not boxes:
        raise TableError(f"none of the boxes of {file} is in a chosen picture", got=f"{len(rows)} boxes")
    return _Annotated(np.array(boxes), np.array(picture), np.array(label, np.str_)), list(row_of)


def _plain_name(name: str) -> str:
    """A file name as folders are listed: "./a.jpg" is "a.jpg"."""
    return Path(name.strip()).as_posix()
