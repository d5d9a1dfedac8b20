"""Matchers: whom of the enrolled people a face resembles most, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metaface.metrics.cohort import Cohort, clip_cosines, compute_prototypes
from metaface.recognition.gallery.search import Exact, Search

FOLDS = 5  # photographs of a person that are left out at most, one by one
_MOST = 2000  # photographs left out at once
_SAME = 1e-3  # by how much an engine's cosine may differ from ours of the same vector


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embedded faces.

    Attributes:
        embeddings: float32 ``[n, D]``, unit length.
        crops: uint8 ``[n, 112, 112, 3]``, or None where they were not kept.
    """

    embeddings: np.ndarray
    crops: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: np.ndarray) -> Embeddings:
        crops = None if self.crops is None else self.crops[rows]
        return Embeddings(self.embeddings[rows], crops)


class Matcher(Protocol):
    """Made of the faces of N people."""

    def __call__(
        self, probes: Embeddings, cohort_person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best score, float32 ``[q]``, and the person, int64 ``[q]`` in 0..N-1.

        Args:
            cohort_person: where the probes are the strangers of the cohort: who they are.
        """
        ...


MakeMatcher = Callable[[Embeddings, np.ndarray], Matcher]
"""from faces and whose they are, int64 ``[n]`` in 0..N-1, everyone present, to a matcher"""


class Prototypes:
    """A person is the mean of their embeddings; see :class:`Cohort` for the score.

    The prototypes never change, while the engine may: another process may add or remove people.
    So an answer of the engine counts only where it is one of these N people, with their own
    vector; else all N are compared.

    Args:
        cohort: strangers.
        engine: finds the nearest; the N people are added to it. None: exact search.
        ids: int64 ``[N]``, their ids in the engine. An id must never be used for another vector;
            the id of a person's latest face is such a one. None: 0..N-1.
    """

    def __init__(
        self,
        faces: Embeddings,
        person: np.ndarray,
        cohort: Cohort,
        engine: Search | None = None,
        ids: np.ndarray | None = None,
    ) -> None:
        count = int(person.max()) + 1
        self.cohort = cohort
        self.ids = np.arange(count) if ids is None else ids
        self._order = np.argsort(self.ids)
        self._sorted = self.ids[self._order]
        self._vectors = compute_prototypes(faces.embeddings, person, count)
        self.engine = Exact(faces.embeddings.shape[1]) if engine is None else engine
        self.engine.add(self.ids, self._vectors)

    def __call__(
        self, probes: Embeddings, cohort_person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        cosines, people = self._search(probes.embeddings, 1)
        best = clip_cosines(cosines[:, 0])
        return best - self.cohort.baseline(probes.embeddings, cohort_person), people[:, 0]

    def others(self, faces: Embeddings, person: np.ndarray) -> np.ndarray:
        """The best score of each enrolled face with another person, float32 ``[n]`` (or none)."""
        if len(self.ids) < 2:
            return np.empty(0, np.float32)
        cosines, people = self._search(faces.embeddings, 2)
        first = people[:, 0] == person
        best = np.where(first, cosines[:, 1], cosines[:, 0])
        return clip_cosines(best) - self.cohort.baseline(faces.embeddings)

    def _search(self, probes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines, float32 ``[q, k]``, descending, and people, int64 ``[q, k]`` in 0..N-1."""
        cosines, ids = self.engine.search(probes, k)
        at = np.searchsorted(self._sorted, ids).clip(max=len(self.ids) - 1)
        people = self._order[at]
        own = np.einsum("qd,qkd->qk", probes, self._vectors[people])
        sure = (self._sorted[at] == ids) & (np.abs(cosines - own) < _SAME)
        if not sure.all():
            stale = np.flatnonzero(~sure.all(1))
            exact = Exact(probes.shape[1])
            exact.add(np.arange(len(self.ids)), self._vectors)
            cosines[stale], people[stale] = exact.search(probes[stale], k)
        return cosines, people


def score_left_out(
    make: MakeMatcher, faces: Embeddings, person: np.ndarray, picture: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Leave photographs of people with two or more out, and search for them among the rest.

    At most ``FOLDS`` of each person, one after the other; those of different people together.

    Args:
        picture: int ``[m]``: photographs of a person with one number are nearly one picture. They
            are left out together, and the first of them is searched for. None: all are different.

    Returns:
        The best score, float32 ``[n]``, and whether it was their own person's, bool ``[n]``.
    """
    if picture is None:
        picture = np.arange(len(person))
    _, first, which = np.unique(picture, return_index=True, return_inverse=True)
    owner = person[first]
    counts = np.bincount(owner)
    order = np.argsort(owner, kind="stable")
    place = np.empty(len(owner), np.int64)  # of each picture among its person's
    place[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    scores, hits = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for fold in range(FOLDS):
        out = (place == fold) & (counts[owner] > 1)
        if not out.any():
            break
        rest = np.flatnonzero(~out[which.reshape(-1)])
        matcher = make(faces[rest], person[rest])
        rows = first[out]
        rows = np.random.default_rng(fold).permutation(rows)[:_MOST]
        score, named = matcher(faces[rows])
        scores.append(score)
        hits.append(named == person[rows])
    return np.concatenate(scores), np.concatenate(hits)
