"""Pictures with their labels drawn on them, to look at."""

from __future__ import annotations

import cv2
import numpy as np

from metaface.multitask.samples import UNKNOWN, FaceAnnotations

_FACE, _GREY, _BOX = (60, 220, 90), (128, 128, 128), (255, 230, 0)
_POINTS = ((255, 60, 60), (60, 120, 255), (255, 255, 255), (255, 60, 255), (60, 255, 255))


def sheet(pictures: FaceAnnotations, columns: int = 8, *, scale: int = 2) -> np.ndarray:
    """All pictures side by side with boxes, landmarks, poses and masks.

    Each landmark has its colour: red the eye to the left, blue the eye to the right, white the
    nose, violet and cyan the mouth. A line from the nose shows where the face looks. Seen face is
    tinted green, unknown pixels grey.

    Args:
        columns: pictures in a row.
        scale: how many times larger they are shown.

    Returns:
        uint8 RGB ``[rows * H * scale, columns * W * scale, 3]``.
    """
    n, height, width = pictures.images.shape[:3]
    rows = -(-n // columns)
    tall, wide = height * scale, width * scale
    out = np.zeros((rows * tall, columns * wide, 3), np.uint8)
    for i in range(n):
        shown = cv2.resize(pictures.images[i], (wide, tall), interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(pictures.masks[i], (wide, tall), interpolation=cv2.INTER_NEAREST)
        for value, colour in ((1, _FACE), (UNKNOWN, _GREY)):
            tinted = shown[mask == value] * 0.7 + 0.3 * np.array(colour)
            shown[mask == value] = tinted.astype(np.uint8)
        for face in np.flatnonzero(pictures.image == i):
            _draw(shown, pictures, int(face), scale)
        row, column = divmod(i, columns)
        out[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = shown
    return out


def _draw(shown: np.ndarray, pictures: FaceAnnotations, face: int, scale: int) -> None:
    box, landmarks, pose = pictures.boxes[face], pictures.landmarks[face], pictures.pose[face]
    if not np.isnan(box).any():
        left, top = (int(v * scale) for v in box[:2])
        right, low = (int(v * scale) - 1 for v in box[:2] + box[2:])
        cv2.rectangle(shown, (left, top), (right, low), _BOX, 1)
    for (x, y), colour in zip(landmarks, _POINTS, strict=True):
        if not np.isnan(x + y):
            cv2.circle(shown, (int(x * scale), int(y * scale)), scale, colour, -1)
    if not (np.isnan(pose).any() or np.isnan(landmarks[2]).any() or np.isnan(box).any()):
        yaw, pitch, roll = np.radians(pose)
        ahead = np.array([np.sin(yaw), -np.sin(pitch) * np.cos(yaw)])
        turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        end = landmarks[2] + 0.6 * float(box[2:].max()) * turn @ ahead
        start = tuple(int(v * scale) for v in landmarks[2])
        cv2.line(shown, start, tuple(int(v * scale) for v in end), (255, 255, 255), 1, cv2.LINE_AA)
