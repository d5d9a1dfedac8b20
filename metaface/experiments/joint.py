"""One shared network against networks in stages, at equal parameters and equal budget."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaface._json import write_record
from metaface.arguments import check_given_counts, check_once
from metaface.data import FaceSet
from metaface.experiments.joint_networks import (
    build_network,
    build_weighting,
    count_parameters,
    find_equal_size,
)
from metaface.experiments.joint_pictures import draw_predictions
from metaface.experiments.joint_scenes import (
    TestScenes,
    compose_batches,
    compose_crowd,
    compose_test_scenes,
    load_sprites,
    save_sprites,
)
from metaface.experiments.joint_speed import compare_speed
from metaface.experiments.runner import Experiment, Measure, finished
from metaface.experiments.staged import Staged, crop_faces
from metaface.metrics.intervals import ci95, ci95_over_seeds
from metaface.multitask import identification
from metaface.multitask.augmentation import augment
from metaface.multitask.metrics import measure
from metaface.multitask.model import FEATURES, MultiTask
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.sprites import FaceSprites
from metaface.multitask.training import Source, fit
from metaface.options import JointSettings
from metaface.options.jobs import SHARED, STAGED, STAGES, TASKS, VARIANTS
from metaface.report.joint import write_joint
from metaface.training import Budget, Run

log = logging.getLogger("metaface.multitask")

CROP = 112  # pixels
COSINES_EVERY = 50  # steps
SEARCH_SHARE = 0.25  # of the budget of a unit, for each trial of the weights


def check_settings(settings: JointSettings) -> JointSettings:
    """The same, with a budget; bad settings fail now, not in an hour.

    Raises:
        ValueError: an unknown variant or task, or numbers out of range.
    """
    check_once(variants=settings.variants)
    for name in settings.variants:
        if name not in VARIANTS:
            raise ValueError(f"no variant {name!r}: choose among {', '.join(VARIANTS)}")
    for task in settings.weights:
        if task not in TASKS:
            raise ValueError(f"a weight for {task!r}: choose among {', '.join(TASKS)}")
    least = {
        "people": 2,
        "val_people": 10,
        "test_people": 10,
        "photos": 6,
        "seeds": 1,
        "batch": 1,
        "episodes": 1,
        "search": 0,
    }
    for name, value in least.items():
        check_given_counts(value, **{name: getattr(settings, name)})
    settings = settings.with_budget()
    Budget(settings.iterations, minutes=settings.minutes)
    return settings


def run(
    settings: JointSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train, measure and report; writes ``results.json`` and ``report.html`` into ``out``.

    Each variant and seed has a folder in ``out``, with checkpoints, networks and its result, so
    that an interrupted comparison goes on where it was.

    Returns:
        What ``results.json`` holds: ``settings``, ``machine``, ``data``, ``weights``, ``rows`` (a
        variant each, every metric with the half-width of its interval), ``differences`` (paired),
        ``cosines`` between tasks' gradients, ``speed``, ``trials`` of the search, ``notes``,
        what was changed on resuming, a sentence each.

    Raises:
        ValueError: bad settings, or several processes.
        FileExistsError: ``out`` holds a comparison, and ``resume`` is not set, or it was of other
            settings (``device`` may change).
        metaface.training.Interrupted: Ctrl-C; go on with ``resume``.
    """
    return _Comparison(check_settings(settings), out, progress).run(resume)


class _Comparison(Experiment):
    kind = "comparison"
    train: FaceSprites
    test: TestScenes
    crowd: FaceAnnotations
    data: dict[str, str]
    trials: Sequence[dict[str, Any]] = ()

    def definition(self) -> dict[str, Any]:
        # of the settings that were given: a search changes the weights
        return {**asdict(self.given), "device": str(self.device)}

    def load(self) -> dict[str, FaceSet]:
        return {}  # people are drawn: the settings alone define them

    def prepare(self) -> None:
        s = self.settings
        sprites = _load_people(s, self.out / "pools", self.progress)
        self.train = sprites["train"]
        self.crowd = compose_crowd(sprites["test"], s.size, s.side, s.seed + 1)
        val, self.test = (_compose_test(s, sprites[name]) for name in ("val", "test"))
        people = len(self.train.people)
        self.data = {"train": f"{len(self.train)} photographs of {people} people"}
        self.data |= {"val": val.describe(), "test": self.test.describe()}
        if s.search:
            self.trials = _search(s, self.out, self.train, val, self.device, self.progress)
            best = max(self.trials, key=lambda trial: float(trial["score"]))
            self.settings = replace(s, weights=best["weights"])

    def units(self) -> dict[str, Measure]:
        s = self.settings
        return {
            f"{variant}-seed{seed}": partial(self._train_and_measure, variant, seed)
            for variant in s.variants
            for seed in range(s.seed, s.seed + s.seeds)
        }

    def _train_and_measure(self, variant: str, seed: int, folder: Path) -> dict[str, Any]:
        s, device = self.settings, self.device
        model, spent = _train(variant, seed, s, self.train, folder, device, self.progress)
        unit = {"variant": variant, "seed": seed, **spent, **_measure(model, self.test, s, device)}
        if "detection" in model.heads:
            draw_predictions(folder / "pictures.png", model, self.test.scenes, device)
        log.info("%s, seed %d: %s", variant, seed, unit["metrics"])
        return unit

    def _measure_speed(self, units: Sequence[dict[str, Any]], _: Path) -> dict[str, Any]:
        """Time the networks of the first seed."""
        s = self.settings
        models = {
            name: _load(name, self._folder(name), self.device)
            for name in s.variants
            if name != "recognition-only"
        }
        accuracies = {u["variant"]: u["metrics"].get("one_shot") for u in units[::-1]}
        return compare_speed(
            models, accuracies, self.crowd, self.test, s, self.device, self.progress
        )

    def _folder(self, variant: str) -> Path:
        """Of the first seed."""
        return self.out / f"{variant}-seed{self.settings.seed}"

    def results(self, measured: list[dict[str, Any]]) -> dict[str, Any]:
        units = [_restore_nan(unit) for unit in measured]
        return {
            "data": self.data,
            "weights": self.settings.weights,
            "trials": list(self.trials),
            "rows": [_row(group) for group in _by_variant(units).values()],
            "differences": list(_differences(units)),
            "cosines": {u["variant"]: u["cosines"] for u in units if u.get("cosines")},
            "speed": self.once("speed", partial(self._measure_speed, units)),
        }

    def write_page(self, results: dict[str, Any]) -> None:
        files = {name: self._folder(name) / "pictures.png" for name in self.settings.variants}
        pictures = {name: file for name, file in files.items() if file.is_file()}
        write_joint(self.out / "report.html", results, pictures)


# -- people and scenes ------------------------------------------------------------------------


def _load_people(settings: JointSettings, folder: Path, progress: bool) -> dict[str, FaceSprites]:
    """Photographs of the people of each part, drawn once."""
    s, sprites, first = settings, {}, 0
    for name, count in (("train", s.people), ("val", s.val_people), ("test", s.test_people)):
        path = folder / f"{name}.npz"
        if path.is_file():
            sprites[name] = load_sprites(path)
        else:
            ids = range(first, first + count)
            drawn = FaceSprites.procedural(ids, s.photos, s.size, s.seed, progress=progress)
            save_sprites(path, drawn)
            sprites[name] = drawn
        first += count
    return sprites


def _compose_test(s: JointSettings, sprites: FaceSprites) -> TestScenes:
    """Scenes to measure on, as many as photographs."""
    part = compose_test_scenes(sprites, len(sprites), s.size, s.side, s.seed)
    part.check_episodes()
    return part


# -- networks ---------------------------------------------------------------------------------


def _crop_batches(scenes: Source, seed: int) -> Source:
    """Aligned crops of the faces in ``scenes``, as a detector would give them."""
    return lambda step: augment(
        crop_faces(scenes(step), CROP),
        (seed, step),
        flip=False,
        zoom=(0.95, 1.05),
        shift=0.02,
        light=0,
        blur=0,
    )


def _train(
    variant: str,
    seed: int,
    settings: JointSettings,
    train: FaceSprites,
    folder: Path,
    device: torch.device,
    progress: bool,
    part: float = 1.0,
) -> tuple[Any, dict[str, Any]]:
    """Train one unit, going on with what is there; the network, and what was spent."""
    people = len(train.people)
    scenes = compose_batches([(train, settings.batch)], settings.size, settings.side, seed)
    stages = {"": TASKS}
    size = (1.0, FEATURES)
    if variant in STAGED:
        stages, part = dict(STAGES), part / len(STAGES)
        size = find_equal_size() if variant == "separate" else size
    elif variant == "recognition-only":
        stages = {"": ("recognition",)}
    spent: dict[str, Any] = {"train_seconds": 0.0, "images": 0, "iterations": 0, "parameters": 0}
    for name, tasks in stages.items():
        torch.manual_seed(seed)
        model = build_network(tasks, people, *size)
        history = fit(
            model,
            _crop_batches(scenes, seed) if name == "recogniser" else scenes,
            weighting=build_weighting(variant, settings.weights),
            lr=settings.lr,
            cosines_every=COSINES_EVERY if variant in SHARED else 0,
            budget=Budget(**settings.share(part)),
            run=Run(
                seed=seed,
                device=device,
                out=folder / name,
                resume=True,
                progress=progress,
                label=" ".join([folder.name, name]).strip(),
            ),
        )
        spent["train_seconds"] += history.seconds
        spent["images"] += history.images
        spent["iterations"] += history.iterations
        spent["parameters"] += count_parameters(model)
        spent["cosines"] = [
            {key: value for key, value in row.items() if key[:7] in ("cosine/", "seconds")}
            for row in history.rows
            if any(key.startswith("cosine/") for key in row)
        ]
    return _load(variant, folder, device), spent


def _load(variant: str, folder: Path, device: torch.device) -> Any:
    """The trained network of a unit."""

    names = STAGES if variant in STAGED else ("",)
    models = [MultiTask.load(folder / name / "model.safetensors").to(device) for name in names]
    if variant not in STAGED:
        return models[0]
    detector, recogniser, describer = models
    return Staged(detector, recogniser.embedding(), describer, CROP).to(device).eval()


# -- figures ----------------------------------------------------------------------------------


def _measure(
    model: Any, test: TestScenes, settings: JointSettings, device: torch.device
) -> dict[str, Any]:
    """``metrics``, and the accuracy of each episode, of faces where they are found and where they
    truly are."""
    figures: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for name, given in (("one_shot", False), ("one_shot_given", True)):
        if not given and "detection" not in model.heads:
            continue
        vectors = identification.embed_scenes(model, test.scenes, given=given, device=device)
        vectors = vectors[test.rows]
        accuracies = identification.measure_one_shot(
            vectors, test.person, settings.episodes, settings.seed
        )
        figures[name], metrics[name] = accuracies.tolist(), float(accuracies.mean())
        if not given:
            metrics = _summarise(measure(model, test.scenes, device=device)) | metrics
            metrics |= identification.measure_open_set(vectors, test.person, settings.seed)
            metrics["score"] = score_tasks(metrics)
    return {"metrics": metrics, **figures}


def _summarise(measured: dict[str, float]) -> dict[str, float]:
    """With the mean over the attributes of precision, recall and F1, and over the angles."""
    kept = {key: value for key, value in measured.items() if "/" not in key}
    kept["pose"] = float(np.mean([kept[angle] for angle in ("yaw", "pitch", "roll")]))
    for name in ("precision", "recall", "f1"):
        values = [v for key, v in measured.items() if key.endswith(f"/{name}")]
        there = [v for v in values if not np.isnan(v)]
        kept[f"attributes_{name}"] = float(np.mean(there)) if there else np.nan
    return kept


def score_tasks(metrics: Mapping[str, float]) -> float:
    """The mean task score, 0..1, by which weights are chosen: the mean over the seven tasks of
    AP50, 1 - NME / 0.2, IoU, 1 - pose error / 30 degrees, the accuracies of expression and
    attributes, and 5-way 1-shot accuracy; each at least 0, and 0 where nothing was found."""
    by_task = (
        metrics["ap50"],
        1 - metrics["nme"] / 0.2,
        metrics["iou"],
        1 - metrics["pose"] / 30,
        metrics["expression"],
        metrics["attributes"],
        metrics["one_shot"],
    )
    return float(np.mean([max(0.0, value) if value == value else 0.0 for value in by_task]))


def _search(
    settings: JointSettings,
    out: Path,
    train: FaceSprites,
    val: TestScenes,
    device: torch.device,
    progress: bool,
) -> list[dict[str, Any]]:
    """Trials of ``fixed`` with other weights, by :func:`score_tasks` on validation people.

    That of detection stays 1, as only ratios matter; the first trial has those of the settings.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            "searching the weights needs Optuna: pip install 'metaface[sweep]', or leave out the "
            "search"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tasks = TASKS[1:]
    span = optuna.distributions.FloatDistribution(0.03, 10.0, log=True)
    spans = dict.fromkeys(tasks, span)
    study = optuna.create_study(direction="maximize")
    trials: list[dict[str, Any]] = []
    for number in range(settings.search):
        folder = out / "search" / f"trial-{number:03d}"
        trial = finished(folder)
        if trial is None:
            study.sampler = optuna.samplers.TPESampler(seed=settings.seed + number)
            if number == 0:
                study.enqueue_trial({task: settings.weights.get(task, 1.0) for task in tasks})
            asked = study.ask(spans)
            weights = {"detection": 1.0, **asked.params}
            model, _ = _train(
                "fixed",
                settings.seed,
                replace(settings, weights=weights),
                train,
                folder,
                device,
                progress,
                SEARCH_SHARE,
            )
            metrics = _measure(model, val, settings, device)["metrics"]
            trial = {"weights": weights, "score": metrics["score"], "metrics": metrics}
            write_record(folder / "result.json", trial)
        given = {task: trial["weights"][task] for task in tasks}
        study.add_trial(
            optuna.trial.create_trial(params=given, distributions=spans, value=trial["score"])
        )
        trials.append(trial)
    return trials


def _restore_nan(unit: dict[str, Any]) -> dict[str, Any]:
    """``unit`` as it was measured: JSON has None for NaN."""
    metrics = {n: np.nan if v is None else v for n, v in unit["metrics"].items()}
    return unit | {"metrics": metrics}


# -- results ----------------------------------------------------------------------------------


def _by_variant(units: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        grouped.setdefault(unit["variant"], []).append(unit)
    return grouped


def _row(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "variant": group[0]["variant"],
        "seeds": len(group),
        "parameters": group[0]["parameters"],
        "metrics": {
            name: _with_interval(name, group, lambda unit, key: unit[key])
            for name in group[0]["metrics"]
        },
        **{
            name: float(np.mean([u[name] for u in group]))
            for name in ("train_seconds", "images", "iterations")
        },
    }


def _with_interval(name: str, units: Sequence[Any], of: Callable[[Any, str], Any]) -> list[float]:
    """Mean, and half of its 95% interval: over seeds (NaN for one), and over episodes
    where there are such."""
    if name in ("one_shot", "one_shot_given"):
        values = np.array([of(unit, name) for unit in units])
        return [float(values.mean()), ci95_over_seeds(values)]
    each = np.array([of(unit, "metrics")[name] for unit in units])
    return [float(each.mean()), ci95(each)]


def _differences(units: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every variant less ``separate``, and less ``recognition-only``, seed by seed."""
    grouped = _by_variant(units)
    for reference in ("separate", "recognition-only"):
        for variant, group in grouped.items():
            if reference not in grouped or variant == reference:
                continue
            pairs = list(zip(group, grouped[reference], strict=True))
            for name in pairs[0][0]["metrics"]:
                if name not in pairs[0][1]["metrics"]:
                    continue
                mean, half = _with_interval(name, pairs, _less)
                yield {
                    "variant": variant,
                    "reference": reference,
                    "metric": name,
                    "difference": mean,
                    "ci95": half,
                }


def _less(pair: tuple[dict[str, Any], dict[str, Any]], key: str) -> Any:
    a, b = pair[0][key], pair[1][key]
    if isinstance(a, dict):
        return {name: a[name] - b[name] for name in a if name in b}
    return np.array(a) - np.array(b)
