"""One shared network, many tasks: joint detection, alignment and recognition."""

from metaface.multitask.samples import Labelled

__all__ = ["Labelled"]
