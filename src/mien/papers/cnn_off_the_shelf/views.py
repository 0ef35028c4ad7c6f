"""Representations of a picture: crops, turns and mirror images, made for a whole batch on tensors.

The paper's sixteen are the picture, its four corners and its middle with 2/3 of each side (4/9 of the area), two turns,
and the mirror images of these eight. For aligned faces, whose parts must stay in sight, there is a gentler set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.errors import OptionError, ShapeError

ANGLE = 10.0
"""Degrees of the two turns; the paper does not tell."""

SHRINK = 2 / 3
"""Sides of the paper's crops."""


class View(NamedTuple):
    """Part of a picture.

    Parameters
    ----------
    x, y, side
        Left and upper edge, and both sides, as shares of the picture; a part that reaches beyond it sees the edge
        repeated.
    angle
        The picture is turned by so many degrees, clockwise, about its middle before it is cut.
    mirror
        Left and right are exchanged at the end.
    """

    x: float = 0.0
    y: float = 0.0
    side: float = 1.0
    angle: float = 0.0
    mirror: bool = False


ORIGINAL = View()


def with_mirrors(views: Sequence[View]) -> tuple[View, ...]:
    """`views`, and then the mirror image of each."""
    return (*views, *(view._replace(mirror=not view.mirror) for view in views))


def paper_views(angle: float = ANGLE) -> tuple[View, ...]:
    """The paper's sixteen: picture, four corners, middle, turned to the left and to the right, and their mirrors."""
    rest = 1 - SHRINK
    corners = [View(x, y, SHRINK) for y in (0.0, rest) for x in (0.0, rest)]
    turned = [View(angle=-angle), View(angle=angle)]
    return with_mirrors([ORIGINAL, *corners, View(rest / 2, rest / 2, SHRINK), *turned])


def gentle_views(angle: float = ANGLE, scale: float = 0.12, *, mirror: bool = True) -> tuple[View, ...]:
    """Ten (five without mirrors): the picture, turned both ways, and 12 % nearer and farther."""
    sides = [View((1 - side) / 2, (1 - side) / 2, side) for side in (1 - scale, 1 + scale)]
    plain = (ORIGINAL, View(angle=-angle), View(angle=angle), *sides)
    return with_mirrors(plain) if mirror else plain


JITTERS = ("none", "paper", "gentle")


def views_of(jitter: str, angle: float = ANGLE) -> tuple[View, ...]:
    """The views of a name in `JITTERS`."""
    if jitter not in JITTERS:
        raise OptionError.unknown("unknown jitter", jitter, JITTERS)
    return {"none": (ORIGINAL,), "paper": paper_views(angle), "gentle": gentle_views(angle)}[jitter]


def patches(levels: int) -> tuple[View, ...]:
    """Sub-patches of the spatial search: at level i of 1 … `levels`, i x i of one size that cover the picture.

    They overlap by half: sides are 2 / (i + 1) of the picture's, with steps of 1 / (i + 1). Three levels are 14
    patches, four are 30.
    """
    if levels < 1:
        raise OptionError("a spatial search has at least one level", got=levels)
    return tuple(
        View(column / (level + 1), row / (level + 1), 2 / (level + 1))
        for level in range(1, levels + 1)
        for row in range(level)
        for column in range(level)
    )


def represent(images: Tensor, views: Sequence[View], size: int) -> Tensor:
    """Representations (views, B, 3, size, size) of pictures (B, 3, H, W), float; parts are squashed to squares.

    Turned ones see the picture's edge repeated in the corners. Scaling down averages (anti-aliasing).
    """
    if images.ndim != 4:
        raise ShapeError("pictures are a batch", got=tuple(images.shape), expected="(B, 3, H, W)")
    height, width = images.shape[2:]
    turned: dict[float, Tensor] = {}
    plain: dict[View, Tensor] = {}
    for view in views:
        base = view._replace(mirror=False)
        if base in plain:
            continue
        if view.angle not in turned:
            turned[view.angle] = images if view.angle == 0 else _rotated(images, view.angle)
        part = _part(turned[view.angle], view, height, width)
        if part.shape[2:] != (size, size):
            part = F.interpolate(part, (size, size), mode="bilinear", align_corners=False, antialias=True)
        plain[base] = part
    return torch.stack([plain[v._replace(mirror=False)].flip(3) if v.mirror else plain[v] for v in views])


def _part(images: Tensor, view: View, height: int, width: int) -> Tensor:
    left, top = round(view.x * width), round(view.y * height)
    right, bottom = round((view.x + view.side) * width), round((view.y + view.side) * height)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    outside = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
    if any(outside):
        images = F.pad(images, outside, mode="replicate")
        left, right = left + outside[0], right + outside[0]
        top, bottom = top + outside[2], bottom + outside[2]
    return images[:, :, top:bottom, left:right]


def _rotated(images: Tensor, angle: float) -> Tensor:
    grid = _grid(angle, *images.shape[2:]).to(images)
    return F.grid_sample(
        images, grid.expand(len(images), -1, -1, -1), mode="bilinear", padding_mode="border", align_corners=False
    )


@lru_cache(maxsize=16)
def _grid(angle: float, height: int, width: int) -> Tensor:
    # The grid looks back from the turned picture to the given one, in half sides: the ratio keeps right angles right.
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    ratio = height / width
    with torch.inference_mode(False):  # it is kept, and may be needed for a gradient later
        matrix = torch.tensor([[[cos, sin * ratio, 0.0], [-sin / ratio, cos, 0.0]]])
        return F.affine_grid(matrix, [1, 1, height, width], align_corners=False)
