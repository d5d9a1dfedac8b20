"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.augmentation import augment, mirror, zoom_and_shift
from metaface.multitask.backbone import SharedBackbone
from metaface.multitask.batch import Batch, to_tensor
from metaface.multitask.celeba import load_celeba
from metaface.multitask.heads import HEADS, Head, Loss
from metaface.multitask.metrics import measure
from metaface.multitask.model import Embedding, MultiTask, Predictions
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.scenes import compose
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS, FaceSprites
from metaface.multitask.training import Source, draws, fit
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting
from metaface.multitask.wider import load_wider

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
    "Predictions",
    "SharedBackbone",
    "Source",
    "Uncertainty",
    "Weighting",
    "augment",
    "compose",
    "draws",
    "fit",
    "load_celeba",
    "load_wider",
    "measure",
    "mirror",
    "to_tensor",
    "zoom_and_shift",
]
