"""Smooth fields that move the neutral head: who it is (`SHAPE`) and what it does (`UNITS`).

Each field is a formula over frontal coordinates of the neutral head, cm; a coefficient of 1 is one standard deviation
among people for shapes, and the full action for units. Units are named after the action units of the Facial Action
Coding System (P. Ekman, W. Friesen, 1978), whose numbers stand in `UNITS`; the combinations for the seven expressions
follow the same authors (EMFACS), and places of valence and arousal J. Russell's circumplex (1980).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.heads.template import (
    EYE,
    EYE_RADIUS,
    bump,
    eye_contour,
    lip_contour,
    smoothstep,
)

__all__ = ["AFFECT", "EXPRESSIONS", "SHAPE", "UNITS", "affect_units", "expression_units", "fields_at"]

Array = NDArray[np.float64]


class _Place:
    """Coordinates the fields are formulas of: the loft's x and y, the surface's z, and a few masks."""

    def __init__(self, base: Array, z: Array, theta: Array, ear: Array) -> None:
        self.x, self.y, self.z = base[:, 0], base[:, 1], z
        self.ear = ear
        # Outwards to either side, without a jump in the middle
        self.ax, self.sign = np.abs(self.x), self.x / np.hypot(self.x, 0.45)
        self.front = smoothstep(np.cos(theta), -0.1, 0.35)
        self.zero = np.zeros_like(self.x)
        middle = lip_contour(np.clip(self.ax / 2.55, 0, 1), "middle")[:, 1]
        # All or nothing between the lips, less towards the corners, where both lips meet, and gradual beyond.
        apart = np.clip(1 - (self.ax / 2.6) ** 2.5, 0, None) ** 0.8
        broad, sharp = (1 / (1 + np.exp(-np.clip((self.y - middle) / width, -30, 30))) for width in (0.8, 0.02))
        self.below = np.clip(broad + (sharp - 0.5) * apart, 0, 1)
        self.above = 1 - self.below

    def b(self, cx: float, cy: float, sx: float, sy: float, power: float = 2.0) -> Array:
        return bump(self.x, self.y, cx, cy, sx, sy, power) * self.front


Move = tuple[Any, Any, Any]
"""dx, dy, dz."""


def _eye_scale(p: _Place) -> Move:
    near = p.b(EYE[0], EYE[1], 2.0, 1.6, 3)
    return 0.055 * (p.ax - EYE[0]) * p.sign * near, 0.055 * (p.y - EYE[1]) * near, 0


def _neck(p: _Place) -> Array:
    return smoothstep(p.y, 7.5, 11.0)


SHAPE: dict[str, Callable[[_Place], Move]] = {
    "head_width": lambda p: (0.30 * p.x / 7 * smoothstep(p.y, 12, 7), 0, 0),
    "head_length": lambda p: (0, 0, 0.6 * np.clip(p.z - 3, 0, None) / 14 * smoothstep(p.y, 10, 4)),
    "cranium_height": lambda p: (0, -0.45 * np.clip(-5 - p.y, 0, None) / 9, 0),
    "face_length": lambda p: (0, 0.38 * smoothstep(p.y, -4.0, 8.0), 0),
    "lower_face": lambda p: (0, 0.26 * smoothstep(p.y, 1.2, 7.5), 0),
    "midface": lambda p: (0, 0.20 * smoothstep(p.y, -3.0, 1.5), 0),
    "jaw_width": lambda p: (0.34 * p.sign * bump(p.x, p.y, 5.6, 4.6, 2.2, 2.6) * smoothstep(p.z, 12, 7), 0, 0),
    "jaw_taper": lambda p: (-0.36 * p.sign * p.b(3.9, 6.2, 2.4, 1.9), 0, 0),
    "chin_length": lambda p: (0, 0.26 * p.b(0, 7.3, 2.6, 1.5), 0),
    "chin_width": lambda p: (0.24 * p.sign * p.b(1.6, 7.0, 1.4, 1.3), 0, 0),
    "chin_projection": lambda p: (0, 0, -0.34 * p.b(0, 7.0, 2.4, 1.6)),
    "cheekbone_width": lambda p: (0.22 * p.sign * bump(p.x, p.y, 6.3, -1.2, 2.0, 2.2) * smoothstep(p.z, 9, 6), 0, 0),
    "cheekbone_projection": lambda p: (0, 0, -0.24 * p.b(4.4, -0.8, 1.8, 1.3)),
    "cheek_fullness": lambda p: (0.14 * p.sign * p.b(4.8, 2.8, 2, 2.2), 0, -0.30 * p.b(3.9, 2.6, 1.9, 2.1)),
    "fat": lambda p: (
        0.34 * (p.sign * p.b(5.0, 4.6, 2.4, 3.0) + 0.12 * p.x * _neck(p) * smoothstep(p.y, 15, 12)),
        0.30 * p.b(0, 8.2, 3.5, 1.4),
        -0.22 * p.b(4.0, 3.2, 2.2, 2.4) - 0.65 * p.b(0, 9.4, 4.0, 1.6),
    ),
    "forehead_slope": lambda p: (0, 0, 0.42 * smoothstep(p.y, -5.2, -10.0) * smoothstep(p.y, -14.2, -10.8) * p.front),
    "forehead_bulge": lambda p: (0, 0, -0.24 * p.b(0, -7.6, 4.5, 2.0)),
    "forehead_width": lambda p: (0.22 * p.sign * p.b(5.5, -7.0, 2.4, 2.6), 0, 0),
    "brow_ridge": lambda p: (0, 0, -0.24 * p.b(2.4, -5.0, 2.4, 0.7)),
    "brow_height": lambda p: (0, -0.17 * p.b(2.9, -5.3, 2.6, 0.95), 0),
    "brow_tilt": lambda p: (0, -0.14 * (p.ax - 3.2) / 1.5 * p.b(3.2, -5.4, 2.5, 0.95), 0),
    "eye_distance": lambda p: (0.15 * p.sign * p.b(3.15, -3.6, 2.4, 1.7, 3), 0, 0),
    "eye_size": _eye_scale,
    "eye_opening": lambda p: (0, -0.085 * p.b(3.15, -4.05, 1.3, 0.42) + 0.05 * p.b(3.2, -3.0, 1.3, 0.35), 0),
    "eye_tilt": lambda p: (0, -0.10 * (p.ax - 3.0) / 1.3 * p.b(3.15, -3.55, 1.8, 0.9, 3), 0),
    "eye_depth": lambda p: (0, 0, 0.16 * p.b(3.1, -3.5, 2.1, 1.2, 3)),
    "lid_fold": lambda p: (0, 0.05 * p.b(3.3, -4.3, 1.4, 0.32), -0.10 * p.b(3.2, -4.42, 1.5, 0.34)),
    "inner_fold": lambda p: (
        0.07 * p.sign * p.b(1.8, -3.4, 0.5, 0.45),
        0.07 * p.b(1.9, -3.5, 0.6, 0.4),
        -0.07 * p.b(1.7, -3.5, 0.5, 0.6),
    ),
    "under_eye": lambda p: (0, 0, -0.08 * p.b(3.0, -2.45, 1.2, 0.38)),
    "nose_length": lambda p: (0, 0.20 * p.b(0, 0.4, 2.0, 1.35, 2.6), 0),
    "nose_width": lambda p: (0.20 * p.sign * p.b(1.35, 0.5, 0.9, 0.9) + 0.06 * p.sign * p.b(0.6, 0.1, 0.5, 0.7), 0, 0),
    "nose_projection": lambda p: (0, 0, -0.28 * p.b(0, 0.1, 1.15, 1.3)),
    "bridge_height": lambda p: (0, 0, -0.20 * p.b(0, -2.4, 0.85, 1.6)),
    "bridge_width": lambda p: (0.11 * p.sign * p.b(0.75, -1.9, 0.7, 1.9), 0, 0),
    "nose_hump": lambda p: (0, 0, -0.14 * p.b(0, -1.6, 0.65, 0.75)),
    "tip_up": lambda p: (0, -0.16 * p.b(0, 0.1, 0.95, 0.75), 0),
    "tip_size": lambda p: (0.09 * p.sign * p.b(0.55, 0.1, 0.6, 0.65), 0, -0.10 * p.b(0, 0.15, 0.8, 0.6)),
    "nostril_flare": lambda p: (0.10 * p.sign * p.b(1.45, 0.6, 0.55, 0.6), -0.06 * p.b(1.4, 0.7, 0.5, 0.5), 0),
    "root_depth": lambda p: (0, 0, 0.17 * p.b(0, -3.9, 1.3, 0.8)),
    "mouth_width": lambda p: (0.21 * p.sign * p.b(2.3, 3.3, 1.4, 1.3), 0, 0),
    "upper_lip": lambda p: (0, -0.14 * p.b(0, 2.62, 2.1, 0.34) * p.above, -0.10 * p.b(0, 2.85, 1.9, 0.4)),
    "lower_lip": lambda p: (0, 0.15 * p.b(0, 4.15, 1.9, 0.45) * p.below, -0.12 * p.b(0, 3.9, 1.8, 0.5)),
    "lip_projection": lambda p: (0, 0, -0.20 * p.b(0, 3.3, 2.3, 1.2)),
    "cupid_bow": lambda p: (0, (0.07 * p.b(0, 2.5, 0.35, 0.3) - 0.06 * p.b(0.75, 2.4, 0.45, 0.3)) * p.above, 0),
    "mouth_height": lambda p: (0, 0.15 * p.b(0, 3.3, 3.2, 1.6, 2.6), 0),
    "mouth_corner": lambda p: (0, -0.09 * p.b(2.5, 3.3, 0.8, 0.7), 0),
    "prognathism": lambda p: (0, 0, -0.28 * p.b(0, 3.6, 3.6, 2.5)),
    "cheek_hollow": lambda p: (-0.10 * p.sign * p.b(4.9, 2.4, 1.6, 1.8), 0, 0.24 * p.b(4.3, 2.2, 1.4, 1.6)),
    "ear_size": lambda p: tuple(0.09 * part for part in p.ear.T),
    "ear_flare": lambda p: (0.13 * p.sign * np.clip(p.ear[:, 2] + 1.2, 0, None) * p.ear.any(1), 0, 0),
    "neck_width": lambda p: (0.08 * p.x * _neck(p) * smoothstep(p.y, 15, 12.5), 0, 0),
    "neck_length": lambda p: (0, 0.55 * smoothstep(p.y, 8.5, 13.0), 0),
    "shoulder_width": lambda p: (0.09 * p.x * smoothstep(p.y, 13.5, 18), 0, 0),
    "shoulder_slope": lambda p: (0, 0.6 * smoothstep(p.ax, 6, 18) * smoothstep(p.y, 12, 16), 0),
    "skewed_jaw": lambda p: (0.11 * p.b(0, 7.0, 4.5, 3.2), 0, 0),
    "skewed_nose": lambda p: (0.075 * p.b(0, -0.2, 1.2, 1.8), 0, 0),
    "uneven_eyes": lambda p: (0, 0.055 * p.sign * p.b(3.15, -3.9, 2.4, 1.8), 0),
    "uneven_mouth": lambda p: (0, 0.065 * p.sign * p.b(2.3, 3.3, 1.2, 1.1), 0),
    "uneven_brows": lambda p: (0, 0.07 * p.sign * p.b(3.0, -5.4, 2.4, 0.9), 0),
}
"""Who a head is: name and field, 1 = one standard deviation."""


def _close(p: _Place, side: float) -> Move:
    """The lid's edge comes down to the lower lid; the skin above follows over 1.1 cm."""
    s = np.clip((p.ax - 1.79) / 2.71, 0, 1)
    upper, lower = eye_contour(s, True)[:, 1], eye_contour(s, False)[:, 1]
    inside = smoothstep(np.abs(p.ax - 3.15), 1.65, 1.2) * p.front * (np.sign(p.x) == side)
    middle = (upper + lower) / 2
    is_upper = smoothstep(p.y, middle + 0.02, middle - 0.02)
    follow = is_upper * (1 - smoothstep(upper - p.y, 0.0, 1.1))
    dy = follow * (lower - upper - 0.03) * inside
    dy = dy - (1 - is_upper) * (1 - smoothstep(p.y - lower, 0.0, 0.5)) * 0.05 * inside
    # On the way the edge slides over the ball.
    y = p.y + dy
    ball = (EYE_RADIUS + 0.17) ** 2 - (p.ax - EYE[0]) ** 2 - (y - EYE[1]) ** 2
    over = EYE[2] - np.sqrt(np.maximum(ball, 0.3))
    dz = np.where(ball > 0.1, np.minimum(over - p.z, 0), 0) * follow * inside
    return 0, dy, dz


def _lid_up(p: _Place) -> Move:
    s = np.clip((p.ax - 1.79) / 2.71, 0, 1)
    upper = eye_contour(s, True)[:, 1]
    inside = smoothstep(np.abs(p.ax - 3.15), 1.5, 0.8) * p.front
    follow = (1 - smoothstep(upper - p.y, 0.0, 0.9)) * (p.y < upper + 0.25)
    return 0, -0.26 * follow * inside, 0.04 * follow * inside


def _jaw(p: _Place) -> Move:
    """Rotation about the jaw's joint by 11 degrees, to first order."""
    # Beyond the corners of the mouth it fades in over the cheek.
    cheek = smoothstep(p.y, 1.2, 6.0) * smoothstep(p.z, 6.5, 3.0)
    mouth = smoothstep(p.ax, 3.4, 2.3)
    weight = (mouth * p.below + (1 - mouth) * cheek) * smoothstep(p.y, 11.5, 8.5)
    angle = 0.19
    return 0, angle * (6.5 - p.z) * weight, angle * (p.y + 0.8) * weight


def _smile(p: _Place) -> Move:
    corner = p.b(2.6, 3.2, 1.25, 1.05)
    cheek = p.b(3.9, 0.7, 1.6, 1.5)
    lips = p.b(0, 3.2, 3.2, 1.1)
    dx = (0.52 * corner + 0.12 * cheek) * p.sign + 0.05 * p.x * lips
    dy = -0.62 * corner - 0.26 * cheek + 0.06 * p.b(0, 2.9, 1.2, 0.8)
    dz = 0.42 * corner - 0.32 * cheek + 0.14 * p.b(3.15, 2.0, 0.5, 1.2) + 0.10 * lips
    return dx, dy, dz


UNITS: dict[str, Callable[[_Place], Move]] = {
    "inner_brow_raiser": lambda p: (0, -0.62 * p.b(0.9, -5.3, 1.5, 1.4), -0.05 * p.b(0, -6.6, 2, 0.4)),
    "outer_brow_raiser": lambda p: (0, -0.60 * p.b(4.2, -5.6, 1.8, 1.3), 0),
    "brow_lowerer": lambda p: (
        -0.28 * p.sign * p.b(1.4, -5.3, 1.2, 1.0),
        0.42 * p.b(1.6, -5.2, 2.0, 1.1),
        -0.12 * p.b(0.8, -4.9, 0.8, 0.6),
    ),
    "upper_lid_raiser": _lid_up,
    "cheek_raiser": lambda p: (
        0,
        -0.30 * p.b(3.6, -1.6, 1.9, 1.1) - 0.08 * p.b(3.2, -3.0, 1.3, 0.4),
        -0.22 * p.b(3.7, -1.4, 1.7, 0.9),
    ),
    "lid_tightener": lambda p: (
        0,
        -0.20 * p.b(3.2, -2.9, 1.4, 0.5) + 0.13 * p.b(3.1, -4.1, 1.3, 0.45),
        -0.05 * p.b(3.2, -2.6, 1.3, 0.4),
    ),
    "nose_wrinkler": lambda p: (
        0.04 * p.sign * p.b(1.3, 0.4, 0.6, 0.6),
        -0.28 * p.b(1.2, 0.1, 1.1, 1.5),
        -0.08 * p.b(0.9, -2.0, 0.6, 1.0),
    ),
    "upper_lip_raiser": lambda p: (0, -0.36 * p.b(1.0, 2.6, 1.4, 1.0) * p.above, -0.08 * p.b(1.2, 2.2, 1.0, 0.8)),
    "lip_corner_puller": _smile,
    "dimpler": lambda p: (0.22 * p.sign * p.b(2.6, 3.3, 0.9, 0.8), 0, 0.20 * p.b(2.9, 3.2, 0.6, 0.7)),
    "lip_corner_depressor": lambda p: (
        0.04 * p.sign * p.b(2.5, 3.4, 1, 1),
        0.42 * p.b(2.55, 3.5, 0.95, 1.0),
        0.05 * p.b(2.5, 3.6, 1, 1),
    ),
    "chin_raiser": lambda p: (0, -0.26 * p.b(0, 4.6, 2.2, 1.7) * p.below, -0.22 * p.b(0, 5.6, 1.5, 1.0)),
    "lip_pucker": lambda p: (-0.62 * p.sign * p.b(2.2, 3.3, 1.3, 1.2), 0, -0.45 * p.b(0, 3.3, 1.6, 1.1)),
    "lip_stretcher": lambda p: (
        0.42 * p.sign * p.b(2.5, 3.4, 1.2, 1.1),
        0.14 * p.b(2.6, 3.6, 1.0, 1.0),
        0.2 * p.b(2.4, 3.4, 1.1, 1.0),
    ),
    "lip_tightener": lambda p: (
        -0.10 * p.sign * p.b(2.3, 3.3, 1, 1),
        0.16 * p.b(0, 2.6, 2.1, 0.45) * p.above - 0.20 * p.b(0, 4.2, 2.0, 0.5) * p.below,
        0.12 * p.b(0, 3.4, 2, 0.8),
    ),
    "lips_part": lambda p: (
        0,
        0.30 * p.b(0, 3.7, 2.3, 1.1, 3) * p.below - 0.12 * p.b(0, 2.9, 2.2, 0.8, 3) * p.above,
        0.03 * p.b(0, 3.5, 2, 1),
    ),
    "jaw_drop": _jaw,
    "eye_closure_left": lambda p: _close(p, -1.0),
    "eye_closure_right": lambda p: _close(p, 1.0),
}
"""What a face does: name and field, 1 = the full action. Left and right are the picture's."""


def _sag(p: _Place) -> Move:
    """Age: lids, cheeks and jowls sink, lips thin, the nose droops."""
    dy = (
        0.10 * p.b(3.6, -4.4, 1.5, 0.4)
        + 0.30 * p.b(3.9, 3.0, 2.0, 2.4)
        + 0.16 * p.b(2.5, 3.4, 0.9, 0.8)
        + 0.16 * p.b(0, 0.2, 1.0, 0.8)
        + 0.10 * p.b(0, 2.6, 2.0, 0.4) * p.above
        - 0.10 * p.b(0, 4.2, 1.9, 0.45) * p.below
        + 0.08 * p.b(3.0, -5.4, 2.6, 0.9)
    )
    dz = (
        0.22 * p.b(3.6, 0.6, 1.5, 1.3)
        - 0.20 * p.b(3.6, 5.6, 1.2, 1.2)
        - 0.07 * p.b(3.0, -2.5, 1.2, 0.35)
        - 0.25 * p.b(0, 9.2, 3, 1.4)
    )
    return 0.16 * p.sign * p.b(4.4, 5.6, 1.6, 1.4), dy, dz


def fields_at(neutral: Array, base: Array, theta: Array, ear: Array, still: NDArray[np.bool_]) -> Array:
    """All fields at given places.

    Parameters
    ----------
    neutral, base : (P, 3)
        The places, and the places of the loft below, from which they take their motion.
    theta : (P,)
        Angle on the loft, radians.
    ear : (P, 3)
        Place within an ear, from its middle; 0 elsewhere.
    still : (P,) bool
        Places that follow the shape but no unit.

    Returns
    -------
    (K, P, 3), cm; K are `SHAPE`, "sagging" and `UNITS` in their order.
    """
    place = _Place(base, neutral[:, 2], theta, ear)
    moves = []
    for name, field in {**SHAPE, "sagging": _sag, **UNITS}.items():
        parts = [np.broadcast_to(np.asarray(part, np.float64), place.x.shape) for part in field(place)]
        move = np.stack(parts, -1)
        if name in UNITS:
            move[still] = 0
        moves.append(move)
    return np.stack(moves)


# ------------------------------------------------------------------------------------------------- expressions

EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
"""The seven classes."""

_UNITS_OF: dict[str, dict[str, float]] = {
    "neutral": {},
    "happiness": {
        "lip_corner_puller": 1.0,
        "cheek_raiser": 0.8,
        "lips_part": 0.8,
        "jaw_drop": 0.15,
        "lid_tightener": 0.3,
        "upper_lip_raiser": 0.25,
    },
    "sadness": {
        "inner_brow_raiser": 0.8,
        "brow_lowerer": 0.45,
        "lip_corner_depressor": 1.0,
        "chin_raiser": 0.6,
        "lid_tightener": 0.3,
    },
    "surprise": {
        "inner_brow_raiser": 1.0,
        "outer_brow_raiser": 1.0,
        "upper_lid_raiser": 1.0,
        "jaw_drop": 0.85,
        "lips_part": 0.4,
    },
    "fear": {
        "inner_brow_raiser": 1.0,
        "outer_brow_raiser": 0.4,
        "brow_lowerer": 0.5,
        "upper_lid_raiser": 1.0,
        "lid_tightener": 0.4,
        "lip_stretcher": 0.9,
        "lips_part": 0.7,
        "jaw_drop": 0.3,
    },
    "disgust": {
        "nose_wrinkler": 1.0,
        "upper_lip_raiser": 0.9,
        "brow_lowerer": 0.5,
        "lid_tightener": 0.7,
        "cheek_raiser": 0.5,
        "lip_corner_depressor": 0.4,
        "chin_raiser": 0.3,
    },
    "anger": {
        "brow_lowerer": 1.0,
        "upper_lid_raiser": 0.5,
        "lid_tightener": 0.8,
        "lip_tightener": 0.9,
        "chin_raiser": 0.4,
        "nose_wrinkler": 0.2,
    },
}

AFFECT: dict[str, tuple[float, float]] = {
    "neutral": (0.0, 0.0),
    "happiness": (0.80, 0.35),
    "sadness": (-0.70, -0.40),
    "surprise": (0.20, 0.80),
    "fear": (-0.45, 0.80),
    "disgust": (-0.70, 0.30),
    "anger": (-0.60, 0.62),
}
"""Valence and arousal, -1 to 1, of the full expression of each class."""


def _table() -> Array:
    names = list(UNITS)
    table = np.zeros((len(EXPRESSIONS), len(names)))
    for row, expression in enumerate(EXPRESSIONS):
        for unit, value in _UNITS_OF[expression].items():
            table[row, names.index(unit)] = value
    return table


def expression_units(expression: ArrayLike, intensity: ArrayLike) -> Array:
    """(n, 19) action units of classes `expression` (n,), numbers into `EXPRESSIONS`, at `intensity` 0 to 1."""
    return np.asarray(_table()[np.asarray(expression, np.int64)] * np.asarray(intensity, np.float64)[:, None])


def affect_units(valence: ArrayLike, arousal: ArrayLike) -> Array:
    """(n, 19) action units of any point (n,), (n,) of the plane of valence and arousal, -1 to 1.

    Classes are blended by their nearness in direction to the point, and scaled by its length, so that `AFFECT` of a
    class gives nearly its own units, the origin the neutral face, and all between changes smoothly.
    """
    at = np.stack([np.asarray(valence, np.float64), np.asarray(arousal, np.float64)], -1)
    names = [name for name in EXPRESSIONS if name != "neutral"]
    anchors = np.array([AFFECT[name] for name in names])
    length = np.linalg.norm(anchors, axis=1)
    radius = np.linalg.norm(at, axis=1, keepdims=True)
    cosine = (at @ anchors.T) / (np.maximum(radius, 1e-9) * length)
    weight = np.exp(14 * (cosine - 1))
    # Calm and pleased, or drowsy: where no class lies near, little happens.
    share = weight / np.maximum(weight.sum(1, keepdims=True), 0.35)
    return np.asarray((share * np.clip(radius / length, 0, 1.25)) @ _table()[1:])
