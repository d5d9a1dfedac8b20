"""Recognising people from a few photographs: detect, align, embed, compare, or say "unknown"."""

from metaface.recognition.adaptation import Adaptation
from metaface.recognition.calibrate import Calibration
from metaface.recognition.detect import Cascade, Detector, YuNet
from metaface.recognition.detect import Faces as DetectedFaces
from metaface.recognition.embed import Embedder, Network, Onnx, Preprocessing
from metaface.recognition.gallery import Gallery, GalleryError
from metaface.recognition.models import ModelDamaged, ModelMissing
from metaface.recognition.photos import REASONS, Unusable
from metaface.recognition.recognizer import Recognizer
from metaface.recognition.results import Chosen, Enrolment, Identified, Match, Verified
from metaface.recognition.search import Exact, Faiss, Qdrant, Search, recall

__all__ = [
    "REASONS",
    "Adaptation",
    "Calibration",
    "Cascade",
    "Chosen",
    "DetectedFaces",
    "Detector",
    "Embedder",
    "Enrolment",
    "Exact",
    "Faiss",
    "Gallery",
    "GalleryError",
    "Identified",
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
