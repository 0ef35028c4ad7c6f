"""A batched rasteriser in plain PyTorch: triangles in, the nearest one of each pixel out. The same on CPU and GPU.

The triangles of the whole batch are cut into rows of pixels, the rows into pixels, each as one flat list; pixels
compete by a packed key (depth, number of the triangle) in one `scatter_reduce`. Ties go to the lower number, so the
result does not depend on the order of work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["NOTHING", "Drawn", "interpolate", "rasterise", "weights_at"]

NOTHING = -1
"""Triangle number of pixels without one."""

_EMPTY = (0x7F800000 << 32) | 0xFFFFFFFF
"""Key of pixels without a triangle: infinitely far, and the number -1."""


_FAR = 1e8
"""Pixels: beyond any picture."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What `rasterise` found.

    `triangle` (n, H, W) int32, -1 where there is none; `depth` (n, H, W) float32 in the unit of z, inf where there is
    none.
    """

    triangle: torch.Tensor
    depth: torch.Tensor


def rasterise(
    points: torch.Tensor,
    triangles: torch.Tensor,
    height: int,
    width: int,
    *,
    shown: torch.Tensor | None = None,
    two_sided: torch.Tensor | None = None,
) -> Drawn:
    """The nearest triangle at every pixel centre.

    Parameters
    ----------
    points : (3, n, V)
        x and y in pixels (the centre of the first pixel is 0, 0) and the positive depth.
    triangles : (T, 3)
        Vertices of each triangle, shared by the batch. Fronts are those whose cross product, x right and y down,
        points towards the camera.
    height, width
        Size in pixels.
    shown : (n, T) bool
        Triangles that take part, by row. Default: all.
    two_sided : (T,) or (n, T) bool
        Triangles whose back is drawn too. Default: none.
    """
    n, count, device = points.shape[1], points.shape[2], points.device
    # Pixels are numbered in single precision, which is exact to 2^24.
    most = max(1, (1 << 24) // (height * width))
    if n > most:
        parts = [
            rasterise(
                points[:, k : k + most],
                triangles,
                height,
                width,
                shown=None if shown is None else shown[k : k + most],
                two_sided=two_sided if two_sided is None or two_sided.ndim == 1 else two_sided[k : k + most],
            )
            for k in range(0, n, most)
        ]
        return Drawn(torch.cat([part.triangle for part in parts]), torch.cat([part.depth for part in parts]))
    corner = [triangles[:, k].contiguous() for k in range(3)]
    x0, x1, x2 = (points[0].index_select(1, k) for k in corner)
    y0, y1, y2 = (points[1].index_select(1, k) for k in corner)
    # Twice the signed area; negative for fronts, as y runs down and the normal towards the camera.
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    front = area < -1e-7
    if two_sided is not None:
        front |= two_sided & (area > 1e-7)
    if shown is not None:
        front &= shown
    low = torch.minimum(torch.minimum(y0, y1), y2).ceil_().clamp_(0)
    high = torch.maximum(torch.maximum(y0, y1), y2).floor_().clamp_(max=height - 1)
    left = torch.minimum(torch.minimum(x0, x1), x2).ceil_().clamp_(0)
    right = torch.maximum(torch.maximum(x0, x1), x2).floor_().clamp_(max=width - 1)
    front &= (high >= low) & (right >= left)
    chosen = front.flatten().nonzero()[:, 0]
    key = torch.full((n * height * width,), _EMPTY, dtype=torch.int64, device=device)
    if len(chosen):
        row = torch.div(chosen, len(triangles), rounding_mode="floor")
        which = chosen - row * len(triangles)
        depths = points[2].flatten()
        near0, near1, near2 = (1 / depths.index_select(0, k.index_select(0, which) + row * count) for k in corner)
        x0, x1, x2, y0, y1, y2, low, high, left, right, area = (
            value.flatten().index_select(0, chosen) for value in (x0, x1, x2, y0, y1, y2, low, high, left, right, area)
        )
        inverse = 1 / area
        e1x, e1y, e2x, e2y = x1 - x0, y1 - y0, x2 - x0, y2 - y0
        # Weights of corners 1 and 2 and one over depth are planes over the picture, seen from the box's first pixel.
        dx, dy = left - x0, low - y0
        w1x, w1y, w1 = e2y * inverse, -e2x * inverse, (dx * e2y - dy * e2x) * inverse
        w2x, w2y, w2 = -e1y * inverse, e1x * inverse, (dy * e1x - dx * e1y) * inverse
        rise1, rise2 = near1 - near0, near2 - near0
        near_x, near_y, near = rise1 * w1x + rise2 * w2x, rise1 * w1y + rise2 * w2y, rise1 * w1 + rise2 * w2 + near0
        # The rows of each triangle, and in each row the run of pixels inside: three half lines met.
        rows = (high - low + 1).long()
        begin = (row * height + low.long()) * width + left.long()
        index = torch.repeat_interleave(rows)
        down = (torch.arange(len(index), device=device) - (rows.cumsum(0) - rows).index_select(0, index)).float()
        first, last = torch.zeros_like(down), (right - left).index_select(0, index)
        for slope, fall, value in ((w1x, w1y, w1), (w2x, w2y, w2), (-w1x - w2x, -w1y - w2y, 1 - w1 - w2)):
            # value + fall * y + slope * x >= 0, a little wider than the triangle, so that neighbours leave no gap,
            # bounds x from the left where it rises and from the right where it falls. The other bound is far away.
            rising = (slope > 0).float()
            steep = slope + (slope.abs() < 1e-9).float() * 2e-9
            at, tilt = (value + 1e-4) / -steep, fall / -steep
            at_left, tilt_left = at * rising + (rising - 1) * _FAR, tilt * rising
            at_right, tilt_right = at * (1 - rising) + rising * _FAR, tilt * (1 - rising)
            bound = torch.addcmul(at_left.index_select(0, index), tilt_left.index_select(0, index), down)
            first = torch.maximum(first, bound, out=first)
            bound = torch.addcmul(at_right.index_select(0, index), tilt_right.index_select(0, index), down)
            last = torch.minimum(last, bound, out=last)
        first, last = first.ceil_(), last.floor_()
        length = (last - first + 1).clamp_(0).long()
        start = near.index_select(0, index).addcmul_(near_y.index_select(0, index), down)
        lean = near_x.index_select(0, index)
        start.addcmul_(lean, first)
        begin = begin.index_select(0, index) + (down * width + first).long()
        run = torch.repeat_interleave(length)
        step = torch.arange(len(run), device=device) - (length.cumsum(0) - length).index_select(0, run)
        depth = start.index_select(0, run).addcmul_(lean.index_select(0, run), step.float())
        depth = depth.clamp_(min=1e-6).reciprocal_()
        pixel = begin.index_select(0, run).add_(step)
        # Positive floats are in order as integers.
        packed = (depth.view(torch.int32).long() << 32) | which.index_select(0, index).index_select(0, run)
        key.scatter_reduce_(0, pixel, packed, "amin")
    depth = (key >> 32).int().view(torch.float32).view(n, height, width)
    return Drawn(key.int().view(n, height, width), depth)


def weights_at(
    points: torch.Tensor,
    triangles: torch.Tensor,
    row: torch.Tensor,
    triangle: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Corners and perspective-correct weights of places in triangles.

    Parameters
    ----------
    points : (3, n, V)
        As for `rasterise`.
    triangles : (T, 3)
        As for `rasterise`.
    row, triangle : (m,)
        Row and triangle of each place.
    x, y : (m,)
        Pixels.

    Returns
    -------
    corners, three of (m,) flat vertex numbers into the batch's n * V; weights, three of (m,) that sum to one.
    """
    first = row * points.shape[2]
    corners = [triangles[:, k].contiguous().index_select(0, triangle) + first for k in range(3)]
    px, py, depth = ([axis.flatten().index_select(0, k) for k in corners] for axis in points)
    e1x, e1y, e2x, e2y = px[1] - px[0], py[1] - py[0], px[2] - px[0], py[2] - py[0]
    dx, dy = x - px[0], y - py[0]
    inverse = 1 / (e1x * e2y - e2x * e1y)
    w1, w2 = (dx * e2y - dy * e2x) * inverse, (dy * e1x - dx * e1y) * inverse
    weights = [w.clamp_(-0.5, 1.5) / z for w, z in zip((1 - w1 - w2, w1, w2), depth, strict=True)]
    total = 1 / (weights[0] + weights[1] + weights[2])
    return corners, [w * total for w in weights]


def interpolate(values: torch.Tensor, corners: list[torch.Tensor], weights: list[torch.Tensor]) -> torch.Tensor:
    """(c, m) of values (c, n * V) at corners and weights as of `weights_at`."""
    out = values.index_select(1, corners[0]).mul_(weights[0])
    out.addcmul_(values.index_select(1, corners[1]), weights[1])
    return out.addcmul_(values.index_select(1, corners[2]), weights[2])
