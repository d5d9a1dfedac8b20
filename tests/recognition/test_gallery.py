"""The gallery: round trips, several writers, kills, full disks, foreign files, and forgetting."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaface.recognition.gallery import _checksums, _store
from metaface.recognition.gallery.gallery import Gallery, GalleryError
from metaface.recognition.gallery.names import person_name

D = 16
MODEL: dict[str, Any] = {"model": "0123abcd", "model_name": "toy", "dim": D}
CHILD = Path(__file__).parents[1].joinpath("gallery_child.py")


def faces(count: int, seed: int = 0, dim: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), np.uint8)


def content(gallery: Gallery) -> dict[str, list[bytes]]:
    """Each person's embeddings, in order."""
    found = gallery.enrolled()
    held: dict[str, list[bytes]] = {name: [] for name in found.names}
    for who, vector in zip(found.person, found.embeddings, strict=True):
        held[found.names[who]].append(vector.tobytes())
    assert gallery.people() == {name: len(rows) for name, rows in held.items()}
    return held


def as_before_checksums(db: sqlite3.Connection) -> None:
    """Make a gallery one of format 1."""
    db.execute("PRAGMA user_version = 1")
    db.execute("DELETE FROM meta WHERE key = 'sums'")


def on_disk(folder: Path) -> bytes:
    """Every byte in a folder, journals and left-overs too."""
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def traces(where: bytes, array: np.ndarray) -> float:
    """The share of an array of random values that is found, by pieces of 16 bytes, 60 or so."""
    data = array.tobytes()
    starts = range(0, len(data) - 15, 16 * (1 + len(data) // 1000))
    return sum(data[at : at + 16] in where for at in starts) / len(starts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.gallery"


# What goes in comes out


@pytest.mark.parametrize("memory", [False, True])
def test_round_trip(path: Path, memory: bool) -> None:
    with Gallery(":memory:" if memory else path, keep_crops=True, **MODEL) as gallery:
        gallery.add("Ana", faces(2, 0), pictures(2, 0))
        gallery.add("Bo", faces(1, 1), pictures(1, 1))
        gallery.add("Ana", faces(3, 2), pictures(3, 2))
        assert gallery.people() == {"Ana": 5, "Bo": 1}
        if not memory:
            gallery.close()
            gallery = Gallery(path, **MODEL)
        found = gallery.enrolled()
        assert found.names == ("Ana", "Bo")
        assert found.person.tolist() == [0, 0, 1, 0, 0, 0] and found.person.dtype == np.int64
        assert found.ids.tolist() == [1, 2, 3, 4, 5, 6] and found.ids.dtype == np.int64
        expected = np.concatenate([faces(2, 0), faces(1, 1), faces(3, 2)])
        assert np.array_equal(found.embeddings, expected) and found.embeddings.dtype == np.float32
        crops = np.concatenate([pictures(2, 0), pictures(1, 1), pictures(3, 2)])
        assert np.array_equal(gallery.crops(), crops)
        assert gallery.keep_crops
        gallery.close()


def test_an_empty_gallery() -> None:
    with Gallery(**MODEL) as gallery:
        found = gallery.enrolled()
        assert found.names == () and found.embeddings.shape == (0, D)
        assert found.person.shape == found.ids.shape == (0,)
        assert gallery.people() == {} and not gallery.keep_crops
        vectors, person = gallery.strangers()
        assert vectors.shape == (0, D) and person.shape == (0,)
        with pytest.raises(GalleryError, match="keep_crops=True") as caught:
            gallery.crops()
        assert caught.value.reason == "no_crops"


def test_ids_are_never_used_again() -> None:
    with Gallery(**MODEL) as gallery:
        gallery.add("Ana", faces(3))
        gallery.forget("Ana")
        gallery.add("Ana", faces(1))
        assert gallery.enrolled().ids.tolist() == [4]


def test_strangers_and_settings(path: Path) -> None:
    record = {"threshold": 0.41, "names": ["é", None], "n": 3}
    with Gallery(path, **MODEL) as gallery:
        gallery.set_strangers(faces(5), np.array([4, 4, 1, 2, 3]))
        gallery.set_setting("calibration", record)
        gallery.set_setting("other", 1)
        gallery.set_setting("other", None)
    with Gallery(path, **MODEL) as gallery:
        vectors, person = gallery.strangers()
        assert np.array_equal(vectors, faces(5)) and person.tolist() == [4, 4, 1, 2, 3]
        assert gallery.setting("calibration") == record
        assert gallery.setting("other") is None
        gallery.set_strangers(faces(2, 1), np.array([0, 1]))
        assert np.array_equal(gallery.strangers()[0], faces(2, 1))
        gallery.clear_strangers()
        assert len(gallery.strangers()[0]) == 0
        with pytest.raises(ValueError, match="JSON"):
            gallery.set_setting("calibration", float("nan"))
        with pytest.raises(ValueError, match=r"strangers are int64 \[3\], not integers \[2\]"):
            gallery.set_strangers(faces(2), np.arange(3))
        with pytest.raises(ValueError, match="float64"):
            gallery.set_strangers(faces(2), np.ones(2))


def test_the_revision_changes_with_every_change_and_only_then(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery, Gallery(path, **MODEL) as other:
        seen = {gallery.revision}
        for change in (
            lambda: other.add("Ana", faces(1)),
            lambda: other.add("Ana", faces(1, 1)),
            lambda: other.set_strangers(faces(2), np.arange(2)),
            lambda: other.forget("Ana"),
            lambda: other.clear_strangers(),
        ):
            change()
            assert gallery.revision == other.revision == gallery.revision
            seen.add(gallery.revision)
        assert len(seen) == 6
        other.set_setting("x", 1)
        with pytest.raises(GalleryError):
            other.forget("nobody")
        assert gallery.revision in seen and len(seen | {gallery.revision}) == 6


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "forget", "reopen"]),
        st.sampled_from(["Ana", "Bo", "Çelik", "😀", "d" * 200]),
        st.integers(1, 40),
    ),
    max_size=12,
)


@given(operations=OPERATIONS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_does_what_a_dict_does(operations: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, held = Path(folder) / "g", {}  # type: ignore[var-annotated]
        gallery = Gallery(path, **MODEL)
        for seed, (what, name, count) in enumerate(operations):
            if what == "add":
                gallery.add(name, faces(count, seed))
                held.setdefault(name, []).extend(v.tobytes() for v in faces(count, seed))
            elif what == "reopen":
                gallery.close()
                gallery = Gallery(path, **MODEL)
            elif name in held:
                gone = held.pop(name)
                assert gallery.forget(name) == len(gone)
                assert not any(vector[:16] in on_disk(Path(folder)) for vector in gone)
            else:
                with pytest.raises(GalleryError) as caught:
                    gallery.forget(name)
                assert caught.value.reason == "unknown_person"
            found = content(gallery)
            assert found == held and list(found) == list(held)
        gallery.close()


# What cannot go in


@pytest.mark.parametrize(
    ("given_name", "known"),
    [("  Ana ", "Ana"), ("José", "José"), ("李小龍", "李小龍"), ("O'Neil; DROP", "O'Neil; DROP")],
)
def test_names_are_normalised(given_name: str, known: str) -> None:
    assert person_name(given_name) == unicodedata.normalize("NFC", known)
    with Gallery(**MODEL) as gallery:
        gallery.add(given_name, faces(1))
        gallery.add(unicodedata.normalize("NFD", known), faces(1, 1))
        assert gallery.people() == {known: 2}
        assert gallery.forget(given_name) == 2


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "\u200b",
        "a\nb",
        "a\x00",
        "\x1b[31m",
        "\ud800",
        "a\u202eb",
        "x" * 201,
        "unknown",
        "Unknown",
        "\uff55\uff4e\uff4b\uff4e\uff4f\uff57\uff4e",
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with Gallery(**MODEL) as gallery:
        with pytest.raises(ValueError, match="the name"):
            gallery.add(name, faces(1))
        assert gallery.people() == {}


def test_arrays_that_are_refused() -> None:
    with Gallery(keep_crops=True, **MODEL) as gallery:
        spoilt = faces(2)
        spoilt[1, 3] = np.nan
        for embeddings, crops, message in (
            (faces(1)[0], pictures(1), r"float32 \[16\], not float32 \[k, 16\]"),
            (faces(1, dim=8), pictures(1), r"\[1, 8\], not"),
            (faces(1).astype(np.float64), pictures(1), "float64"),
            (faces(0), pictures(0), "at least one photograph"),
            (2 * faces(1), pictures(1), "embedding 0 has length 2:"),
            (spoilt, pictures(2), "embedding 1 has length nan"),
            (faces(1), None, "keeps crops"),
            (faces(2), pictures(1), r"\[1, 112, 112, 3\], not uint8 \[2, 112"),
            (faces(1), pictures(1).astype(np.float32), "float32"),
        ):
            with pytest.raises(ValueError, match=message):
                gallery.add("Ana", embeddings, crops)
        with pytest.raises(TypeError, match="7 is a int"):
            gallery.add(7, faces(1), pictures(1))  # type: ignore[arg-type]
        assert gallery.people() == {}


def test_an_array_in_another_order_in_memory() -> None:
    with Gallery(**MODEL) as gallery:
        gallery.add("Ana", np.asfortranarray(faces(4))[::2])
        assert np.array_equal(gallery.enrolled().embeddings, faces(4)[::2])


def test_crops_are_not_kept_unless_asked_for(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(1), pictures(1))
    assert traces(on_disk(path.parent), pictures(1)) == 0
    with pytest.raises(ValueError, match="created with keep_crops=False"):
        Gallery(path, keep_crops=True, **MODEL)


def test_another_model_is_refused_by_name(path: Path) -> None:
    Gallery(path, **MODEL).close()
    for other in ({"model": "99999999"}, {"dim": 8}):
        with pytest.raises(GalleryError, match="made by 'toy'.*not by 'new'.*enrol") as caught:
            Gallery(path, **{**MODEL, "model_name": "new", **other})
        assert caught.value.reason == "gallery_model_mismatch"
        assert str(path) in str(caught.value)
    with Gallery.open(path) as gallery:
        assert (gallery.model, gallery.model_name, gallery.dim) == tuple(MODEL.values())
    with pytest.raises(FileNotFoundError, match="no gallery at"):
        Gallery.open(path.with_name("none"))


# Forgetting


def test_forgetting_leaves_no_byte_in_the_file_or_beside_it(path: Path) -> None:
    people = 60  # with 1 to 3 photographs, so that pages split and move
    held = {f"person {i:03}": (faces(1 + i % 3, i), pictures(1 + i % 3, i)) for i in range(people)}
    with Gallery(path, keep_crops=True, **MODEL) as gallery:
        for name, (vectors, crops) in held.items():
            gallery.add(name, vectors, crops)
        gallery.set_strangers(faces(50, 1000), np.arange(50), pictures(50, 1000))
        order = list(held)
        random.Random(0).shuffle(order)
        for name in order[:10]:
            vectors, crops = held.pop(name)
            before = on_disk(path.parent)
            assert name.encode() in before
            assert traces(before, vectors) == 1
            assert traces(before, crops) > 0.9  # some pieces lie across two pages
            assert gallery.forget(name) == len(vectors)
            after = on_disk(path.parent)
            assert name.encode() not in after
            assert traces(after, vectors) == traces(after, crops) == 0
            gallery.add(f"new {name[-1]}{name}"[:5], faces(1, 2000), pictures(1, 2000))
        kept = dict(list(held.items())[:20])
        found = content(gallery)
        assert all(found[n] == [v.tobytes() for v in vectors] for n, (vectors, _) in kept.items())
        assert np.array_equal(gallery.stranger_crops(), pictures(50, 1000))
        strange = faces(50, 1000), pictures(50, 1000)
        assert all(traces(on_disk(path.parent), part) > 0 for part in strange)
        gallery.clear_strangers()
        assert all(traces(on_disk(path.parent), part) == 0 for part in strange)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_stale_copies_in_unused_parts_of_pages_go_too(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(2))
        gallery.add("Bo", faces(20, 1))
        with sqlite3.connect(path) as db:  # as SQLite may leave them where rows move
            db.execute("PRAGMA secure_delete = OFF")
            db.execute("DELETE FROM face WHERE person = 1")
            as_before_checksums(db)
        db.close()
        assert len(gallery.enrolled().ids) == 20
        assert traces(path.read_bytes(), faces(2)) > 0.8
        assert gallery.forget("Ana") == 0
        assert traces(on_disk(path.parent), faces(2)) == 0


def test_the_journal_holds_a_forgotten_face_before_it_is_zeroed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test above looks where there is something to find."""
    zero, seen = _store._zero, []

    def look(name: str) -> None:
        journal = Path(name)
        seen.append(traces(journal.read_bytes(), faces(2)) if journal.exists() else None)
        zero(name)

    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(2))
        gallery.add("Bo", faces(2, 1))
        monkeypatch.setattr(_store, "_zero", look)
        gallery.forget("Bo")
        monkeypatch.undo()
        assert seen == [1]  # all of Ana, in the copy that the rebuilding made
        assert traces(on_disk(path.parent), faces(2, 1)) == 0


def test_a_large_gallery_is_rebuilt_on_the_disk(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_store, "_IN_MEMORY", 0)
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(300))
        gallery.add("Bo", faces(2, 1))
        gallery.forget("Ana")
        assert content(gallery) == {"Bo": [v.tobytes() for v in faces(2, 1)]}
        assert traces(on_disk(path.parent), faces(300)) == 0
        assert gallery._store._db.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY again


def test_a_rebuilding_that_failed_is_done_later(path: Path, monkeypatch: Any) -> None:
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(30))
        gallery.add("Bo", faces(2, 1))

        def interrupted(store: _store.Store) -> None:
            raise GalleryError("gallery_full", "the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(_store.Store, "wipe", interrupted)
            with pytest.raises(GalleryError, match="'Ana' is forgotten, but the file") as caught:
                gallery.forget("Ana")
        assert caught.value.reason == "gallery_full"
        assert gallery.people() == {"Bo": 2}
    size = path.stat().st_size
    with Gallery(path, **MODEL) as gallery:
        assert gallery.people() == {"Bo": 2}
    assert path.stat().st_size <= size and traces(on_disk(path.parent), faces(30)) == 0
    with sqlite3.connect(path) as db:
        assert not db.execute("SELECT * FROM meta WHERE key = 'unclean'").fetchall()
    db.close()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_the_owner_can_read_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        with Gallery(path, **MODEL) as gallery:
            gallery.add("Ana", faces(1))
            gallery.copy_to(path.with_name("copy"))
            files = list(path.parent.iterdir())
            assert {f"{path.name}-journal", "copy"} < {file.name for file in files}
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    finally:
        os.umask(umask)


# Copies


def test_a_copy_is_the_gallery(path: Path) -> None:
    copy = path.with_name("copy")
    with Gallery(keep_crops=True, **MODEL) as gallery:
        gallery.add("Ana", faces(2), pictures(2))
        gallery.set_setting("x", [1])
        gallery.copy_to(copy)
        with Gallery(copy, **MODEL) as other:  # replaced under someone who has it open
            assert content(other) == content(gallery) and other.revision == gallery.revision
            assert other.setting("x") == [1] and np.array_equal(other.crops(), pictures(2))
            other.add("only there", faces(1, 1), pictures(1, 1))
            gallery.add("Bo", faces(1, 2), pictures(1, 2))
            gallery.copy_to(copy)
            assert content(other) == content(gallery)
    assert traces(on_disk(path.parent), faces(1, 1)) == 0
    assert [file.name for file in path.parent.iterdir()] == ["copy"]


def test_a_copy_overwrites_nothing_else(path: Path) -> None:
    foreign = path.with_name("thesis.txt")
    foreign.write_text("all my work " * 1000)
    Gallery(path.with_name("other"), **{**MODEL, "model": "9"}).close()
    with Gallery(path, **MODEL) as gallery:
        for target, reason in (
            ("thesis.txt", "not_a_gallery"),
            ("other", "gallery_model_mismatch"),
        ):
            with pytest.raises(GalleryError) as caught:
                gallery.copy_to(path.with_name(target))
            assert caught.value.reason == reason
        with pytest.raises(ValueError, match="own file"):
            gallery.copy_to(path)
        with pytest.raises(FileNotFoundError, match="no folder"):
            gallery.copy_to(path.parent / "none" / "g")
    assert foreign.read_text() == "all my work " * 1000


# Files that are not what they should be


def test_a_truncated_gallery_is_refused_and_left_alone(path: Path) -> None:
    with Gallery(path, keep_crops=True, **MODEL) as gallery:
        gallery.add("Ana", faces(2), pictures(2))
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 997), 1, 15, 16, 99, 100, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(GalleryError, match=str(path)) as caught:
            Gallery(path, **MODEL)
        assert caught.value.reason == "not_a_gallery", size
        assert path.read_bytes() == whole[:size]
    path.write_bytes(whole)
    with Gallery(path, **MODEL) as gallery:
        assert np.array_equal(gallery.crops(), pictures(2))


def test_a_damaged_gallery_never_gives_a_wrong_face(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        for i in range(60):
            gallery.add(f"person {i}", faces(2, i))
        expected = {vector.tobytes() for vector in gallery.enrolled().embeddings}
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        at = rng.randrange(len(whole) - 600)
        path.write_bytes(whole[:at] + bytes(600) + whole[at + 600 :])
        try:
            with Gallery(path, **MODEL) as gallery:
                found = gallery.enrolled().embeddings
        except GalleryError as error:
            assert error.reason == "not_a_gallery"
            refused += 1
        else:
            assert {vector.tobytes() for vector in found} <= expected
    assert refused > 5


def everything(gallery: Gallery) -> list[Any]:
    """All that can be asked of a gallery."""
    who, strangers = gallery.enrolled(), gallery.strangers()
    arrays = who.person, who.embeddings, who.ids, gallery.crops(), *strangers
    return [
        who.names,
        gallery.people(),
        gallery.setting("calibration"),
        gallery.revision,
        gallery.model,
        gallery.model_name,
        gallery.dim,
        gallery.keep_crops,
        *((a.shape, a.tobytes()) for a in (*arrays, gallery.stranger_crops())),
    ]


def full_gallery(path: Path) -> None:
    """A gallery with something in every table, of several pages."""
    with Gallery(path, keep_crops=True, **MODEL) as gallery:
        for i in range(40):
            gallery.add(f"person {i}", faces(3, i), pictures(3, i)[:, :1].repeat(112, 1))
        gallery.forget("person 7")
        gallery.set_strangers(faces(20, 99), np.arange(20) // 2, pictures(20, 99))
        gallery.set_setting("calibration", {"threshold": 0.41, "fpir": 0.01})


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("crops", [False, True])
def test_a_damaged_gallery_is_refused_or_gives_the_same(
    path: Path, count: int, crops: bool
) -> None:
    if crops:
        full_gallery(path)
    else:  # a file that is nearly all names, numbers and short embeddings
        with Gallery(path, **MODEL) as gallery:
            for i in range(60):
                gallery.add(f"person {i}", faces(2, i))
            gallery.set_setting("calibration", {"threshold": 0.41})
    look = everything if crops else lambda g: [content(g), g.setting("calibration"), g.revision]
    whole = path.read_bytes()
    with Gallery(path, **MODEL) as gallery:
        expected, refused = look(gallery), 0
    for seed in range(count):
        path.write_bytes(damaged(whole, seed))
        try:
            with Gallery(path, **MODEL) as gallery:
                assert look(gallery) == expected, seed
        except GalleryError as error:
            assert str(path) in str(error) and error.reason in (
                "not_a_gallery",
                "gallery_newer",
                "gallery_io",
                "gallery_model_mismatch",
            ), (seed, error)
            refused += 1
    assert refused > count / 4


def test_one_flipped_bit_never_gives_a_face_to_another_person(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        for i in range(30):
            gallery.add(f"person {i}", faces(4, i))
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT id, person FROM face").fetchall()
        for face, person in rows[::8]:
            for bit in (1, 2, 4):
                db.execute("UPDATE face SET person = ? WHERE id = ?", (person ^ bit, face))
                db.commit()
                with Gallery.open(path) as gallery:
                    for ask in (
                        gallery.enrolled,
                        gallery.people,
                        lambda g=gallery: g.add("x", faces(1)),
                        lambda g=gallery: g.forget("person 3"),
                        lambda g=gallery: g.copy_to(path.with_name("copy")),
                    ):
                        with pytest.raises(GalleryError, match=f"{path}.*checksum; take a backup"):
                            ask()
                db.execute("UPDATE face SET person = ? WHERE id = ?", (person, face))
                db.commit()
    with Gallery(path, **MODEL) as gallery:
        assert len(content(gallery)) == 30
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_error_that_is_kept_keeps_no_lock(path: Path) -> None:
    # a query that an error left half-read is held by the error's traceback, and holds the file
    with Gallery(path, **MODEL) as gallery:
        for i in range(300):
            gallery.add(f"person {i}", faces(4, i))
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
        db.execute("UPDATE face SET person = person + 1, embedding = x'' WHERE id = 17")
        gallery = Gallery.open(path)
        kept = []
        asked = (
            gallery.people,
            gallery.enrolled,
            lambda: gallery.add("x", faces(1)),
            lambda: gallery.forget("person 3"),
            lambda: gallery.copy_to(f"{path}.2"),
        )
        for ask in asked:
            with pytest.raises(GalleryError) as refused:
                ask()
            kept.append(refused.value)
            db.execute("UPDATE meta SET value = 7 WHERE key = 'nobody'")
        gallery.close()
        assert len(kept) == 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE person SET name = 'person 9x' WHERE name = 'person 9'",
        "DELETE FROM person WHERE name = 'person 9'",
        "DELETE FROM face WHERE id = 4",
        "INSERT INTO face (person, embedding) SELECT person, embedding FROM face WHERE id = 4",
        "UPDATE face SET embedding = (SELECT embedding FROM face WHERE id = 5) WHERE id = 4",
        "UPDATE crop SET pixels = zeroblob(37632) WHERE face = 4",
        "UPDATE crop SET pixels = (SELECT pixels FROM crop WHERE face = 5) WHERE face = 4",
        "DELETE FROM crop WHERE face = 4",
        "UPDATE stranger SET person = 9 WHERE id = 1",
        "UPDATE stranger SET pixels = zeroblob(37632) WHERE id = 2",
        "DELETE FROM stranger WHERE id = 20",
        'UPDATE setting SET value = \'{"threshold": 0.01, "fpir": 0.01}\'',
        "UPDATE setting SET key = 'calibratiom'",
        "DELETE FROM setting",
        "UPDATE meta SET value = 17 WHERE key = 'revision'",
        "UPDATE meta SET value = 'toyy' WHERE key = 'model_name'",
        "UPDATE meta SET value = 0 WHERE key = 'keep_crops'",
        "UPDATE meta SET value = 'x' WHERE key = 'sums'",
        "DELETE FROM meta WHERE key = 'sums'",
        "UPDATE meta SET key = 'sumz' WHERE key = 'sums'",
        "PRAGMA user_version = 1",
        "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'face'",
    ],
)
def test_every_column_has_a_checksum(path: Path, change: str) -> None:
    full_gallery(path)
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with (
        pytest.raises(GalleryError, match="damaged|made by 'toy") as caught,
        Gallery.open(path) as g,
    ):
        everything(g)
    assert str(path) in str(caught.value) and caught.value.reason == "not_a_gallery"


def test_a_gallery_of_before_checksums_opens_and_gets_them_with_the_first_change(
    path: Path,
) -> None:
    full_gallery(path)
    with Gallery(path, **MODEL) as gallery:
        expected = everything(gallery)
    with sqlite3.connect(path) as db:
        as_before_checksums(db)
    db.close()
    before = path.read_bytes()
    with Gallery(path, **MODEL) as gallery:
        assert everything(gallery) == expected
    assert path.read_bytes() == before  # reading changes nothing
    with Gallery(path, **MODEL) as gallery:
        gallery.set_setting("x", 1)
        gallery.set_setting("x", None)
        assert everything(gallery) == expected
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2
        db.execute("UPDATE face SET person = 3 WHERE id = 4")
    db.close()
    with pytest.raises(GalleryError, match="checksum"), Gallery(path, **MODEL) as gallery:
        gallery.enrolled()


def test_foreign_files_are_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path.with_name("foreign.db")) as db:
        db.execute("CREATE TABLE face (id INTEGER)")
        db.execute("INSERT INTO face VALUES (7)")
    db.close()
    foreign = path.with_name("foreign.db").read_bytes()
    for data in (b"", b"x", b"SQLite format 3\0", foreign, random.Random(0).randbytes(50_000)):
        path.write_bytes(data)
        with pytest.raises(GalleryError, match=str(path)) as caught:
            Gallery(path, **MODEL)
        assert caught.value.reason == "not_a_gallery"
        assert path.read_bytes() == data
    path.unlink()
    path.mkdir()
    with pytest.raises(GalleryError, match="not a file"):
        Gallery(path, **MODEL)


def test_a_gallery_with_other_tables_is_refused(path: Path) -> None:
    Gallery(path, **MODEL).close()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER evil AFTER INSERT ON face BEGIN DELETE FROM person; END")
    db.close()
    with pytest.raises(GalleryError) as caught:
        Gallery(path, **MODEL)
    assert caught.value.reason == "not_a_gallery"


def test_a_newer_format_is_refused(path: Path) -> None:
    Gallery(path, **MODEL).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(GalleryError, match="format 3.*reads format 2: update") as caught:
        Gallery(path, **MODEL)
    assert caught.value.reason == "gallery_newer"


@pytest.mark.parametrize("name", ["a b?c#d%20e", "ü'\"", "mode=memory", "'; --", "-x"])
def test_files_of_any_name(tmp_path: Path, name: str) -> None:
    with Gallery(tmp_path / name, **MODEL) as gallery:
        gallery.add("Ana", faces(1))
        gallery.forget("Ana")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_is_followed(path: Path) -> None:
    (path.parent / "real").mkdir()
    path.symlink_to(path.parent / "real" / "g")
    for _ in range(2):
        with Gallery(path, **MODEL) as gallery:
            gallery.add("Ana", faces(1))
            gallery.add("Bo", faces(1))
            gallery.forget("Bo")
    assert path.is_symlink() and os.listdir(path.parent / "real") == ["g"]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_read_only_gallery_can_be_read() -> None:
    with tempfile.TemporaryDirectory() as made:  # others may not enter pytest's folders
        folder = Path(made)
        path = folder / "g"
        with Gallery(path, **MODEL) as gallery:
            gallery.add("Ana", faces(2))
        before = path.read_bytes()
        path.chmod(0o444)
        folder.chmod(0o555)
        run = subprocess.run([sys.executable, CHILD, path, "read"], capture_output=True, text=True)
        folder.chmod(0o700)
        assert run.stdout == "read\n", run.stderr
        assert path.read_bytes() == before and os.listdir(folder) == ["g"]


# Full disks


@pytest.mark.skipif(sys.platform != "linux", reason="limits on file sizes")
def test_a_full_disk_leaves_the_gallery_as_it_was(path: Path) -> None:
    Gallery(path, **MODEL).close()
    for extra in (9_000, 50_000):
        path.unlink()
        Gallery(path, **MODEL).close()
        limit = path.stat().st_size + extra
        run = subprocess.run(
            [sys.executable, CHILD, path, "fill", str(limit)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        with Gallery(path, **MODEL) as gallery:
            assert list(content(gallery)) == run.stdout.split()


def test_a_full_database_is_named(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Ana", faces(1))
        pages = gallery._store._db.execute("PRAGMA page_count").fetchone()[0]
        gallery._store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(GalleryError, match="make room") as caught:
            gallery.add("Bo", faces(1000))
        assert caught.value.reason == "gallery_full"
        assert content(gallery) == {"Ana": [faces(1).tobytes()]}


# Several at once


def test_two_processes_writing_at_once_lose_nothing(path: Path) -> None:
    children = [child(path, who, 60) for who in ("one", "two")]
    printed = [process.communicate(timeout=60)[0].split() for process in children]
    assert [process.returncode for process in children] == [0, 0]
    with Gallery(path, **MODEL) as gallery:
        found = content(gallery)
        for names in printed:
            assert len(names) == 60 and set(names) <= found.keys()
        whole(found, set(printed[0] + printed[1]))


def test_threads_share_one_gallery(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:

        def enrol(who: int) -> None:
            for i in range(20):
                gallery.add(f"{who} {i}", faces(1, i))
                gallery.enrolled()

        threads = [threading.Thread(target=enrol, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(content(gallery)) == 80


def test_a_lock_that_stays_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "_WAIT", 0.05)
    with Gallery(path, **MODEL) as gallery, Gallery(path, **MODEL) as other:
        gallery.add("Ana", faces(1))
        with other._store.writing():
            with pytest.raises(GalleryError, match="another process") as caught:
                gallery.add("Bo", faces(1, 1))
            assert caught.value.reason == "gallery_busy"
            assert gallery.people() == {"Ana": 1}  # readers are not kept out
            with Gallery(**MODEL) as source, pytest.raises(GalleryError) as caught:
                source.copy_to(path)
            assert caught.value.reason == "gallery_busy"
        with other._store.reading():
            other._store._db.execute("SELECT * FROM face").fetchall()
            with pytest.raises(GalleryError, match="'Ana' is forgotten|locked") as caught:
                gallery.forget("Ana")
            assert caught.value.reason == "gallery_busy"
        gallery.add("Bo", faces(1, 1))


def test_many_create_it_at_once(path: Path) -> None:
    children = [child(path, str(who), 5) for who in range(4)]
    assert [process.communicate(timeout=60) and process.returncode for process in children] == [
        0
    ] * 4
    with Gallery(path, **MODEL) as gallery:
        assert len(content(gallery)) == 20
    assert os.listdir(path.parent) == [path.name]


# Kills


def child(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    """Enrols ``count`` people, and prints each name when ``add`` has returned."""
    command = [sys.executable, CHILD, path, who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole(found: dict[str, list[bytes]], printed: set[str]) -> None:
    """Everyone in the gallery has all of their photographs."""
    assert printed <= found.keys()
    for name, rows in found.items():
        number = int(name.rsplit("-", 1)[1])
        assert rows == [v.tobytes() for v in faces(1 + number % 5, number)]


def kill(path: Path, rounds: int) -> Iterator[int]:
    """Kill an enrolling process again and again; yield how many more people each left."""
    rng, kept = random.Random(1), set()  # type: ignore[var-annotated]
    for round_ in range(rounds):
        process = child(path, f"r{round_}", 10**6)
        assert process.stdout is not None
        if round_ % 4:  # otherwise also while it starts and creates the file
            process.stdout.readline()
            kept.add(f"r{round_}-0")
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        printed = process.communicate()[0]
        # a line without its end was cut off by the kill
        kept |= set(printed[: printed.rfind("\n") + 1].split())
        if not path.exists():
            assert not kept
            continue
        with Gallery(path, **MODEL) as gallery:
            found = content(gallery)
        whole(found, kept)
        more = found.keys() - kept  # committed, and killed before it could say so
        assert len(more) <= 1 and all(name.startswith(f"r{round_}-") for name in more)
        kept |= more
        yield len(found)


def test_killed_while_enrolling(path: Path) -> None:
    assert max(kill(path, 8)) > 0


@pytest.mark.slow
def test_killed_at_fifty_moments_while_enrolling(path: Path) -> None:
    assert max(kill(path, 50)) > 50


def test_killed_while_forgetting(path: Path) -> None:
    with Gallery(path, **MODEL) as gallery:
        for i in range(300):
            gallery.add(f"person {i}", faces(5, i))
    for seed in range(4):
        process = child(path, "forget", 300)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.03))
        process.kill()
        printed = process.communicate()[0]
        with Gallery(path, **MODEL) as gallery:
            found = content(gallery)
        left = {int(name.split()[1]) for name in found}
        assert min(left) >= printed.count("\n") and len(left) == 300 - min(left)
        for name, rows in found.items():
            assert rows == [v.tobytes() for v in faces(5, int(name.split()[1]))]
        there = on_disk(path.parent)
        for gone in range(min(left)):
            assert traces(there, faces(5, gone)) == 0
            assert f"person {gone}".encode() + b"\0" not in there


@pytest.mark.parametrize("kind", [np.str_, Enum("Who", {"ANA": "Ana"}, type=str)])
def test_text_of_another_kind_damages_nothing(path: Path, kind: Any) -> None:
    with Gallery(path, **MODEL) as gallery:
        gallery.add("Bo", faces(1, 1))
        gallery.add(kind("Ana"), faces(2, 0))
        assert gallery.people() == {"Bo": 1, "Ana": 2} and len(gallery.enrolled().names) == 2
        assert gallery.forget(kind("Ana")) == 2
        assert gallery.people() == {"Bo": 1}
    with Gallery.open(path) as gallery:
        assert gallery.people() == {"Bo": 1}


def test_the_journal_of_a_deleted_gallery_is_removed(path: Path) -> None:
    gallery = Gallery(path, **MODEL)
    gallery.add("Ana", faces(2, 0))
    assert Path(f"{path}-journal").exists()
    path.unlink()
    gallery.close()
    assert on_disk(path.parent) == b""


def test_checksums_are_those_of_galleries_that_exist() -> None:
    """As MetaFace 0.2 first wrote them: another value would call every gallery damaged."""
    sums = {table: number for number, table in enumerate(_checksums.TABLES)}
    meta: dict[str, Any] = {key: key for key in _checksums._META}
    assert _checksums.of_row((1, "Ana")) == 482704665058016013
    assert _checksums.of_row((2, b"abc", "\u00e9")) == 6941773835602159601
    assert _checksums._whole(meta, sums) == "9463bfe132c4abb3"
    assert _checksums.of_faces([1, 2], [1, 1]) == 14585805200467346595
    assert _checksums.of_embeddings([1], [b"abcd"]) == 6756090284679613682
