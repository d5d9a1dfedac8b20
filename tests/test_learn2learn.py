"""MAML against learn2learn 0.2.0: the same weights and tasks, the same meta-gradient."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch
from helpers import few_tasks, flat_gradient, relative_error, tiny
from torch import nn
from torch.nn import functional as F

from metaface import nets
from metaface.learners import MAML

REQUIRED = os.environ.get("CI") or os.environ.get("METAFACE_REQUIRE_LEARN2LEARN")


@pytest.fixture(scope="module")
def l2l() -> ModuleType:
    try:
        import learn2learn
    except ImportError as error:
        reason = f"{error}: run `.venv/bin/python tools/build_learn2learn.py`"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    return learn2learn


@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
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
