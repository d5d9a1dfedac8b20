"""How good a learner is, on people it has never seen: episodes, domains, corrupted photographs."""

from metaface.evaluation.corruptions import CORRUPTIONS, corrupt
from metaface.evaluation.degradation import Level, RenderedFaces, dial_robustness, robustness
from metaface.evaluation.domain_matrix import cross_domain
from metaface.evaluation.episodic import Confusion, Result, evaluate

__all__ = [
    "CORRUPTIONS",
    "Confusion",
    "Level",
    "RenderedFaces",
    "Result",
    "corrupt",
    "cross_domain",
    "dial_robustness",
    "evaluate",
    "robustness",
]
