"""What every embedder has in common."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from metaface.recognition.preprocess import CROP, Preprocessing

BATCH = 16  # pictures at once: what MobileFaceNet is fastest at on a CPU (docs/models.md)


class Embedder(Protocol):
    """What turns aligned crops into embeddings.

    Attributes:
        name: such as ``mobilefacenet_casia``.
        digest: hex; the same weights with the same preprocessing have the same.
        dim: length D of an embedding.
    """

    name: str
    digest: str
    dim: int

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """float32 ``[n, D]``, rows of unit length, of uint8 ``[n, 112, 112, 3]`` RGB crops."""
        ...


class CropEmbedder:
    """What :class:`Network` and :class:`Onnx` share: preprocessing, batches of bounded size, the
    mirrored crops, and unit length.

    Attributes:
        name, digest, dim: see :class:`Embedder`.
        preprocessing: what is done to a crop.
        weights: hex digest of the weights alone.
    """

    def __init__(self, name: str, preprocessing: Preprocessing, weights: str) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.weights = weights
        parts = ("metaface embedder 1", weights, preprocessing.to_json())
        self.digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        self.dim = 0

    def features(self, pictures: Tensor) -> Tensor:
        """float32 ``[n, D]``, of any length, of preprocessed ``[n, C, H, W]``, n <= BATCH."""
        raise NotImplementedError

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """float32 ``[n, D]``, rows of unit length, of uint8 ``[n, 112, 112, 3]`` RGB crops.

        Raises:
            ValueError: crops of another shape or dtype, or that get no direction (an embedding
                that is zero or not finite), by their number.
        """
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (CROP, CROP, 3):
            raise ValueError(
                f"crops must be uint8 [n, {CROP}, {CROP}, 3] RGB, got {crops.dtype} "
                f"{list(crops.shape)}: align faces with metaface.faces.alignment"
            )
        out = np.empty((len(crops), self.dim), np.float32)
        step = BATCH // 2 if self.preprocessing.mirror else BATCH
        for start in range(0, len(crops), step):
            out[start : start + step] = self._sums(crops[start : start + step]).numpy()
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if len(bad):
            raise ValueError(
                f"{self.name} gives crop {bad[0]} an embedding of length {lengths[bad[0], 0]}, "
                "which has no direction: leave that crop out"
            )
        out /= lengths
        return out

    def _sums(self, crops: np.ndarray) -> Tensor:
        pictures = self.preprocessing(crops)
        if not self.preprocessing.mirror:
            return self.features(pictures)
        both = self.features(torch.cat([pictures, pictures.flip(-1)]))
        return both[: len(crops)] + both[len(crops) :]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.dim}-d, {self.digest[:12]})"
