"""Hyper-parameter search: on validation people alone, resumable, shared."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import RUNNABLE, draw_nothing, patterns

import metaface
from metaface import EpisodeSampler
from metaface.cli import main
from metaface.experiments import benchmark, job
from metaface.experiments import sweep as sweeping
from metaface.experiments.job import specify, train_learner
from metaface.learners import LEARNERS
from metaface.learners.spaces import SPACES, Categorical, Range
from metaface.options import BenchmarkSettings
from metaface.options.jobs import RECIPE
from metaface.training import History, Interrupted, Validation
from metaface.training.fitting import fit_recipe

optuna = pytest.importorskip("optuna")

SMALL = BenchmarkSettings(
    data="patterns",
    image_size=16,
    embedding="conv4-32",
    learners=("anil",),
    iterations=2,
    shots=(1,),
    queries=3,
    device="cpu",
    options={"anil": {"meta_batch": 1, "shots": 1}},
)


@pytest.fixture
def faces(monkeypatch):
    """All data is 40 people of patterns; a list, so that a test can put others there."""
    held = [patterns(40, 8)]
    monkeypatch.setattr(benchmark.data, "load", lambda source, **options: held[0])
    monkeypatch.setattr(sweeping, "EPISODES", 20)
    return held


def run(out, settings=SMALL, *, drawn=False, **options):
    """A sweep; ``drawn``: its page has figures."""
    cheap = {"parameters": ["head_lr", "inner_steps", "lr", "norm"]}  # none that makes tasks larger
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            draw_nothing(patch)
        return sweeping.run(settings, out, progress=False, **(cheap | options))


def told(results):
    """What a sweep found, without what the clock and the machine decide."""
    apart = ("seconds", "worker", "curve")
    return [{n: v for n, v in row.items() if n not in apart} for row in results["trials"]]


def test_every_learner_says_what_can_be_searched():
    assert set(SPACES) == set(LEARNERS)
    for name, space in SPACES.items():
        arguments = inspect.signature(LEARNERS[name]).parameters
        own = getattr(LEARNERS[name], "func", LEARNERS[name]).recipe
        assert {"shots", "meta_batch", "lr", "norm"} <= set(space)
        assert not set(RECIPE) & set(arguments), name  # an option of that name is the recipe's
        for parameter, values in space.items():
            if isinstance(values, Categorical):
                assert parameter == "norm" and "batch" not in values.values
                continue
            outer = parameter in RECIPE
            default = getattr(own, parameter) if outer else arguments[parameter].default
            assert values.low <= default <= values.high, (name, parameter)
            assert isinstance(values.low, int) == isinstance(default, int), (name, parameter)


def test_the_outer_rate_is_lr_for_every_learner_and_its_own_have_other_names(faces):
    own = {"finetune": {"inner_lr": 3e-3, "head_lr": 4e-3}, "cosine-classifier": {"head_lr": 5e-3}}
    options = {n: {"lr": 2e-3, "shots": 2} | own.get(n, {}) for n in RUNNABLE}
    job = replace(SMALL, options=options)
    for name in RUNNABLE:
        learner = specify(job, name).build()
        given = job.given(name)
        recipe, _ = fit_recipe(replace(learner.recipe, **given), faces[0], given)
        assert (recipe.lr, recipe.shots) == (2e-3, 2)
        assert learner.recipe.lr != 2e-3
        for argument, value in own.get(name, {}).items():
            assert getattr(learner, argument) == value


def test_results_say_every_trial_and_the_best(faces, tmp_path):
    settings = replace(SMALL, learners=("anil", "prototypical"), iterations=1)
    results = run(tmp_path, settings, trials=2, parameters=None)
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(results))
    rows = results["trials"]
    assert [(r["learner"], r["number"]) for r in rows] == [
        (n, k) for n in ("anil", "prototypical") for k in range(2)
    ]
    assert [r["default"] for r in rows] == [True, False] * 2
    assert rows[0]["parameters"] == {
        "head_lr": 0.5,
        "inner_steps": 3,
        "shots": 1,
        "meta_batch": 1,
        "lr": 1e-3,
        "norm": "group",
    }
    for row in rows:
        assert row["state"] == "complete" and row["seconds"] > 0 and row["iterations"] == 1
        assert 0.2 < row["accuracy"] <= 1 and 0 < row["ci95"] < 0.2
        assert row["accuracy"] == max(v["val_accuracy"] for v in row["curve"])
        space = results["spaces"][row["learner"]]
        for name, value in row["parameters"].items():
            values = space[name]
            assert value in values.get("values", [value])
            assert values.get("low", 0) <= value <= values["high"] if "low" in values else True
    for name, best in results["best"].items():
        assert best["accuracy"] == max(r["accuracy"] for r in rows if r["learner"] == name)
    # people have 8 photographs, and at least one is a query; 28 people are trained on
    assert results["spaces"]["anil"]["shots"]["high"] == 7
    assert results["spaces"]["prototypical"]["ways"]["high"] == 28


def test_drawn_parameters_that_do_not_go_together_are_fitted_and_what_is_asked_for_is_not(faces):
    """What is written down is what was trained with, so that the printed command can be run."""
    settings = replace(SMALL, options={"prototypical": {"queries": 2}})
    drawn = {"shots": 7, "ways": 28, "lr": 0.01, "norm": "group"}
    found = sweeping._fitted(settings, "prototypical", drawn, faces[0])
    assert found == {"shots": 6, "ways": 28, "lr": 0.01}
    tuned = sweeping._tuned(settings, "prototypical", drawn | found)
    EpisodeSampler(faces[0], **{n: tuned.given("prototypical")[n] for n in RECIPE[:3]})


def test_what_was_changed_is_said_once_and_kept(faces, tmp_path, caplog):
    settings = replace(SMALL, ways=(9,), iterations=1)
    results = run(tmp_path, settings, trials=2, parameters=["lr"])
    assert results["validation"]["ways"] == 4  # a tenth of 40 people
    (note,) = results["notes"]
    assert note.startswith("anil: validation is 4-way instead of 9-way")
    assert [record.getMessage() for record in caplog.records].count(note) == 1
    assert note in (tmp_path / "sweep.html").read_text()


def test_page_is_self_contained(faces, tmp_path):
    results = run(tmp_path, trials=6, drawn=True)
    page = (tmp_path / "sweep.html").read_text()
    sources = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(v for k, v in attributes if k in ("src", "href") and tag != "use")

    Reader().feed(page)
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert page.count("<svg") == 4  # spread, slices, importances, best so far
    assert results["commands"][0] in page
    shares = results["importances"]["anil"]
    assert set(shares) == set(results["spaces"]["anil"])
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.usefixtures("no_drawings")
def test_what_is_chosen_can_be_run(faces, tmp_path, capsys):
    """The printed command trains the benchmark's learner with the parameters of the best trial."""
    small = [
        "--iterations",
        "2",
        "--image-size",
        "16",
        "--embedding",
        "conv4-32",
        "--quiet",
        "--queries",
        "3",
        "--device",
        "cpu",
        "--option",
        "anil.meta_batch=2",
    ]
    assert (
        main(
            [
                "sweep",
                "--data",
                "patterns",
                "--learners",
                "anil",
                "--shots",
                "1",
                "--parameters",
                "head_lr",
                "shots",
                "lr",
                "norm",
                "--trials",
                "3",
                "--out",
                str(tmp_path / "s"),
                *small,
            ]
        )
        == 0
    )
    assert "anil: " in capsys.readouterr().out
    results = json.loads((tmp_path / "s" / "sweep.json").read_text())
    best = results["best"]["anil"]
    command = results["commands"][0].split()
    assert command[:4] == ["metaface", "benchmark", "--learners", "anil"]
    assert "--norm" in command and command[command.index("--norm") + 1] == best["norm"]
    more = ["--out", str(tmp_path / "b"), "--episodes", "20", "--iterations", "2", "--quiet"]
    assert main([*command[1:], *more, "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "b" / "results.json").read_text())
    (row,) = (r for r in found["rows"] if r["learner"] == "anil")
    wanted = best["parameters"]
    assert row["norm"] == wanted["norm"]
    assert {n: row["recipe"][n] for n in ("shots", "lr")} == {n: wanted[n] for n in ("shots", "lr")}
    assert row["recipe"]["meta_batch"] == 2
    assert found["settings"]["options"]["anil"]["head_lr"] == wanted["head_lr"]
    settings = replace(SMALL, options=found["settings"]["options"], norm=best["norm"])
    people = benchmark.load_people(settings, progress=False)
    _, trained = train_learner(
        settings,
        "anil",
        0,
        people.train,
        people.val,
        None,
        progress=False,
        validation=Validation(episodes=20),
    )
    validated = [r["val_accuracy"] for r in trained["curve"] if "val_accuracy" in r]
    assert max(validated) == best["accuracy"]


def test_test_people_are_never_looked_at(faces, tmp_path):
    """With other photographs of them, every figure stays as it is; and nothing is drawn of them."""
    whole = faces[0]
    train, val, test = whole.split(SMALL.seed, test_photos=max(SMALL.shots) + SMALL.queries)
    first = run(tmp_path / "a", trials=3)
    poisoned = np.array(whole.store)
    poisoned[test.rows] = np.random.default_rng(0).integers(0, 256, poisoned[test.rows].shape)
    assert (poisoned[train.rows] == whole.store[train.rows]).all()
    faces[0] = replace(whole, store=poisoned)
    assert told(run(tmp_path / "b", trials=3)) == told(first)
    poisoned[val.rows] = 0  # the test can fail
    assert told(run(tmp_path / "c", trials=3)) != told(first)


def test_only_training_and_validation_people_reach_a_learner(faces, tmp_path, monkeypatch):
    _, _, test = faces[0].split(SMALL.seed, test_photos=max(SMALL.shots) + SMALL.queries)
    drawn = set()
    real = metaface.EpisodeSampler.rows

    def rows(self, *args, **kwargs):
        drawn.update(self.faces.person_ids)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(metaface.EpisodeSampler, "rows", rows)
    run(tmp_path, trials=2)
    assert len(drawn) == 32 and not drawn & set(test.person_ids)


def test_same_seed_same_trials(faces, tmp_path):
    first, second = (run(tmp_path / n, trials=3) for n in "ab")
    assert told(first) == told(second)
    other = run(tmp_path / "c", replace(SMALL, seed=1), trials=3)
    assert other["trials"][1]["parameters"] != first["trials"][1]["parameters"]


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_interrupted_and_resumed(storage, faces, tmp_path, monkeypatch):
    """Ctrl-C keeps what is done; the rest is what it would have been."""
    url = f"sqlite:///{tmp_path / 'sweep.db'}" if storage else None
    real, calls = job.train, []

    def stop_in_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    whole = run(tmp_path / "whole", trials=4)
    monkeypatch.setattr(job, "train", stop_in_third)
    with pytest.raises(Interrupted, match="--resume"):
        run(tmp_path / "cut", trials=4, storage=url)
    cut = json.loads((tmp_path / "cut" / "sweep.json").read_text())
    assert [r["state"] for r in cut["trials"]] == ["complete", "complete", "interrupted"]
    with pytest.raises(FileExistsError, match="--resume"):
        run(tmp_path / "cut", trials=4, storage=url)
    with pytest.raises(FileExistsError, match="iterations was 2, is 3"):
        run(tmp_path / "cut", replace(SMALL, iterations=3), storage=url, resume=True)
    resumed = run(tmp_path / "cut", trials=4, storage=url, resume=True)
    done = [r for r in resumed["trials"] if r["state"] == "complete"]
    assert len(done) == 4 and len(resumed["trials"]) == 5
    # the one that was cut is done over, under a new number
    assert [r["parameters"] for r in done[:3]] == [r["parameters"] for r in whole["trials"][:3]]
    assert [r["accuracy"] for r in done[:3]] == [r["accuracy"] for r in whole["trials"][:3]]
    assert run(tmp_path / "cut", trials=4, storage=url, resume=True) == resumed  # nothing to do


def test_a_database_is_closed(faces, tmp_path):
    """However the sweep ends; Python 3.13 would say so by itself, earlier ones leak in silence."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    opened, closed = [], []
    listeners = (
        ("connect", lambda *connection: opened.append(1)),
        ("close", lambda *connection: closed.append(1)),
    )
    for name, listener in listeners:
        event.listen(Pool, name, listener)
    try:
        url = f"sqlite:///{tmp_path / 'sweep.db'}"
        run(tmp_path, trials=1, storage=url)
        with pytest.raises(FileExistsError):
            run(tmp_path, trials=1, storage=url)
    finally:
        for name, listener in listeners:
            event.remove(Pool, name, listener)
    assert opened and len(opened) == len(closed)


def test_a_killed_process_leaves_no_hole(faces, tmp_path):
    first = run(tmp_path, trials=1)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with sweeping._opened(tmp_path / "journal.log") as store:
        study = optuna.load_study(study_name="anil", storage=store)
        study.ask().set_user_attr("worker", f"{sweeping.platform.node()}:{child.pid}")
        study.ask().set_user_attr("worker", "another-machine:1")
    results = run(tmp_path, trials=3, resume=True)
    states = [r["state"] for r in results["trials"]]
    assert states == ["complete", "interrupted", "running", "complete"]
    assert told(results)[0] == told(first)[0]


CHILD = """
import sys
import os
sys.path[:0] = sys.argv[1].split(os.pathsep)
from pathlib import Path
from helpers import patterns
import metaface
import metaface.report
assert "optuna" not in sys.modules, "imported with metaface, not when it is asked for"
from metaface.experiments import benchmark
from test_sweep import SMALL, sweeping
benchmark.data.load = lambda source, **options: patterns(40, 8)
sweeping.EPISODES = 20
sweeping.TO_COMPARE = 99  # every trial is made to its end
metaface.report.write_sweep = lambda *given: None
out = Path(sys.argv[2])
sweeping.run(SMALL, out, trials=6, storage=out.parent / "shared.log", resume=True,
               parameters=["head_lr", "lr"], progress=False)
"""


def test_two_processes_make_the_trials_together(tmp_path):
    here = os.pathsep.join(map(str, Path(__file__).parents[:2]))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    outs = [tmp_path / "one", tmp_path / "two"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, here, str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for out in outs
    ]
    for child in children:
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0, error
    with sweeping._opened(tmp_path / "shared.log") as store:
        study = optuna.load_study(study_name="anil", storage=store)
        rows = [t for t in study.trials if not t.user_attrs.get("surplus")]
    assert len(rows) == 6 and all(t.state.name == "COMPLETE" for t in rows)
    assert len({t.user_attrs["worker"] for t in rows}) <= 2  # 1 where one was much quicker
    assert len({tuple(t.params.items()) for t in rows}) == 6  # no point is tried by both
    found = [json.loads((out / "sweep.json").read_text()) for out in outs]
    assert max(sum(r["state"] == "complete" for r in f["trials"]) for f in found) == 6


def test_a_race_for_the_last_trial_makes_no_more(faces, tmp_path, monkeypatch):
    """Both find room for one more, and both ask: the later number steps back."""
    run(tmp_path, trials=2)
    real = sweeping._Search.counted
    calls = []

    def late(self):
        found = real(self)
        calls.append(1)
        return found[:1] if len(calls) == 1 else found

    monkeypatch.setattr(sweeping._Search, "counted", late)
    assert len(run(tmp_path, trials=2, resume=True)["trials"]) == 2


def test_the_median_stops_hopeless_trials(faces, tmp_path, monkeypatch):
    """Validations are made up: good in the first five trials, bad from then on."""
    trials = []

    def train(learner, *args, validation, **kwargs):
        trials.append(1)
        level = 0.8 if len(trials) <= 5 else 0.3
        for k in range(1, 6):
            validation.on_row(
                {
                    "iteration": k,
                    "images": k,
                    "seconds": float(k),
                    "val_ci95": 0.01,
                    "val_accuracy": level + 0.01 * k,
                }
            )
        return History()

    monkeypatch.setattr(job, "train", train)
    rows = run(tmp_path, replace(SMALL, iterations=5), trials=7)["trials"]
    assert [r["state"] for r in rows] == ["complete"] * 5 + ["pruned"] * 2
    assert [len(r["curve"]) for r in rows] == [5] * 5 + [2] * 2  # never in the first fifth
    assert rows[0]["accuracy"] == pytest.approx(0.85)


def test_a_trial_that_diverges_is_told_and_the_sweep_goes_on(faces, tmp_path, monkeypatch):
    real, calls = job.train, []

    def train(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("the loss is nan at step 3")
        return real(*args, **kwargs)

    monkeypatch.setattr(job, "train", train)
    rows = run(tmp_path, trials=3)["trials"]
    assert [r["state"] for r in rows] == ["complete", "failed", "complete"]
    assert rows[1]["accuracy"] is None and "nan" in rows[1]["why"]


def test_what_is_given_is_kept_or_started_from(faces, tmp_path):
    settings = replace(
        SMALL, norm="frozen", options={"anil": {"inner_steps": 2, "lr": 3e-3, "meta_batch": 1}}
    )
    rows = run(tmp_path, settings, trials=3, parameters=["lr", "head_lr"])["trials"]
    assert rows[0]["parameters"] == {"lr": 3e-3, "head_lr": 0.5} and rows[0]["default"]
    assert all(set(r["parameters"]) == {"lr", "head_lr"} for r in rows)
    best = json.loads((tmp_path / "sweep.json").read_text())["best"]["anil"]
    assert best["norm"] == "frozen" and best["options"]["inner_steps"] == 2


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {"trials": 0}, "trials=0"),
        ({}, {"parameters": ["speed"]}, "no parameter speed"),
        ({"learners": ("anil", "maml")}, {"parameters": ["inner_lr"]}, "anil has none"),
        ({"norm": "batch"}, {}, "norm=batch"),
        ({"iterations": 0}, {}, "positive"),
        ({"learners": ("mamml",)}, {}, "no learner 'mamml'"),
    ],
)
def test_bad_input_is_refused_before_any_trial(settings, options, said, faces, tmp_path):
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "s", replace(SMALL, **settings), **options)
    assert not (tmp_path / "s").exists()


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", "--out", str(tmp_path), "--quiet"]) == 2
    assert "pip install 'metaface[sweep]'" in capsys.readouterr().err


def test_ranges_that_are_whole_are_searched_in_whole_steps():
    study = optuna.create_study()
    for values, kind in ((Range(1, 10), int), (Range(0.1, 10.0), float)):
        for _ in range(5):
            assert type(sweeping._suggest(study.ask(), kind.__name__, values)) is kind
