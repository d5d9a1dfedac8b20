"""The trainer: budgets, validation, checkpoints, and being stopped at any moment."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import RUNNABLE, every_learner, patterns, tiny
from torch import nn
from train_a_little import ITERATIONS
from train_a_little import run as train_a_little

from metaface import ModelSpec, checkpoint, load_model, save_model, train
from metaface.checkpoint import CheckpointError
from metaface.learners import MAML, Prototypical, Reptile
from metaface.training import Budget, Interrupted

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
    script = Path(__file__).with_name("train_a_little.py")
    process = subprocess.Popen(
        [sys.executable, script, out, done], env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
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


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
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
            learner, train_people, val_people, iterations=6, shots=2, meta_batch=2, resume=True,
            out=out, val_episodes=4, **QUICK,
        )  # fmt: skip
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
        ({"iterations": 5}, "'iterations': 4.* there, .*'iterations': 5.* now"),
        ({"ways": 6}, "other settings.*recipe"),
        ({"lr": 0.5}, "other settings.*recipe"),
        ({"seed": 1}, "'seed': '0 there, 1 now'"),
        ({"augment": None}, "other settings.*augment"),
        ({"learner": Prototypical(tiny(width=16))}, "does not fit this learner"),
        ({"learner": MAML(tiny(), learn_rates="weight"), "shots": 1, "queries": 1, "meta_batch": 1},
         "does not fit this learner"),
    ],
)  # fmt: skip
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
            Budget(**bad)


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
        learner, train_people, val_people, iterations=200, lr=1.0, val_episodes=30, patience=2,
        seed=1, **QUICK,
    )  # fmt: skip
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
        "prototypical": {"distance": "cosine"}, "linear-probe": {"strength": 10.0},
        "cosine-classifier": {"steps": 2}, "imprinting": {"scale": 5.0}, "finetune": {"steps": 2},
    }  # fmt: skip
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
