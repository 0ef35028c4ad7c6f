"""Draws how accuracy grows with human labels: ``docs/img/aspl_curves.png``, of the claims' own runs.

    python scripts/aspl_curves.py [--data heads|patterns|celeb24] [--root FOLDER] [--seeds 0,1,2]

Names for free with questions, questions alone (by the paper's rule, at random, by margin), names for free alone, and
all labels; means and ranges over the seeds. The figures go to ``results/aspl_curves.csv``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from mien.claims import aspl
from mien.claims.harness import Setting

ROOT = Path(__file__).parents[1]
SHOWN = {
    "aspl": ("ASPL: questions and names for free", "#0f8a78", "-"),
    "al": ("questions alone, lowest decision", "#b45f1d", "-"),
    "margin": ("questions alone, smallest margin", "#7b5ea7", "--"),
    "random": ("questions alone, at random", "#5b6b76", "--"),
}


def main() -> None:
    """Runs and draws."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="heads")
    options.add_argument("--root", type=Path)
    options.add_argument("--seeds", default="0,1,2")
    given = options.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows: list[dict[str, object]] = []
    curves: dict[str, list[list[dict[str, float]]]] = {way: [] for way in (*SHOWN, "spl")}
    all_labels = []
    with tempfile.TemporaryDirectory() as out:
        for seed in seeds:
            setting = Setting(seed=seed, data=given.data, data_root=given.root, out=Path(out))
            for way, runs in curves.items():
                runs.append(aspl.curve(setting, way, **aspl._budget(setting)))
                rows += [{"data": given.data, "seed": seed, "way": way, **row} for row in runs[-1]]
            all_labels.append(aspl.all_labels(setting))
            rows.append({"data": given.data, "seed": seed, "way": "all", "labels": "", "accuracy": all_labels[-1]})
            print(seed, {way: round(runs[-1][-1]["accuracy"], 3) for way, runs in curves.items()}, flush=True)
    table = ROOT / "results" / "aspl_curves.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, ("data", "seed", "way", "labels", "accuracy", "free", "precision", "everyone", "open", "expelled")
        )
        writer.writeheader()
        writer.writerows(rows)
    draw(curves, all_labels, given.data)


def draw(curves: dict[str, list[list[dict[str, float]]]], all_labels: list[float], data: str) -> None:
    """The picture: accuracy on the left, names for free and their precision on the right."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9aa7af"}
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.9), width_ratios=(1.5, 1), constrained_layout=True)
    for way, (text, colour, style) in SHOWN.items():
        labels = [row["labels"] for row in curves[way][0]]
        values = 100 * np.array([[row["accuracy"] for row in run] for run in curves[way]])
        left.fill_between(labels, values.min(0), values.max(0), color=colour, alpha=0.13, linewidth=0)
        left.plot(labels, values.mean(0), style, color=colour, label=text, linewidth=2, marker="o", markersize=3.5)
    spl = 100 * np.array([run[-1]["accuracy"] for run in curves["spl"]])
    first = curves["spl"][0][0]["labels"]
    left.errorbar(
        [first], [spl.mean()], [[spl.mean() - spl.min()], [spl.max() - spl.mean()]], fmt="D", color="#c9a227",
        label="names for free alone, no question", capsize=3, markersize=5,
    )  # fmt: skip
    left.axhline(100 * float(np.mean(all_labels)), color="#17242c", linewidth=1, linestyle=":", label="all labels")
    left.set(xlabel="human labels, the first ones counted", ylabel="accuracy on other pictures, %")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    left.grid(alpha=0.25)
    rows = curves["aspl"]
    labels = [row["labels"] for row in rows[0]]
    free = np.array([[row["free"] for row in run] for run in rows]).mean(0)
    bars = right.bar(labels, free, width=0.6 * (labels[1] - labels[0]), color="#7ec8ba")
    right.set(xlabel="human labels", ylabel="names for free")
    twin = right.twinx()
    for name, colour, text in (
        ("precision", "#0f8a78", "names for free"),
        ("everyone", "#b45f1d", "everybody's best name"),
    ):
        twin.plot(
            labels, 100 * np.array([[row[name] for row in run] for run in rows]).mean(0), color=colour, label=text,
            marker="o", markersize=3.5, linewidth=2,
        )  # fmt: skip
    twin.spines["right"].set_visible(True)
    twin.set_ylabel("right among them, %")
    twin.set_ylim(top=101)
    twin.legend(frameon=False, fontsize=8, loc="lower right")
    bars[0].set_label("count")
    figure.suptitle(f"{data}, {len(curves['aspl'])} seeds: means, and ranges in colour", fontsize=9, color="#5b6b76")
    path = ROOT / "docs" / "img" / "aspl_curves.png"
    figure.savefig(path, dpi=110)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
