"""Training on named people: their pictures, who is kept out, wrong labels on purpose, and what is measured.

Shared by all recipes that learn an embedding from a set of named people (`PeopleRecipe`).
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode
from mien.errors import OptionError, TableError, ValueRangeError
from mien.nn.standardise import STANDARDS, Standardise
from mien.train.draws import Source
from mien.train.loop import Recipe

if TYPE_CHECKING:
    from mien.data.formats import Samples

__all__ = ["HELD_PICTURES", "People", "PeopleRecipe", "built", "compared", "wrong_labels"]

HELD_PICTURES = 2000
"""Most pictures of held-out people that are compared, all with all."""


class People(Source):
    """Pictures of people: `image` (size, size, 3) uint8, `label`, and `old` (d,), the old network's vector, if given.

    Parameters
    ----------
    samples
        The pictures.
    labels
        (n,) people from 0 on. Pictures of nobody known have numbers of their own after those.
    scaled
        Side to which a picture is squashed, px; a square of `size` is cut from it, at random in training.
    flip
        Whether every second picture is mirrored.
    old
        (n, d) vectors, or None.
    """

    def __init__(
        self, samples: Samples, labels: NDArray[np.int64], *, size: int, scaled: int, flip: bool,
        old: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        self.samples, self.labels, self.old = samples, labels, old
        self.size, self.scaled, self.flip = size, scaled, flip

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        picture = self._squashed(index)
        y, x = rng.integers(self.scaled - self.size + 1, size=2)
        image = picture[y : y + self.size, x : x + self.size]
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        sample = {"image": np.ascontiguousarray(image), "label": self.labels[index]}
        return sample if self.old is None else {**sample, "old": self.old[index]}

    def plain(self, batch: int = 64) -> Iterator[Picture]:
        """All pictures, cut from the middle, in batches (b, size, size, 3)."""
        edge = (self.scaled - self.size) // 2
        inside = slice(edge, edge + self.size)
        for start in range(0, len(self), batch):
            rows = range(start, min(start + batch, len(self)))
            yield np.stack([self._squashed(row)[inside, inside] for row in rows])

    def _squashed(self, index: int) -> Picture:
        import cv2

        picture = decode(self.samples.fetch([index])[0])
        kind = cv2.INTER_AREA if min(picture.shape[:2]) > self.scaled else cv2.INTER_LINEAR
        return as_picture(cv2.resize(picture, (self.scaled, self.scaled), interpolation=kind))


@dataclass(kw_only=True)
class PeopleRecipe(Recipe):
    """Base of recipes that train an embedding on a set of named people.

    Parameters
    ----------
    data
        Folder, table or records of pictures with the names of people.
    network, arguments
        ``module:function`` that builds the network from `dim` and from these ("width=0.5", "dropout=0").
    dim
        Length of the embedding.
    size, scaled
        Side of the network's input, px, and side to which pictures are squashed before it is cut from them at random
        (0: `size`, nothing is cut off).
    flip
        Whether every second picture is mirrored.
    standardise
        How pixels become numbers: "fixed", ``(x - 127.5) / 128``; "image": each picture has mean 0 and standard
        deviation 1; "imagenet": that set's mean and deviation; "tenfold": ten times "fixed".
    held
        Share of the people, chosen by a hash of their names, that are kept out and measured on.
    """

    data: str
    network: str
    arguments: tuple[str, ...] = ()
    dim: int = 128
    size: int = 112
    scaled: int = 0
    flip: bool = True
    standardise: Standardise = "fixed"
    held: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.standardise not in STANDARDS:
            raise OptionError.unknown("unknown way from pixels to numbers", self.standardise, STANDARDS)
        if self.size < 1 or (self.scaled and self.scaled < self.size):
            raise OptionError("pictures are smaller than what is cut from them", got=(self.scaled, self.size))
        if not 0 <= self.held < 1 or self.dim < 1:
            raise OptionError(
                "a number is out of its range",
                got=f"held {self.held}, dim {self.dim}",
                expected="held 0 to below 1, dim at least 1",
            )

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _samples(self) -> tuple[Samples, Samples]:
        """Pictures to train on, and of held-out people."""
        from mien.data.formats import read
        from mien.data.sets import held_out

        samples = read(self.data)
        if samples.labels is None:
            raise TableError("the set does not say who is on its pictures", got=self.data, expected="named people")
        names = [samples.label_name(int(label)) for label in samples.labels]
        held = held_out(names, self.held) & (samples.labels >= 0)
        return samples.take(~held), samples.take(held)

    @cached_property
    def _labels(self) -> tuple[NDArray[np.int64], int]:
        """Number (n,) of the person on each training picture, those of nobody known after the others; and people."""
        labels = self._samples[0].labels
        assert labels is not None
        known, codes = np.unique(labels, return_inverse=True)
        nobody = int((known < 0).sum())
        people = len(known) - nobody
        own = people + np.arange(len(labels))
        return np.where(labels < 0, own, codes.reshape(-1) - nobody).astype(np.int64), people

    def _people(self, samples: Samples, labels: NDArray[np.int64], size: int) -> People:
        scaled = round(size * (self.scaled or self.size) / self.size)
        return People(samples, labels, size=size, scaled=scaled, flip=self.flip)

    # ------------------------------------------------------------------------------------------- network

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def _seen(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> what the network sees, (B, 3, H, W)."""
        return STANDARDS[self.standardise](images)

    def _vectors(self, network: nn.Module, seen: Tensor) -> Tensor:
        """Unit vectors (B, d) by which pictures (B, 3, H, W) are compared."""
        return F.normalize(network(seen).float(), dim=1)

    @torch.no_grad()
    def _embedded(self, network: nn.Module, people: People) -> NDArray[np.float32]:
        """Unit vectors (n, d) of all pictures, on the device of the network."""
        device = next(network.parameters()).device
        parts = [
            self._vectors(network, self._seen(torch.from_numpy(batch).to(device))).cpu() for batch in people.plain()
        ]
        return torch.cat(parts).numpy()

    # ------------------------------------------------------------------------------------------- figures

    @property
    def _compared(self) -> tuple[Samples, NDArray[np.int64]]:
        """Pictures of held-out people that are compared, and who is on them."""
        samples = self._samples[1].take(slice(0, HELD_PICTURES))
        assert samples.labels is not None
        return samples, samples.labels

    def held_out(self) -> tuple[Picture, NDArray[np.int64]]:
        """Pictures (n, size, size, 3) of held-out people as `evaluate` sees them, and who is on them (n,)."""
        samples, labels = self._compared
        return as_picture(np.concatenate([*self._people(samples, labels, self.size).plain()])), labels

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Of the held-out people, all pictures against all: `auc`, and `val` at FAR 1e-3 where pairs suffice for it."""
        if not self.held:
            return {}
        samples, labels = self._compared
        vectors = self._embedded(network, self._people(samples, labels, self.size))
        return compared(vectors, vectors, labels)


def wrong_labels(labels: NDArray[np.int64], people: int, share: float, *, seed: int) -> NDArray[np.int64]:
    """`labels` (n,), of which ``round(share * n)`` at random are replaced, each by another of `people` at random.

    Raises
    ------
    ValueRangeError
        A share outside of 0 to 1, or nobody to mistake a person for.
    """
    if not 0 <= share <= 1 or (share and people < 2):
        raise ValueRangeError(
            "labels cannot be made wrong so", got=f"a share of {share}, {people} people",
            expected="a share of 0 to 1, and two people at least",
        )  # fmt: skip
    rng = np.random.default_rng([seed, 40])
    noisy = np.array(labels, np.int64)
    rows = rng.permutation(len(noisy))[: round(share * len(noisy))]
    noisy[rows] = (noisy[rows] + rng.integers(1, max(2, people), len(rows))) % people
    return noisy


def compared(query: NDArray[np.float32], gallery: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """`auc`, and `val` at FAR 1e-3 where there are 1,000 pairs of two people, of all pairs of different pictures.

    Rows (n, d) are unit vectors of the same pictures; pairs are ordered where they are of two networks.
    """
    from mien.metrics import auc, tar_at_far

    n = len(labels)
    first, second = np.triu_indices(n, 1) if query is gallery else np.nonzero(~np.eye(n, dtype=bool))
    scores, same = (query @ gallery.T)[first, second], labels[first] == labels[second]
    if same.all() or not same.any():
        return {}
    figures = {"auc": auc(scores, same)}
    if (~same).sum() >= 1000:
        figures["val"] = tar_at_far(scores, same, 1e-3)
    return figures


def built(reference: str, arguments: tuple[str, ...], dim: int) -> nn.Module:
    """The network that ``module:function`` builds, with `dim` and with arguments written as ``name=value``.

    Raises
    ------
    OptionError
        There is no such function, or it does not take the arguments.
    """
    options: dict[str, Any] = {"dim": dim}
    try:
        module, _, function = reference.partition(":")
        build = getattr(importlib.import_module(module), function)
        for argument in arguments:
            name, _, value = argument.partition("=")
            options[name] = ast.literal_eval(value)
        network = build(**options)
    except (ImportError, AttributeError, ValueError, SyntaxError, TypeError) as error:
        raise OptionError(
            "the network cannot be built",
            got=f"{reference} with {', '.join(arguments) or 'no arguments'}: {error}",
            expected="module:function that takes dim, and name=value for the others",
        ) from error
    if not isinstance(network, nn.Module):
        raise OptionError("what was built is no network", got=type(network).__name__, expected="nn.Module")
    return network
