"""Classifiers made by a graph of labels: which labels go together, as a matrix, and two graph convolutions over it.

    S  correlations of labels (one column a class, then valence and arousal) over a training set
    B  edges where |S| reaches a threshold; none between two classes, which exclude each other
    A  p / (number of neighbours) for each neighbour, 1 - p for the node itself
    P  what is propagated by: A transposed
    H  P leaky(P E W1) W2, one row of weights a label, E being one vector of words a label

(Chen et al., "Multi-Label Image Recognition with Graph Convolutional Networks", CVPR 2019; for emotions Antoniadis et
al., FG 2021.)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError, ValueRangeError

Double = NDArray[np.float64]
Correlation = Literal["spearman", "pearson"]
Propagation = Literal["transposed", "symmetric", "none"]

SLOPE = 0.2
"""Of the leaky rectifier between the two convolutions."""
THRESHOLD, SHARE = 0.1, 0.5
"""Least |correlation| of an edge, and the share p of a node that is its neighbours'."""

EMOTIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's classes by number; the paper takes the first seven. Names are those of `mien.faces.EXPRESSIONS`."""
AFFECT = ("valence", "arousal")

AFFECTNET_COUNTS = (74874, 134415, 25459, 14090, 6378, 3803, 24882)
"""Training pictures of the first seven classes."""
_AFFECTNET_AFFECT = (
    (-0.335, -0.284), (0.861, 0.014), (-0.453, -0.434), (-0.028, 0.338), (-0.122, 0.236), (-0.176, 0.144),
    (-0.384, 0.414),
)  # fmt: skip
_AFFECTNET_BOTH = 0.037


def affectnet_correlations() -> Double:
    """(9, 9) Spearman correlations of AffectNet's training set: seven classes, valence, arousal.

    Those with valence and arousal are the published ones to three digits. Those of two classes follow from how often
    each is: ``-sqrt(p q / (1 - p) / (1 - q))``, which is exact for labels that exclude each other.
    """
    share = np.asarray(AFFECTNET_COUNTS) / sum(AFFECTNET_COUNTS)
    odds = np.sqrt(share / (1 - share))
    found = np.eye(9)
    found[:7, :7] -= np.outer(odds, odds) * (1 - np.eye(7))
    found[:7, 7:] = _AFFECTNET_AFFECT
    found[7:, :7] = np.asarray(_AFFECTNET_AFFECT).T
    found[7, 8] = found[8, 7] = _AFFECTNET_BOTH
    return found


def correlations(labels: ArrayLike, affect: ArrayLike, *, classes: int = 7, kind: Correlation = "spearman") -> Double:
    """(classes + 2, classes + 2) correlations of the classes (one column each), valence and arousal.

    Parameters
    ----------
    labels
        (n,) numbers of classes; -1 where it is not known.
    affect
        (n, 2) valence and arousal; NaN where they are not known. Only rows that have both labels count.
    classes
        How many.
    kind
        "spearman" (of ranks, equal values share the mean one; what the paper used) or "pearson".

    Returns
    -------
    array
        Ones on the diagonal; 0 where a label never changes, so that nothing is known.

    Raises
    ------
    ShapeError, ValueRangeError
        The two do not fit, a class is out of range, or fewer than two rows have both.
    OptionError
        No such kind.
    """
    y, va = np.asarray(labels), np.asarray(affect, np.float64)
    if y.ndim != 1 or va.shape != (len(y), 2):
        raise ShapeError("labels and affect do not fit", got=(y.shape, va.shape), expected="(n,) and (n, 2)")
    if kind not in get_args(Correlation):
        raise OptionError.unknown("unknown correlation", kind, get_args(Correlation))
    if len(y) and int(y.max()) >= classes:
        raise ValueRangeError("a class is out of range", got=int(y.max()), expected=f"-1 to {classes - 1}")
    known = (y >= 0) & np.isfinite(va).all(1)
    if known.sum() < 2:
        raise ValueRangeError("too few pictures have a class, valence and arousal", got=int(known.sum()), expected=2)
    columns = np.concatenate([y[known, None] == np.arange(classes), va[known]], axis=1).astype(np.float64)
    if kind == "spearman":
        from scipy.stats import rankdata

        columns = rankdata(columns, axis=0)
    columns -= columns.mean(0)
    length = np.sqrt((columns**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = columns.T @ columns / np.outer(length, length)
    found = np.nan_to_num(np.clip(found, -1, 1))
    np.fill_diagonal(found, 1.0)
    return np.asarray(found, np.float64)


def edges(
    correlation: ArrayLike, *, classes: int, threshold: float = THRESHOLD, between_classes: bool = False
) -> NDArray[np.bool_]:
    """(k, k) which labels are linked: |correlation| of at least `threshold`; the sign does not count.

    Parameters
    ----------
    correlation
        (k, k), the classes first.
    classes
        How many of the labels are classes.
    threshold
        Least absolute correlation.
    between_classes
        Whether two classes may be linked. They exclude each other, so that all of them correlate a little.

    Raises
    ------
    ShapeError
        It is not square, or has fewer rows than classes.
    """
    found = np.abs(np.asarray(correlation, np.float64))
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < classes:
        raise ShapeError("correlations are a square matrix", got=found.shape, expected=f"(k, k), k at least {classes}")
    linked = found >= threshold
    if not between_classes:
        linked[:classes, :classes] = False
    np.fill_diagonal(linked, False)
    return np.asarray(linked)


def adjacency(linked: ArrayLike, *, share: float = SHARE) -> Double:
    """(k, k) A from edges: `share` divided among a node's neighbours, the rest its own. Rows add up to 1.

    A node without neighbours keeps all of itself; the released code would divide by zero.
    """
    if not 0 <= share <= 1:
        raise OptionError("the neighbours' share is out of range", got=share, expected="0 to 1")
    found = np.array(linked, np.float64)
    np.fill_diagonal(found, 0)
    count = found.sum(1, keepdims=True)
    scaled = share * found / np.maximum(count, 1)
    np.fill_diagonal(scaled, np.where(count[:, 0] > 0, 1 - share, 1.0))
    return np.asarray(scaled, np.float64)


def propagation(matrix: ArrayLike, *, kind: Propagation = "transposed") -> Double:
    """(k, k) what the graph convolutions multiply by, from A.

    Parameters
    ----------
    matrix
        (k, k) A; its rows add up to something positive.
    kind
        "transposed": ``(A D)^T D`` with D the inverse roots of A's row sums. With rows of sum 1 that is A transposed: a
        label receives what its neighbours give away. So does the code, as ML-GCN's did. "symmetric": ``D' (A + A^T)
        D' / 2`` with the inverse roots of its own row sums. "none": the identity, no graph at all.

    Raises
    ------
    OptionError
        No such kind.
    """
    a = np.asarray(matrix, np.float64)
    if kind == "none":
        return np.eye(len(a))
    if kind == "symmetric":
        both = (a + a.T) / 2
        root = both.sum(1) ** -0.5
        return np.asarray(root[:, None] * both * root)
    if kind != "transposed":
        raise OptionError.unknown("unknown propagation", kind, get_args(Propagation))
    root = a.sum(1) ** -0.5
    return np.asarray((a * root).T * root)


def label_graph(
    correlation: ArrayLike | None = None,
    *,
    classes: int = 7,
    threshold: float = THRESHOLD,
    share: float = SHARE,
    between_classes: bool = False,
    kind: Propagation = "transposed",
) -> Tensor:
    """(k, k) float32 what is propagated by, from correlations in one go.

    Without correlations it is AffectNet's graph for seven classes; for another number every class is linked with
    valence and with arousal, until the correlations of a training set are known.
    """
    if correlation is None:
        if classes == 7:
            correlation = affectnet_correlations()
        else:
            correlation = np.ones((classes + 2, classes + 2))
            correlation[classes:, classes:] = np.eye(2)
    linked = edges(correlation, classes=classes, threshold=threshold, between_classes=between_classes)
    return torch.from_numpy(propagation(adjacency(linked, share=share), kind=kind)).float()


class GraphConvolution(nn.Module):
    """``P (X W)`` without a bias: (k, inputs) -> (k, outputs). First weights are uniform to 1 / sqrt(outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        reach = 1 / math.sqrt(outputs)
        self.weight = nn.Parameter(torch.empty(inputs, outputs).uniform_(-reach, reach))

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        return graph @ (x @ self.weight)


class GraphHead(nn.Module):
    """One row of weights for each label, made of the labels' word vectors by two graph convolutions: () -> (k,
    outputs).

    Parameters
    ----------
    vectors
        (k, d) float32 a vector for each label. Kept in the state, never trained.
    graph
        (k, k) float32 what is propagated by (`label_graph`). Kept in the state, never trained.
    hidden, outputs
        Width between the convolutions, and that of the features that the weights are for.

    Raises
    ------
    ShapeError
        The two do not fit each other.
    """

    vectors: Tensor
    graph: Tensor

    def __init__(self, vectors: Tensor, graph: Tensor, *, hidden: int = 512, outputs: int = 1024) -> None:
        super().__init__()
        if vectors.ndim != 2 or graph.shape != (len(vectors), len(vectors)):
            raise ShapeError(
                "vectors and graph do not fit", got=(tuple(vectors.shape), tuple(graph.shape)),
                expected="(k, d) and (k, k)",
            )  # fmt: skip
        self.register_buffer("vectors", vectors.detach().float().clone())
        self.register_buffer("graph", graph.detach().float().clone())
        self.gc1 = GraphConvolution(vectors.shape[1], hidden)
        self.gc2 = GraphConvolution(hidden, outputs)

    def forward(self) -> Tensor:
        hidden: Tensor = F.leaky_relu(self.gc1(self.vectors, self.graph), SLOPE)
        made: Tensor = self.gc2(hidden, self.graph)
        return made
