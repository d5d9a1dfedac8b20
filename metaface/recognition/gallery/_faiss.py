"""Search by faiss, an optional extra."""

from __future__ import annotations

import numpy as np

from metaface.recognition.gallery._gate import Gate
from metaface.recognition.gallery._vectors import check_queries, check_vectors

_FEW = 10_000  # vectors, below which there is one cell


class Faiss:
    """faiss on one machine (``pip install 'metaface[faiss]'``): a part of the vectors is compared.

    An ``IndexIVFFlat``, which keeps each vector in the list of its cell. That is the index of
    faiss that forgets: HNSW has no removal, and a product quantiser keeps a code book of the faces
    it was learned from. Up to 10,000 vectors there is one cell, and search is exact; then
    the cells are drawn anew whenever the number has grown fourfold. They are learned from random
    vectors with the faces' mean and covariance rather than from the faces, because the centre of
    a small cell *is* a face, which would stay when its person is forgotten. A removed vector's
    memory is zeroed.

    Args:
        dim: D.
        share: of the cells that are searched: more is slower, with a higher :func:`recall`.

    Raises:
        ImportError: faiss is not installed.

    Example:
        >>> import numpy as np
        >>> from metaface.recognition import Faiss
        >>> vectors = np.eye(3, 8, dtype=np.float32)
        >>> search = Faiss(8)
        >>> search.add(np.array([10, 11, 12]), vectors)
        >>> scores, ids = search.search(vectors[1:2], k=1)
        >>> ids.tolist(), scores.round(2).tolist()
        ([[11]], [[1.0]])
        >>> search.remove(np.array([11]))
        >>> sorted(search.ids().tolist())
        [10, 12]
    """

    def __init__(self, dim: int, *, share: float = 1 / 4) -> None:
        try:
            import faiss
        except ImportError as error:
            raise ImportError(
                "search by faiss needs faiss-cpu: pip install 'metaface[faiss]'"
            ) from error
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: of the cells, between 0 and 1")
        self._faiss, self._dim, self._share = faiss, dim, share
        self._known: set[int] = set()
        self._gate = Gate()
        self._redraw(np.zeros(0, np.int64), np.zeros((0, dim), np.float32))

    def ids(self) -> np.ndarray:
        """See :meth:`.search.Search.ids`."""
        with self._gate.searching():
            return np.fromiter(self._known, np.int64, len(self._known))

    def __len__(self) -> int:
        return len(self._known)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`.search.Search.add`."""
        ids, vectors = check_vectors(ids, vectors, self._dim)
        with self._gate.changing():
            self._remove(ids)
            self._known.update(ids.tolist())
            if len(self) >= max(_FEW, 4 * self._drawn):
                held_ids, held = self._everything()
                self._redraw(np.concatenate([held_ids, ids]), np.concatenate([held, vectors]))
                held[:] = 0
            else:
                self._index.add_with_ids(vectors, ids)

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`.search.Search.remove`."""
        with self._gate.changing():
            self._remove(ids)

    def _remove(self, ids: np.ndarray) -> None:
        present = self._known.intersection(np.asarray(ids, np.int64).tolist())
        if not present:
            return
        self._known -= present
        lists = self._index.invlists
        before = [lists.list_size(i) for i in range(self._index.nlist)]
        self._index.remove_ids(np.fromiter(present, np.int64, len(present)))
        for i, size in enumerate(before):  # a list that shrinks keeps its memory, and its content
            left = lists.list_size(i)
            if left < size:
                whole = self._faiss.rev_swig_ptr(lists.get_codes(i), size * lists.code_size)
                whole[left * lists.code_size :] = 0

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`.search.Search.search`; of the k nearest, some may be missed."""
        queries = check_queries(queries, self._dim, k)
        with self._gate.searching():
            scores, ids = self._index.search(queries, k)
        scores[ids < 0] = -np.inf
        return scores, ids

    def _redraw(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """An index of these vectors, in cells that suit their number."""
        faiss, self._drawn = self._faiss, len(ids)
        cells = 1 if len(ids) < _FEW else int(2 * len(ids) ** 0.5)
        quantizer = faiss.IndexFlatIP(self._dim)
        if cells == 1:
            quantizer.add(np.zeros((1, self._dim), np.float32))
        index = faiss.IndexIVFFlat(quantizer, self._dim, cells, faiss.METRIC_INNER_PRODUCT)
        if cells > 1:
            index.cp.spherical = True
            index.train(_alike(vectors, 40 * cells))
        index.is_trained = True
        index.nprobe = max(1, round(self._share * cells))
        if len(ids):
            index.add_with_ids(vectors, ids)
        self._index = index

    def _everything(self) -> tuple[np.ndarray, np.ndarray]:
        """A copy of the ids and vectors in the lists, whose memory is then zeroed."""
        lists, ids, vectors = self._index.invlists, [], []
        for i in range(self._index.nlist):
            size = lists.list_size(i)
            if size:
                codes = self._faiss.rev_swig_ptr(lists.get_codes(i), size * lists.code_size)
                vectors.append(codes.view(np.float32).reshape(size, self._dim).copy())
                ids.append(self._faiss.rev_swig_ptr(lists.get_ids(i), size).copy())
                codes[:] = 0
        empty = np.zeros((0, self._dim), np.float32)
        return np.concatenate([np.zeros(0, np.int64), *ids]), np.concatenate([empty, *vectors])


def _alike(vectors: np.ndarray, count: int) -> np.ndarray:
    """Random unit vectors with the mean and covariance of these: float32 ``[count, D]``."""
    random = np.random.default_rng(0)
    mean = vectors.mean(0)
    covariance = vectors.T @ vectors / len(vectors) - np.outer(mean, mean)
    values, axes = np.linalg.eigh(covariance)
    spread = axes * np.sqrt(values.clip(0))
    drawn = random.standard_normal((count, len(mean)), np.float32) @ spread.T + mean
    return np.ascontiguousarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)
