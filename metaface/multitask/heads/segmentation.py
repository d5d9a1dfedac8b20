"""Which pixels are a face."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.multitask.backbone import STRIDE
from metaface.multitask.batch import Batch
from metaface.multitask.heads.base import Head, Loss, zero_loss
from metaface.multitask.heads.detection import map_layers
from metaface.multitask.samples import UNKNOWN


class Segmentation(Head):
    """A mask of the picture's pixels: 4x4 of them out of each cell (sub-pixel convolution, Shi et
    al. 2016).

    The loss is binary cross entropy, mean over the known pixels, plus the Dice loss (Milletari et
    al. 2016) of each picture with known pixels.

    Shape:
        ``[n, C, h, w]`` -> logits ``[n, 1, 4h, 4w]``.
    """

    reads = "map"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(map_layers(channels, STRIDE**2), nn.PixelShuffle(STRIDE))

    def forward(self, maps: Tensor) -> Tensor:
        logits: Tensor = self.layers(maps)
        return logits

    def loss(self, predicted: Tensor, batch: Batch, faces: Tensor) -> Loss:
        known = batch.masks != UNKNOWN
        pictures = known.any(2).any(1)
        count = int(pictures.sum())
        if not count:
            return zero_loss(predicted)
        height, width = batch.masks.shape[-2:]
        logits, known = predicted[pictures, 0, :height, :width], known[pictures]
        truth = (batch.masks[pictures] == 1).to(logits)
        entropy = F.binary_cross_entropy_with_logits(logits[known], truth[known])
        share = logits.sigmoid() * known
        both, either = (share * truth).sum((1, 2)), (share + truth).sum((1, 2))
        return Loss(entropy + (1 - (2 * both + 1) / (either + 1)).mean(), count)
