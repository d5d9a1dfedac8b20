"""The detector that goes with an embedder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import cast

from metaface.faces.detect import Detector, YuNet
from metaface.recognition import models
from metaface.recognition.embedders import Embedder, JointFace


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
