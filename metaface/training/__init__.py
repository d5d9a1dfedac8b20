"""One loop for every learner: steps, budget, validation, checkpoints, several processes."""

from metaface.training import distributed, weight_interpolation
from metaface.training.loop import Budget, History, Interrupted, train

__all__ = ["Budget", "History", "Interrupted", "distributed", "train", "weight_interpolation"]
