"""From photographs to embeddings of the faces in them, many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from metaface.faces.alignment import align
from metaface.faces.choose import Pick, crop_faces
from metaface.faces.detect import Detector
from metaface.faces.photos import Photo, Unusable, read_reduced
from metaface.recognition.embedders import Embedder
from metaface.recognition.results import Chosen

_CHUNK = 32  # photographs at once


@dataclass(frozen=True, eq=False)
class EmbeddedFaces:
    """The chosen faces of a photograph.

    Attributes:
        boxes: float32 ``[n, 4]``: left, top, width, height in pixels of the upright photograph.
        crops: uint8 ``[n, 112, 112, 3]``.
        embeddings: float32 ``[n, D]``, unit length.
        left: how many other faces the detector found, which were not chosen.
    """

    boxes: np.ndarray
    crops: np.ndarray
    embeddings: np.ndarray
    left: int = 0

    def box(self, face: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of a face, to a tenth of a pixel."""
        left, top, width, height = (round(float(v), 1) for v in self.boxes[face])
        return left, top, width, height

    def describe_choice(self, path: str) -> Chosen:
        """Which face of the photograph at ``path`` was chosen, the first here."""
        return Chosen(path, self.box(0), self.left)


def embed_faces(
    photos: Iterable[Photo], pick: Pick, detector: Detector, embedder: Embedder
) -> Iterator[EmbeddedFaces | Unusable]:
    """The faces that ``pick`` chooses of every photograph, in order, or why there are none.

    A detector that is the ``embedder`` as well (``metaface.recognition.JointFace``) has embedded
    them already.
    """
    one: object = embedder
    joint = detector is one

    def find(photo: Photo) -> EmbeddedFaces | Unusable:
        try:
            picture, times = read_reduced(photo)
            detections = detector(picture)
            faces = pick(picture, detections)
            boxes, left = faces.boxes * np.float32(times), len(detections) - len(faces)
            if joint:
                assert faces.embeddings is not None
                crops = align(picture, faces.landmarks)
                return EmbeddedFaces(boxes, crops, faces.embeddings, left)
            return EmbeddedFaces(boxes, crop_faces(picture, faces, detector), np.empty(0), left)
        except Unusable as why:
            return why

    photos = iter(photos)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        while chunk := list(islice(photos, _CHUNK)):
            results = [find(chunk[0])] if len(chunk) == 1 else list(pool.map(find, chunk))
            usable = [faces for faces in results if isinstance(faces, EmbeddedFaces)]
            if usable and not joint:
                features = embedder(np.concatenate([faces.crops for faces in usable]))
                ends = np.cumsum([len(faces.crops) for faces in usable])
                parts = iter(np.split(features, ends[:-1]))
                results = [
                    faces if isinstance(faces, Unusable) else replace(faces, embeddings=next(parts))
                    for faces in results
                ]
            yield from results
