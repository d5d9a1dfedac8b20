"""How good a learner is, on people it has never seen; and how good recognition is, on photographs.

The protocols of recognition (:func:`verification`, :func:`open_set`, :func:`average_precision`)
work on arrays of scores, embeddings and boxes, wherever those come from.
"""

from metaface.data.attributes import read_attributes
from metaface.data.wider import Annotated, read_wider
from metaface.evaluation.corruptions import CORRUPTIONS, corrupt
from metaface.evaluation.degradation import Level, dial_robustness, robustness
from metaface.evaluation.domain_matrix import cross_domain
from metaface.evaluation.episodic import Confusion, Result, evaluate
from metaface.metrics.detection import Detection, average_precision
from metaface.metrics.groups import Slices, slice_identification, slice_verification
from metaface.metrics.intervals import Estimate, bootstrap, ci95, clopper_pearson
from metaface.metrics.one_to_many import DirAtFpir, OpenSet, cohort, open_set, prototypes
from metaface.metrics.one_to_one import TarAtFar, Verification, verification
from metaface.metrics.pairs import Pairs, draw_pairs, read_pairs
from metaface.metrics.rejection import rejection

__all__ = [
    "CORRUPTIONS",
    "Annotated",
    "Confusion",
    "Detection",
    "DirAtFpir",
    "Estimate",
    "Level",
    "OpenSet",
    "Pairs",
    "Result",
    "Slices",
    "TarAtFar",
    "Verification",
    "average_precision",
    "bootstrap",
    "ci95",
    "clopper_pearson",
    "cohort",
    "corrupt",
    "cross_domain",
    "dial_robustness",
    "draw_pairs",
    "evaluate",
    "open_set",
    "prototypes",
    "read_attributes",
    "read_pairs",
    "read_wider",
    "rejection",
    "robustness",
    "slice_identification",
    "slice_verification",
    "verification",
]
