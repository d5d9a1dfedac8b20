"""Arguments that cannot be meant are refused by name and value, in Python and on the command line;
nothing is left of what failed, and what is printed can be read."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import patterns, tiny, train
from PIL import Image

import metaface as mf
from metaface import cli, data, metrics
from metaface.experiments import benchmark, cross_domain, joint, sweep
from metaface.learners import LEARNERS, Prototypical, build
from metaface.metrics.cohort import Cohort, clip_cosines, normalise
from metaface.metrics.group_names import bin_numbers, name_groups
from metaface.metrics.pairs import pair_cosines
from metaface.options import BenchmarkSettings, CrossDomainSettings, JointSettings
from metaface.recognition import Gallery, Recognizer
from metaface.recognition.matching import Embeddings, Prototypes

FACES = patterns(16, 8, 28)
TASKS = {"ways": 3, "shots": 1, "queries": 1, "progress": False}
DATA = Path(os.environ.get("METAFACE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no weights at {WEIGHTS}")


# --- in Python


@pytest.mark.parametrize(
    "name, value",
    [
        ("augment", "flip"),
        ("augment", True),
        ("seed", "a"),
        ("seed", -1),
        ("device", "gpu0"),
        ("device", 3),
        ("device", "cuda:77"),
        ("resume", "yes"),
        ("across", "yes"),
        ("checkpoint_seconds", "soon"),
        ("spec", "maml"),
        ("val_shots", None),
        ("val_episodes", None),
        ("on_row", 3),
        ("on_finish", 3),
    ],
)
def test_train_names_the_argument_and_its_value(name, value):
    given = {**TASKS, "iterations": 1, name: value}
    with pytest.raises(ValueError, match=name.replace("val_", "validation.")) as refused:
        train(
            Prototypical(tiny()),
            FACES.of_people(range(10)),
            FACES.of_people(range(10, 16)),
            **given,
        )
    shown = type(value).__name__ if name == "spec" else repr(value)
    assert shown in str(refused.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("ways", None),
        ("shots", None),
        ("queries", None),
        ("episodes", None),
        ("seed", "a"),
        ("seed", None),
    ],
)
def test_evaluate_names_the_argument_and_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}: "):
        mf.evaluate(Prototypical(tiny()), FACES, **{**TASKS, "episodes": 2, name: value})


@pytest.mark.parametrize(
    "name, value",
    [
        ("crop", "0.5"),
        ("crop", True),
        ("channels", True),
        ("image_size", True),
        ("seed", "a"),
        ("seed", -1),
        ("seed", None),
        ("people", True),
        ("photos", "3"),
    ],
)
def test_load_names_the_argument_and_its_value(tmp_path, name, value):
    given = {"people": 3, "photos": 2, "cache": tmp_path, "progress": False, name: value}
    with pytest.raises(ValueError, match=name) as refused:
        data.load("synthetic", **given)
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("count", ["3", -1, None])
def test_with_photos_names_the_argument_and_its_value(count):
    with pytest.raises(ValueError, match=f"count={count!r}"):
        FACES.with_photos(count)


def test_split_names_the_argument_and_its_value():
    with pytest.raises(ValueError, match="test_photos='2': "):
        FACES.split(test_photos="2")


def test_a_share_of_numpy_is_a_share(tmp_path):
    given = {"people": 3, "photos": 2, "cache": tmp_path, "progress": False}
    one = data.load("synthetic", crop=np.float32(0.5), **given)
    assert one.image_shape == (3, 28, 28)


def test_a_path_that_is_none_is_named(tmp_path):
    with pytest.raises(TypeError, match="path of the results must be text or a Path, got 5"):
        train(Prototypical(tiny()), FACES, iterations=1, out=5, **TASKS)


class Predictions:
    """A detector that finds one face, wherever."""

    def detect(self, images):
        raise AssertionError("nothing is left to look for")

    __call__ = detect


class Described:
    dim, name, digest = 4, "stand-in", "0" * 64


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 5), (5, 0, 3)])
@pytest.mark.parametrize("kind", ["uint8", "float32", "tensor"])
def test_an_array_without_pixels_is_refused_with_its_shape(shape, kind):
    photo = np.zeros(shape, "float32" if kind == "tensor" else kind)
    given = (
        torch.from_numpy(photo).movedim(-1, 0) if kind == "tensor" and photo.ndim == 3 else photo
    )
    with Recognizer(Predictions(), Described()) as people:
        for call in (people.identify, lambda p: people.enroll("Ana", p)):
            with pytest.raises(ValueError, match=r"must have pixels, got \(\d, \d"):
                call(given)


@pytest.mark.parametrize("size", [(0, 0), (0, 5)])
def test_a_picture_without_pixels_is_unreadable(size):
    with Recognizer(Predictions(), Described()) as people:
        found = people.identify(Image.new("RGB", size))
    assert found.skipped == "unreadable" and "x" in found.detail and "0" in found.detail


@pytest.mark.parametrize("value", [None, "0.01", True, 0, 1, math.nan])
def test_a_rate_that_is_none_is_named(value):
    whose = np.arange(400)
    vectors = normalise(np.random.default_rng(0).normal(size=(400, 8)))
    with Recognizer(Predictions(), Described()) as people:
        calls = {
            "fpir": [
                lambda: people.calibrate(None, value),
                lambda: metrics.identify_by_group(vectors, whose // 2, whose % 2, fpir=value),
            ],
            "fmr": [
                lambda: people.verify(b"", b"", value),
                lambda: metrics.verify_by_group(vectors, whose // 2, whose % 2, fmr=value),
            ],
            "ask": [lambda: metrics.open_set(vectors, whose, ask=value)],
            "fpirs": [lambda: metrics.open_set(vectors, whose, fpirs=(value,))],
        }
        for name, listed in calls.items():
            for call in listed:
                with pytest.raises(ValueError, match=f"{name}={value!r}: a rate between 0 and 1"):
                    call()


@pytest.mark.parametrize("value", [None, "0.01", True, -0.1, 1.1, math.nan])
def test_a_rate_that_may_be_0_or_1_is_named(value):
    scores = np.linspace(0, 1, 400)
    with pytest.raises(ValueError, match=f"fpir={value!r}: a rate from 0 to 1"):
        metrics.measure_rejection(scores, scores > 0, scores, value)


def test_a_rate_of_numpy_is_kept_as_a_number():
    """It was refused by JSON, half-way through."""
    vectors = normalise(np.random.default_rng(0).normal(size=(4, 4)))
    with Recognizer(Predictions(), Described()) as people:
        people.gallery.add("Ana", vectors[:2])
        people.gallery.set_strangers(vectors, np.arange(4))
        assert people.calibrate(None, np.float32(0.25)).fpir == 0.25


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"ways": (5, 5)}, "ways has 5 twice"),
        ({"shots": (1, 5, 1)}, "shots has 1 twice"),
        ({"learners": ("maml", "maml")}, "learners has 'maml' twice"),
        ({"augment": ("flip", "flip")}, "augment has 'flip' twice"),
        ({"ways": 5}, "ways=5: must be a list or tuple"),
        ({"queries": None}, "queries=None"),
        ({"episodes": "9"}, "episodes='9'"),
        ({"seeds": 0}, "seeds=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_job_refuses_settings_that_mean_nothing(tmp_path, changed, said):
    with pytest.raises(ValueError, match=said):
        benchmark.run(replace(BenchmarkSettings(), **changed), tmp_path / "out", progress=False)
    assert not list(tmp_path.glob("out/*.json"))


def test_other_jobs_refuse_a_thing_twice(tmp_path):
    twice = CrossDomainSettings(domains={"a": "synthetic"}, protocols=("pairs", "pairs"))
    with pytest.raises(ValueError, match="protocols has 'pairs' twice"):
        cross_domain.run(twice, tmp_path / "a", progress=False)
    with pytest.raises(ValueError, match="variants has 'fixed' twice"):
        joint.run(JointSettings(variants=("fixed", "fixed")), tmp_path / "b")
    with pytest.raises(ValueError, match="photos=None: must be at least 6"):
        joint.run(JointSettings(photos=None), tmp_path / "b")
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="parameters has 'lr' twice"):
        sweep.run(BenchmarkSettings(), tmp_path / "c", parameters=["lr", "lr"])


@pytest.mark.parametrize(
    "learner, name",
    [("maml", "embedding"), ("fomaml", "name"), ("prototypical", "self"), ("own", "embedding")],
)
def test_an_option_sets_nothing_that_is_given_already(monkeypatch, learner, name):
    monkeypatch.setitem(LEARNERS, "own", lambda embedding, **options: Prototypical(embedding))
    with pytest.raises(ValueError, match=f"{learner} has no option {name}"):
        build(learner, tiny(), **{name: 1})


# --- on the command line


@pytest.mark.parametrize(
    "words, said",
    [
        (["train", "--option", "embedding=1"], "prototypical has no option embedding"),
        (
            ["train", "--learner", "maml", "--option", "inner_lr=1", "--option", "inner_lr=2"],
            "--option inner_lr is given twice: inner_lr=2 is the second",
        ),
        (
            ["benchmark", "--option", "maml.inner_lr=1", "--option", "maml.inner_lr=2"],
            "--option maml.inner_lr is given twice",
        ),
        (["train", "--ways", "5", "--option", "ways=3"], "--ways and --option ways are one"),
        (["train", "--meta-batch", "5", "--option", "meta_batch=3"], "--meta-batch and --option"),
        (["benchmark", "--ways", "5", "5"], "--ways has 5 twice"),
        (["benchmark", "--shots", "1", "5", "1"], "--shots has 1 twice"),
        (["benchmark", "--learners", "maml", "maml"], "--learners has maml twice"),
        (["benchmark", "--augment", "flip", "flip"], "--augment has flip twice"),
        (
            ["cross-domain", "--domains", "a=synthetic", "--protocols", "all", "all"],
            "--protocols has all twice",
        ),
        (["sweep", "--parameters", "lr", "lr"], "--parameters has lr twice"),
        (["evaluate", "x.pt", "--shots", "1", "1"], "--shots has 1 twice"),
        (["train", "--keep", "a", "--keep", "a"], "--keep has a twice"),
        (["joint-benchmark", "--variants", "fixed", "fixed"], "--variants has fixed twice"),
        (["slices", "--by", "age", "age"], "--by has age twice"),
        (["robustness", "--nuisances", "blur", "blur"], "--nuisances has blur twice"),
        (["benchmark", "--shots", "99999999999"], "a whole number from 1 to 2147483647"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    status = cli.main([*words, *(["--iterations", "1"] if words[0] in ("train",) else [])])
    assert status == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.pt"))


def test_photographs_may_be_given_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["identify", "a.jpg", "a.jpg", "--gallery", "none"]) == 2
    assert "twice" not in capsys.readouterr().err


@needs_weights
@pytest.mark.parametrize("who", [["album"], ["Ana", "album/Ana/1.png"], ["Ana", "nowhere.png"]])
def test_a_failed_enrolment_leaves_no_gallery(tmp_path, monkeypatch, who):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAFACE_MODELS", str(WEIGHTS))
    Path("album/Ana").mkdir(parents=True)
    Path("album/Ana/1.png").write_bytes(b"no picture")
    before = sorted(tmp_path.iterdir())
    assert cli.main(["enroll", *who, "--gallery", "g.gallery", "--quiet"]) == 2
    assert sorted(tmp_path.iterdir()) == before


@needs_weights
def test_a_gallery_that_was_there_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAFACE_MODELS", str(WEIGHTS))
    Path("1.png").write_bytes(b"no picture")
    Recognizer.from_pretrained(gallery="g.gallery").close()
    assert cli.main(["enroll", "Ana", "1.png", "--gallery", "g.gallery", "--quiet"]) == 2
    with Gallery.open("g.gallery") as gallery:
        assert gallery.people() == {}


@pytest.mark.skipif(sys.platform == "win32", reason="locales of POSIX")
@pytest.mark.parametrize("mode", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_names_under_the_c_locale_work_or_the_remedy_is_said(tmp_path, mode):
    with Gallery(tmp_path / "g", model="x", model_name="m", dim=4) as gallery:
        gallery.add("😀", np.eye(4, dtype=np.float32)[:1])
    set_apart = ("LANG", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING")
    env = {n: v for n, v in os.environ.items() if n not in set_apart} | {"LC_ALL": "C"} | mode

    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "metaface", *words, "--gallery", str(tmp_path / "g")]
        return subprocess.run(command, env=env, capture_output=True)

    listed, done = run("people"), run("forget", "😀")
    assert listed.returncode == 0 and listed.stdout
    assert b"Traceback" not in listed.stderr + done.stderr
    if mode:
        assert done.returncode == 2 and b"set PYTHONUTF8=1, or LC_ALL=C.UTF-8" in done.stderr
    else:
        assert done.returncode == 0 and "😀 is forgotten" in done.stdout.decode()
        assert not listed.stderr and not done.stderr


# --- what is printed


def test_years_and_large_numbers_are_groups_that_people_read():
    years = bin_numbers(np.arange(1970, 2011, dtype=float), 2)
    assert set(years) == {"1: 1970 to 1989", "2: 1990 to 2010"}
    close = name_groups("born", [str(y) for y in range(2000, 2012)], 3)
    assert set(close) == {"1: 2000 to 2003", "2: 2004 to 2007", "3: 2008 to 2011"}
    assert name_groups("born", [2003.0, 1999, 2003]).tolist() == ["2003", "1999", "2003"]
    ids = name_groups("lot", np.array([1234567.0, 1234568, 1234567]))
    assert ids.tolist() == ["1234567", "1234568", "1234567"]  # two, which %g made one of
    assert name_groups("v", np.array([0.25, 0.1, -3, 0])).tolist() == ["0.25", "0.1", "-3", "0"]
    narrow = bin_numbers(np.linspace(100.001, 100.002, 20), 2)
    assert set(narrow) == {"1: 100.001 to below 100.0015", "2: 100.0015 to 100.002"}
    assert name_groups("v", np.array([1e-9, 1e20])).tolist() == ["1e-09", "1e+20"]


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("count", [3, 30])
def test_infinite_values_are_refused_by_name(infinite, text, count):
    values = [*map(float, range(count)), infinite]
    given = list(map(str, values)) if text else values
    with pytest.raises(ValueError, match=f"age: 1 of {count + 1} values are infinite .* {count},"):
        name_groups("age", given)
    with pytest.raises(ValueError, match="values are infinite"):
        bin_numbers(values)


def test_nan_is_unknown_among_numbers_and_a_name_among_words():
    assert name_groups("age", ["31", "nan", ""]).tolist() == ["31", "", ""]
    assert name_groups("age", [31, math.nan]).tolist() == ["31", ""]
    assert name_groups("nick", ["Nan", "Inf"]).tolist() == ["Nan", "Inf"]


def test_no_cosine_is_above_one():
    vectors = normalise(np.random.default_rng(0).normal(size=(3000, 128)))
    assert (np.einsum("nd,nd->n", vectors, vectors) > 1).any()  # as rounding has it
    whose = np.arange(len(vectors))
    matcher = Prototypes(Embeddings(vectors), whose, Cohort(vectors[:0], whose[:0]))
    scores, found = matcher(Embeddings(vectors))
    assert scores.max() == 1 and np.array_equal(found, whose)
    twice = np.concatenate([vectors, vectors])
    others = Prototypes(Embeddings(twice), np.arange(6000), Cohort(vectors[:0], whose[:0]))
    assert others.others(Embeddings(twice), np.arange(6000)).max() == 1
    assert pair_cosines(vectors, np.stack([whose, whose], 1)).max() == 1
    assert clip_cosines(np.array([1.1, -1.1, 0.5, -np.inf])).tolist() == [1, -1, 0.5, -np.inf]


def test_too_much_is_refused_with_the_most_there_is():
    for given in ({"shots": 30}, {"queries": 30}):
        with pytest.raises(ValueError, match=r"the most that anybody has is 8\)"):
            mf.EpisodeSampler(FACES, **{"ways": 3, "shots": 1, "queries": 1, **given})
    vectors, whose = normalise(np.random.default_rng(0).normal(size=(40, 8))), np.arange(40) // 4
    with pytest.raises(ValueError, match=r"shots=9 photographs \(the most is 4\)"):
        metrics.identify_by_group(vectors, whose, whose % 2, shots=9)
    with pytest.raises(ValueError, match=r"shots=9 \(the most that anybody has is 4\)"):
        metrics.open_set(vectors, whose, metrics.OpenSetDesign(shots=9))
