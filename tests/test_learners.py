"""The conformance suite: what every registered learner must do."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import (
    every_learner,
    few_tasks,
    flat_gradient,
    one,
    patterns,
    relative_error,
    tiny,
    train,
)
from torch import nn

from metaface import FaceSet, evaluate
from metaface.learners import MAML, MetaLearner, Prototypical, Reptile, build
from metaface.nets import MODES, refresh_statistics

# what makes a learner quick to train on a tiny network; nothing here is needed to conform
OPTIONS = {"reptile": {"inner_lr": 1e-2}}
QUICK = {"prototypical": {"ways": 20, "lr": 5e-3}, "reptile": {}}

every_norm = pytest.mark.parametrize("norm", MODES)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    ),
]


def make(name: str, norm: str = "group", seed: int = 0) -> MetaLearner:
    return build(name, tiny(norm, seed=seed), **OPTIONS.get(name, {}))


@cache
def people() -> tuple[FaceSet, FaceSet, FaceSet]:
    return patterns(60).split(val=0, test=0.3)


def shaken(learner: MetaLearner) -> MetaLearner:
    """``learner`` in float64 with every weight and population statistic somewhere else."""
    learner.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.mul_(1 + 0.1 * noise)
    refresh_statistics(learner.embedding, [few_tasks(1, ways=5).support[0]])
    return learner


@every_learner
def test_learns_and_generalises_to_new_people(name):
    faces, _, held_out = people()
    learner = build(name, tiny(width=16), **OPTIONS.get(name, {}))
    before = evaluate(learner, held_out, episodes=100, progress=False)
    train(
        learner,
        faces,
        iterations=60,
        augment=None,
        device="cpu",
        progress=False,
        **QUICK.get(name, {"meta_batch": 4, "lr": 5e-3}),
    )
    after = evaluate(learner, held_out, episodes=100, progress=False)
    assert after.accuracy > before.accuracy + 0.15
    assert after.accuracy > 0.45


@every_learner
def test_is_deterministic_given_a_seed(name):
    def trained(seed):
        learner = make(name)
        train(learner, people()[0], iterations=2, seed=seed, device="cpu", progress=False)
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


@every_norm
@every_learner
def test_adapt_leaves_the_learner_as_it_was(name, norm):
    learner = shaken(make(name, norm))
    tasks = few_tasks(2)
    learner.meta_step(tasks)
    weights = {n: v.clone() for n, v in learner.state_dict().items()}
    gradient = flat_gradient(learner)
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]

    for mode in (True, False):
        learner.train(mode)
        first = learner.adapt(photos, labels)
        scores = first(queries)
        assert not scores.requires_grad
        assert torch.equal(learner.adapt(photos, labels)(queries), scores)
        assert all(module.training is mode for module in learner.modules())
    assert all(torch.equal(v, weights[n]) for n, v in learner.state_dict().items())
    assert torch.equal(flat_gradient(learner), gradient)

    # and training goes on without changing a classifier that is in use
    shaken(learner)
    assert torch.equal(first(queries), scores)
    assert not torch.equal(learner.adapt(photos, labels)(queries), scores)


@every_learner
def test_relabelling_people_relabels_the_scores(name):
    learner, tasks = shaken(make(name)), few_tasks(1)
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]
    renamed = torch.tensor([2, 0, 1])
    scores = learner.adapt(photos, labels)(queries)
    torch.testing.assert_close(learner.adapt(photos, renamed[labels])(queries)[:, renamed], scores)


@every_learner
@pytest.mark.parametrize("shots", [(1, 1), (3, 1, 2), (1,) * 8], ids=str)
def test_adapts_to_any_number_of_people_with_unequal_shots(name, shots):
    learner = shaken(make(name))
    learner.meta_step(few_tasks(ways=3, shots=2))
    faces = few_tasks(1, ways=len(shots), shots=3)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    photos = torch.cat([faces.support[0][3 * i : 3 * i + k] for i, k in enumerate(shots)])
    classifier = learner.adapt(photos, labels)
    scores = classifier(faces.query[0])
    assert classifier.ways == len(shots)
    assert scores.shape == (2 * len(shots), len(shots)) and scores.isfinite().all()
    assert torch.equal(classifier.predict(faces.query[0]), scores.argmax(-1))


@every_norm
@every_learner
def test_saves_and_loads_exactly(name, norm, tmp_path):
    learner, tasks = shaken(make(name, norm)), few_tasks(1)
    torch.save(learner.state_dict(), tmp_path / "learner.bin")
    loaded = make(name, norm, seed=5).double()
    loaded.load_state_dict(torch.load(tmp_path / "learner.bin", weights_only=True))
    given = tasks.support[0], tasks.support_y[0]
    assert torch.equal(loaded.adapt(*given)(tasks.query[0]), learner.adapt(*given)(tasks.query[0]))


@every_learner
@pytest.mark.parametrize("side", ["support", "query"])
def test_meta_step_refuses_bad_shapes_by_name(name, side):
    learner, tasks = make(name), few_tasks()
    images, labels = getattr(tasks, side), getattr(tasks, f"{side}_y")
    for bad in (
        {side: images[0]},
        {side: images[:, 1:]},
        {f"{side}_y": labels[:2]},
        {side: images[:2], f"{side}_y": labels[:2]},
    ):
        with pytest.raises(ValueError, match=rf"^{side} must be \[B, n, C, H, W\].*got \["):
            learner.meta_step(replace(tasks, **bad))


@every_learner
def test_adapt_refuses_bad_shapes_and_labels_by_name(name):
    learner = make(name)
    photos, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1])
    for bad in ((photos[0], labels), (photos, labels[:3]), (photos, labels[:, None])):
        with pytest.raises(ValueError, match=r"adapt takes images \[S, C, H, W\].*got \["):
            learner.adapt(*bad)
    for numbers in ([0, 0, 2, 2], [1, 1, 2, 2], [-1, 0, 0, 1]):
        with pytest.raises(ValueError, match=r"every number of 0\.\.N-1, got \[.*renumber"):
            learner.adapt(photos, torch.tensor(numbers))
    with pytest.raises(ValueError, match="labels"):
        learner.adapt(photos[:0], labels[:0])


@every_norm
@every_learner
def test_a_batch_of_tasks_is_the_tasks_one_by_one(name, norm):
    learner, tasks = shaken(make(name, norm)), few_tasks(3)
    alone = [one(tasks, i) for i in range(3)]
    before = copy.deepcopy(learner.state_dict())
    learner.meta_step(tasks)
    together = flat_gradient(learner)
    gradients = []
    for task in alone:
        learner.load_state_dict(before)
        learner.meta_step(task)
        gradients.append(flat_gradient(learner))
    assert relative_error(together, torch.stack(gradients).mean(0)) < 1e-9

    for mode in (True, False):
        learner.train(mode)
        logits = learner.logits(tasks).detach()
        want = torch.cat([learner.logits(task) for task in alone]).detach()
        assert relative_error(logits, want) < 1e-10
        for chunk in (1, 2):
            learner.task_chunk = chunk
            assert relative_error(learner.logits(tasks).detach(), logits) < 1e-10
    adapted = learner.adapt(tasks.support[0], tasks.support_y[0])
    assert relative_error(adapted(tasks.query[0]), logits[0]) < 1e-10


@every_norm
@every_learner
def test_only_batch_statistics_let_queries_see_each_other(name, norm):
    learner, tasks = shaken(make(name, norm)), few_tasks(1)
    classifier = learner.adapt(tasks.support[0], tasks.support_y[0])
    together = classifier(tasks.query[0])
    apart = torch.cat([classifier(query[None]) for query in tasks.query[0]])
    assert learner.norm == norm
    assert learner.transductive == (norm == "batch")
    assert torch.allclose(together, apart, rtol=1e-9, atol=1e-9) != learner.transductive


@every_learner
@pytest.mark.parametrize("device", DEVICES)
def test_runs_on_every_device(name, device):
    faces, _, held_out = people()
    learner = make(name)
    train(learner, faces, iterations=1, device=device, progress=False)
    assert {p.device.type for p in learner.parameters()} == {device}
    result = evaluate(learner, held_out, episodes=3, progress=False)
    assert 0 <= result.accuracy <= 1
    tasks = few_tasks(1).to(torch.float32)
    given = (t.to(device) for t in (tasks.support[0], tasks.support_y[0]))
    scores = learner.adapt(*given)(tasks.query[0].to(device)).cpu()
    learner.cpu()
    want = learner.adapt(tasks.support[0], tasks.support_y[0])(tasks.query[0])
    torch.testing.assert_close(scores, want, rtol=1e-2, atol=1e-2)


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


@every_learner
def test_chunks_and_threads_change_nothing(name):
    """Eight tasks in one chunk, and in chunks of one in as many threads as there are."""
    tasks = few_tasks(8)
    gradients = []
    for chunk, threads in ((8, 1), (1, 3)):
        learner = shaken(make(name))
        learner.task_chunk = chunk
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            learner.meta_step(tasks)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        gradients.append(flat_gradient(learner))
    assert relative_error(gradients[1], gradients[0]) < 1e-10


def test_a_chunk_of_nothing_is_refused():
    learner = make("maml")
    learner.task_chunk = 0
    with pytest.raises(ValueError, match="task_chunk=0: must be at least 1"):
        learner.meta_step(few_tasks())
