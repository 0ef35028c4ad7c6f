"""``enroll``: people and their faces into a gallery, from folders, tables or pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import EmptyMedia, MediaError, MienError, OptionError, TableError
from mien.faces import Failure
from mien.gallery import Batch, Contract, Gallery, Refusal, RefusalReason
from mien.gallery.base import SAME_FACE, new_run
from mien.gallery.records import day, tidy_name
from mien.verbs import _choose, _pairs, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source

if TYPE_CHECKING:
    from mien.faces import Faces
    from mien.media import Photo

AHEAD = 64
"""Pictures that are asked for in the gallery together, before any of them is decoded."""

ALIKE = 0.5
"""A second face counts if its box's side is at least this share of the largest one's, unlike people behind."""

STRICT_FMR = 1e-3
"""False match rate whose threshold `strict` takes."""


@dataclass(frozen=True, kw_only=True)
class EnrolledFace:
    """A face that was enrolled.

    Parameters
    ----------
    id
        Its number in the gallery.
    person, source
        Whose, and from which picture.
    quality
        0 to 1.
    """

    id: int
    person: str
    source: str
    quality: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What came of an enrolment.

    Parameters
    ----------
    gallery
        Where to.
    pictures
        How many were given.
    enrolled
        Faces that are kept now.
    new_people
        People who were not there before.
    already
        Pictures that were enrolled before, by the hash of their bytes.
    faces
        The new ones.
    refused
        Pictures that were not taken, with reasons. Nothing is kept of them: the next run looks at them again.
    failures
        Pictures that could not be read.
    """

    gallery: str
    pictures: int
    enrolled: int
    new_people: int
    already: int
    faces: tuple[EnrolledFace, ...]
    refused: tuple[Refusal, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        """Whether any of what was given is in the gallery now."""
        return self.enrolled + self.already > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    """A picture, for whom it is, and what else a table says about it."""

    source: Any
    name: str
    person: str
    basis: str
    retain_until: str | None


def enroll(
    source: Source,
    *,
    gallery: str | os.PathLike[str] | Gallery,
    person: str | None = None,
    images: str | os.PathLike[str] | None = None,
    recursive: bool = False,
    basis: str = "",
    retain_until: str | None = None,
    purpose: str = "",
    crops: bool = False,
    min_quality: float = 0.3,
    only_one: bool = True,
    choose: str = "largest",
    same_face: float = SAME_FACE,
    strict: bool = False,
    quality: str = "stability",
    dtype: str = "float32",
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    weights: str | None = None,
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Enrolment:
    """Enrols people's faces in a gallery, which is made if it is not there; broken off, it goes on where it stopped.

    A folder gives one person for each of its folders, under the folder's name, and one for each picture that lies in it
    directly, under the picture's name. A table has the columns file,identity and, if wanted, basis and retain_until.

    Parameters
    ----------
    source
        A folder of people, a CSV file, pictures or globs; in Python also arrays and other pictures with `person`, and
        a mapping from names to pictures.
    gallery
        A file, or milvus://host:port; in Python also an open gallery.
    person
        Everything is of this person.
    images
        Folder that the file names of a table are relative to. Default: the folder of the table.
    recursive
        Go into the folders of a person's folder.
    basis
        Legal basis, or note of the consent, that is kept with the faces.
    retain_until
        Last day on which the faces may be kept, YYYY-MM-DD.
    purpose
        For the log.
    crops
        Keep the aligned faces too, 112 px wide. Without, only embeddings are kept, of which no picture is left.
    min_quality
        Least quality of a face, 0 to 1.
    only_one
        Refuse pictures with several faces of like size; otherwise take the one that `choose` says.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    same_face
        Similarity from which on a face is the same picture again, in another file; above 1 for never.
    strict
        Refuse a face that is more like somebody else than like its own person, from the threshold for a false match
        rate of 0.001 on.
    quality
        How recognisability is told: "stability", "norm" or "components", as in `analyze`.
    dtype
        How a new gallery keeps embeddings: "float32", or "float16" for half the size.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    min_face
        Least side of a face in pixels of the picture.
    weights
        Name of the embedder's weights. Default: those of the gallery; of a new one, mien-embedder.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together, and enrolled in one transaction.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Enrolment
        How many faces of whom, which pictures were refused and why, and which could not be read.

    Raises
    ------
    MediaNotFound, EmptyMedia, TableError
        There is nothing to enrol, or the table cannot be used.
    ContractMismatch, GalleryError
        The gallery is of other weights, or cannot be used.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    if not 0 <= min_quality <= 1 or not same_face > 0:
        raise OptionError("min_quality lies between 0 and 1, and same_face above 0", got=(min_quality, same_face))
    early: list[Failure] = []
    entries = _entries(source, person, images, recursive, basis, day(retain_until), early)
    with opened(gallery, weights, create=True, dtype=dtype) as place:
        plan = Plan(
            detector=detector, landmarks=landmarks, embedder=weights or place.contract.weights, threshold=threshold,
            size=size, min_face=min_face, quality=quality, device=device, backend=backend, batch_size=batch_size,
            template="arcface112" if crops else None,
        )  # fmt: skip
        _pipeline.Networks(plan)  # what is missing is told before the first picture is read
        conflict = _conflict(place) if strict else None
        work = _Work(place, plan, min_quality, only_one, choose, same_face, conflict, purpose, crops, len(entries))
        work.failures += early
        for ahead in _pipeline.chunks(entries, AHEAD):
            for photos in _pipeline.chunks(work.read(ahead), batch_size):
                work.enroll(photos)
                work.told(progress)
        work.told(progress)
        return work.result()


class opened:
    """The gallery at an address, closed at the end; or one that is open already, which stays so.

    Parameters
    ----------
    gallery
        Address, or gallery.
    weights
        If given, the gallery must be of these.
    create, dtype
        Make it if it is not there; of `weights`, or of the bundled embedder.
    read_only
        Never write to it.
    """

    def __init__(
        self,
        gallery: str | os.PathLike[str] | Gallery,
        weights: str | None = None,
        *,
        create: bool = False,
        dtype: str = "float32",
        read_only: bool = False,
    ) -> None:
        self.own = not isinstance(gallery, Gallery)
        if isinstance(gallery, Gallery):
            self.gallery = gallery
            if weights is not None:
                gallery.contract.check(Contract.of(weights))
            return
        contract = None if weights is None else Contract.of(weights)
        if create and contract is None:
            try:
                self.gallery = Gallery.open(gallery, read_only=read_only)
                return
            except MienError as error:
                if error.code != "gallery_not_found":
                    raise
            contract = Contract.of("mien-embedder")
        self.gallery = Gallery.open(gallery, contract=contract, create=create, dtype=dtype, read_only=read_only)

    def __enter__(self) -> Gallery:
        return self.gallery

    def __exit__(self, *error: object) -> None:
        if self.own:
            self.gallery.close()


def _conflict(gallery: Gallery) -> float:
    """The threshold that `strict` asks for."""
    from mien.verbs.calibrate import bundled_calibration

    return bundled_calibration(gallery.contract.weights).threshold_at(STRICT_FMR)


class _Work:
    """An enrolment under way."""

    def __init__(
        self, gallery: Gallery, plan: Plan, min_quality: float, only_one: bool, choose: str, same_face: float,
        conflict: float | None, purpose: str, crops: bool, total: int,
    ) -> None:  # fmt: skip
        self.gallery, self.plan, self.total = gallery, plan, total
        self.min_quality, self.only_one, self.choose = min_quality, only_one, choose
        self.same_face, self.conflict, self.purpose, self.crops = same_face, conflict, purpose, crops
        self.run = new_run()
        self.faces: list[EnrolledFace] = []
        self.refused: list[Refusal] = []
        self.failures: list[Failure] = []
        self.already = self.new_people = self.done = 0
        self.seen: dict[tuple[str, str], str] = {}

    def read(self, entries: Sequence[_Entry]) -> Iterator[tuple[_Entry, str, Photo]]:
        """Those of the entries that are not enrolled yet, decoded, with the hashes of their bytes."""
        from mien.media import read_images

        hashed: list[tuple[_Entry, str]] = []
        for entry in entries:
            try:
                key, video = _digest(entry.source)
            except MienError as error:
                self.failures.append(Failure.of(entry.name, error))
                continue
            if video:
                self.refuse(entry, RefusalReason.VIDEO, "is a video: save the frames that you mean as pictures")
                continue
            hashed.append((entry, key))
        known = self.gallery.known([key for _, key in hashed])
        todo: list[tuple[_Entry, str]] = []
        for entry, key in hashed:
            before = self.seen.setdefault((key, entry.person), entry.name)
            if entry.person in known.get(key, ()):
                self.already += 1
            elif before is not entry.name:
                self.refuse(entry, RefusalReason.SAME_PICTURE, f"is the same file as {before}")
            else:
                todo.append((entry, key))
        self.done += len(entries) - len(todo)
        for (entry, key), outcome in zip(todo, read_images([entry.source for entry, _ in todo]), strict=True):
            if isinstance(outcome, Failure):
                self.failures.append(Failure(entry.name, outcome.error, outcome.code, outcome.hint))
                self.done += 1
            else:
                yield entry, key, outcome

    def enroll(self, photos: Sequence[tuple[_Entry, str, Photo]]) -> None:
        """Embeds, judges and keeps a batch: one transaction."""
        faces = _pipeline.run_photos([photo for _, _, photo in photos], self.plan)
        kept: list[tuple[int, int]] = []
        for at, (entry, _, _) in enumerate(photos):
            row = self.chosen(entry, faces, at)
            if row is not None:
                kept.append((at, row))
        entries = [photos[at][0] for at, _ in kept]
        rows = np.array([row for _, row in kept], np.intp)
        chosen = faces[rows]
        if len(chosen):
            judged = self.gallery.judge(
                [entry.person for entry in entries], chosen.embeddings, sources=[entry.name for entry in entries],
                same_face=self.same_face, conflict=self.conflict,
            )  # fmt: skip
            self.refused += [refusal for refusal in judged if refusal is not None]
            passed = [at for at, refusal in enumerate(judged) if refusal is None]
            self.keep([(entries[at], photos[kept[at][0]][1]) for at in passed], chosen[np.array(passed, np.intp)])
        self.done += len(photos)

    def keep(self, entries: Sequence[tuple[_Entry, str]], faces: Faces) -> None:
        if not entries:
            return
        infos = [faces.images[index] for index in faces.image]
        batch = Batch(
            people=[entry.person for entry, _ in entries],
            embeddings=faces.embeddings,
            sources=[entry.name for entry, _ in entries],
            sha256=[key for _, key in entries],
            sizes=np.array([(info.width, info.height) for info in infos]),
            boxes=faces.boxes,
            qualities=faces.quality,
            scores=faces.scores,
            crops=[_jpeg(crop) for crop in faces.crops] if self.crops else None,
            retain_until=[entry.retain_until for entry, _ in entries],
            basis=[entry.basis for entry, _ in entries],
        )
        added = self.gallery.add(batch, run=self.run, note=self.purpose)
        self.new_people += added.new_people
        for number, (entry, _), grade in zip(added.ids.tolist(), entries, faces.quality.tolist(), strict=True):
            if number < 0:  # another process was quicker
                self.already += 1
            else:
                self.faces.append(
                    EnrolledFace(id=number, person=entry.person, source=entry.name, quality=round(grade, 4))
                )

    def chosen(self, entry: _Entry, faces: Faces, at: int) -> int | None:
        """Row of the face of a picture that is meant, if it is good enough."""
        from mien.geometry.boxes import area
        from mien.verbs.verify import _remarks

        mine = np.flatnonzero(faces.image == at)
        if not len(mine):
            self.refuse(entry, RefusalReason.NO_FACE, "shows no face")
            return None
        sides = np.sqrt(area(faces.boxes[mine]))
        alike = int((sides >= ALIKE * sides.max()).sum())
        if self.only_one and alike > 1:
            text = f"shows {alike} faces of like size; cut one out, or give only_one=False (--no-only-one)"
            self.refuse(entry, RefusalReason.SEVERAL_FACES, text, alike, 1)
            return None
        picked = _choose.choose(faces[mine], self.choose)
        assert picked is not None
        row = int(mine[picked])
        for remark in _remarks(faces[row], "it", self.min_quality):
            if remark.blocks:
                text = remark.text.removeprefix("the face in picture it ")
                self.refuse(entry, RefusalReason(remark.reason.value), text, remark.value, remark.limit)
                return None
        return row

    def refuse(
        self, entry: _Entry, reason: RefusalReason, text: str, value: float | None = None, limit: float | None = None
    ) -> None:
        self.refused.append(
            Refusal(source=entry.name, person=entry.person, reason=reason, text=text, value=value, limit=limit)
        )

    def told(self, progress: Progress | None) -> None:
        if progress is not None:
            progress(self.done, self.total, "pictures")

    def result(self) -> Enrolment:
        return Enrolment(
            gallery=self.gallery.address, pictures=self.total, enrolled=len(self.faces), new_people=self.new_people,
            already=self.already, faces=tuple(self.faces), refused=tuple(self.refused), failures=tuple(self.failures),
        )  # fmt: skip


# ------------------------------------------------------------------------------------------- who is on what


def _entries(
    source: Source, person: str | None, images: str | os.PathLike[str] | None, recursive: bool, basis: str,
    until: str | None, failures: list[Failure],
) -> list[_Entry]:  # fmt: skip
    """All pictures with the people they are for."""
    from mien.media import expand_sources

    def of(picture: Any, who: str, number: int | None = None) -> _Entry:
        named = isinstance(picture, str | os.PathLike)
        return _Entry(picture, os.fspath(picture) if named else f"picture {number}", tidy_name(who), basis, until)

    if isinstance(source, Mapping):
        return [
            of(picture, who, number)
            for who, pictures in source.items()
            for number, picture in enumerate(expand_sources(pictures, recursive=recursive))
        ]
    is_path = isinstance(source, str | os.PathLike)
    if is_path and Path(source).suffix.lower() == ".csv":
        if person is not None:
            raise OptionError("a table says who is who", got=f"person={person!r}", hint="leave person out")
        return _of_table(Path(source), images, basis, until)
    if person is not None:
        pictures = expand_sources(source, recursive=recursive)
        return [of(picture, person, number) for number, picture in enumerate(pictures)]
    parts = [source] if is_path else list(source) if isinstance(source, list | tuple) else None
    if parts is None or not all(isinstance(part, str | os.PathLike) for part in parts):
        raise OptionError(
            "nobody can tell whose these pictures are", got=source, expected="paths, or person=",
            hint="name the person, or give a mapping from names to pictures",
        )  # fmt: skip
    entries: list[_Entry] = []
    for part in parts:
        if os.path.isdir(part):
            entries += [of(picture, who) for picture, who in _of_folder(Path(part), recursive, failures)]
        else:
            entries += [of(picture, Path(picture).stem) for picture in expand_sources(part, recursive=recursive)]
    if not entries:
        raise EmptyMedia(
            "there is no picture to enrol", got=source,
            hint="one folder for each person in it, or pictures that bear the names of the people",
        )  # fmt: skip
    return entries


def _of_folder(folder: Path, recursive: bool, failures: list[Failure]) -> Iterator[tuple[Any, str]]:
    """Pictures and people: each folder in it is a person, and so is each picture that lies in it directly."""
    from mien.media import expand_sources

    with suppress(EmptyMedia):
        yield from ((picture, Path(picture).stem) for picture in expand_sources(folder))
    for place in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        try:
            yield from ((picture, place.name) for picture in expand_sources(place, recursive=recursive))
        except MediaError as error:
            failures.append(Failure.of(str(place), error))


def _of_table(table: Path, images: str | os.PathLike[str] | None, basis: str, until: str | None) -> list[_Entry]:
    rows = _pairs.read_table(table, ("file", "identity"))
    folder = _pairs.folder_of(images, table)
    files = _pairs.existing(folder, [row["file"].strip() for row in rows], table)
    entries = []
    for line, (row, file) in enumerate(zip(rows, files, strict=True), 2):
        try:
            own = day((row.get("retain_until") or "").strip())
            who = tidy_name(row["identity"])
        except OptionError as error:
            raise TableError(f"line {line} of {table.name}: {error.what}", got=error.got) from error
        entries.append(_Entry(file, str(file), who, (row.get("basis") or "").strip() or basis, own or until))
    return entries


def _digest(source: Any) -> tuple[str, bool]:
    """SHA-256 of a picture's bytes (of its pixels, where there are no bytes), and whether it is a video."""
    from mien.media import load_image
    from mien.media.files import check_file, of_os_error
    from mien.media.formats import HEAD, sniff

    if isinstance(source, str | os.PathLike):
        check_file(os.fspath(source))
        try:
            with open(source, "rb") as file:
                video = sniff(file.read(HEAD)) == "video"
                file.seek(0)
                return ("" if video else hashlib.file_digest(file, "sha256").hexdigest()), video
        except OSError as error:
            raise of_os_error(error, source) from error
    if isinstance(source, bytes | bytearray):
        return hashlib.sha256(source).hexdigest(), False
    pixels = load_image(source)
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    if hasattr(source, "seek"):
        source.seek(0)
    return f"pixels:{digest.hexdigest()}", False


def _jpeg(crop: Any) -> bytes:
    import cv2

    done, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise MediaError("the aligned face cannot be written as JPEG", got=crop)
    return data.tobytes()
