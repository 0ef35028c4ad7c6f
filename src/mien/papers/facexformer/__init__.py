"""FaceXFormer: eight questions about a face, answered by one network in one pass (Narayan et al., 2024).

Each task, and each class of the parsing, is a learned token. A light transformer lets the tokens read from a face map,
which an encoder's four scales were fused into, and lets the map read back from the tokens; a small head a task answers
from its token. It is trained on many sets at once, each of which has labels for one task, in batches with an equal
share of every task.

    mien.nn.facex                    encoder, fusion, decoder, heads
    mien.train.tasks                 the losses, where labels are missing
    mien.train.task_sets             readers of the sets
    mien.train.recipes.face_tasks    joint training (``mien train face_tasks``)
    answers.py                       the network as reader, parser or landmarks of the verbs; the authors' crop
    checkpoint.py                    the released file into ours

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- Version. The released weights, and this card, are of the first version: landmarks, pose, attributes, visibility, age,
  gender, race and parsing. The second version's expression is an option of the training (``tasks=…,expression``); the
  third's recognition is not here, since its head and its loss are not known.
- Training. No training code was released. Losses, sets and schedule are as the paper names them; factors of the tasks
  are 1. The paper's STAR loss needs heatmaps, which a head that gives coordinates has not: landmarks learn by the wing
  loss. The distance of the expected age counts in decades, so that it is of the size of the cross-entropy beside it.
- Order of classes. Neither the 11 classes of the parsing nor the groups of age and race are documented. Ours are LaPa's
  order, decades from 0 to 70 and more, and UTKFace's order; ``classes=`` of `import_official` takes another one.
- Features of the stages are returned; the released code collects them by hooks on the module, which neither several
  devices nor a compiler bear. Its encoder's last normalisation is computed and unused, and left out here.
- Rows are picked by task in `pick` alone; `FaceXFormer` answers all, or what ``only=`` names.
- The crop. The authors squeeze a box grown by half, clipped to the picture, to a square (`official_crop`); verbs and
  training cut a square, one and a half of the longer side wide, which keeps the proportions.
- Pose is told in mien's angles (`degrees_of`), and replaces that of the landmarks where this network is the reader.
- Gender and race are answered by the network, for audits, and never by the verbs.
- Sets. 300W, 300W-LP, CelebA, CelebAMask-HQ, UTKFace, FairFace and FER+ are read. COFW's own file is of Matlab's newer
  format, so a table of visible points stands for it (see the page); RAF-DB and AffectNet are not read.

Weights. The authors' file is on Hugging Face without a hash that we know, so none is declared here and `WEIGHTS` is
empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mien.nn.facex import MASKS, OUTPUTS, SWINS, Decoder, FaceXFormer, Fusion, PositionCode, pixels, unit_points
from mien.papers.card import Network, Paper
from mien.papers.facexformer.answers import IDS, ORDER, Parts, Points, Reading, decode, official_crop, pick
from mien.papers.facexformer.checkpoint import convert_official, declaration, import_official, shape_of
from mien.train.tasks import (
    AGE_CENTRES,
    ATTRIBUTES,
    CLASSES,
    COFW29,
    GENDERS,
    LOSSES,
    RACES,
    age_loss,
    angles_of,
    class_loss,
    degrees_of,
    flag_loss,
    geodesic_loss,
    landmark_loss,
    parsing_loss,
    rotation_of,
    task_losses,
)
from mien.weights import Weights

__all__ = [
    "AGE_CENTRES",
    "ATTRIBUTES",
    "CLASSES",
    "COFW29",
    "GENDERS",
    "IDS",
    "LOSSES",
    "MASKS",
    "NETWORKS",
    "ORDER",
    "OUTPUTS",
    "PAPER",
    "RACES",
    "SWINS",
    "WEIGHTS",
    "Decoder",
    "FaceXFormer",
    "Fusion",
    "Parts",
    "Points",
    "PositionCode",
    "Reading",
    "age_loss",
    "angles_of",
    "class_loss",
    "convert_official",
    "declaration",
    "decode",
    "degrees_of",
    "facexformer",
    "flag_loss",
    "geodesic_loss",
    "import_official",
    "landmark_loss",
    "official_crop",
    "parsing_loss",
    "pick",
    "pixels",
    "rotation_of",
    "shape_of",
    "task_losses",
    "unit_points",
]

PAPER = Paper(
    slug="facexformer",
    title="FaceXFormer: A Unified Transformer for Facial Analysis",
    authors=("Kartik Narayan", "Vibashan VS", "Rama Chellappa", "Vishal M. Patel"),
    venue="ICCV",
    year=2025,
    arxiv="2403.12960",
    code="https://github.com/Kartik-3004/facexformer",
    code_licence="MIT",
    task="analysis",
    verb="mien analyze --reader",
)


def facexformer(**arguments: Any) -> FaceXFormer:
    """The network in the paper's size: Swin-B at 224 px, a decoder of 256 channels, 92.0 M parameters.

    Arguments are those of `FaceXFormer`.
    """
    return FaceXFormer(**arguments)


def _crops(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 64, 64),)


SMALL: dict[str, Any] = {
    "backbone": "swin",
    "options": {"embed_dim": 16, "depths": (1, 2, 1, 1), "heads": (1, 2, 2, 4), "window": 4, "drop_path": 0.0},
    "size": 64, "dim": 64, "heads": 4, "hidden": 64,
}  # fmt: skip
CONV: dict[str, Any] = {
    "backbone": "conv", "options": {"widths": (16, 16, 24, 32)}, "size": 64, "dim": 64, "heads": 4, "hidden": 64,
}  # fmt: skip

NETWORKS: dict[str, Network] = {
    "facexformer_conv": Network(build=facexformer, small=CONV, inputs=_crops),
    "facexformer": Network(build=facexformer, small=SMALL, inputs=_crops),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
