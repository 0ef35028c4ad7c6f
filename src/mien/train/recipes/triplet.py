"""Training of an embedding by triplets, as FaceNet does it, on any set of named people.

    mien train triplet preset=small data=FOLDER out=runs/v1
    mien train triplet preset=paper data=FOLDER out=runs/nn2
    mien train triplet preset=third_party data=FOLDER out=runs/inception

`data` is whatever `mien.data.formats.read` knows: a folder for each person, a table of files and identities, records of
MXNet. Each batch shows some pictures of some people (`mien.train.batches`), is embedded once, mined, and trained on
where it is: see `mien.nn.triplet`.

A new network that shall be compared with an old one's vectors is trained in three runs (the paper's appendix on
harmonic embeddings): on its own; with a new embedding layer, that alone trained against the old vectors; then all.

    old="old=runs/v1/weights.safetensors old_network=mien.papers.facenet:nn4_small2"
    mien train triplet data=FOLDER out=runs/v2a
    mien train triplet data=FOLDER out=runs/v2b init=runs/v2a/weights.safetensors harmonic=last $old
    mien train triplet data=FOLDER out=runs/v2c init=runs/v2b/weights.safetensors harmonic=all $old

Triplets learn slowly from random weights when people are few: `warm_steps` begins with a softmax over the training
people, of the cosines with one learned vector each, which is what most published networks were trained with.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode
from mien.errors import OptionError, TableError
from mien.nn.inputs import to_input
from mien.nn.standardise import image_standardisation
from mien.nn.triplet import (
    MARGIN,
    RULES,
    Reduction,
    Rule,
    embedding_layers,
    harmonic_loss,
    restart_embedding,
    triplet_loss,
)
from mien.train import checkpoint
from mien.train.batches import PeopleDraws
from mien.train.draws import Draws, Source
from mien.train.loop import Recipe

if TYPE_CHECKING:
    from mien.data.formats import Samples

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


class Trainee(nn.Module):
    """The network, made to give unit vectors, and a layer over the training people where a softmax warms it up."""

    def __init__(self, network: nn.Module, *, people: int, dim: int, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.people = nn.Parameter(F.normalize(torch.randn(people, dim), dim=1)) if people else None
        self.frozen = False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) -> unit embeddings (B, d), and logits (B, people), `scale` times cosines, or None."""
        z = F.normalize(self.network(images), dim=1)
        return z, None if self.people is None else self.scale * z @ F.normalize(self.people, dim=1).T

    def freeze_all_but_embedding(self) -> None:
        """Only the embedding layer learns from now on; batch statistics of the rest stay what they are."""
        self.network.requires_grad_(False)
        for layer in embedding_layers(self.network):
            layer.requires_grad_(True)
        self.frozen = True

    def train(self, mode: bool = True) -> Trainee:
        super().train(mode)
        if mode and self.frozen:
            self.network.eval()
            for layer in embedding_layers(self.network):
                layer.train()
        return self


@dataclass(kw_only=True)
class TripletRecipe(Recipe):
    """Trains an embedding by triplets mined online.

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
        "fixed", ``(x - 127.5) / 128``, or "image": each picture has mean 0 and standard deviation 1.
    images, others, least
        Pictures of each person in a batch, random pictures beside them, and how many pictures a person must have. A
        batch has ``(batch_size - others) / images`` people.
    rule, margin, reduction, both_orders
        See `mien.nn.triplet`.
    warm_steps, warm_scale
        First steps that learn to tell the training people apart, by a softmax of `warm_scale` times cosines.
    held
        Share of the people, chosen by a hash of their names, that are kept out and measured on.
    harmonic, old, old_network, old_arguments, old_size
        "last" trains a new embedding layer alone, "all" everything, so that vectors can be compared with those of the
        network whose weights `old` are; `old_size` is its input (0: `size`).
    """

    data: str
    network: str = "mien.papers.facenet:nn4_small2"
    arguments: tuple[str, ...] = ()
    dim: int = 128
    size: int = 96
    scaled: int = 0
    flip: bool = True
    standardise: Literal["fixed", "image"] = "fixed"
    images: int = 8
    others: int = 0
    least: int = 2
    rule: Rule = "semi_hard"
    margin: float = MARGIN
    reduction: Reduction = "active"
    both_orders: bool = True
    warm_steps: int = 0
    warm_scale: float = 16.0
    held: float = 0.0
    harmonic: Literal["off", "last", "all"] = "off"
    old: str | None = None
    old_network: str | None = None
    old_arguments: tuple[str, ...] = ()
    old_size: int = 0

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"old"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # Section 3.2 and 4: AdaGrad from 0.05, lowered; batches of 1,800 with 40 of a person. The paper trains for
        # 1,000 to 2,000 hours and does not say how many steps that is.
        "paper": {
            "network": "mien.papers.facenet:nn2", "size": 224, "batch_size": 1800, "images": 40, "others": 40,
            "steps": 500_000, "optimizer": "adagrad", "lr": 0.05, "schedule": "linear", "warmup": 0,
            "weight_decay": 0.0, "clip": 0.0, "ema": 0.0,
        },
        # train_tripletloss.py of davidsandberg/facenet: 500 epochs of 1,000 batches of 90 are as many pictures as
        # 25,000 batches of 1,800, which are mined and trained on at once here.
        "third_party": {
            "network": "mien.papers.facenet:inception_resnet_v1", "arguments": ("dropout=0",), "size": 160,
            "scaled": 182, "standardise": "image", "batch_size": 1800, "images": 40, "steps": 25_000,
            "rule": "violator", "both_orders": False, "optimizer": "adagrad", "lr": 0.1, "schedule": "constant",
            "warmup": 0, "weight_decay": 0.0, "clip": 0.0, "ema": 0.9999,
        },
        # Minutes on a processor.
        "small": {
            "arguments": ("width=0.5",), "dim": 64, "size": 64, "scaled": 72, "batch_size": 128, "images": 4,
            "steps": 400, "lr": 1e-3, "warmup": 20, "ema": 0.98, "held": 0.25,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in RULES:
            raise OptionError.unknown("unknown mining rule", self.rule, RULES)
        shown = self.batch_size - self.others
        if self.images < 2 or self.others < 0 or shown < 2 * self.images or shown % self.images:
            raise OptionError(
                "the batch cannot be dealt out to people",
                got=f"batch_size {self.batch_size}, others {self.others}, images {self.images}",
                expected="batch_size = others + people * images, with two people and two images of each at least",
            )
        if self.size < 1 or (self.scaled and self.scaled < self.size):
            raise OptionError("pictures are smaller than what is cut from them", got=(self.scaled, self.size))
        if not 0 <= self.held < 1 or not self.margin >= 0 or self.warm_steps < 0 or self.dim < 1:
            raise OptionError(
                "a number is out of its range",
                got=f"held {self.held}, margin {self.margin}, warm_steps {self.warm_steps}, dim {self.dim}",
            )
        wanted = self.harmonic != "off"
        if wanted != (self.old is not None) or wanted != (self.old_network is not None):
            raise OptionError(
                "harmonic training needs the old network, and nothing else does",
                got=f"harmonic {self.harmonic}, old {self.old}, old_network {self.old_network}",
                expected="harmonic=last or all, old=WEIGHTS and old_network=module:function; or none of them",
            )
        if wanted and self.warm_steps:
            raise OptionError("harmonic training starts from a trained network", got=f"warm_steps {self.warm_steps}")

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

    def source(self) -> Source:
        people = self._people(self._samples[0], self._labels[0], self.size)
        if self.old is not None:
            plain = self._people(self._samples[0], self._labels[0], self.old_size or self.size)
            people.old = self._embedded(self._old, plain)
        return people

    def draws(self, source: Source) -> Draws:
        labels, count = self._labels
        return PeopleDraws(
            source, np.where(labels < count, labels, -1), people=(self.batch_size - self.others) // self.images,
            images=self.images, others=self.others, seed=self.seed, least=self.least,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- networks

    def build(self) -> nn.Module:
        network = built(self.network, self.arguments, self.dim)
        people = self._labels[1] if self.warm_steps else 0
        return Trainee(network, people=people, dim=self.dim, scale=self.warm_scale)

    def begin(self, module: nn.Module) -> None:
        assert isinstance(module, Trainee)
        if self.harmonic == "last":
            restart_embedding(module.network)
            module.freeze_all_but_embedding()

    def deploy(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, Trainee)
        return module.network

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    @cached_property
    def _old(self) -> nn.Module:
        assert self.old is not None
        assert self.old_network is not None
        network = built(self.old_network, self.old_arguments, self.dim)
        checkpoint.fill(network, Path(self.old))
        # With several processes, "cuda" is the device of this one.
        there = self.device != "cpu" and self.device != "mps" and torch.cuda.is_available()
        return network.eval().requires_grad_(False).to("cuda" if there else "cpu")

    def _seen(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> what the network sees, (B, 3, H, W)."""
        return to_input(images) if self.standardise == "fixed" else image_standardisation(images)

    @torch.no_grad()
    def _embedded(self, network: nn.Module, people: People) -> NDArray[np.float32]:
        """Unit vectors (n, d) of all pictures, on the device of the network."""
        device = next(network.parameters()).device
        parts = [
            F.normalize(network(self._seen(torch.from_numpy(batch).to(device))).float(), dim=1).cpu()
            for batch in people.plain()
        ]
        return torch.cat(parts).numpy()

    # ------------------------------------------------------------------------------------------- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        z, logits = module(self._seen(batch["image"]))
        z, label = z.float(), batch["label"]
        common: dict[str, Any] = {"rule": self.rule, "margin": self.margin, "reduction": self.reduction}
        if self.harmonic != "off":
            return harmonic_loss(batch["old"], z, label, **common)
        loss, parts = triplet_loss(z, label, both_orders=self.both_orders, **common)
        if logits is None:
            return loss, parts
        if step < self.warm_steps:
            logits = logits.float()
            known = torch.where(label < logits.shape[1], label, -1)
            softmax = F.cross_entropy(logits, known, ignore_index=-1)
            return softmax, {**parts, "triplet": loss.detach()}
        # Touched, with no weight: several processes expect a gradient for all that was computed.
        return loss + 0 * logits.sum(), {**parts, "triplet": loss.detach()}

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
        """Of the held-out people, all pictures against all: `auc`, and `val` at FAR 1e-3 where pairs suffice for it.

        After harmonic training also new against old vectors, and old against old.
        """
        if not self.held:
            return {}
        samples, labels = self._compared
        new = self._embedded(network, self._people(samples, labels, self.size))
        figures = compared(new, new, labels)
        if self.old is not None:
            old = self._embedded(self._old, self._people(samples, labels, self.old_size or self.size))
            for name, query in (("new_old", new), ("old", old)):
                figures |= {f"{name}_{key}": value for key, value in compared(query, old, labels).items()}
        return figures


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
