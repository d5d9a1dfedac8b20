"""How a face looks: where it is turned, its expression, its attributes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from metaface.multitask.heads.base import FaceHead

_DEGREES = 30.0  # unit of what is predicted


class Pose(FaceHead):
    """Yaw, pitch and roll; smooth L1 (knee at 3 degrees) in units of 30 degrees.

    Shape:
        ``[F, C]`` -> ``[F, 3]`` degrees.
    """

    reads = "box"
    label = "pose"

    def __init__(self, channels: int, reads: str = "box") -> None:
        super().__init__(channels, 3, reads)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * _DEGREES

    def known_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        return F.smooth_l1_loss(predicted / _DEGREES, truth / _DEGREES, beta=0.1)


class Expression(FaceHead):
    """One of several expressions; cross entropy.

    Shape:
        ``[F, C]`` -> logits ``[F, classes]``.
    """

    reads = "box"
    label = "expression"

    def __init__(self, channels: int, classes: int, reads: str = "box") -> None:
        super().__init__(channels, classes, reads)

    def known_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(predicted, truth)


class Attributes(FaceHead):
    """Several attributes, each there or not; binary cross entropy, mean over what is known.

    Shape:
        ``[F, C]`` -> logits ``[F, count]``.
    """

    reads = "box"
    label = "attributes"

    def __init__(self, channels: int, count: int, reads: str = "box") -> None:
        super().__init__(channels, count, reads)

    def known_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(predicted, truth)
