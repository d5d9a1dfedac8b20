"""Corruptions, the renderer's steps, and accuracy against them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import patterns, squares, tiny
from scipy import stats

import metaface as mf
from metaface import evaluation as ev
from metaface import synthetic
from metaface.cli import main
from metaface.evaluation.degradation import _Measurement
from metaface.learners import MAML, Prototypical
from metaface.report.robustness import draw_nuisances, write_robustness

ALL = pytest.mark.parametrize("name", ev.CORRUPTIONS)


@pytest.fixture(scope="module")
def renders():
    return synthetic.render(people=6, photos=2, image_size=64, domains="frontal").images


def distance(a, b):
    return np.sqrt(((a.astype(float) - b) ** 2).mean((1, 2, 3)))


@ALL
def test_a_corruption_grows_with_its_severity(renders, name):
    worse = [ev.corrupt(renders, name, severity) for severity in range(6)]
    assert (worse[0] == renders).all() and worse[0] is not renders
    gone = np.array([distance(w, renders) for w in worse])
    assert (np.diff(gone.mean(1)) > 0).all()
    assert (np.diff(gone, axis=0) >= -0.5).all()  # of each photograph; JPEG may round back a bit
    assert all(w.dtype == np.uint8 and w.shape == renders.shape for w in worse)


@ALL
def test_a_corruption_is_a_function_of_picture_seed_and_key(renders, name):
    before = renders.copy()
    whole = ev.corrupt(renders, name, 3, seed=4)
    np.testing.assert_array_equal(renders, before)
    np.testing.assert_array_equal(whole, ev.corrupt(renders, name, 3, seed=4))
    some = np.array([7, 2])
    np.testing.assert_array_equal(
        ev.corrupt(renders[some], name, 3, seed=4, keys=some), whole[some]
    )
    drawn = name in ("shade", "noise", "block")
    other = ev.corrupt(renders, name, 3, seed=5)
    assert (whole != other).any() == drawn
    twins = ev.corrupt(np.repeat(renders[:1], 2, 0), name, 3)
    assert (twins[0] != twins[1]).any() == drawn


@ALL
def test_grey_and_oblong_pictures(name):
    grey = np.random.default_rng(0).integers(0, 256, (3, 20, 14, 1), dtype=np.uint8)
    for severity in (3, 5):
        got = ev.corrupt(grey, name, severity)
        assert got.shape == grey.shape and (got != grey).any((1, 2, 3)).all()


def test_corruptions_by_hand():
    flat = np.full((1, 50, 50, 3), 128, np.uint8)
    for name in ("blur", "resolution"):
        np.testing.assert_array_equal(ev.corrupt(flat, name, 5), flat)
    assert (ev.corrupt(flat, "dark", 2) == round(255 * (128 / 255) ** 2)).all()
    covered = ev.corrupt(0 * flat, "mask", 5)[0]
    assert (covered[:25] == 0).all() and (covered[25:] == 127).all()
    assert (ev.corrupt(0 * flat, "block", 3)[0, ..., 0] == 127).sum() == pytest.approx(400, abs=45)
    noisy = ev.corrupt(np.repeat(flat, 20, 0), "noise", 1).astype(float) - 128
    assert noisy.std() == pytest.approx(8, rel=0.02) and abs(noisy.mean()) < 0.1
    lit = ev.corrupt(flat, "shade", 5)[0, ..., 0]
    assert lit.max() == 128 and lit.min() == round(128 * 0.03)
    # blur and reduction take the fine away and leave the mean
    board = np.indices((60, 60)).sum(0)[..., None].repeat(3, 2)[None] % 2 * 255
    for name in ("blur", "resolution"):
        soft = ev.corrupt(board.astype(np.uint8), name, 2).astype(float)
        assert soft.std() < 30 and soft.mean() == pytest.approx(127.5, abs=2)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"name": "fog"}, "no corruption 'fog': choose of dark, shade"),
        ({"severity": 6}, "severity=6: give 0"),
        ({"severity": -1}, "severity=-1"),
        ({"images": np.zeros((2, 9, 9, 3))}, "uint8 \\[n, H, W, 1 or 3\\], got float64"),
        ({"images": np.zeros((2, 9, 9), np.uint8)}, "got uint8 \\[2, 9, 9\\]"),
    ],
)
def test_corrupt_refuses(change, message):
    given = {"images": np.zeros((2, 9, 9, 3), np.uint8), "name": "blur", "severity": 1}
    with pytest.raises(ValueError, match=message):
        ev.corrupt(**{**given, **change})


# ---------------------------------------------------------------- steps of the dials


@pytest.mark.parametrize("name", synthetic.STEPS)
def test_steps_differ_by_one_dial(name):
    made = list(synthetic.render_steps(name, np.array([3, 8]), 3, 32))
    assert len(made) == 6 and (made[0].person == [3, 3, 3, 8, 8, 8]).all()
    assert (made[5].images != made[0].images).any()
    changed = {
        k for k in made[0].attributes if (made[5].attributes[k] != made[0].attributes[k]).any()
    }
    own = {"light": {"light_azimuth", "light_elevation", "hardness"}}
    assert changed <= own.get(name, {name})
    turned = (made[5].pose != made[0].pose).any(0).tolist()
    assert turned == [name == "yaw", name == "pitch", name == "roll"]


def test_yaw_is_what_it_says():
    for step, made in enumerate(synthetic.render_steps("yaw", np.array([1]), 4, 16)):
        yaw = np.abs(made.pose[:, 0])
        assert (yaw <= 6).all() if step == 0 else np.allclose(yaw, 15 * step)


def test_steps_refuse():
    with pytest.raises(ValueError, match="no steps of a dial 'fog': choose of yaw"):
        synthetic.turn_dial("fog", 1)
    with pytest.raises(ValueError, match="yaw has the steps 0 to 5"):
        synthetic.turn_dial("yaw", 6)
    for name, first in (("fog", 1), ("yaw", 6)):  # not no photographs, silently
        with pytest.raises(ValueError, match="steps"):
            list(synthetic.render_steps(name, np.array([1]), 1, 16, first=first))


# ---------------------------------------------------------------- accuracy

FEW = {"ways": 4, "shots": 1, "queries": 2, "episodes": 40, "progress": False}


class Plain(Prototypical):
    """The same learner by the path of learners that adapt, photographs embedded task by task."""

    @property
    def sees_single_images(self):
        return False


@pytest.fixture(scope="module")
def learner():
    return Prototypical(tiny()).eval()


@pytest.mark.parametrize("both", [False, True])
def test_embedding_once_changes_nothing(learner, both):
    faces = patterns(12, 5)
    plain = Plain(learner.embedding)
    names = ("noise", "mask")
    got = ev.robustness(learner, faces, nuisances=names, both=both, **FEW)
    want = ev.robustness(plain, faces, nuisances=names, both=both, **FEW)
    for a, b in zip(got, want, strict=True):
        assert (a.nuisance, a.severity) == (b.nuisance, b.severity)
        np.testing.assert_allclose(a.accuracies, b.accuracies, atol=0.13)  # a near tie may flip
        assert a.accuracy == pytest.approx(b.accuracy, abs=0.004)


def test_severity_0_is_evaluate(learner):
    faces = patterns(12, 5)
    found = ev.robustness(learner, faces, nuisances=("blur", "dark"), seed=3, **FEW)
    want = ev.evaluate(learner, faces, seed=3, **FEW)
    assert [(f.nuisance, f.severity) for f in found] == [
        (n, s) for n in ("blur", "dark") for s in range(6)
    ]
    for level in found[::6]:
        np.testing.assert_allclose(level.accuracies, want.accuracies)
        assert level.drop == 0 and level.ci95 == pytest.approx(want.ci95)


def test_episodes_are_paired_and_supports_stay_clean():
    """A learner that writes down what it is shown."""
    faces = patterns(12, 5)
    seen = []

    class Spy(MAML):
        def logits(self, episodes):
            seen.append(episodes)
            return torch.zeros(*episodes.query_y.shape, episodes.ways)

    spy = Spy(tiny())
    ev.robustness(spy, faces, nuisances=("dark",), **FEW)
    clean, *worse = seen
    assert len(worse) == 5
    for severity, episodes in enumerate(worse, 1):
        assert torch.equal(episodes.query_rows, clean.query_rows)
        assert torch.equal(episodes.support, clean.support)
        want = ev.corrupt(faces.images, "dark", severity)[episodes.query_rows.flatten()]
        shown = (episodes.query.flatten(0, 1).permute(0, 2, 3, 1) * 255).round().numpy()
        np.testing.assert_array_equal(shown, want)
    for e in seen:
        assert not (e.support_rows[:, :, None] == e.query_rows[:, None]).any()
    seen.clear()
    ev.robustness(spy, faces, nuisances=("dark",), both=True, **FEW)
    assert (seen[5].support < seen[0].support + 1e-6).all()
    assert (seen[5].support < seen[0].support - 0.1).any()


def test_a_view_is_measured_as_a_set_of_its_own(learner):
    whole = patterns(14, 5)
    view = whole.of_people(range(2, 14))
    alone = mf.data.FaceSet.from_arrays(view.images, view.person - 2)
    a, b = (ev.robustness(learner, f, nuisances=("noise",), **FEW) for f in (view, alone))
    assert [x.accuracy for x in a] == [x.accuracy for x in b]


def test_accuracy_falls_and_drops_are_paired(learner):
    levels = ev.robustness(
        learner, patterns(30, 6), nuisances=("mask", "dark"), **{**FEW, "episodes": 200}
    )
    assert levels[5].drop > 2 * levels[5].drop_ci95 > 0
    last = levels[5]
    gap = last.clean - last.accuracies
    assert last.drop == pytest.approx(levels[0].accuracy - last.accuracy)
    assert last.drop_ci95 == pytest.approx(stats.t.ppf(0.975, 199) * stats.sem(gap))
    row = last.row()
    assert (row["nuisance"], row["severity"], row["strength"]) == ("mask", 5, 0.5)
    assert json.loads(json.dumps(levels[0].row()))["strength"] is None


def test_each_photograph_is_embedded_once_a_severity():
    count = 0

    class Counting(torch.nn.Module):
        def forward(self, images):
            nonlocal count
            count += len(images)
            return images.flatten(1)

    faces = patterns(12, 5)
    learner = Prototypical(Counting())
    sampler = mf.EpisodeSampler(faces, 4, 1, 2, stream="test")
    run = _Measurement(learner, sampler, 400, both=False)
    assert count == len(np.unique(run.support)) <= 60
    count = 0
    run(faces.images)
    assert count == len(run.shown) <= 60


def test_dials(learner):
    rendered = ev.RenderedFaces(lambda made: made.images, people=8, photos=3, image_size=16)
    levels = ev.dial_robustness(learner, rendered, nuisances=("yaw", "mask"), **FEW)
    assert len(levels) == 12 and levels[0].accuracies is levels[6].accuracies
    assert [x.strength for x in levels[1:6]] == list(synthetic.STEPS["yaw"])
    turned = ev.dial_robustness(learner, rendered, nuisances=("mask", "yaw"), **FEW)
    assert [x.accuracy for x in turned[6:]] == [x.accuracy for x in levels[:6]]


def test_robustness_refuses(learner):
    def images(made):
        return made.images

    with pytest.raises(ValueError, match="no corruption 'yaw'"):
        ev.robustness(learner, patterns(8, 5), nuisances=("yaw",), **FEW)
    with pytest.raises(ValueError, match="no steps of a dial 'shade'"):
        ev.dial_robustness(learner, ev.RenderedFaces(images), nuisances=("shade",), **FEW)
    with pytest.raises(ValueError, match="episodes=0"):
        ev.robustness(learner, patterns(8, 5), **{**FEW, "episodes": 0})
    with pytest.raises(ValueError, match="only 8 of 8"):
        ev.robustness(learner, patterns(8, 5), **{**FEW, "ways": 9})
    with pytest.raises(TypeError, match=r"RenderedFaces\(prepare\) in place of prepare"):
        ev.dial_robustness(learner, images, **FEW)
    with pytest.raises(TypeError, match=r"no photos= any more: write .*RenderedFaces\(prepare, "):
        ev.dial_robustness(learner, ev.RenderedFaces(images), photos=3, **FEW)
    with pytest.raises(TypeError, match=r"robustness has no device= any more: write learner.to"):
        ev.robustness(learner, patterns(8, 5), device="cpu", **FEW)


def test_page(tmp_path, learner):
    levels = ev.robustness(learner, patterns(12, 5), nuisances=("blur", "mask"), **FEW)
    rows = [level.row() for level in levels]
    write_robustness(tmp_path / "page.html", "Patterns <here>", rows, 4)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1 and "Patterns &lt;here&gt;" in page
    assert page.count("as it is</td>") == 1 and page.count("<tr><td>") == 11
    assert f"<td>{100 * levels[5].accuracy:.2f}</td>" in page
    assert len(draw_nuisances(rows[:6])) < len(draw_nuisances(rows))


# ---------------------------------------------------------------- command


def test_command(tmp_path, capsys):
    spec = mf.ModelSpec("prototypical", embedding="pixels", image_size=16)
    mf.save_model(tmp_path / "c.pt", spec.build(), spec)
    words = [
        "robustness",
        str(tmp_path / "c.pt"),
        "--people",
        "8",
        "--photos",
        "3",
        "--queries",
        "2",
        "--episodes",
        "20",
        "--quiet",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--nuisances", "blur", "jpeg"]) == 0
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [r["severity"] for r in rows] == [0, 1, 2, 3, 4, 5] * 2
    assert main([*words, "--dials", "--nuisances", "yaw"]) == 0
    assert "yaw 5:" in capsys.readouterr().out
    assert main([*words, "--nuisances", "yaw"]) == 2
    assert "no corruption 'yaw'" in capsys.readouterr().err


def test_command_of_recognition(tmp_path, monkeypatch):
    monkeypatch.setattr("metaface.recognition.embedders.loading.load", lambda *given: squares())
    words = [
        "robustness",
        "--people",
        "6",
        "--photos",
        "3",
        "--queries",
        "2",
        "--episodes",
        "10",
        "--ways",
        "3",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    assert main([*words, "--nuisances", "mask"]) == 0
    assert main([*words, "--dials", "--nuisances", "mask"]) == 0
