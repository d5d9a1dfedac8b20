"""One shared network against networks in stages, at equal parameters and equal budget."""

from __future__ import annotations

import importlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metaface import machine
from metaface._atomic import replacing
from metaface._json import plain, write_json, write_record
from metaface._lock import alone_in
from metaface._text import given_path
from metaface.arguments import check_given_counts, check_once
from metaface.experiments.benchmark import finished, refuse_several_processes
from metaface.experiments.joint_speed import compare_speed
from metaface.experiments.staged import Staged, crops_of
from metaface.metrics.intervals import ci95, ci95_over_seeds
from metaface.multitask import identification
from metaface.multitask.augment import augmented
from metaface.multitask.metrics import measure
from metaface.multitask.model import FEATURES, MultiTask
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.scenes import compose
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS, FaceSprites
from metaface.multitask.training import Source, fit
from metaface.multitask.weighting import Fixed, PCGrad, Uncertainty, Weighting
from metaface.training import runs
from metaface.training.loop import Budget, choose_device

log = logging.getLogger("metaface.multitask")

SHARED = ("fixed", "uncertainty", "pcgrad")
STAGED = ("separate", "separate-large")
VARIANTS = (*STAGED, "recognition-only", *SHARED)
STAGES = {
    "detector": ("detection", "alignment"),
    "recogniser": ("recognition",),
    "describer": ("segmentation", "pose", "expression", "attributes"),
}
TASKS = tuple(head for heads in STAGES.values() for head in heads)
SCALE, MARGIN = 16.0, 0.2
"""Of ArcFace: 32 and 0.5 start to learn later (docs/multitask.md, Design)"""
CROP = 112  # pixels
CHANNELS = 64
COSINES_EVERY = 50  # steps
SEARCH_SHARE = 0.25  # of the budget of a unit, for each trial of the weights


@dataclass(frozen=True)
class Settings:
    """Everything that decides the figures.

    Attributes:
        variants: of ``VARIANTS``. ``separate``: a network a stage (detector with alignment,
            recogniser of aligned crops, describer of the rest), all so narrow that their
            parameters sum to about those of the shared one; ``separate-large``: each with the
            trunk of the shared one; ``recognition-only``: the shared network with that head alone,
            and the whole budget; ``fixed``, ``uncertainty``, ``pcgrad``: one shared network.
        people, val_people, test_people: procedural people, different ones.
        photos: of each.
        size: side of a scene, pixels.
        side: least and greatest side of a face in it, pixels.
        batch: scenes a step, new ones in each; for validation and test there are as many as
            photographs.
        lr: highest learning rate.
        weights: of the losses, by task, for ``fixed`` and ``pcgrad``; 1 where there is none.
        search: search these weights on validation people with so many trials; 0: use ``weights``.
        iterations, minutes: the budget of each network; one of them. The three stages of a
            separate one get a third of it each.
        episodes: of identification.
        seed: of people and scenes.
        seeds: training seeds: ``seed``, ``seed + 1``, ...
        device: None: a GPU where there is one.
    """

    variants: tuple[str, ...] = VARIANTS
    people: int = 600
    val_people: int = 40
    test_people: int = 100
    photos: int = 12
    size: int = 128
    side: tuple[float, float] = (24, 96)
    batch: int = 16
    lr: float = 4e-3
    weights: dict[str, float] = field(default_factory=dict)
    search: int = 0
    iterations: int | None = None
    minutes: float | None = None
    episodes: int = 1000
    seed: int = 0
    seeds: int = 1
    device: str | None = None

    def checked(self) -> Settings:
        """The same, with a budget; bad settings fail now, not in an hour.

        Raises:
            ValueError: an unknown variant or task, or numbers out of range.
        """
        check_once(variants=self.variants)
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"no variant {name!r}: choose among {', '.join(VARIANTS)}")
        for task in self.weights:
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
            check_given_counts(value, **{name: getattr(self, name)})
        job = self if self.iterations or self.minutes else replace(self, minutes=10.0)
        Budget(job.iterations, minutes=job.minutes)
        return job

    def share(self, part: float) -> dict[str, Any]:
        """That part of the budget, for ``fit``."""
        iterations = None if self.iterations is None else max(1, round(self.iterations * part))
        minutes = None if self.minutes is None else self.minutes * part
        return {"iterations": iterations, "minutes": minutes}


@dataclass(frozen=True, eq=False)
class Part:
    """Scenes of some people; ``once``: the rows of faces, each photograph's first."""

    scenes: FaceAnnotations
    once: np.ndarray


@alone_in(lambda settings, out, **_: out)
def run(
    settings: Settings, out: str | Path, *, resume: bool = False, progress: bool = True
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
        metaface.training.loop.Interrupted: Ctrl-C; go on with ``resume``.
    """
    from metaface.report import joint as report

    refuse_several_processes("the comparison")
    out, settings = given_path(out, "the results"), settings.checked()
    device = choose_device(settings.device)
    defined = {**asdict(settings), "device": str(device)}
    notes = runs.claim(out, "comparison", resume, defined, {})
    pools = _pools(settings, out / "pools", progress)
    train, crowd = pools["train"], _crowd(settings, pools["test"])
    val, test = (_part(settings, pools[name]) for name in ("val", "test"))
    data = {"train": f"{len(train)} photographs of {len(train.people)} people"}
    data |= {"val": described(val), "test": described(test)}
    del pools
    trials = _search(settings, out, train, val, device, progress) if settings.search else []
    if trials:
        best = max(trials, key=lambda t: float(t["score"]))
        settings = replace(settings, weights=best["weights"])
    units = []
    for variant in settings.variants:
        for seed in range(settings.seed, settings.seed + settings.seeds):
            folder = out / f"{variant}-seed{seed}"
            found = finished(folder)
            if found is None:
                model, spent = _train(variant, seed, settings, train, folder, device, progress)
                found = {"variant": variant, "seed": seed, **spent}
                found |= _measured(model, test, settings, device)
                if hasattr(model, "predict") and "detection" in model.heads:
                    report.overlays(folder / "pictures.png", model, test.scenes, device)
                write_record(folder / "result.json", found)
                log.info("%s, seed %d: %s", variant, seed, found["metrics"])
            units.append(_numbers(found))
    speed = finished(out / "speed")
    if speed is None:
        models = {
            name: _load(name, out / f"{name}-seed{settings.seed}", device)
            for name in settings.variants
            if name != "recognition-only"
        }
        right = {u["variant"]: u["metrics"].get("one_shot") for u in units[::-1]}  # the first seed
        speed = compare_speed(models, right, crowd, test, settings, device, progress)
        write_record(out / "speed" / "result.json", speed)
    results: dict[str, Any] = plain(
        {
            "settings": asdict(settings),
            "machine": machine.describe(device),
            "data": data,
            "weights": settings.weights,
            "trials": trials,
            "rows": [_row(group) for group in _by_variant(units).values()],
            "differences": list(_differences(units)),
            "cosines": {u["variant"]: u["cosines"] for u in units if u.get("cosines")},
            "speed": speed,
            "notes": notes,
        }
    )
    write_json(out / "results.json", results)
    report.write_joint(out / "report.html", results, out)
    return results


# -- people and scenes ------------------------------------------------------------------------


def _part(s: Settings, pool: FaceSprites) -> Part:
    """Scenes to measure on, as many as photographs."""
    part = scenes_of(pool, len(pool), s.size, s.side, s.seed)
    check_episodes(part)
    return part


def check_episodes(part: Part) -> None:
    """Fail before training where identification could not be measured after it.

    Raises:
        ValueError: too few people with photographs enough.
    """
    person = part.scenes.person[part.once]
    identification.one_shot(np.zeros((len(person), 1)), person, 1)


def scenes_of(pool: FaceSprites, n: int, size: int, side: tuple[float, float], seed: int) -> Part:
    """``n`` scenes of ``pool``, and which of their faces are the first of a photograph."""
    numbered = replace(pool, person=np.arange(len(pool)), people=tuple(map(str, range(len(pool)))))
    scenes = compose(numbered, n, size=size, side=side, seed=seed)
    photo = scenes.person
    return Part(
        replace(scenes, person=pool.person[photo], people=pool.people),
        np.sort(np.unique(photo, return_index=True)[1]),
    )


def _pools(settings: Settings, folder: Path, progress: bool) -> dict[str, FaceSprites]:
    s, found, first = settings, {}, 0
    for name, count in (("train", s.people), ("val", s.val_people), ("test", s.test_people)):
        path = folder / f"{name}.npz"
        if path.is_file():
            try:  # each array has a CRC-32 there
                # np.load would not close what it cannot read
                with open(path, "rb") as packed, np.load(packed, allow_pickle=False) as there:
                    kept: dict[str, Any] = {key: there[key] for key in there.files}
            except (zipfile.BadZipFile, EOFError, ValueError, zlib.error) as error:
                raise ValueError(
                    f"{path} is damaged ({error}): remove it, and it is made again"
                ) from error
            people = tuple(str(person) for person in kept.pop("people"))
            found[name] = FaceSprites(**kept, people=people)
        else:
            ids = range(first, first + count)
            pool = FaceSprites.procedural(ids, s.photos, s.size, s.seed, progress=progress)
            arrays = {f.name: getattr(pool, f.name) for f in fields(pool)}
            arrays = {n: a for n, a in arrays.items() if isinstance(a, np.ndarray)}
            with replacing(path) as file:
                np.savez(file, people=np.array(pool.people), **arrays)  # type: ignore[arg-type]
            found[name] = pool
        first += count
    return found


def _crowd(settings: Settings, pool: FaceSprites) -> FaceAnnotations:
    """Scenes with three faces, small enough to have a place, to time."""
    low, high = settings.side
    side = low, max(low, min(high, settings.size / 3))
    scenes = compose(pool, 20, size=settings.size, side=side, faces=(3, 3), seed=settings.seed + 1)
    return scenes.take(np.flatnonzero(np.bincount(scenes.image, minlength=20) == 3))


def described(part: Part) -> str:
    """How much there is, in words."""
    people = len(np.unique(part.scenes.person))
    return (
        f"{len(part.scenes)} scenes, {len(part.scenes.image)} faces, {len(part.once)} "
        f"photographs of {people} people"
    )


# -- networks ---------------------------------------------------------------------------------


def heads_of(tasks: Sequence[str], people: int) -> dict[str, dict[str, Any]]:
    """Options of the heads of ``tasks``, for procedural scenes."""
    options: dict[str, dict[str, Any]] = {
        "recognition": {"people": people, "scale": SCALE, "margin": MARGIN},
        "expression": {"classes": len(EXPRESSIONS)},
        "attributes": {"count": len(ATTRIBUTES)},
    }
    return {task: options.get(task, {}) for task in tasks}


def network(
    tasks: Sequence[str], people: int, width: float = 1.0, features: int = FEATURES
) -> MultiTask:
    """A network whose trunk and map are ``width`` times as wide as the shared one's."""
    channels = 4 * round(CHANNELS / 4 * width)
    return MultiTask(
        heads_of(tasks, people), channels=channels, features=features, norm="frozen", width=width
    )


def parameters(model: nn.Module) -> int:
    """How many a network has, the vectors of the training people left out."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.endswith("nition.people"))


def equal_size() -> tuple[float, int]:
    """The width and the features of a face with which the networks of all stages together have as
    many parameters as the shared one."""

    def total(width: float, features: int) -> int:
        return sum(parameters(network(tasks, 1, width, features)) for tasks in STAGES.values())

    goal = parameters(network(TASKS, 1))
    low, high = 0.25, 1.0
    for _ in range(9):
        middle = (low + high) / 2
        fits = total(middle, round(FEATURES * middle)) <= goal
        low, high = (middle, high) if fits else (low, middle)
    features = round(FEATURES * low)  # a trunk's width goes in steps: these take up the rest
    least = total(low, features)
    return round(low, 3), features + (goal - least) // (total(low, features + 1) - least)


def weighting_of(
    variant: str, weights: Mapping[str, float], tasks: Sequence[str] = TASKS
) -> Weighting:
    """The weighting of a shared variant; that of others is fixed."""
    if variant == "uncertainty":
        return Uncertainty(tasks)
    return PCGrad(weights) if variant == "pcgrad" else Fixed(weights)


def fresh(
    pools: Sequence[tuple[FaceSprites, int]], size: int, side: tuple[float, float], seed: int
) -> Source:
    """Batches of scenes that are composed when they are needed, no two alike: of each pool so
    many."""

    def scenes(step: int) -> FaceAnnotations:
        return FaceAnnotations.join(
            compose(pool, count, size=size, side=side, seed=seed, first=step * count)
            for pool, count in pools
        )

    return scenes


def _crops(scenes: Source, seed: int) -> Source:
    """Aligned crops of the faces in ``scenes``, as a detector would give them."""
    return lambda step: augmented(
        crops_of(scenes(step), CROP),
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
    settings: Settings,
    train: FaceSprites,
    folder: Path,
    device: torch.device,
    progress: bool,
    part: float = 1.0,
) -> tuple[Any, dict[str, Any]]:
    """Train one unit, going on with what is there; the network, and what was spent."""
    people = len(train.people)
    scenes = fresh([(train, settings.batch)], settings.size, settings.side, seed)
    stages = {"": TASKS}
    size = (1.0, FEATURES)
    if variant in STAGED:
        stages, part = dict(STAGES), part / len(STAGES)
        size = equal_size() if variant == "separate" else size
    elif variant == "recognition-only":
        stages = {"": ("recognition",)}
    spent: dict[str, Any] = {"train_seconds": 0.0, "images": 0, "iterations": 0, "parameters": 0}
    for name, tasks in stages.items():
        torch.manual_seed(seed)
        model = network(tasks, people, *size)
        history = fit(
            model,
            _crops(scenes, seed) if name == "recogniser" else scenes,
            weighting=weighting_of(variant, settings.weights),
            lr=settings.lr,
            cosines_every=COSINES_EVERY if variant in SHARED else 0,
            seed=seed,
            device=device,
            out=folder / name,
            resume=True,
            progress=progress,
            label=" ".join([folder.name, name]).strip(),
            **settings.share(part),
        )
        spent["train_seconds"] += history.seconds
        spent["images"] += history.images
        spent["iterations"] += history.iterations
        spent["parameters"] += parameters(model)
        spent["cosines"] = [
            {key: value for key, value in row.items() if key[:7] in ("cosine/", "seconds")}
            for row in history.rows
            if any(key.startswith("cosine/") for key in row)
        ]
    return _load(variant, folder, device), spent


def _load(variant: str, folder: Path, device: torch.device) -> Any:
    """The trained network of a unit."""

    def network_of(name: str) -> MultiTask:
        return MultiTask.load(folder / name / "model.safetensors").to(device)

    if variant in STAGED:
        detector, recogniser, describer = map(network_of, STAGES)
        return Staged(detector, recogniser.embedding(), describer, CROP).to(device).eval()
    return network_of("")


# -- figures ----------------------------------------------------------------------------------


def _measured(model: Any, part: Part, settings: Settings, device: torch.device) -> dict[str, Any]:
    """``metrics``, and the accuracy of each episode, of faces where they are found and where they
    truly are."""
    scenes, once = part.scenes, part.once
    person = scenes.person[once]
    found: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    detects = "detection" in model.heads
    if detects:
        metrics = _summed(measure(model, scenes, device=device))
        vectors = identification.embedded(model, scenes, device=device)[once]
        found["one_shot"] = identification.one_shot(
            vectors, person, settings.episodes, settings.seed
        ).tolist()
        metrics["one_shot"] = float(np.mean(found["one_shot"]))
        metrics |= identification.figures(vectors, person, settings.seed)
        metrics["score"] = score(metrics)
    vectors = identification.embedded(model, scenes, given=True, device=device)[once]
    found["one_shot_given"] = identification.one_shot(
        vectors, person, settings.episodes, settings.seed
    ).tolist()
    metrics["one_shot_given"] = float(np.mean(found["one_shot_given"]))
    return {"metrics": metrics, **found}


def _summed(measured: dict[str, float]) -> dict[str, float]:
    """With the mean over the attributes of precision, recall and F1, and over the angles."""
    kept = {key: value for key, value in measured.items() if "/" not in key}
    kept["pose"] = float(np.mean([kept[angle] for angle in ("yaw", "pitch", "roll")]))
    for name in ("precision", "recall", "f1"):
        values = [v for key, v in measured.items() if key.endswith(f"/{name}")]
        there = [v for v in values if not np.isnan(v)]
        kept[f"attributes_{name}"] = float(np.mean(there)) if there else np.nan
    return kept


def score(metrics: Mapping[str, float]) -> float:
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
    settings: Settings,
    out: Path,
    train: FaceSprites,
    val: Part,
    device: torch.device,
    progress: bool,
) -> list[dict[str, Any]]:
    """Trials of ``fixed`` with other weights, by :func:`score` on validation people.

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
    found: list[dict[str, Any]] = []
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
            metrics = _measured(model, val, settings, device)["metrics"]
            trial = {"weights": weights, "score": metrics["score"], "metrics": metrics}
            write_record(folder / "result.json", trial)
        given = {task: trial["weights"][task] for task in tasks}
        study.add_trial(
            optuna.trial.create_trial(params=given, distributions=spans, value=trial["score"])
        )
        found.append(trial)
    return found


def _numbers(unit: dict[str, Any]) -> dict[str, Any]:
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
