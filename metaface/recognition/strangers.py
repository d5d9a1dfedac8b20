"""People who are not enrolled: those the user gives, or else procedural ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaface import synthetic
from metaface._text import given_path, printable
from metaface.data._skipped import report_skipped
from metaface.data._sources import open_source
from metaface.faces.alignment import align
from metaface.faces.exposure import brighten_dark
from metaface.faces.photos import Photo, find_name, list_folder, list_photos
from metaface.metrics.cohort import Cohort, prototypes, unit
from metaface.recognition.alike import groups, merged, same_picture
from metaface.recognition.embedders.loading import Embedder
from metaface.recognition.gallery.gallery import Enrolled
from metaface.recognition.matching import Embeddings
from metaface.recognition.models import MODELS

_PROCEDURAL = 128  # people, enough for a rate of 1%
_LISTED = 5  # photographs that perhaps show somebody enrolled, of more
_PAIRED = 2000  # photographs of strangers that are compared with each other
_AT_ONCE = 2**22  # cosines
_ENOUGH = 20  # people whose middle and spread mean something
_NARROWEST = 0.02  # least spread; that of hundreds of strangers is 0.04 to 0.07
_RARE, _FALLS = 0.02, 1.25  # the share of strangers 3 spreads above their middle; 1 more, e^-1.25
_MISTAKEN = 0.1  # of those who are found to look enrolled, strangers
_UNUSUAL = 5.0  # spreads above their middle: 0.15% of strangers lie there
_HARDLY = 1e-4  # of a few strangers, those who are taken for enrolled people by mistake
_PERHAPS = 2.5  # spreads above the middle: 4% of strangers lie there
_TWICE = 0.05  # of galleries where nobody is enrolled twice, those where a pair is named
_RESEMBLING = 0.2  # mean cosine of somebody with the strangers nearest to them, on LFW
_ONE_PERSON = 1e-5  # false match rate at which photographs that nobody names are of one person

log = logging.getLogger("metaface.recognition")


class Given(NamedTuple):
    """A photograph of a stranger: what it is called, and whose it is (None: nobody says)."""

    path: str
    person: str | None


@contextmanager
def opened(source: Any) -> Iterator[tuple[Iterator[Photo], Sequence[Given]]]:
    """Photographs of strangers and what is known of each.

    Args:
        source: a folder, a zip or a CSV as ``metaface.data.load`` takes them; a folder of
            photographs without folders, or a list of photographs: nobody says whose they are then.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path = None
    if isinstance(source, (str, Path)):
        path = given_path(source, "the photographs of strangers").expanduser()
    flat = None
    if path is not None and path.is_dir():
        flat = list_folder(path)
        flat = None if any(photo.parent != path for photo in flat) else flat
    if path is None or flat is not None:
        photos = list_photos(source) if flat is None else flat
        if not photos:
            raise ValueError(f"no photographs of strangers in {source}")
        named = (find_name(photo) or f"photograph {i}" for i, photo in enumerate(photos, 1))
        yield iter(photos), [Given(name, None) for name in named]
        return
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as found:
        report_skipped(found.name, found.skipped, len(found.photos))
        yield (
            (partial(found.read, photo) for photo in found.photos),
            [Given(photo.path, photo.person) for photo in found.photos],
        )


def different(
    embeddings: np.ndarray, given: Sequence[Given], enrolled: Enrolled, embedder: Embedder
) -> tuple[np.ndarray, np.ndarray]:
    """Which photographs to calibrate with, and which different strangers they are of.

    Of several that are the same picture the first is taken, and who shares one is one stranger.
    Where nobody says whose they are, those that look like one person are of one. Strangers who look
    like somebody enrolled are left out with all their photographs; each is named in the log.

    Args:
        embeddings: float32 ``[n, D]``.
        given: what is known of each.

    Returns:
        Rows, int64 ``[k]`` ascending, and numbers of people, int64 ``[k]``.

    Raises:
        ValueError: all of them look like somebody enrolled.
    """
    picture = groups(embeddings, same_picture(embedder))
    rows = np.unique(picture, return_index=True)[1]
    if given[0].person is None:
        link = published_threshold(embedder, 1, _ONE_PERSON)
        person = picture if link is None else groups(embeddings, link)
        if link is None:
            log.warning(
                "every photograph of strangers is taken for another person, as nobody has measured "
                "how alike those of one are to %s: give a folder a person",
                embedder.name,
            )
        elif (people := len(np.unique(person))) < len(rows):
            log.warning(
                "%d different photographs of strangers are taken for %d people by their likeness: "
                "where they are more, give a folder a person",
                len(rows),
                people,
            )
    else:
        _, label = np.unique([one.person for one in given], return_inverse=True)
        person = merged(label, picture)
        if (more := len(np.unique(label)) - len(np.unique(person))) > 0:
            log.warning("%d strangers share a picture with another: each is taken for one", more)
    if len(rows) < len(given):
        log.warning(
            "%d photographs of strangers are copies of others, and count once",
            len(given) - len(rows),
        )
    cohort = Cohort(embeddings[rows], person[rows])
    found = held_against(
        cohort.embeddings, cohort.person, cohort, enrolled.embeddings, enrolled.person, embedder
    )
    for which, done, most in (
        (found.does, "left out of the strangers", None),
        (found.perhaps, "perhaps; not left out", _LISTED),
    ):
        there = np.flatnonzero(which[picture])
        there = there[np.argsort(-found.score[picture[there]], kind="stable")]
        for row in there[:most].tolist():
            name, score = enrolled.names[found.whose[picture[row]]], found.score[picture[row]]
            log.warning(
                "%s looks like %s (%.2f), who is enrolled: %s",
                printable(given[row].path),
                printable(name),
                score,
                done,
            )
        if most is not None and len(there) > most:
            log.warning("and %d more, less like them: %s", len(there) - most, done)
    if found.does.all():
        raise ValueError(
            f"all {len(given)} photographs of strangers look like somebody enrolled: give some of "
            "people who are not"
        )
    rows = rows[~found.does]
    return rows, person[rows]


def nearest(embeddings: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def look_enrolled(
    best: np.ndarray,
    base: np.ndarray,
    person: np.ndarray,
    people: int,
    usual: float,
    embedder: Embedder,
) -> tuple[np.ndarray, np.ndarray]:
    """Which strangers look like somebody enrolled, with all their photographs.

    Most people are taken to be strangers, however many photographs there are of one: how far a
    score lies above their middle (of everybody's mean) says how rare it is
    among strangers (by a rate measured on LFW, docs/recognition.md). Of those found, one in ten is
    found by mistake (Benjamini and Hochberg 1995), so of a hundred strangers alone hardly anybody.
    Who is as similar as enrolled photographs are to each other needs less.

    Args:
        best: float32 ``[n]``, the largest cosine of each with one of ``people`` prototypes.
        base: float32 ``[n]``, :meth:`Cohort.baseline` of each.
        person: int64 ``[n]``, who is who.
        usual: see :func:`usual_cosine`.

    Returns:
        bool ``[n]``: who does; and who may, where others do.
    """
    score = (best - base).astype(np.float64)
    _, who, photos = np.unique(person, return_inverse=True, return_counts=True)
    if len(photos) >= _ENOUGH and people:
        low, middle = np.quantile(np.bincount(who, score) / photos, [0.16, 0.5])
        far = (score - middle) / max(middle - low, _NARROWEST)
        rare = np.ones(len(photos))
        np.minimum.at(rare, who, _RARE * np.exp(_FALLS * (3 - far)) * photos[who])
        order = np.sort(rare)
        passing = np.flatnonzero(order <= _MISTAKEN * np.arange(1, len(order) + 1) / len(order))
        does = (best >= usual) & (far >= _UNUSUAL)
        if len(passing):
            does |= rare[who] <= order[passing[-1]]
    else:  # too few to tell what is usual among them
        far = np.zeros(len(best))
        cut = published_threshold(embedder, max(1, people), _HARDLY)
        both = [value for value in (cut, usual) if value is not None and np.isfinite(value)]
        does = best >= max(both, default=np.inf)
    does = np.isin(person, person[does])
    return does, ~does & (far >= _PERHAPS) & does.any()


def usual_cosine(embeddings: np.ndarray, person: np.ndarray, people: int) -> float:
    """The cosine that five of six photographs reach with the rest of their person's; infinite
    where everybody has but one.

    Args:
        embeddings: float32 ``[M, D]``.
        person: int64 ``[M]`` in 0..people-1.
    """
    several = np.flatnonzero(np.bincount(person, minlength=people)[person] > 1)[:_PAIRED]
    if not len(several):
        return np.inf
    theirs = np.flatnonzero(np.isin(person, person[several]))
    theirs = theirs[np.argsort(person[theirs], kind="stable")]
    whose, start = np.unique(person[theirs], return_index=True)
    sums = np.add.reduceat(embeddings[theirs], start, axis=0)
    rest = unit(sums[np.searchsorted(whose, person[several])] - embeddings[several])
    return float(np.quantile(np.einsum("nd,nd->n", rest, embeddings[several]), 1 / 6))


@dataclass(frozen=True, eq=False)
class Likeness:
    """Strangers held against enrolled people, one each; see :func:`look_enrolled`.

    Attributes:
        does, perhaps: bool ``[n]``.
        score: float32 ``[n]``, with the person each resembles most.
        whose: int64 ``[n]``, who that is.
    """

    does: np.ndarray
    perhaps: np.ndarray
    score: np.ndarray
    whose: np.ndarray


def held_against(
    probes: np.ndarray,
    person: np.ndarray,
    cohort: Cohort,
    faces: np.ndarray,
    owner: np.ndarray,
    embedder: Embedder,
) -> Likeness:
    """Strangers, float32 ``[n, D]``, against enrolled faces ``[M, D]``, M at least 1.

    Args:
        person: int64 ``[n]``, who of the strangers each is.
        cohort: the strangers, each picture once.
        owner: int64 ``[M]`` from 0, whose the faces are, everyone present.
    """
    people = int(owner.max()) + 1
    best, whose = nearest(probes, prototypes(faces, owner, people))
    base = cohort.baseline(probes, person)
    usual = usual_cosine(faces, owner, people)
    does, perhaps = look_enrolled(best, base, person, people, usual, embedder)
    closest, face = nearest(probes, faces)
    same = closest >= same_picture(embedder)
    does |= np.isin(person, person[same])
    return Likeness(does, perhaps & ~does, best - base, np.where(same, owner[face], whose))


def look_like_one(
    people: np.ndarray, cohort: Cohort, embedder: Embedder
) -> list[tuple[int, int, float]]:
    """Pairs of enrolled people whose prototypes, float32 ``[P, D]``, look like one person, and
    their cosines, the largest first; of a large gallery, those of the first people with any.

    Strangers may show that such cosines are usual among photographs of this kind: what both have
    with those nearest to them is then taken off.
    """
    some = people[:_PAIRED]
    pairs = len(some) * (len(people) - 1) / 2
    cut = published_threshold(embedder, max(1, round(pairs)), _TWICE)
    if cut is None or not pairs:
        return []
    step = max(1, _AT_ONCE // len(people))
    found = [np.empty((2, 0), np.int64)]
    for start in range(0, len(some), step):
        one, other = np.nonzero(some[start : start + step] @ people.T >= cut)
        found.append(np.stack([one + start, other])[:, one + start < other])
    one, other = np.concatenate(found, 1)
    cosines = np.einsum("nd,nd->n", people[one], people[other])
    base = cohort.baseline(people[np.concatenate([one, other])]).reshape(2, -1)
    above = cosines - base.mean(0) >= cut - _RESEMBLING
    one, other, cosines = one[above], other[above], cosines[above]
    order = np.argsort(-cosines, kind="stable")
    return [(int(one[i]), int(other[i]), float(cosines[i])) for i in order]


def procedural(embedder: Embedder) -> Embeddings:
    """Faces of people who do not exist: one photograph each of ``_PROCEDURAL``."""
    crops = _procedural_crops()
    return Embeddings(embedder(crops), crops)


@cache
def _procedural_crops() -> np.ndarray:
    made = synthetic.render(
        people=_PROCEDURAL, photos=1, image_size=112, domains="frontal", seed=7, progress=False
    )
    pairs = zip(made.images, made.landmarks, strict=True)
    return brighten_dark(np.concatenate([align(image, five[None]) for image, five in pairs]))


def published_threshold(embedder: Embedder, people: int, fpir: float) -> float | None:
    """The cosine at which ``people`` enrolled give ``fpir`` by the model's published false match
    rates, were comparisons independent; None: none are published."""
    entry = MODELS.get(embedder.name)
    if entry is None or not entry.false_match:
        return None
    rate = -math.expm1(math.log1p(-fpir) / people)
    return _cosine_at(rate, entry.false_match)


def for_pairs(cohort: Cohort, embedder: Embedder, fmr: float) -> tuple[Cohort, float]:
    """How to tell pairs: the cohort to score them with, and the score that pairs of different
    strangers reach at the rate ``fmr``.

    Where the cohort has too few pairs for that rate, it is none: the threshold is the published
    one then or, failing that, above procedural faces.

    Raises:
        ValueError: a rate out of range.
    """
    if not 0 < fmr < 1:
        raise ValueError(f"fmr={fmr}: a rate between 0 and 1, such as 0.001")
    scores = _pair_scores(cohort, cohort.baseline(cohort.embeddings, cohort.person))
    if fmr * (len(scores) + 1) >= 1:
        return cohort, _passed_by(scores, fmr)
    none = Cohort(cohort.embeddings[:0], cohort.person[:0])
    published = published_threshold(embedder, 1, fmr)
    if published is not None:
        return none, published
    faces = procedural(embedder).embeddings
    made = Cohort(faces, np.arange(len(faces)))
    return none, _passed_by(_pair_scores(made, np.zeros(len(faces), np.float32)), fmr)


def _pair_scores(cohort: Cohort, base: np.ndarray) -> np.ndarray:
    """Of pairs of different strangers: cosines less the mean of both baselines."""
    some = np.random.default_rng(0).permutation(len(cohort))[:_PAIRED]
    faces, person, base = cohort.embeddings[some], cohort.person[some], base[some]
    pairs = np.triu(person[:, None] != person, 1)
    return (faces @ faces.T - (base[:, None] + base) / 2)[pairs]


def _passed_by(scores: np.ndarray, rate: float) -> float:
    """A threshold that a new score passes at ``rate`` or less."""
    place = max(1, math.floor(rate * (len(scores) + 1)))
    return float(np.nextafter(float(np.partition(scores, -place)[-place]), np.inf))


def _cosine_at(rate: float, false_match: Sequence[tuple[float, float]]) -> float:
    """By interpolation of (FMR, cosine), the rate falling, in the logarithm of the rate."""
    rates = np.log([row[0] for row in false_match])
    cosines = np.array([row[1] for row in false_match])
    if math.log(rate) < rates[-1]:
        slope = (cosines[-1] - cosines[-2]) / (rates[-1] - rates[-2])
        return float(min(1.0, cosines[-1] + slope * (math.log(rate) - rates[-1])))
    return float(np.interp(-math.log(rate), -rates, cosines))
