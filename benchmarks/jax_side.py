"""Few-shot training in plain JAX, as benchmarks/sides.py drives it.

``jax.grad`` through unrolled inner steps, ``jax.vmap`` over the tasks, one ``jax.jit`` of gradient
and Adam (optax). A 3x3 convolution is nine shifted pictures side by side, times its weights: on a
CPU ``lax.conv_general_dilated`` under ``vmap`` becomes a grouped convolution, which XLA computes
many times slower (docs/performance.md). Parameters are arrays of torch's shapes in the order of
``sides.ordered``: scale and shift of every normalisation, MAML's head (bias, weight), convolutions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Params = list[Any]
DEPTH = 4


def start(threads: int) -> None:
    """Makes XLA's pool of ``threads`` threads, bound to as many processors: it has one for every
    processor that the process may use when it starts, and no option of its own."""
    if not hasattr(os, "sched_setaffinity"):  # not Linux: one for every processor
        jax.devices()
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        jax.devices()
    finally:
        os.sched_setaffinity(0, allowed)


def convolve(images: Any, weight: Any) -> Any:
    """3x3, padded by one; images ``[B, H, W, C]``, weight ``[out, in, 3, 3]``."""
    count, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    columns = jnp.concatenate(shifted, -1).reshape(-1, 9 * channels)
    matrix = weight.transpose(2, 3, 1, 0).reshape(9 * channels, -1)
    return (columns @ matrix).reshape(count, height, width, -1)


def pool(images: Any) -> Any:
    """2x2 maxima; an odd last row or column is left out.

    The larger of two is chosen by ``where``. With ``max`` over axes the gradient of Prototypical
    was wrong by two thirds under ``jit``, and right without (jaxlib 0.10.2 on a CPU): ``max``
    passes it to operands that equal the result, and XLA probably computes one of the two again with
    another rounding.
    """
    count, height, width, channels = images.shape
    height, width = height // 2, width // 2
    even = images[:, : 2 * height, : 2 * width]
    rows = even.reshape(count, height, 2, 2 * width, channels)
    rows = larger(rows[:, :, 0], rows[:, :, 1]).reshape(count, height, width, 2, channels)
    return larger(rows[:, :, :, 0], rows[:, :, :, 1])


def larger(a: Any, b: Any) -> Any:
    return jnp.where(a >= b, a, b)


def embed(params: Params, images: Any) -> Any:
    """Conv4 with the batch's statistics; images ``[B, H, W, C]``, parameters without a head's."""
    scales, weights = params[: 2 * DEPTH], params[2 * DEPTH :]
    for k in range(DEPTH):
        images = convolve(images, weights[k])
        mean = images.mean((0, 1, 2))
        centred = images - mean
        deviation = lax.rsqrt((centred**2).mean((0, 1, 2)) + 1e-5)
        images = pool(jax.nn.relu(centred * deviation * scales[2 * k] + scales[2 * k + 1]))
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # in torch's order


def cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def maml_loss(
    params: Params, task: tuple[Any, ...], *, steps: int, lr: float, first_order: bool
) -> Any:
    support, support_y, query, query_y = task

    def loss(adapted: Params, images: Any, labels: Any) -> Any:
        bias, head = adapted[2 * DEPTH : 2 * DEPTH + 2]
        features = embed(adapted[: 2 * DEPTH] + adapted[2 * DEPTH + 2 :], images)
        return cross_entropy(features @ head.T + bias, labels)

    for _ in range(steps):
        slope = jax.grad(loss)(params, support, support_y)
        if first_order:
            slope = lax.stop_gradient(slope)
        params = [p - lr * g for p, g in zip(params, slope, strict=True)]
    return loss(params, query, query_y)


def prototypical_loss(params: Params, task: tuple[Any, ...], *, ways: int) -> Any:
    support, support_y, query, query_y = task
    member = jax.nn.one_hot(support_y, ways, dtype=support.dtype)
    prototypes = member.T @ embed(params, support) / member.sum(0)[:, None]
    distance = ((embed(params, query)[:, None] - prototypes) ** 2).sum(-1)
    return cross_entropy(-distance, query_y)


class Training:
    """``step()``: one step of Adam on the mean loss of all tasks; ``gradient`` is its gradient.

    Compiled when made, which takes ``compile_s`` seconds. ``params`` and ``tasks`` are numpy
    arrays of the precision to compute in; photographs ``[T, B, C, H, W]``.
    """

    def __init__(
        self,
        loss: Callable[[Params, tuple[Any, ...]], Any],
        params: list[np.ndarray],
        tasks: tuple[np.ndarray, ...],
        outer_lr: float,
    ) -> None:
        self.precise = params[0].dtype == np.float64
        optimizer = optax.adam(outer_lr)
        support, support_y, query, query_y = tasks

        def whole(params: Params, state: Any, tasks: tuple[Any, ...]) -> tuple[Any, Any, Params]:
            def mean(params: Params) -> Any:
                return jax.vmap(partial(loss, params))(tasks).mean()

            slope = jax.grad(mean)(params)
            updates, state = optimizer.update(slope, state, params)
            return optax.apply_updates(params, updates), state, slope

        with self._precision():
            images = [np.ascontiguousarray(i.transpose(0, 1, 3, 4, 2)) for i in (support, query)]
            self.tasks = jax.device_put((images[0], support_y, images[1], query_y))
            self.params: Any = jax.device_put(params)
            self.state: Any = optimizer.init(self.params)
            began = time.perf_counter()
            self.compiled = jax.jit(whole).lower(self.params, self.state, self.tasks).compile()
            self.compile_s = time.perf_counter() - began
        self.gradient: Params = []

    def step(self) -> None:
        with self._precision():
            self.params, self.state, self.gradient = self.compiled(
                self.params, self.state, self.tasks
            )
            jax.block_until_ready(self.params)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with jax.enable_x64(self.precise):
            yield
