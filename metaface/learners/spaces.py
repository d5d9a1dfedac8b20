"""What can be searched over, learner by learner; see ``metaface.experiments.sweep``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are.

    ``log``: as likely between 1 and 10 as between 10 and 100.
    """

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class Categorical:
    """One of a few names."""

    values: tuple[str, ...]


Space = dict[str, "Range | Categorical"]

# By name: arguments of the learner, fields of its Recipe, and norm. Not the norm "batch", whose
# accuracy is transductive and cannot be held against the others'.
OUTER: Space = {
    "shots": Range(1, 10),
    "meta_batch": Range(1, 32),
    "lr": Range(1e-4, 1e-2),
    "norm": Categorical(("group", "frozen")),
}
_HEAD: Space = {"head_lr": Range(0.05, 2.0), "inner_steps": Range(1, 10)}
_MAML: Space = {"inner_lr": Range(1e-3, 0.3), **_HEAD, **OUTER}
_REPTILE: Space = {
    "inner_lr": Range(2e-4, 2e-2),
    "head_lr": Range(2e-3, 0.2),
    "inner_steps": Range(5, 50),
    "test_steps": Range(1, 50),
    **OUTER,
    "meta_batch": Range(1, 8),
    "lr": Range(0.1, 1.0),
}
_WAYS: Space = {"ways": Range(5, 60), **OUTER}
_BATCH: Space = {**_WAYS, "ways": Range(10, 60)}
_COSINE: Space = {"scale": Range(1.0, 50.0), **_WAYS}
_L2L: Space = {"inner_lr": Range(1e-3, 0.3), "inner_steps": Range(1, 10), **OUTER}

SPACES: dict[str, Space] = {
    "maml": _MAML,
    "fomaml": _MAML,
    "anil": {**_HEAD, **OUTER},
    "metasgd": _MAML,
    "maml++": _MAML,
    "reptile": _REPTILE,
    "prototypical": _WAYS,
    "boil": {"inner_lr": Range(1e-3, 0.3), "inner_steps": Range(1, 10), **OUTER},
    "imaml": {
        "inner_lr": Range(1e-3, 0.1),
        "inner_steps": Range(3, 20),
        "strength": Range(0.1, 10.0),
        "head_strength": Range(1e-2, 1.0),
        **OUTER,
    },
    "matching": {"scale": Range(1.0, 50.0), **_WAYS},
    "relation": {"hidden": Range(4, 64), **_WAYS},
    "r2d2": {"strength": Range(1e-2, 100.0), "scale": Range(1.0, 50.0), **_WAYS},
    "laplacian": {
        "scale": Range(1.0, 50.0),
        "strength": Range(0.3, 10.0),
        "neighbours": Range(1, 10),
        **_WAYS,
    },
    "classifier": _BATCH,
    "arcface": {"margin": Range(0.05, 0.6), "scale": Range(5.0, 64.0), **_BATCH},
    "simpleshot": _BATCH,
    "linear-probe": {"strength": Range(1.0, 1000.0), **_WAYS},
    "cosine-classifier": {**_COSINE, "head_lr": Range(1e-2, 1.0), "steps": Range(10, 300)},
    "imprinting": _COSINE,
    "finetune": {
        **_COSINE,
        "inner_lr": Range(1e-5, 1e-2),
        "steps": Range(1, 50),
        "head_lr": Range(1e-3, 0.1),
        "head_steps": Range(1, 200),
        "decay": Range(0.1, 1.0),
    },
    "l2l-maml": _L2L,
    "l2l-metasgd": _L2L,
    "l2l-gbml": _L2L,
}
