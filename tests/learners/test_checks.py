"""What learners refuse, by name and with the remedy; and networks of others that they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    every_learner,
    few_tasks,
    flat_gradient,
    needs_learn2learn,
    one,
    patterns,
    relative_error,
    tiny,
)
from torch import nn

from metaface import evaluate, nets
from metaface.learners import ANIL, MAML, Prototypical, Reptile, build


def network(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), *middle, nn.ReLU(), nn.Flatten())


class Attention(nn.Module):
    """Patches, a transformer encoder and their mean: float [n, 3, 16, 16] to [n, 16]."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, images):
        return self.encoder(self.patches(images * 2 - 1).flatten(2).transpose(1, 2)).mean(1)


class Gives(nn.Module):
    """A network that gives what ``change`` makes of features."""

    def __init__(self, change) -> None:
        super().__init__()
        self.net, self.change = tiny(), change

    def forward(self, images):
        return self.change(self.net(images))


@pytest.fixture
def together():
    """One thread, so that several tasks are run over at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@every_learner
@pytest.mark.parametrize(
    "module, why",
    [
        (nn.BatchNorm2d(8), r"its module 1 is nn\.BatchNorm2d.*Norm2d.*make_adaptable"),
        (nn.SyncBatchNorm(8), r"nn\.SyncBatchNorm.*GroupNorm"),
        (nn.InstanceNorm2d(8, track_running_stats=True), r"nn\.InstanceNorm2d.*GroupNorm"),
        (nn.Dropout(0.3), r"nn\.Dropout with dropout 0\.3.*make_adaptable"),
        (nn.Dropout2d(0.1), r"nn\.Dropout2d with dropout 0\.1"),
        (Attention(0.1).encoder, r"1\.layers\.0\.self_attn is nn\.MultiheadAttention .*0\.1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_networks_that_change_or_draw_are_refused_by_name(name, module, why):
    with pytest.raises(ValueError, match=why):
        build(name, network(module))


def test_what_is_no_network_is_refused():
    for wrong, why in (
        (nets.Conv4, r"Conv4 is a class.*Conv4\(\)"),
        ("conv4", "embedding='conv4' is no network"),
        (nn.Sequential(nn.LazyConv2d(8, 3)), "0.weight has no shape yet: run the network once"),
    ):
        with pytest.raises(ValueError, match=why):
            Prototypical(wrong)


def test_make_adaptable_converts_what_is_refused():
    torch.manual_seed(0)
    net = network(nn.BatchNorm2d(8), nn.Dropout(0.5))
    net.train()(torch.rand(8, 3, 16, 16))  # statistics of its own
    images = torch.rand(3, 3, 16, 16)
    want = net.eval()(images)
    assert nets.make_adaptable(net, "frozen") is net
    torch.testing.assert_close(net.eval()(images), want)
    learner = MAML(net)
    assert learner.norm == "frozen"
    assert np.isfinite(learner.train().meta_step(few_tasks().to(torch.float32))["loss"])
    MAML(nets.make_adaptable(Attention(0.1)))


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("name", ["maml", "maml++", "fomaml", "anil", "reptile", "prototypical"])
def test_a_transformer_encoder_learns(name):
    torch.manual_seed(0)
    learner = build(name, Attention()).double()
    tasks, gradients = few_tasks(3), []
    learner.meta_step(tasks)
    together = flat_gradient(learner)
    for i in range(3):  # one task at a time, nothing is vectorised
        learner = build(name, learner.embedding).double()
        learner.meta_step(one(tasks, i))
        gradients.append(flat_gradient(learner))
    assert relative_error(together, torch.stack(gradients).mean(0)) < 1e-9
    classifier = learner.adapt(tasks.support[0], tasks.support_y[0])
    scores = classifier(tasks.query[0])
    with learner.predicting(), torch.no_grad():
        torch.testing.assert_close(learner.logits(tasks)[0], scores)
    assert evaluate(learner.float(), patterns(6), episodes=3, progress=False).accuracy >= 0


def test_timm_attention_trains():
    pytest.importorskip("timm")
    net = nets.build("timm:test_vit", norm="group")
    size = net.image_size[0]
    tasks = few_tasks(1, ways=2, shots=1, queries=1, size=size).to(torch.float32)
    assert np.isfinite(MAML(net, inner_steps=1).train().meta_step(tasks)["loss"])


@pytest.mark.usefixtures("together")
@pytest.mark.parametrize("kind", [MAML, ANIL, Prototypical])
@pytest.mark.parametrize(
    "change, what",
    [
        (lambda f: f[:, :, None, None], r"float32 \[.*, 1, 1\] for"),
        (lambda f: f.mean(1), r"float32 \[\d+\] for"),
        (lambda f: (f, f), "a tuple for"),
        (lambda f: f.long(), "int64"),
    ],
)
def test_features_that_are_no_vectors_are_refused(kind, change, what):
    learner, tasks = kind(Gives(change)), few_tasks().to(torch.float32)
    for call in (
        lambda: learner.meta_step(tasks),
        lambda: learner.adapt(tasks.support[0], tasks.support_y[0]),
        lambda: evaluate(learner, patterns(6), episodes=2, progress=False),
    ):
        with pytest.raises(ValueError, match=rf"embedding Gives gives {what}.*\[n, D\].*Flatten"):
            call()


@pytest.mark.parametrize("kind", [MAML, Prototypical])
@pytest.mark.parametrize(
    "make",
    [
        lambda labels: labels.to(torch.int32),
        lambda labels: labels.to(torch.uint8),
        lambda labels: labels.numpy(),
        lambda labels: labels.numpy().astype(np.int16),
        lambda labels: labels.tolist(),
        lambda labels: tuple(labels.tolist()),
    ],
    ids=["int32", "uint8", "numpy", "int16", "list", "tuple"],
)
def test_labels_of_every_kind_of_whole_number_are_taken(kind, make):
    learner, tasks = kind(tiny()).double(), few_tasks()
    given = replace(tasks, support_y=make(tasks.support_y), query_y=make(tasks.query_y))
    assert learner.meta_step(given) == learner.meta_step(tasks)
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]
    want = learner.adapt(photos, labels)(queries)
    assert torch.equal(learner.adapt(photos, make(labels))(queries), want)


def test_labels_that_are_none_are_refused_by_name():
    learner, tasks = Prototypical(tiny()).double(), few_tasks()
    for wrong in (tasks.support_y.double(), tasks.support_y[0] == 0, ["Ana"] * 6, [[0], [1, 2]]):
        with pytest.raises(ValueError, match=r"^labels must be whole numbers.*number them"):
            learner.adapt(tasks.support[0], wrong)
        with pytest.raises(ValueError, match=r"^query_y must be whole numbers"):
            learner.meta_step(replace(tasks, query_y=wrong))
    for low in (-1, 1):
        with pytest.raises(ValueError, match=rf"^query_y must be in 0\.\.2.* got {low} to"):
            learner.meta_step(replace(tasks, query_y=tasks.query_y + low))


@pytest.mark.parametrize("kind", [MAML, Prototypical])
@pytest.mark.parametrize(
    "change, why",
    [
        (lambda x: x * 255, r"must be in 0\.\.1, got .* to \d+.*: divide by 255"),
        (lambda x: x * 2 - 1, r"must be in 0\.\.1, got -.*leave the normalisation out"),
        (lambda x: (x * 255).to(torch.uint8), r"must be floats in 0\.\.1, got torch\.uint8: div"),
        (lambda x: x + torch.nan, r"must be in 0\.\.1, got nan to nan: some are not finite"),
        (lambda x: x / (x - x.max()), r"must be in 0\.\.1, got -.* to inf: some are not finite"),
    ],
    ids=["0..255", "-1..1", "uint8", "nan", "inf"],
)
def test_photographs_out_of_range_are_refused_by_value(kind, change, why):
    learner, tasks = kind(tiny()), few_tasks().to(torch.float32)
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]
    for call, name in (
        (lambda: learner.adapt(change(photos), labels), "images"),
        (lambda: learner.adapt(photos, labels)(change(queries)), "images"),
        (lambda: learner.adapt(photos, labels).predict(change(queries)), "images"),
        (lambda: learner.meta_step(replace(tasks, support=change(tasks.support))), "support"),
        (lambda: learner.meta_step(replace(tasks, query=change(tasks.query))), "query"),
    ):
        with pytest.raises(ValueError, match=f"^{name} {why}"):
            call()


@pytest.mark.parametrize("kind", [MAML, Prototypical])
def test_photographs_of_another_shape_are_refused_by_name(kind):
    learner, tasks = kind(tiny()), few_tasks().to(torch.float32)
    photos, labels, queries = tasks.support[0], tasks.support_y[0], tasks.query[0]
    classifier = learner.adapt(photos, labels)
    grey = replace(tasks, support=tasks.support[:, :, :1], query=tasks.query[:, :, :1])
    for call in (
        lambda: learner.adapt(photos[:, :1], labels),
        lambda: learner.meta_step(grey),
        lambda: classifier(queries[:, :1]),
        lambda: classifier(queries.repeat(1, 1, 4, 4)),  # four times the side: other features
        lambda: classifier(queries.double()),
    ):
        with pytest.raises(ValueError, match=r"embedding Conv4 on photographs \[\d, .*channels"):
            call()
    for wrong, got in ((queries[0], r"\[3, 16, 16\]"), (queries.numpy(), "ndarray")):
        with pytest.raises(ValueError, match=rf"tensor \[Q, C, H, W\], got {got}"):
            classifier(wrong)
    with pytest.raises(ValueError, match="adapt takes images as a tensor, got a list"):
        learner.adapt(photos.tolist(), labels)
    assert classifier(queries[:0]).shape == (0, 3)


class Branches(nn.Module):
    """A network that looks at its numbers, which several tasks at once cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny()

    def forward(self, images):
        return self.net(images) * (2 if float(images.mean()) > 0.5 else 1)


@pytest.mark.usefixtures("together")
def test_what_cannot_be_vectorised_runs_task_by_task():
    learner, tasks = MAML(Branches()), few_tasks().to(torch.float32)
    with pytest.raises(ValueError, match=r"embedding Branches .*task_chunk = 1 \(--task-chunk 1\)"):
        learner.meta_step(tasks)
    learner.task_chunk = 1
    learner.meta_step(tasks)


@pytest.mark.usefixtures("together")
def test_what_has_no_second_derivative_is_refused_with_the_remedy():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(48, 8, batch_first=True)

        def forward(self, images):
            return self.lstm(images.flatten(2).transpose(1, 2).reshape(len(images), -1, 48))[0][
                :, -1
            ]

    tasks = few_tasks().to(torch.float32)
    for learner in (MAML(Recurrent()), MAML(Recurrent(), first_order=True), ANIL(Recurrent())):
        try:
            learner.meta_step(tasks)
        except ValueError as error:
            assert "embedding Recurrent on photographs" in str(error)
            assert "task_chunk" in str(error) or "fomaml" in str(error)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: MAML(tiny(), first_order="no"), "first_order='no': must be True or False"),
        pytest.param(
            lambda: build("l2l-maml", tiny(), first_order="no"),
            "first_order='no': must be True or False",
            marks=needs_learn2learn,
        ),
        (lambda: ANIL(tiny(), inner_steps=0), "inner_steps=0: must be at least 1"),
        (lambda: Reptile(tiny(), inner_steps=0), "inner_steps=0: must be at least 1"),
        (lambda: Reptile(tiny(), test_steps=0), "test_steps=0: must be at least 1"),
    ],
)
def test_settings_that_learn_nothing_or_say_nothing_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
