"""What faces are identified by: all that is derived from one version of a gallery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metaface.metrics.cohort import Cohort
from metaface.metrics.thresholds import Calibration
from metaface.recognition.gallery.gallery import Gallery
from metaface.recognition.matching import Embeddings, MakeMatcher, Matcher

FPIR = 0.01
NOBODY = "nobody is enrolled: enrol people first, and then calibrate"


@dataclass(eq=False)
class State:
    """What is derived from one version of a gallery and its settings.

    It is made by one thread and, once others see it, not changed any more: names, ids and vectors
    belong together whatever becomes of the gallery.

    Attributes:
        version: of the gallery; see :func:`read_version`.
        fpir: the rate to calibrate for.
        people: int64 ``[N]``, the people's ids, as in ``Enrolled``.
        names: of the N people.
        faces, person: the enrolled faces and whose each is, int64 ``[M]`` in 0..N-1.
        cohort: the strangers given, without those who look like somebody enrolled.
        lookalikes: how many of the strangers given look like somebody enrolled.
        make: makes a matcher of the same kind as ``matcher``.
        matcher: of all faces; None: nobody is enrolled.
        impostors: the faces that the threshold is calibrated on, and whose each is: the cohort,
            or procedural faces where it is empty.
        calibration: made with the state, where somebody is enrolled.
    """

    version: tuple[Any, ...]
    fpir: float
    people: np.ndarray
    names: tuple[str, ...]
    faces: Embeddings
    person: np.ndarray
    cohort: Cohort
    lookalikes: int
    make: MakeMatcher
    matcher: Matcher | None = None
    impostors: tuple[Embeddings, np.ndarray] | None = None
    calibration: Calibration | None = None


def read_version(gallery: Gallery) -> tuple[Any, ...]:
    """Another one after every change of a gallery, also by another process."""
    with gallery.moment():
        adapted = gallery.setting("adaptation")
        return gallery.files, gallery.revision, read_fpir(gallery), adapted


def read_fpir(gallery: Gallery) -> float:
    """The false-positive identification rate that was asked for."""
    return float(gallery.setting("fpir") or FPIR)


def read_cohort(gallery: Gallery) -> Cohort:
    """The strangers that the user gave."""
    return Cohort(*gallery.strangers())
