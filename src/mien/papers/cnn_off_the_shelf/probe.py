"""A probe: features of a frozen network, and the small linear machine on top of them, in one file.

    found = layer_curve(backbone, pictures, labels, test=rows)       which layer carries what
    probe = train_probe(backbone, pictures, labels, views=paper_views(), power=2)
    probe.save("glasses.safetensors"); load_probe("glasses.safetensors")

The file holds the machine's numbers, and as text what the features were of: the network's name, a fingerprint of its
numbers, layer, pooling, representations and power. There is no code in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import CheckpointError, HashMismatch, OptionError, ShapeError
from mien.geometry.checks import bools
from mien.papers.cnn_off_the_shelf.backbone import POOLS, Array, Backbone, described, layers, resolved
from mien.papers.cnn_off_the_shelf.svm import (
    CS,
    FOLDS,
    Fit,
    Floats,
    LinearClassifier,
    Rule,
    Solver,
    average_precision,
    fit_attributes,
    fit_classes,
    mean_class_accuracy,
    transformed,
)
from mien.papers.cnn_off_the_shelf.views import ORIGINAL, View

NOTE, FORMAT = "mien.probe", 1
Told = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How pictures become features.

    Parameters
    ----------
    network
        Name of the backbone.
    fingerprint
        SHA-256 of its tensors.
    size
        Side of its input, pixels.
    layer
        Exact name of the layer.
    pool, rectify
        See `mien.papers.cnn_off_the_shelf.backbone.features`.
    views
        The representations.
    power
        Of the signed power; 1 for none.
    crop
        What a picture is: the whole photo, the aligned face in it, or a box of a table.
    margin
        How many times as long as the box's its sides are, for "box".
    """

    network: str
    fingerprint: str
    size: int
    layer: str
    pool: str = "mean"
    rectify: bool = False
    views: tuple[View, ...] = (ORIGINAL,)
    power: float = 1.0
    crop: str = "photo"
    margin: float = 1.0

    def features(self, source: Backbone, pictures: Array, *, batch: int = 64, progress: Told | None = None) -> Floats:
        """(n, views, d), of unit length and raised to the power, of pictures (n, H, W, 3) uint8.

        Raises
        ------
        HashMismatch
            `source` is not the network that the recipe speaks of.
        """
        if source.fingerprint() != self.fingerprint or source.size != self.size:
            raise HashMismatch(
                f"the network is not the one that the probe was trained on: {self.network}",
                got=f"{source.name}, {source.fingerprint()[:12]}, {source.size} px",
                expected=f"{self.fingerprint[:12]}, {self.size} px", hint="give the same weights as then",
            )  # fmt: skip
        found = described(
            source, pictures, [self.layer], views=self.views, pool=self.pool, rectify=self.rectify, batch=batch,
            progress=progress,
        )  # fmt: skip
        return transformed(found[self.layer], power=self.power)


def recipe_of(
    source: Backbone,
    *,
    layer: str | None = None,
    pool: str = "mean",
    rectify: bool | None = None,
    views: Sequence[View] = (ORIGINAL,),
    power: float = 1.0,
    crop: str = "photo",
    margin: float = 1.0,
) -> Recipe:
    """A recipe for `source`: its default layer, rectified where the paper does so, unless something else is asked."""
    name = resolved(source, layer)
    if pool not in POOLS:
        raise OptionError.unknown("unknown pooling", pool, POOLS)
    hidden = layer in ("fc1", "fc2") or (layer is None and source.rectify)
    return Recipe(
        network=source.name, fingerprint=source.fingerprint(), size=source.size, layer=name, pool=pool,
        rectify=hidden if rectify is None else rectify, views=tuple(views), power=float(power), crop=crop,
        margin=margin,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Probe:
    """A recipe for features, the machine on them, and its C."""

    recipe: Recipe
    classifier: LinearClassifier
    c: float

    def scores(self, source: Backbone, pictures: Array, *, batch: int = 64, progress: Told | None = None) -> Floats:
        """(n, names): responses, or votes one against one, summed over the representations."""
        return self.classifier.scores(self.recipe.features(source, pictures, batch=batch, progress=progress))

    def save(self, file: str | Path) -> None:
        """Writes the probe as safetensors: two tensors, and the rest as text."""
        from safetensors.numpy import save

        path = Path(file)
        if path.suffix != ".safetensors":
            raise OptionError(
                "probes are written as safetensors", got=path.name, expected="a name ending in .safetensors"
            )
        recipe = {**asdict(self.recipe), "views": [list(view) for view in self.recipe.views]}
        note = {
            "format": FORMAT, "recipe": recipe, "names": list(self.classifier.names), "rule": self.classifier.rule,
            "c": self.c,
        }  # fmt: skip
        tensors = {"weights": self.classifier.weights, "bias": self.classifier.bias}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(save(tensors, metadata={NOTE: json.dumps(note, sort_keys=True)}))
        part.replace(path)


def load_probe(file: str | Path) -> Probe:
    """The probe of a file that `Probe.save` wrote.

    Raises
    ------
    CheckpointError
        There is no such file, or it is none of a probe, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file).expanduser()
    try:
        with safe_open(path, framework="numpy") as tensors:
            note = json.loads((tensors.metadata() or {})[NOTE])
            weights, bias = tensors.get_tensor("weights"), tensors.get_tensor("bias")
        if note["format"] != FORMAT:
            raise CheckpointError("the probe is of another version of mien", got=note["format"], expected=FORMAT)
        plain: dict[str, Any] = note["recipe"]
        views = tuple(
            View(float(x), float(y), float(side), float(angle), bool(mirror))
            for x, y, side, angle, mirror in plain["views"]
        )
        recipe = Recipe(**{**plain, "views": views})
        rule: Rule = note["rule"]
        return Probe(recipe, LinearClassifier(weights, bias, tuple(note["names"]), rule), float(note["c"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} holds no probe", got=error, expected="a file that `mien probe fit` wrote"
        ) from error


def fitted(
    x: ArrayLike,
    labels: NDArray[Any],
    *,
    names: Sequence[str] | None = None,
    known: NDArray[np.bool_] | None = None,
    groups: ArrayLike | None = None,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
    solver: Solver | None = None,
    seed: int = 0,
) -> Fit:
    """One against all for labels (n, a) bool, one against one for labels (n,) of numbers."""
    if labels.ndim == 2:
        return fit_attributes(
            x, labels, names=names, known=known, groups=groups, cs=cs, folds=folds, solver=solver, seed=seed
        )
    return fit_classes(x, labels, names=names, groups=groups, cs=cs, folds=folds, solver=solver, seed=seed)


def train_probe(
    source: Backbone,
    pictures: Array,
    labels: NDArray[Any],
    recipe: Recipe,
    *,
    names: Sequence[str] | None = None,
    known: NDArray[np.bool_] | None = None,
    groups: ArrayLike | None = None,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
    batch: int = 64,
    seed: int = 0,
    progress: Told | None = None,
) -> Probe:
    """Features of pictures (n, H, W, 3), and a machine on them: labels (n, a) bool, or (n,) classes."""
    x = recipe.features(source, pictures, batch=batch, progress=progress)
    fit = fitted(x, labels, names=names, known=known, groups=groups, cs=cs, folds=folds, seed=seed)
    return Probe(recipe, fit.classifier, fit.c)


def figures(
    classifier: LinearClassifier, x: ArrayLike, labels: NDArray[Any], known: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """By name: average precision of an attribute (NaN where the test pictures have none), or the share that is right of
    a class."""
    if classifier.rule == "one-against-all":
        scores, truth = classifier.scores(x), bools("labels", labels, "n a")
        there = np.ones_like(truth) if known is None else known
        return {
            name: average_precision(scores[there[:, column], column], truth[there[:, column], column])
            for column, name in enumerate(classifier.names)
        }
    guess = classifier.predict(x)
    return {
        name: float(np.mean(guess[labels == code] == code)) if (labels == code).any() else float("nan")
        for code, name in enumerate(classifier.names)
    }


def mean_figure(
    classifier: LinearClassifier, x: ArrayLike, labels: NDArray[Any], known: NDArray[np.bool_] | None = None
) -> float:
    """Mean average precision, or mean class accuracy."""
    if classifier.rule == "one-against-one":
        return mean_class_accuracy(classifier.predict(x), labels)
    return float(np.nanmean(list(figures(classifier, x, labels, known).values())))


# ------------------------------------------------------------------------------------------- which layer carries what


class LayerPoint(NamedTuple):
    """A point of the curve: layer, kind of module, numbers of its feature, figure by label, their mean, and C."""

    layer: str
    kind: str
    dim: int
    figures: dict[str, float]
    mean: float
    c: float


def layer_curve(
    source: Backbone,
    pictures: Array,
    labels: NDArray[Any],
    *,
    test: ArrayLike,
    names: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    pool: str = "mean",
    groups: ArrayLike | None = None,
    cs: Sequence[float] = CS,
    folds: int = FOLDS,
    batch: int = 64,
    seed: int = 0,
    progress: Told | None = None,
) -> list[LayerPoint]:
    """Probes layer after layer: how well a linear machine reads each label off it (the paper's figure 2).

    All layers are caught in one pass over the pictures.

    Parameters
    ----------
    source
        The network.
    pictures : (n, H, W, 3)
        uint8 RGB.
    labels : (n, a) or (n,)
        Boolean attributes, or numbers of classes.
    test : (n,)
        True for the pictures that are judged; the machines are trained on the others.
    names
        Of the labels.
    only
        Layers to probe. Default: all that hold more than one number and are no containers of a single other layer.
    pool
        What becomes of maps; the mean over places leaves as many numbers as channels.
    groups : (n,)
        People, say: no fold and no split should have them on both sides (the split is the caller's).
    cs, folds, batch, seed
        As in `train_probe`.
    progress
        Called as ``progress(done, total)`` in pictures.
    """
    held = bools("test", test, "n")
    if not len(pictures) == len(labels) == len(held):
        raise ShapeError("pictures, labels and split differ in rows", got=(len(pictures), len(labels), len(held)))
    if held.all() or not held.any():
        raise OptionError(
            "a curve needs pictures to train on and others to judge", got=f"{int(held.sum())} of {len(held)}"
        )
    known = layers(source)
    wanted = [one.name for one in known] if only is None else [resolved(source, name) for name in only]
    found = described(source, pictures, wanted, pool=pool, batch=batch, progress=progress)
    kinds = {one.name: one.kind for one in known}
    points, seen = [], list[Floats]()
    for name in wanted:
        x = transformed(found[name][:, 0])
        if only is None and (x.shape[1] < 2 or any(len(x[0]) == len(y[0]) and np.array_equal(x, y) for y in seen[-3:])):
            continue  # an identity, dropout, or the container that ends with the layer before
        seen.append(x)
        part = None if groups is None else np.asarray(groups)[~held]
        fit = fitted(x[~held], labels[~held], names=names, groups=part, cs=cs, folds=folds, seed=seed)
        values = figures(fit.classifier, x[held], labels[held])
        mean = mean_figure(fit.classifier, x[held], labels[held])
        points.append(LayerPoint(name, kinds.get(name, "input"), x.shape[1], values, mean, fit.c))
    return points
