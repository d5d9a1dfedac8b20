"""Reptile: move towards weights that were trained on one task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from metaface.arguments import check_counts, check_rates
from metaface.episodes.sampler import Episodes
from metaface.learners.base import Recipe, State, Weights
from metaface.learners.head import HeadStep, LinearHeadLearner, differentiate


class Reptile(LinearHeadLearner):
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
        head_lr: its step for a head that starts from zero; see
            :class:`metaface.learners.head.HeadStep`. Of a learned head, on the features as they
            are. None: ``inner_lr``, on the features as they are.
        inner_steps: inner steps when training.
        test_steps: inner steps when adapting (the papers use 50); None: as many as in training.
            The default is for meta-trained weights. From random ones Adam's second step, the first
            that moves the network, changes the features by more than they differ, and the head
            needs 10 to 20 steps to fit the support again: without meta-training, give 20.
        inner_batch: photographs an inner step, class-mixed; None: all of the support.
        head: see :class:`LinearHeadLearner`.
        inner_optimizer: ``adam`` (beta1 = 0, beta2 = 0.999, as the authors') or ``sgd``.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.Reptile(mf.nets.Conv4(), test_steps=20)
        >>> learner.adapt(images, [0, 1])(images).shape  # scores
        torch.Size([2, 2])
    """

    recipe = Recipe(
        ways=20,
        shots=5,
        queries=1,
        meta_batch=1,
        optimizer="sgd",
        lr=1.0,
        schedule="linear",
        clip=None,
    )

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
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__(embedding, head)
        if inner_optimizer not in ("adam", "sgd"):
            raise ValueError(f"inner_optimizer={inner_optimizer!r}: choose 'adam' or 'sgd'")
        check_rates(inner_lr=inner_lr, head_lr=head_lr)
        check_counts(1 if head is None else 0, inner_steps=inner_steps, test_steps=test_steps)
        check_counts(1, inner_batch=inner_batch)
        self.inner_lr = inner_lr
        self.head_lr = inner_lr if head_lr is None else head_lr
        self.head_step = HeadStep(head is None and head_lr is not None)
        self.inner_steps = inner_steps
        self.test_steps = test_steps if test_steps is not None else inner_steps
        self.inner_batch = inner_batch
        self.inner_optimizer = inner_optimizer

    @torch.no_grad()
    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        self.check_ways(ways)
        start = self.per_task(theta, len(images))
        steps = self.inner_steps if self.training else self.test_steps
        batches = self._batches(images.shape[1], steps)
        adam = self.inner_optimizer == "adam"
        raw: Callable[[Weights], Weights] = _keep
        if self.head is None:
            features = self.embed(theta, images[:, batches[0]] if batches else images)
            start |= self.zero_head(features, ways)
            raw = self.head_step.raw(features, adam=adam)
        moving = {n: w.clone().requires_grad_() for n, w in self.adapted(start).items()}
        weights = start | moving
        second = [torch.zeros_like(w) for w in moving.values()]
        head_lr = self.head_lr * (2 * ways if self.head_step.standardised and not adam else 1)
        rates = [head_lr if n.startswith("head.") else self.inner_lr for n in moving]
        for step, index in enumerate(batches, start=1):
            with torch.enable_grad():
                loss = self.losses(raw(weights), images[:, index], labels[:, index]).sum()
            slopes = differentiate(loss, moving, create_graph=False)
            for w, g, square, rate in zip(
                moving.values(), slopes.values(), second, rates, strict=True
            ):
                if adam:
                    square.mul_(0.999).addcmul_(g, g, value=0.001)
                    scale = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
                    w.addcdiv_(g, scale, value=-rate)
                else:
                    w.sub_(g, alpha=rate)
        return {"theta": {name: w.detach() for name, w in raw(weights).items()}}

    @torch.no_grad()
    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        theta = self.theta()
        images = torch.cat([episodes.support, episodes.query], 1)  # Reptile needs no split
        labels = torch.cat([episodes.support_y, episodes.query_y], 1)
        fast = self.fit(theta, images, labels, episodes.ways)
        moved = {name: (w - fast["theta"][name]).sum(0) for name, w in self.adapted(theta).items()}
        return moved, self.score(fast, episodes.query)

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


def _keep(weights: Weights) -> Weights:
    return weights
