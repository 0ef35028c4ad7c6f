"""Which face of a picture is meant, where one face is compared: one rule, named by the caller, for all
verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mien.geometry.boxes import area
from mien.geometry.checks import choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.faces import Faces

RULES = ("largest", "central", "surest")
"""The face with the largest box; the one nearest to the middle of the picture; the one with the best
score."""


def choose(faces: Faces, rule: str) -> int | None:
    """Row of the face that `rule` takes among `faces` of one picture; None if there is none."""
    choice("choose", rule, RULES)
    if not len(faces):
        return None
    if rule == "largest":
        return int(np.argmax(area(faces.boxes)))
    if rule == "surest":
        return int(np.argmax(faces.scores))
    info = faces.images[faces.image[0]]
    middle = np.array([info.width / 2, info.height / 2], np.float32)
    return int(np.argmin(np.linalg.norm((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - middle, axis=1)))


def one_of_each(faces: Faces, rule: str) -> NDArray[np.int64]:
    """For every picture the row of its chosen face, -1 where there is none: (number of pictures,)."""
    rows = np.full(len(faces.images), -1, np.int64)
    order = np.argsort(faces.image, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(faces.image[order])) + 1):
        if len(group):
            chosen = choose(faces[group], rule)
            assert chosen is not None
            rows[faces.image[group[0]]] = group[chosen]
    return rows
