"""MetaFace: few-shot meta-learning for face identities."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

# Where each public name is defined. They are imported when they are first used: torch takes a
# second, and `metaface people` or `--help` needs none of it.
_NAMES = {
    "Augment": ("metaface.episodes", "Augment"),
    "EpisodeSampler": ("metaface.episodes", "EpisodeSampler"),
    "Episodes": ("metaface.episodes", "Episodes"),
    "FaceSet": ("metaface.data", "FaceSet"),
    "ModelSpec": ("metaface.learners.spec", "ModelSpec"),
    "Recognizer": ("metaface.recognition", "Recognizer"),
    "evaluate": ("metaface.evaluation", "evaluate"),
    "load_model": ("metaface.learners.spec", "load_model"),
    "save_model": ("metaface.learners.spec", "save_model"),
    "train": ("metaface.training", "train"),
    "sweep": ("metaface.experiments.sweep", "run"),
}
_PACKAGES = (
    "data",
    "episodes",
    "evaluation",
    "experiments",
    "faces",
    "learners",
    "metrics",
    "multitask",
    "nets",
    "options",
    "recognition",
    "report",
    "synthetic",
    "testing",
    "training",
)
_MOVED = {
    "augment": "metaface.episodes.augment",
    "benchmark": "metaface.experiments.benchmark",
    "cross_domain": "metaface.experiments.cross_domain",
    "distributed": "metaface.training.distributed",
    "domains": "metaface.data.domain_split",
    "fitting": "metaface.training.fitting",
    "interop": "metaface.learners.learn2learn",
    "intervals": "metaface.metrics.intervals",
    "model": "metaface.learners.spec",
    "runs": "metaface.training.runs",
    "safe": "metaface.training.weight_interpolation",
}


if TYPE_CHECKING:
    from metaface import (
        data,
        episodes,
        evaluation,
        experiments,
        faces,
        learners,
        metrics,
        multitask,
        nets,
        options,
        recognition,
        report,
        synthetic,
        testing,
        training,
    )
    from metaface.data import FaceSet
    from metaface.episodes import Augment, Episodes, EpisodeSampler
    from metaface.evaluation import evaluate
    from metaface.experiments.sweep import run as sweep
    from metaface.learners.spec import ModelSpec, load_model, save_model
    from metaface.recognition import Recognizer
    from metaface.training import train

__all__ = [
    "Augment",
    "EpisodeSampler",
    "Episodes",
    "FaceSet",
    "ModelSpec",
    "Recognizer",
    "data",
    "episodes",
    "evaluate",
    "evaluation",
    "experiments",
    "faces",
    "learners",
    "load_model",
    "metrics",
    "multitask",
    "nets",
    "options",
    "recognition",
    "report",
    "save_model",
    "sweep",
    "synthetic",
    "testing",
    "train",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"metaface.{name}")
    if name in _MOVED:
        raise AttributeError(f"metaface.{name} has moved: it is {_MOVED[name]} since MetaFace 0.3")
    raise AttributeError(f"module 'metaface' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
