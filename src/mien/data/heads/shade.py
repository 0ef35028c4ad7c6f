"""Colour, class and temperature of places on the figure.

Skin follows the CIELAB measures of real skin: the individual typology angle fixes lightness against yellowness, so that
the reflectance of the bare cheek has the angle that was asked for. Blood and melanin vary as factors on it.
Temperatures are those of resting adults (E. Ring, K. Ammer, Infrared thermal imaging in medicine, 2012): warm inner eye
corners and forehead, a cool nose, hair near the air; skin emits 0.98 of a black body, less where it is seen at a slant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mien.data.heads.chance import uniform
from mien.data.heads.fields import UNITS
from mien.data.heads.figure import Columns, fringe
from mien.data.heads.maps import CHANNELS, HAIRLINE_CM, atlas, grain
from mien.data.heads.params import BEARDS, HAIR, HATS
from mien.data.heads.parts import EYE_SPAN, PARTS
from mien.data.heads.scenery import linear_from_srgb

__all__ = ["PARSING", "Places", "Surface", "hair_colour", "palette", "shade", "skin_colour"]

PARSING = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
"""The classes of CelebAMask-HQ (C. Lee et al., 2020) in its order; left is the picture's left."""

_LABEL = {name: number for number, name in enumerate(PARSING)}
_AT = {name: number for number, name in enumerate(CHANNELS)}


@dataclass(frozen=True, eq=False)
class Places:
    """Of `m` places: `row` in the batch, `part`, `uv` (2, m), unit `normal` (3, m), `view` (3, m) to the camera."""

    row: torch.Tensor
    part: torch.Tensor
    uv: torch.Tensor
    normal: torch.Tensor
    view: torch.Tensor

    def __getitem__(self, at: torch.Tensor) -> Places:
        return Places(*(getattr(self, name).index_select(-1, at) for name in ("row", "part", "uv", "normal", "view")))


@dataclass(frozen=True, eq=False)
class Surface:
    """Of `m` places: `albedo` (3, m) linear, `gloss` (m,) factor on mirrored light, `shine` (3, m) added light, `label`
    (m,) uint8 into `PARSING`, `celsius` (m,)."""

    albedo: torch.Tensor
    gloss: torch.Tensor
    shine: torch.Tensor
    label: torch.Tensor
    celsius: torch.Tensor


def step(x: torch.Tensor, low: float | torch.Tensor, high: float | torch.Tensor) -> torch.Tensor:
    """0 below low, 1 above high, smooth between."""
    u = ((x - low) / (high - low)).clamp(0, 1)
    return u * u * (3 - 2 * u)


def mix(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """a (3, m) where share (m,) is 0, b where it is 1."""
    return torch.lerp(a, b, share)


def _constant(values: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    """(3, 1) a colour."""
    return torch.tensor(values, device=like.device)[:, None]


def skin_lab(ita: torch.Tensor, yellow: torch.Tensor, red: torch.Tensor) -> torch.Tensor:
    """(n, 3) CIELAB of skin of individual typology angle `ita` degrees."""
    b = 19 - torch.where(ita > 12, 0.0026, 0.0012) * (ita - 12) ** 2 + yellow * 0.7
    lightness = 50 + torch.tan(torch.deg2rad(ita)) * b
    a = 12.0 - 0.0011 * (ita - 5) ** 2 + red * 0.8
    return torch.stack([lightness, a, b], -1)


def linear_from_lab(lab: torch.Tensor) -> torch.Tensor:
    """(n, 3) linear sRGB of CIELAB under D65."""
    fy = (lab[:, 0] + 16) / 116
    f = torch.stack([fy + lab[:, 1] / 500, fy, fy - lab[:, 2] / 200], -1)
    xyz = torch.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * torch.tensor(
        [0.95047, 1.0, 1.08883], device=lab.device
    )
    matrix = torch.tensor(
        [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]],
        device=lab.device,
    )
    return (xyz @ matrix.T).clamp(0.001, 1)


def skin_colour(p: Columns) -> torch.Tensor:
    """(n, 3) linear reflectance of bare skin."""
    return linear_from_lab(skin_lab(p["skin_ita"], p["skin_yellow"], p["skin_red"]))


def hair_colour(p: Columns) -> torch.Tensor:
    """(n, 3) linear reflectance of hair without grey: absorption of eumelanin and pheomelanin on pale keratin."""
    eumelanin = torch.tensor([2.9, 3.7, 4.9], device=p["hair_dark"].device)
    pheomelanin = torch.tensor([0.25, 1.15, 2.4], device=p["hair_dark"].device)
    dark = 0.10 + 0.90 * p["hair_dark"] ** 1.3
    absorbed = (
        1.15 * dark[:, None] * eumelanin + 0.75 * (p["hair_red"] * (1 - 0.45 * p["hair_dark"]))[:, None] * pheomelanin
    )
    return 0.62 * torch.exp(-absorbed * 1.15) + 0.005


def _ramp(hue: torch.Tensor, colours: list[tuple[float, float, float]]) -> torch.Tensor:
    """(n, 3) linear colours along a list of sRGB ones, hue 0 to 1."""
    table = linear_from_srgb(torch.tensor(colours, device=hue.device))
    place = hue * (len(colours) - 1)
    low = place.floor().clamp(0, len(colours) - 2).long()
    return torch.lerp(table[low], table[low + 1], (place - low)[:, None])


def palette(p: Columns) -> Columns:
    """Colours and offsets of each row that its pixels are made of."""
    device = p["seed"].device
    skin, hair = skin_colour(p), hair_colour(p)
    iris = _ramp(p["iris"][:, 1], [(0.36, 0.22, 0.12), (0.44, 0.36, 0.18), (0.42, 0.50, 0.36), (0.38, 0.52, 0.64)])
    names = list(UNITS)
    unit = {name: p["units"][:, names.index(name)] for name in names}
    rank = torch.tensor([0.0, 0.82, 1, 1, 1, 1, 1, 1, 1, 1], device=device)
    assert len(rank) == len(HAIR)
    beard = torch.tensor(
        [(0, 0, 0, 0), (0.30, 0.30, 0.30, 0.26), (0.92, 0, 0, 0), (0.88, 0.9, 0, 0), (0.9, 0.92, 0.92, 0.9)],
        device=device,
    )
    assert len(beard) == len(BEARDS)
    style = p["hair_style"]
    made = {
        "skin": skin,
        "hair": hair,
        "hair_kind": torch.where((style == HAIR.index("curly")) | (style == HAIR.index("afro")), 1.0, 0.0),
        "lip": skin * torch.tensor([0.90, 0.62, 0.61], device=device)
        + torch.tensor([0.025, 0.0, 0.003], device=device),
        "lipstick_colour": _ramp(
            p["lipstick_hue"], [(0.72, 0.42, 0.38), (0.74, 0.12, 0.16), (0.78, 0.20, 0.36), (0.45, 0.06, 0.20)]
        ),
        "shadow_colour": _ramp(
            p["eyeshadow_hue"], [(0.32, 0.20, 0.14), (0.42, 0.24, 0.42), (0.22, 0.30, 0.52), (0.22, 0.40, 0.32)]
        ),
        "iris_colour": iris * (0.22 + 1.05 * p["iris"][:, :1]),
        "hair_alpha": rank[style],
        "beard_alpha": beard[p["beard_style"]] * p["beard_density"][:, None],
        "cloth": linear_from_srgb(p["clothes"]) * 0.85 + 0.01,
        "hat_rgb": linear_from_srgb(p["hat_colour"]) * 0.8 + 0.01,
        "mask_rgb": linear_from_srgb(p["occluder_colour"]) * 0.85 + 0.01,
        "frame_rgb": (0.45 * (1 - p["glasses_colour"])[:, None] * torch.tensor([1.0, 0.9, 0.7], device=device) + 0.012),
        "smile": unit["lip_corner_puller"],
        "lines_forehead": (unit["inner_brow_raiser"] + unit["outer_brow_raiser"]) * 0.35,
        "lines_frown": unit["brow_lowerer"] * 0.6,
        "lines_crow": unit["cheek_raiser"] * 0.4,
        "offset": uniform(p["identity"], 31, 4) * 256,
        "fringe": fringe(p),
    }
    # Colour first: (3, n)
    return {name: value.T.contiguous() if value.ndim == 2 else value for name, value in made.items()}


def shade(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, *, truth: bool) -> Surface:
    """What the figure is like at `at`.

    Parameters
    ----------
    at
        Places.
    p, colours
        Controls, and `palette` of them.
    key : (n, 3)
        Direction of the key light.
    size
        Height of the picture, by which the texture's resolution is chosen.
    truth
        Whether classes and temperatures are wanted; they are zero otherwise.
    """
    m, device = len(at.row), at.row.device
    made = Surface(
        albedo=torch.full((3, m), 0.5, device=device),
        gloss=torch.full((m,), 0.04, device=device),
        shine=torch.zeros(3, m, device=device),
        label=torch.zeros(m, dtype=torch.uint8, device=device),
        celsius=p["air_celsius"].index_select(0, at.row),
    )
    for names, paint in (
        (("head",), _head),
        (("eye_left", "eye_right"), _eye),
        (("teeth", "cavity"), _mouth),
        (("ear_left", "ear_right"), _ear),
        (("curtain", "bun"), _hair),
        (("frame", "lens", "hat", "brim", "mask", "hand", "earrings"), _things),
    ):
        first, last = PARTS.index(names[0]), PARTS.index(names[-1])
        index = ((at.part >= first) & (at.part <= last)).nonzero()[:, 0]
        if len(index):
            part = paint(at[index], p, colours, key, size, truth)
            for name in ("albedo", "gloss", "shine", "label", "celsius"):
                getattr(made, name).index_copy_(-1, index, getattr(part, name))
    return made


def _noise(u: torch.Tensor, v: torch.Tensor, channel: int) -> torch.Tensor:
    """Grain in about -1 to 1 at texel coordinates, repeated."""
    table = _grain(u.device)[channel]
    size = table.shape[0]
    flat = ((v.floor().long() & (size - 1)) * size).add_(u.floor().long() & (size - 1))
    return table.flatten().index_select(0, flat)


_GRAIN: dict[torch.device, torch.Tensor] = {}
_ATLAS: dict[tuple[torch.device, int], torch.Tensor] = {}


def _grain(device: torch.device) -> torch.Tensor:
    if device not in _GRAIN:
        _GRAIN[device] = ((grain().float() - 128) / 84).permute(2, 0, 1).contiguous().to(device)
    return _GRAIN[device]


def _masks(u: torch.Tensor, v: torch.Tensor, size: int) -> torch.Tensor:
    """(channels, m) masks at texture coordinates.

    They come from a copy of the atlas whose texels are about half as wide as the picture's pixels, so the nearest one
    will do; for large pictures, between the four around.
    """
    level = 0 if size > 180 else 1
    device = u.device
    rows, columns = 1024 >> level, 768 >> level
    if (device, level) not in _ATLAS:
        # Masks are evaluated finer and averaged, so that lines thinner than a texel keep their weight.
        whole = atlas(rows, columns, 1 + level).float() / 255
        _ATLAS[device, level] = whole.view(-1, len(CHANNELS)).T.contiguous().to(device)
    table = _ATLAS[device, level]
    x, y = (u * (columns - 1)).clamp_(0, columns - 1.001), (v * (rows - 1)).clamp_(0, rows - 1.001)
    if size <= 360:
        return table.index_select(1, y.add_(0.5).floor_().mul_(columns).add_(x.add_(0.5).floor_()).long())
    x0, y0 = x.floor(), y.floor()
    flat = (y0 * columns + x0).long()
    top = table.index_select(1, flat).lerp_(table.index_select(1, flat + 1), x - x0)
    low = table.index_select(1, flat + columns).lerp_(table.index_select(1, flat + columns + 1), x - x0)
    return top.lerp_(low, y - y0)


def _strands(colour: torch.Tensor, grey: torch.Tensor, fine: torch.Tensor, broad: torch.Tensor) -> torch.Tensor:
    """Hair of a base colour with light and dark strands, some of them grey."""
    pale = _constant((0.42, 0.41, 0.40), colour)
    share = step(grey + 0.09 * fine, 0.15, 0.85)
    base = mix(colour, pale.expand_as(colour), share)
    return base * (0.97 + 0.20 * fine + 0.22 * broad).clamp_(0.4, 1.6)


def _head(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row = at.row
    u, v = at.uv
    c = dict(zip(CHANNELS, _masks(u.abs(), v, size), strict=True))

    def g(name: str) -> torch.Tensor:
        return (p[name] if name in p else colours[name]).index_select(-1, row)

    offset = g("offset")
    fine = _noise(u * 900 + offset[0], v * 1500 + offset[1], 0)
    soft = _noise(u * 330 + offset[2], v * 560 + offset[3], 2)
    spots = _noise(u * 900 + offset[1], v * 1500 + offset[2], 3)
    skin = g("skin")
    wrinkles, blotches = g("wrinkles"), g("blotches")
    # Blood and melanin
    blood = (
        0.55 * c["redness"] * (0.6 + 0.6 * blotches)
        + 0.16 * blotches * soft
        + 0.9 * g("blush") * c["blush"]
        + 0.04 * spots
        - 0.1 * c["pale"]
    )
    brown = 0.10 * soft * (0.5 + blotches) + 0.45 * c["under_eye"] * (0.25 + 0.6 * wrinkles) + 0.03 * fine
    freckle = g("freckles") * c["freckle_area"] * step(spots + 0.4 * g("freckles"), 0.62, 0.85)
    brown = brown + 0.75 * freckle + 0.25 * wrinkles * step(spots - 0.1 * soft, 0.8, 1.0)
    absorb = torch.stack([0.02 * blood + 0.30 * brown, 0.42 * blood + 0.46 * brown, 0.34 * blood + 0.62 * brown])
    colour = skin * torch.exp(-absorb)
    # Folds
    deep = (
        c["forehead_lines"] * (0.75 * wrinkles + g("lines_forehead"))
        + c["crow"] * (0.6 * wrinkles + g("lines_crow"))
        + c["nasolabial"] * (0.16 + 0.55 * wrinkles + 0.5 * g("smile"))
        + c["frown"] * (0.6 * wrinkles + g("lines_frown"))
    )
    deep = (deep * (0.75 + 0.4 * fine)).clamp(0, 1.2) * 0.34 + 0.62 * c["crease"]
    colour = colour * torch.exp(-torch.stack([0.75 * deep, 1.0 * deep, 1.1 * deep]))
    # Lids
    colour = mix(colour, g("shadow_colour"), 0.72 * g("eyeshadow") * c["eyeshadow"] * (0.9 + 0.2 * fine))
    wet = _constant((0.42, 0.22, 0.19), skin) * (0.35 + skin)
    colour = mix(colour, wet, 0.55 * c["rim"])
    colour = colour * (1 - (0.52 + 0.45 * g("eyeliner")) * c["liner"])
    # Lips
    lips = c["lips"]
    painted = mix(g("lip"), g("lipstick_colour"), 0.85 * g("lipstick"))
    painted = painted * (1 + 0.10 * fine + 0.10 * (c["lower_lip"] - 0.5))
    colour = mix(colour, painted, lips * (0.82 + 0.18 * g("lipstick")))
    colour = colour * (1 - 0.55 * c["lip_line"])
    colour = mix(colour, 0.12 * colour, (c["nostril"] * 0.95).clamp(0, 1))
    # Brows
    hair = g("hair")
    strands = _noise(u * 1500 + offset[1], v * 60 + offset[0], 1)
    across = (c["brow_across"] - 0.5).abs() * 4 / g("brow_thickness")
    along = c["brow_along"]
    brow = (
        step(across + 0.42 * fine, 1.35, 0.45)
        * step(along, 0.02, 0.16)
        * step(along, 1.0, 0.86)
        * (0.72 + 0.28 * step(along, 0.1, 0.3))
    )
    brow = (brow * g("brow_density") * (1.0 + 0.35 * fine)).clamp(0, 0.96)
    brow_colour = mix(hair * 0.62 + 0.004, 0.3 * torch.ones_like(hair), 0.6 * g("grey") * step(fine, 0.0, 0.6))
    colour = mix(colour, brow_colour, brow)
    # Beard
    grown = g("beard_alpha")
    beard = torch.maximum(
        torch.maximum(grown[0] * c["moustache"], grown[1] * c["goatee"]), torch.maximum(grown[2], grown[3]) * c["beard"]
    )
    speck = _noise(u * 1800 + offset[3], v * 2600 + offset[1], 0)
    beard = step(beard + 0.12 * speck * step(beard, 0.02, 0.3), 0.0, 0.95) * (0.90 + 0.10 * speck)
    beard = beard.clamp(0, 0.95)
    beard_colour = _strands(hair * 0.8, (g("grey") * 1.1).clamp(0, 1), 0.6 * speck, soft)
    colour = mix(colour, beard_colour, beard)
    # Hair, and its shade on the skin below
    low, sweep = g("fringe")
    lean = (1 + sweep * u * (math.pi / 0.9)).clamp(0.0, 1.25)
    above = (c["hairline"] - 0.5) * 2 * HAIRLINE_CM + low * lean * 4 * c["fringe"] - g("hair_recede") * 4 * c["recede"]
    curly = g("hair_kind")
    strand = torch.lerp(0.8 * strands + 0.2 * fine, spots, curly)
    alpha = step(above + 0.26 * strand + 0.08 * fine, -0.15, 0.65) * g("hair_alpha")
    root = 0.62 + 0.38 * step(above, 0.0, 1.6)
    hair_rgb = _strands(hair * root, g("grey"), strand, soft)
    cover = g("hair_alpha")
    colour = colour * (1 - 0.30 * cover * step(above, -1.3, 0.0))
    colour = mix(colour, hair_rgb, alpha)
    # Clothes and what hangs on the neck
    clothes = step(c["clothes"], 0.4, 0.6)
    weave = 1 + 0.12 * fine + 0.10 * soft
    colour = mix(colour, g("cloth") * weave, clothes)
    gold = _constant((0.75, 0.55, 0.25), skin)
    chain = (g("necklace").float() * c["necklace"] * (1 - clothes)).clamp(0, 1)
    colour = mix(colour, gold.expand_as(colour), step(chain, 0.3, 0.6))
    gloss = 0.042 + 0.03 * c["oily"] + lips * (0.03 + 0.08 * g("lipstick")) - 0.02 * beard
    gloss = (
        torch.lerp(gloss, hair_rgb.mean(0) * 0.5 + 0.035 * (1 - 0.6 * curly), alpha)
        * (1 - 0.85 * clothes)
        * (1 + 0.25 * strand * alpha)
    )
    # The inner side of cheeks and lips, seen through the open mouth
    inside = (at.normal[0] * at.view[0] + at.normal[1] * at.view[1] + at.normal[2] * at.view[2]) < -0.15
    colour = mix(colour, _constant((0.10, 0.025, 0.022), skin).expand_as(colour), inside.float())
    if not truth:
        return Surface(
            colour, gloss, torch.zeros_like(colour), torch.zeros_like(row, dtype=torch.uint8), torch.zeros_like(u)
        )
    # Classes
    left = u < 0
    label = torch.full_like(row, _LABEL["skin"])
    label[c["nose"] > 0.5] = _LABEL["nose"]
    label[c["neck"] > 0.5] = _LABEL["neck"]
    label = torch.where(
        (across < 1.05) & (along > 0.04) & (along < 0.97), torch.where(left, _LABEL["l_brow"], _LABEL["r_brow"]), label
    )
    label = torch.where(lips > 0.5, torch.where(c["lower_lip"] > 0.5, _LABEL["l_lip"], _LABEL["u_lip"]), label)
    label[alpha > 0.5] = _LABEL["hair"]
    label[clothes > 0.5] = _LABEL["cloth"]
    label[chain > 0.5] = _LABEL["neck_l"]
    label[inside] = _LABEL["mouth"]
    # Temperature
    forehead, air = g("skin_celsius"), g("air_celsius")
    cold = (
        1.9 * step(c["nose"], 0.2, 1.0) * step(v, 0.34, 0.40)
        + 0.9 * c["blush"]
        + 0.5 * c["brow_along"] * brow
        - 1.0 * c["core"]
        - 0.3 * c["neck"]
    )
    celsius = forehead - cold - 0.25 * soft
    celsius = torch.lerp(celsius, torch.lerp(air, forehead, 0.80), 0.6 * beard)
    celsius = torch.lerp(celsius, torch.lerp(air, forehead, 0.42), alpha * step(above, -0.2, 2.0))
    celsius = torch.lerp(celsius, torch.lerp(air, forehead, 0.45), clothes)
    celsius = torch.lerp(celsius, torch.lerp(air, forehead, 0.7), step(chain, 0.3, 0.6))
    return Surface(colour, gloss, torch.zeros_like(colour), label.to(torch.uint8), celsius)


def _mirrored(at: Places, light: torch.Tensor) -> torch.Tensor:
    """(m,) cosine between the normal and the middle of view and light (3, m)."""
    half = at.view + light
    return ((at.normal * half).sum(0) / (half.square().sum(0).sqrt() + 1e-6)).clamp(0)


def _eye(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row, (u, v) = at.row, at.uv
    angle = v * EYE_SPAN

    def g(name: str) -> torch.Tensor:
        return (p[name] if name in p else colours[name]).index_select(-1, row)

    offset = g("offset")
    fibre = _noise(u * 256 + offset[0], angle * 2 + offset[1], 1)
    white = _constant((0.50, 0.455, 0.43), u) * torch.exp(-_constant((0.035, 0.28, 0.28), u) * step(angle, 42.0, 75.0))
    iris = g("iris_colour") * (0.85 + 0.45 * fibre + 0.5 * step(angle, 21.0, 12.0)).clamp(0.3, 2)
    iris = iris * (0.30 + 0.70 * step(angle, 29.0, 24.5))
    colour = mix(iris, white, step(angle, 27.6, 30.2))
    colour = colour * (1 - 0.97 * step(angle, 12.0, 10.2))
    # The upper lid and its lashes shade the top of the ball.
    colour = colour * (1 - 0.66 * step(at.normal[1], -0.02, -0.42))
    spark = _mirrored(at, key.T.index_select(1, row)) ** 260
    window = _mirrored(at, _constant((0.25, -0.75, -0.3), u)) ** 420
    shine = (2.2 * spark * (0.15 + g("key_share")) + 0.75 * window) * step(angle, 45.0, 32.0)
    shine = shine.expand(3, -1)
    label = torch.where(at.part == PARTS.index("eye_left"), _LABEL["l_eye"], _LABEL["r_eye"])
    return Surface(colour, torch.full_like(u, 0.03), shine, label.to(torch.uint8), g("skin_celsius") - 0.4)


def _mouth(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row, (u, v) = at.row, at.uv
    teeth = at.part == PARTS.index("teeth")
    gap = torch.cos(u * 2 * math.pi * 14) ** 24
    ivory = _constant((0.66, 0.60, 0.50), u) * (1 - 0.35 * gap)
    gum = _constant((0.42, 0.16, 0.15), u)
    ivory = mix(gum.expand_as(ivory), ivory, step(v, 0.10, 0.2))
    ivory = ivory * (1 - 0.75 * step((u - 0.5).abs(), 0.22, 0.5))
    inside = _constant((0.20, 0.055, 0.05), u) * (0.35 + 0.9 * step(v, 0.5, 0.9))
    colour = torch.where(teeth, ivory, inside)
    label = torch.full_like(row, _LABEL["mouth"])
    celsius = p["skin_celsius"].index_select(0, row) + torch.where(teeth, -0.2, 1.2)
    return Surface(colour, torch.where(teeth, 0.05, 0.02), torch.zeros_like(colour), label.to(torch.uint8), celsius)


def _ear(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row, (u, v) = at.row, at.uv
    skin = colours["skin"].index_select(1, row)
    soft = _noise(u * 200 + 17, v * 90, 2)
    blood = 0.55 + 0.2 * soft + 0.3 * step(v, 0.7, 1.0)
    deep = 0.75 * step(v, 0.42, 0.12) + 0.25 * torch.exp(-(((v - 0.72) / 0.07) ** 2))
    colour = skin * torch.exp(
        -torch.stack([0.05 * blood + 0.7 * deep, 0.38 * blood + 0.95 * deep, 0.32 * blood + deep])
    )
    label = torch.where(at.part == PARTS.index("ear_left"), _LABEL["l_ear"], _LABEL["r_ear"])
    celsius = p["skin_celsius"].index_select(0, row) - 1.6 - 1.2 * step(v, 0.6, 1.0) + 1.6 * step(v, 0.4, 0.1)
    return Surface(colour, torch.full_like(u, 0.035), torch.zeros_like(colour), label.to(torch.uint8), celsius)


def _hair(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row, (u, v) = at.row, at.uv
    offset = colours["offset"].index_select(1, row)
    strand = _noise(u * 900 + offset[0] + 5 * torch.sin(v * 9), v * 26 + offset[1], 1)
    soft = _noise(u * 300 + offset[2], v * 30 + offset[3], 2)
    middle = torch.minimum(u, 1 - u)
    colour = colours["hair"].index_select(1, row) * (0.72 + 0.28 * step(middle, 0.0, 0.12))
    colour = _strands(colour, p["grey"].index_select(0, row), strand, soft)
    label = torch.full_like(row, _LABEL["hair"])
    air, forehead = p["air_celsius"].index_select(0, row), p["skin_celsius"].index_select(0, row)
    gloss = (colour.mean(0) * 0.35 + 0.045) * (1 + 0.4 * strand)
    return Surface(colour, gloss, torch.zeros_like(colour), label.to(torch.uint8), torch.lerp(air, forehead, 0.25))


def _things(at: Places, p: Columns, colours: Columns, key: torch.Tensor, size: int, truth: bool) -> Surface:
    row, part, (u, v) = at.row, at.part, at.uv

    def g(name: str) -> torch.Tensor:
        return (p[name] if name in p else colours[name]).index_select(-1, row)

    def is_(name: str) -> torch.Tensor:
        return part == PARTS.index(name)

    fine = _noise(u * 300, v * 300, 0)
    knit = (g("hat") == HATS.index("beanie")).float()
    ribs = (
        1
        - 0.30 * knit * (0.5 + 0.5 * torch.sin(u * 2 * math.pi * 46)) * step(v, 0.70, 0.78)
        - 0.12 * knit * (0.5 + 0.5 * torch.sin(v * 190))
    )
    seams = 1 - 0.35 * (1 - knit) * torch.cos(u * math.pi * 6) ** 60
    hat = g("hat_rgb") * (ribs * seams * (1 + 0.10 * fine))
    pleat = 1 - 0.28 * (torch.sin(v * math.pi * 4) ** 2) ** 12 * step((u - 0.5).abs(), 0.45, 0.38)
    edge = 1 - 0.15 * step((v - 0.5).abs(), 0.44, 0.47)
    mask = g("mask_rgb") * (pleat * edge * (1 + 0.05 * fine))
    spots = _noise(u * 120 + 31 * v, v * 90, 2)
    hand = g("skin") * torch.exp(-(0.25 + 0.12 * spots) * _constant((0.05, 0.4, 0.35), u))
    colour = torch.where(is_("frame"), g("frame_rgb"), _constant((0.012, 0.012, 0.016), u))
    colour = torch.where(is_("hat"), hat, colour)
    colour = torch.where(is_("brim"), g("hat_rgb") * (1 + 0.1 * fine), colour)
    colour = torch.where(is_("mask"), mask, colour)
    colour = torch.where(is_("hand"), hand, colour)
    colour = torch.where(is_("earrings"), _constant((0.78, 0.62, 0.34), u), colour)
    table = torch.zeros(len(PARTS), 2, device=u.device)
    numbers = {
        "frame": ("eye_g", 0.10),
        "lens": ("eye_g", 0.22),
        "hat": ("hat", 0.01),
        "brim": ("hat", 0.015),
        "mask": ("background", 0.01),
        "hand": ("background", 0.035),
        "earrings": ("ear_r", 0.6),
    }
    for name, (label, gloss) in numbers.items():
        table[PARTS.index(name)] = torch.tensor([_LABEL[label], gloss], device=u.device)
    found = table.index_select(0, part)
    # Lenses mirror a bright sky above and dark ground below.
    sky = torch.where(part == PARTS.index("lens"), 0.10 * step(v, 0.75, 0.1) + 0.015, 0 * v)
    air, forehead = g("air_celsius"), g("skin_celsius")
    warm = torch.tensor([0.0] * len(PARTS), device=u.device)
    for name, share in {
        "frame": 0.35,
        "lens": 0.15,
        "hat": 0.2,
        "brim": 0.1,
        "mask": 0.55,
        "hand": 0.86,
        "earrings": 0.3,
    }.items():
        warm[PARTS.index(name)] = share
    celsius = torch.lerp(air, forehead, warm.index_select(0, part))
    return Surface(colour, found[:, 1], sky.expand(3, -1), found[:, 0].to(torch.uint8), celsius)
