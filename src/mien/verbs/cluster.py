"""``cluster``: an album of pictures by the people on them, whose names nobody need know."""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mien.errors import NotAFile, OptionError
from mien.faces import Faces, Failure
from mien.gallery import Gallery
from mien.gallery.base import pooled
from mien.gallery.clusters import METHODS, cluster_faces
from mien.geometry.checks import choice
from mien.verbs import _output, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source
from mien.verbs.calibrate import bundled_calibration
from mien.verbs.enroll import opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = ("link", "copy", "none")
"""What the folder of each person in an album holds: links to the pictures, copies of them, or nothing."""

SHOWN = 60
"""Faces of one person on the page."""


@dataclass(frozen=True, kw_only=True)
class AlbumFace:
    """A face of an album.

    Parameters
    ----------
    source, time_s
        The picture, and the time in it if it is a frame of a video.
    box
        Corners in pixels.
    quality
        0 to 1.
    crop
        The aligned face in the album's folder; "" without one.
    """

    source: str
    time_s: float | None
    box: tuple[float, float, float, float]
    quality: float
    crop: str = ""


@dataclass(frozen=True, kw_only=True)
class AlbumPerson:
    """Faces that are taken for one person's.

    Parameters
    ----------
    name
        "person-001" and so on, the largest first; or the name that a gallery gives.
    known
        Whether a gallery gave the name.
    similarity
        With the person of the gallery.
    pictures
        How many show this person.
    faces
        The best first.
    """

    name: str
    known: bool
    similarity: float | None
    pictures: int
    faces: tuple[AlbumFace, ...]


@dataclass(frozen=True, kw_only=True)
class Album:
    """Pictures by people.

    Parameters
    ----------
    out
        The folder, "" if none was asked for.
    pictures, faces
        How many were looked at, and found.
    people
        With at least `least` faces, the largest first.
    alone
        Faces that are like too few others.
    poor
        Faces of too low quality to be compared.
    threshold, threshold_from
        Mean cosine from which on two groups are one person's, and where it comes from.
    method
        How groups are joined.
    failures
        Pictures that could not be read.
    """

    out: str
    pictures: int
    faces: int
    people: tuple[AlbumPerson, ...]
    alone: tuple[AlbumFace, ...]
    poor: tuple[AlbumFace, ...]
    threshold: float
    threshold_from: str
    method: str
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def cluster(
    source: Source,
    *,
    out: str | os.PathLike[str] | None = None,
    gallery: str | os.PathLike[str] | Gallery | None = None,
    pictures: str = "link",
    overwrite: bool = False,
    title: str = "Album",
    method: str = "average",
    cluster_threshold: float | None = None,
    fmr: float = 1e-3,
    least: int = 2,
    min_quality: float = 0.15,
    quality: str = "stability",
    recursive: bool = False,
    every_s: float | None = None,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 20.0,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Album:
    """Sorts pictures by the people on them, without knowing anybody, and makes an album of it.

    The album is a folder with a page to look at (index.html), everything as data (album.json), the faces, and a folder
    for each person.

    Parameters
    ----------
    source
        Pictures, videos, folders or globs; in Python also arrays and whatever else `embed` takes.
    out
        Folder that receives the album. Default: none is written.
    gallery
        A gallery whose names people get whom it knows.
    pictures
        What the folder of each person holds: "link" (to the pictures), "copy" (of them) or "none".
    overwrite
        Replace the album that is in the folder.
    title
        Of the page.
    method
        "average": groups are joined while their mean cosine reaches the threshold. "connected": faces that a chain of
        pairs at or above it connects are one person.
    cluster_threshold
        Cosine for that. Default: the one calibrated for `fmr`.
    fmr
        False match rate whose threshold is taken.
    least
        Faces that a person must have; others are alone.
    min_quality
        Least quality of a face, 0 to 1; faces below it are set apart, since they are like everybody.
    quality
        How recognisability is told: "stability", "norm" or "components", as in `analyze`.
    recursive
        Go into the folders of folders.
    every_s
        For videos: seconds between the frames that are looked at. Default: every frame.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at.
    min_face
        Least side of a face in pixels of the picture.
    weights
        Name of the embedder's weights.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Album
        People with their faces, best first.

    Raises
    ------
    OptionError
        An unknown method, no calibrated threshold, or the folder holds something already.
    MediaError
        The album cannot be written.
    WeightsError, DeviceUnavailable, GalleryError
        What was asked for is not there.
    """
    choice("method", method, METHODS)
    choice("pictures", pictures, PICTURES)
    if least < 1:
        raise OptionError("a person has a face at least", got=f"least={least}", expected="1 or more")
    level, origin = cluster_threshold, "the threshold that was given"
    if level is None:
        table = bundled_calibration(weights)
        level, origin = table.threshold_at(fmr), f"false match rate {fmr:g} on {table.set}"
    writer = None if out is None else _Writer(Path(out), overwrite)
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size, min_face=min_face,
        quality=quality, device=device, backend=backend, batch_size=batch_size,
        template=None if writer is None else "arcface112",
    )  # fmt: skip
    try:
        faces, crops = _look(source, plan, recursive, every_s, writer, progress)
        album = _album(faces, crops, level, origin, method, least, min_quality, gallery, weights, progress)
        return album if writer is None else writer.finish(album, pictures, title)
    finally:
        if writer is not None:
            writer.drop()


def _look(
    source: Source, plan: Plan, recursive: bool, every_s: float | None, writer: _Writer | None,
    progress: Progress | None,
) -> tuple[Faces, list[str]]:  # fmt: skip
    """All faces, whose crops go to the disk at once: a hundred thousand of them are 4 GB."""
    networks = _pipeline.Networks(plan)
    failures: list[Failure] = []
    parts: list[Faces] = []
    crops: list[str] = []
    done = 0
    stream, total = _pipeline._photos(source, recursive=recursive, every_s=every_s)
    for photos in _pipeline.chunks(_pipeline._without_failures(stream, failures), plan.batch_size):
        part = _pipeline.run_photos(photos, plan)
        if writer is not None:
            crops += [writer.face(crop) for crop in part.crops]
            part = part.without_columns("crops")
        parts.append(part)
        done += len(photos)
        if progress is not None:
            progress(done + len(failures), total, "pictures")
    if not parts:
        nothing = networks.nothing(plan)
        parts = [nothing if writer is None else nothing.without_columns("crops")]
    return _pipeline.with_failures(Faces.concat(parts), failures), crops


def _album(
    faces: Faces, crops: list[str], level: float, origin: str, method: str, least: int, min_quality: float,
    gallery: str | os.PathLike[str] | Gallery | None, weights: str, progress: Progress | None,
) -> Album:  # fmt: skip
    good = np.flatnonzero(faces.quality >= min_quality)
    groups = cluster_faces(faces.embeddings[good], level, method=method, progress=progress)
    order = np.argsort(groups, kind="stable")
    parts = [good[part] for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)] if len(good) else []
    every = [_face(faces, row, crops) for row in range(len(faces))]
    large = [part[np.argsort(-faces.quality[part], kind="stable")] for part in parts if len(part) >= least]
    named = _named(faces, large, gallery, weights) if gallery is not None and large else [None] * len(large)
    people = []
    width = max(3, len(str(len(large))))
    used: dict[str, int] = {}
    for number, (part, match) in enumerate(zip(large, named, strict=True), 1):
        name = f"person-{number:0{width}d}" if match is None else match[0]
        # Groups of one person that the pictures do not connect stay apart, under numbered names.
        used[name] = used.get(name, 0) + 1
        people.append(
            AlbumPerson(
                name=name if used[name] == 1 else f"{name} ({used[name]})",
                known=match is not None,
                similarity=None if match is None else round(match[1], 4),
                pictures=len(np.unique(faces.image[part])),
                faces=tuple(every[row] for row in part),
            )
        )
    alone = [row for part in parts if len(part) < least for row in part]
    return Album(
        out="", pictures=len(faces.images), faces=len(faces), people=tuple(people),
        alone=tuple(every[row] for row in alone),
        poor=tuple(every[row] for row in np.flatnonzero(faces.quality < min_quality)),
        threshold=level, threshold_from=origin, method=method, failures=faces.failures,
    )  # fmt: skip


def _face(faces: Faces, row: int, crops: list[str]) -> AlbumFace:
    info = faces.images[int(faces.image[row])]
    x0, y0, x1, y1 = (round(float(v), 2) for v in faces.boxes[row])
    return AlbumFace(
        source=info.source, time_s=info.time_s, box=(x0, y0, x1, y1), quality=round(float(faces.quality[row]), 4),
        crop=crops[row] if crops else "",
    )  # fmt: skip


def _named(
    faces: Faces, parts: Sequence[NDArray[np.intp]], gallery: str | os.PathLike[str] | Gallery, weights: str
) -> list[tuple[str, float] | None]:
    """Name and similarity of each group whom the gallery knows, by the pooled vector of its faces."""
    from mien.gallery.store import Rows

    rows = np.concatenate(parts)
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    nothing = np.full(len(rows), "", object)
    templates = pooled(
        Rows(
            ids=np.arange(len(rows)), person_ids=numbers, embeddings=faces.embeddings[rows],
            qualities=faces.quality[rows], names=nothing, sources=nothing,
        )
    )[1]  # fmt: skip
    with opened(gallery, weights) as place:
        if not len(place):
            return [None] * len(parts)
        level = place.threshold_at(0.01).threshold
        found = place.search(templates, k=1, threshold=level, note="names for an album")
    return [(matches[0].person, matches[0].similarity) if matches else None for matches in found]


# ------------------------------------------------------------------------------------------- the folder


class _Writer:
    """Writes an album beside its place, and puts it there when it is whole."""

    def __init__(self, out: Path, overwrite: bool) -> None:
        self.out = out
        if out.is_file():
            raise NotAFile("a file stands where the album should be written", got=out, hint="give a folder")
        there = out.is_dir() and any(out.iterdir())
        if there and not (overwrite and (out / "album.json").is_file()):
            raise OptionError(
                "the folder holds something already", got=out,
                hint="give overwrite=True (--overwrite) to replace an album; of other things none is touched",
            )  # fmt: skip
        _output.folder(out.parent)
        self.part = _output.folder(out.with_name(f".{out.name}-{os.getpid()}"))
        _output.folder(self.part / "faces")
        self.count = 0

    def face(self, crop: Any) -> str:
        """Keeps an aligned face; its name in the album."""
        from mien.media import save_image

        self.count += 1
        # A thousand files a folder, which every file manager can show.
        name = f"faces/{self.count // 1000:03d}/{self.count:06d}.jpg"
        _output.folder((self.part / name).parent)
        save_image(self.part / name, crop)
        return name

    def finish(self, album: Album, pictures: str, title: str) -> Album:
        from dataclasses import replace

        album = replace(album, out=str(self.out))
        names = _output.Names()
        folders = [names(_folder_name(person.name)) for person in album.people]
        if pictures != "none":
            for person, folder in zip(album.people, folders, strict=True):
                self.pictures(person, self.part / folder, pictures)
        plain = album.to_dict()
        for person_plain, folder in zip(plain["people"], folders, strict=True):
            person_plain["folder"] = folder if pictures != "none" else ""
        with _output.whole_file(self.part / "album.json") as file:
            json.dump(plain, file, indent=1)
        with _output.whole_file(self.part / "index.html") as file:
            file.write(page(album, folders if pictures != "none" else None, title))
        if self.out.is_dir():
            shutil.rmtree(self.out)
        os.replace(self.part, self.out)
        return album

    def pictures(self, person: AlbumPerson, folder: Path, how: str) -> None:
        _output.folder(folder)
        names = _output.Names()
        for source in dict.fromkeys(face.source for face in person.faces):
            file = Path(source)
            if not file.is_file():  # an array, say
                continue
            target = folder / f"{names(file.stem)}{file.suffix}"
            if how == "copy":
                shutil.copy2(file, target)
                continue
            # As seen from the place the folder is going to have.
            where = os.path.relpath(file.resolve(), (self.out / folder.name).resolve())
            try:
                target.symlink_to(where)
            except OSError as error:
                raise OptionError(
                    "links cannot be made here", got=str(error), hint="give pictures='copy' (--pictures copy)"
                ) from error

    def drop(self) -> None:
        """Away with what was not finished."""
        shutil.rmtree(self.part, ignore_errors=True)


def _folder_name(name: str) -> str:
    text = "".join(c if c.isalnum() or c in "-_. ()" else "_" for c in name).strip(" .")
    # Names that the album needs itself.
    return text if text and text.lower() not in ("faces", "index.html", "album.json") else f"{text or 'person'}_"


STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 15%, transparent); }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 2rem 1rem 4rem }
h1 { margin: 0 } h2 { margin: 0; font-size: 1.15rem } p { margin: .25rem 0 1rem; opacity: .7 }
section { border-top: 1px solid var(--line); padding: 1.25rem 0 }
section > p { margin: 0 0 .75rem }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 6px }
.faces img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 8px;
  background: var(--line) }
nav { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0 1.5rem }
nav a { text-align: center; width: 84px; color: inherit; text-decoration: none; font-size: .85rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap }
nav img { width: 64px; height: 64px; border-radius: 50%; object-fit: cover; display: block; margin: 0 auto .25rem }
"""


def page(album: Album, folders: Sequence[str] | None, title: str) -> str:
    """The album as one page, which needs nothing but the folder it lies in."""
    covers, sections = [], []
    for number, person in enumerate(album.people, 1):
        name = html.escape(person.name)
        cover = f'<img src="{quote(person.faces[0].crop)}" alt="" width="64" height="64">'
        covers.append(f'<a href="#p{number}">{cover}{name}</a>')
        about = f"{_many(len(person.faces), 'face')} in {_many(person.pictures, 'picture')}"
        if person.similarity is not None:
            about += f", similarity {person.similarity:.2f} with the gallery"
        if folders is not None:
            about += f' · <a href="{quote(folders[number - 1])}/">pictures</a>'
        sections.append(_section(f"p{number}", name, about, person.faces))
    if album.alone:
        sections.append(
            _section("alone", "Alone", f"{_many(len(album.alone), 'face')} like too few others", album.alone)
        )
    if album.poor:
        text = f"{_many(len(album.poor), 'face')} too small, blurred or turned away to be compared"
        sections.append(_section("poor", "Not compared", text, album.poor))
    total = f"{_many(len(album.people), 'person', 'people')}, {_many(album.faces, 'face')} in "
    total += _many(album.pictures, "picture")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1><p>{total}. Groups are guesses: faces whose mean similarity reaches "
        f"{album.threshold:.3f} ({html.escape(album.threshold_from)}).</p>\n"
        f"<nav>{''.join(covers)}</nav>\n" + "\n".join(sections) + "\n</html>\n"
    )


def _section(mark: str, title: str, about: str, faces: Sequence[AlbumFace]) -> str:
    shown = "".join(
        f'<img src="{quote(face.crop)}" loading="lazy" alt="" title="{html.escape(_where(face), quote=True)}">'
        for face in faces[:SHOWN]
    )
    left = len(faces) - SHOWN
    more = f"<p>{left:,} more in album.json</p>" if left > 0 else ""
    return f'<section id="{mark}"><h2>{title}</h2><p>{about}</p><div class="faces">{shown}</div>{more}</section>'


def _where(face: AlbumFace) -> str:
    return face.source if face.time_s is None else f"{face.source} at {face.time_s:.2f} s"


def _many(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
