"""Hyper-parameter search: many short trainings, judged by validation people alone."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaface import machine, report
from metaface._digest import content_digest
from metaface._json import write_json
from metaface._processes import launched
from metaface._text import given_path
from metaface.arguments import check_given_counts, check_once
from metaface.data import FaceSet
from metaface.experiments import benchmark
from metaface.experiments.job import check_settings, specify, train_learner
from metaface.experiments.runner import all_notes
from metaface.learners import find
from metaface.learners.spaces import OUTER, SPACES, Categorical, Range, Space
from metaface.machine import choose_device
from metaface.options import BenchmarkSettings
from metaface.options.jobs import RECIPE
from metaface.training import Budget, Interrupted, Validation, meta, runs
from metaface.training.fitting import fit_recipe, fit_validation
from metaface.training.meta import VALIDATIONS

log = logging.getLogger("metaface.experiments.sweep")

EPISODES = 200  # of a validation: the same ones for every trial
STARTUP = 10  # random trials before Optuna's sampler learns from them
TO_COMPARE = 4  # completed trials before the median can end one
TO_WEIGH = 5  # completed trials before importances are worth a look
DEFAULTS = BenchmarkSettings()


def run(
    settings: BenchmarkSettings,
    out: str | Path,
    *,
    trials: int = 20,
    total_minutes: float | None = None,
    parameters: Sequence[str] | None = None,
    storage: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Search learners' hyper-parameters; writes ``sweep.json`` and ``sweep.html`` into ``out``.

    A trial trains a learner as the benchmark would, for the budget in ``settings``, and is worth
    the best accuracy on the *validation* people; the median of earlier trials ends hopeless ones
    (Optuna: Akiba et al. 2019, arXiv 1907.10902; TPE, Bergstra et al. 2011). People are split as
    by the benchmark of the same settings; those it tests on are not looked at. The first trial is
    the learner's defaults. All trials share split, tasks and initial weights; the parameters of a
    trial depend on the seed, its number and the trials before it.

    Several processes, on several machines, may share a storage: each is started with ``resume`` and
    the same settings, and ``trials`` counts those of all.

    Args:
        settings: data, network, learners and the budget of a *trial* (``iterations``, ``images`` or
            ``minutes``); ``options`` and ``norm`` are where the search starts, or what is kept.
        out: folder for the results.
        trials: of each learner, those of earlier and other processes included.
        total_minutes: begin no trial after so many; None: no limit.
        parameters: names to search over; None: all in ``metaface.learners.spaces``.
        storage: file of an Optuna journal, or a database such as ``sqlite:///sweep.db``; None:
            ``journal.log`` in ``out``.
        resume: go on with, or join, what is in the storage; else a search there is refused.
        progress: show progress bars.

    Returns:
        What ``sweep.json`` holds: ``settings``, ``machine``, ``data``, ``spaces``, ``trials``,
        ``best`` (by learner; ``options`` and ``norm`` as :class:`BenchmarkSettings` has them),
        ``importances``, ``commands`` and ``notes``, what was changed for want of photographs.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: settings that cannot be met; nothing to search over.
        FileExistsError: the storage holds a search of other settings, or ``resume`` is not set.
        Interrupted: Ctrl-C; what was done is kept, and written.

    Example:
        >>> from pathlib import Path
        >>> import metaface as mf
        >>> from PIL import Image
        >>> faces = mf.synthetic.render(people=30, photos=6, image_size=28)
        >>> for i, person in enumerate(faces.person):
        ...     Path("photos", f"{person}").mkdir(parents=True, exist_ok=True)
        ...     Image.fromarray(faces.images[i]).save(f"photos/{person}/{i}.png")
        >>> settings = mf.options.BenchmarkSettings(
        ...     data="photos", learners=("anil",), shots=(1,), iterations=2
        ... )
        >>> results = mf.sweep(settings, "sweep", trials=2, parameters=["lr"], progress=False)
        >>> len(results["trials"]), list(results["best"]["anil"]["parameters"])
        (2, ['lr'])
    """
    optuna = _optuna()
    if launched():
        raise ValueError(
            "a sweep shares its storage, not its trials: start it without torchrun, as many times "
            "as you like (--resume)"
        )
    check_given_counts(1, trials=trials)
    if parameters is not None:
        check_once(parameters=parameters)
    settings, out = check_settings(settings), given_path(out, "the results")
    people, device = _people(settings, progress), choose_device(settings.device)
    spaces = _spaces(settings, people.train, parameters)
    out.mkdir(parents=True, exist_ok=True)
    with _opened(out / "journal.log" if storage is None else storage) as store:
        searches = [
            _Search(
                _study(optuna, name, space, settings, people, store, resume),
                *(name, space, settings, people, device, progress),
            )
            for name, space in spaces.items()
        ]
        try:
            with _saying_once():
                _take_turns(searches, trials, total_minutes)
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"stopped; what is done is in {out / 'sweep.json'}: go on with resume (--resume)"
            ) from stop
        finally:
            results = _results(searches, settings, people, device)
            write_json(out / "sweep.json", results)
            report.write_sweep(out / "sweep.html", results)
    return results


def _take_turns(searches: Sequence[_Search], trials: int, total_minutes: float | None) -> None:
    """One trial of each learner after the other, so that whatever ends the sweep is fair to all."""
    began = time.monotonic()
    unfinished = list(searches)
    while unfinished:
        for search in list(unfinished):
            if total_minutes is not None and time.monotonic() - began > 60 * total_minutes:
                return
            if not search.step(trials):
                unfinished.remove(search)


@contextmanager
def _saying_once() -> Iterator[None]:
    """Have each warning of training said once, though every trial has cause to say it."""
    once = _Once()
    for logger in _TRAINERS:
        logger.addFilter(once)
    try:
        yield
    finally:
        for logger in _TRAINERS:
            logger.removeFilter(once)


# -- whom, and over what -------------------------------------------------------------------------


@dataclass(frozen=True)
class _People:
    """Whom a sweep may look at. There is no test part: nothing here can be measured on it."""

    train: FaceSet
    val: FaceSet


def _people(settings: BenchmarkSettings, progress: bool) -> _People:
    found = benchmark.load_people(settings, progress=progress)
    return _People(found.train, found.val)


def _spaces(
    settings: BenchmarkSettings, faces: FaceSet, parameters: Sequence[str] | None
) -> dict[str, Space]:
    """What is searched over, by learner: no more shots or ways than there are photographs for."""
    tables = {name: SPACES.get(name, OUTER) for name in settings.learners}
    known = {n: None for table in tables.values() for n in table}
    unknown = [n for n in parameters or () if n not in known]
    if unknown:
        raise ValueError(
            f"no parameter {', '.join(unknown)} to search: choose of {', '.join(known)}"
        )
    spaces: dict[str, Space] = {}
    for learner, table in tables.items():
        spaces[learner] = {}
        for name, values in table.items():
            if parameters is not None and name not in parameters:
                continue
            if isinstance(values, Range) and name in ("ways", "shots"):
                recipe = specify(settings, learner).build().recipe
                changed: dict[str, Any] = {name: int(values.high)}
                own = replace(recipe, **changed)
                most = getattr(fit_recipe(own, faces)[0], name)
                values = replace(values, high=min(values.high, most))
                if values.low >= values.high:
                    continue
            if isinstance(values, Categorical) and settings.norm not in values.values:
                raise ValueError(
                    f"norm={settings.norm} is not one that is searched "
                    f"({', '.join(values.values)}): start from one of these, or "
                    "name the parameters to search without norm"
                )
            spaces[learner][name] = values
        if not spaces[learner]:
            raise ValueError(
                f"{learner} has none of the parameters {', '.join(parameters or ())}: choose of "
                f"{', '.join(table)}, or leave it out"
            )
    return spaces


def _defaults(learner: str, space: Space, settings: BenchmarkSettings) -> dict[str, Any]:
    """Where the search starts: what is given, else the learner's own, moved into the space."""
    given, own = settings.options.get(learner, {}), specify(settings, learner).build().recipe
    arguments = inspect.signature(find(learner)).parameters
    found: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Categorical):
            found[name] = settings.norm
            continue
        value = getattr(own, name) if name in RECIPE else arguments[name].default
        found[name] = min(max(given.get(name, value), values.low), values.high)
    return found


def _tuned(
    settings: BenchmarkSettings, learner: str, parameters: dict[str, Any]
) -> BenchmarkSettings:
    """``settings`` with a trial's parameters of ``learner``."""
    rest = {n: v for n, v in parameters.items() if n != "norm"}
    options = {**settings.options.get(learner, {}), **rest}
    norm = parameters.get("norm", settings.norm)
    return replace(settings, options={**settings.options, learner: options}, norm=norm)


def _fitted(
    settings: BenchmarkSettings, learner: str, parameters: dict[str, Any], faces: FaceSet
) -> dict[str, Any]:
    """Of a trial's parameters those of the recipe, as far as there are photographs for them all
    together, and for what the user asked for."""
    drawn = {n: v for n, v in parameters.items() if n in RECIPE}
    given = settings.given(learner)
    own = specify(settings, learner).build().recipe
    recipe, _ = fit_recipe(replace(own, **(given | drawn)), faces, given.keys() - drawn.keys())
    return {n: getattr(recipe, n) for n in drawn}


def _rounded(parameters: dict[str, Any]) -> dict[str, Any]:
    """Four digits are what is printed, so four are what is trained with."""
    return {n: float(f"{v:.4g}") if isinstance(v, float) else v for n, v in parameters.items()}


# -- Optuna --------------------------------------------------------------------------------------


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            f"a sweep needs Optuna ({error}): pip install 'metaface[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def _opened(where: str | Path) -> Iterator[Any]:
    """The storage at a path or a database's URL; a database's connections are closed after it."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if "://" in str(where):
        database = RDBStorage(str(where))
        try:
            yield database
        finally:
            database.remove_session()
            database.engine.dispose()
        return
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(path)) if sys.platform == "win32" else None  # no symlinks there
    yield JournalStorage(JournalFileBackend(str(path), lock))


def _study(
    optuna: Any,
    learner: str,
    space: Space,
    settings: BenchmarkSettings,
    people: _People,
    storage: Any,
    resume: bool,
) -> Any:
    """The learner's study in the storage: a new one that starts from the defaults, or, with
    ``resume``, the one that is there.

    Raises:
        FileExistsError: there is one, and ``resume`` is not set, or it is of other settings.
    """
    mine = _fingerprint(learner, space, settings, people)
    options = {
        "study_name": learner,
        "storage": storage,
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=TO_COMPARE, n_warmup_steps=2),
    }
    try:
        study = optuna.create_study(direction="maximize", **options)
    except optuna.exceptions.DuplicatedStudyError:
        if not resume:
            raise FileExistsError(
                f"the storage holds a sweep of {learner} already: go on with it, or join it "
                "(--resume), or choose another folder (--out) or --storage"
            ) from None
        study = optuna.load_study(**options)
    else:
        study.set_user_attr("settings", mine)
        study.enqueue_trial(_defaults(learner, space, settings))
        return study
    patience = time.monotonic() + 10  # whoever made the study is about to say of what settings
    while "settings" not in study.user_attrs and time.monotonic() < patience:
        time.sleep(0.1)
    theirs = study.user_attrs.get("settings", {})
    if "options" not in theirs:  # from before MetaFace 0.2
        theirs = {"options": theirs}
    if changed := runs.differences(theirs, mine):
        raise FileExistsError(
            f"the storage holds a sweep of {learner} of other settings or photographs ({changed}): "
            "use those, or another folder (--out) or --storage"
        )
    for trial in study.get_trials(deepcopy=False):
        kept = trial.user_attrs.get(_CHECKSUM)  # which was not written before MetaFace 0.2
        if kept is not None and kept != _digest(trial, trial.value):
            raise ValueError(
                f"the storage is damaged or was changed: trial {trial.number} of {learner} does "
                "not fit its checksum: put a copy of yours in its place, or choose another folder "
                "(--out) or --storage"
            )
    _bury(optuna, study)
    return study


def _fingerprint(
    learner: str, space: Space, settings: BenchmarkSettings, people: _People
) -> dict[str, Any]:
    """What all who share a study must agree on. Not where the photographs lie, nor the device:
    machines differ in these."""
    apart = (
        "data",
        "train_data",
        "test_data",
        "device",
        "task_chunk",
        "learners",
        "options",
        "seeds",
        "episodes",
        "weights",
    )
    agreed = {n: v for n, v in asdict(settings).items() if n not in apart}
    agreed |= {
        "start": runs.digest_of(settings.start),
        "options": settings.options.get(learner, {}),
        "space": {n: list(asdict(v).values()) for n, v in space.items()},
    }
    return runs.define(agreed, faces=vars(people))


_CHECKSUM = "sha256"


def _digest(trial: Any, value: float | None) -> str:
    """Of a trial as a storage gives it back: parameters, curve and what it was worth.

    Optuna gives a pruned one a value of its own: that of its last report.
    """
    said = {n: v for n, v in trial.user_attrs.items() if n != _CHECKSUM}
    reported = {str(step): value for step, value in trial.intermediate_values.items()}
    if trial.state.name == "PRUNED":
        value = None
    return content_digest(json.loads(json.dumps([trial.params, said, reported, value])))


def _worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _bury(optuna: Any, study: Any) -> None:
    """Take trials whose process died on this machine as interrupted, to be done again."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        node, _, pid = trial.user_attrs.get("worker", ":").rpartition(":")
        if node != platform.node() or _lives(int(pid)):
            continue
        try:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        except (ValueError, RuntimeError):  # another process was faster
            continue
        study.enqueue_trial(trial.params)


def _lives(pid: int) -> bool:
    """Whether another process of that number runs."""
    if pid == os.getpid():  # an earlier one of my number
        return False
    if sys.platform == "win32":  # no harmless way to ask
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


_TRAINERS = [benchmark.log, meta.log]


class _Once(logging.Filter):
    """Each sentence once, though every trial has cause to say it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self.said
        self.said.add(text)
        return new


class _Pruned(Exception):
    """The median of earlier trials was better."""


@dataclass(eq=False)
class _Search:
    """One learner's search, as this process takes part in it."""

    study: Any
    learner: str
    space: Space
    settings: BenchmarkSettings
    people: _People
    device: torch.device
    progress: bool

    def counted(self) -> list[Any]:
        """The trials that use up ``trials``: done, or being done."""
        from optuna.trial import TrialState

        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        found: list[Any] = self.study.get_trials(deepcopy=False, states=states)
        return found

    def step(self, trials: int) -> bool:
        """Do one trial; whether there was one to do."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        if len(self.counted()) >= trials:
            return False
        trial = self.study.ask()
        if sum(t.number < trial.number for t in self.counted()) >= trials:
            trial.set_user_attr("surplus", True)  # another process began the last one just now
            self.study.tell(trial, state=TrialState.FAIL)
            return True
        # By the trial's number: one stream for the whole process would begin again with every
        # process that joins, and propose the same points.
        (seed,) = np.random.SeedSequence([self.settings.seed, trial.number]).generate_state(1)
        self.study.sampler = TPESampler(seed=int(seed), n_startup_trials=STARTUP)
        trial.set_user_attr("worker", _worker())
        parameters = _rounded({n: _suggest(trial, n, v) for n, v in self.space.items()})
        parameters |= _fitted(self.settings, self.learner, parameters, self.people.train)
        trial.set_user_attr("parameters", parameters)
        began = time.monotonic()
        try:
            curve = self.train(trial, parameters)
        except _Pruned:
            self._done(trial, None)
        except (FloatingPointError, torch.OutOfMemoryError) as why:
            # for the sampler as bad as pruned before the first validation, which is to be avoided
            log.warning("%s, trial %d: %s", self.learner, trial.number, why)
            trial.set_user_attr("why", str(why))
            self._done(trial, None)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)  # to be done again
            raise
        else:
            trial.set_user_attr("seconds", time.monotonic() - began)
            self._done(trial, max(row["val_accuracy"] for row in curve))
        return True

    def _done(self, trial: Any, value: float | None) -> None:
        """Tell what a trial was worth (None: it is pruned), with a checksum of all it has."""
        from optuna.trial import TrialState

        (there,) = (t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)
        trial.set_user_attr(_CHECKSUM, _digest(there, value))
        self.study.tell(trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)

    def train(self, trial: Any, parameters: dict[str, Any]) -> list[dict[str, float]]:
        """Train for one trial; the validated rows of its curve."""
        settings = _tuned(self.settings, self.learner, parameters)
        budget = Budget(settings.iterations, settings.images, settings.minutes)
        curve: list[dict[str, float]] = []
        reported = 0

        def validated(row: dict[str, float]) -> None:
            nonlocal reported
            curve.append(dict(row))
            trial.set_user_attr("curve", curve)
            trial.set_user_attr("seconds", row["seconds"])
            seconds = row["seconds"] + row.get("val_seconds", 0.0)  # as training counts them
            spent = budget.spent(int(row["iteration"]), int(row["images"]), seconds)
            step = int(spent * VALIDATIONS)
            if step > reported:  # a slow step may leave validations behind, which then crowd
                reported = step
                trial.report(row["val_accuracy"], step)
                if spent < 1 and trial.should_prune():
                    raise _Pruned

        _, trained = train_learner(
            settings,
            self.learner,
            settings.seed,
            self.people.train,
            self.people.val,
            None,
            progress=self.progress,
            label=f"{self.learner}, trial {trial.number}",
            validation=Validation(episodes=EPISODES, on_row=validated),
        )
        trial.set_user_attr("notes", trained["notes"])
        return curve


def _suggest(trial: Any, name: str, values: Range | Categorical) -> Any:
    if isinstance(values, Categorical):
        return trial.suggest_categorical(name, values.values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


# -- results -------------------------------------------------------------------------------------


def _results(
    searches: Sequence[_Search], settings: BenchmarkSettings, people: _People, device: torch.device
) -> dict[str, Any]:
    trials = [row for search in searches for row in _rows(search)]
    ways, _, _ = fit_validation(people.val, min(settings.ways), 1)
    best: dict[str, dict[str, Any]] = {}
    for search in searches:
        complete = [r for r in trials if (r["learner"], r["state"]) == (search.learner, "complete")]
        if complete:
            top = max(complete, key=lambda r: (r["accuracy"], -r["number"]))
            tuned = _tuned(settings, search.learner, top["parameters"])
            best[search.learner] = top | {
                "options": tuned.options[search.learner],
                "norm": tuned.norm,
            }
    return {
        "settings": asdict(settings),
        "machine": machine.describe(device),
        "data": {part: faces.describe() for part, faces in vars(people).items()},
        "validation": {"ways": ways, "shots": 1, "episodes": EPISODES},
        "spaces": {s.learner: {n: asdict(v) for n, v in s.space.items()} for s in searches},
        "trials": trials,
        "best": best,
        "importances": {s.learner: _importances(s) for s in searches},
        "commands": list(_commands(settings, best)),
        "notes": all_notes([], trials),
    }


def _rows(search: _Search) -> Iterator[dict[str, Any]]:
    from optuna.trial import TrialState

    states = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.RUNNING: "running",
        TrialState.FAIL: "interrupted",
    }
    defaults = _rounded(_defaults(search.learner, search.space, search.settings))
    for trial in search.study.get_trials(deepcopy=False):
        said = trial.user_attrs
        if trial.state not in states or said.get("surplus"):
            continue
        curve = said.get("curve", [])
        top: dict[str, Any] = max(curve, key=lambda row: row["val_accuracy"], default={})
        drawn = _rounded(trial.params)
        yield {
            "learner": search.learner,
            "number": trial.number,
            "state": "failed" if "why" in said else states[trial.state],
            "parameters": said.get("parameters", drawn),
            "default": drawn == defaults,
            "accuracy": top.get("val_accuracy"),
            "ci95": top.get("val_ci95"),
            "seconds": said.get("seconds"),
            "iterations": curve[-1]["iteration"] if curve else None,
            "images": curve[-1]["images"] if curve else None,
            "curve": curve,
            "worker": said.get("worker"),
            "why": said.get("why"),
            "notes": said.get("notes", []),
        }


def _importances(search: _Search) -> dict[str, float]:
    """Each parameter's share of what tells the best tenth of the completed trials from the rest
    (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255); empty where there is too little to say.

    Not Optuna's fANOVA, which needs scikit-learn.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < TO_WEIGH or len({t.value for t in complete}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the evaluator is, in Optuna 4
        found = get_param_importances(search.study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def _commands(settings: BenchmarkSettings, best: dict[str, Any]) -> Iterator[str]:
    """Ready to run with what was chosen. A benchmark has one norm, so there is one for each."""
    where = []
    for name in (
        "data",
        "train_data",
        "test_data",
        "crop",
        "image_size",
        "channels",
        "embedding",
        "ways",
        "shots",
        "queries",
        "augment",
        "seed",
    ):
        value = getattr(settings, name)
        if value != getattr(DEFAULTS, name) and value is not None:
            values = value if isinstance(value, tuple) else (value,)
            where.append(shlex.join([f"--{name.replace('_', '-')}", *map(str, values)]))
    data = " ".join(where)
    for norm in dict.fromkeys(b["norm"] for b in best.values()):
        names = [n for n, b in best.items() if b["norm"] == norm]
        options = [
            shlex.join(["--option", f"{name}.{option}={value}"])
            for name in names
            for option, value in best[name]["options"].items()
        ]
        yield " ".join(
            ["metaface benchmark --learners", *names, "--norm", norm, *options, data]
        ).strip()
