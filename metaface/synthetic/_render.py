"""``render``: plan the photographs, draw them in chunks, note the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.arguments import check_given_counts
from metaface.synthetic import _camera as camera
from metaface.synthetic import _geometry as geometry
from metaface.synthetic._occlude import occlude
from metaface.synthetic._paint import paint
from metaface.synthetic._people import draw_traits
from metaface.synthetic._photo import DOMAINS, Dials, draw_conditions, photo_keys
from metaface.synthetic._random import Fields

_PIVOT = (0.0, 0.3, 0.5)  # the head's point in the middle of the picture
_PIXELS = 24 * 64 * 64  # rendered at once: few enough for the processor's cache
_PLAN = 4096  # images whose circumstances are drawn at once


@dataclass(frozen=True)
class Renders:
    """M rendered photographs with their ground truth."""

    images: np.ndarray  #: uint8 ``[M, S, S, 3]`` RGB
    person: np.ndarray  #: int64 ``[M]``, the person's id
    domain: np.ndarray  #: int64 ``[M]``, index into ``domains``
    domains: tuple[str, ...]  #: names of the domains
    #: float32 ``[M, 4]`` x, y, w, h in pixels: hairline to chin, cut to the picture
    box: np.ndarray
    landmarks: np.ndarray  #: float32 ``[M, 5, 2]`` pixels: eyes, nose tip, mouth corners (as YuNet)
    mask: np.ndarray  #: bool ``[M, S, S]``: the face where hair and occlusions leave it visible
    pose: np.ndarray  #: float32 ``[M, 3]`` degrees: yaw (> 0: to the image's right), pitch, roll
    attributes: dict[str, np.ndarray]  #: per image ``[M]``; see ``render``
    #: uint8 ``[M, S, S, 2]``, or ``[0, S, S, 2]`` unasked: how far (0..255) a pixel is the person
    #: (hair, body and what is worn included), and the face, covered or not
    layers: np.ndarray


def render(
    people: int | Sequence[int] = 100,
    photos: int = 20,
    image_size: int = 64,
    domains: str | Sequence[str] | Mapping[str, Dials] = "default",
    seed: int = 0,
    progress: bool = False,
    layers: bool = False,
) -> Renders:
    """Photographs of procedural people.

    Args:
        people: how many people (ids 0 to people - 1), or the ids themselves (>= 0).
        photos: photographs of each person in each domain.
        image_size: side of the square pictures in pixels, at least 16.
        domains: a name or names in ``DOMAINS``, or a mapping of own names to ``Dials``.
        seed: another seed gives other people.
        progress: show a progress bar.
        layers: keep what it takes to cut the person out of the picture.

    Images are ordered by domain, then person, then photo. Pixel coordinates count from the outer
    corner of the first pixel, so its middle is (0.5, 0.5). Pose: yaw > 0 turns the face towards the
    image's right, pitch > 0 lifts the chin, roll > 0 leans the head clockwise in the image.
    ``attributes`` holds bool ``glasses``, ``mask``, ``cap``, ``hand``, ``grey``, ``female``,
    ``beard``, ``moustache``; float32 ``smile`` (-0.25..1), ``mouth_open``, ``eye_closure``
    (0..1), ``light_azimuth`` and ``light_elevation`` (degrees, > 0: from the image's right, from
    above), ``hardness``, ``age``, ``skin_tone`` (0 light to 1 dark), ``hair_length``.

    Raises:
        ValueError: a setting out of range, or an unknown domain.

    Example:
        >>> import metaface as mf
        >>> renders = mf.synthetic.render(people=3, photos=2, domains=["default", "sketch"])
        >>> renders.images.shape, renders.person.tolist()
        ((12, 64, 64, 3), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2])
        >>> renders.landmarks.shape, renders.attributes["glasses"].shape
        ((12, 5, 2), (12,))
    """
    ids = _check_people(people)
    dials = _check_domains(domains)
    check_given_counts(0, seed=seed, image_size=image_size, photos=photos)
    if photos < 1:
        raise ValueError(f"photos={photos}: give at least 1 photo a person")
    if image_size < 16:
        raise ValueError(f"image_size={image_size}: give at least 16 pixels")

    total = len(dials) * len(ids) * photos
    out = Renders(
        images=np.empty((total, image_size, image_size, 3), np.uint8),
        person=np.tile(np.repeat(ids, photos), len(dials)),
        domain=np.repeat(np.arange(len(dials)), len(ids) * photos),
        domains=tuple(dials),
        box=np.empty((total, 4), np.float32),
        landmarks=np.empty((total, 5, 2), np.float32),
        mask=np.empty((total, image_size, image_size), bool),
        pose=np.empty((total, 3), np.float32),
        attributes={},
        layers=np.empty((total * layers, image_size, image_size, 2), np.uint8),
    )
    photo = np.tile(np.arange(photos), len(dials) * len(ids))
    chunk = max(1, _PIXELS // image_size**2)
    bar = track(total=total, desc="rendering", unit="image", show=progress)
    with bar, _workers() as pool:
        for number, (name, dial) in enumerate(dials.items()):
            first, last = number * len(ids) * photos, (number + 1) * len(ids) * photos
            for start in range(first, last, _PLAN):
                plan = slice(start, min(start + _PLAN, last))
                t = draw_traits(seed, out.person[plan])
                keys = photo_keys(seed, name, out.person[plan], photo[plan])
                c = draw_conditions(dial, keys, t["wears_glasses"])
                _keep_truth(out, plan, t, c)
                who, how = Fields(t), Fields(c)

                def draw(at: int, plan: slice = plan, who: Fields = who, how: Fields = how) -> int:
                    rows = slice(at, min(at + chunk, plan.stop))
                    part = slice(rows.start - plan.start, rows.stop - plan.start)
                    _render_chunk(out, rows, who.rows(part), how.rows(part))
                    return rows.stop - rows.start

                for done in pool.map(draw, range(plan.start, plan.stop, chunk)):
                    bar.update(done)
    return out


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch may use, each rendering chunks of its own on one core.

    Splitting each small operation over the threads instead costs more than it gains.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "render", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # the workers' setting became that of threads to come


def _check_people(people: int | Sequence[int]) -> np.ndarray:
    if isinstance(people, (int, np.integer)):  # bool included
        if isinstance(people, bool) or people < 1:
            raise ValueError(f"people={people}: give at least 1, or a sequence of ids")
        return np.arange(people, dtype=np.int64)
    ids = np.asarray(people)
    if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu" or ids.min() < 0:
        raise ValueError(
            f"people={people!r}: give a count, or one or more ids that are integers >= 0"
        )
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"people={people!r}: give each id once")
    return ids.astype(np.int64)


def _check_domains(domains: str | Sequence[str] | Mapping[str, Dials]) -> dict[str, Dials]:
    if isinstance(domains, Mapping):
        chosen = dict(domains)
    else:
        names = [domains] if isinstance(domains, str) else list(domains)
        unknown = [name for name in names if name not in DOMAINS]
        if unknown:
            raise ValueError(
                f"unknown domain {unknown[0]!r}: choose from {', '.join(DOMAINS)}, or give Dials"
            )
        chosen = {name: DOMAINS[name] for name in names}
        if len(chosen) < len(names):
            raise ValueError(f"domains={domains!r}: name each domain once")
    if not chosen:
        raise ValueError(f"domains={domains!r}: give at least one domain")
    for name, dial in chosen.items():
        if not isinstance(dial, Dials):
            raise ValueError(f"domain {name!r} is {dial!r}: give metaface.synthetic.Dials")
    return chosen


def _keep_truth(
    out: Renders, rows: slice, t: dict[str, np.ndarray], c: dict[str, np.ndarray]
) -> None:
    """Write down pose and attributes."""
    out.pose[rows] = np.stack([c["yaw"], c["pitch"], c["roll"]], 1)
    facts: dict[str, np.ndarray] = {
        name: c[name] > 0 for name in ("glasses", "mask", "cap", "hand", "grey")
    }
    facts |= {name: t[name] > 0 for name in ("female", "beard", "moustache")}
    facts |= {name: c[name] for name in ("smile", "mouth_open", "eye_closure", "hardness")}
    facts |= {name: t[name] for name in ("age", "skin_tone", "hair_length")}
    facts["light_azimuth"] = np.degrees(np.arctan2(c["light_x"], c["light_z"]))
    facts["light_elevation"] = np.degrees(np.arcsin(-c["light_y"]))
    for name, values in facts.items():
        kind = bool if values.dtype == bool else np.float32
        out.attributes.setdefault(name, np.empty(len(out.person), kind))[rows] = values


@torch.no_grad()
def _render_chunk(out: Renders, rows: slice, t: Fields, c: Fields) -> None:
    size = out.images.shape[1]
    matrix = geometry.rotate(c.yaw, c.pitch, c.roll)
    pivot_u, pivot_v, _ = geometry.turn(matrix, *(torch.full_like(c.yaw, p) for p in _PIVOT))
    pixel_u = c.window / (size * c.zoom * c.stretch)
    pixel_v = c.window / (size * c.zoom)
    middle_u, middle_v = size * (0.5 + c.shift_x), size * (0.5 + c.shift_y)
    line = torch.arange(size) + 0.5
    u = (line - middle_u) * pixel_u + pivot_u
    v = (line[:, None] - middle_v) * pixel_v + pivot_v

    view = geometry.View(matrix, u, v, pixel_v)
    scene = paint(t, c, view)
    occlude(scene, t, c, view)
    light = camera.shade(scene, c, view)
    out.images[rows] = camera.expose(light, c).permute(0, 2, 3, 1).numpy()
    out.mask[rows] = (scene.face > 0.5).numpy()
    out.box[rows] = _find_boxes(scene.bare > 0.5).numpy()
    if len(out.layers):
        soft = torch.stack([scene.person, scene.bare], -1)
        out.layers[rows] = (255 * soft + 0.5).clamp_(0, 255).to(torch.uint8).numpy()
    lu, lv, _ = geometry.turn(matrix, *geometry.place_landmarks(t, c))
    points = torch.stack(
        [(lu - pivot_u) / pixel_u + middle_u, (lv - pivot_v) / pixel_v + middle_v], -1
    )
    out.landmarks[rows] = points[:, 0].numpy()


def _find_boxes(mask: Tensor) -> Tensor:
    """x, y, w, h of masks ``[B, S, S]``; the whole picture where a mask is empty."""
    size = mask.shape[-1]
    columns, rows = mask.any(1).byte(), mask.any(2).byte()
    left, top = columns.argmax(1), rows.argmax(1)
    right, low = size - columns.flip(1).argmax(1), size - rows.flip(1).argmax(1)
    return torch.stack([left, top, right - left, low - top], 1).float()
