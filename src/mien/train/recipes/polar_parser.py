"""Training of a parser of whole heads in tanh-polar maps: RTNet (Lin et al., 2021), its baselines, or another network.

    mien train polar_parser preset=small out=runs/polar
    mien train polar_parser preset=paper data=LaPa imagenet=resnet50.pth out=runs/lapa
    mien train polar_parser preset=paper data=LaPa network=mien.papers.rtnet:resnet50 frame=crop crop_margin=2 out=…

Without `data` rendered heads are drawn, several in a scene, of which a box says who is meant. Each sample is mirrored,
its box moved and stretched, and picture and mask are warped with the same grid around it, turned by a random angle:
in a polar map that is a roll of the rows. Loss: cross-entropy of the map's pixels. Since the map shows the middle
larger, that weights the picture's pixels by about one over their distance from it. Figures are F1 in the picture.

What is written goes to the verbs by ``mien weights import rtnet OUT/weights.safetensors --name X``.
"""

from __future__ import annotations

import ast
import importlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.parsed import LAPA, UNKNOWN, Parsed, parsed, rendered
from mien.data.pixels import Picture, as_picture
from mien.errors import OptionError
from mien.faces import PARSING
from mien.geometry.tanh_polar import Frame
from mien.metrics.classification import f1_of_masks, mask_counts
from mien.train.draws import Source
from mien.train.loop import Recipe

INSTEAD = {"l_ear": "skin", "r_ear": "skin", "eye_g": "skin"}
"""What a part counts as where the network has no class for it; all else is background."""
POWER = 0.9
"""Of the "poly" schedule, (1 - step / steps) ** POWER."""


def spelled(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Arguments that were written as ``name=value``.

    Raises
    ------
    OptionError
        One of them is not written so.
    """
    options: dict[str, Any] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise OptionError("an argument cannot be read", got=argument, expected="name=value") from error
    return options


def numbers_of(classes: tuple[str, ...], names: tuple[str, ...]) -> NDArray[np.uint8]:
    """(256,) numbers among `names` of the numbers among `classes`; 255 stays, what has no name is background."""
    table = np.zeros(256, np.uint8)
    table[len(classes) :] = UNKNOWN
    for number, part in enumerate(classes):
        part = part if part in names else INSTEAD.get(part, "background")
        table[number] = names.index(part) if part in names else 0
    return table


def in_the_mirror(names: tuple[str, ...]) -> NDArray[np.uint8]:
    """(256,) number that each class becomes in the mirror image: l_eye and r_eye change places, and so on."""
    table = np.arange(256, dtype=np.uint8)
    for number, part in enumerate(names):
        twin = {"l_": "r_", "r_": "l_"}.get(part[:2], "") + part[2:]
        if part != "l_lip" and twin in names:
            table[number] = names.index(twin)
    return table


class Maps(Source):
    """Warped pictures: `image` (S, S, 3) uint8, `mask` (S, S) uint8 with 255 where unknown, `roi` (4,) float32.

    Parameters
    ----------
    data
        Pictures, masks and boxes.
    frame
        How they are warped.
    names
        Of the network's classes.
    jitter
        Largest change of the box's middle and size, as a share of them.
    turn
        Largest angle, degrees.
    strength
        Of changes of colour and sharpness, 0 to 1.
    outside
        What lies outside of the picture is "background", or "unknown" and without a loss.
    """

    def __init__(
        self, data: Parsed, frame: Frame, names: tuple[str, ...], *, jitter: float, turn: float, strength: float,
        outside: str = "background", flip: bool = True,
    ) -> None:  # fmt: skip
        self.data, self.frame, self.flip = data, frame, flip
        self.jitter, self.turn, self.strength, self.outside = jitter, turn, strength, outside
        self.numbers, self.mirror = numbers_of(data.classes, names), in_the_mirror(names)

    def __len__(self) -> int:
        return len(self.data)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        image, mask = self.data.pictures[index](), self.numbers[self.data.masks[index]()]
        box = self.data.boxes[index]
        if self.flip and rng.random() < 0.5:
            image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(self.mirror[mask[:, ::-1]])
            wide = image.shape[1] - 1
            box = np.array([wide - box[2], box[1], wide - box[0], box[3]], np.float32)
        middle, extent = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        middle = middle + rng.uniform(-self.jitter, self.jitter, 2) * extent
        extent = extent * np.exp(rng.uniform(-self.jitter, self.jitter, 2))
        roi = np.concatenate([middle - extent / 2, middle + extent / 2]).astype(np.float32)
        turn = np.array([rng.uniform(-self.turn, self.turn)])
        seen = as_picture(self.frame.images(image, roi[None], turn=turn)[0])
        labels = self.frame.images(mask, roi[None], turn=turn, mode="nearest")[0]
        if self.outside == "unknown":
            there = self.frame.images(np.ones_like(mask), roi[None], turn=turn, mode="nearest")[0]
            labels = np.where(there > 0, labels, UNKNOWN)
        return {"image": recoloured(seen, rng, self.strength), "mask": np.asarray(labels, np.uint8), "roi": roi}


def recoloured(image: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Light, contrast and tint, grey, blur; each with a chance times `strength`."""
    if rng.random() < 0.8 * strength:
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.92, 1.08, 3)
        contrast, offset = rng.uniform(0.7, 1.3), rng.uniform(-20, 20)
        mean = float(image.mean())
        levels = np.arange(256)[:, None] * gain * contrast + mean * (1 - contrast) + offset
        image = as_picture(cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[:, None, :]))
    if rng.random() < 0.1 * strength:
        image = np.repeat(as_picture(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)
    if rng.random() < 0.2 * strength:
        image = as_picture(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.5)) * image.shape[0] / 256 + 0.2))
    return image


def seen(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> what the network sees, (B, 3, S, S) from -1 to 1."""
    return (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def map_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of the pixels (B, H, W) whose class is known; 0 where none is."""
    truth = mask.long()
    known = truth != UNKNOWN
    entropy = F.cross_entropy(logits, torch.where(known, truth, -100), ignore_index=-100, reduction="sum")
    return entropy / known.sum().clamp_min(1)


@torch.no_grad()
def f1_in_pictures(
    network: nn.Module, data: Parsed, frame: Frame, names: tuple[str, ...], *, batch: int = 16, device: str = "cpu"
) -> dict[str, float]:
    """F1 of each class over all pixels of all pictures, the maps restored: ``f1_hair`` …, and ``f1``, the mean of those
    that are there, background left out."""
    numbers = numbers_of(data.classes, names)
    counts = np.zeros((len(names), 3), np.int64)
    for start in range(0, len(data), batch):
        rows = range(start, min(start + batch, len(data)))
        pictures = [data.pictures[row]() for row in rows]
        maps = np.concatenate(
            [frame.images(picture, data.boxes[row : row + 1]) for picture, row in zip(pictures, rows, strict=True)]
        )
        boxes = torch.from_numpy(data.boxes[rows.start : rows.stop]).to(device)
        found = network(seen(torch.from_numpy(maps).to(device)), boxes).float().softmax(1)
        for number, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
            one = slice(number, number + 1)
            classes = frame.probabilities(found[one], boxes[one], (picture.shape[0], picture.shape[1]))[0].argmax(0)
            truth = numbers[data.masks[row]()]
            counts += np.asarray(mask_counts(classes.cpu().numpy(), truth, classes=len(names), ignore=UNKNOWN))
    each = np.asarray(f1_of_masks(counts))
    told = {f"f1_{name}": float(value) for name, value in zip(names, each, strict=True) if np.isfinite(value)}
    there = [float(value) for value, count in zip(each[1:], counts[1:], strict=True) if count[2] > 0]
    return {"f1": float(np.mean(there)) if there else 0.0, **told}


@dataclass(kw_only=True)
class PolarParserRecipe(Recipe):
    """Trains a parser of maps around a box; see the module.

    Parameters
    ----------
    data
        Folder that `mien.data.parsed` reads. None: `heads` rendered scenes.
    network, arguments
        ``module:function`` that builds the network from `classes` and from these ("width=16"); called with maps and
        boxes.
    names
        Its classes, of `mien.faces.PARSING`, background first.
    frame, size, crop_margin
        `mien.geometry.tanh_polar.Frame`: "polar", "tanh" or "crop", its side in pixels, and how many times the box's
        sides a crop is.
    imagenet
        File of a ResNet of torchvision's layout from which weights are taken where they fit, by the `from_imagenet` of
        the network's module.
    jitter, turn, strength, outside
        See `Maps`.
    heads, scene
        Rendered scenes, and their side in pixels.
    checked
        Pictures of the validation part that are measured on.
    """

    data: str | None = None
    network: str = "mien.papers.rtnet:rtnet50"
    arguments: tuple[str, ...] = ()
    names: tuple[str, ...] = PARSING
    frame: Literal["polar", "tanh", "crop"] = "polar"
    size: int = 513
    crop_margin: float = 1.0
    imagenet: str | None = None
    jitter: float = 0.1
    turn: float = 30.0
    strength: float = 0.7
    outside: Literal["background", "unknown"] = "background"
    heads: int = 6000
    scene: int = 224
    checked: int = 500

    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "poly")
    NESTEROV: ClassVar[bool] = False
    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"imagenet"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # The released size. Rate, schedule and momentum are the description's; batch and length are ours, since the
        # authors' are not known: 50 epochs of iBugMask's 21,866 pictures.
        "paper": {
            "steps": 68_400, "batch_size": 16, "optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4, "momentum": 0.9,
            "schedule": "poly", "warmup": 0, "ema": 0.0, "clip": 0.0, "names": LAPA, "save_every": 1000,
            "precision": "bf16-mixed", "workers": 8,
        },
        # Minutes on a processor, on rendered scenes.
        "small": {
            "steps": 400, "batch_size": 16, "lr": 2e-3, "ema": 0.98, "warmup": 20, "size": 97, "scene": 128,
            "heads": 600, "checked": 64, "arguments": ("width=16", "layers=(2,2,2,2)"),
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names[:1] != ("background",) or any(name not in PARSING for name in self.names):
            raise OptionError(
                "the names of classes are wrong", got=self.names, expected=f"background, then of {PARSING}"
            )
        right = (
            self.size >= 33 and self.crop_margin > 0 and 0 <= self.jitter < 1 and 0 <= self.turn <= 180
            and 0 <= self.strength <= 1 and min(self.heads, self.checked) >= 1 and self.scene >= 32
        )  # fmt: skip
        if not right:
            raise OptionError(
                "a number is out of its range",
                got=f"size {self.size}, crop_margin {self.crop_margin}, jitter {self.jitter}, turn {self.turn}, "
                f"strength {self.strength}, heads {self.heads}, scene {self.scene}, checked {self.checked}",
                expected="a size of 33 px and more, a turn of 0 to 180 degrees, shares of 0 to 1",
            )

    @property
    def view(self) -> Frame:
        """How pictures are warped."""
        return Frame(self.frame, self.size, margin=self.crop_margin)

    def pace(self, step: int) -> float:
        if self.schedule != "poly":
            return super().pace(step)
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return float((1 - min(1.0, done)) ** POWER)

    def build(self) -> nn.Module:
        module, _, function = self.network.partition(":")
        try:
            network = getattr(importlib.import_module(module), function)(
                classes=len(self.names), **spelled(self.arguments)
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise OptionError(
                "the network cannot be built", got=f"{self.network} with {self.arguments}: {error}",
                expected="module:function that takes classes, and name=value for the others",
            ) from error  # fmt: skip
        if not isinstance(network, nn.Module):
            raise OptionError("what was built is no network", got=type(network).__name__, expected="nn.Module")
        return network

    def begin(self, module: nn.Module) -> None:
        if self.imagenet is None or self.init is not None:
            return
        taken = getattr(importlib.import_module(self.network.partition(":")[0]), "from_imagenet", None)
        if taken is None:
            raise OptionError(
                "the network's module cannot start from ImageNet", got=self.network, expected="from_imagenet in it"
            )
        taken(module, Path(self.imagenet))

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def source(self) -> Source:
        if self.data is None:
            found = rendered(self.heads, seed=zlib.crc32(b"polar parser"), size=self.scene)
        else:
            found = parsed(self.data)
        return Maps(
            found, self.view, self.names, jitter=self.jitter, turn=self.turn, strength=self.strength,
            outside=self.outside,
        )  # fmt: skip

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = module(seen(batch["image"]), batch["roi"]).float()
        entropy = map_loss(logits, batch["mask"])
        with torch.no_grad():
            right = (logits.argmax(1) == batch["mask"]).float().mean()
        return entropy, {"entropy": entropy.detach(), "accuracy": right}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """F1 in pictures that were not trained on: of the set's "val", or of other heads."""
        if self.data is None:
            held = rendered(
                max(4, self.checked), seed=zlib.crc32(b"polar parser, held out"), start=1_000_000, size=self.scene
            )
        else:
            held = parsed(self.data, split="val")
        device = str(next(network.parameters()).device)
        return f1_in_pictures(network, held.first(self.checked), self.view, self.names, device=device)
