"""Photographs with boxes and names on them."""

from __future__ import annotations

from PIL import Image, ImageDraw

from metaface import _letters
from metaface.recognition.photos import Photo, reduced
from metaface.recognition.results import Identified

_KNOWN, _UNKNOWN = (16, 140, 70), (190, 60, 20)


def drawn(photo: Photo, found: Identified) -> Image.Image:
    """The upright photograph with a box around each face, green with the name and the score or,
    of unknown people, red. A very large one is reduced (see ``metaface.recognition.photos.read``).

    A name that no font here can draw is drawn as ``#`` and the place of the face in ``found``,
    from 1; a warning says so.

    Args:
        photo: what was identified.
        found: what it gave.
    """
    pixels, times = reduced(photo)
    picture = Image.fromarray(pixels)
    line = max(2, round(max(picture.size) / 400))
    pen = ImageDraw.Draw(picture)
    for place, match in enumerate(found.faces, 1):
        left, top, width, height = (value / times for value in match.box)
        colour = _UNKNOWN if match.name is None else _KNOWN
        pen.rectangle((left, top, left + width, top + height), outline=colour, width=line)
        text = "unknown" if match.name is None else _letters.drawable(match.name, f"#{place}")
        text += "" if match.score is None else f" {match.score:.2f}"
        font = _letters.font(text, max(11, round(width / 7)))
        ends = pen.textbbox((0, 0), text, font=font)
        wide, high = ends[2] + 2 * line, ends[3] + 2 * line
        x = max(0, min(left, picture.width - wide))
        y = top - high if top >= high else min(top + height, picture.height - high)
        pen.rectangle((x, y, x + wide, y + high), fill=colour)
        pen.text((x + line, y + line), text, fill="white", font=font)
    return picture
