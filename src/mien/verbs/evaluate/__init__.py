"""``evaluate``: figures of merit of a whole system, measured on one's own pictures.

    mien evaluate verification --pairs pairs.csv --images photos/ --report report.html
    mien evaluate identification --gallery gallery.csv --probes probes.csv --images photos/
    mien evaluate clustering --labels labels.csv --images photos/
    mien evaluate detection --boxes boxes.csv --images photos/
    mien evaluate landmarks --points points.csv --images photos/
    mien evaluate quality --pairs pairs.csv --images photos/

Each runs the path that every verb runs (decode, detect, align, embed) and counts what came of it, failures to find a
face included; the formulas are those of `mien.metrics`. The first three also take a file of embeddings, and write a
report with the plots that people expect. Rates are shares from 0 to 1, intervals are 95 % bootstrap
intervals, and what is returned has the same keys in Python, in JSON and from one version to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mien.verbs.evaluate._clustering import ClusteringEvaluation, clustering
from mien.verbs.evaluate._common import Evaluation, GroupRow, GroupSpread
from mien.verbs.evaluate._detection import DetectionEvaluation, detection
from mien.verbs.evaluate._identification import IdentificationEvaluation, identification
from mien.verbs.evaluate._landmarks import LandmarkEvaluation, landmarks
from mien.verbs.evaluate._quality import QualityEvaluation, quality
from mien.verbs.evaluate._verification import VerificationEvaluation, verification

COMMANDS: Mapping[str, Callable[..., Any]] = {
    "verification": verification,
    "identification": identification,
    "clustering": clustering,
    "detection": detection,
    "landmarks": landmarks,
    "quality": quality,
}
"""The commands of ``mien evaluate``."""

__all__ = [
    "COMMANDS",
    "ClusteringEvaluation",
    "DetectionEvaluation",
    "Evaluation",
    "GroupRow",
    "GroupSpread",
    "IdentificationEvaluation",
    "LandmarkEvaluation",
    "QualityEvaluation",
    "VerificationEvaluation",
    "clustering",
    "detection",
    "identification",
    "landmarks",
    "quality",
    "verification",
]
