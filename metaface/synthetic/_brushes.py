"""Soft shapes, noise and colours that procedural faces are painted with.

Only arithmetic that rounds alike everywhere is used per pixel (no exp, sin or pow), so that a
picture does not depend on its place in a batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaface.synthetic._random import Fields


@lru_cache(maxsize=1)
def texture() -> Tensor:
    """Two planes of smooth noise ``[1, 2, 256, 256]`` (fine, coarse) of unit variance."""
    white = np.random.RandomState(7).standard_normal((2, 256, 256))
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]) * 256
    f[0, 0] = 1e-9
    bands = np.stack([f**-0.4 * (f > 12) * (f < 90), f**-1.3 * (f > 2) * (f < 90)])
    planes = np.fft.ifft2(np.fft.fft2(white) * bands).real
    planes /= planes.std((1, 2), keepdims=True)
    return torch.from_numpy(planes.astype(np.float32))[None]


def noise(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The texture's fine and coarse plane at coordinates (period 4, mirrored)."""
    at = torch.stack([x, y], -1)
    tile = texture().expand(len(at), -1, -1, -1)
    out = F.grid_sample(tile, at, padding_mode="reflection", align_corners=False)
    return out[:, 0], out[:, 1]


def step(distance: Tensor, width: Tensor | float) -> Tensor:
    """0 to 1 across a seam of that width around distance 0."""
    return (distance / width + 0.5).clamp_(0, 1)


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 at low to 1 at high, smooth at both ends (low > high falls)."""
    s = ((x - low) / (high - low)).clamp_(0, 1)
    return s * s * (3 - 2 * s)


def bump(
    x: Tensor,
    y: Tensor,
    cx: Tensor | float,
    cy: Tensor | float,
    rx: Tensor | float,
    ry: Tensor | float,
) -> Tensor:
    """A round hill: 1 in the middle, 0 from one radius on."""
    a, b = (x - cx) / rx, (y - cy) / ry
    return torch.addcmul(1 - a * a, b, b, value=-1).clamp_min_(0).square_()


def mix(base: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    """Blend a colour (``[B, 3, 1, 1]`` or ``[B, 3, H, W]``) over a picture in place."""
    return base.add_((color - base).mul_(alpha[:, None]))


def color(values: Fields, name: str) -> Tensor:
    """The colour called ``name``: ``[B, 3, 1, 1]``."""
    return torch.stack([getattr(values, f"{name}_{c}") for c in "rgb"], 1)


def rgb(red: float, green: float, blue: float) -> Tensor:
    """A colour ``[3, 1, 1]`` for all pictures."""
    return torch.tensor([red, green, blue])[:, None, None]


def line(distance: Tensor, width: Tensor | float) -> Tensor:
    """1 on a line (distance 0), falling to 0 at that width on both sides of it."""
    return (1 - (distance / width).abs()).clamp_min(0)
