"""Training of the bundled parser: rendered heads first, then photographs that the first network labelled itself.

    mien train parser preset=full out=runs/parser-first
    mien train parser preset=full faces=…/fairface_faces teacher=runs/parser-first/weights.safetensors \
        init=runs/parser-first/weights.safetensors out=runs/parser

and so on, with the last network as teacher and start (`mien weights info mien-parser` tells the rounds of the bundled
one).

Rendered heads have exact labels of all 19 classes and are drawn at the start. Nobody drew masks on the photographs of
FairFace (CC BY 4.0). Of those, `teacher` labels each pixel where it and its view of the mirror image agree with a
probability of `sure`; and the 68 points that come with the set give eyes, lips and the inside of the mouth as polygons,
where the teacher sees no glasses. What remains, and what lies outside of the chip, has no part in the loss.

Crops of rendered heads are cut by their true points, or, with `landmarks`, by those that the landmark network finds, as
in the verbs. The two differ most in turned heads, where `turned` draws more of them.

Loss: cross-entropy, and a Dice term over the classes present (Milletari et al., V-Net, 2016), for the small ones.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode
from mien.geometry.similarity import TEMPLATES
from mien.nn.inputs import to_input
from mien.nn.landmarks import Landmarks
from mien.nn.parser import CLASSES, MIRRORED, SIDE, Parser, both_ways
from mien.train import checkpoint
from mien.train.draws import Source
from mien.train.loop import Recipe
from mien.train.recipes.embedder import degrade, random_similarity
from mien.train.recipes.landmarks import points_found

if TYPE_CHECKING:
    from mien.data.heads import HeadParameters

Floats = NDArray[np.float32]
Masks = NDArray[np.uint8]

TEMPLATE = TEMPLATES["head128"]
UNKNOWN = 255
"""Class of pixels that nobody knows."""
_IN_THE_MIRROR = np.concatenate([np.array(MIRRORED), np.arange(len(MIRRORED), 256)]).astype(np.uint8)
SHARE = 0.35
"""Of the photographs among all samples, where there are some."""

POLYGONS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("l_eye", (36, 37, 38, 39, 40, 41)),
    ("r_eye", (42, 43, 44, 45, 46, 47)),
    ("u_lip", (48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60)),
    ("l_lip", (48, 60, 67, 66, 65, 64, 54, 55, 56, 57, 58, 59)),
    ("mouth", (60, 61, 62, 63, 64, 65, 66, 67)),
)
"""Classes that the 68 points bound, painted in this order."""


class Masked(Source):
    """Pictures with a mask each: `image` (128, 128, 3) uint8, `mask` (128, 128) uint8 with 255 where unknown.

    Parameters
    ----------
    pictures
        Encoded files, or pictures (H, W, 3) uint8.
    masks
        (n, H, W) or a list of (H, W) uint8 in the pictures' pixels.
    matrices
        (n, 2, 3) maps to the crop.
    strength
        Of the changes, 0 to 1.
    """

    def __init__(self, pictures: list[Any], masks: Any, matrices: Floats, *, strength: float) -> None:
        self.pictures, self.masks, self.matrices, self.strength = pictures, masks, matrices, strength

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        held = self.pictures[index]
        picture = decode(held) if held.ndim == 1 else held
        moved = np.vstack([random_similarity(rng, 2.0 * self.strength), [0, 0, 1]])
        # `random_similarity` turns about the middle of 112 px.
        centre = np.array([[1, 0, 8.0], [0, 1, 8.0], [0, 0, 1]])
        whole = centre @ moved @ np.linalg.inv(centre) @ np.vstack([self.matrices[index], [0, 0, 1]])
        border = (cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT_101)[int(rng.integers(3))]
        crop = cv2.warpAffine(picture, whole[:2], (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
        mask = cv2.warpAffine(
            self.masks[index], whole[:2], (SIDE, SIDE), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
            borderValue=UNKNOWN,
        )  # fmt: skip
        if np.linalg.det(whole[:2, :2]) < 0:
            mask = _IN_THE_MIRROR[mask]
        image = degrade(as_picture(crop), rng, self.strength)
        return {"image": image, "mask": np.asarray(mask, np.uint8)}


class Mixed(Source):
    """Samples of two sources, `share` of them from the second."""

    def __init__(self, first: Source, second: Source, share: float) -> None:
        self.first, self.second = first, second
        self.count = round(len(first) / (1 - share))

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if index < len(self.first):
            return self.first.sample(index, rng)
        return self.second.sample(int(rng.integers(len(self.second))), rng)


def rendered(
    count: int,
    *,
    seed: int,
    strength: float,
    size: int = 160,
    turned: float = 0.0,
    landmarks: nn.Module | None = None,
) -> Masked:
    """Heads with their masks of 19 classes.

    Parameters
    ----------
    count, seed
        How many, and which.
    strength
        Of the changes when drawn.
    size
        Side of the pictures, pixels.
    turned
        Share of the heads whose yaw is drawn evenly from -90 to 90 degrees; of the others few are profiles.
    landmarks
        A landmark network in eval mode whose points place the crops, as they do in the verbs; None: the true points,
        which lie elsewhere on turned heads.
    """
    from mien.data import heads
    from mien.geometry import similarity_from_points
    from mien.geometry.landmarks import five_from_68

    if tuple(heads.PARSING) != CLASSES:
        raise AssertionError("the rendered heads have other classes than the network")
    pictures: list[Any] = []
    masks: list[Masks] = []
    five = []
    for start in range(0, count, 256):
        some = turned_heads(min(256, count - start), seed=seed, start=start, share=turned)
        drawn = heads.render(some, size=size, what=("image", "landmarks", "parsing"))
        pictures += list(drawn.image)
        masks += list(np.asarray(drawn.parsing, np.uint8))
        points = np.asarray(drawn.landmarks_2d, np.float32)
        if landmarks is not None:
            points = points_found(landmarks, functools.partial(_row, drawn.image), points)
        five.append(five_from_68(points))
    matrices = np.asarray(similarity_from_points(np.concatenate(five), TEMPLATE), np.float32)
    return Masked(pictures, masks, matrices, strength=strength)


def turned_heads(count: int, *, seed: int, start: int, share: float) -> HeadParameters:
    """`mien.data.heads.sample`, in which the yaw of a `share` of all rows is drawn evenly from -90 to 90 degrees."""
    from mien.data import heads

    some = heads.sample(count, seed=seed, start=start)
    rng = np.random.default_rng([seed, start])
    yaw = np.where(rng.random(count) < share, rng.uniform(-90, 90, count), some.pose[:, 0])
    return some.with_(pose=np.column_stack([yaw, some.pose[:, 1:]]))


def _row(pictures: NDArray[np.uint8], row: int) -> Picture:
    return np.asarray(pictures[row])


def chips_with_points(root: Path, *, split: Any, count: int) -> tuple[list[Any], Floats, Floats]:
    """Files of FairFace's photographs (encoded bytes), their 68 points (n, 68, 2) and maps to the crop (n, 2, 3)."""
    from mien.data.sets import fairface_faces
    from mien.geometry import similarity_from_points
    from mien.geometry.landmarks import five_from_68

    chips = fairface_faces(root, split=split)
    chips = chips.take(np.flatnonzero(np.isfinite(chips.points).all((1, 2)))[:count])
    points = chips.points[:, :68, :2]
    matrices = np.asarray(similarity_from_points(five_from_68(points), TEMPLATE), np.float32)
    return [np.fromfile(file, np.uint8) for file in chips.files], points, matrices


def f1_by_points(network: nn.Module, root: Path, *, count: int) -> float:
    """Mean F1 of eyes, lips and the inside of the mouth against what the set's points bound, on held-out photographs.

    Points know neither glasses nor masks, so that no network reaches 1: a figure to compare networks by.
    """
    files, points, matrices = chips_with_points(root, split="validation", count=count)
    hits = np.zeros((len(POLYGONS), 2))
    for start in range(0, len(files), 64):
        rows = range(start, min(start + 64, len(files)))
        found = probabilities(network, [decode(files[row]) for row in rows], matrices[rows.start : rows.stop]).argmax(1)
        for guess, row in zip(found.numpy(), rows, strict=True):
            moved = np.asarray(points[row] @ matrices[row, :, :2].T + matrices[row, :, 2], np.float32)
            truth = painted(np.zeros((SIDE, SIDE), np.uint8), moved)
            for index, (name, _) in enumerate(POLYGONS):
                mine, true = guess == CLASSES.index(name), truth == CLASSES.index(name)
                hits[index] += (mine & true).sum(), mine.sum() + true.sum()
    return float((2 * hits[:, 0] / np.maximum(hits[:, 1], 1)).mean())


def labelled(
    root: Path, teacher: nn.Module, *, sure: float, count: int, strength: float, split: Any = "train"
) -> Masked:
    """Photographs of FairFace with what `teacher` and the points tell of their pixels.

    Parameters
    ----------
    root
        Folder of `fairface_faces`.
    teacher
        A parser in eval mode.
    sure
        Least probability of a pixel's class.
    count
        So many of the photographs, the first ones.
    strength
        Of the changes when drawn.
    split
        "train" or "validation".
    """
    files, points, matrices = chips_with_points(root, split=split, count=count)
    masks: list[Masks] = []
    for start in range(0, len(files), 64):
        rows = range(start, min(start + 64, len(files)))
        pictures = [decode(files[row]) for row in rows]
        probability = probabilities(teacher, pictures, matrices[rows.start : rows.stop])
        best, which = probability.max(1)
        guess = np.where(best.numpy() >= sure, which.numpy(), UNKNOWN).astype(np.uint8)
        for number, row in enumerate(rows):
            height, width = pictures[number].shape[:2]
            mask = cv2.warpAffine(
                guess[number], matrices[row], (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT, borderValue=UNKNOWN,
            )  # fmt: skip
            masks.append(with_polygons(np.asarray(mask, np.uint8), points[row]))
    return Masked(list(files), masks, matrices, strength=strength)


def with_polygons(mask: Masks, points: Floats) -> Masks:
    """`mask` (H, W) with the parts that 68 points (68, 2) bound painted in; eyes only where no glasses were seen.

    Mouths are painted only where the teacher saw something of one: under a mask the points are a guess.
    """
    shown = {name: CLASSES.index(name) for name in CLASSES}
    glasses = (mask == shown["eye_g"]).sum() > 0.002 * mask.size
    lips = np.isin(mask, [shown[name] for name in ("mouth", "u_lip", "l_lip")]).any()
    hidden = {name for name, _ in POLYGONS if (glasses if name.endswith("_eye") else not lips)}
    return painted(mask.copy(), points, without=hidden)


def painted(mask: Masks, points: Floats, *, without: Collection[str] = ()) -> Masks:
    """`mask` (H, W) itself, after the polygons of 68 points (68, 2) in its pixels were painted in."""
    for name, corners in POLYGONS:
        if name not in without:
            cv2.fillPoly(mask, [np.rint(points[list(corners)] * 16).astype(np.int32)], CLASSES.index(name), shift=4)
    return mask


@torch.no_grad()
def probabilities(network: nn.Module, pictures: list[Any], matrices: Floats) -> Tensor:
    """(n, 19, 128, 128) on the CPU: the mean of the softmax for the crops and for their mirror images."""
    device = next(network.parameters()).device
    crops = [
        cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for picture, matrix in zip(pictures, matrices, strict=True)
    ]
    images = to_input(torch.from_numpy(np.stack(crops)).to(device))
    return both_ways(network, images).float().cpu()


def parser_loss(logits: Tensor, mask: Tensor, *, dice: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy plus `dice` times the mean over present classes of one minus Dice; pixels of 255 don't count.

    Parameters
    ----------
    logits
        (B, 19, H, W).
    mask
        (B, H, W) integers.
    dice
        Weight of the second term.
    """
    truth = mask.long()
    known = truth != UNKNOWN
    entropy = F.cross_entropy(logits, torch.where(known, truth, -100), ignore_index=-100)
    probability = logits.softmax(1) * known[:, None]
    target = F.one_hot(torch.where(known, truth, 0), logits.shape[1]).movedim(3, 1) * known[:, None]
    both = (probability * target).sum((0, 2, 3))
    sizes = probability.sum((0, 2, 3)) + target.sum((0, 2, 3))
    present = target.sum((0, 2, 3)) > 0
    overlap = (1 - 2 * both / sizes.clamp_min(1e-6))[present].mean() if bool(present.any()) else logits.sum() * 0
    return entropy + dice * overlap, {"entropy": entropy.detach(), "dice": overlap.detach()}


def f1_of(network: nn.Module, held: Masked) -> float:
    """Mean F1 over the classes present, in the pixels of the crops, pictures unchanged."""
    hits = np.zeros((len(CLASSES), 3))
    for start in range(0, len(held), 64):
        rows = slice(start, start + 64)
        found = probabilities(network, held.pictures[rows], held.matrices[rows]).argmax(1).numpy()
        for number, row in enumerate(range(start, start + len(found))):
            mask = cv2.warpAffine(
                held.masks[row], held.matrices[row], (SIDE, SIDE), flags=cv2.INTER_NEAREST, borderValue=UNKNOWN
            )
            known = mask != UNKNOWN
            for index in range(len(CLASSES)):
                mine, true = (found[number] == index) & known, mask == index
                hits[index] += (mine & true).sum(), mine.sum(), true.sum()
    present = hits[:, 2] > 0
    f1 = 2 * hits[present, 0] / np.maximum(hits[present, 1] + hits[present, 2], 1)
    return float(f1.mean())


@dataclass(kw_only=True)
class ParserRecipe(Recipe):
    """Trains the parser; see the module.

    `heads` is the number of rendered heads, the share `turned` of them by any angle, and `checked` that of others that
    are measured on. `landmarks`, weights of that network in its usual sizes, places the heads as it does in the verbs.
    `faces` is the folder of `fairface_faces`, of which `photos` pictures are labelled by `teacher`, weights of a parser
    of the same sizes.
    """

    faces: str | None = None
    teacher: str | None = None
    landmarks: str | None = None
    widths: tuple[int, int, int] = (32, 64, 128)
    depths: tuple[int, int, int] = (2, 2, 2)
    fine: int = 16
    up: tuple[int, int, int] = (64, 48, 32)
    heads: int = 6000
    turned: float = 0.0
    photos: int = 8000
    checked: int = 256
    sure: float = 0.85
    strength: float = 0.7
    dice: float = 0.5

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"faces", "teacher", "landmarks"}
    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"checked"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"steps": 2000, "batch_size": 32, "lr": 2e-3, "ema": 0.998, "save_every": 200},
        "small": {"steps": 200, "batch_size": 32, "lr": 2e-3, "ema": 0.98, "warmup": 20, "heads": 400, "photos": 400},
    }

    def build(self) -> nn.Module:
        return Parser(widths=self.widths, depths=self.depths, fine=self.fine, up=self.up)

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, SIDE, SIDE)

    def source(self) -> Source:
        drawn = rendered(
            self.heads, seed=zlib.crc32(b"parser"), strength=self.strength, turned=self.turned,
            landmarks=self._placing(),
        )  # fmt: skip
        if self.faces is None:
            return drawn
        from mien.errors import OptionError

        if self.teacher is None:
            raise OptionError("photographs have no masks of their own", got="no teacher", expected="teacher=WEIGHTS")
        teacher = self.build()
        checkpoint.fill(teacher, Path(self.teacher))
        photos = labelled(Path(self.faces), teacher.eval(), sure=self.sure, count=self.photos, strength=self.strength)
        return Mixed(drawn, photos, SHARE)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return parser_loss(module(to_input(batch["image"])).float(), batch["mask"], dice=self.dice)

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """On what was not trained on: `f1`, mean F1 over the classes present on heads; `turned_f1`, the same on heads
        turned by any angle and placed by `landmarks`; `points_f1`, `f1_by_points`."""
        seed = zlib.crc32(b"parser, held out")
        found = {"f1": f1_of(network, rendered(self.checked, seed=seed, strength=0.0))}
        if (placing := self._placing()) is not None:
            turned = rendered(self.checked, seed=seed, strength=0.0, turned=1.0, landmarks=placing)
            found["turned_f1"] = f1_of(network, turned)
        if self.faces is not None:
            found["points_f1"] = f1_by_points(network, Path(self.faces), count=2 * self.checked)
        return found

    def _placing(self) -> nn.Module | None:
        if self.landmarks is None:
            return None
        network = Landmarks()
        checkpoint.fill(network, Path(self.landmarks))
        return network.eval()
