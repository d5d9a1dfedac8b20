"""Embedding networks: photographs ``[n, C, H, W]`` in 0..1 -> features ``[n, D]``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from metaface import _extensions
from metaface.arguments import check_counts
from metaface.data import IMAGE_SIZE
from metaface.nets.backbones import Backbone, make_adaptable
from metaface.nets.conv4 import Conv4
from metaface.nets.mobilefacenet import Columns, MobileFaceNet
from metaface.nets.norm import MODES, Norm2d, NormMode, norm_mode, refresh_statistics
from metaface.nets.pixels import Pixels
from metaface.nets.resnet12 import ResNet12
from metaface.nets.trainable import (
    count_trainable,
    interpolate_weights,
    merge_low_rank,
    set_trainable,
)
from metaface.nets.weights import find_not_finite, pretrained

__all__ = [
    "MODES",
    "NETS",
    "Backbone",
    "Columns",
    "Conv4",
    "MobileFaceNet",
    "Norm2d",
    "NormMode",
    "Pixels",
    "ResNet12",
    "build",
    "count_trainable",
    "find",
    "find_not_finite",
    "interpolate_weights",
    "make_adaptable",
    "merge_low_rank",
    "norm_mode",
    "pretrained",
    "refresh_statistics",
    "set_trainable",
]


def _mobilefacenet(in_channels: int, image_size: int, norm: NormMode) -> nn.Module:
    return MobileFaceNet(in_channels, (image_size, image_size), norm=norm)


def _published(in_channels: int, image_size: int, norm: NormMode) -> nn.Module:
    width = image_size * 96 // 112
    return Columns(MobileFaceNet(in_channels, (image_size, width), norm=norm), width)


def _conv4(in_channels: int, image_size: int, norm: NormMode, **options: Any) -> nn.Module:
    return Conv4(in_channels, norm=norm, **options)


def _resnet12(in_channels: int, image_size: int, norm: NormMode) -> nn.Module:
    return ResNet12(in_channels, norm=norm)


NETS: dict[str, Callable[[int, int, NormMode], nn.Module]] = {
    "conv4": _conv4,
    "conv4-32": partial(_conv4, width=32),
    "conv4-stride": partial(_conv4, down="stride"),
    "resnet12": _resnet12,
    "mobilefacenet": _mobilefacenet,
    "mobilefacenet-112x96": _published,
}


def find(name: str) -> Callable[[int, int, NormMode], nn.Module]:
    """What makes the network of a name, from channels, side of the pictures and norm.

    Args:
        name: one of ``NETS``, what a package has registered in ``metaface.nets``, or
            ``package.module:Class``.

    Raises:
        ValueError: an unknown name.
        ImportError: a package that cannot be imported.

    Example:
        >>> from metaface import nets
        >>> net = nets.find("conv4-stride")(3, 28, "group")
        >>> net.down, sorted(nets.NETS)[:3]
        ('stride', ['conv4', 'conv4-32', 'conv4-stride'])
    """
    make = NETS.get(name) or _extensions.find("nets", name)
    if make is None:
        known = _extensions.choices("nets", *NETS, "torchvision:<model>", "timm:<model>")
        raise ValueError(f"no network {name!r}: choose one of {known}")
    return make


def build(
    name: str, in_channels: int = 3, image_size: int = IMAGE_SIZE, norm: NormMode = "group"
) -> nn.Module:
    """A fresh network by name.

    Args:
        name: ``torchvision:resnet18``, ``timm:resnet18`` and their like, or see :func:`find`.
        in_channels: 1 (grey) or 3 (RGB).
        image_size: side of the square pictures it will see.
        norm: see :class:`Norm2d`.

    Raises:
        ValueError: an unknown name, or a size or number of channels that no photograph has.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> net = nets.build("conv4-32", in_channels=1, image_size=28)
        >>> net(torch.rand(2, 1, 28, 28)).shape, nets.norm_mode(net)
        (torch.Size([2, 32]), 'group')
    """
    if not isinstance(name, str):
        raise ValueError(f"name={name!r}: must be a network's name, such as 'conv4'")
    check_counts(1, image_size=image_size)
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels={in_channels!r}: must be 1 (grey) or 3 (RGB)")
    if name.startswith(("torchvision:", "timm:")):
        return Backbone(name.removeprefix("torchvision:"), norm)
    make = find(name)
    try:
        inspect.signature(make).bind(in_channels, image_size, norm)
    except TypeError as error:
        raise ValueError(
            f"{name} is not made from (in_channels, image_size, norm): {error}; see "
            "docs/add-a-network.md"
        ) from error
    net: object = make(in_channels, image_size, norm)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} makes a {type(net).__name__}, not a torch.nn.Module")
    return net
