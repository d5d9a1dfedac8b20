"""Reptile: move towards weights that were trained on one task."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from metaface.episodes import Episodes
from metaface.learners.base import (
    MetaLearner,
    Recipe,
    State,
    Weights,
    check_episodes,
    metrics,
    per_task,
    task_loss,
)


class Reptile(MetaLearner):
    """Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999).

    Each task trains the network for a while; the initial weights then move towards the mean of
    the trained ones. The direction left in ``.grad`` is theta minus that mean, so that *plain*
    SGD with rate eps is exactly theta <- theta + eps (theta~ - theta). The inner optimiser's
    moments start afresh with each task. Trained at more shots than it is tested at, on support and
    query alike (it needs no split; the accuracy shown in training is on photographs it was fitted
    to).

    Args:
        embedding: the shared network.
        inner_lr: step of the inner optimiser.
        head_lr: its step for the head, which has further to go from zero; None: ``inner_lr``.
        inner_steps: inner steps when training.
        test_steps: inner steps when adapting (the papers use 50); None: as many as in training.
        inner_batch: photographs an inner step, class-mixed; None: all of the support.
        inner_optimizer: ``adam`` (beta1 = 0, beta2 = 0.999, as the authors') or ``sgd``.
    """

    recipe = Recipe(
        ways=20, shots=5, queries=1, meta_batch=1, optimizer="sgd", lr=1.0, schedule="linear",
        clip=None,
    )  # fmt: skip

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 2e-3,
        inner_steps: int = 20,
        *,
        head_lr: float | None = 2e-2,
        test_steps: int | None = 5,
        inner_batch: int | None = 20,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
    ) -> None:
        super().__init__(embedding)
        if inner_optimizer not in ("adam", "sgd"):
            raise ValueError(f"inner_optimizer={inner_optimizer!r}: choose 'adam' or 'sgd'")
        self.inner_lr = inner_lr
        self.head_lr = inner_lr if head_lr is None else head_lr
        self.inner_steps = inner_steps
        self.test_steps = test_steps if test_steps is not None else inner_steps
        self.inner_batch = inner_batch
        self.inner_optimizer = inner_optimizer

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        width = self.embed(theta, images[:1]).shape[-1]
        weights: Weights = {f"theta.{name}": value for name, value in theta.items()}
        weights["weight"] = images.new_zeros(ways, width)
        weights["bias"] = images.new_zeros(ways)
        second = {name: torch.zeros_like(value) for name, value in weights.items()}
        steps = self.inner_steps if self.training else self.test_steps
        for step, index in enumerate(self._batches(len(images), steps), start=1):
            gradient = grad(self._loss)(weights, images[index], labels[index])
            if self.inner_optimizer == "adam":
                for name, g in gradient.items():
                    second[name] = 0.999 * second[name] + 0.001 * g.square()
                    scale = (second[name] / (1 - 0.999**step)).sqrt() + 1e-8
                    weights[name] = weights[name] - self._rate(name) * g / scale
            else:
                weights = {n: w - self._rate(n) * gradient[n] for n, w in weights.items()}
        return _nested(weights)

    def score(self, state: State, images: Tensor) -> Tensor:
        features = self.embed(state["theta"], images)
        return F.linear(features, state["weight"], state["bias"])

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        check_episodes(episodes)
        theta = self.theta()

        def task(images: Tensor, labels: Tensor, query: Tensor) -> tuple[Weights, Tensor]:
            fast = self.fit(theta, images, labels, episodes.ways)
            return fast["theta"], self.score(fast, query)

        images = torch.cat([episodes.support, episodes.query], 1)  # Reptile needs no split
        labels = torch.cat([episodes.support_y, episodes.query_y], 1)
        with torch.no_grad():
            fast, logits = per_task(task)(images, labels, episodes.query)
            self.descend({name: theta[name] - fast[name].mean(0) for name in theta})
        return metrics(logits, episodes.query_y)

    def _rate(self, name: str) -> float:
        return self.inner_lr if name.startswith("theta.") else self.head_lr

    def _loss(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        return task_loss(self.score(_nested(weights), images), labels)

    def _batches(self, count: int, steps: int) -> list[Tensor]:
        """Indices of each inner step: shuffled passes over the support, the same for every task.

        A fixed schedule over randomly drawn tasks is as random as a drawn one, and it makes
        adapting twice from the same photographs give the same answer.
        """
        if self.inner_batch is None or count <= self.inner_batch:
            return [torch.arange(count)] * steps
        shuffle = np.random.default_rng(0)
        passes = -(-steps * self.inner_batch // count)
        order = torch.from_numpy(
            np.concatenate([shuffle.permutation(count) for _ in range(passes)])
        )
        return [order[i * self.inner_batch : (i + 1) * self.inner_batch] for i in range(steps)]


def _nested(weights: Weights) -> State:
    theta = {n.removeprefix("theta."): w for n, w in weights.items() if n.startswith("theta.")}
    return {"theta": theta, "weight": weights["weight"], "bias": weights["bias"]}
