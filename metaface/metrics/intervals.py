"""Intervals of what was counted: exact for independent trials, resampled for clustered ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, stdtrit

BLOCK = 64  # resamples at once


class Estimate(NamedTuple):
    """A measured value and its interval; prints as ``0.926 [0.914, 0.937]``.

    Example:
        >>> from metaface.metrics import Estimate
        >>> estimate = Estimate(0.926, low=0.914, high=0.937)
        >>> print(estimate)
        0.926 [0.914, 0.937]
        >>> value, low, high = estimate
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def clopper_pearson(hits: int, trials: int, level: float = 0.95) -> Estimate:
    """The share ``hits / trials`` with its exact binomial interval (Clopper & Pearson 1934).

    It covers the true share in at least ``level`` of all repetitions if the trials are
    independent. Comparisons that share a person are not quite: see :func:`bootstrap`.

    Args:
        hits: 0..trials.
        trials: at least 1.
        level: of confidence, 0..1.

    Raises:
        ValueError: a count out of range.

    Example:
        >>> from metaface.metrics import clopper_pearson
        >>> print(clopper_pearson(98, 100))
        0.980 [0.930, 0.998]
        >>> print(clopper_pearson(0, 100))
        0.000 [0.000, 0.036]
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"{hits} hits of {trials} trials: need 0 <= hits <= trials, trials >= 1")
    tail = (1 - level) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return Estimate(hits / trials, low, high)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    clusters: int,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """A statistic of clustered data with the percentile interval of the cluster bootstrap.

    Whole clusters (people, galleries, photographs) are drawn with replacement, so what is alike
    inside one stays together (Davison & Hinkley 1997, section 3.8). With fewer than about 20
    clusters the interval is too narrow.

    Args:
        statistic: takes weights, float64 ``[B, clusters]``, how often each cluster was drawn in
            each of B resamples, and gives float64 ``[B]``; nan where it is not defined. For a
            share: ``lambda w: (w @ hits) / (w @ trials)``.
        clusters: how many; at least 1.
        draws: resamples.
        level: of confidence, 0..1.
        seed: names the resamples.

    Returns:
        The statistic with every cluster once, and its interval; the interval is nan if no
        resample defines the statistic, or there is one cluster.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import bootstrap
        >>> hits, trials = np.array([9, 10, 6, 8] * 10), np.full(40, 10)  # of each of 40 people
        >>> share = bootstrap(lambda weights: (weights @ hits) / (weights @ trials), clusters=40)
        >>> print(f"{share.value:.3f}", share.low < share.value < share.high)
        0.825 True
    """
    if clusters < 1 or draws < 1:
        raise ValueError(f"clusters={clusters}, draws={draws}: each must be at least 1")
    value = float(statistic(np.ones((1, clusters)))[0])
    if clusters == 1:
        return Estimate(value, np.nan, np.nan)
    random = np.random.default_rng(seed)
    even = np.full(clusters, 1 / clusters)
    values = np.concatenate(
        [
            statistic(
                random.multinomial(clusters, even, min(BLOCK, draws - start)).astype(np.float64)
            )
            for start in range(0, draws, BLOCK)
        ]
    )
    values = values[~np.isnan(values)]
    if not len(values):
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def estimate_share(hits: np.ndarray, trials: np.ndarray, seed: int = 0) -> Estimate:
    """Pooled share of ``hits`` in ``trials``, counts ``[clusters]``, by :func:`bootstrap`.

    Example::

        print(estimate_share(np.array([9, 7, 10]), np.array([10, 10, 10])))  # three people
    """
    return bootstrap(lambda w: divide(w @ hits, w @ trials), len(trials), seed=seed)


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, float64 ``[B]``; nan where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def estimate_share_over_seeds(hits: np.ndarray, trials: np.ndarray, seed: int = 0) -> Estimate:
    """Pooled share of ``hits`` in ``trials`` over people *and* training seeds, both random.

    Seeds and people are drawn at once, each with replacement, and a cell counts as often as its
    seed times its person (Owen 2007's pigeonhole bootstrap, which is on the wide side). So what is
    common to a person under all seeds is not taken for as many people, even where every seed has
    test people of its own and some in common. A paired difference is the share of
    ``hits - other_hits``. With few seeds it is too narrow; with one, it is over people alone.

    Args:
        hits, trials: ``[seeds, people]``, of a person under a seed; 0 trials where not tested.
        seed: names the resamples.
    """
    seeds, people = trials.shape
    there = trials.sum(0) > 0
    hits, trials = hits[:, there], trials[:, there]
    random = np.random.default_rng([seed, seeds, people])

    def pooled(weights: np.ndarray) -> np.ndarray:
        of_seeds = np.ones((len(weights), seeds))
        if len(weights) > 1:  # not the value itself
            drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), len(weights))
            of_seeds = drawn.astype(np.float64)
        total = np.einsum("bs,sp,bp->b", of_seeds, trials, weights)
        return divide(np.einsum("bs,sp,bp->b", of_seeds, hits, weights), total)

    return bootstrap(pooled, int(there.sum()), seed=seed)


def ci95(values: np.ndarray) -> float:
    """Half-width of the 95% interval of the mean of ``[n]``, by Student's t; nan for one value.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import ci95
        >>> accuracies = np.array([0.8, 0.9, 0.7, 0.8, 0.8])
        >>> print(f"{accuracies.mean():.3f} ± {ci95(accuracies):.3f}")
        0.800 ± 0.088
    """
    if len(values) < 2:
        return math.nan
    t = float(stdtrit(len(values) - 1, 0.975))
    return float(t * values.std(ddof=1) / math.sqrt(len(values)))


def ci95_over_seeds(values: np.ndarray) -> float:
    """Half-width of the 95% interval of the mean of ``[seeds, episodes]``.

    Two sources, added in squares: episodes (of the seeds' mean) and, with more than one seed,
    training seeds. Both by :func:`ci95`; nan for one episode.
    """
    episodes = ci95(values.mean(0))
    return episodes if len(values) == 1 else math.hypot(episodes, ci95(values.mean(1)))
