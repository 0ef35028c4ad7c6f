"""Figures of merit, with the names of ISO/IEC 19795, and how sure they are.

Needs numpy only, and takes plain arrays: `verification` (FMR, FNMR, ROC, thresholds), `detection` (average
precision, FROC), `landmarks` (NME), `quality` (error versus discard), `groups` (any of them by group),
`bootstrap` (intervals).
"""

from __future__ import annotations

from mien.metrics.bootstrap import Interval, bootstrap, mean_interval
from mien.metrics.detection import (
    DetectionCurve,
    DetectionRates,
    Detections,
    average_precision,
    false_positives_per_image,
    judge_detections,
)
from mien.metrics.groups import GroupFigure, GroupTable, by_group
from mien.metrics.landmarks import auc_at, cumulative_errors, face_size, failure_rate, nme
from mien.metrics.quality import ErrorVersusDiscard, error_versus_discard
from mien.metrics.verification import (
    Calibration,
    ErrorRates,
    KFold,
    OperatingPoint,
    Roc,
    auc,
    calibrate,
    eer,
    error_rates,
    fnmr_at_fmr,
    kfold_accuracy,
    roc,
    tar_at_far,
    threshold_at_fmr,
    verification_interval,
)

__all__ = [
    "Calibration",
    "DetectionCurve",
    "DetectionRates",
    "Detections",
    "ErrorRates",
    "ErrorVersusDiscard",
    "GroupFigure",
    "GroupTable",
    "Interval",
    "KFold",
    "OperatingPoint",
    "Roc",
    "auc",
    "auc_at",
    "average_precision",
    "bootstrap",
    "by_group",
    "calibrate",
    "cumulative_errors",
    "eer",
    "error_rates",
    "error_versus_discard",
    "face_size",
    "failure_rate",
    "false_positives_per_image",
    "fnmr_at_fmr",
    "judge_detections",
    "kfold_accuracy",
    "mean_interval",
    "nme",
    "roc",
    "tar_at_far",
    "threshold_at_fmr",
    "verification_interval",
]
