"""Easy people, small networks and small tasks, for exact comparisons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metaface.data import FaceSet
from metaface.episodes import Episodes, EpisodeSampler
from metaface.nets import Conv4, NormMode


def patterns(people: int = 40, photos: int = 14, size: int = 16, seed: int = 0) -> FaceSet:
    """People who are a pattern of coloured squares, under strong lights that all people share.

    The lights drown the patterns for an untrained network, and are easily learnt away.
    """
    random = np.random.default_rng(seed)
    who = random.normal(size=(people, 1, 4, 4, 3))
    lights = random.normal(size=(2, 4, 4, 3))
    amount = random.normal(size=(people, photos, 2))
    pictures = 22 * who + 22 * np.einsum("pml,lhwc->pmhwc", amount, lights)
    pictures = pictures.repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    pictures = 128 + pictures + random.normal(scale=10, size=pictures.shape)
    images = pictures.clip(0, 255).astype(np.uint8).reshape(-1, size, size, 3)
    return FaceSet.from_arrays(images, np.repeat(np.arange(people), photos), name="patterns")


def tiny(norm: NormMode = "group", width: int = 8, seed: int = 0) -> Conv4:
    """A Conv4 of a few hundred weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Conv4(3, width=width, norm=norm)


def few_tasks(
    count: int = 3, ways: int = 3, shots: int = 2, queries: int = 2, *, size: int = 16
) -> Episodes:
    """Tasks of :func:`patterns` in float64, for exact comparisons."""
    sampler = EpisodeSampler(patterns(8, 6, size), ways, shots, queries)
    return sampler.batch(0, count).to(torch.float64)


def one(episodes: Episodes, task: int) -> Episodes:
    """Task ``task`` of a batch, as a batch of one."""
    tensors: dict[str, Any] = {
        n: v[task : task + 1] for n, v in vars(episodes).items() if isinstance(v, Tensor)
    }
    return replace(episodes, **tensors)


def flat_gradient(module: nn.Module) -> Tensor:
    """The gradients of all parameters, as one vector; zeros where there is none."""
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in module.parameters()
        ]
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    """Norm of the difference, as a share of the norm of ``want``."""
    return float((got - want).norm() / want.norm())
