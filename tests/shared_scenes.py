"""A face somewhere in noise, for tests of the shared network."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from metaface.multitask import FaceAnnotations
from metaface.synthetic import render


@lru_cache
def scenes(people: int = 4, photos: int = 3, size: int = 64, face: int = 48) -> FaceAnnotations:
    """A face somewhere in noise, all of it known."""
    drawn = render(people, photos, face, seed=5)
    n = len(drawn.images)
    random = np.random.default_rng(0)
    images = random.integers(90, 166, (n, size, size, 3)).astype(np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    at = random.integers(0, size - face + 1, (n, 2))
    for i, (x, y) in enumerate(at):
        images[i, y : y + face, x : x + face] = drawn.images[i]
        masks[i, y : y + face, x : x + face] = drawn.mask[i]
    boxes = drawn.box.copy()
    boxes[:, :2] += at
    attributes = np.stack([drawn.attributes[a] for a in ("glasses", "female")], 1)
    return FaceAnnotations(
        images=images,
        image=np.arange(n),
        boxes=boxes,
        landmarks=drawn.landmarks + at[:, None].astype(np.float32),
        pose=drawn.pose,
        person=drawn.person,
        expression=(drawn.attributes["smile"] > 0.4).astype(np.int64),
        attributes=attributes.astype(np.float32),
        masks=masks,
        complete=np.ones(n, bool),
        people=tuple("abcdefgh"[:people]),
        expressions=("neutral", "smile"),
        attribute_names=("glasses", "female"),
    )
