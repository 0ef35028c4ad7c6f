"""Where expression classifiers look, and whether people look there (Gaya-Morey et al., 2024).

LIME maps of many faces are warped to one mean face and averaged, for each network and expression. The global maps are
thresholded and compared with masks drawn from Ekman and Friesen's descriptions of the expressions, and with each other,
which gives a tree of networks for each expression. Twelve networks were audited so: four of the field's own and eight
made for ImageNet; the first look elsewhere than the second.

    mien.nn.expression      the twelve networks, as Keras has them; what each wants to see
    checkpoint.py           the authors' HDF5 files into ours, and a declaration for the verbs
    lime.py                 superpixels, samples, the weighted ridge regression
    canvas.py               the mean face, and the warp to it
    masks.py                the six masks
    compare.py              Otsu, overlaps with controls, correlation, trees
    audit.py                from a model and pictures to global maps
    mien.train.recipes.expression, mien.verbs.audit
                            the training (``mien train expression``); the audit of any model (``mien audit explain``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- Chance. The paper reports IoU with the right mask only. By its own files, the five wrong masks give .262 on average
  against .269, and independent masks about .143: most of what is above chance is "inside the face". Here every figure
  comes with the wrong masks', that of a random mask within the face, and a p-value over displaced masks.
- AUC is added: Otsu's threshold marks about a quarter of the canvas whatever the map, which favours spread-out maps.
- Preparation. The authors give all networks pixels through 255, though ResNet50 and VGG were made for BGR less a mean,
  and two scale 0 … 255 themselves. What we train sees what its trunk was made for (`PREPARED`); what the authors
  trained sees what they gave it (`PREPARED_AS_PUBLISHED`).
- Triangles. The code triangulates each picture's points, and walks over pixels and triangles in Python. Here the mean
  face is triangulated once, and the warp is one gather: no picture can fold it, and triangles of no area hold no pixel.
- Mean face. Theirs is what dlib's predictor says of a black canvas. Ours is the project's mean shape, stretched to the
  places known of it; the masks are drawn on the same points. Of their areas four lie within .02 of the authors' (anger
  .25, fear .30, happiness .21, surprise .22); disgust is .21 instead of .23 and sadness .27 instead of .31, whose
  outline the description leaves open. ``masks=FOLDER`` takes the authors' own files.
- Maps stay floats. The code stores ``255 * coefficient`` rounded down, so that what is below 1/255 vanishes;
  ``Lime(rounded=True)`` does so. ``equal=True`` lets pictures of strong effects count no more than others.
- Hiding. Black, as in the paper; ``hide="mean"`` changes maps much, and is part of every report.
- Regression. The normal equations of the weighted ridge regression instead of scikit-learn's, to the same numbers.
- Epochs of MobileNetV3 and EfficientNetV2. A missing comma joins their names in the authors' list of twelve, beside
  fourteen numbers; those of the table are taken by their place.
- Folds. How the authors cut theirs is not known. Ours keep people apart, by the first part of a file's name.
- The authors' crops were made by another detector, how is not known; the networks are given upright faces as ArcFace
  cuts them (``arcface112``).
- The authors' four own networks are read on the assumption that their layers have the names that Keras counts.

Weights. The authors' files are on Hugging Face without hashes that we know, so none is declared here and `WEIGHTS` is
empty; `import_official` converts and declares a file that you have (extra ``audit``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.nn.expression import (
    CLASSIFIERS,
    EKMAN,
    PREPARED,
    PREPARED_AS_PUBLISHED,
    PRETRAINED,
    alexnet,
    efficientnetv2b0,
    expression,
    inceptionv3,
    mobilenetv3,
    resnet50,
    resnet101v2,
    silnet,
    songnet,
    vgg16,
    vgg19,
    weinet,
    xception,
)
from mien.nn.keras import read_keras
from mien.papers.card import Network, Paper
from mien.papers.fer_xai.audit import (
    ExpressionModel,
    GlobalMap,
    chosen,
    global_maps,
    of_network,
    probabilities,
)
from mien.papers.fer_xai.canvas import HEIGHT, WIDTH, global_map, stretched, template, to_canvas
from mien.papers.fer_xai.checkpoint import (
    classifier,
    convert_official,
    convert_trunk,
    declaration,
    decode,
    import_official,
    network_of,
)
from mien.papers.fer_xai.compare import (
    Overlap,
    against,
    auc,
    binary,
    chance_iou,
    correlations,
    iou,
    otsu,
    shifted_ious,
    tree,
    within_and_across,
)
from mien.papers.fer_xai.lime import Lime, coefficients, explain, superpixels
from mien.papers.fer_xai.masks import POLYGONS, ekman_masks, face_mask, painted
from mien.weights import Weights

__all__ = [
    "CLASSIFIERS",
    "EKMAN",
    "HEIGHT",
    "NETWORKS",
    "PAPER",
    "POLYGONS",
    "PREPARED",
    "PREPARED_AS_PUBLISHED",
    "PRETRAINED",
    "WEIGHTS",
    "WIDTH",
    "ExpressionModel",
    "GlobalMap",
    "Lime",
    "Overlap",
    "against",
    "alexnet",
    "auc",
    "binary",
    "chance_iou",
    "chosen",
    "classifier",
    "coefficients",
    "convert_official",
    "convert_trunk",
    "correlations",
    "declaration",
    "decode",
    "efficientnetv2b0",
    "ekman_masks",
    "explain",
    "expression",
    "face_mask",
    "global_map",
    "global_maps",
    "import_official",
    "inceptionv3",
    "iou",
    "mobilenetv3",
    "network_of",
    "of_network",
    "otsu",
    "painted",
    "probabilities",
    "read_keras",
    "resnet50",
    "resnet101v2",
    "shifted_ious",
    "silnet",
    "songnet",
    "stretched",
    "superpixels",
    "template",
    "to_canvas",
    "tree",
    "vgg16",
    "vgg19",
    "weinet",
    "within_and_across",
    "xception",
]

PAPER = Paper(
    slug="fer_xai",
    title=(
        "Unveiling the human-like similarities of automatic facial expression recognition: An empirical "
        "exploration through explainable AI"
    ),
    authors=("F. Xavier Gaya-Morey", "Silvia Ramis-Guarinos", "Cristina Manresa-Yee", "Jose M. Buades-Rubio"),
    venue="Multimedia Tools and Applications",
    year=2024,
    arxiv="2401.11835",
    code="https://github.com/Xavi3398/ekman_expressions",
    code_licence="MIT",
    task="audit",
    verb="mien audit explain",
    published="journal",
)


def _pictures(size: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.rand(n, 3, size, size),)


NETWORKS: dict[str, Network] = {
    "songnet": Network(build=songnet, small={"size": 32, "width": 0.25}, inputs=_pictures(32)),
    "alexnet": Network(build=alexnet, small={"size": 48, "width": 0.1}, inputs=_pictures(48)),
    "weinet": Network(build=weinet, small={"size": 16, "width": 0.25}, inputs=_pictures(16)),
    "silnet": Network(build=silnet, small={"size": 16, "width": 0.25}, inputs=_pictures(16)),
    "vgg16": Network(build=vgg16, small={"width": 0.125}, inputs=_pictures(32)),
    "vgg19": Network(build=vgg19, small={"width": 0.125}, inputs=_pictures(32)),
    "resnet50": Network(build=resnet50, small={"width": 0.125, "depths": (1, 1, 1, 1)}, inputs=_pictures(32)),
    "resnet101v2": Network(build=resnet101v2, small={"width": 0.125, "depths": (2, 2, 1, 1)}, inputs=_pictures(32)),
    "inceptionv3": Network(build=inceptionv3, small={"width": 0.125}, inputs=_pictures(76)),
    "xception": Network(build=xception, small={"width": 0.125, "middle": 1}, inputs=_pictures(48)),
    "mobilenetv3": Network(build=mobilenetv3, small={"width": 0.25}, inputs=_pictures(32)),
    "efficientnetv2b0": Network(
        build=efficientnetv2b0, small={"width": 0.25, "repeats": (1, 2, 1, 1, 2, 1)}, inputs=_pictures(32)
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
