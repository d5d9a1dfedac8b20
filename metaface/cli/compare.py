"""Commands that train, compare and test learners: ``train``, ``benchmark`` and others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from metaface.options.commands import EvaluateOptions, RecipeOptions, TrainOptions
from metaface.options.jobs import (
    BenchmarkSettings,
    CrossDomainSettings,
    JobSettings,
    SweepSettings,
    TrainSettings,
)
from metaface.options.texts import parse_domains, parse_options
from metaface.options.values import (
    Count,
    MaybeNames,
    MaybePositive,
    Names,
    Repeated,
)

if TYPE_CHECKING:
    from metaface.experiments.benchmark import People
    from metaface.learners import MetaLearner
    from metaface.learners.spec import ModelSpec

Settings = TypeVar("Settings", bound=BenchmarkSettings)


def benchmark(
    *,
    settings: Annotated[BenchmarkSettings, Parameter(name="*")] = BenchmarkSettings(),
    option: Repeated = (),
    out: str = "results",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Compare learners on the same people and the same test episodes.

    Example: metaface benchmark --data photos/ --learners maml prototypical --minutes 2

    Args:
        option: Setting of a learner as LEARNER.NAME=VALUE, such as reptile.test_steps=50; may be
            repeated.
        out: Folder of the results.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    from metaface import report
    from metaface.experiments import benchmark as job

    settings = _of_one_source(replace(settings, options=_learner_options(option))).with_budget()
    learners = len(settings.learners)
    _print_plan(
        settings,
        learners * settings.seeds,
        f"loading, and tests of {settings.episodes} episodes of each at "
        f"{len(settings.ways) * len(settings.shots)} ways and shots",
    )
    results = job.run(settings, out, resume=resume, progress=not quiet)
    for part, text in results["data"].items():
        print(f"{part:>5}: {text}")
    print(f"\n{report.format_benchmark(results['rows'])}\n")
    _print_notes(results)
    print(f"accuracy ± half of the 95% interval over the same {settings.episodes} episodes")
    print(f"{Path(out) / 'results.json'}\n{Path(out) / 'report.html'}")


def _of_one_source(settings: Settings) -> Settings:
    """Without ``data``, where people to train or to test on are given instead."""
    return replace(settings, data=None) if settings.train_data or settings.test_data else settings


def _print_plan(settings: JobSettings, trainings: int, on_top: str) -> None:
    """Say before the start how long a budget of time will take, and what comes on top of it."""
    if (each := settings.minutes) is not None:
        print(
            f"at most {trainings} trainings of {each:g} minutes, validation included: "
            f"{trainings * each:g} minutes; on top of that: {on_top}",
            flush=True,
        )


def _print_notes(results: dict[str, Any]) -> None:
    for note in results["notes"]:
        print(f"note: {note}")


def cross_domain(
    *,
    domains: Names,
    settings: Annotated[CrossDomainSettings, Parameter(name="*")] = CrossDomainSettings(),
    option: Repeated = (),
    out: str = "matrix",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Train learners in some domains of photographs, test them in others.

    Example: metaface cross-domain --domains front=synthetic sketch=synthetic:sketch --minutes 1

    Args:
        domains: Domains as NAME=SOURCE[:DOMAIN,...][@REGEX][>SOURCE...], or a .toml file of lines
            NAME = "SOURCE...". Photographs, such as att=att_faces.zip or
            profile=synthetic:profile; those whose path matches, 'front=yaleb.zip@E[+-]0'; support
            from one source and queries from another, of the people whose names are in both,
            'sketch=photos.zip>sketches.zip'. Where a path itself holds one of :@> the source is
            the longest one that exists.
        option: Setting of a learner as LEARNER.NAME=VALUE, such as reptile.test_steps=50; may be
            repeated.
        out: Folder of the results.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    from metaface import report
    from metaface.experiments import cross_domain as job

    settings = replace(
        settings, domains=parse_domains(domains), options=_learner_options(option)
    ).with_budget()
    _print_plan(
        settings,
        len(settings.trainings()) * len(settings.learners) * settings.seeds,
        f"loading, and tests of {settings.episodes} episodes of each in each domain it is tested "
        "in",
    )
    results = job.run(settings, out, resume=resume, progress=not quiet)
    for name, parts in results["data"].items():
        print(f"{name}: tested on {parts['test']}")
    print(f"\n{report.format_matrix(results['rows'])}\n")
    _print_notes(results)
    print("trained in the domain of the row, tested in that of the column: accuracy % ± half of")
    print(f"the 95% interval over the same {settings.episodes} episodes")
    print(f"{Path(out) / 'results.json'}\n{Path(out) / 'report.html'}")


def train(
    *,
    settings: Annotated[TrainSettings, Parameter(name="*")] = TrainSettings(),
    recipe: Annotated[RecipeOptions, Parameter(name="*")] = RecipeOptions(),
    options: Annotated[TrainOptions, Parameter(name="*")] = TrainOptions(),
    out: str = "trained",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Train one learner.

    Example: metaface train --data photos/ --learner maml --minutes 2 --out maml

    Args:
        out: Folder of the checkpoint.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    from metaface import training
    from metaface.episodes.augment import Augment
    from metaface.experiments.benchmark import load_people
    from metaface.experiments.job import specify
    from metaface.training import Budget, Run, Task, distributed, runs

    group = distributed.join()  # first, so that what fails in every process is told by one
    if not group.first:
        quiet = True
        logging.getLogger("metaface").setLevel(logging.ERROR)
    own = parse_options(options.option)
    given = {name: value for name, value in asdict(recipe).items() if value is not None}
    for name in given.keys() & own.keys():
        flag = f"--{name.replace('_', '-')}"
        raise ValueError(f"{flag} and --option {name} are one setting: give one of them")
    settings = _of_one_source(replace(settings, options={options.learner: own})).with_budget()
    people = load_people(settings, tested=False, progress=not quiet)
    spec = replace(specify(settings, options.learner), start_sha256=runs.digest_of(settings.start))
    on_finish = _blend(settings, options, spec, people, quiet)
    if on_finish and group.first and settings.minutes is not None:
        print(
            f"training takes {settings.minutes:g} minutes, validation included; on top of that: "
            f"the blend, which is measured on validation people and {len(options.keep)} other sets",
            flush=True,
        )
    learner = spec.build(settings.seed, start=settings.start)
    learner.task_chunk = settings.task_chunk
    history = training.train(
        learner,
        people.train,
        people.val,
        task=Task(
            **(settings.given(options.learner) | given),
            augment=Augment.of(settings.augment),
            support_domain=options.support_domain,
            query_domain=options.query_domain,
        ),
        budget=Budget(settings.iterations, settings.images, settings.minutes, options.patience),
        run=Run(
            seed=settings.seed,
            device=settings.device,
            precision=settings.precision,
            out=out,
            resume=resume,
            spec=spec,
            progress=not quiet,
            label=options.learner,
            on_finish=on_finish,
        ),
    )
    if not group.first:
        return
    if (blend := history.finished) is not None:
        _print_blend(blend)
    validated = [row for row in history.rows if "val_accuracy" in row]
    best = max(validated, key=lambda row: row["val_accuracy"], default={"val_accuracy": 0.0})
    tasks = f"{best['val_ways']}-way {best['val_shots']}-shot " if "val_ways" in best else ""
    print(
        f"{options.learner}: {history.iterations} steps, {history.images} photographs, "
        f"{history.seconds:.0f} s; best {tasks}validation accuracy {best['val_accuracy']:.3f} at "
        f"step {history.best_iteration}\n{Path(out) / 'checkpoint.pt'}"
    )


def _blend(
    settings: TrainSettings, options: TrainOptions, spec: ModelSpec, people: People, quiet: bool
) -> Callable[[MetaLearner], dict[str, Any]] | None:
    """What puts the blend of pretrained and trained weights in place, and returns the choice."""
    from metaface import data
    from metaface.episodes.sampler import check_combinations
    from metaface.training import seen_people
    from metaface.training.weight_interpolation import KEEP_LOSS, interpolate_learner

    if not options.blend:
        if options.keep or options.keep_loss is not None:
            raise ValueError("--keep and --keep-loss decide how far --blend goes: give that, too")
        return None
    if settings.start is None:
        raise ValueError("--blend goes from the weights of --start to the trained ones: give both")
    if options.keep_loss is not None and not options.keep:
        raise ValueError("--keep-loss is what --keep may lose: give that, too")
    before = spec.build(settings.seed, start=settings.start).embedding
    seen = seen_people(people.train, people.val)
    keep = [
        data.load(
            source,
            image_size=settings.image_size,
            channels=settings.channels,
            crop=settings.crop,
            progress=not quiet,
        ).unseen(**seen)
        for source in options.keep
    ]
    for source, faces in zip(options.keep, keep, strict=True):
        try:  # here, and not when the training is over
            check_combinations(faces, ways=(2,), shots=(1,), queries=1)
        except ValueError as error:
            raise ValueError(f"--keep {source}: {error}") from error

    loss = KEEP_LOSS if options.keep_loss is None else options.keep_loss

    def put(learner: MetaLearner) -> dict[str, Any]:
        device = next(p.device for p in learner.parameters())
        choice = interpolate_learner(
            learner,
            before.to(device),
            people.val,
            keep,
            keep_loss=loss,
            seed=settings.seed,
            support_domain=options.support_domain,
            query_domain=options.query_domain,
        )
        return choice.as_dict() | {"keep": list(options.keep)}

    put.settings = {"keep_loss": loss}  # type: ignore[attr-defined]
    put.faces = {  # type: ignore[attr-defined]
        f"--keep no. {number}": faces for number, faces in enumerate(keep, 1)
    }
    return put


def _print_blend(blend: dict[str, Any]) -> None:
    print(
        "share of the way from --start, 1-shot accuracy on validation people"
        + "".join(f", on {source}" for source in blend["keep"])
    )
    for step in blend["steps"]:
        figures = " ".join(f"{value:.3f}" for value in (step["gained"], *step["kept"]))
        verdict = "" if step["allowed"] else "  loses too much"
        if step["share"] == blend["share"]:
            verdict = "  chosen" if step["share"] else "  chosen: not adapted"
        print(f"{step['share']:.1f} {figures}{verdict}")


def sweep(
    *,
    settings: Annotated[SweepSettings, Parameter(name="*")] = SweepSettings(),
    parameters: MaybeNames = None,
    trials: Count = 20,
    total_minutes: MaybePositive = None,
    storage: str | None = None,
    option: Repeated = (),
    out: str = "sweep",
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Search learners' settings on validation people.

    Example: metaface sweep --data photos/ --learners maml --trials 10 --minutes 1

    Args:
        parameters: Parameters to search over, such as inner_lr shots. Default: all of a learner's
            table.
        trials: Trials of each learner, those of all processes together.
        total_minutes: Minutes after which no trial begins.
        storage: What processes share: a journal file or sqlite:///... . Default: journal.log in
            --out.
        option: Setting of a learner as LEARNER.NAME=VALUE: where the search of a parameter starts,
            or what another one is; may be repeated.
        out: Folder of the results.
        resume: Go on where an interrupted run stopped.
        quiet: Show no progress bars.
    """
    from metaface import report
    from metaface.experiments import sweep as job

    settings = _of_one_source(replace(settings, options=_learner_options(option))).with_budget()
    late = "" if total_minutes is None else ", and what a trial has left after --total-minutes"
    _print_plan(settings, trials * len(settings.learners), f"loading{late}")
    results = job.run(
        settings,
        out,
        trials=trials,
        total_minutes=total_minutes,
        parameters=parameters,
        storage=storage,
        resume=resume,
        progress=not quiet,
    )
    for line in report.tabulate_sweep(results)[1:]:
        print(f"{line[0]}: {line[2]} on validation people, {line[3]} by default; {line[4]} trials")
    _print_notes(results)
    for command in results["commands"]:
        print(f"\n{command}")
    print(f"\n{Path(out) / 'sweep.json'}\n{Path(out) / 'sweep.html'}")


def evaluate(
    checkpoint: str,
    *,
    options: Annotated[EvaluateOptions, Parameter(name="*")] = EvaluateOptions(),
    json: bool = False,
    out: str | None = None,
    quiet: bool = False,
) -> None:
    """Test a checkpoint on people it has not seen.

    Example: metaface evaluate maml/checkpoint.pt --data other_photos.zip --ways 5 20

    Args:
        checkpoint: File checkpoint.pt of metaface train or metaface benchmark.
        json: Print JSON.
        out: File to write that JSON to.
        quiet: Show no progress bars.
    """
    from metaface import data, evaluation
    from metaface._json import dumps, write_json
    from metaface.episodes.sampler import check_combinations
    from metaface.learners.spec import load_model
    from metaface.machine import choose_device

    learner, spec = load_model(checkpoint)
    learner.to(choose_device(options.device))
    learner.task_chunk = options.task_chunk
    faces = data.load(
        options.data,
        image_size=spec.image_size,
        channels=spec.channels,
        crop=options.crop if options.crop is not None else spec.crop,
        progress=not quiet,
    )
    for seen in learner.trained_before:
        faces = faces.unseen(**seen)
    if not json:
        print(f"test: {faces.describe()}")
    check_combinations(faces, options.ways, options.shots, options.queries)
    rows = []
    for ways in options.ways:
        for shots in options.shots:
            result = evaluation.evaluate(
                learner,
                faces,
                ways=ways,
                shots=shots,
                queries=options.queries,
                episodes=options.episodes,
                seed=options.seed,
                progress=not quiet,
            )
            if not json:
                print(f"{spec.learner}, {ways}-way {shots}-shot: {result}")
            rows.append(
                {
                    "learner": spec.learner,
                    "data": options.data,
                    "ways": ways,
                    "shots": shots,
                    "accuracy": result.accuracy,
                    "ci95": result.ci95,
                    "f1": result.f1,
                    "episodes": options.episodes,
                    "adapt_ms": result.adapt_ms,
                    "norm": result.norm,
                    "transductive": result.transductive,
                }
            )
    found = {"spec": asdict(spec), "rows": rows}
    if json:
        print(dumps(found))
    if out:
        write_json(out, found)
        if not json:
            print(out)


def _learner_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    from metaface.learners import LEARNERS, find

    found: dict[str, dict[str, Any]] = {}
    for full, value in parse_options(texts).items():
        learner, dot, name = full.rpartition(".")  # package.module:Class.name=value, too
        if not dot:
            raise ValueError(
                f"--option {full}: write it as learner.name=value ({', '.join(LEARNERS)})"
            )
        find(learner)
        found.setdefault(learner, {})[name] = value
    return found
