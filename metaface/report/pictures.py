"""Photographs in rows under captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from metaface import _letters

GridRow = tuple[str, list[np.ndarray]]
"""A caption, and pictures, uint8 ``[H, W, C]`` of any size."""
_CELL = 72  # pixels a face in a picture
_GAP = 4
_TEXT = 16


def draw_grid(rows: Sequence[GridRow]) -> Image.Image:
    """Rows of pictures under their captions.

    ``#`` and the number of the row stand for a caption that no font here can draw, and a warning
    says so.

    Example:
        >>> import metaface as mf
        >>> faces = mf.synthetic.render(people=2, photos=3, image_size=28).images
        >>> sheet = mf.report.draw_grid([("Ana", list(faces[:3])), ("Bo", list(faces[3:]))])
        >>> sheet.save("people.png")
    """
    columns = max(len(pictures) for _, pictures in rows)
    step = _CELL + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, len(rows) * (step + _TEXT) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (caption, pictures) in enumerate(rows):
        top = _GAP + r * (step + _TEXT)
        text = _letters.drawable(caption, f"#{r + 1}")[: columns * 11]
        draw.text((_GAP, top), text, fill=(70, 70, 70), font=_letters.font(text, 11))
        for c, pixels in enumerate(pictures):
            picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            picture = picture.convert("RGB").resize((_CELL, _CELL), Image.Resampling.BICUBIC)
            sheet.paste(picture, (_GAP + c * step, top + _TEXT))
    return sheet
