"""The command line: ``metaface benchmark | cross-domain | train | ...``, and recognition's."""

from __future__ import annotations

import argparse
import ast
import errno
import io
import logging
import os
import sqlite3
import sys
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import metaface
from metaface import checkpoint, data, nets, report
from metaface._json import write_json
from metaface._picture_file import picture_kind, write_picture
from metaface._text import printable
from metaface.arguments import count, count_or_none, device, first_twice, positive, rate, share
from metaface.cli import measure, multitask, robustness
from metaface.cli import recognition as people
from metaface.episodes.augment import Augment
from metaface.episodes.sampler import EpisodeSampler
from metaface.evaluation import evaluate
from metaface.experiments import benchmark, cross_domain, sweep
from metaface.experiments.benchmark import Settings
from metaface.experiments.photo_rows import show_people, show_task
from metaface.learners import LEARNERS, MetaLearner
from metaface.learners.checks import out_of_memory
from metaface.learners.spec import ModelSpec, load_model
from metaface.recognition import GalleryError
from metaface.training import distributed, runs
from metaface.training.loop import choose_device, seen_people, train
from metaface.training.weight_interpolation import KEEP_LOSS, interpolate_learner

DEFAULTS = Settings()
STATUS = """exit status:
  0    done; what was left out on the way, such as unreadable photographs, is said
  1    another process of the same distributed job was lost
  2    not done: a wrong or empty argument, a file or setting that cannot be used, not one
       usable photograph in what was given, or no memory or disk left
  70   a fault of MetaFace; METAFACE_DEBUG=1 in the environment shows where
  130  interrupted; what can be gone on with is kept
  141  nobody reads the output any more
What is found changes nothing: verify ends with 0 for two people, identify for strangers.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, one of those in ``STATUS``.

    With METAFACE_DEBUG=1 in the environment, an error is shown with its traceback.
    """
    logging.basicConfig(format="metaface: %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that it cannot write stops nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        logging.getLogger("metaface").warning(
            "letters in arguments and names of files are read as %s here: others are garbled "
            "or refused: set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
            encoding,
        )
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except BrokenPipeError:  # who reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        status, sentence = _said(error)
        if distributed.first_to_say(sentence):
            if os.environ.get("METAFACE_DEBUG"):
                traceback.print_exception(error)
            print(f"metaface: {printable(sentence)}", file=sys.stderr)
        return status
    return 0


_STATUS: tuple[tuple[tuple[type[BaseException], ...], int], ...] = (
    ((KeyboardInterrupt,), 130),  # Interrupted is one
    ((distributed.ProcessLost,), 1),
    (
        (
            ValueError,
            TypeError,
            OSError,
            ImportError,
            FloatingPointError,
            OverflowError,
            checkpoint.CheckpointError,
            GalleryError,
            zipfile.BadZipFile,
            sqlite3.Error,
        ),
        2,
    ),
)


def _said(error: BaseException) -> tuple[int, str]:
    """The exit status of an error, and one sentence about it."""
    causes = list(_causes(error))
    if any(out_of_memory(cause) for cause in causes):
        return 2, (
            f"there is not enough memory ({_first_lines(error)}): ask for smaller pictures, fewer "
            "tasks at once (--task-chunk 1) or a smaller --meta-batch"
        )
    full = [c for c in causes if isinstance(c, OSError) and c.errno in (errno.ENOSPC, errno.EDQUOT)]
    if full:
        where = "" if full[0].filename is None else f" that holds {full[0].filename}"
        return 2, f"the disk{where} is full: make room, or give another folder"
    for kinds, status in _STATUS:
        if isinstance(error, kinds):
            return status, _first_lines(error) if str(error) else _KIND.get(status, repr(error))
    return 70, (
        f"{type(error).__name__}: {_first_lines(error)}: this is a fault of MetaFace: run it with "
        "METAFACE_DEBUG=1 for the traceback, and report that"
    )


_KIND = {130: "interrupted"}  # of errors without a text


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_lines(error: BaseException) -> str:
    """An error's text in one line: the first, and the one after it where that only announces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:1000]


# -- commands --------------------------------------------------------------------------------


def _benchmark(o: argparse.Namespace) -> None:
    settings = _settings(
        o,
        learners=tuple(o.learners),
        ways=tuple(o.ways),
        shots=tuple(o.shots),
        queries=o.queries,
        episodes=o.episodes,
        seeds=o.seeds,
        options=_learner_options(o.option),
        weights=o.weights,
        start=o.start,
    )
    _print_plan(
        settings,
        len(o.learners) * o.seeds,
        f"loading, and tests of {o.episodes} episodes of each at {len(o.ways) * len(o.shots)} "
        "ways and shots",
    )
    results = benchmark.run(settings, o.out, resume=o.resume, progress=not o.quiet)
    for part, text in results["data"].items():
        print(f"{part:>5}: {text}")
    print(f"\n{report.format_benchmark(results['rows'])}\n")
    _print_notes(results)
    print(f"accuracy ± half of the 95% interval over the same {settings.episodes} episodes")
    print(f"{Path(o.out) / 'results.json'}\n{Path(o.out) / 'report.html'}")


def _print_plan(settings: benchmark.Job, trainings: int, on_top: str) -> None:
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


def _cross_domain(o: argparse.Namespace) -> None:
    settings = cross_domain.Settings(
        domains=cross_domain.parse_domains(o.domains),
        protocols=tuple(o.protocols),
        across=o.across,
        learners=tuple(o.learners),
        ways=tuple(o.ways),
        shots=tuple(o.shots),
        queries=o.queries,
        episodes=o.episodes,
        seeds=o.seeds,
        options=_learner_options(o.option),
        start=o.start,
        **_shared(o),
    )
    _print_plan(
        settings,
        len(settings.trainings()) * len(o.learners) * o.seeds,
        f"loading, and tests of {o.episodes} episodes of each in each domain it is tested in",
    )
    results = cross_domain.run(settings, o.out, resume=o.resume, progress=not o.quiet)
    for name, parts in results["data"].items():
        print(f"{name}: tested on {parts['test']}")
    print(f"\n{report.format_matrix(results['rows'])}\n")
    _print_notes(results)
    print("trained in the domain of the row, tested in that of the column: accuracy % ± half of")
    print(f"the 95% interval over the same {settings.episodes} episodes")
    print(f"{Path(o.out) / 'results.json'}\n{Path(o.out) / 'report.html'}")


def _train(o: argparse.Namespace) -> None:
    group = distributed.join()  # first, so that what fails in every process is told by one
    if not group.first:
        o.quiet = True
        logging.getLogger("metaface").setLevel(logging.ERROR)
    options = _options(o.option)
    given = {n: getattr(o, n) for n in benchmark.RECIPE if getattr(o, n) is not None}
    for name in given.keys() & options.keys():
        flag = f"--{name.replace('_', '-')}"
        raise ValueError(f"{flag} and --option {name} are one setting: give one of them")
    settings = _settings(o, shots=(1,), options={o.learner: options})
    people = benchmark.load_people(settings, tested=False, progress=not o.quiet)
    spec = replace(settings.spec(o.learner), start_sha256=runs.digest_of(o.start))
    on_finish = _blend(o, settings, spec, people)
    if on_finish and group.first and settings.minutes is not None:
        print(
            f"training takes {settings.minutes:g} minutes, validation included; on top of that: "
            f"the blend, which is measured on validation people and {len(o.keep)} other sets",
            flush=True,
        )
    learner = spec.build(o.seed, start=o.start)
    learner.task_chunk = o.task_chunk
    history = train(
        learner,
        people.train,
        people.val,
        **(settings.given(o.learner) | given),
        augment=Augment.of(o.augment),
        patience=o.patience,
        seed=o.seed,
        device=o.device,
        iterations=o.iterations,
        images=o.images,
        minutes=_minutes(o),
        out=o.out,
        support_domain=o.support_domain,
        query_domain=o.query_domain,
        resume=o.resume,
        spec=spec,
        progress=not o.quiet,
        label=o.learner,
        on_finish=on_finish,
    )
    if not group.first:
        return
    if (blend := history.finished) is not None:
        _print_blend(blend)
    validated = [row for row in history.rows if "val_accuracy" in row]
    best = max(validated, key=lambda row: row["val_accuracy"], default={"val_accuracy": 0.0})
    tasks = f"{best['val_ways']}-way {best['val_shots']}-shot " if "val_ways" in best else ""
    print(
        f"{o.learner}: {history.iterations} steps, {history.images} photographs, "
        f"{history.seconds:.0f} s; best {tasks}validation accuracy {best['val_accuracy']:.3f} at "
        f"step {history.best_iteration}\n{Path(o.out) / 'checkpoint.pt'}"
    )


def _blend(
    o: argparse.Namespace, settings: Settings, spec: ModelSpec, people: benchmark.People
) -> Callable[[MetaLearner], dict[str, Any]] | None:
    """What puts the blend of pretrained and trained weights in place, and returns the choice."""
    if not o.blend:
        if o.keep or o.keep_loss is not None:
            raise ValueError("--keep and --keep-loss decide how far --blend goes: give that, too")
        return None
    if o.start is None:
        raise ValueError("--blend goes from the weights of --start to the trained ones: give both")
    if o.keep_loss is not None and not o.keep:
        raise ValueError("--keep-loss is what --keep may lose: give that, too")
    before = spec.build(o.seed, start=o.start).embedding
    seen = seen_people(people.train, people.val)
    keep = [
        data.load(
            source,
            image_size=settings.image_size,
            channels=settings.channels,
            crop=settings.crop,
            progress=not o.quiet,
        ).unseen(**seen)
        for source in o.keep
    ]

    loss = KEEP_LOSS if o.keep_loss is None else o.keep_loss

    def put(learner: MetaLearner) -> dict[str, Any]:
        device = next(p.device for p in learner.parameters())
        choice = interpolate_learner(
            learner,
            before.to(device),
            people.val,
            keep,
            keep_loss=loss,
            seed=o.seed,
            support_domain=o.support_domain,
            query_domain=o.query_domain,
        )
        return choice.as_dict() | {"keep": list(o.keep)}

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


def _sweep(o: argparse.Namespace) -> None:
    settings = _settings(
        o,
        learners=tuple(o.learners),
        ways=tuple(o.ways),
        shots=tuple(o.shots),
        queries=o.queries,
        options=_learner_options(o.option),
    )
    late = "" if o.total_minutes is None else ", and what a trial has left after --total-minutes"
    _print_plan(settings, o.trials * len(o.learners), f"loading{late}")
    results = sweep.run(
        settings,
        o.out,
        trials=o.trials,
        total_minutes=o.total_minutes,
        parameters=o.parameters,
        storage=o.storage,
        resume=o.resume,
        progress=not o.quiet,
    )
    for line in report.tabulate_sweep(results)[1:]:
        print(f"{line[0]}: {line[2]} on validation people, {line[3]} by default; {line[4]} trials")
    _print_notes(results)
    for command in results["commands"]:
        print(f"\n{command}")
    print(f"\n{Path(o.out) / 'sweep.json'}\n{Path(o.out) / 'sweep.html'}")


def _evaluate(o: argparse.Namespace) -> None:
    learner, spec = load_model(o.checkpoint)
    learner.to(choose_device(o.device))
    learner.task_chunk = o.task_chunk
    faces = data.load(
        o.data,
        image_size=spec.image_size,
        channels=spec.channels,
        crop=o.crop if o.crop is not None else spec.crop,
        progress=not o.quiet,
    )
    if seen := checkpoint.load(o.checkpoint).get("seen"):
        faces = faces.unseen(**seen)
    print(f"test: {faces.describe()}")
    rows = []
    for ways in o.ways:
        for shots in o.shots:
            result = evaluate(
                learner,
                faces,
                ways=ways,
                shots=shots,
                queries=o.queries,
                episodes=o.episodes,
                seed=o.seed,
                progress=not o.quiet,
            )
            print(f"{spec.learner}, {ways}-way {shots}-shot: {result}")
            rows.append(
                {
                    "learner": spec.learner,
                    "data": o.data,
                    "ways": ways,
                    "shots": shots,
                    "accuracy": result.accuracy,
                    "ci95": result.ci95,
                    "f1": result.f1,
                    "episodes": o.episodes,
                    "adapt_ms": result.adapt_ms,
                    "norm": result.norm,
                    "transductive": result.transductive,
                }
            )
    if o.json:
        write_json(o.json, {"spec": asdict(spec), "rows": rows})
        print(o.json)


def _preview(o: argparse.Namespace) -> None:
    picture_kind(Path(o.out))  # refused before anything is loaded
    few = {"people": max(o.people, o.ways), "photos": max(o.photos, o.shots + o.queries)}
    faces = data.load(
        o.data,
        image_size=o.image_size,
        crop=o.crop,
        channels=o.channels,
        **(few if o.data.split(":")[0] == "synthetic" else {}),
    )
    print(faces.describe())
    if o.episode:
        sampler = EpisodeSampler(faces, o.ways, o.shots, o.queries, seed=o.seed)
        rows = show_task(sampler.batch(0), faces)
    else:
        rows = show_people(faces, faces.person_ids[: o.people], o.photos)
    write_picture(report.draw_grid(rows), Path(o.out))
    print(o.out)


# -- options ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Refuses empty arguments (as a path, an empty text is the current folder), and options that
    name something twice."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        found, rest = super().parse_known_args(*given, **named)
        for name, value in vars(found).items():
            if "" in (value if isinstance(value, (list, tuple)) else (value,)):
                self.error(f"{name.replace('_', '-')} is empty: leave it out, or give a value")
        for action in self._actions:
            values = getattr(found, action.dest, None) if action.option_strings else None
            if isinstance(values, list) and (twice := first_twice(values)) is not None:
                self.error(f"{action.option_strings[0]} has {twice} twice: give each once")
        return found, rest


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="metaface",
        description="Few-shot meta-learning for face identities.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"metaface {metaface.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = _command(commands, "benchmark", _benchmark, "compare learners on the same people")
    _add_training_data(p)
    _add_network(p)
    _add_learners(p, DEFAULTS.learners)
    _add_test_tasks(p, DEFAULTS.shots)
    _add_budget(p)
    _add_start(p)
    p.add_argument("--weights", help="checkpoint of a pretrained MobileFaceNet to test beside them")
    p.add_argument("--out", default="results", help="folder of the results; default: results")

    p = _command(commands, "cross-domain", _cross_domain, "train in some domains, test in others")
    p.add_argument(
        "--domains",
        nargs="+",
        required=True,
        metavar="NAME=SOURCE[:DOMAIN,...][@REGEX][>SOURCE...]",
        help="photographs, such as att=att_faces.zip or profile=synthetic:profile; those whose "
        "path matches: 'front=yaleb.zip@E[+-]0'; support from one source, queries from another: "
        "'sketch=photos.zip>sketches.zip'",
    )
    p.add_argument(
        "--protocols",
        nargs="+",
        default=("pairs",),
        choices=cross_domain.PROTOCOLS,
        help="pairs: trained in each domain alone; leave-one-out: in all but the one of the test; "
        "all: in all; default: pairs",
    )
    p.add_argument(
        "--across",
        action="store_true",
        help="with many training domains: support of a task from one, queries from another",
    )
    _add_crop(p)
    _add_network(p)
    _add_learners(p, ("prototypical", "reptile"))
    _add_test_tasks(p, (1,))
    _add_budget(p)
    _add_start(p)
    p.add_argument("--out", default="matrix", help="folder of the results; default: matrix")

    p = _command(commands, "train", _train, "train one learner")
    _add_training_data(p)
    _add_network(p)
    p.add_argument(
        "--learner",
        default="prototypical",
        choices=LEARNERS,
        metavar="NAME",
        help=f"of {', '.join(LEARNERS)}; default: prototypical",
    )
    for name, what in (
        ("ways", "people"),
        ("shots", "support photographs a person"),
        ("queries", "query photographs a person"),
        ("meta-batch", "tasks a step"),
    ):
        p.add_argument(
            f"--{name}",
            type=count,
            help=f"{what} of the training tasks; default: the learner's own",
        )
    p.add_argument("--lr", type=rate, help="outer learning rate; default: the learner's own")
    _add_start(p)
    p.add_argument(
        "--blend",
        action="store_true",
        help="keep the trained weights as far as validation people gain: part of the way from "
        "--start, or none of it",
    )
    p.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="SOURCE",
        help="photographs the blend must stay good at; may be repeated",
    )
    p.add_argument(
        "--keep-loss",
        type=share,
        help=f"of its accuracy, that --keep may lose; default: {KEEP_LOSS}",
    )
    for side, what in (("support", "known by"), ("query", "asked for")):
        p.add_argument(f"--{side}-domain", help=f"domain of the photographs that people are {what}")
    p.add_argument(
        "--patience", type=count, help="stop after so many validations without a new best"
    )
    _add_budget(p)
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the learner, such as inner_lr=0.01; may be repeated",
    )
    p.add_argument("--out", default="trained", help="folder of the checkpoint; default: trained")

    p = _command(commands, "sweep", _sweep, "search learners' settings on validation people")
    _add_training_data(p)
    _add_network(p)
    p.add_argument(
        "--learners",
        nargs="+",
        default=DEFAULTS.learners,
        metavar="NAME",
        help=f"of {', '.join(LEARNERS)}; default: {' '.join(DEFAULTS.learners)}",
    )
    p.add_argument(
        "--parameters",
        nargs="+",
        metavar="NAME",
        help="to search over, such as inner_lr shots; default: all that a learner's table has",
    )
    p.add_argument(
        "--trials",
        type=count,
        default=20,
        help="of each learner, those of all processes together; default: 20",
    )
    p.add_argument("--total-minutes", type=positive, help="begin no trial after so many")
    p.add_argument(
        "--storage",
        metavar="FILE|URL",
        help="what processes share: a journal file or sqlite:///...; default: journal.log in --out",
    )
    for name, tasks, what in (("ways", DEFAULTS.ways, "5"), ("shots", DEFAULTS.shots, "1 5")):
        p.add_argument(
            f"--{name}",
            type=count,
            nargs="+",
            default=tasks,
            help=f"of the benchmark to come, which splits people alike; default: {what}",
        )
    p.add_argument("--queries", type=count, default=DEFAULTS.queries, help="as --shots; default: 5")
    _add_budget(p)
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="LEARNER.NAME=VALUE",
        help="where a parameter's search starts, or what another one is; may be repeated",
    )
    p.add_argument("--out", default="sweep", help="folder of the results; default: sweep")

    p = _command(commands, "evaluate", _evaluate, "test a checkpoint on people it has not seen")
    p.add_argument("checkpoint", help="checkpoint.pt of metaface train or metaface benchmark")
    p.add_argument(
        "--data",
        default="synthetic",
        help="photographs; people the checkpoint has seen are left out",
    )
    p.add_argument("--crop", type=positive, help="centre crop; default: as in training")
    _add_test_tasks(p, (1,))
    p.add_argument("--json", metavar="FILE", help="write the results here, too")
    _add_run(p)

    p = _command(commands, "preview", _preview, "draw people, or an episode, as a picture")
    p.add_argument("--data", default="synthetic", help="see metaface.data.load")
    p.add_argument(
        "--crop", type=positive, help="centre crop: a share of the shorter side, or pixels"
    )
    p.add_argument(
        "--image-size",
        type=count,
        default=data.IMAGE_SIZE,
        help=f"side that a learner would see them at; default: {data.IMAGE_SIZE}",
    )
    p.add_argument("--channels", type=int, default=3, choices=(1, 3))
    p.add_argument("--people", type=count, default=10, help="rows; default: 10")
    p.add_argument("--photos", type=count, default=8, help="columns; default: 8")
    p.add_argument("--episode", action="store_true", help="draw one task instead")
    for name, default in (("ways", 5), ("shots", 1), ("queries", 5), ("seed", 0)):
        p.add_argument(
            f"--{name}",
            type=count_or_none if name == "seed" else count,
            default=default,
            help=f"of the task; default: {default}",
        )
    p.add_argument("--out", default="preview.png", help="picture; default: preview.png")

    multitask.add(partial(_command, commands))
    people.add(partial(_command, commands), _options)
    measure.add(partial(_command, commands))
    robustness.add(partial(_command, commands))
    return parser


def _command(commands: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}."
    )
    parser.set_defaults(command=run)
    return parser


def _add_training_data(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--data",
        default=None,
        help="folder, zip or CSV of photographs, or synthetic; split by person; default: synthetic",
    )
    p.add_argument("--train-data", help="train on these people instead")
    p.add_argument("--test-data", help="and test on all of these")
    _add_crop(p)


def _add_crop(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--crop", type=positive, help="centre crop: a share of the shorter side (<= 1), or pixels"
    )


def _add_learners(p: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    p.add_argument(
        "--learners",
        nargs="+",
        default=default,
        metavar="NAME",
        help=f"of {', '.join(LEARNERS)}; default: {' '.join(default)}",
    )
    p.add_argument("--seeds", type=count, default=1, help="training seeds; default: 1")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="LEARNER.NAME=VALUE",
        help="a learner's setting, such as reptile.test_steps=50; may be repeated",
    )


def _add_start(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--start",
        metavar="FILE",
        help="weights of the --embedding to start from, or a checkpoint of metaface train",
    )


def _add_network(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--image-size",
        type=count,
        default=DEFAULTS.image_size,
        help=f"default: {DEFAULTS.image_size}",
    )
    p.add_argument(
        "--channels",
        type=count,
        default=DEFAULTS.channels,
        choices=(1, 3),
        help="1: grey; default: 3",
    )
    p.add_argument(
        "--embedding",
        default=DEFAULTS.embedding,
        help=f"{', '.join(nets.NETS)}, or torchvision:<model>; default: {DEFAULTS.embedding}",
    )
    p.add_argument(
        "--norm", default=DEFAULTS.norm, choices=nets.MODES, help=f"default: {DEFAULTS.norm}"
    )


def _add_test_tasks(p: argparse.ArgumentParser, shots: tuple[int, ...]) -> None:
    p.add_argument(
        "--ways",
        type=count,
        nargs="+",
        default=DEFAULTS.ways,
        help="of the test episodes; default: 5",
    )
    p.add_argument(
        "--shots",
        type=count,
        nargs="+",
        default=shots,
        help=f"of the test episodes; default: {' '.join(map(str, shots))}",
    )
    p.add_argument(
        "--queries",
        type=count,
        default=DEFAULTS.queries,
        help="a person, of the test episodes; default: 5",
    )
    p.add_argument("--episodes", type=count, default=DEFAULTS.episodes, help="default: 1000")


def _add_budget(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--augment",
        nargs="*",
        choices=Augment.NAMES,
        default=DEFAULTS.augment,
        help="random changes of training photographs; none for no change; "
        f"default: {' '.join(DEFAULTS.augment)}",
    )
    group = p.add_mutually_exclusive_group()
    group.add_argument("--iterations", type=count, help="training budget of a learner: outer steps")
    group.add_argument("--images", type=count, help="or photographs seen")
    group.add_argument(
        "--minutes",
        type=positive,
        help=f"or wall time, validation included; default: {benchmark.MINUTES}",
    )
    p.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    _add_run(p)


def _add_run(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--seed",
        type=count_or_none,
        default=0,
        help="of split, tasks and initial weights; default: 0",
    )
    p.add_argument(
        "--device", type=device, help="cpu, cuda, ...; default: a GPU where there is one"
    )
    p.add_argument(
        "--task-chunk",
        type=count,
        help="at most so many tasks at once, to bound memory; default: as many as is fast",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bars")


def _settings(o: argparse.Namespace, **given: Any) -> Settings:
    source = o.data or (None if o.train_data or o.test_data else "synthetic")
    if o.data and (o.train_data or o.test_data):
        raise ValueError("--data splits one set by person; leave out --train-data and --test-data")
    return Settings(
        data=source, train_data=o.train_data, test_data=o.test_data, **_shared(o), **given
    )


def _shared(o: argparse.Namespace) -> dict[str, Any]:
    """The settings that every job has, and that every command of one asks for alike."""
    return {
        "crop": o.crop,
        "image_size": o.image_size,
        "channels": o.channels,
        "embedding": o.embedding,
        "norm": o.norm,
        "augment": tuple(o.augment),
        "iterations": o.iterations,
        "images": o.images,
        "minutes": _minutes(o),
        "seed": o.seed,
        "device": o.device,
        "task_chunk": o.task_chunk,
    }


def _minutes(o: argparse.Namespace) -> float | None:
    if o.minutes is None and o.iterations is None and o.images is None:
        return benchmark.MINUTES
    return o.minutes


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts, the values as Python literals or, failing that, as text."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text}: write it as name=value")
        if name in found:
            raise ValueError(f"--option {name} is given twice: {text} is the second; give one")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _learner_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for full, value in _options(texts).items():
        learner, dot, name = full.partition(".")
        if not dot or learner not in LEARNERS:
            raise ValueError(
                f"--option {full}: write it as learner.name=value ({', '.join(LEARNERS)})"
            )
        found.setdefault(learner, {})[name] = value
    return found
