"""Recipes by name. A recipe is a dataclass of numbers with four methods; see `mien.train.loop.Recipe`."""

from __future__ import annotations

import difflib
import importlib

from mien.errors import OptionError
from mien.train.loop import Recipe

RECIPES: dict[str, str] = {
    "adapters": "mien.train.recipes.adapters:AdaptersRecipe",
    "affect": "mien.train.recipes.affect:AffectRecipe",
    "attributes": "mien.train.recipes.attributes:AttributesRecipe",
    "detector": "mien.train.recipes.detector:DetectorRecipe",
    "embedder": "mien.train.recipes.embedder:EmbedderRecipe",
    "expression": "mien.train.recipes.expression:ExpressionRecipe",
    "face_tasks": "mien.train.recipes.face_tasks:FaceTasksRecipe",
    "heatmaps": "mien.train.recipes.heatmaps:HeatmapsRecipe",
    "landmarks": "mien.train.recipes.landmarks:LandmarksRecipe",
    "margin": "mien.train.recipes.margin:MarginRecipe",
    "parser": "mien.train.recipes.parser:ParserRecipe",
    "polar_parser": "mien.train.recipes.polar_parser:PolarParserRecipe",
    "pose_detector": "mien.train.recipes.pose_detector:PoseDetectorRecipe",
    "reader": "mien.train.recipes.reader:ReaderRecipe",
    "recognizability": "mien.train.recipes.recognizability:RecognizabilityRecipe",
    "streams": "mien.train.recipes.streams:StreamsRecipe",
    "triplet": "mien.train.recipes.triplet:TripletRecipe",
}
"""Name -> ``module:class``; the modules are imported when asked for."""


def recipe_class(name: str) -> type[Recipe]:
    """The class of recipe `name`; OptionError with the nearest name if there is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of the recipes"
        raise OptionError("no such training recipe", got=name, expected=", ".join(RECIPES), hint=hint)
    module, _, attribute = RECIPES[name].partition(":")
    found: type[Recipe] = getattr(importlib.import_module(module), attribute)
    return found
