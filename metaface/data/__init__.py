"""Photographs of people: load them from anywhere, once."""

from metaface.data._cache import clear_cache
from metaface.data._load import IMAGE_SIZE, load
from metaface.data._skipped import Skipped
from metaface.data.faceset import FaceSet

__all__ = ["IMAGE_SIZE", "FaceSet", "Skipped", "clear_cache", "load"]
