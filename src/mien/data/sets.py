"""Readers of the public face sets that the recipes, claims and figures use, each in its own CSV layout.

A reader takes the folder of one unpacked set (or nothing: then ``$MIEN_DATA/<set>``) and returns a frozen
dataclass: one numpy array per column, one row per picture, the files' paths, and pictures that are opened
when asked for.

    faces = landmarks68(split="train")
    faces.points          # (n, 68, 2) float32, pixels
    faces.files[3]        # Path
    faces.picture(3)      # (112, 112, 3) uint8 RGB, read now
    faces.take(faces.identity == "Jane_Doe")

Splits
------
What was never trained on is decided by a hash and not by a list, so that every checkout agrees without a
file: the keys are put in the order of their ``sha256``, and the first of them are held out.

=================  =====================  ==========================================
set                key                    held out
=================  =====================  ==========================================
`detection`        file name              a quarter, ``split="test"``
`landmarks68`      name of the person     a quarter of the people, ``split="test"``
`fairface_faces`   file name              a tenth, ``split="validation"``
=================  =====================  ==========================================

The sets' own terms hold; see ``docs/data.md``.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mien.errors import MediaNotFound, OptionError, TableError

__all__ = [
    "READERS",
    "Boxes",
    "Pairs",
    "PictureSet",
    "celeb24",
    "celeba10k",
    "cfp",
    "cifar10_test",
    "detection",
    "fairface_faces",
    "fairface_val",
    "fasseg",
    "ferplus",
    "find_set",
    "held_out",
    "landmarks68",
    "lfw",
    "no_faces",
    "nuaa",
    "real_fake",
    "thermal",
]

Text = NDArray[np.str_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def held_out(keys: Iterable[str], share: float) -> Mask:
    """(n,) bool: which rows are held out: those whose key is among the `share` of keys with the smallest
    hashes.

    Equal keys fall on the same side, so a key that names a person gives a person-disjoint split. The number
    of keys held out is exact, that of the rows as near as the people's numbers of pictures allow.
    """
    listed = list(keys)
    ranked = sorted(set(listed), key=lambda key: hashlib.sha256(key.encode()).digest())
    chosen = set(ranked[: round(share * len(ranked))])
    return np.array([key in chosen for key in listed], bool)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pictures to compare: rows of the set they belong to."""

    first: Ints
    second: Ints
    same: Mask
    fold: Ints

    def __len__(self) -> int:
        return len(self.same)

    def of_folds(self, folds: Iterable[int]) -> Pairs:
        """The pairs of some folds, in order."""
        keep = np.isin(self.fold, list(folds))
        return Pairs(self.first[keep], self.second[keep], self.same[keep], self.fold[keep])

    def _moved(self, rows: Ints, count: int) -> Pairs:
        """The pairs whose two pictures are both among `rows`, in the numbering of `rows`."""
        place = np.full(count, -1)
        place[rows] = np.arange(len(rows))
        first, second = place[self.first], place[self.second]
        keep = (first >= 0) & (second >= 0)
        return Pairs(first[keep], second[keep], self.same[keep], self.fold[keep])


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes in the pictures of a set: one row a box, in the order of the pictures.

    `xyxy` (m, 4) float32 pixels, `image` (m,) the row of its picture, `label` (m,).
    """

    xyxy: Floats
    image: Ints
    label: Text

    def __len__(self) -> int:
        return len(self.image)

    def of_image(self, row: int) -> Floats:
        """(k, 4) boxes of one picture, k may be 0."""
        boxes: Floats = self.xyxy[self.image == row]
        return boxes

    def _moved(self, rows: Ints, count: int) -> Boxes:
        index = [np.flatnonzero(self.image == row) for row in rows]
        order = np.concatenate(index) if index else np.zeros(0, np.int64)
        image = np.repeat(np.arange(len(rows)), [len(part) for part in index])
        return Boxes(self.xyxy[order], image, self.label[order])


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one set. Arrays of the subclasses have one row a picture; `Pairs` and `Boxes` point to
    rows.

    `names` are the files as the tables write them, `files` the paths.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Path of every picture, in the order of the rows."""
        return tuple(self.root / "images" / name for name in self.names)

    def picture(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, read from the disk now; errors as `mien.media.load_image`."""
        from mien.media import load_image

        return load_image(self.root / "images" / self.names[row])

    def take(self, rows: Mask | Ints | Sequence[int] | slice) -> Self:
        """The set of some rows, given as a mask, as numbers or as a slice.

        Pairs with a picture that was left out are left out; boxes follow their picture.
        """
        index = np.arange(len(self))[np.asarray(rows, np.int64) if isinstance(rows, list | tuple) else rows]
        changed: dict[str, Any] = {"names": tuple(self.names[row] for row in index)}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                changed[field.name] = value[index]
            elif isinstance(value, Pairs | Boxes):
                changed[field.name] = value._moved(index, len(self))
        return dataclasses.replace(self, **changed)


# --- Finding and reading --------------------------------------------------------------------------------


def find_set(name: str) -> Path:
    """Folder of an unpacked set: ``$MIEN_DATA/<name>``.

    Raises
    ------
    OptionError
        No reader knows a set of this name.
    MediaNotFound
        ``MIEN_DATA`` is not set, or the set has not been unpacked there.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, 1)
        raise OptionError(
            "No such set",
            got=name,
            expected=", ".join(sorted(READERS)),
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    home = os.environ.get("MIEN_DATA")
    if not home:
        raise MediaNotFound(
            f"The set {name!r} cannot be looked for, since MIEN_DATA does not say where the sets are",
            expected="the folder that holds one folder for each set",
            hint=f"unpack it (tar xf {name}.tar -C FOLDER), then: export MIEN_DATA=FOLDER",
        )
    root = Path(home).expanduser() / name
    if not root.is_dir():
        raise MediaNotFound(
            f"The set {name!r} is not unpacked",
            got=str(root),
            expected="a folder",
            hint=f"tar xf {name}.tar -C {Path(home).expanduser()}",
        )
    return root


def _root(name: str, given: str | os.PathLike[str] | None) -> Path:
    return find_set(name) if given is None else Path(given)


def _table(path: Path, *columns: str) -> dict[str, Text]:
    """Columns of a CSV file as text; every one in `columns` must be there, and every row must be whole."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except FileNotFoundError:
        raise TableError("A table of the set is missing", got=str(path), expected=path.name) from None
    except ValueError:
        raise TableError("A table is empty", got=str(path), expected=f"the columns {', '.join(columns)}") from None
    missing = [column for column in columns if column not in header]
    if missing:
        raise TableError(f"{path.name} lacks columns", got=", ".join(header), expected=", ".join(missing))
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise TableError(f"{path.name} line {line} is not whole", got=len(row), expected=f"{len(header)} fields")
    cells = np.array(rows, str).reshape(len(rows), len(header))
    return {column: cells[:, k] for k, column in enumerate(header)}


def _numbers(table: dict[str, Text], columns: Sequence[str], where: Path, *, empty: str = "nan") -> Floats:
    """(n, len(columns)) float32 of numeric columns."""
    try:
        cells = np.stack([table[column] for column in columns], 1)
        return np.where(cells == "", empty, cells).astype(np.float32)
    except KeyError as error:
        raise TableError(f"{where.name} lacks a column", got=", ".join(table), expected=error.args[0]) from None
    except ValueError as error:
        raise TableError(f"{where.name} holds what is not a number", got=str(error), expected="numbers") from None


def _points(table: dict[str, Text], count: int, where: Path) -> Floats:
    """(n, count, 2) float32 from the columns x0, y0, x1, ..."""
    columns = [f"{axis}{k}" for k in range(count) for axis in "xy"]
    return _numbers(table, columns, where).reshape(-1, count, 2)


def _names(table: dict[str, Text]) -> tuple[str, ...]:
    return tuple(str(name) for name in table["file"])


def _rows_of(names: Sequence[str], wanted: Iterable[str], where: Path) -> Ints:
    """Row of each wanted name."""
    place = {name: row for row, name in enumerate(names)}
    try:
        return np.array([place[str(name)] for name in wanted], np.int64)
    except KeyError as error:
        raise TableError(f"{where.name} names a picture that images.csv does not list", got=error.args[0]) from None


def _pairs(path: Path, names: Sequence[str]) -> Pairs:
    table = _table(path, "fold", "same", "a", "b")
    numbers = _numbers(table, ("fold", "same"), path)
    return Pairs(
        first=_rows_of(names, table["a"], path),
        second=_rows_of(names, table["b"], path),
        same=numbers[:, 1] == 1,
        fold=numbers[:, 0].astype(np.int64),
    )


def _chosen(split: str, held: Mask, held_name: str) -> Mask:
    """Rows of a split: "train", the held-out part by its name, or "all"."""
    parts = {"train": ~held, held_name: held, "all": np.ones_like(held)}
    if split not in parts:
        raise OptionError("No such split", got=split, expected=", ".join(parts))
    return parts[split]


# --- Sets ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FairFaceFaces(PictureSet):
    """Chips of 128 px with the teacher's embedding and 70 points in 3D.

    `embeddings` (n, 128) float32: dlib's face descriptor, as given (neither centred nor normalised).
    `points` (n, 70, 3) float32: 68 iBUG positions and two iris centres (the one at the left of the picture
    first), in pixels of the chip, z in the same unit and smaller when nearer; NaN where no mesh was found.
    """

    age: Text
    gender: Text
    race: Text
    embeddings: Floats
    points: Floats

    @property
    def five(self) -> Floats:
        """(n, 5, 2) eyes, nose tip and mouth corners, pixels; NaN where no mesh was found."""
        return _five(self.points)


def fairface_faces(
    root: str | os.PathLike[str] | None = None, *, split: Literal["train", "validation", "all"] = "all"
) -> FairFaceFaces:
    """29,978 aligned chips of FairFace's training part (CC BY 4.0); `split="validation"` is the held-out tenth."""
    folder = _root("fairface_faces", root)
    table = _table(folder / "images.csv", "file", "age", "gender", "race")
    names = _names(table)
    columns: dict[str, Floats] = {}
    for archive, key in (("embeddings", "embedding"), ("points", "xyz")):
        path = folder / f"{archive}.npz"
        if not path.is_file():
            raise TableError("A table of the set is missing", got=str(path), expected=path.name)
        with np.load(path, allow_pickle=False) as stored:
            files, values = stored["files"], stored[key]
        columns[archive] = values[_rows_of(files.tolist(), names, path)].astype(np.float32)
    chips = FairFaceFaces(
        root=folder, names=names, age=table["age"], gender=table["gender"], race=table["race"], **columns
    )
    return chips.take(_chosen(split, held_out(names, 0.1), "validation"))


@dataclass(frozen=True, eq=False)
class FairFaceVal(PictureSet):
    """Faces with three labels each."""

    age: Text
    gender: Text
    race: Text


def fairface_val(root: str | os.PathLike[str] | None = None) -> FairFaceVal:
    """420 adult faces of FairFace's validation part, 30 of each race group and gender (CC BY 4.0)."""
    folder = _root("fairface_val", root)
    table = _table(folder / "images.csv", "file", "age", "gender", "race")
    return FairFaceVal(folder, _names(table), age=table["age"], gender=table["gender"], race=table["race"])


@dataclass(frozen=True, eq=False)
class Lfw(PictureSet):
    """Pictures of 144 x 144 px. `gender` may be empty; `expression` is one student's label, noisy."""

    identity: Text
    gender: Text
    expression: Text
    pairs: Pairs


def lfw(root: str | os.PathLike[str] | None = None) -> Lfw:
    """Labeled Faces in the Wild, deep-funnelled: 3,811 pictures, 3,000 pairs of folds 1 to 5. Test only."""
    folder = _root("lfw", root)
    table = _table(folder / "images.csv", "file", "identity", "gender", "expression_student_label")
    names = _names(table)
    return Lfw(
        folder,
        names,
        identity=table["identity"],
        gender=table["gender"],
        expression=table["expression_student_label"],
        pairs=_pairs(folder / "pairs.csv", names),
    )


@dataclass(frozen=True, eq=False)
class Cfp(PictureSet):
    """Crops of 112 px; `pose` "frontal" or "profile"; `points` (n, 30, 2) of one half of the face, pixels."""

    identity: Text
    pose: Text
    points: Floats
    pairs_ff: Pairs
    pairs_fp: Pairs


def cfp(root: str | os.PathLike[str] | None = None) -> Cfp:
    """Celebrities in Frontal-Profile: 3,500 crops of 250 people; pairs FF and FP."""
    folder = _root("cfp", root)
    table = _table(folder / "images.csv", "file", "identity", "pose")
    names = _names(table)
    return Cfp(
        folder,
        names,
        identity=table["identity"],
        pose=table["pose"],
        points=_points(table, 30, folder / "images.csv"),
        pairs_ff=_pairs(folder / "pairs_FF.csv", names),
        pairs_fp=_pairs(folder / "pairs_FP.csv", names),
    )


@dataclass(frozen=True, eq=False)
class Landmarks68(PictureSet):
    """Crops of 112 px with `points` (n, 68, 2) in iBUG order, pixels, and the person's name."""

    identity: Text
    points: Floats

    @property
    def five(self) -> Floats:
        """(n, 5, 2) eyes, nose tip and mouth corners, pixels."""
        return _five(self.points)


def landmarks68(root: str | os.PathLike[str] | None = None, *, split: Literal["train", "test", "all"]) -> Landmarks68:
    """3,457 frames of YouTube Faces with 68 points.

    `split` has no default: nobody should train on the test people.
    """
    folder = _root("landmarks68", root)
    table = _table(folder / "images.csv", "file", "identity")
    faces = Landmarks68(
        folder, _names(table), identity=table["identity"], points=_points(table, 68, folder / "images.csv")
    )
    return faces.take(_chosen(split, held_out(faces.identity, 0.25), "test"))


@dataclass(frozen=True, eq=False)
class Detection(PictureSet):
    """Scenes of `size` (n, 2) width and height in pixels, with the boxes of their faces."""

    size: Ints
    boxes: Boxes


def detection(root: str | os.PathLike[str] | None = None, *, split: Literal["train", "test", "all"]) -> Detection:
    """300 scenes with 1,337 face boxes (CC0), most of them masked faces, from one face to crowds.

    Tiny faces in crowds are not always boxed. `split` has no default: nobody should train on the test
    quarter.
    """
    folder = _root("detection", root)
    table = _table(folder / "images.csv", "file", "width", "height")
    names = _names(table)
    path = folder / "boxes.csv"
    listed = _table(path, "file", "xmin", "ymin", "xmax", "ymax", "label")
    image = _rows_of(names, listed["file"], path)
    order = np.argsort(image, kind="stable")
    boxes = _numbers(listed, ("xmin", "ymin", "xmax", "ymax"), path)
    scenes = Detection(
        folder,
        names,
        size=_numbers(table, ("width", "height"), folder / "images.csv").astype(np.int64),
        boxes=Boxes(boxes[order], image[order], listed["label"][order]),
    )
    return scenes.take(_chosen(split, held_out(names, 0.25), "test"))


def no_faces(root: str | os.PathLike[str] | None = None) -> PictureSet:
    """220 pictures of BSDS500 without a face. Test only: no weight of this project has seen them."""
    folder = _root("no_faces", root)
    return PictureSet(folder, _names(_table(folder / "images.csv", "file")))


@dataclass(frozen=True, eq=False)
class CelebA(PictureSet):
    """Aligned pictures of 89 x 109 px; `attributes` (n, 40) bool in the order of `attribute_names`."""

    identity: Ints
    attributes: Mask
    attribute_names: tuple[str, ...]


def celeba10k(root: str | os.PathLike[str] | None = None) -> CelebA:
    """The first 10,000 aligned pictures of CelebA. Non-commercial research only; never passed on."""
    folder = _root("celeba10k", root)
    path = folder / "images.csv"
    table = _table(path, "file", "identity")
    attributes = tuple(name for name in table if name not in ("file", "identity"))
    return CelebA(
        folder,
        _names(table),
        identity=_numbers(table, ("identity",), path)[:, 0].astype(np.int64),
        attributes=_numbers(table, attributes, path) == 1,
        attribute_names=attributes,
    )


@dataclass(frozen=True, eq=False)
class People(PictureSet):
    """Pictures with the name of the person."""

    identity: Text


def celeb24(root: str | os.PathLike[str] | None = None) -> People:
    """2,158 aligned crops (112 px) of 23 people, a few percent of them wrong. Non-commercial research."""
    folder = _root("celeb24", root)
    table = _table(folder / "images.csv", "file", "identity")
    return People(folder, _names(table), identity=table["identity"])


@dataclass(frozen=True, eq=False)
class FerPlus(PictureSet):
    """Faces of 48 px with `votes` (n, 10) of ten people, columns `vote_names`; `split` is the set's own."""

    split: Text
    votes: Ints
    vote_names: tuple[str, ...]


def ferplus(root: str | os.PathLike[str] | None = None) -> FerPlus:
    """8,744 faces of FER2013 with the votes of FER+: training part (re-balanced) and validation part."""
    folder = _root("ferplus", root)
    path = folder / "images.csv"
    table = _table(path, "file", "split")
    votes = tuple(name for name in table if name not in ("file", "split"))
    return FerPlus(
        folder, _names(table), split=table["split"], votes=_numbers(table, votes, path).astype(np.int64),
        vote_names=votes,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Fasseg(PictureSet):
    """Faces with a mask of classes, `part` ("frontal" or "multipose"), the set's `split`, `pan` in degrees."""

    mask_names: Text
    part: Text
    split: Text
    pan: Floats
    person: Text
    class_names: tuple[str, ...]

    def mask(self, row: int) -> NDArray[np.uint8]:
        """(H, W) uint8 class of every pixel, a number into `class_names`, read from the disk now."""
        from PIL import Image

        with Image.open(self.root / "masks" / str(self.mask_names[row])) as file:
            return np.array(file, np.uint8)


def fasseg(root: str | os.PathLike[str] | None = None) -> Fasseg:
    """258 faces with masks of 6 classes and the head's pan angle."""
    folder = _root("fasseg", root)
    path = folder / "images.csv"
    table = _table(path, "file", "mask", "part", "split", "pan_degrees", "person")
    return Fasseg(
        folder,
        _names(table),
        mask_names=table["mask"],
        part=table["part"],
        split=table["split"],
        pan=_numbers(table, ("pan_degrees",), path)[:, 0],
        person=table["person"],
        class_names=tuple(str(name) for name in _table(folder / "classes.csv", "index", "name")["name"]),
    )


@dataclass(frozen=True, eq=False)
class Nuaa(PictureSet):
    """Faces of 128 px, `live` or a printed photograph, with `split`, `subject` and `session` of the set."""

    live: Mask
    split: Text
    subject: Text
    session: Text


def nuaa(root: str | os.PathLike[str] | None = None) -> Nuaa:
    """594 live and 612 printed faces of 10 people, cut out with a margin of 1.3 (research)."""
    folder = _root("nuaa", root)
    table = _table(folder / "images.csv", "file", "split", "label", "subject", "session")
    return Nuaa(
        folder, _names(table), live=table["label"] == "live", split=table["split"], subject=table["subject"],
        session=table["session"],
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RealFake(PictureSet):
    """Faces of 224 px: photographs (`real`) or made by StyleGAN2."""

    real: Mask


def real_fake(root: str | os.PathLike[str] | None = None) -> RealFake:
    """183 photographs of FFHQ and 104 faces made by StyleGAN2 (non-commercial)."""
    folder = _root("real_fake", root)
    table = _table(folder / "images.csv", "file", "label")
    return RealFake(folder, _names(table), real=table["label"] == "real")


@dataclass(frozen=True, eq=False)
class Thermal(PictureSet):
    """Long-wave infrared faces of 103 x 120 px; `part` is "gallery" or the kind of probe."""

    subject: Text
    part: Text


def thermal(root: str | os.PathLike[str] | None = None) -> Thermal:
    """213 infrared faces of 40 people."""
    folder = _root("thermal", root)
    table = _table(folder / "images.csv", "file", "subject", "part")
    return Thermal(folder, _names(table), subject=table["subject"], part=table["part"])


@dataclass(frozen=True, eq=False)
class Cifar10(PictureSet):
    """Pictures of 32 px; `label` (n,) 0..9, `votes` (n, 10) of about fifty people each."""

    label: Ints
    votes: Ints
    class_names: tuple[str, ...]


def cifar10_test(root: str | os.PathLike[str] | None = None) -> Cifar10:
    """The 10,000 test pictures of CIFAR-10 with the human votes of CIFAR-10H."""
    folder = _root("cifar10_test", root)
    path = folder / "images.csv"
    table = _table(path, "file", "label", "class")
    columns = tuple(name for name in table if name.startswith("human_"))
    return Cifar10(
        folder,
        _names(table),
        label=_numbers(table, ("label",), path)[:, 0].astype(np.int64),
        votes=_numbers(table, columns, path, empty="0").astype(np.int64),
        class_names=tuple(name.removeprefix("human_") for name in columns),
    )


def _five(points: Floats) -> Floats:
    from mien.geometry.landmarks import five_from_68

    five = np.full((len(points), 5, 2), np.nan, np.float32)
    known = np.isfinite(points).all((1, 2))
    five[known] = five_from_68(points[known, :68, :2])
    return five


READERS: dict[str, Callable[..., PictureSet]] = {
    reader.__name__: reader
    for reader in (
        celeb24, celeba10k, cfp, cifar10_test, detection, fairface_faces, fairface_val, fasseg, ferplus,
        landmarks68, lfw, no_faces, nuaa, real_fake, thermal,
    )
}  # fmt: skip
"""Reader of each set, by the set's name, which is also the name of its folder."""
