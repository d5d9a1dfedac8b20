"""The command line of shared networks: ``metaface joint-benchmark`` and ``metaface multitask``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from metaface import data
from metaface._digest import content_digest
from metaface.arguments import count, count_or_none, device, positive, rate
from metaface.experiments import joint
from metaface.experiments.joint import SHARED, VARIANTS, JointSettings
from metaface.experiments.joint_networks import TASKS, build_network, build_weighting
from metaface.experiments.joint_scenes import (
    TestScenes,
    compose_batches,
    compose_test_scenes,
)
from metaface.faces.alignment import SIDE
from metaface.multitask import identification
from metaface.multitask.metrics import measure
from metaface.multitask.model import MultiTask
from metaface.multitask.sprites import FaceSprites
from metaface.multitask.training import fit
from metaface.report import format_joint
from metaface.training import runs

DEFAULTS = JointSettings()
MINUTES = 10.0


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; see :func:`metaface.cli.recognition.add`."""
    p = command("joint-benchmark", _benchmark, "compare one shared network with networks in stages")
    p.add_argument(
        "--variants",
        nargs="+",
        default=VARIANTS,
        choices=VARIANTS,
        metavar="NAME",
        help=f"of {', '.join(VARIANTS)}; default: all",
    )
    p.add_argument(
        "--val-people",
        type=count,
        default=DEFAULTS.val_people,
        help=f"default: {DEFAULTS.val_people}",
    )
    p.add_argument(
        "--test-people",
        type=count,
        default=DEFAULTS.test_people,
        help=f"default: {DEFAULTS.test_people}",
    )
    p.add_argument(
        "--search",
        type=count_or_none,
        default=0,
        metavar="N",
        help="search the weights of the losses in N trials on validation people (Optuna)",
    )
    p.add_argument(
        "--episodes",
        type=count,
        default=DEFAULTS.episodes,
        help=f"of identification; default: {DEFAULTS.episodes}",
    )
    p.add_argument("--seeds", type=count, default=1, help="training seeds; default: 1")
    _add_shared(p)
    p.add_argument("--out", default="joint", help="folder of the results; default: joint")

    p = command("multitask", _multitask, "train one network for several tasks of faces in scenes")
    p.add_argument(
        "--heads",
        nargs="+",
        default=TASKS,
        choices=TASKS,
        metavar="TASK",
        help=f"of {', '.join(TASKS)}; default: all",
    )
    p.add_argument(
        "--weighting", default="fixed", choices=SHARED, help="of the tasks' losses; default: fixed"
    )
    p.add_argument(
        "--crops",
        metavar="DIR",
        help="aligned photographs of people, a folder each, to be put into scenes as well",
    )
    p.add_argument(
        "--start", metavar="FILE", help="go on from the model.safetensors of an earlier training"
    )
    _add_shared(p)
    p.add_argument(
        "--out",
        default="multitask",
        help="folder of checkpoint.pt and model.safetensors; default: multitask",
    )


def _add_shared(p: argparse.ArgumentParser) -> None:
    for name, what in (
        ("people", "procedural people to train on"),
        ("photos", "of each"),
        ("size", "side of a scene, pixels"),
        ("batch", "scenes a step"),
    ):
        default = getattr(DEFAULTS, name)
        p.add_argument(f"--{name}", type=count, default=default, help=f"{what}; default: {default}")
    p.add_argument("--lr", type=rate, default=DEFAULTS.lr, help=f"default: {DEFAULTS.lr}")
    group = p.add_mutually_exclusive_group()
    group.add_argument("--iterations", type=count, help="training budget of a network: steps")
    group.add_argument(
        "--minutes",
        type=positive,
        help="or wall time of training, without drawing before it and measuring "
        f"after it; default: {MINUTES:g}",
    )
    p.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    p.add_argument(
        "--seed", type=count_or_none, default=0, help="of people, scenes and weights; default: 0"
    )
    p.add_argument(
        "--device", type=device, help="cpu, cuda, ...; default: a GPU where there is one"
    )
    p.add_argument("--quiet", action="store_true", help="no progress bars")


def _benchmark(o: argparse.Namespace) -> None:
    settings = JointSettings(
        variants=tuple(o.variants),
        people=o.people,
        val_people=o.val_people,
        test_people=o.test_people,
        photos=o.photos,
        size=o.size,
        batch=o.batch,
        lr=o.lr,
        search=o.search,
        iterations=o.iterations,
        minutes=o.minutes,
        episodes=o.episodes,
        seed=o.seed,
        seeds=o.seeds,
        device=o.device,
    )
    minutes = settings.checked().minutes
    if minutes is not None:
        count = len(o.variants) * o.seeds
        search = f" and {o.search} trials of a quarter of that" if o.search else ""
        print(
            f"at most {count} trainings of {minutes:g} minutes{search}; on top of that: drawing "
            f"{o.photos * (o.people + o.val_people + o.test_people)} faces before it, measuring "
            f"each network on {o.photos * o.test_people} scenes, and timing them after it",
            flush=True,
        )
    results = joint.run(settings, o.out, resume=o.resume, progress=not o.quiet)
    for name, said in results["data"].items():
        print(f"{name:>5}: {said}")
    print(f"\n{format_joint(results)}\n")
    for note in results["notes"]:
        print(f"note: {note}")
    print("± half of the 95% interval over training seeds (of 1-shot accuracy over episodes, too)")
    print(f"{Path(o.out) / 'results.json'}\n{Path(o.out) / 'report.html'}")


def _multitask(o: argparse.Namespace) -> None:
    held_out = max(10, o.people // 10)
    minutes = o.minutes if o.iterations or o.minutes else MINUTES
    if minutes is not None:
        print(
            f"training takes {minutes:g} minutes; on top of that: drawing "
            f"{o.photos * (o.people + held_out)} faces before it, and measuring the network on "
            f"{2 * o.photos * held_out} scenes after it",
            flush=True,
        )
    train = FaceSprites.procedural(range(o.people), o.photos, seed=o.seed, progress=not o.quiet)
    unseen = FaceSprites.procedural(
        range(o.people, o.people + held_out), o.photos, seed=o.seed, progress=not o.quiet
    )
    side = DEFAULTS.side[0], min(DEFAULTS.side[1], 0.75 * o.size)
    part = compose_test_scenes(unseen, 2 * o.photos * held_out, o.size, side, o.seed)
    if "recognition" in o.heads:
        part.check_episodes()
    pools = [(train, o.batch)]
    if o.crops:
        if o.batch < 2:
            raise ValueError(f"--batch {o.batch}: half of each step are real faces, give 2 or more")
        real = _crops(o.crops, not o.quiet)
        print(f"{real.name}: {len(real)} crops of {len(real.people)} people")
        pools = [(train, o.batch - o.batch // 2), (real, o.batch // 2)]
    torch.manual_seed(o.seed)
    model = build_network(o.heads, sum(len(pool.people) for pool, _ in pools))
    if o.start:
        model.start(o.start)
    defined = {
        "people": o.people,
        "photos": o.photos,
        "batch": o.batch,
        "size": o.size,
        "seed": o.seed,
        "crops": [content_digest(vars(replace(pool, name=""))) for pool, _ in pools[1:]],
        "start": runs.digest_of(o.start),
    }
    history = fit(
        model,
        compose_batches(pools, o.size, side, o.seed),
        weighting=build_weighting(o.weighting, DEFAULTS.weights, o.heads),
        lr=o.lr,
        iterations=o.iterations,
        minutes=minutes,
        seed=o.seed,
        device=o.device,
        out=o.out,
        data=defined,
        resume=o.resume,
        progress=not o.quiet,
        label="multitask",
    )
    print(f"{history.iterations} steps, {history.images} scenes, {history.seconds:.0f} s")
    _print_figures(model, part)
    print(Path(o.out) / "model.safetensors")


def _print_figures(model: MultiTask, part: TestScenes) -> None:
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


def _crops(folder: str, progress: bool) -> FaceSprites:
    faces = data.load(folder, image_size=SIDE, channels=3, progress=progress)
    return FaceSprites.from_aligned(
        np.ascontiguousarray(faces.store[faces.rows]), faces.person, faces.people, faces.name
    )
