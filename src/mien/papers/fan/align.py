"""From picture and boxes to points, with the paper's crop: exactly, or to the pixel as the released code does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mien.errors import OptionError, ShapeError
from mien.geometry import warp_images
from mien.geometry.centre_scale import UNIT, centre_scale, crop_matrices, from_crop, official_crop, to_crop
from mien.geometry.checks import doubles
from mien.geometry.landmarks import FLIP68
from mien.nn.fan import FAN
from mien.nn.heatmaps import decode, flip_maps
from mien.papers.fan.network import Landmarker, guidance

__all__ = ["MODES", "Alignment", "Mode", "align", "guided"]

Mode = Literal["exact", "parity"]
MODES: tuple[Mode, ...] = get_args(Mode)

BATCH = 16


@dataclass(frozen=True, eq=False)
class Alignment:
    """Points of `n` faces.

    Parameters
    ----------
    points : (n, 68, 2 or 3) float64
        Pixels of the picture. "exact": the middle of the first pixel is 0, depth is smaller where it is nearer.
        "parity": whole pixels and the depth's sign of the released code.
    scores : (n, 68)
        Value of each heatmap at its highest cell; up to 2 with the mirrored crop.
    """

    points: NDArray[np.float64]
    scores: NDArray[np.float32]


def align(network: Landmarker, image: NDArray[np.uint8], boxes: ArrayLike, *, mode: Mode = "exact",
          size: int = 256) -> Alignment:  # fmt: skip
    """Points of the faces of one picture.

    Parameters
    ----------
    network
        In eval mode.
    image : (H, W, 3) uint8, RGB
    boxes : (n, 4)
        Tight boxes xyxy, pixels from the picture's edge: about the brows to the chin. Wider ones cost accuracy.
    mode
        "exact": a square mapped exactly onto the crop, averaged where it becomes smaller, and points to fractions of a
        pixel. "parity": crop, decoding and whole pixels of the released code.
    size
        Side of the crop in pixels.

    Raises
    ------
    OptionError, ShapeError, ValueRangeError
        Unknown mode, or what is no picture or no box.
    """
    centre, scale = centre_scale(boxes)
    crops = _crops(image, centre, scale, mode, size)
    cells, scores, depths = [], [], []
    for x in _batches(crops, next(network.parameters()).device):
        with torch.inference_mode():
            found, score = network.cells(x)
            depths.append(network.depths(x, found).cpu() if network.depth is not None else None)
        cells.append(found.cpu())
        scores.append(score.cpu())
    points = _back(_joined(cells, (68, 2)), centre, scale, size / network.network.stride, mode)
    if network.depth is not None:
        raw = _joined([one for one in depths if one is not None], (68,))
        sign = network.towards if mode == "exact" else 1.0
        points = np.concatenate([points, (sign * raw * (UNIT * scale / size)[:, None])[..., None]], -1)
    return Alignment(points, _joined(scores, (68,)).astype(np.float32))


def guided(
    network: FAN, image: NDArray[np.uint8], points: ArrayLike, *, mode: Mode = "exact", mirror: bool = False,
    size: int = 256,
) -> Alignment:  # fmt: skip
    """Points of the heads (the 3D convention) of faces whose visible points are known: what 2D-to-3D-FAN is for.

    Parameters
    ----------
    network
        2D-to-3D-FAN, in eval mode.
    image : (H, W, 3) uint8, RGB
    points : (n, 68, 2)
        Visible points, pixels, the middle of the first is 0 ("parity": as the released code counts them). The crop is
        that of their box.
    mode, size
        As of `align`.
    mirror
        Whether the mirrored crop has a say.
    """
    given = doubles("points", points, "n 68 2")
    edge = given + (0.5 if mode == "exact" else 0.0)
    centre, scale = centre_scale(np.concatenate([edge.min(1), edge.max(1)], axis=1))
    crops = _crops(image, centre, scale, mode, size)
    placed = torch.from_numpy(to_crop(edge, centre, scale, size, whole=mode == "parity").astype(np.float32))
    device = next(network.parameters()).device
    order = torch.from_numpy(np.array(FLIP68, np.int64)).to(device)
    cells, scores = [], []
    for number, x in enumerate(_batches(crops, device)):
        some = placed[number * BATCH : number * BATCH + len(x)].to(device)
        seen = torch.cat([x, guidance(some, size, official=mode == "parity")], 1)
        with torch.inference_mode():
            maps = network(seen)[-1]
            if mirror:
                turned = torch.cat([x.flip(3), flip_maps(seen[:, 3:], order)], 1)
                maps = maps + flip_maps(network(turned)[-1], order)
            found, score = decode(maps)
        cells.append(found.cpu())
        scores.append(score.cpu())
    found_points = _back(_joined(cells, (68, 2)), centre, scale, size / network.stride, mode)
    return Alignment(found_points, _joined(scores, (68,)).astype(np.float32))


def _crops(image: NDArray[np.uint8], centre: NDArray[np.float64], scale: NDArray[np.float64], mode: Mode,
           size: int) -> NDArray[np.uint8]:  # fmt: skip
    if mode not in MODES:
        raise OptionError.unknown("unknown mode", mode, MODES)
    picture = np.asarray(image)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ShapeError("this is no picture", got=(picture.shape, str(picture.dtype)), expected="(H, W, 3) uint8")
    if mode == "parity":
        return official_crop(picture, centre, scale, size=size)
    return np.asarray(warp_images(picture, crop_matrices(centre, scale, size), size), np.uint8)


def _batches(crops: NDArray[np.uint8], device: torch.device) -> list[Tensor]:
    pixels = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
    return [pixels[start : start + BATCH].to(device).float() / 255 for start in range(0, len(pixels), BATCH)]


def _joined(parts: list[Tensor], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return torch.cat(parts).double().numpy() if parts else np.zeros((0, *shape))


def _back(
    cells: NDArray[np.float64], centre: NDArray[np.float64], scale: NDArray[np.float64], side: float, mode: Mode
) -> NDArray[np.float64]:
    """Cells of the heatmaps to pixels of the picture."""
    if mode == "parity":
        return from_crop(cells, centre, scale, side, whole=True)
    return from_crop(cells, centre, scale, side) - 0.5
