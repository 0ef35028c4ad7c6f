"""Pictures of results: what was found, drawn into a photo; many pictures laid out as one.

Everything is drawn as a mask first, larger than life and then averaged down, so that lines of any width, in any
place between pixels, have smooth edges. Masks are laid on the photo over a soft shadow of themselves, which is what
makes them readable on light and on dark alike. The font is the one that Pillow brings: a machine may have none.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from PIL import ImageColor, ImageDraw, ImageFont

from mien.errors import EmptyMedia, ImageTooLarge, MissingCodec, OptionError
from mien.faces import COVERS, EXPRESSIONS
from mien.media.images import MAX_PIXELS, Image, Source, load_image
from mien.media.masks import lay_parsing

if TYPE_CHECKING:
    from mien.faces import Faces

__all__ = ["ACCENT", "PARTS", "annotate", "contact_sheet"]

Colour: TypeAlias = str | tuple[int, int, int]
Floats: TypeAlias = NDArray[np.float64]
Rect: TypeAlias = tuple[float, float, float, float]

ACCENT: Final = "#5cf2c3"
"""The colour of boxes, irises and the direction of the head."""

PARTS: Final = ("parsing", "boxes", "points", "landmarks", "pose", "captions")
"""What `annotate` can draw."""

WHITE: Final = (255, 255, 255)
INK: Final = (14, 20, 24)

# Points of the schemes ibug68 and mien70 in the order in which a pen follows them: `mien.geometry.landmarks` names
# them, and lies a floor above. Lids and lips are drawn from corner to corner, since a face has corners there.
CONTOURS: Final = (
    tuple(range(17)),  # jaw
    tuple(range(17, 22)),  # brows
    tuple(range(22, 27)),
    tuple(range(27, 31)),  # nose: bridge, then nostrils
    tuple(range(31, 36)),
    (36, 37, 38, 39),  # eyes: upper lid, then lower lid
    (39, 40, 41, 36),
    (42, 43, 44, 45),
    (45, 46, 47, 42),
    tuple(range(48, 55)),  # outer lips: upper, then lower
    (54, 55, 56, 57, 58, 59, 48),
    tuple(range(60, 65)),  # inner lips
    (64, 65, 66, 67, 60),
)
EYES: Final = ((68, (36, 37, 38, 39, 40, 41)), (69, (42, 43, 44, 45, 46, 47)))
"""Row of each iris, and the rows of the lids around it."""

IRIS: Final = 0.2
"""Radius of an iris in widths of an eye: 11.7 mm across, in an opening of 30 mm (Hashemi et al. 2015)."""


def annotate(
    image: Source,
    faces: Faces,
    *,
    parts: Iterable[str] | None = None,
    colour: Colour = ACCENT,
    scale: float = 1.0,
) -> Image:
    """The picture with its faces drawn in: boxes, points, contours, head pose and a caption.

    Columns that are not there are not drawn. Widths follow the size of the picture, and of the face where that is
    small; captions that would be larger than a small face are left out.

    Parameters
    ----------
    image
        Anything that `load_image` takes. It is not changed.
    faces
        Faces of this picture: ``faces.of_image(index)`` where there are several.
    parts
        What to draw, of `PARTS`. Default: all that is known; the five points only where there are no landmarks,
        which show the same more finely.
    colour
        Of boxes, irises and the direction of the head, as ``"#rrggbb"``, a name of CSS or (r, g, b) of 0 to 255.
    scale
        Enlarge the picture so much before drawing, for finer lines on a small one.

    Returns
    -------
    (H, W, 3) uint8 RGB, a new array; H and W are those of the picture times `scale`.

    Raises
    ------
    MediaError, ArrayError
        `image` is no picture.
    OptionError
        Unknown `parts` or `colour`, `scale` is not positive, or `faces` are of several pictures.
    """
    wanted = _parts(parts, faces)
    accent = _rgb(colour)
    canvas = _scaled(load_image(image), scale)
    if len(set(faces.image.tolist())) > 1:
        raise OptionError(
            "these faces are of several pictures",
            got=f"faces of {len(set(faces.image.tolist()))} pictures",
            expected="those of this one",
            hint="draw faces.of_image(index)",
        )
    height, width = canvas.shape[:2]
    if "parsing" in wanted and "parsing" in faces.columns:
        for row in np.argsort(faces.areas if "boxes" in faces.columns else np.zeros(len(faces)), kind="stable"):
            lay_parsing(canvas, faces, int(row), scale=scale)
    shapes = [_Shape.of(faces, row, scale, wanted) for row in range(len(faces))]
    captions = _Captions(canvas.shape[:2])
    # Small ones first, so that the largest, which is nearest, lies on top.
    for shape in sorted(shapes, key=lambda each: each.side):
        unit = _unit(shape.side, math.hypot(height, width))
        ink = _Ink(canvas.shape[:2], shape.reach(unit), unit)
        _draw(ink, shape, unit)
        ink.onto(canvas, accent)
    for shape in sorted(shapes, key=lambda each: -each.side):
        if "captions" in wanted and _overlap(shape.rect, (0, 0, width, height)):
            captions.place(shape, [each.rect for each in shapes])
    captions.onto(canvas, accent)
    return canvas


def contact_sheet(
    images: Iterable[Source],
    *,
    columns: int | None = None,
    size: int = 256,
    captions: Sequence[str] | None = None,
    cover: bool = False,
    gap: int | None = None,
    background: Colour = "#ffffff",
) -> Image:
    """Many pictures as one, in rows, each with rounded corners and, if wanted, a caption below.

    Parameters
    ----------
    images
        Anything that `load_image` takes, at least one.
    columns
        Pictures in a row. Default: as many as make the sheet about four to three.
    size
        Long side in pixels of each picture on the sheet.
    captions
        A text for each picture, cut where it is too long. Letters that the font lacks lose their accents or
        become "?".
    cover
        Show a square out of the middle of each picture instead of the whole picture.
    gap
        Pixels between pictures and around them. Default: a sixteenth of `size`.
    background
        Colour behind the pictures; captions are black or white, whichever can be read on it.

    Returns
    -------
    (H, W, 3) uint8 RGB.

    Raises
    ------
    EmptyMedia
        There is no picture.
    OptionError
        `columns`, `size` or `gap` out of range, an unknown colour, or not one caption for each picture.
    ImageTooLarge
        The sheet would have more than `MAX_PIXELS` pixels.
    MediaError, ArrayError
        An image is no picture.
    """
    ground = _rgb(background)
    counts: tuple[tuple[str, object, int], ...] = (("columns", columns, 1), ("size", size, 8), ("gap", gap, 0))
    for name, value, least in counts:
        if value is not None and (not isinstance(value, int) or value < least):
            raise OptionError(f"{name} is out of range", got=value, expected=f"a whole number from {least}")
    cells, pixels = list[Image](), 0
    for image in images:
        cells.append(_cell(load_image(image), size, cover, ground))
        pixels += cells[-1].shape[0] * cells[-1].shape[1]
        if pixels > MAX_PIXELS:  # told before a generator has filled the memory
            raise _sheet_too_large(f"more than {pixels / 1e6:.4g} megapixels")
    if not cells:
        raise EmptyMedia("there is no picture to lay out", hint="give at least one")
    if captions is not None and len(captions) != len(cells):
        raise OptionError("captions and pictures differ in number", got=len(captions), expected=len(cells))
    across = columns if columns is not None else max(1, round(math.sqrt(len(cells) * 4 / 3)))
    across = min(across, len(cells))
    space = size // 16 if gap is None else gap
    text = max(9, round(size / 15))
    line = 0 if captions is None else round(text * 1.9)
    rows = [cells[start : start + across] for start in range(0, len(cells), across)]
    # A row is as high as its highest picture: captions keep close to what they are about.
    heights = [max(len(cell) for cell in row) for row in rows]
    tops = [space + sum(heights[:index]) + index * (line + space) for index in range(len(rows))]
    height, width = tops[-1] + heights[-1] + line + space, space + across * (size + space)
    if height * width > MAX_PIXELS:
        raise _sheet_too_large(f"{width} x {height}")
    sheet = np.empty((height, width, 3), np.uint8)
    sheet[:] = ground
    lefts = [space + index * (size + space) for index in range(across)]
    for top, high, row in zip(tops, heights, rows, strict=True):
        for left, cell in zip(lefts, row, strict=False):  # the last row may be shorter
            y, x = top + (high - cell.shape[0]) // 2, left + (size - cell.shape[1]) // 2
            sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    if captions is None:
        return sheet
    written = PillowImage.fromarray(sheet)
    pen, font = ImageDraw.Draw(written), _font(text)
    dark = np.dot(ground, (0.299, 0.587, 0.114)) > 140
    for index, caption in enumerate(captions):
        row_index, column = divmod(index, across)
        place = (lefts[column] + size / 2, tops[row_index] + heights[row_index] + line * 0.55)
        pen.text(place, _fitted(_writable(caption), font, size), font=font, fill=INK if dark else WHITE, anchor="mm")
    return np.array(written)


# --------------------------------------------------------------------------------------------------- what


@dataclass(frozen=True)
class _Shape:
    """What is to be drawn of one face; points count from the top left edge of the enlarged picture."""

    rect: Rect
    frame: bool
    points: Floats | None
    landmarks: Floats | None
    axes: Floats | None
    caption: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, faces: Faces, row: int, scale: float, parts: frozenset[str]) -> _Shape:
        has = set(faces.columns)

        def points(name: str) -> Floats | None:
            # Edges lie half a pixel before centres; boxes are given by edges, points by centres.
            return (faces.column(name)[row, :, :2].astype(np.float64) + 0.5) * scale if name in has else None

        landmarks = points("landmarks") if "landmarks" in has else points("landmarks3d")
        five = points("landmarks5")
        known = [each for each in (landmarks, five) if each is not None and len(each)]
        if "boxes" in has:
            x0, y0, x1, y1 = (float(v) * scale for v in faces.boxes[row])
        elif known:
            (x0, y0), (x1, y1) = known[0].min(0), known[0].max(0)
        else:
            x0, y0, x1, y1 = 0.0, 0.0, 0.0, 0.0
        angles = faces.pose[row] if "pose" in has else None
        return cls(
            rect=(float(x0), float(y0), float(x1), float(y1)),
            frame="boxes" in parts and "boxes" in has,
            points=five if "points" in parts else None,
            landmarks=landmarks if "landmarks" in parts else None,
            axes=_axes(angles) if "pose" in parts and angles is not None and ("boxes" in has or known) else None,
            caption=_caption(faces, row, has) if "captions" in parts else (),
        )

    @property
    def side(self) -> float:
        x0, y0, x1, y1 = self.rect
        return math.sqrt(max(x1 - x0, 0) * max(y1 - y0, 0))

    def reach(self, unit: float) -> Rect:
        """All that is drawn of the face, with its shadow."""
        x0, y0, x1, y1 = self.rect
        corners = [np.array([[x0, y0], [x1, y1]])]
        corners += [each for each in (self.points, self.landmarks) if each is not None and len(each)]
        if self.axes is not None:
            origin, length = _origin(self), _length(self)
            corners.append(np.stack([origin - length, origin + length]))
        every = np.concatenate(corners)
        left, top = every.min(0) - 12 * unit
        right, bottom = every.max(0) + 12 * unit
        return float(left), float(top), float(right), float(bottom)


def _caption(faces: Faces, row: int, has: set[str]) -> tuple[tuple[str, str], ...]:
    """(label, value) of what is known about a face in few figures."""
    found = []
    if "scores" in has:
        found.append(("score", f"{faces.scores[row]:.2f}"))
    if "quality" in has:
        found.append(("quality", f"{100 * faces.quality[row]:.0f}"))
    if "pose" in has:
        # Rounded to integers first, so that -0.3 is shown as 0 and not as -0.
        found += [
            (name, f"{round(float(v))}°") for name, v in zip(("yaw", "pitch", "roll"), faces.pose[row], strict=True)
        ]
    if "age" in has:
        found.append(("looks", f"{faces.age[row]:.0f} y"))
    if "expressions" in has:
        best = int(faces.expressions[row].argmax())
        found.append((f"{100 * faces.expressions[row, best]:.0f} %", EXPRESSIONS[best]))
    if "covers" in has and faces.covers[row].max() >= 0.5:
        found.append(("covered", COVERS[int(faces.covers[row].argmax())]))
    return tuple(found)


def _axes(angles: ArrayLike) -> Floats:
    """(3, 2): where right, down and forward of a head point in the picture, seen from far away.

    The first two coordinates of the rotation in `mien.geometry.pose`: roll, then pitch, then yaw, each about an axis
    of the picture. Forward is against the axis that goes away from the camera.
    """
    yaw, pitch, roll = np.radians(np.asarray(angles, np.float64))
    sy, cy, sp, cp = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
    sr, cr = math.sin(roll), math.cos(roll)
    right = (cy * cr + sy * sp * sr, cp * sr)
    down = (-cy * sr + sy * sp * cr, cp * cr)
    return np.array([right, down, (sy * cp, -sp)])


def _origin(shape: _Shape) -> Floats:
    """Where the axes start: the tip of the nose, or the middle of the box."""
    if shape.landmarks is not None and len(shape.landmarks) in (68, 70):
        return np.asarray(shape.landmarks[30], np.float64)
    if shape.points is not None:
        return np.asarray(shape.points[2], np.float64)
    x0, y0, x1, y1 = shape.rect
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


def _length(shape: _Shape) -> float:
    return 0.34 * shape.side


# ---------------------------------------------------------------------------------------------------- how


class _Ink:
    """Two masks over a part of the picture, one for white and one for the accent, drawn larger than life."""

    def __init__(self, shape: tuple[int, ...], reach: Rect, unit: float) -> None:
        height, width = shape[:2]
        self.left, self.top = (min(max(0, math.floor(reach[at])), most) for at, most in ((0, width), (1, height)))
        right, bottom = min(width, math.ceil(reach[2])), min(height, math.ceil(reach[3]))
        self.size = (max(0, bottom - self.top), max(0, right - self.left))
        # Wide lines need less enlarging for a smooth edge, so that the masks of a large picture stay small.
        self.fine = int(min(4, max(1, round(6 / unit))))
        self.unit = unit
        self._masks = {name: np.zeros([n * self.fine for n in self.size], np.uint8) for name in ("white", "accent")}

    def line(
        self,
        points: Floats,
        width: float,
        *,
        colour: str = "white",
        alpha: float = 1.0,
        within: Floats | None = None,
    ) -> None:
        """A line through `points`, `width` pixels wide; only its part inside the outline `within`, if given."""
        import cv2

        thick = max(1, round(width * self.fine))
        alpha *= min(1.0, width * self.fine / thick)

        def stroke(layer: NDArray[np.uint8], place: NDArray[np.int32]) -> None:
            cv2.polylines(layer, [place], False, 255, thick, cv2.LINE_AA, SHIFT)

        self._add(stroke, points, thick, colour, alpha, within)

    def fill(self, outline: Floats, *, colour: str = "white", within: Floats | None = None) -> None:
        """The inside of `outline`; only its part inside the outline `within`, if given."""
        self._add(_filled, outline, 0, colour, 1.0, within)

    def dot(self, centre: Floats, radius: float, *, colour: str = "white", within: Floats | None = None) -> None:
        self.fill(_circle(centre, radius), colour=colour, within=within)

    def ring(
        self, centre: Floats, radius: float, width: float, *, colour: str = "white", within: Floats | None = None
    ) -> None:
        self.line(_circle(centre, radius), width, colour=colour, within=within)

    def _add(
        self,
        draw: Callable[[NDArray[np.uint8], NDArray[np.int32]], None],
        points: Floats,
        margin: int,
        colour: str,
        alpha: float,
        within: Floats | None,
    ) -> None:
        """Draws on a layer just large enough, and takes that over into the mask where it is stronger."""
        local = (points - (self.left, self.top)) * self.fine - 0.5  # OpenCV counts from pixel centres
        # A point far outside would overflow OpenCV's numbers; its line leaves the picture all the same.
        local = np.clip(local, -1e5, 1e5)
        mask = self._masks[colour]
        x0, y0 = (max(0, math.floor(low) - margin - 2) for low in local.min(0))
        x1, y1 = (min(n, math.ceil(h) + margin + 3) for n, h in zip(mask.shape[::-1], local.max(0), strict=True))
        if x1 <= x0 or y1 <= y0:
            return
        layer = np.zeros((y1 - y0, x1 - x0), np.uint8)
        draw(layer, _fixed(local - (x0, y0)))
        if within is not None:
            inside = np.zeros_like(layer)
            _filled(inside, _fixed((within - (self.left, self.top)) * self.fine - 0.5 - (x0, y0)))
            np.minimum(layer, inside, out=layer)
        if alpha < 1:
            layer = np.rint(layer * alpha).astype(np.uint8)
        part = mask[y0:y1, x0:x1]
        np.maximum(part, layer, out=part)

    def mask(self, colour: str) -> NDArray[np.uint8]:
        """What was drawn in `colour`, at the size of the picture, 0 to 255."""
        import cv2

        rows, cols = self.size
        if self.fine == 1:
            return self._masks[colour]
        return np.asarray(cv2.resize(self._masks[colour], (cols, rows), interpolation=cv2.INTER_AREA), np.uint8)

    def part(self, canvas: Image) -> Image:
        """The part of the picture under the masks, to be painted on."""
        return canvas[self.top : self.top + self.size[0], self.left : self.left + self.size[1]]

    def onto(self, canvas: Image, accent: tuple[int, int, int]) -> None:
        """Lays shadow, white and accent on the picture."""
        if 0 in self.size:
            return
        white, coloured, part = self.mask("white"), self.mask("accent"), self.part(canvas)
        _blend(part, INK, _shadow(np.maximum(white, coloured), max(0.8, 1.2 * self.unit)))
        _blend(part, WHITE, white)
        _blend(part, accent, coloured)


SHIFT: Final = 4
"""OpenCV takes places between pixels as whole numbers with so many binary digits behind the point."""


def _fixed(points: Floats) -> NDArray[np.int32]:
    return np.rint(np.clip(points, -1e5, 1e5) * (1 << SHIFT)).astype(np.int32)


def _filled(layer: NDArray[np.uint8], outline: NDArray[np.int32]) -> None:
    import cv2

    cv2.fillPoly(layer, [outline], 255, cv2.LINE_AA, SHIFT)


def _shadow(mask: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """The mask, blurred and strengthened; wide shadows at a smaller size, where no eye sees the difference."""
    import cv2

    step = max(1, int(sigma / 1.5))
    rows, cols = mask.shape
    small = (max(1, cols // step), max(1, rows // step))
    soft = cv2.resize(mask, small, interpolation=cv2.INTER_AREA) if step > 1 else mask
    soft = np.minimum(cv2.convertScaleAbs(cv2.GaussianBlur(soft, (0, 0), sigma / step), alpha=2.0), 200)
    if step > 1:
        soft = cv2.resize(soft, (cols, rows), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft, np.uint8)


def _blend(part: Image, colour: tuple[int, int, int], mask: NDArray[Any]) -> None:
    """Paints `colour` into `part` as thickly as `mask` says, 0 to 255; in strips, to spend little memory."""
    for start in range(0, len(part), 256):
        strip, alpha = part[start : start + 256], mask[start : start + 256]
        if alpha.any():
            _mix(strip, np.array(colour, np.float32), alpha)


def _mix(part: Image, other: NDArray[np.float32], mask: NDArray[Any]) -> None:
    share = mask[..., None].astype(np.float32) / 255
    part[:] = np.rint(part + (other - part) * share)


def _unit(side: float, diagonal: float) -> float:
    """Width in pixels of an ordinary line: as the picture has it, thinner on small faces."""
    return max(1.0, diagonal / 1400, min(diagonal / 560, side / 70))


def _draw(ink: _Ink, shape: _Shape, unit: float) -> None:
    if shape.frame:
        _frame(ink, shape.rect, unit)
    if shape.landmarks is not None:
        if len(shape.landmarks) in (68, 70):
            _contours(ink, shape.landmarks, unit * 0.66)
        else:
            for point in shape.landmarks:
                ink.dot(point, 1.1 * unit)
    if shape.points is not None:
        for point in shape.points:
            ink.ring(point, 2.4 * unit, 0.7 * unit)
            ink.dot(point, 1.6 * unit, colour="accent")
    if shape.axes is not None:
        _tripod(ink, _origin(shape), shape.axes * _length(shape), unit)


def _frame(ink: _Ink, rect: Rect, unit: float) -> None:
    """A thin box with round, stronger corners."""
    x0, y0, x1, y1 = rect
    side = min(x1 - x0, y1 - y0)
    if side <= 0:
        return
    radius, arm = 0.1 * side, 0.22 * side
    outline = _rounded(rect, radius)
    ink.line(np.concatenate([outline, outline[:1]]), 0.6 * unit, alpha=0.55)
    for x, y, sx, sy in ((x0, y0, 1, 1), (x1, y0, -1, 1), (x1, y1, -1, -1), (x0, y1, 1, -1)):
        turn = np.radians(np.linspace(0, 90, 17))
        arc = np.stack([x + sx * radius * (1 - np.sin(turn)), y + sy * radius * (1 - np.cos(turn))], 1)
        ends = np.array([[x + sx * arm, y]]), np.array([[x, y + sy * arm]])
        ink.line(np.concatenate([ends[0], arc, ends[1]]), 1.6 * unit, colour="accent")


def _contours(ink: _Ink, points: Floats, unit: float) -> None:
    for rows in CONTOURS:
        # The jaw is guessed by every annotator; it is drawn fainter than what can be seen.
        ink.line(_smooth(points[list(rows)]), unit, alpha=0.6 if rows[0] == 0 else 0.95)
    for point in points[:68]:
        ink.dot(point, 0.95 * unit)
    if len(points) < 70:
        return
    for iris, lids in EYES:
        around = points[list(lids)]
        width = float(np.linalg.norm(around[0] - around[3]))
        opening = np.concatenate([_smooth(around[[0, 1, 2, 3]]), _smooth(around[[3, 4, 5, 0]])])
        ink.ring(points[iris], IRIS * width, unit, colour="accent", within=opening)
        ink.dot(points[iris], max(0.9 * unit, 0.05 * width), colour="accent", within=opening)


def _tripod(ink: _Ink, origin: Floats, axes: Floats, unit: float) -> None:
    """The axes of the head: right and down, and forward, which is stronger and ends in a dot."""
    right, down, forward = axes
    for axis in (right, down):
        ink.line(np.stack([origin, origin + 0.55 * axis]), 0.8 * unit, colour="accent", alpha=0.8)
    tip = origin + forward
    ink.line(np.stack([origin, tip]), 1.4 * unit, colour="accent")
    ink.dot(tip, 1.8 * unit, colour="accent")


def _smooth(points: Floats, *, steps: int = 8) -> Floats:
    """A curve through the points (k, 2): Catmull-Rom, centripetal, so that it neither loops nor overshoots."""
    if len(points) < 3:
        return points
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    gaps = np.maximum(np.linalg.norm(np.diff(padded, axis=0), axis=1) ** 0.5, 1e-6)
    curve = []
    for index in range(1, len(padded) - 2):
        p0, p1, p2, p3 = padded[index - 1 : index + 3]
        d1, d2, d3 = gaps[index - 1 : index + 2]
        # Bezier handles of the segment from p1 to p2.
        b1 = (d1**2 * p2 - d2**2 * p0 + (2 * d1**2 + 3 * d1 * d2 + d2**2) * p1) / (3 * d1 * (d1 + d2))
        b2 = (d3**2 * p1 - d2**2 * p3 + (2 * d3**2 + 3 * d3 * d2 + d2**2) * p2) / (3 * d3 * (d3 + d2))
        t = np.linspace(0, 1, steps, endpoint=False)[:, None]
        curve.append((1 - t) ** 3 * p1 + 3 * (1 - t) ** 2 * t * b1 + 3 * (1 - t) * t**2 * b2 + t**3 * p2)
    return np.concatenate([*curve, points[-1:]])


def _circle(centre: Floats, radius: float) -> Floats:
    turn = np.radians(np.linspace(0, 360, 49))
    return np.asarray(centre + radius * np.stack([np.cos(turn), np.sin(turn)], 1))


def _rounded(rect: Rect, radius: float) -> Floats:
    """The outline of a rectangle with round corners, clockwise from the top left."""
    x0, y0, x1, y1 = rect
    radius = max(0.0, min(radius, (x1 - x0) / 2, (y1 - y0) / 2))
    parts = []
    for x, y, start in (
        (x0 + radius, y0 + radius, 180),
        (x1 - radius, y0 + radius, 270),
        (x1 - radius, y1 - radius, 0),
        (x0 + radius, y1 - radius, 90),
    ):
        turn = np.radians(start + np.linspace(0, 90, 17))
        parts.append(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1))
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------------- captions


@dataclass
class _Captions:
    """Captions of a picture: each where it covers least of other faces and captions, and where it fits."""

    shape: tuple[int, ...]
    placed: list[tuple[Rect, tuple[tuple[str, str], ...], float]] = field(default_factory=list)

    def place(self, shape: _Shape, faces: Sequence[Rect]) -> None:
        """Finds a place for the caption of a face: all of it, else fewer figures, else none."""
        height, width = self.shape[:2]
        diagonal = math.hypot(height, width)
        text = max(10.0, diagonal / 62, min(diagonal / 40, shape.side / 10))
        x0, y0, x1, y1 = shape.rect
        others = [rect for rect in faces if rect != shape.rect] + [rect for rect, _, _ in self.placed]
        # In a crowd captions must stay near their faces; a lone face may have a wider one.
        widest = (1.6 if len(faces) > 1 else 3.0) * max(shape.side, 1.0)
        for figures in (shape.caption, shape.caption[:2], shape.caption[:1]):
            if not figures:
                return
            across, down = _pill(figures, text)
            if across > min(width, widest) or down > height:
                continue
            gap = 0.55 * text
            left = min(max((x0 + x1 - across) / 2, gap), max(width - across - gap, 0))
            tops = [top for top in (y1 + gap, y0 - gap - down, y1 - gap - down) if 0 <= top <= height - down]
            places = [(left, top, left + across, top + down) for top in tops]
            own = [_overlap(place, shape.rect) for place in places]
            hidden = [sum(_overlap(place, other) for other in others) for place in places]
            # Rather no caption than one that hides faces.
            fit = [
                (mine + theirs, at)
                for at, (mine, theirs) in enumerate(zip(own, hidden, strict=True))
                if mine <= 0.2 * shape.side**2 and theirs <= 0.2 * across * down
            ]
            if fit:
                self.placed.append((places[min(fit)[1]], figures, text))
                return

    def onto(self, canvas: Image, accent: tuple[int, int, int]) -> None:
        import cv2

        for rect, figures, text in self.placed:
            ink = _Ink(self.shape, (rect[0] - 1, rect[1] - 1, rect[2] + 1, rect[3] + 1), text / 6)
            ink.fill(_rounded(rect, 0.5 * text))
            part = ink.part(canvas)
            # Smoked glass: what lies behind is blurred and darkened, so that letters stand clear of it.
            behind = cv2.GaussianBlur(part, (0, 0), 0.6 * text).astype(np.float32)
            _mix(part, behind * 0.22 + np.array(INK, np.float32) * 0.78, ink.mask("white"))
            values, labels = (PillowImage.new("L", ink.size[::-1]) for _ in range(2))
            _write(ImageDraw.Draw(values), ImageDraw.Draw(labels), figures, text, rect[0] - ink.left, rect[1] - ink.top)
            _blend(part, WHITE, np.asarray(values))
            _blend(part, accent, np.asarray(labels))


def _pill(figures: Sequence[tuple[str, str]], text: float) -> tuple[float, float]:
    """Width and height of a caption."""
    return sum(_cells(figures, text)) + 0.9 * text, 2.55 * text


def _cells(figures: Sequence[tuple[str, str]], text: float) -> list[float]:
    value, label = _font(text), _font(0.62 * text)
    return [max(value.getlength(v), label.getlength(n)) + 0.9 * text for n, v in figures]


def _write(
    values: ImageDraw.ImageDraw,
    labels: ImageDraw.ImageDraw,
    figures: Sequence[tuple[str, str]],
    text: float,
    left: float,
    top: float,
) -> None:
    at = left + 0.45 * text
    for (name, value), width in zip(figures, _cells(figures, text), strict=True):
        values.text((at + width / 2, top + 1.3 * text), value, font=_font(text), fill=255, anchor="ms")
        labels.text((at + width / 2, top + 2.15 * text), name, font=_font(0.62 * text), fill=235, anchor="ms")
        at += width


def _overlap(a: Rect, b: Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _font(size: float) -> ImageFont.FreeTypeFont:
    try:
        font = ImageFont.load_default(size)
    except ImportError as error:
        raise MissingCodec(
            "this Pillow was built without FreeType and cannot write", hint="pip install --force-reinstall pillow"
        ) from error
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise MissingCodec("this Pillow has no scalable font", hint="pip install --upgrade pillow")
    return font


def _writable(text: str) -> str:
    """`text` in the letters that Pillow's font has: accents go, what is left of other scripts becomes "?"."""
    plain = unicodedata.normalize("NFKD", " ".join(str(text).split()))
    kept = (each for each in plain if not unicodedata.combining(each))
    return "".join(each if " " <= each <= "~" or each in "°±·…" else "?" for each in kept)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, cut and marked by an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


# ------------------------------------------------------------------------------------------ options, pictures


def _parts(parts: Iterable[str] | None, faces: Faces) -> frozenset[str]:
    if parts is None:
        finer = "landmarks" in faces.columns or "landmarks3d" in faces.columns
        return frozenset(PARTS) - ({"points"} if finer else set())
    wanted = [parts] if isinstance(parts, str) else list(parts)
    for part in wanted:
        if part not in PARTS:
            raise OptionError.unknown("there is no such part to draw", part, PARTS)
    return frozenset(wanted)


def _rgb(colour: Colour) -> tuple[int, int, int]:
    if isinstance(colour, str):
        try:
            red, green, blue = ImageColor.getrgb(colour)[:3]
        except ValueError as error:
            raise OptionError(
                "this is no colour", got=colour, expected="#rrggbb, a name of CSS, or (r, g, b)"
            ) from error
        return red, green, blue
    numbers: tuple[object, ...] = tuple(colour)
    if len(numbers) != 3 or not all(isinstance(n, int | np.integer) and 0 <= n <= 255 for n in numbers):
        raise OptionError("this is no colour", got=colour, expected="#rrggbb, a name of CSS, or (r, g, b) of 0 to 255")
    return int(colour[0]), int(colour[1]), int(colour[2])


def _scaled(image: Image, scale: float) -> Image:
    """A copy of the picture, enlarged."""
    import cv2

    if not (math.isfinite(scale) and scale > 0):
        raise OptionError("scale must be a positive number", got=scale)
    if scale == 1:
        return image.copy()
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageTooLarge(
            "the enlarged picture has too many pixels", got=f"{size[0]} x {size[1]}", hint="make scale= smaller"
        )
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=kind), np.uint8)


def _cell(image: Image, size: int, cover: bool, ground: tuple[int, int, int]) -> Image:
    """The picture at a long side of `size` pixels (a square of it with `cover`), with rounded corners."""
    import cv2

    height, width = image.shape[:2]
    if cover:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
        height = width = side
    factor = size / max(height, width)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    cell = np.asarray(cv2.resize(image, new, interpolation=kind), np.uint8)
    ink = _Ink(cell.shape, (0, 0, new[0], new[1]), max(1.5, size / 200))
    ink.fill(_rounded((0, 0, new[0], new[1]), size / 22))
    _blend(cell, ground, 255 - ink.mask("white"))
    return cell


def _sheet_too_large(got: str) -> ImageTooLarge:
    return ImageTooLarge(
        "the sheet has too many pixels",
        got=got,
        expected=f"at most {MAX_PIXELS / 1e6:.4g} megapixels",
        hint="make size= smaller, or several sheets",
    )
