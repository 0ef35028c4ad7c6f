"""UNPG: negatives between pictures and negatives to class vectors in one denominator (Jung et al., 2022).

Margin softmax compares each face with the learned vector of every other person: many negatives, all of them easy. Pairs
of two people within a batch are hard and few; this paper adds them, after a box-and-whisker filter that drops what is
probably mislabelled, as further terms to the denominator of every sample. One cross-entropy then asks that every
positive similarity exceed every negative one, at no cost when the network is used.

    loss.py         the head: softmax, CosFace, ArcFace or MagFace, with pairs or with the baselines' second losses
    network.py      what the networks see; a face and its mirror image
    checkpoint.py   released checkpoints into ours
    torchscript.py  tensors out of TorchScript, without running it
    protocol.py     TAR at the nearest FAR, IJB's templates
    mien.nn.negatives, mien.nn.iresnet, mien.train.recipes.margin
                    pairs, filter and loss; the network; the training (``mien train margin negatives=unpg``)

Where this differs from the paper and its code, and why
-------------------------------------------------------
- The sum over pairs is computed once. The code appends all pairs to each row of the logits, 440 MB for a batch of 512;
  their logarithm of a sum is the same number for every row, so that adding it is exact.
- Several processes. The code gathers features on one device (DataParallel), and warns that one process for each device
  lowers accuracy, since each then sees its own pairs only. Here processes fetch each other's vectors, with gradients:
  one process and many give the same.
- ArcFace. The code's ``cos(t + m)`` rises again beyond ``t + m = pi``; ours goes on falling there, and ``guard=False``
  is theirs. Both have the true derivative. Its cosines are not kept from +-1, where the gradient is NaN; ours are.
- Sampling. Batches are plain permutations, as in the code. With `images=2` the recipe deals two pictures of each
  person, which the code has and does not use.
- MagFace's branch of the code does not run, nor does its training loop as published; what they are meant to do is here.
- Weight decay spares normalisations, biases and PReLUs, as in all recipes here; in the code nothing is spared.
- Precision. float16 with a loss scale in the code, bfloat16 here; pairs and cross-entropy are in float32 in both.
- CosFace's margin is 0.5, the shipped configuration's; the class default of 0.35 is used nowhere.
- Weights of the first class vectors are the code's in `UnifiedHead` (Xavier; for MagFace uniform, of unit length). The
  recipe's class layer has its own, the same for any number of processes.

Weights. The released files are pickled modules, and no SHA-256 has been published that we know; so `WEIGHTS` is empty,
and `import_official` takes the state dict of such a module, or the TorchScript file of the facetorch project.

Not found: results by the whiskers' reach and by batch size; the weight of the baselines' second losses (1 here).
Recalled: the number of K-FACE's training pictures, from which the preset's number of steps follows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mien.nn.negatives import (
    WHISKER,
    box_whisker,
    contrastive_term,
    gathered,
    negative_pairs,
    pairs_logsumexp,
    triplet_term,
    unified_loss,
    whiskers,
)
from mien.papers.card import Network, Paper
from mien.papers.unpg.checkpoint import (
    CONVERSION,
    Mirror,
    convert_official,
    declaration,
    import_official,
    layers_of,
    read_official,
)
from mien.papers.unpg.loss import HEADS, Aux, Head, UnifiedHead, arcface_unguarded, convert_head
from mien.papers.unpg.network import INPUT, Mirrored, iresnet34, iresnet50, iresnet100, iresnet_with_mirror
from mien.papers.unpg.protocol import FARS, ijb_templates, tar_at_nearest_far
from mien.papers.unpg.torchscript import is_torchscript, read_torchscript
from mien.weights import Weights

__all__ = [
    "CONVERSION",
    "FARS",
    "HEADS",
    "INPUT",
    "NETWORKS",
    "PAPER",
    "WEIGHTS",
    "WHISKER",
    "Aux",
    "Head",
    "Mirror",
    "Mirrored",
    "UnifiedHead",
    "arcface_unguarded",
    "box_whisker",
    "contrastive_term",
    "convert_head",
    "convert_official",
    "declaration",
    "gathered",
    "ijb_templates",
    "import_official",
    "iresnet34",
    "iresnet50",
    "iresnet100",
    "iresnet_with_mirror",
    "is_torchscript",
    "layers_of",
    "negative_pairs",
    "pairs_logsumexp",
    "read_official",
    "read_torchscript",
    "tar_at_nearest_far",
    "triplet_term",
    "unified_loss",
    "whiskers",
]

PAPER = Paper(
    slug="unpg",
    title="Unified Negative Pair Generation toward Well-discriminative Feature Space for Face Recognition",
    authors=("Junuk Jung", "Seonhoon Lee", "Heung-Seon Oh", "Yongjun Park", "Joochan Park", "Sungbin Son"),
    venue="BMVC",
    year=2022,
    arxiv="2203.11593",
    code="https://github.com/Jung-Jun-Uk/UNPG",
    code_licence="Apache-2.0",
    task="recognition",
    verb="mien train",
)


def _pictures(n: int) -> tuple[Tensor, ...]:
    return (torch.randn(n, 3, 32, 32),)


_SMALL = {"width": 0.125, "size": 32, "dim": 16}

NETWORKS: dict[str, Network] = {
    "iresnet34": Network(build=iresnet34, small=_SMALL, inputs=_pictures),
    "iresnet50": Network(build=iresnet50, small=_SMALL, inputs=_pictures),
    "iresnet100": Network(build=iresnet100, small=_SMALL, inputs=_pictures),
    "iresnet_with_mirror": Network(
        build=iresnet_with_mirror, small={**_SMALL, "layers": 34, "depths": (1, 1, 1, 1)}, inputs=_pictures
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
