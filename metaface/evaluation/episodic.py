"""Episodic accuracy: N-way K-shot tasks of unseen people."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.arguments import check_given_counts, refuse_moved
from metaface.data import FaceSet
from metaface.episodes.sampler import BLOCK, EpisodeSampler
from metaface.learners import FeatureLearner, MetaLearner
from metaface.learners.checks import check_scores
from metaface.metrics.intervals import ci95
from metaface.nets import find_not_finite
from metaface.nets.norm import prepare

log = logging.getLogger("metaface.evaluation")

BATCH_PIXELS = 4000 * 28 * 28  # of photographs that are gathered at once
EMBED_PIXELS = 256 * 28 * 28  # of photographs that are embedded at once


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
        adapt_ms: milliseconds to adapt to one task and to score its queries, photographs embedded
            for it included (vectorised mean).
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
        """Half-width of the 95% interval of the mean over episodes; nan for one."""
        return ci95(self.accuracies)

    def __str__(self) -> str:
        half = self.ci95
        return f"{self.accuracy:.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}")


@refuse_moved(
    device="learner.to(device) before the call",
    support_domain="domains=(support_domain, query_domain)",
    query_domain="domains=(support_domain, query_domain)",
)
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
    domains: tuple[str | None, str | None] | None = None,
    progress: bool = True,
) -> Result:
    """Accuracy of ``learner`` over tasks of ``faces``; the learner is left as it was.

    It runs on the device that holds the learner's parameters and buffers.

    Where a photograph has an embedding that no task changes (a :class:`FeatureLearner` without
    batch statistics), every photograph is embedded once, whatever the number of tasks.

    Two learners evaluated with equal arguments meet the same tasks, so their difference is paired.

    Args:
        faces: people the learner was not trained on.
        ways, shots, queries: of the tasks.
        episodes: how many tasks.
        seed, stream: name the tasks.
        domains: the domains of the support and of the query photographs, as
            ``support_domain`` and ``query_domain`` of ``EpisodeSampler``.
        progress: show a progress bar.

    Raises:
        ValueError: too few people with enough photographs.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=6, progress=False)
        >>> learner = mf.learners.Prototypical(mf.nets.Pixels())
        >>> result = mf.evaluate(learner, faces, ways=5, shots=1, episodes=50, progress=False)
        >>> print(result)
        0.457 ± 0.025
        >>> result.accuracies.shape
        (50,)
    """
    if not isinstance(learner, MetaLearner):
        raise ValueError(
            f"evaluate takes a learner and then a FaceSet, got {_describe(learner)} first: put a "
            "network into a learner, such as metaface.learners.Prototypical(network)"
        )
    check_given_counts(1, ways=ways, shots=shots, queries=queries, episodes=episodes)
    if (weight := find_not_finite(learner)) is not None:
        raise ValueError(f"{weight} of the learner holds infinite numbers or NaN: train it again")
    support_domain, query_domain = domains or (None, None)
    sampler = EpisodeSampler(
        faces,
        ways,
        shots,
        queries,
        seed=seed,
        stream=stream,
        device=device_of(learner),
        support_domain=support_domain,
        query_domain=query_domain,
    )
    prepare(learner)  # not on the time of adapting
    people, counts, seconds = _answer(learner, sampler, episodes, progress)
    hits = np.einsum("enn->en", counts)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(hits / counts.sum(1))
    recall = hits / counts.sum(2)
    f1 = 2 * hits / (counts.sum(1) + counts.sum(2))
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
        confusions=_list_confusions(people, counts, queries, faces.people),
    )


def device_of(learner: MetaLearner) -> torch.device:
    """Where the parameters and buffers of ``learner`` are; the CPU where it has none."""
    tensors = chain(learner.parameters(), learner.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _answer(
    learner: MetaLearner, sampler: EpisodeSampler, episodes: int, progress: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """The person behind each label, int64 ``[E, N]``; how many queries of label i were taken for
    label j, int64 ``[E, N, N]``; and the seconds it took."""
    ways, shots = sampler.ways[0], sampler.shots[0]
    people = np.zeros((episodes, ways), dtype=np.int64)
    counts = np.zeros((episodes, ways, ways), dtype=np.int64)
    seconds, undecided = 0.0, 0
    with (
        learner.predicting(),
        track(
            total=episodes,
            desc=f"{ways}-way {shots}-shot",
            unit="task",
            show=progress,
            leave=False,
        ) as bar,
    ):
        answers: _FromPhotographs | _FromFeatures
        if isinstance(learner, FeatureLearner) and learner.sees_single_images:
            answers, batch = _FromFeatures(learner, sampler), BLOCK
        else:
            answers = _FromPhotographs(learner, sampler)
            height, width = sampler.faces.image_shape[1:]
            batch = max(1, BATCH_PIXELS // (height * width * ways * (shots + sampler.queries)))
        for start in range(0, episodes, batch):
            stop = min(start + batch, episodes)
            drawn, truth, scores, spent = answers(np.arange(start, stop))
            seconds += spent
            predicted = check_scores(learner, scores).argmax(-1)
            undecided += int((scores.amax(-1) == scores.amin(-1)).sum())
            counts[start:stop] = _count_confusions(truth, predicted, ways)
            people[start:stop] = drawn.numpy()
            bar.update(stop - start)
    if undecided:
        log.warning(
            "%s gives %d of %d queries the same score for everybody, which counts as the first "
            "person: its features do not differ, or are too large",
            type(learner).__name__,
            undecided,
            counts.sum(),
        )
    return people, counts, seconds


def embed(learner: MetaLearner, images: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Features ``[n, D]`` of the photographs of rows ``[n]``, a few at a time.

    Args:
        learner: predicting, and without batch statistics: a photograph's features are its own.
        images: float ``[k, C, H, W]`` in 0..1 of rows ``[k]``.
    """
    theta = learner.theta()
    size = max(1, EMBED_PIXELS // math.prod(images(rows[:1]).shape[2:]))
    return torch.cat([learner.embed(theta, images(part)[None])[0] for part in rows.split(size)])


def _describe(what: object) -> str:
    return f"the class {what.__name__}" if isinstance(what, type) else f"a {type(what).__name__}"


class _FromPhotographs:
    """People, true labels and scores of tasks, and the seconds it took to score them."""

    def __init__(self, learner: MetaLearner, sampler: EpisodeSampler) -> None:
        self.learner, self.sampler = learner, sampler

    def __call__(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor, float]:
        tasks = self.sampler.tasks(indices)
        began = time.perf_counter()
        scores = self.learner.logits(tasks)
        return tasks.people, tasks.query_y, scores, _since(began, scores)


class _FromFeatures:
    """As :class:`_FromPhotographs`, every photograph embedded once beforehand."""

    def __init__(self, learner: FeatureLearner, sampler: EpisodeSampler) -> None:
        self.learner, self.sampler = learner, sampler
        rows = torch.from_numpy(np.unique(sampler.faces.all_rows))
        began = time.perf_counter()
        features = embed(learner, sampler.images, rows)
        self.seconds = _since(began, features) / len(rows)
        self.place = torch.zeros(len(sampler.faces.store), dtype=torch.long)
        self.place[rows] = torch.arange(len(rows))
        self.features = features

    def __call__(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor, float]:
        people, support, query = self.sampler.rows(indices)
        support_y, query_y = self.sampler.labels(support, people.shape[1])
        began = time.perf_counter()
        state = self.learner.fit_head(self._of(support), support_y, people.shape[1])
        scores = self.learner.score_head(state, self._of(query))
        embedding = self.seconds * (support.numel() + query.numel())
        return people, query_y, scores, _since(began, scores) + embedding

    def _of(self, rows: Tensor) -> Tensor:
        places = self.place[rows.flatten()].to(self.features.device)
        return self.features.index_select(0, places).unflatten(0, rows.shape)


def _since(began: float, result: Tensor) -> float:
    if result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _count_confusions(truth: Tensor, predicted: Tensor, ways: int) -> np.ndarray:
    """int64 ``[B, N, N]``: queries of label i taken for label j."""
    task = torch.arange(len(truth), device=truth.device)[:, None]
    index = (task * ways + truth) * ways + predicted
    counts = torch.bincount(index.flatten(), minlength=len(truth) * ways * ways)
    return counts.view(len(truth), ways, ways).cpu().numpy()


def _list_confusions(
    people: np.ndarray, counts: np.ndarray, queries: int, names: Sequence[str], most: int = 10
) -> list[Confusion]:
    """The pairs confused most often, from people ``[E, N]`` and confusions ``[E, N, N]``."""
    task, i, j = np.nonzero(counts * ~np.eye(counts.shape[1], dtype=bool))
    size = len(names)
    pairs, inverse = np.unique(people[task, i] * size + people[task, j], return_inverse=True)
    confused = np.bincount(inverse, counts[task, i, j], len(pairs)).astype(int)
    together = people[:, :, None] * size + people[:, None, :]
    place = np.searchsorted(pairs, together).clip(max=max(0, len(pairs) - 1))
    confusable = pairs[place] == together if len(pairs) else np.zeros_like(together, dtype=bool)
    met = queries * np.bincount(place[confusable], minlength=len(pairs))
    order = np.argsort(-confused / (met + 10), kind="stable")[:most]
    return [
        Confusion(names[pairs[k] // size], names[pairs[k] % size], int(confused[k]), int(met[k]))
        for k in order
    ]
