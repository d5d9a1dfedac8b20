"""What every job that trains learners does with its settings: check, define, train."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from metaface.arguments import check_given_counts, check_once
from metaface.data import FaceSet
from metaface.data.domain_split import list_sides
from metaface.episodes.augment import Augment
from metaface.learners import MetaLearner
from metaface.learners.spec import ModelSpec, read_seen
from metaface.machine import choose_device
from metaface.options.jobs import RECIPE, JobSettings
from metaface.training import Budget, Run, Task, Validation, runs, train
from metaface.training.fitting import fit_validation

log = logging.getLogger("metaface.experiments.benchmark")
Job = TypeVar("Job", bound=JobSettings)


def specify(job: JobSettings, learner: str) -> ModelSpec:
    """What ``learner`` is made of in this job."""
    options = {n: v for n, v in job.options.get(learner, {}).items() if n not in RECIPE}
    return ModelSpec(
        learner,
        options,
        job.embedding,
        job.norm,
        job.image_size,
        job.channels,
        job.crop,
        runs.digest_of(job.start),
    )


def check_settings(job: Job) -> Job:
    """The same, with a budget; bad settings fail now, not in an hour.

    Raises:
        ValueError: no such learner, option or network, or numbers out of range.
    """
    job = job.with_budget()
    Budget(job.iterations, job.images, job.minutes)
    check_once(learners=job.learners, ways=job.ways, shots=job.shots, augment=job.augment)
    check_given_counts(1, queries=job.queries, episodes=job.episodes, seeds=job.seeds)
    check_given_counts(0, seed=job.seed)
    for name in job.learners:
        specify(job, name).build(start=job.start)
    return job


def define(job: JobSettings) -> dict[str, Any]:
    """What defines the job, as ``runs.claim`` takes it: settings, and digests of files."""
    files = {name: getattr(job, name, None) for name in ("start", "weights")}
    return {
        **asdict(job),
        "device": str(choose_device(job.device)),
        "files": {n: runs.digest_of(path) for n, path in files.items()},
    }


def leave_out_seen(job: JobSettings, test: FaceSet) -> FaceSet:
    """``test`` without the people whom ``start`` was trained on, where it says so.

    Raises:
        ValueError: nobody is left.
    """
    seen = read_seen(job.start) if job.start else None
    return test.unseen(**seen) if seen else test


def train_learner(
    job: JobSettings,
    name: str,
    seed: int,
    faces: FaceSet,
    val: FaceSet,
    out: Path | None,
    *,
    progress: bool,
    across: bool = False,
    label: str | None = None,
    validation: Validation = Validation(),  # noqa: B008 - frozen
) -> tuple[MetaLearner, dict[str, Any]]:
    """Train one learner in the folder ``out``, going on with what is there.

    Args:
        faces, val: people, both of two sides or neither; see ``metaface.data.domain_split``.
        out: None: nothing is kept.
        label: name on the progress bar; that of the folder where left out.
        across, validation: as in ``metaface.train``; validation is 1-shot, at the least of the
            job's ways.

    Returns:
        The learner, and ``curve``, ``train_seconds``, ``images``, ``iterations``, ``recipe``
        and ``notes``, see :class:`metaface.training.History`.
    """
    spec = specify(job, name)
    learner = spec.build(seed, start=job.start)
    learner.task_chunk = job.task_chunk
    val_ways, _, fewer = fit_validation(val, min(job.ways), 1, **list_sides(val))
    if fewer:
        fewer = f"{name}: {fewer}"
        log.warning(fewer)
    history = train(
        learner,
        faces,
        val,
        task=Task(
            **job.given(name), augment=Augment.of(job.augment), across=across, **list_sides(faces)
        ),
        budget=Budget(job.iterations, job.images, job.minutes),
        validation=replace(validation, ways=val_ways, shots=1),
        run=Run(
            seed=seed,
            device=job.device,
            precision=job.precision,
            out=out,
            resume=True,
            spec=spec,
            progress=progress,
            label=label or (out.name if out else name),
        ),
    )
    return learner, {
        "curve": history.rows,
        "train_seconds": history.seconds,
        "images": history.images,
        "iterations": history.iterations,
        "recipe": history.recipe,
        "notes": [note for note in (*history.notes, fewer) if note],
    }
