"""The skin of a procedural face: blush, sockets, lines, the nose's shadows, marks."""

from __future__ import annotations

from metaface.synthetic._brushes import bump, ramp, rgb
from metaface.synthetic._canvas import Canvas


def paint_skin(p: Canvas) -> None:
    """Paint all that is skin, in the order in which the shadows add up."""
    _paint_tone(p)
    _paint_sockets(p)
    _paint_lines(p)
    _paint_chin(p)
    _paint_nose(p)
    _paint_marks(p)


def _paint_tone(p: Canvas) -> None:
    t, ax, y = p.t, p.ax, p.y
    blush = bump(ax, y, 0.55, t.cheek_height + 0.05, 0.36, 0.34)
    blush = blush + bump(ax, y, 0.0, p.nose_y, 0.24, 0.2)
    blush += 0.6 * bump(ax, y, 1.0, t.ear_y, 0.2, 0.4)
    red = p.skin * rgb(0.98, 0.66, 0.62)
    p.paint(red, (blush * p.front).mul_(t.blush.clamp_min(0)).clamp_(0, 1))
    p.dark = 1 + t.mottle * (0.02 * p.fine + 0.06 * p.coarse)
    freckle_zone = bump(ax, y, 0.4, 0.4, 0.62, 0.5)
    p.dark = p.dark - t.freckles * freckle_zone * ramp(p.fine, 0.6, 1.6) * 0.4


def _paint_sockets(p: Canvas) -> None:
    t, ax, y = p.t, p.ax, p.y
    socket = bump(ax, y, t.eye_x - 0.03, -0.07, 0.33, 0.26)
    inner = bump(ax, y, 0.2, -0.03, 0.17, 0.24)
    p.relief -= (0.05 + 0.09 * t.eye_deep) * socket + 0.05 * inner
    across, up = (ax - t.eye_x) / t.eye_width, y + t.eye_tilt * (ax - t.eye_x)
    p.relief += 0.05 * bump(across, up / t.eye_width, 0.0, 0.0, 1.25, 1.0)
    bags = bump(ax, y, t.eye_x - 0.04, 0.2, 0.2, 0.1)
    p.dark -= (0.12 + 0.16 * t.eye_deep) * socket + 0.18 * t.bags * bags * p.front
    p.dark -= 0.1 * inner
    p.dark -= 0.3 * bump(y, p.z, t.ear_y - 0.02, -0.02, 0.2, 0.14) * ramp(ax, 0.8, 0.9)  # ears


def _paint_lines(p: Canvas) -> None:
    """Lines of age and expression."""
    t, c, ax, y, nose_y = p.t, p.c, p.ax, p.y, p.nose_y
    at = ((y - nose_y) / (p.mouth.y + 0.12 - nose_y)).clamp(-0.5, 1.5)  # from nose to mouth
    fold_x = 0.25 + t.fold_x + at * (0.24 + 0.07 * p.smile) - 0.07 * at * at
    away = (ax - fold_x) / (0.05 + 0.5 * p.pixel)
    fold = (1 - away * away).clamp_min_(0) * ramp(at, -0.2, 0.2) * ramp(at, 1.25, 0.8)
    strength = (t.fold * 0.6 + 0.5 * p.smile).clamp(0, 1)
    p.dark -= 0.3 * strength * fold
    p.relief += 0.05 * strength * bump(ax, y, fold_x + 0.1, nose_y + 0.15, 0.2, 0.35)
    wave = (y - t.forehead_lines_y + 0.04 * p.coarse) * (1 / 0.13)
    wave = (wave - wave.round()).abs()
    lines = ramp(wave, 0.3, 0.05) * bump(ax, y, 0.0, t.forehead_lines_y, 0.6, 0.3)
    p.dark -= lines * (0.3 * t.forehead_lines + 0.25 * c.brow_raise.clamp_min(0)).clamp(0, 0.5)
    frown = bump(ax, y, 0.07, -0.24, 0.04 + 0.5 * p.pixel, 0.14)
    p.dark -= 0.3 * (t.frown_line + c.frown).clamp(0, 1) * frown
    feet = bump(ax, y, t.eye_x + 0.3, 0.0, 0.12, 0.14) * (0.6 + 0.4 * p.fine)
    p.dark -= 0.25 * (0.7 * t.crow_feet + 0.4 * p.smile).clamp(0, 1) * feet


def _paint_chin(p: Canvas) -> None:
    """Dimples, a cleft chin, the hollows under and over the lips."""
    t, ax, y, mouth = p.t, p.ax, p.y, p.mouth
    dimple = bump(ax, y, mouth.half + 0.14, mouth.y - 0.03, 0.06, 0.1)
    p.dark -= 0.35 * t.dimple * p.smile * dimple
    chin_y = 1.3 * t.face_length + t.chin_down
    p.dark -= 0.3 * t.cleft * bump(ax, y, 0.0, chin_y, 0.05 + 0.3 * p.pixel, 0.12)
    p.dark -= 0.22 * bump(ax, y, 0.0, mouth.y + t.lip_lower + 0.1 + mouth.gap, 0.28, 0.08)
    p.relief -= 0.03 * bump(ax, y, 0.0, mouth.y + t.lip_lower + 0.11 + mouth.gap, 0.3, 0.1)
    p.relief -= 0.02 * bump(ax, y, 0.0, 0.5 * (p.nose_y + mouth.y) + 0.05, 0.06, 0.15)


def _paint_nose(p: Canvas) -> None:
    """Nostrils, wings and bridge."""
    t, ax, y, blur = p.t, p.ax, p.y, 0.4 * p.pixel
    nostril_x, nostril_y = 0.55 * t.nose_width + 0.01, t.nose_length + 0.115 - 0.3 * t.nose_up
    nostrils = bump(ax, y, nostril_x, nostril_y, t.nostril + blur, 0.045 + blur)
    p.dark -= 0.75 * nostrils.clamp(0, 1) * p.front
    wing = bump(ax, y, t.nose_width + 0.1, t.nose_length + 0.04, 0.055 + blur, 0.12)
    under = bump(ax, y, 0.0, t.nose_length + 0.16, t.nose_width + 0.05, 0.08)
    p.dark -= 0.28 * wing + 0.16 * under
    p.dark -= 0.1 * bump(ax, y, t.nose_bridge + 0.07, 0.28, 0.08, 0.34)


def _paint_marks(p: Canvas) -> None:
    """Moles and a scar."""
    t, x, y = p.t, p.x, p.y
    for mole in ("mole0", "mole1", "mole2"):
        size = getattr(t, mole)
        radius = size + 0.5 * p.pixel
        spot = bump(x, y, getattr(t, f"{mole}_x"), getattr(t, f"{mole}_y"), radius, radius)
        p.dark -= 0.7 * (size / (size + 0.3 * p.pixel)) * (size > 0) * spot
    dx, dy = x - t.scar_x, y - t.scar_y
    cos, sin = t.scar_angle.cos(), t.scar_angle.sin()
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    p.dark += 0.25 * t.scar * bump(along, across, 0.0, 0.0, 0.2, 0.025 + 0.4 * p.pixel)
