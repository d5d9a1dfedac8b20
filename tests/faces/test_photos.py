"""Bad, odd and large picture files, through detection and recognition: no crash, no wrong face."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import odd_photos
import pytest
import torch
from odd_photos import FACE, Odd, encoded, scene
from PIL import Image

from metaface import synthetic
from metaface.data import _decode
from metaface.data._quiet import quiet
from metaface.faces.detections import overlaps
from metaface.faces.photos import (
    LONGEST,
    REASONS,
    Unusable,
    list_folder,
    list_photos,
    read,
    read_reduced,
)
from metaface.recognition import Recognizer

HANG = 30  # seconds for one file


@pytest.fixture(scope="module")
def models(test_data):
    test_data("weights/mobilefacenet_casia.ckpt")
    return test_data("weights/yunet_n_640_640.onnx").parent


@pytest.fixture(scope="module")
def recognizer(models):
    """Who knows the person of the scene, and five others."""
    people = Recognizer.from_pretrained(models=models)
    others = synthetic.render(
        people=range(1, 6), photos=1, image_size=224, domains="frontal", seed=3
    )
    for person, image in zip(others.person, others.images, strict=True):
        people.enroll(f"other {person}", image)
    people.enroll("Ana", scene())
    people.calibration()  # once, not in the time of the first file
    return people


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("photos") / "odd"


@pytest.fixture(scope="module")
def odd(folder):
    return odd_photos.everything(folder)


@pytest.fixture(scope="module")
def found(recognizer, odd):
    """What came of each file, one by one; and in how many seconds."""
    outcomes, seconds = {}, {}
    for one in odd:
        faulthandler.dump_traceback_later(HANG, exit=True)
        start = time.perf_counter()
        outcomes[one.path] = recognizer.identify(one.path)
        seconds[one.path] = time.perf_counter() - start
        faulthandler.cancel_dump_traceback_later()
    print("\nthe slowest of", len(odd), "files:")
    for path in sorted(seconds, key=seconds.__getitem__)[-5:]:
        print(f"{seconds[path]:6.2f} s {path.parent.name}/{path.name}")
    return outcomes


@pytest.fixture(scope="module")
def truth(recognizer):
    """The box in the scene, as the detector draws it, and there is only one."""
    (box,) = recognizer.detector(np.asarray(scene())).boxes
    return box


def faults(one: Odd, outcome, truth) -> str:
    """What is wrong with the outcome of a file; empty: nothing."""
    if outcome.path != str(one.path):
        return f"says that it is {outcome.path}"
    if (outcome.skipped or "face") not in one.want:
        return f"{outcome.skipped} ({outcome.detail}), not {one.want}"
    if outcome.skipped:
        if outcome.skipped not in REASONS or not outcome.detail or len(outcome):
            return f"no reason and detail alone: {outcome}"
    elif one.scale:
        if len(outcome) != one.faces:
            return f"{len(outcome)} faces"
        boxes = np.array([match.box for match in outcome]) / one.scale
        right = overlaps(boxes, truth[None])[:, 0] > 0.85
        if one.faces == 1 and not right[0]:
            return f"a box {boxes} instead of {truth}"
        if any(match.nearest != "Ana" for match in outcome):
            return f"taken for {[match.nearest for match in outcome]}"
    return ""


def test_truth_is_where_the_face_was_pasted(truth):
    left, top = odd_photos.WHERE
    assert left < truth[0] and truth[0] + truth[2] < left + odd_photos.SIDE
    assert top < truth[1] and truth[1] + truth[3] < top + odd_photos.SIDE


def test_every_odd_file_gives_its_face_or_its_reason(odd, found, truth):
    assert len(odd) >= 200 and len({one.path for one in odd}) == len(odd)
    wrong = {one.path.name: faults(one, found[one.path], truth) for one in odd}
    assert {name: fault for name, fault in wrong.items() if fault} == {}
    # and the files are what they should be: not all refused, not all accepted
    outcomes = [found[one.path].skipped for one in odd]
    assert set(REASONS[:3]) <= set(outcomes) and 100 < outcomes.count(None) < len(odd) - 200


@pytest.mark.parametrize(
    "parts", [("misnamed", "damaged", "contents"), pytest.param(None, marks=pytest.mark.slow)]
)
def test_a_folder_in_threads_gives_what_one_by_one_gives(recognizer, folder, found, parts):
    folders = [folder] if parts is None else [folder / part for part in parts]
    together = {Path(one.path): one for each in folders for one in recognizer.identify(each)}
    wanted = {path for path in found if parts is None or path.parent.name in parts}
    assert set(together) == wanted and {one.skipped for one in together.values()} >= {
        None,
        "unreadable",
        "no_face",
    }
    for path, one in together.items():
        alone = found[path]
        assert (one.skipped, len(one)) == (alone.skipped, len(alone)), path
        for a, b in zip(one, alone, strict=True):
            assert (a.name, a.nearest, a.box) == (b.name, b.nearest, b.box)
            assert a.score == pytest.approx(b.score, abs=1e-4)  # of batches of other sizes


@pytest.mark.slow
def test_sixty_photographs_in_threads(recognizer, tmp_path):
    """Of different people, so that a mix-up shows; twice, as threads are never the same."""
    faces = synthetic.render(people=range(1, 6), photos=12, image_size=112, seed=3)
    for i, image in enumerate(faces.images):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    alone = [recognizer.identify(path) for path in list_folder(tmp_path)]
    assert len(alone) == 60 and sum(len(one) for one in alone) > 50
    for _ in range(2):
        together = recognizer.identify(tmp_path)
        assert [one.path for one in together] == [one.path for one in alone]
        for a, b in zip(together, alone, strict=True):
            assert [(m.name, m.nearest, m.box) for m in a] == [
                (m.name, m.nearest, m.box) for m in b
            ]
            np.testing.assert_allclose([m.score for m in a], [m.score for m in b], atol=1e-4)


def test_enrolment_goes_on_after_bad_files(models, folder, found):
    people = Recognizer.from_pretrained(models=models)
    some = [p for p in found if p.parent.name in ("cut", "misnamed", "places", "contents")]
    enrolment = people.enroll("Ana", some)
    skipped = {Path(one.path): one.reason.split(":")[0] for one in enrolment.skipped}
    assert enrolment.used + enrolment.repeated + len(skipped) == len(some)
    for path in some:
        if found[path].skipped:
            assert skipped[path] == found[path].skipped
        elif len(found[path]) > 1:
            assert skipped[path] == "several_faces"
        else:
            assert path not in skipped
    bad = [p for p in some if found[p].skipped]
    with pytest.raises(ValueError, match="Bo cannot be enrolled: .*unreadable"):
        people.enroll("Bo", bad)
    assert people.people() == {"Ana": enrolment.used}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_all_orientations_are_one_photograph(recognizer, odd, found, truth, suffix):
    paths = [one.path for one in odd if one.path.parent.name == "turned"]
    paths = [p for p in paths if p.suffix == f".{suffix}" and p.stem[-1] in "12345678"]
    paths = [p for p in paths if p.stem.startswith("orientation") and len(p.stem) == 13]
    assert len(paths) == 8
    shapes = {read(path).shape for path in paths}
    assert shapes == {(320, 440, 3)}
    boxes = np.array([found[path][0].box for path in paths])
    assert np.abs(boxes - truth).max() < 2.5
    scores = [found[path][0].score for path in paths]
    assert min(scores) > 0.98  # cosine with the scene itself


def test_lossless_orientations_give_the_same_pixels(odd):
    for one in odd:
        if one.path.parent.name == "turned" and one.path.suffix in (".png", ".tif"):
            assert np.array_equal(read(one.path), np.asarray(scene())), one.path.name


def test_pixels_of_every_kind_are_the_same_photograph(folder):
    """Nothing but the exact colours is what a face may be found in by luck: compare pixels."""
    want = np.asarray(scene()).astype(int)
    grey = np.asarray(scene().convert("L").convert("RGB")).astype(int)
    for name, goal, least in [
        ("alpha.png", want, 0),
        ("16 colour.png", want, 0),
        ("grey.png", grey, 0),
        ("16.png", grey, 0),
        ("16.tif", grey, 0),
        ("16 big.tif", grey, 0),
        ("32.tif", grey, 0),
        ("la.png", grey, 0),
        ("cmyk.tif", want, 1),
        ("ycbcr.tif", want, 3),
        ("cmyk.jpg", want, 9),
        ("ycck.jpg", want, 9),
        ("palette.png", want, 12),
        ("palette.tif", want, 12),
        ("rgb.jpg", want, 9),
        ("mpo.jpg", want, 9),
        ("film.gif", want, 12),
        ("film.png", want, 0),
    ]:
        pixels = read(folder / "pixels" / name).astype(int)
        assert pixels.shape == want.shape, name
        assert np.abs(pixels - goal).mean() <= least, name


def test_what_is_transparent_is_white(folder):
    left, top = odd_photos.WHERE
    want = np.full((320, 440, 3), 255, np.uint8)
    inside = np.s_[top : top + odd_photos.SIDE, left : left + odd_photos.SIDE]
    want[inside] = np.asarray(scene())[inside]
    for name in ("holed.png", "holed.tif"):
        assert np.array_equal(read(folder / "pixels" / name), want)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_strips_are_the_whole(mode, monkeypatch):
    image = (
        scene().convert("L").point(lambda v: v * 257, "I").convert(mode)
        if "I" in mode
        else (scene().convert(mode))
    )
    at_once = read(image)
    monkeypatch.setattr("metaface.data._decode._STRIP", 10_000)
    assert np.array_equal(read(image), at_once) and at_once.std() > 20


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_wide_pixels_of_narrow_levels_are_not_black(mode):
    narrow = scene().convert("L")
    wide = narrow.point(lambda level: level, "I").convert(mode)
    assert np.array_equal(read(wide), read(narrow))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_photographs_are_reduced_and_boxes_are_not(recognizer, tmp_path, suffix, truth):
    image = scene().resize((4400, 3200), Image.Resampling.BICUBIC)
    image.transpose(odd_photos.TURNS[6]).save(
        tmp_path / f"a.{suffix}", exif=odd_photos.orientation(6), quality=90, compress_level=1
    )
    pixels, times = read_reduced(tmp_path / f"a.{suffix}")
    assert pixels.shape == (2979, LONGEST, 3) and times == pytest.approx(4400 / LONGEST)
    (match,) = recognizer.identify(tmp_path / f"a.{suffix}")
    assert overlaps(np.array([match.box]) / 10, truth[None])[0, 0] > 0.85
    small = np.asarray(scene().resize((4096, 2979), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels - small).mean() < 2


def test_one_large_picture_is_decoded_at_a_time(monkeypatch):
    monkeypatch.setattr("metaface.data._decode._LARGE", 1000)
    inside, most = 0, 0
    plain = _decode._convert

    def slow(image: Image.Image, mode: str) -> Image.Image:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return plain(image, mode)

    monkeypatch.setattr(_decode, "_convert", slow)
    data = encoded(kind="PNG")
    threads = [threading.Thread(target=read, args=(lambda: data,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_arrays_tensors_and_images_are_read_alike():
    image = scene()
    want = np.asarray(image)
    assert np.array_equal(read(image), want)
    assert np.array_equal(read(want), want)
    assert np.array_equal(read(want / np.float32(255)), want)
    assert np.array_equal(read(torch.from_numpy(want.copy()).movedim(2, 0)), want)
    assert np.array_equal(read(lambda: encoded(kind="PNG")), want)
    file = Image.open(io.BytesIO(encoded(quality=95)))
    file.load()
    mine = file.copy()
    assert read(file).shape == want.shape and file.tobytes() == mine.tobytes()
    big = Image.new("RGB", (LONGEST * 2, 10))
    assert read(big).shape == (5, LONGEST, 3) and big.size == (LONGEST * 2, 10)


def test_a_callers_image_is_not_turned_nor_shrunk():
    data = encoded(scene().transpose(odd_photos.TURNS[6]), exif=odd_photos.orientation(6))
    image = Image.open(io.BytesIO(data))
    assert read(image).shape == (320, 440, 3)
    assert image.size == (320, 440) and image.getexif()[0x0112] == 6


def test_a_callers_broken_image_is_unreadable():
    """Pillow opens lazily: the error comes when the pixels are asked for."""
    for kind in ("JPEG", "PNG", "TIFF"):
        data = encoded(kind=kind)
        with pytest.raises(Unusable) as why:
            read(Image.open(io.BytesIO(data[: len(data) // 2])))
        assert why.value.reason == "unreadable"


def test_what_is_no_photograph():
    with pytest.raises(TypeError, match="NoneType"):
        read(None)  # type: ignore[arg-type]
    for array in (np.zeros(3), np.zeros((3, 3, 7)), np.full((3, 3), 2.0), np.zeros((3, 3), int)):
        with pytest.raises(ValueError):
            read(array)
    for name in ("null\0.jpg", "none.jpg", "", "x" * 5000):
        with pytest.raises(Unusable) as why:
            read(name)
        assert why.value.reason == "unreadable"


def test_a_function_that_fails_is_unreadable():
    def get() -> bytes:
        raise RuntimeError("the zip is broken")

    with pytest.raises(Unusable, match="unreadable: the zip is broken"):
        read(get)


def test_files_larger_than_allowed_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("metaface.data._sources.MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(encoded(kind="PNG"))
    with pytest.raises(Unusable) as why:
        read(tmp_path / "a.png")
    assert why.value.reason == "too_large" and "larger than" in why.value.detail


def test_listing_a_folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/c.webp", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    names = [p.relative_to(tmp_path).as_posix() for p in list_folder(tmp_path)]
    assert names == ["a.PNG", "b.jpg", "deep/c.webp"]
    assert list_photos(tmp_path) == list_folder(tmp_path)
    assert list_photos("x.jpg") == ["x.jpg"] and list_photos(["x.jpg"]) == ["x.jpg"]
    assert len(list_photos(np.zeros((3, 8, 8, 3), np.uint8))) == 3
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_folder(tmp_path / "none")


def test_pillows_warnings_stay_inside_with_many_threads(recwarn):
    """And the filters are afterwards what they were."""
    before = list(warnings.filters)
    start = threading.Barrier(8)

    def warn() -> None:
        start.wait()
        for _ in range(200):
            with quiet():
                warnings.warn_explicit("odd metadata", UserWarning, "x.py", 1, module="PIL.Png")

    threads = [threading.Thread(target=warn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not len(recwarn) and warnings.filters == before
    with quiet(), pytest.warns(UserWarning, match="mine"):  # others' warnings still come
        warnings.warn("mine", stacklevel=1)


def test_a_bomb_warns_nobody(folder, odd, recwarn):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(Unusable, match="too_large: 10000x10000: more than 89 megapixels"):
            read(folder / "sizes" / "10000x10000.png")
    assert not caught


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(tmp_path, models):
    """All of them and 14 photographs of 88 megapixels, read by the pool of one process."""
    odd = odd_photos.everything(tmp_path / "odd")
    odd += odd_photos.large(tmp_path / "odd" / "large")
    script = Path(odd_photos.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "odd"), str(models)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    said = json.loads(done.stdout)
    print(f"\n{said['before'] / 2**20:.0f} MiB before, {said['after'] / 2**20:.0f} MiB at most")
    for one in odd:
        assert (said["skipped"][os.fsencode(one.path).hex()] or "face") in one.want, one.path.name
    assert sum(one.want == FACE and one.scale == 25 for one in odd) == 14
    assert said["after"] < 2.5 * 2**30
