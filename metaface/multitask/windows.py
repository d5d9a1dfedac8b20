"""Squares cut out of photographs that others have annotated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from metaface.data._decode import UnreadableError, decode_whole

_LONGEST = 4096  # pixels: a longer photograph is reduced
_GREY = 114  # of padding


@dataclass(frozen=True)
class Window:
    """A square of a photograph, in whole pixels."""

    left: int
    top: int
    side: int


def cut(pixels: np.ndarray, window: Window, size: int) -> np.ndarray:
    """The window as uint8 ``[size, size, 3]``, grey beyond the photograph."""
    height, width = pixels.shape[:2]
    left, top, side = window.left, window.top, window.side
    square = np.full((side, side, 3), _GREY, np.uint8)
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    part = pixels[rows, columns]
    y, x = rows.start - top, columns.start - left
    square[y : y + part.shape[0], x : x + part.shape[1]] = part
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=way))


def clip_boxes(boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Boxes ``[..., 4]`` cut to a photograph of ``size`` (width, height); NaN for one
    outside."""
    ends = np.array(size, np.float64)
    start, end = boxes[..., :2].clip(0, ends), (boxes[..., :2] + boxes[..., 2:]).clip(0, ends)
    boxes = np.concatenate([start, end - start], -1)
    return np.where((end > start).all(-1, keepdims=True), boxes, np.nan)


def decode(source: Path, path: str, read: Callable[[str], bytes]) -> tuple[np.ndarray, float]:
    """The pixels of the photograph ``path`` of ``source``, and how many times it was reduced.

    Raises:
        FileNotFoundError, ValueError: it is not there, or cannot be read.
    """
    try:
        return decode_whole(read(path), _LONGEST)
    except (FileNotFoundError, KeyError):
        raise FileNotFoundError(
            f"{source}: its annotations name the photograph {path}, which is not there: add it, or "
            "take its lines out"
        ) from None
    except (UnreadableError, OSError) as error:
        raise ValueError(
            f"{source}: photograph {path} cannot be read ({error}): copy it again, or take its "
            "lines out of the annotations"
        ) from error
