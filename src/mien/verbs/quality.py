"""How well a face can be recognised: parts named after ISO/IEC 29794-5, and one score made of them.

Every part is a number from 0 (unusable) to 1 (nothing to wish for), measured on the face's crop or on its
points:

==========================  =================================================================================
UnifiedQualityScore         `Faces.quality`; see `unified`
Recognisability             what the embedder makes of the face (our own; needs an embedder)
Sharpness                   how much detail is lost when the crop is blurred again (Crete et al., 2007)
InterEyeDistance            pixels between the eyes, full marks from 40 px (what the networks see)
HeadPoseYaw, -Pitch, -Roll  ``max(0, cos)^2`` of the angle, as in OFIQ
UnderExposurePrevention     share of the face that is not black (luminance above 25)
OverExposurePrevention      share of the face that is not white (luminance below 247)
DynamicRange                entropy of the luminance, full marks from 7 bits
IlluminationUniformity      overlap of the luminance histograms of the two halves of the face
FaceInsidePicture           share of the face region that the picture shows (our own)
==========================  =================================================================================

The functions are pure: arrays in, arrays out. `analyze` fills `Faces.quality` and `Faces.quality_components`
by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mien.errors import OptionError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Crops = NDArray[np.uint8]
    Floats = NDArray[np.float32]

METHODS = ("norm", "stability", "recognizability", "components")
"""How `Recognisability` is told: by the length of the embedder's feature, by how little the embedding moves
when the crop is worsened, by the index that the embedder itself predicts, where it was trained to
(`mien.papers.recognizability`), or not at all."""

TEMPLATE, SIDE = "arcface112", 112
"""Framing of the crops that parts are measured on."""

NORM_RANGE: dict[str, tuple[float, float]] = {"mien-embedder": (21.6, 31.9)}
"""By name of the weights: feature lengths that stand for 0 and for 1, the 1 % and 90 % quantiles on LFW as
``scripts/measure.py`` tells them. On photographs like those, length foretells errors a little better than stability;
far from them it does not: a face of which three quarters are covered has a long feature. So it is no default."""

STABLE, UNSTABLE = 0.95, 0.35
"""Mean cosine between a face and its worsened copies that stands for 1 and for 0."""

FULL_EYE_DISTANCE = 40.0
"""Pixels between the eyes from which a photo has all the detail that the 112 px crop of the embedder can
hold."""


def components(
    crops: Crops,
    points: Floats,
    *,
    pose: Floats | None = None,
    inside: Floats | None = None,
    recognisability: Floats | None = None,
) -> dict[str, Floats]:
    """The parts of the quality of n faces; those whose inputs are not given are left out.

    Parameters
    ----------
    crops : (n, 112, 112, 3) uint8
        RGB, framed by the template "arcface112".
    points : (n, 5, 2)
        Eyes, nose and mouth corners in pixels of the photo.
    pose : (n, 3)
        Yaw, pitch, roll in degrees.
    inside : (n,)
        Share of the crop that lies in the photo.
    recognisability : (n,)
        From `from_norm`, `from_stability` or `from_index`.

    Returns
    -------
    dict of (n,) float32, 0 to 1
    """
    light = luminance(crops)
    face = light[:, 24:104, 20:92]  # brows to chin, cheek to cheek: no hair, no background
    parts: dict[str, NDArray[np.floating]] = {}
    if recognisability is not None:
        parts["Recognisability"] = recognisability
    parts["Sharpness"] = sharpness(face)
    parts["InterEyeDistance"] = np.linalg.norm(points[:, 1] - points[:, 0], axis=1) / FULL_EYE_DISTANCE
    if pose is not None:
        for name, angle in zip(("HeadPoseYaw", "HeadPosePitch", "HeadPoseRoll"), pose.T, strict=True):
            parts[name] = np.maximum(0, np.cos(np.radians(angle))) ** 2
    parts["UnderExposurePrevention"] = (face > 25).mean((1, 2))
    parts["OverExposurePrevention"] = (face < 247).mean((1, 2))
    parts["DynamicRange"] = entropy(face) / 7
    parts["IlluminationUniformity"] = uniformity(face)
    if inside is not None:
        parts["FaceInsidePicture"] = inside
    return {name: np.clip(value, 0, 1).astype(np.float32) for name, value in parts.items()}


def unified(parts: Mapping[str, Floats]) -> Floats:
    """One score (n,) from 0 to 1: recognisability, held down by whatever part is worst.

    A face is no better than its worst part, but parts only count once they are bad: each is let through in
    full from one half upwards (``min(1, 2 x)``). Without `Recognisability`, the geometric mean of the parts
    takes its place.
    """
    others = np.stack([value for name, value in parts.items() if name != "Recognisability"])
    limit = np.minimum(1, 2 * others.min(0))
    if "Recognisability" in parts:
        core = parts["Recognisability"]
    else:
        core = np.exp(np.log(np.maximum(others, 1e-3)).mean(0))
    return np.asarray(np.clip(core * limit, 0, 1), np.float32)


def luminance(crops: Crops) -> Floats:
    """Luma (n, H, W) of ITU-R BT.709, 0 to 255, of RGB crops (n, H, W, 3)."""
    return np.asarray(crops @ np.array([0.2126, 0.7152, 0.0722], np.float32), np.float32)


def sharpness(light: Floats) -> Floats:
    """Sharpness (n,) of luminance (n, H, W) by blurring it again (Crete, Dolmiere, Ladret, Nicolas, SPIE
    6492, 2007).

    What is blurred already loses little of its differences between neighbours when it is blurred once more.
    The measure does not depend on contrast. Share kept: about 0.3 in a sharp face, 0.8 in one blurred by 3 px
    of 112.
    """
    if not len(light):
        return np.zeros(0, np.float32)
    kept = []
    for axis in (1, 2):
        kernel = 9
        padded = np.pad(light, [(kernel // 2,) * 2 if a == axis else (0, 0) for a in range(3)], mode="edge")
        summed = np.cumsum(np.insert(padded, 0, 0, axis=axis), axis=axis, dtype=np.float64)
        length = light.shape[axis]
        blurred = (
            np.take(summed, range(kernel, kernel + length), axis) - np.take(summed, range(length), axis)
        ) / kernel
        # Steps of one level are rounding: without this a smooth slope, a staircase of them, looks sharp.
        before = np.maximum(np.abs(np.diff(light, axis=axis)) - 1, 0)
        after = np.abs(np.diff(blurred, axis=axis))
        total = before.sum((1, 2))
        lost = np.maximum(0, before - after).sum((1, 2))
        detail = total > 0.05 * before[0].size  # a face in which nothing changes has nothing sharp
        kept.append(np.where(detail, 1 - lost / np.maximum(total, 1e-9), 1.0))
    return np.clip((0.85 - np.maximum(*kept)) / 0.5, 0, 1).astype(np.float32)


def entropy(light: Floats) -> Floats:
    """Entropy (n,) in bits, 0 to 8, of the histogram of 256 levels of luminance (n, H, W)."""
    shares = _histograms(light, 256)
    return np.asarray(-(shares * np.log2(np.maximum(shares, 1e-12))).sum(1), np.float32)


def uniformity(light: Floats) -> Floats:
    """Overlap (n,), 0 to 1, of the luminance histograms (32 levels) of the left and right halves."""
    half = light.shape[2] // 2
    left, right = _histograms(light[:, :, :half], 32), _histograms(light[:, :, -half:], 32)
    # Two samples of the same distribution overlap by about 0.9 at this number of pixels and levels.
    return np.asarray(np.minimum(left, right).sum(1), np.float32)


def _histograms(light: Floats, levels: int) -> NDArray[np.float64]:
    """Shares (n, levels) of the levels in luminance (n, H, W)."""
    n, pixels = len(light), light.shape[1] * light.shape[2]
    index = np.minimum(light * (levels / 256), levels - 1).astype(np.int64).reshape(n, pixels)
    index += np.arange(n)[:, None] * levels
    counts = np.bincount(index.ravel(), minlength=n * levels).reshape(n, levels)
    return np.asarray(counts / pixels, np.float64)


def inside(matrices: Floats, sizes: Floats, *, side: int = SIDE, grid: int = 16) -> Floats:
    """Share (n,) of each crop that lies inside its photo.

    Parameters
    ----------
    matrices : (n, 2, 3)
        From photo to crop.
    sizes : (n, 2)
        Width and height of the photo of each face, px.
    """
    from mien.geometry import similarity

    if not len(matrices):
        return np.zeros(0, np.float32)
    steps = (np.arange(grid, dtype=np.float32) + 0.5) * side / grid - 0.5
    points = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
    there = similarity.apply(similarity.invert(matrices), points)
    return np.asarray(((there >= -0.5) & (there <= sizes[:, None] - 0.5)).all(-1).mean(1), np.float32)


def from_norm(norms: Floats, weights: str) -> Floats:
    """Recognisability (n,) from the lengths of an embedder's features: long where the network sees much of a
    face.

    Raises
    ------
    OptionError
        Nobody has measured what lengths these weights give.
    """
    if weights not in NORM_RANGE:
        raise OptionError(
            f"what feature lengths of {weights} mean is not known",
            got="quality='norm'",
            expected="quality='stability' or 'components'",
            hint="quality='stability' works with every embedder",
        )
    low, high = NORM_RANGE[weights]
    return np.asarray(np.clip((norms - low) / (high - low), 0, 1), np.float32)


def rating(network: object, weights: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What predicts the recognizability index (B,) of network inputs (B, 3, S, S): the embedder's method ``rate``.

    Raises
    ------
    OptionError
        The embedder was not trained to, or runs on a backend that gives embeddings alone.
    """
    rate: Callable[[torch.Tensor], torch.Tensor] | None = getattr(network, "rate", None)
    if rate is None:
        raise OptionError(
            f"{weights} do not predict how recognisable a face is",
            got="quality='recognizability'",
            expected="weights of `mien train recognizability`, with backend='torch'",
            hint="quality='stability' works with every embedder",
        )
    return rate


def from_index(index: Floats) -> Floats:
    """Recognisability (n,), 0 to 1, from predicted recognizability indices: ``1 / (1 + exp(-4 (index - 0.5)))``.

    What a network predicts may lie outside of the index's own range, 0 to 1. Cut off there, faces would be equal that
    it tells apart; this keeps their order, and about the middle their differences.
    """
    return np.asarray(1 / (1 + np.exp(-4 * (np.clip(index, -10, 10) - 0.5))), np.float32)


def from_stability(features: Floats, embed: Callable[[Crops], Floats], crops: Crops) -> Floats:
    """Recognisability (n,) from how little the embedding moves when the crop is worsened in four ways (in the
    spirit of SER-FIQ, Terhörst et al., 2020, with changes of the picture in place of dropout).

    Parameters
    ----------
    features : (n, d)
        Of the crops as they are.
    embed
        From crops to features.
    crops : (n, H, W, 3)
    """
    from mien.verbs._score import similarity

    if not len(crops):
        return np.zeros(0, np.float32)
    worse = worsened(crops)
    other = embed(worse.reshape(-1, *crops.shape[1:])).reshape(len(worse), *features.shape)
    cosine = similarity(other, np.broadcast_to(features, other.shape)).mean(0)
    return np.asarray(np.clip((cosine - UNSTABLE) / (STABLE - UNSTABLE), 0, 1), np.float32)


def worsened(crops: Crops) -> Crops:
    """Four copies (4, n, H, W, 3) of crops: smaller, blurred, shifted by 3 px, darker."""
    import cv2

    n, height, width = crops.shape[:3]
    out = np.empty((4, n, height, width, 3), np.uint8)
    for i, crop in enumerate(crops):
        small = cv2.resize(crop, (width * 2 // 5, height * 2 // 5), interpolation=cv2.INTER_AREA)
        out[0, i] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        out[1, i] = cv2.GaussianBlur(crop, (0, 0), 1.5)
        out[2, i] = np.roll(crop, (3, -3), (0, 1))
        out[3, i] = (crop * np.float32(0.55)).astype(np.uint8)
    return out
