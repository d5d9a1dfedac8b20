"""Aligned face crops -> embeddings of unit length; one kind of file each."""

from metaface.recognition.embedders.base import CropEmbedder, Embedder
from metaface.recognition.embedders.loading import load
from metaface.recognition.embedders.network import Network
from metaface.recognition.embedders.onnx import Onnx
from metaface.recognition.embedders.shared import JointFace
from metaface.recognition.preprocess import Preprocessing

__all__ = ["CropEmbedder", "Embedder", "JointFace", "Network", "Onnx", "Preprocessing", "load"]
