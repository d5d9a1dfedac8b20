"""Photographs to show on a page, in rows under captions: of people, of a task, of a domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metaface.data import FaceSet
from metaface.episodes.sampler import Episodes
from metaface.report.pictures import GridRow


def show_people(faces: FaceSet, people: Iterable[int], photos: int) -> list[GridRow]:
    """A row for each of ``people`` (ids): up to ``photos`` photographs, evenly spread."""
    rows = []
    for person in people:
        mine = faces.of_people([person]).rows
        rows.append((faces.people[person], list(faces.store[_spread(mine, photos)])))
    return rows


def show_task(episodes: Episodes, faces: FaceSet, task: int = 0) -> list[GridRow]:
    """A row for each person of a task: support photographs, a white field, queries."""
    blank = np.full((1, 1, 3), 255, dtype=np.uint8)
    support, query = (
        kind[task].reshape(episodes.ways, -1).numpy()
        for kind in (episodes.support_rows, episodes.query_rows)
    )
    return [
        (faces.people[person], [*faces.store[support[n]], blank, *faces.store[query[n]]])
        for n, person in enumerate(episodes.people[task].tolist())
    ]


def show_confused(
    confusions: Mapping[str, Sequence[Mapping[str, Any]]], faces: FaceSet, photos: int = 4
) -> dict[str, GridRow]:
    """By name, the first photographs of everybody in ``confusions`` (lists of ``person`` and
    ``taken_for``, by learner)."""
    pairs = (pair for of_learner in confusions.values() for pair in of_learner)
    names = {name for pair in pairs for name in (pair["person"], pair["taken_for"])}
    rows = {name: faces.of_people([faces.people.index(name)]).rows[:photos] for name in names}
    return {name: (name, list(faces.store[mine])) for name, mine in rows.items()}


def show_domain(name: str, faces: FaceSet, photos: int = 8) -> GridRow:
    """One row: a domain's name, and photographs of as many people as can be."""
    people = faces.person_ids[: photos // 2]
    # spread over those of each, as the first may all be alike
    rows = [_spread(faces.of_people([p]).rows, -(-photos // len(people))) for p in people]
    return name, list(faces.store[np.concatenate(rows)[:photos]])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Up to ``count`` of ``rows``, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), count))
    return rows[places.round().astype(int)]
