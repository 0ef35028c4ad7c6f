"""Pictures whose faces have boxes, five points and pose: label files, augmentation, stitching; and rendered ones.

    labels = read_posed_faces("label.txt", "WIDER_train/images")
    faces = PosedPictures(labels, size=640)             samples for `mien.train`, cut and coloured at random
    faces = HeadScenes(400, seed=0, size=96)            rendered heads on clutter, with exact labels

Pose is in degrees, yaw, pitch, roll, in the convention of 300W-LP (`mien.geometry.pose_300wlp`), in which the label
files are written; unknown landmarks and angles are NaN.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import Picture, as_picture, decode
from mien.data.scenes import Scene, _shuffled, drawn_texture, face_outline
from mien.errors import EmptyMedia, MediaNotFound, OptionError, ShapeError, TableError
from mien.geometry.pose_300wlp import pose_to_300wlp

Floats = NDArray[np.float32]

MOST = 256
"""Most faces of a sample; of more, the largest are kept."""
SWAP = [1, 0, 2, 4, 3]
"""Which of the five points is which in the mirror image."""
GREY = 114
"""What a stitched canvas is filled with."""
MEAN = (123, 117, 104)
"""Red, green, blue with which a picture is padded: the mean that is taken off later."""
_KERNELS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_LANCZOS4)


@dataclass(frozen=True, eq=False)
class PosedFaces:
    """The faces of one picture: boxes (n, 4) xyxy px, points (n, 5, 2) px, pose (n, 3) degrees."""

    boxes: Floats
    points: Floats
    pose: Floats

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Any) -> PosedFaces:
        return PosedFaces(self.boxes[rows], self.points[rows], self.pose[rows])

    def moved(self, scale: float | tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)) -> PosedFaces:
        """The faces after ``x * scale + shift``."""
        by, to = np.broadcast_to(np.asarray(scale, np.float32), 2), np.asarray(shift, np.float32)
        points = np.asarray(self.points * by + to, np.float32)
        return PosedFaces(np.asarray(self.boxes * np.tile(by, 2) + np.tile(to, 2), np.float32), points, self.pose)

    def mirrored(self, width: float) -> PosedFaces:
        """The faces of the mirror image: points swapped, yaw and roll negated."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = width - self.boxes[:, [2, 0]]
        points = self.points[:, SWAP].copy()
        points[..., 0] = width - points[..., 0]
        return PosedFaces(boxes, points, self.pose * np.array([-1, 1, -1], np.float32))

    @classmethod
    def none(cls) -> PosedFaces:
        """No faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros((0, 3), np.float32))

    @classmethod
    def joined(cls, parts: Sequence[PosedFaces]) -> PosedFaces:
        """The faces of all parts."""
        return cls(*(np.concatenate([getattr(p, k) for p in parts]) for k in ("boxes", "points", "pose")))

    def padded(self, most: int = MOST) -> dict[str, NDArray[Any]]:
        """As arrays of `most` rows, the largest faces first: boxes, points, pose and present (most,) bool."""
        order = np.argsort(-(self.boxes[:, 2:] - self.boxes[:, :2]).prod(1), kind="stable")[:most]
        count = len(order)
        out: dict[str, NDArray[Any]] = {
            "boxes": np.zeros((most, 4), np.float32),
            "points": np.full((most, 5, 2), np.nan, np.float32),
            "pose": np.full((most, 3), np.nan, np.float32),
            "present": np.arange(most) < count,
        }
        for name in ("boxes", "points", "pose"):
            out[name][:count] = getattr(self, name)[order]
        return out


# ------------------------------------------------------------------------------------------- label files


@dataclass(frozen=True, eq=False)
class PosedList:
    """Pictures of a label file and their faces: `files`, `faces`, one of each a picture."""

    files: list[str]
    faces: list[PosedFaces]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: NDArray[Any]) -> PosedList:
        """The pictures of those rows (indices, or a mask)."""
        chosen = np.arange(len(self))[rows].tolist()
        return PosedList([self.files[k] for k in chosen], [self.faces[k] for k in chosen])


def read_posed_faces(labels: str | os.PathLike[str], pictures: str | os.PathLike[str]) -> PosedList:
    """Reads ``label.txt``: a line ``# path`` for each picture, then a line of numbers for each of its faces.

    A line has 23 numbers: ``x y w h``, five points ``x y visible``, ``score pitch yaw roll``; RetinaFace's, without
    pose, has 20, and a box alone has 4. A negative first point says that landmarks are not known.

    Raises
    ------
    MediaNotFound
        The label file or the folder is not there.
    TableError
        A line is neither, or names no picture first.
    EmptyMedia
        It names no picture.
    """
    path, folder = Path(labels), Path(pictures)
    if not path.is_file() or not folder.is_dir():
        raise MediaNotFound(
            "labels of posed faces", got=f"{path}, {folder}", expected="a label.txt and the folder of its pictures"
        )
    files: list[str] = []
    rows: list[list[list[float]]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        if line.startswith("#"):
            files.append(str(folder / line[1:].strip()))
            rows.append([])
            continue
        try:
            values = [float(v) for v in line.split()]
        except ValueError:
            values = []
        if len(values) not in (4, 20, 23) or not rows or not np.isfinite(values).all():
            raise TableError(
                f"line {number} of {path.name}", got=line[:60],
                expected="# a picture's name first; then 4, 20 or 23 numbers for each face",
            )  # fmt: skip
        rows[-1].append(values + [np.nan] * (23 - len(values)))
    if not files:
        raise EmptyMedia("the labels name no picture", got=path)
    return PosedList(files, [_faces(one) for one in rows])


def _faces(rows: list[list[float]]) -> PosedFaces:
    if not rows:
        return PosedFaces.none()
    table = np.asarray(rows, np.float32)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    points = table[:, 4:19].reshape(-1, 5, 3)[..., :2].copy()
    points[~(points[:, 0, 0] >= 0)] = np.nan
    return PosedFaces(boxes, points, table[:, [21, 20, 22]])  # files have pitch first


# ------------------------------------------------------------------------------------------- augmentation


def cropped(image: Picture, faces: PosedFaces, size: int, rng: np.random.Generator) -> tuple[Picture, PosedFaces, bool]:
    """A random square of the picture and its faces, RetinaFace's way; and whether one was found in 250 tries.

    With probability 0.9 the square is as wide as the short side, otherwise 0.3 to 1 of it. At least one face must lie
    inside; faces stay whose centre is inside, and of which the shorter side is more than 5 px once the square is
    resized to `size`.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    for _ in range(250):
        side = int((1.0 if rng.random() < 0.9 else rng.uniform(0.3, 1.0)) * short)
        if side < 1:
            continue
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        low, high = faces.boxes[:, :2], faces.boxes[:, 2:]
        whole = ((low >= (x, y)) & (high <= (x + side, y + side))).all(1)
        if not whole.any():
            continue
        centre = (low + high) / 2
        kept = faces[((centre > (x, y)) & (centre < (x + side, y + side))).all(1)]
        clipped = np.clip(kept.boxes, np.tile([x, y], 2), np.tile([x + side, y + side], 2)).astype(np.float32)
        kept = PosedFaces(clipped, kept.points, kept.pose)
        large = (clipped[:, 2:] - clipped[:, :2]).min(1, initial=np.inf) * size / side > 5
        if not large.any():
            continue
        return np.ascontiguousarray(image[y : y + side, x : x + side]), kept[large].moved(1.0, (-x, -y)), True
    return image, faces, False


def distorted(image: Picture, rng: np.random.Generator) -> Picture:
    """Random brightness (+-32), contrast and saturation (0.5 to 1.5), hue (+-18 of 180), each with probability 0.5."""
    out = image.astype(np.float32)

    def contrast() -> None:
        if rng.random() < 0.5:
            out[:] = np.clip(out * rng.uniform(0.5, 1.5), 0, 255)

    if rng.random() < 0.5:
        out[:] = np.clip(out + rng.uniform(-32, 32), 0, 255)
    first = rng.random() < 0.5
    if first:
        contrast()
    hsv = cv2.cvtColor(out.astype(np.uint8), cv2.COLOR_RGB2HSV).astype(np.float32)
    if rng.random() < 0.5:
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.5), 0, 255)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-18, 18)) % 180
    out = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    if not first:
        contrast()
    return np.asarray(out, np.uint8)


def augmented(image: Picture, faces: PosedFaces, size: int, rng: np.random.Generator) -> tuple[Picture, PosedFaces]:
    """A training picture (size, size, 3) and its faces: crop, colour, padding, mirror image, size.

    Where no crop was found, the picture is padded with the mean colour to a square at its top left corner.
    """
    image, faces, found = cropped(image, faces, size, rng)
    image = distorted(image, rng)
    if not found and image.shape[0] != image.shape[1]:
        side = max(image.shape[:2])
        canvas = np.full((side, side, 3), MEAN, np.uint8)
        canvas[: image.shape[0], : image.shape[1]] = image
        image = canvas
    if rng.random() < 0.5:
        image, faces = np.ascontiguousarray(image[:, ::-1]), faces.mirrored(image.shape[1])
    kernel = _KERNELS[int(rng.integers(len(_KERNELS)))]
    factor = size / image.shape[0]
    return as_picture(cv2.resize(image, (size, size), interpolation=kernel)), faces.moved(factor)


def stitched(parts: Sequence[tuple[Picture, PosedFaces]]) -> tuple[Picture, PosedFaces]:
    """Four pictures (s, s, 3) on one canvas (2 s, 2 s, 3), rows first, and all their faces.

    Raises
    ------
    ShapeError
        Other than four equal squares.
    """
    shapes = {image.shape for image, _ in parts}
    if len(parts) != 4 or len(shapes) != 1 or len({*next(iter(shapes))[:2]}) != 1:
        raise ShapeError("pictures to be stitched", got=sorted(shapes), expected="four equal squares")
    side = parts[0][0].shape[0]
    canvas = np.full((2 * side, 2 * side, 3), GREY, np.uint8)
    faces = []
    for place, (image, one) in enumerate(parts):
        x, y = side * (place % 2), side * (place // 2)
        canvas[y : y + side, x : x + side] = image
        faces.append(one.moved(1.0, (x, y)))
    return canvas, PosedFaces.joined(faces)


class PosedPictures:
    """Training samples from pictures: `image` (size, size, 3), `boxes`, `points`, `pose`, `present`, and `index`.

    Parameters
    ----------
    listed
        Pictures and faces.
    size
        Side of the samples, px.
    most
        Rows of faces.
    stitch
        Whether every sample is stitched of four pictures.
    """

    def __init__(self, listed: PosedList, *, size: int = 640, most: int = MOST, stitch: bool = False) -> None:
        if size < 2 or size % 2:
            raise OptionError("a sample is stitched of halves", got=size, expected="an even number of pixels")
        self.listed, self.size, self.most, self.stitch = listed, size, most, stitch

    def __len__(self) -> int:
        return len(self.listed)

    def one(self, index: int, size: int, rng: np.random.Generator) -> tuple[Picture, PosedFaces]:
        """Picture `index`, augmented."""
        file = self.listed.files[index]
        try:
            coded = np.fromfile(file, np.uint8)
        except OSError as error:
            raise MediaNotFound("a picture of the labels cannot be read", got=file) from error
        return augmented(decode(coded), self.listed.faces[index], size, rng)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One sample, stitched or not as the source is."""
        return self.drawn(index, rng, stitch=self.stitch)

    def drawn(self, index: int, rng: np.random.Generator, *, stitch: bool) -> dict[str, Any]:
        """One sample; stitched: that picture and three random ones, each augmented at half the size."""
        if stitch:
            rows = [index, *rng.integers(len(self), size=3).tolist()]
            image, faces = stitched([self.one(row, self.size // 2, rng) for row in rows])
        else:
            image, faces = self.one(index, self.size, rng)
        return {"image": image, **faces.padded(self.most), "index": index}


# ------------------------------------------------------------------------------------------- rendered scenes


class HeadScenes(PosedPictures):
    """Scenes of 1 to `most_heads` rendered heads on clutter, drawn once and kept; samples are mirrored and coloured.

    Parameters
    ----------
    count
        Scenes.
    heads
        Rendered heads that they are made of; people of another `seed` are other people.
    size
        Side of the scenes, px.
    smallest, largest
        Sides of faces (root of the box's area, px).
    even
        Whether sides are drawn evenly between them; otherwise their logarithms are, and most faces are small.
    yaw
        Degrees to either side, uniform.
    turned
        Largest pitch and roll, degrees.
    most_heads
        Of a scene.
    seed
        Of everything.
    augment
        Whether samples are mirrored and coloured at random.
    """

    def __init__(
        self,
        count: int,
        *,
        heads: int,
        size: int,
        seed: int,
        smallest: float = 5.0,
        largest: float = 48.0,
        yaw: float = 80.0,
        turned: float = 20.0,
        most_heads: int = 6,
        even: bool = False,
        stitch: bool = False,
        augment: bool = True,
        most: int = 32,
    ) -> None:
        if count < 1 or heads < 1:
            raise OptionError("scenes need heads", got=(count, heads), expected="1 or more")
        super().__init__(PosedList([""] * count, []), size=size, most=most, stitch=stitch)
        self.augment = augment
        pool = _Pool(heads, seed=seed, side=int(np.clip(2 * largest, 32, 128)), yaw=yaw, turned=turned)
        self.images = np.zeros((count, size, size, 3), np.uint8)
        faces: list[PosedFaces] = []
        for row in range(count):
            rng = np.random.default_rng([seed, 41, row])
            number = int(rng.integers(1, most_heads + 1))
            if even:
                sides = rng.uniform(smallest, largest, number)
            else:
                sides = np.exp(rng.uniform(np.log(smallest), np.log(largest), number))
            self.images[row], one = _compose(pool, size, rng, np.sort(sides))
            faces.append(one)
        self.faces = faces

    def one(self, index: int, size: int, rng: np.random.Generator) -> tuple[Picture, PosedFaces]:
        image, faces = self.images[index], self.faces[index]
        if self.augment:
            image = distorted(image, rng)
            if rng.random() < 0.5:
                image, faces = np.ascontiguousarray(image[:, ::-1]), faces.mirrored(image.shape[1])
        if size != self.size:
            image = as_picture(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))
            faces = faces.moved(size / self.size)
        return image, faces


class _Pool:
    """Rendered heads with transparent surroundings."""

    def __init__(self, count: int, *, seed: int, side: int, yaw: float, turned: float) -> None:
        from mien.data.heads import render, sample
        from mien.geometry.landmarks import five_from_68

        rng = np.random.default_rng([seed, 43])
        pose = np.stack([rng.uniform(-one, one, count) for one in (yaw, turned, turned)], 1).astype(np.float32)
        drawn = render(sample(count, seed=seed, pose=pose), size=side, what=("image", "landmarks", "parts"))
        self.images, self.alpha = drawn.image, (drawn.parts != 255).astype(np.float32)
        outline = face_outline(drawn.landmarks_2d)
        self.boxes = np.concatenate([outline.min(1), outline.max(1)], 1)
        self.points = np.asarray(five_from_68(drawn.landmarks_2d), np.float32)
        self.pose = pose_to_300wlp(drawn.pose)

    def __len__(self) -> int:
        return len(self.images)


def _compose(
    pool: _Pool, size: int, rng: np.random.Generator, sides: NDArray[np.float64]
) -> tuple[Picture, PosedFaces]:
    scene = Scene(drawn_texture(size, size, rng))
    angles: list[Floats] = []
    for side in sides:
        for _ in range(6):
            if _place(scene, angles, pool, int(rng.integers(len(pool))), float(side), rng):
                break
    if rng.random() < 0.3:
        _decoy(scene, pool, rng)
    if not angles:
        return scene.image, PosedFaces.none()
    return scene.image, PosedFaces(np.stack(scene.boxes), np.stack(scene.points), np.stack(angles))


def _place(scene: Scene, angles: list[Floats], pool: _Pool, row: int, side: float, rng: np.random.Generator) -> bool:
    """Pastes head `row` with a face of that side, or returns False where it would cover another."""
    size, edge = scene.image.shape[0], pool.images.shape[1]
    box = pool.boxes[row]
    scale = side / float(np.sqrt((box[2:] - box[:2]).prod()))
    new = max(4, round(edge * scale))
    scale = new / edge
    extent = (box[2:] - box[:2]) * scale
    if (extent >= size - 2).any():
        return False
    corner = np.round(rng.uniform(0, size - extent) - box[:2] * scale).astype(int)
    placed = (box.reshape(2, 2) * scale + corner).reshape(4).astype(np.float32)
    if not scene.free(placed, overlap=0.05) or (placed[:2] < 0).any() or (placed[2:] > size).any():
        return False
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture, alpha = (cv2.resize(one[row], (new, new), interpolation=kind) for one in (pool.images, pool.alpha))
    low, high = np.maximum(corner, 0), np.minimum(corner + new, size)
    inner = np.s_[low[1] - corner[1] : high[1] - corner[1], low[0] - corner[0] : high[0] - corner[0]]
    cover = np.zeros((size, size), np.float32)
    cover[low[1] : high[1], low[0] : high[0]] = alpha[inner]
    for other in scene.boxes:
        x0, y0, x1, y1 = np.clip(np.round(other), 0, size).astype(int)
        if cover[y0:y1, x0:x1].mean() > 0.1:
            return False
    target = scene.image[low[1] : high[1], low[0] : high[0]]
    weight = alpha[inner][..., None]
    target[:] = (picture[inner] * weight + target * (1 - weight) + 0.5).astype(np.uint8)
    scene.boxes.append(placed)
    scene.points.append(np.asarray(pool.points[row] * scale + corner, np.float32))
    angles.append(pool.pose[row])
    return True


def _decoy(scene: Scene, pool: _Pool, rng: np.random.Generator) -> None:
    """A head with its blocks in disorder, where there is room: the colours of a face, and no face."""
    size, side = scene.image.shape[0], 4 * int(rng.integers(2, 7))
    x, y = (int(v) for v in rng.integers(0, max(1, size - side), 2))
    if not scene.free(np.array([x, y, x + side, y + side], np.float32), overlap=0.0):
        return
    head = cv2.resize(pool.images[int(rng.integers(len(pool)))], (side, side), interpolation=cv2.INTER_AREA)
    target = scene.image[y : y + side, x : x + side]
    target[:] = _shuffled(as_picture(head), rng)[: target.shape[0], : target.shape[1]]
