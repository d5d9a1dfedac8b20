"""Strangers who look like somebody enrolled, and enrolled people who look like one person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaface.metrics.cohort import Cohort, compute_prototypes, normalise
from metaface.recognition.alike import same_picture_cosine
from metaface.recognition.embedders import Embedder
from metaface.recognition.gallery.gallery import Enrolled
from metaface.recognition.published import published_threshold

_COMPARED = 2000  # enrolled people or photographs that are compared, of more
_AT_ONCE = 2**22  # cosines
_ENOUGH = 20  # people whose median and spread mean something
_NARROWEST = 0.02  # smallest spread; that of hundreds of strangers is 0.04 to 0.07
_RARE, _FALLS = 0.02, 1.25  # share of strangers 3 spreads above the median; 1 more: times e^-1.25
_MISTAKEN = 0.1  # of those who are found to look enrolled, true strangers
_UNUSUAL = 5.0  # spreads above the median: 0.15% of strangers lie there
_HARDLY = 1e-4  # of a few strangers, those who are taken for enrolled people by mistake
_POSSIBLE = 2.5  # spreads above the median: 4% of strangers lie there
_TWICE = 0.05  # of galleries where nobody is enrolled twice, those where a pair is named
_USUAL_BASELINE = 0.2  # mean cosine of a person with the strangers nearest to them, on LFW


@dataclass(frozen=True, eq=False)
class Likeness:
    """Strangers compared with enrolled people; see :func:`find_enrolled_lookalikes`.

    Attributes:
        lookalike: bool ``[n]``, who looks like somebody enrolled.
        possible: bool ``[n]``, who possibly does.
        score: float32 ``[n]``, with the person each resembles most.
        whose: int64 ``[n]``, who that is.
    """

    lookalike: np.ndarray
    possible: np.ndarray
    score: np.ndarray
    whose: np.ndarray


def compare_with_enrolled(strangers: Cohort, enrolled: Enrolled, embedder: Embedder) -> Likeness:
    """Compare strangers, each picture once, with enrolled people, at least one."""
    faces, owner, people = enrolled.embeddings, enrolled.person, len(enrolled.names)
    probes, person = strangers.embeddings, strangers.person
    best, whose = find_nearest(probes, compute_prototypes(faces, owner, people))
    base = strangers.baseline(probes, person)
    usual = usual_cosine(faces, owner, people)
    lookalike, possible = find_enrolled_lookalikes(best, base, person, people, usual, embedder)
    closest, face = find_nearest(probes, faces)
    same = closest >= same_picture_cosine(embedder)
    lookalike |= np.isin(person, person[same])
    whose = np.where(same, owner[face], whose)
    return Likeness(lookalike, possible & ~lookalike, best - base, whose)


def find_nearest(embeddings: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each face ``[n, D]`` with people ``[P, D]``, and with which."""
    best = np.full(len(embeddings), -np.inf, np.float32)
    whose = np.zeros(len(embeddings), np.int64)
    step = max(1, _AT_ONCE // max(len(embeddings), 1))
    for start in range(0, len(people), step):
        cosines = embeddings @ people[start : start + step].T
        here = cosines.max(1)
        whose = np.where(here > best, start + cosines.argmax(1), whose)
        best = np.maximum(best, here)
    return best, whose


def find_enrolled_lookalikes(
    best: np.ndarray,
    base: np.ndarray,
    person: np.ndarray,
    people: int,
    usual: float,
    embedder: Embedder,
) -> tuple[np.ndarray, np.ndarray]:
    """Which strangers look like somebody enrolled, with all their photographs.

    Most of the people are assumed to be true strangers. How far a score lies above the median (of
    each person's mean score), in spreads, says how rare it is among strangers, by a rate measured
    on LFW (docs/recognition.md). Of those found, one in ten is found by mistake (Benjamini and
    Hochberg 1995), so among a hundred true strangers hardly anybody is found. Who is as similar as
    enrolled photographs of one person are to each other is found at a lower score.

    Args:
        best: float32 ``[n]``, the largest cosine of each with one of ``people`` prototypes.
        base: float32 ``[n]``, :meth:`Cohort.baseline` of each.
        person: int64 ``[n]``, who is who.
        usual: see :func:`usual_cosine`.

    Returns:
        bool ``[n]``: who does; and who possibly does, where others do.
    """
    from scipy.stats import false_discovery_control  # it takes a second

    score = (best - base).astype(np.float64)
    _, who, photos = np.unique(person, return_inverse=True, return_counts=True)
    if len(photos) >= _ENOUGH and people:
        low, middle = np.quantile(np.bincount(who, score) / photos, [0.16, 0.5])
        far = (score - middle) / max(middle - low, _NARROWEST)
        rare = np.ones(len(photos))
        np.minimum.at(rare, who, _RARE * np.exp(_FALLS * (3 - far)) * photos[who])
        lookalike = (best >= usual) & (far >= _UNUSUAL)
        lookalike |= (false_discovery_control(rare) <= _MISTAKEN)[who]
    else:  # too few people for a median and a spread
        far = np.zeros(len(best))
        cut = published_threshold(embedder, max(1, people), _HARDLY)
        both = [value for value in (cut, usual) if value is not None and np.isfinite(value)]
        lookalike = best >= max(both, default=np.inf)
    lookalike = np.isin(person, person[lookalike])
    return lookalike, ~lookalike & (far >= _POSSIBLE) & lookalike.any()


def usual_cosine(embeddings: np.ndarray, person: np.ndarray, people: int) -> float:
    """The cosine that five of six photographs reach with the rest of their person's; infinite
    where everybody has but one.

    Args:
        embeddings: float32 ``[M, D]``.
        person: int64 ``[M]`` in 0..people-1.
    """
    several = np.flatnonzero(np.bincount(person, minlength=people)[person] > 1)[:_COMPARED]
    if not len(several):
        return np.inf
    theirs = np.flatnonzero(np.isin(person, person[several]))
    theirs = theirs[np.argsort(person[theirs], kind="stable")]
    whose, start = np.unique(person[theirs], return_index=True)
    sums = np.add.reduceat(embeddings[theirs], start, axis=0)
    rest = normalise(sums[np.searchsorted(whose, person[several])] - embeddings[several])
    return float(np.quantile(np.einsum("nd,nd->n", rest, embeddings[several]), 1 / 6))


def find_people_enrolled_twice(
    people: np.ndarray, cohort: Cohort, embedder: Embedder
) -> list[tuple[int, int, float]]:
    """Pairs of enrolled people whose prototypes, float32 ``[P, D]``, look like one person, and
    their cosines, the largest first; of a large gallery, those of the first people with any.

    Where the cohort shows that high cosines are usual among photographs of this kind, the mean
    baseline of the two people is subtracted first.
    """
    some = people[:_COMPARED]
    pairs = len(some) * (len(people) - 1) / 2
    cut = published_threshold(embedder, max(1, round(pairs)), _TWICE)
    if cut is None or not pairs:
        return []
    step = max(1, _AT_ONCE // len(people))
    parts = [np.empty((2, 0), np.int64)]
    for start in range(0, len(some), step):
        one, other = np.nonzero(some[start : start + step] @ people.T >= cut)
        parts.append(np.stack([one + start, other])[:, one + start < other])
    one, other = np.concatenate(parts, 1)
    cosines = np.einsum("nd,nd->n", people[one], people[other])
    base = cohort.baseline(people[np.concatenate([one, other])]).reshape(2, -1)
    above = cosines - base.mean(0) >= cut - _USUAL_BASELINE
    one, other, cosines = one[above], other[above], cosines[above]
    order = np.argsort(-cosines, kind="stable")
    return [(int(one[i]), int(other[i]), float(cosines[i])) for i in order]
