"""Annotated pictures as tensors, on the device where a network learns from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metaface.multitask.roi import fill_missing
from metaface.multitask.samples import FaceAnnotations

_LABELS = (
    *("image", "boxes", "landmarks", "pose", "person", "expression", "attributes"),
    *("masks", "complete"),
)


@dataclass(frozen=True, eq=False)
class Batch:
    """:class:`FaceAnnotations` as tensors.

    Attributes:
        images: float ``[n, 3, H, W]`` in 0..1.
        image, boxes, landmarks, pose, person, expression, attributes, masks, complete: as there;
            what is not known is NaN, -1 or 255 as there.
        filled_boxes, filled_landmarks: ``[F, 4]`` and ``[F, 5, 2]``: ``boxes`` and ``landmarks``;
            of a face of which only one of both is known, the other as a mean face has it. They say
            where features are read, and are never what a head learns to predict.
        located: bool ``[F]``: box or landmarks are known.

    Example:
        >>> from metaface.multitask import Batch, FaceSprites, compose
        >>> scenes = compose(FaceSprites.procedural(people=2, photos=2, image_size=64), 3, size=96)
        >>> batch = Batch.of(scenes)
        >>> batch.images.shape, batch.boxes.dtype, len(batch.image) == len(scenes.boxes)
        (torch.Size([3, 3, 96, 96]), torch.float32, True)
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
    filled_boxes: Tensor
    filled_landmarks: Tensor
    located: Tensor

    @classmethod
    def of(cls, labelled: FaceAnnotations, device: torch.device | str = "cpu") -> Batch:
        """The tensors of ``labelled``."""
        labels = {name: _copy_to(getattr(labelled, name), device) for name in _LABELS}
        boxes, landmarks = fill_missing(labels["boxes"], labels["landmarks"])
        return cls(
            images=to_tensor(labelled.images, device),
            **labels,
            filled_boxes=boxes,
            filled_landmarks=landmarks,
            located=~boxes.isnan().any(1),
        )


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """float ``[n, 3, H, W]`` in 0..1 of uint8 ``[n, H, W, 3]``.

    Example:
        >>> import numpy as np
        >>> from metaface.multitask import to_tensor
        >>> images = to_tensor(np.full((2, 64, 96, 3), 255, np.uint8))
        >>> images.shape, images.max().item()
        (torch.Size([2, 3, 64, 96]), 1.0)
    """
    return _copy_to(images, device).movedim(-1, 1).float() / 255


def _copy_to(values: np.ndarray, device: torch.device | str) -> Tensor:
    # torch warns of an array that cannot be written to
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)
