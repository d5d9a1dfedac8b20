"""A photograph of any kind, as upright RGB pixels; or one word why it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import IO, Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image

from metaface._text import given_path
from metaface.data._decode import TooLargeError, UnreadableError, decode_whole, to_image
from metaface.data._listing import pick_pictures, read_head, walk
from metaface.data._skipped import report_skipped
from metaface.data._sources import MAX_BYTES, check_length, read_file

LONGEST = 4096
"""pixels: a longer photograph is reduced to this before anything looks at it"""

Reason = Literal[
    "unreadable", "too_large", "no_face", "several_faces", "face_too_small", "low_quality"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""why a photograph, or a face in it, was not used; there are no others"""

Content = bytes | bytearray | memoryview
Pixels = np.ndarray | torch.Tensor | Image.Image
Photo = str | os.PathLike | Content | IO[bytes] | Pixels | Callable[[], bytes]
_KINDS = (
    "a path, the content of a picture file (bytes), a file opened in binary mode, a Pillow image, "
    "an array, a tensor or a function that gives bytes"
)
_turn = Lock()  # a file may be given twice


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

    See :func:`read_reduced` for what it takes and raises.
    """
    return read_reduced(photo)[0]


def read_reduced(photo: Photo) -> tuple[np.ndarray, float]:
    """:func:`read`, and how many times larger the photograph is: 1.0 up to ``LONGEST``.

    Args:
        photo: a path; the content of a picture file (bytes); a file opened in binary mode, read
            from its start where it can be; a Pillow image of any mode; an array ``[H, W]`` or
            ``[H, W, 1, 3 or 4]``, uint8 or float in 0..1, RGB; a tensor ``[C, H, W]`` like it; or
            a function that gives the content of a file. Of an animation, the first frame.

    Raises:
        Unusable: ``unreadable`` or ``too_large``, with the details.
        TypeError: no photograph at all, or a file opened as text; names the type.
        ValueError: an array or tensor of another shape, type or range.
    """
    try:
        if isinstance(photo, (str, os.PathLike)):
            return decode_whole(_read_file(photo), LONGEST)
        if isinstance(photo, Content):
            return decode_whole(check_length(bytes(photo)), LONGEST)
        if isinstance(photo, Pixels):
            return decode_whole(to_image(photo), LONGEST)
        if _is_file(photo):
            return decode_whole(_read_open_file(photo), LONGEST)
        if callable(photo):
            return decode_whole(_call(photo), LONGEST)
        raise _no_photo(photo)
    except TooLargeError as error:
        raise Unusable("too_large", str(error)) from error
    except UnreadableError as error:
        raise Unusable("unreadable", str(error)) from error


def _read_file(path: str | os.PathLike) -> bytes:
    try:
        return read_file(given_path(path, "a photograph"))
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except ValueError as error:  # an empty path, or a name that no file can have
        raise UnreadableError(str(error)) from error


def _is_file(photo: object) -> bool:
    return callable(getattr(photo, "read", None))


def _read_open_file(file: Any) -> bytes:
    """All of an open file; from its start, if it can go there."""
    try:
        with _turn:
            if getattr(file, "seekable", bool)():
                file.seek(0)
            data = file.read(MAX_BYTES + 1)
    except UnicodeDecodeError:
        data = ""
    except Exception as error:  # it is closed, or any of what is no file raises
        raise UnreadableError(str(error) or type(error).__name__) from error
    if not isinstance(data, bytes):
        raise TypeError(
            f"read() of a {type(file).__name__} gives {type(data).__name__}, not bytes: open the "
            "file in binary mode, open(path, 'rb')"
        )
    return check_length(data)


def _no_photo(photo: object) -> TypeError:
    return TypeError(f"{type(photo).__name__} is no photograph: give {_KINDS}")


def _call(get: Callable[[], bytes]) -> bytes:
    try:
        return get()
    except UnreadableError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
        raise UnreadableError(str(error) or type(error).__name__) from error


def list_folder(folder: str | os.PathLike) -> list[Path]:
    """The picture files below a folder, links to folders followed, sorted.

    Hidden ones, and what systems keep there (:mod:`metaface.data._listing`), are left out;
    photographs of kinds that are not read, and folders that cannot be, are named in a warning.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty path.
    """
    top = given_path(folder, "the photographs")
    if not top.is_dir():
        raise FileNotFoundError(f"no such folder: {top}")
    files, _, unreadable = walk(top)
    photographs, skipped = pick_pictures(
        ((parts, top.joinpath(*parts)) for parts in files), read_head
    )
    report_skipped(str(top), [*skipped, *unreadable], len(photographs))
    return [path for _, path in photographs]


def list_photos(photos: Photo | Iterable[Photo]) -> list[Photo]:
    """One photograph, several, or the folder they lie in, as a list.

    Raises:
        ValueError: an empty path.
        TypeError: neither a photograph nor several; names the type.
    """
    if isinstance(photos, (str, os.PathLike)):
        folder = given_path(photos, "the photographs").is_dir()
        return list(list_folder(photos)) if folder else [photos]
    if isinstance(photos, (torch.Tensor, np.ndarray)):
        return list(photos) if photos.ndim == 4 else [photos]
    if isinstance(photos, (Image.Image, Content)) or _is_file(photos) or callable(photos):
        return [cast(Photo, photos)]
    if isinstance(photos, Mapping) or not isinstance(photos, Iterable):
        raise _no_photo(photos)
    return list(photos)


def find_name(photo: Photo) -> str | None:
    """The path of a photograph, or of an open file; None: it has none."""
    path = getattr(photo, "name", None) if _is_file(photo) else photo
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
