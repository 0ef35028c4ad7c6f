"""``python -m mien.train RECIPE key=value …``: the same as ``mien train``, without the rest of the command line."""

from __future__ import annotations

import logging
import sys

from mien.train.loop import Progress, fit
from mien.train.recipes import recipe_class


def main(arguments: list[str]) -> None:
    """Trains the recipe named first with the options that follow; ``preset=NAME`` picks a preset."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    name, *pairs = arguments
    options = dict(pair.split("=", 1) for pair in pairs)
    recipe = recipe_class(name).make(**options)  # type: ignore[arg-type]

    def show(p: Progress) -> None:
        left = (p.steps - p.step) * getattr(recipe, "batch_size", 1) / max(p.samples_per_s, 1e-9) / 60
        logging.info(
            "%d/%d loss %.4f, %.0f samples/s (%.1fx from limit), %.0f min left",
            p.step,
            p.steps,
            p.loss,
            p.samples_per_s,
            p.from_limit,
            left,
        )

    logging.info("%s", fit(recipe, progress=show).to_dict())


if __name__ == "__main__":
    main(sys.argv[1:])
