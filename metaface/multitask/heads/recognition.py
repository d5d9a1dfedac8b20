"""Who a face is: an embedding, learnt by telling the people of the training set apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.multitask.heads.base import FaceHead

MARGINS = {"softmax": 0.0, "arcface": 0.5, "cosface": 0.35}  # as their papers have them


class Recognition(FaceHead):
    """An embedding, learnt as a classification of ``people``.

    Losses:
        ``softmax``: of scale * cosine with a vector of each person (NormFace, Wang et al. 2017).
        ``arcface``: the cosine of the angle plus ``margin`` for the true person (Deng et al. 2019);
            past pi, where that would rise again, cosine - margin * sin(margin), as they publish.
        ``cosface``: the cosine less ``margin`` (Wang et al. 2018).

    Args:
        channels: of the features of a face.
        people: classes; ``Batch.person`` counts in them.
        loss: one of the above.
        margin: None: the paper's.
        scale: of the cosines.
        center: weight of the center loss besides (Wen et al. 2016): half the squared distance of
            the unit embedding to its person's centre, which learns by gradient as well.
        dim: length D of an embedding.
        reads: see :class:`Head`.

    Shape:
        ``[F, C]`` -> ``[F, dim]``, of any length; a score is the cosine.

    Raises:
        ValueError: an unknown loss; a person in a batch that is not in 0..people-1.
    """

    reads = "landmarks"
    label = "person"

    def __init__(
        self,
        channels: int,
        people: int,
        loss: str = "arcface",
        margin: float | None = None,
        scale: float = 32.0,
        center: float = 0.0,
        dim: int = 128,
        reads: str = "landmarks",
    ) -> None:
        super().__init__(channels, dim, reads)
        if loss not in MARGINS:
            raise ValueError(f"loss={loss!r}: choose one of {', '.join(MARGINS)}")
        self.kind, self.scale, self.center = loss, scale, center
        self.margin = MARGINS[loss] if margin is None else margin
        self.people = nn.Parameter(torch.randn(people, dim) * 0.1)
        self.centers = nn.Parameter(torch.zeros(people, dim)) if center else None

    def known_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        unit = F.normalize(predicted, dim=1)
        if int(truth.max()) >= len(self.people):
            raise ValueError(
                f"person {int(truth.max())} in a batch, and recognition was made for "
                f"{len(self.people)} people: give people={int(truth.max()) + 1} or more"
            )
        cosines = unit @ F.normalize(self.people, dim=1).T
        loss = F.cross_entropy(self.logits(cosines, truth), truth)
        if self.centers is not None:
            away = (unit - self.centers[truth]).square().sum(1)
            loss = loss + self.center * away.mean() / 2
        return loss

    def logits(self, cosines: Tensor, person: Tensor) -> Tensor:
        """``[F, people]`` of the cosines, with the margin at each face's ``person``."""
        if not self.margin or self.kind == "softmax":
            return self.scale * cosines
        true = cosines.gather(1, person[:, None])
        if self.kind == "cosface":
            less = true - self.margin
        else:
            sine = (1 - true**2).clamp_min(1e-6).sqrt()
            less = true * math.cos(self.margin) - sine * math.sin(self.margin)
            past = true <= math.cos(math.pi - self.margin)
            less = torch.where(past, true - self.margin * math.sin(self.margin), less)
        return self.scale * cosines.scatter(1, person[:, None], less)
