"""How right the systems are on the pictures they are timed on, so that no speed is bought in silence.

central face found    share of LFW pictures with a box around the picture's middle (each is centred on its face)
faces found           share of the boxed faces of the held-out `detection` scenes that a found box overlaps by IoU 0.3;
                      not 0.5, since the systems frame faces differently and none is asked to frame as the set does
false faces           boxes per picture on `no_faces`, at each system's own default threshold
accuracy              of LFW pairs, folds 1 to 5, the threshold of each fold set on the others; a picture without a
                      found face makes its pairs different; own detector and alignment in the loop

The systems run as they are timed, with their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row
from benchmarks.systems import System

Say = Callable[[str], None]

CHUNK = 16
IOU = 0.3


def detection_rows(system: System, *, pictures: int, say: Say) -> list[Row]:
    """Recall on LFW and scenes, false faces on pictures without any; at most `pictures` of each set."""
    from benchmarks.pictures import spread
    from mien.data.sets import detection, lfw, no_faces
    from mien.metrics.detection import judge_detections

    rows = []
    say(f"{system.name}: LFW, central face")
    people = lfw()
    files = [people.files[row] for row in spread(len(people), pictures)]
    hits = [has_middle(boxes, seen.shape) for boxes, _, seen in _detected(system, files)]
    rows.append(share_row(system, "lfw", "detect", "central face found", np.array(hits)))

    say(f"{system.name}: scenes")
    scenes = detection(split="test")
    scenes = scenes.take(spread(len(scenes), pictures))
    found = [(boxes, scores) for boxes, scores, _ in _detected(system, scenes.files)]
    judged = judge_detections(
        np.concatenate([boxes for boxes, _ in found]),
        np.concatenate([scores for _, scores in found]),
        np.repeat(np.arange(len(found)), [len(scores) for _, scores in found]),
        scenes.boxes.xyxy, scenes.boxes.image, images=len(scenes), iou=IOU,
    )  # fmt: skip
    hit = np.zeros(len(scenes.boxes), bool)
    hit[judged.match[judged.match >= 0]] = True
    rows.append(share_row(system, "scenes", "detect", "faces found", hit, note=f"IoU {IOU:g}"))

    say(f"{system.name}: pictures without faces")
    empty = no_faces()
    counts = np.array(
        [len(boxes) for boxes, _, _ in _detected(system, [empty.files[r] for r in spread(len(empty), pictures)])]
    )
    rows.append(
        Row(
            system=system.name, version=system.version, pictures="no_faces", stage="detect",
            metric="false faces", value=float(counts.mean()), unit="per picture",
            spread=float(counts.std(ddof=1) / np.sqrt(len(counts))) if len(counts) > 1 else None, repeats=len(counts),
            note=f"raised an exception on {system.failed} pictures of all sets" if system.failed else "",
        )
    )  # fmt: skip
    return rows


def verification_rows(system: System, *, pairs_a_fold: int, say: Say) -> list[Row]:
    """LFW accuracy over the first `pairs_a_fold` pairs of each fold, half of them same, half different."""
    from mien.data.sets import lfw
    from mien.metrics.verification import kfold_accuracy

    people = lfw()
    kept = subset(people.pairs.same, people.pairs.fold, pairs_a_fold)
    first, second = people.pairs.first[kept], people.pairs.second[kept]
    same, fold = people.pairs.same[kept], people.pairs.fold[kept]
    needed = np.unique(np.concatenate([first, second]))
    vectors: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(needed), CHUNK):
        say(f"{system.name}: LFW pairs, picture {start} of {len(needed)}")
        chunk = needed[start : start + CHUNK]
        pictures = [system.decode(people.files[row].read_bytes()) for row in chunk]
        found = system.points(pictures, system.detect(pictures))
        embeddings = system.embed(pictures, found)
        offset = 0
        for row, picture, boxes in zip(chunk.tolist(), pictures, system.boxes(pictures, found), strict=True):
            if len(boxes):
                vectors[row] = embeddings[offset + nearest_middle(boxes, _array(picture).shape)]
            offset += len(boxes)
    judged = np.array([a in vectors and b in vectors for a, b in zip(first.tolist(), second.tolist(), strict=True)])
    scores = np.full(len(first), -np.inf)
    if judged.any():
        stacked = [np.stack([vectors[row] for row in side[judged].tolist()]) for side in (first, second)]
        scores[judged] = system.compare(*stacked)
    # Below every true score, yet finite: metrics refuse infinities.
    scores[~judged] = (scores[judged].min() if judged.any() else 0.0) - 1.0
    result = kfold_accuracy(scores, same, fold)
    lost = len(needed) - len(vectors)
    return [
        Row(
            system=system.name, version=system.version, pictures="lfw", stage="embed", metric="accuracy",
            value=100 * result.accuracy, unit="%", spread=100 * result.standard_error, repeats=len(same),
            note=f"folds 1 to 5, {len(same)} pairs; no face found in {lost} of {len(needed)} pictures",
        )
    ]  # fmt: skip


def subset(same: NDArray[np.bool_], fold: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of the first ``count // 2`` same and as many different pairs of each fold."""
    chosen = [
        np.flatnonzero((fold == name) & (same == kind))[: count // 2]
        for name in np.unique(fold)
        for kind in (True, False)
    ]
    return np.sort(np.concatenate(chosen))


def has_middle(boxes: NDArray[np.float32], shape: Sequence[int]) -> bool:
    """Whether one of the boxes (k, 4) holds the middle of a picture of shape (H, W, …)."""
    x, y = shape[1] / 2, shape[0] / 2
    return bool(((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).any())


def nearest_middle(boxes: NDArray[np.float32], shape: Sequence[int]) -> int:
    """The box whose centre lies nearest to the middle of the picture."""
    middle = np.array([shape[1] / 2, shape[0] / 2])
    return int(np.argmin(np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)))


def share_row(system: System, pictures: str, stage: str, metric: str, hits: NDArray[Any], *, note: str = "") -> Row:
    """A share of cases in per cent with its standard error, sqrt(p (1 - p) / n)."""
    share = float(hits.mean())
    return Row(
        system=system.name, version=system.version, pictures=pictures, stage=stage, metric=metric, value=100 * share,
        unit="%", spread=100 * float(np.sqrt(share * (1 - share) / len(hits))), repeats=len(hits), note=note,
    )  # fmt: skip


def _detected(system: System, files: Sequence[Any]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], Any]]:
    """Boxes, scores and pixels of every picture."""
    for start in range(0, len(files), CHUNK):
        pictures = [system.decode(path.read_bytes()) for path in files[start : start + CHUNK]]
        found = system.detect(pictures)
        rows = zip(system.boxes(pictures, found), system.scores(pictures, found), pictures, strict=True)
        for boxes, scores, picture in rows:
            yield boxes, scores, _array(picture)


def _array(picture: Any) -> Any:
    """Pixels of a system's own picture: mien's come with where they are from."""
    return getattr(picture, "image", picture)
