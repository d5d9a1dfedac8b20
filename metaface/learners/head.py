"""The linear head of the learners that adapt by gradient steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaface.learners.base import MetaLearner, State, Weights, task_losses
from metaface.nets.conv import channels_last


class LinearHeadLearner(MetaLearner):
    """A learner whose fast weights are the embedding's and those of a linear head.

    Args:
        embedding: the shared network.
        head: the papers' learned head, ``nn.Linear(D, N)``: it takes N people, no more and no
            fewer. None: a head that starts from zero, for any number of people.
    """

    def __init__(self, embedding: nn.Module, head: nn.Linear | None = None) -> None:
        super().__init__(embedding)
        self.head = head

    def theta(self) -> Weights:
        learned = {} if self.head is None else self.head.named_parameters(prefix="head")
        return super().theta() | dict(learned)

    def zero_head(self, features: Tensor, ways: int) -> Weights:
        """A head of zeros for features ``[T, n, D]``."""
        tasks, _, width = features.shape
        return {
            "head.weight": features.new_zeros(tasks, ways, width),
            "head.bias": features.new_zeros(tasks, ways),
        }

    def check_ways(self, ways: int) -> None:
        """Refuse tasks that the learned head has not the rows for."""
        if self.head is not None and self.head.out_features != ways:
            raise ValueError(
                f"the learned head knows {self.head.out_features} people, the task has {ways}: "
                "train at that way, or leave the head out, and it takes any number"
            )

    def adapted(self, weights: Weights) -> Weights:
        """Those of ``weights`` that adaptation moves: all that are not frozen."""
        own = dict(self.named_parameters())
        return {n: w for n, w in weights.items() if n not in own or own[n].requires_grad}

    def per_task(self, weights: Weights, tasks: int) -> Weights:
        """Every weight that adaptation moves with a leading T, whether it was shared or not."""
        own = dict(self.named_parameters())
        moving = self.adapted(weights)
        shared = {n: w for n, w in moving.items() if n in own and w.ndim == own[n].ndim}
        laid_out = {n: channels_last(w) if w.ndim == 4 else w for n, w in shared.items()}
        return weights | {n: w.expand(tasks, *w.shape) for n, w in laid_out.items()}

    def head_scores(self, weights: Weights, features: Tensor) -> Tensor:
        """Logits ``[T, n, N]`` of features ``[T, n, D]``."""
        weight, bias = weights["head.weight"], weights["head.bias"]
        return features @ weight.mT + (bias if bias.ndim == 1 else bias[:, None])

    def score(self, state: State, images: Tensor) -> Tensor:
        weights = state["theta"]
        return self.head_scores(weights, self.embed(weights, images))

    def losses(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        """Each task's loss ``[T]`` under the weights."""
        return task_losses(self.score({"theta": weights}, images), labels)


def gradients(loss: Tensor, weights: Weights, *, create_graph: bool) -> Weights:
    """Of ``loss`` by every one of ``weights``."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
    return dict(zip(weights, found, strict=True))
