"""Recapture: the same for the same draw, its geometry true to the pixel, its moire and bands where physics has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mien.data import recapture
from mien.data.recapture import (
    Camera,
    Place,
    Print,
    Screen,
    draw_print,
    draw_screen,
    print_clip,
    print_recapture,
    render,
    render_clip,
    replay_clip,
    replay_recapture,
)
from mien.errors import DtypeError, OptionError, ShapeError, ValueRangeError

PLAIN = Camera(blur=0.0, bayer=False, electrons=0.0, quality=None)
"""A camera that adds nothing but the area of its pixels."""
PAPER = Print(camera=PLAIN, screen="photo", paper=(1, 1, 1), grain=0, ambient=1)
GLASS = Screen(camera=PLAIN, gloss=0, leak=0, mix=0, tint=(1, 1, 1))


def shapes(height: int = 96, width: int = 80) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [128 + 70 * np.sin(x / a + y / b) for a, b in ((9, 7), (6, 11), (13, 5))]
    return np.clip(np.stack(waves, 2), 0, 255).astype(np.uint8)


def grey(side: int = 96, level: int = 150) -> NDArray[np.uint8]:
    return np.full((side, side, 3), level, np.uint8)


def linear(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    level = image / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def peak(values: NDArray[Any]) -> float:
    """Frequency, cycles a sample, of the strongest wave in a row of values."""
    waves = (np.asarray(values, float) - np.mean(values)) * np.hanning(len(values))
    spectrum = np.abs(np.fft.rfft(waves, 16 * len(values)))
    spectrum[:32] = 0  # what the window leaves of the mean
    return float(spectrum.argmax() / (16 * len(values)))


# --- The same for the same draw ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [print_recapture, replay_recapture])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_same_seed_same_picture_and_its_setting_renders_it_again(make: Any, strength: float) -> None:
    image = shapes()
    before = image.copy()
    first = make(image, np.random.default_rng(3), strength=strength)
    again = make(image, np.random.default_rng(3), strength=strength)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(render(image, first.setting).image, first.image)
    np.testing.assert_array_equal(image, before)
    assert (first.image.shape, first.image.dtype) == (image.shape, np.uint8)
    assert not np.array_equal(first.image, make(image, np.random.default_rng(4), strength=strength).image)


@pytest.mark.parametrize("draw", [draw_print, draw_screen])
def test_strength_never_changes_how_much_is_drawn(draw: Any) -> None:
    after = set()
    for strength in (0.0, 0.4, 1.0):
        rng = np.random.default_rng(5)
        draw(rng, strength=strength)
        after.add(int(rng.integers(2**62)))
    assert len(after) == 1


@pytest.mark.parametrize("make", [print_recapture, replay_recapture])
def test_a_stronger_attack_is_further_from_the_picture(make: Any) -> None:
    image = shapes()
    errors = [
        np.mean([np.abs(make(image, np.random.default_rng(k), strength=s).image - image.astype(int)).mean()
                 for k in range(8)])
        for s in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    assert errors == sorted(errors)
    assert errors[2] > 1.3 * errors[0]


def test_a_weak_draw_is_flat_straight_and_without_edges_in_sight() -> None:
    for seed in range(10):
        weak = draw_print(np.random.default_rng(seed), strength=0)
        assert weak.screen == "photo"
        assert weak.place.curvature == weak.place.yaw == weak.place.pitch == weak.gloss == 0
        assert draw_screen(np.random.default_rng(seed), strength=0).flicker == 0
    assert (print_recapture(shapes(), np.random.default_rng(0), strength=0).medium == 1).all()


# --- Geometry ---------------------------------------------------------------------------------------------------------

places = st.builds(
    Place,
    yaw=st.floats(-35, 35),
    pitch=st.floats(-30, 30),
    roll=st.floats(-180, 180),
    shift=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    fill=st.floats(0.4, 1.5),
    focal=st.floats(0.9, 2.5),
    curvature=st.floats(-1, 1),
    axis=st.floats(0, 180),
)


@settings(max_examples=60)
@given(place=places)
def test_what_a_pixel_sees_is_projected_back_onto_it(place: Place) -> None:
    size = (40, 56)
    seen = recapture._see(place, size)
    near = (np.abs(seen.u) < 0.6) & (np.abs(seen.v) < 0.6)
    rows, columns = np.nonzero(near)
    back = recapture._project(place, np.stack([seen.u[near], seen.v[near]], -1), size)
    np.testing.assert_allclose(back, np.stack([columns - 1, rows - 1], -1), atol=1e-6)


@settings(max_examples=30)
@given(place=places)
def test_bending_keeps_lengths_and_normals_are_at_right_angles(place: Place) -> None:
    seen = recapture._see(place, (200, 200))
    near = (np.abs(seen.u) < 0.4) & (np.abs(seen.v) < 0.4)
    near &= np.roll(near, -1, 1) & np.roll(near, 1, 1)
    near[:, [0, -1]] = False
    if near.sum() < 20:
        return
    step = (np.roll(seen.position, -1, 2) - np.roll(seen.position, 1, 2))[:, near]
    on_medium = np.hypot(np.roll(seen.u, -1, 1) - np.roll(seen.u, 1, 1), np.roll(seen.v, -1, 1) - np.roll(seen.v, 1, 1))
    in_space = np.linalg.norm(step, axis=0)
    np.testing.assert_allclose(in_space, on_medium[near], rtol=2e-3)
    across = (step * seen.normal[:, near]).sum(0) / in_space
    assert np.abs(across).max() < 0.02
    assert ((seen.normal * seen.position).sum(0)[near] < 0).all()


@pytest.mark.parametrize("curvature", [0.0, 0.7, -0.7])
@pytest.mark.parametrize("base", [PAPER, GLASS])
def test_marks_are_found_where_points_says(base: Any, curvature: float) -> None:
    image = np.zeros((160, 200, 3), np.uint8)
    marks = np.array([[30, 30], [160, 40], [100, 80], [40, 130], [150, 120]])
    for x, y in marks.tolist():
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    place = Place(yaw=14, pitch=-9, roll=5, shift=(0.02, -0.01), fill=0.85, curvature=curvature, axis=20)
    base = replace(base, place=place, **({"pixels": 800.0} if isinstance(base, Screen) else {}))
    attack = render(image, base, size=(240, 300))
    light = linear(attack.image)[..., 1]
    for x, y in attack.points(marks):
        left, top = round(x) - 9, round(y) - 9
        part = light[top : top + 19, left : left + 19]
        part = np.maximum(part - 0.1, 0)
        grid_y, grid_x = np.mgrid[top : top + 19, left : left + 19]
        assert (part * grid_x).sum() / part.sum() == pytest.approx(x, abs=0.15)
        assert (part * grid_y).sum() / part.sum() == pytest.approx(y, abs=0.15)


@pytest.mark.parametrize("base", [PAPER, GLASS])
def test_corners_bound_the_medium(base: Any) -> None:
    place = Place(yaw=20, pitch=10, roll=-7, fill=0.6)
    attack = render(grey(160), replace(base, place=place))
    polygon = np.zeros((160 * 8, 160 * 8), np.uint8)
    cv2.fillConvexPoly(polygon, np.rint((attack.corners + 0.5) * 8 - 0.5).astype(np.int32), 255)
    expected = cv2.resize(polygon, (160, 160), interpolation=cv2.INTER_AREA) / 255
    assert np.abs(attack.medium - expected).mean() < 0.003
    # Right side away, so the left edge is the longer one; top left comes first, then clockwise.
    left, right = (np.linalg.norm(attack.corners[a] - attack.corners[b]) for a, b in ((0, 3), (1, 2)))
    assert left > right
    assert cv2.contourArea(attack.corners.astype(np.float32), oriented=True) > 0


def test_depth_and_relief_are_those_of_plane_and_cylinder() -> None:
    flat = render(grey(), replace(PAPER, place=Place(fill=0.8, focal=1.2)))
    inside = np.isfinite(flat.depth)
    np.testing.assert_allclose(flat.depth[inside], 1.2 / 0.8, rtol=1e-5)
    assert (flat.relief[inside] == 0).all()
    assert np.isnan(flat.depth[0, 0])
    k = 0.8
    bent = render(grey(), replace(PAPER, place=Place(fill=0.8, focal=1.2, curvature=k)))
    inside = np.isfinite(bent.depth)
    np.testing.assert_allclose(bent.depth[inside], 1.5 + bent.relief[inside], rtol=1e-5)
    # At the sheet's edge, half a width and a margin along the arc.
    arc = 0.5 + PAPER.margin
    assert np.nanmax(bent.relief) == pytest.approx((1 - np.cos(k * arc)) / k, rel=0.05)
    assert bent.relief[48, 48] == pytest.approx(0, abs=1e-4)
    assert (render(grey(), replace(GLASS, place=Place(curvature=k))).relief == 0).all()  # displays are flat


def test_scissors_leave_what_is_inside_the_outline_and_not_in_a_hole() -> None:
    image = grey(120, 255)
    outline, hole = [[20, 20], [100, 20], [100, 100], [20, 100]], [[50, 50], [70, 50], [70, 70], [50, 70]]
    setting = replace(draw_print(np.random.default_rng(0), strength=0), place=Place(fill=1.0))
    attack = print_recapture(image, np.random.default_rng(0), strength=0, outline=outline, holes=[hole])
    cut = render(image, replace(attack.setting, place=setting.place))  # type: ignore[arg-type]
    assert cut.medium[35, 35] == 1
    assert cut.medium[60, 60] == cut.medium[5, 5] == cut.medium[110, 60] == 0
    assert np.isnan(cut.depth[60, 60])
    assert cut.medium.sum() == pytest.approx(80 * 80 - 20 * 20, rel=0.05)


# --- Light ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.85, 1.1, 1.27, 1.9])
def test_moire_is_the_alias_of_the_display_s_pixels(density: float) -> None:
    setting = replace(GLASS, place=Place(fill=1.0), pixels=192 * density, open_x=0.7, open_y=1.0, bezel=0.5)
    light = linear(render(grey(192), setting).image)
    alias = abs(density - round(density))
    for colour in range(3):
        assert peak(light[..., colour].mean(0)) == pytest.approx(alias, abs=0.004)
    # The stripes of the three colours lie a third of a pixel apart, and so do the waves, in phase.
    waves = np.fft.rfft(light.mean(0) - light.mean((0, 1)), axis=0)[round(192 * alias)]
    turns = np.angle(waves[1] / waves[0]) / (2 * np.pi)
    assert abs(abs(turns) - 1 / 3) < 0.04


def test_a_mosaic_aliases_red_and_blue_at_half_the_frequency() -> None:
    mosaic = replace(PLAIN, bayer=True)
    setting = replace(GLASS, camera=mosaic, place=Place(fill=1.0), pixels=192 * 0.6, open_y=1.0, bezel=0.5)
    light = linear(render(grey(192), setting).image)
    # Every second pixel is red: 0.6 cycles a pixel are 1.2 a red pixel, which reads as 0.2, or 0.1 a pixel.
    assert peak(light[..., 0].mean(0)) == pytest.approx(0.1, abs=0.004)


@pytest.mark.parametrize("layout", recapture.LAYOUTS)
def test_a_display_is_as_bright_as_its_picture_whatever_its_cells(layout: str) -> None:
    setting = replace(GLASS, layout=layout, place=Place(fill=1.0), pixels=400.0, gamma=2.4, bezel=0.5)
    light = linear(render(grey(192), setting).image).mean((0, 1))
    np.testing.assert_allclose(light, (150 / 255) ** 2.4, rtol=0.02)


def test_a_halftone_has_its_ruling_at_its_angle() -> None:
    setting = replace(PAPER, screen="halftone", ruling=48.0, black=1.0, gain=0.0, place=Place(fill=1.0), margin=0.5)
    light = linear(render(grey(192), setting).image).mean(2)
    window = np.hanning(192)[:, None] * np.hanning(192)
    spectrum = np.abs(np.fft.fft2((light - light.mean()) * window))
    spectrum[:4, :4] = spectrum[-3:, :4] = spectrum[:4, -3:] = spectrum[-3:, -3:] = 0
    y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.fft.fftfreq(192) * 192
    # Grey is printed in black alone, whose screen stands at 45 degrees.
    assert abs(frequency[x]) == pytest.approx(48 * np.cos(np.pi / 4), abs=1)
    assert abs(frequency[y]) == pytest.approx(48 * np.sin(np.pi / 4), abs=1)


@pytest.mark.parametrize("screen", ["halftone", "inkjet"])
@pytest.mark.parametrize("ruling", [70.0, 160.0])
@pytest.mark.parametrize("colour", [(60, 60, 60), (150, 150, 150), (235, 235, 235), (200, 140, 110), (90, 120, 150)])
def test_dots_average_to_the_colour_that_was_asked_for(
    screen: str, ruling: float, colour: tuple[int, int, int]
) -> None:
    image = np.full((128, 128, 3), colour, np.uint8)
    setting = replace(PAPER, screen=screen, ruling=ruling, gain=0.0, place=Place(fill=1.0), margin=0.5)
    mean = linear(render(image, setting).image).mean((0, 1))
    want = 0.03 + 0.97 * (linear(image)[0, 0] @ recapture._MUTED.T.astype(float))
    np.testing.assert_allclose(mean, want, atol=0.02, rtol=0.04)


def test_bands_have_the_period_of_the_pulses_and_drift_from_frame_to_frame() -> None:
    setting = replace(
        GLASS, place=Place(fill=1.0), pixels=4096.0, bezel=0.5, flicker=0.5, flicker_hz=240.0, readout_s=1 / 30,
        exposure_s=1 / 1000,
    )  # fmt: skip
    clip = np.stack([grey(192, 120)] * 3)
    films = render_clip(clip, setting, np.random.default_rng(0), fps=25.0, shake=0)
    rows = [linear(film.image)[..., 1].mean(1) for film in films]
    assert peak(rows[0]) == pytest.approx(240 / 30 / 192, rel=0.05)
    waves = [np.fft.rfft(row - row.mean())[8] for row in rows]
    drift = np.angle(waves[1] / waves[0]) / (2 * np.pi)
    assert drift % 1 == pytest.approx(240 / 25 % 1, abs=0.03)


def test_a_sensor_s_noise_is_that_of_its_electrons() -> None:
    camera = replace(PLAIN, electrons=1000.0, read_noise=0.0)
    setting = replace(PAPER, camera=camera, place=Place(fill=1.2))
    light = linear(render(grey(192, 188), setting).image)[..., 1]
    assert light.std() == pytest.approx(np.sqrt(light.mean() / 1000), rel=0.05)


@pytest.mark.parametrize("bayer", [False, True])
def test_channels_keep_their_order(bayer: bool) -> None:
    image = np.full((64, 64, 3), (200, 90, 30), np.uint8)
    for base in (PAPER, replace(GLASS, pixels=512.0)):
        camera = replace(PLAIN, bayer=bayer, quality=95)
        mean = render(image, replace(base, camera=camera, place=Place(fill=1.2))).image.mean((0, 1))  # type: ignore[type-var]
        np.testing.assert_allclose(mean, (200, 90, 30), atol=26)  # dark colours are lifted by paper's black


def test_gloss_adds_the_light_of_windows_and_bending_shades() -> None:
    matt = replace(PAPER, place=Place(fill=1.2), seed=2)
    glossy = render(grey(), replace(matt, gloss=0.05)).image.astype(int) - render(grey(), matt).image
    assert glossy.min() >= 0
    assert glossy.max() > glossy.mean() + 5
    lit = replace(matt, ambient=0.3)
    flat, bent = (linear(render(grey(), replace(lit, place=Place(fill=1.2, curvature=c))).image) for c in (0.0, 0.9))
    assert np.ptp(bent.mean((0, 2))) > 1.2 * np.ptp(flat.mean((0, 2)))


# --- Films ------------------------------------------------------------------------------------------------------------


def test_a_film_has_one_medium_and_a_swaying_place() -> None:
    films = print_clip(shapes(), np.random.default_rng(1), frames=5, strength=0.8)
    still = [replace(film.setting, place=Place()) for film in films]  # type: ignore[type-var]
    assert len(films) == 5
    assert all(setting == still[0] for setting in still)
    yaws = np.array([film.setting.place.yaw for film in films])
    assert 0 < np.abs(np.diff(yaws)).max() < 1.5
    corners = np.stack([film.corners for film in films])
    assert 0 < np.linalg.norm(np.diff(corners, axis=0), axis=-1).max() < 6


def test_on_a_stand_only_noise_and_the_clip_move() -> None:
    setting = replace(draw_print(np.random.default_rng(0), strength=0.5), camera=PLAIN)
    frames = np.stack([shapes()] * 3)
    same = render_clip(frames, setting, np.random.default_rng(0), shake=0)
    np.testing.assert_array_equal(same[0].image, same[2].image)
    noisy = render_clip(frames, replace(setting, camera=Camera()), np.random.default_rng(0), shake=0)
    assert not np.array_equal(noisy[0].image, noisy[2].image)
    frames[1] = 255 - frames[1]
    played = replay_clip(frames, np.random.default_rng(0), shake=0, strength=0)
    assert np.abs(played[0].image.astype(int) - played[1].image).mean() > 20
    assert np.abs(played[0].image.astype(int) - played[2].image).mean() < 3


# --- Sizes and errors -------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(height=st.integers(16, 60), width=st.integers(16, 60), seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1))
def test_any_size_and_draw_gives_finite_bounded_truth(height: int, width: int, seed: int, strength: float) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for make in (print_recapture, replay_recapture):
        attack = make(image, np.random.default_rng(seed), strength=strength, size=(41, 37))
        assert attack.image.shape == (41, 37, 3)
        assert attack.medium.shape == attack.depth.shape == attack.relief.shape == (41, 37)
        assert 0 <= attack.medium.min() <= attack.medium.max() <= 1
        assert np.isfinite(attack.corners).all()
        assert (attack.depth[np.isfinite(attack.depth)] > 0).all()
        assert np.isfinite(attack.depth[attack.medium == 1]).mean() > 0.98


def test_a_given_background_is_seen_beside_the_medium() -> None:
    behind = np.full((50, 70, 3), (20, 200, 40), np.uint8)
    setting = replace(GLASS, place=Place(fill=0.5))
    attack = render(grey(), setting, background=behind)
    np.testing.assert_allclose(attack.image[2, 2], (20, 200, 40), atol=12)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: print_recapture(np.zeros((32, 32, 3), np.float32), np.random.default_rng(0)), DtypeError),  # type: ignore[arg-type]
        (lambda: print_recapture(np.zeros((32, 32), np.uint8), np.random.default_rng(0)), ShapeError),
        (lambda: replay_recapture(np.zeros((12, 32, 3), np.uint8), np.random.default_rng(0)), ShapeError),
        (lambda: replay_recapture(grey(), np.random.default_rng(0), size=(8, 8)), ShapeError),
        (lambda: print_recapture(grey(), np.random.default_rng(0), strength=1.2), ValueRangeError),
        (lambda: print_recapture(grey(), np.random.default_rng(0), outline=[[1, 2], [3, 4]]), ShapeError),
        (lambda: print_clip(grey(), np.random.default_rng(0), frames=0), OptionError),
        (lambda: replay_clip(grey(), np.random.default_rng(0)), ShapeError),
        (lambda: render(grey(), Print(screen="woodcut")), OptionError),
        (lambda: render(grey(), Screen(layout="hexagon")), OptionError),
        (lambda: render(grey(), Screen(camera=Camera(samples=0))), ValueRangeError),
    ],
)
def test_wrong_input_is_a_typed_error(call: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()


def test_a_portrait_keeps_its_face_where_points_says() -> None:
    data = pytest.importorskip("skimage.data")
    portrait = np.ascontiguousarray(data.astronaut()[10:266, 96:352])
    attack = print_recapture(portrait, np.random.default_rng(7), strength=0.6)
    # The face's patch is found again, by correlation, about where its corners went.
    corners = attack.points([[80, 70], [180, 70], [180, 180], [80, 180]]).astype(np.float32)
    flat = np.array([[0, 0], [100, 0], [100, 110], [0, 110]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, flat)
    back = cv2.warpPerspective(attack.image, matrix, (100, 110))
    face = portrait[70:180, 80:180]
    a, b = (cv2.GaussianBlur(picture, (0, 0), 2).mean(2).ravel() for picture in (back, face))
    assert np.corrcoef(a, b)[0, 1] > 0.9
