"""Evaluations: WIDER FACE's three parts by its own rules, and the error of pose on AFLW2000."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.pixels import read
from mien.errors import EmptyMedia, MediaNotFound, ShapeError, TableError
from mien.geometry.boxes import area
from mien.papers.mos.detect import SHORT_SIDES, as_input, detect_multiscale, faces_of
from mien.papers.mos.network import MOS

PARTS = ("easy", "medium", "hard")
THRESHOLDS = 1000
AFLW_SIDE = 300
LARGEST_ANGLE = 99.0

Doubles = NDArray[np.float64]


# ------------------------------------------------------------------------------------------- WIDER FACE


@dataclass(frozen=True, eq=False)
class Truth:
    """WIDER FACE's validation part: for each picture its name ("event/file" without ending), its faces (n, 4) as
    x, y, width, height, and which of them count in each of `PARTS` (n,) bool."""

    names: list[str]
    boxes: list[Doubles]
    counted: dict[str, list[NDArray[np.bool_]]]

    def __len__(self) -> int:
        return len(self.names)


def read_truth(folder: str | os.PathLike[str]) -> Truth:
    """Reads ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat`` of the official evaluation.

    Parameters
    ----------
    folder
        That of the four files, often ``eval_tools/ground_truth``.

    Raises
    ------
    MediaNotFound
        A file is not there.
    TableError
        A file is not one of these.
    """
    from scipy.io import loadmat

    root = Path(folder)
    files = {name: root / f"wider_{name}_val.mat" for name in ("face", *PARTS)}
    for file in files.values():
        if not file.is_file():
            raise MediaNotFound(
                "WIDER FACE's ground truth is not complete", got=str(file),
                expected="wider_face_val.mat and wider_{easy,medium,hard}_val.mat of eval_tools.zip",
            )  # fmt: skip
    names: list[str] = []
    boxes: list[Doubles] = []
    counted: dict[str, list[NDArray[np.bool_]]] = {part: [] for part in PARTS}
    try:
        every = loadmat(files["face"])
        lists = {part: loadmat(files[part])["gt_list"] for part in PARTS}
        for e, event in enumerate(every["event_list"][:, 0]):
            for f, name in enumerate(every["file_list"][e, 0][:, 0]):
                names.append(f"{event.item()}/{name.item()}")
                faces = np.asarray(every["face_bbx_list"][e, 0][f, 0], np.float64).reshape(-1, 4)
                boxes.append(faces)
                for part in PARTS:
                    mask = np.zeros(len(faces), np.bool_)
                    mask[np.asarray(lists[part][e, 0][f, 0], np.int64).reshape(-1) - 1] = True
                    counted[part].append(mask)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise TableError(
            "a file of WIDER FACE's ground truth", got=f"{root}: {error}", expected="as published"
        ) from error
    return Truth(names, boxes, counted)


def wider_ap(found: Mapping[str, Doubles], truth: Truth, *, iou: float = 0.5) -> dict[str, float]:
    """Average precision of `PARTS`, 0 to 1, by the official rules.

    Scores are brought to 0 … 1 over the whole set; precision and recall are taken at 1,000 thresholds; a face that does
    not count may be found or not, and what found it is not judged. A second detection of a face is false. Sides count
    one pixel more than their difference.

    Parameters
    ----------
    found
        For each picture (n, 5) x1, y1, x2, y2, score; pictures without a row found nothing.
    truth
        From `read_truth`.
    iou
        Overlap from which a face is found.
    """
    known = set(truth.names)
    if strange := sorted(set(found) - known):
        raise TableError("detections of pictures that are not of the set", got=strange[:3], expected="event/file")
    answers = []
    for name in truth.names:
        rows = np.asarray(found.get(name, np.zeros((0, 5))), np.float64)
        if rows.ndim != 2 or rows.shape[1] != 5:
            raise ShapeError(f"detections of {name}", got=rows.shape, expected="(n, 5)")
        answers.append(rows[np.argsort(-rows[:, 4], kind="stable")])
    scores = np.concatenate([rows[:, 4] for rows in answers])
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    spread = max(high - low, 1e-12)
    edges = 1 - (np.arange(THRESHOLDS) + 1) / THRESHOLDS
    matched = [_best(rows, boxes) for rows, boxes in zip(answers, truth.boxes, strict=True)]
    out = {}
    for part in PARTS:
        taken, hit, total = np.zeros(THRESHOLDS), np.zeros(THRESHOLDS), 0
        for rows, (face, overlap), counts in zip(answers, matched, truth.counted[part], strict=True):
            total += int(counts.sum())
            if not len(rows) or not len(counts):
                # The official loop passes over pictures without a face or a detection.
                continue
            good = overlap >= iou
            ignored = good & ~counts[face]
            first = np.zeros(len(rows), np.bool_)
            first[np.unique(np.where(good, face, -1), return_index=True)[1]] = True
            new = good & counts[face] & first
            until = np.searchsorted(-(rows[:, 4] - low) / spread, -edges, side="right")
            taken += np.concatenate([[0], np.cumsum(~ignored)])[until]
            hit += np.concatenate([[0], np.cumsum(new)])[until]
        precision = np.divide(hit, taken, out=np.zeros(THRESHOLDS), where=taken > 0)
        recall = hit / max(1, total)
        out[part] = _area(recall, precision)
    return out


def _best(rows: Doubles, faces: Doubles) -> tuple[NDArray[np.int64], Doubles]:
    """For each detection the face that it overlaps most (n,), and by how much."""
    if not len(rows) or not len(faces):
        return np.zeros(len(rows), np.int64), np.zeros(len(rows))
    low, high = faces[:, :2], faces[:, :2] + faces[:, 2:]
    w, h = (np.minimum(rows[:, None, k + 2], high[:, k]) - np.maximum(rows[:, None, k], low[:, k]) + 1 for k in (0, 1))
    common = np.where((w > 0) & (h > 0), w * h, 0)
    mine = (rows[:, 2] - rows[:, 0] + 1) * (rows[:, 3] - rows[:, 1] + 1)
    theirs = (faces[:, 2] + 1) * (faces[:, 3] + 1)
    overlap = common / (mine[:, None] + theirs - common)
    best = overlap.argmax(1)
    return best, overlap[np.arange(len(rows)), best]


def _area(recall: Doubles, precision: Doubles) -> float:
    """Area under the curve after precision is made falling."""
    r, p = np.concatenate([[0.0], recall, [1.0]]), np.concatenate([[0.0], precision, [0.0]])
    p = np.maximum.accumulate(p[::-1])[::-1]
    steps = np.flatnonzero(r[1:] != r[:-1])
    return float(((r[steps + 1] - r[steps]) * p[steps + 1]).sum())


def write_results(found: Mapping[str, Doubles], folder: str | os.PathLike[str]) -> None:
    """Writes ``event/file.txt``, the format of the official evaluation: name, count, then x y width height score."""
    for name, rows in found.items():
        file = Path(folder) / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [Path(name).name, str(len(rows))]
        lines += [f"{x1:.1f} {y1:.1f} {x2 - x1:.1f} {y2 - y1:.1f} {score:.6f}" for x1, y1, x2, y2, score in rows]
        file.write_text("\n".join(lines) + "\n", "utf-8")


def evaluate(
    network: MOS,
    folder: str | os.PathLike[str],
    *,
    sides: tuple[int, ...] = SHORT_SIDES,
    flip: bool = True,
    limit: int | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Average precision on WIDER FACE's validation part at many scales with box voting.

    Parameters
    ----------
    network
        In eval mode.
    folder
        With ``WIDER_val/images`` and ``ground_truth``.
    sides, flip
        Short sides of the scales, and whether mirror images take part.
    limit
        Only the first pictures, for a trial; the figures are then of those.
    results
        Folder for files in the official format.
    progress
        Called as ``progress(done, total)``.
    """
    root = Path(folder)
    truth = read_truth(root / "ground_truth")
    if limit is not None:
        truth = Truth(truth.names[:limit], truth.boxes[:limit], {k: v[:limit] for k, v in truth.counted.items()})
    found: dict[str, Doubles] = {}
    for done, name in enumerate(truth.names, 1):
        picture = read(root / "WIDER_val" / "images" / f"{name}.jpg")
        found[name] = detect_multiscale(network, picture, sides=sides, flip=flip)
        if progress is not None:
            progress(done, len(truth))
    if results is not None:
        write_results(found, results)
    return wider_ap(found, truth)


# ------------------------------------------------------------------------------------------- AFLW2000


@torch.no_grad()
def pose_errors(
    network: MOS, folder: str | os.PathLike[str], *, side: int = AFLW_SIDE, threshold: float = 0.55
) -> dict[str, float]:
    """Mean absolute errors of pitch, yaw and roll in degrees on AFLW2000, their mean, and how many faces were found.

    Each picture is squashed to `side` px, and its largest detected face compared with ``Pose_Para`` of the ``.mat``
    beside it, in 300W-LP's convention. Pictures with an angle beyond 99 degrees are left out, as the protocol says.

    Raises
    ------
    MediaNotFound, EmptyMedia
        There is no such folder, or no picture of it has a ``.mat``; or no face at all was found.
    """
    import cv2
    from scipy.io import loadmat

    root = Path(folder)
    if not root.is_dir():
        raise MediaNotFound("there is no such folder", got=str(root), expected="AFLW2000 with .jpg and .mat files")
    device = next(network.parameters()).device
    errors, pictures = [], 0
    for file in sorted(root.glob("*.jpg")):
        labels = file.with_suffix(".mat")
        if not labels.is_file():
            continue
        told: Any = loadmat(labels)["Pose_Para"]
        pitch, yaw, roll = np.degrees(np.asarray(told, np.float64).reshape(-1)[:3])
        true = np.array([yaw, pitch, roll])
        if (np.abs(true) > LARGEST_ANGLE).any():
            continue
        pictures += 1
        picture = cv2.resize(read(file), (side, side), interpolation=cv2.INTER_LINEAR)
        raw = network(as_input(torch.from_numpy(picture)[None].to(device)))
        (found,) = faces_of(raw, network.anchors(side, side, device), side, side, threshold=threshold)
        if len(found):
            assert found.pose is not None
            largest = int(np.argmax(area(found.boxes.cpu().numpy())))
            errors.append(np.abs(found.pose[largest].double().cpu().numpy() - true))
    if not pictures or not errors:
        raise EmptyMedia("no face to compare the pose of", got=f"{pictures} pictures, {len(errors)} faces found")
    yaw, pitch, roll = np.mean(errors, axis=0).tolist()
    return {
        "pitch": pitch, "yaw": yaw, "roll": roll, "mae": (pitch + yaw + roll) / 3, "found": len(errors) / pictures,
    }  # fmt: skip
