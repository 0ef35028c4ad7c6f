"""SwinFace: one Swin transformer tells who somebody is, how old, with which expression and look (Qin et al., 2024).

A Swin-T that was trained to recognise people serves four kinds of tasks in one pass: an embedding, age, seven
expressions and CelebA's forty attributes. Recognition wants the last, global features; whether a mouth is open is
better seen in early, local ones: so each of eleven groups of tasks has an attention of its own to the levels and
channels of the backbone. Batches are joined of four streams of data sets, none of which has all labels, and age is
learnt along a curriculum from the squared error to a kernel that lets wrong labels go.

    network.py      the backbone, attention to levels and channels, the branches, whole networks
    checkpoint.py   released checkpoints, timm's and those of our runs into ours; answers for the verbs
    mien.nn.swin    blocks of Swin transformers
    mien.nn.streams   names and order of the tasks; the age loss, the 42 losses of a batch of streams
    mien.train.recipes.streams      the training (``mien train streams``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- The eleven branches are computed together: one convolution a level for all, stacked matrices for their layers. The
  numbers are the same, there are eleven times fewer calls.
- The answers have one order, `mien.nn.streams.ATTRIBUTES`, and no mode: the released module keeps as state what it
  gives (``set_output_type``). Gender is called by CelebA's name, Male.
- Swin's unused classifier (``head``, 0.39 M parameters) is left out: 67.42 M instead of the released 67.81 M.
- LANet's spatial attention, an option that the released weights do not use, is not here; CBAM's is (``spatial=True``).
- The recognition loss is CosFace's to the end; the released code reports no more than -log(1e-30) for a picture, with
  the same gradient.
- Precision. The blocks run in float16 in the released code, whatever is asked; here in float32 or bfloat16, without a
  loss scale.
- Batches. The released code takes 32 of each stream on each of four processors; here a quarter of the batch is of each,
  however many there are. A missing label in a stream's own rows has no part in the loss.
- Mixing. CelebA's rows are drawn there with a chance of one half in each pass, until the list is as long as that of
  recognition; here a list is made of whole passes in random order and part of one, which is the same on average and
  shows every picture equally often.
- Warm-up begins at the first step's share of the rate instead of 5e-7; weight decay spares biases and normalisation.
- Random changes of the analysis pictures are timm's, with its default order; colour jitter has no part there once
  RandAugment is asked for.
- Ages are cleaned: what lies outside of 0 to 100 years, of which IMDB-WIKI has many, is unknown.
- CLAP2015's fine-tuning for the paper's age figures is recalled and not a preset: start the recipe from a run's weights
  with ``init=`` and ``ages=`` alone.

Weights. The authors' checkpoint is on a file share, without a hash that we know, so none is declared here and `WEIGHTS`
is empty; `import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mien.nn.streams import AGE, ATTRIBUTES, BRANCHES, EXPRESSION, EXPRESSIONS, age_loss, analysis_losses
from mien.papers.card import Network, Paper
from mien.papers.swinface.checkpoint import (
    convert_official,
    convert_timm,
    declaration,
    decode,
    import_official,
    shape_of,
)
from mien.papers.swinface.network import (
    MLCA,
    Analysis,
    Reading,
    SwinFace,
    SwinT,
    swin_t,
    swinface,
    swinface_reading,
)
from mien.weights import Weights

__all__ = [
    "AGE",
    "ATTRIBUTES",
    "BRANCHES",
    "EXPRESSION",
    "EXPRESSIONS",
    "MLCA",
    "NETWORKS",
    "PAPER",
    "WEIGHTS",
    "Analysis",
    "Reading",
    "SwinFace",
    "SwinT",
    "age_loss",
    "analysis_losses",
    "convert_official",
    "convert_timm",
    "declaration",
    "decode",
    "import_official",
    "shape_of",
    "swin_t",
    "swinface",
    "swinface_reading",
]

PAPER = Paper(
    slug="swinface",
    title=(
        "SwinFace: A Multi-task Transformer for Face Recognition, Expression Recognition, Age Estimation and "
        "Attribute Estimation"
    ),
    authors=("Lixiong Qin", "Mei Wang", "Chao Deng", "Ke Wang", "Xi Chen", "Jiani Hu", "Weihong Deng"),
    venue="IEEE TCSVT",
    year=2024,
    arxiv="2308.11509",
    code="https://github.com/lxq1000/SwinFace",
    code_licence="MIT",
    task="analysis",
    verb="mien analyze --reader NAME",
    published="journal",
)


def _pictures(n: int) -> tuple[Tensor, ...]:
    return (torch.rand(n, 3, 32, 32) * 2 - 1,)


SWIN: dict[str, Any] = {
    "size": 32, "patch": 2, "embed_dim": 16, "depths": (2, 2, 2, 2), "heads": (2, 2, 4, 4), "window": 4, "dim": 64,
}  # fmt: skip
SMALL: dict[str, Any] = {**SWIN, "hidden": 8}

TINY: dict[str, Any] = {**SWIN, "depths": (2, 1), "heads": (2, 2), "dim": 32}

NETWORKS: dict[str, Network] = {
    "swinface": Network(build=swinface, small={**TINY, "hidden": 8}, inputs=_pictures),
    "swinface_reading": Network(build=swinface_reading, small={**TINY, "hidden": 8}, inputs=_pictures),
    "swin_t": Network(build=swin_t, small=TINY, inputs=_pictures),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""
