"""Counter-based random draws: every number is a hash of its key and its name.

Nothing here has a state, so a draw does not depend on what else is drawn, on the order, or on how
many keys are drawn together.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metaface._splitmix import GOLDEN, mix_bits, scale_bits


def mix(value: np.ndarray) -> np.ndarray:
    """A hash of uint64 values, elementwise."""
    return mix_bits(value + GOLDEN)


def key(*parts: int | str | np.ndarray) -> np.ndarray:
    """One uint64 key from integers, names and int arrays (broadcast against each other)."""
    result = np.zeros(1, np.uint64)
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        result = mix(
            result ^ mix(np.atleast_1d(np.asarray(number)).astype(np.int64).view(np.uint64))
        )
    return result


class Draws:
    """Named draws for each of N keys; every method returns float64 ``[N]``."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Evenly between ``low`` and ``high``."""
        return low + (high - low) * scale_bits(mix(self.keys ^ key(name)))

    def normal(self, name: str, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
        """Bell-shaped (the sum of three uniforms, so within 3 standard deviations)."""
        total = sum(self.uniform(f"{name}/{i}", -1.0, 1.0) for i in range(3))
        return mean + spread * np.asarray(total)

    def chance(self, name: str, probability: float | np.ndarray) -> np.ndarray:
        """1.0 with the given probability, else 0.0."""
        return (self.uniform(name) < probability).astype(np.float64)

    def choice(self, name: str, weights: np.ndarray | Sequence[float]) -> np.ndarray:
        """An index (int64) drawn by weights ``[K]`` or ``[N, K]``."""
        total = np.cumsum(np.asarray(weights, np.float64), axis=-1)
        total = np.broadcast_to(total, (len(self.keys), total.shape[-1]))
        at = self.uniform(name)[:, None] * total[:, -1:]
        return (at > total).sum(1).clip(0, total.shape[-1] - 1)


class Fields:
    """Named numbers of B images, each float32 ``[B, 1, 1]`` so that it meets ``[B, H, W]``."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self._values = {
            k: torch.from_numpy(v.astype(np.float32))[:, None, None] for k, v in values.items()
        }

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def rows(self, index: slice | Tensor) -> Fields:
        """The same fields for some of the images."""
        part = Fields({})
        part._values = {k: v[index] for k, v in self._values.items()}
        return part
