"""Degradations: nothing at zero, worse at every step, the same for the same draw, and the formulas behind the dials."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.data.degrade import ALL, CODECS, DEGRADATIONS, MORE, banding, chroma, compress_clip, motion_blur
from mien.data.pixels import as_picture, decode, read, recoded
from mien.errors import CorruptMedia, DtypeError, OptionError, ShapeError, ValueRangeError

NAMES = sorted(ALL)


def textured(height: int = 96, width: int = 80) -> NDArray[np.uint8]:
    """Smooth shapes and fine detail, so that every degradation finds something to take away."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [128 + 70 * np.sin(x / a + y / b) + 30 * np.sin((x - y) * 1.3) for a, b in ((9, 7), (6, 11), (13, 5))]
    return np.clip(np.stack(waves, 2), 0, 255).astype(np.uint8)


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.square(a.astype(float) - b.astype(float)).mean())


@pytest.mark.parametrize("name", NAMES)
def test_severity_zero_changes_no_bit_and_hands_out_a_copy(name: str) -> None:
    image = textured()
    same = ALL[name](image, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_worse(name: str) -> None:
    image = textured()
    errors = [error(ALL[name](image, s, np.random.default_rng(1)), image) for s in (0.1, 0.3, 0.5, 0.7, 1.0)]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert errors[-1] > 4 * errors[0]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), severity=st.floats(0, 1), seed=st.integers(0, 2**32 - 1)
)  # fmt: skip
def test_any_size_keeps_its_shape_and_the_picture_is_not_written_to(
    name: str, height: int, width: int, severity: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    worse = ALL[name](image, severity, np.random.default_rng(seed))
    assert (worse.shape, worse.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)
    again = ALL[name](image, severity, np.random.default_rng(seed))
    np.testing.assert_array_equal(worse, again)


@pytest.mark.parametrize("name", NAMES)
def test_the_dial_never_changes_how_much_is_drawn(name: str) -> None:
    after = set()
    for severity in (0.0, 0.4, 1.0):
        rng = np.random.default_rng(5)
        ALL[name](textured(), severity, rng)
        after.add(int(rng.integers(2**62)))
    assert len(after) == 1


def test_resolution_leaves_an_eighth_of_the_sides() -> None:
    image = textured(96, 80)
    small = cv2.resize(image, (10, 12), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (80, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(DEGRADATIONS["resolution"](image, 1.0, np.random.default_rng(0)), expected)


def test_blur_spreads_a_point_by_a_twentieth_of_the_shorter_side() -> None:
    image = np.zeros((121, 141, 3), np.uint8)
    image[55:66, 65:76] = 255  # 11 px wide: its own variance is (11^2 - 1) / 12 = 10
    blurred = DEGRADATIONS["blur"](image, 0.8, np.random.default_rng(0)).astype(float)[..., 0]
    x = np.arange(141) - 70
    variance = (blurred.sum(0) * x**2).sum() / blurred.sum() - 10
    assert variance == pytest.approx((0.05 * 0.8 * 121) ** 2, rel=0.05)


def test_noise_has_the_stated_deviation_in_mid_grey_and_half_the_variance_in_black() -> None:
    grey = np.full((200, 200, 3), 127, np.uint8)
    noisy = DEGRADATIONS["noise"](grey, 0.25, np.random.default_rng(3)).astype(float)
    assert noisy.std() == pytest.approx(16, rel=0.03)
    channels = noisy.reshape(-1, 3).T
    assert abs(np.corrcoef(channels)[0, 1]) < 0.03
    black = DEGRADATIONS["noise"](np.zeros_like(grey), 0.25, np.random.default_rng(3)).astype(float)
    # Half of a Gaussian is clipped at black: its mean is sigma / sqrt(2 pi), sigma^2 half of the mid-grey's.
    assert black.mean() == pytest.approx(16 / np.sqrt(2) / np.sqrt(2 * np.pi), rel=0.05)


def test_jpeg_keeps_the_order_of_the_channels() -> None:
    image = np.full((32, 32, 3), (200, 90, 30), np.uint8)
    worse = DEGRADATIONS["jpeg"](image, 0.5, np.random.default_rng(0))
    np.testing.assert_allclose(worse.reshape(-1, 3).mean(0), (200, 90, 30), atol=4)


def test_darkness_halves_the_light_at_each_stop() -> None:
    image = np.full((64, 64, 3), 188, np.uint8)  # half of the light of white
    darker = DEGRADATIONS["darkness"](image, 1 / 6, np.random.default_rng(0)).astype(float) / 255
    light = (((darker + 0.055) / 1.055) ** 2.4).mean()
    full = ((188 / 255 + 0.055) / 1.055) ** 2.4
    assert light == pytest.approx(full / 2, rel=0.02)


def test_the_five_of_the_published_figures_are_still_five() -> None:
    assert list(DEGRADATIONS) == ["resolution", "blur", "noise", "jpeg", "darkness"]
    assert not DEGRADATIONS.keys() & MORE.keys()
    assert ALL == {**DEGRADATIONS, **MORE}


def test_motion_blur_spreads_a_point_along_one_line() -> None:
    image = np.zeros((121, 121, 3), np.uint8)
    image[60, 60] = 255
    smeared = motion_blur(image, 0.8, np.random.default_rng(2)).astype(float)[..., 0]
    y, x = np.mgrid[:121, :121] - 60
    spread = np.array([[(smeared * a * b).sum() for a in (x, y)] for b in (x, y)]) / smeared.sum()
    across, along = np.linalg.eigvalsh(spread)
    # Variance of a raised cosine of length L is L^2 (1/12 - 1/(2 pi^2)).
    assert along == pytest.approx((0.2 * 0.8 * 121) ** 2 * (1 / 12 - 1 / (2 * np.pi**2)), rel=0.1)
    assert across < 0.5


def test_banding_leaves_the_stated_levels_and_the_mean() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 4, 3))
    worse = banding(np.ascontiguousarray(ramp), 1.0, np.random.default_rng(0))
    assert np.unique(worse).size == 4
    assert worse.mean() == pytest.approx(127.5, abs=0.6)
    assert np.unique(banding(np.ascontiguousarray(ramp), 0.5, np.random.default_rng(0))).size == 32


def test_chroma_leaves_brightness_alone() -> None:
    # Around mid-grey, so that no colour is clipped.
    image = (112 + textured() // 8).astype(np.uint8)
    worse = chroma(image, 1.0, np.random.default_rng(0))
    before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb).astype(int) for picture in (image, worse))
    assert np.abs(before[..., 0] - after[..., 0]).max() <= 1
    assert after[..., 1].std() < 0.5 * before[..., 1].std()


# --- Clips ------------------------------------------------------------------------------------------------------------


def clip(count: int = 6, height: int = 64, width: int = 80) -> NDArray[np.uint8]:
    wide = textured(height, width + count)
    return np.stack([wide[:, k : k + width] for k in range(count)])


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_clips_come_back_whole_in_order_and_worse_with_crf(codec: str) -> None:
    frames = clip()
    errors = []
    for crf in (10, 28, 45):
        coded = compress_clip(frames, crf=crf, codec=codec)
        assert (coded.shape, coded.dtype) == (frames.shape, np.uint8)
        errors.append(error(coded, frames))
        # Each frame is nearest to the one it was made from.
        near = [int(np.argmin([error(one, other) for other in frames])) for one in coded]
        assert crf == 45 or near == list(range(len(frames)))
    assert errors == sorted(errors)
    assert errors[2] > 1.5 * errors[0]


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_the_same_clip_is_coded_to_the_same_bits(codec: str) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 32, 48, 3), np.uint8)
    first = compress_clip(frames, crf=45, codec=codec)
    for _ in range(4 if codec != "h264" else 30):
        np.testing.assert_array_equal(compress_clip(frames, crf=45, codec=codec), first)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 17), (33, 64)])
def test_clips_of_odd_sizes_keep_them(height: int, width: int) -> None:
    frames = np.full((2, height, width, 3), (200, 90, 30), np.uint8)
    coded = compress_clip(frames)
    assert coded.shape == frames.shape
    np.testing.assert_allclose(coded.reshape(-1, 3).mean(0), (200, 90, 30), atol=5)
    np.testing.assert_array_equal(coded, compress_clip(frames))


@pytest.mark.parametrize(
    ("frames", "options", "kind"),
    [
        (np.zeros((8, 8, 3), np.uint8), {}, ShapeError),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, ShapeError),
        (np.zeros((2, 8, 8, 3), np.float32), {}, DtypeError),
        (np.zeros((2, 8, 8, 3), np.uint8), {"crf": 52}, ValueRangeError),
        (np.zeros((2, 8, 8, 3), np.uint8), {"crf": -1}, ValueRangeError),
        (np.zeros((2, 8, 8, 3), np.uint8), {"codec": "divx"}, OptionError),
    ],
)
def test_wrong_clips_are_typed_errors(frames: Any, options: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        compress_clip(frames, **options)


@pytest.mark.parametrize(
    ("image", "severity", "kind"),
    [
        (np.zeros((8, 8, 3), np.float32), 0.5, DtypeError),
        ("photo.jpg", 0.5, DtypeError),
        (np.zeros((8, 8), np.uint8), 0.5, ShapeError),
        (np.zeros((8, 8, 4), np.uint8), 0.5, ShapeError),
        (np.zeros((0, 8, 3), np.uint8), 0.5, ShapeError),
        (np.zeros((8, 8, 3), np.uint8), 1.01, ValueRangeError),
        (np.zeros((8, 8, 3), np.uint8), -0.1, ValueRangeError),
        (np.zeros((8, 8, 3), np.uint8), float("nan"), ValueRangeError),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_pictures_and_severities_are_typed_errors(
    name: str, image: Any, severity: float, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        ALL[name](image, severity, np.random.default_rng(0))


# --- mien.data.pixels -------------------------------------------------------------------------------------------------


def coded(image: NDArray[np.uint8], suffix: str = ".png") -> NDArray[np.uint8]:
    return as_picture(cv2.imencode(suffix, image[..., ::-1])[1])


def test_decode_gives_rgb_and_halves_the_sides() -> None:
    image = textured(96, 80)
    np.testing.assert_array_equal(decode(coded(image)), image)
    for halvings in range(4):
        smaller = decode(coded(image, ".jpg"), halvings=halvings)
        assert smaller.shape == (96 >> halvings, 80 >> halvings, 3)
        np.testing.assert_allclose(smaller.mean((0, 1)), image.mean((0, 1)), atol=3)
    with pytest.raises(OptionError, match="0 to 3"):
        decode(coded(image), halvings=4)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a nothing more", bytes(200)])
def test_undecodable_bytes_are_a_typed_error_that_names_the_file(tmp_path: Any, data: bytes) -> None:
    with pytest.raises(CorruptMedia):
        decode(np.frombuffer(data, np.uint8))
    file = tmp_path / "broken.jpg"
    file.write_bytes(data)
    with pytest.raises(CorruptMedia, match=r"broken\.jpg"):
        read(file)


def test_recoded_is_jpeg_s_loss_and_less_of_it_at_higher_quality() -> None:
    image = textured()
    errors = [error(recoded(image, quality), image) for quality in (20, 50, 90)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 0
    expected = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(recoded(image, 50), expected)


def test_as_picture_copies_nothing() -> None:
    image = textured()
    assert as_picture(image) is image
