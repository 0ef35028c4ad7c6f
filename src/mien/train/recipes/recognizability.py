"""Training of an embedding for faces of a few pixels, and of an index that tells how recognisable each is.

    mien train recognizability preset=pretrain data=VGGFACE2 out=runs/hr
    mien train recognizability preset=paper data=TINYFACE init=runs/hr/weights.safetensors out=runs/vlr
    mien train recognizability preset=small data=FOLDER out=runs/small

A backbone that ``mien train margin`` has trained does as well: backbone=runs/m1/weights.safetensors.

`data` is whatever `mien.data.formats.read` knows. A run has up to three phases, by its steps:

1. `pretrain_steps` of ArcFace on the pictures as they are (none where `init=` or `backbone=` brings trained weights).
2. Now the centre of the unrecognisable faces is found, with the network as it is, from pictures reduced to `ui_pixels`,
   or, of `ui_data`, as the largest cluster of its faces. `warm_steps` train the class vectors alone: while these are
   random, every face is as far from its own as from the others, and the index says nothing.
3. The rest trains everything on pictures of many sizes (`pixels`), by

       L = L_cls + weight_l1 L_L1 + weight_id L_ID + weight_mse L_MSE

   (`mien.nn.recognizability`); mean and deviation of what unrecognisable faces get are told anew every `refresh` steps.

The log has each term, `spearman` (does the predicted index put the faces of a batch in the order of the index? at 0 the
quality is dead, and weight_id too large), `active` (share of faces that L_ID moves) and `index` (mean of the target; at
1 it is saturated, and the class vectors are overfitted).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.low_resolution import KERNELS, Kernel, at_pixels, drawn_sides, squared
from mien.data.pixels import Picture, decode
from mien.errors import OptionError, TableError
from mien.geometry.similarity import TEMPLATES
from mien.nn.inputs import to_input
from mien.nn.recognizability import (
    RI_FORMS,
    Recognizer,
    RiForm,
    Seen,
    attention_loss,
    diversion_loss,
    ers,
    free_of_centre,
    index_loss,
    proximities,
    rank_correlation,
    recognizability_index,
    unrecognizable_centre,
)
from mien.train import checkpoint
from mien.train.classes import Margin, arcface
from mien.train.draws import Draws, Source
from mien.train.people import HELD_PICTURES, PeopleRecipe, built

if TYPE_CHECKING:
    from mien.data.formats import Samples

log = logging.getLogger(__name__)

CENTRE_PICTURES = 2000
"""Most pictures that the centre is found from."""


class Faces(Source):
    """Pictures of people: `image` (size, size, 3) uint8 and `label`; whole, or reduced to a side drawn for each.

    Parameters
    ----------
    samples, labels
        The pictures, and (n,) whose they are.
    size
        Side to which they are squashed, px.
    kernel
        What enlarges small ones; see `mien.data.low_resolution`.
    flip
        Whether every second picture is mirrored.
    pixels
        Sides that are drawn; None: nothing is reduced.
    whole
        Share that is left as it is all the same.
    """

    def __init__(
        self, samples: Samples, labels: NDArray[np.int64], *, size: int, kernel: Kernel, flip: bool,
        pixels: tuple[int, int] | None, whole: float,
    ) -> None:  # fmt: skip
        self.samples, self.labels, self.size, self.kernel = samples, labels, size, kernel
        self.flip, self.pixels, self.whole = flip, pixels, whole

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return self.shown(index, rng, reduced=True)

    def shown(self, index: int, rng: np.random.Generator, *, reduced: bool) -> dict[str, Any]:
        """A sample, reduced or as it is; both draw the same numbers."""
        image = self.picture(index)
        flip, whole, side = rng.random(), rng.random(), int(drawn_sides(rng, 1, self.pixels or (self.size,) * 2)[0])
        if reduced and self.pixels is not None and whole >= self.whole:
            image = at_pixels(image[None], side, kernel=self.kernel)[0]
        if self.flip and flip < 0.5:
            image = image[:, ::-1]
        return {"image": np.ascontiguousarray(image), "label": self.labels[index]}

    def picture(self, index: int) -> Picture:
        """(size, size, 3) uint8, squashed."""
        return squared(decode(self.samples.fetch([index])[0]), self.size, kernel=self.kernel)

    def pictures(self, rows: NDArray[np.int64]) -> Picture:
        """(n, size, size, 3)."""
        return np.stack([self.picture(int(row)) for row in rows])


class PhasedDraws(Draws):
    """As `Draws`, with pictures as they are until position `first`, and reduced ones from there on."""

    def __init__(self, source: Faces, *, seed: int, first: int) -> None:
        super().__init__(source, seed=seed)
        self.faces, self.first = source, first

    def __getitem__(self, position: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, 1, position))
        return self.faces.shown(self.index(position), rng, reduced=position >= self.first)


class Classes(nn.Module):
    """Class vectors `weight` (people, dim): unit embeddings -> cosines (B, people)."""

    def __init__(self, people: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.01 * torch.randn(people, dim))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))


class Trainee(nn.Module):
    """The network, class vectors of the training people, and `ui_rows`: which pictures are the unrecognisable ones.

    `unrecognizable` of those are noted; -1 stands for none.
    """

    ui_rows: Tensor

    def __init__(self, network: Recognizer, *, people: int, unrecognizable: int = 0) -> None:
        super().__init__()
        self.network = network
        self.head = Classes(people, len(network.ui_centre))
        self.register_buffer("ui_rows", torch.full((unrecognizable,), -1))

    def forward(self, images: Tensor, frozen: bool = False) -> tuple[Seen, Tensor]:
        """(B, 3, S, S) -> what the network sees, and cosines (B, people) without margin; see `Recognizer.see`."""
        seen = self.network.see(images, frozen=frozen)
        return seen, self.head(seen.embedding)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The losses of this paper with their numbers: of what a `Trainee` gives to one scalar.

    Parameters
    ----------
    scale, margin
        Of ArcFace.
    form
        Form of the index; see `RI_FORMS`.
    beta
        Where L_L1 turns from quadratic to linear.
    tau
        Deviations below which L_ID moves a face.
    l1, diversion, mse
        Weights of the three terms beside L_cls.
    """

    scale: float = 64.0
    margin: float = 0.5
    form: RiForm = "tanh"
    beta: float = 0.75
    tau: float = 3.0
    l1: float = 1.0
    diversion: float = 0.1
    mse: float = 1.0

    def classes(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """L_cls: softmax of `scale` times cosines, the own one's with the margin."""
        moved: Margin = arcface(self.margin)
        own = cosines.gather(1, labels[:, None]).squeeze(1)
        logits = self.scale * cosines.scatter(1, labels[:, None], moved(own)[:, None])
        return F.cross_entropy(logits, labels)

    def whole(
        self, seen: Seen, cosines: Tensor, labels: Tensor, network: Recognizer
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """All four terms, and what is worth logging."""
        with torch.no_grad():
            to_centre = F.normalize(seen.embedding, dim=1) @ F.normalize(network.ui_centre, dim=0)
            index = recognizability_index(proximities(cosines, labels, to_centre), form=self.form)
        target = free_of_centre(seen.embedding, network.ui_centre)
        parts = {
            "cls": self.classes(cosines, labels),
            "l1": index_loss(seen.ri, index, beta=self.beta),
            "id": diversion_loss(seen.ri, network.ui_mean, network.ui_std, tau=self.tau),
            "mse": attention_loss(seen.attended, target),
        }
        loss = parts["cls"] + self.l1 * parts["l1"] + self.diversion * parts["id"] + self.mse * parts["mse"]
        active = (seen.ri < network.ui_mean + self.tau * network.ui_std).to(loss.dtype).mean()
        told = {"index": index.mean(), "spearman": rank_correlation(seen.ri, index), "active": active}
        return loss, {**parts, **told, "ui_mean": network.ui_mean, "ui_std": network.ui_std}


@dataclass(kw_only=True)
class RecognizabilityRecipe(PeopleRecipe):
    """Trains an embedding for very low resolution with its recognizability index.

    Parameters
    ----------
    data, dim, size, flip, standardise, held
        See `PeopleRecipe`; nothing is cut off, so that `scaled` has no use.
    network, arguments
        ``module:function`` that builds the backbone from `dim` and from these ("width=0.25", "size=56").
    template
        How the crops of `data` are framed ("arcface112", "chip112"). Nothing is cut by it: whoever imports the weights
        is told.
    kernel
        "cubic" or "linear": what enlarges small pictures, in training, in `held` figures, and in use.
    pixels
        Sides to which pictures are reduced in the last phases, each as likely as another; (0, 0) leaves them as they
        are, for sets that are of very low resolution by themselves.
    whole
        Share of the pictures that is left as it is all the same.
    backbone
        File of weights of the backbone alone to start from, where `init` would be one of a whole run.
    pretrain_steps, warm_steps
        Length of the first two phases.
    margin, scale
        Of ArcFace.
    ui_data
        Folder, table or records of faces of any quality, such as crops of WIDER FACE; their largest cluster is that of
        the unrecognisable. None: pictures of `data`, reduced to `ui_pixels`.
    ui_pixels
        Sides of faces that nobody can recognise.
    ui_batch
        How many of those tell mean and deviation of the index.
    ui_distance, ui_limit
        See `mien.nn.recognizability.unrecognizable_centre`.
    refresh
        Steps between two such tellings.
    centre_every
        Steps after which the centre is found anew; 0: it stays, as in the paper.
    ri_form, beta, tau
        See `Objective`.
    weight_l1, weight_id, weight_mse
        Weights of the three terms beside L_cls.
    dropout, reduction, reads, attend
        See `mien.nn.recognizability.Recognizer`.
    backbone_rate
        Factor of the gradient that goes into the backbone: with SGD, its learning rate in units of the heads'.
    """

    network: str = "mien.nn.iresnet:iresnet50"
    dim: int = 512
    template: str = "arcface112"
    kernel: Kernel = "cubic"
    pixels: tuple[int, ...] = (12, 40)
    whole: float = 0.0
    backbone: str | None = None
    pretrain_steps: int = 0
    warm_steps: int = 200
    margin: float = 0.5
    scale: float = 64.0
    ui_data: str | None = None
    ui_pixels: tuple[int, ...] = (5, 8)
    ui_batch: int = 256
    ui_distance: float = 0.5
    ui_limit: float = 0.9
    refresh: int = 50
    centre_every: int = 0
    ri_form: RiForm = "tanh"
    beta: float = 0.75
    tau: float = 3.0
    weight_l1: float = 1.0
    weight_id: float = 0.1
    weight_mse: float = 1.0
    dropout: float = 0.4
    reduction: int = 16
    reads: Literal["map", "embedding"] = "map"
    attend: bool = False
    backbone_rate: float = 1.0

    PLACES: ClassVar[frozenset[str]] = PeopleRecipe.PLACES | {"backbone", "ui_data"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # ArcFace on VGGFace2's 3.3 M pictures, 20 passes: what the paper starts from. Its numbers are ArcFace's.
        "pretrain": {
            "batch_size": 512, "steps": 128_000, "pretrain_steps": 128_000, "warm_steps": 0, "optimizer": "sgd",
            "lr": 0.1, "weight_decay": 5e-4, "schedule": "linear", "warmup": 2_000, "final_lr": 0.001, "ema": 0.0,
            "clip": 5.0,
        },
        # TinyFace's 7,804 pictures, 30 passes. Optimiser, rates and passes are not in our description of the paper.
        "paper": {
            "batch_size": 128, "steps": 1_830, "warm_steps": 183, "optimizer": "sgd", "lr": 0.01, "backbone_rate": 0.1,
            "weight_decay": 5e-4, "warmup": 0, "ema": 0.0, "whole": 0.5,
        },
        # SurvFace's 60,294 pictures, 25 passes.
        "survface": {
            "batch_size": 128, "steps": 11_776, "warm_steps": 471, "optimizer": "sgd", "lr": 0.01, "backbone_rate": 0.1,
            "weight_decay": 5e-4, "warmup": 0, "ema": 0.0, "whole": 0.5,
        },
        # Minutes on a processor, from random weights.
        "small": {
            "network": "mien.nn.iresnet:iresnet18", "arguments": ("width=0.25", "size=56"), "dim": 128, "size": 56,
            "pixels": (5, 56), "ui_pixels": (3, 4), "ui_batch": 128, "batch_size": 64, "steps": 900,
            "pretrain_steps": 500, "warm_steps": 50, "margin": 0.3, "scale": 32.0, "refresh": 20, "optimizer": "sgd",
            "lr": 0.05, "weight_decay": 5e-4, "warmup": 20, "ema": 0.98, "held": 0.2,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel not in KERNELS:
            raise OptionError.unknown("unknown kernel", self.kernel, KERNELS)
        if self.template not in TEMPLATES:
            raise OptionError.unknown("unknown template", self.template, tuple(TEMPLATES))
        if self.ri_form not in RI_FORMS:
            raise OptionError.unknown("unknown form of the recognizability index", self.ri_form, tuple(RI_FORMS))
        for name, pair in (("pixels", self.pixels), ("ui_pixels", self.ui_pixels)):
            off = name == "pixels" and tuple(pair) == (0, 0)
            if not off and not (len(pair) == 2 and 1 <= pair[0] <= pair[1] <= self.size):
                raise OptionError(f"{name} is no range of sides", got=pair, expected=f"two from 1 to {self.size}")
        least = {"dim": 1, "size": 1, "warm_steps": 0, "ui_batch": 2, "refresh": 1, "centre_every": 0, "reduction": 1}
        weights = ("margin", "scale", "beta", "tau", "weight_l1", "weight_id", "weight_mse", "backbone_rate")
        wrong = [name for name, low in least.items() if getattr(self, name) < low]
        wrong += [name for name in weights if not 0 <= getattr(self, name) < math.inf]
        wrong += [name for name in ("whole", "held", "dropout") if not 0 <= getattr(self, name) < 1]
        wrong += [] if 0 <= self.pretrain_steps <= self.steps else ["pretrain_steps"]
        wrong += ["scaled"] if self.scaled not in (0, self.size) else []
        if wrong:
            raise OptionError(
                "a number is out of its range", got=", ".join(f"{name} {getattr(self, name)}" for name in wrong)
            )
        if self.init is not None and self.backbone is not None:
            raise OptionError("two networks to start from", got=f"init {self.init}, backbone {self.backbone}")
        if self.processes > 1 and self.warm_steps and self.pretrain_steps < self.steps:
            # A backbone that gets no gradient in some steps is what DDP cannot have, and one that gets zeros moves.
            raise OptionError(
                "heads cannot be warmed up on several processes", got=f"warm_steps {self.warm_steps}",
                hint="give processes=1, or warm_steps=0 and a lower weight_id",
            )  # fmt: skip

    # ------------------------------------------------------------------------------------------- data

    @cached_property
    def _named(self) -> tuple[Samples, NDArray[np.int64]]:
        """Pictures to train on, and whose they are; those of nobody known are left out."""
        (samples, _), (labels, people) = self._samples, self._labels
        if people < 2:
            raise TableError("there are no two people to tell apart", got=f"{people} to train on")
        rows = np.flatnonzero(labels < people)
        return samples.take(rows), labels[rows]

    def _faces(self, samples: Samples, labels: NDArray[np.int64]) -> Faces:
        pixels = None if self.pixels == (0, 0) else (self.pixels[0], self.pixels[1])
        return Faces(
            samples, labels, size=self.size, kernel=self.kernel, flip=self.flip, pixels=pixels, whole=self.whole
        )

    def source(self) -> Source:
        return self._faces(*self._named)

    def draws(self, source: Source) -> Draws:
        assert isinstance(source, Faces)
        return PhasedDraws(source, seed=self.seed, first=self.pretrain_steps * self.batch_size)

    @cached_property
    def _plain(self) -> Picture:
        """Pictures as they are, that the centre is checked against and, reduced, made from."""
        faces = self._faces(*self._named)
        rng = np.random.default_rng([self.seed, 23])
        return faces.pictures(rng.permutation(len(faces))[:CENTRE_PICTURES])

    @cached_property
    def _unrecognizable(self) -> Picture:
        """Pictures (n, size, size, 3) that nobody can recognise, or, with `ui_data`, those among which they are."""
        rng = np.random.default_rng([self.seed, 29])
        if self.ui_data is None:
            sides = drawn_sides(rng, len(self._plain), (self.ui_pixels[0], self.ui_pixels[1]))
            return at_pixels(self._plain, sides, kernel=self.kernel)
        from mien.data.formats import read

        samples = read(self.ui_data)
        faces = self._faces(samples, np.zeros(len(samples), np.int64))
        return faces.pictures(rng.permutation(len(faces))[:CENTRE_PICTURES])

    # ------------------------------------------------------------------------------------------- network

    def build(self) -> nn.Module:
        network = Recognizer(
            built(self.network, self.arguments, self.dim), dim=self.dim, size=self.size, dropout=self.dropout,
            reduction=self.reduction, reads=self.reads, attend=self.attend, returns="embedding",
        )  # fmt: skip
        network.gradient = self.backbone_rate
        return Trainee(network, people=0, unrecognizable=self.ui_batch)  # whose faces they are, `begin` sees

    def begin(self, module: nn.Module) -> None:
        assert isinstance(module, Trainee)
        if not self.pretrain_steps and self.init is None and self.backbone is None:
            raise OptionError(
                "the centre of the unrecognisable faces is that of a trained network, and there is none",
                got="pretrain_steps 0, init none, backbone none",
                expected="init=WEIGHTS of a former run, backbone=WEIGHTS, or pretrain_steps above 0",
            )
        module.head = Classes(self._labels[1], self.dim)
        if self.backbone is not None:
            checkpoint.fill(module.network.backbone, Path(self.backbone))

    def deploy(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, Trainee)
        return module.network

    def find_centre(self, trainee: Trainee) -> None:
        """Finds the centre of the unrecognisable faces, and notes it and them in the module, whose state is resumed.

        Raises
        ------
        ValueRangeError
            It is the mean of all faces; see `mien.nn.recognizability.unrecognizable_centre`.
        """
        network = trainee.network
        mode = network.training
        network.eval()
        bad = embedded(network, self._unrecognizable, self._seen)[0]
        if self.ui_data is None:
            others = embedded(network, self._plain, self._seen)[0]
            found = unrecognizable_centre(bad, method="mean", others=others, limit=self.ui_limit)
        else:
            found = unrecognizable_centre(bad, distance=self.ui_distance, limit=self.ui_limit, seed=self.seed)
        network.train(mode)
        network.ui_centre.copy_(torch.from_numpy(found.vector))
        rows = np.flatnonzero(found.members)[: len(trainee.ui_rows)]
        trainee.ui_rows.fill_(-1)[: len(rows)] = torch.from_numpy(rows)
        log.info("centre of %d unrecognisable faces, cosine %.3f to the others", found.members.sum(), found.to_others)

    # ------------------------------------------------------------------------------------------- loss and figures

    @property
    def objective(self) -> Objective:
        """The losses with this run's numbers."""
        return Objective(
            scale=self.scale, margin=self.margin, form=self.ri_form, beta=self.beta, tau=self.tau,
            l1=self.weight_l1, diversion=self.weight_id, mse=self.weight_mse,
        )  # fmt: skip

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        trainee = next(part for part in module.modules() if isinstance(part, Trainee))  # the loop may have wrapped it
        network, since = trainee.network, step - self.pretrain_steps
        if since >= 0 and (since == 0 or (self.centre_every and since % self.centre_every == 0)):
            self.find_centre(trainee)
        warm = 0 <= since < self.warm_steps
        if since >= self.warm_steps and (since - self.warm_steps) % self.refresh == 0:
            rows = trainee.ui_rows[trainee.ui_rows >= 0].cpu().numpy()
            unrecognizable = torch.from_numpy(self._unrecognizable[rows]).to(network.ui_centre.device)
            network.note_unrecognizable(self._seen(unrecognizable))
        seen, cosines = module(self._seen(batch["image"]), warm)
        seen, cosines = Seen(*(part.float() for part in seen)), cosines.float()  # products may have been in 16 bits
        if since >= self.warm_steps:
            return self.objective.whole(seen, cosines, batch["label"], network)
        cls = self.objective.classes(cosines, batch["label"])
        # Touched, with no weight: several processes expect a gradient for all that was computed.
        return cls + 0 * (seen.ri.sum() + seen.attended.sum()), {"cls": cls.detach()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Of the held-out people, whose first picture is in the gallery as it is and whose others are searched reduced.

        `rank1`; `area_…`, the area under risk against coverage when searches are refused by the predicted index, by the
        length of the embedding, by `ers`, by the side in pixels, or at random.
        """
        if not self.held or self.pixels == (0, 0):
            return {}
        assert isinstance(network, Recognizer)
        samples = self._samples[1].take(slice(0, HELD_PICTURES))
        who = np.asarray(samples.labels)
        _, first = np.unique(who, return_index=True)
        probes = np.setdiff1d(np.arange(len(who)), first)
        if not len(probes) or len(first) < 2:
            return {}
        faces = self._faces(samples, who)
        sides = drawn_sides(np.random.default_rng(31), len(probes), (self.pixels[0], self.pixels[1]))
        shown = at_pixels(faces.pictures(probes), sides, kernel=self.kernel)
        found = searched(network, faces.pictures(first), who[first], shown, who[probes], sides, seen=self._seen)
        return {name: value for name, value in found.items() if name != "spearman"}


def embedded(
    network: Recognizer, crops: Picture, seen: Callable[[Tensor], Tensor] = to_input, *, batch: int = 128
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors (n, d) of crops (n, S, S, 3), their lengths before (n,), and predicted indices (n,); eval mode.

    `seen` makes of pixels (B, S, S, 3) uint8 what the network sees.
    """
    device = network.ui_centre.device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(crops), batch):
            images = seen(torch.from_numpy(np.ascontiguousarray(crops[start : start + batch])).to(device))
            found = network.see(images)
            z = found.embedding.float()
            parts.append((F.normalize(z, dim=1).cpu(), z.norm(dim=1).cpu(), found.ri.float().cpu()))
    unit, norm, ri = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return unit, norm, ri


def searched(
    network: Recognizer, gallery: Picture, whose: NDArray[Any], probes: Picture, who: NDArray[Any],
    sides: NDArray[np.int64], *, seen: Callable[[Tensor], Tensor] = to_input,
) -> dict[str, float]:  # fmt: skip
    """Rank-1 search of `probes`, all of whom are in the gallery; see `RecognizabilityRecipe.evaluate`.

    Beside those figures, `spearman`: the correlation of the index with the side, where both vary.
    """
    from scipy.stats import spearmanr

    from mien.metrics.risk_coverage import risk_coverage

    known = embedded(network, gallery, seen)[0]
    z, norm, index = embedded(network, probes, seen)
    wrong = np.asarray(whose)[(z @ known.T).argmax(1)] != np.asarray(who)
    far = ers(torch.from_numpy(z), network.ui_centre.cpu()).numpy()
    by_index = risk_coverage(wrong, index)
    figures = {
        "rank1": float(1 - wrong.mean()), "area_index": by_index.area, "area_random": by_index.random,
        "area_norm": risk_coverage(wrong, norm).area, "area_ers": risk_coverage(wrong, far).area,
        "area_pixels": risk_coverage(wrong, sides).area,
    }  # fmt: skip
    if np.ptp(index) and np.ptp(sides):
        figures["spearman"] = float(spearmanr(index, sides).statistic)
    return figures
