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
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import ROOT, SOURCES, Unit
from PIL import Image

from metaface import cli

RUNNER = Path(__file__).parents[1].joinpath("run_document.py")
STEPS = 2

# -- what is checked in another way ------------------------------------------------------------

NOT_RUN = {
    r"pip install.*|\S*python -m pip install .*": "it would change the environment of the tests",
    r"git clone .*|cd metaface": "the clone is what runs this",
    r"make (test|test-slow|suite|benchmark|docs|dist)": "by make -n here; make test runs this, the "
    "command of make benchmark is in docs/measured.md, tests/docs/test_site.py is of the others",
    r"pytest tests/\w+/\w+\.py": "a part of make test",
    r"\S*python tools/build_learn2learn.py": "make test runs it, once; it fetches a package",
}
QUICK = (
    "metaface preview --data photos/ --out people.png",
    "metaface enroll people/",
    "metaface sweep --data photos/ --learners maml --trials 40",
    "metaface models check",
    "metaface adapt prototypes",
    "metaface protocol detection --data wider.zip",
)  # blocks with one of these are run by make test, all others by make test-slow
DEAR = (
    r"metaface cross-domain .*",
    r"metaface align .*",
    r"metaface train --data aligned/ .*",
)  # more than ten seconds: make test leaves them out of a block, make test-slow runs it whole
LEARNERS = 2  # of a job in make test; make test-slow trains all
FINDS_NOTHING = ("metaface multitask", "python benchmarks/joint_transfer.py")  # two steps: nan
REFUSED = {"metaface benchmark --data cufs_photos.zip": "110 people (0 of them with >= 10 photo"}

NUMBER = r"-?\d+(?:\.\d+)?"
FIGURE = rf"{NUMBER}|(?<=nearest )\w+"  # whom a stranger is most like is a matter of rounding
SHARE = r"[01]\.\d{3} ± [01]\.\d{3}"
SAID = {
    "metaface preview": r"26 people.*\npeople.png",
    "metaface benchmark": r"test: .* people(.|\n)*untrained(.|\n)*results.json",
    "metaface train": rf"{STEPS} steps, \d+ photographs, .* best .*validation accuracy [01]\.\d",
    "metaface evaluate": rf"5-way 1-shot: {SHARE}(\n.*20-way 1-shot: {SHARE}|\n$)",
    "metaface models": r"yunet +detector(.|\n)*mobilefacenet_casia +embedder",
    "metaface models fetch": r"licence: .*\n\S+\.(onnx|ckpt)",
    "metaface models import": r"mobilefacenet_casia",
    "metaface models check": r"known answer, cosine 1\.000|known answer, cosine 0\.9999",
    "metaface enroll": r"\d+ photographs enrolled; \d people in \S+\nthreshold 0?\.?\d",
    "metaface calibrate": rf"threshold {NUMBER} for an FPIR of 1%",
    "metaface identify": rf"(party|a)\.\w+: .*{NUMBER}\)|\"faces\"",
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
    "torchrun": rf"\w+: {STEPS} steps, \d+ photographs",
    "python tools/example_photos.py": r"",
    "python benchmarks/transfer.py": rf"trained {SHARE}, untrained {SHARE}, pixels {SHARE}",
    "python benchmarks/sampling.py": r"metaface: +\d+ tasks/s(.|\n)*ratio: +\d",
    "python benchmarks/peers.py": r"MAML, second order.*learn2learn(.|\n)*GFLOP/s",
    "python benchmarks/compiled.py": r"loaded in \d(.|\n)*Prototypical +\d+\.\d tasks/s, \d\.",
    "python benchmarks/precision.py": r"times float32|float32 and bf16|no instructions for",
    "python benchmarks/scaling.py": r"two processes: +\d+\.\d+ tasks/s(.|\n)*ratio: +\d",
    "python benchmarks/omniglot.py": r"protonet-20w1s +96.0 +\d+\.\d+ ± \d+\.\d+",
    "python benchmarks/domains.py": r"before: [01]\.\d{3} over 1 splits(.|\n)*keep: [01]\.\d{3}",
    "python benchmarks/recognition.py": r"enrolled: \d+ of \d+ photographs(.|\n)*ms a photograph",
    "python benchmarks/search.py": r"exact +\d+\.\d+(.|\n)*forget one \d",
    "python benchmarks/embedders.py": r"folded(.|\n)*as trained",
    "python benchmarks/joint.py": r"times the time of",
    "python benchmarks/joint_transfer.py": r"\| set \|(.|\n)*att",
    "python benchmarks/defaults.py": r"maml on conv4 at 28: .*(.|\n)*\| anil \| conv4 \| 28 \| ",
    "python benchmarks/adaptation.py": r"safe against finetune: better by more than",
    "pytest": r"[1-9]\d* passed",
}  # by kind: what a command says

# -- running -----------------------------------------------------------------------------------


class Runner:
    """The server of ``run_document.py`` and one of model files; folders with stand-ins."""

    def __init__(self, sources: Path, real: documents.Real, environment: dict[str, str]) -> None:
        self.sources, self.real, self.environment = sources, real, environment
        self.server = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

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
            "folder": str(folder),
            "environment": self.environment | own,
            "steps": STEPS,
            "learners": None,
            "output": str(folder / "output.txt"),
            "errors": str(folder / "errors.txt"),
            **what,
        }
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps([job] * count) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, test_data: documents.Real) -> Iterator[Runner]:
    if not hasattr(os, "fork"):
        pytest.skip("run_document.py forks, and this system cannot")
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
            "DOCUMENTS_PORT": str(port),
            "no_proxy": "127.0.0.1",
            "METAFACE_CACHE": str(tmp_path_factory.mktemp("cache")),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        one = Runner(tmp_path_factory.mktemp("sources"), test_data, environment)
        try:
            yield one
        finally:
            assert one.server.stdin and one.server.stdout
            one.server.kill()
            one.server.wait()
            one.server.stdin.close()
            one.server.stdout.close()
            server.shutdown()
            thread.join()


def kind_of(words: list[str]) -> str:
    """What is run, without what it is run with."""
    words = [word for word in words if "=" not in word]
    if words[:2] == ["metaface", "models"]:
        return " ".join(words[:3])
    if "pytest" in words:
        return "pytest"
    return words[0] if words[0] == "torchrun" else " ".join(words[:2]).replace(".venv/bin/", "")


def runs(unit: Unit) -> Unit:
    """The commands of a unit that are run, and not checked in another way."""
    kept = [c for c in unit.commands if not any(re.fullmatch(p, c) for p in NOT_RUN)]
    return Unit(unit.name, tuple(kept), unit.shown)


def quick_part(unit: Unit) -> Unit:
    """What make test runs of a unit: no commands at all where it has none of ``QUICK``."""
    kept = [c for c in unit.commands if not any(re.fullmatch(p, c) for p in DEAR)]
    return Unit(unit.name, tuple(kept) if set(kept) & set(QUICK) else (), unit.shown)


def marked(unit: Unit) -> list[Any]:
    quick = quick_part(unit)
    found = [pytest.param(quick, LEARNERS, id=unit.name)] if quick.commands else []
    if quick != unit:
        name = f"{unit.name}-whole" if quick.commands else unit.name
        found.append(pytest.param(unit, None, id=name, marks=pytest.mark.slow))
    return found


UNITS = [one for unit in documents.units() if (one := runs(unit)).commands]


@pytest.mark.parametrize("unit, learners", [one for unit in UNITS for one in marked(unit)])
def test_commands_run(runner: Runner, tmp_path: Path, unit: Unit, learners: int | None) -> None:
    text = "\n".join(unit.commands)
    folder = runner.folder(tmp_path, text, fetched="models fetch" in text)
    documents.install_package(unit.name.split(":")[0], folder)
    count = 2 if "--nnodes 2" in text else 1
    codes = runner.run(folder, count, commands=unit.words, learners=learners)
    output, errors = printed(folder)
    if refusal := REFUSED.get(unit.commands[-1]):
        assert codes == [2] and refusal in errors
        return
    assert set(codes) == {0}, f"{output}\n{errors[-4000:]}"
    check_output(unit, output, errors)
    check_files(folder)


def printed(folder: Path) -> tuple[str, str]:
    """What went to standard output, and to standard error."""
    output, errors = ((folder / f"{n}.txt").read_text("utf-8") for n in ("output", "errors"))
    return output, errors


def check_output(unit: Unit, output: str, errors: str) -> None:
    """Every command says what it should, and no figure is out of range or not a number."""
    assert "Traceback" not in errors, errors
    said = dict(re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", output, re.MULTILINE))
    for words in unit.words:
        if words[0] == "cd":
            continue
        told = said[shlex.join(words)]
        assert re.search(SAID[kind_of(words)], told), (SAID[kind_of(words)], told)
        assert kind_of(words) in FINDS_NOTHING or not re.search(r"\bnan\b", told), told
        for figure, below in re.findall(rf"(\S*\d) ± {NUMBER}( below)?", told):
            difference = below or figure[0] in "+-"  # may be negative
            assert (-100 if difference else 0) <= float(figure) <= 100, told
    for shown in unit.shown:
        check_shape(shown, output)


def check_shape(shown: str, output: str) -> None:
    """The lines that a document shows were printed, but for their figures."""
    printed = [re.sub(FIGURE, "#", line) for line in output.splitlines()]
    for line in shown.splitlines():
        assert re.sub(FIGURE, "#", line) in printed, (line, output)


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


# -- Python examples ---------------------------------------------------------------------------

IMAGES = "import torch\nimages, labels = torch.rand(10, 3, 28, 28), torch.arange(5).repeat(2)\n"
GIVEN = {
    "README.md": IMAGES + "others = torch.rand(3, 3, 28, 28)",
    "docs/add-a-data-set.md": """
import metaface
learner = metaface.ModelSpec("prototypical", embedding="pixels").build()""",
    "docs/transfer.md": """
import torch, metaface
probe = metaface.learners.build("linear-probe", metaface.nets.Pixels())
source, target, source_labels, people = torch.rand(6, 8), torch.rand(9, 8), torch.arange(6) // 2, 3
before, after = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
accuracy_on_validation = lambda net: float(net.weight.sum())
accuracy_on_lfw = dir_of_strangers = lambda net: 0.5""",
}  # what the reader has already
THEN = {
    "README.md": """
assert isinstance(faces, mf.FaceSet) and isinstance(classifier, mf.learners.Classifier)
predicted = classifier.predict(others)
assert predicted.shape == (3,) and predicted.dtype == torch.int64 and predicted.max() < 5
assert people.people() == {"Ana": 2} and len(people.identify("party.jpg")) == 3""",
    "docs/add-a-data-set.md": """
assert len(faces) == 7 * 8 and set(faces.domains) == {"day", "night"}
assert sampler.batch(0).support.shape == (1, 5, 3, 64, 64)
assert set(both.domains) == {"photo", "sketch"} and len(both) == 2 * 110
assert len(photos) == 26 * 10 and photos.people[3] == "03"
read = metaface.data.load("my_package.records:Records:faces.db", image_size=8)
assert read.people == photos.people""",
    "docs/add-a-learner.md": """
from metaface import learners, nets
learner = learners.build("my_package.nearest:Nearest", nets.Pixels())
import torch
images, labels = torch.rand(10, 3, 8, 8), torch.arange(5).repeat(2)
assert learner.adapt(images, labels).predict(images).tolist() == labels.tolist()""",
    "docs/add-a-network.md": """
import torch
assert Tiny()(torch.rand(2, 3, 28, 28)).shape == (2, 64)""",
    "docs/add-an-embedder.md": "assert embedders.load('my_package.simple:Thumbnail').dim == 192",
    "docs/learn2learn.md": "assert len(tasks.sample()[0]) == 5 * 6 and learner.norm == 'group'",
    "docs/models.md": "assert len(embedder.weights) == 64 and embedder.dim == 128",
    "docs/recognition.md": """
assert people.people() == {"Ana": 2} and isinstance(match, mf.recognition.Match)
assert isinstance(match.score, float) and len(match.box) == 4
assert mf.Recognizer.load("office.gallery", models="models/").people() == {"Ana": 2}""",
    "docs/sweep.md": """
assert len(results['trials']) == 2 and 0 < results['best']['maml']['accuracy'] <= 1""",
    "docs/transfer.md": """
assert head["weight"].shape[0] == 1
assert 0 <= choice.share <= 1 and isinstance(net, torch.nn.Linear)""",
    "docs/walkthrough.md": """
assert len(identified.faces) == 3 and set(people.people()) == {"Ana", "Bo", "Chidi"}
assert measured["loss"] > 0""",
}  # what must hold after it
EXAMPLES = [document for document in documents.DOCUMENTS if documents.python(document)]


@pytest.mark.parametrize("document", EXAMPLES)
def test_python_examples_run(runner: Runner, tmp_path: Path, document: str) -> None:
    blocks = documents.python(document)
    folder = runner.folder(tmp_path, "\n".join(blocks), fetched=False)
    documents.install_package(document, folder)
    given, steps = GIVEN.get(document, ""), 60 if "check_learner" in "".join(blocks) else STEPS
    codes = runner.run(folder, python=[given, *blocks, THEN[document]], steps=steps)
    output, errors = printed(folder)
    assert codes == [0], f"{output}\n{errors[-4000:]}"
    for shown in re.findall(r"^print\(.*# such as (.*)", "\n".join(blocks), re.MULTILINE):
        check_shape(shown, output)
    check_files(folder)


@pytest.mark.slow
def test_the_first_example_learns(runner: Runner, tmp_path: Path) -> None:
    (example,) = (text for text in documents.python("README.md") if "mf.train(" in text)
    folder = runner.folder(tmp_path, "al/att", fetched=False)
    (folder / "photos").symlink_to(folder / "al" / "att")  # the renders learn at any rate
    assert runner.run(folder, python=[GIVEN["README.md"], example], steps=20) == [0]
    found = re.search(rf"({NUMBER}) ± ({NUMBER})", printed(folder)[0])
    assert found and float(found[1]) - float(found[2]) > 0.35  # chance is 0.2, untrained 0.33


# -- nothing is left out -----------------------------------------------------------------------


def test_every_command_is_run_or_listed_with_a_reason() -> None:
    everything = [(unit.name, c) for unit in documents.units() for c in unit.commands]
    for where, command in everything:
        assert "..." not in command, f"{where}: write {command} whole, so that it can be run"
        listed = any(re.fullmatch(pattern, command) for pattern in NOT_RUN)
        kind = kind_of(shlex.split(command))
        assert listed or kind in SAID or kind.startswith("cd "), f"{where}: no SAID of {kind}"
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, c) for _, c in everything), f"nothing is {pattern}"
    quick = {kind_of(words) for unit in UNITS for words in quick_part(unit).words}
    dear = {  # tests/cli and tests/experiments run small ones, and the worked example
        *("metaface multitask", "metaface joint-benchmark", "metaface cross-domain"),
        *("metaface align", "metaface people", "metaface verify"),
    }
    cheap = {kind for kind in SAID if kind.startswith("metaface")} - dear
    assert cheap <= quick, f"no quick test runs {cheap - quick}"


def last_line_of_make(target: str) -> str:
    alone = {n: v for n, v in os.environ.items() if not n.startswith("MAKE")}  # not make test's
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=alone, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_make_has_the_targets_that_documents_name() -> None:
    named = {words[1] for unit in documents.units() for words in unit.words if words[0] == "make"}
    last = {target: last_line_of_make(target) for target in named}
    assert set(last) == {"benchmark", "suite", "test", "test-slow", "docs", "dist"}
    assert '-m pytest -m "not slow"' in last["test"] and "-m pytest -m slow" in last["test-slow"]


@pytest.mark.slow
def test_what_make_benchmark_starts_runs(runner: Runner, tmp_path: Path) -> None:
    words = shlex.split(last_line_of_make("benchmark"))
    unit = Unit("make benchmark", (shlex.join([Path(words[0]).name, *words[1:]]),))
    folder = runner.folder(tmp_path, "", fetched=False)
    assert runner.run(folder, commands=unit.words) == [0]
    check_output(unit, *printed(folder))
    assert (folder / "results" / "report.html").is_file()  # as README.md says
    check_files(folder)


MENTIONS = sorted(
    {
        b.text
        for d in documents.DOCUMENTS
        for b in documents.blocks(d)
        if b.language == "inline" and documents.is_mention(b.text)
    }
)


@pytest.mark.parametrize("mention", MENTIONS)
def test_a_command_that_is_mentioned_exists(
    mention: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*mention.split()[1:2], "--help"]) == 0
    assert set(mention.split()[2:]) <= set(re.findall(r"\w+", capsys.readouterr().out))
