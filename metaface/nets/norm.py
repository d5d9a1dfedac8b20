"""Normalisation with the mode said aloud: batch, frozen or group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormMode = Literal["batch", "frozen", "group"]
MODES: tuple[str, ...] = get_args(NormMode)


class Norm2d(nn.Module):
    """Normalise ``[n, C, H, W]``, then scale by gamma and shift by beta.

    Modes:
        ``group``: GroupNorm over 8 groups (Wu & He 2018): every photograph by itself.
        ``batch``: statistics of the images at hand, always. *Transductive* where queries share a
            batch; a single photograph cannot be identified.
        ``frozen``: statistics of the images at hand while training; the population's, set by
            :func:`refresh_statistics`, when adapting and predicting.

    Gamma and beta are applied outside the normalising call: under ``torch.func.vmap`` the fused
    call with a gamma that differs by task gives wrong second-order gradients, silently
    (pytorch/functorch#534).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, mode: NormMode = "group", *, affine: bool = True) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"norm={mode!r}: choose one of {', '.join(MODES)}")
        self.mode = mode
        self.groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
        self.collecting = False
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels))
        if mode == "frozen":
            # named as nn.BatchNorm2d names them, so that published weights load as they are
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "group":
            x = F.group_norm(x, self.groups)
        elif self.mode == "frozen" and not self.training and not self.collecting:
            x = F.batch_norm(x, self.running_mean, self.running_var, training=False)
        else:
            if self.collecting:
                self._collect(x)
            x = F.batch_norm(x, None, None, training=True)
        if self.weight is not None:
            x = x * self.weight.view(-1, 1, 1)
        return x + self.bias.view(-1, 1, 1)

    def _collect(self, x: Tensor) -> None:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        self.num_batches_tracked += 1
        self.running_mean += (mean - self.running_mean) / self.num_batches_tracked
        self.running_var += (var - self.running_var) / self.num_batches_tracked

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, mode={self.mode!r}"


@torch.no_grad()
def refresh_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the population statistics of every ``frozen`` layer from ``batches`` of images.

    The layers' means over the batches at the present weights (PreciseBN, Wu & Johnson 2021),
    instead of a moving average over old ones: exact to repeat, and nothing to update inside
    vectorised tasks. Networks without such layers are left alone, and ``batches`` unread.

    Args:
        batches: float ``[n, C, H, W]`` in 0..1, each normalised by its own statistics.
    """
    layers = [m for m in module.modules() if isinstance(m, Norm2d) and m.mode == "frozen"]
    if not layers:
        return
    for layer in layers:
        layer.collecting = True
        for buffer in layer.buffers():
            buffer.zero_()
    try:
        for images in batches:
            module(images)
    finally:
        for layer in layers:
            layer.collecting = False


def norm_mode(module: nn.Module) -> str:
    """The mode of ``module``'s normalisation: ``batch``, ``frozen``, ``group`` or ``none``.

    A network that mixes modes goes by the one that leaks most: batch, then frozen, then group.
    Plain ``nn.BatchNorm2d`` layers (of pretrained networks, always in eval mode) count as frozen.
    """
    found = {m.mode for m in module.modules() if isinstance(m, Norm2d)}
    if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in module.modules()):
        found.add("frozen")
    return next((mode for mode in MODES if mode in found), "none")
