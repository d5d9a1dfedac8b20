"""What defines a run: stored with it, and compared where it is resumed.

Every job that can be resumed calls :func:`define` and :func:`differences`: training, benchmark,
domain matrix, comparison of networks and sweep.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn

from metaface._digest import array_digest, content_digest, file_digest
from metaface._json import read_record, write_record
from metaface.data import FaceSet

log = logging.getLogger("metaface.training")

_NAMED = 5  # differing people that a message names
_FORMER = {"precision": "float32"}  # of options that records of before MetaFace 0.3 do not have
_SPEED = ("device", "task_chunk")  # options that change speed, memory and rounding alone
# options that say where something lies: of what lies there, digests are compared
_PLACES = ("data", "train_data", "test_data", "start", "weights", "domains")
_digests: WeakKeyDictionary[FaceSet, dict[str, str]] = WeakKeyDictionary()


def define(
    options: Mapping[str, Any] | Any,
    *,
    learner: nn.Module | None = None,
    faces: Mapping[str, FaceSet] | None = None,
) -> dict[str, Any]:
    """What defines a run, as JSON gives it back.

    Args:
        options: everything else that decides the result: recipe, budget, seed, specification of
            the model, ... (a dataclass or a mapping).
        learner: its kind, norm and settings are taken.
        faces: photographs by the part they play, such as ``train``: of each person the digest of
            their photographs and domains is taken, so that a renamed or replaced one is noticed.

    Returns:
        ``{"options": ..., "learner": ..., "people": {part: {name: digest}}}``.
    """
    found: dict[str, Any] = {"options": options}
    if learner is not None:
        found["learner"] = {"kind": type(learner).__name__, **settings_of(learner)}
    if faces is not None:
        found["people"] = {part: people_of(view) for part, view in faces.items()}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    """What JSON does not know, as it knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def claim(
    out: Path,
    what: str,
    resume: bool,
    options: Mapping[str, Any],
    faces: Mapping[str, FaceSet] | None = None,
) -> list[str]:
    """Check that the folder ``out`` holds no job, or this one, to be resumed.

    What defines the job is kept in ``settings.json`` there, the options on its top level. Device
    and ``task_chunk`` may change, and the same photographs and weights may lie elsewhere.

    Args:
        what: the job is called, such as ``benchmark``.
        options, faces: see :func:`define`; without ``faces`` nothing is written, and only the
            options are compared: before anything is loaded.

    Returns:
        What of these has changed since the job began, a sentence each; a new one is also said as
        a warning, once ``faces`` are given.

    Raises:
        FileExistsError: there is one, and ``resume`` is not set, or it is another.
    """
    path = out / "settings.json"
    now = define(options, faces=faces)
    notes: list[str] = []
    if path.is_file():
        stored = read_record(path)
        people = stored.pop("people", None)
        notes = stored.pop("changed", [])
        job = stored.pop("job", None)  # which was not written before MetaFace 0.2
        if job is None and not stored.keys() <= now["options"].keys():
            job = "job of another kind"
        if job not in (None, what):
            raise FileExistsError(
                f"{out} holds a {job}, not a {what}: choose another folder (--out)"
            )
        if not resume:
            raise FileExistsError(
                f"{out} holds a {what} already: go on with it (--resume), or choose another "
                "folder (--out)"
            )
        there = {"options": stored, **({} if people is None else {"people": people})}
        free = _SPEED if people is None or "files" not in stored else (*_SPEED, *_PLACES)
        if changed := differences(*(_without(free, each) for each in (there, now))):
            raise FileExistsError(
                f"{out} holds a {what} of other settings or photographs ({changed}): use those, "
                "or another folder"
            )
        if faces is not None:
            new = list(_changes(stored, now["options"]))
            for note in new:
                log.warning("%s: %s", out, note)
            notes = list(dict.fromkeys([*notes, *new]))
    elif any(out.glob("*/result.json")):  # which may be of any other people
        raise FileExistsError(
            f"{out} holds results, and no settings.json that says of what: choose another folder "
            "(--out)"
        )
    if faces is not None:
        changed_before = {"changed": notes} if notes else {}
        record = {"job": what, **now["options"], **changed_before, "people": now["people"]}
        write_record(path, record)
    return notes


def _without(free: Iterable[str], run: Mapping[str, Any]) -> dict[str, Any]:
    """``run``, but for the options that may change."""
    return {**run, "options": {n: v for n, v in run["options"].items() if n not in free}}


def _changes(there: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What was changed of the options that may, in words."""
    for names, means in (
        (_SPEED, "figures may differ in rounding, and speeds and what a time limit allows with it"),
        (_PLACES, "the content is the same"),
    ):
        for name in names:
            # no device was noted before MetaFace 0.2, but for one that was asked for
            if name not in there or (name == "device" and there[name] is None):
                continue
            if changed := differences({name: there[name]}, {name: now.get(name)}):
                yield f"gone on with where {changed}: {means}"


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two runs differ, in words; empty where they do not.

    What only one of them says is not compared: it was written by another version.

    Args:
        there: what :func:`define` said of the run that is there.
        now: what it says of this one.
    """
    former = {n: v for n, v in _FORMER.items() if n in now.get("options", {})}
    there = {**there, "options": former | there["options"]} if former else there
    return "; ".join(_differences(there, now, ()))


def people_of(faces: FaceSet) -> dict[str, str]:
    """A digest of each person's photographs (pixels, order and domains), by name."""
    if faces not in _digests:
        order = np.argsort(faces.person, kind="stable")
        ids, starts = np.unique(faces.person[order], return_index=True)
        domains = np.array(faces.domains)
        by_name: dict[str, list[str]] = {}  # a set may have several people of one name
        for person, mine in zip(ids, np.split(order, starts[1:]), strict=True):
            pixels = array_digest(faces.store, faces.all_rows[:, mine].ravel())
            found = content_digest([pixels, domains[faces.domain[mine]].tolist()])[:16]
            by_name.setdefault(faces.people[person], []).append(found)
        _digests[faces] = {
            name: found[0] if len(found) == 1 else content_digest(found)[:16]
            for name, found in by_name.items()
        }
    return _digests[faces]


def settings_of(learner: nn.Module) -> dict[str, Any]:
    """The settings of a learner: what JSON has of its attributes, its norm, and of its modules
    their kind and, but for the embedding, the same."""
    parts: dict[str, Any] = {}
    for name, part in learner.named_children():
        inner = {} if name == "embedding" else _attributes(part)
        parts[name] = {"kind": type(part).__name__, **inner}
    return _attributes(learner) | {"norm": getattr(learner, "norm", None), "parts": parts}


def _attributes(module: nn.Module) -> dict[str, Any]:
    apart = {"training", "task_chunk", "low_memory", "trained_before"}  # which change no result
    own = {n: v for n, v in vars(module).items() if n[0] != "_" and n not in apart}
    return {n: v for n, v in own.items() if _in_json(v)}


def _in_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(n, str) and _in_json(v) for n, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_in_json, value))
    return isinstance(value, bool | int | float | str | None)


def digest_of(path: str | Path | None) -> str | None:
    """Of a file, such as the weights that training starts from; None of None."""
    if path is None:
        return None
    with open(path, "rb") as file:
        return file_digest(file)


def _differences(there: Any, now: Any, where: tuple[str, ...]) -> Iterator[str]:
    if where == ("people",) and there.keys() != now.keys():
        for part in sorted(there.keys() ^ now.keys()):
            was, is_now = ("not given", "given") if part in now else ("given", "not given")
            yield f"{part} people were {was}, are {is_now}"
    elif where[:1] == ("people",) and len(where) == 2:
        yield from _people_differ(there, now, where[1])
    elif isinstance(there, Mapping) and isinstance(now, Mapping):
        for name in now:
            if name in there:
                yield from _differences(there[name], now[name], (*where, name))
            elif len(where) > 1 and now[name] is not None:  # such as an option of a learner
                yield f"{_called((*where, name))} was not given, is {now[name]!r}"
        for name in there:
            if name not in now and len(where) > 1 and there[name] is not None:
                yield f"{_called((*where, name))} was {there[name]!r}, is not given"
    elif there != now and not (there != there and now != now):  # nan is nan
        yield f"{_called(where)} was {there!r}, is {now!r}"


def _called(where: tuple[str, ...]) -> str:
    return ".".join(part for part in where if part != "options") or "options"


def _people_differ(there: Mapping[str, str], now: Mapping[str, str], part: str) -> Iterator[str]:
    for said, names in (
        ("are new", [n for n in now if n not in there]),
        ("are gone", [n for n in there if n not in now]),
        ("have other photographs", [n for n in now if n in there and there[n] != now[n]]),
    ):
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            yield f"{len(names)} {part} people {said} ({', '.join(sorted(names)[:_NAMED])}{more})"
    if list(there) != list(now) and sorted(there) == sorted(now):
        yield f"the {part} people are in another order"
