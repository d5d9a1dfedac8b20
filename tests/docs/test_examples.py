"""The examples in the docstrings run, and everything that a user calls has one."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
GOES_ON = re.compile(r"as in the example of :class:`(\w+)`")

SKIPPED = {  # examples that do not run here
    "Cascade": "OpenCV 5 has no cascade",
    "YuNet": "needs the file of a model",
    "Onnx": "needs the file of a model",
    "check_learner": "takes ten seconds; tests/learners runs it over every learner",
}


def docstrings(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, docstring and its line, from 0, of all that a file defines."""

    def walk(node: Any, name: str) -> Iterator[tuple[str, str, int]]:
        if text := ast.get_docstring(node, clean=False):
            yield name, text, node.body[0].lineno - 1
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from walk(child, f"{name}.{child.name}" if name else child.name)

    yield from walk(ast.parse(path.read_text("utf-8")), "")


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """The examples of a file, each with those before it that it says it goes on from."""
    parse = doctest.DocTestParser().get_doctest
    found: dict[str, doctest.DocTest] = {}
    for name, text, line in docstrings(path):
        if ">>>" in text:
            found[name] = parse(text, {"__name__": "__main__"}, name, str(path), line)
            before = GOES_ON.search(text)
            if before:
                first = found[before[1]]
                found[name].examples[:0] = [
                    doctest.Example(e.source, e.want, e.exc_msg, e.lineno + first.lineno - line)
                    for e in first.examples
                ]
            yield found[name]


FILES = [
    path
    for path in sorted((ROOT / "metaface").rglob("*.py"))
    if any(">>>" in text for _, text, _ in docstrings(path))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "metaface")))
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for test in examples(path):
        folder = tmp_path / test.name
        folder.mkdir()
        monkeypatch.chdir(folder)
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)


def test_no_example_is_skipped_without_a_reason() -> None:
    skipped = {
        test.name
        for path in FILES
        for test in examples(path)
        if any(example.options.get(doctest.SKIP) for example in test.examples)
    }
    assert skipped == set(SKIPPED)


# -- who has one ---------------------------------------------------------------------------------

PACKAGES = (
    "metaface",
    *(
        f"metaface.{name}"
        for name in (
            *("data", "episodes", "evaluation", "faces", "learners", "metrics", "multitask"),
            *("nets", "options", "recognition", "report", "synthetic", "testing", "training"),
        )
    ),
)
METHODS = (
    *("data.FaceSet.from_arrays", "data.FaceSet.join", "data.FaceSet.split"),
    *("episodes.EpisodeSampler.batch", "learners.MetaLearner.adapt"),
    *(f"recognition.Recognizer.{n}" for n in ("calibrate", "enroll", "forget", "identify")),
    *(f"recognition.Recognizer.{n}" for n in ("save", "verify")),
)
EXEMPT = {  # and why
    f"metaface.report.write_{job}": "its job writes the page; no few lines make such results"
    for job in ("benchmark", "cross_domain", "joint", "sweep")
}


def find_public() -> dict[str, Any]:
    """Classes and functions of MetaFace that a package lists, each under its first name."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            known = any(value is other for other in found.values())
            if (inspect.isclass(value) or inspect.isfunction(value)) and not known:
                found[f"{package}.{name}"] = value
    return found


def is_record(value: Any) -> bool:
    return inspect.isclass(value) and (dataclasses.is_dataclass(value) or issubclass(value, tuple))


def find_results(public: dict[str, Any]) -> set[str]:
    """Names of records that functions and methods return, and none takes but a report's."""
    taken: set[str] = set()
    returned: set[str] = set()
    for name, value in public.items():
        parts = vars(value).values() if inspect.isclass(value) else [value]
        for part in parts:
            function = getattr(part, "__func__", part)
            if not inspect.isfunction(function) or function.__name__ == "__init__":
                continue
            notes = {k: words(v) for k, v in function.__annotations__.items()}
            returned |= notes.pop("return", set()) - {value.__name__}  # its own constructors
            if not name.startswith("metaface.report.") and not function.__name__.startswith("_"):
                taken |= set().union(*notes.values())
    records = {value.__name__: value for value in public.values() if is_record(value)}
    while True:  # and the records that these are made of
        inside = {
            word
            for name in returned & records.keys()
            for note in records[name].__annotations__.values()
            for word in words(note)
        }
        if inside <= returned:
            return (returned & records.keys()) - taken
        returned |= inside


def words(note: Any) -> set[str]:
    return set(re.findall(r"\w+", str(note)))


def is_base(value: Any) -> bool:
    """Whether only what a subclass or another class defines can be called."""
    if not inspect.isclass(value):
        return False
    is_protocol = getattr(value, "_is_protocol", False)
    return is_protocol or inspect.isabstract(value) or issubclass(value, BaseException)


def test_all_that_a_user_calls_has_an_example() -> None:
    public = find_public()
    results = find_results(public)
    without = [
        name
        for name, value in public.items()
        if name not in EXEMPT
        and not is_base(value)
        and value.__name__ not in results
        and ">>>" not in (value.__doc__ or "")
    ]
    for method in METHODS:
        package, owner, name = method.split(".")
        kind = getattr(importlib.import_module(f"metaface.{package}"), owner)
        if ">>>" not in (getattr(kind, name).__doc__ or ""):
            without.append(f"metaface.{method}")
    assert not without, f"no example in the docstrings of {', '.join(without)}"


def test_who_is_exempt_is_still_there_and_has_none() -> None:
    public = find_public()
    for name in EXEMPT:
        assert ">>>" not in public[name].__doc__, f"{name} has an example: take it out of EXEMPT"


# -- names in the pages --------------------------------------------------------------------------


def test_names_in_the_pages_are_there_after_import_metaface():
    """``metaface.recognition.embedders.load`` as a page prints it, with nothing else imported."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    pages.remove(ROOT / "docs" / "decisions.md")  # tells of former names, too
    named = {
        name
        for page in pages
        for name in re.findall(r"`(metaface(?:\.\w+)+)", page.read_text(encoding="utf-8"))
        if not name.endswith((".gallery", ".png", ".toml"))
    }
    assert len(named) > 20
    code = (
        "import sys, metaface\n"
        "for name in sys.argv[1:]:\n"
        "    value = metaface\n"
        "    for part in name.split('.')[1:]:\n"
        "        if not hasattr(value, part):\n"
        "            print(name)\n"
        "            break\n"
        "        value = getattr(value, part)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *sorted(named)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
