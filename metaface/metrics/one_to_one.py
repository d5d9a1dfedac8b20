"""Verification (1:1): are these two photographs of one person?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaface.metrics.intervals import Estimate, ci95, clopper_pearson

FALSE_MATCHES = 10  # a rate that allows fewer is not measured, but guessed


@dataclass(frozen=True)
class TarAtFar:
    """The true accept rate where at most ``far`` of the mismatched pairs are accepted.

    Attributes:
        far: the rate asked for, 0..1.
        fmr: the rate there, the largest that the scores allow; at most ``far``.
        tar: 1 - FNMR with its Clopper-Pearson interval, for the threshold as it is.
        threshold: pairs that score this or more are accepted; inf if no pair may be.
    """

    far: float
    fmr: float
    tar: Estimate
    threshold: float


@dataclass(frozen=True, eq=False)
class Verification:
    """How well pairs are told apart; prints as ``0.987 ± 0.003``.

    FMR (false match rate) and FNMR (false non-match rate) are ISO/IEC 19795-1's names; papers
    call the first FAR and 1 - FNMR TAR, and so does this where they are quoted.

    Attributes:
        accuracies: float64 ``[folds]``, of each fold at its threshold, 0..1.
        thresholds: float64 ``[folds]``, each chosen on the other folds.
        threshold: float64 ``[t]``, every score there is, descending, after inf.
        fmr, fnmr: float64 ``[t]``, 0..1, where scores of ``threshold`` or more are accepted.
        eer: equal error rate, 0..1: where FMR and FNMR cross, between two thresholds by a line.
        at: the true accept rate at FAR 0.1, 0.01, ... down to ``smallest_far``, and there.
        scores: float64 ``[n]`` and same: bool ``[n]``, as given.
    """

    accuracies: np.ndarray
    thresholds: np.ndarray
    threshold: np.ndarray
    fmr: np.ndarray
    fnmr: np.ndarray
    eer: float
    at: tuple[TarAtFar, ...]
    scores: np.ndarray
    same: np.ndarray

    @property
    def accuracy(self) -> float:
        """Mean over folds, 0..1."""
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over folds, as Huang et al. report it."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))

    @property
    def ci95(self) -> float:
        """Half-width of the 95% interval of the mean over folds (Student's t)."""
        return ci95(self.accuracies)

    @property
    def smallest_far(self) -> float:
        """The smallest FAR that the mismatched pairs support: ten false matches among them.

        With ten the 95% interval of the rate runs from half of it to 1.8 times it; with one, from
        a fortieth to 5.6 times.
        """
        return FALSE_MATCHES / int((~self.same).sum())

    def __str__(self) -> str:
        return f"{self.accuracy:.3f} ± {self.ci95:.3f}"


def verification(scores: np.ndarray, same: np.ndarray, fold: np.ndarray) -> Verification:
    """Accuracy and error rates of the scores of pairs.

    Accuracy is LFW's (Huang et al. 2007, view 2): each fold's pairs are decided at the threshold
    that is best on the other folds (of equally good ones the middle one, halfway between two
    scores). The curves and the TAR pool all folds.

    Args:
        scores: float ``[n]``, similarities.
        same: bool ``[n]``, whether the pair shows one person.
        fold: int ``[n]``, at least two different; folds should share nobody.

    Raises:
        ValueError: shapes that differ, a score that is not a number, no matched or no mismatched
            pair, one fold.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import verification
        >>> scores = np.array([0.9, 0.8, 0.2, 0.1, 0.7, 0.9, 0.3, 0.2])
        >>> same = np.array([True, True, False, False] * 2)
        >>> result = verification(scores, same, fold=np.repeat([0, 1], 4))
        >>> print(result, result.eer)
        1.000 ± 0.000 0.0
    """
    scores, same, fold = np.asarray(scores, np.float64), np.asarray(same, bool), np.asarray(fold)
    if not scores.shape == same.shape == fold.shape == (scores.size,):
        raise ValueError(
            f"scores {scores.shape}, same {same.shape} and fold {fold.shape} must be one of each "
            "for every pair"
        )
    if not np.isfinite(scores).all():
        where = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of pair {where} is {scores[where]}: leave such pairs out")
    check_pairs(same, fold)
    matched, mismatched = int(same.sum()), int((~same).sum())
    names = np.unique(fold)
    thresholds = np.array([_best(scores[fold != k], same[fold != k]) for k in names])
    right = (scores >= thresholds[np.searchsorted(names, fold)]) == same
    accuracies = np.array([right[fold == k].mean() for k in names])

    threshold, accepted, wrongly = _accepted(scores, same)
    fmr, fnmr = wrongly / mismatched, 1 - accepted / matched
    smallest = FALSE_MATCHES / mismatched
    tenths = [far for k in range(1, 10) if (far := float(f"1e-{k}")) > smallest]
    at = []
    for far in [*tenths, smallest] if smallest <= 1 else []:
        i = int(np.searchsorted(wrongly, np.floor(far * mismatched + 1e-9), side="right")) - 1
        tar = clopper_pearson(int(accepted[i]), matched)
        at.append(TarAtFar(far, float(fmr[i]), tar, float(threshold[i])))
    return Verification(
        accuracies=accuracies,
        thresholds=thresholds,
        threshold=threshold,
        fmr=fmr,
        fnmr=fnmr,
        eer=_crossing(fmr, fnmr),
        at=tuple(at),
        scores=scores,
        same=same,
    )


def check_pairs(same: np.ndarray, fold: np.ndarray) -> None:
    """Refuse pairs that :func:`verification` can measure nothing on, before there are scores.

    Raises:
        ValueError: no matched or no mismatched pair, or one fold.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics.one_to_one import check_pairs
        >>> check_pairs(np.array([True, False, True, False]), fold=np.array([0, 0, 1, 1]))
    """
    matched, mismatched = int(same.sum()), int((~same).sum())
    if not (matched and mismatched):
        raise ValueError(f"{matched} matched and {mismatched} mismatched pairs: need both")
    if len(np.unique(fold)) < 2:
        raise ValueError(
            "all pairs are in one fold: the threshold of a fold is chosen on the others, so give "
            "two or more (LFW's development lists: pairsDevTrain.txt and pairsDevTest.txt as two)"
        )


def _accepted(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds ``[t]``, descending after inf, and how many of each kind score as much."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of equal scores
    threshold = np.append(np.inf, ordered[last])
    accepted = np.append(0, np.cumsum(same[order])[last])
    wrongly = np.append(0, np.cumsum(~same[order])[last])
    return threshold, accepted, wrongly


def _best(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold with the most right decisions."""
    threshold, accepted, wrongly = _accepted(scores, same)
    right = accepted - wrongly
    best = np.flatnonzero(right == right.max())
    i = int(best[len(best) // 2])
    if i == 0:  # nobody is to be accepted
        return float(np.nextafter(threshold[1], np.inf))
    if i + 1 == len(threshold):
        return float(threshold[i])
    halfway = (threshold[i] + threshold[i + 1]) / 2
    return float(halfway if halfway > threshold[i + 1] else threshold[i])


def _crossing(fmr: np.ndarray, fnmr: np.ndarray) -> float:
    i = int(np.argmax(fmr >= fnmr))  # at the first threshold FMR is 0 and FNMR 1, so i >= 1
    before, after = fnmr[i - 1] - fmr[i - 1], fmr[i] - fnmr[i]
    return float(fmr[i - 1] + before / (before + after) * (fmr[i] - fmr[i - 1]))
