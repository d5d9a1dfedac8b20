"""Finding faces: boxes and five landmarks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from metaface.arguments import refuse_moved
from metaface.faces.alignment import TEMPLATE
from metaface.faces.detections import Detections, intersect_areas, overlaps
from metaface.faces.landmarks import refine_landmarks

LONGEST = 1280
"""pixels: a longer picture is reduced to this to be searched"""
_SMALL = 480  # and then at half the size, down to about this: YuNet knows faces up to 300 pixels
_MARGIN = 0.15  # of the longer side, around a picture: faces at the border are found, too
_MULTIPLE = 32  # what YuNet's sides must be multiples of
_OVERLAP = 0.45  # IoU from which two boxes are one face (as its authors test it)
_LARGE = 400  # pixels: faces of this height, as searched, have parts that are taken for faces
_INSIDE = 0.6  # share of a box inside a surer one from which it is a part of that face
_turn = threading.Lock()


class Detector(Protocol):
    """Anything that finds faces with five landmarks. Several threads may call it at once.

    One that also has ``refine(picture, faces) -> Detections`` is asked to place the landmarks of
    the faces that matter again, before they are aligned.
    """

    name: str

    def __call__(self, picture: np.ndarray) -> Detections:
        """The faces of a uint8 RGB picture ``[H, W, 3]``; their coordinates are its pixels."""
        ...


class YuNet:
    """YuNet (Wu, Peng, Yu 2023) through OpenCV's ``FaceDetectorYN``.

    A picture is searched at its own size, at most ``LONGEST``, and at halves of it; what was found
    at several sizes is averaged by the squares of the scores (weighted boxes fusion, Solovyev,
    Wang, Gabruseva 2021).

    Args:
        path: ``yunet_n_640_640.onnx`` or one like it.
        min_score: the smallest score that counts as a face, 0..1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that OpenCV does not take for YuNet.

    Example:
        With the model's file, on a uint8 RGB picture ``[H, W, 3]``:

        >>> import metaface as mf
        >>> detect = mf.faces.YuNet("models/yunet_n_640_640.onnx")  # doctest: +SKIP
        >>> detect(picture).boxes.shape  # doctest: +SKIP
    """

    name = "yunet"

    @refuse_moved(least="min_score")
    def __init__(self, path: str | Path, min_score: float = 0.6) -> None:
        self.path, self.min_score = Path(path), min_score
        if not self.path.is_file():
            raise FileNotFoundError(f"no detector model at {path}: metaface models fetch yunet")
        self._own = threading.local()  # a FaceDetectorYN serves one thread at a time
        self._net()

    def __call__(self, picture: np.ndarray) -> Detections:
        longest = max(picture.shape[:2])
        scale = min(1.0, LONGEST / longest)
        large = _LARGE / scale
        results = [self._search(picture, scale)]
        while scale * longest > _SMALL:
            scale /= 2
            results.append(self._search(picture, scale))
        return drop_parts(fuse(results), large)

    def refine(self, picture: np.ndarray, faces: Detections) -> Detections:
        """``faces`` of the picture with landmarks found again; see :func:`refine_landmarks`."""
        return refine_landmarks(picture, faces, self)

    def _search(self, picture: np.ndarray, scale: float) -> Detections:
        height, width = picture.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != (width, height):
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        margin = round(_MARGIN * max(size)) if max(size) <= _SMALL else 0
        right, bottom = (-(side + 2 * margin) % _MULTIPLE + margin for side in size)
        picture = cv2.copyMakeBorder(
            picture[..., ::-1], margin, bottom, margin, right, cv2.BORDER_CONSTANT
        )
        net = self._net()
        net.setInputSize(picture.shape[1::-1])
        _, rows = net.detect(picture)
        if rows is None:
            rows = np.empty((0, 15), np.float32)
        pairs = rows[:, :14].reshape(-1, 7, 2)  # left-top, size, five points
        pairs[:, [0, 2, 3, 4, 5, 6]] -= margin
        pairs *= np.array([width / size[0], height / size[1]], np.float32)
        return Detections(pairs[:, :2].reshape(-1, 4), pairs[:, 2:], rows[:, 14])

    def _net(self) -> cv2.FaceDetectorYN:
        net: cv2.FaceDetectorYN | None = getattr(self._own, "net", None)
        if net is None:
            try:
                with _no_log():
                    net = cv2.FaceDetectorYN.create(
                        str(self.path), "", (320, 320), self.min_score, _OVERLAP
                    )
            except cv2.error as error:
                raise ValueError(
                    f"OpenCV {cv2.__version__} does not take {self.path} for a YuNet model "
                    f"({error.err or error}): metaface models check"
                ) from error
            self._own.net = net
        return net


@contextmanager
def _no_log() -> Iterator[None]:
    """OpenCV without its warnings, in one thread at a time: the level is the process's."""
    with _turn:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            yield
        finally:
            cv2.utils.logging.setLogLevel(level)


class Cascade:
    """OpenCV's bundled frontal-face cascade (Viola, Jones 2001): the fall-back without a model.

    It has no landmarks: they are put where they lie in an average upright face, so recognition is
    much worse than with YuNet. OpenCV 5 no longer has it.

    Raises:
        ImportError: this OpenCV has no cascades.

    Example:
        With OpenCV 4, on a uint8 RGB picture ``[H, W, 3]``:

        >>> import metaface as mf
        >>> detect = mf.faces.Cascade()  # doctest: +SKIP
        >>> detect(picture).boxes.shape  # doctest: +SKIP
    """

    name = "cascade"

    def __init__(self) -> None:
        if not hasattr(cv2, "CascadeClassifier"):
            raise ImportError(
                f"OpenCV {cv2.__version__} has no cascade classifier: metaface models fetch yunet, "
                "or pip install 'opencv-python-headless<5'"
            )
        self._own = threading.local()

    def __call__(self, picture: np.ndarray) -> Detections:
        if not hasattr(self._own, "net"):
            path = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
            path /= "haarcascade_frontalface_default.xml"
            self._own.net = cv2.CascadeClassifier(str(path))  # type: ignore[attr-defined]
        height, width = picture.shape[:2]
        scale = min(1.0, LONGEST / max(height, width))
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (max(1, round(width * scale)), max(1, round(height * scale))))
        boxes, _, weights = self._own.net.detectMultiScale3(grey, 1.1, 5, outputRejectLevels=True)
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4) / scale
        order = np.argsort(-np.asarray(weights, np.float32).ravel(), kind="stable")
        # the cascade's square lies around the template's about so
        landmarks = boxes[:, None, :2] + (0.14 + 0.72 * TEMPLATE / 112) * boxes[:, None, 2:]
        scores = 1 - np.exp(-np.asarray(weights, np.float32).ravel() / 4)
        return Detections(boxes, landmarks.astype(np.float32), scores.clip(0, 1))[order]


def fuse(results: Sequence[Detections]) -> Detections:
    """One list of several of the same picture: boxes that overlap become one, averaged."""
    boxes, landmarks, scores = (
        np.concatenate([getattr(faces, name) for faces in results])
        for name in ("boxes", "landmarks", "scores")
    )
    order = np.argsort(-scores, kind="stable")
    if len(results) == 1 or not len(order):
        return Detections(boxes, landmarks, scores)[order]
    boxes, landmarks, scores = boxes[order], landmarks[order], scores[order]
    same = overlaps(boxes, boxes) > _OVERLAP
    left = np.ones(len(boxes), bool)
    merged = []
    for i in range(len(boxes)):
        if left[i]:
            group = same[i] & left
            group[i] = True
            left &= ~group
            weights = scores[group] ** 2
            merged.append(
                (np.average(boxes[group], 0, weights), np.average(landmarks[group], 0, weights), i)
            )
    kept = [i for _, _, i in merged]
    return Detections(
        np.stack([box for box, _, _ in merged]).astype(np.float32),
        np.stack([five for _, five, _ in merged]).astype(np.float32),
        scores[kept],
    )


def drop_parts(faces: Detections, large: float) -> Detections:
    """Those that do not lie for the most part inside a surer one higher than ``large`` pixels.

    In a face that is larger than it knows them YuNet finds others: an eye and a nostril will do.
    """
    areas = faces.boxes[:, 2:].prod(1)
    inside = intersect_areas(faces.boxes, faces.boxes) > _INSIDE * areas[:, None]
    surer = faces.scores[:, None] < faces.scores
    return faces[~(inside & surer & (faces.boxes[:, 3] > large)).any(1)]
