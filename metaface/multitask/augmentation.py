"""Random changes of annotated pictures; the labels move with the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from metaface.faces.alignment import MIRRORED
from metaface.multitask.samples import UNKNOWN, FaceAnnotations

_UNMOVED = ("image", "pose", "person", "expression", "attributes")


def augment(
    pictures: FaceAnnotations,
    seed: int | Sequence[int],
    *,
    flip: bool = True,
    zoom: tuple[float, float] = (0.7, 1.4),
    shift: float = 0.15,
    light: float = 0.25,
    blur: float = 0.3,
) -> FaceAnnotations:
    """The pictures, each changed at random, alike for the same seed.

    Args:
        seed: of all draws; another for every batch.
        flip: mirror half of them.
        zoom: least and greatest enlargement, all ratios as likely as each other; see
            :func:`zoom_and_shift`.
        shift: by up to this share of the side, 0..1.
        light: change brightness, contrast and colours by up to about this factor, 0..1.
        blur: chance of blur, 0..1.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> from metaface.multitask import FaceSprites, augment, compose
        >>> scenes = compose(FaceSprites.procedural(people=2, photos=2, image_size=64), 4, size=96)
        >>> changed = augment(scenes, seed=(0, 1), zoom=(0.9, 1.1), blur=0)
        >>> changed.images.shape, (changed.images != scenes.images).any().item()
        ((4, 96, 96, 3), True)
    """
    if not 0 < zoom[0] <= zoom[1]:
        raise ValueError(f"zoom={zoom}: give (least, greatest) with 0 < least <= greatest")
    for name, value in (("shift", shift), ("light", light), ("blur", blur)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: must be in 0..1")
    random = np.random.default_rng(seed)
    n, height, width = pictures.images.shape[:3]
    draws = random.random((n, 12))
    if flip:
        pictures = mirror(pictures, draws[:, 0] < 0.5)
    low, high = np.log(zoom)
    far = shift * (2 * draws[:, 2:4] - 1) * np.array([width, height])
    pictures = zoom_and_shift(pictures, np.exp(low + (high - low) * draws[:, 1]), far)
    images = np.empty_like(pictures.images)
    for picture, out, u in zip(pictures.images, images, draws[:, 4:], strict=True):
        if u[0] < blur:
            picture = cv2.GaussianBlur(picture, (0, 0), 0.3 + 1.2 * u[1])
        gain = np.exp(light * (2 * u[2] - 1) + 0.3 * light * (2 * u[3:6] - 1))
        gamma = np.exp(light * (2 * u[6] - 1))
        levels = 255 * np.linspace(0, 1, 256)[:, None] ** gamma * gain + 80 * light * (u[7] - 0.5)
        cv2.LUT(picture, levels.round().clip(0, 255).astype(np.uint8)[None], dst=out)
    return replace(pictures, images=images)


def mirror(pictures: FaceAnnotations, which: np.ndarray | None = None) -> FaceAnnotations:
    """The pictures mirrored left to right; ``which``, bool ``[n]``: only those.

    Example:
        >>> import numpy as np
        >>> from metaface.multitask import FaceAnnotations, mirror
        >>> images, boxes = np.zeros((1, 64, 64, 3), np.uint8), np.float32([[4, 8, 20, 24]])
        >>> labelled = FaceAnnotations.build(images, np.array([0]), boxes=boxes)
        >>> mirror(labelled).boxes.tolist()
        [[40.0, 8.0, 20.0, 24.0]]
    """
    n, _, width = pictures.images.shape[:3]
    which = np.ones(n, bool) if which is None else which
    images, masks = pictures.images.copy(), pictures.masks.copy()
    images[which], masks[which] = images[which, :, ::-1], masks[which, :, ::-1]
    faces = which[pictures.image]
    boxes, landmarks, pose = pictures.boxes.copy(), pictures.landmarks.copy(), pictures.pose.copy()
    boxes[faces, 0] = width - boxes[faces, 0] - boxes[faces, 2]
    landmarks[faces] = landmarks[faces][:, MIRRORED]
    landmarks[faces, :, 0] = width - landmarks[faces, :, 0]
    pose[faces] *= np.array([-1, 1, -1], np.float32)
    return replace(
        pictures, images=images, masks=masks, boxes=boxes, landmarks=landmarks, pose=pose
    )


def zoom_and_shift(
    pictures: FaceAnnotations, zoom: np.ndarray, shift: np.ndarray, size: int | None = None
) -> FaceAnnotations:
    """The pictures enlarged about their middles, then shifted; where they end, padded with grey.

    A face whose middle (of its box or else of its landmarks) leaves the picture is left out; the
    boxes of the others are cut to the picture. The mask of padding is 0, or unknown where all of
    the picture's is. A picture that lost a face is no longer ``complete``, as a part of that face
    may still be seen. Where nothing more is known of a picture, it keeps its pixels and labels
    unmoved.

    Args:
        zoom: float ``[n]``, > 1 enlarges.
        shift: float ``[n, 2]``, to the right and down, in pixels of the result.
        size: side of the results, squares; None: as they are.

    Raises:
        ValueError: a zoom that is not positive.

    Example:
        >>> import numpy as np
        >>> from metaface.multitask import FaceAnnotations, zoom_and_shift
        >>> images, boxes = np.zeros((1, 64, 64, 3), np.uint8), np.float32([[22, 22, 20, 20]])
        >>> labelled = FaceAnnotations.build(images, np.array([0]), boxes=boxes)
        >>> zoom_and_shift(labelled, np.array([2.0]), np.array([[0.0, 10.0]])).boxes.tolist()
        [[12.0, 22.0, 40.0, 40.0]]
    """
    height, width = pictures.images.shape[1:3]
    if not (zoom > 0).all():
        raise ValueError(f"zoom is {zoom.min()}: must be > 0")
    tall, wide = (size, size) if size else (height, width)
    fit = max(tall / height, wide / width) if size else 1.0
    factor = (zoom * fit).astype(np.float64)
    offset = np.array([wide, tall]) / 2 + shift - factor[:, None] * np.array([width, height]) / 2
    labels, kept, known = _transform_labels(pictures, factor, offset, tall, wide)
    if not known.all():  # nothing is known of these any more: take them as they are
        still = np.array([wide, tall]) / 2 - fit * np.array([width, height]) / 2
        factor = np.where(known, factor, fit)
        offset = np.where(known[:, None], offset, still)
        labels, kept, known = _transform_labels(pictures, factor, offset, tall, wide)
    if not known.all():
        raise ValueError(
            f"{pictures.name}: picture {np.flatnonzero(~known)[0]} has no label inside "
            f"{wide}x{tall} pixels: bring it to that shape before"
        )
    images = [
        _warp(picture, f, o, (wide, tall))
        for picture, f, o in zip(pictures.images, factor, offset, strict=True)
    ]
    labels |= {label: getattr(pictures, label)[kept] for label in _UNMOVED}
    return replace(pictures, images=np.stack(images), **labels)


def _transform_labels(
    pictures: FaceAnnotations, factor: np.ndarray, offset: np.ndarray, tall: int, wide: int
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Boxes, landmarks, masks and complete; faces kept, bool ``[F]``; pictures of which something
    is known, bool ``[n]``."""
    scale, start = factor[pictures.image], offset[pictures.image]
    corners = pictures.boxes.reshape(-1, 2, 2).astype(np.float64)
    corners[:, 1] += corners[:, 0]
    corners = corners * scale[:, None, None] + start[:, None]
    landmarks = pictures.landmarks * scale[:, None, None] + start[:, None]
    placed = ~np.isnan(corners).any((1, 2))
    middle = np.where(placed[:, None], corners.mean(1), landmarks.mean(1))
    with np.errstate(invalid="ignore"):
        out = ((middle < 0) | (middle >= np.array([wide, tall]))).any(1)
        inside = corners.clip(0, np.array([wide, tall], np.float64))
    boxes = np.concatenate([inside[:, 0], inside[:, 1] - inside[:, 0]], 1)
    kept = ~out
    masks = np.stack(
        [
            _warp(mask, f, o, (wide, tall), mask=True)
            for mask, f, o in zip(pictures.masks, factor, offset, strict=True)
        ]
    )
    complete = pictures.complete.copy()
    complete[pictures.image[out]] = False
    known = complete | (masks != UNKNOWN).any((1, 2))
    some = (pictures.person >= 0) | (pictures.expression >= 0)
    for values in (boxes, landmarks.reshape(-1, 10), pictures.pose, pictures.attributes):
        some |= (~np.isnan(values)).any(1)
    known[pictures.image[kept & some]] = True
    labels = {
        "boxes": boxes[kept].astype(np.float32),
        "landmarks": landmarks[kept].astype(np.float32),
        "masks": masks,
        "complete": complete,
    }
    return labels, kept, known


def _warp(
    picture: np.ndarray,
    factor: float,
    offset: np.ndarray,
    size: tuple[int, int],
    mask: bool = False,
) -> np.ndarray:
    # cv2 counts from the middle of the first pixel
    shift = offset + 0.5 * factor - 0.5
    matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
    if mask:
        way, rim = cv2.INTER_NEAREST, float(UNKNOWN if (picture == UNKNOWN).all() else 0)
    else:
        way, rim = cv2.INTER_LINEAR, 114.0
        if factor < 0.6:  # or pixels would be passed over
            picture = cv2.GaussianBlur(picture, (0, 0), 0.4 / factor)
    warped = cv2.warpAffine(
        picture, matrix, size, flags=way, borderMode=cv2.BORDER_CONSTANT, borderValue=(rim,) * 3
    )
    return np.asarray(warped)
