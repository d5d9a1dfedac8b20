"""Where the eyes, the nose and the corners of the mouth are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import Head, Loss, nothing
from metaface.multitask.heads.detection import UNIT, around, map_layers
from metaface.multitask.reader import PATCH, jittered, landmark_frames, points_in, read
from metaface.multitask.trunk import STRIDE
from metaface.nets.conv import Conv2d

_KNEE = 0.01  # of the size of the face: where the loss goes over from square to straight
_FINE = 32  # channels that are read for the second look
_WIDTH = 64  # channels of the second look
_JITTER = 2.0  # times the jitter of other readings, at most: the first look may be well off


class Alignment(Head):
    """Five landmarks of each face, read off the map at its centre, then looked at once more.

    They are predicted in pixels from the middle of the cell, so that no error of the box enters,
    at the centre's cell and the eight around it. The frame of these (see
    :func:`metaface.multitask.reader.landmark_frames`), whose size and turn are the face's, is read
    out of further channels, and there the landmarks are predicted as offsets from those of the
    template: a cascade of two (Sun, Wang, Tang 2013) on one map. The second look learns in true
    frames with jitter, so that it does not wait for the first.

    The loss of each is smooth L1 of their distances by the size of the face (the square root of
    its box's area); they are added.

    Shape:
        ``[n, C, h, w]`` -> ``[n, 42, h, w]``: x and y of each, in 16 pixels, and what the second
        look reads.
    """

    reads = "map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = map_layers(channels, 10 + _FINE)
        side = -(-PATCH // 4)
        self.again = nn.Sequential(
            Conv2d(_FINE, _WIDTH, 3, 2, padding=1, bias=True),
            nn.ReLU(),
            Conv2d(_WIDTH, _WIDTH, 3, 2, padding=1, bias=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(_WIDTH * side**2, 10),
        )

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.layers(maps)
        return found

    def points(self, predicted: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Landmarks ``[k, 5, 2]`` in pixels of the faces at cells y, x of pictures ``image``,
        int64 ``[k]``, ascending by picture; ``predicted`` is what :meth:`forward` gave."""
        first = located(predicted[image, :10, y, x], y, x)
        return self.refined(predicted, image, landmark_frames(first)) if len(image) else first

    def refined(self, predicted: Tensor, image: Tensor, frames: Tensor) -> Tensor:
        """Landmarks ``[k, 5, 2]`` in pixels by a look into ``frames`` ``[k, 4]``."""
        offsets = self.again(read(predicted[:, 10:], image, frames))
        return points_in(frames, offsets.unflatten(1, (5, 2)))

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        known = (batch.readable & (~batch.points.isnan()).all(2).any(1)).nonzero()[:, 0]
        if not len(known):
            return nothing(predicted)
        boxes, image, truth = batch.places[known], batch.image[known], batch.points[known]
        size = (boxes[:, 2] * boxes[:, 3]).sqrt()
        where, row, y, x = around(boxes, image, predicted.shape)
        first = located(predicted[where, :10, y, x], y, x)
        frames = landmark_frames(batch.marks[known])
        frames = jittered(frames, _JITTER) if self.training else frames
        second = self.refined(predicted, image, frames)
        value = _away(first, truth[row], size[row]) + _away(second, truth, size)
        return Loss(10 * value, len(known))


def _away(found: Tensor, truth: Tensor, size: Tensor) -> Tensor:
    """Smooth L1 of points ``[k, 5, 2]`` by ``size`` ``[k]``, meaned over those that are known."""
    away = ((found - truth) / size[:, None, None])[~truth.isnan().any(2)].abs()
    return torch.where(away < _KNEE, away**2 / (2 * _KNEE), away - _KNEE / 2).mean()


def located(offsets: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Points ``[k, 5, 2]`` in pixels of what is predicted ``[k, 10]`` at cells y, x ``[k]``."""
    centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
    return centre[:, None] + offsets.unflatten(1, (5, 2)) * UNIT
