"""``probe``: what a frozen network's features tell, by a linear machine on top of them.

    mien probe fit photos/ --labels labels.csv --out glasses.safetensors
    mien probe apply more/ --probe glasses.safetensors --out scores.csv
    mien probe layers --network timm:resnet50
    mien probe curve photos/ --labels labels.csv --out curve.svg
    mien probe retrieve photos/ --labels instances.csv

Any network will do: mien's own weights, timm's, torchvision's. Method: `mien.papers.cnn_off_the_shelf` (extra
``evaluate``). Nothing is downloaded unless ``pretrained`` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mien.verbs.probe._apply import Applied, Scored, apply
from mien.verbs.probe._fit import Probed, ProbedLabel, fit
from mien.verbs.probe._layers import Curve, LayerRow, curve, draw_curve, layers
from mien.verbs.probe._retrieve import Retrieved, retrieve

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "fit": fit,
    "apply": apply,
    "layers": layers,
    "curve": curve,
    "retrieve": retrieve,
}
"""The commands of ``mien probe``."""

__all__ = [
    "COMMANDS",
    "Applied",
    "Curve",
    "LayerRow",
    "Probed",
    "ProbedLabel",
    "Retrieved",
    "Scored",
    "apply",
    "curve",
    "draw_curve",
    "fit",
    "layers",
    "retrieve",
]
