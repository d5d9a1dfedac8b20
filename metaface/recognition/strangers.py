"""People who are not enrolled: those the user gives, or else procedural ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from metaface._text import given_path
from metaface.data import synthetic
from metaface.data._skipped import report_skipped
from metaface.data._sources import open_source
from metaface.recognition.align import align
from metaface.recognition.embed import Embedder
from metaface.recognition.exposure import exposed
from metaface.recognition.matching import Faces
from metaface.recognition.models import MODELS
from metaface.recognition.photos import Photo, in_folder, listed
from metaface.recognition.scoring import Cohort

_PROCEDURAL = 128  # people, enough for a rate of 1%
_PAIRED = 2000  # photographs of strangers that are compared with each other


@contextmanager
def opened(source: Any) -> Iterator[tuple[Iterator[Photo], Sequence[str]]]:
    """Photographs of strangers and who each is of.

    Args:
        source: a folder, a zip or a CSV as ``metaface.data.load`` takes them; a folder of
            photographs without folders, or a list of photographs: everyone is somebody else then.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path = None
    if isinstance(source, (str, Path)):
        path = given_path(source, "the photographs of strangers").expanduser()
    flat = None
    if path is not None and path.is_dir():
        flat = in_folder(path)
        flat = None if any(photo.parent != path for photo in flat) else flat
    if path is None or flat is not None:
        photos = listed(source) if flat is None else flat
        if not photos:
            raise ValueError(f"no photographs of strangers in {source}")
        yield iter(photos), [str(i) for i in range(len(photos))]
        return
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as found:
        report_skipped(found.name, found.skipped, len(found.photos))
        yield (
            (partial(found.read, photo) for photo in found.photos),
            [photo.person for photo in found.photos],
        )


def procedural(embedder: Embedder) -> Faces:
    """Faces of people who do not exist: one photograph each of ``_PROCEDURAL``."""
    crops = _procedural_crops()
    return Faces(embedder(crops), crops)


@cache
def _procedural_crops() -> np.ndarray:
    made = synthetic.render(
        people=_PROCEDURAL, photos=1, image_size=112, domains="frontal", seed=7, progress=False
    )
    pairs = zip(made.images, made.landmarks, strict=True)
    return exposed(np.concatenate([align(image, five[None]) for image, five in pairs]))


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
