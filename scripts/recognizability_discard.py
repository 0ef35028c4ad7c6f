"""Does the recognizability index foretell errors better than other scores? Error versus discard at mixed resolution.

    python scripts/recognizability_discard.py --data FOLDER --out runs/discard

The bundled embedder is fine-tuned by ``mien train recognizability`` on the 250 people of CFP, at sides of 8 to 112 px,
and compared on rendered heads and on folds 1 and 2 of LFW, none of which it was trained on. Every picture is shown at a
side drawn from 8 to 112 px, each factor as likely as another. All pictures are compared with all, the threshold is that
of FMR 1e-2, and genuine pairs go by the worse of their two pictures. Every score judges the same embeddings.

The rows go to results/recognizability_discard.csv, the pictures to docs/img/recognizability_*; they show rendered heads
only. Stability is not cut to 0 to 1 here, so that no pictures have equal scores; sharpness is the variance of the
Laplacian.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import argparse
import csv
import datetime
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from mien.claims import _people
from mien.data import sets
from mien.data.low_resolution import at_pixels
from mien.data.pixels import Picture
from mien.media.plots import COLOURS, DASHES, DOTS, INK, LINE, SOFT
from mien.metrics import error_versus_discard, threshold_at_fmr
from mien.nn.inputs import to_input
from mien.nn.recognizability import Recognizer, ers
from mien.train import checkpoint
from mien.train.loop import fit
from mien.train.recipes.recognizability import RecognizabilityRecipe, embedded
from mien.verbs import quality
from mien.weights import info, path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results" / "recognizability_discard.csv"
CURVES, SIZES = (ROOT / "docs" / "img" / f"recognizability_{name}" for name in ("discard.png", "sizes.jpg"))
COLUMNS = ("data", "score", "pairs", "threshold", "fnmr_0", "fnmr_10", "fnmr_20", "fnmr_30", "fnmr_50", "area_50",
           "gain_50", "spearman_px", "date")  # fmt: skip
SIDE, LEAST, FMR, LIMIT = 112, 8, 1e-2, 0.5
SHARES = tuple(round(0.02 * n, 2) for n in range(26))
NAMES = {
    "recognizability": "recognizability index", "stability": "stability", "norm": "length of the embedding",
    "ers": "ERS", "sharpness": "sharpness", "pixels": "side in pixels (known)", "random": "random",
}  # fmt: skip
SHOWN_SIDES = (6, 8, 12, 16, 24, 40, 112)

Crops = tuple[Picture, NDArray[np.int64]]


def training(data: Path, out: Path) -> RecognizabilityRecipe:
    """The fine-tuning; crops are framed as the embedder wants them."""
    declared = info("mien-embedder")
    _people.TEMPLATE = declared.input.template
    records = out / "people"
    if not (records / "people.rec").exists():
        _people.write(records, *_people.photographed("cfp", data / "cfp", size=SIDE))
    return RecognizabilityRecipe.make(
        data=str(records / "people.rec"), out=str(out / "run"), network=declared.build, dim=128, size=SIDE,
        template=declared.input.template, backbone=str(path(declared)), kernel="linear", pixels=(LEAST, SIDE),
        ui_pixels=(5, 7), ui_batch=64, steps=180, warm_steps=50, batch_size=32, optimizer="sgd", lr=0.02,
        backbone_rate=0.1, weight_decay=5e-4, scale=32.0, margin=0.3, warmup=0, ema=0.0, refresh=20, workers=0,
        threads=1, tensorboard="no", half=False, save_every=60, log_every=10,
    )  # fmt: skip


def trained(recipe: RecognizabilityRecipe) -> Recognizer:
    """The network that the training ends with; one that has ended is not made again."""
    weights = Path(recipe.out) / "weights.safetensors"
    if not weights.exists():
        fit(recipe, progress=lambda p: print(f"\r{p.step}/{p.steps} loss {p.loss:.3f}", end="", flush=True))
        print()
    network = recipe.deploy(recipe.build())
    assert isinstance(network, Recognizer)
    checkpoint.fill(network, weights)
    return network.eval()


def compared(data: Path) -> dict[str, Crops]:
    """Crops (n, 112, 112, 3) of people that were not trained on."""
    heads = _people.rendered(people=150, pictures=4, size=SIDE, seed=77)
    lfw = sets.lfw(data / "lfw")
    pairs = lfw.pairs.of_folds((1, 2))
    rows = np.unique(np.concatenate([pairs.first, pairs.second]))
    crops, labels = _people.photographed("lfw", data / "lfw", size=SIDE)
    return {"heads": heads, "lfw": (crops[rows], labels[rows])}


quality.STABLE, quality.UNSTABLE = 1.0, -1.0


def measured(network: Recognizer, name: str, crops: Picture, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """A row a score."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(5)
    sides = np.rint(np.exp(rng.uniform(math.log(LEAST), math.log(SIDE), len(crops)))).astype(np.int64)
    shown = at_pixels(crops, sides, kernel="linear")
    z, norm, index = embedded(network, shown)
    scores: dict[str, NDArray[Any]] = {
        "recognizability": index,
        "stability": quality.from_stability(z, lambda worse: embedded(network, worse)[0], shown),
        "norm": norm,
        "ers": ers(torch.from_numpy(z), network.ui_centre).numpy(),
        "sharpness": np.array([cv2.Laplacian(face, cv2.CV_32F).var() for face in quality.luminance(shown)]),
        "pixels": sides,
        "random": rng.random(len(crops)),
    }
    first, second = np.triu_indices(len(crops), 1)
    cosines, same = (z @ z.T)[first, second], labels[first] == labels[second]
    level = threshold_at_fmr(cosines, same, FMR)
    rows = []
    for score, value in scores.items():
        curve = error_versus_discard(cosines, same, value[first], value[second], threshold=level)
        rates = {f"fnmr_{percent}": f"{curve.at(percent / 100):.4f}" for percent in (0, 10, 20, 30, 50)}
        whole = "" if score == "pixels" else f"{spearmanr(value, sides).statistic:.3f}"
        rows.append(
            {
                "data": name, "score": score, "pairs": int(same.sum()), "threshold": f"{level:.4f}", **rates,
                "area_50": f"{curve.area(LIMIT):.4f}", "gain_50": f"{curve.gain(LIMIT):.3f}", "spearman_px": whole,
                "date": datetime.date.today().isoformat(), "curve": [curve.at(min(x, LIMIT)) for x in SHARES],
            }
        )  # fmt: skip
    return rows


def draw_curves(rows: list[dict[str, Any]]) -> None:
    """FNMR over the share of genuine pairs that were discarded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    titles = {"heads": "rendered heads, 8 to 112 px", "lfw": "LFW, folds 1 and 2, 8 to 112 px"}
    for number, (data, title) in enumerate(titles.items()):
        axes = figure.add_subplot(1, 2, number + 1)
        for index, (score, label) in enumerate(NAMES.items()):
            (row,) = [r for r in rows if (r["data"], r["score"]) == (data, score)]
            heavy = 2.2 if score == "recognizability" else 1.3
            axes.plot([100 * x for x in SHARES], row["curve"], color=COLOURS[index],
                      linestyle=DASHES[index], linewidth=heavy, label=label)  # fmt: skip
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("genuine pairs discarded, %", fontsize=8, color=SOFT)
        axes.set_ylabel("FNMR of the rest at FMR 1e-2" if not number else "", fontsize=8, color=SOFT)
        axes.tick_params(labelsize=8, colors=SOFT)
        axes.grid(color=LINE, linewidth=0.7)
        axes.set_ylim(bottom=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if number:
            axes.legend(fontsize=7, frameon=False, loc="lower left")
    figure.savefig(CURVES, dpi=DOTS * 0.75)


def draw_sizes(network: Recognizer) -> None:
    """Two rendered heads at falling sides, with their index and where the attention looks."""
    from matplotlib.figure import Figure

    crops, _ = _people.rendered(people=2, pictures=1, size=SIDE, seed=11, yaw=20)
    figure = Figure(figsize=(8.4, 5.0), layout="constrained")
    columns = len(SHOWN_SIDES)
    for person, crop in enumerate(crops):
        for column, side in enumerate(SHOWN_SIDES):
            picture = at_pixels(crop[None], side, kernel="linear")
            with torch.no_grad():
                seen = network.see(to_input(torch.from_numpy(picture)))
                score = ers(seen.embedding, network.ui_centre).item()
            map_ = cv2.resize(seen.attention[0, 0].numpy(), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            axes = figure.add_subplot(4, columns, 2 * person * columns + column + 1)
            axes.imshow(picture[0])
            axes.set_title(f"{side} px\nRI {seen.ri.item():.2f}, ERS {score:.2f}", fontsize=7, color=INK)
            axes.axis("off")
            axes = figure.add_subplot(4, columns, (2 * person + 1) * columns + column + 1)
            axes.imshow(cv2.cvtColor(cv2.cvtColor(picture[0], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
            axes.imshow(map_, cmap="inferno", alpha=0.6)
            axes.axis("off")
    figure.savefig(SIZES, dpi=DOTS * 0.55, pil_kwargs={"quality": 85})


def main() -> None:
    """Trains, measures, writes and draws, as far as each is not done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MIEN_DATA", "data")), help="folder of sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training")
    options = parser.parse_args()
    network = trained(training(options.data, options.out))
    draw_sizes(network)
    rows = [row for name, crops in compared(options.data).items() for row in measured(network, name, *crops)]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw_curves(rows)
    for row in rows:
        print(*(row[name] for name in COLUMNS[:-1]), sep="  ")


if __name__ == "__main__":
    main()
