"""The network as the verbs call it: reader, parser, or landmarks; and the authors' own crop and answers.

Each of the three is the whole network, since all tokens take part in each answer, and computes the heads that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture
from mien.errors import OptionError, ShapeError
from mien.faces import AGES, APPEARANCE, EXPRESSIONS
from mien.faces import PARSING as PARTS
from mien.nn.facex import PARSING, FaceXFormer, pixels
from mien.train.recipes.reader import CELEBA
from mien.train.tasks import AGE_CENTRES, ATTRIBUTES, CLASSES, EXPRESSION, EXPRESSIONS7, degrees_of

Floats = NDArray[np.float32]

NEVER = -1e4
"""Logit of a class that the network lacks: no softmax and no largest value ever takes it."""

IDS: Mapping[str, int] = {
    "parsing": 0, "landmarks": 1, "pose": 2, "attributes": 3, "age": 4, "gender": 4, "race": 4, "visibility": 5,
}  # fmt: skip
"""The released numbers of tasks by which rows are picked."""
ORDER = ("landmarks", "pose", "attributes", "visibility", "age", "gender", "race", "parsing")
"""In which the released network gives its answers."""


READ: Mapping[str, int] = {
    "attributes": len(ATTRIBUTES), "age": len(AGE_CENTRES), EXPRESSION: len(EXPRESSIONS7), "pose": 3,
}  # fmt: skip
"""What a reader tells, and how many numbers each has; no two choices of them have as many together."""


class Reading(nn.Module):
    """Crops (B, 3, S, S) -> (B, k) raw: those of `READ` that the network has (the released one: no expressions)."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.network = FaceXFormer(**arguments)
        self.wanted = tuple(name for name in READ if name in self.network.outputs)
        if not self.wanted:
            raise OptionError("the network cannot be read", got=self.network.tasks, expected=list(READ))

    def forward(self, crops: Tensor) -> Tensor:
        found = self.network(crops, self.wanted)
        return torch.cat([found[name] for name in self.wanted], 1)


class Points(nn.Module):
    """Crops (B, 3, S, S) -> (B, 68, 2) points in pixels of the crop, iBUG's order."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.network = FaceXFormer(**arguments)
        if "landmarks" not in self.network.tasks:
            raise OptionError("the network has no landmarks", got=self.network.tasks)

    def forward(self, crops: Tensor) -> Tensor:
        return pixels(self.network(crops, ("landmarks",))["landmarks"], self.network.size)


class Parts(nn.Module):
    """Crops (B, 3, S, S) -> logits (B, 19, S, S) over `mien.faces.PARSING`.

    Parameters
    ----------
    classes
        The network's classes in their order, by the names of `CLASSES`.
    **arguments
        Of `FaceXFormer`.
    """

    def __init__(self, *, classes: Sequence[str] = CLASSES, **arguments: Any) -> None:
        super().__init__()
        self.network = FaceXFormer(**arguments)
        if self.network.masks is None:
            raise OptionError("the network does not parse", got=self.network.tasks)
        if sorted(classes) != sorted(CLASSES):
            raise OptionError("these are not the classes of the network", got=list(classes), expected=sorted(CLASSES))
        # Row of the network's logits for each of ours; one that is never found stands behind them all.
        self.rows = [classes.index(name) if name in classes else len(classes) for name in PARTS]

    def forward(self, crops: Tensor) -> Tensor:
        logits = self.network(crops, (PARSING,))[PARSING]
        never = torch.full_like(logits[:, :1], NEVER)
        return torch.cat([logits, never], 1)[:, self.rows]


def decode(raw: Floats, temperatures: Mapping[str, float]) -> dict[str, Floats]:
    """What the numbers of `Reading` (n, k) say, as columns of `mien.faces.Faces`.

    Age is the mean of the eight decades' middles. `age_groups` has six groups from 20 years on: what is missing to 1 is
    the probability of being younger. Contempt, which the seven expressions lack, gets 0. Pose is in degrees. Gender and
    race have no part.

    Raises
    ------
    ShapeError
        There are other numbers than `Reading` gives.
    """
    choices = {
        sum(READ[name] for name in some): some for n in range(1, len(READ) + 1) for some in combinations(READ, n)
    }
    if raw.ndim != 2 or raw.shape[1] not in choices:
        raise ShapeError("these are not the numbers of the reader", got=raw.shape, expected=f"(n, k), k of {choices}")
    found: dict[str, Floats] = {}
    start = 0
    for name in choices[raw.shape[1]]:
        part = raw[:, start : start + READ[name]]
        start += READ[name]
        if name == "attributes":
            look = _sigmoid(part / np.float32(temperatures.get("appearance", 1.0)))
            columns = [look[:, ATTRIBUTES.index(CELEBA[one])] for one in APPEARANCE]
            beard = APPEARANCE.index("beard")
            columns[beard] = 1 - columns[beard]  # CelebA has the opposite
            found["appearance"] = np.stack(columns, 1)
        elif name == "age":
            decades = _softmax(part / np.float32(temperatures.get("age", 1.0)))
            found["age"] = decades @ np.array(AGE_CENTRES, np.float32)
            found["age_groups"] = decades[:, -len(AGES) :]
        elif name == "pose":
            found["pose"] = degrees_of(part)
        else:
            expressions = np.zeros((len(raw), len(EXPRESSIONS)), np.float32)
            seven = _softmax(part / np.float32(temperatures.get("expression", 1.0)))
            expressions[:, [EXPRESSIONS.index(one) for one in EXPRESSIONS7]] = seven
            found["expressions"] = expressions
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


def _softmax(x: Floats) -> Floats:
    power = np.exp(x - x.max(1, keepdims=True, initial=-np.inf))
    return np.asarray(power / power.sum(1, keepdims=True), np.float32)


def pick(answers: Mapping[str, Tensor], tasks: Tensor) -> tuple[Tensor, ...]:
    """The released `forward`: of each answer the rows whose task it is, in the order of `ORDER`; (0, …) where none is.

    Parameters
    ----------
    answers
        Of `FaceXFormer`, B rows each.
    tasks
        (B,) integers of `IDS`.
    """
    return tuple(answers[name][tasks == IDS[name]] for name in ORDER)


def official_crop(image: Picture, box: Sequence[float], *, size: int = 224) -> Picture:
    """The authors' crop (size, size, 3): the box grown by a quarter to each side, clipped, and squeezed to a square.

    Parameters
    ----------
    image
        (H, W, 3) uint8 RGB.
    box
        x0, y0, x1, y1 in pixels.

    Raises
    ------
    OptionError
        Nothing of the box lies in the picture.
    """
    from PIL import Image

    x0, y0, x1, y1 = (float(value) for value in box)
    height, width = image.shape[:2]
    wide, high = 0.25 * (x1 - x0), 0.25 * (y1 - y0)
    left, top = max(0, int(x0 - wide)), max(0, int(y0 - high))
    right, bottom = min(width, int(x1 + wide)), min(height, int(y1 + high))
    if right <= left or bottom <= top:
        raise OptionError("the box lies outside of the picture", got=tuple(box), expected=f"{width} x {height} px")
    cut = Image.fromarray(image[top:bottom, left:right])
    return as_picture(np.array(cut.resize((size, size), Image.Resampling.BICUBIC)))
