"""``gallery``: a gallery as a whole; what is in it, out and in, thresholds, dates, room, and the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mien.gallery import (
    AuditEntry,
    Contract,
    Deleted,
    Gallery,
    GalleryInfo,
    SearchCalibration,
    export_gallery,
    import_gallery,
)
from mien.gallery.exchange import Exported, ImportedFaces
from mien.metrics.identification import USUAL_FPIRS
from mien.verbs._pipeline import Progress
from mien.verbs.enroll import opened


@dataclass(frozen=True, kw_only=True)
class Vacuumed:
    """What became of the files.

    Parameters
    ----------
    before_mb, after_mb
        Their size, MB (10^6 bytes); None where the address has no files of ours.
    complete
        Whether all room was given back; False where another process is reading an older state.
    """

    before_mb: float | None
    after_mb: float | None
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def create_gallery(
    path: str, *, weights: str = "mien-embedder", dtype: str = "float32", audit_searches: bool = True
) -> GalleryInfo:
    """Makes an empty gallery; enroll does so by itself, with the options that are the default here.

    Parameters
    ----------
    path
        A file that is not there yet, or milvus://host:port.
    weights
        Name of the embedder's weights, to which the gallery is pinned.
    dtype
        How embeddings are kept: "float32", or "float16" for half the size.
    audit_searches
        Write searches to the log too, with how many and what for.

    Returns
    -------
    GalleryInfo

    Raises
    ------
    WeightsError, OptionError
        There are no such weights; embeddings cannot be kept like that.
    GalleryError
        There is a gallery of other weights, or something else.
    """
    contract = Contract.of(weights)
    with Gallery.open(path, contract=contract, create=True, dtype=dtype, audit_searches=audit_searches) as gallery:
        return gallery.info()


def info_gallery(path: str) -> GalleryInfo:
    """Shows how many people and faces there are, of which weights, how large it is and how it was calibrated.

    Parameters
    ----------
    path
        A file, or milvus://host:port.

    Returns
    -------
    GalleryInfo

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with Gallery.open(path) as gallery:
        return gallery.info()


def calibrate_gallery(
    path: str, *, fpirs: Iterable[float] = USUAL_FPIRS, score: str = "max", most: int = 2000, seed: int = 0
) -> SearchCalibration:
    """Measures which similarity stands for which rate of false alarms, by searching for people as if they were absent.

    The thresholds are kept in the gallery, and search takes them from there.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    fpirs
        False positive identification rates; those too small for the number of people are left out.
    score
        "max" or "template", as search is going to use it.
    most
        Searches, spread over people.
    seed
        Which faces are searched with.

    Returns
    -------
    SearchCalibration

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it has too few people.
    OptionError
        Unknown score.
    """
    with Gallery.open(path) as gallery:
        return gallery.calibrate(fpirs=tuple(fpirs), score=score, most=most, seed=seed)


def export_faces(path: str, target: str, *, purpose: str = "", progress: Progress | None = None) -> Exported:
    """Writes people, faces, embeddings and where they come from to a file that others can read.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    target
        `.npz`, or `.parquet` (extra ``tables``).
    purpose
        For the log.
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    Exported

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    OptionError, MediaError
        Another kind of file, or it cannot be written.
    """
    with Gallery.open(path) as gallery:
        return export_gallery(gallery, target, note=purpose, progress=progress)


def import_faces(
    path: str,
    file: str,
    *,
    trust: bool = False,
    weights: str | None = None,
    purpose: str = "",
    progress: Progress | None = None,
) -> ImportedFaces:
    """Takes over the faces of a file that export wrote, or that others computed; the gallery is made if need be.

    Neither quality nor likeness is judged. Doing it again does no harm.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    file
        `.npz`, or `.parquet` (extra ``tables``), with identity, embedding and contract at least.
    trust
        Take embeddings that do not say of what weights they are for those of the gallery.
    weights
        Name of the embedder's weights for a new gallery. Default: mien-embedder.
    purpose
        For the log.
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    ImportedFaces

    Raises
    ------
    ContractMismatch, GalleryError
        The embeddings are of other weights; the gallery cannot be used.
    MediaNotFound, TableError, OptionError
        There is no such file, or it lacks the columns.
    """
    with opened(path, weights, create=True) as gallery:
        return import_gallery(gallery, file, trust=trust, note=purpose, progress=progress)


def expire_faces(path: str, *, on: str | None = None, purpose: str = "") -> Deleted:
    """Deletes every person and face whose last day has passed.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    on
        Day that counts as today, YYYY-MM-DD. Default: today (UTC).
    purpose
        For the log.

    Returns
    -------
    Deleted

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    OptionError
        It is no date.
    """
    with Gallery.open(path) as gallery:
        return gallery.expire(on=on, note=purpose)


def vacuum_gallery(path: str, *, purpose: str = "") -> Vacuumed:
    """Gives back the room of what was deleted, and leaves nothing deleted in any file.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    purpose
        For the log.

    Returns
    -------
    Vacuumed

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with Gallery.open(path) as gallery:
        before = _size(gallery.info())
        complete = gallery.vacuum(note=purpose)
        return Vacuumed(before_mb=before, after_mb=_size(gallery.info()), complete=complete)


def _size(info: GalleryInfo) -> float | None:
    return None if info.size_mb is None else round(info.size_mb + (info.index_mb or 0), 3)


def audit_gallery(
    path: str, *, most: int = 100, action: str | None = None, since: str | None = None
) -> tuple[AuditEntry, ...]:
    """Shows who did what to how many faces, and when; the latest first. The log has no names and no embeddings.

    Parameters
    ----------
    path
        A file, or milvus://host:port.
    most
        At most so many lines.
    action
        Only this: "enrol", "search", "rename", "merge", "delete", "expire", "retain", "import", "export", "calibrate",
        "vacuum" or "create".
    since
        Only from this day or time (UTC) on, YYYY-MM-DD.

    Returns
    -------
    tuple of AuditEntry

    Raises
    ------
    GalleryNotFound, GalleryError
        There is no gallery, or it cannot be used.
    """
    with Gallery.open(path) as gallery:
        return gallery.audit(most=most, action=action, since=since)


COMMANDS: dict[str, Callable[..., Any]] = {
    "info": info_gallery,
    "create": create_gallery,
    "calibrate": calibrate_gallery,
    "export": export_faces,
    "import": import_faces,
    "expire": expire_faces,
    "vacuum": vacuum_gallery,
    "audit": audit_gallery,
}
