"""Photographs for the worked example of docs/recognition.md: people who do not exist.

python tools/example_photos.py example/

Writes example/people/NAME/*.png (five photographs each of four people), example/strangers/*.png
(one each of 200 others) and example/party.png (three of the four, and two strangers).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from metaface.data import synthetic

NAMES = ("Ana", "Bo", "Chidi", "Dana")
SIDE = 224


def main(folder: str) -> None:
    out = Path(folder)
    made = synthetic.render(
        people=len(NAMES) + 202, photos=7, image_size=SIDE, domains="frontal", seed=3
    )

    def photo(person: int, number: int) -> np.ndarray:
        found: np.ndarray = made.images[np.flatnonzero(made.person == person)[number]]
        return found

    for i, name in enumerate(NAMES):
        (out / "people" / name).mkdir(parents=True, exist_ok=True)
        for number in range(5):
            Image.fromarray(photo(i, number)).save(out / "people" / name / f"{number + 1}.png")
    (out / "strangers").mkdir(exist_ok=True)
    for i in range(200):
        Image.fromarray(photo(len(NAMES) + i, 0)).save(out / "strangers" / f"{i + 1:03d}.png")
    guests = [photo(p, 6) for p in (0, len(NAMES) + 200, 2, 1, len(NAMES) + 201)]
    Image.fromarray(np.concatenate(guests, 1)).save(out / "party.png")


if __name__ == "__main__":
    main(sys.argv[1])
