"""Heads in closed form, comparisons, plain classifiers and implicit gradients, by oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import few_tasks, flat_gradient, patterns, relative_error, tiny, train
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metaface import EpisodeSampler, evaluate
from metaface.learners import (
    BOIL,
    IMAML,
    R2D2,
    LaplacianShot,
    Matching,
    MetaLearner,
    PeopleClassifier,
    Prototypical,
    Relation,
)
from metaface.learners.base import task_loss
from metaface.learners.imaml import solve

TASKS = few_tasks(2)
GENERATOR = torch.Generator().manual_seed(0)


def embedding(width: int = 8) -> nn.Module:
    net = tiny(width=width).double()
    with torch.no_grad():
        for parameter in net.parameters():  # off the special points: gamma 1, beta 0
            noise = torch.randn(parameter.shape, generator=GENERATOR, dtype=torch.float64)
            parameter += 0.05 * noise
    return net


def features(tasks: int = 2, ways: int = 3, shots: int = 2, length: int = 7) -> tuple[Tensor, ...]:
    """Of people who overlap, and the labels of the first ``shots`` of each; and queries."""
    people = torch.randn(tasks, ways, 1, length, generator=GENERATOR, dtype=torch.float64)
    photos = torch.randn(tasks, ways, shots + 2, length, generator=GENERATOR, dtype=torch.float64)
    both = 1 + people + photos
    labels = torch.arange(ways).repeat_interleave(shots).expand(tasks, -1)
    return both[:, :, :shots].flatten(1, 2), labels, both[:, :, shots:].flatten(1, 2)


@pytest.mark.parametrize(
    "make",
    [
        R2D2,
        Matching,
        lambda net: BOIL(net, 0.01, 2),
        lambda net: BOIL(net, 0.1, 2, head=nn.Linear(8, 3, dtype=torch.float64)),
    ],
    ids=["r2d2", "matching", "boil", "boil-head"],
)
def test_meta_gradients_are_finite_differences(make):
    learner = make(embedding()).double()
    learner.meta_step(TASKS)
    gradient = flat_gradient(learner)
    start = nn.utils.parameters_to_vector(learner.parameters()).detach()

    def loss(weights: Tensor) -> float:
        nn.utils.vector_to_parameters(weights, learner.parameters())
        return float(task_loss(learner.logits(TASKS), TASKS.query_y).detach())

    directions = torch.randn(4, len(start), generator=GENERATOR, dtype=torch.float64)
    directions[0] = gradient
    for direction in F.normalize(directions):
        numeric = (loss(start + 1e-6 * direction) - loss(start - 1e-6 * direction)) / 2e-6
        assert abs(numeric - float(direction @ gradient)) < 1e-6 * float(gradient.norm())


# --- heads


@pytest.mark.parametrize("shots, length", [(1, 9), (5, 4)])  # fewer and more photographs than D
def test_r2d2_is_ridge_regression(shots, length):
    x, y, _ = features(shots=shots, length=length)
    learner = R2D2(nn.Identity(), strength=0.7).double()
    got = learner.fit_head(x, y, 3)["weight"].detach() / 10  # its scale
    for task in range(2):
        a, b = x[task].numpy(), np.eye(3)[y[task]]
        wanted = np.linalg.solve(a.T @ a + 0.7 * np.eye(length), a.T @ b)
        assert np.allclose(got[task].numpy(), wanted, atol=1e-10)


def test_matching_is_the_vote_of_the_support():
    x, y, queries = features()
    learner = Matching(nn.Identity(), scale=3.0)
    got = learner.score_head(learner.fit_head(x, y, 3), queries).exp()
    for task, query in ((0, 1), (1, 4)):
        cosines = [3 * float(F.cosine_similarity(queries[task, query], s, 0)) for s in x[task]]
        attention = np.exp(cosines) / np.exp(cosines).sum()
        wanted = [attention[y[task].numpy() == person].sum() for person in range(3)]
        assert np.allclose(got[task, query].numpy(), wanted)


def test_relation_descends_the_squared_error_of_its_scores():
    learner = Relation(embedding()).double()
    learner.meta_step(TASKS)
    got = flat_gradient(learner)
    learner.zero_grad()
    truth = F.one_hot(TASKS.query_y, 3).double()
    (3 * F.mse_loss(learner.logits(TASKS), truth)).backward()  # a sum over people
    assert relative_error(got, flat_gradient(learner)) < 1e-12


def centred(state: dict[str, Tensor], queries: Tensor, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit queries and prototypes of a task, less the mean of the prototypes."""
    prototypes = state["prototypes"][task]
    middle = prototypes.mean(0)
    unit = F.normalize(queries[task], dim=-1) - middle
    return F.normalize(unit, dim=-1).numpy(), F.normalize(prototypes - middle, dim=-1).numpy()


def test_laplacian_is_the_paper_s_update_in_a_loop():
    x, y, queries = features(ways=3, shots=2)
    learner = LaplacianShot(nn.Identity(), strength=0.8, neighbours=2, steps=7, scale=4.0).eval()
    state = learner.fit_head(x, y, 3)
    got = learner.score_head(state, queries).softmax(-1).numpy()
    for task in range(2):
        unit, prototypes = centred(state, queries, task)
        near = np.zeros((6, 6))
        for i in range(6):
            others = sorted(set(range(6)) - {i}, key=lambda j: -(unit[i] @ unit[j]))
            for j in others[:2]:
                near[i, j] = near[j, i] = 1
        scores = 4.0 * unit @ prototypes.T
        y_now = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        for _ in range(7):
            of_neighbours = np.stack([y_now[near[i] > 0].mean(0) for i in range(6)])
            now = np.exp(scores + 0.8 * of_neighbours)
            y_now = now / now.sum(1, keepdims=True)
        assert np.allclose(got[task], y_now)


def test_laplacian_alone_or_without_strength_is_the_nearest_centred_prototype():
    x, y, queries = features()
    for learner, some in (
        (LaplacianShot(nn.Identity(), strength=0.0), slice(None)),
        (LaplacianShot(nn.Identity()), slice(1)),
    ):
        state = learner.eval().fit_head(x, y, 3)
        got = learner.score_head(state, queries[:, some])
        for task in range(2):
            unit, prototypes = centred(state, queries, task)
            assert np.allclose(got[task].numpy(), 10 * unit[some] @ prototypes.T)


def test_laplacian_is_trained_as_prototypical_networks_are():
    x, y, queries = features()
    plain, learner = Prototypical(nn.Identity(), "cosine"), LaplacianShot(nn.Identity())
    wanted = plain.score_head(plain.fit_head(x, y, 3), queries)
    assert torch.equal(learner.score_head(learner.fit_head(x, y, 3), queries), wanted)


def test_laplacian_says_that_it_is_transductive_and_is_better_where_queries_come_in_clusters():
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(50, 5, 1, 16, generator=generator)
    photos = people + 0.8 * torch.randn(50, 5, 16, 16, generator=generator)
    labels, truth = (torch.arange(5).repeat_interleave(k).expand(50, -1) for k in (1, 15))
    accuracy = {}
    for strength in (0.0, 3.0):
        learner = LaplacianShot(nn.Identity(), strength).eval()
        state = learner.fit_head(photos[:, :, 0], labels, 5)
        scores = learner.score_head(state, photos[:, :, 1:].flatten(1, 2))
        accuracy[strength] = float((scores.argmax(-1) == truth).double().mean())
    assert 0.6 < accuracy[0.0] < accuracy[3.0] - 0.03
    result = evaluate(LaplacianShot(tiny()), patterns(6), ways=3, episodes=5, progress=False)
    assert result.transductive


# --- the classifier of the training people


def explicit_loss(learner: PeopleClassifier, rows: Tensor, margin: float | None) -> Tensor:
    """Of TASKS, photograph by photograph; ``rows`` ``[B, n]`` of both sides."""
    total = torch.zeros((), dtype=torch.float64)
    images = torch.cat([TASKS.support, TASKS.query], 1)
    for task in range(len(images)):
        for image, row in zip(images[task], rows[task], strict=True):
            feature = learner.embedding(image[None])[0]
            if margin is None:
                logits = learner.weight @ feature
            else:
                cosines = [F.cosine_similarity(feature, w, 0) for w in learner.weight]
                angle = torch.acos(cosines[row]) + margin
                cosines[row] = torch.cos(angle)
                logits = learner.scale * torch.stack(cosines)
            total = total - logits.log_softmax(0)[row] / images.shape[1]
    return total / len(images)


@pytest.mark.parametrize("margin", [None, 0.3])
def test_the_classifier_descends_the_loss_of_every_photograph(margin):
    learner = PeopleClassifier(embedding(), margin).double()
    learner.meta_step(TASKS)
    assert learner.people.tolist() == sorted(set(TASKS.people.flatten().tolist()))
    got = flat_gradient(learner)
    labels = torch.cat([TASKS.support_y, TASKS.query_y], 1)
    places = {int(person): i for i, person in enumerate(learner.people)}
    rows = TASKS.people.gather(1, labels).apply_(places.__getitem__)
    learner.zero_grad()
    explicit_loss(learner, rows, margin).backward()
    assert relative_error(got, flat_gradient(learner)) < 1e-9


def test_a_margin_beyond_the_opposite_direction_does_not_help():
    learner = PeopleClassifier(nn.Identity(), margin=1.0, scale=1.0)
    learner.weight.data = torch.eye(2)
    angles = torch.linspace(0.01, math.pi - 0.01, 50)
    x = torch.stack([angles.cos(), angles.sin()], -1)[None]
    true = learner._name(x, torch.zeros(1, 50, dtype=torch.long))[0, :, 0]
    assert (true.diff() < 0).all()


def test_a_classifier_has_a_row_for_each_training_person_and_refuses_others():
    faces = patterns(10, 6)
    some, others = faces.of_people(range(2, 8)), faces.of_people(range(8))
    learner = PeopleClassifier(tiny())
    train(learner, some, ways=4, iterations=2, progress=False, device="cpu")
    assert learner.people.tolist() == list(range(2, 8)) and learner.weight.shape == (6, 8)
    with pytest.raises(ValueError, match="rows for 6 training people, and not for those of ids 0"):
        train(learner, others, ways=4, iterations=2, progress=False, device="cpu")


def test_an_optimiser_that_was_made_first_trains_the_rows():
    faces = patterns(6)
    learner = PeopleClassifier(tiny())
    optimiser = torch.optim.Adam(learner.parameters(), 1e-2)
    sampler = EpisodeSampler(faces, ways=6, shots=1, queries=1)
    learner.meta_step(sampler.batch(0))
    before = learner.weight.detach().clone()
    optimiser.step()
    assert not torch.equal(learner.weight, before)


def test_simpleshot_centres_by_the_training_people():
    faces = patterns(12)
    learner = PeopleClassifier(tiny(), centred=True)
    train(learner, faces, ways=6, iterations=3, progress=False, device="cpu")
    sampler = EpisodeSampler(faces, ways=6, shots=1, queries=1, augment=None)
    images = [sampler.batch(k).support[0] for k in range(3)]
    learner.refresh(iter(images))
    with torch.no_grad():
        wanted = torch.cat([learner.embedding(i) for i in images]).mean(0)
    assert torch.allclose(learner.centre, wanted, atol=1e-6)
    scores = learner.adapt(images[0], torch.arange(6))(images[1])
    placed = [F.normalize(learner.embedding(i) - wanted, dim=-1) for i in images[:2]]
    assert torch.allclose(scores, 10 * placed[1] @ placed[0].mT, atol=1e-4)


def test_one_that_was_trained_goes_on(tmp_path):
    def go_on(iterations: int, resume: bool) -> PeopleClassifier:
        learner = PeopleClassifier(tiny(), centred=True)
        given = {"out": tmp_path, "resume": resume, "device": "cpu", "progress": False}
        train(learner, patterns(8), ways=4, images=iterations * 8, **given)
        return learner

    first, again = go_on(3, False), go_on(3, True)
    assert torch.equal(first.weight, again.weight) and torch.equal(first.centre, again.centre)


# --- in the inner loop


def test_boil_leaves_the_head_and_moves_the_body():
    learner = BOIL(embedding(), 0.1, 2, head=nn.Linear(8, 3, dtype=torch.float64)).double()
    state = learner.fit(learner.theta(), TASKS.support, TASKS.support_y, 3)["theta"]
    assert torch.equal(state["head.weight"], learner.head.weight)
    moved = state["embedding.convs.0.weight"]
    assert moved.ndim == 5 and not torch.equal(moved[0], learner.embedding.convs[0].weight)


def test_boil_first_order_is_the_query_s_slope_where_the_loop_arrives():
    learner = BOIL(embedding(), 0.1, 2, head=nn.Linear(8, 3, dtype=torch.float64), first_order=True)
    learner.double().meta_step(TASKS)
    total = None
    for task in range(2):
        body = {n: p.detach().clone() for n, p in learner.embedding.named_parameters()}

        def loss(body: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(
                learner.head(functional_call(learner.embedding, body, (images,))), labels
            )

        for images, labels, lr in (
            *((TASKS.support[task], TASKS.support_y[task], 0.1),) * 2,
            (TASKS.query[task], TASKS.query_y[task], None),
        ):
            body = {n: w.detach().requires_grad_() for n, w in body.items()}
            slopes = torch.autograd.grad(loss(body, images, labels), list(body.values()))
            if lr is not None:
                body = {n: w - lr * g for (n, w), g in zip(body.items(), slopes, strict=True)}
        flat = torch.cat([g.flatten() for g in slopes]) / 2
        total = flat if total is None else total + flat
    got = torch.cat([p.grad.flatten() for p in learner.embedding.parameters()])
    assert relative_error(got, total) < 1e-9


def dense(learner: IMAML, task: int) -> Tensor:
    """The implicit meta-gradient of a task, by its whole Hessian."""
    still, weights, raw = learner._descend(
        learner.theta(), TASKS.support[task][None], TASKS.support_y[task][None], 3
    )
    names, shapes = list(weights), [w.shape for w in weights.values()]
    lengths = [w.numel() for w in weights.values()]

    def loss(flat: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        parts = [p.view(s) for p, s in zip(flat.split(lengths), shapes, strict=True)]
        now = dict(zip(names, parts, strict=True))
        return learner.losses(still | raw(now), images[None], labels[None]).sum()

    flat = torch.cat([w.flatten() for w in weights.values()]).requires_grad_()
    support = TASKS.support[task], TASKS.support_y[task]
    hessian = torch.autograd.functional.hessian(lambda f: loss(f, *support), flat)
    pulls = torch.cat(
        [torch.full((k,), learner._pull(n)) for n, k in zip(names, lengths, strict=True)]
    )
    wanted = torch.autograd.grad(loss(flat, TASKS.query[task], TASKS.query_y[task]), flat)[0]
    found = torch.linalg.solve(hessian + pulls.double().diag(), wanted)
    body = [n for n in names if not n.startswith("head.")]
    return learner.strength * found[: sum(lengths[: len(body)])]


def test_the_implicit_gradient_is_that_of_the_whole_hessian():
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 4), nn.Tanh()).double()
    learner = IMAML(net, 0.05, 5, strength=20.0, head_strength=5.0, solver_steps=250)
    learner.meta_step(TASKS)
    wanted = torch.stack([dense(learner, task) for task in range(2)]).mean(0)
    assert relative_error(flat_gradient(learner), wanted) < 1e-6


def test_conjugate_gradients_solve_each_task_by_itself():
    root = torch.randn(3, 6, 6, generator=GENERATOR, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(6)
    wanted = torch.randn(3, 6, generator=GENERATOR, dtype=torch.float64)
    wanted[1] = 0  # one that has arrived

    def curve(x):
        return {"w": (matrix @ x["w"][..., None])[..., 0]}

    found = solve(curve, {"w": wanted}, 6)["w"]
    assert torch.allclose(found, torch.linalg.solve(matrix, wanted), atol=1e-8)
    matrix[2] = -matrix[2]  # negative curvature: it stays at zero
    assert torch.equal(solve(curve, {"w": wanted}, 6)["w"][2], torch.zeros(6).double())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: R2D2(tiny(), strength=0), "strength=0: must be above 0"),
        (lambda: Relation(tiny(), hidden=0), "hidden=0"),
        (lambda: LaplacianShot(tiny(), neighbours=0), "neighbours=0"),
        (lambda: PeopleClassifier(tiny(), margin=4.0), "below pi, in radians"),
        (lambda: IMAML(tiny(), head_strength=0.0), "head_strength=0.0: must be above 0"),
        (lambda: BOIL(tiny(), inner_lr=math.nan), "inner_lr=nan"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        made: MetaLearner = make()
        assert made
