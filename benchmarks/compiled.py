"""Training with the compiled passes of ``metaface[fast]`` beside training without, in one run.

python benchmarks/compiled.py --rounds 7

The reference case of ``benchmarks/peers.py``, weights and tasks as there. With and without take
turns after a warm-up; a figure is the median of the rounds' ratios, with quartiles. First, how long
the passes take to compile in an empty folder, and to load from it in the next process (CPU time).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import torch
from sides import INNER_LR, REPTILE_BATCH, REPTILE_LR, Case, network, tasks_in_memory

import metaface as mf
from metaface.nets import norm
from metaface.nets.fused import can_fuse, compile_passes

Within = Callable[[mf.learners.MetaLearner], AbstractContextManager[object]]
CPU = torch.device("cpu")
COMPILE = """
import time
from metaface.nets.fused import compile_passes
began = time.process_time()
compile_passes()
print(time.process_time() - began)
"""
CASE = Case("compiled")
LEARNERS: dict[str, Callable[..., mf.learners.MetaLearner]] = {
    "MAML, second order": lambda body, head: mf.learners.MAML(
        body, INNER_LR, CASE.steps, head=head, head_lr=None
    ),
    "MAML, first order": lambda body, head: mf.learners.MAML(
        body, INNER_LR, CASE.steps, head=head, head_lr=None, first_order=True
    ),
    "Reptile": lambda body, head: mf.learners.Reptile(
        body, REPTILE_LR, CASE.steps, head=head, head_lr=None, inner_batch=REPTILE_BATCH
    ),
    "Prototypical": lambda body, head: mf.learners.Prototypical(body),
}


def measure(learner: mf.learners.MetaLearner, tasks: mf.Episodes, seconds: float) -> float:
    """Tasks a second, over ``seconds`` at least."""
    began, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - began < seconds:
        learner.meta_step(tasks)
        steps += 1
    return steps * len(tasks) / (time.perf_counter() - began)


def compare(fast: Within, slow: Within, other: str, rounds: int, seconds: float) -> None:
    """Print each learner's rate within ``fast``, and how many times that within ``slow`` it is."""
    tasks = tasks_in_memory(CASE, CPU)
    for name, make in LEARNERS.items():
        learner = make(*network(CASE, CPU)).train()
        ratios, rates = [], []
        for turn in range(rounds + 1):
            with fast(learner):
                rate = measure(learner, tasks, seconds)
            with slow(learner):
                against = measure(learner, tasks, seconds)
            if turn:  # the first is a warm-up
                ratios.append(rate / against)
                rates.append(rate)
        low, middle, high = statistics.quantiles(ratios * 2, n=4)
        print(
            f"{name:20} {statistics.median(rates):6.1f} tasks/s, {middle:.2f} times {other} "
            f"({low:.2f} to {high:.2f})",
            flush=True,
        )


def compile_apart(cache: str) -> float:
    """Seconds of CPU time to compile the passes into the folder ``cache``, or to load them from
    it: beside other work on the machine, time goes by faster."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at the least")
    options = parser.parse_args()
    if not can_fuse(tasks_in_memory(CASE, CPU).query):
        sys.exit("numba is not installed: pip install 'metaface[fast]'")
    with tempfile.TemporaryDirectory() as cache:
        first, second = compile_apart(cache), compile_apart(cache)
    print(f"compiled in {first:.1f} s of CPU time, loaded in {second:.1f} s", flush=True)
    compile_passes()
    compare(
        lambda learner: nullcontext(),
        lambda learner: patch.object(norm, "can_fuse", lambda x: False),
        "those without",
        options.rounds,
        options.seconds,
    )


if __name__ == "__main__":
    main()
