"""Backgrounds: out of focus, made from nothing but numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from mien.data.heads.chance import uniform
from mien.data.heads.figure import Columns
from mien.data.heads.params import SCENES

__all__ = ["background", "linear_from_srgb", "srgb_from_linear"]


def linear_from_srgb(value: torch.Tensor) -> torch.Tensor:
    """Linear light of sRGB values 0 to 1 (IEC 61966-2-1)."""
    return torch.where(value <= 0.04045, value / 12.92, ((value.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(value: torch.Tensor) -> torch.Tensor:
    """sRGB values 0 to 1 of linear light."""
    return torch.where(value <= 0.0031308, 12.92 * value, 1.055 * value.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def _clouds(seed: torch.Tensor, salt: int, cells: int, size: int) -> torch.Tensor:
    """(n, 1, size, size) smooth noise 0 to 1 with `cells` bumps across."""
    noise = uniform(seed, salt, (cells + 3) ** 2).view(-1, 1, cells + 3, cells + 3)
    wide = functional.interpolate(
        noise, size=(size + 3 * size // cells, size + 3 * size // cells), mode="bicubic", align_corners=False
    ).clamp(0, 1)
    edge = (wide.shape[-1] - size) // 2
    return wide[:, :, edge : edge + size, edge : edge + size]


def background(p: Columns, height: int, width: int) -> torch.Tensor:
    """(n, 3, height, width) linear light behind the figures."""
    n, seed, device = len(p["seed"]), p["seed"], p["seed"].device
    small = 40
    v, u = torch.meshgrid(
        torch.linspace(0, 1, small, device=device), torch.linspace(0, 1, small, device=device), indexing="ij"
    )
    colour = p["scene_colour"][:, :, None, None]
    light = (0.25 + 0.9 * p["scene_light"])[:, None, None, None]
    r = uniform(seed, 21, 64)

    def pick(k: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return (low + (high - low) * r[:, k])[:, None, None, None]

    def soft(edge: torch.Tensor, width: float = 0.035) -> torch.Tensor:
        return torch.sigmoid(edge / width)

    def tint(k: int, spread: float) -> torch.Tensor:
        return (r[:, k : k + 3] - 0.5)[:, :, None, None] * spread

    kind = p["scene"]
    plane = colour.expand(n, 3, small, small)
    scene = plane * (0.92 + 0.16 * _clouds(seed, 22, 3, small)) * (1 + pick(0, -0.25, 0.25) * (u - 0.5))
    gradient = plane * (1 + pick(1, -0.9, 0.9) * (u - 0.5) + pick(2, -0.9, 0.9) * (v - 0.5))
    vignette = 1 - 0.55 * ((u - pick(3)) ** 2 + (v - pick(4)) ** 2)
    # A room: wall, a window or a lamp, a shelf, a door or a picture
    room = (plane * 0.6 + 0.25 + tint(5, 0.2)) * (0.8 + 0.3 * _clouds(seed, 23, 2, small))
    x0, wide = pick(8), pick(9, 0.12, 0.5)
    window = soft(u - x0) * soft(x0 + wide - u) * soft(v - pick(10, -0.1, 0.3)) * soft(pick(11, 0.5, 0.9) - v)
    room = (
        room * (1 - window)
        + window
        * (1.1 + 0.5 * pick(12))
        * torch.stack([0.95 + 0 * r[:, 0], 0.98 + 0 * r[:, 0], 1.05 + 0 * r[:, 0]], 1)[:, :, None, None]
    )
    for k in range(4):
        at, tall = pick(13 + k), pick(17 + k, 0.04, 0.25)
        left = pick(21 + k, -0.3, 1.0)
        box = soft(v - at) * soft(at + tall - v) * soft(u - left) * soft(left + pick(25 + k, 0.1, 0.5) - u)
        room = room * (1 - 0.8 * box) + 0.8 * box * (0.3 + 0.5 * pick(29 + k) + tint(33 + k, 0.5))
    # Leaves: dappled greens
    leaves = 0.55 * _clouds(seed, 24, 7, small) + 0.45 * _clouds(seed, 25, 15, small)
    spots = (leaves - 0.45).clamp(0) * 2.2
    green = torch.stack(
        [
            0.16 + spots[:, 0] * (0.5 + 0.35 * r[:, 40, None, None]),
            0.21 + 0.85 * spots[:, 0],
            0.13 + 0.45 * spots[:, 0],
        ],
        1,
    )
    # A street: blocks of buildings under a sky
    skyline = 0.25 + 0.5 * _clouds(seed, 26, 6, small)[:, :, :1]
    building = soft(v - skyline * pick(41, 0.2, 1.2))
    facade = (0.25 + 0.4 * _clouds(seed, 27, 9, small)) * (0.8 + tint(42, 0.35))
    city = (
        building * facade
        + (1 - building)
        * torch.stack([0.70 + 0 * r[:, 0], 0.80 + 0 * r[:, 0], 0.95 + 0 * r[:, 0]], 1)[:, :, None, None]
    )
    # Lights in the dark
    bokeh = 0.12 * plane + 0.03
    for k in range(9):
        radius = pick(45 + k % 4, 0.03, 0.10)
        distance = ((u - pick((k * 7) % 60)) ** 2 + (v - pick((k * 11 + 5) % 60)) ** 2).sqrt()
        bokeh = bokeh + soft(radius - distance, 0.015) * (0.15 + 0.6 * pick(50 + k)) * (
            0.8 + tint(3 * k % 60, 0.7)
        ).clamp(0)
    stack = {
        "plain": scene,
        "gradient": gradient * vignette,
        "room": room,
        "foliage": green,
        "city": city,
        "bokeh": bokeh,
    }
    chosen = torch.zeros(n, 3, small, small, device=device)
    for number, name in enumerate(SCENES):
        chosen = torch.where((kind == number)[:, None, None, None], stack[name].expand_as(chosen), chosen)
    chosen = linear_from_srgb(chosen.clamp(0, 1.6)) * light
    return functional.interpolate(chosen, size=(height, width), mode="bilinear", align_corners=False)
