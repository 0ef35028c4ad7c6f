"""The whole figure: the head and what is set into it or put on it, as one mesh, moved by controls.

`model` builds everything at rest, once: triangles, parts, texture coordinates and the fields of
`mien.data.heads.fields` at every vertex. `mien.data.heads.figure` moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.heads.fields import SHAPE, UNITS, fields_at
from mien.data.heads.maps import fringe_weight, hairline, masks, recede_weight
from mien.data.heads.params import HAIR
from mien.data.heads.template import EYE, EYE_RADIUS, SECTIONS, loft, smoothstep, template

__all__ = ["CURTAIN_HANG", "EYE_SPAN", "LONG", "PARTS", "TWO_SIDED", "Model", "model"]

Array = NDArray[np.float64]

PARTS = (
    "head",
    "eye_left",
    "eye_right",
    "teeth",
    "cavity",
    "ear_left",
    "ear_right",
    "curtain",
    "bun",
    "frame",
    "lens",
    "hat",
    "brim",
    "mask",
    "hand",
    "earrings",
)
"""Meshes by name; left and right are the picture's."""

TWO_SIDED = ("curtain", "lens", "brim", "mask", "ear_left", "ear_right", "hat", "cavity", "teeth")

LONG = tuple(HAIR.index(name) for name in ("bob", "long", "wavy"))
"""Hair styles with a curtain."""


@dataclass(frozen=True, eq=False)
class Model:
    """The figure at rest.

    Coordinates come first everywhere, since torch works on planes of numbers several times faster than on triples.

    `neutral` (3, V) cm and `fields` (K, 3, V) float64; `triangles` (T, 3) and `part` (T,) its number into `PARTS`;
    `uv` (2, V) texture coordinates, whose meaning depends on the part; `two_sided` (T,); `slices`, the vertices of each
    part; `frames` (4, 3, F), the vertices of the glasses' frames by style; `weld` (V,); `landmarks` (68,) vertices;
    `outward` (3, H) unit normals of the neutral head; `hair` (H, 3) cm above the hairline, and how far a full fringe
    and a receding hairline move it; `beard` (H, 3) masks of moustache, goatee and full beard; `follow` (V,) how far a
    vertex follows the head (1) rather than the shoulders (0); `angle` (V,) angle on the loft, radians; `lids`, the
    vertices around each eye, which may not sink into its ball.
    """

    neutral: torch.Tensor
    fields: torch.Tensor
    triangles: torch.Tensor
    part: torch.Tensor
    uv: torch.Tensor
    two_sided: torch.Tensor
    slices: dict[str, slice]
    frames: torch.Tensor
    lenses: torch.Tensor
    weld: torch.Tensor
    landmarks: torch.Tensor
    outward: torch.Tensor
    hair: torch.Tensor
    beard: torch.Tensor
    follow: torch.Tensor
    angle: torch.Tensor
    lids: dict[str, torch.Tensor]


# ------------------------------------------------------------------------------------------------- small meshes

Mesh = tuple[Array, NDArray[np.int64], Array]
"""Vertices (V, 3), triangles (T, 3), texture coordinates (V, 2)."""


def grid(surface: Callable[[Array, Array], Array], rows: int, columns: int) -> Mesh:
    """A surface over u (columns) and v (rows), both 0 to 1."""
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    points = surface(u.ravel(), v.ravel())
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    uv = np.stack([u.ravel(), v.ravel()], -1)
    return points, triangles.astype(np.int64), uv


def tube(path: Array, radius: Array | float, *, closed: bool, sides: int = 6) -> Mesh:
    """A round tube along a path (k, 3)."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-12
    up = np.array([0.0, 0.0, 1.0]) if np.abs(ahead[:, 2]).max() < 0.9 else np.array([0.0, 1.0, 0.0])
    across = np.cross(ahead, up)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-12
    above = np.cross(across, ahead)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = np.cos(angle)[None, :, None] * across[:, None] + np.sin(angle)[None, :, None] * above[:, None]
    points = path[:, None] + ring * np.broadcast_to(np.asarray(radius), (len(path),))[:, None, None]
    at = np.arange(len(path) * sides).reshape(len(path), sides)
    low = at if closed else at[:-1]
    high = np.roll(at, -1, 0) if closed else at[1:]
    a, b, c, d = low, np.roll(low, -1, 1), high, np.roll(high, -1, 1)
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    u = np.repeat(np.linspace(0, 1, len(path)), sides)
    v = np.tile(np.arange(sides) / sides, len(path))
    return (
        points.reshape(-1, 3),
        _outwards(points.reshape(-1, 3), triangles.astype(np.int64), path),
        np.stack([u, v], -1),
    )


def _outwards(points: Array, triangles: NDArray[np.int64], path: Array) -> NDArray[np.int64]:
    """Turns all triangles round if most of them look at the path."""
    from scipy.spatial import cKDTree

    corner = points[triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    centre = corner.mean(1)
    nearest = path[cKDTree(path).query(centre)[1]]
    away = ((centre - nearest) * normal).sum(1)
    return triangles if (away > 0).mean() > 0.5 else triangles[:, ::-1]


def join(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    points, triangles, uvs, count = [], [], [], 0
    for p, t, uv in meshes:
        points.append(p)
        triangles.append(t + count)
        uvs.append(uv)
        count += len(p)
    return np.concatenate(points), np.concatenate(triangles), np.concatenate(uvs)


def ball(
    centre: tuple[float, float, float], radii: tuple[float, float, float], rows: int = 9, columns: int = 15
) -> Mesh:
    """An ellipsoid."""

    def surface(u: Array, v: Array) -> Array:
        a, b = -u * 2 * np.pi, v * np.pi
        return np.stack([np.sin(b) * np.cos(a), -np.cos(b), np.sin(b) * np.sin(a)], -1) * radii + centre

    points, triangles, uv = grid(surface, rows, columns)
    return points, _outwards(points, triangles, np.array([centre])), uv


def section_of(theta: Array, y: Array) -> Array:
    """Section t of the loft at angle theta and height y (bisection)."""
    low, high = np.zeros_like(y), np.full_like(y, len(SECTIONS) - 1.0)
    for _ in range(40):
        middle = (low + high) / 2
        above = loft(theta, middle)[..., 1] < y
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)


def _wider(points: Array, by: Array | float) -> Array:
    """Points moved away from the vertical axis of the skull, cm."""
    centre = np.array([0.0, -4.0, 7.0])
    away = points - centre
    away[..., 1] = np.minimum(away[..., 1], 0) * 1.0
    length = np.linalg.norm(away, axis=-1, keepdims=True) + 1e-9
    return np.asarray(
        points + away / length * np.asarray(by)[..., None] if np.ndim(by) else points + away / length * by
    )


# ------------------------------------------------------------------------------------------------- parts at rest


EYE_SPAN = 82.0
"""Degrees from the pupil to the edge of the drawn part of an eyeball."""


def _eye() -> Mesh:
    """The front of an eyeball about its centre, with the cornea's bulge; u around, v from 0 at the pupil."""

    def surface(u: Array, v: Array) -> Array:
        angle = v * np.radians(EYE_SPAN)
        radius = 0.985 * EYE_RADIUS * (1 + 0.045 * np.exp(-((angle / 0.42) ** 4)))
        around = u * 2 * np.pi
        return np.stack(
            [radius * np.sin(angle) * np.cos(around), radius * np.sin(angle) * np.sin(around), -radius * np.cos(angle)],
            -1,
        )

    points, triangles, uv = grid(surface, 11, 17)
    return points, _outwards(points, triangles, np.zeros((1, 3))), uv


def _teeth() -> tuple[Mesh, int]:
    """Both rows of teeth, and how many vertices the upper has."""

    def row(y0: float, y1: float) -> Mesh:
        def surface(u: Array, v: Array) -> Array:
            a = (u - 0.5) * np.radians(150)
            bulge = 0.10 * np.sin(np.pi * v)
            return np.stack([1.95 * np.sin(a), y0 + (y1 - y0) * v, -0.98 - bulge + 2.9 * (1 - np.cos(a))], -1)

        return grid(surface, 5, 25)

    upper, lower = row(2.45, 3.55), row(3.5, 4.3)
    return join(upper, lower), len(upper[0])


def _cavity() -> Mesh:
    """The inside of the mouth: a bowl behind the teeth, open to the front."""

    def surface(u: Array, v: Array) -> Array:
        a, b = (u - 0.5) * np.radians(170), (v - 0.5) * np.radians(170)
        return np.stack([2.75 * np.sin(a), 3.3 + 1.9 * np.sin(b), 1.3 + 2.2 * np.cos(a) * np.cos(b)], -1)

    return grid(surface, 8, 12)


EAR_AT = (6.95, -1.9, 6.2)


def _ear() -> tuple[Mesh, Array]:
    """The ear of the picture's right side, and each vertex's place in it."""

    def local(u: Array, v: Array) -> Array:
        a = u * 2 * np.pi
        rho = v
        # Broad above, a rounded lobe below
        c, s_ = np.cos(a), np.sin(a)
        wide = 1.62 * (1 - 0.26 * s_ - 0.05 * np.sin(2 * a))
        z = rho * wide * np.sign(c) * np.abs(c) ** 0.82 + 0.35 - 0.25 * rho * s_
        y = rho * 2.85 * np.sign(s_) * np.abs(s_) ** 0.9
        back = np.clip((z + 1.2) / 2.8, 0, 1.2)
        rim = (
            0.22
            * np.exp(-(((rho - 0.87) / 0.09) ** 2))
            * (0.4 + 0.6 * (np.cos(a) > -0.5))
            * smoothstep(np.sin(a), 0.9, 0.3)
        )
        fold = 0.20 * np.exp(-(((rho - 0.55) / 0.11) ** 2)) * smoothstep(np.cos(a), -0.4, 0.3)
        shell = 0.55 * np.exp(-((np.hypot(z + 0.1, (y - 0.25) / 1.2) / 0.55) ** 2))
        x = -0.1 + 1.15 * back + rim + fold - shell - 0.25 * smoothstep(rho, 0.92, 1.0)
        return np.stack([x, y, z], -1)

    points, triangles, uv = grid(local, 9, 25)
    return (points, _facing(points, triangles, np.array([1.0, 0.0, 0.0])), uv), points


def _facing(points: Array, triangles: NDArray[np.int64], way: Array) -> NDArray[np.int64]:
    corner = points[triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]).sum(0)
    return triangles if normal @ way > 0 else triangles[:, ::-1]


CURTAIN_ROWS, CURTAIN_COLUMNS = 26, 41
CURTAIN_HANG = 0.42
"""Share of the curtain's rows that lie on the skull; the rest hangs."""


def _curtain() -> tuple[Mesh, Array, Array]:
    """Hair that hangs: the part on the skull at rest and the straight fall of the rest from the level of the ears.

    v above `CURTAIN_HANG` is stretched to the length of the style in `pose_figure`.
    """

    def angles(u: Array, v: Array) -> tuple[Array, Array]:
        on = np.clip(v / CURTAIN_HANG, 0, 1)
        edge = np.radians(np.interp(v, [0, 0.12, 0.24, 0.36, 0.5, 0.8, 1], [22, 46, 58, 66, 68, 58, 56]))
        theta = edge + (2 * np.pi - 2 * edge) * u
        y = np.interp(on, [0, 1], [-12.2, -0.4]) + 0 * u
        return theta, y

    def surface(u: Array, v: Array) -> Array:
        theta, y = angles(u, v)
        t = section_of(theta, y)
        middle = np.minimum(u, 1 - u)
        rise = (0.25 + 0.95 * smoothstep(middle, 0.0, 0.16)) * smoothstep(v, -0.02, 0.12) + 0.1
        points = _wider(loft(theta, t), rise)
        fall = np.clip((v - CURTAIN_HANG) / (1 - CURTAIN_HANG), 0, 1)
        points[:, 0] *= 1 + 0.04 * np.sin(np.pi * fall) - 0.02 * fall
        points[:, 2] += -0.5 * fall * smoothstep(middle, 0.2, 0.0)
        return points

    points, triangles, uv = grid(surface, CURTAIN_ROWS, CURTAIN_COLUMNS)
    theta, y = angles(uv[:, 0], uv[:, 1])
    base = loft(theta, section_of(theta, y))
    return (points, _outwards(points, triangles, np.array([[0, -4.0, 7.0], [0, 2.0, 7.0]])), uv), base, theta


def _hat_edge(theta: Array) -> Array:
    """Height of a hat's lower edge."""
    return np.asarray(-7.9 + 3.4 * (1 - np.cos(theta)) / 2 * 1.4)


def _hat() -> tuple[Mesh, Array, Array]:
    def surface(u: Array, v: Array) -> Array:
        theta = -np.pi + 2 * np.pi * u
        t = section_of(theta, _hat_edge(theta)) * v
        return _wider(loft(theta, t), 0.75 + 0.35 * np.exp(-(((v - 0.9) / 0.09) ** 2)))

    points, triangles, uv = grid(surface, 13, 33)
    theta = -np.pi + 2 * np.pi * uv[:, 0]
    base = loft(theta, section_of(theta, _hat_edge(theta)) * uv[:, 1])
    return (points, _outwards(points, triangles, np.array([[0, -6.0, 7.0]])), uv), base, theta


def _brim() -> tuple[Mesh, Array, Array]:
    def surface(u: Array, v: Array) -> Array:
        theta = np.radians(-62 + 124 * u)
        inner = _wider(loft(theta, section_of(theta, _hat_edge(theta))), 1.0)
        out = 6.2 * np.cos(theta * 1.25) ** 0.7
        return inner + np.stack([0.12 * inner[:, 0] * v, 1.2 * v + 0.9 * v * (inner[:, 0] / 6) ** 2, -out * v], -1)

    points, triangles, uv = grid(surface, 5, 19)
    theta = np.radians(-62 + 124 * uv[:, 0])
    base = loft(theta, section_of(theta, _hat_edge(theta)))
    return (points, _facing(points, triangles, np.array([0.0, -1.0, 0.0])), uv), base, theta


def _mask() -> tuple[Mesh, Array, Array]:
    def where(u: Array, v: Array) -> tuple[Array, Array]:
        theta = np.radians(-74 + 148 * u)
        a = np.abs(np.degrees(theta))
        top = np.interp(a, [0, 12, 30, 50, 74], [-2.0, -1.2, -0.6, 0.3, 0.8])
        bottom = np.interp(a, [0, 25, 50, 74], [8.0, 7.6, 6.2, 3.6])
        return theta, section_of(theta, top + (bottom - top) * v)

    def surface(u: Array, v: Array) -> Array:
        theta, t = where(u, v)
        points = loft(theta, t)
        tent = np.interp(points[:, 1], [-2.2, -0.5, 0.6, 2, 4, 6, 8.0, 9], [1.2, 2.35, 2.75, 2.2, 1.45, 0.95, 0.5, 0.3])
        wide = np.interp(points[:, 1], [-2.0, 0.5, 4, 8], [1.3, 2.3, 3.2, 3.6])
        points[:, 2] -= (
            tent * np.exp(-((np.abs(points[:, 0]) / wide) ** 2)) + 0.42 * smoothstep(np.cos(theta), 0.25, 0.5) + 0.02
        )
        points[:, 0] *= 1.035
        return points

    points, triangles, uv = grid(surface, 15, 25)
    theta, t = where(uv[:, 0], uv[:, 1])
    return (points, _facing(points, triangles, np.array([0.0, 0.0, -1.0])), uv), loft(theta, t), theta


def _hand() -> Mesh:
    """An open hand with its wrist, palm to the face, about the middle of the palm; y up is -."""
    fingers = []
    for x, base, length, tilt in (
        (-2.9, -3.6, 6.0, -0.13),
        (-1.0, -4.3, 7.3, -0.04),
        (0.95, -4.3, 7.0, 0.04),
        (2.8, -3.5, 5.4, 0.14),
    ):
        s = np.linspace(0, 1, 9)
        path = np.stack([x + tilt * length * s, base - length * s, 0.6 * s**2], -1)
        fingers.append(tube(path, 0.88 * np.array([1, 1.02, 1, 0.97, 1, 0.95, 0.9, 0.75, 0.2]), closed=False, sides=9))
    s = np.linspace(0, 1, 9)
    thumb = np.stack([3.2 + 2.9 * s, 1.2 - 3.9 * s, -0.2 + 0.4 * s], -1)
    fingers.append(tube(thumb, 1.05 * np.array([1.1, 1.1, 1.05, 1, 0.98, 1, 0.95, 0.8, 0.2]), closed=False, sides=9))
    wrist = np.stack([0 * s, 3.0 + 16 * s, 0.2 + 0 * s], -1)
    fingers.append(tube(wrist, np.array([2.7, 2.6, 2.6, 2.7, 2.8, 3.0, 3.1, 3.2, 3.3]), closed=False, sides=11))
    return join(ball((0, 0, 0), (4.1, 5.2, 1.5), 11, 17), *fingers)


def _frames() -> tuple[list[Mesh], list[Mesh]]:
    """Frames and lenses by style, of equal topology, at rest before the eyes."""

    def wrap(x: Array) -> Array:
        return np.asarray(-2.75 + 0.055 * x**2)

    frames, lenses = [], []
    for width, height, power, drop, thick in (
        (2.55, 1.65, 5.0, 0.0, 0.15),
        (2.25, 2.15, 2.0, 0.0, 0.12),
        (2.75, 2.25, 2.4, 0.35, 0.11),
        (2.6, 1.6, 3.6, 0.0, 0.16),
    ):
        meshes, panes = [], []
        for sign in (1.0, -1.0):
            a = np.linspace(0, 2 * np.pi, 29)[:-1]
            cx = 3.35
            x = cx + width * np.sign(np.cos(a)) * np.abs(np.cos(a)) ** (2 / power) - drop * 0.6 * np.sin(a)
            y = -3.35 + height * np.sign(np.sin(a)) * np.abs(np.sin(a)) ** (2 / power)
            y = y + drop * (np.abs(x - cx) / width) * 0 + drop * (y > -3.35)
            radius = np.full(28, thick)
            if power == 3.6:
                radius = np.where(np.sin(a) > 0.25, 0.02, thick)
            path = np.stack([sign * x, y, wrap(x)], -1)
            meshes.append(tube(path, radius, closed=True, sides=5))
            centre = np.array([[sign * cx, path[:, 1].mean(), wrap(np.array([cx]))[0] - 0.12]])
            rim = np.concatenate([path, centre])
            fan = np.stack([np.arange(28), np.roll(np.arange(28), -1), np.full(28, 28)], -1)
            panes.append((rim, fan.astype(np.int64), np.stack([rim[:, 0] * sign / 6, (rim[:, 1] + 5.6) / 4.5], -1)))
            s = np.linspace(0, 1, 9)
            outer = cx + width
            side = np.stack(
                [
                    sign * (outer + (7.35 - outer) * s**0.6),
                    -4.0 + 0.1 * s + 1.3 * np.clip(s - 0.88, 0, 1) * 6,
                    wrap(np.array([outer]))[0] + (7.4 - wrap(np.array([outer]))[0]) * s,
                ],
                -1,
            )
            meshes.append(tube(side, thick * 0.9, closed=False, sides=5))
        s = np.linspace(-1, 1, 7)
        inner = 3.35 - width
        bridge = np.stack([s * (inner + 0.05), -3.9 - 0.28 * (1 - s**2), wrap(s * 0) - 0.12 * (1 - s**2)], -1)
        meshes.append(tube(bridge, thick, closed=False, sides=5))
        frames.append(join(*meshes))
        lenses.append(join(*panes))
    return frames, lenses


@lru_cache(1)
def model() -> Model:
    """The figure at rest, built once (a second or two)."""
    head = template()
    neutral: list[Array] = []
    base: list[Array] = []
    theta: list[Array] = []
    ear: list[Array] = []
    still: list[NDArray[np.bool_]] = []
    uvs: list[Array] = []
    triangles: list[NDArray[np.int64]] = []
    part: list[NDArray[np.int64]] = []
    slices: dict[str, slice] = {}
    count = 0

    def add(
        name: str,
        mesh: Mesh,
        *,
        at: tuple[float, float, float] | None = None,
        on: tuple[Array, Array] | None = None,
        in_ear: Array | None = None,
        moves: bool = False,
    ) -> None:
        nonlocal count
        points, faces, uv = mesh
        n = len(points)
        if on is not None:
            base.append(on[0])
            theta.append(on[1])
        else:
            assert at is not None
            base.append(np.broadcast_to(np.array(at), (n, 3)).copy())
            theta.append(np.full(n, np.arctan2(at[0], 6.3 - at[2])))
        neutral.append(points)
        uvs.append(uv)
        ear.append(np.zeros((n, 3)) if in_ear is None else in_ear)
        still.append(np.full(n, not moves))
        triangles.append(faces + count)
        part.append(np.full(len(faces), PARTS.index(name) if name in PARTS else -1))
        slices[name] = slice(count, count + n)
        count += n

    flat = np.stack([head.plane[:, 0] / np.pi, head.plane[:, 1] / (len(SECTIONS) - 1)], -1)
    add("head", (head.points, head.triangles, flat), on=(head.base, head.plane[:, 0]), moves=True)
    eye = _eye()
    for name, sign in (("eye_left", -1.0), ("eye_right", 1.0)):
        centre = (sign * EYE[0], EYE[1], EYE[2])
        add(name, (eye[0] + np.array(centre), eye[1], eye[2]), at=centre)
    teeth, upper = _teeth()
    add("teeth", teeth, at=(0.0, 3.2, -1.6), moves=True)
    base[-1][:upper] = (0.0, 2.6, -1.6)
    base[-1][upper:] = (0.0, 4.4, -1.6)
    still[-1][:upper] = True
    add("cavity", _cavity(), at=(0.0, 2.4, 0.0))
    shape, place = _ear()
    mirrored = np.array([-1.0, 1.0, 1.0])
    for name, sign in (("ear_left", -1.0), ("ear_right", 1.0)):
        at = (sign * EAR_AT[0], EAR_AT[1], EAR_AT[2])
        points = (shape[0] if sign > 0 else shape[0] * mirrored) + np.array(at)
        faces = shape[1] if sign > 0 else shape[1][:, ::-1]
        add(name, (points, faces, shape[2]), at=at, in_ear=place if sign > 0 else place * mirrored)
    curtain, under, around = _curtain()
    add("curtain", curtain, on=(under, around))
    add("bun", ball((0, -11.2, 17.0), (3.4, 3.1, 2.6)), at=(0.0, -11.0, 15.0))
    frames, lenses = _frames()
    add("frame", frames[0], at=(0.0, -12.0, 30.0))
    add("lens", lenses[0], at=(0.0, -12.0, 30.0))
    hat, under, around = _hat()
    add("hat", hat, on=(under, around))
    brim, under, around = _brim()
    add("brim", brim, on=(under, around))
    mask, under, around = _mask()
    add("mask", mask, on=(under, around), moves=True)
    add("hand", _hand(), at=(0.0, -12.0, 30.0))
    rings = [ball((sign * 7.75, 1.15, 6.1), (0.3, 0.42, 0.3), 6, 8) for sign in (-1.0, 1.0)]
    add("earrings", join(*rings), at=(EAR_AT[0], EAR_AT[1], EAR_AT[2]))
    half = len(rings[0][0])
    base[-1][:half, 0] *= -1
    # Places without a mesh that others are hung on
    anchors = {
        "at_eye_left": (-EYE[0], EYE[1], EYE[2]),
        "at_eye_right": EYE,
        "at_nose_root": (0.0, -3.6, -2.0),
        "at_temple": (7.3, -4.0, 5.5),
        "at_nose_tip": (0.0, 0.05, -4.2),
    }
    for name, at in anchors.items():
        add(name, (np.array([at]), np.zeros((0, 3), np.int64), np.zeros((1, 2))), at=at)

    everything = np.concatenate(neutral)
    fields = fields_at(
        everything, np.concatenate(base), np.concatenate(theta), np.concatenate(ear), np.concatenate(still)
    )
    names = [*SHAPE, "sagging", *UNITS]
    heads = slices["head"]
    fields[:, heads] = fields[:, heads][:, head.weld]
    for name in ("eye_left", "eye_right", "at_eye_left", "at_eye_right"):
        for local in ("eye_opening", "lid_fold", "inner_fold", "uneven_eyes", "eye_size", "sagging", "brow_ridge"):
            fields[names.index(local), slices[name]] = 0
    for name in ("curtain", "hat", "brim", "bun"):
        for local in (
            "forehead_bulge",
            "brow_ridge",
            "brow_height",
            "brow_tilt",
            "sagging",
            "eye_distance",
            "fat",
            "cheek_fullness",
        ):
            fields[names.index(local), slices[name]] = 0
    faces = np.concatenate(triangles)
    weld = np.arange(count)
    weld[heads] = head.weld
    corner = head.points[head.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    outward = np.zeros_like(head.points)
    for k in range(3):
        np.add.at(outward, head.weld[head.triangles[:, k]], normal)
    outward = outward[head.weld]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + 1e-12
    parts = np.concatenate(part)
    follow = smoothstep(np.concatenate(base)[:, 1], 14.5, 8.5)
    for name in ("frame", "lens", "hand", "hat", "brim", "bun"):
        follow[slices[name]] = 1
    around = base[0][head.triangles].mean(1)
    cheeks = np.zeros(len(faces), bool)
    y, z = around[:, 1], around[:, 2]
    # What may be seen from within through an open mouth: cheeks, and the back of the head behind all
    cheeks[: len(around)] = ((y > 1.2) & (y < 8.6) & (z < 8)) | ((z >= 8) & (y > -8) & (y < 11))
    angle = head.plane[:, 0]
    found = masks(head.base, angle)
    single = torch.float32
    return Model(
        neutral=torch.tensor(everything.T.copy(), dtype=single),
        fields=torch.tensor(fields.transpose(0, 2, 1).copy(), dtype=torch.float64),
        triangles=torch.tensor(faces),
        part=torch.tensor(parts),
        uv=torch.tensor(np.concatenate(uvs).T.copy(), dtype=single),
        two_sided=torch.tensor(np.isin(parts, [PARTS.index(name) for name in TWO_SIDED]) | cheeks),
        slices=slices,
        frames=torch.tensor(np.stack([mesh[0].T for mesh in frames]), dtype=single),
        lenses=torch.tensor(np.stack([mesh[0].T for mesh in lenses]), dtype=single),
        weld=torch.tensor(weld),
        landmarks=torch.tensor(head.landmarks),
        outward=torch.tensor(outward.T.copy(), dtype=single),
        hair=torch.tensor(
            np.stack([hairline(head.base, angle), fringe_weight(angle), recede_weight(angle)], -1), dtype=single
        ),
        beard=torch.tensor(np.stack([found[name] for name in ("moustache", "goatee", "beard")], -1), dtype=single),
        follow=torch.tensor(follow, dtype=single),
        angle=torch.tensor(np.concatenate(theta), dtype=single),
        lids={
            name: torch.tensor(
                np.flatnonzero(
                    (np.hypot(head.base[:, 0] - sign * EYE[0], head.base[:, 1] - EYE[1]) < 1.75)
                    & (head.rim == 0)
                    & (np.cos(angle) > 0.3)
                )
            )
            for name, sign in (("eye_left", -1.0), ("eye_right", 1.0))
        },
    )
