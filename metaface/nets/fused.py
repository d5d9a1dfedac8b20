"""Normalisation, scale, shift, ReLU and pooling as one operation with two derivatives.

    z = pool((x - mean) s),  s = (variance + 1e-5) ** -0.5,  u = gamma z + beta,  y = relu(u)

Backwards, with gu the gradient by u: by gamma sum(gu z), by beta sum(gu), and by x
s (U gz - mean(gz) - x^ mean(gz z)), with gz = gamma gu, x^ = (x - mean) s, and U the unpooling.
The second derivative of that is written out in ``_kernels.second``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import types
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metaface.nets.conv import empty_channels_last, to_channels_last

log = logging.getLogger("metaface.nets")

_ZEROS = {torch.float32: np.float32(0), torch.float64: np.float64(0)}


@functools.cache
def _load() -> types.ModuleType | None:
    """The compiled passes; None: numba is not installed, does not take the numpy that is, or has
    nowhere to keep what it compiles."""
    if find_spec("numba") is None:
        return None
    try:
        return importlib.import_module("metaface.nets._kernels")
    except (ImportError, RuntimeError) as error:
        log.warning(
            "the compiled passes cannot be used, and training goes on by torch's own, which are "
            "slower: numba says %s (if it finds no folder for its cache, set NUMBA_CACHE_DIR)",
            error,
        )
        return None


def can_fuse(x: Tensor) -> bool:
    """Whether there are compiled passes for numbers like those of ``x``, and ``x`` has numbers:
    while a network is traced, exported or compiled, it may have none.

    Without gradients only after :func:`compile_passes`: a few photographs are embedded by torch's
    own calls in less time than numba takes to load.
    """
    if x.device.type != "cpu" or x.dtype not in _ZEROS or type(x) not in (Tensor, nn.Parameter):
        return False
    if not (torch.is_grad_enabled() or compile_passes.cache_info().currsize):
        return False
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return not (traced or torch.compiler.is_compiling()) and _load() is not None


@functools.cache
def compile_passes() -> None:
    """Compile them for float32: some seconds once on a machine, then they are loaded.

    Training and evaluation do it before their clocks start, see ``norm.prepare``.
    """
    with torch.enable_grad():
        x = torch.arange(4.0).view(1, 1, 2, 2).requires_grad_()
        if can_fuse(x):
            y = normalise_and_scale(x, torch.ones(1), torch.zeros(1), None, True, True)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            torch.autograd.grad(slope.sum(), x)


def _run(name: str, tensors: tuple[Tensor | None, ...], settings: tuple[Any, ...]) -> None:
    """One of the compiled passes over the memory of ``tensors``; the first is x, the second gamma,
    and None stands for what is not needed: places where nothing is pooled, y without ReLU."""
    x, gamma = tensors[:2]
    assert x is not None and gamma is not None
    groups, pool, relu = settings
    *lead, n, c, height, width = x.shape
    tasks = lead[0] if lead else 1
    rows = gamma.shape[0] if gamma.ndim == 2 else 1
    if groups is None:
        shape = tasks, n, height, width, c, 1, rows
    else:
        shape = tasks * n, 1, height, width, c, c // groups, rows
    addresses = tuple(0 if t is None else t.data_ptr() for t in tensors)
    getattr(_load(), name)(addresses, shape, _ZEROS[x.dtype], pool, relu)


def normalise_and_scale(
    x: Tensor, gamma: Tensor, beta: Tensor, groups: int | None, pool: bool, relu: bool
) -> Tensor:
    """Normalised, scaled and shifted, through ReLU and 2x2 max pooling where asked.

    Args:
        x: ``[n, C, H, W]``.
        gamma, beta: ``[C]``.
        groups: statistics of each image over C / groups channels; None: of each channel over all
            images.
    """
    out: Tensor = _Fused.apply(x, gamma, beta, groups, pool, relu)[0]
    return out


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, gamma: Tensor, beta: Tensor, groups: int | None, pool: bool, relu: bool
    ) -> Any:
        x, gamma, beta = to_channels_last(x), gamma.contiguous(), beta.contiguous()
        *lead, c, height, width = x.shape
        by_task = gamma.shape == (*lead[:-1], c) and len(lead) == 2
        fits = gamma.shape == beta.shape and (by_task or gamma.shape == (c,))
        if not fits or not x.dtype == gamma.dtype == beta.dtype or gamma.device != x.device:
            raise RuntimeError(  # as torch's calls do: a learner says of which network and remedy
                f"normalisation of {list(x.shape)} {x.dtype} takes a gamma and a beta of size {c} "
                f"and the same dtype, got {list(gamma.shape)} {gamma.dtype} and "
                f"{list(beta.shape)} {beta.dtype}"
            )
        if pool:
            height, width = height // 2, width // 2
            if not height or not width:
                raise RuntimeError(f"2x2 pooling takes a size of 2x2 pixels, got {list(x.shape)}")
        small = *lead, c, height, width
        y, z = empty_channels_last(x, *small), empty_channels_last(x, *small)
        places = empty_channels_last(x, *small, dtype=torch.uint8) if pool else None
        sets = lead[:-1] if groups is None else lead
        mean, s = x.new_empty(*sets, c), x.new_empty(*sets, c)
        _run("forward", (x, gamma, beta, y, z, places, mean, s), (groups, pool, relu))
        return y, z, places, mean, s

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        y, z, places, mean, s = output
        x, gamma, _, *ctx.settings = inputs
        _, _, relu = ctx.settings
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in (z, places, mean, s) if t is not None))
        ctx.save_for_backward(x, gamma, y if relu else None, z, places, mean, s)

    @staticmethod
    def backward(ctx: Any, by_y: Tensor | None, *_: Any) -> Any:
        if by_y is None:
            return (None,) * 6
        x, gamma, y, z, places, mean, s = ctx.saved_tensors
        given = x, gamma, None if y is None else y.detach(), z, places, mean, s
        return *_FusedBack.apply(by_y, *given, ctx.settings), None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Tensor, gamma: Tensor, beta: Tensor, *settings: Any
    ) -> Any:
        tasks = info.batch_size
        x = x.movedim(in_dims[0], 0) if in_dims[0] is not None else x.expand(tasks, *x.shape)
        scale = [
            t.movedim(dim, 0) if dim is not None else t.expand(tasks, -1)
            for t, dim in zip((gamma, beta), in_dims[1:3], strict=True)
        ]
        if in_dims[1] is None and in_dims[2] is None:
            scale = [gamma, beta]
        out = _Fused.apply(x, *scale, *settings)
        return out, (0, 0, None if out[2] is None else 0, 0, 0)


_Fused.forward.__signature__ = inspect.signature(_Fused.forward)  # type: ignore[attr-defined]


class _FusedBack(torch.autograd.Function):
    """The gradients by x, gamma and beta."""

    @staticmethod
    def forward(
        ctx: Any,
        by_y: Tensor,
        x: Tensor,
        gamma: Tensor,
        y: Tensor | None,
        z: Tensor,
        places: Tensor | None,
        mean: Tensor,
        s: Tensor,
        settings: tuple[Any, ...],
    ) -> Any:
        ctx.settings = settings
        ctx.save_for_backward(by_y, x, gamma, y, z, places, mean, s)
        ctx.set_materialize_grads(False)
        by_y, x, gamma = to_channels_last(by_y), to_channels_last(x), gamma.contiguous()
        by_x = empty_channels_last(x, *x.shape)
        by_gamma, by_beta = torch.empty_like(gamma), torch.empty_like(gamma)
        given = x, gamma, y, z, places, mean, s, by_y
        _run("backward", (*given, by_x, by_gamma, by_beta), ctx.settings)
        return by_x, by_gamma, by_beta

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, h: Tensor | None, hg: Tensor | None, hb: Tensor | None) -> Any:
        by_y, x, gamma, y, z, places, mean, s = ctx.saved_tensors
        by_y, x, gamma = to_channels_last(by_y), to_channels_last(x), gamma.contiguous()
        h = torch.zeros_like(x) if h is None else to_channels_last(h)
        hg = torch.zeros_like(gamma) if hg is None else hg.contiguous()
        hb = torch.zeros_like(gamma) if hb is None else hb.contiguous()
        out_y, out_x = empty_channels_last(z, *z.shape), empty_channels_last(x, *x.shape)
        out_gamma = torch.empty_like(gamma)
        given = x, gamma, y, z, places, mean, s, by_y
        _run("second", (*given, h, hg, hb, out_y, out_x, out_gamma), ctx.settings)
        return out_y, out_x, out_gamma, *(None,) * 6
