"""Training of adapters: a frozen face recogniser learns a new kind of pictures and does not forget the old one.

    mien train adapters preset=tinyface data=FOLDER base=plain.safetensors quality_files=cnniqa.pth out=runs/tinyface
    mien train adapters preset=small data=FOLDER out=runs/plain adapters=none
    mien train adapters preset=small data=FOLDER base=runs/plain/weights.safetensors sides=12,16,0 out=runs/low

The first is PETALface's fine-tuning: `base` are the weights of the plain network, which stay as they are; twin low-rank
branches beside its layers are mixed by the quality of each picture (`mien.nn.lora`, `mien.nn.iqa`), and a new class
layer of the new people is trained with them. Without adapters the same recipe trains a network from random weights, or
all of `base`, which is what the paper compares with. What is written has the score of quality inside, and its
threshold: it is called with pictures alone.

Augmentation is mirroring and no more, so that the qualities of all pictures are computed once, before the first step,
and kept in ``quality.npz``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.low_resolution import at_pixels, squared
from mien.data.pixels import Picture, decode
from mien.errors import CheckpointError, OptionError, TableError, WeightsUnavailable
from mien.nn.iqa import Quality, QualityWeight, build_quality, quality_from_files, usual_gain
from mien.nn.lora import MARK, Blended, adapt, freeze
from mien.train.classes import Margin, PartialFC, combined, cosface
from mien.train.draws import Source
from mien.train.loop import Recipe
from mien.train.people import HELD_PICTURES, built, compared

if TYPE_CHECKING:
    from mien.data.formats import Samples

log = logging.getLogger(__name__)

MIDDLE = 127.5
"""Subtracted from 8-bit pixels, and what they are divided by."""


def in_place(m1: float = 1.0, m2: float = 0.5, m3: float = 0.0) -> Margin:
    """``cos(m1 t + m2) - m3`` with the slope of ``cos t``, as InsightFace's code has it.

    That code changes the logits outside of the graph, so that the loss knows of the margin and its slope does not:
    d loss / d cos is s (p - 1) / B. Beyond m1 t + m2 = pi the cosine rises again.
    """

    def apply(cosine: Tensor) -> Tensor:
        with torch.no_grad():
            moved = torch.cos(m1 * torch.acos(cosine.clamp(-1, 1)) + m2) - m3
        return cosine + (moved - cosine).detach()

    return apply


class Crops(Source):
    """Pictures of people: `image` (size, size, 3) uint8, `label`, `quality`; mirrored at random.

    Parameters
    ----------
    samples, labels
        The pictures, and who is on them (n,), from 0 on.
    size
        Side to which a picture is brought, px.
    flip
        Whether every second picture is mirrored.
    sides
        (n,) side to which each picture is reduced first, px; 0: not.
    """

    def __init__(
        self, samples: Samples, labels: NDArray[np.int64], *, size: int, flip: bool, sides: NDArray[np.int64]
    ) -> None:
        self.samples, self.labels, self.size, self.flip, self.sides = samples, labels, size, flip, sides
        self.quality = np.zeros((len(samples), 2), np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image = self.picture(index)
        mirrored = int(self.flip and rng.random() < 0.5)
        if mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
        return {"image": image, "label": self.labels[index], "quality": self.quality[index, mirrored]}

    def picture(self, index: int, side: int | None = None) -> Picture:
        """Picture (size, size, 3) of a row, reduced to its own side or to another."""
        picture = squared(decode(self.samples.fetch([index])[0]), self.size)
        low = int(self.sides[index]) if side is None else side
        return at_pixels(picture[None], low, kernel="linear")[0] if low else picture

    def batches(self, size: int = 64, side: int | None = None) -> Iterator[Picture]:
        """All pictures in batches (b, S, S, 3), not mirrored."""
        for start in range(0, len(self), size):
            yield np.stack([self.picture(row, side) for row in range(start, min(start + size, len(self)))])


class Trainee(nn.Module):
    """The network that is trained: (B, 3, S, S) and qualities (B,) -> embeddings (B, dim)."""

    def __init__(self, blended: Blended, *, twin: bool, fixed_norm: bool) -> None:
        super().__init__()
        self.blended, self.twin, self.fixed_norm = blended, twin, fixed_norm

    def forward(self, images: Tensor, quality: Tensor) -> Tensor:
        weight = self.blended.weight
        assert isinstance(weight, QualityWeight)
        z: Tensor = self.blended(images, weight.alpha(quality)) if self.twin else self.blended.network(images)
        return z

    def train(self, mode: bool = True) -> Trainee:
        super().train(mode)
        if self.blended.weight is not None:
            self.blended.weight.eval()
        if mode and self.fixed_norm:
            for layer in self.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self


@dataclass(kw_only=True)
class AdaptersRecipe(Recipe):
    """Trains adapters beside a frozen network, or a network without adapters.

    Parameters
    ----------
    data
        Folder, table or records of aligned pictures with the names of people.
    network, arguments
        ``module:function`` that builds the plain network from `dim` and from these ("depth=4").
    dim, size
        Length of the embedding, and side of the network's input, px.
    base
        Weights (``.safetensors``) of the plain network, which stay fixed under adapters. None: there are none, and all
        is trained.
    adapters
        "twin": two branches, mixed by quality, beside each layer of `projections`, one beside those of `final`.
        "single": one beside each layer of `projections`. "everywhere": one beside the layers of both. "none".
    projections, final
        Regular expressions for the names of layers; the defaults fit the transformers of `mien.papers.petalface`.
    rank, lora_scale, lora_dropout
        See `mien.nn.lora.LoRALinear`.
    quality, quality_files
        Score by which twin branches are mixed, and its files where it needs some; see `mien.nn.iqa`.
    threshold
        Quality at which both branches count the same. None: the mean of the training pictures.
    weighting
        "paper": alpha = 0.5 + (q - threshold). "standardised": the same in units of four standard deviations of the
        training pictures, held in 0 … 1, which any score allows.
    official_alpha, official_iqa_input
        Take BRISQUE's 0 … 100 as they are; let the score see pixels of -1 … 1. Both as in the authors' code.
    margin, m, s
        "cosface" or "arcface", their margin, and the factor of the cosines.
    official_gradient
        ArcFace's margin is in the loss and not in its slope, as in InsightFace's code.
    fixed_norm
        Whether running statistics of batch normalisations stay as they are. In the paper's runs they go on moving.
    flip
        Whether every second picture is mirrored.
    sides
        Sides in pixels, one of which is drawn for each training picture, once: it is reduced to that, to make pictures
        of low resolution from good ones. 0 is none.
    held
        Share of the people, chosen by a hash of their names, that are kept out and measured on.
    low
        Side in pixels to which probes are reduced where held-out people are searched for in their own good pictures;
        0: this is not measured.
    """

    data: str
    network: str = "mien.papers.petalface:swin_256new"
    arguments: tuple[str, ...] = ()
    dim: int = 512
    size: int = 120
    base: str | None = None
    adapters: Literal["twin", "single", "everywhere", "none"] = "twin"
    projections: str = r"(.*\.)?blocks\.\d+\.attn\.qkv"
    final: str = r"feature_layer\.\d+"
    rank: int = 8
    lora_scale: float = 1.0
    lora_dropout: float = 0.1
    quality: Literal["cnniqa", "brisque", "sharpness", "gradient"] = "cnniqa"
    quality_files: tuple[str, ...] = ()
    threshold: float | None = None
    weighting: Literal["paper", "standardised"] = "paper"
    official_alpha: bool = False
    official_iqa_input: bool = False
    margin: Literal["cosface", "arcface"] = "cosface"
    m: float = 0.4
    s: float = 64.0
    official_gradient: bool = False
    fixed_norm: bool = False
    flip: bool = True
    sides: tuple[int, ...] = ()
    held: float = 0.0
    low: int = 0

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"base", "quality_files"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # 40 epochs of 7,804 pictures, 2 of them warm-up, as the text of the repository has it (its commands say 50).
        "tinyface": {
            "batch_size": 64, "steps": 4878, "warmup": 244, "schedule": "linear", "final_lr": 0.0, "lr": 5e-4,
            "weight_decay": 0.1, "beta2": 0.999, "clip": 5.0, "ema": 0.0, "seed": 19, "half": False, "rank": 8,
        },
        # 10 epochs of 301,000 pictures, 1 of them warm-up; the rank is a secondary source's.
        "briar": {
            "batch_size": 64, "steps": 47_031, "warmup": 4703, "schedule": "linear", "final_lr": 0.0, "lr": 5e-4,
            "weight_decay": 0.1, "beta2": 0.999, "clip": 5.0, "ema": 0.0, "seed": 19, "half": False, "rank": 32,
        },
        # The network before adaptation: 26 epochs of 4,235,242 pictures, 1 of them warm-up.
        "webface4m": {
            "adapters": "none", "batch_size": 1024, "steps": 107_535, "warmup": 4136, "schedule": "linear",
            "final_lr": 0.0, "lr": 1e-3, "weight_decay": 0.05, "beta2": 0.999, "clip": 5.0, "ema": 0.0, "half": False,
        },
        # Minutes on a processor.
        "small": {
            "network": "mien.papers.petalface:vit_b", "dim": 64, "size": 48,
            "arguments": ("size=48", "patch=6", "width=96", "depth=4", "heads=4", "drop_path=0", "qkv_bias=True"),
            "batch_size": 64, "steps": 600, "warmup": 30, "schedule": "linear", "lr": 2e-3, "ema": 0.0, "rank": 4,
            "quality": "sharpness", "weighting": "standardised", "margin": "cosface", "m": 0.2, "s": 24.0,
            "held": 0.25, "low": 12,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = f"dim {self.dim}, size {self.size}, rank {self.rank}, m {self.m}, s {self.s}, held {self.held}"
        right = (
            min(self.dim, self.size, self.rank) >= 1 and self.s > 0 and 0 <= self.held < 1 and self.low >= 0
            and 0 <= self.m <= 1 and 0 <= self.lora_dropout < 1 and all(side >= 0 for side in self.sides)
        )  # fmt: skip
        if not right:
            raise OptionError(
                "a number is out of its range", got=f"{numbers}, sides {self.sides}, low {self.low}",
                expected="positive sizes, a margin of 0 to 1, held of 0 to below 1",
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _samples(self) -> tuple[Samples, Samples]:
        """Pictures to train on, and of held-out people."""
        from mien.data.formats import read
        from mien.data.sets import held_out

        samples = read(self.data)
        if samples.labels is None:
            raise TableError("the set does not say who is on its pictures", got=self.data, expected="named people")
        samples = samples.take(np.flatnonzero(samples.labels >= 0))
        assert samples.labels is not None
        names = [samples.label_name(int(label)) for label in samples.labels]
        held = held_out(names, self.held)
        if held.all():
            raise TableError("nobody is left to train on", got=f"{self.data}, held {self.held}")
        return samples.take(~held), samples.take(held)

    @cached_property
    def _crops(self) -> Crops:
        samples = self._samples[0]
        labels = np.unique(np.asarray(samples.labels), return_inverse=True)[1].reshape(-1).astype(np.int64)
        choices = np.asarray(self.sides or (0,), np.int64)
        sides = np.random.default_rng((self.seed, 7)).choice(choices, len(samples))
        return Crops(samples, labels, size=self.size, flip=self.flip, sides=sides)

    def source(self) -> Source:
        return self._crops

    def _seen(self, images: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> what the network sees, (B, 3, S, S) from -1 to 1."""
        return (images.permute(0, 3, 1, 2).float() - MIDDLE) / MIDDLE

    @property
    def _there(self) -> str:
        # With several processes, "cuda" is the device of this one.
        return "cuda" if self.device not in ("cpu", "mps") and torch.cuda.is_available() else "cpu"

    # ------------------------------------------------------------------------------------------- networks

    def build(self) -> nn.Module:
        network = built(self.network, self.arguments, self.dim)
        patterns: dict[str, str] = {
            "twin": {"twin": self.projections, "single": self.final},
            "single": {"single": self.projections},
            "everywhere": {"single": f"({self.projections})|({self.final})"},
        }.get(self.adapters, {})
        if patterns:
            adapt(network, **patterns, rank=self.rank, scale=self.lora_scale, dropout=self.lora_dropout)
        kind: Quality = self.quality
        wanted = self.adapters == "twin"
        # Without its files the score is built and not filled: enough to know what the network looks like.
        score = quality_from_files(kind, *self.quality_files) if wanted and self.quality_files else build_quality(kind)
        weight = QualityWeight(
            score.requires_grad_(False), threshold=0.5 if self.threshold is None else self.threshold,
            gain=usual_gain(kind, official=self.official_alpha), clamp=self.weighting == "standardised",
            official_input=self.official_iqa_input,
        )  # fmt: skip
        return Trainee(Blended(network, weight), twin=wanted, fixed_norm=self.fixed_norm)

    def begin(self, module: nn.Module) -> None:
        assert isinstance(module, Trainee)
        network, weight = module.blended.network, module.blended.weight
        assert isinstance(weight, QualityWeight)
        if self.base is not None:
            fill_plain(network, Path(self.base))
            if self.adapters != "none":
                freeze(network)
        if module.twin:
            quality = self._qualities(weight)
            self._crops.quality = quality
            if self.init is None:
                threshold = self.threshold
                weight.centre(quality, standardise=self.weighting == "standardised")
                if threshold is not None:
                    weight.threshold.fill_(threshold)
            alpha = weight.alpha(torch.from_numpy(quality.reshape(-1)))
            log.info("alpha of the training pictures: %.3f, deviation %.3f", alpha.mean(), alpha.std(unbiased=False))

    def deploy(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, Trainee)
        return module.blended if module.twin else module.blended.network

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def class_layer(self) -> PartialFC:
        people = int(self._crops.labels.max()) + 1
        numbers = (1.0, self.m, 0.0) if self.margin == "arcface" else (1.0, 0.0, self.m)
        plain = cosface(self.m) if self.margin == "cosface" else combined(*numbers)
        margin = in_place(*numbers) if self.official_gradient else plain
        return PartialFC(self.dim, classes=people, margin=margin, scale=self.s, seed=self.seed)

    # ------------------------------------------------------------------------------------------- quality

    def _qualities(self, weight: QualityWeight) -> NDArray[np.float32]:
        """q (n, 2) of all training pictures and of their mirror images, computed once and kept beside the run."""
        if self.quality in ("cnniqa", "brisque") and not self.quality_files and self.init is None:
            quality_from_files(self.quality)  # says what is missing
            raise WeightsUnavailable("the quality score has no files", got=self.quality)
        file, key = Path(self.out) / "quality.npz", self._key(weight)
        if file.exists():
            try:
                with np.load(file, allow_pickle=False) as kept:
                    if str(kept["key"]) == key:
                        return np.asarray(kept["quality"], np.float32)
            except Exception as error:  # numpy raises OSError, ValueError, BadZipFile … for a damaged file
                log.warning("%s is damaged and made anew: %s", file, error)
        there = self._there
        weight.to(there).eval()
        parts: list[Tensor] = []
        with torch.inference_mode():
            for batch in self._crops.batches():
                images = self._seen(torch.from_numpy(batch).to(there))
                parts.append(torch.stack([weight.quality(images), weight.quality(images.flip(3))], 1).cpu())
        weight.to("cpu")
        quality = torch.cat(parts).numpy().astype(np.float32)
        partial = file.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as opened:
            np.savez(opened, key=np.array(key), quality=quality)
        partial.replace(file)
        return quality

    def _key(self, weight: QualityWeight) -> str:
        """What the qualities depend on."""
        digest = hashlib.sha256()
        for name, value in weight.score.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        about = [self.quality, self.official_iqa_input, self.size, self.sides, self.seed, self.held, len(self._crops),
                 Path(self.data).name, digest.hexdigest()]  # fmt: skip
        return json.dumps(about)

    # ------------------------------------------------------------------------------------------- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        z = module(self._seen(batch["image"]), batch["quality"])
        parts = {"norm": z.detach().float().norm(dim=1).mean()}
        return self.classes(z, batch["label"]), parts

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Of the held-out people: `auc` and `val` of all pairs, spread of alpha, and rank 1 of reduced probes.

        Pictures are as they came; with `low`, everybody's first picture is the gallery, and all others, reduced to that
        side, are searched for in it.
        """
        if not self.held:
            return {}
        samples = self._samples[1].take(slice(0, HELD_PICTURES))
        labels = np.asarray(samples.labels)
        crops = Crops(samples, labels, size=self.size, flip=False, sides=np.zeros(len(samples), np.int64))
        z, alpha = self._embedded(network, crops, 0)
        figures = compared(z, z, labels)
        if len(alpha):
            figures["alpha_std"] = float(alpha.std())
        first = np.unique(labels, return_index=True)[1]
        probes = np.setdiff1d(np.arange(len(labels)), first)
        if self.low and len(probes):
            poor, poor_alpha = self._embedded(network, crops, self.low)
            found = labels[first][(poor[probes] @ z[first].T).argmax(1)]
            figures["low_rank1"] = float((found == labels[probes]).mean())
            if len(alpha):
                figures["alpha_gap"] = float(abs(alpha.mean() - poor_alpha.mean()))
        return figures

    def trained(self, weights: str | Path) -> nn.Module:
        """The network that a run of this recipe has written, in eval mode, on the processor."""
        from mien.train import checkpoint

        network = self.deploy(self.build())
        checkpoint.fill(network, Path(weights))
        return network.eval()

    @torch.no_grad()
    def compared_with(self, network: nn.Module) -> dict[str, float]:
        """`evaluate` on the held-out people of this run, of another run's network."""
        return self.evaluate(network)

    @torch.no_grad()
    def embedded_files(self, network: nn.Module, files: Sequence[str | Path]) -> NDArray[np.float32]:
        """Unit vectors (n, dim) of picture files, squashed to the network's input; each with its mirror image added."""
        from mien.data.pixels import read

        parts = []
        for start in range(0, len(files), 64):
            pictures = np.stack([squared(read(Path(file)), self.size) for file in files[start : start + 64]])
            seen = self._seen(torch.from_numpy(pictures).to(next(network.parameters()).device))
            parts.append(F.normalize((network(seen) + network(seen.flip(3))).float(), dim=1).cpu())
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.dim), np.float32)

    def _embedded(self, network: nn.Module, crops: Crops, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        device = next(network.parameters()).device
        parts: list[Tensor] = []
        alphas: list[Tensor] = []
        for batch in crops.batches(side=side):
            images = self._seen(torch.from_numpy(batch).to(device))
            if isinstance(network, Blended) and network.weight is not None:
                alphas.append(network.weight(images).cpu())
            parts.append(F.normalize(network(images).float(), dim=1).cpu())
        alpha = torch.cat(alphas)[:, 0].numpy() if alphas else np.zeros(0, np.float32)
        return torch.cat(parts).numpy(), alpha


def fill_plain(network: nn.Module, path: Path) -> None:
    """Puts the weights of a plain network under the adapters of `network`, strictly; the adapters are left alone.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of the plain network.
    """
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except Exception as error:  # SafetensorError, OSError …
        raise CheckpointError(
            f"cannot read the weights {path}", got=f"{type(error).__name__}: {error}", expected="a .safetensors file"
        ) from error
    own = network.state_dict()
    plain = {k for k in own if f".{MARK}" not in f".{k}" and not k.endswith("num_batches_tracked")}
    given = {k for k in found if not k.endswith("num_batches_tracked")}
    wrong = sorted(k for k in plain | given if k not in found or k not in plain or found[k].shape != own[k].shape)
    if wrong:
        raise CheckpointError(
            f"the weights {path} are not those of the plain network",
            got=", ".join(f"{k} {tuple(found[k].shape) if k in found else 'missing'}" for k in wrong[:5]),
            expected=", ".join(f"{k} {tuple(own[k].shape) if k in plain else 'absent'}" for k in wrong[:5]),
            hint="give base= weights without adapters, of the same network",
        )
    network.load_state_dict(found, strict=False)
