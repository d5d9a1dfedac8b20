"""Real photographs with the face that a detector finds in them, to be pasted into scenes.

No script: ``joint_transfer.py`` uses it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from metaface._progress import track
from metaface._text import given_path
from metaface.data import FaceSet
from metaface.data._skipped import report_skipped
from metaface.data._sources import open_source
from metaface.faces.alignment import SIDE, align, shrink
from metaface.faces.choose import pick_most_prominent
from metaface.faces.detect import Detector
from metaface.faces.detections import overlaps
from metaface.faces.photos import Unusable, read
from metaface.metrics.detection import average_precision
from metaface.multitask import FaceAnnotations, FaceSprites

SURE = 0.8  # score from which what a detector says is taken for the truth
_IOU = 0.5  # from which a face counts as found
_AROUND = 2.0  # side of what is cut out, in longer sides of the face
_RIM = 0.05  # of that side: how softly a photograph's own rim ends


@dataclass(frozen=True, eq=False)
class Portraits:
    """m photographs of one person each, and where the face is.

    Attributes:
        images: uint8 ``[H, W, 3]`` RGB each, of any size.
        boxes: float32 ``[m, 4]`` left, top, width, height in pixels, in the photograph.
        landmarks: float32 ``[m, 5, 2]``, see ``FaceAnnotations``.
        alone: bool ``[m]``: the detector found nothing else that may be a face.
        person: int64 ``[m]``, an index into ``people``.
        people: names, ``set/person``.
        name: of the set.
    """

    images: tuple[np.ndarray, ...]
    boxes: np.ndarray
    landmarks: np.ndarray
    alone: np.ndarray
    person: np.ndarray
    people: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> Portraits:
        """The photographs ``rows`` (positions, or bool ``[m]``); people keep their numbers."""
        rows = np.arange(len(self))[rows]
        return replace(
            self,
            images=tuple(self.images[i] for i in rows),
            boxes=self.boxes[rows],
            landmarks=self.landmarks[rows],
            alone=self.alone[rows],
            person=self.person[rows],
        )

    def cut_out(self, size: int = 128, *, sharp: bool = False) -> FaceSprites:
        """The faces with what is around them, to be pasted by :func:`compose`.

        Each is cut out in a square of twice its longer side, with soft edges of a shape that varies
        by photograph, so that the edge says little. Its box is exact where it is not turned: say
        ``turn=0``. Person, landmarks and box are known, nothing else is.

        Args:
            size: side of the squares in pixels; a face is half as long.
            sharp: as the photographs are, rectangles that end where they or the squares do.
        """
        m = len(self)
        images = np.empty((m, size, size, 3), np.uint8)
        layers = np.zeros((m, size, size, 3), np.uint8)
        landmarks = np.empty((m, 5, 2), np.float32)
        y, x = np.mgrid[:size, :size] + 0.5
        for i, (picture, box) in enumerate(zip(self.images, self.boxes, strict=True)):
            scale = size / (_AROUND * box[2:].max())
            start = size / 2 - scale * (box[:2] + box[2:] / 2)  # of the photograph, in the square
            images[i] = _place(picture, scale, start, size)
            end = start + scale * np.array(picture.shape[1::-1])
            inside = np.minimum.reduce([x - start[0], y - start[1], end[0] - x, end[1] - y])
            soft = np.clip(inside / (_RIM * size), 0, 1) * _outline(i, size)
            shown = np.clip(inside + 0.5, 0, 1) if sharp else soft
            away = np.hypot((2 * x - size) / box[2], (2 * y - size) / box[3]) / scale
            face = np.clip((1 - away) * scale * box[2:].min() / 2 + 0.5, 0, 1)
            layers[i, ..., 0], layers[i, ..., 1] = 255 * shown, 255 * face
            landmarks[i] = scale * self.landmarks[i] + start
        # nothing goes on beyond the square, also when it is halved
        layers[:, 0] = layers[:, -3:] = layers[:, :, 0] = layers[:, :, -1] = 0
        return FaceSprites.of_photographs(
            images, layers, landmarks, self.person, self.people, self.name
        )

    def align(self, size: int = SIDE) -> FaceSet:
        """Aligned crops of ``size`` pixels, as learners take them."""
        return align_faces(self.images, self.landmarks, self.person, self.people, self.name, size)


def find_portraits(
    source: str | Path,
    detector: Detector,
    *,
    photos: tuple[float, float] = (1, math.inf),
    limit: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Portraits:
    """The photographs of a folder, zip or CSV of people, with the most prominent face of each.

    Photographs in which the detector is not sure of that face (a score of 0.8) are left out.

    Args:
        source: see ``metaface.data.load``.
        detector: one that reports unsure faces as well (``YuNet(path, 0.3)``): they decide
            whether a face is ``alone``.
        photos: only people with so many photographs, (least, most).
        limit: at most so many photographs, drawn at random; None: all.
        seed: of that draw.

    Raises:
        FileNotFoundError: no such source.
        ValueError: nobody with so many photographs, or no face in any.
    """
    path = given_path(source, "the photographs").expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    images, boxes, landmarks, alone, whose = [], [], [], [], []
    with open_source(path) as listing:
        report_skipped(listing.name, listing.skipped, len(listing.photos))
        names, person = np.unique([p.person for p in listing.photos], return_inverse=True)
        there = np.bincount(person)[person]
        rows = np.flatnonzero((there >= photos[0]) & (there <= photos[1]))
        if limit is not None:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:limit])
        for row in track(rows, desc=listing.name, unit="photo", show=progress):
            try:
                picture = read(partial(listing.read, listing.photos[row]))
                faces = detector(picture)
                face = pick_most_prominent(picture, faces)
            except Unusable:
                continue
            if face.scores[0] < SURE:
                continue
            ends = np.array(picture.shape[1::-1], np.float32)
            start = face.boxes[0, :2].clip(0, ends)
            end = (face.boxes[0, :2] + face.boxes[0, 2:]).clip(0, ends)
            images.append(picture)
            boxes.append(np.r_[start, end - start])
            landmarks.append(face.landmarks[0])
            alone.append(len(faces) == 1)
            whose.append(person[row])
        name = listing.name
    if not images:
        raise ValueError(f"{path}: no face in any of the {len(rows)} photographs asked for")
    kept, number = np.unique(whose, return_inverse=True)
    return Portraits(
        images=tuple(images),
        boxes=np.array(boxes, np.float32),
        landmarks=np.array(landmarks, np.float32),
        alone=np.array(alone),
        person=number.astype(np.int64),
        people=tuple(f"{name}/{names[p]}" for p in kept),
        name=name,
    )


def align_faces(
    images: Collection[np.ndarray],
    landmarks: np.ndarray,
    person: np.ndarray,
    people: Collection[str],
    name: str,
    size: int = SIDE,
) -> FaceSet:
    """Photographs ``[H, W, 3]`` by their landmarks ``[m, 5, 2]``, aligned and reduced to ``size``
    pixels."""
    crops = [align(picture, five[None])[0] for picture, five in zip(images, landmarks, strict=True)]
    kept = np.stack(crops) if size == SIDE else shrink(crops, size)
    return FaceSet.from_arrays(kept, person, people=tuple(people), name=name)


def _place(picture: np.ndarray, scale: float, start: np.ndarray, size: int) -> np.ndarray:
    """A photograph enlarged by ``scale`` in a square, its first pixel's outer corner at
    ``start``."""
    sides = picture.shape[1::-1]
    if scale < 0.6:  # or pixels would be passed over
        less = (max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale)))
        picture = cv2.resize(picture, less, interpolation=cv2.INTER_AREA)
    step = scale * np.array(sides) / np.array(picture.shape[1::-1])
    # cv2 counts from the middle of the first pixel
    matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    matrix[:, 2] += 0.5 * step - 0.5
    placed = cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(placed)


def _outline(number: int, size: int) -> np.ndarray:
    """How far (0..1) what is around a face is shown: about an ellipse to about a square."""
    random = np.random.default_rng([number, size])
    power, soft = random.uniform(2, 6), random.uniform(0.08, 0.4)
    across, down = random.uniform(0.75, 1.0, 2)
    line = abs(np.arange(size) + 0.5 - size / 2) / (size / 2)
    away = ((line / across) ** power + ((line / down) ** power)[:, None]) ** (1 / power)
    return np.asarray(np.clip((1 - away) / soft, 0, 1))


def constant_box(labelled: FaceAnnotations) -> tuple[np.ndarray, float]:
    """What detection is worth without looking: of the known boxes the one that, said of every
    complete picture, finds the most faces, and its average precision at an IoU of 0.5.

    Returns:
        The box ``[4]``, and ``ap50``.

    Raises:
        ValueError: no face in a complete picture.
    """
    known = ~np.isnan(labelled.boxes).any(1)
    truth = [
        labelled.boxes[known & (labelled.image == i)] for i in np.flatnonzero(labelled.complete)
    ]
    boxes = np.concatenate([*truth, np.empty((0, 4), np.float32)])
    if not len(boxes):
        raise ValueError(f"{labelled.name}: no box in a complete picture to choose from")
    best = boxes[(overlaps(boxes, boxes) >= _IOU).sum(1).argmax()]
    result = average_precision(
        [(best[None], np.ones(1))] * len(truth),
        truth,
        [np.zeros(len(t), bool) for t in truth],
        _IOU,
    )
    return best, float(result.ap.value)
