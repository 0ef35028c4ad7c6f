"""How weights are declared: one frozen constant that says what the file is, whose it is, and what it wants to see.

A declaration is complete or it does not exist: hash, size and licence have no default, and a malformed one raises where
it is written. Preprocessing is part of it (`InputContract`), so that callers never think about mean and standard
deviation.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import numpy as np

from mien.errors import OptionError, UnknownWeights, WeightsError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

PERMISSIVE = frozenset(
    {
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "Unlicense",
        "Zlib",
    }
)
"""SPDX identifiers under which anybody may use, change and pass on the weights, at most naming their makers. Every
other licence has to be accepted by name before a download."""

SAFE, PICKLED = ".safetensors", (".pt", ".pth", ".bin", ".ckpt", ".tar")

NAME = re.compile(r"[a-z0-9]+([-._][a-z0-9]+)*")
"""What the name of weights looks like: no part of it can lead out of a folder."""

BUNDLED = Path(__file__).parent / "files"
"""Where the files lie that come with the package."""


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """What a network wants to see.

    Parameters
    ----------
    size
        Side of the square input, pixels; None where any height and width will do.
    mean, std
        Subtracted from, and divided into, channel values of 0 … 255, in the order of `colour`.
    colour
        "RGB", or "BGR" for some published checkpoints; pictures outside are always RGB.
    template
        Where the five points lie in the crop ("arcface112", "chip112"), "box" for an upright square around the
        detected box, "photo" for the whole picture.
    margin
        For "box": how many box sides the square is wide.
    up
        For "box": how far above the box's centre the square's centre lies, as a share of the box's height.
    multiple_of
        Where `size` is None: what height and width must be divisible by.
    """

    size: int | None
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (128.0, 128.0, 128.0)
    colour: str = "RGB"
    template: str = "photo"
    margin: float = 1.0
    up: float = 0.0
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.colour not in ("RGB", "BGR"):
            raise OptionError("Unknown colour order", got=self.colour, expected="RGB or BGR")
        if self.size is not None and self.size < 1:
            raise OptionError("The input size is a number of pixels", got=self.size, expected="at least 1, or None")
        mean, std = tuple(self.mean), tuple(self.std)
        if not len(mean) == len(std) == 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise OptionError(
                "Mean and standard deviation need three finite values each, the latter above zero",
                got=(self.mean, self.std),
            )
        if self.margin <= 0 or self.multiple_of < 1:
            raise OptionError("margin must be above zero, multiple_of at least 1", got=(self.margin, self.multiple_of))
        if not math.isfinite(self.up):
            raise OptionError("up is a share of the box's height", got=self.up, expected="a finite number")

    def tensor(self, images: NDArray[np.uint8], *, device: str | torch.device = "cpu") -> torch.Tensor:
        """Pictures (B, H, W, 3), RGB uint8, as what the network wants: (B, 3, H, W) float32, channels-last."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        if self.colour == "BGR":
            pixels = pixels.flip(1)
        batch = pixels.to(torch.float32, copy=True)
        if len(set(self.mean)) == len(set(self.std)) == 1:  # numbers, not rows of three: a quarter of the time
            batch.sub_(self.mean[0]).div_(self.std[0])
        else:
            for channel, mean, std in zip(batch.unbind(1), self.mean, self.std, strict=True):
                channel.sub_(mean).div_(std)
        return batch.contiguous(memory_format=torch.channels_last)

    @property
    def text(self) -> str:
        """One line for tables: ``112 x 112 RGB, (x - 127.5) / 128, chip112``."""
        if self.size is not None:
            size = f"{self.size} x {self.size}"
        else:
            size = f"any size in steps of {self.multiple_of}" if self.multiple_of > 1 else "any size"
        plain = len(set(self.mean)) == len(set(self.std)) == 1
        mean = f"{self.mean[0]:g}" if plain else "(" + ", ".join(f"{v:g}" for v in self.mean) + ")"
        std = f"{self.std[0]:g}" if plain else "(" + ", ".join(f"{v:g}" for v in self.std) + ")"
        margin = f" x {self.margin:g}" if self.template == "box" else ""
        if self.template == "box" and self.up:
            margin += f", {self.up:g} of its height up"
        return f"{size} {self.colour}, (x - {mean}) / {std}, {self.template}{margin}"


@dataclass(frozen=True, kw_only=True)
class EmbeddingContract:
    """What makes two embeddings comparable. `id` is filled by `Weights` from its name and hash."""

    dim: int
    flip: bool = False
    """Whether the embedding is the mean over the crop and its mirror image."""
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number, with what it takes to measure it again.

    Parameters
    ----------
    metric
        Field term: "average precision at IoU 0.5", "NME, inter-ocular", "FNMR at FMR 1e-3".
    value
        The number, in `unit` ("%", "px", "" for a plain ratio).
    data
        Which set, and which part of it.
    protocol
        How: folds, threshold, what was never trained on.
    date
        ISO date of the measurement.
    low, high
        Bounds of the 95 % bootstrap interval, where one was made.
    group
        Name of the group for an error by group; "" for all faces.
    n
        Faces, pictures or pairs behind the number, where known.
    """

    metric: str
    value: float
    data: str
    protocol: str
    date: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    group: str = ""
    n: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise WeightsError("A figure must be a finite number", got=f"{self.metric} = {self.value}")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", self.date):
            raise WeightsError("A figure needs the day it was measured on", got=self.date, expected="YYYY-MM-DD")

    @property
    def text(self) -> str:
        """``93.41 % [92.8, 94.0]``: at most four significant digits, or two decimals of a percentage."""

        def short(value: float) -> str:
            return f"{value:.2f}" if self.unit == "%" else f"{value:.4g}"

        interval = f" [{short(self.low)}, {short(self.high)}]" if self.low is not None and self.high is not None else ""
        return f"{short(self.value)}{' ' + self.unit if self.unit else ''}{interval}"


@dataclass(frozen=True, kw_only=True)
class Operating:
    """A threshold on the cosine of two embeddings, and the false match rate it stands for.

    Parameters
    ----------
    fmr
        False match rate (ISO/IEC 19795-1) that the threshold was set for.
    threshold
        Cosine at or above which two faces are called the same.
    low, high
        95 % bootstrap interval of the threshold.
    fnmr
        False non-match rate at that threshold, on the same pairs.
    data
        The set and the pairs it was measured on.
    """

    fmr: float
    threshold: float
    data: str
    low: float | None = None
    high: float | None = None
    fnmr: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Data that went into the weights, and the terms it came under."""

    name: str
    licence: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The declaration of one file of weights.

    Parameters
    ----------
    name
        What callers write: lower-case words, joined by "-" or ".".
    task
        "detection", "landmarks", "embedding" …
    sha256, size
        Of the file: 64 hexadecimal digits, bytes.
    licence
        SPDX identifier, or the title of the licence where SPDX has none.
    source
        Who made the weights and where they were published.
    build, arguments
        ``module:function`` that builds the network, and its keyword arguments.
    input
        What the network wants to see.
    file, urls
        Exactly one of the two: a file of the package (a bare name) or of this machine (an absolute path); or where to
        download it, mirrors in the order they are tried.
    licence_url
        Where the licence can be read.
    paper
        Slug or citation of the paper, if there is one.
    embedding
        For embedders: what makes two embeddings comparable.
    convert
        ``module:function`` that turns a foreign state dict into the network's own, strictly.
    decode
        ``module:function`` that makes answers of what the network gives, where that is not in the layout of mien's own
        networks; `mien.weights.decoder` says what such a function takes and gives for each task.
    command, trained_on
        What trained them, and on what.
    macs, macs_input
        Multiply-accumulates of one forward pass, and the input (B, 3, H, W) they were counted on.
    parameters
        Number of parameters.
    figures
        Measured figures, those by group among them.
    calibration
        For embedders: thresholds and their false match rates.
    threshold
        For detectors: the score at or above which a face is reported.
    mirror
        For readers and parsers: whether the verbs ask about the mirror image of a crop as well and take the mean. For
        embedders it is `EmbeddingContract.flip`.
    temperatures
        For readers: the number that each group of logits is divided by, so that the probabilities are calibrated.
    notes
        What a user should know: limits, known failures.
    """

    name: str
    task: str
    sha256: str
    size: int
    licence: str
    source: str
    build: str
    input: InputContract
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: str | None = None
    urls: tuple[str, ...] = ()
    licence_url: str = ""
    paper: str | None = None
    embedding: EmbeddingContract | None = None
    convert: str | None = None
    decode: str | None = None
    command: str = ""
    trained_on: tuple[TrainingSet, ...] = ()
    macs: int | None = None
    macs_input: tuple[int, int, int, int] | None = None
    parameters: int | None = None
    figures: tuple[Figure, ...] = ()
    calibration: tuple[Operating, ...] = ()
    threshold: float | None = None
    mirror: bool = False
    temperatures: Mapping[str, float] = field(default_factory=dict, hash=False)
    notes: str = ""

    def __post_init__(self) -> None:
        def refuse(what: str, got: object, expected: object) -> None:
            raise WeightsError(f"The declaration of weights {self.name!r} is wrong: {what}", got=got, expected=expected)

        if not NAME.fullmatch(self.name):
            refuse("the name", self.name, "lower-case letters and digits, joined by '-', '.' or '_'")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            refuse("the hash", self.sha256, "64 hexadecimal digits in lower case (sha256sum FILE)")
        if self.size < 1:
            refuse("the size", self.size, "bytes of the file, at least 1")
        if not self.licence.strip():
            refuse(
                "there is no licence",
                self.licence,
                "an SPDX identifier such as Apache-2.0, or the licence's title",
            )
        if not self.source.strip():
            refuse("there is no source", self.source, "who made the weights, and where")
        if (self.file is None) == (not self.urls):
            refuse(
                "one of file and urls is needed, not both",
                (self.file, self.urls),
                "file='…' or urls=('https://…',)",
            )
        if self.bundled and PurePosixPath(self.file or "").name != self.file:
            refuse("the file", self.file, "a bare name, or an absolute path")
        for url in self.urls:
            if urlsplit(url).scheme not in ("https", "http") or not urlsplit(url).netloc:
                refuse("an address", url, "https://…")
        if self.bundled and not self.permissive:
            refuse("files of the package must have a permissive licence", self.licence, sorted(PERMISSIVE))
        if self.suffix not in (SAFE, *PICKLED):
            refuse("the kind of file", self.suffix, f"{SAFE}, or a pickled checkpoint ({', '.join(PICKLED)})")
        for reference in filter(None, (self.build, self.convert, self.decode)):
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", reference):
                refuse("a reference to code", reference, "module:function")
        if any(not 0 < value < math.inf for value in self.temperatures.values()):
            refuse("a temperature", dict(self.temperatures), "positive numbers")
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))
        object.__setattr__(self, "temperatures", MappingProxyType(dict(self.temperatures)))
        if self.embedding is not None:
            contract = replace(self.embedding, id=f"{self.name}@{self.sha256[:12]}")
            object.__setattr__(self, "embedding", contract)

    @property
    def bundled(self) -> bool:
        """Whether the file comes with the package."""
        return self.file is not None and not Path(self.file).is_absolute()

    @property
    def permissive(self) -> bool:
        """Whether the licence asks for no acceptance."""
        return self.licence in PERMISSIVE

    @property
    def suffix(self) -> str:
        """The file's ending, ".safetensors" or one of a pickled checkpoint."""
        return PurePosixPath(self.file or urlsplit(self.urls[0]).path).suffix.lower()

    def figure(self, metric: str, *, group: str = "") -> Figure:
        """The figure of that metric (of the first protocol, where there are several)."""
        for figure in self.figures:
            if figure.metric == metric and figure.group == group:
                return figure
        metrics = sorted({figure.metric for figure in self.figures if figure.group == group})
        raise OptionError(f"{self.name} has no such figure", got=(metric, group), expected=metrics)

    def to_dict(self) -> dict[str, Any]:
        """Everything declared, as plain values for JSON."""
        return {**_plain(self), "bundled": self.bundled, "permissive": self.permissive}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Weights:
        """The declaration that `to_dict` made plain, also after JSON has turned its tuples into lists.

        ``bundled``, ``permissive`` and the embedding's ``id`` follow from the rest: they are made anew, not believed.

        Raises
        ------
        WeightsError
            A key is unknown or missing, a value is of another type, or the declaration is wrong.
        OptionError
            The input contract is one that nothing can keep.
        """
        made: Weights = _typed(cls, plain, "", derived=frozenset({"bundled", "permissive"}))
        return made


def _plain(value: Any) -> Any:
    # dataclasses.asdict deep-copies, which a mapping proxy does not survive.
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _typed(kind: Any, value: Any, where: str, *, derived: frozenset[str] = frozenset()) -> Any:
    """`value`, which `_plain` or JSON gave, as `kind`; keys that are `derived` may be there and are left out."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # only X | None occurs
        (kind,) = (one for one in inside if one is not type(None))
        return None if value is None else _typed(kind, value, where)
    if is_dataclass(kind) or origin is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _mistyped(where, value, "values by name")
        if origin is Mapping:
            if inside[1] is Any:
                return {key: _frozen(item) for key, item in value.items()}
            return {key: _typed(inside[1], item, f"{where}.{key}") for key, item in value.items()}
        hints, needed = _fields(kind)
        given = value.keys() - derived
        if unknown := sorted(given - hints.keys()):
            raise _mistyped(where, f"unknown: {', '.join(unknown)}", sorted(hints))
        if missing := sorted(needed - given):
            raise _mistyped(where, f"missing: {', '.join(missing)}", sorted(needed))
        return kind(
            **{key: _typed(hints[key], value[key], f"{where}.{key}".lstrip(".")) for key in hints if key in given}
        )
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mistyped(where, value, "a list")
        kinds = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        if len(kinds) != len(value):
            raise _mistyped(where, value, f"a list of {len(kinds)}")
        return tuple(_typed(one, item, f"{where}[{n}]") for n, (one, item) in enumerate(zip(kinds, value, strict=True)))
    # A whole number is a float to JSON's writers, and True is an int to Python's.
    fits = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise _mistyped(where, repr(value), _PLAIN[kind])
    return value


_PLAIN = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@lru_cache
def _fields(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of a dataclass's fields by name, and the names of those without a default."""
    bare = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return get_type_hints(kind), frozenset(bare)


def _mistyped(where: str, got: object, expected: object) -> WeightsError:
    return WeightsError(f"This is no declaration of weights{f': {where}' if where else ''}", got=got, expected=expected)


WEIGHTS: dict[str, Weights] = {}
"""Every declared file of weights by its name."""


def register(*declared: Weights) -> None:
    """Adds declarations to `WEIGHTS`; a name that is taken by another declaration is an error."""
    for weights in declared:
        if WEIGHTS.get(weights.name, weights) != weights:
            raise WeightsError(
                f"There are weights of the name {weights.name!r} already",
                got=weights.sha256[:12],
                expected=WEIGHTS[weights.name].sha256[:12],
                hint="give the new ones another name",
            )
    WEIGHTS.update({weights.name: weights for weights in declared})


@contextmanager
def registered(*declared: Weights) -> Iterator[None]:
    """Declares weights for the length of a ``with`` block, for instance the ones a training run has just written."""
    fresh = [weights for weights in declared if weights.name not in WEIGHTS]
    register(*declared)
    try:
        yield
    finally:
        for weights in fresh:
            WEIGHTS.pop(weights.name, None)


def info(name: str | Weights) -> Weights:
    """The declaration of that name (a declaration is given back as it is).

    What is not in `WEIGHTS` is looked for among the imported weights (`mien.weights.imported`).

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared; the message names the nearest.
    WeightsError
        Weights of that name were imported, and their declaration is damaged.
    """
    if isinstance(name, Weights):
        return name
    if name in WEIGHTS:
        return WEIGHTS[name]
    from mien.weights import imported

    if (found := imported.find(name)) is not None:
        return found
    known = sorted({*WEIGHTS, *imported.names()})
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    raise UnknownWeights(
        "There are no weights of that name",
        got=name,
        expected=", ".join(known) or "nothing is declared",
        hint=f"did you mean {near[0]!r}?" if near else "`mien weights list` shows all",
    )


def list_weights(*, task: str | None = None) -> list[Weights]:
    """Every declaration, or those for one task, sorted by name; the imported ones are among them.

    An imported declaration that is damaged is left out, with a warning in the log.

    Raises
    ------
    OptionError
        No weights are declared for that task.
    """
    from mien.weights import imported

    known = {**{weights.name: weights for weights in imported.declarations()}, **WEIGHTS}
    tasks = sorted({weights.task for weights in known.values()})
    if task is not None and task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=1)
        raise OptionError(
            "There are no weights for that task",
            got=task,
            expected=tasks,
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    return sorted((w for w in known.values() if task in (None, w.task)), key=lambda weights: weights.name)
