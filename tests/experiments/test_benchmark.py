"""The main job, from the command line and from Python."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import RUNNABLE, patterns, validate_on_few, with_options
from PIL import Image
from scipy import stats

from metaface import checkpoint, report
from metaface._json import write_json
from metaface.cli import main
from metaface.experiments import benchmark
from metaface.experiments.benchmark import ci95_over_seeds
from metaface.learners import Recipe
from metaface.options import BenchmarkSettings
from metaface.training.fitting import fit_recipe

REQUIRED = {
    "learner",
    "data",
    "ways",
    "shots",
    "accuracy",
    "ci95",
    "f1",
    "episodes",
    "train_seconds",
    "adapt_ms",
    "peak_mb",
    "parameters",
    "norm",
    "transductive",
}
SMALL = [
    "--iterations",
    "3",
    "--episodes",
    "20",
    "--queries",
    "2",
    "--image-size",
    "16",
    "--embedding",
    "conv4-32",
    "--quiet",
]
TRAIN = [*SMALL[:2], *SMALL[6:]]  # what there is of these where nothing is tested
ALL = [*with_options(SMALL, "--episodes", "8"), "--shots", "1", "3", "--learners", *RUNNABLE]

pytestmark = pytest.mark.usefixtures("few_renders", "few_validations", "no_drawings")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of identity folders: 30 people, 8 photographs each."""
    root = tmp_path_factory.mktemp("people") / "photos"
    faces = patterns(30, 8)
    for row, person in zip(faces.rows, faces.person, strict=True):
        folder = root / f"person{person:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.store[row]).save(folder / f"{row:04d}.png")
    return root


@pytest.fixture(scope="module")
def results(photos, tmp_path_factory):
    """A small benchmark of every learner, and the folder it was written to."""
    out = tmp_path_factory.mktemp("results") / "all"
    command = ["benchmark", "--data", str(photos), "--out", str(out), *ALL]
    with pytest.MonkeyPatch.context() as patch:
        validate_on_few(patch)
        assert main(command) == 0
    return json.loads((out / "results.json").read_text()), out


def test_rows_have_what_is_promised(results):
    found, _ = results
    rows = found["rows"]
    wanted = {"pixels", "untrained", *RUNNABLE}
    assert {(r["learner"], r["shots"]) for r in rows} == {(n, s) for n in wanted for s in (1, 3)}
    for row in rows:
        assert set(row) >= REQUIRED
        assert 0 <= row["accuracy"] <= 1 and 0 < row["ci95"] < 1 and 0 <= row["f1"] <= 1
        assert row["episodes"] == 8 and row["ways"] == 5
        trained = row["learner"] in RUNNABLE
        assert (row["train_seconds"] > 0) == trained and (row["recipe"] is not None) == trained
        assert row["norm"] == ("none" if row["learner"] == "pixels" else "group")
        assert row["transductive"] is (row["learner"] == "laplacian")


def test_starting_from_weights(photos, tmp_path):
    """What a learner that trains nothing scores is what the weights score as they are."""
    first = tmp_path / "first"
    assert main(["train", "--data", str(photos), *TRAIN, "--out", str(first)]) == 0
    start = str(first / "checkpoint.pt")
    command = [
        "benchmark",
        "--data",
        str(photos),
        *SMALL,
        "--learners",
        "prototypical",
        "--shots",
        "1",
        "--ways",
        "3",
        "--start",
        start,
        "--option",
        "prototypical.tune=none",
    ]
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    found = json.loads((tmp_path / "b" / "results.json").read_text())
    accuracy = {row["learner"]: row["accuracy"] for row in found["rows"]}
    assert set(accuracy) == {"pixels", "untrained", "start", "prototypical"}
    assert accuracy["start"] == accuracy["prototypical"] != accuracy["untrained"]
    assert found["settings"]["start"] == start
    assert start in (tmp_path / "b" / "report.html").read_text()
    seen = checkpoint.load(start)["seen"]["people"]
    settings = BenchmarkSettings(
        data=str(photos), image_size=16, shots=(1,), queries=2, start=start, seed=5
    )
    people = benchmark.load_people(settings, progress=False)
    assert not {people.test.people[p] for p in people.test.person_ids} & set(seen)
    free = benchmark.load_people(replace(settings, start=None), progress=False).test
    assert {free.people[p] for p in free.person_ids} & set(seen)  # or that was no test


def test_equal_iterations_and_paired_differences(results):
    found, _ = results
    accuracy = {(r["learner"], r["shots"]): r["accuracy"] for r in found["rows"]}
    assert {r["train_iterations"] for r in found["rows"] if r["learner"] in RUNNABLE} == {3}
    units = 2 + len(RUNNABLE)
    assert len(found["differences"]) == 2 * units * (units - 1) / 2
    for d in found["differences"]:
        gap = accuracy[d["a"], d["shots"]] - accuracy[d["b"], d["shots"]]
        assert d["difference"] == pytest.approx(gap, abs=1e-5)


def test_the_page_says_that_convolutions_were_in_bfloat16(results, tmp_path):
    found, out = results
    said = "convolutions of training steps in bfloat16"
    assert said not in (out / "report.html").read_text()
    settings = found["settings"] | {"precision": "bf16"}
    rounded = found | {"settings": settings, "confusions": {}}
    report.write_benchmark(
        tmp_path / "page.html", rounded, [("Ana", [np.zeros((8, 8, 3), np.uint8)])], {}
    )
    assert said in (tmp_path / "page.html").read_text()


def test_report_is_one_self_contained_page(results):
    found, out = results
    page = (out / "report.html").read_text()
    sources = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            sources.extend(v for k, v in attributes if k in ("src", "href") and tag != "use")

    Reader().feed(page)
    assert sources and all(s.startswith(("data:", "#")) for s in sources)
    assert page.count("<svg") == 3
    for row in found["rows"]:
        assert row["learner"] in page


def test_a_finished_benchmark_is_not_overwritten(results, photos, capsys):
    _, out = results
    command = ["benchmark", "--data", str(photos), "--out", str(out), *ALL]
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    before = (out / "results.json").read_text()
    assert main([*command, "--resume"]) == 0
    assert (out / "results.json").read_text() == before
    others = [*command[: -len(RUNNABLE)], "maml"]
    assert main([*others, "--resume"]) == 2
    assert "learners was" in capsys.readouterr().err


def test_interrupted_benchmark_goes_on(photos, tmp_path, monkeypatch):
    """Stopped while the second learner is tested: the first is not trained again."""
    settings = BenchmarkSettings(
        data=str(photos),
        learners=("prototypical", "anil"),
        image_size=16,
        shots=(1,),
        queries=2,
        episodes=20,
        iterations=3,
        embedding="conv4-32",
    )
    whole = benchmark.run(settings, tmp_path / "whole", progress=False)
    real, calls = benchmark.evaluate, []

    def stop_at_fourth(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(benchmark, "evaluate", stop_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(settings, tmp_path / "cut", progress=False)
    monkeypatch.setattr(benchmark, "evaluate", real)
    resumed = benchmark.run(settings, tmp_path / "cut", resume=True, progress=False)
    assert [r["accuracy"] for r in resumed["rows"]] == [r["accuracy"] for r in whole["rows"]]


@pytest.mark.parametrize("seeds", [2, 3, 10, 11, 30])
def test_several_seeds_widen_the_interval_by_students_t(seeds):
    rng = np.random.default_rng(0)
    episodes = rng.normal(0.7, 0.1, (1, 1000))
    half = stats.t.ppf(0.975, 999) * stats.sem(episodes[0])
    assert ci95_over_seeds(episodes) == pytest.approx(half)
    luck = rng.normal(0, 0.05, seeds)
    expected = math.hypot(half, stats.t.ppf(0.975, seeds - 1) * stats.sem(luck))
    assert ci95_over_seeds(episodes + luck[:, None]) == pytest.approx(expected)


def strictly(path: Path):
    """What a JSON reader that knows no NaN reads."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{path}: {name}"))


def test_one_episode_has_no_interval(photos, tmp_path, capsys):
    few = ["--episodes", "1", "--iterations", "1", "--shots", "1", *SMALL[4:]]
    out = tmp_path / "b"
    command = ["benchmark", "--data", str(photos), "--learners", "prototypical", *few]
    assert main([*command, "--out", str(out)]) == 0
    for path in out.rglob("*.json"):
        strictly(path)
    found = strictly(out / "results.json")
    assert [row["ci95"] for row in found["rows"]] == [None] * 3
    assert {d["ci95"] for d in found["differences"]} == {None}
    said = capsys.readouterr().out
    assert "nan" not in said and said.count("±") == 1  # what the table's would mean
    page = (out / "report.html").read_text()
    assert ">nan" not in page and "± nan" not in page

    assert main([*command, "--out", str(out), "--resume"]) == 0  # from what was written
    assert strictly(out / "results.json") == found

    learnt = str(out / "prototypical-seed0" / "checkpoint.pt")
    where = str(tmp_path / "e.json")
    assert (
        main(
            [
                "evaluate",
                learnt,
                "--data",
                str(photos),
                "--episodes",
                "1",
                "--queries",
                "2",
                "--quiet",
                "--out",
                where,
            ]
        )
        == 0
    )
    assert strictly(Path(where))["rows"][0]["ci95"] is None

    matrix = tmp_path / "m"
    assert (
        main(
            [
                "cross-domain",
                "--domains",
                f"a={photos}",
                "--learners",
                "prototypical",
                *few,
                "--out",
                str(matrix),
            ]
        )
        == 0
    )
    assert [row["ci95"] for row in strictly(matrix / "results.json")["rows"]] == [None]
    assert "nan" not in (matrix / "report.html").read_text().split("<h2>Everything")[1]
    assert "nan" not in capsys.readouterr().out


def test_numbers_that_json_has_not_are_null(tmp_path):
    value = {"a": (1.5, math.nan, [math.inf, -math.inf]), "b": np.float64("nan"), "c": "nan"}
    write_json(tmp_path / "new" / "x.json", value)
    assert strictly(tmp_path / "new" / "x.json") == {
        "a": [1.5, None, [None, None]],
        "b": None,
        "c": "nan",
    }


def test_results_are_written_and_printed_by_one_writer():
    for path in Path(benchmark.__file__).parent.rglob("*.py"):
        text = "".join(path.read_text().split())
        assert not re.search(r"(print|write|write_text)\(json\.dump|json\.dump\(", text), path


def test_train_then_evaluate_leaves_out_whom_it_has_seen(photos, tmp_path, capsys):
    out = tmp_path / "trained"
    network = ["--image-size", "16", "--embedding", "conv4-32", "--quiet"]
    assert (
        main(
            [
                "train",
                "--data",
                str(photos),
                "--learner",
                "anil",
                "--iterations",
                "3",
                "--out",
                str(out),
                "--option",
                "inner_steps=2",
                *network,
            ]
        )
        == 0
    )
    state = checkpoint.load(out / "checkpoint.pt")
    assert state["spec"]["options"] == {"inner_steps": 2}
    seen = len(state["seen"]["people"])
    capsys.readouterr()
    written = tmp_path / "e.json"
    command = [
        "evaluate",
        str(out / "checkpoint.pt"),
        "--data",
        str(photos),
        "--ways",
        "3",
        "--episodes",
        "10",
        "--queries",
        "2",
        "--quiet",
        "--out",
        str(written),
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"{30 - seen} people" in said and "3-way 1-shot" in said
    assert json.loads(written.read_text())["rows"][0]["learner"] == "anil"


def test_domains_of_one_source_never_share_people(monkeypatch):
    real = benchmark.data.load
    monkeypatch.setattr(
        benchmark.data, "load", lambda source, **options: real(source, people=20, **options)
    )
    settings = BenchmarkSettings(
        data=None, train_data="synthetic:frontal", test_data="synthetic:sketch", image_size=16
    )
    people = benchmark.load_people(settings, progress=False)
    parts = [{p.people[i] for i in p.person_ids} for p in (people.train, people.val, people.test)]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert len(set.union(*parts)) == 20


def test_cross_set_and_pretrained_row(photos, tmp_path, test_data):
    other = test_data("att_faces.zip")
    command = [
        "benchmark",
        "--train-data",
        str(photos),
        "--test-data",
        str(other),
        "--shots",
        "1",
        "--learners",
        "prototypical",
        "--out",
        str(tmp_path),
        *SMALL[:2],
        *SMALL[4:],
        "--episodes",
        "10",
        "--weights",
        str(test_data("weights/mobilefacenet_casia.ckpt")),
    ]
    assert main(command) == 0
    rows = {r["learner"]: r for r in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert rows["pretrained"]["accuracy"] > 0.95
    assert rows["pretrained"]["norm"] == "frozen"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["benchmark", "--data", "nowhere"], "nowhere"),
        (["benchmark", "--train-data", "synthetic"], "test_data"),
        (["benchmark", "--learners", "mamml"], "no learner 'mamml'"),
        (["benchmark", "--option", "maml.speed=3"], "speed"),
        (["benchmark", "--option", "inner_lr=3"], "learner.name=value"),
        (["benchmark", "--embedding", "conv5"], "no network 'conv5'"),
        (["evaluate", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_too_few_photographs_is_said_before_training(photos, tmp_path, capsys):
    command = ["benchmark", "--data", str(photos), "--out", str(tmp_path / "r"), "--quiet"]
    assert main([*command, "--shots", "1", "50"]) == 2
    assert "photographs" in capsys.readouterr().err


def test_recipe_is_fitted_to_the_photographs_there_are():
    recipe = Recipe(ways=30, shots=5, queries=5)
    assert fit_recipe(recipe, patterns(40, 14)) == (recipe, "")
    few, said = fit_recipe(recipe, patterns(10, 4))
    assert (few.ways, few.shots, few.queries) == (10, 3, 1)
    assert said == (
        "ways 10 instead of 30, shots 3 instead of 5, queries 1 instead of 5 in training: of 10 "
        "people of patterns, 10 have the photographs that such tasks take"
    )
    with pytest.raises(ValueError, match="one photograph"):
        fit_recipe(recipe, patterns(10, 1))


def test_preview_draws_people_and_an_episode(photos, tmp_path):
    for extra in ([], ["--episode", "--shots", "2"]):
        out = tmp_path / "preview.png"
        assert main(["preview", "--data", str(photos), "--out", str(out), *extra]) == 0
        with Image.open(out) as picture:
            assert picture.width > 300 and np.asarray(picture).std() > 10
