"""One face for all: maps of pictures are warped to 89 points of a mean face on a canvas of 275 x 224 px.

The 89 points are the 68 landmarks, the 17 points of the jaw once more at the upper edge, and the four corners of the
picture. Which pixel of the canvas lies in which triangle, and at which place of it, is the same for all pictures, so it
is computed once; a picture's warp is then one product of a sparse matrix with its points, and one gather.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ShapeError
from mien.geometry.checks import floats
from mien.geometry.pose import MEAN70

Floats = NDArray[np.float32]

HEIGHT, WIDTH = 275, 224
"""Of the canvas, px."""

ANCHORS_X = ((18, 50.0), (25, 169.0), (39, 87.0), (42, 134.0))
ANCHORS_Y = ((36, 80.0), (45, 80.0), (29, 118.0), (33, 155.0), (8, 270.0))
"""Landmarks (0-based) of the released template, px: brows and inner eye corners; eye line, nose, its base, chin."""


@lru_cache(maxsize=1)
def template() -> Floats:
    """(68, 2) the mean face on the canvas, px.

    It is the project's own mean shape, stretched in width and height so that it comes nearest to the released
    template, whose detector's mean shape lies in the rectangle from (0, 0) to (224, 250).
    """
    columns = []
    for axis, anchors in enumerate((ANCHORS_X, ANCHORS_Y)):
        given = np.array([[MEAN70[row, axis], 1.0] for row, _ in anchors])
        factor, shift = np.linalg.lstsq(given, np.array([place for _, place in anchors]), rcond=None)[0]
        columns.append(MEAN70[:68, axis] * factor + shift)
    points = np.stack(columns, 1).astype(np.float32)
    points.setflags(write=False)
    return points


def framed(points: ArrayLike, height: int, width: int) -> Floats:
    """(n, 89, 2) landmarks (n, 68, 2) with the jaw's feet at y = 0 and a picture's corners."""
    given = floats("points", points, "n 68 2")
    feet = given[:, :17] * np.array([1, 0], given.dtype)
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], given.dtype)
    return np.concatenate([given, feet, np.broadcast_to(corners, (len(given), 4, 2))], 1).astype(np.float32)


class _Places(NamedTuple):
    """`matrix` (pixels, 89) takes a picture's points to where each of `pixels` (flat numbers) is taken from."""

    pixels: NDArray[np.int64]
    matrix: Any


@lru_cache(maxsize=1)
def _places() -> _Places:
    from scipy.sparse import csr_matrix
    from scipy.spatial import Delaunay

    points = framed(template()[None], HEIGHT, WIDTH)[0].astype(np.float64)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grid = np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)
    triangles = Delaunay(points)
    # Three points of a line make a triangle of no area, in which no pixel lies.
    which = triangles.find_simplex(grid, tol=1e-9)
    pixels = np.flatnonzero(which >= 0)
    turn = triangles.transform[which[pixels]]
    first = np.einsum("nij,nj->ni", turn[:, :2], grid[pixels] - turn[:, 2])
    shares = np.concatenate([first, 1 - first.sum(1, keepdims=True)], 1)
    corners = triangles.simplices[which[pixels]]
    rows = np.repeat(np.arange(len(pixels)), 3)
    matrix = csr_matrix((shares.ravel(), (rows, corners.ravel())), shape=(len(pixels), len(points)))
    return _Places(pixels.astype(np.int64), matrix)


def to_canvas(maps: NDArray[Any], points: ArrayLike) -> NDArray[Any]:
    """Maps or pictures, warped to the mean face; the nearest pixel counts, and what lies outside of a picture is 0.

    Parameters
    ----------
    maps
        (n, H, W) or (n, H, W, c).
    points
        (n, 68, 2) landmarks in them, px, iBUG order; they may lie outside.

    Returns
    -------
    (n, 275, 224) or (n, 275, 224, c), of the type of `maps`.

    Raises
    ------
    ShapeError
        Not as many maps as rows of points.
    """
    if maps.ndim not in (3, 4) or len(maps) != len(np.asarray(points)):
        raise ShapeError("every map needs its landmarks", got=(maps.shape, np.shape(points)), expected="(n, H, W)")
    height, width = maps.shape[1:3]
    out = np.zeros((len(maps), HEIGHT * WIDTH, *maps.shape[3:]), maps.dtype)
    pixels, matrix = _places()
    source = framed(points, height, width)
    for row, own in enumerate(maps):
        x, y = np.rint(matrix @ source[row]).astype(np.int64).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        out[row, pixels[inside]] = own[y[inside], x[inside]]
    return out.reshape(len(maps), HEIGHT, WIDTH, *maps.shape[3:])


def stretched(values: NDArray[Any]) -> Floats:
    """`values` with its least at 0 and its greatest at 1; all 0 where it is flat."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / (high - low) if high > low else np.zeros_like(values), np.float32)


def global_map(warped: NDArray[Any]) -> Floats:
    """(275, 224) the mean of warped maps (n, 275, 224), stretched to 0 … 1; of no maps all 0."""
    if not len(warped):
        return np.zeros(warped.shape[1:], np.float32)
    return stretched(warped.mean(0, dtype=np.float64))
