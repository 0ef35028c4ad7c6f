"""Warps: from photos to aligned crops and back, by OpenCV for pictures and by torch where gradients flow.

Matrices (n, 2, 3) take points of the photo to points of the crop (see `similarity`). Both implementations
shrink in the same two steps: a photo that becomes more than twice smaller is first averaged over whole
blocks of pixels, then sampled bilinearly; without the first step fine texture would turn into noise
(aliasing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.errors import DtypeError, ShapeError, ValueRangeError
from mien.geometry.checks import Floats, choice, floats
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
    m = floats("matrices", matrices, "n 2 3").astype(np.float64)
    height, width = _size(size)
    choice("border", border, BORDERS)
    crops = np.empty((len(m), height, width, *picture.shape[2:]), picture.dtype)
    for crop, matrix in zip(crops, m, strict=True):
        _warp_into(crop, picture, matrix, border=border, fill=fill, antialias=antialias)
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
    m = floats("matrices", matrices, "n 2 3").astype(np.float64)
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
    for crop, mask, matrix in zip(crops, shown, m, strict=True):
        back = invert(matrix)
        x1, y1, x2, y2 = _window(back, h, w, out.shape[0], out.shape[1])
        if x2 <= x1 or y2 <= y1:
            continue
        local = compose(back, [[1, 0, -x1], [0, 1, -y1]])
        patch = np.empty((y2 - y1, x2 - x1, *crop.shape[2:]), crop.dtype)
        alpha = np.empty((y2 - y1, x2 - x1), np.float32)
        # The picture outside the crop is masked out; repeating its edge keeps the rim from darkening.
        _warp_into(patch, np.ascontiguousarray(crop), local, border="replicate", fill=0, antialias=True)
        _warp_into(
            alpha, np.ascontiguousarray(mask, np.float32), local, border="constant", fill=0, antialias=True
        )
        part = out[y1:y2, x1:x2]
        weight = alpha.reshape(alpha.shape + (1,) * (part.ndim - 2))
        mixed = part + weight * (patch.astype(np.float32) - part)
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
        raise DtypeError(
            "images must be floating", got=images.dtype, expected="float16, bfloat16, float32 or float64"
        )
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
        raise ValueRangeError(
            "a matrix has no inverse", got="determinant 0", expected="a transform with scale above 0"
        )
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
        part = F.grid_sample(
            photos.to(precise), grid, mode="bilinear", padding_mode=padding, align_corners=False
        )
        crops = crops.index_copy(0, rows, part.to(images.dtype))
    return crops + fill if border == "constant" else crops


def _warp_into(
    crop: NDArray[Any], image: NDArray[Any], matrix: Floats, *, border: str, fill: float, antialias: bool
) -> None:
    """Fill `crop` (h, w[, C]) with its part of `image`; only the part of the photo that is seen is touched.

    The crop of the photo first bounds the work by the face's size, not the photo's, and keeps OpenCV's 16-bit
    coordinates safe in photos wider than 32,767 pixels.
    """
    import cv2

    height, width = crop.shape[:2]
    factor = int(_blocks(matrix[None])[0]) if antialias else 1
    x1, y1, x2, y2 = _window(invert(matrix), height, width, image.shape[0], image.shape[1], step=factor)
    part = image[y1:y2, x1:x2]
    matrix = compose([[1, 0, x1], [0, 1, y1]], matrix)
    if factor > 1:
        right, below = -part.shape[1] % factor, -part.shape[0] % factor
        if right or below:
            part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
        small = (part.shape[1] // factor, part.shape[0] // factor)
        part = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        matrix = compose([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]], matrix)
    mode = cv2.BORDER_CONSTANT if border == "constant" else cv2.BORDER_REPLICATE
    warped = cv2.warpAffine(
        part, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=(fill,) * 4
    )
    crop[...] = warped.reshape(crop.shape)


def _window(
    back: Floats, height: int, width: int, image_height: int, image_width: int, *, step: int = 1
) -> tuple[int, int, int, int]:
    """The pixels x1, y1, x2, y2 of the photo that a crop of (height, width) sees, `back` being crop to photo.

    Two pixels more on every side for the interpolation, begun at a multiple of `step`, never empty: a crop
    that lies beside the photo still needs its nearest pixel for ``border="replicate"``.
    """
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], np.float64)
    reach = apply(back, corners)
    low = np.floor(reach.min(0)) - 2 * step
    high = np.ceil(reach.max(0)) + 2 * step + 1
    limit = np.array([image_width, image_height])
    start = np.clip(low, 0, limit - 1).astype(np.intp) // step * step
    stop = np.clip(high, start + 1, limit).astype(np.intp)
    # End on a whole block too, where the photo has it, so that averages do not depend on the window.
    stop = np.minimum(-(-stop // step) * step, limit)
    return int(start[0]), int(start[1]), int(stop[0]), int(stop[1])


def _blocks(matrices: NDArray[Any]) -> NDArray[np.intp]:
    """The side in pixels of the blocks to average before sampling: 1 while less than twice smaller."""
    scale = np.maximum(scale_of(matrices), 1e-6)
    # A scale of exactly one half must not fall on either side by rounding.
    return np.floor(1 / scale + 1e-3).astype(np.intp).clip(1, 4096)


def _rim(height: int, width: int, feather: float) -> NDArray[np.float32]:
    """(height, width) mask, 1 in the middle, falling smoothly to 0 within `feather` of the edges."""
    if feather < 0 or feather > 0.5:
        raise ValueRangeError(
            "feather is out of range", got=feather, expected="0 to 0.5 of the crop's shorter side"
        )
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
        raise ShapeError(
            f"{name} is not a picture", got=picture.shape, expected="(H, W) or (H, W, C), C at most 4"
        )
    if picture.dtype not in (np.uint8, np.float32):
        raise DtypeError(f"{name} has the wrong kind", got=picture.dtype, expected="uint8 or float32")
    return picture


def _size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    if height < 1 or width < 1 or max(height, width) > 32767:
        raise ValueRangeError("the size of a crop is out of range", got=size, expected="1 to 32767 pixels")
    return int(height), int(width)
