"""Named people for experiments in recognition: rendered heads, or the real sets, aligned alike and written as records.

What is drawn or read is cut by five points to a square crop and written as InsightFace records, which every training
recipe reads. Rendered heads know their points; on photographs the bundled detector finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import Picture

Told = Callable[[float, float | None, str], None]

TEMPLATE = "arcface112"
SHARD = 256
"""Pictures that are rendered or looked through at a time."""


def rendered(
    *, people: int, pictures: int, size: int, seed: int, yaw: float = 45.0, told: Told | None = None
) -> tuple[Picture, NDArray[np.int64]]:
    """Crops (people * pictures, size, size, 3) of rendered heads, and who is on them.

    Everything but the person changes from picture to picture, as `mien.data.heads.sample` draws it: pose, expression,
    light, camera, hat, glasses, make-up, scene. Nothing covers the face.

    Parameters
    ----------
    people, pictures
        How many, and how many of each.
    size
        Side of a crop in pixels.
    seed
        Of the people and of the pictures.
    yaw
        Heads are turned no farther to either side, degrees.
    told
        Called as ``told(done, total, what)``.
    """
    from mien.data.heads import render, sample
    from mien.geometry.landmarks import five_from_68

    count = people * pictures
    parts = []
    for start in range(0, count, SHARD):
        if told is not None:
            told(start, count, "drawing heads")
        some = sample(min(SHARD, count - start), seed=seed, start=start, per_identity=pictures, occluder="none")
        some = some.with_(pose=np.clip(some.pose, [-yaw, -90, -180], [yaw, 90, 180]))
        heads = render(some, size=112, what=("image", "landmarks"))
        parts.append(_cut(heads.image, five_from_68(heads.landmarks_2d), size))
    return np.concatenate(parts), np.repeat(np.arange(people), pictures)


@functools.lru_cache(maxsize=4)
def photographed(name: str, root: Path | None, *, size: int) -> tuple[Picture, NDArray[np.int64]]:
    """Crops (n, size, size, 3) of a real set, and numbers of who is on them; read once in a process.

    The face nearest to the middle counts; where the detector finds none, the points lie where they do on average.

    Parameters
    ----------
    name
        "celeba10k", "cfp" or "lfw".
    root
        Its folder; None: where `mien.data.sets` looks.
    size
        Side of a crop in pixels.
    """
    from mien.data import sets

    readers: dict[str, Callable[..., Any]] = {"celeba10k": sets.celeba10k, "cfp": sets.cfp, "lfw": sets.lfw}
    people = readers[name](root)
    parts = []
    for start in range(0, len(people), SHARD):
        pictures = np.stack([people.picture(row) for row in range(start, min(start + SHARD, len(people)))])
        parts.append(_cut(pictures, _central(pictures), size))
    labels = np.unique(np.asarray(people.identity), return_inverse=True)[1]
    return np.concatenate(parts), labels.reshape(-1).astype(np.int64)


def write(folder: Path, crops: Picture, labels: Sequence[int] | NDArray[np.int64]) -> Path:
    """``people.rec`` and ``people.idx`` in `folder`, which is made; PNG, so that nothing is lost."""
    import cv2

    from mien.data.formats import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(folder / "people") as records:
        for key, (crop, label) in enumerate(zip(crops, labels, strict=True)):
            records.write(key, cv2.imencode(".png", crop[..., ::-1])[1].tobytes(), float(label))
    return folder / "people.rec"


def _cut(pictures: Iterable[Picture], points: NDArray[np.floating[Any]], size: int) -> Picture:
    import cv2

    from mien.geometry.similarity import similarity_from_points, template

    matrices = similarity_from_points(points, template(TEMPLATE, size=size))
    cut = [
        cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for picture, matrix in zip(pictures, matrices, strict=True)
    ]
    return np.asarray(np.stack(cut), np.uint8)


def _central(pictures: Picture) -> NDArray[np.float32]:
    """Five points (n, 5, 2) of the face nearest to the middle of each picture (n, H, W, 3)."""
    import torch

    from mien.nn.detector import detect
    from mien.nn.inputs import to_input
    from mien.weights import load

    network = load("mien-detector")
    height, width = pictures.shape[1:3]
    points = np.full((len(pictures), 5, 2), np.nan, np.float32)
    for start in range(0, len(pictures), 64):
        batch = to_input(torch.from_numpy(pictures[start : start + 64]))
        for row, found in enumerate(detect(network, batch, threshold=0.3), start):
            if len(found.boxes):
                centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
                nearest = (centres - torch.tensor([width / 2, height / 2])).norm(dim=1).argmin()
                points[row] = found.landmarks5[nearest].numpy()
    known = np.isfinite(points).all((1, 2))
    usual = np.median(points[known], 0) if known.any() else np.full((5, 2), np.nan, np.float32)
    points[~known] = usual
    return points
