"""The score from which a face is named, for a rate of false positives."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import betaincinv, expit

from metaface.arguments import between_0_and_1
from metaface.metrics.intervals import clopper_pearson

_SHOWN = 5  # pairs of enrolled people in a text


@dataclass(frozen=True)
class Calibration:
    """A threshold on the scores of a gallery, and what is known of it.

    Attributes:
        threshold: a face is named where its best score is this or more.
        fpir: the false-positive identification rate asked for: the share of strangers' faces that
            get a name (ISO/IEC 19795-1), 0..1.
        expected: the mean rate that the threshold stands for, on strangers like those it was made
            with.
        low, high: the 95% interval of that rate. Photographs of one stranger count as one.
        strangers, stranger_photos: how many different people and photographs it was made with, of
            the user's own; 0: none were given.
        verified: False where it was not made with the user's own strangers, or with too few for
            the rate asked for (1% needs 99): the rate is a guess.
        supported: False where there were too few strangers for the rate asked for; the threshold
            is then above all of them, and as cautious as without any.
        tpir: the share of enrolled photographs that get their own name when left out of the
            gallery one by one, those that are nearly one picture together; None without two
            different photographs of one person.
        tpir_low, tpir_high: its 95% interval (Clopper-Pearson), over ``tpir_photos``.
        slope, offset: of :meth:`probability`; None without enough photographs.
        lookalikes: photographs of strangers that look like somebody enrolled: they were left out,
            with all of the same stranger.
        alike: pairs of enrolled people who look like one person, and how similar their prototypes
            are (cosine), the most similar first.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics.thresholds import calibrate
        >>> scores = np.linspace(0, 0.5, 200)  # the best of each of 200 strangers
        >>> calibration = calibrate(scores, np.arange(200), fpir=0.05)
        >>> print(str(calibration).split(":")[0])
        threshold 0.477 for an FPIR of 5%
        >>> calibration.verified, calibration.low < 0.05 < calibration.high
        (True, True)
    """

    threshold: float
    fpir: float
    expected: float
    low: float
    high: float
    strangers: int
    stranger_photos: int
    verified: bool
    supported: bool
    tpir: float | None = None
    tpir_low: float | None = None
    tpir_high: float | None = None
    tpir_photos: int = 0
    slope: float | None = None
    offset: float | None = None
    lookalikes: int = 0
    alike: tuple[tuple[str, str, float], ...] = ()

    def probability(self, score: float) -> float | None:
        """The probability, 0..1, that the nearest person is the right one.

        By logistic regression (Platt 1999) of enrolled photographs left out one by one against
        the strangers, both kinds of face taken to be equally frequent; None without strangers of
        the user's own, or where the two do not differ. It is no score, and says nothing where
        strangers are rarer or more frequent.
        """
        if self.slope is None or self.offset is None:
            return None
        return float(expit(self.slope * score + self.offset))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rate = f"{100 * self.expected:.2g}% (95%: {100 * self.low:.2g} to {100 * self.high:.2g}%)"
        text = f"threshold {self.threshold:.3f} for an FPIR of {100 * self.fpir:g}%: "
        different = f"{self.strangers} different stranger{'' if self.strangers == 1 else 's'}"
        if self.verified:
            text += f"{rate} expected, from {different}"
        elif self.strangers:
            text += (
                f"unverified, from {different}: too few strangers for {100 * self.fpir:g}%, which "
                f"needs {count_needed_strangers(self.fpir)}; all of them are below it"
            )
        elif self.lookalikes:
            text += (
                "unverified, all strangers that were given look like somebody enrolled: give "
                "others (metaface calibrate --strangers DIR)"
            )
        else:
            text += "unverified, no strangers were given (metaface calibrate --strangers DIR)"
        if self.tpir is not None:
            text += (
                f"; {100 * self.tpir:.1f}% of {self.tpir_photos} enrolled photographs are named "
                "when left out"
            )
        if self.lookalikes and self.strangers:
            text += (
                f"; {self.lookalikes} photographs of strangers look like somebody enrolled and are "
                "left out"
            )
        if self.alike:
            pairs = [f"{one} and {other} ({c:.2f})" for one, other, c in self.alike[:_SHOWN]]
            more = len(self.alike) - len(pairs)
            text += f"; enrolled twice? {', '.join(pairs)}" + (f" and {more} more" if more else "")
        return text


def count_needed_strangers(fpir: float) -> int:
    """How many different strangers the rate ``fpir`` needs."""
    return math.ceil(1 / fpir - 1 - 1e-6)


def calibrate(impostor_scores: np.ndarray, person: np.ndarray, fpir: float) -> Calibration:
    """The threshold that strangers pass at the rate ``fpir``.

    Where k of n strangers pass, a new one does with a probability that is Beta(k + 1, n - k)
    distributed, whatever the scores' distribution is: its mean is (k + 1) / (n + 1). The lowest
    threshold is taken whose mean is at most ``fpir`` (conformal prediction, Vovk et al. 2005). Of
    a stranger with several photographs the share that passes is counted, so that k need not be
    whole: the mean rate is then at most that, however much their photographs have in common
    (conformal risk control, Angelopoulos et al. 2024), and the interval is an approximation.

    Args:
        impostor_scores: float ``[n]``, the best score of every photograph of a stranger.
        person: int64 ``[n]``: who the stranger is, in any numbers.
        fpir: 0 < fpir < 1.

    Raises:
        ValueError: a rate out of range, or no stranger.
    """
    fpir = between_0_and_1(fpir=fpir)
    if not len(impostor_scores):
        raise ValueError("no strangers to calibrate with")
    # float64, as the threshold is: in float32 a score equal to it might pass
    impostor_scores = np.asarray(impostor_scores, np.float64)
    _, who, photos = np.unique(person, return_inverse=True, return_counts=True)
    people = len(photos)
    share = 1 / photos[who]  # of a person
    order = np.argsort(-impostor_scores, kind="stable")
    room = fpir * (people + 1) - 1 + 1e-9
    # the best photograph that must not pass
    first = int(np.searchsorted(np.cumsum(share[order]), room, side="right"))
    threshold = float(np.nextafter(float(impostor_scores[order[first]]), np.inf))
    count = float(share[impostor_scores >= threshold].sum()) + 1
    return Calibration(
        threshold=threshold,
        fpir=fpir,
        expected=count / (people + 1),
        low=float(betaincinv(count, people + 1 - count, 0.025)),
        high=float(betaincinv(count, people + 1 - count, 0.975)),
        strangers=people,
        stranger_photos=len(impostor_scores),
        verified=room >= 0,
        supported=room >= 0,
    )


def add_genuine_scores(
    calibration: Calibration, scores: np.ndarray, named: np.ndarray, impostor_scores: np.ndarray
) -> Calibration:
    """``calibration`` with the TPIR and the probability that enrolled photographs give.

    Args:
        scores: float ``[n]``: best scores of enrolled photographs, left out one by one.
        named: bool ``[n]``: whether that score is with their own person.
        impostor_scores: float ``[s]``: best scores of the user's own strangers.
    """
    if not len(scores):
        return calibration
    scores, impostor_scores = (np.asarray(s, np.float64) for s in (scores, impostor_scores))
    hits, n = int((named & (scores >= calibration.threshold)).sum()), len(scores)
    tpir = clopper_pearson(hits, n)
    slope, offset = None, None
    if min(named.sum(), len(impostor_scores)) >= 10:
        line = _fit_logistic(scores[named], np.concatenate([impostor_scores, scores[~named]]))
        slope, offset = line if line[0] > 0 else (None, None)
    return replace(
        calibration,
        tpir=tpir.value,
        tpir_low=tpir.low,
        tpir_high=tpir.high,
        tpir_photos=n,
        slope=slope,
        offset=offset,
    )


def _fit_logistic(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """Slope and offset of a logistic curve, both classes of equal weight, by Newton's method.

    With Platt's smoothed targets, so that classes that do not overlap have a finite slope.
    """
    x = np.concatenate([genuine, impostor]).astype(np.float64)
    sides = [len(genuine), len(impostor)]
    target = np.repeat([(sides[0] + 1) / (sides[0] + 2), 1 / (sides[1] + 2)], sides)
    weight = np.repeat([0.5 / sides[0], 0.5 / sides[1]], sides)
    centre, spread = x.mean(), x.std() or 1.0
    design = np.stack([(x - centre) / spread, np.ones_like(x)], 1)
    line = np.zeros(2)
    for _ in range(100):
        p = expit(design @ line)
        slope = design.T @ (weight * (p - target))
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        line -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    a = line[0] / spread
    return float(a), float(line[1] - a * centre)
