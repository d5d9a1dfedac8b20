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
    assert {row["peer_name"], *row["others"]} >= {"learn2learn", "easyfsl"}
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


SAME = """
import json, sys, warnings
warnings.simplefilter("ignore")
import peers, torch
kind, side = sys.argv[1:]
case = peers.Case(kind, size=16, steps=2, tasks=2, queries=2)
both = [peers.outcome(case, s, torch.device("cpu"), torch.float64) for s in ("metaface", side)]
print(json.dumps([peers.distance(*both), len(both[0]), float(both[0].norm())]))
"""


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("maml", "learn2learn"),
        ("maml", "torchopt"),
        ("maml", "torchopt, vmap"),
        pytest.param("maml", "jax", marks=pytest.mark.slow),  # XLA compiles for a minute
        ("fomaml", "learn2learn"),
        ("fomaml", "torchopt, vmap"),
        pytest.param("fomaml", "jax", marks=pytest.mark.slow),
        ("prototypical-memory", "jax"),
    ],
)
def test_a_peer_computes_metafaces_gradient(kind, side):
    # from the same weights and tasks, in float64; in a process of its own, as what the peers warn
    # of on import is no error of ours
    needs(side.split(",")[0])
    if side == "jax":
        needs("optax")
    done = subprocess.run(
        [sys.executable, "-c", SAME, kind, side], capture_output=True, text=True, cwd=BENCHMARKS
    )
    assert done.returncode == 0, done.stderr
    error, length, norm = json.loads(done.stdout.splitlines()[-1])
    assert error < 1e-9 and length > 100_000 and norm > 0


def test_jax_takes_part_where_compiling_is_bearable(peers):
    cpu = torch.device("cpu")
    assert peers.takes_part("jax", peers.Case("maml"), cpu)
    assert not peers.takes_part("jax", peers.Case("maml", steps=20), cpu)
    assert not peers.takes_part("jax", peers.Case("maml", size=84, channels=3), cpu)
    assert not peers.takes_part("jax", peers.Case("maml"), torch.device("cuda"))
    assert peers.takes_part("torchopt", peers.Case("maml", steps=20), cpu)


def test_operations_are_counted_on_a_side_that_torch_can_count(peers, monkeypatch):
    def side(case, device):
        a = torch.ones(4, 4)
        return peers.Work(lambda: len(a @ a))

    def uncountable(case, device):
        raise AssertionError

    sides = {"metaface": uncountable, "learn2learn": side}
    sides |= {"torchopt, vmap": uncountable, "jax": uncountable}
    monkeypatch.setitem(peers.SIDES, "maml", sides)
    case, cpu = peers.Case("maml"), torch.device("cpu")
    assert peers.operations(case, list(sides), cpu) == 2 * 4**3
    assert peers.operations(case, ["jax"], cpu) is None


@pytest.mark.parametrize(
    ("absent", "remedy"),
    [
        ("learn2learn", "tools/build_learn2learn.py"),
        ("easyfsl", "metaface[peers]"),
        ("torchopt", "torchopt itself"),
        ("jax", "jax and optax"),
    ],
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
    assert row["ratios"] == pytest.approx({"learn2learn": 3.0, "easyfsl": 6.0})
    assert row["peaks_mb"] == {"metaface": 7.0, "learn2learn": None, "easyfsl": 9.0}
    alone = peers.row(peers.Case("maml"), torch.device("cpu"), {"metaface": [1.0]}, {}, None, 1.0)
    assert alone["ratio"] is None and alone["peer_name"] is None
    json.dumps(row, allow_nan=False)
    peers.table([row, alone])
    lines = peers.every_peer([row | {"compile_s": {"easyfsl": 41.6}}, alone]).splitlines()
    assert [line.split()[-5:] for line in lines[1:]] == [
        ["easyfsl", "5", "6.00", "9", "42"],
        ["learn2learn", "10", "3.00", "-", "-"],
    ]
    older = {key: row[key] for key in ("case", "peer_name", "peer", "others")}
    peers.every_peer([older])


def test_the_grid_holds_every_setting(peers):
    cases = peers.full_cases()
    assert len({peers.name(c) for c in cases}) == len(cases)
    assert {(c.size, c.channels) for c in cases if c.kind == "maml"} == {(28, 1), (84, 3)}
    for kind in ("maml", "fomaml"):
        mine = [c for c in cases if c.kind == kind]
        assert {c.ways for c in mine} == {5, 20} and {c.steps for c in mine} == {1, 5, 20}
        assert {c.tasks for c in mine} == {4, 16, 64}
