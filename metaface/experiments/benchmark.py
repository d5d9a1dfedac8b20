"""The main job: train several learners on the same people, test them on the same episodes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from metaface import data, machine, nets, report
from metaface._text import file_name
from metaface.data import FaceSet
from metaface.data.domain_split import are_all_left_for_test
from metaface.data.faceset import SYNTHETIC
from metaface.episodes.sampler import EpisodeSampler, check_combinations
from metaface.evaluation import Result, evaluate
from metaface.experiments.job import (
    check_settings,
    define,
    leave_out_seen,
    specify,
    train_learner,
)
from metaface.experiments.photo_rows import show_confused, show_task
from metaface.experiments.runner import Experiment, Measure
from metaface.learners import MetaLearner, Prototypical
from metaface.learners.spec import ModelSpec
from metaface.metrics.intervals import ci95_over_seeds
from metaface.options import BenchmarkSettings
from metaface.training import seen_people

log = logging.getLogger("metaface.experiments.benchmark")


PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class People:
    """The three disjoint groups of people of a benchmark."""

    train: FaceSet
    val: FaceSet
    test: FaceSet
    notes: tuple[str, ...] = ()
    """what the split did that is not plain, a sentence each; said as a warning, too"""


def load_people(
    settings: BenchmarkSettings,
    image_size: int | None = None,
    *,
    tested: bool = True,
    progress: bool = True,
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
            if most > 1:  # one to be known by, one to be asked for
                notes.append(
                    f"{faces.name}: the people left for a test have {most} photographs or more "
                    f"each, support and query together: metaface evaluate --queries {most - 1}"
                )
        train_faces, val_faces, test = faces.split(settings.seed, test_photos=wanted)
        if are_all_left_for_test(train_faces, val_faces, wanted):
            notes.append(
                f"{faces.name}: all {len(test.person_ids)} people with {wanted} photographs or "
                "more are left for the test; nobody in training or validation has as many"
            )
        for note in notes:
            log.warning(note)
        return People(train_faces, val_faces, leave_out_seen(settings, test), tuple(notes))
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
    return People(train_faces, val_faces, leave_out_seen(settings, left), (said,) if seen else ())


def run(
    settings: BenchmarkSettings, out: str | Path, *, resume: bool = False, progress: bool = True
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
    return _Benchmark(check_settings(settings), out, progress).run(resume)


class _Benchmark(Experiment):
    kind = "benchmark"
    people: People

    def definition(self) -> dict[str, Any]:
        return define(self.settings)

    def load(self) -> dict[str, FaceSet]:
        self.people = load_people(self.settings, progress=self.progress)
        s = self.settings
        check_combinations(self.people.test, s.ways, s.shots, s.queries)
        return {part: getattr(self.people, part) for part in PARTS}

    def notes(self) -> Iterable[str]:
        return self.people.notes

    def units(self) -> dict[str, Measure]:
        s = self.settings
        floors = ["pixels", "untrained"]
        floors += [name for name, given in (("start", s.start), ("pretrained", s.weights)) if given]
        units: dict[str, Measure] = {name: partial(self._test_floor, name) for name in floors}
        for learner in s.learners:
            for seed in range(s.seed, s.seed + s.seeds):
                name = file_name(f"{learner}-seed{seed}")
                units[name] = partial(self._train_and_test, learner, seed)
        return units

    def _test_floor(self, name: str, folder: Path) -> dict[str, Any]:
        machine.reset_peak()
        learner, test = _floor(name, self.settings, self.people)
        found = {"learner": name, "seed": self.settings.seed, "curve": []}
        found |= {"train_seconds": 0.0, "images": 0, "iterations": 0}
        return found | self._test(learner.to(self.device), test, folder.name)

    def _train_and_test(self, name: str, seed: int, folder: Path) -> dict[str, Any]:
        machine.reset_peak()
        learner, trained = train_learner(
            self.settings,
            name,
            seed,
            self.people.train,
            self.people.val,
            folder,
            progress=self.progress,
        )
        found = {"learner": name, "seed": seed, **trained}
        return found | self._test(learner, self.people.test, folder.name)

    def _test(self, learner: MetaLearner, test: FaceSet, unit: str) -> dict[str, Any]:
        """The results of all test episodes, and what the learner costs."""
        tests = []
        for ways in self.settings.ways:
            for shots in self.settings.shots:
                result = evaluate(
                    learner,
                    test,
                    ways=ways,
                    shots=shots,
                    queries=self.settings.queries,
                    episodes=self.settings.episodes,
                    seed=self.settings.seed,
                    progress=self.progress,
                )
                log.info("%s, %d-way %d-shot: %s", unit, ways, shots, result)
                tests.append(as_json(result))
        return {
            "tests": tests,
            "parameters": sum(p.numel() for p in learner.parameters()),
            "norm": learner.norm,
            "transductive": learner.transductive,
            "peak_mb": round(machine.peak_mb(self.device), 1),
        }

    def results(self, measured: list[dict[str, Any]]) -> dict[str, Any]:
        trained = [unit for unit in measured if unit["curve"]]
        return {
            "data": {part: getattr(self.people, part).describe() for part in PARTS},
            "rows": list(_rows(measured, self.settings)),
            "differences": list(_differences(measured, self.settings)),
            "curves": {f"{unit['learner']}-{unit['seed']}": unit["curve"] for unit in trained},
            "confusions": {unit["learner"]: unit["tests"][0]["confusions"] for unit in trained},
        }

    def write_page(self, results: dict[str, Any]) -> None:
        s, test = self.settings, self.people.test
        sampler = EpisodeSampler(test, s.ways[0], s.shots[0], s.queries, seed=s.seed, stream="test")
        task = show_task(sampler.batch(0), test)
        confused = show_confused(results["confusions"], test)
        report.write_benchmark(self.out / "report.html", results, task, confused)


def _floor(name: str, settings: BenchmarkSettings, people: People) -> tuple[MetaLearner, FaceSet]:
    """A learner that is not trained here, and the test photographs as it takes them."""
    if name == "pixels":
        return ModelSpec("prototypical", embedding="pixels").build(), people.test
    if name == "pretrained":
        assert settings.weights is not None
        net = nets.pretrained(settings.weights)
        larger = load_people(replace(settings, channels=3), max(net.image_size)).test
        height, width = net.image_size
        side = max(height, width)
        y, x = (side - height) // 2, (side - width) // 2
        cut = replace(larger, store=larger.store[:, y : y + height, x : x + width])
        return Prototypical(net, "cosine"), cut
    start = settings.start if name == "start" else None
    learner = specify(settings, "prototypical").build(settings.seed, start=start)
    sampler = EpisodeSampler(people.train, 5, 1, 1, seed=settings.seed)
    nets.refresh_statistics(
        learner.embedding, (sampler.batch(k, 16).support.flatten(0, 1) for k in range(4))
    )
    return learner, people.test


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


def _rows(units: Sequence[dict[str, Any]], settings: BenchmarkSettings) -> Iterator[dict[str, Any]]:
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
                "ci95": ci95_over_seeds(values),
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


def _differences(
    units: Sequence[dict[str, Any]], settings: BenchmarkSettings
) -> Iterator[dict[str, Any]]:
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
                "ci95": ci95_over_seeds(paired),
            }
