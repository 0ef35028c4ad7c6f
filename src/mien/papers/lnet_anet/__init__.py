"""LNets and ANet: 40 attributes of a face, read from raw photographs without a face detector (Liu et al., 2015).

Two networks find the face although nobody ever gave them a box: both are trained by the tags of whole pictures alone,
and where the mean of their last convolution is large, there is the head (LNet_o), and in its crop the face (LNet_s). A
third, ANet, learns who is in such windows and then their attributes, by filters that differ from part to part of the
face; a linear machine for each attribute reads its features from several shifted views. The paper also made CelebA and
LFWA.

    mien.nn.lnet        LNet, response maps, windows, density peaks
    mien.nn.anet        locally shared filters, ANet, interwoven views, losses, the cascade
    mien.train.recipes.attributes
                        all six stages of the training (``mien train attributes``)
    mien.data.head_scenes
                        rendered heads in clutter
    look.py             where the LNets look, drawn; attributes of any photograph
    neurons.py          which neurons of FC stand for which attribute
    checkpoint.py       trained weights for the verbs (``mien weights import lnet_anet``)

Where this differs from the paper, and why
------------------------------------------
Written from a description of the paper; the authors released neither code nor weights. What it does not say is chosen
here, and is a number or a name that can be changed:

- LNet's sizes are AlexNet's without groups: 96, 256, 384, 384 and 256 channels. Only C1's are known for sure. The
  variant "torchvision" takes the weights of torchvision's AlexNet for the pre-training on ImageNet; the first stage of
  the recipe trains it oneself.
- The tags are read from the largest value of each channel of C5, so that small faces count; ``pool="mean"`` is there.
- Windows slide over the response map; the paper scores EdgeBoxes' proposals, which `window_scores` takes as well. A
  window's score is its mean response less that of a ring around it, without which the smallest one about the peak wins.
  The map is taken less its median, and without a frame of one cell, where zero padding answers.
- LNet_s sees twice LNet_o's window, ANet 1.2 times LNet_s's: tag-trained maps answer to what tells most, and
  windows come out small or shifted.
- ANet's channels and FC are those of DeepID, which its design follows (20, 40, 60, 80; 160), its input 64 px. C3 and C4
  share filters in 2 x 2 cells; ``grid=1`` shares them everywhere, which is better for loose windows.
- Views: the middle and four corners, 8 px apart, and their mirror images; their features are concatenated. Views share
  C1 and C2, and C3 is interwoven from answers to the whole window, which gives the same as reading each view by itself.
- Pre-training on identities: softmax, and 0.01 times the mean squared distance of pictures of one person. The paper's
  weight is not known.
- Linear machines minimise LIBLINEAR's squared hinge in the one training loop, on standardised features.
- Optimiser and rates are AlexNet's; no gradient flows from ANet through the windows to the LNets.
- In ``mien analyze`` the reader begins at LNet_s: the detector of mien stands in for LNet_o, since the verbs want five
  points of every face, and LNets give none. `look` runs the whole without any detector.

Weights. There is no official checkpoint, so there is no ``convert_official``, and `WEIGHTS` is empty; `import_official`
declares a run of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mien.nn.anet import (
    CELEBA,
    ANet,
    Cascade,
    HeadReader,
    Identified,
    Linear,
    LocallyShared,
    Read,
    anet,
    attribute_figures,
    cascade,
    head_reader,
    hinge_loss,
    identity_loss,
    tag_loss,
)
from mien.nn.lnet import (
    VARIANTS,
    LNet,
    Objects,
    Windows,
    best_windows,
    density_peaks,
    lnet,
    settled,
    several_windows,
    sliding,
    start_from_torchvision,
    window_scores,
)
from mien.papers.card import Network, Paper
from mien.papers.lnet_anet.checkpoint import decode, import_official, load_cascade
from mien.papers.lnet_anet.look import Look, look, overlay
from mien.papers.lnet_anet.neurons import Neuron, neurons
from mien.weights import Weights

__all__ = [
    "CELEBA",
    "NETWORKS",
    "PAPER",
    "VARIANTS",
    "WEIGHTS",
    "ANet",
    "Cascade",
    "HeadReader",
    "Identified",
    "LNet",
    "Linear",
    "LocallyShared",
    "Look",
    "Neuron",
    "Objects",
    "Read",
    "Windows",
    "anet",
    "attribute_figures",
    "best_windows",
    "cascade",
    "decode",
    "density_peaks",
    "head_reader",
    "hinge_loss",
    "identity_loss",
    "import_official",
    "lnet",
    "load_cascade",
    "look",
    "neurons",
    "overlay",
    "settled",
    "several_windows",
    "sliding",
    "start_from_torchvision",
    "tag_loss",
    "window_scores",
]

PAPER = Paper(
    slug="lnet_anet",
    title="Deep Learning Face Attributes in the Wild",
    authors=("Ziwei Liu", "Ping Luo", "Xiaogang Wang", "Xiaoou Tang"),
    venue="ICCV",
    year=2015,
    arxiv="1411.7766",
    code=None,
    code_licence=None,
    task="analysis",
    verb="mien train attributes",
)


def _pictures(side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, 3, side, side),)


NARROW: dict[str, Any] = {"channels": (8, 8, 8, 8), "fc": 16, "tags": 5}
SMALL: dict[str, Any] = {**NARROW, "variant": "small", "size": 64, "anet_size": 40}

NETWORKS: dict[str, Network] = {
    "lnet": Network(build=lnet, small={"width": 0.1, "tags": 5}, inputs=_pictures(99)),
    "anet": Network(build=anet, small={"size": 40, **NARROW}, inputs=_pictures(40)),
    # What is cut depends on what is found, at a fineness of the input's size: nothing that ONNX traces.
    "head_reader": Network(build=head_reader, small=SMALL, inputs=_pictures(64), export=False),
    "cascade": Network(build=cascade, small=SMALL, inputs=_pictures(96), export=False),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
