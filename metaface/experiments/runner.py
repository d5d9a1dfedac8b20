"""One runner for every job: claim a folder, measure each unit once, write results and a page."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from metaface import machine
from metaface._json import plain, read_record, write_json, write_record
from metaface._lock import locked
from metaface._processes import launched
from metaface._text import given_path
from metaface.data import FaceSet
from metaface.training import runs

log = logging.getLogger("metaface.experiments")

Measure = Callable[[Path], dict[str, Any]]
"""What trains and tests a unit of a job, in the unit's folder."""


class Experiment(ABC):
    """A job whose units are trained and tested one by one, each once.

    A folder holds ``settings.json`` (what defines the job), a folder for each unit with its
    ``result.json``, ``results.json`` and ``report.html``. An interrupted job goes on where it was.

    Args:
        settings: a dataclass with ``device``, checked.
        out: folder of the results.
        progress: show progress bars.

    Raises:
        ValueError: an empty path, no such device, or this is one of several processes.
    """

    kind: ClassVar[str]
    """what settings.json calls the job"""

    def __init__(self, settings: Any, out: str | Path, progress: bool) -> None:
        refuse_several_processes(f"the {self.kind}")
        self.out = given_path(out, "the results")
        self.device = machine.choose_device(settings.device)
        self.given = self.settings = settings
        self.progress = progress

    @abstractmethod
    def definition(self) -> dict[str, Any]:
        """What defines the job, as ``runs.claim`` takes it."""

    @abstractmethod
    def load(self) -> dict[str, FaceSet]:
        """Load what the job is about; the photographs that define it, by the part they play."""

    def prepare(self) -> None:  # noqa: B027 - few jobs have anything to do
        """Make in the folder what all units need, once it is claimed for these settings."""

    @abstractmethod
    def units(self) -> Mapping[str, Measure]:
        """What is trained and tested, by the name of its folder. Nothing is loaded yet."""

    @abstractmethod
    def results(self, measured: list[dict[str, Any]]) -> dict[str, Any]:
        """What ``results.json`` holds besides settings, machine and notes."""

    @abstractmethod
    def write_page(self, results: dict[str, Any]) -> None:
        """Write ``report.html``."""

    def notes(self) -> Iterable[str]:
        """What loading did that is not plain, a sentence each."""
        return ()

    def run(self, resume: bool = False) -> dict[str, Any]:
        """Measure what is not yet, and write all.

        Args:
            resume: go on with what is in the folder; else one that holds a job is refused.

        Returns:
            What ``results.json`` holds.

        Raises:
            FileExistsError: the folder holds a job, and ``resume`` is not set, or it was of other
                settings (``device``, ``task_chunk`` and where files lie may change).
            FolderInUse: another run is writing into the folder.
        """
        with locked(self.out):
            runs.claim(self.out, self.kind, resume, self.definition())
            units = self.units()
            if all((self.out / name / "result.json").is_file() for name in units):
                log.warning(
                    "%s holds the finished %s: showing it; remove it to start afresh",
                    self.out,
                    self.kind,
                )
            parts = self.load()
            changed = runs.claim(self.out, self.kind, resume, self.definition(), parts)
            self.prepare()
            measured = [self.once(name, measure) for name, measure in units.items()]
            results: dict[str, Any] = plain(
                {
                    "settings": asdict(self.settings),
                    "machine": machine.describe(self.device),
                    **self.results(measured),
                    "notes": all_notes([*self.notes(), *changed], measured),
                }
            )
            write_json(self.out / "results.json", results)
            self.write_page(results)
        return results

    def once(self, name: str, measure: Measure) -> dict[str, Any]:
        """The result of a unit: the one in its folder or, where there is none, a new one."""
        folder = self.out / name
        result = finished(folder)
        if result is None:
            result = measure(folder)
            write_record(folder / "result.json", result)
        return result


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a unit, where its folder has one."""
    path = folder / "result.json"
    return read_record(path) if path.is_file() else None


def refuse_several_processes(what: str) -> None:
    """Say that the job is not for torchrun, where it was started by it."""
    if launched():
        raise ValueError(
            f"{what} runs in one process, and this is one of several: start it without "
            "torchrun (metaface train is what several can share)"
        )


def all_notes(notes: Iterable[str], units: Iterable[Mapping[str, Any]]) -> list[str]:
    """``notes`` and those of ``units``, each once."""
    return list(dict.fromkeys([*notes, *(n for unit in units for n in unit.get("notes", ()))]))
