"""What a recogniser answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metaface.data import Skipped
from metaface.faces.photos import Reason


@dataclass(frozen=True)
class Match:
    """One face of a photograph.

    Attributes:
        name: who it is, or None: unknown.
        nearest: the most similar person, whether similar enough or not; None: nobody is enrolled,
            or an adapted classifier gave no number.
        score: how similar, a finite number; see :class:`metaface.metrics.cohort.Cohort`. Not a
            probability. None where ``nearest`` is.
        box: left, top, width, height in pixels of the upright photograph.
        probability: see :meth:`Calibration.probability`.
    """

    name: str | None
    nearest: str | None
    score: float | None
    box: tuple[float, float, float, float]
    probability: float | None = None


@dataclass(frozen=True)
class Identified(Sequence[Match]):
    """A photograph and its faces, the most certain first; a sequence of :class:`Match`.

    Attributes:
        path: of the photograph; None: it was no file.
        faces: those that were searched for.
        skipped: why there are none, one of ``metaface.recognition.REASONS``; None: there are.
        detail: the same as a sentence.
    """

    path: str | None
    faces: tuple[Match, ...] = ()
    skipped: Reason | None = None
    detail: str = ""

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: Any) -> Any:
        return self.faces[index]


@dataclass(frozen=True)
class Chosen:
    """Which face was taken of a photograph that shows several.

    Attributes:
        path: of the photograph, or "an image".
        box: left, top, width, height in pixels of the upright photograph.
        others: how many faces were left.
    """

    path: str
    box: tuple[float, float, float, float]
    others: int

    def __str__(self) -> str:
        left, top, width, height = self.box
        return (
            f"{self.path}: of {self.others + 1} faces the one of {width:.0f}x{height:.0f} pixels "
            f"at {left:.0f}, {top:.0f} was taken"
        )


@dataclass(frozen=True)
class Enrolment:
    """What became of the photographs of one person.

    Attributes:
        name: the person.
        used: how many photographs were enrolled.
        skipped: those that could not be: path and reason.
        repeated: how many were skipped because the same picture is enrolled already.
        remarks: why they may be wrong, such as "looks like Ana (0.71)"; see
            :class:`metaface.recognition.newcomers.Newcomers`.
        several: those of the enrolled photographs that show other faces, too.
    """

    name: str
    used: int
    skipped: tuple[Skipped, ...] = ()
    repeated: int = 0
    remarks: tuple[str, ...] = ()
    several: tuple[Chosen, ...] = ()


@dataclass(frozen=True)
class Verified:
    """Whether two photographs show one person.

    Attributes:
        same: whether ``score`` is ``threshold`` or more.
        score: how similar they are. Not a probability.
        threshold: for the false match rate ``fmr``.
        verified: whether the threshold was made with strangers that the user gave; they must have
            pairs enough for ``fmr``.
        several: of the two photographs, those that show other faces, too.
    """

    same: bool
    score: float
    threshold: float
    fmr: float
    verified: bool
    several: tuple[Chosen, ...] = ()
