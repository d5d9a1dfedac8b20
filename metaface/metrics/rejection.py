"""How well a classifier's own scores reject strangers, photograph by photograph."""

from __future__ import annotations

import math

import numpy as np

from metaface.arguments import is_number


def measure_rejection(
    known: np.ndarray, right: np.ndarray, impostor_scores: np.ndarray, fpir: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """What each photograph of an enrolled person adds to AUROC and to DIR at an FPIR.

    The means are the figures. Summed by person, they go to
    :func:`metaface.metrics.intervals.estimate_share_over_seeds`, which resamples people (and not
    strangers: the threshold is taken as given).

    Args:
        known: best scores of enrolled people's photographs, float ``[n]``; similarities.
        right: whether the best score is the right person's, bool ``[n]``.
        impostor_scores: best scores of strangers' photographs, float ``[s]``; s at least 1.
        fpir: at most this share of ``impostor_scores`` reaches the threshold, 0..1.

    Returns:
        float64 ``[n]``, the share of strangers that score less (equal ones count half), whose mean
        is the AUROC; and bool ``[n]``, whether it is named rightly, whose mean is DIR.

    Raises:
        ValueError: a rate out of range, no stranger, or a score that is not a number.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import measure_rejection
        >>> known, right = np.array([0.9, 0.8, 0.4]), np.array([True, True, True])
        >>> impostor_scores = np.array([0.3, 0.5, 0.2, 0.1])
        >>> below, named = measure_rejection(known, right, impostor_scores, fpir=0.0)
        >>> print(f"AUROC {below.mean():.3f}, DIR {named.mean():.3f}")
        AUROC 0.917, DIR 0.667
    """
    from scipy.stats import rankdata  # it takes a second

    if not (is_number(fpir) and 0 <= fpir <= 1):
        raise ValueError(f"fpir={fpir!r}: a rate from 0 to 1, such as 0.01 for 1%")
    known = np.asarray(known, np.float64)
    impostor_scores = np.asarray(impostor_scores, np.float64)
    if not len(impostor_scores) or np.isnan(known).any() or np.isnan(impostor_scores).any():
        raise ValueError(
            f"{len(impostor_scores)} strangers, "
            f"{int(np.isnan([*known, *impostor_scores]).sum())} scores that "
            "are not numbers: need at least one stranger, and numbers"
        )
    ranks = rankdata([*known, *impostor_scores])[: len(known)]
    below = (ranks - rankdata(known)) / len(impostor_scores)
    reaching = math.floor(fpir * len(impostor_scores) + 1e-9)
    kept_out = np.sort(impostor_scores)[::-1][reaching:]
    cut = kept_out[0] if len(kept_out) else -math.inf
    return below, np.asarray(right, bool) & (known > cut)
