"""learn2learn (Arnold et al. 2020, arXiv 2008.12284): our tasks there, its algorithms here."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from metaface.arguments import check_counts, check_flags, check_rates
from metaface.episodes.sampler import EpisodeSampler
from metaface.learners.base import State, Weights
from metaface.learners.chunks import replicate
from metaface.learners.head import HeadStep, LinearHeadLearner
from metaface.learners.maml import MAML

# -- our tasks in their loops ------------------------------------------------------------------


class Taskset:
    """Tasks of an ``EpisodeSampler`` as ``learn2learn.data.Taskset`` gives them.

    A task is ``(data, labels)``: float32 ``[N*(K+Q), C, H, W]`` in 0..1 and int64 ``[N*(K+Q)]`` in
    0..N-1, ordered by label. The K support photographs of a person come before the Q queries, so
    that ``learn2learn.data.partition_task(data, labels, shots=K)`` gives back the episode.

    Args:
        sampler: draws the tasks.
        num_tasks: how many; ``taskset[i]`` is task i of the sampler. -1, as in learn2learn: without
            end, of length 1, and every look at it is the next task (in a worker process of a
            ``DataLoader``: of a sequence of the worker's own).
        alternate: support and query photographs of a person in turn, for the examples that adapt
            to the even places and answer for the odd ones. (They run on the other order, too, but
            the split is then not the episode's, and mixes support and query domains.)

    Raises:
        ValueError: no tasks; ``alternate`` where K is not Q.
    """

    def __init__(
        self, sampler: EpisodeSampler, num_tasks: int = -1, *, alternate: bool = False
    ) -> None:
        if num_tasks < -1 or num_tasks == 0:
            raise ValueError(f"num_tasks={num_tasks}: must be positive, or -1 for no end")
        if alternate and sampler.shots != (sampler.queries, sampler.queries):
            raise ValueError(
                f"alternate needs as many queries as shots, got shots={sampler.shots} and "
                f"queries={sampler.queries}: draw others, or split with partition_task"
            )
        self.sampler = sampler
        self.num_tasks = num_tasks
        self.alternate = alternate
        self._next = 0
        self._worker: int | None = None

    def __len__(self) -> int:
        return max(1, self.num_tasks)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """Task ``i``, or the next one of an endless set."""
        if not 0 <= i < len(self):
            raise IndexError(f"no task {i}: there are {len(self)}")
        episodes = self.sampler.tasks(np.array([self._fresh() if self.num_tasks == -1 else i]))
        ways = episodes.ways
        support, query = (t[0].unflatten(0, (ways, -1)) for t in (episodes.support, episodes.query))
        if self.alternate:
            data = torch.stack([support, query], 2).flatten(1, 2)
        else:
            data = torch.cat([support, query], 1)
        labels = torch.arange(ways, device=data.device).repeat_interleave(data.shape[1])
        return data.flatten(0, 1), labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        i = 0
        while self.num_tasks == -1 or i < self.num_tasks:
            yield self[0 if self.num_tasks == -1 else i]
            i += 1

    def sample(self) -> tuple[Tensor, Tensor]:
        """A random task (by ``random``, as learn2learn's), or the next one of an endless set."""
        return self[random.randrange(len(self))]

    def _fresh(self) -> int:
        """A task that was not drawn yet."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker:  # a copy of the set, just forked
            self._worker, self._next = worker.seed, worker.seed % 2**40 * 2**20
        self._next += 1
        return self._next - 1


# -- their algorithms in our benchmark ---------------------------------------------------------


class Learn2Learn(LinearHeadLearner):
    """A learn2learn algorithm, by its own ``clone()`` and ``adapt(loss)``, task after task.

    It adapts the embedding and a linear head that starts from zero, by ``inner_steps`` steps on
    the mean cross-entropy of the support.

    Args:
        embedding: the shared network.
        algorithm: ``MAML``, ``MetaSGD`` or ``GBML`` (its transform is Meta-Curvature, Park & Oliva
            2019, arXiv 1902.03356, but for the head); or what makes one of a module, with keywords
            ``lr`` and ``first_order``, such as ``learn2learn.algorithms.MAML``. What is made must
            adapt its attribute ``module``; what it learns besides (rates, transforms) is learned
            here. As heads have as many rows as a task has people, it is shown one of two single
            numbers, ``[1, 1]`` and ``[1]``: what it makes for these must broadcast to any head.
        inner_lr: step of the inner loop (of MetaSGD: at the start).
        inner_steps: steps of the inner loop.
        head_lr: step of the head; see :class:`metaface.learners.head.HeadStep`. learn2learn has
            one rate for all, so the head is shown features of a size at which ``inner_lr`` is this
            step. None: features as they are, as in learn2learn's examples.
        first_order: ignore the inner loop's curvature.

    Raises:
        ImportError: learn2learn is not installed, with the remedy.
        ValueError: an unknown algorithm, no inner step, or a frozen weight, which learn2learn
            would adapt.
    """

    recipe = MAML.recipe

    def __init__(
        self,
        embedding: nn.Module,
        algorithm: str | Callable[..., nn.Module] = "MAML",
        inner_lr: float = 0.01,
        inner_steps: int = 3,
        *,
        head_lr: float | None = 0.5,
        first_order: bool = False,
    ) -> None:
        super().__init__(embedding)
        check_rates(inner_lr=inner_lr)
        check_flags(first_order=first_order)
        check_counts(1, inner_steps=inner_steps)
        frozen = [n for n, p in embedding.named_parameters() if not p.requires_grad]
        if frozen:
            raise ValueError(
                f"learn2learn adapts every weight, and {frozen[0]} is frozen: use maml or fomaml, "
                "which leave frozen ones alone, or tune='full'"
            )
        make = _named(algorithm) if isinstance(algorithm, str) else algorithm
        self.inner_lr, self.inner_steps, self.head_lr = inner_lr, inner_steps, head_lr
        self.head_step = HeadStep(head_lr is not None)
        self.algorithm: Any = make(_Network(embedding), lr=inner_lr, first_order=first_order)
        self.algorithm.module = nn.Module()  # fit puts in the weights it is given

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        with torch.no_grad():
            features = self.embed(theta, images[:1])
        start = theta | {
            "head.weight": features.new_zeros(ways, features.shape[-1]),
            "head.bias": features.new_zeros(ways),
        }
        adapted = [self._adapted(start, *task) for task in zip(images, labels, strict=True)]
        return {"theta": {name: torch.stack([task[name] for task in adapted]) for name in start}}

    def _adapted(self, start: Weights, images: Tensor, labels: Tensor) -> Weights:
        """The fast weights of one task, from images ``[S, C, H, W]`` and labels ``[S]``."""
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            fast = self.algorithm.clone()
            # learn2learn leaves marks on the tensors it adapts: never on the learner's own
            network = _with_weights(
                _Network(self.embedding),
                {
                    n: w.clone() if record and w.requires_grad else w.detach().requires_grad_()
                    for n, w in start.items()
                },
            )
        if self.head_step.standardised and self.head_lr is not None:
            features = self.embed(start, images[None])
            network.mean, network.size = (x[0] for x in self.head_step.measure(features))
            # descent by inner_lr on logits c times as large is descent by c^2 inner_lr
            network.times = (2 * len(start["head.bias"]) * self.head_lr / self.inner_lr) ** 0.5
        with torch.enable_grad():
            fast.module = network
            if not record:
                fast.first_order = True  # the same steps, without the graph through them
            for _ in range(self.inner_steps):
                fast.adapt(F.cross_entropy(fast(images), labels))
        weights = fast.module.raw(dict(fast.module.named_parameters()))
        return weights if record else {n: w.detach() for n, w in weights.items()}


class _Network(nn.Module):
    """Embedding and head as one module; its parameters have the names they have in ``theta``.

    Attributes:
        mean, size: of the features ``[1, D]`` and ``[1, 1]``, by which the head sees them.
        times: factor of the logits.
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = nn.utils.skip_init(nn.Linear, 1, 1)
        self.mean: Tensor | float = 0.0
        self.size: Tensor | float = 1.0
        self.times = 1.0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head((self.embedding(images) - self.mean) / self.size)
        return self.times * logits

    def raw(self, weights: Weights) -> Weights:
        """``weights`` with a head that sees the features as they are."""
        weight = self.times * weights["head.weight"] / self.size
        bias = self.times * weights["head.bias"] - (weight * self.mean).sum(-1)
        return weights | {"head.weight": weight, "head.bias": bias}


def _named(name: str) -> Callable[..., nn.Module]:
    """learn2learn's algorithm of this name, with what it needs besides a module."""
    l2l = _learn2learn()

    def curvature(parameter: Tensor) -> nn.Module | None:
        # one matrix a dimension of the weight: none fits heads of every size, so they go without
        if parameter.numel() == 1:
            return None
        transform: nn.Module = l2l.optim.transforms.MetaCurvatureTransform(parameter)
        return transform

    algorithms: dict[str, Callable[..., nn.Module]] = {
        "MAML": l2l.algorithms.MAML,
        "MetaSGD": l2l.algorithms.MetaSGD,
        "GBML": partial(l2l.algorithms.GBML, transform=curvature),
    }
    if name not in algorithms:
        raise ValueError(
            f"no algorithm {name!r} of learn2learn: choose one of {', '.join(algorithms)}"
        )
    return algorithms[name]


def _learn2learn() -> ModuleType:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym, which it imports, advertises there
            import learn2learn
    except ImportError as error:
        raise ImportError(
            f"the l2l-... learners need learn2learn ({error}): run "
            "`python tools/build_learn2learn.py` in a copy of MetaFace's repository (it has no "
            "wheel, and its source no longer builds with pip install alone)"
        ) from error
    module: ModuleType = learn2learn
    return module


def _with_weights(module: _Network, weights: Weights) -> _Network:
    """A copy of ``module`` around other weights, which may be results of a computation."""
    copy = replicate(module)
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        copy.get_submodule(owner)._parameters[leaf] = weight  # type: ignore[assignment]
    return copy
