"""Which photographs are one picture, and which people look like one: by embeddings alone."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from metaface.recognition.embedders import Embedder
from metaface.recognition.models import MODELS

EXACT = 0.9999  # cosine: what batches of another size may change is below 1e-5
_AT_ONCE = 2**22  # cosines


def same_picture_cosine(embedder: Embedder) -> float:
    """The cosine from which two photographs are the same picture: a copy, saved again or resized.

    Measured for the weights of the registry (docs/recognition.md); of others, exact copies alone.
    """
    entry = MODELS.get(embedder.name)
    return entry.copies[0] if entry and entry.copies else EXACT


def near_picture_cosine(embedder: Embedder) -> float:
    """The cosine from which a photograph says nothing new beside another of the same person: a
    mirror image, the next of a burst; see :func:`same_picture_cosine`."""
    entry = MODELS.get(embedder.name)
    return entry.copies[1] if entry and entry.copies else EXACT


def group_alike(embeddings: np.ndarray, min_cosine: float) -> np.ndarray:
    """Faces linked, one after the other, by a cosine of ``min_cosine`` or more.

    Args:
        embeddings: float32 ``[n, D]``, unit length.

    Returns:
        int64 ``[n]``: the group of each, from 0 in the order of their first faces.
    """
    count = len(embeddings)
    group = np.arange(count)
    step = max(1, _AT_ONCE // max(count, 1))
    for start in range(0, count, step):
        alike = embeddings[start : start + step] @ embeddings[start:].T >= min_cosine
        row, column = np.nonzero(np.triu(alike, 1))
        group = _link(group, row + start, column + start)
    return _renumber(group)


def group_alike_by_person(
    embeddings: np.ndarray, person: np.ndarray, min_cosine: float
) -> np.ndarray:
    """:func:`group_alike` of photographs of one person, nobody's with another's.

    Args:
        embeddings: float32 ``[n, D]``, unit length.
        person: int64 ``[n]``.
    """
    order = np.argsort(person, kind="stable")
    group = np.arange(len(person))
    _, first, sizes = np.unique(person[order], return_index=True, return_counts=True)
    left = sizes.repeat(sizes) - (np.arange(len(person)) - first.repeat(sizes))
    step = max(1, _AT_ONCE // max(embeddings.shape[1], 1))
    apart = 1
    while len(rows := np.flatnonzero(left > apart)):  # with so many of their person behind them
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            one, other = order[some], order[some + apart]
            alike = np.einsum("nd,nd->n", embeddings[one], embeddings[other]) >= min_cosine
            group = _link(group, one[alike], other[alike])
        apart += 1
    return _renumber(group)


def merge_people(person: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Make people who share a group one person: int64 ``[n]``, numbers of people.

    Args:
        person, group: int ``[n]``, from 0.
    """
    count = max(len(person), int(person.max(initial=0)) + 1)
    first = np.unique(group, return_index=True)[1]
    return _renumber(_link(np.arange(count), person, person[first][group])[person])


def _link(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``group``, with the groups of ``one[i]`` and ``other[i]`` made one."""
    if not len(one):
        return group
    links = coo_matrix(
        (np.ones(len(one), bool), (group[one], group[other])), shape=(len(group), len(group))
    )
    return connected_components(links, directed=False)[1].astype(np.int64)[group]


def _renumber(group: np.ndarray) -> np.ndarray:
    """From 0, in the order of their first members."""
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first)).astype(np.int64)[place.reshape(-1)]
