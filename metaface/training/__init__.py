"""One loop for everything that is trained: steps, budget, curve, checkpoints, processes."""

from metaface.training import distributed, weight_interpolation
from metaface.training.loop import History, Interrupted, Training
from metaface.training.meta import train
from metaface.training.options import Budget, Run, Task, Validation
from metaface.training.people import seen_people

__all__ = [
    "Budget",
    "History",
    "Interrupted",
    "Run",
    "Task",
    "Training",
    "Validation",
    "distributed",
    "seen_people",
    "train",
    "weight_interpolation",
]
