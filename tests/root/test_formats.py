"""Files of MetaFace 0.2 load, and go on, as they did: ``tests/formats/0.2`` was written by it.

The photographs they were made of are drawn again here. ``expected.json`` holds what 0.2 made of
them: sums of weights and of their sizes, embeddings, a digest, what a gallery says.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Row, fit, portrait, squares, train
from PIL import Image
from safetensors import safe_open
from shared_scenes import scenes

import metaface as mf
from metaface import cli
from metaface.multitask import MultiTask
from metaface.multitask.training import draws
from metaface.recognition import Gallery, JointFace

FILES = Path(__file__).parents[1].joinpath("formats") / "0.2"
EXPECTED = json.loads((FILES / "expected.json").read_text())
NETWORK = ("--embedding", "conv4-32", "--channels", "1", "--image-size", "28", "--quiet")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of :data:`FILES`: 16 people, 10 of each."""
    folder = tmp_path_factory.mktemp("photos") / "pinphotos"
    for person in range(16):
        (folder / f"person{person:02d}").mkdir(parents=True)
        for k in range(10):
            picture = Image.fromarray(portrait(person, k)[::4, ::4])
            picture.save(folder / f"person{person:02d}" / f"{k}.png")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A copy of :data:`FILES` that may be written to."""
    shutil.copytree(FILES, tmp_path / "files")
    return tmp_path / "files"


def assert_sums(state: dict[str, torch.Tensor], expected: dict[str, list[float]]) -> None:
    assert set(state) == set(expected)
    for name, tensor in state.items():
        found = [float(tensor.double().sum()), float(tensor.double().abs().sum())]
        assert found == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_a_finished_benchmark_is_shown_and_one_without_a_result_is_tested_again(
    files: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "benchmark"
    before = json.loads((FILES / "benchmark" / "results.json").read_text())["rows"]
    command = [
        "benchmark",
        "--data",
        str(photos),
        "--learners",
        "reptile",
        "--iterations",
        "2",
        "--episodes",
        "20",
        "--ways",
        "3",
        "--shots",
        "1",
        "--out",
        str(out),
        "--resume",
        *NETWORK,
    ]
    for again in (None, out / "reptile-seed0" / "result.json"):
        if again is not None:
            again.unlink()
        assert cli.main(command) == 0
        rows = json.loads((out / "results.json").read_text())["rows"]
        for row, old in zip(rows, before, strict=True):
            assert row["learner"] == old["learner"]
            assert row["accuracy"] == pytest.approx(old["accuracy"], abs=1e-3)
    assert "reptile" in capsys.readouterr().out


def test_a_finished_domain_matrix_is_shown(files: Path, photos: Path) -> None:
    out = files / "matrix"
    before = json.loads((FILES / "matrix" / "results.json").read_text())["rows"]
    status = cli.main(
        [
            "cross-domain",
            "--domains",
            f"faces={photos}",
            "--learners",
            "reptile",
            "--iterations",
            "2",
            "--episodes",
            "20",
            "--ways",
            "2",
            "--shots",
            "1",
            "--out",
            str(out),
            "--resume",
            *NETWORK,
        ]
    )
    assert status == 0
    assert json.loads((out / "results.json").read_text())["rows"] == before


def test_a_sweep_is_joined(files: Path, photos: Path) -> None:
    out = files / "sweep"
    before = json.loads((FILES / "sweep" / "sweep.json").read_text())["trials"]
    status = cli.main(
        [
            "sweep",
            "--data",
            str(photos),
            "--learners",
            "prototypical",
            "--ways",
            "2",
            "--trials",
            "3",
            "--iterations",
            "2",
            "--out",
            str(out),
            "--resume",
            *NETWORK,
        ]
    )
    assert status == 0
    trials = json.loads((out / "sweep.json").read_text())["trials"]
    assert len(trials) == 3 and trials[:2] == before


def test_an_interrupted_training_ends_as_it_would_have(files: Path, photos: Path) -> None:
    faces = mf.data.load(photos, image_size=28, channels=1, progress=False)
    people, val, _ = faces.split(0, val=0.3, test=0.2)
    spec = mf.ModelSpec("reptile", embedding="conv4-32", channels=1, image_size=28)
    learner = spec.build(0)
    train(
        learner,
        people,
        val,
        ways=2,
        shots=1,
        queries=2,
        meta_batch=2,
        iterations=10,
        val_episodes=5,
        val_ways=2,
        spec=spec,
        progress=False,
        out=files / "half",
        resume=True,
    )
    assert_sums(learner.state_dict(), EXPECTED["half"])
    again, there = mf.load_model(files / "half" / "checkpoint.pt")
    assert there == spec
    assert_sums(again.state_dict(), EXPECTED["half"])


def test_an_interrupted_multitask_training_ends_as_it_would_have(files: Path) -> None:
    torch.manual_seed(0)
    model = MultiTask({"pose": {}}, channels=4, features=8, norm="frozen", width=0.25)
    fit(
        model,
        draws(scenes(), 4),
        iterations=6,
        out=files / "multitask-half",
        resume=True,
        progress=False,
    )
    assert_sums(model.state_dict(), EXPECTED["multitask-half"])


def test_a_shared_network_is_the_one_that_galleries_know() -> None:
    joint = JointFace.load(FILES / "multitask" / "model.safetensors")
    assert joint.digest == EXPECTED["joint"]["digest"]
    crops = np.stack([portrait(person) for person in range(3)])
    np.testing.assert_allclose(joint(crops)[:, :4], EXPECTED["joint"]["embeddings"], atol=1e-4)


def test_a_gallery_says_what_it_said(files: Path, tmp_path: Path) -> None:
    Image.fromarray(portrait(2, 9)).save(tmp_path / "probe.png")
    gallery = Gallery.open(files / "people.gallery")
    with mf.Recognizer(Row(), squares(), gallery) as people:
        assert people.people() == EXPECTED["gallery"]["people"]
        said = people.calibration().as_dict()
        scores = [match.score for match in people.identify(tmp_path / "probe.png")]
        assert people.forget("Person 1") == 3
    for key, value in EXPECTED["gallery"]["calibration"].items():
        there = list(said[key]) if isinstance(value, list) else said[key]
        assert there == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), key
    assert scores == pytest.approx(EXPECTED["gallery"]["score"], abs=1e-5)


def test_a_model_is_one_safetensors_file_and_those_of_before_load(tmp_path: Path) -> None:
    spec = mf.ModelSpec("reptile", embedding="conv4-32", channels=1, image_size=28)
    learner = spec.build(3)
    mf.save_model(tmp_path / "new.pt", learner, spec)  # whatever it is called
    torch.save({"spec": asdict(spec), "learner": learner.state_dict()}, tmp_path / "old.pt")
    with safe_open(tmp_path / "new.pt", framework="pt") as file:
        notes = file.metadata()
        assert set(file.keys()) == set(learner.state_dict())
    assert json.loads(notes["spec"])["embedding"] == "conv4-32"
    for name in ("new.pt", "old.pt"):
        again, there = mf.load_model(tmp_path / name)
        assert there == spec
        for key, tensor in learner.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor)
    data = bytearray((tmp_path / "new.pt").read_bytes())
    data[-5] ^= 1
    (tmp_path / "new.pt").write_bytes(data)
    with pytest.raises(mf.checkpoint.CheckpointError, match=r"new\.pt was damaged"):
        mf.load_model(tmp_path / "new.pt")
