"""Warps: from photos to aligned crops and back, by OpenCV for pictures and by torch where gradients flow.

Matrices (n, 2, 3) take points of the photo to points of the crop (see `similarity`). Both implementations
shrink in the same two steps: a photo that becomes more than twice smaller is first averaged over whole
blocks of pixels, then sampled bilinearly; without the first step fine texture would turn into noise
(aliasing).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import DtypeError, ShapeError, ValueRangeError
from mien.geometry.checks import Double, Floats, choice, doubles, floats
from mien.geometry.similarity import apply, compose, invert, scale_of

if TYPE_CHECKING:
    import torch

BORDERS = ("constant", "replicate")
"""What lies outside the photo: one value (`fill`), or its edge pixels repeated."""


def warp_images(
    image: NDArray[Any],
    matrices: ArrayLike,
    size: int | tuple[int, int],
    *,
    border: str = "constant",
    fill: float = 0,
    antialias: bool = True,
) -> NDArray[Any]:
    """Crops of one photo, one for each matrix.

    Parameters
    ----------
    image : (H, W) or (H, W, C), uint8 or float32
        The photo, C at most 4.
    matrices : (n, 2, 3)
        From photo to crop.
    size
        Side of the crops in pixels, or (height, width).
    border, fill
        What lies outside the photo: ``"constant"`` (`fill`) or ``"replicate"``.
    antialias
        Average before sampling where a crop is more than twice smaller than its part of the photo.

    Returns
    -------
    (n, height, width[, C]) of the image's dtype; n may be 0.

    Raises
    ------
    ShapeError, DtypeError, ValueRangeError, OptionError
        Wrong arrays, a size below 1, an unknown border.
    """
    picture = _picture("image", image)
    m = doubles("matrices", matrices, "n 2 3")
    height, width = _size(size)
    choice("border", border, BORDERS)
    crops = np.empty((len(m), height, width, *picture.shape[2:]), picture.dtype)
    cuts = _cuts(m, (height, width), picture.shape[:2], antialias=antialias)
    for crop, cut in zip(crops, cuts, strict=True):
        crop[...] = cut.warp(picture, border=border, fill=fill).reshape(crop.shape)
    return crops


def paste_back(
    image: NDArray[Any],
    crops: NDArray[Any],
    matrices: ArrayLike,
    *,
    masks: ArrayLike | None = None,
    feather: float = 0.05,
) -> NDArray[Any]:
    """A copy of the photo with the crops laid back where they came from; later crops lie over earlier ones.

    Parameters
    ----------
    image : (H, W) or (H, W, C), uint8 or float32
    crops : (n, h, w[, C]) of the same dtype
        What `warp_images` gave, changed in whatever way.
    matrices : (n, 2, 3)
        The same matrices that cut the crops.
    masks : (n, h, w), optional
        How much of the crop is seen at each of its pixels, 0 to 1; by default 1 everywhere but for `feather`.
    feather
        Width of the soft rim, as a part of the crop's shorter side: the mask falls to 0 at the crop's edge.

    Returns
    -------
    The new photo, same shape and dtype.
    """
    picture = _picture("image", image)
    crops = np.asarray(crops)
    m = doubles("matrices", matrices, "n 2 3")
    if crops.ndim != picture.ndim + 1 or crops.shape[3:] != picture.shape[2:] or len(crops) != len(m):
        raise ShapeError(
            "crops do not fit the image and the matrices",
            got=f"crops {crops.shape}, image {picture.shape}, matrices {m.shape}",
            expected="(n, h, w) of a grey image or (n, h, w, C), n matrices",
        )
    if crops.dtype != picture.dtype:
        raise DtypeError("crops and image differ in kind", got=crops.dtype, expected=picture.dtype)
    h, w = crops.shape[1:3]
    rim = _rim(h, w, feather)
    shown = np.broadcast_to(rim, crops.shape[:3])
    if masks is not None:
        given = floats("masks", masks, "n h w")
        if given.shape != crops.shape[:3]:
            raise ShapeError("masks do not fit the crops", got=given.shape, expected=crops.shape[:3])
        if given.size and (given.min() < 0 or given.max() > 1):
            raise ValueRangeError(
                "masks are out of range", got=f"{given.min():g} to {given.max():g}", expected="0 to 1"
            )
        shown = given.astype(np.float32) * rim
    out = picture.copy()
    back = invert(m)
    windows = _windows(back, (h, w), out.shape[:2])
    local = compose(back, _shifts(-windows[:, :2]))
    for crop, mask, matrix, (x1, y1, x2, y2) in zip(crops, shown, local, windows.tolist(), strict=True):
        # The picture outside the crop is masked out; repeating its edge keeps the rim from darkening.
        (cut,) = _cuts(matrix[None], (y2 - y1, x2 - x1), (h, w), antialias=True)
        patch = cut.warp(np.ascontiguousarray(crop), border="replicate", fill=0)
        alpha = cut.warp(np.ascontiguousarray(mask, np.float32), border="constant", fill=0)
        part = out[y1:y2, x1:x2]
        weight = alpha.reshape(alpha.shape + (1,) * (part.ndim - 2))
        mixed = part + weight * (patch.reshape(part.shape).astype(np.float32) - part)
        part[...] = np.rint(mixed) if part.dtype == np.uint8 else mixed
    return out


def warp_tensor(
    images: torch.Tensor,
    matrices: torch.Tensor,
    size: int | tuple[int, int],
    *,
    border: str = "constant",
    fill: float = 0,
    antialias: bool = True,
) -> torch.Tensor:
    """Crops of a batch of photos, one for each photo, differentiable in the pixels and in the matrices.

    Equal to `warp_images` up to rounding: OpenCV keeps uint8 and steps of 1/32 pixel, torch does not.

    Parameters
    ----------
    images : (B, C, H, W), floating
    matrices : (B, 2, 3)
        From photo to crop.
    size
        Side of the crops in pixels, or (height, width).
    border, fill, antialias
        As in `warp_images`.

    Returns
    -------
    (B, C, height, width) of the images' dtype, on their device.
    """
    import torch
    from torch.nn import functional as F

    if images.ndim != 4 or matrices.shape != (len(images), 2, 3):
        raise ShapeError(
            "images and matrices do not fit together",
            got=f"images {tuple(images.shape)}, matrices {tuple(matrices.shape)}",
            expected="(B, C, H, W) and (B, 2, 3)",
        )
    if not images.is_floating_point():
        raise DtypeError("images must be floating", got=images.dtype, expected="float16, bfloat16, float32 or float64")
    choice("border", border, BORDERS)
    height, width = _size(size)
    precise = torch.promote_types(images.dtype, torch.float32)
    m = matrices.to(device=images.device, dtype=precise)
    if border == "constant":
        images = images - fill
    factors = _blocks(m.detach().cpu().numpy()) if antialias else np.ones(len(images), np.intp)
    u = torch.arange(width, device=images.device, dtype=precise)
    v = torch.arange(height, device=images.device, dtype=precise)
    crop_points = torch.stack([u.expand(height, width), v[:, None].expand(height, width)], dim=-1)
    # `inv` on the 2 x 2 part would call LAPACK for each face; the adjugate is differentiable and runs
    # anywhere.
    a, b, c, d = m[:, 0, 0], m[:, 0, 1], m[:, 1, 0], m[:, 1, 1]
    det = a * d - b * c
    if bool((det.abs() <= 1e-12 * (a * a + b * b + c * c + d * d)).any()):
        raise ValueRangeError("a matrix has no inverse", got="determinant 0", expected="a transform with scale above 0")
    inverse = torch.stack([d, -b, -c, a], dim=-1).reshape(-1, 2, 2) / det[:, None, None]
    source = (crop_points - m[:, None, None, :, 2]) @ inverse.transpose(-1, -2)[:, None]
    crops = images.new_zeros(len(images), images.shape[1], height, width)
    for factor in np.unique(factors).tolist():
        rows = torch.as_tensor(np.flatnonzero(factors == factor), device=images.device)
        photos, at = images[rows], source[rows]
        if factor > 1:
            right, below = -photos.shape[3] % factor, -photos.shape[2] % factor
            photos = F.avg_pool2d(F.pad(photos, (0, right, 0, below), mode="replicate"), factor)
            at = (at + 0.5) / factor - 0.5
        extent = torch.tensor([photos.shape[3], photos.shape[2]], device=images.device, dtype=precise)
        grid = (2 * at + 1) / extent - 1
        padding = "zeros" if border == "constant" else "border"
        part = F.grid_sample(photos.to(precise), grid, mode="bilinear", padding_mode=padding, align_corners=False)
        crops = crops.index_copy(0, rows, part.to(images.dtype))
    return crops + fill if border == "constant" else crops


@dataclass(frozen=True, slots=True)
class _Cut:
    """How one crop is cut: the part of the photo it sees, how far that is averaged, and the warp of what
    remains.

    Cutting the part out first bounds the work by the face's size, not the photo's, and keeps OpenCV's 16-bit
    coordinates safe in photos wider than 32,767 pixels.
    """

    window: tuple[int, int, int, int]
    block: int
    matrix: Double
    size: tuple[int, int]

    def warp(self, image: NDArray[Any], *, border: str, fill: float) -> NDArray[Any]:
        """The crop (height, width[, C]) of `image`; OpenCV drops a channel axis of length 1."""
        import cv2

        x1, y1, x2, y2 = self.window
        part = image[y1:y2, x1:x2]
        if self.block > 1:
            right, below = -part.shape[1] % self.block, -part.shape[0] % self.block
            if right or below:
                part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
            small = (part.shape[1] // self.block, part.shape[0] // self.block)
            part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        mode = cv2.BORDER_CONSTANT if border == "constant" else cv2.BORDER_REPLICATE
        size = (self.size[1], self.size[0])
        warped: NDArray[Any] = cv2.warpAffine(
            part, self.matrix, size, flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=(fill,) * 4
        )
        return warped


def _cuts(matrices: Double, size: tuple[int, int], photo: tuple[int, int], *, antialias: bool) -> list[_Cut]:
    """Plan the crops of `size` from a photo of size `photo`, both (height, width), all crops at once."""
    blocks = _blocks(matrices) if antialias else np.ones(len(matrices), np.intp)
    windows = _windows(invert(matrices), size, photo, step=blocks)
    # From the averaged part to the crop: pixel i of the part is the middle of pixels i * block to (i + 1) *
    # block.
    enlarge = _shifts(windows[:, :2] + (blocks[:, None] - 1) / 2)
    enlarge[:, :, :2] *= blocks[:, None, None]
    local = compose(enlarge, matrices)
    rows = zip(windows.tolist(), blocks.tolist(), local, strict=True)
    return [_Cut(tuple(window), block, matrix, size) for window, block, matrix in rows]


def _windows(
    back: Floats, size: tuple[int, int], photo: tuple[int, int], *, step: NDArray[np.intp] | int = 1
) -> NDArray[np.intp]:
    """The pixels x1, y1, x2, y2 (n, 4) of the photo that crops of `size` see, `back` being crop to photo.

    Two blocks of `step` pixels more on every side for the interpolation, whole blocks counted from the
    photo's corner so that averages do not depend on the window, and never empty: a crop that lies beside
    the photo still needs its nearest pixel for ``border="replicate"``.
    """
    height, width = size
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    reach = apply(back, corners)
    limit = np.array([photo[1], photo[0]])
    step = np.reshape(step, (-1, 1))
    start = np.clip(np.floor(reach.min(1)) - 2 * step, 0, limit - 1).astype(np.intp) // step * step
    stop = np.clip(np.ceil(reach.max(1)) + 2 * step + 1, start + 1, limit).astype(np.intp)
    stop = np.minimum(-(-stop // step) * step, limit)
    return np.concatenate([start, stop], axis=1)


def _shifts(by: NDArray[Any]) -> Double:
    """Matrices (n, 2, 3) that shift by (n, 2) pixels."""
    shifts = np.tile(np.eye(2, 3), (len(by), 1, 1))
    shifts[:, :, 2] = by
    return shifts


def _blocks(matrices: NDArray[Any]) -> NDArray[np.intp]:
    """The side in pixels of the blocks to average before sampling: 1 while less than twice smaller."""
    scale = np.maximum(scale_of(matrices), 1e-6)
    # A scale of exactly one half must not fall on either side by rounding.
    return np.floor(1 / scale + 1e-3).astype(np.intp).clip(1, 4096)


def _rim(height: int, width: int, feather: float) -> NDArray[np.float32]:
    """(height, width) mask, 1 in the middle, falling smoothly to 0 within `feather` of the edges."""
    if feather < 0 or feather > 0.5:
        raise ValueRangeError("feather is out of range", got=feather, expected="0 to 0.5 of the crop's shorter side")
    reach = feather * min(height, width)
    sides = []
    for length in (height, width):
        at = np.arange(length)
        from_edge = np.minimum(at, length - 1 - at) + 0.5
        ramp = np.clip(from_edge / reach, 0, 1) if reach > 0 else np.ones(length)
        sides.append(ramp * ramp * (3 - 2 * ramp))
    return np.asarray(np.outer(*sides), np.float32)


def _picture(name: str, image: NDArray[Any]) -> NDArray[Any]:
    picture = np.asarray(image)
    if picture.ndim not in (2, 3) or 0 in picture.shape or (picture.ndim == 3 and picture.shape[2] > 4):
        raise ShapeError(f"{name} is not a picture", got=picture.shape, expected="(H, W) or (H, W, C), C at most 4")
    if picture.dtype not in (np.uint8, np.float32):
        raise DtypeError(f"{name} has the wrong kind", got=picture.dtype, expected="uint8 or float32")
    return picture


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if height < 1 or width < 1 or max(height, width) > 32767:
        raise ValueRangeError("the size of a crop is out of range", got=size, expected="1 to 32767 pixels")
    return int(height), int(width)
