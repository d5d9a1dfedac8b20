"""The threshold for two photographs of one person."""

from __future__ import annotations

import math

import numpy as np

from metaface.metrics.cohort import Cohort
from metaface.recognition.embedders import Embedder
from metaface.recognition.published import published_threshold
from metaface.recognition.strangers import embed_procedural

_PAIRED = 2000  # photographs of strangers that are compared with each other


def calibrate_pairs(cohort: Cohort, embedder: Embedder, fmr: float) -> tuple[Cohort, float]:
    """The cohort to score pairs with, and the score that pairs of different strangers reach at the
    rate ``fmr``.

    Where the cohort has too few pairs for that rate, the one returned is empty: the threshold is
    then the published one or, if there is none, that of procedural faces.

    Raises:
        ValueError: a rate out of range.
    """
    if not 0 < fmr < 1:
        raise ValueError(f"fmr={fmr}: a rate between 0 and 1, such as 0.001")
    scores = _pair_scores(cohort, cohort.baseline(cohort.embeddings, cohort.person))
    if fmr * (len(scores) + 1) >= 1:
        return cohort, _threshold_for(scores, fmr)
    empty = Cohort(cohort.embeddings[:0], cohort.person[:0])
    published = published_threshold(embedder, 1, fmr)
    if published is not None:
        return empty, published
    faces = embed_procedural(embedder).embeddings
    made = Cohort(faces, np.arange(len(faces)))
    return empty, _threshold_for(_pair_scores(made, np.zeros(len(faces), np.float32)), fmr)


def _pair_scores(cohort: Cohort, base: np.ndarray) -> np.ndarray:
    """Of pairs of different strangers: cosines less the mean of both baselines."""
    some = np.random.default_rng(0).permutation(len(cohort))[:_PAIRED]
    faces, person, base = cohort.embeddings[some], cohort.person[some], base[some]
    pairs = np.triu(person[:, None] != person, 1)
    return (faces @ faces.T - (base[:, None] + base) / 2)[pairs]


def _threshold_for(scores: np.ndarray, rate: float) -> float:
    """A threshold that a new score passes at ``rate`` or less."""
    place = max(1, math.floor(rate * (len(scores) + 1)))
    return float(np.nextafter(float(np.partition(scores, -place)[-place]), np.inf))
