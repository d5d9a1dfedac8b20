"""What test_distributed.py runs under torchrun: python train_together.py cases OUT LEARNERS
python train_together.py cli WHAT_HAPPENS metaface's arguments"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers import patterns, tiny, train
from torch import nn

from metaface import EpisodeSampler, checkpoint, cli, learners, training
from metaface.learners import MetaLearner
from metaface.training import History, Interrupted, distributed

RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
LAST = RANK == SIZE - 1


def in_float64(sampler: type[EpisodeSampler] = EpisodeSampler) -> Any:
    """``sampler.images``, but for their type."""
    images = sampler.images
    return lambda self, rows: images(self, rows).to(torch.float64)


def build(name: str) -> MetaLearner:
    """A learner whose weights differ by process: those of the first are to be used."""
    options = {"inner_steps": 3} if name == "reptile" else {}
    return learners.build(name, tiny("frozen", seed=RANK), **options).double()


def go(
    learner: MetaLearner, out: Path | None = None, at: tuple[int, Any] | None = None, **options: Any
) -> History:
    """Train; ``at`` says in which meta-step, and what, happens to the last process."""
    if at is not None:
        step, steps = learner.meta_step, iter(range(100))

        def meta_step(episodes):
            got = step(episodes)
            return got | at[1]() if next(steps) == at[0] and LAST else got

        learner.meta_step = meta_step
    train_people, val_people, _ = patterns(20).split(val=0.3, test=0.1)
    given = {"iterations": 6} | options
    return train(
        learner,
        train_people,
        val_people,
        ways=(3, 5),
        shots=(1, 2),
        queries=1,
        meta_batch=3,
        val_shots=2,
        val_episodes=4,
        out=out,
        resume=True,
        device="cpu",
        progress=False,
        **given,
    )


def interrupted(name: str, out: Path) -> str:
    """Train until a Ctrl-C that reaches the last process alone, in its third step."""
    try:
        go(build(name), out, at=(2, lambda: os.kill(os.getpid(), signal.SIGINT) or {}))
    except Interrupted as stop:
        return str(stop)
    return "not interrupted"


def trained(name: str, out: Path | None = None) -> dict[str, torch.Tensor]:
    learner = build(name)
    go(learner, out)
    return learner.state_dict()


def refused(**options: Any) -> str:
    """The error that ends a training run of this process."""
    try:
        go(build("anil"), **options)
    except (ValueError, FloatingPointError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def gradients() -> list[list[float] | None]:
    """Averages of: a gradient in both processes, one in the last alone, one in neither."""
    group = distributed.join()
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (1 + RANK)
    parameters[1].grad = torch.tensor([8.0, 8.0]) if LAST else None
    group.average_gradients(parameters, (0.25, 0.75)[RANK])
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def cases(out: Path, names: list[str]) -> None:
    found: dict[str, Any] = {"gradients": gradients()}
    for name in names:
        found[name] = {
            "whole": trained(name),
            "stop": interrupted(name, out / f"{name}-here"),
            "resumed": trained(name, out / f"{name}-there"),
        }
    apart = build("anil")
    history = go(apart, iterations=None, minutes=0.01)
    found["minutes"] = history.iterations, history.seconds, history.rows, apart.state_dict()
    found["nan"] = refused(at=(1, lambda: {"loss": float("nan")}))
    found["validation"] = refused(val_ways=1)
    torch.save(found, out / f"rank{RANK}.pt")


def command(happens: str, arguments: list[str]) -> int:
    """``metaface ARGUMENTS``, with a checkpoint after every step."""

    def saved(out: str, step: int) -> bool:
        try:
            return checkpoint.load(Path(out) / "checkpoint.pt")["history"]["iterations"] == step
        except checkpoint.CheckpointError:
            return False

    def meet(learner, faces, *others, **options):
        step, steps = learner.meta_step, iter(range(100))

        def meta_step(episodes):
            if next(steps) == 3:
                if LAST:
                    while not saved(options["run"].out, 3):
                        time.sleep(0.01)
                    os.kill(os.getpid(), signal.SIGKILL)
                elif happens == "killed-while-others-compute":
                    time.sleep(600)
            return step(episodes)

        if happens.startswith("killed"):
            learner.meta_step = meta_step
        options["run"] = replace(options["run"], checkpoint_seconds=0)
        return real(learner, faces, *others, **options)

    real, training.train = training.train, meet
    return cli.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "cases":
        EpisodeSampler.images = in_float64()
        cases(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(command(sys.argv[2], sys.argv[3:]))
