"""How much SFace depends on its a, b and k, with 40 % of the labels wrong; and its forces beside those of ArcFace.

    python scripts/sface_sensitivity.py            # trains what is missing in the table, then draws both pictures
    python scripts/sface_sensitivity.py --draw     # only draws

The training is that of the claims on "patterns" (`mien.claims.sface`), one seed each, 25 of some ten seconds. Rows go
to results/sface_sensitivity.csv; those that are there already are not made again. Pictures:
docs/img/sface_sensitivity.png and docs/img/sface_forces.png.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.claims import sface
from mien.claims.harness import Setting
from mien.media.plots import COLOURS, DASHES, DOTS, INK, LINE, SOFT
from mien.papers.sface import inter_scale, intra_scale

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "results" / "sface_sensitivity.csv"
COLUMNS = ("head", "a", "b", "k", "noise", "seed", "auc", "tar", "seconds")
CENTRE = sface.WRONG_ANGLES
SWEEPS: dict[str, tuple[float, ...]] = {
    "a": (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.15),
    "b": (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35),
    "k": (10.0, 20.0, 40.0, 80.0, 160.0),
}
RIVALS = ("arcface", "cosface", "softmax")
NAMES = {"arcface": "ArcFace", "cosface": "CosFace", "softmax": "softmax", "sface": "SFace"}

Key = tuple[str, str, str, str, str]


def runs() -> list[tuple[str, dict[str, float], float]]:
    """Head, angles and share of wrong labels of every training, each once."""
    wanted: list[tuple[str, dict[str, float], float]] = [(rival, {}, sface.NOISE) for rival in RIVALS]
    wanted += [("arcface", {}, 0.0), ("sface", CENTRE, 0.0), ("sface", sface.PAPER_ANGLES, 0.0)]
    wanted += [("sface", {"a": 0.9, "b": 1.35, "k": 80.0}, sface.NOISE), ("sface", sface.PAPER_ANGLES, sface.NOISE)]
    wanted += [("sface", {**CENTRE, name: value}, sface.NOISE) for name, values in SWEEPS.items() for value in values]
    return list({key(*run): run for run in wanted}.values())


def key(head: str, angles: dict[str, float], noise: float) -> Key:
    a, b, k = (f"{angles[name]:g}" if name in angles else "" for name in "abk")
    return head, a, b, k, f"{noise:g}"


def table() -> dict[Key, dict[str, str]]:
    """The rows that are there."""
    if not TABLE.exists():
        return {}
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {tuple(row[name] for name in COLUMNS[:5]): row for row in csv.DictReader(file)}  # type: ignore[misc]


def train(seed: int) -> None:
    """Trains what is missing, a row each."""
    done = table()
    setting = Setting(seed=seed, data="patterns", out=Path("runs/sface_sensitivity"))
    for head, angles, noise in runs():
        name = key(head, angles, noise)
        if name in done:
            continue
        began = time.perf_counter()
        tar, auc = sface.small(setting, head, noise, **angles)
        row = [*name, seed, f"{auc:.4f}", f"{tar:.4f}", f"{time.perf_counter() - began:.1f}"]
        new = not TABLE.exists()
        with TABLE.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([COLUMNS, row] if new else [row])
        print(*row, flush=True)


def _panels(count: int, width: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, count, sharey=True))
    for panel in axes:
        panel.grid(color=LINE, linewidth=0.6)
        panel.tick_params(colors=SOFT, labelsize=8)
        for spine in panel.spines.values():
            spine.set_color(LINE)
    return figure, axes


def draw_sensitivity() -> None:
    """AUC against a, b and k about the setting of the claims, the rivals as lines."""
    found = {name: float(row["auc"]) for name, row in table().items()}
    figure, axes = _panels(3, 9.0)
    for panel, (name, values) in zip(axes, SWEEPS.items(), strict=True):
        for index, rival in enumerate(RIVALS, 1):
            level = found[key(rival, {}, sface.NOISE)]
            panel.axhline(level, color=COLOURS[index], linestyle=(0, (5, 2)), linewidth=1.2, label=NAMES[rival])
        levels = [found[key("sface", {**CENTRE, name: value}, sface.NOISE)] for value in values]
        panel.plot(values, levels, color=COLOURS[0], marker="o", markersize=4, label="SFace")
        others = ", ".join(f"{other} = {CENTRE[other]:g}" for other in "abk" if other != name)
        unit = "1/rad" if name == "k" else "rad"
        panel.set_xlabel(f"{name}, {unit}  ({others})", color=INK, fontsize=9)
        if name == "k":
            panel.set_xscale("log", base=2)
            panel.set_xticks(values, [f"{value:g}" for value in values])
    axes[0].set_ylabel("AUC, 40 % of labels wrong", color=INK, fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(ROOT / "docs" / "img" / "sface_sensitivity.png", dpi=DOTS * 0.75)


def draw_forces(*, classes: int = 10_572, s: float = 64.0, m: float = 0.5) -> None:
    """How fast an embedding is turned, by its angle: SFace, and ArcFace, whose forces depend on the other angles.

    All further people are at 90 degrees. The speed is the size of the loss's slope by the angle.
    """
    degrees = torch.linspace(1, 120, 600)
    theta = torch.deg2rad(degrees)
    a, b, k = (sface.PAPER_ANGLES[name] for name in "abk")
    far = math.log(classes - 2)

    def logit(angle: float, margin: float = 0.0) -> float:
        return s * math.cos(math.radians(angle) + margin)

    def pull_of(other: float) -> torch.Tensor:
        """ArcFace's pull to the own person where one other is at `other` degrees."""
        rest = np.logaddexp(far, logit(other))
        return torch.sigmoid(rest - s * torch.cos(theta + m)) * s * torch.sin(theta + m)

    def push_of(own: float) -> torch.Tensor:
        """ArcFace's push from another person where the own one is at `own` degrees."""
        rest = np.logaddexp(far, logit(own, m))
        return torch.sigmoid(s * torch.cos(theta) - rest) * s * torch.sin(theta)

    figure, (pull, push) = _panels(2, 9.0)
    pulls = {
        "SFace": intra_scale(theta, a=a, k=k) * torch.sin(theta),
        "ArcFace": pull_of(90.0),
        "ArcFace, another person at 40°": pull_of(40.0),
    }
    pushes = {
        "SFace": inter_scale(theta, b=b, k=k) * torch.sin(theta),
        "ArcFace, own person at 90°": push_of(90.0),
        "ArcFace, own person at 20°": push_of(20.0),
    }
    for panel, curves, title in ((pull, pulls, "pull"), (push, pushes, "push")):
        for index, (name, speed) in enumerate(curves.items()):
            panel.plot(degrees, speed, color=COLOURS[index], label=name, linestyle=DASHES[index])
        panel.set_title(title, color=INK, fontsize=10)
        panel.legend(fontsize=8, frameon=False, loc="lower right" if panel is pull else "upper left")
    pull.set_ylabel("speed of the embedding, 1/rad", color=INK, fontsize=9)
    pull.set_xlabel("angle to the own person, degrees", color=INK, fontsize=9)
    push.set_xlabel("angle to another person, degrees", color=INK, fontsize=9)
    figure.savefig(ROOT / "docs" / "img" / "sface_forces.png", dpi=DOTS * 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.draw:
        train(options.seed)
    draw_forces()
    draw_sensitivity()


if __name__ == "__main__":
    main()
