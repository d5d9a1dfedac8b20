"""The one training loop: steps until a budget is spent, a curve, checkpoints, interruption."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaface import checkpoint
from metaface._lock import locked
from metaface._progress import track
from metaface._text import given_path
from metaface.nets import find_not_finite
from metaface.nets.conv import check_precision, convolve_in
from metaface.nets.norm import prepare
from metaface.nets.weights import is_safetensors
from metaface.training import runs
from metaface.training.distributed import Group
from metaface.training.options import Budget, Run

_NO_TRAINING = (
    "{} holds a model, and not the training that made it: start from it (--start), in another "
    "folder (--out)"
)
CURVE_POINTS = 100  # of the learning curve, over the budget


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; the message says where it can be resumed from."""


@dataclass
class History:
    """What happened in training.

    Attributes:
        rows: the learning curve: ``iteration``, ``images``, ``seconds``, ``loss``, ``accuracy``
            (means since the last row), ``lr``, and, where validated, ``val_accuracy`` with
            ``val_ci95``, of tasks of ``val_ways`` and ``val_shots``, in ``val_seconds``.
        iterations, images, seconds: what was spent.
        best_iteration: the step whose weights were kept; None without validation.
        stopped_early: whether validation stopped improving for ``patience`` validations.
        finished: what ``on_finish`` of :class:`Run` returned; None: there was none.
        recipe: what was trained with, as ``learners.Recipe`` has it.
        notes: what differs from the learner's own recipe, or from 5-way validation, because of the
            photographs there are: a sentence each, which was also said as a warning.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    iterations: int = 0
    images: int = 0
    seconds: float = 0.0
    best_iteration: int | None = None
    stopped_early: bool = False
    finished: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Training(ABC):
    """One training: what is trained, what a step does, and all that a checkpoint holds.

    A subclass says what a step is (:meth:`step`, :meth:`rate`), what else a checkpoint holds
    (:meth:`own_state`, :meth:`load_own_state`), and may look at each new row of the curve
    (:meth:`after_row`), stop early (:meth:`enough`), and do something before the first step and
    after the last (:meth:`prepare`, :meth:`finish`, :meth:`finished`).

    Args:
        model: trained in place; its weights are in the checkpoint under ``key``.
        optimizer: of its parameters; the rate of every group is set before each step.
        budget: when to stop.
        run: where and how.
        definition: what makes this training this one and no other, see ``runs.define``; a
            checkpoint of another is refused.
        group: the processes that train together.
    """

    key = "learner"
    """of the model's weights in a checkpoint, and what error messages call it"""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        budget: Budget,
        run: Run,
        definition: dict[str, Any],
        group: Group = Group(),  # noqa: B008 - frozen
    ) -> None:
        budget.spent(0, 0, 0.0)  # refused now where it has no limit
        check_precision(model, run.precision)
        self.model, self.optimizer, self.budget, self.run = model, optimizer, budget, run
        options = {**definition["options"], "precision": run.precision}
        self.definition, self.group = {**definition, "options": options}, group
        self.path = (
            None if run.out is None else given_path(run.out, "the results") / "checkpoint.pt"
        )
        self.history = History()
        self._sums: dict[str, list[float]] = {}  # sum and count since the last row of the curve
        prepare(model)  # not out of a budget of time
        self._started = time.monotonic()

    # -- what a subclass says ------------------------------------------------------------------

    @abstractmethod
    def rate(self, spent: float) -> float:
        """The learning rate of a step, of the share of the budget that is spent."""

    @abstractmethod
    def step(self) -> int:
        """Change the weights once, :meth:`note` what the curve shows, set ``history.seconds``.

        Returns:
            How many photographs were seen, by all processes.
        """

    @abstractmethod
    def summary(self) -> str:
        """What the progress bar says."""

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides model, optimizer, curve and random state."""

    @abstractmethod
    def load_own_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`own_state`."""

    def former_definition(self, state: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint from before MetaFace 0.2 says of its training."""
        return {"options": state["settings"]}

    def prepare(self) -> None:
        """Called once, after a checkpoint was read and before the first step."""

    def after_row(self, row: dict[str, float]) -> None:
        """Called with each new row of the curve, to which it may add."""

    def enough(self) -> bool:
        """Whether to stop before the budget is spent."""
        return False

    def finish(self) -> None:
        """Called once, after the last step and before the last checkpoint."""

    def finished(self) -> None:
        """Called once, after the last checkpoint."""

    # -- the loop ------------------------------------------------------------------------------

    def train(self) -> History:
        """Train until the budget is spent; the checkpoint of ``run.out`` is gone on with.

        Raises:
            FloatingPointError: a weight is not finite (which, after which step).
            Interrupted: Ctrl-C, after a checkpoint was written.
            metaface.checkpoint.CheckpointError: nothing readable, or of another training, to
                resume.
            metaface.training.distributed.ProcessLost: another process died; how to go on.
            FolderInUse: another run is writing into ``run.out``.
        """
        with self.group.watch(self.path), ExitStack() as held:
            self.group.from_first(lambda: held.enter_context(locked(self.run.out)))
            if found := self.group.from_first(self._earlier):
                state, warning = found
                if warning and self.group.first:
                    warnings.warn(warning, stacklevel=2)
                self._restore(state)
            self.prepare()
            self.group.spread(self.model)
            self.model.train()
            self._loop()
            self.history.stopped_early = self.spent < 1
            self.finish()
            self.group.from_first(self.save)
            self.finished()
        self.model.eval()
        return self.history

    def _loop(self) -> None:
        saved = time.monotonic()
        bar = track(
            total=100,
            initial=round(100 * self.spent),
            unit="%",
            show=self.run.progress and self.group.first,
            desc=self.run.label or type(self.model).__name__,
            mininterval=0.5,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )
        with bar, interruptible() as stop:
            while self.spent < 1 and not self.enough():
                row = self._advance()
                if row is not None:
                    self.after_row(row)
                    bar.set_postfix_str(self.summary())
                bar.update(round(100 * self.spent) - bar.n)
                if self._any_stops(stop()):
                    self.group.from_first(self.save)
                    where = f"; go on with resume (--resume) from {self.path}" if self.path else ""
                    raise Interrupted(f"stopped at step {self.history.iterations}{where}")
                if self.group.first and time.monotonic() - saved > self.run.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()

    def _advance(self) -> dict[str, float] | None:
        """One step; a new row of the curve where one is due."""
        history, before = self.history, self.spent
        rate = self.rate(before)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with convolve_in(self.model, self.run.precision):
            photographs = self.step()
        if (weight := find_not_finite(self.model)) is not None:
            raise FloatingPointError(
                f"{weight} is not finite after step {history.iterations}: use a lower learning "
                "rate (inner or outer); the last checkpoint is as it was"
            )
        history.iterations += 1
        history.images += photographs
        if int(before * CURVE_POINTS) == int(self.spent * CURVE_POINTS):
            return None
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
        return history.rows[-1]

    def note(self, name: str, value: float) -> None:
        """Count ``value`` in the mean that the next row of the curve has by ``name``."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = [total + value, count + 1]

    # -- time ----------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Of this process's own clock; ``history.seconds`` is what all have agreed on."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> float:
        """Of the budget, 0..1, the time that a last validation takes included."""
        return self.spent_after(self.history.seconds + self.val_seconds)

    def spent_after(self, seconds: float) -> float:
        """Of the budget, 0..1, by now if so many seconds have passed."""
        return self.budget.spent(self.history.iterations, self.history.images, seconds)

    @property
    def val_seconds(self) -> float:
        """What the longest validation took."""
        return max((row.get("val_seconds", 0.0) for row in self.history.rows), default=0.0)

    def _any_stops(self, stop: bool) -> bool:
        """Whether any process is to stop; also sets the clock by the first one's."""
        self.history.seconds, stops = self.group.sum(self.group.first * self.seconds, stop)
        return stops > 0

    # -- checkpoints ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint, where the run has a folder."""
        if self.path is not None:
            checkpoint.save(self.path, self.state())

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds."""
        return {
            "definition": self.definition,
            self.key: self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
            "history": asdict(self.history) | {"seconds": self.seconds},
            "torch_rng": torch.get_rng_state(),
            **self.own_state(),
        }

    def _earlier(self) -> tuple[dict[str, Any], str | None] | None:
        if self.path is None or not checkpoint.exists(self.path):
            return None
        if not self.run.resume:
            raise checkpoint.CheckpointError(
                f"{self.path} is there already: resume (--resume), or choose another folder"
            )
        if self.path.is_file() and is_safetensors(self.path):
            raise checkpoint.CheckpointError(_NO_TRAINING.format(self.path))
        return checkpoint.load_latest(self.path)

    def _restore(self, state: dict[str, Any]) -> None:
        assert self.path is not None
        with checkpoint.restoring(self.path, self.key):
            self._refuse_another(state, self.path)
            self.model.load_state_dict(state[self.key])
            self.load_own_state(state)
            self.optimizer.load_state_dict(state["optimizer"])
            self._sums, self.history = _sums(state["sums"]), History(**state["history"])
            torch.set_rng_state(state["torch_rng"])
        self._started = time.monotonic() - self.history.seconds

    def _refuse_another(self, state: dict[str, Any], path: Path) -> None:
        if "definition" not in state and "settings" not in state:
            raise checkpoint.CheckpointError(_NO_TRAINING.format(path))
        there = state.get("definition") or self.former_definition(state)
        if changed := runs.differences(there, self.definition):
            raise checkpoint.CheckpointError(
                f"{path} is of another run ({changed}): go on with what it was started with, or "
                "choose another folder (--out)"
            )


def _sums(kept: Any) -> dict[str, list[float]]:
    """As a checkpoint has them; MetaFace 0.2 kept loss, accuracy and steps of meta-learners."""
    if isinstance(kept, dict):
        return kept
    loss, accuracy, steps = kept
    return {"loss": [loss, steps], "accuracy": [accuracy, steps]} if steps else {}


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn a first Ctrl-C into a flag that is read between steps; a second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
