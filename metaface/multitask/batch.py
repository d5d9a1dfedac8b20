"""Labelled pictures as tensors, on the device they are learnt from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaface.multitask.roi import filled
from metaface.multitask.samples import FaceAnnotations


@dataclass(frozen=True, eq=False)
class Batch:
    """:class:`FaceAnnotations` as tensors.

    Attributes:
        images: float ``[n, 3, H, W]`` in 0..1.
        image, boxes, landmarks, pose, person, expression, attributes, masks, complete: as there;
            what is not known is NaN, -1 or 255 as there.
        places, marks: ``[F, 4]`` and ``[F, 5, 2]``: ``boxes`` and ``landmarks``, each where it is
            not known put where it lies by the other. Where to look, never what to answer.
        readable: bool ``[F]``: one of both is known.
    """

    images: Tensor
    image: Tensor
    boxes: Tensor
    landmarks: Tensor
    pose: Tensor
    person: Tensor
    expression: Tensor
    attributes: Tensor
    masks: Tensor
    complete: Tensor
    places: Tensor
    marks: Tensor
    readable: Tensor

    @classmethod
    def of(cls, labelled: FaceAnnotations, device: torch.device | str = "cpu") -> Batch:
        """The tensors of ``labelled``."""

        def there(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)

        boxes, landmarks = there(labelled.boxes), there(labelled.landmarks)
        places, marks = filled(boxes, landmarks)
        return cls(
            images=pictures(labelled.images, device),
            image=there(labelled.image),
            boxes=boxes,
            landmarks=landmarks,
            pose=there(labelled.pose),
            person=there(labelled.person),
            expression=there(labelled.expression),
            attributes=there(labelled.attributes),
            masks=there(labelled.masks),
            complete=there(labelled.complete),
            places=places,
            marks=marks,
            readable=~places.isnan().any(1),
        )


def pictures(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """float ``[n, 3, H, W]`` in 0..1 of uint8 ``[n, H, W, 3]``."""
    writable = np.require(images, requirements=["C", "W"])  # torch warns of one that is not
    there = torch.from_numpy(writable).to(device)
    return there.movedim(-1, 1).float() / 255
