"""Emotion-GCN: classifiers of emotions made by a graph of emotions, valence and arousal (Antoniadis et al., 2021).

Seven expressions are recognised, and valence and arousal estimated, from one picture of a face. The weights of these
nine answers are not learnt one by one but made from the words for them by two graph convolutions, whose edges link the
labels that go together in the training set. So what pleasant and stirred faces look like helps to tell rare classes.

    network.py      the graph on DenseNet-121 or BReG-NeXt-50, the baselines, the reader without a graph
    checkpoint.py   released files and our own runs into readers
    mien.nn.label_graph   correlations, edges, what is propagated by, the graph convolutions
    mien.nn.affect        features, heads, the loss
    mien.data.affect, mien.data.word_vectors     AffectNet, Aff-Wild2, files of word vectors
    mien.metrics.affect, mien.train.recipes.affect    figures; the training (``mien train affect``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- Transposed propagation. The matrix of the paper, p among a node's neighbours and 1 - p for itself, is transposed in
  the
  code before it is multiplied by, as in ML-GCN, which it follows. So it is here (``propagation="transposed"``);
  "symmetric" and "none" are there to compare with.
- Spearman. The code's correlations are of ranks; ``correlation="pearson"`` computes the other kind.
- A label without neighbours keeps all of itself, where the code would divide by zero.
- CCC. The code divides variances by n - 1 and the covariance by n, so that a perfect batch of 35 is given 34/35. Here
  all divide by n; ``official=True`` does as the code does.
- A and the words are buffers. In the code A is a parameter that is never trained, and the words come with every sample
  of a batch, of which the first is taken.
- Words. GloVe does not come with mien. A file of it, or the authors' ``emb.pkl``, is read; without one the nodes bear
  random vectors, always the same for a word, and the training warns. A released graph is imported with its own or not
  at all.
- AffectNet's correlations are the published ones to three digits; those between classes follow from the counts. The
  edges are the same. The matrix of Aff-Wild2 was not released: it is computed from the frames.
- Largest values. The graph's features are neither rectified nor averaged, and the baselines' are both, as in the code;
  a
  map of 7 x 7 is pooled whole, whatever its size. The single-task network is not known in detail and takes the
  multi-task one's features.
- Alignment. Pictures are turned about the middle between the eyes, the centre not being known. The code exchanges width
  and height of the turned picture; ``official_crop=True`` does so. Boxes become square inputs; the code scales the
  shorter side, so that batches of other boxes fail.
- Augmentation. The code calls a change of colours with no strength; there is none here. What a turn brings into view is
  black, and pixels are interpolated.
- Training. Biases and normalisation are not decayed here. The best epoch by accuracy is kept beside the last; that the
  code would stop after ten epochs without a better one cannot happen in its ten epochs.
- Eight classes are offered, with contempt, for which the correlations must come of the data.

Weights. The authors' files lie in a shared folder without hashes that we know, so none is declared here and `WEIGHTS`
is empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mien.nn.affect import affect_loss, cached, concordance, imagenet_features, nodes, stand_in_vectors
from mien.nn.label_graph import (
    AFFECTNET_COUNTS,
    EMOTIONS,
    adjacency,
    affectnet_correlations,
    correlations,
    edges,
    label_graph,
    propagation,
)
from mien.papers.card import Network, Paper
from mien.papers.emotion_gcn.checkpoint import convert_official, declaration, decode, import_official, shape_of
from mien.papers.emotion_gcn.network import (
    affect_reader,
    emotion_gcn,
    emotion_gcn_bregnext,
    multi_task,
    single_task,
)
from mien.weights import Weights

__all__ = [
    "AFFECTNET_COUNTS",
    "EMOTIONS",
    "NETWORKS",
    "PAPER",
    "WEIGHTS",
    "adjacency",
    "affect_loss",
    "affect_reader",
    "affectnet_correlations",
    "cached",
    "concordance",
    "convert_official",
    "correlations",
    "declaration",
    "decode",
    "edges",
    "emotion_gcn",
    "emotion_gcn_bregnext",
    "imagenet_features",
    "import_official",
    "label_graph",
    "multi_task",
    "nodes",
    "propagation",
    "shape_of",
    "single_task",
    "stand_in_vectors",
]

PAPER = Paper(
    slug="emotion_gcn",
    title="Exploiting Emotional Dependencies with Graph Convolutional Networks for Facial Expression Recognition",
    authors=("Panagiotis Antoniadis", "Panagiotis P. Filntisis", "Petros Maragos"),
    venue="IEEE FG",
    year=2021,
    arxiv="2106.03487",
    code="https://github.com/PanosAntoniadis/emotion-gcn",
    code_licence="GPL-3.0",
    task="analysis",
    verb="mien analyze --reader",
)


def _pictures(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 48, 48),)


DENSE: dict[str, Any] = {"growth": 8, "blocks": (2, 2), "width": 16}
BREG: dict[str, Any] = {"widths": (8, 16), "depths": (1, 1)}
GRAPH: dict[str, Any] = {"hidden": 16, "word_dim": 24}

NETWORKS: dict[str, Network] = {
    "emotion_gcn": Network(build=emotion_gcn, small={**DENSE, **GRAPH}, inputs=_pictures),
    "emotion_gcn_bregnext": Network(build=emotion_gcn_bregnext, small={**BREG, **GRAPH}, inputs=_pictures),
    "multi_task": Network(build=multi_task, small=DENSE, inputs=_pictures),
    "single_task": Network(build=single_task, small={"backbone": "bregnext50", **BREG}, inputs=_pictures),
    "affect_reader": Network(build=affect_reader, small=DENSE, inputs=_pictures),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
