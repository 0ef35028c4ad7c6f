"""FaceNet: a unit vector for a face, in which squared distance is dissimilarity (Schroff, Kalenichenko, Philbin, 2015).

A network is trained end to end so that every face is nearer to all faces of the same person than to any face of
another, by a margin. Triplets for that are found online, inside large batches: for each pair of one person, a negative
that is farther than the positive but within the margin ("semi-hard"). Verification is then a threshold, identification
nearest neighbours, clustering agglomerative; an appendix ties a new network to an old one's space ("harmonic").

    network.py      NN1 to NN4, the small nets, Inception-ResNet-v1
    embedding.py    crops and pixels in; mirrored pairs and 128 bytes out
    protocol.py     VAL at FAR, LFW, YouTube Faces, clustering
    checkpoint.py   public checkpoints into ours
    mien.nn.triplet, mien.nn.inception, mien.train.recipes.triplet
                    distances, mining and losses; the shared blocks; the training (``mien train triplet``)

Where this differs from the paper, and why
------------------------------------------
- Normalisation. The paper has local response normalisation and no batch normalisation; every reimplementation puts the
  latter after each convolution. That is the default here, since the former does not start to learn in the time that
  anybody but the authors has; ``norm="lrn"`` gives the paper's networks (NN2 has then its 7,456,304 parameters).
- NN4. The paper says "without 5 x 5 convolutions in the higher layers" only; the table is OpenFace's. `nn4_small2` is
  OpenFace's own.
- NNS1 and NNS2. Their tables were not published. Ours have fewer and narrower blocks of NN2 and a hidden layer on the
  flattened map, with width and hidden units chosen to meet the parameters and the work that the paper states.
- Work. The paper's "1.6 billion FLOPS" of NN1 and NN2 are multiply-accumulates; mien counts those as MACs.
- Pixels. The paper does not say how they are normalised. Networks trained here see ``(x - 127.5) / 128``, as the public
  checkpoints do.
- Batches. The paper has about 1,800 pictures: some 40 of each of some 45 people, and random others. The preset takes 44
  people with 40 each and 40 random others. Mining and training use one forward pass. D. Sandberg's reimplementation
  mines in one and trains in another, on small batches, for which batch normalisation gives other distances.
- The loss is averaged over active triplets, not over all. Equation 3 is a sum, whose scale depends on the batch.
- Mining. "semi_hard" draws one of the semi-hard negatives, as the code of the reimplementation would; the paper can be
  read as asking for the nearest ("nearest_semi_hard"). The reimplementation's own default is "violator".
- Harmonic triplets. Which mixtures of old and new the authors used stands in a figure only: we use all seven that have
  a gradient, with equal weight, mined semi-hard in the distances of each.
- Clustering. The paper says "agglomerative"; we join by mean squared distance, down to a threshold.
- Inception-ResNet-v1 is not the paper's. It is what the public checkpoints are of, which were trained with a softmax
  over people, not with triplets.

Weights. The authors released none. Of the two public checkpoints of third parties no SHA-256 has been published that we
know, so none is declared here and `WEIGHTS` is empty; `import_official` converts and declares a file that you have.

What was recalled and not found again: the table of architectures and the last of the embedding sizes in the paper's
results; defaults of the reimplementation's margins.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.nn.inception import InceptionResnetV1
from mien.nn.triplet import (
    KINDS,
    MARGIN,
    RULES,
    Triplets,
    embedding_layers,
    harmonic_loss,
    mine,
    restart_embedding,
    rotation_onto,
    squared_distances,
    triplet_loss,
)
from mien.papers.card import Network, Paper
from mien.papers.facenet.checkpoint import (
    BOX_MARGIN,
    RELEASED,
    convert_official,
    declaration,
    import_official,
    tensorflow_names,
)
from mien.papers.facenet.embedding import (
    dequantise,
    embed_with_mirror,
    fixed_standardisation,
    image_standardisation,
    margin_boxes,
    margin_crops,
    quantise,
)
from mien.papers.facenet.network import (
    Inception,
    ZeilerFergus,
    inception_resnet_v1,
    nn1,
    nn2,
    nn3,
    nn4,
    nn4_small2,
    nns1,
    nns2,
)
from mien.papers.facenet.protocol import (
    ACCURACY_GRID,
    LFW_THRESHOLD,
    VAL_GRID,
    Validation,
    cluster,
    folds_of,
    hold_out,
    lfw_accuracy,
    lfw_validation,
    rates,
    val_at_far,
    video_distances,
)
from mien.weights import Weights

__all__ = [
    "ACCURACY_GRID",
    "BOX_MARGIN",
    "KINDS",
    "LFW_THRESHOLD",
    "MARGIN",
    "NETWORKS",
    "PAPER",
    "RELEASED",
    "RULES",
    "VAL_GRID",
    "WEIGHTS",
    "Inception",
    "InceptionResnetV1",
    "Triplets",
    "Validation",
    "ZeilerFergus",
    "cluster",
    "convert_official",
    "declaration",
    "dequantise",
    "embed_with_mirror",
    "embedding_layers",
    "fixed_standardisation",
    "folds_of",
    "harmonic_loss",
    "hold_out",
    "image_standardisation",
    "import_official",
    "inception_resnet_v1",
    "lfw_accuracy",
    "lfw_validation",
    "margin_boxes",
    "margin_crops",
    "mine",
    "nn1",
    "nn2",
    "nn3",
    "nn4",
    "nn4_small2",
    "nns1",
    "nns2",
    "quantise",
    "rates",
    "restart_embedding",
    "rotation_onto",
    "squared_distances",
    "tensorflow_names",
    "triplet_loss",
    "val_at_far",
    "video_distances",
]

PAPER = Paper(
    slug="facenet",
    title="FaceNet: A Unified Embedding for Face Recognition and Clustering",
    authors=("Florian Schroff", "Dmitry Kalenichenko", "James Philbin"),
    venue="CVPR",
    year=2015,
    arxiv="1503.03832",
    code=None,
    code_licence=None,
    task="recognition",
    verb="mien embed",
)


def _pictures(height: int, width: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, 3, height, width),)


NETWORKS: dict[str, Network] = {
    "nn1": Network(build=nn1, small={"size": 64, "width": 0.125, "hidden": 64, "dim": 16}, inputs=_pictures(64, 64)),
    "nn2": Network(build=nn2, small={"width": 0.125, "dim": 16}, inputs=_pictures(64, 64)),
    "nn3": Network(build=nn3, small={"width": 0.125, "dim": 16}, inputs=_pictures(64, 64)),
    "nn4": Network(build=nn4, small={"width": 0.125, "dim": 16}, inputs=_pictures(64, 64)),
    "nn4_small2": Network(build=nn4_small2, small={"width": 0.125, "dim": 16}, inputs=_pictures(64, 64)),
    "nns1": Network(build=nns1, small={"size": 64, "width": 0.125, "hidden": 32, "dim": 16}, inputs=_pictures(64, 64)),
    "nns2": Network(build=nns2, small={"size": (64, 48), "width": 0.125, "hidden": 32}, inputs=_pictures(64, 48)),
    "inception_resnet_v1": Network(
        build=inception_resnet_v1,
        small={"width": 0.125, "repeats": (1, 1, 1), "dim": 16},
        inputs=_pictures(80, 80),
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
