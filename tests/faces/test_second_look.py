"""Landmarks found again, and dark crops made brighter."""

from __future__ import annotations

import io
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from metaface import synthetic
from metaface.faces.alignment import TEMPLATE, fit_similarity, warp
from metaface.faces.choose import crop_faces, pick_most_prominent
from metaface.faces.detect import YuNet
from metaface.faces.detections import Detections
from metaface.faces.exposure import brighten, brighten_dark
from metaface.faces.landmarks import refine_landmarks


def dots(height: int, width: int, points: np.ndarray, radius: float) -> np.ndarray:
    """Grey levels 40, 80, ... at five points, on black: a face that a toy finder knows."""
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width, 3), np.uint8)
    for k, (px, py) in enumerate(points):
        picture[np.hypot(x - px, y - py) <= radius] = 40 * (k + 1)
    return picture


def face(points: np.ndarray) -> Detections:
    low, high = points.min(0) - 20, points.max(0) + 20
    box = np.concatenate([low, high - low])[None].astype(np.float32)
    return Detections(box, points[None].astype(np.float32), np.ones(1, np.float32))


def find_dots(window: np.ndarray) -> Detections:
    """The centres of the dots, left to right in each pair, wherever the window shows them."""
    middles = []
    labels = cv2.connectedComponents((window[..., 0] > 15).astype(np.uint8))[1]
    for k in range(1, labels.max() + 1):
        rows, columns = np.nonzero(labels == k)
        if len(rows) > 20:
            middles.append((columns.mean(), rows.mean()))
    found = np.array(sorted(middles, key=lambda p: p[1]), np.float32)
    if len(found) != 5:
        none = np.empty((0, 4), np.float32)
        return Detections(none, np.empty((0, 5, 2), np.float32), none[:, 0])
    eyes, nose, mouth = found[:2], found[2:3], found[3:]
    eyes, mouth = eyes[eyes[:, 0].argsort()], mouth[mouth[:, 0].argsort()]
    return face(np.concatenate([eyes, nose, mouth]))


@pytest.mark.parametrize("size", [40.0, 112.0, 900.0])
def test_wrong_landmarks_are_found_again_whatever_the_size(size):
    true = TEMPLATE / 112 * size + (0.3 * size + 30, 0.2 * size + 10)
    side = int(2.2 * size + 60)
    picture = dots(side, side, true, size / 18)
    wrong = face(true + np.random.default_rng(0).normal(0, size / 25, (5, 2)))
    again = refine_landmarks(picture, wrong, find_dots)
    assert np.abs(wrong.landmarks[0] - true).max() > size / 30
    np.testing.assert_allclose(again.landmarks[0], true, atol=size / 60)
    np.testing.assert_array_equal(again.boxes, wrong.boxes)


def test_a_face_that_is_not_found_again_keeps_its_landmarks():
    true = TEMPLATE + 40
    guess = face(true + 3)
    again = refine_landmarks(np.zeros((200, 200, 3), np.uint8), guess, find_dots)
    np.testing.assert_array_equal(again.landmarks, guess.landmarks)


def test_another_face_beside_it_is_not_taken_for_it():
    def beside(window):
        return face(TEMPLATE * 0.4 + 200)

    guess = face(TEMPLATE + 40)
    again = refine_landmarks(np.full((300, 300, 3), 90, np.uint8), guess, beside)
    np.testing.assert_array_equal(again.landmarks, guess.landmarks)


def test_nobody_is_looked_at_twice():
    nobody = Detections(np.empty((0, 4)), np.empty((0, 5, 2)), np.empty(0))
    assert len(refine_landmarks(np.zeros((50, 50, 3), np.uint8), nobody, find_dots)) == 0


def test_a_detector_without_closer_is_taken_at_its_word():
    picture = synthetic.render(1, 1, 128, "frontal", seed=1).images[0]
    points = face(TEMPLATE + 8)
    crop = crop_faces(picture, points, find_dots)[0]
    want = warp(picture, fit_similarity(points.landmarks)[0], 112)
    np.testing.assert_array_equal(crop, want)


@pytest.mark.parametrize("level", [5, 20, 60, 77, 120, 250])
def test_only_dark_crops_are_brightened(level):
    crop = np.full((1, 112, 112, 3), level, np.uint8)
    kept = crop.copy()
    got = brighten_dark(crop)
    np.testing.assert_array_equal(crop, kept)
    if level >= 0.3 * 255:
        np.testing.assert_array_equal(got, crop)
    else:
        assert got.mean() == pytest.approx(0.3 * 255, abs=1) or level == 5  # by a gamma >= 0.2
        assert got.mean() > level


def test_brightened_is_a_gamma():
    picture = np.random.default_rng(0).integers(0, 120, (30, 40, 3), np.uint8)
    got = brighten(picture, picture, 0.45, 0.45)
    grey = np.median(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) / 255
    gamma = np.log(0.45) / np.log(grey)
    np.testing.assert_allclose(got, 255 * (picture / 255) ** gamma, atol=0.51)


def test_on_real_hard_light_landmarks_come_nearer_to_where_they_are(test_data):
    """The camera and the person stay, the light alone changes: so do the true landmarks."""
    detector = YuNet(test_data("weights/yunet_n_640_640.onnx"))
    before, after = [], []
    with zipfile.ZipFile(test_data("yaleb_112.zip")) as zipped:
        names = sorted(n for n in zipped.namelist() if n.endswith(".jpg"))
        for person in ("yaleB01", "yaleB07", "yaleB28"):
            mine = [n for n in names if f"/{person}/" in n]
            pictures = {n: np.array(Image.open(io.BytesIO(zipped.read(n)))) for n in mine}
            pictures = {n: np.repeat(p[..., None], 3, 2) for n, p in pictures.items()}
            (front,) = (p for n, p in pictures.items() if "A+000E+00" in n)
            found = detector(front)
            true = detector.refine(front, pick_most_prominent(front, found)).landmarks[0]
            for picture in list(pictures.values())[::3]:
                found = detector(picture)
                if len(found):
                    first = pick_most_prominent(picture, found)
                    before.append(np.abs(first.landmarks[0] - true).mean())
                    after.append(np.abs(detector.refine(picture, first).landmarks[0] - true).mean())
    assert len(before) > 30
    assert np.mean(after) < 0.8 * np.mean(before), (np.mean(before), np.mean(after))
