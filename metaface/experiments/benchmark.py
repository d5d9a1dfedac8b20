"""The main job: train several learners on the same people, test them on the same episodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metaface import data, machine, nets, report
from metaface._json import plain, read_record, write_json, write_record
from metaface._lock import alone_in
from metaface._processes import launched
from metaface._text import file_name, given_path
from metaface.arguments import check_given_counts, check_once
from metaface.data import FaceSet
from metaface.data.domain_split import are_all_left_for_test, list_sides
from metaface.data.faceset import SYNTHETIC
from metaface.episodes.augment import Augment
from metaface.episodes.sampler import EpisodeSampler
from metaface.evaluation import Result, evaluate
from metaface.learners import MetaLearner, Prototypical
from metaface.learners.spec import ModelSpec, read_seen
from metaface.metrics.intervals import interval
from metaface.training import runs
from metaface.training.fitting import fit_validation
from metaface.training.loop import Budget, choose_device, seen_people, train

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("metaface.experiments.benchmark")

MINUTES = 0.6  # training time of each learner, unless the user says otherwise
RECIPE = ("ways", "shots", "queries", "meta_batch", "lr")  # in Job.options: no learner's argument


@dataclass(frozen=True)
class Job:
    """What decides the figures of every job that trains learners and tests them.

    Attributes:
        crop: centre crop of the photographs; see ``metaface.data.load``.
        image_size: side of the photographs, pixels.
        channels: 1 (grey) or 3 (RGB).
        learners: names in ``metaface.learners.LEARNERS``.
        ways, shots, queries: of the test episodes; every combination of ways and shots.
        episodes: test episodes of each combination.
        embedding, norm: the shared network; see ``metaface.nets.build``.
        start: weights that every learner's embedding starts from; see ``ModelSpec.build``. None:
            random ones, by seed. People whom a checkpoint there was trained on are not tested.
        augment: changes of the training photographs, names in ``Augment.NAMES``.
        iterations, images, minutes: the training budget of each learner; one of them.
        seed: of the split, the tasks and the initial weights.
        seeds: training seeds: ``seed``, ``seed + 1``, ...
        options: keyword arguments of learners, by name; ``ways``, ``shots``, ``queries``,
            ``meta_batch`` and ``lr`` are those of the learner's :class:`Recipe`.
        device: None: a GPU where there is one.
        task_chunk: at most so many tasks at once, to bound memory; None: as many as is fast.
    """

    crop: float | None = None
    image_size: int = data.IMAGE_SIZE
    channels: int = 3
    learners: tuple[str, ...] = ("maml", "fomaml", "anil", "reptile", "prototypical")
    ways: tuple[int, ...] = (5,)
    shots: tuple[int, ...] = (1, 5)
    queries: int = 5
    episodes: int = 1000
    embedding: str = "conv4"
    norm: str = "group"
    start: str | None = None
    augment: tuple[str, ...] = ("flip", "crop", "light")
    iterations: int | None = None
    images: int | None = None
    minutes: float | None = None
    seed: int = 0
    seeds: int = 1
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    device: str | None = None
    task_chunk: int | None = None

    def spec(self, learner: str) -> ModelSpec:
        """What ``learner`` is made of in this job."""
        options = {n: v for n, v in self.options.get(learner, {}).items() if n not in RECIPE}
        return ModelSpec(
            learner,
            options,
            self.embedding,
            self.norm,
            self.image_size,
            self.channels,
            self.crop,
            runs.digest_of(self.start),
        )

    def given(self, learner: str) -> dict[str, Any]:
        """What the user asked for of the recipe of ``learner``: keyword arguments of ``train``."""
        return {n: v for n, v in self.options.get(learner, {}).items() if n in RECIPE}

    def checked(self) -> Self:
        """The same, with a budget; bad settings fail now, not in an hour."""
        timed = self.iterations is self.images is self.minutes is None
        job = replace(self, minutes=MINUTES) if timed else self
        Budget(job.iterations, job.images, job.minutes)
        check_once(learners=job.learners, ways=job.ways, shots=job.shots, augment=job.augment)
        check_given_counts(1, queries=job.queries, episodes=job.episodes, seeds=job.seeds)
        check_given_counts(0, seed=job.seed)
        for name in job.learners:
            job.spec(name).build(start=job.start)
        return job

    def definition(self) -> dict[str, Any]:
        """What defines the job, as ``runs.claim`` takes it: settings, and digests of files."""
        files = {name: getattr(self, name, None) for name in ("start", "weights")}
        return {
            **asdict(self),
            "device": str(choose_device(self.device)),
            "files": {n: runs.digest_of(path) for n, path in files.items()},
        }

    def unseen(self, test: FaceSet) -> FaceSet:
        """``test`` without the people whom ``start`` was trained on, where it says so.

        Raises:
            ValueError: nobody is left.
        """
        seen = read_seen(self.start) if self.start else None
        return test.unseen(**seen) if seen else test

    def train(
        self,
        name: str,
        seed: int,
        faces: FaceSet,
        val: FaceSet,
        out: Path | None,
        *,
        device: torch.device,
        progress: bool,
        across: bool = False,
        label: str | None = None,
        val_episodes: int = 100,
        on_validation: Callable[[dict[str, float]], object] | None = None,
    ) -> tuple[MetaLearner, dict[str, Any]]:
        """Train one learner in the folder ``out``, going on with what is there.

        Args:
            faces, val: people, both of two sides or neither; see ``metaface.data.domain_split``.
            out: None: nothing is kept.
            label: name on the progress bar; that of the folder where left out.
            across, val_episodes, on_validation: as in ``metaface.train``.

        Returns:
            The learner, and ``curve``, ``train_seconds``, ``images``, ``iterations``, ``recipe``
            and ``notes``, see :class:`metaface.training.loop.History`.
        """
        spec = self.spec(name)
        learner = spec.build(seed, start=self.start)
        learner.task_chunk = self.task_chunk
        val_ways, _, fewer = fit_validation(val, min(self.ways), 1, **list_sides(val))
        if fewer:
            fewer = f"{name}: {fewer}"
            log.warning(fewer)
        history = train(
            learner,
            faces,
            val,
            **self.given(name),
            iterations=self.iterations,
            images=self.images,
            minutes=self.minutes,
            val_ways=val_ways,
            val_shots=1,
            val_episodes=val_episodes,
            seed=seed,
            augment=Augment.of(self.augment),
            device=device,
            out=out,
            resume=True,
            spec=spec,
            progress=progress,
            across=across,
            label=label or (out.name if out else name),
            on_validation=on_validation,
            **list_sides(faces),
        )
        return learner, {
            "curve": history.rows,
            "train_seconds": history.seconds,
            "images": history.images,
            "iterations": history.iterations,
            "recipe": history.recipe,
            "notes": [note for note in (*history.notes, fewer) if note],
        }


@dataclass(frozen=True)
class Settings(Job):
    """Everything that decides the figures of a benchmark; see also :class:`Job`.

    Attributes:
        data: source to train and test on, split by person; see ``metaface.data.load``.
        train_data, test_data: two sources instead; all people of ``test_data`` are tested, but for
            those seen in training; see ``FaceSet.known``.
        weights: checkpoint of a pretrained MobileFaceNet, to be tested beside them.
    """

    data: str | None = "synthetic"
    train_data: str | None = None
    test_data: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class People:
    """The three disjoint groups of people of a benchmark."""

    train: FaceSet
    val: FaceSet
    test: FaceSet
    notes: tuple[str, ...] = ()
    """what the split did that is not plain, a sentence each; said as a warning, too"""


def load_people(
    settings: Settings, image_size: int | None = None, *, tested: bool = True, progress: bool = True
) -> People:
    """Load the photographs and split them by person.

    Args:
        settings: where from, and for what test.
        image_size: instead of that of ``settings``.
        tested: whether people must have the photographs that the test of ``settings`` takes;
            else, where nobody has, those who have most are left for a test.
        progress: show a progress bar.

    Raises:
        ValueError: ``train_data`` without ``test_data``, the same source as both, or too few
            people or photographs.
    """
    options: dict[str, Any] = {
        "crop": settings.crop,
        "channels": settings.channels,
        "image_size": image_size or settings.image_size,
        "progress": progress,
    }
    wanted = max(settings.shots) + settings.queries
    if (settings.train_data is None) != (settings.test_data is None):
        raise ValueError("train_data and test_data go together: give both, or data alone")
    if settings.train_data is None:
        faces = data.load(settings.data, **options)
        notes = []
        most = int(np.sort(faces.photos())[-2:].min())  # that two people have
        if most < wanted and not tested:
            wanted = most
            notes.append(
                f"{faces.name}: the people left for a test have {wanted} photographs or more each, "
                f"support and query together: metaface evaluate --queries {max(1, wanted - 1)}"
            )
        train_faces, val_faces, test = faces.split(settings.seed, test_photos=wanted)
        if are_all_left_for_test(train_faces, val_faces, wanted):
            notes.append(
                f"{faces.name}: all {len(test.person_ids)} people with {wanted} photographs or "
                "more are left for the test; nobody in training or validation has as many"
            )
        for note in notes:
            log.warning(note)
        return People(train_faces, val_faces, settings.unseen(test), tuple(notes))
    if settings.train_data == settings.test_data:
        raise ValueError(
            f"train_data and test_data are both {settings.train_data}: people would be trained on "
            "and tested; give it as data, which splits by person"
        )
    faces = data.load(settings.train_data, **options)
    test = data.load(settings.test_data, **options)
    procedural = all(one.name.split(":")[0] == SYNTHETIC for one in (faces, test))
    train_faces, val_faces, _ = faces.split(settings.seed, test=0.2 if procedural else 0)
    left = test.unseen(**seen_people(train_faces, val_faces))
    seen = len(test.person_ids) - len(left.person_ids)
    said = f"{test.name}: {seen} people were seen in training, and are not tested"
    return People(train_faces, val_faces, settings.unseen(left), (said,) if seen else ())


@alone_in(lambda settings, out, **_: out)
def run(
    settings: Settings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train, test and report; writes ``results.json`` and ``report.html`` into ``out``.

    Each learner has a folder in ``out`` with its checkpoint, TensorBoard scalars and test result,
    so that an interrupted benchmark goes on where it was.

    Args:
        settings: what to compare, and how.
        out: folder for the results.
        resume: go on with what is in ``out``; else a folder that holds a benchmark is refused.
        progress: show progress bars.

    Returns:
        What ``results.json`` holds: ``settings``, ``machine``, ``data``, ``rows`` (one for each
        learner, way and shot), ``differences`` (paired, between learners), ``curves``, and
        ``notes``, what was changed for want of photographs or on resuming, a sentence each.

    Raises:
        ValueError: settings that cannot be met by the data, or several processes.
        FileExistsError: ``out`` holds a benchmark, and ``resume`` is not set, or it was of other
            settings (``device``, ``task_chunk`` and where photographs and weights lie may change).
    """
    refuse_several_processes("the benchmark")
    out = given_path(out, "the results")
    device = choose_device(settings.device)
    settings = settings.checked()
    runs.claim(out, "benchmark", resume, settings.definition())
    if all((out / unit.name / "result.json").is_file() for unit in _units(settings)):
        log.warning("%s holds the finished benchmark: showing it; remove it to start afresh", out)
    people = load_people(settings, progress=progress)
    _check_testable(settings, people.test)
    parts = {part: getattr(people, part) for part in ("train", "val", "test")}
    changed = runs.claim(out, "benchmark", resume, settings.definition(), parts)
    units: list[dict[str, Any]] = []
    for unit in _units(settings):
        found = finished(out / unit.name)
        units.append(found or _measure(unit, settings, people, out, device, progress))
    results: dict[str, Any] = plain(
        {
            "settings": asdict(settings),
            "machine": machine.describe(device),
            "data": {part: faces.describe() for part, faces in parts.items()},
            "rows": list(_rows(units, settings)),
            "differences": list(_differences(units, settings)),
            "curves": {f"{u['learner']}-{u['seed']}": u["curve"] for u in units if u["curve"]},
            "notes": noted([*people.notes, *changed], units),
            "confusions": {u["learner"]: u["tests"][0]["confusions"] for u in units if u["curve"]},
        }
    )
    write_json(out / "results.json", results)
    report.write(out / "report.html", results, people.test)
    return results


@dataclass(frozen=True)
class Unit:
    """One thing to test: a floor, a pretrained network, or a learner with one training seed."""

    learner: str
    seed: int
    trained: bool = False

    @property
    def name(self) -> str:
        return file_name(f"{self.learner}-seed{self.seed}" if self.trained else self.learner)


def _units(settings: Settings) -> Iterator[Unit]:
    yield Unit("pixels", settings.seed)
    yield Unit("untrained", settings.seed)
    if settings.start:
        yield Unit("start", settings.seed)
    if settings.weights:
        yield Unit("pretrained", settings.seed)
    for learner in settings.learners:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            yield Unit(learner, seed, trained=True)


def _measure(
    unit: Unit, settings: Settings, people: People, out: Path, device: torch.device, progress: bool
) -> dict[str, Any]:
    """Train (where it is trained) and test one unit; write and return its results."""
    folder = out / unit.name
    machine.reset_peak()
    test = people.test
    found: dict[str, Any] = {"learner": unit.learner, "seed": unit.seed, "curve": []}
    if unit.trained:
        learner, trained = settings.train(
            unit.learner,
            unit.seed,
            people.train,
            people.val,
            folder,
            device=device,
            progress=progress,
        )
        found |= trained
    else:
        learner, test = _floor(unit, settings, people)
        learner.to(device)
        found |= {"train_seconds": 0.0, "images": 0, "iterations": 0}
    found["tests"] = []
    for ways in settings.ways:
        for shots in settings.shots:
            result = evaluate(
                learner,
                test,
                ways=ways,
                shots=shots,
                queries=settings.queries,
                episodes=settings.episodes,
                seed=settings.seed,
                device=device,
                progress=progress,
            )
            log.info("%s, %d-way %d-shot: %s", unit.name, ways, shots, result)
            found["tests"].append(as_json(result))
    found |= {
        "parameters": sum(p.numel() for p in learner.parameters()),
        "norm": learner.norm,
        "transductive": learner.transductive,
        "peak_mb": round(machine.peak_mb(device), 1),
    }
    write_record(folder / "result.json", found)
    return found


def _floor(unit: Unit, settings: Settings, people: People) -> tuple[MetaLearner, FaceSet]:
    """A learner that is not trained here, and the test photographs as it takes them."""
    if unit.learner == "pixels":
        return ModelSpec("prototypical", embedding="pixels").build(), people.test
    if unit.learner == "pretrained":
        assert settings.weights is not None
        net = nets.pretrained(settings.weights)
        larger = load_people(replace(settings, channels=3), max(net.image_size)).test
        height, width = net.image_size
        side = max(height, width)
        y, x = (side - height) // 2, (side - width) // 2
        cut = replace(larger, store=larger.store[:, y : y + height, x : x + width])
        return Prototypical(net, "cosine"), cut
    start = settings.start if unit.learner == "start" else None
    learner = settings.spec("prototypical").build(unit.seed, start=start)
    sampler = EpisodeSampler(people.train, 5, 1, 1, seed=settings.seed)
    nets.refresh_statistics(
        learner.embedding, (sampler.batch(k, 16).support.flatten(0, 1) for k in range(4))
    )
    return learner, people.test


def _check_testable(settings: Settings, test: FaceSet) -> None:
    """Fail before training where a test could not be drawn after it."""
    for ways in settings.ways:
        for shots in settings.shots:
            EpisodeSampler(test, ways, shots, settings.queries)


# -- results ------------------------------------------------------------------------------------


def as_json(result: Result) -> dict[str, Any]:
    """What is kept of a test: everything, every episode's accuracy included."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    values["accuracies"] = [round(float(a), 6) for a in result.accuracies]
    values["confusions"] = [asdict(c) for c in result.confusions]
    return values


def _by_learner(units: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        grouped.setdefault(unit["learner"], []).append(unit)
    return grouped


def _accuracies(units: Sequence[dict[str, Any]], test: int) -> np.ndarray:
    """float64 ``[seeds, episodes]``."""
    return np.array([u["tests"][test]["accuracies"] for u in units])


def _rows(units: Sequence[dict[str, Any]], settings: Settings) -> Iterator[dict[str, Any]]:
    source = settings.data if settings.test_data is None else settings.test_data
    for learner, group in _by_learner(units).items():
        for index, test in enumerate(group[0]["tests"]):
            values = _accuracies(group, index)

            def mean(key: str, group: Any = group, index: int = index) -> float:
                return float(np.mean([u["tests"][index][key] for u in group]))

            yield {
                "learner": learner,
                "data": str(source),
                "train_data": str(settings.train_data or settings.data),
                "ways": test["ways"],
                "shots": test["shots"],
                "queries": test["queries"],
                "episodes": values.shape[1],
                "seeds": len(group),
                "accuracy": float(values.mean()),
                "ci95": interval(values),
                "precision": mean("precision"),
                "recall": mean("recall"),
                "f1": mean("f1"),
                "train_seconds": float(np.mean([u["train_seconds"] for u in group])),
                "train_images": int(np.mean([u["images"] for u in group])),
                "train_iterations": int(np.mean([u["iterations"] for u in group])),
                "adapt_ms": mean("adapt_ms"),
                "peak_mb": max((u["peak_mb"] for u in group), key=lambda mb: mb or 0.0),
                "parameters": group[0]["parameters"],
                "norm": group[0]["norm"],
                "transductive": group[0]["transductive"],
                "recipe": group[0].get("recipe"),
            }


def _differences(units: Sequence[dict[str, Any]], settings: Settings) -> Iterator[dict[str, Any]]:
    """Between every two learners, over the same episodes."""
    grouped = _by_learner(units)
    tests = next(iter(grouped.values()))[0]["tests"]
    for index, test in enumerate(tests):
        for a, b in combinations(grouped, 2):
            first, second = _accuracies(grouped[a], index), _accuracies(grouped[b], index)
            count = max(len(first), len(second))  # a floor has one seed, a learner may have more
            paired = np.resize(first, (count, first.shape[1])) - np.resize(
                second, (count, second.shape[1])
            )
            yield {
                "a": a,
                "b": b,
                "ways": test["ways"],
                "shots": test["shots"],
                "difference": float(paired.mean()),
                "ci95": interval(paired),
            }


# -- files ---------------------------------------------------------------------------------------


def refuse_several_processes(what: str) -> None:
    """Say that the job is not for torchrun, where it was started by it."""
    if launched():
        raise ValueError(
            f"{what} runs in one process, and this is one of several: start it without "
            "torchrun (metaface train is what several can share)"
        )


def noted(notes: Iterable[str], units: Iterable[Mapping[str, Any]]) -> list[str]:
    """``notes`` and those of ``units``, each once."""
    return list(dict.fromkeys([*notes, *(n for unit in units for n in unit.get("notes", ()))]))


def finished(folder: Path) -> dict[str, Any] | None:
    """What a unit of a job found, where it was finished."""
    path = folder / "result.json"
    return read_record(path) if path.is_file() else None
