"""The bundled embedder: distilled from dlib's face recognition network on FairFace.

Data: `fairface_faces` (CC BY 4.0), with the 128 numbers that dlib's `dlib_face_recognition_resnet_model_v1` (CC0) gives
for every picture. The student never sees an identity label, since there is none: each picture's teacher vector is its
own class.

Targets. Most of a teacher vector is common to all faces (mean norm 1.29, the rest 0.55), so vectors are centred, turned
into principal axes, scaled by ``variance ** (-whiten / 2)`` and normalised.

Loss, for a student vector z and targets t_1 … t_n of *all* n pictures (they are fixed, so a whole epoch fits in one
matrix product):

    bank       cross-entropy of softmax_j(s z·t_j) against the picture's own index
    relation   KL(softmax_j(r t·t_j) || softmax_j(r z·t_j)): the teacher's likeness to everybody, kept
    cosine     1 - z·t
    contrast   symmetric in-batch cross-entropy with learned temperature (CLIP), the weaker relative of `bank`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, decode, read, recoded
from mien.geometry.similarity import TEMPLATES
from mien.nn.embedder import Embedder
from mien.nn.inputs import to_input
from mien.train.draws import Source
from mien.train.loop import Recipe

TEMPLATE = TEMPLATES["chip112"]
"""Five points of the crop, pixels: the mean points of the set's own chips. The teacher saw exactly this region, so the
student does too; the ArcFace template shows a wider one that the chips do not cover."""


class Student(nn.Module):
    """Embedder with the learned temperature of the contrastive terms."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network = network
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 112, 112) -> unit embeddings (B, d) and the temperature's inverse, at most 64."""
        return F.normalize(self.network(images), dim=1), self.log_scale.exp().clamp(max=64.0)


def whitened_targets(vectors: NDArray[np.floating[Any]], strength: float) -> Tensor:
    """Teacher vectors (n, d) centred, in principal axes scaled by ``variance ** (-strength / 2)``, normalised.

    `strength` 0 leaves the spread as it is, 1 whitens fully; variances are floored at 1e-4 of the largest, since the
    last axes of the teacher are noise.
    """
    centred = torch.as_tensor(np.asarray(vectors, np.float32))
    centred = centred - centred.mean(0)
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    variance = variance.clamp(min=1e-4 * float(variance.max()))
    return F.normalize(centred @ (axes * variance ** (-strength / 2)), dim=1)


def distillation_loss(
    z: Tensor, scale: Tensor, index: Tensor, targets: Tensor, *, bank: float, relation: float, cosine: float,
    contrast: float, sharpness: float,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Weighted sum of the four terms of the module's docstring.

    Parameters
    ----------
    z
        Unit student embeddings (B, d).
    scale
        Scalar, the learned inverse temperature.
    index
        (B,) int64, each sample's row in `targets`.
    targets
        (n, d) unit target vectors of all pictures.
    bank, relation, cosine, contrast
        Weights of the terms; a term of weight 0 is not computed.
    sharpness
        Fixed inverse temperature r of the relation term.
    """
    own = targets[index]
    total = z.new_zeros(())
    parts: dict[str, Tensor] = {"cos": (z * own).sum(1).mean().detach(), "scale": scale.detach()}
    likeness = z @ targets.T if bank or relation else None
    if bank and likeness is not None:
        parts["bank"] = F.cross_entropy(scale * likeness, index)
        total = total + bank * parts["bank"]
    if relation and likeness is not None:
        teacher = F.softmax(sharpness * own @ targets.T, dim=1)
        parts["relation"] = F.kl_div(F.log_softmax(sharpness * likeness, dim=1), teacher, reduction="batchmean")
        total = total + relation * parts["relation"]
    if cosine:
        total = total + cosine * (1 - (z * own).sum(1)).mean()
    if contrast:
        logits, label = scale * z @ own.T, torch.arange(len(z), device=z.device)
        parts["contrast"] = 0.5 * (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label))
        total = total + contrast * parts["contrast"]
    return total, {k: v.detach() for k, v in parts.items()}


def random_similarity(rng: np.random.Generator, strength: float) -> NDArray[np.float32]:
    """(2, 3) map of a 112 px crop onto a slightly turned, scaled, shifted, perhaps mirrored one.

    At strength 1: 6 degrees, 5 % and 2.5 px, which is about twice the detector's own noise.
    """
    angle, scale = rng.normal(0, math.radians(6) * strength), math.exp(rng.normal(0, 0.05 * strength))
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    turn = np.array([[cos, -sin], [sin, cos]])
    if rng.random() < 0.5:
        turn[0] *= -1
    centre = np.array([55.5, 55.5])
    shift = centre + rng.normal(0, 2.5 * strength, 2) - turn @ centre
    return np.concatenate([turn, shift[:, None]], 1).astype(np.float32)


def degrade(image: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Low resolution, blur, JPEG, grey, light and colour, a covered patch; each with a chance times `strength`."""
    draw = rng.random()
    if draw < 0.2 * strength:
        side = int(rng.integers(20, 80))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = as_picture(cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR))
    elif draw < 0.3 * strength:
        image = as_picture(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5)))
    if rng.random() < 0.2 * strength:
        image = recoded(image, int(rng.integers(20, 80)))
    if rng.random() < 0.1 * strength:
        image = np.repeat(as_picture(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)
    if rng.random() < 0.7 * strength:
        # Brightness and channel gains, then contrast about the mean, folded into one table per channel.
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.92, 1.08, 3)
        contrast, offset = rng.uniform(0.6, 1.4), rng.uniform(-20, 20)
        mean = float(image.mean())
        levels = np.arange(256)[:, None] * gain * contrast + mean * (1 - contrast) + offset
        image = as_picture(cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[:, None, :]))
    if rng.random() < 0.2 * strength:
        height, width = rng.integers(10, 45, 2)
        top, left = rng.integers(0, image.shape[0] - height), rng.integers(0, image.shape[1] - width)
        image = image.copy()
        image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return image


class FairFaceChips(Source):
    """Chips with a teacher vector and landmarks: crops, and their index into the targets.

    JPEG bytes are held in memory (150 MB) and decoded when drawn: faster than the disk, a tenth of the pixels' size.
    """

    def __init__(self, root: Path, *, strength: float) -> None:
        from mien.data.sets import fairface_faces
        from mien.geometry import similarity_from_points
        from mien.geometry.landmarks import five_from_68

        chips = fairface_faces(root)
        usable = np.flatnonzero(~np.isnan(chips.points).any((1, 2)))
        self.files = [chips.files[i] for i in usable]
        self.vectors = chips.embeddings[usable]
        self.matrices = similarity_from_points(five_from_68(chips.points[usable][:, :68, :2]), TEMPLATE)
        self.bytes = [np.fromfile(file, np.uint8) for file in self.files]
        self.strength = strength

    def __len__(self) -> int:
        return len(self.bytes)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        chip = decode(self.bytes[index])
        jitter = np.vstack([random_similarity(rng, self.strength), [0, 0, 1]])
        aligned = np.vstack([self.matrices[index], [0, 0, 1]])
        # What lies outside the chip is unknown: half the time black, half the time smeared, so neither is a cue.
        border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
        crop = cv2.warpAffine(chip, (jitter @ aligned)[:2], (112, 112), flags=cv2.INTER_LINEAR, borderMode=border)
        return {"image": degrade(as_picture(crop), rng, self.strength), "index": index}


@dataclass(kw_only=True)
class EmbedderRecipe(Recipe):
    """Distils the embedder. `data` is the folder of `fairface_faces`; `validation`, that of `celeba10k`, if any.

    CelebA serves only to compare settings (its figures are printed, nothing is trained on it).
    """

    data: str
    validation: str | None = None
    widths: tuple[int, ...] = (64, 96, 160)
    depths: tuple[int, ...] = (1, 3, 3)
    dim: int = 128
    whiten: float = 0.5
    bank: float = 1.0
    relation: float = 0.0
    cosine: float = 1.0
    contrast: float = 0.0
    sharpness: float = 20.0
    scale: float = 10.0
    strength: float = 1.0

    FREE: ClassVar[frozenset[str]] = Recipe.FREE | {"validation"}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"steps": 4000, "batch_size": 128, "lr": 2e-3, "ema": 0.999, "save_every": 200},
        "small": {
            "steps": 450,
            "batch_size": 128,
            "lr": 2e-3,
            "ema": 0.995,
            "widths": (32, 64, 128),
            "depths": (2, 3, 2),
        },
    }

    def build(self) -> nn.Module:
        return Student(Embedder(widths=self.widths, depths=self.depths, dim=self.dim), self.scale)

    def source(self) -> Source:
        chips = FairFaceChips(Path(self.data), strength=self.strength)
        self._targets = whitened_targets(chips.vectors, self.whiten)
        return chips

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        z, scale = module(to_input(batch["image"]))
        self._targets = self._targets.to(z.device)
        weights = {k: getattr(self, k) for k in ("bank", "relation", "cosine", "contrast", "sharpness")}
        return distillation_loss(z.float(), scale, batch["index"], self._targets, **weights)

    def deploy(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, Student)
        return module.network

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Verification on 4,000 pairs of CelebA (2,000 of one person each), cut by the set's fixed alignment."""
        if self.validation is None:
            return {}
        from mien.metrics import auc

        crops, first, second, same = celeba_pairs(Path(self.validation), seed=0)
        device = next(network.parameters()).device
        z = torch.cat(
            [
                F.normalize(network(to_input(torch.from_numpy(part).to(device))), dim=1).cpu()
                for part in np.split(crops, range(128, len(crops), 128))
            ]
        )
        scores = (z[first] * z[second]).sum(1).numpy()
        order = np.argsort(-scores)
        hits = np.cumsum(same[order]) + (~same).sum() - np.cumsum(~same[order])
        return {"celeba_accuracy": float(hits.max() / len(same)), "celeba_auc": float(auc(scores, same))}


def celeba_pairs(
    root: Path, *, seed: int, pairs: int = 2000
) -> tuple[Picture, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Crops (m, 112, 112, 3) and `pairs` same and `pairs` different pairs of them, drawn by `seed`.

    One same pair a person, so there are fewer where fewer people have two pictures. The pictures are aligned to fixed
    eye positions at the source, so no detector is needed.
    """
    from mien.data.sets import celeba10k
    from mien.geometry import similarity_from_points

    people = celeba10k(root)
    eyes_nose_mouth = np.array([[[34.5, 56.0], [54.0, 56.0], [44.25, 66.5], [36.0, 76.5], [52.5, 76.5]]], np.float32)
    matrix = similarity_from_points(eyes_nose_mouth, TEMPLATE)[0]
    rng = np.random.default_rng(seed)
    by_person: dict[int, list[int]] = {}
    for row, person in enumerate(people.identity):
        by_person.setdefault(int(person), []).append(row)
    several = [rows for rows in by_person.values() if len(rows) > 1]
    pairs = min(pairs, len(several))
    chosen = [rng.choice(several[k], 2, replace=False) for k in rng.permutation(len(several))[:pairs]]
    while len(chosen) < 2 * pairs:
        two = rng.integers(len(people.identity), size=2)
        if people.identity[two[0]] != people.identity[two[1]]:
            chosen.append(two)
    used, flat = np.unique(np.array(chosen), return_inverse=True)
    first, second = flat.reshape(-1, 2).T
    pictures = (read(people.files[row]) for row in used)
    crops = np.stack([cv2.warpAffine(p, matrix, (112, 112), borderMode=cv2.BORDER_REPLICATE) for p in pictures])
    return as_picture(crops), first, second, np.arange(2 * pairs) < pairs
