"""Tasks a second of two processes against one, a thread each: second-order MAML.

python benchmarks/scaling.py [--json FILE]

Conv4, 28x28 grey, 5-way 1-shot, 5 queries, 5 inner steps, meta-batch 16; each measurement is a
training run of its own, one process and two under torchrun in turn; medians of the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import metaface as mf

TASKS = 16  # a step


def train(steps: int) -> None:
    """Print the tasks a second of ``steps`` steps, after one to warm up."""
    faces = mf.data.load("synthetic", people=60, photos=10, image_size=28, channels=1)
    learner = mf.ModelSpec("maml", {"inner_steps": 5}, channels=1).build()
    history = mf.train(
        learner,
        faces,
        ways=5,
        shots=1,
        iterations=steps + 1,
        task=mf.training.Task(queries=5, meta_batch=TASKS, augment=None),
        run=mf.training.Run(device="cpu", progress=False),
    )
    if mf.training.distributed.join().first:
        seconds = history.rows[-1]["seconds"] - history.rows[0]["seconds"]
        print(TASKS * steps / seconds)


def measure(processes: int, steps: int) -> float:
    """Tasks a second of so many processes, in which this script trains."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    run = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), __file__, "--train", str(steps)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed steps a round, 99 at most")
    parser.add_argument("--train", type=int, metavar="STEPS", help="be one of the processes")
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return

    rates: dict[str, list[float]] = {"one process": [], "two processes": []}
    for _ in range(options.rounds):
        for processes, measured in enumerate(rates.values(), start=1):
            measured.append(measure(processes, options.steps))
    for name, values in rates.items():
        print(
            f"{name:>13}: {statistics.median(values):6.2f} tasks/s "
            f"({min(values):.2f} to {max(values):.2f})"
        )
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    ratio = statistics.median(ratios)
    print(f"{'ratio':>13}: {ratio:6.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if options.json:
        found = {"rates": rates, "ratios": ratios, "ratio": ratio}
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
