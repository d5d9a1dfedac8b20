"""Convolution with weights that may differ by task."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Settings = tuple[list[int], list[int], int, bool]  # stride, padding, groups, in bfloat16
Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CHANNELS_BF16 = 16  # with fewer input channels, bfloat16 is not faster


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without bias, fast where every task has weights of its own.

    Under ``torch.func.vmap`` with batched weights torch makes one grouped convolution of them. On
    a CPU one convolution a task, channels innermost, is several times faster (see
    ``docs/performance.md``), and so is a second derivative made of such convolutions. Elsewhere
    this is the plain convolution. See :func:`convolve_in` for bfloat16.
    """

    bf16 = False  # see convolve_in

    @property
    def is_wide(self) -> bool:
        """Whether a product sums over so many channels that bfloat16 is faster, and the convolution
        is ours, which can be computed in it."""
        ours = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return ours and self.in_channels // self.groups >= CHANNELS_BF16

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)  # in float32: see is_wide
        settings = list(self.stride), list(self.padding), self.groups, self.bf16
        out: Tensor = _Conv.apply(x, self.weight, settings)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


def check_precision(module: nn.Module, precision: Precision) -> None:
    """Refuse what :func:`convolve_in` cannot do, or would do to no layer.

    Raises:
        ValueError: no such precision, or not with this network, on this device or processor.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return
    weights = [m.weight for m in module.modules() if isinstance(m, Conv2d) and m.is_wide]
    if not weights:
        raise ValueError(
            f"precision={precision!r}: this network has no metaface.nets.conv.Conv2d of "
            f"{CHANNELS_BF16} input channels or more, whose products it is for: leave it out"
        )
    if weights[0].device.type != "cpu" or weights[0].dtype != torch.float32:
        raise ValueError(
            f"precision={precision!r} is for float32 weights on the CPU, these are "
            f"{weights[0].dtype} on {weights[0].device}: leave it out"
        )
    if not torch.cpu._is_avx512_bf16_supported():
        raise ValueError(
            f"precision={precision!r}: this processor has no instructions for bfloat16 (AVX-512 "
            "BF16 or AMX), and would be slower for it: leave it out"
        )


@contextmanager
def convolve_in(module: nn.Module, precision: Precision) -> Iterator[None]:
    """Compute the convolutions of ``module`` in ``precision`` for the length of a ``with`` block.

    ``bf16``: what a convolution takes and what it gives, in both derivatives as well, is rounded to
    bfloat16 (8 bits of mantissa). Its sums, the weights, their updates, normalisation and all that
    is no convolution stay float32, and so do convolutions of few input channels.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> from metaface.nets.conv import convolve_in
        >>> net, images = mf.nets.Conv4(), torch.rand(2, 3, 28, 28)
        >>> with convolve_in(net, "bf16"):
        ...     rounded = net(images)
        >>> bool((rounded - net(images)).abs().max() < 0.1 * rounded.abs().max())
        True
    """
    layers = [m for m in module.modules() if isinstance(m, Conv2d) and m.is_wide]
    for layer in layers:
        layer.bf16 = precision == "bf16"
    try:
        yield
    finally:
        for layer in layers:
            layer.bf16 = False


def to_channels_last(t: Tensor) -> Tensor:
    """``t`` ``[..., C, H, W]`` with channels innermost in memory; copied only if they are not."""
    *lead, c, _, w = t.shape
    if c == 1 and t.is_contiguous():  # the same bytes; torch goes by the strides
        strides = t.stride()[: len(lead)]
        return t.as_strided(t.shape, (*strides, 1, w, 1))
    if t.ndim == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if t.stride(-3) == 1 and t.movedim(-3, -1).is_contiguous():
        return t
    return t.movedim(-3, -1).contiguous().movedim(-1, -3)


def empty_channels_last(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """``[..., C, H, W]`` with channels innermost in memory, on the device of ``like``."""
    strides = [1, shape[-1] * shape[-3], shape[-3]]
    size = math.prod(shape[-3:])
    for length in reversed(shape[:-3]):
        strides.insert(0, size)
        size *= length
    return torch.empty_strided(shape, strides, dtype=dtype or like.dtype, device=like.device)


# x [n, C, H, W] with weight [O, I, k, k], or [T, n, C, H, W] with [T, O, I, k, k]: task by task.
# A convolution is bilinear, so that its first and second derivatives are convolutions again.


def _factor(t: Tensor, bf16: bool) -> Tensor:
    """``t`` as the convolution takes it."""
    t = to_channels_last(t)
    return t.bfloat16() if bf16 else t


def _forward(x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    stride, padding, groups, bf16 = settings
    dtype, x, weight = x.dtype, _factor(x, bf16), _factor(weight, bf16)
    if x.ndim == 4:
        return F.conv2d(x, weight, None, stride, padding, 1, groups).to(dtype)
    out = None
    for task in range(len(x)):
        result = F.conv2d(x[task], weight[task], None, stride, padding, 1, groups)
        if out is None:
            out = empty_channels_last(result, len(x), *result.shape, dtype=dtype)
        out[task].copy_(result)
    assert out is not None
    return out


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, settings: Settings, to_x: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients by x (None unless ``to_x``) and by weight, of ``g`` by the output."""
    stride, padding, groups, bf16 = settings
    dtype = x.dtype
    g, x, weight = _factor(g, bf16), _factor(x, bf16), _factor(weight, bf16)

    def one(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor]:
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(
            g,
            x,
            weight,
            None,
            stride,
            padding,
            [1, 1],
            False,
            [0, 0],
            groups,
            [to_x, True, False],
        )
        return by_x, by_weight

    if x.ndim == 4:
        by_x, by_weight = one(g, x, weight)
        return None if by_x is None else by_x.to(dtype), by_weight.to(dtype)
    all_x = empty_channels_last(x, *x.shape, dtype=dtype) if to_x else None
    all_weight = empty_channels_last(weight, *weight.shape, dtype=dtype)
    for task in range(len(x)):
        by_x, by_weight = one(g[task], x[task], weight[task])
        all_weight[task].copy_(by_weight)
        if all_x is not None and by_x is not None:
            all_x[task].copy_(by_x)
    return all_x, all_weight


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
        return _forward(x, weight, settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, _ConvByWeight.apply(g, x, weight, ctx.settings), None
        return *_ConvByBoth.apply(g, x, weight, ctx.settings), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, settings: Settings) -> Any:
        x_dim, weight_dim, _ = in_dims
        tasks = info.batch_size
        if weight_dim is None:  # the tasks' images are one batch
            folded = _Conv.apply(x.movedim(x_dim, 0).flatten(0, 1), weight, settings)
            return folded.unflatten(0, (tasks, -1)), 0
        weight = weight.movedim(weight_dim, 0)
        x = x.expand(tasks, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
        return _Conv.apply(x, weight, settings), 0


# torch binds every call's arguments by the signature: made once, it costs a hundredth
_Conv.forward.__signature__ = inspect.signature(_Conv.forward)  # type: ignore[attr-defined]


class _ConvByBoth(torch.autograd.Function):
    """The gradients by x and by weight."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, settings: Settings) -> Any:
        ctx.settings = settings
        ctx.save_for_backward(g, x, weight)
        return _backward(g, x, weight, settings, to_x=True)

    @staticmethod
    def backward(ctx: Any, by_x: Tensor, by_weight: Tensor) -> Any:
        g, x, weight = ctx.saved_tensors
        by_g = _forward(by_x, weight, ctx.settings) + _forward(x, by_weight, ctx.settings)
        return by_g, *_backward(g, by_x, by_weight, ctx.settings, to_x=True), None


class _ConvByWeight(torch.autograd.Function):
    """The gradient by weight alone, of a first layer."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
        ctx.settings = settings
        ctx.save_for_backward(x)
        return _backward(g, x, weight, settings, to_x=False)[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_weight: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return _forward(x, by_weight, ctx.settings), None, None, None
