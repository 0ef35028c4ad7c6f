"""From controls to pictures and their ground truth.

    parameters = sample(64, seed=1)
    heads = render(parameters, size=112)
    heads.image                  (64, 112, 112, 3) uint8 RGB
    heads.landmarks_2d           (64, 68, 2) pixels

A picture is drawn as games draw: triangles at twice the resolution (`raster`), one shaded sample for each pixel whose
four quarters show the same surface, four where an edge runs through it, light from the vertices (`light`), colour from
formulas (`shade`), then exposure, tone curve and camera noise. Ground truth that is a map is drawn at pixel centres.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.heads.chance import grain_noise, normal
from mien.data.heads.fields import UNITS
from mien.data.heads.figure import Camera, Columns, camera, columns, pose_figure, shown_parts, vertex_normals
from mien.data.heads.light import key_light, lit, occlusion
from mien.data.heads.params import HeadParameters
from mien.data.heads.parts import PARTS, TWO_SIDED, Model, model
from mien.data.heads.raster import interpolate, rasterise, weights_at
from mien.data.heads.scenery import background, srgb_from_linear
from mien.data.heads.shade import Places, Surface, palette, shade, skin_colour
from mien.errors import DeviceUnavailable, MissingColumn, OptionError

__all__ = ["EVERYTHING", "Heads", "render"]

EVERYTHING = ("image", "landmarks", "depth", "normals", "parsing", "parts", "uv", "thermal")
"""What can be asked for; the rest (pose, expression, attributes …) costs nothing and always comes."""


@dataclass(frozen=True, eq=False)
class Heads:
    """`n` pictures and what is in them; arrays of numpy. Maps that were not asked for raise `MissingColumn`.

    Parameters
    ----------
    image : (n, H, W, 3) uint8
        RGB.
    landmarks_2d : (n, 68, 2) float32
        Pixels, iBUG order, left and right as seen.
    landmarks_3d : (n, 68, 3) float32
        x and y as above; z in the same unit, smaller is nearer, 0 at the middle of the head.
    visible : (n, 68) bool
        Inside the picture and hidden by nothing thicker than half a centimetre (a full beard hides,
        stubble does not).
    pose : (n, 3) float32
        Yaw, pitch, roll, degrees; conventions of `mien.geometry.pose`.
    depth : (n, H, W) float32
        Along the optical axis, cm; inf at the background.
    normals : (n, H, W, 3) float32
        Unit, axes of the picture (x right, y down, z away); 0 at the background.
    parsing : (n, H, W) uint8
        Classes of `PARSING`. Masks and hands are background, as in CelebAMask-HQ; `parts` tells them apart.
    parts : (n, H, W) uint8
        Mesh at each pixel, number into `PARTS`; 255 is the background.
    uv : (n, H, W, 2) float32
        Texture coordinates: on the head u from -1 to 1 around and v from 0 at the crown to 1; NaN at the background.
    celsius : (n, H, W) float32
        Apparent temperature in the long-wave infrared.
    thermal : (n, H, W) uint8
        The same as a camera shows it, 18 to 40 degrees from black to white.
    attributes : (n, 36) bool
        Columns `ATTRIBUTES`.
    expression : (n,) int64
        Number into `EXPRESSIONS`.
    valence, arousal : (n,) float32
        -1 to 1.
    parameters
        Every control.
    """

    parameters: HeadParameters
    pose: NDArray[np.float32]
    attributes: NDArray[np.bool_]
    expression: NDArray[np.int64]
    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    maps: dict[str, NDArray[Any]]

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name == "maps" or name.startswith("__"):
            raise AttributeError(name)
        if name in self.maps:
            return self.maps[name]
        if name in _MAPS:
            raise MissingColumn(name, columns=self.maps)
        raise AttributeError(f"Heads has no {name!r}")

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, rows: Any) -> Self:
        index = np.arange(len(self))[rows].reshape(-1)
        cut = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "maps"}
        return type(self)(**cut, maps={name: array[index] for name, array in self.maps.items()})

    @classmethod
    def concat(cls, parts: list[Heads]) -> Heads:
        """All rows, one after the other."""
        return Heads(
            parameters=HeadParameters.concat([part.parameters for part in parts]),
            maps={name: np.concatenate([part.maps[name] for part in parts]) for name in parts[0].maps},
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("pose", "attributes", "expression", "valence", "arousal")
            },
        )


_MAPS = (
    "image",
    "landmarks_2d",
    "landmarks_3d",
    "visible",
    "depth",
    "normals",
    "parsing",
    "parts",
    "uv",
    "celsius",
    "thermal",
)

_MODELS: dict[torch.device, tuple[Model, torch.Tensor]] = {}


def _model_on(device: torch.device) -> tuple[Model, torch.Tensor]:
    """The figure and its occlusion on a device."""
    if device not in _MODELS:
        figure = model()
        sky = occlusion(figure)
        moved = {f.name: getattr(figure, f.name) for f in fields(Model)}
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in moved.items()}
        moved["lids"] = {name: value.to(device) for name, value in figure.lids.items()}
        _MODELS[device] = Model(**moved), sky.to(device)
    return _MODELS[device]


def render(
    parameters: HeadParameters,
    *,
    size: int | tuple[int, int] = 112,
    device: str = "cpu",
    what: Iterable[str] = ("image", "landmarks"),
    batch: int | None = None,
) -> Heads:
    """Draws every row of `parameters`.

    Parameters
    ----------
    parameters
        Controls, as from `sample`.
    size
        Side in pixels, or height and width.
    device
        Where torch works: "cpu", "cuda", …
    what
        Of `EVERYTHING`: what is computed besides pose, expression, attributes and controls.
    batch
        Rows that are drawn together; it changes speed and memory only. Default: 8 on the CPU, whose cache that fits, 64
        elsewhere.

    Raises
    ------
    OptionError
        Unknown `what`, or a size that is no picture.
    DeviceUnavailable
        No such device here.
    """
    height, width = (size, size) if isinstance(size, int) else size
    wanted = set(what)
    for name in wanted:
        if name not in EVERYTHING:
            raise OptionError.unknown("unknown ground truth", name, EVERYTHING)
    if min(height, width) < 8 or (batch is not None and batch < 1):
        raise OptionError(
            "no picture is that small", got=f"{height} x {width}, batch {batch}", expected="8 pixels or more"
        )
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailable("torch has no such device here", got=device) from error
    batch = batch or (8 if place.type == "cpu" else 64)
    figure, sky = _model_on(place)
    order = _alike(parameters)
    parts: list[dict[str, NDArray[Any]]] = []
    with torch.inference_mode():
        for first in range(0, len(parameters), batch):
            rows = parameters[order[first : first + batch]]
            maps = _draw(columns(rows, place), figure, sky, height, width, wanted)
            parts.append({name: value.cpu().numpy() for name, value in maps.items()})
    back = np.argsort(order, kind="stable")
    from mien.data.heads.attributes import attributes

    if not parts:
        parts = [{}]
    return Heads(
        parameters=parameters,
        pose=parameters.pose,
        attributes=attributes(parameters),
        expression=parameters.expression,
        valence=parameters.valence,
        arousal=parameters.arousal,
        maps={name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]},
    )


def _alike(parameters: HeadParameters) -> NDArray[np.int64]:
    """An order of the rows in which those with the same meshes lie together: a batch costs what its meshes cost."""
    names = ("hair_style", "glasses", "hat", "occluder", "earrings")
    shown = shown_parts({name: torch.from_numpy(getattr(parameters, name).copy()) for name in ("seed", *names)}).numpy()
    rare = shown @ (shown.sum(0).max(initial=0) - shown.sum(0) + 1.0)
    return np.lexsort((shown @ (1 << np.arange(shown.shape[1])), rare))


def _draw(
    p: Columns, figure: Model, sky: torch.Tensor, height: int, width: int, wanted: set[str]
) -> dict[str, torch.Tensor]:
    """Everything that was asked of one batch."""
    points, spots = pose_figure(p, figure)
    eye = camera(p, height, width)
    flat = eye.project(points)
    present = shown_parts(p)
    # Meshes that no row of the batch has are not looked at further.
    any_row = present.any(0)
    used = any_row[figure.part].nonzero()[:, 0]
    part, two_sided = figure.part[used], figure.two_sided[used]
    alive = torch.zeros(points.shape[2], dtype=torch.bool, device=points.device)
    triangles = figure.triangles[used]
    alive[triangles.flatten()] = True
    alive[figure.weld[triangles.flatten()]] = True
    live = alive.nonzero()[:, 0]
    number = alive.cumsum(0) - 1
    triangles, weld = number[triangles], number[figure.weld[live]]
    uv = figure.uv[:, live]
    points, flat, sky = points.index_select(2, live), flat.index_select(2, live), sky[live]
    shown = present[:, part]
    # Through an open mouth the inside is seen.
    head = part == PARTS.index("head")
    inner = [
        list(UNITS).index(name)
        for name in ("lips_part", "jaw_drop", "lip_corner_puller", "upper_lip_raiser", "lip_stretcher")
    ]
    two_sided = two_sided & (~head | (p["units"][:, inner].sum(1, keepdim=True) > 0.04))
    made: dict[str, torch.Tensor] = {}
    normals = torch.zeros(0)
    if wanted & {"image", "normals", "thermal", "parsing"}:
        normals = vertex_normals(points, triangles, weld)
        # Thin sheets are seen from both sides.
        turned = torch.zeros(points.shape[2], dtype=torch.bool, device=points.device)
        thin = torch.tensor([PARTS.index(name) for name in TWO_SIDED], device=points.device)
        turned[triangles[torch.isin(part, thin)].flatten()] = True
        facing = normals[0] * points[0] + normals[1] * points[1] + normals[2] * (points[2] + eye.distance[:, None])
        normals = normals * (1 - 2 * (turned & (facing > 0)).float())
    scene = _Scene(p, eye, points, normals, uv, eye.project(spots), triangles, part, shown, two_sided, height, width)
    if "image" in wanted:
        made["image"] = _photograph(scene, flat, sky)
    if "landmarks" in wanted:
        made |= _landmarks(scene, flat)
    if wanted & {"depth", "normals", "parsing", "parts", "uv", "thermal"}:
        made |= _ground_truth(scene, flat, wanted)
    return made


@dataclass(frozen=True, eq=False)
class _Scene:
    """What the steps of one batch share."""

    p: Columns
    eye: Camera
    points: torch.Tensor
    normals: torch.Tensor
    uv: torch.Tensor
    landmarks: torch.Tensor
    triangles: torch.Tensor
    part: torch.Tensor
    shown: torch.Tensor
    two_sided: torch.Tensor
    height: int
    width: int


def _places(
    scene: _Scene,
    flat: torch.Tensor,
    values: torch.Tensor,
    row: torch.Tensor,
    triangle: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
) -> tuple[Places, torch.Tensor]:
    """Places on the figure at pixels x, y (m,), and the vertices' `values` (c, n * V) there; the first three are the
    normal."""
    corners, weights = weights_at(flat, scene.triangles, row, triangle, x, y)
    found = interpolate(values, corners, weights)
    normal = found[:3] / (found[:3].square().sum(0).sqrt() + 1e-6)
    first = row * flat.shape[2]
    uv = interpolate(scene.uv, [corner - first for corner in corners], weights)
    focal, centre = scene.eye.focal.index_select(0, row), scene.eye.centre.index_select(0, row)
    dx, dy = (centre[:, 0] - x) / focal, (centre[:, 1] - y) / focal
    view = torch.stack([dx, dy, torch.full_like(dx, -1)]) / (dx * dx + dy * dy + 1).sqrt()
    return Places(row, scene.part.index_select(0, triangle), uv, normal, view), found[3:]


def _photograph(scene: _Scene, flat: torch.Tensor, sky: torch.Tensor) -> torch.Tensor:
    """(n, H, W, 3) uint8."""
    p, height, width = scene.p, scene.height, scene.width
    n, device = flat.shape[1], flat.device
    diffuse, gloss = lit(scene.points, scene.normals, p, scene.triangles, scene.part, scene.shown, scene.two_sided, sky)
    twice = flat.clone()
    twice[:2] = twice[:2] * 2 + 0.5
    drawn = rasterise(twice, scene.triangles, 2 * height, 2 * width, shown=scene.shown, two_sided=scene.two_sided)

    # A pixel is one surface if its four quarters show the same part at nearly the same depth.
    numbers = torch.cat([torch.full((1,), -1, dtype=torch.int8, device=device), scene.part.to(torch.int8)])
    part = numbers.index_select(0, (drawn.triangle + 1).flatten()).view(n, 2 * height, 2 * width)
    quarters = ((0, 0), (0, 1), (1, 0), (1, 1))
    p0, p1, p2, p3 = (part[:, dy::2, dx::2] for dy, dx in quarters)
    d0, d1, d2, d3 = (drawn.depth[:, dy::2, dx::2] for dy, dx in quarters)
    some = (torch.maximum(torch.maximum(p0, p1), torch.maximum(p2, p3)) >= 0).flatten()
    far, near = (
        torch.maximum(torch.maximum(d0, d1), torch.maximum(d2, d3)),
        torch.minimum(torch.minimum(d0, d1), torch.minimum(d2, d3)),
    )
    same = ((p0 == p1) & (p2 == p3) & (p0 == p2) & (far - near < 1.2)).flatten()
    whole = (same & some).nonzero()[:, 0]
    edge = (some & ~same).nonzero()[:, 0]

    def corner(pixel: torch.Tensor) -> torch.Tensor:
        """Number of a pixel's first quarter in the finer picture: rows are twice as wide and twice as many."""
        across = pixel % width
        return (torch.div(pixel, width, rounding_mode="floor") * (4 * width) + across * 2).long()

    offsets = torch.tensor([dy * 2 * width + dx for dy, dx in quarters], device=device)
    fine = (corner(edge)[:, None] + offsets).flatten()
    sub = (part.flatten().index_select(0, fine) >= 0).nonzero()[:, 0]
    pixel = torch.cat([whole, edge.index_select(0, torch.div(sub, 4, rounding_mode="floor"))])
    chosen = drawn.triangle.flatten().index_select(0, torch.cat([corner(whole), fine.index_select(0, sub)])).long()
    quarter = sub % 4
    centre = torch.zeros(len(whole), device=device)
    row = torch.div(pixel, height * width, rounding_mode="floor")
    inside = pixel - row * height * width
    y = torch.div(inside, width, rounding_mode="floor")
    x = (inside - y * width).float() + torch.cat([centre, (quarter & 1) * 0.5 - 0.25])
    y = y.float() + torch.cat([centre, (quarter >> 1) * 0.5 - 0.25])
    values = torch.cat([scene.normals, diffuse, gloss]).view(9, -1)
    places, light = _places(scene, flat, values, row, chosen, x, y)
    surface: Surface = shade(places, p, palette(p), key_light(p), height, truth=False)
    colour = surface.albedo * light[:3].clamp_(min=0) + surface.gloss * light[3:].clamp_(min=0) + surface.shine
    frame = background(p, height, width).transpose(0, 1).reshape(3, -1)
    rims = frame.index_select(1, edge)[:, :, None].repeat(1, 1, 4).view(3, -1)
    rims.index_copy_(1, sub, colour[:, len(whole) :])
    frame.index_copy_(1, whole, colour[:, : len(whole)])
    frame.index_copy_(1, edge, rims.view(3, -1, 4).mean(2))
    return _developed(frame.view(3, n, height * width), p).permute(1, 2, 0).reshape(n, height, width, 3)


def _developed(light: torch.Tensor, p: Columns) -> torch.Tensor:
    """Exposure, white balance, a soft shoulder, sRGB, noise: (3, n, k) uint8 of linear light."""
    from mien.data.heads.light import warmth

    # The camera takes back a half of the lights' colour.
    cast = warmth(0.5 * (p["key_share"] * p["key_warmth"] + (1 - p["key_share"]) * p["ambient_warmth"]))
    # Automatic exposure goes half of the way from dark and light skin to the middle.
    weights = torch.tensor([0.2126, 0.7152, 0.0722], device=light.device)
    gain = (0.28 / (skin_colour(p) @ weights)) ** 0.42
    light = light * ((gain * 2.0 ** p["exposure"])[:, None] * 1.45 / cast).T[..., None]
    level = light.clamp_(0, _BRIGHTEST).sqrt_().mul_(_LEVELS / _BRIGHTEST**0.5).long()
    value = _CURVE.to(light.device).index_select(0, level.flatten()).view_as(light)
    strength = (p["camera_noise"][:, None] * (1 / 255**0.5)) * torch.sqrt(127.5 + value)
    noise = grain_noise(p["seed"], 3 * light.shape[2]).view(light.shape[1], 3, -1).transpose(0, 1)
    return torch.addcmul(value, noise, strength).round_().clamp_(0, 255).to(torch.uint8)


_LEVELS, _BRIGHTEST = 8191, 6.0


def _film() -> torch.Tensor:
    """8-bit sRGB values, not rounded, of square roots of linear light: linear below, then a soft shoulder to white."""
    light = (torch.arange(_LEVELS + 1, dtype=torch.float64) * (_BRIGHTEST**0.5 / _LEVELS)) ** 2
    return (255 * srgb_from_linear(light / (1 + light**2.6) ** (1 / 2.6))).float()


_CURVE = _film()


def _landmarks(scene: _Scene, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """Landmarks and whether they are seen."""
    n, height, width = flat.shape[1], scene.height, scene.width
    spots = scene.landmarks.permute(1, 2, 0)
    scale = scene.eye.focal / scene.eye.distance
    z = (spots[..., 2] - scene.eye.distance[:, None]) * scale[:, None]
    drawn = rasterise(flat, scene.triangles, height, width, shown=scene.shown, two_sided=scene.two_sided)
    x, y = spots[..., 0].round().long(), spots[..., 1].round().long()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    base = (torch.arange(n, device=flat.device) * height * width)[:, None]
    clear = torch.zeros_like(x)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            pixel = base + (y + dy).clamp(0, height - 1) * width + (x + dx).clamp(0, width - 1)
            clear += (drawn.depth.flatten()[pixel] > spots[..., 2] - 0.5).long()
    return {
        "landmarks_2d": spots[..., :2].contiguous(),
        "landmarks_3d": torch.cat([spots[..., :2], z[..., None]], -1),
        "visible": inside & (clear >= 4),
    }


STEFAN = 273.15
"""Celsius to kelvin."""


def _ground_truth(scene: _Scene, flat: torch.Tensor, wanted: set[str]) -> dict[str, torch.Tensor]:
    """Maps at pixel centres."""
    p, height, width = scene.p, scene.height, scene.width
    n, device = flat.shape[1], flat.device
    drawn = rasterise(flat, scene.triangles, height, width, shown=scene.shown, two_sided=scene.two_sided)
    made: dict[str, torch.Tensor] = {}
    if "depth" in wanted:
        made["depth"] = drawn.depth
    triangle = drawn.triangle.flatten().long()
    covered = (triangle >= 0).nonzero()[:, 0]
    if "parts" in wanted:
        parts = torch.full((len(triangle),), 255, dtype=torch.uint8, device=device)
        parts[covered] = scene.part[triangle[covered]].to(torch.uint8)
        made["parts"] = parts.view(n, height, width)
    if not wanted & {"normals", "parsing", "uv", "thermal"}:
        return made
    row = torch.div(covered, height * width, rounding_mode="floor")
    inside = covered - row * height * width
    y = torch.div(inside, width, rounding_mode="floor")
    values = scene.normals.view(3, -1) if len(scene.normals) else torch.zeros_like(flat).view(3, -1)
    places, _ = _places(scene, flat, values, row, triangle[covered], (inside - y * width).float(), y.float())
    if "normals" in wanted:
        normals = torch.zeros(len(triangle), 3, device=device)
        normals[covered] = places.normal.T
        made["normals"] = normals.view(n, height, width, 3)
    if "uv" in wanted:
        uv = torch.full((len(triangle), 2), torch.nan, device=device)
        uv[covered] = places.uv.T
        made["uv"] = uv.view(n, height, width, 2)
    if wanted & {"parsing", "thermal"}:
        surface = shade(places, p, palette(p), key_light(p), height, truth=True)
        if "parsing" in wanted:
            parsing = torch.zeros(len(triangle), dtype=torch.uint8, device=device)
            parsing[covered] = surface.label
            made["parsing"] = parsing.view(n, height, width)
        if "thermal" in wanted:
            made |= _infrared(scene, covered, places, surface, n)
    return made


def _infrared(
    scene: _Scene, covered: torch.Tensor, places: Places, surface: Surface, n: int
) -> dict[str, torch.Tensor]:
    """Apparent temperature: what is emitted by the surface and what it mirrors of the surroundings."""
    p, height, width = scene.p, scene.height, scene.width
    cosine = (places.normal * places.view).sum(0).clamp(0, 1)
    metal = (places.part == PARTS.index("frame")) | (places.part == PARTS.index("earrings"))
    emissivity = torch.where(metal, 0.75, 0.98) * (1 - 0.35 * (1 - cosine) ** 5)
    air = p["air_celsius"] + STEFAN
    own = surface.celsius + STEFAN
    seen = (emissivity * own**4 + (1 - emissivity) * air.index_select(0, places.row) ** 4) ** 0.25 - STEFAN
    from mien.data.heads.scenery import _clouds

    drift = _clouds(p["seed"], 51, 3, 24)
    drift = torch.nn.functional.interpolate(drift, size=(height, width), mode="bilinear", align_corners=False)
    celsius = (p["air_celsius"][:, None, None] - 0.8 + 2.2 * drift[:, 0]).reshape(-1)
    celsius[covered] = seen
    celsius = celsius.view(n, height, width)
    # A microbolometer resolves about 0.06 K and blurs a little.
    celsius = (
        torch.nn.functional.avg_pool2d(torch.nn.functional.pad(celsius[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[
            :, 0
        ]
        * 0.4
        + 0.6 * celsius
    )
    celsius = celsius + 0.06 * normal(p["seed"], 52, height * width).view(n, height, width)
    grey = ((celsius - 18) / 22 * 255).round().clamp(0, 255).to(torch.uint8)
    return {"celsius": celsius, "thermal": grey}
