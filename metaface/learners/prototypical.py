"""Prototypical networks: a person is the mean of their embedded photographs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_rates
from metaface.learners.base import FeatureLearner, Recipe, State


class Prototypical(FeatureLearner):
    """Prototypical networks (Snell, Swersky, Zemel 2017, arXiv 1703.05175).

    Trained at a higher way than it is tested at, with the same shot.

    Args:
        embedding: the shared network.
        distance: ``euclidean`` (squared, as in the paper) or ``cosine`` (scaled by ``scale``).
        scale: factor of the cosine, so that a softmax can be sure of an answer.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.Prototypical(mf.nets.Conv4(), distance="cosine")
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=30, shots=1, queries=1, meta_batch=1, lr=1e-3)

    def __init__(
        self,
        embedding: nn.Module,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        scale: float = 10.0,
    ) -> None:
        super().__init__(embedding)
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance={distance!r}: choose 'euclidean' or 'cosine'")
        check_rates(scale=scale)
        self.distance = distance
        self.scale = scale

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        return {"prototypes": average(self._placed(features), labels, ways)}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        features, prototypes = self._placed(features), state["prototypes"]
        if self.distance == "cosine":
            return self.scale * features @ F.normalize(prototypes, dim=-1).mT
        # -|q - p|^2, less |q|^2, which is the same for every class
        return 2 * features @ prototypes.mT - prototypes.square().sum(-1)[:, None]

    def _placed(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self.distance == "cosine" else features


def average(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Means ``[T, N, D]`` of each person's features ``[T, S, D]``; labels ``[T, S]``."""
    member = F.one_hot(labels, ways).to(features)  # [T, S, N]
    return member.mT @ features / member.sum(1)[..., None]
