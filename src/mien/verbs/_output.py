"""What verbs write when they are asked to: annotated pictures, crops, tables. Every file appears whole or not
at all."""

from __future__ import annotations

import csv
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mien.errors import MediaError, MediaForbidden, MissingExtra, NotAFile, OptionError

if TYPE_CHECKING:
    from mien.faces import Faces, ImageInfo
    from mien.media import Photo

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write that takes its place at the end, and only if nothing went wrong. Folders are made.

    Raises
    ------
    MediaForbidden, NotAFile, MediaError
        No right to write there; a folder stands where the file should, or a file where a folder should; the disk is
        full.
    """
    target = Path(path)
    if target.is_dir():  # said now, not after the work
        raise NotAFile("a folder stands where the file should be written", got=target, hint="give a file in it")
    folder(target.parent)
    try:
        # A long name of the target would leave no room for what makes this one different.
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:32]}.")
    except OSError as error:
        raise _refused(error, target) from error
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _refused(error, target) from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def folder(path: str | os.PathLike[str]) -> Path:
    """The folder `path`, made if it is not there; errors as in `whole_file`."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(error, Path(path)) from error
    return Path(path)


def _refused(error: OSError, target: Path) -> MediaError:
    """What the operating system has against writing `target`, as an error that says what to do."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return NotAFile("a file stands where a folder is needed", got=target, hint="give another folder")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        what = f"cannot write {target}"
        return MediaForbidden(what, got=error.strerror, hint="choose a folder that you may write to")
    return MediaError(f"cannot write {target}", got=error.strerror or error, hint="check the disk and the name")


def file_stem(info: ImageInfo) -> str:
    """A name for what is written about a picture: its own without ending, with the time for frames of a
    video."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(info.source).stem) or "picture"
    return stem if info.time_s is None else f"{stem}_{info.time_s:08.2f}s"


class Names:
    """File names in a folder that do not clash within one run: ``a.jpg``, ``a-2.jpg``, …"""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def __call__(self, stem: str) -> str:
        count = self._count[stem] = self._count.get(stem, 0) + 1
        return stem if count == 1 else self(f"{stem}-{count}")


def annotated_to(out: str | os.PathLike[str] | None, *, many: bool) -> Callable[[Photo, Faces], None] | None:
    """Writes every photo with its faces drawn in: to the file `out`, or into the folder `out` for several
    photos."""
    if out is None:
        return None
    target = Path(out)
    as_file = target.suffix.lower() in PICTURES
    if many and as_file:
        raise OptionError(
            "several pictures cannot be written to one file",
            got=str(out),
            expected="a folder",
            hint="out='annotated/'",
        )
    names = Names()

    def write(photo: Photo, faces: Faces) -> None:
        from mien.media import annotate, save_image

        path = target if as_file else target / f"{names(file_stem(photo.info))}.jpg"
        folder(path.parent)
        save_image(path, annotate(photo.image, faces))

    return write


def write_csv(faces: Faces, path: str | os.PathLike[str]) -> None:
    """One row a face: file, time_s, corners, score, five points. `mien evaluate detection` reads the same
    columns."""
    points = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    header = ["file", "time_s", "xmin", "ymin", "xmax", "ymax", "score"]
    header += [f"{name}_{axis}" for name in points for axis in "xy"]
    with whole_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        for row in range(len(faces)):
            info = faces.images[faces.image[row]]
            numbers = [*faces.boxes[row].tolist(), *faces.landmarks5[row].ravel().tolist()]
            short = [f"{value:.2f}" for value in numbers]
            time_s = "" if info.time_s is None else f"{info.time_s:.3f}"
            table.writerow([info.source, time_s, *short[:4], f"{faces.scores[row]:.4f}", *short[4:]])


def write_crops(faces: Faces, into: str | os.PathLike[str]) -> None:
    """Every crop as a PNG: the picture's name, then the number of the face in it."""
    from mien.media import save_image

    target, names = folder(into), Names()
    for index in range(len(faces.images)):
        mine = np.flatnonzero(faces.image == index)
        stem = names(file_stem(faces.images[index])) if len(mine) else ""
        for number, row in enumerate(mine):
            save_image(target / f"{stem}_{number}.png", faces.crops[row])


def write_embeddings(faces: Faces, path: str | os.PathLike[str]) -> None:
    """Embeddings with what tells whose they are: `.npz` (numpy alone) or `.parquet` (extra ``tables``)."""
    suffix = Path(path).suffix.lower()
    sources = [faces.images[index].source for index in faces.image]
    times = [faces.images[index].time_s for index in faces.image]
    if suffix == ".npz":
        with whole_file(path, "wb") as file:
            np.savez_compressed(
                file,
                source=np.array(sources, np.str_),
                time_s=np.array([np.nan if t is None else t for t in times], np.float64),
                boxes=faces.boxes,
                scores=faces.scores,
                embeddings=faces.embeddings,
                contract=np.array(faces.contract or ""),
            )
        return
    if suffix != ".parquet":
        raise OptionError(
            "embeddings are written as .parquet or .npz",
            got=str(path),
            expected=".parquet, .npz",
            hint="rename out=",
        )
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="tables") from error
    width = faces.embeddings.shape[1]
    columns = {
        "source": pa.array(sources, pa.string()),
        "time_s": pa.array(times, pa.float64()),
        **{name: pa.array(faces.boxes[:, i]) for i, name in enumerate(("xmin", "ymin", "xmax", "ymax"))},
        "score": pa.array(faces.scores),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(faces.embeddings.ravel()), width),
    }
    table = pa.table(columns).replace_schema_metadata({"mien.contract": faces.contract or ""})
    with whole_file(path, "wb") as file:
        parquet.write_table(table, file)


def check_embeddings_path(path: str | os.PathLike[str] | None) -> None:
    """Complains before the work, not after it."""
    if path is not None and Path(path).suffix.lower() not in (".npz", ".parquet"):
        raise OptionError(
            "embeddings are written as .parquet or .npz",
            got=str(path),
            expected=".parquet, .npz",
            hint="rename out=",
        )
