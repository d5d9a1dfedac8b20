"""Transfer learning: heads against oracles, fine-tuning against torch, frozen weights untouched."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from helpers import few_tasks, needs_learn2learn, patterns, relative_error, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.learners import (
    LEARNERS,
    CosineClassifier,
    FeatureLearner,
    FineTune,
    LinearProbe,
    MetaLearner,
    Prototypical,
    align_covariance,
    build,
)
from metaface.nets import Backbone, MobileFaceNet
from metaface.nets.trainable import count_trainable, set_trainable

TASKS = few_tasks(3)
OURS = [n for n in LEARNERS if not n.startswith("l2l-")]
WAYS = ["norm", "last:1", "lora:2", "none"]


def features(tasks: int, ways: int, shots: int, length: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Of people who overlap, with labels."""
    random = torch.Generator().manual_seed(seed)
    people = torch.randn(tasks, ways, 1, length, generator=random, dtype=torch.float64)
    photos = torch.randn(tasks, ways, shots, length, generator=random, dtype=torch.float64)
    labels = torch.arange(ways).repeat_interleave(shots).expand(tasks, -1)
    return (1 + people + photos).flatten(1, 2), labels


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# -- heads on features ------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "shots"), [(0.1, 3), (10.0, 1), (100.0, 6)])
def test_the_linear_probe_is_at_the_minimum_that_scipy_finds(strength, shots):
    x, y = features(2, 4, shots, 7)
    got = LinearProbe(nn.Identity(), strength, tolerance=1e-12).fit_head(x, y, 4)["weight"]
    rough = LinearProbe(nn.Identity(), strength).fit_head(x, y, 4)["weight"]
    for task in range(2):
        unit = (x[task] / x[task].norm(dim=-1, keepdim=True)).numpy()
        truth = np.eye(4)[y[task]]

        def objective(flat, unit=unit, truth=truth):
            weight = flat.reshape(4, 7)
            logits = unit @ weight.T
            shift = logits.max(1, keepdims=True)
            log_sum = shift[:, 0] + np.log(np.exp(logits - shift).sum(1))
            loss = (log_sum - (logits * truth).sum(1)).sum() + (flat**2).sum() / 2 / strength
            slope = (np.exp(logits - log_sum[:, None]) - truth).T @ unit + weight / strength
            return loss, slope.ravel()

        best = scipy.optimize.minimize(
            objective,
            np.zeros(28),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 10000, "ftol": 1e-16, "gtol": 1e-10},
        )
        np.testing.assert_allclose(got[task].ravel(), best.x, rtol=1e-5, atol=1e-6)
        gain = objective(np.zeros(28))[0] - best.fun
        assert objective(rough[task].numpy().ravel())[0] - best.fun < 1e-6 * gain


def test_the_linear_probe_reaches_its_tolerance_where_features_are_hardest():
    """All photographs alike but for a little: the curvature is what the bound says it is."""
    x, y = features(1, 5, 8, 16)
    x = 1 + 0.02 * x
    rough, fine = (
        LinearProbe(nn.Identity(), 100.0, tolerance).fit_head(x, y, 5)["weight"]
        for tolerance in (1e-6, 1e-13)
    )

    def objective(weight: Tensor) -> Tensor:
        logits = F.normalize(x[0], dim=-1) @ weight.T
        return F.cross_entropy(logits, y[0], reduction="sum") + weight.square().sum() / 200

    least = objective(fine[0])
    assert 0 <= objective(rough[0]) - least < 1e-6 * (objective(0 * rough[0]) - least)


def test_imprinting_is_class_means_and_prototypes_by_cosine():
    x, y = features(2, 3, 4, 6)
    want = F.normalize(F.normalize(x, dim=-1).unflatten(1, (3, 4)).mean(2), dim=-1)
    learner = build("imprinting", nn.Identity())
    state = learner.fit_head(x, y, 3)
    torch.testing.assert_close(state["weight"], want)
    twin = Prototypical(nn.Identity(), distance="cosine")
    queries = features(2, 3, 2, 6, seed=1)[0]
    torch.testing.assert_close(
        learner.score_head(state, queries), twin.score_head(twin.fit_head(x, y, 3), queries)
    )


def test_the_cosine_classifier_descends_as_autograd_does():
    x, y = features(2, 3, 4, 6)
    learner = CosineClassifier(nn.Identity(), scale=7, head_lr=0.03, steps=5)
    got = learner.fit_head(x, y, 3)["weight"]
    weight = CosineClassifier(nn.Identity(), steps=0).fit_head(x, y, 3)["weight"]
    for _ in range(5):
        weight.requires_grad_()
        logits = 7 * F.cosine_similarity(x[:, :, None], weight[:, None], dim=-1)
        loss = sum(F.cross_entropy(logits[t], y[t]) for t in range(2))
        weight = weight.detach() - 0.03 * torch.autograd.grad(loss, weight)[0]
        weight = weight / weight.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(got, weight)


@pytest.mark.parametrize("name", ["linear-probe", "cosine-classifier", "imprinting"])
def test_meta_gradients_go_through_the_fit(name):
    learner = build(name, tiny()).double()
    learner.meta_step(TASKS)
    weight = learner.embedding.convs[3].weight
    got, nudge = weight.grad[0, 0, 0, 0].item(), 1e-5
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0, 0, 0] += sign * nudge
            losses.append(learner.meta_step(TASKS)["loss"])
            weight[0, 0, 0, 0] -= sign * nudge
    assert got == pytest.approx((losses[0] - losses[1]) / (2 * nudge), rel=1e-4)


# -- fine-tuning ------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["cosine", "linear"])
@pytest.mark.parametrize("tuned", ["full", "norm", "lora:2"])
def test_fine_tuning_is_torch_adam_on_each_task_alone(classifier, tuned):
    learner = FineTune(
        set_trainable(tiny(), tuned, 8),
        inner_lr=0.01,
        steps=6,
        head_lr=0.05,
        head_steps=3,
        decay=0.1,
        thaw=0.5,
        classifier=classifier,
        scale=5,
    ).double()
    got = learner.logits(TASKS)
    for task in range(3):
        want = tuned_by_torch(learner, *(t[task] for t in (TASKS.support, TASKS.support_y)))
        torch.testing.assert_close(got[task], want(TASKS.query[task]), rtol=1e-6, atol=1e-7)


def tuned_by_torch(learner: FineTune, images: Tensor, labels: Tensor):
    """The scores of a network and a head trained by torch's own optimiser."""
    net = copy.deepcopy(learner.embedding)
    features = net(images).detach()
    unit = F.normalize(features, dim=-1)
    mean = features.mean(0)  # a linear head moves as one of standardised features does
    size = torch.hypot((features - mean).abs().sum(1).mean(), 1e-4 * mean.abs().sum()) / 50
    if learner.classifier == "linear":
        weight, bias = (torch.zeros(3, n, dtype=torch.float64).squeeze(-1) for n in (8, 1))
        head = [weight.requires_grad_(), bias.requires_grad_()]
    else:
        means = torch.stack([unit[labels == k].mean(0) for k in range(3)])
        head = [F.normalize(means, dim=-1).requires_grad_()]

    def scores(photos: Tensor) -> Tensor:
        if learner.classifier == "linear":
            return F.linear((net(photos) - mean) / size, *head)
        return 5 * F.cosine_similarity(net(photos)[:, None], head[0], dim=-1)

    groups = [{"params": head, "lr": 0.05}]
    layers = []  # of weights that learn, the last layer first
    for depth, i in zip((0, 1 / 3, 2 / 3, 1), (3, 2, 1, 0), strict=True):
        parts = [*net.convs[i].parameters(), *net.norms[i].parameters()]
        layers.append((depth, [p for p in parts if p.requires_grad]))
        groups.append({"params": layers[-1][1], "lr": 0.01 * 0.1**depth})
    adam = torch.optim.Adam(groups)
    for step in range(-3, 6):
        adam.zero_grad()
        F.cross_entropy(scores(images), labels).backward()
        for depth, parameters in layers:
            if step < 0 or step < depth * 0.5 * 6:
                for p in parameters:
                    p.grad = None  # Adam leaves out what has none
        adam.step()
    return scores


def test_depth_is_the_order_in_which_layers_run_whatever_the_network():
    net = Backbone("resnet18", "pinned")
    learner = FineTune(set_trainable(net, "lora:2", 512))
    with learner._order() as ran, torch.no_grad():
        learner.embed(learner.theta(), torch.rand(1, 1, 3, 32, 32))
    depths = learner._depths(ran)
    assert set(depths) == set(learner.theta())
    assert depths["embedding.net.conv1.parametrizations.weight.original"] == 1
    assert depths["embedding.net.conv1.parametrizations.weight.0.up"] == 1
    assert 0 < depths["embedding.net.layer4.0.conv1.parametrizations.weight.0.up"] < 0.3
    assert min(depths.values()) == 0 and max(depths.values()) == 1
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_the_head_alone_adapts_where_there_are_no_other_steps():
    learner = FineTune(tiny(), steps=0).double()
    theta = learner.theta()
    state = learner.fit(theta, TASKS.support, TASKS.support_y, 3)["theta"]
    assert all(state[n] is w for n, w in theta.items())


def test_the_outer_step_of_fine_tuning_is_that_of_prototypes_by_cosine():
    learner = FineTune(tiny()).double()
    twin = Prototypical(tiny(), distance="cosine").double()
    assert learner.meta_step(TASKS) == pytest.approx(twin.meta_step(TASKS))
    for mine, other in zip(learner.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_options_that_make_no_sense_are_refused():
    for call, message in (
        (lambda: FineTune(tiny(), classifier="mlp"), "choose 'cosine' or 'linear'"),
        (lambda: FineTune(tiny(), decay=0.0), "decay=0.0"),
        (lambda: FineTune(tiny(), thaw=2.0), "thaw=2.0"),
        (lambda: LinearProbe(tiny(), strength=0.0), "strength=0.0 must be positive"),
        (lambda: build("finetune", tiny(), tune="lora:x"), "tune='lora:x': choose one of"),
        (lambda: build("finetune", tiny(), tune="bottleneck"), "Conv4 does not say: give features"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# -- frozen weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", OURS)
def test_frozen_weights_are_shared_untouched_and_without_gradient(name, how):
    learner = shaken(build(name, tiny(), tune=how))
    learner.begin(patterns(8, 6, 16))  # the people of TASKS
    frozen = {n for n, p in learner.named_parameters() if not p.requires_grad}
    assert frozen
    before = {n: p.detach().clone() for n, p in learner.named_parameters()}
    learner.meta_step(TASKS)
    for n, p in learner.named_parameters():
        assert torch.equal(p, before[n])
        if n in frozen:
            assert p.grad is None
    if how != "none":
        assert max(p.grad.abs().max() for p in learner.parameters() if p.grad is not None) > 0

    theta = learner.theta()
    state = learner.fit(theta, TASKS.support, TASKS.support_y, 3)["theta"]
    for n, w in theta.items():
        if n in frozen:
            assert state[n].data_ptr() == w.data_ptr() and state[n].shape == w.shape, n
            assert torch.equal(state[n], before[n])
        elif not isinstance(learner, FeatureLearner):
            assert state[n].shape == (3, *w.shape)
            assert not torch.equal(state[n][0], state[n][1]), n


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", OURS)
def test_with_frozen_weights_a_batch_of_tasks_is_the_tasks_one_by_one(name, how):
    learner = shaken(build(name, tiny(), tune=how)).eval()
    logits = learner.logits(TASKS).detach()
    for task in range(3):
        adapted = learner.adapt(TASKS.support[task], TASKS.support_y[task])
        assert relative_error(adapted(TASKS.query[task]), logits[task]) < 1e-8


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "options", [{}, {"learn_rates": "layer"}, {"learn_rates": "weight"}], ids=str
)
def test_maml_by_sweep_has_the_same_gradient_with_frozen_weights(how, options):
    found = []
    for memory in ("full", "sweep"):
        torch.manual_seed(0)  # low-rank changes start at random
        learner = shaken(build("maml", tiny(), tune=how, memory=memory, inner_lr=0.1, **options))
        learner.meta_step(TASKS)
        found.append({n: p.grad for n, p in learner.named_parameters() if p.grad is not None})
    assert set(found[0]) == set(found[1])
    for n in found[0]:
        torch.testing.assert_close(found[1][n], found[0][n], rtol=1e-8, atol=1e-12)


def test_maml_of_low_rank_changes_against_finite_differences():
    learner = shaken(build("maml", tiny(), tune="lora:2", inner_lr=0.5, inner_steps=2))
    learner.meta_step(TASKS)
    found = [(p, p.grad.flatten()[0].item()) for p in learner.parameters() if p.requires_grad]
    nudge = 1e-5
    for weight, got in found:
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[0] += sign * nudge
                losses.append(learner.meta_step(TASKS)["loss"])
                weight.view(-1)[0] -= sign * nudge
        assert got == pytest.approx((losses[0] - losses[1]) / (2 * nudge), rel=1e-4, abs=1e-8)


@needs_learn2learn
def test_learn2learn_refuses_frozen_weights_rather_than_adapt_them():
    with pytest.raises(ValueError, match=r"convs\.0\.weight is frozen: use maml"):
        build("l2l-maml", tiny(), tune="norm")


def test_a_bottleneck_learns_behind_a_network_that_says_its_length():
    net = MobileFaceNet(image_size=(32, 32), features=16, norm="pinned")
    images = torch.rand(2, 3, 32, 32)
    want = net(images)
    learner = build("finetune", net, tune="bottleneck:4")
    torch.testing.assert_close(learner.embedding(images), want)
    assert count_trainable(learner) == 16 * 4 + 4 + 4 * 16 + 16
    labels = torch.tensor([0, 1])
    state = learner.fit(learner.theta(), images[None], labels[None], 2)["theta"]
    assert not torch.equal(state["embedding.1.up.weight"][0], learner.embedding[1].up.weight)


def shaken(learner: MetaLearner) -> MetaLearner:
    """In float64, every weight somewhere else: low-rank changes are no longer zero."""
    learner.double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in learner.parameters():
            p += 0.1 * torch.randn(p.shape, generator=random, dtype=p.dtype)
    return learner


# -- CORAL ------------------------------------------------------------------------------------


def test_coral_gives_the_target_its_mean_and_covariance():
    random = np.random.default_rng(0)
    source, target = (
        torch.from_numpy(random.normal(size=(n, 5)) @ random.normal(size=(5, 5)) + k)
        for n, k in ((60, 3), (40, -1))
    )
    got = align_covariance(source, target, ridge=0)
    torch.testing.assert_close(torch.cov(got.T), torch.cov(target.T))
    torch.testing.assert_close(got.mean(0), target.mean(0))
    assert align_covariance(source.float(), target.float()).dtype == torch.float32


def test_coral_with_a_ridge_is_the_papers_formula():
    random = np.random.default_rng(1)
    source, target = random.normal(size=(4, 6)), 2 * random.normal(size=(9, 6))  # fewer than D
    spread = [np.cov(x.T) + 0.1 * np.trace(np.cov(x.T)) / 6 * np.eye(6) for x in (source, target)]
    whiten = scipy.linalg.inv(scipy.linalg.sqrtm(spread[0]))
    want = (source - source.mean(0)) @ whiten @ scipy.linalg.sqrtm(spread[1]) + target.mean(0)
    got = align_covariance(torch.from_numpy(source), torch.from_numpy(target), ridge=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


def test_coral_refuses_what_has_no_covariance():
    for source, target, message in (
        (torch.rand(4, 3), torch.rand(4, 2), r"\[n, D\] and \[m, D\], got \[4, 3\] and \[4, 2\]"),
        (torch.rand(1, 3), torch.rand(4, 3), "two photographs"),
    ):
        with pytest.raises(ValueError, match=message):
            align_covariance(source, target)
    with pytest.raises(ValueError, match="no spread in some direction: give ridge"):
        align_covariance(torch.rand(3, 8), torch.rand(20, 8), ridge=0)
