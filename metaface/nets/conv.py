"""Convolution with weights that may differ by task."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Settings = tuple[list[int], list[int], int]  # stride, padding, groups


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` without bias, fast where every task has weights of its own.

    Under ``torch.func.vmap`` with batched weights torch makes one grouped convolution of them. On
    a CPU one convolution a task, channels innermost, is several times faster (see
    ``docs/performance.md``), and so is a second derivative made of such convolutions. Elsewhere
    this is the plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        out: Tensor = _Conv.apply(
            x, self.weight, (list(self.stride), list(self.padding), self.groups)
        )
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


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


def _forward(x: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    stride, padding, groups = settings
    x, weight = to_channels_last(x), to_channels_last(weight)
    if x.ndim == 4:
        return F.conv2d(x, weight, None, stride, padding, 1, groups)
    out = None
    for task in range(len(x)):
        result = F.conv2d(x[task], weight[task], None, stride, padding, 1, groups)
        if out is None:
            out = empty_channels_last(result, len(x), *result.shape)
        out[task].copy_(result)
    assert out is not None
    return out


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, settings: Settings, to_x: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients by x (None unless ``to_x``) and by weight, of ``g`` by the output."""
    g, x, weight = to_channels_last(g), to_channels_last(x), to_channels_last(weight)
    stride, padding, groups = settings

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
        return one(g, x, weight)
    all_x = empty_channels_last(x, *x.shape) if to_x else None
    all_weight = empty_channels_last(weight, *weight.shape)
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
