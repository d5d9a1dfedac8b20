"""The domain matrix: train in some domains, test in others, with several learners."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os.path import exists, expanduser
from pathlib import Path
from typing import Any

import torch

from metaface import data, machine, nets, report
from metaface._json import plain, write_json, write_record
from metaface._lock import alone_in
from metaface._text import file_name, given_path
from metaface.arguments import check_once
from metaface.data import FaceSet
from metaface.data.domain_split import (
    Parts,
    are_all_left_for_test,
    join_domains,
    limit_queries,
    list_sides,
    paired_domains,
    split_together,
)
from metaface.data.faceset import SYNTHETIC
from metaface.episodes.sampler import EpisodeSampler
from metaface.evaluation.domain_matrix import measure, rows
from metaface.experiments.benchmark import Job, finished, noted, refuse_several_processes
from metaface.training import runs
from metaface.training.loop import choose_device

log = logging.getLogger("metaface.experiments.cross_domain")

PROTOCOLS = ("pairs", "leave-one-out", "all")
ALL, ALL_BUT = "all", "all-but-"  # train domains of the protocols of many
_TWO = "write two sources as SUPPORT>QUERY"


@dataclass(frozen=True)
class Settings(Job):
    """Everything that decides the figures of a domain matrix; see also ``benchmark.Job``.

    Attributes:
        domains: ``SOURCE[:DOMAIN,...][@REGEX]`` by a name of one's own: a source as
            ``metaface.data.load`` takes it; domains inside it (all, if none is named); and what
            the path of a photograph must match, the ``only`` of ``load``.
            ``SUPPORT>QUERY``: support photographs from the first of two such, queries from the
            second, of the people whose names are in both; see ``metaface.data.domain_split``.
            Where a path itself holds ``:``, ``@`` or ``>``, the source is the longest one that
            exists.
        protocols: of ``pairs`` (trained in each domain alone, tested in each), ``leave-one-out``
            (trained in all but one, tested in that one: the shape of GFR, Guo et al., "Learning
            Meta Face Recognition in Unseen Domains", CVPR 2020) and ``all`` (trained in all,
            tested in each).
        across: with many training domains, support and query of a training task come from
            different domains; see ``metaface.data.domain_split.AcrossDomains``.
    """

    domains: dict[str, str] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("pairs",)
    across: bool = False

    def trainings(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """The domains to train in, and those to test in, by what the training is called."""
        names = tuple(self.domains)
        found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        if "pairs" in self.protocols:
            found |= {name: ((name,), names) for name in names}
        if "leave-one-out" in self.protocols:
            for name in names:
                found[ALL_BUT + name] = (tuple(n for n in names if n != name), (name,))
        if "all" in self.protocols:
            found[ALL] = (names, names)
        return found


@dataclass(frozen=True)
class Unit:
    """One learner, trained once."""

    train: str
    learner: str
    seed: int

    @property
    def name(self) -> str:
        # no name of a domain has a +
        return file_name(f"{self.train}+{self.learner}-seed{self.seed}")


def parse_domains(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=SOURCE[:DOMAIN,...][@REGEX]`` texts, or ``NAME=`` two of these with ``>``, by name.

    Raises:
        ValueError: a text of another form, or a name twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not (equals and name and source):
            raise ValueError(
                f"domain {text!r}: write it as NAME=SOURCE or NAME=SOURCE:DOMAIN,..., such as "
                "lfw=lfw.zip or profile=synthetic:profile"
            )
        if name in found:
            raise ValueError(f"domain {name!r} is given twice: each needs a name of its own")
        found[name] = source
    return found


def load_domains(settings: Settings, *, progress: bool = True) -> dict[str, FaceSet]:
    """The photographs of every domain, at one size.

    Raises:
        ValueError, FileNotFoundError: no such source, or no such domain in it; names the domain.
    """

    @cache  # domains of one file are views of one set
    def loaded(source: str, only: str | None) -> FaceSet:
        return data.load(
            source,
            image_size=settings.image_size,
            channels=settings.channels,
            crop=settings.crop,
            only=only,
            progress=progress,
        )

    found = {}
    for name, text in settings.domains.items():
        try:
            chosen = []
            for source, inside, only in map(_source, _sides(text)):
                faces = loaded(source, only)
                chosen.append(faces.of_domains(*inside) if inside else faces)
            found[name] = paired_domains(*chosen) if len(chosen) > 1 else chosen[0]
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"domain {name}={text}: {error}") from error
    return found


def _sides(text: str) -> list[str]:
    """The one source, or the two, that a domain is made of.

    Raises:
        ValueError: more than two, or one that is empty.
    """
    start = len(_existing(text))
    cuts = [i for i in range(start, len(text)) if text[i] == ">"]
    if len(cuts) > 1:  # a pattern may hold one, too
        cuts = [i for i in cuts if _existing(text[i + 1 :])][:1] or cuts
    parts = [text[: cuts[0]], text[cuts[0] + 1 :]] if cuts else [text]
    if len(cuts) > 1 or not all(parts):
        raise ValueError(_TWO)
    return parts


def _source(text: str) -> tuple[str, tuple[str, ...], str | None]:
    """A source, the domains inside it that are wanted (none: all), and the pattern of its paths."""
    source = _existing(text) or re.split("[:@]", text)[0]
    inside, at, pattern = text[len(source) :].partition("@")
    only = pattern if at else None
    if inside.startswith(">"):
        raise ValueError(_TWO)
    if source == SYNTHETIC:
        return source + inside, (), only
    return source, tuple(name.strip() for name in inside[1:].split(",") if name.strip()), only


def _existing(text: str) -> str:
    """The longest source that ``text`` starts with: all of it, or up to a ``:``, ``@`` or ``>``;
    empty where there is none."""
    ends = [match.start() for match in re.finditer("[:@>]|$", text)]
    starts = (text[:end] for end in reversed(ends))
    return next((s for s in starts if s == SYNTHETIC or exists(expanduser(s))), "")


@alone_in(lambda settings, out, **_: out)
def run(
    settings: Settings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Train, test and report; writes ``results.json`` and ``report.html`` into ``out``.

    Each training has a folder in ``out`` with its checkpoint, TensorBoard scalars and results, so
    that an interrupted matrix goes on where it was. People are disjoint: whoever is tested in any
    domain was trained on in none; see ``metaface.data.domain_split``. All trainings meet the same
    test episodes of a domain.

    Args:
        settings: what to compare, and how.
        out: folder for the results.
        resume: go on with what is in ``out``; else a folder that holds a job is refused.
        progress: show progress bars.

    Returns:
        What ``results.json`` holds: ``settings``, ``machine``, ``data`` (people of each part, by
        domain), ``rows``, as ``metaface.evaluation.domain_matrix`` makes them, and ``notes``, what
        was changed for want of photographs or on resuming, a sentence each.

    Raises:
        ValueError: settings that cannot be met by the data, or several processes.
        FileExistsError: ``out`` holds a job, and ``resume`` is not set, or it was of other
            settings (``device``, ``task_chunk`` and where photographs and weights lie may change).
    """
    refuse_several_processes("the domain matrix")
    out = given_path(out, "the results")
    device = choose_device(settings.device)
    _check(settings)
    settings = settings.checked()
    runs.claim(out, "domain matrix", resume, settings.definition())
    domains = split_together(
        load_domains(settings, progress=progress),
        settings.seed,
        shots=max(settings.shots),
        queries=settings.queries,
    )
    for name, parts in domains.items():
        domains[name] = replace(parts, test=settings.unseen(parts.test))
    notes = _check_testable(settings, domains)
    faces = {f"{name} {part}": f for name, p in domains.items() for part, f in vars(p).items()}
    changed = runs.claim(out, "domain matrix", resume, settings.definition(), faces)
    units = [
        Unit(train, learner, seed)
        for train in settings.trainings()
        for learner in settings.learners
        for seed in range(settings.seed, settings.seed + settings.seeds)
    ]
    if all((out / unit.name / "result.json").is_file() for unit in units):
        log.warning("%s holds the finished matrix: showing it; remove it to start afresh", out)
    measured = [
        finished(out / unit.name) or _measure(unit, settings, domains, out, device, progress)
        for unit in units
    ]
    results: dict[str, Any] = plain(
        {
            "settings": asdict(settings),
            "machine": machine.describe(device),
            "data": {
                name: {part: getattr(parts, part).describe() for part in ("train", "val", "test")}
                for name, parts in domains.items()
            },
            "rows": list(rows(measured)),
            "notes": noted([*notes, *changed], measured),
        }
    )
    write_json(out / "results.json", results)
    report.write_cross_domain(
        out / "report.html", results, {name: parts.test for name, parts in domains.items()}
    )
    return results


def _measure(
    unit: Unit,
    settings: Settings,
    domains: Mapping[str, Parts],
    out: Path,
    device: torch.device,
    progress: bool,
) -> dict[str, Any]:
    """Train and test one unit; write and return its results."""
    inside, tested = settings.trainings()[unit.train]
    faces = join_domains({name: domains[name].train for name in inside})
    val = join_domains({name: domains[name].val for name in inside})
    learner, trained = settings.train(
        unit.learner,
        unit.seed,
        faces,
        val,
        out / unit.name,
        device=device,
        progress=progress,
        across=settings.across and len(inside) > 1,
    )
    tests = {}
    for name in tested:
        tests[name] = measure(
            learner,
            domains[name].test,
            ways=settings.ways,
            shots=settings.shots,
            queries=settings.queries,
            episodes=settings.episodes,
            seed=settings.seed,
            device=device,
            progress=progress,
        )
        log.info("%s tested in %s", unit.name, name)
    found = {
        "train": unit.train,
        "learner": unit.learner,
        "seed": unit.seed,
        **trained,
        "trainable_parameters": nets.count_trainable(learner),
        "tests": tests,
    }
    write_record(out / unit.name / "result.json", found)
    return found


def _check(settings: Settings) -> None:
    """Refuse settings that mean nothing, before anything is loaded."""
    check_once(protocols=settings.protocols)
    for name in settings.domains:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"domain {name!r}: a name is of letters, digits and . _ - alone")
        if name == ALL or name.startswith(ALL_BUT):
            raise ValueError(f"domain {name!r}: choose a name other than {ALL} and {ALL_BUT}...")
    for protocol in settings.protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"no protocol {protocol!r}: choose of {', '.join(PROTOCOLS)}")
    many = settings.across or "leave-one-out" in settings.protocols
    if len(settings.domains) < (2 if many else 1) or not settings.protocols:
        raise ValueError(
            f"{len(settings.domains)} domains ({', '.join(settings.domains)}) and protocols "
            f"{settings.protocols}: give at least one of each, and two domains to leave one out "
            "or to train across"
        )
    if settings.across and set(settings.protocols) == {"pairs"}:
        raise ValueError(
            "training across domains needs several of them: use the protocols leave-one-out or all"
        )


def _check_testable(settings: Settings, domains: Mapping[str, Parts]) -> list[str]:
    """Fail before training where a test could not be drawn after it; what is not plain of it."""
    notes = []
    for name, parts in domains.items():
        queries = limit_queries(parts.test, settings.queries)
        if queries < settings.queries:
            notes.append(
                f"domain {name}: tested with {queries} of {settings.queries} queries a person, as "
                "many as everybody has"
            )
        wanted = max(settings.shots) + settings.queries
        if not list_sides(parts.test) and are_all_left_for_test(parts.train, parts.val, wanted):
            notes.append(
                f"domain {name}: all people with {wanted} photographs or more are left for the "
                "test; nobody in training or validation has as many"
            )
        for ways in settings.ways:
            for shots in settings.shots:
                try:
                    EpisodeSampler(parts.test, ways, shots, queries, **list_sides(parts.test))
                except ValueError as error:
                    raise ValueError(f"domain {name}: {error}") from error
    for note in notes:
        log.warning(note)
    return notes
