"""The commands in groups, and how one is found, run and ends."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter, UnknownOptionError, UnusedCliTokensError

import metaface
from metaface._text import printable
from metaface.cli import compare, materials, measure, recognise, shared_networks, weak_spots
from metaface.cli.errors import STATUS, explain
from metaface.options.values import check_values

GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train and compare": (
        compare.train,
        compare.evaluate,
        compare.benchmark,
        compare.cross_domain,
        compare.sweep,
        shared_networks.multitask,
        shared_networks.joint_benchmark,
    ),
    "Recognise": (
        recognise.enroll,
        recognise.identify,
        recognise.verify,
        recognise.people,
        recognise.forget,
        recognise.calibrate,
        recognise.adapt,
    ),
    "Measure": (measure.protocol, weak_spots.robustness, weak_spots.slices),
    "Data and models": (materials.preview, materials.align, materials.models),
}
_NAMES = {command.__name__ for commands in GROUPS.values() for command in commands}
# what a command's option was called, and how the same is written now
_MOVED = {
    ("protocol", "--strangers"): "--stranger-count N, the number of strangers",
    ("evaluate", "--json"): "--out FILE, which writes what --json prints",
}


def build_app() -> App:
    """All commands."""
    app = App(
        name="metaface",
        version=f"metaface {metaface.__version__}",
        help="Few-shot meta-learning for face identities.",
        help_epilogue=STATUS,
        help_format="markdown",
        version_flags=("--version",),
        default_parameter=Parameter(negative=(), show_default=_show),
    )
    for title, commands in GROUPS.items():
        group = Group.create_ordered(title)
        for place, command in enumerate(commands):
            app.command(command, group=group, sort_key=place)
    last = Group.create_ordered("Help")
    for flag in ("--help", "--version"):
        app[flag].group = (last,)
    return app


def _show(default: Any) -> Any:
    """A default as it is written; None: there is nothing to show."""
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or None
    return None if default is False else default


def read_command(arguments: Sequence[str]) -> tuple[Callable[..., Any], BoundArguments]:
    """The command that is asked for, and its options.

    Raises:
        ValueError: no such command or option, or a value that it does not take.
    """
    if not arguments:
        raise ValueError("give a command: metaface --help lists them")
    try:
        command, bound, _ = build_app().parse_args(
            list(arguments), exit_on_error=False, print_error=False
        )
    except CycloptsError as error:
        raise ValueError(f"{_sentence(error)} (metaface {_help_of(arguments)})") from error
    if command.__name__ in _NAMES:  # others print help, or the version
        bound.apply_defaults()
        check_values(bound)
    return command, bound


def _help_of(arguments: Sequence[str]) -> str:
    known = arguments[0].replace("-", "_") in _NAMES
    return f"{arguments[0]} --help" if known else "--help"


def _sentence(error: CycloptsError) -> str:
    """What is wrong with the arguments."""
    chain = error.command_chain or ("",)
    if isinstance(error, UnknownOptionError):
        name = error.token.keyword or error.token.value
        if new := _MOVED.get((chain[-1], name.split("=")[0])):
            return f"{name} is now {new}"
    if isinstance(error, UnusedCliTokensError):
        new = _MOVED.get((chain[-1], "--json"))
        if new and "--json" in (error.root_input_tokens or ()):
            return f"--json FILE is now {new}"
    error.verbose = False
    said = " ".join(str(error).split())
    if isinstance(error, UnknownOptionError):
        said += " If it is a name or a path: put -- before it, after all options"
    return said


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status, one of those in ``STATUS``."""
    logging.basicConfig(format="metaface: %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter that it cannot write stops nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        logging.getLogger("metaface").warning(
            "letters in arguments and names of files are read as %s here: others are garbled "
            "or refused: set PYTHONUTF8=1, or LC_ALL=C.UTF-8",
            encoding,
        )
    try:
        command, bound = read_command(arguments)
        command(*bound.args, **bound.kwargs)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # who reads our output has enough
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # rich, which prints help, makes a SystemExit of a broken pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        status, sentence = explain(error)
        if _first_to_say(sentence):
            if os.environ.get("METAFACE_DEBUG"):
                traceback.print_exception(error)
            print(f"metaface: {printable(sentence)}", file=sys.stderr)
        return status
    return 0


def _first_to_say(sentence: str) -> bool:
    """Whether no other process of a job that trains together has said the same."""
    distributed = sys.modules.get("metaface.training.distributed")
    return distributed is None or distributed.first_to_say(sentence)
