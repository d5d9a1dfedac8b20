"""Accuracy against each nuisance, as curves: the same episodes under more and more of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.data import IMAGE_SIZE, FaceSet
from metaface.episodes.sampler import EpisodeSampler, scale_pixels
from metaface.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from metaface.evaluation.episodic import BATCH_PIXELS, embedded
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
    device: str | torch.device | None = None,
    progress: bool = True,
) -> list[Level]:
    """Accuracy on ``faces`` corrupted more and more, by one nuisance at a time.

    The query photographs are corrupted; the support photographs stay clean, as those of a gallery
    are. All severities of all nuisances meet the same episodes (those of
    :func:`metaface.evaluate` with equal arguments), so their differences are paired. Where the
    embedding does not adapt, each corrupted photograph is embedded once.

    Args:
        faces: people the learner was not trained on.
        nuisances: of :data:`metaface.evaluation.corruptions.CORRUPTIONS`.
        ways, shots, queries, episodes, seed: of the tasks.
        both: corrupt the support photographs, too.
        device: None: where the learner is.
        progress: show a progress bar.

    Returns:
        By nuisance, severity 0 to 5.

    Raises:
        ValueError: an unknown nuisance, or too few people with enough photographs.
    """
    for name in nuisances:
        if name not in CORRUPTIONS:
            raise ValueError(f"no corruption {name!r}: choose of {', '.join(CORRUPTIONS)}")
    faces = FaceSet.from_arrays(faces.images, faces.person, people=faces.people, name=faces.name)
    run = _Measurement(learner, faces, ways, shots, queries, episodes, seed, both, device)
    clean = run(faces.images)
    found = []
    with track(
        total=len(nuisances) * SEVERITIES,
        desc="robustness",
        unit="severity",
        show=progress,
        leave=False,
    ) as bar:
        for name in nuisances:
            _, strengths, unit = CORRUPTIONS[name]
            found.append(Level(name, 0, math.nan, unit, clean, clean))
            for severity, strength in enumerate(strengths, 1):
                worse = faces.images.copy()
                worse[run.shown] = corrupt(
                    worse[run.shown], name, severity, seed=seed, keys=run.shown
                )
                found.append(Level(name, severity, strength, unit, run(worse), clean))
                bar.update()
    return found


def dial_robustness(
    learner: MetaLearner,
    prepare: Callable[[Renders], np.ndarray],
    *,
    nuisances: Sequence[str] = tuple(STEPS),
    people: int = 100,
    photos: int = 10,
    image_size: int = IMAGE_SIZE,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    episodes: int = 500,
    seed: int = 0,
    both: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> list[Level]:
    """The same on procedural faces, one dial of the renderer turned up at a time.

    Photograph i of a step differs from photograph i of another by that dial alone. Nobody of them
    is in a set that :func:`metaface.data.load` gives.

    Args:
        prepare: from renders to the photographs the learner takes, uint8 ``[n, H, W, C]``:
            ``lambda r: r.images``, or what aligns them.
        nuisances: of :data:`metaface.synthetic.STEPS`.
        people, photos, image_size: what is rendered.

    Raises:
        ValueError: an unknown dial, or too few people or photographs.
    """
    for name in nuisances:
        if name not in STEPS:
            raise ValueError(f"no steps of a dial {name!r}: choose of {', '.join(STEPS)}")
    ids = np.arange(UNSEEN, UNSEEN + people)
    found: list[Level] = []
    run: _Measurement | None = None
    clean = np.empty(0)
    with track(
        total=len(nuisances) * SEVERITIES,
        desc="robustness",
        unit="severity",
        show=progress,
        leave=False,
    ) as bar:
        for name in nuisances:
            steps = render_steps(name, ids, photos, image_size, seed, first=0 if not found else 1)
            if run is None:
                first = next(steps)
                faces = FaceSet.from_arrays(
                    prepare(first), first.person - UNSEEN, name="procedural faces"
                )
                run = _Measurement(
                    learner, faces, ways, shots, queries, episodes, seed, both, device
                )
                clean = run(faces.images)
            found.append(Level(name, 0, math.nan, "dial", clean, clean))
            for severity, (setting, made) in enumerate(zip(STEPS[name], steps, strict=True), 1):
                found.append(Level(name, severity, setting, "dial", run(prepare(made)), clean))
                bar.update()
    return found


class _Measurement:
    """Accuracies of fixed episodes ``[episodes]``, whatever their queries' photographs became.

    Attributes:
        shown: int64 ``[n]``, the rows that a query (or, where ``both``, a support) shows.
    """

    def __init__(
        self,
        learner: MetaLearner,
        faces: FaceSet,
        ways: int,
        shots: int,
        queries: int,
        episodes: int,
        seed: int,
        both: bool,
        device: str | torch.device | None,
    ) -> None:
        if episodes < 1:
            raise ValueError(f"episodes={episodes}: must be at least 1")
        if device is None:
            device = next((p.device for p in learner.parameters()), torch.device("cpu"))
        self.learner, self.both, self.episodes = learner, both, episodes
        self.device = torch.device(device)
        self.sampler = EpisodeSampler(
            faces, ways, shots, queries, seed=seed, stream="test", device=device
        )
        people, self.support, self.query = self.sampler.rows(np.arange(episodes))
        self.ways = people.shape[1]
        changed = torch.cat([self.query, self.support], 1) if both else self.query
        self.shown = np.unique(changed.numpy())
        self.place = torch.zeros(len(faces), dtype=torch.long)
        self.place[torch.from_numpy(self.shown)] = torch.arange(len(self.shown))
        self.once = isinstance(learner, FeatureLearner)
        with torch.no_grad(), learner.predicting():
            self.once = self.once and learner.sees_single_images
            if self.once and not both:
                given = np.unique(self.support.numpy())
                self.known = torch.zeros(len(faces), dtype=torch.long)
                self.known[torch.from_numpy(given)] = torch.arange(len(given))
                self.features = self._embedded(faces.images[given])

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """``images``: uint8 ``[M, H, W, C]``, row by row those of the clean set."""
        with self.learner.predicting():
            parts = list(self._from_features(images) if self.once else self._from_photos(images))
        return torch.cat(parts).cpu().numpy()

    def _from_features(self, images: np.ndarray) -> Iterable[Tensor]:
        learner = self.learner
        assert isinstance(learner, FeatureLearner)
        hard = self._embedded(images[self.shown])
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
            made = replace(made, query=self._gathered(hard, made.query_rows))
            if self.both:
                made = replace(made, support=self._gathered(hard, made.support_rows))
            yield _right(self.learner.logits(made), made.query_y)

    def _gathered(self, hard: Tensor, rows: Tensor) -> Tensor:
        return self._pictures(hard[self.place[rows.flatten()]]).unflatten(0, rows.shape)

    def _pictures(self, some: Tensor) -> Tensor:
        """float32 ``[n, C, H, W]`` in 0..1 of uint8 ``[n, H, W, C]``."""
        return scale_pixels(some.to(self.device))

    def _embedded(self, images: np.ndarray) -> Tensor:
        stored = torch.from_numpy(np.ascontiguousarray(images))
        return embedded(
            self.learner, lambda rows: self._pictures(stored[rows]), torch.arange(len(stored))
        )


def _right(logits: Tensor, truth: Tensor) -> Tensor:
    """Share of right answers of each task, float64 ``[B]``."""
    return (logits.argmax(-1) == truth).double().mean(1)
