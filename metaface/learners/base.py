"""The contract of every meta-learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from metaface.episodes import Episodes
from metaface.nets import norm_mode

Weights = dict[str, Tensor]
State = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a learner is best trained, unless the user says otherwise.

    Attributes:
        ways, shots, queries: of the training tasks.
        meta_batch: tasks a step.
        optimizer: ``adam`` or ``sgd`` (plain) of the outer loop.
        lr: outer learning rate at the start; it falls to 0 as ``schedule`` says.
        schedule: ``cosine``, ``linear`` or ``constant``, over the training budget.
        clip: largest norm of the meta-gradient; None: not clipped.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 5
    meta_batch: int = 4
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "cosine"
    clip: float | None = 10.0


class Classifier:
    """A frozen classifier of N people, adapted from a few photographs; it owns its weights."""

    def __init__(self, score: Callable[[State, Tensor], Tensor], state: State, ways: int) -> None:
        self._score = score
        self.state = state
        self.ways = ways

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Scores (similarities, not probabilities) ``[Q, N]`` of ``[Q, C, H, W]`` in 0..1."""
        return self._score(self.state, images)

    def predict(self, images: Tensor) -> Tensor:
        """Labels int64 ``[Q]`` in 0..N-1 of ``[Q, C, H, W]`` in 0..1."""
        return self(images).argmax(-1)


class MetaLearner(nn.Module):
    """A shared embedding and a way of adapting to new people from a few photographs.

    A learner is two pure functions of one task, :meth:`fit` and :meth:`score`; training,
    adaptation and evaluation are built from them here, vectorised over tasks. By default the
    meta-gradient is that of the query loss through :meth:`fit`; a learner whose outer loop
    descends another direction overrides :meth:`meta_step`.

    Heads know no way: :meth:`fit` takes any number of people, whatever the training way was.
    """

    recipe: ClassVar[Recipe] = Recipe()

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    # -- what a learner defines ------------------------------------------------------------

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        """Adapt ``theta`` (the embedding's parameters) to one task; differentiable, no side effect.

        Args:
            theta: the embedding's parameters by name.
            images: float ``[S, C, H, W]`` in 0..1.
            labels: int64 ``[S]`` in 0..ways-1.

        Returns:
            What :meth:`score` needs.
        """
        raise NotImplementedError

    def score(self, state: State, images: Tensor) -> Tensor:
        """Logits ``[Q, ways]`` of float ``[Q, C, H, W]`` in 0..1."""
        raise NotImplementedError

    # -- what every learner has ------------------------------------------------------------

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        """One outer step's direction, left in ``.grad`` of the parameters; returns metrics.

        Raises:
            ValueError: tensors whose shapes do not make a batch of tasks.
        """
        check_episodes(episodes)
        self.zero_grad(set_to_none=True)
        logits = self.logits(episodes)
        loss = task_loss(logits, episodes.query_y)
        loss.backward()
        return metrics(logits, episodes.query_y)

    def logits(self, episodes: Episodes, chunk: int | None = None) -> Tensor:
        """Logits ``[B, N*Q, N]`` of the queries of every task, each adapted to its support.

        Args:
            chunk: at most so many tasks at once, to bound memory; None: all.
        """
        theta = self.theta()

        def task(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
            return self.score(self.fit(theta, support, labels, episodes.ways), query)

        return per_task(task, chunk)(episodes.support, episodes.support_y, episodes.query)

    def adapt(self, images: Tensor, labels: Tensor) -> Classifier:
        """A frozen classifier from a few photographs; the learner itself is left as it was.

        Args:
            images: float ``[S, C, H, W]`` in 0..1.
            labels: int64 ``[S]``, every one of 0..N-1 present; people may differ in shots.

        Raises:
            ValueError: shapes or labels that do not fit, by name and value.
        """
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"adapt takes images [S, C, H, W] and labels [S], got {list(images.shape)} "
                f"and {list(labels.shape)}"
            )
        present = labels.unique()
        ways = len(present)
        if ways == 0 or not torch.equal(present, torch.arange(ways, device=labels.device)):
            raise ValueError(
                f"labels must use every number of 0..N-1, got {present.tolist()}: renumber them"
            )
        with torch.no_grad(), self.predicting():
            state = self.fit(self.theta(), images, labels, ways)
        # with the population statistics of frozen layers, which later training changes
        theta = {**state.get("theta", {}), **dict(self.embedding.named_buffers())}
        frozen = pytree.tree_map(lambda t: t.detach().clone(), {**state, "theta": theta})

        def score(adapted: State, queries: Tensor) -> Tensor:
            with self.predicting():
                return self.score(adapted, queries)

        return Classifier(score, frozen, ways)

    def descend(self, direction: Weights) -> None:
        """Leave ``direction`` (by the embedding's parameter names) in ``.grad``."""
        self.zero_grad(set_to_none=True)
        for name, parameter in self.embedding.named_parameters():
            parameter.grad = direction[name].detach()

    def theta(self) -> Weights:
        """The embedding's parameters by name."""
        return dict(self.embedding.named_parameters())

    def embed(self, theta: Weights, images: Tensor) -> Tensor:
        """Features ``[n, D]`` of float ``[n, C, H, W]`` under the weights ``theta``."""
        features: Tensor = functional_call(self.embedding, theta, (images,))
        return features

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Evaluation mode for the length of a ``with`` block."""
        was = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was)

    @property
    def norm(self) -> str:
        """Normalisation mode: batch, frozen, group or none."""
        return norm_mode(self.embedding)

    @property
    def transductive(self) -> bool:
        """Whether the queries of a task see each other when they are scored."""
        return self.norm == "batch"


def per_task(function: Callable[..., Any], chunk: int | None = None) -> Callable[..., Any]:
    """``function`` of one task, made a function of a batch of tasks (leading dimension)."""

    def batched(*arguments: Any) -> Any:
        count = len(pytree.tree_leaves(arguments)[0])
        if count == 1:  # no vectorisation to pay for
            alone = pytree.tree_map(lambda t: t[0], arguments)
            return pytree.tree_map(lambda t: t[None], function(*alone))
        return vmap(function, chunk_size=chunk)(*arguments)

    return batched


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``[..., n, N]`` against labels ``[..., n]``."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss and accuracy (0..1) for the progress bar and the learning curves."""
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": float(task_loss(logits, labels)), "accuracy": float(accuracy)}


def check_episodes(episodes: Episodes) -> None:
    """Refuse tensors that do not make a batch of tasks, by name and shape."""
    for side in ("support", "query"):
        images, labels = getattr(episodes, side), getattr(episodes, f"{side}_y")
        if images.ndim != 5 or labels.shape != images.shape[:2] or len(images) != len(episodes):
            raise ValueError(
                f"{side} must be [B, n, C, H, W] with {side}_y [B, n] and people [B, N], got "
                f"{list(images.shape)}, {list(labels.shape)} and {list(episodes.people.shape)}"
            )
