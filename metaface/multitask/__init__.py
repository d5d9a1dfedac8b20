"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.augment import augmented, mirrored, moved
from metaface.multitask.batch import Batch, pictures
from metaface.multitask.heads import HEADS, Head, Loss
from metaface.multitask.joint import JointFace
from metaface.multitask.metrics import constant_box, measure
from metaface.multitask.model import Embedding, Found, MultiTask
from metaface.multitask.pool import ATTRIBUTES, EXPRESSIONS, Pool
from metaface.multitask.portraits import Portraits, portraits
from metaface.multitask.samples import Labelled
from metaface.multitask.scenes import compose
from metaface.multitask.sheet import sheet
from metaface.multitask.sources import celeba, wider
from metaface.multitask.training import Source, draws, fit
from metaface.multitask.trunk import Trunk
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting

__all__ = [
    "ATTRIBUTES",
    "EXPRESSIONS",
    "HEADS",
    "Batch",
    "Embedding",
    "Fixed",
    "Found",
    "Head",
    "JointFace",
    "Labelled",
    "Loss",
    "MultiTask",
    "PCGrad",
    "Pool",
    "Portraits",
    "Source",
    "Trunk",
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
    "sheet",
    "wider",
]
