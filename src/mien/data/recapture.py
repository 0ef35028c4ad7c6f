"""Presentation attacks made from pictures: a print, or a screen, held before a second camera.

A picture is put on a *medium* (paper or display), the medium is placed and bent in space, lit, and photographed. The
traces are not painted on; they follow from the way the light goes:

    content      the picture in linear light (sRGB undone)
    medium       print: ink screens at their angles, or ink-jet dots, on paper of its own white and grain
                 screen: stripes of red, green and blue with black between them, its gamma, its backlight
    place        a pinhole camera looks at a plane or a cylinder, closed form both ways
    light        shading by the surface's normals; the room, with a window in it, mirrored by glossy surfaces
    camera       lens blur, the area of each pixel, Bayer mosaic, noise, white balance, sRGB, sharpening, JPEG

Moire is what is left when the medium's grid is averaged over the camera's pixels. Displays are averaged exactly: the
share of a stripe that lies in a sample is a difference of two values of its integral. Ink dots have no such form and
are evaluated at several points in each pixel (`samples`).

One draw is a frozen `Print` or `Screen`, and `render` is a pure function of picture and draw, so what was done is
known: where the corners of the medium are, how far each pixel is, and where any point of the picture went (`points`).

    >>> image = np.full((64, 64, 3), 128, np.uint8)
    >>> attack = replay_recapture(image, np.random.default_rng(0))
    >>> attack.image.shape, attack.corners.shape, attack.depth.shape
    ((64, 64, 3), (4, 2), (64, 64))

Lengths on the medium and in space are in widths of the picture on it; pixels are those of the camera's picture, with
(0, 0) at the centre of the top left one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.data.pixels import Picture, as_picture, decode
from mien.errors import DtypeError, OptionError, ShapeError
from mien.geometry.checks import choice, doubles, number

__all__ = [
    "LAYOUTS",
    "SCREENS",
    "Camera",
    "Place",
    "Print",
    "Recapture",
    "Screen",
    "draw_print",
    "draw_screen",
    "print_clip",
    "print_recapture",
    "render",
    "render_clip",
    "replay_clip",
    "replay_recapture",
]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SCREENS = ("halftone", "inkjet", "photo")
"""How a print makes its tones: four rotated screens of dots, scattered dots, or dyes without dots."""

LAYOUTS = ("stripe", "pentile")
"""Where a display has its colours: three stripes a pixel, or a green one each and a red or blue one in turn."""

SMALLEST = 16
"""Pictures with a shorter side, in pixels, are refused: neither mosaic nor medium could be told in them."""

_INKS = np.array([[0.06, 0.38, 0.62], [0.62, 0.07, 0.22], [0.90, 0.72, 0.06], [0.035, 0.035, 0.04]], np.float32)
"""Linear RGB that full cover of cyan, magenta, yellow and black lets back: inks are not ideal filters."""

_MUTED = (0.94 * np.eye(3) + 0.02).astype(np.float32)
"""What is left of colours on paper: each channel leaks a little into the others."""

_FINEST_DOTS, _FINEST_DROPS = 1.2, 4.5
"""Dots and ink-jet drops a camera pixel, in each direction, beyond which a print is taken for continuous: of the dots a
pixel's area leaves a sixth in contrast then, and the lens less than a tenth of that; the drops average out."""

_ANGLES = np.radians([15.0, 75.0, 0.0, 45.0])
"""Angles of the screens of cyan, magenta, yellow and black, as offset printing has them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the medium is before the camera, and how it is bent.

    Parameters
    ----------
    yaw, pitch, roll
        Turns of the medium in degrees about the camera's y (right side away), x (top away) and z (clockwise).
    shift
        Centre of the picture on the medium from that of the camera's picture, right and down, in its widths.
    fill
        Width of the picture on the medium, seen from the front, in widths of the camera's picture.
    focal
        Focal length of the camera in widths of its picture.
    curvature
        Of the cylinder that the medium is bent to, 1 / radius; above 0 its middle bulges towards the camera.
    axis
        Direction in which it bends, degrees from the medium's x towards its y.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    fill: float = 1.0
    focal: float = 1.3
    curvature: float = 0.0
    axis: float = 0.0


@dataclass(frozen=True, slots=True)
class Camera:
    """The second camera.

    Parameters
    ----------
    blur
        Standard deviation of the lens's blur in pixels.
    exposure
        Factor of the light.
    white
        Factors of red, green and blue: a white balance that is off.
    bayer
        Whether each pixel sees one colour only (RGGB) and the others are interpolated.
    electrons
        Charge of a white pixel; its square root is the shot noise. 0: no noise.
    read_noise
        Standard deviation of the electronics in electrons.
    sharpen
        Amount of unsharp masking after everything else.
    quality
        Of the JPEG file, 1 to 100; None for no JPEG.
    samples
        Points a pixel and direction at which the medium is evaluated; more where the dots of a print need them.
    """

    blur: float = 0.4
    exposure: float = 1.0
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bayer: bool = True
    electrons: float = 4000.0
    read_noise: float = 4.0
    sharpen: float = 0.0
    quality: int | None = 92
    samples: int = 3


@dataclass(frozen=True, slots=True)
class Print:
    """A print of a picture, held before a camera.

    Parameters
    ----------
    place, camera
        Where it is, and who looks.
    screen
        One of `SCREENS`.
    ruling
        Dots (of one screen) or ink-jet drops across the width of the picture.
    gain
        How much dots spread at half cover (Yule-Nielsen's dot gain), 0 to 0.4.
    black
        Share of black ink in what grey the three colours have in common, 0 to 1.
    paper
        Linear RGB of bare paper.
    grain
        Standard deviation of the paper's brightness.
    margin
        White margin about the picture, in its widths.
    ambient
        Share of the light that comes from everywhere, 0 to 1; the rest comes from one lamp.
    lamp
        Position of the lamp: right, down and towards the scene, in picture widths from the camera.
    gloss
        Factor of the mirrored room (4 % is bare glass or photo paper); 0 is matte.
    roughness
        Blur of the mirrored room, radians.
    outline
        (k, 2) pixels of the picture: the paper is cut along it, as masks are. Without it the sheet is whole.
    holes
        Cut out of the paper, each (k, 2) pixels of the picture: eyes, in the attack that blinks.
    seed
        Of all that is random below: room, grain, noise.
    """

    place: Place = field(default_factory=Place)
    camera: Camera = field(default_factory=Camera)
    screen: str = "halftone"
    ruling: float = 150.0
    gain: float = 0.15
    black: float = 0.6
    paper: tuple[float, float, float] = (0.86, 0.85, 0.80)
    grain: float = 0.015
    margin: float = 0.05
    ambient: float = 0.6
    lamp: tuple[float, float, float] = (-0.6, -0.9, 0.2)
    gloss: float = 0.0
    roughness: float = 0.1
    outline: tuple[tuple[float, float], ...] | None = None
    holes: tuple[tuple[tuple[float, float], ...], ...] = ()
    seed: int = 0

    kind = "print"


@dataclass(frozen=True, slots=True)
class Screen:
    """A display that shows a picture, held before a camera.

    Parameters
    ----------
    place, camera
        Where it is, and who looks. Displays are flat: `place.curvature` is taken as 0.
    layout
        One of `LAYOUTS`.
    pixels
        The display's pixels across the width of the picture.
    open_x, open_y
        Share of its cell that a stripe of colour fills, along the row and along the column; the rest is black.
    gamma
        Of the display; 2.2 or so shows sRGB as it was meant.
    mix
        How much of each colour leaks into the others, 0 to 0.3: a smaller gamut.
    tint
        Linear RGB of the display's white.
    leak
        Light of the backlight where the picture is black, and more towards the edges.
    bezel
        Dark frame about the picture, in its widths.
    gloss, roughness
        As those of `Print`.
    flicker
        Depth of the backlight's dimming by pulses, 0 (none) to 1 (off between the pulses).
    flicker_hz
        Pulses a second.
    readout_s
        Time from the first row of the camera's picture to the last (rolling shutter).
    exposure_s
        Time for which each row sees the light.
    phase
        Of the pulses when the first row begins, in periods.
    seed
        Of all that is random below: room, noise.
    """

    place: Place = field(default_factory=Place)
    camera: Camera = field(default_factory=Camera)
    layout: str = "stripe"
    pixels: float = 300.0
    open_x: float = 0.8
    open_y: float = 0.85
    gamma: float = 2.2
    mix: float = 0.06
    tint: tuple[float, float, float] = (0.92, 1.0, 1.08)
    leak: float = 0.01
    bezel: float = 0.05
    gloss: float = 0.04
    roughness: float = 0.03
    flicker: float = 0.0
    flicker_hz: float = 240.0
    readout_s: float = 1 / 40
    exposure_s: float = 1 / 400
    phase: float = 0.0
    seed: int = 0

    kind = "replay"


@dataclass(frozen=True, slots=True)
class Recapture:
    """What the second camera saw, and what is known about it.

    Parameters
    ----------
    image : (h, w, 3) uint8
        RGB.
    medium : (h, w) float32
        Share of each pixel that shows the medium, margin or bezel included, 0 to 1.
    depth : (h, w) float32
        Distance of the medium along the camera's axis in picture widths; NaN where a pixel's centre misses it.
    relief : (h, w) float32
        How far the bent medium stands behind its tangent plane, in picture widths: 0 where it is flat, NaN beside it.
    corners : (4, 2) float64
        Corners of the medium (of the whole sheet, or of the bezel's outer edge) in pixels of `image`: top left, top
        right, bottom right, bottom left. They may lie outside.
    setting
        The draw: `render` of the same picture and this gives the same again.
    size : (height, width) of the picture that was put on the medium.
    """

    image: Picture
    medium: Floats
    depth: Floats
    relief: Floats
    corners: Doubles
    setting: Print | Screen
    size: tuple[int, int]

    @property
    def kind(self) -> str:
        """``"print"`` or ``"replay"``."""
        return self.setting.kind

    def points(self, points: ArrayLike) -> Doubles:
        """Where points (..., k, 2) of the picture on the medium are in `image`: landmarks and boxes carry over."""
        given = doubles("points", points, "... k 2")
        height, width = self.size
        on_medium = (given + 0.5 - np.array([width, height]) / 2) / width
        return _project(_flat(self.setting), on_medium, self.image.shape[:2])


def print_recapture(
    image: Picture,
    rng: np.random.Generator,
    *,
    strength: float = 0.5,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
    outline: ArrayLike | None = None,
    holes: Sequence[ArrayLike] = (),
) -> Recapture:
    """`image` printed and photographed: a print attack.

    Parameters
    ----------
    image : (H, W, 3) uint8
        RGB; sides from 16 px.
    rng
        Decides the print: see `draw_print`.
    strength
        0 (a good print, flat and close, hard to tell) to 1 (coarse dots, bent, at an angle, glossy, edges in sight).
    size
        (height, width) of the camera's picture; by default that of `image`.
    background : (h, w, 3) uint8, optional
        What is behind the print, of any size; by default a room out of focus is made up.
    outline : (k, 2), optional
        Pixels of the picture along which the paper is cut, such as the outline of the face.
    holes
        (k, 2) each: cut out of the paper.

    Returns
    -------
    Recapture
        The camera's picture and what is known about it.

    Raises
    ------
    DtypeError, ShapeError, ValueRangeError
        A picture, strength or polygon that is not as described.
    """
    setting = replace(draw_print(rng, strength=strength), outline=_polygon(outline), holes=_polygons(holes))
    return render(image, setting, size=size, background=background)


def replay_recapture(
    image: Picture,
    rng: np.random.Generator,
    *,
    strength: float = 0.5,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
) -> Recapture:
    """`image` shown on a screen and photographed: a replay attack. Parameters and errors as `print_recapture`'s."""
    return render(image, draw_screen(rng, strength=strength), size=size, background=background)


def print_clip(
    image: Picture,
    rng: np.random.Generator,
    *,
    frames: int = 16,
    fps: float = 25.0,
    strength: float = 0.5,
    shake: float = 1.0,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
    outline: ArrayLike | None = None,
    holes: Sequence[ArrayLike] = (),
) -> list[Recapture]:
    """A film of one print in a hand: the same print and room in every frame, its place and bend swaying.

    Parameters
    ----------
    frames, fps
        How many frames, and how many a second.
    shake
        Factor of the hand's movement; 0 is a stand.
    image, rng, strength, size, background, outline, holes
        As `print_recapture`'s.

    Returns
    -------
    A `Recapture` a frame.
    """
    setting = replace(draw_print(rng, strength=strength), outline=_polygon(outline), holes=_polygons(holes))
    still = np.broadcast_to(image, (_count(frames), *np.shape(image)))
    return render_clip(still, setting, rng, fps=fps, shake=shake, size=size, background=background)


def replay_clip(
    frames: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    fps: float = 25.0,
    strength: float = 0.5,
    shake: float = 1.0,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
) -> list[Recapture]:
    """A clip (t, H, W, 3) shown on a screen and filmed: one screen in every frame, its place swaying, its bands
    drifting as pulses and frames fall out of step. Other parameters as `print_clip`'s."""
    setting = draw_screen(rng, strength=strength)
    return render_clip(frames, setting, rng, fps=fps, shake=shake, size=size, background=background)


def render_clip(
    frames: NDArray[np.uint8],
    setting: Print | Screen,
    rng: np.random.Generator,
    *,
    fps: float = 25.0,
    shake: float = 1.0,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
) -> list[Recapture]:
    """A clip (t, H, W, 3) on the medium of `setting`, whose place sways by `rng`; a `Recapture` a frame.

    The hand's movement is smooth noise of about 2 Hz: 0.6° in each angle, 0.6 % of the picture's width in place and
    size and 0.06 in curvature of bent prints, as standard deviations, times `shake`.
    """
    clip = np.asarray(frames)
    if clip.ndim != 4 or len(clip) == 0:
        raise ShapeError("a clip must be frames in RGB", got=clip.shape, expected="(t, H, W, 3), t at least 1")
    number("fps", fps, 0, 1000, open_low=True)
    number("shake", shake, 0, 20)
    sway = shake * _sway(rng, len(clip), fps)
    grain = rng.integers(2**31, size=len(clip))
    at, made = setting.place, []
    for time, (frame, move, seed) in enumerate(zip(clip, sway.tolist(), grain.tolist(), strict=True)):
        yaw, pitch, roll, right, down, nearer, bend = move
        place = replace(
            at,
            yaw=at.yaw + 0.6 * yaw,
            pitch=at.pitch + 0.6 * pitch,
            roll=at.roll + 0.6 * roll,
            shift=(at.shift[0] + 0.006 * right, at.shift[1] + 0.006 * down),
            fill=at.fill * (1 + 0.006 * nearer),
            curvature=at.curvature + (0.06 * bend if at.curvature else 0.0),
        )
        now: Print | Screen = replace(setting, place=place)
        if isinstance(now, Screen):
            now = replace(now, phase=now.phase + now.flicker_hz * time / fps)
        made.append(render(frame, now, size=size, background=background, noise_seed=seed))
    return made


def draw_print(rng: np.random.Generator, *, strength: float = 0.5) -> Print:
    """A print by chance. The same number of draws is made whatever the `strength` (0 to 1), which widens the ranges."""
    s = number("strength", strength, 0, 1)
    u = rng.random(30).tolist()
    seed = int(rng.integers(2**31))
    screen = "photo" if u[0] >= 0.8 * s else "halftone" if u[0] < 0.4 * s else "inkjet"  # the better, the more photos
    ruling = 420.0 * 0.25 ** (s * u[1]) if screen == "halftone" else 1260.0 * 0.4 ** (s * u[1])
    warm = 0.10 * s * u[2]
    return Print(
        place=_draw_place(u[13:23], s, bend=(0.1 + 0.9 * s) * s),
        camera=_draw_camera(u[23:30], s),
        screen=screen,
        ruling=ruling,
        gain=0.05 + 0.2 * u[3],
        black=u[4],
        paper=(0.90 - 0.04 * s, 0.89 - 0.04 * s - 0.3 * warm, 0.87 - 0.04 * s - warm),
        grain=0.004 + 0.02 * s * u[5],
        margin=0.02 + 0.08 * u[6],
        ambient=0.85 - 0.35 * s,
        lamp=(1.6 * u[7] - 0.8, -0.4 - 0.6 * u[8], 0.1 + 0.2 * u[9]),
        gloss=0.05 * s * max(0.0, 2 * u[10] - 0.7),
        roughness=0.03 + 0.1 * u[11],
        seed=seed,
    )


def draw_screen(rng: np.random.Generator, *, strength: float = 0.5) -> Screen:
    """A screen by chance. The same number of draws is made whatever `strength` (0 to 1), which widens the ranges."""
    s = number("strength", strength, 0, 1)
    u = rng.random(33).tolist()
    seed = int(rng.integers(2**31))
    blue = (0.02 + 0.13 * s) * (2 * u[0] - 0.6)
    return Screen(
        place=_draw_place(u[16:26], s, bend=0.0),
        camera=_draw_camera(u[26:33], s),
        layout=LAYOUTS[int(u[1] < 0.4 * s)],
        pixels=700.0 - 540.0 * s * u[2],
        open_x=0.92 - 0.25 * s * u[3],
        open_y=0.92 - 0.2 * s * u[4],
        gamma=2.2 + 0.5 * s * (2 * u[5] - 1),
        mix=0.02 + 0.1 * s * u[6],
        tint=tuple(0.95 * part / (1 + max(blue, 0)) for part in (1 - 0.6 * blue, 1.0, 1 + blue)),
        leak=0.002 + 0.03 * s * u[7],
        bezel=0.03 + 0.06 * u[8],
        gloss=0.01 + 0.05 * s * u[9],
        roughness=0.01 + 0.05 * u[10],
        flicker=0.7 * s * max(0.0, 2 * u[11] - 1),
        flicker_hz=100.0 + 140.0 * u[12],
        readout_s=0.01 + 0.02 * u[13],
        exposure_s=0.002 + 0.008 * u[14],
        phase=u[15],
        seed=seed,
    )


def render(
    image: Picture,
    setting: Print | Screen,
    *,
    size: tuple[int, int] | None = None,
    background: Picture | None = None,
    noise_seed: int | None = None,
) -> Recapture:
    """The picture on the medium of `setting`, photographed: a pure function.

    `noise_seed` sets the camera's noise apart from `setting.seed`, for frames of one film. Other parameters and
    errors as `print_recapture`'s.
    """
    image = _picture("image", image)
    height, width = image.shape[:2]
    if isinstance(setting, Print):
        choice("screen", setting.screen, SCREENS)
    else:
        choice("layout", setting.layout, LAYOUTS)
    h, w = (height, width) if size is None else size
    if min(h, w) < SMALLEST:
        raise ShapeError("the camera's picture is too small", got=(h, w), expected=f"sides from {SMALLEST} px")
    n = int(number("samples", setting.camera.samples, 1, 16))
    dots = _dots_a_pixel(setting, w) if isinstance(setting, Print) else 0.0
    if isinstance(setting, Print) and setting.screen == "halftone":
        n = max(n, int(np.ceil(3 * dots)))
    cells = True
    if isinstance(setting, Screen) and setting.camera.blur > 0:
        # The area of a sample is exact, but the lens can take away only waves that the samples are fine enough for.
        waves = setting.pixels / (w * setting.place.fill) / (2 if setting.layout == "pentile" else 1)
        cells = float(np.exp(-2 * (np.pi * setting.camera.blur * waves) ** 2)) > 0.02
        n = max(n, min(8, int(np.ceil(2 * waves)))) if cells else n
    # One stream for each use, so that film frames may differ in noise and share all else.
    room_rng, grain_rng, noise_rng = np.random.default_rng(setting.seed).spawn(3)
    if noise_seed is not None:
        noise_rng = np.random.default_rng(noise_seed)

    place = _flat(setting)
    seen = _see(place, (h, w))
    u, v = _finer(seen.u, n), _finer(seen.v, n)
    half_u, half_v = 0.5, 0.5 * height / width
    rim = setting.margin if isinstance(setting, Print) else setting.bezel
    on = (np.abs(u) <= half_u + rim) & (np.abs(v) <= half_v + rim)
    if isinstance(setting, Print) and (setting.outline or setting.holes):
        on &= _kept(setting, u, v, (height, width))
    walls, lit = _room(room_rng)
    if background is not None:
        walls = lit = _LINEAR[_picture("background", background)]

    reflected = _mirrored(seen, lit, setting.gloss, setting.roughness) if setting.gloss > 0 else None
    if isinstance(setting, Print):
        light = _ink(image, setting, u, v, dots=dots / n)
        light *= _finer(_shading(seen, setting) * (1 + setting.grain * _fibres(grain_rng, seen)), n)[..., None]
    else:
        light = _display(image, setting, u, v, seen, n, cells=cells)
        if setting.flicker > 0:
            light *= _bands(setting, h * n)[:, None, None]
    if reflected is not None:
        light += cv2.resize(reflected, (w * n, h * n), interpolation=cv2.INTER_LINEAR)
    behind = _behind(walls, (h, w), made_up=background is None)
    covered = on.astype(np.float32)
    # The medium keeps light from what is close behind it: a soft shadow along its edge.
    cover = _area(covered, n)
    shadow = 1 - 0.35 * cv2.GaussianBlur(cover, (0, 0), 0.02 * w, borderType=cv2.BORDER_REPLICATE)
    behind *= shadow[..., None]
    light *= covered[..., None]
    light += (1 - covered)[..., None] * cv2.resize(behind, (w * n, h * n), interpolation=cv2.INTER_LINEAR)

    middle = (seen.u, seen.v)
    inside = (np.abs(middle[0]) <= half_u + rim) & (np.abs(middle[1]) <= half_v + rim)
    if isinstance(setting, Print) and (setting.outline or setting.holes):
        inside &= _kept(setting, *middle, (height, width))
    edge = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (half_u + rim, half_v + rim)
    return Recapture(
        image=_photograph(light, setting.camera, n, noise_rng),
        medium=cover,
        depth=np.where(inside, seen.depth, np.nan)[1:-1, 1:-1].astype(np.float32),
        relief=np.where(inside, seen.relief, np.nan)[1:-1, 1:-1].astype(np.float32),
        corners=_project(place, edge, (h, w)),
        setting=setting,
        size=(height, width),
    )


# --- Chance -----------------------------------------------------------------------------------------------------------


def _draw_place(u: Sequence[float], s: float, *, bend: float) -> Place:
    """Ten numbers of 0 to 1 as a place: near and straight at `s` = 0, at an angle with its edges in sight at 1."""
    signed = [2 * value - 1 for value in u]
    return Place(
        yaw=22 * s * signed[0],
        pitch=16 * s * signed[1],
        roll=8 * s * signed[2],
        shift=(0.04 * s * signed[3], 0.04 * s * signed[4]),
        fill=1.12 - 0.4 * s * u[5],
        focal=1.0 + 0.8 * u[6],
        curvature=0.9 * bend * signed[7],
        axis=180 * u[8] if u[9] < 0.3 else 20 * signed[8],
    )


def _draw_camera(u: Sequence[float], s: float) -> Camera:
    """Seven numbers of 0 to 1 as a camera: each has its own, so that no two traces come together."""
    return Camera(
        blur=0.22 + 0.33 * s * u[0],
        exposure=1 + 0.35 * s * (2 * u[1] - 1),
        white=(1 + 0.15 * s * (2 * u[2] - 1), 1.0, 1 - 0.15 * s * (2 * u[2] - 1)),
        bayer=u[3] < 0.7,
        electrons=12000 * 0.1 ** (s * u[4]),
        sharpen=0.6 * u[5],
        quality=round(96 - 40 * s * u[6]),
    )


def _sway(rng: np.random.Generator, count: int, fps: float) -> Doubles:
    """(count, 7) smooth noise of unit variance that starts anywhere: white noise seen through a 2 Hz window."""
    sigma = max(0.5, fps / (2 * np.pi * 2.0))
    reach = int(np.ceil(3 * sigma))
    noise = rng.standard_normal((count + 2 * reach, 7))
    at = np.arange(-reach, reach + 1)
    window = np.exp(-0.5 * (at / sigma) ** 2)
    window /= np.sqrt((window**2).sum())
    return np.stack([np.convolve(column, window, "valid") for column in noise.T], axis=1)


# --- Place ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """What each pixel sees, on a grid with one pixel more on every side; (h + 2, w + 2) each, float64.

    `u`, `v` are the place on the medium (picture widths from its centre, far away where the ray misses), `position`
    and `normal` (3, h + 2, w + 2) are in the camera's frame.
    """

    u: Doubles
    v: Doubles
    depth: Doubles
    relief: Doubles
    position: Doubles
    normal: Doubles


def _flat(setting: Print | Screen) -> Place:
    """The place; displays do not bend."""
    return setting.place if isinstance(setting, Print) else replace(setting.place, curvature=0.0)


def _frame(place: Place, width: int) -> tuple[Doubles, Doubles, float]:
    """Rotation (3, 3) from the bent frame to the camera's, position (3,) of the medium's centre, focal length in px.

    The bent frame has its first axis in the direction of bending, its second along the cylinder, its third away from
    the camera.
    """
    a, b, c = np.radians([place.yaw, place.pitch, place.roll])
    # Right side away: x moves to z. Top (negative y) away: -y moves to z.
    about_y = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    d = np.radians(place.axis)
    turned = np.array([[np.cos(d), -np.sin(d), 0], [np.sin(d), np.cos(d), 0], [0, 0, 1]])
    focal = place.focal * width
    distance = place.focal / place.fill
    right, down = place.shift
    centre = distance * np.array([right / place.focal, down / place.focal, 1.0])
    return about_z @ about_x @ about_y @ turned, centre, focal


def _bend(place: Place) -> float:
    """The curvature as the equations have it, never quite 0, so that plane and cylinder are one formula."""
    return place.curvature if abs(place.curvature) > 1e-6 else 1e-6


def _see(place: Place, size: tuple[int, int]) -> _Seen:
    """Meets the ray of each pixel with the cylinder ``k (s^2 + z^2) = 2 z`` of curvature k."""
    h, w = size
    rotation, centre, focal = _frame(place, w)
    x = (np.arange(-1, w + 1) - (w - 1) / 2) / focal
    y = (np.arange(-1, h + 1) - (h - 1) / 2) / focal
    rays = np.stack([*np.meshgrid(x, y), np.ones((h + 2, w + 2))])
    start = -rotation.T @ centre
    ds, dt, dz = np.tensordot(rotation.T, rays, 1)
    k = _bend(place)
    a = k * (ds * ds + dz * dz)
    b = k * (start[0] * ds + start[2] * dz) - dz
    c = k * (start[0] ** 2 + start[2] ** 2) - 2 * start[2]
    inner = b * b - a * c
    # Of the two meetings, the one that becomes the plane's as k goes to 0; in the form that does not cancel.
    below = -b + np.sign(dz) * np.sqrt(np.maximum(inner, 0))
    hit = (inner > 0) & (np.abs(below) > 1e-12)
    far = np.where(hit, c / np.where(hit, below, 1), 0)
    hit &= far > 1e-6
    s, t, z = start[0] + far * ds, start[1] + far * dt, start[2] + far * dz
    angle = np.arctan2(k * s, 1 - k * z)
    along = angle / k
    d = np.radians(place.axis)
    u, v = along * np.cos(d) - t * np.sin(d), along * np.sin(d) + t * np.cos(d)
    # The normal that looks at the camera: the surface's tangent turned by a right angle.
    normal = np.tensordot(rotation, np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)]), 1)
    missed = 1e3
    return _Seen(
        u=np.where(hit, u, missed), v=np.where(hit, v, missed), depth=np.where(hit, far, np.nan),
        relief=np.where(hit, z if place.curvature else 0.0, np.nan), position=far * rays, normal=normal,
    )  # fmt: skip


def _project(place: Place, points: Doubles, size: tuple[int, int]) -> Doubles:
    """Pixels (..., 2) of points (..., 2) of the medium, in picture widths from its centre: the way back of `_see`."""
    h, w = size
    rotation, centre, focal = _frame(place, w)
    k, d = _bend(place), np.radians(place.axis)
    along = points[..., 0] * np.cos(d) + points[..., 1] * np.sin(d)
    across = -points[..., 0] * np.sin(d) + points[..., 1] * np.cos(d)
    bent = np.stack([np.sin(k * along) / k, across, 2 * np.sin(0.5 * k * along) ** 2 / k], -1)
    at = bent @ rotation.T + centre
    middle = np.array([(w - 1) / 2, (h - 1) / 2])
    return np.asarray(focal * at[..., :2] / at[..., 2:] + middle)


def _finer(grid: Doubles, n: int) -> Floats:
    """A grid of pixel centres with a rim of one, at the `n` x `n` sample points of every pixel, without the rim."""
    if n == 1:
        return np.ascontiguousarray(grid[1:-1, 1:-1], np.float32)
    size = (grid.shape[1] * n, grid.shape[0] * n)
    fine = cv2.resize(grid.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(fine[n:-n, n:-n])


def _area(fine: Floats, n: int) -> Floats:
    """Means of the `n` x `n` samples of every pixel."""
    size = (fine.shape[1] // n, fine.shape[0] // n)
    return np.asarray(fine if n == 1 else cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.float32)


def _kept(setting: Print, u: NDArray[Any], v: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points of the medium the scissors left."""
    height, width = size
    fine = 4
    shape = (height * fine, width * fine)
    cut = np.full(shape, 0 if setting.outline else 255, np.uint8)

    def fill(polygon: tuple[tuple[float, float], ...], value: int) -> None:
        at = np.rint((np.array(polygon) + 0.5) * fine - 0.5).astype(np.int32)
        cv2.fillPoly(cut, [at], value)

    if setting.outline:
        fill(setting.outline, 255)
    for hole in setting.holes:
        fill(hole, 0)
    x = ((u + 0.5) * width * fine - 0.5).astype(np.float32)
    y = ((v * width + 0.5 * height) * fine - 0.5).astype(np.float32)
    # Outside the picture the margin is kept only where no outline was cut.
    border = 0 if setting.outline else 255
    kept = cv2.remap(cut, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=border)
    return np.asarray(kept > 0)


# --- Print ------------------------------------------------------------------------------------------------------------


def _content(linear: Floats, u: Floats, v: Floats) -> Floats:
    """The picture (H, W, 3) in linear light at points of the medium; its edge is repeated beyond it."""
    height, width = linear.shape[:2]
    x, y = (u + 0.5) * width - 0.5, v * width + (0.5 * height - 0.5)
    return np.asarray(cv2.remap(linear, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _dots_a_pixel(setting: Print, width: int) -> float:
    """Dots or drops of the print across a pixel of a camera `width` pixels wide; 0 where it cannot tell them."""
    if setting.screen == "photo":
        return 0.0
    each = setting.ruling / (width * setting.place.fill)
    return each if each <= (_FINEST_DOTS if setting.screen == "halftone" else _FINEST_DROPS) else 0.0


def _ink(image: Picture, setting: Print, u: Floats, v: Floats, *, dots: float) -> Floats:
    """Linear RGB that the paper sends back under white light, (h, w, 3) for places (h, w) on it.

    `dots` is how many dots or drops lie across a sample; 0 for a print without.
    """
    # The darkest ink still sends light back, so black is lifted, and no colour is purer than the inks are.
    black = 0.01 if setting.screen == "photo" else 0.03
    want = black + (1 - black) * cv2.transform(_LINEAR[image], _MUTED)
    if not dots:
        light = _content(want, u, v)
    elif setting.screen == "halftone":
        light = _through(_halftone(_content(_separated(want, setting), u, v), u, v, setting, dots))
    else:
        light = _content(_jets(want, setting, dots), u, v)
    beyond = (np.abs(u) > 0.5) | (np.abs(v) > 0.5 * image.shape[0] / image.shape[1])
    np.copyto(light, np.float32(1), where=beyond[..., None])
    light *= np.array(setting.paper, np.float32)
    return light


def _through(areas: Iterable[Floats]) -> Floats:
    """Light (h, w, 3) that is let through by the areas (h, w) of cyan, magenta, yellow and black, in turn.

    Demichel: inks overlap by chance, so what they let through multiplies.
    """
    factors: list[Any] = [np.float32(1)] * 3
    for ink, area in enumerate(areas):
        for colour in range(3):
            factors[colour] = factors[colour] * (1 - area * (1 - _INKS[ink, colour]))
    return np.stack(factors, axis=-1)


def _separated(want: Floats, setting: Print) -> Floats:
    """Cover (H, W, 4) of cyan, magenta, yellow and black by which inks on paper look as `want` (H, W, 3), of its white.

    Black comes first. Each other ink is then set by the colour that it governs, given what the others let through of
    it; a few rounds settle that. What no cover reaches is out of the inks' gamut and becomes the nearest end.
    """
    cover = np.zeros((*want.shape[:2], 4), np.float32)
    cover[..., 3] = setting.black * (1 - want.max(2))
    stop = 1 - _INKS
    for _ in range(4):
        for ink in range(3):
            rest = want[..., ink].copy()
            for other in {0, 1, 2, 3} - {ink}:
                rest /= 1 - cover[..., other] * stop[other, ink]
            cover[..., ink] = np.clip((1 - rest) / stop[ink, ink], 0, 1)
    # Dots spread, most at half cover; the printer's curve has taken most of it back.
    return np.asarray(np.clip(cover + setting.gain * cover * (1 - cover), 0, 1), np.float32)


def _halftone(cover: Floats, u: Floats, v: Floats, setting: Print, dots: float) -> Iterator[Floats]:
    """Area of each ink's dots in each sample: a grid of round dots for each, at its own angle."""
    x, y = u * np.float32(2 * np.pi * setting.ruling), v * np.float32(2 * np.pi * setting.ruling)
    # Ink creeps and paper scatters, so an edge is not quite sharp; and a sample sees the mean over its own area, in
    # which the rank changes by about two for each dot that fits into it.
    soft = np.float32(max(0.08, 2 * dots))
    for ink, angle in enumerate(_ANGLES):
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        spot = np.cos(c * x + s * y)
        spot += np.cos(c * y - s * x)
        mine = cover[..., ink]
        # Softened by no more than cover allows on either side, so that the dots' mean stays the cover.
        width = np.minimum(np.minimum(soft, 2 * mine), 2 - 2 * mine) + np.float32(1e-4)
        yield np.clip((mine - _rank(spot)) / width + np.float32(0.5), 0, 1)


def _jets(want: Floats, setting: Print, dots: float) -> Floats:
    """The printed picture, a pixel a drop, as light that it sends back: cells filled where cover exceeds a threshold.

    It is averaged over the `dots` drops across a sample.
    """
    wide = max(8, round(setting.ruling))
    high = max(8, round(setting.ruling * want.shape[0] / want.shape[1]))
    cover = cv2.resize(_separated(want, setting), (wide, high), interpolation=cv2.INTER_LINEAR)
    tile = _scatter()
    side = len(tile)
    tiled = np.tile(tile, (high // side + 2, wide // side + 2))

    def areas() -> Iterator[Floats]:
        for ink in range(4):
            # Each ink has the tile elsewhere, so that drops of two colours do not hide behind each other.
            x, y = 37 * ink, 17 * ink
            yield (cover[..., ink] > tiled[y : y + high, x : x + wide]).astype(np.float32)

    drops = _through(areas())
    # Half a drop of spread is the ink's own.
    return np.asarray(cv2.GaussianBlur(drops, (0, 0), max(0.5, 0.5 * dots)), np.float32)


def _rank(spot: Floats) -> Floats:
    """Share of a cell in which the spot function cos x + cos y is above `spot`: cover becomes area exactly."""
    table = _spot_table()
    index = ((spot + 2) * np.float32((len(table) - 1) / 4)).astype(np.int32)
    return table[np.clip(index, 0, len(table) - 1)]


@lru_cache(maxsize=1)
def _spot_table() -> Floats:
    at = (np.arange(512) + 0.5) / 512 * 2 * np.pi
    values = np.sort((np.cos(at)[:, None] + np.cos(at)).ravel())
    levels = np.linspace(-2, 2, 1025)
    return (1 - np.searchsorted(values, levels) / values.size).astype(np.float32)


@lru_cache(maxsize=1)
def _scatter(side: int = 128) -> Floats:
    """(side, side) thresholds of 0 to 1, evenly spread in value and, at each value, in place ("blue noise").

    Noise is freed of its low frequencies and ranked again, over and over: both properties then hold together.
    """
    f = np.fft.fftfreq(side)
    low = np.exp(-0.5 * ((f[:, None] ** 2 + f**2) / 0.16**2))
    tile = np.random.default_rng(0).random((side, side))
    for _ in range(24):
        tile = np.fft.ifft2(np.fft.fft2(tile) * (1 - low)).real
        tile = ((tile.ravel().argsort().argsort() + 0.5) / tile.size).reshape(side, side)
    return tile.astype(np.float32)


def _fibres(rng: np.random.Generator, seen: _Seen) -> Doubles:
    """Brightness of the paper's texture, unit variance, for each pixel and the rim: it is part of the paper's place,
    500 fibres across; what is finer is averaged away."""
    side = 256
    noise = rng.standard_normal((side, side)).astype(np.float32)
    coarse = cv2.GaussianBlur(noise, (0, 0), 2.5, borderType=cv2.BORDER_REFLECT)
    noise = 0.6 * noise + 0.8 * coarse / coarse.std()
    x, y = (500 * seen.u).astype(np.float32), (500 * seen.v).astype(np.float32)
    return np.asarray(cv2.remap(noise, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float64)


def _shading(seen: _Seen, setting: Print) -> Doubles:
    """Light that falls on the paper, 1 on average: from everywhere, and from a lamp by the cosine of its angle."""
    to_lamp = np.array(setting.lamp)[:, None, None] - seen.position
    squared = np.maximum((to_lamp**2).sum(0), 1e-6)
    lamp = np.maximum((to_lamp * seen.normal).sum(0), 0) / squared**1.5
    h, w = lamp.shape
    lamp /= max(float(lamp[h // 4 : -(h // 4), w // 4 : -(w // 4)].mean()), 1e-6)
    return np.asarray(setting.ambient + (1 - setting.ambient) * np.minimum(lamp, 3))


# --- Screen -----------------------------------------------------------------------------------------------------------


def _display(image: Picture, setting: Screen, u: Floats, v: Floats, seen: _Seen, n: int, *, cells: bool) -> Floats:
    """Linear RGB that the display sends out, (h, w, 3) for places (h, w) on it; its white is `tint` on average."""
    tone = ((np.arange(256) / 255) ** setting.gamma).astype(np.float32)
    light = _content(tone[image], u, v)
    if cells:  # otherwise the lens leaves less than a fiftieth of them
        light *= _grid(setting, u, v)
    # Filters and eyes of the camera overlap, so each colour is seen a little in the others; then the white's tint.
    mixed = (1 - 3 * setting.mix) * np.eye(3) + setting.mix
    mixed = np.array(setting.tint)[:, None] * mixed
    light = np.asarray(cv2.transform(light, mixed.astype(np.float32)), np.float32)
    high = 0.5 * image.shape[0] / image.shape[1]
    if setting.leak > 0:
        # Lamps sit in the frame: light leaks most from the edges and corners.
        edge = np.minimum(np.maximum(np.abs(2 * seen.u), np.abs(seen.v / high)), 1.1) ** 6
        light += _finer(setting.leak * (0.5 + 2 * edge), n)[..., None] * np.array([0.8, 0.9, 1.2], np.float32)
    beyond = (np.abs(u) > 0.5) | (np.abs(v) > high)
    np.copyto(light, np.float32(0.012), where=beyond[..., None])
    return np.asarray(light, np.float32)


def _grid(setting: Screen, u: Floats, v: Floats) -> Floats:
    """How much of each colour's own light lies in each sample, (h, w, 3), 1 on average: the display's cells, averaged
    exactly over the sample's own width and height."""
    x, y = (u + 0.5) * np.float32(setting.pixels), v * np.float32(setting.pixels)
    wide, high = _reach(x), _reach(y)
    grid = np.empty((*u.shape, 3), np.float32)
    open_x, open_y = setting.open_x, setting.open_y
    rows = _pulses(y, high, 0.0, open_y) / open_y
    if setting.layout == "stripe":
        for colour in range(3):
            stripe = _pulses(x, wide, (colour + 0.5 - 0.5 * open_x) / 3, open_x / 3)
            grid[..., colour] = stripe * rows * (3 / open_x)
        return grid
    # A diamond layout in rows: every pixel has a green cell; red and blue take turns along rows and columns.
    grid[..., 1] = _pulses(x, wide, 0.0, 0.5 * open_x) * rows * (2 / open_x)
    columns = [_pulses(x / 2, wide / 2, 0.25 + 0.5 * turn, 0.25 * open_x) for turn in (0, 1)]
    lines = [_pulses(y / 2, high / 2, 0.5 * turn, 0.5 * open_y) for turn in (0, 1)]
    scale = 1 / (0.25 * open_x * open_y)
    grid[..., 0] = (columns[0] * lines[0] + columns[1] * lines[1]) * scale
    grid[..., 2] = (columns[1] * lines[0] + columns[0] * lines[1]) * scale
    return grid


def _reach(x: Floats) -> Floats:
    """Width of each sample in units of `x`: how far x goes from it to its neighbours, right and below together."""
    across = np.empty_like(x)
    across[:, :-1] = np.abs(np.diff(x, axis=1))
    across[:, -1] = across[:, -2]
    down = np.empty_like(x)
    down[:-1] = np.abs(np.diff(x, axis=0))
    down[-1] = down[-2]
    across += down
    # Where a ray misses the medium, x jumps; any width does.
    return np.asarray(np.clip(across, 1e-3, 1e3), np.float32)


def _pulses(x: NDArray[Any], wide: NDArray[Any] | float, start: float, length: float) -> Floats:
    """Mean over ``x - wide / 2`` to ``x + wide / 2`` of pulses of height 1 and `length` that begin at `start` + n."""

    def integral(at: NDArray[Any]) -> NDArray[Any]:
        at = at - np.float32(start)
        whole = np.floor(at)
        at -= whole
        np.minimum(at, np.float32(length), out=at)
        whole *= np.float32(length)
        return np.asarray(at + whole)

    half = np.float32(0.5) * wide
    return np.asarray((integral(x + half) - integral(x - half)) / wide, np.float32)


def _bands(setting: Screen, rows: int) -> Floats:
    """Light of each of `rows` rows: the share of its exposure that falls into pulses, 1 on average.

    Rows begin one after the other over `readout_s`; the backlight is on for half of each period.
    """
    begin = setting.phase + setting.flicker_hz * setting.readout_s * np.arange(rows) / rows
    begin -= np.floor(begin[0])
    wide = max(setting.flicker_hz * setting.exposure_s, 1e-3)
    on = _pulses((begin + wide / 2).astype(np.float32), wide, 0.0, 0.5)
    return np.asarray(1 + setting.flicker * (2 * on - 1), np.float32)


# --- Room and camera --------------------------------------------------------------------------------------------------


def _room(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(96, 96, 3) linear light of a made-up room, twice: walls and things in soft colours; and with bright windows."""
    side = 96
    base = rng.uniform(0.1, 0.5) * rng.uniform(0.92, 1.08, 3)
    room = np.full((side, side, 3), base, np.float32)
    for _ in range(16):
        x, y = rng.integers(0, side, 2).tolist()
        wide, high = rng.integers(6, 40, 2).tolist()
        colour = rng.uniform(0.02, 0.5) * rng.uniform(0.8, 1.2, 3)
        cv2.rectangle(room, (x - wide // 2, y - high // 2), (x + wide // 2, y + high // 2), colour.tolist(), -1)
    # Light falls off across a room.
    room *= np.linspace(rng.uniform(0.6, 1.4), 1, side, dtype=np.float32)[:, None]
    walls = np.asarray(cv2.GaussianBlur(room, (0, 0), 2.5), np.float32)
    lit = walls.copy()
    for _ in range(int(rng.integers(1, 3))):
        x, y = int(rng.integers(12, 84)), int(rng.integers(8, 60))
        wide, high = int(rng.integers(8, 20)), int(rng.integers(10, 26))
        colour = rng.uniform(5, 12) * np.array([1.0, rng.uniform(0.9, 1.05), rng.uniform(0.75, 1.2)])
        cv2.rectangle(lit, (x - wide // 2, y - high // 2), (x + wide // 2, y + high // 2), colour.tolist(), -1)
        cv2.line(lit, (x, y - high // 2), (x, y + high // 2), (0.3, 0.3, 0.3), 1)  # a window has a bar
    return walls, lit


def _behind(walls: Floats, size: tuple[int, int], *, made_up: bool) -> Floats:
    """The background (h, w, 3): the given picture, or the middle of the made-up walls, out of focus."""
    h, w = size
    if made_up:
        walls = walls[24:72, 24:72]
    smaller = walls.shape[0] > h or walls.shape[1] > w
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.maximum(np.asarray(cv2.resize(walls, (w, h), interpolation=how), np.float32), 0)


def _mirrored(seen: _Seen, room: Floats, gloss: float, roughness: float) -> Floats:
    """(h, w, 3) light of the room mirrored by the surface.

    The room is a wall at the camera that spans 120° each way: where the mirrored ray goes, by its two angles.
    """
    ray = seen.position[:, 1:-1, 1:-1]
    ray = ray / np.maximum(np.linalg.norm(ray, axis=0), 1e-6)
    normal = seen.normal[:, 1:-1, 1:-1]
    cosine = (ray * normal).sum(0)
    out = ray - 2 * cosine * normal
    side = room.shape[:2]
    x = (np.arctan2(out[0], np.maximum(-out[2], 1e-3)) / np.radians(120) + 0.5) * side[1] - 0.5
    y = (np.arctan2(out[1], np.maximum(-out[2], 1e-3)) / np.radians(120) + 0.5) * side[0] - 0.5
    soft = cv2.GaussianBlur(room, (0, 0), max(0.3, roughness / np.radians(120) * side[1]))
    light = cv2.remap(soft, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    # Schlick: gloss is the share mirrored at right angles, and more is at a grazing one.
    share = gloss + (1 - gloss) * np.clip(1 - np.abs(cosine), 0, 1) ** 5
    return np.asarray(light * share[..., None], np.float32)


def _photograph(light: Floats, camera: Camera, n: int, rng: np.random.Generator) -> Picture:
    """The camera's file of the light (h n, w n, 3) that falls on the `n` x `n` samples of its pixels."""
    if camera.blur > 0:
        soft = cv2.GaussianBlur(light, (0, 0), camera.blur * n, borderType=cv2.BORDER_REPLICATE)
        light = np.asarray(soft, np.float32)
    raw = _area(light, n) * np.float32(camera.exposure)
    h, w = raw.shape[:2]
    if camera.bayer:
        mosaic = np.empty((h, w), np.float32)
        mosaic[0::2, 0::2], mosaic[1::2, 1::2] = raw[0::2, 0::2, 0], raw[1::2, 1::2, 2]
        mosaic[0::2, 1::2], mosaic[1::2, 0::2] = raw[0::2, 1::2, 1], raw[1::2, 0::2, 1]
        raw = mosaic
    if camera.electrons > 0:
        variance = np.maximum(raw, 0) / camera.electrons + (camera.read_noise / camera.electrons) ** 2
        raw = raw + np.sqrt(variance).astype(np.float32) * rng.standard_normal(raw.shape, np.float32)
    if camera.bayer:
        # The range above white is kept, so that balancing the colours does not tint what is burnt out.
        counts = np.clip(raw * 16384 + 1024, 0, 65535).astype(np.uint16)
        raw = (cv2.cvtColor(counts, cv2.COLOR_BayerRGGB2RGB).astype(np.float32) - 1024) / 16384
    raw = np.clip(raw * np.array(camera.white, np.float32), 0, 1)
    coded = 255 * np.where(raw <= 0.0031308, 12.92 * raw, 1.055 * np.maximum(raw, 1e-6) ** np.float32(1 / 2.4) - 0.055)
    if camera.sharpen > 0:
        coded += np.float32(camera.sharpen) * (coded - cv2.GaussianBlur(coded, (0, 0), 1.0))
    image = as_picture(np.clip(np.rint(coded), 0, 255).astype(np.uint8))
    if camera.quality is None:
        return image
    return decode(
        cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, camera.quality])[1]
    )


# --- Checks -----------------------------------------------------------------------------------------------------------


def _linear_table() -> Floats:
    level = np.arange(256) / 255
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR = _linear_table()


def _picture(name: str, image: Any) -> Picture:
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise DtypeError(f"{name} must be 8 bit", got=array.dtype, expected="uint8")
    if array.ndim != 3 or array.shape[2] != 3 or min(array.shape[:2]) < SMALLEST:
        raise ShapeError(f"{name} is not such a picture", got=array.shape, expected=f"(H, W, 3), from {SMALLEST} px")
    return array


def _polygon(points: ArrayLike | None) -> tuple[tuple[float, float], ...] | None:
    if points is None:
        return None
    array = doubles("polygon", points, "k 2")
    if len(array) < 3:
        raise ShapeError("a polygon needs three points", got=array.shape, expected="(k, 2), k at least 3")
    return tuple((float(x), float(y)) for x, y in array)


def _polygons(each: Sequence[ArrayLike]) -> tuple[tuple[tuple[float, float], ...], ...]:
    return tuple(polygon for points in each if (polygon := _polygon(points)) is not None)


def _count(frames: int) -> int:
    if frames < 1:
        raise OptionError("a film needs a frame", got=frames, expected="1 or more")
    return int(frames)
