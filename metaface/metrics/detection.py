"""Average precision of face detection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from metaface.faces.detections import overlaps
from metaface.metrics.intervals import Estimate, bootstrap, divide


@dataclass(frozen=True, eq=False)
class Detection:
    """How well faces are found; prints as ``0.942 [0.911, 0.968]``.

    Attributes:
        ap: average precision, with a 95% interval that draws whole photographs.
        threshold: float64 ``[k]``, every score there is, descending.
        precision, recall: float64 ``[k]``, where detections that score as much are kept.
        iou: from which a box counts as found.
        photographs: how many.
        faces: that count.
        ignored: that do not.
    """

    ap: Estimate
    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    iou: float
    photographs: int
    faces: int
    ignored: int

    def __str__(self) -> str:
        return str(self.ap)


def average_precision(
    detected: Sequence[tuple[np.ndarray, np.ndarray]],
    truth: Sequence[np.ndarray],
    ignore: Sequence[np.ndarray],
    iou: float = 0.5,
) -> Detection:
    """Average precision over photographs.

    In a photograph detections take their turn by score. Each takes, of the faces that count and
    are not taken, the one it overlaps most, if by at least ``iou``; else, if it overlaps an
    ignored face that much, it is dropped; else it is false. So a second box on one face is false.
    The average is the area under precision against recall, at all recalls, after precision has
    been made monotone (PASCAL VOC since 2010); detections of equal score come and go together.

    Args:
        detected: of each photograph boxes ``[n, 4]`` (x, y, width, height; pixels) and scores
            ``[n]``.
        truth: of each photograph the boxes of its faces ``[m, 4]``.
        ignore: of each photograph bool ``[m]``, the faces that neither count nor harm.
        iou: intersection over union, above 0 and at most 1.

    Raises:
        ValueError: lists or arrays that do not fit together, a score that is not a number, no
            face that counts.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import average_precision
        >>> boxes = np.array([[10.0, 10, 40, 40], [100, 100, 40, 40]])
        >>> detected = (np.array([[12.0, 10, 40, 40]]), np.array([0.9]))  # one of the two faces
        >>> result = average_precision([detected], [boxes], [np.array([False, False])])
        >>> float(result.ap.value), result.faces
        (0.5, 2)
    """
    if not len(detected) == len(truth) == len(ignore):
        raise ValueError(
            f"{len(detected)} photographs detected, {len(truth)} with boxes, {len(ignore)} with "
            "marks: need one of each for every photograph"
        )
    if not 0 < iou <= 1:
        raise ValueError(f"iou={iou}: must be above 0 and at most 1")
    photo, scores, right = [], [], []
    faces = np.zeros(len(truth))
    ignored = 0
    for i, ((boxes, score), true, skip) in enumerate(zip(detected, truth, ignore, strict=True)):
        boxes, true = (np.asarray(b, np.float64).reshape(-1, 4) for b in (boxes, true))
        score, skip = np.asarray(score, np.float64), np.asarray(skip, bool)
        if score.shape != (len(boxes),) or skip.shape != (len(true),):
            raise ValueError(
                f"photograph {i}: {len(boxes)} boxes with scores {score.shape}, {len(true)} faces "
                f"with marks {skip.shape}: need one for each"
            )
        if np.isnan(score).any():
            raise ValueError(f"photograph {i}: a detection's score is not a number")
        kept, hit = _match(boxes, score, true, skip, iou)
        photo.append(np.full(len(kept), i))
        scores.append(score[kept])
        right.append(hit)
        faces[i] = (~skip).sum()
        ignored += int(skip.sum())
    if not faces.sum():
        raise ValueError(f"none of the {ignored} faces in {len(truth)} photographs counts")

    where, by, hits = np.concatenate(photo), np.concatenate(scores), np.concatenate(right)
    order = np.argsort(-by, kind="stable")
    where, by, hits = where[order], by[order], hits[order]
    last = np.flatnonzero(np.append(np.diff(by) != 0, True)[: len(by)])  # of equal scores
    correct = hits.cumsum()[last]
    return Detection(
        ap=bootstrap(_area(where, by, hits, faces), len(truth)),
        threshold=by[last],
        precision=correct / (last + 1),
        recall=correct / faces.sum(),
        iou=iou,
        photographs=len(truth),
        faces=int(faces.sum()),
        ignored=ignored,
    )


def _area(
    photo: np.ndarray, scores: np.ndarray, hits: np.ndarray, faces: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The area under the curve ``[B]`` of photographs weighted ``[B, photographs]``.

    Recall rises only at scores at which a face was found, and between them precision falls: other
    scores count only by how many were kept.

    Args:
        photo, scores, hits: of each detection, by falling score.
        faces: of each photograph.
    """
    rank = np.unique(-scores, return_inverse=True)[1]
    risen = np.unique(rank[hits > 0])
    step = np.searchsorted(risen, rank)  # at which a detection is there at the latest
    step[step == len(risen)] = -1

    def counts(chosen: np.ndarray) -> csr_array:
        at = (step[chosen], photo[chosen])
        return csr_array((np.ones(chosen.sum()), at), shape=(len(risen), len(faces)))

    every, right = counts(step >= 0), counts(hits > 0)

    def area(weights: np.ndarray) -> np.ndarray:
        more, kept = right @ weights.T, (every @ weights.T).cumsum(0)
        correct, total = more.cumsum(0), weights @ faces
        precision = np.divide(correct, kept, out=np.zeros_like(correct), where=kept > 0)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        return divide((more * highest).sum(0), total)

    return area


def _match(
    boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, skip: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the detections that are not dropped, by score; whether each found a face."""
    overlap = overlaps(boxes, truth)
    free = ~skip
    kept, right = [], []
    for row in np.argsort(-scores, kind="stable"):
        able = np.where(free, overlap[row], 0)
        correct = bool(able.max(initial=0) >= iou)
        if correct:
            free[able.argmax()] = False
        elif overlap[row, skip].max(initial=0) >= iou:
            continue
        kept.append(row)
        right.append(correct)
    return np.array(kept, dtype=np.int64), np.array(right, dtype=np.float64)
