"""The bundled face detector: a small anchor-free single-stage network with five landmarks.

    (B, 3, H, W) RGB, (x - 127.5) / 128, H and W multiples of 32
      -> stem 5x5/4 -> residual stages at strides 8, 16, 32 -> top-down sums -> one head per stride
      -> (B, A, 15) raw: logit, centre x and y, log width and height, five points x and y

Every cell of the three grids predicts one face, relative to the cell's centre and in units of its stride, in the
manner of YuNet (Wu et al., 2023) and FCOS (Tian et al., 2019). The score is trained towards the IoU of its own box
(quality focal loss, Li et al., 2020), so it ranks boxes by how well they fit. All convolutions are dense; see
`mien.nn.blocks` for why.

`detect` runs the network twice on the same picture: as it is, and small (long side 160). The small pass costs a
sixteenth and finds faces that fill the picture; one non-maximum suppression merges both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import ShapeError
from mien.nn.blocks import ResidualBlock, conv_bn_act

STRIDES = (8, 16, 32)
OUTPUTS = 15
_LARGEST_LOG = 5.0  # exp(5) = 148 strides: far above any picture, and safe in float16


class Detector(nn.Module):
    """Raw face predictions: (B, 3, H, W) -> (B, A, 15), A = H W (1/64 + 1/256 + 1/1024), fine stride first.

    Parameters
    ----------
    stem
        Channels at stride 4.
    widths, depths
        Channels and residual blocks of the stages at strides 8, 16 and 32.
    neck
        Channels of the top-down path and the heads.
    """

    def __init__(
        self,
        *,
        stem: int = 32,
        widths: tuple[int, ...] = (48, 64, 96),
        depths: tuple[int, ...] = (1, 1, 1),
        neck: int = 32,
    ) -> None:
        super().__init__()
        self.stem = conv_bn_act(3, stem, 5, 4)
        before = (stem, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(conv_bn_act(i, o, 3, 2), *(ResidualBlock(o) for _ in range(depth)))
            for i, o, depth in zip(before, widths, depths, strict=True)
        )
        self.lateral = nn.ModuleList(conv_bn_act(width, neck, 1) for width in widths)
        self.heads = nn.ModuleList(
            nn.Sequential(conv_bn_act(neck, neck, 3), nn.Conv2d(neck, OUTPUTS, 1)) for _ in widths
        )
        for head in self.heads:
            assert isinstance(head, nn.Sequential)
            last = cast(nn.Conv2d, head[1])
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, last.bias))
            # Faces are rare among cells: start at a probability of 1 % (Lin et al., RetinaNet, 2017, section 4.1).
            nn.init.constant_(cast(Tensor, last.bias)[:1], -math.log(99))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        levels = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        for fine in range(len(levels) - 2, -1, -1):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
        raw = [head(level).flatten(2) for head, level in zip(self.heads, levels, strict=True)]
        return torch.cat(raw, 2).transpose(1, 2)


def detector_base() -> Detector:
    """The bundled network."""
    return Detector()


@lru_cache(maxsize=32)
def cells(height: int, width: int, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Centres (A, 2) in pixels and strides (A, 1) of all cells of an input of `height` x `width`, in output order."""
    centres, strides = [], []
    with torch.inference_mode(False):  # the tensors are kept, and training may want them next
        for stride in STRIDES:
            y = (torch.arange(height // stride, device=device, dtype=torch.float32) + 0.5) * stride
            x = (torch.arange(width // stride, device=device, dtype=torch.float32) + 0.5) * stride
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            centres.append(torch.stack([grid_x.flatten(), grid_y.flatten()], 1))
            strides.append(torch.full((len(y) * len(x), 1), float(stride), device=device))
        return torch.cat(centres), torch.cat(strides)


def decode_boxes(raw: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes (…, A, 4) xyxy px of raw predictions (…, A, 15)."""
    middle = centres + raw[..., 1:3] * strides
    half = raw[..., 3:5].clamp(-_LARGEST_LOG, _LARGEST_LOG).exp() * strides / 2
    return torch.cat([middle - half, middle + half], -1)


def decode_points(raw: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Landmarks (…, A, 5, 2) px of raw predictions (…, A, 15)."""
    offsets = raw[..., 5:15].reshape(*raw.shape[:-1], 5, 2)
    return centres[:, None] + offsets * strides[:, None]


@dataclass(frozen=True)
class Detections:
    """Faces of one picture, best first: boxes (n, 4) xyxy px, scores (n,) in 0..1, landmarks5 (n, 5, 2) px.

    `pose` (n, 3) is there where the detector tells it: yaw, pitch and roll in degrees, as `mien.faces.Faces.pose`.
    """

    boxes: Tensor
    scores: Tensor
    landmarks5: Tensor
    pose: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)


def candidates(raw: Tensor, height: int, width: int, *, threshold: float, top_k: int = 1000) -> list[Detections]:
    """Predictions above `threshold`, at most `top_k` a picture, before suppression; px of the network's input.

    Parameters
    ----------
    raw
        Output of the network, (B, A, 15).
    height, width
        Size of the input that gave it, px.
    """
    centres, strides = cells(height, width, device=raw.device)
    if raw.ndim != 3 or raw.shape[1:] != (len(centres), OUTPUTS):
        raise ShapeError(
            "raw detector output does not fit the input's size",
            got=tuple(raw.shape),
            expected=f"(B, {len(centres)}, {OUTPUTS}) for an input of {height} x {width}",
        )
    raw = raw.float()
    scores, order = raw[..., 0].sigmoid().topk(min(top_k, raw.shape[1]), dim=1)
    found = []
    for row, score, index in zip(raw, scores, order, strict=True):
        index = index[score > threshold]
        kept, middle, stride = row[index], centres[index], strides[index]
        found.append(
            Detections(decode_boxes(kept, middle, stride), score[: len(index)], decode_points(kept, middle, stride))
        )
    return found


def decode(
    raw: Tensor,
    height: int,
    width: int,
    *,
    threshold: float = 0.5,
    iou: float = 0.45,
    top_k: int = 1000,
    max_faces: int = 750,
) -> list[Detections]:
    """Faces of each picture from one pass's raw output (B, A, 15), suppressed; px of the network's input."""
    return [_suppress([c], iou, max_faces) for c in candidates(raw, height, width, threshold=threshold, top_k=top_k)]


def fit_scale(height: int, width: int, *, size: int = 640, most: float = 2.0) -> float:
    """Factor that brings the long side of a picture to `size` px, at most `most` (enlarging adds no detail)."""
    return min(size / max(height, width), most)


@torch.no_grad()
def detect(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    threshold: float = 0.5,
    iou: float = 0.45,
    small_side: int = 160,
    smallest_in_small: float = 32.0,
    top_k: int = 1000,
    max_faces: int = 750,
) -> list[Detections]:
    """Faces of a batch, by two passes at two scales.

    Parameters
    ----------
    network
        The detector, or anything that maps (B, 3, H, W) to (B, A, 15) (an ONNX session, say).
    images
        (B, 3, H, W) RGB, ``(x - 127.5) / 128``; any H and W (padded to multiples of 32 with zeros, the mean grey).
    threshold
        Scores must be above it.
    iou
        Of two boxes that overlap more, the lower score is dropped.
    small_side
        Long side of the second pass, px; 0 for one pass only. Left out for pictures less than twice as large, whose
        largest faces the first pass was trained on.
    smallest_in_small
        Faces below this size (root of the box area, px of the small pass) are left to the first pass.
    top_k, max_faces
        Most candidates of a pass, most faces of a picture.

    Returns
    -------
    list of Detections
        One for each picture, boxes and points in pixels of `images`, not clipped to it.

    Raises
    ------
    ShapeError
        `images` is not (B, 3, H, W).
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 1:
        raise ShapeError("images of the detector", got=tuple(images.shape), expected="(B, 3, H, W)")
    if len(images) == 0:
        return []
    height, width = images.shape[2:]
    passes = [[c] for c in _one_pass(network, images, threshold, top_k)]
    scale = small_side / max(height, width)
    if 0 < scale < 0.5:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        small = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        back = torch.tensor([width / size[1], height / size[0]], device=images.device)
        for found, c in zip(passes, _one_pass(network, small, threshold, top_k), strict=True):
            sides = (c.boxes[:, 2:] - c.boxes[:, :2]).prod(1).sqrt()
            keep = sides >= smallest_in_small
            found.append(Detections(c.boxes[keep] * back.repeat(2), c.scores[keep], c.landmarks5[keep] * back))
    return [_suppress(found, iou, max_faces) for found in passes]


def _one_pass(network: Callable[[Tensor], Tensor], images: Tensor, threshold: float, top_k: int) -> list[Detections]:
    height, width = images.shape[2:]
    below, right = -height % STRIDES[-1], -width % STRIDES[-1]
    if below or right:
        images = F.pad(images, (0, right, 0, below))
    raw = network(images.contiguous(memory_format=torch.channels_last))
    return candidates(raw, height + below, width + right, threshold=threshold, top_k=top_k)


def _suppress(parts: Sequence[Detections], iou: float, max_faces: int) -> Detections:
    from torchvision.ops import nms

    boxes = torch.cat([p.boxes for p in parts])
    scores = torch.cat([p.scores for p in parts])
    points = torch.cat([p.landmarks5 for p in parts])
    keep = nms(boxes, scores, iou)[:max_faces]
    return Detections(boxes[keep], scores[keep], points[keep])
