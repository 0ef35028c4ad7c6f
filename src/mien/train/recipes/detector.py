"""Training of the bundled face detector on composed and real scenes (`mien.data.scenes`).

    mien train detector preset=full faces=…/fairface_faces scenes=…/detection textures=…/cifar10_test out=runs/detector

Losses of a batch, each divided by its number of positive cells:
quality focal loss of the score (Li et al., 2020: the target of a positive cell is the IoU of its own box), GIoU of the
boxes (Rezatofighi et al., 2019), smooth L1 of the five points in units of the face's size (pasted faces only; the
real scenes have no points).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.nn.detector import STRIDES, Detector, cells, decode_boxes, decode_points, detect, fit_scale
from mien.nn.inputs import to_input
from mien.train.draws import Source
from mien.train.loop import Recipe

if TYPE_CHECKING:
    from mien.data.sets import Detection

RANGES: tuple[tuple[float, float], ...] = ((0.0, 56.0), (32.0, 128.0), (80.0, float("inf")))
"""Sizes of faces (root of the box area, px) that each stride learns; neighbours share a part."""
RADIUS = 1.5
"""Positive cells lie within this many strides of the face's centre, and inside its box."""
NEGATIVE, IGNORED = -1, -2


def assign(boxes: NDArray[np.float32], kind: NDArray[np.int64], size: int) -> NDArray[np.int16]:
    """Face of every cell of a square picture: (A,) row of `boxes`, or NEGATIVE, or IGNORED.

    A face's positive cells are those near its centre at the strides that suit its size; the nearest cell when there is
    none. Where faces compete, the smaller wins. Cells inside faces of kind 0 are ignored at all strides.

    Parameters
    ----------
    boxes
        (n, 4) xyxy px.
    kind
        (n,) 1 a face, 0 ignored, -1 not there.
    size
        Side of the picture, px.
    """
    centres, _ = _grid(size)
    owner = np.full(len(centres), NEGATIVE, np.int16)
    inside = (
        (centres[:, None, 0] > boxes[None, :, 0])
        & (centres[:, None, 1] > boxes[None, :, 1])
        & (centres[:, None, 0] < boxes[None, :, 2])
        & (centres[:, None, 1] < boxes[None, :, 3])
    )
    owner[(inside & (kind == 0)).any(1)] = IGNORED
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    for row in sorted(np.flatnonzero(kind == 1), key=lambda k: -sides[k]):
        middle = (boxes[row, :2] + boxes[row, 2:]) / 2
        start = 0
        for stride, (low, high) in zip(STRIDES, RANGES, strict=True):
            count = (size // stride) ** 2
            if low <= sides[row] < high:
                distance = np.abs(centres[start : start + count] - middle).max(1)
                near = (distance < RADIUS * stride) & inside[start : start + count, row]
                if not near.any():
                    near[distance.argmin()] = True
                owner[start : start + count][near] = row
            start += count
    return owner


_GRIDS: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if size not in _GRIDS:
        centres, strides = cells(size, size)
        _GRIDS[size] = centres.numpy(), strides.numpy()
    return _GRIDS[size]


def giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (n,) of boxes (n, 4) xyxy, pair by pair."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    iou = overlap / union.clamp_min(1e-6)
    return iou, iou - (hull - union) / hull.clamp_min(1e-6)


class AssignedScenes:
    """Scenes with the owner of every cell: the assignment runs in the loader's process."""

    def __init__(self, scenes: Source, size: int) -> None:
        self.scenes, self.size = scenes, size

    def __len__(self) -> int:
        return len(self.scenes)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sample = self.scenes.sample(index, rng)
        sample["owner"] = assign(sample["boxes"], sample.pop("kind"), self.size)
        return sample


@dataclass(kw_only=True)
class DetectorRecipe(Recipe):
    """Trains the detector.

    `faces`, `scenes` and `textures` are the folders of `fairface_faces`, `detection` (training part) and
    `cifar10_test`. `held` is the share of the training scenes kept out to choose numbers by; `evaluate` gives the
    average precision on them. The test quarter is never read.
    """

    faces: str
    scenes: str
    textures: str | None = None
    size: int = 256
    held: float = 0.0
    real: float = 0.5
    stem: int = 32
    widths: tuple[int, ...] = (48, 64, 96)
    depths: tuple[int, ...] = (1, 1, 1)
    neck: int = 32
    box_weight: float = 2.0
    point_weight: float = 1.0

    PLACES: ClassVar[frozenset[str]] = frozenset({"faces", "scenes", "textures"})
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {
            "steps": 9000,
            "batch_size": 32,
            "lr": 2e-3,
            "warmup": 300,
            "ema": 0.9985,
            "save_every": 500,
        },
        "small": {"steps": 600, "batch_size": 32, "lr": 2e-3, "ema": 0.99, "warmup": 50, "held": 0.2},
    }

    def build(self) -> nn.Module:
        return Detector(stem=self.stem, widths=self.widths, depths=self.depths, neck=self.neck)

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def source(self) -> Source:
        from mien.data.scenes import FaceScenes

        return AssignedScenes(
            FaceScenes(self.faces, self.scenes, self.textures, size=self.size, scenes_held=self.held, real=self.real),
            self.size,
        )

    @cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        return cells(self.size, self.size)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        raw = module(to_input(batch["image"])).float()
        centres, strides = (t.to(raw.device) for t in self._cells)
        owner = batch["owner"].long()
        row, cell = (owner >= 0).nonzero(as_tuple=True)
        face = owner[row, cell]
        truth, points = batch["boxes"][row, face], batch["points"][row, face]
        chosen, centre, stride = raw[row, cell], centres[cell], strides[cell]
        iou, generalised = giou(decode_boxes(chosen, centre, stride), truth)
        count = max(1, len(row))

        target = torch.zeros_like(raw[..., 0])
        target[row, cell] = iou.detach().clamp(0, 1)
        logit = raw[..., 0]
        focus = (target - logit.sigmoid()).abs().square().detach()
        score_loss = (
            F.binary_cross_entropy_with_logits(logit, target, reduction="none") * focus * (owner != IGNORED)
        ).sum() / count

        box_loss = (1 - generalised).sum() / count

        known = torch.isfinite(points).flatten(1).all(1)
        size = (truth[:, 2:] - truth[:, :2]).prod(1).sqrt()[:, None, None]
        error = (decode_points(chosen, centre, stride) - torch.nan_to_num(points)) / size
        point_loss = (
            F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05, reduction="none").mean((1, 2)) * known
        ).sum()
        point_loss = point_loss / known.sum().clamp_min(1)

        total = score_loss + self.box_weight * box_loss + 4 * self.point_weight * point_loss
        return total, {
            "score": score_loss,
            "box": box_loss,
            "point": point_loss,
            "iou": iou.mean() if len(row) else score_loss * 0,
        }

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Average precision at IoU 0.5 on the training scenes kept out by `held`."""
        if not self.held:
            return {}
        from mien.data.scenes import held_for_choice
        from mien.data.sets import detection

        scenes = detection(self.scenes, split="train")
        scenes = scenes.take(held_for_choice(scenes.names, self.held))
        return {"average_precision": scene_precision(network, scenes)}


@torch.no_grad()
def scene_precision(network: nn.Module, scenes: Detection, *, size: int = 640, threshold: float = 0.02) -> float:
    """Average precision at IoU 0.5 (0 to 1) of `network` on annotated scenes, scaled as the verbs scale them."""
    import cv2

    from mien.metrics import average_precision

    device = next(network.parameters()).device
    boxes, scores, image = [], [], []
    for row in range(len(scenes)):
        picture = scenes.picture(row)
        scale = fit_scale(*picture.shape[:2], size=size)
        shape = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        scaled = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        found = detect(network, to_input(torch.from_numpy(scaled)[None].to(device)), threshold=threshold)[0]
        boxes.append(found.boxes.cpu().numpy() / np.float32(scale))
        scores.append(found.scores.cpu().numpy())
        image.append(np.full(len(found), row))
    return average_precision(
        np.concatenate(boxes),
        np.concatenate(scores),
        np.concatenate(image),
        scenes.boxes.xyxy,
        scenes.boxes.image,
    )
