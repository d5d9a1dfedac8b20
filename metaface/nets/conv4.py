"""Conv4, the four-block network of the few-shot papers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from metaface.nets.conv import Conv2d
from metaface.nets.norm import Norm2d, NormMode


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation, ReLU, then flattened.

    Both of the papers' variants: ``down="pool"`` halves the picture by 2x2 max pooling after each
    block (Vinyals et al. 2016; Snell et al. 2017), ``down="stride"`` by the convolution's stride
    (MAML on Omniglot, Finn et al. 2017; no gamma there).

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        width: channels of every block (64 in the papers; MAML on miniImageNet uses 32).
        norm: see :class:`metaface.nets.Norm2d`.
        down: ``pool`` or ``stride``.

    Shape:
        float ``[n, C, H, W]`` in 0..1 -> ``[n, D]``; D = 64 at 28x28 with pooling and width 64.

    Example:
        >>> import torch
        >>> from metaface.nets import Conv4
        >>> Conv4()(torch.rand(2, 3, 28, 28)).shape
        torch.Size([2, 64])
        >>> Conv4(in_channels=1, width=32)(torch.rand(2, 1, 84, 84)).shape
        torch.Size([2, 800])
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 64,
        norm: NormMode = "group",
        down: Literal["pool", "stride"] = "pool",
    ) -> None:
        super().__init__()
        if down not in ("pool", "stride"):
            raise ValueError(f"down={down!r}: choose 'pool' or 'stride'")
        self.down = down
        stride = 2 if down == "stride" else 1
        self.convs = nn.ModuleList(
            Conv2d(in_channels if i == 0 else width, width, 3, stride, padding=1, bias=False)
            for i in range(4)
        )
        self.norms = nn.ModuleList(Norm2d(width, norm, affine=down == "pool") for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        x = images * 2 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x), pool=self.down == "pool", relu=True)
        return x.flatten(1)
