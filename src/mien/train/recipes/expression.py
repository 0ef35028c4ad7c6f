"""Training of classifiers of six expressions, as in the audit of Gaya-Morey et al. (2024).

    mien train expression preset=pretrained network=vgg16 trunk=vgg16_notop.h5 data=…/faces out=runs/vgg16 fold=0
    mien train expression preset=scratch network=songnet data=…/faces out=runs/songnet
    mien train expression preset=small data=heads out=runs/small

`data` is a folder with one sub-folder an expression ("anger" or "Angry", …; others are left out) of faces that are cut
upright; or "heads", which are drawn at the start. People are kept apart in the folds: a person is what stands before
the first ``_``, ``.`` or ``-`` of a file's name ("S010" of CK+, "KA" of JAFFE, "F001" of BU-4DFE), and one fold in
`folds` is measured on.

Optimisers. The paper has Adam for trunks of ImageNet and SilNet, RMSprop for AlexNet, WeiNet and SongNet. RMSprop is
Adam without a first moment (``momentum=0``, ``beta2=0.9``), which differs from Keras's in the first twenty steps,
where its mean is corrected.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode
from mien.errors import CheckpointError, MediaNotFound, OptionError, TableError
from mien.nn.expression import CLASSIFIERS, EKMAN, PREPARED, PRETRAINED, Prepared, expression
from mien.train import checkpoint
from mien.train.draws import Source
from mien.train.loop import Recipe

TEMPLATE = "arcface112"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("scratch", {"epochs": 10}), "weinet": ("scratch", {"epochs": 10}), "songnet": ("scratch", {}),
    "silnet": ("pretrained", {"epochs": 10}), "vgg16": ("pretrained", {}), "vgg19": ("pretrained", {}),
    "resnet50": ("pretrained", {}), "resnet101v2": ("pretrained", {}), "inceptionv3": ("pretrained", {}),
    "xception": ("pretrained", {}), "mobilenetv3": ("slow", {}), "efficientnetv2b0": ("slow", {"epochs": 10}),
}  # fmt: skip
"""The paper's run of each network: a preset, and what differs from it."""


@dataclass(frozen=True)
class Labelled:
    """Faces: encoded files or pictures, the class of each, and a number that keeps its people together."""

    pictures: list[Any]
    labels: NDArray[np.int64]
    people: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, rows: NDArray[np.integer]) -> Labelled:
        """Some of them."""
        return Labelled([self.pictures[row] for row in rows], self.labels[rows], self.people[rows])


def files_of(root: Path) -> list[tuple[Path, int]]:
    """Pictures of a folder with one sub-folder an expression, sorted, with their classes.

    Raises
    ------
    MediaNotFound
        No such folder.
    TableError
        It has pictures of fewer than two of the six expressions.
    """
    if not root.is_dir():
        raise MediaNotFound("there is no such folder", got=root)
    found = [
        (file, EKMAN.index(name))
        for folder in sorted(root.iterdir())
        if folder.is_dir() and (name := expression(folder.name)) in EKMAN
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if len({label for _, label in found}) < 2:
        raise TableError("the folder has no pictures of expressions", got=root, expected=f"sub-folders {EKMAN}")
    return found


def person_of(file: Path) -> int:
    """A number for who is on a picture, by what stands before the first ``_``, ``.`` or ``-`` of its name."""
    return zlib.crc32(re.split(r"[_.\-]", file.name)[0].lower().encode())


def read_folder(root: Path) -> Labelled:
    """The faces of a folder; see `files_of`."""
    found = files_of(root)
    return Labelled(
        [np.fromfile(file, np.uint8) for file, _ in found], np.array([label for _, label in found], np.int64),
        np.array([person_of(file) for file, _ in found], np.int64),
    )  # fmt: skip


def rendered(count: int, *, seed: int, side: int) -> Labelled:
    """Heads that pose the six expressions, almost frontal, cut upright: (side, side, 3) each, as many people."""
    from mien.data import heads
    from mien.geometry import similarity_from_points
    from mien.geometry.landmarks import five_from_68
    from mien.geometry.similarity import template

    names = {"anger": "anger", "disgust": "disgust", "fear": "fear", "happiness": "happiness", "sadness": "sadness",
             "surprise": "surprise"}  # fmt: skip
    known = np.array([heads.EXPRESSIONS.index(names[name]) for name in EKMAN])
    target = template(TEMPLATE, size=side)
    pictures: list[Picture] = []
    for start in range(0, count, 256):
        rows = np.arange(start, min(start + 256, count))
        some = heads.sample(
            len(rows), seed=seed, start=start, occluder="none", hat=0, expression=known[rows % len(EKMAN)]
        )
        some = some.with_(pose=np.clip(some.pose, -10, 10))
        drawn = heads.render(some, size=max(48, round(1.3 * side)), what=("image", "landmarks"))
        for matrix, image in zip(
            similarity_from_points(five_from_68(drawn.landmarks_2d), target), drawn.image, strict=True
        ):
            pictures.append(as_picture(cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)))
    return Labelled(pictures, np.arange(count, dtype=np.int64) % len(EKMAN), np.arange(count, dtype=np.int64))


def prepare(images: Tensor, prepared: Prepared) -> Tensor:
    """uint8 (B, H, W, 3) RGB -> float32 (B, 3, H, W) as a network wants it."""
    values = images.permute(0, 3, 1, 2).float()
    values = values.flip(1) if prepared.colour == "BGR" else values
    mean, std = (values.new_tensor(part)[:, None, None] for part in (prepared.mean, prepared.std))
    return (values - mean) / std


class Faces(Source):
    """Faces at the network's size, changed at random as Keras's layers do it, where that is wanted.

    Parameters
    ----------
    data
        The faces.
    side
        Of the crops, px.
    augment
        Mirror half of them, turn by up to 0.03 of a circle (10.8 degrees), shift by up to 5 %, and change the contrast
        by up to 10 %. Off in the paper.
    """

    def __init__(self, data: Labelled, side: int, *, augment: bool) -> None:
        self.data, self.side, self.augment = data, side, augment

    def __len__(self) -> int:
        return len(self.data)

    def crop(self, index: int) -> Picture:
        """(side, side, 3) a face, not changed."""
        held = self.data.pictures[index]
        picture = decode(held) if held.ndim == 1 else held
        if picture.shape[:2] == (self.side, self.side):
            return as_picture(picture)
        kind = cv2.INTER_AREA if min(picture.shape[:2]) > self.side else cv2.INTER_LINEAR
        return as_picture(cv2.resize(picture, (self.side, self.side), interpolation=kind))

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image = self.crop(index)
        if self.augment:
            image = changed(image, rng)
        return {"image": image, "label": self.data.labels[index]}


def changed(image: Picture, rng: np.random.Generator) -> Picture:
    """A face mirrored, turned, shifted, its contrast changed; what comes into sight is the picture mirrored."""
    side = image.shape[0]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, 360 * rng.uniform(-0.03, 0.03), 1.0)
    matrix[:, 2] += side * rng.uniform(-0.05, 0.05, 2)
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    moved = moved[:, ::-1] if rng.random() < 0.5 else moved
    mean = moved.mean((0, 1), keepdims=True)
    return np.ascontiguousarray(np.clip(np.rint(mean + (moved - mean) * rng.uniform(0.9, 1.1)), 0, 255), np.uint8)


def fold_of(people: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """(n,) the fold of each picture: everybody is in one, folds are of nearly as many people."""
    names, rows = np.unique(people, return_inverse=True)
    order = np.argsort([zlib.crc32(str(name).encode()) for name in names.tolist()], kind="stable")
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % folds
    return fold[rows.reshape(-1)]


def macro_f1(found: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Mean over the classes that are there, or were found, of their F1."""
    from mien.metrics.classification import confusion

    counts = confusion(found, truth, classes=len(EKMAN))
    both = np.diag(counts)
    sizes = counts.sum(0) + counts.sum(1)
    return float((2 * both[sizes > 0] / sizes[sizes > 0]).mean()) if sizes.any() else 0.0


@dataclass(kw_only=True)
class ExpressionRecipe(Recipe):
    """Trains one of the twelve classifiers; see the module.

    `network` is one of `mien.nn.expression.CLASSIFIERS`, `width` a factor on its channels, `side` the input's side (0:
    the network's own). `epochs` above 0 decides `steps`. `trunk` starts from a trunk: Keras's file of ImageNet weights
    without a top (``.h5``, extra ``audit``), or ``weights.safetensors`` of another run. `heads` is the number of heads
    with ``data=heads``. Fold number `fold` of `folds` is not trained on.
    """

    data: str = "heads"
    network: str = "songnet"
    width: float = 1.0
    side: int = 0
    epochs: float = 0.0
    trunk: str | None = None
    heads: int = 3000
    fold: int = 0
    folds: int = 5
    augment: bool = False

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"trunk"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "pretrained": {
            "network": "resnet50", "epochs": 2, "batch_size": 128, "optimizer": "adamw", "lr": 1e-4, "beta2": 0.999,
            "weight_decay": 0, "schedule": "constant", "warmup": 0, "ema": 0, "clip": 0, "half": False,
        },
        "slow": {
            "network": "mobilenetv3", "epochs": 15, "batch_size": 128, "optimizer": "adamw", "lr": 1e-6, "beta2": 0.999,
            "weight_decay": 0, "schedule": "constant", "warmup": 0, "ema": 0, "clip": 0, "half": False,
        },
        "scratch": {
            "network": "songnet", "epochs": 25, "batch_size": 128, "optimizer": "adamw", "lr": 1e-4, "momentum": 0,
            "beta2": 0.9, "weight_decay": 0, "schedule": "constant", "warmup": 0, "ema": 0, "clip": 0, "half": False,
        },
        "small": {
            "network": "songnet", "width": 0.25, "side": 64, "steps": 200, "batch_size": 32, "lr": 1e-3, "warmup": 10,
            "ema": 0.9, "heads": 600,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in CLASSIFIERS:
            raise OptionError.unknown("unknown network", self.network, CLASSIFIERS)
        if not 0 <= self.fold < self.folds or self.folds < 2:
            raise OptionError("there is no such fold", got=(self.fold, self.folds), expected="0 <= fold < folds >= 2")
        for name, low in (("width", 0.01), ("side", 0), ("epochs", 0), ("heads", 12)):
            if getattr(self, name) < low:
                raise OptionError(f"{name} is out of range", got=getattr(self, name), expected=f"at least {low}")
        if self.epochs and (self.data == "heads" or Path(self.data).is_dir()):
            if self.data == "heads":
                people = np.arange(self.heads, dtype=np.int64)
            else:
                people = np.array([person_of(file) for file, _ in files_of(Path(self.data))], np.int64)
            trained = int((fold_of(people, self.folds) != self.fold).sum())
            self.steps = max(1, round(self.epochs * trained / self.batch_size))

    @property
    def prepared(self) -> Prepared:
        """What the network wants to see."""
        return PREPARED[self.network]

    @property
    def size(self) -> int:
        """Side of the input, px."""
        return self.side or self.prepared.size

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def build(self) -> nn.Module:
        sized = {} if self.network in PRETRAINED else {"size": self.size}
        return CLASSIFIERS[self.network](width=self.width, **sized)

    def begin(self, module: nn.Module) -> None:
        if self.trunk is None:
            return
        file, trunk = Path(self.trunk), module.get_submodule("trunk")
        if file.suffix == ".safetensors":
            checkpoint.fill_part(trunk, file, "trunk.")
            return
        from mien.nn.keras import converted, read_keras

        if not file.is_file():
            raise CheckpointError("there is no such file", got=file, hint="trunk=FILE.h5 or trunk=FILE.safetensors")
        trunk.load_state_dict(converted(read_keras(file), trunk, self.network), strict=True)

    def _all(self) -> Labelled:
        # Training and the final evaluation are one process's, and look at the same pictures.
        held: Labelled | None = self.__dict__.get("_held")
        if held is None:
            if self.data == "heads":
                held = rendered(self.heads, seed=zlib.crc32(b"expression"), side=self.size)
            else:
                held = read_folder(Path(self.data))
            self.__dict__["_held"] = held
        return held

    def part(self, *, held: bool) -> Labelled:
        """The fold that is measured on, or all others.

        Raises
        ------
        TableError
            Nothing is in it.
        """
        data = self._all()
        rows = np.flatnonzero((fold_of(data.people, self.folds) == self.fold) == held)
        if not len(rows):
            raise TableError(
                "a fold has no pictures", got=f"{len(np.unique(data.people))} people in {self.folds} folds",
                hint="fewer folds; people are told by what stands before the first _, . or - of a name",
            )  # fmt: skip
        return data.take(rows)

    def source(self) -> Source:
        return Faces(self.part(held=False), self.size, augment=self.augment)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = module(prepare(batch["image"], self.prepared)).float()
        right = (logits.detach().argmax(1) == batch["label"]).float().mean()
        return F.cross_entropy(logits, batch["label"]), {"accuracy": right}

    @torch.no_grad()
    def answers(self, network: nn.Module, data: Labelled, *, batch: int = 64) -> Tensor:
        """Logits (n, 6) of faces, on the CPU."""
        device = next(network.parameters()).device
        crops = Faces(data, self.size, augment=False)
        parts = []
        for start in range(0, len(data), batch):
            rows = range(start, min(start + batch, len(data)))
            images = torch.from_numpy(np.stack([crops.crop(row) for row in rows])).to(device)
            parts.append(network(prepare(images, self.prepared)).float().cpu())
        return torch.cat(parts)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Accuracy and macro-F1 on the fold that was kept out."""
        held = self.part(held=True)
        found = self.answers(network, held).argmax(1).numpy()
        return {"accuracy": float((found == held.labels).mean()), "f1": macro_f1(found, held.labels)}
