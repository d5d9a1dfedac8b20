"""Training one network for many tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from metaface.arguments import refuse_moved
from metaface.machine import choose_device
from metaface.multitask.batch import Batch
from metaface.multitask.model import MultiTask
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.weighting import Fixed, Weighting, cosines
from metaface.nets import refresh_statistics
from metaface.training import runs
from metaface.training.loop import History, Training
from metaface.training.options import LIMITS, Budget, Run, check_kinds, merge, new_places

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

    Example:
        >>> from metaface.multitask import FaceSprites, compose, draws
        >>> scenes = compose(FaceSprites.procedural(people=2, photos=2, image_size=64), 6, size=96)
        >>> batches = draws(scenes, size=2)
        >>> batches(0).images.shape, batches(1).images.shape  # of step 0, of step 1
        ((2, 96, 96, 3), (2, 96, 96, 3))
    """
    if not 1 <= size <= len(labelled):
        raise ValueError(f"size={size}: give 1 to {len(labelled)}, the pictures there are")
    each = len(labelled) // size

    def batch(step: int) -> FaceAnnotations:
        order = np.random.default_rng((seed, step // each)).permutation(len(labelled))
        start = step % each * size
        return labelled.take(order[start : start + size])

    return batch


@refuse_moved(**new_places("lr", "iterations"))
def fit(
    model: MultiTask,
    source: Source,
    *,
    weighting: Weighting | None = None,
    lr: float = 2e-3,
    clip: float = 5.0,
    iterations: int | None = None,
    cosines_every: int = 0,
    data: Any = None,
    budget: Budget = Budget(),  # noqa: B008 - frozen, as the other
    run: Run = Run(),  # noqa: B008
) -> History:
    """Train ``model`` on batches of ``source``, in place, by AdamW with a cosine schedule.

    A task that a batch has no label of takes no part in its step; a batch without any label of a
    head changes nothing. Interrupted and resumed, a budget in iterations ends in the same weights,
    bit for bit (on a CPU of one kind, with one count of threads).

    Args:
        source: see :data:`Source` and :func:`draws`.
        weighting: how the tasks' losses are put together; None: a plain sum.
        lr: the highest learning rate.
        clip: largest norm of the gradient.
        iterations: steps, as in ``budget``.
        cosines_every: steps from which to which the cosines between the tasks' gradients over the
            backbone are noted, at a backward pass a task; 0: never.
        data: what the batches are made of, as ``metaface.training.runs.define`` takes options; a
            run of other data is refused on resuming.
        budget: in iterations, minutes or both.
        run: seed (of the jitter), device, folder (``checkpoint.pt``, and ``model.safetensors`` at
            the end), progress; see :class:`metaface.training.Run`.

    Returns:
        What was spent, and the curve: rows of ``iteration``, ``images``, ``seconds``, ``lr``,
        ``norm`` of the gradient, ``loss/<task>`` (means since the last row; left out where there
        was no label), and ``cosine/<task>/<task>`` where noted. On a network in evaluation mode.

    Raises:
        ValueError: a bad budget.
        TypeError: a keyword of MetaFace 0.2: where it is now.
        FloatingPointError: a loss or the gradient is not finite (which task and step); the last
            checkpoint is kept.
        metaface.training.Interrupted: Ctrl-C, after a checkpoint was written.
        metaface.checkpoint.CheckpointError: nothing readable, or of other settings, to resume.

    Example:
        >>> import metaface as mf
        >>> scenes = mf.multitask.compose(mf.multitask.FaceSprites.procedural(4, 2, 64), 8, size=96)
        >>> model = mf.multitask.MultiTask({"detection": {}, "segmentation": {}}, channels=16)
        >>> run = mf.training.Run(progress=False, device="cpu")
        >>> history = mf.multitask.fit(model, mf.multitask.draws(scenes, 4), iterations=2, run=run)
        >>> history.iterations, history.images
        (2, 8)
    """
    check_kinds(budget=budget, run=run)
    budget = merge("budget", budget, iterations=iterations)
    if budget.images is not None or budget.patience is not None:
        raise ValueError("fit() has no budget in images, and no patience: give iterations, minutes")
    device = choose_device(run.device)
    weighting = (Fixed() if weighting is None else weighting).to(device)
    defining = {
        "spec": model.spec,
        "budget": {limit: getattr(budget, limit) for limit in LIMITS},
        "lr": lr,
        "clip": clip,
        "seed": run.seed,
        "cosines_every": cosines_every,
        "data": data,
        "weighting": [type(weighting).__name__, weighting.weights],
    }
    training = _MultiTaskTraining(
        model, _optimizer(model.to(device), weighting, lr), budget, run, runs.define(defining)
    )
    training.source, training.device, training.weighting = source, device, weighting
    training.lr, training.clip, training.cosines_every = lr, clip, cosines_every
    with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(1) as training.ahead:
        torch.manual_seed(run.seed)
        return training.train()


def _optimizer(model: MultiTask, weighting: Weighting, lr: float) -> torch.optim.Optimizer:
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in learnt if p.ndim <= 1]},
        {"params": list(weighting.parameters())},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0)


class _MultiTaskTraining(Training):
    """Of a shared network: steps on pictures, each head's loss on what it has labels of."""

    key = "model"
    model: MultiTask
    source: Source
    device: torch.device
    weighting: Weighting
    lr: float
    clip: float
    cosines_every: int
    ahead: ThreadPoolExecutor
    _next: Future[FaceAnnotations]

    def prepare(self) -> None:
        self._next = self.ahead.submit(self.source, self.history.iterations)

    def rate(self, spent: float) -> float:
        warm = min(1.0, (self.history.iterations + 1) / _WARM)
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * spent))

    def step(self) -> int:
        history, backbone = self.history, self.model.trunk
        annotations = self._next.result()
        # the next pictures are made while these are learnt
        self._next = self.ahead.submit(self.source, history.iterations + 1)
        batch = Batch.of(annotations, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        by_task = self.model.losses(batch)
        losses = {name: loss.value for name, loss in by_task.items() if loss.count}
        self._note_losses(losses)
        if self.cosines_every and history.iterations % self.cosines_every == 0:
            for (a, b), cosine in cosines(losses, backbone).items():
                self.note(f"cosine/{a}/{b}", cosine)
        if losses:
            self.weighting.backward(losses, self.model, backbone)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of {', '.join(losses)} is not finite at step {history.iterations}: "
                "use a lower learning rate; the last checkpoint is as it was"
            )
        self.note("norm", norm)
        self.optimizer.step()
        history.seconds = self.seconds
        return len(batch.images)

    def _note_losses(self, losses: dict[str, Tensor]) -> None:
        """Note each loss, fetched from the device at once.

        Raises:
            FloatingPointError: one is not finite.
        """
        values = torch.stack(list(losses.values())).tolist() if losses else []
        for name, value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss of {name} is {value} at step {self.history.iterations}: use a lower "
                    "learning rate, or a lower weight for it; the last checkpoint is as it was"
                )
            self.note(f"loss/{name}", value)

    def finished(self) -> None:
        refresh(self.model, (Batch.of(self.source(k), self.device) for k in range(_REFRESH)))
        if self.path is not None:
            self.model.save(self.path.with_name("model.safetensors"))

    def summary(self) -> str:
        row = self.history.rows[-1]
        losses = (f"{n[5:]} {v:.3f}" for n, v in row.items() if n.startswith("loss/"))
        return f"{', '.join(losses)}, {self.history.images / self.history.seconds:.0f} images/s"

    def own_state(self) -> dict[str, Any]:
        return {"weighting": self.weighting.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.weighting.load_state_dict(state["weighting"])


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
