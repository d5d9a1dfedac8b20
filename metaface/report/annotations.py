"""Pictures with the labels of their faces drawn on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

_FACE, _GREY, _BOX = (60, 220, 90), (128, 128, 128), (255, 230, 0)
_POINTS = ((255, 60, 60), (60, 120, 255), (255, 255, 255), (255, 60, 255), (60, 255, 255))


def draw_annotations(labels: Mapping[str, Any], columns: int = 8, *, scale: int = 2) -> np.ndarray:
    """Pictures side by side with boxes, landmarks, poses and masks.

    Each landmark has its colour: red the eye to the left, blue the eye to the right, white the
    nose, violet and cyan the mouth. A line from the nose shows where the face looks. Seen face is
    tinted green, unknown pixels grey.

    Args:
        labels: ``images`` uint8 ``[n, H, W, 3]`` and ``masks`` uint8 ``[n, H, W]`` (1 face, 0
            none, 255 unknown); and of F faces ``image`` int64 ``[F]``, the picture of each,
            ``boxes`` ``[F, 4]`` (left, top, width, height) and ``landmarks`` ``[F, 5, 2]`` in
            pixels, ``pose`` ``[F, 3]`` in degrees; NaN: unknown.
        columns: pictures in a row.
        scale: how many times larger they are shown.

    Returns:
        uint8 RGB ``[rows * H * scale, columns * W * scale, 3]``.

    Example:
        >>> from metaface.multitask import FaceSprites, compose
        >>> from metaface.report import draw_annotations
        >>> scenes = compose(FaceSprites.procedural(people=2, photos=2, image_size=64), 4, size=96)
        >>> draw_annotations(vars(scenes), columns=2, scale=3).shape
        (576, 576, 3)
    """
    n, height, width = labels["images"].shape[:3]
    rows = -(-n // columns)
    tall, wide = height * scale, width * scale
    sheet = np.zeros((rows * tall, columns * wide, 3), np.uint8)
    for i in range(n):
        shown, mask = (
            cv2.resize(labels[name][i], (wide, tall), interpolation=cv2.INTER_NEAREST)
            for name in ("images", "masks")
        )
        for value, colour in ((1, _FACE), (255, _GREY)):
            tinted = shown[mask == value] * 0.7 + 0.3 * np.array(colour)
            shown[mask == value] = tinted.astype(np.uint8)
        for face in np.flatnonzero(labels["image"] == i):
            box, landmarks, pose = (labels[name][face] for name in ("boxes", "landmarks", "pose"))
            _draw_face(shown, box * scale, landmarks * scale, pose, scale)
        row, column = divmod(i, columns)
        sheet[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = shown
    return sheet


def _draw_face(
    shown: np.ndarray, box: np.ndarray, landmarks: np.ndarray, pose: np.ndarray, radius: int
) -> None:
    """Draw the labels of a face, in pixels of ``shown``."""
    if not np.isnan(box).any():
        left, top = box[:2].astype(int).tolist()
        right, bottom = (box[:2] + box[2:]).astype(int).tolist()
        cv2.rectangle(shown, (left, top), (right - 1, bottom - 1), _BOX, 1)
    for point, colour in zip(landmarks, _POINTS, strict=True):
        if not np.isnan(point).any():
            cv2.circle(shown, point.astype(int).tolist(), radius, colour, -1)
    if not (np.isnan(pose).any() or np.isnan(landmarks[2]).any() or np.isnan(box).any()):
        yaw, pitch, roll = np.radians(pose)
        ahead = np.array([np.sin(yaw), -np.sin(pitch) * np.cos(yaw)])
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        end = landmarks[2] + 0.6 * float(box[2:].max()) * turn @ ahead
        start, end = (point.astype(int).tolist() for point in (landmarks[2], end))
        cv2.line(shown, start, end, (255, 255, 255), 1, cv2.LINE_AA)
