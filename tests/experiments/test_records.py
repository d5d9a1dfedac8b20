"""Records that are read again: changed ones are refused; a job goes on elsewhere and slower."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_runs import SMALL, album

from metaface import cli
from metaface._json import read_record, write_json, write_record
from metaface.experiments import benchmark, cross_domain, sweep
from metaface.options import BenchmarkSettings, CrossDomainSettings

pytestmark = pytest.mark.usefixtures("few_renders", "few_validations", "no_drawings")


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("METAFACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return album(tmp_path / "photos")


def change_a_digit(path: Path, after: str) -> None:
    """The first digit after the point (or alone) of the first number behind ``after``."""
    text = path.read_text()
    found = re.compile(r"[0-9]+\.([0-9])|([0-9])(?=[,}\n])").search(text, text.index(after))
    assert found
    at = found.end() - 1
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
        json.loads(line)


# --- checksums


RECORD = {"accuracy": 0.7312, "count": 3, "name": "Žofie", "of": [1.0, None, {"a": True}]}


def test_a_record_is_read_as_it_was_written_and_people_can_read_it(tmp_path):
    write_record(tmp_path / "r.json", RECORD)
    assert read_record(tmp_path / "r.json") == RECORD
    text = (tmp_path / "r.json").read_text()
    assert '\n "accuracy": 0.7312,\n' in text
    (tmp_path / "r.json").write_text(json.dumps(json.loads(text), sort_keys=True))  # laid out anew
    assert read_record(tmp_path / "r.json") == RECORD


@pytest.mark.parametrize(
    "old, new",
    [
        ("0.7312", "0.7313"),
        ("3", "4"),
        ("1.0", "1"),
        ("null", "0"),
        ("true", "false"),
        ('"name"', '"nome"'),
        ('"count": 3,', ""),
    ],
)
def test_a_changed_record_is_refused_by_name(tmp_path, old, new):
    path = tmp_path / "r.json"
    write_record(path, RECORD)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"r\.json is damaged or was changed: .*: remove the fold"):
        read_record(path)


def test_a_record_of_before_is_read(tmp_path):
    write_json(tmp_path / "r.json", RECORD)
    assert read_record(tmp_path / "r.json") == RECORD


@pytest.mark.parametrize(
    "name, after",
    [
        ("prototypical-seed0/result.json", '"accuracies"'),
        ("pixels/result.json", '"f1"'),
        ("settings.json", '"episodes"'),
    ],
)
def test_a_benchmark_takes_no_changed_digit(photos, tmp_path, name, after):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    change_a_digit(tmp_path / "out" / name, after)
    with pytest.raises(ValueError, match=rf"out/{name} is damaged or was changed"):
        benchmark.run(settings, tmp_path / "out", resume=True, progress=False)


def test_a_domain_matrix_takes_no_changed_digit(photos, tmp_path):
    settings = CrossDomainSettings(domains={"a": str(photos)}, **SMALL)
    cross_domain.run(settings, tmp_path / "out", progress=False)
    change_a_digit(tmp_path / "out/a+prototypical-seed0/result.json", '"accuracies"')
    with pytest.raises(ValueError, match="result.json is damaged or was changed"):
        cross_domain.run(settings, tmp_path / "out", resume=True, progress=False)


@pytest.mark.parametrize("what", ['"intermediate_value"', '"values":[', '"param_value_internal"'])
def test_a_sweep_takes_no_changed_digit(photos, tmp_path, what):
    pytest.importorskip("optuna")
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    given = {"parameters": ["lr"], "progress": False}
    sweep.run(settings, tmp_path / "out", trials=2, **given)
    sweep.run(settings, tmp_path / "out", trials=3, **given, resume=True)  # as it is
    change_a_digit(tmp_path / "out/journal.log", what)
    with pytest.raises(ValueError, match=r"trial \d of prototypical does not fit its checksum"):
        sweep.run(settings, tmp_path / "out", trials=4, **given, resume=True)


# --- what may change on resuming


def test_a_benchmark_goes_on_in_smaller_chunks_elsewhere(photos, tmp_path, caplog):
    settings = BenchmarkSettings(
        data=str(photos), **{**SMALL, "learners": ("prototypical", "fomaml")}
    )
    first = benchmark.run(settings, tmp_path / "out", progress=False)
    assert not any("gone on" in note for note in first["notes"])
    (tmp_path / "out/fomaml-seed0/result.json").unlink()  # as if there had been no memory
    photos.rename(tmp_path / "moved")
    now = replace(settings, data=str(tmp_path / "moved"), task_chunk=1, device="cpu")
    again = benchmark.run(now, tmp_path / "out", resume=True, progress=False)
    said = [
        "gone on with where task_chunk was None, is 1: figures may differ in rounding",
        f"gone on with where data was '{photos}', is '{tmp_path / 'moved'}': the content is the",
    ]
    new = [note for note in again["notes"] if "gone on" in note]
    for part, note in zip(said, new, strict=True):
        assert note.startswith(part) and part in caplog.text
    for one, two in zip(first["rows"], again["rows"], strict=True):
        assert one["learner"] == two["learner"]
        assert one["accuracy"] == pytest.approx(two["accuracy"], abs=0.02)
    caplog.clear()
    last = benchmark.run(now, tmp_path / "out", resume=True, progress=False)
    assert last["notes"] == again["notes"] and "gone on" not in caplog.text  # said once


def test_another_device_is_said_not_refused(photos, tmp_path, monkeypatch, caplog):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    kept = tmp_path / "out/settings.json"
    stored = read_record(kept)
    assert stored["device"] == "cpu"  # the one that was used, though none was asked for
    write_record(kept, stored | {"device": "cuda"})
    again = benchmark.run(settings, tmp_path / "out", resume=True, progress=False)
    (note,) = (note for note in again["notes"] if "gone on" in note)
    assert "device was 'cuda', is 'cpu'" in note and note in caplog.text


def test_out_of_memory_advice_can_be_followed(photos, capsys):
    command = ["benchmark", "--data", "photos", "--iterations", "2", "--queries", "1", "--quiet"]
    command += ["--shots", "1", "--ways", "2", "--episodes", "5", "--learners", "prototypical"]
    assert cli.main(command) == 0
    assert cli.main([*command, "--resume", "--task-chunk", "1", "--device", "cpu"]) == 0
    assert "note: gone on with where task_chunk was None, is 1" in capsys.readouterr().out


def test_a_domain_matrix_goes_on_where_its_photographs_are_now(photos, tmp_path):
    settings = CrossDomainSettings(domains={"a": str(photos), "b": "synthetic"}, **SMALL)
    first = cross_domain.run(settings, tmp_path / "out", progress=False)
    photos.rename(tmp_path / "moved")
    now = replace(settings, domains={"a": str(tmp_path / "moved"), "b": "synthetic"})
    again = cross_domain.run(now, tmp_path / "out", resume=True, progress=False)
    assert again["rows"] == first["rows"]
    assert any("where domains.a was" in note for note in again["notes"])
    with pytest.raises(FileExistsError, match="c train people were not given"):
        more = replace(now, domains={**now.domains, "c": "synthetic:sketch"})
        cross_domain.run(more, tmp_path / "out", resume=True, progress=False)


def test_weights_that_only_moved_are_the_same(photos, tmp_path):
    train = [
        "train",
        "--data",
        "photos",
        "--iterations",
        "1",
        "--quiet",
        "--embedding",
        "conv4-32",
        "--shots",
        "1",
        "--queries",
        "1",
        "--ways",
        "3",
        "--out",
        "t",
    ]
    assert cli.main(train) == 0
    start = tmp_path / "start.pt"
    (tmp_path / "t/checkpoint.pt").rename(start)
    settings = BenchmarkSettings(data="synthetic", start=str(start), **{**SMALL, "learners": ()})
    first = benchmark.run(settings, tmp_path / "out", progress=False)
    moved = start.rename(tmp_path / "moved.pt")
    now = replace(settings, start=str(moved))
    again = benchmark.run(now, tmp_path / "out", resume=True, progress=False)
    assert again["rows"] == first["rows"] and "where start was" in again["notes"][0]


def test_a_job_of_before_that_kept_no_people_is_not_gone_on_with_elsewhere(photos, tmp_path):
    settings = BenchmarkSettings(data=str(photos), **SMALL)
    benchmark.run(settings, tmp_path / "out", progress=False)
    kept = tmp_path / "out/settings.json"
    stored = read_record(kept)
    del stored["people"], stored["files"], stored["job"]  # as MetaFace 0.1 wrote it
    write_json(kept, stored | {"device": None})
    photos.rename(tmp_path / "moved")
    with pytest.raises(FileExistsError, match="data was"):
        now = replace(settings, data=str(tmp_path / "moved"))
        benchmark.run(now, tmp_path / "out", resume=True, progress=False)
