"""What hides parts of a procedural face: masks, caps' brims, glasses and hands."""

from __future__ import annotations

import torch
from torch import Tensor

from metaface.synthetic import _geometry as geometry
from metaface.synthetic._brushes import bump, color, line, mix, ramp, step
from metaface.synthetic._canvas import Scene
from metaface.synthetic._geometry import View
from metaface.synthetic._random import Fields


def occlude(scene: Scene, t: Fields, c: Fields, view: View) -> None:
    """Put on masks, caps' brims, glasses and hands, in the pictures that have them."""
    things = {"mask": _put_mask, "cap": _put_brim, "glasses": _put_glasses, "hand": _put_hand}
    for name, put_on in things.items():
        rows = getattr(c, name)[:, 0, 0].nonzero()[:, 0]
        if len(rows) == 0:
            continue
        part = Scene(**{k: value[rows] for k, value in vars(scene).items()})
        put_on(part, t.rows(rows), c.rows(rows), view.rows(rows))
        for k, value in vars(scene).items():
            value[rows] = getattr(part, k)


def _cover(scene: Scene, alpha: Tensor, paint: Tensor, gloss: float = 0.0) -> None:
    scene.albedo = mix(scene.albedo, paint, alpha)
    scene.dark = torch.lerp(scene.dark, torch.ones_like(alpha), alpha)
    scene.gloss = torch.lerp(scene.gloss, torch.full_like(alpha, gloss), alpha)
    scene.face = scene.face * (1 - alpha)


def _put_mask(scene: Scene, t: Fields, c: Fields, view: View) -> None:
    x, y, z = scene.x, scene.y, scene.z
    ax = x.abs()
    soft = 1.2 * scene.pixel
    top = 0.36 * t.nose_length + 0.35 * ax * ax
    low = 1.42 * t.face_length - 0.5 * ax * ax + 0.1 * c.mouth_open
    alpha = step(y - top, soft) * step(low - y, soft) * step(z - 0.1, 0.1) * scene.bare
    strap = line(y - 0.3 + 0.2 * (z - 0.3), 0.02 + scene.pixel * 0.5)
    strap = strap * step(0.2 - z, 0.1) * scene.bare
    pleat = (y - 0.2) * 6
    pleat = ramp((pleat - pleat.round()).abs(), 0.25, 0.05)
    _cover(scene, torch.maximum(alpha, strap), color(c, "mask"))
    scene.dark = scene.dark * (1 - 0.2 * pleat * alpha)
    scene.depth = scene.depth + 0.06 * alpha


def _put_brim(scene: Scene, t: Fields, c: Fields, view: View) -> None:
    w, inside = geometry.build_brim(t).pose(view.matrix).cast(view.u, view.v)
    alpha = step(inside, 1.2 * scene.pixel) * step(w - scene.depth, 0.1)
    _cover(scene, alpha, color(c, "cap") * 0.8)
    scene.depth = torch.lerp(scene.depth, w, alpha)
    scene.person = torch.maximum(scene.person, alpha)
    y, z = scene.y, scene.z
    scene.dark = scene.dark * (1 - 0.45 * ramp(y, 0.05, -0.6) * ramp(z, 0.1, 0.6) * scene.face)


def _put_glasses(scene: Scene, t: Fields, c: Fields, view: View) -> None:
    sx, sy, sz = scene.x, scene.y, scene.z
    (a, b, e), (d, f, g), _ = view.matrix
    far = 1.02 + t.nose_bridge_out  # the plane of the lenses
    pu, pv, det = view.u - e * far, view.v - g * far, a * f - b * d
    safe = det.abs().clamp_min(0.15)
    x, y = (f / safe) * pu - (b / safe) * pv, (a / safe) * pv - (d / safe) * pu
    ax = x.abs()
    rim = t.glasses_rim
    lx = ((ax - t.eye_x - 0.02) / t.glasses_half).square()
    ly = ((y - t.glasses_y) / t.glasses_tall).square()
    form = torch.lerp(lx * lx + ly * ly, lx + ly, t.glasses_round)
    distance = (1 - form) * 0.5 * torch.lerp(0.5 * t.glasses_tall, t.glasses_tall, t.glasses_round)
    width = rim + 0.5 * scene.pixel
    strength = t.glasses_dark * (rim / (rim + 0.25 * scene.pixel))
    frame = step(rim - distance.abs(), 1.5 * scene.pixel)
    bridge = step(rim - (y - t.glasses_y + 0.35 * t.glasses_tall).abs(), 1.5 * scene.pixel)
    bridge = bridge * step(t.eye_x - t.glasses_half + 0.03 - ax, 0.04)
    temple = step(rim - (sy - t.glasses_y + 0.3 * t.glasses_tall).abs(), 1.5 * scene.pixel)
    temple = temple * step(sx.abs() - (t.eye_x + t.glasses_half), 0.08)
    temple = temple * step(sz + 0.1, 0.1) * scene.bare
    frame = torch.maximum(torch.maximum(frame, bridge), temple) * scene.person
    lens = step(distance, 1.5 * scene.pixel) * scene.person
    skin = color(t, "skin")
    black = torch.full_like(skin, 0.02)
    _cover(scene, lens * (0.05 + 0.9 * c.sunglasses), black, 0.3)
    streak = bump(x - 0.5 * y, y, t.eye_x * c.light_x.sign() + 0.1, t.glasses_y, 0.22, 0.3)
    streak = streak * lens * c.glare
    scene.albedo = mix(scene.albedo, torch.full_like(skin, 0.85), (0.7 * streak).clamp(0, 1))
    metal = torch.lerp(skin * 0.5 + 0.1, black, t.glasses_dark[:, None])
    _cover(scene, frame * (0.35 + 0.65 * strength), metal, 0.5)
    near = (1.5 - ((distance + 0.05) / (2.5 * width)).abs()).clamp(0, 1)
    scene.dark = scene.dark * (1 - 0.12 * near * scene.face)


def _put_hand(scene: Scene, t: Fields, c: Fields, view: View) -> None:
    side = torch.where(c.hand0 < 0.5, -1.0, 1.0)
    tip_u, tip_v = side * (0.15 + 0.5 * c.hand1), 0.1 + 1.0 * c.hand2
    lean = side * (0.3 + 0.5 * c.hand3)
    alpha = torch.zeros_like(scene.depth)
    height = torch.zeros_like(alpha)
    for finger in range(5):
        spread = 0.24 * finger - 0.4
        long = (2.3, 2.45, 2.4, 2.15, 2.6)[finger]  # the last is the palm
        radius, start = (0.125, 0.0) if finger < 4 else (0.42, 0.75)
        pu, pv = view.u - tip_u - side * spread * 0.95, view.v - tip_v - 0.12 * abs(finger - 1.5)
        s = (pu * lean + pv) / (lean * lean + 1)
        s = torch.minimum(s.clamp_min(start), torch.full_like(s, long))
        du, dv = pu - s * lean, pv - s
        near = (du * du + dv * dv).sqrt()
        alpha = torch.maximum(alpha, step(radius - near, 1.2 * scene.pixel))
        height = torch.maximum(height, (1 - (near / radius).square()).clamp_min(0) * radius)
    _cover(scene, alpha, color(t, "skin") * 0.97, 0.3)
    scene.dark = scene.dark * (1 - alpha * 0.45 * (1 - (height * 14).clamp(0, 1)))
    scene.depth = torch.lerp(scene.depth, 1.3 + height, alpha)
    scene.person = torch.maximum(scene.person, alpha)
