"""How to train: the tasks, the budget, the validation and the run, each a dataclass of its own."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from metaface.episodes import Augment
    from metaface.learners.spec import ModelSpec
    from metaface.nets.conv import Precision

AUGMENT = ("flip", "crop", "light")
LIMITS = ("iterations", "images", "minutes")  # of a budget


@dataclass(frozen=True)
class Task:
    """What a training step is made of. What is None comes from the learner's own recipe.

    Attributes:
        ways, shots: people of a task, and support photographs of each; (least, most) pairs draw
            one number for each batch.
        queries: query photographs of each person.
        meta_batch: tasks an outer step, of all processes together.
        lr: outer learning rate.
        augment: changes of the training photographs: an ``Augment``, or names in
            ``Augment.NAMES``; None: none.
        support_domain, query_domain: names of the domains that the two sides of a task, in
            training and in validation, are drawn from, such as photograph and sketch; None: any.
        across: support and query of a training task come from different domains; see
            ``metaface.episodes.AcrossDomains``.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=12, photos=6, progress=False)
        >>> task = mf.training.Task(ways=(3, 5), shots=1, meta_batch=2, augment=("flip",))
        >>> learner, run = mf.learners.ANIL(mf.nets.Conv4()), mf.training.Run(progress=False)
        >>> mf.train(learner, faces, task=task, iterations=2, run=run).recipe["meta_batch"]
        2
    """

    ways: int | tuple[int, int] | None = None
    shots: int | tuple[int, int] | None = None
    queries: int | None = None
    meta_batch: int | None = None
    lr: float | None = None
    augment: Augment | tuple[str, ...] | None = AUGMENT
    support_domain: str | None = None
    query_domain: str | None = None
    across: bool = False


@dataclass(frozen=True)
class Budget:
    """How long to train. Of several limits, the one reached first ends training.

    Attributes:
        iterations: outer steps (alone, the only limit that repeats bit for bit).
        images: photographs seen, support and query.
        minutes: wall time, validation included: training ends so early that the last validation,
            if it takes as long as those before it, ends in time.
        patience: stop after so many validations without a new best; None: never.

    Raises:
        ValueError: a limit that is not a positive, finite number.

    Example:
        >>> from metaface.training import Budget
        >>> budget = Budget(iterations=1000, minutes=10)
        >>> budget.spent(iterations=500, images=0, seconds=60.0)
        0.5
    """

    iterations: int | None = None
    images: int | None = None
    minutes: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        given = self.limits()
        if not all(_positive(value) for value in given.values()):
            raise ValueError(f"the budget must be positive and finite, got {given}")
        for name in ("iterations", "images", "patience"):
            value = getattr(self, name)
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise ValueError(f"{name}={value!r}: must be at least 1, a whole number")

    def limits(self) -> dict[str, float]:
        """The limits that were given, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    def spent(self, iterations: int, images: int, seconds: float) -> float:
        """The share of the budget that is used up, 0..1.

        Raises:
            ValueError: no limit was given.
        """
        limits = self.limits()
        if not limits:
            raise ValueError("give at least one of iterations, images and minutes")
        used = {"iterations": iterations, "images": images, "minutes": seconds / 60}
        return min(1.0, max(used[name] / limit for name, limit in limits.items()))


@dataclass(frozen=True)
class Validation:
    """The tasks of validation people, by which the weights that are kept are chosen.

    Attributes:
        ways: None: 5, or, with a warning, as many people as have the photographs.
        shots, episodes: of the validation tasks.
        on_row: called with each validated row of the learning curve, see
            :class:`metaface.training.History`; what it raises ends training.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=16, photos=6, progress=False)
        >>> people, val = faces.of_people(range(10)), faces.of_people(range(10, 16))
        >>> validation = mf.training.Validation(ways=3, shots=1, episodes=20)
        >>> learner, run = mf.learners.ANIL(mf.nets.Conv4()), mf.training.Run(progress=False)
        >>> history = mf.train(
        ...     learner, people, val, ways=5, shots=1, iterations=2, validation=validation, run=run
        ... )
        >>> history.rows[-1]["val_ways"], history.best_iteration in (1, 2)
        (3, True)
    """

    ways: int | None = None
    shots: int = 1
    episodes: int = 100
    on_row: Callable[[dict[str, float]], object] | None = None


@dataclass(frozen=True)
class Run:
    """Where and how a training runs; nothing here but ``seed``, ``precision`` and ``on_finish``
    changes what is learnt.

    Attributes:
        seed: of the tasks.
        device: where to train; None: a GPU where there is one (under torchrun, one a process).
        precision: of the training steps' convolutions: ``bf16`` rounds what they take and give to
            bfloat16, where the processor has it, for more steps a second; validation is in
            float32. See ``docs/performance.md``.
        out: folder for ``checkpoint.pt`` and TensorBoard scalars; None: nothing is written.
        resume: go on from ``out``'s checkpoint, where there is one.
        spec: what rebuilds the learner from the checkpoint; see ``metaface.load_model``.
        checkpoint_seconds: least time between two checkpoints.
        progress: show a progress bar.
        label: name on the progress bar; None: the class of what is trained.
        on_finish: called once with the trained learner, the best weights in place, which it may
            change; what it returns goes to ``History.finished``, and is written with the learner.
            An interrupted one is called again on resuming; see
            :mod:`metaface.training.weight_interpolation`. Where it has an attribute ``settings``,
            another one of other settings is refused on resuming.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=6, progress=False)
        >>> learner = mf.learners.ANIL(mf.nets.Conv4())
        >>> run = mf.training.Run(seed=1, out="anil", device="cpu", progress=False)
        >>> mf.train(learner, faces, ways=5, shots=1, iterations=2, run=run).iterations
        2
        >>> again = mf.training.Run(seed=1, out="anil", device="cpu", progress=False, resume=True)
        >>> mf.train(learner, faces, ways=5, shots=1, iterations=2, run=again).iterations
        2
    """

    seed: int = 0
    device: str | torch.device | None = None
    precision: Precision = "float32"
    out: str | Path | None = None
    resume: bool = False
    spec: ModelSpec | None = None
    checkpoint_seconds: float = 20.0
    progress: bool = True
    label: str | None = None
    on_finish: Callable[[Any], dict[str, Any]] | None = None


def check_kinds(**given: Any) -> None:
    """Refuse ``task``, ``budget``, ``validation`` and ``run`` that are something else.

    Raises:
        ValueError: one is; says what to write.
    """
    for name, value in given.items():
        kind = {"task": Task, "budget": Budget, "validation": Validation, "run": Run}[name]
        if not isinstance(value, kind):
            first = fields(kind)[0].name
            raise ValueError(
                f"{name} must be a {kind.__name__}, got a {type(value).__name__}: write "
                f"{name}=metaface.training.{kind.__name__}({first}=...)"
            )


def merge(name: str, given: Any, **more: Any) -> Any:
    """``given`` with ``more`` that is not None.

    Raises:
        ValueError: both say something, and not the same.
    """
    for field, value in more.items():
        there = getattr(given, field)
        if value is not None and there is not None and there != value:
            raise ValueError(f"{field}={value} and {name} with {field}={there}: give one of them")
    return replace(given, **{n: v for n, v in more.items() if v is not None})


def new_places(*kept: str) -> dict[str, str]:
    """For each keyword that ``train`` of MetaFace 0.2 had, what to write now; not for ``kept``."""
    places = {"val_ways": "ways", "val_shots": "shots", "val_episodes": "episodes"}
    places |= {"on_validation": "on_row"}
    places = {old: f"validation=Validation({new}=...)" for old, new in places.items()}
    for option, kind in (("task", Task), ("budget", Budget), ("run", Run)):
        for name in (field.name for field in fields(kind)):
            places[name] = f"{option}={kind.__name__}({name}=...)"
    return {
        old: f"{new} (from metaface.training)" for old, new in places.items() if old not in kept
    }


def _positive(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and 0 < value < math.inf
