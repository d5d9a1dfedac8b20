"""MetaFace: few-shot meta-learning for face identities."""

from metaface import (
    benchmark,
    cross_domain,
    data,
    distributed,
    evaluation,
    learners,
    nets,
    recognition,
    safe,
)
from metaface.augment import Augment
from metaface.data import FaceSet
from metaface.episodes import Episodes, EpisodeSampler
from metaface.evaluation import evaluate
from metaface.model import ModelSpec, load_model, save_model
from metaface.recognition import Recognizer
from metaface.sweep import sweep
from metaface.training import train

__version__ = "0.2.0"

__all__ = [
    "Augment",
    "EpisodeSampler",
    "Episodes",
    "FaceSet",
    "ModelSpec",
    "Recognizer",
    "benchmark",
    "cross_domain",
    "data",
    "distributed",
    "evaluate",
    "evaluation",
    "learners",
    "load_model",
    "nets",
    "recognition",
    "safe",
    "save_model",
    "sweep",
    "train",
]
