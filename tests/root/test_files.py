"""Files that MetaFace writes: whole or not at all, with their rights, and one run in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import damaged, fit, patterns, tiny, train

from metaface import _atomic, checkpoint, cli
from metaface._atomic import replacing
from metaface._lock import FolderInUse, locked
from metaface.experiments import benchmark
from metaface.learners import Prototypical
from metaface.multitask.model import MultiTask
from metaface.nets.weights import read_weights, save_weights
from metaface.options import BenchmarkSettings

posix = pytest.mark.skipif(os.name != "posix", reason="rights, locks and limits of POSIX")


def write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_rights_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "a", b"1")
        checkpoint.save(tmp_path / "b", {"n": 1})
    finally:
        os.umask(before)
    for name in "ab":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@posix
def test_a_file_keeps_its_rights(tmp_path: Path) -> None:
    write(tmp_path / "a", b"1")
    (tmp_path / "a").chmod(0o640)
    write(tmp_path / "a", b"2")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a").read_bytes() == b"2"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), MemoryError(), OSError(errno.EDQUOT, "quota")]
)
def test_what_could_not_be_written_is_as_it_was(tmp_path: Path, error: Exception) -> None:
    write(tmp_path / "a", b"1")
    with pytest.raises(OSError, match=f"as it was.*{tmp_path}/a"), replacing(tmp_path / "a"):
        raise error
    assert (tmp_path / "a").read_bytes() == b"1" and os.listdir(tmp_path) == ["a"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no network"), replacing(tmp_path / "a"):
        raise ConnectionError("no network")
    assert os.listdir(tmp_path) == []


@posix
def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    script = (  # the module alone, which starts at once
        "import sys, time; from pathlib import Path; exec(open(sys.argv[2]).read())\n"
        "with replacing(Path(sys.argv[1])) as f:\n"
        "    f.write(b'half'); f.flush(); print('there', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a[1]"), _atomic.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"there\n"
        write(tmp_path / "a[1]", b"1")  # beside a writer that lives
        assert len(os.listdir(tmp_path)) == 2
        child.send_signal(signal.SIGKILL)
    write(tmp_path / "a[1]", b"2")
    assert os.listdir(tmp_path) == ["a[1]"] and (tmp_path / "a[1]").read_bytes() == b"2"


# Weights


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_weights_are_never_used(tmp_path: Path, count: int) -> None:
    path, notes = tmp_path / "w.safetensors", {"format": "metaface multitask 1", "spec": "{}"}
    state = {"w": torch.randn(40, 40), "b": torch.arange(7), "h": torch.ones(3).bfloat16()}
    save_weights(path, state, notes)
    loaded, said = read_weights(path)
    assert said == notes and all(torch.equal(loaded[name], state[name]) for name in state)
    whole = path.read_bytes()
    for seed in range(count):
        path.write_bytes(damaged(whole, seed))
        try:
            loaded, said = read_weights(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert said == notes and all(torch.equal(loaded[name], state[name]) for name in state)


def test_weights_whose_checksum_lost_its_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for notes in ({"format": "metaface multitask 1", "spec": "{}"}, {"metaface": "{}"}):
        save_weights(path, {"w": torch.zeros(3)}, notes)
        path.write_bytes(path.read_bytes().replace(b"metaface_sha256", b"metaface_sha257"))
        with pytest.raises(ValueError, match="was damaged"):
            read_weights(path)


# One run in a folder


@posix
def test_a_second_run_in_a_folder_is_refused_by_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        with (
            pytest.raises(FolderInUse, match=f"writing into {out} .process {os.getpid()}, since "),
            locked(out),
        ):
            pass
        with locked(tmp_path / "other"), locked(None):  # another folder is another matter
            pass
        settings = BenchmarkSettings(iterations=1)
        with pytest.raises(FolderInUse, match="choose another folder"):
            benchmark.run(settings, out)
        with pytest.raises(FolderInUse):
            benchmark.run(out=out, settings=settings)
    assert os.listdir(tmp_path) == []  # nothing was written
    (tmp_path / "file").write_text("")
    with locked(out):
        (out / "result").write_text("")
    assert os.listdir(out) == ["result"]


COMMANDS = [
    ["benchmark", "--iterations", "1"],
    ["cross-domain", "--domains", "a=synthetic", "b=synthetic:profile", "--iterations", "1"],
    ["joint-benchmark"],
    ["robustness"],
    ["slices", "--data", "d", "--attributes", "a.csv", "--by", "x"],
    ["protocol", "few-shot", "--data", "d"],
    ["align", "d"],
]


@posix
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[0])
def test_every_command_keeps_out_of_a_folder_in_use(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "out"):
        assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
        assert os.listdir(tmp_path / "out") == [".lock"]
    said = capsys.readouterr().err
    assert (
        f"metaface: another run is writing into {tmp_path / 'out'} (process {os.getpid()}" in said
    )


@posix
def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    script = (  # what locked() does, in a process that starts at once
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX); file.write(f'process {os.getpid()}, since 9:00')\n"
        "file.flush(); print('there', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"there\n"
        with pytest.raises(FolderInUse, match=f"process {child.pid}, since"), locked(tmp_path):
            pass
        child.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()}, ")
    assert os.listdir(tmp_path) == []


@posix
def test_of_many_runs_at_once_one_holds_the_folder(tmp_path: Path) -> None:
    """However often the lock changes hands, no two hold it."""
    inside, held, wrong = [0], [0] * 4, []

    def work(who: int) -> None:
        while held[who] < 50:
            with contextlib.suppress(FolderInUse), locked(tmp_path):
                inside[0] += 1
                if inside[0] != 1:
                    wrong.append(who)
                time.sleep(0)
                inside[0] -= 1
                held[who] += 1

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [50] * 4 and not wrong


@posix
def test_training_keeps_out_of_a_folder_in_use(tmp_path: Path) -> None:
    network = MultiTask({"pose": {}}, channels=16, features=32)
    with locked(tmp_path):
        with pytest.raises(FolderInUse, match=str(tmp_path)):
            train(Prototypical(tiny()), patterns(), iterations=1, out=tmp_path, progress=False)
        with pytest.raises(FolderInUse, match=str(tmp_path)):
            fit(network, lambda k: None, iterations=1, out=tmp_path, progress=False)  # type: ignore
        assert os.listdir(tmp_path) == [".lock"]
    train(Prototypical(tiny()), patterns(), iterations=1, out=tmp_path, progress=False)
    assert ".lock" not in os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b"precious", b"\xff\xfe\x00"])
@pytest.mark.parametrize("link", [True, False])
def test_a_lock_that_is_no_lock_of_ours_stays_as_it_is(
    tmp_path: Path, link: bool, content: bytes
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(content)
    folder = tmp_path / "out"
    folder.mkdir()
    if link:
        (folder / ".lock").symlink_to(mine)
    else:
        mine.rename(folder / ".lock")
    with (
        pytest.raises(FolderInUse, match=r"\.lock is (a link|no lock of MetaFace)"),
        locked(folder),
    ):
        pass
    assert (folder / ".lock").read_bytes() == content
