"""A photograph of any kind, as upright RGB pixels; or one word why it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image

from metaface._text import given_path
from metaface.data._decode import TooLargeError, UnreadableError, as_image, whole
from metaface.data._sources import SUFFIXES, read_file

LONGEST = 4096
"""pixels: a longer photograph is reduced to this before anything looks at it"""

Reason = Literal[
    "unreadable", "too_large", "no_face", "several_faces", "face_too_small", "low_quality"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""why a photograph, or a face in it, was not used; there are no others"""

Photo = str | os.PathLike | np.ndarray | torch.Tensor | Image.Image | Callable[[], bytes]


class Unusable(ValueError):
    """A photograph that cannot be used.

    Attributes:
        reason: one of ``REASONS``.
        detail: what exactly is wrong, for people.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


def read(photo: Photo) -> np.ndarray:
    """The pixels of a photograph: uint8 RGB ``[H, W, 3]``, upright, no side above ``LONGEST``.

    See :func:`reduced` for what it takes and raises.
    """
    return reduced(photo)[0]


def reduced(photo: Photo) -> tuple[np.ndarray, float]:
    """:func:`read`, and how many times larger the photograph is: 1.0 up to ``LONGEST``.

    Args:
        photo: a path; a Pillow image of any mode; an array ``[H, W]`` or ``[H, W, 1, 3 or 4]``,
            uint8 or float in 0..1, RGB; a tensor ``[C, H, W]`` like it; or a function that gives
            the content of a file. Of an animation, the first frame.

    Raises:
        Unusable: ``unreadable`` or ``too_large``, with the details.
        TypeError: no photograph at all.
        ValueError: an array or tensor of another shape, type or range.
    """
    try:
        if isinstance(photo, (str, os.PathLike)):
            return whole(_file(photo), LONGEST)
        return whole(_content(photo) if callable(photo) else as_image(photo), LONGEST)
    except TooLargeError as error:
        raise Unusable("too_large", str(error)) from error
    except UnreadableError as error:
        raise Unusable("unreadable", str(error)) from error


def _file(path: str | os.PathLike) -> bytes:
    try:
        return read_file(given_path(path, "a photograph"))
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except ValueError as error:  # an empty path, or a name that no file can have
        raise UnreadableError(str(error)) from error


def _content(get: Callable[[], bytes]) -> bytes:
    try:
        return get()
    except UnreadableError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
        raise UnreadableError(str(error) or type(error).__name__) from error


def in_folder(folder: str | os.PathLike) -> list[Path]:
    """The picture files below a folder, by suffix, sorted; hidden ones are left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty path.
    """
    top = given_path(folder, "the photographs")
    if not top.is_dir():
        raise FileNotFoundError(f"no such folder: {top}")
    found = (p for p in top.rglob("*") if p.suffix.lower() in SUFFIXES and not os.path.isdir(p))
    return sorted(p for p in found if not any(n[0] == "." for n in p.relative_to(top).parts))


def listed(photos: Photo | Iterable[Photo]) -> list[Photo]:
    """One photograph, several, or the folder they lie in, as a list.

    Raises:
        ValueError: an empty path.
    """
    if isinstance(photos, (str, os.PathLike)):
        folder = given_path(photos, "the photographs").is_dir()
        return list(in_folder(photos)) if folder else [photos]
    if isinstance(photos, (torch.Tensor, np.ndarray)):
        return list(photos) if photos.ndim == 4 else [photos]
    if isinstance(photos, Image.Image) or callable(photos):
        return [photos]
    return list(photos)


def name_of(photo: Photo) -> str | None:
    """The path of a photograph; None: it has none."""
    return os.fspath(photo) if isinstance(photo, (str, os.PathLike)) else None
