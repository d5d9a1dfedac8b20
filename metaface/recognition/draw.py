"""Photographs with boxes and names on them."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image, ImageDraw

from metaface import _letters
from metaface._picture_file import picture_kind, write_picture
from metaface.faces.photos import Photo, read_reduced
from metaface.recognition.results import Identified

_KNOWN, _UNKNOWN = (16, 140, 70), (190, 60, 20)
_MARK = "metaface identify --draw"


def draw_matches(photo: Photo, identified: Identified) -> Image.Image:
    """The upright photograph with a box around each face, green with the name and the score or,
    of unknown people, red. A very large one is reduced (see ``metaface.faces.photos.read``).

    A name that no font here can draw is drawn as ``#`` and the number of the face in
    ``identified``, from 1; a warning says so.

    Args:
        photo: what was identified.
        identified: what the recogniser answered.
    """
    pixels, times = read_reduced(photo)
    picture = Image.fromarray(pixels)
    line = max(2, round(max(picture.size) / 400))
    pen = ImageDraw.Draw(picture)
    for place, match in enumerate(identified.faces, 1):
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


def check_free(path: Path) -> None:
    """Refuse a file that :func:`save` did not write: it may be somebody's photograph.

    Raises:
        ValueError: there is one, or pictures have no such ending.
    """
    picture_kind(path)
    if not path.exists():
        return
    try:
        with Image.open(path) as there:
            ours = there.getexif().get(ExifTags.Base.Software) == _MARK
    except OSError:
        ours = False
    if not ours:
        raise ValueError(f"--draw {path} is there already, and no drawing: give another name")


def save(picture: Image.Image, path: Path) -> None:
    """Write a drawing whole or not at all.

    Raises:
        ValueError, OSError: as :func:`check_free` says, or the folder is full or read-only.
    """
    check_free(path)
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = _MARK
    write_picture(picture, path, exif=exif)
