"""A plain classifier of the training people, whose embedding then names others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_flags, check_rates
from metaface.data import FaceSet
from metaface.episodes.sampler import Episodes
from metaface.learners.base import FeatureLearner, Recipe, State, Weights, compute_losses
from metaface.learners.checks import check_episodes
from metaface.learners.cosine import imprint


class PeopleClassifier(FeatureLearner):
    """Training on the people's names, then nearest prototype: the baseline of every meta-learner.

    A linear layer with a row for each training person descends the cross-entropy of all of them
    (RFS, Tian et al. 2020, arXiv 2003.11539; Classifier-Baseline, Chen et al. 2021, arXiv
    2003.04390). With ``margin``, the logits are cosines of unit features and rows, and the angle to
    the true person's row is made larger by it (ArcFace, Deng et al. 2019, arXiv 1801.07698). New
    people are named by the cosine to the mean of their unit features; that layer is not used.

    A step sees all photographs of its tasks, support and query alike. A checkpoint holds the rows,
    which resemble the embeddings of the training people.

    Args:
        embedding: the shared network.
        margin: radians, added to the angle; None: plain softmax.
        scale: factor of the cosines.
        centred: features less their mean over the training photographs before they are scaled to
            unit length (SimpleShot's CL2N, Wang et al. 2019, arXiv 1911.04623).

    Attributes:
        people: the ids of the training people, int64 ``[P]``, in the order of the rows of
            ``weight`` ``[P, D]``.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=12, photos=4, progress=False)
        >>> learner = mf.learners.PeopleClassifier(mf.nets.Conv4(), margin=0.3)
        >>> run = mf.training.Run(progress=False)
        >>> _ = mf.train(learner, faces, ways=6, shots=1, iterations=2, run=run)
        >>> learner.weight.shape  # a row for each of them
        torch.Size([12, 64])
    """

    recipe = Recipe(ways=30, shots=1, queries=1, meta_batch=1, lr=1e-3)
    people: Tensor
    centre: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        margin: float | None = None,
        scale: float = 10.0,
        centred: bool = False,
    ) -> None:
        super().__init__(embedding)
        check_rates(margin=margin, scale=scale)
        check_flags(centred=centred)
        if margin is not None and margin >= math.pi:
            raise ValueError(f"margin={margin}: must be below pi, in radians")
        self.margin = margin
        self.scale = scale
        self.centred = centred
        self.weight = nn.Parameter(torch.empty(0, 0))
        self.register_buffer("people", torch.empty(0, dtype=torch.long))
        self.register_buffer("centre", torch.empty(0))

    # -- whom it is trained on -------------------------------------------------------------

    def begin(self, faces: FaceSet) -> None:
        channels, height, width = faces.image_shape
        people = torch.from_numpy(faces.person_ids)
        if len(self.people):
            self._refuse_others(people)
        else:
            self._meet(people, torch.zeros(1, 1, channels, height, width))

    def _meet(self, people: Tensor, pictures: Tensor) -> None:
        """A row for each of ``people``; ``pictures`` ``[T, n, C, H, W]``."""
        ids = people.unique().to(self.people.device)
        with torch.no_grad(), self.predicting():
            place = next((p for p in self.embedding.parameters()), self.weight)
            width = self.embed(self.theta(), pictures[:1, :1].to(place)).shape[-1]
        rows = torch.rand(len(ids), width, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.people = ids
        # the same parameter, which an optimiser may have already
        self.weight.data = (rows / math.sqrt(width)).to(place)
        self.centre = torch.zeros(width).to(place)

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        if not len(self.people):  # in a loop of the user's own
            episodes = check_episodes(episodes)
            self._meet(episodes.people, episodes.query)
        return super().meta_step(episodes)

    def _refuse_others(self, people: Tensor) -> None:
        """
        Raises:
            ValueError: there are not rows for all of ``people``.
        """
        unknown = people[~torch.isin(people, self.people.to(people.device))].unique().tolist()
        if unknown:
            raise ValueError(
                f"this classifier has rows for {len(self.people)} training people, and not for "
                f"those of ids {', '.join(map(str, unknown[:5]))}: train it on the people that "
                "it began with, or start another from its embedding (start=)"
            )

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        self._refuse_others(episodes.people)
        images = torch.cat([episodes.support, episodes.query], 1)
        labels = torch.cat([episodes.support_y, episodes.query_y], 1)
        features = self.embed(self.theta(), images)
        rows = torch.searchsorted(self.people, episodes.people.to(labels.device).gather(1, labels))
        slopes = self.slopes(compute_losses(self._name(features, rows), rows).sum())
        shown = episodes.support.shape[1]
        support, query = features.detach().tensor_split([shown], 1)
        state = self.fit_head(support, episodes.support_y, episodes.ways)
        return slopes, self.score_head(state, query)

    def _name(self, features: Tensor, rows: Tensor) -> Tensor:
        """Logits ``[T, n, P]`` of the training people; ``rows`` ``[T, n]`` are the true ones."""
        if self.margin is None:
            return features @ self.weight.mT
        cosines = F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).mT
        true = cosines.gather(-1, rows[..., None])
        angle = true.clamp(-1 + 1e-6, 1 - 1e-6).acos() + self.margin
        # beyond pi the cosine would rise again: from there on a line goes down
        harder = torch.where(
            angle < math.pi, angle.cos(), true - self.margin * math.sin(self.margin)
        )
        return self.scale * cosines.scatter(-1, rows[..., None], harder)

    # -- naming others ---------------------------------------------------------------------

    def refresh(self, batches: Iterable[Tensor]) -> None:
        if not self.centred:
            super().refresh(batches)
            return
        kept = list(batches)
        super().refresh(kept)
        with torch.no_grad(), self.predicting():
            theta = self.theta()
            features = torch.cat([self.embed(theta, images[None])[0] for images in kept])
        self.centre = features.mean(0)

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        return {"weight": imprint(self._place(features), labels, ways)}

    def score_head(self, state: State, features: Tensor) -> Tensor:
        return self.scale * self._place(features) @ state["weight"].mT

    def _place(self, features: Tensor) -> Tensor:
        centred = self.centred and len(self.centre) > 0
        return F.normalize(features - self.centre if centred else features, dim=-1)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (weight := state.get(f"{prefix}weight")) is not None:
            self.weight.data = self.weight.new_empty(weight.shape)
            self.people = self.people.new_empty(weight.shape[0])
            self.centre = self.centre.new_empty(weight.shape[-1] if len(weight) else 0)
        super()._load_from_state_dict(state, prefix, *rest)
