"""Training a meta-learner: the outer loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from metaface.arguments import (
    check_counts,
    check_flags,
    check_given_counts,
    check_rates,
    refuse_moved,
)
from metaface.data import FaceSet
from metaface.episodes import AcrossDomains, Augment, EpisodeSampler
from metaface.episodes.sampler import check_range
from metaface.evaluation import evaluate
from metaface.learners import MetaLearner, Recipe
from metaface.learners.spec import ModelSpec, find_former_options
from metaface.machine import choose_device
from metaface.training import distributed, runs
from metaface.training.fitting import fit_recipe, fit_validation
from metaface.training.loop import History, Training
from metaface.training.options import (
    LIMITS,
    Budget,
    Run,
    Task,
    Validation,
    check_kinds,
    merge,
    new_places,
)
from metaface.training.people import refuse_shared_people, seen_people

log = logging.getLogger("metaface.training")

VALIDATIONS = 5  # over the budget
VAL_WAYS = 5  # unless the user says otherwise
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


@refuse_moved(**new_places("ways", "shots", "iterations"))
def train(
    learner: MetaLearner,
    faces: FaceSet,
    val: FaceSet | None = None,
    *,
    ways: int | tuple[int, int] | None = None,
    shots: int | tuple[int, int] | None = None,
    iterations: int | None = None,
    task: Task = Task(),  # noqa: B008 - frozen, as the others
    budget: Budget = Budget(),  # noqa: B008
    validation: Validation = Validation(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
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
        ways, shots: of the training tasks, as in ``task``.
        iterations: outer steps, as in ``budget``.
        task: what a step is made of; see :class:`Task`.
        budget: how long to train; see :class:`Budget`.
        validation: by which tasks the weights that are kept are chosen; see :class:`Validation`.
        run: seed, device, folder, progress; see :class:`Run`.

    Returns:
        The learning curve and what was spent.

    Raises:
        ValueError: a bad budget; people in both sets; too few people or photographs; fewer tasks
            in a meta-batch than processes.
        TypeError: a keyword of MetaFace 0.2: where it is now.
        FloatingPointError: the loss is not finite (which step); the checkpoint is kept.
        Interrupted: Ctrl-C, after a checkpoint was written.
        metaface.checkpoint.CheckpointError: nothing readable, or of other settings, to resume.
        metaface.training.distributed.ProcessLost: another process died; how to go on.
        FolderInUse: another run is writing into ``run.out``.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=20, photos=6, progress=False)
        >>> people, val, test = faces.split(seed=0)
        >>> learner = mf.learners.Prototypical(mf.nets.Conv4())
        >>> run = mf.training.Run(progress=False)
        >>> mf.train(learner, people, ways=5, shots=1, iterations=2, run=run).iterations
        2
    """
    check_kinds(task=task, budget=budget, validation=validation, run=run)
    task = merge("task", task, ways=ways, shots=shots)
    budget = merge("budget", budget, iterations=iterations)
    _check(learner, faces, val, task, validation, run)
    training = _prepared(learner, faces, val, task, budget, validation, run)
    return training.train()


def _check(
    learner: MetaLearner,
    faces: FaceSet,
    val: FaceSet | None,
    task: Task,
    validation: Validation,
    run: Run,
) -> None:
    """Refuse what is of the wrong kind, or a number that cannot be meant."""
    for what, kind, name in ((learner, MetaLearner, "learner"), (faces, FaceSet, "faces")):
        if not isinstance(what, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__}, got a {type(what).__name__}: "
                "metaface.train(learner, faces, val) takes a learner of metaface.learners, and "
                "the parts of FaceSet.split one by one"
            )
    if val is not None and not isinstance(val, FaceSet):
        raise ValueError(f"val must be a FaceSet or None, got a {type(val).__name__}")
    if run.spec is not None and not isinstance(run.spec, ModelSpec):
        raise ValueError(f"spec must be a ModelSpec or None, got a {type(run.spec).__name__}")
    for name, called in (("on_row", validation.on_row), ("on_finish", run.on_finish)):
        if called is not None and not callable(called):
            raise ValueError(f"{name}={called!r}: must be a function or None")
    check_counts(1, **{"validation.ways": validation.ways})
    given = {"validation.shots": validation.shots, "validation.episodes": validation.episodes}
    check_given_counts(1, **given)
    check_given_counts(0, seed=run.seed)
    check_flags(resume=run.resume, across=task.across)
    check_rates(checkpoint_seconds=run.checkpoint_seconds)
    for name, least in (("ways", 2), ("shots", 1)):
        if (value := getattr(task, name)) is not None:
            check_range(name, value, least)
    if task.across and (task.support_domain or task.query_domain):
        raise ValueError("across pairs all domains: leave out support_domain and query_domain")
    if val is not None:
        refuse_shared_people(faces, val)


def _prepared(
    learner: MetaLearner,
    faces: FaceSet,
    val: FaceSet | None,
    task: Task,
    budget: Budget,
    validation: Validation,
    run: Run,
) -> _MetaTraining:
    """The training of these options, with what was fitted to the photographs that there are."""
    recipe_fields = ("ways", "shots", "queries", "meta_batch", "lr")
    given = {n: getattr(task, n) for n in recipe_fields if getattr(task, n) is not None}
    sides = {"support_domain": task.support_domain, "query_domain": task.query_domain}
    recipe, changed = fit_recipe(
        replace(learner.recipe, **given), faces, given, **sides, across=task.across
    )
    val_tasks, lowered = _validation_tasks(val, validation, sides)
    name = run.spec.learner if run.spec else type(learner).__name__
    notes = [f"{name}: {note}" for note in (changed, lowered) if note]
    group = distributed.join()
    for note in notes if group.first else ():
        log.warning(note)
    device = group.device(choose_device(run.device))
    augment = Augment.of(task.augment) if isinstance(task.augment, tuple | list) else task.augment
    sampler_options: dict[str, Any] = {} if task.across else sides
    sampler: EpisodeSampler | AcrossDomains = (AcrossDomains if task.across else EpisodeSampler)(
        faces,
        recipe.ways,
        recipe.shots,
        recipe.queries,
        seed=run.seed,
        augment=augment,
        device=device,
        **sampler_options,
    )
    defining: dict[str, Any] = {
        "recipe": recipe,
        "budget": {limit: getattr(budget, limit) for limit in LIMITS},
        "seed": run.seed,
        "augment": augment,
        **sides,
        "across": task.across,
        "patience": budget.patience,
        "spec": run.spec,
        "validation": val_tasks,
        "val_episodes": validation.episodes,
        "finish": getattr(run.on_finish, "settings", None),
    }
    parts = {"training": faces, **({} if val is None else {"validation": val})}
    parts |= getattr(run.on_finish, "faces", {})
    definition = runs.define(defining, learner=learner, faces=parts)
    learner.begin(faces)
    optimizer = _OPTIMIZERS[recipe.optimizer](learner.to(device).parameters(), recipe.lr)
    training = _MetaTraining(learner, optimizer, budget, run, definition, group)
    training.recipe, training.sampler, training.notes = recipe, sampler, notes
    training.part = group.part(recipe.meta_batch)
    training.seen = seen_people(faces, val) | {"before": list(learner.trained_before)}
    if val is not None:
        training.validate = lambda: evaluate(
            learner,
            val,
            ways=val_tasks["ways"],
            shots=val_tasks["shots"],
            queries=val_tasks["queries"],
            domains=(task.support_domain, task.query_domain),
            episodes=validation.episodes,
            seed=run.seed,
            stream="validation",
            progress=False,
        )
        training.on_row = validation.on_row
    return training


def _validation_tasks(
    val: FaceSet | None, validation: Validation, sides: dict[str, str | None]
) -> tuple[dict[str, Any], str]:
    """Validation tasks that ``val`` has the photographs for, and what was changed, "" if nothing.

    Raises:
        ValueError: there are no such tasks; now, not after a fifth of the budget.
    """
    if val is None:
        return {}, ""
    wanted = VAL_WAYS if validation.ways is None else validation.ways
    ways, queries, lowered = fit_validation(val, wanted, validation.shots, **sides)
    if validation.ways is not None:
        ways, lowered = validation.ways, ""
    tasks = {"ways": ways, "shots": validation.shots, "queries": queries, **sides}
    EpisodeSampler(val, **tasks)  # type: ignore[arg-type]
    return tasks, lowered


class _MetaTraining(Training):
    """Of a meta-learner: steps on tasks, validation, the best weights."""

    model: MetaLearner
    recipe: Recipe
    sampler: EpisodeSampler | AcrossDomains
    part: slice
    seen: dict[str, Any]
    notes: list[str]
    validate: Callable[[], Any] | None = None
    on_row: Callable[[dict[str, float]], object] | None = None
    best: dict[str, Any] | None = None
    stale = 0

    def rate(self, spent: float) -> float:
        return self.recipe.lr * _SCHEDULES[self.recipe.schedule](spent)

    def step(self) -> int:
        history, tasks = self.history, self.recipe.meta_batch
        episodes = self.sampler.batch(history.iterations, tasks, self.part)
        got = self.model.meta_step(episodes)
        share = len(episodes) / tasks
        loss, accuracy, history.seconds = self.group.sum(
            share * got["loss"], share * got["accuracy"], self.group.first * self.seconds
        )
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {history.iterations}: use a lower learning "
                "rate (inner or outer); the last checkpoint is as it was"
            )
        self.group.average_gradients(self.model.parameters(), share)
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.note("loss", loss)
        self.note("accuracy", accuracy)
        photographs = episodes.support_y.numel() + episodes.query_y.numel()
        return photographs // len(episodes) * tasks

    def prepare(self) -> None:
        self.history.recipe, self.history.notes = asdict(self.recipe), self.notes

    def _loop(self) -> None:
        out = self.run.out if self.group.first else None
        with _scalars(out, self.history.iterations) as self._write:
            super()._loop()

    def enough(self) -> bool:
        patience = self.budget.patience
        return bool(patience and self.stale >= patience)

    def after_row(self, row: dict[str, float]) -> None:
        if self.validate is not None and self._validation_due():
            self._keep(self.group.from_first(self._validated))
            if self.on_row is not None:
                self.on_row(row)
        self._write(row)

    def _validation_due(self) -> bool:
        """Whether the last row of the curve crossed a fifth of the budget."""
        done = sum("val_accuracy" in row for row in self.history.rows)
        return int(self.spent_after(self.history.seconds) * VALIDATIONS) > done or self.spent >= 1

    def _validated(self) -> dict[str, float]:
        assert self.validate is not None
        began = time.monotonic()
        self._refresh()
        result = self.validate()
        return {
            "val_accuracy": result.accuracy,
            "val_ci95": result.ci95,
            "val_ways": result.ways,
            "val_shots": result.shots,
            "val_seconds": time.monotonic() - began,
        }

    def _keep(self, validated: dict[str, float]) -> None:
        """Note a validation, and keep the weights where they are the best so far."""
        self.history.rows[-1] |= validated
        accuracy = validated["val_accuracy"]
        self.stale += 1
        if self.best is None or accuracy > self.best["accuracy"]:
            self.best = {"accuracy": accuracy}
            self._keep_weights()
            self.history.best_iteration = self.history.iterations
            self.stale = 0

    def _keep_weights(self) -> None:
        """Keep the learner's weights as the best ones, where there was a validation."""
        if self.best is not None:
            state = self.model.state_dict()
            self.best["learner"] = {n: t.detach().clone() for n, t in state.items()}

    def _refresh(self) -> None:
        """Population statistics of frozen layers, from 16 batches of the training people."""
        size = self.recipe.meta_batch
        self.model.refresh(self.sampler.batch(k, size).support.flatten(0, 1) for k in range(16))

    def finish(self) -> None:
        self._warn_of_overrun()
        self.group.from_first(self._refresh)
        if self.best is not None:
            self.model.load_state_dict(self.best["learner"])
        on_finish = self.run.on_finish
        if on_finish is not None and self.history.finished is None:
            self.group.from_first(self.save)  # it may take long
            self.history.finished = self.group.from_first(lambda: on_finish(self.model))
            self._keep_weights()
        # with the statistics of frozen layers, which the first process refreshed
        self.group.spread(self.model)

    def _warn_of_overrun(self) -> None:
        minutes = self.budget.minutes
        over = self.history.seconds - 60 * (minutes or math.inf)
        if minutes and over > 0.1 * self.history.seconds and self.group.first:
            name = self.run.spec.learner if self.run.spec else type(self.model).__name__
            log.warning(
                "%s: the budget of %.0f s was overrun by %.0f s: one validation takes %.0f s; use "
                "a larger budget, or fewer validation episodes",
                name,
                60 * minutes,
                over,
                self.val_seconds,
            )

    def summary(self) -> str:
        history, row = self.history, self.history.rows[-1]
        validated = [r["val_accuracy"] for r in history.rows if "val_accuracy" in r]
        tasks = history.iterations * self.recipe.meta_batch / history.seconds
        text = f"loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}, {tasks:.1f} tasks/s"
        return text + (f", validation {validated[-1]:.3f}" if validated else "")

    def own_state(self) -> dict[str, Any]:
        return {
            "spec": None if self.run.spec is None else asdict(self.run.spec),
            "seen": self.seen,
            "best": self.best,
            "stale": self.stale,
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        self.best, self.stale = state["best"], state["stale"]

    def former_definition(self, state: dict[str, Any]) -> dict[str, Any]:
        return _former_definition(state, self.run.spec)


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


@contextmanager
def _scalars(out: str | Path | None, first: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Write rows of the curve where TensorBoard reads them, from step ``first`` on."""
    if out is None:
        yield lambda row: None
        return
    from tensorboardX import SummaryWriter

    with ExitStack() as held:
        writer = SummaryWriter(str(Path(out) / "tensorboard"), purge_step=first)
        held.callback(writer.close)

        def write(row: dict[str, float]) -> None:
            for name, value in row.items():
                if name not in ("val_ways", "val_shots"):  # which stay as they are
                    writer.add_scalar(name, value, int(row["iteration"]))

        yield write
