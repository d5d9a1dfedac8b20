"""Pictures that are written whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from metaface._atomic import replacing


def picture_kind(path: Path) -> str:
    """Pillow's name of what ``path`` ends in, such as PNG.

    Raises:
        ValueError: no picture can be written that ends like that.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"{path}: no picture is written that ends like that; give a .png or .jpg")
    return kind


def write_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write ``picture`` as what ``path`` ends in.

    Args:
        options: as Pillow's ``save`` takes them.

    Raises:
        ValueError: see :func:`picture_kind`.
        OSError: the folder cannot be written, or is full; ``path`` is as it was.
    """
    kind = picture_kind(path)
    with replacing(path) as file:
        picture.save(file, kind, **options)
