"""Tasks in chunks on threads: what a thread has to itself, and what comes out."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import few_tasks, tiny

from metaface.learners import MAML, Prototypical
from metaface.learners.chunks import replicate


@pytest.mark.parametrize("mode", ["batch", "frozen"])
def test_a_replica_has_parameters_of_its_own_around_the_same_memory(mode):
    """Two threads that differentiate by one parameter may wait for each other for ever."""
    learner = MAML(tiny(mode))
    next(learner.parameters()).requires_grad_(False)
    replica = replicate(learner)
    for (name, one), (other_name, other) in zip(
        learner.named_parameters(), replica.named_parameters(), strict=True
    ):
        assert name == other_name and one is not other and other.is_leaf
        assert one.data_ptr() == other.data_ptr() and one.requires_grad == other.requires_grad
    for one, other in zip(learner.buffers(), replica.buffers(), strict=True):
        assert one.data_ptr() == other.data_ptr()


def test_a_parameter_that_two_modules_share_is_one_in_the_replica():
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    layers[1].weight = layers[0].weight
    replica = replicate(layers)
    assert replica[0].weight is replica[1].weight is not layers[0].weight


def test_threads_meet_no_parameter_of_each_other(monkeypatch):
    """Nor of the learner, whatever it is made of."""
    seen: dict[int, set[int]] = {}

    class Watched(Prototypical):
        def meta_gradient(self, episodes):
            mine = {id(p) for p in self.parameters()}
            seen.setdefault(threading.get_ident(), set()).update(mine)
            return super().meta_gradient(episodes)

    torch.manual_seed(0)
    learner = Watched(tiny()).double()
    learner.task_chunk = 1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            learner.meta_step(few_tasks(8, ways=3, shots=2, queries=2))
    finally:
        torch.set_num_threads(threads)
    own = {id(p) for p in learner.parameters()}
    assert len(seen) > 1 and all(not ids & own for ids in seen.values())
