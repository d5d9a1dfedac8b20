"""Open-set identification (1:N): who of the enrolled is this, or is it a stranger?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metaface.arguments import between_0_and_1, check_given_counts
from metaface.metrics.cohort import Cohort
from metaface.metrics.cohort import prototypes as mean_prototypes
from metaface.metrics.intervals import Estimate, share
from metaface.metrics.thresholds import calibrate

FALSE_POSITIVES = 10  # over all galleries: a rate that allows fewer is not measured, but guessed
CURVE_POINTS = 80

Scores = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Probes, float32 ``[q, D]``, to scores ``[q, N]``, one for each enrolled person; and whose they
are, int ``[q]``, where they are the cohort itself, else None."""
Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Scores]
"""Gallery ``[G, D]``, labels int64 ``[G]`` in 0..N - 1; cohort ``[c, D]`` and whose ``[c]``."""
Calibrate = Callable[[np.ndarray, np.ndarray, float], float]
"""Best scores of the cohort's photographs, float64 ``[c]``, whose ``[c]``, FPIR: a threshold."""


@dataclass(frozen=True)
class DirAtFpir:
    """Detection and identification rate where each gallery's own threshold gives this FPIR.

    Attributes:
        fpir: the rate asked for, 0..1.
        reached: the rate there, pooled over the galleries; at most ``fpir``.
        dir: pooled over the galleries, with its interval over them.
    """

    fpir: float
    reached: float
    dir: Estimate


@dataclass(frozen=True, eq=False)
class OpenSet:
    """Identification over random galleries; prints DIR and FPIR at the calibrated threshold.

    FPIR is the share of strangers' photographs for which anybody is named. DIR (ISO/IEC 19795-1:
    TPIR at rank 1, 1 - FNIR) is the share of enrolled people's photographs for which they are
    named: the best score, and not below the threshold. Every :class:`Estimate` is pooled over the
    galleries, with a 95% interval that draws whole galleries; all of them are of the same set of
    people, so it says nothing about other sets.

    Attributes:
        at: DIR at each FPIR that there are strangers enough for, thresholds chosen on the
            strangers themselves: the usual measure of papers, which nobody can reach on purpose.
        smallest_fpir: that there are strangers enough for: at least one false positive in every
            gallery, and ten in all. Where less is measured, little is known.
        asked: the FPIR that the cohort's thresholds were calibrated for.
        realised_fpir, realised_dir: at those thresholds.
        rank1: of enrolled people's photographs, without any threshold (closed set).
        curve_fpir, curve_dir: float64 ``[k]``, ascending; thresholds as in ``at``.
        thresholds: float64 ``[galleries]``, the calibrated ones.
        genuine: float64 ``[p]``, scores of enrolled people's photographs with themselves.
        impostor: float64 ``[p]``, the best of each with another person; -inf if there is none.
        stranger: float64 ``[s]``, the best of each stranger's photograph. All galleries' together.
        enrolled, shots, strangers, cohort: of each gallery.
    """

    at: tuple[DirAtFpir, ...]
    smallest_fpir: float
    asked: float
    realised_fpir: Estimate
    realised_dir: Estimate
    rank1: Estimate
    curve_fpir: np.ndarray
    curve_dir: np.ndarray
    thresholds: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray
    stranger: np.ndarray
    enrolled: int
    shots: int
    strangers: int
    cohort: int

    @property
    def galleries(self) -> int:
        return len(self.thresholds)

    def __str__(self) -> str:
        return f"DIR {self.realised_dir} at FPIR {self.realised_fpir} ({self.asked:g} asked)"


def prototypes(
    gallery: np.ndarray, labels: np.ndarray, cohort: np.ndarray, cohort_person: np.ndarray
) -> Scores:
    """A :data:`Scorer`: cosine with the mean of each person's embeddings; no use of a cohort."""
    means = mean_prototypes(gallery, labels, int(labels.max()) + 1)
    return lambda probes, whose: probes @ means.T


def cohort(
    gallery: np.ndarray, labels: np.ndarray, cohort: np.ndarray, cohort_person: np.ndarray
) -> Scores:
    """A :data:`Scorer`: the recogniser's own; see :class:`metaface.metrics.cohort.Cohort`."""
    means = mean_prototypes(gallery, labels, int(labels.max()) + 1)
    strangers = Cohort(cohort, cohort_person)
    return lambda probes, whose: probes @ means.T - strangers.baseline(probes, whose)[:, None]


def _threshold(best: np.ndarray, person: np.ndarray, fpir: float) -> float:
    return calibrate(best, person, fpir).threshold


def open_set(
    embeddings: np.ndarray,
    person: np.ndarray,
    *,
    enrolled: int = 50,
    shots: int = 3,
    strangers: int = 500,
    cohort: int = 600,
    galleries: int = 20,
    fpirs: tuple[float, ...] = (0.001, 0.01, 0.1),
    ask: float = 0.01,
    seed: int = 0,
    scorer: Scorer = prototypes,
    calibrate: Calibrate = _threshold,
) -> OpenSet:
    """Identify enrolled people and strangers in random galleries.

    In each gallery three groups of people are drawn, with nobody in two: those enrolled, with
    ``shots`` photographs of each, whose other photographs are probes; strangers, all of whose
    photographs are probes; and the cohort, all of whose photographs the threshold is calibrated
    on. Gallery i depends on the seed and i alone.

    Args:
        embeddings: float32 ``[n, D]``, unit length.
        person: int ``[n]``, who is on each photograph.
        enrolled: people in a gallery, from those with more than ``shots`` photographs.
        shots: photographs of each that are enrolled.
        strangers, cohort: people.
        galleries: how many.
        fpirs: rates at which DIR is reported; those below ``OpenSet.smallest_fpir`` are left out.
        ask: the FPIR to calibrate for.
        seed: names the galleries.
        scorer: makes the scores of one gallery: :func:`prototypes`, :func:`cohort` or another.
        calibrate: makes the threshold of one gallery; who scores this or more is named. Default:
            as :func:`metaface.metrics.thresholds.calibrate` does.

    Raises:
        ValueError: a setting out of range, too few people (what there is, what was asked), or
            scores of the wrong shape or that are not numbers.
    """
    check_given_counts(
        1, enrolled=enrolled, shots=shots, strangers=strangers, cohort=cohort, galleries=galleries
    )
    fpirs = tuple(between_0_and_1(fpirs=rate) for rate in fpirs)
    ask = between_0_and_1(ask=ask)
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(person):
        raise ValueError(
            f"embeddings {embeddings.shape} of {len(person)} labels: need [n, D] and [n]"
        )
    person = np.asarray(person)
    people, photos = np.unique(person, return_counts=True)
    able = people[photos > shots]
    needed = enrolled + strangers + cohort
    if len(people) < needed or len(able) < enrolled:
        raise ValueError(
            f"{len(people)} people, {len(able)} of them with more than {shots} photographs, but "
            f"enrolled={enrolled}, strangers={strangers} and cohort={cohort} need {needed} people, "
            f"{enrolled} of them with more than shots={shots} (the most that anybody has is "
            f"{photos.max(initial=0)}): ask for fewer, or add people"
        )
    found = []
    for i in range(galleries):
        random = np.random.default_rng([seed, i])
        mine = random.choice(able, enrolled, replace=False)
        others = random.permutation(np.setdiff1d(people, mine))
        found.append(
            _gallery(
                embeddings,
                person,
                mine,
                others[:strangers],
                others[strangers:][:cohort],
                shots=shots,
                ask=ask,
                scorer=scorer,
                calibrate=calibrate,
                random=random,
            )
        )
    return _result(found, fpirs, ask, enrolled, shots, strangers, cohort)


@dataclass(frozen=True)
class _Gallery:
    genuine: np.ndarray
    impostor: np.ndarray
    stranger: np.ndarray
    threshold: float

    @property
    def right(self) -> np.ndarray:
        """Scores of the photographs whose best name is the right one."""
        return self.genuine[self.genuine > self.impostor]

    def cut(self, fpir: float) -> float:
        """The least threshold that at most this share of the strangers reaches."""
        allowed = math.floor(fpir * len(self.stranger) + 1e-9)
        if allowed >= len(self.stranger):
            return -math.inf
        first = np.partition(self.stranger, -1 - allowed)[-1 - allowed]  # the best kept out
        return float(np.nextafter(first, np.inf))


def _gallery(
    embeddings: np.ndarray,
    person: np.ndarray,
    mine: np.ndarray,
    strangers: np.ndarray,
    cohort: np.ndarray,
    *,
    shots: int,
    ask: float,
    scorer: Scorer,
    calibrate: Calibrate,
    random: np.random.Generator,
) -> _Gallery:
    support, probes, labels = [], [], []
    for label, p in enumerate(mine):
        rows = random.permutation(np.flatnonzero(person == p))
        support.append(rows[:shots])
        probes.append(rows[shots:])
        labels.append(np.full(len(rows) - shots, label))
    others = np.flatnonzero(np.isin(person, strangers))
    aside = np.flatnonzero(np.isin(person, cohort))
    scores = scorer(
        embeddings[np.concatenate(support)],
        np.repeat(np.arange(len(mine)), shots),
        embeddings[aside],
        person[aside],
    )

    def scored(rows: np.ndarray, whose: np.ndarray | None = None) -> np.ndarray:
        given = np.array(scores(embeddings[rows], whose), dtype=np.float64)
        if given.shape != (len(rows), len(mine)) or np.isnan(given).any():
            raise ValueError(
                f"the scorer gave {given.shape} for {len(rows)} probes of {len(mine)} people, "
                f"{int(np.isnan(given).sum())} of them not a number: need [probes, people]"
            )
        return given

    mated = scored(np.concatenate(probes))
    own = np.arange(len(mated)), np.concatenate(labels)
    genuine = mated[own]
    mated[own] = -np.inf
    threshold = float(calibrate(scored(aside, person[aside]).max(1), person[aside], ask))
    return _Gallery(genuine, mated.max(1), scored(others).max(1), threshold)


def _result(
    found: list[_Gallery],
    fpirs: tuple[float, ...],
    ask: float,
    enrolled: int,
    shots: int,
    strangers: int,
    cohort: int,
) -> OpenSet:
    mated = np.array([len(g.genuine) for g in found])
    unmated = np.array([len(g.stranger) for g in found])

    def at(cuts: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Named rightly, and strangers named, in each gallery."""
        pairs = list(zip(found, cuts, strict=True))
        right = np.array([(g.right >= c).sum() for g, c in pairs])
        return right, np.array([(g.stranger >= c).sum() for g, c in pairs])

    smallest = float(max(FALSE_POSITIVES / unmated.sum(), 1 / unmated.min()))
    listed = []
    for fpir in fpirs:
        if fpir >= smallest:
            right, wrong = at([g.cut(fpir) for g in found])
            reached = float(wrong.sum() / unmated.sum())
            listed.append(DirAtFpir(fpir, reached, share(right, mated)))
    grid = np.geomspace(min(smallest, 1), 1, CURVE_POINTS)
    curve = [at([g.cut(fpir) for g in found]) for fpir in grid]
    right, wrong = at([g.threshold for g in found])
    return OpenSet(
        at=tuple(listed),
        smallest_fpir=smallest,
        asked=ask,
        realised_fpir=share(wrong, unmated),
        realised_dir=share(right, mated),
        rank1=share(np.array([len(g.right) for g in found]), mated),
        curve_fpir=np.array([w.sum() / unmated.sum() for _, w in curve]),
        curve_dir=np.array([r.sum() / mated.sum() for r, _ in curve]),
        thresholds=np.array([g.threshold for g in found]),
        genuine=np.concatenate([g.genuine for g in found]),
        impostor=np.concatenate([g.impostor for g in found]),
        stranger=np.concatenate([g.stranger for g in found]),
        enrolled=enrolled,
        shots=shots,
        strangers=strangers,
        cohort=cohort,
    )
