"""The domain matrix: train in some domains, test in others, with several learners."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from os.path import exists, expanduser
from pathlib import Path
from typing import Any

from metaface import data, nets, report
from metaface._text import file_name
from metaface.arguments import check_once
from metaface.data import FaceSet
from metaface.data.domain_split import (
    SIDES,
    Parts,
    are_all_left_for_test,
    join_domains,
    limit_queries,
    list_sides,
    paired_domains,
    split_together,
)
from metaface.data.faceset import SYNTHETIC
from metaface.episodes.sampler import check_combinations
from metaface.evaluation.domain_matrix import make_rows, measure
from metaface.experiments.job import check_settings, define, leave_out_seen, train_learner
from metaface.experiments.photo_rows import show_domain
from metaface.experiments.runner import Experiment, Measure
from metaface.options import CrossDomainSettings
from metaface.options.jobs import ALL, ALL_BUT, DOMAIN_PROTOCOLS

log = logging.getLogger("metaface.experiments.cross_domain")

_TWO = "write two sources as SUPPORT>QUERY"


def load_domains(settings: CrossDomainSettings, *, progress: bool = True) -> dict[str, FaceSet]:
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


def run(
    settings: CrossDomainSettings, out: str | Path, *, resume: bool = False, progress: bool = True
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
    _check(settings)
    return _DomainMatrix(check_settings(settings), out, progress).run(resume)


class _DomainMatrix(Experiment):
    kind = "domain matrix"
    domains: dict[str, Parts]
    loaded: list[str]

    def definition(self) -> dict[str, Any]:
        return define(self.settings)

    def load(self) -> dict[str, FaceSet]:
        self.domains = split_together(
            load_domains(self.settings, progress=self.progress),
            self.settings.seed,
            shots=max(self.settings.shots),
            queries=self.settings.queries,
        )
        for name, parts in self.domains.items():
            self.domains[name] = replace(parts, test=leave_out_seen(self.settings, parts.test))
        self.loaded = _check_testable(self.settings, self.domains)
        return {
            f"{name} {part}": faces
            for name, parts in self.domains.items()
            for part, faces in vars(parts).items()
        }

    def notes(self) -> Iterable[str]:
        return self.loaded

    def units(self) -> dict[str, Measure]:
        s = self.settings
        return {
            # no name of a domain has a +
            file_name(f"{train}+{learner}-seed{seed}"): partial(self._measure, train, learner, seed)
            for train in s.trainings()
            for learner in s.learners
            for seed in range(s.seed, s.seed + s.seeds)
        }

    def _measure(self, train: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
        """Train a learner in some domains, test it in others."""
        inside, tested = self.settings.trainings()[train]
        learner, trained = train_learner(
            self.settings,
            name,
            seed,
            join_domains({domain: self.domains[domain].train for domain in inside}),
            join_domains({domain: self.domains[domain].val for domain in inside}),
            folder,
            progress=self.progress,
            across=self.settings.across and len(inside) > 1,
        )
        tests = {}
        for domain in tested:
            tests[domain] = measure(
                learner,
                self.domains[domain].test,
                ways=self.settings.ways,
                shots=self.settings.shots,
                queries=self.settings.queries,
                episodes=self.settings.episodes,
                seed=self.settings.seed,
                progress=self.progress,
            )
            log.info("%s tested in %s", folder.name, domain)
        return {
            "train": train,
            "learner": name,
            "seed": seed,
            **trained,
            "trainable_parameters": nets.count_trainable(learner),
            "tests": tests,
        }

    def results(self, measured: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "data": {
                name: {part: getattr(parts, part).describe() for part in ("train", "val", "test")}
                for name, parts in self.domains.items()
            },
            "rows": list(make_rows(measured)),
        }

    def write_page(self, results: dict[str, Any]) -> None:
        rows = [show_domain(name, parts.test) for name, parts in self.domains.items()]
        report.write_cross_domain(self.out / "report.html", results, rows)


def _check(settings: CrossDomainSettings) -> None:
    """Refuse settings that mean nothing, before anything is loaded."""
    check_once(protocols=settings.protocols)
    for name in settings.domains:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"domain {name!r}: a name is of letters, digits and . _ - alone")
        if name == ALL or name.startswith(ALL_BUT):
            raise ValueError(f"domain {name!r}: choose a name other than {ALL} and {ALL_BUT}...")
    for protocol in settings.protocols:
        if protocol not in DOMAIN_PROTOCOLS:
            raise ValueError(f"no protocol {protocol!r}: choose of {', '.join(DOMAIN_PROTOCOLS)}")
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


def _check_testable(settings: CrossDomainSettings, domains: Mapping[str, Parts]) -> list[str]:
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
        sides = SIDES if list_sides(parts.test) else None
        try:
            check_combinations(parts.test, settings.ways, settings.shots, queries, sides)
        except ValueError as error:
            raise ValueError(f"domain {name}: {error}") from error
    for note in notes:
        log.warning(note)
    return notes
