"""Where, and for whom, recognition is weak: people as a learner takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaface.data import FaceSet
from metaface.evaluation.domain_matrix import embed_faceset
from metaface.faces.alignment import align
from metaface.faces.exposure import brighten_dark
from metaface.learners import MetaLearner

RENDER = 160  # pixels of a render that is aligned: more than the crop shows


@dataclass(frozen=True, eq=False)
class People:
    """A learner and photographs as it takes them.

    Attributes:
        paths: of the photographs, where they were aligned one by one; else None.
    """

    learner: MetaLearner
    faces: FaceSet
    paths: tuple[str, ...] | None = None

    def embeddings(self) -> np.ndarray:
        """float32 ``[M, D]``, unit length.

        Raises:
            ValueError: a network whose embeddings depend on the batch.
        """
        with self.learner.predicting():
            alone = self.learner.sees_single_images
        if not alone:
            raise ValueError(
                "the checkpoint's norm is 'batch': its embeddings depend on what they are "
                "computed with; train with --norm group or frozen"
            )
        return embed_faceset(self.learner, self.faces)


def upright(images: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Renders aligned by their own landmarks: uint8 ``[n, 112, 112, 3]``."""
    pairs = zip(images, landmarks, strict=True)
    return brighten_dark(np.concatenate([align(image, five[None] - 0.5) for image, five in pairs]))
