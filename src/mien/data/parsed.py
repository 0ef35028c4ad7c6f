"""Pictures with a mask of classes and a face box each: LaPa, a table of one's own, or rendered crowds.

    LaPa        FOLDER/{train,val,test}/{images,labels,landmarks}/NAME.{jpg,png,txt}; 11 classes, 106 points
    a table     FOLDER/masks.csv: file, mask, x1, y1, x2, y2, split; classes.csv: index, name, of `mien.faces.PARSING`

Sets such as iBugMask, Helen and CelebAMask-HQ fit the table: masks are PNG files of class numbers in the pictures'
size, 255 where nobody knows.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import Picture, read
from mien.data.scenes import FOREHEAD
from mien.errors import OptionError, TableError
from mien.faces import PARSING

LAPA = ("background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "u_lip", "mouth", "l_lip", "hair")
"""Classes of LaPa (Liu et al., AAAI 2020) in their order, by the names of `mien.faces.PARSING`."""
UNKNOWN = 255
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Parsed:
    """`n` pictures that are read when asked for.

    Parameters
    ----------
    pictures, masks
        One function a picture: (h, w, 3) uint8 RGB, and (h, w) uint8 class numbers.
    boxes : (n, 4) float32
        Of the face that is meant, pixels.
    classes
        Names of the numbers, "background" first.
    """

    pictures: Sequence[Callable[[], Picture]]
    masks: Sequence[Callable[[], NDArray[np.uint8]]]
    boxes: NDArray[np.float32]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def first(self, count: int) -> Self:
        """The first `count` of them."""
        return type(self)(self.pictures[:count], self.masks[:count], self.boxes[:count], self.classes)


def rendered(count: int, *, seed: int, start: int = 0, size: int = 112, roll: float = 14.0) -> Parsed:
    """Scenes of `mien.data.crowds`, held in memory."""
    from mien.data.crowds import crowds

    largest = 0.32 * size
    scenes = crowds(count, seed=seed, start=start, size=size, face=(largest / 2, largest), roll=roll)
    return Parsed(
        [functools.partial(_row, scenes.images, row) for row in range(count)],
        [functools.partial(_row, scenes.masks, row) for row in range(count)],
        scenes.boxes,
        PARSING,
    )


def parsed(root: str | Path, *, split: str = "train") -> Parsed:
    """The set in a folder, by its layout; see the module.

    Raises
    ------
    OptionError
        There is no such split.
    TableError
        The folder has neither layout, or a file of it is wrong.
    """
    folder = Path(root)
    if split not in SPLITS:
        raise OptionError.unknown("unknown split", split, SPLITS)
    if (folder / "masks.csv").is_file():
        return _table(folder, split)
    if (folder / split / "labels").is_dir():
        return _lapa(folder / split)
    raise TableError(
        "the folder holds no masks that mien can read", got=folder,
        expected="masks.csv, or train/labels beside train/images and train/landmarks as in LaPa",
    )  # fmt: skip


def box_of_106(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (n, 4), forehead to chin, of LaPa's 106 points (n, 106, 2): the jaw, and the brows lifted."""
    jaw, brows = points[:, :33], points[:, 33:51]
    up = brows.mean(1) - points[:, 16]
    outline = np.concatenate([jaw, brows + FOREHEAD * up[:, None]], 1)
    return np.concatenate([outline.min(1), outline.max(1)], 1).astype(np.float32)


def _row(stack: NDArray[np.uint8], row: int) -> NDArray[np.uint8]:
    return np.asarray(stack[row])


def _mask(file: Path) -> NDArray[np.uint8]:
    found = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if found is None or found.ndim != 2 or found.dtype != np.uint8:
        what = "none" if found is None else f"{found.shape} {found.dtype}"
        raise TableError("a mask cannot be read", got=f"{file}: {what}", expected="a PNG file of one 8-bit channel")
    return np.asarray(found, np.uint8)


def _lapa(folder: Path) -> Parsed:
    names = sorted(file.stem for file in (folder / "labels").glob("*.png"))
    if not names:
        raise TableError("the set is empty", got=folder / "labels", expected="PNG files")
    points = np.stack([_points(folder / "landmarks" / f"{name}.txt") for name in names])
    return Parsed(
        [functools.partial(read, folder / "images" / f"{name}.jpg") for name in names],
        [functools.partial(_mask, folder / "labels" / f"{name}.png") for name in names],
        box_of_106(points),
        LAPA,
    )


def _points(file: Path) -> NDArray[np.float32]:
    try:
        words = file.read_text("ascii").split()
        points = np.array(words[1:], np.float32).reshape(-1, 2)
        if int(words[0]) != len(points) or len(points) != 106:
            raise ValueError(f"{len(points)} points")
    except (OSError, ValueError, IndexError) as error:
        raise TableError(
            "points of LaPa cannot be read", got=f"{file}: {error}", expected="the number 106, then x and y of each"
        ) from error
    return points


def _table(folder: Path, split: str) -> Parsed:
    try:
        with (folder / "classes.csv").open(newline="", encoding="utf-8") as file:
            named = {int(row["index"]): row["name"] for row in csv.DictReader(file)}
        with (folder / "masks.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        boxes = np.array([[float(row[key]) for key in ("x1", "y1", "x2", "y2")] for row in rows], np.float32)
        files = [(folder / row["file"], folder / row["mask"]) for row in rows]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise TableError(
            "the table of masks cannot be read", got=f"{folder}: {error!r}",
            expected="masks.csv of file, mask, x1, y1, x2, y2, split, and classes.csv of index, name",
        ) from error  # fmt: skip
    classes = tuple(named.get(number, "") for number in range(max(named, default=-1) + 1))
    if not rows or classes[:1] != ("background",) or any(name not in PARSING for name in classes):
        raise TableError(
            "the table of masks is not of parts of faces", got=f"{len(rows)} rows of {split}, classes {classes}",
            expected=f"rows, background as class 0, and classes out of {PARSING}",
        )  # fmt: skip
    return Parsed(
        [functools.partial(read, picture) for picture, _ in files],
        [functools.partial(_mask, mask) for _, mask in files],
        boxes,
        classes,
    )
