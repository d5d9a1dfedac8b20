"""Exact search in memory."""

from __future__ import annotations

import numpy as np

from metaface.recognition.gallery._gate import Gate
from metaface.recognition.gallery._vectors import check_queries, check_vectors, no_matches

_SCORES = 1 << 24  # scores held at a time: 64 MB


class Exact:
    """Every vector compared with every query, at the speed of memory; the default.

    The vectors lie in one float32 array, with room to spare. A removed one is overwritten by the
    last, whose place is zeroed.

    Args:
        dim: D.

    Example:
        >>> import numpy as np
        >>> from metaface.recognition import Exact
        >>> vectors = np.eye(3, 8, dtype=np.float32)
        >>> search = Exact(8)
        >>> search.add(np.array([10, 11, 12]), vectors)
        >>> scores, ids = search.search(vectors[1:2], k=1)
        >>> ids.tolist(), scores.round(2).tolist()
        ([[11]], [[1.0]])
        >>> search.remove(np.array([11]))
        >>> sorted(search.ids().tolist())
        [10, 12]
    """

    def __init__(self, dim: int) -> None:
        self._vectors = np.zeros((0, dim), np.float32)
        self._ids = np.zeros(0, np.int64)
        self._rows: dict[int, int] = {}
        self._gate = Gate()

    def ids(self) -> np.ndarray:
        """See :meth:`.search.Search.ids`."""
        with self._gate.searching():
            return self._ids[: len(self)].copy()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`.search.Search.add`."""
        ids, vectors = check_vectors(ids, vectors, self._vectors.shape[1])
        with self._gate.changing():
            new = [i for i in ids.tolist() if i not in self._rows]
            self._reserve(len(self) + len(new))
            self._rows.update(zip(new, range(len(self), len(self) + len(new)), strict=True))
            rows = np.fromiter((self._rows[i] for i in ids.tolist()), np.int64, len(ids))
            self._vectors[rows], self._ids[rows] = vectors, ids

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`.search.Search.remove`."""
        with self._gate.changing():
            for i in np.asarray(ids, np.int64).tolist():
                row = self._rows.pop(i, None)
                if row is None:
                    continue
                last = len(self._rows)
                if row != last:
                    self._vectors[row], self._ids[row] = self._vectors[last], self._ids[last]
                    self._rows[int(self._ids[row])] = row
                self._vectors[last], self._ids[last] = 0, 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`.search.Search.search`; of equal scores the smaller id comes first."""
        queries = check_queries(queries, self._vectors.shape[1], k)
        with self._gate.searching():
            return self._nearest(queries, k)

    def _nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n = len(self)
        scores, ids = no_matches(len(queries), k)
        if n == 0:
            return scores, ids
        step = max(1, _SCORES // n)
        for at in range(0, len(queries), step):
            some = queries[at : at + step]
            if len(some) == 1:  # a matrix-vector product, which is faster than a matrix of one row
                products = (self._vectors[:n] @ some[0])[None]
            else:
                products = some @ self._vectors[:n].T
            best = np.argpartition(products, n - min(k, n), axis=1)[:, n - min(k, n) :]
            picked, who = np.take_along_axis(products, best, 1), self._ids[best]
            order = np.lexsort((who, -picked), axis=1)
            scores[at : at + step, :n] = np.take_along_axis(picked, order, 1)
            ids[at : at + step, :n] = np.take_along_axis(who, order, 1)
        return scores, ids

    def _reserve(self, count: int) -> None:
        if count <= len(self._ids):
            return
        room = max(count, len(self._ids) + len(self._ids) // 2)
        vectors = np.zeros((room, self._vectors.shape[1]), np.float32)
        ids = np.zeros(room, np.int64)
        vectors[: len(self._vectors)], ids[: len(self._ids)] = self._vectors, self._ids
        self._vectors[:] = 0  # freed memory keeps what it held, and someone may be removed later
        self._vectors, self._ids = vectors, ids
