"""Heads: one small class a task."""

from __future__ import annotations

from typing import Any

from metaface.multitask.heads.alignment import Alignment
from metaface.multitask.heads.base import Head, Loss
from metaface.multitask.heads.describing import Attributes, Expression, Pose
from metaface.multitask.heads.detection import Detection
from metaface.multitask.heads.recognition import Recognition
from metaface.multitask.heads.segmentation import Segmentation

__all__ = [
    "HEADS",
    "Alignment",
    "Attributes",
    "Detection",
    "Expression",
    "Head",
    "Loss",
    "Pose",
    "Recognition",
    "Segmentation",
]

HEADS: dict[str, Any] = {
    "detection": Detection,
    "alignment": Alignment,
    "segmentation": Segmentation,
    "recognition": Recognition,
    "pose": Pose,
    "expression": Expression,
    "attributes": Attributes,
}
"""Heads by the name of their task; one of your own is put in here to be built by name."""
