"""Sprites that scenes are composed of: pictures of one face each, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metaface.faces.alignment import SIDE, TEMPLATE
from metaface.synthetic import Dials, render

EXPRESSIONS = ("neutral", "smile", "open mouth", "eyes closed")
ATTRIBUTES = ("glasses", "mask", "cap", "hand", "female", "beard", "moustache")
PHOTOS = Dials(
    window=4.6,
    yaw=(0.0, 60.0),
    roll=4.0,
    shift=0.0,
    scale=0.05,
    mouth_open=0.4,
    eye_closure=0.12,
    light_color=0.3,
    exposure=0.3,
    mask=0.06,
    cap=0.1,
    hand=0.05,
    styling=0.5,
    blur=0.1,
    noise=0.0,
    jpeg=0.0,
    grey=0.0,
)
"""Head and shoulders; what the camera of the scene does is left to the scene."""
TEMPLATE_BOX = (14.5, 10.5, 82.5, 114.0)
"""Left, top, width, height, in pixels of the 112-pixel crop, of the face, hairline to chin, of
somebody who looks at the camera: the median of procedural people (the chin is below the crop)"""


@dataclass(frozen=True, eq=False)
class FaceSprites:
    """m pictures of one face each, to be pasted.

    Attributes:
        images: uint8 ``[m, S, S, 3]`` RGB.
        layers: uint8 ``[m, S, S, 3]``: how far (0..255) a pixel is the person, who is cut out; the
            face, covered or not; and the face where it is seen.
        outlined: bool ``[m]``: whether the last layer is known.
        landmarks, pose, person, expression, attributes: as those of ``FaceAnnotations``,
            a row a picture.
        people, expressions, attribute_names: names.
        name: of the set.

    Example:
        >>> from metaface.multitask import FaceSprites
        >>> sprites = FaceSprites.procedural(people=2, photos=3, image_size=64)
        >>> sprites.images.shape, sprites.landmarks.shape, sprites.people
        ((6, 64, 64, 3), (6, 5, 2), ('synthetic/0', 'synthetic/1'))
    """

    images: np.ndarray
    layers: np.ndarray
    outlined: np.ndarray
    landmarks: np.ndarray
    pose: np.ndarray
    person: np.ndarray
    expression: np.ndarray
    attributes: np.ndarray
    people: tuple[str, ...]
    expressions: tuple[str, ...] = EXPRESSIONS
    attribute_names: tuple[str, ...] = ATTRIBUTES
    name: str = "sprites"

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def of_photographs(
        images: np.ndarray,
        layers: np.ndarray,
        landmarks: np.ndarray,
        person: np.ndarray,
        people: Sequence[str],
        name: str,
    ) -> FaceSprites:
        """Faces of which landmarks, person and place are known, and nothing else."""
        m = len(images)
        return FaceSprites(
            images=images,
            layers=layers,
            outlined=np.zeros(m, bool),
            landmarks=landmarks,
            pose=np.full((m, 3), np.nan, np.float32),
            person=person.astype(np.int64),
            expression=np.full(m, -1, np.int64),
            attributes=np.full((m, len(ATTRIBUTES)), np.nan, np.float32),
            people=tuple(people),
            name=name,
        )

    @staticmethod
    def procedural(
        people: int | Sequence[int] = 64,
        photos: int = 8,
        image_size: int = 128,
        seed: int = 0,
        dials: Dials = PHOTOS,
        *,
        progress: bool = False,
    ) -> FaceSprites:
        """Photographs of procedural people, with everything known of them.

        The expression of somebody who wears a mask is unknown. People are called ``synthetic/ID``,
        as ``metaface.data.domain_split.name_people`` calls them.

        Args:
            people: how many, or the ids themselves: other ids (or another seed) are other people.
            photos: of each.
            image_size: side of the pictures; a face's height is about half of it.
            seed, dials: see :func:`metaface.synthetic.render`.

        Raises:
            ValueError: no people or no photos.
        """
        r = render(people, photos, image_size, {"scene": dials}, seed, progress, layers=True)
        facts = r.attributes
        order = [facts["eye_closure"] >= 0.75, facts["mouth_open"] >= 0.3, facts["smile"] >= 0.25]
        expression = np.select([facts["mask"], *order], [-1, 3, 2, 1], 0)
        ids, person = np.unique(r.person, return_inverse=True)
        seen = 255 * r.mask.astype(np.uint8)
        return FaceSprites(
            images=r.images,
            layers=_clear_rim(np.concatenate([r.layers, seen[..., None]], -1)),
            outlined=np.ones(len(r.person), bool),
            landmarks=r.landmarks,
            pose=r.pose,
            person=person.astype(np.int64),
            expression=expression.astype(np.int64),
            attributes=np.stack([facts[n] for n in ATTRIBUTES], 1).astype(np.float32),
            people=tuple(f"synthetic/{i}" for i in ids),
            name="synthetic",
        )

    @staticmethod
    def from_aligned(
        crops: np.ndarray, person: np.ndarray, people: Sequence[str], name: str = "crops"
    ) -> FaceSprites:
        """Aligned crops of photographs: person, landmarks and box are known, and nothing else.

        The box is where procedural people have theirs: ``TEMPLATE_BOX``. A crop ends above the
        chin, so the box goes on below what is pasted.

        Args:
            crops: uint8 ``[m, 112, 112, 3]`` RGB, as ``metaface.faces.alignment`` gives them
                (``AlignedFaces.crops``).
            person: int64 ``[m]``, an index into ``people``.
            people: names.
            name: of the set.

        Raises:
            ValueError: crops that are no crops, or persons that do not fit.

        Example:
            >>> import numpy as np
            >>> from metaface.multitask import FaceSprites
            >>> crops = np.zeros((3, 112, 112, 3), np.uint8)
            >>> sprites = FaceSprites.from_aligned(crops, np.array([0, 0, 1]), ["Ana", "Bo"])
            >>> sprites.landmarks.shape, bool(sprites.outlined.any())
            ((3, 5, 2), False)
        """
        if crops.dtype != np.uint8 or crops.shape[1:] != (SIDE, SIDE, 3) or not len(crops):
            raise ValueError(
                f"{name}: crops are {crops.dtype} {list(crops.shape)}, must be uint8 "
                f"[m, {SIDE}, {SIDE}, 3] with m >= 1: align the photographs first"
            )
        if person.shape != (len(crops),) or person.min() < -1 or person.max() >= len(people):
            raise ValueError(
                f"{name}: person must be one index into {len(people)} people for each of "
                f"{len(crops)} crops (-1: unknown), got {list(person.shape)}"
            )
        m, below = len(crops), 24  # room for the chin that the crop lacks
        rim = (below // 2, below - below // 2)
        images = np.pad(crops, ((0, 0), (0, below), rim, (0, 0)), mode="edge")
        line = np.arange(SIDE + below) + 0.5
        x, y = line - rim[0], line[:, None]
        left, top, width, height = TEMPLATE_BOX
        round_face = np.hypot((x - left) / width * 2 - 1, (y - top) / height * 2 - 1)
        face = np.clip((1 - round_face) * width / 4 + 0.5, 0, 1)
        across, down = abs(x / SIDE * 2 - 1), abs(y / SIDE * 2 - 1)
        oval = (across**3 + down**3) ** (1 / 3)
        shown = np.clip((1 - oval) / 0.2, 0, 1)  # the corners are seldom of the head
        layers = (255 * np.stack([shown, face, 0 * face], -1)).astype(np.uint8)
        landmarks = TEMPLATE.astype(np.float32) + np.array([rim[0], 0], np.float32)
        layers = np.broadcast_to(_clear_rim(layers[None]), (m, *layers.shape))
        landmarks = np.broadcast_to(landmarks, (m, 5, 2))
        return FaceSprites.of_photographs(images, layers, landmarks, person, people, name)

    @staticmethod
    def join(sets: Iterable[FaceSprites]) -> FaceSprites:
        """All of ``sets``, whose people are all different ones.

        Raises:
            ValueError: none, a name of a person in two of them, or pictures of two sizes.
        """
        sets = list(sets)
        if not sets:
            raise ValueError("no sprites to join")
        people = [name for one in sets for name in one.people]
        if len(set(people)) < len(people):
            twice = next(name for name in people if people.count(name) > 1)
            raise ValueError(f"{twice!r} is in two sets: give different people different names")
        sizes = {one.images.shape[1:] for one in sets}
        if len(sizes) > 1:
            raise ValueError(f"sprites of pictures of {sorted(sizes)}: give all one image_size")
        starts = np.cumsum([0] + [len(one.people) for one in sets[:-1]])
        person = [
            np.where(p.person < 0, -1, p.person + s) for p, s in zip(sets, starts, strict=True)
        ]
        arrays = (name for name, value in vars(sets[0]).items() if isinstance(value, np.ndarray))
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(one, name) for one in sets]) for name in arrays
        }
        return replace(
            sets[0],
            **joined | {"person": np.concatenate(person)},
            people=tuple(people),
            name="+".join(one.name for one in sets),
        )


def _clear_rim(layers: np.ndarray) -> np.ndarray:
    """Nothing at the upper rim and the sides, so that only a body goes on beyond its picture."""
    layers[:, 0] = layers[:, :, 0] = layers[:, :, -1] = 0
    return layers
