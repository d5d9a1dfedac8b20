"""Recipes and validation tasks fitted to the photographs there are; budgets of time; devices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import patterns, tiny, train
from PIL import Image

from metaface import FaceSet, checkpoint, evaluation, machine
from metaface.cli import main
from metaface.data.domain_split import SIDES, list_sides, paired_domains
from metaface.evaluation import degradation
from metaface.experiments import benchmark, cross_domain, joint, sweep
from metaface.learners import Prototypical, Recipe
from metaface.multitask import FaceSprites
from metaface.training import loop, meta
from metaface.training.fitting import fit_recipe, fit_validation

FAST = {"iterations": 1, "device": "cpu", "progress": False, "val_episodes": 5}
SMALL = ["--iterations", "1", "--image-size", "16", "--embedding", "conv4-32", "--quiet"]


def uneven(counts: list[int], name: str = "uneven", seed: int = 0) -> FaceSet:
    """Noise: person p has ``counts[p]`` photographs."""
    images = np.random.default_rng(seed).integers(0, 256, (sum(counts), 16, 16, 3), dtype=np.uint8)
    return FaceSet.from_arrays(images, np.repeat(np.arange(len(counts)), counts), name=name)


def folder(root: Path, counts: list[int], seed: int = 0) -> str:
    faces = uneven(counts, seed=seed)
    for row, person in zip(faces.rows, faces.person, strict=True):
        (root / f"p{person:03d}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.store[row]).save(root / f"p{person:03d}" / f"{row:04d}.png")
    return str(root)


# ---------------------------------------------------------------- recipes


def test_python_fits_where_the_command_line_does_and_says_so(caplog):
    """29 people: Prototypical's 30 ways do not fit."""
    history = train(Prototypical(tiny()), patterns(29, 4), **FAST)
    said = "Prototypical: ways 29 instead of 30 in training: of 29 people of patterns, 29 have the"
    assert history.recipe["ways"] == 29
    assert [note.startswith(said) for note in history.notes] == [True]
    assert history.notes == [record.getMessage() for record in caplog.records]


def test_nothing_is_said_where_nothing_is_changed(caplog):
    history = train(Prototypical(tiny()), patterns(40, 4), patterns(10, 8, seed=1), **FAST)
    assert history.notes == [] and caplog.records == []
    assert history.recipe["ways"] == 30
    (row,) = history.rows
    assert (row["val_ways"], row["val_shots"]) == (5, 1) and row["val_seconds"] > 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"ways": 30}, "30-way 1-shot 1-query tasks need 30 people"),
        ({"shots": 4}, "2-way 4-shot 1-query tasks need 2 people with at least 5"),
        ({"queries": 4}, "2-way 1-shot 4-query tasks need 2 people with at least 5"),
        ({"meta_batch": 0}, "meta_batch=0"),
        ({"val_ways": 11}, "11-way 1-shot"),
    ],
)
def test_what_is_given_is_never_changed_but_refused(given, why):
    learner = Prototypical(tiny())
    with pytest.raises(ValueError, match=why):
        train(learner, patterns(29, 4), patterns(10, 4, seed=1), **FAST, **given)


def test_what_is_given_is_kept_and_the_rest_fitted():
    faces = patterns(29, 8)
    recipe = Recipe(ways=30, shots=6, queries=5)
    for given, fitted in (
        ({}, (29, 6, 2)),
        ({"queries": 5}, (29, 3, 5)),
        ({"shots": 2}, (29, 2, 5)),
        ({"ways": 7}, (7, 6, 2)),
        ({"shots": 7, "ways": 7}, (7, 7, 1)),
    ):
        asked = Recipe(**({"ways": 30, "shots": 6, "queries": 5} | given))
        found, said = fit_recipe(asked, faces, given)
        assert (found.ways, found.shots, found.queries) == fitted
        for name in ("ways", "shots", "queries"):
            got, own = getattr(found, name), getattr(recipe, name)
            changed = name not in given and got != own
            assert (f"{name} {got} instead of {own}" in said) == changed
    # as many people as were asked for are more than a fifth
    few = uneven([9] * 6 + [3] * 14)
    assert fit_recipe(recipe, few)[0] == Recipe(ways=6, shots=6, queries=3)
    assert fit_recipe(Recipe(10, 6, 5), few, {"ways"})[0] == Recipe(ways=10, shots=2, queries=1)
    assert fit_recipe(Recipe((5, 10), 6, 5), few, {"ways"})[0].shots == 2  # type: ignore[arg-type]


def test_each_side_is_fitted_to_its_own_domain():
    left, right = (uneven([n] * 8, name, n) for n, name in ((6, "left"), (2, "right")))
    both = paired_domains(left, right)
    found, said = fit_recipe(Recipe(ways=10, shots=9, queries=5), both, **list_sides(both))
    assert found == Recipe(ways=8, shots=6, queries=2)
    assert "ways 8 instead of 10, shots 6 instead of 9, queries 2 instead of 5" in said
    history = train(Prototypical(tiny()), both, **FAST, **list_sides(both))
    assert (history.recipe["ways"], history.recipe["queries"]) == (8, 1)
    found, _ = fit_recipe(
        Recipe(ways=10, shots=9, queries=5), both, support_domain=SIDES[0], query_domain=SIDES[0]
    )
    assert found == Recipe(ways=8, shots=5, queries=1)
    across, _ = fit_recipe(Recipe(ways=5, shots=9, queries=5), both, across=True)
    assert across == Recipe(ways=5, shots=2, queries=1)
    once = (uneven([1] * 8, name, n) for n, name in enumerate(("photo", "sketch")))
    across, _ = fit_recipe(Recipe(ways=5, shots=1, queries=5), paired_domains(*once), across=True)
    assert across == Recipe(ways=5, shots=1, queries=1)


@pytest.mark.usefixtures("few_validations", "no_drawings")
def test_benchmark_says_what_it_changed_in_terminal_file_and_page(tmp_path, capsys, caplog):
    """As on LFW: those with enough photographs for the test are all tested."""
    data = folder(tmp_path / "photos", [8] * 6 + [4] * 34)
    out = tmp_path / "out"
    command = [
        "benchmark",
        "--data",
        data,
        "--out",
        str(out),
        "--shots",
        "1",
        "5",
        "--queries",
        "3",
        "--episodes",
        "5",
        "--learners",
        "reptile",
        *SMALL,
    ]
    assert main(command) == 0
    found = json.loads((out / "results.json").read_text())
    assert len(found["notes"]) == 3
    for note, said in zip(
        found["notes"],
        (
            "photos: all 6 people with 8 photographs or more are left for the test",
            "reptile: shots 3 instead of",
            "reptile: validation is ",
        ),
        strict=False,
    ):
        assert note.startswith(said)
    printed, page = capsys.readouterr().out, (out / "report.html").read_text()
    for note in found["notes"]:
        assert f"note: {note}\n" in printed and note in page
        assert note in [record.getMessage() for record in caplog.records]
    caplog.clear()
    assert main([*command, "--resume"]) == 0  # a finished one says it again
    assert json.loads((out / "results.json").read_text())["notes"] == found["notes"]
    assert capsys.readouterr().out == printed


def test_an_option_of_the_command_line_is_never_changed(tmp_path, capsys):
    data = folder(tmp_path / "photos", [6] * 40)
    for command in (
        ["benchmark", "--option", "reptile.shots=6", "--learners", "reptile", "--shots", "1"],
        ["train", "--option", "shots=6", "--learner", "reptile"],
        ["train", "--shots", "6", "--learner", "reptile"],
    ):
        assert main([*command, "--data", data, "--out", str(tmp_path / "o"), *SMALL]) == 2
        assert "6-shot 1-query tasks need" in capsys.readouterr().err


# ---------------------------------------------------------------- validation


def test_validation_says_its_ways(caplog):
    val = patterns(4, 4, seed=1)
    history = train(Prototypical(tiny()), patterns(40, 4), val, **FAST)
    assert history.rows[-1]["val_ways"] == 4
    note = (
        "Prototypical: validation is 4-way instead of 5-way: no more of 4 validation people of "
        "patterns have 1 + 1 photographs"
    )
    assert history.notes == [note] == [record.getMessage() for record in caplog.records]
    with pytest.raises(ValueError, match="5-way 1-shot"):
        train(Prototypical(tiny()), patterns(40, 4), val, **FAST, val_ways=5)


def test_validation_that_cannot_be_is_refused_before_the_training():
    ran = []
    val = uneven([1, 1, 1, 2])
    with pytest.raises(ValueError, match=r"1 of 4 validation people have 1 \+ 1 photographs"):
        train(Prototypical(tiny()), patterns(40, 4), val, **FAST, on_validation=ran.append)
    assert ran == []
    assert fit_validation(uneven([1, 1, 2, 2]), 5, 1)[:2] == (2, 1)


def test_train_prints_and_keeps_the_ways_of_the_validation(tmp_path, capsys):
    data = folder(tmp_path / "photos", [8] * 40)
    out = tmp_path / "out"
    assert main(["train", "--data", data, "--out", str(out), *SMALL]) == 0
    assert "best 4-way 1-shot validation accuracy" in capsys.readouterr().out
    history = checkpoint.load(out / "checkpoint.pt")["history"]
    assert history["rows"][-1]["val_ways"] == 4
    assert history["notes"][-1].startswith("prototypical: validation is 4-way instead of 5-way")


@pytest.mark.parametrize("photos", [2, 4])
def test_train_needs_no_photographs_for_a_test_it_does_not_make(photos, tmp_path, capsys, caplog):
    data = folder(tmp_path / "photos", [photos] * 40)
    out = tmp_path / "out"
    assert main(["train", "--data", data, "--out", str(out), *SMALL]) == 0
    assert f"people left for a test have {photos} photographs or more each" in caplog.text
    assert f"metaface evaluate --queries {photos - 1}" in caplog.text
    path = str(out / "checkpoint.pt")
    command = ["evaluate", path, "--data", data, "--episodes", "5", "--quiet", "--queries"]
    assert main([*command, str(photos - 1)]) == 0
    assert "test: photos: 8 people" in capsys.readouterr().out


def test_a_set_of_single_photographs_gets_no_advice_that_helps_nobody(tmp_path, capsys, caplog):
    data = folder(tmp_path / "photos", [1] * 40)
    for command in (["train"], ["benchmark", "--shots", "1", "--queries", "1"]):
        assert main([*command, "--data", data, "--out", str(tmp_path / "o"), *SMALL]) == 2
        said = capsys.readouterr().err
        assert "photograph" in said and "fewer" not in said
    assert "metaface evaluate" not in caplog.text  # nobody could be tested


def test_every_combination_of_ways_and_shots_is_checked_before_the_first_test(tmp_path, capsys):
    data = folder(tmp_path / "photos", [8] * 40)
    assert main(["train", "--data", data, "--out", str(tmp_path / "t"), *SMALL]) == 0
    capsys.readouterr()
    checkpoint, out = str(tmp_path / "t" / "checkpoint.pt"), tmp_path / "ev.json"
    command = ["evaluate", checkpoint, "--data", data, "--episodes", "2", "--out", str(out)]
    assert main([*command, "--ways", "5", "20"]) == 2
    said = capsys.readouterr()
    assert "5-way" not in said.out and "20-way 1-shot 5-query tasks need 20 people" in said.err
    assert main([*command, "--ways", "5", "8", "--quiet"]) == 0 and out.is_file()


def test_a_set_to_keep_is_checked_before_the_training(tmp_path, capsys):
    data = folder(tmp_path / "photos", [8] * 40)
    single = folder(tmp_path / "single", [1] * 5, seed=1)
    assert main(["train", "--data", data, "--out", str(tmp_path / "t"), *SMALL]) == 0
    start = ["--blend", "--start", str(tmp_path / "t" / "checkpoint.pt"), "--keep", single]
    assert main(["train", "--data", data, "--out", str(tmp_path / "u"), *start, *SMALL]) == 2
    assert f"--keep {single}: single: 2-way 1-shot" in capsys.readouterr().err
    assert not (tmp_path / "u" / "checkpoint.pt").exists()


# ---------------------------------------------------------------- device and time


def test_every_command_takes_a_gpu_by_default(tmp_path, monkeypatch):
    data = folder(tmp_path / "photos", [8] * 40)
    assert main(["train", "--data", data, "--out", str(tmp_path / "t"), *SMALL]) == 0
    where = []

    class Enough(Exception):
        pass

    def evaluate(learner, *arguments, **options):
        where.append(next(learner.parameters()).device.type)
        raise ValueError("enough")

    monkeypatch.setattr(machine, "best_device", lambda: torch.device("meta"))
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(degradation, "robustness", evaluate)
    path = str(tmp_path / "t" / "checkpoint.pt")
    for extra in ([], ["--device", "cpu"]):
        for command in ("evaluate", "robustness"):
            assert main([command, path, "--data", data, *extra]) == 2
    assert where == ["meta", "meta", "cpu", "cpu"]


class Clock:
    """Stands still but for what training and validation are said to take."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("takes", [3.0, 100.0])
def test_a_budget_of_time_counts_the_last_validation(takes, monkeypatch, caplog):
    clock = Clock()
    for module in (loop, meta):
        monkeypatch.setattr(module, "time", clock)
    real = meta.evaluate

    def evaluate(*arguments, **options):
        clock.now += takes
        return real(*arguments, **options)

    class Slow(Prototypical):
        def meta_step(self, episodes):
            clock.now += 0.5
            return super().meta_step(episodes)

    monkeypatch.setattr(meta, "evaluate", evaluate)
    options = {**FAST, "iterations": None, "minutes": 1.0}
    history = train(Slow(tiny()), patterns(40, 4), patterns(10, 4, seed=1), **options)
    validated = [row for row in history.rows if "val_accuracy" in row]
    assert validated[-1] is history.rows[-1]
    if takes < 60:
        assert 59 <= history.seconds <= 61 and len(validated) == 5
        assert caplog.records == []
    else:  # known only when the first one was over
        assert 112 <= history.seconds <= 113 and len(validated) == 1
        assert "the budget of 60 s was overrun by 52 s: one validation takes 100 s" in caplog.text


def test_a_resumed_budget_of_time_counts_it_too(monkeypatch, tmp_path):
    """The time that a validation takes is read from the checkpoint's curve."""
    clock = Clock()
    for module in (loop, meta):
        monkeypatch.setattr(module, "time", clock)
    options = {**FAST, "iterations": None, "minutes": 1.0, "out": tmp_path}

    class Stopped(Exception):
        pass

    real = meta.evaluate

    def evaluate(*arguments, **given):
        clock.now += 10
        return real(*arguments, **given)

    class Slow(Prototypical):
        def meta_step(self, episodes):
            clock.now += 0.5
            if clock.now > 40 and not options.get("resume"):
                raise Stopped
            return super().meta_step(episodes)

    monkeypatch.setattr(meta, "evaluate", evaluate)
    sets = patterns(40, 4), patterns(10, 4, seed=1)
    with pytest.raises(Stopped):
        train(Slow(tiny()), *sets, **options, checkpoint_seconds=0)
    options["resume"] = True
    history = train(Slow(tiny()), *sets, **options)
    assert 50 < history.seconds <= 61


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["benchmark", "--learners", "reptile", "anil", "--minutes", "2", "--seeds", "3"],
            "at most 6 trainings of 2 minutes, validation included: 12 minutes; on top of that: lo",
        ),
        (
            ["cross-domain", "--domains", "a=nowhere", "--learners", "anil", "--minutes", "2"],
            "at most 1 trainings of 2 minutes, validation included: 2 minutes; on top of that: loa",
        ),
        (
            ["sweep", "--learners", "anil", "--trials", "7", "--minutes", "2"],
            "at most 7 trainings of 2 minutes, validation included: 14 minutes; on top of that: lo",
        ),
        (
            ["multitask", "--minutes", "0.3", "--people", "20", "--photos", "4", "--heads", "pose"],
            "training takes 0.3 minutes; on top of that: drawing 120 faces before it, and "
            "measuring the network on 80 scenes after it",
        ),
        (
            ["joint-benchmark", "--minutes", "2", "--seeds", "2", "--variants", "fixed"],
            "at most 2 trainings of 2 minutes; on top of that: drawing 8880 faces before it",
        ),
    ],
)
def test_what_comes_on_top_of_a_budget_of_time_is_said_before_the_start(
    command, said, tmp_path, monkeypatch, capsys
):
    def stop(*arguments, **options):
        raise ValueError("enough")

    for job in (benchmark, cross_domain, sweep, joint):
        monkeypatch.setattr(job, "run", stop)
    monkeypatch.setattr(FaceSprites, "procedural", stop)
    assert main([*command, "--out", str(tmp_path / "o")]) == 2
    got = capsys.readouterr()
    assert said in got.out and got.err == "metaface: enough\n"
