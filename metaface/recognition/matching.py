"""Telling the enrolled people apart: whom a face resembles most, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metaface.recognition.scoring import Cohort, prototypes, within
from metaface.recognition.search import Exact, Search

FOLDS = 5  # photographs of a person that are left out, one by one
_MOST = 2000  # photographs left out at once


@dataclass(frozen=True, eq=False)
class Faces:
    """Embedded faces.

    Attributes:
        embeddings: float32 ``[n, D]``, unit length.
        crops: uint8 ``[n, 112, 112, 3]``, or None where they were not kept.
    """

    embeddings: np.ndarray
    crops: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, rows: np.ndarray) -> Faces:
        crops = None if self.crops is None else self.crops[rows]
        return Faces(self.embeddings[rows], crops)


class Matcher(Protocol):
    """Made of the faces of N people."""

    def __call__(
        self, probes: Faces, cohort_person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best score, float32 ``[q]``, and the person, int64 ``[q]`` in 0..N-1.

        Args:
            cohort_person: where the probes are the strangers of the cohort: who they are.
        """
        ...


Make = Callable[[Faces, np.ndarray], Matcher]
"""from faces and whose they are, int64 ``[n]`` in 0..N-1, everyone present, to a matcher"""


class Prototypes:
    """A person is the mean of their embeddings; see :class:`Cohort` for the score.

    Args:
        cohort: strangers.
        search: makes an empty search engine for D values a face.
    """

    def __init__(
        self,
        faces: Faces,
        person: np.ndarray,
        cohort: Cohort,
        search: Callable[[int], Search] = Exact,
    ) -> None:
        count = int(person.max()) + 1
        self.cohort = cohort
        self.engine = search(faces.embeddings.shape[1])
        self.engine.remove(np.arange(count, len(self.engine)))  # of a server's, that others filled
        self.engine.add(np.arange(count), prototypes(faces.embeddings, person, count))

    def __call__(
        self, probes: Faces, cohort_person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        cosines, found = self.engine.search(probes.embeddings, 1)
        best = within(cosines[:, 0])
        return best - self.cohort.baseline(probes.embeddings, cohort_person), found[:, 0]

    def others(self, faces: Faces, person: np.ndarray) -> np.ndarray:
        """The best score of each enrolled face with another person, float32 ``[n]`` (or none)."""
        if len(self.engine) < 2:
            return np.empty(0, np.float32)
        cosines, found = self.engine.search(faces.embeddings, 2)
        first = found[:, 0] == person
        best = np.where(first, cosines[:, 1], cosines[:, 0])
        return within(best) - self.cohort.baseline(faces.embeddings)


def left_out(make: Make, faces: Faces, person: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photographs of people with two or more, left out and looked for.

    At most ``FOLDS`` of each person, one after the other; those of different people together.

    Returns:
        The best score, float32 ``[n]``, and whether it was their own person's, bool ``[n]``.
    """
    counts = np.bincount(person)
    order = np.argsort(person, kind="stable")
    place = np.empty(len(person), np.int64)  # of each photograph among its person's
    place[order] = np.arange(len(person)) - np.repeat(np.cumsum(counts) - counts, counts)
    scores, hits = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for fold in range(FOLDS):
        out = (place == fold) & (counts[person] > 1)
        if not out.any():
            break
        matcher = make(faces[np.flatnonzero(~out)], person[~out])
        rows = np.flatnonzero(out)
        rows = np.random.default_rng(fold).permutation(rows)[:_MOST]
        score, found = matcher(faces[rows])
        scores.append(score)
        hits.append(found == person[rows])
    return np.concatenate(scores), np.concatenate(hits)
