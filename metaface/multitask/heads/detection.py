"""Where faces are: a heat map of centres, and a box at each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.multitask.backbone import STRIDE
from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import Head, Loss, zero_loss
from metaface.nets.conv import Conv2d

UNIT = 16.0  # pixels: of distances predicted
_HIDDEN = 32  # channels: half the backbone's, or the heads would cost as much as the backbone
_LONGEST = 4.5  # log of a distance in units, at most
_SPREAD = 0.54 / 6  # standard deviation of a centre's bump by the box's sides (TTFNet)


class Detection(Head):
    """Faces as points (CenterNet; Zhou, Wang, Krähenbühl 2019): a heat map of their centres, and
    the distances from there to the four sides of the box.

    The heat map learns by the penalty-reduced focal loss with bumps as TTFNet (Liu et al. 2020)
    makes them; where a picture is not complete, outside the known boxes nothing is learnt. The
    boxes learn by generalised IoU (Rezatofighi et al. 2019) at the centre's cell and the eight
    around it. The loss is the heat map's, by face, plus twice the boxes'.

    Shape:
        ``[n, C, h, w]`` -> ``[n, 5, h, w]``: logits of the heat map, and the logarithms of the
        distances to left, top, right, bottom in 16 pixels.
    """

    reads = "map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = map_layers(channels, 5)
        with torch.no_grad():
            last = self.layers[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            last.bias[0] = -math.log(99)  # hardly any cell is a centre (Lin et al. 2017)

    def forward(self, maps: Tensor) -> Tensor:
        predicted: Tensor = self.layers(maps)
        return predicted

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        known = (~batch.boxes.isnan().any(1)).nonzero()[:, 0]
        boxes, image = batch.boxes[known], batch.image[known]
        pictures = int(batch.complete.sum())
        if not len(known) and not pictures:
            return zero_loss(predicted)
        heat = make_heat_map(boxes, image, predicted.shape)
        learnt = find_inside(boxes, image, predicted.shape) | batch.complete[:, None, None]
        loss = focal_loss(predicted[:, 0], heat, learnt) / max(1, len(known))
        if not len(known):
            return Loss(loss, pictures)
        where, row, y, x = find_cells_around(boxes, image, predicted.shape)
        sides = decode_boxes(predicted[where, 1:, y, x], y, x)
        truth = _ends(boxes)[row]
        return Loss(loss + 2 * giou_loss(sides, truth).mean(), len(known))


def map_layers(channels: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution with ReLU to ``_HIDDEN`` channels, and a linear one to ``outputs``."""
    return nn.Sequential(
        Conv2d(channels, _HIDDEN, 3, padding=1, bias=True),
        nn.ReLU(),
        nn.Conv2d(_HIDDEN, outputs, 1),
    )


def decode_boxes(distances: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Left, top, right, bottom ``[k, 4]`` in pixels of what is predicted at cells y, x ``[k]``."""
    far = distances.clamp(-_LONGEST, _LONGEST).exp() * UNIT
    centre = (torch.stack([x, y], 1) + 0.5) * STRIDE
    return torch.cat([centre - far[:, :2], centre + far[:, 2:]], 1)


def find_cells(boxes: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Row and column of the cells that the boxes' centres are in."""
    cell = ((boxes[:, :2] + boxes[:, 2:] / 2) / STRIDE).floor().long()
    return cell[:, 1].clamp(0, shape[-2] - 1), cell[:, 0].clamp(0, shape[-1] - 1)


def find_cells_around(
    boxes: Tensor, image: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cells of the faces' centres and the eight around each, that lie inside box and map.

    Returns:
        int64 ``[k]`` each: picture, row of the face, y and x of the cell.
    """
    row, column = find_cells(boxes, shape)
    step = torch.arange(-1, 2, device=boxes.device)
    y = (row[:, None, None] + step[:, None]).expand(-1, 3, 3).flatten(1)
    x = (column[:, None, None] + step).expand(-1, 3, 3).flatten(1)
    middle = torch.stack([x, y], -1).to(boxes.dtype).add(0.5).mul(STRIDE)
    ends = _ends(boxes)[:, None]
    inside = (middle > ends[..., :2]).all(-1) & (middle < ends[..., 2:]).all(-1)
    inside &= (y >= 0) & (y < shape[-2]) & (x >= 0) & (x < shape[-1])
    inside[:, 4] = True  # the centre's
    face, which = inside.nonzero(as_tuple=True)
    return image[face], face, y[face, which], x[face, which]


@torch.no_grad()
def make_heat_map(boxes: Tensor, image: Tensor, shape: torch.Size) -> Tensor:
    """The heat map to learn, ``[n, h, w]``: 1 at the cell of each centre, falling off by the size
    of its box; where faces meet, the greater."""
    n, _, height, width = shape
    row, column = find_cells(boxes, shape)
    deviation = (_SPREAD * boxes[:, 2:] / STRIDE).clamp_min(0.3)
    down = torch.arange(height, device=boxes.device) - row[:, None]
    across = torch.arange(width, device=boxes.device) - column[:, None]
    along_y = (-(down**2) / (2 * deviation[:, 1:] ** 2)).exp()
    along_x = (-(across**2) / (2 * deviation[:, :1] ** 2)).exp()
    each = along_y[:, :, None] * along_x[:, None, :]
    heat = boxes.new_zeros(n, height * width)
    return heat.scatter_reduce_(
        0, image[:, None].expand(-1, height * width), each.flatten(1), "amax"
    ).view(n, height, width)


@torch.no_grad()
def find_inside(boxes: Tensor, image: Tensor, shape: torch.Size) -> Tensor:
    """bool ``[n, h, w]``: the cells whose middle lies in a box."""
    n, _, height, width = shape
    left, top, right, bottom = _ends(boxes)[:, :, None].unbind(1)
    y = (torch.arange(height, device=boxes.device) + 0.5) * STRIDE
    x = (torch.arange(width, device=boxes.device) + 0.5) * STRIDE
    inside = ((y > top) & (y < bottom))[:, :, None] & ((x > left) & (x < right))[:, None, :]
    count = boxes.new_zeros(n, height, width)
    return count.index_add_(0, image, inside.to(count)) > 0


def focal_loss(logits: Tensor, heat: Tensor, where: Tensor) -> Tensor:
    """Penalty-reduced focal loss (Law & Deng 2018; Zhou et al. 2019), summed over ``where``.

    -(1 - p)^2 log p at the centres, where ``heat`` is 1; -(1 - heat)^4 p^2 log(1 - p) elsewhere.
    """
    p = logits.sigmoid()
    at = -((1 - p) ** 2) * F.logsigmoid(logits)
    off = -((1 - heat) ** 4) * p**2 * F.logsigmoid(-logits)
    return torch.where(heat == 1, at, off)[where | (heat == 1)].sum()


def giou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 - generalised IoU ``[k]`` of boxes ``[k, 4]`` by left, top, right, bottom.

    ``torchvision.ops.generalized_box_iou_loss`` rounds otherwise: a training begun with this and
    resumed with that would end in other weights.
    """
    low, high = torch.minimum(predicted, truth), torch.maximum(predicted, truth)
    both = (low[:, 2:] - high[:, :2]).clamp_min(0)
    hull = high[:, 2:] - low[:, :2]
    area = [(b[:, 2:] - b[:, :2]).prod(1) for b in (predicted, truth)]
    shared, around_both = both.prod(1), hull.prod(1).clamp_min(1e-6)
    union = (area[0] + area[1] - shared).clamp_min(1e-6)
    return 1 - shared / union + (around_both - union) / around_both


def _ends(boxes: Tensor) -> Tensor:
    """(x, y, width, height) as the two corners."""
    from torchvision.ops import box_convert  # it takes a second

    ends: Tensor = box_convert(boxes, "xywh", "xyxy")
    return ends
