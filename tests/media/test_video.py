"""Video: written and read back, with time stamps, turns, odd rates, and everything that is broken."""

from __future__ import annotations

import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mien.errors import (
    CorruptMedia,
    EmptyMedia,
    ImageTooLarge,
    MediaError,
    MediaNotFound,
    MissingCodec,
    NotAFile,
    OptionError,
    ShapeError,
    UnknownFormat,
)
from mien.media import open_video, save_image, write_video


def frames(count: int, *, height: int = 32, width: int = 48) -> list[Any]:
    """Frame i is grey of 20 i, its upper left quarter white."""
    made = []
    for index in range(count):
        frame = np.full((height, width, 3), 20 * index, np.uint8)
        frame[: height // 2, : width // 2] = 255
        made.append(frame)
    return made


def level(frame: Any) -> int:
    return round(int(frame[-4, -4, 0]) / 20)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "h264"), ("a.mkv", "h264"), ("a.mov", "mpeg4"), ("a.avi", "mpeg4")]
)
def test_what_is_written_is_read_back_with_its_times(name: str, codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, frames(8), 12.5, codec=codec)
    video = open_video(path)
    assert (video.path, video.size, video.fps) == (path, (48, 32), pytest.approx(12.5))
    assert video.duration_s == pytest.approx(8 / 12.5, abs=0.02)
    for _ in range(2):  # any number of times
        got = list(video)
        np.testing.assert_allclose([time_s for time_s, _ in got], np.arange(8) / 12.5, atol=1e-3)
        assert [level(frame) for _, frame in got] == list(range(8))
        assert all(frame.shape == (32, 48, 3) and frame.dtype == np.uint8 for _, frame in got)
        assert np.abs(got[3][1][4, 4].astype(int) - 255).max() < 12


def test_lossless_grey_comes_back_within_a_step(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4", frames(3), 10, crf=0))
    for (_, got), given in zip(video, frames(3), strict=True):
        # RGB to YUV and back rounds twice.
        assert np.abs(got[20:, 28:].astype(int) - given[20:, 28:]).max() <= 2


def test_odd_sizes_are_made_even_by_repeating(tmp_path: Path) -> None:
    assert open_video(write_video(tmp_path / "a.mp4", frames(2, height=31, width=45), 5)).size == (46, 32)


def test_every_s_takes_the_first_frame_of_each_span(tmp_path: Path) -> None:
    video = open_video(write_video(tmp_path / "a.mp4", frames(12), 10))
    # Frames at 0, 0.1 … 1.1 s; spans of 0.25 s start at 0, 0.25, 0.5 …
    assert [round(time_s, 3) for time_s, _ in video.read(every_s=0.25)] == [0.0, 0.3, 0.5, 0.8, 1.0]
    assert [round(time_s, 3) for time_s, _ in video.read(every_s=0.1)] == [round(i / 10, 3) for i in range(12)]
    assert [time_s for time_s, _ in video.read(every_s=100)] == [0.0]
    with pytest.raises(OptionError):
        video.read(every_s=0)


def written(path: Path, times: list[float], *, aspect: Fraction | None = None) -> Path:
    """A video whose frames stand at these times (in seconds), by PyAV itself."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for image, time_s in zip(frames(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 1.75]
    got = list(open_video(written(tmp_path / "a.mkv", times)))
    np.testing.assert_allclose([time_s for time_s, _ in got], times, atol=2e-3)
    assert [level(frame) for _, frame in got] == [0, 1, 2, 3, 4]


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    got = [time_s for time_s, _ in open_video(written(tmp_path / "a.mkv", [5.0, 5.1, 5.2]))]
    np.testing.assert_allclose(got, [0.0, 0.1, 0.2], atol=2e-3)


# Display matrices of MP4 by rows (a b u), (c d v), (x y w): a stored point (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),  # clockwise, as telephones held upright write it
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


@pytest.mark.parametrize("clockwise", sorted(MATRICES))
def test_turned_as_the_display_matrix_says(clockwise: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames(2), 5)
    data = path.read_bytes()
    a, b, c, d = (value * 65536 for value in MATRICES[clockwise])
    at = data.index(b"tkhd") + 4 + 40  # the matrix in version 0 of the track header
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    video = open_video(path)
    assert video.size == ((32, 48) if clockwise % 180 else (48, 32))
    frame = next(iter(video))[1]
    assert frame.shape[:2] == video.size[::-1]
    height, width = frame.shape[:2]
    # The white quarter goes round with the picture: top left, top right, bottom right, bottom left.
    y, x = {0: (0, 0), 90: (0, 1), 180: (1, 1), 270: (1, 0)}[clockwise]
    quarters = {
        (row, column): frame[height // 4 + row * height // 2, width // 4 + column * width // 2, 0]
        for row in (0, 1)
        for column in (0, 1)
    }
    assert [place for place, value in quarters.items() if value > 200] == [(y, x)]


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    video = open_video(written(tmp_path / "a.mp4", [0.0, 0.1], aspect=Fraction(4, 3)))
    assert video.size == (64, 32)
    assert next(iter(video))[1].shape == (32, 64, 3)


# -------------------------------------------------------------------------------------------------- broken


def test_a_video_cut_short_gives_its_frames_and_then_says_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (32, 48, 3), np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "a.mkv", noise, 10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    times: list[float] = []

    def read() -> None:
        for time_s, _ in open_video(path):
            times.append(time_s)

    with pytest.raises(CorruptMedia, match="truncated") as caught:
        read()
    assert caught.value.hint
    assert 15 <= len(times) <= 45
    np.testing.assert_allclose(times, np.arange(len(times)) / 10, atol=2e-3)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", EmptyMedia),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", UnknownFormat),  # FFmpeg would open what this names
        (b"ffconcat version 1.0\nfile a.mp4\n", UnknownFormat),
        (b"\x00\x00\x00\x18ftypisom" + bytes(100), CorruptMedia),
        (b"\x1a\x45\xdf\xa3" + bytes(100), CorruptMedia),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), UnknownFormat),
        (bytes(range(1, 100)), UnknownFormat),
    ],
)
def test_what_is_no_video(content: bytes, kind: type[MediaError], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        open_video(path)
    assert caught.value.hint


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(MediaNotFound):
        open_video(tmp_path / "none.mp4")
    with pytest.raises(NotAFile):
        open_video(tmp_path)
    picture = save_image(tmp_path / "a.png", frames(1)[0])
    with pytest.raises(UnknownFormat) as caught:
        open_video(picture)
    assert "load_image" in str(caught.value.hint)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        stream.layout = "mono"
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(UnknownFormat, match="only sound"):
        open_video(path)


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames(1, height=600, width=800), 5)
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge) as caught:
            open_video(path, max_pixels=600 * 800 - 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 600 * 800
    assert "max_pixels" in str(caught.value.hint)
    assert open_video(path, max_pixels=600 * 800).size == (800, 600)


# ------------------------------------------------------------------------------------------------- writing


def test_writing_refuses_what_makes_no_video(tmp_path: Path) -> None:
    with pytest.raises(EmptyMedia):
        write_video(tmp_path / "a.mp4", [], 10)
    with pytest.raises(ShapeError, match="frame 1"):
        write_video(tmp_path / "a.mp4", [*frames(1), *frames(1, height=20)], 10)
    for fps in (0, -1, float("nan"), 5000):
        with pytest.raises(OptionError, match="fps"):
            write_video(tmp_path / "a.mp4", frames(1), fps)
    for codec in ("no-such-codec", "aac"):
        with pytest.raises(MissingCodec):
            write_video(tmp_path / "a.mp4", frames(1), 10, codec=codec)
    with pytest.raises(UnknownFormat, match="container"):
        write_video(tmp_path / "a.xyz", frames(1), 10)
    with pytest.raises(MissingCodec, match="cannot write") as caught:
        write_video(tmp_path / "a.webm", frames(1), 10, codec="mpeg4")  # WebM holds VP8, VP9 and AV1
    assert ".mp4" in str(caught.value.hint)
    with pytest.raises(MediaNotFound, match="create the folder"):
        write_video(tmp_path / "no" / "a.mp4", frames(1), 10)
    assert list(tmp_path.iterdir()) == []  # nothing half-written, nothing left behind


def test_an_error_of_the_frames_is_passed_on_as_it_is(tmp_path: Path) -> None:
    class Mine(Exception):
        pass

    def broken() -> Any:
        yield frames(1)[0]
        raise Mine

    with pytest.raises(Mine):
        write_video(tmp_path / "a.mp4", broken(), 10)
    assert list(tmp_path.iterdir()) == []
