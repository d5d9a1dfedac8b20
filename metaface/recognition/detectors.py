"""The detector that goes with an embedder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from metaface import _extensions
from metaface.faces.detect import Cascade, Detector, YuNet
from metaface.recognition import models
from metaface.recognition.embedders import Embedder, JointFace


def load_detector(name: str, given: str | Path | None = None) -> Detector:
    """A detector by name.

    Args:
        name: ``yunet``, ``cascade``, what a package has registered in ``metaface.detectors``, or
            ``package.module:Class``, called without arguments or, for ``name:TEXT``, with that
            text.
        given: the folder of models, for ``yunet``.

    Raises:
        ValueError: an unknown name, or no detector.
        ImportError: a package, or OpenCV's cascade, that cannot be imported.
        metaface.recognition.ModelMissing: no model file.
    """
    if name == "yunet":
        return default_detector(given)
    make = Cascade if name == "cascade" else _extensions.find("detectors", name)
    if make is None:
        known = _extensions.choices("detectors", "yunet", "cascade")
        raise ValueError(f"no detector {name!r}: choose one of {known}")
    detector: Any = make()
    if not callable(detector) or not isinstance(getattr(detector, "name", None), str):
        raise ValueError(
            f"{name} makes a {type(detector).__name__}, which is no detector: it must be called "
            "with a picture, and have a name (text)"
        )
    return cast(Detector, detector)


def detector_for(embedder: Embedder, given: str | Path | None = None) -> Detector:
    """The embedder itself where it detects as well, else :func:`default_detector`."""
    one: object = embedder
    return cast(Detector, one) if isinstance(one, JointFace) else default_detector(given)


def default_detector(given: str | Path | None = None) -> YuNet:
    """YuNet from the folder of models; see :meth:`Recognizer.from_pretrained`.

    Raises:
        metaface.recognition.ModelMissing: it is not there; says how to get it, and of
            :class:`Cascade`, which needs no model.
    """
    try:
        return YuNet(models.find("yunet", given))
    except models.ModelMissing as missing:
        with suppress(models.ModelMissing):  # the other export will do, too, from OpenCV 5 on
            return YuNet(models.find("yunet_dynamic", given))
        raise models.ModelMissing(
            f"{missing}. Without it: --detector cascade, OpenCV 4's bundled cascade, which finds "
            "fewer faces and no landmarks (docs/recognition.md)"
        ) from missing
