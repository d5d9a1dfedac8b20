"""What tasks are worth: against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaface.multitask import FaceAnnotations, MultiTask, Predictions, measure
from metaface.multitask.metrics import nme, rank1


class _Told(MultiTask):
    """A network that finds what it is told."""

    def __init__(self, found: Predictions, heads: dict) -> None:
        super().__init__(heads, channels=8, features=8)
        self.found = found

    def predict(self, *_: object) -> Predictions:  # type: ignore[override]
        return self.found


def _labelled() -> FaceAnnotations:
    """Two pictures with two faces and one."""
    masks = np.zeros((2, 32, 32), np.uint8)
    masks[0, :4], masks[1, :8], masks[1, 16:] = 1, 1, 255
    points = np.zeros((3, 5, 2), np.float32)
    points[:, 1, 0] = 10  # between the eyes
    points[1, 3] = np.nan
    return FaceAnnotations(
        images=np.zeros((2, 32, 32, 3), np.uint8),
        image=np.array([0, 0, 1]),
        boxes=np.array([[0, 0, 10, 10], [16, 16, 10, 10], [4, 4, 20, 20]], np.float32),
        landmarks=points,
        pose=np.array([[10, 0, 0], [0, np.nan, 0], [-20, 5, 0]], np.float32),
        person=np.array([0, 1, 0]),
        expression=np.array([1, -1, 0]),
        attributes=np.array([[1, 0], [1, np.nan], [0, 1]], np.float32),
        masks=masks,
        complete=np.ones(2, bool),
        people=("a", "b"),
        expressions=("calm", "smile"),
        attribute_names=("glasses", "cap"),
    )


def _found() -> Predictions:
    """Both faces of the first picture and one that is none; nothing in its place in the second."""
    masks = torch.full((2, 32, 32), -1.0)
    masks[0, :2], masks[1, 4:] = 1, 1
    return Predictions(
        image=torch.tensor([0, 0, 0, 1]),
        boxes=torch.tensor([[16, 16, 10, 10.0], [0, 0, 9, 10], [0, 20, 5, 5], [20, 20, 8, 8]]),
        landmarks=torch.tensor([0.0, 1, 2, 3])[:, None, None].expand(4, 5, 2)
        + torch.tensor([[0.0, 0], [10, 0], [0, 0], [0, 0], [0, 0]]),
        scores=torch.tensor([0.9, 0.6, 0.5, 0.8]),
        heads={
            "pose": torch.tensor([[6.0, 50, -2], [13, 1, 1], [0, 0, 0], [0, 0, 0]]),
            "expression": torch.tensor([[5.0, 0], [0, 5], [0, 0], [0, 0]]),
            "attributes": torch.tensor([[-1.0, -1], [2, 3], [1, 1], [1, 1]]),
            "segmentation": masks,
        },
    )


_HEADS: dict = {
    "detection": {},
    "alignment": {},
    "segmentation": {},
    "pose": {},
    "expression": {"classes": 2},
    "attributes": {"count": 2},
}


def test_every_measure_by_hand() -> None:
    got = measure(_Told(_found(), _HEADS), _labelled())
    # by score: right, wrong (0.8, in the second picture), right, wrong: 1/3 * 1 + 1/3 * 2/3
    assert got["ap50"] == pytest.approx(1 / 3 + 2 / 9)
    assert got["matched"] == pytest.approx(2 / 3)
    # the second true face is found exactly, the first by (1, 1) off; the eyes are 10 apart
    assert got["nme"] == pytest.approx(5 * 2**0.5 / 10 / 9, abs=1e-6)
    assert got["nme_box"] == pytest.approx(5 * 2**0.5 / 10 / 9, abs=1e-6)  # so are the boxes' sides
    # 2 of 4 rows in the first; rows 4 to 7 of 0 to 7 and 4 to 15 in what is known of the second
    assert got["iou"] == pytest.approx((2 + 4) / (4 + 16))
    assert (got["yaw"], got["pitch"], got["roll"]) == pytest.approx(((3 + 6) / 2, 1, (1 + 2) / 2))
    assert got["expression"] == 1
    # known of the two: glasses 1 and 1, cap 0; said: glasses 1 and 0, cap 1
    assert got["attributes"] == pytest.approx(1 / 3)
    assert got["attributes/glasses/precision"] == 1 and got["attributes/glasses/recall"] == 0.5
    assert got["attributes/glasses/f1"] == pytest.approx(2 / 3)
    assert got["attributes/cap/precision"] == 0 and np.isnan(got["attributes/cap/recall"])
    assert got["attributes/cap/f1"] == 0
    assert "rank1" not in got


def test_landmarks_of_profiles_are_left_out_of_nme_45() -> None:
    labelled = _labelled()
    model = _Told(_found(), _HEADS)
    assert measure(model, labelled)["nme_45"] == measure(model, labelled)["nme"] > 0
    labelled.pose[0, 0] = -46  # the face that is off
    assert measure(model, labelled)["nme_45"] == 0
    labelled.pose[1, 0] = np.nan
    assert np.isnan(measure(model, labelled)["nme_45"])
    labelled.pose[:, 0] = np.nan
    assert "nme_45" not in measure(model, labelled)


def test_a_higher_least_score_finds_fewer() -> None:
    got = measure(_Told(_found(), _HEADS), _labelled(), min_score=0.7)
    assert got["matched"] == pytest.approx(1 / 3)
    assert got["ap50"] == pytest.approx(1 / 3 + 2 / 9)  # of all scores
    nobody = measure(_Told(_found(), _HEADS), _labelled(), min_score=0.99)
    assert nobody["matched"] == 0 and np.isnan(nobody["nme"]) and np.isnan(nobody["yaw"])


def test_one_face_is_not_matched_twice() -> None:
    found = _found()
    found.boxes[1] = found.boxes[0]
    assert measure(_Told(found, _HEADS), _labelled())["matched"] == pytest.approx(1 / 3)


def test_normalised_mean_error() -> None:
    truth = np.zeros((2, 5, 2))
    truth[:, 1, 0] = 4
    found = truth.copy()
    found[0, 2] = (3, 4)
    assert nme(truth, found) == pytest.approx(5 / 4 / 10)
    truth[0, 0] = np.nan
    assert nme(truth, found) == 0


def test_rank_1() -> None:
    unit = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.85, 0.15], [1, 0]], np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    # 4 (alone of its person) is not counted but nearest to 1; 5 is nobody known
    assert rank1(np.array([0, 0, 1, 1, 2, -1]), unit) == pytest.approx(3 / 4)
    assert np.isnan(rank1(np.array([0, 1]), unit[:2]))


def test_a_network_without_detection_reads_given_faces() -> None:
    torch.manual_seed(0)
    model = MultiTask({"pose": {}, "recognition": {"people": 2}}, channels=8, features=8)
    with pytest.raises(ValueError, match="given=True"):
        measure(model, _labelled())
    got = measure(model, _labelled(), given=True)
    assert got["matched"] == 1 and set(got) == {"matched", "yaw", "pitch", "roll", "rank1"}
