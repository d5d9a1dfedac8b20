"""One face's features out of the shared map, by its region of interest (RoI)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.faces.alignment import SIDE, TEMPLATE
from metaface.multitask.backbone import STRIDE, Residual
from metaface.nets import NormMode

REGIONS = ("centre", "box", "landmarks")
PATCH = 14  # cells of a patch
_MARGIN = 1.2  # side of a box's frame, in units of the longer side of the box
# where the frame of an aligned crop lies by the box of a face: side and height of its middle above
# that of the box, in units of the square root of the box's area (the mean of procedural faces)
_SIDE, _ABOVE = 1.19, 0.145
_OUTSIDE = -9.0  # in grid_sample's coordinates, where the map is -1..1
_SHIFT, _SCALE, _TURN = 0.03, 0.06, math.radians(3)  # jitter: standard deviations

# A frame is a turned square, [F, 4]: x and y of its middle and x and y of half its upper side's
# vector, in pixels.


def box_frames(boxes: Tensor) -> Tensor:
    """Upright squares ``[F, 4]`` around boxes ``[F, 4]`` (left, top, width, height)."""
    half = boxes[:, 2:].amax(1) * _MARGIN / 2
    return torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, half[:, None], 0 * half[:, None]], 1)


def landmark_frames(landmarks: Tensor) -> Tensor:
    """Frames ``[F, 4]`` of the crops that ``metaface.faces.alignment`` would make of ``landmarks``
    ``[F, 5, 2]``: the least-squares similarity (Umeyama 1991), here from the template to the face.
    """
    template = torch.as_tensor(TEMPLATE, dtype=landmarks.dtype, device=landmarks.device)
    goal = template.mean(0)
    b = template - goal
    centre = landmarks.mean(1, keepdim=True)
    a = landmarks - centre
    # the similarity that takes the face to the template, as align has it, turned round
    along = (a * b).sum((1, 2))
    across = (a[..., 0] * b[:, 1] - a[..., 1] * b[:, 0]).sum(1)
    times = (a * a).sum((1, 2)) / (along**2 + across**2).clamp_min(1e-12)
    cos, sin = along * times, -across * times
    x, y = SIDE / 2 - goal[0], SIDE / 2 - goal[1]
    middle = torch.stack([cos * x - sin * y, sin * x + cos * y], 1) + centre[:, 0]
    return torch.cat([middle, torch.stack([cos, sin], 1) * (SIDE / 2)], 1)


def to_pixels(frames: Tensor, points: Tensor) -> Tensor:
    """The pixels ``[F, 5, 2]`` of points in ``frames`` ``[F, 4]``, each of which is -1..1 across
    and down."""
    across, down = points.unbind(2)
    cos, sin = frames[:, 2:3], frames[:, 3:4]
    turned = torch.stack([cos * across - sin * down, sin * across + cos * down], 2)
    return frames[:, None, :2] + turned


def to_frames(frames: Tensor, points: Tensor) -> Tensor:
    """Where points ``[F, 5, 2]`` in pixels lie in ``frames``: the inverse of :func:`to_pixels`."""
    away, along = points - frames[:, None, :2], frames[:, None, 2:]
    across = (away * along).sum(2)
    down = away[..., 1] * along[..., 0] - away[..., 0] * along[..., 1]
    return torch.stack([across, down], 2) / along.square().sum(2, keepdim=True)


def fill_missing(boxes: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes ``[F, 4]`` and landmarks ``[F, 5, 2]``; those that are NaN are put where a mean face
    has them, by the other."""
    frames = landmark_frames(landmarks)
    size = 2 * frames[:, 2:].norm(dim=1) / _SIDE
    down = torch.stack([-frames[:, 3], frames[:, 2]], 1) * (2 * _ABOVE / _SIDE)
    start = frames[:, :2] + down - size[:, None] / 2
    by_landmarks = torch.cat([start, size[:, None].expand(-1, 2)], 1)
    template = torch.as_tensor(TEMPLATE, dtype=landmarks.dtype, device=landmarks.device)
    area = (boxes[:, 2] * boxes[:, 3]).sqrt()
    middle = boxes[:, :2] + boxes[:, 2:] / 2
    middle = torch.stack([middle[:, 0], middle[:, 1] - _ABOVE * area], 1)
    by_box = middle[:, None] + (template / SIDE - 0.5) * (_SIDE * area)[:, None, None]
    return (
        torch.where(boxes.isnan().any(1, keepdim=True), by_landmarks, boxes),
        torch.where(landmarks.isnan().any(2, keepdim=True).any(1, keepdim=True), by_box, landmarks),
    )


def make_frames(region: str, boxes: Tensor, landmarks: Tensor) -> Tensor:
    """Frames ``[F, 4]`` of the faces for one of ``REGIONS``."""
    return landmark_frames(landmarks) if region == "landmarks" else box_frames(boxes)


def jitter(frames: Tensor, most: float | None = None) -> Tensor:
    """``frames`` a little shifted, scaled and turned, as predicted ones are; by torch's generator
    on the CPU.

    Args:
        most: each frame so many times as much, drawn from 0 to ``most``; None: once.
    """
    noise = torch.randn(len(frames), 4)
    if most is not None:
        noise = noise * (most * torch.rand(len(frames), 1))
    noise = noise.to(frames)
    half = frames[:, 2:].norm(dim=1, keepdim=True)
    scale, turn = (noise[:, 2] * _SCALE).exp(), noise[:, 3] * _TURN
    x, y = frames[:, 2] * scale, frames[:, 3] * scale
    turned = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], 1)
    return torch.cat([frames[:, :2] + noise[:, :2] * (2 * _SHIFT) * half, turned], 1)


def sampling_grid(frames: Tensor, side: int, height: int, width: int) -> Tensor:
    """Where the middles of ``side`` x ``side`` cells of each frame lie, ``[F, side, side, 2]``, as
    ``F.grid_sample`` takes it of a picture of so many pixels."""
    steps = (torch.arange(side, device=frames.device, dtype=frames.dtype) + 0.5) * 2 / side - 1
    across, down = steps[None, None, :], steps[None, :, None]
    x0, y0, cos, sin = (v[:, None, None] for v in frames.unbind(1))
    x = x0 + cos * across - sin * down
    y = y0 + sin * across + cos * down
    return torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], -1)


def roi_align(
    maps: Tensor, image: Tensor, frames: Tensor, side: int = PATCH, stride: int = STRIDE
) -> Tensor:
    """Patches ``[F, C, side, side]`` of the frames: RoIAlign (He et al. 2017) of turned squares,
    which ``torchvision.ops.roi_align`` does not have.

    Each cell is the mean of 2x2 bilinear samples; outside the map there is zero.

    Args:
        maps: ``[n, C, h, w]``.
        image: int64 ``[F]``, F >= 1, ascending: the map of each frame.
        frames: ``[F, 4]``, see :func:`box_frames`.
        stride: pixels a cell of the map.
    """
    height, width = maps.shape[-2:]
    each = sampling_grid(frames.to(maps), 2 * side, stride * height, stride * width)
    # the patches of a picture one below the other: no map is copied for each of its faces
    slot = torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)
    grid = each.new_full((len(maps), int(slot.max()) + 1, 2 * side, 2 * side, 2), _OUTSIDE)
    grid[image, slot] = each
    samples = F.grid_sample(maps, grid.flatten(1, 2), align_corners=False)
    return F.avg_pool2d(samples.unflatten(2, (-1, 2 * side))[image, :, slot], 2)


def resample(maps: Tensor, side: int = PATCH, length: int | None = None) -> Tensor:
    """Patches ``[n, C, side, side]`` of whole maps ``[n, C, h, w]``, or of the ``length`` cells in
    the middle, as :func:`roi_align` takes them.

    By two products of matrices, which have derivatives of every order, and by ``vmap``:
    grid_sample has neither.
    """
    rows, columns = (_samples(size, side, length or size).to(maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.mT


def _samples(size: int, side: int, length: int) -> Tensor:
    """``[side, size]``: weights of the mean of 2 samples a cell out of ``size`` values."""
    steps = (torch.arange(2 * side) + 0.5) * (length / (2 * side))
    at = (size - length) / 2 + steps - 0.5
    weights = (1 - (at[:, None] - torch.arange(size)).abs()).clamp_min(0)
    return weights.view(side, 2, size).mean(1)


class RoIHead(nn.Module):
    """From the region of each face to its features, which all heads of that region share.

    Args:
        channels: C of the map.
        features: D.
        region: ``centre`` (the map's vector at the middle of the box), ``box`` or ``landmarks``
            (a patch).
        norm: see :class:`metaface.nets.Norm2d`.

    Raises:
        ValueError: an unknown region.
    """

    def __init__(self, channels: int, features: int, region: str, norm: NormMode) -> None:
        super().__init__()
        if region not in REGIONS:
            raise ValueError(f"reads={region!r}: choose one of {', '.join(REGIONS)}")
        self.region = region
        side = -(-PATCH // 4)
        self.layers = (
            nn.Sequential(
                nn.Linear(channels, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU()
            )
            if region == "centre"
            else nn.Sequential(
                Residual(channels, 2 * channels, 2, norm),
                Residual(2 * channels, 2 * channels, 2, norm),
                nn.Flatten(),
                nn.Linear(2 * channels * side**2, features),
                nn.ReLU(),
            )
        )

    def forward(self, maps: Tensor, image: Tensor, frames: Tensor) -> Tensor:
        """``[F, features]`` of the faces in ``frames``, see :func:`make_frames`."""
        if self.region == "centre":
            upright = frames.new_tensor([0, 0, STRIDE / 2, 0])  # one cell
            frames = frames * frames.new_tensor([1, 1, 0, 0]) + upright
            patches = roi_align(maps, image, frames, 1).flatten(1)
        else:
            patches = roi_align(maps, image, frames)
        features: Tensor = self.layers(patches)
        return features

    def embed_crops(self, maps: Tensor) -> Tensor:
        """``[n, features]`` of the maps of pictures that a face's frame fills."""
        centre = self.region == "centre"
        features: Tensor = self.layers(
            resample(maps, 1, 1).flatten(1) if centre else resample(maps)
        )
        return features
