"""Labelled pictures: bad labels are refused, labels move with the pixels, foreign sets are read."""

import re
import zipfile
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metaface.multitask import (
    FaceAnnotations,
    FaceSprites,
    augment,
    compose,
    load_celeba,
    load_wider,
    mirror,
    zoom_and_shift,
)

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
POINTS = np.array([[40, 40], [56, 42], [47, 52], [41, 62], [54, 63]], np.float32)


def labelled(n=2, height=96, width=96, **changes):
    """n pictures of one face each: a dot of its own colour on each landmark."""
    images = np.full((n, height, width, 3), 114, np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((n, height, width), np.uint8)
    masks[:, 35:70, 35:62] = 1
    images[:, 35:70, 35:62] = 20
    for (px, py), colour in zip(POINTS, COLOURS, strict=True):
        images[:, np.hypot(x - px, y - py) < 3.2] = colour
    values = {
        "images": images,
        "image": np.arange(n),
        "boxes": np.tile(np.array([[35, 35, 27, 35]], np.float32), (n, 1)),
        "landmarks": np.tile(POINTS, (n, 1, 1)),
        "pose": np.tile(np.array([[10, 3, -4]], np.float32), (n, 1)),
        "person": np.arange(n) % 2,
        "expression": np.zeros(n, np.int64),
        "attributes": np.tile(np.array([[1, 0]], np.float32), (n, 1)),
        "masks": masks,
        "complete": np.ones(n, bool),
        "people": ("Ana", "Bo"),
        "expressions": ("calm",),
        "attribute_names": ("hat", "tie"),
        "name": "dots",
    }
    return FaceAnnotations(**{**values, **changes})


def unlabelled(n=2):
    nothing = labelled(n)
    return {
        "boxes": np.full_like(nothing.boxes, np.nan),
        "landmarks": np.full_like(nothing.landmarks, np.nan),
        "pose": np.full_like(nothing.pose, np.nan),
        "person": np.full(n, -1),
        "expression": np.full(n, -1),
        "attributes": np.full_like(nothing.attributes, np.nan),
        "masks": np.full_like(nothing.masks, 255),
        "complete": np.zeros(n, bool),
    }


def same(a, b):
    for field in fields(FaceAnnotations):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right, field.name)
        else:
            assert left == right


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"landmarks": np.zeros((2, 4, 2), np.float32)},
            "landmarks are [2, 4, 2], must be [2, 5, 2]",
        ),
        ({"landmarks": np.zeros((2, 10), np.float32)}, "landmarks are [2, 10]"),
        ({"boxes": np.float32([[1, 1, 5, 5], [60, 1, 50, 5]])}, "face 1 in picture 1 has the box"),
        ({"boxes": np.float32([[-3, 1, 5, 5], [6, 1, 5, 5]])}, "not inside 96x96"),
        ({"boxes": np.float32([[3, 1, 0, 5], [6, 1, 5, 5]])}, "which is empty"),
        ({"boxes": np.zeros((1, 4), np.float32)}, "boxes is [1, 4], must be [2, 4]"),
        ({"masks": np.zeros((2, 9, 9), np.uint8)}, "masks is [2, 9, 9]"),
        ({"person": np.array([0, 2])}, "face 1 has person 2 of 2"),
        ({"expression": np.array([-2, 0])}, "face 0 has expression -2 of 1"),
        ({"image": np.array([1, 0])}, "image must ascend within 0..1"),
        ({"image": np.array([0, 2])}, "image must ascend within 0..1"),
        (unlabelled(), "picture 0 has no label of any task: leave it out"),
        ({**unlabelled(), "complete": np.array([True, False])}, "picture 1 has no label"),
    ],
)
def test_bad_labels_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        labelled(**changes)


@pytest.mark.parametrize("label", list(unlabelled()))
def test_any_one_label_is_enough(label):
    changes = unlabelled()
    del changes[label]
    assert labelled(**changes).find_labelled().all()


def test_take():
    many = labelled(4, image=np.array([0, 0, 2, 3]))
    some = many.take(np.array([3, 0, 1, 0]))
    assert some.image.tolist() == [0, 1, 1, 3, 3]
    assert some.person.tolist() == [1, 0, 1, 0, 1]
    same(many.take(np.arange(4)), many)


def test_join_joins_names_and_makes_nothing_up():
    other = labelled(
        1,
        people=("Bo", "Cy"),
        person=np.array([1]),
        expressions=("glad", "calm"),
        attribute_names=("tie", "ring"),
        attributes=np.array([[1, 0]], np.float32),
        name="more",
    )
    both = FaceAnnotations.join([labelled(3, person=np.array([-1, 0, 1])), other])
    assert both.people == ("Ana", "Bo", "Cy") and both.person.tolist() == [-1, 0, 1, 2]
    assert both.expressions == ("calm", "glad") and both.expression.tolist() == [0, 0, 0, 1]
    assert both.attribute_names == ("hat", "tie", "ring")
    want = [[1, 0, np.nan]] * 3 + [[np.nan, 1, 0]]
    np.testing.assert_array_equal(both.attributes, want)
    assert both.image.tolist() == [0, 1, 2, 3] and both.name == "dots+more"
    same(FaceAnnotations.join([labelled()]), labelled())
    nameless = labelled(1, people=(), person=np.array([-1]))
    assert FaceAnnotations.join([nameless, labelled()]).person.tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match="no sets"):
        FaceAnnotations.join([])
    with pytest.raises(ValueError, match="bring them to one size"):
        FaceAnnotations.join([labelled(), labelled(height=100)])


# --- augmentation ---------------------------------------------------------------------------------


def dots(image):
    """Where the middles of the five dots are; NaN: not there whole enough."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    found = np.full((5, 2), np.nan)
    for k, colour in enumerate(COLOURS):
        near = np.abs(image.astype(int) - colour).sum(-1) < 100
        if near.sum() >= 8:
            found[k] = x[near].mean(), y[near].mean()
    return found


def test_mirrored_twice_is_nothing_and_once_swaps():
    faces = labelled(3)
    once = mirror(faces)
    same(mirror(once), faces)
    np.testing.assert_array_equal(once.pose, np.tile(np.float32([-10, 3, 4]), (3, 1)))
    assert (once.landmarks[:, 0, 0] < once.landmarks[:, 1, 0]).all()  # from left to right again
    assert (once.landmarks[:, 3, 0] < once.landmarks[:, 4, 0]).all()
    np.testing.assert_allclose(once.landmarks[0], dots(once.images[0])[[1, 0, 2, 4, 3]], atol=0.3)
    left, top, width, height = once.boxes[0].astype(int)
    assert once.masks[0, top : top + height, left : left + width].all()
    half = mirror(faces, np.array([False, True, False]))
    same(half.take(np.array([0, 2])), faces.take(np.array([0, 2])))
    same(half.take(np.array([1])), once.take(np.array([1])))


def check_against_pixels(changed, at_least):
    checked = 0
    for face, i in enumerate(changed.image):
        seen = dots(changed.images[i])
        points = changed.landmarks[face]
        if np.isnan(seen[:2]).any():
            continue
        order = [1, 0, 2, 4, 3] if seen[0, 0] > seen[1, 0] else range(5)
        height, width = changed.images.shape[1:3]
        for point, dot in zip(points, seen[order], strict=True):
            if (
                not np.isnan(dot).any()
                and (point > 6).all()
                and (point < (width - 6, height - 6)).all()
            ):
                np.testing.assert_allclose(point, dot, atol=0.5)
                checked += 1
        left, top, wide, tall = changed.boxes[face]
        rows, columns = changed.masks[i].any(1).nonzero()[0], changed.masks[i].any(0).nonzero()[0]
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose([left, top, left + wide, top + tall], extent, atol=1.01)
    assert checked >= at_least


def test_moved_labels_are_where_the_pixels_are():
    random = np.random.default_rng(2)
    n = 60
    zoom, shift = np.exp(random.uniform(-0.7, 0.6, n)), random.uniform(-50, 50, (n, 2))
    changed = zoom_and_shift(labelled(n), zoom, shift)
    assert len(changed.image) < n  # some have left
    check_against_pixels(changed, 120)
    smaller = zoom_and_shift(labelled(8, width=128), np.ones(8), np.zeros((8, 2)), size=80)
    assert smaller.images.shape == (8, 80, 80, 3) and smaller.masks.shape == (8, 80, 80)
    check_against_pixels(smaller, 35)


def test_moved_by_nothing_is_nothing():
    same(zoom_and_shift(labelled(), np.ones(2), np.zeros((2, 2))), labelled())


def test_faces_that_leave_are_dropped_and_leave_no_false_claims():
    two = labelled(
        1,
        **{
            "image": np.array([0, 0]),
            "boxes": np.float32([[35, 35, 27, 35], [2, 2, 20, 20]]),
            "landmarks": np.stack([POINTS, POINTS - 33]),
            "pose": np.zeros((2, 3), np.float32),
            "person": np.array([0, 1]),
            "expression": np.zeros(2, np.int64),
            "attributes": np.zeros((2, 2), np.float32),
        },
    )
    changed = zoom_and_shift(two, np.ones(1), np.array([[-15.0, 0.0]]))
    assert changed.person.tolist() == [0] and not changed.complete[0]
    np.testing.assert_array_equal(changed.boxes, [[20, 35, 27, 35]])
    cut = zoom_and_shift(two, np.ones(1), np.array([[-10.0, 0.0]]))
    assert cut.complete[0] and cut.boxes[1].tolist() == [0, 2, 12, 20]  # still in, and cut
    gone = zoom_and_shift(two, np.ones(1), np.array([[90.0, 90.0]]))
    assert len(gone.image) == 0 and not gone.complete[0] and gone.find_labelled().all()


def test_a_picture_of_which_nothing_would_be_known_stays():
    changes = unlabelled(1)
    del changes["boxes"]
    lone = labelled(1, **changes)
    same(zoom_and_shift(lone, np.ones(1), np.array([[90.0, 90.0]])), lone)


def test_unknown_stays_unknown():
    changes = unlabelled(3)
    del changes["person"]
    faces = labelled(3, **changes)
    changed = augment(faces, 4)
    assert (changed.masks == 255).all() and np.isnan(changed.boxes).all()
    assert np.isnan(changed.landmarks).all() and (changed.person == faces.person).all()


def test_augmented_repeats_exactly_and_keeps_labels_on_pixels():
    faces = labelled(40)
    once = augment(faces, [3, 7])
    same(augment(faces, [3, 7]), once)
    assert (augment(faces, [3, 8]).images != once.images).any()
    check_against_pixels(augment(faces, 5, light=0, blur=0), 130)
    assert 5 < (augment(faces, 5).pose[:, 0] < 0).sum() < 35
    same(augment(faces, 1, flip=False, zoom=(1, 1), shift=0, light=0, blur=0), faces)
    mean = augment(faces, 6, zoom=(1, 1), shift=0, light=0.4).images.mean((1, 2, 3))
    assert mean.std() > 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"zoom": (0, 1)}, "zoom"), ({"light": 2}, "light=2"), ({"shift": -1}, "shift=-1")],
)
def test_augmented_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        augment(labelled(), 0, **setting)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.2, 4),
    st.floats(-130, 130),
    st.floats(-130, 130),
    st.integers(0, 80),
    st.integers(0, 80),
    st.integers(1, 96),
    st.integers(1, 96),
)
def test_boxes_stay_inside_whatever_happens(zoom, right, down, left, top, width, height):
    box = np.float32([[left, top, min(width, 96 - left), min(height, 96 - top)]])
    face = labelled(1, boxes=box)
    changed = zoom_and_shift(
        face, np.array([zoom]), np.array([[right, down]])
    )  # FaceAnnotations checks the box
    middle = zoom * (box[0, :2] + box[0, 2:] / 2 - 48) + 48 + (right, down)
    if (np.abs(middle - 48) < 47.9).all():
        assert len(changed.image) == 1
        start = zoom * (box[0, :2] - 48) + 48 + (right, down)
        want = np.r_[start, start + zoom * box[0, 2:]].clip(0, 96)
        got = np.r_[changed.boxes[0, :2], changed.boxes[0, :2] + changed.boxes[0, 2:]]
        np.testing.assert_allclose(got, want, atol=1e-3)
    elif (np.abs(middle - 48) > 48.1).any():
        assert len(changed.image) == 0


def test_scenes_and_augmentation_fit_together():
    scenes = compose(FaceSprites.procedural(6, 2, 64), 30, seed=1)
    changed = augment(scenes, 2)
    assert 0.6 * len(scenes.image) < len(changed.image) <= len(scenes.image)
    inside = np.zeros_like(changed.masks, bool)
    for box, i in zip(changed.boxes, changed.image, strict=True):
        left, top = np.floor(box[:2]).astype(int)
        right, low = np.ceil(box[:2] + box[2:]).astype(int)
        inside[i, top:low, left:right] = True
    whole = changed.complete
    assert whole.any() and not ((changed.masks == 1) & ~inside)[whole].any()


# --- WIDER FACE -----------------------------------------------------------------------------------

ZEROS = " 0 0 0 0 0 0"


def wider_folder(folder, text, pictures):
    (folder / "images").mkdir()
    for name, image in pictures.items():
        Image.fromarray(image).save(folder / "images" / name)
    (folder / "wider_face_train_bbx_gt.txt").write_text(text)
    return folder


def photograph(boxes, height=300, width=400):
    """Grey, with a white rectangle for each box."""
    image = np.full((height, width, 3), 60, np.uint8)
    for left, top, w, h in boxes:
        image[top : top + h, left : left + w] = 255
    return image


def test_wider_boxes_are_where_the_faces_are(tmp_path):
    boxes = {"a.png": [(50, 60, 40, 50)], "b.png": [(200, 100, 60, 80)], "c.png": []}
    lines = []
    for name, faces in boxes.items():
        lines += [name, str(len(faces))] + [f"{x} {y} {w} {h}{ZEROS}" for x, y, w, h in faces]
    lines.append("0 0 0 0" + ZEROS)
    folder = wider_folder(
        tmp_path, "\n".join(lines), {name: photograph(b) for name, b in boxes.items()}
    )
    found = load_wider(folder, size=96, crops=6, seed=1)
    assert len(found) == 18 and found.complete.all() and len(found.image) == 12
    for box, i in zip(found.boxes, found.image, strict=True):
        bright = found.images[i, :, :, 0] > 158
        rows, columns = bright.any(1).nonzero()[0], bright.any(0).nonzero()[0]
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(np.r_[box[:2], box[:2] + box[2:]], extent, atol=1.01)
        assert 20 < box[2:].max() <= 96.01
    assert (found.masks == 255).all() and np.isnan(found.landmarks).all()
    same(load_wider(folder, size=96, crops=6, seed=1), found)
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path != archive:
                file.write(path, path.relative_to(folder))
    same(replace(load_wider(archive, size=96, crops=6, seed=1), name=found.name), found)


def test_wider_faces_left_out_leave_no_false_claims(tmp_path):
    marked = "0 0 0 1 0 0"  # invalid
    text = f"a.png\n2\n50 60 80 80{ZEROS}\n140 60 80 80 {marked}\n"
    folder = wider_folder(tmp_path, text, {"a.png": photograph([(50, 60, 80, 80)])})
    found = load_wider(folder, crops=12, side=(40, 40))
    assert len(found.image) == 12 and not found.complete.all()  # the other is mostly in view
    (folder / "wider_face_train_bbx_gt.txt").write_text(f"a.png\n1\n50 60 80 80 {marked}\n")
    with pytest.raises(ValueError, match="no usable face in 1 photographs"):
        load_wider(folder)


def test_wider_errors_name_the_photograph(tmp_path):
    text = f"a.png\n1\n50 60 40 50{ZEROS}\n"
    folder = wider_folder(tmp_path, text, {})
    with pytest.raises(FileNotFoundError, match=r"a\.png, which is not there: add it"):
        load_wider(folder)
    (folder / "images" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be read .*copy it again"):
        load_wider(folder)
    (folder / "wider_face_train_bbx_gt.txt").write_text("a.png\n1\n50 60 40\n")
    with pytest.raises(ValueError, match=r"bbx_gt\.txt: line 3: expected .*'50 60 40'"):
        load_wider(folder)
    with pytest.raises(FileNotFoundError):
        load_wider(tmp_path / "nothing")


def test_wider_of_the_set_itself(test_data):
    found = load_wider(test_data("wider_val_sample.zip"), crops=2)
    assert 80 < len(found) <= 96 and len(found.image) >= 100
    assert found.complete.mean() > 0.6
    long = found.boxes[:, 2:].max(1)
    assert 24 < np.median(long) < 96 and long.min() >= 2


# --- CelebA ---------------------------------------------------------------------------------------


def celeba_folder(folder, pictures="img_celeba", landmarks="list_landmarks_celeba.txt"):
    """Two people's photographs in CelebA's format: dots on the landmarks, a dark box."""
    (folder / pictures).mkdir()
    image = np.full((218, 178, 3), 114, np.uint8)
    big = 2 * POINTS
    image[70:140, 70:124] = 20
    for (x, y), colour in zip(big, COLOURS, strict=True):
        cv2.circle(image, (int(x), int(y)), 6, colour, -1)
    for i in (1, 2, 3):
        Image.fromarray(image).save(folder / pictures / f"{i:06d}.png")
    row = " ".join(str(int(v)) for v in big.ravel())
    names = [f"{i:06d}.png" for i in (1, 2, 3)]
    (folder / "list_bbox_celeba.txt").write_text(
        f"3\nimage_id x_1 y_1 width height\n{names[0]}    70  70  54  70\n"
        f"{names[1]}    70  70  54  70\n{names[2]}  0 0 0 0\n"
    )
    (folder / landmarks).write_text(
        "3\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
        "rightmouth_x rightmouth_y\n" + "".join(f"{name} {row}\n" for name in names)
    )
    (folder / "list_attr_celeba.txt").write_text(
        "3\nEyeglasses Male No_Beard Smiling \n"
        f"{names[0]} -1  1 -1  1\n{names[1]}  1 -1  1 -1\n{names[2]}  1  1  1  1\n"
    )
    (folder / "identity_CelebA.txt").write_text(f"{names[0]} 2880\n{names[1]} 77\n")
    return folder


def test_celeba(tmp_path):
    found = load_celeba(celeba_folder(tmp_path), size=126)
    assert found.people == ("celeba/77", "celeba/2880") and found.person.tolist() == [1, 0, -1]
    assert found.attribute_names == ("glasses", "female", "beard", "Smiling")
    np.testing.assert_array_equal(found.attributes, [[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]])
    assert np.isnan(found.boxes).any(1).tolist() == [False, False, True]
    np.testing.assert_allclose(found.boxes[0], [36, 28, 54, 70], atol=1)  # 126 is 1.8 * 70
    for i in range(3):  # the last is cut out by its landmarks
        np.testing.assert_allclose(found.landmarks[i], dots(found.images[i]), atol=1)
    assert not found.complete.any() and (found.masks == 255).all()
    assert len(load_celeba(tmp_path, limit=1)) == 1


def test_a_byte_order_mark_hides_nobody_of_celeba(tmp_path):
    want = load_celeba(celeba_folder(tmp_path), size=126)
    for path in tmp_path.glob("*.txt"):
        path.write_text("\ufeff" + path.read_text("utf-8"), "utf-8")
    found = load_celeba(tmp_path, size=126)
    assert found.person.tolist() == want.person.tolist()
    np.testing.assert_array_equal(found.boxes, want.boxes)


def test_celeba_with_some_of_the_lists(tmp_path):
    folder = celeba_folder(tmp_path, "img_align_celeba", "list_landmarks_align_celeba.txt")
    assert np.isnan(
        load_celeba(folder).boxes
    ).all()  # which are of the pictures that are not aligned
    for name in ("list_attr_celeba.txt", "identity_CelebA.txt"):
        (folder / "Anno").mkdir(exist_ok=True)
        (folder / name).rename(folder / "Anno" / name)
    assert load_celeba(folder).person.tolist() == [1, 0, -1]
    (folder / "list_landmarks_align_celeba.txt").unlink()
    (folder / "Anno" / "list_attr_celeba.txt").unlink()
    found = load_celeba(folder, size=89)
    assert len(found) == 2 and np.isnan(found.landmarks).all()  # nothing is known of the third
    (folder / "Anno" / "identity_CelebA.txt").unlink()
    with pytest.raises(FileNotFoundError, match="none of CelebA's lists"):
        load_celeba(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("list_bbox_celeba.txt", "70  70  54  70", "70 x 54 70", "line 3: expected the name"),
        ("list_bbox_celeba.txt", "3\nimage", "4\nimage", "line 1 says 4 pictures, 3 follow"),
        ("list_bbox_celeba.txt", "3\nimage", "image", "line 1: expected how many pictures"),
        ("list_landmarks_celeba.txt", "000002.png 80", "000002.png", "line 4: expected .* 10 numb"),
        ("list_attr_celeba.txt", "1 -1  1 -1\n", "1 -1 1 0\n", "line 4: an attribute is 0"),
        ("list_attr_celeba.txt", "000002", "000001", "line 4: 000001.png is listed twice"),
        ("identity_CelebA.txt", "2880", "", "line 1: expected .* 1 numbers; found 0"),
    ],
)
def test_celeba_errors_name_file_and_line(tmp_path, name, old, new, message):
    folder = celeba_folder(tmp_path)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        load_celeba(folder)


def test_celeba_pictures_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder img_celeba"):
        load_celeba(tmp_path)
    folder = celeba_folder(tmp_path)
    (folder / "img_celeba" / "000002.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"img_celeba/000002\.png cannot be read"):
        load_celeba(folder)
    for path in (folder / "img_celeba").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="none of the 3 pictures listed"):
        load_celeba(folder)
