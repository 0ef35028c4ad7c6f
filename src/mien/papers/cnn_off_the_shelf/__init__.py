"""Off-the-shelf features: a frozen network and a linear machine on top (Sharif Razavian et al., 2014).

A network that was trained for something else (OverFeat, on the classes of ImageNet) is frozen, and one of its fully
connected layers taken as a descriptor of any picture. Brought to unit length, with sixteen jittered representations a
picture and a signed square where there are several, it is handed to a linear support vector machine for each task, or
whitened and compared patch by patch to retrieve instances. That baseline beat tuned systems in the recognition of
scenes, flowers, birds and attributes of people; here it probes any network, layer by layer.

    network.py      OverFeat, large and small, as published
    checkpoint.py   its flat files of float32 into ours
    backbone.py     any network of mien, timm or torchvision, at any layer by name
    views.py        the sixteen representations, and the patches of the spatial search
    svm.py          unit length, signed power, machines one against one and one against all, average precision
    retrieval.py    whitening, spatial search, mAP, recall at 4
    probe.py        a probe in a file; the curve of layers

Where this differs from the paper, and why
------------------------------------------
- Which layer. The paper speaks of "layer 22" as the first fully connected one; OverFeat's package gives that number by
  counting padding, too, and both of its layers of 4096 units are plausible. Both are here by the names "fc1" and "fc2";
  the default is "fc1", as the text says.
- Rectified or not. The paper's curve drops a little at each ReLU in the middle of the network; what it used for its
  tables is not said. "fc1" and "fc2" are taken after their ReLU, all other layers as they come; ``rectify`` decides.
- Two turns. Their angle was not published; it is 10 degrees here, and an option.
- Corners. The turned picture's corners see its edge repeated; the paper does not say.
- Signed square. It is followed by unit length, so that C keeps its meaning; ``transformed(…, again=False)`` is the
  formula alone. It is for sparse features of thousands of numbers and the default nowhere but with the sixteen
  representations in `mien probe`.
- Bias. The formula has none, and the paper's solvers had one; ours has one, and ``bias=False`` leaves it out.
- Solvers. LIBSVM on a precomputed kernel without jitter and LIBLINEAR's primal (whose loss is the squared hinge) with
  it, as in the paper; LIBLINEAR's dual where there are more samples than dimensions, which minimises the same hinge
  loss and regularises the bias.
- C. The paper chose it for each data set by cross-validation and so does this; no fold parts the representations of a
  picture, nor, where they are known, the pictures of a person.
- Votes. A tie between classes goes to the one with the larger sum of responses; LIBSVM takes the first.
- Patches. "Of equal size, overlapping, covering the picture" leaves their size open: at level i it is 2 / (i + 1) of
  each side.
- Pixels. OverFeat's own tool cuts a square from the middle; the paper squashes, and so does this.
- Average precision. Summed over all recalls; ``points=11`` is that of VOC 2007.
- Maps of inner layers are averaged over their places by default. How the paper's curve treats them it does not say.

Weights. OverFeat's licence forbids passing its files on, so `WEIGHTS` is empty; ``mien weights import
cnn_off_the_shelf net_weight_1`` converts a file that you have.

What was recalled and not found again: the angle of the turns, the layout of the sub-patches, the MIT-67 split.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.papers.card import Network, Paper
from mien.papers.cnn_off_the_shelf.backbone import (
    POOLS,
    Backbone,
    Layer,
    aliases,
    backbone,
    described,
    features,
    layers,
    of_module,
    pooled,
    resolved,
)
from mien.papers.cnn_off_the_shelf.checkpoint import (
    RELEASED,
    convert_official,
    import_official,
    layout,
    read_official,
    split,
)
from mien.papers.cnn_off_the_shelf.network import LARGE, MEAN, SMALL, STD, OverFeat, overfeat_large, overfeat_small
from mien.papers.cnn_off_the_shelf.probe import (
    LayerPoint,
    Probe,
    Recipe,
    figures,
    fitted,
    layer_curve,
    load_probe,
    mean_figure,
    recipe_of,
    train_probe,
)
from mien.papers.cnn_off_the_shelf.retrieval import (
    DIM,
    QUERY_LEVELS,
    REFERENCE_LEVELS,
    Space,
    all_pairs_truth,
    distances,
    fit_space,
    mean_average_precision,
    recall_at,
)
from mien.papers.cnn_off_the_shelf.svm import (
    CS,
    FOLDS,
    POWER,
    Fit,
    LinearClassifier,
    average_precision,
    fit_attributes,
    fit_classes,
    fold_rows,
    mean_class_accuracy,
    signed_power,
    transformed,
    unit,
    votes,
)
from mien.papers.cnn_off_the_shelf.views import (
    ANGLE,
    JITTERS,
    ORIGINAL,
    View,
    gentle_views,
    paper_views,
    patches,
    represent,
    views_of,
    with_mirrors,
)
from mien.weights import Weights

__all__ = [
    "ANGLE",
    "CS",
    "DIM",
    "FOLDS",
    "JITTERS",
    "LARGE",
    "MEAN",
    "NETWORKS",
    "ORIGINAL",
    "PAPER",
    "POOLS",
    "POWER",
    "QUERY_LEVELS",
    "REFERENCE_LEVELS",
    "RELEASED",
    "SMALL",
    "STD",
    "WEIGHTS",
    "Backbone",
    "Fit",
    "Layer",
    "LayerPoint",
    "LinearClassifier",
    "OverFeat",
    "Probe",
    "Recipe",
    "Space",
    "View",
    "aliases",
    "all_pairs_truth",
    "average_precision",
    "backbone",
    "convert_official",
    "described",
    "distances",
    "features",
    "figures",
    "fit_attributes",
    "fit_classes",
    "fit_space",
    "fitted",
    "fold_rows",
    "gentle_views",
    "import_official",
    "layer_curve",
    "layers",
    "layout",
    "load_probe",
    "mean_average_precision",
    "mean_class_accuracy",
    "mean_figure",
    "of_module",
    "overfeat_large",
    "overfeat_small",
    "paper_views",
    "patches",
    "pooled",
    "read_official",
    "recall_at",
    "recipe_of",
    "represent",
    "resolved",
    "signed_power",
    "split",
    "train_probe",
    "transformed",
    "unit",
    "views_of",
    "votes",
    "with_mirrors",
]

PAPER = Paper(
    slug="cnn_off_the_shelf",
    title="CNN Features off-the-shelf: an Astounding Baseline for Recognition",
    authors=("Ali Sharif Razavian", "Hossein Azizpour", "Josephine Sullivan", "Stefan Carlsson"),
    venue="CVPR Workshops",
    year=2014,
    arxiv="1403.6382",
    code=None,
    code_licence=None,
    task="analysis",
    verb="mien probe fit --labels labels.csv",
)


def _pictures(side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, 3, side, side),)


NETWORKS: dict[str, Network] = {
    "overfeat_large": Network(
        build=overfeat_large, small={"size": 77, "width": 0.0625, "hidden": 32, "classes": 10}, inputs=_pictures(77)
    ),
    "overfeat_small": Network(
        build=overfeat_small, small={"size": 71, "width": 0.0625, "hidden": 32, "classes": 10}, inputs=_pictures(71)
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
