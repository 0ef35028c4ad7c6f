"""Emotion classes with valence and arousal: features, three kinds of heads, and the loss that trains both at once.

    graph   y = f H^T, the weights H of all labels made by a graph of labels (`mien.nn.label_graph`)
    multi   two linear layers on the same features
    single  one linear layer, classes alone

All give (B, k): logits of the classes, then valence and arousal as they are (no tanh).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError, ShapeError
from mien.nn.bregnext import DEPTHS, WIDTHS, BReGNeXt
from mien.nn.label_graph import AFFECT, EMOTIONS, GraphHead, label_graph

Head = Literal["graph", "multi", "single"]
Backbone = Literal["densenet121", "bregnext50"]

HEADS: tuple[Head, ...] = get_args(Head)
BACKBONES: tuple[Backbone, ...] = get_args(Backbone)

WORD_DIM = 300
"""Numbers of a word vector; GloVe's."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels from 0 to 1."""


class DenseFeatures(nn.Module):
    """DenseNet without its classifier: (B, 3, H, W) -> (B, dim). DenseNet-121 has 6.95 M parameters and 1024 numbers.

    Parameters
    ----------
    growth, blocks, width
        Of DenseNet (Huang et al., 2017): new channels of a layer, layers of each block, channels of the stem.
    rectified
        False: the largest value of each channel, signed ones among them, as the graph's features are. True: rectified
        and averaged, as the baselines'.
    """

    def __init__(
        self,
        *,
        growth: int = 32,
        blocks: tuple[int, ...] = (6, 12, 24, 16),
        width: int = 64,
        rectified: bool = False,
    ) -> None:
        from torchvision.models.densenet import DenseNet

        super().__init__()
        whole = DenseNet(growth_rate=growth, block_config=tuple(blocks), num_init_features=width, num_classes=1)
        self.features: nn.Module = whole.features
        self.dim = int(whole.classifier.in_features)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)
        return F.relu(maps).mean((2, 3)) if self.rectified else maps.amax((2, 3))


Features = DenseFeatures | BReGNeXt


class GraphNetwork(nn.Module):
    """Features times the weights that a graph of labels makes: (B, 3, H, W) -> (B, k)."""

    def __init__(self, backbone: nn.Module, head: GraphHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.backbone(x) @ self.head().T
        return out


class LinearNetwork(nn.Module):
    """Features with a linear layer for the classes, and one for valence and arousal unless `single`."""

    def __init__(self, backbone: nn.Module, *, dim: int, classes: int, single: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = nn.Linear(dim, classes)
        self.affect = None if single else nn.Linear(dim, len(AFFECT))

    def forward(self, x: Tensor) -> Tensor:
        f = self.backbone(x)
        logits: Tensor = self.classes(f)
        return logits if self.affect is None else torch.cat([logits, self.affect(f)], 1)


class CachedNetwork(nn.Module):
    """A `GraphNetwork` whose graph has been computed: features and one linear layer without bias."""

    def __init__(self, backbone: nn.Module, *, dim: int, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.labels = nn.Linear(dim, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.labels(self.backbone(x))
        return out


@torch.no_grad()
def cached(network: GraphNetwork) -> CachedNetwork:
    """The same function without the graph; shares the backbone with `network`."""
    weights = network.head()
    made = CachedNetwork(network.backbone, dim=weights.shape[1], outputs=len(weights)).to(weights.device)
    made.labels.weight.copy_(weights)
    return made.train(network.training)


def backbone_of(
    name: Backbone,
    *,
    rectified: bool = False,
    growth: int = 32,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    width: int = 64,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> Features:
    """The features of that name; `growth`, `blocks`, `width` are DenseNet's, `widths`, `depths` BReG-NeXt's.

    Raises
    ------
    OptionError
        No such features.
    """
    if name not in BACKBONES:
        raise OptionError.unknown("unknown features", name, BACKBONES)
    if name == "bregnext50":
        return BReGNeXt(widths=tuple(widths), depths=tuple(depths))
    return DenseFeatures(growth=growth, blocks=tuple(blocks), width=width, rectified=rectified)


def affect_network(
    head: Head,
    backbone: Backbone = "densenet121",
    *,
    classes: int = 7,
    hidden: int = 512,
    word_dim: int = WORD_DIM,
    vectors: Tensor | None = None,
    graph: Tensor | None = None,
    growth: int = 32,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    width: int = 64,
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = DEPTHS,
) -> GraphNetwork | LinearNetwork:
    """A network with that head on those features; see the module.

    Parameters
    ----------
    head, backbone
        Their names.
    classes
        Seven, or eight with contempt.
    hidden
        Width between the graph's convolutions.
    word_dim
        Numbers of a word vector, where no vectors are given.
    vectors
        (classes + 2, d) word vectors of the graph's nodes. None: `stand_in_vectors`.
    graph
        (classes + 2, classes + 2) what is propagated by. None: that of AffectNet.
    growth, blocks, width, widths, depths
        Sizes of the features, see `backbone_of`.

    Raises
    ------
    OptionError, ShapeError
        No such head or features; vectors or graph of another size.
    """
    if head not in HEADS:
        raise OptionError.unknown("unknown head", head, HEADS)
    if classes not in (7, 8):
        raise OptionError("there is no such number of classes", got=classes, expected="7, or 8 with contempt")
    # The released baselines rectify and average DenseNet's map, as its own classifier does; the graph does not.
    features = backbone_of(
        backbone, rectified=head != "graph", growth=growth, blocks=blocks, width=width, widths=widths, depths=depths
    )
    if head != "graph":
        return LinearNetwork(features, dim=features.dim, classes=classes, single=head == "single")
    words = stand_in_vectors(nodes(classes), dim=word_dim) if vectors is None else vectors
    matrix = label_graph(classes=classes) if graph is None else graph
    if len(words) != classes + len(AFFECT):
        raise ShapeError("each node needs a word vector", got=len(words), expected=classes + len(AFFECT))
    return GraphNetwork(features, GraphHead(words, matrix, hidden=hidden, outputs=features.dim))


# ------------------------------------------------------------------------------------------- words


def nodes(classes: int = 7) -> tuple[str, ...]:
    """Names of the graph's nodes: the classes, then valence and arousal."""
    return (*EMOTIONS[:classes], *AFFECT)


def stand_in_vectors(words: tuple[str, ...], *, dim: int = WORD_DIM) -> Tensor:
    """(len(words), dim) float32 a vector for each word, random but always the same: normal numbers of deviation 0.35.

    They stand in for GloVe's, which mien does not hold and which have about that deviation. They know nothing of what
    words mean; which word a node bears is said to matter little. A word's vector depends on its letters alone.
    """
    import hashlib

    made = []
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:7], "little")
        made.append(torch.randn(dim, generator=torch.Generator("cpu").manual_seed(seed), device="cpu"))
    return 0.35 * torch.stack(made)


# ------------------------------------------------------------------------------------------- first weights


_OLD = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:.*))$")


def imagenet_features(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of `DenseFeatures` from one of torchvision's DenseNets: its classifier is left out, old names are brought
    up to date (``norm.1.weight`` became ``norm1.weight``)."""
    return {_OLD.sub(r"\1\2", name): value for name, value in state.items() if not name.startswith("classifier.")}


def fill_features(backbone: nn.Module, file: str | Path) -> None:
    """Puts torchvision's ImageNet weights (``densenet121-a639ec97.pth``, yours) into `DenseFeatures`, strictly.

    Raises
    ------
    CheckpointError
        The file cannot be read, or holds other tensors.
    OptionError
        The features are no DenseNet: torchvision has no weights for others.
    """
    path = Path(file)
    if not isinstance(backbone, DenseFeatures):
        raise OptionError("only DenseNet begins at torchvision's weights", got=type(backbone).__name__)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        found = imagenet_features(state)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … for what it refuses
        raise CheckpointError(
            f"cannot read the first weights {path}", got=f"{type(error).__name__}: {error}",
            expected="torchvision's densenet121 weights, .pth or .safetensors",
        ) from error  # fmt: skip
    own = {name: value for name, value in backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(
        name
        for name in own.keys() | {name for name in found if not name.endswith("num_batches_tracked")}
        if name not in own or name not in found or found[name].shape != own[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"the first weights {path} are not those of the features", got=", ".join(wrong[:5]),
            expected="all tensors of torchvision's densenet121.features, and no other",
        )  # fmt: skip
    backbone.load_state_dict(found, strict=False)


# ------------------------------------------------------------------------------------------- the loss


def concordance(found: Tensor, truth: Tensor, *, official: bool = False) -> Tensor:
    """Concordance correlation coefficient of numbers (n,), in float64: ``2 cov / (var + var + (mean - mean)^2)``.

    Parameters
    ----------
    found, truth
        (n,), two or more.
    official
        Whether variances divide by n - 1 while the covariance divides by n, as in the released code: of 35 perfect
        answers it then says 34/35. Otherwise all divide by n.
    """
    kind = torch.float32 if found.device.type == "mps" else torch.float64
    f, t = found.to(kind), truth.to(kind)
    # Of two equal constants everything is 0, and so is what is made of it here; the root of nothing has no slope.
    covariance = ((f - f.mean()) * (t - t.mean())).mean()
    spread = f.var(correction=int(official)) + t.var(correction=int(official)) + (f.mean() - t.mean()) ** 2
    return 2 * covariance / spread.clamp_min(1e-12)


def affect_loss(
    raw: Tensor,
    labels: Tensor,
    affect: Tensor,
    *,
    classes: int,
    class_weights: Tensor | None = None,
    weight: float = 1.0,
    official: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the classes plus `weight` times one minus the mean CCC of valence and arousal.

    Parameters
    ----------
    raw
        (B, classes + 2) of a network, or (B, classes): then there is no second term.
    labels
        (B,) int64; -1 where the class is not known, which then has no part.
    affect
        (B, 2) valence and arousal; a row with NaN has no part.
    classes
        Number of classes.
    class_weights
        (classes,) factors by class; the sum is divided by those of the batch. None: all 1.
    weight
        Of the second term (the paper's lambda, 1).
    official
        See `concordance`.

    Returns
    -------
    tuple
        The loss, and its parts by name: "classes", "ccc_valence", "ccc_arousal".
    """
    logits = raw[:, :classes].float()
    known = labels >= 0
    factor = logits.new_ones(classes) if class_weights is None else class_weights.to(logits)
    each = F.cross_entropy(logits, labels, factor, ignore_index=-1, reduction="none")
    entropy = each.sum() / (factor[labels.clamp_min(0)] * known).sum().clamp_min(1e-12)
    parts = {"classes": entropy.detach()}
    if raw.shape[1] == classes:
        return entropy, parts
    rows = torch.isfinite(affect).all(1)
    if int(rows.sum()) < 2:  # one number has no spread
        return entropy + 0 * raw[:, classes:].sum(), parts
    both = [concordance(raw[rows, classes + k], affect[rows, k], official=official) for k in range(len(AFFECT))]
    parts |= {f"ccc_{name}": value.detach() for name, value in zip(AFFECT, both, strict=True)}
    return entropy + weight * (1 - torch.stack(both).mean()), parts
