"""Search engines against numpy's brute force, and what is left of a removed vector."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaface.recognition.gallery import _exact, _faiss
from metaface.recognition.gallery.search import Exact, Faiss, Qdrant, Search, recall

D = 8


def needs(package: str, engine: str) -> Any:
    return pytest.param(
        engine,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
        ),
    )


FAISS, QDRANT = needs("faiss", "faiss"), needs("qdrant_client", "qdrant")
ENGINES = ["exact", FAISS, QDRANT]


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes engines by name, and closes them."""
    made: list[Any] = []

    def engine(name: str, dim: int = D, *args: Any, **options: Any) -> Any:
        kinds: dict[str, Any] = {"exact": Exact, "faiss": Faiss, "qdrant": Qdrant}
        made.append(kinds[name](dim, *args, **options))
        return made[-1]

    yield engine
    for one in made:
        getattr(one, "close", lambda: None)()


def unit(count: int, seed: int = 0, dim: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def people(count: int, photos: int, dim: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Enrolled photographs around each person's centre, and one more of each person."""
    centres = np.repeat(unit(count, 1, dim), photos + 1, axis=0)
    vectors = centres + 0.6 * unit(len(centres), 2, dim)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    each = vectors.reshape(count, photos + 1, dim)
    return each[:, 1:].reshape(-1, dim).copy(), each[:, 0].copy()


def brute(held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> tuple[Any, Any]:
    """By sorting everything, in float64."""
    scores = np.full((len(queries), k), -np.inf)
    ids = np.full((len(queries), k), -1)
    for row, query in enumerate(queries.astype(np.float64)):
        ranked = sorted(((-float(vector @ query), i) for i, vector in held.items()))[:k]
        for column, (score, i) in enumerate(ranked):
            scores[row, column], ids[row, column] = -score, i
    return scores, ids


def agree(engine: Search, held: dict[int, np.ndarray], queries: np.ndarray, k: int) -> None:
    assert len(engine) == len(held)
    scores, ids = engine.search(queries, k)
    want_scores, want_ids = brute(held, queries, k)
    assert scores.dtype == np.float32 and ids.dtype == np.int64
    assert scores.shape == ids.shape == (len(queries), k)
    assert np.array_equal(ids, want_ids)
    finite = np.isfinite(want_scores)
    assert np.array_equal(np.isfinite(scores), finite) and (scores[~finite] == -np.inf).all()
    assert np.allclose(scores[finite], want_scores[finite], atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_against_brute_force(make: Any, name: str) -> None:
    engine, vectors = make(name), unit(300)
    ids = np.random.default_rng(1).permutation(10_000)[:300]
    engine.add(ids[:100], vectors[:100])
    engine.add(ids[100:], vectors[100:])
    held = dict(zip(ids.tolist(), vectors, strict=True))
    for k in (1, 5, 300, 310):
        agree(engine, held, unit(7, 2), k)
    agree(engine, held, unit(1, 3), 3)
    agree(engine, held, unit(0), 3)


@pytest.mark.parametrize("name", ENGINES)
def test_nobody_is_there(make: Any, name: str) -> None:
    engine = make(name)
    agree(engine, {}, unit(2), 3)
    engine.remove(np.array([1, 2]))
    engine.add(np.zeros(0, np.int64), np.zeros((0, D), np.float32))
    agree(engine, {}, unit(2), 3)
    engine.add(np.array([7]), unit(1))
    engine.remove(np.array([7]))
    agree(engine, {}, unit(2), 3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("seed", range(3))
def test_changes_against_a_dict(make: Any, name: str, seed: int) -> None:
    rng, engine, held = np.random.default_rng(seed), make(name), {}
    for step in range(30):
        ids = rng.choice(60, rng.integers(0, 20), replace=False)
        if rng.random() < 0.6:  # some new, some replaced
            vectors = unit(len(ids), 100 * seed + step)
            engine.add(ids, vectors)
            held.update(zip(ids.tolist(), vectors, strict=True))
        else:  # some there, some not
            engine.remove(ids)
            for i in ids.tolist():
                held.pop(i, None)
        agree(engine, held, unit(3, step), 5)


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_refused(make: Any, name: str) -> None:
    engine, one = make(name), np.array([1])
    for ids, vectors, message in (
        (one, unit(2), r"\[2, 8\], not float32 \[1, 8\]"),
        (one, unit(1, dim=4), r"\[1, 4\]"),
        (one, unit(1).astype(np.float64), "float64"),
        (one.astype(float), unit(1), "ids are float64"),
        (np.array([-1]), unit(1), "-1: they start at 0"),
        (np.array([1, 1]), unit(2), "one twice"),
        (one, np.full((1, D), np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.add(ids, vectors)
    engine.add(one, unit(1))
    for queries, k, message in (
        (unit(1)[0], 1, r"float32 \[8\], not float32 \[q, 8\]"),
        (unit(1, dim=4), 1, r"\[1, 4\]"),
        (unit(1).astype(np.float64), 1, "float64"),
        (np.full((1, D), np.inf, np.float32), 1, "not finite"),
        (unit(1), 0, "k=0"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.search(queries, k)
    agree(engine, {1: unit(1)[0]}, unit(2), 1)


# What is left of a removed vector


def memory(engine: Any) -> bytes:
    """Every byte in which the engine keeps vectors, also beyond those in use."""
    if isinstance(engine, Exact):
        return engine._vectors.tobytes()
    if isinstance(engine, Faiss):
        lists, faiss = engine._index.invlists, engine._faiss
        return b"".join(
            faiss.rev_swig_ptr(lists.get_codes(i), 64 * lists.code_size).tobytes()
            for i in range(engine._index.nlist)
        )
    return b"".join(
        v.tobytes() for v in engine._client._client.collections["metaface"].vectors.values()
    )


@pytest.mark.parametrize("name", ENGINES)
def test_a_removed_vector_is_gone_from_memory(make: Any, name: str) -> None:
    engine, vectors = make(name), unit(64)
    engine.add(np.arange(64), vectors)
    gone = [0, 13, 62, 63]
    assert all(vectors[i].tobytes() in memory(engine) for i in range(64))
    engine.remove(np.array([*gone, 1000]))
    for i in range(64):
        assert (vectors[i].tobytes() in memory(engine)) == (i not in gone)
    engine.add(np.array([5]), unit(1, 1))  # replaced
    assert vectors[5].tobytes() not in memory(engine)


def test_room_that_is_outgrown_is_zeroed() -> None:
    engine = Exact(D)
    engine.add(np.arange(10), unit(10))
    old = engine._vectors
    engine.add(np.arange(10, 20), unit(10, 1))
    assert engine._vectors is not old and not old.any()


# qdrant-client leaves a connection of its own open (seen on Python 3.13)
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [QDRANT])
def test_qdrant_in_a_folder(make: Any, name: str, tmp_path: Path) -> None:
    def on_disk() -> bytes:
        return b"".join(f.read_bytes() for f in sorted(tmp_path.rglob("*")) if f.is_file())

    engine, vectors = make(name, D, tmp_path), unit(200)
    # as qdrant-client writes them: pickled lists of doubles
    pieces = [struct.pack(">dcdcd", v[0], b"G", v[1], b"G", v[2]) for v in vectors]
    engine.add(np.arange(200), vectors)
    assert all(piece in on_disk() for piece in pieces)
    engine.remove(np.arange(0, 200, 3))
    assert [p in on_disk() for p in pieces] == [i % 3 > 0 for i in range(200)]
    engine.close()
    held = {i: v for i, v in enumerate(vectors) if i % 3}
    agree(make(name, D, tmp_path), held, unit(4, 1), 5)


@pytest.mark.parametrize("name", [QDRANT])
def test_a_client_of_the_users(make: Any, name: str) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    first, second = make(name, D, client), make(name, D, client, collection="second")
    first.add(np.arange(3), unit(3))
    assert len(first) == 3 and len(second) == 0
    first.close()
    agree(make(name, D, client), dict(enumerate(unit(3))), unit(2), 2)  # the client is still open
    with pytest.raises(ValueError, match="'metaface' holds 8 values a vector.*give another"):
        make(name, 16, client)
    cosine = models.VectorParams(size=D, distance=models.Distance.COSINE)
    client.create_collection("theirs", vectors_config=cosine)
    with pytest.raises(ValueError, match="Cosine"):
        make(name, D, client, collection="theirs")
    client.close()


# Exact search at size


def test_many_queries_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Exact(D)
    engine.add(np.arange(5000), unit(5000))
    whole = engine.search(unit(50, 1), 4)
    monkeypatch.setattr(_exact, "_SCORES", 5000 * 7)
    pieces = engine.search(unit(50, 1), 4)
    assert np.array_equal(whole[1], pieces[1]) and np.allclose(whole[0], pieces[0], atol=1e-6)
    alone = [engine.search(query[None], 4)[1][0] for query in unit(50, 1)]
    assert np.array_equal(whole[1], alone)


def test_equal_scores_come_in_order_of_id() -> None:
    engine = Exact(D)
    engine.add(np.array([9, 3, 7, 5]), np.repeat(unit(1), 4, axis=0))
    assert engine.search(unit(1), 3)[1].tolist() == [[3, 5, 7]]


# Recall


def test_recall_counts_what_is_found() -> None:
    exact, half = Exact(D), Exact(D)
    assert recall(half, exact, unit(5), 3) == 1.0
    vectors = unit(40)
    exact.add(np.arange(40), vectors)
    assert recall(exact, exact, unit(50, 1), 10) == 1.0
    assert recall(half, exact, unit(50, 1), 10) == 0.0
    half.add(np.arange(0, 40, 2), vectors[::2])
    queries = unit(50, 1)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert recall(half, exact, queries, 10) == pytest.approx((nearest % 2 == 0).mean())
    assert recall(half, exact, queries, 100) == pytest.approx(0.5)  # of 40, not of 100


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_finds_nearly_all(make: Any, name: str) -> None:
    vectors, queries = people(4000, 3)
    queries, ids = queries[::40].copy(), np.arange(len(vectors)) * 3
    engine, exact = make(name, 32), Exact(32)
    engine.add(ids, vectors)
    exact.add(ids, vectors)
    assert recall(engine, exact, queries, 1) >= 0.97
    if name == "faiss":
        assert engine._index.nlist > 100  # and not by comparing everything
    else:
        assert recall(engine, exact, queries, 5) == 1.0


@pytest.mark.parametrize("name", [FAISS])
def test_faiss_draws_cells_anew_as_it_grows(make: Any, name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(_faiss, "_FEW", 100)
    engine, exact, vectors, cells = make(name, share=1.0), Exact(D), unit(3000), set()
    for at in range(0, 3000, 50):
        ids = np.arange(at, at + 50)
        engine.add(ids, vectors[ids])
        exact.add(ids, vectors[ids])
        gone = ids[::7]
        engine.remove(gone)
        exact.remove(gone)
        cells.add(engine._index.nlist)
        assert len(engine) == len(exact) == engine._index.ntotal
        assert recall(engine, exact, unit(5, at), 5) == 1.0  # every cell is searched
    assert len(cells) >= 3
    with pytest.raises(ValueError, match="share=0"):
        make(name, share=0)


@pytest.mark.parametrize("name", [FAISS])
def test_the_cells_of_faiss_are_nobodys_face(make: Any, name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(_faiss, "_FEW", 100)
    engine, vectors = make(name, 32), unit(400, dim=32)
    outlier = np.eye(32, dtype=np.float32)[:1]
    vectors = np.concatenate([vectors * (1 - outlier), outlier])  # nobody else is that way
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine.add(np.arange(401), vectors)
    cells = engine._index.quantizer.reconstruct_n(0, engine._index.nlist)
    assert len(cells) > 20 and (cells @ outlier[0]).max() < 0.5


# The extras


@pytest.mark.parametrize(
    ("engine", "package", "extra"), [(Faiss, "faiss", "faiss"), (Qdrant, "qdrant_client", "qdrant")]
)
def test_a_missing_extra_is_named(engine: Any, package: str, extra: str, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'metaface\[{extra}\]'"):
        engine(D)
