"""A small training run for test_training.py to kill: python train_a_little.py OUT DONE."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from helpers import patterns, tiny, train

from metaface.learners import Prototypical
from metaface.nets.fused import compile_passes

ITERATIONS = 400


def run(out: str | Path, **options) -> Prototypical:
    """Train, resuming whatever is in ``out``; a checkpoint is written after every step."""
    train_people, val_people, _ = patterns(20).split(val=0.3, test=0.1)
    learner = Prototypical(tiny("frozen"))
    arguments = dict(
        iterations=ITERATIONS,
        ways=6,
        out=out,
        resume=True,
        device="cpu",
        progress=False,
        val_episodes=20,
        checkpoint_seconds=0,
    )
    train(learner, train_people, val_people, **(arguments | options))
    return learner


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*checkpoint")  # the one before is used
    torch.set_num_threads(1)
    compile_passes()  # or they would be loaded in the time in which it may be killed
    print("training", flush=True)
    finished = run(sys.argv[1])
    torch.save(finished.state_dict(), sys.argv[2])
