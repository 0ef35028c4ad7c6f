"""Rendered heads in larger pictures: one head somewhere in clutter, its tags known, its box kept for testing alone.

    scenes = head_scenes(500, seed=1, size=96)
    scenes.image (500, 96, 96, 3), scenes.tags (500, 36), scenes.boxes (500, 4)

The head is drawn by `mien.data.heads`, cut out along its outline, scaled and pasted. The clutter around it, blots,
boards and stripes in any colour, tones of skin and hair among them, says nothing about the tags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.pixels import Picture, as_picture
from mien.data.scenes import face_outline
from mien.errors import OptionError

Floats = NDArray[np.float32]
Told = Callable[[float, float | None, str], None]

FACE_SHARE = 0.36
"""Of the drawn head, brows to chin over the drawing's height: hats and shoulders have room."""
TURNED = 45.0
"""Heads are turned no farther to either side, degrees."""
SHARD = 256


@dataclass(frozen=True, eq=False)
class HeadScenes:
    """`n` scenes with one head each.

    Parameters
    ----------
    image : (n, S, S, 3) uint8
    tags : (n, 36) bool
        Columns `mien.data.heads.ATTRIBUTES`.
    boxes : (n, 4) float32
        The face, hairline to chin and cheek to cheek, xyxy px.
    identity : (n,) int64
    """

    image: Picture
    tags: NDArray[np.bool_]
    boxes: Floats
    identity: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: Any) -> HeadScenes:
        """The scenes of some rows."""
        return HeadScenes(self.image[rows], self.tags[rows], self.boxes[rows], self.identity[rows])


TONES = np.array([(26, 22, 20), (62, 44, 34), (118, 78, 58), (178, 128, 100), (224, 182, 156), (246, 220, 204)])
"""Hair and skin from dark to pale, sRGB."""


def clutter(size: int, rng: np.random.Generator) -> Picture:
    """(size, size, 3) without a face: a soft ground, then blots, boards and stripes, half of them in tones of skin and
    hair, the others mostly dull, as rooms and streets are."""

    def colour() -> tuple[int, int, int]:
        if rng.random() < 0.5:
            tone = rng.uniform(0, len(TONES) - 1.001)
            chosen = TONES[int(tone)] + (tone % 1) * (TONES[int(tone) + 1] - TONES[int(tone)]) + rng.normal(0, 6, 3)
        else:
            chosen = rng.uniform(15, 240) + rng.normal(0, 1, 3) * rng.choice([5, 15, 35])
        red, green, blue = np.clip(chosen, 0, 255).astype(int).tolist()
        return red, green, blue

    cells = int(rng.integers(2, 9))
    rough = (
        np.array(colour()) + rng.normal(0, rng.uniform(8, 35), (cells, cells, 1)) + rng.normal(0, 8, (cells, cells, 3))
    )
    soft = cv2.resize(rough.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(np.clip(soft, 0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(5, 14))):
        centre = tuple(int(v) for v in rng.integers(0, size, 2))
        axes = tuple(int(v) for v in rng.integers(max(2, size // 24), max(4, size // 4), 2))
        kind, angle = rng.integers(3), float(rng.uniform(0, 180))
        if kind == 0:
            cv2.ellipse(picture, centre, axes, angle, 0, 360, colour(), -1, cv2.LINE_AA)
        elif kind == 1:
            corners = cv2.boxPoints((centre, (2.0 * axes[0], 2.0 * axes[1]), angle))
            cv2.fillPoly(picture, [np.rint(corners).astype(np.int32)], colour(), cv2.LINE_AA)
        else:
            end = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.line(picture, centre, end, colour(), int(rng.integers(1, max(2, size // 16))), cv2.LINE_AA)
    grain = rng.normal(0, rng.uniform(1, 8), picture.shape)
    return np.asarray(np.clip(picture + grain, 0, 255), np.uint8)


def head_scenes(
    count: int,
    *,
    seed: int,
    size: int = 96,
    start: int = 0,
    per_identity: int = 1,
    scale: tuple[float, float] = (0.5, 1.0),
    told: Told | None = None,
    **controls: ArrayLike,
) -> HeadScenes:
    """`count` scenes; row i depends on the seed and on ``start + i`` alone.

    Parameters
    ----------
    count, seed, start, per_identity
        As of `mien.data.heads.sample`.
    size
        Side of the scene, px.
    scale
        Of the head: at 1 its drawing, which holds the shoulders, is as large as the scene, and the face about 0.37 of
        it wide.
    told
        Called as ``told(done, total, what)``.
    **controls
        Of `mien.data.heads.sample`.

    Raises
    ------
    OptionError
        A scale that leaves no place for the face.
    """
    from mien.data.heads import render, sample
    from mien.data.heads.attributes import attributes

    if not 0 < scale[0] <= scale[1] <= 1.5:
        raise OptionError("heads of such a scale do not fit", got=scale, expected="two numbers above 0, at most 1.5")
    made = HeadScenes(
        np.empty((count, size, size, 3), np.uint8), np.empty((count, 36), np.bool_), np.empty((count, 4), np.float32),
        np.empty(count, np.int64),
    )  # fmt: skip
    given: dict[str, Any] = {"occluder": "none", "face_share": FACE_SHARE, **controls}
    for first in range(0, count, SHARD):
        if told is not None:
            told(first, count, "drawing heads")
        rows = min(SHARD, count - first)
        some = sample(rows, seed=seed, start=start + first, per_identity=per_identity, **given)
        some = some.with_(pose=np.clip(some.pose, [-TURNED, -90, -180], [TURNED, 90, 180]))
        drawn = render(some, size=size, what=("image", "landmarks", "parts"))
        made.tags[first : first + rows] = attributes(some)
        made.identity[first : first + rows] = some.identity
        outlines = face_outline(drawn.landmarks_2d)
        for row in range(rows):
            rng = np.random.default_rng([seed, 0x5CE, start + first + row])
            mask = drawn.parts[row] != 255
            image, box = _pasted(drawn.image[row], mask, outlines[row], size, scale, rng)
            made.image[first + row], made.boxes[first + row] = image, box
    return made


def _pasted(
    head: Picture, mask: NDArray[np.bool_], outline: Floats, size: int, scale: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Picture, Floats]:  # fmt: skip
    factor = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    low, high = outline.min(0) * factor, outline.max(0) * factor
    # The whole face lies in the picture; hair, hat and shoulders may be cut off by its border.
    room = np.maximum(size - (high - low), 0)
    shift = rng.uniform(0, 1, 2) * room - low
    if rng.random() < 0.5:  # rather with the shoulders at the bottom, as in a portrait
        shift[1] = max(-low[1], min(size - factor * size, room[1] - low[1]))
    matrix = np.array([[factor, 0, shift[0] + 0.5 * (factor - 1)], [0, factor, shift[1] + 0.5 * (factor - 1)]])
    # One pixel less of the outline, whose pixels are half of the other background.
    alpha = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(np.float32)
    source = head
    if factor < 0.75:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 0.4 / factor), np.float32)
        source = as_picture(cv2.GaussianBlur(head, (0, 0), 0.35 / factor))
    share = cv2.warpAffine(alpha, matrix, (size, size), flags=cv2.INTER_LINEAR)[..., None]
    shown = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    ground = clutter(size, rng)
    image = np.rint(share * shown + (1 - share) * ground).astype(np.uint8)
    return image, np.concatenate([low + shift, high + shift]).astype(np.float32)
