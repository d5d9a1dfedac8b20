"""Open-set identification (1:N): who of the enrolled is this, or is it a stranger?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metaface.arguments import between_0_and_1, check_given_counts, refuse_moved
from metaface.metrics.cohort import Cohort, compute_prototypes
from metaface.metrics.intervals import Estimate, estimate_share
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
class OpenSetDesign:
    """What the random galleries of :func:`open_set` are made of.

    Attributes:
        enrolled: people in a gallery, from those with more than ``shots`` photographs.
        shots: photographs of each that are enrolled; the others are probes.
        strangers: people who are not enrolled, all of whose photographs are probes.
        cohort: people on all of whose photographs the threshold is calibrated.
        galleries: how many; gallery i depends on the seed and i alone.
        seed: names the galleries.

    Raises:
        ValueError: a count below 1.

    Example:
        >>> from metaface.metrics import OpenSetDesign
        >>> OpenSetDesign(enrolled=20, shots=1, galleries=5)
        OpenSetDesign(enrolled=20, shots=1, strangers=500, cohort=600, galleries=5, seed=0)
    """

    enrolled: int = 50
    shots: int = 3
    strangers: int = 500
    cohort: int = 600
    galleries: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_given_counts(
            1,
            enrolled=self.enrolled,
            shots=self.shots,
            strangers=self.strangers,
            cohort=self.cohort,
            galleries=self.galleries,
        )


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
        genuine_scores: float64 ``[p]``, of enrolled people's photographs with their own person;
            of all galleries together, as are the next two.
        other_scores: float64 ``[p]``, the best of each with another enrolled person; -inf if
            there is none.
        impostor_scores: float64 ``[s]``, the best of each stranger's photograph.
        design: of the galleries.
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
    genuine_scores: np.ndarray
    other_scores: np.ndarray
    impostor_scores: np.ndarray
    design: OpenSetDesign

    def __str__(self) -> str:
        return f"DIR {self.realised_dir} at FPIR {self.realised_fpir} ({self.asked:g} asked)"


def prototype_scorer(
    gallery: np.ndarray, labels: np.ndarray, cohort: np.ndarray, cohort_person: np.ndarray
) -> Scores:
    """A :data:`Scorer`: cosine with the mean of each person's embeddings; no use of a cohort.

    Args:
        gallery: float32 ``[m, D]``, unit length, of the enrolled photographs.
        labels: int64 ``[m]`` in 0..P-1, whose each is.
        cohort, cohort_person: float32 ``[c, D]``, unit length, and int64 ``[c]``; c may be 0.

    Returns:
        A function of probes, float32 ``[q, D]``, and whose they are in the cohort, int64 ``[q]``,
        or None for who is not in it; it gives scores ``[q, P]``.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import prototype_scorer
        >>> enrolled, whose = np.eye(3, 8, dtype=np.float32), np.array([0, 0, 1])
        >>> nobody = np.zeros((0, 8), np.float32), np.zeros(0, np.int64)  # no cohort
        >>> score = prototype_scorer(enrolled, whose, *nobody)
        >>> print(score(enrolled[1:2], None).round(2))  # with person 0, with person 1
        [[0.71 0.  ]]
    """
    means = compute_prototypes(gallery, labels, int(labels.max()) + 1)
    return lambda probes, whose: probes @ means.T


def cohort_scorer(
    gallery: np.ndarray, labels: np.ndarray, cohort: np.ndarray, cohort_person: np.ndarray
) -> Scores:
    """A :data:`Scorer`: the recogniser's own; see :class:`metaface.metrics.cohort.Cohort`.

    Args:
        gallery: float32 ``[m, D]``, unit length, of the enrolled photographs.
        labels: int64 ``[m]`` in 0..P-1, whose each is.
        cohort, cohort_person: float32 ``[c, D]``, unit length, and int64 ``[c]``; c may be 0.

    Returns:
        A function of probes, float32 ``[q, D]``, and whose they are in the cohort, int64 ``[q]``,
        or None for who is not in it; it gives scores ``[q, P]``.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import OpenSetDesign, cohort_scorer, open_set
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces = np.float32(faces / np.linalg.norm(faces, axis=1, keepdims=True))
        >>> design = OpenSetDesign(enrolled=10, shots=1, strangers=50, cohort=30, galleries=2)
        >>> open_set(faces, person, design, ask=0.1, scorer=cohort_scorer).rank1.value > 0.9
        True
    """
    means = compute_prototypes(gallery, labels, int(labels.max()) + 1)
    strangers = Cohort(cohort, cohort_person)
    return lambda probes, whose: probes @ means.T - strangers.baseline(probes, whose)[:, None]


def _calibrated_threshold(best: np.ndarray, person: np.ndarray, fpir: float) -> float:
    return calibrate(best, person, fpir).threshold


_DESIGN = {n: f"open_set(..., OpenSetDesign({n}=...))" for n in vars(OpenSetDesign())}


@refuse_moved(**_DESIGN)
def open_set(
    embeddings: np.ndarray,
    person: np.ndarray,
    design: OpenSetDesign | None = None,
    *,
    fpirs: tuple[float, ...] = (0.001, 0.01, 0.1),
    ask: float = 0.01,
    scorer: Scorer = prototype_scorer,
    calibrate: Calibrate = _calibrated_threshold,
) -> OpenSet:
    """Identify enrolled people and strangers in random galleries.

    In each gallery three groups of people are drawn, with nobody in two: those enrolled, the
    strangers and the cohort; see :class:`OpenSetDesign`, whose defaults are taken if it is None.

    Args:
        embeddings: float32 ``[n, D]``, unit length.
        person: int ``[n]``, who is on each photograph.
        fpirs: rates at which DIR is reported; those below ``OpenSet.smallest_fpir`` are left out.
        ask: the FPIR to calibrate for.
        scorer: makes the scores of one gallery: :func:`prototype_scorer`, :func:`cohort_scorer`
            or another.
        calibrate: makes the threshold of one gallery; who scores this or more is named. Default:
            as :func:`metaface.metrics.thresholds.calibrate` does.

    Raises:
        ValueError: a setting out of range, too few people (what there is, what was asked), or
            scores of the wrong shape or that are not numbers.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import OpenSetDesign, open_set
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces = np.float32(faces / np.linalg.norm(faces, axis=1, keepdims=True))
        >>> design = OpenSetDesign(enrolled=10, shots=1, strangers=50, cohort=40, galleries=3)
        >>> result = open_set(faces, person, design, ask=0.05)
        >>> print(result.realised_dir, result.realised_fpir)
        1.000 [1.000, 1.000] 0.033 [0.000, 0.080]
    """
    design = design or OpenSetDesign()
    fpirs = tuple(between_0_and_1(fpirs=rate) for rate in fpirs)
    ask = between_0_and_1(ask=ask)
    embeddings, person = np.asarray(embeddings, np.float32), np.asarray(person)
    if embeddings.ndim != 2 or len(embeddings) != len(person):
        raise ValueError(
            f"embeddings {embeddings.shape} of {len(person)} labels: need [n, D] and [n]"
        )
    people, able = _check_people(person, design)
    galleries = []
    for i in range(design.galleries):
        random = np.random.default_rng([design.seed, i])
        enrolled = random.choice(able, design.enrolled, replace=False)
        others = random.permutation(np.setdiff1d(people, enrolled))
        support, probes, labels = _draw_photographs(person, enrolled, design.shots, random)
        strangers = np.flatnonzero(np.isin(person, others[: design.strangers]))
        cohort = np.flatnonzero(np.isin(person, others[design.strangers :][: design.cohort]))
        scores = _CheckedScores(
            scorer(
                embeddings[support],
                np.repeat(np.arange(design.enrolled), design.shots),
                embeddings[cohort],
                person[cohort],
            ),
            embeddings,
            design.enrolled,
        )
        mated = scores(probes)
        own = np.arange(len(mated)), labels
        genuine = mated[own]
        mated[own] = -np.inf
        threshold = calibrate(scores(cohort, person[cohort]).max(1), person[cohort], ask)
        impostor = scores(strangers).max(1)
        galleries.append(_Gallery(genuine, mated.max(1), impostor, float(threshold)))
    return _pool(galleries, fpirs, ask, design)


def _check_people(person: np.ndarray, design: OpenSetDesign) -> tuple[np.ndarray, np.ndarray]:
    """All people, and those who can be enrolled."""
    people, photos = np.unique(person, return_counts=True)
    able = people[photos > design.shots]
    needed = design.enrolled + design.strangers + design.cohort
    if len(people) < needed or len(able) < design.enrolled:
        raise ValueError(
            f"{len(people)} people, {len(able)} of them with more than {design.shots} photographs, "
            f"but enrolled={design.enrolled}, strangers={design.strangers} and "
            f"cohort={design.cohort} need {needed} people, {design.enrolled} of them with more "
            f"than shots={design.shots} (the most that anybody has is {photos.max(initial=0)}): "
            "ask for fewer, or add people"
        )
    return people, able


def _draw_photographs(
    person: np.ndarray, enrolled: np.ndarray, shots: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of ``shots`` photographs of each person, of their others, and the others' labels."""
    support, probes, labels = [], [], []
    for label, p in enumerate(enrolled):
        rows = random.permutation(np.flatnonzero(person == p))
        support.append(rows[:shots])
        probes.append(rows[shots:])
        labels.append(np.full(len(rows) - shots, label))
    return np.concatenate(support), np.concatenate(probes), np.concatenate(labels)


@dataclass(frozen=True)
class _CheckedScores:
    """Scores of rows of ``embeddings`` ``[q, people]``, float64, of the right shape, no nan."""

    scores: Scores
    embeddings: np.ndarray
    people: int

    def __call__(self, rows: np.ndarray, whose: np.ndarray | None = None) -> np.ndarray:
        given = np.array(self.scores(self.embeddings[rows], whose), dtype=np.float64)
        if given.shape != (len(rows), self.people) or np.isnan(given).any():
            raise ValueError(
                f"the scorer gave {given.shape} for {len(rows)} probes of {self.people} people, "
                f"{int(np.isnan(given).sum())} of them not a number: need [probes, people]"
            )
        return given


@dataclass(frozen=True)
class _Gallery:
    """The scores of one gallery; see :class:`OpenSet`."""

    genuine: np.ndarray
    other: np.ndarray
    impostor: np.ndarray
    threshold: float

    @property
    def right(self) -> np.ndarray:
        """Scores of the photographs whose best name is the right one."""
        return self.genuine[self.genuine > self.other]

    def cut(self, fpir: float) -> float:
        """The lowest threshold that at most this share of the strangers reaches."""
        allowed = math.floor(fpir * len(self.impostor) + 1e-9)
        if allowed >= len(self.impostor):
            return -math.inf
        first = np.partition(self.impostor, -1 - allowed)[-1 - allowed]  # the best kept out
        return float(np.nextafter(first, np.inf))


def _pool(
    galleries: list[_Gallery], fpirs: tuple[float, ...], ask: float, design: OpenSetDesign
) -> OpenSet:
    mated = np.array([len(g.genuine) for g in galleries])
    unmated = np.array([len(g.impostor) for g in galleries])

    def count_named(cuts: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Enrolled people named rightly, and strangers named, in each gallery."""
        pairs = list(zip(galleries, cuts, strict=True))
        right = np.array([(g.right >= c).sum() for g, c in pairs])
        return right, np.array([(g.impostor >= c).sum() for g, c in pairs])

    smallest = float(max(FALSE_POSITIVES / unmated.sum(), 1 / unmated.min()))
    points = []
    for fpir in fpirs:
        if fpir >= smallest:
            right, wrong = count_named([g.cut(fpir) for g in galleries])
            reached = float(wrong.sum() / unmated.sum())
            points.append(DirAtFpir(fpir, reached, estimate_share(right, mated)))
    grid = np.geomspace(min(smallest, 1), 1, CURVE_POINTS)
    curve = [count_named([g.cut(fpir) for g in galleries]) for fpir in grid]
    right, wrong = count_named([g.threshold for g in galleries])
    return OpenSet(
        at=tuple(points),
        smallest_fpir=smallest,
        asked=ask,
        realised_fpir=estimate_share(wrong, unmated),
        realised_dir=estimate_share(right, mated),
        rank1=estimate_share(np.array([len(g.right) for g in galleries]), mated),
        curve_fpir=np.array([w.sum() / unmated.sum() for _, w in curve]),
        curve_dir=np.array([r.sum() / mated.sum() for r, _ in curve]),
        thresholds=np.array([g.threshold for g in galleries]),
        genuine_scores=np.concatenate([g.genuine for g in galleries]),
        other_scores=np.concatenate([g.other for g in galleries]),
        impostor_scores=np.concatenate([g.impostor for g in galleries]),
        design=design,
    )
