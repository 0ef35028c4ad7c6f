"""Rendered heads: pictures of nobody, with exact ground truth.

from mien.data.heads import render, sample

parameters = sample(64, seed=1)                    every control of 64 pictures, drawn at random
parameters = sample(64, seed=1, per_identity=4, pose=[30, 0, 0], glasses="round")     some of them set
heads = render(parameters, size=112, what=("image", "landmarks", "parsing"))
heads.image, heads.landmarks_2d, heads.parsing, heads.pose, heads.attributes, heads.expression, heads.valence …
"""

from __future__ import annotations

from mien.data.heads.attributes import ATTRIBUTES, attributes
from mien.data.heads.fields import AFFECT, EXPRESSIONS, SHAPE, UNITS, affect_units, expression_units
from mien.data.heads.params import BEARDS, GLASSES, HAIR, HATS, IDENTITY, OCCLUDERS, SCENES, HeadParameters, sample
from mien.data.heads.parts import PARTS
from mien.data.heads.render import EVERYTHING, Heads, render
from mien.data.heads.shade import PARSING

__all__ = [
    "AFFECT",
    "ATTRIBUTES",
    "BEARDS",
    "EVERYTHING",
    "EXPRESSIONS",
    "GLASSES",
    "HAIR",
    "HATS",
    "IDENTITY",
    "OCCLUDERS",
    "PARSING",
    "PARTS",
    "SCENES",
    "SHAPE",
    "UNITS",
    "HeadParameters",
    "Heads",
    "affect_units",
    "attributes",
    "expression_units",
    "render",
    "sample",
]
