"""Annotated pictures: what is known of the faces in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

UNKNOWN = 255  # of a mask's pixel
_OUTSIDE = 0.5  # pixels that a box may stick out by rounding
_NAN = np.float32(np.nan)
_NOTHING = {
    "boxes": _NAN,
    "landmarks": _NAN,
    "pose": _NAN,
    "person": np.int64(-1),
    "expression": np.int64(-1),
    "attributes": _NAN,
    "masks": np.uint8(UNKNOWN),
    "complete": np.False_,
}
"""What each label is where nothing is known."""


@dataclass(frozen=True, eq=False)
class FaceAnnotations:
    """n pictures of one size with F faces in them; a label that is not known is never made up.

    Attributes:
        images: uint8 ``[n, H, W, 3]`` RGB.
        image: int64 ``[F]``, ascending: the picture that each face is in.
        boxes: float32 ``[F, 4]`` left, top, width, height, pixels, in the picture; NaN: unknown.
        landmarks: float32 ``[F, 5, 2]`` x, y in pixels of eye, eye, nose, mouth corner, mouth
            corner, each pair from left to right in the picture (as YuNet); NaN: unknown.
        pose: float32 ``[F, 3]`` yaw (> 0: to the picture's right), pitch, roll, degrees; NaN:
            unknown.
        person: int64 ``[F]``, an index into ``people``; -1: unknown.
        expression: int64 ``[F]``, an index into ``expressions``; -1: unknown.
        attributes: float32 ``[F, A]`` of 0 and 1, columns as ``attribute_names``; NaN: unknown.
        masks: uint8 ``[n, H, W]``: 1 face, 0 none, 255 unknown.
        complete: bool ``[n]``: every face of the picture has its box here, so that what is outside
            the boxes is known to be no face.
        people, expressions, attribute_names: names.
        name: of the set.

    Raises:
        ValueError: arrays that do not fit together; a picture without any label, a box that is
            empty or outside its picture, or a number of landmarks other than five, by number.

    Example:
        >>> import numpy as np
        >>> from metaface.multitask import FaceAnnotations
        >>> images = np.zeros((2, 96, 96, 3), np.uint8)
        >>> boxes = np.float32([[10, 10, 40, 50], [20, 30, 40, 40]])
        >>> labelled = FaceAnnotations.build(images, np.array([0, 1]), boxes=boxes)
        >>> labelled.boxes.shape, labelled.person.tolist()  # nobody knows who they are
        ((2, 4), [-1, -1])
    """

    images: np.ndarray
    image: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    pose: np.ndarray
    person: np.ndarray
    expression: np.ndarray
    attributes: np.ndarray
    masks: np.ndarray
    complete: np.ndarray
    people: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    name: str = "pictures"

    @classmethod
    def build(cls, images: np.ndarray, image: np.ndarray, **known: Any) -> FaceAnnotations:
        """Annotations in which everything that is not given is unknown.

        Args:
            known: attributes by name.

        Raises:
            ValueError: see the class.
        """
        columns = len(known.get("attribute_names", ()))
        shapes = _shapes(images, len(image), columns)
        nothing: dict[str, Any] = {
            label: np.full(shapes[label], value) for label, value in _NOTHING.items()
        }
        return cls(images=images, image=image, **nothing | known)

    def __post_init__(self) -> None:
        n, height, width = self.images.shape[:3]
        faces = len(self.image)
        if self.landmarks.ndim != 3 or self.landmarks.shape[1:] != (5, 2):
            raise ValueError(
                f"{self.name}: landmarks are {list(self.landmarks.shape)}, "
                f"must be [{faces}, 5, 2]: eye, eye, nose, mouth corner, mouth corner; use NaN for "
                "one that is not known"
            )
        for label, shape in _shapes(self.images, faces, len(self.attribute_names)).items():
            if getattr(self, label).shape != shape:
                raise ValueError(
                    f"{self.name}: {label} is {list(getattr(self, label).shape)}, must be "
                    f"{list(shape)} for {n} pictures with {faces} faces"
                )
        if faces and (np.diff(self.image).min(initial=0) < 0 or self.image[-1] >= n):
            raise ValueError(f"{self.name}: image must ascend within 0..{n - 1}")
        self._check_boxes(height, width)
        for label, names in (("person", self.people), ("expression", self.expressions)):
            values = getattr(self, label)
            if len(bad := np.flatnonzero((values < -1) | (values >= len(names)))):
                raise ValueError(
                    f"{self.name}: face {bad[0]} has {label} {values[bad[0]]} of {len(names)}"
                )
        if len(bad := np.flatnonzero(~self.find_labelled())):
            raise ValueError(
                f"{self.name}: picture {bad[0]} has no label of any task: leave it out, or say "
                "that it is complete if there is no face in it"
            )

    def _check_boxes(self, height: int, width: int) -> None:
        known = ~np.isnan(self.boxes).any(1)
        ends = self.boxes[:, :2] + self.boxes[:, 2:]
        with np.errstate(invalid="ignore"):
            outside = (self.boxes[:, :2] < -_OUTSIDE).any(1)
            outside |= (ends > np.array([width, height]) + _OUTSIDE).any(1)
            bad = np.flatnonzero(known & (outside | (self.boxes[:, 2:] <= 0).any(1)))
        if len(bad):
            raise ValueError(
                f"{self.name}: face {bad[0]} in picture {self.image[bad[0]]} has the box "
                f"{self.boxes[bad[0]].tolist()} (left, top, width, height), which is empty or not "
                f"inside {width}x{height} pixels: cut it to the picture, or leave the face out"
            )

    def __len__(self) -> int:
        return len(self.images)

    def find_labelled(self) -> np.ndarray:
        """bool ``[n]``: whether something is known of each picture."""
        labelled: np.ndarray = self.complete | (self.masks != UNKNOWN).any((1, 2))
        known = (self.person >= 0) | (self.expression >= 0)
        for values in (self.boxes, self.landmarks.reshape(-1, 10), self.pose, self.attributes):
            known |= (~np.isnan(values)).any(1)
        labelled[self.image[known]] = True
        return labelled

    def take(self, rows: np.ndarray) -> FaceAnnotations:
        """The pictures ``rows``, int64, in that order; one may be taken more than once."""
        rows = np.arange(len(self))[rows]
        first = np.searchsorted(self.image, rows)
        count = np.searchsorted(self.image, rows, side="right") - first
        start = np.repeat(first - np.r_[0, count.cumsum()[:-1]], count)
        faces = start + np.arange(count.sum())
        by_face = {
            label: getattr(self, label)[faces]
            for label in ("boxes", "landmarks", "pose", "person", "expression", "attributes")
        }
        return replace(
            self,
            images=self.images[rows],
            masks=self.masks[rows],
            complete=self.complete[rows],
            image=np.repeat(np.arange(len(rows)), count),
            **by_face,
        )

    @staticmethod
    def join(sets: Iterable[FaceAnnotations]) -> FaceAnnotations:
        """All of ``sets``, of one picture size.

        Their names are joined, too: who is called alike is the same person, likewise expressions
        and attributes; an attribute that a set does not have is unknown there.

        Raises:
            ValueError: sizes that differ, or no sets.
        """
        sets = list(sets)
        if not sets:
            raise ValueError("no sets to join")
        for one in sets[1:]:
            if one.images.shape[1:] != sets[0].images.shape[1:]:
                raise ValueError(
                    f"{one.name} has pictures of {list(one.images.shape[1:3])}, {sets[0].name} of "
                    f"{list(sets[0].images.shape[1:3])}: bring them to one size"
                )
        people, expressions, columns = (
            tuple(dict.fromkeys(name for one in sets for name in getattr(one, names)))
            for names in ("people", "expressions", "attribute_names")
        )
        by_set, start = [], 0
        for one in sets:
            attributes = np.full((len(one.image), len(columns)), np.nan, np.float32)
            attributes[:, [columns.index(name) for name in one.attribute_names]] = one.attributes
            by_set.append(
                vars(one)
                | {
                    "image": one.image + start,
                    "person": _renumber(one.person, one.people, people),
                    "expression": _renumber(one.expression, one.expressions, expressions),
                    "attributes": attributes,
                }
            )
            start += len(one)
        arrays = (name for name, value in vars(sets[0]).items() if isinstance(value, np.ndarray))
        joined: dict[str, Any] = {
            name: np.concatenate([labels[name] for labels in by_set]) for name in arrays
        }
        return FaceAnnotations(
            **joined,
            people=people,
            expressions=expressions,
            attribute_names=columns,
            name="+".join(one.name for one in sets),
        )


def _shapes(images: np.ndarray, faces: int, attributes: int) -> dict[str, tuple[int, ...]]:
    """What shape each array must have."""
    n, height, width = images.shape[:3]
    return {
        "images": (n, height, width, 3),
        "image": (faces,),
        "boxes": (faces, 4),
        "landmarks": (faces, 5, 2),
        "pose": (faces, 3),
        "person": (faces,),
        "expression": (faces,),
        "attributes": (faces, attributes),
        "masks": (n, height, width),
        "complete": (n,),
    }


def _renumber(values: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> np.ndarray:
    place = {name: i for i, name in enumerate(new)}
    return np.array([*(place[name] for name in old), -1], np.int64)[values]  # -1 stays the last
