"""Training one network for many tasks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from metaface import checkpoint
from metaface._lock import locked
from metaface._progress import track
from metaface._text import given_path
from metaface.multitask.batch import Batch
from metaface.multitask.model import MultiTask
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.weighting import Fixed, Weighting, cosines
from metaface.nets import find_not_finite, refresh_statistics
from metaface.training import runs
from metaface.training.loop import (
    CURVE_POINTS,
    Budget,
    History,
    Interrupted,
    choose_device,
    interruptible,
)

Source = Callable[[int], FaceAnnotations]
"""The pictures of a step, by its number alone, so that training can be resumed. Each step may have
pictures of another size."""

_WARM = 50  # steps over which the learning rate rises
_DECAY = 0.01  # of weights, not of biases and norms
_REFRESH = 16  # batches that statistics are taken from


def draws(labelled: FaceAnnotations, size: int, seed: int = 0) -> Source:
    """Batches of ``size`` pictures, each epoch in another order.

    To change them as well: ``lambda step: augmented(batches(step), (seed, step))``.

    Raises:
        ValueError: a size that is not in 1..len(labelled).
    """
    if not 1 <= size <= len(labelled):
        raise ValueError(f"size={size}: give 1 to {len(labelled)}, the pictures there are")
    each = len(labelled) // size

    def batch(step: int) -> FaceAnnotations:
        order = np.random.default_rng((seed, step // each)).permutation(len(labelled))
        start = step % each * size
        return labelled.take(order[start : start + size])

    return batch


def fit(
    model: MultiTask,
    source: Source,
    *,
    weighting: Weighting | None = None,
    lr: float = 2e-3,
    iterations: int | None = None,
    minutes: float | None = None,
    clip: float = 5.0,
    cosines_every: int = 0,
    data: Any = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 20.0,
    progress: bool = True,
    label: str = "MultiTask",
) -> History:
    """Train ``model`` on batches of ``source``, in place, by AdamW with a cosine schedule.

    A task that a batch has no label of takes no part in its step; a batch without any label of a
    head changes nothing. Interrupted and resumed, a
    budget in iterations ends in the same weights, bit for bit (on a CPU of one kind, with one
    count of threads).

    Args:
        source: see :data:`Source` and :func:`draws`.
        weighting: how the tasks' losses are put together; None: a plain sum.
        lr: the highest learning rate.
        iterations, minutes: the budget; of both, the one spent first ends training.
        clip: largest norm of the gradient.
        cosines_every: steps from which to which the cosines between the tasks' gradients over the
            trunk are noted, at a backward pass a task; 0: never.
        data: what the batches are made of, as ``metaface.training.runs.define`` takes options; a
            run of other data is refused on resuming.
        seed: of the jitter.
        device: None: a GPU where there is one.
        out: folder for ``checkpoint.pt``, and ``model.safetensors`` at the end; None: nothing is
            written.
        resume: go on from ``out``'s checkpoint, where there is one.
        checkpoint_seconds: least time between two checkpoints.
        progress: show a progress bar, with this ``label``.

    Returns:
        What was spent, and the curve: rows of ``iteration``, ``images``, ``seconds``, ``lr``,
        ``norm`` of the gradient, ``loss/<task>`` (means since the last row; left out where there
        was no label), and ``cosine/<task>/<task>`` where noted. On a network in evaluation mode.

    Raises:
        ValueError: a bad budget.
        FloatingPointError: a loss or the gradient is not finite (which task and step); the last
            checkpoint is kept.
        metaface.training.loop.Interrupted: Ctrl-C, after a checkpoint was written.
        metaface.checkpoint.CheckpointError: nothing readable, or of other settings, to resume.
    """
    budget = Budget(iterations, minutes=minutes)
    device = choose_device(device)
    weighting = Fixed() if weighting is None else weighting
    settings = {
        "spec": model.spec,
        "budget": asdict(budget),
        "lr": lr,
        "clip": clip,
        "seed": seed,
        "cosines_every": cosines_every,
        "data": data,
        "weighting": [type(weighting).__name__, weighting.weights],
    }
    weighting = weighting.to(device)
    run = _Run(model.to(device), weighting, budget, settings)
    path = None if out is None else given_path(out, "the results") / "checkpoint.pt"
    with locked(out), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if path is not None and checkpoint.exists(path):
            if not resume:
                raise checkpoint.CheckpointError(
                    f"{path} is there already: resume, or choose another folder"
                )
            state, warning = checkpoint.load_latest(path)
            if warning:
                warnings.warn(warning, stacklevel=2)
            run.restore(state, path)
        _loop(run, source, path, device, checkpoint_seconds, label if progress else None)
        refresh(model, (Batch.of(source(k), device) for k in range(_REFRESH)))
        model.eval()
        if path is not None:
            model.save(path.with_name("model.safetensors"))
    return run.history


def _loop(
    run: _Run,
    source: Source,
    path: Path | None,
    device: torch.device,
    checkpoint_seconds: float,
    label: str | None,
) -> None:
    def save() -> None:
        if path is not None:
            checkpoint.save(path, run.state())

    run.model.train()
    saved = time.monotonic()
    bar = track(
        total=100,
        initial=round(100 * run.spent),
        unit="%",
        show=label is not None,
        desc=label,
        mininterval=0.5,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
    )
    with bar, interruptible() as stop, ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(source, run.history.iterations)
        while run.spent < 1:
            labelled = ahead.result()
            ahead = pool.submit(source, run.history.iterations + 1)  # while this one is learnt
            if run.step(Batch.of(labelled, device)):
                bar.set_postfix_str(run.summary())
            bar.update(round(100 * run.spent) - bar.n)
            if stop():
                save()
                where = "" if path is None else f"; go on with resume from {path}"
                raise Interrupted(f"stopped at step {run.history.iterations}{where}")
            if time.monotonic() - saved > checkpoint_seconds:
                save()
                saved = time.monotonic()
    save()


class _Run:
    """The state of one training run: all that a checkpoint holds."""

    def __init__(
        self, model: MultiTask, weighting: Weighting, budget: Budget, settings: dict[str, Any]
    ) -> None:
        self.model, self.weighting, self.budget = model, weighting, budget
        self.settings = settings
        self.definition = runs.define(settings)
        self.history = History()
        learnt = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in learnt if p.ndim > 1], "weight_decay": _DECAY},
            {"params": [p for p in learnt if p.ndim <= 1]},
            {"params": list(weighting.parameters())},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings["lr"], weight_decay=0.0)
        self._sums: dict[str, list[float]] = {}  # sum and count since the last row of the curve
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        h = self.history
        return self.budget.spent(h.iterations, h.images, h.seconds)

    def step(self, batch: Batch) -> bool:
        """One step; whether there is a new row of the curve."""
        history, before = self.history, self.spent
        warm = min(1.0, (history.iterations + 1) / _WARM)
        rate = self.settings["lr"] * warm * 0.5 * (1 + math.cos(math.pi * before))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        found = self.model.losses(batch)
        losses = {name: loss.value for name, loss in found.items() if loss.count}
        for name, value in self._values(losses).items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss of {name} is {value} at step {history.iterations}: use a lower "
                    "learning rate, or a lower weight for it; the last checkpoint is as it was"
                )
            self._note(f"loss/{name}", value)
        every = self.settings["cosines_every"]
        if every and history.iterations % every == 0:
            for (a, b), cosine in cosines(losses, self.model.trunk).items():
                self._note(f"cosine/{a}/{b}", cosine)
        if losses:
            self.weighting.backward(losses, self.model, self.model.trunk)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"]))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of {', '.join(losses)} is not finite at step {history.iterations}: "
                "use a lower learning rate; the last checkpoint is as it was"
            )
        self._note("norm", norm)
        self.optimizer.step()
        if (weight := find_not_finite(self.model)) is not None:
            raise FloatingPointError(
                f"{weight} is not finite after step {history.iterations}: use a lower learning "
                "rate; the last checkpoint is as it was"
            )
        history.iterations += 1
        history.images += len(batch.images)
        history.seconds = time.monotonic() - self._started
        if int(before * CURVE_POINTS) == int(self.spent * CURVE_POINTS):
            return False
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        history.rows.append(
            {
                "iteration": history.iterations,
                "images": history.images,
                "seconds": history.seconds,
                "lr": rate,
                **means,
            }
        )
        return True

    def _values(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The losses as numbers, from the device at once."""
        if not losses:
            return {}
        return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))

    def _note(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = [total + value, count + 1]

    def summary(self) -> str:
        row = self.history.rows[-1]
        losses = (f"{n[5:]} {v:.3f}" for n, v in row.items() if n.startswith("loss/"))
        return f"{', '.join(losses)}, {self.history.images / self.history.seconds:.0f} images/s"

    def state(self) -> dict[str, Any]:
        return {
            "definition": self.definition,
            "model": self.model.state_dict(),
            "weighting": self.weighting.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
            "history": asdict(self.history),
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        with checkpoint.restoring(path, "network"):
            there = state.get("definition") or {"options": state["settings"]}
            if changed := runs.differences(there, self.definition):
                raise checkpoint.CheckpointError(
                    f"{path} is of another run ({changed}): go on with what it was started with, "
                    "or choose another folder (--out)"
                )
            self.model.load_state_dict(state["model"])
            self.weighting.load_state_dict(state["weighting"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._sums, self.history = state["sums"], History(**state["history"])
            torch.set_rng_state(state["torch_rng"])
        self._started = time.monotonic() - self.history.seconds


def refresh(model: MultiTask, batches: Iterable[Batch]) -> None:
    """Population statistics of frozen layers, trunk and towers; others are left alone."""
    refresh_statistics(_Losses(model), cast(Iterable[Tensor], batches))


class _Losses(nn.Module):
    """What runs every layer of a network on a batch."""

    def __init__(self, model: MultiTask) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> None:
        self.model.losses(batch)
