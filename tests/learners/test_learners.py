"""The conformance suite: what every registered learner must do."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import every_learner, few_tasks, tiny
from torch import nn

from metaface.learners import LEARNERS, MAML, MetaLearner, Prototypical, Reptile, build
from metaface.testing import LEARNER_RULES

# an inner step with which a tiny network learns within a few steps
OPTIONS = {"reptile": {"inner_lr": 1e-2}}
# and few inner steps, where two ways of taking them are compared
BRIEF = {
    "reptile": {"inner_lr": 1e-2, "inner_steps": 4},
    "finetune": {"steps": 6, "head_steps": 10},
}


def make(name: str) -> MetaLearner:
    return build(name, tiny(), **OPTIONS.get(name, {}))


def learners_and_rules() -> list:
    """All. That learn2learn's learners learn takes ten to twenty seconds of each: they have the
    meta-gradients of ours, and a loop of theirs learns in test_learn2learn.py."""
    slow = {(name, "learns") for name in LEARNERS if name.startswith("l2l-")}
    pairs = []
    for rule in LEARNER_RULES:
        for one in every_learner.args[1]:
            name, marks = (one.values[0], one.marks) if hasattr(one, "marks") else (one, ())
            if (name, rule.__name__) in slow:
                marks = [*marks, pytest.mark.slow]
            pairs.append(pytest.param(name, rule, marks=marks, id=f"{rule.__name__}-{name}"))
    return pairs


@pytest.mark.parametrize("name, rule", learners_and_rules())
def test_conforms(name, rule):
    options = OPTIONS.get(name, {}) if rule.__name__ == "learns" else BRIEF.get(name, {})
    rule(partial(build, name, **options))


def test_unknown_names_and_options_are_refused_with_the_choices():
    for call, message in (
        (lambda: build("mamml", tiny()), "no learner 'mamml': choose one of maml, "),
        (lambda: MAML(tiny(), learn_rates="weight", first_order=True), "leave first_order out"),
        (lambda: Reptile(tiny(), inner_optimizer="rms"), "choose 'adam' or 'sgd'"),
        (lambda: Prototypical(tiny(), distance="l1"), "choose 'euclidean' or 'cosine'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("kind", [MAML, Reptile])
def test_a_learned_head_takes_its_own_way_alone(kind):
    tasks = few_tasks(2, ways=3)
    learner = kind(tiny(), head=nn.Linear(8, 3)).double()
    learner.meta_step(tasks)
    assert learner.head.weight.grad.abs().max() > 0
    # permuting its rows alike leaves it equivariant to relabelling
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]
    scores = learner.adapt(photos, labels)(queries)
    renamed = torch.tensor([2, 0, 1])
    learner.head.weight.data = learner.head.weight.data[renamed.argsort()]
    learner.head.bias.data = learner.head.bias.data[renamed.argsort()]
    torch.testing.assert_close(learner.adapt(photos, renamed[labels])(queries)[:, renamed], scores)
    with pytest.raises(ValueError, match="knows 3 people, the task has 5: .*leave the head out"):
        learner.meta_step(few_tasks(1, ways=5))


def test_more_steps_at_test_than_in_training():
    tasks = few_tasks(1)
    learner = MAML(tiny(), inner_lr=0.1, inner_steps=1, test_steps=3).double()
    other = MAML(tiny(), inner_lr=0.1, inner_steps=3).double()
    given = tasks.support[0], tasks.support_y[0]
    torch.testing.assert_close(
        learner.adapt(*given)(tasks.query[0]), other.adapt(*given)(tasks.query[0])
    )
    one_step = MAML(tiny(), inner_lr=0.1, inner_steps=1).double()
    torch.testing.assert_close(learner.train().logits(tasks), one_step.logits(tasks))


def test_a_chunk_of_nothing_is_refused():
    learner = make("maml")
    learner.task_chunk = 0
    with pytest.raises(ValueError, match="task_chunk=0: must be at least 1"):
        learner.meta_step(few_tasks())
