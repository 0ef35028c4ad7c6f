"""Training of emotion classes with valence and arousal, by a graph of labels or by linear layers.

    mien train affect preset=small out=runs/affect                                   rendered heads, minutes
    mien train affect preset=affectnet data=AffectNet trunk=densenet121-a639ec97.pth vectors=glove.6B.300d.txt \
        out=runs/emotion_gcn
    mien train affect preset=affwild2 data=Aff-Wild2 head=multi out=runs/multi

The network's last layer is made by two graph convolutions over the labels (`head=graph`), whose edges are those of
AffectNet or come of the training set's correlations (`graph=data`); `head=multi` and `head=single` are the paper's
baselines. The loss is cross-entropy, weighted by class, plus one minus the mean CCC of valence and arousal in the
batch. Pictures are mirrored and turned.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.affect import AffectSet, Drawn, Split, class_weights, drawn_heads, read_affect
from mien.data.low_resolution import squared
from mien.data.pixels import Picture, as_picture
from mien.data.word_vectors import word_vectors
from mien.errors import OptionError, TableError
from mien.nn.affect import (
    MEAN,
    STD,
    Backbone,
    GraphNetwork,
    Head,
    affect_loss,
    affect_network,
    fill_features,
    nodes,
)
from mien.nn.label_graph import AFFECTNET_COUNTS, Correlation, Propagation, correlations, label_graph
from mien.train import checkpoint
from mien.train.draws import Source
from mien.train.loop import Recipe

log = logging.getLogger(__name__)

DROP = 0.1
"""Factor on the learning rate at each drop."""
SEEDS: dict[Split, int] = {"train": 1_000_003, "validation": 1_000_033}
"""Of the rendered heads of each part."""
BEST, BEST_FIGURES = "best.safetensors", "best.json"


class Pictures(Source):
    """Faces with `label` and `affect`: `image` (size, size, 3) uint8, mirrored and turned at random when drawn.

    Parameters
    ----------
    data
        Pictures of a set, or rendered heads.
    labels
        (n,) classes; -1 where one is not to be known.
    size
        Side, px; faces are squashed to it.
    flip
        Whether every second face is mirrored.
    rotate
        Largest turn to either side, degrees; what comes into view is black.
    official
        See `mien.data.affect.upright`.
    """

    def __init__(
        self,
        data: AffectSet | Drawn,
        labels: NDArray[np.int64],
        *,
        size: int,
        flip: bool,
        rotate: float,
        official: bool,
    ) -> None:
        self.data, self.labels, self.size = data, labels, size
        self.flip, self.rotate, self.official = flip, rotate, official

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, row: int) -> Picture:
        """(size, size, 3) the face of a row as it is."""
        data = self.data
        found = data.crops[row] if isinstance(data, Drawn) else data.picture(row, official=self.official)
        return squared(found, self.size, kernel="linear")

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image = self.picture(index)
        if self.flip and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        if self.rotate:
            middle = (self.size - 1) / 2
            turn = cv2.getRotationMatrix2D((middle, middle), float(rng.uniform(-self.rotate, self.rotate)), 1.0)
            image = as_picture(cv2.warpAffine(image, turn, (self.size, self.size), flags=cv2.INTER_LINEAR))
        return {"image": image, "label": self.labels[index], "affect": self.data.affect[index].astype(np.float32)}

    def batches(self, size: int = 64) -> Iterator[Picture]:
        """All faces in batches (b, S, S, 3), as they are."""
        for start in range(0, len(self), size):
            yield np.stack([self.picture(row) for row in range(start, min(start + size, len(self)))])


@dataclass(kw_only=True)
class AffectRecipe(Recipe):
    """Trains classes with valence and arousal; see the module.

    Parameters
    ----------
    data, kind
        Folder of AffectNet or Aff-Wild2, and which of them it is; None: rendered heads, `heads` to train on and
        `checked` to measure on.
    head, backbone, emotions, hidden, word_dim
        See `mien.nn.affect.affect_network`, where `emotions` is the number of classes; `growth`, `blocks`, `width`,
        `widths`, `depths` are sizes of the features.
    size
        Side of the network's input, px.
    trunk
        File of torchvision's ImageNet weights that DenseNet begins at; None: random ones.
    vectors
        File of word vectors (`mien.data.word_vectors`); None: random ones that stand in for them, and a warning.
    graph
        "affectnet": its published correlations; "data": those of the training labels.
    correlation, threshold, share, between_classes, propagation
        See `mien.nn.label_graph`.
    weighted
        Whether rare classes count more, the rarest 1.
    affect
        Factor of the second loss.
    official, official_crop
        The released code's mixed moments in the CCC, and its exchanged sides when it turns a picture.
    flip, rotate
        Augmentation: mirroring, and turns to so many degrees.
    known
        Share of the training pictures whose class is used; the other ones are trained for valence and arousal alone.
    drop_every
        With schedule "steps": the rate falls to a tenth whenever so many steps are done.
    best
        Whether the weights of the best evaluation by accuracy are kept as ``best.safetensors`` too. That chooses on
        what it reports, since the sets have no test part.
    """

    data: str | None = None
    kind: Literal["auto", "affectnet", "affwild2"] = "auto"
    head: Head = "graph"
    backbone: Backbone = "densenet121"
    emotions: int = 7
    hidden: int = 512
    word_dim: int = 300
    growth: int = 32
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    width: int = 64
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (7, 8, 7)
    size: int = 227
    trunk: str | None = None
    vectors: str | None = None
    graph: Literal["data", "affectnet"] = "data"
    correlation: Correlation = "spearman"
    threshold: float = 0.1
    share: float = 0.5
    between_classes: bool = False
    propagation: Propagation = "transposed"
    weighted: bool = True
    affect: float = 1.0
    official: bool = False
    official_crop: bool = False
    flip: bool = True
    rotate: float = 30.0
    known: float = 1.0
    drop_every: int = 0
    best: bool = True
    heads: int = 2000
    checked: int = 350

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"trunk", "vectors"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "steps")
    NESTEROV: ClassVar[bool] = False
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # 10 epochs of 283,901 pictures; the rate would fall at the end of the last.
        "affectnet": {
            "size": 227, "batch_size": 35, "steps": 81_114, "eval_every": 8111, "save_every": 2000, "optimizer": "sgd",
            "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "steps", "drop_every": 81_114, "warmup": 0,
            "ema": 0.0, "clip": 0.0, "half": False, "graph": "affectnet", "workers": 8,
        },
        # The same on crops of 112 px; how many frames have both labels is not known before the set is read.
        "affwild2": {
            "size": 112, "batch_size": 35, "steps": 81_114, "eval_every": 8111, "save_every": 2000, "optimizer": "sgd",
            "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "steps", "drop_every": 81_114, "warmup": 0,
            "ema": 0.0, "clip": 0.0, "half": False, "graph": "data", "weighted": False, "workers": 8,
            "kind": "affwild2",
        },
        "bregnext": {
            "backbone": "bregnext50", "size": 112, "batch_size": 35, "steps": 81_114, "eval_every": 8111,
            "save_every": 2000, "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3,
            "schedule": "steps", "drop_every": 81_114, "warmup": 0, "ema": 0.0, "clip": 0.0, "half": False,
            "graph": "affectnet", "workers": 8,
        },
        # Minutes on a processor.
        "small": {
            "growth": 12, "blocks": (2, 3, 3), "width": 24, "hidden": 64, "size": 48, "rotate": 10.0, "batch_size": 50,
            "steps": 400, "warmup": 20, "lr": 3e-3, "weight_decay": 0.02, "ema": 0.98, "half": False,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        right = (
            0 < self.known <= 1 and min(self.size, self.heads, self.checked, self.hidden, self.word_dim) >= 1
            and self.affect >= 0 and 0 <= self.share <= 1 and 0 <= self.threshold <= 1
            and 0 <= self.rotate <= 180 and self.drop_every >= 0
        )  # fmt: skip
        if not right:
            raise OptionError(
                "a number is out of its range",
                got=f"known {self.known}, size {self.size}, heads {self.heads}, checked {self.checked}, hidden "
                f"{self.hidden}, affect {self.affect}, share {self.share}, threshold {self.threshold}, rotate "
                f"{self.rotate}, drop_every {self.drop_every}",
                expected="known above 0 to 1, positive sizes, share and threshold of 0 to 1, rotate to 180 degrees",
            )
        if self.schedule == "steps" and not self.drop_every:
            raise OptionError(
                "the schedule by steps needs to know when", got="drop_every 0", expected="drop_every=STEPS"
            )
        if self.graph == "affectnet" and self.head == "graph" and self.emotions != 7:
            raise OptionError(
                "AffectNet's published correlations are of seven classes", got=f"emotions {self.emotions}",
                hint="take graph=data",
            )  # fmt: skip
        if self.data is None and self.emotions != 7:
            raise OptionError("rendered heads have seven classes", got=self.emotions, hint="give data=FOLDER")

    # ------------------------------------------------------------------------------------------- data

    def _part(self, split: Split) -> AffectSet | Drawn:
        if self.data is not None:
            found = read_affect(self.data, split=split, classes=self.emotions, kind=self.kind)
            if not len(found):
                raise TableError(f"the set has no labelled pictures to use for {split}", got=self.data)
            return found
        prior = tuple(map(float, AFFECTNET_COUNTS)) if split == "train" else None
        count = self.heads if split == "train" else self.checked
        return drawn_heads(count, seed=SEEDS[split], size=self.size, prior=prior)

    @cached_property
    def _train(self) -> AffectSet | Drawn:
        return self._part("train")

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        """Classes of the training pictures, -1 for those that are not to be known."""
        labels = self._train.labels
        order = np.random.default_rng((self.seed, 5)).permutation(len(labels))
        known = np.zeros(len(labels), bool)
        known[order[: max(1, round(self.known * len(labels)))]] = True
        return np.where(known, labels, -1)

    @cached_property
    def _weights(self) -> Tensor | None:
        if not self.weighted:
            return None
        return torch.from_numpy(class_weights(np.bincount(self._labels[self._labels >= 0], minlength=self.emotions)))

    def source(self) -> Source:
        return Pictures(
            self._train, self._labels, size=self.size, flip=self.flip, rotate=self.rotate, official=self.official_crop
        )

    @staticmethod
    def _seen(images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> what the network sees, (B, 3, S, S)."""
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
        return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std

    # ------------------------------------------------------------------------------------------- network and loss

    def build(self) -> nn.Module:
        return affect_network(
            self.head, self.backbone, classes=self.emotions, hidden=self.hidden, word_dim=self.word_dim,
            growth=self.growth, blocks=self.blocks, width=self.width, widths=self.widths, depths=self.depths,
        )  # fmt: skip

    def begin(self, module: nn.Module) -> None:
        out = Path(self.out)
        if not self.resume or not (out / "last.ckpt").exists():
            for name in (BEST, BEST_FIGURES):  # of a former run
                (out / name).unlink(missing_ok=True)
        if self.trunk is not None:
            backbone = module.get_submodule("backbone")
            fill_features(backbone, self.trunk)
        if not isinstance(module, GraphNetwork):
            return
        if self.vectors is None:
            log.warning("no file of word vectors: the graph's nodes bear random ones that stand in for them")
        else:
            made = torch.from_numpy(word_vectors(self.vectors, nodes(self.emotions)))
            if made.shape != module.head.vectors.shape:
                raise TableError(
                    "the word vectors have another length than the graph takes", got=tuple(made.shape),
                    expected=tuple(module.head.vectors.shape),
                )  # fmt: skip
            module.head.vectors.copy_(made)
        measured = None
        if self.graph == "data":
            measured = correlations(self._labels, self._train.affect, classes=self.emotions, kind=self.correlation)
        module.head.graph.copy_(
            label_graph(
                measured, classes=self.emotions, threshold=self.threshold, share=self.share,
                between_classes=self.between_classes, kind=self.propagation,
            )
        )  # fmt: skip

    def pace(self, step: int) -> float:
        if self.schedule != "steps":
            return super().pace(step)
        risen = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return risen * float(DROP ** (step // self.drop_every))

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return affect_loss(
            module(self._seen(batch["image"])), batch["label"].long(), batch["affect"], classes=self.emotions,
            class_weights=self._weights, weight=self.affect, official=self.official,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- figures

    @cached_property
    def _held(self) -> Pictures:
        held = self._part("validation")
        return Pictures(held, held.labels, size=self.size, flip=False, rotate=0.0, official=self.official_crop)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Figures of `mien.metrics.affect` on the validation part: of classes, and of valence and arousal clipped to
        -1 to 1. With `best`, the weights of the most accurate network so far are kept."""
        from mien.metrics.affect import affect_figures, expression_figures

        held = self._held
        device = next(network.parameters()).device
        raw = torch.cat(
            [network(self._seen(torch.from_numpy(batch).to(device))).float().cpu() for batch in held.batches()]
        ).numpy()
        figures: dict[str, float] = {}
        named = held.labels >= 0
        if named.any():
            said = raw[named, : self.emotions].argmax(1)
            figures |= expression_figures(said, held.labels[named], classes=self.emotions)
        rows = np.isfinite(held.data.affect).all(1)
        if raw.shape[1] > self.emotions and rows.any():
            figures |= affect_figures(np.clip(raw[rows, self.emotions :], -1, 1), held.data.affect[rows])
        if self.best and "accuracy" in figures:
            former = self.best_figures()
            if former is None or figures["accuracy"] > former["accuracy"]:
                out = Path(self.out)
                about = {"recipe": type(self).__name__}
                checkpoint.save_weights(out / BEST, network, half=self.half, metadata=about)
                (out / BEST_FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return figures

    def best_figures(self) -> dict[str, float] | None:
        """Figures of the best evaluation so far; None where there is none."""
        try:
            found: dict[str, float] = json.loads((Path(self.out) / BEST_FIGURES).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found
