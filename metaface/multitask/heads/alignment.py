"""Where the eyes, the nose and the corners of the mouth are."""

from __future__ import annotations

import torch
from torch import Tensor

from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import Head, Loss, nothing
from metaface.multitask.heads.detection import UNIT, around, map_layers
from metaface.multitask.trunk import STRIDE

_KNEE = 0.03  # of the size of the face: where the loss goes over from square to straight


class Alignment(Head):
    """Five landmarks of each face, read off the map at its centre.

    They are predicted in pixels from the middle of the cell, so that no error of the box enters,
    at the centre's cell and the eight around it. The loss is smooth L1 of their distances by the
    size of the face (the square root of its box's area).

    Shape:
        ``[n, C, h, w]`` -> ``[n, 10, h, w]``: x and y of each, in 16 pixels.
    """

    reads = "map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = map_layers(channels, 10)

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.layers(maps)
        return found

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        known = (batch.readable & (~batch.points.isnan()).all(2).any(1)).nonzero()[:, 0]
        if not len(known):
            return nothing(predicted)
        boxes = batch.places[known]
        where, row, y, x = around(boxes, batch.image[known], predicted.shape)
        found = located(predicted[where, :, y, x], y, x)
        truth = batch.points[known][row]
        there = ~truth.isnan().any(2)
        size = (boxes[:, 2] * boxes[:, 3]).sqrt()[row]
        away = ((found - truth) / size[:, None, None])[there].abs()
        loss = torch.where(away < _KNEE, away**2 / (2 * _KNEE), away - _KNEE / 2)
        return Loss(10 * loss.mean(), len(known))


def located(offsets: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Points ``[k, 5, 2]`` in pixels of what is predicted ``[k, 10]`` at cells y, x ``[k]``."""
    centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
    return centre[:, None] + offsets.unflatten(1, (5, 2)) * UNIT
