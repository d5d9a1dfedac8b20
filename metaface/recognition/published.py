"""Thresholds by the false match rates that were measured for a published model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metaface.recognition.embedders import Embedder
from metaface.recognition.models import MODELS


def published_threshold(embedder: Embedder, people: int, fpir: float) -> float | None:
    """The cosine at which ``people`` enrolled give ``fpir`` by the model's published false match
    rates, were comparisons independent; None: none are published."""
    entry = MODELS.get(embedder.name)
    if entry is None or not entry.false_match:
        return None
    rate = -math.expm1(math.log1p(-fpir) / people)
    return _cosine_at(rate, entry.false_match)


def _cosine_at(rate: float, false_match: Sequence[tuple[float, float]]) -> float:
    """By interpolation of (FMR, cosine), the rate falling, in the logarithm of the rate."""
    rates = np.log([row[0] for row in false_match])
    cosines = np.array([row[1] for row in false_match])
    if math.log(rate) < rates[-1]:
        slope = (cosines[-1] - cosines[-2]) / (rates[-1] - rates[-2])
        return float(min(1.0, cosines[-1] + slope * (math.log(rate) - rates[-1])))
    return float(np.interp(-math.log(rate), -rates, cosines))
