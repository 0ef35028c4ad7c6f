"""Figures of emotion classes and of valence and arousal, as the sets' papers report them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError
from mien.geometry.checks import Double, doubles, same_length
from mien.metrics.classification import ccc, class_recalls, confusion

__all__ = ["abaw_score", "affect_figures", "class_f1", "expression_figures"]

ABAW = (0.67, 0.33)
"""Weights of macro F1 and accuracy in the first two competitions on Aff-Wild2."""


def class_f1(found: ArrayLike, truth: ArrayLike, *, classes: int) -> Double:
    """(classes,) F1 of each class, ``2 right / (said + true)``; NaN for a class that neither has."""
    counts = confusion(found, truth, classes=classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * np.diag(counts) / (counts.sum(0) + counts.sum(1)), np.float64)


def abaw_score(macro_f1: float, accuracy: float) -> float:
    """``0.67 macro F1 + 0.33 accuracy``, by which Aff-Wild2's competitions rank expressions."""
    return ABAW[0] * macro_f1 + ABAW[1] * accuracy


def expression_figures(found: ArrayLike, truth: ArrayLike, *, classes: int) -> dict[str, float]:
    """Figures of classes (n,) against the true ones (n,).

    Returns
    -------
    dict
        ``accuracy``; ``balanced_accuracy``, the mean recall of the classes that occur; ``macro_f1``, the mean F1 of
        those; ``weighted_f1``, the same weighted by how often each occurs; ``abaw``, see `abaw_score`.

    Raises
    ------
    ShapeError
        There is nothing to count, or the two differ in length.
    """
    true = np.asarray(truth)
    if not len(true):
        raise ShapeError("there is nothing to count", got=true.shape, expected="one picture or more")
    accuracy = float((np.asarray(found) == true).mean()) if np.shape(found) == true.shape else 0.0
    recalls = class_recalls(found, truth, classes=classes)
    share = np.bincount(true, minlength=classes) / len(true)
    f1 = np.nan_to_num(class_f1(found, truth, classes=classes))
    macro = float(f1[share > 0].mean())
    return {
        "accuracy": accuracy, "balanced_accuracy": float(np.nanmean(recalls)), "macro_f1": macro,
        "weighted_f1": float((f1 * share).sum()), "abaw": abaw_score(macro, accuracy),
    }  # fmt: skip


def affect_figures(found: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Figures of valence and arousal (n, 2) against the true ones.

    Returns
    -------
    dict
        ``ccc_valence``, ``ccc_arousal`` and their mean ``ccc`` (concordance, Lin, 1989), ``rmse_…``, and ``sagr_…``,
        the share of pictures whose sign is right.

    Raises
    ------
    ShapeError
        The two do not fit.
    """
    f, t = doubles("found", found, "n 2"), doubles("truth", truth, "n 2")
    same_length(found=f, truth=t)
    figures: dict[str, float] = {}
    for column, name in enumerate(("valence", "arousal")):
        a, b = f[:, column], t[:, column]
        figures[f"ccc_{name}"] = ccc(a, b)
        figures[f"rmse_{name}"] = float(np.sqrt(((a - b) ** 2).mean()))
        figures[f"sagr_{name}"] = float((np.sign(a) == np.sign(b)).mean())
    figures["ccc"] = (figures["ccc_valence"] + figures["ccc_arousal"]) / 2
    return figures
