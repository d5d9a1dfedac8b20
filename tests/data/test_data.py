"""metaface.data.load: layouts, pictures of all kinds, the cache."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import damaged
from PIL import ExifTags, Image, ImageOps

from metaface import synthetic
from metaface.data import FaceSet, _cache, _load, _pictures, _synthetic, clear_cache, load
from metaface.data._sources import open_zip, read_entry
from metaface.data.wider import read_wider

COLOURS = {"Ana": (200, 30, 30), "Bo": (30, 200, 30), "Cy": (30, 30, 200)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    root = tmp_path / "cache"
    monkeypatch.setenv("METAFACE_CACHE", str(root))
    return root


def save(path: Path, colour=(200, 30, 30), size=(24, 30), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three people with 2, 3 and 4 photographs, each of one colour."""
    for k, (name, colour) in enumerate(COLOURS.items()):
        for i in range(k + 2):
            save(tmp_path / "photos" / name / f"{i}.png", (colour[0], colour[1], colour[2] + i))
    return tmp_path / "photos"


def zipped(folder: Path, inside: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, str(Path(inside) / file.relative_to(folder)))
    return path


def entries(cache: Path, mark: str = "faces-") -> list[Path]:
    return sorted(cache.glob(mark + "*"))


def check(faces: FaceSet) -> None:
    """``faces`` are those of the fixture ``folder``."""
    assert faces.people == ("Ana", "Bo", "Cy")
    assert faces.photos().tolist() == [2, 3, 4]
    assert faces.domains == ("all",) and not faces.skipped
    assert faces.images.dtype == np.uint8
    for row, person in enumerate(faces.person):
        want = COLOURS[faces.people[person]]
        assert np.abs(faces.images[row].astype(int).mean((0, 1)) - want).max() <= 4


# --- layouts


def test_folder(folder):
    faces = load(folder, image_size=16)
    check(faces)
    assert faces.images.shape == (9, 16, 16, 3) and faces.name == "photos"
    assert isinstance(faces.store, np.memmap) and not faces.store.flags.writeable


@pytest.mark.parametrize("inside", ["", "wrapper", "a/b/c"])
def test_zip(folder, inside):
    path = zipped(folder, inside)
    shutil.rmtree(folder)
    check(load(str(path), image_size=16))
    assert sorted(p.name for p in path.parent.iterdir()) == ["cache", "photos.zip"]


def test_wrapper_folder_and_files_beside_the_people(folder, tmp_path):
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "photos")
    (tmp_path / "outer" / "photos" / "pairs.txt").write_text("10 300")
    (tmp_path / "outer" / "photos" / "Ana" / ".DS_Store").write_text("x")
    (tmp_path / "outer" / "photos" / "Ana" / "._0.png").write_text("x")
    save(tmp_path / "outer" / "__MACOSX" / "Dee" / "1.png")
    check(load(tmp_path / "outer", image_size=8))


@pytest.mark.parametrize("as_zip", [False, True])
def test_two_levels_name_alphabet_and_character(tmp_path, as_zip):
    for name in ("Greek/c1", "Greek/c2", "Latin/c1"):
        save(tmp_path / "images_background" / name / "0.png")
    source = tmp_path / "images_background"
    source = zipped(source, "images_background") if as_zip else source
    assert load(source, image_size=8).people == ("Greek/c1", "Greek/c2", "Latin/c1")


def test_folders_inside_a_persons_folder_are_that_persons(folder):
    save(folder / "Ana" / "2019" / "x.png", COLOURS["Ana"])
    faces = load(folder, image_size=8)
    assert faces.people == ("Ana", "Bo", "Cy") and faces.photos()[0] == 3


def test_pictures_beside_the_people_are_skipped_by_name(folder, caplog):
    save(folder / "group.jpg")
    faces = load(folder, image_size=8)
    assert [s.path for s in faces.skipped] == ["group.jpg"]
    assert "group.jpg" in caplog.text


def test_link_loop_and_pipe_do_no_harm(folder):
    (folder / "Ana" / "loop").symlink_to(folder)
    os.mkfifo(folder / "Ana" / "pipe.png")
    faces = load(folder, image_size=8)
    assert faces.photos().tolist() == [2, 3, 4]
    assert [(s.path, s.reason) for s in faces.skipped] == [("Ana/pipe.png", "not a regular file")]


def test_odd_names(tmp_path):
    for name in ("Zoë Ünlü", "李", "a'b; rm -rf", "x..y", "100%"):
        save(tmp_path / "p" / name / "a b#?.png")
    broken = os.fsdecode(b"caf\xe9")  # not UTF-8
    save(tmp_path / "p" / broken / "1.png")
    for _ in range(2):
        faces = load(tmp_path / "p", image_size=8)
        assert set(faces.people) == {"Zoë Ünlü", "李", "a'b; rm -rf", "x..y", "100%", broken}


def test_one_photo_each_and_min_photos(folder, tmp_path):
    assert load(folder, image_size=8).with_photos(3).person_ids.tolist() == [1, 2]
    with pytest.raises(ValueError, match="9 photographs .the most is 4"):
        load(folder, image_size=8).with_photos(9)
    with pytest.raises(TypeError, match=r"no min_photos= any more.*with_photos"):
        load(folder, min_photos=9)
    save(tmp_path / "one" / "Ana" / "1.png")
    faces = load(tmp_path / "one", image_size=8)
    assert faces.people == ("Ana",) and len(faces) == 1


@pytest.mark.parametrize("as_zip", [False, True])
def test_only_paths_that_match(folder, cache, as_zip):
    source = zipped(folder, "wrap") if as_zip else folder
    faces = load(source, image_size=4, only=r"(Bo|Cy)/[12]\.png$")
    assert faces.people == ("Bo", "Cy") and faces.name == load(source, image_size=4).name
    assert faces.photos().tolist() == [2, 2] and len(entries(cache)) == 2
    assert np.allclose(
        faces.images[:, 0, 0], [(30, 200, b) for b in (31, 32)] + [(30, 30, b) for b in (201, 202)]
    )
    alone = load(source, image_size=4, only="Ana")
    assert alone.people == ("Ana",) and len(alone) == 2  # called as among the others
    assert len(load(source, image_size=4, only="photos|wrap" if as_zip else "")) == 9


def test_only_of_a_csv_is_of_the_path_it_says(folder):
    csv = folder / "faces.csv"
    csv.write_text("path,person,domain\nAna/0.png,A,x\nAna/1.png,A,y\nBo/1.png,B,y\n")
    faces = load(csv, image_size=4, only="^Ana|1")
    assert faces.photos().tolist() == [2, 1]
    assert load(csv, image_size=4, only="1").photos().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("night", r"photos: only='night' is found in none of its 9 paths, such as 'Ana/0.png'"),
        ("(", r"photos: only='\(' is not a regular expression: missing \)"),
    ],
)
def test_only_that_finds_nothing(folder, only, message):
    with pytest.raises(ValueError, match=message):
        load(folder, only=only)


def test_only_is_for_files(folder):
    faces = load(folder, image_size=4)
    for source in ("synthetic:frontal", faces, [(np.zeros((4, 4, 3), np.uint8), 0)]):
        with pytest.raises(ValueError, match="only='x' is for the file names.*leave it out"):
            load(source, only="x")


def test_lights_of_yale_b_by_name(test_data):
    """Against the names of the zip, read here by their columns."""
    path = test_data("yaleb_112.zip")
    with zipfile.ZipFile(path) as archive:
        names = [Path(n).stem for n in archive.namelist() if n.endswith(".jpg")]
    assert len(names) == 2414
    front = [n for n in names if abs(int(n.split("E")[-1])) < 30]
    side = [n for n in names if abs(int(n.split("A")[1].split("E")[0])) >= 70]
    faces = {}
    for wanted, only in ((front, "E[+-][0-2]"), (side, "A[+-](07|08|09|1)")):
        found = load(path, image_size=8, channels=1, only=only, progress=False)
        assert len(found) == len(wanted) > 500 and len(found.person_ids) == 38
        mine = np.bincount([found.people.index(n.split("_")[0]) for n in wanted])
        assert (found.photos() == mine).all()
        faces[only] = found.images.mean()
    assert faces["E[+-][0-2]"] > 1.3 * faces["A[+-](07|08|09|1)"]  # light from the side is less


def test_csv_with_domains(folder):
    table = folder / "list.csv"
    table.write_text(
        "Path, person ,domain,note\nAna/0.png,ana,photo,x\nAna/1.png,ana,sketch,x\n"
        "Bo/0.png,bo,photo\nBo/gone.png,bo,photo\n,bo,photo\n\n",
        encoding="utf-8-sig",
    )
    faces = load(table, image_size=8)
    assert faces.people == ("ana", "bo") and faces.domains == ("photo", "sketch")
    assert faces.person.tolist() == [0, 0, 1] and faces.domain.tolist() == [0, 1, 0]
    reasons = {s.path: s.reason for s in faces.skipped}
    assert reasons == {
        "line 6": "no path or no person",
        "Bo/gone.png": "No such file or directory",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,person\na.png,Ana\n", "no column path in its header"),
        ("a,b\n", "no column path or person"),
        ("", "no column path or person"),
        ("path,person\n", "no row has a path and a person"),
        ("path,person\nnone.png,Ana\n", "none of 1 pictures could be used"),
        ("path,person\n\xe9.png,Ana\n", "UTF-8"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "x.csv")


# --- what is not usable


def test_missing_empty_flat_and_other_sources(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere.*synthetic"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no usable person in .*empty.*no files.*photos/Ana"):
        load(tmp_path / "empty")
    (tmp_path / "texts" / "Ana").mkdir(parents=True)
    (tmp_path / "texts" / "Ana" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"found 1 \.txt \(none of them pictures\)"):
        load(tmp_path / "texts")
    with pytest.raises(ValueError, match="in no person's folder"):
        load(folder / "Ana")
    (tmp_path / "a.tar").write_text("x")
    with pytest.raises(ValueError, match="neither a folder, a .zip nor a .csv"):
        load(tmp_path / "a.tar")
    with pytest.raises(TypeError, match="cannot load faces from a int"):
        load(7)
    with pytest.raises(ValueError, match="people=5"):
        load(folder, people=5)
    for bad in ({"image_size": 0}, {"channels": 4}, {"crop": 0}, {"crop": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            load(folder, **bad)


def test_bad_zips(tmp_path, folder):
    path = zipped(folder)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="photos.zip is not a whole zip file"):
            load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(ValueError, match="no usable person.*1 .txt"):
        load(path)


def test_zip_with_hostile_entries(tmp_path, monkeypatch):
    monkeypatch.setattr("metaface.data._sources.MAX_BYTES", 100_000)
    good = save(tmp_path / "good.png").read_bytes()
    names = ["../../etc/Ana/1.png", "/abs/Bo/1.png", "C:\\x\\Cy\\1.png", "__MACOSX/Dee/1.png"]
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, good)
        archive.writestr("abs/Bo/bomb.png", b"\0" * 50_000_000)
        archive.writestr("abs/Bo/locked.png", good)
        archive.writestr("abs/Bo/damaged.png", good, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2", data.rindex(b"abs/Bo/locked.png") - 60)
    data[at + 8] |= 1  # the central directory says: encrypted
    data[data.index(b"abs/Bo/damaged.png") + 18 + 60] ^= 0xFF
    path.write_bytes(data)
    faces = load(path, image_size=8)
    assert faces.people == ("C:/x/Cy", "abs/Bo", "etc/Ana") and len(faces) == 3
    reasons = {s.path.split("/")[-1]: s.reason for s in faces.skipped}
    assert "encrypted" in reasons["locked.png"] and "CRC" in reasons["damaged.png"]
    assert "larger than" in reasons["bomb.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "good.png", "z.zip"]


def lock(path: Path) -> None:
    """Make a zip say that all of its entries are encrypted."""
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 1)
    path.write_bytes(data)


def test_an_encrypted_zip_is_named_as_one(tmp_path, folder):
    path = zipped(folder)
    lock(path)
    said = f"{path} is encrypted, all of its 9 pictures: unpack it with its password, and give the"
    with pytest.raises(ValueError, match=said):
        load(path)
    with zipfile.ZipFile(tmp_path / "wider.zip", "w") as archive:
        archive.writestr("annotations.json", '{"images": []}')
    lock(tmp_path / "wider.zip")
    with pytest.raises(ValueError, match=r"wider.zip: annotations.json .*encrypted.*its password"):
        read_wider(tmp_path / "wider.zip")


NAMES = ("\u5c71\u7530", "\u738b\u82b3", "\u9673")  # Yamada, Wang Fang and Chen


def with_raw_names(path: Path, names: list[bytes], data: bytes) -> Path:
    """A zip of one picture a person, with the names in those bytes, and no mark of what they are"""
    stand_ins = [f"{i:0{len(name)}}".encode() for i, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for stand_in in stand_ins:
            archive.writestr(f"{stand_in.decode()}/1.png", data)
    whole = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        whole = whole.replace(stand_in + b"/1.png", name + b"/1.png")
    path.write_bytes(whole)
    return path


def test_names_of_a_zip_that_does_not_say_what_they_are_in(tmp_path, caplog):
    data = save(tmp_path / "x.png").read_bytes()
    path = tmp_path / "z.zip"
    faces = load(with_raw_names(path, [n.encode() for n in NAMES], data), image_size=8)
    assert set(faces.people) == set(NAMES) and len(faces) == 3 and not caplog.records
    with open_zip(path) as archive:  # by name, too
        assert read_entry(archive, f"{NAMES[0]}/1.png") == data
    for encoding in ("shift-jis", "gb18030", "cp1252"):
        names = NAMES if encoding != "cp1252" else ("Andr\xe9", "Zo\xeb", "Bo")
        raw = [name.encode(encoding) for name in names]
        faces = load(with_raw_names(path, raw, data), image_size=8)
        assert set(faces.people) == {name.decode("cp437") for name in raw}
        (said,) = [record.getMessage() for record in caplog.records]
        assert f"{path}: " in said and "UTF-8" in said and "give the folder" in said
        caplog.clear()
    with zipfile.ZipFile(path, "w") as archive:  # one that says it
        archive.writestr(f"{NAMES[0]}/1.png", data)
    assert load(path, image_size=8).people == NAMES[:1] and not caplog.records


def test_unreadable_pictures_are_skipped_counted_and_named(folder, caplog):
    (folder / "Ana" / "zero.jpg").touch()
    (folder / "Ana" / "text.png").write_text("not a picture")
    jpeg = save(folder / "Ana" / "cut.jpg", size=(200, 200))
    jpeg.write_bytes(jpeg.read_bytes()[:700])
    save(folder / "Ana" / "bomb.png", size=(10_000, 10_000), mode="1")
    for i in range(9):
        (folder / "Bo" / f"z{i}.gif").touch()
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        faces = load(folder, image_size=8)
        assert faces.photos().tolist() == [2, 3, 4]
        reasons = {s.path: s.reason for s in faces.skipped}
        assert len(reasons) == 13
        assert reasons["Ana/zero.jpg"] == "empty file"
        assert "not a picture" in reasons["Ana/text.png"]
        assert "truncated" in reasons["Ana/cut.jpg"]
        assert "bomb" in reasons["Ana/bomb.png"]
        assert "13 skipped, 9 pictures used" in caplog.text and "and 3 more" in caplog.text


def test_all_unreadable(tmp_path, cache):
    (tmp_path / "p" / "Ana").mkdir(parents=True)
    (tmp_path / "p" / "Ana" / "1.jpg").touch()
    with pytest.raises(ValueError, match=r"no usable person in p: none of 1 .*Ana/1.jpg \(empty"):
        load(tmp_path / "p")
    assert not entries(cache, "")


# --- pictures


def one(path: Path, **options) -> np.ndarray:
    """The only picture of a set, as int ``[S, S, C]``."""
    return load(path.parent.parent, **options).images[0].astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    upright.paste((255, 0, 0), (0, 0, 20, 20))
    upright.paste((0, 255, 0), (20, 0, 40, 20))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that leads to each
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "p" / "Ana" / "1.png"
    path.parent.mkdir(parents=True)
    stored.save(path, exif=exif)
    assert ImageOps.exif_transpose(Image.open(path)).tobytes() == upright.tobytes()
    got = one(path, image_size=40)
    assert np.array_equal(got, np.asarray(upright))


def test_crop_keeps_the_centre_and_the_proportions(tmp_path):
    picture = Image.new("RGB", (200, 100), "black")
    picture.paste("white", (75, 25, 125, 75))  # the centred 50x50
    path = tmp_path / "p" / "Ana" / "1.png"
    path.parent.mkdir(parents=True)
    picture.save(path)
    half = one(path, image_size=20, crop=0.5)  # (antialiasing looks across the crop's edge)
    assert half.min() > 220 and half[2:-2, 2:-2].min() >= 253
    assert np.array_equal(one(path, image_size=20, crop=50), half)
    whole = one(path, image_size=20)
    assert (whole[0] == 0).all() and (whole[7:13, 7:13] >= 250).all()
    assert 0.24 < whole.mean() / 255 < 0.26
    assert np.array_equal(one(path, image_size=20, crop=999), whole)


def test_draft_mode_of_large_jpegs_changes_little(tmp_path):
    y, x = np.mgrid[:1200, :1600] / 100
    pixels = np.stack([np.sin(x) * 60 + 128, np.sin(y) * 60 + 128, np.sin(x + y) * 60 + 128], -1)
    picture = Image.fromarray(pixels.astype(np.uint8))
    for name in ("a.jpg", "b.png"):
        (tmp_path / name / "Ana").mkdir(parents=True)
        picture.save(tmp_path / name / "Ana" / name)
    a, b = (load(tmp_path / n, image_size=32, crop=0.6).images[0] for n in ("a.jpg", "b.png"))
    assert np.abs(a.astype(int) - b).mean() < 2


@pytest.mark.parametrize(
    ("mode", "suffix", "want", "tolerance"),
    [
        ("RGB", "png", (200, 100, 50), 0),
        ("RGBA", "png", (200, 100, 50), 0),
        ("L", "png", (124, 124, 124), 0),
        ("LA", "png", (124, 124, 124), 0),
        ("1", "png", (255, 255, 255), 255),
        ("P", "png", (200, 100, 50), 30),
        ("P", "gif", (200, 100, 50), 30),
        ("CMYK", "jpg", (200, 100, 50), 4),
        ("CMYK", "tif", (200, 100, 50), 4),
        ("YCbCr", "jpg", (200, 100, 50), 4),
        ("YCbCr", "tif", (200, 100, 50), 2),
        ("RGB", "webp", (200, 100, 50), 6),
        ("RGB", "bmp", (200, 100, 50), 0),
        ("L", "pgm", (124, 124, 124), 0),
        ("RGB", "JPEG", (200, 100, 50), 4),
    ],
)
def test_modes(tmp_path, mode, suffix, want, tolerance):
    path = save(tmp_path / "p" / "Ana" / f"1.{suffix}", (200, 100, 50), mode=mode)
    got = one(path, image_size=8)
    assert got.shape == (8, 8, 3)
    assert np.abs(got.mean((0, 1)) - want).max() <= tolerance
    grey = one(path, image_size=8, channels=1)
    assert grey.shape == (8, 8, 1)
    assert abs(grey.mean() - np.dot(want, (0.299, 0.587, 0.114))) <= max(1, tolerance)


def test_uncompressed_ycbcr_is_no_other_bytes_of_the_file(tmp_path):
    """Pillow before 13 takes four bytes a pixel; no Pillow knows of fewer colours than pixels."""
    rows = np.linspace(0, 255, 40, dtype=np.uint8)[:, None, None]
    picture = Image.fromarray(np.broadcast_to(rows, (40, 40, 3)).copy()).convert("YCbCr")
    whole, fewer = tmp_path / "p" / "Ana" / "1.tif", tmp_path / "p" / "Bo" / "1.tif"
    for path, each in ((whole, (1, 1)), (fewer, (2, 2))):
        path.parent.mkdir(parents=True)
        picture.save(path, tiffinfo={ExifTags.Base.YCbCrSubSampling: each})
        path.write_bytes(path.read_bytes() + bytes(5000))  # such as the next picture
    faces = load(tmp_path / "p", image_size=40)
    assert faces.people == ("Ana",)
    assert np.abs(faces.images[0].astype(int) - rows).max() <= 2
    (skipped,) = faces.skipped
    assert skipped.path == "Bo/1.tif" and "save it as RGB" in skipped.reason


def test_16_bits_float_transparent_animated_tiny_and_misnamed(tmp_path):
    people = tmp_path / "p"
    for name in ("16", "16tif", "float", "alpha", "palette", "film", "1x1", "wide"):
        (people / name).mkdir(parents=True)
    deep = Image.fromarray(np.full((9, 9), 32896, np.uint16))
    deep.save(people / "16" / "1.png")
    deep.save(people / "16tif" / "1.tif")
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(people / "float" / "1.tif")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(people / "alpha" / "1.png")
    Image.new("P", (9, 9), 0).save(people / "palette" / "1.png", transparency=0)
    frames = [Image.new("RGB", (9, 9), c) for c in ("red", "blue")]
    frames[0].save(people / "film" / "1.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1), "red").save(people / "1x1" / "1.png")
    Image.new("RGB", (3000, 1), "red").save(people / "wide" / "1.jpg", format="PNG")
    faces = load(people, image_size=8)
    means = {faces.people[p]: faces.images[i].mean((0, 1)) for i, p in enumerate(faces.person)}
    assert [s.path for s in faces.skipped] == ["float/1.tif"]
    for name, want in {
        "16": (128, 128, 128),
        "16tif": (128, 128, 128),
        "alpha": (255, 255, 255),
        "palette": (255, 255, 255),
        "film": (255, 0, 0),
        "1x1": (255, 0, 0),
        "wide": (255, 0, 0),
    }.items():
        assert np.abs(means[name] - want).max() <= 1, name


# --- data sets of (image, label)


class Pairs:
    """A torchvision-style data set."""

    def __init__(self, pairs, classes=None):
        self.pairs = pairs
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def test_data_set_objects(cache):
    pixels = np.full((20, 20, 3), (200, 100, 50), np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    images = [Image.fromarray(pixels), pixels, pixels / 255.0, tensor, tensor / 255]
    labels = [7, torch.tensor(7), torch.tensor([9]), np.int64(9), 3]
    faces = load(Pairs(list(zip(images, labels, strict=True))), image_size=8)
    assert faces.people == ("3", "7", "9") and faces.person.tolist() == [1, 1, 2, 2, 0]
    assert (faces.images == np.array([200, 100, 50])).all()
    assert faces.name == "Pairs" and not cache.exists()
    grey = torch.full((1, 9, 9), 0.5)
    named = load(Pairs([(grey, 1), (grey[0], 0)], ["Ana", "Bo", "Cy"]), image_size=8)
    assert named.people == ("Ana", "Bo") and named.person.tolist() == [1, 0]
    unfit = load(Pairs([(grey, 5), (grey, 0)], ["Ana", "Bo"]), image_size=8)
    assert unfit.people == ("0", "5")


def test_data_set_of_an_image_folder(folder):
    datasets = pytest.importorskip("torchvision.datasets")
    check(load(datasets.ImageFolder(folder), image_size=8))
    (folder / "Ana" / "x.png").write_text("no")
    faces = load(datasets.ImageFolder(folder), image_size=8)
    assert len(faces) == 9 and [s.path for s in faces.skipped] == ["item 2"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.zeros(3, 9, 9) - 1, 0), r"Pairs\[0\]: float images must lie in 0..1.*Normalize"),
        ((np.zeros((9, 9), np.int32), 0), "uint8 or float in 0..1, got int32"),
        ((np.zeros((9, 9, 2), np.uint8), 0), "must be"),
        ((np.zeros((9, 9), np.uint8), torch.zeros(40, dtype=torch.int64)), "identity"),
        ((np.zeros((9, 9), np.uint8), 0.5), "expected one int"),
        (("a.png", 0), "expected a Pillow image"),
        (np.zeros((9, 9)), r"expected \(image, label\).*from_arrays"),
    ],
)
def test_bad_items(item, message):
    with pytest.raises(ValueError, match=message):
        load(Pairs([item]), image_size=8)
    with pytest.raises(ValueError, match="no usable person in Pairs"):
        load(Pairs([]), image_size=8)


def test_face_set_is_returned_as_it_is(folder):
    faces = load(folder, image_size=8)
    assert load(faces) is faces


# --- procedural faces


def test_synthetic(cache, monkeypatch):
    options = {"people": 3, "photos": 2, "image_size": 16, "progress": False}
    faces = load("synthetic:frontal,profile", **options)
    assert faces.domains == ("frontal", "profile") and len(faces) == 12
    assert faces.truth["mask"].shape == (12, 16, 16) and faces.truth["mask_worn"].shape == (12,)
    assert faces.truth["landmarks"].shape == (12, 5, 2)
    assert faces.name == "synthetic:frontal,profile"
    other = load("synthetic", **options, seed=1, channels=1)
    assert other.images.shape == (6, 16, 16, 1)
    monkeypatch.setattr("metaface.synthetic.render", None)  # from here on: the cache
    again = load("synthetic:frontal,profile", **options)
    assert np.array_equal(again.images, faces.images)
    for name, values in faces.truth.items():
        assert np.array_equal(again.truth[name], values)
    for bad in ("synthetic:", "synthetic: ,"):
        with pytest.raises(ValueError, match="names no domain"):
            load(bad)


def test_synthetic_is_600_people_of_20_photographs_where_nothing_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(_load, "load_synthetic", lambda name, *counts: asked.append(counts[:3]))
    load("synthetic")
    load("synthetic", people=3, seed=1)
    load("synthetic", photos=4)
    assert asked == [(600, 20, 0), (3, 20, 1), (600, 4, 0)]


def test_synthetic_is_keyed_by_the_renderer(cache, monkeypatch, tmp_path):
    options = {"people": 2, "photos": 1, "image_size": 16, "progress": False}
    load("synthetic", **options)
    copy = tmp_path / "synthetic"
    shutil.copytree(Path(synthetic.__file__).parent, copy)
    monkeypatch.setattr(synthetic, "__file__", str(copy / "__init__.py"))
    _synthetic._digest_renderer.cache_clear()
    load("synthetic", **options)
    assert len(entries(cache)) == 1
    (copy / "_paint.py").write_text("another renderer")
    _synthetic._digest_renderer.cache_clear()
    load("synthetic", **options)
    assert len(entries(cache)) == 2


def test_synthetic_refuses_unknown_domains():
    with pytest.raises(ValueError, match="nonsense"):
        load("synthetic:nonsense", people=2, photos=1)


# --- the cache


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_second_load_decodes_nothing(folder, monkeypatch, cache, kind):
    source = folder
    if kind == "zip":
        source = zipped(folder)
    if kind == "csv":
        source = folder / "x.csv"
        source.write_text("path,person\nAna/0.png,a\nBo/0.png,b\n")
    first = load(source, image_size=8)
    monkeypatch.setattr(_pictures, "decode", None)
    if kind == "zip":
        monkeypatch.setattr("metaface.data._sources.check_length", None)  # no picture is read
    second = load(source, image_size=8)
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.person, second.person) and first.people == second.people
    assert len(entries(cache)) == 1 and not entries(cache, "tmp-")


def test_content_name_and_settings_are_the_key(folder, cache):
    load(folder, image_size=8)
    renamed = folder.rename(folder.with_name("album"))
    assert load(renamed, image_size=8).name == "album" and len(entries(cache)) == 1
    for i, options in enumerate(({"image_size": 9}, {"crop": 0.5}, {"channels": 1})):
        load(renamed, **{"image_size": 8, **options})
        assert len(entries(cache)) == i + 2
    status = os.stat(renamed / "Ana" / "0.png")
    save(renamed / "Ana" / "0.png", (0, 0, 0))
    os.utime(renamed / "Ana" / "0.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load(renamed, image_size=8).images[0].max() == 0
    (renamed / "Ana").rename(renamed / "Ann")
    assert load(renamed, image_size=8).people == ("Ann", "Bo", "Cy")


def test_cache_argument_modes_and_clear(folder, tmp_path, cache):
    mine = tmp_path / "mine"
    load(folder, image_size=8, cache=mine)
    assert not cache.exists() and len(entries(mine)) == 1
    assert {p.stat().st_mode & 0o777 for p in (mine, *entries(mine))} == {0o700}
    (mine / "notes.txt").write_text("keep me")
    assert clear_cache(mine) == 1
    assert [p.name for p in mine.iterdir()] == ["notes.txt"]
    assert clear_cache(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("damage", ["short", "long", "no images", "no labels", "cut", "noise"])
def test_damaged_entry_is_rebuilt(folder, cache, caplog, damage):
    want = load(folder, image_size=8).images.copy()
    images, labels = entries(cache)[0] / "images.u8", entries(cache)[0] / "labels.npz"
    {
        "short": lambda: os.truncate(images, 100),
        "long": lambda: os.truncate(images, 10**6),
        "no images": images.unlink,
        "no labels": labels.unlink,
        "cut": lambda: os.truncate(labels, 300),
        "noise": lambda: labels.write_bytes(b"noise"),
    }[damage]()
    assert np.array_equal(load(folder, image_size=8).images, want)
    assert "is damaged" in caplog.text
    assert len(entries(cache)) == 1 and not entries(cache, "tmp-")
    caplog.clear()
    load(folder, image_size=8)
    assert not caplog.text


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_pixels_and_labels_are_never_used(folder, cache, caplog, count):
    want = load(folder, image_size=8)
    images, person, people = want.images.copy(), want.person, want.people
    files = sorted(entries(cache)[0].iterdir())
    assert [file.name for file in files] == ["checksums.json", "images.u8", "labels.npz"]
    for seed in range(count):
        file = files[seed // 5 % 3]
        whole = file.read_bytes()
        spoilt = damaged(whole, seed)
        if spoilt == whole:
            continue
        file.write_bytes(spoilt)
        caplog.clear()
        found = load(folder, image_size=8)
        assert np.array_equal(found.images, images), seed
        assert np.array_equal(found.person, person) and found.people == people
        # of what JSON says, spaces and the like may change
        assert "building it again" in caplog.text or file.name == "checksums.json"
    assert len(entries(cache)) == 1 and not entries(cache, "tmp-")


def test_an_entry_is_checked_once_by_a_process(folder, cache, monkeypatch):
    load(folder, image_size=8)
    monkeypatch.setattr(_cache.zlib, "crc32", None)
    load(folder, image_size=8)


def test_an_entry_under_another_ones_name_is_not_used(folder, cache, caplog):
    want = load(folder, image_size=8).images.copy()
    load(folder, image_size=8, crop=0.5)
    one, other = entries(cache)
    swapped = cache / "aside"
    one.rename(swapped)
    other.rename(one)
    swapped.rename(other)
    assert np.array_equal(load(folder, image_size=8).images, want)
    assert "entry does not fit its checksum" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="users and rights")
def test_an_entry_of_another_user_is_not_used(folder, cache, caplog, monkeypatch):
    want = load(folder, image_size=8).images.copy()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    monkeypatch.setattr(np, "memmap", None)
    found = load(folder, image_size=8)
    assert np.array_equal(found.images, want)
    assert "belongs to another user" in caplog.text and "METAFACE_CACHE" in caplog.text
    assert len(entries(cache)) == 1  # nothing of theirs is removed


@pytest.mark.skipif(os.name != "posix", reason="users and rights")
@pytest.mark.parametrize("umask", [0, 0o077])
def test_an_entry_that_others_may_write_to_is_made_anew(folder, cache, caplog, umask):
    before = os.umask(umask)
    try:
        want = load(folder, image_size=8).images.copy()
        load(folder, image_size=8)
        assert not caplog.text
        entries(cache)[0].chmod(0o775)
        assert np.array_equal(load(folder, image_size=8).images, want)
        assert "others may write to it" in caplog.text
        assert entries(cache)[0].stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_labels_are_never_unpickled(folder, cache):
    load(folder, image_size=8)
    with np.load(entries(cache)[0] / "labels.npz", allow_pickle=False) as labels:
        assert all(labels[name].dtype != object for name in labels.files)


def test_unwritable_cache_falls_back_to_memory(folder, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    faces = load(folder, image_size=8, cache=tmp_path / "file" / "cache")
    check(faces)
    assert "METAFACE_CACHE" in caplog.text and str(tmp_path / "file" / "cache") in caplog.text


def test_full_disk_falls_back_to_memory(folder, monkeypatch, cache, caplog):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cache, "_sync", full)
    check(load(folder, image_size=8))
    assert "No space left" in caplog.text and not entries(cache, "")


SCRIPT = """
import os, sys, time
from metaface.data import _pictures, load
decode = _pictures.decode
def slow(data, geometry):
    open(sys.argv[2], "a").write("x")
    time.sleep(float(sys.argv[3]))
    return decode(data, geometry)
_pictures.decode = slow
faces = load(sys.argv[1], image_size=8, progress=False)
print(faces.images.sum(), len(faces), type(faces.store).__name__)
"""


def start(folder: Path, log: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(log), str(pause)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_two_processes_at_once_and_a_kill_half_way(folder, tmp_path, cache, caplog):
    victim = start(folder, tmp_path / "log", 60)
    while not (tmp_path / "log").exists():
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.02)
    (left,) = entries(cache, "tmp-")
    check(load(folder, image_size=8))
    assert entries(cache, "tmp-") == [left], "a living builder's directory must stay"
    clear = entries(cache)[0]
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    shutil.rmtree(clear)

    pair = [start(folder, tmp_path / f"log{i}", 0.2) for i in range(2)]
    outputs = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] and "memmap" in outputs[0][0]
    assert not any("WARN" in error or "cannot cache" in error for _, error in outputs)
    assert len(entries(cache)) == 1 and not entries(cache, "tmp-")
    with caplog.at_level(logging.WARNING):
        check(load(folder, image_size=8))
    assert not caplog.text


def test_loser_of_a_race_uses_the_winners_entry(folder, cache, monkeypatch):
    assemble = _pictures.assemble

    def overtaken(*args):
        monkeypatch.setattr("metaface.data._load.assemble", assemble)
        load(folder, image_size=8)
        return assemble(*args)

    monkeypatch.setattr("metaface.data._load.assemble", overtaken)
    check(load(folder, image_size=8))
    assert len(entries(cache)) == 1 and not entries(cache, "tmp-")


# --- real data


@pytest.mark.parametrize(
    ("name", "people", "photos", "options"),
    [
        ("lfw_deepfunneled.zip", 1680, 6078, {"image_size": 16, "crop": 0.5}),
        ("att_faces.zip", 40, 400, {"image_size": 32, "channels": 1}),
        ("yaleb_112.zip", 38, 2414, {"image_size": 16, "channels": 1}),
        ("cufs_photos.zip", 311, 311, {"image_size": 16}),
        ("cufs_sketches.zip", 311, 311, {"image_size": 16}),
        ("omniglot_images_background.zip", 964, 19280, {"image_size": 16, "channels": 1}),
    ],
)
def test_real_sets(test_data, name, people, photos, options):
    faces = load(test_data(name), progress=False, **options)
    assert (len(faces.people), len(faces), faces.skipped) == (people, photos, ())


def test_photos_and_sketches_share_names(test_data):
    sets = [load(test_data(f"cufs_{kind}.zip"), image_size=8) for kind in ("photos", "sketches")]
    assert sets[0].people == sets[1].people


def test_folder_and_zip_agree(test_data, tmp_path):
    path = test_data("att_faces.zip")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        archive.extractall(tmp_path)
    a, b = load(path, image_size=16), load(tmp_path / "att_faces", image_size=16)
    assert np.array_equal(a.images, b.images) and a.people == b.people


def test_join_makes_domains_of_sets_and_one_person_of_a_name(test_data):
    photos = load(test_data("cufs_photos.zip"), image_size=16, progress=False)
    sketches = load(test_data("cufs_sketches.zip"), image_size=16, progress=False)
    both = FaceSet.join({"photo": photos, "sketch": sketches.of_people(range(100))})
    assert both.domains == ("photo", "sketch")
    assert len(both.people) == 311 and len(both) == 411
    assert (both.photos() == [2] * 100 + [1] * 211).all()
    ana = both.of_people([7])
    assert (ana.images[0] == photos.of_people([7]).images[0]).all()
    assert (ana.images[1] == sketches.of_people([7]).images[0]).all()
    with pytest.raises(ValueError, match="one image shape"):
        FaceSet.join({"a": photos, "b": load(test_data("cufs_sketches.zip"), image_size=8)})


def test_an_open_quote_swallows_no_rows(tmp_path):
    (tmp_path / "people.csv").write_text('path,person\na.png,Ana\nb.png,"Bo\nc.png,Bo\n')
    with pytest.raises(ValueError, match=r"people\.csv is not a CSV"):
        load(tmp_path / "people.csv")
    (tmp_path / "people.csv").write_text('path,person\na.png,"Ana\nb.png,"Bo\nc.png,Bo\n')
    with pytest.raises(ValueError, match=r"people\.csv"):
        load(tmp_path / "people.csv")
    (tmp_path / "people.csv").write_text('path,person\na.png,"Ana\nb.png,Bo"\nc.png,Bo\n')
    with pytest.raises(ValueError, match=r"people\.csv: .* ends on line 3 .* stray quote"):
        load(tmp_path / "people.csv")


def test_one_odd_name_in_a_zip_spoils_no_other(tmp_path, caplog):
    data = save(tmp_path / "x.png").read_bytes()
    names = [NAMES[0].encode(), "\u5c71\u7530".encode("shift-jis")]
    faces = load(with_raw_names(tmp_path / "z.zip", names, data), image_size=8)
    assert set(faces.people) == {NAMES[0], names[1].decode("cp437")}
    assert "1 of its names" in caplog.text
