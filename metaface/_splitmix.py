"""Random numbers without a state: splitmix64's finaliser (Steele et al. 2014) of a key."""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the step from one counter to the next


def mix_bits(z: np.ndarray) -> np.ndarray:
    """uint64 of any shape -> as many, each a hash of its number."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def scale_bits(bits: np.ndarray) -> np.ndarray:
    """uint64 -> float64 in [0, 1)."""
    return (bits >> np.uint64(11)) * 2.0**-53
