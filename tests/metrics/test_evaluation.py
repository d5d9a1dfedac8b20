"""Episodic evaluation against closed forms, on learners whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import patterns, tiny
from scipy import stats

from metaface import EpisodeSampler, FaceSet, evaluate
from metaface.learners import ANIL, MAML, MetaLearner, Prototypical, Reptile
from metaface.metrics.intervals import ci95
from metaface.nets import Pixels

WAYS, QUERIES = 4, 3


def flat_people(count: int = 9, photos: int = 6) -> FaceSet:
    """People of one grey each: person p is 20 p."""
    person = np.repeat(np.arange(count), photos)
    images = np.broadcast_to(
        (20 * person).astype(np.uint8)[:, None, None, None], (len(person), 2, 2, 1)
    )
    return FaceSet.from_arrays(images.copy(), person, people=[f"p{i}" for i in range(count)])


class Rule(MetaLearner):
    """Answers what ``rule`` makes of the true label (0..ways-1) and the true person."""

    def __init__(self, rule) -> None:
        super().__init__(Pixels())
        self.rule = rule

    def fit(self, theta, images, labels, ways):
        grey = torch.zeros(len(images), ways).scatter(1, labels, images[:, :, 0, 0, 0])
        return {"theta": theta, "greys": grey}

    def score(self, state, images):
        person = (images[:, :, 0, 0, 0] * 255 / 20).round().long()
        people = (state["greys"] * 255 / 20).round().long()
        label = (person[..., None] == people[:, None]).long().argmax(-1)
        tasks = zip(label, person, people, strict=True)
        answers = torch.stack([self.rule(*task) for task in tasks])
        return torch.nn.functional.one_hot(answers, people.shape[1]).float()


def judged(rule, **options):
    return evaluate(
        Rule(rule),
        flat_people(),
        ways=WAYS,
        shots=1,
        queries=QUERIES,
        episodes=300,
        progress=False,
        **options,
    )


def right_for(known, miss: int = 1):
    """Right about the people ``known`` holds for, and ``miss`` labels off about the others."""
    return lambda label, person, people: torch.where(known(person), label, (label + miss) % WAYS)


def test_always_right():
    result = judged(lambda label, person, people: label)
    assert result.accuracy == result.precision == result.recall == result.f1 == 1
    assert result.ci95 == 0 and result.confusions == []
    assert str(result) == "1.000 ± 0.000"
    assert (result.ways, result.shots, result.queries) == (WAYS, 1, QUERIES)
    assert len(result.accuracies) == 300 and result.adapt_ms > 0
    assert result.norm == "none" and not result.transductive


def test_always_wrong():
    result = judged(lambda label, person, people: (label + 1) % WAYS)
    assert result.accuracy == result.precision == result.recall == result.f1 == 0


def test_always_the_first_person():
    result = judged(lambda label, person, people: torch.zeros_like(label))
    assert np.allclose(result.accuracies, 1 / WAYS)
    # of class 0: precision 1/N, recall 1; of the others nothing
    assert result.precision == pytest.approx(1 / WAYS / WAYS)
    assert result.f1 == pytest.approx(2 / (WAYS + 1) / WAYS)


def test_one_class_taken_for_another():
    result = judged(lambda label, person, people: torch.where(label == 3, 2, label))
    # classes 0 and 1 right; class 2 with precision 1/2, recall 1; class 3 never answered
    assert result.accuracy == pytest.approx(3 / 4)
    assert result.precision == pytest.approx((1 + 1 + 1 / 2 + 0) / 4)
    assert result.recall == pytest.approx(3 / 4)
    assert result.f1 == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)


def test_confusions_name_who_is_taken_for_whom():
    def rule(label, person, people):  # person 5 is taken for person 2 wherever both are
        two = (people == 2).long()
        return torch.where((person == 5) & (two.sum() > 0), two.argmax(), label)

    result = judged(rule)
    (confusion,) = result.confusions
    assert (confusion.person, confusion.taken_for) == ("p5", "p2")
    assert confusion.count == confusion.met > 0
    sampler = EpisodeSampler(flat_people(), WAYS, 1, QUERIES, stream="test")
    people = sampler.batch(0, 300).people
    both = ((people == 5).any(1) & (people == 2).any(1)).sum()
    assert confusion.met == QUERIES * both
    assert result.accuracy == pytest.approx(1 - float(both) / 300 / WAYS)


def test_interval():
    for values in (np.array([0.2, 0.4, 0.6, 0.8]), np.linspace(0, 1, 10), np.linspace(0, 1, 11)):
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        assert ci95(values) == pytest.approx((high - low) / 2)
    assert math.isnan(ci95(values[:1]))
    halves = judged(
        lambda label, person, people: torch.where(person % 2 == 0, label, (label + 1) % WAYS)
    )
    spread = stats.t.ppf(0.975, 299) * halves.accuracies.std(ddof=1) / math.sqrt(300)
    assert halves.ci95 == pytest.approx(spread) and halves.ci95 > 0


def test_learners_meet_the_same_episodes():
    def first_five(person):
        return person < 5

    one = judged(right_for(first_five))
    assert np.array_equal(one.accuracies, judged(right_for(first_five, miss=2)).accuracies)
    assert not np.array_equal(one.accuracies, judged(right_for(first_five), seed=1).accuracies)


def test_the_learner_is_left_as_it_was():
    learner = Prototypical(tiny("frozen")).train()
    weights = {n: v.clone() for n, v in learner.state_dict().items()}
    evaluate(learner, patterns(8, 6), episodes=4, progress=False)
    assert all(module.training for module in learner.modules())
    assert all(torch.equal(v, weights[n]) for n, v in learner.state_dict().items())


def test_raw_pixels_tell_flat_people_apart():
    result = evaluate(Prototypical(Pixels()), flat_people(), episodes=50, progress=False)
    assert result.accuracy == 1


def test_errors():
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate(Rule(None), flat_people(), episodes=0)
    with pytest.raises(ValueError, match="only 9 of 9"):
        evaluate(Rule(None), flat_people(), ways=10, episodes=1)
    with pytest.raises(TypeError, match="evaluate has no device= any more: write learner.to"):
        evaluate(Rule(None), flat_people(), device="cpu")
    with pytest.raises(TypeError, match=r"no query_domain= any more: write domains=\(support"):
        evaluate(Rule(None), flat_people(), query_domain="sketch")


# --- scores that say nothing


def test_scores_that_are_not_finite_are_no_result():
    learner, faces = MAML(tiny(), inner_lr=1e30), patterns(6, 4)
    images = torch.rand(4, 3, 16, 16)
    with pytest.raises(ValueError, match="MAML gives scores that are not finite: its steps"):
        evaluate(learner, faces, queries=2, episodes=2, progress=False)
    with pytest.raises(ValueError, match="MAML gives scores that are not finite"):
        learner.adapt(images, [0, 0, 1, 1])(images)


@pytest.mark.parametrize("kind", [MAML, ANIL, Reptile, Prototypical])
def test_equal_scores_for_everybody_are_said(kind, caplog):
    net = tiny()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    result = evaluate(kind(net), patterns(6, 4), queries=2, episodes=2, progress=False)
    assert result.accuracy == pytest.approx(0.2)
    assert "20 of 20 queries the same score for everybody" in caplog.text
