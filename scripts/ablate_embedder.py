"""What each trick of the embedder's training gives: short runs that differ in one thing, on CelebA pairs.

    python scripts/ablate_embedder.py --faces DIR/fairface_faces --pairs DIR/celeba10k --out runs/ablation

Every run trains the same small network on the same number of pictures; the figures are the accuracy (best threshold)
and the area under the ROC curve on 4,000 pairs of CelebA, a set that no weight is trained on and that serves for
choosing. Rows go to results/embedder_ablation.csv; those that are there already are not made again.

The last three compare augmentation with fixed teacher targets to re-embedded ones on 3,000 pictures: dlib's network
(extra ``bench``) takes some 100 ms a picture, which rules it out for all of them. Each of the 3,000 is degraded once;
the copy's target is the original's vector, or what the teacher makes of the copy itself.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.data.pixels import decode
from mien.geometry import similarity
from mien.train.draws import Source
from mien.train.loop import fit
from mien.train.recipes.embedder import EmbedderRecipe, FairFaceChips, degrade, whitened_targets

TABLE = Path(__file__).parents[1] / "results" / "embedder_ablation.csv"
NETWORK = {"widths": (32, 48, 96), "depths": (1, 1, 1)}
SETTINGS: dict[str, dict[str, Any]] = {
    "reference: bank + cosine": {},
    "feature distillation alone: cosine": {"bank": 0.0},
    "in-batch contrast in place of the bank": {"bank": 0.0, "contrast": 1.0},
    "relational distillation alone": {"bank": 0.0, "cosine": 0.0, "relation": 1.0},
    "relational distillation added": {"relation": 1.0},
    "targets not whitened": {"whiten": 0.0},
    "targets fully whitened": {"whiten": 1.0},
    "no jitter of crops, no degradation": {"strength": 0.0},
    "no mirroring": {"variant": "unmirrored"},
    "bfloat16 in place of float32": {"precision": "bf16-mixed"},
    "3,000 pictures": {"variant": "few"},
    "3,000 pictures and degraded copies, fixed targets": {"variant": "fixed"},
    "3,000 pictures and degraded copies, re-embedded targets": {"variant": "re-embedded"},
}
FEW = 3000


class Unmirrored(FairFaceChips):
    """Crops of which none is mirrored."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        chip = decode(self.bytes[index])
        angle, scale = rng.normal(0, np.radians(6) * self.strength), np.exp(rng.normal(0, 0.05 * self.strength))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([55.5, 55.5])
        shift = centre + rng.normal(0, 2.5 * self.strength, 2) - turn @ centre
        jitter = np.concatenate([turn, shift[:, None]], 1).astype(np.float32)
        matrix = similarity.compose(self.matrices[index], jitter)
        border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
        crop = cv2.warpAffine(chip, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=border)
        return {"image": degrade(np.asarray(crop, np.uint8), rng, self.strength), "index": index}


class Few(Source):
    """The first `FEW` pictures, and perhaps a degraded copy of each after them.

    `copies` (FEW, 128, 128, 3) are chips as a teacher sees them; none for the pictures alone.
    """

    def __init__(self, source: FairFaceChips, copies: NDArray[np.uint8]) -> None:
        self.source, self.copies = source, copies

    def __len__(self) -> int:
        return FEW + len(self.copies)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if index < FEW:
            return self.source.sample(index, rng)
        crop = cv2.warpAffine(self.copies[index - FEW], self.source.matrices[index - FEW], (112, 112))
        crop = np.asarray(crop[:, ::-1] if rng.random() < 0.5 else crop, np.uint8)
        return {"image": np.ascontiguousarray(crop), "index": index}


def degraded_copies(source: FairFaceChips) -> NDArray[np.uint8]:
    """(FEW, 128, 128, 3): the first chips, each degraded once, by its own seed."""
    return np.stack([
        degrade(decode(data), np.random.default_rng((7, row)), 2.0) for row, data in enumerate(source.bytes[:FEW])
    ])  # fmt: skip


def dlib_vectors(chips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 128) of dlib's network for chips (n, 128, 128, 3)."""
    import dlib

    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise SystemExit("face_recognition_models is not installed: pip install 'mien[bench]'")
    model = Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
    network = dlib.face_recognition_model_v1(str(model))
    vectors = []
    for start in range(0, len(chips), 50):
        large = [cv2.resize(chip, (150, 150), interpolation=cv2.INTER_LINEAR) for chip in chips[start : start + 50]]
        vectors.append(np.array(network.compute_face_descriptor(large, 0), np.float32))
        if start % 500 == 0:
            print(f"re-embedded {start} of {len(chips)}", flush=True)
    return np.concatenate(vectors)


@dataclass(kw_only=True)
class Ablation(EmbedderRecipe):
    """The recipe with the variants that are no option of it."""

    variant: str = "usual"

    def source(self) -> Source:
        usual = super().source()
        assert isinstance(usual, FairFaceChips)
        if self.variant == "unmirrored":
            return Unmirrored(Path(self.data), strength=self.strength)
        if self.variant == "usual":
            return usual
        originals = usual.vectors[:FEW]
        if self.variant == "few":
            self._targets = whitened_targets(originals, self.whiten)
            return Few(usual, np.empty((0, 128, 128, 3), np.uint8))
        copies, vectors = degraded_copies(usual), originals
        if self.variant == "re-embedded":
            kept = Path(self.out).parent / "re-embedded.npy"
            if not kept.exists():
                np.save(kept, dlib_vectors(copies))
            vectors = np.load(kept)
        self._targets = whitened_targets(np.concatenate([originals, vectors]), self.whiten)
        return Few(usual, copies)


def main() -> None:
    """Makes the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, help="folder of fairface_faces")
    parser.add_argument("--pairs", required=True, help="folder of celeba10k")
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each setting")
    options = parser.parse_args()
    header = ["setting", "seed", "steps", "batch", "accuracy", "auc", "seconds", "date"]
    rows = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
    done = {(row["setting"], int(row["seed"])) for row in rows}
    if not TABLE.exists():
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(",".join(header) + "\n")
    for seed in range(options.seeds):
        for number, (name, changed) in enumerate(SETTINGS.items()):
            if (name, seed) in done:
                continue
            began = time.perf_counter()
            recipe = Ablation(
                data=options.faces, validation=options.pairs, out=f"{options.out}/{number}-{seed}", seed=seed,
                steps=options.steps, batch_size=128, lr=2e-3, ema=0.99, threads=options.threads, **NETWORK, **changed,
            )  # fmt: skip
            figures = fit(recipe).figures
            row = [
                name, seed, recipe.steps, recipe.batch_size, f"{figures['celeba_accuracy']:.4f}",
                f"{figures['celeba_auc']:.4f}", f"{time.perf_counter() - began:.0f}", datetime.date.today(),
            ]  # fmt: skip
            with TABLE.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(*row, sep="\t", flush=True)


if __name__ == "__main__":
    main()
