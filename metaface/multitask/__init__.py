"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.pool import ATTRIBUTES, EXPRESSIONS, Pool
from metaface.multitask.samples import Labelled
from metaface.multitask.scenes import compose
from metaface.multitask.sheet import sheet

__all__ = ["ATTRIBUTES", "EXPRESSIONS", "Labelled", "Pool", "compose", "sheet"]
