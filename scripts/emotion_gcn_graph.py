"""Draws AffectNet's graph of labels, and what each label receives of each: docs/img/emotion_gcn_graph.png.

python scripts/emotion_gcn_graph.py [--out docs/img/emotion_gcn_graph.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from mien.nn.affect import nodes
from mien.nn.label_graph import adjacency, affectnet_correlations, edges, propagation

CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/img/emotion_gcn_graph.png"))
    out = parser.parse_args().out
    names = nodes(CLASSES)
    found = affectnet_correlations()
    linked = edges(found, classes=CLASSES)
    given = propagation(adjacency(linked))

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(1.15, 1))
    at = np.array([*((0.0, CLASSES / 2 - 0.5 - row) for row in range(CLASSES)), (1.0, 1.8), (1.0, -1.8)])
    for row in range(CLASSES):
        for node in (CLASSES, CLASSES + 1):
            if linked[row, node]:
                colour = "#1b6ca8" if found[row, node] > 0 else "#c0392b"
                left.plot(*at[[row, node]].T, color=colour, lw=1 + 6 * abs(found[row, node]), alpha=0.75, zorder=1)
    left.scatter(*at.T, s=60, color="#333333", zorder=4)
    for number, ((x, y), name) in enumerate(zip(at, names, strict=True)):
        if number < CLASSES:
            name = f"{name}  {found[number, CLASSES]:+.2f}, {found[number, CLASSES + 1]:+.2f}"
        left.annotate(name, (x, y), (-9 if x == 0 else 9, 0), textcoords="offset points", va="center",
                      ha="right" if x == 0 else "left")  # fmt: skip
    left.set_xlim(-0.75, 1.35)
    left.axis("off")
    left.set_title("AffectNet: correlations with valence and arousal, and the edges they make", fontsize=9)

    image = right.imshow(given, cmap="Blues", vmin=0, vmax=0.5)
    right.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    right.set_yticks(range(len(names)), names, fontsize=8)
    for row, column in np.argwhere(given > 0):
        dark = given[row, column] > 0.3
        right.text(column, row, f"{given[row, column]:.2f}", ha="center", va="center", fontsize=6.5,
                   color="white" if dark else "black")  # fmt: skip
    right.set_title("what a label (row) receives of each (column)", fontsize=10)
    figure.colorbar(image, ax=right, fraction=0.046)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
