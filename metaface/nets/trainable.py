"""Which part of a pretrained network learns: all of it, its norms, or an adaptation layer."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from metaface.nets.norm import Norm2d

WAYS = ("full", "norm", "last", "lora", "bottleneck", "none")


def set_trainable(net: nn.Module, how: str, features: int) -> nn.Module:
    """``net`` with some parameters left to train, the others frozen; it answers as before.

    A way may be followed by a colon and a number, such as ``lora:8``.

    Ways:
        ``full``: everything.
        ``norm``: what normalisation layers scale and shift by (Frankle, Schwab, Morcos 2021).
        ``last[:n]``: the last n modules with weights (default 4) and what comes after them.
        ``lora[:rank]``: a low-rank change of each convolution's and linear layer's weight (Hu et
            al. 2022; default rank 8), from zero; depthwise convolutions, which have nothing to be
            low-rank of, keep theirs.
        ``bottleneck[:width]``: an adaptation layer behind the network: features plus a two-layer
            change of them (Houlsby et al. 2019; default width 64), from zero.
        ``none``: nothing; for what is adapted to one task at a time.

    Args:
        net: changed in place.
        how: one of the above.
        features: length D of its embedding.

    Raises:
        ValueError: an unknown way, or a number that is none.

    Example:
        >>> from metaface import nets
        >>> net = nets.set_trainable(nets.Conv4(), "norm", features=64)
        >>> net.convs[0].weight.requires_grad, net.norms[0].weight.requires_grad
        (False, True)
    """
    name, _, text = how.partition(":")
    if name not in WAYS or (text and not (text.isdigit() and int(text) > 0)):
        raise ValueError(f"tune={how!r}: choose one of {', '.join(WAYS)}, such as lora:8")
    number = int(text) if text else None
    for parameter in net.parameters():
        parameter.requires_grad_(name == "full")
    if name == "norm":
        for module in net.modules():
            if isinstance(module, Norm2d):
                for parameter in module.parameters():
                    parameter.requires_grad_()
    elif name == "last":
        weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        every = list(net.modules())
        for module in every[every.index(weighted[-(number or 4) :][0]) :]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_()
    elif name == "lora":
        for module in list(net.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1:
                change = LowRank(module.weight, number or 8)
                parametrize.register_parametrization(module, "weight", change)
                module.parametrizations.weight.original.requires_grad_(False)  # type: ignore
    elif name == "bottleneck":
        return nn.Sequential(net, Bottleneck(features, number or 64))
    return net


def count_trainable(module: nn.Module) -> int:
    """How many numbers of a module are left to train.

    Example:
        >>> from metaface import nets
        >>> net = nets.Conv4()
        >>> nets.count_trainable(net)
        112832
        >>> nets.count_trainable(nets.set_trainable(net, "norm", features=64))
        512
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def merge_low_rank(net: nn.Module) -> nn.Module:
    """``net`` with low-rank changes added into its weights, in place: as fast as before them.

    Example:
        >>> from metaface import nets
        >>> net = nets.set_trainable(nets.Conv4(), "lora:4", features=64)
        >>> len(net.state_dict()) > len(nets.Conv4().state_dict())
        True
        >>> sorted(nets.merge_low_rank(net).state_dict()) == sorted(nets.Conv4().state_dict())
        True
    """
    for module in list(net.modules()):
        if parametrize.is_parametrized(module, "weight"):
            weight: Tensor = module.weight  # type: ignore[assignment]
            # torch's own removal takes the weight from the class, which copies share
            module.__class__ = type(module).__mro__[1]
            del module.parametrizations
            module.register_parameter("weight", nn.Parameter(weight.detach().clone()))
    return net


def interpolate_weights(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """A network part of the way from ``before`` to ``after``, both of one architecture.

    Weights are interpolated (WiSE-FT, Wortsman et al. 2022); low-rank changes are merged first.

    Args:
        before, after: left as they are.
        share: 0 is ``before``, 1 is ``after``.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> before, after = nets.Conv4(), nets.Conv4()
        >>> middle = nets.interpolate_weights(before, after, share=0.5)
        >>> mean = (before.convs[0].weight + after.convs[0].weight) / 2
        >>> torch.allclose(middle.convs[0].weight, mean)
        True
    """
    start = merge_low_rank(copy.deepcopy(before)).state_dict()
    between = merge_low_rank(copy.deepcopy(after))
    ends = between.state_dict()
    between.load_state_dict(
        {
            name: torch.lerp(start[name], end, share) if end.is_floating_point() else end
            for name, end in ends.items()
        }
    )
    return between


class LowRank(nn.Module):
    """weight -> weight + up @ down, in the weight's shape; zero at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, outputs, inputs)
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class Bottleneck(nn.Module):
    """features -> features + up(relu(down(features))), ``[n, D]``; zero at first."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = features + self.up(torch.relu(self.down(features)))
        return changed
