"""Nearest enrolled faces: exact on one machine's memory, or by an engine made for more.

Every engine here answers with inner products, which for embeddings of unit length are cosines,
and removes what it is told to remove, instead of only marking it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

_SCORES = 1 << 24  # scores held at a time: 64 MB
_BLOCK = 128  # scores of which only the best counts at first
_BATCH = 1000  # points of a request to Qdrant


class Search(Protocol):
    """What every engine does. One thread at a time may change it, and none search meanwhile."""

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

    def __len__(self) -> int:
        """How many vectors there are."""


def recall(search: Search, exact: Search, queries: np.ndarray, k: int) -> float:
    """The share of the exact k nearest that ``search`` finds, over all queries; 1.0 of none.

    Args:
        search: the engine that is judged.
        exact: an :class:`Exact` of the same vectors.
        queries: float32 ``[q, D]``.
        k: how many nearest, at least 1.
    """
    found, want = search.search(queries, k)[1], exact.search(queries, k)[1]
    hits = sum(np.isin(w[w >= 0], f).sum() for f, w in zip(found, want, strict=True))
    return float(hits / max((want >= 0).sum(), 1))


class Exact:
    """Every vector compared with every query, at the speed of memory; the default.

    The vectors lie in one float32 array, with room to spare. A removed one is overwritten by the
    last, whose place is zeroed.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        self._vectors = np.zeros((0, dim), np.float32)
        self._ids = np.zeros(0, np.int64)
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`Search.add`."""
        ids, vectors = _checked(ids, vectors, self._vectors.shape[1])
        old = len(self)
        for i in ids.tolist():
            self._rows.setdefault(i, len(self._rows))
        self._reserve(len(self))
        rows = np.fromiter((self._rows[i] for i in ids.tolist()), np.int64, len(ids))
        if len(ids) and rows[0] == old and rows[-1] == old + len(ids) - 1:
            rows = slice(old, old + len(ids))  # type: ignore[assignment]  # copied as one block
        self._vectors[rows] = vectors
        self._ids[rows] = ids

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`Search.remove`."""
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
        """See :meth:`Search.search`; nearer ones first, and of equal scores the smaller id."""
        n = len(self)
        queries = _queries(queries, self._vectors.shape[1], k)
        scores, ids = _nothing(len(queries), k)
        if n == 0:
            return scores, ids
        step = max(1, _SCORES // n)
        for at in range(0, len(queries), step):
            some = queries[at : at + step]
            if len(some) == 1:  # a matrix-vector product, which is faster than a matrix of one row
                products = (self._vectors[:n] @ some[0])[None]
            else:
                products = some @ self._vectors[:n].T
            best = _largest(products, min(k, n))
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


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices int64 ``[q, k]`` of the k largest of each row, in any order.

    The k largest lie in the k blocks whose largest are largest: one pass for the blocks' maxima,
    instead of a partition of everything.
    """
    rows, n = scores.shape
    if k == 1:
        return scores.argmax(1)[:, None]
    blocks = n // _BLOCK
    if blocks <= 4 * k:
        return np.argpartition(scores, n - k, axis=1)[:, n - k :]
    whole = blocks * _BLOCK
    maxima = scores[:, :whole].reshape(rows, blocks, _BLOCK).max(2)
    chosen = np.argpartition(maxima, blocks - k, axis=1)[:, blocks - k :]
    near = (chosen[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(whole, n), (rows, n - whole))
    near = np.concatenate([near, rest], axis=1)
    best = np.argpartition(np.take_along_axis(scores, near, 1), near.shape[1] - k, axis=1)
    return np.take_along_axis(near, best[:, near.shape[1] - k :], 1)


class Faiss:
    """faiss on one machine (``pip install 'metaface[faiss]'``): a part of the vectors is compared.

    An ``IndexIVFFlat``, which keeps each vector in the list of its cell. That is the index of
    faiss that forgets: HNSW has no removal, and a product quantiser's codes stay near those of
    whom they were learned from. Up to 10,000 vectors there is one cell, and search is exact; then
    the cells are drawn anew whenever the number has grown fourfold. They are learned from random
    vectors with the faces' mean and covariance rather than from the faces, because the centre of
    a small cell *is* a face, which would stay when its person is forgotten. A removed vector's
    memory is zeroed.

    Args:
        dim: D.
        share: of the cells that are searched: more is slower, with a higher :func:`recall`.

    Raises:
        ImportError: faiss is not installed.
    """

    def __init__(self, dim: int, *, share: float = 1 / 16) -> None:
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
        self._redraw(np.zeros(0, np.int64), np.zeros((0, dim), np.float32))

    def __len__(self) -> int:
        return len(self._known)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`Search.add`."""
        ids, vectors = _checked(ids, vectors, self._dim)
        self.remove(ids)
        self._known.update(ids.tolist())
        if len(self) >= max(10_000, 4 * self._drawn):
            held_ids, held = self._everything()
            self._redraw(np.concatenate([held_ids, ids]), np.concatenate([held, vectors]))
            held[:] = 0
        else:
            self._index.add_with_ids(vectors, ids)

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`Search.remove`."""
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
        """See :meth:`Search.search`; of the k nearest, some may be missed."""
        queries = _queries(queries, self._dim, k)
        scores, ids = self._index.search(queries, k)
        scores[ids < 0] = -np.inf
        return scores, ids

    def _redraw(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """An index of these vectors, in cells that suit their number."""
        faiss, self._drawn = self._faiss, len(ids)
        cells = 1 if len(ids) < 10_000 else int(2 * len(ids) ** 0.5)
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


class Qdrant:
    """A Qdrant collection (``pip install 'metaface[qdrant]'``), for several machines.

    A removed vector is overwritten with zeros and then deleted. Of qdrant-client's own
    in-process mode, that leaves nothing in memory, and a folder's file is rebuilt; a server
    clears its segments when its optimiser next rewrites them.

    Args:
        dim: D.
        where: ":memory:" or a folder, both for trying out (that folder is read by pickle: open
            none that you did not make), or a ``qdrant_client.QdrantClient`` of your server.
        collection: its name there; created where there is none.

    Raises:
        ImportError: qdrant-client is not installed.
        ValueError: the collection is there, and holds other vectors.
    """

    def __init__(self, dim: int, where: Any = ":memory:", *, collection: str = "metaface") -> None:
        try:
            import qdrant_client
        except ImportError as error:
            raise ImportError(
                "search by Qdrant needs qdrant-client: pip install 'metaface[qdrant]'"
            ) from error
        self._models, self._dim, self._name = qdrant_client.models, dim, collection
        self._file: Path | None = None
        if where == ":memory:":
            where = qdrant_client.QdrantClient(":memory:")
        elif isinstance(where, (str, Path)):
            self._file = Path(where) / "collection" / collection / "storage.sqlite"
            where = qdrant_client.QdrantClient(path=str(where))
        self._client = where
        distance = self._models.Distance.DOT  # cosine would store other lengths than it was given
        if not self._client.collection_exists(collection):
            config = self._models.VectorParams(size=dim, distance=distance)
            self._client.create_collection(collection, vectors_config=config)
        there = self._client.get_collection(collection).config.params.vectors
        found = (getattr(there, "size", None), getattr(there, "distance", None))
        if found != (dim, distance):
            raise ValueError(
                f"Qdrant's collection {collection!r} holds {found[0]} values a vector, compared by "
                f"{found[1]}, not {dim} by {distance}: give another collection"
            )

    def __len__(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`Search.add`."""
        ids, vectors = _checked(ids, vectors, self._dim)
        for at in range(0, len(ids), _BATCH):
            some = slice(at, at + _BATCH)
            self._client.upsert(
                self._name,
                points=self._models.Batch(ids=ids[some].tolist(), vectors=vectors[some].tolist()),
                wait=True,
            )

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`Search.remove`."""
        listed = np.asarray(ids, np.int64)
        for at in range(0, len(listed), _BATCH):
            asked = listed[at : at + _BATCH].tolist()
            points = self._client.retrieve(self._name, asked, with_payload=False)
            there = [point.id for point in points]
            if there:
                self.add(np.array(there), np.zeros((len(there), self._dim), np.float32))
                selector = self._models.PointIdsList(points=there)
                self._client.delete(self._name, points_selector=selector, wait=True)
        if self._file is not None and self._file.exists():
            _vacuum(self._file)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Search.search`; of the k nearest, a server may miss some."""
        queries = _queries(queries, self._dim, k)
        scores, ids = _nothing(len(queries), k)
        for at in range(0, len(queries), 100):
            asked = [
                self._models.QueryRequest(query=query.tolist(), limit=k)
                for query in queries[at : at + 100]
            ]
            answers = self._client.query_batch_points(self._name, requests=asked)
            for row, answer in enumerate(answers, at):
                for column, point in enumerate(answer.points):
                    scores[row, column], ids[row, column] = point.score, point.id
        return scores, ids

    def close(self) -> None:
        """Close the client, also one that was given."""
        self._client.close()


def _vacuum(file: Path) -> None:
    """Rebuild qdrant-client's file, in which deleted rows would stay readable."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("VACUUM")


def _checked(ids: np.ndarray, vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    ids, vectors = np.asarray(ids), np.ascontiguousarray(vectors)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise ValueError(f"ids are {ids.dtype} {list(ids.shape)}, not int64 [n]")
    if vectors.dtype != np.float32 or vectors.shape != (len(ids), dim):
        raise ValueError(
            f"vectors are {vectors.dtype} {list(vectors.shape)}, not float32 {[len(ids), dim]}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold values that are not finite")
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids hold {ids.min()}: they start at 0")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("ids hold one twice: give each once")
    return ids.astype(np.int64), vectors


def _queries(queries: np.ndarray, dim: int, k: int) -> np.ndarray:
    queries = np.ascontiguousarray(queries)
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(
            f"queries are {queries.dtype} {list(queries.shape)}, not float32 [q, {dim}]"
        )
    if not np.isfinite(queries).all():
        raise ValueError("queries hold values that are not finite")
    if k < 1:
        raise ValueError(f"k={k}: ask for at least one")
    return queries


def _nothing(rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int64)
