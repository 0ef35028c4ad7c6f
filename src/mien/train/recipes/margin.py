"""Training of an embedding by a classifier over the training people, as most recognisers are made.

    mien train margin preset=small data=FOLDER out=runs/m1
    mien train margin preset=small data=FOLDER out=runs/m2 head=cosface margin=0.4 noise=0.4
    mien train margin preset=paper data=faces_webface_112x112/train.rec out=runs/sface

`data` is whatever `mien.data.formats.read` knows: a folder for each person, a table of files and identities, records of
MXNet. Pictures are aligned crops already. The network gives a vector for a picture, a class layer
(`mien.train.classes`) has one for each person, and the loss is of the cosines between the two. `head` names it:

    softmax   s cos, no margin
    cosface   s (cos - margin) for the own person
    arcface   s cos(angle + margin)
    magface   s cos(angle + m), m growing with the length of the picture's vector; and a reward for length
    sface     no softmax: a pull to the own person's vector and a push from the others', both fading out

The class layer lies outside of the network: with several processes each holds its share of the people, and with
``sample=0.1`` only a tenth of the others takes part in a step. It is not kept after training.

`MarginRecipe.class_layer` is where the head is made: an object that is called with embeddings and labels and gives a
loss. More negatives beside the class vectors are one function (`mien.train.classes.Negatives`), chosen by
``negatives=``; see `MarginRecipe.more_negatives`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.negatives import contrastive_term, gathered, pairs_logsumexp, triplet_term
from mien.train import checkpoint
from mien.train.batches import PeopleDraws
from mien.train.classes import (
    ClassLayer,
    MagFace,
    Margin,
    Negatives,
    NormMargin,
    PartialFC,
    SFaceLayer,
    arcface,
    cosface,
    softmax,
)
from mien.train.draws import Draws, Source
from mien.train.loop import Recipe
from mien.train.people import PeopleRecipe, built, wrong_labels

Head = Literal["softmax", "cosface", "arcface", "magface", "sface"]
MoreNegatives = Literal["none", "unpg", "triplet", "contrastive"]

USUAL: dict[str, float] = {"cosface": 0.35, "arcface": 0.5}
"""Margins that are taken where none is given: those of the papers."""

DROP = 0.1
"""Factor on the learning rate at each of `drops`."""


@dataclass(kw_only=True)
class MarginRecipe(PeopleRecipe):
    """Trains an embedding by a loss of its cosines to one vector for each training person.

    Parameters
    ----------
    data, network, arguments, dim, size, scaled, flip, standardise, held
        See `PeopleRecipe`. Pictures of nobody known are left out.
    head
        "softmax", "cosface", "arcface", "magface" or "sface".
    scale
        Factor s of the cosines.
    margin
        Of cosface (in cosine) and arcface (in radians); none: 0.35 and 0.5.
    magface
        l_m, u_m (radians), l_a, u_a (lengths), lambda_g of MagFace.
    a, b, k
        Of sface: angles in radians at which pull and push have half of their force, and the slope there.
    negatives, whisker
        "unpg": negative pairs of the batch join the denominator, those inside of whiskers of that many interquartile
        ranges (`mien.nn.negatives`). Not with sface, which has no denominator. "triplet" and "contrastive" use the
        same pairs, and those of one person, in a second loss beside the head's.
    init_classes
        Folder of a finished run whose class vectors are started from, as `init` is its network: of the same people.
        What an already trained head needs to go on with other `negatives`.
    sample
        Share of the people who take part in a step (not with sface).
    spread
        Standard deviation of the class vectors at the start; 0: 0.01, and ``2 sqrt(2 / people)`` for sface.
    noise
        Share of the training labels that are replaced by other people at random, to see what a loss makes of wrong
        labels.
    images
        0: every epoch is a permutation of all pictures. Otherwise each batch shows ``batch_size / images`` people with
        so many pictures of each.
    mirror
        Whether held-out pictures are compared by the sum of the vectors of picture and mirror image.
    drops
        For ``schedule=steps``: at which shares of the run the learning rate is divided by ten.
    """

    network: str = "mien.nn.iresnet:iresnet50"
    dim: int = 512
    optimizer: Literal["adamw", "sgd", "adagrad"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    clip: float = 0.0
    head: Head = "arcface"
    scale: float = 64.0
    margin: float | None = None
    magface: tuple[float, ...] = (0.45, 0.8, 10.0, 110.0, 35.0)
    a: float = 0.80
    b: float = 1.23
    k: float = 80.0
    negatives: MoreNegatives = "none"
    whisker: float = 1.5
    init_classes: str | None = None
    sample: float = 1.0
    spread: float = 0.0
    noise: float = 0.0
    images: int = 0
    mirror: bool = False
    drops: tuple[float, ...] = ()

    PLACES: ClassVar[frozenset[str]] = PeopleRecipe.PLACES | {"init_classes"}
    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "steps")
    NESTEROV: ClassVar[bool] = False
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # Minutes on a processor.
        "small": {
            "network": "mien.nn.iresnet:ir_50", "arguments": ("size=64", "width=0.25", "depths=(1,1,1,1)", "dropout=0"),
            "dim": 64, "size": 64, "scaled": 72, "batch_size": 128, "steps": 400, "scale": 32.0, "margin": 0.3,
            "warmup": 20, "ema": 0.98, "held": 0.25,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kinds in (("head", Head), ("negatives", MoreNegatives)):
            if getattr(self, name) not in get_args(kinds):
                raise OptionError.unknown(f"unknown {name}", getattr(self, name), get_args(kinds))
        ranges: tuple[tuple[str, bool, str], ...] = (
            ("noise", 0 <= self.noise <= 1, "a share, 0 to 1"),
            ("spread", 0 <= self.spread < math.inf, "a finite number, at least 0"),
            ("images", self.images == 0 or (self.images > 0 and self.batch_size % self.images == 0),
             f"0, or a divisor of batch_size {self.batch_size}"),
            ("magface", len(self.magface) == 5, "l_m, u_m, l_a, u_a, lambda_g"),
            ("drops", list(self.drops) == sorted(self.drops) and all(0 < share < 1 for share in self.drops),
             "rising shares of the run, 0 to 1"),
            ("drops", bool(self.drops) == (self.schedule == "steps"), "some with schedule=steps, and none otherwise"),
            ("margin", self.margin is None or self.head in USUAL, f"none, where the head is not one of {[*USUAL]}"),
            ("sample", self.sample == 1 or self.head != "sface", "1, since sface sums over all people"),
            ("negatives", self.negatives != "unpg" or self.head != "sface", "another, since sface has no denominator"),
            ("whisker", self.whisker >= 0, "at least 0"),
        )  # fmt: skip
        for name, right, expected in ranges:
            if not right:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), expected=expected)

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _targets(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Rows of the training pictures whose people are known, their labels, some of them wrong; and people."""
        labels, people = self._labels
        rows = np.flatnonzero(labels < people)
        return rows, wrong_labels(labels[rows], people, self.noise, seed=self.seed), people

    def source(self) -> Source:
        rows, labels, people = self._targets
        if people < 2:
            raise OptionError("a classifier needs two people at least", got=f"{people} in {self.data}")
        return self._people(self._samples[0].take(rows), labels, self.size)

    def draws(self, source: Source) -> Draws:
        if not self.images:
            return super().draws(source)
        return PeopleDraws(
            source, self._targets[1], people=self.batch_size // self.images, images=self.images, seed=self.seed,
            least=1,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- network and head

    def build(self) -> nn.Module:
        return built(self.network, self.arguments, self.dim)

    def pace(self, step: int) -> float:
        if self.schedule != "steps":
            return super().pace(step)
        if step < self.warmup:
            return (step + 1) / self.warmup
        return float(DROP ** sum(step >= share * self.steps for share in self.drops))

    def class_layer(self) -> ClassLayer:
        people = self._targets[2]
        spread = self.spread or (2 * math.sqrt(2 / people) if self.head == "sface" else 0.01)
        common: dict[str, Any] = {"classes": people, "scale": self.scale, "seed": self.seed, "spread": spread}
        layer: ClassLayer
        if self.head == "sface":
            layer = SFaceLayer(self.dim, a=self.a, b=self.b, k=self.k, **common)
        else:
            layer = PartialFC(
                self.dim, margin=self.margin_of(), sample=self.sample, negatives=self.more_negatives(), **common
            )
        if self.init_classes is not None:
            self._start_classes(layer, Path(self.init_classes))
        return layer

    def _start_classes(self, layer: ClassLayer, folder: Path) -> None:
        files = sorted(folder.glob("classes-*.ckpt"))
        if not files:
            raise CheckpointError("there are no class vectors to start from", got=folder,
                                  expected="the folder of a finished run of mien train margin")  # fmt: skip
        layer.load_shards(checkpoint.load(file) for file in files)
        layer.step.zero_()

    def margin_of(self) -> Margin | NormMargin:
        """What happens to the cosine of a picture to its own person."""
        if self.head == "magface":
            low_margin, high_margin, low, high, weight = self.magface
            return MagFace(low=low, high=high, low_margin=low_margin, high_margin=high_margin, weight=weight)
        m = USUAL.get(self.head, 0.0) if self.margin is None else self.margin
        made: dict[str, Callable[[], Margin]] = {
            "softmax": softmax,
            "cosface": partial(cosface, m),
            "arcface": partial(arcface, m),
        }
        return made[self.head]()

    def more_negatives(self) -> Negatives | None:
        """What joins the denominator beside the class vectors: a function of the whole batch, or None."""
        if self.negatives != "unpg":
            return None
        return partial(pairs_logsumexp, scale=self.scale, reach=self.whisker, gather=False)

    # ------------------------------------------------------------------------------------------- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        del step
        vectors, label = module(self._seen(batch["image"])).float(), batch["label"]
        loss: Tensor = self.classes(vectors, label)
        told = dict(self.classes.told)
        if self.negatives in ("triplet", "contrastive"):
            # Of everybody's pictures; DDP's mean over processes is then the gradient of the one term.
            term = triplet_term if self.negatives == "triplet" else contrastive_term
            second = term(gathered(vectors), gathered(label))
            loss, told = loss + second, {**told, "second": second.detach()}
        return loss, told

    def _vectors(self, network: nn.Module, seen: Tensor) -> Tensor:
        if not self.mirror:
            return super()._vectors(network, seen)
        return F.normalize((network(seen) + network(seen.flip(3))).float(), dim=1)


# SFace (Zhong et al., IEEE TIP 2021): the released PyTorch recipe for CASIA-WebFace, 125 epochs of 490,623 pictures,
# the rate divided by ten at epochs 50, 70 and 80; and the MXNet ones for the larger sets, whose steps are 100,000,
# 160,000 and 220,000 of 30 epochs (of VGGFace2 the last is never reached).
_SFACE: dict[str, Any] = {
    "network": "mien.papers.sface:ir_50", "dim": 512, "size": 112, "standardise": "tenfold", "head": "sface",
    "scale": 64.0, "k": 80.0, "a": 0.87, "b": 1.20, "batch_size": 256, "steps": 239_500, "schedule": "steps",
    "drops": (0.40, 0.56, 0.64), "warmup": 0, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
    "clip": 0.0, "ema": 0.0, "mirror": True, "seed": 1337, "save_every": 2000,
}  # fmt: skip
MarginRecipe.PRESETS |= {
    "paper": _SFACE,
    "sface_mobilefacenet": {**_SFACE, "network": "mien.papers.sface:mobilefacenet"},
    "sface_vggface2": {
        **_SFACE, "a": 0.88, "b": 1.25, "batch_size": 512, "steps": 184_000, "drops": (0.543, 0.87),
    },
    "sface_ms1mv2": {
        **_SFACE, "network": "mien.papers.sface:ir_101", "a": 0.90, "b": 1.20, "batch_size": 512, "steps": 341_000,
        "drops": (0.293, 0.469, 0.645),
    },
}  # fmt: skip

# UNPG (Jung et al., BMVC 2022): 20 epochs of MS1MV2 (5.8 million pictures) in batches of 512, the first three of them
# warming up. K-FACE's number of training pictures (3.86 million, 370 people) is recalled.
_UNPG: dict[str, Any] = {
    "network": "mien.nn.iresnet:iresnet100", "dim": 512, "size": 112, "standardise": "imagenet", "head": "arcface",
    "scale": 64.0, "margin": 0.5, "negatives": "unpg", "whisker": 1.5, "batch_size": 512, "steps": 227_000,
    "warmup": 34_000, "schedule": "cosine", "final_lr": 0.0, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9,
    "weight_decay": 5e-4, "clip": 0.0, "ema": 0.0, "spread": 0.0048, "precision": "bf16-mixed", "mirror": True,
    "seed": 1001, "save_every": 2000,
}  # fmt: skip
MarginRecipe.PRESETS |= {
    "unpg": _UNPG,
    "unpg_cosface": {**_UNPG, "head": "cosface"},
    "unpg_magface": {**_UNPG, "head": "magface", "margin": None},
    "unpg_kface": {
        **_UNPG, "network": "mien.nn.iresnet:iresnet34", "whisker": 1.0, "steps": 151_000, "warmup": 22_600,
        "spread": 0.05,
    },
    # Minutes on a processor, from a finished run of "small": see init and init_classes.
    "unpg_small": {
        **MarginRecipe.PRESETS["small"], "negatives": "unpg", "steps": 140, "lr": 0.02, "warmup": 0,
    },
}  # fmt: skip
