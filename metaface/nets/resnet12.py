"""ResNet-12, the deeper network of the few-shot papers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from metaface.nets.conv import Conv2d
from metaface.nets.norm import Norm2d, NormMode


class ResNet12(nn.Module):
    """Four residual blocks of three 3x3 convolutions, each halved by max pooling, then averaged.

    As in TADAM (Oreshkin et al. 2018) and MetaOptNet (Lee et al. 2019), without DropBlock.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        widths: channels of the four blocks (MetaOptNet: 64, 160, 320, 640).
        norm: see :class:`metaface.nets.Norm2d`.

    Shape:
        float ``[n, C, H, W]`` in 0..1, sides of at least 16 -> ``[n, widths[-1]]``.

    Example:
        >>> import torch
        >>> from metaface.nets import ResNet12
        >>> ResNet12(widths=(16, 32, 64, 128))(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        norm: NormMode = "group",
    ) -> None:
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.Sequential(
            *(_Block(i, o, norm) for i, o in zip(inputs, widths, strict=True))
        )

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.blocks(images * 2 - 1)
        return x.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: NormMode) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1, bias=False)
            for i in range(3)
        )
        self.norms = nn.ModuleList(Norm2d(outputs, norm) for _ in range(3))
        self.skip = Conv2d(inputs, outputs, 1, bias=False)
        self.skip_norm = Norm2d(outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            if i < 2:
                y = F.leaky_relu(y, 0.1)
        y = F.leaky_relu(y + self.skip_norm(self.skip(x)), 0.1)
        return F.max_pool2d(y, 2)
