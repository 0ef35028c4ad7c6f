"""Training of the bundled reader: age, expression, appearance, covers.

    python scripts/ferplus_points.py --data …/ferplus --out runs/ferplus_points.npz
    mien train reader preset=full faces=…/fairface_faces expressions=…/ferplus points=runs/ferplus_points.npz \
        trunk=runs/embedder/weights.safetensors out=runs/reader

Three sources, none of which has all labels; what a picture does not tell has no part in the loss:

    FairFace (CC BY 4.0)       age group, gender and race group, for adults
    FER+ (no terms stated)     the votes of ten people for eight expressions, the training part only
    rendered heads             seven expressions, valence and arousal, appearance, covers; they are drawn at the start

Valence and arousal of a photograph of FER+ are the mean of the rendered heads' centres of its classes, weighted by the
votes: a weak label, without which those two would never have seen a photograph.

Losses. Age: cross-entropy against a Gaussian about the group, since a neighbour is half right. Expression:
cross-entropy against the votes (Barsoum et al., 2016). Appearance and covers: binary cross-entropy. Valence and
arousal: squared error. Gender, race group: cross-entropy.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode
from mien.faces import AGES, APPEARANCE, COVERS, EXPRESSIONS
from mien.geometry.similarity import TEMPLATES
from mien.nn.inputs import to_input
from mien.nn.reader import GENDERS, OUTPUTS, RACES, Reader, split
from mien.train import checkpoint
from mien.train.draws import Source
from mien.train.loop import Recipe
from mien.train.recipes.embedder import degrade, random_similarity

Floats = NDArray[np.float32]

TEMPLATE = TEMPLATES["chip112"]
SIDE = 112

CELEBA = {
    "bags_under_eyes": "Bags_Under_Eyes", "bald": "Bald", "bangs": "Bangs", "beard": "No_Beard",
    "black_hair": "Black_Hair", "blond_hair": "Blond_Hair", "brown_hair": "Brown_Hair", "eyeglasses": "Eyeglasses",
    "goatee": "Goatee", "gray_hair": "Gray_Hair", "heavy_makeup": "Heavy_Makeup", "mouth_open": "Mouth_Slightly_Open",
    "mustache": "Mustache", "receding_hairline": "Receding_Hairline", "rosy_cheeks": "Rosy_Cheeks",
    "sideburns": "Sideburns", "smiling": "Smiling", "wearing_earrings": "Wearing_Earrings",
    "wearing_hat": "Wearing_Hat", "wearing_lipstick": "Wearing_Lipstick",
}  # fmt: skip
"""Names of the appearance in CelebA's list; "beard" is the opposite of No_Beard."""

UNKNOWN = np.float32(np.nan)
FERPLUS_POINTS = np.array([[14.7, 18.4], [32.3, 18.4], [23.6, 27.9], [16.8, 36.5], [30.7, 36.5]], np.float32)
"""Five points of a usual picture of FER+, pixels of 48: the medians of what the bundled networks find."""
SPREAD = 0.6
"""Of the Gaussian about an age group, in groups."""
MIN_VOTES = 5
"""Of ten, for one of the eight expressions; with fewer a picture shows something else, or no face."""


def one_hot(value: str, names: tuple[str, ...]) -> Floats:
    """(n,) float32, 1 at the name."""
    return np.array([name == value for name in names], np.float32)


def age_label(group: str) -> Floats:
    """(6,) float32 of sum 1: a Gaussian about FairFace's age group."""
    index = AGES.index("70+" if group == "more than 70" else group)
    weight = np.exp(-0.5 * ((np.arange(len(AGES)) - index) / SPREAD) ** 2)
    return np.asarray(weight / weight.sum(), np.float32)


def appearance_label(attributes: NDArray[Any], names: tuple[str, ...]) -> Floats:
    """(n, 20) float32 from rows of CelebA's attributes (0 or 1) in the order of `names`."""
    columns = []
    for wanted in APPEARANCE:
        column = np.asarray(attributes[:, names.index(CELEBA[wanted])], np.float32)
        columns.append(1 - column if wanted == "beard" else column)
    return np.stack(columns, 1)


class Labelled(Source):
    """Pictures with what is known of them, cut, moved, mirrored and degraded when drawn.

    Parameters
    ----------
    pictures
        Encoded files, or pictures (H, W, 3) uint8.
    matrices
        (n, 2, 3) maps to the crop.
    labels
        Arrays (n, k) by the names of `OUTPUTS`, NaN where unknown.
    strength
        Of the changes, 0 to 1.
    """

    def __init__(self, pictures: list[Any], matrices: Floats, labels: dict[str, Floats], *, strength: float) -> None:
        self.pictures, self.matrices, self.labels, self.strength = pictures, matrices, labels, strength

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        held = self.pictures[index]
        picture = decode(held) if held.ndim == 1 else held
        moved = np.vstack([random_similarity(rng, 1.5 * self.strength), [0, 0, 1]])
        placed = np.vstack([self.matrices[index], [0, 0, 1]])
        border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
        crop = cv2.warpAffine(picture, (moved @ placed)[:2], (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=border)
        image = degrade(as_picture(crop), rng, self.strength)
        if rng.random() < 0.15 * self.strength:
            image = np.repeat(as_picture(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)
        return {"image": image} | {name: values[index] for name, values in self.labels.items()}


class Joined(Source):
    """Several sources one after the other, each `repeat` times in an epoch."""

    def __init__(self, parts: list[tuple[Source, int]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) * repeat for part, repeat in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        which = int(np.searchsorted(self.ends, index, side="right"))
        part, _ = self.parts[which]
        start = int(self.ends[which - 1]) if which else 0
        return part.sample((index - start) % len(part), rng)


def _labels(count: int, **known: Floats) -> dict[str, Floats]:
    return {
        name: np.asarray(known.get(name, np.full((count, len(names)), UNKNOWN)), np.float32)
        for name, names in OUTPUTS.items()
    }


def ages(root: Path, split_name: str, *, strength: float) -> Labelled:
    """FairFace: age, gender, race group; `split_name` "train" or "validation"."""
    from mien.data.sets import fairface_faces
    from mien.geometry import similarity_from_points
    from mien.geometry.landmarks import five_from_68

    chips = fairface_faces(root, split=cast(Any, split_name))
    chips = chips.take(np.flatnonzero(np.isfinite(chips.points).all((1, 2))))
    matrices = similarity_from_points(five_from_68(chips.points[:, :68, :2]), TEMPLATE)
    labels = _labels(
        len(chips),
        age=np.stack([age_label(str(age)) for age in chips.age]),
        gender=np.stack([one_hot(str(one), GENDERS) for one in chips.gender]),
        race=np.stack([one_hot(str(one), RACES) for one in chips.race]),
    )
    return Labelled([np.fromfile(f, np.uint8) for f in chips.files], np.asarray(matrices, np.float32), labels,
                    strength=strength)  # fmt: skip


def expressions(root: Path, points: Path | None, part: str, *, strength: float) -> tuple[Labelled, NDArray[np.int64]]:
    """FER+: votes and weak affect; and the class of most votes, -1 where it is none of the eight.

    Parameters
    ----------
    root
        Folder of the set.
    points
        What ``scripts/ferplus_points.py`` wrote: five points of each picture. None: `FERPLUS_POINTS` for all.
    part
        "train": nine tenths of the training part; "choose": the other tenth; "valid": the validation part.
    strength
        Of the changes, 0 to 1.
    """
    from mien.data.heads import AFFECT as CENTRES
    from mien.data.sets import ferplus, held_out
    from mien.geometry import similarity_from_points

    faces = ferplus(root)
    if points is None:
        five = np.tile(FERPLUS_POINTS, (len(faces), 1, 1))
    else:
        with np.load(points, allow_pickle=False) as stored:
            place = {str(name): row for row, name in enumerate(stored["files"])}
            five = stored["points5"][[place[name] for name in faces.names]].astype(np.float32)
    kept_out = held_out(faces.names, 0.1)
    training = faces.split == "train"
    chosen = {"train": training & ~kept_out, "choose": training & kept_out, "valid": ~training}[part]
    votes = faces.votes[:, [faces.vote_names.index(name) for name in EXPRESSIONS]].astype(np.float32)
    most = np.where(faces.votes.argmax(1) < len(EXPRESSIONS), votes.argmax(1), -1)
    if part == "train":
        chosen = chosen & (votes.sum(1) >= MIN_VOTES)
    rows = np.flatnonzero(chosen)
    share = votes[rows] / np.maximum(votes[rows].sum(1, keepdims=True), 1)
    # The set's list has contempt where the heads have none: half way from disgust to neutral.
    centres = np.array(
        [CENTRES.get(name, (CENTRES["disgust"][0] / 2, CENTRES["disgust"][1] / 2)) for name in EXPRESSIONS], np.float32
    )
    matrices = np.asarray(similarity_from_points(five[rows], TEMPLATE), np.float32)
    files = [np.fromfile(faces.files[row], np.uint8) for row in rows]
    labels = _labels(len(rows), expression=share, affect=share @ centres)
    return Labelled(files, matrices, labels, strength=strength), most[rows]


def rendered(count: int, *, seed: int, strength: float, size: int = 144) -> Labelled:
    """Heads: expression, affect, appearance, covers."""
    from mien.data import heads
    from mien.geometry import similarity_from_points
    from mien.geometry.landmarks import five_from_68

    pictures: list[Picture] = []
    five, known = [], []
    for start in range(0, count, 256):
        some = heads.sample(min(256, count - start), seed=seed, start=start)
        drawn = heads.render(some, size=size, what=("image", "landmarks"))
        pictures += list(drawn.image)
        five.append(five_from_68(drawn.landmarks_2d))
        seven = np.array([EXPRESSIONS.index(name) for name in heads.EXPRESSIONS])
        kind = np.asarray(heads.OCCLUDERS)[some.occluder]
        # What a mask hides cannot be asked for.
        hidden = (kind == "mask")[:, None]
        look = appearance_label(heads.attributes(some), heads.ATTRIBUTES)
        below = np.isin(APPEARANCE, ("beard", "goatee", "mustache", "mouth_open", "smiling", "wearing_lipstick"))
        known.append(
            _labels(
                len(drawn.image),
                expression=np.where(
                    hidden, UNKNOWN, np.eye(len(EXPRESSIONS), dtype=np.float32)[seven[some.expression]]
                ),
                affect=np.where(hidden, UNKNOWN, np.stack([some.valence, some.arousal], 1)),
                appearance=np.where(hidden & below, UNKNOWN, look),
                covers=np.stack([kind == name for name in COVERS], 1).astype(np.float32),
            )
        )
    matrices = np.asarray(similarity_from_points(np.concatenate(five), TEMPLATE), np.float32)
    labels = {name: np.concatenate([part[name] for part in known]) for name in OUTPUTS}
    return Labelled(list(pictures), matrices, labels, strength=strength)


def reader_loss(answers: dict[str, Tensor], labels: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Weighted losses by name, each a mean over the labels that are known in the batch; 0 where none is.

    Parameters
    ----------
    answers
        (B, k) raw, by the names of `OUTPUTS`.
    labels
        The same shapes: distributions (age, expression, gender, race), 0 or 1 (appearance, covers), numbers (affect).
        NaN is unknown; of a distribution all or none.
    weights
        Factors by name.
    """
    losses: dict[str, Tensor] = {}
    for name, found in answers.items():
        truth = labels[name]
        known = torch.isfinite(truth)
        filled = torch.nan_to_num(truth)
        if name in ("appearance", "covers"):
            each = F.binary_cross_entropy_with_logits(found, filled, reduction="none")
        elif name == "affect":
            each = (found - filled) ** 2
        else:
            each = -filled * F.log_softmax(found, dim=1)
        rows = (
            known.any(1).sum().clamp_min(1)
            if name not in ("appearance", "covers", "affect")
            else known.sum().clamp_min(1)
        )
        losses[name] = weights[name] * (each * known).sum() / rows
    return losses


@dataclass(kw_only=True)
class ReaderRecipe(Recipe):
    """Trains the reader. `faces` and `expressions` are the folders of `fairface_faces` and `ferplus`; see the module.

    `points` is the file of ``scripts/ferplus_points.py``; without it the usual place of a face stands for all. `trunk`
    are weights of an embedder of the same sizes, whose trunk the training starts from. `heads` is the number of
    rendered heads, `repeat` how many times a picture of FER+ comes in an epoch, since there are few.
    """

    faces: str
    expressions: str
    points: str | None = None
    trunk: str | None = None
    widths: tuple[int, ...] = (64, 96, 160)
    depths: tuple[int, ...] = (1, 3, 3)
    head: int = 256
    dropout: float = 0.2
    heads: int = 6000
    repeat: int = 4
    strength: float = 0.6
    age: float = 1.0
    expression: float = 1.0
    affect: float = 0.5
    appearance: float = 2.0
    covers: float = 1.0
    gender: float = 0.3
    race: float = 0.3

    PLACES: ClassVar[frozenset[str]] = Recipe.PLACES | {"faces", "expressions", "points", "trunk"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"steps": 4000, "batch_size": 64, "lr": 1e-3, "ema": 0.998, "save_every": 200},
        "small": {
            "steps": 300, "batch_size": 64, "lr": 2e-3, "ema": 0.99, "warmup": 30, "heads": 500,
            "widths": (32, 64, 128), "depths": (1, 1, 1), "head": 64,
        },
    }  # fmt: skip

    @property
    def _points(self) -> Path | None:
        return None if self.points is None else Path(self.points)

    def build(self) -> nn.Module:
        return Reader(widths=self.widths, depths=self.depths, head=self.head, dropout=self.dropout)

    def begin(self, module: nn.Module) -> None:
        if self.trunk is not None:
            checkpoint.fill_part(cast(Reader, module).trunk, Path(self.trunk), "trunk.")

    def source(self) -> Source:
        photos = ages(Path(self.faces), "train", strength=self.strength)
        votes, _ = expressions(Path(self.expressions), self._points, "train", strength=self.strength)
        parts: list[tuple[Source, int]] = [(photos, 1), (votes, self.repeat)]
        if self.heads:
            parts.append((rendered(self.heads, seed=zlib.crc32(b"reader"), strength=self.strength), 1))
        return Joined(parts)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        answers = split(module(to_input(batch["image"])).float())
        parts = reader_loss(answers, batch, {name: getattr(self, name) for name in OUTPUTS})
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Age on the held-out tenth of FairFace, expression on a tenth of FER+'s training part, neither trained on."""
        figures: dict[str, float] = {}
        held = ages(Path(self.faces), "validation", strength=0.0)
        if len(held):
            away = (answers_of(network, held)["age"].argmax(1) - torch.from_numpy(held.labels["age"]).argmax(1)).abs()
            figures |= {"age": float((away == 0).float().mean()), "age_within_one": float((away <= 1).float().mean())}
        votes, most = expressions(Path(self.expressions), self._points, "choose", strength=0.0)
        some = most >= 0
        if some.any():
            found = answers_of(network, votes)["expression"].argmax(1).numpy()
            figures["expression"] = float((found[some] == most[some]).mean())
        return figures


@torch.no_grad()
def answers_of(network: nn.Module, source: Labelled, *, mirror: bool = True) -> dict[str, Tensor]:
    """Raw answers (n, k) by name for all pictures of a source of strength 0; the mean with the mirror images'."""
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(source), 128):
        rows = range(start, min(start + 128, len(source)))
        crops = []
        for row in rows:
            held = source.pictures[row]
            picture = decode(held) if held.ndim == 1 else held
            crops.append(cv2.warpAffine(picture, source.matrices[row], (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE))
        images = to_input(torch.from_numpy(np.stack(crops)).to(device))
        found = network(images)
        parts.append((0.5 * (found + network(images.flip(3))) if mirror else found).float().cpu())
    return split(torch.cat(parts))
