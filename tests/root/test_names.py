"""Names, labels and paths from outside: none of them stops, garbles or overwrites anything."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import re
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import Row, group, portrait, squares, train
from PIL import Image

import metaface as mf
from metaface import data, report
from metaface.cli import main
from metaface.data._sources import open_source
from metaface.data.wider import read_wider
from metaface.experiments import benchmark, cross_domain, protocols
from metaface.faces.photos import list_folder, list_photos
from metaface.metrics.pairs import read_pairs
from metaface.options import BenchmarkSettings, CrossDomainSettings
from metaface.recognition import (
    Gallery,
    GalleryError,
    Recognizer,
    detectors,
    embedders,
    recognizer,
)
from metaface.recognition.embedders.importing import import_weights
from metaface.recognition.gallery import _checksums
from metaface.recognition.gallery.names import person_name
from metaface.report import benchmark as benchmark_page
from metaface.report import cross_domain as domain_page
from metaface.report import groups, plots
from metaface.report import sweep as sweep_page

LATIN1 = os.fsdecode(b"caf\xe9")  # a file name that is not UTF-8
BLANK = np.full((112, 112, 3), 128, np.uint8)  # no face
HOSTILE = ["$x_{$", "</text><script>", "_hidden", "a\x1b[2J\x00b", LATIN1, "王芳", "50$ or 60$"]
VISIBLE = "a\\x1b[2J\\x00b"  # of the fourth


def save(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(portrait(0) if pixels is None else pixels).save(path)
    return path


def album(folder: Path, person: int, count: int = 2) -> Path:
    for k in range(count):
        save(folder / f"{k}.png", portrait(person, k))
    return folder


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Run a command with a toy detector and embedder: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    toy = squares()
    monkeypatch.setattr(embedders.loading, "load", lambda *_: toy)
    for module in (recognizer, detectors):
        monkeypatch.setattr(module, "detector_for", lambda *_: Row())

    def command(*words, gallery=True):
        capsys.readouterr()
        given = ["--gallery", "some.gallery"] if gallery else []
        status = main([*map(str, words), *given])
        return status, *capsys.readouterr()

    return command


def add(name: str, gallery: Path, person: int = 0) -> None:
    """Put a name into a gallery as somebody else's program may."""
    toy = squares()
    with Gallery(gallery, model=toy.digest, model_name=toy.name, dim=toy.dim) as there:
        there.add("Placeholder", toy(portrait(person)[None]))
        with there._store.writing() as db:
            db.execute("UPDATE person SET name = ? WHERE name = 'Placeholder'", (name,))
            _checksums.write(db, _checksums.of_all(db))


# ---------------------------------------------------------------- labels are never paths


def table(path: Path, rows: dict[str, Path]) -> Path:
    lines = [["path", "person"], *([photo, person] for person, photo in rows.items())]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return path


@pytest.mark.parametrize("form", ["csv", "zip"])
def test_align_writes_inside_its_folder_alone(run, tmp_path, form):
    photo = save(tmp_path / "in" / "1.png")
    labels = [
        "../../x",
        "../x",
        str(tmp_path / "absolute"),
        "..",
        ".",
        "a/../b",
        "a//b",
        "C:\\x",
        "CON",
        "nul.txt",
        ".hidden",
        "dot.",
        "x" * 300,
        "line\nend",
        "a",
        "a/b",
        "A",
        "100%",
        "%41",
    ]
    source = table(tmp_path / "in" / "people.csv", dict.fromkeys(labels, photo))
    if form == "zip":
        source = tmp_path / "in" / "people.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for label in labels:
                entry = f"top/{label}/1.png"
                if entry not in archive.namelist():
                    archive.write(photo, entry)
    before = set(tmp_path.rglob("*"))
    status, said, told = run("align", source, "--out", "out", "--quiet", gallery=False)
    assert status == 0, told
    made = {p for p in set(tmp_path.rglob("*")) - before if p.is_file()}
    out = tmp_path / "out"
    assert made and all(out in path.parents for path in made)
    if form == "csv":
        assert f"{len(labels)} faces" in said and len(made) == len(labels)  # a file for each
        folders = [str(p.relative_to(out).parent) for p in made]
        assert len({f.casefold() for f in folders}) == len(labels)  # on any disk
        for folder in folders:
            for part in folder.split("/"):
                assert not re.search(r'[<>:"\\|?*\x00-\x1f]|^\.|[. ]$|^(con|nul)\b', part.lower())
        with open_source(out) as again:
            people = {photo.person for photo in again.photos}
        assert len(people) == len(labels) and {"A", "100%"} <= people
        assert "'../../x'" in told or "../../x" in told  # what is renamed is said


@pytest.mark.parametrize("out", ["in", "in/Ana", "in/new", ".", "in/../in"])
def test_align_never_writes_over_originals(run, tmp_path, out):
    album(tmp_path / "in" / "Ana", 0)
    album(tmp_path / "in" / "Bo", 1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    status, _, told = run("align", "in", "--out", out, gallery=False)
    assert status == 2 and "--out" in told
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_align_leaves_what_is_there(run, tmp_path):
    photo = save(tmp_path / "in" / "Ana" / "1.png")
    source = table(tmp_path / "people.csv", {"Ana": photo})
    theirs = save(tmp_path / "out" / "Ana" / "1.png", BLANK)
    before = theirs.read_bytes()
    status, _, told = run("align", source, "--out", "out", gallery=False)
    assert status == 2 and "out/Ana" in told and theirs.read_bytes() == before
    status, _, told = run("align", source, "--out", "in", gallery=False)  # the CSV's photographs
    assert status == 2 and "--out" in told


def test_photographs_of_one_name_each_have_a_file(run, tmp_path):
    person = tmp_path / "in" / "Ana"
    save(person / "1.png", portrait(0, 50))
    for k, folder in enumerate(("a", "b", "c", "d")):
        save(person / folder / "1.png", portrait(0, k))
        save(person / folder / "1.bmp", portrait(0, k + 9))
    save(tmp_path / "in" / "Bo" / "1.png")
    status, said, _ = run("align", "in", "--out", "out", "--quiet", gallery=False)
    faces = list((tmp_path / "out" / "Ana").rglob("*.png"))
    assert status == 0 and "10 faces" in said and len(faces) == 9
    assert len({p.read_bytes() for p in faces}) == 9 and (tmp_path / "out/Ana/1.png") in faces


def test_drawings_of_one_name_each_have_a_file(run, tmp_path):
    run("enroll", "Ana", save(tmp_path / "a.png"))
    names = [
        "a/x.png",
        "b/x.png",
        "c/1_x.png",
        "d/x.bmp",
        "e/x.jpg",
        "f/x.jpeg",
        "g/X.PNG",
        f"h/{LATIN1}.png",
        "i/2_x.png",
    ]
    for k, name in enumerate(names):
        save(tmp_path / "in" / name, portrait(0, k))
    status, _, _ = run("identify", "in", "--draw", "out", "--quiet")
    drawn = list((tmp_path / "out").iterdir())
    assert status == 0 and len(drawn) == len(names)
    assert len({p.name.casefold() for p in drawn}) == len(names)
    assert {"x.png", "x.jpg"} <= {p.name for p in drawn}


@pytest.mark.parametrize(
    "words",
    [
        ("in", "--draw", "in"),
        ("in", "--draw", "in/drawn"),
        ("in/0.png", "in/1.png", "--draw", "in"),
        ("in/0.png", "--draw", "in/../in/0.png"),
    ],
)
def test_drawings_never_replace_photographs(run, tmp_path, words):
    run("enroll", "Ana", save(tmp_path / "a.png"))
    album(tmp_path / "in", 0)
    before = {p: p.read_bytes() for p in (tmp_path / "in").rglob("*")}
    status, said, told = run("identify", *words, "--quiet")
    assert status == 2 and "--draw" in told and not said
    assert {p: p.read_bytes() for p in (tmp_path / "in").rglob("*")} == before


def test_a_learner_of_any_name_has_its_folder_inside(tmp_path):
    names = ["../../x", "/tmp/x", "maml", "a/b", "a%2Fb"]
    settings = {"learners": tuple(names), "device": "cpu"}
    for job in (
        benchmark._Benchmark(BenchmarkSettings(**settings), tmp_path, False),
        cross_domain._DomainMatrix(
            CrossDomainSettings(**settings, domains={"a": "synthetic"}), tmp_path, False
        ),
    ):
        made = list(job.units())[-len(names) :]
        assert len(set(made)) == len(names) and "maml" in made[2]
        assert all((tmp_path / name).parent == tmp_path for name in made)


def test_a_gallerys_word_for_its_model_is_no_path(tmp_path):
    toy = squares()
    for name in ("../x.onnx", str(tmp_path / "x.onnx")):
        path = tmp_path / "some.gallery"
        Gallery(path, model=toy.digest, model_name=name, dim=toy.dim).close()
        with pytest.raises(GalleryError, match="is no plain name"):
            Recognizer.load(path, models=tmp_path)
        path.unlink()


def test_imported_weights_that_replace_others_are_named(tmp_path, caplog):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        path = tmp_path / str(seed) / "mine.ckpt"
        _own_weights(path, seed)
        with caplog.at_level(logging.WARNING):
            import_weights(path, tmp_path / "models")
        assert ("mine" in caplog.text and "replaced" in caplog.text) == (seed == 1)
    caplog.clear()
    import_weights(path, tmp_path / "models")
    assert not caplog.text  # the same once more


def _own_weights(path: Path, seed: int) -> None:
    import torch

    from metaface.nets.mobilefacenet import MobileFaceNet

    torch.manual_seed(seed)
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, path)


# ---------------------------------------------------------------- an empty argument

EMPTY = [
    ("enroll", "Victim", ""),
    ("enroll", ""),
    ("enroll", "Victim", "a.png", ""),
    ("identify", ""),
    ("identify", "a.png", "--draw", ""),
    ("identify", "a.png", "--draw="),
    ("verify", "", "a.png"),
    ("verify", "a.png", ""),
    ("calibrate", "--strangers", ""),
    ("people", "--gallery", ""),
    ("forget", ""),
    ("align", "", "--out", "out"),
    ("align", "in", "--out", ""),
    ("models", "import", ""),
    ("models", "--models", ""),
    ("preview", "--data", ""),
    ("preview", "--out", ""),
    ("train", "--data", ""),
    ("train", "--out", ""),
    ("train", "--start", ""),
    ("train", "--keep", ""),
    ("benchmark", "--train-data", ""),
    ("benchmark", "--out", ""),
    ("evaluate", ""),
    ("evaluate", "c.pt", "--data", ""),
    ("evaluate", "c.pt", "--out", ""),
    ("sweep", "--storage", ""),
    ("sweep", "--out", ""),
    ("cross-domain", "--domains", ""),
    ("cross-domain", "--domains", "a=b", "--out", ""),
    ("multitask", "--crops", ""),
    ("multitask", "--out", ""),
    ("joint-benchmark", "--out", ""),
    ("protocol", "few-shot", "--data", ""),
    ("protocol", "verification", "--data", "d", "--pairs", ""),
    ("robustness", "--out", ""),
    ("slices", "--by", "x", "--attributes", ""),
    ("enroll", "in", "--weights", ""),
    ("identify", "a.png", "--models", ""),
]


@pytest.mark.parametrize("words", EMPTY, ids=" ".join)
def test_an_empty_argument_is_refused(run, tmp_path, words):
    album(tmp_path / "in" / "Ana", 0)
    save(tmp_path / "a.png")
    before = set(tmp_path.rglob("*"))
    status, said, told = run(*words, gallery=False)
    assert status == 2 and "empty" in told and not said
    assert set(tmp_path.rglob("*")) == before  # nothing is enrolled, nothing written


@pytest.mark.parametrize("text", ["a=@x", "a=:b", "a=x>", "a=>x", "a="])
def test_an_empty_source_of_a_domain_is_refused(run, tmp_path, text):
    album(tmp_path / "in" / "Ana", 0)
    status, _, told = run("cross-domain", "--domains", text, gallery=False)
    assert status == 2 and "a" in told and not (tmp_path / "matrix").exists()


def test_an_empty_path_is_refused_in_python(run, tmp_path):
    for person, name in enumerate(("Ana", "Bo", "Chidi")):
        album(tmp_path / name, person, 5)
    people = Recognizer(Row(), squares())
    people.enroll("Ana", "Ana")
    learner = mf.learners.Prototypical(mf.nets.Conv4())
    faces = data.load("synthetic", people=8, photos=4, image_size=28, progress=False)
    calls = {
        "load": lambda: data.load(""),
        "enroll": lambda: people.enroll("Bo", ""),
        "enroll_all": lambda: list(people.enroll_all("")),
        "identify": lambda: people.identify(""),
        "identify_each": lambda: list(people.identify_each("")),
        "verify": lambda: people.verify("", portrait(0)),
        "calibrate": lambda: people.calibrate("", progress=False),
        "save": lambda: people.save(""),
        "gallery": lambda: Recognizer.load(""),
        "from_pretrained": lambda: Recognizer.from_pretrained("", gallery=""),
        "models": lambda: mf.recognition.models.models_folder(""),
        "cache": lambda: data.load("Ana", cache=""),
        "in_folder": lambda: list_folder(""),
        "listed": lambda: list_photos(""),
        "import": lambda: import_weights(""),
        "aligned": lambda: protocols.align_people("", Row(), squares()),
        "detection": lambda: protocols.measure_detection("", Row()),
        "pairs": lambda: read_pairs(""),
        "wider": lambda: read_wider(""),
        "train": lambda: train(learner, faces, ways=2, queries=1, iterations=1, out=""),
        "benchmark": lambda: benchmark.run(BenchmarkSettings(iterations=1), ""),
        "cross_domain": lambda: cross_domain.run(
            CrossDomainSettings(domains={"a": "synthetic"}, iterations=1), ""
        ),
        "sweep": lambda: mf.sweep(BenchmarkSettings(iterations=1), ""),
        "multitask": lambda: mf.multitask.load_wider(""),
    }
    before = {p: p.stat().st_size for p in tmp_path.rglob("*")}
    for name, call in calls.items():
        with pytest.raises(ValueError, match="empty"):
            call()
            pytest.fail(f"{name}('') was taken")
    assert people.people() == {"Ana": 5}
    assert {p: p.stat().st_size for p in tmp_path.rglob("*")} == before


# ---------------------------------------------------------------- exit codes


def test_exit_codes_are_in_the_help(capsys):
    for words in (["--help"], ["identify", "--help"]):
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "Exit status" in said
        for code in (0, 1, 2, 70, 130, 141):
            assert re.search(rf"^ . {code}: \w", said, re.M)


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_nothing_usable_is_no_success(run, tmp_path, form):
    run("enroll", "Ana", save(tmp_path / "a.png"))
    save(tmp_path / "blank" / "1.png", BLANK)
    (tmp_path / "blank" / "2.jpg").write_text("no picture")
    for photos in (["blank"], ["blank/1.png"], ["blank/2.jpg"]):
        status, said, told = run("identify", *photos, *form, "--quiet")
        assert status == 2 and "none of" in told and said  # the answer is given all the same
        if form == ("--json",):
            assert all(p["skipped"] for p in json.loads(said)["photos"])
    save(tmp_path / "blank" / "3.png")
    assert run("identify", "blank", *form, "--quiet")[0] == 0


def test_nothing_usable_is_no_success_elsewhere(run, tmp_path):
    run("enroll", "Ana", album(tmp_path / "a", 0))
    save(tmp_path / "in" / "Bo" / "1.png", BLANK)
    for words in (
        ("enroll", "in"),
        ("enroll", "Bo", "in/Bo/1.png"),
        ("calibrate", "--strangers", "in"),
        ("verify", "in/Bo/1.png", "a/0.png"),
    ):
        status, _, told = run(*words)
        assert status == 2 and told, words
    status, _, told = run("align", "in", "--out", "out", gallery=False)
    assert status == 2 and "no_face" in told and "none of" in told
    assert not (tmp_path / "out").exists()
    for words in (
        ("protocol", "few-shot", "--data", "in"),
        ("preview", "--data", "nowhere"),
        ("models", "check", "nobody", "--models", tmp_path),
        ("models", "check", "--models", "a"),
        ("models", "check", "yunet", "--models", "a"),
    ):
        assert run(*words, gallery=False)[0] == 2, words


def test_an_empty_gallery_says_so(run, tmp_path):
    run("enroll", "Ana", album(tmp_path / "a", 0))
    run("forget", "Ana")
    status, said, told = run("people")
    assert (status, said) == (0, "") and "nobody is enrolled" in told


# ---------------------------------------------------------------- odd names


@pytest.mark.parametrize("odd", ["bell\x07", LATIN1, "line\nend", "turned\u202e", "x" * 201])
def test_one_odd_name_is_left_out_and_all_others_go_on(run, tmp_path, odd):
    for person, name in enumerate(("Ana", odd, "Bo", "Zoë")):
        album(tmp_path / "in" / name, person)
    status, said, told = run("enroll", "in", "--quiet")
    assert status == 0 and "6 photographs enrolled; 3 people" in said, told
    assert "1 person without a usable photograph" in said
    assert "the name" in told and told.count("skipped") == 2
    assert not re.search("[\x07\u202e\udce9]|line\nend", said + told)
    assert run("people")[1].split() == ["2", "Ana", "2", "Bo", "2", "Zoë"]
    # of the odd one's photographs nothing is known
    outcomes = {o.name: o for o in Recognizer(Row(), squares()).enroll_all(tmp_path / "in")}
    assert outcomes[odd].used == 0 and len(outcomes[odd].skipped) == 2
    assert "the name" in outcomes[odd].skipped[0].reason
    if len(odd) < 200:
        assert run("calibrate", "--strangers", "in")[0] == 0


@pytest.mark.parametrize(
    "one, other",
    [
        ("Ana", "A\u200bna"),
        ("Ana", "\ufeffAna"),
        ("Ana", "Ana\u200e"),
        ("Ana", "A\u00adna"),
        ("Ana", "Ana\ufe0f"),
        ("Ana", "An\u034fa"),
        ("Ana", "Ana\u3164"),
        ("Ana", "Ana\U000e0041"),
        ("Ana B", "Ana\u00a0B"),
        ("Ana B", "Ana\u2009B"),
        ("José", "Jose\u0301"),
    ],
)
def test_invisible_characters_make_no_twins(run, tmp_path, caplog, one, other):
    album(tmp_path / "in" / one, 0)
    album(tmp_path / "in" / other, 1)
    status, said, _ = run("enroll", "in", "--quiet")
    assert status == 0 and "4 photographs enrolled; 1 person" in said
    assert list(Gallery.open("some.gallery").people()) == [one]
    hidden = "José" not in one and " " not in one
    assert ("nobody sees" in caplog.text) == hidden  # a change of what was written is said
    assert run("forget", other)[0] == 0


@pytest.mark.parametrize("name", ["Zoë", "李小龍", "Ана", "محمد", "अनिल", "O'Neil, Jr.", "=1"])
def test_names_of_any_script_stay_as_they_are(name, caplog):
    assert person_name(f" {name} ") == name and not caplog.text


def test_a_foreign_gallerys_names_cannot_steer_the_terminal(run, tmp_path):
    odd = "Ev\x1b[2J\re\u200b\u202e"
    add(odd, tmp_path / "some.gallery")
    status, said, _ = run("people")
    assert status == 0 and said == "    1  Ev\\x1b[2J\\re\\u200b\\u202e\n"
    photo = save(tmp_path / "a.png")
    for form in ((), ("--csv",), ("--draw", "drawn.png")):
        status, said, told = run("identify", photo, *form)
        assert status == 0 and not re.search("[\x1b\r\u200b\u202e]", said + told)
        assert "Ev\\x1b[2J" in said
    # and whoever is listed can be forgotten, by the name as it is listed
    status, said, _ = run("forget", "Ev\\x1b[2J\\re\\u200b\\u202e")
    assert status == 0 and "\x1b" not in said and run("people")[1] == ""


def test_a_file_name_that_is_not_utf8_is_identified(run, tmp_path):
    run("enroll", "Ana", save(tmp_path / "a.png"))
    run("calibrate")
    save(tmp_path / "in" / f"{LATIN1}.png")
    save(tmp_path / "in" / "tab\tand\x1b[2J.png", BLANK)
    save(tmp_path / "in" / "z.png")
    for form in ((), ("--json",), ("--csv",), ("--draw", "out")):
        status, said, told = run("identify", "in", *form)
        assert status == 0 and "z.png" in said and "\\udce9" in said
        assert "\x1b" not in said + told
        if form == ("--json",):
            assert json.loads(said)["photos"][0]["path"] == f"in/{LATIN1}.png"  # the very one


def test_an_output_without_unicode_stops_nothing(tmp_path, monkeypatch):
    add("Zoë 王芳", tmp_path / "some.gallery")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", newline="\n"))
    assert main(["people", "--gallery", str(tmp_path / "some.gallery")]) == 0
    sys.stdout.flush()
    assert written.getvalue() == b"    1  Zo\\xeb \\u738b\\u82b3\n"


def test_a_csv_holds_no_formula(run, tmp_path):
    formulas = ['=HYPERLINK("x")', "+1", "-1+2", "@SUM(A1)"]
    for person, name in enumerate(formulas):
        album(tmp_path / "people" / name, person)
        save(tmp_path / "in" / f"{person}.png", portrait(person, 9))
    save(tmp_path / "=1.png", portrait(0, 8))
    save(tmp_path / "plain.png", BLANK)
    assert run("enroll", "people")[0] == 0
    status, said, _ = run("identify", "in", "=1.png", "plain.png", "--csv", "--quiet")
    rows = list(csv.reader(io.StringIO(said)))
    assert status == 0 and len(rows) == 7
    texts = [cell for row in rows[1:] for cell in row if not re.fullmatch(r"-?[\d.e-]+", cell)]
    assert not [cell for cell in texts if cell[:1] in tuple("=+-@\t\r")]
    assert {r[7] for r in rows[1:6]} == {"'" + name for name in formulas}  # nearest
    assert "'=1.png" in {r[0] for r in rows}
    assert [p["path"] for p in json.loads(run("identify", "=1.png", "--json")[1])["photos"]] == [
        "=1.png"
    ]


# ---------------------------------------------------------------- pages and plots


def slices_of(names: list[str]):
    from metaface.metrics.groups import verify_by_group

    random = np.random.default_rng(0)
    person = np.repeat(np.arange(6 * len(names)), 4)
    e = random.normal(size=(6 * len(names), 8))[person] + 0.5 * random.normal(size=(len(person), 8))
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    return verify_by_group(e, person, np.array(names)[person % len(names)], by="who", seed=0)


def plotted() -> dict[str, str]:
    """Every plot that shows names from outside, with hostile ones."""
    rows = [
        {
            "learner": n,
            "ways": 5,
            "shots": 1,
            "accuracy": 0.5,
            "ci95": 0.1,
            "adapt_ms": 1.0 + i,
            "train": n,
            "test": n,
            "drop": 0.0,
            "drop_ci95": 0.0,
        }
        for i, n in enumerate(HOSTILE)
    ]
    curve = [{"seconds": 1.0, "val_accuracy": 0.5}, {"seconds": 2.0, "val_accuracy": 0.6}]
    trial = {
        "state": "complete",
        "accuracy": 0.5,
        "ci95": 0.1,
        "default": True,
        "number": 0,
        "parameters": {n: 0.5 for n in HOSTILE},
    }
    space = {n: {"low": 0.1, "high": 1.0, "log": False} for n in HOSTILE}
    return {
        "curves": benchmark_page.draw_curves({f"{n}-0": curve for n in HOSTILE}),
        "by_shot": benchmark_page.draw_by_shot(rows),
        "cost": benchmark_page.draw_cost(rows),
        "heat_map": domain_page.draw_heat_map(rows),
        "spread": sweep_page.draw_spread({n: [trial] for n in HOSTILE}),
        "slices": sweep_page.draw_parameters([trial], space),
        "importances": sweep_page.draw_importances(dict.fromkeys(HOSTILE, 0.1)),
        "groups": groups.draw_group_rates(slices_of(HOSTILE), "false_positive"),
    }


def test_plots_show_names_letter_by_letter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = plotted()
    for name, svg in found.items():
        import xml.etree.ElementTree as tree

        root = tree.fromstring(svg)  # well-formed, as a page needs it
        shown = {"".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("}text")}
        wanted = [
            "$x_{$",
            "</text><script>",
            "_hidden",
            VISIBLE,
            "caf\\udce9",
            "王芳",
            "50$ or 60$",
        ]
        assert not set(wanted) - shown, (name, shown)


def test_plots_of_plain_names_are_drawn_as_before():
    """Outlines of letters, so that a page looks alike everywhere; powers of ten in mathematics."""
    svg = benchmark_page.draw_curves({"maml-0": [{"seconds": 1.0, "val_accuracy": 0.5}]})
    assert "<text" not in svg and "maml" in svg
    figure, axes = plots.chart("x", "y")
    axes.plot([1, 1e4], [1, 2], label="$5")
    axes.set_xscale("log")
    assert "mathdefault{10^{4}}" in plots.svg(figure)


def test_pages_hold_any_name_whole_or_are_not_written(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    groups.write_slices(path, [slices_of(HOSTILE)])
    page = path.read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>") and "caf\\udce9" in page and VISIBLE in page
    assert "<script" not in page and "王芳" in page
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        groups.write_slices(path, [slices_of(HOSTILE[:2])])
    assert path.read_text(encoding="utf-8") == page and list(tmp_path.iterdir()) == [path]


def test_a_benchmark_of_odd_names_has_its_page(tmp_path):
    for person, name in enumerate([*HOSTILE[2:], *"abcdefghi"]):
        name = name.replace("\x00", "").replace("/", "")
        for k in range(8):
            save(tmp_path / "in" / name / f"{k}.png", portrait(person, k))
    source = tmp_path / f"{LATIN1}\x1b[2J"
    (tmp_path / "in").rename(source)
    settings = BenchmarkSettings(
        data=str(source),
        learners=("prototypical",),
        iterations=1,
        ways=(2,),
        shots=(1,),
        queries=2,
        episodes=3,
    )
    results = benchmark.run(settings, tmp_path / "out", progress=False)
    assert "\x1b" not in results["data"]["train"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>") and "\x1b" not in page
    assert report.format_benchmark(results["rows"])


# ---------------------------------------------------------------- drawn letters


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_what_the_font_lacks_is_drawn_as_a_number_and_said(run, tmp_path, caplog, monkeypatch):
    from metaface import _letters

    monkeypatch.setattr(_letters, "_system_fonts", lambda: ())
    for person, name in enumerate(("Иван", "王芳", "ไทย")):
        album(tmp_path / "people" / name, person)
    run("enroll", "people")
    both = save(tmp_path / "both.png", group(portrait(0, 9), portrait(1, 9), portrait(2, 9)))
    status, said, _ = run("identify", both, "--draw", "out.png")
    told = [part.split(" (")[0].split(": ")[-1] for part in said.split("), ")]
    assert status == 0 and {"王芳", "ไทย"} <= set(told), said
    for name in ("王芳", "ไทย"):
        assert f"{name!r} is drawn as #{told.index(name) + 1}" in caplog.text
    assert "Иван" not in caplog.text


def test_lettering_draws_what_it_can(monkeypatch):
    from metaface import _letters

    monkeypatch.setattr(_letters, "_system_fonts", lambda: ())
    assert _letters.drawable("Zoë Иван Ελένη", "#1") == "Zoë Иван Ελένη"
    assert _letters.drawable("王芳", "#1") == "#1"
    assert _letters.drawable("a\x1b", "#1") == "a\\x1b"
    monkeypatch.setattr(_letters, "_shapes", lambda: False)
    assert _letters.drawable("محمد", "#1") == "#1"  # its letters would stand apart, backwards


def test_contact_sheets_tell_captions_apart(caplog, monkeypatch):
    from metaface import _letters

    monkeypatch.setattr(_letters, "_system_fonts", lambda: ())
    face = [BLANK]
    cyrillic, other = (pixels(report.draw_grid([(name, face)])) for name in ("Иван", "Ольга"))
    assert (cyrillic != other).any() and not caplog.text
    for odd in ("a\x1b[2J", LATIN1):
        report.draw_grid([(odd, face)])
    one, other = ("王芳", face), ("李", face)
    sheets = [pixels(report.draw_grid(rows))[:20] for rows in ([one, other], [other, one])]
    assert (sheets[0] == sheets[1]).all()  # both #1
    assert "'王芳' is drawn as #1" in caplog.text and "'李' is drawn as #2" in caplog.text


# --- drawings take nothing's place


def test_a_drawing_takes_the_place_of_drawings_alone(run, tmp_path):
    add("Ana", tmp_path / "some.gallery")
    photo, other = save(tmp_path / "a.png"), save(tmp_path / "b.png")
    before = Path(other).read_bytes()
    status, _, told = run("identify", photo, "--draw", other)
    assert status == 2 and "b.png is there already, and no drawing" in told
    assert Path(other).read_bytes() == before
    for name in ("drawn.png", "drawn.jpg"):
        for _ in range(2):  # the second takes the place of the first
            assert run("identify", photo, "--draw", name)[0] == 0
    for name in ("drawn.xyz", "drawn.psd", "drawn"):  # unknown, read but not written, none
        status, _, told = run("identify", photo, "--draw", name)
        assert status == 2 and "give a .png or .jpg" in told
        status, _, told = run("preview", "--out", name, gallery=False)
        assert status == 2 and "give a .png or .jpg" in told


def test_a_drawing_that_cannot_be_written_leaves_what_was_there(run, tmp_path, monkeypatch):
    add("Ana", tmp_path / "some.gallery")
    photo = save(tmp_path / "a.png")
    assert run("identify", photo, "--draw", "drawn.png")[0] == 0
    before = Path("drawn.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, told = run("identify", photo, "--draw", "drawn.png")
    assert status == 2 and "drawn.png is full" in told
    assert Path("drawn.png").read_bytes() == before
