"""How MetaFace and its peers each do one piece of work; benchmarks/peers.py times them.

Every function of ``SIDES`` takes a case and a device, builds what it needs and returns its work:
``step()`` does it once. The peers are driven as their own examples drive them, in the fastest form
that gives the same result:

- learn2learn 0.2.0: ``examples/vision/maml_omniglot.py``, ``reptile_miniimagenet.py`` (with fresh
  Adam moments for each task, as MetaFace has them, and none of the example's metrics) and
  ``protonet_miniimagenet.py`` (with the fused sampling transform);
- easyfsl 1.5: ``notebooks/episodic_training.ipynb``, ``inference_with_extracted_embeddings.ipynb``;
- TorchOpt 0.7: ``examples/few-shot/maml_omniglot.py`` (``MetaSGD``, task by task; the gradient of
  each task at once, as the others have it, in place of a graph of all 16) and
  ``examples/FuncTorch/maml_omniglot_vmap.py`` (``torchopt.sgd`` under ``vmap`` over the tasks, with
  ``torch.func`` in place of functorch, which torch no longer has). ``MetaSGD`` has no first order:
  the second form is that of the first-order rows;
- JAX: benchmarks/jax_side.py.

learn2learn and easyfsl cannot do several tasks at once with statistics of their own, so they loop
over the tasks of the meta-batch and accumulate the gradient. They sample from float tensors,
converted beforehand; MetaFace from bytes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

import metaface as mf
from metaface.nets.conv import Precision, convolve_in
from metaface.nets.norm import prepare

INNER_LR, REPTILE_LR, OUTER_LR, REPTILE_BATCH = 0.1, 1e-3, 1e-3, 10
PHOTOS = 20  # of each person
EPISODES, EASYFSL_EPISODES = 10_000, 500  # of one evaluation

REMEDIES = {
    "learn2learn": "python tools/build_learn2learn.py (it needs a C compiler)",
    "easyfsl": "python -m pip install 'metaface[peers]', or easyfsl itself",
    "torchopt": "python -m pip install 'metaface[peers]', or torchopt itself",
    "jax": "python -m pip install 'metaface[peers]', or jax and optax",
}
# XLA compiles the unrolled inner loop for longer the longer it is
JAX_STEPS, JAX_SIZE = 5, 28


@dataclass(frozen=True)
class Case:
    """What is done, at which size; the defaults are the reference case."""

    kind: str
    size: int = 28
    channels: int = 1
    ways: int = 5
    steps: int = 5  # of the inner loop
    tasks: int = 16  # the meta-batch
    shots: int = 1
    queries: int = 5
    reptile_batch: int | None = REPTILE_BATCH  # photographs an inner step; None: all
    precision: Precision = "float32"  # of MetaFace's convolutions


@dataclass
class Work:
    """``step()`` does the work once and returns how many tasks that was; ``outcome()`` is what the
    last step came to (a gradient, an accuracy), where sides can be compared. ``compile_s`` is how
    long a compiler took before the first step."""

    step: Callable[[], int]
    outcome: Callable[[], Tensor] | None = None
    compile_s: float | None = None


def missing(peer: str) -> str | None:
    """Why ``peer`` (a key of ``REMEDIES``) cannot run here, with the remedy, or None."""
    try:
        _import(peer)
    except ImportError as error:
        return f"{peer} cannot be imported ({error}): {REMEDIES[peer]}"
    return None


def _import(peer: str) -> Any:
    if peer == "learn2learn":
        import learn2learn

        return learn2learn
    if peer == "torchopt":
        import torchopt

        return torchopt
    if peer == "jax":
        import jax  # noqa: F401  # for a message that names it
        import jax_side

        return jax_side
    import easyfsl.datasets
    import easyfsl.methods
    import easyfsl.samplers
    import easyfsl.utils

    return easyfsl


def takes_part(side: str, case: Case, device: torch.device) -> bool:
    """Whether ``side`` runs ``case`` there, if it is installed."""
    if side != "jax":
        return True
    return case.steps <= JAX_STEPS and case.size <= JAX_SIZE and device.type == "cpu"


def _workers(count: int) -> dict[str, Any]:
    """Options of a data loader."""
    if count == 0:
        return {}
    return {"num_workers": count, "persistent_workers": True, "multiprocessing_context": "fork"}


# -- the same photographs, tasks and networks for all ------------------------------------------


def photographs(size: int, channels: int) -> mf.FaceSet:
    """Noise around a mean picture of each person."""
    people = 1000 if size <= 28 else 100
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(people), PHOTOS)
    shape = (size, size, channels)
    means = rng.integers(80, 176, (people, *shape), dtype=np.int16)
    noise = rng.integers(-80, 80, (len(person), *shape), dtype=np.int16)
    return mf.FaceSet.from_arrays((means[person] + noise).astype(np.uint8), person)


def sampler(case: Case, device: torch.device) -> mf.EpisodeSampler:
    faces = photographs(case.size, case.channels)
    return mf.EpisodeSampler(faces, case.ways, case.shots, case.queries, device=device)


def tasks_in_memory(case: Case, device: torch.device) -> mf.Episodes:
    return sampler(case, device).batch(0, case.tasks).to(torch.get_default_dtype())


def scaled(images: Tensor) -> Tensor:
    """0..1 as MetaFace's Conv4 scales it inside; the plain network takes photographs like that."""
    return (images * 2 - 1).contiguous()


def network(case: Case, device: torch.device) -> tuple[nn.Module, nn.Linear]:
    """MetaFace's Conv4 and a head of N rows, with the same weights in every precision."""
    precision = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    width = 64 * (case.size // 16) ** 2
    body, head = mf.nets.Conv4(case.channels, norm="batch"), nn.Linear(width, case.ways)
    torch.set_default_dtype(precision)
    return body.to(device, precision), head.to(device, precision)


class BatchStatistics(nn.Module):
    """``nn.BatchNorm2d`` without running statistics, by elementary operations.

    Differentiated twice under ``torch.func.vmap``, ``BatchNorm2d`` gives a gradient that is off by
    1e-3 in float64 (torch 2.14 on a CPU); this gives the right one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor) -> Tensor:
        centred = images - images.mean((0, 2, 3), keepdim=True)
        deviation = (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).rsqrt()
        return centred * deviation * self.weight[:, None, None] + self.bias[:, None, None]


def batch_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def plain_network(
    case: Case, device: torch.device, norm: Callable[[int], nn.Module] = batch_norm
) -> tuple[nn.Module, nn.Linear]:
    """The same in plain torch, with the same weights: what a peer's user would write."""
    body, head = network(case, device)
    blocks: list[nn.Module] = []
    for i in range(4):
        convolution = nn.Conv2d(case.channels if i == 0 else 64, 64, 3, padding=1, bias=False)
        blocks += [convolution, norm(64), nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*blocks, nn.Flatten()).to(device)
    with torch.no_grad():
        for mine, same in zip(ordered(plain), ordered(body), strict=True):
            mine.copy_(same)
    return plain, head


def ordered(*modules: nn.Module) -> list[nn.Parameter]:
    """Parameters in an order that both networks share: by number of dimensions, then depth."""
    found = [p for module in modules for p in module.parameters()]
    return sorted(found, key=lambda p: p.ndim)


def gradient(*modules: nn.Module) -> Tensor:
    grads = [p.grad for p in ordered(*modules)]
    return torch.cat([g.detach().flatten() for g in grads if g is not None])


# -- MetaFace ----------------------------------------------------------------------------------


def _metaface_training(
    learner: mf.learners.MetaLearner,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[int], mf.Episodes],
    outcome: Callable[[], Tensor] | None,
    precision: Precision,
) -> Work:
    count = itertools.count()
    prepare(learner)

    def step() -> int:
        episodes = batch(next(count))
        with convolve_in(learner, precision):
            learner.meta_step(episodes)
        optimizer.step()
        return len(episodes)

    return Work(step, outcome)


def metaface_maml(case: Case, device: torch.device, **options: Any) -> Work:
    body, head = network(case, device)
    learner = mf.learners.MAML(body, INNER_LR, case.steps, head_lr=None, head=head, **options)
    optimizer = torch.optim.Adam(learner.parameters(), OUTER_LR)
    tasks = tasks_in_memory(case, device)
    outcome = partial(gradient, body, head)
    return _metaface_training(learner, optimizer, lambda k: tasks, outcome, case.precision)


def metaface_reptile(case: Case, device: torch.device) -> Work:
    body, head = network(case, device)
    learner = mf.learners.Reptile(
        body, REPTILE_LR, case.steps, head_lr=None, head=head, inner_batch=case.reptile_batch
    )
    optimizer = torch.optim.SGD(learner.parameters(), OUTER_LR)
    tasks = tasks_in_memory(case, device)
    outcome = partial(gradient, body, head)
    return _metaface_training(learner, optimizer, lambda k: tasks, outcome, case.precision)


def metaface_prototypical(case: Case, device: torch.device, *, in_memory: bool) -> Work:
    body, _ = network(case, device)
    learner = mf.learners.Prototypical(body)
    optimizer = torch.optim.Adam(learner.parameters(), OUTER_LR)
    if in_memory:
        tasks = tasks_in_memory(case, device)
        outcome = partial(gradient, body)
        return _metaface_training(learner, optimizer, lambda k: tasks, outcome, case.precision)
    draw = partial(sampler(case, device).batch, size=case.tasks)
    return _metaface_training(learner, optimizer, draw, None, case.precision)


def metaface_sampling(case: Case, device: torch.device) -> Work:
    draw, count = sampler(case, device), itertools.count()
    return Work(lambda: len(draw.batch(next(count), case.tasks)))


def metaface_evaluation(case: Case, device: torch.device) -> Work:
    faces = photographs(case.size, case.channels)
    learner = mf.learners.Prototypical(mf.nets.Pixels())
    # it has no parameters: it is evaluated where its buffers are
    learner.register_buffer("empty", torch.empty(0, device=device))
    accuracy = [0.0]

    def step() -> int:
        result = mf.evaluate(
            learner,
            faces,
            ways=case.ways,
            shots=case.shots,
            queries=case.queries,
            episodes=EPISODES,
            progress=False,
        )
        accuracy[0] = result.accuracy
        return EPISODES

    return Work(step, lambda: torch.tensor(accuracy))


# -- learn2learn -------------------------------------------------------------------------------


def learn2learn_maml(case: Case, device: torch.device, *, first_order: bool) -> Work:
    l2l = _import("learn2learn")
    body, head = plain_network(case, device)
    maml = l2l.algorithms.MAML(nn.Sequential(body, head), INNER_LR, first_order=first_order)
    optimizer = torch.optim.Adam(maml.parameters(), OUTER_LR)
    tasks = tasks_in_memory(case, device)
    support, query = scaled(tasks.support), scaled(tasks.query)

    def step() -> int:
        optimizer.zero_grad()
        for i in range(len(tasks)):
            learner = maml.clone()
            for _ in range(case.steps):
                learner.adapt(F.cross_entropy(learner(support[i]), tasks.support_y[i]))
            loss = F.cross_entropy(learner(query[i]), tasks.query_y[i]) / len(tasks)
            loss.backward()
        optimizer.step()
        return len(tasks)

    return Work(step, partial(gradient, body, head))


def learn2learn_reptile(case: Case, device: torch.device) -> Work:
    model = nn.Sequential(*plain_network(case, device))
    optimizer = torch.optim.SGD(model.parameters(), OUTER_LR)
    tasks = tasks_in_memory(case, device)
    images = scaled(torch.cat([tasks.support, tasks.query], 1))  # as MetaFace's Reptile takes them
    labels = torch.cat([tasks.support_y, tasks.query_y], 1)
    query = scaled(tasks.query)

    def step() -> int:
        moved = [torch.zeros_like(p) for p in model.parameters()]
        for i in range(len(tasks)):
            learner = copy.deepcopy(model)
            inner = torch.optim.Adam(learner.parameters(), REPTILE_LR, betas=(0.0, 0.999))
            for _ in range(case.steps):
                chosen_images, chosen_labels = images[i], labels[i]
                if case.reptile_batch is not None:
                    chosen = torch.randint(len(labels[i]), (case.reptile_batch,), device=device)
                    chosen_images, chosen_labels = images[i][chosen], labels[i][chosen]
                inner.zero_grad()
                F.cross_entropy(learner(chosen_images), chosen_labels).backward()
                inner.step()
            with torch.no_grad():
                learner(query[i])  # MetaFace's step tells the accuracy after adapting, too
            for m, adapted in zip(moved, learner.parameters(), strict=True):
                m.sub_(adapted.data)
        for p, m in zip(model.parameters(), moved, strict=True):
            p.grad = m.mul_(1 / len(tasks)).add_(p.data)
        optimizer.step()
        return len(tasks)

    return Work(step, partial(gradient, model))


class _InMemory(Dataset):  # type: ignore[type-arg]
    def __init__(self, images: Tensor, person: list[int]) -> None:
        self.images, self.person = images, person

    def __len__(self) -> int:
        return len(self.person)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], self.person[i]


class _Endless(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.tasks.sample()


def _floats(case: Case) -> tuple[Tensor, list[int]]:
    faces = photographs(case.size, case.channels)
    images = torch.from_numpy(faces.store).permute(0, 3, 1, 2).float() / 255
    return scaled(images), faces.person.tolist()


def learn2learn_tasks(case: Case, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Photographs ``[N*(K+Q), C, H, W]`` and labels of one task after another."""
    l2l = _import("learn2learn")
    dataset = l2l.data.MetaDataset(_InMemory(*_floats(case)))
    transforms = l2l.data.transforms
    tasks = l2l.data.Taskset(
        dataset,
        task_transforms=[
            transforms.FusedNWaysKShots(dataset, n=case.ways, k=case.shots + case.queries),
            transforms.LoadData(dataset),
            transforms.RemapLabels(dataset),
        ],
    )
    if workers == 0:
        return iter(_Endless(tasks))
    return iter(DataLoader(_Endless(tasks), batch_size=None, **_workers(workers)))


def learn2learn_prototypical(
    case: Case, device: torch.device, *, in_memory: bool, workers: int = 0
) -> Work:
    model, _ = plain_network(case, device)
    optimizer = torch.optim.Adam(model.parameters(), OUTER_LR)
    loader = learn2learn_tasks(case, workers)
    if in_memory:
        first = itertools.islice(loader, case.tasks)
        loader = itertools.cycle([(data.to(device), labels.to(device)) for data, labels in first])
    each = case.shots + case.queries
    is_support = (torch.arange(case.ways * each, device=device) % each) < case.shots

    def step() -> int:
        optimizer.zero_grad()
        for _ in range(case.tasks):
            data, labels = (t.to(device) for t in next(loader))
            labels, order = torch.sort(labels)
            embeddings = model(data[order])
            prototypes = embeddings[is_support].reshape(case.ways, case.shots, -1).mean(1)
            query = embeddings[~is_support]
            logits = -((query[:, None] - prototypes[None]) ** 2).sum(2)
            (F.cross_entropy(logits, labels[~is_support]) / case.tasks).backward()
        optimizer.step()
        return case.tasks

    return Work(step)


def learn2learn_sampling(case: Case, device: torch.device, *, workers: int = 0) -> Work:
    return _drawing(case, device, learn2learn_tasks(case, workers))


# -- easyfsl -----------------------------------------------------------------------------------


class _TakesDataSource:
    """easyfsl 1.5 hands torch's Sampler an argument that torch's no longer takes."""

    def __init__(self, data_source: None) -> None:
        super().__init__()


def easyfsl_loader(
    case: Case, images: Tensor, person: list[int], tasks: int, workers: int
) -> DataLoader[Any]:
    fsl = _import("easyfsl")
    task_sampler: Any = type("TaskSampler", (fsl.samplers.TaskSampler, _TakesDataSource), {})
    names = [str(i) for i in range(max(person) + 1)]
    dataset = fsl.datasets.FeaturesDataset(person, images, names)
    draw = task_sampler(dataset, case.ways, case.shots, case.queries, tasks)
    return DataLoader(
        dataset, batch_sampler=draw, collate_fn=draw.episodic_collate_fn, **_workers(workers)
    )


def easyfsl_tasks(case: Case, workers: int) -> Iterator[Any]:
    """Support, its labels, query, its labels and class ids of one task after another."""
    return iter(easyfsl_loader(case, *_floats(case), 10**9, workers))


def easyfsl_prototypical(
    case: Case, device: torch.device, *, in_memory: bool, workers: int = 0
) -> Work:
    fsl = _import("easyfsl")
    body, _ = plain_network(case, device)
    model = fsl.methods.PrototypicalNetworks(body)
    optimizer = torch.optim.Adam(model.parameters(), OUTER_LR)
    loader = easyfsl_tasks(case, workers)
    if in_memory:
        first = itertools.islice(loader, case.tasks)
        loader = itertools.cycle([tuple(t.to(device) for t in task[:4]) for task in first])

    def step() -> int:
        optimizer.zero_grad()
        for _ in range(case.tasks):
            support, support_y, query, query_y = (t.to(device) for t in next(loader)[:4])
            model.process_support_set(support, support_y)
            (F.cross_entropy(model(query), query_y) / case.tasks).backward()
        optimizer.step()
        return case.tasks

    return Work(step)


def easyfsl_sampling(case: Case, device: torch.device, *, workers: int = 0) -> Work:
    return _drawing(case, device, easyfsl_tasks(case, workers))


def easyfsl_evaluation(case: Case, device: torch.device, *, workers: int = 0) -> Work:
    fsl = _import("easyfsl")
    images, person = _floats(case)
    loader = easyfsl_loader(case, images.flatten(1), person, EASYFSL_EPISODES, workers)
    model = fsl.methods.PrototypicalNetworks(nn.Identity())
    accuracy = [0.0]

    def step() -> int:
        accuracy[0] = fsl.utils.evaluate(model, loader, device=str(device), use_tqdm=False)
        return EASYFSL_EPISODES

    return Work(step, lambda: torch.tensor(accuracy))


# -- TorchOpt ----------------------------------------------------------------------------------


def torchopt_maml(case: Case, device: torch.device) -> Work:
    torchopt = _import("torchopt")
    body, head = plain_network(case, device)
    model = nn.Sequential(body, head)
    initial = nn.ParameterList(model.parameters())  # the model will hold views of these
    outer = torch.optim.Adam(initial, OUTER_LR)
    inner = torchopt.MetaSGD(model, lr=INNER_LR)
    tasks = tasks_in_memory(case, device)
    support, query = scaled(tasks.support), scaled(tasks.query)

    def step() -> int:
        outer.zero_grad()
        weights = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
        moments = torchopt.extract_state_dict(inner, by="reference")
        for i in range(len(tasks)):
            for _ in range(case.steps):
                inner.step(F.cross_entropy(model(support[i]), tasks.support_y[i]))
            loss = F.cross_entropy(model(query[i]), tasks.query_y[i]) / len(tasks)
            loss.backward()
            torchopt.recover_state_dict(model, weights)
            torchopt.recover_state_dict(inner, moments)
        outer.step()
        return len(tasks)

    return Work(step, partial(gradient, initial))


def torchopt_vmap_maml(case: Case, device: torch.device, *, first_order: bool) -> Work:
    torchopt = _import("torchopt")
    body, head = plain_network(case, device, BatchStatistics)
    model = nn.Sequential(body, head)
    outer = torch.optim.Adam(model.parameters(), OUTER_LR)
    inner = torchopt.sgd(lr=INNER_LR)
    tasks = tasks_in_memory(case, device)
    support, query = scaled(tasks.support), scaled(tasks.query)

    def loss(params: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, params, (images,)), labels)

    def task_loss(
        params: dict[str, Tensor],
        support: Tensor,
        support_y: Tensor,
        query: Tensor,
        query_y: Tensor,
    ) -> Tensor:
        state = inner.init(params)
        for _ in range(case.steps):
            grads = torch.func.grad(loss)(params, support, support_y)
            if first_order:
                grads = {name: g.detach() for name, g in grads.items()}
            updates, state = inner.update(grads, state, inplace=False)
            params = torchopt.apply_updates(params, updates, inplace=False)
        return loss(params, query, query_y)

    def step() -> int:
        outer.zero_grad()
        params: dict[str, Tensor] = dict(model.named_parameters())
        losses = torch.func.vmap(task_loss, (None, 0, 0, 0, 0))(
            params, support, tasks.support_y, query, tasks.query_y
        )
        losses.mean().backward()
        outer.step()
        return len(tasks)

    return Work(step, partial(gradient, body, head))


# -- JAX ---------------------------------------------------------------------------------------


def jax_maml(case: Case, device: torch.device, *, first_order: bool) -> Work:
    jax_side = _import("jax")
    loss = partial(jax_side.maml_loss, steps=case.steps, lr=INNER_LR, first_order=first_order)
    return _jax_training(case, device, loss, *plain_network(case, device))


def jax_prototypical(case: Case, device: torch.device) -> Work:
    loss = partial(_import("jax").prototypical_loss, ways=case.ways)
    body, _ = plain_network(case, device)
    return _jax_training(case, device, loss, body)


def _jax_training(
    case: Case, device: torch.device, loss: Callable[..., Any], *modules: nn.Module
) -> Work:
    jax_side = _import("jax")
    jax_side.start(torch.get_num_threads())
    tasks = tasks_in_memory(case, device)
    support, query = scaled(tasks.support), scaled(tasks.query)
    params = [p.detach().numpy() for p in ordered(*modules)]
    data = tuple(t.numpy() for t in (support, tasks.support_y, query, tasks.query_y))
    training = jax_side.Training(loss, params, data, OUTER_LR)

    def step() -> int:
        training.step()
        return len(tasks)

    def outcome() -> Tensor:
        return torch.cat([torch.tensor(np.asarray(g)).flatten() for g in training.gradient])

    return Work(step, outcome, training.compile_s)


def _drawing(case: Case, device: torch.device, tasks: Iterator[Any]) -> Work:
    def step() -> int:
        for _ in range(case.tasks):
            for t in next(tasks):
                if isinstance(t, Tensor):
                    t.to(device)
        return case.tasks

    return Work(step)


Side = Callable[[Case, torch.device], Work]
WORKERS = 2


def _loaders(name: str, side: Callable[..., Work], **options: Any) -> dict[str, Side]:
    """A side that reads from a data loader, without and with worker processes."""
    return {
        name: partial(side, **options),
        f"{name}, {WORKERS} workers": partial(side, workers=WORKERS, **options),
    }


SIDES: dict[str, dict[str, Side]] = {
    "maml": {
        "metaface": metaface_maml,
        "learn2learn": partial(learn2learn_maml, first_order=False),
        "torchopt": torchopt_maml,
        "torchopt, vmap": partial(torchopt_vmap_maml, first_order=False),
        "jax": partial(jax_maml, first_order=False),
    },
    "fomaml": {
        "metaface": partial(metaface_maml, first_order=True),
        "learn2learn": partial(learn2learn_maml, first_order=True),
        "torchopt, vmap": partial(torchopt_vmap_maml, first_order=True),
        "jax": partial(jax_maml, first_order=True),
    },
    "sweep": {
        "metaface": partial(metaface_maml, memory="sweep"),
        "learn2learn": partial(learn2learn_maml, first_order=False),
    },
    "reptile": {"metaface": metaface_reptile, "learn2learn": learn2learn_reptile},
    "prototypical": {
        "metaface": partial(metaface_prototypical, in_memory=False),
        **_loaders("learn2learn", learn2learn_prototypical, in_memory=False),
        **_loaders("easyfsl", easyfsl_prototypical, in_memory=False),
    },
    "prototypical-memory": {
        "metaface": partial(metaface_prototypical, in_memory=True),
        "learn2learn": partial(learn2learn_prototypical, in_memory=True),
        "easyfsl": partial(easyfsl_prototypical, in_memory=True),
        "jax": jax_prototypical,
    },
    "sampling": {
        "metaface": metaface_sampling,
        **_loaders("learn2learn", learn2learn_sampling),
        **_loaders("easyfsl", easyfsl_sampling),
    },
    "evaluation": {
        "metaface": metaface_evaluation,
        **_loaders("easyfsl", easyfsl_evaluation),
    },
}
