"""FAN: how far 68 landmarks can be found by stacked hourglasses, in 2D and 3D (Bulat and Tzimiropoulos, 2017).

Each point has a heatmap, and up to four hourglasses in a row draw the 68 of a face, each correcting the one before; the
same network finds the points of the visible contour (2D-FAN) or those of the head itself (3D-FAN), and a residual
network adds their depth. A third one, 2D-to-3D-FAN, is shown the visible points beside the picture and finds those of
the head: with it every set with 2D annotations was made over, and LS3D-W, the largest set of 3D landmarks, built. Its
measurement, the area under the curve of errors up to 7 % of the face's size, says that the problem is nearly solved.

    network.py     builders, and crop to points for the verbs
    align.py       picture and boxes to points, exactly or to the released code's pixel
    checkpoint.py  the three released files into ours, and a file for the verbs
    protocol.py    AUC at 7 %, ranges of yaw, building LS3D-W
    mien.nn.fan, mien.nn.heatmaps, mien.geometry.centre_scale, mien.train.recipes.heatmaps
                   networks; drawing and decoding; the crop's geometry; the training (``mien train heatmaps``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- Halving. The authors' training code takes the maximum of 2 x 2, the released PyTorch networks the average. The average
  is the default, since the released weights want it; ``pool="max"`` is the other. Likewise the training code's
  normalisation has no gain inside of blocks: ``affine=False``.
- Whole pixels. The released code truncates points to whole pixels, in both directions, and its crop begins one pixel
  of 256 late. `align` and `guided` are exact by default (no rounding; the square is mapped onto the crop; shrinking
  averages) and do as the code does with ``mode="parity"``. The two differ by about half a pixel of the picture and half
  a pixel of the crop.
- Where zero is. Points here count from the middle of the first pixel, the code's from the picture's edge, before it
  truncates; exact points are therefore its own, less a half. The offset that the released networks have learnt from
  targets which are drawn to the cell cannot be told without the weights and is not taken off.
- Drawing. Targets are Gaussians about the point itself (``official=False``); the released code draws 7 x 7 numbers to
  the cell, `mien.nn.heatmaps.draw_official`. The paper's text is said to have a deviation of 1 pixel, the code has 1.75
  cells; we follow the code.
- Border in decoding. The code knows maps of 64 cells; here the border is that of any map.
- Box. The paper's crop has a side of 200 / 195 times width plus height of a tight box. A contract of the verbs knows
  the longer side, so imported weights take 1.928 of it, by the mean ratio of detected boxes; `align` takes the paper's.
- Depth. The released network averages 7 x 7 of its 8 x 8 cells (``pool=7``); networks of one's own average all
  (``depth_pool=0``). That its numbers grow towards the camera, and are turned here, is recalled.
- Learning rate. The released script's is 2.5e-4 with drops at half, seven and nine tenths of 100 epochs, the paper's
  text 1e-4 with drops after 15 and 30 of 40 epochs, by 10 each (recalled): presets ``released`` and ``paper``. That of
  the depth network is not known; we take the paper's.
- Augmentation. Both the script's and the paper's are there; how the paper covers faces is not known: here a rectangle
  of noise on half of the pictures. The script's disabled branches (low resolution, JPEG, blur, shift) are left out.
- Points that leave the crop have empty maps (the script: those with x not above 0).
- AUC. Exact; `mien.metrics.auc_sampled` is the script's sum over 70 thresholds. The 1.75 pixels that the script adds on
  300W are an option of `accuracy`.

Weights. The authors' files come with no hash that we know, and 300W-LP is for research only, so none is declared here
and `WEIGHTS` is empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.geometry.centre_scale import centre_scale, crop_matrices, from_crop, official_crop, to_crop
from mien.geometry.projected import yaw_of
from mien.nn.fan import FAN, DepthNet, HierarchicalBlock, Hourglass, PointRegressor
from mien.nn.heatmaps import decode, draw_gaussians, draw_official, flip_maps
from mien.papers.card import Network, Paper
from mien.papers.fan.align import MODES, Alignment, align, guided
from mien.papers.fan.checkpoint import RELEASED, convert_official, declaration, import_official, shape_of
from mien.papers.fan.network import Landmarker, depth, fan, fan_2d_to_3d, guidance, landmarker
from mien.papers.fan.protocol import LIMIT, RANGES, Accuracy, accuracy, balanced, build_ls3dw
from mien.train.recipes.heatmaps import heatmap_loss
from mien.weights import Weights

__all__ = [
    "FAN",
    "LIMIT",
    "MODES",
    "NETWORKS",
    "PAPER",
    "RANGES",
    "RELEASED",
    "WEIGHTS",
    "Accuracy",
    "Alignment",
    "DepthNet",
    "HierarchicalBlock",
    "Hourglass",
    "Landmarker",
    "PointRegressor",
    "accuracy",
    "align",
    "balanced",
    "build_ls3dw",
    "centre_scale",
    "convert_official",
    "crop_matrices",
    "declaration",
    "decode",
    "depth",
    "draw_gaussians",
    "draw_official",
    "fan",
    "fan_2d_to_3d",
    "flip_maps",
    "from_crop",
    "guidance",
    "guided",
    "heatmap_loss",
    "import_official",
    "landmarker",
    "official_crop",
    "shape_of",
    "to_crop",
    "yaw_of",
]

PAPER = Paper(
    slug="fan",
    title=(
        "How far are we from solving the 2D & 3D Face Alignment problem? (and a dataset of 230,000 3D facial landmarks)"
    ),
    authors=("Adrian Bulat", "Georgios Tzimiropoulos"),
    venue="ICCV",
    year=2017,
    arxiv="1703.07332",
    code="https://github.com/1adrianb/face-alignment",
    code_licence="BSD-3-Clause",
    task="analysis",
    verb="mien analyze --landmarks NAME",
)


def _pictures(size: int, channels: int = 3) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(n: int) -> tuple[Tensor, ...]:
        return (torch.rand(n, channels, size, size),)

    return inputs


NETWORKS: dict[str, Network] = {
    "fan": Network(build=fan, small={"stacks": 2, "width": 32, "levels": 2}, inputs=_pictures(32)),
    "fan_2d_to_3d": Network(
        build=fan_2d_to_3d, small={"stacks": 1, "width": 32, "levels": 2}, inputs=_pictures(32, 71)
    ),
    "depth": Network(build=depth, small={"depths": (1, 1, 1, 1), "width": 8}, inputs=_pictures(32, 71)),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
