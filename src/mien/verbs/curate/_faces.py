"""The faces of a folder, found once and kept beside the labels: boxes, embeddings and small pictures, in SQLite.

Pictures are worked on in batches, and every batch is committed: who is killed goes on where they stopped. A picture
that has changed is looked at again, one that is gone is forgotten.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import EmptyMedia, MediaError, MediaForbidden, NotAFile
from mien.faces import Failure
from mien.verbs.curate._answers import Key, key_of

if TYPE_CHECKING:
    from mien.faces import Faces
    from mien.media import Photo
    from mien.verbs._pipeline import Plan, Progress

SIDE = 256
"""Pixels of the small picture of a face."""
CONTEXT = 2.0
"""How many box sides it is wide."""

SCHEMA = """
create table if not exists meta (name text primary key, value text not null);
create table if not exists pictures (file text primary key, size integer not null, mtime integer not null,
                                     width integer not null, height integer not null);
create table if not exists faces (id integer primary key, file text not null, x0 real, y0 real, x1 real, y1 real,
                                  score real, embedding blob not null, crop blob not null);
create index if not exists faces_file on faces (file);
"""


@dataclass(frozen=True, eq=False)
class Found:
    """The faces of a folder.

    Parameters
    ----------
    folder
        Where the files are relative to.
    keys
        Of every face: its file and box.
    scores
        (n,) of the detector.
    embeddings
        (n, d) float32, of length one.
    sizes
        Width and height in pixels of each file.
    crops
        Gives the small picture of a face, JPEG bytes, by its row.
    failures
        Pictures that could not be read.
    """

    folder: Path
    keys: tuple[Key, ...]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    sizes: dict[str, tuple[int, int]]
    crops: Any
    failures: tuple[Failure, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)


class FaceStore:
    """The file of faces.

    Parameters
    ----------
    path
        The SQLite file; made if it is not there.

    Raises
    ------
    MediaError
        It cannot be opened, or is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, check_same_thread=False)
            self.db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise MediaError(
                f"the faces cannot be kept in {path}", got=str(error), hint="delete it, or give another place with out="
            ) from error

    def get(self, name: str) -> str | None:
        """A value by name."""
        row = self.db.execute("select value from meta where name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, name: str, value: str) -> None:
        """Keeps a value by name."""
        with self.db:
            self.db.execute("insert or replace into meta values (?, ?)", (name, value))

    def close(self) -> None:
        """Closes the file."""
        self.db.close()

    def forget(self) -> None:
        """Deletes the file: embeddings are biometric templates, and small pictures are pictures."""
        self.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def look(
        self, folder: Path, plan: Plan, *, recursive: bool = False, progress: Progress | None = None
    ) -> Found:  # fmt: skip
        """Finds the faces of all pictures of `folder` that are new or have changed, and gives all.

        Raises
        ------
        NotAFile
            `folder` is no folder.
        EmptyMedia
            There is no picture in it.
        """
        from mien.media import expand_sources
        from mien.media.formats import PICTURE_SUFFIXES
        from mien.verbs import _pipeline

        if not folder.is_dir():
            raise NotAFile("faces are labelled in a folder of pictures", got=str(folder), expected="a folder")
        wanted = json.dumps(
            {
                name: getattr(plan, name)
                for name in ("detector", "landmarks", "embedder", "threshold", "size", "min_face")
            }
        )
        if self.get("plan") != wanted:
            with self.db:
                self.db.execute("delete from pictures")
                self.db.execute("delete from faces")
            self.put("plan", wanted)
        files: dict[str, Path] = {}
        for path in expand_sources(folder, recursive=recursive):
            if Path(path).suffix.lower() in PICTURE_SUFFIXES:
                files[Path(path).relative_to(folder).as_posix()] = Path(path)
        if not files:
            raise EmptyMedia(
                "there is no picture in the folder", got=str(folder), hint="add recursive=True for sub-folders"
            )
        known = {row[0]: tuple(row[1:]) for row in self.db.execute("select file, size, mtime from pictures")}
        state = {name: _state(path) for name, path in files.items()}
        with self.db:
            for name in known:
                if state.get(name) != known[name]:
                    self.db.execute("delete from pictures where file = ?", (name,))
                    self.db.execute("delete from faces where file = ?", (name,))
        new = [name for name in files if known.get(name) != state[name]]
        failures: list[Failure] = []
        for start in range(0, len(new), 4 * plan.batch_size):
            names = new[start : start + 4 * plan.batch_size]
            places = {str(files[name]): name for name in names}
            pictures: list[tuple[Any, ...]] = []
            faces: list[tuple[Any, ...]] = []

            def keep(
                photo: Photo, found: Faces, places: dict[str, str] = places, pictures: list[tuple[Any, ...]] = pictures,
                faces: list[tuple[Any, ...]] = faces,
            ) -> None:  # fmt: skip
                name = places[photo.info.source]
                pictures.append((name, *state[name], photo.info.width, photo.info.height))
                for box, score, z in zip(found.boxes, found.scores, found.embeddings, strict=True):
                    crop = thumbnail(photo.image, box)
                    faces.append((name, *map(float, box), float(score), z.astype("<f4").tobytes(), crop))

            done = _pipeline.run([files[name] for name in names], plan, sink=keep)
            failures += done.failures
            with self.db:
                self.db.executemany("insert or replace into pictures values (?, ?, ?, ?, ?)", pictures)
                insert = (
                    "insert into faces (file, x0, y0, x1, y1, score, embedding, crop) values (?, ?, ?, ?, ?, ?, ?, ?)"
                )
                self.db.executemany(insert, faces)
            if progress is not None:
                progress(min(start + len(names), len(new)), len(new), "pictures")
        return self._all(folder, tuple(failures))

    def _all(self, folder: Path, failures: tuple[Failure, ...]) -> Found:
        rows = self.db.execute(
            "select id, file, x0, y0, x1, y1, score, embedding from faces order by file, x0, y0"
        ).fetchall()
        sizes = {row[0]: (row[1], row[2]) for row in self.db.execute("select file, width, height from pictures")}
        ids = [row[0] for row in rows]
        dim = len(rows[0][7]) // 4 if rows else 0
        vectors = np.frombuffer(b"".join(row[7] for row in rows), "<f4").reshape(len(rows), dim)

        def crop(row: int) -> bytes:
            found = self.db.execute("select crop from faces where id = ?", (ids[row],)).fetchone()
            return bytes(found[0])

        return Found(
            folder, tuple(key_of(row[1], row[2:6]) for row in rows), np.array([row[6] for row in rows], np.float32),
            vectors.astype(np.float32), sizes, crop, failures,
        )  # fmt: skip


def thumbnail(image: NDArray[np.uint8], box: Sequence[float] | NDArray[np.floating]) -> bytes:
    """A square around a face, JPEG; what lies outside of the picture repeats its edge."""
    import cv2

    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(1.0, CONTEXT * max(x1 - x0, y1 - y0))
    scale = SIDE / side
    shift = np.array([SIDE / 2 - scale * (x0 + x1) / 2, SIDE / 2 - scale * (y0 + y1) / 2])
    if scale < 0.5:  # warping by more than two would skip pixels
        factor = 2 * scale
        image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        scale = 0.5
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    cut = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    good, data = cv2.imencode(".jpg", cut[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert good
    return data.tobytes()


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file, by which a change is told."""
    try:
        found = path.stat()
    except PermissionError as error:
        raise MediaForbidden("a picture cannot be read", got=str(path)) from error
    return found.st_size, found.st_mtime_ns
