"""The step of a head that starts from zero: the same whatever features it sees, and saved."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from helpers import LEARN2LEARN, few_tasks, patterns, tiny, train
from torch import nn
from torch.nn import functional as F

import metaface as mf
from metaface import data, nets
from metaface.cli.app import read_command
from metaface.learners import ANIL, MAML, FineTune, MetaLearner, Reptile
from metaface.learners.base import task_loss
from metaface.learners.head import HeadStep
from metaface.options import BenchmarkSettings, JobSettings
from metaface.options.commands import PreviewOptions

OLD = Path(__file__).parents[1].joinpath("old")
"""What MetaFace 0.1.0 wrote at a17b30e, before heads stepped on standardised features"""
SCORES = json.loads((OLD / "scores.json").read_text())


class Changed(nn.Module):
    """A network whose features are larger, shifted or repeated; the shift is the same for all."""

    def __init__(self, times: float = 1.0, shift: float = 0.0, copies: int = 1) -> None:
        super().__init__()
        self.net = tiny().double()
        self.times, self.shift, self.copies = times, shift, copies

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.times * self.net(images) + self.shift).repeat(1, self.copies)


LEARNERS = {
    "maml": lambda net: MAML(net, inner_lr=0.05),
    "fomaml": lambda net: MAML(net, inner_lr=0.05, first_order=True),
    "anil": ANIL,
    "metasgd": lambda net: MAML(net, inner_lr=0.05, learn_rates="weight").double(),
    "reptile": lambda net: Reptile(net, inner_steps=5),
    "reptile-sgd": lambda net: Reptile(net, 0.05, 5, head_lr=0.5, inner_optimizer="sgd"),
    "finetune": lambda net: FineTune(net, classifier="linear"),
}
if LEARN2LEARN:
    LEARNERS["l2l-maml"] = lambda net: mf.learners.build("l2l-maml", net, inner_lr=0.05)


def logits(make, **change) -> torch.Tensor:
    learner: MetaLearner = make(Changed(**change))
    return learner.logits(few_tasks(3, ways=3, shots=2)).detach()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(
    "change",
    [{"times": 1e-3}, {"times": 40.0}, {"shift": 3.0}, {"times": 10.0, "shift": -2.0}],
    ids=str,
)
def test_adapting_does_not_depend_on_the_scale_or_shift_of_features(name, change):
    want = logits(LEARNERS[name])
    # Adam divides by |gradient| + 1e-8, which is not quite free of scale
    torch.testing.assert_close(logits(LEARNERS[name], **change), want, rtol=2e-3, atol=2e-3)
    assert want.std() > 0.05


@pytest.mark.parametrize("name", ["anil", "reptile", "finetune"])
def test_adapting_does_not_depend_on_the_number_of_features(name):
    """Of those that move the network alike: copies double its gradient but under Adam."""
    torch.testing.assert_close(
        logits(LEARNERS[name], copies=5), logits(LEARNERS[name]), rtol=2e-3, atol=2e-3
    )


def test_the_first_step_of_half_sets_rows_to_class_means():
    """``head_lr=0.5`` with equal shots: nearest class mean of the standardised features."""
    tasks = few_tasks(2, ways=3, shots=2)
    net = tiny().double()
    scores = ANIL(net, head_lr=0.5, inner_steps=1).logits(tasks)
    for t in range(2):
        features = net(tasks.support[t])
        mean = features.mean(0)
        size = (features - mean).square().sum(1).mean().sqrt()
        member = F.one_hot(tasks.support_y[t]).double()
        rows = member.T @ ((features - mean) / size) / member.sum(0)[:, None]
        queries = (net(tasks.query[t]) - mean) / size
        torch.testing.assert_close(scores[t], queries @ rows.T, rtol=1e-4, atol=1e-4)


def test_a_step_of_one_never_raises_the_loss_of_the_support_from_zero():
    """2 N is the longest stable step from a zero head, whatever the features."""
    random = torch.Generator().manual_seed(0)
    for ways in (2, 5, 20):
        for width in (1, 3, 500):
            features = 100 * torch.randn(50, 2 * ways, width, generator=random) + 30
            labels = torch.arange(ways).repeat_interleave(2).expand(50, -1)
            head = ANIL(nn.Identity(), head_lr=1.0, inner_steps=1)
            state = head.fit_head(features, labels, ways)
            logits = head.score_head(state, features)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            assert loss.isfinite().all()
            uniform = torch.log(torch.tensor(float(ways)))
            assert loss.view(50, -1).mean(1).mean() < uniform


@pytest.mark.parametrize("name", [*LEARNERS, "prototypical"])
def test_one_photograph_and_equal_photographs_are_no_trouble(name):
    make = LEARNERS.get(name) or mf.learners.Prototypical
    learner = make(tiny().double())
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    for count, labels in ((1, [0]), (2, [0, 1])):
        scores = learner.adapt(image.expand(count, -1, -1, -1), torch.tensor(labels))(image)
        assert scores.isfinite().all()


# --- weights say by which rule they were trained


@pytest.mark.parametrize("name", ["maml-half-trained", "anil", "reptile"])
def test_a_checkpoint_from_before_adapts_as_it_did(name, caplog):
    learner, _ = mf.load_model(OLD / f"{name}.pt")
    assert not learner.head_step.standardised
    assert "before MetaFace 0.2" in caplog.text
    episodes = old_episodes()
    got = learner.adapt(episodes.support[0], episodes.support_y[0])(episodes.query[0])
    torch.testing.assert_close(got, torch.tensor(SCORES[name]), rtol=1e-3, atol=1e-3)


def test_a_training_from_before_is_gone_on_with_as_it_was(tmp_path, caplog):
    (tmp_path / "checkpoint.pt").write_bytes((OLD / "maml-half-trained.pt").read_bytes())
    people, _, _ = old_people()
    spec = mf.ModelSpec("maml", embedding="conv4-32", image_size=28, channels=1)
    learner = spec.build(0)
    given = {"iterations": 8, "ways": 5, "spec": spec, "progress": False}
    train(learner, people, None, **given, out=tmp_path, resume=True)
    assert "photographs it was trained on" in caplog.text
    episodes = old_episodes()
    got = learner.adapt(episodes.support[0], episodes.support_y[0])(episodes.query[0])
    torch.testing.assert_close(got, torch.tensor(SCORES["maml-resumed"]), rtol=1e-2, atol=1e-2)
    caplog.clear()
    again, _ = mf.load_model(tmp_path / "checkpoint.pt")  # which now says so itself
    assert not again.head_step.standardised


def old_people() -> tuple[mf.FaceSet, mf.FaceSet, mf.FaceSet]:
    faces = data.load("synthetic", image_size=28, channels=1, people=24, photos=6, progress=False)
    return faces.split(seed=0, test_photos=6)


def old_episodes() -> mf.Episodes:
    return mf.EpisodeSampler(old_people()[2], 4, 1, 3, seed=5).batch(0, 1)


def test_new_weights_say_that_features_are_standardised(tmp_path, caplog):
    spec = mf.ModelSpec("anil", embedding="conv4-32")
    mf.save_model(tmp_path / "new.pt", spec.build(), spec)
    learner, _ = mf.load_model(tmp_path / "new.pt")
    assert learner.head_step.standardised and not caplog.text


def test_weights_of_another_rule_are_refused():
    ours, papers = MAML(tiny()), MAML(tiny(), head_lr=None)
    with pytest.raises(ValueError, match="standardised features.*steps on raw ones: build it with"):
        papers.load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match="raw features.*steps on standardised ones: build it with"):
        ours.load_state_dict(papers.state_dict())
    assert ours.head_step.standardised and not papers.head_step.standardised


def test_weights_of_the_embedding_alone_change_no_rule(caplog):
    learner = MAML(tiny())
    part = {f"embedding.{name}": w for name, w in tiny(seed=1).state_dict().items()}
    learner.load_state_dict(part, strict=False)
    assert learner.head_step.standardised and not caplog.text


def test_weights_from_before_and_new_ones_may_follow_each_other(caplog):
    learner, new = MAML(tiny()), MAML(tiny()).state_dict()
    before = {name: w for name, w in new.items() if not name.endswith("rule")}
    learner.load_state_dict(before)
    assert not learner.head_step.standardised and "before MetaFace 0.2" in caplog.text
    other = MAML(tiny())
    other.load_state_dict(learner.state_dict())  # saved again, they say so themselves
    assert not other.head_step.standardised
    learner.load_state_dict(new)
    assert learner.head_step.standardised


def test_a_training_from_before_that_started_from_weights_goes_on(tmp_path, caplog):
    (tmp_path / "checkpoint.pt").write_bytes((OLD / "maml-half-trained.pt").read_bytes())
    spec = mf.ModelSpec("maml", embedding="conv4-32", channels=1, start_sha256="12ab")
    given = {"iterations": 8, "ways": 5, "spec": spec, "progress": False}
    train(spec.build(0), old_people()[0], None, **given, out=tmp_path, resume=True)
    assert "nor which weights it started from" in caplog.text


def test_a_learned_head_and_no_head_lr_keep_the_papers_rule():
    assert not MAML(tiny(), head_lr=None).head_step.standardised
    assert not MAML(tiny(), head=nn.Linear(8, 5)).head_step.standardised
    assert not Reptile(tiny(), head=nn.Linear(8, 5)).head_step.standardised
    assert HeadStep(False).slopes({"head.weight": 1}, torch.ones(1, 1, 1), 2) == {"head.weight": 1}


# --- defaults learn; docs/learning.md has the whole table


def test_one_default_size_everywhere():
    assert data.IMAGE_SIZE == mf.ModelSpec("maml").image_size == BenchmarkSettings().image_size
    assert data.load("synthetic", people=2, photos=1, progress=False).image_shape[1] == 28
    for command in ("preview", "train", "benchmark", "sweep"):
        options = read_command([command])[1].arguments
        for kind in (PreviewOptions, JobSettings):
            for given in options.values():
                assert not isinstance(given, kind) or given.image_size == data.IMAGE_SIZE
    assert PreviewOptions().image_size == JobSettings().image_size == data.IMAGE_SIZE


DEEP = ["resnet12", "mobilefacenet", "torchvision:resnet18"]
FAST = ["maml", "fomaml", "anil", "metasgd", "maml++", "reptile", "prototypical"]


@pytest.mark.parametrize(
    "network",
    ["conv4", "conv4-stride", *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)],
)
@pytest.mark.parametrize("name", FAST)
def test_five_default_steps_on_one_batch_lower_its_loss(name, network):
    size = 28 if network != "mobilefacenet" else 32
    faces = patterns(8, 6, size)
    torch.manual_seed(0)
    learner = mf.learners.build(name, nets.build(network, 3, size))
    recipe = learner.recipe
    batch = mf.EpisodeSampler(faces, 3, 2, 1).batch(0, 1)
    kind = torch.optim.SGD if recipe.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(learner.parameters(), lr=recipe.lr)

    def loss() -> float:
        with learner.predicting():
            return float(task_loss(learner.logits(batch), batch.query_y).detach())

    learner.train()
    losses = [loss()]
    for _ in range(5):
        learner.meta_step(batch)
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(learner.parameters(), recipe.clip)
        optimizer.step()
        losses.append(loss())
    assert min(losses[1:]) < losses[0] and all(map(math.isfinite, losses)), losses


@pytest.mark.parametrize("name", ["maml", "anil", "reptile", "finetune"])
def test_features_that_are_all_zero_are_no_trouble(name):
    """A dead network has no gradient, but no NaN either."""
    dead = Changed(times=0.0)
    learner = LEARNERS[name](dead.float())
    tasks = few_tasks(2).to(torch.float32)
    metrics = learner.meta_step(tasks)
    assert metrics["loss"] == pytest.approx(math.log(3), rel=1e-4)
    for parameter in learner.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
