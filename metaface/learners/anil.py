"""ANIL: MAML's inner loop on the head alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_rates
from metaface.learners.base import FeatureLearner, Recipe, State
from metaface.learners.head import HeadStep


class ANIL(FeatureLearner):
    """Almost no inner loop (Raghu et al. 2020, arXiv 1909.09157): the embedding is not adapted.

    A linear head starts from zero and descends the mean cross-entropy; the meta-gradient goes
    through its steps into the embedding.

    Args:
        embedding: the shared network.
        head_lr: step of the head; see :class:`metaface.learners.head.HeadStep`.
        inner_steps: steps of the inner loop.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.ANIL(mf.nets.Conv4(), inner_steps=5)
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(self, embedding: nn.Module, head_lr: float = 0.5, inner_steps: int = 3) -> None:
        super().__init__(embedding)
        check_rates(head_lr=head_lr)
        check_counts(1, inner_steps=inner_steps)
        self.head_lr = head_lr
        self.head_step = HeadStep()
        self.inner_steps = inner_steps

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        truth = F.one_hot(labels, ways).to(features)  # [T, S, N]
        weight = features.new_zeros(len(features), ways, features.shape[-1])
        bias = features.new_zeros(len(features), ways)
        head = {"head.weight": weight, "head.bias": bias}
        for _ in range(self.inner_steps):  # the cross-entropy's gradient, written out
            logits = features @ head["head.weight"].mT + head["head.bias"][:, None]
            slope = (logits.softmax(-1) - truth) / labels.shape[1]
            slopes = {"head.weight": slope.mT @ features, "head.bias": slope.sum(1)}
            slopes = self.head_step.slopes(slopes, features, ways)
            head = {n: w - self.head_lr * slopes[n] for n, w in head.items()}
        return {"weight": head["head.weight"], "bias": head["head.bias"][:, None]}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return features @ state["weight"].mT + state["bias"]
