"""Pictures in and out: whatever comes in leaves as (H, W, 3) uint8 RGB, upright, or as a typed error.

Decoding, measured on one core (x86-64, OpenCV 5.0, Pillow 13.0, both over libjpeg-turbo, equal pixels):

    JPEG 112 x 112     0.11 ms OpenCV     0.25 ms Pillow
    JPEG 12 megapixels   64 ms OpenCV      107 ms Pillow

so OpenCV decodes the ordinary JPEG. It is not asked about anything else: older versions return a truncated
JPEG half grey, every version mistreats CMYK, and its EXIF orientation cannot be told from the pixels
afterwards. Size, wholeness and orientation are therefore read from the markers first (`mien.media.formats`,
0.02 ms), and CMYK, odd JPEGs and all other formats go to Pillow.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import __version__ as pillow_version

from mien.errors import (
    CorruptMedia,
    DtypeError,
    EmptyMedia,
    ImageTooLarge,
    MediaError,
    MissingCodec,
    OptionError,
    ShapeError,
    UnknownFormat,
    ValueRangeError,
)
from mien.media.files import is_array, is_tensor, read_bytes, write_whole
from mien.media.formats import HEAD, PICTURES, JpegHeader, check_png, read_jpeg, scan_end, sniff, webp_size

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_PIXELS", "Image", "Source", "image_size", "load_image", "save_image"]

Image: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

Source: TypeAlias = Union[
    str,
    os.PathLike[str],
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    NDArray[Any],
    "torch.Tensor",
    PillowImage.Image,
]
"""Whatever a picture can come as."""

MAX_PIXELS: Final = 100_000_000
"""Pixels that a picture may have unless the caller says otherwise: 300 MB decoded."""


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS, reduce_to: int | None = None) -> Image:
    """One picture as (H, W, 3) uint8 RGB, contiguous and upright.

    The EXIF orientation is applied; CMYK, palette, grey and 16 bit are converted; transparency is laid on
    white; of an animation or of several pages the first is taken. Colour profiles are not applied.

    Parameters
    ----------
    source
        A path; the bytes of a file; a file object open for reading bytes; an array (H, W), (H, W, 1), (H,
        W, 3) RGB or (H, W, 4) RGBA of uint8, uint16 or float in 0 to 1; a torch tensor (3, H, W), (1, H, W)
        or (H, W, 3) of uint8 or float in 0 to 1; a PIL image. An array that is right already is returned as
        it is, not copied.
    max_pixels
        Refuse larger pictures; told from the header, before decoding.
    reduce_to
        Long side in pixels of the result, if the picture is larger. A JPEG is then decoded at a fraction of
        its size, which is several times faster.

    Raises
    ------
    MediaError
        MediaNotFound, MediaForbidden, NotAFile, EmptyMedia, UnknownFormat, CorruptMedia (also when
        truncated: never a half picture), ImageTooLarge or MissingCodec.
    ArrayError
        ShapeError, DtypeError or ValueRangeError for an array or tensor that is no picture.
    OptionError
        `max_pixels` or `reduce_to` is no positive number.
    """
    _check_count("max_pixels", max_pixels)
    if reduce_to is not None:
        _check_count("reduce_to", reduce_to)
    if isinstance(source, PillowImage.Image):
        return _reduced(_of_pillow(source, max_pixels), reduce_to)
    if is_array(source):
        return _reduced(_of_array(source, max_pixels), reduce_to)
    data, name = read_bytes(source, max_pixels=max_pixels)
    try:
        return _reduced(_decoded(data, max_pixels, reduce_to), reduce_to)
    except MediaError as error:
        error.got = name if error.got is None else f"{name}, {error.got}"
        raise


def image_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, without decoding it; errors as `load_image`."""
    if isinstance(source, PillowImage.Image):
        return _upright_size(source)
    if is_array(source):
        height, width = _of_array(source, sys.maxsize).shape[:2]
        return width, height
    data, name = read_bytes(source, max_pixels=MAX_PIXELS)
    try:
        if sniff(data[:HEAD]) == "JPEG":
            header = read_jpeg(data, whole=False)
            return _turned((header.width, header.height), _jpeg_orientation(header))
        return _upright_size(_opened(data, sys.maxsize))
    except MediaError as error:
        error.got = name if error.got is None else f"{name}, {error.got}"
        raise


def save_image(path: str | os.PathLike[str], image: Source, *, quality: int = 92) -> Path:
    """Writes a picture, in the format that the name asks for; the file appears whole or not at all.

    Parameters
    ----------
    path
        Where to; ``.jpg``, ``.png``, ``.webp``, ``.avif``, ``.bmp``, ``.tif`` or ``.ppm``. An older file is
        replaced.
    image
        Anything that `load_image` takes.
    quality
        1 to 100, for JPEG, WebP and AVIF; from 90 on JPEG keeps the full colour resolution.

    Raises
    ------
    UnknownFormat, MissingCodec, MediaNotFound, MediaForbidden, NotAFile
        The file cannot be written.
    """
    target = Path(path)
    kinds = {
        ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".avif": "AVIF",
        ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM",
    }  # fmt: skip
    if target.suffix.lower() not in kinds:
        raise UnknownFormat(
            "no format to write a picture in",
            got=target,
            expected=list(kinds),
            hint="give the file such an ending",
        )
    _check_count("quality", quality, most=100)
    kind = kinds[target.suffix.lower()]
    options: dict[str, Any] = {"quality": int(quality)} if kind in ("JPEG", "WEBP", "AVIF") else {}
    if kind == "JPEG":
        options |= {"subsampling": 0 if quality >= 90 else 2, "optimize": True}
    picture = PillowImage.fromarray(load_image(image, max_pixels=sys.maxsize))
    _plugin(kind)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **options)
    except (KeyError, OSError, ValueError, RuntimeError) as error:
        raise MissingCodec(f"this picture cannot be written as {kind}", got=f"{target}: {error}") from error
    write_whole(target, lambda partial: partial.write_bytes(buffer.getbuffer()))
    return target


# ------------------------------------------------------------------------------------------- bytes to picture


def _decoded(data: bytes, max_pixels: int, reduce_to: int | None) -> Image:
    if sniff(data[:HEAD]) == "JPEG":
        return _decoded_jpeg(data, max_pixels, reduce_to)
    picture = _opened(data, max_pixels)
    if picture.format == "PNG":
        check_png(data)
    return _of_pillow(picture, max_pixels)


def _decoded_jpeg(data: bytes, max_pixels: int, reduce_to: int | None) -> Image:
    header = read_jpeg(data)
    _check_size((header.width, header.height), max_pixels)
    if header.bits != 8:
        raise MissingCodec(f"a JPEG of {header.bits} bits is not supported")
    shrink = _fraction(max(header.width, header.height), reduce_to)
    image = None
    if header.components in (1, 3) and header.frame <= 2:
        image = _by_opencv(data, shrink)
    if image is None:
        image = _by_pillow(data, shrink)
    expected = (-(-header.height // shrink), -(-header.width // shrink), 3)
    if image.shape != expected:
        raise CorruptMedia(f"the JPEG decodes to {image.shape} instead of {expected}")
    # Where the data ends too early, libjpeg goes on in middle grey. That colour in the last corner is rare
    # enough to look twice; CMYK turns it into another one, and is rare as a whole.
    if (header.components == 4 or (image[-1, -1] == 128).all()) and _is_cut_short(data):
        raise CorruptMedia("the JPEG is truncated: the lower part of the picture is missing")
    return _upright(image, _jpeg_orientation(header))


def _by_opencv(data: bytes, shrink: int) -> Image | None:
    import cv2

    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[shrink]
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # larger than OpenCV's own limit, for one; Pillow will say what is wrong, if anything is
        return None
    return None if decoded is None else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _by_pillow(data: bytes, shrink: int) -> Image:
    picture = _opened(data, sys.maxsize)
    if shrink > 1:
        picture.draft(None, (picture.width // shrink, picture.height // shrink))
    return _rgb(picture)


def _fraction(long_side: int, reduce_to: int | None) -> int:
    """The largest of 1, 2, 4, 8 by which libjpeg can divide and still leave at least `reduce_to` pixels."""
    return 1 if reduce_to is None else max(by for by in (1, 2, 4, 8) if by == 1 or long_side // by >= reduce_to)


def _is_cut_short(data: bytes) -> bool:
    """Whether the first scan of a JPEG lacks data that an end-of-image marker hides.

    More data is put in where the scan ends, and the picture decoded again: a decoder that had all it needs
    skips it, one that was starved paints with it.
    """
    start = data.find(b"\xff\xda")
    end = scan_end(data, start + 2, restarts=True)
    # Each restart marker may be the one that a starved decoder waits for.
    more = b"".join(b"\x5a\x3c\x96\x69" * 8 + bytes((0xFF, 0xD0 + count)) for count in range(8))
    fed = data[:end] + more + data[end:]
    return not np.array_equal(_by_pillow(data, 1), _by_pillow(fed, 1))


def _opened(data: bytes, max_pixels: int) -> PillowImage.Image:
    """The picture opened by Pillow, not yet decoded, after a look at its size."""
    kind = sniff(data[:HEAD])
    if kind not in PICTURES:
        raise _not_a_picture(kind, data)
    size = webp_size(data[:HEAD]) if kind == "WEBP" else None
    if size is not None:
        _check_size(size, max_pixels)
    _plugin(kind)
    # Not Image.open: it would apply a limit of its own, which can only be changed for the whole process.
    factory = PillowImage.OPEN[kind][0]
    try:
        picture = factory(io.BytesIO(data), "")
    except MemoryError as error:
        raise _no_memory() from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, KeyError … for damaged headers
        raise CorruptMedia(f"the {kind} has a damaged header: {_reason(error)}") from error
    _check_size(picture.size, max_pixels)
    return picture


def _plugin(kind: str) -> None:
    """Makes Pillow know the format; MissingCodec where it cannot."""
    if kind == "HEIF":
        if "HEIF" not in PillowImage.OPEN:
            try:
                importlib.import_module("pillow_heif").register_heif_opener()
            except ImportError as error:
                raise MissingCodec(
                    "HEIC pictures need a decoder that Pillow lacks",
                    hint="pip install pillow-heif, or convert it to JPEG",
                ) from error
        return
    try:
        module = importlib.import_module(f"PIL.{'WebP' if kind == 'WEBP' else kind.capitalize()}ImagePlugin")
        there = getattr(module, "SUPPORTED", True)
    except ImportError:
        there = False
    if not there:
        raise MissingCodec(
            f"the installed Pillow cannot read or write {kind}",
            got=f"Pillow {pillow_version}",
            hint="pip install --upgrade pillow, or convert it to JPEG or PNG",
        )


def _not_a_picture(kind: str | None, data: bytes) -> MediaError:
    if kind == "video":
        return UnknownFormat("this is a video", hint="use open_video(...), or read_images(...) for its frames")
    if kind in ("JPEG XL", "JPEG 2000"):
        return MissingCodec(f"{kind} is not supported")
    if kind == "HTML":
        return UnknownFormat("this is a web page, whatever its name says", hint="the download failed: fetch it again")
    if kind is not None:
        return UnknownFormat(f"this is {kind}, not a picture, whatever its name says")
    return UnknownFormat("this is not a picture that mien knows", got=f"first bytes {data[:8].hex(' ')}")


def _no_memory() -> ImageTooLarge:
    return ImageTooLarge("the memory does not suffice to decode this picture", hint="scale it down")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


# ------------------------------------------------------------------------------------ Pillow and arrays to RGB


def _of_pillow(picture: PillowImage.Image, max_pixels: int) -> Image:
    _check_size(picture.size, max_pixels)
    image = _rgb(picture)
    return _upright(image, _orientation(picture))  # after loading: Pillow turns TIFFs by itself, and says so then


def _rgb(picture: PillowImage.Image) -> Image:
    kind = getattr(picture, "format", None) or "picture"
    try:
        picture.load()
    except MemoryError as error:
        raise _no_memory() from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error … for damaged pixels
        raise CorruptMedia(f"the {kind} is truncated or damaged: {_reason(error)}") from error
    try:
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return _of_deep(np.asarray(picture))
        if picture.has_transparency_data:
            rgba = picture.convert("RGBA")
            white = PillowImage.new("RGBA", rgba.size, "white")
            return np.array(PillowImage.alpha_composite(white, rgba).convert("RGB"))
        return np.array(picture.convert("RGB"))
    except MemoryError as error:
        raise _no_memory() from error
    except MediaError:
        raise
    except Exception as error:  # Lab, for one, or a palette that is too short
        raise UnknownFormat(
            f"the colours of this {kind} (Pillow's mode {picture.mode}) cannot be turned into RGB: {_reason(error)}",
            hint="save it as RGB",
        ) from error


def _of_deep(values: NDArray[Any]) -> Image:
    """Grey of more than 8 bits: 16-bit numbers, or floats in 0 to 1."""
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UnknownFormat("a picture of floating numbers must keep to 0 to 1", hint="save it as 16-bit PNG")
    elif values.min() < 0 or values.max() > 65535:
        raise UnknownFormat("a picture of 32-bit numbers is not supported", hint="save it as 16-bit PNG")
    else:
        values = values.astype(np.uint16)
    return np.repeat(_bytes(values)[:, :, None], 3, axis=2)


def _of_array(source: Any, max_pixels: int) -> Image:
    values = _numpy(source)
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise DtypeError(
            "an array of this type is no picture",
            got=source,
            expected="uint8, uint16, or float in 0 to 1",
            hint="convert it with .astype(np.uint8) if its numbers are 0 to 255",
        )
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        if values.ndim == 4:
            hint = "for many pictures use read_images(...) or a verb over a list"
        elif values.ndim == 3 and values.shape[0] in (1, 3, 4):
            hint = "put the channels last: array.transpose(1, 2, 0)"
        else:
            hint = "give one picture, rows first, channels last"
        raise ShapeError(
            "an array of this shape is no picture",
            got=source,
            expected="(H, W) or (H, W, 1 | 3 | 4)",
            hint=hint,
        )
    height, width = values.shape[:2]
    if not height or not width:
        raise EmptyMedia("this array holds no pixels", got=source, hint="check the crop or the slice that made it")
    _check_size((width, height), max_pixels)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        # Resampling may overshoot by a rounding error; what lies further out was scaled otherwise.
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # false for NaN too
            whole = np.isfinite((low, high)).all()
            raise ValueRangeError(
                "a picture of floating numbers must keep to 0 to 1",
                got=f"{low:g} to {high:g}" if whole else "NaN or infinity",
                hint="divide by 255 if it is 0 to 255" if whole else "mend the step that made them",
            )
    image = _bytes(values)
    if image.ndim == 2:
        image = image[:, :, None]
    if channels == 1:
        image = np.repeat(image, 3, axis=2)
    elif channels == 4:
        return _rgb(PillowImage.fromarray(np.ascontiguousarray(image), "RGBA"))
    return np.ascontiguousarray(image)


def _numpy(source: Any) -> NDArray[Any]:
    """The array or tensor as numpy array, channels last."""
    if not is_tensor(source):
        return np.asarray(source)
    try:
        tensor = source.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # numpy has no bfloat16
        values: NDArray[Any] = tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised or without storage; NotImplementedError is one too
        raise DtypeError(
            "this tensor holds no plain numbers", got=source, hint="make it dense, on a real device, first"
        ) from error
    # Where both ends could be channels, (3, 5, 3), torch's own order wins.
    if values.ndim == 3 and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    return values


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """uint16 over its full range, or float in 0 to 1, rounded to uint8."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def _check_count(name: str, value: object, *, most: int = sys.maxsize) -> None:
    if not isinstance(value, int | np.integer) or not 1 <= value <= most:
        expected = "a whole number from 1" + (f" to {most}" if most < sys.maxsize else "")
        raise OptionError(f"{name} is out of range", got=value, expected=expected)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise EmptyMedia("the picture has no pixels", got=f"{width} x {height}")
    if width * height > max_pixels:
        raise ImageTooLarge(
            "the picture has too many pixels",
            got=f"{width} x {height} = {width * height / 1e6:.4g} megapixels",
            expected=f"at most {max_pixels / 1e6:.4g} megapixels",
        )


# --------------------------------------------------------------------------------------- orientation and size


def _jpeg_orientation(header: JpegHeader) -> int:
    if not header.exif:
        return 1
    exif = PillowImage.Exif()
    try:
        exif.load(header.exif)
        return _known(exif.get(0x0112))
    except Exception:  # EXIF is written by many hands; a broken block is no reason to refuse the picture
        return 1


def _orientation(picture: PillowImage.Image) -> int:
    try:
        return _known(picture.getexif().get(0x0112))
    except Exception:  # see above
        return 1


def _upright_size(picture: PillowImage.Image) -> tuple[int, int]:
    orientation, size = _orientation(picture), picture.size
    tags = getattr(picture, "tag_v2", None)
    # Pillow turns TIFFs when it decodes them; whether the size is turned before depends on its version.
    if tags is not None and orientation >= 5:
        size = (int(tags.get(256, size[0])), int(tags.get(257, size[1])))
    return _turned(size, orientation)


def _known(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size if orientation < 5 else (size[1], size[0])


def _upright(image: Image, orientation: int) -> Image:
    """Undoes what an EXIF orientation says was done: 2 to 8 are the turns and mirrorings of a rectangle."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _reduced(image: Image, reduce_to: int | None) -> Image:
    height, width = image.shape[:2]
    if reduce_to is None or max(height, width) <= reduce_to:
        return image
    import cv2

    scale = reduce_to / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
