"""Linear probe: logistic regression on features."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class LinearProbe(FeatureLearner):
    """Multinomial logistic regression on unit features, the embedding as it is.

    As in Tian et al. 2020 (arXiv 2003.11539): photographs are embedded, scaled to unit length, and
    a linear head without bias (which would be how many photographs somebody has) minimises the
    *sum* of the cross-entropies plus ``|W|^2 / (2 strength)``. That is strongly convex, its
    curvature is between 1 / strength and 1 / strength + S / 2 (Boehning 1992), and Nesterov's
    method with these two constants gets within ``tolerance`` of the minimum in a number of steps
    that only S decides: nothing to tune, and no test of convergence.

    Meta-training, where it is asked for, takes the query loss through these steps into the
    embedding.

    Args:
        embedding: the shared network.
        strength: how far the head may go; scikit-learn's C.
        tolerance: of the objective, as a share of what there is to gain, at most.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.LinearProbe(mf.nets.Conv4(), strength=100.0)
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(
        self, embedding: nn.Module, strength: float = 100.0, tolerance: float = 1e-6
    ) -> None:
        super().__init__(embedding)
        check_rates(strength=strength, tolerance=tolerance)
        if not strength > 0 or not 0 < tolerance < 1:
            raise ValueError(
                f"strength={strength} must be positive and tolerance={tolerance} between 0 and 1"
            )
        self.strength = strength
        self.tolerance = tolerance

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        features = F.normalize(features, dim=-1)
        truth = F.one_hot(labels, ways).to(features)  # [T, S, N]
        flattest, steepest = 1 / self.strength, 1 / self.strength + labels.shape[1] / 2
        root = math.sqrt(steepest / flattest)
        momentum = (root - 1) / (root + 1)
        # f - f* <= (f0 - f* + flattest |w0 - w*|^2 / 2) (1 - 1 / root)^k <= 2 (f0 - f*) (...)^k
        steps = math.ceil(math.log(2 / self.tolerance) * root)
        weight = ahead = features.new_zeros(len(features), ways, features.shape[-1])
        for _ in range(steps):
            slope = ((features @ ahead.mT).softmax(-1) - truth).mT @ features + flattest * ahead
            last, weight = weight, ahead - slope / steepest
            ahead = weight + momentum * (weight - last)
        return {"weight": weight}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) @ state["weight"].mT
