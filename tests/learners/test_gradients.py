"""Meta-gradients in float64: against finite differences, and against loops written anew here."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import few_tasks, flat_gradient, relative_error, tiny
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from metaface import Episodes, nets
from metaface.learners import ANIL, MAML, MetaLearner, Prototypical, Reptile
from metaface.learners.base import task_loss

NETS = {
    "conv4-group": lambda: tiny("group"),
    "conv4-batch": lambda: tiny("batch"),
    "conv4-frozen": lambda: tiny("frozen"),
    "conv4-stride": lambda: nets.Conv4(3, 8, "batch", "stride"),
    "resnet12": lambda: nets.ResNet12(3, (4, 8, 8, 8)),
    "mobilefacenet": lambda: nets.MobileFaceNet(3, (16, 16), features=8, norm="frozen"),
}
every_net = pytest.mark.parametrize(
    "net",  # a depthwise network takes half a minute of small convolutions in float64
    [pytest.param(n, marks=pytest.mark.slow) if n == "mobilefacenet" else n for n in NETS],
)
TASKS = few_tasks(3, ways=3, shots=2, queries=2)


def embedding(net: str = "conv4-group") -> nn.Module:
    torch.manual_seed(0)
    module = NETS[net]().double()
    for parameter in module.parameters():  # off the special points: gamma 1, beta 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module


def maml(module: nn.Module, inner_lr: float = 0.1, **options) -> MAML:
    """Three inner steps, the head at the rate of the body unless ``head_lr`` says otherwise."""
    return MAML(module, inner_lr, 3, **{"head_lr": None, **options})


def meta_gradient(learner: MetaLearner, tasks: Episodes = TASKS) -> Tensor:
    learner.meta_step(tasks)
    return flat_gradient(learner)


def assert_matches_finite_differences(learner: MetaLearner, step: float = 1e-6) -> None:
    """The meta-gradient, along random directions, against central differences of the query loss."""
    gradient = meta_gradient(learner)
    start = nn.utils.parameters_to_vector(learner.parameters()).detach()

    def loss(weights: Tensor) -> float:
        nn.utils.vector_to_parameters(weights, learner.parameters())
        return float(task_loss(learner.logits(TASKS), TASKS.query_y).detach())

    directions = torch.randn(5, len(start), dtype=torch.float64)
    directions[0] = gradient  # the one that matters most
    directions = F.normalize(directions)
    numeric = torch.tensor(
        [(loss(start + step * d) - loss(start - step * d)) / (2 * step) for d in directions],
        dtype=torch.float64,
    )
    assert float((numeric - directions @ gradient).abs().max() / gradient.norm()) < 1e-6


def looped_maml(
    module: nn.Module, tasks: Episodes, lr: float, steps: int, *, second_order: bool = True
) -> tuple[Tensor, Tensor]:
    """Query logits ``[B, Q, N]`` and the meta-gradient, by one plain autograd loop a task."""
    names = [name for name, _ in module.named_parameters()]
    theta = list(module.parameters())
    logits, gradients = [], []
    for support, labels, query, query_y in zip(
        tasks.support, tasks.support_y, tasks.query, tasks.query_y, strict=True
    ):

        def forward(weights: list[Tensor], images: Tensor) -> Tensor:
            features = functional_call(module, dict(zip(names, weights, strict=False)), (images,))
            return features @ weights[-2].T + weights[-1]

        width = module(support[:2]).shape[-1]
        head = [
            torch.zeros(tasks.ways, width, dtype=torch.float64, requires_grad=True),
            torch.zeros(tasks.ways, dtype=torch.float64, requires_grad=True),
        ]
        fast = [*theta, *head]
        for _ in range(steps):
            loss = F.cross_entropy(forward(fast, support), labels)
            step = torch.autograd.grad(loss, fast, create_graph=second_order)
            fast = [w - lr * g for w, g in zip(fast, step, strict=True)]
            if not second_order:
                fast = [w.detach().requires_grad_() for w in fast]
        scores = forward(fast, query)
        by = theta if second_order else fast[:-2]
        outer = torch.autograd.grad(F.cross_entropy(scores, query_y), by)
        logits.append(scores.detach())
        gradients.append(torch.cat([g.flatten() for g in outer]))
    return torch.stack(logits), torch.stack(gradients).mean(0)


@every_net
def test_maml_second_order(net):
    # deep leaky networks turn corners within a finite difference at larger steps
    deep = net in ("resnet12", "mobilefacenet")
    learner = maml(embedding(net), 0.01 if deep else 0.1)
    assert_matches_finite_differences(learner, 1e-8 if net == "mobilefacenet" else 1e-6)


@every_net
def test_maml_by_the_sweep_is_that_by_the_full_graph(net):
    module = embedding(net)
    full = meta_gradient(maml(module))
    assert relative_error(meta_gradient(maml(module, memory="sweep")), full) < 1e-9


@pytest.mark.parametrize("rates", [None, "weight", "layer"])
@pytest.mark.parametrize("rows", [None, 3], ids=["zero", "learned"])
def test_the_sweep_by_every_head_and_rate(rates, rows):
    given = {"head_lr": 0.5, "learn_rates": rates}
    gradients = []
    for memory in ("full", "sweep"):
        module = embedding()
        head = None if rows is None else nn.Linear(8, rows)
        if head is not None:
            nn.init.normal_(head.weight, std=0.1)
        learner = maml(module, memory=memory, head=head, **given).double()
        gradients.append(meta_gradient(learner))
        assert memory == "full" or all(p.grad is not None for p in learner.parameters())
    assert relative_error(gradients[1], gradients[0]) < 1e-9
    assert_matches_finite_differences(learner, 1e-8)


def test_maml_with_the_query_loss_after_every_step():
    """At first every step counts alike; from outer step ``multi_step`` on, the last one alone."""
    module = embedding()
    steps = [maml(module), MAML(module, 0.1, 2, head_lr=None), MAML(module, 0.1, 1, head_lr=None)]
    alone = [meta_gradient(learner) for learner in steps]
    learner = maml(module, multi_step=2).double()
    assert relative_error(meta_gradient(learner), torch.stack(alone).mean(0)) < 1e-9
    half = 2 / 3 * alone[0] + alone[1] / 6 + alone[2] / 6
    assert relative_error(meta_gradient(learner), half) < 1e-9
    assert relative_error(meta_gradient(learner), alone[0]) < 1e-9


@every_net
@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
def test_maml_is_the_explicit_loop(net, first_order):
    module = embedding(net)
    learner = MAML(module, inner_lr=0.1, inner_steps=3, head_lr=None, first_order=first_order)
    logits, gradient = looped_maml(module, TASKS, 0.1, 3, second_order=not first_order)
    assert relative_error(learner.logits(TASKS).detach(), logits) < 1e-10
    assert relative_error(meta_gradient(learner), gradient) < 1e-10


def test_first_order_is_another_gradient_than_second_order():
    first = meta_gradient(maml(embedding(), head_lr=None, first_order=True))
    second = meta_gradient(maml(embedding(), head_lr=None))
    assert relative_error(first, second) > 1e-2


def test_anil():
    assert_matches_finite_differences(ANIL(embedding()))


@pytest.mark.parametrize("rates", ["weight", "layer"])
def test_meta_sgd_and_its_rates(rates):
    learner = maml(embedding(), head_lr=0.5, learn_rates=rates).double()
    assert_matches_finite_differences(learner, 1e-8)
    assert learner.rates is not None
    assert all(rate.grad.abs().max() > 0 for rate in learner.rates.values())


def test_meta_sgd_starts_as_maml():
    learned = maml(embedding(), head_lr=0.5, learn_rates="weight").double()
    plain = maml(embedding(), head_lr=0.5)
    torch.testing.assert_close(learned.logits(TASKS), plain.logits(TASKS))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_prototypical(distance):
    assert_matches_finite_differences(Prototypical(embedding(), distance))


def test_prototypical_is_the_squared_distance_to_the_mean():
    learner = Prototypical(embedding())
    photos, labels, queries = TASKS.support[0], TASKS.support_y[0], TASKS.query[0]
    features = learner.embedding(photos)
    means = torch.stack([features[labels == label].mean(0) for label in range(3)])
    want = -torch.cdist(learner.embedding(queries), means).square()
    got = learner.adapt(photos, labels)(queries)
    torch.testing.assert_close(got.softmax(-1), want.softmax(-1))
    torch.testing.assert_close(got - got[:, :1], want - want[:, :1])


def test_prototypical_cosine():
    learner = Prototypical(embedding(), "cosine", scale=7.0)
    photos, labels, queries = TASKS.support[0], TASKS.support_y[0], TASKS.query[0]
    features = F.normalize(learner.embedding(photos), dim=-1)
    means = torch.stack([features[labels == label].mean(0) for label in range(3)])
    want = 7 * F.cosine_similarity(learner.embedding(queries)[:, None], means, dim=-1)
    torch.testing.assert_close(learner.adapt(photos, labels)(queries), want.detach())


def looped_reptile(module: nn.Module, optimizer, steps: list[Tensor]) -> list[list[Tensor]]:
    """The embedding's weights after training on each task with a torch optimiser."""
    trained = []
    together = torch.cat([TASKS.support, TASKS.query], 1)
    for images, labels in zip(
        together, torch.cat([TASKS.support_y, TASKS.query_y], 1), strict=True
    ):
        net = copy.deepcopy(module)
        head = nn.Linear(net(images[:2]).shape[-1], TASKS.ways, dtype=torch.float64)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        inner = optimizer([*net.parameters(), *head.parameters()])
        for rows in steps:
            inner.zero_grad()
            F.cross_entropy(head(net(images[rows])), labels[rows]).backward()
            inner.step()
        trained.append([p.detach() for p in net.parameters()])
    return trained


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("inner", ["adam", "sgd"])
def test_reptile_moves_by_eps_to_the_mean_of_the_trained_weights(inner, batch):
    rate, eps = (1e-2, 0.7) if inner == "adam" else (0.3, 0.7)
    module = embedding()
    before = [p.detach().clone() for p in module.parameters()]
    learner = Reptile(module, rate, 5, head_lr=None, inner_batch=batch, inner_optimizer=inner)
    steps = learner._batches(12, 5)
    optimizer = {
        "adam": lambda weights: torch.optim.Adam(weights, rate, betas=(0.0, 0.999)),
        "sgd": lambda weights: torch.optim.SGD(weights, rate),
    }[inner]
    trained = looped_reptile(module, optimizer, steps)
    learner.meta_step(TASKS)
    torch.optim.SGD(learner.parameters(), lr=eps).step()
    for i, (now, then) in enumerate(zip(module.parameters(), before, strict=True)):
        mean = torch.stack([weights[i] for weights in trained]).mean(0)
        torch.testing.assert_close(now.detach(), then + eps * (mean - then), rtol=1e-9, atol=1e-11)


def test_reptile_inner_batches_are_shuffled_passes_over_the_support():
    learner = Reptile(tiny(), inner_batch=4)
    batches = learner._batches(10, 5)
    assert [len(rows) for rows in batches] == [4] * 5
    assert sorted(torch.cat(batches).tolist()) == sorted([*range(10)] * 2)
    assert [rows.tolist() for rows in learner._batches(4, 2)] == [[0, 1, 2, 3]] * 2


def plain_conv4(weights: dict[str, Tensor], x: Tensor, norm) -> Tensor:
    """Conv4 as everybody writes it, by torch's own calls."""
    x = x * 2 - 1
    for i in range(4):
        x = F.conv2d(x, weights[f"convs.{i}.weight"], padding=1)
        x = F.relu(norm(x, weights[f"norms.{i}.weight"], weights[f"norms.{i}.bias"]))
        x = F.max_pool2d(x, 2)
    return x.flatten(1)


NORMS = {
    "batch": lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
    "group": lambda x, g, b: F.group_norm(x, 8, g, b),
}


def functional_maml(module: nn.Module, norm: str, vectorised: bool) -> Tensor:
    """The meta-gradient by torch.func, over all tasks at once or one by one; three steps of 0.1."""

    def query_loss(theta, support, labels, query, query_y):
        def loss(weights, images, labels):
            features = plain_conv4(weights, images, NORMS[norm])
            return F.cross_entropy(features @ weights["w"].T + weights["b"], labels)

        width = module(support[:2].detach()).shape[-1]
        weights = theta | {"w": theta_zeros(3, width), "b": theta_zeros(3)}
        for _ in range(3):
            slopes = grad(loss)(weights, support, labels)
            weights = {n: w - 0.1 * slopes[n] for n, w in weights.items()}
        return loss(weights, query, query_y)

    def theta_zeros(*shape):
        return torch.zeros(*shape, dtype=torch.float64)

    def total(theta):
        given = TASKS.support, TASKS.support_y, TASKS.query, TASKS.query_y
        if vectorised:
            return vmap(query_loss, (None, 0, 0, 0, 0))(theta, *given).mean()
        tasks = zip(*given, strict=True)
        return torch.stack([query_loss(theta, *task) for task in tasks]).mean()

    theta = {n: p.detach().requires_grad_() for n, p in module.named_parameters()}
    return torch.cat([g.flatten() for g in torch.autograd.grad(total(theta), list(theta.values()))])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("memory", ["full", "sweep"])
def test_maml_is_the_plain_network_by_torchs_own_calls(norm, memory):
    module = embedding(f"conv4-{norm}")
    want = functional_maml(module, norm, vectorised=False)
    got = meta_gradient(MAML(module, 0.1, 3, head_lr=None, memory=memory))
    assert relative_error(got, want) < 1e-9


def test_plain_vmap_with_batch_norm_gives_a_wrong_meta_gradient():
    """Why learners here do not differentiate inside vmap (pytorch/functorch#534)."""
    module = embedding("conv4-batch")
    want = functional_maml(module, "batch", vectorised=False)
    error = relative_error(functional_maml(module, "batch", vectorised=True), want)
    if error < 1e-9:
        pytest.skip("this torch differentiates the fused call right: functorch#534 is fixed")
    assert error > 1e-4
