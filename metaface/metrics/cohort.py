"""How similar a face is to enrolled people, beyond how similar it is to anybody."""

from __future__ import annotations

import numpy as np

NEAREST = 50  # strangers that a face is held against


def prototypes(embeddings: np.ndarray, person: np.ndarray, people: int) -> np.ndarray:
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
    return unit(np.add.reduceat(embeddings[order], starts, axis=0))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each vector ``[..., D]`` at length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def within(cosines: np.ndarray) -> np.ndarray:
    """Cosines in -1..1, which rounding leaves by a little; -inf, nobody was found, stays."""
    return np.where(np.isfinite(cosines), np.clip(cosines, -1, 1), cosines)


class Cohort:
    """Strangers: what a probe resembles anyway.

    A score is a cosine less :meth:`baseline`, the mean cosine of the probe with the ``NEAREST``
    strangers most similar to it, so that faces that resemble everybody (blurred, dark, in profile)
    need more to be taken for somebody. This is the adaptive score normalisation of speaker
    recognition (Matejka et al. 2017), its probe half without division: it leaves the order of the
    people as it was, so any search engine can rank them.

    Args:
        embeddings: float32 ``[n, D]``, unit length. Fewer than ``NEAREST`` say little of what a
            face resembles anyway: scores are plain cosines then.
        person: int64 ``[n]``: who is who, in any numbers.
    """

    def __init__(self, embeddings: np.ndarray, person: np.ndarray) -> None:
        self.embeddings, self.person = embeddings, person

    def __len__(self) -> int:
        return len(self.embeddings)

    def baseline(self, probes: np.ndarray, person: np.ndarray | None = None) -> np.ndarray:
        """What the cosines of ``probes`` ``[q, D]`` are held against: float32 ``[q]``.

        Args:
            person: int64 ``[q]``, where the probes are of the cohort themselves: who they are.
                Their own photographs are left out, as a stranger to the cohort has none there.
        """
        if len(self) < NEAREST:
            return np.zeros(len(probes), np.float32)
        found = np.empty(len(probes), np.float32)
        rows = max(1, 2**24 // len(self))  # 64 MB of cosines at once
        for start in range(0, len(probes), rows):
            part = slice(start, start + rows)
            cosines = probes[part] @ self.embeddings.T
            if person is not None:
                cosines[person[part, None] == self.person] = -np.inf
            first = len(self) - NEAREST
            top = np.partition(cosines, first, axis=1)[:, first:]
            others = np.isfinite(top)
            found[part] = np.where(others, top, 0).sum(1) / np.maximum(others.sum(1), 1)
        return found
