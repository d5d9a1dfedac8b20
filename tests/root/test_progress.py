"""Progress: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import ast
import io
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from metaface import _progress
from metaface._progress import track

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(steps: int = 40, **options) -> None:
    """A job that tells its progress in both ways there are."""
    assert list(track(range(steps), desc="reading", unit="photo", **options)) == list(range(steps))
    bar = track(
        total=100,
        desc="training",
        unit="%",
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        **options,
    )
    with bar:
        for step in range(steps):
            bar.set_postfix_str(f"loss {step}.5")
            bar.update(round(100 * (step + 1) / steps) - bar.n)


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    work()
    assert "\rreading: 100%|" in shown.getvalue() and "40/40" in shown.getvalue()
    assert "training:" in shown.getvalue() and "|#" in shown.getvalue().replace("█", "#")


def test_a_log_gets_nothing_of_what_is_short(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    work()
    assert shown.getvalue() == ""


def test_a_log_gets_a_line_now_and_then_of_what_is_long(monkeypatch):
    clock = iter(range(0, 10**6, 4))  # every look at the clock finds four seconds gone
    monkeypatch.setattr(_progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    work(steps=40)
    lines = shown.getvalue().split("\n")
    assert lines.pop() == "" and "\r" not in shown.getvalue() and "|" not in shown.getvalue()
    for what in ("reading: ", "training: "):
        told = [line for line in lines if line.startswith(what)]
        times = [re.search(r" after (?:(\d):)?(\d\d):(\d\d), ", line).groups("0") for line in told]
        seconds = [3600 * int(h) + 60 * int(m) + int(s) for h, m, s in times]
        assert len(told) > 2 and min(b - a for a, b in pairwise(seconds)) >= _progress.EVERY
        assert "%" in told[1] and " left" in told[1]
    assert any(", loss " in line for line in lines)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("stderr", [Terminal(), io.StringIO(), None])
def test_quiet_is_quiet(stderr, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    work(show=False)
    assert stderr is None or stderr.getvalue() == ""
    if stderr is None:  # as of a program without a console
        work()


@pytest.mark.parametrize("folder", ["metaface", "benchmarks", "tools"])
def test_progress_is_shown_in_one_way_alone(folder):
    own = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "_progress.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tqdm", "trange")
    }
    assert own == set()
