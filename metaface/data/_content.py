"""Photographs known by what they show, wherever they lie and whatever they are called."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_LOOKED_AT = 28  # pixels a side
_SHADE = 8  # levels of 256 that count as one shade
_SHOWN = 0.1  # share of the pixels that must be of another shade than most


def digest(picture: np.ndarray) -> int:
    """A signed 64-bit number for the pixels of a picture, uint8 ``[H, W, C]``."""
    found = blake2b(picture.tobytes(), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)


def digests(store: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 ``[M]``: :func:`digest` of the pictures ``store[rows]``."""
    return np.fromiter((digest(store[row]) for row in rows), np.int64, len(rows))


def telling(picture: np.ndarray) -> bool:
    """Whether a picture shows enough for an equal one to be the same photograph: not one that is
    black, blank, or a dot on paper."""
    step = max(1, min(picture.shape[:2]) // _LOOKED_AT)
    some = picture[::step, ::step]
    away = np.abs(some - np.median(some, axis=(0, 1)))
    return bool((away > _SHADE).any(-1).mean() >= _SHOWN)
