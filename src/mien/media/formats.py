"""What the first bytes and the skeleton of a file say about it, without decoding a pixel.

Three questions, all answered from the bytes and never from the name of a file:

- `sniff`: which format is it?
- `read_jpeg`, `webp_size`: how large will it be? A decompression bomb is refused on this answer.
- `read_jpeg`, `check_png`: is it whole? libjpeg fills what is missing with grey and calls that a warning, so
  whoever wants no half pictures has to look at the markers himself.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from mien.errors import CorruptMedia

HEAD: Final = 512
"""Bytes that `sniff` looks at."""

PICTURES: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "PPM")
"""The picture formats that mien reads, named as Pillow names them."""

# fmt: off
PICTURE_SUFFIXES: Final = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm",
))
"""Names of files in a folder that are taken for pictures, in lower case."""

VIDEO_SUFFIXES: Final = frozenset((  # not .ts, which is more often TypeScript
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".wmv",
    ".flv", ".ogv",
))
"""Names of files in a folder that are taken for videos, in lower case."""
# fmt: on


def sniff(head: bytes) -> str | None:
    """The format that `head`, the first bytes of a file, belongs to.

    One of `PICTURES`; ``"video"``; a format that mien knows but does not read (``"JPEG XL"``,
    ``"JPEG 2000"``, ``"PDF"``, ``"HTML"``, ``"SVG"``, ``"ZIP"``, ``"text"``); or None.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:2] == b"BM" and head[14:18] in _BMP_HEADERS:  # two letters alone begin many a text
        return "BMP"
    if head[:4] == b"RIFF" and len(head) >= 12:
        return {b"WEBP": "WEBP", b"AVI ": "video"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if re.match(rb"P[1-6]\s", head):
        return "PPM"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):  # QuickTime from before it had brands
        return "video"
    if any(len(head) > at + 188 and head[at] == head[at + 188] == 0x47 for at in (0, 4)):
        return "video"  # the sync byte of MPEG transport packets, plain or with time codes
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return "HTML"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "SVG"
    if start and not re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", head):
        return "text"
    return None


_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x1a\x45\xdf\xa3", "video"),
    (b"\x00\x00\x01\xba", "video"),
    (b"\x00\x00\x01\xb3", "video"),
    (b"OggS", "video"),
    (b"FLV\x01", "video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video"),
    (b"%PDF-", "PDF"),
    (b"PK\x03\x04", "ZIP"),
)


_BMP_HEADERS: Final = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))


def _of_brands(head: bytes) -> str | None:
    """AVIF, HEIC and MP4 are the same box format; the brands in its first box tell them apart."""
    size = int.from_bytes(head[:4], "big")
    box = head[8 : max(size, 12)]
    brands = {box[:4], *(box[at : at + 4] for at in range(8, len(box) - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "HEIF"
    return "video"


@dataclass(frozen=True)
class JpegHeader:
    """What the markers of a JPEG say.

    Parameters
    ----------
    width, height
        Pixels as stored, before the EXIF orientation.
    components
        1 grey, 3 colour, 4 CMYK.
    bits
        Per sample.
    frame
        Number of the SOF marker: 0 baseline, 1 extended, 2 progressive, others rare.
    exif
        The EXIF block without its ``Exif\\0\\0``; empty if there is none.
    """

    width: int
    height: int
    components: int
    bits: int
    frame: int
    exif: bytes


# A frame header is one of SOF0 to SOF15; C4, C8 and CC in the same range are tables and an extension.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS, _EOI, _DRI, _APP1 = 0xDA, 0xD9, 0xDD, 0xE1
# What may follow a scan: the end, tables, a new scan, DNL, a restart interval, APPn, a comment.
_AFTER_SCAN: Final = frozenset((_EOI, 0xC4, _SOS, 0xDB, 0xDC, _DRI, *range(0xE0, 0xF0), 0xFE))
# Inside a scan FF 00 is a data byte FF, and FF before FF is filling; all else is a marker.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_MARKER_BUT_RESTART: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


def read_jpeg(data: bytes, *, whole: bool = True) -> JpegHeader:
    """Walks the markers of a JPEG; a few dozen steps whatever its size.

    Parameters
    ----------
    data
        The file, or its beginning.
    whole
        Go on to the end-of-image marker, and refuse a file that has none. Otherwise stop at the first scan.

    Raises
    ------
    CorruptMedia
        The markers end too early, or there is a marker where none can be. (Damage inside the compressed data
        cannot be seen: JPEG has no checksum.)
    """
    size: tuple[int, int, int, int, int] | None = None
    exif, restarts, in_scan, scans, at = b"", False, False, 0, 2
    while True:
        if in_scan:
            at = scan_end(data, at, restarts=restarts)
            if at < 0:
                raise CorruptMedia("the JPEG is truncated")
        marker, at = _next_marker(data, at)
        if in_scan and marker not in _AFTER_SCAN:
            raise CorruptMedia(f"the JPEG is damaged: marker FF{marker:02X} inside its pixels")
        in_scan = False
        if marker == _EOI and scans and size is not None:
            return JpegHeader(*size, exif=exif)
        if marker == _EOI:
            raise CorruptMedia("the JPEG ends before its first pixel")
        if 0xD0 <= marker <= 0xD8 or marker == 0x01:  # these stand alone, without a length
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += length
        if length < 2 or len(body) != length - 2:
            raise CorruptMedia("the JPEG is truncated in its header")
        if marker in _FRAMES and size is None:
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                raise CorruptMedia("the JPEG has a damaged frame header")
            bits, height, width, components = struct.unpack(">BHHB", body[:6])
            size = (width, height, components, bits, marker - 0xC0)
        elif marker == _APP1 and body.startswith(b"Exif\x00\x00") and not exif:
            exif = body[6:]
        elif marker == _DRI:
            restarts = body[:2] != b"\x00\x00"
        elif marker == _SOS:
            if size is None:
                raise CorruptMedia("the JPEG has pixels before their size")
            if not whole:
                return JpegHeader(*size, exif=exif)
            in_scan, scans = True, scans + 1


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The next marker from `at` on, and where its segment starts."""
    # Decoders skip stray bytes between segments, which some cameras write, and filling FFs before a marker.
    found = _MARKER.search(data, at)
    if found is None:
        raise CorruptMedia("the JPEG is truncated in its header")
    return data[found.end() - 1], found.end()


def scan_end(data: bytes, at: int, *, restarts: bool) -> int:
    """Where the compressed data from `at` on ends: the place of the next marker, or -1 if none comes."""
    found = (_MARKER_BUT_RESTART if restarts else _MARKER).search(data, at)
    return -1 if found is None else found.end() - 2


def check_png(data: bytes) -> None:
    """CorruptMedia unless the chunks of a PNG follow each other up to its IEND."""
    at = 8
    while True:
        name = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at > len(data) or len(name) < 4:
            raise CorruptMedia("the PNG is truncated")
        if name == b"IEND":
            return


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height from the first 30 bytes of a WebP; None if they do not tell.

    Pillow's WebP reader allocates the canvas when it opens a file, so the size must be known before.
    """
    kind, body = head[12:16], head[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None
