"""Photographs laid out to be looked at."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from metaface import _letters
from metaface.data import FaceSet
from metaface.episodes.sampler import Episodes

CELL = 72  # pixels a face in a picture
GAP = 4
TEXT = 16


def contact_sheet(faces: FaceSet, people: int = 10, photos: int = 8) -> Image.Image:
    """One row a person: ``photos`` photographs, evenly spread over those there are, of the first
    ``people`` people."""
    rows = []
    for person in faces.person_ids[:people]:
        view = faces.of_people([person])
        spread = np.linspace(0, len(view) - 1, min(photos, len(view))).round().astype(int)
        rows.append((faces.people[person], [faces.store[r] for r in view.rows[spread]]))
    return grid(rows)


def episode_picture(episodes: Episodes, faces: FaceSet, task: int = 0) -> Image.Image:
    """One task of a batch: a row a person, support on the left, queries on the right."""
    ways = episodes.ways
    support = episodes.support_rows[task].reshape(ways, -1).tolist()
    query = episodes.query_rows[task].reshape(ways, -1).tolist()
    blank = np.full((1, 1, 3), 255, dtype=np.uint8)
    rows = []
    for n, person in enumerate(episodes.people[task].tolist()):
        left = [faces.store[r] for r in support[n]]
        right = [faces.store[r] for r in query[n]]
        rows.append((faces.people[person], [*left, blank, *right]))
    return grid(rows)


def grid(rows: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Rows of pictures (uint8 ``[H, W, C]``) under their captions; ``#`` and the number of the row
    is drawn for one that no font here can draw, and a warning says so."""
    columns = max(len(pictures) for _, pictures in rows)
    step = CELL + GAP
    sheet = Image.new("RGB", (columns * step + GAP, len(rows) * (step + TEXT) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (caption, pictures) in enumerate(rows):
        top = GAP + r * (step + TEXT)
        text = _letters.drawable(caption, f"#{r + 1}")[: columns * 11]
        draw.text((GAP, top), text, fill=(70, 70, 70), font=_letters.font(text, 11))
        for c, pixels in enumerate(pictures):
            picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            picture = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(picture, (GAP + c * step, top + TEXT))
    return sheet
