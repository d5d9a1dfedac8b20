"""How good a learner is, on people it has never seen."""

from metaface.evaluation.episodic import Confusion, Result, evaluate

__all__ = ["Confusion", "Result", "evaluate"]
