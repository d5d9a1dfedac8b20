"""Recognising people from a few photographs: detect, align, embed, compare, or say "unknown"."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaface.faces.detect import Cascade, Detector, YuNet
    from metaface.faces.detections import Detections
    from metaface.faces.photos import REASONS, Unusable
    from metaface.metrics.thresholds import Calibration
    from metaface.recognition.adaptation import Adaptation
    from metaface.recognition.embedders import JointFace
    from metaface.recognition.embedders.loading import Embedder, Network, Onnx, Preprocessing
    from metaface.recognition.gallery.gallery import Gallery, GalleryError
    from metaface.recognition.gallery.search import Exact, Faiss, Qdrant, Search, recall
    from metaface.recognition.models import ModelDamaged, ModelMissing
    from metaface.recognition.recognizer import Recognizer
    from metaface.recognition.results import Chosen, Enrolment, Identified, Match, Verified

__all__ = [
    "REASONS",
    "Adaptation",
    "Calibration",
    "Cascade",
    "Chosen",
    "Detections",
    "Detector",
    "Embedder",
    "Enrolment",
    "Exact",
    "Faiss",
    "Gallery",
    "GalleryError",
    "Identified",
    "JointFace",
    "Match",
    "ModelDamaged",
    "ModelMissing",
    "Network",
    "Onnx",
    "Preprocessing",
    "Qdrant",
    "Recognizer",
    "Search",
    "Unusable",
    "Verified",
    "YuNet",
    "recall",
]

# Where each name is defined. They are imported when they are first used: `metaface people` reads a
# gallery without torch.
_NAMES = {
    "Adaptation": "metaface.recognition.adaptation",
    "Calibration": "metaface.metrics.thresholds",
    "Cascade": "metaface.faces.detect",
    "Chosen": "metaface.recognition.results",
    "Detections": "metaface.faces.detections",
    "Detector": "metaface.faces.detect",
    "Embedder": "metaface.recognition.embedders.loading",
    "Enrolment": "metaface.recognition.results",
    "Exact": "metaface.recognition.gallery.search",
    "Faiss": "metaface.recognition.gallery.search",
    "Gallery": "metaface.recognition.gallery.gallery",
    "GalleryError": "metaface.recognition.gallery.gallery",
    "Identified": "metaface.recognition.results",
    "JointFace": "metaface.recognition.embedders",
    "Match": "metaface.recognition.results",
    "ModelDamaged": "metaface.recognition.models",
    "ModelMissing": "metaface.recognition.models",
    "Network": "metaface.recognition.embedders.loading",
    "Onnx": "metaface.recognition.embedders.loading",
    "Preprocessing": "metaface.recognition.embedders.loading",
    "Qdrant": "metaface.recognition.gallery.search",
    "REASONS": "metaface.faces.photos",
    "Recognizer": "metaface.recognition.recognizer",
    "Search": "metaface.recognition.gallery.search",
    "Unusable": "metaface.faces.photos",
    "Verified": "metaface.recognition.results",
    "YuNet": "metaface.faces.detect",
    "recall": "metaface.recognition.gallery.search",
}


def __getattr__(name: str) -> Any:
    if name in ("embedders", "gallery"):
        return importlib.import_module(f"metaface.recognition.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'metaface.recognition' has no attribute {name!r}")
    value = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
