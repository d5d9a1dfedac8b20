"""Procedural faces: reproducible, truthful about themselves, and neither toys nor monsters."""

import os
from pathlib import Path

import numpy as np
import pytest

from metaface.synthetic import DOMAINS, Dials, _render, render

DATA = Path(
    os.environ.get("METAFACE_TEST_DATA", Path(__file__).resolve().parents[2] / "../shared/data")
)
#: No nuisance at all: the same picture of a person every time, but for clothes and background.
STILL = Dials(
    yaw=(0.0, 0.0),
    pitch=0.0,
    roll=0.0,
    smile=0.0,
    mouth_open=0.0,
    brow_raise=0.0,
    eye_closure=0.0,
    gaze=0.0,
    light_angle=0.0,
    hardness=0.0,
    light_color=0.0,
    exposure=0.0,
    glasses=0.0,
    mask=0.0,
    cap=0.0,
    hand=0.0,
    background=0.0,
    styling=0.0,
    scale=0.0,
    shift=0.0,
    blur=0.0,
    noise=0.0,
    jpeg=0.0,
    grey=0.0,
    sketch=0.0,
)


def still(**changes):
    return {"own": Dials(**{**vars(STILL), **changes})}


@pytest.fixture(scope="module")
def default():
    return render(100, 8, 64, seed=3)


@pytest.fixture(scope="module")
def frontal():
    return render(100, 2, 128, "frontal", seed=5)


def arrays(renders):
    fixed = [getattr(renders, n) for n in ("images", "person", "box", "landmarks", "mask", "pose")]
    return fixed + list(renders.attributes.values())


def test_shapes_types_and_ranges(default):
    m = 100 * 8
    assert default.images.shape == (m, 64, 64, 3) and default.images.dtype == np.uint8
    assert default.person.dtype == np.int64 and (np.bincount(default.person) == 8).all()
    assert default.domain.dtype == np.int64 and default.domains == ("default",)
    assert default.box.shape == (m, 4) and default.box.dtype == np.float32
    assert default.landmarks.shape == (m, 5, 2) and default.landmarks.dtype == np.float32
    assert default.mask.shape == (m, 64, 64) and default.mask.dtype == bool
    assert default.pose.shape == (m, 3) and default.pose.dtype == np.float32
    x, y, w, h = default.box.T
    assert (x >= 0).all() and (y >= 0).all() and (x + w <= 64).all() and (y + h <= 64).all()
    assert np.median(w) > 25 and np.median(h) > 35
    assert all(len(v) == m and np.isfinite(v).all() for v in default.attributes.values())
    assert all(np.isfinite(a).all() for a in arrays(default))


def test_pure_function_of_its_key():
    many = render(12, 7, 48, ["default", "occluded"], seed=1)
    few = render([9, 2], 3, 48, "occluded", seed=1)
    for i in range(len(few.person)):
        photo = i % 3
        j = np.flatnonzero((many.person == few.person[i]) & (many.domain == 1))[photo]
        for a, b in zip(arrays(few), arrays(many), strict=True):
            np.testing.assert_array_equal(a[i], b[j])


def test_chunks_and_threads_do_not_matter(monkeypatch):
    wide = render(7, 5, 40, "low-quality")
    monkeypatch.setattr(_render, "_PIXELS", 3 * 40 * 40)
    monkeypatch.setattr(_render, "_PLAN", 8)
    for a, b in zip(arrays(wide), arrays(render(7, 5, 40, "low-quality")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_and_people_differ_and_sizes_agree():
    one, other = render(3, 2), render(3, 2, seed=1)
    assert (one.images != other.images).any((1, 2, 3)).all()
    large = render(3, 2, 128)
    np.testing.assert_allclose(large.landmarks, 2 * one.landmarks, atol=1e-2)
    shrunk = large.images.reshape(6, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(shrunk - one.images).mean() < 14


def test_identity_does_not_depend_on_the_domain():
    r = render(20, 1, 32, list(DOMAINS))
    for name in ("female", "beard", "age", "skin_tone", "hair_length"):
        values = r.attributes[name].reshape(len(DOMAINS), 20)
        assert (values == values[0]).all()


@pytest.mark.parametrize("name", [n for n in DOMAINS if n != "default"])
def test_each_domain_looks_different(name):
    r = render(8, 3, 48, ["default", name])
    gap = r.images[r.domain == 0].astype(float) - r.images[r.domain == 1]
    assert np.abs(gap).mean() > 15


def test_domains_turn_their_dials():
    r = render(40, 2, 32, list(DOMAINS))
    of = {n: r.domain == i for i, n in enumerate(r.domains)}
    assert np.abs(r.pose[of["frontal"], 0]).max() <= 8
    assert np.abs(r.pose[of["profile"], 0]).min() >= 45
    hidden = r.attributes["mask"] | r.attributes["cap"] | r.attributes["hand"]
    assert hidden[of["occluded"]].mean() > 0.6 > 0.1 > hidden[of["frontal"]].mean()
    sketch = r.images[of["sketch"]]
    assert (sketch.max(3) == sketch.min(3)).all() and sketch.mean() > 150
    sharp = [np.abs(np.diff(r.images[of[n]].astype(float), axis=2)).mean() for n in DOMAINS]
    assert dict(zip(DOMAINS, sharp, strict=True))["low-quality"] < max(sharp)
    assert r.attributes["hardness"][of["hard-light"]].mean() > 0.5


def test_landmarks_of_frontal_faces(frontal):
    p, (x, y, w, h) = frontal.landmarks, frontal.box.T[..., None]
    assert ((p > 0) & (p < 128)).all()
    assert ((p[..., 0] > x) & (p[..., 0] < x + w) & (p[..., 1] > y) & (p[..., 1] < y + h)).all()
    right_eye, left_eye, nose, right_mouth, left_mouth = p.transpose(1, 0, 2)
    assert (right_eye[:, 0] < nose[:, 0]).all() and (nose[:, 0] < left_eye[:, 0]).all()
    assert (right_mouth[:, 0] < nose[:, 0]).all() and (nose[:, 0] < left_mouth[:, 0]).all()
    assert (right_eye[:, 1] < nose[:, 1]).all() and (nose[:, 1] < left_mouth[:, 1]).all()


def test_mask_lies_in_the_box_and_holds_the_nose(frontal):
    for mask, (x, y, w, h), nose in zip(
        frontal.mask, frontal.box.astype(int), frontal.landmarks[:, 2].astype(int), strict=True
    ):
        inside = mask[y : y + h, x : x + w]
        assert inside.sum() == mask.sum() and inside.mean() > 0.35
        assert mask[nose[1], nose[0]]


@pytest.mark.parametrize(
    ("dials", "column"), [({"yaw": (30, 30)}, 0), ({"pitch": 25}, 1), ({"roll": 25}, 2)]
)
def test_pose_signs(dials, column):
    r = render(6, 12, 64, still(**dials))
    rest = render(6, 12, 64, still())
    eyes, nose = r.landmarks[:, :2].mean(1), r.landmarks[:, 2]
    still_eyes, still_nose = rest.landmarks[:, :2].mean(1), rest.landmarks[:, 2]
    across = r.landmarks[:, 1] - r.landmarks[:, 0]
    seen = {
        0: (nose - eyes)[:, 0],  # turned to the image's right
        1: -((nose - eyes) - (still_nose - still_eyes))[:, 1],  # nose lifted towards the eyes
        2: across[:, 1],  # clockwise: the image-right eye is lower
    }[column]
    angle = r.pose[:, column]
    clear = np.abs(angle) > 3
    assert clear.sum() > 20 and (np.sign(seen[clear]) == np.sign(angle[clear])).all()
    assert (r.pose[:, [i for i in range(3) if i != column]] == 0).all()


def test_light_comes_from_where_it_says():
    r = render(10, 8, 48, still(light_angle=80, hardness=1.0))
    level = r.images.mean(3)
    sides = []
    for picture, mask, nose in zip(level, r.mask, r.landmarks[:, 2, 0].astype(int), strict=True):
        sides.append(
            picture[:, nose:][mask[:, nose:]].mean() - picture[:, :nose][mask[:, :nose]].mean()
        )
    azimuth = r.attributes["light_azimuth"]
    clear = np.abs(azimuth) > 20
    assert (np.sign(np.array(sides)[clear]) == np.sign(azimuth[clear])).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"people": 0}, "people=0"),
        ({"people": [1, 1]}, "once"),
        ({"people": [-1]}, "-1"),
        ({"people": []}, "one or more"),
        ({"photos": 0}, "photos=0"),
        ({"image_size": 8}, "image_size=8"),
        ({"domains": "nowhere"}, "nowhere.*frontal"),
        ({"domains": []}, "at least one"),
        ({"domains": ["default", "default"]}, "once"),
        ({"domains": {"mine": 3}}, "Dials"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(**{"people": 2, "photos": 1, "image_size": 32, **arguments})


@pytest.mark.parametrize("dial", [{"pitch": 90}, {"yaw": (5, 1)}, {"blur": -0.1}, {"window": 0}])
def test_bad_dials(dial):
    with pytest.raises(ValueError, match=next(iter(dial))):
        Dials(**dial)


def nearest_mean(features, people, episodes=400, ways=5, queries=5):
    """Accuracy of 5-way 1-shot nearest class mean, squared Euclidean."""
    rng = np.random.default_rng(0)
    rows = people.reshape(-1, np.bincount(people).max())
    right = []
    for _ in range(episodes):
        chosen = rng.choice(len(rows), ways, replace=False)
        picks = np.stack([rng.permutation(rows.shape[1])[: queries + 1] for _ in chosen])
        index = chosen[:, None] * rows.shape[1] + picks
        support, query = features[index[:, 0]], features[index[:, 1:].ravel()]
        distance = ((query[:, None] - support[None]) ** 2).sum(2)
        right.append((distance.argmin(1) == np.repeat(np.arange(ways), queries)).mean())
    return float(np.mean(right))


def pixels28(images):
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return torch.nn.functional.interpolate(x, size=28, mode="area").flatten(1).numpy()


def test_not_a_toy_for_raw_pixels(default):
    assert 0.3 < nearest_mean(pixels28(default.images), default.person) <= 0.6


def test_people_differ_more_than_their_photos():
    r = render(30, 2, 64, still(glasses=0.5))
    x = pixels28(r.images * r.mask[..., None])
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    assert (r.person[distance.argmin(1)] == r.person).mean() > 0.9


@pytest.fixture(scope="module")
def detect():
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    new = int(cv2.__version__.split(".")[0]) >= 5
    model = DATA / "weights" / ("yunet_n_dynamic.onnx" if new else "yunet_n_640_640.onnx")
    if not model.exists():
        pytest.skip(f"{model} is missing: set METAFACE_TEST_DATA to the folder of test data")

    def errors(renders, enlarge=1):
        """Landmark errors [found, 5] in parts of the inter-ocular distance, share found."""
        side = renders.images.shape[1] * enlarge
        padded = -(-side // 32) * 32
        detector = cv2.FaceDetectorYN.create(str(model), "", (padded, padded), 0.6)
        found = []
        for image, truth in zip(renders.images, renders.landmarks * enlarge, strict=True):
            canvas = np.zeros((padded, padded, 3), np.uint8)
            canvas[:side, :side] = cv2.resize(image[..., ::-1], (side, side))
            faces = detector.detect(canvas)[1]
            if faces is None:
                continue
            best = faces[faces[:, 14].argmax(), 4:14].reshape(5, 2)
            between_eyes = np.linalg.norm(truth[1] - truth[0])
            found.append(np.linalg.norm(best - truth, axis=1) / between_eyes)
        return np.array(found), len(found) / len(renders.images)

    return errors


def test_yunet_finds_frontal_faces(frontal, detect):
    found, share = detect(frontal)
    assert share >= 0.95
    assert (found.mean(0) < 0.08).all(), found.mean(0)


def test_yunet_finds_default_faces(default, detect):
    _, share = detect(default, enlarge=2)
    assert share >= 0.85
