"""Episodic accuracy: N-way K-shot tasks of unseen people."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metaface.data import FaceSet
from metaface.episodes import EpisodeSampler
from metaface.learners import MetaLearner

CHUNK_PIXELS = 300 * 28 * 28  # of photographs whose activations are held at once


@dataclass(frozen=True)
class Confusion:
    """How often photographs of ``person`` were taken for ``taken_for``, where both were present."""

    person: str
    taken_for: str
    count: int
    met: int
    """queries of ``person`` in tasks where ``taken_for`` was present"""


@dataclass(frozen=True, eq=False)
class Result:
    """Accuracy over episodes; prints as ``0.874 ± 0.006``.

    Attributes:
        accuracies: float64 ``[episodes]``, of each episode, 0..1.
        precision, recall, f1: macro means over the people of an episode, then over episodes, 0..1.
        ways, shots, queries: of the episodes.
        adapt_ms: milliseconds to adapt to one task and to score its queries (vectorised mean).
        norm: normalisation mode of the embedding.
        transductive: whether queries of a task saw each other.
        confusions: the most frequent, as a share of the times the two people met.
    """

    accuracies: np.ndarray
    precision: float
    recall: float
    f1: float
    ways: int
    shots: int
    queries: int
    adapt_ms: float
    norm: str
    transductive: bool
    confusions: list[Confusion] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Mean over episodes, 0..1."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over episodes (normal approximation)."""
        return ci95(self.accuracies)

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} ± {self.ci95:.3f}"


def ci95(values: np.ndarray) -> float:
    """Half-width of the 95% interval of the mean: 1.96 standard errors; nan for one value."""
    if len(values) < 2:
        return math.nan
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


@torch.no_grad()
def evaluate(
    learner: MetaLearner,
    faces: FaceSet,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 1000,
    seed: int = 0,
    stream: str = "test",
    support_domain: str | None = None,
    query_domain: str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Result:
    """Accuracy of ``learner`` over tasks of ``faces``; the learner is left as it was.

    Two learners evaluated with equal arguments meet the same tasks, so their difference is paired.

    Args:
        faces: people the learner was not trained on.
        ways, shots, queries: of the tasks.
        episodes: how many tasks.
        seed, stream: name the tasks.
        support_domain, query_domain: as in ``EpisodeSampler``.
        device: None: where the learner is.
        progress: show a progress bar.

    Raises:
        ValueError: too few people with enough photographs.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: must be at least 1")
    if device is None:
        device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    sampler = EpisodeSampler(
        faces, ways, shots, queries, seed=seed, stream=stream, device=device,
        support_domain=support_domain, query_domain=query_domain,
    )  # fmt: skip
    pixels = faces.image_shape[1] * faces.image_shape[2] * ways * (shots + queries)
    chunk = max(1, CHUNK_PIXELS // pixels)
    counts = np.zeros((episodes, ways, ways), dtype=np.int64)
    met: Counter[tuple[int, int]] = Counter()
    confused: Counter[tuple[int, int]] = Counter()
    seconds = 0.0
    with learner.predicting(), tqdm(
        total=episodes, desc=f"{ways}-way {shots}-shot", unit="task", disable=not progress,
        leave=False,
    ) as bar:  # fmt: skip
        for start in range(0, episodes, chunk):
            stop = min(start + chunk, episodes)
            batch = sampler.tasks(np.arange(start, stop))
            began = time.perf_counter()
            predicted = learner.logits(batch).argmax(-1)
            if predicted.is_cuda:
                torch.cuda.synchronize()
            seconds += time.perf_counter() - began
            counts[start:stop] = _confusion(batch.query_y, predicted, ways)
            _count_pairs(batch.people.numpy(), counts[start:stop], queries, met, confused)
            bar.update(stop - start)
    hits = np.einsum("enn->en", counts)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(hits / counts.sum(1))
    recall = hits / counts.sum(2)
    f1 = 2 * hits / (counts.sum(1) + counts.sum(2))
    hardest = sorted(confused, key=lambda pair: -confused[pair] / (met[pair] + 10))[:10]
    return Result(
        accuracies=recall.mean(1),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        ways=ways,
        shots=shots,
        queries=queries,
        adapt_ms=1000 * seconds / episodes,
        norm=learner.norm,
        transductive=learner.transductive,
        confusions=[
            Confusion(faces.people[a], faces.people[b], confused[a, b], met[a, b])
            for a, b in hardest
        ],
    )


def _confusion(truth: Tensor, predicted: Tensor, ways: int) -> np.ndarray:
    """int64 ``[B, N, N]``: queries of label i taken for label j."""
    task = torch.arange(len(truth), device=truth.device)[:, None]
    index = (task * ways + truth) * ways + predicted
    counts = torch.bincount(index.flatten(), minlength=len(truth) * ways * ways)
    return counts.view(len(truth), ways, ways).cpu().numpy()


def _count_pairs(
    people: np.ndarray,
    counts: np.ndarray,
    queries: int,
    met: Counter[tuple[int, int]],
    confused: Counter[tuple[int, int]],
) -> None:
    task, i, j = np.nonzero(~np.eye(counts.shape[1], dtype=bool) & (counts >= 0))
    pairs = list(zip(people[task, i].tolist(), people[task, j].tolist(), strict=True))
    for pair, count in zip(pairs, counts[task, i, j].tolist(), strict=True):
        met[pair] += queries
        if count:
            confused[pair] += count
