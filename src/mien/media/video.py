"""Video in and out by PyAV (FFmpeg): frames as (H, W, 3) uint8 RGB, upright, with their time in seconds."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import (
    CorruptMedia,
    EmptyMedia,
    ImageTooLarge,
    MienError,
    MissingCodec,
    OptionError,
    ShapeError,
    UnknownFormat,
)
from mien.media.files import check_file, of_os_error, write_whole
from mien.media.formats import HEAD, sniff
from mien.media.images import MAX_PIXELS, Image, Source, load_image

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer, OutputContainer

__all__ = ["Video", "open_video", "write_video"]


@dataclass(frozen=True)
class Video:
    """A video that can be read, any number of times: ``for time_s, frame in video``.

    Parameters
    ----------
    path
        The file.
    fps
        Mean frames a second as the file says; None if it does not. Use the time stamps, not this, to tell
        times.
    frames
        Number of frames as the file says; None if it does not.
    size
        Width and height in pixels of the upright frames.
    duration_s
        Length in seconds as the file says; None if it does not.
    max_pixels
        Refuse larger frames.
    """

    path: Path
    fps: float | None
    frames: int | None
    size: tuple[int, int]
    duration_s: float | None
    max_pixels: int = MAX_PIXELS

    def __iter__(self) -> Iterator[tuple[float, Image]]:
        return self.read()

    def read(self, *, every_s: float | None = None) -> Iterator[tuple[float, Image]]:
        """Frames with their time in seconds from the start; with `every_s` the first frame of each such interval.

        Raises
        ------
        CorruptMedia
            The file is damaged or ends too early; the frames before the damage have been given by then.
        """
        if every_s is not None and not every_s > 0:
            raise OptionError("every_s must be more than 0 seconds", got=every_s)
        return self._read(every_s)

    def _read(self, every_s: float | None) -> Iterator[tuple[float, Image]]:
        due, last_s, step = 0.0, 0.0, 1 / self.fps if self.fps else 0.0
        with _opened(self.path) as container:
            aspect, start_s = _pixel_aspect(container), _start_s(container)
            told = start_s is not None
            for count, frame in enumerate(container.decode(video=0)):
                stamp_s = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
                if stamp_s is None:
                    time_s = last_s = count * step
                else:
                    if start_s is None:  # Matroska does not say, but counts its length from zero
                        start_s = stamp_s
                    time_s = stamp_s - start_s
                    last_s = time_s if told else stamp_s
                if every_s is not None and time_s < due:
                    continue
                due = 0.0 if every_s is None else (math.floor(time_s / every_s + 1e-6) + 1) * every_s - 1e-6
                yield time_s, _upright(frame, aspect, self.max_pixels, self.path)
            declared = _declared_s(container)
        # FFmpeg takes the end of the data for the end of the video. A second is left for those who count oddly.
        if declared is not None and last_s + step < 0.95 * declared - 1:
            raise CorruptMedia(
                "the video is truncated", got=f"{self.path}, {last_s:.1f} s", expected=f"{declared:.1f} s"
            )


def open_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Video:
    """Opens a video and decodes its first frame, to be sure that it can.

    Raises
    ------
    MediaError
        MediaNotFound, MediaForbidden, NotAFile, EmptyMedia, UnknownFormat (also for files with sound only),
        CorruptMedia, ImageTooLarge or MissingCodec.
    """
    target = Path(path)
    check_video(target)
    with _opened(target) as container:
        context = container.streams.video[0].codec_context
        _check_pixels(context.width, context.height, max_pixels, target)
        first = next(iter(container.decode(video=0)), None)
        if first is None:
            raise EmptyMedia("the video holds no frame", got=target)
        height, width = _upright(first, _pixel_aspect(container), max_pixels, target).shape[:2]
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        duration = _declared_s(container)
        if duration is None and container.duration:
            duration = container.duration / 1e6
        return Video(
            path=target,
            fps=float(rate) if rate else None,
            frames=stream.frames or None,
            size=(width, height),
            duration_s=duration,
            max_pixels=max_pixels,
        )


def check_video(path: Path) -> None:
    """Raises the MediaError that tells why `path` is no video by its first bytes."""
    check_file(os.fspath(path))
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise of_os_error(error, path) from error
    if not head:
        raise EmptyMedia("there are no bytes", got=path)
    kind = sniff(head)
    # FFmpeg would also open playlists, which are texts that name other files and addresses; those are not
    # for us.
    if kind != "video":
        hint = "use load_image(...) for a picture" if kind else None
        raise UnknownFormat(f"this is {kind or 'not a video that mien knows'}", got=path, hint=hint)


def write_video(
    path: str | os.PathLike[str], frames: Iterable[Source], fps: float, *, codec: str = "h264", crf: int = 18
) -> Path:
    """Writes frames as a video without sound; the file appears whole or not at all.

    Parameters
    ----------
    path
        Where to; the ending chooses the container: ``.mp4``, ``.mkv``, ``.mov``. An older file is replaced.
    frames
        Pictures of one size, anything that `load_image` takes; read one by one. An odd size is made even,
        as most players need, by repeating the last row or column.
    fps
        Frames a second.
    codec
        FFmpeg's name of the encoder.
    crf
        Constant rate factor of x264, 0 (lossless) to 51: lower is better and larger.

    Raises
    ------
    EmptyMedia, ShapeError
        There is no frame, or one has another size than the first.
    MissingCodec, UnknownFormat, MediaNotFound, MediaForbidden, NotAFile
        The file cannot be written.
    """
    import av

    target = Path(path)
    if not 0 < fps <= 1000:
        raise OptionError("fps must lie between 0 and 1000 frames a second", got=fps, hint="25 is usual")
    try:
        kind = av.Codec(codec, "w").type
    except (av.error.FFmpegError, ValueError) as error:
        raise MissingCodec("FFmpeg has no such encoder here", got=codec, hint="try codec='mpeg4'") from error
    if kind != "video":
        raise MissingCodec(f"this is an encoder for {kind}", got=codec, hint="try codec='h264'")

    def write(partial: Path) -> None:
        try:
            container = av.open(os.fspath(partial), "w")
        except (av.error.FFmpegError, ValueError) as error:
            raise UnknownFormat("no container to write a video in", got=target, hint="name it .mp4") from error
        try:
            with container:
                encode(container)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, MienError):
                raise
            raise MissingCodec(
                f"FFmpeg cannot write such a video here: {error}",
                got=f"{target}, {codec}",
                hint="use codec='h264' and a name that ends in .mp4",
            ) from error

    def encode(container: OutputContainer) -> None:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(65535))
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf)}
        size: tuple[int, ...] | None = None
        for count, frame in enumerate(frames):
            image = load_image(frame)
            if size is None:
                size = image.shape
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
            if image.shape != size:
                raise ShapeError(
                    f"frame {count} has another size", got=image.shape, expected=size, hint="resize all to one size"
                )
            even = np.pad(image, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if size is None:
            raise EmptyMedia("there is no frame to write", got=target, hint="give at least one picture")
        container.mux(stream.encode(None))

    write_whole(target, write)
    return target


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file opened by FFmpeg; its errors, here and while reading, become ours."""
    import av

    try:
        # "file:" keeps a name like "concat:a|b" from being taken for one of FFmpeg's protocols.
        address, options = f"file:{path.absolute()}", {"protocol_whitelist": "file"}
        # Titles and comments are nobody's business here; broken letters in them are no reason to refuse a film.
        with av.open(address, options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise UnknownFormat("this file holds no pictures, only sound", got=path, hint="give a video")
            if getattr(container.streams.video[0], "codec_context", None) is None:
                raise MissingCodec("FFmpeg has no decoder for this video here", got=path)
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except (av.error.DecoderNotFoundError, av.error.PatchWelcomeError) as error:
        raise MissingCodec("FFmpeg cannot decode this video here", got=f"{path}: {error}") from error
    except av.error.FFmpegError as error:
        raise CorruptMedia(f"the video is truncated or damaged: {error.strerror}", got=path) from error
    except MemoryError as error:
        raise ImageTooLarge("the memory does not suffice to decode this video", got=path) from error


def _start_s(container: InputContainer) -> float | None:
    stream = container.streams.video[0]
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _declared_s(container: InputContainer) -> float | None:
    """Length of the pictures in seconds; the length of the file counts only when there is nothing else in it."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return None


def _pixel_aspect(container: InputContainer) -> float:
    """Width of a pixel in its heights; 1 where the file says nothing, or something that nobody can have meant."""
    ratio = container.streams.video[0].sample_aspect_ratio
    return float(ratio) if ratio and 0.1 <= ratio <= 10 else 1.0


def _upright(frame: VideoFrame, aspect: float, max_pixels: int, path: Path) -> Image:
    """The frame as RGB with square pixels, turned as its display matrix says (telephones film sideways)."""
    width = max(1, round(frame.width * aspect))
    _check_pixels(width, frame.height, max_pixels, path)
    image: Any = frame.to_ndarray(format="rgb24")
    if width != frame.width:
        import cv2

        kind = cv2.INTER_AREA if width < frame.width else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, frame.height), interpolation=kind)
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


def _check_pixels(width: int, height: int, max_pixels: int, path: Path) -> None:
    if width * height > max_pixels:
        raise ImageTooLarge(
            "the video has too many pixels",
            got=f"{path}, {width} x {height}",
            expected=f"at most {max_pixels / 1e6:.4g} megapixels",
        )
