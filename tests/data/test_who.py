"""Who is who: one person under several names or in several sets, one picture in several places."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Row, portrait, squares, tiny, train
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from metaface import FaceSet, _torch_file, checkpoint
from metaface.cli import main
from metaface.data import load
from metaface.data._content import is_distinctive
from metaface.data._sources import open_source
from metaface.data.domain_split import join_domains, paired_domains, split_together
from metaface.experiments import benchmark, cross_domain
from metaface.experiments.protocols import align_people
from metaface.faces.photos import list_folder
from metaface.learners import Prototypical
from metaface.learners.spec import load_model
from metaface.options import BenchmarkSettings, CrossDomainSettings
from metaface.recognition.embedders.loading import load as load_embedder
from metaface.recognition.strangers import open_strangers

NAMES = ["Zoë", "José", "Ana", "Bo", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal", "Ida", "Jo"]
SMALL = {"image_size": 16, "shots": (1,), "queries": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METAFACE_CACHE", str(tmp_path / "cache"))


def picture(number: int) -> Image.Image:
    """A picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(pixels.repeat(5, 0).repeat(5, 1))


def album(folder: Path, names=NAMES, photos: int = 4, first: int = 0, suffix: str = ".png") -> Path:
    """A folder of people, every photograph another; ``first``: of their numbers."""
    for person, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(photos):
            picture(first + 100 * person + i).save(folder / name / f"{i}{suffix}")
    return folder


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, str(file.relative_to(folder.parent)))
    return path


def people_of(faces: FaceSet) -> set[str]:
    return {faces.people[p] for p in faces.person_ids}


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


# --- names


@pytest.mark.parametrize("form", ["folder", "zip", "csv", "arrays", "data set"])
def test_a_name_written_in_two_ways_is_one_person(tmp_path, form):
    if form == "arrays":
        images = np.stack([np.asarray(picture(n)) for n in range(4)])
        faces = FaceSet.from_arrays(images, [0, 1, 2, 1], people=["Zoë", "Bo", nfd("Zoë")])
    elif form == "data set":

        class Named(list):
            classes = ("Zoë", "Bo")

        class Apart(list):
            classes = (nfd("Zoë"), "Cy")

        some = [Named([(picture(0), 0), (picture(1), 1)]), Apart([(picture(2), 0)])]
        faces = load(ConcatDataset(some), image_size=16)
    else:
        source = album(tmp_path / "p", ["Zoë", nfd("Zoë"), "Bo"], photos=2)
        if form == "csv":
            rows = [f"p/{f.parent.name}/{f.name},{f.parent.name}" for f in source.rglob("*.png")]
            source = tmp_path / "p.csv"
            source.write_text("\n".join(["path,person", *rows]))
        faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert people_of(faces) == {"Zoë", "Bo"}
    assert faces.photos().max() == {"folder": 4, "zip": 4, "csv": 4}.get(form, 2)


# --- people of two sets


def two(train_data, test_data) -> benchmark.People:
    settings = BenchmarkSettings(
        data=None, train_data=str(train_data), test_data=str(test_data), **SMALL
    )
    return benchmark.load_people(settings, progress=False)


def test_who_was_trained_on_is_not_tested_in_a_renamed_copy(tmp_path, caplog):
    photos = album(tmp_path / "photos")
    copy = tmp_path / "copy"
    for person, name in enumerate(NAMES):  # other names for people and files
        shutil.copytree(photos / name, copy / f"person{person}")
    with pytest.raises(ValueError, match=r"everybody in it was seen in training \(.*there Ana"):
        two(photos, copy)
    album(copy, ["Kim", "Lou", "Max"], first=5000)
    people = two(photos, copy)
    assert people_of(people.test) == {"Kim", "Lou", "Max"}
    assert "12 people were seen in training, and are not tested" in people.notes[0]
    assert "there Ana" in caplog.text or "there Zoë" in caplog.text


def test_names_in_another_form_are_the_same_people_in_a_copy(tmp_path):
    photos = album(tmp_path / "photos")
    shutil.copytree(photos, tmp_path / "copy")
    for name in ("Zoë", "José"):
        (tmp_path / "copy" / name).rename(tmp_path / "copy" / nfd(name))
    with pytest.raises(ValueError, match="everybody in it was seen"):
        two(photos, tmp_path / "copy")


def test_one_photograph_in_common_is_enough(tmp_path, caplog):
    photos, others = album(tmp_path / "a"), album(tmp_path / "b", list("KLMN"), first=5000)
    shutil.copy(photos / "Bo" / "1.png", others / "K" / "x.png")
    assert people_of(two(photos, others).test) == set("LMN")
    assert "K, there Bo" in caplog.text


def test_two_folders_of_one_name_are_two_sets(tmp_path, caplog):
    first = album(tmp_path / "a" / "photos", [f"s{n}" for n in range(10)])
    second = album(tmp_path / "b" / "photos", [f"s{n}" for n in range(10)], first=5000)
    people = two(first, second)
    assert len(people.test.person_ids) == 10
    assert len(people.train.person_ids) + len(people.val.person_ids) == 10
    assert "10 people have names of people of photos" in caplog.text


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_people_of_train_and_val_are_the_same(tmp_path, caplog, form):
    album(tmp_path / "set" / "train")
    album(tmp_path / "set" / "val", first=5000)
    whole, train_part, val_part = tmp_path / "set", tmp_path / "set/train", tmp_path / "set/val"
    if form == "zip":
        whole = zipped(whole)
        train_part, val_part = zipped(train_part), zipped(val_part)
    faces = load(whole, image_size=16)
    assert people_of(faces) == set(NAMES) and (faces.photos() == 8).all()
    assert "train and val are taken for parts of one set" in caplog.text
    with pytest.raises(ValueError, match="everybody in it was seen in training"):
        two(train_part, val_part)
    apart = load(train_part, image_size=16)
    assert apart.name == "set/train" and people_of(apart) == set(NAMES)


def test_groups_of_other_people_stay_groups(tmp_path):
    """Only what is called like a part, and holds the same people, is one."""
    album(tmp_path / "x" / "train", ["a", "b"])
    album(tmp_path / "x" / "test", ["c", "d"], first=5000)
    assert people_of(load(tmp_path / "x", image_size=16)) == {
        "train/a",
        "train/b",
        "test/c",
        "test/d",
    }
    album(tmp_path / "y" / "Greek", ["c1", "c2"])
    album(tmp_path / "y" / "Latin", ["c1"], first=5000)
    assert len(people_of(load(tmp_path / "y", image_size=16))) == 3


def stray(path: Path, number: int = 90000) -> None:
    picture(number).save(path)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_stray_picture_makes_no_person_of_a_group(tmp_path, caplog, form):
    album(tmp_path / "p" / "a", NAMES[:3])
    album(tmp_path / "p" / "b", NAMES[3:6], first=5000)
    stray(tmp_path / "p" / "a" / "cover.png")
    stray(tmp_path / "p" / "a" / "more.png", 90001)
    source = zipped(tmp_path / "p") if form == "zip" else tmp_path / "p"
    faces = load(source, image_size=16)
    assert people_of(faces) == {f"a/{n}" for n in NAMES[:3]} | {f"b/{n}" for n in NAMES[3:6]}
    left = {s.path.removeprefix("p/"): s.reason for s in faces.skipped}
    assert set(left) == {"a/cover.png", "a/more.png"}
    assert all("beside the identity folders" in reason for reason in left.values())
    assert "taken for one person" not in caplog.text


def test_a_stray_picture_deeper_changes_no_name(tmp_path):
    album(tmp_path / "p" / "wrapper" / "faces", NAMES[:3])
    stray(tmp_path / "p" / "wrapper" / "cover.png")
    faces = load(tmp_path / "p", image_size=16)
    assert people_of(faces) == set(NAMES[:3])
    assert [s.path for s in faces.skipped] == ["wrapper/cover.png"]


@pytest.mark.parametrize("people", [1, 3])
def test_a_part_of_a_set_is_never_a_person(tmp_path, caplog, people):
    """However many pictures lie beside the people in it."""
    album(tmp_path / "p" / "train", NAMES[:people])
    album(tmp_path / "p" / "val", NAMES[:people], first=5000)
    for n in range(20):
        stray(tmp_path / "p" / "train" / f"{n}.png", 90000 + n)
    faces = load(tmp_path / "p", image_size=16)
    assert people_of(faces) == set(NAMES[:people]) and (faces.photos() == 8).all()
    assert len(faces.skipped) == 20


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("others", [0, 2])
def test_a_person_may_have_pictures_and_albums(tmp_path, caplog, form, others):
    """Pictures of their own, not few beside those of the albums, are what tells so."""
    source = album(tmp_path / "p", ["Ana", *NAMES[4 : 4 + others]])
    album(source / "Ana", ["2020", "2021"], photos=5, first=5000)
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert people_of(faces) == {"Ana", *NAMES[4 : 4 + others]} and not faces.skipped
    assert faces.photos()[faces.people.index("Ana")] == 14
    assert "2 folders inside Ana are taken for one person" in caplog.text


def test_a_folder_among_people_is_a_persons_with_fewer_pictures(tmp_path, caplog):
    source = album(tmp_path / "p", ["Bo", "Cy"])
    album(source / "Ana", list("abcd"), photos=2, first=5000)
    stray(source / "Ana" / "1.png")
    assert people_of(load(source, image_size=16)) == {"Ana", "Bo", "Cy"}
    assert "4 folders inside Ana are taken for one person" in caplog.text
    album(source / "Ana", list("efgh"), photos=2, first=7000)
    assert people_of(load(source, image_size=16)) == {"Bo", "Cy", *(f"Ana/{n}" for n in "abcdefgh")}


def test_smaller_copies_of_everybodys_pictures_are_the_same_people(tmp_path, caplog):
    names = ["Ana", "Bo", "Cy"]
    source = album(tmp_path / "p", names, photos=3)
    for at, name in enumerate(names):
        album(source / name, ["aligned", "cropped", "small", "thumb"], 3, 5000 + 500 * at)
    assert people_of(load(source, image_size=16)) == set(names)
    assert "4 folders inside Ana" in caplog.text and "(and so in 2 more)" in caplog.text


def test_one_folder_inside_a_persons_is_not_worth_a_word(tmp_path, caplog):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=2)
    album(source / "Ana", ["cropped"], photos=9, first=5000)
    assert people_of(load(source, image_size=16)) == {"Ana", "Bo"} and not caplog.text


def test_characters_stay_characters_beside_a_preview(tmp_path):
    names = [f"character{n:02}" for n in range(4)]
    for at, alphabet in enumerate(("Greek", "Latin")):
        album(tmp_path / "omni" / alphabet, names, photos=5, first=5000 * at)
    stray(tmp_path / "omni" / "Greek" / "preview.png")
    faces = load(zipped(tmp_path / "omni"), image_size=16)
    assert people_of(faces) == {f"{a}/{n}" for a in ("Greek", "Latin") for n in names}


@pytest.mark.parametrize(
    "parts",
    [
        "gallery probe",
        "enrol query",
        "Enroll Probe",
        "support query",
        "train_set test-set",
        "trainset testset",
        "train val query",
        "train val extra",
    ],
)
def test_parts_by_their_names_hold_the_same_people(tmp_path, caplog, parts):
    names = parts.split()
    for at, part in enumerate(names):
        album(
            tmp_path / "set" / part, NAMES[:3] if part != "extra" else ["x", "y"], first=5000 * at
        )
    faces = load(tmp_path / "set", image_size=16)
    others = {"extra/x", "extra/y"} if "extra" in names else set()
    assert people_of(faces) == {*NAMES[:3], *others}
    assert "parts of one set" in caplog.text and "extra and" not in caplog.text
    first, second = (load(tmp_path / "set" / part, image_size=16) for part in names[:2])
    with pytest.raises(ValueError, match="everybody in it was seen"):
        second.unseen(**first.seen())


@pytest.mark.parametrize("rename", [str, str.upper])
def test_groups_of_people_of_equal_names_are_said_once(tmp_path, caplog, rename):
    for at in range(4):
        folder = tmp_path / "p" / f"session{at}"
        album(folder, [rename(n) if at else n for n in ("a", "b", "c")], first=5000 * at)
    faces = load(tmp_path / "p", image_size=16)
    assert len(people_of(faces)) == 12
    (said,) = [r.message for r in caplog.records if "taken for other people" in r.message]
    assert "session0/a" in said and f"session1/{rename('a')}" in said


def test_groups_of_other_people_are_not_worth_a_word(tmp_path, caplog):
    album(tmp_path / "p" / "x", ["a", "b", "c"])
    album(tmp_path / "p" / "y", ["c", "d", "e"], first=5000)
    for at, person in enumerate(("Ana", "Bo", "Cy")):
        album(tmp_path / "q" / person, ["faces"], first=5000 * at)
    assert len(people_of(load(tmp_path / "p", image_size=16))) == 6
    assert len(people_of(load(tmp_path / "q", image_size=16))) == 3
    assert not caplog.text


@pytest.mark.parametrize("form", ["folder", "zip", "csv"])
def test_names_easily_mixed_up_are_said(tmp_path, caplog, form):
    source = album(tmp_path / "p", ["Jose", "José", "s01", "S01", "Bo"], photos=1)
    if form == "csv":
        rows = [f"p/{f.parent.name}/{f.name},{f.parent.name}" for f in source.rglob("*.png")]
        source = tmp_path / "p.csv"
        source.write_text("\n".join(["path,person", *rows]))
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert len(faces.people) == 5
    (said,) = [r.message for r in caplog.records]
    assert "2 names differ from others in case, width or accents only" in said
    assert "Jose" in said and "José" in said and "S01" in said and "Bo" not in said


def test_training_refuses_validation_people_by_their_photographs(tmp_path):
    images = np.stack([np.asarray(picture(n)) for n in range(24)])
    who = np.arange(24) // 3
    faces = FaceSet.from_arrays(images, who, people=list("abcdefgh"), name="one")
    val = FaceSet.from_arrays(images[12:].copy(), who[:12], people=list("WXYZ"), name="two")
    with pytest.raises(ValueError, match=r"4 people are in both.*e .in validation W"):
        train(Prototypical(tiny()), faces, val, iterations=1, ways=2, progress=False)


def test_evaluate_knows_whom_a_checkpoint_has_seen(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = album(tmp_path / "photos", [f"p{n}" for n in range(20)])
    words = [
        "train",
        "--data",
        "photos",
        "--learner",
        "prototypical",
        "--iterations",
        "2",
        "--out",
        "out",
        "--image-size",
        "16",
        "--embedding",
        "conv4-32",
        "--quiet",
    ]
    assert main(words) == 0
    seen = checkpoint.load("out/checkpoint.pt")["seen"]
    assert len(seen["people"]) == 16 and len(seen["photos"]["digests"]) == 64
    for person in range(20):
        (photos / f"p{person}").rename(photos / f"renamed{19 - person}")
    photos.rename("moved")
    album(tmp_path / "photos", [f"p{n}" for n in range(20)], first=9000)
    asked = [
        "evaluate",
        "out/checkpoint.pt",
        "--ways",
        "3",
        "--episodes",
        "5",
        "--queries",
        "2",
        "--quiet",
        "--data",
    ]
    capsys.readouterr()
    assert main([*asked, "moved"]) == 0
    assert "test: moved: 4 people" in capsys.readouterr().out
    assert main([*asked, "photos"]) == 0  # others, of the same names, in a folder of that name
    assert "test: photos: 20 people" in capsys.readouterr().out


def test_a_checkpoint_of_older_times_is_read(tmp_path):
    """It has names alone: a set of the same name holds the same people, as it did then."""
    faces = load(album(tmp_path / "photos"), image_size=16)
    old = {"data": "photos", "people": ["Ana", nfd("Zoë")]}
    assert people_of(faces.unseen(**old)) == set(NAMES) - {"Ana", "Zoë"}
    assert faces.unseen("others", ["Ana"]) is faces


def test_at_another_size_people_are_known_by_their_source(tmp_path, caplog):
    small = load(album(tmp_path / "photos"), image_size=8)
    seen = small.of_people(range(6)).seen()
    large = load(tmp_path / "photos", image_size=16)
    assert people_of(large.unseen(**seen)) == people_of(small.of_people(range(6, 12)))
    (tmp_path / "photos").rename(tmp_path / "moved")
    moved = load(tmp_path / "moved", image_size=16)
    assert people_of(moved.unseen(**seen)) == people_of(small.of_people(range(6, 12)))


def test_at_another_crop_people_are_known_by_their_source_and_it_is_said(tmp_path, caplog):
    whole = load(album(tmp_path / "photos"), image_size=16)
    seen = whole.of_people(range(6)).seen()
    close = load(tmp_path / "photos", image_size=16, crop=0.6)
    assert people_of(close.unseen(**seen)) == people_of(whole.of_people(range(6, 12)))
    assert not caplog.records[:-1]
    album(tmp_path / "set" / "photos", NAMES, first=5000)
    (tmp_path / "set" / "photos" / "Ana" / "0.png").unlink()
    other = load(tmp_path / "set" / "photos", image_size=16, crop=0.6)
    caplog.clear()
    assert people_of(other.unseen(**seen)) == people_of(whole.of_people(range(6, 12)))
    renamed = dataclasses.replace(other, name="others")
    caplog.clear()
    assert renamed.unseen(**seen) is renamed
    assert "another size or crop" in caplog.text and "is not known" in caplog.text


def test_people_called_by_numbers_are_warned_of_too(tmp_path, caplog):
    one = load(album(tmp_path / "one", ["0000045", "0000099"]), image_size=16)
    other = load(album(tmp_path / "other", ["0000045"], first=5000), image_size=16)
    assert other.unseen(**one.seen()) is other
    assert "1 people have names of people of one (0000045)" in caplog.text


def test_whom_the_first_weights_have_seen_is_known_for_good(tmp_path, capsys, monkeypatch):
    """However often training started from what training made."""
    monkeypatch.chdir(tmp_path)
    album(tmp_path / "a", [f"a{n}" for n in range(10)])
    album(tmp_path / "b", [f"b{n}" for n in range(10)], first=9000)
    words = [
        "train",
        "--learner",
        "prototypical",
        "--iterations",
        "1",
        "--image-size",
        "16",
        "--embedding",
        "conv4-32",
        "--ways",
        "2",
        "--shots",
        "1",
        "--queries",
        "1",
        "--quiet",
    ]
    assert main([*words, "--data", "a", "--out", "1"]) == 0
    assert main([*words, "--data", "b", "--out", "2", "--start", "1/checkpoint.pt"]) == 0
    assert main([*words, "--data", "b", "--out", "3", "--start", "2/checkpoint.pt"]) == 0
    reads, read = [], _torch_file.read
    monkeypatch.setattr(_torch_file, "read", lambda path: reads.append(str(path)) or read(path))
    asked = ["--data", "a", "--ways", "2", "--episodes", "2", "--queries", "1", "--quiet"]
    left = set()
    for number in "123":
        capsys.readouterr()
        assert main(["evaluate", f"{number}/checkpoint.pt", *asked]) == 0
        left.add(capsys.readouterr().out.split("\n")[0])
    (said,) = left  # by each of the three
    assert said.startswith("test: a: 2 people")
    learner, spec = load_model("2/checkpoint.pt")
    load_embedder("3/checkpoint.pt")
    spec.build(start="3/checkpoint.pt")
    assert reads == [f"{number}/checkpoint.pt" for number in "123233"]  # once each time
    faces = load("b", image_size=16)
    train(learner, faces, iterations=1, ways=2, shots=1, queries=1, out="4", progress=False)
    seen = checkpoint.load("4/checkpoint.pt")["seen"]
    assert people_of(load("a", image_size=16).unseen(**seen)) == people_of(
        load("a", image_size=16).unseen(**checkpoint.load("1/checkpoint.pt")["seen"])
    )


def test_parts_of_one_data_set_share_people_by_name(tmp_path):
    data = pytest.importorskip("torch.utils.data")

    class Numbered(data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return picture(i), i % 5

    base = Numbered()
    one, other = (data.Subset(base, range(*ends)) for ends in ((0, 10), (10, 20)))
    faces, val = load(one, image_size=16), load(other, image_size=16)
    with pytest.raises(ValueError, match="5 people are in both training and validation"):
        train(Prototypical(tiny()), faces, val, iterations=1, ways=2, progress=False)
    others = load(Numbered(), image_size=16)
    assert len(others.known(**faces.seen())) == 5  # by their photographs


def test_one_array_with_other_numbers_is_of_the_same_people():
    images = np.stack([np.asarray(picture(n)) for n in range(8)])
    faces = FaceSet.from_arrays(images, np.arange(8) // 2, people=list("abcd"), name="one")
    val = FaceSet.from_arrays(images, 3 - np.arange(8) // 2, people=list("wxyz"), name="two")
    with pytest.raises(ValueError, match="4 people are in both training and validation"):
        train(Prototypical(tiny()), faces, val, iterations=1, ways=2, progress=False)


def test_parts_of_one_source_share_people_by_name(tmp_path):
    """Such as photographs by day and by night: other photographs, the same people."""
    album(tmp_path / "photos")
    day = load(tmp_path / "photos", image_size=16, only="[01].png")
    night = load(tmp_path / "photos", image_size=16, only="[23].png")
    assert people_of(night.unseen(**day.of_people(range(6)).seen())) == people_of(
        night.of_people(range(6, 12))
    )


def raw_album(folder: Path, names, first: int) -> Path:
    """Pictures of one size in bytes each."""
    return album(folder, names, first=first, suffix=".ppm")


@pytest.mark.parametrize("form", ["folder", "zip", "csv"])
def test_equal_names_and_sizes_are_no_one_source(tmp_path, caplog, form):
    names = [f"p{n:02}" for n in range(12)]
    sets = []
    for at in range(3):  # the third is a copy of the first
        folder = raw_album(tmp_path / str(at) / "faces", names, 5000 * (at % 2))
        source = zipped(folder) if form == "zip" else folder
        if form == "csv":
            rows = [
                f"faces/{f.parent.name}/{f.name},{f.parent.name}"
                for f in sorted(folder.rglob("*.ppm"))
            ]
            source = tmp_path / str(at) / "list.csv"
            source.write_text("\n".join(["path,person", *rows]))
        sets.append(load(source, image_size=16))
    one, other, copy = sets
    assert one.source == copy.source != other.source
    assert other.unseen(**one.seen()) is other
    assert "taken for other people" in caplog.text


def test_a_source_and_a_part_of_it_packed_are_one(tmp_path):
    folder = raw_album(tmp_path / "faces", NAMES, 0)
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.ppm"):
            archive.write(file, str(file.relative_to(folder)))
    one = load(folder, image_size=16, only="0.ppm")
    assert len(one) == 12 and one.source == load(packed, image_size=16).source


def test_any_of_the_photographs_may_tell_two_sources_apart(tmp_path):
    """Whoever is another in a copy of a set is not known by name."""
    names = [f"p{n:02}" for n in range(30)]
    one, other = (raw_album(tmp_path / n / "faces", names, 0) for n in "ab")
    shutil.rmtree(other / "p17")
    raw_album(other, ["p17"], 70000)
    seen = load(one, image_size=16).seen()
    assert people_of(load(other, image_size=16).unseen(**seen)) == {"p17"}


def test_black_pictures_make_nobody_known(tmp_path):
    black = np.zeros((1, 16, 16, 3), np.uint8)
    images = np.concatenate([black, np.asarray(picture(1).resize((16, 16)))[None]])
    one = FaceSet.from_arrays(images, [0, 1], people=["a", "b"], name="one")
    other = FaceSet.from_arrays(images, [1, 0], people=["b", "x"], name="other")
    assert other.known(**one.seen()) == {0: "b"}
    assert not is_distinctive(black[0]) and is_distinctive(images[1])


# --- domains


def test_domains_with_the_same_photographs_under_other_names_are_refused(tmp_path):
    photos = album(tmp_path / "photos")
    shutil.copytree(photos, tmp_path / "copy")
    for name in NAMES:
        (tmp_path / "copy" / name).rename(tmp_path / "copy" / f"x{name}")
    sets = {n: load(tmp_path / n, image_size=16) for n in ("photos", "copy")}
    with pytest.raises(ValueError, match="copy has photographs of photos.*xAna is Ana"):
        split_together(sets)
    with pytest.raises(ValueError, match="xAna is Ana"):
        join_domains(sets)
    settings = CrossDomainSettings(
        domains={n: str(tmp_path / n) for n in sets},
        learners=("prototypical",),
        iterations=1,
        **SMALL,
    )
    with pytest.raises(ValueError, match="xAna is Ana"):
        cross_domain.run(settings, tmp_path / "out", progress=False)


def test_domains_with_names_in_two_forms_are_of_the_same_people(tmp_path):
    one = load(album(tmp_path / "a"), image_size=16)
    other = load(album(tmp_path / "b", [nfd(n) for n in NAMES], first=5000), image_size=16)
    assert len(paired_domains(one, other).person_ids) == len(NAMES)
    parts = split_together({"a": one, "b": other})
    assert people_of(parts["a"].test) == people_of(parts["b"].test)


def test_a_photograph_of_two_domains_is_in_one_of_them(caplog):
    images = np.stack([np.asarray(picture(n)) for n in range(8)])
    one = FaceSet.from_arrays(images[:6], [0, 0, 0, 1, 1, 1], people=["a", "b"], name="one")
    other = FaceSet.from_arrays(images[4:], [0, 0, 1, 1], people=["b", "a"], name="two")
    both = FaceSet.join({"x": one, "y": other})
    assert len(both) == 8 and both.of_domains("y").photos().tolist() == [2, 0]
    assert "2 photographs are in several of x, y" in caplog.text


# --- one picture twice


@pytest.mark.parametrize("form", ["folder", "zip", "data set"])
def test_a_picture_that_is_there_twice_counts_once(tmp_path, caplog, form):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=3)
    for i in range(3):
        shutil.copy(source / "Ana" / f"{i}.png", source / "Ana" / f"copy{i}.png")
    if form == "data set":
        source = pytest.importorskip("torchvision.datasets").ImageFolder(source)
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert faces.photos().tolist() == [3, 3]
    assert len({image.tobytes() for image in faces.images}) == 6
    assert "3 pictures are there more than once" in caplog.text
    assert all("the same picture as" in s.reason for s in faces.skipped)


def test_a_picture_of_two_people_is_nobodys(tmp_path, caplog):
    source = album(tmp_path / "p", ["Ana", "Bo", "Cy"], photos=3)
    shutil.copy(source / "Ana" / "1.png", source / "Bo" / "x.png")
    for _ in range(2):  # decoded, and from the cache
        faces = load(source, image_size=16)
        assert faces.photos().tolist() == [2, 3, 3]
        want = [
            np.asarray(picture(n).resize((16, 16), Image.Resampling.LANCZOS))
            for n in (0, 2, 100, 101, 102, 200, 201, 202)
        ]
        assert np.array_equal(faces.images, np.stack(want))
        assert sorted(s.path for s in faces.skipped) == ["Ana/1.png", "Bo/x.png"]
    assert "one picture under several people (Ana and Bo)" in caplog.text


def test_support_and_query_are_never_one_picture(tmp_path):
    source = album(tmp_path / "p", photos=2)
    for name in NAMES:
        shutil.copytree(source / name, source / name / "thumbs")
    faces = load(source, image_size=16)
    assert (faces.photos() == 2).all()


def test_protocols_count_a_photograph_once(tmp_path, caplog):
    people = tmp_path / "p"
    for number, name in enumerate(("Ana", "Bo", "Cy")):
        (people / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(portrait(10 * number + i)).save(people / name / f"{i}.png")
    shutil.copy(people / "Ana" / "0.png", people / "Ana" / "again.png")
    shutil.copy(people / "Bo" / "1.png", people / "Cy" / "x.png")
    found = align_people(people, Row(), squares(), progress=False)
    assert found.paths == ("Ana/0.png", "Ana/1.png", "Bo/0.png", "Cy/0.png", "Cy/1.png")
    assert "1 pictures are there more than once" in caplog.text and "Bo and Cy" in caplog.text


# --- junk


JUNK = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "@Recycle",
    "@Recently-Snapshot",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    ".AppleDouble",
    "@EADIR",
    ".thumbnails",
    "@Transcode",
    "#Trash",
    "Previews.lrdata",
    "iPod Photo Cache",
)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_what_systems_keep_is_nobody_and_no_photograph(tmp_path, junk, form):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=2)
    for n, place in enumerate(("", "Ana", "Bo/2019", f"Ana/{junk}/deeper")):
        album(source / place / junk, ["0.png"], photos=2, first=5000 + 500 * n)
        picture(7000 + n).save(source / place / junk / "1.png")
    (source / "Ana" / "Thumbs.db").write_bytes(b"\xff\xd8\xff")
    if form == "folder":
        assert [p.relative_to(source).as_posix() for p in list_folder(source)] == [
            "Ana/0.png",
            "Ana/1.png",
            "Bo/0.png",
            "Bo/1.png",
        ]
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert faces.people == ("Ana", "Bo") and faces.photos().tolist() == [2, 2]
    assert not [s for s in faces.skipped if "2019" not in s.path]


def test_people_whose_names_look_odd_are_no_junk(tmp_path):
    names = ["@ana", "#1", "$aver", "lost", "_bo"]
    assert set(load(album(tmp_path / "p", names), image_size=16).people) == set(names)


def test_flat_strangers_are_strangers_beside_what_systems_keep(tmp_path, caplog):
    flat = tmp_path / "flat"
    flat.mkdir()
    for n in range(5):
        picture(n).save(flat / f"{n}.png")
    album(flat / "@eaDir", ["0.png"], first=5000)
    (flat / "empty").mkdir()
    with open_strangers(flat) as (photos, people):
        assert len(list(photos)) == 5 and len(set(people)) == 5
    assert not caplog.text
    album(flat / "more", ["x"], photos=2, first=6000)
    with open_strangers(flat) as (_, people):
        assert len(people) == 2
    assert (
        "6 skipped, 2 pictures used" in caplog.text and "beside the identity folders" in caplog.text
    )


# --- what is not read


def test_what_is_not_read_is_listed(tmp_path, caplog):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=2)
    for name in ("Ana/a.jxl", "Ana/b.DNG", "Bo/c.mp4", "Cy/d.mov"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    (source / "Dee").mkdir()
    (source / "notes.txt").write_text("x")
    faces = load(source, image_size=16)
    assert {s.path: s.reason.split(",")[0].split(" is not")[0] for s in faces.skipped} == {
        "Ana/a.jxl": ".jxl",
        "Ana/b.DNG": "a raw photograph",
        "Bo/c.mp4": "a video",
        "Cy/d.mov": "a video",
        "Dee": "a folder without a picture",
    }
    assert "a.jxl" in caplog.text and "Dee" in caplog.text
    again = load(zipped(source), image_size=16)
    assert {s.path.partition("/")[2] for s in again.skipped} == {s.path for s in faces.skipped}
    caplog.clear()
    assert len(list_folder(source)) == 4
    assert "4 skipped, 4 pictures used" in caplog.text and "c.mp4 (a video" in caplog.text


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "JPEG")
    return out.getvalue()


ODD = (
    ".hif",
    ".j2k",
    ".jpx",
    ".jpf",
    ".jps",
    ".apng",
    ".heics",
    ".pcx",
    ".kdc",
    ".dcr",
    ".erf",
    ".mef",
    ".mrw",
    ".rwl",
    ".gpr",
    ".raw",
    ".hdp",
    ".wdp",
    ".vob",
    ".ogv",
    ".ts",
    ".m2v",
    ".insv",
    ".lrv",
    ".jpg1",
    ".jpeg2",
    ".jpg.bak",
    ".jpg.part",
    ".img",
    ".thm",
    ".fff",
    ".ptx",
    ".jpg_original",
    ".new",
)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_what_is_a_picture_is_read_or_listed_whatever_its_suffix(tmp_path, form):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    for number, suffix in enumerate(ODD):
        (source / "Ana" / f"x{suffix}").write_bytes(jpeg(5000 + number))
    for suffix in (".txt", ".csv", ".json", ".xml", ".mat", ".npy", ".py", ".html", ".md"):
        (source / "Ana" / f"x{suffix}").write_text("P5 no picture")
    with open_source(zipped(source) if form == "zip" else source) as found:
        read = {Path(photo.path).name for photo in found.photos}
        listed = {Path(s.path).name: s.reason for s in found.skipped}
    assert read | set(listed) == {"0.png", *(f"x{suffix}" for suffix in ODD)}
    assert not read & set(listed)
    assert {f"x{s}" for s in (".jpg1", ".jpeg2", ".jpg.bak", ".img", ".new")} <= read
    assert "raw" in listed["x.gpr"] and "video" in listed["x.vob"] and "x.jps" in listed


STARTS = {
    b"\0\0\0\x18ftypisom\0\0\0\0": "video",
    b"\x1a\x45\xdf\xa3" + bytes(12): "video",
    b"RIFF\0\0\0\0AVI LIST": "video",
    b"OggS" + bytes(12): "video",
    b"\0\0\x01\xba" + bytes(12): "video",
    b"G@\0\x10" + bytes(12): "video",
    b"8BPS" + bytes(12): "not read",
    b"\xff\x0a" + bytes(14): "not read",
    b"FUJIFILMCCD-RAW ": "raw",
    b"\0\0\0\x18ftypcrx \0\0\0\0": "raw",
    b"II*\0" + bytes(12): "TIFF",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", ["x.xyz", "x.ts"])
def test_pictures_and_videos_of_no_known_suffix_are_listed(tmp_path, start, name):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    (source / "Ana" / name).write_bytes(start)
    (source / "Ana" / "y.ts").write_text("Greeting: string")
    (left,) = load(source, image_size=16).skipped
    assert left.path == f"Ana/{name}" and STARTS[start] in left.reason


@pytest.mark.parametrize(
    "kind, format", [("xyz", "PPM"), ("xyz", "BMP"), ("img", "PNG"), ("j2k", "JPEG2000")]
)
def test_every_kind_that_is_read_is_known_by_its_start(tmp_path, kind, format):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    out = io.BytesIO()
    picture(5).save(out, format, **({"no_jp2": True} if format == "JPEG2000" else {}))
    (source / "Ana" / f"x.{kind}").write_bytes(out.getvalue())
    (source / "Ana" / "x").write_bytes(out.getvalue())
    with open_source(source) as found:
        assert [photo.path for photo in found.photos][1:3] == ["Ana/x", f"Ana/x.{kind}"]
    faces = load(source, image_size=16)
    assert faces.photos().tolist() == [2, 1] and len(faces.skipped) == 1


def test_a_file_that_may_not_be_opened_is_no_text_file(tmp_path, monkeypatch):
    """Known by its suffix to be no picture, it is not even looked at."""
    from metaface.data import _listing

    opened = []
    head = _listing.read_head
    monkeypatch.setattr(
        "metaface.data._sources.read_head", lambda path: opened.append(path.name) or head(path)
    )
    files = [
        (("a", "x.txt"), tmp_path / "x.txt"),
        (("a", "1.png"), tmp_path / "1.png"),
        (("a", "x.odd"), tmp_path / "x.odd"),
    ]
    found, left = _listing.pick_pictures(files, lambda path: opened.append(path.name) or head(path))
    assert opened == ["x.odd"] and len(found) == 1
    assert [s.path for s in left] == ["a/x.odd"]  # gone meanwhile


def test_links_that_lead_nowhere_are_listed(tmp_path):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    (source / "gone").symlink_to("/nowhere")
    (source / "Ana" / "gone").symlink_to("/nowhere/1.png")
    (source / "Bo" / "loop").symlink_to("loop")
    left = {s.path: s.reason for s in load(source, image_size=16).skipped}
    assert set(left) == {"gone", "Ana/gone", "Bo/loop"}
    assert "leads nowhere" in left["gone"] and "cannot be read" in left["Bo/loop"]


def test_a_folder_keeps_its_name_beside_links_to_it(tmp_path, caplog):
    source = album(tmp_path / "p", ["s04", "s05", "s06"], photos=2)
    (source / "aaa").symlink_to("s05")
    (source / "zzz").symlink_to("s06")
    (source / "s04" / "0").symlink_to(source / "s06")
    faces = load(source, image_size=16)
    assert faces.people == ("s04", "s05", "s06") and faces.photos().tolist() == [2, 2, 2]
    assert {s.path: s.reason for s in faces.skipped} == {
        "aaa": "the same folder as s05, which is read",
        "zzz": "the same folder as s06, which is read",
        "s04/0": "the same folder as s06, which is read",
    }
    album(tmp_path / "pool", ["1"], photos=2, first=5000)
    for name in ("Bo", "Ana"):
        (source / name).symlink_to(tmp_path / "pool" / "1")
    faces = load(source, image_size=16)
    assert people_of(faces) == {"Ana", "s04", "s05", "s06"}
    assert ("Bo", "the same folder as Ana, which is read") in [
        (s.path, s.reason) for s in faces.skipped
    ]


@pytest.mark.parametrize("name", ["path", "person", "domain"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    album(tmp_path / "p", ["Ana"], photos=1)
    listed = tmp_path / "s.csv"
    listed.write_text(f"path,person,domain, {name.upper()}\np/Ana/0.png,Ana,x,p/Ana/0.png\n")
    with pytest.raises(ValueError, match=f"2 columns {name}"):
        load(listed, image_size=16)
    listed.write_text("path,person,note,note\np/Ana/0.png,Ana,x,y\n")
    assert len(load(listed, image_size=16)) == 1


def test_mpo_is_read(tmp_path):
    source = tmp_path / "p"
    (source / "Ana").mkdir(parents=True)
    picture(1).save(source / "Ana" / "1.mpo", "MPO", save_all=True, append_images=[picture(2)])
    assert len(load(source, image_size=16)) == 1 and len(list_folder(source)) == 1


@pytest.mark.parametrize("name", ["IMG 1", "5f3c", "Mr. Smith", "1.2", "a.jpg_large", "x.jpg~"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_pictures_without_a_suffix_are_read(tmp_path, name, form):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    picture(7).save(source / "Ana" / name, "JPEG")
    (source / "Ana" / "README").write_text("no picture")
    assert list_folder(source)[-1 if name > "0.png" else 0]
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert faces.photos().tolist() == [2, 1] and not faces.skipped


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    source = album(tmp_path / "p", ["Ana", "Bo"], photos=1)
    (source / "Cy").mkdir()
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "Cy":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (left,) = load(source, image_size=16).skipped
    assert left.path == "Cy" and "cannot be read: Permission denied" in left.reason


def test_links_to_folders_are_followed(tmp_path):
    album(tmp_path / "there", ["Ana"], photos=2)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    assert [p.name for p in list_folder(tmp_path / "here")] == ["0.png", "1.png"]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_person_with_a_folder_keeps_their_name(tmp_path, form):
    source = album(tmp_path / "p", ["Ana"], photos=2)
    (source / "Ana" / "2019").mkdir()
    picture(9).save(source / "Ana" / "2019" / "x.png")
    faces = load(zipped(source) if form == "zip" else source, image_size=16)
    assert faces.people == ("Ana",) and len(faces) == 3 and not faces.skipped


def test_backslashes_in_a_csv_are_folders_or_the_cause(tmp_path):
    album(tmp_path / "p", ["Ana"], photos=1)
    listed = tmp_path / "s.csv"
    listed.write_text("path,person\np\\Ana\\0.png,Ana\np\\Ana\\none.png,Ana\n")
    faces = load(listed, image_size=16)
    assert len(faces) == 1
    assert [(s.path, "backslashes" in s.reason) for s in faces.skipped] == [
        ("p\\Ana\\none.png", True)
    ]
    listed.write_text("path,person\nC:\\Ana\\0.png,Ana\n")
    with pytest.raises(ValueError, match="backslashes"):
        load(listed, image_size=16)


def heic(folder: Path) -> Path:
    """The start of a HEIC photograph, for a machine that cannot read one."""
    (folder / "Ana").mkdir(parents=True)
    path = folder / "Ana" / "1.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    return path


def test_heic_names_its_remedy_where_it_cannot_be_read(tmp_path):
    path = heic(tmp_path / "p")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"  # as if it was not installed
        "from metaface.faces.photos import read\n"
        f"read({str(path)!r})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'metaface[heif]'" in ended.stderr


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    (tmp_path / "p" / "Ana").mkdir(parents=True)
    heif.from_pillow(picture(1).resize((64, 64))).save(tmp_path / "p" / "Ana" / "1.heic")
    assert len(load(tmp_path / "p", image_size=16)) == 1


# --- data sets of torchvision's kind


def test_an_image_folder_with_its_own_classes_swaps_nobody(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")

    class Backwards(datasets.ImageFolder):
        def find_classes(self, directory):
            names = sorted(entry.name for entry in os.scandir(directory))
            return names, {name: len(names) - 1 - i for i, name in enumerate(names)}

    source = album(tmp_path / "p", ["Ana", "Bo", "Cy"], photos=2)
    faces = load(Backwards(source), image_size=16)
    want = load(source, image_size=16)
    whose = {
        image.tobytes(): want.people[p] for image, p in zip(want.images, want.person, strict=True)
    }
    for image, person in zip(faces.images, faces.person, strict=True):
        assert whose[image.tobytes()] == faces.people[person]


def test_parts_and_sums_of_data_sets_keep_names(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    first = datasets.ImageFolder(album(tmp_path / "a", ["Ana", "Bo"], photos=2))
    second = datasets.ImageFolder(album(tmp_path / "b", ["Bo", "Cy"], photos=2, first=5000))
    assert load(Subset(first, [2, 3]), image_size=16).people == ("Bo",)
    both = load(ConcatDataset([Subset(first, [0, 2, 3]), second]), image_size=16)
    photos = dict(zip(both.people, both.photos(), strict=True))
    assert photos == {"Ana": 1, "Bo": 4, "Cy": 2}  # Ana and the other's Bo both have the label 0


class Numbered(list):
    """Items whose people have numbers alone."""

    def __init__(self, labels, first: int) -> None:
        super().__init__((picture(first + n), label) for n, label in enumerate(labels))


def test_people_by_number_in_two_data_sets_are_said_to_be_one(caplog):
    both = ConcatDataset([Numbered([0, 0, 1], 0), Numbered([1, 1, 2], 5000)])
    faces = load(both, image_size=16)
    assert faces.people == ("0", "1", "2") and faces.photos().tolist() == [2, 3, 1]
    assert "1 of them (1)" in caplog.text and "taken for one person" in caplog.text
    caplog.clear()
    load(ConcatDataset([Numbered([0, 1], 0), Numbered([2, 3], 5000)]), image_size=16)
    whole = Numbered([0, 0, 1, 1], 0)
    load(ConcatDataset([Subset(whole, [0, 2]), Subset(whole, [1, 3])]), image_size=16)
    assert not caplog.text


def test_people_by_name_and_by_number_are_said_to_be_others(tmp_path, caplog):
    datasets = pytest.importorskip("torchvision.datasets")
    named = datasets.ImageFolder(album(tmp_path / "a", ["Ana", "Bo"], photos=2))
    faces = load(ConcatDataset([named, Numbered([0, 1], 5000)]), image_size=16)
    assert people_of(faces) == {"Ana", "Bo", "0", "1"}
    assert "2 people by number (0, 1)" in caplog.text and "for other people" in caplog.text


class CelebA(list):
    """Items as torchvision's CelebA gives them."""

    target_type = ("attr", "identity")


def test_celeba_with_attributes_and_identity_is_read():
    many = [(picture(n), (torch.zeros(40), torch.tensor(n // 2))) for n in range(4)]
    faces = load(CelebA(many), image_size=16)
    assert faces.people == ("0", "1") and faces.photos().tolist() == [2, 2]
    assert len(load(Subset(CelebA(many), [0, 1]), image_size=16)) == 2
    with pytest.raises(ValueError, match=r"expected one int.*target_type='identity'"):
        load([(picture(0), (torch.zeros(40), torch.zeros(4)))], image_size=16)
