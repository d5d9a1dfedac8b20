"""The shared network: pictures in, one map of features out, which all heads read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.nets import Backbone, Conv4, MobileFaceNet, Norm2d, NormMode, ResNet12, pretrained
from metaface.nets.conv import Conv2d

STRIDE = 4  # pixels a cell of the map
_WIDTHS, _BLOCKS = (32, 64, 128, 128), (1, 2, 2, 1)  # of Small, at strides 4, 8, 16, 32


class SharedBackbone(nn.Module):
    """A network's maps at stride 4 and coarser, merged from the coarsest down (feature pyramid,
    Lin et al. 2017): each cell of the one map sees far around it.

    Args:
        name: ``small`` (residual, one million weights, made for CPUs), ``mobilefacenet``,
            ``conv4``, ``resnet12``, or ``torchvision:resnet18`` and the like.
        channels: C of the map.
        norm: see :class:`metaface.nets.Norm2d`; ``batch`` is refused.
        weights: for ``mobilefacenet`` a published checkpoint, for torchvision what
            :class:`metaface.nets.Backbone` takes; None: fresh.
        width: of ``small``: so many times as many channels inside, in eights.

    Shape:
        float ``[n, 3, H, W]`` in 0..1, any sides -> ``[n, C, ceil(H / 4), ceil(W / 4)]``. Cell
        (i, j) is about the pixels of the 4x4 square that starts at row 4i and column 4j.

    Raises:
        ValueError: an unknown name, weights for a network that takes none, or a norm by which a
            picture's faces would depend on the pictures beside it.

    Example:
        >>> import torch
        >>> from metaface.multitask import SharedBackbone
        >>> backbone = SharedBackbone("small", channels=32, width=0.5)
        >>> backbone(torch.rand(1, 3, 96, 128)).shape
        torch.Size([1, 32, 24, 32])
    """

    def __init__(
        self,
        name: str = "small",
        channels: int = 64,
        norm: NormMode = "group",
        weights: str | Path | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if norm == "batch":
            raise ValueError(
                "norm='batch': what is predicted of a face would depend on the pictures beside it; "
                "choose group, frozen or pinned"
            )
        self.name, self.channels = name, channels
        self.body = _body(name, norm, weights, width)
        with torch.no_grad():
            side = self.body.multiple * 2
            maps = self.body(torch.zeros(1, 3, side, side))
        self.sides = nn.ModuleList(nn.Conv2d(m.shape[1], channels, 1) for m in maps)
        self.smooth = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = Norm2d(channels, norm)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        below, beside = -height % self.body.multiple, -width % self.body.multiple
        if below or beside:  # so that a cell is 4 pixels exactly
            images = F.pad(images, (0, beside, 0, below))
        maps = self.body(images)
        x: Tensor = self.sides[-1](maps[-1])
        for side, finer in zip(self.sides[-2::-1], maps[-2::-1], strict=True):
            x = F.interpolate(x, finer.shape[-2:]) + side(finer)
        x = self.norm(self.smooth(x), relu=True)
        return x[..., : -(-height // STRIDE), : -(-width // STRIDE)]


class _Body(nn.Module):
    """Pictures, whose sides are multiples of ``multiple``, -> maps at strides 4, 8, 16 ..."""

    multiple = 16

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError


def _body(name: str, norm: NormMode, weights: str | Path | None, width: float) -> _Body:
    if width != 1 and name != "small":
        raise ValueError(f"width={width}: only small has one, not {name}")
    if name.startswith("torchvision:"):
        return _Torchvision(name.removeprefix("torchvision:"), norm, weights)
    if name == "mobilefacenet":
        return _MobileFaceNet(norm, weights)
    if weights is not None:
        raise ValueError(f"weights={str(weights)!r}: there are none for a backbone {name!r}")
    if name not in _OWN:
        raise ValueError(
            f"no backbone {name!r}: choose one of mobilefacenet, {', '.join(_OWN)} or "
            "torchvision:<model>"
        )
    return _Small(norm, width) if name == "small" else _OWN[name](norm)


class _Small(_Body):
    multiple = 32

    def __init__(self, norm: NormMode, times: float = 1.0) -> None:
        super().__init__()
        inputs, *widths = (max(8, 8 * round(width * times / 8)) for width in (16, *_WIDTHS))
        self.first = Conv2d(3, inputs, 3, 2, padding=1, bias=False)
        self.first_norm = Norm2d(inputs, norm)
        stages = []
        for width, blocks in zip(widths, _BLOCKS, strict=True):
            stages.append(
                nn.Sequential(
                    *(
                        Residual(width if i else inputs, width, 1 if i else 2, norm)
                        for i in range(blocks)
                    )
                )
            )
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.first_norm(self.first(images * 2 - 1), relu=True)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Residual(nn.Module):
    """Two 3x3 convolutions beside a short cut (He et al. 2016); ``[n, inputs, H, W]`` to
    ``[n, outputs, H / stride, W / stride]``."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormMode) -> None:
        super().__init__()
        self.conv1 = Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = Norm2d(outputs, norm)
        self.conv2 = Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = Norm2d(outputs, norm)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.skip = nn.Sequential(
                Conv2d(inputs, outputs, 1, stride, bias=False), Norm2d(outputs, norm)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x), relu=True)))
        return F.relu(y + self.skip(x))


class _MobileFaceNet(_Body):
    def __init__(self, norm: NormMode, weights: str | Path | None) -> None:
        super().__init__()
        net = MobileFaceNet(norm=norm)
        self.first = nn.Sequential(net.conv1, net.dw_conv1)
        self.stages = nn.ModuleList((net.blocks[:5], net.blocks[5:12], net.blocks[12:]))
        if weights is not None:  # statistics are for norms that have them
            published = pretrained(weights)
            for part in ("conv1", "dw_conv1", "blocks"):
                own, theirs = net.get_submodule(part), published.get_submodule(part)
                own.load_state_dict(theirs.state_dict(), strict=norm != "group")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.first((images * 255 - 127.5) / 128)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Conv4(_Body):
    def __init__(self, norm: NormMode) -> None:
        super().__init__()
        self.net = Conv4(norm=norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images * 2 - 1, []
        for conv, norm in zip(self.net.convs, self.net.norms, strict=True):
            x = norm(conv(x), pool=True, relu=True)
            maps.append(x)
        return maps[1:]


class _ResNet12(_Body):
    def __init__(self, norm: NormMode) -> None:
        super().__init__()
        self.blocks = ResNet12(norm=norm).blocks

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images * 2 - 1, []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps[1:]


class _Torchvision(_Body):
    multiple = 32

    def __init__(self, name: str, norm: NormMode, weights: str | Path | None) -> None:
        from torchvision.models import feature_extraction  # it takes a second

        super().__init__()
        whole = Backbone(name, norm, weights)
        self.register_buffer("mean", whole.mean)
        self.register_buffer("std", whole.std)
        leaves = {"leaf_modules": [Norm2d]}
        net = whole.net.eval()
        nodes = feature_extraction.get_graph_node_names(net, leaves)[1]
        extract = partial(feature_extraction.create_feature_extractor, net, tracer_kwargs=leaves)
        every = extract(nodes)
        side = 128
        with torch.no_grad():
            maps = every(torch.zeros(1, 3, side, side))
        last = {}  # of each stride, the last node in the order they are computed
        for node, out in maps.items():
            if isinstance(out, Tensor) and out.ndim == 4 and out.shape[-1] == out.shape[-2]:
                last[side / out.shape[-1]] = node
        strides = [s for s in (4, 8, 16, 32) if s in last]
        if strides[:1] != [STRIDE]:
            raise ValueError(f"torchvision:{name} has no map at stride {STRIDE}: choose another")
        self.net = extract([last[s] for s in strides])

    def forward(self, images: Tensor) -> list[Tensor]:
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        return list(self.net((images - mean) / std).values())


_OWN = {"small": _Small, "conv4": _Conv4, "resnet12": _ResNet12}
