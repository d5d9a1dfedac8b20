"""The threshold of a gallery: from strangers, or a cautious one without enough of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metaface.metrics.cohort import compute_prototypes
from metaface.metrics.thresholds import Calibration, add_genuine_scores, calibrate
from metaface.recognition.alike import group_alike_by_person, near_picture_cosine
from metaface.recognition.embedders import Embedder
from metaface.recognition.lookalikes import find_people_enrolled_twice
from metaface.recognition.matching import Prototypes, score_left_out
from metaface.recognition.published import published_threshold
from metaface.recognition.state import State

_COMPARED = 2000  # enrolled photographs whose similarity to other people is looked at


def calibrate_state(state: State, embedder: Embedder) -> Calibration:
    """The threshold at which strangers get a name at the rate ``state.fpir``, and what enrolled
    photographs that are left out one by one say of it.

    Args:
        state: with a matcher, and all faces.
        embedder: what made the embeddings.
    """
    assert state.matcher is not None and state.impostors is not None  # there is somebody
    faces, names = state.faces, state.names
    impostor_scores, _ = state.matcher(*state.impostors)
    calibration = calibrate(impostor_scores, state.impostors[1], state.fpir)
    given = len(state.cohort) > 0
    if not given:
        calibration = replace(calibration, strangers=0, stranger_photos=0, verified=False)
    people = compute_prototypes(faces.embeddings, state.person, len(names))
    pairs = find_people_enrolled_twice(people, state.cohort, embedder)
    if not calibration.verified:
        twice = np.isin(state.person, [person for pair in pairs for person in pair[:2]])
        cautious = _cautious_threshold(state, np.flatnonzero(~twice), embedder)
        calibration = replace(calibration, threshold=max(calibration.threshold, cautious))
    picture = group_alike_by_person(faces.embeddings, state.person, near_picture_cosine(embedder))
    genuine = score_left_out(state.make, faces, state.person, picture)
    calibration = add_genuine_scores(
        calibration, *genuine, impostor_scores if given else impostor_scores[:0]
    )
    return replace(
        calibration,
        lookalikes=state.lookalikes,
        alike=tuple((names[a], names[b], cosine) for a, b, cosine in pairs),
    )


def _cautious_threshold(state: State, rows: np.ndarray, embedder: Embedder) -> float:
    """A threshold where there are too few strangers: at least what the model's published false
    match rates give, and above the scores of enrolled faces (some of ``rows``) with other
    people."""
    if not isinstance(state.matcher, Prototypes):
        return -np.inf
    threshold = -np.inf
    published = published_threshold(embedder, len(state.names), state.fpir)
    if published is not None:
        baseline = state.cohort.baseline(state.cohort.embeddings, state.cohort.person)
        threshold = published - float(baseline.mean() if len(baseline) else 0)
    some = np.random.default_rng(0).permutation(rows)[:_COMPARED]
    others = state.matcher.others(state.faces[some], state.person[some])
    if len(others):
        threshold = max(threshold, calibrate(others, state.person[some], state.fpir).threshold)
    return threshold
