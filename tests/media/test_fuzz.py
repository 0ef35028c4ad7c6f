"""Whatever bytes come in, what comes out is a picture or a MediaError: never another exception, never a crash."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import features

from mien.errors import MediaError
from mien.media import image_size, load_image, open_video, write_video
from mien.media.formats import PICTURES, sniff


def fuzz(examples: int) -> settings:
    """The same examples on every run, and no clock: what fails here fails everywhere."""
    unasked = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=unasked
    )


def seeds() -> dict[str, bytes]:
    """One small file of each kind, odd ones among them."""
    ramp = (np.add.outer(np.arange(40), np.arange(56))[..., None] * [1, 2, 3] % 256).astype(np.uint8)
    rgb, made = Pillow.fromarray(ramp), {}

    def add(name: str, picture: Pillow.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made[name] = buffer.getvalue()

    exif = Pillow.Exif()
    exif[0x0112] = 6
    add("jpeg", rgb, "JPEG", exif=exif)
    add("jpeg progressive", rgb, "JPEG", progressive=True)
    add("jpeg cmyk", rgb.convert("CMYK"), "JPEG")
    add("jpeg restarts", rgb.convert("L"), "JPEG", restart_marker_blocks=2)
    add("png", rgb, "PNG", exif=exif)
    add("png palette", rgb.convert("P"), "PNG", transparency=3)
    add("png deep", Pillow.fromarray(ramp[..., 0].astype(np.uint16) * 257), "PNG")
    add("webp", rgb, "WEBP", exif=exif)
    add("webp lossless", rgb.convert("RGBA"), "WEBP", lossless=True)
    add("webp moving", rgb, "WEBP", save_all=True, append_images=[rgb.rotate(9)])
    add("bmp", rgb, "BMP")
    add("tiff", rgb, "TIFF")
    add("tiff lzw", rgb, "TIFF", compression="tiff_lzw")
    add("tiff jpeg", rgb, "TIFF", compression="jpeg")
    add("gif", rgb, "GIF", save_all=True, append_images=[rgb.rotate(9)])
    add("ppm", rgb, "PPM")
    if features.check("avif"):
        add("avif", rgb, "AVIF")
    return made


SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn, data: bytes, *, least: int = 0) -> bytes:
    """`data` with bytes changed, cut out, put in, or cut off; twice as often near the start, where the headers are."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        if len(out) <= least + 1:
            break
        near = draw(st.booleans())
        at = draw(st.integers(least, min(len(out) - 1, least + 120) if near else len(out) - 1))
        kind = draw(st.sampled_from(("change", "change", "change", "cut out", "put in", "cut off")))
        if kind == "change":
            out[at] = draw(st.one_of(st.sampled_from((0, 1, 127, 128, 255)), st.integers(0, 255)))
        elif kind == "cut out":
            del out[at : at + draw(st.integers(1, 30))]
        elif kind == "put in":
            out[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            del out[at:]
    return bytes(out)


def check(data: bytes) -> None:
    error = image = None
    try:
        image = load_image(data, max_pixels=1_000_000)
    except MediaError as refused:
        error = refused
    if image is None:
        assert error is not None
        assert error.hint, error
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert 0 < image.shape[0] * image.shape[1] <= 1_000_000
    assert image_size(data) == image.shape[1::-1]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", list(SEEDS))
@fuzz(40)
@given(choice=st.data())
def test_damaged_pictures(name: str, choice: st.DataObject) -> None:
    check(choice.draw(damaged(SEEDS[name])))


@fuzz(150)
@given(data=st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    check(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@fuzz(200)
@given(head=st.sampled_from([seed[:length] for seed in SEEDS.values() for length in (4, 12, 30)]), rest=st.binary())
def test_a_true_beginning_and_anything_after_it(head: bytes, rest: bytes) -> None:
    check(head + rest)


@fuzz(200)
@given(data=st.binary(max_size=64))
def test_sniffing_takes_anything(data: bytes) -> None:
    kind = sniff(data)
    assert kind is None or isinstance(kind, str)


def test_every_seed_is_a_picture_and_sniffed() -> None:
    for name, data in SEEDS.items():
        assert sniff(data[:512]) in PICTURES, name
        assert load_image(data).size == 40 * 56 * 3, name


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, frames = tmp_path_factory.mktemp("videos"), [np.full((16, 24, 3), 60 * i, np.uint8) for i in range(3)]
    made = {}
    for name, codec in (("a.mp4", "h264"), ("b.mkv", "h264"), ("c.avi", "mpeg4")):
        made[name] = write_video(folder / name, frames, 10, codec=codec).read_bytes()
    return made


@pytest.mark.parametrize("name", ["a.mp4", "b.mkv", "c.avi"])
@fuzz(40)
@given(choice=st.data())
def test_damaged_videos(name: str, choice: st.DataObject, videos: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(choice.draw(damaged(videos[name], least=12 if name == "a.mp4" else 0)))
    error, count = None, 0
    try:
        for time_s, frame in open_video(path, max_pixels=1_000_000):
            assert isinstance(time_s, float)
            assert frame.ndim == 3
            count += 1
            if count > 30:  # a damaged index may name a frame again and again
                break
    except MediaError as refused:
        error = refused
    assert error is None or error.hint, error
