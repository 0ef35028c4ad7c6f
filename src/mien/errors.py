"""Every error that mien raises on purpose.

Each says what is wrong, what it got, what it expected and what to do; each has a stable `code` for machines.
Catch `MienError` for all of them, or a branch of the tree:

    MienError                           everything below
    ├── InputError (ValueError)         what was handed in cannot be used
    │   ├── MediaError                  a picture or a video
    │   │   ├── MediaNotFound           nothing at that path
    │   │   ├── MediaForbidden          no right to read or write there
    │   │   ├── NotAFile                a folder (or a pipe) where a file was expected
    │   │   ├── EmptyMedia              no bytes, or no pixels
    │   │   ├── UnknownFormat           not a picture or video by its bytes, whatever its name says
    │   │   ├── CorruptMedia            truncated or damaged
    │   │   ├── ImageTooLarge           more pixels than allowed; told from the header, before decoding
    │   │   └── MissingCodec            a known format that this machine cannot decode or encode
    │   ├── ArrayError                  an array or tensor
    │   │   ├── ShapeError              wrong number or size of dimensions
    │   │   ├── DtypeError              wrong type of numbers
    │   │   └── ValueRangeError         NaN, infinity, or out of range
    │   ├── OptionError                 an option with an unknown name or value
    │   └── TableError                  a table without the columns or rows that are needed
    ├── JudgementError                  a verb that was asked to raise cannot judge
    │   ├── NoFaceFound                 no face in the picture
    │   ├── SeveralFacesFound           more than one face where one was expected
    │   ├── FaceTooSmall                too few pixels between the eyes
    │   └── FaceTooBlurred              too little detail to tell people apart
    ├── MissingColumn (AttributeError, KeyError)  a column of `Faces` that no verb has filled
    ├── GalleryError                    a gallery of people cannot be used as asked
    │   ├── GalleryNotFound             no gallery at that address
    │   ├── ContractMismatch            its embeddings are of other weights, or of other preprocessing
    │   ├── UnknownPerson               nobody of that name is in it
    │   └── IndexDamaged                its search index is torn, or not one
    ├── WeightsError                    the numbers of a network
    │   ├── UnknownWeights              no weights of that name are declared
    │   ├── WeightsUnavailable          declared, but not on this disk
    │   ├── HashMismatch                the file is not the one that was declared
    │   ├── LicenceNotAccepted          not permissive, and nobody has accepted it
    │   ├── OfflineError                would need the network, which is switched off
    │   ├── DownloadError               the server did not deliver
    │   └── CheckpointError             keys or shapes do not fit the network
    ├── DeviceUnavailable (RuntimeError)  the device asked for is not there
    ├── MissingExtra (ImportError)      an optional package is not installed
    └── TrainingError                   a training run cannot start or go on

The drawing is kept true by a test.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

__all__ = [
    "ArrayError",
    "CheckpointError",
    "ContractMismatch",
    "CorruptMedia",
    "DeviceUnavailable",
    "DownloadError",
    "DtypeError",
    "EmptyMedia",
    "FaceTooBlurred",
    "FaceTooSmall",
    "GalleryError",
    "GalleryNotFound",
    "HashMismatch",
    "ImageTooLarge",
    "IndexDamaged",
    "InputError",
    "JudgementError",
    "LicenceNotAccepted",
    "MediaError",
    "MediaForbidden",
    "MediaNotFound",
    "MienError",
    "MissingCodec",
    "MissingColumn",
    "MissingExtra",
    "NoFaceFound",
    "NotAFile",
    "OfflineError",
    "OptionError",
    "SeveralFacesFound",
    "ShapeError",
    "TableError",
    "TrainingError",
    "UnknownFormat",
    "UnknownPerson",
    "UnknownWeights",
    "ValueRangeError",
    "WeightsError",
    "WeightsUnavailable",
]

SHOWN = 200
"""Characters of `got` that are shown: enough for a path, too few for a dumped array."""


class MienError(Exception):
    """Base of all errors that mien raises on purpose.

    Parameters
    ----------
    what
        What is wrong, as a short clause: ``"the picture is truncated"``.
    got
        What was found. Arrays are described by shape and type; the text is cut at 200 characters.
    expected
        What would have been right. A list or tuple is shown as its items.
    hint
        What to do. Default: the general advice of the class, if it has any.
    """

    advice: ClassVar[str | None] = None
    """What to do about this kind of error when the raiser knows nothing better."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        # Text, not the object: an error that is kept must not keep a picture alive, and must cross processes.
        self.got = None if got is None else describe(got)
        self.expected = None if expected is None else _listed(expected)
        self.hint = hint if hint is not None else self.advice

    @property
    def code(self) -> str:
        """Stable name for machines: the class in snake case, ``"corrupt_media"``, ``"not_a_file"``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"Got: {self.got}"] if self.got is not None else []
        parts += [f"Expected: {self.expected}"] if self.expected is not None else []
        parts += [f"Do: {self.hint}"] if self.hint is not None else []
        return " ".join(part if part.endswith((".", "?", "!", "…")) else f"{part}." for part in parts)

    def to_dict(self) -> dict[str, str | None]:
        """The parts as plain text, for JSON: code, error (class), message, what, got, expected, hint."""
        return {
            "code": self.code,
            "error": type(self).__name__,
            "message": str(self),
            "what": self.what,
            "got": self.got,
            "expected": self.expected,
            "hint": self.hint,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call the class with `args` alone, which subclasses with own arguments refuse.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[MienError], args: tuple[object, ...], state: dict[str, Any]) -> MienError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


# Of a list with a million entries only those that are shown are made into text.
_brief = reprlib.Repr()
_brief.maxlist = _brief.maxtuple = _brief.maxset = _brief.maxfrozenset = _brief.maxdict = _brief.maxdeque = SHOWN
_brief.maxstring = _brief.maxother = _brief.maxlong = 2 * SHOWN


def describe(value: object) -> str:
    """`value` in at most 200 characters: text as it is, arrays by shape and type, the rest by its repr."""
    shape = getattr(value, "shape", None)
    if isinstance(value, str):
        text = value
    elif shape is not None and hasattr(value, "dtype"):
        text = f"{type(value).__name__} of shape {tuple(shape)}, {value.dtype}"
    elif isinstance(value, bytes | bytearray | memoryview):
        text = f"{len(value)} bytes"
    elif hasattr(value, "__fspath__"):
        text = str(value)
    else:
        text = _brief.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _listed(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return ", ".join(str(item) for item in value) or "nothing"
    return str(value)


class InputError(MienError, ValueError):
    """What was handed in cannot be used."""


class MediaError(InputError):
    """A picture or a video that cannot be read or written."""


class MediaNotFound(MediaError):
    """There is nothing at that path."""

    advice = "check the path; a relative one starts at the current folder"


class MediaForbidden(MediaError):
    """The operating system refuses to read or write there."""

    advice = "grant the right on the file and on its folders, or copy it to a place you own"


class NotAFile(MediaError):
    """A folder, a pipe or a socket stands where a file was expected."""

    advice = "name one file in it, or use a verb over the whole folder"


class EmptyMedia(MediaError):
    """No bytes or no pixels."""

    advice = "copy or download the file again; it holds nothing"


class UnknownFormat(MediaError):
    """The bytes are not those of a picture or video that mien knows, whatever the name says."""

    advice = "convert it to JPEG, PNG or WebP (video: MP4)"


class CorruptMedia(MediaError):
    """Truncated or damaged: it starts like a picture or video and does not go on like one."""

    advice = "copy or download the file again, or save it anew with the program that made it"


class ImageTooLarge(MediaError):
    """More pixels than allowed; told from the header, before memory is spent."""

    advice = "scale it down, or allow more with max_pixels= if you trust the source"


class MissingCodec(MediaError):
    """A known format that the libraries on this machine cannot decode or encode."""

    advice = "convert it to JPEG, PNG or WebP (video: MP4 with H.264)"


class ArrayError(InputError):
    """An array or tensor that cannot be used."""


class ShapeError(ArrayError):
    """Wrong number or size of dimensions."""


class DtypeError(ArrayError):
    """Wrong type of numbers."""


class ValueRangeError(ArrayError):
    """NaN, infinity, or a number out of its range."""


class OptionError(InputError):
    """An option with an unknown name or value."""

    @classmethod
    def unknown(cls, what: str, got: object, choices: Iterable[str]) -> Self:
        """The error for a name that is none of `choices`; suggests the nearest.

        >>> print(OptionError.unknown("unknown backend", "onyx", ["onnx", "torch"]))
        unknown backend. Got: onyx. Expected: one of onnx, torch. Do: did you mean 'onnx'?
        """
        names = list(choices)
        near = difflib.get_close_matches(str(got), names, 1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
        return cls(what, got=got, expected=f"one of {', '.join(names)}", hint=hint)


class TableError(InputError):
    """A table without the columns or rows that are needed."""


class JudgementError(MienError):
    """A verb that was asked to raise cannot judge; verbs otherwise give the reason in their result."""


class NoFaceFound(JudgementError):
    """No face in the picture."""

    advice = "use a picture in which the face is larger and turned to the camera, or lower threshold="


class SeveralFacesFound(JudgementError):
    """More than one face where one was expected."""

    advice = "cut out the face you mean"


class FaceTooSmall(JudgementError):
    """Too few pixels between the eyes to tell people apart."""

    advice = "use a picture in which the face is larger"


class FaceTooBlurred(JudgementError):
    """Too little detail to tell people apart."""

    advice = "use a sharper picture"


class MissingColumn(MienError, AttributeError, KeyError):
    """A column of `Faces` that no verb has filled.

    It is an AttributeError, so that ``hasattr(faces, "embeddings")`` asks whether it is there, and a
    KeyError, so that ``"age" in faces.data`` and ``faces.data.get("age")`` do.

    Parameters
    ----------
    column
        Name of the column.
    verb
        The verb that fills it, if there is one.
    columns
        Names of those that are there.
    """

    def __init__(self, column: str, *, verb: str | None = None, columns: Iterable[str] = ()) -> None:
        there = tuple(columns)
        # By the last part, or every name of a group would look like every other.
        named = {name.rpartition(".")[2]: name for name in there}
        near = difflib.get_close_matches(column.rpartition(".")[2], named, 1)
        if verb is not None:
            hint = f"call mien.{verb}(...), which fills it"
        elif near:
            hint = f"did you mean {named[near[0]]!r}?"
        else:
            hint = "add it with Faces.with_columns(...)"
        super().__init__(f"no verb has filled the column {column!r}", got=f"columns {_listed(there)}", hint=hint)
        self.column = column


class GalleryError(MienError):
    """A gallery of people cannot be used as asked."""


class GalleryNotFound(GalleryError):
    """There is no gallery at that address."""

    advice = "check the address; the first `mien enroll FOLDER --gallery FILE` makes a gallery"


class ContractMismatch(GalleryError):
    """The embeddings of the gallery are of other weights, or of other preprocessing: their cosines mean nothing."""

    advice = "use the weights that the gallery was made with (mien gallery info), or enrol anew into another gallery"


class UnknownPerson(GalleryError):
    """Nobody of that name is in the gallery."""

    advice = "list the names with: mien people list --gallery FILE"


class WeightsError(MienError):
    """The numbers of a network cannot be had or used."""


class UnknownWeights(WeightsError):
    """No weights of that name are declared."""

    advice = "list the names with: mien weights list"


class WeightsUnavailable(WeightsError):
    """Declared, but not on this disk; mien downloads nothing by itself."""

    advice = "fetch them with: mien weights get NAME"


class HashMismatch(WeightsError):
    """The file is not the one that was declared."""

    advice = "delete the file and fetch it again"


class LicenceNotAccepted(WeightsError):
    """The licence is not permissive, and nobody has accepted it."""

    advice = "read the licence, then pass accept_licence=True (--accept-licence)"


class OfflineError(WeightsError):
    """The step would need the network, which is switched off."""

    advice = "go online, or copy the file into MIEN_HOME from a machine that is"


class DownloadError(WeightsError):
    """The server did not deliver."""

    advice = "try again; a broken download goes on where it stopped"


class CheckpointError(WeightsError):
    """The file holds no checkpoint, or its keys or shapes do not fit the network."""


class IndexDamaged(GalleryError):
    """The files of a gallery's search index are torn, or of another kind."""

    advice = "build it again from the gallery, whose store has all that is in it"


class DeviceUnavailable(MienError, RuntimeError):
    """The device asked for is not there; mien never falls back in silence."""

    advice = "use device='auto' for the best there is, or device='cpu'"


class MissingExtra(MienError, ImportError):
    """An optional package is not installed.

    >>> print(MissingExtra("onnxruntime", extra="onnx"))
    the optional package onnxruntime is not installed. Do: pip install 'mien[onnx]'.

    Parameters
    ----------
    package
        The package that is missing.
    extra
        The extra of mien that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(f"the optional package {package} is not installed", hint=f"pip install 'mien[{extra}]'")
        self.package = package
        self.extra = extra


class TrainingError(MienError):
    """A training run cannot start or go on."""
