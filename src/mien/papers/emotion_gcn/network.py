"""The paper's networks: the graph on DenseNet-121 or BReG-NeXt-50, the two baselines, and the reader without a graph.

What they are made of stands in `mien.nn.affect`, `mien.nn.bregnext` and `mien.nn.label_graph`.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from mien.nn.affect import (
    WORD_DIM,
    Backbone,
    CachedNetwork,
    GraphNetwork,
    LinearNetwork,
    affect_network,
    backbone_of,
)
from mien.nn.bregnext import DEPTHS, WIDTHS

BLOCKS = (6, 12, 24, 16)


def emotion_gcn(
    *,
    classes: int = 7,
    hidden: int = 512,
    word_dim: int = WORD_DIM,
    growth: int = 32,
    blocks: tuple[int, ...] = BLOCKS,
    width: int = 64,
) -> GraphNetwork:
    """Emotion-GCN on DenseNet-121, 7.63 M parameters, 2.9 GMAC at 227 px: (B, 3, S, S) -> (B, classes + 2).

    Parameters
    ----------
    classes
        Seven (AffectNet's first ones, in its order), or eight with contempt. Valence and arousal come after them.
    hidden, word_dim
        Numbers of a node between the two convolutions, and of a word vector.
    growth, blocks, width
        Sizes of the DenseNet.

    Notes
    -----
    Pictures are RGB, standardised with ImageNet's mean and deviation, 227 px for AffectNet and 112 px for Aff-Wild2.
    The graph begins as AffectNet's, the words as `stand_in_vectors`; both lie in the state (``head.graph``,
    ``head.vectors``).
    """
    made = affect_network(
        "graph", classes=classes, hidden=hidden, word_dim=word_dim, growth=growth, blocks=blocks, width=width
    )
    return cast(GraphNetwork, made)


def emotion_gcn_bregnext(
    *,
    classes: int = 7,
    hidden: int = 512,
    word_dim: int = WORD_DIM,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> GraphNetwork:
    """Emotion-GCN on BReG-NeXt-50, 3.29 M parameters, 5.4 GMAC at 112 px: (B, 3, S, S) -> (B, classes + 2)."""
    made = affect_network(
        "graph", "bregnext50", classes=classes, hidden=hidden, word_dim=word_dim, widths=widths, depths=depths
    )
    return cast(GraphNetwork, made)


def multi_task(
    *,
    backbone: Backbone = "densenet121",
    classes: int = 7,
    growth: int = 32,
    blocks: tuple[int, ...] = BLOCKS,
    width: int = 64,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> LinearNetwork:
    """The paper's second baseline, two linear layers on shared features: (B, 3, S, S) -> (B, classes + 2)."""
    made = affect_network(
        "multi", backbone, classes=classes, growth=growth, blocks=blocks, width=width, widths=widths, depths=depths
    )
    return cast(LinearNetwork, made)


def single_task(
    *,
    backbone: Backbone = "densenet121",
    classes: int = 7,
    growth: int = 32,
    blocks: tuple[int, ...] = BLOCKS,
    width: int = 64,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> LinearNetwork:
    """The paper's first baseline, classes alone: (B, 3, S, S) -> (B, classes)."""
    made = affect_network(
        "single", backbone, classes=classes, growth=growth, blocks=blocks, width=width, widths=widths, depths=depths
    )
    return cast(LinearNetwork, made)


def affect_reader(
    *,
    backbone: Backbone = "densenet121",
    classes: int = 7,
    growth: int = 32,
    blocks: tuple[int, ...] = BLOCKS,
    width: int = 64,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> CachedNetwork:
    """Emotion-GCN as it is used: the graph is computed once, and 9 x 1024 weights are left of it (`cached`)."""
    features = backbone_of(backbone, growth=growth, blocks=blocks, width=width, widths=widths, depths=depths)
    return CachedNetwork(cast(nn.Module, features), dim=features.dim, outputs=classes + 2)
