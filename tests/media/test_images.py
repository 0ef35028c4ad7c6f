"""Pictures in and out: every format and mode with known pixels, every orientation, and everything that is broken."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import features

from mien.errors import (
    CorruptMedia,
    DtypeError,
    EmptyMedia,
    ImageTooLarge,
    MediaError,
    MediaNotFound,
    MissingCodec,
    NotAFile,
    OptionError,
    ShapeError,
    UnknownFormat,
    ValueRangeError,
)
from mien.media import image_size, load_image, save_image

Picture = NDArray[np.uint8]


def colours(height: int = 24, width: int = 40) -> Picture:
    """Four fields of flat colour, different at each corner: lossy formats keep them, and turns can be told."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 40, 40)
    image[: height // 2, width // 2 :] = (40, 180, 60)
    image[height // 2 :, : width // 2] = (50, 70, 190)
    image[height // 2 :, width // 2 :] = (220, 210, 90)
    return image


def encoded(picture: Pillow.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def near(got: Picture, expected: Picture, most: int) -> None:
    """Equal but for what a lossy codec does, away from the edges between the fields."""
    assert got.dtype == np.uint8
    assert got.shape == expected.shape
    height, width = expected.shape[:2]
    for y in (height // 4, height * 3 // 4):
        for x in (width // 4, width * 3 // 4):
            assert np.abs(got[y, x].astype(int) - expected[y, x]).max() <= most, (y, x, got[y, x], expected[y, x])


RGB = Pillow.fromarray(colours())
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")


# ------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_deflate"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("JPEG", {"quality": 98, "subsampling": 0}, 4),
        ("JPEG", {"quality": 98, "progressive": True}, 4),
        ("JPEG", {"quality": 98, "restart_marker_blocks": 1}, 4),
        pytest.param("AVIF", {"quality": 95}, 8, marks=NEEDS_AVIF),
    ],
)
def test_every_format_gives_its_pixels(kind: str, options: dict[str, object], most: int, tmp_path: Path) -> None:
    data = encoded(RGB, kind, **options)
    path = tmp_path / "a.dat"  # the name says nothing; the bytes do
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data), path, str(path)):
        image = load_image(source)
        near(image, colours(), most)
        assert image.flags.c_contiguous
    with path.open("rb") as file:
        assert image_size(file) == (40, 24)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"])
def test_every_mode_of_pillow_becomes_rgb(mode: str) -> None:
    grey = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None], 8, 0)
    source = Pillow.fromarray(grey) if mode in ("1", "L", "LA", "I;16") else RGB
    if mode == "I;16":
        source = Pillow.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "PA":
        source = source.convert("P").convert("PA")
    else:
        source = source.convert(mode)
    image = load_image(source)
    assert image.shape == (*np.asarray(source).shape[:2], 3)
    if mode in ("L", "LA", "I;16"):
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, 2))
    if mode in ("RGB", "RGBA", "RGBX", "CMYK", "P"):
        near(image, colours(), 1 if mode != "P" else 30)


def test_colours_that_pillow_cannot_convert_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(self: Pillow.Image, mode: str) -> Pillow.Image:  # as Pillow before version 11 does with Lab
        raise ValueError(f"conversion from {self.mode} to {mode} not supported")

    monkeypatch.setattr(Pillow.Image, "convert", convert)
    with pytest.raises(UnknownFormat, match="mode LAB") as caught:
        load_image(Pillow.new("LAB", (4, 4)))
    assert caught.value.hint == "save it as RGB"


def test_sixteen_bits_are_scaled_not_cut() -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    naive = [round(v / 257) for v in deep[0].tolist()]  # 65535 = 255 * 257
    for data in (encoded(Pillow.fromarray(deep), "PNG"), encoded(Pillow.fromarray(deep), "TIFF"), deep):
        assert load_image(data)[0, :, 1].tolist() == naive


def test_floating_tiff() -> None:
    levels = list(range(0, 256, 15))
    ramp = np.array([levels], np.float32) / 255
    image = load_image(encoded(Pillow.fromarray(ramp), "TIFF"))
    assert image[0, :, 0].tolist() == levels
    with pytest.raises(UnknownFormat, match="0 to 1"):
        load_image(encoded(Pillow.fromarray(ramp * 300), "TIFF"))


def test_palette_with_transparency_lies_on_white() -> None:
    picture = Pillow.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    assert load_image(encoded(picture, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert load_image(encoded(picture, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_alpha_is_composited_on_white() -> None:
    rgba = np.array([[[100, 0, 200, 0], [100, 0, 200, 255], [100, 0, 200, 128]]], np.uint8)
    expected = [[255 + (c - 255) * a / 255 for c in (100, 0, 200)] for a in (0, 255, 128)]
    for source in (
        encoded(Pillow.fromarray(rgba), "PNG"),
        encoded(Pillow.fromarray(rgba), "WEBP", lossless=True),
        rgba,
    ):
        np.testing.assert_allclose(load_image(source)[0], expected, atol=1)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_or_of_pages_the_first_is_taken(kind: str) -> None:
    other = Pillow.new("RGB", RGB.size, "black")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(RGB, kind, save_all=True, append_images=[other, other], **options)
    near(load_image(data), colours(), 20 if kind == "GIF" else 0)


def test_cmyk_jpeg_as_adobe_writes_it() -> None:
    # Pillow writes CMYK inverted with an Adobe marker, as Photoshop does.
    near(load_image(encoded(RGB.convert("CMYK"), "JPEG", quality=98)), colours(), 4)


def test_grey_jpeg() -> None:
    image = load_image(encoded(RGB.convert("L"), "JPEG", quality=98))
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 1] == image[..., 2]).all()
    assert abs(int(image[6, 10, 0]) - round(0.299 * 200 + 0.587 * 40 + 0.114 * 40)) <= 3


def test_reduced_jpeg_is_smaller_but_not_smaller_than_asked_for() -> None:
    data = encoded(Pillow.fromarray(colours(600, 1000)), "JPEG", quality=98)
    for long_side in (1000, 999, 400, 125, 100, 7):
        image = load_image(data, reduce_to=long_side)
        assert image.shape == (round(600 * long_side / 1000), long_side, 3)
        near(image, colours(600, 1000)[:: 1000 // long_side, :: 1000 // long_side][: image.shape[0], :long_side], 6)
    assert load_image(data, reduce_to=5000).shape == (600, 1000, 3)


# ------------------------------------------------------------------------------------------- orientations

# What a viewer has to do, by the definition of the tag: row 0 and column 0 of the stored picture lie at …
TURNS: dict[int, Callable[[Picture], Picture]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: np.rot90(a, -1),  # right, top: the camera was held upright, its left side down
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: np.rot90(a),  # left, bottom
}


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("kind", ["JPEG", "CMYK", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=NEEDS_AVIF)])
def test_exif_orientation(orientation: int, kind: str) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    picture = RGB.convert("CMYK") if kind == "CMYK" else RGB
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98} if kind in ("JPEG", "CMYK", "AVIF") else {}
    data = encoded(picture, "JPEG" if kind == "CMYK" else kind, exif=exif, **options)
    upright = np.ascontiguousarray(TURNS[orientation](colours()))
    near(load_image(data), upright, 8)
    assert image_size(data) == (upright.shape[1], upright.shape[0])
    with Pillow.open(io.BytesIO(data)) as opened:  # handed in by somebody who opened it himself
        near(load_image(opened), upright, 8)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    near(load_image(encoded(RGB, "JPEG", exif=exif, quality=98)), colours(), 4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_no_reason_to_refuse_a_picture() -> None:
    data = encoded(RGB, "JPEG", quality=98, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    near(load_image(data), colours(), 4)


# -------------------------------------------------------------------------------------------------- broken


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_anywhere_is_refused(options: dict[str, object], mode: str) -> None:
    data = encoded(RGB.convert(mode), "JPEG", **options)
    for length in range(1, len(data) - 1, 7):
        with pytest.raises(MediaError) as caught:
            load_image(data[:length])
        assert isinstance(caught.value, CorruptMedia | UnknownFormat)
        assert caught.value.hint


def test_a_jpeg_cut_and_closed_again_is_refused() -> None:
    # The end-of-image marker is there, as some programs that repair files write it, but half of the pixels is not.
    rng = np.random.default_rng(0)
    noise = Pillow.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8))
    for mode in ("RGB", "L", "CMYK"):
        data = encoded(noise.convert(mode), "JPEG", quality=90)
        scan = data.index(b"\xff\xda") + 16
        for share in (0.1, 0.5, 0.8):
            cut = data[: int(scan + share * (len(data) - scan))].rstrip(b"\xff")
            with pytest.raises(CorruptMedia, match="truncated"):
                load_image(cut + b"\xff\xd9")


def test_grey_in_the_last_corner_is_not_taken_for_a_cut() -> None:
    grey = Pillow.new("RGB", (33, 17), (128, 128, 128))
    assert (load_image(encoded(grey, "JPEG")) == 128).all()


def test_a_png_cut_anywhere_is_refused() -> None:
    data = encoded(RGB, "PNG")
    for length in range(1, len(data) - 1):
        with pytest.raises(MediaError):
            load_image(data[:length])
    at = data.index(b"IDAT") + 8
    damaged = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]  # whole, but one byte of the pixels is another
    with pytest.raises(CorruptMedia):
        load_image(damaged)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "GIF", "BMP", "PPM", pytest.param("AVIF", marks=NEEDS_AVIF)])
def test_half_a_file_is_refused(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = encoded(Pillow.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)), kind)
    with pytest.raises(CorruptMedia) as caught:
        load_image(data[: len(data) // 2])
    assert caught.value.hint


# --------------------------------------------------------------------------------------------------- bombs


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def _patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    new = struct.pack(form, *values)
    return data[:at] + new + data[at + len(new) :]


def _tiff_bomb() -> bytes:
    entries = [(256, 4, 60000), (257, 4, 60000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 4, 60000), (279, 4, 4)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(4)


BOMBS = {
    "JPEG": lambda: _patched((data := encoded(RGB, "JPEG")), data.index(b"\xff\xc0") + 5, ">HH", 60000, 60000),
    "PNG": lambda: _png_header(100_000, 100_000),
    "GIF": lambda: _patched(encoded(RGB, "GIF"), 6, "<HH", 65535, 65535),
    "BMP": lambda: _patched(encoded(RGB, "BMP"), 18, "<ii", 100_000, 100_000),
    "WEBP": lambda: b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff",
    "WEBP lossless": lambda: _patched(encoded(RGB, "WEBP", lossless=True), 21, "<I", 0x0FFFFFFF),
    "TIFF": _tiff_bomb,
    "PPM": lambda: b"P6 100000 100000 255\n" + bytes(100),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_bomb_is_refused_before_it_is_decoded(kind: str) -> None:
    data = BOMBS[kind]()
    assert len(data) < 10_000
    load_image(encoded(RGB, kind.split()[0]))  # the plugin is loaded; from here on memory is counted
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLarge) as caught:
            load_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert "max_pixels" in str(caught.value.hint)
    assert "megapixels" in str(caught.value.got)


def test_the_limit_is_the_callers() -> None:
    data = encoded(RGB, "PNG")
    assert load_image(data, max_pixels=40 * 24).shape == (24, 40, 3)
    for source in (data, colours(), RGB):
        with pytest.raises(ImageTooLarge):
            load_image(source, max_pixels=40 * 24 - 1)
    for wrong in (0, -1, 2.5, "many"):
        with pytest.raises(OptionError, match="max_pixels"):
            load_image(data, max_pixels=wrong)  # type: ignore[arg-type]


def test_more_bytes_than_any_picture_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with path.open("wb") as file:
        file.write(_png_header(4, 4))
        file.truncate(1 << 40)  # sparse: a terabyte that takes no place
    with pytest.raises(ImageTooLarge, match="bytes"):
        load_image(path)


# ------------------------------------------------------------------------------------------- not a picture


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"", EmptyMedia, "no bytes"),
        (b"hello, this is a letter and no picture", UnknownFormat, "text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", UnknownFormat, "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnknownFormat, "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", UnknownFormat, "PDF"),
        (b"PK\x03\x04" + bytes(30), UnknownFormat, "ZIP"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(30), UnknownFormat, "video"),
        (b"\xff\x0a" + bytes(30), MissingCodec, "JPEG XL"),
        (bytes(range(1, 60)), UnknownFormat, "mien knows"),
        (b"BM, said the bomb", UnknownFormat, "text"),
    ],
)
def test_what_is_no_picture_is_named_for_what_it_is(data: bytes, kind: type[MediaError], word: str) -> None:
    with pytest.raises(kind, match=word) as caught:
        load_image(data)
    assert caught.value.hint


def test_heif_without_a_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Pillow.OPEN, "HEIF", raising=False)
    with pytest.raises(MissingCodec) as caught:
        load_image(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64))
    assert "pillow-heif" in str(caught.value.hint)


def test_avif_without_a_decoder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("PIL.AvifImagePlugin")
    monkeypatch.setattr(plugin, "SUPPORTED", False)
    with pytest.raises(MissingCodec, match="AVIF") as caught:
        load_image(b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif" + bytes(64))
    assert "upgrade" in str(caught.value.hint)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(MediaNotFound):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(MediaNotFound, match="downloads nothing"):
        load_image("https://example.org/a.jpg")
    with pytest.raises(MediaNotFound):
        load_image("a\0b.jpg")
    with pytest.raises(MediaNotFound):
        load_image("x" * 5000)
    with pytest.raises(NotAFile):
        load_image(tmp_path)
    with pytest.raises(NotAFile, match="regular"):
        load_image("/dev/null" if Path("/dev/null").exists() else tmp_path)


def test_file_objects(tmp_path: Path) -> None:
    data = encoded(RGB, "PNG")

    class Dribble(io.RawIOBase):
        """Gives seven bytes at a time, as a pipe may."""

        def __init__(self) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(7, size) if size >= 0 else 7)

    np.testing.assert_array_equal(load_image(Dribble()), colours())
    used = io.BytesIO(data)
    used.read()
    with pytest.raises(EmptyMedia) as caught:
        load_image(used)
    assert "seek" in str(caught.value.hint)
    with pytest.raises(UnknownFormat, match="text"):
        load_image(io.StringIO("a"))  # type: ignore[arg-type]
    used.close()
    with pytest.raises(MediaError, match="cannot be read"):
        load_image(used)
    with (tmp_path / "a").open("wb") as file, pytest.raises(MediaError, match="cannot be read"):
        load_image(file)


# --------------------------------------------------------------------------------------- arrays and tensors


def test_arrays_that_are_right_already_are_not_copied() -> None:
    image = colours()
    assert load_image(image) is image or np.shares_memory(load_image(image), image)
    flipped = load_image(image[:, ::-1])
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, image[:, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded(dtype: type) -> None:
    values = np.array([[0, 0.25, 0.5, 1.0]], dtype)
    assert load_image(values)[0, :, 0].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_shapes_of_arrays(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 255, np.uint8)
    assert load_image(array).shape == (5, 7, 3)
    assert (load_image(array) == 255).all()


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    image = colours()
    chw = torch.from_numpy(image.copy()).permute(2, 0, 1)
    np.testing.assert_array_equal(load_image(chw), image)
    np.testing.assert_array_equal(load_image(chw.permute(1, 2, 0)), image)
    np.testing.assert_array_equal(load_image((chw.float() / 255).requires_grad_()), image)
    np.testing.assert_array_equal(load_image(chw[:1]), np.repeat(image[..., :1], 3, 2))
    assert np.abs(load_image((chw / 255).bfloat16()).astype(int) - image).max() <= 1
    ambiguous = torch.zeros(3, 5, 3, dtype=torch.uint8)
    ambiguous[0] = 9  # torch's order: red everywhere
    assert (load_image(ambiguous)[..., 0] == 9).all()
    with pytest.raises(DtypeError, match="plain numbers"):
        load_image(torch.zeros(3, 4, 4, device="meta"))
    with pytest.raises(DtypeError):
        load_image(torch.zeros(3, 4, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("array", "kind", "word"),
    [
        (np.full((4, 4, 3), np.nan), ValueRangeError, "NaN"),
        (np.full((4, 4, 3), np.inf), ValueRangeError, "infinity"),
        (np.full((4, 4, 3), 200.0), ValueRangeError, "255"),
        (np.full((4, 4, 3), -0.5), ValueRangeError, "-0.5"),
        (np.zeros((4, 4, 3), np.int64), DtypeError, "uint8"),
        (np.zeros((4, 4, 3), bool), DtypeError, "uint8"),
        (np.zeros((4, 4, 3), complex), DtypeError, "uint8"),
        (np.empty((4, 4, 3), object), DtypeError, "uint8"),
        (np.zeros((4, 4, 2), np.uint8), ShapeError, "channels"),
        (np.zeros((3, 40, 40), np.uint8), ShapeError, "transpose"),
        (np.zeros((2, 4, 4, 3), np.uint8), ShapeError, "many"),
        (np.zeros(4, np.uint8), ShapeError, "rows"),
        (np.zeros((0, 4, 3), np.uint8), EmptyMedia, "no pixels"),
        (np.zeros((4, 0), np.uint8), EmptyMedia, "no pixels"),
    ],
)
def test_arrays_that_are_no_picture(array: NDArray[np.generic], kind: type[Exception], word: str) -> None:
    with pytest.raises(kind, match=word) as caught:
        load_image(array)
    assert caught.value.hint  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".ppm", ".PNG"])
def test_saved_and_loaded_again_is_the_same(suffix: str, tmp_path: Path) -> None:
    path = save_image(tmp_path / f"a{suffix}", colours())
    np.testing.assert_array_equal(load_image(path), colours())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", pytest.param(".avif", marks=NEEDS_AVIF)])
def test_lossy_formats_obey_quality(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64, 3), np.uint8)
    good = save_image(tmp_path / f"good{suffix}", noise, quality=95).stat().st_size
    poor = save_image(tmp_path / f"poor{suffix}", noise, quality=20).stat().st_size
    assert poor < good / 2
    near(load_image(save_image(tmp_path / f"c{suffix}", colours(), quality=95)), colours(), 8)


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat):
        save_image(tmp_path / "a.xyz", colours())
    with pytest.raises(MediaNotFound, match="create the folder"):
        save_image(tmp_path / "no" / "a.png", colours())
    (tmp_path / "d.png").mkdir()
    with pytest.raises(NotAFile):
        save_image(tmp_path / "d.png", colours())
    with pytest.raises(OptionError, match="quality"):
        save_image(tmp_path / "a.jpg", colours(), quality=101)
    with pytest.raises(ShapeError):
        save_image(tmp_path / "a.jpg", np.zeros((2, 2, 2), np.uint8))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d.png"]


def test_an_older_file_stays_whole_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_image(tmp_path / "a.png", colours())
    before = path.read_bytes()

    def full(self: Path, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MediaError, match="No space"):
        save_image(path, np.zeros((4, 4, 3), np.uint8))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
