"""What a scene has beside its faces: a background, things, light and a camera."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_GRAIN = 512  # side of the noise that windows are cut from


def draw_background(random: np.random.Generator, size: int) -> np.ndarray:
    """uint8 ``[size, size, 3]``: smooth colours, with texture, stripes or both on them."""
    corners = random.uniform(0, 255, 3) + random.normal(0, 40, (2, 2, 3))
    scene = draw_texture(random, size)
    smooth = cv2.resize(corners.clip(0, 255).astype(np.uint8), (size, size))
    share = random.uniform(0.2, 1.0)
    scene = cv2.addWeighted(smooth, share, scene, 1 - share, 0)
    dull = float(random.random())  # most of what is behind people is not gaudy
    grey = cv2.cvtColor(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    scene = cv2.addWeighted(grey, dull, scene, 1 - dull, 0)
    if random.random() < 0.25:  # bars, tiles, shelves
        step, width = int(random.integers(8, 40)), int(random.integers(1, 8))
        colour = _draw_colour(random)
        for at in range(int(random.integers(step)), size, step):
            if width % 2:
                cv2.line(scene, (at, 0), (at, size), colour, width)
            if width % 3:
                cv2.line(scene, (0, at), (size, at), colour, width)
    return scene


def draw_texture(random: np.random.Generator, size: int, dark: bool = False) -> np.ndarray:
    """uint8 ``[size, size, 3]`` of blots of some size, or of strands of ``dark`` hair."""
    cells = random.integers(2, 33, 2)
    brown = random.uniform(15, 110) * np.array([1.0, 0.8, 0.65])
    base = brown if dark else random.uniform(10, 245, 3)
    spread = random.uniform(5, 25 if dark else 70)
    grid = (
        base
        + spread * random.normal(size=(*cells, 1))
        + 0.3 * spread * random.normal(size=(*cells, 3))
    )
    smooth = cv2.INTER_CUBIC if random.random() < 0.7 else cv2.INTER_NEAREST
    return cv2.resize(grid.clip(0, 255).astype(np.uint8), (size, size), interpolation=smooth)


def draw_things(random: np.random.Generator, scene: np.ndarray) -> None:
    """Draw things on a scene; some have the colour of skin or the shape of a head."""
    size = len(scene)
    for _ in range(int(random.integers(0, 6))):
        kind = int(random.integers(5))
        x, y = (int(v) for v in random.uniform(0, size, 2))
        long = size * float(random.uniform(0.05, 0.35))
        skin = random.random() < 0.4
        colour = _draw_skin(random) if skin else _draw_colour(random)
        angle = float(random.uniform(0, 180))
        if kind == 0:
            rect = ((float(x), float(y)), (long, long * float(random.uniform(0.2, 1))), angle)
            corners = cv2.boxPoints(rect).astype(np.int32)
            cv2.fillConvexPoly(scene, corners, colour, cv2.LINE_AA)
        elif kind == 1:
            axes = (int(long / 2), int(long / 2 * random.uniform(0.4, 1)))
            cv2.ellipse(scene, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
        elif kind == 2:
            _draw_hand(random, scene, x, y, long, colour)
        elif kind == 3:
            other = tuple(int(v) for v in random.uniform(0, size, 2))
            cv2.line(scene, (x, y), other, colour, int(random.integers(1, 9)), cv2.LINE_AA)
        else:
            _draw_ball(random, scene, x, y, long, colour)


def _draw_hand(
    random: np.random.Generator, scene: np.ndarray, x: int, y: int, long: float, colour: tuple
) -> None:
    turn = random.uniform(0, 2 * np.pi)
    wide = max(1, round(long / 7))
    cv2.circle(scene, (x, y), max(1, round(long / 4)), colour, -1, cv2.LINE_AA)
    for finger in range(5):
        angle = turn + 0.35 * (finger - 2)
        end = (round(x + long * 0.7 * np.cos(angle)), round(y + long * 0.7 * np.sin(angle)))
        shade = tuple(int(c * (0.85 + 0.03 * finger)) for c in colour)
        cv2.line(scene, (x, y), end, shade, wide, cv2.LINE_AA)


def _draw_ball(
    random: np.random.Generator, scene: np.ndarray, x: int, y: int, long: float, colour: tuple
) -> None:
    """An upright oval, lit from one side, with a spot or a stripe where no face has any."""
    axes = np.array([long * 0.4, long * 0.5])
    light = random.uniform(-0.4, 0.4, 2)
    for share in (1.0, 0.8, 0.6, 0.4):
        centre = tuple(int(v) for v in np.array([x, y]) + (1 - share) * light * long)
        bright = tuple(int(min(255, c * (1.25 - 0.45 * share))) for c in colour)
        size = tuple(int(v) for v in share * axes)
        cv2.ellipse(scene, centre, size, 0, 0, 360, bright, -1, cv2.LINE_AA)
    if random.random() < 0.5:
        at = (
            int(x + axes[0] * random.uniform(-0.6, 0.6)),
            int(y + axes[1] * random.uniform(-1, 1)),
        )
        cv2.circle(scene, at, max(1, int(long * 0.08)), _draw_colour(random), -1, cv2.LINE_AA)


def draw_object_before(
    random: np.random.Generator, size: int, box: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 alpha ``[size, size]`` and colour ``[size, size, 3]`` of a thing near a box's rim."""
    alpha = np.zeros((size, size), np.uint8)
    long = float(box[2:].max())
    angle = random.uniform(0, 2 * np.pi)
    middle = box[:2] + box[2:] / 2 + 0.55 * box[2:] * np.array([np.cos(angle), np.sin(angle)])
    x, y = (int(v) for v in middle)
    tilt = float(random.uniform(0, 180))
    if random.random() < 0.5:
        axes = (int(long * random.uniform(0.1, 0.4)), int(long * random.uniform(0.1, 0.3)))
        cv2.ellipse(alpha, (x, y), axes, tilt, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        way = size * np.array([np.cos(tilt), np.sin(tilt)])
        ends = [tuple(int(v) for v in middle + s * way) for s in (-1, 1)]
        cv2.line(alpha, ends[0], ends[1], 255, max(1, round(long * 0.12)), cv2.LINE_AA)
    return alpha, draw_texture(random, size)


def photograph(random: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """A scene under coloured light from one side, seen by a camera with blur and noise."""
    size = len(scene)
    if random.random() < 0.35:
        scene = cv2.GaussianBlur(scene, (0, 0), float(random.uniform(0.4, 1.3)))
    tint = np.exp(random.normal(0, 0.08, 3))
    gain, gamma = np.exp(random.normal(0, 0.16)), np.exp(random.normal(0, 0.2))
    levels = 255 * np.linspace(0, 1, 256)[:, None] ** gamma * tint * gain
    lifted = random.uniform(0, 20) * (random.random() < 0.3)
    table = (levels + lifted).clip(0, 255).astype(np.uint8)[None]
    scene = cv2.LUT(scene, table)
    if random.random() < 0.12:
        scene = cv2.cvtColor(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    low = random.uniform(0.45, 1.0) if random.random() < 0.4 else 1.0
    corners = (low + (1 - low) * random.random((2, 2, 1))).astype(np.float32)
    light = cv2.resize(corners, (size, size)) if low < 1 else np.ones((size, size), np.float32)
    amount = 12.0 * random.random() ** 2
    y, x = random.integers(0, _GRAIN - size, 2) if size < _GRAIN else (0, 0)
    grain = np.resize(_grain()[y : y + size, x : x + size], scene.shape)
    noisy = scene * light[..., None] + np.float32(amount) * grain
    return np.asarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((_GRAIN, _GRAIN, 3), np.float32)


def _draw_colour(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(v) for v in random.integers(0, 256, 3))


def _draw_skin(random: np.random.Generator) -> tuple[int, ...]:
    tone = random.uniform(0.35, 1.0)
    return tuple(int(v) for v in tone * (np.array([235, 190, 165]) + random.normal(0, 8, 3)))
