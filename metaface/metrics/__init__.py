"""Arrays in, numbers out: what scores, embeddings and boxes are worth, with 95% intervals."""

from metaface.metrics.detection import Detection, average_precision
from metaface.metrics.groups import GroupComparison, identify_by_group, verify_by_group
from metaface.metrics.intervals import Estimate, bootstrap, ci95, clopper_pearson
from metaface.metrics.one_to_many import (
    DirAtFpir,
    OpenSet,
    OpenSetDesign,
    cohort_scorer,
    open_set,
    prototype_scorer,
)
from metaface.metrics.one_to_one import TarAtFar, Verification, verification
from metaface.metrics.pairs import Pairs, draw_pairs, read_pairs
from metaface.metrics.rejection import measure_rejection
from metaface.metrics.thresholds import Calibration

__all__ = [
    "Calibration",
    "Detection",
    "DirAtFpir",
    "Estimate",
    "GroupComparison",
    "OpenSet",
    "OpenSetDesign",
    "Pairs",
    "TarAtFar",
    "Verification",
    "average_precision",
    "bootstrap",
    "ci95",
    "clopper_pearson",
    "cohort_scorer",
    "draw_pairs",
    "identify_by_group",
    "measure_rejection",
    "open_set",
    "prototype_scorer",
    "read_pairs",
    "verification",
    "verify_by_group",
]
