"""Forgeries: truth to the bit outside the mask, masks and edges as defined, colours and warps that match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mien.data.forgeries import (
    COLOURS,
    REGIONS,
    SEAMS,
    WARPS,
    Change,
    Recipe,
    blend,
    boundary_of,
    draw_recipe,
    face_mask,
    match_colour,
    nearest_faces,
    pristine,
    self_blended,
    shaped,
    swap,
    warp_face,
)
from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError
from mien.geometry.mean_shape import MEAN70
from mien.geometry.similarity import apply

SIDE = 128
Picture = NDArray[np.uint8]


def points(side: float = SIDE, *, wide: float = 1.0) -> NDArray[np.float64]:
    """(68, 2) landmarks of a frontal face in a picture of `side` px."""
    return np.asarray(MEAN70)[:68, :2] * (side * 0.35 * wide, side * 0.35) + (side / 2, side * 0.5)


def portrait(seed: int, at: NDArray[np.float64], side: int = SIDE) -> Picture:
    """A drawn face on a textured ground."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3)).astype(np.float32), (0, 0), 3)
    image = np.clip(128 + 6 * (ground - ground.mean()), 0, 255).astype(np.uint8)
    skin = rng.integers(110, 220, 3).tolist()
    cv2.fillConvexPoly(image, cv2.convexHull(at.astype(np.float32)).astype(np.int32), skin)
    for eye in (at[36:42], at[42:48]):
        cv2.fillConvexPoly(image, np.rint(eye).astype(np.int32), (250, 250, 250))
    cv2.fillPoly(image, [np.rint(at[48:60]).astype(np.int32)], (170, 40, 60))
    grain = rng.normal(0, 4, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


HERE, THERE = points(), points(wide=0.85) + np.array([3, -4])
TARGET, SOURCE = portrait(1, HERE), portrait(2, THERE)


# --- The same for the same draw, and the truth ------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_same_seed_same_forgery_and_pictures_are_not_written_to(strength: float) -> None:
    before = SOURCE.copy(), TARGET.copy()
    makers: tuple[Callable[[int], Any], ...] = (
        lambda seed: swap(SOURCE, THERE, TARGET, HERE, np.random.default_rng(seed), strength=strength),
        lambda seed: self_blended(TARGET, HERE, np.random.default_rng(seed), strength=strength),
    )
    for make in makers:
        first, again, other = make(3), make(3), make(4)
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.mask, again.mask)
        assert first.recipe == again.recipe != other.recipe
        assert first.label == 1
    np.testing.assert_array_equal(SOURCE, before[0])
    np.testing.assert_array_equal(TARGET, before[1])


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("colour", COLOURS)
def test_nothing_changes_where_the_mask_is_zero_and_something_does_inside(seam: str, colour: str) -> None:
    recipe = Recipe(seam=seam, colour=colour, bend=0.04)
    forged = swap(SOURCE, THERE, TARGET, HERE, np.random.default_rng(0), recipe=recipe)
    assert (forged.image.shape, forged.image.dtype) == (TARGET.shape, np.uint8)
    outside = forged.mask == 0
    assert 0.05 < outside.mean() < 0.95
    np.testing.assert_array_equal(forged.image[outside], TARGET[outside])
    np.testing.assert_array_equal(forged.pristine, TARGET)
    inside = forged.mask > 0.9
    assert inside.mean() > 0.1
    assert np.abs(forged.image[inside].astype(int) - TARGET[inside]).mean() > 2


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1), blended=st.booleans())
def test_every_draw_gives_a_mask_of_0_to_1_that_tells_what_changed(seed: int, strength: float, blended: bool) -> None:
    rng = np.random.default_rng(seed)
    if blended:
        forged = self_blended(TARGET, HERE, rng, strength=strength)
    else:
        forged = swap(SOURCE, THERE, TARGET, HERE, rng, strength=strength)
    assert forged.mask.dtype == np.float32
    assert 0 <= forged.mask.min() <= forged.mask.max() <= 1
    assert forged.mask.max() > 0.2
    changed = np.any(forged.image != forged.pristine, axis=2)
    assert not changed[forged.mask == 0].any()
    assert changed.any()
    assert 0 <= forged.boundary.min() <= forged.boundary.max() <= 1


@pytest.mark.parametrize("blended", [False, True])
def test_strength_never_changes_how_much_is_drawn(blended: bool) -> None:
    after = set()
    for strength in (0.0, 0.4, 1.0):
        rng = np.random.default_rng(5)
        draw_recipe(rng, strength=strength, self_blend=blended)
        after.add(int(rng.integers(2**62)))
    assert len(after) == 1


def test_a_given_recipe_draws_nothing() -> None:
    rng = np.random.default_rng(5)
    first = swap(SOURCE, THERE, TARGET, HERE, rng, recipe=Recipe(bend=0.05, bend_seed=9))
    again = swap(SOURCE, THERE, TARGET, HERE, rng, recipe=Recipe(bend=0.05, bend_seed=9))
    np.testing.assert_array_equal(first.image, again.image)
    assert rng.integers(2**62) == np.random.default_rng(5).integers(2**62)


def test_draws_reach_every_choice() -> None:
    swaps = [draw_recipe(np.random.default_rng(k)) for k in range(200)]
    assert {recipe.warp for recipe in swaps} == set(WARPS)
    assert {recipe.colour for recipe in swaps} == set(COLOURS)
    assert {recipe.seam for recipe in swaps} == set(SEAMS)
    assert {recipe.region for recipe in swaps} == set(REGIONS)
    own = [draw_recipe(np.random.default_rng(k), self_blend=True) for k in range(200)]
    assert {recipe.ratio for recipe in own} == {0.25, 0.5, 0.75, 1.0}
    assert all((recipe.source == Change()) != (recipe.target == Change()) for recipe in own)


def test_a_pristine_picture_has_an_empty_mask_and_label_0() -> None:
    real = pristine(TARGET)
    assert (real.label, real.recipe) == (0, None)
    assert not real.mask.any()
    assert not real.boundary.any()
    np.testing.assert_array_equal(real.image, TARGET)


# --- Self-blending ----------------------------------------------------------------------------------------------------


def test_a_picture_pasted_unchanged_onto_itself_is_itself() -> None:
    forged = self_blended(TARGET, HERE, np.random.default_rng(0), recipe=Recipe(colour="none"))
    np.testing.assert_array_equal(forged.image, TARGET)
    assert forged.mask.max() == 1


def test_self_blending_moves_source_and_mask_together() -> None:
    still = Recipe(colour="none", feather=0.0)
    moved = replace(still, move=(0.1, -0.05))
    unit = float(np.linalg.norm(HERE[45] - HERE[36]))
    a, b = (self_blended(TARGET, HERE, np.random.default_rng(0), recipe=recipe).mask for recipe in (still, moved))
    y, x = np.mgrid[:SIDE, :SIDE]
    shift = [float((b * axis).sum() / b.sum() - (a * axis).sum() / a.sum()) for axis in (x, y)]
    np.testing.assert_allclose(shift, (0.1 * unit, -0.05 * unit), atol=0.15)
    grown = self_blended(TARGET, HERE, np.random.default_rng(0), recipe=replace(still, scale=1.1)).mask
    assert grown.sum() / a.sum() == pytest.approx(1.21, rel=0.03)


def test_the_edge_of_a_transparent_mask_is_still_an_edge() -> None:
    recipe = Recipe(colour="none", ratio=0.25, target=Change(brightness=1.1))
    forged = self_blended(TARGET, HERE, np.random.default_rng(0), recipe=recipe)
    assert forged.mask.max() == 0.25
    assert forged.boundary.max() > 0.95
    middle = tuple(np.rint(HERE[30]).astype(int)[::-1])
    assert forged.boundary[middle] == pytest.approx(0, abs=1e-5)


# --- Masks ------------------------------------------------------------------------------------------------------------


def test_masks_hold_their_landmarks_and_parts_lie_in_the_face() -> None:
    masks = {region: face_mask(HERE, (SIDE, SIDE), region=region) for region in REGIONS}
    for mask in masks.values():
        assert set(np.unique(mask[[0, -1]])) == {0.0}
        assert mask.max() == 1
    for region, row in (("hull", 30), ("face", 27), ("inner", 33), ("eyes", 37), ("nose", 30), ("mouth", 62)):
        x, y = np.rint(HERE[row]).astype(int)
        assert masks[region][y, x] == 1, region
    assert (masks["hull"] <= masks["face"] + 1e-6).all()
    for region in ("inner", "eyes", "nose", "mouth", "lower"):
        assert masks[region][masks["face"] == 0].mean() < 1e-3
        assert 0 < masks[region].sum() < masks["face"].sum()
    assert masks["eyes"][tuple(np.rint(HERE[27]).astype(int)[::-1])] == 0  # two hulls, not one over the nose


def test_area_of_a_hull_is_that_of_its_polygon() -> None:
    area = cv2.contourArea(cv2.convexHull(HERE.astype(np.float32)))
    assert face_mask(HERE, (SIDE, SIDE), region="hull").sum() == pytest.approx(area, rel=0.01)


def test_masks_grow_shrink_and_bend_with_the_face() -> None:
    mask = face_mask(HERE, (SIDE, SIDE))
    plain = Recipe(feather=0.0)
    less, more = (shaped(mask, HERE, replace(plain, grow=by)).sum() for by in (-0.1, 0.1))
    assert less < mask.sum() < more
    np.testing.assert_array_equal(shaped(mask, HERE, plain), mask)
    bent = replace(plain, bend=0.06, bend_seed=3, feather=0.02)
    small = shaped(mask, HERE, bent)
    assert np.abs(small - mask).mean() > 0.003
    large = shaped(face_mask((HERE + 0.5) * 2 - 0.5, (2 * SIDE, 2 * SIDE)), (HERE + 0.5) * 2 - 0.5, bent)
    halved = cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert np.abs(halved - small).mean() < 0.1 * np.abs(small - mask).mean()


@given(mask=arrays(np.float32, (6, 7), elements=st.floats(0, 1, width=32)))
def test_boundary_is_4_m_1_minus_m(mask: NDArray[np.float32]) -> None:
    edge = boundary_of(mask)
    np.testing.assert_allclose(edge, 4 * mask.astype(float) * (1 - mask.astype(float)), atol=1e-6)
    assert (edge[(mask == 0) | (mask == 1)] == 0).all()
    np.testing.assert_allclose(boundary_of(1 - mask), edge, atol=1e-6)


# --- Warps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["affine_pieces", "thin_plate"])
def test_landmarks_come_to_lie_on_the_target_s(how: str) -> None:
    rng = np.random.default_rng(0)
    wanted = points(192, wide=0.9) + rng.normal(0, 0.2, (68, 2)) + (4, 2)
    wanted[48:] += (0, 4)  # another expression
    given_points = points(192)
    rows = [8, 30, 36, 45, 48, 54, 2, 14, 19, 24]
    marks = np.zeros((192, 192, 3), np.uint8)
    for x, y in given_points[rows]:
        cv2.circle(marks, (round(x * 16), round(y * 16)), 24, (255, 255, 255), -1, cv2.LINE_AA, 4)
    came = warp_face(marks, given_points, wanted, (192, 192), how=how)[..., 0].astype(float)
    for x, y in wanted[rows]:
        left, top = round(x) - 5, round(y) - 5
        part = came[top : top + 11, left : left + 11]
        at = [(part.sum(axis) * np.arange(11)).sum() / part.sum() for axis in (0, 1)]
        np.testing.assert_allclose(at, (x - left, y - top), atol=0.6)


@pytest.mark.parametrize("how", WARPS)
def test_faces_that_differ_by_a_similarity_are_only_turned_and_scaled(how: str) -> None:
    matrix = np.array([[0.9, -0.2, 12.0], [0.2, 0.9, -6.0]])
    came = warp_face(SOURCE, THERE, apply(matrix, THERE), (SIDE, SIDE), how=how)
    expected = cv2.warpAffine(SOURCE, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(came.astype(int) - expected).mean() < 1.5


def test_nearest_faces_are_those_of_least_procrustes_distance() -> None:
    rng = np.random.default_rng(0)
    bank = points() + rng.normal(0, 3, (20, 68, 2))
    asked = points() + rng.normal(0, 3, (4, 68, 2))

    def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        """Procrustes, by SVD, without reflection."""
        a, b = a - a.mean(0), b - b.mean(0)
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        u, s, vt = np.linalg.svd(a.T @ b)
        s[-1] *= np.sign(np.linalg.det(u @ vt))
        return float(1 - s.sum() ** 2)

    naive = np.array([np.argsort([distance(face, other) for other in bank])[:3] for face in asked])
    np.testing.assert_array_equal(nearest_faces(asked, bank, count=3), naive)
    turned = apply(np.array([[0.5, -2.0, 90.0], [2.0, 0.5, 3.0]]), bank)
    np.testing.assert_array_equal(nearest_faces(asked, turned, count=3), naive)
    assert nearest_faces(bank[:5], bank)[:, 0].tolist() == [0, 1, 2, 3, 4]


# --- Colour and seam --------------------------------------------------------------------------------------------------


def toned(seed: int, mean: tuple[float, float, float], spread: tuple[float, float, float]) -> Picture:
    """Smooth noise of a mean and a spread, its channels mixed, far from clipping."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((SIDE, SIDE, 3)), (0, 0), 2)
    noise = noise / noise.std((0, 1)) @ np.array([[1, 0.5, 0], [0, 1, 0.4], [0.2, 0, 1]])
    return np.clip(np.rint(noise * spread + mean), 0, 255).astype(np.uint8)


RED, BLUE = toned(0, (150, 110, 90), (12, 9, 7)), toned(1, (100, 120, 150), (8, 12, 14))
MASK = face_mask(HERE, (SIDE, SIDE))


def lab(image: Picture) -> NDArray[np.float64]:
    values: Any = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return np.asarray(values, np.float64)[MASK == 1]


def test_reinhard_gives_the_target_s_lab_means_and_deviations() -> None:
    moved = match_colour(RED, BLUE, MASK, how="reinhard")
    np.testing.assert_allclose(lab(moved).mean(0), lab(BLUE).mean(0), atol=0.3)
    np.testing.assert_allclose(lab(moved).std(0), lab(BLUE).std(0), rtol=0.04)
    shifted = match_colour(RED, BLUE, MASK, how="mean")
    np.testing.assert_allclose(lab(shifted).mean(0), lab(BLUE).mean(0), atol=0.3)
    np.testing.assert_allclose(lab(shifted).std(0), lab(RED).std(0), rtol=0.04)


def test_covariance_gives_the_target_s_covariance() -> None:
    moved = match_colour(RED, BLUE, MASK, how="covariance")[MASK == 1].astype(float)
    wanted = BLUE[MASK == 1].astype(float)
    np.testing.assert_allclose(moved.mean(0), wanted.mean(0), atol=0.5)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(wanted.T), atol=4)


def test_histogram_gives_the_target_s_histogram() -> None:
    moved = match_colour(RED, BLUE, MASK, how="histogram")[MASK == 1]
    shares = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(moved, shares, 0), np.quantile(BLUE[MASK == 1], shares, 0), atol=1.5)


@pytest.mark.parametrize("how", COLOURS)
def test_colours_that_match_already_stay(how: str) -> None:
    np.testing.assert_allclose(match_colour(RED, RED, MASK, how=how).astype(int), RED, atol=2)
    np.testing.assert_array_equal(match_colour(RED, BLUE, np.zeros_like(MASK), how=how), RED)


def test_alpha_is_the_weighted_mean() -> None:
    soft = shaped(MASK, HERE, Recipe(feather=0.1))
    image, mask = blend(RED, BLUE, soft, how="alpha")
    expected = BLUE + soft[..., None].astype(float) * (RED.astype(float) - BLUE)
    np.testing.assert_allclose(image, expected, atol=0.51)
    assert mask is soft


def test_poisson_forgets_a_constant_and_keeps_detail() -> None:
    lighter = np.clip(BLUE.astype(int) + 30, 0, 255).astype(np.uint8)
    assert lighter.max() < 255
    image, _ = blend(lighter, BLUE, MASK, how="poisson")
    assert np.abs(image.astype(int) - BLUE).max() <= 3
    image, _ = blend(RED, BLUE, MASK, how="poisson")
    inside = cv2.erode(MASK, np.ones((9, 9), np.uint8)) == 1
    fine = [np.asarray(cv2.Laplacian(p.astype(np.float32), -1))[inside].ravel() for p in (image, RED, BLUE)]
    assert np.corrcoef(fine[0], fine[1])[0, 1] > 0.95 > 0.3 > abs(np.corrcoef(fine[0], fine[2])[0, 1])


def test_pyramid_spreads_low_frequencies_over_wider_seams() -> None:
    low, high = np.full((SIDE, SIDE, 3), 100, np.uint8), np.full((SIDE, SIDE, 3), 160, np.uint8)
    image, wide = blend(high, low, MASK, how="pyramid")
    # Pictures without detail are blended by the coarsest mask, which is the one that is told.
    np.testing.assert_allclose(image[..., 0], 100 + 60 * wide, atol=1)
    assert (wide > 0).sum() > (MASK > 0).sum()
    assert boundary_of(wide).sum() > 3 * boundary_of(MASK).sum()
    np.testing.assert_array_equal(blend(RED, RED, MASK, how="pyramid")[0], RED)


@pytest.mark.parametrize("seam", SEAMS)
def test_a_mask_up_to_the_picture_s_rim_is_blended_too(seam: str) -> None:
    image, mask = blend(RED, BLUE, np.ones((SIDE, SIDE), np.float32), how=seam)
    assert image.shape == RED.shape
    assert mask.min() > 0.9
    nothing, empty = blend(RED, BLUE, np.zeros((SIDE, SIDE), np.float32), how=seam)
    np.testing.assert_array_equal(nothing, BLUE)
    assert not empty.any()


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: swap(SOURCE.astype(float), THERE, TARGET, HERE, np.random.default_rng(0)), DtypeError),  # type: ignore[arg-type]
        (lambda: swap(SOURCE, THERE[:5], TARGET, HERE, np.random.default_rng(0)), ShapeError),
        (lambda: swap(SOURCE, THERE, TARGET, HERE * np.nan, np.random.default_rng(0)), ValueRangeError),
        (lambda: swap(SOURCE, THERE, TARGET, HERE, np.random.default_rng(0), strength=2), ValueRangeError),
        (lambda: swap(SOURCE, THERE, TARGET, HERE, np.random.default_rng(0), recipe=Recipe(warp="rbf")), OptionError),
        (lambda: self_blended(TARGET[..., 0], HERE, np.random.default_rng(0)), ShapeError),
        (lambda: face_mask(HERE, (SIDE, SIDE), region="ear"), OptionError),
        (lambda: blend(RED, BLUE[:9], MASK), ShapeError),
        (lambda: blend(RED, BLUE, MASK * 2), ValueRangeError),
        (lambda: blend(RED, BLUE, MASK, how="glue"), OptionError),
        (lambda: match_colour(RED, BLUE, MASK, how="magic"), OptionError),
        (lambda: boundary_of(MASK - 1), ValueRangeError),
        (lambda: nearest_faces(HERE[None], HERE[None, :9]), ShapeError),
        (lambda: nearest_faces(HERE[None], HERE[None], count=2), ShapeError),
    ],
)
def test_wrong_input_is_a_typed_error(call: Callable[[], Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()
