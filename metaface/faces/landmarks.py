"""Landmarks found again, close up and well lit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from metaface.faces.alignment import MIRRORED, warp
from metaface.faces.detections import Detections
from metaface.faces.exposure import brighten

_SIDE = 256  # pixels of the window that is looked at
_GROW = 1.3  # its side, in the longer side of the face's box
_GREY = 0.45  # the median grey of the face in it, 0..1
_AWAY = 0.25  # of the window's side: a face further from its middle is another one


def refine_landmarks(
    picture: np.ndarray, faces: Detections, find: Callable[[np.ndarray], Detections]
) -> Detections:
    """``faces`` with landmarks from a window around each, of one size and brightness.

    The window and its mirror image are searched, and what is found in both is averaged; a face that
    is not found again keeps its landmarks. Detectors place landmarks worst where faces are small
    and shadows hard, and a crop that is off by a few pixels costs more than the shadow itself.

    Args:
        picture: uint8 RGB ``[H, W, 3]``.
        faces: of that picture.
        find: the faces of a picture.
    """
    landmarks = faces.landmarks.copy()
    for i, (left, top, width, height) in enumerate(faces.boxes):
        scale = _SIDE / (_GROW * max(width, height, 1.0))
        start = np.array([left + width / 2, top + height / 2]) - _SIDE / 2 / scale
        box = np.round([left + width / 8, left + width * 7 / 8, top + height / 6, top + height])
        x0, x1, y0, y1 = box.clip(0).astype(int)
        face = picture[y0:y1, x0:x1]
        matrix = np.array([[scale, 0, -scale * start[0]], [0, scale, -scale * start[1]]])
        window = warp(picture, matrix, _SIDE)
        if face.size:
            window = brighten(window, face, _GREY, _GREY)
        mirrored = _pick_middle(find(np.ascontiguousarray(window[:, ::-1])))
        if mirrored is not None:
            mirrored = mirrored[MIRRORED] * (-1, 1) + (_SIDE - 1, 0)
        located = [five for five in (_pick_middle(find(window)), mirrored) if five is not None]
        if located:
            landmarks[i] = np.mean(located, 0) / scale + start
    return replace(faces, landmarks=landmarks)


def _pick_middle(faces: Detections) -> np.ndarray | None:
    """The landmarks ``[5, 2]`` of the face in the middle of a window, if there is one."""
    if not len(faces):
        return None
    away = np.abs(faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - _SIDE / 2).sum(1)
    nearest = int(away.argmin())
    return faces.landmarks[nearest] if away[nearest] < _AWAY * _SIDE else None
