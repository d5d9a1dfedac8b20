"""What every head has in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from metaface.multitask.batch import Batch


@dataclass(frozen=True)
class Loss:
    """A head's loss of a batch.

    Attributes:
        value: scalar, a mean over ``count``; exactly 0, without gradient, where that is 0.
        count: how many labels (faces, or pictures) were known.
    """

    value: Tensor
    count: int


class Head(nn.Module):
    """One task. Of the shared map (``reads = "map"``), or of the features of each face, read by
    its centre, box or landmarks (see :class:`metaface.multitask.roi.RoIHead`).

    Its constructor takes the number of channels of what it reads, and its own options. What is
    not known of a face is left out of the loss.

    ``forward``: ``[n, C, h, w]`` to maps, or ``[F, C]`` to a row a face.
    """

    reads: str

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        """The loss of what :meth:`forward` gave.

        Args:
            faces: int64, the rows of the batch's faces that ``predicted`` is of, where it is by
                face.
        """
        raise NotImplementedError


class FaceHead(Head):
    """A linear layer on the features of each face.

    Shape:
        ``[F, channels]`` -> ``[F, outputs]``.
    """

    def __init__(self, channels: int, outputs: int, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.layer = nn.Linear(channels, outputs)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.layer(features)
        return found


def nothing(predicted: Tensor) -> Loss:
    """The loss where nothing is known."""
    return Loss(predicted.new_zeros(()), 0)
