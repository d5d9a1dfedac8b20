"""The command line of recognition, on people who do not exist; and its protocols."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import train
from PIL import Image

import metaface as mf
from metaface import metrics
from metaface.cli import main, measure
from metaface.experiments import protocols
from metaface.experiments.protocols import (
    AlignedFaces,
    align_people,
    find_pairs,
    score_against_cohort,
)
from metaface.faces.detect import YuNet
from metaface.faces.photos import REASONS, Unusable
from metaface.recognition import Gallery, Recognizer

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("METAFACE_TEST_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights"
needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_dir(), reason=f"no weights at {WEIGHTS} (METAFACE_TEST_DATA)"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """people/, strangers/ and party.png of the worked example in the docs."""
    sys.path.insert(0, str(ROOT / "tools"))
    from example_photos import main as write

    folder = tmp_path_factory.mktemp("example")
    write(str(folder))
    return folder


@pytest.fixture(scope="module")
def enrolled(photos, tmp_path_factory):
    """A gallery of the four people, calibrated."""
    path = tmp_path_factory.mktemp("gallery") / "four.gallery"
    given = ["--gallery", str(path), "--models", str(WEIGHTS), "--quiet"]
    assert main(["enroll", str(photos / "people"), *given]) == 0
    assert main(["calibrate", "--strangers", str(photos / "strangers"), *given]) == 0
    return path


@pytest.fixture
def run(enrolled, tmp_path, capsys, monkeypatch):
    """Run a command on a copy of that gallery: status, standard output, standard error."""
    path = tmp_path / "copy.gallery"
    path.write_bytes(enrolled.read_bytes())
    monkeypatch.setenv("METAFACE_MODELS", str(WEIGHTS))

    def command(*words, gallery=path):
        capsys.readouterr()
        status = main([str(w) for w in words] + ["--gallery", str(gallery)])
        return status, *capsys.readouterr()

    return command


@needs_weights
def test_the_worked_example(photos, run, tmp_path):
    out = tmp_path / "named.png"
    status, said, told = run("identify", photos / "party.png", "--draw", out)
    assert status == 0
    assert all(f"{name} (0." in said for name in ("Ana", "Bo", "Chidi"))
    assert said.count("unknown (nearest") == 2
    assert "FPIR of 1%" in told and "from 200 different strangers" in told
    drawn, photo = Image.open(out), Image.open(photos / "party.png")
    assert drawn.size == photo.size and drawn.tobytes() != photo.tobytes()


@needs_weights
def test_json_has_the_promised_form(photos, run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a bad,name.jpg").write_text("no picture")
    Image.open(photos / "party.png").save(tmp_path / "in" / "party.png")
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "in" / "blank.png")
    status, said, told = run("identify", tmp_path / "in", "--json", "--quiet")
    found = json.loads(said)
    assert status == 0 and set(found) == {"photos", "threshold", "fpir"} and found["fpir"] == 0.01
    bad, blank, party = found["photos"]
    assert [p["path"] for p in found["photos"]] == sorted(
        str(p) for p in (tmp_path / "in").iterdir()
    )
    assert bad["skipped"] == "unreadable" and bad["faces"] == []
    assert blank["skipped"] == "no_face" and party["skipped"] is None
    assert {bad["skipped"], blank["skipped"]} < set(REASONS)
    assert bad["detail"] and blank["detail"] and party["detail"] == ""
    by_place = sorted(party["faces"], key=lambda face: face["box"][0])
    assert [f["name"] for f in by_place] == ["Ana", None, "Chidi", "Bo", None]
    for face in by_place:
        assert set(face) == {"box", "name", "score", "nearest", "probability"}
        assert len(face["box"]) == 4 and face["nearest"] in {"Ana", "Bo", "Chidi", "Dana"}
        assert (face["name"] is not None) == (face["score"] >= found["threshold"])
    assert "2 of 3 skipped: 1 unreadable, 1 no_face" in told

    _, said, _ = run("identify", tmp_path / "in", "--csv", "--quiet")
    rows = list(csv.DictReader(io.StringIO(said)))
    assert len(rows) == 7 and rows[0]["path"].endswith("a bad,name.jpg")
    assert rows[0]["detail"] == bad["detail"] and rows[-1]["detail"] == ""
    assert [r["name"] for r in rows if r["name"]] == [
        f["name"] for f in party["faces"] if f["name"]
    ]


@needs_weights
def test_people_forget_and_enrol_again(photos, run, tmp_path):
    assert run("people")[1].split() == ["5", "Ana", "5", "Bo", "5", "Chidi", "5", "Dana"]
    assert run("forget", "Bo")[:2] == (0, "Bo is forgotten (5 photographs)\n")
    assert "Bo" not in run("identify", photos / "party.png")[1]
    status, _, told = run("forget", "Bo")
    assert status == 2 and "nobody is called 'Bo'" in told
    status, said, _ = run("enroll", "Bo", *sorted((photos / "people" / "Bo").iterdir())[:2])
    assert status == 0 and "2 photographs enrolled; 4 people" in said
    assert "Bo (0." in run("identify", photos / "party.png")[1]


@needs_weights
def test_verify_says_who_is_who(photos, run, tmp_path, monkeypatch, capsys):
    first, second = sorted((photos / "people" / "Ana").iterdir())[:2]
    other = photos / "people" / "Bo" / "1.png"
    assert run("verify", first, second)[1].startswith("the same person: score 0.")
    assert run("verify", first, other)[1].startswith("different people: score")
    answer = json.loads(run("verify", first, second, "--json", "--fmr", "0.01")[1])
    assert answer["same"] and answer["fmr"] == 0.01 and answer["verified"]
    # without a gallery the threshold is the published one, and none is made
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert main(["verify", str(first), str(other)]) == 0
    assert "unverified" in capsys.readouterr().out and not list(empty.iterdir())
    status, _, told = run("verify", first, other, gallery=tmp_path / "mistyped.gallery")
    assert status == 2 and "no gallery at" in told and "mistyped.gallery" in told
    status, _, told = run("verify", first, photos / "party.png")
    assert status == 2 and "party.png: 5 faces" in told


@needs_weights
def test_adapt_and_back(photos, run):
    status, said, _ = run("adapt", "anil", "--option", "inner_steps=5")
    assert status == 0 and said.startswith("anil: ") and "prototypes 100.0%" in said
    status, _, told = run("adapt", "maml")
    assert status == 2 and "--keep-crops" in told
    assert run("adapt", "prototypes")[1].startswith("prototypes")


@needs_weights
@pytest.mark.parametrize(
    "words, why",
    [
        (("identify", "nowhere.jpg"), "no such photograph or folder: nowhere.jpg"),
        (("enroll", "nowhere"), "no such folder, zip or CSV: nowhere"),
        (("calibrate", "--fpir", "0"), "fpir=0.0"),
        (("identify", "nowhere.jpg", "--weights", "nothing"), "no embedder nothing"),
    ],
)
def test_errors_say_what_to_do(run, words, why):
    status, _, told = run(*words)
    assert status == 2 and why in told and "Traceback" not in told


def test_without_models_or_gallery(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("METAFACE_MODELS", str(tmp_path))
    photo = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(photo)
    gallery = tmp_path / "some.gallery"
    assert main(["identify", str(photo), "--gallery", str(gallery)]) == 2
    assert "metaface enroll" in capsys.readouterr().err
    assert main(["enroll", "Ana", str(photo), "--gallery", str(gallery)]) == 2
    assert "metaface models fetch" in capsys.readouterr().err
    assert not gallery.exists()
    assert main(["models"]) == 0 and "missing" in capsys.readouterr().out
    assert main(["people", "--gallery", str(gallery)]) == 2


@needs_weights
def test_models_list_check_import(tmp_path, capsys):
    assert main(["models", "check", "--models", str(WEIGHTS)]) == 0
    assert "cosine 1.000" in capsys.readouterr().out
    weights = str(WEIGHTS / "mobilefacenet_casia.ckpt")
    assert main(["models", "import", weights, "--models", str(tmp_path)]) == 0
    assert main(["models", "list", "--models", str(tmp_path)]) == 0
    assert "imported" in capsys.readouterr().out
    assert main(["models", "import", "--models", str(tmp_path)]) == 2


# -- protocols -------------------------------------------------------------------------------


@needs_weights
def test_protocols_on_procedural_people(photos, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--data", str(photos / "people"), "--models", str(WEIGHTS), "--out", str(out)]
    assert main(["protocol", "few-shot", *given, "--shots", "0", "--quiet"]) == 2
    assert "--shots" in capsys.readouterr().err
    assert main(["protocol", "nonsense", *given]) == 2
    assert "few-shot" in capsys.readouterr().err
    assert main(["protocol", "detection", "few-shot", *given]) == 2
    assert "detection has data of its own" in capsys.readouterr().err
    assert main(["protocol", "verification", *given, "--drawn", "41", "--quiet"]) == 2
    assert "--drawn 41 pairs" in capsys.readouterr().err and not (out / "results.json").exists()
    assert main(["protocol", "verification", *given, "--drawn", "6", "--quiet"]) == 0
    assert "2 folds instead of 10" in capsys.readouterr().out  # of four people


@pytest.fixture
def protocol(tmp_path, capsys, monkeypatch):
    """Run ``metaface protocol`` on 40 people of eight photographs: status, both outputs."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 8)
    crops = (
        random.integers(0, 90, (320, 112, 112, 3))
        + random.integers(0, 160, (40, 3))[person, None, None]
    )

    def embedder(crops):
        found = crops[:, ::37, ::37].reshape(len(crops), -1).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    crops, names = crops.astype(np.uint8), tuple(f"p{i:02d}" for i in range(40))
    paths = tuple(f"{names[p]}/{names[p]}_{i % 8 + 1:04d}.png" for i, p in enumerate(person))
    people = AlignedFaces("forty", crops, embedder(crops), person, names, paths, ())
    monkeypatch.setattr(measure, "load_models", lambda options: (None, embedder))
    monkeypatch.setattr(protocols, "align_people", lambda *given, **more: people)

    def run(*words):
        capsys.readouterr()
        given = ["--data", "forty", "--episodes", "5", "--galleries", "2"]
        status = main(["protocol", *words, *given, "--out", str(tmp_path / "out"), "--quiet"])
        return status, *capsys.readouterr()

    return run


def test_protocols_lower_defaults_to_the_people_who_are_there(protocol, tmp_path):
    status, said, told = protocol("few-shot", "verification", "open-set", "--ways", "5")
    assert (status, told) == (0, "")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["notes"] == [
        "verification: 1120 pairs of each kind instead of 2500: 40 people make 1120 pairs of each "
        "kind in 10 folds that share nobody",
        "open-set: 8 enrolled instead of 50, 14 strangers instead of 500, 18 people in the cohort "
        "instead of 600: there are 40 people, 40 of them with more than 3 photographs",
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    for note in found["notes"]:
        assert said.index(f"note: {note}") < said.index("5-way 1-shot") and note in page
    assert [row.get("pairs") for row in found["rows"]] == [None, 2240, 2240, None, None]
    assert found["rows"][-1]["strangers"] == 14


@pytest.mark.parametrize(
    "asked",
    [
        *("--drawn 1121", "--stranger-count 500", "--enrolled 41", "--enrolled-photos 8"),
        *("--cohort 39", "--ways 50", "--shots 8"),
    ],
)
def test_protocols_refuse_what_is_asked_before_the_first_measurement(protocol, tmp_path, asked):
    status, said, told = protocol("few-shot", "verification", "open-set", *asked.split())
    assert status == 2 and asked in told and "1-shot:" not in said and told.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_pairs_of_one_fold_are_refused_before_the_first_measurement(protocol, tmp_path):
    listed = tmp_path / "pairs.txt"
    listed.write_text("1\np00\t1\t2\np00\t3\tp01\t8\n")
    status, said, told = protocol("few-shot", "verification", "--pairs", str(listed))
    assert status == 2 and "1-shot:" not in said
    assert f"--pairs {listed}: all pairs are in one fold" in told


def test_a_measurement_is_written_before_the_next_begins(protocol, tmp_path, monkeypatch):
    def fails(*given, **more):
        raise ValueError("no more")

    monkeypatch.setattr(metrics, "open_set", fails)
    assert protocol("few-shot", "verification", "open-set")[0] == 2
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["protocol"] for row in found["rows"]] == [
        "5-way 1-shot",
        "20-way 1-shot",
        "verification, cosine",
        "verification, against strangers of the other folds",
    ]
    assert (tmp_path / "out" / "report.html").read_text().count("<h2>") == 3  # two, and notes


@needs_weights
def test_aligned_people_and_official_pairs(photos, tmp_path):
    detector = YuNet(WEIGHTS / "yunet_n_640_640.onnx")
    people = Recognizer.from_pretrained(models=WEIGHTS)
    packed = tmp_path / "people.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((photos / "people").rglob("*.png")):
            name, number = path.parent.name, int(path.stem)
            archive.write(path, f"set/{name}/{name}_{number:04d}.jpg")
        archive.writestr("set/Eve/Eve_0001.jpg", b"no picture")
    found = align_people(packed, detector, people.embedder, progress=False)
    assert found.people == ("Ana", "Bo", "Chidi", "Dana") and found.crops.shape == (20, 112, 112, 3)
    assert [s.path for s in found.skipped] == ["set/Eve/Eve_0001.jpg"]
    listed = tmp_path / "pairs.txt"
    listed.write_text("2\t1\nAna\t1\t2\nBo\t1\tEve\t1\nBo\t1\t5\nChidi\t2\tDana\t3\n")
    pairs, missing = find_pairs(found, listed)
    assert missing == 1 and pairs.same.tolist() == [True, True, False]
    named = [[found.paths[r].split("/")[-1] for r in pair] for pair in pairs.rows]
    assert named[0] == ["Ana_0001.jpg", "Ana_0002.jpg"]
    assert named[2] == ["Chidi_0002.jpg", "Dana_0003.jpg"]
    with pytest.raises(FileNotFoundError, match="no such"):
        align_people(tmp_path / "none", detector, people.embedder)


@needs_weights
def test_align_then_train_from_published_weights(photos, tmp_path, capsys):
    out = tmp_path / "aligned"
    given = ["--models", str(WEIGHTS), "--quiet"]
    assert main(["align", str(photos / "people"), "--out", str(out), *given]) == 0
    assert "20 faces" in capsys.readouterr().out
    faces = sorted(path.relative_to(out) for path in out.rglob("*.png"))
    assert len(faces) == 20 and faces[0] == Path("Ana/1.png")
    people = mf.data.load(out, image_size=112)
    spec = mf.ModelSpec(
        "prototypical",
        {"distance": "cosine", "tune": "bottleneck:8"},
        image_size=112,
        embedding="mobilefacenet-112x96",
        norm="pinned",
    )
    learner = spec.build(start=WEIGHTS / "mobilefacenet_casia.ckpt")
    train(learner, people, ways=2, shots=1, queries=1, iterations=1, progress=False)
    mf.save_model(tmp_path / "tuned.pt", learner, spec)
    before = Recognizer.from_pretrained(models=WEIGHTS).embedder(people.images[:2])
    tuned = Recognizer.from_pretrained(tmp_path / "tuned.pt", models=WEIGHTS).embedder
    assert tuned.digest and 0.8 < (before * tuned(people.images[:2])).sum(1).min() < 1


def test_scores_held_against_the_other_folds():
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(24), 5)  # 50 others, at least
    e = random.normal(size=(120, 8)) + 2 * random.normal(size=(24, 8))[person]
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    people = AlignedFaces("x", np.empty(0), e, person, tuple(map(str, range(24))), (), ())
    pairs = metrics.draw_pairs(person, 20, 20, folds=4)
    got = score_against_cohort(pairs, people)
    fold_of = {}
    for (a, b), fold in zip(pairs.rows, pairs.fold, strict=True):
        fold_of[person[a]] = fold_of[person[b]] = fold
    for (a, b), fold, score in zip(pairs.rows, pairs.fold, got, strict=True):
        others = [r for r in range(120) if fold_of.get(person[r], fold) != fold]
        base = [np.mean(sorted(e[x] @ e[r] for r in others)[-50:]) for x in (a, b)]
        assert score == pytest.approx(e[a] @ e[b] - np.mean(base), abs=1e-5)


@needs_weights
def test_gallery_of_another_model_is_refused(run, tmp_path):
    path = tmp_path / "other.gallery"
    Gallery(path, model="ab" * 32, model_name="mobilefacenet_casia", dim=128).close()
    status, _, told = run("identify", WEIGHTS / "x.jpg", gallery=path)
    assert status == 2
    status, _, told = run("enroll", "Ana", ROOT / "docs" / "images" / "party.png", gallery=path)
    assert status == 2 and "made by" in told
    with pytest.raises(Unusable):
        Recognizer.from_pretrained(models=WEIGHTS).verify(np.zeros((50, 50, 3), np.uint8), "x")
