"""How the command line says what went wrong: one sentence, and an exit status."""

from __future__ import annotations

import errno
import inspect
import re
import sqlite3
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import patterns, portrait, squares, tiny, train

import metaface as mf
from metaface import cli
from metaface.checkpoint import CheckpointError
from metaface.cli.app import build_app
from metaface.learners import LEARNERS, MAML, Recipe, build
from metaface.recognition import GalleryError, Network
from metaface.recognition.adaptation import prepare_adaptation
from metaface.recognition.matching import Embeddings
from metaface.training import Budget, Interrupted
from metaface.training.distributed import ProcessLost


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    "error, status, said",
    [
        (ValueError("ways=0"), 2, "ways=0"),
        (CheckpointError("a.pt is damaged"), 2, "a.pt is damaged"),
        (GalleryError("damaged", "a.gallery"), 2, "a.gallery"),
        (zipfile.BadZipFile("a.zip"), 2, "a.zip"),
        (sqlite3.DatabaseError("no database"), 2, "no database"),
        (ProcessLost("lost"), 1, "lost"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("stopped at step 3"), 130, "stopped at step 3"),
        (MemoryError(), 2, r"not enough memory \(MemoryError\): .*--task-chunk 1"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            2,
            r"memory \(CUDA out of memory\.\)",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 10 bytes"),
            2,
            "not enough memory",
        ),
        (
            OSError(errno.ENOSPC, "No space", "/out/a.pt"),
            2,
            "disk that holds /out/a.pt is full",
        ),
        (
            caused(RuntimeError("PytorchStreamWriter failed\nat c10"), OSError(errno.ENOSPC, "x")),
            2,
            "the disk is full: make room",
        ),
        (
            RuntimeError("one\ntwo\nthree"),
            70,
            "RuntimeError: one: this is a fault.*_DEBUG",
        ),
        (
            RuntimeError("Error(s) in loading state_dict for A:\n\tMissing keys: b\n\tmore"),
            70,
            r"Error\(s\) in loading state_dict for A: Missing keys: b: this is a fault",
        ),
        (KeyError("head.weight"), 70, "KeyError: 'head.weight': this is a fault of MetaFace"),
        (AssertionError(), 70, "AssertionError: AssertionError: this is a fault"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_sentence_and_a_status(monkeypatch, capsys, error, status, said):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(mf.data, "load", fail)
    monkeypatch.delenv("METAFACE_DEBUG", raising=False)
    assert cli.main(["preview"]) == status
    told = capsys.readouterr().err
    assert told.startswith("metaface: ") and told.count("\n") == 1 and "Traceback" not in told
    assert re.search(said, told), told

    monkeypatch.setenv("METAFACE_DEBUG", "1")
    assert cli.main(["preview"]) == status
    assert "Traceback" in capsys.readouterr().err


WRONG = {
    "--lr": ("1e38", "inf", "nan", "-1", "0", "fast"),
    "--minutes": ("nan", "inf", "0", "-1"),
    "--ways": ("0", "-1", "1.5", "many", "99999999999"),
    "--shots": ("0",),
    "--iterations": ("0",),
    "--seed": ("-1", "1e3"),
    "--crop": ("0", "nan"),
    "--image-size": ("0",),
    "--task-chunk": ("0",),
    "--keep-loss": ("-0.1", "1.1", "nan"),
    "--device": ("nonsense", "cuda:99", "meta"),
}


@pytest.mark.parametrize(
    "option, value", [(option, value) for option, values in WRONG.items() for value in values]
)
def test_numbers_that_cannot_be_meant_are_refused_at_once(capsys, option, value):
    assert cli.main(["train", f"{option}={value}"]) == 2
    assert f" {option}: {value!r}: " in capsys.readouterr().err


def test_every_numeric_option_of_every_command_refuses_nonsense():
    """That the one set of types is used everywhere."""
    app = build_app()
    numbers = (int, float, int | None, float | None, tuple[int, ...])
    options = [
        (f"{command} {argument.name}", argument)
        for command in app
        if not command.startswith("-")
        for argument in app[command].assemble_argument_collection()
        if argument.hint in numbers and argument.parse
    ]
    assert len(options) > 80
    plain = [name for name, argument in options if argument.parameter.converter is None]
    assert plain == []


def test_python_refuses_the_same_numbers():
    for call, why in (
        (lambda: Recipe(lr=1e38), r"lr=1e\+38.*1000 at most"),
        (lambda: Recipe(lr=float("nan")), "lr=nan: must be a finite number"),
        (lambda: Recipe(lr=0.0), "lr=0.0 .*above 0"),
        (lambda: Recipe(meta_batch=0), "meta_batch=0: must be at least 1"),
        (lambda: Budget(minutes=float("nan")), "positive and finite, got {'minutes': nan}"),
        (lambda: Budget(minutes=float("inf")), "positive and finite"),
    ):
        with pytest.raises(ValueError, match=why):
            call()


@pytest.mark.parametrize("name", [n for n in LEARNERS if not n.startswith("l2l-")])
def test_every_option_of_a_learner_refuses_nan_and_less_than_none(name):
    numbers = {
        n: p.default
        for n, p in inspect.signature(LEARNERS[name]).parameters.items()
        if isinstance(p.default, int | float) and not isinstance(p.default, bool)
    }
    assert numbers
    for option in numbers:
        for wrong in (float("nan"), float("inf"), -1, "fast"):
            with pytest.raises(ValueError, match=option):
                build(name, mf.nets.Conv4(width=8), **{option: wrong})


def test_options_that_a_learner_has_not_are_refused_with_those_it_has():
    with pytest.raises(ValueError, match="maml has no option inner_rl: choose of inner_lr, "):
        build("maml", mf.nets.Conv4(), inner_rl=1)


def test_a_learner_without_an_inner_step_is_refused():
    with pytest.raises(ValueError, match="inner_steps=0: must be at least 1"):
        MAML(mf.nets.Conv4(), inner_steps=0)


class Mine(MAML):
    """A learner that is registered here alone."""


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(LEARNERS, "mine", Mine)


@pytest.mark.usefixtures("few_renders", "few_validations")
def test_a_learner_registered_in_python_works_and_elsewhere_says_how(registered, tmp_path):
    given = ["--quiet", "--iterations", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(["train", "--learner", "mine", "--option", "inner_steps=1", *given]) == 0
    path = tmp_path / "out" / "checkpoint.pt"
    assert isinstance(mf.load_model(path)[0], Mine)
    found = subprocess.run(
        [sys.executable, "-m", "metaface", "evaluate", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert "no learner 'mine'" in found.stderr and "LEARNERS['mine'] = " in found.stderr


def test_adapting_a_network_that_takes_other_ranges_is_no_mistake():
    embedder = squares()
    scaled = Network(
        embedder.network,
        replace(embedder.preprocessing, mean=127.5, std=127.5),
        name="scaled",
        architecture="squares",
    )
    crops = np.stack([portrait(p, n) for p in range(2) for n in range(2)])
    person = np.array([0, 0, 1, 1])
    make, needs_crops = prepare_adaptation("maml", {}, scaled, True)
    faces = Embeddings(scaled(crops), crops)
    assert needs_crops and len(make(faces, person)(faces)[0]) == 4


def test_wrong_kinds_are_refused_by_name_and_value():
    faces, net = patterns(8), tiny()
    learner = build("prototypical", net)
    pictures = np.zeros((3, 8, 8, 3), np.uint8)
    given = {"iterations": 1, "progress": False, "ways": 3}
    for call, why in (
        (lambda: train(learner, "photos/", **given), "faces must be a FaceSet, got a str"),
        (lambda: train(learner, faces.split(), **given), "got a tuple.*one by one"),
        (lambda: train(faces, learner, **given), "learner must be a MetaLearner, got a FaceSet"),
        (lambda: train(net, faces, **given), "learner must be a MetaLearner, got a Conv4"),
        (lambda: train(learner, faces, 0.2, **given), "val must be a FaceSet or None, got a fl"),
        (lambda: train(learner, faces, patience=-1, **given), "patience=-1: must be at least 1"),
        (lambda: train(learner, faces, faces, val_ways=0, **given), "validation.ways=0"),
        (lambda: train(learner, faces, **given | {"ways": 5.0}), "ways=5.0: must be at least 2"),
        (
            lambda: train(learner, faces, **given | {"iterations": "5"}),
            "must be positive",
        ),
        (lambda: train(learner, faces, **given | {"iterations": 1.5}), "iterations=1.5"),
        (lambda: train(learner, faces, lr="1e-3", **given), "lr='1e-3'"),
        (lambda: mf.evaluate(learner, "photos"), "faces must be one FaceSet, got a str"),
        (lambda: mf.evaluate(net, faces), "got a Conv4 first: put a network into a learner"),
        (lambda: mf.evaluate(MAML, faces), "got the class MAML"),
        (lambda: mf.evaluate(learner, faces, ways=(2, 3)), r"ways=\(2, 3\): must be at least 1"),
        (lambda: mf.evaluate(learner, faces, episodes=1.5), "episodes=1.5"),
        (lambda: mf.EpisodeSampler(faces, "5"), "ways='5': must be at least 2"),
        (lambda: mf.EpisodeSampler(faces, queries=1.5), "queries=1.5: must be at least 1"),
        (lambda: faces.split(test="0.2"), "test='0.2' must be shares"),
        (lambda: faces.split(seed=-1), "seed=-1: must be at least 0"),
        (lambda: mf.FaceSet.from_arrays(pictures, ["a", "b", "b"]), "whole numbers.*number names"),
        (lambda: mf.nets.build(None), "name=None: must be a network's name"),
        (lambda: mf.nets.build("conv4", in_channels=0), "in_channels=0: must be 1"),
        (lambda: mf.nets.build("mobilefacenet", image_size="64"), "image_size='64'"),
    ):
        with pytest.raises(ValueError, match=why):
            call()
