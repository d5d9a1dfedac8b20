"""Scenes with exact labels: faces of a ``FaceSprites``, pasted on backgrounds with other things."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from metaface.faces.alignment import MIRRORED
from metaface.multitask import _backdrop as backdrop
from metaface.multitask.samples import UNKNOWN, FaceAnnotations
from metaface.multitask.sprites import FaceSprites

HIDDEN = 0.3  # share of a face that other people and things may cover, at most
CUT = 0.15  # share of its side by which a face may stick out of the picture, at most
_TRIES = 8  # places tried for a face


def compose(
    sprites: FaceSprites,
    n: int,
    *,
    size: int = 128,
    faces: tuple[int, int] = (1, 3),
    side: tuple[float, float] = (24, 96),
    turn: float = 25.0,
    seed: int = 0,
    first: int = 0,
) -> FaceAnnotations:
    """``n`` square pictures of ``size`` pixels with faces of ``sprites``, all labelled.

    Each face is scaled, turned a little and in half of the cases mirrored, its labels with it;
    nearer people stand lower and before the others. Behind and at times before them are things that
    are no faces; light, colour, blur and noise are the whole scene's. A scene depends on the
    sprites, its number and the settings alone: numbers 0 to 9 are the same ten whether made at once
    or one by one.

    A box is the extent of the face, hairline to chin, with what of it others cover, in the picture;
    landmarks stay where they are, also covered or (few) outside the picture. Masks have the face
    where it is seen; around a face whose outline is not known, they are unknown.

    Args:
        sprites: the faces; give training and test sprites of different people.
        n: how many scenes.
        faces: least and greatest number of faces in a scene; where there is no place left for one
            that covers no other by more than a third, it is left out, but never all.
        side: least and greatest length of a face's longer side, in pixels, as planned: before it
            is turned and cut by the picture. All ratios are as likely as each other.
        turn: degrees by which a face is turned, at most; most are turned less than 10.
        seed: another seed gives other scenes.
        first: number of the first scene.

    Raises:
        ValueError: settings out of range; no sprites.

    Example:
        >>> from metaface.multitask import FaceSprites, compose
        >>> sprites = FaceSprites.procedural(people=4, photos=2, image_size=64)
        >>> scenes = compose(sprites, 3, size=96, faces=(1, 2), side=(24, 72), seed=0)
        >>> scenes.images.shape, scenes.masks.shape
        ((3, 96, 96, 3), (3, 96, 96))
        >>> len(scenes.boxes) == len(scenes.person), bool(scenes.complete.all())
        (True, True)
    """
    _check_settings(n, first, size, faces, side, turn)
    if not len(sprites):
        raise ValueError(f"{sprites.name} is empty: a scene needs faces")
    images = np.empty((n, size, size, 3), np.uint8)
    masks = np.zeros((n, size, size), np.uint8)
    pasted: list[_Pasted] = []
    image = []
    for i in range(n):
        random = np.random.default_rng([seed, first + i])
        scene = _compose_scene(sprites, random, faces, side, turn, images[i], masks[i])
        pasted += scene
        image += [i] * len(scene)
    rows = np.array([p.row for p in pasted], np.int64)
    pose = sprites.pose[rows]
    pose[np.array([p.mirrored for p in pasted], bool)] *= np.array([-1, 1, -1], np.float32)
    pose[:, 2] += np.array([p.turned for p in pasted], np.float32)
    return FaceAnnotations(
        images=images,
        image=np.array(image, np.int64),
        boxes=np.array([p.box for p in pasted], np.float32).reshape(-1, 4),
        landmarks=np.array([p.landmarks for p in pasted], np.float32).reshape(-1, 5, 2),
        pose=pose,
        person=sprites.person[rows],
        expression=sprites.expression[rows],
        attributes=sprites.attributes[rows],
        masks=masks,
        complete=np.ones(n, bool),
        people=sprites.people,
        expressions=sprites.expressions,
        attribute_names=sprites.attribute_names,
        name=f"scenes of {sprites.name}",
    )


def _check_settings(
    n: int,
    first: int,
    size: int,
    faces: tuple[int, int],
    side: tuple[float, float],
    turn: float,
) -> None:
    if n < 1 or first < 0 or size < 32:
        raise ValueError(f"n={n}, first={first}, size={size}: must be >= 1, >= 0 and >= 32")
    if not 0 <= faces[0] <= faces[1]:
        raise ValueError(f"faces={faces}: give (least, greatest) with 0 <= least <= greatest")
    if not 8 <= side[0] <= side[1] <= size:
        raise ValueError(f"side={side}: give (least, greatest), 8 <= least <= greatest <= {size}")
    if not turn >= 0:
        raise ValueError(f"turn={turn}: must be >= 0 degrees")


@dataclass(frozen=True)
class _Plan:
    """Where a face goes: its sprite, longer side, centre, angle (degrees clockwise)."""

    row: int
    side: float
    x: float
    y: float
    turned: float
    mirrored: bool


@dataclass(frozen=True)
class _Pasted(_Plan):
    box: np.ndarray
    landmarks: np.ndarray


def _compose_scene(
    sprites: FaceSprites,
    random: np.random.Generator,
    faces: tuple[int, int],
    side: tuple[float, float],
    turn: float,
    image: np.ndarray,
    mask: np.ndarray,
) -> list[_Pasted]:
    size = len(image)
    scene = backdrop.draw_background(random, size)
    backdrop.draw_things(random, scene)
    if random.random() < 0.3:
        _paste_back(sprites, random, scene, side)
    count = int(random.integers(faces[0], faces[1] + 1))
    plans = _plan_faces(sprites, random, count, side, turn, size)
    done: list[_Pasted] = []
    whole: list[np.ndarray] = []  # of each face done, where it is, and where it is also seen
    seen: list[np.ndarray] = []
    for plan in plans:
        person, layers, matrix = _warp(sprites, plan, size)
        covers = layers[..., 0] >= 128
        face = layers[..., 1] >= 128
        box = _extent(face)
        if box is None or not _leaves_enough(seen, whole, covers):
            continue
        for before in seen:
            before &= ~covers
        blend(scene, person, layers[..., 0])
        known = sprites.outlined[plan.row]
        mask[covers | face if not known else covers] = 0 if known else UNKNOWN
        mask[(layers[..., 2] >= 128) & covers & face] = 1
        landmarks = sprites.landmarks[plan.row] @ matrix[:, :2].T + matrix[:, 2]
        if plan.mirrored:
            landmarks = landmarks[MIRRORED]
        done.append(_Pasted(**vars(plan), box=box, landmarks=landmarks))
        whole.append(face)
        seen.append(face.copy())
    if done and random.random() < 0.25:
        alpha, colour = backdrop.draw_object_before(random, size, done[-1].box)
        if _leaves_enough(seen, whole, alpha >= 128):
            blend(scene, colour, alpha)
            mask[(alpha >= 128) & (mask == 1)] = 0
    image[:] = backdrop.photograph(random, scene)
    return done


def _plan_faces(
    sprites: FaceSprites,
    random: np.random.Generator,
    count: int,
    side: tuple[float, float],
    turn: float,
    size: int,
) -> list[_Plan]:
    """Faces that hardly touch, those who stand behind first."""
    plans: list[_Plan] = []
    for _ in range(count):
        row = int(random.integers(len(sprites)))
        turned = float(np.clip(random.normal(0, 9), -turn, turn))
        mirrored = bool(random.random() < 0.5)
        for _ in range(_TRIES):
            long = float(np.exp(random.uniform(*np.log(side))))
            rim = (0.5 - CUT * random.random() ** 3) * long
            x, y = random.uniform(min(rim, size / 2), max(size - rim, size / 2), 2)
            if all(max(abs(x - p.x) / 0.85, abs(y - p.y)) > 0.48 * (long + p.side) for p in plans):
                plans.append(_Plan(row, long, float(x), float(y), turned, mirrored))
                break
    return sorted(plans, key=lambda p: p.y + p.side / 2)


def _leaves_enough(seen: list[np.ndarray], whole: list[np.ndarray], covers: np.ndarray) -> bool:
    """Whether ``covers`` leaves enough of every face done."""
    return all(
        (before & ~covers).sum() >= (1 - HIDDEN) * face.sum()
        for before, face in zip(seen, whole, strict=True)
    )


def _warp(
    sprites: FaceSprites, plan: _Plan, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture and layers of a plan's face, in a square of ``size``, and the affine ``[2, 3]``
    that takes coordinates (of pixels' outer corners) there."""
    image, layers = sprites.images[plan.row], sprites.layers[plan.row]
    left, top, width, height = _whole_extent(layers[..., 1])
    scale = plan.side / max(width, height)
    angle = np.radians(plan.turned)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if plan.mirrored:
        turn[:, 0] *= -1
    centre = np.array([left + width / 2, top + height / 2])
    matrix = np.c_[turn, np.array([plan.x, plan.y]) - turn @ centre]
    if scale < 0.6:  # or pixels would be passed over
        half = (image.shape[1] // 2, image.shape[0] // 2)
        step = np.array([image.shape[1] / half[0], image.shape[0] / half[1]])
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
        layers = cv2.resize(layers, half, interpolation=cv2.INTER_AREA)
        layers[0] = layers[:, 0] = layers[:, -1] = 0  # as in the sprites
    else:
        step = np.ones(2)
    small = np.c_[matrix[:, :2] * step, matrix[:, 2]]
    # cv2 counts from the middle of the first pixel
    small[:, 2] += small[:, :2] @ (0.5, 0.5) - 0.5
    moved = [
        cv2.warpAffine(
            picture, small, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for picture in (image, layers)
    ]
    return moved[0], moved[1], matrix


def _paste_back(
    sprites: FaceSprites, random: np.random.Generator, scene: np.ndarray, side: tuple[float, float]
) -> None:
    """Somebody without a face: what is not one is to be learnt, too."""
    known = np.flatnonzero(sprites.outlined)
    if not len(known):
        return
    size = len(scene)
    x, y = random.uniform(0.1 * size, 0.9 * size, 2)
    long = float(np.exp(random.uniform(*np.log(side))))
    plan = _Plan(int(random.choice(known)), long, x, y, random.uniform(-20, 20), False)
    person, layers, _ = _warp(sprites, plan, size)
    person = person.copy()
    hair = backdrop.draw_texture(random, size, dark=True)
    cover = cv2.blur(cv2.dilate(layers[..., 1], np.ones((5, 5), np.uint8)), (3, 3))
    blend(person, hair, cover)
    blend(scene, person, layers[..., 0])


def blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> None:
    """``above`` over ``below``, uint8 ``[H, W, 3]``, in place, by uint8 ``alpha`` ``[H, W]``."""
    rows = np.flatnonzero(alpha.any(1))
    if len(rows) == 0:
        return
    part = slice(rows[0], rows[-1] + 1)
    share = alpha[part, :, None].astype(np.int32)
    under = below[part].astype(np.int32)
    below[part] = under + ((above[part] - under) * share + 127) // 255


def _extent(mask: np.ndarray) -> np.ndarray | None:
    """Left, top, width, height of a bool mask; None: it is empty."""
    box = cv2.boundingRect(mask.astype(np.uint8))
    return np.array(box, np.float32) if box[2] else None


def _whole_extent(layer: np.ndarray) -> np.ndarray:
    """The extent of a face's layer; of an empty one, the whole picture."""
    box = _extent(layer >= 128)
    return np.array([0, 0, *layer.shape[::-1]], np.float32) if box is None else box
