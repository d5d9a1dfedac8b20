"""How well each task is done, on pictures whose faces are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from metaface.faces.detections import overlaps
from metaface.metrics.detection import average_precision
from metaface.multitask.batch import Batch
from metaface.multitask.model import MultiTask, Predictions
from metaface.multitask.samples import UNKNOWN, FaceAnnotations

MIN_SCORE = 0.02  # of boxes for average precision: the curve needs unsure ones
_IOU = 0.5  # from which a face counts as found
_TURNED = 45.0  # degrees of yaw from which the distance between the eyes says little of the size


def measure(
    model: MultiTask,
    labelled: FaceAnnotations,
    *,
    given: bool = False,
    min_score: float = 0.3,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """How well each head of ``model`` does on ``labelled``.

    Faces are measured where they are found: each predicted face, the surest first, with the known
    box that it overlaps most, at an IoU of 0.5 and a score of ``min_score`` at least. ``matched``
    is the share of known boxes that have one.

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

    Example:
        >>> import metaface as mf
        >>> scenes = mf.multitask.compose(mf.multitask.FaceSprites.procedural(2, 2, 64), 4, size=96)
        >>> model = mf.multitask.MultiTask({"pose": {}, "segmentation": {}}, channels=16)
        >>> sorted(mf.multitask.measure(model, scenes, given=True))
        ['iou', 'matched', 'pitch', 'roll', 'yaw']
    """
    if not given and "detection" not in model.heads:
        raise ValueError("this network has no detection head: say given=True")
    model.eval()
    parts = list(predict_in_batches(model, labelled, given, batch, device))
    matches = [match_faces(part, predictions, min_score) for part, predictions in parts]

    def of_matched(label: str, head: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The label and, where there is such a head, the prediction of every matched face."""
        truth, predicted = [], []
        for (part, predictions), (known, rows) in zip(parts, matches, strict=True):
            truth.append(getattr(part, label)[known])
            values = predictions.heads[head] if head else predictions.landmarks
            predicted.append(values.cpu().numpy()[rows])
        return np.concatenate(truth), np.concatenate(predicted)

    figures: dict[str, float] = {}
    if not given and labelled.complete.any():
        figures |= _measure_detection(parts)
    known = int((~np.isnan(labelled.boxes).any(1)).sum())
    figures["matched"] = sum(len(rows) for rows, _ in matches) / known if known else np.nan
    if "alignment" in model.heads and not np.isnan(labelled.landmarks).all():
        truth, predicted = of_matched("landmarks")
        figures["nme"] = nme(truth, predicted)
        if not np.isnan(labelled.pose[:, 0]).all():
            ahead = np.abs(of_matched("pose")[0][:, 0]) <= _TURNED
            figures["nme_45"] = nme(truth[ahead], predicted[ahead])
        sides = of_matched("boxes")[0][:, 2:]
        figures["nme_box"] = nme(truth, predicted, np.sqrt(sides.prod(1)))
    if "segmentation" in model.heads and (labelled.masks != UNKNOWN).any():
        figures["iou"] = _measure_masks(parts)
    if "pose" in model.heads and not np.isnan(labelled.pose).all():
        away = np.abs(np.subtract(*of_matched("pose", "pose")))
        figures |= {name: _mean(away[:, i]) for i, name in enumerate(("yaw", "pitch", "roll"))}
    if "expression" in model.heads and (labelled.expression >= 0).any():
        truth, logits = of_matched("expression", "expression")
        figures["expression"] = _mean((logits.argmax(1) == truth)[truth >= 0])
    if "attributes" in model.heads and not np.isnan(labelled.attributes).all():
        truth, logits = of_matched("attributes", "attributes")
        figures |= _measure_attributes(truth, logits > 0, labelled.attribute_names)
    if "recognition" in model.heads and (labelled.person >= 0).any():
        figures["rank1"] = rank1(*of_matched("person", "recognition"))
    return figures


def nme(truth: np.ndarray, predicted: np.ndarray, unit: np.ndarray | None = None) -> float:
    """Normalised mean error: mean distance of landmarks ``[F, 5, 2]`` by ``unit`` ``[F]``, over
    all that are known; NaN if none is.

    Args:
        unit: None: the distance between the true eyes, which grows small in a profile.
    """
    unit = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1) if unit is None else unit
    return _mean(np.linalg.norm(truth - predicted, axis=2) / unit[:, None])


def rank1(person: np.ndarray, embeddings: np.ndarray) -> float:
    """The share of faces whose nearest other one is the same person's; of those who have another;
    NaN if nobody has."""
    person, embeddings = person[person >= 0], embeddings[person >= 0]
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    several = (person[:, None] == person).sum(1) > 1
    return _mean((person[cosines.argmax(1)] == person)[several]) if several.any() else np.nan


def predict_in_batches(
    model: Any, labelled: FaceAnnotations, given: bool, size: int, device: torch.device | str
) -> Iterator[tuple[FaceAnnotations, Predictions]]:
    """Parts of ``labelled`` of ``size`` pictures, and what ``model`` predicts of each: of faces
    that it finds or, ``given``, of those whose place is known."""
    for start in range(0, len(labelled), size):
        part = labelled.take(np.arange(start, min(start + size, len(labelled))))
        batch = Batch.of(part, device)
        if given:
            kept = batch.located
            yield part, model.describe(batch.images, batch.image[kept], batch.filled_boxes[kept])
        else:
            yield part, model.predict(batch.images, MIN_SCORE)


def match_faces(
    part: FaceAnnotations, predictions: Predictions, min_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of known faces, and of the predicted ones that match them; int64 each."""
    image, boxes, scores = (
        t.cpu().numpy() for t in (predictions.image, predictions.boxes, predictions.scores)
    )
    overlap = overlaps(part.boxes, boxes)
    overlap = np.where(part.image[:, None] == image, np.nan_to_num(overlap), 0)
    known, rows = [], []
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] >= min_score and overlap[:, row].max(initial=0) >= _IOU:
            best = int(overlap[:, row].argmax())
            overlap[best] = 0
            known.append(best)
            rows.append(row)
    return np.array(known, np.int64), np.array(rows, np.int64)


def _measure_detection(parts: list[tuple[FaceAnnotations, Predictions]]) -> dict[str, float]:
    """Average precision over the complete pictures."""
    detected, truth = [], []
    for part, predictions in parts:
        known = ~np.isnan(part.boxes).any(1)
        for i in np.flatnonzero(part.complete):
            faces = predictions.of(int(i))
            detected.append((faces.boxes.cpu().numpy(), faces.scores.cpu().numpy()))
            truth.append(part.boxes[known & (part.image == i)])
    if not sum(map(len, truth)):
        return {}
    result = average_precision(detected, truth, [np.zeros(len(t), bool) for t in truth], _IOU)
    return {"ap50": float(result.ap.value)}


def _measure_masks(parts: list[tuple[FaceAnnotations, Predictions]]) -> float:
    """Intersection over union of all pixels known to be a face; NaN without any."""
    both = either = 0
    for part, predictions in parts:
        known, truth = part.masks != UNKNOWN, part.masks == 1
        face = (predictions.heads["segmentation"] > 0).cpu().numpy()
        both += int((known & truth & face).sum())
        either += int((known & (truth | face)).sum())
    return both / either if either else np.nan


def _measure_attributes(
    truth: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    known = ~np.isnan(truth)
    there = truth == 1
    figures = {"attributes": _mean((predicted == there)[known])}
    hits, kept, true = (
        rows.sum(0).tolist() for rows in (predicted & there & known, predicted & known, there)
    )
    for name, hit, k, t in zip(names, hits, kept, true, strict=True):
        figures[f"attributes/{name}/precision"] = hit / k if k else np.nan
        figures[f"attributes/{name}/recall"] = hit / t if t else np.nan
        figures[f"attributes/{name}/f1"] = 2 * hit / (k + t) if k + t else np.nan
    return figures


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(values.mean()) if values.size else np.nan
