"""Low-rank adapters: small trainable branches beside frozen layers, single or twin.

    y = W x + b + s D(B A x)                                              single (Hu et al., LoRA, 2022, equation 3)
    y = W x + b + s D1(B1 A1 (1 - alpha) x) + s D2(B2 A2 alpha x)         twin (Narayan et al., PETALface, 2025)

A maps to r numbers and B back, D is dropout in training, s a constant. A twin layer has two branches, and alpha, one
number for each picture, says how much each counts: pictures of high and of low quality go through different networks
that share all but a hundredth of their weights. Branches have no bias.

An adapted layer *is* the layer it stands for, with the same names in its state dict, so that plain weights fit. `adapt`
puts adapters into any network, of linear layers and of convolutions; `Blended` hands alpha to them:

    names = adapt(network, twin=r".*\\.attn\\.qkv", single=r"feature_layer\\..*", rank=8)
    freeze(network)                            # only the branches learn
    blended = Blended(network)
    z = blended(images, alpha)                 # alpha (B, 1)
    plain = merge(blended, alpha=0.9)          # one ordinary network, for one alpha
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, ShapeError

__all__ = ["MARK", "Blended", "LoRAConv2d", "LoRALinear", "adapt", "adapters", "blending", "freeze", "merge"]

MARK = "lora_"
"""What the names of all trainable tensors of an adapter contain."""

_alpha: ContextVar[Tensor | None] = ContextVar("alpha", default=None)
"""The alpha of the pictures that go through the network now. A context variable and no attribute, so that two threads
can use one network, and nothing of a batch stays in it."""


@contextmanager
def blending(alpha: Tensor | None) -> Iterator[None]:
    """Within it, every twin adapter mixes its branches by `alpha` (B, 1); None leaves what an outer one said."""
    if alpha is None:
        yield
        return
    token = _alpha.set(alpha)
    try:
        yield
    finally:
        _alpha.reset(token)


class _Adapter(nn.Module, ABC):
    """What both kinds of adapted layers share. Mixed into a subclass of a layer of torch."""

    rank: int
    scale: float
    twin: bool
    lora_down: nn.Module
    lora_up: nn.Module

    def _equip(self, rank: int, scale: float, dropout: float, twin: bool) -> None:
        if rank < 1 or not 0 <= dropout < 1:
            raise OptionError(
                "an adapter's numbers are out of range",
                got=f"rank {rank}, dropout {dropout}",
                expected="a rank of at least 1, a dropout of at least 0 and below 1",
            )
        self.rank, self.scale, self.twin = rank, scale, twin
        for which in ("", "2") if twin else ("",):
            down, up = self._pair(rank)
            setattr(self, f"lora_down{which}", down)
            setattr(self, f"lora_up{which}", up)
        self.lora_dropout = nn.Dropout(dropout)
        self.restart()

    @abstractmethod
    def _pair(self, rank: int) -> tuple[nn.Module, nn.Module]:
        """The layers A and B of one branch."""

    def _pairs(self) -> list[tuple[Any, Any]]:
        return [
            (getattr(self, f"lora_down{n}"), getattr(self, f"lora_up{n}")) for n in (("", "2") if self.twin else ("",))
        ]

    def restart(self, *, up_std: float = 0.0, down_std: float | None = None) -> None:
        """First numbers of the branches: A of normal numbers with standard deviation 1 / r, B of zeros.

        With B zero the adapted layer begins as the plain one. The released code overwrites both with normal numbers of
        0.02, cut at +-2, after it has set them: ``up_std=0.02, down_std=0.02``.
        """
        for down, up in self._pairs():
            nn.init.trunc_normal_(down.weight, std=down_std) if down_std else nn.init.normal_(
                down.weight, std=1 / self.rank
            )
            nn.init.trunc_normal_(up.weight, std=up_std) if up_std else nn.init.zeros_(up.weight)

    def branches(self, x: Tensor) -> Tensor:
        """Sum of the branches, before the scale; the rows of x of one picture stand together."""
        pairs = self._pairs()
        if not self.twin:
            down, up = pairs[0]
            return cast(Tensor, self.lora_dropout(up(down(x))))
        alpha = _alpha.get()
        if alpha is None:
            raise OptionError(
                "a network with twin adapters needs to know alpha",
                got="none",
                expected="one number for each picture",
                hint="call it through mien.nn.lora.Blended, or within blending(alpha)",
            )
        total: Tensor | None = None
        # The small product is weighted and not the input: the same but for rounding, at a fraction of the cost.
        for (down, up), share in zip(pairs, (1 - alpha, alpha), strict=True):
            part = self.lora_dropout(up(self._weighted(down(x), share)))
            total = part if total is None else total + part
        assert total is not None
        return total

    @abstractmethod
    def _weighted(self, low: Tensor, share: Tensor) -> Tensor:
        """What A gave, times the share (B, 1) of the picture that it belongs to."""

    def product(self, alpha: float | None) -> Tensor:
        """What the branches add to the weight, for one alpha (None for a single branch)."""
        if self.twin != (alpha is not None):
            raise OptionError(
                "twin branches are merged for an alpha, single ones without",
                got=alpha, expected="a number" if self.twin else None,
            )  # fmt: skip
        shares = (1.0,) if alpha is None else (1 - alpha, alpha)
        products = [share * self._product(*pair) for pair, share in zip(self._pairs(), shares, strict=True)]
        return self.scale * torch.stack(products).sum(0)

    @abstractmethod
    def _product(self, down: Any, up: Any) -> Tensor:
        """B A, in the shape of the layer's weight."""


class LoRALinear(_Adapter, nn.Linear):
    """A linear layer with one low-rank branch beside it, or two that alpha mixes.

    Parameters
    ----------
    in_features, out_features, bias
        Of the plain layer.
    rank
        Numbers in the middle of a branch, r.
    scale
        Factor s of the branches; it is not divided by r.
    dropout
        Of each branch's output, in training.
    twin
        Whether there are two branches.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rank: int = 8, scale: float = 1.0,
        dropout: float = 0.1, twin: bool = False,
    ) -> None:  # fmt: skip
        nn.Linear.__init__(self, in_features, out_features, bias)
        self._equip(rank, scale, dropout, twin)

    @classmethod
    def around(cls, layer: nn.Linear, **options: Any) -> LoRALinear:
        """An adapted layer with the tensors of `layer` (shared, not copied)."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, **options)
        made.to(device=layer.weight.device, dtype=layer.weight.dtype)
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def _pair(self, rank: int) -> tuple[nn.Module, nn.Module]:
        return nn.Linear(self.in_features, rank, bias=False), nn.Linear(rank, self.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n B, …, in) -> (n B, …, out); for B values of alpha, n consecutive rows belong to each."""
        return F.linear(x, self.weight, self.bias) + self.scale * self.branches(x)

    def _weighted(self, low: Tensor, share: Tensor) -> Tensor:
        return (low.reshape(share.shape[0], -1, self.rank) * share.to(low.dtype)[:, :, None]).reshape(low.shape)

    def _product(self, down: Any, up: Any) -> Tensor:
        return cast(Tensor, up.weight @ down.weight)

    @torch.no_grad()
    def merged(self, alpha: float | None = None) -> nn.Linear:
        """The ordinary layer that gives the same for this alpha."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.product(alpha))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.clone())
        return plain


class LoRAConv2d(_Adapter, nn.Conv2d):
    """A convolution with low-rank branches: A is a convolution of the same kernel to r channels, B one of 1 x 1.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, bias
        Of the plain layer.
    rank, scale, dropout, twin
        As those of `LoRALinear`.

    Raises
    ------
    OptionError
        A number out of its range.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1, padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1, bias: bool = True, *, rank: int = 8, scale: float = 1.0,
        dropout: float = 0.1, twin: bool = False,
    ) -> None:  # fmt: skip
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        self._equip(rank, scale, dropout, twin)

    @classmethod
    def around(cls, layer: nn.Conv2d, **options: Any) -> LoRAConv2d:
        """An adapted layer with the tensors of `layer` (shared, not copied); OptionError if it has groups."""
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise OptionError(
                "such a convolution takes no adapter",
                got=f"groups {layer.groups}, padding {layer.padding_mode}",
                expected="one group, padded with zeros",
            )
        made = cls(
            layer.in_channels, layer.out_channels, cast(Any, layer.kernel_size), cast(Any, layer.stride),
            cast(Any, layer.padding), cast(Any, layer.dilation), layer.bias is not None, **options,
        )  # fmt: skip
        made.to(device=layer.weight.device, dtype=layer.weight.dtype)
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def _plain(self, out: int, *, bias: bool = False, device: str | None = None) -> nn.Conv2d:
        kernel, stride, dilation = (cast(Any, v) for v in (self.kernel_size, self.stride, self.dilation))
        return nn.Conv2d(
            self.in_channels, out, kernel, stride, cast(Any, self.padding), dilation, bias=bias, device=device
        )

    def _pair(self, rank: int) -> tuple[nn.Module, nn.Module]:
        return self._plain(rank), nn.Conv2d(rank, self.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W')."""
        return cast(Tensor, self._conv_forward(x, self.weight, self.bias) + self.scale * self.branches(x))

    def _weighted(self, low: Tensor, share: Tensor) -> Tensor:
        return low * share.to(low.dtype)[:, :, None, None]

    def _product(self, down: Any, up: Any) -> Tensor:
        return torch.einsum("or,rikl->oikl", up.weight[:, :, 0, 0], down.weight)

    @torch.no_grad()
    def merged(self, alpha: float | None = None) -> nn.Conv2d:
        """The ordinary convolution that gives the same for this alpha."""
        plain = self._plain(self.out_channels, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.product(alpha))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.clone())
        return plain


# ------------------------------------------------------------------------------------------- whole networks


class Blended(nn.Module):
    """A network with twin adapters, called with pictures and their alpha, or with pictures alone.

    Parameters
    ----------
    network
        With or without adapters; it is called with the pictures.
    weight
        Gives alpha (B, 1) of pictures (B, 3, H, W) where the caller does not, such as
        `mien.nn.iqa.QualityWeight`; without gradient.
    """

    def __init__(self, network: nn.Module, weight: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.weight = network, weight

    def forward(self, images: Tensor, alpha: Tensor | None = None) -> Any:
        """Whatever the network gives for (B, 3, H, W), with alpha (B, 1).

        Raises
        ------
        ShapeError
            alpha is not one number for each picture.
        """
        if alpha is None and self.weight is not None:
            with torch.no_grad():
                alpha = self.weight(images)
        if alpha is not None and alpha.shape[1:] != (1,):
            raise ShapeError("alpha is one number for each picture", got=tuple(alpha.shape), expected=(len(images), 1))
        with blending(alpha):
            return self.network(images)


def adapters(network: nn.Module) -> dict[str, LoRALinear | LoRAConv2d]:
    """All adapted layers of a network by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoRALinear | LoRAConv2d)}


def adapt(
    network: nn.Module, *, twin: str = "", single: str = "", rank: int = 8, scale: float = 1.0, dropout: float = 0.1
) -> tuple[str, ...]:
    """Puts adapters beside layers of a network, in place; their tensors stay what and where they are.

    Parameters
    ----------
    network
        Any; not only this project's.
    twin, single
        Regular expressions that must match a layer's whole name; linear layers and convolutions among those get twin
        or single branches ("": none do). `twin` goes first.
    rank, scale, dropout
        See `LoRALinear`.

    Returns
    -------
    tuple of str
        Names of the adapted layers.

    Raises
    ------
    OptionError
        An expression matches no layer that can be adapted, or one that is adapted already.
    """
    changed: dict[str, bool] = {}
    for pattern, two in ((twin, True), (single, False)):
        if not pattern:
            continue
        matched = [
            name for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and f".{MARK}" not in name and re.fullmatch(pattern, name)
            and name
        ]  # fmt: skip
        if not matched or any(isinstance(network.get_submodule(name), _Adapter) for name in matched):
            able = [name for name, layer in network.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)]
            raise OptionError(
                "no layer of the network takes an adapter" if not matched else "a layer has an adapter already",
                got=f"{pattern!r}", expected=f"a match of one of {', '.join(able[:6])} …",
            )  # fmt: skip
        changed = {**dict.fromkeys(matched, two), **changed}
    for name, two in changed.items():
        parent, _, attribute = name.rpartition(".")
        layer = network.get_submodule(name)
        options: dict[str, Any] = {"rank": rank, "scale": scale, "dropout": dropout, "twin": two}
        made: nn.Module
        if isinstance(layer, nn.Linear):
            made = LoRALinear.around(layer, **options)
        else:
            made = LoRAConv2d.around(cast(nn.Conv2d, layer), **options)
        setattr(network.get_submodule(parent), attribute, made.train(layer.training))
    return tuple(name for name, _ in network.named_modules() if name in changed)


def freeze(network: nn.Module) -> nn.Module:
    """From now on only the branches of adapters learn; gives the network back."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(f".{MARK}" in f".{name}")
    return network


def merge(network: nn.Module, alpha: float | None = None) -> nn.Module:
    """A copy of a network in which ordinary layers stand in the place of adapted ones, for one alpha.

    For instance one network for a gallery of good pictures and one for poor probes, at no cost over the plain one.

    Parameters
    ----------
    network
        With adapters. Of a `Blended` one the inner network is merged and given.
    alpha
        Of the twin branches; not needed where there are only single ones.

    Raises
    ------
    OptionError
        There are twin branches and no alpha.
    """
    made = copy.deepcopy(network.network if isinstance(network, Blended) else network)
    for name, layer in adapters(made).items():
        parent, _, attribute = name.rpartition(".")
        plain = layer.merged(alpha if layer.twin else None)
        setattr(made.get_submodule(parent), attribute, plain.train(layer.training))
    return made
