"""Accuracy against each nuisance, as curves: the same episodes under more and more of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.arguments import check_given_counts, refuse_moved
from metaface.data import IMAGE_SIZE, FaceSet
from metaface.episodes.sampler import EpisodeSampler, scale_pixels
from metaface.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from metaface.evaluation.episodic import BATCH_PIXELS, device_of, embed
from metaface.learners import FeatureLearner, MetaLearner
from metaface.metrics.intervals import ci95
from metaface.synthetic import STEPS, Renders, render_steps

UNSEEN = 10**6  # procedural people from this id on are in no training set


@dataclass(frozen=True, eq=False)
class Level:
    """Accuracy under one nuisance at one severity.

    Attributes:
        nuisance: its name.
        severity: 0 (none) to 5.
        strength: what that means, in ``unit``; nan at severity 0.
        unit: of the strength.
        accuracies: float64 ``[episodes]``, 0..1; the same episodes at every severity.
        clean: float64 ``[episodes]``, at severity 0.
    """

    nuisance: str
    severity: int
    strength: float
    unit: str
    accuracies: np.ndarray
    clean: np.ndarray

    @property
    def accuracy(self) -> float:
        """Mean over episodes, 0..1."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over episodes."""
        return ci95(self.accuracies)

    @property
    def drop(self) -> float:
        """How much lower the mean is than at severity 0."""
        return float((self.clean - self.accuracies).mean())

    @property
    def drop_ci95(self) -> float:
        """Half-width of the 95% interval of the drop, paired by episode."""
        return ci95(self.clean - self.accuracies)

    def row(self) -> dict[str, Any]:
        """What goes to ``results.json``."""
        strength = None if math.isnan(self.strength) else self.strength
        return {
            "nuisance": self.nuisance,
            "severity": self.severity,
            "strength": strength,
            "unit": self.unit,
            "accuracy": self.accuracy,
            "ci95": self.ci95,
            "drop": self.drop,
            "drop_ci95": self.drop_ci95,
            "episodes": len(self.accuracies),
        }


@dataclass(frozen=True)
class RenderedFaces:
    """Procedural faces to render, and how a learner is given them.

    Attributes:
        prepare: from renders to the photographs the learner takes, uint8 ``[n, H, W, C]``:
            ``lambda renders: renders.images``, or what aligns them.
        people: how many people; nobody of them is in a set that :func:`metaface.data.load` gives.
        photos: photographs of each.
        image_size: side of a render, pixels.

    Example:
        >>> import metaface as mf
        >>> colour = mf.evaluation.RenderedFaces(lambda renders: renders.images, people=10)
        >>> grey = mf.evaluation.RenderedFaces(lambda renders: renders.images[..., :1])
        >>> colour.people, grey.people, grey.photos
        (10, 100, 10)
    """

    prepare: Callable[[Renders], np.ndarray]
    people: int = 100
    photos: int = 10
    image_size: int = IMAGE_SIZE


def check_nuisances(nuisances: Sequence[str], *, dials: bool = False) -> None:
    """Refuse a name of no corruption or, with ``dials``, of no dial.

    Raises:
        ValueError: says which, and which there are.
    """
    known, what = (STEPS, "steps of a dial") if dials else (CORRUPTIONS, "corruption")
    for name in nuisances:
        if name not in known:
            raise ValueError(f"no {what} {name!r}: choose of {', '.join(known)}")


@refuse_moved(device="learner.to(device) before the call")
def robustness(
    learner: MetaLearner,
    faces: FaceSet,
    *,
    nuisances: Sequence[str] = tuple(CORRUPTIONS),
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 500,
    seed: int = 0,
    both: bool = False,
    progress: bool = True,
) -> list[Level]:
    """Accuracy on ``faces`` corrupted more and more, by one nuisance at a time.

    The query photographs are corrupted; the support photographs stay clean, as those of a gallery
    are. All severities of all nuisances use the same episodes (those of
    :func:`metaface.evaluate` with equal arguments), so their differences are paired. Where the
    embedding does not adapt, each corrupted photograph is embedded once.

    Args:
        faces: people the learner was not trained on.
        nuisances: of :data:`metaface.evaluation.corruptions.CORRUPTIONS`.
        ways, shots, queries, episodes, seed: of the tasks.
        both: corrupt the support photographs, too.
        progress: show a progress bar.

    Returns:
        By nuisance, severity 0 to 5.

    Raises:
        ValueError: an unknown nuisance, or too few people with enough photographs.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=6, progress=False)
        >>> learner = mf.learners.Prototypical(mf.nets.Conv4())
        >>> levels = mf.evaluation.robustness(
        ...     learner, faces, nuisances=["blur"], episodes=10, progress=False
        ... )
        >>> [level.severity for level in levels], levels[0].drop
        ([0, 1, 2, 3, 4, 5], 0.0)
    """
    check_nuisances(nuisances)
    faces = FaceSet.from_arrays(faces.images, faces.person, people=faces.people, name=faces.name)
    sampler = _test_sampler(learner, faces, ways, shots, queries, seed)
    measure = _Measurement(learner, sampler, episodes, both)

    def corruptions() -> Iterator[_Series]:
        for name in nuisances:
            _, strengths, unit = CORRUPTIONS[name]
            images = (worsen(name, severity) for severity in range(1, SEVERITIES + 1))
            yield name, unit, zip(strengths, images, strict=True)

    def worsen(name: str, severity: int) -> np.ndarray:
        worse = faces.images.copy()
        rows = measure.shown
        worse[rows] = corrupt(worse[rows], name, severity, seed=seed, keys=rows)
        return worse

    return _measure_levels(measure, faces.images, corruptions(), len(nuisances), progress)


@refuse_moved(
    device="learner.to(device) before the call",
    prepare="dial_robustness(learner, RenderedFaces(prepare))",
    people="dial_robustness(learner, RenderedFaces(prepare, people=...))",
    photos="dial_robustness(learner, RenderedFaces(prepare, photos=...))",
    image_size="dial_robustness(learner, RenderedFaces(prepare, image_size=...))",
)
def dial_robustness(
    learner: MetaLearner,
    rendered: RenderedFaces,
    *,
    nuisances: Sequence[str] = tuple(STEPS),
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 500,
    seed: int = 0,
    both: bool = False,
    progress: bool = True,
) -> list[Level]:
    """:func:`robustness` on procedural faces, one dial of the renderer turned up at a time.

    Photograph i at one step of a dial differs from photograph i at another by that dial alone.

    Args:
        rendered: what is rendered.
        nuisances: of :data:`metaface.synthetic.STEPS`.

    Raises:
        TypeError: ``rendered`` is a function: it goes into :class:`RenderedFaces`.
        ValueError: an unknown dial, or too few people or photographs.

    Example:
        >>> import metaface as mf
        >>> learner = mf.learners.Prototypical(mf.nets.Conv4())
        >>> people = mf.evaluation.RenderedFaces(lambda renders: renders.images, people=6, photos=3)
        >>> levels = mf.evaluation.dial_robustness(
        ...     learner, people, nuisances=["yaw"], queries=2, episodes=10, progress=False
        ... )
        >>> [(level.severity, level.strength) for level in levels]  # yaw in degrees
        [(0, nan), (1, 15), (2, 30), (3, 45), (4, 60), (5, 75)]
    """
    if callable(rendered):
        raise TypeError("dial_robustness takes RenderedFaces(prepare) in place of prepare")
    check_nuisances(nuisances, dials=True)
    ids = np.arange(UNSEEN, UNSEEN + rendered.people)

    def render(name: str, first: int) -> Iterator[Renders]:
        return render_steps(name, ids, rendered.photos, rendered.image_size, seed, first=first)

    def dials() -> Iterator[_Series]:
        for name in nuisances:
            images = map(rendered.prepare, render(name, 1))
            yield name, "dial", zip(STEPS[name], images, strict=True)

    clean = next(render(next(iter(STEPS)), 0))  # step 0 of every dial is the same
    faces = FaceSet.from_arrays(
        rendered.prepare(clean), clean.person - UNSEEN, name="procedural faces"
    )
    sampler = _test_sampler(learner, faces, ways, shots, queries, seed)
    measure = _Measurement(learner, sampler, episodes, both)
    return _measure_levels(measure, faces.images, dials(), len(nuisances), progress)


_Series = tuple[str, str, Iterable[tuple[float, np.ndarray]]]
"""a nuisance, the unit of its strength, and the strength and photographs of severities 1 to 5"""


def _measure_levels(
    measure: _Measurement,
    images: np.ndarray,
    worsened: Iterable[_Series],
    count: int,
    progress: bool,
) -> list[Level]:
    """The levels of ``count`` nuisances, each from severity 0 (the clean ``images``)."""
    clean = measure(images)
    levels = []
    with track(
        total=count * SEVERITIES, desc="robustness", unit="severity", show=progress, leave=False
    ) as bar:
        for name, unit, steps in worsened:
            levels.append(Level(name, 0, math.nan, unit, clean, clean))
            for severity, (strength, worse) in enumerate(steps, 1):
                levels.append(Level(name, severity, strength, unit, measure(worse), clean))
                bar.update()
    return levels


def _test_sampler(
    learner: MetaLearner, faces: FaceSet, ways: int, shots: int, queries: int, seed: int
) -> EpisodeSampler:
    """The episodes of :func:`metaface.evaluate`."""
    device = device_of(learner)
    return EpisodeSampler(faces, ways, shots, queries, seed=seed, stream="test", device=device)


class _Measurement:
    """Accuracies of fixed episodes, float64 ``[episodes]``, on given photographs.

    Args:
        sampler: of a :class:`FaceSet` that is no view.
        both: whether the support photographs are the given ones, too, and not the clean ones.

    Attributes:
        shown: int64 ``[n]``, the rows that a query (or, where ``both``, a support) shows.
    """

    def __init__(
        self, learner: MetaLearner, sampler: EpisodeSampler, episodes: int, both: bool
    ) -> None:
        check_given_counts(1, episodes=episodes)
        self.learner, self.sampler, self.episodes, self.both = learner, sampler, episodes, both
        people, self.support, self.query = sampler.rows(np.arange(episodes))
        self.ways = people.shape[1]
        changed = torch.cat([self.query, self.support], 1) if both else self.query
        self.shown, self.place = self._index(changed)
        self.once = isinstance(learner, FeatureLearner)
        with torch.no_grad(), learner.predicting():
            self.once = self.once and learner.sees_single_images
            if self.once and not both:
                given, self.known = self._index(self.support)
                self.features = self._embed(sampler.faces.images[given])

    def _index(self, rows: Tensor) -> tuple[np.ndarray, Tensor]:
        """The different ones of ``rows``, and the place of each row of the set among them."""
        different = np.unique(rows.numpy())
        place = torch.zeros(len(self.sampler.faces), dtype=torch.long)
        place[torch.from_numpy(different)] = torch.arange(len(different))
        return different, place

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """``images``: uint8 ``[M, H, W, C]``, row by row those of the clean set."""
        with self.learner.predicting():
            parts = list(self._from_features(images) if self.once else self._from_photos(images))
        return torch.cat(parts).cpu().numpy()

    def _from_features(self, images: np.ndarray) -> Iterable[Tensor]:
        learner = self.learner
        assert isinstance(learner, FeatureLearner)
        hard = self._embed(images[self.shown])
        for support, query in zip(self.support.split(512), self.query.split(512), strict=True):
            y, truth = self.sampler.labels(support, self.ways)
            given = hard[self.place[support]] if self.both else self.features[self.known[support]]
            state = learner.fit_head(given, y, self.ways)
            yield _right(learner.score_head(state, hard[self.place[query]]), truth)

    def _from_photos(self, images: np.ndarray) -> Iterable[Tensor]:
        hard = torch.from_numpy(images[self.shown])
        tasks = self.support.shape[1] + self.query.shape[1]
        batch = max(1, BATCH_PIXELS // (tasks * math.prod(images.shape[1:3])))
        for start in range(0, self.episodes, batch):
            made = self.sampler.tasks(np.arange(start, min(start + batch, self.episodes)))
            made = replace(made, query=self._gather(hard, made.query_rows))
            if self.both:
                made = replace(made, support=self._gather(hard, made.support_rows))
            yield _right(self.learner.logits(made), made.query_y)

    def _gather(self, hard: Tensor, rows: Tensor) -> Tensor:
        return self._pictures(hard[self.place[rows.flatten()]]).unflatten(0, rows.shape)

    def _pictures(self, some: Tensor) -> Tensor:
        """float32 ``[n, C, H, W]`` in 0..1 of uint8 ``[n, H, W, C]``."""
        return scale_pixels(some.to(device_of(self.learner)))

    def _embed(self, images: np.ndarray) -> Tensor:
        stored = torch.from_numpy(np.ascontiguousarray(images))
        return embed(
            self.learner, lambda rows: self._pictures(stored[rows]), torch.arange(len(stored))
        )


def _right(logits: Tensor, truth: Tensor) -> Tensor:
    """Share of right answers of each task, float64 ``[B]``."""
    return (logits.argmax(-1) == truth).double().mean(1)
