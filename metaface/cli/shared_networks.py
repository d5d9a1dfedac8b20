"""Commands of networks that several tasks share: ``multitask`` and ``joint-benchmark``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from metaface.options.jobs import TASKS, JointSettings, MultitaskSettings
from metaface.options.values import Names

if TYPE_CHECKING:
    from metaface.experiments.joint_scenes import TestScenes
    from metaface.multitask.model import MultiTask
    from metaface.multitask.sprites import FaceSprites


def joint_benchmark(
    *,
    settings: Annotated[JointSettings, Parameter(name="*")] = JointSettings(),
    out: str = "joint",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Compare one shared network with networks in stages.

    Example: metaface joint-benchmark --variants separate fixed --minutes 5

    Args:
        out: Folder of the results.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    from metaface.experiments import joint
    from metaface.report import format_joint

    s = joint.check_settings(settings)
    minutes = s.minutes
    if minutes is not None:
        count = len(s.variants) * s.seeds
        search = f" and {s.search} trials of a quarter of that" if s.search else ""
        print(
            f"at most {count} trainings of {minutes:g} minutes{search}; on top of that: drawing "
            f"{s.photos * (s.people + s.val_people + s.test_people)} faces before it, measuring "
            f"each network on {s.photos * s.test_people} scenes, and timing them after it",
            flush=True,
        )
    results = joint.run(settings, out, resume=resume, progress=not quiet)
    for name, said in results["data"].items():
        print(f"{name:>5}: {said}")
    print(f"\n{format_joint(results)}\n")
    for note in results["notes"]:
        print(f"note: {note}")
    print("± half of the 95% interval over training seeds (of 1-shot accuracy over episodes, too)")
    print(f"{Path(out) / 'results.json'}\n{Path(out) / 'report.html'}")


def multitask(
    *,
    settings: Annotated[MultitaskSettings, Parameter(name="*")] = MultitaskSettings(),
    heads: Names = TASKS,
    weighting: Literal["fixed", "uncertainty", "pcgrad"] = "fixed",
    crops: str | None = None,
    start: str | None = None,
    out: str = "multitask",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Train one network for several tasks of faces in scenes.

    Example: metaface multitask --heads detection alignment recognition --minutes 10

    Args:
        heads: Tasks of the network, a head each.
        weighting: Weighting of the losses of the tasks.
        crops: Aligned photographs of people, a folder each, to be put into scenes as well.
        start: Weights that training starts from: model.safetensors of an earlier training.
            Default: random ones.
        out: Folder of checkpoint.pt and model.safetensors.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    import torch

    from metaface._digest import content_digest
    from metaface.experiments.joint_networks import build_network, build_weighting
    from metaface.experiments.joint_scenes import compose_batches, compose_test_scenes
    from metaface.multitask.sprites import FaceSprites
    from metaface.multitask.training import fit
    from metaface.training import Budget, Run, runs

    if unknown := [head for head in heads if head not in TASKS]:
        raise ValueError(f"no task {unknown[0]!r} for --heads: choose of {', '.join(TASKS)}")
    settings = settings.with_budget()
    held_out = max(10, settings.people // 10)
    scenes = 2 * settings.photos * held_out
    _print_plan(settings, settings.people + held_out, scenes)
    draw = partial(
        FaceSprites.procedural, photos=settings.photos, seed=settings.seed, progress=not quiet
    )
    train = draw(range(settings.people))
    unseen = draw(range(settings.people, settings.people + held_out))
    side = settings.side[0], min(settings.side[1], 0.75 * settings.size)
    part = compose_test_scenes(unseen, scenes, settings.size, side, settings.seed)
    if "recognition" in heads:
        part.check_episodes()
    pools = _pools(train, crops, settings.batch, not quiet)
    torch.manual_seed(settings.seed)
    model = build_network(heads, sum(len(pool.people) for pool, _ in pools))
    if start:
        model.start(start)
    defined = {
        **{n: getattr(settings, n) for n in ("people", "photos", "batch", "size", "seed")},
        "crops": [content_digest(vars(replace(pool, name=""))) for pool, _ in pools[1:]],
        "start": runs.digest_of(start),
    }
    history = fit(
        model,
        compose_batches(pools, settings.size, side, settings.seed),
        weighting=build_weighting(weighting, settings.weights, heads),
        lr=settings.lr,
        data=defined,
        budget=Budget(settings.iterations, minutes=settings.minutes),
        run=Run(
            seed=settings.seed,
            device=settings.device,
            out=out,
            resume=resume,
            progress=not quiet,
            label="multitask",
        ),
    )
    print(f"{history.iterations} steps, {history.images} scenes, {history.seconds:.0f} s")
    _print_figures(model, part)
    print(Path(out) / "model.safetensors")


def _print_plan(settings: MultitaskSettings, people: int, scenes: int) -> None:
    """Say before the start how long a budget of time will take, and what comes on top of it."""
    if settings.minutes is not None:
        print(
            f"training takes {settings.minutes:g} minutes; on top of that: drawing "
            f"{settings.photos * people} faces before it, and measuring the network on {scenes} "
            "scenes after it",
            flush=True,
        )


def _print_figures(model: MultiTask, part: TestScenes) -> None:
    from metaface.multitask import identification
    from metaface.multitask.metrics import measure

    device = next(model.parameters()).device
    given = "detection" not in model.heads
    print(f"procedural people who were not trained on: {part.describe()}")
    for name, value in measure(model, part.scenes, given=given, device=device).items():
        if "/" not in name:
            print(f"{name:>12} {value:.3f}")
    if "recognition" in model.heads:
        vectors = identification.embed_scenes(model, part.scenes, given=given, device=device)
        right = identification.measure_one_shot(vectors[part.rows], part.person)
        print(f"5-way 1-shot {right.mean():.3f}")


def _pools(
    train: FaceSprites, crops: str | None, batch: int, progress: bool
) -> list[tuple[FaceSprites, int]]:
    """Who is put into the scenes of a step, and how many of them."""
    if not crops:
        return [(train, batch)]
    if batch < 2:
        raise ValueError(f"--batch {batch}: half of each step are real faces, give 2 or more")
    real = _load_crops(crops, progress)
    print(f"{real.name}: {len(real)} crops of {len(real.people)} people")
    return [(train, batch - batch // 2), (real, batch // 2)]


def _load_crops(folder: str, progress: bool) -> FaceSprites:
    import numpy as np

    from metaface import data
    from metaface.faces.alignment import SIDE
    from metaface.multitask.sprites import FaceSprites

    faces = data.load(folder, image_size=SIDE, channels=3, progress=progress)
    return FaceSprites.from_aligned(
        np.ascontiguousarray(faces.store[faces.rows]), faces.person, faces.people, faces.name
    )
