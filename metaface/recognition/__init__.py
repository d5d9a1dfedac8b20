"""Recognising people from a few photographs: detect, align, embed, compare, or say "unknown"."""

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
