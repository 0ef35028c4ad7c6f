"""Many pictures: folders, patterns, lists and videos, read in order and decoded ahead in threads.

One broken file does not stop the others: it comes out as a `Failure` in its place.
"""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mien.errors import EmptyMedia, MediaNotFound, MienError, OptionError
from mien.faces import Failure, ImageInfo
from mien.media.files import check_file, is_array, is_one, of_os_error, source_name
from mien.media.formats import HEAD, PICTURE_SUFFIXES, VIDEO_SUFFIXES, sniff
from mien.media.images import MAX_PIXELS, Image, Source, load_image
from mien.media.video import Video, open_video

__all__ = ["Photo", "expand_sources", "read_images"]

READ_AHEAD: Final = 256 << 20
"""Bytes of decoded pictures that may wait for the reader."""


@dataclass(frozen=True)
class Photo:
    """A picture that was read.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    info
        Where it comes from, its size, and its time when it is a frame of a video.
    """

    image: Image
    info: ImageInfo


def expand_sources(sources: Source | Iterable[Source], *, recursive: bool = False) -> list[Any]:
    """One source for each picture or video.

    Parameters
    ----------
    sources
        One or many of: a path; a folder, which gives its picture and video files, sorted, hidden ones left
        out; a pattern such as ``photos/*.jpg`` or ``photos/**/*.png``; anything that `load_image` takes; an
        array or tensor of four dimensions, which gives its pictures.
    recursive
        Also the folders in a folder, after its files. Links to folders are followed; each folder is read once,
        so that a link to a folder above is no endless loop.

    Returns
    -------
    list
        Paths, and whatever was no path as it was.

    Raises
    ------
    MediaNotFound
        A path does not exist, or a pattern matches nothing.
    EmptyMedia
        A folder holds no picture and no video.
    MediaForbidden
        A folder must not be read.
    """
    found = []
    for item in _items(sources, recursive):
        if item.error is not None:
            raise item.error
        if isinstance(item.source, Path):
            check_file(os.fspath(item.source))
        found.append(item.source)
    return found


def read_images(
    sources: Source | Iterable[Source],
    *,
    recursive: bool = False,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    every_s: float | None = None,
) -> Iterator[Photo | Failure]:
    """Pictures in order, decoded ahead; a `Failure` in place of each that cannot be read.

    Sources may be a generator: it is read only as far as needed. At most 256 MiB of decoded pictures wait,
    besides one for each worker, however large the folder is.

    Parameters
    ----------
    sources, recursive
        As in `expand_sources`; what that raises comes as a Failure here. A video gives its frames, and a
        Failure after them if it is damaged further on.
    max_pixels
        As in `load_image`.
    workers
        Threads that decode; 0 decodes when asked for, in the caller's. Default: one a core, at most 4.
    every_s
        Of a video take only the first frame in each such span of seconds. Default: all frames.

    Raises
    ------
    OptionError
        `workers`, `every_s` or `max_pixels` is out of range.
    """
    if workers is None:
        workers = min(4, os.cpu_count() or 1)
    if workers < 0:
        raise OptionError("workers must not be negative", got=workers)
    if every_s is not None and not every_s > 0:
        raise OptionError("every_s must be more than 0 seconds", got=every_s)
    if max_pixels < 1:
        raise OptionError("max_pixels must be a positive whole number", got=max_pixels)
    items = _items(sources, recursive)
    outcomes: Iterator[_Outcome]
    if workers == 0:
        outcomes = (_loaded(item, max_pixels) for item in items)
    else:
        outcomes = _ahead(items, max_pixels, workers)
    return _photos(outcomes, every_s)


@dataclass(frozen=True)
class _Item:
    """A source with its name, or the reason why there is none."""

    source: Any
    name: str
    error: MienError | None = None


_Outcome = Photo | Failure | tuple[str, Video]


def _photos(outcomes: Iterator[_Outcome], every_s: float | None) -> Iterator[Photo | Failure]:
    for outcome in outcomes:
        if not isinstance(outcome, tuple):
            yield outcome
            continue
        name, video = outcome
        try:
            for time_s, frame in video.read(every_s=every_s):
                yield Photo(frame, ImageInfo(name, frame.shape[1], frame.shape[0], round(time_s, 6)))
        except MienError as error:
            yield Failure.of(name, error)


def _ahead(items: Iterator[_Item], max_pixels: int, workers: int) -> Iterator[_Outcome]:
    """Outcomes in the order of the items, made by threads that keep a little ahead of the reader."""
    waiting: deque[Future[_Outcome]] = deque()

    def fill() -> None:
        # Each worker one picture to decode and one to lie ready, as long as those that lie ready are not too large.
        # What is being decoded is counted before what is ready: a picture that is done in between counts twice,
        # never not at all, and the bound holds.
        while len(waiting) < 2 * workers:
            decoding = sum(not future.done() for future in waiting)
            if decoding >= workers or sum(map(_ready_bytes, waiting)) >= READ_AHEAD:
                return
            item = next(items, None)
            if item is None:
                return
            waiting.append(pool.submit(_loaded, item, max_pixels))

    with ThreadPoolExecutor(workers, thread_name_prefix="mien-read") as pool:
        try:
            fill()
            while waiting:
                outcome = waiting.popleft().result()
                fill()
                yield outcome
        finally:
            for future in waiting:
                future.cancel()


def _ready_bytes(future: Future[_Outcome]) -> int:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    outcome = future.result()
    return outcome.image.nbytes if isinstance(outcome, Photo) else 0


def _loaded(item: _Item, max_pixels: int) -> _Outcome:
    if item.error is not None:
        return Failure.of(item.name, item.error)
    try:
        if isinstance(item.source, Path) and _is_video(item.source):
            return item.name, open_video(item.source, max_pixels=max_pixels)
        image = load_image(item.source, max_pixels=max_pixels)
    except MienError as error:
        return Failure.of(item.name, error)
    return Photo(image, ImageInfo(item.name, image.shape[1], image.shape[0]))


def _is_video(path: Path) -> bool:
    try:
        check_file(os.fspath(path))
        with open(path, "rb") as file:
            return sniff(file.read(HEAD)) == "video"
    except OSError as error:
        raise of_os_error(error, path) from error


def _items(sources: Any, recursive: bool) -> Iterator[_Item]:
    if is_one(sources):
        yield from _of_one(sources, source_name(sources), recursive)
        return
    for index, source in enumerate(sources):
        named = isinstance(source, str | os.PathLike)
        name = source_name(source) if named else f"{source_name(source)}[{index}]"
        yield from _of_one(source, name, recursive)


def _of_one(source: Any, name: str, recursive: bool) -> Iterator[_Item]:
    if isinstance(source, str | os.PathLike):
        yield from _of_path(os.fsdecode(source), recursive)
    elif is_array(source) and getattr(source, "ndim", 0) == 4:
        for index, part in enumerate(source):
            yield _Item(part, f"{name}[{index}]")
    else:
        yield _Item(source, name)


def _of_path(path: str, recursive: bool) -> Iterator[_Item]:
    if not path:
        yield _Item(None, path, MediaNotFound("the path is empty"))
    elif os.path.isdir(path):
        yield from _of_folder(path, recursive)
    elif glob.has_magic(path) and "\0" not in path and not os.path.lexists(path):
        yield from _of_pattern(path, recursive)
    else:
        yield _Item(Path(path), path)


def _of_pattern(pattern: str, recursive: bool) -> Iterator[_Item]:
    refused: list[OSError] = []
    matches = sorted(set(_matches(pattern, refused)))
    for match in matches:
        # A folder that matches gives its files, as it does when a shell fills in the pattern; but with **, which
        # matches the files in it too, they would come twice.
        if not os.path.isdir(match):
            yield _Item(Path(match), match)
        elif "**" not in pattern:
            yield from _of_folder(match, recursive)
    yield from _refused(refused, pattern)
    if not matches and not refused:
        hint = "check the pattern: * stands for any name, ** for any depth of folders"
        yield _Item(None, pattern, MediaNotFound("no file matches this pattern", got=pattern, hint=hint))


def _matches(pattern: str, refused: list[OSError]) -> Iterator[str]:
    """What matches, in no order. `glob` itself would follow links round a loop for ever when it meets a **."""
    head, star, tail = f"{os.sep}{pattern}".partition(f"{os.sep}**")
    if not star or (tail and not tail.startswith(os.sep)):
        yield from glob.glob(pattern)
        return
    head, tail = head[1:], tail.strip(os.sep)
    tops = [folder for folder in glob.glob(head) if os.path.isdir(folder)] if head else [_top(pattern)]
    for top in tops:
        for place, _, names in _walk(top, refused):
            if tail:
                yield from _matches(os.path.join(glob.escape(place), tail), refused)
            else:
                yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _top(pattern: str) -> str:
    return os.sep if pattern.startswith(os.sep) else os.curdir


def _walk(folder: str, refused: list[OSError]) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in order, without what is hidden, through links to folders, but each folder once."""
    known: set[tuple[int, int]] = set()

    def is_new(path: str) -> bool:
        try:
            found = os.stat(path)
        except OSError:  # whoever reads it next will say so
            return True
        place = (found.st_dev, found.st_ino)
        new = place not in known
        known.add(place)
        return new

    is_new(folder)
    for place, folders, names in os.walk(folder, onerror=refused.append, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not n.startswith(".") and is_new(os.path.join(place, n))]
        yield place, folders, names


def _refused(errors: list[OSError], otherwise: str) -> Iterator[_Item]:
    for error in errors:
        place = os.fsdecode(error.filename or otherwise)
        yield _Item(None, place, of_os_error(error, place))


def _of_folder(folder: str, recursive: bool) -> Iterator[_Item]:
    refused: list[OSError] = []
    anything = deeper = False
    for place, folders, names in _walk(folder, refused):
        deeper = deeper or bool(folders)
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            # Hidden files are what other programs leave behind: ._photo.jpg is no JPEG but a note of macOS.
            if not name.startswith(".") and suffix in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
                anything = True
                yield _Item(path := Path(place, name), os.fspath(path))
        if not recursive:
            break
    yield from _refused(refused, folder)
    if not anything and not refused:
        hint = "look into its folders with recursive=True" if deeper and not recursive else "name another folder"
        yield _Item(None, folder, EmptyMedia("this folder holds no picture and no video", got=folder, hint=hint))
