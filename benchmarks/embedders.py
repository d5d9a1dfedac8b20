"""Time an embedder: milliseconds a face, preprocessing included, by batch and threads.

python benchmarks/embedders.py mobilefacenet_casia --models DIR --threads 1
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from metaface.recognition.embedders import base, loading, network


def milliseconds(embed_crops: loading.Embedder, faces: int, repeats: int) -> float:
    """Median time a face of ``repeats`` calls with ``faces`` crops of noise."""
    crops = np.random.default_rng(0).integers(0, 256, (faces, 112, 112, 3), np.uint8)
    embed_crops(crops)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        embed_crops(crops)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / faces * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("embedder", help="as metaface.recognition.embedders.loading.load takes it")
    parser.add_argument("--models", help="the folder of models")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, nargs="+", default=[8, base.BATCH, 32, 64])
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 8, 32])
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    kinds = {"folded": loading.load(o.embedder, o.models)}
    network.folded = lambda net, example: net  # type: ignore[attr-defined]
    kinds["as trained"] = loading.load(o.embedder, o.models)
    print(f"ms a face, {o.threads} threads; faces given: {o.faces}")
    for batch in o.batch:
        base.BATCH = batch
        for kind, one in kinds.items():
            found = [f"{milliseconds(one, n, 30 if n == 1 else 9):6.1f}" for n in o.faces]
            print(f"{kind:>10}, {batch:2} pictures at once {' '.join(found)}")


if __name__ == "__main__":
    main()
