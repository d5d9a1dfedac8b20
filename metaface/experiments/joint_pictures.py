"""Scenes with what is true of them above, and what a network predicts below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from metaface._picture_file import write_picture
from metaface.multitask.batch import to_tensor
from metaface.multitask.samples import FaceAnnotations
from metaface.report.annotations import draw_annotations

_SCENES = 8


def draw_predictions(path: Path, model: Any, scenes: FaceAnnotations, device: torch.device) -> None:
    """Write a PNG of the first scenes with their labels and the predictions of ``model``."""
    some = scenes.take(np.arange(min(_SCENES, len(scenes))))
    both = [draw_annotations(vars(labels)) for labels in (some, predict(model, some, device))]
    write_picture(Image.fromarray(np.concatenate(both)), path)


def predict(model: Any, scenes: FaceAnnotations, device: torch.device) -> FaceAnnotations:
    """The pictures of ``scenes`` with what ``model`` predicts as labels."""
    predicted = model.predict(to_tensor(scenes.images, device))
    heads = {name: values.cpu().numpy() for name, values in predicted.heads.items()}
    height, width = scenes.images.shape[1:3]
    boxes = predicted.boxes.cpu().numpy()
    start = np.minimum(boxes[:, :2], np.array([width - 1, height - 1], np.float32))
    sides = np.minimum(boxes[:, 2:], np.array([width, height]) - start)
    face = heads.get("segmentation", np.zeros(scenes.masks.shape)) > 0
    pose = {"pose": heads["pose"]} if "pose" in heads else {}
    return FaceAnnotations.build(
        scenes.images,
        predicted.image.cpu().numpy(),
        boxes=np.concatenate([start, sides], 1).astype(np.float32),
        landmarks=predicted.landmarks.cpu().numpy(),
        masks=face.astype(np.uint8),
        complete=np.ones(len(scenes), bool),
        **pose,
    )
