"""What galleries take and give: the contract, people, faces, matches, refusals, the log."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mien.errors import ContractMismatch, OptionError, ShapeError, ValueRangeError, WeightsError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mien.weights import Weights

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int64]

NOBODY = -1
"""Number of a person or face that is not there."""

LONGEST_NAME = 200


def today() -> str:
    """The day in UTC, as in all dates of a gallery: YYYY-MM-DD."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def now() -> str:
    """The time in UTC to the millisecond: YYYY-MM-DDTHH:MM:SS.mmmZ."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(text: str | datetime.date | None) -> str | None:
    """A date as YYYY-MM-DD; OptionError for what is none. "" and None are no date."""
    if text is None or text == "":
        return None
    if isinstance(text, datetime.date):
        return text.strftime("%Y-%m-%d")
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
        try:
            return datetime.date.fromisoformat(text.strip()).isoformat()
        except ValueError:
            pass
    raise OptionError("this is no date", got=text, expected="YYYY-MM-DD, such as 2030-12-31")


def tidy_name(name: str) -> str:
    """A person's name as it is kept: composed (NFC), without blanks around and line breaks in it.

    Raises
    ------
    OptionError
        Nothing is left, or more than 200 characters, or it begins like the number of a person, "#".
    """
    text = " ".join(unicodedata.normalize("NFC", str(name)).split())
    if not text or len(text) > LONGEST_NAME or text.startswith("#"):
        raise OptionError(
            "this cannot be the name of a person",
            got=name,
            expected=f"1 to {LONGEST_NAME} characters that do not begin with #",
        )
    return text


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What makes the embeddings of a gallery comparable; pinned when it is made.

    Parameters
    ----------
    id
        Name and hash of the weights, as in `Faces.contract`.
    dim
        Length of an embedding.
    sha256
        Of the file of weights; "" if only the id is known.
    preprocessing
        What the network sees and how the embedding is made, in words; "" if not known.
    """

    id: str
    dim: int
    sha256: str = ""
    preprocessing: str = ""

    @classmethod
    def of(cls, weights: str | Weights) -> Self:
        """The contract of declared weights.

        Raises
        ------
        WeightsError
            They make no embeddings, or nothing of that name is declared.
        """
        from mien.weights import info

        declared = info(weights)
        if declared.embedding is None:
            raise WeightsError(
                f"{declared.name} make no embeddings", got=declared.task, expected="weights for the task embedding"
            )
        mirrored = ", mean with the mirror image" if declared.embedding.flip else ""
        return cls(
            id=declared.embedding.id,
            dim=declared.embedding.dim,
            sha256=declared.sha256,
            preprocessing=f"{declared.input.text}{mirrored}",
        )

    @property
    def weights(self) -> str:
        """Name of the weights, for `mien.weights.info`."""
        return self.id.partition("@")[0]

    def check(self, other: Contract) -> None:
        """ContractMismatch unless `other` is the same, as far as both are known."""
        for name in ("id", "dim", "sha256", "preprocessing"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine and its and mine != its:
                raise ContractMismatch(
                    f"the gallery was made with other embeddings ({name})", got=f"{its}", expected=f"{mine}"
                )


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody in a gallery.

    Parameters
    ----------
    id
        Number, never given to anybody else.
    name
        As enrolled; no two people have the same.
    faces
        How many are kept.
    created
        UTC.
    retain_until
        Last day on which the person may be kept; None for no end.
    basis
        Legal bases or notes of consent that the faces were enrolled on, in order.
    """

    id: int
    name: str
    faces: int
    created: str
    retain_until: str | None = None
    basis: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face of a person, and where it comes from.

    Parameters
    ----------
    id
        Number, never given to another face.
    person, person_id
        Whose it is.
    source, sha256
        Path (or name) of the picture and the hash of its bytes; "" where unknown.
    box
        Corners x0, y0, x1, y1 in pixels of the picture.
    quality, score
        Of the face and of the detection, 0 to 1.
    created, retain_until, basis, who
        When, until when, on what basis and by whom it was enrolled.
    crop
        Whether the aligned face itself is kept.
    """

    id: int
    person: str
    person_id: int
    source: str
    sha256: str
    box: tuple[float, float, float, float] | None
    quality: float | None
    score: float | None
    created: str
    retain_until: str | None
    basis: str
    who: str
    crop: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Match:
    """A person that a search found.

    Parameters
    ----------
    person, person_id
        Who.
    similarity
        Cosine with the person's best face, or with the pooled template.
    face_id, source
        The person's most similar face and its picture.
    """

    person: str
    person_id: int
    similarity: float
    face_id: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class RefusalReason(StrEnum):
    """Why a picture was not enrolled."""

    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    TOO_SMALL = "too_small"
    TOO_BLURRED = "too_blurred"
    LOW_QUALITY = "low_quality"
    VIDEO = "video"
    SAME_PICTURE = "same_picture"
    SAME_FACE = "same_face"
    LOOKS_LIKE_OTHER = "looks_like_other"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A picture that was not enrolled, and why.

    Parameters
    ----------
    source, person
        Which, and for whom.
    reason, text
        The kind, for machines, and in words.
    value, limit
        What was measured and what was needed.
    """

    source: str
    person: str
    reason: RefusalReason
    text: str
    value: float | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Added:
    """What became of a batch, after it was committed.

    Parameters
    ----------
    ids : (n,)
        Numbers of the faces; -1 where the person had a face from that picture already.
    generation
        Change number of the gallery after it.
    new_people
        How many were not there before.
    """

    ids: Ints
    generation: int
    new_people: int


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """What was deleted.

    Parameters
    ----------
    people, faces
        How many.
    complete
        Whether nothing of them is left in any file of the gallery. False where another process is reading an older
        state at this moment, which is then still in the write-ahead log: run `vacuum` when it is done.
    """

    people: int
    faces: int
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """A line of the log: who did what to how many, and when. Never a name, never an embedding.

    Parameters
    ----------
    id, at, who
        Number of the line, UTC, account or whatever the program was told.
    action
        "create", "enrol", "search", "rename", "merge", "delete", "expire", "retain", "import", "export", "calibrate",
        "vacuum".
    people
        Numbers of the people meant, at most 20 of them.
    count
        How many faces, or searches.
    note
        The purpose that was stated, or what else there is to say.
    run
        The same for all lines of one call.
    """

    id: int
    at: str
    who: str
    action: str
    people: tuple[int, ...]
    count: int
    note: str
    run: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class FpirPoint:
    """A threshold of an open-set search, and the errors it makes, as `Gallery.calibrate` measured them.

    Parameters
    ----------
    fpir
        Share of searches for strangers that show anybody.
    threshold, low, high
        Cosine, with its 95 % bootstrap interval.
    fnir
        Share of searches for people who are in the gallery that do not show them first; None where nobody has two
        pictures.
    """

    fpir: float
    threshold: float
    low: float | None = None
    high: float | None = None
    fnir: float | None = None


@dataclass(frozen=True, kw_only=True)
class SearchCalibration:
    """Thresholds by false positive identification rate, measured on the gallery itself.

    Parameters
    ----------
    points
        Rates falling.
    score
        "max" or "template": what the thresholds are for.
    searches, mated
        Searches for strangers, and for people of whom there is another picture.
    people, faces
        In the gallery at that time: rates are carried over to another size, see `mien.gallery.thresholds`.
    date
        ISO date.
    """

    points: tuple[FpirPoint, ...]
    score: str
    searches: int
    mated: int
    people: int
    faces: int
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The calibration that `to_dict` made plain."""
        points = tuple(FpirPoint(**point) for point in plain["points"])
        return cls(**{**plain, "points": points})


@dataclass(frozen=True, kw_only=True)
class GalleryInfo:
    """What a gallery is and how much is in it.

    Parameters
    ----------
    address, id
        Where, and its own number, which an export or a copy keeps.
    created
        UTC.
    contract
        Of its embeddings.
    people, faces, pictures, crops
        How many.
    expired
        Faces whose date has passed: they are no longer found, and `expire` deletes them.
    dtype
        Of the stored embeddings.
    size_mb, index_mb
        On disk, MB (10^6 bytes); None where the address has no files of ours.
    generation, indexed
        Change number, and the number that the index holds.
    audit_searches
        Whether searches are written to the log.
    calibration
        If one was measured.
    """

    address: str
    id: str
    created: str
    contract: Contract
    people: int
    faces: int
    pictures: int
    crops: int
    expired: int
    dtype: str
    size_mb: float | None
    index_mb: float | None
    generation: int
    indexed: int
    audit_searches: bool
    calibration: SearchCalibration | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Faces that are to be enrolled together, one row each: a struct of arrays, checked when it is made.

    Parameters
    ----------
    people
        (n,) names.
    embeddings : (n, d)
        Of any length above zero; kept at length one.
    sources, sha256
        (n,) path or name of each picture, and the hash of its bytes. Without a hash a picture cannot be recognised when
        it comes again; then that of the embedding takes its place.
    sizes : (n, 2), optional
        Width and height of the pictures, px.
    boxes : (n, 4), optional
        Corners in pixels.
    qualities, scores : (n,), optional
        0 to 1.
    crops
        (n,) the aligned faces as JPEG, if they are to be kept.
    retain_until
        (n,) dates, or one for all.
    basis
        (n,) legal basis or note of consent, or one for all.
    created
        (n,) times at which they were enrolled elsewhere, for an import. Default: now.
    """

    people: Sequence[str]
    embeddings: Floats
    sources: Sequence[str] = ()
    sha256: Sequence[str] = ()
    sizes: ArrayLike | None = None
    boxes: ArrayLike | None = None
    qualities: ArrayLike | None = None
    scores: ArrayLike | None = None
    crops: Sequence[bytes | None] | None = None
    retain_until: Sequence[str | None] | str | None = None
    basis: Sequence[str] | str = ""
    created: Sequence[str] | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        n = len(self.people)
        put(self, "people", tuple(tidy_name(name) for name in self.people))
        put(self, "embeddings", unit(self.embeddings))
        if self.embeddings.shape[0] != n:
            raise ShapeError("one embedding a person is needed", got=self.embeddings.shape, expected=f"({n}, d)")
        hashes = tuple(self.sha256) or ("",) * n
        put(self, "sha256", tuple(h or embedding_hash(row) for h, row in zip(hashes, self.embeddings, strict=True)))
        put(self, "sources", tuple(self.sources) or ("",) * n)
        for name, width in (("sizes", 2), ("boxes", 4), ("qualities", 0), ("scores", 0)):
            value = getattr(self, name)
            if value is not None:
                array = np.asarray(value, np.float64)
                if array.shape != ((n, width) if width else (n,)):
                    wanted = f"({n}, {width})" if width else f"({n},)"
                    raise ShapeError(f"{name} does not fit the faces", got=array.shape, expected=wanted)
                put(self, name, array)
        dates = self.retain_until
        every = [dates] * n if dates is None or isinstance(dates, str) else dates
        put(self, "retain_until", tuple(day(one) for one in every))
        put(self, "basis", (self.basis,) * n if isinstance(self.basis, str) else tuple(self.basis))
        given = [name for name in ("crops", "created") if getattr(self, name) is not None]
        for name in ("sources", "sha256", "retain_until", "basis", *given):
            if len(getattr(self, name)) != n:
                raise ShapeError(f"{name} does not fit the faces", got=len(getattr(self, name)), expected=n)

    def __len__(self) -> int:
        return len(self.people)


def embedding_hash(row: Floats) -> str:
    """What stands for the hash of a picture that is not there."""
    import hashlib

    return "embedding:" + hashlib.sha256(np.ascontiguousarray(row, np.float32).tobytes()).hexdigest()


def unit(embeddings: ArrayLike) -> Floats:
    """Rows (n, d) at length one, float32.

    Raises
    ------
    ShapeError, ValueRangeError
        No two dimensions; a row that is zero or not finite.
    """
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2:
        raise ShapeError("embeddings are rows", got=rows.shape, expected="(n, d)")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueRangeError("an embedding has no direction", got="a zero, NaN or infinite row")
    return np.asarray(rows / lengths, np.float32)
