"""Light on the figure: surroundings as spherical harmonics, a key light with a soft shadow, occlusion, skin's bleeding.

Lighting is done at the vertices, which lie closer together than a small picture's pixels; colour is done per pixel.
Irradiance of the harmonics after R. Ramamoorthi and P. Hanrahan (2001); shadows are a depth map from the light, read at
several places around each vertex (W. Reeves et al., 1987); the width of the terminator differs by colour, red most, as
light wanders in skin (after the wrapped diffuse term of S. Green, GPU Gems, 2004).
"""

from __future__ import annotations

from functools import lru_cache

import torch

from mien.data.heads.figure import Columns, vertex_normals
from mien.data.heads.parts import PARTS, Model
from mien.data.heads.raster import rasterise

__all__ = ["key_light", "lit", "occlusion", "warmth"]

_MAP = 80
"""Pixels of the shadow map's sides."""

_REACH = 17.0
"""Half its side, cm."""

_WRAP = (0.34, 0.16, 0.10)


def warmth(value: torch.Tensor) -> torch.Tensor:
    """(n, 3) colour of light from -1 (blue) to 1 (tungsten), of equal luminance."""
    tint = torch.stack([0.26 * value, 0.02 * value, -0.30 * value], -1).exp()
    weights = torch.tensor([0.2126, 0.7152, 0.0722], device=value.device)
    return tint / (tint @ weights)[:, None]


def key_light(p: Columns) -> torch.Tensor:
    """(n, 3) unit vectors towards the key light."""
    azimuth, elevation = torch.deg2rad(p["key_direction"]).unbind(-1)
    return torch.stack([azimuth.sin() * elevation.cos(), -elevation.sin(), -azimuth.cos() * elevation.cos()], -1)


def _frame(towards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two unit vectors across directions (n, 3)."""
    aside = torch.where(
        towards[:, 1:2].abs() > 0.9,
        torch.tensor([1.0, 0.0, 0.0], device=towards.device),
        torch.tensor([0.0, 1.0, 0.0], device=towards.device),
    )
    right = torch.linalg.cross(aside.expand_as(towards), towards)
    right = right / right.norm(dim=-1, keepdim=True)
    return right, torch.linalg.cross(towards, right)


def _seen_from(
    points: torch.Tensor,
    towards: torch.Tensor,
    triangles: torch.Tensor,
    two_sided: torch.Tensor,
    shown: torch.Tensor,
    size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth map (n, size, size) from a distant light, and the points in its pixels and depth (3, n, V)."""
    right, down = _frame(towards)
    scale = size / 2 / _REACH
    local = points - torch.tensor([0.0, -1.0, 6.0], device=points.device)[:, None, None]

    def along(axis: torch.Tensor) -> torch.Tensor:
        return local[0] * axis[:, :1] + local[1] * axis[:, 1:2] + local[2] * axis[:, 2:]

    # right x down points away from the light, as x, y, z of a picture do.
    middle = (size - 1) / 2
    flat = torch.stack([along(right) * scale + middle, along(down) * scale + middle, 60 - along(towards)])
    drawn = rasterise(flat, triangles, size, size, shown=shown, two_sided=two_sided)
    return drawn.depth, flat


_DISK = torch.tensor(
    [(0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.6, 0.6), (-0.6, 0.6), (0.6, -0.6), (-0.6, -0.6)]
)


def _reached(depth: torch.Tensor, flat: torch.Tensor, spread: torch.Tensor, bias: float) -> torch.Tensor:
    """(n, V) share of the light that reaches each point."""
    n, size = len(depth), depth.shape[1]
    taps = _DISK.to(depth.device)[None] * (spread * size / 2 / _REACH)[:, None, None]
    reached = torch.zeros_like(flat[0])
    base = (torch.arange(n, device=depth.device) * size * size)[:, None]
    values = depth.flatten()
    limit = flat[2] - bias
    for k in range(taps.shape[1]):
        x = (flat[0] + taps[:, k, :1]).round_().clamp_(0, size - 1)
        y = (flat[1] + taps[:, k, 1:]).round_().clamp_(0, size - 1)
        pixel = y.mul_(size).add_(x).long().add_(base)
        reached += (values.index_select(0, pixel.flatten()).view_as(limit) >= limit).float()
    return reached / taps.shape[1]


@lru_cache(1)
def occlusion(model: Model) -> torch.Tensor:
    """(V,) share of the open sky each vertex of the bare neutral head sees, weighted by the cosine."""
    points = model.neutral[:, None]
    normals = vertex_normals(points, model.triangles, model.weld)[:, 0]
    bare = torch.tensor(
        [PARTS.index(name) for name in ("head", "ear_left", "ear_right", "eye_left", "eye_right", "teeth", "cavity")]
    )
    shown = torch.isin(model.part, bare)[None]
    # Directions evenly over the sphere (Fibonacci)
    count = 64
    k = torch.arange(count) + 0.5
    y = 1 - 2 * k / count
    angle = k * 2.399963
    r = (1 - y * y).sqrt()
    directions = torch.stack([r * angle.cos(), y, r * angle.sin()], -1)
    total, weight = torch.zeros_like(normals[0]), torch.zeros_like(normals[0])
    for direction in directions:
        cosine = (direction @ normals).clamp(0)
        depth, flat = _seen_from(points, direction[None], model.triangles, model.two_sided, shown, 128)
        total += cosine * _reached(depth, flat, torch.tensor([0.35]), 0.45)[0]
        weight += cosine
    sky = total / (weight + 1e-6)
    for name in ("curtain", "bun", "frame", "lens", "hat", "brim", "mask", "hand", "earrings"):
        sky[model.slices[name]] = 1.0
    # They were looked at through closed lips.
    sky[model.slices["teeth"]], sky[model.slices["cavity"]] = 0.62, 0.35
    return sky


def lit(
    points: torch.Tensor,
    normals: torch.Tensor,
    p: Columns,
    triangles: torch.Tensor,
    part: torch.Tensor,
    shown: torch.Tensor,
    two_sided: torch.Tensor,
    sky: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Light at the vertices.

    Parameters
    ----------
    points, normals : (3, n, V)
        The posed figure.
    p
        Controls.
    triangles, part, shown, two_sided
        Triangles (T, 3), their parts (T,), which are there (n, T), and which have no inside (T,).
    sky : (V,)
        See `occlusion`.

    Returns
    -------
    diffuse (3, n, V), relative to a white surface in usual light; gloss (3, n, V), the mirrored part for a surface of
    unit reflectance, to be scaled by the material.
    """
    towards = key_light(p)
    casts = torch.ones(len(PARTS), dtype=torch.bool, device=points.device)
    casts[[PARTS.index(name) for name in ("eye_left", "eye_right", "teeth", "cavity", "lens", "earrings")]] = False
    mask = shown & casts[part]
    depth, flat = _seen_from(points, towards, triangles, two_sided, mask, _MAP)
    reached = _reached(depth, flat, p["key_softness"], 0.42)
    x, y, z = normals
    facing = x * towards[:, :1] + y * towards[:, 1:2] + z * towards[:, 2:]
    # Where a surface turns away from the light it is no shadow that ends the light but the terminator.
    soft = (facing * (1 / 0.35)).clamp(0, 1)
    dark = sky**1.15
    # The edge of a shadow on skin is reddish, and light inside of folds has bounced off skin.
    shadows = (reached * (1.25 - 0.25 * reached), reached, reached * (0.9 + 0.1 * reached))
    bounced = (dark**0.8, dark, dark**1.08)
    c = [column[:, None] for column in p["ambient"].T]
    around = (
        c[0]
        + (2 / 3) * (c[1] * x + c[2] * y + c[3] * z)
        + 0.45 * (c[4] * x * y + c[5] * y * z + c[7] * x * z + c[8] * (x * x - y * y))
    )
    around = (around + 0.125 * c[6] * (3 * z * z - 1)).clamp_(0.05)
    share = p["key_share"][:, None]
    ambient_colour, key_colour = warmth(p["ambient_warmth"]).T[..., None], warmth(p["key_warmth"]).T[..., None]
    # Together about 1 on a surface that faces both.
    ambient_part, key_part = 1.02 * (1 - share) * around, 1.42 * share * (0.55 + 0.45 * dark)
    diffuse = torch.stack(
        [
            ambient_part * bounced[k] * ambient_colour[k]
            + ((facing + _WRAP[k]) * (1 / (1 + _WRAP[k]))).clamp_(0)
            * (0.35 + 0.65 * shadows[k] + soft * 0.35 * (shadows[k] - 1))
            * key_part
            * key_colour[k]
            for k in range(3)
        ]
    )
    # Mirrored light: a lobe of the key, and a broad one of the surroundings at grazing angles
    vx, vy, vz = -points[0], -points[1], -points[2] - p["distance"][:, None]
    near = (vx * vx + vy * vy + vz * vz).rsqrt_()
    vx, vy, vz = vx * near, vy * near, vz * near
    hx, hy, hz = vx + towards[:, :1], vy + towards[:, 1:2], vz + towards[:, 2:]
    lobe = (x * hx + y * hy + z * hz).clamp_(0) * (hx * hx + hy * hy + hz * hz + 1e-9).rsqrt_()
    grazing = ((1 - (x * vx + y * vy + z * vz).clamp_(0, 1)) ** 2) ** 2
    squared = lobe * lobe
    eighth = (squared * squared) ** 2
    tight = (eighth * eighth) ** 2 * (1.6 * squared * squared) + eighth * (0.5 * squared)
    own, broad = share * tight * reached * (facing > 0), (1 - share) * (0.12 + 1.3 * grazing) * around * dark
    gloss = torch.stack([own * key_colour[k] + broad * ambient_colour[k] for k in range(3)])
    return diffuse, gloss
