"""One photograph -> its faces: detected, aligned, evenly lit and cropped."""

from metaface.faces.detect import Cascade, Detector, YuNet
from metaface.faces.detections import Detections
from metaface.faces.photos import REASONS, Unusable

__all__ = ["REASONS", "Cascade", "Detections", "Detector", "Unusable", "YuNet"]
