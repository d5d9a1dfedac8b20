"""Where a procedural face is: a head made of ellipsoids, seen by an orthographic camera.

Head coordinates: x to the image's right, y down from the eye line, z towards the camera at rest;
unit: half a face width. Camera coordinates (u, v, w) are the same after turning by the pose. Along
a camera ray an ellipsoid's front is ``w = linear(u, v) + height * sqrt(1 - quadratic(u, v))``, so
the head is a smooth maximum of such terms, exact at every pose, and nothing is marched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metaface.synthetic._random import Fields

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class View:
    """A head's pose and the camera's rays."""

    matrix: list[list[Tensor]]  #: head to camera, see ``rotate``
    u: Tensor  #: ``[B, 1, W]``
    v: Tensor  #: ``[B, H, 1]``
    pixel: Tensor  #: units a pixel ``[B, 1, 1]``

    def rows(self, index: Tensor) -> View:
        """The same for some of the pictures."""
        matrix = [[entry[index] for entry in row] for row in self.matrix]
        return View(matrix, self.u[index], self.v[index], self.pixel[index])


def rotate(yaw: Tensor, pitch: Tensor, roll: Tensor) -> list[list[Tensor]]:
    """Head to camera, rows of ``[B, 1, 1]`` entries; angles in degrees.

    yaw > 0 turns the face to the image's right, pitch > 0 lifts the chin, roll > 0 leans the head
    clockwise in the image.
    """
    (a, b, c) = (torch.deg2rad(x.double()) for x in (yaw, pitch, roll))
    (sa, sb, sc), (ca, cb, cc) = [x.sin() for x in (a, b, c)], [x.cos() for x in (a, b, c)]
    zero = torch.zeros_like(ca)
    first = [[ca, zero, sa], [sb * sa, cb, -sb * ca], [-cb * sa, sb, cb * ca]]
    turned = [
        [cc * first[0][j] - sc * first[1][j] for j in range(3)],
        [sc * first[0][j] + cc * first[1][j] for j in range(3)],
        first[2],
    ]
    return [[x.float() for x in row] for row in turned]


def turn(matrix: Sequence[Sequence[Tensor]], x: Tensor, y: Tensor, z: Tensor) -> Vector:
    """Head coordinates to camera coordinates."""
    a, b, c = (r[0] * x + r[1] * y + r[2] * z for r in matrix)
    return a, b, c


def turn_back(matrix: Sequence[Sequence[Tensor]], u: Tensor, v: Tensor, w: Tensor) -> Vector:
    """Camera coordinates to head coordinates."""
    columns = zip(*matrix, strict=True)
    a, b, c = (torch.addcmul(c[0] * u + c[1] * v, c[2], w) for c in columns)
    return a, b, c


class Blobs:
    """Ellipsoids by name, smoothly joined in the order in which they were added."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._rows: list[list[Tensor]] = []

    def add(
        self,
        center: Sequence[Tensor | float],
        radii: Sequence[Tensor | float],
        blend: float,
        tilt: Tensor | float = 0.0,
    ) -> None:
        """Add one: ``tilt`` (radians) turns its lower end forwards, ``blend`` rounds its seam."""
        numbers = [*center, *radii, tilt, blend]
        self._rows.append(
            [torch.as_tensor(n, dtype=torch.float32).expand_as(self._like) for n in numbers]
        )

    def pair(
        self,
        center: Sequence[Tensor | float],
        radii: Sequence[Tensor | float],
        blend: float,
        tilt: Tensor | float = 0.0,
    ) -> None:
        """Add one on each side of the head."""
        for sign in (-1.0, 1.0):
            self.add((sign * center[0], *center[1:]), radii, blend, tilt)

    def pose(self, matrix: Sequence[Sequence[Tensor]]) -> Surface:
        """The ellipsoids as the camera sees them."""
        cx, cy, cz, rx, ry, rz, tilt, blend = (
            torch.stack([r[i] for r in self._rows]) for i in range(8)
        )  # each [E, B, 1, 1]
        c, s = tilt.cos(), tilt.sin()
        (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
        # Camera-space axes: of x, of the tilted y (down and forwards), of the tilted z.
        axes = (
            ((xx, yx, zx), rx),
            ((xy * c + xz * s, yy * c + yz * s, zy * c + zz * s), ry),
            ((xz * c - xy * s, yz * c - yy * s, zz * c - zy * s), rz),
        )

        def form(i: int, j: int) -> Tensor:
            a, b, d = (axis[i] * axis[j] / r.square() for axis, r in axes)
            return a + b + d

        uu, uv, vv = form(0, 0), form(0, 1), form(1, 1)
        uw, vw, ww = form(0, 2), form(1, 2), form(2, 2)
        mu, mv, mw = turn(matrix, cx, cy, cz)
        quu, quv, qvv = uu - uw * uw / ww, 2 * (uv - uw * vw / ww), vv - vw * vw / ww
        size = (quu * qvv).sqrt().rsqrt()  # the outline's mean radius
        return Surface(mu, mv, mw, quu, quv, qvv, -uw / ww, -vw / ww, ww.rsqrt(), 0.5 * size, blend)


@dataclass(frozen=True)
class Surface:
    """Posed ellipsoids: coefficients ``[E, B, 1, 1]``."""

    mu: Tensor
    mv: Tensor
    mw: Tensor
    quu: Tensor
    quv: Tensor
    qvv: Tensor
    lu: Tensor
    lv: Tensor
    height: Tensor
    size: Tensor
    blend: Tensor

    def cast(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Depth w and signed distance inside the outline (about, in units) along rays.

        u is ``[B, 1, W]`` and v ``[B, H, 1]`` (or both ``[B, 1, L]``); the results ``[B, H, W]``.
        """
        depth: Tensor | None = None
        inside: Tensor | None = None
        for e in range(len(self.mu)):
            pu, pv = u - self.mu[e], v - self.mv[e]
            i = (1 - self.quu[e] * pu * pu) - self.qvv[e] * pv * pv
            i = i.addcmul_(-self.quv[e] * pu, pv)
            w = (self.lu[e] * pu + self.mw[e]) + self.lv[e] * pv
            slope = i.clamp_min(0).sqrt_().add_(i.clamp_max(0), alpha=1.5)
            w.addcmul_(slope, self.height[e])
            i = i.mul_(self.size[e])
            if depth is None or inside is None:
                depth, inside = w, i
                continue
            gap = depth - w
            depth = depth.add_(w).add_(gap.square_().add_(self.blend[e].square()).sqrt_()).mul_(0.5)
            gap = inside - i
            inside = (
                inside.add_(i)
                .add_(gap.square_().add_((0.3 * self.blend[e]).square()).sqrt_())
                .mul_(0.5)
            )
        assert depth is not None and inside is not None
        return depth, inside


def build_head(t: Fields, c: Fields) -> Blobs:
    """Skull, face, nose and ears; the expression moves jaw and cheeks."""
    blobs = Blobs(t.age)
    drop = 0.16 * c.mouth_open
    long = t.face_length
    fat = t.fat + c.weight_change
    smile = c.smile.clamp_min(0)
    blobs.add((0.0, -0.33, -0.2), (t.skull_width, t.skull_height, 1.2 + t.forehead), 0.1)
    blobs.add((0.0, 0.5, 0.2), (t.face_width + 0.03 * fat, 1.1 * long + 0.3 * drop, 0.8), 0.14)
    blobs.pair(
        (t.jaw_width - 0.04, t.jaw_drop * long - 0.06, 0.15), (0.28 + 0.04 * fat, 0.52, 0.5), 0.3
    )
    blobs.add(
        (0.0, 1.28 * long + drop + t.chin_down, 0.45 + t.chin_out),
        (t.chin_width + 0.03, 0.31, 0.5),
        0.28,
    )
    blobs.pair(
        (0.52, t.cheek_height + 0.06 - 0.05 * smile, 0.3 + t.cheek_out),
        (0.34 + 0.03 * fat, 0.38 + 0.03 * fat, 0.52 + 0.04 * smile + 0.03 * fat),
        0.25,
    )
    blobs.add((0.0, t.mouth_y - 0.02 + 0.4 * drop, 0.38), (0.5, 0.46, 0.66), 0.16)
    blobs.add((0.0, -0.24, 0.35 + t.brow_ridge), (0.74, 0.22, 0.62), 0.12)
    low = t.nose_length
    blobs.add(
        (0.0, 0.5 * low - 0.1, 0.93 + t.nose_bridge_out),
        (t.nose_bridge, 0.72 * low + 0.1, 0.22),
        0.09,
        0.3 + 0.8 * t.nose_out,
    )
    blobs.add((0.0, low - t.nose_up, 1.2 + t.nose_out), (t.nose_tip, 0.14, 0.2), 0.07)
    blobs.pair(
        (t.nose_width, low + 0.06 - 0.5 * t.nose_up, 1.06 + 0.5 * t.nose_out),
        (0.105, 0.1, 0.16),
        0.05,
    )
    blobs.pair(
        (t.skull_width - 0.04 + t.ear_out, t.ear_y, -0.12),
        (0.11, 0.28 * t.ear_size, 0.19 * t.ear_size),
        0.05,
        -0.2,
    )
    return blobs


def build_neck(t: Fields) -> Blobs:
    """Neck."""
    blobs = Blobs(t.age)
    blobs.add((0.0, 2.2, -0.3), (t.neck_width + 0.06 * t.fat, 1.7, 0.62), 0.1)
    return blobs


def build_torso(t: Fields, c: Fields) -> Blobs:
    """Shoulders, clothed."""
    blobs = Blobs(t.age)
    wide = 1.9 - 0.25 * t.female
    blobs.add((0.0, c.collar + 0.9, -0.3), (wide, 1.05, 0.95), 0.1)
    return blobs


def build_hair(t: Fields, c: Fields) -> Blobs:
    """The outside of hair (or of the cap): a shell over the skull, back and side curtains."""
    blobs = Blobs(t.age)
    cap = c.cap
    top = torch.lerp(t.hair_top * c.hair_volume + 0.02, torch.full_like(cap, 0.17), cap)
    side = torch.lerp(t.hair_side * (0.5 + 0.5 * c.hair_volume), torch.full_like(cap, 0.06), cap)
    blobs.add(
        (0.0, -0.33 - 0.35 * top, -0.22),
        (t.skull_width + side, t.skull_height + 0.65 * top, 1.235 + t.forehead + 0.2 * top),
        0.1,
    )
    length = t.hair_length * t.hair_long
    blobs.add(
        (0.0, 0.3 + 0.45 * length, -0.5),
        (0.72 + (0.28 + side) * t.hair_long, 0.75 + 0.35 * t.hair_long + 0.6 * length, 0.72),
        0.1,
    )
    blobs.pair(
        (0.55 + (0.33 + t.hair_curtain) * t.hair_long + 0.4 * side, 0.25 + 0.45 * length, -0.12),
        (0.16 + 0.14 * t.hair_long, 0.4 + 0.65 * length, 0.3 + 0.14 * t.hair_long),
        0.1,
    )
    return blobs


def build_brim(t: Fields) -> Blobs:
    """The brim of a cap."""
    blobs = Blobs(t.age)
    blobs.add((0.0, -0.86, 1.15), (0.72, 0.09, 0.62), 0.1, 0.1)
    return blobs


class Mouth(NamedTuple):
    """Where a mouth is, in head coordinates, each ``[B, 1, 1]``."""

    y: Tensor  #: middle
    half: Tensor  #: half the width
    rise: Tensor  #: of the corners
    gap: Tensor  #: half the distance of the lips


def place_mouth(t: Fields, c: Fields) -> Mouth:
    """The mouth under its expression."""
    smile = c.smile
    middle = t.mouth_y + 0.05 * c.mouth_open
    half = t.mouth_width * (1 + 0.1 * smile.clamp_min(0) - 0.08 * c.mouth_open)
    return Mouth(middle, half, 0.055 * smile + t.mouth_curve, 0.19 * c.mouth_open)


def place_landmarks(t: Fields, c: Fields) -> Vector:
    """Eyes, nose tip, mouth corners in head coordinates ``[B, 1, 5]``, image-left first at rest.

    A little above the painted middles, where detectors trained on photographs put them.
    """
    middle, half, rise, _ = place_mouth(t, c)
    zero = torch.zeros_like(half)
    x = torch.cat([-t.eye_x, t.eye_x, zero, -half, half], 2)
    eye, nose, corner = zero - 0.028, t.nose_length - t.nose_up - 0.045, middle - rise - 0.02
    y = torch.cat([eye, eye, nose, corner, corner], 2)
    upright = rotate(zero, zero, zero)
    z, _ = build_head(t, c).pose(upright).cast(x, y)
    sunk = torch.cat([0.03 + 0.04 * t.eye_deep] * 2 + [zero] * 3, 2)
    return x, y, z - sunk
