"""Normalisation with the mode said aloud: batch, frozen or group."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.nets.conv import to_channels_last
from metaface.nets.fused import can_fuse, compile_passes, normalise_and_scale

NormMode = Literal["batch", "frozen", "pinned", "group"]
MODES: tuple[NormMode, ...] = get_args(NormMode)


class Norm2d(nn.Module):
    """Normalise ``[n, C, H, W]``, then scale by gamma and shift by beta.

    Modes:
        ``group``: GroupNorm over 8 groups (Wu & He 2018): every photograph by itself.
        ``batch``: statistics of the images at hand, always. *Transductive* where queries share a
            batch; a single photograph cannot be identified.
        ``frozen``: statistics of the images at hand while training; the population's, set by
            :func:`refresh_statistics`, when adapting and predicting.
        ``pinned``: the population's that were loaded, always: for pretrained networks, whose few
            new photographs are no population. Every photograph by itself.

    Gamma and beta are applied outside the normalising call: under ``torch.func.vmap`` the fused
    call with a gamma that differs by task gives wrong second-order gradients, silently
    (pytorch/functorch#534).

    ``forward(x, pool=True, relu=True)`` applies ReLU and halves the picture by 2x2 max pooling as
    well. What follows the normalisation (gamma, beta, ReLU) is monotone in each channel, so pooling
    first gives the same numbers, and leaves it a quarter of the work. All of it is one pass over
    memory where numba is installed, and gradients are recorded or training or an evaluation has
    begun; see :mod:`metaface.nets.fused`.

    Example:
        >>> import torch
        >>> from metaface.nets import Norm2d
        >>> maps = torch.rand(2, 16, 14, 14)
        >>> Norm2d(16, "group")(maps).shape, Norm2d(16, "batch")(maps, pool=True).shape
        (torch.Size([2, 16, 14, 14]), torch.Size([2, 16, 7, 7]))
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
        if mode in ("frozen", "pinned"):
            # named as nn.BatchNorm2d names them, so that published weights load as they are
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, pool: bool = False, relu: bool = False) -> Tensor:
        groups = self.groups if self.mode == "group" else None
        frozen = self.mode == "frozen" and not self.training and not self.collecting
        if frozen or self.mode == "pinned":
            x = F.batch_norm(x, self.running_mean, self.running_var, training=False)
            x = _pool(x, self._rising()) if pool else x
        else:
            if self.collecting:
                self._collect(x)
            if can_fuse(x) and x.dtype == self.bias.dtype:
                gamma = torch.ones_like(self.bias) if self.weight is None else self.weight
                return normalise_and_scale(x, gamma, self.bias, groups, pool, relu)
            x = normalise(x, groups, pool, self._rising() if pool else None)
        if self.weight is None:
            x = x + self.bias.view(-1, 1, 1)
        else:
            x = torch.addcmul(self.bias.view(-1, 1, 1), x, self.weight.view(-1, 1, 1))
        return F.relu(x) if relu else x

    def _rising(self) -> Tensor | None:
        """``[C, 1, 1]``: +1 where a channel rises with gamma, else -1; None: all rise."""
        if self.weight is None:
            return None
        return torch.where(self.weight.detach() < 0, -1.0, 1.0).to(self.weight).view(-1, 1, 1)

    def _collect(self, x: Tensor) -> None:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        self.num_batches_tracked += 1
        self.running_mean += (mean - self.running_mean) / self.num_batches_tracked
        self.running_var += (var - self.running_var) / self.num_batches_tracked

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, mode={self.mode!r}"


def prepare(module: nn.Module) -> None:
    """Compile or load what its layers run, where that is still to be done: before a clock starts.
    From then on they run it without gradients, too."""
    if any(isinstance(m, Norm2d) and m.mode != "pinned" for m in module.modules()):
        compile_passes()


@torch.no_grad()
def refresh_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the population statistics of every ``frozen`` layer from ``batches`` of images.

    The layers' means over the batches at the present weights (PreciseBN, Wu & Johnson 2021),
    instead of a moving average over old ones: exact to repeat, and nothing to update inside
    vectorised tasks. Networks without such layers are left alone, and ``batches`` unread.

    Args:
        batches: float ``[n, C, H, W]`` in 0..1, each normalised by its own statistics.

    Example:
        >>> import torch
        >>> from metaface import nets
        >>> net = nets.Conv4(norm="frozen")
        >>> nets.refresh_statistics(net, [torch.rand(8, 3, 28, 28) for _ in range(4)])
        >>> net.norms[0].running_mean.shape
        torch.Size([64])
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
    """The mode of a network: ``batch``, ``frozen``, ``pinned``, ``group`` or ``none``.

    A network that mixes modes goes by the one that leaks most, in that order. Plain
    ``nn.BatchNorm2d`` layers (of pretrained networks, always in eval mode) count as frozen.

    Example:
        >>> from metaface import nets
        >>> nets.norm_mode(nets.Conv4(norm="batch")), nets.norm_mode(nets.Pixels())
        ('batch', 'none')
    """
    modes = {m.mode for m in module.modules() if isinstance(m, Norm2d)}
    if any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in module.modules()):
        modes.add("frozen")
    return next((mode for mode in MODES if mode in modes), "none")


# -- normalisation by the statistics of the images at hand ------------------------------------


def normalise(
    x: Tensor, groups: int | None, pool: bool = False, up: Tensor | None = None
) -> Tensor:
    """``x`` less its mean, over its standard deviation; then 2x2 max pooling, if asked.

    On a CPU by derivatives of first and second order written out below: a fraction of the passes
    over memory that autograd makes of them. Elsewhere torch's own calls.

    Args:
        x: ``[n, C, H, W]``.
        groups: statistics of each image over C / groups channels; None: of each channel over all
            images.
        pool: pool the result.
        up: ``[C, 1, 1]`` of +1 and -1, channels of -1 are pooled by their least; None: all +1.
    """
    if not (x.is_cuda or torch.compiler.is_compiling()):  # exported, these are torch's calls
        up = x.new_ones(()) if up is None else up
        out: Tensor = _Normalise.apply(x, up, groups, pool)[0]
        return out
    y = F.batch_norm(x, None, None, training=True) if groups is None else F.group_norm(x, groups)
    return _pool(y, up) if pool else y


def _pool(x: Tensor, up: Tensor | None) -> Tensor:
    return F.max_pool2d(x, 2) if up is None else F.max_pool2d(x * up, 2) * up


def _sum(t: Tensor, groups: int | None) -> Tensor:
    """Sums over what shares statistics, for ``t`` ``[..., n, C, H, W]``; broadcasts against it."""
    if groups is None:
        return t.sum((-4, -2, -1), keepdim=True)
    by_channel = t.sum((-2, -1), keepdim=True)  # [..., n, C, 1, 1]
    grouped = by_channel.unflatten(-3, (groups, -1))
    return grouped.sum(-3, keepdim=True).expand_as(grouped).flatten(-4, -3)


def _pixels(t: Tensor) -> Tensor:
    """``[..., C, H, W]`` with channels innermost, seen as ``[..., H*W, C]``."""
    t = t.movedim(-3, -1)
    return t.view(*t.shape[:-3], -1, t.shape[-1])


def _spread(into: Tensor, places: Tensor | None, t: Tensor) -> Tensor:
    """Add ``t`` to the places that it was pooled from."""
    if places is None:
        return into.add_(t)
    _pixels(into).scatter_add_(-2, _pixels(places), _pixels(to_channels_last(t)))
    return into


def _gather(t: Tensor, places: Tensor | None) -> Tensor:
    if places is None:
        return t
    picked = _pixels(t).gather(-2, _pixels(places))
    return picked.unflatten(-2, places.shape[-2:]).movedim(-1, -3)


class _Normalise(torch.autograd.Function):
    """z = pool((x - mean) * s), with s = (variance + 1e-5) ** -0.5."""

    @staticmethod
    def forward(x: Tensor, up: Tensor, groups: int | None, pool: bool) -> Any:
        x = to_channels_last(x)
        count = _count(x, groups)
        mean = _sum(x, groups) / count
        variance = (_sum(x * x, groups) / count).addcmul_(mean, mean, value=-1).clamp_min_(0)
        s = variance.add_(1e-5).rsqrt_()
        if not pool:
            return torch.addcmul(-mean * s, x, s), mean, None, s
        lead = x.shape[:-3]
        falling = bool((up < 0).any())  # seldom: then a pass over x more
        z, places = F.max_pool2d((x * up if falling else x).flatten(0, -4), 2, return_indices=True)
        z, places = z.unflatten(0, lead), places.unflatten(0, lead)
        z = z * up if falling else z
        return torch.addcmul(-mean * s, z, s), mean, places, s

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        z, mean, places, s = output
        ctx.groups = inputs[2]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in (mean, places, s) if t is not None))
        ctx.save_for_backward(inputs[0], z, mean, places, s)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        return _NormaliseBack.apply(g, *ctx.saved_tensors, ctx.groups), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, up: Tensor, groups: int | None, pool: bool) -> Any:
        x = x.movedim(in_dims[0], 0)
        if in_dims[1] is not None:
            up = up.movedim(in_dims[1], 0)[:, None]
        z, mean, places, s = _Normalise.apply(x, up, groups, pool)
        return (z, mean, places, s), (0, 0, None if places is None else 0, 0)


_Normalise.forward.__signature__ = inspect.signature(_Normalise.forward)  # type: ignore[attr-defined]


def _count(x: Tensor, groups: int | None) -> int:
    """How many numbers share a mean."""
    n, c, h, w = x.shape[-4:]
    return n * h * w if groups is None else c // groups * h * w


class _NormaliseBack(torch.autograd.Function):
    """Gradient by x: s (U g - mean(g) - x^ mean(g z)), with x^ = (x - mean) s and U unpooling."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        z: Tensor,
        mean: Tensor,
        places: Tensor | None,
        s: Tensor,
        groups: int | None,
    ) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(g, x, z, mean, places, s)
        count = _count(x, groups)
        mean0, mean1 = _sum(g, groups) / count, _sum(g * z, groups) / count
        slope = -s * s * mean1
        return _spread(
            torch.addcmul(-s * mean0 - slope * mean, to_channels_last(x), slope), places, g * s
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, h: Tensor) -> Any:
        g, x, z, mean, places, s = ctx.saved_tensors
        count, groups = _count(x, ctx.groups), ctx.groups
        h, x = to_channels_last(h), to_channels_last(x)
        mean0, mean1 = _sum(g, groups) / count, _sum(g * z, groups) / count
        h0 = _sum(h, groups)
        h1 = (_sum(h * x, groups) - mean * h0) * s
        picked = _gather(h, places)
        by_g = torch.addcmul(picked - h0 / count, z, h1 / count, value=-1) * s
        by_s = _sum(picked * g, groups) - mean0 * h0 - mean1 * h1
        square = s * s / count
        slope = square * s * (2 * mean1 * h1 - by_s)
        by_x = torch.addcmul(square * (mean1 * h0 + mean0 * h1) - slope * mean, x, slope)
        by_x = by_x.addcmul_(h, -s * s * mean1)
        by_x = _spread(by_x, places, g * (-square * h1))
        return by_g, by_x, None, None, None, None, None
