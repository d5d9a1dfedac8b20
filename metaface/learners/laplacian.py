"""LaplacianShot: nearest prototype, and queries that resemble each other get the same name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_rates
from metaface.learners.base import State
from metaface.learners.prototypical import Prototypical


class LaplacianShot(Prototypical):
    """LaplacianShot (Ziko et al. 2020, arXiv 2006.15486). *Transductive*: queries see each other.

    A query's probability of a person is high where it is near their prototype, and where it is high
    for the query's nearest other queries: the Laplacian of the graph of nearest neighbours. The
    paper's bound updates find it: y = softmax(scale * cosine + strength * mean of the neighbours'
    y), all queries at once, again and again. Features are less the mean of the prototypes first (of
    the base classes, in the paper), or what all faces have in common outweighs what differs.

    Meta-training is that of prototypical networks by cosine, of each query by itself. A query that
    is alone gets the name of the nearest prototype.

    Args:
        embedding: the shared network.
        strength: weight of the neighbours, lambda in the paper, where their y are summed up; 0:
            prototypical networks by cosine of the features less that mean.
        neighbours: of each query, at most as many as there are others.
        steps: bound updates.
        scale: factor of the cosines.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.LaplacianShot(mf.nets.Conv4())
        >>> learner.transductive, learner.adapt(images, [0, 1]).predict(images)
        (True, tensor([0, 1]))
    """

    def __init__(
        self,
        embedding: nn.Module,
        strength: float = 3.0,
        neighbours: int = 3,
        steps: int = 20,
        scale: float = 10.0,
    ) -> None:
        super().__init__(embedding, "cosine", scale)
        check_rates(strength=strength)
        check_counts(1, neighbours=neighbours, steps=steps)
        self.strength = strength
        self.neighbours = neighbours
        self.steps = steps

    @property
    def transductive(self) -> bool:
        return True

    def score_head(self, state: State, features: Tensor) -> Tensor:
        if self.training:
            return super().score_head(state, features)
        middle = state["prototypes"].mean(1, keepdim=True)
        unit = F.normalize(self._placed(features) - middle, dim=-1)
        scores = self.scale * unit @ F.normalize(state["prototypes"] - middle, dim=-1).mT
        count = features.shape[1]
        if count < 2:
            return scores
        cosines = unit @ unit.mT - 2 * torch.eye(count).to(unit)  # nobody is a neighbour of itself
        nearest = cosines.topk(min(self.neighbours, count - 1), -1).indices
        near = torch.zeros_like(cosines).scatter_(-1, nearest, 1.0)
        near = torch.maximum(near, near.mT)  # as an undirected graph
        near = near / near.sum(-1, keepdim=True)
        logits = scores
        for _ in range(self.steps):
            logits = scores + self.strength * near @ logits.softmax(-1)
        return logits
