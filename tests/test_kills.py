"""Whole commands killed with -9 at random moments, and gone on with: nothing is different for it.

Training alone is in test_training.py, enrolment in test_recognizer.py.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metaface.nets.weights import read_weights

KILLS = 15
COMMANDS = {
    "benchmark": ["--learners", "anil", "reptile", "--iterations", "40", "--episodes", "100",
                  "--shots", "1", "--embedding", "conv4-32", "--quiet"],
    "multitask": ["--people", "24", "--photos", "6", "--iterations", "40", "--heads", "pose",
                  "recognition", "--size", "64", "--batch", "4", "--quiet"],
}  # fmt: skip


def start(command: str, out: Path, *more: str) -> subprocess.Popen:
    # a checkpoint after every step, or there is nothing to be killed in the middle of
    code = (
        "import sys, functools; from metaface import cli, benchmark, training; "
        "from metaface.multitask import commands, training as shared; "
        "benchmark.train = functools.partial(training.train, checkpoint_seconds=0.0); "
        "commands.fit = functools.partial(shared.fit, checkpoint_seconds=0.0); "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-W", "ignore", "-c", code, command, *COMMANDS[command]]
    with open(out.parent / "log.txt", "a") as log:
        return subprocess.Popen(
            [*words, "--out", str(out), *more], stdout=log, stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "METAFACE_CACHE": str(out.parent / "cache")},
        )  # fmt: skip


def result(command: str, out: Path) -> Any:
    """What must not differ: figures, but for times and memory."""
    if command == "multitask":
        return {n: t.tolist() for n, t in read_weights(out / "model.safetensors")[0].items()}
    rows = json.loads((out / "results.json").read_text())["rows"]
    return [{n: row[n] for n in ("learner", "accuracy", "ci95", "train_images")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_killed_at_random_moments_ends_as_it_would_have(command, tmp_path):
    moments = random.Random(0)
    began = time.monotonic()
    assert start(command, tmp_path / "whole").wait() == 0, (tmp_path / "log.txt").read_text()
    length = time.monotonic() - began
    kills = runs = 0
    while kills < KILLS:  # a run that gets through is held against the whole one, and another begun
        runs += 1
        status = None
        while status is None:
            process = start(command, tmp_path / f"killed{runs}", "--resume")
            try:
                status = process.wait(moments.uniform(0.3, 1.0) * length)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        assert status == 0, (tmp_path / "log.txt").read_text()
        assert result(command, tmp_path / f"killed{runs}") == result(command, tmp_path / "whole")
