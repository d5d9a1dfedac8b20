"""One recogniser for many threads, one gallery for many processes, and files that are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Row, portrait, squares
from told import GUESTS, MODEL, SHOTS, Told, change, filled, identify, photo, told, wrong

from metaface.recognition import Gallery, GalleryError, Recognizer
from metaface.recognition.gallery.search import Exact, Faiss, Qdrant
from metaface.recognition.matching import Embeddings

ENGINES: dict[str, Callable[[int], Any]] = {"exact": Exact}
for name, package, kind in (("faiss", "faiss", Faiss), ("qdrant", "qdrant_client", Qdrant)):
    try:
        __import__(package)
        ENGINES[name] = kind
    except ImportError:
        pass


def shared(kind: str) -> Callable[[int], Any]:
    """An engine that outlives its recognisers."""
    engine = ENGINES[kind](MODEL["dim"])
    return lambda dim: engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    filled(tmp_path / "g", 30)
    return tmp_path / "g"


def named(people: Recognizer, person: int) -> str | None:
    return str(people.identify(photo(person, 9))[0].name)


# ---------------------------------------------------------------- threads


def together(people: Told, count: int, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Threads that identify, beside one that enrols and forgets."""
    until = time.monotonic() + seconds

    def asks(seed: int) -> list[dict[str, Any]]:
        chance, lines = np.random.default_rng(seed), []
        while time.monotonic() < until:
            person = int(chance.integers(count))
            if chance.random() < 0.3:
                person = GUESTS + int(chance.integers(20))
            lines.append(identify(people, person, "identify"))
        return lines

    with ThreadPoolExecutor(threads + 1) as pool:
        changes = pool.submit(lambda: list(change(people, until)))
        asked = [pool.submit(asks, seed) for seed in range(threads)]
        return changes.result() + [line for each in asked for line in each.result()]


def right(lines: list[dict[str, Any]], count: int) -> None:
    found = wrong(lines, count)
    assert not found, f"{len(found)} of {len(lines)}: {found[:5]}"
    assert {line["what"] for line in lines} == {"enrol", "forget", "own", "identify"}


@pytest.mark.parametrize("lasting", [False, True], ids=["made anew", "lasting"])
@pytest.mark.parametrize("kind", ENGINES)
def test_threads_identify_beside_enrol_and_forget(kind: str, lasting: bool, path: Path) -> None:
    with told(path, shared(kind) if lasting else ENGINES[kind]) as people:
        right(together(people, 30, 1.5, 8), 30)


@pytest.mark.slow
def test_threads_on_twenty_thousand_people_for_a_minute(tmp_path: Path) -> None:
    filled(tmp_path / "g", 20_000)
    with told(tmp_path / "g") as people:
        lines = together(people, 20_000, 60, 8)
    right(lines, 20_000)
    print({what: sum(line["what"] == what for line in lines) for what in ("identify", "enrol")})


def test_a_change_is_read_once_for_all_threads(path: Path, monkeypatch: Any) -> None:
    with told(path) as people:
        assert named(people, 3) == "3"
        read, calls = people.gallery.enrolled, []
        monkeypatch.setattr(
            people.gallery, "enrolled", lambda: (calls.append(1), time.sleep(0.05), read())[2]
        )
        for turn in range(3):
            people.forget(f"{turn}")
            start = threading.Barrier(8)
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _, s=start: (s.wait(), named(people, 9)), range(8)))
            assert len(calls) == turn + 1


class Held:
    """A ``search`` that, once told to, waits until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.waits = False

    def __call__(self, dim: int) -> Exact:
        if self.waits:
            self.waits = False
            self.reached.set()
            assert self.go.wait(60)
        return Exact(dim)


def test_while_one_thread_makes_a_state_others_use_the_one_before(path: Path) -> None:
    search = Held()
    with told(path, search) as people, told(path) as other, ThreadPoolExecutor(4) as pool:
        assert named(people, 3) == "3"
        search.waits = True
        other.enroll("40", [photo(40, 0)])
        first = pool.submit(named, people, 40)
        assert search.reached.wait(60)
        assert pool.submit(named, people, 3).result(60) == "3"  # does not wait
        people.enroll("41", [photo(41, 0)])
        own = pool.submit(lambda: (people.enroll("42", [photo(42, 0)]), named(people, 42))[1])
        other.forget("3")
        after = pool.submit(lambda: people.identify(photo(3, 9))[0].nearest)
        time.sleep(0.3)
        assert not own.done() and not after.done()  # who changed it waits, and for who is gone all
        search.go.set()
        assert (first.result(60), own.result(60)) == ("40", "42")
        assert after.result(60) != "3"


def test_a_state_that_is_made_while_somebody_is_forgotten_is_not_kept(path: Path) -> None:
    search = Held()
    with told(path, search) as people, ThreadPoolExecutor(2) as pool:
        search.waits = True
        first = pool.submit(named, people, 4)
        assert search.reached.wait(60)
        gone = pool.submit(people.forget, "4")
        while "4" in people.people():
            time.sleep(0.01)
        search.go.set()
        assert gone.result(60) == SHOTS
        first.result(60)
        assert people.identify(photo(4, 9))[0].nearest != "4"


def test_saving_loses_nothing_that_other_threads_enrol(tmp_path: Path) -> None:
    filled(tmp_path / "g", 5)
    with told(tmp_path / "g") as people, ThreadPoolExecutor(3) as pool:

        def enrol(first: int) -> None:
            for i in range(first, first + 30):
                people.enroll(f"{i}", [photo(i, 0)])
                assert named(people, i) == f"{i}"

        each = [pool.submit(enrol, first) for first in (100, 200)]
        while not all(one.done() for one in each):
            for name in ("a", "b"):
                people.save(tmp_path / name)
        for one in each:
            one.result()
        assert len(people.people()) == 65 and people.gallery.path.endswith(("a", "b"))
    with told(people.gallery.path) as again:
        assert len(again.people()) == 65


def test_threads_share_an_adapted_network() -> None:
    """``functional_call`` puts other weights into it for the length of a call."""
    embedder = squares()
    options = {"model": embedder.digest, "model_name": embedder.name, "dim": embedder.dim}
    with Recognizer(Row(), embedder, Gallery(keep_crops=True, **options)) as people:
        for i in range(4):
            people.enroll(f"{i}", [portrait(i, k) for k in range(3)])
        people.calibrate([portrait(1000 + i) for i in range(60)], 0.05, progress=False)
        setting = {"learner": "maml", "options": {"inner_lr": 0.5}}
        people.gallery.set_setting("adaptation", setting)
        probes = [portrait(i % 4, 20 + i) for i in range(8)]
        want = people.identify(probes)
        hook = embedder.network.register_forward_hook(lambda *_: time.sleep(0.001))  # others' turn
        before = {n: p.clone() for n, p in embedder.network.state_dict().items()}
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _: people.identify(probes), range(40)):
                assert found == want
        hook.remove()
        assert all((before[n] == p).all() for n, p in embedder.network.state_dict().items())


# ---------------------------------------------------------------- processes


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_three_processes_share_a_gallery(seconds: float, path: Path) -> None:
    here = Path(__file__).parents[1].joinpath("told.py")
    words = [["change", f"{seconds}"], *(["identify", f"{seconds}", "30", f"{i}"] for i in (1, 2))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen(
            [sys.executable, here, path, *each],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for each in words
    ]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n"
    now = time.monotonic()
    printed = []
    with ThreadPoolExecutor(3) as pool:
        for out, _ in pool.map(lambda c: c.communicate(f"{now}\n", timeout=300), children):
            printed += out.splitlines()
    assert [child.returncode for child in children] == [0, 0, 0]
    right([json.loads(line) for line in printed], 30)


class Between:
    """An engine that calls someone once, before it is filled: between a recogniser's reading of
    the gallery and what it does with it."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.call = engine, lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __len__(self) -> int:
        return len(self.engine)

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        call, self.call = self.call, lambda: None
        call()
        self.engine.add(ids, vectors)


@pytest.mark.parametrize("kind", ENGINES)
def test_recognisers_that_share_a_collection_are_never_wrong_by_each_other(
    kind: str, path: Path
) -> None:
    engine = Between(ENGINES[kind](MODEL["dim"]))
    with told(path, lambda dim: engine) as one, told(path, lambda dim: engine) as two:

        def whole() -> None:
            assert sorted(engine.ids()) == sorted(one.gallery.latest())

        everyone = [(i, f"{i}") for i in range(30)]
        assert all(named(each, i) == name for each in (one, two) for i, name in everyone)
        old = two._identifier.state()
        one.forget("3")
        whole()
        assert all(named(one, i) == name for i, name in everyone if i != 3)
        # a search that began before finds nobody wrong in what there is now
        for i, name in everyone:
            (match,) = two._identifier.match(next(two._embed([photo(i, 9)], None)))
            probe = Embeddings(next(two._embed([photo(i, 9)], None)).embeddings)
            found = old.names[old.matcher(probe)[1][0]]
            assert (match.name == found == name) if i != 3 else "3" not in (match.nearest, found)
        one.enroll("5", [photo(5, 7)])
        one.enroll("50", [photo(50, 0)])
        assert named(one, 50) == named(two, 50) == "50"
        whole()
        # another's change, while one has read the gallery and not yet filled the collection
        one.enroll("51", [photo(51, 0)])
        engine.call = lambda: (two.enroll("52", [photo(52, 0)]), named(two, 52))
        assert named(one, 51) == "51"
        assert named(two, 52) == "52"
        whole()
        one.enroll("53", [photo(53, 0)])
        engine.call = lambda: (two.forget("52"), named(two, 1))
        assert named(one, 53) == "53"
        whole()
        assert {named(two, i) for i in (1, 51, 53)} == {"1", "51", "53"}


# ---------------------------------------------------------------- another file of that name


def test_a_file_that_replaces_the_gallery_is_used(path: Path, caplog: Any) -> None:
    with told(path) as people:
        assert named(people, 3) == "3"
        filled(path.with_name("new"), 2)
        with told(path.with_name("new")) as other:
            other.enroll("50", [photo(50, 0)])
        os.replace(path.with_name("new"), path)
        assert named(people, 50) == "50"
        assert people.identify(photo(3, 9))[0].nearest != "3" and len(people.people()) == 3
        assert "replaced by another file" in caplog.text
        filled(path.with_name("new"), 2)
        os.replace(path.with_name("new"), path)
        people.enroll("60", [photo(60, 0)])
        with told(path) as again:
            assert list(again.people()) == ["0", "1", "60"]
    assert os.listdir(path.parent) == ["g"]


def test_a_gallery_that_is_deleted_is_named(path: Path) -> None:
    aside = path.with_name("aside")
    with told(path) as people:
        assert named(people, 3) == "3"
        os.rename(path, aside)
        for call in (
            lambda: named(people, 3),
            lambda: people.enroll("50", [photo(50, 0)]),
            lambda: people.forget("3"),
            lambda: people.save(path.with_name("copy")),
            people.calibration,
        ):
            with pytest.raises(GalleryError, match="deleted or moved while it was open") as caught:
                call()
            assert caught.value.reason == "gallery_gone" and str(path) in str(caught.value)
        os.rename(aside, path)
        assert named(people, 3) == "3"


def test_a_file_of_another_kind_in_its_place_is_refused(path: Path) -> None:
    with told(path) as people:
        assert named(people, 3) == "3"
        new, old = path.with_name("new"), path.with_name("old")
        Gallery(new, model="ffff", model_name="other", dim=MODEL["dim"]).close()
        os.replace(path, old)
        os.replace(new, path)
        for _ in range(2):
            with pytest.raises(GalleryError, match="'other'.*not of 'told'") as caught:
                named(people, 3)
            assert caught.value.reason == "gallery_model_mismatch"
        path.write_bytes(b"dear")
        new.write_bytes(b"dear")
        os.replace(new, path)
        with pytest.raises(GalleryError) as caught:
            named(people, 3)
        assert caught.value.reason == "not_a_gallery" and path.read_bytes() == b"dear"
        os.replace(old, path)
        assert named(people, 3) == "3"


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_that_points_elsewhere_is_followed(path: Path) -> None:
    filled(path.with_name("new"), 2)
    link = path.with_name("link")
    link.symlink_to(path)
    with told(link) as people:
        assert named(people, 3) == "3"
        path.with_name("next").symlink_to(path.with_name("new"))
        os.replace(path.with_name("next"), link)
        assert len(people.people()) == 2
        people.enroll("60", [photo(60, 0)])
    with told(path.with_name("new")) as new, told(path) as old:
        assert len(new.people()) == 3 and len(old.people()) == 30
