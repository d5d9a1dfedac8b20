"""What a shared network is held against: a network a stage, each with a trunk of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.faces.alignment import SIDE, TEMPLATE
from metaface.multitask.batch import pictures
from metaface.multitask.model import Embedding, MultiTask, Predictions
from metaface.multitask.roi import grid_of, landmark_frames
from metaface.multitask.samples import UNKNOWN, FaceAnnotations


class Staged(nn.Module):
    """Detect, align and crop, embed; and describe, with the interface of :class:`MultiTask`.

    Args:
        detector: with detection and alignment.
        embedding: of a network with recognition, learnt from aligned crops; see :func:`crops_of`.
        describer: with whatever else is asked of the picture and of faces by their boxes; None:
            nothing.
        crop: side of the crops in pixels.
    """

    def __init__(
        self, detector: MultiTask, embedding: Embedding, describer: MultiTask | None, crop: int
    ) -> None:
        super().__init__()
        self.detector, self.describer, self.crop = detector, describer, crop
        self.embedding = embedding
        self.heads = {*detector.heads, "recognition", *(describer.heads if describer else ())}

    @torch.no_grad()
    def predict(self, images: Tensor, least: float = 0.3) -> Predictions:
        """As :meth:`MultiTask.predict`, stage by stage."""
        found = self.detector.predict(images, least)
        return self._further(images, found, found.landmarks)

    @torch.no_grad()
    def describe(
        self, images: Tensor, image: Tensor, boxes: Tensor, landmarks: Tensor | None = None
    ) -> Predictions:
        """As :meth:`MultiTask.describe`."""
        found = self.detector.describe(images, image, boxes)
        return self._further(images, found, found.landmarks if landmarks is None else landmarks)

    def _further(self, images: Tensor, found: Predictions, landmarks: Tensor) -> Predictions:
        said = {}
        if self.describer is not None:
            said = self.describer.describe(images, found.image, found.boxes).heads
        vectors = found.landmarks.new_zeros(0, self.embedding.layer.out_features)
        if len(found):
            vectors = self.embedding(cropped(images, found.image, landmarks, self.crop))
        return replace(found, heads=said | {"recognition": F.normalize(vectors, dim=1)})


class Resized(nn.Module):
    """A network that looks at pictures ``factor`` times as large; it says where in the given ones.

    Only what it says of faces is given back, not segmentation.
    """

    def __init__(self, model: MultiTask | Staged, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.heads = {name for name in model.heads if name != "segmentation"}

    def predict(self, images: Tensor, least: float = 0.3) -> Predictions:
        """As :meth:`MultiTask.predict`."""
        size = [round(side * self.factor) for side in images.shape[-2:]]
        larger = F.interpolate(images, size, mode="bilinear", antialias=True)
        found = self.model.predict(larger, least)
        said = {name: given for name, given in found.heads.items() if name in self.heads}
        boxes, landmarks = found.boxes / self.factor, found.landmarks / self.factor
        return replace(found, boxes=boxes, landmarks=landmarks, heads=said)


def cropped(images: Tensor, image: Tensor, landmarks: Tensor, side: int) -> Tensor:
    """Aligned crops ``[F, 3, side, side]`` of the faces with ``landmarks`` ``[F, 5, 2]`` in
    ``images[image]``, as ``metaface.faces.alignment`` places them; black where a picture ends.

    Bilinear without reduction: for faces that are no larger than about two crops.
    """
    grid = grid_of(landmark_frames(landmarks).to(images), side, *images.shape[-2:])
    return F.grid_sample(images[image], grid, align_corners=False)


def crops_of(scenes: FaceAnnotations, side: int, at_once: int = 256) -> FaceAnnotations:
    """The faces of ``scenes`` whose person and landmarks are known, aligned by these: what a
    recogniser of crops learns from. Nothing else of them is known."""
    faces = np.flatnonzero((scenes.person >= 0) & ~np.isnan(scenes.landmarks).any((1, 2)))
    images = np.empty((len(faces), side, side, 3), np.uint8)
    for start in range(0, len(faces), at_once):
        rows = faces[start : start + at_once]
        shown, image = np.unique(scenes.image[rows], return_inverse=True)
        found = cropped(
            pictures(scenes.images[shown]),
            torch.from_numpy(image),
            torch.from_numpy(scenes.landmarks[rows]),
            side,
        )
        images[start : start + len(rows)] = (255 * found).round().byte().movedim(1, -1).numpy()
    n = len(faces)
    landmarks = (TEMPLATE * (side / SIDE)).astype(np.float32)
    return replace(
        scenes,
        images=images,
        image=np.arange(n),
        boxes=np.full((n, 4), np.nan, np.float32),
        landmarks=np.broadcast_to(landmarks, (n, 5, 2)),
        pose=np.full((n, 3), np.nan, np.float32),
        person=scenes.person[faces],
        expression=np.full(n, -1, np.int64),
        attributes=np.full((n, len(scenes.attribute_names)), np.nan, np.float32),
        masks=np.full((n, side, side), UNKNOWN, np.uint8),
        complete=np.zeros(n, bool),
        name=f"crops of {scenes.name}",
    )
