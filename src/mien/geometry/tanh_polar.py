"""Warps of a whole picture around one box: the box large, everything else squeezed to the rim and never cut off.

    polar = warp_polar(images, boxes, 513)              (B, C, 513, 513): rows are angles, columns are radii
    back = restore_polar(polar, boxes, images.shape[2:])
    plane = polar_to_tanh(polar, boxes, 513)             the same content with axes x and y, each bent by tanh

After Lin et al., RoI Tanh-polar Transformer Network for Face Parsing in the Wild (2021). Let c be the middle of a box
of w x h pixels, and r_x = w / sqrt(pi), r_y = h / sqrt(pi): the ellipse of these radii has the box's area.

polar       column j of W is the radius atanh(j / W), row i of H the angle 2 pi i / H, from the right over below to the
            left, in units of the ellipse. The box fills three quarters of it (0.757 where it is square), the rest of
            the plane, however far, the last quarter. Turning the picture about c rolls the rows.
tanh        column j of W is c_x + (w / 2) atanh(-1 + (2 j + 1) / W), rows alike: upright, the box fills 0.58.
crop        the box, enlarged by `margin`, and nothing else: what both are compared with.

All grids are made for a batch at once, and are differentiable in pixels and boxes. Sampling is bilinear, or nearest for
labels, with zeros outside of the source. Boxes are x1, y1, x2, y2 in coordinates of pixel centres, as everywhere in
this package; angles are in degrees. Importing this needs numpy only; torch and OpenCV are imported when called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import DtypeError, ShapeError, ValueRangeError
from mien.geometry.checks import choice, floats

if TYPE_CHECKING:
    import torch

Kind = Literal["polar", "tanh", "crop"]
KINDS: tuple[Kind, ...] = ("polar", "tanh", "crop")
MODES = ("bilinear", "nearest")
Size = int | tuple[int, int]


# ------------------------------------------------------------------------------------------- where things lie


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if height < 1 or width < 1:
        raise ValueRangeError("the size of a map is out of range", got=size, expected="at least 1 pixel")
    return int(height), int(width)


def _boxes(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Middles and sizes (B, 1, 1, 2), float32 or wider."""
    import torch

    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError("boxes have the wrong shape", got=tuple(boxes.shape), expected="(B, 4)")
    if not boxes.is_floating_point():
        boxes = boxes.float()
    given = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    first, last = given[:, None, None, :2], given[:, None, None, 2:]
    return (first + last) / 2, last - first


def _turned(offsets: torch.Tensor, turn: torch.Tensor | None) -> torch.Tensor:
    """Offsets (B, H, W, 2) turned by (B,) degrees, from x towards y."""
    import torch

    if turn is None:
        return offsets
    a = torch.deg2rad(turn.to(offsets))[:, None, None]
    x, y = offsets.unbind(-1)
    return torch.stack([a.cos() * x - a.sin() * y, a.sin() * x + a.cos() * y], -1)


def _polar_offsets(extent: torch.Tensor, size: tuple[int, int], *, keep_aspect: bool) -> torch.Tensor:
    """Offsets (B, H, W, 2) of the pixels of a polar map from the middle, of boxes of `extent` (B, 1, 1, 2)."""
    import torch

    height, width = size
    # Integers first: steps of 1 / W would give one sample too many for some W, and atanh(1) is infinite.
    radius = torch.atanh(torch.arange(width, device=extent.device).to(extent.dtype) / width)
    theta = torch.arange(height, device=extent.device).to(extent.dtype) * (2 * math.pi / height)
    way = torch.stack([theta.cos(), theta.sin()], -1)[None, :, None]
    axes = extent / math.sqrt(math.pi)
    if keep_aspect:
        # The ellipse's radius in that direction, r_x r_y / sqrt((r_y cos)^2 + (r_x sin)^2).
        across = (way * axes.flip(-1)).square().sum(-1, keepdim=True).sqrt()
        unit = way * (axes.prod(-1, keepdim=True) / across)
    else:
        unit = way * axes
    return unit * radius[None, None, :, None]


def _polar_places(
    offsets: torch.Tensor, extent: torch.Tensor, size: tuple[int, int], *, keep_aspect: bool
) -> torch.Tensor:
    """Where offsets (B, h, w, 2) lie in a polar map of `size` that was padded by `pad_polar`, pixels x, y."""
    import torch

    height, width = size
    units = offsets * (math.sqrt(math.pi) / extent)
    # In both versions the radius is the same: |(dx / r_x, dy / r_y)|. Roots and angles have no slope at nothing.
    squared = units.square().sum(-1)
    radius = torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt() * (squared > 0)
    seen = offsets if keep_aspect else units
    x = torch.where(squared > 0, seen[..., 0], torch.ones_like(squared))
    theta = torch.remainder(torch.atan2(seen[..., 1], x), 2 * math.pi)
    return torch.stack([1 + torch.tanh(radius) * width, 1 + theta * (height / (2 * math.pi))], -1)


def _tanh_offsets(extent: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch

    def axis(count: int) -> torch.Tensor:
        return torch.atanh((2 * torch.arange(count, device=extent.device).to(extent.dtype) + (1 - count)) / count)

    y, x = torch.meshgrid(axis(size[0]), axis(size[1]), indexing="ij")
    return torch.stack([x, y], -1)[None] * (extent / 2)


def _tanh_places(offsets: torch.Tensor, extent: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch

    wide = torch.tensor([size[1], size[0]], device=offsets.device, dtype=offsets.dtype)
    return (torch.tanh(offsets / (extent / 2)) + 1) * (wide / 2) - 0.5


def _crop_offsets(extent: torch.Tensor, size: tuple[int, int], margin: float) -> torch.Tensor:
    import torch

    def axis(count: int) -> torch.Tensor:
        return (2 * torch.arange(count, device=extent.device).to(extent.dtype) + (1 - count)) / (2 * count)

    y, x = torch.meshgrid(axis(size[0]), axis(size[1]), indexing="ij")
    return torch.stack([x, y], -1)[None] * (extent * margin)


def _crop_places(offsets: torch.Tensor, extent: torch.Tensor, size: tuple[int, int], margin: float) -> torch.Tensor:
    import torch

    wide = torch.tensor([size[1], size[0]], device=offsets.device, dtype=offsets.dtype)
    return (offsets / (extent * margin) + 0.5) * wide - 0.5


def _picture_offsets(middle: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Offsets (B, h, w, 2) of all pixels of a picture from the middles."""
    import torch

    y = torch.arange(size[0], device=middle.device).to(middle.dtype)
    x = torch.arange(size[1], device=middle.device).to(middle.dtype)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], -1)[None] - middle


def sample(images: torch.Tensor, points: torch.Tensor, *, mode: str = "bilinear") -> torch.Tensor:
    """Values of images (B, C, H, W) at points (B, h, w, 2), x and y in pixels: (B, C, h, w); zeros outside.

    Raises
    ------
    DtypeError
        The images are not floating.
    OptionError
        The mode is neither "bilinear" nor "nearest".
    """
    import torch
    from torch.nn import functional as F

    choice("mode", mode, MODES)
    if not images.is_floating_point():
        raise DtypeError("images must be floating", got=images.dtype, expected="float16, bfloat16, float32 or float64")
    height, width = images.shape[2:]
    # From the first pixel's centre to the last one's, as in the released code: at exact halves "nearest" depends on it.
    last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=points.device, dtype=points.dtype)
    grid = points / last * 2 - 1
    wide = torch.promote_types(images.dtype, grid.dtype)
    found = F.grid_sample(images.to(wide), grid.to(wide), mode=mode, padding_mode="zeros", align_corners=True)
    return found.to(images.dtype)


def pad_polar(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, H + 2, W + 1): one row around the circle at either end, radius 0 once more at the left.

    Without these, interpolation between the last angle and the first, and about the middle, would leave a seam.
    """
    import torch

    around = torch.cat([maps[:, :, -1:], maps, maps[:, :, :1]], 2)
    return torch.cat([around[..., :1], around], 3)


# ------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True)
class Frame:
    """How a picture is brought before a network, and the answer back: one of `KINDS`, of `size`.

    Parameters
    ----------
    kind
        "polar", "tanh" or "crop"; see the module.
    size
        Side of the map in pixels, or (height, width): (angles, radii) of a polar one.
    keep_aspect
        Of "polar": whether angles are those of the picture, as in the paper, or those after box and ellipse have been
        squeezed to a square and a circle.
    margin
        Of "crop": how many times the box's sides are cut out.
    """

    kind: Kind = "polar"
    size: Size = 513
    keep_aspect: bool = True
    margin: float = 1.0

    def __post_init__(self) -> None:
        choice("kind of frame", self.kind, KINDS)
        _pair(self.size)
        if not self.margin > 0:
            raise ValueRangeError("the margin of a crop is out of range", got=self.margin, expected="above 0")

    def points(self, boxes: torch.Tensor, turn: torch.Tensor | None = None) -> torch.Tensor:
        """(B, H, W, 2) pixels x, y of the picture that the pixels of the map show, of boxes (B, 4).

        With `turn` (B,) degrees the offsets from the middle are turned, from x towards y. For a square box a polar map
        of H rows is so rolled by ``-turn / 360 * H`` rows.
        """
        middle, extent = _boxes(boxes)
        size = _pair(self.size)
        if self.kind == "polar":
            offsets = _polar_offsets(extent, size, keep_aspect=self.keep_aspect)
        elif self.kind == "tanh":
            offsets = _tanh_offsets(extent, size)
        else:
            offsets = _crop_offsets(extent, size, self.margin)
        return middle + _turned(offsets, turn)

    def places(self, boxes: torch.Tensor, shape: tuple[int, int], turn: torch.Tensor | None = None) -> torch.Tensor:
        """(B, h, w, 2) pixels x, y of the map where all pixels of a picture of `shape` (h, w) lie: undoes `points`.

        Of a polar map, pixels after `pad_polar`.
        """
        middle, extent = _boxes(boxes)
        size = _pair(self.size)
        offsets = _turned(_picture_offsets(middle, shape), None if turn is None else -turn)
        if self.kind == "polar":
            return _polar_places(offsets, extent, size, keep_aspect=self.keep_aspect)
        if self.kind == "tanh":
            return _tanh_places(offsets, extent, size)
        return _crop_places(offsets, extent, size, self.margin)

    def warp(
        self, images: torch.Tensor, boxes: torch.Tensor, *, turn: torch.Tensor | None = None, mode: str = "bilinear"
    ) -> torch.Tensor:
        """Maps (B, C, H, W) of pictures (B, C, h, w), one box (B, 4) each."""
        _fit(images, boxes)
        return sample(images, self.points(boxes.to(images.device), turn), mode=mode)

    def restore(
        self,
        maps: torch.Tensor,
        boxes: torch.Tensor,
        shape: tuple[int, int],
        *,
        turn: torch.Tensor | None = None,
        mode: str = "bilinear",
    ) -> torch.Tensor:
        """Pictures (B, C, h, w) of `shape` (h, w) from maps (B, C, H, W): undoes `warp`; zeros where nothing is known.

        Raises
        ------
        ShapeError
            The maps are not of this frame's size, or there is not one box for each.
        """
        _fit(maps, boxes)
        if tuple(maps.shape[2:]) != _pair(self.size):
            raise ShapeError("the maps are not of this frame", got=tuple(maps.shape), expected=_pair(self.size))
        places = self.places(boxes.to(maps.device), (int(shape[0]), int(shape[1])), turn)
        return sample(pad_polar(maps) if self.kind == "polar" else maps, places, mode=mode)

    def probabilities(
        self,
        maps: torch.Tensor,
        boxes: torch.Tensor,
        shape: tuple[int, int],
        *,
        background: int = 0,
        turn: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `restore`, for probabilities of classes (B, K, H, W): where nothing is known is `background` for certain.

        Labels that are restored themselves get ragged borders; probabilities are interpolated, and argmax comes last.
        """
        return background_kept(
            maps, lambda flipped: self.restore(flipped, boxes, shape, turn=turn), background=background
        )

    def images(
        self, image: NDArray[Any], boxes: ArrayLike, *, turn: ArrayLike | None = None, mode: str = "bilinear"
    ) -> NDArray[Any]:
        """`warp` of one picture by OpenCV, for 8-bit pixels and processes that feed a training.

        Parameters
        ----------
        image
            (h, w) or (h, w, C) uint8 or float32, sides below 32,768.
        boxes
            (n, 4).
        turn
            (n,) degrees.
        mode
            "bilinear" (in steps of 1/32 pixel, so that bytes differ from `warp` by up to 4), or "nearest".

        Returns
        -------
        (n, H, W[, C]) of the image's dtype.
        """
        import cv2
        import torch

        picture = np.asarray(image)
        if picture.ndim not in (2, 3) or picture.dtype not in (np.uint8, np.float32):
            raise ShapeError(
                "this is no picture", got=f"{picture.shape} {picture.dtype}",
                expected="(h, w) or (h, w, C), uint8 or float32",
            )  # fmt: skip
        if max(picture.shape[:2]) > 32767:
            raise ValueRangeError("OpenCV cannot sample so large a picture", got=picture.shape, hint="crop it first")
        choice("mode", mode, MODES)
        given = torch.from_numpy(floats("boxes", boxes, "n 4").astype(np.float64))
        turns = None if turn is None else torch.from_numpy(floats("turn", turn, "n").astype(np.float64))
        points = self.points(given, turns).numpy().astype(np.float32)
        out = np.empty((len(points), *points.shape[1:3], *picture.shape[2:]), picture.dtype)
        kind = cv2.INTER_LINEAR if mode == "bilinear" else cv2.INTER_NEAREST
        for row, at in zip(out, points, strict=True):
            found = cv2.remap(picture, at[..., 0], at[..., 1], kind, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
            row[...] = found.reshape(row.shape)
        return out


def background_kept(maps: torch.Tensor, restore: Any, *, background: int = 0) -> torch.Tensor:
    """`restore` of probabilities (B, K, H, W) whose zeros for the unknown become one for the class `background`."""
    import torch

    sign = torch.ones(maps.shape[1], device=maps.device, dtype=maps.dtype)
    sign[background] = -1
    shift = (1 - sign[:, None, None]) / 2
    flipped: torch.Tensor = restore(shift + sign[:, None, None] * maps)
    return shift + sign[:, None, None] * flipped


def _fit(maps: torch.Tensor, boxes: torch.Tensor) -> None:
    if maps.ndim != 4 or boxes.ndim != 2 or boxes.shape[1] != 4 or maps.shape[0] != boxes.shape[0]:
        raise ShapeError(
            "pictures and boxes do not fit together",
            got=f"pictures {tuple(maps.shape)}, boxes {tuple(boxes.shape)}",
            expected="(B, C, H, W) and (B, 4)",
        )


# ------------------------------------------------------------------------------------------- by name


def warp_polar(
    images: torch.Tensor,
    boxes: torch.Tensor,
    size: Size,
    *,
    keep_aspect: bool = True,
    turn: torch.Tensor | None = None,
    mode: str = "bilinear",
) -> torch.Tensor:
    """Tanh-polar maps (B, C, H, W) of pictures (B, C, h, w) around boxes (B, 4); see `Frame.warp`."""
    return Frame("polar", size, keep_aspect).warp(images, boxes, turn=turn, mode=mode)


def restore_polar(
    maps: torch.Tensor,
    boxes: torch.Tensor,
    shape: tuple[int, int],
    *,
    keep_aspect: bool = True,
    turn: torch.Tensor | None = None,
    mode: str = "bilinear",
) -> torch.Tensor:
    """Pictures (B, C, h, w) of tanh-polar maps (B, C, H, W); see `Frame.restore`."""
    size = (int(maps.shape[2]), int(maps.shape[3]))
    return Frame("polar", size, keep_aspect).restore(maps, boxes, shape, turn=turn, mode=mode)


def warp_tanh(images: torch.Tensor, boxes: torch.Tensor, size: Size, *, mode: str = "bilinear") -> torch.Tensor:
    """Tanh-Cartesian maps (B, C, H, W) of pictures (B, C, h, w) around boxes (B, 4)."""
    return Frame("tanh", size).warp(images, boxes, mode=mode)


def restore_tanh(
    maps: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], *, mode: str = "bilinear"
) -> torch.Tensor:
    """Pictures (B, C, h, w) of tanh-Cartesian maps (B, C, H, W)."""
    return Frame("tanh", (int(maps.shape[2]), int(maps.shape[3]))).restore(maps, boxes, shape, mode=mode)


def conversion_points(
    boxes: torch.Tensor, polar: Size, plane: Size, *, keep_aspect: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where `polar_to_tanh` samples, (B, h, w, 2) in the padded polar map, and `tanh_to_polar`, (B, H, W, 2).

    They depend on the boxes' ratio of width to height alone: place and scale cancel. A network that converts in many
    layers makes them once a forward pass.
    """
    import torch

    _, extent = _boxes(boxes)
    extent = extent / extent[..., 1:]
    round_size, flat_size = _pair(polar), _pair(plane)
    to_plane = _polar_places(_tanh_offsets(extent, flat_size), extent, round_size, keep_aspect=keep_aspect)
    to_polar = _tanh_places(_polar_offsets(extent, round_size, keep_aspect=keep_aspect), extent, flat_size)
    return torch.as_tensor(to_plane), torch.as_tensor(to_polar)


def polar_to_tanh(
    maps: torch.Tensor, boxes: torch.Tensor, size: Size | None = None, *, keep_aspect: bool = True
) -> torch.Tensor:
    """Tanh-Cartesian maps (B, C, h, w) of tanh-polar ones (B, C, H, W), without going through the picture.

    `size` defaults to that of `maps`.
    """
    _fit(maps, boxes)
    own = (int(maps.shape[2]), int(maps.shape[3]))
    points, _ = conversion_points(boxes.to(maps.device), own, own if size is None else size, keep_aspect=keep_aspect)
    return sample(pad_polar(maps), points)


def tanh_to_polar(
    maps: torch.Tensor, boxes: torch.Tensor, size: Size | None = None, *, keep_aspect: bool = True
) -> torch.Tensor:
    """Tanh-polar maps (B, C, H, W) of tanh-Cartesian ones (B, C, h, w); zeros outside of these.

    `size` defaults to that of `maps`.
    """
    _fit(maps, boxes)
    own = (int(maps.shape[2]), int(maps.shape[3]))
    _, points = conversion_points(boxes.to(maps.device), own if size is None else size, own, keep_aspect=keep_aspect)
    return sample(maps, points)
