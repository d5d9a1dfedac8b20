"""Every command and every Python example of README.md, CONTRIBUTING.md and docs/ runs.

As it is written: budgets are cut in the process that runs it (``run_document.py``), the sources it
names are small stand-ins of the same name (``documents.py``), model files come from a server on
this machine. A new command or example needs nothing here, unless it names a source that is not in
``documents.SOURCES``, a kind of command that is not in ``SAID``, or variables of the reader's.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import ROOT, SOURCES, Unit
from PIL import Image

RUNNER = Path(__file__).with_name("run_document.py")
STEPS = 2

# -- what is checked in another way ------------------------------------------------------------

NOT_RUN = {
    r"pip install.*|\S*python -m pip install .*": "it would change the environment of the tests",
    r"git clone .*|cd metaface": "the clone is what runs this",
    r"make (test|test-slow|benchmark)": "by make -n here; make test is what runs this, and the "
    "command behind make benchmark is in docs/measured.md",
    r"pytest tests/\w+\.py": "a part of make test",
    r"\S*python tools/build_learn2learn.py": "make test runs it, once; it fetches a package",
}
REFUSED = {"metaface benchmark --data cufs_photos.zip": "most people have one photograph"}

NUMBER = r"-?\d+(?:\.\d+)?"
SHARE = r"[01]\.\d{3} ± [01]\.\d{3}"
SAID = {
    "metaface preview": r"30 people.*\npeople.png",
    "metaface benchmark": r"test: .* people(.|\n)*untrained(.|\n)*results.json",
    "metaface train": rf"{STEPS} steps, \d+ photographs, .* best validation accuracy [01]\.\d",
    "metaface evaluate": rf"5-way 1-shot: {SHARE}\n.*20-way 1-shot: {SHARE}",
    "metaface models": r"yunet +detector(.|\n)*mobilefacenet_casia +embedder",
    "metaface models fetch": r"licence: .*\n\S+\.(onnx|ckpt)",
    "metaface models import": r"mobilefacenet_casia",
    "metaface models check": r"known answer, cosine 1\.000|known answer, cosine 0\.9999",
    "metaface enroll": r"\d+ photographs enrolled; \d people in \S+\nthreshold 0?\.?\d",
    "metaface calibrate": rf"threshold {NUMBER} for an FPIR of 1%",
    "metaface identify": rf"party\.\w+: .*\({NUMBER}\)|\"faces\"",
    "metaface people": r"\d  Ana\n",
    "metaface verify": rf"(the same person|different people): score {NUMBER}, threshold",
    "metaface forget": r"Bo is forgotten \(\d photographs\)",
    "metaface adapt": r"prototypes|anil",
    "metaface align": r"[1-9]\d+ faces in \S+, \d+ photographs skipped",
    "metaface cross-domain": r"tested on(.|\n)*results.json\n\S+report.html",
    "metaface robustness": rf"as it is: {SHARE}",
    "metaface slices": r"everybody(.|\n)*report.html",
    "metaface sweep": r"on validation people(.|\n)*metaface benchmark(.|\n)*sweep.html",
    "metaface protocol": r"(few-shot|-way 1-shot|verification|open set|detection).*\d(.|\n)*json",
    "metaface multitask": rf"{STEPS} steps, \d+ scenes(.|\n)*model.safetensors",
    "metaface joint-benchmark": r"train: \d+ photographs(.|\n)*report.html",
    "torchrun": r"maml: 2 steps",
    "python tools/example_photos.py": r"",
    "python benchmarks/transfer.py": rf"trained {SHARE}, untrained {SHARE}, pixels {SHARE}",
    "python benchmarks/sampling.py": r"metaface: +\d+ tasks/s(.|\n)*ratio: +\d",
    "python benchmarks/peers.py": r"MAML, second order.*learn2learn(.|\n)*GFLOP/s",
    "python benchmarks/scaling.py": r"two processes: +\d+\.\d+ tasks/s(.|\n)*ratio: +\d",
    "python benchmarks/omniglot.py": r"protonet-20w1s +96.0 +\d+\.\d+ ± \d+\.\d+",
    "python benchmarks/domains.py": r"before: [01]\.\d{3} over 1 splits(.|\n)*keep: [01]\.\d{3}",
    "python benchmarks/recognition.py": r"enrolled: \d+ of \d+ photographs(.|\n)*ms a photograph",
    "python benchmarks/search.py": r"exact +\d+\.\d+(.|\n)*forget one \d",
    "python benchmarks/embedders.py": r"folded(.|\n)*as trained",
    "python benchmarks/joint.py": r"times the time of",
    "python benchmarks/joint_transfer.py": r"\| set \|(.|\n)*att",
    "python benchmarks/adaptation.py": r"safe against finetune: better by more than",
    "metaface --help": r"",
}  # by kind: what a command says

# -- running -----------------------------------------------------------------------------------


class Runner:
    """The server of ``run_document.py`` and one of model files; folders with stand-ins."""

    def __init__(self, sources: Path, real: documents.Real, environment: dict[str, str]) -> None:
        self.sources, self.real, self.environment = sources, real, environment
        self.server = subprocess.Popen(
            [sys.executable, str(RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | environment,
        )  # fmt: skip

    def folder(self, path: Path, text: str, fetched: bool) -> Path:
        """``path``, with the stand-ins that ``text`` names and the repository's scripts."""
        for name in documents.named(text):
            there = self.sources / name
            if not there.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                SOURCES[name](there, self.real)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).symlink_to(there)
        for name in ("benchmarks", "tools"):
            (path / name).symlink_to(ROOT / name)
        (path / "models").mkdir()
        for weights in [] if fetched else self.real("weights").iterdir():
            (path / "models" / weights.name).symlink_to(weights)
        return path

    def run(self, folder: Path, count: int = 1, **what: Any) -> list[int]:
        """The exit codes of ``count`` equal jobs at once; see ``run_document.child``."""
        wrapper = folder / "python-of-documents"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {RUNNER} "$@"\n')
        wrapper.chmod(0o700)
        own = {"METAFACE_MODELS": str(folder / "models"), "PYTHON_EXEC": str(wrapper)}
        job = {
            "folder": str(folder), "environment": self.environment | own, "steps": STEPS,
            "output": str(folder / "output.txt"), "errors": str(folder / "errors.txt"), **what,
        }  # fmt: skip
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([job] * count) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, test_data: documents.Real) -> Iterator[Runner]:
    weights = test_data("weights")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(weights))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        environment = {
            "DOCUMENTS_SERVER": f"http://127.0.0.1:{server.server_port}",
            "DOCUMENTS_PORT": str(port), "no_proxy": "127.0.0.1",
            "METAFACE_CACHE": str(tmp_path_factory.mktemp("cache")),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        one = Runner(tmp_path_factory.mktemp("sources"), test_data, environment)
        try:
            yield one
        finally:
            assert one.server.stdin and one.server.stdout
            one.server.stdin.close()
            one.server.wait(10)
            one.server.stdout.close()
            server.shutdown()
            thread.join()


def kind_of(words: list[str]) -> str:
    """What is run, without what it is run with."""
    words = [word for word in words if "=" not in word]
    if words[:2] == ["metaface", "models"]:
        return " ".join(words[:3])
    return words[0] if words[0] == "torchrun" else " ".join(words[:2]).replace(".venv/bin/", "")


def runs(unit: Unit) -> Unit:
    """The commands of a unit that are run, and not checked in another way."""
    kept = [c for c in unit.commands if not any(re.fullmatch(p, c) for p in NOT_RUN)]
    return Unit(unit.name, tuple(kept), unit.shown)


UNITS = [one for unit in documents.units() if (one := runs(unit)).commands]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_commands_run(runner: Runner, tmp_path: Path, unit: Unit) -> None:
    text = "\n".join(unit.commands)
    folder = runner.folder(tmp_path, text, fetched="models fetch" in text)
    codes = runner.run(folder, 2 if "--nnodes 2" in text else 1, commands=unit.words)
    output, errors = ((folder / f"{n}.txt").read_text() for n in ("output", "errors"))
    if refusal := REFUSED.get(unit.commands[-1]):
        assert codes == [2] and refusal in errors
        return
    assert set(codes) == {0}, f"{output}\n{errors[-4000:]}"
    check_output(unit, output, errors)
    check_files(folder)


def check_output(unit: Unit, output: str, errors: str) -> None:
    assert "Traceback" not in errors, errors
    said = dict(re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", output, re.MULTILINE))
    for words in unit.words:
        if words[0] == "cd":
            continue
        told = said[shlex.join(words)]
        assert re.search(SAID[kind_of(words)], told), (SAID[kind_of(words)], told)
        assert not re.search(r"\bnan\b|\binf\b", told), told
        for figure in re.findall(rf"({NUMBER}) ± {NUMBER}", told):
            assert 0 <= float(figure) <= 100, told
    shape = [re.sub(NUMBER, "#", line) for line in output.splitlines()]
    for line in "\n".join(unit.shown).splitlines():
        assert re.sub(NUMBER, "#", line) in shape, (line, output)


def check_files(folder: Path) -> None:
    """Whatever was written can be read, and holds no number that is none."""
    for path in [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]:
        if path.suffix == ".json":
            for figure in accuracies(json.loads(path.read_text(), parse_constant=not_a_number)):
                assert 0 <= figure <= 100, path
        elif path.suffix == ".html":
            assert "</html>" in path.read_text()
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                picture.load()


def not_a_number(name: str) -> None:
    raise ValueError(f"{name} in a JSON file")


def accuracies(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for key, inside in value.items():
            if key == "accuracy" and isinstance(inside, float):
                yield inside
            else:
                yield from accuracies(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from accuracies(inside)
