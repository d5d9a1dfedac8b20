"""The recogniser: names for the enrolled, "unknown" for strangers, and no trace of the forgotten.

Most of it on faces that a toy detector and a toy embedder know; some on procedural and real ones.
"""

from __future__ import annotations

import gc
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Row, every_learner, group, portrait, squares, tiny
from PIL import Image

from metaface import nets, synthetic
from metaface.cli import main
from metaface.faces import photos
from metaface.faces.photos import Unusable
from metaface.learners import LEARNERS, FeatureLearner
from metaface.metrics.cohort import Cohort
from metaface.metrics.thresholds import calibrate
from metaface.recognition import (
    Exact,
    Gallery,
    GalleryError,
    ModelMissing,
    Network,
    Preprocessing,
    Recognizer,
    adaptation,
    published,
)
from metaface.recognition.detectors import default_detector
from metaface.recognition.matching import Embeddings, Prototypes
from metaface.recognition.results import Identified


def new(path=":memory:", *, embedder=None, keep_crops=None, search=Exact) -> Recognizer:
    embedder = embedder or squares()
    options = {"model": embedder.digest, "model_name": embedder.name, "dim": embedder.dim}
    return Recognizer(Row(), embedder, Gallery(path, keep_crops=keep_crops, **options), search)


def album(person: int, count: int = 3, start: int = 0) -> list[np.ndarray]:
    return [portrait(person, start + k) for k in range(count)]


def others(count: int = 120, each: int = 1) -> list[np.ndarray]:
    """Photographs of people nobody has enrolled."""
    return [portrait(1000 + i, k) for i in range(count) for k in range(each)]


def known(people: int = 6, shots: int = 3, fpir: float | None = 0.02, **options) -> Recognizer:
    found = new(**options)
    for i in range(people):
        found.enroll(f"person {i}", album(i, shots))
    if fpir is not None:
        found.calibrate(others(), fpir, progress=False)
    return found


def names(identified) -> list[str | None]:
    return [match.name for match in identified]


def write(folder: Path, pictures, suffix: str = "png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.{suffix}" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return [str(path) for path in paths]


# ---------------------------------------------------------------- enrol


def as_files(folder, pictures):
    return write(folder, pictures)


def as_paths(folder, pictures):
    return [Path(p) for p in write(folder, pictures)]


def as_folder(folder, pictures):
    write(folder, pictures)
    return folder


def as_arrays(folder, pictures):
    return pictures


def as_one_array(folder, pictures):
    return np.stack(pictures)


def as_floats(folder, pictures):
    return [p / 255 for p in pictures]


def as_tensors(folder, pictures):
    return [torch.from_numpy(p).permute(2, 0, 1) for p in pictures]


def as_one_tensor(folder, pictures):
    return torch.stack(as_tensors(folder, pictures))


def as_pillow(folder, pictures):
    return [Image.fromarray(p) for p in pictures]


def as_bytes(folder, pictures):
    return [Path(p).read_bytes() for p in write(folder, pictures)]


def as_views(folder, pictures):
    data = as_bytes(folder, pictures)
    return [bytearray(data[0]), *(memoryview(d) for d in data[1:])]


def as_open_files(folder, pictures):
    files = [io.BytesIO(data) for data in as_bytes(folder, pictures)]
    for file in files:
        file.seek(0, io.SEEK_END)  # as after writing it
    return files


def as_functions(folder, pictures):
    return [Path(p).read_bytes for p in write(folder, pictures)]


def as_generator(folder, pictures):
    return (p for p in pictures)


KINDS = [
    as_files,
    as_paths,
    as_folder,
    as_arrays,
    as_one_array,
    as_floats,
    as_tensors,
    as_one_tensor,
    as_pillow,
    as_bytes,
    as_views,
    as_open_files,
    as_functions,
    as_generator,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_kind_of_photograph_enrols_alike(kind, tmp_path):
    people = new()
    done = people.enroll("Ana", kind(tmp_path / "ana", album(1)))
    assert (done.name, done.used, done.skipped) == ("Ana", 3, ())
    assert people.people() == {"Ana": 3}
    want = squares()(np.stack(album(1)))
    np.testing.assert_allclose(people.gallery.enrolled().embeddings, want, atol=1e-5)


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not as_folder], ids=lambda k: k.__name__)
def test_every_kind_of_photograph_is_identified(kind, tmp_path):
    people = known(3)
    pictures = [portrait(1, 8), portrait(5000), portrait(2, 8)]
    found = people.identify(kind(tmp_path / "probes", pictures))
    assert isinstance(found, list)
    assert [names(one) for one in found] == [["person 1"], [None], ["person 2"]]


def test_one_photograph_is_enough_and_more_are_added(tmp_path):
    people = new()
    path = write(tmp_path, album(4, 1))[0]
    assert people.enroll("Bo", path).used == 1  # a path
    assert people.enroll(" Bo ", portrait(4, 1)).name == "Bo"  # an array; the same person
    assert people.enroll("Bo", Image.fromarray(portrait(4, 2))).used == 1
    assert people.enroll("Bo", torch.from_numpy(portrait(4, 3)).permute(2, 0, 1)).used == 1
    assert people.people() == {"Bo": 4}
    want = squares()(np.stack(album(4, 4)))
    np.testing.assert_allclose(people.gallery.enrolled().embeddings, want, atol=1e-5)


def test_photographs_that_cannot_be_used_are_listed(tmp_path):
    good = write(tmp_path, album(1, 2))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    empty = np.zeros((112, 112, 3), np.uint8)
    flat = portrait(1, 3) // 8 + 100  # hardly any contrast
    pair = group(portrait(1), portrait(2))
    given = [tmp_path / "broken.jpg", good[0], tmp_path / "missing.jpg", empty, pair, good[1], flat]
    given.append(portrait(1)[::8, ::8])
    people = new()
    done = people.enroll("Ana", given)
    assert done.used == 2 and people.people() == {"Ana": 2}
    reasons = [(s.path, s.reason.split(":")[0]) for s in done.skipped]
    assert reasons == [
        (str(tmp_path / "broken.jpg"), "unreadable"),
        (str(tmp_path / "missing.jpg"), "unreadable"),
        ("an image", "no_face"),
        ("an image", "several_faces"),
        ("an image", "low_quality"),
        ("an image", "face_too_small"),
    ]
    bad = [p for i, p in enumerate(given) if i not in (1, 5)] + [empty, empty]
    with pytest.raises(ValueError, match="^Cy cannot be enrolled: ") as error:
        people.enroll("Cy", bad)
    for one in (
        "broken.jpg: unreadable",
        "missing.jpg: unreadable",
        "several_faces",
        "low_quality",
    ):
        assert one in str(error.value)
    assert str(error.value).count("no_face") == 3
    assert people.people() == {"Ana": 2}


@pytest.mark.parametrize("name", ["", "  ", "\n", "a\x00b", "x" * 201, "\u200b"])
def test_names_that_are_none(name):
    people = new()
    with pytest.raises(ValueError, match="name"):
        people.enroll(name, [np.zeros((112, 112, 3), np.uint8)])  # before looking at photographs
    assert not people.people()


@pytest.mark.parametrize("nothing", [[], "folder"])
def test_nothing_to_enrol(nothing, tmp_path):
    with pytest.raises(ValueError, match="Ana cannot be enrolled: no photographs"):
        new().enroll("Ana", tmp_path if nothing == "folder" else nothing)


class Upload:
    """A web framework's file, whose ``read`` is a coroutine, or like one."""

    def read(self, size=-1):
        return "later"


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (3, "int"),
        (None, "NoneType"),
        ({"a": "b.jpg"}, "dict"),
        (object(), "object"),
        (io.StringIO("text"), "StringIO gives str"),
        (Upload(), "Upload gives str"),
    ],
)
def test_what_is_no_photograph_is_refused_by_its_type(wrong, kind):
    people = known(2)
    for use in (
        people.identify,
        lambda p: people.identify([p]),
        lambda p: list(people.identify_each([p])),
        partial(people.enroll, "Ana"),
        lambda p: people.enroll("Ana", [portrait(0), p]),
        lambda p: people.verify(p, portrait(0)),
        lambda p: people.verify(portrait(0), p),
        lambda p: people.calibrate([p]),
    ):
        with pytest.raises(TypeError, match=kind):
            use(wrong)
    with pytest.raises(TypeError, match="^list is no photograph: give a path, the content"):
        people.identify([[portrait(0)]])


def test_a_file_opened_as_text_is_a_mistake(tmp_path):
    path = write(tmp_path, [portrait(0)])[0]
    with (
        open(path, encoding="utf-8") as file,
        pytest.raises(TypeError, match=r"TextIOWrapper gives str.*open\(path, 'rb'\)"),
    ):
        known(2).identify(file)


def test_a_file_that_is_open_keeps_its_name(tmp_path):
    people = known(3)
    path = write(tmp_path, [portrait(1, 8)])[0]
    with open(path, "rb") as file:
        for _ in range(2):  # from its start again
            assert names(people.identify(file)) == ["person 1"]
        both = people.identify([file] * 9)
        assert [(one.path, *names(one)) for one in both] == [(path, "person 1")] * 9
    assert people.identify(file).skipped == "unreadable"  # closed
    assert people.identify(b"no picture").skipped == "unreadable"
    with pytest.raises(ValueError, match=f"{path}: unreadable: .*closed"):
        people.enroll("Ana", file)


def test_what_is_no_picture_is_a_mistake():
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        new().identify(np.zeros((5, 112, 112, 7), np.uint8))


def identity_folders(top: Path, counts=(3, 1, 2), start: int = 0) -> Path:
    for i, count in enumerate(counts):
        write(top / f"person {i}", album(start + i, count))
    return top


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for one in sorted(folder.rglob("*.png")):
            file.write(one, one.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_enrol_everyone(kind, tmp_path, caplog):
    top = identity_folders(tmp_path / "people")
    (top / "person 2" / "broken.jpg").write_bytes(b"")
    write(top, [portrait(9)])  # nobody's
    (top / "person 3").mkdir()
    (top / "person 3" / "bad.png").write_bytes(b"x")
    source = top
    if kind == "zip":
        source = tmp_path / "people.zip"
        with zipfile.ZipFile(source, "w") as file:
            for one in sorted(p for p in top.rglob("*") if p.is_file()):
                file.write(one, one.relative_to(tmp_path))
    elif kind == "csv":
        source = tmp_path / "people.csv"
        rows = [f"{p},{p.parent.name}" for p in sorted(top.glob("*/*")) if p.is_file()]
        source.write_text("\n".join(["path,person", *reversed(rows)]), encoding="utf-8")
    people = new()
    done = {}
    for one in people.enroll_all(source, progress=False):
        done[one.name] = one
        assert people.people().get(one.name, 0) == one.used  # in the gallery when yielded
    assert {n: d.used for n, d in done.items()} == {
        "person 0": 3,
        "person 1": 1,
        "person 2": 2,
        "person 3": 0,
    }
    assert people.people() == {"person 0": 3, "person 1": 1, "person 2": 2}
    assert ("000.png skipped: beside the identity folders" in caplog.text) == (kind != "csv")
    (broken,) = done["person 2"].skipped
    assert "broken.jpg" in broken.path and broken.reason.startswith("unreadable")
    assert "bad.png" in done["person 3"].skipped[0].path
    people.calibrate(others(), progress=False)
    assert names(people.identify(portrait(1, 8))) == ["person 1"]


def test_enrol_everyone_of_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="nobody-here"):
        list(new().enroll_all(tmp_path / "nobody-here"))
    with pytest.raises(ValueError, match="identity folders|no usable person"):
        list(new().enroll_all(tmp_path))


def test_many_photographs_of_a_person_are_not_mixed_up(tmp_path):
    """More than are looked at together."""
    top = identity_folders(tmp_path / "people", (40, 1, 70, 33))
    people = new()
    assert [one.used for one in people.enroll_all(top, progress=False)] == [40, 1, 70, 33]
    held = people.gallery.enrolled()
    for i, count in enumerate((40, 1, 70, 33)):
        want = squares()(np.stack(album(i, count)))
        np.testing.assert_allclose(held.embeddings[held.person == i], want, atol=1e-5)


# ---------------------------------------------------------------- identify


def test_what_identify_returns(tmp_path):
    people = known(3)
    path = write(tmp_path / "one", [portrait(1, 9)])[0]
    pillow, array = Image.fromarray(portrait(1, 9)), portrait(1, 9)
    for one in (path, Path(path), array, pillow, torch.from_numpy(array).permute(2, 0, 1)):
        found = people.identify(one)
        assert isinstance(found, Identified) and len(found) == 1
        assert found[0].name == "person 1" and found[0] is found.faces[0]
        assert found.skipped is None
        assert found.path == (path if isinstance(one, (str, Path)) else None)
        assert isinstance(people.identify([one]), list)
    assert isinstance(people.identify(tmp_path / "one"), list)
    assert [one.path for one in people.identify(tmp_path / "one")] == [path]
    assert people.identify([]) == []
    assert [names(f) for f in people.identify_each(path)] == [["person 1"]]


def test_boxes_scores_and_strangers_of_a_group():
    people = known(4)
    picture = group(
        portrait(2, 7), portrait(6000), np.zeros((112, 112, 3), np.uint8), portrait(0, 7)
    )
    big = np.asarray(Image.fromarray(picture).resize((896, 224), Image.Resampling.NEAREST))
    for scale, shown in ((1, picture), (2, big)):
        found = people.identify(shown)
        assert names(found) == ["person 2", None, "person 0"]
        assert [m.box for m in found] == [
            (float(x * scale), 0.0, 112.0 * scale, 112.0 * scale) for x in (0, 112, 336)
        ]
        threshold = people.calibration().threshold
        for match in found:
            assert (match.score >= threshold) == (match.name is not None)
            assert match.nearest in people.people()
            assert match.probability == people.calibration().probability(match.score)
            assert all(type(v) is float for v in (*match.box, match.score, match.probability))
        assert found[1].probability < 0.5 < found[0].probability


def test_the_score_is_the_documented_one():
    people = known(4)
    match = people.identify(portrait(2, 7))[0]
    held = people.gallery.enrolled()
    probe = squares()(portrait(2, 7)[None])[0]
    mean = held.embeddings[held.person == 2].mean(0)
    cohort, _ = people.gallery.strangers()
    want = probe @ mean / np.linalg.norm(mean) - np.sort(cohort @ probe)[-50:].mean()
    assert match.score == pytest.approx(float(want), abs=1e-5)


def test_skipped_photographs_say_why(tmp_path):
    people = known(2)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    good = write(tmp_path / "x", [portrait(1, 9)])[0]
    empty = np.zeros((112, 112, 3), np.uint8)
    small = portrait(1)[::16, ::16]
    found = people.identify([tmp_path / "broken.jpg", good, tmp_path / "none.png", empty, small])
    reasons = [one.skipped for one in found]
    assert reasons == ["unreadable", None, "unreadable", "no_face", "face_too_small"]
    assert set(reasons) - {None} <= set(photos.REASONS)
    assert all(len(one) == 0 and one.detail for one in found if one.skipped)
    assert names(found[1]) == ["person 1"]
    alone = people.identify(tmp_path / "none.png")
    assert alone.skipped == "unreadable" and alone.path == str(tmp_path / "none.png")


def test_nobody_is_enrolled():
    people = new()
    found = people.identify(group(portrait(1), portrait(2)))
    assert [(m.name, m.nearest, m.score, m.probability) for m in found] == [(None,) * 4] * 2
    assert found[1].box == (112.0, 0.0, 112.0, 112.0)
    for call in (people.calibration, people.calibrate, partial(people.calibrate, others(3))):
        with pytest.raises(ValueError, match="nobody is enrolled"):
            call()
    assert not len(people.gallery.strangers()[0])  # refused before any work
    with pytest.raises(ValueError, match="nobody is enrolled"):
        people.adapt("anil")


def test_strangers_are_unknown_at_the_rate_asked():
    """New strangers, whom no calibration saw."""
    people = known(8, fpir=0.05)
    new_ones = [portrait(20_000 + i) for i in range(600)]
    named = sum(match.name is not None for one in people.identify(new_ones) for match in one)
    calibration = people.calibration()
    assert calibration.verified and calibration.supported
    assert calibration.low - 0.02 < named / 600 < calibration.high + 0.02
    again = people.identify([portrait(i, 40 + k) for i in range(8) for k in range(10)])
    right = [names(one) == [f"person {i // 10}"] for i, one in enumerate(again)]
    assert np.mean(right) > 0.95


# ---------------------------------------------------------------- verify


def test_verify():
    people = new()  # nobody need be enrolled
    for calibrated in (False, True):
        same = people.verify(portrait(1, 0), portrait(1, 1), fmr=0.01)
        other = people.verify(portrait(1, 0), portrait(2, 1), fmr=0.01)
        assert not other.same and (same.same or not calibrated)
        assert same.threshold == other.threshold and same.fmr == 0.01
        assert other.score < same.score and other.score < same.threshold
        assert same.verified == other.verified == calibrated
        people.enroll("Ana", album(1))
        people.calibrate(others(), progress=False)
    swapped = people.verify(portrait(2, 1), portrait(1, 0), fmr=0.01)
    assert swapped.score == pytest.approx(other.score)
    rates = [people.verify(portrait(1), portrait(2), fmr).threshold for fmr in (0.1, 0.01, 0.001)]
    assert rates == sorted(rates) and rates[0] < rates[2]


def test_verify_keeps_its_rate():
    people = known(1)
    rate = 0.05
    pairs = [(portrait(30_000 + i), portrait(40_000 + i)) for i in range(400)]
    wrong = [people.verify(a, b, rate).same for a, b in pairs]
    assert 0.02 < np.mean(wrong) < 0.09


def test_verify_by_few_strangers_is_not_bolder_than_by_none():
    none, few = known(1, fpir=None), known(1, fpir=None)
    few.calibrate(others(3), progress=False)
    for person in range(2, 12):
        a, b = (one.verify(portrait(1), portrait(person)) for one in (none, few))
        assert a == b and not b.verified


def test_verify_names_the_photograph_that_cannot_be_used(tmp_path):
    people = new()
    with pytest.raises(Unusable, match="missing.jpg") as error:
        people.verify(portrait(1), tmp_path / "missing.jpg")
    assert error.value.reason == "unreadable"
    with pytest.raises(Unusable, match="several_faces: an image") as error:
        people.verify(group(portrait(1), portrait(2)), portrait(1))
    assert error.value.reason == "several_faces"
    with pytest.raises(ValueError, match="fmr=2"):
        people.verify(portrait(1), portrait(1), fmr=2)


# ---------------------------------------------------------------- forget


def reachable(top: object) -> list[np.ndarray]:
    """Every array and tensor that can be reached from an object."""
    found, seen, stack = [], set(), [top]
    skip = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, skip):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one.detach().cpu().numpy())
        elif isinstance(one, np.ndarray):
            found.append(one)
            stack.append(one.base)
        else:
            stack.extend(gc.get_referents(one))
            stack.extend(v for v in getattr(one, "__dict__", {}).values())
    return found


def holds(top: object, row: np.ndarray) -> bool:
    return any(row.tobytes() in array.tobytes() for array in reachable(top))


@pytest.mark.parametrize("learner", [None, "anil", "maml"])
def test_nobody_forgotten_is_named_again(learner):
    people = known(5, 4, fpir=0.05, keep_crops=True)
    if learner:
        force(people, learner)
    mine = people.gallery.enrolled()
    rows = mine.embeddings[mine.person == 2]
    prototype = Prototypes(
        faces_of(rows), np.zeros(len(rows), int), Cohort(rows[:0], mine.person[:0])
    ).engine._vectors[0]
    assert people.identify(portrait(2, 9))[0].nearest == "person 2"
    state = people._identifier._state
    assert learner or holds(people, prototype)
    engine = getattr(state.matcher, "engine", None)
    assert people.forget("person 2") == 4
    assert "person 2" not in people.people()
    for row in (*rows, prototype):
        assert not holds(people, row)
        assert engine is None or not holds(engine, row)
    del state
    probes = people.identify([portrait(2, 9), portrait(2, 0), portrait(3, 9), portrait(2, 10)])
    assert all("person 2" not in (m.name, m.nearest) for one in probes for m in one)
    assert probes[2][0].nearest == "person 3"
    for row in (*rows, prototype):
        assert not holds(people, row)
    # and what there is now is what there would be, had they never been enrolled
    fresh = new(keep_crops=True)
    for i in (0, 1, 3, 4):
        fresh.enroll(f"person {i}", album(i, 4))
    fresh.calibrate(others(), 0.05, progress=False)
    if learner:
        force(fresh, learner)
    for one, other in zip(probes, fresh.identify([portrait(2, 9)]), strict=False):
        assert one[0].nearest == other[0].nearest
        assert one[0].score == pytest.approx(other[0].score, rel=1e-4)
    assert people.calibration().threshold == pytest.approx(fresh.calibration().threshold, rel=1e-4)


def faces_of(embeddings):
    return Embeddings(embeddings)


def force(people: Recognizer, learner: str, **options) -> None:
    """Adapt, whatever it is judged to be worth."""
    setting = {"learner": learner, "options": options}
    people.gallery.set_setting("adaptation", setting)


def test_forgetting_nobody_and_everybody():
    people = known(2)
    with pytest.raises(GalleryError, match="Zoe") as error:
        people.forget("Zoe")
    assert error.value.reason == "unknown_person"
    assert names(people.identify(portrait(0, 9))) == ["person 0"]  # still
    people.forget("person 0")
    people.forget(" person 1 ")
    assert people.people() == {} and names(people.identify(portrait(0, 9))) == [None]
    people.enroll("person 1", album(5))
    assert people.identify(portrait(1, 9))[0].name is None
    assert people.identify(portrait(5, 9))[0].name == "person 1"


def test_a_collection_that_outlives_the_recogniser_forgets_too():
    """Such as a server's: it is filled by every recogniser of the gallery."""
    engine = Exact(32)
    people = known(4, search=lambda dim: engine)
    assert names(people.identify(portrait(3, 9))) == ["person 3"] and len(engine) == 4
    people.forget("person 1")
    assert names(people.identify(portrait(3, 9))) == ["person 3"] and len(engine) == 3
    assert people.identify(portrait(1, 9))[0].nearest != "person 1"


# ---------------------------------------------------------------- save and load


def test_save_load_and_go_on(tmp_path):
    people = known(3)
    before = people.identify(portrait(1, 9))
    path = tmp_path / "office.gallery"
    people.save(path)
    loaded = new(path)
    assert loaded.people() == people.people()
    assert loaded.identify(portrait(1, 9)) == before
    assert loaded.calibration() == people.calibration()
    people.enroll("Zoe", album(77))  # goes on with that file
    assert (
        loaded.people() == new(path).people() == {**{f"person {i}": 3 for i in range(3)}, "Zoe": 3}
    )
    people.save(path)  # its own name: all is there
    people.save(tmp_path / "x" / ".." / "office.gallery") if (tmp_path / "x").mkdir() else None
    assert names(loaded.identify(portrait(77, 9))) == ["Zoe"]
    copy = tmp_path / "copy.gallery"
    people.save(copy)
    people.forget("Zoe")
    assert "Zoe" not in new(copy).people() and "Zoe" in new(path).people()
    with pytest.raises(GalleryError) as error:
        (tmp_path / "letter").write_text("dear")
        people.save(tmp_path / "letter")
    assert error.value.reason == "not_a_gallery"
    assert people.people() and (tmp_path / "letter").read_text() == "dear"


def test_every_command_closes_its_gallery(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opened = []

    def made(*_, gallery, keep_crops=None, **__):
        opened.append(new(gallery, keep_crops=keep_crops))
        return opened[-1]

    monkeypatch.setattr(Recognizer, "from_pretrained", made)
    photo = str(tmp_path / "1.png")
    Image.fromarray(portrait(1)).save(photo)
    gallery = ["--gallery", str(tmp_path / "a.gallery")]
    for arguments in (
        ["verify", photo, photo],  # without one, in memory
        ["enroll", "Ana", photo, *gallery],
        ["identify", photo, *gallery],
        ["calibrate", *gallery],
        ["adapt", "prototypes", *gallery],
        ["identify", str(tmp_path / "none.png"), *gallery],
    ):
        status = main(arguments)
        assert status == (2 if "none" in arguments[1] else 0), capsys.readouterr().err
        with pytest.raises(GalleryError, match="was closed: open it again") as refused:
            opened[-1].people()
        assert refused.value.reason == "gallery_closed"
    assert len(opened) == 6


def test_a_gallery_of_another_model_is_refused(tmp_path):
    path = tmp_path / "a.gallery"
    new(path).enroll("Ana", album(1))
    with pytest.raises(GalleryError, match="squares-0.*squares-1") as error:
        new(path, embedder=squares(1))
    assert error.value.reason == "gallery_model_mismatch"


def test_load_of_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.gallery"):
        Recognizer.load(tmp_path / "none.gallery")


def test_two_recognisers_of_one_file_see_each_others_changes(tmp_path):
    path = tmp_path / "a.gallery"
    one, two = new(path), new(path)
    one.enroll("Ana", album(1, 6))
    assert two.identify(portrait(1, 9))[0].nearest == "Ana"
    two.enroll("Bo", album(2, 6))
    two.calibrate(others(), 0.02, progress=False)
    assert one.identify(portrait(2, 9))[0].name == "Bo"
    assert one.calibration() == two.calibration()
    one.calibrate(fpir=0.2)  # a setting alone
    assert two.calibration().fpir == 0.2 and two.calibration() == one.calibration()
    probe = portrait(2, 9)
    plain = one.identify(probe)[0].score
    force(one, "anil")
    assert two.identify(probe)[0].score != pytest.approx(plain)
    assert two.identify(probe)[0].score == pytest.approx(one.identify(probe)[0].score)
    two.adapt(None)
    assert one.identify(probe)[0].score == pytest.approx(plain)
    two.forget("Bo")
    assert one.identify(probe)[0].nearest == "Ana"


# ---------------------------------------------------------------- calibration


def test_the_threshold_follows_the_gallery():
    people = known(2, fpir=0.05)
    thresholds = [people.calibration().threshold]
    for i in range(2, 30):
        people.enroll(f"person {i}", album(i, 1 + i % 4))
        if i % 9 == 0:
            thresholds.append(people.calibration().threshold)
            fresh = people.calibrate(others(), 0.05, progress=False)
            assert fresh == people.calibration()
            assert fresh.threshold == pytest.approx(thresholds[-1], abs=1e-6)
    assert (np.diff(thresholds) > -1e-6).all() and thresholds[-1] > thresholds[0] + 0.05
    many = people.calibration()
    for i in range(20, 30):
        people.forget(f"person {i}")
    assert people.calibration().threshold < many.threshold + 1e-6


def test_calibration_by_hand():
    """The rate of strangers, each without their own photographs in the cohort."""
    people = known(5, 2, fpir=None)
    people.calibrate(others(), fpir=0.03, progress=False)
    held, (strange, person) = people.gallery.enrolled(), people.gallery.strangers()
    assert len(strange) == 120 and len(set(person.tolist())) == 120
    means = np.stack([held.embeddings[held.person == i].mean(0) for i in range(5)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    best = []
    for i, one in enumerate(strange):
        rest = np.delete(strange, i, 0) @ one
        best.append((means @ one).max() - np.sort(rest)[-50:].mean())
    found = people.calibration()
    want = calibrate(np.array(best), person, 0.03)
    assert found.threshold == pytest.approx(want.threshold, abs=1e-5)
    assert (found.expected, found.low, found.high) == (want.expected, want.low, want.high)
    assert found.verified and found.supported and (found.fpir, found.strangers) == (0.03, 120)
    assert found.tpir_photos == 10 and found.tpir == 1


def test_another_rate_uses_the_strangers_there_are():
    people = known(5)
    found = [people.calibrate(fpir=fpir) for fpir in (0.01, 0.05, 0.3)]
    assert [c.fpir for c in found] == [0.01, 0.05, 0.3]
    assert found[0].threshold > found[1].threshold > found[2].threshold
    assert all(c.verified and c.strangers == 120 for c in found)
    assert people.calibration() == found[2]
    for fpir in (0, 1, -1, 7):
        with pytest.raises(ValueError, match=f"fpir={fpir}"):
            people.calibrate(fpir=fpir)
    assert people.calibration() == found[2]


def test_strangers_of_every_kind(tmp_path):
    """Of folders everybody is one; of a folder or list without, everybody is somebody else."""
    top = identity_folders(tmp_path / "strangers", (3, 2, 1) * 10, start=1000)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / ".hidden").mkdir()
    for i, path in enumerate(sorted(top.rglob("*.png"))):
        (flat / f"{i:03d}.png").write_bytes(path.read_bytes())
    pictures = [path.read_bytes for path in sorted(top.rglob("*.png"))]
    for source, count in ((top, 30), (str(top), 30), (zipped(top), 30), (flat, 60), (pictures, 60)):
        people = known(2, fpir=None)
        found = people.calibrate(source, 0.1, progress=False)
        assert (found.strangers, found.stranger_photos) == (count, 60)
        assert found.verified and found.supported


def test_strangers_that_are_none(tmp_path):
    people = known(2)
    before = people.calibration()
    empty = np.zeros((112, 112, 3), np.uint8)
    (tmp_path / "broken.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="no usable photograph of a stranger: 2 no_face, 1 unread"):
        people.calibrate([empty, empty, tmp_path / "broken.jpg"], progress=False)
    with pytest.raises(ValueError, match="no photographs of strangers"):
        people.calibrate([], progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        people.calibrate(tmp_path / "nowhere", progress=False)
    assert people.calibration() == before


def test_unusable_strangers_are_left_out(caplog):
    people = known(2, fpir=None)
    empty = np.zeros((112, 112, 3), np.uint8)
    given = [empty, *others(60), group(portrait(1), portrait(2)), empty]
    found = people.calibrate(given, 0.05, progress=False)
    assert found.strangers == found.stranger_photos == 60
    assert "photographs of strangers skipped: 2 no_face, 1 several_faces" in caplog.text


def as_casia(monkeypatch, people):
    """Have the toy embedder go by a name whose false match rates are published."""
    monkeypatch.setattr(people.embedder, "name", "mobilefacenet_casia")
    return partial(published.published_threshold, people.embedder)


def test_without_strangers_the_rate_is_unverified_and_cautious(monkeypatch):
    people = known(6, fpir=None)
    found = people.calibration()
    assert not found.verified and "unverified" in str(found)
    assert found.probability(1.0) is None
    assert people.identify(portrait(1, 9))[0].probability is None
    own = people.gallery.enrolled()
    means = np.stack([own.embeddings[own.person == i].mean(0) for i in range(6)])
    cosines = own.embeddings @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    cosines[np.arange(len(own.person)), own.person] = -1
    assert found.threshold > cosines.max()  # above what they take each other for
    published = as_casia(monkeypatch, people)
    people._identifier._state = None
    for fpir in (0.2, 0.01, 1e-4):
        assert people.calibrate(fpir=fpir).threshold >= published(6, fpir)
    assert published(6, 1e-4) > 0.5
    assert names(people.identify(portrait(1, 9))) == ["person 1"]


@pytest.mark.parametrize("count", [1, 3, 20, 98])
def test_few_strangers_are_not_bolder_than_none(monkeypatch, count):
    """Three of them say little of a rate of 1%: strangers must not pass for it."""
    people = known(6, fpir=None)
    published = as_casia(monkeypatch, people)
    found = people.calibrate(others(count), 0.01, progress=False)
    assert not found.verified and not found.supported and found.expected > 0.01
    cohort, person = people.gallery.strangers()
    shift = Cohort(cohort, person).baseline(cohort, person).mean()
    assert found.threshold >= published(6, 0.01) - shift - 1e-6
    assert shift == 0 or count >= 50
    cohort = [portrait(1000 + i) for i in range(count)]
    assert all(name is None for one in people.identify(cohort[:20]) for name in names(one))


def test_an_enrolled_person_among_the_strangers_is_reported_and_left_out(caplog):
    people = known(6, fpir=None)
    clean = people.calibrate(others(), 0.01, progress=False)
    assert "looks like" not in caplog.text
    mixed = people.calibrate([*others(), portrait(2, 50)], 0.01, progress=False)
    assert "photograph 121 looks like person 2 (0." in caplog.text
    assert "photograph 121 looks like person 2" in next(
        r.getMessage() for r in caplog.records if "left out of the strangers" in r.getMessage()
    )
    assert mixed == clean


# ---------------------------------------------------------------- adaptation


@every_learner
def test_every_learner_adapts(name):
    people = known(5, 3, fpir=0.05, keep_crops=True)
    if name == "laplacian":  # whose queries see each other
        with pytest.raises(ValueError, match="laplacian is transductive"):
            people.adapt(name)
        return
    before = people.identify(portrait(3, 9))
    tried = people.adapt(name)
    assert tried.learner == name and tried.judged_on == "enrolled" and tried.photographs == 15
    assert 0 <= tried.adapted <= 1 and tried.prototypes > 0.9
    assert tried.kept == (tried.adapted >= tried.prototypes)
    assert (people.gallery.setting("adaptation") is not None) == tried.kept
    assert people.identify(portrait(3, 9))[0].nearest == "person 3"
    force(people, name)
    for repeat in range(2):
        found = people.identify([portrait(3, 9), group(portrait(3, 9), portrait(9000))])
        assert found[1][0].score == pytest.approx(found[0][0].score, rel=1e-3), repeat
        assert found[0][0].score != pytest.approx(before[0].score, abs=1e-4)
    calibration = people.calibration()
    assert calibration.verified and calibration.tpir_photos == 15
    known_now = people._identifier.state()
    strange = Embeddings(known_now.cohort.embeddings, people.gallery.stranger_crops())
    best, _ = known_now.matcher(strange, known_now.cohort.person)
    assert (best >= calibration.threshold).mean() <= 0.05
    assert people.adapt(None) is None
    assert people.identify(portrait(3, 9)) == before


def test_who_cannot_adapt():
    people = known(3)
    for name, learner in LEARNERS.items():
        if name.startswith("l2l") or isinstance(learner(tiny()), FeatureLearner):
            continue
        with pytest.raises(
            ValueError, match=f"{re.escape(name)} adapts the whole network.*keep_crops=True"
        ):
            people.adapt(name)
    with pytest.raises(ValueError, match="no learner 'nonsense': choose one of"):
        people.adapt("nonsense")
    assert people.gallery.setting("adaptation") is None

    frozen = new(embedder=Frozen())
    frozen.enroll("Ana", album(1))
    frozen.calibrate(others(20), progress=False)
    with pytest.raises(ValueError, match="frozen is no network of MetaFace"):
        frozen.adapt("anil")

    alone = known(3, fpir=None)
    with pytest.raises(ValueError, match="no strangers.*calibrate"):
        alone.adapt("anil")


class Frozen:
    """An embedder that is no network, as of an ONNX file."""

    name, digest, dim = "frozen", "ff", 32

    def __call__(self, crops):
        return squares()(crops)


def test_what_needs_other_photographs_is_refused(monkeypatch):
    class Transductive(LEARNERS["anil"]):
        transductive = True

    monkeypatch.setitem(LEARNERS, "anil", Transductive)
    with pytest.raises(ValueError, match="anil is transductive"):
        known(3).adapt("anil")
    with pytest.raises(ValueError, match="transductive"):
        Network(nets.Conv4(3, norm="batch"), Preprocessing(), name="b", architecture="conv4")


def lit(people: int = 12, shots: int = 6, light: float = 60) -> Recognizer:
    """People under lights that drown them: a direction of the embedding that says nothing."""

    def taken(person, count):
        amounts = np.random.default_rng([person, 5]).normal(size=count)
        return [portrait(person, k, light * a) for k, a in enumerate(amounts)]

    found = new()
    for i in range(people):
        found.enroll(f"person {i}", taken(i, shots))
    found.calibrate([taken(1000 + i, 1)[0] for i in range(120)], 0.05, progress=False)
    return found


LEARNT = {"inner_steps": 300, "head_lr": 10.0}


def test_a_head_that_learns_what_to_leave_out_is_kept(tmp_path):
    people = lit()
    people.save(tmp_path / "a.gallery")
    plain = people.calibration()
    tried = people.adapt("anil", **LEARNT)
    assert tried.kept and tried.adapted > tried.prototypes + 0.1
    assert tried.photographs == 60  # five of each, one by one
    assert f"kept, names {100 * tried.adapted:.1f}% of 60" in str(tried)
    adapted = people.calibration()
    assert adapted.tpir > plain.tpir + 0.1
    loaded = new(tmp_path / "a.gallery")  # by its setting, made anew
    probe = portrait(3, 90, 40)
    assert loaded.identify(probe)[0].score == pytest.approx(people.identify(probe)[0].score)
    assert loaded.calibration() == adapted
    loaded.enroll("Zoe", album(500, 4))  # and it knows whoever comes
    assert people.identify(portrait(500, 9))[0].nearest == "Zoe"
    assert people.adapt(None) is None
    assert people.calibration().tpir == pytest.approx(lit_with_zoe().tpir)


def lit_with_zoe():
    people = lit()
    people.enroll("Zoe", album(500, 4))
    return people.calibration()


def test_a_head_that_hurts_is_not_kept():
    people = known(6)
    before = people.identify(portrait(1, 9))
    tried = people.adapt("anil", head_lr=0.0)  # zero for everybody
    assert not tried.kept and tried.adapted == 0 and tried.prototypes > 0.9
    assert "anil: not kept" in str(tried)
    assert people.gallery.setting("adaptation") is None
    assert people.identify(portrait(1, 9)) == before
    people.adapt("anil", **LEARNT)
    people.adapt("anil", head_lr=0.0)  # what was kept before is not used either
    assert people.gallery.setting("adaptation") is None


def test_the_verdict_is_of_photographs_that_were_not_learnt(monkeypatch):
    """Recomputed by hand from what was made and asked."""
    people = lit(8, 4)
    made = []

    class Spy(adaptation.LearnerMatcher):
        def __init__(self, held, person, **options):
            super().__init__(held, person, **options)
            self.held, self.answers = held, []
            self.people = set(person.tolist())
            made.append(self)

        def __call__(self, probes, cohort_person=None):
            answer = super().__call__(probes, cohort_person)
            self.answers.append((probes, cohort_person, answer))
            return answer

    monkeypatch.setattr(adaptation, "LearnerMatcher", Spy)
    tried = people.adapt("anil", **LEARNT)
    enrolled = people.gallery.enrolled()
    owner = {row.tobytes(): p for row, p in zip(enrolled.embeddings, enrolled.person, strict=True)}
    whole = [m for m in made if len(m.held) == 32]
    ((_, _, (alarms, _)),) = whole[0].answers
    cut = np.sort(alarms)[int(np.ceil(0.95 * (len(alarms) - 1)))]
    right, asked = 0, set()
    for one in made:
        if one in whole:
            continue
        assert one.people == set(range(8))
        learnt = {row.tobytes() for row in one.held.embeddings}
        ((probes, _, (score, who)),) = one.answers
        for row, s, w in zip(probes.embeddings, score, who, strict=True):
            key = row.tobytes()
            assert key not in learnt and key not in asked
            asked.add(key)
            right += owner[key] == w and s >= cut
    assert asked == set(owner) and len(made) == 4 + 1
    assert tried.photographs == 32 and tried.adapted == pytest.approx(right / 32, abs=0.04)


def test_with_one_photograph_a_person_strangers_judge():
    people = known(6, 1, fpir=None)
    top = [(1000 + i, k) for i in range(60) for k in range(1 + i % 3)]
    given = [portrait(*one) for one in top]
    whose = np.array([p for p, _ in top])
    people.gallery.set_strangers(squares()(np.stack(given)), whose)
    tried = people.adapt("anil")
    assert tried.judged_on == "strangers" and tried.photographs == 2 * 20
    assert tried.adapted is not None and tried.kept == (tried.adapted >= tried.prototypes)
    assert "of strangers" in str(tried)
    found = people.calibration()
    assert found.tpir is None and found.probability(1.0) is None


def test_with_one_photograph_of_everybody_nothing_judges():
    people = known(6, 1)
    before = people.identify(portrait(1, 9))
    tried = people.adapt("anil")
    assert (tried.kept, tried.judged_on, tried.photographs) == (False, "nothing", 0)
    assert tried.adapted is None and "not used" in str(tried)
    assert people.gallery.setting("adaptation") is None
    assert people.identify(portrait(1, 9)) == before


def test_crops_are_read_only_by_those_who_need_them(monkeypatch):
    """A photograph's crop takes 37 kB, its embedding a half."""
    people = known(4, keep_crops=True)
    reads = []
    for name in ("crops", "stranger_crops"):
        read = getattr(people.gallery, name)
        monkeypatch.setattr(
            people.gallery, name, lambda name=name, read=read: (reads.append(name), read())[1]
        )
    people.calibrate(others(), progress=False)
    people.adapt("anil")
    people.identify(portrait(1, 9))
    assert reads == []
    people.adapt("maml")
    assert set(reads) == {"crops", "stranger_crops"}


def test_a_gallery_too_large_to_adapt_to(monkeypatch, caplog):
    """All of it is learnt at once: refused, and of a gallery that has grown, prototypes again."""
    people = known(6, 2, keep_crops=True)
    plain = known(6, 2).identify(portrait(1, 9))
    for limit, learner in (("_MOST_CROPS", "maml"), ("_MOST_LOGITS", "anil")):
        force(people, learner)
        assert people.identify(portrait(1, 9))[0].score != pytest.approx(plain[0].score)
        monkeypatch.setattr(adaptation, limit, 11)
        people._identifier._state = None
        assert people.identify(portrait(1, 9)) == plain
        assert people.calibration().tpir == 1
        assert f"prototypes are used again: {learner}" in caplog.text
        with pytest.raises(ValueError, match=f"{learner} .*12"):
            people.adapt(learner)


def test_without_its_strangers_an_adaptation_rests():
    people = known(6)
    plain = known(6, fpir=None).identify(portrait(1, 9))
    assert people.adapt("anil").kept
    people.gallery.clear_strangers()
    assert people.identify(portrait(1, 9))[0].score == pytest.approx(plain[0].score)


# ---------------------------------------------------------------- killed


def killed(times: int, folder: Path, seed: int) -> None:
    """Enrol 24 people, again and again, each time killed when so many are done and some more."""
    counts = [1 + i % 3 for i in range(24)]
    top = folder / "people"
    for i, count in enumerate(counts):
        write(top / f"person {i:02d}", album(i, count))
    chance = random.Random(seed)
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, here / "recognizer_child.py", top],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    with child:
        assert child.stdout.readline() == "ready\n"

        def run(path: Path, after: int, wait: float) -> list[str]:
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            number, told = int(child.stdout.readline()), []
            for line in child.stdout:
                if line == "end\n":
                    return told
                told.append(line.strip())
                if len(told) == after:
                    time.sleep(wait)
                    with suppress(ProcessLookupError):  # it was quicker
                        os.kill(number, signal.SIGKILL)  # whom the child waits for
            raise AssertionError("the child has died")

        from recognizer_child import gallery

        every = [f"person {i:02d}" for i in range(24)]
        assert run(folder / "whole", 99, 0) == every
        with gallery(folder / "whole") as whole:
            want = whole.enrolled()
        cut_short = 0
        for i in range(times):
            path = folder / f"{i}.gallery"
            told = run(path, chance.randint(1, 22), chance.random() * 0.01)
            with gallery(path) as left:
                found = left.enrolled()
            done = len(found.names)
            assert list(found.names) == every[:done] and len(told) <= done <= len(told) + 1
            assert told == every[: len(told)]
            photographs = sum(counts[:done])
            np.testing.assert_array_equal(found.embeddings, want.embeddings[:photographs])
            np.testing.assert_array_equal(found.person, want.person[:photographs])
            cut_short += done < 24
        assert cut_short
        child.stdin.close()
    assert child.returncode == 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")


@needs_fork
def test_killed_while_enrolling(tmp_path):
    killed(8, tmp_path, seed=0)


@needs_fork
@pytest.mark.slow
def test_killed_fifty_times_while_enrolling(tmp_path):
    killed(50, tmp_path, seed=1)


# ---------------------------------------------------------------- real models


@pytest.fixture(scope="module")
def models(test_data):
    test_data("weights/yunet_n_640_640.onnx")
    return test_data("weights/mobilefacenet_casia.ckpt").parent


@pytest.fixture(scope="module")
def drawn():
    """Procedural faces: five people, four photographs each."""
    made = synthetic.render(
        people=5, photos=4, image_size=224, domains="frontal", seed=3, progress=False
    )
    return made.images, made.person


def test_procedural_faces_through_real_models(models, drawn, tmp_path):
    images, person = drawn
    people = Recognizer.from_pretrained(models=models, gallery=tmp_path / "a.gallery")
    for i in range(5):
        people.enroll(f"person {i}", images[person == i][:3])
    assert not people.calibration().verified
    wide = np.concatenate([images[person == i][3] for i in (4, 2)], 1)
    found = people.identify(wide)
    by_place = sorted(found, key=lambda match: match.box[0])
    assert [match.nearest for match in by_place] == ["person 4", "person 2"]
    assert by_place[0].box[0] + by_place[0].box[2] <= 224 <= by_place[1].box[0] + 8
    assert np.isclose(people.verify(images[0], images[0]).score, 1, atol=1e-4)
    loaded = Recognizer.load(tmp_path / "a.gallery", models=models)
    assert loaded.identify(wide) == found
    loaded.forget("person 4")
    assert all(match.nearest != "person 4" for match in people.identify(wide))


def test_models_that_are_missing(models, tmp_path):
    with pytest.raises(ModelMissing, match="metaface models fetch mobilefacenet_casia"):
        Recognizer.from_pretrained(models=tmp_path)
    with pytest.raises(ModelMissing, match="--detector cascade"):
        default_detector(tmp_path)


def test_lfw_from_a_few_photographs(models, test_data):
    """Ten people of three photographs each, a fourth to be identified; and 150 strangers."""
    archive = zipfile.ZipFile(test_data("lfw_deepfunneled.zip"))
    by_person: dict[str, list[str]] = {}
    for entry in sorted(archive.namelist()):
        if entry.endswith(".jpg"):
            by_person.setdefault(entry.split("/")[-2], []).append(entry)
    able = [p for p, files in by_person.items() if len(files) >= 4]
    mine, aside = able[:10], [p for p in by_person if p not in able][:150]

    def read(entry):
        return partial(archive.read, entry)

    people = Recognizer.from_pretrained(models=models)
    with archive:
        for name in mine:
            people.enroll(name, [read(e) for e in by_person[name][:3]])
        cautious = people.calibration()
        unverified = people.identify([read(by_person[p][3]) for p in mine])
        calibration = people.calibrate([read(by_person[p][0]) for p in aside[:120]], progress=False)
        found = people.identify([read(by_person[p][3]) for p in mine])
        unknown = people.identify([read(by_person[p][0]) for p in aside[120:]])
    assert calibration.verified and calibration.supported and not cautious.verified
    least = published.published_threshold(people.embedder, 10, 0.01)
    assert cautious.threshold >= least

    def centre(identified):
        return min(identified, key=lambda m: abs(m.box[0] + m.box[2] / 2 - 125))

    assert sum(centre(one).name == name for one, name in zip(found, mine, strict=True)) >= 9
    assert sum(centre(one).name == n for one, n in zip(unverified, mine, strict=True)) >= 8
    assert sum(centre(one).name is not None for one in unknown if one.faces) <= 1
    assert calibration.tpir >= 0.9


def test_a_trained_network_recognises_too(tmp_path):
    """Any network of MetaFace, such as a Conv4 of `metaface train`."""
    net = Network(tiny(), Preprocessing(size=(16, 16)), name="conv4", architecture="conv4")
    people = known(3, embedder=net, fpir=0.2)
    assert people.identify(portrait(2, 0))[0].nearest == "person 2"
    assert net.dim == people.gallery.dim
