"""Cosine classifier: a direction for every person; imprinted, and fitted from there."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class CosineClassifier(FeatureLearner):
    """Baseline++ (Chen et al. 2019, arXiv 1904.04232): scaled cosines to a direction a person.

    The directions start from the means of the unit features, which is weight imprinting (Qi,
    Brown, Lowe 2018, arXiv 1712.07136; the whole of it at ``steps=0``, and the same as
    prototypical networks by cosine). From there they descend the mean cross-entropy of the
    support, and are scaled back to unit length after every step: the paper's weight
    normalisation. The embedding stays as it is.

    Meta-training, where it is asked for, takes the query loss through these steps into the
    embedding.

    Args:
        embedding: the shared network.
        scale: factor of the cosine, so that a softmax can be sure of an answer.
        head_lr: step of the directions.
        steps: how many.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.CosineClassifier(mf.nets.Conv4(), steps=0)  # imprinting
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=20, shots=1, queries=1, meta_batch=1, lr=1e-3)

    def __init__(
        self, embedding: nn.Module, scale: float = 10.0, head_lr: float = 0.1, steps: int = 100
    ) -> None:
        super().__init__(embedding)
        check_rates(scale=scale, head_lr=head_lr)
        check_counts(steps=steps)
        self.scale = scale
        self.head_lr = head_lr
        self.steps = steps

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        features = F.normalize(features, dim=-1)
        weight = imprint(features, labels, ways)
        truth = F.one_hot(labels, ways).to(features)  # [T, S, N]
        for _ in range(self.steps):  # the cross-entropy's gradient along the sphere, written out
            errors = (self.scale * features @ weight.mT).softmax(-1) - truth
            slope = self.scale * errors.mT @ features / labels.shape[1]
            slope = slope - (slope * weight).sum(-1, keepdim=True) * weight
            weight = F.normalize(weight - self.head_lr * slope, dim=-1)
        return {"weight": weight}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return self.scale * F.normalize(features, dim=-1) @ state["weight"].mT


def imprint(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Unit means ``[T, N, D]`` of each person's unit features ``[T, S, D]``; labels ``[T, S]``."""
    member = F.one_hot(labels, ways).to(features)  # [T, S, N]
    return F.normalize(member.mT @ features, dim=-1)
