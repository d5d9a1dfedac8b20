"""Scores of faces with people: prototypes, and normalisation by a cohort of strangers."""

from __future__ import annotations

import numpy as np

NEAREST = 50  # strangers of the cohort whose mean cosine is the baseline of a face


def compute_prototypes(embeddings: np.ndarray, person: np.ndarray, people: int) -> np.ndarray:
    """One unit vector a person: the direction of the mean of their embeddings.

    This is what a cosine :class:`metaface.learners.Prototypical` adapts.

    Args:
        embeddings: float32 ``[M, D]``, unit length.
        person: int64 ``[M]`` in 0..people-1, everyone present.

    Returns:
        float32 ``[people, D]``.
    """
    order = np.argsort(person, kind="stable")
    starts = np.searchsorted(person[order], np.arange(people))
    return normalise(np.add.reduceat(embeddings[order], starts, axis=0))


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Each vector ``[..., D]`` at length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def clip_cosines(cosines: np.ndarray) -> np.ndarray:
    """Cosines clipped to -1..1, against rounding; -inf (nobody was compared) stays."""
    return np.where(np.isfinite(cosines), np.clip(cosines, -1, 1), cosines)


class Cohort:
    """Photographs of strangers, by which scores are normalised.

    A score is a cosine minus :meth:`baseline`, the mean cosine of the probe with the ``NEAREST``
    strangers most similar to it. Faces that resemble everybody (blurred, dark, in profile) then
    need a higher cosine to be named. This is the adaptive score normalisation of speaker
    recognition (Matejka et al. 2017), its probe half without division: the order of the people
    stays as it was, so any search engine can rank them.

    Args:
        embeddings: float32 ``[n, D]``, unit length. With fewer than ``NEAREST`` there is no
            normalisation: scores are plain cosines.
        person: int64 ``[n]``: whose photograph each is, in any numbers.
    """

    def __init__(self, embeddings: np.ndarray, person: np.ndarray) -> None:
        self.embeddings, self.person = embeddings, person

    def __len__(self) -> int:
        return len(self.embeddings)

    def baseline(self, probes: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """The mean cosine of ``probes`` ``[q, D]`` with their nearest strangers: float32 ``[q]``.

        Args:
            person: int64 ``[q]``, where the probes are photographs of the cohort: whose they are.
                Photographs of the same person are then left out.
        """
        if len(self) < NEAREST:
            return np.zeros(len(probes), np.float32)
        means = np.empty(len(probes), np.float32)
        rows = max(1, 2**24 // len(self))  # 64 MB of cosines at once
        for start in range(0, len(probes), rows):
            part = slice(start, start + rows)
            cosines = probes[part] @ self.embeddings.T
            if person is not None:
                cosines[person[part, None] == self.person] = -np.inf
            first = len(self) - NEAREST
            top = np.partition(cosines, first, axis=1)[:, first:]
            others = np.isfinite(top)
            means[part] = np.where(others, top, 0).sum(1) / np.maximum(others.sum(1), 1)
        return means
