"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.augment import augmented, mirrored, moved
from metaface.multitask.pool import ATTRIBUTES, EXPRESSIONS, Pool
from metaface.multitask.samples import Labelled
from metaface.multitask.scenes import compose
from metaface.multitask.sheet import sheet
from metaface.multitask.sources import celeba, wider

__all__ = [
    "ATTRIBUTES",
    "EXPRESSIONS",
    "Labelled",
    "Pool",
    "augmented",
    "celeba",
    "compose",
    "mirrored",
    "moved",
    "sheet",
    "wider",
]
