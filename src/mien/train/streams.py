"""Batches joined of streams of pictures, each with labels of its own kind: people, ages, attributes, expressions.

    people | ages (and gender) | CelebA's attributes | expressions        as many rows of each in every batch

A stream is one set or a mixture of several by shares. The loss then looks at each task's rows alone
(`mien.nn.streams`), so that no set needs all labels.

As all draws (`mien.train.draws`): what stands at a position of the run follows from the seed and the position alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.low_resolution import squared
from mien.data.pixels import Picture, as_picture, decode
from mien.errors import MissingExtra, OptionError, TableError
from mien.nn.streams import ATTRIBUTES, EXPRESSIONS, MALE
from mien.train.draws import Draws, Source

if TYPE_CHECKING:
    from mien.data.formats import Samples

__all__ = ["STREAMS", "Augment", "Labelled", "StreamDraws", "Streams", "labelled", "rendered", "years_of"]

Name = Literal["people", "age", "attributes", "expression"]
STREAMS: tuple[Name, ...] = ("people", "age", "attributes", "expression")
"""In their order in a batch."""
TEMPLATE = "arcface112"
MIDDLE = 127.5
"""Subtracted from 8-bit pixels, and what they are divided by."""
OLDEST = 100.0
"""Years; labels beyond, or below 0, are unknown."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Pictures of one set, and what is known of each.

    Parameters
    ----------
    pictures
        Coded pictures, or crops (n, S, S, 3) uint8.
    person, age, attributes, expression
        (n,) number of the person, (n,) years, (n, 40) 0 or 1 in the order of `mien.nn.streams.ATTRIBUTES`, (n,) number
        into `EXPRESSIONS`; -1 or NaN where unknown.
    names
        Names of people (of pictures, where no people are known), by which some are held out.
    """

    pictures: Samples | Picture
    person: Ints
    age: Floats
    attributes: Floats
    expression: Ints
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.person)

    def take(self, rows: NDArray[Any]) -> Self:
        """The pictures of some rows, or of a mask."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        pictures = self.pictures[at] if isinstance(self.pictures, np.ndarray) else self.pictures.take(at)
        return type(self)(
            pictures, self.person[at], self.age[at], self.attributes[at], self.expression[at],
            [self.names[int(row)] for row in at],
        )  # fmt: skip

    def picture(self, row: int, size: int) -> Picture:
        """Crop (size, size, 3) of a row: by its five points where the set has them, else squashed."""
        if isinstance(self.pictures, np.ndarray):
            return squared(as_picture(self.pictures[row]), size)
        picture = decode(self.pictures.fetch([row])[0])
        points = self.pictures.points
        if points is None or points.shape[1] != 5 or not np.isfinite(points[row]).all():
            return squared(picture, size)
        return as_picture(_cut([picture], points[row][None], size)[0])

    def labels(self, row: int) -> dict[str, Any]:
        """The labels of a row, by the names that `mien.nn.streams.analysis_losses` knows."""
        return {
            "label": self.person[row], "age": self.age[row], "attributes": self.attributes[row],
            "expression": self.expression[row],
        }  # fmt: skip


def _cut(pictures: Sequence[Picture], points: Floats, size: int) -> Picture:
    import cv2

    from mien.geometry.similarity import similarity_from_points, template

    matrices = similarity_from_points(points, template(TEMPLATE, size=size))
    cut = [
        cv2.warpAffine(one, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for one, matrix in zip(pictures, matrices, strict=True)
    ]
    return as_picture(np.stack(cut))


# ------------------------------------------------------------------------------------------- labels of sets


WORDS = {
    "surprise": ("surprise", "surprised"), "fear": ("fear", "fearful", "afraid"),
    "disgust": ("disgust", "disgusted"), "happiness": ("happiness", "happy"), "sadness": ("sadness", "sad"),
    "anger": ("anger", "angry"), "neutral": ("neutral", "neutrality"),
}  # fmt: skip
"""How sets call the seven expressions; any other name is unknown."""
SEXES = {"male": 1.0, "m": 1.0, "man": 1.0, "1": 1.0, "female": 0.0, "f": 0.0, "woman": 0.0, "0": 0.0}
COLUMNS = {
    "age": ("age", "age_group"), "gender": ("gender", "sex"), "expression": ("expression", "emotion", "label"),
}  # fmt: skip


def years(value: object) -> float:
    """A label of age as years: a number, or the middle of a range ("25-32", "(25, 32)"); NaN outside of 0 to 100."""
    if isinstance(value, int | float | np.number):
        return float(value) if 0 <= value <= OLDEST else float("nan")
    found = [float(part) for part in re.findall(r"(?<![\d.])-?\d+(?:\.\d+)?|(?<=\d)-\d+", str(value))]
    found = [abs(part) if len(found) > 1 else part for part in found[:2]]
    age = sum(found) / len(found) if found else np.nan
    return age if 0 <= age <= OLDEST else float("nan")


def expression_of(value: object) -> int:
    """A label of expression as a number into `EXPRESSIONS`: a word, or RAF-DB's number from 1 to 7; -1 if neither."""
    word = str(value).strip().lower()
    if word.isdigit():
        return int(word) - 1 if 1 <= int(word) <= len(EXPRESSIONS) else -1
    return next((EXPRESSIONS.index(name) for name, words in WORDS.items() if word in words), -1)


def labelled(samples: Samples) -> Labelled:
    """What a set of `mien.data.formats` tells: people, and columns of age, gender, expression and CelebA's attributes.

    Without a column of expressions, people's names (folders) that are words of expressions are taken as such, and as
    RAF-DB's numbers where all of them are 1 to 7. Attributes are mapped by CelebA's names, whatever their order.
    """
    n = len(samples)
    columns = {name.lower(): values for name, values in samples.columns.items()}

    def column(kind: str) -> NDArray[Any] | None:
        return next((columns[name] for name in COLUMNS[kind] if name in columns), None)

    given = samples.labels
    names = list(samples.keys) if given is None else [samples.label_name(int(one)) for one in given]
    attributes = np.full((n, len(ATTRIBUTES)), np.nan, np.float32)
    for place, name in enumerate(ATTRIBUTES):
        if (values := columns.get(name.lower())) is not None:
            numbers = np.asarray(values, np.float32)
            attributes[:, place] = np.where(np.isfinite(numbers), numbers > 0, np.nan)
    if (sexes := column("gender")) is not None:
        told = [SEXES.get(str(one).strip().lower(), np.nan) for one in sexes]
        attributes[:, MALE] = np.where(np.isfinite(told), told, attributes[:, MALE])
    aged, shown = column("age"), column("expression")
    words = names if shown is None and given is not None else [] if shown is None else shown
    expression = np.array([expression_of(one) for one in words], np.int64) if len(words) else np.full(n, -1)
    if shown is None and not all(expression_of(one) >= 0 for one in set(words)):
        expression[[str(one).strip().isdigit() for one in words]] = -1  # numbers of people, not of expressions
    return Labelled(
        samples, np.full(n, -1) if given is None else given.astype(np.int64),
        np.full(n, np.nan, np.float32) if aged is None else np.array([years(one) for one in aged], np.float32),
        attributes, expression.astype(np.int64), names,
    )  # fmt: skip


def years_of(parameters: Any) -> Floats:
    """Years (n,) that rendered heads look like, 20 to 80, by their wrinkles and sagging: a convention of ours."""
    signs = (parameters.wrinkles + parameters.sagging / 0.9) / 2
    return np.asarray(20 + 60 * np.clip(signs, 0, 1), np.float32)


def rendered(count: int, *, seed: int, size: int, per_identity: int = 4, first: int = 0, **options: Any) -> Labelled:
    """Rendered heads with all labels: crops (count, size, size, 3).

    Parameters
    ----------
    count, seed
        How many, and the seed of people and pictures.
    size
        Side of a crop, px.
    per_identity
        Pictures of each person.
    first
        Row to begin at; rows from 0 to it are other people where it is a multiple of `per_identity`.
    **options
        Controls that are set for all, of `mien.data.heads.sample`.
    """
    from mien.data import heads
    from mien.geometry.landmarks import five_from_68

    order = [heads.ATTRIBUTES.index(name) if name in heads.ATTRIBUTES else -1 for name in ATTRIBUTES]
    shown = np.array([EXPRESSIONS.index(name) for name in heads.EXPRESSIONS])
    crops, age, flags, expression = [], [], [], []
    for start in range(0, count, 256):
        some = heads.sample(
            min(256, count - start), seed=seed, start=first + start, per_identity=per_identity,
            **{"occluder": "none", **options},
        )  # fmt: skip
        some = some.with_(pose=np.clip(some.pose, -30, 30))
        drawn = heads.render(some, size=max(64, round(1.15 * size)), what=("image", "landmarks"))
        crops.append(_cut(list(drawn.image), np.asarray(five_from_68(drawn.landmarks_2d), np.float32), size))
        age.append(years_of(some))
        table = heads.attributes(some).astype(np.float32)
        flags.append(np.where(np.array(order) >= 0, table[:, order], np.nan).astype(np.float32))
        expression.append(shown[some.expression])
    person = (np.arange(count) + first) // per_identity
    return Labelled(
        np.concatenate(crops), person.astype(np.int64), np.concatenate(age), np.concatenate(flags),
        np.concatenate(expression).astype(np.int64), [f"{seed}/{one}" for one in person],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- pictures


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators, which timm draws from, at `seed` for a while."""
    state, old = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(old)  # noqa: NPY002


class Augment:
    """A crop (S, S, 3) uint8 as the network sees it, (3, S, S) float32 from -1 to 1, changed at random.

    Parameters
    ----------
    size
        Side, px.
    kind
        "flip": every second picture is mirrored. "randaugment": also changed by timm's RandAugment and erased in part,
        as the paper's configuration says, with nothing cut off; needs the extra "backbones".
    erase
        Chance that a part is erased, with "randaugment".
    """

    def __init__(self, size: int, kind: Literal["flip", "randaugment"], *, erase: float = 0.25) -> None:
        self.change: Callable[[Any], Any] | None = None
        if kind == "randaugment":
            try:
                from timm.data import create_transform  # type: ignore[attr-defined,unused-ignore]
            except ImportError:
                raise MissingExtra("timm", extra="backbones") from None
            self.change = create_transform(
                input_size=size, is_training=True, scale=(1.0, 1.0), ratio=(1.0, 1.0), color_jitter=0.4,
                auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=erase, re_mode="pixel",
                re_count=1, mean=(0.5,) * 3, std=(0.5,) * 3,
            )  # fmt: skip

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Floats:
        if self.change is not None:
            from PIL import Image

            with _seeded(int(rng.integers(2**31))):
                return np.asarray(self.change(Image.fromarray(picture)), np.float32)
        if rng.random() < 0.5:
            picture = as_picture(picture[:, ::-1])
        return seen(picture)


def seen(picture: Picture) -> Floats:
    """(…, S, S, 3) uint8 -> (…, 3, S, S) float32 from -1 to 1."""
    return np.ascontiguousarray(np.moveaxis((picture.astype(np.float32) - MIDDLE) / MIDDLE, -1, -3))


class Streams(Source):
    """The sets of all streams, one after the other.

    Parameters
    ----------
    sets
        Sets of each stream, by the names of `STREAMS`; a stream may be left out.
    size
        Side of the crops, px.
    augment
        How pictures of the other streams than "people" are changed; those are mirrored and no more.
    """

    def __init__(
        self, sets: Mapping[Name, Sequence[Labelled]], *, size: int, augment: Literal["flip", "randaugment"] = "flip"
    ) -> None:
        self.sets = {name: tuple(sets[name]) for name in STREAMS if sets.get(name)}
        self.size = size
        if not self.sets or any(not len(one) for parts in self.sets.values() for one in parts):
            empty = [name for name, parts in self.sets.items() if any(not len(one) for one in parts)]
            raise TableError("a stream has no pictures with labels", got=empty or "no stream at all",
                             expected=f"one or more of {', '.join(STREAMS)}")  # fmt: skip
        self.parts = [(name, one) for name, parts in self.sets.items() for one in parts]
        self.ends = np.cumsum([len(one) for _, one in self.parts])
        self.changes = {name: Augment(size, "flip" if name == "people" else augment) for name in self.sets}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        name, part = self.parts[which]
        row = index - (int(self.ends[which - 1]) if which else 0)
        return {"image": self.changes[name](part.picture(row, self.size), rng), **part.labels(row)}


class StreamDraws(Draws):
    """As many rows of each stream in every batch, streams one after the other.

    Each stream is a list as long as that of people (without people, as the longest stream): of a mixture each set
    fills its share, in whole passes in random order and a part of one, and the list is shuffled. It is made anew when
    it has been drawn to its end.

    Place ``k`` of a batch belongs to stream ``k // (batch / streams)``; a process that takes every n-th place, as
    `mien.train.draws.StepSampler` deals them out, gets as many of each where n divides a stream's rows.

    Parameters
    ----------
    source
        The sets.
    batch
        Rows of a batch, a multiple of the number of streams.
    shares
        Shares of a stream's sets, by its name; equal ones where not given.
    seed
        Of the run.

    Raises
    ------
    OptionError
        The batch cannot be dealt out, or shares do not fit the sets.
    """

    def __init__(
        self, source: Streams, *, batch: int, seed: int, shares: Mapping[Name, Sequence[float]] | None = None
    ) -> None:
        super().__init__(source, seed=seed)
        self.sets = source.sets
        if batch % len(self.sets):
            raise OptionError("the streams cannot share the batch evenly", got=batch,
                              expected=f"a multiple of {len(self.sets)}")  # fmt: skip
        self.batch, self.rows = batch, batch // len(self.sets)
        self.shares: dict[Name, Sequence[float]] = {}
        for name, parts in self.sets.items():
            given = (shares or {}).get(name) or (1 / len(parts),) * len(parts)
            if len(given) != len(parts) or abs(sum(given) - 1) > 1e-6 or min(given) <= 0:
                raise OptionError(f"the shares of {name} do not fit its sets", got=tuple(given),
                                  expected=f"{len(parts)} positive numbers of sum 1")  # fmt: skip
            self.shares[name] = given
        lengths = {name: sum(map(len, parts)) for name, parts in self.sets.items()}
        self.length = lengths.get("people", max(lengths.values()))
        starts = np.cumsum([0, *(len(one) for _, one in source.parts)])
        self.starts = {name: [int(starts[k]) for k, (own, _) in enumerate(source.parts) if own == name]
                       for name in self.sets}  # fmt: skip
        self._lists: dict[Name, tuple[int, NDArray[np.int32]]] = {}

    def index(self, position: int) -> int:
        step, place = divmod(position, self.batch)
        name = tuple(self.sets)[place // self.rows]
        turn, within = divmod(step * self.rows + place % self.rows, self.length)
        if self._lists.get(name, (-1,))[0] != turn:
            self._lists[name] = turn, self.listed(name, turn)
        return int(self._lists[name][1][within])

    def listed(self, name: Name, turn: int) -> NDArray[np.int32]:
        """Rows of the source (length,) of a stream's list, the `turn`-th that is made of it."""
        rng = np.random.default_rng((self.seed, 5, STREAMS.index(name), turn))
        ends = np.round(np.cumsum(self.shares[name]) * self.length).astype(int)
        parts = []
        for one, start, count in zip(self.sets[name], self.starts[name], np.diff(ends, prepend=0), strict=True):
            passes = [rng.permutation(len(one)) for _ in range(-(-int(count) // len(one)))]
            parts.append(start + np.concatenate(passes or [np.empty(0, np.int64)])[:count])
        return rng.permutation(np.concatenate(parts)).astype(np.int32)
