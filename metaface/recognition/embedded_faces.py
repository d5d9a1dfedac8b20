"""From photographs to embeddings of the faces in them, many at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from metaface.faces.alignment import align
from metaface.faces.choose import Pick, crop_faces
from metaface.faces.detect import Detector
from metaface.faces.photos import Photo, Unusable, read_reduced
from metaface.recognition.embedders import Embedder

_CHUNK = 32  # photographs at once


@dataclass(frozen=True, eq=False)
class EmbeddedFaces:
    """Faces, as those who recognise them need them.

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


def embed_faces(
    photos: Iterable[Photo], pick: Pick, detector: Detector, embedder: Embedder
) -> Iterator[EmbeddedFaces | Unusable]:
    """The faces that ``pick`` chooses of every photograph, in order, or why there are none.

    A detector that is the ``embedder`` as well (``metaface.recognition.JointFace``) has embedded
    them already.
    """
    one: object = embedder
    joint = detector is one

    def look(photo: Photo) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int] | Unusable:
        try:
            picture, times = read_reduced(photo)
            found = detector(picture)
            faces = pick(picture, found)
            boxes, left = faces.boxes * np.float32(times), len(found) - len(faces)
            if joint:
                return boxes, align(picture, faces.landmarks), faces.embeddings, left
            return boxes, crop_faces(picture, faces, detector), None, left
        except Unusable as why:
            return why

    photos = iter(photos)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        while chunk := list(islice(photos, _CHUNK)):
            looked = [look(chunk[0])] if len(chunk) == 1 else list(pool.map(look, chunk))
            crops = [pair[1] for pair in looked if not isinstance(pair, Unusable)]
            features = embedder(np.concatenate(crops)) if crops and not joint else np.empty(0)
            start = 0
            for pair in looked:
                if isinstance(pair, Unusable):
                    yield pair
                else:
                    boxes, aligned, own, left = pair
                    stop = start + len(aligned)
                    yield EmbeddedFaces(
                        boxes, aligned, features[start:stop] if own is None else own, left
                    )
                    start = stop
