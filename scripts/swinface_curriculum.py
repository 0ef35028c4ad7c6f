"""Draws docs/img/swinface_curriculum.png: the age loss and its slope along the curriculum.

python scripts/swinface_curriculum.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from mien.nn.streams import age_loss

SHARES = (0.0, 0.5, 0.9, 0.99, 1.0)
FARTHEST = 30.0


def main() -> None:
    away = torch.linspace(-FARTHEST, FARTHEST, 601)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    colours = plt.get_cmap("viridis")(torch.linspace(0, 0.85, len(SHARES)).numpy())
    for done, colour in zip(SHARES, colours, strict=True):
        losses, slopes = [], []
        for one in away:
            age = one.clone().requires_grad_()
            loss = age_loss(age[None], torch.zeros(1), done)
            (slope,) = torch.autograd.grad(loss, age)
            losses.append(loss.item())
            slopes.append(slope.item())
        left.plot(away, losses, color=colour, label=f"t = {done:g}")
        right.plot(away, slopes, color=colour)
    left.set(xlabel="error, years", ylabel="loss", ylim=(0, 5), title="loss")
    right.set(xlabel="error, years", ylabel="slope", ylim=(-1.2, 1.2), title="its slope")
    left.legend(loc="lower right", fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(Path(__file__).parents[1] / "docs" / "img" / "swinface_curriculum.png", dpi=100)


if __name__ == "__main__":
    main()
