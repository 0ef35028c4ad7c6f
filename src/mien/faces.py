"""`Faces`, the one result that every verb takes or gives: a read-only struct of arrays, one row a face.

    faces = mien.analyze(["a.jpg", "b.jpg"])
    faces.boxes                      (n, 4) corners in pixels of the picture
    faces[faces.scores > 0.9]        boolean mask, slice, index or list of indices: again `Faces`
    faces.images[faces.image[0]]     the picture that row 0 comes from
    faces.failures                   the pictures that could not be read, and why
    faces.embeddings                 raises MissingColumn, naming the verb, when nobody has filled it

Only numpy is needed here, so that whoever consumes results needs no torch.
"""

from __future__ import annotations

import base64
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import (
    DtypeError,
    InputError,
    MienError,
    MissingColumn,
    MissingExtra,
    NoFaceFound,
    OptionError,
    ShapeError,
    TableError,
    ValueRangeError,
)

if TYPE_CHECKING:
    import pandas

__all__ = [
    "AFFECT",
    "AGES",
    "APPEARANCE",
    "COVERS",
    "EXPRESSIONS",
    "LANDMARKS5",
    "PARSING",
    "Column",
    "Columns",
    "Faces",
    "Failure",
    "ImageInfo",
]

LANDMARKS5 = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""Order of `Faces.landmarks5`; left and right as seen in the picture."""

AGES = ("20-29", "30-39", "40-49", "50-59", "60-69", "70+")
"""Of `Faces.age_groups`, in years: the groups of FairFace's adults."""
EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
"""Of `Faces.expressions`, in the order of FER+."""
AFFECT = ("valence", "arousal")
"""Of `Faces.affect`: how pleasant, and how stirred."""
APPEARANCE = (
    "bags_under_eyes", "bald", "bangs", "beard", "black_hair", "blond_hair", "brown_hair", "eyeglasses", "goatee",
    "gray_hair", "heavy_makeup", "mouth_open", "mustache", "receding_hairline", "rosy_cheeks", "sideburns", "smiling",
    "wearing_earrings", "wearing_hat", "wearing_lipstick",
)  # fmt: skip
"""Of `Faces.appearance`: what can be seen of a face at that moment; nothing that judges it."""
COVERS = ("mask", "hand", "sunglasses")
"""Of `Faces.covers`."""
PARSING = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""Classes of `Faces.parsing`, by number: those of CelebAMask-HQ; left and right as seen in the picture."""

Array = NDArray[Any]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class ImageInfo:
    """One picture that was read.

    Parameters
    ----------
    source
        Path, or a name such as ``array[2]`` for what has no path.
    width, height
        Size in pixels as decoded and turned upright.
    time_s
        Time stamp in seconds for a frame of a video.
    """

    source: str
    width: int
    height: int
    time_s: float | None = None


@dataclass(frozen=True)
class Failure:
    """One picture that could not be read.

    Parameters
    ----------
    source
        Path, or a name for what has no path.
    error
        The full message.
    code
        Stable name of the kind of error, such as ``corrupt_media``.
    hint
        What to do.
    """

    source: str
    error: str
    code: str
    hint: str | None = None

    @classmethod
    def of(cls, source: str, error: MienError) -> Self:
        """The failure that `error` means for `source`."""
        return cls(source, str(error), error.code, error.hint)


class Column(Generic[T]):
    """Declaration of a column of `Faces`: type, shape of one row, the verb that fills it, and its range.

    In `shape` a number is fixed and None is free. `names` are those of a row's numbers, which JSON then shows.
    """

    def __init__(
        self,
        dtype: type[T],
        shape: tuple[int | None, ...],
        *,
        verb: str,
        key: str,
        low: float | None = None,
        high: float | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self.names = names
        self.dtype: np.dtype[T] = np.dtype(dtype)
        self.shape = shape
        self.verb = verb
        self.key = key
        self.low = low
        self.high = high
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, faces: None, owner: type) -> Self: ...
    @overload
    def __get__(self, faces: Faces, owner: type) -> NDArray[T]: ...
    def __get__(self, faces: Faces | None, owner: type) -> Self | NDArray[T]:
        if faces is None:
            return self
        try:
            return faces._columns[self.name]
        except KeyError:
            raise MissingColumn(self.name, verb=self.verb, columns=faces.columns) from None

    def checked(self, value: ArrayLike, rows: int | None) -> NDArray[T]:
        """`value` as a read-only array of the declared type, shape and range."""
        array = frozen(value, self.dtype, self.name)
        shape = ("n" if rows is None else rows, *("any" if size is None else size for size in self.shape))
        fits = array.ndim == len(shape) and all(
            want is None or have == want for have, want in zip(array.shape[1:], self.shape, strict=True)
        )
        if not fits or (rows is not None and len(array) != rows):
            raise ShapeError(
                f"the column {self.name!r} has the wrong shape",
                got=array.shape,
                expected=f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})",
                hint="give one row for each face",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueRangeError(
                f"the column {self.name!r} holds NaN or infinity",
                got=array,
                hint="leave out the rows it stands in",
            )
        too_low = self.low is not None and array.size > 0 and array.min() < self.low
        too_high = self.high is not None and array.size > 0 and array.max() > self.high
        if too_low or too_high:
            high = "" if self.high is None else f" and at most {self.high:g}"
            raise ValueRangeError(
                f"the column {self.name!r} is out of range",
                got=f"{array.min():g} to {array.max():g}",
                expected=f"at least {self.low:g}{high}",
            )
        return array


class Columns(Mapping[str, Array]):
    """Read-only named columns, (n, …) each; a name that is not there raises MissingColumn."""

    __slots__ = ("_arrays", "_prefix", "_verb")

    def __init__(self, arrays: Mapping[str, Array], *, prefix: str, verb: str | None = None) -> None:
        self._arrays = dict(arrays)
        self._prefix = prefix
        self._verb = verb

    def __getitem__(self, name: str) -> Array:
        try:
            return self._arrays[name]
        except KeyError:
            there = [f"{self._prefix}.{other}" for other in self._arrays]
            raise MissingColumn(f"{self._prefix}.{name}", verb=self._verb, columns=there) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"{self._prefix}({', '.join(self._arrays)})"


class Faces:
    """Faces found in one or many pictures: a read-only struct of arrays, one row a face.

    Only `image` must be given. A column that was not given is absent: reading it raises MissingColumn with
    the name of the verb that fills it, and ``hasattr(faces, "embeddings")`` tells. Arrays that can be written
    to are copied, so that nobody changes a result from outside.

    Parameters
    ----------
    image, boxes, scores, landmarks5, landmarks, landmarks3d, pose, quality, age, age_groups, expressions, affect, \
    appearance, covers, parsing, parsing_matrix, embeddings, crops
        The columns, see the attributes of the same names.
    quality_components
        Named parts of the quality, (n,) each.
    data
        Named columns for anything else, (n, …) each.
    images
        The pictures that were read; `image` points into it.
    failures
        The pictures that could not be read.
    contract
        Identity of the embedding: only embeddings of the same contract can be compared.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        A column does not fit its declaration: one row for each face, finite numbers, boxes with x0 <= x1 and
        y0 <= y1, embeddings of length one, `image` inside `images`.
    """

    __slots__ = ("_columns", "contract", "data", "failures", "images", "quality_components")

    image = Column(np.int32, (), verb="detect", key="image", low=0)
    """(n,) int32. Index into `images` of the picture that the face is in."""

    boxes = Column(np.float32, (4,), verb="detect", key="box")
    """(n, 4) float32. Corners x0, y0, x1, y1 in pixels; may reach over the border."""

    scores = Column(np.float32, (), verb="detect", key="score", low=0, high=1)
    """(n,) float32 in 0 to 1. How sure the detector is."""

    landmarks5 = Column(np.float32, (5, 2), verb="detect", key="landmarks5")
    """(n, 5, 2) float32 in pixels. The points of `LANDMARKS5`; left and right as seen in the picture."""

    landmarks = Column(np.float32, (None, 2), verb="analyze", key="landmarks")
    """(n, k, 2) float32. Points in pixels; with k = 70 the 68 of iBUG and the two iris centres."""

    landmarks3d = Column(np.float32, (None, 3), verb="analyze", key="landmarks3d")
    """(n, k, 3) float32. The same in 3D; x, y in pixels, z in the same unit, smaller is nearer."""

    pose = Column(np.float32, (3,), verb="analyze", key="pose", low=-180, high=180)
    """(n, 3) float32 in degrees. Yaw (> 0: right in the picture), pitch (> 0: up), roll (> 0: clockwise)."""

    quality = Column(np.float32, (), verb="analyze", key="quality", low=0, high=1)
    """(n,) float32 in 0 to 1. How well the face can be recognised."""

    age = Column(np.float32, (), verb="analyze", key="age", low=0, high=120)
    """(n,) float32 years. How old a face looks. Of the bundled reader the mean over `age_groups`, for adults alone, so
    never below 25 nor above 75."""

    age_groups = Column(np.float32, (6,), verb="analyze", key="age_groups", low=0, high=1, names=AGES)
    """(n, 6) float32. Probability of each of `AGES`."""

    expressions = Column(np.float32, (8,), verb="analyze", key="expressions", low=0, high=1, names=EXPRESSIONS)
    """(n, 8) float32. Probability that ten annotators would say each of `EXPRESSIONS`; not what somebody feels."""

    affect = Column(np.float32, (2,), verb="analyze", key="affect", low=-1, high=1, names=AFFECT)
    """(n, 2) float32 in -1 to 1. Valence and arousal that the face shows."""

    appearance = Column(np.float32, (20,), verb="analyze", key="appearance", low=0, high=1, names=APPEARANCE)
    """(n, 20) float32. Probability of each of `APPEARANCE`."""

    covers = Column(np.float32, (3,), verb="analyze", key="covers", low=0, high=1, names=COVERS)
    """(n, 3) float32. Probability that each of `COVERS` hides a part of the face."""

    parsing = Column(np.uint8, (None, None), verb="analyze", key="parsing")
    """(n, h, w) uint8. Class of each pixel of an upright crop of the head, a number into `PARSING`."""

    parsing_matrix = Column(np.float32, (2, 3), verb="analyze", key="parsing_matrix")
    """(n, 2, 3) float32. From pixels of the picture to those of `parsing`; `mien.media.parsing_mask` undoes it."""

    embeddings = Column(np.float32, (None,), verb="embed", key="embedding")
    """(n, d) float32 of length one. Their dot product is the similarity."""

    crops = Column(np.uint8, (None, None, 3), verb="align", key="crop")
    """(n, h, w, 3) uint8 RGB. The aligned faces, 112 x 112 unless asked otherwise."""

    quality_components: Columns
    """{name: (n,) float32}. The parts of the quality, named after ISO/IEC 29794-5."""

    data: Columns
    """{name: (n, …)}. Whatever else a verb adds."""

    images: tuple[ImageInfo, ...]
    failures: tuple[Failure, ...]
    contract: str | None

    _columns: dict[str, Array]
    DECLARED: ClassVar[dict[str, Column[Any]]]

    def __init__(
        self,
        *,
        image: ArrayLike,
        boxes: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        landmarks5: ArrayLike | None = None,
        landmarks: ArrayLike | None = None,
        landmarks3d: ArrayLike | None = None,
        pose: ArrayLike | None = None,
        quality: ArrayLike | None = None,
        age: ArrayLike | None = None,
        age_groups: ArrayLike | None = None,
        expressions: ArrayLike | None = None,
        affect: ArrayLike | None = None,
        appearance: ArrayLike | None = None,
        covers: ArrayLike | None = None,
        parsing: ArrayLike | None = None,
        parsing_matrix: ArrayLike | None = None,
        embeddings: ArrayLike | None = None,
        crops: ArrayLike | None = None,
        quality_components: Mapping[str, ArrayLike] | None = None,
        data: Mapping[str, ArrayLike] | None = None,
        images: Iterable[ImageInfo] = (),
        failures: Iterable[Failure] = (),
        contract: str | None = None,
    ) -> None:
        given = {
            "image": image, "boxes": boxes, "scores": scores, "landmarks5": landmarks5,
            "landmarks": landmarks, "landmarks3d": landmarks3d, "pose": pose,
            "quality": quality, "age": age, "age_groups": age_groups, "expressions": expressions,
            "affect": affect, "appearance": appearance, "covers": covers, "parsing": parsing,
            "parsing_matrix": parsing_matrix, "embeddings": embeddings, "crops": crops,
        }  # fmt: skip
        index = self.DECLARED["image"].checked(image, None)
        columns = {
            name: index if name == "image" else self.DECLARED[name].checked(value, len(index))
            for name, value in given.items()
            if value is not None
        }
        _check_boxes(columns.get("boxes"))
        _check_lengths(columns.get("embeddings"))
        images = tuple(images)
        if len(index) and index.max() >= len(images):
            raise ValueRangeError(
                "the column 'image' points outside of images",
                got=f"index {index.max()} with {len(images)} images",
                hint="give one ImageInfo for each picture",
            )
        parts = _named(quality_components or {}, len(index), "quality_components", np.dtype(np.float32))
        extra = _named(data or {}, len(index), "data", None)
        self._fill(columns, parts, extra, images, tuple(failures), contract)

    def _fill(
        self,
        columns: dict[str, Array],
        parts: Mapping[str, Array],
        extra: Mapping[str, Array],
        images: tuple[ImageInfo, ...],
        failures: tuple[Failure, ...],
        contract: str | None,
    ) -> None:
        """Sets the slots, past the lock that `__setattr__` is."""
        put = object.__setattr__
        put(self, "_columns", columns)
        put(self, "quality_components", Columns(parts, prefix="quality_components", verb="analyze"))
        put(self, "data", Columns(extra, prefix="data"))
        put(self, "images", images)
        put(self, "failures", failures)
        put(self, "contract", contract)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Faces cannot be changed; use faces.with_columns({name}=...), which gives a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Faces cannot be changed; use faces.without_columns({name!r}), which gives a new one")

    @classmethod
    def empty(cls, *, images: Iterable[ImageInfo] = (), failures: Iterable[Failure] = ()) -> Faces:
        """No faces, with the columns that a detector fills."""
        return cls(
            image=np.zeros(0, np.int32),
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            landmarks5=np.zeros((0, 5, 2), np.float32),
            images=images,
            failures=failures,
        )

    @classmethod
    def concat(cls, parts: Iterable[Faces]) -> Faces:
        """One after another; the images of later parts get higher indices.

        Parts without a row give their images and failures and may lack columns; all others have the same.

        Raises
        ------
        TableError
            The parts have different columns, or one is text in some and numbers in others.
        ShapeError
            A column has a different width in two parts.
        InputError
            The embeddings come from different contracts.
        """
        every = list(parts)
        if not every:
            return cls.empty()
        # With no row anywhere the part that knows most columns speaks for all.
        telling = [part for part in every if len(part)] or [max(every, key=lambda part: len(part.columns))]
        names = telling[0].columns
        for part in telling[1:]:
            if set(part.columns) != set(names):
                raise TableError(
                    "these faces cannot be joined: their columns differ",
                    got=f"{', '.join(sorted(set(part.columns) ^ set(names)))} only in some",
                    hint="run the same verbs on all of them, or drop columns with without_columns(...)",
                )
        contracts = {part.contract for part in telling if part.contract is not None}
        if len(contracts) > 1:
            raise InputError(
                "these faces cannot be joined: their embeddings come from different weights",
                got=sorted(contracts),
                hint="embed all pictures with the same weights",
            )
        joined = {}
        for name in names:
            pieces = [part.column(name) for part in telling]
            if name == "image":
                pieces = _shifted(every)
            if len({piece.shape[1:] for piece in pieces}) > 1:
                raise ShapeError(
                    f"these faces cannot be joined: the column {name!r} has different widths",
                    got=sorted({piece.shape[1:] for piece in pieces}),
                    hint="run the same verb with the same options on all of them",
                )
            if len({piece.dtype.kind == "U" for piece in pieces}) > 1:  # numpy would make text of the numbers
                raise TableError(
                    f"these faces cannot be joined: the column {name!r} is text in some and numbers in others",
                    got=sorted({str(piece.dtype) for piece in pieces}),
                    hint="make it the same type in all of them",
                )
            joined[name] = _locked(np.concatenate(pieces))
        images = tuple(info for part in every for info in part.images)
        failures = tuple(failure for part in every for failure in part.failures)
        return _of_columns(joined, images, failures, next(iter(contracts), None))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are filled; named parts are dotted: ``quality_components.sharpness``."""
        return (
            *self._columns,
            *(f"quality_components.{name}" for name in self.quality_components),
            *(f"data.{name}" for name in self.data),
        )

    def column(self, name: str) -> Array:
        """The column of that name, dotted names included; MissingColumn if nobody has filled it."""
        group, dot, part = name.partition(".")
        if dot and group == "quality_components":
            return self.quality_components[part]
        if dot and group == "data":
            return self.data[part]
        if name in self._columns:
            return self._columns[name]
        declared = self.DECLARED.get(name)
        raise MissingColumn(name, verb=declared.verb if declared else None, columns=self.columns)

    def with_columns(
        self,
        *,
        quality_components: Mapping[str, ArrayLike] | None = None,
        data: Mapping[str, ArrayLike] | None = None,
        contract: str | None = None,
        **columns: ArrayLike,
    ) -> Faces:
        """The same faces with columns added or replaced; `quality_components` and `data` merge by name."""
        for name in columns:
            if name not in self.DECLARED:
                raise OptionError.unknown("Faces has no such column; others go into data={...}", name, self.DECLARED)
        merged: dict[str, Any] = {**self._columns, **columns}
        return Faces(
            **merged,
            quality_components={**self.quality_components, **(quality_components or {})},
            data={**self.data, **(data or {})},
            images=self.images,
            failures=self.failures,
            contract=self.contract if contract is None else contract,
        )

    def without_columns(self, *names: str) -> Faces:
        """The same faces without these columns; a group name drops all its parts. `image` always stays."""
        for name in names:
            if name == "image" or not any(has == name or has.startswith(f"{name}.") for has in self.columns):
                raise OptionError.unknown("no such column to leave out", name, self.columns[1:])
        kept = {
            name: self.column(name)
            for name in self.columns
            if name not in names and name.partition(".")[0] not in names
        }
        contract = None if "embeddings" in names else self.contract
        return _of_columns(kept, self.images, self.failures, contract)

    def with_images(self, images: Iterable[ImageInfo], failures: Iterable[Failure] | None = None) -> Faces:
        """The same faces with other images (of the same number or more) and, if given, other failures."""
        return Faces(
            **{name: self._columns[name] for name in self._columns},
            quality_components=self.quality_components,
            data=self.data,
            images=images,
            failures=self.failures if failures is None else failures,
            contract=self.contract,
        )

    def __len__(self) -> int:
        return len(self._columns["image"])

    def __iter__(self) -> Iterator[Faces]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice | Sequence[int] | Sequence[bool] | Array) -> Faces:
        """Rows as `Faces`, by index (one row), slice, boolean mask or indices; images and failures stay."""
        rows: slice | Array
        if isinstance(key, slice):
            rows = key
        elif isinstance(key, bool | np.bool_):  # numbers to Python, but nobody means row 1 by True
            raise DtypeError("faces cannot be chosen by a single truth value", got=key, expected="a row or a mask")
        elif hasattr(key, "__index__") and getattr(key, "ndim", 0) == 0:
            row = operator.index(key)
            if not -len(self) <= row < len(self):
                raise IndexError(f"face {row} of {len(self)}")
            rows = slice(row % len(self), row % len(self) + 1)
        else:
            rows = np.asarray(key)
            if rows.size == 0 and rows.dtype.kind == "f":  # what numpy makes of an empty list
                rows = rows.astype(np.intp)
            if rows.ndim != 1 or (rows.dtype.kind == "b" and len(rows) != len(self)):
                raise ShapeError(
                    "faces cannot be chosen by this array",
                    got=rows,
                    expected=f"a boolean mask of shape ({len(self)},) or a row of indices",
                )
            if rows.dtype.kind not in "bui":
                raise DtypeError("faces cannot be chosen by this array", got=rows, expected="booleans or integers")
        chosen = {name: _locked(self.column(name)[rows]) for name in self.columns}
        return _of_columns(chosen, self.images, self.failures, self.contract)

    def of_image(self, index: int) -> Faces:
        """The faces in picture `index` of `images`."""
        if not 0 <= index < len(self.images):
            raise ValueRangeError("no such picture", got=index, expected=f"0 to {len(self.images) - 1}")
        return self[self.image == index]

    def sort_by(self, key: str | ArrayLike, *, descending: bool = True) -> Faces:
        """Sorted by a column of one number a face, ``"area"`` of the box, or an (n,) array; stable."""
        if isinstance(key, str):
            values = self.areas if key == "area" else self.column(key)
        else:
            values = np.asarray(key)
        if values.shape != (len(self),):
            raise ShapeError(
                "faces can only be sorted by one number a face",
                got=values.shape if not isinstance(key, str) else f"{key} of shape {values.shape}",
                expected=f"({len(self)},)",
            )
        order = np.argsort(values, kind="stable")
        if descending:  # stable from the other side too, so that equal faces keep their order
            order = len(self) - 1 - np.argsort(values[::-1], kind="stable")[::-1]
        return self[order]

    @property
    def areas(self) -> NDArray[np.float32]:
        """(n,) Area of the boxes in square pixels."""
        boxes = self.boxes
        areas: NDArray[np.float32] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return areas

    def largest(self) -> Faces:
        """The one face with the largest box; NoFaceFound if there is none."""
        if not len(self):
            raise NoFaceFound("there is no face to take the largest of")
        return self[int(np.argmax(self.areas))]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Faces):
            return NotImplemented
        return (
            set(self.columns) == set(other.columns)
            and (self.images, self.failures, self.contract) == (other.images, other.failures, other.contract)
            and all(_same(self.column(name), other.column(name)) for name in self.columns)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shapes = [f"{name} {self.column(name).shape}" for name in self.columns]
        ends = [f"{len(self.failures)} failures"] if self.failures else []
        return f"Faces({len(self)} in {len(self.images)} images; {'; '.join([', '.join(shapes), *ends])})"

    def __reduce__(self) -> tuple[Any, ...]:
        columns = {name: self.column(name) for name in self.columns}
        return _of_columns, (columns, self.images, self.failures, self.contract)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, complete: `from_dict` gives the same faces back.

        Keys: ``images``, ``failures``, ``contract``, ``columns`` (type and row shape of each) and ``faces``,
        one dict a face with ``image``, ``box``, ``score``, ``landmarks5``, …
        Crops and parsing are base64 of their bytes; probabilities stand beside their names.
        """
        keys = {name: column.key for name, column in self.DECLARED.items()}
        rows: list[dict[str, Any]] = [{} for _ in range(len(self))]
        for name in self.columns:
            group, dot, part = name.partition(".")
            for row, value in zip(rows, _plain(name, self.column(name)), strict=True):
                if dot:
                    row.setdefault(group, {})[part] = value
                else:
                    names = self.DECLARED[name].names
                    row[keys[name]] = dict(zip(names, value, strict=True)) if names else value
        return {
            "images": [asdict(info) for info in self.images],
            "failures": [asdict(failure) for failure in self.failures],
            "contract": self.contract,
            "columns": {
                name: {"dtype": _dtype_name(self.column(name).dtype), "shape": [*self.column(name).shape[1:]]}
                for name in self.columns
            },
            "faces": rows,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Faces:
        """The faces that `to_dict` wrote; TableError if it did not."""
        try:
            images = [ImageInfo(**info) for info in plain["images"]]
            failures = [Failure(**failure) for failure in plain["failures"]]
            rows = plain["faces"]
            columns: dict[str, Any] = {"quality_components": {}, "data": {}}
            for name, form in plain["columns"].items():
                group, dot, part = name.partition(".")
                dtype, shape = np.dtype(form["dtype"]), (len(rows), *form["shape"])
                if dot:
                    columns[group][part] = _array(name, [row[group][part] for row in rows], dtype, shape)
                else:
                    key, names = cls.DECLARED[name].key, cls.DECLARED[name].names
                    values = [[row[key][each] for each in names] if names else row[key] for row in rows]
                    columns[name] = _array(name, values, dtype, shape)
            return cls(**columns, images=images, failures=failures, contract=plain["contract"])
        except MienError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise TableError(
                "this is not what Faces.to_dict writes",
                got=f"{type(error).__name__}: {error}",
                expected=["images", "failures", "contract", "columns", "faces"],
                hint="write it with Faces.to_dict() or Faces.to_json()",
            ) from error

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Faces:
        """The faces that `to_json` wrote; TableError if it did not."""
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise TableError("this is not JSON", got=text, hint="write it with Faces.to_json()") from error
        if not isinstance(plain, dict):
            raise TableError("this is not what Faces.to_json writes", got=text, expected="a JSON object")
        return cls.from_dict(plain)

    def to_pandas(self) -> pandas.DataFrame:
        """A table, one row a face: source, time_s, x0 … y1, score, left_eye_x …, yaw, pitch, roll, quality, …

        Points and embeddings are lists in one cell (points flattened: x, y, x, y …). Pictures do not belong
        in a table, so crops and parsing are left out. MissingExtra without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("pandas", extra="tables") from error

        table: dict[str, Any] = {
            "source": [self.images[index].source for index in self.image],
            "time_s": np.array([np.nan if (t := self.images[i].time_s) is None else t for i in self.image], np.float64),
        }
        spread = {
            "boxes": ("x0", "y0", "x1", "y1"),
            "landmarks5": tuple(f"{point}_{axis}" for point in LANDMARKS5 for axis in "xy"),
            "pose": ("yaw", "pitch", "roll"),
        }
        for name in self.columns:
            array = self.column(name)
            flat = array.reshape(len(self), math.prod(array.shape[1:]))
            label = name.replace("quality_components.", "quality_").removeprefix("data.")
            if name in ENCODED:
                continue
            names = self.DECLARED[name].names if name in self.DECLARED else ()
            if names:
                table |= {each if name == "affect" else f"{name}_{each}": flat[:, at] for at, each in enumerate(names)}
                continue
            if name in spread:
                table |= {part: flat[:, at] for at, part in enumerate(spread[name])}
                continue
            if name in self.DECLARED:
                label = self.DECLARED[name].key
            elif label in table:  # named like a column that is there; both are kept
                label = name
            table[label] = array if array.ndim == 1 else list(flat)
        return pandas.DataFrame(table)


ENCODED = ("crops", "parsing")
"""Columns of pictures."""

Faces.DECLARED = {name: column for name, column in vars(Faces).items() if isinstance(column, Column)}


def frozen(value: ArrayLike, dtype: np.dtype[T] | None, name: str) -> NDArray[T]:
    """`value` as a read-only array; copied if somebody could still write to it.

    Numbers may become other numbers of the same kind or a wider one (integers may become floats); pictures,
    texts and objects may not, since that is a mistake more often than a wish.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DtypeError(f"the column {name!r} is no array", got=value, hint="give a rectangular array") from error
    wanted = array.dtype.newbyteorder("=") if dtype is None else dtype
    if array.size == 0 and array.dtype == np.float64 and not isinstance(value, np.ndarray):
        array = array.astype(wanted)  # what numpy makes of an empty list
    allowed = {"f": "fiu", "i": "iu", "u": "u"}.get(wanted.kind, wanted.kind)
    if (
        array.dtype.kind not in allowed
        or (wanted == np.uint8 and array.dtype != np.uint8)
        or wanted.kind not in "fiubU"
    ):
        raise DtypeError(
            f"the column {name!r} has the wrong type",
            got=array.dtype,
            expected=wanted if wanted.kind in "fiubU" else "real numbers, booleans or text",
            hint="convert it first",
        )
    if wanted.kind == "i" and array.size and not np.can_cast(array.dtype, wanted):
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueRangeError(f"the column {name!r} does not fit {wanted}", got=f"{array.min()} to {array.max()}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which the caller reports
        converted: NDArray[T] = np.asarray(array, dtype=wanted, order="C")
    if np.shares_memory(converted, array) and _writable(array):
        converted = converted.copy()
    converted.flags.writeable = False
    return converted


def _writable(array: Array) -> bool:
    """Whether somebody can still write to its memory; a read-only view does not keep the owner from it."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return not (owner is None or isinstance(owner, bytes))


def _locked(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _shifted(parts: Sequence[Faces]) -> list[Array]:
    """The `image` column of each part, pointing into all images one after another."""
    starts = np.cumsum([0, *(len(part.images) for part in parts)], dtype=np.int32)
    return [part.image + start for part, start in zip(parts, starts[:-1], strict=True)]


def _named(group: Mapping[str, ArrayLike], rows: int, prefix: str, dtype: np.dtype[Any] | None) -> dict[str, Array]:
    arrays = {}
    for name, value in group.items():
        if not str(name) or "." in str(name):
            raise OptionError(f"the name of a column in {prefix} must be text without a dot", got=name)
        array = frozen(value, dtype, f"{prefix}.{name}")
        if array.ndim == 0 or len(array) != rows or (dtype is not None and array.ndim != 1):
            raise ShapeError(
                f"the column '{prefix}.{name}' has the wrong shape",
                got=array.shape,
                expected=f"({rows},)" if dtype is not None else f"({rows}, …)",
                hint="give one row for each face",
            )
        if dtype is not None and not np.isfinite(array).all():
            raise ValueRangeError(f"the column '{prefix}.{name}' holds NaN or infinity", got=array)
        arrays[name] = array
    return arrays


def _check_boxes(boxes: Array | None) -> None:
    if boxes is not None and (boxes[:, 2:] < boxes[:, :2]).any():
        row = int(np.argmax((boxes[:, 2:] < boxes[:, :2]).any(axis=1)))
        raise ValueRangeError(
            "a box has its corners in the wrong order",
            got=f"{boxes[row].tolist()} in row {row}",
            expected="x0, y0, x1, y1 with x0 <= x1 and y0 <= y1",
            hint="convert from x, y, width, height first",
        )


def _check_lengths(embeddings: Array | None) -> None:
    # A hundredth leaves room for embeddings that were stored as float16.
    if embeddings is not None and len(embeddings):
        off = np.abs(np.linalg.norm(embeddings, axis=1) - 1)
        if off.max() > 1e-2:
            row = int(np.argmax(off))
            raise ValueRangeError(
                "an embedding does not have the length one",
                got=f"length {np.linalg.norm(embeddings[row]):.4g} in row {row}",
                hint="divide each row by its length",
            )


def _of_columns(
    columns: Mapping[str, Array],
    images: tuple[ImageInfo, ...],
    failures: tuple[Failure, ...],
    contract: str | None,
) -> Faces:
    """`Faces` of arrays that were checked before, named as in `Faces.columns`."""
    groups: dict[str, dict[str, Array]] = {"quality_components": {}, "data": {}}
    plain = {}
    for name, array in columns.items():
        group, dot, part = name.partition(".")
        if dot:
            groups[group][part] = _locked(array)
        else:
            plain[name] = _locked(array)
    faces = object.__new__(Faces)
    faces._fill(plain, groups["quality_components"], groups["data"], images, failures, contract)
    return faces


def _same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.str if dtype.kind == "U" else dtype.name  # the name of a text type does not give its length


def _plain(name: str, array: Array) -> list[Any]:
    """One JSON value a row."""
    if name in ENCODED:
        return [base64.b64encode(crop.tobytes()).decode("ascii") for crop in array]
    if array.dtype.kind == "f":
        if array.dtype.itemsize < 8:
            # The shortest decimal that gives the same float32 back: 0.1 instead of 0.10000000149011612.
            array = array.astype("U32").astype(np.float64)
        if not np.isfinite(array).all():  # only `data` may hold these; JSON has no word for them
            worded = array.astype(object)
            worded[np.isnan(array)] = None
            worded[np.isposinf(array)], worded[np.isneginf(array)] = "inf", "-inf"
            array = worded
    values: list[Any] = array.tolist()
    return values


def _array(name: str, rows: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Inverse of `_plain`."""
    if name in ENCODED:
        raw = b"".join(base64.b64decode(row, validate=True) for row in rows)
        return np.frombuffer(raw, np.uint8).reshape(shape)
    values = np.asarray(rows, dtype=np.float64 if dtype.kind == "f" else dtype)  # of None this makes NaN
    return values.astype(dtype).reshape(shape)
