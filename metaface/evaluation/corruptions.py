"""Photographs made worse, by one nuisance at a time and at five severities.

A new nuisance is one function ``(picture, strength, random) -> picture`` and one line of
:data:`CORRUPTIONS`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SEVERITIES = 5
_GREY = 127


class Corruption(NamedTuple):
    """What is done to a photograph, and how much of it.

    Attributes:
        apply: takes uint8 ``[H, W, C]``, a strength and the photograph's own generator; gives
            uint8 or float of the same shape in grey levels, which :func:`corrupt` rounds and
            clips.
        strengths: at severity 1 to 5.
        unit: what a strength is.
    """

    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    strengths: tuple[float, float, float, float, float]
    unit: str


def corrupt(
    images: np.ndarray, name: str, severity: int, *, seed: int = 0, keys: np.ndarray | None = None
) -> np.ndarray:
    """Photographs under one nuisance.

    A photograph's draws (where the block is, from where the light comes, the noise) follow from
    ``seed`` and its key alone, and are the same at every severity, so that severities differ by
    nothing but how much. Severity 0 is the photographs themselves.

    Args:
        images: uint8 ``[n, H, W, C]``, C 1 or 3.
        name: of :data:`CORRUPTIONS`.
        severity: 0..5.
        seed: names the draws.
        keys: int ``[n]``, what each photograph is called; its place in ``images`` when left out.

    Returns:
        uint8 ``[n, H, W, C]``, new.

    Raises:
        ValueError: an unknown name, a severity out of range, images of another kind.

    Example:
        >>> import numpy as np
        >>> from metaface.evaluation import CORRUPTIONS, corrupt
        >>> images = np.full((2, 28, 28, 3), 100, np.uint8)
        >>> dark = corrupt(images, "dark", severity=5)
        >>> dark.shape, int(dark.max())
        ((2, 28, 28, 3), 2)
        >>> CORRUPTIONS["dark"].strengths, CORRUPTIONS["dark"].unit
        ((1.5, 2.0, 3.0, 4.0, 5.0), 'gamma')
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}: choose of {', '.join(CORRUPTIONS)}")
    if severity not in range(SEVERITIES + 1):
        raise ValueError(f"severity={severity}: give 0 (none) to {SEVERITIES}")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 [n, H, W, 1 or 3], got {images.dtype} {list(images.shape)}"
        )
    out = images.copy()
    if severity == 0:
        return out
    apply, strengths, _ = CORRUPTIONS[name]
    for i, key in enumerate(range(len(images)) if keys is None else keys):
        worse = apply(images[i], strengths[severity - 1], np.random.default_rng([seed, int(key)]))
        out[i] = np.rint(worse).clip(0, 255).reshape(out[i].shape)
    return out


def _dark(picture: np.ndarray, gamma: float, random: np.random.Generator) -> np.ndarray:
    return 255 * (picture / 255.0) ** gamma


def _shade(picture: np.ndarray, depth: float, random: np.random.Generator) -> np.ndarray:
    """Light from one side: the picture falls to ``1 - depth`` of itself on the other."""
    angle = random.uniform(0, 2 * np.pi)
    height, width = picture.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    along = np.cos(angle) * x + np.sin(angle) * y
    # it falls within the middle, where the face is
    ramp = (0.5 + along).clip(0, 1)
    return picture * (1 - depth * ramp * ramp * (3 - 2 * ramp))[..., None]


def _blur(picture: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    sigma = share * picture.shape[1]
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)


def _noise(picture: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    return picture + sigma * random.standard_normal(picture.shape)


def _resolution(picture: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    small = max(2, round(share * width)), max(2, round(share * height))
    reduced = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)


def _jpeg(picture: np.ndarray, quality: float, random: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    grey = picture.shape[-1] == 1
    Image.fromarray(picture[..., 0] if grey else picture).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as image:
        return np.asarray(image)


def _block(picture: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """A grey square somewhere in the middle; a larger one covers the smaller one."""
    side = np.array(picture.shape[:2])
    centre = random.uniform(0.3, 0.7, 2) * side
    top, left = np.rint(centre - share * side / 2).astype(int)
    low, right = np.rint(centre + share * side / 2).astype(int)
    covered = picture.copy()
    covered[max(0, top) : low, max(0, left) : right] = _GREY
    return covered


def _mask(picture: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Grey from below, as a mask or a scarf."""
    covered = picture.copy()
    covered[round((1 - share) * len(picture)) :] = _GREY
    return covered


CORRUPTIONS: dict[str, Corruption] = {
    "dark": Corruption(_dark, (1.5, 2.0, 3.0, 4.0, 5.0), "gamma"),
    "shade": Corruption(_shade, (0.5, 0.7, 0.85, 0.93, 0.97), "light lost on the far side"),
    "blur": Corruption(_blur, (0.01, 0.02, 0.03, 0.045, 0.06), "sigma, share of the side"),
    "noise": Corruption(_noise, (8, 16, 32, 48, 64), "sigma, grey levels"),
    "resolution": Corruption(_resolution, (0.5, 0.33, 0.22, 0.15, 0.1), "pixels left, a side"),
    "jpeg": Corruption(_jpeg, (40, 25, 15, 8, 4), "JPEG quality"),
    "block": Corruption(_block, (0.2, 0.3, 0.4, 0.5, 0.6), "side covered"),
    "mask": Corruption(_mask, (0.1, 0.2, 0.3, 0.4, 0.5), "height covered, from below"),
}
