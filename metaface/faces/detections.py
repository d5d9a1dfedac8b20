"""Faces as a detector finds them: boxes, landmarks, scores; and how boxes overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """The faces of a picture, the surest first.

    Attributes:
        boxes: float32 ``[n, 4]``: left, top, width, height, in pixels.
        landmarks: float32 ``[n, 5, 2]``: x, y of eye, eye, nose, mouth corner, mouth corner, each
            pair from left to right in the picture.
        scores: float32 ``[n]``, 0..1.
        embeddings: float32 ``[n, D]``, unit length, of a detector that is the embedder as well.

    Example:
        >>> import numpy as np
        >>> from metaface.faces import Detections
        >>> boxes = np.float32([[10, 10, 50, 60], [90, 20, 40, 50]])
        >>> faces = Detections(boxes, np.zeros((2, 5, 2), np.float32), np.float32([0.9, 0.7]))
        >>> len(faces), faces[faces.scores > 0.8].boxes.tolist()
        (2, [[10.0, 10.0, 50.0, 60.0]])
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        own = None if self.embeddings is None else self.embeddings[index]
        return Detections(self.boxes[index], self.landmarks[index], self.scores[index], own)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union, float ``[n, m]``, of boxes ``[n, 4]`` and ``[m, 4]``."""
    both = intersect_areas(first, second)
    areas = first[:, None, 2:].prod(-1) + second[None, :, 2:].prod(-1) - both
    return both / np.maximum(areas, 1e-12)


def intersect_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The areas ``[n, m]`` that boxes share."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    ends = (first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    return np.clip(np.minimum(*ends) - start, 0, None).prod(-1)
