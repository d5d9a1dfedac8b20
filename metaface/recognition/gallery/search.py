"""Nearest enrolled faces: exact on one machine's memory, or by an engine made for more.

Every engine here answers with inner products, which for embeddings of unit length are cosines,
and removes what it is told to remove, instead of only marking it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from metaface.recognition.gallery._exact import Exact
from metaface.recognition.gallery._faiss import Faiss
from metaface.recognition.gallery._qdrant import Qdrant

__all__ = ["Exact", "Faiss", "Qdrant", "Search", "recall"]


class Search(Protocol):
    """What every engine does. Several threads may search it and change it at once.

    An engine may outlive its recogniser and be shared by processes, as a server's collection is.
    What it finds is looked up in the recogniser's own state: see
    :class:`metaface.recognition.matching.Prototypes`.
    """

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Enter vectors; one whose id is there already takes its place.

        Args:
            ids: int64 ``[n]``, not negative, each once.
            vectors: float32 ``[n, D]``, unit length.

        Raises:
            ValueError: arrays that cannot be that.
        """

    def remove(self, ids: np.ndarray) -> None:
        """Delete vectors by id, overwriting them; ids that are not there are passed over."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest to each query.

        Args:
            queries: float32 ``[q, D]``.
            k: at least 1.

        Returns:
            Scores, float32 ``[q, k]``, descending, and ids, int64 ``[q, k]``. Where fewer than k
            were found, the rest have score -inf and id -1.
        """

    def ids(self) -> np.ndarray:
        """The ids of all vectors there are, int64 ``[n]``, in any order."""

    def __len__(self) -> int:
        """How many vectors there are."""


def recall(search: Search, exact: Search, queries: np.ndarray, k: int) -> float:
    """The share of the exact k nearest that ``search`` finds, over all queries; 1.0 of none.

    Args:
        search: the engine that is judged.
        exact: an :class:`Exact` of the same vectors.
        queries: float32 ``[q, D]``.
        k: how many nearest, at least 1.

    Example:
        >>> import numpy as np
        >>> from metaface.recognition import Exact, Faiss, recall
        >>> vectors = np.eye(8, dtype=np.float32)
        >>> exact, faiss = Exact(8), Faiss(8)
        >>> exact.add(np.arange(8), vectors)
        >>> faiss.add(np.arange(6), vectors[:6])  # two are missing
        >>> recall(faiss, exact, vectors, k=1)
        0.75
    """
    got, want = search.search(queries, k)[1], exact.search(queries, k)[1]
    hits = sum(np.isin(w[w >= 0], f).sum() for f, w in zip(got, want, strict=True))
    wanted = (want >= 0).sum()
    return float(hits / wanted) if wanted else 1.0
