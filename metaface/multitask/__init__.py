"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.augment import augmented, mirrored, moved
from metaface.multitask.backbone import SharedBackbone
from metaface.multitask.batch import Batch, pictures
from metaface.multitask.heads import HEADS, Head, Loss
from metaface.multitask.metrics import constant_box, measure
from metaface.multitask.model import Embedding, MultiTask, Predictions
from metaface.multitask.portraits import Portraits, portraits
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.scenes import compose
from metaface.multitask.sources import celeba, wider
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS, FaceSprites
from metaface.multitask.training import Source, draws, fit
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting

__all__ = [
    "ATTRIBUTES",
    "EXPRESSIONS",
    "HEADS",
    "Batch",
    "Embedding",
    "FaceAnnotations",
    "FaceSprites",
    "Fixed",
    "Head",
    "Loss",
    "MultiTask",
    "PCGrad",
    "Portraits",
    "Predictions",
    "SharedBackbone",
    "Source",
    "Uncertainty",
    "Weighting",
    "augmented",
    "celeba",
    "compose",
    "constant_box",
    "draws",
    "fit",
    "measure",
    "mirrored",
    "moved",
    "pictures",
    "portraits",
    "wider",
]
