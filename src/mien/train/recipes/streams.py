"""Training of one network for recognition, age, expression and attributes, from streams of sets of one kind each.

    mien train streams preset=pretrain people=faces_emore/train.rec out=runs/backbone
    mien train streams preset=paper people=faces_emore/train.rec ages=adience.csv,morph.csv,imdb_wiki.csv \
        attributes=celeba expressions=rafdb.csv,affectnet.csv base=runs/backbone/weights.safetensors out=runs/swinface
    mien train streams preset=small out=runs/small                  rendered heads, minutes on a processor

SwinFace's training (Qin et al., 2024). A quarter of each batch is of each stream, and one pass serves all of them:
people give a CosFace loss on sampled classes, ages the curriculum of `mien.nn.streams.age_loss`, ages and attributes
gender, attributes the other 39, expressions the last of 42 cross-entropies and regressions. All are added. The
backbone, which has learnt to recognise people before, learns at a tenth of the rate, and its gradient alone is
clipped.

Where sets lie, "heads" stands for rendered ones. Every set is read by `mien.data.formats.read`, and its columns are
found by name (`mien.train.streams.labelled`). A stream that is not given is left out of the batch: with `people` alone
the recipe is the pre-training, with `ages` alone the fine-tuning on one set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.errors import OptionError, TableError
from mien.nn.streams import analysis_losses
from mien.train import checkpoint
from mien.train.classes import PartialFC, cosface
from mien.train.draws import Draws, Source
from mien.train.loop import Recipe
from mien.train.people import HELD_PICTURES, built, compared
from mien.train.streams import STREAMS, Labelled, Name, StreamDraws, Streams, labelled, rendered, seen

BACKBONE = "backbone"
"""What the network calls the part that learns at `backbone_pace` and whose gradient is clipped."""


@dataclass(kw_only=True)
class StreamsRecipe(Recipe):
    """Trains a network whose answers are a mapping of "recognition", "age", "expression" and "attributes".

    Parameters
    ----------
    people, ages, attributes, expressions
        Sets of the streams, or "heads". Of ages and expressions there may be several, mixed by `age_shares` and
        `expression_shares`. Pictures are aligned to "arcface112", or have five points.
    heads, checked
        Rendered heads for the streams that say so, and others to measure on.
    network, arguments, dim
        ``module:function`` that builds the network from `dim` and from these ("size=64", "gate=False"). A network that
        gives embeddings alone learns from people alone.
    size
        Side of the pictures, px; the network's own.
    base
        Weights of the backbone: those of a run with people alone, or of a whole network.
    backbone_pace
        Factor on the learning rate of the backbone, where the network has other parts.
    m, s, sample
        Margin and scale of the CosFace loss, and share of the people that take part in a step.
    recognition, analysis
        Weights of the recognition loss, and of each of the 42 others.
    sigma, gaussian
        Width of the kernel of the age loss, years, and whether it has its curriculum.
    augment
        "randaugment" (the extra "backbones") or "flip", for all streams but people, who are mirrored only.
    start_age
        Bias that the layer of the age begins with, years. None: as drawn.
    held
        Share of people, or of pictures where no people are known, that are kept out of each set and measured on.
    """

    people: str | None = None
    ages: tuple[str, ...] = ()
    attributes: str | None = None
    expressions: tuple[str, ...] = ()
    age_shares: tuple[float, ...] = ()
    expression_shares: tuple[float, ...] = ()
    heads: int = 2000
    checked: int = 400
    network: str = "mien.papers.swinface:swinface"
    arguments: tuple[str, ...] = ()
    dim: int = 512
    size: int = 112
    base: str | None = None
    backbone_pace: float = 0.1
    m: float = 0.4
    s: float = 64.0
    sample: float = 0.3
    recognition: float = 1.0
    analysis: float = 1.0
    sigma: float = 3.0
    gaussian: bool = True
    augment: Literal["flip", "randaugment"] = "flip"
    start_age: float | None = None
    held: float = 0.0

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"people", "ages", "attributes", "expressions", "base"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # 40 epochs of MS1MV2 (5.82 million pictures), five of them warm-up; recognition alone.
        "pretrain": {
            "network": "mien.papers.swinface:swin_t", "batch_size": 512, "steps": 454_900, "warmup": 56_900,
            "schedule": "cosine", "final_lr": 0.01, "lr": 5e-4, "weight_decay": 0.05, "beta2": 0.999, "clip": 5.0,
            "ema": 0.0, "sample": 1.0, "precision": "bf16-mixed", "half": False, "save_every": 2000,
        },
        # 128 rows on each of four processors. Ages: Adience, MORPH, IMDB-WIKI; expressions: RAF-DB, AffectNet.
        "paper": {
            "age_shares": (0.25, 0.25, 0.5), "expression_shares": (0.5, 0.5),
            "batch_size": 512, "steps": 80_000, "warmup": 8000, "schedule": "cosine", "final_lr": 0.01, "lr": 5e-4,
            "weight_decay": 0.05, "beta2": 0.999, "clip": 5.0, "ema": 0.0, "augment": "randaugment",
            "precision": "bf16-mixed", "half": False, "save_every": 2000,
        },
        # Minutes on a processor, on rendered heads.
        "small": {
            "people": "heads", "ages": ("heads",), "attributes": "heads", "expressions": ("heads",), "size": 64,
            "arguments": ("size=64", "patch=4", "embed_dim=16", "depths=(2,2,2,2)", "heads=(1,2,4,4)", "window=4",
                          "hidden=16", "drop_path=0", "dropout=0.1"),
            "dim": 64, "batch_size": 128, "steps": 600, "warmup": 30, "lr": 2e-3, "ema": 0.98, "sample": 1.0,
            "m": 0.2, "s": 24.0, "backbone_pace": 1.0, "start_age": 42.0,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = f"held {self.held}, m {self.m}, s {self.s}, sample {self.sample}, sigma {self.sigma}"
        weights = (self.recognition, self.analysis, self.backbone_pace)
        right = (
            min(self.dim, self.size) >= 1 and 0 <= self.held < 1 and 0 <= self.m <= 1 and self.s > 0
            and 0 < self.sample <= 1 and self.sigma > 0 and min(weights) >= 0 and min(self.heads, self.checked) >= 0
        )  # fmt: skip
        if not right:
            raise OptionError("a number is out of its range", got=f"{numbers}, weights {weights}",
                              expected="shares of 0 to 1, sizes and widths above 0, weights of at least 0")  # fmt: skip

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _sets(self) -> tuple[dict[Name, list[Labelled]], dict[Name, Labelled]]:
        """Sets to train on, and what is measured on, by the names of the streams."""
        from mien.data.formats import read
        from mien.data.sets import held_out

        given: dict[Name, tuple[str, ...]] = {
            "people": (self.people,) if self.people else (), "age": self.ages,
            "attributes": (self.attributes,) if self.attributes else (), "expression": self.expressions,
        }  # fmt: skip
        training: dict[Name, list[Labelled]] = {}
        measured: dict[Name, Labelled] = {}
        for name, places in given.items():
            for place in places:
                if place == "heads":
                    one, kept = self._heads
                else:
                    one = labelled(read(place))
                    one = one.take(known(one, name))
                    out = held_out(one.names, self.held)
                    one, kept = one.take(~out), one.take(out)
                if not len(one):
                    raise TableError(f"no picture has a label for the stream of {name}", got=place)
                training.setdefault(name, []).append(one)
                if len(kept):
                    measured.setdefault(name, kept.take(np.arange(min(len(kept), HELD_PICTURES))))
        return training, measured

    @cached_property
    def _heads(self) -> tuple[Labelled, Labelled]:
        first = self.heads + (-self.heads) % 4
        common = {"seed": self.seed + 1, "size": self.size}
        kept = rendered(self.checked, first=first, **common) if self.checked else None
        made = rendered(self.heads, **common)
        return made, made.take(np.arange(0)) if kept is None else kept

    def source(self) -> Source:
        sets = dict(self._sets[0])
        if "people" in sets:
            one = sets["people"][0]
            numbers = np.unique(one.person, return_inverse=True)[1].reshape(-1)
            sets["people"] = [Labelled(one.pictures, numbers.astype(np.int64), one.age, one.attributes, one.expression,
                                       one.names)]  # fmt: skip
        return Streams(sets, size=self.size, augment=self.augment)

    def draws(self, source: Source) -> Draws:
        assert isinstance(source, Streams)
        if self.batch_size % (len(source.sets) * self.processes):
            raise OptionError(
                "streams and processes cannot share the batch evenly", got=f"batch_size {self.batch_size}",
                expected=f"a multiple of {len(source.sets)} streams times {self.processes} processes",
            )  # fmt: skip
        shares: dict[Name, tuple[float, ...]] = {"age": self.age_shares, "expression": self.expression_shares}
        return StreamDraws(source, batch=self.batch_size, seed=self.seed, shares=shares)

    def rows(self, count: int) -> dict[str, slice]:
        """The rows of each stream in this process's share of a batch, `count` rows."""
        names = [name for name in STREAMS if name in self._sets[0]]
        each = count // len(names)
        return {name: slice(k * each, (k + 1) * each) for k, name in enumerate(names)}

    # ------------------------------------------------------------------------------------------- network

    def build(self) -> nn.Module:
        return built(self.network, self.arguments, self.dim)

    def begin(self, module: nn.Module) -> None:
        if self.base is not None:
            path = Path(self.base)
            target = getattr(module, BACKBONE, module)
            prefix = f"{BACKBONE}."
            whole = any(name.startswith(prefix) for name in _names(path))
            checkpoint.fill_part(target, path, prefix if whole else "")
        if self.start_age is not None and self.init is None:
            layer = module.get_submodule("analysis.answers.1")  # age is the first answer of its branch
            assert isinstance(layer, nn.Linear)
            with torch.no_grad():
                layer.bias[0] = self.start_age

    def pace_of(self, name: str) -> float:
        return self.backbone_pace if name.startswith(f"{BACKBONE}.") else 1.0

    def clipped(self, module: nn.Module) -> nn.Module:
        part = getattr(module, BACKBONE, module)
        assert isinstance(part, nn.Module)
        return part

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def class_layer(self) -> PartialFC | None:
        sets = self._sets[0].get("people")
        if sets is None:
            return None
        people = len(np.unique(sets[0].person))
        return PartialFC(
            self.dim, classes=people, margin=cosface(self.m), scale=self.s, sample=self.sample, seed=self.seed
        )

    # ------------------------------------------------------------------------------------------- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        answers = mapped(module(batch["image"]))
        rows = self.rows(len(batch["image"]))
        # A task without a stream has no part in the loss; processes agree on what gets a gradient all the same.
        total = torch.stack([0 * one.float().sum() for one in answers.values()]).sum()
        told: dict[str, Tensor] = {}
        if "people" in rows:
            part = rows["people"]
            loss = self.classes(answers["recognition"][part].float(), batch["label"][part])
            total, told["recognition"] = total + self.recognition * loss, loss.detach()
        if "age" in answers:
            done = min(1.0, step / self.steps)
            losses = analysis_losses(answers, batch, rows, done=done, sigma=self.sigma, gaussian=self.gaussian)
            for loss in losses.values():
                total = total + self.analysis * loss
            told |= {name.lower(): losses[name].detach() for name in ("Age", "Expression") if name in losses}
            if rest := [losses[name].detach() for name in losses if name not in ("Age", "Expression")]:
                told["attributes"] = torch.stack(rest).mean()
        return total, told

    def held_parts(self) -> dict[Name, Labelled]:
        """What `evaluate` measures on, by the names of the streams."""
        return dict(self._sets[1])

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """On what was held out: `auc` and `val` of people, `age_mae` in years, accuracies of the other tasks."""
        figures: dict[str, float] = {}
        for name, part in self._sets[1].items():
            found = answers_of(network, part, size=self.size, mirror=name == "people")
            figures |= measured(found, part, name)
        return figures


def _names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError):
        return []  # `checkpoint.fill_part` says what is wrong


def known(part: Labelled, name: Name) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows (n,) have a label that the stream of that name learns from."""
    masks = {
        "people": part.person >= 0,
        "age": np.isfinite(part.age),
        "attributes": np.isfinite(part.attributes).any(1),
        "expression": part.expression >= 0,
    }
    return np.asarray(masks[name], bool)


def mapped(answers: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The answers by name; of a network that gives embeddings alone, "recognition"."""
    return {"recognition": answers} if isinstance(answers, Tensor) else answers


@torch.no_grad()
def answers_of(network: nn.Module, part: Labelled, *, size: int, mirror: bool = False) -> dict[str, Tensor]:
    """All answers (n, …) for a set, unchanged pictures; embeddings are of length one, with those of mirror images added
    where `mirror`."""
    device = next(network.parameters()).device
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(part), 64):
        rows = range(start, min(start + 64, len(part)))
        images = torch.from_numpy(seen(np.stack([part.picture(row, size) for row in rows]))).to(device)
        found = dict(mapped(network(images)))
        if mirror:
            found["recognition"] = found["recognition"] + mapped(network(images.flip(3)))["recognition"]
        found["recognition"] = F.normalize(found["recognition"].float(), dim=1)
        parts.append({key: value.float().cpu() for key, value in found.items()})
    return {key: torch.cat([one[key] for one in parts]) for key in parts[0]} if parts else {}


def measured(found: Mapping[str, Tensor], part: Labelled, name: Name) -> dict[str, float]:
    """Figures of one stream's task on a set."""
    figures: dict[str, float] = {}
    if name == "people" and "recognition" in found:
        z = found["recognition"].numpy()
        figures = compared(z, z, part.person)
    elif name == "age" and "age" in found and (some := np.isfinite(part.age)).any():
        figures["age_mae"] = float(np.abs(found["age"][:, 0].numpy() - part.age)[some].mean())
    elif name == "attributes" and "attributes" in found and (told := np.isfinite(part.attributes)).any():
        right = found["attributes"].argmax(2).numpy() == part.attributes
        figures["attributes"] = float(right[told].mean())
    elif name == "expression" and "expression" in found and (some := part.expression >= 0).any():
        figures["expression"] = float((found["expression"].argmax(1).numpy() == part.expression)[some].mean())
    return figures
