"""Killed with -9 at random moments, and gone on with: nothing is different for it.

Whole commands, and each change of a gallery. Training alone is in test_training.py, enrolment of
a folder in test_recognizer.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import portrait
from kills_child import change, opened, strangers

from metaface.nets.weights import read_weights
from metaface.recognition import Gallery
from metaface.recognition.gallery import _store

KILLS = 15
COMMANDS = {
    "benchmark": [
        "--learners",
        "anil",
        "reptile",
        "--iterations",
        "40",
        "--episodes",
        "100",
        "--shots",
        "1",
        "--embedding",
        "conv4-32",
        "--quiet",
    ],
    "multitask": [
        "--people",
        "24",
        "--photos",
        "6",
        "--iterations",
        "40",
        "--heads",
        "pose",
        "recognition",
        "--size",
        "64",
        "--batch",
        "4",
        "--quiet",
    ],
}


def start(command: str, out: Path, *more: str) -> subprocess.Popen:
    # a checkpoint after every step, or there is nothing to be killed in the middle of
    code = (
        "import sys, functools; from metaface import cli; from metaface.training import Run; "
        "Run.__init__ = functools.partialmethod(Run.__init__, checkpoint_seconds=0.0); "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-W", "ignore", "-c", code, command, *COMMANDS[command]]
    with open(out.parent / "log.txt", "a") as log:
        return subprocess.Popen(
            [*words, "--out", str(out), *more],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "METAFACE_CACHE": str(out.parent / "cache")},
        )


def result(command: str, out: Path) -> Any:
    """What must not differ: figures, but for times and memory."""
    if command == "multitask":
        return {n: t.tolist() for n, t in read_weights(out / "model.safetensors")[0].items()}
    rows = json.loads((out / "results.json").read_text())["rows"]
    return [{n: row[n] for n in ("learner", "accuracy", "ci95", "train_images")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_random_moments_ends_as_it_would_have(command, tmp_path):
    moments = random.Random(0)
    began = time.monotonic()
    assert start(command, tmp_path / "whole").wait() == 0, (tmp_path / "log.txt").read_text()
    length = time.monotonic() - began
    kills = runs = 0
    while kills < KILLS:  # a run that gets through is held against the whole one, and another begun
        runs += 1
        status, before, began = None, kills, time.monotonic()
        while status is None:
            process = start(command, tmp_path / f"killed{runs}", "--resume")
            try:
                status = process.wait(moments.uniform(0.3, 1.0) * length)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        if kills == before:  # the machine is faster than it was
            length = min(length, time.monotonic() - began)
        assert status == 0, (tmp_path / "log.txt").read_text()
        assert result(command, tmp_path / f"killed{runs}") == result(command, tmp_path / "whole")


# ---------------------------------------------------------------- changes of a gallery

CHANGES = ["enrol", "forget", "calibrate", "adapt", "save", "create"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")


def content(path: Path) -> Any:
    """All that a gallery holds, but for the adaptation's own verdict: whether there is one."""
    with Gallery.open(path) as gallery:
        held, (strange, who) = gallery.enrolled(), gallery.strangers()
        arrays = held.embeddings, held.person, gallery.crops(), strange, who
        settings = gallery.setting("fpir"), gallery.setting("adaptation")
        return (
            held.names,
            [a.tobytes() for a in arrays],
            gallery.stranger_crops().tobytes(),
            settings,
        )


@contextmanager
def children() -> Iterator[Callable[[str, Path, float | None], tuple[bool, float]]]:
    """What makes a change in a process, killed so many seconds after it has begun; None: not.
    It returns whether the change was done, and the seconds it took."""
    child = subprocess.Popen(
        [sys.executable, Path(__file__).parents[1].joinpath("kills_child.py")],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert child.stdin and child.stdout

    def run(what: str, path: Path, after: float | None) -> tuple[bool, float]:
        assert child.stdin and child.stdout
        child.stdin.write(f"{what} {path}\n")
        child.stdin.flush()
        number = int(child.stdout.readline())
        assert child.stdout.readline() == "begin\n"
        began = time.monotonic()
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(number, signal.SIGKILL)  # whom the child waits for
        said = child.stdout.readline()
        took = time.monotonic() - began
        if said == "done\n":
            assert child.stdout.readline() == "end\n"
        return said == "done\n", took

    with child:
        assert child.stdout.readline() == "ready\n"
        yield run
        child.stdin.close()
    assert child.returncode == 0


def killed(changes: list[str], times: int, folder: Path) -> None:
    start = folder / "start"
    with opened(str(start)) as people:
        for i in range(5):
            people.enroll(f"person {i}", [portrait(i, shot) for shot in range(3)])
        people.calibrate(strangers(1000), 0.05, progress=False)
    before, chance, cut = content(start), random.Random(0), 0
    with children() as run:
        for what in changes:
            place = folder / what
            place.mkdir()
            path, copy = place / "g", place / "g.copy"

            def fresh(path: Path = path, copy: Path = copy, what: str = what) -> None:
                shutil.copy(start, path)
                copy.unlink(missing_ok=True)
                if what == "save":  # over one that is there
                    with opened(str(path)) as people:
                        people.gallery.copy_to(copy)
                        people.enroll("Bo", [portrait(50)])

            fresh()
            first = content(path)
            assert run(what, path, None)[0]
            fresh()
            lasted = run(what, path, None)[1]  # warm
            after, copied = content(path), content(copy) if copy.exists() else None
            assert (what in ("save", "create")) == (after == first) == (copied is not None)
            for _ in range(times):
                fresh()
                done, _ = run(what, path, chance.uniform(0, 1.1 * lasted))
                cut += not done
                found = content(path)  # the next opening
                assert found == after if done else found in (first, after)
                if copied is None:
                    assert os.listdir(place) == ["g"]
                    continue
                if copy.exists():
                    assert content(copy) in ((copied, before) if what == "save" else (copied,))
                assert set(os.listdir(place)) <= {"g", "g.copy"}
    assert cut > len(changes) * times / 5


@needs_fork
def test_a_gallery_killed_while_it_is_changed_is_as_before_or_after(tmp_path):
    killed(["forget", "calibrate", "create"], 4, tmp_path)


@needs_fork
@pytest.mark.slow
def test_a_gallery_killed_a_hundred_times_in_each_change(tmp_path):
    killed(CHANGES, 100, tmp_path)


@needs_fork
def test_what_a_killed_copy_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    path = tmp_path / "g"
    with opened(str(path)) as people:
        people.enroll("Ana", [portrait(1)])
    number = os.fork()
    if not number:
        with _store._temporary(str(tmp_path)) as temporary:
            shutil.copy(path, temporary)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(number, 0)
    assert len(os.listdir(tmp_path)) == 2
    with _store._temporary(str(tmp_path)) as temporary:
        assert sorted(os.listdir(tmp_path)) == [os.path.basename(os.path.dirname(temporary)), "g"]
        with opened(str(path)) as people:  # another one's opening leaves it alone
            change(people, "create")
        assert os.path.exists(temporary)
    assert sorted(os.listdir(tmp_path)) == ["g", "g.copy"]
