"""Heatmaps of points: drawn, and read again, exactly or to the pixel as the released code of FAN does it.

Points are counted in cells of the map **from its edge**: the middle of the first cell is 0.5, the map reaches from 0 to
its size. So a point of a crop of 256 px is a quarter as much in a map of 64, and no half pixel is lost on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.errors import OptionError, ShapeError

__all__ = ["SPREAD", "STEP", "decode", "draw_gaussians", "draw_official", "flip_maps", "guidance_kernel"]

SPREAD = 0.25
"""Standard deviation of a drawn point, as a share of its kernel's side."""
STEP = 0.25
"""How far a point is moved from the middle of its cell towards the higher neighbour, cells."""


def draw_gaussians(points: Tensor, size: int, *, kernel: int = 7) -> Tensor:
    """Targets with sub-pixel exactness: Gaussians of amplitude 1 about the points themselves.

    Cells whose middle is farther than half a kernel from the point, in x or in y, are empty; so are maps of points that
    are NaN or farther outside than that.

    Parameters
    ----------
    points
        (B, K, 2) x and y in cells, from the map's edge.
    size
        Side of the map.
    kernel
        Side of the Gaussian's window, cells; its standard deviation is a quarter of it.

    Returns
    -------
    (B, K, size, size) of the points' dtype.
    """
    _check(points, kernel)
    middle = torch.arange(size, device=points.device, dtype=points.dtype) + 0.5
    away = middle - points[..., None]  # (B, K, 2, size)
    value = torch.where(away.abs() <= kernel / 2, torch.exp(-0.5 * (away / (SPREAD * kernel)) ** 2), 0)
    x, y = value.unbind(2)
    return y[..., :, None] * x[..., None, :]


def draw_official(points: Tensor, size: int, *, kernel: int = 7) -> Tensor:
    """What the released code draws, cell by cell.

    With ``lo = floor(p - r)``, ``hi = floor(p + r)`` and r half of the kernel, cells ``max(0, lo - 1)`` to
    ``min(hi, size) - 1`` of each axis receive the kernel from its place ``max(1, -lo) - 1`` on: the peak is at cell
    ``floor(p) - 1``, and a blob that the left or upper edge cuts off is displaced by a cell or two. Networks were
    trained on it and expect it.

    Parameters
    ----------
    points
        (B, K, 2) x and y in cells.
    size
        Side of the map.
    kernel
        Side of the Gaussian in cells, odd: 7 for targets (sigma 1), 13 for guidance (sigma 2).

    Returns
    -------
    (B, K, size, size) of the points' dtype. Points off the map, and NaN, leave it empty.
    """
    _check(points, kernel)
    if kernel % 2 == 0:
        raise OptionError("the kernel has a middle", got=kernel, expected="an odd number of cells")
    known = torch.isfinite(points).all(-1)
    points = torch.nan_to_num(points, nan=0.0, posinf=0.0, neginf=0.0)
    reach = kernel // 2
    low, high = torch.floor(points - reach)[..., None], torch.floor(points + reach)[..., None]
    cell = torch.arange(size, device=points.device, dtype=points.dtype)
    start = (low - 1).clamp(min=0)
    place = (-low).clamp(min=1) - 1 + cell - start  # of each cell within the kernel
    inside = (cell >= start) & (cell < high.clamp(max=size)) & (place < kernel)
    value = torch.where(inside, torch.exp(-0.5 * ((place - reach) / (SPREAD * kernel)) ** 2), 0)
    shown = known & ((low <= size) & (high >= 1)).all(-2)[..., 0]
    x, y = value.unbind(2)
    return y[..., :, None] * x[..., None, :] * shown[..., None, None]


def guidance_kernel(size: int) -> int:
    """Side in pixels of the blobs that show points in a crop of `size` pixels: 13 of 256, and as large a share, odd."""
    return max(3, 2 * round((13 * size / 256 - 1) / 2) + 1)


def _check(points: Tensor, kernel: int) -> None:
    if points.ndim != 3 or points.shape[2] != 2:
        raise ShapeError("points to draw have two coordinates", got=tuple(points.shape), expected="(B, K, 2)")
    if kernel < 1:
        raise OptionError("a kernel has cells", got=kernel, expected="at least 1")


def decode(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Points of heatmaps: the highest cell, moved `STEP` towards the higher neighbour in x and in y.

    A point in a cell of the rim is not moved, and where both neighbours are equal there is no step. (The released code
    knows maps of 64 cells only.)

    Parameters
    ----------
    maps
        (B, K, H, W).

    Returns
    -------
    points
        (B, K, 2) in cells from the map's edge: the 0-based highest cell + 0.5 (± 0.25), from 0.5 to W - 0.5.
    scores
        (B, K) value of the highest cell.
    """
    if maps.ndim != 4:
        raise ShapeError("there must be a map for each point", got=tuple(maps.shape), expected="(B, K, H, W)")
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    scores, index = flat.max(2)
    x, y = index % width, torch.div(index, width, rounding_mode="floor")
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)

    def slope(shift: int) -> Tensor:
        ahead = flat.gather(2, (index + shift).clamp(0, height * width - 1)[..., None])
        behind = flat.gather(2, (index - shift).clamp(0, height * width - 1)[..., None])
        return torch.sign(ahead - behind)[..., 0]

    moved = torch.stack([slope(1), slope(width)], -1) * STEP * inner[..., None]
    return torch.stack([x, y], -1) + 0.5 + moved, scores


def flip_maps(maps: Tensor, order: Tensor) -> Tensor:
    """Maps of the mirrored picture as those of the picture itself: mirrored, and left points for right ones.

    Parameters
    ----------
    maps
        (B, K, H, W).
    order
        (K,) row i of a mirrored face is row ``order[i]`` of the face (`mien.geometry.landmarks.FLIPS`).
    """
    return maps.flip(3).index_select(1, order)
