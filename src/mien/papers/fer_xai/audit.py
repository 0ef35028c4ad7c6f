"""The audit of a model: which pictures, their local maps, and from them one global map for each expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import OptionError, ShapeError
from mien.nn.expression import EKMAN, expression
from mien.papers.fer_xai.canvas import HEIGHT, WIDTH, stretched, to_canvas
from mien.papers.fer_xai.lime import Floats, Lime, Pictures, Predict, explain

Told = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExpressionModel:
    """Any classifier of expressions, as the audit sees it.

    Parameters
    ----------
    name
        How the report calls it.
    predict
        Pictures (B, size, size, 3) uint8 RGB -> probabilities (B, classes).
    classes
        Names of the columns.
    size
        Side of its crops, px.
    template, margin, up
        How a face is cut, as of `mien.weights.InputContract`.
    """

    name: str
    predict: Predict = field(repr=False)
    classes: tuple[str, ...] = EKMAN
    size: int = 112
    template: str = "arcface112"
    margin: float = 1.0
    up: float = 0.0

    def __post_init__(self) -> None:
        known = tuple(map(expression, self.classes))
        object.__setattr__(self, "classes", known)
        if len(set(known)) != len(known) or not known:
            raise OptionError("every class of a model has a name of its own", got=known)
        if self.size < 8:
            raise OptionError("crops are larger than that", got=self.size, expected="pixels, at least 8")


def probabilities(model: ExpressionModel, pictures: Pictures, *, batch: int = 100) -> Floats:
    """(n, classes) what a model says of pictures (n, size, size, 3).

    Raises
    ------
    ShapeError
        The model gives something else than a row of its classes for each picture.
    """
    parts = [np.zeros((0, len(model.classes)), np.float32)]
    for start in range(0, len(pictures), batch):
        some = pictures[start : start + batch]
        found = np.asarray(model.predict(some), np.float32)
        if found.shape != (len(some), len(model.classes)):
            raise ShapeError(
                f"the model {model.name} answers in another shape", got=found.shape,
                expected=(len(some), len(model.classes)), hint="one row a picture, one column a class",
            )  # fmt: skip
        parts.append(found)
    return np.concatenate(parts)


@dataclass(frozen=True)
class GlobalMap:
    """Where a model looks for one expression.

    Parameters
    ----------
    total
        (275, 224) sum of the warped local maps.
    count
        Of how many pictures.
    face
        (275, 224, 3) float64 sum of the warped pictures.
    """

    total: NDArray[np.float64]
    count: int
    face: NDArray[np.float64]

    @property
    def heat(self) -> Floats:
        """(275, 224) the mean, stretched to 0 … 1."""
        return stretched(self.total / max(1, self.count))

    @property
    def mean_face(self) -> Pictures:
        """(275, 224, 3) the mean of the pictures behind it."""
        return np.rint(self.face / max(1, self.count)).astype(np.uint8)

    def __add__(self, other: GlobalMap) -> GlobalMap:
        return GlobalMap(self.total + other.total, self.count + other.count, self.face + other.face)

    @classmethod
    def nothing(cls) -> GlobalMap:
        """Of no picture."""
        return cls(np.zeros((HEIGHT, WIDTH)), 0, np.zeros((HEIGHT, WIDTH, 3)))


def chosen(predicted: NDArray[np.integer], target: int, most: int, *, seed: int) -> NDArray[np.int64]:
    """Rows that are *predicted* as the class, errors included: `most` of them at random, or all if there are fewer."""
    rows = np.flatnonzero(predicted == target)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, target]).choice(rows, most, replace=False))
    return rows.astype(np.int64)


def global_maps(
    model: ExpressionModel,
    pictures: Pictures,
    points: ArrayLike,
    *,
    expressions: Sequence[str] = EKMAN,
    most: int = 100,
    lime: Lime | None = None,
    seed: int = 0,
    aligned: bool = True,
    predicted: NDArray[np.integer] | None = None,
    told: Told | None = None,
) -> dict[str, GlobalMap]:
    """The global map of each expression that the model knows.

    Parameters
    ----------
    model
        The model.
    pictures
        (n, size, size, 3) crops, none of which it was trained on.
    points
        (n, 68, 2) landmarks in them, px.
    expressions
        Those to explain.
    most
        Pictures of each.
    lime, seed
        Of the local maps.
    aligned
        Warp every map by its own landmarks. False: all by the mean ones, which is what a mean of maps is without the
        paper's normalisation.
    predicted
        (n,) the model's classes, where they are known already.
    told
        Called as ``told(done, total)`` after every picture.
    """
    given = np.asarray(points, np.float32)
    if predicted is None:
        predicted = probabilities(model, pictures).argmax(1)
    if not aligned and len(given):
        given = np.broadcast_to(given.mean(0), given.shape)
    rows = {
        name: chosen(predicted, model.classes.index(name), most, seed=seed)
        for name in expressions
        if name in model.classes
    }
    total, done = sum(map(len, rows.values())), 0
    found: dict[str, GlobalMap] = {}
    for name, own in rows.items():
        target = np.full(len(own), model.classes.index(name))
        start = done

        def heard(count: int, _: int, start: int = start) -> None:
            if told is not None:
                told(start + count, total)

        maps = explain(model.predict, pictures[own], target, lime=lime, seed=seed, told=heard)
        made = GlobalMap.nothing()
        for first in range(0, len(own), 16):
            part = slice(first, first + 16)
            warped = to_canvas(maps[part], given[own[part]]).sum(0, dtype=np.float64)
            face = to_canvas(pictures[own[part]], given[own[part]]).sum(0, dtype=np.float64)
            made = made + GlobalMap(warped, len(own[part]), face)
        found[name] = made
        done += len(own)
    return found


def of_network(network: Any, *, name: str, prepared: Any, device: str = "cpu", **more: Any) -> ExpressionModel:
    """A torch network of logits (B, classes) as a model.

    Parameters
    ----------
    network
        (B, 3, size, size) -> logits; put into eval mode.
    name
        How the report calls it.
    prepared
        `mien.nn.expression.Prepared`, or a `mien.weights.InputContract` of a size.
    device
        Where it runs.
    **more
        Further fields of `ExpressionModel`.
    """
    import torch

    from mien.weights import InputContract

    contract = InputContract(size=prepared.size, mean=prepared.mean, std=prepared.std, colour=prepared.colour)
    network = network.to(device).eval()

    def predict(pictures: Pictures) -> Floats:
        with torch.inference_mode():
            answers = network(contract.tensor(pictures, device=device)).float().softmax(1)
        return np.asarray(answers.cpu().numpy(), np.float32)

    return replace(ExpressionModel(name=name, predict=predict, size=prepared.size), **more)
