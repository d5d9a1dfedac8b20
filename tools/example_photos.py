"""Photographs for the worked example of docs/recognition.md: people who do not exist.

python tools/example_photos.py example/

Writes example/people/NAME/*.png (five photographs each of four people), example/strangers/*/1.png
(one each of 200 others) and example/party.png (three of the four, and two strangers).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from metaface import synthetic

NAMES = ("Ana", "Bo", "Chidi", "Dana")
SIDE = 224


def main(folder: str) -> None:
    out = Path(folder)
    known = rendered(range(len(NAMES)), 6)
    others = rendered(range(len(NAMES), len(NAMES) + 202), 1)
    for name, photos in zip(NAMES, known, strict=True):
        (out / "people" / name).mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(photos[:5], 1):
            Image.fromarray(photo).save(out / "people" / name / f"{number}.png")
    for i, photos in enumerate(others[:200], 1):
        (out / "strangers" / f"{i:03d}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photos[0]).save(out / "strangers" / f"{i:03d}" / "1.png")
    guests = [known[0][5], others[200][0], known[2][5], known[1][5], others[201][0]]
    Image.fromarray(np.concatenate(guests, 1)).save(out / "party.png")


def rendered(people: range, photos: int) -> np.ndarray:
    """uint8 ``[people, photos, SIDE, SIDE, 3]``."""
    made = synthetic.render(list(people), photos, SIDE, domains="frontal", seed=3)
    return made.images.reshape(len(people), photos, SIDE, SIDE, 3)


if __name__ == "__main__":
    main(sys.argv[1])
