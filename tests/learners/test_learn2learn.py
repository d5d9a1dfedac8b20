"""learn2learn 0.2.0: the same meta-gradients, our tasks in its loops, its algorithms in ours."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import islice
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import (
    LEARN2LEARN,
    few_tasks,
    flat_gradient,
    needs_learn2learn,
    patterns,
    relative_error,
    tiny,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from metaface import EpisodeSampler, nets
from metaface.cli import main
from metaface.learners import MAML, build
from metaface.learners import learn2learn as interop
from metaface.learners.learn2learn import Learn2Learn, Taskset

both_orders = pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])


@pytest.fixture(scope="module")
def l2l() -> ModuleType:
    if not LEARN2LEARN:
        pytest.skip(needs_learn2learn.kwargs["reason"])
    import learn2learn

    return learn2learn


# --- our MAML against theirs


@both_orders
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny("group"),
        lambda: tiny("batch"),
        lambda: nets.ResNet12(3, (4, 8, 8, 8), norm="batch"),
    ],
    ids=["conv4-group", "conv4-batch", "resnet12"],
)
def test_meta_gradient_is_learn2learns(l2l, make, first_order):
    tasks = few_tasks(4, ways=5, shots=1, queries=5)
    torch.manual_seed(0)
    embedding = make().double()
    ours = MAML(embedding, inner_lr=0.1, inner_steps=5, head_lr=None, first_order=first_order)
    metrics = ours.meta_step(tasks)
    gradient = flat_gradient(embedding)

    head = nn.Linear(embedding(tasks.query[0]).shape[-1], 5, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    theirs = l2l.algorithms.MAML(nn.Sequential(embedding, head), 0.1, first_order=first_order)
    theirs.zero_grad()
    total = 0.0
    for i in range(len(tasks)):
        fast = theirs.clone()
        for _ in range(5):
            fast.adapt(F.cross_entropy(fast(tasks.support[i]), tasks.support_y[i]))
        loss = F.cross_entropy(fast(tasks.query[i]), tasks.query_y[i]) / len(tasks)
        loss.backward()
        total += loss.item()

    assert metrics["loss"] == pytest.approx(total, rel=1e-9)
    assert relative_error(gradient, flat_gradient(embedding)) <= 1e-6


# --- their algorithms as our learners


def with_gradient(learner, tasks) -> Tensor:
    learner.double().meta_step(tasks)
    return flat_gradient(learner.embedding)


@both_orders
@pytest.mark.parametrize("norm", nets.MODES)
def test_wrapped_maml_has_our_mamls_meta_gradient(l2l, norm, first_order):
    tasks = few_tasks(3)
    ours = MAML(tiny(norm), 0.1, 3, head_lr=None, first_order=first_order)
    want = with_gradient(ours, tasks)
    for algorithm in ("MAML", l2l.algorithms.MAML):
        theirs = Learn2Learn(tiny(norm), algorithm, 0.1, 3, head_lr=None, first_order=first_order)
        assert relative_error(with_gradient(theirs, tasks), want) <= 1e-9
    with torch.no_grad():
        assert relative_error(theirs.logits(tasks), ours.logits(tasks)) <= 1e-9


@needs_learn2learn
def test_wrapped_metasgd_has_our_metasgds_meta_gradient():
    """Rates included; their head has one for its weights and one for its biases, ours one."""
    tasks = few_tasks(3)
    ours = MAML(tiny(), 0.1, 3, head_lr=None, learn_rates="weight")
    theirs = Learn2Learn(tiny(), "MetaSGD", 0.1, 3, head_lr=None)
    assert relative_error(with_gradient(theirs, tasks), with_gradient(ours, tasks)) <= 1e-9
    *body, weight, bias = (rate.grad for rate in theirs.algorithm.lrs)
    assert weight.shape == (1, 1) and bias.shape == (1,)
    want = [ours.rates[n.removeprefix("embedding.").replace(".", "_")].grad for n in ours.theta()]
    for got, wanted in zip(
        [*body, weight.sum() + bias.sum()], [*want, ours.rates["head"].grad], strict=True
    ):
        assert relative_error(got, wanted) <= 1e-9


def test_wrapped_gbml_starts_as_maml_and_learns_its_transforms(l2l):
    """Meta-Curvature starts from the identity; any other transform can be given."""
    tasks = few_tasks(3)
    want = with_gradient(MAML(tiny(), 0.1, 3, head_lr=None), tasks)
    scaled = partial(l2l.algorithms.GBML, transform=lambda weight: l2l.nn.Scale(weight.shape))
    for algorithm, extra in (("GBML", 0), (scaled, 2)):
        learner = Learn2Learn(tiny(), algorithm, 0.1, 3, head_lr=None)
        assert relative_error(with_gradient(learner, tasks), want) <= 1e-9
        transforms = learner.algorithm.compute_update.transforms_modules
        assert len(transforms) == len(list(learner.embedding.parameters())) + extra
        assert all(p.grad.norm() > 0 for p in transforms.parameters())


@needs_learn2learn
@pytest.mark.parametrize("name", ["l2l-maml", "l2l-metasgd", "l2l-gbml"])
def test_threads_do_not_meet(name):
    learner, tasks = build(name, tiny()).double(), few_tasks(6)
    learner.task_chunk = 1
    gradients, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            learner.meta_step(tasks)
            gradients.append(flat_gradient(learner))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*gradients)


@needs_learn2learn
def test_bad_settings_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="no algorithm 'MANL'.*choose one of MAML, MetaSGD, GBML"):
        Learn2Learn(tiny(), "MANL")
    with pytest.raises(ValueError, match="inner_steps=0: must be at least 1"):
        Learn2Learn(tiny(), inner_steps=0)


def test_without_learn2learn_the_names_are_there_and_the_remedy_is_said(
    monkeypatch, tmp_path, capsys
):
    listing = "import sys, metaface.learners as c; print(*c.LEARNERS, 'learn2learn' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True)
    assert "l2l-maml" in said.stdout and said.stdout.endswith("False\n")
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    assert main(["benchmark", "--learners", "l2l-maml", "--out", str(tmp_path / "out")]) == 2
    assert "run `python tools/build_learn2learn.py`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- our tasks in their loops


def test_a_task_splits_into_its_episode(l2l):
    sampler = EpisodeSampler(patterns(12, 6), 4, shots=2, queries=3)
    tasks = Taskset(sampler, num_tasks=5)
    for i, (data, labels) in enumerate(tasks):
        want = sampler.batch(i)
        (support, support_y), (query, query_y) = l2l.data.partition_task(data, labels, shots=2)
        assert torch.equal(support, want.support[0]) and torch.equal(query, want.query[0])
        assert torch.equal(support_y, want.support_y[0]) and torch.equal(query_y, want.query_y[0])
    assert i == 4 and len(tasks) == 5
    drawn = {tasks.sample()[0].sum().item() for _ in range(50)}
    assert 1 < len(drawn) <= 5
    with pytest.raises(IndexError, match="no task 5: there are 5"):
        tasks[5]


def test_the_even_places_of_an_alternating_task_are_its_support():
    sampler = EpisodeSampler(patterns(12, 6), 4, shots=3, queries=3)
    data, labels = Taskset(sampler, 1, alternate=True)[0]
    want = sampler.batch(0)
    assert torch.equal(data[::2], want.support[0]) and torch.equal(data[1::2], want.query[0])
    assert torch.equal(labels[::2], want.support_y[0])
    assert torch.equal(labels[1::2], want.query_y[0])


def test_an_endless_set_gives_fresh_tasks_like_theirs(monkeypatch):
    sampler = EpisodeSampler(patterns(12, 6), 4)
    tasks = Taskset(sampler)
    assert len(tasks) == 1
    looks = [tasks.sample(), tasks[0], *islice(tasks, 2), *islice(tasks, 2)]
    loaded = [next(iter(DataLoader(tasks, shuffle=True))) for _ in range(2)]
    for i, (data, labels) in enumerate([*looks, *((d[0], y[0]) for d, y in loaded)]):
        assert data.shape == (24, 3, 16, 16) and data.dtype == torch.float32
        assert torch.equal(data[::6], sampler.batch(i).support[0])
        assert torch.equal(labels, torch.arange(4).repeat_interleave(6))

    def first(seed: int) -> Tensor:
        """What a worker process of this seed draws first, from its own copy."""
        monkeypatch.setattr(interop, "get_worker_info", lambda: SimpleNamespace(seed=seed))
        return Taskset(sampler).sample()[0]

    assert torch.equal(first(7), first(7)) and not torch.equal(first(7), first(8))


def test_a_set_that_cannot_be_is_refused():
    sampler = EpisodeSampler(patterns(12, 6), 4, shots=2, queries=3)
    for none in (0, -2):
        with pytest.raises(ValueError, match=f"num_tasks={none}: must be positive, or -1"):
            Taskset(sampler, none)
    with pytest.raises(ValueError, match=r"got shots=\(2, 2\) and queries=3.*partition_task"):
        Taskset(sampler, alternate=True)


def test_a_loop_of_theirs_learns_on_our_people(l2l):
    """As examples/vision/maml_miniimagenet.py splits, adapts and steps."""
    ways, shots = 2, 3
    tasks = Taskset(EpisodeSampler(patterns(60), ways, shots, shots), alternate=True)
    torch.manual_seed(0)
    model = nn.Sequential(tiny(width=16), nn.Linear(16, ways))
    maml = l2l.algorithms.MAML(model, lr=0.1)
    optimizer = torch.optim.Adam(maml.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        for _ in range(4):
            data, labels = tasks.sample()
            chosen = np.zeros(len(data), dtype=bool)
            chosen[np.arange(shots * ways) * 2] = True
            adapt, answer = torch.from_numpy(chosen), torch.from_numpy(~chosen)
            fast = maml.clone()
            for _ in range(2):
                fast.adapt(F.cross_entropy(fast(data[adapt]), labels[adapt]))
            loss = F.cross_entropy(fast(data[answer]), labels[answer])
            (loss / 4).backward()
            losses.append(loss.item())
        optimizer.step()
    assert np.mean(losses[-40:]) < 0.8 * np.mean(losses[:40])
