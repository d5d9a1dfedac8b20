"""Where the eyes, the nose and the corners of the mouth are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.multitask.backbone import STRIDE
from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import Head, Loss, zero_loss
from metaface.multitask.heads.detection import UNIT, find_cells, find_cells_around, map_layers
from metaface.multitask.roi import PATCH, jitter, landmark_frames, roi_align, to_frames, to_pixels

_KNEE = 0.01  # of the size of the face: below it the loss is square, above linear
_FINE = 32  # channels of the refinement
_SPREAD = (1, 2, 4)  # dilations of its convolutions: together they see the whole frame
_JITTER = 4.0  # times the jitter of other heads, at most: the first estimate may be well off
_OWN = 0.5  # share of faces that are refined in the frame of the first estimate, if it is near
_REFINEMENTS = 2
_DARK = 0.02  # added to the contrast of the pixels, that dark ones are not divided by 0
_ENTROPY = 0.2  # weight of the cross entropy beside the distances


class Alignment(Head):
    """Five landmarks of each face: estimated at its centre, then refined twice (a cascade; Sun,
    Wang, Tang 2013).

    The estimate is in pixels from the middle of the cell, so that no error of the box enters, at
    the centre's cell and the eight around it. A refinement reads the frame of the landmarks so far
    (see :func:`metaface.multitask.roi.landmark_frames`), whose size and turn are the face's, out
    of further channels of the map and out of the picture, with its mean taken off; each landmark
    is the mean place by a heat map in the frame (integral regression, Sun et al. 2018). It learns
    in true frames with much jitter, so that it needs no good estimate and the mean face is no
    answer, and in frames of the estimate.

    The loss of each is smooth L1 of their distances by the size of the face (the square root of
    its box's area); to these is added :func:`heat_map_loss`.

    Shape:
        ``[n, C, h, w]`` -> ``[n, 42, h, w]``: x and y of each, in 16 pixels, and the channels
        of the refinement.
    """

    reads = "map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = map_layers(channels, 10)
        self.fine = nn.Conv2d(channels, _FINE, 1)
        self.pixels = nn.Sequential(
            nn.Conv2d(3, _FINE // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_FINE // 2, _FINE, 3, 2, padding=1),
        )
        looks: list[nn.Module] = []
        for wide in _SPREAD:
            looks += [nn.Conv2d(_FINE, _FINE, 3, padding=wide, dilation=wide), nn.ReLU()]
        self.again = nn.Sequential(*looks, nn.Conv2d(_FINE, 5, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.layers(maps), self.fine(maps)], 1)

    def landmarks(
        self, predicted: Tensor, images: Tensor, image: Tensor, y: Tensor, x: Tensor
    ) -> Tensor:
        """Landmarks ``[k, 5, 2]`` in pixels of the faces at cells y, x of pictures ``image``,
        int64 ``[k]``, ascending; ``predicted`` is what :meth:`forward` gave of the map of
        ``images`` ``[n, 3, H, W]``."""
        landmarks = decode_landmarks(predicted[image, :10, y, x], y, x)
        for _ in range(_REFINEMENTS if len(image) else 0):
            frames = landmark_frames(landmarks)
            landmarks = soft_argmax(self.heat(predicted, images, image, frames), frames)
        return landmarks

    def heat(self, predicted: Tensor, images: Tensor, image: Tensor, frames: Tensor) -> Tensor:
        """Logits ``[k, 5, PATCH, PATCH]`` of where in ``frames`` ``[k, 4]`` each landmark is."""
        pixels = roi_align(images, image, frames, 2 * PATCH, stride=1)
        shade, light = torch.std_mean(pixels, (1, 2, 3), keepdim=True)
        seen = self.pixels((pixels - light) / (shade + _DARK))
        logits: Tensor = self.again(F.relu(seen + roi_align(predicted[:, 10:], image, frames)))
        return logits

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        known = (batch.located & (~batch.landmarks.isnan()).all(2).any(1)).nonzero()[:, 0]
        if not len(known):
            return zero_loss(predicted)
        boxes, image, truth = batch.filled_boxes[known], batch.image[known], batch.landmarks[known]
        size = (boxes[:, 2] * boxes[:, 3]).sqrt()
        where, row, y, x = find_cells_around(boxes, image, predicted.shape)
        first = decode_landmarks(predicted[where, :10, y, x], y, x)
        frames = landmark_frames(batch.filled_landmarks[known])
        if self.training:
            y, x = find_cells(boxes, predicted.shape)
            own = landmark_frames(decode_landmarks(predicted[image, :10, y, x], y, x).detach())
            near = (to_frames(own, truth).abs() < 1).all(2).all(1)
            near &= (torch.rand(len(near)) < _OWN).to(near.device)
            frames = torch.where(near[:, None], own, jitter(frames, _JITTER))
        heat = self.heat(predicted, batch.images, image, frames)
        second = soft_argmax(heat, frames)
        value = _away(first, truth[row], size[row]) + _away(second, truth, size)
        return Loss(10 * value + _ENTROPY * heat_map_loss(heat, frames, truth), len(known))


def soft_argmax(heat: Tensor, frames: Tensor) -> Tensor:
    """Points ``[k, 5, 2]`` in pixels: the mean place by the softmax of ``heat``, logits
    ``[k, 5, PATCH, PATCH]`` in ``frames`` (integral regression, Sun et al. 2018)."""
    line = (torch.arange(PATCH).to(frames) + 0.5) * (2 / PATCH) - 1
    p = heat.flatten(2).softmax(2).unflatten(2, (PATCH, PATCH)).to(frames)
    return to_pixels(frames, torch.stack([p.sum(2) @ line, p.sum(3) @ line], 2))


def heat_map_loss(heat: Tensor, frames: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of ``heat``, meaned over the landmarks ``truth`` ``[k, 5, 2]`` that are known
    and lie in ``frames``; the four cells around a point are each as likely as they are near, so
    that the mean of what is learnt is the point."""
    place = (to_frames(frames, truth) + 1) * (PATCH / 2) - 0.5
    inside = (place > 0).all(2) & (place < PATCH - 1).all(2)  # False where it is not known
    if not inside.any():
        return heat.new_zeros(())
    line = torch.arange(PATCH).to(place)
    near = (1 - (place[inside][..., None] - line).abs()).clamp_min(0)  # [m, 2, PATCH]
    target = near[:, 1, :, None] * near[:, 0, None]
    return F.cross_entropy(heat[inside].flatten(1), target.flatten(1))


def _away(predicted: Tensor, truth: Tensor, size: Tensor) -> Tensor:
    """Smooth L1 of points ``[k, 5, 2]`` by ``size`` ``[k]``, meaned over those that are known."""
    away = ((predicted - truth) / size[:, None, None])[~truth.isnan().any(2)].abs()
    return torch.where(away < _KNEE, away**2 / (2 * _KNEE), away - _KNEE / 2).mean()


def decode_landmarks(offsets: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Points ``[k, 5, 2]`` in pixels of what is predicted ``[k, 10]`` at cells y, x ``[k]``."""
    centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
    return centre[:, None] + offsets.unflatten(1, (5, 2)) * UNIT
