"""What each trick of the embedder's training gives: short runs that differ in one thing, on CelebA pairs.

    python scripts/ablate_embedder.py --faces DIR/fairface_faces --pairs DIR/celeba10k --out runs/ablation

Every run trains the same small network on the same number of pictures; the figures are the accuracy (best threshold)
and the area under the ROC curve on 4,000 pairs of CelebA, a set that no weight is trained on and that serves for
choosing. Rows go to results/embedder_ablation.csv; those that are there already are not made again.

The re-embedded setting needs dlib's network itself (extra ``bench``): each picture is worsened once, and the teacher
looks at the worsened picture in place of vouching for the original.
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
    "degraded copies, fixed teacher targets": {"variant": "fixed"},
    "degraded copies, re-embedded teacher targets": {"variant": "re-embedded"},
    "bfloat16 in place of float32": {"precision": "bf16-mixed"},
}
REFERENCE = next(iter(SETTINGS))


class Unmirrored(FairFaceChips):
    """Crops of which none is mirrored."""

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        chip = cv2.imdecode(self.bytes[index], cv2.IMREAD_COLOR_RGB)
        angle, scale = rng.normal(0, np.radians(6) * self.strength), np.exp(rng.normal(0, 0.05 * self.strength))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([55.5, 55.5])
        shift = centre + rng.normal(0, 2.5 * self.strength, 2) - turn @ centre
        jitter = np.concatenate([turn, shift[:, None]], 1).astype(np.float32)
        matrix = similarity.compose(self.matrices[index], jitter)
        border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
        crop = cv2.warpAffine(chip, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=border)
        return {"image": degrade(np.asarray(crop, np.uint8), rng, self.strength), "index": index}


class DegradedCopies(Source):
    """One strongly degraded copy of each picture, then the pictures themselves: twice as many, each with its target.

    `chips` (n, 128, 128, 3) are the copies as the teacher saw them.
    """

    def __init__(self, source: FairFaceChips, copies: NDArray[np.uint8]) -> None:
        self.source, self.copies = source, copies

    def __len__(self) -> int:
        return 2 * len(self.source)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        n = len(self.source)
        if index < n:
            return self.source.sample(index, rng)
        crop = cv2.warpAffine(self.copies[index - n], self.source.matrices[index - n], (112, 112))
        crop = np.asarray(crop[:, ::-1] if rng.random() < 0.5 else crop, np.uint8)
        return {"image": np.ascontiguousarray(crop), "index": index}


def degraded_copies(source: FairFaceChips) -> NDArray[np.uint8]:
    """(n, 128, 128, 3): every chip once degraded, by its own seed."""
    return np.stack([
        degrade(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8), np.random.default_rng((7, row)), 2.0)
        for row, data in enumerate(source.bytes)
    ])  # fmt: skip


def dlib_vectors(chips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 128) of dlib's network for chips (n, 128, 128, 3), the mean with the mirror image's."""
    import dlib

    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise SystemExit("face_recognition_models is not installed: pip install 'mien[bench]'")
    model = Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
    network = dlib.face_recognition_model_v1(str(model))
    vectors = []
    for start in range(0, len(chips), 64):
        large = [cv2.resize(c, (150, 150), interpolation=cv2.INTER_LINEAR) for c in chips[start : start + 64]]
        both = [network.compute_face_descriptor(crops, 0) for crops in (large, [c[:, ::-1].copy() for c in large])]
        vectors.append(np.array(both, np.float32).mean(0))
        if start % 6400 == 0:
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
        copies = degraded_copies(usual)
        if self.variant == "fixed":
            vectors = usual.vectors
        else:
            kept = Path(self.out).parent / "re-embedded.npy"
            if not kept.exists():
                np.save(kept, dlib_vectors(copies))
            vectors = np.load(kept)
        self._targets = whitened_targets(np.concatenate([usual.vectors, vectors]), self.whiten)
        return DegradedCopies(usual, copies)


def main() -> None:
    """Makes the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", required=True, help="folder of fairface_faces")
    parser.add_argument("--pairs", required=True, help="folder of celeba10k")
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=450)
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
