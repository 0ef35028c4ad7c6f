"""Public face sets with labels for one task or another, as one noun: pictures by row, and what is known of each.

`READERS` has them by the options of ``mien train face_tasks``. Nothing but lists is read before a picture is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.pixels import Picture, as_picture
from mien.data.pixels import read as read_picture
from mien.errors import MediaNotFound, TableError
from mien.faces import PARSING as PARTS
from mien.train.tasks import ATTRIBUTES, CLASSES, COFW29, EXPRESSION, EXPRESSIONS7, GENDERS, RACES, UNKNOWN, rotation_of

Floats = NDArray[np.float32]

CACHE = 256
"""Heads that are drawn at a time."""

_TO_CLASS = np.full(256, UNKNOWN, np.uint8)
_TO_CLASS[: len(PARTS)] = [CLASSES.index(name) if name in CLASSES else 0 for name in PARTS]


@dataclass
class Item:
    """One picture and what is known of it; None is not known.

    Parameters
    ----------
    picture
        (H, W, 3) uint8 RGB.
    box
        The face, x0, y0, x1, y1 in pixels; None where the picture is cut already.
    mask
        (H, W) classes of `mien.train.tasks.CLASSES`, 255 where unknown.
    points
        (68, 2) pixels, NaN where unknown.
    rotation
        (3, 3), axes of the picture.
    attributes, visible
        (40,) and (29,): 1, 0 or NaN.
    age, gender, race, expression
        Years; numbers of the classes.
    """

    picture: Picture
    box: Sequence[float] | None = None
    mask: NDArray[np.uint8] | None = None
    points: Floats | None = None
    rotation: Floats | None = None
    attributes: Floats | None = None
    visible: Floats | None = None
    age: float = math.nan
    gender: int = -1
    race: int = -1
    expression: int = -1


class Part(Protocol):
    """Pictures of one set, and what is known of them."""

    @property
    def names(self) -> Sequence[str]:
        """Name of every picture, or of the person on it."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Groups of tasks that it has labels for."""
        ...

    def item(self, row: int) -> Item:
        """What is known of a picture, read now."""
        ...


class Heads:
    """Rendered heads, drawn at once: all but age, gender and race.

    Parameters
    ----------
    count, seed
        How many, and of which draw.
    size
        Side of the pictures in pixels.
    turned
        Heads are turned by no more than so many degrees about each axis; None: as they are drawn.
    **controls
        Controls that are set, see `mien.data.heads.sample`.
    """

    tasks = ("parsing", "landmarks", "pose", "attributes", "visibility", EXPRESSION)

    def __init__(self, count: int, *, seed: int, size: int, turned: float | None = None, **controls: Any) -> None:
        from mien.data import heads
        from mien.geometry.pose import rotation_from_euler

        parts = []
        for start in range(0, count, CACHE):
            some = heads.sample(min(CACHE, count - start), seed=seed, start=start, **controls)
            if turned is not None:
                some = some.with_(pose=np.clip(some.pose, -turned, turned))
            parts.append(heads.render(some, size=size, what=("image", "landmarks", "parsing")))
        drawn = heads.Heads.concat(parts)
        self.names = [f"{seed}/{row}" for row in range(count)]
        self.image: NDArray[np.uint8] = drawn.image
        self.mask = _TO_CLASS[drawn.parsing]
        self.points = drawn.landmarks_2d.astype(np.float32)
        self.rotation = rotation_from_euler(drawn.pose).astype(np.float32)
        self.attributes = np.full((count, len(ATTRIBUTES)), np.nan, np.float32)
        self.attributes[:, [ATTRIBUTES.index(name) for name in heads.ATTRIBUTES]] = drawn.attributes
        self.visible = np.stack([drawn.visible[:, list(one)].all(1) for one in COFW29], 1).astype(np.float32)
        named = [EXPRESSIONS7.index(name) if name in EXPRESSIONS7 else -1 for name in heads.EXPRESSIONS]
        self.expression = np.array(named)[drawn.expression]
        from mien.data.scenes import face_outline

        outline = face_outline(self.points)
        self.boxes = np.concatenate([outline.min(1), outline.max(1)], 1)

    def item(self, row: int) -> Item:
        return Item(
            self.image[row], box=self.boxes[row].tolist(), mask=self.mask[row], points=self.points[row],
            rotation=self.rotation[row], attributes=self.attributes[row], visible=self.visible[row],
            expression=int(self.expression[row]),
        )  # fmt: skip


class MaskedCelebs:
    """CelebAMask-HQ in its own format: ``CelebA-HQ-img/7.jpg``, ``CelebAMask-HQ-mask-anno/0/00007_l_brow.png``.

    A pixel that several masks claim belongs to the last of the set's own order; ears, glasses, hats, necks and clothes
    become background, which the paper's eleven classes leave no choice about.

    Raises
    ------
    MediaNotFound
        The folders are not there, or hold no picture with a mask.
    """

    tasks = ("parsing",)
    ORDER: ClassVar[tuple[str, ...]] = (
        "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
        "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    )  # fmt: skip

    def __init__(self, root: Path) -> None:
        masks: dict[int, dict[str, Path]] = {}
        for file in sorted((root / "CelebAMask-HQ-mask-anno").glob("*/*.png")):
            number, _, name = file.stem.partition("_")
            if number.isdigit() and name in self.ORDER:
                masks.setdefault(int(number), {})[name] = file
        files = {number: root / "CelebA-HQ-img" / f"{number}.jpg" for number in masks}
        there = [number for number in sorted(masks) if files[number].is_file()]
        if not there:
            raise MediaNotFound(
                "there are no pictures with masks", got=root,
                expected="CelebA-HQ-img/0.jpg and CelebAMask-HQ-mask-anno/0/00000_skin.png",
            )  # fmt: skip
        self.names = [str(number) for number in there]
        self.files = [files[number] for number in there]
        self.masks = [masks[number] for number in there]

    def item(self, row: int) -> Item:
        picture, mask = read_picture(self.files[row]), None
        for name in self.ORDER:
            if (file := self.masks[row].get(name)) is not None:
                drawn = read_picture(file)[..., 0] > 127
                if mask is None:
                    mask = np.zeros(drawn.shape, np.uint8)
                mask[drawn] = _TO_CLASS[PARTS.index(name)]
        assert mask is not None
        if mask.shape != picture.shape[:2]:  # masks come at half the pictures' size
            picture = as_picture(cv2.resize(picture, mask.shape[::-1], interpolation=cv2.INTER_AREA))
        return Item(picture, mask=mask)


class Pointed:
    """300W and its kin: pictures with ``.pts`` files of 68 points beside them."""

    tasks = ("landmarks",)

    def __init__(self, root: Path) -> None:
        from mien.data.formats.landmarks import read_300w

        self.samples = read_300w(root)
        points = self.samples.points
        if points is None or points.shape[1:] != (68, 2):
            raise TableError("the set has other points", got=None if points is None else points.shape, expected="68")
        self.points = points
        self.names = list(self.samples.keys)

    def item(self, row: int) -> Item:
        return Item(self.samples.picture(row), box=_around(self.points[row]), points=self.points[row])


class Posed:
    """300W-LP (or AFLW2000): pictures with a ``.mat`` of pose and points of the same name beside them.

    Raises
    ------
    MediaNotFound
        There is no such file.
    TableError
        A file lacks the pose or the points; raised when it is read.
    """

    tasks = ("pose",)

    def __init__(self, root: Path) -> None:
        found = sorted(file for file in root.rglob("*.mat") if file.with_suffix(".jpg").is_file())
        if not found:
            raise MediaNotFound("there are no poses", got=root, expected="files .mat beside pictures .jpg")
        self.files = found
        self.names = [file.relative_to(root).as_posix() for file in found]

    def item(self, row: int) -> Item:
        from scipy.io import loadmat

        file = self.files[row]
        try:
            table = loadmat(file)
            angles = np.asarray(table["Pose_Para"], np.float64).reshape(-1)[:3]
            points = np.asarray(table["pt2d" if "pt2d" in table else "pt3d_68"], np.float32)[:2].T
        except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
            raise TableError(
                f"{file} cannot be read", got=error, expected="Pose_Para and pt2d, as in 300W-LP"
            ) from error
        rotation = rotation_of(torch.from_numpy(angles[None]))[0].numpy().astype(np.float32)
        known = points[(points >= 0).all(1)]  # hidden points of AFLW2000 are -1
        return Item(read_picture(file.with_suffix(".jpg")), box=_around(known), rotation=rotation)


class Attributed:
    """CelebA: pictures and 40 attributes, in its own lists or in a table ``images.csv`` with a column each."""

    tasks = ("attributes",)

    def __init__(self, root: Path) -> None:
        from mien.data.formats import read
        from mien.data.sets import celeba10k

        if (root / "images.csv").is_file():
            table = celeba10k(root)
            known = [name for name in ATTRIBUTES if name in table.attribute_names]
            flags = table.attributes[:, [table.attribute_names.index(name) for name in known]]
            self.names: Sequence[str] = [str(who) for who in table.identity]
            self.read: Any = table.picture
        else:
            samples = read(root)
            known = [name for name in ATTRIBUTES if name in samples.columns]
            flags = (
                np.stack([samples.columns[name] for name in known], 1) if known else np.zeros((len(samples), 0), bool)
            )
            people = samples.labels
            self.names = samples.keys if people is None else [str(who) for who in people]
            self.read = samples.picture
        if not known:
            raise TableError("the set has no attributes of CelebA", got=root, expected="columns such as Smiling")
        self.flags = np.full((len(flags), len(ATTRIBUTES)), np.nan, np.float32)
        self.flags[:, [ATTRIBUTES.index(name) for name in known]] = flags

    def item(self, row: int) -> Item:
        return Item(self.read(row), attributes=self.flags[row])


class Aged:
    """UTKFace (``age_gender_race_date.jpg``), or FairFace in the layout of `mien.data.sets.fairface_faces`.

    FairFace tells groups of age, whose middles are taken. Its seven groups of people become UTKFace's five.
    """

    tasks = ("age",)
    NAME: ClassVar[re.Pattern[str]] = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")
    FAIRFACE: ClassVar[dict[str, str]] = {
        "White": "White", "Black": "Black", "East Asian": "Asian", "Southeast Asian": "Asian", "Indian": "Indian",
        "Middle Eastern": "Other", "Latino_Hispanic": "Other",
    }  # fmt: skip

    def __init__(self, root: Path) -> None:
        self.rows: list[tuple[float, int, int]] = []
        if (root / "images.csv").is_file():
            from mien.data.sets import fairface_faces

            chips = fairface_faces(root)
            self.files, self.names = list(chips.files), list(chips.names)
            for age, gender, race in zip(chips.age, chips.gender, chips.race, strict=True):
                group = self.FAIRFACE.get(str(race), "")
                self.rows.append(
                    (_middle(str(age)), GENDERS.index(str(gender)), RACES.index(group) if group else -1)
                )  # fmt: skip
            return
        self.files, self.names = [], []
        for file in sorted(root.rglob("*.jpg")):
            if found := self.NAME.match(file.name):  # three of the set's names lack a part, and are left out
                self.files.append(file)
                self.names.append(file.name)
                self.rows.append((float(found[1]), int(found[2]), int(found[3])))
        if not self.files:
            raise MediaNotFound(
                "there are no pictures with an age", got=root, expected="names such as 26_1_0_20170104.jpg"
            )

    def item(self, row: int) -> Item:
        age, gender, race = self.rows[row]
        return Item(read_picture(self.files[row]), age=age, gender=gender, race=race)


class Seen:
    """Visible points: a table ``images.csv`` of `file`, `v0` … `v28` (1 visible, 0 not) and, where there is one, a box.

    Which points these are says `mien.train.tasks.COFW29`. COFW itself is in Matlab's newer format, which is not read.
    """

    tasks = ("visibility",)

    def __init__(self, root: Path) -> None:
        from mien.data.formats.folders import read_list

        self.samples = read_list(root / "images.csv")
        wanted = [f"v{point}" for point in range(len(COFW29))]
        if missing := [name for name in wanted if name not in self.samples.columns]:
            raise TableError("the table does not say which points are visible", got=f"no {missing[0]}", expected=wanted)
        self.flags = np.stack([np.asarray(self.samples.columns[name], np.float32) for name in wanted], 1)
        corners = ("x_min", "y_min", "x_max", "y_max")
        boxed = all(name in self.samples.columns for name in corners)
        self.boxes = np.stack([np.asarray(self.samples.columns[n], np.float32) for n in corners], 1) if boxed else None
        self.names = list(self.samples.keys)

    def item(self, row: int) -> Item:
        box = None if self.boxes is None else self.boxes[row].tolist()
        return Item(self.samples.picture(row), box=box, visible=self.flags[row])


class Voted:
    """FER+ in the layout of `mien.data.sets.ferplus`: the expression of most votes, where it is one of the seven."""

    tasks = (EXPRESSION,)

    def __init__(self, root: Path) -> None:
        from mien.data.sets import ferplus

        faces = ferplus(root)
        best = np.array([str(faces.vote_names[number]) for number in faces.votes.argmax(1)])
        faces = faces.take(keep := np.flatnonzero(np.isin(best, EXPRESSIONS7) & (faces.split == "train")))
        self.faces, self.classes = faces, [EXPRESSIONS7.index(name) for name in best[keep]]
        self.names = list(faces.names)

    def item(self, row: int) -> Item:
        return Item(self.faces.picture(row), expression=self.classes[row])


READERS: Mapping[str, type[Any]] = {
    "parsing": MaskedCelebs, "points": Pointed, "poses": Posed, "attributes": Attributed, "ages": Aged,
    "visibility": Seen, "expressions": Voted,
}  # fmt: skip
"""Options that are folders, and what reads them."""


def _around(points: Floats) -> list[float]:
    """The box of a face by its 68 points, brows lifted to the hairline; of fewer points, their own."""
    if len(points) == 68:
        from mien.data.scenes import face_outline

        points = face_outline(points[None])[0]
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def _middle(group: str) -> float:
    """Years in the middle of a group such as "20-29", "70+" or "more than 70"."""
    numbers = [int(number) for number in re.findall(r"\d+", group)]
    if not numbers:
        return math.nan
    return (numbers[0] + numbers[1] + 1) / 2 if len(numbers) > 1 else numbers[0] + 5.0
