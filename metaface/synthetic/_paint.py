"""The reflectance of a procedural person: skin, features, clothes and hair.

Everything is a soft shape in head coordinates (see ``_geometry``), as ``[B, H, W]`` planes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metaface.synthetic import _geometry as geometry
from metaface.synthetic._brushes import bump, color, mix, noise, ramp, step
from metaface.synthetic._canvas import Canvas, Scene
from metaface.synthetic._eyes import paint_eyes, shape_brows
from metaface.synthetic._geometry import View
from metaface.synthetic._mouth import paint_mouth, shape_beard
from metaface.synthetic._random import Fields
from metaface.synthetic._skin import paint_skin


def paint(t: Fields, c: Fields, view: View) -> Scene:
    """Paint people of traits t under conditions c."""
    p = Canvas(t, c, view)
    paint_skin(p)
    eye = paint_eyes(p)
    lips = paint_mouth(p)
    brow, beard = shape_brows(p), shape_beard(p, lips)
    hair_color = color(t, "hair")
    p.paint(torch.minimum(hair_color, p.skin * 0.75) * 0.8, brow.clamp(0, 1))
    p.paint(hair_color * 0.75, beard)
    scene = Scene(
        albedo=p.albedo,
        depth=torch.addcmul(p.depth, p.relief, p.front, value=1.0),
        dark=p.dark,
        gloss=torch.zeros_like(p.depth),
        person=p.on_head,
        face=p.on_head,
        bare=p.on_head,
        pixel=p.pixel,
        x=p.x,
        y=p.y,
        z=p.z,
    )
    on_cloth = _add_body(scene, p)
    cover, hair_gloss = _add_hair(scene, p)
    gloss = t.oily * (1 - torch.maximum(cover, on_cloth)) * (1 - beard * 0.8)
    scene.gloss = gloss * (1 - 0.6 * brow) + hair_gloss + eye * 0.3 + lips.lips * 0.25
    scene.dark = scene.dark.clamp_(0.04, 1.4)
    scene.bare = scene.face.clone()
    return scene


def _add_body(scene: Scene, p: Canvas) -> Tensor:
    """Neck and clothes; returns how far each pixel is clothes."""
    t, c, view, soft = p.t, p.c, p.view, p.soft
    pose = geometry.rotate(0.4 * c.yaw, torch.zeros_like(c.yaw), 0.3 * c.roll)
    neck_depth, neck_inside = geometry.build_neck(t).pose(pose).cast(view.u, view.v)
    first = step(neck_depth - p.depth, 0.06 + p.pixel)
    shown = step(neck_inside, soft)
    over_head = first * shown * p.on_head + shown * (1 - p.on_head)
    on_neck = torch.where(p.on_head > 0, over_head, shown)
    scene.albedo = mix(scene.albedo, p.skin * 0.92, on_neck)
    scene.dark = torch.lerp(scene.dark, 0.8 + 0.03 * p.coarse, on_neck)
    scene.depth = torch.lerp(scene.depth, neck_depth, on_neck)
    scene.person = torch.maximum(p.on_head, shown)
    scene.face = p.on_head * (1 - on_neck) * ramp(p.z, -0.12, 0.12)

    depth, inside = geometry.build_torso(t, c).pose(pose).cast(view.u, view.v)
    on_cloth = step(inside, soft) * _show(scene, depth, 0.06)
    _cover(scene, color(c, "cloth"), depth, on_cloth)
    return on_cloth


def _add_hair(scene: Scene, p: Canvas) -> tuple[Tensor, Tensor]:
    """Hair, or a cap; returns how far it covers each pixel, and its gloss."""
    t, c, view = p.t, p.c, p.view
    depth, inside = geometry.build_hair(t, c).pose(view.matrix).cast(view.u, view.v)
    depth = depth.clamp_min(-1.5)
    x, y, z = geometry.turn_back(view.matrix, view.u, view.v, depth)
    flow = 0.35 + 0.65 * t.hair_curl
    along = t.hair_strand * (1.6 * x + 0.5 * t.hair_sweep * y + 0.6 * z)
    strand, clump = noise(
        along + t.texture_y + 0.1 * c.strand_x,
        flow * 0.35 * (y + 0.5 * z) + t.texture_x + 0.1 * c.strand_y,
    )
    edge = _hair_edge(t, c, x, y, z) + t.hairline_jag * (strand + clump)
    ends = 0.05 + p.soft + 0.05 * t.hair_curl
    # bald people keep a ring at the sides and the back
    ring = step(y + 0.55 + 0.3 * (z > 0.4), 0.2) * step(-z + 0.1, 0.2)
    cover = step(edge - y, ends) * (1 - t.hair_bald * (1 - 0.75 * ring * t.age))
    on_cap = c.cap * step(-0.58 - 0.12 * z + 0.05 * x.abs() - y, p.soft)
    cover = torch.maximum(cover, on_cap)
    cover = cover * step(inside + (0.012 + 0.03 * t.hair_curl) * strand * (1 - on_cap), p.soft)
    cover = cover * _show(scene, depth, 0.04)
    tone = (1 + 0.22 * strand + 0.2 * clump).clamp_min(0.3)
    paint = mix(color(t, "hair") * tone[:, None], color(c, "cap"), on_cap)
    _cover(scene, paint, depth + 0.02 * (strand + clump) * (1 - on_cap), cover)
    shine = (0.7 + 0.5 * strand).clamp(0.1, 1.5)
    return cover, cover * (1 - on_cap) * t.hair_gloss * shine


def _hair_edge(t: Fields, c: Fields, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The height down to which there is hair: hairline, sides, back."""
    ax = x.abs()
    sweep = (t.hair_sweep + c.hair_sweep_change) * (x - t.hair_part * 0.5)
    corner = t.hairline_corner * bump(ax, y, 0.48, t.hairline, 0.3, 3.0)
    edge = t.hairline + c.hair_shift + sweep * 0.8 - corner
    to_side = ramp(z - 1.2 * (ax - t.hair_side_x - 0.3), 0.5, 0.05)
    side_end = torch.lerp(t.sideburn, t.hair_length + 0.9, t.hair_long)
    back_end = torch.maximum(0.75 + t.hair_length, side_end)
    edge = torch.lerp(edge, side_end, to_side)
    return torch.lerp(edge, back_end, ramp(z, -0.08, -0.28))


def _show(scene: Scene, depth: Tensor, seam: float) -> Tensor:
    """How far something at this depth is seen: before the person, or beside."""
    return torch.maximum(step(depth - scene.depth, seam + scene.pixel), 1 - scene.person)


def _cover(scene: Scene, paint: Tensor, depth: Tensor, alpha: Tensor) -> None:
    """Put something over what is there."""
    scene.albedo = mix(scene.albedo, paint, alpha)
    scene.dark = torch.lerp(scene.dark, torch.ones_like(alpha), alpha)
    scene.depth = torch.lerp(scene.depth, depth, alpha)
    scene.person = torch.maximum(scene.person, alpha)
    scene.face = scene.face * (1 - alpha)
