"""The mouth of a procedural face, and the beard around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metaface.synthetic._brushes import bump, line, mix, ramp, rgb, step
from metaface.synthetic._canvas import Canvas


@dataclass(frozen=True)
class Lips:
    """Where lips and mouth are: planes ``[B, H, W]``, heights in head coordinates."""

    top: Tensor  #: height of the upper lip's lower edge
    low: Tensor  #: height of the lower lip's upper edge
    upper: Tensor  #: thickness of the upper lip
    lower: Tensor  #: thickness of the lower lip
    lips: Tensor  #: how far a pixel is a lip
    cavity: Tensor  #: how far it is inside the mouth


def paint_mouth(p: Canvas) -> Lips:
    """Paint lips, teeth and the dark between them."""
    t, ax, x, y, soft, mouth = p.t, p.ax, p.x, p.y, p.soft, p.mouth
    across = x / mouth.half
    square = (across * across).clamp_max(1.6)
    middle = mouth.y - mouth.rise * square
    taper = (1 - square).clamp_min(0)
    bow = t.lip_bow * bump(ax, y, 0.0, mouth.y - t.lip_upper, 0.09, 0.3)
    upper = t.lip_upper * (1 - 0.3 * p.smile) * (taper * (1 - bow) * 1.05)
    lower = t.lip_lower * (1 - 0.25 * p.smile) * (1 - square * square).clamp_min(0)
    opened = mouth.gap * taper
    top, low = middle - 0.3 * opened, middle + opened
    lips = step(y - (top - upper), soft) * step((low + lower) - y, soft)
    lips = lips * step(1.02 - across.abs(), soft / mouth.half) * p.front
    cavity = step(y - top, soft) * step(low - y, soft) * step(opened - 0.012, 0.03)
    cavity = cavity * step(1 - across.abs(), soft / mouth.half) * p.front
    p.paint(torch.lerp(p.skin * 0.68, p.skin * rgb(0.8, 0.36, 0.38), t.lip_red[:, None]), lips)
    teeth = step(top + 0.095 - y, soft) * step(0.8 - across.abs(), 0.2)
    teeth = teeth * (0.95 - 0.5 * square.clamp_max(1))
    inside = p.fill(rgb(0.05, 0.012, 0.012).expand(len(x), -1, -1, -1))
    p.paint(mix(inside, rgb(0.62, 0.58, 0.5), teeth), cavity)
    seam = line(y - middle, 0.022 + 0.45 * p.pixel) * step(1.06 - across.abs(), 0.12) * p.front
    p.dark *= 1 - 0.8 * seam * (1 - cavity)
    radii = 0.055 + 0.4 * p.pixel, 0.05 + 0.3 * p.pixel
    p.dark *= 1 - 0.62 * bump(ax, y, mouth.half, mouth.y - mouth.rise, *radii)
    p.relief += 0.06 * bump(x, y, 0.0, top - 0.5 * t.lip_upper, mouth.half, t.lip_upper + 0.03)
    radii = 0.9 * mouth.half, t.lip_lower + 0.02
    p.relief += 0.08 * bump(x, y, 0.0, low + 0.5 * t.lip_lower, *radii)
    p.relief -= 0.1 * cavity
    return Lips(top, low, upper, lower, lips, cavity)


def shape_beard(p: Canvas, lips: Lips) -> Tensor:
    """How far each pixel is beard, ``[B, H, W]``; raises the relief there."""
    t, c, ax, y, mouth = p.t, p.c, p.ax, p.y, p.mouth
    jaw_line = 0.75 + t.beard_line - 0.28 * (ax - 0.5)
    below = step(y - (jaw_line + 0.2 * (1 - ax / 0.9).clamp_min(0)), 0.16)
    lip_zone = bump(ax, y, 0.0, mouth.y + 0.02, mouth.half + 0.05, 0.24).mul_(2.5).clamp_max_(1)
    around = below * (1 - lip_zone)
    tache = step(y - (p.nose_y + 0.14), 0.08) * step(lips.top - lips.upper * 0.85 - y, 0.05)
    tache = tache * step(t.moustache_width + 0.1 - ax, 0.1) * p.front
    chin = bump(ax, y, 0.0, mouth.y + 0.42, 0.42, 0.42).mul_(2).clamp_max_(1)
    chin = chin * step(y - (lips.low + lips.lower + 0.03), 0.06)
    stubble = (t.beard_stubble + c.stubble_change * (t.beard_stubble > 0)).clamp(0, 0.65)
    grain = (0.9 + 0.12 * p.fine + 0.1 * p.coarse).clamp(0, 1.1)
    beard = torch.maximum(t.moustache * tache, t.goatee * chin)
    beard = torch.maximum(beard, t.beard * around)
    beard = torch.maximum(beard, stubble * torch.maximum(around, tache))
    beard = (beard * grain).clamp(0, 1) * ramp(p.z, -0.35, -0.05)
    beard = beard * (1 - lips.lips) * (1 - lips.cavity)
    p.relief += 0.03 * beard * (1 + 2 * t.beard_long)
    return beard
