"""ANIL: MAML's inner loop on the head alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class ANIL(FeatureLearner):
    """Almost no inner loop (Raghu et al. 2020, arXiv 1909.09157): the embedding is not adapted.

    A linear head starts from zero and descends the mean cross-entropy; the meta-gradient goes
    through its steps into the embedding.

    Args:
        embedding: the shared network.
        head_lr: step of the head.
        inner_steps: steps of the inner loop.
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(self, embedding: nn.Module, head_lr: float = 0.5, inner_steps: int = 3) -> None:
        super().__init__(embedding)
        check_rates(head_lr=head_lr)
        check_counts(inner_steps=inner_steps)
        self.head_lr = head_lr
        self.inner_steps = inner_steps

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        truth = F.one_hot(labels, ways).to(features)  # [T, S, N]
        weight = features.new_zeros(len(features), ways, features.shape[-1])
        bias = features.new_zeros(len(features), 1, ways)
        for _ in range(self.inner_steps):  # the cross-entropy's gradient, written out
            slope = ((features @ weight.mT + bias).softmax(-1) - truth) / labels.shape[1]
            weight = weight - self.head_lr * slope.mT @ features
            bias = bias - self.head_lr * slope.sum(1, keepdim=True)
        return {"weight": weight, "bias": bias}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return features @ state["weight"].mT + state["bias"]
