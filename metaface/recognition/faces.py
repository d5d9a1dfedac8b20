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
CLEAR = 1.3
"""how many times more prominent than the next a face must be for the choice to be sure"""
_EDGE = 0.5  # prominence of a face in a corner, of the same one's in the middle
_SHARP = 0.5  # share of a face's detail above what another blur leaves, from which it is sharp
_INNER = np.s_[16:104, 16:96]  # rows and columns of the aligned face without what is around it
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
        left: how many other faces the detector found, which were not chosen.
    """

    boxes: np.ndarray
    crops: np.ndarray
    embeddings: np.ndarray
    left: int = 0


def embedded(
    photos: Iterable[Photo], pick: Pick, detector: Detector, embedder: Embedder
) -> Iterator[Seen | Unusable]:
    """The faces that ``pick`` chooses of every photograph, in order, or why there are none.

    A detector that is the ``embedder`` as well (``metaface.multitask.JointFace``) has embedded them
    already.
    """
    one: object = embedder
    joint = detector is one

    def look(photo: Photo) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int] | Unusable:
        try:
            picture, times = reduced(photo)
            found = detector(picture)
            faces = pick(picture, found)
            boxes, left = faces.boxes * np.float32(times), len(found) - len(faces)
            if joint:
                return boxes, align(picture, faces.points), faces.embeddings, left
            return boxes, crops_of(picture, faces, detector), None, left
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
                    yield Seen(boxes, aligned, features[start:stop] if own is None else own, left)
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


def prominence(picture: np.ndarray, faces: Faces) -> np.ndarray:
    """How much each face looks like the one that a photograph of one person is of: float ``[n]``.

    The side of the face in pixels (the root of the area that its box has inside the picture), times

    - the detector's score, cubed: it tells the surest faces from what hardly is one;
    - its place: 1 in the middle of the picture, falling evenly to ``_EDGE`` in a corner;
    - its focus, 1 for all faces that are about sharp, down to 0.1: by how much the detail of the
      aligned face drops when it is blurred once more (Crete et al. 2007), which hardly
      depends on how dark or rich in contrast it is.

    See docs/recognition.md for what it was measured on.
    """
    size = np.array(picture.shape[1::-1])
    start, end = faces.boxes[:, :2], faces.boxes[:, :2] + faces.boxes[:, 2:]
    sides = np.sqrt((end.clip(0, size) - start.clip(0, size)).clip(0).prod(1))
    away = np.hypot(*((start + end) / size - 1).T).clip(0, 2**0.5) / 2**0.5
    focus = [_focus(_grey(picture, five[None])) for five in faces.points]
    return sides * faces.scores**3 * (1 - (1 - _EDGE) * away) * focus


def chosen(picture: np.ndarray, faces: Faces) -> tuple[Faces, bool]:
    """The most prominent face, and whether it is ``CLEAR`` times as prominent as every other.

    Raises:
        Unusable: ``no_face``.
    """
    _some(picture, faces)
    if len(faces) == 1:
        return faces, True
    values = prominence(picture, faces)
    first, second = np.argsort(-values, kind="stable")[:2]
    return faces[first : first + 1], bool(values[first] > CLEAR * values[second])


def most_prominent(picture: np.ndarray, faces: Faces) -> Faces:
    """The face that a photograph of one person is of, as well as can be told.

    Raises:
        Unusable: ``no_face``.
    """
    return chosen(picture, faces)[0]


def the_one(picture: np.ndarray, faces: Faces) -> Faces:
    """The face of a photograph of one person: the only one, or one that clearly stands out.

    Raises:
        Unusable: ``no_face``, ``face_too_small`` or ``several_faces``.
    """
    _some(picture, faces)
    faces = _large(faces, SMALLEST)
    face, clear = chosen(picture, faces)
    if not clear:
        raise Unusable(
            "several_faces", f"{len(faces)} faces, none stands out: crop it to the person meant"
        )
    return face


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
    grey = _grey(picture, face.points)
    if grey.std() < _LEAST_CONTRAST:
        raise Unusable("low_quality", f"hardly any contrast ({grey.std():.1f} grey levels)")
    sharpness = _sharpness(grey)
    if sharpness < _LEAST_SHARPNESS:
        raise Unusable("low_quality", f"blurred (sharpness {sharpness:.1f})")
    return face


def _grey(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The aligned face ``[112, 112]`` of landmarks ``[1, 5, 2]``."""
    return cv2.cvtColor(align(picture, points)[0], cv2.COLOR_RGB2GRAY)


def _sharpness(grey: np.ndarray) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).std())


def _focus(grey: np.ndarray) -> float:
    """0.1..1; what the rounding of grey levels adds is on both sides, so that it is no detail."""
    again = cv2.GaussianBlur(grey, (0, 0), 2)
    fine, coarse = (cv2.Laplacian(g, cv2.CV_32F)[_INNER].std() for g in (grey, again))
    return float(np.clip((fine / max(coarse, 0.1) - 1) / _SHARP, 0.1, 1))


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
