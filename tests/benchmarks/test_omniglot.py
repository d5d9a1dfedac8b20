"""Quarter turns, and the papers' Omniglot protocols."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny

from metaface import Episodes, EpisodeSampler, FaceSet, evaluate
from metaface.learners import MAML, Prototypical

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import omniglot


def noise(people: int = 6, photos: int = 5, size: int = 16) -> FaceSet:
    """People whose photographs are noise, so that no two look alike, however turned."""
    pixels = np.random.default_rng(0).integers(0, 256, (people * photos, size, size, 3), np.uint8)
    return FaceSet.from_arrays(pixels, np.arange(people * photos) % people)


# --- turned people


def test_rotated_makes_four_people_of_each():
    faces = noise().of_people([1, 2, 4])
    turned = faces.rotated()
    assert len(turned) == 4 * len(faces) and len(turned.person_ids) == 12
    for p in (1, 2, 4):
        upright = faces.of_people([p]).images
        for r in range(4):
            own = turned.of_people([p + 6 * r])
            assert np.array_equal(own.images, [np.rot90(image, r) for image in upright])
            assert turned.people[p + 6 * r] == (f"{p}@{90 * r}" if r else str(p))


def turn_of(upright: np.ndarray, shown: torch.Tensor) -> int:
    """By how many quarter turns ``[n, C, H, W]`` in 0..1 differs from uint8 ``[n, H, W, C]``."""
    shown = (shown.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    turns = [r for r in range(4) if np.array_equal(np.rot90(upright, r, (1, 2)), shown)]
    assert len(turns) == 1
    return turns[0]


def turns_of(faces: FaceSet, batch: Episodes) -> np.ndarray:
    """int ``[B, N]``: the turn of each person, the same in support and query."""
    upright, count = faces.images, len(faces)
    found = []
    for i in range(len(batch)):
        for y in range(batch.ways):
            sides = [
                turn_of(upright[rows[i][labels[i] == y] % count], images[i][labels[i] == y])
                for images, rows, labels in (
                    (batch.support, batch.support_rows.numpy(), batch.support_y),
                    (batch.query, batch.query_rows.numpy(), batch.query_y),
                )
            ]
            assert sides[0] == sides[1]
            found.append(sides[0])
    return np.array(found).reshape(len(batch), -1)


def test_turning_turns_each_person_of_a_task_by_its_own_draw():
    faces = noise()
    sampler = EpisodeSampler(faces.turning(), 4, 2, 2, seed=3)
    turns = turns_of(faces, sampler.batch(0, 200))
    assert np.all(np.abs(np.bincount(turns.ravel()) / turns.size - 0.25) < 0.05)
    assert len({tuple(task) for task in turns}) > 100  # of 256: people turn independently
    for rows in (sampler.batch(0, 200).support_rows, sampler.batch(0, 200).query_rows):
        assert torch.equal(
            faces_of(faces, rows), sampler.batch(0, 200).people.repeat_interleave(2, 1)
        )


def faces_of(faces: FaceSet, rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(faces.person)[rows % len(faces)]


def test_a_turned_task_is_a_pure_function_of_its_index():
    faces = noise().of_people([0, 1, 3, 5])  # of a view, too
    sampler = EpisodeSampler(faces.turning(), 3, 1, 2, seed=3)
    together = sampler.batch(5, 8)
    for i in (0, 3, 7):
        alone = EpisodeSampler(faces.turning(), 3, 1, 2, seed=3).tasks(np.array([40 + i]))
        assert torch.equal(alone.support[0], together.support[i])
        assert torch.equal(alone.query[0], together.query[i])
    assert len(np.unique(turns_of(faces, together))) == 4


def test_turning_draws_the_people_and_photographs_of_the_set_that_does_not_turn():
    faces = noise()
    upright = EpisodeSampler(faces, 4, 1, 2).batch(0, 20)
    turned = EpisodeSampler(faces.turning(), 4, 1, 2).batch(0, 20)
    assert torch.equal(upright.people, turned.people)
    assert torch.equal(upright.query_rows, turned.query_rows % len(faces))


def test_features_of_turned_photographs_are_those_of_the_photographs():
    """Evaluation embeds every photograph once: every version of it, then."""
    learner, faces = Prototypical(tiny()).eval(), noise(people=12).turning()
    batch = EpisodeSampler(faces, 5, 1, 4, stream="test").batch(0, 30)
    with torch.no_grad():
        right = (learner.logits(batch).argmax(-1) == batch.query_y).float().mean(1)
    result = evaluate(learner, faces, ways=5, shots=1, queries=4, episodes=30, progress=False)
    assert np.allclose(result.accuracies, right.numpy()) and 0 < result.accuracy < 1


@pytest.mark.parametrize("turn", [FaceSet.rotated, FaceSet.turning])
def test_only_squares_turn(turn):
    wide = FaceSet.from_arrays(np.zeros((2, 4, 6, 1), np.uint8), [0, 1], name="wide")
    with pytest.raises(ValueError, match="wide: only square pictures can be turned, got 6x4"):
        turn(wide)


# --- the protocols


def test_protocols_are_those_of_the_papers():
    def outer(name):
        t = omniglot.TRAININGS[name]
        p = t.protocol
        return (
            t.ways,
            t.shots,
            t.queries,
            t.meta_batch,
            t.iterations,
            p.optimizer,
            p.lr,
            p.schedule,
        )

    for setting, (ways, shots, batch) in {
        "5w1s": (5, 1, 32),
        "5w5s": (5, 5, 32),
        "20w1s": (20, 1, 16),
        "20w5s": (20, 5, 16),
    }.items():
        for name in (f"maml-{setting}", f"fomaml-{setting}"):
            want = (ways, shots, shots, batch, 60_000, "adam", 1e-3, "constant")
            assert outer(name) == want
            learner = omniglot.build(name)
            assert isinstance(learner, MAML) and learner.first_order == name.startswith("fo")
            steps = {5: (1, 3), 20: (5, 5)}[ways]
            assert (learner.inner_steps, learner.test_steps) == steps
            assert learner.inner_lr == learner.head_lr == {5: 5 * 0.4, 20: 20 * 0.1}[ways]
            assert learner.norm == "batch" and learner.head.out_features == ways
    for ways, (rate, steps, batch, iterations) in {
        5: (1e-3, 5, 10, 100_000),
        20: (5e-4, 10, 20, 200_000),
    }.items():
        got = outer(f"reptile-{ways}w")
        assert got[1] + got[2] == 10  # shots: Reptile trains on support and query alike
        assert (got[0], *got[3:]) == (ways, 5, iterations, "sgd", 1.0, "linear")
        learner = omniglot.build(f"reptile-{ways}w")
        assert (learner.inner_lr, learner.head_lr) == (rate, rate)
        assert (learner.inner_steps, learner.inner_batch, learner.test_steps) == (steps, batch, 50)
        assert learner.norm == "batch" and learner.head.out_features == ways
    for shots in (1, 5):
        want = (60, shots, 5, 1, 20_000, "adam", 1e-3, "halving")
        assert outer(f"protonet-{shots}s") == want
        assert omniglot.build(f"protonet-{shots}s").norm == "frozen"
    tests = [
        (p.characters, p.turned, p.tasks, p.queries)
        for p in (omniglot.FINN, omniglot.NICHOL, omniglot.VINYALS)
    ]
    assert tests == [
        ((1100, 100, 423), ("draw", "draw"), 600, None),
        ((1200, 0, 423), ("class", "never"), 10_000, 1),
        ((1200, 0, 423), ("class", "class"), 1000, 15),
    ]


def test_every_cell_has_a_training():
    assert len(omniglot.MAIN_CELLS) == 12 and len(omniglot.CELLS) == 20
    assert {omniglot.training_of(cell) for cell in omniglot.CELLS} == set(omniglot.TRAININGS)
    assert omniglot.training_of("protonet-20w1s") == "protonet-1s"
    assert omniglot.training_of("reptile-transductive-20w5s") == "reptile-20w"


def test_maml_averages_each_channel_over_its_places():
    net, images = omniglot.build("maml-5w1s").embedding, torch.rand(3, 1, 28, 28)
    places = net[0](images).unflatten(1, (64, 2, 2))
    assert torch.allclose(net(images), places.mean((2, 3)), atol=1e-6)


def test_one_query_at_a_time_is_what_each_query_alone_gives():
    learner = omniglot.build("reptile-5w")
    learner.test_steps = 3
    batch = EpisodeSampler(
        FaceSet.from_arrays(noise(8, 4, 28).store[..., :1], noise(8, 4).person), 5, 1, 2
    ).batch(0, 3)
    alone = omniglot.OneQueryAtATime(learner).eval()
    assert not alone.transductive and learner.transductive
    with torch.no_grad():
        logits = alone.logits(batch)
    for task in range(3):
        support = batch.support[task]
        classifier = learner.adapt(support, batch.support_y[task])
        for q, query in enumerate(batch.query[task]):
            want = classifier(torch.cat([support, query[None]]))[-1]
            assert torch.allclose(logits[task, q], want, atol=1e-4)


# --- the script, on the real characters


@pytest.fixture(scope="module")
def zips(test_data):
    names = ("omniglot_images_background.zip", "omniglot_images_evaluation.zip")
    return [argument for name in names for argument in ("--zip", str(test_data(name)))]


def test_characters_are_ink_on_zeros(zips):
    faces = omniglot.characters(zips[1::2])
    assert len(faces.person_ids) == 1623 and len(faces) == 20 * 1623
    seen = faces.images[::100] / 255 * 2 - 1
    assert np.abs(np.median(seen)) < 0.01 and seen.min() >= 0 and seen.max() == 1
    for protocol in (omniglot.FINN, omniglot.NICHOL, omniglot.VINYALS):
        train, test = omniglot.parts(faces, protocol)
        per = {"class": 4, "draw": 1, "never": 1}
        assert len(train.person_ids) == protocol.characters[0] * per[protocol.turned[0]]
        assert len(test.person_ids) == 423 * per[protocol.turned[1]]
        assert not {n.split("@")[0] for n in names(train)} & {n.split("@")[0] for n in names(test)}
    with pytest.raises(ValueError, match=r"964 characters, but the protocol splits 1623"):
        omniglot.parts(faces.of_people(faces.person_ids[:964]), omniglot.FINN)


def names(faces: FaceSet) -> list[str]:
    return [faces.people[p] for p in faces.person_ids]


@pytest.mark.parametrize(
    "cell",
    [
        "maml-5w1s",
        pytest.param("reptile-5w1s", marks=pytest.mark.slow),
        pytest.param("protonet-5w1s", marks=pytest.mark.slow),
    ],
)
def test_a_cell_goes_on_after_ctrl_c(cell, zips, tmp_path, monkeypatch, capsys):
    name = omniglot.training_of(cell)
    short = replace(omniglot.TRAININGS[name], iterations=4)
    monkeypatch.setitem(omniglot.TRAININGS, name, short)

    def run(folder: str) -> dict:
        arguments = ["--cells", cell, "--tasks", "6", "--quiet", "--out", str(tmp_path / folder)]
        omniglot.main(zips + arguments)
        (row,) = json.loads((tmp_path / folder / "results.json").read_text())["rows"]
        return row

    whole = run("whole")
    assert (whole["iterations"], whole["of"], whole["tasks"]) == (4, 4, 6)
    assert whole["published"] == omniglot.CELLS[cell] and "4 / 4" in capsys.readouterr().out

    learner = type(omniglot.build(name))
    step, steps = learner.meta_step, []

    def pressing_ctrl_c(self, episodes):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, episodes)

    monkeypatch.setattr(learner, "meta_step", pressing_ctrl_c)
    with pytest.raises(SystemExit, match="stopped at step 2; go on with resume"):
        run("stopped")
    resumed = run("stopped")
    assert len(steps) == 4
    timed = ("hours", "hours_for_all")
    assert {k: v for k, v in resumed.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    run("stopped")  # finished: shown, not run again
    assert len(steps) == 4
    with pytest.raises(SystemExit, match="is of another run"):
        run_minutes = ["--cells", cell, "--minutes", "1", "--out", str(tmp_path / "stopped")]
        omniglot.main(zips + run_minutes)
