"""Training of LNets and ANet: attributes from raw photographs, with no box and no landmark (Liu et al., 2015).

    mien train attributes --preset celeba stage=objects    data=ILSVRC                         out=runs/objects
    mien train attributes --preset celeba stage=lnet_o     data=CELEBA init=runs/objects/weights.safetensors …
    mien train attributes --preset celeba stage=lnet_s     data=CELEBA lnet_o=runs/lnet_o/weights.safetensors …
    mien train attributes --preset celeba stage=identities data=CELEBA lnet_o=… lnet_s=…       out=runs/identities
    mien train attributes --preset celeba stage=anet       data=CELEBA lnet_o=… lnet_s=… init=runs/identities/…
    mien train attributes --preset celeba stage=svm        data=CELEBA lnet_o=… lnet_s=… anet=…

Each stage is a run of its own, that begins with what the former ones wrote:

    objects      1,000 kinds of objects, for the convolutions of the LNets (or ``pretrained=``, torchvision's AlexNet)
    lnet_o       tags of whole pictures
    lnet_s       tags of the crops about LNet_o's windows
    identities   who is in LNet_s's windows, for ANet
    anet         tags of these windows
    svm          a linear machine a tag on ANet's features, on pictures that no network has learnt from

`data` is CelebA's folder (the uncropped pictures, where they are there), that of `celeba10k`, or nothing: rendered
heads in clutter, drawn at the start. People of the first part are learnt, the second chooses and trains the linear
machines, the third tests; CelebA's own partition, or 80, 10 and 10 % of the people.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, decode
from mien.errors import OptionError, TableError
from mien.nn.anet import (
    CELEBA,
    GROW,
    HEAD_SIDES,
    MARGIN,
    ANet,
    Cascade,
    Identified,
    Join,
    anet,
    attribute_figures,
    cascade,
    hinge_loss,
    identity_loss,
    tag_loss,
)
from mien.nn.inputs import to_input
from mien.nn.lnet import LNet, Objects, Pool, best_windows, lnet, start_from_torchvision
from mien.train import checkpoint
from mien.train.batches import PeopleDraws
from mien.train.draws import Draws, Source
from mien.train.loop import Recipe

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

Stage = Literal["objects", "lnet_o", "lnet_s", "identities", "anet", "svm"]
Where = Literal["cascade", "whole", "boxes"]
GREY = 127
"""What lies outside of a picture."""
SCENE = 96
"""Side of a scene with a rendered head, px."""


# ------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, eq=False)
class Tagged:
    """Pictures with tags.

    Parameters
    ----------
    held
        Arrays (H, W, 3), encoded files (n,) uint8, or paths.
    tags : (n, 40)
        1, 0 or NaN, in the order of `CELEBA`.
    people : (n,)
        Numbers of people, -1 where nobody knows.
    part : (n,)
        0 learnt, 1 chosen by, 2 tested on.
    boxes : (n, 4)
        Faces, xyxy px, for testing alone; NaN where unknown.
    """

    held: Sequence[Any]
    tags: Floats
    people: Ints
    part: Ints
    boxes: Floats

    def __len__(self) -> int:
        return len(self.held)

    def picture(self, row: int) -> Picture:
        """(H, W, 3) uint8 of one picture."""
        held = self.held[row]
        if isinstance(held, str | os.PathLike):
            held = np.fromfile(held, np.uint8)
        return decode(held) if held.ndim == 1 else cast(Picture, held)

    def of_part(self, part: int, most: int | None = None) -> Tagged:
        """The pictures of a part, the first `most` of them."""
        return self.take(np.flatnonzero(self.part == part)[:most])

    def take(self, rows: Ints) -> Tagged:
        """Some of the pictures."""
        held = [self.held[row] for row in rows.tolist()]
        return Tagged(held, self.tags[rows], self.people[rows], self.part[rows], self.boxes[rows])


def parts_of(people: Ints) -> Ints:
    """(n,) 0, 1 or 2: 80, 10 and 10 % of the people, by the hashes of their numbers."""
    from mien.data.sets import held_out

    keys = [f"person {who}" for who in people.tolist()]
    tested, chosen = held_out(keys, 0.1), held_out(keys, 0.2)
    return np.where(tested, 2, np.where(chosen, 1, 0)).astype(np.int64)


def read_tagged(data: str | None, *, heads: int, aligned: bool = False) -> Tagged:
    """CelebA in its own layout, `celeba10k`, or `heads` rendered scenes where `data` is None.

    Raises
    ------
    TableError
        A set without CelebA's attributes.
    """
    if data is None:
        return _rendered(heads)
    folder = Path(data)
    if (folder / "images.csv").is_file():
        from mien.data.sets import celeba10k

        faces = celeba10k(folder)
        columns = dict(zip(faces.attribute_names, faces.attributes.T, strict=True))
        unknown = np.full((len(faces), 4), np.nan, np.float32)
        return Tagged(faces.files, _tags(columns, len(faces)), faces.identity, parts_of(faces.identity), unknown)
    from mien.data.formats.celeba import read_celeba
    from mien.errors import MediaNotFound

    try:
        samples = read_celeba(folder, aligned=aligned)
    except MediaNotFound:
        samples = read_celeba(folder)
    count = len(samples)
    people = samples.labels if samples.labels is not None else np.full(count, -1, np.int64)
    part = samples.columns["partition"] if "partition" in samples.columns else parts_of(people)
    boxes = np.full((count, 4), np.nan, np.float32)
    if samples.boxes is not None:
        boxes[samples.boxes.image] = samples.boxes.xyxy
    held = list(getattr(samples.coded, "paths", ())) or samples.fetch(np.arange(count))
    return Tagged(held, _tags(samples.columns, count), people, np.asarray(part, np.int64), boxes)


def _tags(columns: Any, count: int) -> Floats:
    if not any(name in columns for name in CELEBA):
        raise TableError("the set has none of CelebA's attributes", got=sorted(columns)[:5], expected=CELEBA[:3])
    unknown = np.full(count, np.nan, np.float32)
    return np.stack([np.asarray(columns.get(name, unknown), np.float32) for name in CELEBA], 1)


def _rendered(count: int) -> Tagged:
    from mien.data.head_scenes import head_scenes
    from mien.data.heads import ATTRIBUTES

    scenes = head_scenes(count, seed=zlib.crc32(b"attributes"), size=SCENE, per_identity=8 if count >= 80 else 2)
    tags = _tags(dict(zip(ATTRIBUTES, scenes.tags.T, strict=True)), count)
    return Tagged(list(scenes.image), tags, scenes.identity, parts_of(scenes.identity), scenes.boxes)


def crop(picture: Picture, box: NDArray[Any], size: int) -> Picture:
    """(size, size, 3): the square of `box` (4,) px, grey outside of the picture."""
    height, width = picture.shape[:2]
    factor = size / max(1e-3, float(box[2] - box[0]))
    low = np.clip(np.floor(box[:2]), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(box[2:]), low + 1, [width, height]).astype(int)
    corner = np.rint((low - box[:2]) * factor).astype(int)
    end = np.maximum(corner + 1, np.rint((high - box[:2]) * factor).astype(int))
    kind = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    part = picture[low[1] : high[1], low[0] : high[0]]
    shown = cv2.resize(part, (int(end[0] - corner[0]), int(end[1] - corner[1])), interpolation=kind)
    canvas = np.full((size, size, 3), GREY, np.uint8)
    top, left = max(0, corner[1]), max(0, corner[0])
    bottom, right = min(size, end[1]), min(size, end[0])
    if bottom > top and right > left:
        canvas[top:bottom, left:right] = shown[
            top - corner[1] : bottom - corner[1], left - corner[0] : right - corner[0]
        ]
    return canvas


class Shown(Source):
    """Squares of pictures: `image` (size, size, 3) uint8, `tags` (40,), `person`; moved and mirrored when drawn.

    Parameters
    ----------
    pictures
        The pictures.
    boxes
        (n, 4) squares, xyxy px; None: the whole picture, at the upper left of a square.
    size
        Side of the samples, px.
    jitter
        Standard deviation of shifts and of the logarithm of scale, shares of the side; 0 also leaves mirroring out.
    people
        (n,) numbers from 0 on.
    """

    def __init__(self, pictures: Tagged, boxes: Floats | None, *, size: int, jitter: float, people: Ints) -> None:
        self.pictures, self.boxes, self.size, self.jitter, self.people = pictures, boxes, size, jitter, people

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        picture = self.pictures.picture(index)
        box = np.array([0, 0, *[max(picture.shape)] * 2]) if self.boxes is None else self.boxes[index]
        centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2
        if self.jitter:
            centre = centre + rng.normal(0, self.jitter, 2) * half
            half *= np.exp(rng.normal(0, self.jitter))
        image = crop(picture, np.concatenate([centre - half, centre + half]), self.size)
        if self.jitter and rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return {"image": image, "tags": self.pictures.tags[index], "person": self.people[index]}

    def batches(self, most: int = 64) -> Iterator[Tensor]:
        """All of them, as they are, in batches (b, 3, size, size) that networks take."""
        for start in range(0, len(self), most):
            rows = range(start, min(start + most, len(self)))
            yield to_input(
                torch.from_numpy(np.stack([self.sample(r, np.random.default_rng(0))["image"] for r in rows]))
            )


class Things(Source):
    """Pictures of kinds of objects: one of the ten crops (corners and middle, mirrored or not) of a larger square."""

    def __init__(self, files: Sequence[Any], labels: Ints, *, size: int) -> None:
        self.files, self.labels, self.size = files, labels, size

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        side = round(self.size * 256 / 227)
        picture = decode(np.fromfile(self.files[index], np.uint8))
        height, width = picture.shape[:2]
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        square = picture[top : top + short, left : left + short]
        kind = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
        square = np.asarray(cv2.resize(square, (side, side), interpolation=kind), np.uint8)
        spare = side - self.size
        place = ((0, 0), (0, spare), (spare, 0), (spare, spare), (spare // 2, spare // 2))[int(rng.integers(5))]
        image = square[place[0] : place[0] + self.size, place[1] : place[1] + self.size]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        return {"image": np.ascontiguousarray(image), "label": self.labels[index]}


class Rows(Source):
    """Features (d,) with their tags (40,)."""

    def __init__(self, features: Floats, tags: Floats) -> None:
        self.features, self.tags = features, tags

    def __len__(self) -> int:
        return len(self.features)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"features": self.features[index], "tags": self.tags[index]}


class Machines(nn.Module):
    """The cascade, of which the linear machines alone learn: features (B, d) -> decisions (B, 40)."""

    def __init__(self, whole: Cascade) -> None:
        super().__init__()
        self.cascade = whole.requires_grad_(False)
        whole.svm.requires_grad_(True)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.cascade.svm(features))


# ------------------------------------------------------------------------------------------- the recipe


@dataclass(kw_only=True)
class AttributesRecipe(Recipe):
    """Trains one stage of LNets and ANet; see the module.

    Parameters
    ----------
    data
        Folder of CelebA, of `celeba10k`, or of classes of objects; None: rendered heads, `heads` of them.
    stage
        What is trained.
    lnet_o, lnet_s, anet
        Weights that former stages wrote.
    pretrained
        File of torchvision's AlexNet (``.pth``) for an LNet of variant "torchvision".
    variant, width, pool, size
        Of the LNets, see `mien.nn.lnet`; `size` is the side at which they look, px.
    anet_size, channels, fc, grid
        Of ANet, see `mien.nn.anet`.
    spread, flip, join
        Of the views whose features the linear machines read, see `mien.nn.anet.HeadReader`.
    objects, hidden
        Kinds of objects, and units of the layers between, in the first stage.
    beta, images
        Weight of the distances between pictures of one person, and pictures of each in a batch of identities.
    jitter
        Of the samples, see `Shown`.
    windows
        What ANet learns from: windows of the cascade, whole pictures, or the boxes of the set (for comparison).
    only
        Names of the tags that are learnt; empty: all.
    shuffled
        Whether pictures get the tags of others (for comparison).
    heads, checked
        Number of rendered heads, and of pictures that a stage is measured on.
    aligned
        Whether CelebA's aligned pictures are taken where both kinds are there.
    """

    data: str | None = None
    stage: Stage = "lnet_o"
    lnet_o: str | None = None
    lnet_s: str | None = None
    anet: str | None = None
    pretrained: str | None = None
    variant: str = "alexnet"
    width: float = 1.0
    pool: Pool = "max"
    size: int = 227
    anet_size: int = 64
    channels: tuple[int, ...] = (20, 40, 60, 80)
    fc: int = 160
    grid: int = 2
    spread: int = 8
    flip: bool = True
    join: Join = "concat"
    objects: int = 1000
    hidden: int = 4096
    beta: float = 0.01
    images: int = 4
    jitter: float = 0.08
    windows: Where = "cascade"
    only: tuple[str, ...] = ()
    shuffled: bool = False
    heads: int = 4000
    checked: int = 2000
    aligned: bool = False

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"lnet_o", "lnet_s", "anet", "pretrained"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # The paper names no optimiser; these are AlexNet's numbers, 20 epochs of 162,770 pictures.
        "celeba": {
            "steps": 25_400, "batch_size": 128, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4,
            "warmup": 500, "workers": 8,
        },
        "small": {
            "steps": 600, "batch_size": 32, "lr": 2e-3, "weight_decay": 1e-3, "warmup": 20, "ema": 0.99,
            "variant": "small", "size": 64, "anet_size": 40, "heads": 1500, "checked": 300, "hidden": 64, "workers": 0,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.only:
            if name not in CELEBA:
                raise OptionError.unknown("CelebA has no such attribute", name, CELEBA)
        if self.pretrained is not None and self.stage not in ("lnet_o", "lnet_s"):
            raise OptionError("AlexNet's weights fit the LNets", got=f"stage={self.stage}", expected="lnet_o, lnet_s")
        if self.stage == "identities" and self.batch_size % self.images:
            raise OptionError(
                "a batch of people has the same number of pictures of each", got=(self.batch_size, self.images),
                expected="batch_size a multiple of images",
            )  # fmt: skip

    # --- networks

    def shape(self) -> dict[str, Any]:
        """Numbers with which `mien.nn.anet.cascade` builds the whole."""
        names = ("variant", "width", "pool", "size", "anet_size", "channels", "fc", "grid", "spread", "flip", "join")
        return {"tags": len(CELEBA), **{name: getattr(self, name) for name in names}}

    def build(self) -> nn.Module:
        if self.stage in ("objects", "lnet_o", "lnet_s"):
            looks = lnet(tags=len(CELEBA), variant=self.variant, width=self.width, pool=self.pool)
            if self.stage == "objects":
                return Objects(looks, classes=self.objects, size=self.size, hidden=self.hidden)
            return looks
        if self.stage == "svm":
            return Machines(cascade(**self.shape()))
        reads = anet(tags=len(CELEBA), size=self.anet_size, channels=self.channels, fc=self.fc, grid=self.grid)
        if self.stage == "identities":
            return Identified(reads, people=len(np.unique(self._learnt().people)))
        return reads

    def begin(self, module: nn.Module) -> None:
        if self.pretrained is not None:
            start_from_torchvision(cast(LNet, module), checkpoint.load(Path(self.pretrained)))
        if self.stage == "svm":
            self._fill(cast(Machines, module).cascade)
            features, _ = self._features()
            cast(Machines, module).cascade.svm.standardise(torch.from_numpy(features))

    def deploy(self, module: nn.Module) -> nn.Module:
        if isinstance(module, Objects | Identified):
            return module.network
        return module.cascade if isinstance(module, Machines) else module

    def input_shape(self) -> tuple[int, ...]:
        side = self.anet_size if self.stage in ("identities", "anet") else self.size
        return (1, 3, side, side)

    def _fill(self, whole: Cascade) -> None:
        for name in ("lnet_o", "lnet_s", "anet"):
            file = getattr(self, name)
            needed = name != "anet" or self.stage == "svm"
            if file is None and needed and not (name == "lnet_s" and self.stage == "lnet_s"):
                raise OptionError(
                    f"the stage {self.stage} begins with what a former one wrote", got=f"no {name}",
                    expected=f"{name}=…/weights.safetensors of stage={name}",
                )  # fmt: skip
            if file is not None:
                checkpoint.fill(getattr(whole, name), Path(file))

    # --- data

    def _tagged(self) -> Tagged:
        """All pictures; read once a run."""
        if "_all" not in self.__dict__:
            self.__dict__["_all"] = read_tagged(self.data, heads=self.heads, aligned=self.aligned)
        return cast(Tagged, self.__dict__["_all"])

    def _learnt(self) -> Tagged:
        pictures = self._tagged().of_part(0)
        if not len(pictures):
            raise TableError("the set has no pictures to learn from", got=self.data)
        if self.stage == "identities":
            pictures = pictures.take(np.flatnonzero(pictures.people >= 0))
        tags = pictures.tags.copy()
        if self.only:
            tags[:, [name not in self.only for name in CELEBA]] = np.nan
        if self.shuffled:
            tags = tags[np.random.default_rng([self.seed, 7]).permutation(len(tags))]
        return Tagged(pictures.held, tags, pictures.people, pictures.part, pictures.boxes)

    def _boxes(self, pictures: Tagged, part: str) -> Floats | None:
        """Squares (n, 4) px that this stage looks at, None for whole pictures; what the cascade finds is kept beside
        the run."""
        if self.stage == "lnet_o" or (self.windows == "whole" and self.stage in ("anet", "identities")):
            return None
        if self.windows == "boxes" and self.stage in ("anet", "identities"):
            if not np.isfinite(pictures.boxes).all():
                raise TableError("the set has no boxes", got=self.data, hint="windows=cascade needs none")
            return _grown(pictures.boxes, MARGIN)
        file = Path(self.out) / f"windows-{part}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as stored:
                if len(stored["boxes"]) == len(pictures):
                    return np.asarray(stored["boxes"], np.float32)
        net = cascade(**self.shape())
        self._fill(net)
        boxes = windows_of(net, pictures, device=self._device(), face=self.stage != "lnet_s")
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.stem}-{os.getpid()}.part.npz")
        np.savez(partial, boxes=boxes)
        partial.replace(file)
        return boxes

    def _device(self) -> str:
        return self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def _shown(self, pictures: Tagged, part: str, *, jitter: float) -> Shown:
        numbers = np.unique(pictures.people, return_inverse=True)[1].reshape(-1).astype(np.int64)
        side = self.anet_size if self.stage in ("identities", "anet") else self.size
        return Shown(pictures, self._boxes(pictures, part), size=side, jitter=jitter, people=numbers)

    def source(self) -> Source:
        if self.stage == "objects":
            files, labels, _, _ = self._things()
            return Things(files, labels, size=self.size)
        if self.stage == "svm":
            return Rows(*self._features())
        return self._shown(self._learnt(), "learnt", jitter=self.jitter)

    def draws(self, source: Source) -> Draws:
        if self.stage != "identities":
            return super().draws(source)
        people = self.batch_size // self.images
        return PeopleDraws(source, cast(Shown, source).people, people=people, images=self.images, seed=self.seed)

    def _things(self) -> tuple[list[Any], Ints, list[Any], Ints]:
        """Files and classes of objects, to learn and to measure on (a fiftieth)."""
        from mien.data.formats.folders import read_folder
        from mien.data.sets import held_out

        if self.data is None:
            raise OptionError("the stage objects wants pictures of objects", got="no data", expected="a folder a class")
        samples = read_folder(self.data)
        labels = samples.labels
        if labels is None or labels.min(initial=0) < 0 or labels.max(initial=-1) >= self.objects:
            raise OptionError(
                "the classes do not fit", got=f"{len(samples.label_names)} folders", expected=f"objects={self.objects}"
            )
        held = held_out(samples.keys, 0.02)
        files = [Path(self.data) / key for key in samples.keys]
        return (
            [f for f, out in zip(files, held, strict=True) if not out], labels[~held],
            [f for f, out in zip(files, held, strict=True) if out], labels[held],
        )  # fmt: skip

    def _features(self) -> tuple[Floats, Floats]:
        """Joined features of the second part's pictures, and their tags; computed once a run."""
        if "_made" not in self.__dict__:
            pictures = self._tagged().of_part(1)
            net = cascade(**self.shape())
            self._fill(net)
            net.to(self._device()).eval()
            parts = []
            with torch.no_grad():
                for images in _like(pictures):
                    given = images.to(self._device())
                    parts.append(net.features(net.views(given, net.windows(given)[1].boxes)).cpu())
            tags = pictures.tags.copy()
            if self.only:
                tags[:, [name not in self.only for name in CELEBA]] = np.nan
            self.__dict__["_made"] = (torch.cat(parts).numpy(), tags)
        return cast("tuple[Floats, Floats]", self.__dict__["_made"])

    # --- loss and figures

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.stage == "svm":
            return hinge_loss(module(batch["features"]).float(), batch["tags"]), {}
        out = module(to_input(batch["image"]))
        if self.stage == "objects":
            return nn.functional.cross_entropy(out.float(), batch["label"]), {}
        if self.stage == "identities":
            features, logits = out
            value, alike = identity_loss(features.float(), logits.float(), batch["person"], beta=self.beta)
            return value, {"alike": alike.detach()}
        return tag_loss(out.float(), batch["tags"]), {}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Accuracies on the second part (of the linear machines on the third), and how often a window hits."""
        device = next(network.parameters()).device
        if self.stage == "objects":
            return self._of_objects(cast(LNet, network), device)
        pictures = self._tagged().of_part(2 if self.stage == "svm" else 1, self.checked)
        if not len(pictures):
            return {}
        if isinstance(network, Cascade):
            found = [network(images.to(device)) for images in _like(pictures)]
            figures = attribute_figures(torch.cat([one.tags.cpu() for one in found]), torch.from_numpy(pictures.tags))
            return figures | hits(
                torch.cat([one.face.cpu() for one in found]).numpy(),
                torch.cat([one.peaks.cpu() for one in found]).numpy(), pictures.boxes,
            )  # fmt: skip
        shown = self._shown(pictures, "checked", jitter=0.0)
        if self.stage == "identities":
            return _told_apart(cast(ANet, network), shown, device)
        logits = torch.cat([network(images.to(device)).cpu() for images in shown.batches()])
        figures = attribute_figures(logits, torch.from_numpy(pictures.tags))
        if self.stage == "lnet_o":
            figures |= self._found(cast(LNet, network), shown, pictures, device)
        return figures

    def _found(self, network: LNet, shown: Shown, pictures: Tagged, device: torch.device) -> dict[str, float]:
        boxes, peaks = [], []
        for images in shown.batches():
            found = best_windows(network, images.to(device), sides=HEAD_SIDES)
            boxes.append(found.boxes.cpu())
            peaks.append(found.peaks.cpu())
        # Whole pictures lie at the upper left of their squares.
        scale = np.array([[max(pictures.picture(row).shape)] for row in range(len(pictures))]) / self.size
        return hits(torch.cat(boxes).numpy() * scale, torch.cat(peaks).numpy() * scale, pictures.boxes)

    def _of_objects(self, network: LNet, device: torch.device) -> dict[str, float]:
        """How much more than the middle of the map's mean the largest response is: a map that points at something."""
        _, _, files, labels = self._things()
        files = files[: self.checked]
        if not files:
            return {}
        things = Things(files, labels, size=self.size)
        told = []
        for start in range(0, len(files), 64):
            rows = range(start, min(start + 64, len(files)))
            images = np.stack([things.sample(row, np.random.default_rng(row))["image"] for row in rows])
            maps = network.response(to_input(torch.from_numpy(images)).to(device)).flatten(1)
            told.append((maps.amax(1) / maps.mean(1).clamp_min(1e-6)).cpu())
        return {"contrast": float(torch.cat(told).mean())}


def hits(windows: NDArray[Any], peaks: NDArray[Any], boxes: Floats) -> dict[str, float]:
    """Shares of known boxes (n, 4) that hold the peak (n, 2), and whose window has an IoU above 0.3."""
    known = np.isfinite(boxes).all(1)
    if not known.any():
        return {}
    w, p, b = windows[known], peaks[known], boxes[known]
    low, high = np.maximum(w[:, :2], b[:, :2]), np.minimum(w[:, 2:], b[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    union = (w[:, 2:] - w[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - both
    return {
        "hit": float(((p >= b[:, :2]) & (p <= b[:, 2:])).all(1).mean()), "iou30": float((both / union > 0.3).mean()),
    }  # fmt: skip


def _told_apart(network: ANet, shown: Shown, device: torch.device) -> dict[str, float]:
    """Area under the curve of pairs of one person against pairs of two, of people that were not learnt."""
    from mien.train.people import compared

    parts = [network.features(images.to(device)).cpu() for images in shown.batches()]
    z = nn.functional.normalize(torch.cat(parts), dim=1).numpy()
    counts = np.bincount(shown.people)
    if counts.max(initial=0) < 2 or len(counts) < 2:
        return {"people": float(len(counts))}
    return compared(z, z, shown.people)


def _grown(boxes: Floats, grow: float) -> Floats:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True) * (grow / 2)
    return np.concatenate([centre - half, centre + half], 1).astype(np.float32)


def _like(pictures: Tagged, most: int = 64) -> Iterator[Tensor]:
    """All pictures as networks take them, in batches of neighbours of one shape."""
    batch: list[Picture] = []
    for row in range(len(pictures)):
        picture = pictures.picture(row)
        if batch and (len(batch) == most or picture.shape != batch[0].shape):
            yield to_input(torch.from_numpy(np.stack(batch)))
            batch = []
        batch.append(picture)
    if batch:
        yield to_input(torch.from_numpy(np.stack(batch)))


@torch.no_grad()
def windows_of(net: Cascade, pictures: Tagged, *, device: str, face: bool) -> Floats:
    """Squares (n, 4) px: what ANet sees of LNet_s's windows, or (`face` false) what LNet_s sees of LNet_o's."""
    net.to(device).eval()
    parts = []
    for images in _like(pictures):
        given = images.to(device)
        found = net.windows(given)[1] if face else net.heads(given)
        parts.append(found.boxes.cpu().numpy())
    return _grown(np.concatenate(parts), MARGIN if face else GROW)
