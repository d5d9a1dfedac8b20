"""How the command line starts: quickly, without what a command does not need, as its help says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from metaface import cli
from metaface.cli.app import GROUPS, build_app, read_command
from metaface.cli.measure import Protocol
from metaface.episodes.augment import Augment
from metaface.evaluation.corruptions import CORRUPTIONS
from metaface.learners import LEARNERS
from metaface.nets import MODES, NETS
from metaface.options import (
    BenchmarkSettings,
    CrossDomainSettings,
    JointSettings,
    parse_domains,
)
from metaface.options.commands import PreviewOptions, RobustnessOptions
from metaface.options.jobs import DOMAIN_PROTOCOLS, VARIANTS
from metaface.recognition import Gallery
from metaface.recognition.recognizer import FMR, FPIR
from metaface.synthetic import STEPS
from metaface.training.weight_interpolation import KEEP_LOSS

COMMANDS = {
    command.__name__.replace("_", "-"): command for group in GROUPS.values() for command in group
}
HEAVY = ("torch", "numpy", "cv2", "scipy", "matplotlib")


def imported(*words: str) -> set[str]:
    """Which of ``HEAVY`` a command imports."""
    code = (
        "import sys; from metaface.cli import main; main(sys.argv[1:]); "
        f"print('imported', *[n for n in {HEAVY} if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["nonsense"]])
def test_help_imports_nothing_heavy(words):
    assert imported(*words) == set()


def test_no_help_imports_anything_heavy():
    code = (
        "import sys; from metaface.cli import main\n"
        f"for name in {list(COMMANDS)}: assert main([name, '--help']) == 0\n"
        f"print('imported', *[n for n in {HEAVY} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["imported"]


def test_people_imports_neither_torch_nor_opencv(tmp_path):
    path = tmp_path / "some.gallery"
    with Gallery(path, model="x", model_name="m", dim=4) as gallery:
        gallery.add("Ana", np.eye(4, dtype=np.float32)[:1])
    assert imported("people", "--gallery", str(path)) <= {"numpy"}  # embeddings are arrays
    assert imported("people", "--gallery", str(tmp_path / "none")) <= {"numpy"}


def test_what_takes_a_second_is_imported_by_what_uses_it():
    """torchvision and scipy.stats, by nothing that trains or recognises with MetaFace's own."""
    code = (
        "import sys, metaface; from metaface.experiments import benchmark, protocols; "
        "metaface.train, metaface.evaluate, metaface.Recognizer; "
        "print([n for n in ('torchvision', 'scipy.stats', 'torch._dynamo') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_runs_as_the_command_does():
    said = [
        subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for module in ("metaface", "metaface.cli")
    ]
    assert said[0] == said[1] and "Recognise" in said[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_at_the_start_is_no_traceback(tmp_path):
    (tmp_path / "cyclopts.py").write_text("import time; print('here', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "metaface", "people"],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "here\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told == "metaface: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["people"]])
def test_a_reader_who_has_enough_is_exit_status_141(tmp_path, words):
    path = tmp_path / "metaface.gallery"
    with Gallery(path, model="x", model_name="m", dim=4) as gallery:
        gallery.add("Ana", np.eye(4, dtype=np.float32)[:1])
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "metaface", *words],
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        text=True,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


# -- help --------------------------------------------------------------------------------------


def text_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """A help page, as running text."""
    assert cli.main([*words, "--help"]) == 0
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_commands_are_shown_in_groups(capsys):
    said = text_of(capsys)
    places = [said.index(title) for title in GROUPS]
    assert places == sorted(places) and len(COMMANDS) == 20
    for name in COMMANDS:
        assert f" {name} " in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_the_example_can_be_read(name, capsys):
    said = text_of(capsys, name)
    for argument in build_app()[name].assemble_argument_collection(parse_docstring=True):
        assert not argument.parse or not argument.show or (argument.parameter.help or "").strip(), (
            f"{name} {argument.name} has no sentence"
        )
    examples = re.findall(r"Example: (metaface .*)", COMMANDS[name].__doc__ or "")
    assert examples
    for example in examples:
        assert example in said
        command, _ = read_command(example.split()[1:])
        assert command is COMMANDS[name]


@pytest.mark.parametrize(
    "command, names",
    [
        ("benchmark", [*LEARNERS, *NETS, *MODES, *Augment.NAMES]),
        ("train", [*LEARNERS, *NETS, *MODES, *Augment.NAMES, f"{KEEP_LOSS}"]),
        ("cross-domain", DOMAIN_PROTOCOLS),
        ("protocol", get_args(Protocol)),
        ("robustness", [*CORRUPTIONS, *STEPS]),
        ("joint-benchmark", VARIANTS),
        ("verify", [f"default: {FMR}"]),
        ("calibrate", [f"default: {FPIR}"]),
    ],
)
def test_help_names_all_that_can_be_chosen(command, names, capsys):
    said = text_of(capsys, command)
    shown = [name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)]
    assert shown == list(names)


def test_settings_are_written_in_the_order_of_their_files():
    """``settings.json`` and ``results.json`` of earlier versions have these names in this order."""
    job = [
        *("crop", "image_size", "channels", "learners", "ways", "shots", "queries", "episodes"),
        *("embedding", "norm", "start", "augment", "iterations", "images", "minutes", "seed"),
        *("seeds", "options", "device", "task_chunk", "precision"),
    ]
    joint = [
        *("variants", "people", "val_people", "test_people", "photos", "size", "side", "batch"),
        *("lr", "weights", "search", "iterations", "minutes", "episodes", "seed", "seeds"),
        "device",
    ]
    for kind, names in (
        (BenchmarkSettings, [*job, "data", "train_data", "test_data", "weights"]),
        (CrossDomainSettings, [*job, "domains", "protocols", "across"]),
        (JointSettings, joint),
    ):
        assert [field.name for field in fields(kind)] == names


@pytest.mark.parametrize(
    "words, new",
    [
        ("protocol open-set --data x --strangers 100", "--stranger-count"),
        ("evaluate x.pt --json out.json", "--out FILE"),
    ],
)
def test_what_is_written_otherwise_now_says_how(words, new, capsys):
    assert cli.main(words.split()) == 2
    assert f"is now {new}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        ("train --minutes 1 --iterations 2", "{--iterations, --minutes}"),
        ("identify a.jpg --json --csv", "{--json, --csv}"),
        ("benchmark --data a --test-data b", "--data splits one set by person"),
        ("train --itertions 2", "Did you mean --iterations?"),
        ("", "metaface --help lists them"),
        ("evaluate", "--checkpoint requires"),
    ],
)
def test_messages_name_the_flag(words, said, capsys):
    assert cli.main(words.split()) == 2
    told = capsys.readouterr().err
    assert said in told and "--help" in told and told.count("\n") == 1


def test_a_checkpoint_is_an_argument_or_an_option():
    for command in ("evaluate", "robustness", "slices"):
        more = ["--by", "age"] if command == "slices" else []
        given = [
            read_command([command, *form, *more])[1].arguments["checkpoint"]
            for form in (["a.pt"], ["--checkpoint", "a.pt"])
        ]
        assert given == ["a.pt", "a.pt"]


def test_a_command_gets_its_defaults_where_nothing_is_given():
    _, given = read_command(["robustness"])
    assert given.arguments == {"checkpoint": None, "options": RobustnessOptions()}
    _, given = read_command(["preview"])
    assert given.arguments == {"options": PreviewOptions(), "out": "preview.png"}


# why a word has another default in some command; every other word has one default everywhere
OTHER_DEFAULTS = {
    "ways": "train: the learner's own; protocol: both columns of docs/measured.md",
    "shots": "train: the learner's own; benchmark and sweep: both columns of README.md",
    "queries": "train: the learner's own",
    "episodes": "robustness: that many at every level of every change",
    "lr": "train: the learner's own; multitask and joint-benchmark train another network",
    "learners": "cross-domain trains each in every domain, so fewer",
    "people": "multitask and joint-benchmark train on them; preview draws a row each",
    "photos": "multitask and joint-benchmark train on them; preview draws a column each",
    "fmr": "slices compares the errors of groups, and needs some: docs/decisions.md",
    "fpir": "slices compares the errors of groups, and needs some: docs/decisions.md",
    "enrolled-photos": "slices takes people with two photographs: docs/decisions.md",
    "out": "named after the command; evaluate writes no file unless it is asked to",
}


def test_an_option_has_one_default_in_all_commands_but_for_a_reason():
    defaults: dict[str, list[object]] = {}
    for name in COMMANDS:
        for argument in build_app()[name].assemble_argument_collection():
            word, default = argument.name.removeprefix("--"), argument.field_info.default
            if argument.parse and argument.name != word and not argument.required:
                one = default[0] if isinstance(default, tuple) and len(default) == 1 else default
                defaults.setdefault(word, []).append(one)
    differ = {word for word, found in defaults.items() if len(set(map(repr, found))) > 1}
    assert differ == set(OTHER_DEFAULTS)


# -- domains in a file -------------------------------------------------------------------------


def domains_of(*texts: str) -> dict[str, str]:
    return parse_domains(
        read_command(["cross-domain", "--domains", *texts])[1].arguments["domains"]
    )


def test_domains_may_be_lines_of_a_toml_file(tmp_path):
    path = tmp_path / "domains.toml"
    path.write_text('front = "yaleb.zip@E[+-]0"\nsketch = "photos.zip>sketches.zip"\n')
    want = {"front": "yaleb.zip@E[+-]0", "sketch": "photos.zip>sketches.zip"}
    assert domains_of(str(path)) == want
    assert domains_of(str(path), "drawn=synthetic:sketch") == want | {"drawn": "synthetic:sketch"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("front = 3\n", "front = 3: write a text"),
        ("[front]\nsource = 'x'\n", "front = {'source': 'x'}: write a text"),
        ("front = ''\n", "front = '': write a text"),
        ("front is x\n", "not TOML"),
        ("", "none there"),
        ("front = 'x'\n", "domain 'front' is given twice"),
    ],
)
def test_a_wrong_file_of_domains_is_named(tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.chdir(tmp_path)
    Path("domains.toml").write_text(text)
    assert cli.main(["cross-domain", "--domains", "domains.toml", "front=synthetic"]) == 2
    assert said in capsys.readouterr().err
    assert cli.main(["cross-domain", "--domains", "none.toml"]) == 2
    assert "domains of none.toml: No such file" in capsys.readouterr().err
