"""Relation networks: a learned comparison of a query with a person."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts
from metaface.episodes.sampler import Episodes
from metaface.learners.base import FeatureLearner, Recipe, State, Weights
from metaface.learners.prototypical import average


class Relation(FeatureLearner):
    """Relation networks (Sung et al. 2018, arXiv 1711.06025).

    A person is the mean of their embedded photographs (the paper's sum, as shots may differ). A
    small network compares it with a query and gives a relation score of 0..1, which descends the
    squared error to 1 for the query's person and to 0 for the others. The paper's slides over
    feature maps; this one over the D features of standardised embeddings: the same hidden units see
    (a, b, |a - b|, ab) of each feature, and their mean goes to the output. So it takes embeddings
    of any length.

    Args:
        embedding: the shared network.
        hidden: units of the comparison.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> learner = mf.learners.Relation(mf.nets.Conv4())
        >>> images = torch.rand(3, 3, 28, 28)
        >>> scores = learner.adapt(images, [0, 1, 2])(images)
        >>> bool((scores > 0).all() and (scores < 1).all())
        True
    """

    recipe = Recipe(ways=10, shots=1, queries=2, meta_batch=1, lr=1e-3)

    def __init__(self, embedding: nn.Module, hidden: int = 16) -> None:
        super().__init__(embedding)
        check_counts(1, hidden=hidden)
        generator = torch.Generator().manual_seed(0)
        compare = torch.randn(hidden, 4, generator=generator) / 2
        compare[:, 3].abs_()  # at the start, what agrees speaks for the person
        self.compare = nn.Parameter(compare)
        self.shift = nn.Parameter(torch.zeros(hidden))
        self.decide = nn.Parameter(8 / hidden * torch.rand(hidden, generator=generator))
        self.offset = nn.Parameter(torch.tensor(-4.0))

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        people = average(_standardise(features), labels, ways)
        own = {"compare": self.compare, "shift": self.shift, "decide": self.decide}
        own |= {"offset": self.offset}
        tasks = len(features)
        return {"people": people, **{n: p.expand(tasks, *p.shape) for n, p in own.items()}}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        a, b = torch.broadcast_tensors(
            state["people"][:, None], _standardise(features)[:, :, None]
        )  # [T, Q, N, D]
        pairs = torch.stack([a, b, (a - b).abs(), a * b], -1)
        hidden = torch.einsum("tqndk,thk->tqndh", pairs, state["compare"])
        hidden = F.relu(hidden + state["shift"][:, None, None, None]).mean(-2)
        scores = torch.einsum("tqnh,th->tqn", hidden, state["decide"])
        return (scores + state["offset"][:, None, None]).sigmoid()

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        state = self.fit(self.theta(), episodes.support, episodes.support_y, episodes.ways)
        scores = self.score(state, episodes.query)
        truth = F.one_hot(episodes.query_y, episodes.ways).to(scores)
        return self.slopes((scores - truth).square().sum(-1).mean(-1).sum()), scores.detach()


def _standardise(features: Tensor) -> Tensor:
    """Each embedding less the mean of its features, over their standard deviation."""
    return F.layer_norm(features, features.shape[-1:])
