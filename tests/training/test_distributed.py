"""Several processes train as one would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import train_together
from helpers import RUNNABLE, patterns, tiny, train
from PIL import Image
from torch import Tensor

from metaface import EpisodeSampler, checkpoint, cli
from metaface.experiments import benchmark
from metaface.learners import Prototypical
from metaface.options import BenchmarkSettings
from metaface.training import distributed
from metaface.training.distributed import Group

SCRIPT = Path(train_together.__file__)


def torchrun(*arguments: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the script in two processes; a hang is an error."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "--max-restarts",
        restarts,
        SCRIPT,
        *arguments,
    ]
    with subprocess.Popen(
        list(map(str, command)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output, _ = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: torchrun takes its processes with it
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def furthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# --- two processes against one


@pytest.fixture
def float64(monkeypatch) -> None:
    monkeypatch.setattr(EpisodeSampler, "images", train_together.in_float64())


# One of each kind, by what its step and its weights are: through its inner steps, with rates that
# are learnt; weights that are moved instead of a gradient; no inner step; another library's.
KINDS = [n for n in ("metasgd", "reptile", "prototypical", "l2l-gbml") if n in RUNNABLE]
OTHERS = [n for n in RUNNABLE if n not in KINDS]


def trained_together(out: Path, names: list[str]) -> tuple[Path, list[dict[str, Any]]]:
    """A folder where two processes trained some learners, and what each of the two found; it held
    checkpoints of one interrupted process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpisodeSampler, "images", train_together.in_float64())
        for name in names:
            train_together.interrupted(name, out / f"{name}-there")
    done = torchrun("cases", out, *names)
    assert done.returncode == 0, done.stdout
    return out, [torch.load(out / f"rank{r}.pt", weights_only=True) for r in range(2)]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    return trained_together(tmp_path_factory.mktemp("kinds"), KINDS)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    return trained_together(tmp_path_factory.mktemp("others"), OTHERS)


@pytest.fixture
def ranks(kinds) -> list[dict[str, Any]]:
    return kinds[1]


@pytest.mark.parametrize(
    "name", [*KINDS, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
def test_two_processes_end_in_the_weights_of_one(name, request, float64):
    folder, ranks = request.getfixturevalue("kinds" if name in KINDS else "others")
    first, last = (rank[name] for rank in ranks)
    one = train_together.trained(name)
    untrained = train_together.build(name).state_dict()
    embedding = {n: t for n, t in one.items() if n.startswith("embedding.")}
    assert furthest(embedding, {n: untrained[n] for n in embedding}) > 1e-3
    for run in ("whole", "resumed"):  # resumed: from the checkpoint of one process
        assert furthest(first[run], last[run]) == 0
        assert furthest(first[run], one) < 1e-6
    here = folder / f"{name}-here"
    assert first["stop"] == last["stop"]
    assert first["stop"].startswith("stopped at step 3; go on with resume (--resume) from ")
    assert checkpoint.load(here / "checkpoint.pt")["history"]["iterations"] == 3
    assert len(list((here / "tensorboard").iterdir())) == 1
    assert furthest(train_together.trained(name, here), one) < 1e-6  # one goes on where two were


def test_processes_stop_together_when_the_first_ones_time_is_up(ranks):
    first, last = (rank["minutes"] for rank in ranks)
    assert first[:3] == last[:3]
    assert first[0] >= 1 and first[1] >= 0.3  # 0.6 less what a last validation may take
    assert furthest(first[3], last[3]) == 0


def test_what_fails_in_one_process_ends_all_with_the_same_error(ranks):
    for rank in ranks:
        assert rank["nan"].startswith("FloatingPointError: the loss is nan at step 1: use a lower")
        assert rank["validation"].startswith("ValueError: ways=1: must be at least 2")


def test_gradients_are_weighted_means_and_none_where_nobody_has_one(ranks):
    for rank in ranks:
        assert rank["gradients"] == [[1.75, 3.5], [6.0, 6.0], None]


# --- slices


@pytest.mark.parametrize("tasks, size", [(16, 2), (7, 3), (3, 3)])
def test_parts_make_up_the_batch(tasks, size):
    sampler = EpisodeSampler(patterns(12), (2, 5), (1, 3), 2)
    parts = [Group(rank, size).part(tasks) for rank in range(size)]
    counts = [part.stop - part.start for part in parts]
    assert sum(counts) == tasks and max(counts) - min(counts) <= 1
    for k in range(5):
        whole, built = sampler.batch(k, tasks), [sampler.batch(k, tasks, part) for part in parts]
        for name in ("support", "support_y", "query", "query_y", "people", "query_rows"):
            assert torch.equal(torch.cat([getattr(b, name) for b in built]), getattr(whole, name))


def test_fewer_tasks_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "join", lambda: Group(1, 4))
    with pytest.raises(ValueError, match=r"meta_batch=1 cannot .* 4 processes.*--meta-batch 4"):
        train(Prototypical(tiny()), patterns(20), ways=5, iterations=1, device="cpu")


@pytest.mark.parametrize(
    "device, local, message",
    [("cuda:1", 0, "device=cuda:1: every process"), ("cuda", 2, "no GPU for process 2.*has 2")],
)
def test_every_process_has_a_gpu_of_its_own(device, local, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    with pytest.raises(ValueError, match=message):
        Group(4, 8).device(torch.device(device))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Group(4, 8).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert Group(4, 8).device(torch.device("cpu")) == torch.device("cpu")
    assert Group().device(torch.device(device)) == torch.device(device)


def test_a_group_that_the_user_started_must_reach_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(ValueError, match="for cuda:nccl alone: .*'cpu:gloo,cuda:nccl'"):
        distributed.join()


def test_the_benchmark_is_for_one_process(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="without torchrun"):
        benchmark.run(BenchmarkSettings(), tmp_path)


# --- the command line


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of 20 people with 14 photographs each."""
    root = tmp_path_factory.mktemp("photos")
    faces = patterns(20)
    for row, (image, person) in enumerate(zip(faces.images, faces.person, strict=True)):
        path = root / str(person) / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def arguments(photos: Path, out: Path, *more: object) -> list[str]:
    words = [
        "train",
        "--data",
        photos,
        "--image-size",
        16,
        "--embedding",
        "conv4-32",
        "--learner",
        "anil",
        "--meta-batch",
        4,
        "--iterations",
        6,
        "--quiet",
        "--out",
        out,
        *more,
    ]
    return list(map(str, words))


@pytest.mark.parametrize(
    "happens", ["killed", pytest.param("killed-while-others-compute", marks=pytest.mark.slow)]
)
def test_a_killed_process_ends_the_job_and_one_process_goes_on(happens, photos, tmp_path):
    done = torchrun("cli", happens, *arguments(photos, tmp_path / "out"))
    assert done.returncode != 0
    path = tmp_path / "out" / "checkpoint.pt"
    told = f"the last checkpoint, {path}, is whole: go on with resume (--resume)"
    assert done.stdout.count("metaface: lost one of the 2 processes of this job") == 1, done.stdout
    assert told in done.stdout
    assert checkpoint.load(path)["history"]["iterations"] == 3

    assert cli.main(arguments(photos, tmp_path / "out", "--resume")) == 0
    assert cli.main(arguments(photos, tmp_path / "whole")) == 0
    finished, whole = (checkpoint.load(tmp_path / o / "checkpoint.pt") for o in ("out", "whole"))
    assert furthest(finished["learner"], whole["learner"]) < 1e-3
    assert finished["history"]["iterations"] == 6


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(photos, tmp_path):
    done = torchrun("cli", "killed", *arguments(photos, tmp_path, "--resume"), restarts=1)
    assert done.returncode == 0, done.stdout  # each life takes three steps
    assert checkpoint.load(tmp_path / "checkpoint.pt")["history"]["iterations"] == 6


def test_bad_input_is_told_once(tmp_path):
    done = torchrun("cli", "nothing", *arguments(tmp_path / "no-photos", tmp_path / "out"))
    assert done.returncode != 0
    assert done.stdout.count("metaface: no such folder") == 1, done.stdout
