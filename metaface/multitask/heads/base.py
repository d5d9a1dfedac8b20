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
    """One task.

    Attributes:
        reads: what its features are of: ``map``, the shared map; or of each face its ``centre``,
            ``box`` or ``landmarks`` (see :class:`metaface.multitask.roi.RoIHead`).

    Its constructor takes the number of channels of what it reads, and its own options. What is
    not known of a face is left out of the loss.

    ``forward``: ``[n, C, h, w]`` to maps, or ``[F, C]`` to a row a face.

    Example:
        >>> import torch
        >>> from metaface.multitask import Head, Loss
        >>> class Smile(Head):
        ...     reads = "box"  # of each face
        ...     def __init__(self, inputs):
        ...         super().__init__()
        ...         self.line = torch.nn.Linear(inputs, 1)
        ...     def forward(self, features):
        ...         return self.line(features)[:, 0]
        ...     def loss(self, predicted, batch, faces):
        ...         known = batch.expression[faces] >= 0
        ...         smiles = (batch.expression[faces][known] == 1).float()
        ...         errors = (predicted[known].sigmoid() - smiles).square()
        ...         return Loss(errors.sum() / max(1, len(errors)), len(errors))
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

    Attributes:
        label: what it learns, by the name that it has in :class:`Batch`.

    Shape:
        ``[F, channels]`` -> ``[F, outputs]``.
    """

    label: str

    def __init__(self, channels: int, outputs: int, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.layer = nn.Linear(channels, outputs)

    def forward(self, features: Tensor) -> Tensor:
        predicted: Tensor = self.layer(features)
        return predicted

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        truth = getattr(batch, self.label)[faces]
        known = ~truth.isnan() if truth.is_floating_point() else truth >= 0
        count = int((known.any(1) if known.ndim > 1 else known).sum())
        if not count:
            return zero_loss(predicted)
        return Loss(self.known_loss(predicted[known], truth[known]), count)

    def known_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """The mean loss, a scalar, of the labels that are known: a row a face, or ``[k]`` of all
        faces where a label has several numbers."""
        raise NotImplementedError


def zero_loss(predicted: Tensor) -> Loss:
    """The loss where nothing is known."""
    return Loss(predicted.new_zeros(()), 0)
