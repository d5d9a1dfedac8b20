"""How a face looks: where it is turned, its expression, its attributes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import FaceHead, Loss, nothing

_DEGREES = 30.0  # unit of what is predicted


class Pose(FaceHead):
    """Yaw, pitch and roll; smooth L1 (knee at 3 degrees) in units of 30 degrees.

    Shape:
        ``[F, C]`` -> ``[F, 3]`` degrees.
    """

    reads = "box"

    def __init__(self, channels: int, reads: str = "box") -> None:
        super().__init__(channels, 3, reads)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * _DEGREES

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        truth = batch.pose[faces]
        known = ~truth.isnan()
        count = int(known.any(1).sum())
        if not count:
            return nothing(predicted)
        found, truth = predicted[known] / _DEGREES, truth[known] / _DEGREES
        return Loss(F.smooth_l1_loss(found, truth, beta=0.1), count)


class Expression(FaceHead):
    """One of several expressions; cross entropy.

    Shape:
        ``[F, C]`` -> logits ``[F, classes]``.
    """

    reads = "box"

    def __init__(self, channels: int, classes: int, reads: str = "box") -> None:
        super().__init__(channels, classes, reads)

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        truth = batch.expression[faces]
        known = truth >= 0
        count = int(known.sum())
        if not count:
            return nothing(predicted)
        return Loss(F.cross_entropy(predicted[known], truth[known]), count)


class Attributes(FaceHead):
    """Several attributes, each there or not; binary cross entropy, mean over what is known.

    Shape:
        ``[F, C]`` -> logits ``[F, count]``.
    """

    reads = "box"

    def __init__(self, channels: int, count: int, reads: str = "box") -> None:
        super().__init__(channels, count, reads)

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        truth = batch.attributes[faces]
        known = ~truth.isnan()
        count = int(known.any(1).sum())
        if not count:
            return nothing(predicted)
        return Loss(F.binary_cross_entropy_with_logits(predicted[known], truth[known]), count)
