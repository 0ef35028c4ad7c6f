"""Scenes of several rendered heads that touch each other, with the parts of one of them: who is meant, a box says.

    scenes = crowds(1000, seed=1)
    scenes.images, scenes.masks, scenes.boxes, scenes.roll

What parses a face among others has to look far enough for the hair and must not take the neighbours' along. Every head
is the target of one scene and a neighbour in others. Pictures of nobody, with exact labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.heads import HeadParameters, Heads, render, sample
from mien.data.scenes import face_outline
from mien.errors import OptionError

Floats = NDArray[np.float32]

DRAWN = 96
"""Side of the pictures of single heads, px."""
FACE_SHARE = 0.4
"""Of these: height of the face by that of the picture, so that hair and shoulders are in it."""
SHARD = 256
IN_FRONT = 0.15
"""Share of the neighbours that stand before the target."""
BARE: dict[str, Any] = {"occluder": "none", "glasses": 0, "hat": 0}
"""What heads of a crowd do without: hands and masks are background and would leave holes."""


@dataclass(frozen=True, eq=False)
class Crowds:
    """`n` scenes.

    Parameters
    ----------
    images : (n, S, S, 3) uint8
        RGB.
    masks : (n, S, S) uint8
        Classes of `mien.faces.PARSING` of the target; background where it is not, other people included.
    boxes : (n, 4) float32
        Of the target's face, forehead to chin and cheek to cheek, pixels.
    roll : (n,) float32
        By how many degrees the scene's target was turned in the picture's plane, clockwise as seen.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    boxes: Floats
    roll: Floats

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Any) -> Self:
        """Some of the scenes, by numbers, slice or mask."""
        return type(self)(self.images[rows], self.masks[rows], self.boxes[rows], self.roll[rows])


def crowds(
    count: int,
    *,
    seed: int,
    start: int = 0,
    size: int = 112,
    face: tuple[float, float] = (18.0, 36.0),
    roll: float = 14.0,
    neighbours: int = 3,
    **fixed: Any,
) -> Crowds:
    """`count` scenes.

    Parameters
    ----------
    count
        Number of scenes, and of heads drawn for them.
    seed
        Of heads and scenes.
    start
        Number of the first head: heads of other numbers are of other people.
    size
        Side of the scenes, px.
    face
        Least and largest height of the target's box, px; neighbours are 0.7 to 1.3 times as large.
    roll
        Heads are turned by up to so many degrees to either side; 180 is any way.
    neighbours
        Other heads in each scene.
    **fixed
        Columns of `mien.data.heads.HeadParameters` that are not drawn at random.

    Raises
    ------
    OptionError
        There are fewer scenes than a scene has heads, or faces are larger than the scene.
    """
    return compose(
        heads(count, seed=seed, start=start, **fixed), seed=seed, size=size, face=face, roll=roll, neighbours=neighbours
    )


def heads(count: int, *, seed: int, start: int = 0, **fixed: Any) -> Heads:
    """The single heads of `crowds`, which `compose` lays into scenes."""
    parts = []
    for first in range(0, count, SHARD):
        some: HeadParameters = sample(
            min(SHARD, count - first), seed=seed, start=start + first, **{**BARE, "face_share": FACE_SHARE, **fixed}
        )
        parts.append(render(some, size=DRAWN, what=("image", "landmarks", "parsing")))
    return Heads.concat(parts)


def compose(
    drawn: Heads,
    *,
    seed: int,
    size: int = 112,
    face: tuple[float, float] = (18.0, 36.0),
    roll: float = 14.0,
    neighbours: int = 3,
) -> Crowds:
    """One scene for each of the heads; see `crowds`."""
    count = len(drawn)
    if count <= neighbours or neighbours < 0:
        raise OptionError(
            "too few heads for a crowd", got=f"{count} heads, {neighbours} neighbours", expected="more heads than those"
        )
    if not 4 <= face[0] <= face[1] <= size / 2 or not 0 <= roll <= 180:
        raise OptionError(
            "faces or their roll are out of range", got=f"face {face}, size {size}, roll {roll}",
            expected="4 px to half of the scene; 0 to 180 degrees",
        )  # fmt: skip
    outlines = face_outline(drawn.landmarks_2d)
    low, high = outlines.min(1), outlines.max(1)
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    boxes, turns = np.empty((count, 4), np.float32), np.empty(count, np.float32)
    for row in range(count):
        rng = np.random.default_rng((seed, 31, row))
        scene = _clutter(size, rng)
        tall = float(np.exp(rng.uniform(*np.log(face))))
        centre = rng.uniform(0.28, 0.72, 2) * size
        turns[row] = rng.uniform(-roll, roll)
        others = (row + 1 + rng.choice(count - 1, neighbours, replace=False)) % count
        layers = []
        for other in others:
            way, height = rng.uniform(0, 2 * np.pi), tall * rng.uniform(0.7, 1.3)
            apart = (tall + height) / 2 * rng.uniform(1.05, 1.6)
            where = centre + apart * np.array([np.cos(way), np.sin(way)])
            layers.append((int(other), height, where, float(rng.uniform(-roll, roll)), bool(rng.random() < IN_FRONT)))
        target = (row, tall, centre, float(turns[row]), False)
        behind, before = ([one for one in layers if one[4] is front] for front in (False, True))
        for head, height, where, angle, _ in (*behind, target, *before):
            matrix = _placing(low[head], high[head], height, where, angle)
            shown = cv2.warpAffine(
                np.asarray(drawn.parsing[head]), matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=0
            )
            cv2.copyTo(cv2.warpAffine(drawn.image[head], matrix, (size, size), flags=cv2.INTER_LINEAR), shown, scene)
            if head == row:
                masks[row] = shown
                points = outlines[row] @ matrix[:, :2].T + matrix[:, 2]
                boxes[row] = np.concatenate([points.min(0), points.max(0)])
            else:
                masks[row][shown > 0] = 0
        images[row] = scene
    return Crowds(images, masks, boxes, turns)


def _placing(low: Floats, high: Floats, height: float, where: NDArray[Any], angle: float) -> NDArray[np.float64]:
    """From a head's picture to the scene (2, 3): the box's middle to `where`, its height to `height` px, turned."""
    scale, a = height / float(high[1] - low[1]), np.deg2rad(angle)
    linear = scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return np.hstack([linear, (where - linear @ ((low + high) / 2))[:, None]])


def _clutter(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scene without anybody: soft colours and shapes."""
    rough = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    scene = np.array(cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC))
    for _ in range(8):
        x, y = (int(v) for v in rng.integers(0, size, 2))
        axes = (int(rng.integers(2, size // 5)), int(rng.integers(2, size // 5)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.ellipse(scene, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return np.asarray(scene, np.uint8)
