"""The one trainer: every learner's outer loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaface import checkpoint, nets
from metaface._lock import locked
from metaface._progress import track
from metaface._text import given_path
from metaface.arguments import (
    check_counts,
    check_flags,
    check_given_counts,
    check_rates,
    checked_device,
)
from metaface.data import FaceSet
from metaface.data.faceset import join_names
from metaface.episodes.across_domains import AcrossDomains
from metaface.episodes.augment import Augment
from metaface.episodes.sampler import EpisodeSampler, check_range
from metaface.evaluation import evaluate
from metaface.learners import MetaLearner, Recipe
from metaface.learners.spec import ModelSpec, find_former_options
from metaface.training import distributed, runs
from metaface.training.fitting import fit_recipe, fit_validation

log = logging.getLogger("metaface.training")

VALIDATIONS = 5  # over the budget
VAL_WAYS = 5  # unless the user says otherwise
CURVE_POINTS = 100  # of the learning curve, over the budget


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; the message says where it can be resumed from."""


@dataclass(frozen=True)
class Budget:
    """How long to train: at least one of the three; the one that is spent first ends it.

    Attributes:
        iterations: outer steps (alone, the only budget that repeats bit for bit).
        images: photographs seen, support and query.
        minutes: wall time, validation included: training ends so early that the last one, if it
            takes as long as those before it, ends in time.
    """

    iterations: int | None = None
    images: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = {n: v for n, v in asdict(self).items() if v is not None}
        if not given:
            raise ValueError("give at least one of iterations, images and minutes")
        numbers = all(isinstance(value, int | float | np.number) for value in given.values())
        if not numbers or not all(0 < value < math.inf for value in given.values()):
            raise ValueError(f"the budget must be positive and finite, got {given}")
        check_counts(1, iterations=self.iterations, images=self.images)

    def spent(self, iterations: int, images: int, seconds: float) -> float:
        """The share of the budget that is used up, 0..1."""
        spent = {"iterations": iterations, "images": images, "minutes": seconds / 60}
        shares = (spent[n] / limit for n, limit in asdict(self).items() if limit is not None)
        return min(1.0, max(shares))


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
        finished: what ``on_finish`` of :func:`train` returned; None: there was none.
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


def train(
    learner: MetaLearner,
    faces: FaceSet,
    val: FaceSet | None = None,
    *,
    ways: int | tuple[int, int] | None = None,
    shots: int | tuple[int, int] | None = None,
    queries: int | None = None,
    meta_batch: int | None = None,
    lr: float | None = None,
    iterations: int | None = None,
    images: int | None = None,
    minutes: float | None = None,
    val_ways: int | None = None,
    val_shots: int = 1,
    val_episodes: int = 100,
    patience: int | None = None,
    augment: Augment | None = Augment(),  # noqa: B008 - frozen
    support_domain: str | None = None,
    query_domain: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    spec: ModelSpec | None = None,
    checkpoint_seconds: float = 20.0,
    progress: bool = True,
    label: str | None = None,
    on_validation: Callable[[dict[str, float]], object] | None = None,
    across: bool = False,
    on_finish: Callable[[MetaLearner], dict[str, Any]] | None = None,
) -> History:
    """Train ``learner`` on tasks of ``faces``, in place.

    What is not given comes from the learner's own recipe, fitted to ``faces`` where people have too
    few photographs for it, with a warning; what is given is never changed. With ``val``, the
    weights of the best validation are kept at the end. Interrupted and resumed, a budget in
    iterations ends in the same weights, bit for bit (same machine and thread count).

    In processes started by torchrun, each takes a slice of every meta-batch; what comes out is
    what one process would have made of the whole, in all of them. The first one writes and shows.

    Args:
        faces, val: training and validation people; nobody may be in both.
        ways, shots, queries: of the training tasks; (least, most) pairs draw one for each batch.
        meta_batch: tasks an outer step, of all processes together.
        lr: outer learning rate.
        iterations, images, minutes: the budget; of several, the one spent first ends training (and
            the schedule follows it).
        val_ways, val_shots, val_episodes: of the validation tasks. ``val_ways`` None: 5, or, with
            a warning, as many people as have the photographs.
        patience: stop after so many validations without a new best; None: never.
        augment: changes of the training photographs; None: none.
        support_domain, query_domain: names of domains that the sides of a task, in training and
            validation, are drawn from, such as photograph and sketch; None: any.
        seed: of the tasks.
        device: where to train; None: a GPU where there is one (under torchrun, one a process).
        out: folder for ``checkpoint.pt`` and TensorBoard scalars; None: nothing is written.
        resume: go on from ``out``'s checkpoint, where there is one.
        spec: what rebuilds the learner from the checkpoint; see ``metaface.load_model``.
        checkpoint_seconds: least time between two checkpoints.
        progress: show a progress bar.
        label: name on the progress bar; the learner's class where left out.
        on_validation: called with each validated row of the curve (see :class:`History`); what it
            raises ends training.
        across: support and query of training tasks come from different domains of ``faces``; see
            ``metaface.episodes.AcrossDomains``.
        on_finish: called once with the trained learner, the best weights in place, which it may
            change; what it returns goes to ``History.finished``, and is written with the learner.
            An interrupted one is called again on resuming; see
            :mod:`metaface.training.weight_interpolation`. Where it has an attribute
            ``settings``, another one of other settings is refused on resuming.

    Returns:
        The learning curve and what was spent.

    Raises:
        ValueError: a bad budget; people in both sets; too few people or photographs; fewer tasks
            in a meta-batch than processes.
        FloatingPointError: the loss is not finite (which step); the checkpoint is kept.
        Interrupted: Ctrl-C, after a checkpoint was written.
        metaface.checkpoint.CheckpointError: nothing readable, or of other settings, to resume.
        metaface.training.distributed.ProcessLost: another process died; how to go on.
        FolderInUse: another run is writing into ``out``.
    """
    for what, kind, name in ((learner, MetaLearner, "learner"), (faces, FaceSet, "faces")):
        if not isinstance(what, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}, got a {type(what).__name__}: "
                "metaface.train(learner, faces, val) takes a learner of metaface.learners, and "
                "the parts of FaceSet.split one by one"
            )
    if val is not None and not isinstance(val, FaceSet):
        raise ValueError(f"val must be a FaceSet or None, got a {type(val).__name__}")
    if spec is not None and not isinstance(spec, ModelSpec):
        raise ValueError(f"spec must be a ModelSpec or None, got a {type(spec).__name__}")
    for name, called in (("on_validation", on_validation), ("on_finish", on_finish)):
        if called is not None and not callable(called):
            raise ValueError(f"{name}={called!r}: must be a function or None")
    check_counts(1, patience=patience, val_ways=val_ways)
    check_given_counts(1, val_shots=val_shots, val_episodes=val_episodes)
    check_given_counts(0, seed=seed)
    check_flags(resume=resume, across=across)
    check_rates(checkpoint_seconds=checkpoint_seconds)
    budget = Budget(iterations, images, minutes)
    given: dict[str, Any] = {
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "meta_batch": meta_batch,
        "lr": lr,
    }
    given = {n: v for n, v in given.items() if v is not None}
    for name, least in (("ways", 2), ("shots", 1)):
        if name in given:
            check_range(name, given[name], least)
    if val is not None:
        _refuse_shared_people(faces, val)
    sides = {"support_domain": support_domain, "query_domain": query_domain}
    recipe, changed = fit_recipe(
        replace(learner.recipe, **given), faces, given, **sides, across=across
    )
    val_tasks: dict[str, Any] = {}
    lowered = ""
    if val is not None:
        wanted = VAL_WAYS if val_ways is None else val_ways
        fitted, val_queries, lowered = fit_validation(val, wanted, val_shots, **sides)
        if val_ways is not None:
            fitted, lowered = val_ways, ""
        val_tasks = {"ways": fitted, "shots": val_shots, "queries": val_queries, **sides}
        EpisodeSampler(val, **val_tasks)  # refused now, not after a fifth of the budget
    name = spec.learner if spec else type(learner).__name__
    notes = [f"{name}: {note}" for note in (changed, lowered) if note]
    group = distributed.join()
    for note in notes if group.first else ():
        log.warning(note)
    device = group.device(choose_device(device))
    drawn: dict[str, Any] = {"seed": seed, "augment": augment, "device": device}
    if across and (support_domain or query_domain):
        raise ValueError("across pairs all domains: leave out support_domain and query_domain")
    if not across:
        drawn |= sides
    sampler = (AcrossDomains if across else EpisodeSampler)(
        faces, recipe.ways, recipe.shots, recipe.queries, **drawn
    )
    options: dict[str, Any] = {
        "recipe": recipe,
        "budget": budget,
        "seed": seed,
        "augment": augment,
        **sides,
        "across": across,
        "patience": patience,
        "spec": spec,
        "validation": val_tasks,
        "val_episodes": val_episodes,
        "finish": getattr(on_finish, "settings", None),
    }
    parts = {"training": faces, **({} if val is None else {"validation": val})}
    parts |= getattr(on_finish, "faces", {})
    definition = runs.define(options, learner=learner, faces=parts)
    seen = seen_people(faces, val) | {"before": list(learner.trained_before)}
    run = _Run(learner.to(device), recipe, budget, sampler, spec, seen, group, definition)
    path = None if out is None else given_path(out, "the results") / "checkpoint.pt"

    def earlier() -> tuple[dict[str, Any], str | None] | None:
        if path is None or not checkpoint.exists(path):
            return None
        if not resume:
            raise checkpoint.CheckpointError(
                f"{path} is there already: resume (--resume), or choose another folder"
            )
        return checkpoint.load_latest(path)

    def save() -> None:
        if path is not None:
            checkpoint.save(path, run.state())

    def validate() -> dict[str, float]:
        assert val is not None
        began = time.monotonic()
        run.refresh()
        result = evaluate(
            learner,
            val,
            **val_tasks,
            episodes=val_episodes,
            seed=seed,
            stream="validation",
            device=device,
            progress=False,
        )
        return {
            "val_accuracy": result.accuracy,
            "val_ci95": result.ci95,
            "val_ways": result.ways,
            "val_shots": result.shots,
            "val_seconds": time.monotonic() - began,
        }

    with group.watch(path), ExitStack() as held:
        group.from_first(lambda: held.enter_context(locked(out)))
        if found := group.from_first(earlier):
            state, warning = found
            if warning and group.first:
                warnings.warn(warning, stacklevel=2)
            assert path is not None
            run.restore(state, path)
        run.history.recipe, run.history.notes = asdict(recipe), notes
        group.spread(learner)
        learner.train()
        saved = time.monotonic()
        bar = track(
            total=100,
            initial=round(100 * run.spent),
            unit="%",
            show=progress and group.first,
            desc=label or type(learner).__name__,
            mininterval=0.5,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
        )
        with bar, _scalars(out if group.first else None, run) as write, interruptible() as stop:
            while run.spent < 1 and not (patience and run.stale >= patience):
                row = run.step()
                if row is not None:
                    if val is not None and run.validation_due():
                        run.validated(group.from_first(validate))
                        if on_validation is not None:
                            on_validation(row)
                    write(row)
                    bar.set_postfix_str(run.summary())
                bar.update(round(100 * run.spent) - bar.n)
                if run.agreed(stop()):
                    group.from_first(save)
                    where = "" if path is None else f"; go on with resume (--resume) from {path}"
                    raise Interrupted(f"stopped at step {run.history.iterations}{where}")
                if group.first and time.monotonic() - saved > checkpoint_seconds:
                    save()
                    saved = time.monotonic()
        run.history.stopped_early = run.spent < 1
        over = run.history.seconds - 60 * (minutes or math.inf)
        if over > 0.1 * run.history.seconds and group.first:
            log.warning(
                "%s: the budget of %.0f s was overrun by %.0f s: one validation takes %.0f s; use "
                "a larger budget, or fewer validation episodes",
                name,
                60 * (minutes or 0),
                over,
                run.val_seconds,
            )
        group.from_first(run.refresh)
        if run.best is not None:
            learner.load_state_dict(run.best["learner"])
        if on_finish is not None and run.history.finished is None:
            group.from_first(save)  # it may take long
            run.history.finished = group.from_first(lambda: on_finish(learner))
            run.keep_best()
        group.spread(learner)  # with the statistics of frozen layers, which the first refreshed
        group.from_first(save)
    learner.eval()
    return run.history


class _Run:
    """The state of one training run: all that a checkpoint holds."""

    def __init__(
        self,
        learner: MetaLearner,
        recipe: Recipe,
        budget: Budget,
        sampler: EpisodeSampler | AcrossDomains,
        spec: ModelSpec | None,
        seen: dict[str, Any],
        group: distributed.Group,
        definition: dict[str, Any],
    ) -> None:
        self.seen, self.group, self.definition = seen, group, definition
        self.part = group.part(recipe.meta_batch)
        self.learner, self.recipe, self.budget = learner, recipe, budget
        self.sampler, self.spec = sampler, spec
        self.history = History()
        self.best: dict[str, Any] | None = None
        self.stale = 0
        self.optimizer = _OPTIMIZERS[recipe.optimizer](learner.parameters(), recipe.lr)
        self._sums = [0.0, 0.0, 0.0]  # loss, accuracy, steps since the last row of the curve
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of this process's own clock; ``history.seconds`` is what all have agreed on."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> float:
        """Of the budget, the time that a last validation takes included."""
        return self._spent(self.history.seconds + self.val_seconds)

    @property
    def val_seconds(self) -> float:
        """What the longest validation took."""
        return max((row.get("val_seconds", 0.0) for row in self.history.rows), default=0.0)

    def _spent(self, seconds: float) -> float:
        return self.budget.spent(self.history.iterations, self.history.images, seconds)

    def agreed(self, stop: bool) -> bool:
        """Whether any process is to stop; also sets the clock by the first one's."""
        self.history.seconds, stops = self.group.sum(self.group.first * self.seconds, stop)
        return stops > 0

    def step(self) -> dict[str, float] | None:
        """One outer step; a new row of the curve where one is due."""
        history, before, tasks = self.history, self.spent, self.recipe.meta_batch
        episodes = self.sampler.batch(history.iterations, tasks, self.part)
        rate = self.recipe.lr * _SCHEDULES[self.recipe.schedule](before)
        self.optimizer.param_groups[0]["lr"] = rate
        got = self.learner.meta_step(episodes)
        share = len(episodes) / tasks
        loss, accuracy, history.seconds = self.group.sum(
            share * got["loss"], share * got["accuracy"], self.group.first * self.seconds
        )
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {history.iterations}: use a lower learning "
                "rate (inner or outer); the last checkpoint is as it was"
            )
        self.group.average_gradients(self.learner.parameters(), share)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.recipe.clip)
        self.optimizer.step()
        if (weight := nets.find_not_finite(self.learner)) is not None:
            raise FloatingPointError(
                f"{weight} is not finite after step {history.iterations}: use a lower learning "
                "rate (inner or outer); the last checkpoint is as it was"
            )
        history.iterations += 1
        photographs = episodes.support_y.numel() + episodes.query_y.numel()
        history.images += photographs // len(episodes) * tasks
        self._sums = [a + b for a, b in zip(self._sums, (loss, accuracy, 1), strict=True)]
        if int(before * CURVE_POINTS) == int(self.spent * CURVE_POINTS):
            return None
        loss, accuracy, steps = self._sums  # means from here on
        self._sums = [0.0, 0.0, 0.0]
        history.rows.append(
            {
                "iteration": history.iterations,
                "images": history.images,
                "seconds": history.seconds,
                "lr": rate,
                "loss": loss / steps,
                "accuracy": accuracy / steps,
            }
        )
        return history.rows[-1]

    def validation_due(self) -> bool:
        """Whether the last row of the curve crossed a fifth of the budget."""
        done = sum("val_accuracy" in row for row in self.history.rows)
        return int(self._spent(self.history.seconds) * VALIDATIONS) > done or self.spent >= 1

    def validated(self, found: dict[str, float]) -> None:
        """Note a validation, and keep the weights where they are the best so far."""
        self.history.rows[-1] |= found
        accuracy = found["val_accuracy"]
        self.stale += 1
        if self.best is None or accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy}
            self.keep_best()
            self.history.best_iteration = self.history.iterations
            self.stale = 0

    def keep_best(self) -> None:
        """Keep the learner's weights as the best ones, where there was a validation."""
        if self.best is not None:
            state = self.learner.state_dict()
            self.best["learner"] = {n: t.detach().clone() for n, t in state.items()}

    def refresh(self) -> None:
        """Population statistics of frozen layers, from 16 batches of the training people."""
        size = self.recipe.meta_batch
        nets.refresh_statistics(
            self.learner.embedding,
            (self.sampler.batch(k, size).support.flatten(0, 1) for k in range(16)),
        )

    def summary(self) -> str:
        history, row = self.history, self.history.rows[-1]
        validated = [r["val_accuracy"] for r in history.rows if "val_accuracy" in r]
        tasks = history.iterations * self.recipe.meta_batch / history.seconds
        text = f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}, {tasks:.1f} tasks/s"
        return text + (f", validation {validated[-1]:.3f}" if validated else "")

    def state(self) -> dict[str, Any]:
        return {
            "spec": None if self.spec is None else asdict(self.spec),
            "definition": self.definition,
            "seen": self.seen,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "stale": self.stale,
            "sums": self._sums,
            "history": asdict(self.history) | {"seconds": self.seconds},
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        with checkpoint.restoring(path, "learner"):
            self._refuse_another(state, path)
            self.learner.load_state_dict(state["learner"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best, self.stale, self._sums = state["best"], state["stale"], state["sums"]
            self.history = History(**state["history"])
            torch.set_rng_state(state["torch_rng"])
        self._started = time.monotonic() - self.history.seconds

    def _refuse_another(self, state: dict[str, Any], path: Path) -> None:
        if "definition" not in state and "settings" not in state:
            raise checkpoint.CheckpointError(
                f"{path} holds a model, and not the training that made it: start from it "
                "(--start), in another folder (--out)"
            )
        there = state.get("definition") or _former_definition(state, self.spec)
        changed = runs.differences(there, self.definition)
        if changed:
            raise checkpoint.CheckpointError(
                f"{path} is of another run ({changed}): go on with what it was started with, or "
                "choose another folder (--out)"
            )


def _former_definition(state: dict[str, Any], now: ModelSpec | None) -> dict[str, Any]:
    """What a checkpoint from before MetaFace 0.2 says of its run, and a warning of the rest."""
    log.warning(
        "a checkpoint from before MetaFace 0.2 does not say which photographs it was trained on, "
        "nor which weights it started from: they are not compared"
    )
    settings = dict(state["settings"])
    for counted in ("people", "photographs"):
        settings.pop(counted)
    spec = state.get("spec")
    if not spec:
        return {"options": {"across": False, **settings}}
    former = find_former_options(spec["learner"], state["learner"])
    spec = spec | {"options": {**former, **spec["options"]}}
    if now is not None:
        spec["start_sha256"] = now.start_sha256
    return {"options": {"across": False, **settings, "spec": spec}, "learner": former}


def choose_device(given: str | torch.device | None) -> torch.device:
    """What was ``given``; None: a GPU where there is one, else the CPU.

    Raises:
        ValueError: no device that this machine has.
    """
    return best_device() if given is None else checked_device(given)


def best_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr),
}
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda spent: 1.0,
    "linear": lambda spent: 1.0 - spent,
    "halving": lambda spent: 0.5 ** int(10 * spent),  # ten times, as Snell et al. 2017
    "cosine": lambda spent: 0.5 * (1 + math.cos(math.pi * spent)),
}


def _refuse_shared_people(faces: FaceSet, val: FaceSet) -> None:
    if faces.store is val.store and faces.people == val.people:
        both = {p: faces.people[p] for p in set(faces.person_ids) & set(val.person_ids)}
    else:
        both = val.known(**faces.seen())
    if both:
        names = ", ".join(
            name if val.people[p] == name else f"{name} (in validation {val.people[p]})"
            for p, name in sorted(both.items())[:5]
        )
        raise ValueError(
            f"{len(both)} people are in both training and validation ({names}, ...): split with "
            "FaceSet.split"
        )


def seen_people(faces: FaceSet, val: FaceSet | None) -> dict[str, Any]:
    """Whom training has seen, as ``FaceSet.unseen`` takes it: nobody is tested on them later."""
    seen = faces.seen()
    if val is None:
        return seen
    more, first = val.seen(), len(seen["people"])
    photos = {
        "shape": seen["photos"]["shape"],
        "digests": torch.cat([seen["photos"]["digests"], more["photos"]["digests"]]),
        "whose": torch.cat([seen["photos"]["whose"], more["photos"]["whose"] + first]),
    }
    return {
        "data": join_names((seen["data"], more["data"])),
        "source": join_names((seen["source"], more["source"])),
        "people": seen["people"] + more["people"],
        "photos": photos,
    }


@contextmanager
def _scalars(out: str | Path | None, run: _Run) -> Iterator[Callable[[dict[str, float]], None]]:
    """Write rows of the curve where TensorBoard reads them."""
    if out is None:
        yield lambda row: None
        return
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(Path(out) / "tensorboard"), purge_step=run.history.iterations)

    def write(row: dict[str, float]) -> None:
        for name, value in row.items():
            if name not in ("val_ways", "val_shots"):  # which stay as they are
                writer.add_scalar(name, value, int(row["iteration"]))

    try:
        yield write
    finally:
        writer.close()


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
