"""What a shared network is held against: a network a stage, each with a backbone of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.faces.alignment import SIDE, TEMPLATE
from metaface.multitask.batch import to_tensor
from metaface.multitask.model import Embedding, MultiTask, Predictions
from metaface.multitask.roi import landmark_frames, sampling_grid
from metaface.multitask.samples import FaceAnnotations


class Staged(nn.Module):
    """Detect, align and crop, embed; and describe, with the interface of :class:`MultiTask`.

    Args:
        detector: with detection and alignment.
        embedding: of a network with recognition, learnt from aligned crops; see :func:`crop_faces`.
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
    def predict(self, images: Tensor, min_score: float = 0.3) -> Predictions:
        """As :meth:`MultiTask.predict`, stage by stage."""
        faces = self.detector.predict(images, min_score)
        return self._add_heads(images, faces, faces.landmarks)

    @torch.no_grad()
    def describe(
        self, images: Tensor, image: Tensor, boxes: Tensor, landmarks: Tensor | None = None
    ) -> Predictions:
        """As :meth:`MultiTask.describe`."""
        faces = self.detector.describe(images, image, boxes)
        return self._add_heads(images, faces, faces.landmarks if landmarks is None else landmarks)

    def _add_heads(self, images: Tensor, faces: Predictions, landmarks: Tensor) -> Predictions:
        """``faces`` with what describer and embedding predict of them."""
        heads = {}
        if self.describer is not None:
            heads = self.describer.describe(images, faces.image, faces.boxes).heads
        vectors = faces.landmarks.new_zeros(0, self.embedding.layer.out_features)
        if len(faces):
            vectors = self.embedding(crop_aligned(images, faces.image, landmarks, self.crop))
        return replace(faces, heads=heads | {"recognition": F.normalize(vectors, dim=1)})


class Resized(nn.Module):
    """A network that is given pictures ``factor`` times as large; its predictions are in pixels of
    the pictures as they are, and without segmentation.
    """

    def __init__(self, model: MultiTask | Staged, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.heads = {name for name in model.heads if name != "segmentation"}

    def predict(self, images: Tensor, min_score: float = 0.3) -> Predictions:
        """As :meth:`MultiTask.predict`."""
        size = [round(side * self.factor) for side in images.shape[-2:]]
        larger = F.interpolate(images, size, mode="bilinear", antialias=True)
        faces = self.model.predict(larger, min_score)
        heads = {name: values for name, values in faces.heads.items() if name in self.heads}
        boxes, landmarks = faces.boxes / self.factor, faces.landmarks / self.factor
        return replace(faces, boxes=boxes, landmarks=landmarks, heads=heads)


def crop_aligned(images: Tensor, image: Tensor, landmarks: Tensor, side: int) -> Tensor:
    """Aligned crops ``[F, 3, side, side]`` of the faces with ``landmarks`` ``[F, 5, 2]`` in
    ``images[image]``, as ``metaface.faces.alignment`` places them; black where a picture ends.

    Bilinear without reduction: for faces that are no larger than about two crops.
    """
    grid = sampling_grid(landmark_frames(landmarks).to(images), side, *images.shape[-2:])
    return F.grid_sample(images[image], grid, align_corners=False)


def crop_faces(scenes: FaceAnnotations, side: int, at_once: int = 256) -> FaceAnnotations:
    """The faces of ``scenes`` whose person and landmarks are known, aligned by these: what a
    recogniser of crops learns from. Nothing else of them is known."""
    faces = np.flatnonzero((scenes.person >= 0) & ~np.isnan(scenes.landmarks).any((1, 2)))
    images = np.empty((len(faces), side, side, 3), np.uint8)
    for start in range(0, len(faces), at_once):
        rows = faces[start : start + at_once]
        shown, image = np.unique(scenes.image[rows], return_inverse=True)
        crops = crop_aligned(
            to_tensor(scenes.images[shown]),
            torch.from_numpy(image),
            torch.from_numpy(scenes.landmarks[rows]),
            side,
        )
        images[start : start + len(rows)] = (255 * crops).round().byte().movedim(1, -1).numpy()
    n = len(faces)
    landmarks = (TEMPLATE * (side / SIDE)).astype(np.float32)
    return FaceAnnotations.build(
        images,
        np.arange(n),
        landmarks=np.broadcast_to(landmarks, (n, 5, 2)),
        person=scenes.person[faces],
        people=scenes.people,
        expressions=scenes.expressions,
        attribute_names=scenes.attribute_names,
        name=f"crops of {scenes.name}",
    )
