"""Procedural people and scenes of them: to train on, to test on, to time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from metaface._atomic import replacing
from metaface.multitask import identification
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.scenes import compose
from metaface.multitask.sprites import FaceSprites
from metaface.multitask.training import Source

_CROWD = 20  # scenes to time, of which those count that have room for three faces


@dataclass(frozen=True, eq=False)
class TestScenes:
    """Scenes of some people.

    Attributes:
        scenes: the pictures, several of which may show one photograph of a person.
        rows: int64, of the faces that are identified: of each photograph the first.
    """

    __test__ = False  # no class of tests

    scenes: FaceAnnotations
    rows: np.ndarray

    @property
    def person(self) -> np.ndarray:
        """int64, who each face of ``rows`` is."""
        return self.scenes.person[self.rows]

    def describe(self) -> str:
        """How much there is, in words."""
        people = len(np.unique(self.scenes.person))
        return (
            f"{len(self.scenes)} scenes, {len(self.scenes.image)} faces, {len(self.rows)} "
            f"photographs of {people} people"
        )

    def check_episodes(self) -> None:
        """Fail before training where identification could not be measured after it.

        Raises:
            ValueError: too few people with photographs enough.
        """
        identification.measure_one_shot(np.zeros((len(self.rows), 1)), self.person, 1)


def compose_test_scenes(
    sprites: FaceSprites, n: int, size: int, side: tuple[float, float], seed: int
) -> TestScenes:
    """``n`` scenes of ``sprites``, and which of their faces are the first of a photograph."""
    ids = np.arange(len(sprites))
    numbered = replace(sprites, person=ids, people=tuple(map(str, ids)))
    scenes = compose(numbered, n, size=size, side=side, seed=seed)
    photo = scenes.person
    return TestScenes(
        replace(scenes, person=sprites.person[photo], people=sprites.people),
        np.sort(np.unique(photo, return_index=True)[1]),
    )


def compose_crowd(
    sprites: FaceSprites, size: int, side: tuple[float, float], seed: int
) -> FaceAnnotations:
    """Scenes with three faces, small enough that all have a place."""
    low, high = side
    small = low, max(low, min(high, size / 3))
    scenes = compose(sprites, _CROWD, size=size, side=small, faces=(3, 3), seed=seed)
    return scenes.take(np.flatnonzero(np.bincount(scenes.image, minlength=_CROWD) == 3))


def compose_batches(
    sprites: Sequence[tuple[FaceSprites, int]], size: int, side: tuple[float, float], seed: int
) -> Source:
    """Batches of scenes for training, no two alike, composed when they are needed.

    Args:
        sprites: faces, and how many scenes of a batch are composed of them.
    """

    def compose_batch(step: int) -> FaceAnnotations:
        return FaceAnnotations.join(
            compose(faces, count, size=size, side=side, seed=seed, first=step * count)
            for faces, count in sprites
        )

    return compose_batch


def load_sprites(path: Path) -> FaceSprites:
    """What :func:`save_sprites` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:  # each array has a CRC-32 there
        # np.load would not close what it cannot read
        with open(path, "rb") as packed, np.load(packed, allow_pickle=False) as file:
            arrays: dict[str, Any] = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and it is made again") from error
    return FaceSprites(**arrays | {"people": tuple(map(str, arrays["people"]))})


def save_sprites(path: Path, sprites: FaceSprites) -> None:
    """Write the arrays of ``sprites`` and the names of their people."""
    values = {field.name: getattr(sprites, field.name) for field in fields(sprites)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    with replacing(path) as file:
        np.savez(file, people=np.array(sprites.people), **arrays)  # type: ignore[arg-type]
