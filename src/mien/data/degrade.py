"""Ways in which a picture gets worse, each with one dial: resolution, blur, noise, JPEG, darkness; and, more rarely
wanted, video compression, motion blur, few levels and coarse colour. A whole clip is coded by `compress_clip`.

All are pure functions ``(image, severity, rng) -> image`` on (H, W, 3) uint8 RGB of any size; the size stays.
`severity` runs from 0 (the image unchanged, to the bit) to 1 (a person is still to be seen, but hardly to be
known) and each step makes the picture worse. They are the same for augmentation, for the check of the quality
score and for the demo, so that "severity 0.5" means one thing. `rng` is drawn from only where chance belongs
to the matter (noise, the shot noise of the dark, the way the camera moves), and always by the same amount, whatever
the severity.

`DEGRADATIONS` are the five that published figures of this project are means of; `MORE` are the others, `ALL` both.

    >>> rng = np.random.default_rng(0)
    >>> image = np.full((64, 64, 3), 128, np.uint8)
    >>> worse = DEGRADATIONS["noise"](image, 0.5, rng)
    >>> worse.shape, bool((worse == image).all())
    ((64, 64, 3), False)
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import as_picture, decode
from mien.errors import DtypeError, MissingCodec, OptionError, ShapeError, ValueRangeError

__all__ = [
    "ALL",
    "CODECS",
    "DEGRADATIONS",
    "MORE",
    "banding",
    "blur",
    "chroma",
    "compress_clip",
    "darkness",
    "jpeg",
    "motion_blur",
    "noise",
    "resolution",
    "video",
]

Image = NDArray[np.uint8]


def resolution(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Shrunk by area to ``8 ** -severity`` of its sides (an eighth at 1) and enlarged again linearly.

    At 1 a face of 112 px is left with 14 px.
    """
    import cv2

    _check(image, severity)
    if severity == 0:
        return image.copy()
    height, width = image.shape[:2]
    small = (max(1, round(width * 8.0**-severity)), max(1, round(height * 8.0**-severity)))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return as_picture(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR))


def blur(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Gaussian blur; its standard deviation is ``severity * 5 %`` of the shorter side (5.6 px of 112 at 1)."""
    import cv2

    _check(image, severity)
    sigma = 0.05 * severity * min(image.shape[:2])
    # Below a fifth of a pixel the kernel's neighbours weigh less than half of one of 255 levels.
    if sigma < 0.2:
        return image.copy()
    return as_picture(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def noise(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Sensor noise: Gaussian, its variance half constant and half in proportion to the light, independent per
    channel.

    The standard deviation is ``64 * severity`` levels for a mid-grey pixel.
    """
    _check(image, severity)
    normal = rng.standard_normal(image.shape, np.float32)
    if severity == 0:
        return image.copy()
    level = image.astype(np.float32)
    deviation = 64 * severity * np.sqrt(0.5 + 0.5 * level / 127.5)
    return _levels(level + deviation * normal)


def jpeg(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Coded as JPEG, quality from 95 down to 3 in proportion to `severity`, colour at half size; decoded again."""
    import cv2

    _check(image, severity)
    if severity == 0:
        return image.copy()
    quality = round(95 * (1 - severity) + 3 * severity)
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    return decode(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1])


def darkness(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Underexposed by ``6 * severity`` stops, with the shot noise of the light that is left.

    The exposure is lowered in linear light (sRGB undone), where a white pixel of the full exposure stands for
    4,000 photons; Poisson noise is taken as Gaussian, which it is above some ten photons.
    """
    _check(image, severity)
    normal = rng.standard_normal(image.shape, np.float32)
    if severity == 0:
        return image.copy()
    light = _LINEAR[image] * np.float32(2.0 ** (-6 * severity))
    light = np.clip(light + normal * np.sqrt(light / 4000), 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return _levels(255 * srgb)


def video(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """A frame of a film coded as H.264, constant rate factor from 14 to 51 (x264's worst) in proportion to `severity`.

    The picture pans by one pixel a frame for three frames, and the last is kept: it is predicted from the others, so
    that it bears the traces of prediction (blocks that lag, smeared texture) besides those of the transform. The pan
    begins to the left or to the right by chance.
    """
    import cv2

    _check(image, severity)
    step = 1 if rng.random() < 0.5 else -1
    if severity == 0:
        return image.copy()
    size = image.shape[1::-1]
    pan = [
        cv2.warpAffine(image, np.array([[1.0, 0, lag * step], [0, 1, 0]]), size, borderMode=cv2.BORDER_REPLICATE)
        for lag in (2, 1)
    ]
    return as_picture(compress_clip(np.stack([*pan, image]), crf=round(14 + 37 * severity))[-1].copy())


def motion_blur(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Smeared along a straight line in a direction drawn by chance, as a camera does that moves while it exposes.

    The line is ``severity * 20 %`` of the shorter side long (22 px of 112 at 1). The hand starts and stops, so the
    ends of the line weigh less than its middle (a raised cosine).
    """
    import cv2

    _check(image, severity)
    angle = math.pi * rng.random()
    length = 0.2 * severity * min(image.shape[:2])
    if length < 0.5:  # nothing is left of it after rounding
        return image.copy()
    kernel = _line(length, angle)
    return as_picture(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def banding(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Few levels: each channel in steps of ``64 ** severity`` levels (8 bits at 0, 2 at 1), without dither."""
    _check(image, severity)
    if severity == 0:
        return image.copy()
    step = 64.0**severity
    # The middle of each step stands for it, so that the picture gets neither lighter nor darker.
    steps = np.floor(np.arange(256) / step)
    table = np.clip(np.rint((steps + 0.5) * step - 0.5), 0, 255).astype(np.uint8)
    return as_picture(table[image])


def chroma(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Colour at ``16 ** -severity`` of the sides (4:2:0 at 0.25), brightness untouched, as cheap codecs store it.

    Colour is what BT.601 calls it: Cb and Cr of the coded levels, averaged by area and enlarged linearly.
    """
    import cv2

    _check(image, severity)
    if severity == 0:
        return image.copy()
    height, width = image.shape[:2]
    coded = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2YCrCb)
    small = (max(1, round(width * 16.0**-severity)), max(1, round(height * 16.0**-severity)))
    shrunk = cv2.resize(coded[..., 1:], small, interpolation=cv2.INTER_AREA)
    coded[..., 1:] = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 2)
    return _levels(cv2.cvtColor(coded, cv2.COLOR_YCrCb2RGB))


# With AVX-512, x264's macroblock tree gives now and then other bits for the same frames (seen with the build in PyAV
# 18.1, in 27 of 240 clips); without, none did. SSE2 is what every such processor has.
_REPRODUCIBLE = {"x264-params": "asm=SSE2"} if platform.machine() in ("x86_64", "AMD64") else {}

CODECS: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "h264": ("libx264", "h264", 51, {"preset": "medium", **_REPRODUCIBLE}),
    "vp9": ("libvpx-vp9", "vp9", 63, {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0"}),
}
"""Codecs of `compress_clip`: FFmpeg's encoder and decoder, the largest (worst) CRF, and the encoder's options."""


def compress_clip(
    frames: NDArray[np.uint8], *, crf: int = 23, codec: str = "h264", fps: int = 25, keyframe_every: int = 250
) -> NDArray[np.uint8]:
    """A clip after it was coded as video and decoded again, in memory.

    With H.264, CRF 23 and 40 are the compressions that FaceForensics++ (Rössler et al., ICCV 2019) calls "high
    quality" (c23) and "low quality" (c40). One thread codes, so that the result depends on the encoder's version only.

    Parameters
    ----------
    frames : (t, H, W, 3), uint8
        RGB. Sizes that the codec does not take (odd, or under 16 px) are padded with edge pixels and cut again.
    crf
        Constant rate factor: 0 to 51 (63 for VP9), lower is better.
    codec
        ``"h264"`` or ``"vp9"``.
    fps
        Frames a second: the encoder allows more loss in frames that are seen for less time.
    keyframe_every
        At most so many frames from one that is coded by itself to the next.

    Returns
    -------
    (t, H, W, 3) uint8 RGB; a new array.

    Raises
    ------
    DtypeError, ShapeError, ValueRangeError
        Not such a clip, or a CRF out of the codec's range.
    OptionError, MissingCodec
        An unknown codec, or one that FFmpeg was built without here.
    """
    import av
    from av.video.codeccontext import VideoCodecContext

    if codec not in CODECS:
        raise OptionError.unknown("unknown codec", codec, tuple(CODECS))
    encoder, decoder, most, options = CODECS[codec]
    _check_clip(frames)
    if not 0 <= crf <= most:
        raise ValueRangeError(f"crf is out of range for {codec}", got=crf, expected=f"0 to {most}")
    height, width = frames.shape[1:3]
    down, right = max(16, height + height % 2) - height, max(16, width + width % 2) - width
    if down or right:
        frames = np.pad(frames, ((0, 0), (0, down), (0, right), (0, 0)), mode="edge")
    try:
        coder = av.CodecContext.create(encoder, "w")
        reader = av.CodecContext.create(decoder, "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise MissingCodec("FFmpeg has no such codec here", got=encoder, hint="use codec='h264'") from error
    assert isinstance(coder, VideoCodecContext)
    assert isinstance(reader, VideoCodecContext)
    coder.width, coder.height, coder.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
    coder.time_base, coder.framerate, coder.gop_size = Fraction(1, fps), Fraction(fps), keyframe_every
    coder.thread_count = reader.thread_count = 1
    coder.options = {**options, "crf": str(crf)}
    packets = []
    for count, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = count, coder.time_base
        packets += coder.encode(picture)
    packets += coder.encode(None)
    decoded = [picture for packet in packets for picture in reader.decode(packet)] + list(reader.decode(None))
    if len(decoded) != len(frames):
        raise MissingCodec("the codec lost frames", got=f"{len(decoded)} of {len(frames)}", hint="use codec='h264'")
    out = np.stack([picture.to_ndarray(format="rgb24") for picture in decoded])
    return np.ascontiguousarray(out[:, :height, :width])


DEGRADATIONS: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "resolution": resolution,
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "darkness": darkness,
}
"""What a single picture commonly suffers, by name: those that the demo and the published figures use."""

MORE: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "video": video,
    "motion_blur": motion_blur,
    "banding": banding,
    "chroma": chroma,
}
"""Further degradations by name, on the same dial."""

ALL: dict[str, Callable[[Image, float, np.random.Generator], Image]] = {**DEGRADATIONS, **MORE}
"""Every degradation by its name."""


def _line(length: float, angle: float) -> NDArray[np.float32]:
    """Kernel (k, k), sum 1, of a line of `length` px through the middle, `angle` in radians, its ends fading out."""
    reach = math.ceil(length / 2) + 1
    at = np.linspace(-0.5, 0.5, 8 * reach + 1)
    weight = np.cos(np.pi * at) ** 2
    x, y = reach + length * at * math.cos(angle), reach + length * at * math.sin(angle)
    # Each point of the line is shared among the four pixels about it (bilinear).
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    fx, fy = x - left, y - top
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2))
    for dx, dy, share in ((0, 0, (1 - fx) * (1 - fy)), (1, 0, fx * (1 - fy)), (0, 1, (1 - fx) * fy), (1, 1, fx * fy)):
        np.add.at(kernel, (top + dy, left + dx), weight * share)
    kernel = kernel[:-1, :-1]  # odd, so that it has a middle; the last row and column are never reached
    return np.asarray(kernel / kernel.sum(), np.float32)


def _linear_table() -> NDArray[np.float32]:
    """Linear light of each of the 256 sRGB levels (IEC 61966-2-1)."""
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_table()


def _check(image: Any, severity: float) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise DtypeError(
            "A picture to degrade must be 8 bit", got=getattr(image, "dtype", type(image)), expected="uint8"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError("A picture to degrade must be RGB", got=image.shape, expected="(H, W, 3)")
    if not (math.isfinite(severity) and 0 <= severity <= 1):
        raise ValueRangeError("Severity is out of range", got=severity, expected="0 (unchanged) to 1")


def _check_clip(frames: Any) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise DtypeError("A clip must be 8 bit", got=getattr(frames, "dtype", type(frames)), expected="uint8")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ShapeError("A clip must be frames in RGB", got=frames.shape, expected="(t, H, W, 3)")


def _levels(values: NDArray[Any]) -> Image:
    return as_picture(np.clip(np.rint(values), 0, 255).astype(np.uint8))
