"""Every control of a rendered head, one named column each, and their random draw.

A row is a picture. Columns are independent of each other in `sample`, except within a person, where nature ties them:
hair darkens with skin, noses and lips go with both a little, beards come with masculine shapes and make-up mostly with
feminine ones. Any column can be set against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.heads.fields import AFFECT, EXPRESSIONS, SHAPE, UNITS, affect_units, expression_units
from mien.errors import OptionError, ShapeError, ValueRangeError

__all__ = [
    "BEARDS",
    "GLASSES",
    "HAIR",
    "HATS",
    "IDENTITY",
    "OCCLUDERS",
    "SCENES",
    "HeadParameters",
    "sample",
]

HAIR = ("bald", "buzz", "short", "quiff", "curly", "afro", "bun", "bob", "long", "wavy")
"""Hair styles."""

BEARDS = ("none", "stubble", "moustache", "goatee", "full")
"""Beard styles."""

GLASSES = ("none", "rectangular", "round", "aviator", "half_rim")
"""Frames with clear lenses."""

HATS = ("none", "beanie", "cap")
"""Hats."""

OCCLUDERS = ("none", "hand", "mask", "sunglasses")
"""What hides a part of the face."""

SCENES = ("plain", "gradient", "room", "foliage", "city", "bokeh")
"""Backgrounds."""


@dataclass(frozen=True, eq=False)
class HeadParameters:
    """Everything that makes up `n` pictures; every field has n rows.

    Indexing by slice, mask or row numbers gives fewer rows, `concat` joins, `with_` replaces columns, `to_dict` gives
    plain values.

    Parameters
    ----------
    seed : (n,) int64
        Drives what has no column of its own: the pattern of freckles and strands, clutter of the background, noise.
    identity : (n,) int64
        Number of the person; rows of a person share all columns of `IDENTITY`.
    shape : (n, 57)
        Coefficients of `fields.SHAPE`, standard deviations.
    skin_ita
        Individual typology angle of the skin (A. Chardon et al., 1991), degrees, -60 (darkest) to 60.
    skin_yellow, skin_red
        Departure of CIELAB b* and a* from what is usual at that angle, -6 to 6.
    blotches, freckles
        Uneven redness and freckles, 0 to 1.
    iris : (n, 2)
        Brightness 0 (dark brown) to 1 (pale), and hue 0 (brown) over 0.5 (green) to 1 (blue).
    brow_thickness, brow_density
        1 is usual; 0.4 to 1.8. Density 0 to 1.
    hair_style
        Number into `HAIR`.
    hair_dark, hair_red
        Eumelanin 0 (pale blond) to 1 (black), and pheomelanin 0 to 1 (red).
    hair_volume, hair_fringe, hair_recede
        Thickness, 0.5 to 1.6 of the style's; fringe over the forehead, 0 to 1; receding hairline, 0 to 1.
    beard_style, beard_density
        Number into `BEARDS`, and 0 to 1.
    masculine
        -1 to 1; a statement about the shape only.
    expression : (n,) int64
        Number into `EXPRESSIONS`.
    valence, arousal
        -1 to 1.
    units : (n, 19)
        Activation of `fields.UNITS`, 0 to 1: this is what moves the face; `sample` derives it from expression or from
        valence and arousal.
    gaze : (n, 2)
        Yaw and pitch of the eyes against the head, degrees, -30 to 30, signs as of the pose.
    pose : (n, 3)
        Yaw, pitch, roll, degrees; conventions of `mien.geometry.pose`.
    torso
        Share of the pose that the shoulders follow, 0 to 1.
    key_direction : (n, 2)
        Azimuth (0 the camera's, 90 the picture's right) and elevation of the key light, degrees.
    key_share
        Share of the key in the light on the face, 0 (overcast) to 0.9 (theatre).
    key_softness
        Width of the shadow's edge, 0.2 to 3 cm.
    key_warmth, ambient_warmth
        -1 (blue) to 1 (tungsten).
    ambient : (n, 9)
        Spherical harmonics of the surroundings, orders 0 to 2, axes x, y, z of the picture; the first is 1.
    exposure
        Stops from the usual exposure, -2 to 2.
    wrinkles, grey, sagging
        Signs of age, 0 to 1, each on its own.
    lipstick, lipstick_hue, eyeshadow, eyeshadow_hue, eyeliner, blush
        Make-up: strengths 0 to 1; hues 0 to 1 (lips: nude, red, berry; eyes: brown, violet, blue, green).
    glasses, glasses_colour
        Number into `GLASSES`; darkness of the frame 0 (pale metal) to 1 (black).
    hat, hat_colour : (n,), (n, 3)
        Number into `HATS`; sRGB 0 to 1.
    earrings, necklace
        0 or 1.
    occluder, occluder_at, occluder_colour : (n,), (n, 2), (n, 3)
        Number into `OCCLUDERS`; where a hand rests, cm from the nose; colour of the mask.
    clothes : (n, 3)
        sRGB, 0 to 1.
    distance
        From the camera to the middle of the head, cm, 25 to 400: the perspective, not the size.
    face_share
        Height of the face (brows to chin, 13 cm) over that of the picture, 0.1 to 0.9.
    shift : (n, 2)
        Middle of the face off the middle of the picture, shares of its size.
    scene, scene_light : (n,)
        Number into `SCENES`; brightness 0 to 1.
    scene_colour : (n, 3)
        sRGB, 0 to 1.
    camera_noise
        Standard deviation in a mid-grey, 8-bit levels, 0 to 20.
    air_celsius, skin_celsius
        Temperature of the surroundings and of the forehead, for the infrared picture.
    """

    seed: NDArray[np.int64]
    identity: NDArray[np.int64]
    shape: NDArray[np.float32]
    skin_ita: NDArray[np.float32]
    skin_yellow: NDArray[np.float32]
    skin_red: NDArray[np.float32]
    blotches: NDArray[np.float32]
    freckles: NDArray[np.float32]
    iris: NDArray[np.float32]
    brow_thickness: NDArray[np.float32]
    brow_density: NDArray[np.float32]
    hair_style: NDArray[np.int64]
    hair_dark: NDArray[np.float32]
    hair_red: NDArray[np.float32]
    hair_volume: NDArray[np.float32]
    hair_fringe: NDArray[np.float32]
    hair_recede: NDArray[np.float32]
    beard_style: NDArray[np.int64]
    beard_density: NDArray[np.float32]
    masculine: NDArray[np.float32]
    expression: NDArray[np.int64]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    units: NDArray[np.float32]
    gaze: NDArray[np.float32]
    pose: NDArray[np.float32]
    torso: NDArray[np.float32]
    key_direction: NDArray[np.float32]
    key_share: NDArray[np.float32]
    key_softness: NDArray[np.float32]
    key_warmth: NDArray[np.float32]
    ambient: NDArray[np.float32]
    ambient_warmth: NDArray[np.float32]
    exposure: NDArray[np.float32]
    wrinkles: NDArray[np.float32]
    grey: NDArray[np.float32]
    sagging: NDArray[np.float32]
    lipstick: NDArray[np.float32]
    lipstick_hue: NDArray[np.float32]
    eyeshadow: NDArray[np.float32]
    eyeshadow_hue: NDArray[np.float32]
    eyeliner: NDArray[np.float32]
    blush: NDArray[np.float32]
    glasses: NDArray[np.int64]
    glasses_colour: NDArray[np.float32]
    hat: NDArray[np.int64]
    hat_colour: NDArray[np.float32]
    earrings: NDArray[np.int64]
    necklace: NDArray[np.int64]
    occluder: NDArray[np.int64]
    occluder_at: NDArray[np.float32]
    occluder_colour: NDArray[np.float32]
    clothes: NDArray[np.float32]
    distance: NDArray[np.float32]
    face_share: NDArray[np.float32]
    shift: NDArray[np.float32]
    scene: NDArray[np.int64]
    scene_light: NDArray[np.float32]
    scene_colour: NDArray[np.float32]
    camera_noise: NDArray[np.float32]
    air_celsius: NDArray[np.float32]
    skin_celsius: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.seed)
        for field in fields(self):
            array = np.array(getattr(self, field.name))
            whole = field.name in _WHOLE
            array = array.astype(np.int64 if whole else np.float32)
            wanted = (n, *_WIDTH.get(field.name, ()))
            if array.shape != wanted:
                raise ShapeError(f"{field.name} has the wrong shape", got=array.shape, expected=wanted)
            if not whole and not np.isfinite(array).all():
                raise ValueRangeError(f"{field.name} has values that are not finite", got=array, expected="numbers")
            low, high = _RANGE.get(field.name, (None, None))
            if n and low is not None and high is not None and (array.min() < low or array.max() > high):
                raise ValueRangeError(
                    f"{field.name} is out of range",
                    got=f"{array.min():g} to {array.max():g}",
                    expected=f"{low:g} to {high:g}",
                )
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, rows: Any) -> Self:
        index = np.arange(len(self))[rows].reshape(-1)
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def with_(self, **columns: ArrayLike) -> Self:
        """The same with other columns; a single value stands for all rows."""
        return replace(self, **_columns(len(self), columns))

    def to_dict(self) -> list[dict[str, Any]]:
        """One mapping of plain values a row; styles by name."""
        named = {
            "hair_style": HAIR,
            "beard_style": BEARDS,
            "glasses": GLASSES,
            "hat": HATS,
            "occluder": OCCLUDERS,
            "scene": SCENES,
            "expression": EXPRESSIONS,
        }
        rows: list[dict[str, Any]] = [{} for _ in range(len(self))]
        for field in fields(self):
            values = getattr(self, field.name)
            digits = values.tolist() if values.dtype == np.int64 else np.round(values.astype(np.float64), 5).tolist()
            for row, value in zip(rows, digits, strict=True):
                row[field.name] = named[field.name][value] if field.name in named else value
        return rows

    @classmethod
    def concat(cls, parts: Sequence[HeadParameters]) -> HeadParameters:
        """All rows of `parts`, one after the other."""
        if not parts:
            raise OptionError("nothing to join", got="no parts", expected="at least one")
        return HeadParameters(
            **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        )


_WHOLE = {
    "seed",
    "identity",
    "hair_style",
    "beard_style",
    "expression",
    "glasses",
    "hat",
    "earrings",
    "necklace",
    "occluder",
    "scene",
}
_WIDTH: dict[str, tuple[int, ...]] = {
    "shape": (len(SHAPE),),
    "units": (len(UNITS),),
    "iris": (2,),
    "gaze": (2,),
    "pose": (3,),
    "key_direction": (2,),
    "ambient": (9,),
    "hat_colour": (3,),
    "occluder_at": (2,),
    "occluder_colour": (3,),
    "clothes": (3,),
    "shift": (2,),
    "scene_colour": (3,),
}
_UNIT_RANGE = (
    "blotches freckles iris brow_density hair_dark hair_red hair_fringe hair_recede beard_density torso wrinkles grey "
    "sagging lipstick "
    "lipstick_hue eyeshadow eyeshadow_hue eyeliner blush glasses_colour hat_colour occluder_colour clothes "
    "scene_light scene_colour "
    "earrings necklace"
)
_RANGE: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_UNIT_RANGE.split(), (0.0, 1.0)),
    "shape": (-5, 5),
    "skin_ita": (-60, 60),
    "skin_yellow": (-6, 6),
    "skin_red": (-6, 6),
    "brow_thickness": (0.3, 2),
    "hair_style": (0, len(HAIR) - 1),
    "hair_volume": (0.4, 1.8),
    "beard_style": (0, len(BEARDS) - 1),
    "masculine": (-1, 1),
    "expression": (0, len(EXPRESSIONS) - 1),
    "valence": (-1, 1),
    "arousal": (-1, 1),
    "units": (-0.5, 1.5),
    "gaze": (-40, 40),
    "pose": (-180, 180),
    "key_share": (0, 0.95),
    "key_softness": (0.05, 5),
    "key_warmth": (-1, 1),
    "ambient_warmth": (-1, 1),
    "exposure": (-4, 4),
    "glasses": (0, len(GLASSES) - 1),
    "hat": (0, len(HATS) - 1),
    "occluder": (0, len(OCCLUDERS) - 1),
    "occluder_at": (-10, 10),
    "distance": (25, 1000),
    "face_share": (0.05, 1.5),
    "shift": (-1, 1),
    "scene": (0, len(SCENES) - 1),
    "camera_noise": (0, 64),
    "air_celsius": (-20, 45),
    "skin_celsius": (25, 42),
}

IDENTITY = (
    "identity",
    "shape",
    "skin_ita",
    "skin_yellow",
    "skin_red",
    "blotches",
    "freckles",
    "iris",
    "brow_thickness",
    "brow_density",
    "hair_style",
    "hair_dark",
    "hair_red",
    "hair_volume",
    "hair_fringe",
    "hair_recede",
    "beard_style",
    "beard_density",
    "masculine",
    "wrinkles",
    "grey",
    "sagging",
)
"""Columns that all pictures of a person share, unless they are set."""


def _columns(n: int, given: dict[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Given columns at full length; names of styles become numbers."""
    names = {
        "hair_style": HAIR,
        "beard_style": BEARDS,
        "glasses": GLASSES,
        "hat": HATS,
        "occluder": OCCLUDERS,
        "scene": SCENES,
        "expression": EXPRESSIONS,
    }
    known = {field.name for field in fields(HeadParameters)}
    made: dict[str, NDArray[Any]] = {}
    for name, value in given.items():
        if name not in known:
            raise OptionError.unknown("unknown control of a head", name, known)
        array = np.asarray(value)
        if array.dtype.kind in "US":
            if name not in names:
                raise OptionError(f"{name} takes numbers", got=value)
            for word in np.unique(array):
                if word not in names[name]:
                    raise OptionError.unknown(f"unknown {name}", word, names[name])
            array = np.vectorize(names[name].index, otypes=[np.int64])(array)
        wanted = (n, *_WIDTH.get(name, ()))
        if array.shape != wanted:
            try:
                array = np.broadcast_to(array, wanted)
            except ValueError:
                raise ShapeError(f"{name} has the wrong shape", got=array.shape, expected=wanted) from None
        made[name] = array
    return made


# ------------------------------------------------------------------------------------------------- drawing

_MASCULINE = {
    "jaw_width": 0.7,
    "chin_width": 0.7,
    "chin_length": 0.5,
    "chin_projection": 0.5,
    "brow_ridge": 0.9,
    "brow_height": -0.6,
    "nose_width": 0.45,
    "nose_length": 0.5,
    "nose_projection": 0.4,
    "neck_width": 1.1,
    "shoulder_width": 1.1,
    "face_length": 0.5,
    "lower_lip": -0.4,
    "upper_lip": -0.5,
    "eye_size": -0.5,
    "eye_opening": -0.4,
    "jaw_taper": -0.6,
    "head_width": 0.5,
    "head_length": 0.5,
    "cheek_fullness": -0.4,
    "bridge_width": 0.4,
    "forehead_slope": 0.4,
    "forehead_bulge": -0.4,
    "cheek_hollow": 0.3,
}
"""Shift of the mean of shape coefficients from feminine to masculine, in standard deviations to either side."""


def _ambient(rng: np.random.Generator) -> NDArray[np.float64]:
    """Surroundings as spherical harmonics: light from above, a floor, and a wall or window somewhere."""
    order1 = rng.normal(0, 0.18, 3)
    order1[1] -= rng.uniform(0.05, 0.4)
    order1[2] -= rng.uniform(0.0, 0.25)
    return np.concatenate([[1.0], order1, rng.normal(0, 0.07, 5)])


def _person(seed: int, number: int) -> dict[str, Any]:
    """Columns of a person."""
    rng = np.random.default_rng([seed, 0x1D, number])
    masculine = float(np.clip(rng.choice([-1, 1]) * rng.normal(0.75, 0.25), -1, 1))
    shape = rng.standard_normal(len(SHAPE))
    ita = float(np.clip(rng.uniform(-58, 58), -60, 60))
    tone = ita / 58
    names = list(SHAPE)
    for name, shift in _MASCULINE.items():
        shape[names.index(name)] += shift * masculine
    # Noses, lips and bridges vary with descent, skin colour as well: a weak tie, and a second, free axis for eyes.
    east = rng.uniform(-1, 1)
    for name, shift in {
        "nose_width": -0.7,
        "bridge_height": 0.5,
        "upper_lip": -0.6,
        "lower_lip": -0.6,
        "prognathism": -0.5,
        "lip_projection": -0.5,
    }.items():
        shape[names.index(name)] += shift * tone
    for name, shift in {
        "inner_fold": 0.9,
        "lid_fold": 0.8,
        "bridge_height": -0.5,
        "eye_opening": -0.5,
        "cheekbone_width": 0.5,
        "root_depth": -0.3,
    }.items():
        shape[names.index(name)] += shift * east * (abs(east) >= 0.3)
    shape = np.clip(shape, -2.8, 2.8)
    pale = max(0.0, tone)
    dark = np.clip(1 - pale * rng.beta(1.1, 1.0) * 1.15 + rng.normal(0, 0.04), 0.05, 1)
    styles = (
        [0.02, 0.02, 0.06, 0.03, 0.08, 0.05, 0.16, 0.18, 0.24, 0.16]
        if masculine < 0
        else [0.12, 0.2, 0.3, 0.16, 0.08, 0.06, 0.01, 0.02, 0.03, 0.02]
    )
    beard = int(rng.choice(5, p=[0.46, 0.22, 0.08, 0.09, 0.15])) if masculine > 0 else 0
    age = rng.beta(1.0, 1.6)
    return {
        "identity": number,
        "shape": shape,
        "skin_ita": ita,
        "skin_yellow": np.clip(rng.normal(0, 1.8), -5, 5),
        "skin_red": np.clip(rng.normal(0, 1.3), -4, 4),
        "blotches": rng.beta(1.5, 2.5),
        "freckles": rng.beta(1.2, 2.0) if rng.random() < 0.1 + 0.3 * pale else 0.0,
        "iris": [np.clip(0.12 + pale * rng.beta(1, 1.2), 0, 1), np.clip(pale * rng.beta(0.9, 0.9) * 1.3, 0, 1)],
        "brow_thickness": np.clip(rng.normal(1.0 + 0.18 * masculine, 0.18), 0.45, 1.7),
        "brow_density": np.clip(rng.normal(0.75, 0.15), 0.25, 1),
        "hair_style": int(rng.choice(len(HAIR), p=styles)),
        "hair_dark": dark,
        "hair_red": np.clip(rng.beta(1, 5) + (0.7 if rng.random() < 0.08 * pale * 2 else 0), 0, 1),
        "hair_volume": np.clip(rng.normal(1, 0.18), 0.5, 1.6),
        "hair_fringe": float(rng.beta(3, 1.5)) if rng.random() < (0.3 if masculine < 0 else 0.15) else 0.0,
        "hair_recede": float(rng.beta(1.2, 1.5)) * (0.4 + 0.6 * age) if masculine > 0 and rng.random() < 0.5 else 0.0,
        "beard_style": beard,
        "beard_density": rng.uniform(0.45, 1),
        "masculine": masculine,
        "wrinkles": np.clip(age + rng.normal(0, 0.1), 0, 1),
        "grey": np.clip((age - 0.48) * 1.8 + rng.normal(0, 0.12), 0, 1),
        "sagging": np.clip(age * 0.9 + rng.normal(0, 0.1), 0, 1),
    }


def _colour(rng: np.random.Generator, low: float = 0.05, high: float = 0.9) -> NDArray[np.float64]:
    """An sRGB colour, mostly dull."""
    grey = rng.uniform(low, high)
    return np.asarray(np.clip(grey + rng.normal(0, 1, 3) * rng.choice([0.02, 0.08, 0.2]), 0, 1))


def _picture(seed: int, row: int, person: dict[str, Any]) -> dict[str, Any]:
    """Columns that change from picture to picture."""
    rng = np.random.default_rng([seed, 0x21, row])
    if rng.random() < 0.55:
        expression = int(rng.integers(0, len(EXPRESSIONS)))
        intensity = float(rng.uniform(0.55, 1.0)) if expression else 0.0
        units = expression_units([expression], [intensity])[0]
        valence, arousal = np.array(AFFECT[EXPRESSIONS[expression]]) * intensity
    else:
        angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.95))
        valence, arousal = radius * np.cos(angle), radius * np.sin(angle)
        units = affect_units([valence], [arousal])[0]
        expression = nearest_expression([valence], [arousal])[0]
    units = units + np.where(rng.random(len(units)) < 0.12, rng.uniform(0, 0.18, len(units)), 0)
    names = list(UNITS)
    blink = rng.random()
    lids = 0.08 * rng.random() if blink > 0.03 else 1.0
    units[names.index("eye_closure_left")] = units[names.index("eye_closure_right")] = lids
    yaw = rng.normal(0, 24) if rng.random() < 0.8 else rng.uniform(-90, 90)
    made_up = rng.random() < (0.55 if person["masculine"] < 0 else 0.05)
    occluder = int(rng.choice(4, p=[0.85, 0.04, 0.06, 0.05]))
    return {
        "seed": int(rng.integers(0, 2**31)),
        "expression": expression,
        "valence": valence,
        "arousal": arousal,
        "units": np.clip(units, 0, 1.2),
        "gaze": np.clip(rng.normal(0, (9, 5)), -28, 28) if rng.random() < 0.5 else np.clip([-0.6 * yaw, 0], -28, 28),
        "pose": [np.clip(yaw, -90, 90), np.clip(rng.normal(0, 9), -35, 35), np.clip(rng.normal(0, 6), -30, 30)],
        "torso": rng.uniform(0.1, 0.9),
        "key_direction": [np.clip(rng.normal(0, 45), -110, 110), np.clip(rng.normal(32, 20), -25, 75)],
        "key_share": rng.beta(1.8, 2.2) * 0.85,
        "key_softness": rng.uniform(0.3, 1.6),
        "key_warmth": np.clip(rng.normal(0.15, 0.35), -1, 1),
        "ambient": _ambient(rng),
        "ambient_warmth": np.clip(rng.normal(0, 0.3), -1, 1),
        "exposure": np.clip(rng.normal(0, 0.35), -1.2, 1.0),
        "lipstick": rng.uniform(0.35, 1) if made_up else 0.0,
        "lipstick_hue": rng.random(),
        "eyeshadow": rng.uniform(0.2, 0.9) if made_up and rng.random() < 0.7 else 0.0,
        "eyeshadow_hue": rng.random(),
        "eyeliner": rng.uniform(0.3, 1) if made_up and rng.random() < 0.75 else 0.0,
        "blush": rng.uniform(0.2, 0.8) if made_up and rng.random() < 0.6 else 0.0,
        "glasses": int(rng.integers(1, len(GLASSES))) if rng.random() < 0.2 and occluder != 3 else 0,
        "glasses_colour": rng.beta(2, 0.8),
        "hat": int(rng.integers(1, len(HATS))) if rng.random() < 0.1 else 0,
        "hat_colour": _colour(rng),
        "earrings": int(rng.random() < 0.15),
        "necklace": int(rng.random() < 0.12),
        "occluder": occluder,
        "occluder_at": rng.uniform((-4, 0), (4, 5)),
        "occluder_colour": _colour(rng, 0.1, 0.95) if rng.random() < 0.5 else np.array([0.62, 0.78, 0.86]),
        "clothes": _colour(rng),
        "distance": float(np.exp(rng.uniform(np.log(40), np.log(250)))),
        "face_share": rng.uniform(0.42, 0.58),
        "shift": rng.normal(0, 0.02, 2),
        "scene": int(rng.integers(0, len(SCENES))),
        "scene_light": rng.uniform(0.15, 0.9),
        "scene_colour": _colour(rng, 0.15, 0.85),
        "camera_noise": rng.gamma(2, 0.9),
        "air_celsius": rng.uniform(16, 28),
        "skin_celsius": rng.normal(34.4, 0.5),
    }


def nearest_expression(valence: ArrayLike, arousal: ArrayLike) -> NDArray[np.int64]:
    """(n,) number into `EXPRESSIONS` of the class whose full place in valence and arousal is nearest in direction;
    neutral within 0.2 of the origin."""
    at = np.stack([np.asarray(valence, np.float64), np.asarray(arousal, np.float64)], -1)
    anchors = np.array([AFFECT[name] for name in EXPRESSIONS[1:]])
    anchors = anchors / np.linalg.norm(anchors, axis=1, keepdims=True)
    nearest = 1 + (at @ anchors.T).argmax(1)
    return np.where(np.linalg.norm(at, axis=1) < 0.2, 0, nearest).astype(np.int64)


def sample(
    count: int,
    *,
    seed: int = 0,
    start: int = 0,
    identities: int | None = None,
    per_identity: int = 1,
    **fixed: ArrayLike,
) -> HeadParameters:
    """Draws controls for `count` pictures.

    Row i depends on (seed, start + i) only, so any part of a set can be drawn again without the rest.

    Parameters
    ----------
    count
        Rows.
    seed
        Of the whole set.
    start
        Number of the first row.
    identities
        How many people there are; pictures go round among them. Default: a new one every `per_identity` rows.
    per_identity
        Pictures in a row of each person.
    **fixed
        Columns that are not drawn: one value for all rows, or one a row; styles also by name. Setting `expression`,
        or `valence` and `arousal`, without `units` derives the units from them.

    Raises
    ------
    OptionError, ShapeError, ValueRangeError
        Unknown controls, or values that do not fit.
    """
    if count < 0 or per_identity < 1 or (identities is not None and identities < 1):
        raise OptionError("a set needs rows and people", got=(count, identities, per_identity), expected="1 or more")
    people: dict[int, dict[str, Any]] = {}
    rows: dict[str, list[Any]] = {field.name: [] for field in fields(HeadParameters)}
    for row in range(start, start + count):
        number = row // per_identity if identities is None else (row // per_identity) % identities
        person = people.get(number)
        if person is None:
            person = people[number] = _person(seed, number)
        for name, value in {**_picture(seed, row, person), **person}.items():
            rows[name].append(value)
    columns: dict[str, Any] = {}
    for name, values in rows.items():
        shape = (count, *_WIDTH.get(name, ()))
        columns[name] = np.array(values, np.int64 if name in _WHOLE else np.float32).reshape(shape)
    given = _columns(count, fixed)
    if "units" not in given and count:
        if "valence" in given or "arousal" in given:
            columns |= {k: given[k] for k in ("valence", "arousal") if k in given}
            columns["units"] = affect_units(columns["valence"], columns["arousal"])
            if "expression" not in given:
                columns["expression"] = nearest_expression(columns["valence"], columns["arousal"])
        elif "expression" in given:
            columns["units"] = expression_units(given["expression"], np.full(count, 0.9))
            affect = np.array([AFFECT[name] for name in EXPRESSIONS])[given["expression"]] * 0.9
            columns["valence"], columns["arousal"] = affect.T
    return HeadParameters(**{**columns, **given})
