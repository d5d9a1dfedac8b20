"""benchmarks/peers.py still runs. What it measures is no test's business."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    return peers


@functools.cache
def is_there(peer: str) -> bool:
    """Asked of another process: what the peers warn of on import is no error of ours."""
    asked = subprocess.run([sys.executable, "-c", f"import {peer}"], capture_output=True, text=True)
    return not asked.returncode


def needs(peer: str) -> None:
    if not is_there(peer):
        pytest.skip(f"{peer} cannot be imported: see benchmarks/peers.py for how to get it")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
    )


def test_rows_against_both_peers(tmp_path):
    needs("learn2learn")
    needs("easyfsl")
    file = tmp_path / "peers.json"
    done = run("--only", "tasks in memory", "--json", str(file))
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    (row,) = written["rows"]
    assert {row["peer_name"], *row["others"]} == {"learn2learn", "easyfsl"}
    assert row["ratio"] == pytest.approx(row["metaface"] / row["peer"])
    assert row["mflop_per_task"] > 0 and written["machine"]["matmul_gflops"] > 0
    assert row["case"] in done.stdout and file.with_suffix(".png").is_file()

    kept = file.read_bytes()
    done = run("--only", "tasks in memory", "--json", str(file))
    assert done.returncode == 0 and "--again" in done.stdout  # goes on where it was
    assert json.loads(file.read_text())["rows"] == json.loads(kept)["rows"]


@pytest.mark.slow
def test_every_row(tmp_path):
    needs("learn2learn")
    needs("easyfsl")
    file = tmp_path / "peers.json"
    done = run("--json", str(file))
    assert done.returncode == 0, done.stderr
    assert {r["kind"] for r in json.loads(file.read_text())["rows"]} == {
        "maml",
        "fomaml",
        "sweep",
        "reptile",
        "prototypical",
        "prototypical-memory",
        "sampling",
        "evaluation",
    }


@pytest.mark.parametrize(
    ("absent", "remedy"),
    [("learn2learn", "tools/build_learn2learn.py"), ("easyfsl", "metaface[peers]")],
)
def test_a_missing_peer_is_named_with_its_remedy(peers, monkeypatch, absent, remedy):
    monkeypatch.setitem(sys.modules, absent, None)
    reason = peers.missing(absent)
    assert reason.startswith(absent) and remedy in reason


def test_without_easyfsl_the_rows_against_learn2learn_run(tmp_path):
    needs("learn2learn")
    file = tmp_path / "peers.json"
    without = (
        "import runpy, sys; sys.modules['easyfsl'] = None; sys.argv = sys.argv[1:]; "
        "sys.path.insert(0, sys.argv.pop(0)); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            without,
            str(BENCHMARKS),
            str(BENCHMARKS / "peers.py"),
            "--quick",
            "--only",
            "sampling",
            "--json",
            str(file),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "metaface[peers]" in done.stderr
    (row,) = json.loads(file.read_text())["rows"]
    assert row["peer_name"].startswith("learn2learn") and "easyfsl" not in str(row["others"])


def test_a_case_without_any_peer_is_left_out(peers):
    case = peers.Case("evaluation", size=8)
    assert peers.measure(case, torch.device("cpu"), ["easyfsl"], True, str) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "passes"),
    [
        ((1.0, 1.0), (1.0, 1.0), True),
        ((1.0001, 1.0), (1.0, 1.0), False),  # float64
        ((1.0, 1.1), (1.0, 1.0), False),  # float32
        ((1.0, 1.2), (1.0, 1.05), True),  # both lose as much to rounding
    ],
)
def test_sides_that_compute_something_else_are_not_measured(
    peers, monkeypatch, ours, theirs, passes
):
    gradients = {"metaface": ours, "learn2learn": theirs}

    def outcome(case, side, device, precision):
        return torch.tensor([gradients[side][precision == torch.float32]], dtype=torch.float64)

    monkeypatch.setattr(peers, "outcome", outcome)
    arguments = peers.Case("maml"), list(gradients), torch.device("cpu")
    if passes:
        peers.check(*arguments)
    else:
        with pytest.raises(SystemExit, match="do not compute the same.*Nothing is measured"):
            peers.check(*arguments)


def test_peak_memory_is_what_the_steps_add(peers, monkeypatch):
    def side(case, device):
        held = [torch.zeros(20_000_000)]  # 80 MB of "data", before the steps

        def step():
            held[0].sum()
            torch.zeros(50_000_000).sum()  # 200 MB
            return 1

        return peers.Work(step)

    monkeypatch.setitem(peers.SIDES, "maml", {"metaface": side})
    peak = peers.peak_memory(peers.Case("maml"), "metaface", torch.device("cpu"))
    assert 150 < peak < 260


def test_the_row_takes_the_fastest_peer(peers):
    rates = {"metaface": [30.0, 33.0, 27.0], "learn2learn": [10.0, 11.0, 9.0], "easyfsl": [5.0] * 3}
    peaks = {"metaface": 7.0, "learn2learn": float("inf"), "easyfsl": 9.0}
    row = peers.row(peers.Case("maml"), torch.device("cpu"), rates, peaks, 1e9, 100.0)
    assert (row["peer_name"], row["peer"], row["ratio"]) == ("learn2learn", 10.0, 3.0)
    assert row["others"] == {"easyfsl": 5.0} and row["target"] == 3.0
    assert row["metaface_of_matmul"] == pytest.approx(0.3)
    assert row["out_of_memory"] == ["learn2learn"] and row["peer_peak_mb"] is None
    alone = peers.row(peers.Case("maml"), torch.device("cpu"), {"metaface": [1.0]}, {}, None, 1.0)
    assert alone["ratio"] is None and alone["peer_name"] is None
    json.dumps(row, allow_nan=False)
    peers.table([row, alone])


def test_the_grid_holds_every_setting(peers):
    cases = peers.full_cases()
    assert len({peers.name(c) for c in cases}) == len(cases)
    assert {(c.size, c.channels) for c in cases if c.kind == "maml"} == {(28, 1), (84, 3)}
    for kind in ("maml", "fomaml"):
        mine = [c for c in cases if c.kind == kind]
        assert {c.ways for c in mine} == {5, 20} and {c.steps for c in mine} == {1, 5, 20}
        assert {c.tasks for c in mine} == {4, 16, 64}
