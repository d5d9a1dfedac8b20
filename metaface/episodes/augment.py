"""Random changes of photographs, on the whole batch at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """What may change, and how far. The randomness is given, not drawn, so it repeats exactly.

    Attributes:
        flip: mirror half of the photographs.
        crop: shift by up to this share of the side and zoom by up to this factor (0..1).
        light: change contrast by up to this factor and brightness by up to half of it (0..1).
        erase: cover a rectangle of up to half the side with grey, with this probability (0..1).
        shade: light from one side, that falls by up to this share on the other, and a gamma of
            1/3 to 3 at 1 (0..1).

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> augment = mf.Augment(flip=True, crop=0.1, light=0.2)
        >>> images, draws = torch.rand(8, 3, 28, 28), torch.rand(8, augment.draws)
        >>> augment(images, draws).shape
        torch.Size([8, 3, 28, 28])
        >>> torch.equal(augment(images, draws), augment(images, draws))
        True
    """

    flip: bool = True
    crop: float = 0.1
    light: float = 0.2
    erase: float = 0.0
    shade: float = 0.0

    NAMES: ClassVar[tuple[str, ...]] = ("flip", "crop", "light", "erase", "shade")

    @classmethod
    def of(cls, names: Iterable[str]) -> Augment:
        """The named changes (of ``NAMES``) at their usual strength, and no others.

        Raises:
            ValueError: an unknown name.

        Example:
            >>> import metaface as mf
            >>> mf.Augment.of(["flip", "erase"])
            Augment(flip=True, crop=0.0, light=0.0, erase=0.5, shade=0.0)
        """
        wanted = set(names)
        if unknown := wanted - set(cls.NAMES):
            raise ValueError(f"no augmentation {unknown}: choose of {', '.join(cls.NAMES)}")
        return cls(
            flip="flip" in wanted,
            crop=0.1 * ("crop" in wanted),
            light=0.2 * ("light" in wanted),
            erase=0.5 * ("erase" in wanted),
            shade=0.95 * ("shade" in wanted),
        )

    @property
    def draws(self) -> int:
        """How many uniform numbers a photograph takes."""
        return 15 if self.shade else 11

    def __post_init__(self) -> None:
        for name in ("crop", "light", "erase", "shade"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be in 0..1")

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change ``images``, float ``[n, C, H, W]`` in 0..1, by ``draws``, float ``[n, draws]``."""
        u = draws.to(images).T[:, :, None, None, None]  # [draws, n, 1, 1, 1]
        if self.crop:
            images = self._cropped(images, u)
        elif self.flip:
            images = torch.where(u[0] < 0.5, images.flip(-1), images)
        if self.shade:
            images = self._shaded(images, u)
        if self.light:
            gain = 1 + self.light * (2 * u[4] - 1)
            mean = images.mean((1, 2, 3), keepdim=True)
            images = ((images - mean) * gain + mean + self.light * (u[5] - 0.5)).clamp(0, 1)
        if self.erase:
            height, width = images.shape[-2:]
            y = torch.arange(height, device=images.device).view(1, 1, -1, 1)
            x = torch.arange(width, device=images.device).view(1, 1, 1, -1)
            inside = (y - u[6] * height).abs() < u[7] * height / 4
            inside = inside & ((x - u[8] * width).abs() < u[9] * width / 4)
            images = images.masked_fill(inside & (u[10] < self.erase), 0.5)
        return images

    def _shaded(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        y = torch.linspace(-1, 1, height, device=images.device).view(1, 1, -1, 1)
        x = torch.linspace(-1, 1, width, device=images.device).view(1, 1, 1, -1)
        angle = 2 * torch.pi * u[11]
        along = angle.cos() * x + angle.sin() * y
        fall = torch.sigmoid((2 + 8 * u[14]) * along)  # soft to hard
        gamma = torch.exp(self.shade * 1.1 * (2 * u[13] - 1))
        return (images * (1 - self.shade * u[12].sqrt() * fall)).clamp_min(1e-4) ** gamma

    def _cropped(self, images: Tensor, u: Tensor) -> Tensor:
        zoom = 1 - self.crop * u[1, :, 0, 0, 0]
        theta = images.new_zeros(len(images), 2, 3)
        mirrored = (u[0, :, 0, 0, 0] < 0.5) & self.flip
        theta[:, 0, 0] = torch.where(mirrored, -zoom, zoom)
        theta[:, 1, 1] = zoom
        theta[:, :, 2] = self.crop * (2 * u[2:4, :, 0, 0, 0].T - 1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
