"""Where on the skin things are: lips, brows, beard, lids, wrinkles … as masks over texture space.

Texture space is the plane of the loft, half of it: u = |theta| / pi, v = section / last section. All masks are formulas
of the same frontal coordinates as the fields, evaluated once and kept as bytes (`atlas`); what differs between heads
(thickness, strength, colour) is applied when pixels are shaded.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.heads.template import EYE, SECTIONS, bump, eye_contour, lip_contour, loft, smoothstep

__all__ = ["CHANNELS", "atlas", "fringe_weight", "grain", "masks", "recede_weight"]

Array = NDArray[np.float64]

CHANNELS = (
    "lips",
    "lower_lip",
    "lip_line",
    "brow_along",
    "brow_across",
    "nostril",
    "eyeshadow",
    "liner",
    "rim",
    "under_eye",
    "blush",
    "freckle_area",
    "redness",
    "hairline",
    "fringe",
    "recede",
    "moustache",
    "goatee",
    "beard",
    "forehead_lines",
    "crow",
    "nasolabial",
    "frown",
    "clothes",
    "necklace",
    "crease",
    "nose",
    "neck",
    "oily",
    "inner_mouth",
    "pale",
    "core",
)
"""Masks, 0 to 1. `brow_along` and `brow_across` are coordinates in a brow (across 0.5 in its middle), `hairline` is the
distance above the hairline, -4 to 4 cm over the range, `core` warm places of the infrared picture."""

HAIRLINE_CM = 4.0
"""Distance at both ends of the channel `hairline`."""


def fringe_weight(theta: Array) -> Array:
    """How far a full fringe lowers the hairline, cm, at an angle of the loft."""
    return np.asarray(3.3 * smoothstep(np.abs(theta), 0.95, 0.35))


def recede_weight(theta: Array) -> Array:
    """How far a receding hairline goes back, cm, at an angle of the loft."""
    a = np.abs(theta)
    return np.asarray(2.6 * np.exp(-(((a - 0.62) / 0.26) ** 2)) + 1.2 * smoothstep(a, 0.8, 0.2))


def hairline(base: Array, theta: Array) -> Array:
    """cm above (positive) or below the hairline, at points of the loft."""
    a = np.abs(np.degrees(theta))
    line = np.interp(
        a,
        [0, 15, 28, 42, 54, 63, 70, 78, 84, 92, 104, 116, 130, 150, 180],
        [-9.1, -9.25, -9.1, -8.2, -6.7, -4.8, -2.4, -0.9, -1.6, -4.0, -3.2, 0.6, 3.8, 5.2, 5.4],
    )
    # Distance across the slanting line rather than straight down
    slope = np.interp(a, [0, 20, 45, 62, 75, 90, 110, 125, 180], [1, 0.98, 0.85, 0.6, 0.5, 0.55, 0.6, 0.75, 1])
    return np.asarray((line - base[..., 1]) * slope)


def masks(base: Array, theta: Array) -> dict[str, Array]:
    """Every mask at points (..., 3) of the loft and their angles (...)."""
    x, y = base[..., 0], base[..., 1]
    ax = np.abs(x)
    front = smoothstep(np.cos(theta), 0.0, 0.3)
    s = np.clip(ax / 2.55, 0, 1)
    upper, middle, lower = (lip_contour(s, name)[..., 1] for name in ("upper", "middle", "lower"))
    on_mouth = smoothstep(ax, 2.62, 2.45) * front
    soft = 0.06
    lips = smoothstep(y, upper - soft, upper + soft) * smoothstep(y, lower + soft, lower - soft) * on_mouth
    lower_lip = smoothstep(y, middle - 0.03, middle + 0.03) * lips
    lip_line = np.exp(-(((y - middle) / 0.11) ** 2)) * smoothstep(ax, 2.85, 2.4) * front
    corner = bump(x, y, 2.6, 3.3, 0.25, 0.22) * front
    brow_y = np.interp(ax, [0.9, 1.4, 2.6, 3.8, 4.8, 5.7], [-5.0, -5.15, -5.42, -5.62, -5.42, -4.9])
    half = np.interp(ax, [0.9, 1.3, 2.0, 3.5, 4.8, 5.7], [0.34, 0.40, 0.44, 0.36, 0.25, 0.12])
    brow_across = np.clip(0.5 + 0.25 * (y - brow_y) / half, 0, 1)
    brow_along = np.clip((ax - 0.9) / 5.0, 0, 1) * (front > 0.3)
    e = np.clip((ax - 1.79) / 2.71, 0, 1)
    lid_up, lid_low = eye_contour(e, True)[..., 1], eye_contour(e, False)[..., 1]
    wide = smoothstep(np.abs(ax - EYE[0]), 1.75, 1.25) * front
    above, under = lid_up - y, y - lid_low
    open_ = (above < 0) & (under < 0)
    eyeshadow = wide * smoothstep(above, -0.15, 0.05) * smoothstep(above, 0.85, 0.3)
    liner = wide * np.maximum(
        np.exp(-((np.clip(above - 0.02, 0, None) / 0.10) ** 2)) * (above > -0.3),
        0.45 * np.exp(-((np.clip(under - 0.01, 0, None) / 0.07) ** 2)) * (under > -0.3) * e,
    )
    rim = np.where(open_, 1.0, np.exp(-((np.minimum(np.abs(above), np.abs(under)) / 0.05) ** 2))) * wide
    rim = np.maximum(rim, bump(x, y, 1.75, -3.35, 0.22, 0.2) * front)
    h = hairline(base, theta)
    # The beard's upper edge runs from the sideburn to the corner of the mouth.
    edge = np.interp(ax, [0, 2.4, 3.0, 3.8, 4.8, 5.6, 6.3], [5.0, 3.9, 3.3, 2.7, 1.6, 0.2, -1.6])
    jaw = smoothstep(y, edge - 0.35, edge + 0.75) * smoothstep(base[..., 2], 7.0, 5.4) * smoothstep(y, 10.0, 8.4)
    moustache = smoothstep(y, 1.35, 1.75) * smoothstep(y, upper + 0.05, upper - 0.15) * smoothstep(ax, 3.0, 2.2) * front
    around = (
        smoothstep(y, upper - 0.1, middle + 0.1)
        * smoothstep(ax, 2.6, 2.85)
        * smoothstep(ax, 3.9, 3.2)
        * smoothstep(y, 5.2, 4.8)
    )
    chin = bump(x, y, 0, 6.6, 2.3, 1.7, 4) * front + bump(x, y, 0, 4.85, 0.75, 0.35) * front
    not_lips = (1 - smoothstep(lips, 0.1, 0.6)) * (1 - bump(x, y, 1.5, 4.75, 0.8, 0.28) * 0.6)
    goatee = np.clip(chin + around * front, 0, 1) * not_lips
    beard = np.clip(jaw + goatee, 0, 1) * not_lips * (h < 1.0)
    lines = np.zeros_like(x)
    for k, level in enumerate((-6.6, -7.3, -8.0)):
        wave = level - 0.22 * np.cos(x * (0.9 + 0.1 * k)) - 0.02 * ax**2
        lines += np.exp(-(((y - wave) / 0.10) ** 2)) * smoothstep(ax, 4.6, 3.0)
    crow = np.zeros_like(x)
    for angle in (-0.5, -0.12, 0.28, 0.6):
        dx, dy = ax - 4.7, y + 3.5
        along, off = dx * np.cos(angle) + dy * np.sin(angle), -dx * np.sin(angle) + dy * np.cos(angle)
        crow += np.exp(-((off / 0.09) ** 2)) * smoothstep(along, 0.0, 0.3) * smoothstep(along, 1.4, 0.8)
    fold_x = np.interp(y, [0.2, 1.0, 2.0, 3.0, 4.2], [1.75, 2.35, 2.9, 3.25, 3.3])
    nasolabial = np.exp(-(((ax - fold_x) / 0.22) ** 2)) * smoothstep(y, -0.1, 0.8) * smoothstep(y, 4.4, 3.0)
    frown = np.exp(-(((ax - 0.55) / 0.10) ** 2)) * smoothstep(y, -5.9, -5.3) * smoothstep(y, -4.2, -4.8)
    collar = np.where(np.cos(theta) > 0, 14.6 + 1.2 * np.cos(theta) ** 2, 13.6)
    neck = smoothstep(
        y, 7.9 - 2.6 * (1 - np.clip(np.cos(theta), 0, 1)) ** 1.0, 8.3 - 2.6 * (1 - np.clip(np.cos(theta), 0, 1))
    )
    nose = (
        smoothstep(y, -3.9, -3.4)
        * smoothstep(y, 1.25, 1.0)
        * smoothstep(
            ax,
            np.interp(y, [-3.5, -2, 0, 1], [0.8, 0.95, 1.75, 1.7]) + 0.06,
            np.interp(y, [-3.5, -2, 0, 1], [0.8, 0.95, 1.75, 1.7]) - 0.06,
        )
        * front
    )
    crease = (
        np.clip(
            0.55 * corner
            + 0.55 * bump(x, y, 1.72, 0.75, 0.22, 0.5)
            + 0.35 * np.exp(-(((above - 0.32) / 0.07) ** 2)) * wide
            + 0.30 * bump(x, y, 0, 5.05, 1.3, 0.28)
            + 0.25 * bump(x, y, 1.45, -3.6, 0.45, 0.7)
            + 0.3 * bump(x, y, 0, 1.15, 0.6, 0.18),
            0,
            1,
        )
        * front
    )
    found = {
        "lips": lips,
        "lower_lip": lower_lip,
        "lip_line": lip_line,
        "brow_along": brow_along,
        "brow_across": brow_across,
        "nostril": bump(x, y, 0.62, 0.98, 0.34, 0.17, 3) * front,
        "eyeshadow": eyeshadow,
        "liner": liner,
        "rim": rim,
        "under_eye": bump(x, y, 2.9, -2.55, 1.3, 0.5) * front,
        "blush": bump(x, y, 4.4, 0.0, 1.6, 1.1) * front,
        "freckle_area": np.clip(bump(x, y, 2.8, -0.6, 2.2, 1.6) + bump(x, y, 0, -1, 1.4, 2.0) + 0.3 * front, 0, 1)
        * front,
        "redness": np.clip(
            0.8 * bump(x, y, 4.0, 0.4, 1.7, 1.6)
            + 0.9 * bump(x, y, 0, 0.2, 1.3, 1.0)
            + 0.4 * bump(x, y, 0, 6.6, 1.6, 1.0)
            + 0.25 * bump(x, y, 0, -7, 4, 1.2),
            0,
            1,
        )
        * front,
        "hairline": np.clip(0.5 + 0.5 * h / HAIRLINE_CM, 0, 1),
        "fringe": fringe_weight(theta) / 4,
        "recede": recede_weight(theta) / 4,
        "moustache": moustache,
        "goatee": goatee,
        "beard": beard,
        "forehead_lines": lines * front,
        "crow": crow * front,
        "nasolabial": nasolabial * front,
        "frown": frown * front,
        "clothes": smoothstep(y, collar - 0.08, collar + 0.08),
        "necklace": np.exp(-(((y - (13.9 + 0.5 * np.cos(theta))) / 0.13) ** 2)),
        "crease": crease,
        "nose": nose,
        "neck": neck,
        "oily": np.clip(
            bump(x, y, 0, -7, 3, 1.8) + bump(x, y, 0, -1.5, 0.9, 2.5) + 0.7 * bump(x, y, 4.2, -1.2, 1.2, 0.7), 0, 1
        )
        * front,
        "inner_mouth": np.exp(-(((y - middle) / 0.05) ** 2)) * smoothstep(ax, 2.5, 2.3) * front,
        "pale": np.clip(bump(x, y, 0, 1.9, 0.5, 0.5) + eyeshadow * 0.5, 0, 1),
        "core": np.clip(bump(x, y, 1.75, -3.4, 0.55, 0.5) + 0.5 * bump(x, y, 0, -7.2, 4, 2) - 0.0, 0, 1) * front,
    }
    return {name: np.clip(np.nan_to_num(found[name]), 0, 1) for name in CHANNELS}


@lru_cache(4)
def atlas(rows: int, columns: int, finer: int = 1) -> torch.Tensor:
    """(rows, columns, channels) uint8 of all masks over texture space, averaged over `finer` squared places a texel."""
    theta, t = np.meshgrid(
        (np.arange(columns * finer) + 0.5) / finer - 0.5, (np.arange(rows * finer) + 0.5) / finer - 0.5
    )
    theta, t = np.clip(theta / (columns - 1), 0, 1) * np.pi, np.clip(t / (rows - 1), 0, 1) * (len(SECTIONS) - 1)
    found = masks(loft(theta, t), theta)
    stack = np.stack([found[name].reshape(rows, finer, columns, finer).mean((1, 3)) for name in CHANNELS], -1)
    return torch.from_numpy(np.round(255 * stack).astype(np.uint8))


@lru_cache(1)
def grain(size: int = 256) -> torch.Tensor:
    """(size, size, 4) uint8 tileable noise: fine, strands (drawn out along v), soft blotches, sparse spots."""
    rng = np.random.default_rng(7)
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij")

    def filtered(response: Array) -> Array:
        white = rng.standard_normal((size, size))
        made = np.fft.ifft2(np.fft.fft2(white) * response).real
        return np.asarray((made - made.mean()) / made.std())

    fine = filtered(np.exp(-((np.hypot(fx, fy) / 0.28) ** 2)) * (np.hypot(fx, fy) > 0.02))
    strands = filtered(np.exp(-((fx / 0.22) ** 2) - ((fy / 0.012) ** 2)) * (np.abs(fx) > 0.006))
    soft = filtered(np.exp(-((np.hypot(fx, fy) / 0.03) ** 2)))
    spots = filtered(np.exp(-((np.hypot(fx, fy) / 0.11) ** 2)) * (np.hypot(fx, fy) > 0.03))
    stack = np.stack([fine, strands, soft, spots], -1)
    return torch.from_numpy(np.clip(128 + 42 * stack, 0, 255).astype(np.uint8))
