"""Finding and aligning faces, and which of a picture's faces are used."""

from __future__ import annotations

import io
import threading
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metaface import metrics, synthetic
from metaface.data.wider import read_wider
from metaface.faces import choose
from metaface.faces.alignment import SIDE, TEMPLATE, align, fit_similarity
from metaface.faces.detect import Cascade, YuNet, drop_parts, fuse
from metaface.faces.detections import Detections, overlaps
from metaface.faces.photos import Unusable, read


@pytest.fixture(scope="module")
def model(test_data):
    return test_data("weights/yunet_n_640_640.onnx")


@pytest.fixture(scope="module")
def detector(model):
    return YuNet(model)


@pytest.fixture(scope="module")
def people():
    return synthetic.render(people=6, photos=1, image_size=224, domains="frontal", seed=3)


def ground(height: int, width: int) -> np.ndarray:
    row, column = np.mgrid[:height, :width]
    planes = [90 + 40 * row / height, 140 - 40 * column / width, 110 + 0 * row]
    return np.stack(planes, -1).astype(np.uint8)


def paste(picture: np.ndarray, face: np.ndarray, left: int, top: int, side: int) -> None:
    method = cv2.INTER_AREA if side < len(face) else cv2.INTER_CUBIC
    picture[top : top + side, left : left + side] = cv2.resize(
        face, (side, side), interpolation=method
    )


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    return float(overlaps(np.array(box)[None], np.array(other)[None])[0, 0])


# --- YuNet


@pytest.mark.parametrize("i", range(6))
def test_boxes_and_landmarks_are_the_renderers(detector, people, i):
    picture = ground(400, 480)
    paste(picture, people.images[i], 150, 100, 224)
    faces = detector(picture)
    assert len(faces) == 1 and faces.scores[0] > 0.8
    assert faces.boxes.shape == (1, 4) and faces.landmarks.shape == (1, 5, 2)
    assert {a.dtype.name for a in (faces.boxes, faces.landmarks, faces.scores)} == {"float32"}
    assert overlap(faces.boxes[0], people.box[i] + [150, 100, 0, 0]) > 0.7
    # 110 pixels wide; a landmark in another's place would be 35 pixels away
    assert np.abs(faces.landmarks[0] - people.landmarks[i] - [150, 100]).max() < 11


@pytest.mark.parametrize("side", [60, 112, 200, 480, 900, 2000])
def test_faces_of_every_size(detector, people, side):
    """``side`` of the pasted square; the face is half as wide."""
    picture = ground(side + 100, 2 * side + 100)
    paste(picture, people.images[0], side // 2, 60, side)
    faces = detector(picture)
    scale = side / 224
    assert len(faces) == 1
    assert overlap(faces.boxes[0], people.box[0] * scale + [side // 2, 60, 0, 0]) > 0.7
    right = people.landmarks[0] * scale + [side // 2, 60]
    assert np.abs(faces.landmarks[0] - right).max() < 11 * scale + 1


def test_a_huge_and_a_small_face_in_one_large_picture(detector, people):
    picture = ground(3000, 4000)
    paste(picture, people.images[0], 100, 50, 2900)  # a face of 1500 pixels
    paste(picture, people.images[1], 3300, 1800, 128)  # one of 61
    faces = detector(picture)
    found = [
        max(overlap(box, people.box[i] * side / 224 + [left, top, 0, 0]) for box in faces.boxes)
        for i, left, top, side in ((0, 100, 50, 2900), (1, 3300, 1800, 128))
    ]
    assert len(faces) == 2 and min(found) > 0.6


@pytest.mark.parametrize("times", [1, 2, 4, 6, 10])
@pytest.mark.parametrize("i", range(6))
def test_a_face_that_fills_the_picture_is_one(detector, people, i, times):
    """YuNet alone takes its eyes and cheeks for faces, too, from 4 times on."""
    left, top, width, height = people.box[i].astype(int)
    picture = people.images[i][top : top + height, left : left + width]
    large = cv2.resize(picture, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    faces = detector(large)
    assert len(faces) == 1
    assert overlap(faces.boxes[0], [0, 0, times * width, times * height]) > 0.6


def test_only_parts_of_large_faces_are_dropped():
    boxes = np.array(
        [[100, 100, 400, 500], [150, 150, 90, 120], [450, 100, 100, 100], [0, 0, 60, 60]],
        np.float32,
    )
    points = np.zeros((4, 5, 2), np.float32)
    faces = Detections(boxes, points, np.array([0.9, 0.8, 0.7, 0.6], np.float32))
    assert drop_parts(faces, 400).boxes[:, 0].tolist() == [100, 450, 0]  # half inside: kept
    assert len(drop_parts(faces, 501)) == 4  # a child before a parent, say
    faces = Detections(boxes, points, np.array([0.7, 0.8, 0.9, 0.6], np.float32))
    assert len(drop_parts(faces, 400)) == 4  # the part is surer
    assert len(drop_parts(faces[:0], 400)) == 0


def test_a_face_that_the_picture_cuts_off(detector, people):
    picture = ground(300, 400)
    left = int(people.box[0, 0] + people.box[0, 2] * 0.25)
    picture[40:264, : 224 - left] = people.images[0][:, left:]
    faces = detector(picture)
    assert len(faces) == 1 and faces.boxes[0, 0] < 5
    crop = align(picture, faces.landmarks)[0]
    assert crop.shape == (SIDE, SIDE, 3) and crop.std() > 20


def test_several_faces_are_found_surest_first(detector, people):
    picture = ground(500, 700)
    for i in range(6):
        paste(picture, people.images[i], 20 + 225 * (i % 3), 20 + 230 * (i // 3), 210)
    faces = detector(picture)
    assert len(faces) == 6 and (np.diff(faces.scores) <= 0).all()
    places = sorted((int(x // 225), int(y // 230)) for x, y in faces.boxes[:, :2])
    assert places == [(c, r) for c in range(3) for r in range(2)]
    some = faces[faces.boxes[:, 1] > 230]
    assert len(some) == 3 and some.landmarks.shape == (3, 5, 2)


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (33, 31), (1280, 1), (7, 500)])
def test_no_face_in_pictures_of_odd_sizes(detector, size):
    faces = detector(ground(*size))
    assert len(faces) == 0 and faces.landmarks.shape == (0, 5, 2)
    assert align(ground(*size), faces.landmarks).shape == (0, SIDE, SIDE, 3)


def test_a_higher_least_score_finds_fewer(model, people):
    picture = ground(400, 480)
    paste(picture, people.images[0], 150, 100, 224)
    assert len(YuNet(model, min_score=0.99)(picture)) == 0
    assert len(YuNet(model, min_score=0.02)(picture)) >= 1


def test_many_threads_say_nothing_and_find_the_same(model, people, capfd):
    """OpenCV warns when a model is opened; its log level is one for all threads."""
    detector = YuNet(model)
    level = cv2.utils.logging.getLogLevel()
    picture = ground(300, 300)
    paste(picture, people.images[0], 40, 40, 224)
    start, boxes = threading.Barrier(8), []

    def look() -> None:
        start.wait()
        boxes.append(detector(picture).boxes)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(boxes) == 8 and all(np.array_equal(box, boxes[0]) for box in boxes)
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


def test_files_that_are_no_model(tmp_path, model, capfd):
    whole = model.read_bytes()
    for name, data in {
        "text": b"not a model",
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "head": whole[:1000],
    }.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"does not take .*{name}.onnx for a YuNet model"):
            YuNet(path)
    with pytest.raises(FileNotFoundError, match="none.onnx: metaface models fetch yunet"):
        YuNet(tmp_path / "none.onnx")


@pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="OpenCV 5 has no cascades")
def test_cascade(people):
    found = 0
    for i in range(6):
        picture = ground(400, 480)
        paste(picture, people.images[i], 150, 100, 224)
        faces = Cascade()(picture)
        assert faces.landmarks.shape == (len(faces), 5, 2)
        if len(faces):
            right = people.landmarks[i] + [150, 100]
            found += bool(np.abs(faces.landmarks[0] - right).max() < 30)
    assert found >= 3


@pytest.mark.skipif(hasattr(cv2, "CascadeClassifier"), reason="OpenCV 4 has cascades")
def test_cascade_of_opencv_5_says_what_to_do():
    with pytest.raises(ImportError, match="has no cascade classifier: metaface models fetch yunet"):
        Cascade()


@pytest.mark.slow
def test_wider(test_data, model):
    path = test_data("wider_val_sample.zip")
    annotated = read_wider(path)
    detector, detected = YuNet(model, min_score=0.02), []
    with zipfile.ZipFile(path) as archive:
        for one in annotated:
            data = archive.read(one.path)
            pixels = read(lambda data=data: data)
            assert pixels.shape[:2] == Image.open(io.BytesIO(data)).size[::-1]
            faces = detector(pixels)
            detected.append((faces.boxes, faces.scores))
    result = metrics.average_precision(
        detected, [one.boxes for one in annotated], [one.ignore for one in annotated]
    )
    assert result.photographs == 48 and result.ap.value >= 0.93


# --- one list of boxes of several

box = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 10)] * 2)


@given(st.lists(box, min_size=1, max_size=5), st.lists(box, min_size=1, max_size=5))
def test_overlaps_by_counting_pixels(first, second):
    def cells(x: int, y: int, w: int, h: int) -> set[tuple[int, int]]:
        return {(i, j) for i in range(x, x + w) for j in range(y, y + h)}

    got = overlaps(np.array(first, np.float32), np.array(second, np.float32))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            want = len(cells(*a) & cells(*b)) / len(cells(*a) | cells(*b))
            assert got[i, j] == pytest.approx(want, abs=1e-6)


def by_loops(found: list[Detections]) -> list[tuple[np.ndarray, np.ndarray, float]]:
    rows = [row for f in found for row in zip(f.boxes, f.landmarks, f.scores, strict=True)]
    rows = sorted(rows, key=lambda row: -row[2])
    if len(found) == 1:
        return rows
    merged = []
    while rows:
        best = rows[0]
        group = [r for r in rows if r is best or overlap(r[0], best[0]) > 0.45]
        rows = [r for r in rows if all(r is not g for g in group)]
        total = sum(float(r[2]) ** 2 for r in group)
        mean = [sum(float(r[2]) ** 2 * r[k].astype(float) for r in group) / total for k in (0, 1)]
        merged.append((mean[0], mean[1], best[2]))
    return merged


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_fused_by_loops(seed, lists):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(lists):
        count = random.integers(0, 7)
        boxes = random.uniform((0, 0, 5, 5), (15, 15, 20, 20), (count, 4)).astype(np.float32)
        points = random.uniform(0, 30, (count, 5, 2)).astype(np.float32)
        found.append(Detections(boxes, points, random.random(count).astype(np.float32)))
    got, want = fuse(found), by_loops(found)
    assert len(got) == len(want)
    for i, (one, five, score) in enumerate(want):
        np.testing.assert_allclose(got.boxes[i], one, rtol=1e-4)
        np.testing.assert_allclose(got.landmarks[i], five, rtol=1e-4)
        assert got.scores[i] == score


# --- alignment

landmarks = st.tuples(
    st.floats(0.2, 30),
    st.floats(-np.pi, np.pi),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.integers(0, 1000),
    st.floats(0, 6),
)


def moved(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, [[x], [y]]], 1)


@given(landmarks)
def test_similarity_by_least_squares(drawn):
    """The four unknowns of a similarity, by numpy; the landmarks are not quite a face's."""
    scale, angle, x, y, seed, noise = drawn
    matrix = moved(scale, angle, x, y)
    points = TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    points += np.random.default_rng(seed).normal(0, noise * scale, (5, 2))
    rows, goals = [], []
    for (px, py), (gx, gy) in zip(points, TEMPLATE, strict=True):
        rows += [[px, -py, 1, 0], [py, px, 0, 1]]
        goals += [gx, gy]
    a, b, dx, dy = np.linalg.lstsq(np.array(rows), np.array(goals), rcond=None)[0]
    (got,) = fit_similarity(points[None])
    want = np.array([[a, -b, dx], [b, a, dy]])
    np.testing.assert_allclose(got[:, :2], want[:, :2], atol=1e-9 + 1e-9 / scale)
    np.testing.assert_allclose(got[:, 2], want[:, 2], rtol=1e-6, atol=1e-5)


def test_similarity_of_exact_landmarks_undoes_the_motion():
    matrix = moved(3.0, 0.7, 40, -9)
    (got,) = fit_similarity((TEMPLATE @ matrix[:, :2].T + matrix[:, 2])[None])
    both = np.vstack([got, [0, 0, 1]]) @ np.vstack([matrix, [0, 0, 1]])
    np.testing.assert_allclose(both, np.eye(3), atol=1e-9)
    assert np.linalg.det(got[:, :2]) > 0


def test_landmarks_in_one_place_give_finite_crops():
    assert np.isfinite(fit_similarity(np.full((1, 5, 2), 7.0))).all()
    assert align(ground(50, 50), np.full((1, 5, 2), 7.0)).shape == (1, SIDE, SIDE, 3)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1.2, 12),
    st.floats(-np.pi, np.pi),
    st.floats(0, 100),
    st.floats(0, 100),
    st.integers(0, 5),
)
def test_a_crop_does_not_depend_on_how_the_face_lies(scale, angle, x, y, i):
    """Turned, enlarged and shifted pictures give the same crop; large ones by reduction."""
    made = synthetic.render(people=[i], photos=1, image_size=112, domains="frontal", seed=3)
    image = cv2.GaussianBlur(made.images[0], (0, 0), 1.5)  # what interpolation takes, is gone
    points = made.landmarks[0] - 0.5  # the middle of the first pixel is (0, 0) in a picture
    half = scale * 56 * np.sqrt(2)
    matrix = moved(scale, angle, 0, 0)
    matrix[:, 2] = half + np.array([x, y]) - matrix[:, :2] @ (55.5, 55.5)
    side = int(2 * half + 100)
    other = cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    crop = align(image, points[None])[0].astype(int)
    again = align(other, (points @ matrix[:, :2].T + matrix[:, 2])[None])[0].astype(int)
    inside = np.s_[25:100, 25:88]  # the face: the rest may lie beyond the picture
    difference = np.abs(crop - again)[inside]
    assert crop[inside].std() > 15 and difference.mean() < 1.5
    assert np.percentile(difference, 99) < 10


@pytest.mark.parametrize("times", [2, 3, 4, 7.5, 16])
def test_a_much_larger_face_is_the_face_reduced_before(people, times):
    """Without a reduction, bilinear sampling of noise passes pixels over."""
    random = np.random.default_rng(0)
    side = round(224 * times)
    large = cv2.resize(people.images[0], (side, side), interpolation=cv2.INTER_CUBIC)
    noise = random.normal(0, 40, large.shape)
    large = (large + noise).clip(0, 255).astype(np.uint8)
    small = cv2.resize(large, (224, 224), interpolation=cv2.INTER_AREA)
    points = people.landmarks[0]
    got = align(large, (points * times - 0.5)[None])[0].astype(int)
    want = align(small, (points - 0.5)[None])[0].astype(int)
    assert np.abs(got - want).mean() < 5
    matrix = fit_similarity((points * times - 0.5)[None])[0]
    plain = cv2.warpAffine(large, matrix, (SIDE, SIDE)).astype(int)
    if times > 3:
        assert np.abs(plain - want).mean() > 3 * np.abs(got - want).mean()


def test_what_lies_outside_is_black():
    crop = align(np.full((60, 60, 3), 200, np.uint8), (TEMPLATE - 56)[None])[0]
    assert (crop[60:110, 60:110] == 200).all() and (crop[:50, :50] == 0).all()
    assert not align(ground(40, 40), (TEMPLATE + 5000)[None]).any()
    assert not align(ground(40, 40), (40 * TEMPLATE + 9000)[None]).any()  # by reduction, too


# --- which faces are used


def seen(detector, *places, size=(500, 700)):
    """A picture with (face, left, top, side) pasted, and what is found in it."""
    picture = ground(*size)
    for face, left, top, side in places:
        paste(picture, face, left, top, side)
    return picture, detector(picture)


def why(pick, picture, faces) -> str:
    with pytest.raises(Unusable) as error:
        pick(picture, faces)
    return f"{error.value.reason}: {error.value.detail}"


EVERY = [choose.pick_all, choose.pick_one, choose.pick_to_enrol, choose.pick_most_prominent]


@pytest.mark.parametrize("pick", EVERY)
def test_no_face(detector, pick):
    assert why(pick, *seen(detector)) == "no_face: no face found in 700x500 pixels"


@pytest.mark.parametrize("pick", EVERY)
def test_one_good_face(detector, people, pick):
    picture, faces = seen(detector, (people.images[0], 150, 100, 224))
    assert np.array_equal(pick(picture, faces).boxes, faces.boxes)


def test_small_faces(model, people):
    """Of about 12 and 24 pixels."""
    detector = YuNet(model, min_score=0.3)
    picture, faces = seen(detector, (people.images[0], 150, 100, 26), size=(250, 300))
    assert len(faces) == 1 and faces.boxes[0, 2:].min() < choose.SMALLEST
    for pick in EVERY[:3]:
        assert why(pick, picture, faces).startswith("face_too_small: 1")
    assert len(choose.pick_most_prominent(picture, faces)) == 1
    picture, faces = seen(detector, (people.images[0], 150, 100, 52), size=(250, 300))
    assert len(choose.pick_all(picture, faces)) == len(choose.pick_one(picture, faces)) == 1
    assert "a face needs 32 at least" in why(choose.pick_to_enrol, picture, faces)


@pytest.mark.parametrize("side", [15.5, 15.97, 15.9999])
def test_a_size_that_is_refused_does_not_read_as_one_that_is_not(side):
    boxes = np.array([[5, 5, 40, side]], np.float32)
    faces = Detections(boxes, np.zeros((1, 5, 2), np.float32), np.ones(1, np.float32))
    said = why(choose.pick_all, ground(60, 60), faces)
    assert said == f"face_too_small: {side} pixels: a face needs 16 at least"


def test_small_faces_beside_a_large_one_are_left_out(model, people):
    small, large = (people.images[1], 600, 20, 26), (people.images[0], 150, 100, 224)
    picture, faces = seen(YuNet(model, min_score=0.3), small, large, size=(350, 700))
    assert len(faces) == 2
    for pick in EVERY[:3]:
        assert pick(picture, faces).boxes[:, 2].tolist() == [faces.boxes[:, 2].max()]


def test_several_faces(detector, people):
    two = [(people.images[0], 20, 100, 224), (people.images[1], 400, 100, 224)]
    picture, faces = seen(detector, *two)
    assert len(choose.pick_all(picture, faces)) == 2
    for pick in (choose.pick_one, choose.pick_to_enrol):
        assert why(pick, picture, faces).startswith("several_faces: 2 faces, none stands out")
    assert len(choose.pick_most_prominent(picture, faces)) == 1  # where one is meant for sure
    picture, faces = seen(
        detector, (people.images[0], 20, 100, 200), (people.images[1], 390, 60, 300)
    )
    for pick in (choose.pick_one, choose.pick_to_enrol):
        assert pick(picture, faces).boxes[0, 0] > 400


def test_low_contrast(detector, people):
    face = (120 + people.images[0].astype(float) * 0.1).astype(np.uint8)
    picture, faces = seen(detector, (face, 0, 0, 224), size=(224, 224))
    picture = np.full_like(picture, 130)
    picture[:, :] = face
    faces = detector(people.images[0])  # the detector may well see it; where it is, is known
    assert why(choose.pick_to_enrol, picture, faces).startswith("low_quality: hardly any contrast")
    assert len(choose.pick_one(picture, faces)) == 1


def test_blurred(detector, people):
    face = cv2.GaussianBlur(people.images[0], (0, 0), 6)
    picture, faces = seen(detector, (face, 150, 100, 224))
    assert len(faces) == 1 and faces.scores[0] > 0.7
    assert why(choose.pick_to_enrol, picture, faces).startswith("low_quality: blurred")
    assert len(choose.pick_one(picture, faces)) == 1


def test_unsure(detector, model, people):
    """A face of which more and more is covered, from the left."""
    picture, _ = seen(detector, (people.images[0], 150, 100, 224))
    unsure = YuNet(model, min_score=0.2)
    left, _, width, _ = (int(v) for v in people.box[0] + [150, 100, 0, 0])
    for share in np.linspace(0.4, 0.7, 16):
        covered = picture.copy()
        covered[:, : left + int(width * share)] = 90
        faces = unsure(covered)
        if len(faces) == 1 and faces.scores[0] < 0.695 and faces.boxes[0, 2:].min() > 32:
            break
    else:
        pytest.fail("no cover makes the detector unsure")
    assert "the detector is not sure of the face (0." in why(choose.pick_to_enrol, covered, faces)
    assert len(choose.pick_one(covered, faces)) == 1
