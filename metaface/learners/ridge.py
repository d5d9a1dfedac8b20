"""Ridge regression: a linear head in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class R2D2(FeatureLearner):
    """Ridge regression differentiable discriminator (Bertinetto et al. 2019, arXiv 1805.08136).

    The head is ridge regression from features to one-hot labels, W = (X'X + lambda I)^-1 X'Y, by
    the smaller of the two equal systems: as many equations as support photographs. The loss is the
    cross-entropy of ``scale * (features @ W)``, whose scale is learned, as lambda is; the paper's
    learned shift is the same for everybody, and changes no softmax. The embedding is not adapted;
    the meta-gradient goes through the solution.

    Args:
        embedding: the shared network.
        strength: lambda at the start, above 0.
        scale: factor of the regression's values at the start.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.R2D2(mf.nets.Conv4())
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=20, shots=1, queries=1, meta_batch=1, lr=1e-3)

    def __init__(self, embedding: nn.Module, strength: float = 1.0, scale: float = 10.0) -> None:
        super().__init__(embedding)
        check_rates(strength=strength, scale=scale)
        if not strength > 0:
            raise ValueError(f"strength={strength}: must be above 0")
        self.strength = strength
        self.log_strength = nn.Parameter(torch.tensor(float(strength)).log())
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        truth = F.one_hot(labels, ways).to(features)  # [T, S, N]
        same = torch.eye(features.shape[1]).to(features)
        kernel = features @ features.mT + self.log_strength.exp() * same  # [T, S, S]
        weight = features.mT @ torch.linalg.solve(kernel, truth)  # [T, D, N]
        return {"weight": self.scale * weight}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return features @ state["weight"]
