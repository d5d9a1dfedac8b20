"""From photographs to aligned faces, many at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from metaface.recognition.align import align
from metaface.recognition.detect import Detector, Faces
from metaface.recognition.embed import Embedder
from metaface.recognition.exposure import exposed
from metaface.recognition.photos import Photo, Unusable, reduced

SMALLEST = 16
"""pixels: the shorter side of a face that is looked at"""
SMALLEST_ENROLLED = 32
"""pixels: and of one that is enrolled"""
_DOMINANT = 1.5  # how many times larger than the next a face must be to be the photograph's
_LEAST_SCORE = 0.7  # of the detector, to be enrolled
_LEAST_CONTRAST = 8.0  # standard deviation of the grey levels, 0..255, to be enrolled
_LEAST_SHARPNESS = 4.0  # standard deviation of the Laplacian of the crop, to be enrolled
_CHUNK = 32  # photographs at once

Pick = Callable[[np.ndarray, Faces], Faces]


@dataclass(frozen=True, eq=False)
class Seen:
    """Faces, as those who recognise them need them.

    Attributes:
        boxes: float32 ``[n, 4]``: left, top, width, height in pixels of the upright photograph.
        crops: uint8 ``[n, 112, 112, 3]``.
        embeddings: float32 ``[n, D]``, unit length.
    """

    boxes: np.ndarray
    crops: np.ndarray
    embeddings: np.ndarray


def embedded(
    photos: Iterable[Photo], pick: Pick, detector: Detector, embedder: Embedder
) -> Iterator[Seen | Unusable]:
    """The faces that ``pick`` chooses of every photograph, in order, or why there are none.

    A detector that is the ``embedder`` as well (``metaface.multitask.JointFace``) has embedded them
    already.
    """
    one: object = embedder
    joint = detector is one

    def look(photo: Photo) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | Unusable:
        try:
            picture, times = reduced(photo)
            faces = pick(picture, detector(picture))
            boxes = faces.boxes * np.float32(times)
            if joint:
                return boxes, align(picture, faces.points), faces.embeddings
            return boxes, crops_of(picture, faces, detector), None
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
                    boxes, aligned, own = pair
                    stop = start + len(aligned)
                    yield Seen(boxes, aligned, features[start:stop] if own is None else own)
                    start = stop


def crops_of(picture: np.ndarray, faces: Faces, detector: Detector) -> np.ndarray:
    """uint8 RGB ``[n, 112, 112, 3]``: the faces as they are embedded."""
    closer = getattr(detector, "closer", None)
    return exposed(align(picture, (closer(picture, faces) if closer else faces).points))


def everyone(picture: np.ndarray, faces: Faces) -> Faces:
    """All faces that are large enough.

    Raises:
        Unusable: ``no_face`` or ``face_too_small``.
    """
    _some(picture, faces)
    return _large(faces, SMALLEST)


def the_one(picture: np.ndarray, faces: Faces) -> Faces:
    """The face of a photograph of one person: the only one, or one much larger than the others.

    Raises:
        Unusable: ``no_face``, ``face_too_small`` or ``several_faces``.
    """
    _some(picture, faces)
    faces = _large(faces, SMALLEST)
    areas = faces.boxes[:, 2:].prod(1)
    order = np.argsort(-areas, kind="stable")
    if len(faces) > 1 and areas[order[0]] < _DOMINANT * areas[order[1]]:
        raise Unusable(
            "several_faces", f"{len(faces)} faces of like size: crop it to the person meant"
        )
    return faces[order[:1]]


def to_enrol(picture: np.ndarray, faces: Faces) -> Faces:
    """:func:`the_one`, if it is good enough to recognise a person by.

    Raises:
        Unusable: as :func:`the_one`, or ``low_quality``.
    """
    face = _large(the_one(picture, faces), SMALLEST_ENROLLED)
    if face.scores[0] < _LEAST_SCORE:
        raise Unusable(
            "low_quality", f"the detector is not sure of the face ({face.scores[0]:.2f})"
        )
    grey = cv2.cvtColor(align(picture, face.points)[0], cv2.COLOR_RGB2GRAY)
    if grey.std() < _LEAST_CONTRAST:
        raise Unusable("low_quality", f"hardly any contrast ({grey.std():.1f} grey levels)")
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).std())
    if sharpness < _LEAST_SHARPNESS:
        raise Unusable("low_quality", f"blurred (sharpness {sharpness:.1f})")
    return face


def middle(picture: np.ndarray, faces: Faces) -> Faces:
    """The face nearest the middle of the photograph: what sets such as LFW are about.

    Raises:
        Unusable: ``no_face``.
    """
    _some(picture, faces)
    centre = np.array(picture.shape[1::-1]) / 2
    away = np.abs(faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - centre).sum(1)
    return faces[[int(away.argmin())]]  # type: ignore[index]


def _some(picture: np.ndarray, faces: Faces) -> None:
    if not len(faces):
        raise Unusable("no_face", f"no face found in {picture.shape[1]}x{picture.shape[0]} pixels")


def _large(faces: Faces, smallest: int) -> Faces:
    sides = faces.boxes[:, 2:].min(1)
    if sides.max() < smallest:
        raise Unusable(
            "face_too_small", f"{sides.max()!s} pixels: a face needs {smallest} at least"
        )
    return faces[sides >= smallest]
