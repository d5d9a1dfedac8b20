"""Search by Qdrant, an optional extra."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from metaface.recognition.gallery._gate import Gate
from metaface.recognition.gallery._vectors import check_queries, check_vectors, no_matches

_BATCH = 1000  # points of a request
_gates: WeakKeyDictionary[Any, Gate] = WeakKeyDictionary()  # of clients that are no server's


class Qdrant:
    """A Qdrant collection (``pip install 'metaface[qdrant]'``), for several machines.

    A removed vector is overwritten with zeros and then deleted. Of qdrant-client's own
    in-process mode, that clears its array, and a folder's file is rebuilt; a server clears its
    segments when its optimiser next rewrites them.

    Args:
        dim: D.
        where: ":memory:" or a folder, both for trying out (that folder is read by pickle: open
            none that you did not make), or a ``qdrant_client.QdrantClient`` of your server.
        collection: its name there; created where there is none.

    Raises:
        ImportError: qdrant-client is not installed.
        ValueError: the collection is there, and holds other vectors.

    Example:
        >>> import numpy as np
        >>> from metaface.recognition import Qdrant
        >>> vectors = np.eye(3, 8, dtype=np.float32)
        >>> search = Qdrant(8)
        >>> search.add(np.array([10, 11, 12]), vectors)
        >>> scores, ids = search.search(vectors[1:2], k=1)
        >>> ids.tolist(), scores.round(2).tolist()
        ([[11]], [[1.0]])
        >>> search.remove(np.array([11]))
        >>> sorted(search.ids().tolist())
        [10, 12]
        >>> search.close()
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
        self._own = where == ":memory:" or isinstance(where, (str, Path))
        if where == ":memory:":
            where = qdrant_client.QdrantClient(":memory:")
        elif self._own:
            self._file = Path(where) / "collection" / collection / "storage.sqlite"
            where = qdrant_client.QdrantClient(path=str(where))
        self._client = where
        # qdrant-client's own mode is for one thread; a server orders its clients itself
        self._gate = _gates.setdefault(where, Gate()) if self._local() is not None else None
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Create the collection, or check that it is one of ours."""
        distance = self._models.Distance.DOT  # cosine would store other lengths than it was given
        if not self._client.collection_exists(self._name):
            config = self._models.VectorParams(size=self._dim, distance=distance)
            try:
                self._client.create_collection(self._name, vectors_config=config)
            except Exception:  # of several kinds; another process may have been faster
                if not self._client.collection_exists(self._name):
                    raise
        there = self._client.get_collection(self._name).config.params.vectors
        kind = (getattr(there, "size", None), getattr(there, "distance", None))
        if kind != (self._dim, distance):
            raise ValueError(
                f"Qdrant's collection {self._name!r} holds {kind[0]} values a vector, compared "
                f"by {kind[1]}, not {self._dim} by {distance}: give another collection"
            )

    def ids(self) -> np.ndarray:
        """See :meth:`.search.Search.ids`."""
        ids: list[int] = []
        with self._searching():
            offset = None
            while True:
                points, offset = self._client.scroll(
                    self._name, limit=_BATCH, offset=offset, with_payload=False, with_vectors=False
                )
                ids += [point.id for point in points]
                if offset is None:
                    return np.array(ids, np.int64)

    def __len__(self) -> int:
        with self._searching():
            return int(self._client.count(self._name, exact=True).count)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """See :meth:`.search.Search.add`."""
        ids, vectors = check_vectors(ids, vectors, self._dim)
        with self._changing():
            self._upsert(ids, vectors)

    def _upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        for at in range(0, len(ids), _BATCH):
            some = slice(at, at + _BATCH)
            self._client.upsert(
                self._name,
                points=self._models.Batch(ids=ids[some].tolist(), vectors=vectors[some].tolist()),
                wait=True,
            )

    def remove(self, ids: np.ndarray) -> None:
        """See :meth:`.search.Search.remove`."""
        with self._changing():
            self._remove(ids)

    def _remove(self, ids: np.ndarray) -> None:
        listed = np.asarray(ids, np.int64)
        for at in range(0, len(listed), _BATCH):
            asked = listed[at : at + _BATCH].tolist()
            points = self._client.retrieve(self._name, asked, with_payload=False)
            there = [point.id for point in points]
            if there:
                self._upsert(np.array(there), np.zeros((len(there), self._dim), np.float32))
                selector = self._models.PointIdsList(points=there)
                self._client.delete(self._name, points_selector=selector, wait=True)
        self._clear_spare_rows()
        if self._file is not None and self._file.exists():
            _vacuum(self._file)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`.search.Search.search`; of the k nearest, a server may miss some."""
        queries = check_queries(queries, self._dim, k)
        scores, ids = no_matches(len(queries), k)
        for at in range(0, len(queries), 100):
            asked = [
                self._models.QueryRequest(query=query.tolist(), limit=k)
                for query in queries[at : at + 100]
            ]
            with self._searching():
                answers = self._client.query_batch_points(self._name, requests=asked)
            for row, answer in enumerate(answers, at):
                for column, point in enumerate(answer.points):
                    scores[row, column], ids[row, column] = point.score, point.id
        return scores, ids

    def _clear_spare_rows(self) -> None:
        """qdrant-client's own mode grows its arrays by np.resize, which fills the new rows with
        copies of the old ones; a client of a server has no such arrays."""
        held = (self._local() or {}).get(self._name)
        if held is not None:
            for array in held.vectors.values():
                array[len(held.ids_inv) :] = 0

    def _local(self) -> Any:
        """The collections of qdrant-client's own mode; None of a server's client."""
        return getattr(getattr(self._client, "_client", None), "collections", None)

    def _searching(self) -> AbstractContextManager[None]:
        return nullcontext() if self._gate is None else self._gate.searching()

    def _changing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._gate is None else self._gate.changing()

    def close(self) -> None:
        """Close the client, unless it was given."""
        if self._own:
            self._client.close()


def _vacuum(file: Path) -> None:
    """Rebuild qdrant-client's file, in which deleted rows would stay readable."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("VACUUM")
