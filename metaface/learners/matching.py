"""Matching networks: a soft vote of the support photographs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class Matching(FeatureLearner):
    """Matching networks (Vinyals et al. 2016, arXiv 1606.04080), without the context embeddings.

    A query's probability of a person is the sum of its attention to their support photographs: the
    softmax of its cosines with all of them. The scores are the logarithms of these probabilities.

    Args:
        embedding: the shared network.
        scale: factor of the cosine, so that a softmax can be sure of an answer; 1 in the paper.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.Matching(mf.nets.Conv4())
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=20, shots=1, queries=1, meta_batch=1, lr=1e-3)

    def __init__(self, embedding: nn.Module, scale: float = 10.0) -> None:
        super().__init__(embedding)
        check_rates(scale=scale)
        self.scale = scale

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        return {"known": F.normalize(features, dim=-1), "member": F.one_hot(labels, ways)}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        cosines = self.scale * F.normalize(features, dim=-1) @ state["known"].mT  # [T, Q, S]
        votes = cosines.log_softmax(-1)[..., None]
        of_others = state["member"][:, None] == 0  # [T, 1, S, N]
        return torch.logsumexp(votes.masked_fill(of_others, -torch.inf), 2)
