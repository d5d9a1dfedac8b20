"""From an aligned crop to what a network takes; it travels with the network's weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CROP = 112  # side of an aligned crop, pixels


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an aligned 112x112 RGB crop before a network sees it, in this order.

    MetaFace's own networks take 0..1 and scale by themselves (MobileFaceNet to (x - 127.5) / 128),
    so theirs is ``mean=0, std=255``.

    Attributes:
        columns: first column kept, and the one after the last.
        size: (height, width) resized to, bilinear with antialiasing; None: as it is cut.
        channels: order of the channels; ``grey`` is ITU-R 601 luma, one channel.
        mean, std: the network gets (x - mean) / std of grey levels x in 0..255.
        mirror: whether the mirrored crop's embedding is added before the length is made 1.

    Raises:
        ValueError: a value that no crop can be given, by name.

    Example:
        >>> from metaface.recognition import Preprocessing
        >>> insightface = Preprocessing(mean=127.5, std=127.5)
        >>> Preprocessing.from_json(insightface.to_json()) == insightface
        True
    """

    columns: tuple[int, int] = (0, CROP)
    size: tuple[int, int] | None = None
    channels: Literal["RGB", "BGR", "grey"] = "RGB"
    mean: float = 0.0
    std: float = 255.0
    mirror: bool = False

    def __post_init__(self) -> None:
        first, end = self.columns
        if not 0 <= first < end <= CROP:
            raise ValueError(f"columns={self.columns}: give 0 <= first < end <= {CROP}")
        if self.size is not None and not all(1 <= side <= 4096 for side in self.size):
            raise ValueError(f"size={self.size}: give (height, width) in pixels, 1 to 4096")
        if self.channels not in ("RGB", "BGR", "grey"):
            raise ValueError(f"channels={self.channels!r}: choose RGB, BGR or grey")
        if not (np.isfinite([self.mean, self.std]).all() and self.std > 0):
            raise ValueError(f"mean={self.mean}, std={self.std}: give finite numbers, std above 0")

    def __call__(self, crops: np.ndarray) -> Tensor:
        """float32 ``[n, 3 or 1, height, width]`` of uint8 ``[n, 112, 112, 3]`` RGB crops."""
        first, end = self.columns
        cut = torch.from_numpy(np.ascontiguousarray(crops[:, :, first:end]))
        x = cut.permute(0, 3, 1, 2).float()
        if self.channels == "BGR":
            x = x.flip(1)
        elif self.channels == "grey":
            x = (x * x.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)
        if self.size is not None and tuple(x.shape[-2:]) != tuple(self.size):
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        return (x - self.mean) / self.std

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The smallest and the greatest number that a network can be given."""
        return -self.mean / self.std, (255 - self.mean) / self.std

    def to_json(self) -> str:
        """One line of JSON, the same for equal preprocessing."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Preprocessing:
        """The inverse of :meth:`to_json`; what is left out has its default.

        Raises:
            ValueError: not such JSON; what is wrong is named.
        """
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise ValueError(f"preprocessing is no JSON: {error}") from error
        names = [f.name for f in fields(cls)]
        if not isinstance(values, dict) or set(values) - set(names):
            raise ValueError(f"preprocessing {values!r}: give a JSON object of {', '.join(names)}")
        for name, value in values.items():
            values[name] = _check(name, value)
        return cls(**values)


def _check(name: str, value: Any) -> Any:
    """The value as the dataclass holds it, so that equal preprocessing has equal JSON."""
    if name == "mirror" and isinstance(value, bool):
        return value
    if name == "channels" and isinstance(value, str):
        return value
    if name in ("mean", "std") and type(value) in (int, float):
        return float(value)
    if name == "size" and value is None:
        return None
    pair = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
    if name in ("columns", "size") and pair:
        return tuple(value)
    raise ValueError(f"preprocessing has {name}={value!r}, which is of another type")


def for_pictures(height: int, width: int, channels: int, mirror: bool = False) -> Preprocessing:
    """For a network of MetaFace that takes pictures of this size.

    Width 96 of height 112 is the middle of the crop, as the published CASIA weights take it; any
    other size is resized to.
    """
    middle = height == CROP and width < CROP and (CROP - width) % 2 == 0
    edge = (CROP - width) // 2 if middle else 0
    whole = middle or height == width == CROP
    return Preprocessing(
        columns=(edge, CROP - edge),
        size=None if whole else (height, width),
        channels="grey" if channels == 1 else "RGB",
        mirror=mirror,
    )
