"""The comparison of a shared network with networks in stages: parts by oracles, and a tiny run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import draw_nothing
from scipy import stats

from metaface._json import plain, read_record, write_json, write_record
from metaface.cli import main
from metaface.experiments import joint
from metaface.experiments import joint_speed as timing
from metaface.experiments.joint import score_tasks
from metaface.experiments.joint_networks import (
    STAGES,
    TASKS,
    build_network,
    count_parameters,
    find_equal_size,
)
from metaface.experiments.joint_scenes import TestScenes, compose_test_scenes, load_sprites
from metaface.experiments.staged import Resized, Staged, crop_aligned, crop_faces
from metaface.faces.alignment import SIDE, align
from metaface.multitask import Batch, FaceSprites, MultiTask, SharedBackbone
from metaface.multitask import identification as ident
from metaface.multitask.model import Predictions
from metaface.options import JointSettings
from metaface.recognition import Recognizer
from metaface.recognition.embedders import loading
from metaface.recognition.embedders.shared import JointFace
from metaface.report import joint as joint_page

TINY = JointSettings(
    variants=("separate", "recognition-only", "fixed"),
    people=3,
    val_people=10,
    test_people=10,
    photos=12,
    size=64,
    side=(24, 48),
    batch=4,
    iterations=3,
    episodes=20,
    device="cpu",
)


@pytest.fixture
def little_refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of few batches after a training, whose network is good for nothing anyway."""
    monkeypatch.setattr("metaface.multitask.training._REFRESH", 2)


@pytest.fixture(scope="module")
def scenes() -> TestScenes:
    return compose_test_scenes(FaceSprites.procedural(6, 8, 64, seed=3), 60, 96, (30, 70), 0)


def faces(people: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings by which everybody is told apart, and whose they are."""
    person = np.repeat(np.arange(people), each)
    return np.eye(people, dtype=np.float32)[person], person


# -- identification ---------------------------------------------------------------------------


def test_one_shot_counts_a_face_that_was_not_found_as_wrong() -> None:
    embeddings, person = faces(7, 8)
    assert (ident.measure_one_shot(embeddings, person, 50) == 1).all()
    assert (ident.measure_one_shot(0 * embeddings, person, 50) == 0).all()
    embeddings[person == 3] = 0  # one of seven people is never found
    right = ident.measure_one_shot(embeddings, person, 400)
    assert set(np.round(right, 6)) == {0.8, 1.0}
    assert (right == 1).mean() == pytest.approx(2 / 7, abs=0.08)  # episodes without that person


def test_one_shot_is_chance_for_noise_and_alike_for_a_seed() -> None:
    _, person = faces(8, 8)
    noise = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    right = ident.measure_one_shot(noise, person, 400)
    assert right.mean() == pytest.approx(0.2, abs=0.03)
    assert (right == ident.measure_one_shot(noise, person, 400)).all()
    with pytest.raises(ValueError, match="4 people with 6 photographs"):
        ident.measure_one_shot(noise, person % 4, 5)


def test_figures_of_perfect_and_of_no_embeddings() -> None:
    embeddings, person = faces(20, 10)
    found = ident.measure_open_set(embeddings, person)
    assert found["tar@0.01"] == found["dir@0.1"] == 1
    missed = ident.measure_open_set(0 * embeddings, person)
    assert missed["tar@0.01"] == missed["dir@0.1"] == 0


def test_each_photograph_counts_once(scenes: TestScenes) -> None:
    pool = FaceSprites.procedural(6, 8, 64, seed=3)
    assert len(scenes.rows) <= len(pool) < len(scenes.scenes.image)
    counts = np.bincount(scenes.scenes.person[scenes.rows], minlength=6)
    assert counts.max() <= 8 and counts.sum() > 40


# -- networks ---------------------------------------------------------------------------------


def test_crops_are_those_of_align(scenes: TestScenes) -> None:
    given = scenes.scenes
    smooth = np.stack([blurred(image) for image in given.images])
    images = torch.from_numpy(smooth).movedim(-1, 1) / 255
    found = crop_aligned(
        images, torch.from_numpy(given.image), torch.from_numpy(given.landmarks), SIDE
    )
    for face in range(0, len(given.image), 7):
        # align counts from the middle of the first pixel, and is black outside
        true = align(smooth[given.image[face]], given.landmarks[face : face + 1] - 0.5)[0]
        away = np.abs(255 * found[face].movedim(0, -1).numpy() - true)
        assert np.median(away) < 3


def blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 2)


def test_crops_know_the_person_and_fill_the_frame(scenes: TestScenes) -> None:
    crops = crop_faces(scenes.scenes, 56, at_once=13)
    assert crops.images.shape == (len(scenes.scenes.image), 56, 56, 3)
    assert (crops.person == scenes.scenes.person).all()
    whole = crop_faces(scenes.scenes, 56)
    assert (whole.images == crops.images).all()
    batch = Batch.of(crops.take(np.arange(4)))
    again = crop_aligned(batch.images, batch.image, batch.filled_landmarks, 56)
    assert torch.allclose(again, batch.images, atol=1e-4)


def test_staged_embeds_the_crops_and_says_what_its_stages_say(scenes: TestScenes) -> None:
    torch.manual_seed(0)
    parts = {name: build_network(tasks, 6, 0.5, 32).eval() for name, tasks in STAGES.items()}
    staged = Staged(
        parts["detector"], parts["recogniser"].embedding(), parts["describer"], 56
    ).eval()
    batch = Batch.of(scenes.scenes.take(np.arange(6)))
    found = staged.describe(batch.images, batch.image, batch.boxes, batch.landmarks)
    crops = crop_aligned(batch.images, batch.image, batch.landmarks, 56)
    with torch.no_grad():
        own = torch.nn.functional.normalize(parts["recogniser"].embedding()(crops), dim=1)
    assert torch.allclose(found.heads["recognition"], own, atol=1e-5)
    alone = parts["describer"].describe(batch.images, batch.image, batch.boxes)
    assert torch.equal(found.heads["pose"], alone.heads["pose"])
    assert set(staged.heads) == set(TASKS)
    first = parts["detector"].predict(batch.images, 0.001)
    assert len(first) and torch.equal(staged.predict(batch.images, 0.001).boxes, first.boxes)
    assert len(staged.predict(batch.images, 1.1)) == 0


def test_a_resized_network_answers_in_the_given_pixels(scenes: TestScenes) -> None:
    torch.manual_seed(0)
    model = build_network(TASKS, 6, 0.5, 32).eval()
    images = Batch.of(scenes.scenes.take(np.arange(2))).images
    same, plain = Resized(model, 1).predict(images, 0.001), model.predict(images, 0.001)
    assert torch.allclose(same.boxes, plain.boxes, atol=1e-3)
    assert "segmentation" not in same.heads
    double = torch.nn.functional.interpolate(
        images, scale_factor=2, mode="bilinear", antialias=True
    )
    larger = model.predict(double, 0.001)
    assert torch.allclose(Resized(model, 2).predict(images, 0.001).boxes, larger.boxes / 2)


def test_separate_networks_have_the_parameters_of_the_shared_one() -> None:
    size = find_equal_size()
    total = sum(count_parameters(build_network(tasks, 7, *size)) for tasks in STAGES.values())
    assert total == pytest.approx(count_parameters(build_network(TASKS, 900)), rel=1e-3)


def test_width_is_kept_in_the_file(tmp_path: Path) -> None:
    model = build_network(("detection",), 1, 0.5)
    model.save(tmp_path / "narrow.safetensors")
    again = MultiTask.load(tmp_path / "narrow.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(model.eval()(images), again(images))
    assert "width" not in build_network(("detection",), 1).spec  # as it was before there was one
    with pytest.raises(ValueError, match="only small"):
        SharedBackbone("conv4", width=0.5)


# -- figures ----------------------------------------------------------------------------------


def test_score_is_the_mean_of_seven_tasks() -> None:
    best = {
        "ap50": 1.0,
        "nme": 0.0,
        "iou": 1.0,
        "pose": 0.0,
        "expression": 1.0,
        "attributes": 1.0,
        "one_shot": 1.0,
    }
    assert score_tasks(best) == 1
    assert score_tasks(best | {"pose": 15.0}) == pytest.approx(1 - 0.5 / 7)
    assert (
        score_tasks(best | {"nme": 9.0})
        == score_tasks(best | {"nme": np.nan})
        == pytest.approx(6 / 7)
    )


def test_intervals_and_paired_differences() -> None:
    def unit(variant: str, values: list[float]) -> list[dict[str, Any]]:
        return [
            {
                "variant": variant,
                "seed": i,
                "metrics": {"iou": v, "one_shot": v},
                "one_shot": [v, v],
            }
            for i, v in enumerate(values)
        ]

    units = unit("separate", [0.5, 0.6, 0.8]) + unit("fixed", [0.6, 0.8, 0.9])
    found = {d["metric"]: d for d in joint._differences(units)}
    assert found["iou"]["variant"] == "fixed" and found["iou"]["reference"] == "separate"
    each = np.array([0.1, 0.2, 0.1])
    half = stats.t.ppf(0.975, 2) * stats.sem(each)
    for name in ("iou", "one_shot"):
        assert found[name]["difference"] == pytest.approx(each.mean())
        assert found[name]["ci95"] == pytest.approx(half)


def test_what_was_not_measured_is_null_in_files_and_a_dash_on_the_page(tmp_path: Path) -> None:
    unit = {
        "variant": "fixed",
        "seed": 0,
        "parameters": 1,
        "train_seconds": 1.0,
        "images": 1,
        "iterations": 1,
        "metrics": {"iou": 0.5, "nme": np.nan},
    }
    write_json(tmp_path / "result.json", unit)
    read = joint._restore_nan(json.loads((tmp_path / "result.json").read_text()))
    assert json.loads((tmp_path / "result.json").read_text())["metrics"]["nme"] is None
    (written, again) = (joint._row([joint._restore_nan(u)]) for u in (unit, read))
    assert str(written) == str(again)
    row = plain(written)
    assert row["metrics"] == {"iou": [0.5, None], "nme": [None, None]}
    told = joint_page.tabulate(
        {"rows": [row], "speed": {"points": [{"what": "fixed", "ms": None}]}}
    )
    assert told == [
        ["", "parameters", "ms a picture", "train s", "NME %", "IoU %"],
        ["fixed", "1", "", "1", "-", "50.0"],
    ]


def test_speed_is_compared_picture_by_picture(
    scenes: TestScenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that each network moves on by its own time."""
    now = [0.0]

    class Slow(torch.nn.Module):
        heads = frozenset({"detection", "recognition"})

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds
            self.detector, self.embedding, self.crop = self, self, 112

        def predict(self, images: torch.Tensor, min_score: float = 0.3) -> Predictions:
            now[0] += self.seconds
            n = 3 if images.mean() >= 0.5 else 2  # three faces in bright pictures only
            where = torch.zeros(n, dtype=torch.int64)
            boxes = torch.ones(n, 4)
            return Predictions(
                where,
                boxes,
                torch.zeros(n, 5, 2),
                torch.full((n,), 0.4),
                {"recognition": torch.eye(n, 8)},
            )

    class SlowStaged(Slow):
        pass

    monkeypatch.setattr(timing, "Staged", SlowStaged)
    monkeypatch.setattr(timing, "_shorten", lambda model, crop: SlowStaged(model.seconds / 2))
    monkeypatch.setattr(timing, "_keep_identifying", lambda model: Slow(model.seconds / 2))
    monkeypatch.setattr(timing, "Resized", lambda model, factor: Slow(factor))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(ident, "embed_scenes", lambda *a, **k: np.eye(len(scenes.scenes.image)))
    crowd = scenes.scenes.take(np.arange(4))
    images = np.full_like(crowd.images, 255)
    images[0] = 0
    found = timing.compare_speed(
        {"separate": SlowStaged(0.3), "fixed": Slow(0.1)},
        {"separate": 0.7, "fixed": 0.8},
        replace(crowd, images=images),
        scenes,
        TINY,
        torch.device("cpu"),
        progress=False,
    )
    points = {p["what"]: p for p in found["points"]}
    assert points["fixed"]["ms"] == pytest.approx(100)
    assert points["separate: detect, crop, embed"]["ms"] == pytest.approx(150)
    assert points["fixed"]["pictures"] == 3 and points["fixed"]["one_shot"] == 0.8
    assert points["separate: detect, crop, embed"]["one_shot"] == 0.7
    assert points["fixed, pictures x 1.5"]["one_shot"] < 0.5  # measured: nobody is alike
    ratios = {(r["what"], r["reference"]): r for r in found["ratios"]}
    assert ratios["separate", "fixed"]["median"] == pytest.approx(3)
    short, alone = "separate: detect, crop, embed", "fixed: detection, alignment, recognition"
    assert ratios[short, "fixed"]["low"] == pytest.approx(1.5)
    assert ratios[short, alone]["high"] == pytest.approx(3)
    assert ("separate", alone) not in ratios


def test_fewer_heads_embed_alike(scenes: TestScenes) -> None:
    model = build_network(TASKS, 6, 0.5, 32).eval()
    alone = timing._keep_identifying(model)
    assert set(alone.heads) == {"detection", "alignment", "recognition"}
    assert list(alone.towers) == ["landmarks"]
    images = Batch.of(scenes.scenes.take(np.arange(2))).images
    a, b = model.predict(images, 0.001), alone.predict(images, 0.001)
    assert torch.equal(a.heads["recognition"], b.heads["recognition"])


def test_what_is_made_before_the_first_unit_belongs_to_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while people are drawn or weights are searched: only the same job goes on."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(joint, "_load_people", stop)
    with pytest.raises(KeyboardInterrupt):
        joint.run(TINY, tmp_path, progress=False)
    with pytest.raises(FileExistsError, match="lr was 0.004, is 0.001"):
        joint.run(replace(TINY, lr=1e-3), tmp_path, resume=True, progress=False)


def test_weights_are_those_of_the_best_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    asked: list[dict[str, float]] = []

    def train(variant: str, seed: int, settings: JointSettings, *rest: Any) -> tuple[Any, Any]:
        asked.append(settings.weights)
        return settings.weights, {}

    def measure(model: Any, part: Any, *rest: Any) -> dict[str, Any]:
        return {"metrics": {"score": -abs(model["pose"] - 3.0)}}

    monkeypatch.setattr(joint, "_train", train)
    monkeypatch.setattr(joint, "_measure", measure)
    part: Any = None
    search = (joint.check_settings(TINY), tmp_path, part, part, torch.device("cpu"), False)
    settings = replace(search[0], search=6, weights={"recognition": 0.3})
    found = joint._search(settings, *search[1:])
    assert asked[0]["recognition"] == 0.3 and asked[0]["pose"] == 1  # those of the settings first
    assert all(weights["detection"] == 1 for weights in asked)
    assert [t["weights"] for t in found] == asked
    again = joint._search(replace(settings, search=7), *search[1:])
    assert again[:6] == found and len(asked) == 7  # what was done is not done again


# -- all of it --------------------------------------------------------------------------------


@pytest.mark.usefixtures("little_refreshed")
def test_a_tiny_comparison_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 1)
    out = tmp_path / "joint"
    results = joint.run(TINY, out, progress=False)
    written = json.loads((out / "results.json").read_text())
    assert (
        set(written)
        == set(results)
        == {
            "settings",
            "machine",
            "data",
            "weights",
            "trials",
            "rows",
            "differences",
            "cosines",
            "speed",
            "notes",
        }
    )
    rows = {row["variant"]: row for row in written["rows"]}
    assert list(rows) == list(TINY.variants)
    assert set(rows["recognition-only"]["metrics"]) == {"one_shot_given"}
    wanted = {
        "ap50",
        "nme",
        "iou",
        "pose",
        "expression",
        "attributes",
        "attributes_precision",
        "attributes_recall",
        "attributes_f1",
        "one_shot",
        "one_shot_given",
        "score",
        "tar@0.1",
        "dir@0.1",
    }
    for variant in ("separate", "fixed"):
        assert wanted <= set(rows[variant]["metrics"])
    assert rows["separate"]["iterations"] == rows["fixed"]["iterations"] == 3
    assert rows["separate"]["parameters"] == pytest.approx(rows["fixed"]["parameters"], rel=1e-3)
    assert any("cosine/detection/recognition" in row for row in written["cosines"]["fixed"])
    assert {d["reference"] for d in written["differences"]} == {"separate", "recognition-only"}
    page = (out / "report.html").read_text()
    assert "<svg" in page and page.count('<img src="data:image/png') == 2 and "1-shot" in page
    groups = [set(people_of(out, name)) for name in ("train", "val", "test")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])

    with pytest.raises(FileExistsError, match="--resume"):
        joint.run(TINY, out, progress=False)
    with pytest.raises(FileExistsError, match="lr was"):
        joint.run(replace(TINY, lr=1e-3), out, resume=True, progress=False)

    (out / "fixed-seed0" / "result.json").unlink()  # as if stopped while it was measured
    trained: list[str] = []
    whole = joint.fit

    def noted(*args: Any, **options: Any) -> Any:
        trained.append(Path(options["run"].out).name)
        return whole(*args, **options)

    monkeypatch.setattr(joint, "fit", noted)
    draw_nothing(monkeypatch)  # once is enough
    kept = read_record(out / "settings.json")
    write_record(out / "settings.json", kept | {"device": "cuda"})
    again = joint.run(TINY, out, resume=True, progress=False)
    assert "device was 'cuda', is 'cpu'" in again["notes"][0]
    assert "device was" in (out / "report.html").read_text()
    assert trained == ["fixed-seed0"]
    np.testing.assert_equal(
        [row["metrics"] for row in again["rows"]], [row["metrics"] for row in results["rows"]]
    )
    unit = out / "fixed-seed0/result.json"
    unit.write_text(unit.read_text().replace('"iterations": 3', '"iterations": 4'))
    with pytest.raises(ValueError, match="fixed-seed0/result.json is damaged or was changed"):
        joint.run(TINY, out, resume=True, progress=False)


def people_of(out: Path, name: str) -> list[str]:
    with np.load(out / "pools" / f"{name}.npz", allow_pickle=False) as there:
        return [str(person) for person in there["people"]]


def test_bad_settings_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    for change, message in (
        ({"variants": ("joint",)}, "no variant 'joint'"),
        ({"weights": {"depth": 1.0}}, "depth"),
        ({"test_people": 4}, "test_people=4"),
        ({"batch": 0}, "batch=0"),
    ):
        with pytest.raises(ValueError, match=message):
            joint.run(replace(TINY, **change), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("little_refreshed")
def test_a_network_of_the_command_finds_and_names_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    command = [
        "multitask",
        "--heads",
        "detection",
        "alignment",
        "recognition",
        "--people",
        "3",
        "--photos",
        "12",
        "--size",
        "64",
        "--batch",
        "4",
        "--iterations",
        "2",
        "--device",
        "cpu",
        "--quiet",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    assert "5-way 1-shot" in capsys.readouterr().out
    assert main(command) == 2  # it is there already
    assert main([*command, "--resume"]) == 0
    file = out / "model.safetensors"
    assert isinstance(loading.load(file), JointFace)
    people = Recognizer.from_pretrained(file)
    assert people.detector is people.embedder


def test_damaged_pools_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    for data in (b"", b"noise", b"PK\x03\x04 noise"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{path} is damaged.*remove it"):
            load_sprites(path)
