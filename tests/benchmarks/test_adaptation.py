"""The script that measures what adapting is worth, on patterns and a small network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import patterns, tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import adaptation


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    faces = patterns(24, 12)
    monkeypatch.setattr(adaptation, "pretrained", lambda o: tiny())
    monkeypatch.setattr(adaptation, "load", lambda source, cache, o: faces)

    def call(*options: str) -> str:
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "adaptation.py",
                "squares=x",
                "--out",
                str(tmp_path),
                "--seeds",
                "0",
                "1",
                "--ways",
                "4",
                "--tasks",
                "5",
                "--val-tasks",
                "4",
                "--iterations",
                "3",
                "--steps",
                "2",
                *options,
            ],
        )
        adaptation.main()
        return capsys.readouterr().out

    return call


def test_every_learner_and_the_safe_choice(run, tmp_path):
    said = run()
    found = json.loads((tmp_path / "results.json").read_text())["domains"]["squares"]
    assert {row["shots"] for row in found} == {1, 2, 5, 10}  # nobody has 21 photographs
    assert [r["learner"] for r in found if r["shots"] == 1] == [*adaptation.LEARNERS, "safe"]
    assert said.count("| safe |") == 4 and "safe against finetune" in said
    units = {
        (seed, name): json.loads((tmp_path / "squares" / str(seed) / f"{name}.json").read_text())
        for seed in range(2)
        for name in (n.replace(" ", "-") for n in adaptation.LEARNERS)
    }
    for row in found:
        low, value, high = row["accuracy"][1], row["accuracy"][0], row["accuracy"][2]
        assert 0 <= low <= value <= high <= 1
        assert 0 <= row["auroc"][0] <= 1 and row["dir"] is None  # too few strangers for 1%
        if row["learner"] != "safe":
            name = row["learner"].replace(" ", "-")
            cells = [units[seed, name]["shots"][str(row["shots"])] for seed in range(2)]
            total = sum(sum(cell["trials"]) for cell in cells)
            assert value == pytest.approx(sum(sum(cell["right"]) for cell in cells) / total)
            continue
        for seed, picked in enumerate(row["settings"]):
            values = {}
            for n in adaptation.LEARNERS:
                shots = units[seed, n.replace(" ", "-")]["shots"]
                mean = sum(s["validation"] for s in shots.values()) / len(shots)
                values[n] = shots[str(row["shots"])]["validation"], mean
            most = max(v for v, _ in values.values())
            tied = {n: mean for n, (v, mean) in values.items() if v == most}
            assert tied[picked] == pytest.approx(max(tied.values()))
    same = [r for r in found if r["learner"] == adaptation.FIRST]
    assert all(r[f"less {adaptation.FIRST}"] == [0, 0, 0] for r in same)


def test_it_goes_on_where_it_stopped(run, tmp_path):
    few = ("--learners", "not adapted", "linear-probe", "--shots", "1")
    first = run(*few)
    units = sorted(tmp_path.glob("squares/*/*.json"))
    assert len(units) == 4
    written = [path.stat().st_mtime_ns for path in units]
    units[0].unlink()
    assert run(*few) == first
    assert [path.stat().st_mtime_ns for path in units][1:] == written[1:]
    with pytest.raises(SystemExit, match="another --out"):
        run(*few, "--steps", "3")


def test_nobody_is_in_two_parts(monkeypatch):
    monkeypatch.setattr(adaptation, "pretrained", lambda o: tiny())
    domain = adaptation.Domain("squares", patterns(24, 4), argparse.Namespace())
    for seed in range(3):
        parts = domain.split(seed)
        people = np.concatenate([part.person_ids for part in parts])
        assert len(people) == len(set(people)) == 24
        tasks = adaptation.Tasks.draw(parts[2], parts[3], 4, 1, 3, seed)
        asked = set(tasks.support.flatten().tolist()) | set(tasks.query.flatten().tolist())
        assert asked <= set(parts[2].rows.tolist())
        assert set(tasks.strangers.flatten().tolist()) <= set(parts[3].rows.tolist())
        assert not any(
            set(s.tolist()) & set(q.tolist())
            for s, q in zip(tasks.support, tasks.query, strict=True)
        )
