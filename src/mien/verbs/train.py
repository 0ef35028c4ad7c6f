"""``train``: a network from a recipe, on one's own machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien.verbs._pipeline import Progress

if TYPE_CHECKING:
    from mien.train.loop import Result


def train(recipe: str, *, preset: str | None = None, progress: Progress | None = None, **options: object) -> Result:
    """Trains a network by a recipe, from its last checkpoint if the folder `out` holds one.

    Parameters
    ----------
    recipe
        Its name: "detector", "landmarks", "embedder", "triplet", "margin" …; an unknown one is answered with all.
    preset
        Set of numbers that comes with the recipe, such as "full" or "small".
    progress
        Called as ``progress(done, total, what)`` after every step.
    **options
        Numbers of the recipe, such as data=DIR out=DIR steps=1000. The resolved recipe is saved as
        OUT/config.json.

    Returns
    -------
    Result
        The written weights and the figures of the held-out part.

    Raises
    ------
    OptionError
        Unknown recipe, preset or option, or a value of the wrong type.
    TrainingError
        The run cannot start or go on.
    """
    from mien.train.loop import Progress as Step
    from mien.train.loop import fit
    from mien.train.recipes import recipe_class

    made = recipe_class(recipe).make(preset=preset, **options)

    def told(step: Step) -> None:
        if progress is not None:
            what = f"loss {step.loss:.4f}, {step.samples_per_s:.0f} samples/s, {step.from_limit:.1f}x from the limit"
            progress(step.step, step.steps, what)

    return fit(made, progress=told)
