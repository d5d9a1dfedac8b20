"""One query against 100,000 and 500,000 enrolled faces, by each engine there is; and forgetting.

python benchmarks/search.py [--json FILE] [--faces N ...] [--rounds N]

Made-up embeddings of 128 values, three a person around a centre (cosine about 0.74 between two of
one person); a query is one more photograph of someone enrolled, k = 5. Exact and the bare
matrix-vector product over the same array take turns, on all threads; medians, and the median of
the ratios. Qdrant is qdrant-client's in-process mode, which its makers advise up to 20,000 points.
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaface.recognition.gallery.gallery import Gallery
from metaface.recognition.gallery.search import Exact, Faiss, Qdrant, Search, recall

DIM, PHOTOS, NEAREST, RECALLS = 128, 3, 5, 200


def enrolled(faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 ``[faces, DIM]``, and RECALLS queries."""
    rng = np.random.default_rng(0)
    people = -(-faces // PHOTOS)
    centres = _unit(rng.standard_normal((people, DIM), np.float32))
    who = np.concatenate([np.arange(faces) // PHOTOS, rng.choice(people, RECALLS, replace=False)])
    noise = _unit(rng.standard_normal((len(who), DIM), np.float32))
    vectors = _unit(centres[who] + np.float32(0.6) * noise)
    return vectors[:faces].copy(), vectors[faces:].copy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def took(call: Callable[..., Any], *arguments: Any) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - began)


def measure(faces: int, rounds: int) -> dict[str, dict[str, float]]:
    """Each engine's median milliseconds a query, ratio and recall."""
    vectors, queries = enrolled(faces)
    ids = np.arange(faces)
    exact = Exact(DIM)
    exact.add(ids, vectors)
    rows: dict[str, list[float]] = {"product": [], "exact": []}
    for i in range(rounds):
        query = queries[i % RECALLS]
        rows["product"].append(took(np.matmul, exact._vectors[:faces], query))  # the very array
        rows["exact"].append(took(exact.search, query[None], NEAREST))
    ratio = statistics.median(e / p for p, e in zip(*rows.values(), strict=True))
    found = {
        "bare product": {"ms": statistics.median(rows["product"])},
        "exact": {"ms": statistics.median(rows["exact"]), "ratio": ratio},
    }
    kinds: dict[str, tuple[str, Callable[[], Search]]] = {
        "faiss": ("faiss", lambda: Faiss(DIM)),
        "qdrant": ("qdrant_client", lambda: Qdrant(DIM)),
    }
    for name, (package, make) in kinds.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name}: not installed")
            continue
        engine = make()
        engine.add(ids, vectors)
        ms = statistics.median(took(engine.search, q[None], NEAREST) for q in queries[:rounds])
        found[name] = {
            "ms": ms,
            "ratio": ms / found["bare product"]["ms"],
            "recall@1": recall(engine, exact, queries, 1),
            "recall@5": recall(engine, exact, queries, NEAREST),
        }
    return found


def forgetting(people: int) -> dict[str, float]:
    """Milliseconds of a gallery's calls, one photograph a person."""
    vectors, _ = enrolled(people)
    model: dict[str, Any] = {"model": "0", "model_name": "made up", "dim": DIM}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery"
        with Gallery(**model) as source:  # in memory, where a transaction costs no flush
            for i, vector in enumerate(vectors):
                source.add(f"person {i}", vector[None])
            source.copy_to(path)
        with Gallery(path, **model) as gallery:
            return {
                "MB": path.stat().st_size / 1e6,
                "read everyone": statistics.median(took(gallery.enrolled) for _ in range(3)),
                "add one": statistics.median(
                    took(gallery.add, f"new {i}", vectors[:1]) for i in range(20)
                ),
                "forget one": statistics.median(
                    took(gallery.forget, f"person {i * 997}") for i in range(5)
                ),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--faces", type=int, nargs="+", default=[100_000, 500_000])
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Local mode is not recommended")

    found: dict[str, Any] = {"threads": torch.get_num_threads(), "search": {}}
    columns = ("ms", "ratio", "recall@1", "recall@5")
    print(f"{'faces':>8}  {'engine':<13}" + "".join(f"{column:>10}" for column in columns))
    for faces in options.faces:
        found["search"][faces] = measure(faces, options.rounds)
        for name, row in found["search"][faces].items():
            shown = "".join(f"{row[key]:10.2f}" for key in columns if key in row)
            print(f"{faces:>8}  {name:<13}{shown}", flush=True)
    found["gallery"] = forgetting(100_000)
    gallery = dict(found["gallery"])
    print(f"gallery of 100,000 people, {gallery.pop('MB'):.0f} MB: ", end="")
    print(", ".join(f"{name} {ms:.1f} ms" for name, ms in gallery.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
