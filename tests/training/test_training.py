"""The trainer: budgets, validation, checkpoints, and being stopped at any moment."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import RUNNABLE, damaged, every_learner, patterns, tiny, train
from torch import nn
from train_a_little import ITERATIONS
from train_a_little import run as train_a_little

from metaface import (
    FaceSet,
    ModelSpec,
    checkpoint,
    cli,
    evaluate,
    load_model,
    nets,
    save_model,
)
from metaface._digest import content_digest
from metaface.checkpoint import CheckpointError
from metaface.learners import MAML, Prototypical, Reptile
from metaface.nets.weights import read_checkpoint, read_weights
from metaface.training import Interrupted, fitting

FACES = patterns(20)
QUICK = {"ways": 5, "device": "cpu", "progress": False}


def short(out: Path | None = None, learner=None, **options):
    """A few steps of Prototypical; returns the history."""
    given = {"iterations": 4, "checkpoint_seconds": 0, **QUICK, "out": out, **options}
    return train(learner or Prototypical(tiny()), FACES, **given)


def weights(learner: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# --- stopped and resumed


def started(out: Path, done: Path) -> subprocess.Popen:
    """The script in a process of its own, past its imports."""
    script = Path(__file__).parents[1].joinpath("train_a_little.py")
    process = subprocess.Popen(
        [sys.executable, script, out, done],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "training\n"
    return process


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, float]:
    """The final weights of a run that nobody stopped, and how many seconds it trained."""
    folder = tmp_path_factory.mktemp("whole")
    process = started(folder / "out", folder / "done.pt")
    began = time.monotonic()
    assert process.wait() == 0
    return folder / "done.pt", time.monotonic() - began


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_ends_in_the_same_weights(
    uninterrupted, tmp_path, kills
):
    whole, seconds = uninterrupted
    moments = random.Random(kills)
    out, done = tmp_path / "out", tmp_path / "done.pt"
    reached = []
    for _ in range(kills):
        process = started(out, done)
        time.sleep(moments.uniform(0, 1.5 * seconds / kills))
        process.kill()
        process.wait()
        if checkpoint.exists(out / "checkpoint.pt"):
            state, _ = checkpoint.load_latest(out / "checkpoint.pt")
            reached.append(state["history"]["iterations"])
    assert reached == sorted(reached)
    assert any(0 < step < ITERATIONS for step in reached)
    assert started(out, done).wait() == 0
    assert_same(torch.load(done, weights_only=True), torch.load(whole, weights_only=True))


@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("name", ["metasgd", "reptile"])
def test_ctrl_c_saves_and_resuming_ends_in_the_same_weights(name, norm, tmp_path):
    train_people, val_people, _ = FACES.split(val=0.3, test=0.1)

    def go(out, interrupt_at=None):
        learner = ModelSpec(name, norm=norm, image_size=16, embedding="conv4-32").build()
        if interrupt_at is not None:
            step, steps = learner.meta_step, iter(range(100))

            def meta_step(episodes):
                if next(steps) == interrupt_at:
                    os.kill(os.getpid(), signal.SIGINT)
                return step(episodes)

            learner.meta_step = meta_step
        train(
            learner,
            train_people,
            val_people,
            iterations=6,
            shots=2,
            meta_batch=2,
            resume=True,
            out=out,
            val_episodes=4,
            **QUICK,
        )
        return weights(learner)

    whole = go(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    for stop in (0, 1):
        with pytest.raises(Interrupted, match=r"stopped at step \d; go on with resume .*part"):
            go(tmp_path / "part", interrupt_at=stop)
    assert signal.getsignal(signal.SIGINT) is handler
    state = checkpoint.load(tmp_path / "part" / "checkpoint.pt")
    assert state["history"]["iterations"] == 3
    assert_same(go(tmp_path / "part"), whole)
    assert_same(go(tmp_path / "part"), whole)  # a finished run stays finished


def test_trains_in_a_thread_too(tmp_path):
    thread = threading.Thread(target=short, args=(tmp_path,))
    thread.start()
    thread.join()
    assert checkpoint.load(tmp_path / "checkpoint.pt")["history"]["iterations"] == 4


# --- checkpoints


def test_a_truncated_checkpoint_is_refused_by_name_and_the_one_before_used(tmp_path):
    whole = Prototypical(tiny())
    short(learner=whole)
    short(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is truncated or not a checkpoint"):
        checkpoint.load(path)
    learner = Prototypical(tiny())
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is truncated.*using .*\.previous"):
        short(tmp_path, learner, resume=True)
    assert_same(weights(learner), weights(whole))

    for broken in (path, checkpoint.previous(path)):
        broken.write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match=r"\.previous is truncated or not a checkpoint"):
        short(tmp_path, resume=True)


def test_a_missing_checkpoint_and_an_unasked_for_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing"):
        checkpoint.load(tmp_path / "nothing")
    short(tmp_path, resume=True)  # nothing there yet: from the start
    with pytest.raises(CheckpointError, match="is there already: resume"):
        short(tmp_path)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"iterations": 5}, "another run.*budget.iterations was 4, is 5"),
        ({"ways": 6}, "recipe.ways was 5, is 6"),
        ({"lr": 0.5}, "another run.*recipe.lr was 0.001, is 0.5"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"augment": None}, "another run.*augment"),
        ({"patience": 3}, "patience was None, is 3"),
        ({"learner": Prototypical(tiny(width=16))}, "does not fit this learner"),
        (
            {"learner": Prototypical(tiny(), "cosine")},
            "learner.distance was 'euclidean', is 'cosine'",
        ),
        ({"learner": Prototypical(tiny("frozen"))}, "learner.norm was 'group', is 'frozen'"),
        (
            {
                "learner": MAML(tiny(), learn_rates="weight"),
                "shots": 1,
                "queries": 1,
                "meta_batch": 1,
            },
            "learner.kind was 'Prototypical', is 'MAML'",
        ),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, changed, message):
    short(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        short(tmp_path, resume=True, **changed)


class _Payload:
    def __reduce__(self):
        return (os.mkdir, (self.where,))


def test_a_checkpoint_that_carries_code_is_refused_and_not_run(tmp_path):
    payload = _Payload()
    payload.where = str(tmp_path / "harmed")
    for write in (
        lambda path: torch.save({"learner": payload}, path),
        lambda path: path.write_bytes(pickle.dumps(payload)),
    ):
        write(tmp_path / "bad.pt")
        for read in (checkpoint.load, load_model):
            with pytest.raises(CheckpointError, match=r"bad\.pt is truncated or not a checkpoint"):
                read(tmp_path / "bad.pt")
    assert not (tmp_path / "harmed").exists()


def test_a_full_disk_leaves_the_checkpoint_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})
    checkpoint.save(path, {"step": 2})

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 3})
    assert checkpoint.load(path) == {"step": 2}
    assert checkpoint.load(checkpoint.previous(path)) == {"step": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.previous"]


STATE = {
    "spec": None,
    "settings": {"recipe": {"ways": 5, "lr": 0.001}, "seed": 0},
    "learner": {"w": torch.arange(1600.0).reshape(40, 40) / 7, "b": torch.zeros(7)},
    "history": {"rows": [{"loss": 1.5 * k, "iteration": k} for k in range(30)]},
    "best": None,
}


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("before", [False, True], ids=["now", "before checksums"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(tmp_path, count, before):
    path, expected = tmp_path / "checkpoint.pt", content_digest(STATE)
    checkpoint.save(path, {"step": 1})
    checkpoint.save(path, STATE)
    if before:
        with open(path, "wb") as file:
            torch.save(STATE, file)
    assert content_digest(checkpoint.load(path)) == expected
    whole = path.read_bytes()
    for seed in range(count):
        path.write_bytes(spoilt := damaged(whole, seed))
        state, warning = checkpoint.load_latest(path)
        if before and warning is None:  # damage where torch.save only fills up
            assert content_digest(state) == expected, seed
        else:
            assert state == {"step": 1} if spoilt != whole else warning is None, seed
            assert f"{path} is truncated or not a checkpoint: " in warning


def test_a_checkpoint_whose_checksum_is_gone_is_not_taken_for_an_old_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    mark = whole.rindex(b"metaface sha256")
    for spoilt in (
        whole[:mark],
        whole[:-1],
        whole + b"0",
        whole[:-64],
        whole[:mark] + bytes(80),
        whole.replace(b"metaface sha256", b"metaface sha257"),
        whole[: mark - 2] + whole[mark:],
    ):
        path.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
            checkpoint.load(path)
    assert torch.load(io.BytesIO(whole), weights_only=True).keys() == STATE.keys()  # torch's own


def test_both_checkpoints_damaged_are_named_with_the_remedy(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for broken in (path, checkpoint.previous(path)):
        broken.write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match=rf"{path} is .*{path}\.previous is .*Remove both"):
        checkpoint.load_latest(path)
    assert path.is_file()  # nothing is set aside


@pytest.mark.skipif(sys.platform != "linux", reason="limits on file sizes")
def test_wherever_the_disk_is_full_the_checkpoint_is_as_it_was(tmp_path):
    import resource

    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, STATE)
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 100, 2000, size // 2, size - 300, size - 81, size - 80, size - 1):
        try:  # Python ignores the signal, so that writing more is an OSError
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(OSError, match=str(path)):
                checkpoint.save(path, STATE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert content_digest(checkpoint.load(path)) == content_digest(STATE)
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_without_memory_to_save_the_checkpoint_is_as_it_was(tmp_path, monkeypatch, error):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})

    def fails(state, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=rf"emory.*{path}"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1} and os.listdir(tmp_path) == ["checkpoint.pt"]


class Foreign:
    """A class that a pickle names."""


def long_integer(number):
    """A number as a pickle writes it."""
    data = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def huge(path):
    """A checkpoint whose tensor is declared to have 10^13 values."""
    torch.save({"learner": {"w": torch.ones(40, 40)}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            many = long_integer(10**13)
            data = data.replace(b"M\x40\x06", many).replace(b"K\x28K\x28\x86", many + b"\x85")
            archive.writestr(name, data.replace(b"K\x28K\x01\x86", b"K\x01\x85"))


def spec_of(**spec):
    state = {"w": torch.zeros(2)}
    return lambda path: torch.save({"spec": spec, "learner": state}, path)


def dump(content, protocol):
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


FOREIGN = {
    "state_dict": lambda path: torch.save(tiny().state_dict(), path),
    "lightning": lambda path: torch.save(
        {"state_dict": {"a": torch.zeros(2)}, "pytorch-lightning_version": "2", "epoch": 3}, path
    ),
    "module": lambda path: torch.save(tiny(), path),
    "class": lambda path: torch.save({"state_dict": {}, "callback": Foreign()}, path),
    "pickle": dump({"a": Foreign()}, 2),
    "new pickle": dump({"a": Foreign()}, 5),
    "plain pickle": dump({"a": 1}, 4),
    "list": lambda path: torch.save([1], path),
    "random": lambda path: path.write_bytes(os.urandom(5000)),
    "text": lambda p: p.write_text("hi"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
    "huge": huge,
    "stretched": lambda path: torch.save({"learner": torch.zeros(1).expand(10**13)}, path),
    "script": lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path)),
    "zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "sparse": lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
    "no learner": spec_of(learner="nobody"),
    "no such option": spec_of(learner="maml", x=1),
    "no weights": spec_of(learner="maml"),
    "no such size": spec_of(learner="maml", image_size="x"),
    "large": spec_of(learner="maml", embedding="resnet12", image_size=10**7),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, about old kinds of files
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_is_refused_by_a_sentence(tmp_path, capsys, kind):
    path = tmp_path / "foreign.pt"
    FOREIGN[kind](path)
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        load_model(path)
    said = [str(caught.value)]
    for read in (read_checkpoint, read_weights):
        try:
            read(path)
        except (ValueError, OSError) as error:
            said.append(str(error))
    assert cli.main(["evaluate", str(path), "--quiet"]) == 2
    said.append(capsys.readouterr().err)
    for text in said:
        assert str(path) in text and "Traceback" not in text
        assert not re.search("weights_only|safe_globals|trust|WeightsUnpickler", text)


def test_killed_between_the_two_renames_the_previous_one_is_used(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})
    shutil.move(path, checkpoint.previous(path))
    assert checkpoint.exists(path)
    state, warning = checkpoint.load_latest(path)
    assert state == {"step": 1} and "using" in warning


# --- budgets, validation, loss


def test_budgets(tmp_path):
    assert short(iterations=3).iterations == 3
    history = short(iterations=None, images=95)  # 5 ways x (1 + 1) photographs a step
    assert history.iterations == 10 and history.images == 100
    began = time.monotonic()
    history = short(iterations=None, minutes=0.02)
    assert 1.2 <= history.seconds <= time.monotonic() - began + 0.1 and history.iterations > 1
    assert short(iterations=9, images=20).iterations == 2  # the first one spent
    for bad in ({}, {"minutes": 0}, {"iterations": -5}):
        with pytest.raises(ValueError, match=r"at least one of iterations|must be positive"):
            short(**{"iterations": None} | bad)


def test_curve_and_schedule():
    history = short(iterations=20, lr=0.01)
    assert [row["iteration"] for row in history.rows] == list(range(1, 21))
    rates = [row["lr"] for row in history.rows]
    assert rates[0] == 0.01 and rates == sorted(rates, reverse=True) and rates[-1] < 1e-3
    assert all(row["loss"] > 0 and 0 <= row["accuracy"] <= 1 for row in history.rows)
    assert len(short(iterations=230).rows) == 100


def test_validation_keeps_the_best_weights_and_stops_early():
    train_people, val_people, _ = FACES.split(val=0.3, test=0.1)
    learner = Prototypical(tiny())
    # the learning rate ruins the network: the first validations are the best
    history = train(
        learner,
        train_people,
        val_people,
        iterations=200,
        lr=1.0,
        val_episodes=30,
        patience=2,
        seed=1,
        **QUICK,
    )
    validated = [row for row in history.rows if "val_accuracy" in row]
    best = max(validated, key=lambda row: row["val_accuracy"])
    assert history.best_iteration == best["iteration"]
    assert history.stopped_early == (history.iterations < 200)
    assert not learner.training
    with pytest.raises(ValueError, match=r"20 people are in both training and validation \(0, 1"):
        train(learner, FACES, FACES, iterations=1, **QUICK)


def test_a_loss_that_is_not_finite_is_an_error_and_the_checkpoint_stays(tmp_path):
    learner = MAML(tiny(), inner_lr=0.1)
    step, steps = learner.meta_step, iter(range(10))

    def meta_step(episodes):
        got = step(episodes)
        return got | {"loss": float("nan")} if next(steps) == 2 else got

    learner.meta_step = meta_step
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2: use a lower learning"):
        short(tmp_path, learner, meta_batch=1)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["history"]["iterations"] == 2


def test_scalars_are_written_for_tensorboard(tmp_path):
    short(tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_reptile_is_trained_by_plain_sgd_without_clipping():
    recipe = Reptile.recipe
    assert (recipe.optimizer, recipe.clip) == ("sgd", None)


# --- what rebuilds a learner


@pytest.mark.parametrize("embedding", ["conv4", "resnet12", "torchvision:resnet18"])
def test_learners_of_one_seed_start_from_the_same_embedding(embedding):
    def built(name, seed):
        state = torch.random.get_rng_state()
        learner = ModelSpec(name, embedding=embedding, norm="frozen").build(seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return weights(learner.embedding)

    first = built("maml", 0)
    for name in RUNNABLE if embedding == "conv4" else ("reptile",):
        assert_same(built(name, 0), first)
    other = built("maml", 1)
    assert not any(torch.equal(first[n], other[n]) for n in first if first[n].ndim == 4)


@every_learner
def test_a_saved_model_is_rebuilt(name, tmp_path):
    given = {
        "prototypical": {"distance": "cosine"},
        "linear-probe": {"strength": 10.0},
        "cosine-classifier": {"steps": 2},
        "imprinting": {"scale": 5.0},
        "finetune": {"steps": 2},
        "matching": {"scale": 5.0},
        "relation": {"hidden": 4},
        "r2d2": {"strength": 2.0},
        "laplacian": {"neighbours": 2},
        "classifier": {"margin": 0.1},
        "arcface": {"margin": 0.1},
        "simpleshot": {"scale": 5.0},
    }
    options = given.get(name, {"inner_steps": 2})
    spec = ModelSpec(name, options, embedding="conv4-32", norm="frozen", image_size=16)
    learner = spec.build(seed=3)
    short(learner=learner, iterations=1, ways=4, shots=2, meta_batch=1)
    save_model(tmp_path / "model.pt", learner, spec)
    loaded, its_spec = load_model(tmp_path / "model.pt")
    assert its_spec == spec
    assert_same(weights(loaded), weights(learner))
    photos, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1])
    assert torch.equal(loaded.adapt(photos, labels)(photos), learner.adapt(photos, labels)(photos))


def test_a_training_checkpoint_is_a_model_where_it_says_what_it_holds(tmp_path):
    spec = ModelSpec("prototypical", embedding="conv4-32", image_size=16)
    learner = spec.build()
    short(tmp_path / "with", learner, spec=spec)
    loaded, _ = load_model(tmp_path / "with" / "checkpoint.pt")
    assert_same(weights(loaded), weights(learner))
    short(tmp_path / "without")
    with pytest.raises(CheckpointError, match="does not say which learner it holds"):
        load_model(tmp_path / "without" / "checkpoint.pt")


def test_the_script_that_is_killed_trains_as_the_library_does(uninterrupted, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        learner = train_a_little(tmp_path, checkpoint_seconds=1000)
    finally:
        torch.set_num_threads(threads)
    assert_same(weights(learner), torch.load(uninterrupted[0], weights_only=True))


# --- weights that are not finite


def spoilt(learner: nn.Module, value: float = float("nan")) -> nn.Module:
    with torch.no_grad():
        next(learner.parameters()).view(-1)[3] = value
    return learner


def test_weights_that_an_update_broke_are_refused_before_they_are_saved(tmp_path, monkeypatch):
    """The loss of the step before was finite, and a checkpoint would have held NaN."""
    short(tmp_path, iterations=1)
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    step = torch.optim.Adam.step

    def broken(self, *given):
        step(self, *given)
        with torch.no_grad():
            self.param_groups[0]["params"][0].view(-1)[0] = float("inf")

    monkeypatch.setattr(torch.optim.Adam, "step", broken)
    with pytest.raises(FloatingPointError, match=r"convs\.0\.weight is not finite after step 0"):
        short(tmp_path / "other", iterations=1)
    assert not (tmp_path / "other" / "checkpoint.pt").exists()
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


@pytest.mark.usefixtures("few_renders")
def test_the_highest_rate_there_is_never_ends_as_a_result(tmp_path, capsys):
    command = [
        "train",
        "--iterations",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--embedding",
        "conv4-32",
    ]
    for rate in ("inf", "nan", "1e38"):
        assert cli.main([*command, "--lr", rate]) == 2
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_no_model(tmp_path, value, capsys):
    spec = ModelSpec("prototypical", embedding="conv4-32")
    learner = spoilt(spec.build(), value)
    with pytest.raises(ValueError, match=r"convs\.0\.weight holds.*not written"):
        save_model(tmp_path / "bad.pt", learner, spec)
    assert not (tmp_path / "bad.pt").exists()
    checkpoint.save(tmp_path / "bad.pt", {"spec": vars(spec), "learner": learner.state_dict()})
    with pytest.raises(CheckpointError, match=r"bad\.pt.*convs\.0\.weight holds infinite"):
        load_model(tmp_path / "bad.pt")
    assert cli.main(["evaluate", str(tmp_path / "bad.pt"), "--episodes", "2", "--quiet"]) == 2
    with pytest.raises(ValueError, match="of the learner holds infinite numbers or NaN"):
        evaluate(learner, FACES, episodes=1, progress=False)


# --- what is resumed is a training, and one that fits


def test_a_model_is_no_training_to_resume(tmp_path):
    spec = ModelSpec("prototypical")
    save_model(tmp_path / "checkpoint.pt", spec.build(), spec)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt holds a model.*--start"):
        train(spec.build(), FACES, None, iterations=1, out=tmp_path, resume=True, progress=False)


def test_a_checkpoint_of_a_newer_version_is_named(tmp_path):
    given = {"iterations": 1, "out": tmp_path, "progress": False}
    train(Prototypical(tiny()), FACES, None, **given)
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.load(path)
    state["history"]["later"] = 1
    checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt does not fit.*'later'"):
        train(Prototypical(tiny()), FACES, None, **given, resume=True)


def test_validation_within_one_domain_counts_the_support_photographs():
    faces = FaceSet.from_arrays(
        np.zeros((20, 8, 8, 3), np.uint8), np.repeat(np.arange(5), 4), domains=("a",)
    )
    sides = {"support_domain": "a", "query_domain": "a"}
    assert fitting.fit_validation(faces, 5, 1, **sides) == fitting.fit_validation(faces, 5, 1)


def test_a_weight_of_no_values_is_finite():
    net = nn.ParameterList([torch.zeros(0), torch.ones(2)])
    assert nets.find_not_finite(net) is None
    assert (
        nets.find_not_finite(nn.ParameterList([torch.zeros(0), torch.full((2,), torch.nan)])) == "1"
    )
