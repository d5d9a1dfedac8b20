"""The head that skin, eyes, mouth and hair are painted on, and the scene that comes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaface.synthetic import _geometry as geometry
from metaface.synthetic._brushes import color, mix, noise, ramp, step
from metaface.synthetic._geometry import View
from metaface.synthetic._random import Fields


@dataclass
class Scene:
    """A painted picture, before light: planes ``[B, H, W]``, colours ``[B, 3, H, W]``."""

    albedo: Tensor
    depth: Tensor
    dark: Tensor  #: factor for creases and other places that light does not reach
    gloss: Tensor
    person: Tensor  #: 1 on head, hair and body, 0 on background
    face: Tensor  #: 1 on the face's skin, eyes and mouth included, hair and occlusions excluded
    bare: Tensor  #: the same before occlusions
    pixel: Tensor  #: units a pixel ``[B, 1, 1]``
    x: Tensor  #: head coordinates of the skin at each pixel
    y: Tensor
    z: Tensor


class Canvas:
    """The head's surface at each pixel, and what is painted on it so far.

    Planes are ``[B, H, W]``, in head coordinates.

    Args:
        t: traits of the people.
        c: conditions of the photographs.
        view: pose and camera.
    """

    def __init__(self, t: Fields, c: Fields, view: View) -> None:
        self.t, self.c, self.view, self.pixel = t, c, view, view.pixel
        self.soft = 1.2 * view.pixel  # width of an outline
        depth, inside = geometry.build_head(t, c).pose(view.matrix).cast(view.u, view.v)
        self.on_head = step(inside, self.soft)
        self.depth = depth.clamp_min(-1.5)
        x, self.y, self.z = geometry.turn_back(view.matrix, view.u, view.v, self.depth)
        self.x = x + t.skew * self.y * 2
        self.ax = self.x.abs()
        self.front = ramp(self.z, -0.05, 0.35)  # 1 on the face, 0 from the ears on backwards
        self.fine, self.coarse = noise(0.5 * self.x + t.texture_x, 0.5 * self.y + t.texture_y)
        self.smile = c.smile.clamp_min(0)
        self.nose_y = t.nose_length - t.nose_up
        self.mouth = geometry.place_mouth(t, c)
        self.skin = color(t, "skin")
        self.albedo = self.fill(self.skin)
        self.dark = torch.ones_like(self.depth)
        self.relief = torch.zeros_like(self.depth)  # small height over the surface

    def fill(self, paint: Tensor) -> Tensor:
        """A picture of one colour ``[B, 3, H, W]``."""
        return paint.expand(len(self.depth), -1, *self.depth.shape[1:]).clone()

    def paint(self, paint: Tensor, alpha: Tensor) -> None:
        """Put a colour, or a picture, over what is there."""
        self.albedo = mix(self.albedo, paint, alpha)
