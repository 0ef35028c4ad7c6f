"""PETALface: a face recogniser learns low resolution in a hundredth of its weights (Narayan et al., 2025).

A large recognition transformer stays frozen, and low-rank branches beside its projections to queries, keys and values
learn the few pictures of low resolution that one has. There are two branches, mixed by the quality of each picture, so
that good gallery pictures and poor probes go through two effective encoders of one network. What it knew of good
pictures is not forgotten, as it is when all weights are trained on a few thousand pictures.

    network.py      the Swin transformer, a plain vision transformer and a residual network, plain or with adapters
    loss.py         the released loss to the letter; how many numbers are trained
    checkpoint.py   released files into ours, and a file for the verbs
    protocol.py     TinyFace's identification
    mien.nn.lora, mien.nn.iqa, mien.train.recipes.adapters
                    adapters for any network; scores of quality; the training (``mien train adapters``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- First numbers of the branches. The paper begins at the pre-trained function: A is normal, B zero. The released code
  then overwrites both with normal numbers of 0.02, so that training begins elsewhere. B is zero here;
  ``official_init=True`` does as the code does.
- Shifted windows. The released attention computes the mask of shifted windows and never uses it, and the released
  weights were trained so. ``masked_shift=False`` is therefore the default, and ``True`` is Swin's own way.
- What the score of quality sees. The code hands it pixels of -1 to 1, the score was made for 0 to 1. New networks give
  it 0 to 1 (``official_iqa_input=False``); imported weights, which were trained so, the former.
- BRISQUE runs over 0 to 100, and the code uses it as it is, so that alpha is in the tens. Here it counts a hundredth;
  ``official_alpha=True`` leaves it. Its order is reversed: the first branch becomes that of good pictures.
- Threshold. A value of the command line whose released settings are not known. Training takes the mean over the
  training pictures unless one is given; an imported network takes 0.5 (with our sharpness, 0.25).
- alpha weights the small product of a branch instead of its input. That is the same, since branches are linear.
- Scores of quality. CNN-IQA and BRISQUE are implemented here and want files of numbers that the user brings; two scores
  without any, `sharpness` and `gradient`, are ours. ``weighting="standardised"`` fits alpha to a score of any unit.
- ArcFace. The released class layer leaves the margin out of the gradient's slope; ``official_gradient=True`` does so,
  and `margin_loss` is its loss to the letter. The default is the margin's true gradient.
- Precision. The authors train in float16 with a loss scale; here it is float32 or bfloat16.
- The plain vision transformer and the residual network. Of these the repository's adapters are known and not where
  they stand: here beside all projections and all linear layers of the embedding, and beside both 3 x 3 convolutions of
  every unit and the last layer. That the transformer has 8 heads, ReLU6, no bias in its projections and a hidden layer
  before the embedding is InsightFace's, recalled.
- BRIAR's rank of 32 is a secondary source's; its batch is not known, we take TinyFace's 64.
- Share. The paper says 0.48 % of the parameters are trained; counted as it stands, it is 0.67 % of the backbone, 0.53 %
  for the twin branches alone, 0.41 % for single branches everywhere. How the paper counted is not known
  (`trainable_share`).

Weights. The authors' files are on Hugging Face without hashes that we know, so none is declared here and `WEIGHTS` is
empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mien.nn.iqa import QUALITIES, QualityWeight, build_quality, quality_from_files
from mien.nn.lora import Blended, LoRAConv2d, LoRALinear, adapt, adapters, blending, freeze, merge
from mien.papers.card import Network, Paper
from mien.papers.petalface.checkpoint import (
    convert_official,
    declaration,
    import_official,
    shape_of,
    trained_network,
)
from mien.papers.petalface.loss import Share, margin_loss, trainable_share
from mien.papers.petalface.network import (
    BACKBONES,
    FaceSwin,
    FaceViT,
    iresnet_iqa,
    iresnet_lora,
    quality_aware,
    swin_256new,
    swin_256new_iqa,
    vit_b,
    vit_b_iqa,
)
from mien.papers.petalface.protocol import TinyFace, identify, read_tinyface
from mien.train.recipes.adapters import in_place
from mien.weights import Weights

__all__ = [
    "BACKBONES",
    "NETWORKS",
    "PAPER",
    "QUALITIES",
    "WEIGHTS",
    "Blended",
    "FaceSwin",
    "FaceViT",
    "LoRAConv2d",
    "LoRALinear",
    "QualityWeight",
    "Share",
    "TinyFace",
    "adapt",
    "adapters",
    "blending",
    "build_quality",
    "convert_official",
    "declaration",
    "freeze",
    "identify",
    "import_official",
    "in_place",
    "iresnet_iqa",
    "iresnet_lora",
    "margin_loss",
    "merge",
    "quality_aware",
    "quality_from_files",
    "read_tinyface",
    "shape_of",
    "swin_256new",
    "swin_256new_iqa",
    "trainable_share",
    "trained_network",
    "vit_b",
    "vit_b_iqa",
]

PAPER = Paper(
    slug="petalface",
    title="PETALface: Parameter Efficient Transfer Learning for Low-resolution Face Recognition",
    authors=("Kartik Narayan", "Nithin Gopalakrishnan Nair", "Jennifer Xu", "Rama Chellappa", "Vishal M. Patel"),
    venue="WACV",
    year=2025,
    arxiv="2412.07771",
    code="https://github.com/Kartik-3004/PETALface",
    code_licence="MIT",
    task="recognition",
    verb="mien train adapters",
)


def _pictures(size: int, *, alpha: bool) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(n: int) -> tuple[Tensor, ...]:
        images = torch.rand(n, 3, size, size) * 2 - 1
        return (images, torch.rand(n, 1)) if alpha else (images,)

    return inputs


SWIN: dict[str, Any] = {
    "size": 40, "patch": 2, "embed_dim": 16, "depths": (2, 2, 2), "heads": (2, 2, 4), "dim": 16,
}  # fmt: skip
VIT: dict[str, Any] = {"size": 36, "width": 32, "depth": 2, "heads": 2, "dim": 16}
RESIDUAL: dict[str, Any] = {"layers": 18, "size": 32, "width": 0.125, "depths": (1, 1, 1, 1), "dim": 16}
TUNED: dict[str, Any] = {"rank": 2, "official_init": True}  # with B zero, A has no gradient at the first step

NETWORKS: dict[str, Network] = {
    "vit_b_iqa": Network(build=vit_b_iqa, small={**VIT, **TUNED}, inputs=_pictures(36, alpha=True)),
    "swin_256new_iqa": Network(build=swin_256new_iqa, small={**SWIN, **TUNED}, inputs=_pictures(40, alpha=True)),
    "swin_256new": Network(build=swin_256new, small=SWIN, inputs=_pictures(40, alpha=False)),
    "vit_b": Network(build=vit_b, small=VIT, inputs=_pictures(36, alpha=False)),
    "iresnet_iqa": Network(build=iresnet_iqa, small={**RESIDUAL, **TUNED}, inputs=_pictures(32, alpha=True)),
    "quality_aware": Network(
        build=quality_aware, small={**SWIN, **TUNED, "quality": "cnniqa"}, inputs=_pictures(40, alpha=False)
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
