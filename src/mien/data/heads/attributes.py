"""Which of CelebA's attributes a head has, by its controls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mien.data.heads.fields import SHAPE, UNITS
from mien.data.heads.params import BEARDS, HAIR, OCCLUDERS, HeadParameters

__all__ = ["ATTRIBUTES", "attributes"]

Flags = NDArray[np.bool_]


def _shape(p: HeadParameters, name: str) -> NDArray[np.float32]:
    column: NDArray[np.float32] = p.shape[:, list(SHAPE).index(name)]
    return column


def _unit(p: HeadParameters, name: str) -> NDArray[np.float32]:
    column: NDArray[np.float32] = p.units[:, list(UNITS).index(name)]
    return column


def _style(p: HeadParameters, *names: str) -> Flags:
    return np.isin(p.hair_style, [HAIR.index(name) for name in names])


def _beard(p: HeadParameters, *names: str) -> Flags:
    return np.isin(p.beard_style, [BEARDS.index(name) for name in names])


def _hair(p: HeadParameters) -> Flags:
    """Hair that is seen: neither bald nor under a beanie's rim alone."""
    return ~_style(p, "bald")


_RULES: dict[str, Callable[[HeadParameters], NDArray[np.bool_]]] = {
    "5_o_Clock_Shadow": lambda p: _beard(p, "stubble"),
    "Arched_Eyebrows": lambda p: _shape(p, "brow_tilt") > 0.8,
    "Bags_Under_Eyes": lambda p: (p.sagging > 0.55) | (_shape(p, "under_eye") > 1.4),
    "Bald": lambda p: _style(p, "bald"),
    "Bangs": lambda p: (p.hair_fringe > 0.5) & _hair(p) & ~_style(p, "bun") & (p.hat == 0),
    "Big_Lips": lambda p: _shape(p, "upper_lip") + _shape(p, "lower_lip") > 1.5,
    "Big_Nose": lambda p: _shape(p, "nose_width") + _shape(p, "nose_projection") + _shape(p, "nose_length") > 1.8,
    "Black_Hair": lambda p: (p.hair_dark > 0.8) & (p.grey < 0.5) & _hair(p),
    "Blond_Hair": lambda p: (p.hair_dark < 0.35) & (p.hair_red < 0.6) & (p.grey < 0.5) & _hair(p),
    "Brown_Hair": lambda p: (p.hair_dark >= 0.35) & (p.hair_dark <= 0.8) & (p.grey < 0.5) & _hair(p),
    "Bushy_Eyebrows": lambda p: (p.brow_thickness > 1.15) & (p.brow_density > 0.7),
    "Chubby": lambda p: _shape(p, "fat") + 0.6 * _shape(p, "cheek_fullness") > 1.4,
    "Double_Chin": lambda p: _shape(p, "fat") + p.sagging > 1.6,
    "Eyeglasses": lambda p: (p.glasses > 0) | (p.occluder == OCCLUDERS.index("sunglasses")),
    "Goatee": lambda p: _beard(p, "goatee", "full"),
    "Gray_Hair": lambda p: (p.grey >= 0.5) & _hair(p),
    "Heavy_Makeup": lambda p: (p.lipstick > 0.3) & (p.eyeshadow + p.eyeliner + p.blush > 0.8),
    "High_Cheekbones": lambda p: (
        _shape(p, "cheekbone_projection") + _shape(p, "cheekbone_width") + _unit(p, "cheek_raiser") > 1.3
    ),
    "Male": lambda p: p.masculine > 0,
    "Mouth_Slightly_Open": lambda p: _unit(p, "jaw_drop") * 1.6 + _unit(p, "lips_part") * 0.45 > 0.15,
    "Mustache": lambda p: _beard(p, "moustache", "goatee", "full"),
    "Narrow_Eyes": lambda p: (
        (np.maximum(_unit(p, "eye_closure_left"), _unit(p, "eye_closure_right")) > 0.35)
        | (_shape(p, "eye_opening") < -1.2)
    ),
    "No_Beard": lambda p: _beard(p, "none"),
    "Pale_Skin": lambda p: p.skin_ita > 48,
    "Pointy_Nose": lambda p: (
        (_shape(p, "nose_projection") > 0.6) & (_shape(p, "nose_width") < 0) & (_shape(p, "tip_size") < 0.3)
    ),
    "Receding_Hairline": lambda p: (p.hair_recede > 0.45) & _hair(p),
    "Rosy_Cheeks": lambda p: p.blush > 0.35,
    "Sideburns": lambda p: _beard(p, "full"),
    "Smiling": lambda p: _unit(p, "lip_corner_puller") > 0.35,
    "Straight_Hair": lambda p: _style(p, "short", "quiff", "bob", "long"),
    "Wavy_Hair": lambda p: _style(p, "curly", "afro", "wavy"),
    "Wearing_Earrings": lambda p: p.earrings > 0,
    "Wearing_Hat": lambda p: p.hat > 0,
    "Wearing_Lipstick": lambda p: p.lipstick > 0.3,
    "Wearing_Necklace": lambda p: p.necklace > 0,
    "Young": lambda p: p.wrinkles + p.grey + p.sagging < 1.2,
}

ATTRIBUTES = tuple(_RULES)
"""Names of the 36 attributes of CelebA (Z. Liu et al., 2015) that controls decide, in CelebA's order. Missing are those
of taste or of the photograph (Attractive, Blurry) and what this head has not got (Oval_Face, Wearing_Necktie)."""


def attributes(parameters: HeadParameters) -> Flags:
    """(n, 36) bool, columns `ATTRIBUTES`.

    They speak of the head, not of what can be seen: a moustache below a mask is a moustache. "Male" is a statement
    about the shape only, "Young" about signs of age.
    """
    columns = [np.asarray(rule(parameters), bool) for rule in _RULES.values()]
    return np.stack(columns, -1) if len(parameters) else np.zeros((0, len(ATTRIBUTES)), bool)
