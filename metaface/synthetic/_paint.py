"""What a procedural face is painted with: the reflectance of skin, features, hair and clothes.

Everything is a soft shape in head coordinates (see ``_geometry``), as ``[B, H, W]`` planes.
Only arithmetic that rounds alike everywhere is used per pixel (no exp, sin or pow), so that a
picture does not depend on its place in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metaface.synthetic import _geometry as geometry
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
    return torch.stack([getattr(values, f"{name}_{c}") for c in "rgb"], 1)


def paint(
    t: Fields, c: Fields, matrix: list[list[Tensor]], u: Tensor, v: Tensor, pixel: Tensor
) -> Scene:
    """Paint t under conditions c and pose matrix at rays u ``[B, 1, W]``, v ``[B, H, 1]``."""
    soft = 1.2 * pixel
    w, inside = geometry.head(t, c).posed(matrix).cast(u, v)
    body_pose = geometry.rotation(0.4 * c.yaw, torch.zeros_like(c.yaw), 0.3 * c.roll)
    neck_w, neck_in = geometry.neck(t).posed(body_pose).cast(u, v)
    cloth_w, cloth_in = geometry.torso(t, c).posed(body_pose).cast(u, v)
    hair_w, hair_in = geometry.hair(t, c).posed(matrix).cast(u, v)

    on_head = step(inside, soft)
    w = w.clamp_min(-1.5)
    x, y, z = geometry.turn_back(matrix, u, v, w)
    x = x + t.skew * y * 2
    ax = x.abs()
    front = ramp(z, -0.05, 0.35)
    sign = (x * 8).clamp(-1, 1)
    fine, coarse = noise(0.5 * x + t.texture_x, 0.5 * y + t.texture_y)

    # --- skin -----------------------------------------------------------------------------------
    skin = color(t, "skin")
    albedo = skin.expand(-1, -1, *w.shape[1:]).clone()
    mouth_y, mouth_half, mouth_rise, gap = geometry.mouth_height(t, c)
    nose_y = t.nose_length - t.nose_up
    blush = bump(ax, y, 0.55, t.cheek_height + 0.05, 0.36, 0.34) + bump(
        ax, y, 0.0, nose_y, 0.24, 0.2
    )
    blush += 0.6 * bump(ax, y, 1.0, t.ear_y, 0.2, 0.4)
    red = skin * torch.tensor([0.98, 0.66, 0.62])[:, None, None]
    albedo = mix(albedo, red, (blush * front).mul_(t.blush.clamp_min(0)).clamp_(0, 1))
    dark = 1 + t.mottle * (0.02 * fine + 0.06 * coarse)
    freckle_zone = bump(ax, y, 0.4, 0.4, 0.62, 0.5)
    dark = dark - t.freckles * freckle_zone * ramp(fine, 0.6, 1.6) * 0.4

    relief = torch.zeros_like(w)  # small height over the surface, towards the camera
    # Eye sockets, lids and bags.
    ex, ey = (ax - t.eye_x) / t.eye_width, y + t.eye_tilt * (ax - t.eye_x)
    socket = bump(ax, y, t.eye_x - 0.03, -0.07, 0.33, 0.26)
    inner = bump(ax, y, 0.2, -0.03, 0.17, 0.24)
    relief -= (0.05 + 0.09 * t.eye_deep) * socket + 0.05 * inner
    ball = bump(ex, ey / t.eye_width, 0.0, 0.0, 1.25, 1.0)
    relief += 0.05 * ball
    bags = bump(ax, y, t.eye_x - 0.04, 0.2, 0.2, 0.1)
    dark -= (0.12 + 0.16 * t.eye_deep) * socket + 0.18 * t.bags * bags * front
    dark -= 0.1 * inner

    dark -= 0.3 * bump(y, z, t.ear_y - 0.02, -0.02, 0.2, 0.14) * ramp(ax, 0.8, 0.9)

    # Lines of age and expression.
    smile = c.smile.clamp_min(0)
    fold_t = ((y - nose_y) / (mouth_y + 0.12 - nose_y)).clamp(-0.5, 1.5)
    fold_x = 0.25 + t.fold_x + fold_t * (0.24 + 0.07 * smile) - 0.07 * fold_t * fold_t
    fold_w = 0.05 + 0.5 * pixel
    fold_d = (ax - fold_x) / fold_w
    fold = (1 - fold_d * fold_d).clamp_min_(0) * ramp(fold_t, -0.2, 0.2) * ramp(fold_t, 1.25, 0.8)
    fold_strength = (t.fold * 0.6 + 0.5 * smile).clamp(0, 1)
    dark -= 0.3 * fold_strength * fold
    relief += 0.05 * fold_strength * bump(ax, y, fold_x + 0.1, nose_y + 0.15, 0.2, 0.35)
    wave = (y - t.forehead_lines_y + 0.04 * coarse) * (1 / 0.13)
    wave = (wave - wave.round()).abs()
    lines = ramp(wave, 0.3, 0.05) * bump(ax, y, 0.0, t.forehead_lines_y, 0.6, 0.3)
    dark -= lines * (0.3 * t.forehead_lines + 0.25 * c.brow_raise.clamp_min(0)).clamp(0, 0.5)
    dark -= (
        0.3
        * (t.frown_line + c.frown).clamp(0, 1)
        * bump(ax, y, 0.07, -0.24, 0.04 + 0.5 * pixel, 0.14)
    )
    feet = bump(ax, y, t.eye_x + 0.3, 0.0, 0.12, 0.14) * (0.6 + 0.4 * fine)
    dark -= 0.25 * (0.7 * t.crow_feet + 0.4 * smile).clamp(0, 1) * feet
    dark -= 0.35 * t.dimple * smile * bump(ax, y, mouth_half + 0.14, mouth_y - 0.03, 0.06, 0.1)
    dark -= (
        0.3
        * t.cleft
        * bump(ax, y, 0.0, 1.3 * t.face_length + t.chin_down, 0.05 + 0.3 * pixel, 0.12)
    )
    dark -= 0.22 * bump(ax, y, 0.0, mouth_y + t.lip_lower + 0.1 + gap, 0.28, 0.08)  # under the lip
    relief -= 0.03 * bump(ax, y, 0.0, mouth_y + t.lip_lower + 0.11 + gap, 0.3, 0.1)
    relief -= 0.02 * bump(ax, y, 0.0, 0.5 * (nose_y + mouth_y) + 0.05, 0.06, 0.15)

    # Nose: nostrils and wings.
    nostrils = bump(
        ax,
        y,
        0.55 * t.nose_width + 0.01,
        t.nose_length + 0.115 - 0.3 * t.nose_up,
        t.nostril + 0.4 * pixel,
        0.045 + 0.4 * pixel,
    )
    dark -= 0.75 * nostrils.clamp(0, 1) * front
    wing = bump(ax, y, t.nose_width + 0.1, t.nose_length + 0.04, 0.055 + 0.4 * pixel, 0.12)
    dark -= 0.28 * wing + 0.16 * bump(ax, y, 0.0, t.nose_length + 0.16, t.nose_width + 0.05, 0.08)
    dark -= 0.1 * bump(ax, y, t.nose_bridge + 0.07, 0.28, 0.08, 0.34)

    # Moles and a scar.
    for i in range(3):
        size = getattr(t, f"mole{i}")
        mole = bump(
            x,
            y,
            getattr(t, f"mole{i}_x"),
            getattr(t, f"mole{i}_y"),
            size + 0.5 * pixel,
            size + 0.5 * pixel,
        )
        dark -= 0.7 * (size / (size + 0.3 * pixel)) * (size > 0) * mole
    along, across = x - t.scar_x, y - t.scar_y
    cos, sin = t.scar_angle.cos(), t.scar_angle.sin()
    scar = bump(
        along * cos + across * sin, across * cos - along * sin, 0.0, 0.0, 0.2, 0.025 + 0.4 * pixel
    )
    dark += 0.25 * t.scar * scar

    # --- eyes -----------------------------------------------------------------------------------
    closure = (1 - c.eye_closure).clamp(0.0, 1.0)
    lid = (1 - ex * ex).clamp_min(-0.6)
    top_lid = -t.eye_open * lid * (1.3 * closure - 0.3) * (1 + 0.15 * c.brow_raise)
    low_lid = t.eye_open * lid * (0.75 - 0.25 * smile)
    eye = (
        step(ey - top_lid, soft) * step(low_lid - ey, soft) * step(1 - ex.abs(), soft / t.eye_width)
    )
    eye = eye * step(t.eye_open * closure - 0.012, 0.02)
    gaze = sign * c.gaze_x * 0.07
    ix, iy = ax - t.eye_x - gaze, y - 0.035 * c.gaze_y + 0.012
    near = (ix * ix + iy * iy).sqrt()
    iris = step(t.iris_size - near, soft)
    pupil = step(0.45 * t.iris_size - near, soft)
    white = torch.tensor([0.72, 0.68, 0.66])[:, None, None] * (
        0.55 + 0.45 * skin.mean(1, keepdim=True).sqrt()
    )
    iris_color = color(t, "iris")
    eye_color = mix(white.expand(-1, -1, *w.shape[1:]).clone(), iris_color, iris)
    eye_color = mix(eye_color, torch.full_like(iris_color, 0.008), pupil)
    glint = bump(
        ix,
        iy,
        0.03 * sign * c.light_x,
        -0.035 + 0.03 * c.light_y,
        0.03 + 0.3 * pixel,
        0.03 + 0.3 * pixel,
    )
    eye_color = mix(eye_color, torch.ones_like(iris_color), (glint * iris * 0.8).clamp(0, 1))
    eye_shade = (0.55 + 0.45 * ((ey - top_lid) / (t.eye_open * 0.9)).clamp(0, 1)) * front
    albedo = mix(albedo, eye_color * eye_shade[:, None], eye * front)
    dark = dark + eye * (1 - dark)
    lash_w = 0.028 + 0.45 * pixel
    lash_in = step(1.12 - ex.abs(), 0.25)
    lash = (1 - ((ey - top_lid) / lash_w).abs()).clamp_min(0) * lash_in
    lower = (1 - ((ey - low_lid) / (0.022 + 0.45 * pixel)).abs()).clamp_min(0) * lash_in
    crease = (
        1 - ((ey - top_lid + 0.06 + 0.03 * t.eye_deep) / (0.03 + 0.45 * pixel)).abs()
    ).clamp_min(0) * lash_in
    dark *= (1 - (t.lashes + 0.15) * lash * front).clamp_min(0.05)
    dark *= 1 - 0.3 * lower * front
    dark *= 1 - (0.1 + 0.32 * t.eye_fold) * crease * front

    # --- mouth ----------------------------------------------------------------------------------
    mx = x / mouth_half
    m2 = (mx * mx).clamp_max(1.6)
    mid = mouth_y - mouth_rise * m2
    taper = (1 - m2).clamp_min(0)
    bow = t.lip_bow * bump(ax, y, 0.0, mouth_y - t.lip_upper, 0.09, 0.3)
    upper = t.lip_upper * (1 - 0.3 * smile) * (taper * (1 - bow) * 1.05)
    lower_lip = t.lip_lower * (1 - 0.25 * smile) * (1 - m2 * m2).clamp_min(0)
    opened = gap * taper
    shift_up, shift_down = 0.3 * opened, opened
    lips = step(y - (mid - shift_up - upper), soft) * step((mid + shift_down + lower_lip) - y, soft)
    lips = lips * step(1.02 - mx.abs(), soft / mouth_half) * front
    cavity = (
        step(y - (mid - shift_up), soft)
        * step((mid + shift_down) - y, soft)
        * step(opened - 0.012, 0.03)
    )
    cavity = cavity * step(1 - mx.abs(), soft / mouth_half) * front
    lip_color = torch.lerp(
        skin * 0.68, skin * torch.tensor([0.8, 0.36, 0.38])[:, None, None], t.lip_red[:, None]
    )
    albedo = mix(albedo, lip_color, lips)
    teeth_y = mid - shift_up + 0.095
    teeth = step(teeth_y - y, soft) * step(0.8 - mx.abs(), 0.2)
    cave = torch.tensor([0.05, 0.012, 0.012])[:, None, None].expand(len(w), -1, -1, -1)
    mouth = mix(
        cave.expand(-1, -1, *w.shape[1:]).clone(),
        torch.tensor([0.62, 0.58, 0.5])[:, None, None],
        teeth * (0.95 - 0.5 * m2.clamp_max(1)),
    )
    albedo = mix(albedo, mouth, cavity)
    seam = (
        (1 - ((y - mid) / (0.022 + 0.45 * pixel)).abs()).clamp_min(0)
        * step(1.06 - mx.abs(), 0.12)
        * front
    )
    dark *= 1 - 0.8 * seam * (1 - cavity)
    dark *= 1 - 0.62 * bump(
        ax, y, mouth_half, mouth_y - mouth_rise, 0.055 + 0.4 * pixel, 0.05 + 0.3 * pixel
    )
    relief += 0.06 * bump(
        x, y, 0.0, mid - shift_up - 0.5 * t.lip_upper, mouth_half, t.lip_upper + 0.03
    )
    relief += 0.08 * bump(
        x, y, 0.0, mid + shift_down + 0.5 * t.lip_lower, 0.9 * mouth_half, t.lip_lower + 0.02
    )
    relief -= 0.1 * cavity

    # --- brows and beard (hair colour over skin) --------------------------------------------------
    hair_color = color(t, "hair")
    bx = ((ax - t.brow_in) / (t.brow_out - t.brow_in)).clamp(-0.3, 1.3)
    arch = 4 * bx * (1 - bx) * 0.6 + 0.4 * bx
    brow_mid = (
        t.brow_y
        - t.brow_arch * arch
        + t.brow_tilt * (ax - 0.45)
        - 0.07 * c.brow_raise
        + 0.06 * c.frown * (1 - bx)
    )
    brow_half = t.brow_thick * (1.05 - 0.55 * bx.clamp_min(0))
    brow = step(brow_half - (y - brow_mid).abs(), 0.035 + soft) * step(0.5 - (bx - 0.5).abs(), 0.25)
    brow = brow * (0.85 + 0.2 * fine).clamp(0, 1) * front * t.brow_dark
    relief += 0.02 * brow
    brow_color = torch.minimum(hair_color, skin * 0.75) * 0.8

    jaw_line = 0.75 + t.beard_line - 0.28 * (ax - 0.5)
    below = step(y - (jaw_line + 0.2 * (1 - ax / 0.9).clamp_min(0)), 0.16)
    lip_zone = bump(ax, y, 0.0, mouth_y + 0.02, mouth_half + 0.05, 0.24).mul_(2.5).clamp_max_(1)
    around = below * (1 - lip_zone)
    tache = step(y - (nose_y + 0.14), 0.08) * step(mid - shift_up - upper * 0.85 - y, 0.05)
    tache = tache * step(t.moustache_width + 0.1 - ax, 0.1) * front
    chin_zone = bump(ax, y, 0.0, mouth_y + 0.42, 0.42, 0.42).mul_(2).clamp_max_(1)
    chin_zone = chin_zone * step(y - (mid + shift_down + lower_lip + 0.03), 0.06)
    stubble_level = (t.beard_stubble + c.stubble_change * (t.beard_stubble > 0)).clamp(0, 0.65)
    hair_grain = (0.9 + 0.12 * fine + 0.1 * coarse).clamp(0, 1.1)
    beard = torch.maximum(t.moustache * tache, t.goatee * chin_zone)
    beard = torch.maximum(beard, t.beard * around)
    beard = torch.maximum(beard, stubble_level * torch.maximum(around, tache))
    beard = (beard * hair_grain).clamp(0, 1) * ramp(z, -0.35, -0.05) * (1 - lips) * (1 - cavity)
    relief += 0.03 * beard * (1 + 2 * t.beard_long)
    albedo = mix(albedo, brow_color, brow.clamp(0, 1))
    albedo = mix(albedo, hair_color * 0.75, beard)

    # --- neck, clothes, hair ----------------------------------------------------------------------
    depth = torch.addcmul(w, relief, front, value=1.0)
    neck_first = step(neck_w - w, 0.06 + pixel)
    neck_shown = step(neck_in, soft)
    on_neck = torch.where(
        on_head > 0, neck_first * neck_shown * on_head + neck_shown * (1 - on_head), neck_shown
    )
    albedo = mix(albedo, skin * 0.92, on_neck)
    dark = torch.lerp(dark, 0.8 + 0.03 * coarse, on_neck)
    depth = torch.lerp(depth, neck_w, on_neck)
    person = torch.maximum(on_head, neck_shown)
    face = on_head * (1 - on_neck) * ramp(z, -0.12, 0.12)

    on_cloth = step(cloth_in, soft) * torch.maximum(step(cloth_w - depth, 0.06 + pixel), 1 - person)
    albedo = mix(albedo, color(c, "cloth"), on_cloth)
    dark = torch.lerp(dark, torch.ones_like(dark), on_cloth)
    depth = torch.lerp(depth, cloth_w, on_cloth)
    person = torch.maximum(person, on_cloth)
    face = face * (1 - on_cloth)

    hair_w = hair_w.clamp_min(-1.5)
    hx, hy, hz = geometry.turn_back(matrix, u, v, hair_w)
    hax = hx.abs()
    flow = 0.35 + 0.65 * t.hair_curl
    strand, clump = noise(
        t.hair_strand * (1.6 * hx + 0.5 * t.hair_sweep * hy + 0.6 * hz)
        + t.texture_y
        + 0.1 * c.strand_x,
        flow * 0.35 * (hy + 0.5 * hz) + t.texture_x + 0.1 * c.strand_y,
    )
    sweep = (t.hair_sweep + c.hair_sweep_change) * (hx - t.hair_part * 0.5)
    edge_line = (
        t.hairline
        + c.hair_shift
        + sweep * 0.8
        - t.hairline_corner * bump(hax, hy, 0.48, t.hairline, 0.3, 3.0)
    )
    to_side = ramp(hz - 1.2 * (hax - t.hair_side_x - 0.3), 0.5, 0.05)
    side_end = torch.lerp(t.sideburn, t.hair_length + 0.9, t.hair_long)
    back_end = 0.75 + t.hair_length
    edge_line = torch.lerp(edge_line, side_end, to_side)
    edge_line = torch.lerp(edge_line, torch.maximum(back_end, side_end), ramp(hz, -0.08, -0.28))
    # The part bald people keep: a ring at the sides and the back.
    edge_line = edge_line + t.hairline_jag * (strand + clump)
    ends = 0.05 + soft + 0.05 * t.hair_curl
    cover = step(edge_line - hy, ends) * (
        1
        - t.hair_bald
        * (1 - 0.75 * step(hy + 0.55 + 0.3 * (hz > 0.4), 0.2) * step(-hz + 0.1, 0.2) * t.age)
    )
    cap_line = -0.58 - 0.12 * hz + 0.05 * hax
    on_cap = c.cap * step(cap_line - hy, soft)
    cover = torch.maximum(cover, on_cap)
    cover = cover * step(hair_in + (0.012 + 0.03 * t.hair_curl) * strand * (1 - on_cap), soft)
    cover = cover * torch.maximum(step(hair_w - depth, 0.04 + pixel), 1 - person)
    tone = (1 + 0.22 * strand + 0.2 * clump).clamp_min(0.3)
    hair_full = hair_color * tone[:, None]
    hair_full = mix(hair_full, color(c, "cap"), on_cap)
    albedo = mix(albedo, hair_full, cover)
    dark = torch.lerp(dark, torch.ones_like(dark), cover)
    depth = torch.lerp(depth, hair_w + 0.02 * (strand + clump) * (1 - on_cap), cover)
    person = torch.maximum(person, cover)
    face = face * (1 - cover)
    gloss = t.oily * (1 - torch.maximum(cover, on_cloth)) * (1 - beard * 0.8)
    gloss = gloss * (1 - 0.6 * brow) + cover * (1 - on_cap) * t.hair_gloss * (
        0.7 + 0.5 * strand
    ).clamp(0.1, 1.5)
    gloss = gloss + eye * 0.3 + lips * 0.25

    dark = dark.clamp_(0.04, 1.4)
    return Scene(albedo, depth, dark, gloss, person, face, face.clone(), pixel, x, y, z)
