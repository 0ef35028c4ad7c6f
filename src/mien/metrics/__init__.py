"""Figures of merit, with the names of ISO/IEC 19795, and how sure they are.

Takes plain arrays: `verification` (FMR, FNMR, ROC, thresholds), `templates` (many pictures of a person as one
vector), `identification` (CMC, FNIR at FPIR), `clustering` (pairwise and BCubed F), `streaming` (all pairs of a large
set), `reliability` (are probabilities true?), `detection` (average precision, FROC), `landmarks` (NME), `quality`
(error versus discard), `groups` (any of them by group), `bootstrap` (intervals). Numpy is enough for most; products of
large sets are torch's, and two figures of clustering scikit-learn's.
"""

from __future__ import annotations

from mien.metrics.bootstrap import Interval, bootstrap, mean_interval
from mien.metrics.clustering import (
    PrecisionRecall,
    ari,
    bcubed,
    bcubed_interval,
    bcubed_of_each,
    nmi,
    pairwise,
    singletons,
)
from mien.metrics.detection import (
    DetectionCurve,
    DetectionRates,
    Detections,
    average_precision,
    false_positives_per_image,
    judge_detections,
)
from mien.metrics.groups import GroupFigure, GroupTable, by_group
from mien.metrics.identification import OpenSetPoint, Searches, mean_over_galleries, search
from mien.metrics.landmarks import auc_at, auc_sampled, cumulative_errors, face_size, failure_rate, nme
from mien.metrics.quality import ErrorVersusDiscard, error_versus_discard
from mien.metrics.reliability import Reliability, cllr, kfold_probabilities, reliability
from mien.metrics.streaming import PairCounts, StreamedPoint, compare_all
from mien.metrics.templates import (
    IJB_FARS,
    Templates,
    check_disjoint_galleries,
    pair_scores,
    pool_templates,
)
from mien.metrics.verification import (
    Calibration,
    ErrorRates,
    KFold,
    KFoldRates,
    OperatingPoint,
    Roc,
    auc,
    calibrate,
    eer,
    error_rates,
    fnmr_at_fmr,
    kfold_accuracy,
    kfold_tar_at_fmr,
    people_across_folds,
    roc,
    tar_at_far,
    threshold_at_fmr,
    verification_interval,
)

__all__ = [
    "IJB_FARS",
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
    "KFoldRates",
    "OpenSetPoint",
    "OperatingPoint",
    "PairCounts",
    "PrecisionRecall",
    "Reliability",
    "Roc",
    "Searches",
    "StreamedPoint",
    "Templates",
    "ari",
    "auc",
    "auc_at",
    "auc_sampled",
    "average_precision",
    "bcubed",
    "bcubed_interval",
    "bcubed_of_each",
    "bootstrap",
    "by_group",
    "calibrate",
    "check_disjoint_galleries",
    "cllr",
    "compare_all",
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
    "kfold_probabilities",
    "kfold_tar_at_fmr",
    "mean_interval",
    "mean_over_galleries",
    "nme",
    "nmi",
    "pair_scores",
    "pairwise",
    "people_across_folds",
    "pool_templates",
    "reliability",
    "roc",
    "search",
    "singletons",
    "tar_at_far",
    "threshold_at_fmr",
    "verification_interval",
]
