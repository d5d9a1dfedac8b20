"""Composed scenes: exact labels, the same from the same seed, and plausible settings."""

from dataclasses import fields, replace

import numpy as np
import pytest

from metaface.faces.alignment import TEMPLATE, fit_similarity
from metaface.multitask import ATTRIBUTES, EXPRESSIONS, FaceAnnotations, FaceSprites, compose
from metaface.multitask import _backdrop as backdrop
from metaface.multitask.sprites import PHOTOS, TEMPLATE_BOX
from metaface.report import draw_annotations
from metaface.synthetic import render

SKIN, DOTS = (200, 60, 60), ((0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


@pytest.fixture(scope="module")
def pool():
    return FaceSprites.procedural(range(3, 15), 4, 64, seed=2)


@pytest.fixture(scope="module")
def scenes(pool):
    return compose(pool, 80, seed=1)


def drawn(turned=0.0, size=96):
    """A pool of one: a red oval with a dot of its own colour on each landmark, known exactly."""
    y, x = np.mgrid[:size, :size] + 0.5
    image = np.full((size, size, 3), 30, np.uint8)
    points = np.array([[38, 40], [58, 40], [48, 52], [41, 62], [55, 62]], np.float32)
    face = np.hypot((x - 48) / 24, (y - 50) / 30) < 1
    image[face] = SKIN
    for (px, py), colour in zip(points, DOTS, strict=True):
        image[np.hypot(x - px, y - py) < 3.5] = colour
    layers = (255 * np.stack([face, face, face], -1)).astype(np.uint8)
    return FaceSprites(
        images=image[None],
        layers=layers[None],
        outlined=np.array([True]),
        landmarks=points[None],
        pose=np.array([[20, 5, turned]], np.float32),
        person=np.array([0]),
        expression=np.array([1]),
        attributes=np.zeros((1, len(ATTRIBUTES)), np.float32),
        people=("oval",),
    )


@pytest.fixture()
def plain(monkeypatch):
    """A grey world that is seen as it is."""
    monkeypatch.setattr(backdrop, "draw_background", lambda _, n: np.full((n, n, 3), 128, np.uint8))
    monkeypatch.setattr(backdrop, "draw_things", lambda *_: None)
    monkeypatch.setattr(backdrop, "photograph", lambda _, scene: scene)
    monkeypatch.setattr("metaface.multitask.scenes._paste_back", lambda *_: None)


@pytest.mark.parametrize("side", [(20, 40), (60, 110)])
def test_labels_are_where_the_pixels_are(plain, monkeypatch, side):
    nothing = np.zeros((128, 128), np.uint8)
    monkeypatch.setattr(
        backdrop, "draw_object_before", lambda *_: (nothing, np.zeros((128, 128, 3), np.uint8))
    )
    found = compose(drawn(), 40, faces=(1, 1), side=side, seed=3)
    assert (found.image == np.arange(40)).all()
    y, x = np.mgrid[:128, :128] + 0.5
    seen = np.abs(found.images.astype(int) - 128).max(-1) > 40  # all that is not the background
    checked = 0
    for i in range(40):
        rows, columns = np.flatnonzero(seen[i].any(1)), np.flatnonzero(seen[i].any(0))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        box = np.r_[found.boxes[i, :2], found.boxes[i, :2] + found.boxes[i, 2:]]
        np.testing.assert_allclose(box, extent, atol=1.01)
        assert (seen[i] != (found.masks[i] == 1)).mean() < 0.01
        points = found.landmarks[i]
        near = {
            k: np.abs(found.images[i].astype(int) - c).sum(-1) < 130 for k, c in enumerate(DOTS)
        }
        if not (near[0].any() and near[1].any()):
            continue  # an eye is outside
        # in a mirror, what was the eye to the right is to the left
        mirrored = x[near[0]].mean() > x[near[1]].mean()
        order = [1, 0, 2, 4, 3] if mirrored else range(5)
        for mark, colour in enumerate(order):
            if near[colour].sum() >= 4 and (points[mark] > 6).all() and (points[mark] < 122).all():
                centre = x[near[colour]].mean(), y[near[colour]].mean()
                np.testing.assert_allclose(points[mark], centre, atol=0.6)
                checked += 1
        across = points[1] - points[0]
        angle = np.degrees(np.arctan2(across[1], across[0]))
        np.testing.assert_allclose(found.pose[i], [-20 if mirrored else 20, 5, angle], atol=0.01)
    assert checked > 120


def test_a_turned_face_stays_turned_in_a_mirror(plain):
    found = compose(drawn(turned=10), 60, faces=(1, 1), seed=4)
    across = found.landmarks[:, 1] - found.landmarks[:, 0]
    angle = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    side = np.where(found.pose[:, 0] > 0, 1, -1)  # -1: mirrored
    np.testing.assert_allclose(found.pose[:, 2] - angle, 10 * side, atol=0.01)
    assert 15 < (side < 0).sum() < 45 and angle.std() > 4


def test_faces_cover_each_other_a_little_at_most(plain):
    found = compose(drawn(), 120, faces=(2, 3), side=(40, 60), seed=5)
    assert (np.bincount(found.image) <= 3).all()
    covered = 0
    for i in range(120):
        boxes = found.boxes[found.image == i]
        whole = (np.pi / 4 * boxes[:, 2] * boxes[:, 3]).sum()  # what ovals fill of their boxes
        covered += (found.masks[i] == 1).sum() < 0.97 * whole
        assert (found.masks[i] == 1).sum() > 0.6 * whole
    assert covered > 5


def test_procedural_scenes_are_truthful(pool, scenes):
    assert scenes.images.shape == (80, 128, 128, 3) and scenes.images.dtype == np.uint8
    count = np.bincount(scenes.image, minlength=80)
    assert count.min() >= 1 and count.max() == 3 and scenes.complete.all()
    assert scenes.people == tuple(f"synthetic/{i}" for i in range(3, 15))
    assert scenes.expressions == EXPRESSIONS and scenes.attribute_names == ATTRIBUTES
    long = scenes.boxes[:, 2:].max(1)
    assert long.min() > 0.7 * 24 and long.max() < 1.1 * 96
    assert set(np.unique(scenes.masks)) == {0, 1}
    inside = 0
    for box, image in zip(scenes.boxes.round().astype(int), scenes.image, strict=True):
        left, top, width, height = box
        inside += (scenes.masks[image][top : top + height, left : left + width] == 1).sum()
    assert inside >= (scenes.masks == 1).sum()  # no face outside of the boxes
    assert np.isfinite(scenes.landmarks).all() and np.isfinite(scenes.pose).all()
    ahead = np.abs(scenes.pose[:, 0]) > 15  # the nose is where the face looks
    across = scenes.landmarks[:, 1] - scenes.landmarks[:, 0]
    nose = scenes.landmarks[:, 2] - scenes.landmarks[:, :2].mean(1)
    assert ((nose * across).sum(1)[ahead] * scenes.pose[ahead, 0] > 0).mean() > 0.95


def test_attributes_and_expressions_follow_the_renders():
    dials = replace(PHOTOS, mask=0.3, eye_closure=0.4)
    r = render([5, 7], 40, 32, {"scene": dials}, 1)
    pool = FaceSprites.procedural([5, 7], 40, 32, 1, dials)
    masked, closed = r.attributes["mask"], r.attributes["eye_closure"] >= 0.75
    assert masked.any() and closed.any()
    assert (pool.expression[masked] == -1).all()
    assert ((pool.expression == 3) == (closed & ~masked)).all()
    assert set(pool.expression) == {-1, 0, 1, 2, 3}
    smiling = pool.expression == 1
    assert (r.attributes["smile"][smiling] >= 0.25).all()
    assert (r.attributes["mouth_open"][smiling] < 0.3).all()
    for column, name in enumerate(ATTRIBUTES):
        np.testing.assert_array_equal(pool.attributes[:, column], r.attributes[name])


def test_layers_agree_with_the_picture():
    r = render(6, 3, 64, {"scene": PHOTOS}, layers=True)
    bare = r.layers[..., 1] >= 128
    for face, box in zip(bare, r.box, strict=True):
        rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
        extent = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        np.testing.assert_allclose(box, extent, atol=1)
    assert (r.mask <= bare).mean() > 0.999
    assert ((r.layers[..., 0] >= 128) | ~r.mask).all()
    assert not (r.layers[:, :4, :4, 0]).any()  # corners are background
    assert len(render(1, 1, 32).layers) == 0


def same(a, b):
    for field in fields(FaceAnnotations):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


def test_a_scene_depends_on_its_number_alone(pool, scenes):
    same(compose(pool, 80, seed=1), scenes)
    some = compose(pool, 5, seed=1, first=40)
    same(some, scenes.take(np.arange(40, 45)))
    assert (compose(pool, 5, seed=2, first=40).images != some.images).any((1, 2, 3)).all()
    assert len(np.unique(scenes.images.reshape(80, -1), axis=0)) == 80


def test_scenes_without_faces(pool):
    found = compose(pool, 60, faces=(0, 1), seed=3)
    empty = np.bincount(found.image, minlength=60) == 0
    assert 10 < empty.sum() < 50 and found.complete.all() and not found.masks[empty].any()
    nobody = compose(pool, 4, faces=(0, 0))
    assert len(nobody.image) == 0 and nobody.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0"),
        ({"first": -1}, "first=-1"),
        ({"faces": (3, 1)}, "faces=.3, 1."),
        ({"side": (4, 50)}, "side=.4, 50."),
        ({"side": (30, 200)}, "<= 128"),
    ],
)
def test_settings_out_of_range(pool, settings, message):
    with pytest.raises(ValueError, match=message):
        compose(pool, **{"n": 2, **settings})


def test_the_template_box_is_that_of_procedural_people():
    frontal = render(300, 1, 112, {"a": replace(PHOTOS, yaw=(0, 6), pitch=4, roll=3, shift=0)})
    matrix = fit_similarity(frontal.landmarks)
    corners = np.stack([frontal.box[:, :2], frontal.box[:, :2] + frontal.box[:, 2:]], 1)
    moved = np.einsum("nij,nkj->nki", matrix[:, :, :2], corners) + matrix[:, None, :, 2]
    left, top, width, height = TEMPLATE_BOX
    want = [left, top, left + width, top + height]
    np.testing.assert_allclose(np.median(moved.reshape(-1, 4), 0), want, atol=4)


def test_aligned_crops():
    images = np.full((4, 112, 112, 3), 90, np.uint8)
    person = np.array([0, 1, 1, -1])
    crops = FaceSprites.from_aligned(images, person, ["Ana", "Bo"])
    found = compose(crops, 30, faces=(1, 2), side=(60, 90), seed=1)
    assert np.isnan(found.pose).all() and np.isnan(found.attributes).all()
    assert (found.expression == -1).all() and set(found.person) == {-1, 0, 1}
    assert set(np.unique(found.masks)) == {0, 255}
    # the similarity that takes the landmarks to the template takes the box to the template's
    for box, points, image in zip(found.boxes, found.landmarks, found.image, strict=True):
        matrix = fit_similarity(points[None])[0]
        scale = np.hypot(*matrix[0, :2])
        spread = np.abs(points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE).max()
        assert spread < 2.5  # the template is nearly the same in a mirror
        inside = (box[:2] > 1).all() and (box[:2] + box[2:] < 127).all()
        if inside and abs(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))) < 5:
            middle = matrix[:, :2] @ (box[:2] + box[2:] / 2) + matrix[:, 2]
            want = np.array(TEMPLATE_BOX[:2]) + np.array(TEMPLATE_BOX[2:]) / 2
            np.testing.assert_allclose(middle, want, atol=3)
            np.testing.assert_allclose(scale * box[2:], TEMPLATE_BOX[2:], rtol=0.08)
        assert (found.masks[image] == 255).any()


def test_pools_join(pool):
    crops = FaceSprites.from_aligned(
        np.zeros((2, 112, 112, 3), np.uint8), np.array([0, -1]), ["Ana"]
    )
    with pytest.raises(ValueError, match="give all one image_size"):
        FaceSprites.join([pool, crops])
    other = FaceSprites.procedural([40], 1, 136)
    both = FaceSprites.join([other, crops])
    assert both.people == ("synthetic/40", "Ana") and both.person.tolist() == [0, 1, -1]
    assert set(np.unique(compose(both, 20).masks)) == {0, 1, 255}
    with pytest.raises(ValueError, match="'Ana' is in two sets"):
        FaceSprites.join([crops, crops])
    with pytest.raises(ValueError, match="no sprites"):
        FaceSprites.join([])


def test_crops_that_are_none():
    good = np.zeros((2, 112, 112, 3), np.uint8)
    with pytest.raises(ValueError, match="align the photographs"):
        FaceSprites.from_aligned(good[:, :100], np.zeros(2, int), ["Ana"])
    with pytest.raises(ValueError, match="index into 1 people"):
        FaceSprites.from_aligned(good, np.array([0, 1]), ["Ana"])


def test_sheet(scenes):
    shown = draw_annotations(vars(scenes.take(np.arange(5))), 3, scale=2)
    assert shown.shape == (2 * 256, 3 * 256, 3) and not shown[256:, 512:].any()
    left, top = (2 * scenes.boxes[0, :2]).astype(int)
    assert (shown[top, left] == (255, 230, 0)).all()
