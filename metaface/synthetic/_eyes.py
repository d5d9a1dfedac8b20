"""The eyes and the brows of a procedural face."""

from __future__ import annotations

import torch
from torch import Tensor

from metaface.synthetic._brushes import bump, color, line, mix, rgb, step
from metaface.synthetic._canvas import Canvas


def paint_eyes(p: Canvas) -> Tensor:
    """Paint eyeballs, lids and lashes; returns how far each pixel is an eye, ``[B, H, W]``."""
    t, c, soft = p.t, p.c, p.soft
    across, up = (p.ax - t.eye_x) / t.eye_width, p.y + t.eye_tilt * (p.ax - t.eye_x)
    opened = (1 - c.eye_closure).clamp(0.0, 1.0)
    arc = (1 - across * across).clamp_min(-0.6)
    top_lid = -t.eye_open * arc * (1.3 * opened - 0.3) * (1 + 0.15 * c.brow_raise)
    low_lid = t.eye_open * arc * (0.75 - 0.25 * p.smile)
    eye = step(up - top_lid, soft) * step(low_lid - up, soft)
    eye = eye * step(1 - across.abs(), soft / t.eye_width)
    eye = eye * step(t.eye_open * opened - 0.012, 0.02)
    shade = (0.55 + 0.45 * ((up - top_lid) / (t.eye_open * 0.9)).clamp(0, 1)) * p.front
    p.paint(_eyeball(p) * shade[:, None], eye * p.front)
    p.dark = p.dark + eye * (1 - p.dark)
    blur, ends = 0.45 * p.pixel, step(1.12 - across.abs(), 0.25)
    lash = line(up - top_lid, 0.028 + blur) * ends
    lower = line(up - low_lid, 0.022 + blur) * ends
    crease = line(up - top_lid + 0.06 + 0.03 * t.eye_deep, 0.03 + blur) * ends
    p.dark *= (1 - (t.lashes + 0.15) * lash * p.front).clamp_min(0.05)
    p.dark *= 1 - 0.3 * lower * p.front
    p.dark *= 1 - (0.1 + 0.32 * t.eye_fold) * crease * p.front
    return eye


def _eyeball(p: Canvas) -> Tensor:
    """White, iris, pupil and glint, as if there were no lids: ``[B, 3, H, W]``."""
    t, c = p.t, p.c
    sign = (p.x * 8).clamp(-1, 1)
    x, y = p.ax - t.eye_x - sign * c.gaze_x * 0.07, p.y - 0.035 * c.gaze_y + 0.012
    near = (x * x + y * y).sqrt()
    iris = step(t.iris_size - near, p.soft)
    pupil = step(0.45 * t.iris_size - near, p.soft)
    white = rgb(0.72, 0.68, 0.66) * (0.55 + 0.45 * p.skin.mean(1, keepdim=True).sqrt())
    iris_color = color(t, "iris")
    picture = mix(p.fill(white), iris_color, iris)
    picture = mix(picture, torch.full_like(iris_color, 0.008), pupil)
    size = 0.03 + 0.3 * p.pixel
    glint = bump(x, y, 0.03 * sign * c.light_x, -0.035 + 0.03 * c.light_y, size, size)
    return mix(picture, torch.ones_like(iris_color), (glint * iris * 0.8).clamp(0, 1))


def shape_brows(p: Canvas) -> Tensor:
    """How far each pixel is a brow, ``[B, H, W]``; raises the relief there."""
    t, c = p.t, p.c
    at = ((p.ax - t.brow_in) / (t.brow_out - t.brow_in)).clamp(-0.3, 1.3)
    arch = 4 * at * (1 - at) * 0.6 + 0.4 * at
    middle = (
        t.brow_y
        - t.brow_arch * arch
        + t.brow_tilt * (p.ax - 0.45)
        - 0.07 * c.brow_raise
        + 0.06 * c.frown * (1 - at)
    )
    half = t.brow_thick * (1.05 - 0.55 * at.clamp_min(0))
    brow = step(half - (p.y - middle).abs(), 0.035 + p.soft) * step(0.5 - (at - 0.5).abs(), 0.25)
    brow = brow * (0.85 + 0.2 * p.fine).clamp(0, 1) * p.front * t.brow_dark
    p.relief += 0.02 * brow
    return brow
