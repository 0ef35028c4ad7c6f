"""Landmarks: how far predicted points lie from annotated ones, in units of the face's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mien.errors import ShapeError, ValueRangeError
from mien.geometry.checks import Double, choice, doubles, number
from mien.geometry.landmarks import IBUG68, LEFT_EYE_OUTER, RIGHT_EYE_OUTER

NORMALISERS = ("interocular", "interpupil", "box")
"""Distance of the outer eye corners (300-W); of the eye centres; root of the points' box area (AFLW, LS3D-W)."""


def nme(
    predicted: ArrayLike,
    true: ArrayLike,
    *,
    normaliser: str | ArrayLike = "interocular",
    points: Sequence[int] | None = None,
) -> Double:
    """Normalised mean error of each face: mean distance of its points, divided by the face's size.

    Parameters
    ----------
    predicted, true : (n, k, 2)
        Points in pixels; k = 68 or 70 (``ibug68``, ``mien70``) unless sizes are given.
    normaliser
        One of `NORMALISERS`, measured on `true`, or each face's size (n,) in pixels.
    points
        Indices of the points that count, such as ``IBUG68["jaw"]``; by default all. The size is still that
        of the whole face.

    Returns
    -------
    (n,) fractions: 0.05 is 5 % of the eye distance. ``.mean()`` is the figure that papers give.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        Arrays that do not fit together, or an unknown normaliser.
    ValueRangeError
        A face of size 0.
    """
    p, t = doubles("predicted", predicted, "n k 2"), doubles("true", true, "n k 2")
    if p.shape != t.shape:
        raise ShapeError("predicted and true differ in shape", got=p.shape, expected=t.shape)
    size = face_size(t, normaliser) if isinstance(normaliser, str) else doubles("normaliser", normaliser, "n")
    if len(size) != len(t):
        raise ShapeError("there must be one size for each face", got=size.shape, expected=f"({len(t)},)")
    if (size <= 0).any():
        raise ValueRangeError("a face has no size", got=f"row {int(size.argmin())}", expected="above 0 pixels")
    apart = np.linalg.norm(p - t, axis=-1)
    if points is not None:
        apart = apart[:, list(points)]
    return np.asarray(apart.mean(1) / size)


def face_size(true: ArrayLike, normaliser: str = "interocular") -> Double:
    """Size (n,) in pixels of faces (n, k, 2), by one of `NORMALISERS`."""
    t = doubles("true", true, "n k 2")
    choice("normaliser", normaliser, NORMALISERS)
    if normaliser == "box":
        return np.asarray(np.sqrt(np.ptp(t, axis=1).prod(1)))
    if t.shape[1] not in (68, 70):
        raise ShapeError(
            f"{normaliser} needs the eyes of the 68- or 70-point scheme",
            got=t.shape,
            expected="(n, 68, 2) or (n, 70, 2)",
            hint='give the sizes of the faces, or normaliser="box"',
        )
    if normaliser == "interocular":
        left, right = t[:, LEFT_EYE_OUTER], t[:, RIGHT_EYE_OUTER]
    else:
        left, right = t[:, list(IBUG68["left_eye"])].mean(1), t[:, list(IBUG68["right_eye"])].mean(1)
    return np.asarray(np.linalg.norm(right - left, axis=1))


def auc_at(errors: ArrayLike, limit: float = 0.08) -> float:
    """Area under the cumulative error curve from 0 to `limit`, divided by `limit`: 1 is perfect, 0 useless.

    Exact for the empirical curve, not a sum over bins: ``mean(max(0, 1 - error / limit))``.
    """
    e = _errors(errors)
    return float(np.maximum(0, 1 - e / number("limit", limit, 0, np.inf, open_low=True)).mean())


def auc_sampled(errors: ArrayLike, limit: float = 0.07, *, thresholds: int = 70) -> float:
    """The area of `auc_at` as the scripts of LS3D-W measure it: the curve's mean at evenly spaced thresholds.

    ``mean over i of (share of faces with an error below i * limit / thresholds)``, i from 0 to thresholds - 1. Less
    than the exact area by about half a step of the curve: by ``1 / (2 * thresholds)`` where all errors are within.

    Source: A. Bulat and G. Tzimiropoulos, ICCV 2017 (AUC at 7 % with ``nme(…, normaliser="box")``).
    """
    e = np.sort(_errors(errors))
    number("limit", limit, 0, np.inf, open_low=True)
    at = np.arange(int(number("thresholds", thresholds, 1, np.inf))) * (limit / thresholds)
    return float(np.searchsorted(e, at, side="left").mean() / len(e))


def failure_rate(errors: ArrayLike, limit: float = 0.08) -> float:
    """Share of faces, 0 to 1, with an error (n,) above `limit`."""
    return float((_errors(errors) > number("limit", limit, 0, np.inf)).mean())


def cumulative_errors(errors: ArrayLike) -> tuple[Double, Double]:
    """The cumulative error curve: sorted errors (n,), and the share of faces with at most this error (n,)."""
    e = np.sort(_errors(errors))
    return e, np.arange(1, len(e) + 1) / len(e)


def _errors(errors: ArrayLike) -> Double:
    e = doubles("errors", errors, "n")
    if not len(e) or (e < 0).any():
        raise ValueRangeError("errors must be distances of at least one face", got=f"{len(e)} values")
    return e
