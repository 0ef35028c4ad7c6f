"""What negative pairs do to the similarities of a batch: pictures of one person, class vectors of others, pairs of two.

    python scripts/unpg_similarities.py

A small ArcFace of the claims (`mien.claims.unpg`, "patterns", one seed) goes on without and with pairs, half a minute
in all. What is drawn are the cosines of the 150 people it was not trained on; the box and whiskers are those of the
pairs of two people of one training batch. Picture: docs/img/unpg_similarities.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mien.claims import unpg as claims
from mien.claims._small import vectors
from mien.claims.harness import Setting
from mien.media.plots import COLOURS, INK, LINE, SOFT
from mien.nn.negatives import whiskers

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "img" / "unpg_similarities.png"
TITLES = {"arcface": "ArcFace, gone on with", "unpg": "ArcFace with pairs, r = 1.5"}


def similarities(setting: Setting, state: claims.State) -> dict[str, NDArray[np.float32]]:
    """Cosines of unseen people's pictures, to class vectors, and of a training batch's pairs of two people."""
    (crops, labels), (others, who) = claims.crops_of(setting)
    z = vectors(state.network, others)
    first, second = np.triu_indices(len(z), 1)
    cosines, same = (z @ z.T)[first, second], who[first] == who[second]
    rows = np.random.default_rng(0).permutation(len(crops))[:512]
    batch, people = vectors(state.network, crops[rows]), labels[rows]
    weight = torch.nn.functional.normalize(state.head.weight.detach(), dim=1).numpy()
    to_classes = batch @ weight.T
    pairs = np.triu(people[:, None] != people, 1)
    return {
        "positives": cosines[same], "negatives": cosines[~same], "pairs": (batch @ batch.T)[pairs],
        "classes": to_classes[people[:, None] != np.arange(len(weight))],
        "own": to_classes[np.arange(len(rows)), people],
    }  # fmt: skip


def trained() -> dict[str, dict[str, NDArray[np.float32]]]:
    setting = Setting(seed=0, data="patterns")
    fresh = claims.State(0, claims.PEOPLE, "arcface", "cpu")
    start = claims.trained(setting, fresh, "", whisker=None, steps=claims.STEPS, batch=claims.BATCH, lr=claims.RATE)
    more: dict[str, Any] = {"steps": claims.MORE_STEPS, "batch": claims.BATCH, "lr": claims.MORE_RATE}
    return {
        name: similarities(setting, claims.trained(setting, start, "", whisker=claims.REACHES[name], **more))
        for name in TITLES
    }


def draw(found: dict[str, dict[str, NDArray[np.float32]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 5.2), sharex=True, sharey="row", layout="constrained")
    bins = np.linspace(-0.8, 1.0, 91).tolist()
    shown = (
        (("own", "own class vector"), ("classes", "others' class vectors"), ("pairs", "pairs of two people")),
        (("positives", "pairs of one person"), ("negatives", "pairs of two people")),
    )
    for column, (name, title) in enumerate(TITLES.items()):
        for row, parts in enumerate(shown):
            axis = axes[row, column]
            for colour, dash, (part, label) in zip(COLOURS, ("-", "-", "--"), parts, strict=False):
                axis.hist(found[name][part], bins, density=True, histtype="stepfilled", alpha=0.35, color=colour)
                axis.hist(found[name][part], bins, density=True, histtype="step", color=colour, label=label, ls=dash)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(colors=SOFT)
            axis.set_yticks([])
            axis.set_xticks([-0.5, 0, 0.5, 1])
            axis.grid(axis="x", color=LINE, lw=0.5)
        pairs = torch.from_numpy(found[name]["pairs"])
        low, high = (float(end) for end in whiskers(pairs, 1.5))
        axes[0, column].axvspan(low, high, ymin=0.93, ymax=0.97, color=COLOURS[2], alpha=0.6, lw=0)
        kept = float(((pairs >= low) & (pairs <= high)).float().mean())
        axes[0, column].annotate(
            f"whiskers {low:.2f} to {high:.2f}: {kept:.1%} stay", ((low + high) / 2, 0.985),
            xycoords=("data", "axes fraction"), ha="center", va="bottom", color=SOFT, fontsize=8,
        )  # fmt: skip
        limit = float(np.quantile(found[name]["negatives"], 0.999))
        tar = float((found[name]["positives"] >= limit).mean())
        axes[1, column].axvline(limit, color=INK, lw=0.8, ls=":")
        axes[1, column].annotate(
            f"FAR 1e-3 at {limit:.2f}: TAR {tar:.1%}", (limit - 0.02, 0.9), xycoords=("data", "axes fraction"),
            color=INK, fontsize=8, ha="right",
        )  # fmt: skip
        axes[0, column].set_title(f"{title}\n", color=INK, fontsize=10)
        axes[1, column].set_xlabel("cosine", color=INK)
    axes[0, 0].set_ylabel("training batch", color=INK)
    axes[1, 0].set_ylabel("unseen people", color=INK)
    axes[0, 0].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.62, 0.85))
    axes[1, 0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(trained())
