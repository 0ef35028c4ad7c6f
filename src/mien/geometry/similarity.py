"""Similarity transforms of the plane (rotation, uniform scale, shift): where faces are aligned.

A transform is a matrix ``M`` of shape (2, 3), ``[[a, -b, x], [b, a, y]]``, that takes source points (the
photo) to target points (the crop). Everything works on stacks of them. Pixel coordinates have x to the
right, y down, and (0, 0) at the *centre* of the top left pixel, as OpenCV's warps and the published
templates have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Floats, choice, floats
from mien.geometry.landmarks import flip_points

__all__ = [
    "TEMPLATES",
    "angle_of",
    "apply",
    "apply3d",
    "compose",
    "flip_points",
    "identity",
    "invert",
    "scale_of",
    "similarity_from_points",
    "template",
]


def _frozen(values: list[tuple[float, float]]) -> Floats:
    array = np.array(values, np.float32)
    array.setflags(write=False)
    return array


TEMPLATES: Mapping[str, Floats] = MappingProxyType(
    {
        # Deng et al., ArcFace, 2019 (insightface `face_align.py`): what most published recognisers were
        # trained on.
        "arcface112": _frozen(
            [
                (38.2946, 51.6963),
                (73.5318, 51.5014),
                (56.0252, 71.7366),
                (41.5493, 92.3655),
                (70.7299, 92.2041),
            ]
        ),
        # The tighter region that dlib's 150 px chip shows, in 112 px: what `mien-embedder` is trained on.
        "chip112": _frozen([(35.8, 34.5), (76.2, 34.5), (56.0, 57.1), (39.6, 77.9), (72.4, 77.9)]),
        # The whole head with its hair: what `mien-parser` is trained on.
        "head128": _frozen([(49.65, 55.6), (77.35, 55.6), (63.5, 71.1), (52.25, 85.4), (74.75, 85.4)]),
        # FFHQ's framing at 512 px as five points (facexlib), used by face restoration papers.
        "ffhq512": _frozen(
            [
                (192.98138, 239.94708),
                (318.90277, 240.19360),
                (256.63416, 314.01935),
                (201.26117, 371.41043),
                (313.08905, 371.15118),
            ]
        ),
    }
)
"""Five-point templates (5, 2) in pixels of a square crop; the number in the name is the crop's side."""


def template(name: str, *, size: int | None = None) -> Floats:
    """The five target points (5, 2) of a template, for a crop of `size` pixels (by default that of its name).

    Pixel centres are kept aligned: ``(p + 0.5) * size / side - 0.5``.

    Raises
    ------
    OptionError
        Unknown template.
    """
    points = TEMPLATES[choice("template", name, tuple(TEMPLATES))]
    side = int("".join(filter(str.isdigit, name)))
    if size is None or size == side:
        return points
    if size < 1:
        raise ValueRangeError("the size of a crop must be positive", got=size, expected="pixels, at least 1")
    return np.asarray((points + 0.5) * (size / side) - 0.5, np.float32)


def identity(n: int) -> Floats:
    """`n` transforms (n, 2, 3) that change nothing."""
    return np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1))


def similarity_from_points(src: ArrayLike, dst: ArrayLike) -> Floats:
    """The similarities that take `src` nearest to `dst` in the least-squares sense, never a reflection.

    In the plane Umeyama's solution (PAMI 13(4), 1991) needs no SVD: with points as complex numbers a
    similarity is ``w = a z + t``, and least squares has the closed form ``a = sum(conj(z) w) / sum(|z|^2)``
    over centred z, w.

    Parameters
    ----------
    src : (..., k, 2)
        Source points, k >= 2.
    dst : (k, 2) or (..., k, 2)
        Target points: one template for all, or one set for each.

    Returns
    -------
    (..., 2, 3), float64 if an input is float64, else float32.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError
        Wrong arrays, or source points that coincide (no scale or angle can be told from them).
    """
    source, target = floats("src", src, "... k 2"), floats("dst", dst, "... k 2")
    k = source.shape[-2]
    if target.shape[-2] != k or k < 2:
        raise ShapeError(
            "src and dst must have the same number of points, two or more",
            got=f"src {source.shape}, dst {target.shape}",
        )
    try:
        np.broadcast_shapes(source.shape, target.shape)
    except ValueError:
        raise ShapeError("src and dst do not fit together", got=f"src {source.shape}, dst {target.shape}") from None
    z, w = _complex(source), _complex(target)
    z_mean, w_mean = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
    z, w = z - z_mean, w - w_mean
    spread = (z.real**2 + z.imag**2).sum(-1)
    # Below this the differences between the points are rounding noise of float32 coordinates.
    flat = spread <= k * (1e-6 * np.abs(z_mean[..., 0]) + 1e-30) ** 2
    if flat.any():
        raise ValueRangeError(
            "source points coincide, so no similarity can be told from them",
            got=f"{int(flat.sum())} of {flat.size} rows, the first at {np.argwhere(flat)[0].tolist()}",
            expected="points that differ",
        )
    a = (z.conj() * w).sum(-1) / spread
    t = w_mean[..., 0] - a * z_mean[..., 0]
    return _matrix(a, t).astype(np.result_type(source, target), copy=False)


def apply(matrices: ArrayLike, points: ArrayLike) -> Floats:
    """Points (..., k, 2) taken through affine matrices (..., 2, 3); leading axes broadcast."""
    m, p = floats("matrices", matrices, "... 2 3"), floats("points", points, "... k 2")
    return p @ m[..., :2].swapaxes(-1, -2) + m[..., None, :, 2]


def apply3d(matrices: ArrayLike, points: ArrayLike) -> Floats:
    """3D landmarks (..., k, 3) in pixels through similarities (..., 2, 3): depth scales as the plane."""
    m, p = floats("matrices", matrices, "... 2 3"), floats("points", points, "... k 3")
    plane = apply(m, p[..., :2])
    depth = np.broadcast_to(p[..., 2] * scale_of(m)[..., None], plane.shape[:-1])
    return np.concatenate([plane, depth[..., None]], axis=-1)


def invert(matrices: ArrayLike) -> Floats:
    """The inverse (..., 2, 3) of each matrix (..., 2, 3): takes points of the crop back to the photo.

    Raises
    ------
    ValueRangeError
        A matrix squeezes the plane to a line or point and has no inverse.
    """
    m = floats("matrices", matrices, "... 2 3")
    d = m.astype(np.float64)
    a, b, c, e = d[..., 0, 0], d[..., 0, 1], d[..., 1, 0], d[..., 1, 1]
    det = a * e - b * c
    if (np.abs(det) <= 1e-14 * (a * a + b * b + c * c + e * e)).any():
        raise ValueRangeError("a matrix has no inverse", got="determinant 0", expected="a transform with scale above 0")
    linear = np.stack([np.stack([e, -b], -1), np.stack([-c, a], -1)], -2) / det[..., None, None]
    shift = -(linear @ d[..., 2:])
    return np.concatenate([linear, shift], axis=-1).astype(m.dtype, copy=False)


def compose(first: ArrayLike, then: ArrayLike) -> Floats:
    """One matrix (..., 2, 3) for two: ``apply(compose(a, b), p)`` is ``apply(b, apply(a, p))``."""
    a, b = floats("first", first, "... 2 3"), floats("then", then, "... 2 3")
    linear = b[..., :2] @ a[..., :2]
    shift = b[..., :2] @ a[..., 2:] + b[..., 2:]
    return np.concatenate([linear, shift], axis=-1)


def scale_of(matrices: ArrayLike) -> Floats:
    """By how much each matrix (..., 2, 3) enlarges lengths (the root of the factor of areas)."""
    m = floats("matrices", matrices, "... 2 3")
    return np.asarray(np.sqrt(np.abs(m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0])))


def angle_of(matrices: ArrayLike) -> Floats:
    """By how many degrees, -180 to 180, each similarity (..., 2, 3) turns; clockwise is positive."""
    m = floats("matrices", matrices, "... 2 3")
    return np.asarray(np.degrees(np.arctan2(m[..., 1, 0], m[..., 0, 0])))


def _complex(points: Floats) -> NDArray[np.complex128]:
    return points[..., 0].astype(np.float64) + 1j * points[..., 1].astype(np.float64)


def _matrix(a: NDArray[np.complex128], t: NDArray[np.complex128]) -> Floats:
    """(..., 2, 3) of ``w = a z + t``."""
    rows = np.stack([a.real, -a.imag, t.real, a.imag, a.real, t.imag], axis=-1)
    return rows.reshape(*rows.shape[:-1], 2, 3)
