"""Pictures with an emotion class and with valence and arousal: AffectNet, Aff-Wild2, and rendered heads.

    train = affectnet("AffectNet", split="train")          tables of the first release, or folders of the second
    frames = affwild2("Aff-Wild2", split="validation")     frames that have both kinds of labels
    train.picture(0)                                       the face, upright, cut to its box

Classes have AffectNet's numbers (`mien.nn.label_graph.EMOTIONS`), whatever numbers a set uses.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.pixels import Picture, as_picture, read
from mien.errors import MediaNotFound, OptionError, TableError, ValueRangeError
from mien.nn.label_graph import EMOTIONS

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Split = Literal["train", "validation"]
Format = Literal["affectnet", "affwild2"]

__all__ = [
    "AffectSet",
    "Drawn",
    "affectnet",
    "affwild2",
    "balanced_weights",
    "class_weights",
    "drawn_heads",
    "kind_of",
    "read_affect",
    "upright",
]

COLUMNS = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
    "valence", "arousal",
)  # fmt: skip
"""Of AffectNet's tables; some copies of validation.csv have no header."""
WILD = {
    "neutral": "neutral", "anger": "anger", "disgust": "disgust", "fear": "fear", "happiness": "happiness",
    "sadness": "sadness", "surprise": "surprise",
}  # fmt: skip
"""Names in the first line of Aff-Wild2's files of expressions; "Other", the eighth of later releases, has no class."""
WILD_ORDER = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
"""Classes by Aff-Wild2's numbers, where a file has no such line."""


@dataclass(frozen=True, eq=False)
class AffectSet:
    """Pictures with labels; arrays have one row a picture.

    Parameters
    ----------
    root
        Folder that `names` are relative to.
    names
        Picture files.
    labels
        (n,) classes, numbers into `EMOTIONS`; -1 where a class is not known.
    affect
        (n, 2) valence and arousal, -1 to 1; NaN where they are not known.
    boxes
        (n, 4) x, y, width, height of the face in the picture, px; NaN where the picture is the face.
    eyes
        (n, 2, 2) middles of the two eyes, left one of the picture first, px; NaN where they are not known.
    """

    root: Path
    names: tuple[str, ...]
    labels: Labels
    affect: Floats
    boxes: Floats
    eyes: Floats

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: ArrayLike) -> Self:
        """The set of some rows, given as numbers or as a mask."""
        index = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self, names=tuple(self.names[row] for row in index), labels=self.labels[index], affect=self.affect[index],
            boxes=self.boxes[index], eyes=self.eyes[index],
        )  # fmt: skip

    def picture(self, row: int, *, official: bool = False) -> Picture:
        """(H, W, 3) uint8 RGB the face of a row: `upright`, or the picture itself where it has no box."""
        whole = read(self.root / self.names[row])
        if not np.isfinite(self.boxes[row]).all():
            return whole
        return upright(whole, self.boxes[row], self.eyes[row], official=official)

    def counts(self, classes: int) -> Labels:
        """(classes,) pictures of each class."""
        return np.bincount(self.labels[self.labels >= 0], minlength=classes)[:classes].astype(np.int64)


def upright(picture: Picture, box: ArrayLike, eyes: ArrayLike, *, official: bool = False) -> Picture:
    """A face cut out after the picture was turned so that the eyes lie level, as the authors prepare AffectNet.

    The picture is turned about the middle between the eyes, by cubic interpolation, at its own scale. The box's top
    left corner turns with it; its width and height stay.

    Parameters
    ----------
    picture
        (H, W, 3) uint8.
    box
        x, y, width, height, px.
    eyes
        (2, 2) left and right middle, px; cut to whole pixels. NaN: nothing is turned.
    official
        Whether width and height of the turned picture are exchanged, as in the released code: what lies beyond is
        then black, and a picture that is not square loses a part.

    Returns
    -------
    array
        (height, width, 3), smaller where the box reaches over the border.

    Raises
    ------
    ValueRangeError
        Nothing of the box lies in the picture.
    """
    x, y, w, h = (float(value) for value in np.asarray(box, np.float64))
    both = np.asarray(eyes, np.float64)
    height, width = picture.shape[:2]
    if np.isfinite(both).all():
        (lx, ly), (rx, ry) = both.astype(np.int64)
        angle = float(np.degrees(np.arctan2(ry - ly, rx - lx)))
        turn = cv2.getRotationMatrix2D((float((lx + rx) // 2), float((ly + ry) // 2)), angle, 1.0)
        size = (height, width) if official else (width, height)
        picture = as_picture(cv2.warpAffine(picture, turn, size, flags=cv2.INTER_CUBIC))
        x, y = (float(value) for value in turn @ np.array([x, y, 1.0]))
    left, top = max(0, int(x)), max(0, int(y))
    cut = picture[top : max(0, int(y + h)), left : max(0, int(x + w))]
    if not cut.size:
        raise ValueRangeError(
            "the face's box lies outside of its picture", got=np.asarray(box), expected=(width, height)
        )
    return np.ascontiguousarray(cut)


# ------------------------------------------------------------------------------------------- weights of classes


def class_weights(counts: ArrayLike) -> Floats:
    """(classes,) n_min / n_c: the rarest class counts 1, the others less. 0 for a class without pictures."""
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or not (n > 0).any() or (n < 0).any():
        raise ValueRangeError("counts of classes are whole numbers, some above 0", got=n)
    return np.where(n > 0, n[n > 0].min() / np.maximum(n, 1), 0).astype(np.float32)


def balanced_weights(counts: ArrayLike) -> Floats:
    """(classes,) `class_weights` with a mean of 1 over the pictures, for those who keep the size of the loss."""
    weights = class_weights(counts)
    n = np.asarray(counts, np.float64)
    return np.asarray(weights * n.sum() / (weights * n).sum(), np.float32)


# ------------------------------------------------------------------------------------------- AffectNet


def affectnet(root: str | os.PathLike[str], *, split: Split, classes: int = 7) -> AffectSet:
    """AffectNet's training or validation part (Mollahosseini, Hasani, Mahoor, 2017), which its authors hand out.

    Parameters
    ----------
    root
        Its folder. Either ``training.csv`` and ``validation.csv`` (in it, or in ``Manually_Annotated_file_lists``) with
        the pictures in ``Manually_Annotated_Images``; or ``train_set`` and ``val_set`` with ``images/N.jpg`` and
        ``annotations/N_exp.npy``, ``N_val.npy``, ``N_aro.npy``, whose pictures are faces already.
    split
        "train" or "validation".
    classes
        Pictures of other classes are left out: 7, or 8 with contempt.

    Raises
    ------
    OptionError
        No such split.
    MediaNotFound
        The folder is neither.
    TableError
        A table or a label is not as it should be.
    """
    _check_split(split)
    folder = Path(root)
    second = folder / {"train": "train_set", "validation": "val_set"}[split]
    if (second / "annotations").is_dir():
        return _affectnet_folders(second, classes)
    name = {"train": "training.csv", "validation": "validation.csv"}[split]
    for table in (folder / name, folder / "Manually_Annotated_file_lists" / name):
        if table.is_file():
            return _affectnet_table(folder, table, classes)
    raise MediaNotFound(
        f"this is no folder of AffectNet's {split} part", got=str(folder),
        expected=f"{name} with pictures in Manually_Annotated_Images, or {second.name}/annotations",
    )  # fmt: skip


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise OptionError.unknown("no such part of the set", split, get_args(Split))


def _affectnet_table(folder: Path, table: Path, classes: int) -> AffectSet:
    places = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", "images")
    root = next((folder / place for place in places if (folder / place).is_dir()), folder)
    names: list[str] = []
    rows: list[tuple[float, ...]] = []
    with table.open(newline="", encoding="utf-8-sig") as opened:
        lines = csv.reader(opened)
        order = {column: k for k, column in enumerate(COLUMNS)}
        for number, line in enumerate(lines, 1):
            if number == 1 and COLUMNS[0] in line:
                order = {column: line.index(column) for column in COLUMNS if column in line}
                if len(order) < len(COLUMNS):
                    missing = [column for column in COLUMNS if column not in order]
                    raise TableError(f"{table.name} lacks columns", got=", ".join(line), expected=", ".join(missing))
                continue
            if not line:
                continue
            try:
                cell = {column: line[k] for column, k in order.items()}
                label = int(cell["expression"])
                if not 0 <= label < classes:
                    continue
                points = np.array(cell["facial_landmarks"].split(";"), np.float32).reshape(68, 2)
                eyes = points[36:42].mean(0), points[42:48].mean(0)
                box = [float(cell[f"face_{side}"]) for side in ("x", "y", "width", "height")]
                row = (label, *_affect(cell["valence"], cell["arousal"]), *box, *eyes[0].tolist(), *eyes[1].tolist())
            except (ValueError, IndexError) as error:
                raise TableError(
                    f"{table.name} line {number} is not as it should be", got=error,
                    expected="a file, a box, 68 points, a class, valence and arousal",
                ) from None  # fmt: skip
            names.append(cell[COLUMNS[0]])
            rows.append(row)
    values = np.array(rows, np.float32).reshape(-1, 11)
    return AffectSet(root, tuple(names), values[:, 0].astype(np.int64), values[:, 1:3], values[:, 3:7],
                     values[:, 7:].reshape(-1, 2, 2))  # fmt: skip


def _affect(valence: Any, arousal: Any) -> tuple[float, float]:
    """Numbers of -1 to 1; NaN for the sets' marks of unknown ones (-2, -5)."""
    both = float(valence), float(arousal)
    return both if all(-1 <= value <= 1 for value in both) else (np.nan, np.nan)


def _affectnet_folders(folder: Path, classes: int) -> AffectSet:
    names, labels, affect = [], [], []
    for file in sorted((folder / "annotations").glob("*_exp.npy"), key=lambda file: (len(file.name), file.name)):
        stem = file.name.removesuffix("_exp.npy")
        try:
            label, valence, arousal = (
                float(np.load(file.with_name(f"{stem}_{part}.npy"), allow_pickle=False))
                for part in ("exp", "val", "aro")
            )
        except (OSError, ValueError, TypeError) as error:
            raise TableError(
                f"the labels of picture {stem} cannot be read", got=f"{type(error).__name__}: {error}",
                expected=f"{stem}_exp.npy, {stem}_val.npy and {stem}_aro.npy, a number each",
            ) from None  # fmt: skip
        if 0 <= label < classes:
            names.append(f"{stem}.jpg")
            labels.append(int(label))
            affect.append(_affect(valence, arousal))
    return _faces(folder / "images", names, labels, affect)


def _faces(root: Path, names: Sequence[str], labels: Sequence[int], affect: Sequence[tuple[float, float]]) -> AffectSet:
    """A set whose pictures are faces already."""
    n = len(names)
    return AffectSet(
        root, tuple(names), np.asarray(labels, np.int64).reshape(n), np.asarray(affect, np.float32).reshape(n, 2),
        np.full((n, 4), np.nan, np.float32), np.full((n, 2, 2), np.nan, np.float32),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- Aff-Wild2

_PARTS = {
    "train": ("Training_Set", "Train_Set", "train"),
    "validation": ("Validation_Set", "Val_Set", "validation"),
}
_KINDS = {"expr": ("EXPR_Set", "EXPR_Classification_Challenge", "EXPR_Recognition_Challenge"),
          "va": ("VA_Set", "VA_Estimation_Challenge")}  # fmt: skip
_CROPS = ("cropped_aligned", "cropped_aligned_images", "images")


def affwild2(root: str | os.PathLike[str], *, split: Split) -> AffectSet:
    """Frames of Aff-Wild2 (Kollias, Zafeiriou, 2019) that have a class, and valence and arousal inside -1 to 1.

    A frame's labels are matched by its path. The split of the expressions decides, and labels of valence and arousal
    are taken from either of theirs.

    Parameters
    ----------
    root
        Its folder: ``cropped_aligned/VIDEO/00001.jpg`` (the provided crops) and, in ``annotations`` or beside it,
        ``EXPR_Set`` and ``VA_Set`` with ``Training_Set`` and ``Validation_Set`` (or the names of later releases), a
        file ``VIDEO.txt`` each with a line a frame below a header.
    split
        "train" or "validation".

    Raises
    ------
    OptionError
        No such split.
    MediaNotFound
        The folder is not so.
    TableError
        A file of labels is not as it should be.
    """
    _check_split(split)
    folder = Path(root)
    labels_in = folder / "annotations" if (folder / "annotations").is_dir() else folder
    crops = _one_of(folder, _CROPS)
    expressions = _one_of(_one_of(labels_in, _KINDS["expr"]), _PARTS[split])
    values = _one_of(labels_in, _KINDS["va"])
    both: dict[str, Path] = {}
    for part in ("train", "validation"):
        for name in _PARTS[part]:
            both |= {file.stem: file for file in sorted((values / name).glob("*.txt"))}
    names: list[str] = []
    labels: list[Labels] = []
    affect: list[Floats] = []
    for file in sorted(expressions.glob("*.txt")):
        if file.stem not in both:
            continue
        said, numbers = _wild_classes(file), _wild_numbers(both[file.stem])
        n = min(len(said), len(numbers))
        usable = (said[:n] >= 0) & (np.abs(numbers[:n]) <= 1).all(1)
        there = set(os.listdir(crops / file.stem)) if (crops / file.stem).is_dir() else set[str]()
        # Frames without a face have no crop.
        rows = [row for row in np.flatnonzero(usable) if f"{row + 1:05d}.jpg" in there]
        names += [f"{file.stem}/{row + 1:05d}.jpg" for row in rows]
        labels.append(said[rows])
        affect.append(numbers[rows])
    joined = np.concatenate([np.empty(0, np.int64), *labels]), np.concatenate([np.empty((0, 2), np.float32), *affect])
    return _faces(crops, names, joined[0].tolist(), [(float(v), float(a)) for v, a in joined[1]])


def _one_of(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise MediaNotFound("this is no folder of Aff-Wild2", got=str(folder), expected=f"one of {', '.join(names)} in it")


def _wild_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError:
        raise TableError(f"{file.name} is no text", got=str(file), expected="a line a frame") from None


def _wild_classes(file: Path) -> Labels:
    lines = _wild_lines(file)
    order: Sequence[str] = WILD_ORDER
    if lines and "," in lines[0]:
        order = [WILD.get(name.strip().lower(), "") for name in lines.pop(0).split(",")]
    numbers = np.array([EMOTIONS.index(name) if name else -1 for name in order], np.int64)
    try:
        said = np.array(lines, np.int64)
        if len(said) and not (said.min() >= -1 and said.max() < len(numbers)):
            raise ValueError(f"classes {said.min()} to {said.max()}")
    except ValueError as error:
        raise TableError(
            f"{file.name} is not as it should be", got=error, expected=f"-1 or a class below {len(numbers)} a line"
        ) from None
    return np.where(said >= 0, numbers[said], -1)


def _wild_numbers(file: Path) -> Floats:
    lines = _wild_lines(file)
    if lines and lines[0].lower().startswith("valence"):
        lines.pop(0)
    try:
        found = np.array([line.split(",") for line in lines], np.float32).reshape(-1, 2)
    except ValueError as error:
        raise TableError(f"{file.name} is not as it should be", got=error, expected="valence,arousal a line") from None
    return found


def kind_of(root: str | os.PathLike[str]) -> Format:
    """Which of the two sets a folder holds, by its names: Aff-Wild2 where there are its expressions, else AffectNet."""
    folder = Path(root)
    wild = any((place / name).is_dir() for place in (folder, folder / "annotations") for name in _KINDS["expr"])
    return "affwild2" if wild else "affectnet"


def read_affect(
    root: str | os.PathLike[str],
    *,
    split: Split,
    classes: int = 7,
    kind: Literal["auto", "affectnet", "affwild2"] = "auto",
) -> AffectSet:
    """`affectnet` or `affwild2`, by what lies in the folder; OptionError for another kind."""
    if kind not in ("auto", *get_args(Format)):
        raise OptionError.unknown("unknown kind of set", kind, ("auto", *get_args(Format)))
    folder = Path(root)
    kind = kind_of(folder) if kind == "auto" else kind
    return affwild2(folder, split=split) if kind == "affwild2" else affectnet(folder, split=split, classes=classes)


# ------------------------------------------------------------------------------------------- rendered heads

NOISE = 0.18
"""Deviation of valence and arousal about the place of a class."""
BLEND = 0.5
"""Share of a face that follows valence and arousal; the rest follows the class."""
TURNED = 25.0
"""Degrees to either side that drawn heads are turned at most; plain ones half as far."""
PLAIN: dict[str, Any] = {
    "glasses": 0, "hat": 0, "beard_style": 0, "earrings": 0, "necklace": 0, "lipstick": 0.0, "eyeshadow": 0.0,
    "eyeliner": 0.0, "blush": 0.0, "scene": 0, "camera_noise": 0.0,
}  # fmt: skip
"""What plain heads do without."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rendered heads: crops (n, S, S, 3), classes (n,), valence and arousal (n, 2)."""

    crops: Picture
    labels: Labels
    affect: Floats

    def __len__(self) -> int:
        return len(self.labels)


@lru_cache(maxsize=4)
def drawn_heads(
    count: int, *, seed: int, size: int, prior: tuple[float, ...] | None = None, plain: bool = False
) -> Drawn:
    """Heads that show an emotion, and how pleasant and stirred they are; made once in a process.

    A class is drawn, and an intensity; valence and arousal lie about the class's place in the plane, with a deviation
    of `NOISE`. Half of what the face does follows the class, half valence and arousal, and each action unit is a little
    off. People, pose (to `TURNED` degrees), light, hair and camera are as `mien.data.heads.sample` draws them; nothing
    covers the face.

    Parameters
    ----------
    count
        How many.
    seed
        Of everything.
    size
        Side of a crop, px, aligned by five points.
    prior
        Shares of the seven classes; None: as many of each.
    plain
        Whether heads differ in little else: no glasses, hats, beards and make-up, half the light's and the features'
        variety, half the turns, faces that act a little more.
    """
    from mien.data import heads
    from mien.geometry.landmarks import five_from_68
    from mien.geometry.similarity import similarity_from_points, template

    rng = np.random.default_rng([seed, 41])
    n = len(heads.EXPRESSIONS)
    labels = np.arange(count) % n if prior is None else rng.choice(n, count, p=np.asarray(prior) / np.sum(prior))
    intensity = rng.uniform(0.6 if plain else 0.45, 1.0, count)
    places = np.array([heads.AFFECT[name] for name in heads.EXPRESSIONS])[labels] * intensity[:, None]
    affect = np.clip(places + rng.normal(0, NOISE, (count, 2)), -1, 1)
    own = heads.expression_units(labels, intensity)
    units = (1 - BLEND) * own + BLEND * heads.affect_units(affect[:, 0], affect[:, 1])
    units = np.clip(units + rng.normal(0, 0.08, units.shape), 0, 1.2)
    blink = [list(heads.UNITS).index(f"eye_closure_{side}") for side in ("left", "right")]
    units[:, blink] = 0.0
    target = template("chip112", size=size)
    parts = []
    for start in range(0, count, 256):
        stop = min(start + 256, count)
        some = heads.sample(
            stop - start, seed=seed, start=start, expression=labels[start:stop], valence=affect[start:stop, 0],
            arousal=affect[start:stop, 1], units=units[start:stop], occluder="none", face_share=0.8,
            **(PLAIN if plain else {}),
        )  # fmt: skip
        some = some.with_(pose=np.clip(some.pose, -TURNED, TURNED) * (0.5 if plain else 1.0))
        if plain:
            some = some.with_(
                shape=some.shape * 0.5, exposure=some.exposure * 0.5, key_share=np.minimum(some.key_share, 0.3),
                key_direction=some.key_direction * 0.5,
            )  # fmt: skip
        drawn = heads.render(some, size=round(1.2 * size), what=("image", "landmarks"))
        matrices = similarity_from_points(five_from_68(drawn.landmarks_2d), target)
        parts += [
            cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for picture, matrix in zip(drawn.image, matrices, strict=True)
        ]
    crops = as_picture(np.stack(parts))
    known = np.array([EMOTIONS.index(name) for name in heads.EXPRESSIONS], np.int64)
    return Drawn(crops, known[labels], affect.astype(np.float32))
