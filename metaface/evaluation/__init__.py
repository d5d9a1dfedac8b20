"""How good a learner is, on people it has never seen."""

from metaface.evaluation.episodic import Confusion, Result, ci95, evaluate

__all__ = ["Confusion", "Result", "ci95", "evaluate"]
