"""MobileFaceNet, one million parameters for face verification."""

from __future__ import annotations

from torch import Tensor, nn

from metaface.nets.conv import Conv2d
from metaface.nets.norm import Norm2d, NormMode

# expansion, channels, repeats, first stride: Table 1 of the paper
_BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(nn.Module):
    """MobileFaceNet (Chen et al. 2018, arXiv 1804.07573): inverted bottlenecks with PReLU, closed
    by a global depthwise convolution in place of average pooling.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        image_size: (height, width) the global depthwise convolution is built for; each is divided
            by 16 on the way there. The paper's 112x112, or 112x96 for the published CASIA weights.
        features: length D of the embedding.
        norm: see :class:`metaface.nets.Norm2d`.

    Shape:
        float ``[n, C, *image_size]`` in 0..1 -> ``[n, features]``.

    Raises:
        ValueError: images of another size.

    Example:
        >>> import torch
        >>> from metaface.nets import MobileFaceNet
        >>> net = MobileFaceNet(image_size=(112, 96), features=128)
        >>> net(torch.rand(2, 3, 112, 96)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: tuple[int, int] = (112, 112),
        features: int = 128,
        norm: NormMode = "frozen",
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.features = features
        self.conv1 = _ConvNorm(in_channels, 64, 3, 2, 1, norm=norm)
        self.dw_conv1 = _ConvNorm(64, 64, 3, 1, 1, groups=64, norm=norm)
        blocks, inputs = [], 64
        for expansion, outputs, repeats, stride in _BOTTLENECKS:
            for i in range(repeats):
                blocks.append(
                    _Bottleneck(inputs, outputs, stride if i == 0 else 1, expansion, norm)
                )
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _ConvNorm(inputs, 512, 1, 1, 0, norm=norm)
        last = (-(-image_size[0] // 16), -(-image_size[1] // 16))
        self.linear7 = _ConvNorm(512, 512, last, 1, 0, groups=512, activation=False, norm=norm)
        self.linear1 = _ConvNorm(512, features, 1, 1, 0, activation=False, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != tuple(self.image_size):
            raise ValueError(
                f"MobileFaceNet was built for {self.image_size[0]}x{self.image_size[1]} images "
                f"(height x width), got {images.shape[-2]}x{images.shape[-1]}: give image_size"
            )
        x = (images * 255 - 127.5) / 128
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        x = self.linear1(self.linear7(x))
        return x.flatten(1)


class Columns(nn.Module):
    """The middle columns of an aligned square face through a network that was trained on those.

    Shape:
        float ``[n, C, H, H]`` -> what ``net`` makes of ``[n, C, H, width]``.

    Example:
        >>> import torch
        >>> from metaface.nets import Columns, MobileFaceNet
        >>> net = Columns(MobileFaceNet(image_size=(112, 96)), width=96)
        >>> net(torch.rand(2, 3, 112, 112)).shape
        torch.Size([2, 128])
    """

    def __init__(self, net: nn.Module, width: int) -> None:
        super().__init__()
        self.net, self.width, self.features = net, width, net.features

    def forward(self, images: Tensor) -> Tensor:
        left = (images.shape[-1] - self.width) // 2
        features: Tensor = self.net(images[..., left : left + self.width])
        return features


class _ConvNorm(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int,
        padding: int,
        *,
        groups: int = 1,
        activation: bool = True,
        norm: NormMode,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = Norm2d(outputs, norm)
        self.prelu = nn.PReLU(outputs) if activation else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class _Bottleneck(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, expansion: int, norm: NormMode
    ) -> None:
        super().__init__()
        self.connect = stride == 1 and inputs == outputs
        hidden = inputs * expansion
        # one list, in the order of the published checkpoint's keys
        self.conv = nn.Sequential(
            Conv2d(inputs, hidden, 1, bias=False),
            Norm2d(hidden, norm),
            nn.PReLU(hidden),
            Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            Norm2d(hidden, norm),
            nn.PReLU(hidden),
            Conv2d(hidden, outputs, 1, bias=False),
            Norm2d(outputs, norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.connect else y
