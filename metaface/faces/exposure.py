"""Badly lit faces, made as bright as those that networks were trained on."""

from __future__ import annotations

import cv2
import numpy as np

_MIDDLE = (slice(30, 105), slice(24, 88))  # of an aligned crop: brows to chin, cheek to cheek
_DARK = 0.3  # median grey, 0..1, below which a face is brightened
_GAMMAS = (0.2, 3.0)
_LEVELS = np.arange(256) / 255


def brighten_dark(crops: np.ndarray) -> np.ndarray:
    """Aligned crops, the dark ones with a gamma that brings the median grey of the face to 0.3.

    Of what was tried on Yale B (this, histogram equalisation, local and not, and retinex) it is the
    best, and it changes nothing of most photographs. Bright faces stay: sketches are.

    Args:
        crops: uint8 RGB ``[n, 112, 112, 3]``, not changed.
    """
    return np.stack([brighten(c, c[_MIDDLE], _DARK, 1.0) for c in crops]) if len(crops) else crops


def brighten(picture: np.ndarray, face: np.ndarray, low: float, high: float) -> np.ndarray:
    """The uint8 RGB ``picture`` with the gamma that brings the median grey of ``face``, a part of
    it ``[h, w, 3]``, to the nearest of ``low``..``high`` (0..1)."""
    median = float(np.median(cv2.cvtColor(np.ascontiguousarray(face), cv2.COLOR_RGB2GRAY))) / 255
    goal = min(max(median, low), high)
    if goal == median:
        return picture
    gamma = np.clip(np.log(goal) / np.log(np.clip(median, 0.01, 0.98)), *_GAMMAS)
    return cv2.LUT(picture, (255 * _LEVELS**gamma).round().astype(np.uint8))
