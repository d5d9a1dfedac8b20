"""What defines a run is stored, and another one is refused by name where it is resumed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import patterns, tiny, train, with_options
from PIL import Image

from metaface import FaceSet, cli
from metaface._json import read_record
from metaface.checkpoint import CheckpointError
from metaface.experiments import benchmark, cross_domain, sweep
from metaface.learners import MAML, Prototypical
from metaface.options import BenchmarkSettings, CrossDomainSettings
from metaface.training import runs

pytestmark = pytest.mark.usefixtures("few_renders", "few_validations", "no_drawings")
FACES = patterns(16, 8, 28)


def album(folder: Path, people: int = 14, first: int = 0) -> Path:
    """Photographs of :func:`patterns`, one folder a person."""
    for person in range(first, first + people):
        (folder / f"p{person:02}").mkdir(parents=True)
        for i, pixels in enumerate(FACES.store[FACES.person == person]):
            Image.fromarray(pixels).save(folder / f"p{person:02}" / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("METAFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return album(tmp_path / "photos")


def replace_one(photos: Path) -> None:
    """Other photographs under the name of every person, nobody's the same: every name stays."""
    for i, pixels in enumerate(FACES.store[FACES.person == 15]):
        for number, person in enumerate(photos.iterdir()):
            Image.fromarray(pixels ^ np.uint8(number)).save(person / f"{i}.png")


def rename_all(photos: Path) -> None:
    for person in list(photos.iterdir()):
        person.rename(person.with_name(f"renamed {person.name}"))


# --- of one description


def test_people_are_known_by_name_pixels_order_and_domain():
    there = runs.people_of(FACES)
    assert len(there) == 16 and len(set(there.values())) == 16
    assert runs.people_of(patterns(16, 8, 28)) == there
    few = runs.people_of(FACES.of_people([3, 5]))
    assert few == {name: there[name] for name in ("3", "5")}
    one = FACES.take(np.flatnonzero(FACES.person == 3)[::-1])
    assert runs.people_of(one)["3"] != there["3"]


def test_differences_name_what_differs():
    options = {"seed": 0, "spec": {"options": {"lr": 0.1}}, "budget": None}
    there = runs.define(options, learner=MAML(tiny()), faces={"training": FACES})
    assert runs.differences(there, there) == ""
    fewer = FACES.of_people(range(12))
    changed = {**options, "seed": 1, "spec": {"options": {"steps": 2}}}
    now = runs.define(changed, learner=MAML(tiny(), first_order=True), faces={"training": fewer})
    said = runs.differences(there, now)
    for part in (
        "seed was 0, is 1",
        "spec.lr was 0.1, is not given",
        "spec.steps was not given",
        "learner.first_order was False, is True",
        "4 training people are gone (12, 13,",
    ):
        assert part in said
    assert runs.differences({"options": {}}, now) == ""  # of another version, which said less
    json.dumps(there)


class Lists(MAML):
    """A learner of one's own, with a setting that is no number."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        super().__init__(tiny())
        self.scales = scales


class Bent(type(tiny())):
    """A network of the same weights that does something else."""


@pytest.mark.parametrize(
    "there, now, said",
    [
        (Lists((1.0, 2.0)), Lists((9.0, 9.0)), r"learner.scales was \[1.0, 2.0\], is \[9.0, 9.0\]"),
        (MAML(tiny(), head_lr=None), MAML(tiny(), head_lr=0.01), "standardised was False, is True"),
        (MAML(tiny()), MAML(Bent(3, width=8)), "parts.embedding.kind was 'Conv4', is 'Bent'"),
    ],
)
def test_every_setting_of_a_learner_counts(there, now, said):
    kept = runs.define({}, learner=there)
    assert runs.differences(kept, runs.define({}, learner=there)) == ""
    assert re.search(said, runs.differences(kept, runs.define({}, learner=now)))


def test_a_part_of_the_people_that_only_one_run_has_is_named():
    there = runs.define({}, faces={"training": FACES, "--keep al/lfw": FACES})
    now = runs.define({}, faces={"training": FACES})
    assert runs.differences(there, now) == "--keep al/lfw people were given, are not given"
    assert runs.differences(now, there) == "--keep al/lfw people were not given, are given"
    assert runs.differences({"options": {}}, now) == ""  # of another version


def test_each_of_two_people_of_one_name_counts():
    def faces(first: int) -> FaceSet:
        images = np.zeros((8, 8, 8, 3), np.uint8)
        images[0] += first
        who = ["x", "x", "y", "z"]
        return FaceSet.from_arrays(images, np.repeat(np.arange(4), 2), people=who, name="set")

    there, now = (runs.define({}, faces={"training": faces(n)}) for n in (1, 2))
    assert runs.differences(there, now) == "1 training people have other photographs (x)"


# --- of every kind of job


TRAIN = [
    "train",
    "--data",
    "photos",
    "--iterations",
    "3",
    "--out",
    "out",
    "--quiet",
    "--embedding",
    "conv4-32",
    "--shots",
    "1",
    "--queries",
    "1",
    "--ways",
    "3",
    "--meta-batch",
    "1",
]


@pytest.mark.parametrize(
    "before, after, said",
    [
        (["--learner", "fomaml"], ["--learner", "maml"], "first_order was True, is False"),
        (
            ["--learner", "maml"],
            ["--learner", "maml", "--option", "inner_lr=0.02"],
            "inner_lr was 0.01, is 0.02",
        ),
        ([], ["--crop", "0.5"], "spec.crop was None, is 0.5"),
        ([], ["--norm", "frozen"], "norm was 'group', is 'frozen'"),
        ([], ["--embedding", "conv4"], "spec.embedding was 'conv4-32', is 'conv4'"),
        ([], ["--seed", "1"], "seed was 0, is 1"),
        ([], ["--data", "other"], "training people are new"),
    ],
    ids=["learner", "option", "crop", "norm", "embedding", "seed", "data"],
)
def test_train_resumes_no_other_run(photos, capsys, before, after, said):
    album(photos.with_name("other"), 14, first=2)
    assert cli.main(with_options(TRAIN, *before)) == 0
    kept = Path("out/checkpoint.pt").read_bytes()
    assert cli.main(with_options(TRAIN, *after, "--resume")) == 2
    assert said in capsys.readouterr().err
    assert Path("out/checkpoint.pt").read_bytes() == kept
    assert cli.main(with_options(TRAIN, *before, "--resume")) == 0


@pytest.mark.parametrize(
    "change, said", [(replace_one, "have other photographs"), (rename_all, "training people")]
)
def test_train_resumes_with_nobody_elses_photographs(photos, capsys, change, said):
    """Who was trained on counted as unseen after it, and was tested."""
    assert cli.main(TRAIN) == 0
    change(photos)
    assert cli.main([*TRAIN, "--resume"]) == 2
    assert said in capsys.readouterr().err


def test_moved_photographs_are_the_same_run(photos):
    assert cli.main(TRAIN) == 0
    photos.rename(photos.with_name("moved"))
    moved = [word if word != "photos" else "moved" for word in TRAIN]
    assert cli.main([*moved, "--resume"]) == 0


def test_train_in_python_resumes_no_other_people_or_domains(tmp_path):
    options = {"iterations": 2, "ways": 3, "progress": False, "out": tmp_path}
    train(Prototypical(tiny()), FACES.of_people(range(10)), **options)
    with pytest.raises(CheckpointError, match=r"1 training people are new \(12\)"):
        train(Prototypical(tiny()), FACES.of_people([*range(9), 12]), **options, resume=True)
    with pytest.raises(CheckpointError, match="support_domain was None, is 'all'"):
        train(
            Prototypical(tiny()),
            FACES.of_people(range(10)),
            **options,
            resume=True,
            support_domain="all",
        )


SMALL = {
    "shots": (1,),
    "queries": 1,
    "ways": (2,),
    "episodes": 5,
    "embedding": "conv4-32",
    "learners": ("prototypical",),
    "iterations": 2,
}


def test_benchmark_resumes_with_nobody_elses_photographs(photos, tmp_path):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    first = benchmark.run(settings, tmp_path / "out", progress=False)
    again = benchmark.run(settings, tmp_path / "out", resume=True, progress=False)
    assert again["rows"][0]["accuracy"] == first["rows"][0]["accuracy"]
    replace_one(photos)
    with pytest.raises(FileExistsError, match=r"other.*photographs.*have other photographs"):
        benchmark.run(settings, tmp_path / "out", resume=True, progress=False)


def test_a_benchmark_of_before_is_gone_on_with(photos, tmp_path):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    kept = tmp_path / "out" / "settings.json"
    stored = read_record(kept)
    del stored["people"], stored["files"], stored["job"]  # as MetaFace 0.1 wrote it
    kept.write_text(json.dumps(stored))
    benchmark.run(settings, tmp_path / "out", resume=True, progress=False)
    assert "people" in json.loads(kept.read_text())


def test_the_weights_a_job_starts_from_are_a_part_of_it(photos, tmp_path):
    for seed in ("0", "1"):
        assert cli.main(with_options(TRAIN, "--out", f"out-{seed}", "--seed", seed)) == 0
    start = tmp_path / "start.pt"
    shutil.copy("out-0/checkpoint.pt", start)
    settings = BenchmarkSettings(data="synthetic", start=str(start), **{**SMALL, "learners": ()})
    benchmark.run(settings, tmp_path / "job", progress=False)
    shutil.copy("out-1/checkpoint.pt", start)  # the same name, other weights
    with pytest.raises(FileExistsError, match=r"files.start was '\w+', is '\w+'"):
        benchmark.run(settings, tmp_path / "job", resume=True, progress=False)


def test_a_folder_of_another_kind_of_job_is_refused(photos, tmp_path):
    matrix = CrossDomainSettings(
        domains={"a": str(photos), "b": "synthetic"}, protocols=("pairs",), **SMALL
    )
    cross_domain.run(matrix, tmp_path / "out", progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="holds a domain matrix, not a benchmark"):
            benchmark.run(settings, tmp_path / "out", resume=resume, progress=False)
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before
    kept = tmp_path / "out" / "settings.json"
    stored = read_record(kept)
    del stored["job"]  # as MetaFace 0.1 wrote it
    kept.write_text(json.dumps(stored))
    with pytest.raises(FileExistsError, match="holds a job of another kind, not a benchmark"):
        benchmark.run(settings, tmp_path / "out", resume=True, progress=False)


def test_results_that_do_not_say_of_whom_are_not_gone_on_with(photos, tmp_path):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    (tmp_path / "out" / "settings.json").unlink()
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="out holds results, and no settings.json"):
            benchmark.run(settings, tmp_path / "out", resume=resume, progress=False)


@pytest.mark.parametrize("name", ["settings.json", "prototypical-seed0/result.json"])
@pytest.mark.parametrize("content", ["", '{"a": ', "[]"])
def test_a_damaged_record_is_named(photos, tmp_path, name, content):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(ValueError, match=rf"out/{name} (is damaged|holds a list)"):
        benchmark.run(settings, tmp_path / "out", resume=True, progress=False)


def test_a_domain_matrix_resumes_with_nobody_elses_photographs(photos, tmp_path):
    settings = CrossDomainSettings(
        domains={"a": str(photos), "b": "synthetic"}, protocols=("pairs",), **SMALL
    )
    cross_domain.run(settings, tmp_path / "out", progress=False)
    rename_all(photos)
    with pytest.raises(FileExistsError, match="a train people are new"):
        cross_domain.run(settings, tmp_path / "out", resume=True, progress=False)


def test_a_sweep_resumes_with_nobody_elses_photographs(photos, tmp_path):
    pytest.importorskip("optuna")
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    given = {"trials": 1, "parameters": ["lr"], "progress": False}
    sweep.run(settings, tmp_path / "out", **given)
    replace_one(photos)
    with pytest.raises(FileExistsError, match="have other photographs"):
        sweep.run(settings, tmp_path / "out", **given, resume=True)


def test_multitask_resumes_no_other_people(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [
        "multitask",
        "--iterations",
        "1",
        "--photos",
        "2",
        "--heads",
        "pose",
        "--out",
        "out",
        "--quiet",
        "--batch",
        "2",
        "--size",
        "64",
    ]
    assert cli.main([*command, "--people", "10"]) == 0
    assert cli.main([*command, "--people", "12", "--resume"]) == 2
    assert "data.people was 10, is 12" in capsys.readouterr().err
