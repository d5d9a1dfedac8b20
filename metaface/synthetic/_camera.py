"""Light and camera: from reflectance and depth to the photograph's pixels."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from metaface.synthetic._brushes import color, mix, noise, ramp
from metaface.synthetic._canvas import Scene
from metaface.synthetic._geometry import View
from metaface.synthetic._random import Fields

_POOL = 1 << 20


def shade(scene: Scene, c: Fields, view: View) -> Tensor:
    """Light a scene and set it before a background: linear light ``[B, 3, H, W]``."""
    depth, pixel = scene.depth, scene.pixel
    padded = F.pad(depth[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    limit = 3.0
    nx = ((padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]) / (2 * pixel)).clamp_(-limit, limit)
    ny = ((padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1]) / (2 * pixel)).clamp_(-limit, limit)
    scale = 1 / (1 + nx * nx + ny * ny).sqrt_()
    nx, ny = nx * scale, ny * scale

    shadow = _cast_shadow(depth, c, view)
    direct = nx * c.light_x + ny * c.light_y + scale * c.light_z
    wrap = 0.25 * (1 - c.hardness)
    diffuse = ((direct + wrap) / (1 + wrap)).clamp_min(0) * shadow
    ambient = 0.62 - 0.3 * ny + 0.2 * nx * c.fill_x + 0.18 * scale
    openness = _measure_openness(depth)
    hard = c.hardness
    half_z = c.light_z + 1
    half_norm = 1 / (c.light_x**2 + c.light_y**2 + half_z**2).sqrt()
    spec = ((nx * c.light_x + ny * c.light_y + scale * half_z) * half_norm).clamp_min(0)
    for _ in range(3):
        spec = spec * spec
    spec = spec * spec * 0.14 * (0.4 + hard) * scene.gloss * shadow

    level = (0.95 - 0.8 * hard) * ambient * openness
    strong = 0.25 + 0.95 * hard
    key_color = color(c, "key")
    light = level[:, None] + key_color * (strong * diffuse)[:, None]
    lit = scene.albedo * light * scene.dark[:, None] + key_color * spec[:, None]
    return mix(_backdrop(c, view), lit, scene.person)


def _cast_shadow(depth: Tensor, c: Fields, view: View) -> Tensor:
    """1 where the light reaches, 0 in cast shadow: steps towards it over a half-size map."""
    size = depth.shape[-1]
    small = F.avg_pool2d(depth[:, None], 2) if size % 2 == 0 else depth[:, None]
    n = small.shape[-1]
    line = (torch.arange(n) + 0.5) * (2 / n) - 1
    u, v = view.u, view.v
    per_unit = 2 / (u[:, :, -1:] - u[:, :, :1]) * (size - 1) / size  # grid units a unit of u
    per_unit_v = 2 / (v[:, -1:] - v[:, :1]) * (size - 1) / size
    blocked = torch.zeros_like(small[:, 0])
    for s in (0.12, 0.25, 0.42, 0.65):
        gx = (line + s * c.light_x * per_unit).expand(-1, n, -1)
        gy = (line[:, None] + s * c.light_y * per_unit_v).expand(-1, -1, n)
        at = torch.stack([gx, gy], -1)
        other = F.grid_sample(small, at, padding_mode="border", align_corners=False)[:, 0]
        rise = other - small[:, 0] - s * c.light_z - 0.02
        blocked = torch.maximum(blocked, rise * (5 / (0.6 + s)))
    return _enlarge(1 - 0.9 * blocked.clamp_(0, 1), size)


def _enlarge(plane: Tensor, size: int) -> Tensor:
    return F.interpolate(plane[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def _measure_openness(depth: Tensor) -> Tensor:
    """How open a place is to the surroundings' light: darker where the neighbourhood stands out."""
    size = depth.shape[-1]
    n = 16
    small = F.adaptive_avg_pool2d(depth[:, None], n)
    small = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    around = _enlarge(small[:, 0], size)
    return 1 - ((around - depth) * 1.1).clamp_(-0.1, 0.55)


def _backdrop(c: Fields, view: View) -> Tensor:
    """What stands behind the head ``[B, 3, H, W]``: a gradient and blurred things."""
    y, x = torch.broadcast_tensors(view.v, view.u)
    fine, coarse = noise(c.back_scale * x + c.back_x * 3, c.back_scale * y + c.back_y * 3)
    base = color(c, "back")
    things = ramp(coarse, -0.5, 0.4) * c.clutter
    picture = base.expand(-1, -1, *x.shape[1:]).clone()
    picture = mix(picture, color(c, "back2"), things)
    light = 1 + c.back_light * (0.5 * y - 0.3 * x) + c.clutter * (0.06 * fine + 0.3 * coarse)
    return picture * light.clamp_min(0.1)[:, None]


def expose(light: Tensor, c: Fields) -> Tensor:
    """Lens, sensor and file: linear light to grey levels, uint8 ``[B, 3, S, S]``."""
    size = light.shape[-1]
    picture = light * color(c, "tint") * c.exposure[:, None]
    picture = (picture / (0.72 + 0.28 * picture)).clamp_min_(0).sqrt_()  # shoulder, then gamma 2
    luma = _weigh_grey(picture)
    picture = luma + (picture - luma) * c.saturation[:, None]
    picture = (picture - 0.45) * c.contrast[:, None] + 0.45 + c.black[:, None]
    picture = _blur(picture, c.blur[:, None])
    grain = _draw_grain(c, size)
    picture = picture + grain * c.noise[:, None]
    grey = c.grey[:, 0, 0].nonzero()[:, 0]
    if len(grey):
        picture[grey] = _weigh_grey(picture[grey]).expand(-1, 3, -1, -1)
    drawn = c.sketch[:, 0, 0].nonzero()[:, 0]
    if len(drawn):
        picture[drawn] = _sketch(_weigh_grey(picture[drawn]), grain[drawn], c.rows(drawn)).expand(
            -1, 3, -1, -1
        )
    out = (picture * 255 + 0.5).clamp_(0, 255).to(torch.uint8)
    for row in c.jpeg[:, 0, 0].nonzero()[:, 0].tolist():
        file = io.BytesIO()
        picture_file = Image.fromarray(out[row].permute(1, 2, 0).numpy())
        picture_file.save(file, "JPEG", quality=int(c.jpeg[row, 0, 0]))
        with Image.open(file) as image:
            out[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return out


def _weigh_grey(picture: Tensor) -> Tensor:
    return 0.3 * picture[:, :1] + 0.59 * picture[:, 1:2] + 0.11 * picture[:, 2:]


def _blur(picture: Tensor, amount: Tensor) -> Tensor:
    """Binomial smoothing at growing distances; amount 0..1 ``[B, 1, 1, 1]``."""
    size = picture.shape[-1]
    spread, at = 1, size / 64
    strengths = []
    while spread <= max(1, size // 48):
        strengths.append((spread, (amount * 2.2 * at / spread).clamp(0, 1) * 0.5))
        spread *= 2
    strengths.append((spread, (amount * 2.2 * at / spread - 0.35).clamp(0, 1) * 0.5))
    for distance, a in strengths:
        for dim in (2, 3):
            pad = (0, 0, distance, distance) if dim == 2 else (distance, distance, 0, 0)
            wide = F.pad(picture, pad, mode="replicate")
            sides = wide.narrow(dim, 0, size) + wide.narrow(dim, 2 * distance, size)
            picture = picture * (1 - a) + sides * (0.5 * a)
    return picture


_pool_cache: list[Tensor] = []


def _draw_grain(c: Fields, size: int) -> Tensor:
    """Unit noise ``[B, 3, S, S]``, a window of one fixed pool per image."""
    if not _pool_cache:
        _pool_cache.append(
            torch.from_numpy(np.random.RandomState(11).standard_normal(_POOL).astype(np.float32))
        )
    need = 3 * size * size
    start = ((c.noise_at[:, 0, 0].double() * 0.5 + 0.5) * (_POOL - 1)).long()
    pool = _pool_cache[0]
    rows = [
        pool[(torch.arange(need) + s) % _POOL] if s + need > _POOL else pool[s : s + need]
        for s in start.tolist()
    ]
    return torch.stack(rows).view(-1, 3, size, size)


def _sketch(grey: Tensor, grain: Tensor, c: Fields) -> Tensor:
    """Pencil: dark lines where the grey level dips or jumps, soft hatching for shade."""
    one = torch.ones_like(c.stroke)[:, None]
    near = _blur(grey, 0.15 * one)
    far = _blur(_blur(near, 0.8 * one), 0.8 * one)
    dip = ((far - near) * 9 - 0.12).clamp(0, 1)
    gx = F.pad(near[..., 1:] - near[..., :-1], (0, 1, 0, 0), mode="replicate")
    gy = F.pad(near[..., 1:, :] - near[..., :-1, :], (0, 0, 0, 1), mode="replicate")
    edge = ((gx * gx + gy * gy).sqrt() * (grey.shape[-1] / 64) * 3.5 - 0.25).clamp(0, 1)
    level = _blur(far, one)
    tone = 0.95 - 0.35 * (0.75 - level).clamp(0, 1) * (1 + 0.25 * grain[:, :1])
    ink = torch.maximum(dip, 0.8 * edge) * c.stroke[:, None]
    return (tone - 0.7 * ink).clamp(0.03, 0.98) + 0.015 * grain[:, :1]
