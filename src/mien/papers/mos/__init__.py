"""MOS: every face of a picture with five landmarks and head pose, in one pass of a light network (Liu et al., 2021).

A single-shot detector on a mobile backbone tells box, landmarks and three angles for each of its anchors; cross-stitch
units let the branches of these tasks look at each other, and the weights of their losses are learned. Online feedback
sampling watches the losses of the last step: where small faces were neglected, the next batch is stitched of pictures
at half their size. So a robot or a camera picks, without a second network, the faces that are worth recognising.

    network.py      backbones, pyramid and context with deformable convolutions, cross-stitched branches, heads
    detect.py       decoding, suppression, many scales with box voting
    wider.py        the evaluation on WIDER FACE, the error of pose on AFLW2000
    checkpoint.py   released files into ours, and a file for the verbs
    mien.nn.multibox, mien.train.feedback, mien.data.posed_faces, mien.train.recipes.pose_detector
                    anchors, losses; feedback; labels, augmentation, stitching; ``mien train pose_detector``

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
The authors released no training code. What the paper's figures and the code's remains leave open is taken from the work
that they cite, and is an option:

- Pose loss. HopeNet's, whose bins and labels these are: cross-entropy plus `alpha` times the squared error in degrees
  of the expected angle. HopeNet's released `alpha` of 1 is the default; MOS's is not known.
- Feedback. Stitcher's: the next batch is stitched where less than `tau` = 0.1 of the box loss lay on faces of less than
  32 x 32 px. The paper's other outcome, "add false-detection faces", is a quarter of every other batch, drawn by the
  probability of each picture's highest false detection; that quarter is ours.
- Matching and hard negatives are those of the RetinaFace port that the code derives from: 0.35, 7 to 1. That the best
  anchor of a face counts only from an overlap of 0.2 on is that port's too, recalled (`least`).
- Learning rate. RetinaFace's SGD, 1e-3, a tenth after 76 % and 88 % of the steps; MOS's own numbers are not known.

And on purpose:

- Cross-stitch. Branches are 1 x 1 convolutions without a non-linearity, and the unit is linear as well. So both are
  multiplied out into one convolution before it runs, exactly; a trained unit adds no cost, and no function that plain
  branches could not have. What it changes is how they are trained.
- Names. The released code feeds the box branch into the unit as ``classhead`` and the class branch as ``bboxhead``.
  Ours are named by the head that they lead to; the converter exchanges them.
- The three angles' convolutions are one grouped convolution.
- ``Conv_pose.*``, which the released constructor makes and never calls, is not there; parameters are 0.07 M fewer.
- Mirror images. In the evaluation the released code turns back boxes but not landmarks; only boxes are voted on here.
- Box voting drops what a single pass has found, as the code does; ``single=True`` keeps it.
- Pose leaves the network in 300W-LP's convention, which the labels have, and the verbs in that of `mien.geometry.pose`.
  That the authors' labels follow HopeNet's signs is inferred from bins and mirroring, it is not stated.
- The expected angle is that of the bins' lower edges, without half a bin, as in HopeNet and the code.

Weights. The authors' files lie in their repository without hashes that we know, so none is declared here and `WEIGHTS`
is empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mien.geometry.pose_300wlp import pose_from_300wlp, pose_to_300wlp
from mien.nn.multibox import Losses, Raw, Targets, Uncertainty, anchors, losses, match
from mien.papers.card import Network, Paper
from mien.papers.mos.checkpoint import convert_official, declaration, import_official, shape_of, trained_network
from mien.papers.mos.detect import decode, detect_multiscale, faces_of, scales_of, vote
from mien.papers.mos.network import MOS, mos_m, mos_s
from mien.papers.mos.wider import evaluate, pose_errors, read_truth, wider_ap, write_results
from mien.train.feedback import Feedback
from mien.weights import Weights

__all__ = [
    "MOS",
    "NETWORKS",
    "PAPER",
    "WEIGHTS",
    "Feedback",
    "Losses",
    "Raw",
    "Targets",
    "Uncertainty",
    "anchors",
    "convert_official",
    "declaration",
    "decode",
    "detect_multiscale",
    "evaluate",
    "faces_of",
    "import_official",
    "losses",
    "match",
    "mos_m",
    "mos_s",
    "pose_errors",
    "pose_from_300wlp",
    "pose_to_300wlp",
    "read_truth",
    "scales_of",
    "shape_of",
    "trained_network",
    "vote",
    "wider_ap",
    "write_results",
]

PAPER = Paper(
    slug="mos",
    title=(
        "MOS: A Low Latency and Lightweight Framework for Face Detection, Landmark Localization, and Head Pose "
        "Estimation"
    ),
    authors=("Yepeng Liu", "Zaiwang Gu", "Shenghua Gao", "Dong Wang", "Yusheng Zeng", "Jun Cheng"),
    venue="BMVC",
    year=2021,
    arxiv="2110.10953",
    code="https://github.com/lyp-deeplearning/MOS-Multi-Task-Face-Detect",
    code_licence="MIT",
    task="detection",
    verb="mien train pose_detector",
)

SMALL: dict[str, Any] = {"repeats": (1, 1, 1), "widths": (16, 32, 64, 64, 64), "channels": 32, "pose": 16}


def _pictures(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 64, 96) * 60,)


NETWORKS: dict[str, Network] = {
    # Deformable convolutions have no operator in the opset of the export.
    "mos_s": Network(build=mos_s, small=SMALL, inputs=_pictures, export=False),
    "mos_m": Network(build=mos_m, small={"width": 0.25, "channels": 32, "pose": 16}, inputs=_pictures, export=False),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
