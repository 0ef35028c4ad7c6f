"""The neutral head, built by formulae: sections of a loft, on which nose, lids and lips are raised as smooth fields.

Axes are those of `mien.geometry.pose` (x right in the picture, y down, z away from the camera), the unit is the
centimetre, and the origin lies behind the nose, at the centre of the mean landmarks `mien.geometry.MEAN70`, whose outer
eye corners are 9 cm apart here.

The surface is a loft: `SECTIONS` lists its sections from the crown to the chest, each half a superellipse in front and
one behind, tilted so that the section of the jaw runs along the jaw. A point of it is (theta, t), the angle about the
vertical axis and the number of the section. Vertices are laid into the plane (theta, length along the front) in loops
around eyes and lips and finer where there is more to see; one half is triangulated there (Delaunay) and mirrored.

Proportions follow the mean landmarks of this project and figures of anthropometry (L. Farkas, Anthropometry of the Head
and Face, 1994): bizygomatic width 13.8 cm, head length 19 cm, eye fissure 2.7 x 1.0 cm, nose width 3.4 cm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mien.geometry.mean_shape import MEAN70

__all__ = ["EYE", "EYE_RADIUS", "UNIT", "Template", "template"]

Array = NDArray[np.float64]

UNIT = 9.0
"""Centimetres between the outer eye corners of the mean head: one unit of `MEAN70`."""

EYE = (3.15, -3.53, 0.62)
"""Centre of the eyeball of the picture's right side, cm."""

EYE_RADIUS = 1.22
"""cm."""

# y and z of the front, y of the side, y and z of the back, half width, exponents of the front and of the back
SECTIONS = np.array(
    [
        (-14.55, 6.9, -14.55, -14.55, 7.1, 0.0, 2.0, 2.0),
        (-14.1, 4.0, -14.1, -14.1, 10.2, 3.6, 2.0, 2.0),
        (-12.9, 1.2, -12.9, -12.9, 13.3, 5.7, 2.1, 2.0),
        (-11.0, -0.7, -11.0, -10.9, 15.4, 6.9, 2.2, 2.0),
        (-9.0, -1.7, -9.0, -8.6, 16.6, 7.45, 2.3, 2.0),
        (-7.0, -2.15, -7.0, -6.3, 17.1, 7.6, 2.35, 2.0),
        (-5.2, -2.2, -5.2, -4.2, 17.0, 7.5, 2.35, 2.0),
        (-3.6, -1.55, -3.7, -2.4, 16.5, 7.25, 2.25, 2.0),
        (-1.6, -1.6, -2.1, -0.6, 15.6, 7.1, 2.1, 2.0),
        (0.4, -1.75, -0.5, 1.2, 14.5, 6.95, 2.0, 2.0),
        (2.0, -1.8, 0.9, 2.8, 13.4, 6.62, 1.95, 2.0),
        (3.2, -1.7, 2.0, 3.9, 12.7, 6.36, 1.92, 2.0),
        (4.6, -1.4, 3.1, 5.0, 12.2, 6.02, 1.88, 2.0),
        (5.8, -1.2, 3.9, 5.9, 11.9, 5.68, 1.84, 2.0),
        (6.9, -0.95, 4.6, 6.7, 11.7, 5.36, 1.82, 2.0),
        (7.75, 0.05, 5.35, 7.4, 11.6, 5.08, 1.86, 2.0),
        (8.15, 1.7, 6.2, 8.1, 11.6, 4.85, 1.95, 2.0),
        (8.6, 3.5, 7.3, 8.9, 11.7, 4.8, 2.0, 2.0),
        (9.7, 4.6, 8.8, 9.9, 11.9, 4.95, 2.0, 2.0),
        (11.5, 4.9, 10.8, 11.3, 12.4, 5.25, 2.0, 2.0),
        (13.6, 4.6, 12.9, 12.8, 13.2, 6.6, 2.0, 2.1),
        (15.3, 3.6, 14.5, 14.2, 14.2, 11.0, 2.1, 2.3),
        (17.2, 2.2, 16.3, 15.9, 15.0, 17.0, 2.3, 2.6),
        (20.5, 0.8, 19.3, 18.8, 15.6, 20.5, 2.5, 2.8),
        (29.0, 0.0, 28.0, 27.0, 16.0, 21.5, 2.6, 2.8),
    ]
)
"""The loft, from the crown to the chest, cm."""

CENTRE_Z = 6.3
"""Where sections are widest, cm."""

LIP_GAP = 0.1
"""Half the gap between the lips in the plane of triangulation, cm; in space the neutral lips touch."""


@dataclass(frozen=True, eq=False)
class Template:
    """The neutral head.

    `points` (V, 3) cm; `base` (V, 3) the loft below nose, lids and lips, whose x and y are the coordinates of all
    fields; `plane` (V, 2) theta in radians and section number t; `triangles` (T, 3), whose cross product points
    outwards; `mirror` (V,) the vertex at the other side; `weld` (V,) the vertex of the same place (at the seam behind);
    `landmarks` (68,) vertices in iBUG order; `lip` (V,) 1 on the lower side of the mouth's slit, -1 on the upper, 0
    elsewhere; `lid` (V,) 1 on rims turned into the eye, else 0; `side` (V,) -1 at the picture's left, 1 at its right.
    """

    points: Array
    base: Array
    plane: Array
    triangles: NDArray[np.int64]
    mirror: NDArray[np.int64]
    weld: NDArray[np.int64]
    landmarks: NDArray[np.int64]
    lip: Array
    rim: Array
    side: Array


# ------------------------------------------------------------------------------------------------- the loft


@lru_cache(1)
def _sections() -> tuple[object, object]:
    """Splines of the section's numbers and of the length along the front, over the section number."""
    from scipy.interpolate import CubicSpline, PchipInterpolator

    number = np.arange(len(SECTIONS), dtype=np.float64)
    spline = CubicSpline(number, SECTIONS, axis=0)
    fine = np.linspace(0, number[-1], 2000)
    front = spline(fine)[:, :2]
    length = np.concatenate([[0], np.linalg.norm(np.diff(front, axis=0), axis=1).cumsum()])
    return spline, PchipInterpolator(fine, length)


def length_along_front(t: Array) -> Array:
    """cm from the crown along the middle of the face to section t."""
    return np.asarray(_sections()[1](t))  # type: ignore[operator]


def section_at_length(length: Array) -> Array:
    """Inverse of `length_along_front`."""
    t = np.linspace(0, len(SECTIONS) - 1, 4000)
    return np.interp(length, length_along_front(t), t)


def loft(theta: Array, t: Array) -> Array:
    """(..., 3) points of the loft."""
    rows = np.asarray(_sections()[0](np.clip(t, 0, len(SECTIONS) - 1)))  # type: ignore[operator]
    fy, fz, sy, by, bz, w, front, back = np.moveaxis(rows, -1, 0)
    w = np.maximum(w, 0)
    cos, sin = np.cos(theta), np.sin(theta)
    # An exponent below 2 would leave a crease in the middle; a narrower front makes the section as pointed without one.
    narrow = 1 - 0.75 * np.clip(2 - front, 0, None) * np.clip(cos, 0, 1) ** 2
    n = np.where(cos > 0, np.maximum(front, 2), back)
    # Where a section is widest moves from the ears to the middle of its depth towards crown and chest.
    centre = np.where(t < 4, CENTRE_Z + (6.9 - CENTRE_Z) * np.clip(1 - t / 4, 0, 1), CENTRE_Z)
    centre = np.where(t > 14, CENTRE_Z + np.clip((t - 14) / 6, 0, 1) * 1.6, centre)
    x = w * narrow * np.sign(sin) * np.abs(sin) ** (2 / n)
    depth = np.where(cos > 0, centre - fz, bz - centre)
    z = centre - np.sign(cos) * depth * np.abs(cos) ** (2 / n)
    y = sy + (fy - by) / 2 * cos + ((fy + by) / 2 - sy) * cos**2
    return np.stack([x, y, z], -1)


def locate(x: Array, y: Array) -> Array:
    """(..., 2) theta and t of the front of the loft at frontal coordinates x, y, cm (Newton's method)."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    theta = np.arcsin(np.clip(x / 8.0, -0.97, 0.97))
    t = np.interp(y, SECTIONS[:, 0], np.arange(len(SECTIONS), dtype=np.float64))
    h = 1e-4
    for _ in range(60):
        here = loft(theta, t)
        ex, ey = x - here[..., 0], y - here[..., 1]
        dth, dt = (loft(theta + h, t) - here) / h, (loft(theta, t + h) - here) / h
        det = dth[..., 0] * dt[..., 1] - dt[..., 0] * dth[..., 1]
        det = np.where(np.abs(det) < 1e-3, 1e-3, det)
        theta = np.clip(theta + 0.7 * np.clip((ex * dt[..., 1] - ey * dt[..., 0]) / det, -0.2, 0.2), -1.5, 1.5)
        t = np.clip(t + 0.7 * np.clip((dth[..., 0] * ey - dth[..., 1] * ex) / det, -0.7, 0.7), 0.05, 23.9)
    return np.stack([theta, t], -1)


# ------------------------------------------------------------------------------------------------- contours


def eye_contour(s: Array, upper: bool) -> Array:
    """(..., 2) the lid's edge of the picture's right eye, s from 0 at the inner corner to 1 at the outer."""
    inner, outer = np.array([1.79, -3.36]), np.array([4.5, -3.6])
    line = inner + s[..., None] * (outer - inner)
    if upper:
        rise = -0.53 * np.sin(np.pi * s**0.86) ** 0.80
    else:
        rise = 0.37 * np.sin(np.pi * s**1.2) ** 0.86
    line[..., 1] += rise
    return np.asarray(line)


def lip_contour(s: Array, which: str) -> Array:
    """(..., 2) contour of the lips, s from 0 at the middle to 1 at the picture's right corner."""
    corner = np.array([2.55, 3.26])
    x = corner[0] * s
    across = np.clip(1 - s, 0, 1)
    if which == "upper":
        y = 3.26 - 0.86 * across**0.72 * (1 - 0.16 * np.exp(-((s / 0.13) ** 2)))
    elif which == "lower":
        y = 3.26 + 1.06 * np.clip(1 - s**2.1, 0, 1) ** 0.8
    else:
        y = 3.26 + 0.05 * np.cos(np.pi * s * 1.5) * across**0.5
    return np.stack([x, y], -1)


def bump(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float, power: float = 2.0) -> Array:
    """exp(-r^power) about (cx, cy), 1 in its middle; both halves of the face where cx is not 0."""
    r = np.sqrt(((np.abs(x) - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) if cx else np.hypot(x / sx, (y - cy) / sy)
    return np.asarray(np.exp(-(r**power)))


def smoothstep(x: Array, low: float | Array, high: float | Array) -> Array:
    """0 below low, 1 above high, smooth between; also falling, with low > high."""
    u = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(u * u * (3 - 2 * u))


def _smooth_min(a: Array, b: Array, k: float) -> Array:
    """Smooth minimum (polynomial, width k)."""
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return np.asarray(b + (a - b) * h - k * h * (1 - h))


def smooth(at: Array, places: list[float], values: list[float]) -> Array:
    """A curve without corners through given values, constant beyond its ends (monotone between them)."""
    from scipy.interpolate import PchipInterpolator

    curve = PchipInterpolator(places, values)
    return np.asarray(curve(np.clip(at, places[0], places[-1])))


def raise_features(base: Array, theta: Array) -> Array:
    """(n, 3) the face on the loft's points: brow, sockets, lids, nose, lips, chin as fields of frontal x and y."""
    x, y, z = base[:, 0].copy(), base[:, 1].copy(), base[:, 2].copy()
    ax = np.abs(x)
    front = smoothstep(np.cos(theta), 0.05, 0.4)
    d = np.zeros_like(x)
    # Brow ridge, frontal eminences, temples, cheekbones, cheeks, chin
    d -= 0.32 * bump(x, y, 2.7, -5.15, 2.3, 0.75)
    d -= 0.18 * bump(x, y, 0.0, -4.9, 1.2, 0.8)
    d -= 0.15 * bump(x, y, 2.6, -8.3, 2.2, 1.8)
    d += 0.35 * bump(x, y, 6.4, -5.4, 1.3, 2.0)
    d -= 0.62 * bump(x, y, 4.7, -0.7, 1.7, 1.25)
    d -= 0.35 * bump(x, y, 3.3, 0.6, 1.5, 1.5)
    d += 0.30 * bump(x, y, 4.6, 3.2, 1.3, 1.9)
    d -= 0.30 * bump(x, y, 1.5, 2.6, 1.6, 1.3)
    d -= 0.45 * bump(x, y, 0.0, 6.6, 1.35, 0.95)
    d += 0.42 * bump(x, y, 0.0, 5.15, 1.5, 0.5)
    # Sockets
    d += 1.05 * bump(x, y, 3.2, -3.5, 1.75, 1.0, 2.4)
    d += 0.75 * bump(x, y, 1.55, -3.5, 0.72, 0.95)
    d += 0.14 * bump(x, y, 3.0, -2.2, 1.4, 0.35)
    surface = z + d * front
    # Nose: a ridge whose height and width change from root to tip
    ridge = smooth(
        y,
        [-5.0, -4.3, -3.6, -2.6, -1.6, -0.7, -0.1, 0.25, 0.62, 0.95, 1.25, 1.6],
        [0.0, 0.12, 0.36, 0.78, 1.28, 1.80, 2.22, 2.30, 2.02, 1.25, 0.45, 0.0],
    )
    wide = smooth(y, [-5.0, -3.6, -2.4, -1.0, 0.0, 0.6, 1.3], [0.9, 0.70, 0.80, 0.94, 1.04, 1.0, 0.9])
    power = np.interp(y, [-3, -0.5, 0.3], [1.9, 2.0, 2.3])
    nose = ridge * np.exp(-((ax / wide) ** power))
    wing = 1.05 * bump(x, y, 1.16, 0.40, 0.62, 0.72, 2.4)
    nose = np.maximum(nose, 0) + wing * np.clip(1.15 - 0.35 * nose, 0.25, 1)
    nose -= 0.55 * bump(x, y, 0.62, 0.98, 0.42, 0.3) + 0.18 * bump(x, y, 1.9, 0.75, 0.42, 0.8)
    surface -= nose * front
    # Philtrum and lips: two rolls that meet in the slit
    surface += 0.10 * bump(x, y, 0.0, 1.9, 0.26, 0.55) * front
    s = np.clip(ax / 2.55, 0, 1)
    middle = lip_contour(s, "middle")[:, 1]
    top, bottom = lip_contour(s, "upper")[:, 1], lip_contour(s, "lower")[:, 1]
    fade = smoothstep(ax, 2.75, 1.5)
    up = np.clip((y - top) / np.maximum(middle - top, 0.05), -2, 1.0)
    low = np.clip((bottom - y) / np.maximum(bottom - middle, 0.05), -2, 1.0)
    roll_up = np.where(
        up > 0,
        0.34 + 0.30 * np.sin(np.pi * np.clip(up, 0, 1)) - 0.42 * np.clip(up, 0, 1) ** 3,
        0.34 * np.exp(-((up / 0.8) ** 2)),
    )
    roll_low = np.where(
        low > 0,
        0.10 + 0.52 * np.sin(np.pi * np.clip(low, 0, 1) ** 0.9) - 0.18 * np.clip(low, 0, 1) ** 3,
        0.10 * np.exp(-((low / 0.4) ** 2)),
    )
    surface -= np.where(y < middle, roll_up, roll_low) * fade * front
    surface -= 0.28 * bump(x, y, 0.0, 3.1, 2.1, 1.6) * front
    surface += 0.24 * bump(x, y, 2.72, 3.3, 0.32, 0.4) * front
    # Lids: the smooth union of the socket and of a ball a little larger than the eye
    ball = (EYE_RADIUS + 0.12) ** 2 - (ax - EYE[0]) ** 2 - (y - EYE[1]) ** 2
    lid = EYE[2] - np.sqrt(np.maximum(ball, 0.02))
    near = smoothstep(np.hypot((ax - EYE[0]) / 1.0, (y - EYE[1]) / 0.9), 2.0, 1.5) * (front > 0)
    surface = np.where(near > 0, surface * (1 - near) + _smooth_min(surface, lid, 0.35) * near, surface)
    # The fold of the upper lid
    crease = eye_contour(np.clip((ax - 1.79) / 2.71, 0, 1), True)[:, 1] - 0.34
    surface += 0.09 * np.exp(-(((y - crease) / 0.11) ** 2)) * smoothstep(np.abs(ax - 3.15), 1.5, 0.9) * front
    return np.stack([x, y, surface], -1)


# ------------------------------------------------------------------------------------------------- vertices


def _half() -> tuple[Array, Array, Array, dict[str, tuple[int, int]], list[Array]]:
    """Points of the right half in the plane, with tags, named ranges, and the polygons that are cut out."""
    plane: list[Array] = []
    lip: list[Array] = []
    rim: list[Array] = []
    named: dict[str, tuple[int, int]] = {}
    count = 0

    def add(name: str, xy: Array, *, lips: float = 0.0, rims: float = 0.0, located: bool = True) -> Array:
        nonlocal count
        where = locate(xy[:, 0], xy[:, 1]) if located else xy
        plane.append(where)
        lip.append(np.full(len(xy), lips))
        rim.append(np.full(len(xy), rims))
        named[name] = (count, count + len(xy))
        count += len(xy)
        return where

    # Eye: loops of 24 points, clockwise from the inner corner along the upper lid
    s = (1 - np.cos(np.linspace(0, np.pi, 13))) / 2
    margin = np.concatenate([eye_contour(s, True), eye_contour(s[-2:0:-1], False)])
    outward = (margin - np.array([3.15, -3.45])) / np.array([1.5, 0.75]) ** 2
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    add("rim", margin - 0.09 * outward, rims=1.0)
    add("margin", margin)
    for number, distance in enumerate((0.1, 0.22, 0.36, 0.52, 0.72, 1.0)):
        add(f"around{number}", margin + distance * outward)
    # Lips: rows from above the upper lip to below the lower one
    s = np.linspace(0, 1, 12)
    s = s + 0.06 * np.sin(np.pi * s)
    upper, lower, slit = (lip_contour(s, which) for which in ("upper", "lower", "middle"))
    gap = np.array([0, LIP_GAP]) * (np.clip(1 - s, 0, 1) ** 0.5)[:, None]
    add("lips_above", (upper - np.array([0, 0.28]))[:-1])
    for number, share in enumerate((0.0, 0.3, 0.65, 1.0)):
        end = -1 if share else None
        add(f"upper{number}", (upper + share * (slit - gap - upper))[:end], lips=-1.0)
    for number, share in enumerate((1.0, 0.65, 0.3, 0.0)):
        add(f"lower{number}", (lower + share * (slit + gap - lower))[:-1], lips=1.0)
    add("lips_below", (lower + np.array([0, 0.3]))[:-1])
    around = np.array([(2.85, 3.0), (2.9, 3.3), (2.85, 3.6), (3.1, 3.3)])
    add("corner_round", around)
    # Landmarks elsewhere
    mean = MEAN70 * UNIT
    add("brow", mean[22:27, :2])
    add("bridge", mean[27:31, :2] * np.array([0, 1]))
    add("nostril", np.concatenate([mean[33:34, :2] * np.array([0, 1]), mean[34:36, :2]]))
    loops = count

    # Rest: grids of three densities in the plane, left out near what is there
    fixed = np.concatenate(plane)
    radius = 7.0
    at = np.stack([fixed[:, 0] * radius, length_along_front(fixed[:, 1])], -1)
    total = float(length_along_front(np.array([len(SECTIONS) - 1.0]))[0])
    from scipy.spatial import cKDTree

    taken = [at]

    def grid(step: float, low_a: float, high_a: float, low_b: float, high_b: float, clear: float, keep: object) -> None:
        rows = np.arange(low_b, high_b + 1e-6, step * 0.87)
        a = np.concatenate(
            [np.arange(low_a + (step / 2 if k % 2 else 0), high_a + 1e-6, step) for k in range(len(rows))]
        )
        b = np.concatenate(
            [
                np.full(len(np.arange(low_a + (step / 2 if k % 2 else 0), high_a + 1e-6, step)), row)
                for k, row in enumerate(rows)
            ]
        )
        points = np.stack([a, b], -1)
        where = np.stack([a / radius, section_at_length(b)], -1)
        place = loft(where[:, 0], where[:, 1])
        good = keep(place, where) if callable(keep) else np.ones(len(points), bool)
        distance, _ = cKDTree(np.concatenate(taken)).query(points)
        good &= distance > clear * step
        good &= ~((a > 0) & (a < 0.3 * step))
        taken.append(points[good])
        add(f"grid{len(named)}", where[good], located=False)

    eye_poly = margin
    mouth = np.concatenate([upper[:-1], upper[-1:], lower[-2::-1]])

    def outside(place: Array) -> NDArray[np.bool_]:
        flat = place[:, :2]
        return ~(_inside(flat, eye_poly) | _inside(flat, mouth))

    def nose(place: Array, where: Array) -> NDArray[np.bool_]:
        inside = (np.abs(place[:, 0]) < 2.3) & (place[:, 1] > -3.2) & (place[:, 1] < 1.8) & (where[:, 0] < 1)
        return np.asarray(inside & outside(place))

    def face(place: Array, where: Array) -> NDArray[np.bool_]:
        inside = (np.abs(place[:, 0]) < 6.0) & (place[:, 1] > -6.6) & (place[:, 1] < 8.2) & (where[:, 0] < 1.2)
        return np.asarray(inside & (where[:, 1] < 15.6) & outside(place))

    def front(place: Array, where: Array) -> NDArray[np.bool_]:
        return np.asarray(outside(place) & (where[:, 1] < 18))

    grid(0.27, 0.0, 4.0, 8.0, 30.0, 0.7, nose)
    grid(0.55, 0.0, 9.0, 4.0, 32.0, 0.75, face)
    grid(0.85, 0.0, 12.5, 1.0, 34.0, 0.8, front)
    grid(1.5, 0.0, np.pi * radius, 0.8, total, 0.8, lambda place, where: outside(place))
    b = np.linspace(0.8, total, 40)
    add("seam", np.stack([np.full(40, np.pi), section_at_length(b)], -1), located=False)
    add("crown", np.array([[0.0, 0.0], [np.pi / 3, 0.0], [2 * np.pi / 3, 0.0], [np.pi, 0.0]]), located=False)
    bottom = np.linspace(0, np.pi, 18)[1:-1]
    add("hem", np.stack([bottom, np.full(16, len(SECTIONS) - 1.0)], -1), located=False)
    del loops
    rims = margin - 0.09 * outward
    slit_poly = np.concatenate([(slit - gap), (slit + gap)[-2::-1]])
    return np.concatenate(plane), np.concatenate(lip), np.concatenate(rim), named, [rims, slit_poly]


def _inside(points: Array, polygon: Array) -> NDArray[np.bool_]:
    """Which points lie in a polygon (crossing number)."""
    a, b = polygon, np.roll(polygon, -1, 0)
    px, py = points[:, :1], points[:, 1:]
    crosses = (a[None, :, 1] > py) != (b[None, :, 1] > py)
    slope = (b[None, :, 0] - a[None, :, 0]) / np.where(b[:, 1] == a[:, 1], 1e-12, b[:, 1] - a[:, 1])[None]
    return np.asarray((crosses & (px < a[None, :, 0] + (py - a[None, :, 1]) * slope)).sum(1) % 2 == 1)


@lru_cache(1)
def template() -> Template:
    """The neutral head, made once."""
    from scipy.spatial import Delaunay

    plane, lip, rim, named, holes = _half()
    # Of points in the same place the first stays.
    flat = np.stack([plane[:, 0] * 7.0, length_along_front(plane[:, 1])], -1)
    triangles = Delaunay(flat, qhull_options="QJ Pp").simplices.astype(np.int64)
    base = loft(plane[:, 0], plane[:, 1])
    centre = base[triangles].mean(1)
    front = plane[triangles][:, :, 0].max(1) < 1.4
    cut = np.zeros(len(triangles), bool)
    for polygon in holes:
        cut |= front & _inside(centre[:, :2], polygon)
    triangles = triangles[~cut]
    a, b, c = (flat[triangles[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
    triangles = triangles[np.abs(area) > 1e-6]
    area = area[np.abs(area) > 1e-6]
    triangles[area > 0] = triangles[area > 0][:, ::-1]

    points = raise_features(base, plane[:, 0])
    # Neutral lips touch, and rims turn into the eye.
    for row, sign in (("upper3", 1.0), ("lower0", -1.0)):
        low, high = named[row]
        share = np.clip(1 - np.abs(base[low:high, 0]) / 2.55, 0, 1) ** 0.5
        points[low:high, 1] += sign * LIP_GAP * share
        points[low:high, 2] += 0.05
    low, high = named["rim"]
    points[low:high, 2] += 0.16

    # Mirror: the middle is shared, the seam at the back is doubled, so that it has two texture coordinates.
    middle = plane[:, 0] <= 1e-9
    count = len(plane)
    mirror = np.arange(count)
    other = np.cumsum(~middle) - 1 + count
    mirror[~middle] = other[~middle]
    flip = np.array([-1.0, 1.0, 1.0])
    everything = [
        np.concatenate([v, v[~middle] * m]) for v, m in ((points, flip), (base, flip), (plane, np.array([-1.0, 1.0])))
    ]
    mirrored = mirror[triangles][:, ::-1]
    whole_mirror = np.concatenate([mirror, np.flatnonzero(~middle)])
    weld = np.arange(len(whole_mirror))
    seam = np.flatnonzero(plane[:, 0] > np.pi - 1e-9)
    weld[mirror[seam]] = seam
    pole = np.flatnonzero(plane[:, 1] <= 1e-9)
    weld[pole] = weld[mirror[pole]] = pole[0]

    side = np.concatenate([np.where(middle, 0, 1.0), np.full((~middle).sum(), -1.0)])
    made = Template(
        points=everything[0],
        base=everything[1],
        plane=everything[2],
        triangles=np.concatenate([triangles, mirrored]),
        mirror=whole_mirror,
        weld=weld,
        landmarks=_landmarks(named, everything[0], whole_mirror),
        lip=np.concatenate([lip, lip[~middle]]),
        rim=np.concatenate([rim, rim[~middle]]),
        side=side,
    )
    for array in vars(made).values():
        array.setflags(write=False)
    return made


def _landmarks(named: dict[str, tuple[int, int]], points: Array, mirror: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertices of the 68 points: those on loops by name, the jaw by the nearest vertex to the mean jaw."""
    from scipy.spatial import cKDTree

    at = np.zeros(68, np.int64)
    first = {name: low for name, (low, _) in named.items()}
    mean = MEAN70 * UNIT
    outer = mean[8:17].copy()
    outer[0] = (0.0, 7.75, 0.05)
    outer[1:4, 2] -= 0.3
    right = np.flatnonzero(points[:, 0] > -1e-9)
    middle = np.flatnonzero(np.abs(points[:, 0]) < 1e-9)
    at[8] = middle[cKDTree(points[middle]).query(outer[0])[1]]
    at[9:17] = right[cKDTree(points[right]).query(outer[1:])[1]]
    at[22:27] = first["brow"] + np.arange(5)
    at[27:31] = first["bridge"] + np.arange(4)
    at[33:36] = first["nostril"] + np.arange(3)
    # Loop of 24: 0 the inner corner, 12 the outer one; iBUG's right eye: inner, upper 2, outer, lower 2
    at[42:48] = first["margin"] + np.array([0, 4, 8, 12, 16, 20])
    # Rows of lips: station 0 in the middle, 11 the corner (only on the contour)
    at[[51, 52, 53, 54]] = first["upper0"] + np.array([0, 3, 7, 11])
    at[[57, 56, 55]] = first["lower3"] + np.array([0, 4, 7])
    at[[62, 63, 64]] = [first["upper3"], first["upper3"] + 3, first["upper3"] + 10]
    at[[66, 65]] = [first["lower0"], first["lower0"] + 3]
    left = {
        **{k: 16 - k for k in range(8)},
        **{17 + k: 26 - k for k in range(5)},
        31: 35,
        32: 34,
        36: 45,
        37: 44,
        38: 43,
        39: 42,
        40: 47,
        41: 46,
        48: 54,
        49: 53,
        50: 52,
        59: 55,
        58: 56,
        60: 64,
        61: 63,
        67: 65,
    }
    for mine, others in left.items():
        at[mine] = mirror[at[others]]
    return at
