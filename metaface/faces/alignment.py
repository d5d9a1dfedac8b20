"""From five landmarks to the 112x112 crop that face networks are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 112
TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""float64 ``[5, 2]``: x, y in the crop of the eye, eye, nose, mouth corner, mouth corner, each
pair from left to right in the picture (ArcFace, Deng et al. 2019, as InsightFace publishes it)"""
MIRRORED = np.array([1, 0, 2, 4, 3])
"""Where each landmark of a mirrored picture was before"""


def align(picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The faces of one picture, each turned, scaled and shifted onto the template.

    Args:
        picture: uint8 RGB ``[H, W, 3]``.
        landmarks: float ``[n, 5, 2]``, x and y in pixels, in the template's order.

    Returns:
        uint8 RGB ``[n, 112, 112, 3]``; black where the picture ends.
    """
    crops = np.empty((len(landmarks), SIDE, SIDE, 3), np.uint8)
    for i, matrix in enumerate(fit_similarity(landmarks)):
        crops[i] = warp(picture, matrix, SIDE)
    return crops


def warp(picture: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """A square of ``side`` pixels in which ``matrix @ (x, y, 1)``, ``[2, 3]`` without shear, is the
    place of the picture's pixel x, y; black where the picture ends."""
    # what is much larger than the square is reduced first, so that no pixel is passed over
    scale = float(np.hypot(*matrix[0, :2]))
    halvings = max(0, int(np.log2(1 / scale))) if scale > 0 else 0
    if halvings:
        picture, matrix = _reduce(picture, matrix, side, 2**halvings)
    square: np.ndarray = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return square


def shrink(crops: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    """uint8 ``[n, size, size, 3]`` of square crops of any size, by the mean of the pixels."""
    shape = (size, size)
    return np.stack([cv2.resize(crop, shape, interpolation=cv2.INTER_AREA) for crop in crops])


def fit_similarity(landmarks: np.ndarray) -> np.ndarray:
    """The least-squares similarity transforms from ``landmarks`` to the template.

    In closed form (Umeyama 1991, in the plane, without reflection), all faces at once.

    Args:
        landmarks: float ``[n, 5, 2]``.

    Returns:
        float64 ``[n, 2, 3]``: ``matrix @ (x, y, 1)`` is the place in the crop.
    """
    landmarks = np.asarray(landmarks, np.float64)
    centre, goal = landmarks.mean(1, keepdims=True), TEMPLATE.mean(0)
    a, b = landmarks - centre, TEMPLATE - goal
    size = np.maximum((a**2).sum((1, 2)), 1e-12)
    cos = (a * b).sum((1, 2)) / size
    sin = (a[..., 0] * b[:, 1] - a[..., 1] * b[:, 0]).sum(1) / size
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    shift = goal[:, None] - turn @ centre.transpose(0, 2, 1)
    return np.concatenate([turn, shift], 2)


def _reduce(
    picture: np.ndarray, matrix: np.ndarray, side: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the picture that the square shows, reduced by ``factor``, and its transform."""
    corners = np.array([[0, 0, side, side], [0, side, 0, side]], np.float64)
    back = np.linalg.inv(matrix[:, :2]) @ (corners - matrix[:, 2:])
    height, width = picture.shape[:2]
    left, top = np.clip(np.floor(back.min(1)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(back.max(1)).astype(int), (left + 1, top + 1), (width, height))
    part = picture[top:bottom, left:right]
    size = (max(1, round(part.shape[1] / factor)), max(1, round(part.shape[0] / factor)))
    smaller = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    # pixel centres: x = left + (u + 0.5) * step - 0.5
    step = np.array([part.shape[1] / size[0], part.shape[0] / size[1]])
    start = np.array([left, top]) + 0.5 * step - 0.5
    turn = matrix[:, :2] * step
    return smaller, np.concatenate([turn, (matrix[:, :2] @ start + matrix[:, 2])[:, None]], 1)
