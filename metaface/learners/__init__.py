"""Meta-learners: one contract (:class:`MetaLearner`), one file each, one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from metaface import _extensions
from metaface.learners.anil import ANIL
from metaface.learners.base import Classifier, FeatureLearner, MetaLearner, Recipe
from metaface.learners.boil import BOIL
from metaface.learners.classifier import PeopleClassifier
from metaface.learners.coral import align_covariance
from metaface.learners.cosine import CosineClassifier
from metaface.learners.finetune import FineTune
from metaface.learners.imaml import IMAML
from metaface.learners.laplacian import LaplacianShot
from metaface.learners.learn2learn import Learn2Learn
from metaface.learners.linear_probe import LinearProbe
from metaface.learners.maml import MAML
from metaface.learners.matching import Matching
from metaface.learners.prototypical import Prototypical
from metaface.learners.relation import Relation
from metaface.learners.reptile import Reptile
from metaface.learners.ridge import R2D2
from metaface.nets.trainable import set_trainable

__all__ = [
    "ANIL",
    "BOIL",
    "IMAML",
    "LEARNERS",
    "MAML",
    "R2D2",
    "Classifier",
    "CosineClassifier",
    "FeatureLearner",
    "FineTune",
    "LaplacianShot",
    "LinearProbe",
    "Matching",
    "MetaLearner",
    "PeopleClassifier",
    "Prototypical",
    "Recipe",
    "Relation",
    "Reptile",
    "align_covariance",
    "build",
    "find",
]

LEARNERS: dict[str, Callable[..., MetaLearner]] = {
    "maml": MAML,
    "fomaml": partial(MAML, first_order=True),
    "anil": ANIL,
    "metasgd": partial(MAML, learn_rates="weight"),
    "maml++": partial(MAML, learn_rates="layer", multi_step=500),
    "reptile": Reptile,
    "boil": BOIL,
    "imaml": IMAML,
    "prototypical": Prototypical,
    "matching": Matching,
    "relation": Relation,
    "r2d2": R2D2,
    "laplacian": LaplacianShot,
    "classifier": PeopleClassifier,
    "arcface": partial(PeopleClassifier, margin=0.2, scale=15.0),
    "simpleshot": partial(PeopleClassifier, centred=True),
    "linear-probe": LinearProbe,
    "cosine-classifier": CosineClassifier,
    "imprinting": partial(CosineClassifier, steps=0),
    "finetune": FineTune,
    "l2l-maml": Learn2Learn,
    "l2l-metasgd": partial(Learn2Learn, algorithm="MetaSGD"),
    "l2l-gbml": partial(Learn2Learn, algorithm="GBML"),
}


def find(name: str) -> Callable[..., MetaLearner]:
    """What makes the learner of a name: a class or function that takes the embedding and options.

    Args:
        name: one of ``LEARNERS``, what a package has registered in ``metaface.learners``, or
            ``package.module:Class``.

    Raises:
        ValueError: an unknown name.
        ImportError: a package that cannot be imported.

    Example:
        >>> import metaface as mf
        >>> mf.learners.find("anil").__name__
        'ANIL'
        >>> sorted(mf.learners.LEARNERS)[:3]
        ['anil', 'arcface', 'boil']
    """
    make = LEARNERS.get(name) or _extensions.find("learners", name)
    if make is None:
        raise ValueError(
            f"no learner {name!r}: choose one of {_extensions.choices('learners', *LEARNERS)}; one "
            f"that a script or notebook defines: metaface.learners.LEARNERS[{name!r}] = ..."
        )
    return make


def build(
    name: str,
    embedding: nn.Module,
    /,
    *,
    tune: str | None = None,
    features: int | None = None,
    **options: Any,
) -> MetaLearner:
    """A learner by name, around ``embedding``.

    Args:
        name: see :func:`find`.
        tune: which part of ``embedding`` learns and adapts, such as ``norm`` or ``lora:8``; see
            :func:`metaface.nets.set_trainable`, which changes it in place. None: what does already.
        features: length of the embedding, for ``tune="bottleneck"``; None: its attribute
            ``features``.
        options: of the learner.

    Raises:
        ValueError: an unknown name, option or way of tuning, or a length that is needed and not
            known.

    Example:
        >>> import metaface as mf
        >>> learner = mf.learners.build("maml", mf.nets.Conv4(), inner_steps=5)
        >>> type(learner).__name__, learner.inner_steps
        ('MAML', 5)
        >>> tuned = mf.learners.build("finetune", mf.nets.Conv4(width=32), tune="lora:4")
        >>> mf.nets.count_trainable(tuned), mf.nets.count_trainable(mf.nets.Conv4(width=32))
        (4076, 28768)
    """
    make = find(name)
    if tune is not None:
        length = getattr(embedding, "features", None) if features is None else features
        if not isinstance(length, int):
            if tune.startswith("bottleneck"):
                raise ValueError(
                    f"tune={tune!r} needs the length of the embedding, which "
                    f"{type(embedding).__name__} does not say: give features="
                )
            length = 0  # no other way looks at it
        embedding = set_trainable(embedding, tune, length)
    known = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    own = ("self", "embedding")  # which are given already
    unknown = [n for n in options if n in own or not (takes_any or n in known)]
    if unknown:
        taken = [n for n in known if n not in own]
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}: choose of {', '.join(taken) or 'none'}"
        )
    learner: object = make(embedding, **options)
    if not isinstance(learner, MetaLearner):
        raise ValueError(
            f"{name} makes a {type(learner).__name__}, not a metaface.learners.MetaLearner"
        )
    return learner
