"""``python -m mien.train RECIPE key=value …``: the same as ``mien train``, without the rest of the command line."""

from __future__ import annotations

import logging
import sys

from mien.errors import MienError, OptionError
from mien.train.loop import Progress, Recipe, fit
from mien.train.recipes import RECIPES, recipe_class


def parse(arguments: list[str]) -> Recipe:
    """The recipe named first, with the options that follow; ``preset=NAME`` picks a preset.

    Raises
    ------
    OptionError
        No recipe is named, or an option is not of the form ``key=value``, unknown, or of the wrong type.
    """
    if not arguments:
        raise OptionError("no recipe is named", expected=f"one of {', '.join(RECIPES)}, then key=value …")
    name, *pairs = arguments
    for pair in pairs:
        if "=" not in pair:
            raise OptionError("an option has no value", got=pair, expected="key=value")
    options = dict(pair.split("=", 1) for pair in pairs)
    preset = options.pop("preset", None)
    return recipe_class(name).make(preset=preset, **options)


def main(arguments: list[str]) -> None:
    """Trains, and tells how it goes at every row of the log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    recipe = parse(arguments)

    def show(p: Progress) -> None:
        if p.step % recipe.log_every and p.step != p.steps:
            return
        left = (p.steps - p.step) * recipe.batch_size / max(p.samples_per_s, 1e-9) / 60
        logging.info(
            "%d/%d loss %.4f, %.0f samples/s (%.1fx from the limit), %.0f min left",
            p.step, p.steps, p.loss, p.samples_per_s, p.from_limit, left,
        )  # fmt: skip

    logging.info("%s", fit(recipe, progress=show).to_dict())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MienError as error:
        sys.exit(f"{type(error).__name__}: {error}")
