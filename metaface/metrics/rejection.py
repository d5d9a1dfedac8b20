"""How well a classifier's own scores keep strangers out, photograph by photograph."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata

from metaface.arguments import is_number


def rejection(
    known: np.ndarray, right: np.ndarray, strangers: np.ndarray, fpir: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """What each photograph of an enrolled person adds to AUROC and to DIR at an FPIR.

    The means are the figures; summed by person, they go to
    :func:`metaface.metrics.intervals.over_seeds`, which draws people (and not strangers: the
    threshold is taken as given).

    Args:
        known: best scores of enrolled people's photographs, float ``[n]``; similarities.
        right: whether the best score is the right person's, bool ``[n]``.
        strangers: best scores of others' photographs, float ``[s]``; s at least 1.
        fpir: at most this share of ``strangers`` reaches the threshold, 0..1.

    Returns:
        float64 ``[n]``, the share of strangers that score less (equal ones count half), whose mean
        is the AUROC; and bool ``[n]``, whether it is named rightly, whose mean is DIR.

    Raises:
        ValueError: a rate out of range, no stranger, or a score that is not a number.
    """
    if not (is_number(fpir) and 0 <= fpir <= 1):
        raise ValueError(f"fpir={fpir!r}: a rate from 0 to 1, such as 0.01 for 1%")
    known, strangers = np.asarray(known, np.float64), np.asarray(strangers, np.float64)
    if not len(strangers) or np.isnan(known).any() or np.isnan(strangers).any():
        raise ValueError(
            f"{len(strangers)} strangers, {int(np.isnan([*known, *strangers]).sum())} scores that "
            "are not numbers: need at least one stranger, and numbers"
        )
    ranks = rankdata([*known, *strangers])[: len(known)]
    below = (ranks - rankdata(known)) / len(strangers)
    reaching = math.floor(fpir * len(strangers) + 1e-9)
    kept_out = np.sort(strangers)[::-1][reaching:]
    cut = kept_out[0] if len(kept_out) else -math.inf
    return below, np.asarray(right, bool) & (known > cut)
