"""A meta-learner in place of prototypes, kept only where it names no fewer people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from threading import RLock
from typing import Any

import numpy as np
import torch

from metaface import learners
from metaface.learners import FeatureLearner, MetaLearner
from metaface.metrics.cohort import Cohort
from metaface.recognition.alike import group_alike_by_person
from metaface.recognition.embedders import Embedder, Network
from metaface.recognition.matching import Embeddings, MakeMatcher, Prototypes, score_left_out

_FEWEST = 10  # photographs of people with two or more that a judgement needs
_BATCH = 64  # crops classified at once
_MOST_CROPS = 128  # learnt at once: MAML keeps 50 MB of each, of a MobileFaceNet
_MOST_LOGITS = 2**26  # photographs times people: a head takes 20 bytes of each
_turn = RLock()  # torch.func.functional_call puts other weights into the network while it runs


@dataclass(frozen=True)
class Adaptation:
    """A learner that was tried on a gallery.

    Attributes:
        learner, options: which.
        kept: whether it names no fewer photographs than prototypes do.
        adapted, prototypes: the share of photographs, left out of the gallery, that get their own
            name at a threshold that strangers pass at the rate asked for, 0..1; None: not judged.
        photographs: how many those were.
        judged_on: ``enrolled`` photographs, ``strangers`` where everyone has only one photograph,
            or ``nothing`` where the strangers have no more.
    """

    learner: str
    options: dict[str, Any]
    kept: bool
    adapted: float | None
    prototypes: float | None
    photographs: int
    judged_on: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.adapted is None or self.prototypes is None:
            return f"{self.learner}: not used, for there are no photographs to judge it by"
        verdict = "kept" if self.kept else "not kept, prototypes are used"
        return (
            f"{self.learner}: {verdict}, names {100 * self.adapted:.1f}% of {self.photographs} "
            f"left-out photographs of {self.judged_on} (prototypes {100 * self.prototypes:.1f}%)"
        )


class LearnerMatcher:
    """A learner, adapted to the enrolled people; the score is its logit, a similarity.

    A :class:`FeatureLearner`, which adapts its head alone, takes the embeddings; any other learner
    takes the crops.
    """

    def __init__(
        self, faces: Embeddings, person: np.ndarray, learner: MetaLearner, embedder: Network
    ) -> None:
        self.learner, self.embedder = learner, embedder
        labels = torch.from_numpy(person)
        if isinstance(learner, FeatureLearner):
            with _turn, torch.no_grad(), learner.predicting():
                features = torch.from_numpy(faces.embeddings)[None]
                self.state = learner.fit_head(features, labels[None], int(labels.max()) + 1)
        else:
            with _turn:
                self.classifier = learner.adapt(self._pictures(faces), labels)

    def __call__(
        self, probes: Embeddings, cohort_person: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        with _turn, torch.no_grad(), self.learner.predicting():
            if isinstance(self.learner, FeatureLearner):
                logits = self.learner.score_head(
                    self.state, torch.from_numpy(probes.embeddings)[None]
                )[0]
            else:
                logits = torch.cat(
                    [self.classifier(part) for part in self._pictures(probes).split(_BATCH)]
                )
        score, person = logits.max(1)
        return score.numpy(), person.numpy()

    def _pictures(self, faces: Embeddings) -> torch.Tensor:
        assert faces.crops is not None  # as `prepare_adaptation` has checked
        return self.embedder.preprocessing(faces.crops)


def prepare_adaptation(
    name: str, options: dict[str, Any], embedder: Embedder, crops: bool
) -> tuple[MakeMatcher, bool]:
    """What adapts the learner ``name`` to enrolled faces, and whether it needs their crops.

    Args:
        crops: whether the gallery keeps them.

    Raises:
        ValueError: an unknown learner, or one that cannot adapt here, and why.
    """
    if not isinstance(embedder, Network):
        raise ValueError(
            f"{embedder.name} is no network of MetaFace: only those adapt (an ONNX file is "
            "frozen); leave the adaptation out"
        )
    learner = learners.build(name, embedder.network, **options)
    learner.pixel_range = embedder.preprocessing.pixel_range
    if learner.transductive:
        raise ValueError(f"{name} is transductive: it cannot identify a single photograph")
    needed = not isinstance(learner, FeatureLearner)
    if needed and not crops:
        raise ValueError(
            f"{name} adapts the whole network and needs the aligned faces, which this gallery does "
            "not keep: enrol into a new one with keep_crops=True (--keep-crops), or choose a "
            "learner of heads alone, such as anil"
        )
    return partial(LearnerMatcher, learner=learner, embedder=embedder), needed


def explain_too_large(name: str, photographs: Mapping[str, int], crops: bool) -> str | None:
    """Why a gallery is too large for a learner, if it is: memory is taken for all of it at once.

    Args:
        photographs: how many of each person.
        crops: whether the learner needs crops.
    """
    people, count = len(photographs), sum(photographs.values())
    if crops and count > _MOST_CROPS:
        return (
            f"{name} adapts the whole network to {_MOST_CROPS} photographs at most, and {count} "
            "are enrolled: choose a learner of heads alone, such as anil"
        )
    if count * people > _MOST_LOGITS:
        return f"{name} cannot take {people} people of {count} photographs: use prototypes"
    return None


def judge(
    name: str,
    options: dict[str, Any],
    make: MakeMatcher,
    enrolled: tuple[Embeddings, np.ndarray],
    strangers: tuple[Embeddings, np.ndarray],
    fpir: float,
    near: float,
) -> Adaptation:
    """Compare the matchers of ``make`` with prototypes, by the photographs they name.

    Args:
        enrolled: faces and whose they are.
        strangers: the same of people who are not enrolled.
        fpir: the rate of false alarms at which both are compared.
        near: the cosine from which two photographs of a person are nearly one picture; they are
            left out together.
    """
    judged_on = "enrolled"
    picture = group_alike_by_person(enrolled[0].embeddings, enrolled[1], near)
    counts = np.bincount(enrolled[1][np.unique(picture, return_index=True)[1]])
    if counts[counts > 1].sum() < _FEWEST:
        judged_on, (enrolled, strangers) = "strangers", _split_strangers(*strangers, near)
        picture = np.arange(len(enrolled[0]))
        if not len(enrolled[0]):
            return Adaptation(name, options, False, None, None, 0, "nothing")
    cohort = Cohort(strangers[0].embeddings, strangers[1])
    shares = []
    for each in (make, lambda faces, person: Prototypes(faces, person, cohort)):
        score, own = score_left_out(each, *enrolled, picture)
        alarms, _ = each(*enrolled)(strangers[0], strangers[1])
        shares.append(float((own & (score > np.quantile(alarms, 1 - fpir))).mean()))
    return Adaptation(
        name, options, shares[0] >= shares[1], shares[0], shares[1], len(score), judged_on
    )


def _split_strangers(
    faces: Embeddings, person: np.ndarray, near: float
) -> tuple[tuple[Embeddings, np.ndarray], tuple[Embeddings, np.ndarray]]:
    """A gallery of half of the strangers with two photographs, two each, and the other strangers;
    of pictures that are nearly one, the first."""
    _, different = np.unique(
        group_alike_by_person(faces.embeddings, person, near), return_index=True
    )
    faces, person = faces[different], person[different]
    _, person, counts = np.unique(person, return_inverse=True, return_counts=True)
    several = np.random.default_rng(0).permutation(np.flatnonzero(counts > 1))
    half = min(len(several) // 2, _MOST_CROPS // 2)
    chosen = several[:half] if 2 * half >= _FEWEST else several[:0]
    rows = np.array([r for p in chosen for r in np.flatnonzero(person == p)[:2]], np.int64)
    rest = np.flatnonzero(~np.isin(person, chosen))
    enrolled = (faces[rows], np.repeat(np.arange(len(chosen)), 2))
    return enrolled, (faces[rest], person[rest])
