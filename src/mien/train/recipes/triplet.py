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

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError
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
from mien.train.people import HELD_PICTURES, PeopleRecipe, built, compared

__all__ = ["HELD_PICTURES", "Trainee", "TripletRecipe", "built", "compared"]


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
class TripletRecipe(PeopleRecipe):
    """Trains an embedding by triplets mined online.

    Parameters
    ----------
    data, network, arguments, dim, size, scaled, flip, standardise, held
        See `PeopleRecipe`.
    images, others, least
        Pictures of each person in a batch, random pictures beside them, and how many pictures a person must have. A
        batch has ``(batch_size - others) / images`` people.
    rule, margin, reduction, both_orders
        See `mien.nn.triplet`.
    warm_steps, warm_scale
        First steps that learn to tell the training people apart, by a softmax of `warm_scale` times cosines.
    harmonic, old, old_network, old_arguments, old_size
        "last" trains a new embedding layer alone, "all" everything, so that vectors can be compared with those of the
        network whose weights `old` are; `old_size` is its input (0: `size`).
    """

    network: str = "mien.papers.facenet:nn4_small2"
    size: int = 96
    images: int = 8
    others: int = 0
    least: int = 2
    rule: Rule = "semi_hard"
    margin: float = MARGIN
    reduction: Reduction = "active"
    both_orders: bool = True
    warm_steps: int = 0
    warm_scale: float = 16.0
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
        if not self.margin >= 0 or self.warm_steps < 0:
            raise OptionError("a number is out of its range", got=f"margin {self.margin}, warm_steps {self.warm_steps}")
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

    @cached_property
    def _old(self) -> nn.Module:
        assert self.old is not None
        assert self.old_network is not None
        network = built(self.old_network, self.old_arguments, self.dim)
        checkpoint.fill(network, Path(self.old))
        # With several processes, "cuda" is the device of this one.
        there = self.device != "cpu" and self.device != "mps" and torch.cuda.is_available()
        return network.eval().requires_grad_(False).to("cuda" if there else "cpu")

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
