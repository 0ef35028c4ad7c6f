"""Blended forgeries with their ground truth: what was pasted, where its edge runs, and how it was made.

The steps of every face swap that is not wholly generated, each with its choices:

    mask      a part of the face from its 68 landmarks, grown or shrunk, bent and feathered
    warp      the source's landmarks brought onto the target's: similarity, piecewise affine or thin-plate spline
    colour    the source made to look like the target inside the mask
    mismatch  the source loses sharpness or is coded as JPEG on its own, as another camera's picture would be
    seam      alpha, Poisson or pyramid blending

`swap` pastes one face onto another, as Face X-ray's training pictures are made (Li et al., CVPR 2020); `nearest_faces`
finds whose face fits, as they do. `self_blended` pastes a picture onto itself, slightly changed (Shiohara & Yamasaki,
CVPR 2022): the traces of blending without the traces of any generator. Both draw a frozen `Recipe`; with a recipe given
nothing is drawn, so that all frames of a film are forged alike.

    >>> from mien.geometry.mean_shape import MEAN70
    >>> image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    >>> points = np.asarray(MEAN70)[:68, :2] * 32 + 46
    >>> forgery = self_blended(image, points, np.random.default_rng(1))
    >>> forgery.label, forgery.mask.shape, bool((forgery.boundary <= 1).all())
    (1, (96, 96), True)

Pictures are (H, W, 3) uint8 RGB; masks and boundaries (H, W) float32 of 0 to 1; points are pixels with (0, 0) at the
centre of the top left one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.pixels import Picture, as_picture, decode
from mien.errors import DtypeError, ShapeError, ValueRangeError
from mien.geometry.checks import choice, doubles, number
from mien.geometry.landmarks import IBUG68
from mien.geometry.similarity import similarity_from_points

__all__ = [
    "COLOURS",
    "REGIONS",
    "SEAMS",
    "WARPS",
    "Change",
    "Forgery",
    "Recipe",
    "blend",
    "boundary_of",
    "draw_recipe",
    "face_mask",
    "match_colour",
    "nearest_faces",
    "pristine",
    "self_blended",
    "shaped",
    "swap",
    "warp_face",
]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_EYES = IBUG68["left_eye"] + IBUG68["right_eye"]
_BROWS = IBUG68["left_brow"] + IBUG68["right_brow"]
_NOSE = IBUG68["nose_bridge"] + IBUG68["nostrils"]

REGIONS: dict[str, tuple[tuple[tuple[int, ...], float], ...]] = {
    "hull": ((tuple(range(68)), 0.0),),
    "face": ((tuple(range(27)), 0.0),),
    "inner": ((_BROWS + _EYES + _NOSE + IBUG68["outer_lips"], 0.08),),
    "eyes": ((IBUG68["left_eye"] + IBUG68["left_brow"], 0.06), (IBUG68["right_eye"] + IBUG68["right_brow"], 0.06)),
    "nose": (((*_NOSE, 39, 42), 0.04),),
    "mouth": ((IBUG68["outer_lips"], 0.12),),
    "lower": (((*range(2, 15), 31, 35, 30), 0.0),),
}
"""Parts of the face: convex hulls of landmarks, each grown by a part of the distance between the outer eye corners.

``face`` reaches over the brows to the forehead, ``hull`` ends at them; ``inner`` is what swaps often replace; ``lower``
is the face under the nose, which lip-synching replaces.
"""

FOREHEAD = 0.35
"""How far ``face`` goes above the brows, in units of the distance from chin to brows."""

COLOURS = ("none", "mean", "reinhard", "covariance", "histogram")
"""How the source is made to look like the target: see `match_colour`."""

SEAMS = ("alpha", "poisson", "pyramid")
"""How the two are blended: see `blend`."""

WARPS = ("similarity", "affine_pieces", "thin_plate")
"""How the source is brought onto the target: see `warp_face`."""


@dataclass(frozen=True, slots=True)
class Change:
    """Small changes of a picture, by which two copies of it come apart; the defaults change nothing.

    Parameters
    ----------
    shift
        Levels (of 255) added to red, green and blue.
    hue
        Degrees.
    saturation, brightness, contrast
        Factors; contrast about the mean level.
    sharpen
        Amount of unsharp masking; below 0 the picture is softened.
    shrink
        Factor by which it was once smaller, 1 or more: resampling takes detail.
    quality
        Of a JPEG file that it once was, 1 to 100; None for none.
    """

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hue: float = 0.0
    saturation: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    sharpen: float = 0.0
    shrink: float = 1.0
    quality: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a forgery is made; lengths are in units of the distance between the outer eye corners.

    Parameters
    ----------
    region
        One of `REGIONS`.
    grow
        By how much the mask is grown (above 0) or shrunk.
    bend
        Standard deviation of the displacements that bend the mask.
    bend_seed
        Of those displacements, which belong to the face and not to the picture.
    feather
        Standard deviation of the blur of the mask.
    ratio
        Value of the mask in its middle, 0 to 1: below 1 the target shines through.
    warp, colour, seam
        One of `WARPS`, `COLOURS`, `SEAMS`. Self-blending has its own warp and takes no other.
    source, target
        Changes of what is pasted and of what it is pasted onto.
    move
        Self-blending only: shift of the source right and down.
    scale
        Self-blending only: factor of the source's size.
    """

    region: str = "face"
    grow: float = 0.0
    bend: float = 0.0
    bend_seed: int = 0
    feather: float = 0.04
    ratio: float = 1.0
    warp: str = "similarity"
    colour: str = "reinhard"
    seam: str = "alpha"
    source: Change = field(default_factory=Change)
    target: Change = field(default_factory=Change)
    move: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Forgery:
    """A forged picture, or a pristine one with an empty mask, and what is known about it.

    Parameters
    ----------
    image : (H, W, 3) uint8
    mask : (H, W) float32
        Share of each pixel that was pasted. Where it is 0, `image` is `pristine`.
    pristine : (H, W, 3) uint8
        The target before anything was pasted: the other half of a training pair.
    label
        1 forged, 0 pristine.
    recipe
        How it was made; None for a pristine picture.
    """

    image: Picture
    mask: Floats
    pristine: Picture
    label: int
    recipe: Recipe | None

    @property
    def boundary(self) -> Floats:
        """(H, W) float32: `boundary_of` the mask as it was before it was made transparent, so that it is the edge."""
        ratio = self.recipe.ratio if self.recipe is not None else 1.0
        return boundary_of(np.minimum(self.mask / np.float32(ratio), 1) if ratio > 0 else self.mask)


def pristine(image: Picture) -> Forgery:
    """`image` as what it is, with the empty mask that detectors are to answer for it."""
    image = _picture("image", image)
    return Forgery(image, np.zeros(image.shape[:2], np.float32), image, 0, None)


def swap(
    source: Picture,
    source_points: ArrayLike,
    target: Picture,
    target_points: ArrayLike,
    rng: np.random.Generator,
    *,
    recipe: Recipe | None = None,
    strength: float = 0.5,
) -> Forgery:
    """The face of `source` pasted onto that of `target`.

    Parameters
    ----------
    source, target : (H, W, 3) uint8
        RGB, of any two sizes.
    source_points, target_points : (68 | 70, 2)
        Their landmarks in pixels.
    rng
        Draws the recipe, if none is given.
    recipe
        How it is made; by default `draw_recipe` of `rng` and `strength`.
    strength
        0 (hard to see) to 1 (crude).

    Returns
    -------
    Forgery
        Of the target's size.

    Raises
    ------
    DtypeError, ShapeError, ValueRangeError, OptionError
        Pictures, points or names in the recipe that are not as described.
    """
    recipe = draw_recipe(rng, strength=strength) if recipe is None else recipe
    onto = _changed(_picture("target", target), recipe.target)
    there = _points("target_points", target_points)
    came = warp_face(source, source_points, there, onto.shape[:2], how=recipe.warp)
    mask = shaped(face_mask(there, onto.shape[:2], region=recipe.region), there, recipe)
    return _forged(came, onto, mask, recipe)


def self_blended(
    image: Picture,
    points: ArrayLike,
    rng: np.random.Generator,
    *,
    recipe: Recipe | None = None,
    strength: float = 0.5,
) -> Forgery:
    """`image` with its own face, slightly changed, pasted over it. Parameters and errors as `swap`'s.

    As in the paper either the pasted copy or the one below it is changed, the pasted one is shifted and resized by a
    few per cent with its mask, and the mask is bent, blurred and at times transparent.
    """
    if recipe is None:
        recipe = draw_recipe(rng, strength=strength, self_blend=True)
    image = _picture("image", image)
    at = _points("points", points)
    unit = _unit(at)
    # Larger or smaller about the face's middle, then aside.
    middle = at[:68].mean(0)
    shift = middle + np.array(recipe.move) * unit - recipe.scale * middle
    matrix = np.array([[recipe.scale, 0, shift[0]], [0, recipe.scale, shift[1]]])
    size = image.shape[1::-1]
    came = as_picture(cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    moved = at * recipe.scale + shift
    mask = shaped(face_mask(moved, image.shape[:2], region=recipe.region), moved, recipe)
    return _forged(came, _changed(image, recipe.target), mask, recipe)


def draw_recipe(rng: np.random.Generator, *, strength: float = 0.5, self_blend: bool = False) -> Recipe:
    """A recipe by chance. The same number of draws is made whatever the `strength`, which widens the ranges.

    With `self_blend` the choices follow the paper: alpha blending without colour transfer, the mask's middle at 0.25,
    0.5, 0.75 or (half of the time) 1, source or target changed by an even chance; at strength 1 the source is shifted
    by up to 6 % of the distance between the eyes' outer corners across and 3 % along, and resized by up to 5 %.
    """
    # Never quite nothing: a label of 1 needs a trace.
    s = 0.1 + 0.9 * number("strength", strength, 0, 1)
    u = rng.random(12).tolist()
    source, target = _draw_change(rng, s), _draw_change(rng, s)
    seed = int(rng.integers(2**31))
    regions = ("face", "hull", "inner", "face", "hull", "lower", "mouth", "eyes", "nose")
    first = self_blend and u[8] < 0.5
    return Recipe(
        region=regions[int((4 if self_blend else len(regions)) * u[0])],
        grow=0.16 * (u[1] - 0.6),
        bend=(0.02 + 0.06 * s) * u[2],
        bend_seed=seed,
        feather=0.12 * u[3] ** 2 * (1.2 - 0.8 * s) + 0.01,
        ratio=(0.25, 0.5, 0.75, 1.0, 1.0, 1.0)[int(6 * u[4])] if self_blend else 1.0,
        warp=WARPS[int(3 * u[5])],
        colour="none" if self_blend else _likely(COLOURS, (s, 2.0, 4.0, 2.0, 2.0), u[6]),
        seam="alpha" if self_blend else _likely(SEAMS, (3.0, 1.0, 1.0), u[7]),
        # Of a self-blend one side is changed; of a swap, what is pasted: it is another camera's picture.
        source=source if first or not self_blend else Change(),
        target=target if self_blend and not first else Change(),
        move=(0.12 * s * (u[9] - 0.5), 0.06 * s * (u[10] - 0.5)),
        scale=1 + 0.1 * s * (u[11] - 0.5),
    )


# --- Mask -------------------------------------------------------------------------------------------------------------


def face_mask(points: ArrayLike, size: tuple[int, int], *, region: str = "face") -> Floats:
    """Mask (H, W) of a part of a face, 1 inside, 0 outside, edges averaged over the pixels they cross.

    Parameters
    ----------
    points : (68 | 70, 2)
        Landmarks in pixels; they may lie outside the picture.
    size
        (H, W).
    region
        One of `REGIONS`.
    """
    at = _points("points", points)
    parts = REGIONS[choice("region", region, tuple(REGIONS))]
    if region == "face":
        lifted = at[17:27] + FOREHEAD * (at[17:27].mean(0) - at[8])
        at = np.concatenate([at[:17], lifted])
    height, width = size
    fine = 4
    canvas = np.zeros((height * fine, width * fine), np.uint8)
    unit = _unit(_points("points", points)) * fine
    for rows, grow in parts:
        hull = cv2.convexHull(((at[list(rows)] + 0.5) * fine - 0.5).astype(np.float32))
        corners = np.rint(hull).astype(np.int32)
        cv2.fillConvexPoly(canvas, corners, 255)
        if grow:
            cv2.polylines(canvas, [corners], True, 255, max(1, round(2 * grow * unit)))
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255), np.float32)


def shaped(mask: Floats, points: ArrayLike, recipe: Recipe) -> Floats:
    """The mask grown or shrunk, bent, feathered and made transparent as the recipe says; 0 at the picture's rim.

    Displacements are smooth noise drawn on a 4 x 4 grid about the landmarks, so they move and grow with the face.
    """
    at = _points("points", points)
    unit = _unit(at)
    height, width = mask.shape
    reach = recipe.grow * unit
    if abs(reach) >= 0.5:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(abs(reach)) + 1,) * 2)
        grown = cv2.dilate(mask, kernel) if reach > 0 else cv2.erode(mask, kernel, borderValue=0)
        mask = np.asarray(grown, np.float32)
    if recipe.bend > 0:
        low, high = at[:68].min(0), at[:68].max(0)
        grid = np.random.default_rng(recipe.bend_seed).standard_normal((2, 4, 4)).astype(np.float32)
        x = ((np.arange(width) - low[0]) / max(high[0] - low[0], 1e-6) * 3).astype(np.float32)
        y = ((np.arange(height) - low[1]) / max(high[1] - low[1], 1e-6) * 3).astype(np.float32)
        # Separable: a smooth curve through the knots along each axis.
        by_x, by_y = _knots(x), _knots(y)
        aside, down = (np.float32(recipe.bend * unit) * (by_y @ part @ by_x.T) for part in grid)
        map_x = np.arange(width, dtype=np.float32) + aside
        map_y = np.arange(height, dtype=np.float32)[:, None] + down
        bent = cv2.remap(mask, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.asarray(bent, np.float32)
    sigma = recipe.feather * unit
    if sigma > 0.2:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
    return np.asarray(np.clip(mask, 0, 1) * np.float32(recipe.ratio), np.float32)


def boundary_of(mask: ArrayLike) -> Floats:
    """``4 m (1 - m)``: 1 where a mask is one half, 0 where it is 0 or 1 (Li et al., Face X-ray, CVPR 2020, eq. 2)."""
    m = np.asarray(mask, np.float32)
    if m.size and not (m.min() >= 0 and m.max() <= 1):
        raise ValueRangeError("a mask is out of range", got=f"{m.min():g} to {m.max():g}", expected="0 to 1")
    return np.asarray(4 * m * (1 - m), np.float32)


# --- Warp -------------------------------------------------------------------------------------------------------------


def warp_face(
    source: Picture, source_points: ArrayLike, target_points: ArrayLike, size: tuple[int, int], *, how: str
) -> Picture:
    """The source brought so that its landmarks lie on the target's.

    Parameters
    ----------
    source : (H, W, 3) uint8
    source_points, target_points : (68 | 70, 2)
    size
        (h, w) of the result.
    how
        ``"similarity"``: turned, scaled and shifted (least squares), so the source keeps its face shape.
        ``"affine_pieces"``: triangle by triangle between the landmarks, so it takes the target's.
        ``"thin_plate"``: the smoothest map through all landmarks (Bookstein, PAMI 11(6), 1989).
        Beyond the face the last two go over into the similarity.

    Returns
    -------
    (h, w, 3) uint8; the source's edge is repeated beyond it.
    """
    source = _picture("source", source)
    choice("warp", how, WARPS)
    a, b = _points("source_points", source_points)[:68], _points("target_points", target_points)[:68]
    matrix = np.asarray(similarity_from_points(b, a), np.float64)  # from target to source, as pictures are sampled
    height, width = size
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale > 1.5:  # a source that becomes much smaller is averaged first
        source = as_picture(cv2.GaussianBlur(source, (0, 0), 0.4 * scale, borderType=cv2.BORDER_REPLICATE))
    if how == "similarity":
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return as_picture(cv2.warpAffine(source, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))
    # Twelve points on a ring well outside the face stay where the similarity has them.
    middle, reach = b.mean(0), 1.6 * float(np.linalg.norm(b - b.mean(0), axis=1).max())
    turn = np.arange(12) * (2 * np.pi / 12)
    ring = middle + reach * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    knots = np.concatenate([b, ring])
    # What is left to move after the similarity: 0 on the ring.
    rest = np.concatenate([a - (b @ matrix[:, :2].T + matrix[:, 2]), np.zeros((12, 2))])
    moves = _by_pieces(knots, rest, size) if how == "affine_pieces" else _by_spline(knots, rest, size, middle, reach)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    m = matrix.astype(np.float32)
    map_x = m[0, 0] * x + m[0, 1] * y + m[0, 2] + moves[..., 0]
    map_y = m[1, 0] * x + m[1, 1] * y + m[1, 2] + moves[..., 1]
    return as_picture(cv2.remap(source, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def nearest_faces(points: ArrayLike, bank: ArrayLike, *, count: int = 1) -> NDArray[np.intp]:
    """Rows of `bank` whose landmarks are nearest to each of `points` after a similarity: whom to take for a source.

    Parameters
    ----------
    points : (n, k, 2)
    bank : (m, k, 2)
        Landmarks to choose from; take out the person's own rows first.
    count
        How many for each.

    Returns
    -------
    (n, count) indices, nearest first.
    """
    a, b = doubles("points", points, "n k 2"), doubles("bank", bank, "m k 2")
    if a.shape[1] != b.shape[1] or not 1 <= count <= len(b):
        raise ShapeError(
            "points and bank do not fit together", got=f"points {a.shape}, bank {b.shape}, count {count}",
            expected="the same number of landmarks, and count rows in the bank",
        )  # fmt: skip
    z, w = _standard(a), _standard(b)
    # For unit vectors of complex numbers the best similarity leaves 1 - |<z, w>|^2 of the other's square.
    return np.asarray(np.argsort(-np.abs(z @ w.conj().T), axis=1, kind="stable")[:, :count], np.intp)


# --- Colour -----------------------------------------------------------------------------------------------------------


def match_colour(source: Picture, target: Picture, mask: Floats, *, how: str = "reinhard") -> Picture:
    """The source with the colours that the target has inside the mask; statistics are weighted by the mask.

    Parameters
    ----------
    source, target : (H, W, 3) uint8
        Of one size, the source already in place.
    mask : (H, W) float32
    how
        ``"none"``.
        ``"mean"``: CIELab means.
        ``"reinhard"``: CIELab means and standard deviations (Reinhard et al., CG&A 21(5), 2001, in another opponent
        space).
        ``"covariance"``: RGB mean and covariance, by the linear map that moves colours least (Pitié & Kokaram, CVMP
        2007).
        ``"histogram"``: each channel's histogram.
    """
    source, target = _pair(source, target, mask)
    choice("colour transfer", how, COLOURS)
    weight = mask.ravel()
    some = weight > 0
    if how == "none" or float(weight.sum()) < 1:
        return source.copy()
    if how == "histogram":
        tables = [_histogram_map(source[..., c], target[..., c], mask) for c in range(3)]
        return as_picture(cv2.LUT(source, np.stack(tables, axis=-1)[None]))
    lab = how in ("mean", "reinhard")
    coded = [picture.astype(np.float32) / np.float32(255) for picture in (source, target)]
    if lab:
        coded = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2Lab), np.float32) for picture in coded]
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(picture.reshape(-1, 3)[some], weight[some]) for picture in coded)
    if how == "mean":
        linear = np.eye(3)
    elif how == "reinhard":
        linear = np.diag(np.sqrt(np.diag(cov_b)) / np.sqrt(np.maximum(np.diag(cov_a), 1e-8)))
    else:
        linear = _least_move(cov_a, cov_b)
    moved = (coded[0].reshape(-1, 3) - mean_a.astype(np.float32)) @ linear.T.astype(np.float32)
    moved = (moved + mean_b.astype(np.float32)).reshape(source.shape)
    if lab:
        moved = np.asarray(cv2.cvtColor(moved, cv2.COLOR_Lab2RGB), np.float32)
    return _levels(255 * moved)


# --- Seam -------------------------------------------------------------------------------------------------------------


def blend(source: Picture, target: Picture, mask: Floats, *, how: str = "alpha") -> tuple[Picture, Floats]:
    """The source laid over the target where the mask is, and the mask that tells how much of it is there.

    Parameters
    ----------
    source, target : (H, W, 3) uint8
        Of one size, the source already in place.
    mask : (H, W) float32
        0 to 1.
    how
        ``"alpha"``: their mean, weighted by the mask.
        ``"poisson"``: the source's gradients with the target's colours at the edge of the mask (Pérez et al., SIGGRAPH
        2003), then weighted by the mask.
        ``"pyramid"``: each band of frequencies over a seam as wide as itself (Burt & Adelson, ACM TOG 2(4), 1983).

    Returns
    -------
    image : (H, W, 3) uint8
    mask : (H, W) float32
        As given; for the pyramid, its coarsest smoothing, within which all that was pasted lies. Where it is 0, `image`
        is `target` to the bit.
    """
    source, target = _pair(source, target, mask)
    choice("seam", how, SEAMS)
    if how == "pyramid":
        return _pyramid(source, target, mask)
    if how == "poisson":
        source = _poisson(source, target, mask)
    below = target.astype(np.float32)
    return _levels(below + mask[..., None] * (source - below)), mask


def _poisson(source: Picture, target: Picture, mask: Floats) -> Picture:
    region = np.where(mask > 0.02, 255, 0).astype(np.uint8)
    region[[0, -1]] = 0  # OpenCV solves inside a rim that it takes from the target
    region[:, [0, -1]] = 0
    x, y, wide, high = cv2.boundingRect(region)
    if wide < 3 or high < 3:
        return target
    # It centres the region's box on this point, rounding down.
    centre = (x + wide // 2, y + high // 2)
    return as_picture(cv2.seamlessClone(source, target, region, centre, cv2.NORMAL_CLONE))


def _pyramid(source: Picture, target: Picture, mask: Floats) -> tuple[Picture, Floats]:
    levels = max(1, min(4, int(np.log2(max(2, min(mask.shape)))) - 4))
    tops: list[tuple[Floats, Floats]] = []
    difference, weight = source.astype(np.float32) - target, mask
    for _ in range(levels):
        smaller = np.asarray(cv2.pyrDown(difference), np.float32)
        tops.append((difference - cv2.pyrUp(smaller, dstsize=difference.shape[1::-1]), weight))
        difference, weight = smaller, np.asarray(cv2.pyrDown(weight), np.float32)
    # The target's own bands come back as they were, so it is enough to blend the bands of the difference.
    mixed, wide = np.asarray(difference * weight[..., None], np.float32), weight
    for band, share in reversed(tops):
        mixed = np.asarray(cv2.pyrUp(mixed, dstsize=band.shape[1::-1]) + band * share[..., None], np.float32)
        wide = np.asarray(cv2.pyrUp(wide, dstsize=band.shape[1::-1]), np.float32)
    wide = np.asarray(np.clip(wide, 0, 1), np.float32)
    wide[wide < 1 / 255] = 0
    image = _levels(target + mixed)
    np.copyto(image, target, where=(wide == 0)[..., None])
    return image, wide


# --- Inside -----------------------------------------------------------------------------------------------------------


def _forged(came: Picture, onto: Picture, mask: Floats, recipe: Recipe) -> Forgery:
    came = match_colour(came, onto, mask, how=recipe.colour)
    came = _changed(came, recipe.source)
    image, mask = blend(came, onto, mask, how=recipe.seam)
    return Forgery(image, mask, onto, 1, recipe)


def _draw_change(rng: np.random.Generator, s: float) -> Change:
    u = (2 * rng.random(11) - 1).tolist()
    return Change(
        shift=(20 * s * u[0], 20 * s * u[1], 20 * s * u[2]),
        hue=8 * s * u[3],
        saturation=1 + 0.3 * s * u[4],
        brightness=1 + 0.1 * s * u[5],
        contrast=1 + 0.1 * s * u[6],
        sharpen=0.6 * s * u[7],
        shrink=1 + 1.5 * s * max(0.0, u[8]),
        quality=round(95 - 55 * s * abs(u[9])) if u[10] < 0 else None,
    )


def _changed(image: Picture, change: Change) -> Picture:
    if change == Change():
        return image.copy()
    height, width = image.shape[:2]
    levels = image.astype(np.float32)
    if change.hue or change.saturation != 1:
        hsv = cv2.cvtColor(levels / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + change.hue) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] * change.saturation, 0, 1)
        levels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255)
    mean = levels.mean()
    levels = (levels - mean) * np.float32(change.contrast) + mean * np.float32(change.brightness)
    levels += np.array(change.shift, np.float32)
    if change.sharpen:
        levels += np.float32(change.sharpen) * (levels - cv2.GaussianBlur(levels, (0, 0), 1.2))
    if change.shrink > 1:
        small = (max(1, round(width / change.shrink)), max(1, round(height / change.shrink)))
        shrunk = cv2.resize(levels, small, interpolation=cv2.INTER_AREA)
        levels = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)
    changed = _levels(levels)
    if change.quality is None:
        return changed
    return decode(
        cv2.imencode(".jpg", cv2.cvtColor(changed, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, change.quality])[1]
    )


def _likely(names: tuple[str, ...], weights: tuple[float, ...], u: float) -> str:
    """The name at the share `u`, 0 to 1, of the sum of the weights."""
    edges = np.cumsum(weights)
    return names[min(int(np.searchsorted(edges, u * edges[-1], side="right")), len(names) - 1)]


def _unit(points: Doubles) -> float:
    """Distance of the outer eye corners in pixels."""
    return max(float(np.linalg.norm(points[45] - points[36])), 1.0)


def _knots(at: Floats) -> Floats:
    """(n, 4) weights of knots 0 to 3 at places `at`: smoothstep between neighbours, the end ones beyond."""
    at = np.clip(at, 0, 3)
    left = np.minimum(np.floor(at), 2).astype(np.intp)
    part = at - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((len(at), 4), np.float32)
    row = np.arange(len(at))
    weights[row, left] = 1 - part
    weights[row, left + 1] = part
    return weights


def _by_pieces(knots: Doubles, rest: Doubles, size: tuple[int, int]) -> Floats:
    """Displacements (h, w, 2), linear in each triangle between the knots (k, 2) where they are `rest` (k, 2)."""
    from scipy.spatial import Delaunay, QhullError

    height, width = size
    try:
        triangles = Delaunay(knots).simplices
    except QhullError as error:
        raise ValueRangeError("landmarks lie on a line", got=knots.shape, expected="the points of a face") from error
    corners = np.concatenate([knots[triangles], np.ones((len(triangles), 3, 1))], axis=2)
    # Triangles without area cover no pixel; the pseudo-inverse keeps them from being an error.
    planes = (np.linalg.pinv(corners) @ rest[triangles]).astype(np.float32)
    planes = np.concatenate([planes, np.zeros((1, 3, 2), np.float32)])
    of = np.full((height, width), len(triangles), np.int32)
    fixed = np.rint(knots[triangles] * 16).astype(np.int32)
    for number_, triangle in enumerate(fixed):
        cv2.fillConvexPoly(of, triangle, number_, lineType=cv2.LINE_8, shift=4)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    own = planes[of]
    return np.asarray(own[:, :, 0] * x[..., None] + own[:, :, 1] * y[..., None] + own[:, :, 2], np.float32)


def _by_spline(knots: Doubles, rest: Doubles, size: tuple[int, int], middle: Doubles, reach: float) -> Floats:
    """Displacements (h, w, 2) of the thin-plate spline through `rest` (k, 2) at the knots; 0 beyond the ring."""
    height, width = size

    def kernel(a: Doubles, b: Doubles) -> Doubles:
        squared = ((a[:, None] - b) ** 2).sum(-1) / reach**2
        return np.asarray(0.5 * squared * np.log(np.maximum(squared, 1e-12)))

    k = len(knots)
    affine = np.concatenate([(knots - middle) / reach, np.ones((k, 1))], axis=1)
    system = np.block([[kernel(knots, knots) + 1e-8 * np.eye(k), affine], [affine.T, np.zeros((3, 3))]])
    solved = np.linalg.lstsq(system, np.concatenate([rest, np.zeros((3, 2))]), rcond=None)[0]
    # The spline is smooth: some fifty steps across are enough, straight lines between them.
    step = min(8, max(1, min(size) // 48))
    high, wide = -(-height // step), -(-width // step)
    # Pixel i of the coarse grid is the middle of `step` pixels, as cv2.resize has it.
    x, y = np.meshgrid((np.arange(wide) + 0.5) * step - 0.5, (np.arange(high) + 0.5) * step - 0.5)
    places = np.stack([x.ravel(), y.ravel()], axis=1)
    own = (places - middle) / reach
    moves = kernel(places, knots) @ solved[:k] + np.concatenate([own, np.ones((len(own), 1))], axis=1) @ solved[k:]
    fade = np.clip((1.1 - np.linalg.norm(own, axis=1)) / 0.3, 0, 1)
    coarse = (moves * fade[:, None]).reshape(high, wide, 2).astype(np.float32)
    fine = cv2.resize(coarse, (wide * step, high * step), interpolation=cv2.INTER_LINEAR) if step > 1 else coarse
    return np.ascontiguousarray(fine[:height, :width])


def _standard(points: Doubles) -> NDArray[np.complex128]:
    """(n, k) complex: centred, of unit length."""
    z = points[..., 0] + 1j * points[..., 1]
    z = z - z.mean(1, keepdims=True)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    if (length < 1e-9).any():
        raise ValueRangeError("the points of a face coincide", got="one place", expected="points that differ")
    return np.asarray(z / length)


def _moments(values: NDArray[Any], weight: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Mean (3,) and covariance (3, 3) of rows (n, 3), weighted."""
    share = weight.astype(np.float64) / weight.sum()
    mean = share @ values
    centred = values - mean
    return mean, (centred * share[:, None]).T @ centred


def _least_move(cov_a: Doubles, cov_b: Doubles) -> Doubles:
    """The symmetric map T with ``T A T = B``: of all that give the covariance, the one that moves colours least."""
    root, inverse = _root(cov_a + 1e-6 * np.eye(3))
    middle, _ = _root(root @ cov_b @ root)
    return np.asarray(inverse @ middle @ inverse)


def _root(matrix: Doubles) -> tuple[Doubles, Doubles]:
    values, vectors = np.linalg.eigh(matrix)
    values = np.sqrt(np.maximum(values, 1e-12))
    return np.asarray((vectors * values) @ vectors.T), np.asarray((vectors / values) @ vectors.T)


def _histogram_map(source: NDArray[np.uint8], target: NDArray[np.uint8], mask: Floats) -> NDArray[np.uint8]:
    """(256,) table that gives the source, inside the mask, the target's histogram."""
    weight = mask.ravel().astype(np.float64)
    sides = []
    for picture in (source, target):
        count = np.bincount(picture.ravel(), weight, 256)
        level = np.flatnonzero(count)
        share = count[level] / count.sum()
        sides.append((level, share.cumsum() - share / 2))
    (level, rank), (other, other_rank) = sides
    # Each level goes where the middle of its share of the pixels falls among the target's. Levels that are not in the
    # mask go between their neighbours, or aside with the nearest.
    found = np.interp(rank, other_rank, other)
    every = np.arange(256)
    table = np.interp(every, level, found) + np.minimum(every - level[0], 0) + np.maximum(every - level[-1], 0)
    return as_picture(np.clip(np.rint(table), 0, 255).astype(np.uint8))


# --- Checks -----------------------------------------------------------------------------------------------------------


def _picture(name: str, image: Any) -> Picture:
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise DtypeError(f"{name} must be 8 bit", got=array.dtype, expected="uint8")
    if array.ndim != 3 or array.shape[2] != 3 or min(array.shape[:2]) < 8:
        raise ShapeError(f"{name} is not such a picture", got=array.shape, expected="(H, W, 3), from 8 px")
    return array


def _points(name: str, points: ArrayLike) -> Doubles:
    at = doubles(name, points, "k 2")
    if len(at) not in (68, 70):
        raise ShapeError(f"{name} must be the landmarks of one face", got=at.shape, expected="(68, 2) or (70, 2)")
    return at


def _pair(source: Any, target: Any, mask: Floats) -> tuple[Picture, Picture]:
    a, b = _picture("source", source), _picture("target", target)
    if a.shape != b.shape or np.shape(mask) != a.shape[:2]:
        raise ShapeError(
            "source, target and mask must be of one size", got=f"{a.shape}, {b.shape}, {np.shape(mask)}",
            expected="(H, W, 3), (H, W, 3), (H, W)",
        )  # fmt: skip
    if not (float(np.min(mask)) >= 0 and float(np.max(mask)) <= 1):
        raise ValueRangeError("mask is out of range", got=f"{np.min(mask):g} to {np.max(mask):g}", expected="0 to 1")
    return a, b


def _levels(values: NDArray[Any]) -> Picture:
    return as_picture(np.clip(np.rint(values), 0, 255).astype(np.uint8))
