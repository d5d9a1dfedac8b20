"""Raw pixels as features: the floor every trained network must beat."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(nn.Module):
    """The picture itself, averaged down to at most ``size`` x ``size`` and flattened.

    Shape:
        float ``[n, C, H, W]`` in 0..1 -> ``[n, C * size * size]``.

    Example:
        >>> import torch
        >>> from metaface.nets import Pixels
        >>> Pixels(size=8)(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 192])
    """

    def __init__(self, size: int = 28) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        if max(images.shape[-2:]) > self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images.flatten(1)
