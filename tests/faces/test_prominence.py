"""Which face is taken of a photograph of one person that shows several.

On photographs composed of LFW's faces: the one that is meant is large and off the middle, a smaller
one lies nearer to it, and one of the meant one's size is out of focus.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import squares
from PIL import Image

from metaface.cli import main
from metaface.data._sources import open_source
from metaface.experiments.protocols import align_people
from metaface.faces import choose
from metaface.faces.alignment import TEMPLATE
from metaface.faces.detect import YuNet
from metaface.faces.detections import Detections, overlaps
from metaface.faces.photos import read
from metaface.recognition import Gallery, Recognizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from portraits import find_portraits

Cut = tuple[np.ndarray, np.ndarray]
"""a head cut out of a photograph, and the box of its face in it"""


@pytest.fixture(scope="module")
def model(test_data) -> Path:
    return test_data("weights/yunet_n_640_640.onnx")


@pytest.fixture(scope="module")
def detector(model) -> YuNet:
    return YuNet(model)


@pytest.fixture(scope="module")
def lfw(test_data, detector) -> Iterator[Callable[[int], Cut | None]]:
    """``lfw(i)``: the head of photograph i, or None, if it does not show one face alone."""
    with open_source(test_data("lfw_deepfunneled.zip")) as source:

        def head(i: int) -> Cut | None:
            picture = read(partial(source.read, source.photos[i % len(source.photos)]))
            found = detector(picture)
            if len(found) != 1:
                return None
            (box,) = found.boxes
            middle, half = box[:2] + box[2:] / 2, 0.75 * box[2:].max()
            start = np.maximum(middle - half, 0).astype(int)
            end = np.minimum(middle + half, picture.shape[1::-1]).astype(int)
            cut = picture[start[1] : end[1], start[0] : end[0]]
            return cut, np.r_[box[:2] - start, box[2:]]

        yield head


def composed(random: np.random.Generator, lfw) -> tuple[np.ndarray, np.ndarray]:
    """A picture and the boxes ``[3, 4]`` of the meant face, the smaller and the blurred one."""
    heads: list[Cut] = []
    while len(heads) < 3:
        one = lfw(int(random.integers(2**31)))
        heads += [one] if one else []
    while True:
        height, width = (random.uniform(0.6, 1.2) * np.array([480, 640])).astype(int)
        ground = random.integers(60, 190, (5, 6, 3)).astype(np.uint8)
        picture = cv2.resize(ground, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
        side = random.uniform(0.22, 0.34) * height
        sides = side * np.array([1, random.uniform(0.4, 0.75), random.uniform(0.8, 1.25)])
        places = []
        for (cut, box), want in zip(heads, sides, strict=True):
            scale = want / np.sqrt(box[2] * box[3])
            size = np.maximum(8, np.round(np.array(cut.shape[1::-1]) * scale)).astype(int)
            start = (random.uniform(0, 1, 2) * (np.array([width, height]) - size)).astype(int)
            places.append((start, size, np.r_[start + box[:2] * scale, box[2:] * scale]))
        if all((start >= 0).all() for start, _, _ in places) and _fit(places, width, height):
            break
    for which, ((start, size, _), (cut, _)) in enumerate(zip(places, heads, strict=True)):
        way = cv2.INTER_AREA if size[0] < cut.shape[1] else cv2.INTER_CUBIC
        part = cv2.resize(cut, size.tolist(), interpolation=way)
        if which == 2:
            part = cv2.GaussianBlur(part, (0, 0), random.uniform(0.04, 0.08) * sides[2])
        picture[start[1] : start[1] + size[1], start[0] : start[0] + size[0]] = part
    return picture, np.stack([box for _, _, box in places]).astype(np.float32)


def _fit(places, width: int, height: int) -> bool:
    """Whether none lies over another, and the smaller face nearer to the middle."""
    for i, (a, size_a, _) in enumerate(places):
        if any((a < b + size_b).all() and (b < a + size_a).all() for b, size_b, _ in places[:i]):
            return False
    meant, smaller, _ = (
        abs(box[:2] + box[2:] / 2 - (width / 2, height / 2)).sum() for _, _, box in places
    )
    return bool(smaller < meant)


def is_face(box, true) -> bool:
    return float(overlaps(np.array(box)[None], np.array(true)[None])[0, 0]) > 0.4


def nearest_the_middle(picture: np.ndarray, faces: Detections) -> Detections:
    """The rule before."""
    centre = np.array(picture.shape[1::-1]) / 2
    away = np.abs(faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - centre).sum(1)
    return faces[[int(away.argmin())]]


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 10), *(pytest.param(s, 200, marks=pytest.mark.slow) for s in (1, 2))]
)
def test_the_face_that_is_meant_is_taken(lfw, detector, seed, count):
    random = np.random.default_rng([seed, 14])
    right = before = unsure = wrong = 0
    for _ in range(count):
        picture, (true, *_) = composed(random, lfw)
        found = detector(picture)
        face, clear = choose.pick_prominent(picture, found)
        right += is_face(face.boxes[0], true)
        before += is_face(nearest_the_middle(picture, found).boxes[0], true)
        unsure += not clear
        wrong += clear and not is_face(face.boxes[0], true)
    assert right >= 0.99 * count and wrong == 0
    assert before < 0.2 * count  # or the pictures would show nothing
    assert unsure < 0.4 * count


@pytest.fixture(scope="module")
def albums(lfw, detector, tmp_path_factory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three composed photographs, of which every way to choose is sure; by path."""
    top, made, seed = tmp_path_factory.mktemp("composed") / "people", {}, 0
    while len(made) < 3:
        seed += 1
        picture, (true, *_) = composed(np.random.default_rng([seed, 15]), lfw)
        if choose.pick_prominent(picture, detector(picture))[1]:
            path = top / f"person {len(made)}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(picture).save(path)
            made[str(path)] = picture, true
    return made


def crop_of(picture: np.ndarray, true: np.ndarray, detector: YuNet) -> np.ndarray:
    found = detector(picture)
    (row,) = np.flatnonzero([is_face(box, true) for box in found.boxes])
    return choose.crop_faces(picture, found[row : row + 1], detector)[0]


def test_data_sets_and_align_take_the_face_that_is_meant(albums, detector, model, tmp_path, capsys):
    top = Path(next(iter(albums))).parents[1]
    people = align_people(top, detector, squares(), progress=False)
    assert people.several == 3
    wanted = [crop_of(*made, detector) for made in albums.values()]
    assert np.array_equal(people.crops, wanted)
    learnt = find_portraits(top, YuNet(model, min_score=0.3), progress=False)
    for box, (_, true) in zip(learnt.boxes, albums.values(), strict=True):
        assert is_face(box, true)
    options = ["--out", str(tmp_path / "out"), "--models", str(model.parent), "--quiet"]
    assert main(["align", str(top), *options]) == 0
    assert "3 of them show several faces: the most prominent was taken" in capsys.readouterr().out
    cut = [np.array(Image.open(path)) for path in sorted((tmp_path / "out").rglob("*.png"))]
    assert np.array_equal(cut, wanted)


def test_enrolment_and_verify_say_which_face_they_took(albums, detector):
    embedder = squares()
    kept = Gallery(
        model=embedder.digest, model_name=embedder.name, dim=embedder.dim, keep_crops=True
    )
    people = Recognizer(detector, embedder, kept)
    for (path, (_, true)), one in zip(
        albums.items(),
        people.enroll_all(Path(next(iter(albums))).parents[1], progress=False),
        strict=True,
    ):
        assert one.used == 1 and not one.skipped
        (taken,) = one.several
        assert taken.others == 2 and path.endswith(taken.path) and is_face(taken.box, true)
        assert f"{taken.path}: of 3 faces the one of " in str(taken)
    wanted = [crop_of(*made, detector) for made in albums.values()]
    assert np.array_equal(kept.crops(), wanted)
    first, second = list(albums)[:2]
    answer = people.verify(first, second)
    assert [one.path for one in answer.several] == [first, second]
    alone = wanted[0].repeat(3, 0).repeat(3, 1)
    assert people.verify(alone, alone).several == ()


def test_the_commands_say_which_face_they_took(albums, model, tmp_path, capsys):
    gallery = ["--gallery", str(tmp_path / "g"), "--models", str(model.parent), "--quiet"]
    first, second = list(albums)[:2]
    if main(["enroll", "Ana", first, *gallery]) == 2:
        pytest.skip(capsys.readouterr().err)  # no embedding model
    assert f"Ana: {first}: of 3 faces the one of " in capsys.readouterr().err
    assert main(["verify", first, second, "--json", *gallery]) == 0
    said, told = capsys.readouterr()
    assert [one["path"] for one in json.loads(said)["several"]] == [first, second]
    assert told.count(": of 3 faces the one of ") == 2


def test_photographs_that_cannot_be_told_are_not_enrolled_and_align_says_so(
    lfw, detector, model, tmp_path, capsys
):
    """Twice the same head, as large, as sharp and as far from the middle."""
    heads = (lfw(i) for i in range(100))
    cut, _ = next(one for one in heads if one and len(detector(np.hstack([one[0]] * 2))) == 2)
    path = tmp_path / "in" / "Ana" / "two.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.hstack([cut, cut])).save(path)
    with pytest.raises(ValueError, match="several_faces: 2 faces, none stands out: crop it"):
        Recognizer(detector, squares()).enroll("Ana", path)
    options = ["--out", str(tmp_path / "out"), "--models", str(model.parent), "--quiet"]
    assert main(["align", str(tmp_path / "in"), *options]) == 0
    told = capsys.readouterr().err
    assert "two.png: of 2 faces the one of " in told and "another stands out as much" in told


# --- one by one


def stripes(height: int, width: int) -> np.ndarray:
    """A picture that is as sharp everywhere."""
    row, column = np.mgrid[:height, :width]
    grey = 128 + 60 * np.sin(row / 1.5) * np.sin(column / 1.5)
    grey += 50 * np.sin(row / 9) * np.sin(column / 9)
    return grey[..., None].repeat(3, 2).astype(np.uint8)


def found(*rows: tuple[float, float, float, float]) -> Detections:
    """Faces of (x and y of the middle, side, score)."""
    x, y, side, score = np.array(rows, np.float32).T
    boxes = np.stack([x - side / 2, y - side / 2, side, side], 1)
    points = boxes[:, None, :2] + TEMPLATE / 112 * side[:, None, None]
    return Detections(boxes, points.astype(np.float32), score)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((200, 200, 60, 0.9), (200, 200, 40, 0.9)),
        ((200, 200, 60, 0.9), (200, 200, 60, 0.7)),
        ((200, 200, 60, 0.9), (330, 330, 60, 0.9)),
        ((320, 200, 80, 0.9), (400, 200, 80, 0.9)),
        ((320, 200, 110, 0.9), (200, 200, 70, 0.9)),
        ((200, 200, 50, 0.9), (200, 200, 70, 0.62)),
    ],
    ids=["size", "score", "place", "cut by the border", "size before place", "score before size"],
)
def test_what_a_face_stands_out_by(better, worse):
    picture = stripes(400, 400)
    for faces, best in ((found(better, worse), 0), (found(worse, better), 1)):
        assert choose.measure_prominence(picture, faces).argmax() == best
        assert choose.pick_most_prominent(picture, faces).boxes.tolist() == [
            faces.boxes[best].tolist()
        ]


def test_a_blurred_face_stands_out_less():
    picture = stripes(400, 400)
    picture[:, 200:] = cv2.GaussianBlur(picture, (0, 0), 6)[:, 200:]
    sharp, blurred = choose.measure_prominence(
        picture, found((100, 200, 60, 0.9), (300, 200, 60, 0.9))
    )
    assert sharp > 2 * blurred
    # a dark face of little contrast is as sharp as a bright one
    (faint,) = choose.measure_prominence(stripes(400, 400) // 2, found((100, 200, 60, 0.9)))
    assert faint == pytest.approx(sharp)


def test_the_order_of_faces_and_the_size_of_the_picture_do_not_matter():
    faces = found((100, 150, 80, 0.9), (250, 200, 60, 0.94), (390, 20, 90, 0.8))
    picture = stripes(400, 400)
    values = choose.measure_prominence(picture, faces)
    turned = choose.measure_prominence(picture, faces[::-1])
    assert np.array_equal(turned[::-1], values)
    double = Detections(faces.boxes * 2, faces.landmarks * 2, faces.scores)
    large = cv2.resize(picture, (800, 800), interpolation=cv2.INTER_CUBIC)
    assert choose.measure_prominence(large, double) == pytest.approx(2 * values, rel=0.05)


def test_boxes_without_an_area_inside_the_picture_stand_out_least():
    faces = found((-300, -300, 80, 0.99), (200, 200, 20, 0.6), (900, 200, 80, 0.99))
    face, clear = choose.pick_prominent(stripes(400, 400), faces)
    assert face.scores[0] == np.float32(0.6) and clear
