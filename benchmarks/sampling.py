"""Episodes a second: MetaFace's sampler against learn2learn's Taskset, on the same photographs.

python benchmarks/sampling.py [--json FILE]

5-way 1-shot 5-query, 28x28 uint8 in memory, batches of 16, float tensors out; the two in turn,
medians of the rounds. Needs learn2learn (tools/build_learn2learn.py).
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import metaface as mf

warnings.simplefilter("ignore")
WAYS, SHOTS, QUERIES, BATCH = 5, 1, 5, 16


def metaface_sampler(images: np.ndarray, person: np.ndarray) -> Callable[[int], None]:
    sampler = mf.EpisodeSampler(mf.FaceSet.from_arrays(images, person), WAYS, SHOTS, QUERIES)

    def draw(batches: int) -> None:
        for k in range(batches):
            sampler.batch(k, BATCH)

    return draw


def learn2learn_sampler(images: np.ndarray, person: np.ndarray) -> Callable[[int], None]:
    import learn2learn as l2l

    class InMemory(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.from_numpy(images[i]).permute(2, 0, 1).float() / 255, int(person[i])

    dataset = l2l.data.MetaDataset(InMemory())
    tasks = l2l.data.Taskset(
        dataset,
        task_transforms=[
            l2l.data.transforms.FusedNWaysKShots(dataset, n=WAYS, k=SHOTS + QUERIES),
            l2l.data.transforms.LoadData(dataset),
            l2l.data.transforms.RemapLabels(dataset),
            l2l.data.transforms.ConsecutiveLabels(dataset),
        ],
    )

    def draw(batches: int) -> None:
        for _ in range(batches * BATCH):
            tasks.sample()

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1000 * 20, 28, 28, 1), dtype=np.uint8)
    person = np.repeat(np.arange(1000), 20)
    peers = {
        "metaface": (metaface_sampler(images, person), 400),
        "learn2learn": (learn2learn_sampler(images, person), 12),
    }
    rates: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(options.rounds):
        for name, (draw, batches) in peers.items():
            draw(1)
            began = time.perf_counter()
            draw(batches)
            rates[name].append(batches * BATCH / (time.perf_counter() - began))
    for name, values in rates.items():
        print(
            f"{name:>12}: {statistics.median(values):8.0f} tasks/s "
            f"({min(values):.0f} to {max(values):.0f})"
        )
    ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
    print(f"{'ratio':>12}: {ratio:8.1f}")
    if options.json:
        Path(options.json).write_text(json.dumps({"rates": rates, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
