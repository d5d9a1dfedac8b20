"""Arrays of ids, vectors and queries, as every search engine here takes them."""

from __future__ import annotations

import numpy as np


def check_vectors(ids: np.ndarray, vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """``ids`` as int64 ``[n]`` and ``vectors`` as float32 ``[n, D]``, if that is what they are."""
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


def check_queries(queries: np.ndarray, dim: int, k: int) -> np.ndarray:
    """``queries`` as float32 ``[q, D]`` in order in memory, if that is what they are."""
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


def no_matches(rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The answer of an empty index: scores and ids ``[rows, k]``."""
    return np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1, np.int64)
