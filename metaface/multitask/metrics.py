"""How well each task is done, on pictures whose faces are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from metaface.faces.detections import overlaps
from metaface.metrics.detection import average_precision
from metaface.multitask.batch import Batch
from metaface.multitask.model import MultiTask, Predictions
from metaface.multitask.samples import UNKNOWN, FaceAnnotations

_IOU = 0.5  # from which a face counts as found
_TURNED = 45.0  # degrees of yaw from which the distance between the eyes says little of the size
LEAST = 0.02  # score from which faces are looked at for average precision


def measure(
    model: MultiTask,
    labelled: FaceAnnotations,
    *,
    given: bool = False,
    least: float = 0.3,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """What each head of ``model`` is worth on ``labelled``.

    Faces are measured where they were found: each known box with the found one that overlaps it
    most, at an IoU of 0.5 and a score of ``least`` at least (each found face once, the surest
    first). ``matched`` is the share that was.

    Args:
        given: read the faces at their true boxes and, by landmarks, at the network's own or those
            of a mean face, instead of where they are detected: for networks without a detection
            head.
        batch: pictures at once.

    Returns:
        ``ap50`` (over pictures that are complete); ``matched``; ``nme``: mean distance of the
        landmarks by the distance between the eyes, ``nme_45`` the same of faces whose yaw is known
        and at most 45 degrees, and ``nme_box`` by the square root of the box's area; ``iou``: of
        all pixels known to be a face;
        ``yaw``, ``pitch``, ``roll``: mean absolute error in degrees; ``expression``: accuracy;
        ``attributes``: accuracy, and ``attributes/<name>/precision``, ``recall`` and ``f1``;
        ``rank1``: the share of faces whose nearest other face, by cosine, is the same person, of
        those with another photograph. Left out where there is no head or no label for it; NaN
        where nothing was matched.

    Raises:
        ValueError: neither a detection head nor ``given``.
    """
    if not given and "detection" not in model.heads:
        raise ValueError("this network has no detection head: say given=True")
    model.eval()
    parts = list(parts_of(model, labelled, given, batch, device))
    out: dict[str, float] = {}
    if not given and labelled.complete.any():
        out |= _detection(parts)
    pairs = [matched(part, found, least) for part, found in parts]
    known = sum(int((~np.isnan(part.boxes).any(1)).sum()) for part, _ in parts)
    out["matched"] = sum(len(rows) for rows, _ in pairs) / known if known else np.nan

    def joined(label: str, head: str) -> tuple[np.ndarray, np.ndarray]:
        """What is known and what was said of the faces that were matched."""
        truth = [
            getattr(part, label)[rows] for (part, _), (rows, _) in zip(parts, pairs, strict=True)
        ]
        said = [
            (found.landmarks if head == "alignment" else found.heads[head]).cpu().numpy()[rows]
            for (_, found), (_, rows) in zip(parts, pairs, strict=True)
        ]
        return np.concatenate(truth), np.concatenate(said)

    if "alignment" in model.heads and not np.isnan(labelled.landmarks).all():
        true, said = joined("landmarks", "alignment")
        out["nme"] = nme(true, said)
        if not np.isnan(labelled.pose[:, 0]).all():
            ahead = np.abs(joined("pose", "alignment")[0][:, 0]) <= _TURNED
            out["nme_45"] = nme(true[ahead], said[ahead])
        sides = np.concatenate(
            [part.boxes[rows, 2:] for (part, _), (rows, _) in zip(parts, pairs, strict=True)]
        )
        out["nme_box"] = nme(true, said, np.sqrt(sides.prod(1)))
    if "segmentation" in model.heads and (labelled.masks != UNKNOWN).any():
        out["iou"] = _mask_iou(parts)
    if "pose" in model.heads and not np.isnan(labelled.pose).all():
        away = np.abs(np.subtract(*joined("pose", "pose")))
        out |= {name: _mean(away[:, i]) for i, name in enumerate(("yaw", "pitch", "roll"))}
    if "expression" in model.heads and (labelled.expression >= 0).any():
        true, logits = joined("expression", "expression")
        out["expression"] = _mean((logits.argmax(1) == true)[true >= 0])
    if "attributes" in model.heads and not np.isnan(labelled.attributes).all():
        true, logits = joined("attributes", "attributes")
        out |= _attributes(true, logits > 0, labelled.attribute_names)
    if "recognition" in model.heads and (labelled.person >= 0).any():
        out["rank1"] = rank1(*joined("person", "recognition"))
    return out


def constant_box(labelled: FaceAnnotations) -> tuple[np.ndarray, float]:
    """What detection is worth without looking: of the known boxes the one that, said of every
    complete picture, finds the most faces, and its average precision at an IoU of 0.5.

    Returns:
        The box ``[4]``, and ``ap50``.

    Raises:
        ValueError: no face in a complete picture.
    """
    boxes = labelled.boxes[labelled.complete[labelled.image]]
    boxes = boxes[~np.isnan(boxes).any(1)]
    if not len(boxes):
        raise ValueError(f"{labelled.name}: no box in a complete picture to choose from")
    best = boxes[(overlaps(boxes, boxes) >= _IOU).sum(1).argmax()]
    said = [(best[None], np.ones(1))] * int(labelled.complete.sum())
    truth = _truth(labelled)
    result = average_precision(said, truth, [np.zeros(len(t), bool) for t in truth], _IOU)
    return best, float(result.ap.value)


def nme(truth: np.ndarray, found: np.ndarray, unit: np.ndarray | None = None) -> float:
    """Normalised mean error: distances of landmarks ``[F, 5, 2]`` by ``unit`` ``[F]``, meaned over
    all that are known; NaN if none is.

    Args:
        unit: None: the distance between the true eyes, which grows small in a profile.
    """
    unit = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1) if unit is None else unit
    return _mean(np.linalg.norm(truth - found, axis=2) / unit[:, None])


def rank1(person: np.ndarray, embeddings: np.ndarray) -> float:
    """The share of faces whose nearest other one is the same person's; of those who have another;
    NaN if nobody has."""
    person, embeddings = person[person >= 0], embeddings[person >= 0]
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    several = (person[:, None] == person).sum(1) > 1
    return _mean((person[cosines.argmax(1)] == person)[several]) if several.any() else np.nan


def parts_of(
    model: MultiTask, labelled: FaceAnnotations, given: bool, size: int, device: torch.device | str
) -> Iterator[tuple[FaceAnnotations, Predictions]]:
    for start in range(0, len(labelled), size):
        part = labelled.take(np.arange(start, min(start + size, len(labelled))))
        batch = Batch.of(part, device)
        if given:
            kept = batch.readable
            found = model.describe(batch.images, batch.image[kept], batch.places[kept])
        else:
            found = model.predict(batch.images, LEAST)
        yield part, found


def matched(
    part: FaceAnnotations, found: Predictions, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of known faces, and of the found ones they are."""
    image, boxes, scores = (t.cpu().numpy() for t in (found.image, found.boxes, found.scores))
    overlap = overlaps(part.boxes, boxes)
    overlap = np.where(part.image[:, None] == image, np.nan_to_num(overlap), 0)
    true, rows = [], []
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] >= least and overlap[:, row].max(initial=0) >= _IOU:
            best = int(overlap[:, row].argmax())
            overlap[best] = 0
            true.append(best)
            rows.append(row)
    return np.array(true, np.int64), np.array(rows, np.int64)


def _detection(parts: list[tuple[FaceAnnotations, Predictions]]) -> dict[str, float]:
    detected, truth = [], []
    for part, found in parts:
        for i in np.flatnonzero(part.complete):
            one = found.of(int(i))
            detected.append((one.boxes.cpu().numpy(), one.scores.cpu().numpy()))
        truth += _truth(part)
    if not sum(map(len, truth)):
        return {}
    result = average_precision(detected, truth, [np.zeros(len(t), bool) for t in truth], _IOU)
    return {"ap50": float(result.ap.value)}


def _truth(labelled: FaceAnnotations) -> list[np.ndarray]:
    """The known boxes of each complete picture."""
    known = ~np.isnan(labelled.boxes).any(1)
    complete = np.flatnonzero(labelled.complete)
    return [labelled.boxes[known & (labelled.image == i)] for i in complete]


def _mask_iou(parts: list[tuple[FaceAnnotations, Predictions]]) -> float:
    both = either = 0
    for part, found in parts:
        known, true = part.masks != UNKNOWN, part.masks == 1
        said = (found.heads["segmentation"] > 0).cpu().numpy()
        both += int((known & true & said).sum())
        either += int((known & (true | said)).sum())
    return both / either if either else np.nan


def _attributes(truth: np.ndarray, said: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    known = ~np.isnan(truth)
    true = truth == 1
    out = {"attributes": _mean((said == true)[known])}
    for i, name in enumerate(names):
        hit = int((said & true & known)[:, i].sum())
        kept, there = int((said & known)[:, i].sum()), int(true[:, i].sum())
        out[f"attributes/{name}/precision"] = hit / kept if kept else np.nan
        out[f"attributes/{name}/recall"] = hit / there if there else np.nan
        out[f"attributes/{name}/f1"] = 2 * hit / (kept + there) if kept + there else np.nan
    return out


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(values.mean()) if values.size else np.nan
