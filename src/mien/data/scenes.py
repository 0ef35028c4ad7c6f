"""Training scenes of the detector: real scenes cut and scaled, and faces pasted onto everything else.

A sample is one square picture with the boxes of its faces, in the convention of the `detection` set (forehead or
hairline to chin, cheek to cheek), made in some milliseconds:

    background    a cut of a real scene with its boxes (half of the samples), a face-free cut of one, a collage of
                  CIFAR-10 pictures, or drawn textures
    faces         chips of `fairface_faces`, of any size and angle, with painted masks, sunglasses, occluders, drawn
                  hair and shoulders, blended in by one of many soft shapes, so that no border betrays them
    decoys        shuffled chips and heads without a face, which must not be found
    degradation   colour, blur, lost resolution, noise, JPEG

Everything is a pure function of the index and the generator given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import Picture, as_picture, decode, read, recoded

Floats = NDArray[np.float32]

CHIP = 128
FOREHEAD = 0.17
"""How far the box goes above the brows, in units of the distance from chin to brows.

Chosen so that the median box of upright chips has the height-to-width ratio of the training scenes' boxes.
"""
SMALLEST = 6.0
"""Faces with a smaller side (root of the area, px) are neither faces nor background: they are ignored."""
VISIBLE = 0.35
"""Faces of which a smaller part lies in the picture are ignored."""

_HAIR = np.array(
    [(20, 18, 18), (35, 28, 24), (62, 44, 32), (100, 72, 46), (170, 140, 95), (150, 148, 145), (120, 60, 35)]
)
_MASKS = np.array(
    [
        (150, 190, 215),
        (235, 238, 240),
        (28, 28, 32),
        (225, 170, 180),
        (95, 125, 165),
        (185, 205, 195),
        (120, 120, 125),
    ]
)
_SHUFFLE = 4


@dataclass
class Scene:
    """A picture under construction: `image` (S, S, 3) uint8 RGB and its faces.

    `points` are the five landmarks, NaN where unknown; `ignored` faces give no loss.
    """

    image: Picture
    boxes: list[Floats] = field(default_factory=list)
    points: list[Floats] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)

    def add(
        self, box: Floats, points: Floats | None = None, *, within: tuple[int, int, int, int] | None = None
    ) -> None:
        """Adds a face, clipped to the picture (or to `within`, xyxy); dropped when nothing of it can be seen."""
        x0, y0, x1, y1 = within or (0, 0, self.image.shape[1], self.image.shape[0])
        clipped = np.array([max(box[0], x0), max(box[1], y0), min(box[2], x1), min(box[3], y1)], np.float32)
        width, height = clipped[2:] - clipped[:2]
        if width <= 1 or height <= 1:
            return
        visible = width * height / max(1e-6, float((box[2] - box[0]) * (box[3] - box[1])))
        self.boxes.append(clipped)
        self.points.append(np.full((5, 2), np.nan, np.float32) if points is None else points.astype(np.float32))
        self.ignored.append(bool(visible < VISIBLE or np.sqrt(width * height) < SMALLEST))

    def free(self, box: Floats, *, overlap: float = 0.1) -> bool:
        """Whether a box covers, or is covered by, no face by more than `overlap` of the smaller one."""
        for other in self.boxes:
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]), (other[2] - other[0]) * (other[3] - other[1]))
            if width > 0 and height > 0 and width * height > overlap * smaller:
                return False
        return True


def face_outline(points: Floats, *, forehead: float = FOREHEAD) -> Floats:
    """Outline (n, 27, 2) of faces from their 68 points (n, 68+, 2+): the jaw, and the brows lifted to the hairline."""
    jaw, brows = points[:, :17, :2], points[:, 17:27, :2]
    up = brows.mean(1) - points[:, 8, :2]
    return np.concatenate([jaw, brows + forehead * up[:, None]], 1).astype(np.float32)


def _soft_shapes(rng: np.random.Generator, count: int) -> list[list[Floats]]:
    """`count` blending masks of the chip, each at 128, 64, 32 and 16 px, values 0..1: ellipses to rounded squares."""
    shapes = []
    y, x = (np.mgrid[:CHIP, :CHIP] + 0.5) / CHIP
    for k in range(count):
        power = rng.uniform(2, 3) if k % 2 else rng.uniform(4, 12)
        radius_x, radius_y = (rng.uniform(0.42, 0.5), rng.uniform(0.48, 0.54)) if k % 2 else (0.5, 0.5)
        middle_y = 0.52 if k % 2 else 0.5
        r = (np.abs((x - 0.5) / radius_x) ** power + np.abs((y - middle_y) / radius_y) ** power) ** (1 / power)
        whole = np.clip((1 - r) / rng.uniform(0.04, 0.25), 0, 1).astype(np.float32)
        shapes.append([cv2.resize(whole, (CHIP >> e, CHIP >> e), interpolation=cv2.INTER_AREA) for e in range(4)])
    return shapes


class FaceScenes:
    """Source of training scenes.

    Parameters
    ----------
    faces, scenes, textures
        Folders of `fairface_faces`, `detection` (its training part is used) and `cifar10_test` (may be None).
    size
        Side of the samples, px, a multiple of 32.
    scenes_held
        Share of the training scenes kept out for choosing hyperparameters.
    real
        Share of samples made from real scenes.
    most
        Most faces of a sample.
    """

    def __init__(
        self,
        faces: str | Path,
        scenes: str | Path,
        textures: str | Path | None = None,
        *,
        size: int = 256,
        scenes_held: float = 0.0,
        real: float = 0.5,
        most: int = 48,
    ) -> None:
        from mien.data.sets import cifar10_test, detection, fairface_faces

        self.size, self.real, self.most = size, real, most
        chips = fairface_faces(faces)
        usable = np.flatnonzero(np.isfinite(chips.points).all((1, 2)))
        self.chips = [np.fromfile(chips.files[k], np.uint8) for k in usable]
        self.points68 = chips.points[usable][:, :68, :2]
        self.five = np.asarray(chips.five[usable], np.float32)
        self.outline = face_outline(self.points68)
        pictures = detection(scenes, split="train")
        pictures = pictures.take(~held_for_choice(pictures.names, scenes_held))
        self.scenes = [read(file) for file in pictures.files]
        self.scene_boxes = [pictures.boxes.of_image(row) for row in range(len(pictures))]
        self.textures = None
        if textures is not None:
            self.textures = np.stack([read(file) for file in cifar10_test(textures).files])
        fixed = np.random.default_rng(0)
        self.shapes = _soft_shapes(fixed, 24)
        self.noise = fixed.normal(0, 1, (2 * size * size * 3,)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.chips)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One scene, its faces in `most` rows, the largest first.

        `image` (S, S, 3) uint8; `boxes` (most, 4) xyxy px; `points` (most, 5, 2) px, NaN where unknown; `kind` (most,)
        1 a face, 0 ignored, -1 none.
        """
        scene = self.compose(index, rng)
        boxes = np.zeros((self.most, 4), np.float32)
        points = np.full((self.most, 5, 2), np.nan, np.float32)
        kind = np.full(self.most, -1, np.int64)
        # When there are too many, the smallest are left out.
        order = sorted(range(len(scene.boxes)), key=lambda k: -float((scene.boxes[k][2:] - scene.boxes[k][:2]).prod()))
        for place, k in enumerate(order[: self.most]):
            boxes[place], points[place], kind[place] = scene.boxes[k], scene.points[k], not scene.ignored[k]
        return {"image": scene.image, "boxes": boxes, "points": points, "kind": kind}

    def compose(self, index: int, rng: np.random.Generator) -> Scene:
        """One scene; `index` is the chip that is sure to be pasted when chips are."""
        scene = Scene(np.empty((self.size, self.size, 3), np.uint8))
        if rng.random() < self.real:
            self._real(scene, rng)
            if rng.random() < 0.3:
                self._paste_some(scene, index, rng, int(rng.integers(1, 4)))
        else:
            self._background(scene.image, rng)
            if rng.random() < 0.2:
                self._faceless(scene, rng)
            if rng.random() < 0.93:
                crowd = rng.random() < 0.15
                count = int(rng.integers(8, 20)) if crowd else 1 + int(rng.poisson(1.2))
                self._paste_some(scene, index, rng, count, crowd=crowd)
        if rng.random() < 0.5:
            scene.image = np.ascontiguousarray(scene.image[:, ::-1])
            scene.boxes = [np.array([self.size - b[2], b[1], self.size - b[0], b[3]], np.float32) for b in scene.boxes]
            swap = [1, 0, 2, 4, 3]
            scene.points = [np.stack([self.size - p[swap, 0], p[swap, 1]], 1) for p in scene.points]
        scene.image = self._degrade(scene.image, rng)
        return scene

    # --- Backgrounds ----------------------------------------------------------------------------------------

    def _real(self, scene: Scene, rng: np.random.Generator) -> None:
        size = self.size
        if rng.random() < 0.15:  # four scenes around a point
            x, y = (int(v) for v in rng.integers(size // 4, 3 * size // 4, 2))
            for rect in ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)):
                self._cut(scene, rect, rng)
        else:
            self._cut(scene, (0, 0, size, size), rng)

    def _cut(self, scene: Scene, rect: tuple[int, int, int, int], rng: np.random.Generator) -> None:
        """Fills `rect` with a cut of a real scene at a random scale, on a background where the scene ends."""
        k = int(rng.integers(len(self.scenes)))
        picture, boxes = self.scenes[k], self.scene_boxes[k]
        width, height = rect[2] - rect[0], rect[3] - rect[1]
        if len(boxes) and rng.random() < 0.75:
            box = boxes[rng.integers(len(boxes))]
            side = float(np.sqrt((box[2:] - box[:2]).prod()))
            wanted = np.exp(rng.uniform(np.log(9), np.log(0.9 * min(width, height))))
            scale = float(np.clip(wanted / side, 0.3, 4.0))
            focus = (box[:2] + box[2:]) / 2
        else:
            scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2.5))))
            focus = rng.uniform(0, 1, 2) * picture.shape[1::-1]
        scales = scale * np.exp(rng.uniform(-0.1, 0.1, 2) * (rng.random() < 0.5))
        shift = rng.uniform(0.1, 0.9, 2) * (width, height) - focus * scales
        if rng.random() < 0.7:  # rather no empty margin, where the scene is large enough
            extent = scales * picture.shape[1::-1]
            low = np.minimum(0, np.array([width, height]) - extent)
            shift = np.clip(shift, low, np.maximum(0, np.array([width, height]) - extent))
        source = np.array([-shift / scales, (np.array([width, height]) - shift) / scales])
        x0, y0 = np.maximum(np.floor(source[0]), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(source[1]), picture.shape[1::-1]).astype(int)
        if x1 - x0 < 4 or y1 - y0 < 4:
            self._background(scene.image[rect[1] : rect[3], rect[0] : rect[2]], rng)
            return
        matrix = np.array([[scales[0], 0, x0 * scales[0] + shift[0]], [0, scales[1], y0 * scales[1] + shift[1]]])
        inside = (
            x0 * scales[0] + shift[0] <= 1
            and y0 * scales[1] + shift[1] <= 1
            and x1 * scales[0] + shift[0] >= width - 1
            and y1 * scales[1] + shift[1] >= height - 1
        )
        part = picture[y0:y1, x0:x1]
        if scale < 0.6:  # area averaging first, so that small faces do not alias
            small = (max(2, round((x1 - x0) * scales[0])), max(2, round((y1 - y0) * scales[1])))
            matrix[0, 0], matrix[1, 1] = scales[0] * (x1 - x0) / small[0], scales[1] * (y1 - y0) / small[1]
            part = as_picture(cv2.resize(part, small, interpolation=cv2.INTER_AREA))
        target = scene.image[rect[1] : rect[3], rect[0] : rect[2]]
        if inside:
            target[:] = cv2.warpAffine(
                part, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        else:
            self._background(target, rng, textures_only=True)
            out = np.ascontiguousarray(target)
            cv2.warpAffine(
                part,
                matrix,
                (width, height),
                dst=out,
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_TRANSPARENT,
            )
            target[:] = out
        corner = np.array([rect[0], rect[1]]) + shift
        for box in boxes:
            scene.add((box.reshape(2, 2) * scales + corner).reshape(4).astype(np.float32), within=rect)

    def _background(self, target: Picture, rng: np.random.Generator, *, textures_only: bool = False) -> None:
        """Fills `target` with something that holds no face."""
        height, width = target.shape[:2]
        draw = rng.random()
        if draw < 0.45 and not textures_only:
            for _ in range(6):
                k = int(rng.integers(len(self.scenes)))
                picture, boxes = self.scenes[k], self.scene_boxes[k]
                scale = np.exp(rng.uniform(np.log(0.8), np.log(4)))
                w, h = min(int(width / scale), picture.shape[1]), min(int(height / scale), picture.shape[0])
                if w < 8 or h < 8:
                    continue
                x, y = (
                    int(rng.integers(picture.shape[1] - w + 1)),
                    int(rng.integers(picture.shape[0] - h + 1)),
                )
                near = 0.3 * (boxes[:, 2:] - boxes[:, :2])
                low, high = boxes[:, :2] - near, boxes[:, 2:] + near
                if not ((low[:, 0] < x + w) & (high[:, 0] > x) & (low[:, 1] < y + h) & (high[:, 1] > y)).any():
                    target[:] = cv2.resize(
                        picture[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR
                    )
                    return
        if self.textures is not None and draw < 0.8:
            tiles = int(rng.integers(1, 6))
            chosen = self.textures[rng.integers(len(self.textures), size=tiles * tiles)]
            collage = chosen.reshape(tiles, tiles, 32, 32, 3).swapaxes(1, 2).reshape(tiles * 32, tiles * 32, 3)
            target[:] = cv2.resize(collage, (width, height), interpolation=cv2.INTER_LINEAR)
            return
        target[:] = drawn_texture(width, height, rng)

    # --- Faces ----------------------------------------------------------------------------------------------

    def _paste_some(
        self, scene: Scene, index: int, rng: np.random.Generator, count: int, *, crowd: bool = False
    ) -> None:
        largest = min(48.0, self.size / 4) if crowd else 1.1 * self.size
        same = np.exp(rng.uniform(np.log(10), np.log(largest)))  # the people of a crowd are about equally far
        for k in range(count):
            side = (
                same * rng.uniform(0.8, 1.25)
                if crowd
                else np.exp(rng.uniform(np.log(9), np.log(largest if k == 0 else largest / 2)))
            )
            chip = index if k == 0 else int(rng.integers(len(self.chips)))
            for _ in range(4):
                margin = 0.3 * min(side, 0.6 * self.size)
                centre = rng.uniform(margin, self.size - margin, 2)
                spread = 10 if rng.random() < 0.75 else 30 if rng.random() < 0.85 else 70
                angle = float(rng.normal(0, spread))
                if self._paste(scene, chip, rng, side=float(side), centre=centre, angle=angle):
                    break

    def _paste(
        self,
        scene: Scene,
        chip: int,
        rng: np.random.Generator,
        *,
        side: float,
        centre: NDArray[Any],
        angle: float,
    ) -> bool:
        """Pastes a chip, or returns False where another face is in the way."""
        outline = self.outline[chip]
        low, high = outline.min(0), outline.max(0)
        scale = side / float(np.sqrt((high - low).prod()))
        stretch = np.exp(rng.uniform(-0.08, 0.08))
        radians = np.deg2rad(angle)
        turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
        linear = turn @ np.diag([scale * stretch, scale / stretch])
        middle = (low + high) / 2
        offset = centre - linear @ middle
        placed = outline @ linear.T + offset
        box = np.concatenate([placed.min(0), placed.max(0)]).astype(np.float32)
        if not scene.free(box):
            return False
        reduce = int(np.clip(np.floor(np.log2(1 / scale)), 0, 3)) if scale < 1 else 0
        picture = decode(self.chips[chip], halvings=reduce)
        skin = picture[picture.shape[0] // 2 :: 7, ::7].reshape(-1, 3).mean(0)
        points = self.points68[chip] / 2**reduce
        decoy = side > 16 and rng.random() < 0.06
        if decoy:
            picture = _shuffled(picture, rng)
        else:
            if rng.random() < 0.4:
                paint_mask(picture, points, rng)
            if rng.random() < 0.07:
                paint_glasses(picture, points, rng)
        if rng.random() < 0.3:
            picture = _recoloured(picture, rng)
        if rng.random() < 0.5:
            _draw_head(scene.image, box, centre, side, angle, skin, rng)
        factor = 2.0**reduce
        matrix = np.hstack([linear * factor, (offset + linear @ np.full(2, (factor - 1) / 2))[:, None]])
        edge = picture.shape[0]
        corners = np.array([[0, 0], [edge, 0], [0, edge], [edge, edge]]) @ matrix[:, :2].T + matrix[:, 2]
        x0, y0 = np.maximum(np.floor(corners.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(corners.max(0)) + 1, self.size).astype(int)
        if x1 <= x0 or y1 <= y0:
            return True
        matrix[:, 2] -= (x0, y0)
        where = (int(x1 - x0), int(y1 - y0))
        alpha = self.shapes[int(rng.integers(len(self.shapes)))][reduce]
        warped = cv2.warpAffine(picture, matrix, where, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        soft = cv2.warpAffine(alpha, matrix, where, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        target = scene.image[y0:y1, x0:x1]
        target[:] = cv2.blendLinear(warped, np.ascontiguousarray(target), soft, 1 - soft)
        if decoy:
            return True
        if rng.random() < 0.1:
            self._occlude(scene.image, box, rng)
        scene.add(box, self.five[chip] @ linear.T + offset)
        return True

    def _occlude(self, image: Picture, box: Floats, rng: np.random.Generator) -> None:
        """Covers up to a third of the face with a tile or a plain shape."""
        width, height = box[2:] - box[:2]
        w, h = (max(2, int(v * rng.uniform(0.15, 0.55))) for v in (width, height))
        x = int(np.clip(rng.uniform(box[0], box[2]) - w / 2, 0, self.size - 2))
        y = int(np.clip(rng.uniform(box[1], box[3]) - h / 2, 0, self.size - 2))
        target = image[y : y + h, x : x + w]
        if self.textures is not None and rng.random() < 0.5:
            tile = self.textures[rng.integers(len(self.textures))]
            target[:] = cv2.resize(tile, (target.shape[1], target.shape[0]))
        else:
            target[:] = rng.integers(0, 256, 3)

    def _faceless(self, scene: Scene, rng: np.random.Generator) -> None:
        """Draws heads without a face."""
        for _ in range(int(rng.integers(1, 4))):
            side = float(np.exp(rng.uniform(np.log(12), np.log(0.6 * self.size))))
            centre = rng.uniform(0.1, 0.9, 2) * self.size
            box = np.concatenate([centre - side / 2, centre + side / 2]).astype(np.float32)
            skin = rng.uniform(40, 240) * np.array([1.0, 0.78, 0.66])
            angle = float(rng.normal(0, 15))
            _draw_head(scene.image, box, centre, side, angle, skin, rng)
            if rng.random() < 0.6:
                axes = (int(0.42 * side) + 1, int(0.52 * side) + 1)
                cv2.ellipse(scene.image, _at(centre), axes, angle, 0, 360, _colour(skin), -1, cv2.LINE_AA)

    # --- Degradation ------------------------------------------------------------------------------------------

    def _degrade(self, image: Picture, rng: np.random.Generator) -> Picture:
        size = self.size
        if rng.random() < 0.5:
            image = _recoloured(image, rng)
        if rng.random() < 0.06:
            image = as_picture(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        draw = rng.random()
        if draw < 0.4:  # most pictures reach the network scaled up
            small = int(size / rng.uniform(1.2, 2.6))
            kernel = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
            shrunk = cv2.resize(image, (small, small), interpolation=kernel)
            image = as_picture(cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR))
        elif draw < 0.5:
            image = as_picture(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.8))))
        if rng.random() < 0.12:
            start = int(rng.integers(size * size * 3))
            noise = self.noise[start : start + size * size * 3].reshape(image.shape)
            image = as_picture(cv2.add(image, noise * float(rng.uniform(2, 14)), dtype=cv2.CV_8U))
        if rng.random() < 0.3:
            image = recoded(image, int(rng.integers(30, 90)))
        return np.ascontiguousarray(image)


def drawn_texture(width: int, height: int, rng: np.random.Generator) -> Picture:
    """Something that holds no face, (height, width, 3) uint8: soft or hard blotches under lines, boxes and ellipses."""
    grid = int(2 ** rng.uniform(1, 6))
    rough = rng.integers(0, 256, (grid, grid, 3)).astype(np.float32)
    rough = rng.uniform(0, 255, 3) + rng.uniform(0.1, 0.8) * (rough - 128)
    kernel = cv2.INTER_NEAREST if rng.random() < 0.15 else cv2.INTER_LINEAR
    drawn = as_picture(cv2.resize(np.clip(rough, 0, 255).astype(np.uint8), (width, height), interpolation=kernel))
    for _ in range(int(rng.integers(0, 12))):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (xa, ya), (xb, yb) = rng.integers(0, max(width, height), (2, 2)).tolist()
        shape = rng.integers(3)
        if shape == 0:
            cv2.line(drawn, (xa, ya), (xb, yb), colour, int(rng.integers(1, 8)), cv2.LINE_AA)
        elif shape == 1:
            cv2.rectangle(drawn, (xa, ya), (xb, yb), colour, int(rng.choice([-1, 1, 3])))
        else:
            axes = (1 + xb // 6, 1 + yb // 6)
            cv2.ellipse(
                drawn,
                (xa, ya),
                axes,
                float(rng.uniform(0, 180)),
                0,
                360,
                colour,
                int(rng.choice([-1, 2])),
                cv2.LINE_AA,
            )
    return drawn


def held_for_choice(names: tuple[str, ...], share: float) -> NDArray[np.bool_]:
    """(n,) bool: training scenes kept out for choosing hyperparameters, by a hash of their name."""
    from mien.data.sets import held_out

    return held_out((f"choice/{name}" for name in names), share)


def _at(point: NDArray[Any]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _colour(value: NDArray[Any]) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in np.clip(value, 0, 255))
    return r, g, b


def _recoloured(image: Picture, rng: np.random.Generator) -> Picture:
    """Random gamma, contrast, brightness and tint by a table for each channel."""
    x = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.5, 0.5))
    gain = rng.uniform(0.7, 1.25) * np.exp(rng.uniform(-0.12, 0.12, 3))
    table = (x[:, None] - 0.5) * gain + 0.5 + rng.uniform(-0.15, 0.15)
    return as_picture(cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8).reshape(1, 256, 3)))


def _shuffled(picture: Picture, rng: np.random.Generator) -> Picture:
    """The chip with its blocks in random order: the colours and edges of a face, and no face."""
    edge = picture.shape[0] // _SHUFFLE
    blocks = picture.reshape(_SHUFFLE, edge, _SHUFFLE, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3)
    blocks = blocks[rng.permutation(len(blocks))]
    return np.ascontiguousarray(blocks.reshape(_SHUFFLE, _SHUFFLE, edge, edge, 3).swapaxes(1, 2).reshape(picture.shape))


def paint_mask(picture: Picture, points: Floats, rng: np.random.Generator) -> None:
    """Paints a medical or cloth mask over the lower face of a chip, with folds, shading, straps or a print."""
    first = int(rng.integers(1, 4))
    jaw = points[first : 17 - first].copy()
    chin = points[8]
    if rng.random() < 0.8:
        jaw += (jaw - points[30]) * rng.uniform(0.0, 0.08)
    bridge = (
        points[int(rng.choice([28, 28, 29, 29, 30]))] if rng.random() < 0.93 else points[33]
    )  # the last: worn too low
    top = bridge + rng.normal(0, 0.01, 2) * (chin - bridge)[1]
    left, right = (jaw[0] * 0.35 + top * 0.65), (jaw[-1] * 0.35 + top * 0.65)
    lift = rng.uniform(-0.03, 0.05) * (chin - top)
    shape = np.concatenate([jaw, [right + lift], [top], [left + lift]])
    colour = (_MASKS[rng.integers(len(_MASKS))] if rng.random() < 0.8 else rng.integers(0, 256, 3)) * rng.uniform(
        0.75, 1.05
    )
    cover = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(cover, [np.round(shape * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    edge = picture.shape[0]
    across = np.abs(np.linspace(-1, 1, edge)) ** 2
    shade = 1 - rng.uniform(0, 0.45) * across[None] - rng.uniform(0, 0.3) * np.linspace(0, 1, edge)[:, None]
    if rng.random() < 0.5:  # folds
        rows = np.linspace(0, 1, edge) * rng.uniform(15, 60)
        shade = shade * (1 - rng.uniform(0.03, 0.15) * (np.sin(rows) > 0.5))[:, None]
    cloth = shade[..., None] * colour
    light = picture.astype(np.float32).mean(2, keepdims=True)
    cloth = cloth * (1 - 0.35) + cloth * 0.35 * light / max(1.0, float(light.mean()))  # some of the face's own light
    cloth = np.clip(cloth, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:  # a print
        spot = _at(points[30] * 0.3 + chin * 0.7)
        cv2.putText(
            cloth,
            "".join(chr(int(c)) for c in rng.integers(65, 91, 3)),
            spot,
            cv2.FONT_HERSHEY_SIMPLEX,
            edge / 256,
            _colour(rng.integers(0, 256, 3)),
            1,
            cv2.LINE_AA,
        )
    weight = cover[..., None].astype(np.uint16)
    picture[:] = ((cloth * weight + picture * (255 - weight)) // 255).astype(np.uint8)
    if rng.random() < 0.5:
        for corner, ear in ((jaw[0], points[0]), (jaw[-1], points[16])):
            cv2.line(
                picture,
                _at(corner),
                _at(ear + (ear - corner) * 0.5),
                _colour(colour),
                max(1, edge // 64),
                cv2.LINE_AA,
            )


def paint_glasses(picture: Picture, points: Floats, rng: np.random.Generator) -> None:
    """Paints dark glasses."""
    colour = _colour(rng.uniform(0, 60) + rng.uniform(0, 25, 3))
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    angle = float(np.rad2deg(np.arctan2(*(eyes[1] - eyes[0])[::-1])))
    axes = (max(1, int(apart * rng.uniform(0.32, 0.42))), max(1, int(apart * rng.uniform(0.22, 0.34))))
    for eye in eyes:
        cv2.ellipse(picture, _at(eye), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
    thick = max(1, picture.shape[0] // 40)
    cv2.line(picture, _at(eyes[0]), _at(eyes[1]), colour, thick, cv2.LINE_AA)
    cv2.line(picture, _at(eyes[0]), _at(points[0]), colour, thick, cv2.LINE_AA)
    cv2.line(picture, _at(eyes[1]), _at(points[16]), colour, thick, cv2.LINE_AA)


def _draw_head(
    image: Picture,
    box: Floats,
    centre: NDArray[Any],
    side: float,
    angle: float,
    skin: NDArray[Any],
    rng: np.random.Generator,
) -> None:
    """Hair, neck and shoulders behind a face: plain shapes, so that not every face hangs in a foreign texture."""
    radians = np.deg2rad(angle)
    down = np.array([-np.sin(radians), np.cos(radians)])
    if rng.random() < 0.7:
        cloth = _colour(rng.integers(0, 256, 3))
        cv2.ellipse(
            image,
            _at(centre + down * side * 1.35),
            (int(side * rng.uniform(0.9, 1.4)), int(side * 0.75)),
            angle,
            0,
            360,
            cloth,
            -1,
            cv2.LINE_AA,
        )
        cv2.ellipse(
            image,
            _at(centre + down * side * 0.6),
            (int(side * 0.3), int(side * 0.35)),
            angle,
            0,
            360,
            _colour(skin * 0.85),
            -1,
            cv2.LINE_AA,
        )
    hair = _HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.6, 1.3) if rng.random() < 0.85 else rng.integers(0, 256, 3)
    hair = skin if rng.random() < 0.12 else hair
    axes = (int(side * rng.uniform(0.52, 0.72)), int(side * rng.uniform(0.62, 0.8)))
    cv2.ellipse(
        image,
        _at(centre - down * side * rng.uniform(0.08, 0.2)),
        axes,
        angle,
        0,
        360,
        _colour(hair),
        -1,
        cv2.LINE_AA,
    )
    if rng.random() < 0.3:  # long hair
        x = int(side * rng.uniform(0.5, 0.65))
        cv2.ellipse(
            image,
            _at(centre + down * side * 0.3),
            (x, int(side * 0.9)),
            angle,
            0,
            360,
            _colour(hair),
            -1,
            cv2.LINE_AA,
        )
