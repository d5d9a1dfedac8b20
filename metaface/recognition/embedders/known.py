"""The known answer: one face that nobody has, and what the published weights make of it."""

from __future__ import annotations

import base64

import numpy as np

from metaface.recognition.embedders.loading import Embedder
from metaface.recognition.models import MODELS
from metaface.synthetic import Dials, render

MIN_COSINE = 0.9999  # cosine; rounding the stored answer to 16 bits costs less than 1e-6
# from the side and lit from the side, so that mirroring shows; nothing that a library draws (JPEG)
_DIALS = Dials(
    yaw=(18.0, 22.0),
    pitch=6.0,
    roll=4.0,
    mouth_open=0.0,
    eye_closure=0.0,
    glasses=0.0,
    mask=0.0,
    cap=0.0,
    hand=0.0,
    background=0.3,
    window=2.4,
    scale=0.0,
    shift=0.0,
    blur=0.0,
    noise=0.0,
    jpeg=0.0,
    grey=0.0,
)


class KnownAnswerError(ValueError):
    """An embedder does not give what its published weights give."""


def known_face() -> np.ndarray:
    """The face: uint8 ``[1, 112, 112, 3]`` RGB, procedural and the same everywhere."""
    return render([4], photos=1, image_size=112, domains={"known": _DIALS}, seed=2018).images


def encode(embedding: np.ndarray) -> str:
    """An embedding ``[D]`` as the registry stores it: little-endian float16, base64."""
    return base64.b64encode(embedding.astype("<f2").tobytes()).decode()


def check_known_answer(embedder: Embedder) -> float | None:
    """Compare an embedder's answer with the one stored for its name.

    Returns:
        Their cosine; None where the registry knows no answer for ``embedder.name``.

    Raises:
        KnownAnswerError: the cosine is below 0.9999.
    """
    entry = MODELS.get(embedder.name)
    if entry is None or not entry.known:
        return None
    want = np.frombuffer(base64.b64decode(entry.known), "<f2").astype(np.float32)
    got = embedder(known_face())[0]
    cosine = float(got @ want / np.linalg.norm(want)) if got.shape == want.shape else 0.0
    if not cosine >= MIN_COSINE:
        raise KnownAnswerError(
            f"{embedder.name} gives an embedding of the known face whose cosine with the published "
            f"one is {cosine}, below {MIN_COSINE}: the weights or the preprocessing are not what "
            f"was published. Get the file again (`metaface models fetch {embedder.name}`)"
        )
    return cosine
