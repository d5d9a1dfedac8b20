"""The networks that are compared: one shared network, and stages of the same or of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from metaface.multitask.model import FEATURES, MultiTask
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting
from metaface.options.jobs import STAGES, TASKS

SCALE, MARGIN = 16.0, 0.2
"""Of ArcFace: 32 and 0.5 start to learn later (docs/multitask.md, Design)"""
CHANNELS = 64


def build_network(
    tasks: Sequence[str], people: int, width: float = 1.0, features: int = FEATURES
) -> MultiTask:
    """A network for procedural scenes.

    Args:
        tasks: names of heads.
        people: of the training set.
        width: of backbone and map, by those of the shared network.
        features: of a face.
    """
    options: dict[str, dict[str, Any]] = {
        "recognition": {"people": people, "scale": SCALE, "margin": MARGIN},
        "expression": {"classes": len(EXPRESSIONS)},
        "attributes": {"count": len(ATTRIBUTES)},
    }
    heads = {task: options.get(task, {}) for task in tasks}
    channels = 4 * round(CHANNELS / 4 * width)
    return MultiTask(heads, channels=channels, features=features, norm="frozen", width=width)


def count_parameters(model: nn.Module) -> int:
    """How many a network has, the vectors of the training people left out."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith("nition.people"))


def find_equal_size() -> tuple[float, int]:
    """The width and the features of a face with which the networks of all stages together have as
    many parameters as the shared one."""

    def total(width: float, features: int) -> int:
        stages = (build_network(tasks, 1, width, features) for tasks in STAGES.values())
        return sum(map(count_parameters, stages))

    goal = count_parameters(build_network(TASKS, 1))
    low, high = 0.25, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        fits = total(middle, round(FEATURES * middle)) <= goal
        low, high = (middle, high) if fits else (low, middle)
    features = round(FEATURES * low)  # a backbone's width goes in steps: these take up the rest
    least = total(low, features)
    return round(low, 3), features + (goal - least) // (total(low, features + 1) - least)


def build_weighting(
    variant: str, weights: Mapping[str, float], tasks: Sequence[str] = TASKS
) -> Weighting:
    """The weighting of a shared variant; that of others is fixed."""
    if variant == "uncertainty":
        return Uncertainty(tasks)
    return PCGrad(weights) if variant == "pcgrad" else Fixed(weights)
