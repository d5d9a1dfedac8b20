"""A network made faster to run, once it is no longer trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metaface.nets.norm import Norm2d


@torch.no_grad()
def fold_norms(net: nn.Module, example: Tensor) -> nn.Module:
    """A copy of ``net`` for inference on a CPU: each frozen ``Norm2d`` is folded into the
    convolution before it, and weights lie with channels innermost.

    Which convolution a normalisation follows is seen by running ``example`` through the network.
    A network whose folded copy answers otherwise (one that uses a convolution's output twice, by
    hand) is copied as it is.

    Args:
        net: in evaluation mode.
        example: float ``[n, C, H, W]``, as the network takes them.
    """
    convs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def note_conv(name: str, output: Tensor) -> None:
        convs[name] = output  # kept, so that no other tensor gets its identity
        calls[name] = calls.get(name, 0) + 1

    def note_norm(name: str, given: tuple[Tensor, ...], options: dict[str, Any]) -> None:
        calls[name] = calls.get(name, 0) + 1
        if len(given) == 1 and not options:  # not one that pools as well
            pairs.extend((conv, name) for conv, output in convs.items() if output is given[0])

    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(
                module.register_forward_hook(lambda m, i, output, n=name: note_conv(n, output))
            )
        elif isinstance(module, Norm2d) and module.mode in ("frozen", "pinned"):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda m, given, options, n=name: note_norm(n, given, options),
                    with_kwargs=True,
                )
            )
    try:
        want = net(example)
    finally:
        for hook in hooks:
            hook.remove()
    fast = _lay_out(net)
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == 1:
            fast.set_submodule(conv, _fold(net.get_submodule(conv), net.get_submodule(norm)))
            fast.set_submodule(norm, nn.Identity())
    scale = float(want.abs().max())
    same = torch.allclose(fast(example), want, rtol=1e-3, atol=1e-4 * scale)
    return fast if same else _lay_out(net)


def _lay_out(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, Norm2d)
    scale = (norm.running_var + 1e-5).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    both = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
    )
    both.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    both.bias.copy_(norm.bias - norm.running_mean * scale)  # type: ignore[union-attr]
    if conv.bias is not None:
        both.bias.add_(conv.bias * scale)  # type: ignore[union-attr]
    return both.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
