"""Runs commands and Python examples of the documents as they are written, on small budgets.

Started without arguments it is a server: a line of JSON in (see :func:`child`), a list of exit
codes out. Every job runs in a fork of a process that has imported MetaFace already, because the
import takes seconds. Started with arguments it runs that one command: so do torchrun's processes.

Budgets are cut in here, after a command line was read, and nowhere else: ``STEPS`` of training,
``MOST`` of everything that an option counts, and the few defaults of ``cut_budgets``.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import importlib
import inspect
import json
import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from metaface import cli
from metaface.cli import app
from metaface.data._synthetic import load_synthetic
from metaface.evaluation import evaluate
from metaface.evaluation.degradation import RenderedFaces, dial_robustness
from metaface.experiments import sweep
from metaface.faces.choose import crop_faces
from metaface.faces.detect import YuNet
from metaface.faces.detections import Detections
from metaface.recognition import models
from metaface.recognition.embedders.shared import JointFace
from metaface.training import Budget

STEPS = 2  # of any training, whatever its budget
MOST: dict[str, float] = {
    "people": 40,
    "photos": 8,
    "val_people": 10,
    "test_people": 10,
    "episodes": 10,
    "val_episodes": 10,
    "trials": 2,
    "search": 1,
    "seeds": 2,
    "splits": 1,
    "rounds": 1,
    "drawn": 50,
    "enrolled": 5,
    "strangers": 15,
    "stranger_count": 15,
    "cohort": 25,
    "galleries": 2,
    "tasks": 2,
    "val_tasks": 2,
    "cells": 3,
    "variants": 2,
    "scenes": 10,
    "limit": 20,
    "faces": 3000,
    "batch": 4,
}
SECONDS = 1200  # of one command, before it is called hung


def least_of(value: Any, most: Any) -> Any:
    """``value``, or each of a list of values, where it is a number: at most ``most``; of names in
    a tuple the first so many."""
    if isinstance(value, tuple):
        return value[:most]
    if isinstance(value, list):
        return [least_of(one, most) for one in value]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(value, most) if number else value


def cut(function: Callable[..., Any], **most: int) -> None:
    """Have ``function`` take at most so much, wherever MetaFace has imported it to."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def less(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        for name, value in most.items():
            given.arguments[name] = least_of(given.arguments[name], value)
        return function(*given.args, **given.kwargs)

    for module in [m for n, m in sys.modules.items() if n.split(".")[0] == "metaface"]:
        for name, value in list(vars(module).items()):
            if value is function:
                setattr(module, name, less)


def cut_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options``, those of ``MOST`` cut; tuples only where they hold names."""

    def is_cut(name: str, value: Any) -> bool:
        names = not isinstance(value, tuple) or all(isinstance(one, str) for one in value)
        return name in MOST and names

    return {n: least_of(v, MOST[n]) if is_cut(n, v) else v for n, v in options.items()}


def cut_budgets(steps: int, learners: int | None = None) -> None:
    """See the module."""
    spent = Budget.spent

    def spent_sooner(self: Budget, iterations: int, images: int, seconds: float) -> float:
        return min(1.0, max(iterations / steps, spent(self, iterations, images, seconds)))

    Budget.spent = spent_sooner  # type: ignore[method-assign]
    parse = argparse.ArgumentParser.parse_args

    def parse_less(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        options = parse(self, *args, **kwargs)
        vars(options).update(cut_options(vars(options)))
        if isinstance(getattr(options, "seeds", None), list):
            options.seeds = options.seeds[:2]
        if hasattr(options, "quick"):  # of benchmarks/peers.py
            options.quick = True
        if str(getattr(options, "rdzv_endpoint", "")).startswith("first-machine:"):
            port = os.environ["DOCUMENTS_PORT"]  # the machines of docs/distributed.md are this one
            options.rdzv_endpoint, options.local_addr = f"127.0.0.1:{port}", "127.0.0.1"
        return options

    argparse.ArgumentParser.parse_args = parse_less  # type: ignore[method-assign, assignment]
    read = app.read_command

    def read_less(arguments: Sequence[str]) -> tuple[Callable[..., Any], inspect.BoundArguments]:
        command, bound = read(arguments)
        for name, value in cut_options(bound.arguments).items():
            if is_dataclass(value) and not isinstance(value, type):
                less = cut_options(vars(value))
                if learners is not None and isinstance(less.get("learners"), tuple):
                    less["learners"] = less["learners"][:learners]
                value = replace(value, **less)
            bound.arguments[name] = value
        return command, bound

    app.read_command = read_less
    cut(evaluate, episodes=10 if steps == STEPS else 25)
    cut(sweep.run, trials=2)
    cut(dial_robustness, nuisances=3)
    cut(RenderedFaces, people=22, photos=6)
    cut(load_synthetic, people=60, photos=12)
    if address := os.environ.get("DOCUMENTS_SERVER"):
        for name, entry in models.MODELS.items():
            models.MODELS[name] = replace(entry, url=f"{address}/{entry.files[0]}")
    JointFace._faces = faces_as_yunet_has_them  # type: ignore[method-assign]


def faces_as_yunet_has_them(self: JointFace, picture: Any) -> Detections:
    """A shared network of two steps finds no face: it describes those that YuNet finds."""
    detector = YuNet(models.find("yunet"))
    found = detector(picture)
    embeddings = self._crops(crop_faces(picture, found, detector))
    return Detections(found.boxes, found.landmarks, found.scores, embeddings)


def run(words: list[str]) -> int:
    """Run one command in this process; returns the exit status."""
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        os.environ[name] = value
    program, *rest = words
    if program == "cd":
        here = [Path(name).absolute() for name in os.listdir()]
        os.chdir(rest[0])
        for path in here:  # what lies beside the folder is at hand in it as well
            if not Path(path.name).exists():
                Path(path.name).symlink_to(path)
        return 0
    if program == "metaface":
        return cli.main(rest)
    if program == "torchrun":
        importlib.import_module("torch.distributed.run").main(rest)
        return 0
    if Path(program).name == "python" and rest[0] != "-m":
        sys.argv = rest
        sys.path.insert(0, str(Path(rest[0]).parent.resolve()))
        runpy.run_path(rest[0], run_name="__main__")
        return 0
    if Path(program).name == "python" and rest[1] == "pytest":
        return subprocess.run([sys.executable, *rest]).returncode  # whose budgets are its own
    raise ValueError(f"{shlex.join(words)}: add to tests/run_document.py how this is run")


def run_python(blocks: list[str]) -> None:
    """Run the blocks in one namespace; see :func:`child`."""
    space: dict[str, Any] = {"__name__": "document"}
    space["range"] = lambda *given: range(*given)[:STEPS]  # of loops
    for number, text in enumerate(blocks):
        exec(compile(text, f"block {number}", "exec"), space)


def child(job: dict[str, Any]) -> int:
    """Do one job; returns the exit status.

    A job has ``folder``, ``environment``, ``output`` (a file for what is printed), ``errors``, and
    ``commands``, lists of words that are run one after another until one fails, or ``python``,
    blocks; ``steps``, and ``learners``: of the learners of a job, the first so many (None: all).
    """
    os.chdir(job["folder"])
    sys.path.insert(0, job["folder"])  # where my_package lies
    os.environ.update(job["environment"])
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    cut_budgets(job["steps"], job["learners"])
    if "python" in job:
        run_python(job["python"])
        return 0
    status = 0
    for words in job["commands"]:
        print(f"$ {shlex.join(words)}", flush=True)
        try:
            status = run(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        if status:
            break
    return status


def fork(job: dict[str, Any]) -> int:
    """The process id of a new process that does a job."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        for stream, name in ((1, "output"), (2, "errors")):
            file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(file, stream)
        status = child(job)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    if sys.argv[1:]:
        words = [word for word in sys.argv[1:] if word != "-u"]  # torchrun: -u -m metaface train
        cut_budgets(STEPS)
        if words[0] == "-m":
            words = words[1:]
        elif words[0].endswith(".py"):
            words = ["python", *words]
        sys.exit(run(words))
    for line in sys.stdin:
        jobs = json.loads(line)
        numbers = [fork(job) for job in jobs]
        codes = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
