"""Meta-learners: one contract (:class:`MetaLearner`), one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from metaface.learners.anil import ANIL
from metaface.learners.base import Classifier, FeatureLearner, MetaLearner, Recipe
from metaface.learners.maml import MAML
from metaface.learners.prototypical import Prototypical
from metaface.learners.reptile import Reptile

__all__ = [
    "ANIL",
    "LEARNERS",
    "MAML",
    "Classifier",
    "FeatureLearner",
    "MetaLearner",
    "Prototypical",
    "Recipe",
    "Reptile",
    "build",
]

LEARNERS: dict[str, Callable[..., MetaLearner]] = {
    "maml": MAML,
    "fomaml": partial(MAML, first_order=True),
    "anil": ANIL,
    "metasgd": partial(MAML, learn_rates="weight"),
    "maml++": partial(MAML, learn_rates="layer", multi_step=500),
    "reptile": Reptile,
    "prototypical": Prototypical,
}


def build(name: str, embedding: nn.Module, **options: Any) -> MetaLearner:
    """A learner by name: one of ``LEARNERS``, around ``embedding``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in LEARNERS:
        raise ValueError(f"no learner {name!r}: choose one of {', '.join(LEARNERS)}")
    return LEARNERS[name](embedding, **options)
