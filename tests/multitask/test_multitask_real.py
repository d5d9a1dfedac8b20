"""Real photographs in scenes: what is pasted lies where its labels say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import Row, group, portrait

from metaface.faces.detect import YuNet
from metaface.faces.detections import overlaps
from metaface.multitask import FaceSprites, compose

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from portraits import Portraits, align_faces, constant_box, find_portraits


def marked(sides: tuple[tuple[int, int], ...] = ((120, 90), (200, 240))) -> Portraits:
    """Grey photographs with a bright box as the face, and a dark spot at its first landmark."""
    images, boxes, points = [], [], []
    for height, width in sides:
        picture = np.full((height, width, 3), 60, np.uint8)
        left, top, wide, tall = width // 4, height // 4, width // 3, height // 2
        picture[top : top + tall, left : left + wide] = 220
        spot = np.array([left + wide // 3, top + tall // 3])
        picture[spot[1] - 2 : spot[1] + 2, spot[0] - 2 : spot[0] + 2] = 0
        images.append(picture)
        boxes.append([left, top, wide, tall])
        points.append([spot, *[spot + 5 * k for k in range(1, 5)]])
    m = len(sides)
    return Portraits(
        images=tuple(images),
        boxes=np.array(boxes, np.float32),
        landmarks=np.array(points, np.float32),
        alone=np.ones(m, bool),
        person=np.arange(m),
        people=tuple(f"marked/{i}" for i in range(m)),
        name="marked",
    )


def extent(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1], np.float64)


@pytest.mark.parametrize("size", [96, 201])
def test_pixels_box_and_landmarks_are_cut_out_together(size: int) -> None:
    pool = marked().cut_out(size, sharp=True)
    for picture, layers, points in zip(pool.images, pool.layers, pool.landmarks, strict=True):
        seen = extent(picture[..., 0] > 140)  # the bright box
        assert np.abs(extent(layers[..., 1] >= 128) - seen).max() <= 1.5
        assert seen[2:].max() == pytest.approx(size / 2, abs=1.5)
        ys, xs = np.nonzero(picture[..., 0] < 30)
        assert np.hypot(xs.mean() + 0.5 - points[0, 0], ys.mean() + 0.5 - points[0, 1]) < 0.7


def test_what_a_photograph_does_not_show_is_not_pasted() -> None:
    one = marked(((120, 90),))  # face 60 long: the square reaches 15 to 30 pixels beyond the sides
    sharp, soft = (one.cut_out(120, sharp=s).layers[0, ..., 0].astype(int) for s in (True, False))
    left, top, width, height = extent(sharp >= 128)
    x, y, w, h = one.boxes[0]
    assert left == pytest.approx(60 - (x + w / 2), abs=1) and width == pytest.approx(90, abs=1)
    assert top == pytest.approx(60 - (y + h / 2), abs=1) and height == pytest.approx(117, abs=4)
    assert (soft <= sharp).all() and ((soft > 10) & (soft < 245)).mean() > 0
    assert soft[60, 60] == 255 == sharp[60, 60]
    for layer in (soft, sharp):
        assert not layer[0].any() and not layer[-3:].any()
        assert not layer[:, 0].any() and not layer[:, -1].any()


def test_composed_upright_a_box_is_the_detectors() -> None:
    pool = marked().cut_out(160, sharp=True)
    scenes = compose(pool, 40, faces=(1, 1), side=(30, 100), turn=0, seed=3)
    assert len(scenes.image) == 40
    shape = marked().boxes[:, 2] / marked().boxes[:, 3]
    whole = (scenes.boxes[:, :2] > 0).all(1) & (
        scenes.boxes[:, :2] + scenes.boxes[:, 2:] < 128
    ).all(1)
    assert whole.sum() > 10
    ratio = scenes.boxes[:, 2] / scenes.boxes[:, 3]
    assert np.abs(ratio - shape[scenes.person])[whole].max() < 0.06
    assert (scenes.boxes[whole, 2:].max(1) >= 28).all()
    turned = compose(pool, 40, faces=(1, 1), side=(30, 100), seed=3)
    assert (scenes.pose[:, 2] != scenes.pose[:, 2]).all()  # unknown stays unknown
    assert (np.abs(turned.landmarks - scenes.landmarks).max((1, 2)) > 1).any()
    with pytest.raises(ValueError, match="turn=-1"):
        compose(pool, 1, turn=-1)


def test_real_and_procedural_people_are_in_one_pool() -> None:
    both = FaceSprites.join([FaceSprites.procedural(2, 2, 96), marked().cut_out(96)])
    scenes = compose(both, 30, faces=(1, 1), seed=0)
    real = scenes.person >= 2
    assert real.any() and not real.all()
    assert np.isnan(scenes.pose[real]).all() and not np.isnan(scenes.pose[~real]).any()


def test_the_constant_box_is_the_best_of_all_and_measured_as_any_other() -> None:
    scenes = compose(marked().cut_out(96), 30, faces=(1, 1), seed=1)
    box, ap = constant_box(scenes)
    hits = [(overlaps(b[None], scenes.boxes) >= 0.5).mean() for b in scenes.boxes]
    assert ap == pytest.approx(max(hits) ** 2)  # of equal scores: precision times recall
    assert box.tolist() in scenes.boxes.tolist()
    with pytest.raises(ValueError, match="no box"):
        constant_box(replace(scenes, complete=np.zeros(30, bool)))


def folder_of(top: Path) -> Path:
    """Ana has three photographs, with Ben in the last; Ben two, Cy one, and Dot none of a face."""
    shots = {
        "Ana": [portrait(1), portrait(1, 1), group(portrait(1, 2), portrait(2, 5))],
        "Ben": [portrait(2), portrait(2, 1)],
        "Cy": [portrait(3)],
        "Dot": [np.full((112, 112, 3), 90, np.uint8)] * 2,
    }
    for name, pictures in shots.items():
        (top / name).mkdir()
        for i, picture in enumerate(pictures):
            cv2.imwrite(str(top / name / f"{i}.png"), picture[..., ::-1])
    return top


def test_portraits_are_the_photographs_with_a_face(tmp_path: Path) -> None:
    source = folder_of(tmp_path)
    found = find_portraits(source, Row(), progress=False)
    assert found.people == tuple(f"{tmp_path.name}/{n}" for n in ("Ana", "Ben", "Cy"))
    assert found.person.tolist() == [0, 0, 0, 1, 1, 2]
    assert found.alone.tolist() == [True, True, False, True, True, True]
    assert (found.boxes[0] == [0, 0, 112, 112]).all()
    assert len(found.take(found.alone)) == 5
    two = find_portraits(source, Row(), photos=(2, 2), progress=False)
    assert two.people == (f"{tmp_path.name}/Ben",) and two.person.tolist() == [0, 0]
    assert len(find_portraits(source, Row(), photos=(1, 3), limit=3, progress=False)) <= 3
    assert np.abs(found.align().images[0].astype(int) - portrait(1)).mean() < 1  # aligned already
    assert found.align(32).image_shape == (3, 32, 32)
    with pytest.raises(ValueError, match="none of|no face in any"):
        find_portraits(source, Row(), photos=(9, 9), progress=False)
    with pytest.raises(FileNotFoundError):
        find_portraits(tmp_path / "missing.zip", Row())


def test_aligned_faces_of_a_pool_are_people() -> None:
    pool = FaceSprites.procedural(3, 2, 96)
    faces = align_faces(
        list(pool.images), pool.landmarks, pool.person, pool.people, "synthetic", 48
    )
    assert len(faces) == 6 and faces.image_shape == (3, 48, 48)
    assert faces.people == pool.people


def test_yunet_finds_pasted_faces_where_they_are_said_to_be(
    test_data: Callable[[str], Path],
) -> None:
    yunet = YuNet(test_data("weights/yunet_n_640_640.onnx"), 0.3)
    found = find_portraits(test_data("att_faces.zip"), yunet, limit=30, progress=False)
    assert len(found) > 20
    pool = found.take(found.alone).cut_out(200)
    scenes = compose(pool, 30, faces=(1, 1), side=(60, 100), turn=0, seed=2)
    ious = []
    for i, picture in enumerate(scenes.images):
        boxes = yunet(cv2.resize(picture, (384, 384), interpolation=cv2.INTER_CUBIC)).boxes / 3
        ious.append(overlaps(scenes.boxes[i : i + 1], boxes).max(initial=0))
    assert np.median(ious) > 0.75
