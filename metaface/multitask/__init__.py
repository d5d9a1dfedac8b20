"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.batch import Batch, pictures
from metaface.multitask.heads import HEADS, Head, Loss
from metaface.multitask.metrics import measure
from metaface.multitask.model import Embedding, Found, MultiTask
from metaface.multitask.samples import Labelled
from metaface.multitask.training import Source, draws, fit
from metaface.multitask.trunk import Trunk
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting

__all__ = [
    "HEADS",
    "Batch",
    "Embedding",
    "Fixed",
    "Found",
    "Head",
    "Labelled",
    "Loss",
    "MultiTask",
    "PCGrad",
    "Source",
    "Trunk",
    "Uncertainty",
    "Weighting",
    "draws",
    "fit",
    "measure",
    "pictures",
]
