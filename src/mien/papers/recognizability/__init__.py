"""Recognizability embedding enhancement: an embedding for faces of a few pixels, and how far each can be trusted.

Faces that no network can recognise gather in one place of the unit sphere, whoever they show. A face's recognizability
index (RI) says how far it lies from there, how near to its own class vector and how far from the next one; a linear
layer learns to tell it from the picture, and is a measure of face quality afterwards. In training, faces of low index
are pushed out of the statistics of the unrecognisable ("index diversion"), and an attention branch learns to look at
what of the embedding does not point there (Chai, Ng, Low, Park, Teoh, CVPR 2023).

    mien.nn.recognizability         proximities, forms of the index, losses, the centre, attention, `Recognizer`
    mien.train.recipes.recognizability
                                    the training (``mien train recognizability``)
    mien.data.low_resolution        pictures as if a few pixels wide, by one kernel
    mien.metrics.risk_coverage      errors among accepted searches
    checkpoint.py                   trained weights for the verbs (``mien weights import recognizability``)

Where this differs from the paper, and why
------------------------------------------
Written from a description of the paper, whose authors released neither code nor weights. Of several equations only the
directions are known. What is not is chosen here, and is a number or a name that can be changed:

- The index. The paper's formula is not known to us. Ours is ``tanh(d_UI d_N / (d_P + 1e-6))``: it rises and falls with
  the three distances as the paper says, and is bounded. CR-FIQA's ratio times d_UI, and the closed form of SlackedFace,
  by overlapping authors, are the others (``ri_form``).
- Index diversion is taken to be the one-sided loss of deviation networks, on mean and deviation of the *predicted*
  index of unrecognisable faces, which have no gradient and are measured anew every 50 steps (``refresh``). tau is 3;
  the paper's value is not known, deviation networks use 5.
- The attention's target is the unit embedding without its part along the centre, at unit length again and without a
  gradient; both sides are unit vectors. The attended map is averaged and projected by a layer of its own.
- The embedding at test is v, made of the plain map. Whether the paper's is v, the attended vector or both is not known;
  ``attend=true`` makes it of the attended map.
- Weights of the three terms beside ArcFace are 1, 0.1 and 1, after a warm-up of the class vectors alone.
- The regression reads the flattened last map after dropout; ``reads=embedding`` is the other way. What it reads is
  divided by the root of its length, without which it diverges at the rate of the other heads.
- Optimiser, rates, passes and augmentation are not known: SGD with 0.9, 1e-2 for the heads and a tenth of it for the
  backbone (by its gradient, which is the same for SGD but for the clipping of gradients), a cosine, 30 passes of
  TinyFace, mirroring, half of the pictures reduced to 12 to 40 px.
- The backbone is IResNet-50 of 512 numbers, trained with ArcFace; the description recalls "ResNet-50" and VGGFace2. A
  MobileFaceNet, which an ablation of the paper has, is there too; any backbone is, by ``network=``.
- The centre stays as it was found before fine-tuning, which we recall of the paper; ``centre_every`` finds it anew.
  Without crops of any quality (``ui_data``, whose largest cluster is taken) it is the mean of the training pictures
  reduced to 5 to 8 px of 112. A centre that is the mean of all faces is an error.
- Heads cannot be warmed up on several processes at once.

Weights. There is no official checkpoint, so there is no ``convert_official``, and `WEIGHTS` is empty; `import_official`
declares a run of one's own, so that the verbs know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mien.metrics.risk_coverage import RiskCoverage, risk_coverage
from mien.nn.recognizability import (
    RI_FORMS,
    Attention,
    Centre,
    Proximities,
    Recognizer,
    RiForm,
    Seen,
    attention_loss,
    diversion_loss,
    ers,
    free_of_centre,
    index_loss,
    proximities,
    rank_correlation,
    recognizability_index,
    recognizer,
    split,
    unrecognizable_centre,
)
from mien.papers.card import Network, Paper
from mien.papers.recognizability.checkpoint import BUILD, arguments_of, import_official
from mien.weights import Weights

__all__ = [
    "BUILD",
    "NETWORKS",
    "PAPER",
    "RI_FORMS",
    "WEIGHTS",
    "Attention",
    "Centre",
    "Proximities",
    "Recognizer",
    "RiForm",
    "RiskCoverage",
    "Seen",
    "arguments_of",
    "attention_loss",
    "diversion_loss",
    "ers",
    "free_of_centre",
    "import_official",
    "index_loss",
    "mobile",
    "proximities",
    "rank_correlation",
    "recognizability_index",
    "recognizer",
    "risk_coverage",
    "split",
    "unrecognizable_centre",
]

PAPER = Paper(
    slug="recognizability",
    title="Recognizability Embedding Enhancement for Very Low-Resolution Face Recognition and Quality Estimation",
    authors=("Jacky Chen Long Chai", "Tiong-Sik Ng", "Cheng-Yaw Low", "Jaewoo Park", "Andrew Beng Jin Teoh"),
    venue="CVPR",
    year=2023,
    arxiv="2304.10066",
    code=None,
    code_licence=None,
    task="recognition",
    verb="mien train",
    doi="10.1109/CVPR52729.2023.00960",
)


def mobile(
    *, arguments: Mapping[str, Any] | None = None, dim: int = 512, size: int = 112, dropout: float = 0.4,
    reduction: int = 16, reads: Literal["map", "embedding"] = "map", attend: bool = False,
    returns: Literal["all", "embedding"] = "all",
) -> Recognizer:  # fmt: skip
    """`recognizer` on a MobileFaceNet, as in an ablation of the paper: 1.5 M parameters, 0.22 GMAC at 112 px."""
    return recognizer(
        network="mien.nn.mobilefacenet:mobilefacenet", arguments=arguments, dim=dim, size=size, dropout=dropout,
        reduction=reduction, reads=reads, attend=attend, returns=returns,
    )  # fmt: skip


def _pictures(side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda n: (torch.randn(n, 3, side, side),)


NETWORKS: dict[str, Network] = {
    "recognizer": Network(
        build=recognizer,
        small={
            "network": "mien.nn.iresnet:iresnet18",
            "arguments": {"width": 0.25, "size": 48},
            "dim": 16,
            "size": 48,
            "attend": True,
        },
        inputs=_pictures(48),
    ),
    "mobile": Network(
        build=mobile, small={"arguments": {"width": 0.25, "size": 48}, "dim": 16, "size": 48}, inputs=_pictures(48)
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
