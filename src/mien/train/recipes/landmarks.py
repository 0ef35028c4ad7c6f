"""Training of the bundled landmark network.

    python -m mien.train landmarks preset=full data=…/fairface_faces out=runs/landmarks

Data: `fairface_faces` (CC BY 4.0) with 70 points in 3D that were read off a fitted mesh; those of the jaw, which stand
where the mesh has vertices, are spaced evenly as annotators do (`mien.geometry.landmarks.even_jaw`). The crops are cut
by the box that the detector would give (`mien.data.scenes.face_outline`), off by as much as a detector is off, turned,
mirrored, degraded, and partly covered by painted masks and glasses: points under a cover stay where the face has them.

`landmarks68` adds the training people of that set. Its photographs are for research only, so weights trained with it
may not be passed on; the bundled ones are trained without it.

Loss: wing (Feng et al., Wing Loss, CVPR 2018, equation 5), ``w ln(1 + |d| / eps)`` up to ``w`` pixels and ``|d| - C``
beyond, over the known coordinates; depth, which is rougher in the data, counts `depth_weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, decode
from mien.nn.landmarks import MARGIN, SIDE, Landmarks
from mien.train.draws import Source
from mien.train.loop import Recipe

Floats = NDArray[np.float32]


def wing(difference: Tensor, *, width: float, sharpness: float) -> Tensor:
    """Wing loss of each difference, elementwise: logarithmic up to `width`, linear beyond, continuous there."""
    size = difference.abs()
    offset = width - width * math.log(1 + width / sharpness)
    return torch.where(size < width, width * torch.log1p(size / sharpness), size - offset)


def random_crop(box: Floats, rng: np.random.Generator, strength: float) -> Floats:
    """(2, 3) map from a picture to a crop around `box` (xyxy), off, turned and perhaps mirrored as detections are.

    At strength 1: 4 % of the side off in place and 7 % in size, turned by 15 degrees, one in six by 40.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    side = max(x1 - x0, y1 - y0) * MARGIN * math.exp(rng.normal(0, 0.07 * strength))
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + rng.normal(0, 0.04 * strength, 2) * side
    angle = rng.normal(0, math.radians(40 if rng.random() < 1 / 6 else 15) * strength)
    scale = SIDE / side
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if rng.random() < 0.5:
        turn[0] *= -1
    # Box edges lie between pixels; warps count from pixel centres.
    shift = SIDE / 2 - 0.5 - turn @ (centre - 0.5)
    return np.concatenate([turn, shift[:, None]], 1).astype(np.float32)


class Crops(Source):
    """Crops with their points: `image` (112, 112, 3) uint8, `points` (70, 3) px of the crop, NaN where unknown.

    JPEG bytes are held in memory and decoded when drawn.
    """

    def __init__(self, files: list[Path], points: Floats, *, strength: float) -> None:
        from mien.data.scenes import face_outline

        self.bytes = [np.fromfile(file, np.uint8) for file in files]
        self.points = points
        outline = face_outline(points)
        self.boxes = np.concatenate([outline.min(1), outline.max(1)], 1)
        self.strength = strength

    def __len__(self) -> int:
        return len(self.bytes)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        from mien.data.scenes import paint_glasses, paint_mask
        from mien.geometry import similarity
        from mien.geometry.landmarks import FLIPS
        from mien.train.recipes.embedder import degrade

        picture = decode(self.bytes[index])
        points = self.points[index]
        if rng.random() < 0.12 * self.strength:
            paint_mask(picture, points[:68, :2], rng)
        if rng.random() < 0.05 * self.strength:
            paint_glasses(picture, points[:68, :2], rng)
        matrix = random_crop(self.boxes[index], rng, self.strength)
        # What lies outside the picture is unknown: black, smeared or mirrored, so that none is a cue.
        border = (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE, cv2.BORDER_REFLECT_101)[int(rng.integers(3))]
        crop = cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
        plane = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        depth = points[:, 2] * similarity.scale_of(matrix)
        placed = np.concatenate([plane, depth[:, None]], 1)
        if np.linalg.det(matrix[:, :2]) < 0:  # mirrored: the left eye's points are now the right one's
            placed = placed[FLIPS["mien70"]]
        crop = degrade(np.asarray(crop, np.uint8), rng, 0.7 * self.strength)
        return {"image": crop, "points": placed.astype(np.float32)}


@dataclass(kw_only=True)
class LandmarksRecipe(Recipe):
    """Trains the landmark network. `data` is the folder of `fairface_faces`.

    `landmarks68` (research only) adds that set's training people, each picture `repeat` times an epoch; `validation`,
    the same folder, only measures on them. The test people are read by neither.
    """

    data: str
    landmarks68: str | None = None
    repeat: int = 1
    validation: str | None = None
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2)
    head: int = 64
    width: float = 6.0
    sharpness: float = 1.0
    depth_weight: float = 0.4
    strength: float = 1.0

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"landmarks68"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"validation"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"steps": 4000, "batch_size": 64, "lr": 2e-3, "ema": 0.998, "save_every": 250},
        "small": {"steps": 400, "batch_size": 64, "lr": 2e-3, "ema": 0.99, "warmup": 50},
    }

    def build(self) -> nn.Module:
        return Landmarks(widths=self.widths, depths=self.depths, head=self.head)

    def source(self) -> Source:
        from mien.data.sets import fairface_faces, landmarks68
        from mien.geometry.landmarks import even_jaw

        chips = fairface_faces(self.data)
        chips = chips.take(np.flatnonzero(np.isfinite(chips.points).all((1, 2))))
        files, points = list(chips.files), even_jaw(chips.points)
        if self.landmarks68 is not None:
            more = landmarks68(self.landmarks68, split="train")
            flat = np.full((len(more), 70, 3), np.nan, np.float32)
            flat[:, :68, :2] = more.points
            files += list(more.files) * self.repeat
            points = np.concatenate([points, *[flat] * self.repeat])
        return Crops(files, points, strength=self.strength)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        from mien.nn.inputs import to_input

        found, truth = module(to_input(batch["image"])).float(), batch["points"]
        known = torch.isfinite(truth)
        difference = torch.where(known, found - torch.nan_to_num(truth), 0.0)
        each = wing(difference, width=self.width, sharpness=self.sharpness) * known
        weight = known * torch.tensor([1.0, 1.0, self.depth_weight], device=found.device)
        total = (each * weight).sum() / weight.sum().clamp_min(1)
        return total, {"px": difference[..., :2].norm(dim=-1).mean().detach()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """NME (inter-ocular) on the training people of `landmarks68`, cut by the boxes of their points."""
        if self.validation is None:
            return {}
        from mien.data.sets import landmarks68

        return {"nme": points_error(network, landmarks68(self.validation, split="train"))}


def points_error(network: nn.Module, faces: Any) -> float:
    """Mean NME (inter-ocular) of `network` on a set with `points` (n, 68, 2), the detector left out."""
    from mien.metrics import nme

    found = points_found(network, faces.picture, faces.points)
    return float(nme(found, faces.points).mean())


@torch.no_grad()
def points_found(network: nn.Module, picture: Callable[[int], Picture], points: Floats) -> Floats:
    """The 68 points (n, 68, 2) that `network` finds in the boxes of the true ones (n, 68+, 2+), pixels of the pictures.

    Parameters
    ----------
    network
        A landmark network in eval mode.
    picture
        Gives the picture (H, W, 3) uint8 of a row.
    points
        The true points, of which only the box is told.
    """
    from mien.data.scenes import face_outline
    from mien.nn.inputs import to_input

    outline = face_outline(points)
    low, high = outline.min(1), outline.max(1)
    scale = SIDE / ((high - low).max(1) * MARGIN)
    shift = SIDE / 2 - 0.5 - scale[:, None] * ((low + high) / 2 - 0.5)
    device = next(network.parameters()).device
    found = np.empty((len(points), 68, 2), np.float32)
    for start in range(0, len(points), 128):
        rows = range(start, min(start + 128, len(points)))
        crops = [
            cv2.warpAffine(
                picture(row), np.array([[scale[row], 0, shift[row, 0]], [0, scale[row], shift[row, 1]]]),
                (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE,
            )
            for row in rows
        ]  # fmt: skip
        local = network(to_input(torch.from_numpy(np.stack(crops)).to(device)))[:, :68, :2].cpu().numpy()
        found[rows.start : rows.stop] = (local - shift[rows, None]) / scale[rows, None, None]
    return found
