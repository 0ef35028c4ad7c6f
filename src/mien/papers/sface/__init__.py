"""SFace: a recogniser that is not dragged along by wrong labels (Zhong et al., IEEE TIP 2021).

In training, an embedding is pulled to the vector of its own class and pushed from those of all others. Under a softmax
the two forces depend on each other, so that a mislabelled picture is pulled on until it is nearer to the wrong person
than to the right one. SFace re-scales each force by a sigmoid of its angle alone: the pull fades out once the angle to
the own class is below some 50 degrees, the push once that to another is above some 70.

    loss.py         the loss and what the released head reports
    network.py      IR-50, IR-101, MobileFaceNet in the released layouts, their first weights, the odd normalisation
    checkpoint.py   released backbones and heads, face.evoLVe's, OpenCV's ONNX file
    mien.train.classes.SFaceLayer, mien.train.recipes.margin, mien.nn.iresnet, mien.nn.mobilefacenet, mien.nn.onnx_graph
                    the loss shared among processes; the training (``mien train margin``); the shared networks

Where this differs from the paper and from the released code, and why
---------------------------------------------------------------------
- Clamp. The released code takes the arc cosine of what rounding may have put above 1, and gets NaN. Cosines are held
  within 1e-7 of +-1 for the angle (not for the loss), in float32 at least.
- Normalisation. The released backbones take grey values and compute ``(x - 127.5) * 0.078125`` in their forward pass.
  The factor is ten times the usual one, by what looks like a lost zero; their weights need it. Here networks see
  numbers that are normalised already, so that preprocessing stands with the weights: `normalise`, ``tenfold``.
- Flags. The released MXNet readme passes ``--param-a 0.87 --param-b 1.2`` to a script in which these are the slope and
  the centre of the pull. Here a and b are the angles and k the slope, as in the paper and in the PyTorch code.
- Weight decay spares all one-dimensional parameters, the PReLUs' among them; the released script spares those of the
  batch normalisations.
- Class vectors start as N(0, ``2 sqrt(2 / people)``), as released; shared among processes, too.
- The preset of VGGFace2 trains IR-50, for 30 epochs of batches of 512; which of two backbones, and that it is 30 for
  both of the larger sets, was not stated clearly.
- face.evoLVe's own normalisation (``/ 127.5``) is recalled.

Weights. The authors released none. OpenCV ships a small model that bears the paper's name and 128 numbers; its hash and
licence are known and its address, to the letter, is not, so it is imported and not downloaded. Nothing is known of how
it was trained.

Recalled and not found again: OpenCV's threshold in squared distance, the paper's tables of rivals and ablations.
SFace is also the name of an unrelated paper on synthetic faces (Boutros et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.nn.mobilefacenet import MobileFaceNet
from mien.papers.card import Network, Paper
from mien.papers.sface.checkpoint import (
    OPENCV,
    OPENCV_THRESHOLD,
    SCALINGS,
    Published,
    convert_official,
    import_official,
)
from mien.papers.sface.loss import (
    ANGLES,
    SCALE,
    SLOPE,
    A,
    B,
    Loss,
    SFaceLoss,
    inter_scale,
    intra_scale,
    sface_loss,
)
from mien.papers.sface.network import embed_with_mirror, initialise, ir_50, ir_101, mobilefacenet, normalise
from mien.weights import Weights

__all__ = [
    "ANGLES",
    "NETWORKS",
    "OPENCV",
    "OPENCV_THRESHOLD",
    "PAPER",
    "SCALE",
    "SCALINGS",
    "SLOPE",
    "WEIGHTS",
    "A",
    "B",
    "Loss",
    "MobileFaceNet",
    "Published",
    "SFaceLoss",
    "convert_official",
    "embed_with_mirror",
    "import_official",
    "initialise",
    "inter_scale",
    "intra_scale",
    "ir_50",
    "ir_101",
    "mobilefacenet",
    "normalise",
    "sface_loss",
]

PAPER = Paper(
    slug="sface",
    title="SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition",
    authors=("Yaoyao Zhong", "Weihong Deng", "Jiani Hu", "Dongyue Zhao", "Xian Li", "Dongchao Wen"),
    venue="IEEE TIP",
    year=2021,
    arxiv="2205.12010",
    code="https://github.com/zhongyy/SFace",
    code_licence=None,
    task="recognition",
    verb="mien train",
    published="journal",
)


def _pictures(side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, 3, side, side),)


_SMALL = {"dim": 16, "size": 32, "width": 0.125}

NETWORKS: dict[str, Network] = {
    "ir_50": Network(build=ir_50, small={**_SMALL, "depths": (1, 2, 1, 1)}, inputs=_pictures(32)),
    "ir_101": Network(build=ir_101, small={**_SMALL, "depths": (1, 1, 2, 1)}, inputs=_pictures(32)),
    "mobilefacenet": Network(build=mobilefacenet, small={**_SMALL, "blocks": (1, 1, 1)}, inputs=_pictures(32)),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
