"""How recognisable is a face? Distances on the sphere, the index made of them, its losses, and the network that tells.

Faces that no network can recognise gather in one place of the unit sphere. With w_y the class vector of a face's own
person, w_j those of the others and u the centre of that place, a face with the unit embedding v has three proximities,
each from 0 to 2 (Chai et al., CVPR 2023, section 3):

    d_P  = 1 - v.w_y                own class
    d_N  = 1 - max_{j != y} v.w_j   nearest other class
    d_UI = 1 - v.u                  centre of the unrecognisable

The recognizability index (RI) rises with d_UI and d_N and falls with d_P. A linear layer on the last feature map
learns to tell it from the picture alone; an attention module learns to see what of the embedding does not point to u.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError, ValueRangeError
from mien.nn.embedder import Embedder
from mien.nn.iresnet import IR, PLANES, IResNet
from mien.nn.mobilefacenet import MobileFaceNet

__all__ = [
    "RI_FORMS", "Attention", "Centre", "Proximities", "Recognizer", "RiForm", "Seen", "Splittable", "attention_loss",
    "diversion_loss", "ers", "free_of_centre", "index_loss", "proximities", "rank_correlation", "recognizability_index",
    "recognizer", "split", "unrecognizable_centre",
]  # fmt: skip

Floats = NDArray[np.float32]

# --- Proximities, the index, and the score without training ----------------------------------------------------------


class Proximities(NamedTuple):
    """Distances (B,) to the own class, to the nearest other class, and to the unrecognisable; each 0 to 2."""

    own: Tensor
    other: Tensor
    centre: Tensor


def proximities(cosines: Tensor, labels: Tensor, to_centre: Tensor) -> Proximities:
    """The three distances, of cosines without any margin.

    Parameters
    ----------
    cosines
        (B, C) to the class vectors, C at least 2.
    labels
        (B,) int64 own classes.
    to_centre
        (B,) cosines to the centre of the unrecognisable.

    Raises
    ------
    ShapeError
        They do not fit together, or there is no other class.
    """
    if cosines.ndim != 2 or cosines.shape[1] < 2 or not labels.shape == cosines.shape[:1] == to_centre.shape:
        raise ShapeError(
            "cosines, labels and distances to the centre do not fit",
            got=f"{tuple(cosines.shape)}, {tuple(labels.shape)}, {tuple(to_centre.shape)}",
            expected="(B, C) with C at least 2, (B,), (B,)",
        )
    column = labels[:, None]
    own = cosines.gather(1, column).squeeze(1)
    # The own class must not be its own nearest negative: it is out of the race, not merely lowered.
    other = cosines.scatter(1, column, -torch.inf).amax(1)
    return Proximities(1 - own, 1 - other, 1 - to_centre)


RiForm = Literal["tanh", "cr_fiqa", "slacked"]


def _tanh(d: Proximities) -> Tensor:
    return torch.tanh(d.centre * d.other / (d.own + 1e-6))


def _cr_fiqa(d: Proximities) -> Tensor:
    return (1 - d.own) / (2 - d.other + 1e-6) * d.centre


def _slacked(d: Proximities) -> Tensor:
    own = 1 - d.own
    return torch.sigmoid(8 * own * (own - (1 - d.other)))


RI_FORMS: Mapping[RiForm, Callable[[Proximities], Tensor]] = {"tanh": _tanh, "cr_fiqa": _cr_fiqa, "slacked": _slacked}
"""Forms of the index.

tanh
    ``tanh(d_UI d_N / (d_P + 1e-6))``, 0 to 1: the default.
cr_fiqa
    ``cos_y / (max_j cos_j + 1 + 1e-6) * d_UI``: the class ratio of CR-FIQA (Boutros et al., CVPR 2023), times d_UI.
slacked
    ``sigmoid(8 cos_y (cos_y - max_j cos_j))``, 0 to 1: that of SlackedFace (BMVC 2023), which has no centre.
"""


def recognizability_index(d: Proximities, *, form: RiForm = "tanh") -> Tensor:
    """The index xi (B,) that the regression learns; it has no gradient.

    Raises
    ------
    OptionError
        No such form.
    """
    if form not in RI_FORMS:
        raise OptionError.unknown("unknown form of the recognizability index", form, tuple(RI_FORMS))
    with torch.no_grad():
        return RI_FORMS[form](d)


def ers(embeddings: Tensor, centre: Tensor) -> Tensor:
    """Embedding recognisability score (B,): ``min(1 - cos(v, u), 1)`` (Deng et al., arXiv 2106.04112), untrained.

    Neither embeddings (B, d) nor centre (d,) need be normalised.
    """
    return (1 - F.normalize(embeddings, dim=1) @ F.normalize(centre, dim=0)).clamp(max=1)


# --- Losses ----------------------------------------------------------------------------------------------------------


def index_loss(predicted: Tensor, index: Tensor, *, beta: float = 0.75) -> Tensor:
    """L_L1: mean smooth L1 distance of the predicted index to the index, quadratic below `beta`."""
    return F.smooth_l1_loss(predicted, index.detach(), beta=beta)


def diversion_loss(predicted: Tensor, mean: Tensor, std: Tensor, *, tau: float = 3.0) -> Tensor:
    """L_ID: mean of ``max(0, tau - (xi - mean) / std)``, with mean and deviation of what unrecognisable faces get.

    Only faces whose predicted index lies less than `tau` deviations above that mean have a part in it. Mean and
    deviation are constants: otherwise the loss would fall by a larger deviation or a lower mean.
    """
    return F.relu(tau - (predicted - mean.detach()) / std.detach().clamp(min=1e-4)).mean()


def free_of_centre(embeddings: Tensor, centre: Tensor) -> Tensor:
    """v^o (B, d): unit embeddings without what points to the centre, at length one again; without a gradient."""
    with torch.no_grad():
        z, u = F.normalize(embeddings, dim=1), F.normalize(centre, dim=0)
        return F.normalize(z - (z @ u)[:, None] * u, dim=1)


def attention_loss(attended: Tensor, target: Tensor) -> Tensor:
    """L_MSE: mean over the batch of the squared distance of the attended vectors, at length one, to `target`."""
    return (F.normalize(attended, dim=1) - target.detach()).square().sum(1).mean()


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of two rows of numbers (B,), for the log: ties count in the order they stand in.

    0 where one of the two does not vary.
    """
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return torch.zeros((), device=a.device)
    first, second = (x.detach().argsort(stable=True).argsort(stable=True).double() for x in (a, b))
    first, second = first - first.mean(), second - second.mean()
    return ((first @ second) / (first @ first * (second @ second)).sqrt()).float()


# --- The centre of the unrecognisable --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Centre:
    """The centre of the unrecognisable faces.

    Parameters
    ----------
    vector
        (d,) float32, unit length.
    members
        (n,) bool: the embeddings it is the mean of.
    to_others
        Cosine to the mean of all other embeddings: near 1, it is the mean of everything and tells nothing. NaN where
        there are no others.
    """

    vector: Floats
    members: NDArray[np.bool_]
    to_others: float

    @property
    def share(self) -> float:
        """Of the embeddings, those that are members."""
        return float(self.members.mean())


def unrecognizable_centre(
    embeddings: NDArray[Any],
    *,
    method: Literal["cluster", "mean"] = "cluster",
    others: NDArray[Any] | None = None,
    distance: float = 0.5,
    most: int = 5000,
    limit: float = 0.9,
    seed: int = 0,
) -> Centre:
    """Where unrecognisable faces gather, found from embeddings of the network that is to be trained.

    The mean is one of unit vectors, and is brought to unit length again.

    Parameters
    ----------
    embeddings
        (n, d). "cluster": of many detected faces of any quality; their largest cluster is that of the unrecognisable
        (arXiv 2106.04112). "mean": of faces that are known to be unrecognisable, as heavily degraded copies are.
    method
        "cluster" (average linkage of cosine distances) or "mean".
    others
        (m, d) embeddings of recognisable faces that the centre is checked against. Default: those outside the cluster.
        The mean of all will not do: the cluster may be most of them, and its centre is then near that mean rightly.
    distance
        Clusters are joined up to this mean cosine distance.
    most
        At most so many embeddings, drawn by `seed`, are clustered: memory goes with their square (100 MB at 5,000).
    limit
        Largest cosine to the mean of the others.
    seed
        Of that draw.

    Raises
    ------
    ShapeError, ValueRangeError, OptionError
        No embeddings, an embedding without direction, or no such method; or the centre is the mean of everything.
    """
    z = np.asarray(embeddings, np.float64)
    if z.ndim != 2 or not len(z):
        raise ShapeError("a centre needs embeddings", got=z.shape, expected="(n, d)")
    z = _unit(z)
    if method == "mean":
        members = np.ones(len(z), bool)
    elif method == "cluster":
        from scipy.cluster.hierarchy import fcluster, linkage

        rows = np.sort(np.random.default_rng(seed).choice(len(z), min(most, len(z)), replace=False))
        code = np.ones(1, int)
        if len(rows) > 1:
            code = fcluster(linkage(z[rows], "average", metric="cosine"), distance, criterion="distance")
        members = np.zeros(len(z), bool)
        members[rows] = code == np.bincount(code).argmax()
    else:
        raise OptionError.unknown("unknown way to find the centre", method, ("cluster", "mean"))
    vector = _unit(z[members].mean(0, keepdims=True))[0]
    rest = z[~members] if others is None else _unit(np.asarray(others, np.float64))
    to_others = float(vector @ _unit(rest.mean(0, keepdims=True))[0]) if len(rest) else float("nan")
    if to_others > limit:
        raise ValueRangeError(
            "the centre of the unrecognisable faces is the mean of all faces",
            got=f"cosine {to_others:.3f} to the mean of the others",
            expected=f"at most {limit:g}",
            hint="train the network further, centre its embeddings, or choose worse faces for the centre",
        )
    return Centre(vector.astype(np.float32), members, to_others)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise ValueRangeError("an embedding has no direction", got="a zero, NaN or infinite row")
    return np.asarray(rows / length, np.float64)


# --- Networks --------------------------------------------------------------------------------------------------------


@runtime_checkable
class Splittable(Protocol):
    """A network that can be cut at its last feature map; any class that has the two can be a backbone."""

    def feature_map(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, h, w)."""
        ...

    def from_map(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, d)."""
        ...


Part = Callable[[Tensor], Tensor]


def split(network: nn.Module) -> tuple[Part, Part]:
    """The two halves of a network, before and after its last feature map; their composition is its ``forward``.

    Known are `Splittable`, the networks of `mien.nn.iresnet`, `mien.nn.mobilefacenet` and `mien.nn.embedder`, timm's
    (``forward_features`` and ``forward_head``), and a sequence of layers, which is cut before its first pooling to one
    pixel or flattening.

    Raises
    ------
    OptionError
        Any other network.
    """
    if isinstance(network, Splittable):
        return network.feature_map, network.from_map
    if isinstance(network, IR):
        return (lambda x: network.body(network.input_layer(x))), network.output_layer
    if isinstance(network, IResNet):
        return (lambda x: _iresnet_map(network, x)), (lambda m: _iresnet_head(network, m))
    if isinstance(network, MobileFaceNet):
        return (lambda x: _mobile_map(network, x)), (lambda m: _mobile_head(network, m))
    if isinstance(network, Embedder):
        return (
            lambda x: network.expand(network.trunk(x)),
            lambda m: network.project(network.pool(m).flatten(1)),
        )
    if isinstance(network, nn.Sequential):
        ends = [n for n, layer in enumerate(network) if isinstance(layer, nn.AdaptiveAvgPool2d | nn.Flatten)]
        if ends and ends[0]:
            layers = list(network)
            return (lambda x: _through(layers[: ends[0]], x)), (lambda m: _through(layers[ends[0] :], m))
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
        timm: Any = network
        return timm.forward_features, timm.forward_head
    raise OptionError(
        "it is not known where this network has its last feature map",
        got=type(network).__name__,
        expected="a network of mien.nn or timm, or one with the methods feature_map and from_map",
    )


def _through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _iresnet_map(network: IResNet, x: Tensor) -> Tensor:
    x = network.prelu(network.bn1(network.conv1(x)))
    for number in range(1, len(PLANES) + 1):
        x = network.get_submodule(f"layer{number}")(x)
    return x


def _iresnet_head(network: IResNet, features: Tensor) -> Tensor:
    return cast(Tensor, network.features(network.fc(network.dropout(network.bn2(features)).flatten(1))))


def _mobile_map(network: MobileFaceNet, x: Tensor) -> Tensor:
    x = network.res_3(network.dconv_23(network.conv_2_dw(network.conv_1(x))))
    return cast(Tensor, network.conv_6sep(network.res_5(network.dconv_45(network.res_4(network.dconv_34(x))))))


def _mobile_head(network: MobileFaceNet, features: Tensor) -> Tensor:
    return cast(Tensor, network.fc1(network.pre_fc1(network.conv_6dw7_7(features).flatten(1))))


class Attention(nn.Module):
    """Perceptibility attention: which channels, then which places of a map count (as CBAM, Woo et al., ECCV 2018).

    Parameters
    ----------
    channels
        Of the map.
    dim
        Length of the vector that is made of the attended map.
    reduction
        Factor by which the hidden layer of the channels' gate is narrower.
    """

    def __init__(self, channels: int, *, dim: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.proj = nn.Linear(channels, dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, h, w) -> attended map (B, C, h, w), its vector (B, dim), and where it looked (B, 1, h, w), 0 to 1."""
        gate = torch.sigmoid(self.channel(features.mean((2, 3))) + self.channel(features.amax((2, 3))))
        seen = features * gate[..., None, None]
        where = torch.sigmoid(self.spatial(torch.cat([seen.mean(1, keepdim=True), seen.amax(1, keepdim=True)], 1)))
        seen = seen * where
        return seen, self.proj(seen.mean((2, 3))), where


class Seen(NamedTuple):
    """What a `Recognizer` makes of pictures.

    Parameters
    ----------
    embedding
        (B, d), not normalised.
    ri
        (B,) the predicted recognizability index; higher is more recognisable.
    attended
        (B, d) vector of the attended map, not normalised.
    attention
        (B, 1, h, w) where the attention looks, 0 to 1.
    """

    embedding: Tensor
    ri: Tensor
    attended: Tensor
    attention: Tensor


class Recognizer(nn.Module):
    """A backbone with the regression of its index and the attention beside it: (B, 3, size, size) -> `Seen`.

    Its state: ``backbone.*``, ``reg.*``, ``pam.*``, and the buffers ``ui_centre`` (d,), ``ui_mean``, ``ui_std``.

    Parameters
    ----------
    backbone
        Any network that `split` knows; (B, 3, size, size) -> (B, dim).
    dim, size
        Length of its embedding, and side of its input, px.
    dropout
        Before the regression: the index must not be read off a few numbers of the map.
    reduction
        See `Attention`.
    reads
        What the regression reads: the flattened "map", or the "embedding".
    attend
        Whether the attended map, and not the map, is what the embedding is made of.
    returns
        "all": `Seen`; "embedding": that alone, which is what verbs want.
    """

    ui_centre: Tensor
    ui_mean: Tensor
    ui_std: Tensor

    def __init__(
        self, backbone: nn.Module, *, dim: int, size: int, dropout: float = 0.4, reduction: int = 16,
        reads: Literal["map", "embedding"] = "map", attend: bool = False,
        returns: Literal["all", "embedding"] = "all",
    ) -> None:  # fmt: skip
        super().__init__()
        if reads not in ("map", "embedding") or returns not in ("all", "embedding"):
            raise OptionError("a choice is unknown", got=f"reads {reads}, returns {returns}")
        self.backbone, self.reads, self.attend, self.returns = backbone, reads, attend, returns
        shape = self._map_shape(dim, size)
        self.dropout = nn.Dropout(dropout)
        self.reg = nn.Linear(dim if reads == "embedding" else shape.numel(), 1)
        self.pam = Attention(shape[0], dim=dim, reduction=reduction)
        self.register_buffer("ui_centre", torch.zeros(dim))
        self.register_buffer("ui_mean", torch.zeros(()))
        self.register_buffer("ui_std", torch.ones(()))
        self.gradient = 1.0
        """Factor of the gradient that goes into the backbone: a rate of its own for it, with plain SGD."""

    def _map_shape(self, dim: int, size: int) -> torch.Size:
        """(C, h, w), tried out without touching the statistics of normalisations."""
        mode, first = self.backbone.training, next(self.backbone.parameters())
        self.backbone.eval()
        with torch.no_grad():
            trunk, head = split(self.backbone)
            features = trunk(torch.zeros(1, 3, size, size, device=first.device, dtype=first.dtype))
            if features.ndim != 4 or head(features).shape != (1, dim):
                raise OptionError(
                    "the backbone does not give such embeddings",
                    got=f"map {tuple(features.shape)}",
                    expected=f"a map (1, C, h, w) and an embedding of {dim} numbers from {size} px",
                )
        self.backbone.train(mode)
        return features.shape[1:]

    def forward(self, x: Tensor) -> Seen | Tensor:
        return self.embed(x) if self.returns == "embedding" else self.see(x)

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (B, d) alone, not normalised."""
        trunk, head = split(self.backbone)
        features = trunk(x)
        return head(self.pam(features)[0] if self.attend else features)

    def see(self, x: Tensor, *, frozen: bool = False) -> Seen:
        """All outputs; `frozen` lets no gradient into the backbone, and leaves its normalisations alone."""
        trunk, head = split(self.backbone)
        if frozen:
            mode = self.backbone.training
            self.backbone.eval()
            with torch.no_grad():
                features = inner = trunk(x)
                embedding = head(self.pam(features)[0] if self.attend else features)
            self.backbone.train(mode)
        else:
            features = trunk(x)
            inner = self._slowed(features)
            embedding = self._slowed(head(self.pam(features)[0] if self.attend else features))
        _, attended, where = self.pam(inner)
        return Seen(embedding, self._read(inner, embedding), attended, where)

    def rate(self, x: Tensor) -> Tensor:
        """The predicted index (B,) of pictures (B, 3, S, S)."""
        trunk, head = split(self.backbone)
        features = trunk(x)
        if self.reads == "map":
            return self._read(features, features)
        return self._read(features, head(self.pam(features)[0] if self.attend else features))

    def _read(self, features: Tensor, embedding: Tensor) -> Tensor:
        told = features.flatten(1) if self.reads == "map" else embedding
        # By the root of their number, so that a step changes the index of a map of 25,088 numbers no more than that of
        # an embedding: without it, the rate that suits the other heads makes this one diverge.
        return cast(Tensor, self.reg(self.dropout(told) / told.shape[1] ** 0.5).squeeze(1))

    def _slowed(self, value: Tensor) -> Tensor:
        if self.gradient == 1 or not value.requires_grad:
            return value
        return value * self.gradient + value.detach() * (1 - self.gradient)

    @torch.no_grad()
    def note_unrecognizable(self, x: Tensor) -> None:
        """Sets ``ui_mean`` and ``ui_std`` to those of the index that unrecognisable pictures (n, 3, S, S) get now."""
        mode = self.training
        self.eval()
        told = torch.cat([self.rate(part).float() for part in torch.split(x, 128)])
        self.train(mode)
        std, mean = torch.std_mean(told, correction=0)
        self.ui_mean.copy_(mean)
        self.ui_std.copy_(std.clamp(min=1e-4))


def recognizer(
    *, network: str = "mien.nn.iresnet:iresnet50", arguments: Mapping[str, Any] | None = None, dim: int = 512,
    size: int = 112, dropout: float = 0.4, reduction: int = 16, reads: Literal["map", "embedding"] = "map",
    attend: bool = False, returns: Literal["all", "embedding"] = "all",
) -> Recognizer:  # fmt: skip
    """`Recognizer` on a backbone of mien: with IResNet-50, 43.9 M parameters, 6.3 GMAC at 112 px.

    Parameters
    ----------
    network, arguments
        ``module:function`` in mien that builds the backbone from `dim` and `arguments`. Other code is refused here,
        since declarations of weights call this function and a file must not choose what runs; give a backbone of your
        own to `Recognizer`.
    dim, size, dropout, reduction, reads, attend, returns
        See `Recognizer`.

    Raises
    ------
    OptionError
        There is no such network in mien.
    """
    module, _, function = network.partition(":")
    if not module.startswith("mien.") or not function.isidentifier():
        raise OptionError("a backbone by name must be one of mien", got=network, expected="mien.…:function")
    try:
        backbone: nn.Module = getattr(importlib.import_module(module), function)(dim=dim, **(arguments or {}))
    except (ImportError, AttributeError, TypeError) as error:
        raise OptionError("the backbone cannot be built", got=f"{network}: {error}") from error
    return Recognizer(
        backbone, dim=dim, size=size, dropout=dropout, reduction=reduction, reads=reads, attend=attend, returns=returns
    )


assert tuple(RI_FORMS) == get_args(RiForm)
