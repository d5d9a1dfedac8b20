"""Which of the faces in a photograph are meant, and whether they are good enough."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from metaface.faces.alignment import align
from metaface.faces.detect import Detector
from metaface.faces.detections import Detections
from metaface.faces.exposure import brighten_dark
from metaface.faces.photos import Unusable

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

Pick = Callable[[np.ndarray, Detections], Detections]


def crop_faces(picture: np.ndarray, faces: Detections, detector: Detector) -> np.ndarray:
    """uint8 RGB ``[n, 112, 112, 3]``: the faces as they are embedded."""
    if hasattr(detector, "closer"):
        raise TypeError(f"{type(detector).__name__}.closer is now called refine: rename it")
    refine = getattr(detector, "refine", None)
    return brighten_dark(align(picture, (refine(picture, faces) if refine else faces).landmarks))


def pick_all(picture: np.ndarray, faces: Detections) -> Detections:
    """All faces that are large enough.

    Raises:
        Unusable: ``no_face`` or ``face_too_small``.
    """
    _refuse_none(picture, faces)
    return _drop_small(faces, SMALLEST)


def measure_prominence(picture: np.ndarray, faces: Detections) -> np.ndarray:
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
    focus = [_measure_focus(_align_grey(picture, five[None])) for five in faces.landmarks]
    return sides * faces.scores**3 * (1 - (1 - _EDGE) * away) * focus


def pick_prominent(picture: np.ndarray, faces: Detections) -> tuple[Detections, bool]:
    """The most prominent face, and whether it is ``CLEAR`` times as prominent as every other.

    Raises:
        Unusable: ``no_face``.
    """
    _refuse_none(picture, faces)
    if len(faces) == 1:
        return faces, True
    values = measure_prominence(picture, faces)
    first, second = np.argsort(-values, kind="stable")[:2]
    return faces[first : first + 1], bool(values[first] > CLEAR * values[second])


def pick_most_prominent(picture: np.ndarray, faces: Detections) -> Detections:
    """The face that a photograph of one person is of, as well as can be told.

    Raises:
        Unusable: ``no_face``.
    """
    return pick_prominent(picture, faces)[0]


def pick_one(picture: np.ndarray, faces: Detections) -> Detections:
    """The face of a photograph of one person: the only one, or one that clearly stands out.

    Raises:
        Unusable: ``no_face``, ``face_too_small`` or ``several_faces``.
    """
    _refuse_none(picture, faces)
    faces = _drop_small(faces, SMALLEST)
    face, clear = pick_prominent(picture, faces)
    if not clear:
        raise Unusable(
            "several_faces", f"{len(faces)} faces, none stands out: crop it to the person meant"
        )
    return face


def pick_to_enrol(picture: np.ndarray, faces: Detections) -> Detections:
    """:func:`pick_one`, if it is good enough to recognise a person by.

    Raises:
        Unusable: as :func:`pick_one`, or ``low_quality``.
    """
    face = _drop_small(pick_one(picture, faces), SMALLEST_ENROLLED)
    if face.scores[0] < _LEAST_SCORE:
        raise Unusable(
            "low_quality", f"the detector is not sure of the face ({face.scores[0]:.2f})"
        )
    grey = _align_grey(picture, face.landmarks)
    if grey.std() < _LEAST_CONTRAST:
        raise Unusable("low_quality", f"hardly any contrast ({grey.std():.1f} grey levels)")
    sharpness = _measure_sharpness(grey)
    if sharpness < _LEAST_SHARPNESS:
        raise Unusable("low_quality", f"blurred (sharpness {sharpness:.1f})")
    return face


def _align_grey(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The aligned face ``[112, 112]`` of landmarks ``[1, 5, 2]``."""
    return cv2.cvtColor(align(picture, landmarks)[0], cv2.COLOR_RGB2GRAY)


def _measure_sharpness(grey: np.ndarray) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).std())


def _measure_focus(grey: np.ndarray) -> float:
    """0.1..1; what the rounding of grey levels adds is on both sides, so that it is no detail."""
    again = cv2.GaussianBlur(grey, (0, 0), 2)
    fine, coarse = (cv2.Laplacian(g, cv2.CV_32F)[_INNER].std() for g in (grey, again))
    return float(np.clip((fine / max(coarse, 0.1) - 1) / _SHARP, 0.1, 1))


def _refuse_none(picture: np.ndarray, faces: Detections) -> None:
    if not len(faces):
        raise Unusable("no_face", f"no face found in {picture.shape[1]}x{picture.shape[0]} pixels")


def _drop_small(faces: Detections, smallest: int) -> Detections:
    sides = faces.boxes[:, 2:].min(1)
    if sides.max() < smallest:
        raise Unusable(
            "face_too_small", f"{sides.max()!s} pixels: a face needs {smallest} at least"
        )
    return faces[sides >= smallest]
